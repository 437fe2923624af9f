// Convolution layers on [b,h,w,c] activations. Used by the heads of generators, the
// resnets and the U-Net. See layers.h.
#include "engine/nn/layers.h"

#include <math.h>

struct dr_conv dr_conv_add(struct dr_params *ps, struct dr_conv shape, enum dr_init init,
                           double arg, const char *name) {
    struct dr_conv l = shape;
    l.w = dr_params_add(ps, DR_PARAM_DECAY, init, arg, 4, (int64_t[]){l.co, l.ci, l.k, l.k},
                        "%s.weight", name);
    l.b = dr_params_add(ps, 0, init, arg, 1, &l.co, "%s.bias", name);
    return l;
}

struct dr_conv dr_conv_add_plain(struct dr_params *ps, struct dr_conv shape, const char *name) {
    struct dr_conv l = shape;
    const double std = sqrt(2 / (double)(l.co * l.k * l.k));
    l.w = dr_params_add(ps, DR_PARAM_DECAY, DR_INIT_NORMAL, std, 4,
                        (int64_t[]){l.co, l.ci, l.k, l.k}, "%s.weight", name);
    l.b = -1;
    return l;
}

void dr_conv_forward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_conv *l,
                     const void *x, int64_t b, int64_t height, int64_t width, void *y) {
    DR_OP(cx->be, conv2d_fwd, .y = y, .x = x, .t = cx->act, .weight = dr_weight(w, l->w),
          .bias = dr_weight(w, l->b), .b = b, .h = height, .w = width, .ci = l->ci, .co = l->co,
          .k = l->k, .stride = l->stride, .pad = l->pad, .dil = l->dil, .version = w->version);
}

void dr_conv_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_conv *l,
                      const void *x, const void *dy, int64_t b, int64_t height, int64_t width) {
    if (w->g)
        DR_OP(cx->be, conv2d_bwd_weight, .dweight = dr_grad(w, l->w), .dbias = dr_grad(w, l->b),
              .x = x, .dy = dy, .t = cx->act, .b = b, .h = height, .w = width, .ci = l->ci,
              .co = l->co, .k = l->k, .stride = l->stride, .pad = l->pad, .dil = l->dil);
}

void dr_conv_backward_input(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_conv *l,
                            const void *dy, int64_t b, int64_t height, int64_t width, void *dx) {
    DR_OP(cx->be, conv2d_bwd_data, .dx = dx, .dy = dy, .t = cx->act, .weight = dr_weight(w, l->w),
          .b = b, .h = height, .w = width, .ci = l->ci, .co = l->co, .k = l->k, .stride = l->stride,
          .pad = l->pad, .dil = l->dil, .version = w->version);
}
