// What is taken of a map as vectors, and its transpose; private to engine/loss. See features.h.
#pragma once

#include "engine/loss/features.h"

#define DR_SPHERE_EPS 1e-12

struct dr_pooling {
    struct dr_feature_dim dim;
    enum dr_pool pool;
    int64_t p; // patch size
    int map;
};
// Locations and widths of `pool` on maps of shape d.
struct dr_feature_dim dr_pool_dim(enum dr_pool pool, int64_t p, struct dr_map_dim d);
// pools_map.c: DR_POOL_CELLS, _STD and _WHOLE of maps [groups,n,h,w,c]; as the two below.
void dr_cells_forward(struct dr_ctx *cx, const struct dr_pooling *t, struct dr_map_dim d,
                      const real *x, int64_t groups, int64_t n, real *out);
void dr_cells_backward(struct dr_ctx *cx, const struct dr_pooling *t, struct dr_map_dim d,
                       const real *x, int64_t groups, int64_t n, const real *dout, real *dx);
// x: [groups,n,c,h,w] -> out: [groups*T, n, S], before any normalisation. gain: of DR_POOL_RMS.
void dr_pool_forward(struct dr_ctx *cx, const struct dr_pooling *t, struct dr_map_dim d,
                     const real *x, int64_t groups, int64_t n, real gain, real *out);
// dx += the transpose of forward (linearised at x for std and rms) applied to dout.
void dr_pool_backward(struct dr_ctx *cx, const struct dr_pooling *t, struct dr_map_dim d,
                      const real *x, int64_t groups, int64_t n, const real *dout, real *dx);
