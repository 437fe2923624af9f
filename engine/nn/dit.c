// The transformer generators: driftdit and lightningdit (method.md 6). The blocks, the conditioning
// and the head are shared; this file has the input (patch or latent embedding, position embedding,
// register or in-context tokens) and puts the parts together.
//
// Parameter names. driftdit: those of the reference's state dict, as method.md 6 lists them.
// lightningdit (its JAX reference has no such names): patch_embed.*, pos_embed [1,P,D], cls_proj.*,
// cls_embed [1,R,D], label_embed.weight, alpha_embed.{mlp.0,mlp.2}.*, alpha_embed.norm.weight,
// style_embed.K.weight (one table per draw), blocks and final layer as in driftdit with biases
// everywhere; all matrices [out,in]. Options add latent_embed.* [P*D,L] and latent_cond.* [D,L]
// (`noise: latent`, instead of patch_embed), pos_embed (driftdit), mlp.{fc1,fc2}.* (`mlp: gelu`,
// with biases), head.{conv1,conv2}.* (`head: conv`).
//
// All modulation vectors of a sample come from one GEMM: the adaLN matrices of the blocks and of
// the final layer lie one after the other and multiply the same SiLU(c).
#include "engine/nn/layers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct dr_dit {
    struct dr_gen gen;
    const struct dr_form *form;
    struct dr_linear patch, latent, cls_proj, ada; // w -1: not there
    int registers;                                 // tokens [1,R,d], -1: none
    int pos;                                       // position embedding [1,P,d], -1: none
    int64_t patches, tokens, patch_values, hidden, mod_stride;
    struct dr_cond cond;
    struct dr_head head;
    struct dr_block *block; // [depth]
};
struct saved {
    struct dr_cond_saved cond;
    struct dr_head_saved head;
    real *c, *silu_c, *mods, *last; // [b,d] [b,d] [b,mod_stride] [b,tokens,d]
    struct dr_block_saved block[];  // [depth]
};

static const struct dr_form driftdit = {.patch_is_conv = true,
                                        .alpha_init = DR_INIT_XAVIER,
                                        .alpha_period = 10,
                                        .label = "label_embed.embedding_table.weight"};
static const struct dr_form lightningdit = {.biases = true,
                                            .style_tables = true,
                                            .class_tokens = true,
                                            .alpha_norm = true,
                                            .two_thirds = true,
                                            .alpha_init = DR_INIT_NORMAL,
                                            .alpha_period = 10000,
                                            .label = "label_embed.weight"};

// ---- layout ----

static void add_input(struct dr_params *ps, const struct dr_model_config *m, struct dr_dit *k) {
    const struct dr_form *form = k->form;
    int64_t d = m->dim;
    k->patch.w = k->latent.w = k->cls_proj.w = k->registers = k->pos = -1;
    if (m->noise == DR_NOISE_LATENT) { // Xavier for one token's share
        double bound = sqrt(6.0 / (double)(m->latent_dim + d));
        k->latent = dr_linear_add(ps, m->latent_dim, k->patches * d, DR_INIT_UNIFORM, bound, true,
                                  "latent_embed");
    } else if (!form->patch_is_conv) {
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
    if ((dr_arch_needs(m->arch) & DR_ARCH_POSITIONS) || m->pos_embed)
        k->pos =
            dr_params_add(ps, 0, DR_INIT_SINCOS, 0, 3, (int64_t[]){1, k->patches, d}, "pos_embed");
    if (!m->registers)
        return;
    k->registers = dr_params_add(ps, 0, DR_INIT_NORMAL, 0.02, 3, (int64_t[]){1, m->registers, d},
                                 "%s", form->class_tokens ? "cls_embed" : "register_tokens");
    if (form->class_tokens)
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

static int64_t hidden_width(const struct dr_model_config *m, const struct dr_form *form) {
    int64_t full = (int64_t)((double)m->dim * m->mlp_ratio);
    if (!form->two_thirds || m->mlp == DR_MLP_GELU)
        return full;
    return ((int64_t)(2.0 / 3.0 * (double)full) + 31) / 32 * 32;
}

// RoPE angles: cos [tokens, hd/2], then sin.
static int64_t table_reals(const struct dr_dit *k) {
    const struct dr_model_config *m = &k->gen.cfg;
    return m->rope ? k->tokens * (m->dim / m->heads) : 0;
}

static void lay_out(struct dr_dit *k) {
    const struct dr_model_config *m = &k->gen.cfg;
    struct dr_params *ps = &k->gen.net.params;
    add_input(ps, m, k);
    dr_cond_add(ps, m, k->form, m->noise == DR_NOISE_LATENT, &k->cond);
    for (int64_t i = 0; i < m->depth; i++)
        dr_block_add(ps, m, k->form, k->hidden, (int)i, &k->block[i]);
    add_ada(ps, m, k);
    dr_head_add(ps, m, &k->head);
}

static int build(struct dr_net *net, const struct dr_form *form, struct dr_err *err) {
    struct dr_dit *k = (struct dr_dit *)net;
    const struct dr_model_config *m = &k->gen.cfg;
    k->form = form;
    k->hidden = hidden_width(m, form);
    if (k->hidden < 1)
        return dr_fail_at(err, DR_ECONFIG, "model.mlp_ratio",
                          "model.mlp_ratio %g leaves no hidden width at model.dim %lld",
                          m->mlp_ratio, (long long)m->dim);
    k->block = calloc((size_t)m->depth + 1, sizeof *k->block);
    if (!k->block)
        return dr_fail(err, DR_ENOMEM, "out of memory for %lld blocks", (long long)m->depth);
    k->patches = (m->size / m->patch) * (m->size / m->patch);
    k->tokens = k->patches + m->registers;
    k->patch_values = m->channels * m->patch * m->patch;
    k->mod_stride = (6 * m->depth + 2) * m->dim;
    lay_out(k);
    net->outputs = 1;
    net->output[0] = (struct dr_net_shape){m->channels, m->size, m->size};
    strcpy(net->output_name[0], "image");
    net->input = dr_gen_noise_of(m);
    net->tables = table_reals(k);
    net->saved_bytes = sizeof(struct saved) + (size_t)m->depth * sizeof(struct dr_block_saved);
    return 0;
}

static int build_driftdit(struct dr_net *net, struct dr_err *err) {
    return build(net, &driftdit, err);
}

static int build_lightningdit(struct dr_net *net, struct dr_err *err) {
    return build(net, &lightningdit, err);
}

static void clear(struct dr_net *net) {
    free(((struct dr_dit *)net)->block);
}

// Position p, frequency 10000^(-2i/hd).
static void fill_tables(const struct dr_net *net, real *host) {
    const struct dr_dit *k = (const struct dr_dit *)net;
    int64_t half = k->gen.cfg.dim / k->gen.cfg.heads / 2;
    for (int64_t t = 0; t < k->tokens; t++)
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)t * pow(10000, -(double)i / (double)half);
            host[t * half + i] = (real)cos(angle);
            host[(k->tokens + t) * half + i] = (real)sin(angle);
        }
}

// ---- input tokens ----

// Copies (or adds) rows of d reals: dst[b, r, :] = src[b, r, :], with strides in elements.
static void rows_copy(struct dr_ctx *cx, void *dst, enum dr_dtype dt, int64_t dsb, const real *src,
                      int64_t ssb, int64_t ssr, int64_t b, int64_t r, int64_t d, bool acc) {
    DR_OP(cx->be, copy4, .dst = dst, .src = src, .dt = dt, .st = DR_F32, .dim = {1, b, r, d},
          .dstride = {0, dsb, d, 1}, .sstride = {0, ssb, ssr, 1}, .acc = acc);
}

static void patches_in(struct dr_ctx *cx, const struct dr_dit *k, const struct dr_net_in *in,
                       void *tokens) {
    const struct dr_model_config *m = &k->gen.cfg;
    DR_OP(cx->be, patchify, .tokens = tokens, .t = cx->act, .image = in->x, .b = in->b,
          .c = m->channels, .h = m->size, .w = m->size, .p = m->patch,
          .hwc = !k->form->patch_is_conv);
}

static void patch_tokens_forward(struct dr_ctx *cx, const struct dr_dit *k,
                                 const struct dr_weights *w, const struct dr_net_in *in, real *x) {
    const struct dr_model_config *m = &k->gen.cfg;
    int64_t d = m->dim, r = m->registers, stride = k->tokens * d, rows = in->b * k->patches;
    real *xp = x + r * d;
    if (k->latent.w >= 0) {
        dr_linear_forward(cx, w, &k->latent, in->x, DR_F32, in->b, xp, DR_F32, stride);
        return;
    }
    size_t mark = dr_mark(cx->tmp);
    void *tokens = dr_alloc_act(cx->tmp, cx, rows * k->patch_values);
    real *y = r ? dr_alloc_real(cx->tmp, rows * d) : x;
    patches_in(cx, k, in, tokens);
    dr_linear_forward(cx, w, &k->patch, tokens, cx->act, rows, y, DR_F32, 0);
    if (r)
        rows_copy(cx, xp, DR_F32, stride, y, k->patches * d, d, in->b, k->patches, d, false);
    dr_release(cx->tmp, mark);
}

static void tokens_forward(struct dr_ctx *cx, const struct dr_dit *k, const struct dr_weights *w,
                           const struct dr_net_in *in, const real *c, real *x) {
    int64_t d = k->gen.cfg.dim, r = k->gen.cfg.registers, stride = k->tokens * d;
    patch_tokens_forward(cx, k, w, in, x);
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

// dx: gradient by the tokens [b,tokens,d]. dnoise: overwritten, NULL: not wanted.
static void latent_backward(struct dr_ctx *cx, const struct dr_dit *k, const struct dr_weights *w,
                            const struct dr_net_in *in, const real *dx, real *dnoise) {
    int64_t d = k->gen.cfg.dim, stride = k->tokens * d, row = k->patches * d;
    const real *dp = dx + k->gen.cfg.registers * d;
    dr_linear_backward(cx, w, &k->latent, in->x, dp, DR_F32, in->b, stride);
    if (!dnoise)
        return;
    size_t mark = dr_mark(cx->tmp);
    real *copy = dr_alloc_real(cx->tmp, in->b * row);
    rows_copy(cx, copy, DR_F32, row, dp, stride, d, in->b, k->patches, d, false);
    dr_linear_backward_input(cx, w, &k->latent, copy, DR_F32, in->b, dnoise, DR_F32, false);
    dr_release(cx->tmp, mark);
}

static void patches_backward(struct dr_ctx *cx, const struct dr_dit *k, const struct dr_weights *w,
                             const struct dr_net_in *in, const real *dx, real *dnoise) {
    const struct dr_model_config *m = &k->gen.cfg;
    int64_t d = m->dim, r = m->registers, stride = k->tokens * d, rows = in->b * k->patches;
    size_t mark = dr_mark(cx->tmp);
    void *tokens = dr_alloc_act(cx->tmp, cx, rows * k->patch_values);
    patches_in(cx, k, in, tokens);
    const void *dy = dx;
    if (r || cx->act != DR_F32) {
        void *copy = dr_alloc_act(cx->tmp, cx, rows * d);
        rows_copy(cx, copy, cx->act, k->patches * d, dx + r * d, stride, d, in->b, k->patches, d,
                  false);
        dy = copy;
    }
    dr_linear_backward(cx, w, &k->patch, tokens, dy, cx->act, rows, 0);
    if (dnoise) {
        dr_linear_backward_input(cx, w, &k->patch, dy, cx->act, rows, tokens, cx->act, false);
        DR_OP(cx->be, unpatchify, .image = dnoise, .tokens = tokens, .t = cx->act, .b = in->b,
              .c = m->channels, .h = m->size, .w = m->size, .p = m->patch,
              .hwc = !k->form->patch_is_conv);
    }
    dr_release(cx->tmp, mark);
}

// Through the in-context tokens to the condition: dc accumulates.
static void class_tokens_backward(struct dr_ctx *cx, const struct dr_dit *k,
                                  const struct dr_weights *w, int64_t b, const real *c,
                                  const real *dx, real *dc) {
    int64_t d = k->gen.cfg.dim, stride = k->tokens * d;
    size_t mark = dr_mark(cx->tmp);
    real *dy = dr_alloc_real(cx->tmp, b * d);
    for (int64_t i = 0; i < b; i++)
        DR_OP(cx->be, colsum, .out = dy + i * d, .x = dx + i * stride, .m = k->gen.cfg.registers,
              .n = d);
    dr_linear_backward(cx, w, &k->cls_proj, c, dy, DR_F32, b, 0);
    dr_linear_backward_input(cx, w, &k->cls_proj, dy, DR_F32, b, dc, DR_F32, true);
    dr_release(cx->tmp, mark);
}

static void tokens_backward(struct dr_ctx *cx, const struct dr_dit *k, const struct dr_weights *w,
                            const struct dr_net_in *in, const real *c, const real *dx, real *dc,
                            real *dnoise) {
    int64_t d = k->gen.cfg.dim, r = k->gen.cfg.registers, stride = k->tokens * d;
    if (!w->g && !dnoise)
        return;
    if (k->latent.w >= 0)
        latent_backward(cx, k, w, in, dx, dnoise);
    else
        patches_backward(cx, k, w, in, dx, dnoise);
    if (k->pos >= 0 && w->g)
        DR_OP(cx->be, colsum, .out = dr_grad(w, k->pos), .x = dx + r * d, .m = in->b,
              .n = k->patches * d, .ld = stride, .acc = true);
    if (r && w->g)
        DR_OP(cx->be, colsum, .out = dr_grad(w, k->registers), .x = dx, .m = in->b, .n = r * d,
              .ld = stride, .acc = true);
    if (k->cls_proj.w >= 0)
        class_tokens_backward(cx, k, w, in->b, c, dx, dc);
}

// ---- the whole ----

static struct dr_block_shape block_shape(const struct dr_dit *k, const struct dr_net_in *in) {
    const struct dr_model_config *m = &k->gen.cfg;
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

static void forward(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                    const struct dr_net_in *in, real *const y[], void *saved) {
    const struct dr_dit *k = (const struct dr_dit *)net;
    struct saved local = {0}, *s = saved ? saved : &local;
    struct dr_arena *ar = saved ? cx->keep : cx->tmp;
    int64_t d = k->gen.cfg.dim, n = in->b * d;
    size_t mark = dr_mark(cx->tmp);
    s->c = dr_alloc_real(ar, n);
    s->silu_c = dr_alloc_real(ar, n);
    s->mods = dr_alloc_real(ar, in->b * k->mod_stride);
    dr_cond_forward(cx, ar, w, &k->cond, in, s->c, &s->cond);
    DR_OP(cx->be, silu_fwd, .y = s->silu_c, .x = s->c, .n = n);
    dr_linear_forward(cx, w, &k->ada, s->silu_c, DR_F32, in->b, s->mods, DR_F32, 0);

    real *x = dr_alloc_real(ar, n * k->tokens);
    tokens_forward(cx, k, w, in, s->c, x);
    struct dr_block_shape sh = block_shape(k, in);
    for (int64_t i = 0; i < k->gen.cfg.depth; i++) {
        struct dr_block_saved scratch, *bs = saved ? &s->block[i] : &scratch;
        real *out = saved ? dr_alloc_real(ar, n * k->tokens) : x;
        size_t inner = dr_mark(cx->tmp);
        dr_block_forward(cx, ar, w, &k->block[i], &sh, s->mods + 6 * i * d, x, out, bs);
        dr_release(cx->tmp, inner);
        x = out;
    }
    s->last = x;
    dr_head_forward(cx, ar, w, &k->head, in->b, x, s->mods + 6 * k->gen.cfg.depth * d,
                    k->mod_stride, y[0], &s->head);
    dr_release(cx->tmp, mark);
}

static void backward(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                     const struct dr_net_in *in, void *saved, const real *const dy[],
                     real *dnoise) {
    const struct dr_dit *k = (const struct dr_dit *)net;
    const struct saved *s = saved;
    int64_t d = k->gen.cfg.dim, n = in->b * d, last = 6 * k->gen.cfg.depth * d;
    size_t mark = dr_mark(cx->tmp);
    real *dmods = dr_alloc_real(cx->tmp, in->b * k->mod_stride);
    real *dx = dr_alloc_real(cx->tmp, n * k->tokens);
    dr_head_backward(cx, w, &k->head, in->b, s->last, s->mods + last, k->mod_stride, &s->head,
                     dy[0], dx, dmods + last);
    struct dr_block_shape sh = block_shape(k, in);
    for (int64_t i = k->gen.cfg.depth - 1; i >= 0; i--)
        dr_block_backward(cx, w, &k->block[i], &sh, s->mods + 6 * i * d, &s->block[i], dx,
                          dmods + 6 * i * d);
    real *dc = dr_alloc_real(cx->tmp, n);
    dr_linear_backward(cx, w, &k->ada, s->silu_c, dmods, DR_F32, in->b, 0);
    dr_linear_backward_input(cx, w, &k->ada, dmods, DR_F32, in->b, dc, DR_F32, false);
    DR_OP(cx->be, silu_bwd, .dx = dc, .x = s->c, .dy = dc, .n = n);
    tokens_backward(cx, k, w, in, s->c, dx, dc, dnoise);
    dr_cond_backward(cx, w, &k->cond, in, &s->cond, dc, dnoise, true);
    dr_release(cx->tmp, mark);
}

const struct dr_net_type dr_net_driftdit = {.name = "driftdit",
                                            .kind = DR_NET_GENERATOR,
                                            .anchor = "alpha_embed.mlp.0.weight",
                                            .size = sizeof(struct dr_dit),
                                            .parse = dr_gen_parse,
                                            .build = build_driftdit,
                                            .clear = clear,
                                            .describe = dr_gen_describe,
                                            .fill = fill_tables,
                                            .forward = forward,
                                            .backward = backward};
const struct dr_net_type dr_net_lightningdit = {.name = "lightningdit",
                                                .kind = DR_NET_GENERATOR,
                                                .anchor = "alpha_embed.mlp.0.weight",
                                                .size = sizeof(struct dr_dit),
                                                .parse = dr_gen_parse,
                                                .build = build_lightningdit,
                                                .clear = clear,
                                                .describe = dr_gen_describe,
                                                .fill = fill_tables,
                                                .forward = forward,
                                                .backward = backward};
