// Changes of layout around the convolutions. See layers.h.
#include "engine/nn/layers.h"

void dr_to_nhwc(struct dr_ctx *cx, int64_t b, int64_t c, int64_t side, const real *image, void *out,
                enum dr_dtype t) {
    const int64_t s = side;
    if (c == 1)
        DR_OP(cx->be, cast, .dst = out, .src = image, .dt = t, .st = DR_F32, .n = b * s * s);
    else
        DR_OP(cx->be, copy4, .dst = out, .src = image, .dt = t, .st = DR_F32, .dim = {b, s, s, c},
              .dstride = {s * s * c, s * c, c, 1}, .sstride = {s * s * c, s, 1, s * s});
}

void dr_from_nhwc(struct dr_ctx *cx, int64_t b, int64_t c, int64_t side, const void *in,
                  enum dr_dtype t, real *image, bool acc) {
    const int64_t s = side;
    if (c == 1 && acc)
        DR_OP(cx->be, axpy, .y = image, .x = in, .xt = t, .n = b * s * s, .alpha = 1);
    else
        DR_OP(cx->be, copy4, .dst = image, .src = in, .dt = DR_F32, .st = t, .dim = {b, c, s, s},
              .dstride = {s * s * c, s * s, s, 1}, .sstride = {s * s * c, 1, s * c, c}, .acc = acc);
}

// Channels [at, at + c) of rows of `all`: between them and rows of c.
static void channels(struct dr_ctx *cx, int64_t rows, void *dst, int64_t dst_row, const void *src,
                     int64_t src_row, int64_t c) {
    DR_OP(cx->be, copy4, .dst = dst, .src = src, .dt = cx->act, .st = cx->act,
          .dim = {1, 1, rows, c}, .dstride = {0, 0, dst_row, 1}, .sstride = {0, 0, src_row, 1});
}

void dr_concat(struct dr_ctx *cx, int64_t rows, const void *a, int64_t ca, const void *b,
               int64_t cb, void *out) {
    channels(cx, rows, out, ca + cb, a, ca, ca);
    channels(cx, rows, (char *)out + (size_t)ca * dr_sizeof(cx->act), ca + cb, b, cb, cb);
}

void dr_split(struct dr_ctx *cx, int64_t rows, const void *in, void *a, int64_t ca, void *b,
              int64_t cb) {
    channels(cx, rows, a, ca, in, ca + cb, ca);
    channels(cx, rows, b, cb, (const char *)in + (size_t)ca * dr_sizeof(cx->act), ca + cb, cb);
}
