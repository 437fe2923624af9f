// The output of the transformer (method.md 6): final adaLN norm and linear on the patch tokens,
// unpatchify, and with `head: conv` a residual 3x3-SiLU-3x3 on the image, whose last convolution
// starts at zero so that training begins without it. Convolutions run on NHWC activations.
#include "engine/nn/layers.h"

#include <math.h>

static void add_convs(struct dr_params *ps, const struct dr_model_config *m, struct dr_head *k) {
    const struct dr_conv shape = {
        .ci = m->channels, .co = m->head_width, .k = 3, .stride = 1, .pad = 1};
    const struct dr_conv back = {
        .ci = m->head_width, .co = m->channels, .k = 3, .stride = 1, .pad = 1};
    double bound = 1 / sqrt((double)(9 * m->channels)); // PyTorch's default for Conv2d
    k->conv1 = dr_conv_add(ps, shape, DR_INIT_UNIFORM, bound, "head.conv1");
    k->conv2 = dr_conv_add(ps, back, DR_INIT_ZERO, 0, "head.conv2");
}

void dr_head_add(struct dr_params *ps, const struct dr_model_config *m, struct dr_head *out) {
    struct dr_head *k = out;
    *k = (struct dr_head){.channels = m->channels,
                          .size = m->size,
                          .patch = m->patch,
                          .registers = m->registers,
                          .d = m->dim,
                          .conv1.w = -1};
    int64_t side = m->size / m->patch, values = m->channels * m->patch * m->patch;
    k->tokens = m->registers + side * side;
    k->norm = dr_params_add(ps, 0, DR_INIT_ONE, 0, 1, &m->dim, "final_layer.norm.weight");
    k->linear = dr_linear_add(ps, m->dim, values, m->out_std > 0 ? DR_INIT_NORMAL : DR_INIT_ZERO,
                              m->out_std, false, "final_layer.linear");
    k->linear.rows = side * side;
    k->linear.b =
        dr_params_add(ps, 0, DR_INIT_CONST, m->out_bias, 1, &values, "final_layer.linear.bias");
    if (m->head == DR_HEAD_CONV)
        add_convs(ps, m, k);
}

// image += conv2(silu(conv1(image)))
static void convs_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                          const struct dr_head *k, int64_t b, real *image,
                          struct dr_head_saved *s) {
    int64_t px = b * k->size * k->size;
    s->image = dr_alloc_act(ar, cx, px * k->channels);
    s->h = dr_alloc_act(ar, cx, px * k->conv1.co);
    dr_to_nhwc(cx, b, k->channels, k->size, image, s->image, cx->act);
    dr_conv_forward(cx, w, &k->conv1, s->image, b, k->size, k->size, s->h);
    size_t mark = dr_mark(cx->tmp);
    void *a = dr_alloc_act(cx->tmp, cx, px * k->conv1.co);
    void *r = dr_alloc_act(cx->tmp, cx, px * k->channels);
    DR_OP(cx->be, silu_fwd, .y = a, .x = s->h, .yt = cx->act, .xt = cx->act, .n = px * k->conv1.co);
    dr_conv_forward(cx, w, &k->conv2, a, b, k->size, k->size, r);
    dr_from_nhwc(cx, b, k->channels, k->size, r, cx->act, image, true);
    dr_release(cx->tmp, mark);
}

// dimage becomes the gradient by the image before the residual. Data before weights:
// silu_bwd also recomputes conv2's input.
static void convs_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_head *k,
                           int64_t b, const struct dr_head_saved *s, real *dimage) {
    int64_t px = b * k->size * k->size;
    size_t mark = dr_mark(cx->tmp);
    void *dr = dr_alloc_act(cx->tmp, cx, px * k->channels);
    void *a = dr_alloc_act(cx->tmp, cx, px * k->conv1.co);
    void *dh = dr_alloc_act(cx->tmp, cx, px * k->conv1.co);
    dr_to_nhwc(cx, b, k->channels, k->size, dimage, dr, cx->act);
    dr_conv_backward_input(cx, w, &k->conv2, dr, b, k->size, k->size, dh);
    DR_OP(cx->be, silu_bwd, .dx = dh, .y = a, .x = s->h, .dy = dh, .t = cx->act,
          .n = px * k->conv1.co);
    dr_conv_backward(cx, w, &k->conv2, a, dr, b, k->size, k->size);
    dr_conv_backward(cx, w, &k->conv1, s->image, dh, b, k->size, k->size);
    dr_conv_backward_input(cx, w, &k->conv1, dh, b, k->size, k->size, dr);
    dr_from_nhwc(cx, b, k->channels, k->size, dr, cx->act, dimage, true);
    dr_release(cx->tmp, mark);
}

static void norm(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_head *k, int64_t b,
                 const real *x, const real *mods, int64_t mod_stride, void *y, real *rstd) {
    DR_OP(cx->be, rmsnorm_mod_fwd, .y = y, .yt = cx->act, .rstd = rstd,
          .x = x + k->registers * k->d, .x_stride = k->tokens * k->d,
          .weight = dr_weight(w, k->norm), .shift = mods, .scale = mods + k->d,
          .mod_stride = mod_stride, .b = b, .t = k->tokens - k->registers, .d = k->d,
          .eps = DR_RMS_EPS);
}

void dr_head_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                     const struct dr_head *k, int64_t b, const real *x, const real *mods,
                     int64_t mod_stride, real *image, struct dr_head_saved *s) {
    int64_t rows = b * (k->tokens - k->registers);
    size_t mark = dr_mark(cx->tmp);
    void *n = dr_alloc_act(cx->tmp, cx, rows * k->d);
    real *out = dr_alloc_real(cx->tmp, rows * k->linear.out);
    norm(cx, w, k, b, x, mods, mod_stride, n, NULL);
    dr_linear_forward(cx, w, &k->linear, n, cx->act, rows, out, DR_F32, 0);
    DR_OP(cx->be, unpatchify, .image = image, .tokens = out, .t = DR_F32, .b = b, .c = k->channels,
          .h = k->size, .w = k->size, .p = k->patch, .hwc = true);
    dr_release(cx->tmp, mark);
    if (k->conv1.w >= 0)
        convs_forward(cx, ar, w, k, b, image, s);
}

void dr_head_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_head *k,
                      int64_t b, const real *x, const real *mods, int64_t mod_stride,
                      const struct dr_head_saved *s, const real *dimage, real *dx, real *dmods) {
    int64_t patches = k->tokens - k->registers, rows = b * patches;
    int64_t pixels = b * k->channels * k->size * k->size;
    size_t mark = dr_mark(cx->tmp);
    const real *di = dimage;
    if (k->conv1.w >= 0) {
        real *copy = dr_alloc_real(cx->tmp, pixels);
        DR_OP(cx->be, cast, .dst = copy, .src = dimage, .dt = DR_F32, .st = DR_F32, .n = pixels);
        convs_backward(cx, w, k, b, s, copy);
        di = copy;
    }
    void *dout = dr_alloc_act(cx->tmp, cx, rows * k->linear.out);
    void *n = dr_alloc_act(cx->tmp, cx, rows * k->d);
    real *rstd = dr_alloc_real(cx->tmp, rows);
    DR_OP(cx->be, patchify, .tokens = dout, .t = cx->act, .image = di, .b = b, .c = k->channels,
          .h = k->size, .w = k->size, .p = k->patch, .hwc = true);
    norm(cx, w, k, b, x, mods, mod_stride, n, rstd);
    dr_linear_backward(cx, w, &k->linear, n, dout, cx->act, rows, 0);
    dr_linear_backward_input(cx, w, &k->linear, dout, cx->act, rows, n, cx->act, false);
    if (k->registers)
        DR_OP(cx->be, fill, .dst = dx, .n = b * k->tokens * k->d, .value = 0);
    DR_OP(cx->be, rmsnorm_mod_bwd, .dx = dx + k->registers * k->d, .dweight = dr_grad(w, k->norm),
          .dshift = dmods, .dscale = dmods + k->d, .dmod_stride = mod_stride, .dy = n,
          .dyt = cx->act, .x = x + k->registers * k->d, .rstd = rstd,
          .weight = dr_weight(w, k->norm), .scale = mods + k->d, .x_stride = k->tokens * k->d,
          .mod_stride = mod_stride, .b = b, .t = patches, .d = k->d);
    dr_release(cx->tmp, mark);
}
