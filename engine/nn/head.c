// The way out of the transformer (method.md 6): final adaLN norm and linear on the patch tokens,
// unpatchify, and with `head: conv` a residual 3x3-SiLU-3x3 on the image, whose last convolution
// starts at zero so that training begins without it. Convolutions run on NHWC activations.
#include "engine/nn/layers.h"

#include <math.h>

static void add_convs(struct dr_params *ps, const struct dr_model_config *m, struct dr_head *k) {
    int64_t c = m->channels, hw = m->head_width;
    double bound = 1 / sqrt((double)(9 * c)); // PyTorch's default for Conv2d
    k->conv1_w = dr_params_add(ps, DR_PARAM_DECAY, DR_INIT_UNIFORM, bound, 4,
                               (int64_t[]){hw, c, 3, 3}, "head.conv1.weight");
    k->conv1_b = dr_params_add(ps, 0, DR_INIT_UNIFORM, bound, 1, &hw, "head.conv1.bias");
    k->conv2_w = dr_params_add(ps, DR_PARAM_DECAY, DR_INIT_ZERO, 0, 4, (int64_t[]){c, hw, 3, 3},
                               "head.conv2.weight");
    k->conv2_b = dr_params_add(ps, 0, DR_INIT_ZERO, 0, 1, &c, "head.conv2.bias");
}

void dr_head_add(struct dr_params *ps, const struct dr_model_config *m, struct dr_head *out) {
    struct dr_head *k = out;
    *k = (struct dr_head){.channels = m->channels,
                          .size = m->size,
                          .patch = m->patch,
                          .width = m->head_width,
                          .registers = m->registers,
                          .d = m->dim,
                          .conv1_w = -1};
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

// Image [b,c,s,s] real and its NHWC twin in act; back accumulates into the image.
static void to_nhwc(struct dr_ctx *cx, const struct dr_head *k, int64_t b, const real *image,
                    void *out) {
    int64_t c = k->channels, s = k->size;
    if (c == 1)
        DR_OP(cx->be, cast, .dst = out, .src = image, .dt = cx->act, .st = DR_F32, .n = b * s * s);
    else
        DR_OP(cx->be, copy4, .dst = out, .src = image, .dt = cx->act, .st = DR_F32,
              .dim = {b, s, s, c}, .dstride = {s * s * c, s * c, c, 1},
              .sstride = {s * s * c, s, 1, s * s});
}

static void add_from_nhwc(struct dr_ctx *cx, const struct dr_head *k, int64_t b, const void *in,
                          real *image) {
    int64_t c = k->channels, s = k->size;
    if (c == 1)
        DR_OP(cx->be, axpy, .y = image, .x = in, .xt = cx->act, .n = b * s * s, .alpha = 1);
    else
        DR_OP(cx->be, copy4, .dst = image, .src = in, .dt = DR_F32, .st = cx->act,
              .dim = {b, c, s, s}, .dstride = {s * s * c, s * s, s, 1},
              .sstride = {s * s * c, 1, s * c, c}, .acc = true);
}

static void conv_forward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_head *k,
                         int64_t b, int which, const void *x, void *y) {
    int64_t c = k->channels, hw = k->width;
    DR_OP(cx->be, conv2d_fwd, .y = y, .x = x, .t = cx->act,
          .weight = dr_weight(w, which ? k->conv2_w : k->conv1_w),
          .bias = dr_weight(w, which ? k->conv2_b : k->conv1_b), .b = b, .h = k->size, .w = k->size,
          .ci = which ? hw : c, .co = which ? c : hw, .k = 3, .stride = 1, .pad = 1);
}

static void conv_backward_weight(struct dr_ctx *cx, const struct dr_weights *w,
                                 const struct dr_head *k, int64_t b, int which, const void *x,
                                 const void *dy) {
    int64_t c = k->channels, hw = k->width;
    if (w->g)
        DR_OP(cx->be, conv2d_bwd_weight, .dweight = dr_grad(w, which ? k->conv2_w : k->conv1_w),
              .dbias = dr_grad(w, which ? k->conv2_b : k->conv1_b), .x = x, .dy = dy, .t = cx->act,
              .b = b, .h = k->size, .w = k->size, .ci = which ? hw : c, .co = which ? c : hw,
              .k = 3, .stride = 1, .pad = 1);
}

static void conv_backward_data(struct dr_ctx *cx, const struct dr_weights *w,
                               const struct dr_head *k, int64_t b, int which, const void *dy,
                               void *dx) {
    int64_t c = k->channels, hw = k->width;
    DR_OP(cx->be, conv2d_bwd_data, .dx = dx, .dy = dy, .t = cx->act,
          .weight = dr_weight(w, which ? k->conv2_w : k->conv1_w), .b = b, .h = k->size,
          .w = k->size, .ci = which ? hw : c, .co = which ? c : hw, .k = 3, .stride = 1, .pad = 1);
}

// image += conv2(silu(conv1(image)))
static void convs_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                          const struct dr_head *k, int64_t b, real *image,
                          struct dr_head_saved *s) {
    int64_t px = b * k->size * k->size;
    s->image = dr_alloc_act(ar, cx, px * k->channels);
    s->h = dr_alloc_act(ar, cx, px * k->width);
    to_nhwc(cx, k, b, image, s->image);
    conv_forward(cx, w, k, b, 0, s->image, s->h);
    size_t mark = dr_mark(cx->tmp);
    void *a = dr_alloc_act(cx->tmp, cx, px * k->width);
    void *r = dr_alloc_act(cx->tmp, cx, px * k->channels);
    DR_OP(cx->be, silu_fwd, .y = a, .x = s->h, .yt = cx->act, .xt = cx->act, .n = px * k->width);
    conv_forward(cx, w, k, b, 1, a, r);
    add_from_nhwc(cx, k, b, r, image);
    dr_release(cx->tmp, mark);
}

// dimage becomes the gradient by the image before the residual. Data before weights: the slope
// gives conv2's input again.
static void convs_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_head *k,
                           int64_t b, const struct dr_head_saved *s, real *dimage) {
    int64_t px = b * k->size * k->size;
    size_t mark = dr_mark(cx->tmp);
    void *dr = dr_alloc_act(cx->tmp, cx, px * k->channels);
    void *a = dr_alloc_act(cx->tmp, cx, px * k->width);
    void *dh = dr_alloc_act(cx->tmp, cx, px * k->width);
    to_nhwc(cx, k, b, dimage, dr);
    conv_backward_data(cx, w, k, b, 1, dr, dh);
    DR_OP(cx->be, silu_bwd, .dx = dh, .y = a, .x = s->h, .dy = dh, .t = cx->act,
          .n = px * k->width);
    conv_backward_weight(cx, w, k, b, 1, a, dr);
    conv_backward_weight(cx, w, k, b, 0, s->image, dh);
    conv_backward_data(cx, w, k, b, 0, dh, dr);
    add_from_nhwc(cx, k, b, dr, dimage);
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
    if (k->conv1_w >= 0)
        convs_forward(cx, ar, w, k, b, image, s);
}

void dr_head_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_head *k,
                      int64_t b, const real *x, const real *mods, int64_t mod_stride,
                      const struct dr_head_saved *s, const real *dimage, real *dx, real *dmods) {
    int64_t patches = k->tokens - k->registers, rows = b * patches;
    int64_t pixels = b * k->channels * k->size * k->size;
    size_t mark = dr_mark(cx->tmp);
    const real *di = dimage;
    if (k->conv1_w >= 0) {
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
