// Arrays of `real` in a backend's memory.
#pragma once

#include "engine/core/arena.h"
#include "engine/core/backend.h"

// n reals of the arena, not set (dr_alloc).
static inline real *dr_alloc_real(struct dr_arena *a, int64_t n) {
    return dr_alloc(a, (size_t)n * sizeof(real));
}
// dst[n] = src[n], on the device; they do not overlap.
static inline void dr_copy_reals(struct dr_ctx *cx, real *dst, const real *src, int64_t n) {
    DR_OP(cx->be, copy4, .dst = dst, .src = src, .dim = {1, 1, 1, n}, .dstride = {0, 0, 0, 1},
          .sstride = {0, 0, 0, 1});
}
