// Pools: a map to location vectors and back. See pools.h; called by features.c.
#include "engine/loss/pools.h"

#include "engine/core/reals.h"

#include <math.h>

struct dr_feature_dim dr_pool_dim(enum dr_pool pool, int64_t p, struct dr_map_dim d) {
    switch (pool) {
    case DR_POOL_QUADRANTS:
        return (struct dr_feature_dim){.locations = 4, .s = d.c * (d.h / 2) * (d.w / 2)};
    case DR_POOL_MEAN:
    case DR_POOL_STD:
        return (struct dr_feature_dim){.locations = 1, .s = d.c * (d.h / p) * (d.w / p)};
    case DR_POOL_RMS:
        return (struct dr_feature_dim){.locations = 1, .s = d.c};
    case DR_POOL_CELLS:
    case DR_POOL_CELLS_STD: // rounded up: of an odd side the last row is a cell's
        return (struct dr_feature_dim){.locations = ((d.h + p - 1) / p) * ((d.w + p - 1) / p),
                                       .s = d.c};
    case DR_POOL_CELLS_WHOLE:
        return (struct dr_feature_dim){.locations = 1, .s = d.c * (d.h / p) * (d.w / p)};
    default:
        return (struct dr_feature_dim){.locations = 1, .s = d.c * d.h * d.w};
    }
}

// Between images [groups,n,C,H,W] and quadrants [groups,4,n,C,H/2,W/2].
static void copy_quadrants(struct dr_backend *be, struct dr_map_dim d, int64_t groups, int64_t n,
                           real *quadrants, real *image, bool to_image) {
    int64_t h2 = d.h / 2, w2 = d.w / 2, planes = n * d.c, one = planes * h2 * w2;
    for (int q = 0; q < 4; q++) {
        real *a = quadrants + q * one, *b = image + q / 2 * h2 * d.w + q % 2 * w2;
        struct dr_copy4_args args = {
            .dst = a,
            .src = b,
            .dim = {groups, planes, h2, w2},
            .dstride = {4 * one, h2 * w2, w2, 1},
            .sstride = {planes * d.h * d.w, d.h * d.w, d.w, 1},
        };
        if (to_image)
            args = (struct dr_copy4_args){
                .dst = b,
                .src = a,
                .dim = {groups, planes, h2, w2},
                .dstride = {planes * d.h * d.w, d.h * d.w, d.w, 1},
                .sstride = {4 * one, h2 * w2, w2, 1},
                .acc = true,
            };
        be->op.copy4(be, &args);
    }
}

// Every plane is a map of one channel: [images C, patches, (mean, std)].
static real *patch_stats(struct dr_ctx *cx, struct dr_map_dim d, const struct dr_pooling *t,
                         const real *x, int64_t images) {
    real *pairs = dr_alloc_real(cx->tmp, 2 * images * t->dim.s);
    DR_OP(cx->be, patch_stats_fwd, .out = pairs, .x = x, .b = images * d.c, .h = d.h, .w = d.w,
          .c = 1, .p = t->p);
    return pairs;
}

// Planes of unit length and their lengths, [images C, H W] and [images C]; returns the former.
static real *unit_planes(struct dr_ctx *cx, struct dr_map_dim d, const real *x, int64_t planes,
                         real *length) {
    real *unit = dr_alloc_real(cx->tmp, planes * d.h * d.w);
    DR_OP(cx->be, l2norm_fwd, .y = unit, .norm = length, .x = x, .m = planes, .n = d.h * d.w,
          .eps = DR_SPHERE_EPS);
    return unit;
}

static real rms_factor(struct dr_map_dim d) {
    return (real)(1 / sqrt((double)(d.h * d.w)));
}

static void extract_rms(struct dr_ctx *cx, struct dr_map_dim d, const real *x, int64_t planes,
                        real gain, real *out) {
    real *length = dr_alloc_real(cx->tmp, planes);
    unit_planes(cx, d, x, planes, length);
    DR_OP(cx->be, fill, .dst = out, .n = planes, .value = 0);
    DR_OP(cx->be, axpy, .y = out, .x = length, .n = planes, .alpha = rms_factor(d) * gain);
}

// d|x| / dx is the unit plane: dx += (d / sqrt(H W)) x / |x|.
static void scatter_rms(struct dr_ctx *cx, struct dr_map_dim d, const real *x, int64_t planes,
                        const real *dout, real *dx) {
    real *length = dr_alloc_real(cx->tmp, planes), *scaled = dr_alloc_real(cx->tmp, planes);
    real *unit = unit_planes(cx, d, x, planes, length);
    DR_OP(cx->be, fill, .dst = scaled, .n = planes, .value = 0);
    DR_OP(cx->be, axpy, .y = scaled, .x = dout, .n = planes, .alpha = rms_factor(d));
    DR_OP(cx->be, gate_fwd, .out = dx, .x = dx, .gate = scaled, .y = unit, .mod_stride = 1,
          .b = planes, .t = d.h * d.w, .d = 1);
}

void dr_pool_forward(struct dr_ctx *cx, const struct dr_pooling *t, struct dr_map_dim d,
                     const real *x, int64_t groups, int64_t n, real gain, real *out) {
    const int64_t len = groups * n * t->dim.locations * t->dim.s;
    const size_t mark = dr_mark(cx->tmp);
    switch (t->pool) {
    case DR_POOL_WHOLE:
        dr_copy_reals(cx, out, x, len);
        break;
    case DR_POOL_QUADRANTS:
        copy_quadrants(cx->be, d, groups, n, out, (real *)x, false);
        break;
    case DR_POOL_MEAN:
    case DR_POOL_STD:
        DR_OP(cx->be, copy4, .dst = out,
              .src = patch_stats(cx, d, t, x, groups * n) + (t->pool == DR_POOL_STD),
              .dim = {1, 1, 1, len}, .dstride = {0, 0, 0, 1}, .sstride = {0, 0, 0, 2});
        break;
    case DR_POOL_RMS:
        extract_rms(cx, d, x, len, gain, out);
        break;
    case DR_POOL_CELLS:
    case DR_POOL_CELLS_STD:
    case DR_POOL_CELLS_WHOLE:
        dr_cells_forward(cx, t, d, x, groups, n, out);
        break;
    }
    dr_release(cx->tmp, mark);
}

void dr_pool_backward(struct dr_ctx *cx, const struct dr_pooling *t, struct dr_map_dim d,
                      const real *x, int64_t groups, int64_t n, const real *dout, real *dx) {
    const int64_t len = groups * n * t->dim.locations * t->dim.s;
    const size_t mark = dr_mark(cx->tmp);
    switch (t->pool) {
    case DR_POOL_WHOLE:
        DR_OP(cx->be, axpy, .y = dx, .x = dout, .n = len, .alpha = 1);
        break;
    case DR_POOL_QUADRANTS:
        copy_quadrants(cx->be, d, groups, n, (real *)dout, dx, true);
        break;
    case DR_POOL_MEAN:
    case DR_POOL_STD: {
        real *pairs = patch_stats(cx, d, t, x, groups * n),
             *dpairs = dr_alloc_real(cx->tmp, 2 * len);
        DR_OP(cx->be, fill, .dst = dpairs, .n = 2 * len, .value = 0);
        DR_OP(cx->be, copy4, .dst = dpairs + (t->pool == DR_POOL_STD), .src = dout,
              .dim = {1, 1, 1, len}, .dstride = {0, 0, 0, 2}, .sstride = {0, 0, 0, 1});
        DR_OP(cx->be, patch_stats_bwd, .dx = dx, .dout = dpairs, .out = pairs, .x = x,
              .b = groups * n * d.c, .h = d.h, .w = d.w, .c = 1, .p = t->p);
        break;
    }
    case DR_POOL_RMS:
        scatter_rms(cx, d, x, len, dout, dx);
        break;
    case DR_POOL_CELLS:
    case DR_POOL_CELLS_STD:
    case DR_POOL_CELLS_WHOLE:
        dr_cells_backward(cx, t, d, x, groups, n, dout, dx);
        break;
    }
    dr_release(cx->tmp, mark);
}
