// The decoders behind picture.h.
#pragma once

#include "engine/io/picture.h"

// Pixels as stored and the orientation that the file asks for. `probe`: sizes and c alone.
typedef int picture_decoder(const uint8_t *p, size_t n, const struct dr_picture_options *o,
                            bool probe, struct dr_picture *out, int *orientation,
                            struct dr_err *err);
picture_decoder picture_jpeg, picture_png, picture_webp;

// Checks a stored size and what decoding would take (dw x dh), and allocates pixels [dh,dw,c] with
// sizes set.
int picture_start(const struct dr_picture_options *o, int64_t w, int64_t h, int64_t dw, int64_t dh,
                  int64_t c, struct dr_picture *out, struct dr_err *err);
// The picture has been reduced by `by` from the top left: the last column and row may be a part of
// one.
static inline void picture_reduced(struct dr_picture *p, double by) {
    p->box.w = (double)p->full_w / by;
    p->box.h = (double)p->full_h / by;
}
// By how much both sides of w x h may be divided so that the shorter one keeps 2 * side; 1 and up.
int64_t picture_reduction(const struct dr_picture_options *o, int64_t w, int64_t h);
// c of n values over the background: rgb (or grey) + alpha in, `c` channels out.
void picture_over(const uint8_t *in, int64_t n, int64_t cin, const uint8_t background[3],
                  uint8_t *out, int64_t c);
// Whether a grey picture stays grey over the background.
static inline bool picture_grey(const uint8_t b[3]) {
    return b[0] == b[1] && b[1] == b[2];
}
