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
    assert(d.last && d.h % t->p == 0 && d.w % t->p == 0);
    const bool plain = t->p == 1 && t->pool != DR_POOL_CELLS_STD;
    struct dr_copy4_args args = gather_cells(t, d, groups, n, plain ? d.c : 2 * d.c);
    args.dst = out;
    args.src =
        plain ? x : cell_stats(cx, t, d, x, groups * n) + (t->pool == DR_POOL_CELLS_STD ? d.c : 0);
    cx->be->op.copy4(cx->be, &args);
}

void dr_cells_backward(struct dr_ctx *cx, const struct dr_pooling *t, struct dr_map_dim d,
                       const real *x, int64_t groups, int64_t n, const real *dout, real *dx) {
    const int64_t images = groups * n, len = images * cells_of(t, d) * 2 * d.c;
    if (t->p == 1 && t->pool != DR_POOL_CELLS_STD) {
        struct dr_copy4_args args = scatter_cells(t, d, groups, n, d.c);
        args.dst = dx, args.src = dout, args.acc = true;
        cx->be->op.copy4(cx->be, &args);
        return;
    }
    const real *pairs = cell_stats(cx, t, d, x, images);
    real *dpairs = dr_alloc_real(cx->tmp, len);
    struct dr_copy4_args args = scatter_cells(t, d, groups, n, 2 * d.c);
    args.dst = dpairs + (t->pool == DR_POOL_CELLS_STD ? d.c : 0), args.src = dout;
    DR_OP(cx->be, fill, .dst = dpairs, .n = len, .value = 0);
    cx->be->op.copy4(cx->be, &args);
    DR_OP(cx->be, patch_stats_bwd, .dx = dx, .dout = dpairs, .out = pairs, .x = x, .b = images,
          .h = d.h, .w = d.w, .c = d.c, .p = t->p);
}
