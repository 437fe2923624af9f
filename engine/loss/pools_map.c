// Pools of maps with channels last: means and stds of p x p cells, as location vectors or as one
// vector, and back (paper A.5 a to d). See pools.h; called by pools.c.
#include "engine/loss/pools.h"

#include "engine/core/reals.h"

#include <assert.h>

static int64_t cells_of(const struct dr_pooling *t, struct dr_map_dim d) {
    return (d.h / t->p) * (d.w / t->p);
}

// Where the elements of out [groups*T, n, S] lie among those of cells [groups*n, cells, row], of
// whose rows C elements count.
static struct dr_copy4_args gather_cells(const struct dr_pooling *t, struct dr_map_dim d,
                                         int64_t groups, int64_t n, int64_t row) {
    const int64_t cells = cells_of(t, d), c = d.c;
    if (t->pool == DR_POOL_CELLS_WHOLE)
        return (struct dr_copy4_args){.dim = {1, groups * n, cells, c},
                                      .dstride = {0, cells * c, c, 1},
                                      .sstride = {0, cells * row, row, 1}};
    return (struct dr_copy4_args){.dim = {groups, cells, n, c},
                                  .dstride = {cells * n * c, n * c, c, 1},
                                  .sstride = {n * cells * row, row, cells * row, 1}};
}

// The other way round: out to cells.
static struct dr_copy4_args scatter_cells(const struct dr_pooling *t, struct dr_map_dim d,
                                          int64_t groups, int64_t n, int64_t row) {
    const struct dr_copy4_args g = gather_cells(t, d, groups, n, row);
    struct dr_copy4_args s = g;
    for (int i = 0; i < 4; i++)
        s.dstride[i] = g.sstride[i], s.sstride[i] = g.dstride[i];
    return s;
}

// The map with whole cells: an odd side is one longer.
static struct dr_map_dim whole_cells(const struct dr_pooling *t, struct dr_map_dim d) {
    const bool whole = d.h % t->p == 0 && d.w % t->p == 0;
    assert(d.last && (whole || (t->p == 2 && t->pool == DR_POOL_CELLS)));
    d.h += d.h % t->p;
    d.w += d.w % t->p;
    return d;
}

static bool same(struct dr_map_dim a, struct dr_map_dim b) {
    return a.h == b.h && a.w == b.w;
}

// x [images,h,w,c] as a map of size `to`, whose last row and column repeat those of x: a cell of
// two equal halves has the mean of one.
static const real *widened(struct dr_ctx *cx, struct dr_map_dim d, struct dr_map_dim to,
                           const real *x, int64_t images) {
    const int64_t row = to.w * d.c, map = to.h * row;
    if (same(d, to))
        return x;
    real *y = dr_alloc_real(cx->tmp, images * map);
    DR_OP(cx->be, copy4, .dst = y, .src = x, .dim = {images, d.h, d.w, d.c},
          .dstride = {map, row, d.c, 1}, .sstride = {d.h * d.w * d.c, d.w * d.c, d.c, 1});
    if (to.w > d.w)
        DR_OP(cx->be, copy4, .dst = y + d.w * d.c, .src = y + (d.w - 1) * d.c,
              .dim = {1, images, d.h, d.c}, .dstride = {0, map, row, 1},
              .sstride = {0, map, row, 1});
    if (to.h > d.h)
        DR_OP(cx->be, copy4, .dst = y + d.h * row, .src = y + (d.h - 1) * row,
              .dim = {1, 1, images, row}, .dstride = {0, 0, map, 1}, .sstride = {0, 0, map, 1});
    return y;
}

// Back, as its transpose: dx += dy, which changes.
static void narrow(struct dr_ctx *cx, struct dr_map_dim d, struct dr_map_dim from, real *dy,
                   int64_t images, real *dx) {
    const int64_t row = from.w * d.c, map = from.h * row;
    if (from.h > d.h)
        DR_OP(cx->be, copy4, .dst = dy + (d.h - 1) * row, .src = dy + d.h * row,
              .dim = {1, 1, images, row}, .dstride = {0, 0, map, 1}, .sstride = {0, 0, map, 1},
              .acc = true);
    if (from.w > d.w)
        DR_OP(cx->be, copy4, .dst = dy + (d.w - 1) * d.c, .src = dy + d.w * d.c,
              .dim = {1, images, d.h, d.c}, .dstride = {0, map, row, 1},
              .sstride = {0, map, row, 1}, .acc = true);
    DR_OP(cx->be, copy4, .dst = dx, .src = dy, .dim = {images, d.h, d.w, d.c},
          .dstride = {d.h * d.w * d.c, d.w * d.c, d.c, 1}, .sstride = {map, row, d.c, 1},
          .acc = true);
}

// [images, cells, (mean, std)]
static real *cell_stats(struct dr_ctx *cx, const struct dr_pooling *t, struct dr_map_dim d,
                        const real *x, int64_t images) {
    real *pairs = dr_alloc_real(cx->tmp, images * cells_of(t, d) * 2 * d.c);
    DR_OP(cx->be, patch_stats_fwd, .out = pairs, .x = x, .b = images, .h = d.h, .w = d.w, .c = d.c,
          .p = t->p);
    return pairs;
}

void dr_cells_forward(struct dr_ctx *cx, const struct dr_pooling *t, struct dr_map_dim d,
                      const real *x, int64_t groups, int64_t n, real *out) {
    const bool plain = t->p == 1 && t->pool != DR_POOL_CELLS_STD;
    const struct dr_map_dim own = d;
    d = whole_cells(t, own);
    struct dr_copy4_args args = gather_cells(t, d, groups, n, plain ? d.c : 2 * d.c);
    x = widened(cx, own, d, x, groups * n);
    args.dst = out;
    args.src =
        plain ? x : cell_stats(cx, t, d, x, groups * n) + (t->pool == DR_POOL_CELLS_STD ? d.c : 0);
    cx->be->op.copy4(cx->be, &args);
}

void dr_cells_backward(struct dr_ctx *cx, const struct dr_pooling *t, struct dr_map_dim d,
                       const real *x, int64_t groups, int64_t n, const real *dout, real *dx) {
    const struct dr_map_dim own = d;
    d = whole_cells(t, own);
    const int64_t images = groups * n, len = images * cells_of(t, d) * 2 * d.c,
                  size = images * d.h * d.w * d.c;
    if (t->p == 1 && t->pool != DR_POOL_CELLS_STD) {
        struct dr_copy4_args args = scatter_cells(t, d, groups, n, d.c);
        args.dst = dx, args.src = dout, args.acc = true;
        cx->be->op.copy4(cx->be, &args);
        return;
    }
    x = widened(cx, own, d, x, images);
    const real *pairs = cell_stats(cx, t, d, x, images);
    real *dpairs = dr_alloc_real(cx->tmp, len),
         *dy = same(own, d) ? dx : dr_alloc_real(cx->tmp, size);
    struct dr_copy4_args args = scatter_cells(t, d, groups, n, 2 * d.c);
    args.dst = dpairs + (t->pool == DR_POOL_CELLS_STD ? d.c : 0), args.src = dout;
    DR_OP(cx->be, fill, .dst = dpairs, .n = len, .value = 0);
    cx->be->op.copy4(cx->be, &args);
    if (dy != dx)
        DR_OP(cx->be, fill, .dst = dy, .n = size, .value = 0);
    DR_OP(cx->be, patch_stats_bwd, .dx = dy, .dout = dpairs, .out = pairs, .x = x, .b = images,
          .h = d.h, .w = d.w, .c = d.c, .p = t->p);
    if (dy != dx)
        narrow(cx, own, d, dy, images, dx);
}
