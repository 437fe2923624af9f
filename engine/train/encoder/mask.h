// Masks of a masked autoencoder (paper A.3): squares of a side that are hidden with a probability.
#pragma once

#include "engine/core/rng.h"

// mask: [h/p, w/p], 1: masked. One number per square, so that a mask is a function of (g).
static inline void dr_mask_draw(struct dr_rng *g, double probability, int64_t n, real *mask) {
    for (int64_t i = 0; i < n; i++)
        mask[i] = dr_rng_uniform(g) < probability ? 1 : 0;
}
// x: [c,h,w]; masked pixels become 0, the middle grey.
static inline void dr_mask_apply(const real *mask, int64_t c, int64_t h, int64_t w, int64_t p,
                                 real *x) {
    for (int64_t k = 0; k < c; k++)
        for (int64_t y = 0; y < h; y++)
            for (int64_t i = 0; i < w; i++)
                if (mask[y / p * (w / p) + i / p] != 0)
                    x[(k * h + y) * w + i] = 0;
}
