// The residual block of the U-Net, forward and backward. Kept for the backward pass: the input and
// conv1's output; around an attention the block's output before it, qkv and the attention's output.
// Normed activations are computed again, and only for the gradients of weights.
#include "engine/nn/unet.h"

#include <math.h>
#include <stdio.h>

struct dr_conv dr_unet_conv(struct dr_params *ps, int64_t ci, int64_t co, int64_t k, int64_t stride,
                            double std, const char *name) {
    struct dr_conv l = {.ci = ci, .co = co, .k = k, .stride = stride, .pad = k / 2};
    l.w = dr_params_add(ps, DR_PARAM_DECAY, std > 0 ? DR_INIT_NORMAL : DR_INIT_ZERO, std, 4,
                        (int64_t[]){co, ci, k, k}, "%s.weight", name);
    l.b = dr_params_add(ps, 0, DR_INIT_ZERO, 0, 1, &co, "%s.bias", name);
    return l;
}

void dr_res_add(struct dr_params *ps, struct dr_res *k, int64_t ci, int64_t co, int64_t side,
                int64_t heads, bool attention, const char *name) {
    char full[80];
#define NAME(part) (snprintf(full, sizeof full, "%s.%s", name, part), full)
    *k = (struct dr_res){.groups = dr_cnorm_groups(co, 32), .heads = heads};
    k->skip.w = k->attn_norm.weight = -1;
    k->norm1 = dr_cnorm_add(ps, ci, 32, NAME("norm1"));
    k->conv1 = dr_unet_conv(ps, ci, co, 3, 1, 1 / sqrt(9.0 * (double)ci), NAME("conv1"));
    k->conv2 = dr_unet_conv(ps, co, co, 3, 1, 0, NAME("conv2"));
    if (ci != co)
        k->skip = dr_unet_conv(ps, ci, co, 1, 1, 1 / sqrt((double)ci), NAME("skip"));
    if (!attention)
        return;
    k->attn_norm = dr_cnorm_add(ps, co, 32, NAME("attn.norm"));
    k->qkv = dr_linear_add(ps, co, 3 * co, DR_INIT_XAVIER, 0, true, NAME("attn.qkv"));
    k->proj = dr_linear_add(ps, co, co, DR_INIT_ZERO, 0, true, NAME("attn.proj"));
    k->qkv.rows = k->proj.rows = side * side;
#undef NAME
}

// The second norm: its weights and biases are the sample's scale and shift.
static void modulate(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_res *k,
                     const struct dr_mods *m, int64_t n, const void *h, void *y,
                     struct dr_cnorm_saved *s) {
    const int64_t c = k->conv1.co;
    s->mean = dr_alloc_real(ar, m->b * k->groups);
    s->rstd = dr_alloc_real(ar, m->b * k->groups);
    DR_OP(cx->be, groupnorm_fwd, .y = y, .mean = s->mean, .rstd = s->rstd, .x = h, .t = cx->act,
          .weight = m->at + k->mod, .bias = m->at + k->mod + c, .stride = m->stride, .b = m->b,
          .n = n, .c = c, .groups = k->groups, .fn = DR_FN_SILU, .eps = (real)DR_CNORM_EPS);
}

static void modulate_backward(struct dr_ctx *cx, const struct dr_res *k, const struct dr_mods *m,
                              int64_t n, const void *h, const struct dr_cnorm_saved *s,
                              const void *dy, void *dx) {
    const int64_t c = k->conv1.co;
    DR_OP(cx->be, groupnorm_bwd, .dx = dx, .dweight = m->d + k->mod, .dbias = m->d + k->mod + c,
          .dy = dy, .x = h, .t = cx->act, .mean = s->mean, .rstd = s->rstd,
          .weight = m->at + k->mod, .bias = m->at + k->mod + c, .stride = m->stride, .b = m->b,
          .n = n, .c = c, .groups = k->groups, .fn = DR_FN_SILU);
}

static void sum(struct dr_ctx *cx, void *y, const void *x, int64_t n) {
    DR_OP(cx->be, add_act_fwd, .y = y, .a = y, .b = x, .t = cx->act, .n = n, .fn = DR_FN_NONE);
}

// y: the block's output, to which the attention is added; s->y keeps what it was.
static void attention_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                              const struct dr_res *k, int64_t b, int64_t n, void *y,
                              struct dr_res_saved *s) {
    const int64_t c = k->conv1.co, rows = b * n, hd = c / k->heads;
    s->qkv = dr_alloc_act(ar, cx, rows * 3 * c);
    s->att = dr_alloc_act(ar, cx, rows * c);
    s->y = dr_alloc_act(ar, cx, rows * c);
    void *t = dr_alloc_act(cx->tmp, cx, rows * c);
    DR_OP(cx->be, cast, .dst = s->y, .src = y, .dt = cx->act, .st = cx->act, .n = rows * c);
    dr_cnorm_forward(cx, ar, w, &k->attn_norm, NULL, b, n, y, NULL, DR_FN_NONE, t, &s->na);
    dr_linear_forward(cx, w, &k->qkv, t, cx->act, rows, s->qkv, cx->act, 0);
    DR_OP(cx->be, attn_fwd, .out = s->att, .qkv = s->qkv, .act = cx->act, .b = b, .t = n,
          .h = k->heads, .hd = hd, .scale = (real)(1 / sqrt((double)hd)), .eps = DR_RMS_EPS);
    dr_linear_forward(cx, w, &k->proj, s->att, cx->act, rows, t, cx->act, 0);
    sum(cx, y, t, rows * c);
}

void dr_res_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                    const struct dr_res *k, const struct dr_mods *m, int64_t side, void *x, void *y,
                    struct dr_res_saved *s) {
    const int64_t n = side * side, rows = m->b * n, ci = k->conv1.ci, co = k->conv1.co;
    const size_t mark = dr_mark(cx->tmp);
    s->x = x;
    s->h1 = dr_alloc_act(ar, cx, rows * co);
    void *a = dr_alloc_act(cx->tmp, cx, rows * DR_MAX(ci, co));
    dr_cnorm_forward(cx, ar, w, &k->norm1, NULL, m->b, n, x, NULL, DR_FN_SILU, a, &s->n1);
    dr_conv_forward(cx, w, &k->conv1, a, m->b, side, side, s->h1);
    modulate(cx, ar, k, m, n, s->h1, a, &s->n2);
    dr_conv_forward(cx, w, &k->conv2, a, m->b, side, side, y);
    if (k->skip.w >= 0) {
        dr_conv_forward(cx, w, &k->skip, x, m->b, side, side, a);
        x = a;
    }
    sum(cx, y, x, rows * co);
    if (k->attn_norm.weight >= 0)
        attention_forward(cx, ar, w, k, m->b, n, y, s);
    dr_release(cx->tmp, mark);
}

// dy: gradient by the output on entry, by the attention's input on return.
static void attention_backward(struct dr_ctx *cx, const struct dr_weights *w,
                               const struct dr_res *k, int64_t b, int64_t n,
                               const struct dr_res_saved *s, void *dy) {
    const int64_t c = k->conv1.co, rows = b * n, hd = c / k->heads;
    const size_t mark = dr_mark(cx->tmp);
    void *t = dr_alloc_act(cx->tmp, cx, rows * c);
    dr_linear_backward(cx, w, &k->proj, s->att, dy, cx->act, rows, 0);
    dr_linear_backward_input(cx, w, &k->proj, dy, cx->act, rows, t, cx->act, false);
    DR_OP(cx->be, attn_bwd, .dqkv = s->qkv, .dout = t, .qkv = s->qkv, .act = cx->act, .b = b,
          .t = n, .h = k->heads, .hd = hd, .scale = (real)(1 / sqrt((double)hd)),
          .eps = DR_RMS_EPS);
    if (w->g) {
        struct dr_cnorm_saved again;
        dr_cnorm_forward(cx, cx->tmp, w, &k->attn_norm, NULL, b, n, s->y, NULL, DR_FN_NONE, t,
                         &again);
        dr_linear_backward(cx, w, &k->qkv, t, s->qkv, cx->act, rows, 0);
    }
    dr_linear_backward_input(cx, w, &k->qkv, s->qkv, cx->act, rows, t, cx->act, false);
    dr_cnorm_backward(cx, w, &k->attn_norm, NULL, b, n, s->y, NULL, DR_FN_NONE, &s->na, t, t, NULL);
    sum(cx, dy, t, rows * c);
    dr_release(cx->tmp, mark);
}

void dr_res_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_res *k,
                     const struct dr_mods *m, int64_t side, const struct dr_res_saved *s, void *dy,
                     void *dx) {
    const int64_t n = side * side, rows = m->b * n, ci = k->conv1.ci, co = k->conv1.co;
    const size_t mark = dr_mark(cx->tmp);
    struct dr_cnorm_saved again;
    void *a = dr_alloc_act(cx->tmp, cx, rows * DR_MAX(ci, co));
    void *dh = dr_alloc_act(cx->tmp, cx, rows * co);
    if (k->attn_norm.weight >= 0)
        attention_backward(cx, w, k, m->b, n, s, dy);
    dr_conv_backward_input(cx, w, &k->conv2, dy, m->b, side, side, dh);
    if (w->g) {
        modulate(cx, cx->tmp, k, m, n, s->h1, a, &again);
        dr_conv_backward(cx, w, &k->conv2, a, dy, m->b, side, side);
    }
    modulate_backward(cx, k, m, n, s->h1, &s->n2, dh, dh);
    if (w->g) {
        dr_cnorm_forward(cx, cx->tmp, w, &k->norm1, NULL, m->b, n, s->x, NULL, DR_FN_SILU, a,
                         &again);
        dr_conv_backward(cx, w, &k->conv1, a, dh, m->b, side, side);
    }
    dr_conv_backward_input(cx, w, &k->conv1, dh, m->b, side, side, a);
    dr_cnorm_backward(cx, w, &k->norm1, NULL, m->b, n, s->x, NULL, DR_FN_SILU, &s->n1, a, dx, NULL);
    if (k->skip.w >= 0) {
        dr_conv_backward(cx, w, &k->skip, s->x, dy, m->b, side, side);
        dr_conv_backward_input(cx, w, &k->skip, dy, m->b, side, side, a);
        dy = a;
    }
    sum(cx, dx, dy, rows * ci);
    dr_release(cx->tmp, mark);
}
