// Images out: PNG (libpng and libdeflate, with an iTXt chunk) and npy. Memory in, memory out.
#pragma once

#include "engine/core/err.h"
#include "engine/core/types.h"

struct dr_bytes {
    uint8_t *p; // malloc'd
    size_t n;
};
void dr_bytes_free(struct dr_bytes *b);

// Pixels of method.md 8: clamp to [-1,1], (x + 1) * 127.5, round half to even.
void dr_to_pixels(const real *x, int64_t n, uint8_t *out);
// A grid of n images [n,c,h,w], cols wide, enlarged by an integer scale (nearest), `gap` pixels of
// mid grey between. show: DR_SHOW_GREY (c 1), DR_SHOW_RGB (c 3), or DR_SHOW_PLANES (any c up to
// 64): each image is its channels as grey images of [h,w], left to right. Points are not images.
// text_key/text: iTXt chunk, NULL: none.
int dr_png_grid(const real *x, int64_t n, int64_t c, int64_t h, int64_t w, enum dr_show show,
                int64_t cols, int64_t scale, int64_t gap, const char *text_key, const char *text,
                struct dr_bytes *out, struct dr_err *err);
// float32 little-endian C-order npy (version 1.0) of shape dim[ndim].
int dr_npy(const real *x, int ndim, const int64_t *dim, struct dr_bytes *out, struct dr_err *err);
