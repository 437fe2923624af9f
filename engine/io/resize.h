// Resampling of pictures with filters whose support grows with the reduction (antialiased), as
// Pillow does: separable, rows first, weights and sums in double, what lies between in float. Pure
// functions; the same bytes on any machine that has IEEE arithmetic.
#pragma once

#include "engine/core/err.h"
#include "engine/core/types.h"

enum dr_filter {
    DR_FILTER_BOX,      // area
    DR_FILTER_TRIANGLE, // bilinear
    DR_FILTER_BICUBIC,  // Catmull-Rom (a = -0.5), as clean-fid's
};
// A part of a picture in pixels, whose edges may lie within pixels.
struct dr_box {
    double x, y, w, h;
};
// in: [h,w,c] interleaved, rows `stride` bytes apart; out: [oh,ow,c], on the scale of the input and
// not clamped: bicubic overshoots (clean-fid clamps to 0..255). DR_ENOMEM; DR_EINVAL for sizes
// under 1 or over 2^24.
int dr_resize_real(const uint8_t *in, int64_t h, int64_t w, int64_t c, int64_t stride,
                   enum dr_filter filter, float *out, int64_t oh, int64_t ow, struct dr_err *err);
// The same rounded to bytes. Equal sizes copy.
int dr_resize_u8(const uint8_t *in, int64_t h, int64_t w, int64_t c, int64_t stride,
                 enum dr_filter filter, uint8_t *out, int64_t oh, int64_t ow, struct dr_err *err);
// The same of a part of the picture, which nothing outside of it enters; a pixel that lies in it in
// part counts by that part.
int dr_resize_box_u8(const uint8_t *in, int64_t h, int64_t w, int64_t c, int64_t stride,
                     enum dr_filter filter, const struct dr_box *box, uint8_t *out, int64_t oh,
                     int64_t ow, struct dr_err *err);
