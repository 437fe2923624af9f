// Random changes of training images (kind encoder; data.flip, data.crop, encoder.crop_area and
// encoder.jitter): mirrored, moved, cropped and resized, other
// brightness, contrast and saturation. Host only, any thread; a function of the generator's state.
#pragma once

#include "engine/config/config.h"
#include "engine/core/rng.h"

// What is done to one image: output pixel (y, x) shows the source at (y0 + y sy, x0 + x sx),
// between pixels bilinearly, mirrored at the borders; then the colours.
struct dr_augment {
    double y0, x0, sy, sx;
    double brightness, contrast, saturation; // 0, 1, 1: unchanged
};
// Draws always as many numbers, whatever is switched on.
void dr_augment_draw(const struct dr_config *cfg, int64_t h, int64_t w, struct dr_rng *g,
                     struct dr_augment *out);
// in, out: [c,h,w], which may not overlap.
void dr_augment_apply(const struct dr_augment *a, const real *in, int64_t c, int64_t h, int64_t w,
                      real *out);
