// Linear layers: y = x W' + b. Used by every network. See layers.h.
#include "engine/nn/layers.h"

const real *dr_weight(const struct dr_weights *w, int param) {
    return param < 0 ? NULL : w->w + w->layout->p[param].offset;
}

real *dr_grad(const struct dr_weights *w, int param) {
    return param < 0 || !w->g ? NULL : w->g + w->layout->p[param].offset;
}

static const void *matrix(const struct dr_weights *w, int param, enum dr_dtype t) {
    int64_t at = w->layout->p[param].offset;
    return t == DR_BF16 ? (const void *)(w->w16 + at) : (const void *)(w->w + at);
}

struct dr_linear dr_linear_add(struct dr_params *ps, int64_t in, int64_t out, enum dr_init init,
                               double arg, bool bias, const char *name) {
    struct dr_linear l = {.b = -1, .in = in, .out = out, .rows = 1};
    l.w = dr_params_add(ps, DR_PARAM_DECAY, init, arg, 2, (int64_t[]){out, in}, "%s.weight", name);
    if (bias)
        l.b = dr_params_add(ps, 0, DR_INIT_ZERO, 0, 1, &out, "%s.bias", name);
    return l;
}

void dr_linear_forward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_linear *l,
                       const void *x, enum dr_dtype xt, int64_t m, void *y, enum dr_dtype yt,
                       int64_t ldy) {
    DR_OP(cx->be, gemm, .m = m, .n = l->out, .k = l->in, .a = x, .b = matrix(w, l->w, xt), .c = y,
          .lda = l->in, .ldb = l->in, .ldc = ldy ? ldy : l->out, .tb = true, .abt = xt, .ct = yt,
          .bias = dr_weight(w, l->b),
          .bias16 = l->b >= 0 && xt == DR_BF16 ? matrix(w, l->b, DR_BF16) : NULL, .rows = l->rows,
          .version = w->version);
}

void dr_linear_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_linear *l,
                        const void *x, const void *dy, enum dr_dtype t, int64_t m, int64_t ldy) {
    if (!w->g)
        return;
    ldy = ldy ? ldy : l->out;
    DR_OP(cx->be, gemm, .m = l->out, .n = l->in, .k = m, .a = dy, .b = x, .c = dr_grad(w, l->w),
          .lda = ldy, .ldb = l->in, .ldc = l->in, .ta = true, .acc = true, .abt = t, .ct = DR_F32,
          .rows = l->rows);
    if (l->b >= 0)
        DR_OP(cx->be, colsum, .out = dr_grad(w, l->b), .x = dy, .xt = t, .m = m, .n = l->out,
              .ld = ldy, .acc = true);
}

void dr_linear_backward_input(struct dr_ctx *cx, const struct dr_weights *w,
                              const struct dr_linear *l, const void *dy, enum dr_dtype t, int64_t m,
                              void *dx, enum dr_dtype dxt, bool acc) {
    DR_OP(cx->be, gemm, .m = m, .n = l->in, .k = l->out, .a = dy, .b = matrix(w, l->w, t), .c = dx,
          .lda = l->out, .ldb = l->in, .ldc = l->in, .acc = acc, .abt = t, .ct = dxt,
          .rows = l->rows, .version = w->version);
}
