// Images as Inception-v3 takes them for FID: quantised to bytes as they are served and saved,
// enlarged or reduced to 299x299, grey ones in three equal channels, scaled to about [-1,1].
// Three ways, each what a well-known program does; numbers of different ways do not compare.
//
//   clean              clean-fid (Parmar et al. 2022): Pillow's antialiased bicubic on float
//                      channels, clipped to 0..255, not rounded; then (p - 128) / 128
//   legacy_pytorch     pytorch-fid: bilinear, half-pixel centres, no antialias; p / 127.5 - 1
//   legacy_tensorflow  the original TensorFlow 1 code: bilinear, source pixel = i in / out (no
//                      half-pixel centres), no antialias; (p - 128) / 128
#pragma once

#include "engine/core/err.h"
#include "engine/core/types.h"

enum dr_fid_resize {
    DR_FID_CLEAN,
    DR_FID_LEGACY_PYTORCH,
    DR_FID_LEGACY_TENSORFLOW,
    DR_FID_RESIZES
};

// "clean", "legacy_pytorch", "legacy_tensorflow".
const char *dr_fid_resize_word(enum dr_fid_resize r);
// EINVAL, at the field "resize", for another word, naming the three.
int dr_fid_resize_named(const char *word, enum dr_fid_resize *out, struct dr_err *err);

// For images as they are (a struct dr_eval_judge's prepare): ctx is a struct dr_fid_way.
struct dr_fid_way {
    enum dr_fid_resize resize;
    int64_t side; // of the network's images
    int threads;
};
int dr_fid_prepare(void *ctx, const real *x, int64_t n, int64_t c, int64_t h, int64_t w, real *out,
                   struct dr_err *err);

// x: [n,c,h,w] in [-1,1], c 1 or 3; out: [n,3,side,side]. Images are shared out to `threads`
// threads; the bytes do not depend on their number, nor on n. EINVAL for other channels and for
// sides under 1 or over 2^24; ENOMEM.
int dr_fid_input(enum dr_fid_resize r, const real *x, int64_t n, int64_t c, int64_t h, int64_t w,
                 int64_t side, int threads, real *out, struct dr_err *err);
