// The transformer generators: driftdit and lightningdit (method.md 6). The blocks, the conditioning
// and the head are shared; this file owns what goes in: patch or latent embedding, position
// embedding, register or in-context tokens, and the order of everything.
//
// All modulation vectors of a sample come from one GEMM: the adaLN matrices of the blocks and of
// the final layer lie one after the other and multiply the same SiLU(c).
#include "engine/nn/layers.h"

#include <math.h>
#include <stdlib.h>

// ---- layout
// -----------------------------------------------------------------------------------------

static void add_input(struct dr_params *ps, const struct dr_model_config *m, struct dr_dit *k) {
    int64_t d = m->dim;
    bool light = m->arch == DR_ARCH_LIGHTNINGDIT;
    k->patch.w = k->latent.w = k->cls_proj.w = k->registers = k->pos = -1;
    if (m->noise == DR_NOISE_LATENT) { // Xavier as one token sees it
        double bound = sqrt(6.0 / (double)(m->latent_dim + d));
        k->latent = dr_linear_add(ps, m->latent_dim, k->patches * d, DR_INIT_UNIFORM, bound, true,
                                  "latent_embed");
    } else if (light) {
        k->patch = dr_linear_add(ps, k->patch_values, d, DR_INIT_XAVIER, 0, true, "patch_embed");
        k->patch.rows = k->patches;
    } else { // a Conv2d in the reference, with its shape and PyTorch's default bounds
        double bound = 1 / sqrt((double)k->patch_values);
        k->patch = (struct dr_linear){.in = k->patch_values, .out = d, .rows = k->patches};
        k->patch.w = dr_params_add(ps, DR_PARAM_DECAY, DR_INIT_UNIFORM, bound, 4,
                                   (int64_t[]){d, m->channels, m->patch, m->patch},
                                   "patch_embed.proj.weight");
        k->patch.b = dr_params_add(ps, 0, DR_INIT_UNIFORM, bound, 1, &d, "patch_embed.proj.bias");
    }
    if (light || m->pos_embed)
        k->pos =
            dr_params_add(ps, 0, DR_INIT_SINCOS, 0, 3, (int64_t[]){1, k->patches, d}, "pos_embed");
    if (!m->registers)
        return;
    k->registers = dr_params_add(ps, 0, DR_INIT_NORMAL, 0.02, 3, (int64_t[]){1, m->registers, d},
                                 "%s", light ? "cls_embed" : "register_tokens");
    if (light)
        k->cls_proj = dr_linear_add(ps, d, d, DR_INIT_XAVIER, 0, true, "cls_proj");
}

static int add_ada_part(struct dr_params *ps, const struct dr_model_config *m, int64_t i,
                        bool bias) {
    int64_t d = m->dim, rows = i < m->depth ? 6 * d : 2 * d;
    unsigned flags = (bias ? 0 : DR_PARAM_DECAY) | (i ? DR_PARAM_JOIN : 0);
    const char *tail = bias ? "bias" : "weight";
    if (i < m->depth)
        return dr_params_add(ps, flags, DR_INIT_ZERO, 0, bias ? 1 : 2, (int64_t[]){rows, d},
                             "blocks.%d.adaLN_modulation.1.%s", (int)i, tail);
    return dr_params_add(ps, flags, DR_INIT_ZERO, 0, bias ? 1 : 2, (int64_t[]){rows, d},
                         "final_layer.adaLN_modulation.1.%s", tail);
}

static void add_ada(struct dr_params *ps, const struct dr_model_config *m, struct dr_dit *k) {
    k->ada = (struct dr_linear){.in = m->dim, .out = k->mod_stride, .rows = 1};
    for (int64_t i = 0; i <= m->depth; i++) {
        int p = add_ada_part(ps, m, i, false);
        k->ada.w = i ? k->ada.w : p;
    }
    for (int64_t i = 0; i <= m->depth; i++) {
        int p = add_ada_part(ps, m, i, true);
        k->ada.b = i ? k->ada.b : p;
    }
}

static int64_t hidden_width(const struct dr_model_config *m) {
    int64_t full = (int64_t)((double)m->dim * m->mlp_ratio);
    if (m->arch != DR_ARCH_LIGHTNINGDIT || m->mlp == DR_MLP_GELU)
        return full;
    return ((int64_t)(2.0 / 3.0 * (double)full) + 31) / 32 * 32;
}

static int check(const struct dr_model_config *m, struct dr_err *err) {
    if (m->heads < 1 || m->dim % m->heads)
        return dr_fail(err, DR_ECONFIG, "model.heads %lld does not divide model.dim %lld",
                       (long long)m->heads, (long long)m->dim);
    if (m->rope && m->dim / m->heads % 2)
        return dr_fail(err, DR_ECONFIG,
                       "model.rope needs an even width per head; model.dim %lld over model.heads "
                       "%lld gives %lld",
                       (long long)m->dim, (long long)m->heads, (long long)(m->dim / m->heads));
    if (m->patch < 1 || m->size % m->patch)
        return dr_fail(err, DR_ECONFIG, "model.patch %lld does not divide data.size %lld",
                       (long long)m->patch, (long long)m->size);
    if ((m->pos_embed || m->arch == DR_ARCH_LIGHTNINGDIT) && m->dim % 4)
        return dr_fail(err, DR_ECONFIG,
                       "model.dim %lld must be a multiple of 4 for the sin-cos position embedding",
                       (long long)m->dim);
    if (hidden_width(m) < 1)
        return dr_fail(err, DR_ECONFIG,
                       "model.mlp_ratio %g leaves no hidden width at model.dim %lld", m->mlp_ratio,
                       (long long)m->dim);
    return 0;
}

int dr_dit_build(struct dr_gen *g, struct dr_err *err) {
    const struct dr_model_config *m = &g->cfg;
    struct dr_dit *k = &g->dit;
    int rc = check(m, err);
    if (rc)
        return rc;
    k->block = calloc((size_t)m->depth + 1, sizeof *k->block);
    if (!k->block)
        return dr_fail(err, DR_ENOMEM, "out of memory for %lld blocks", (long long)m->depth);
    k->patches = (m->size / m->patch) * (m->size / m->patch);
    k->tokens = k->patches + m->registers;
    k->patch_values = m->channels * m->patch * m->patch;
    k->hidden = hidden_width(m);
    k->mod_stride = (6 * m->depth + 2) * m->dim;
    k->hwc = m->arch == DR_ARCH_LIGHTNINGDIT;
    add_input(&g->params, m, k);
    dr_cond_add(&g->params, m, m->noise == DR_NOISE_LATENT, &k->cond);
    for (int64_t i = 0; i < m->depth; i++)
        dr_block_add(&g->params, m, k->hidden, (int)i, &k->block[i]);
    add_ada(&g->params, m, k);
    dr_head_add(&g->params, m, &k->head);
    return 0;
}

// ---- input tokens
// -----------------------------------------------------------------------------------

// Copies (or adds) rows of d reals: dst[b, r, :] = src[b, r, :], with strides in elements.
static void rows_copy(struct dr_ctx *cx, void *dst, enum dr_dtype dt, int64_t dsb, const real *src,
                      int64_t ssb, int64_t ssr, int64_t b, int64_t r, int64_t d, bool acc) {
    DR_OP(cx->be, copy4, .dst = dst, .src = src, .dt = dt, .st = DR_F32, .dim = {1, b, r, d},
          .dstride = {0, dsb, d, 1}, .sstride = {0, ssb, ssr, 1}, .acc = acc);
}

static void patches_in(struct dr_ctx *cx, const struct dr_gen *g, const struct dr_gen_in *in,
                       void *tokens) {
    const struct dr_model_config *m = &g->cfg;
    DR_OP(cx->be, patchify, .tokens = tokens, .t = cx->act, .image = in->noise, .b = in->b,
          .c = m->channels, .h = m->size, .w = m->size, .p = m->patch, .hwc = g->dit.hwc);
}

static void patch_tokens_forward(struct dr_ctx *cx, const struct dr_gen *g,
                                 const struct dr_weights *w, const struct dr_gen_in *in, real *x) {
    const struct dr_dit *k = &g->dit;
    int64_t d = g->cfg.dim, r = g->cfg.registers, stride = k->tokens * d, rows = in->b * k->patches;
    real *xp = x + r * d;
    if (k->latent.w >= 0) {
        dr_linear_forward(cx, w, &k->latent, in->noise, DR_F32, in->b, xp, DR_F32, stride);
        return;
    }
    size_t mark = dr_mark(cx->tmp);
    void *tokens = dr_alloc_act(cx->tmp, cx, rows * k->patch_values);
    real *y = r ? dr_alloc_real(cx->tmp, rows * d) : x;
    patches_in(cx, g, in, tokens);
    dr_linear_forward(cx, w, &k->patch, tokens, cx->act, rows, y, DR_F32, 0);
    if (r)
        rows_copy(cx, xp, DR_F32, stride, y, k->patches * d, d, in->b, k->patches, d, false);
    dr_release(cx->tmp, mark);
}

static void tokens_forward(struct dr_ctx *cx, const struct dr_gen *g, const struct dr_weights *w,
                           const struct dr_gen_in *in, const real *c, real *x) {
    const struct dr_dit *k = &g->dit;
    int64_t d = g->cfg.dim, r = g->cfg.registers, stride = k->tokens * d;
    patch_tokens_forward(cx, g, w, in, x);
    if (k->pos >= 0)
        rows_copy(cx, x + r * d, DR_F32, stride, dr_weight(w, k->pos), 0, d, in->b, k->patches, d,
                  true);
    if (!r)
        return;
    rows_copy(cx, x, DR_F32, stride, dr_weight(w, k->registers), 0, d, in->b, r, d, false);
    if (k->cls_proj.w < 0)
        return;
    size_t mark = dr_mark(cx->tmp);
    real *y = dr_alloc_real(cx->tmp, in->b * d);
    dr_linear_forward(cx, w, &k->cls_proj, c, DR_F32, in->b, y, DR_F32, 0);
    rows_copy(cx, x, DR_F32, stride, y, d, 0, in->b, r, d, true);
    dr_release(cx->tmp, mark);
}

static void patch_tokens_backward(struct dr_ctx *cx, const struct dr_gen *g,
                                  const struct dr_weights *w, const struct dr_gen_in *in,
                                  const real *dx) {
    const struct dr_dit *k = &g->dit;
    int64_t d = g->cfg.dim, r = g->cfg.registers, stride = k->tokens * d, rows = in->b * k->patches;
    const real *dp = dx + r * d;
    if (k->latent.w >= 0) {
        dr_linear_backward(cx, w, &k->latent, in->noise, dp, DR_F32, in->b, stride);
        return;
    }
    size_t mark = dr_mark(cx->tmp);
    void *tokens = dr_alloc_act(cx->tmp, cx, rows * k->patch_values);
    patches_in(cx, g, in, tokens);
    const void *dy = dx;
    if (r || cx->act != DR_F32) {
        void *copy = dr_alloc_act(cx->tmp, cx, rows * d);
        rows_copy(cx, copy, cx->act, k->patches * d, dp, stride, d, in->b, k->patches, d, false);
        dy = copy;
    }
    dr_linear_backward(cx, w, &k->patch, tokens, dy, cx->act, rows, 0);
    dr_release(cx->tmp, mark);
}

// dc accumulates what flows through the in-context tokens.
static void tokens_backward(struct dr_ctx *cx, const struct dr_gen *g, const struct dr_weights *w,
                            const struct dr_gen_in *in, const real *c, const real *dx, real *dc) {
    const struct dr_dit *k = &g->dit;
    int64_t d = g->cfg.dim, r = g->cfg.registers, stride = k->tokens * d;
    if (!w->g)
        return;
    patch_tokens_backward(cx, g, w, in, dx);
    if (k->pos >= 0)
        DR_OP(cx->be, colsum, .out = dr_grad(w, k->pos), .x = dx + r * d, .m = in->b,
              .n = k->patches * d, .ld = stride, .acc = true);
    if (!r)
        return;
    DR_OP(cx->be, colsum, .out = dr_grad(w, k->registers), .x = dx, .m = in->b, .n = r * d,
          .ld = stride, .acc = true);
    if (k->cls_proj.w < 0)
        return;
    size_t mark = dr_mark(cx->tmp);
    real *dy = dr_alloc_real(cx->tmp, in->b * d);
    for (int64_t i = 0; i < in->b; i++)
        DR_OP(cx->be, colsum, .out = dy + i * d, .x = dx + i * stride, .m = r, .n = d);
    dr_linear_backward(cx, w, &k->cls_proj, c, dy, DR_F32, in->b, 0);
    dr_linear_backward_input(cx, w, &k->cls_proj, dy, DR_F32, in->b, dc, DR_F32, true);
    dr_release(cx->tmp, mark);
}

// ---- the whole
// --------------------------------------------------------------------------------------

static struct dr_block_shape block_shape(const struct dr_gen *g, const struct dr_gen_in *in) {
    const struct dr_model_config *m = &g->cfg;
    const struct dr_dit *k = &g->dit;
    int64_t half = m->dim / m->heads / 2;
    return (struct dr_block_shape){.b = in->b,
                                   .t = k->tokens,
                                   .d = m->dim,
                                   .heads = m->heads,
                                   .hidden = k->hidden,
                                   .mod_stride = k->mod_stride,
                                   .gelu = m->mlp == DR_MLP_GELU,
                                   .rope_cos = m->rope ? in->tables : NULL,
                                   .rope_sin = m->rope ? in->tables + k->tokens * half : NULL};
}

void dr_dit_forward(struct dr_ctx *cx, const struct dr_gen *g, const struct dr_weights *w,
                    const struct dr_gen_in *in, real *image, struct dr_gen_saved *saved) {
    const struct dr_dit *k = &g->dit;
    struct dr_gen_saved local = {0}, *s = saved ? saved : &local;
    struct dr_arena *ar = saved ? cx->keep : cx->tmp;
    int64_t d = g->cfg.dim, n = in->b * d;
    size_t mark = dr_mark(cx->tmp);
    s->c = dr_alloc_real(ar, n);
    s->silu_c = dr_alloc_real(ar, n);
    s->mods = dr_alloc_real(ar, in->b * k->mod_stride);
    dr_cond_forward(cx, ar, w, &k->cond, in, s->c, &s->cond);
    DR_OP(cx->be, silu_fwd, .y = s->silu_c, .x = s->c, .n = n);
    dr_linear_forward(cx, w, &k->ada, s->silu_c, DR_F32, in->b, s->mods, DR_F32, 0);

    real *x = dr_alloc_real(ar, n * k->tokens);
    tokens_forward(cx, g, w, in, s->c, x);
    struct dr_block_shape sh = block_shape(g, in);
    for (int64_t i = 0; i < g->cfg.depth; i++) {
        struct dr_block_saved scratch, *bs = saved ? &s->block[i] : &scratch;
        real *out = saved ? dr_alloc_real(ar, n * k->tokens) : x;
        size_t inner = dr_mark(cx->tmp);
        dr_block_forward(cx, ar, w, &k->block[i], &sh, s->mods + 6 * i * d, x, out, bs);
        dr_release(cx->tmp, inner);
        x = out;
    }
    s->last = x;
    dr_head_forward(cx, ar, w, &k->head, in->b, x, s->mods + 6 * g->cfg.depth * d, k->mod_stride,
                    image, &s->head);
    dr_release(cx->tmp, mark);
}

void dr_dit_backward(struct dr_ctx *cx, const struct dr_gen *g, const struct dr_weights *w,
                     const struct dr_gen_in *in, const struct dr_gen_saved *s, const real *dimage) {
    const struct dr_dit *k = &g->dit;
    int64_t d = g->cfg.dim, n = in->b * d, last = 6 * g->cfg.depth * d;
    size_t mark = dr_mark(cx->tmp);
    real *dmods = dr_alloc_real(cx->tmp, in->b * k->mod_stride);
    real *dx = dr_alloc_real(cx->tmp, n * k->tokens);
    dr_head_backward(cx, w, &k->head, in->b, s->last, s->mods + last, k->mod_stride, &s->head,
                     dimage, dx, dmods + last);
    struct dr_block_shape sh = block_shape(g, in);
    for (int64_t i = g->cfg.depth - 1; i >= 0; i--)
        dr_block_backward(cx, w, &k->block[i], &sh, s->mods + 6 * i * d, &s->block[i], dx,
                          dmods + 6 * i * d);
    real *dc = dr_alloc_real(cx->tmp, n);
    dr_linear_backward(cx, w, &k->ada, s->silu_c, dmods, DR_F32, in->b, 0);
    dr_linear_backward_input(cx, w, &k->ada, dmods, DR_F32, in->b, dc, DR_F32, false);
    DR_OP(cx->be, silu_bwd, .dx = dc, .x = s->c, .dy = dc, .n = n);
    tokens_backward(cx, g, w, in, s->c, dx, dc);
    dr_cond_backward(cx, w, &k->cond, in, &s->cond, dc);
    dr_release(cx->tmp, mark);
}
