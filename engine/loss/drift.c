// The drifting loss, assembled from ops (method.md 2 and 3; paper Alg. 1-2, A.6, A.7). See drift.h.
// Called by the trainer once per feature; knows nothing of images or networks.
#include "engine/loss/drift.h"

#include "engine/core/arena.h"

#define KERNEL_MASK 100 // added to D~_ii: a sample does not repel itself
#define KERNEL_L2_MASK 1e6
#define KERNEL_L2_EPS 1e-12

static real *alloc_reals(struct dr_ctx *cx, int64_t n) {
    return dr_alloc(cx->tmp, (size_t)n * sizeof(real));
}

// dst[b, at:at+rows, :] of [B,M,S] = src [B,rows,S], or src [rows,S] for every b when shared.
static void put_rows(struct dr_backend *be, real *dst, const real *src, int64_t B, int64_t M,
                     int64_t at, int64_t rows, int64_t S, bool shared) {
    DR_OP(be, copy4, .dst = dst + at * S, .src = src, .dim = {1, B, rows, S},
          .dstride = {0, M * S, S, 1}, .sstride = {0, shared ? 0 : rows * S, S, 1});
}

// Y = [neg ; unc ; pos], [B,M,S].
static real *targets(struct dr_ctx *cx, const struct dr_drift_in *in, int64_t U) {
    int64_t M = in->N + U + in->P;
    real *y = alloc_reals(cx, in->B * M * in->S);
    put_rows(cx->be, y, in->neg ? in->neg : in->gen, in->B, M, 0, in->N, in->S, false);
    if (U)
        put_rows(cx->be, y, in->unc, in->B, M, in->N, U, in->S, in->unc_shared);
    put_rows(cx->be, y, in->pos, in->B, M, in->N + U, in->P, in->S, false);
    return y;
}

// w = [1..1 ; w_unc..w_unc ; 1..1], [B,M]; NULL when all are 1.
static real *target_weights(struct dr_ctx *cx, const struct dr_drift_in *in, int64_t U) {
    if (!U)
        return NULL;
    int64_t M = in->N + U + in->P;
    real *w = alloc_reals(cx, in->B * M);
    DR_OP(cx->be, fill, .dst = w, .n = in->B * M, .value = 1);
    DR_OP(cx->be, copy4, .dst = w + in->N, .src = in->unc_weight, .dim = {1, 1, in->B, U},
          .dstride = {0, 0, M, 1}, .sstride = {0, 0, 1, 0});
    return w;
}

static real *unit_rows(struct dr_ctx *cx, const real *x, real *norm, int64_t rows, int64_t S) {
    real *y = alloc_reals(cx, rows * S);
    DR_OP(cx->be, l2norm_fwd, .y = y, .norm = norm, .x = x, .m = rows, .n = S,
          .eps = KERNEL_L2_EPS);
    return y;
}

// The field of one temperature added to `total`, its mean square before normalisation to *v2_out.
static void add_temperature(struct dr_ctx *cx, struct dr_drift_combine_args field,
                            struct dr_drift_coef_args coef, real *total, real *v2_out, real *raw,
                            bool l2, bool acc) {
    struct dr_backend *be = cx->be;
    be->op.drift_coef(be, &coef);
    be->op.drift_combine(be, &field);
    if (raw)
        DR_OP(be, copy4, .dst = raw, .src = field.v, .dim = {1, 1, 1, field.b * field.n * field.s},
              .dstride = {0, 0, 0, 1}, .sstride = {0, 0, 0, 1});
    DR_OP(be, drift_accumulate, .total = total, .v = field.v, .v2 = field.v2, .b = field.b,
          .n = field.n, .s = field.s, .per_group = l2, .l2 = l2, .acc = acc);
    if (!l2)
        return;
    real *sum = alloc_reals(cx, 1);
    DR_OP(be, colsum, .out = sum, .x = field.v2, .m = field.b, .n = 1);
    DR_OP(be, fill, .dst = v2_out, .n = 1, .value = 0);
    DR_OP(be, axpy, .y = v2_out, .x = sum, .n = 1, .alpha = (real)(1.0 / (double)field.b));
}

void dr_drift_loss(struct dr_ctx *cx, const struct dr_loss_config *cfg,
                   const struct dr_drift_in *in, const struct dr_drift_out *out) {
    struct dr_backend *be = cx->be;
    size_t mark = dr_mark(cx->tmp);
    bool l2 = cfg->field == DR_FIELD_KERNEL_L2;
    int64_t B = in->B, N = in->N, U = l2 ? 0 : in->U, M = N + U + in->P, S = in->S;

    const real *x = in->gen, *y = targets(cx, in, U), *w = target_weights(cx, in, U);
    real *norm = NULL;
    if (l2) { // the sphere is part of this field, whatever the features are
        norm = alloc_reals(cx, B * N);
        x = unit_rows(cx, in->gen, norm, B * N, S);
        y = unit_rows(cx, y, alloc_reals(cx, B * M), B * M, S);
    }
    real *d = alloc_reals(cx, B * N * M), *coef = alloc_reals(cx, B * N * M);
    real *v = alloc_reals(cx, B * N * S), *total = alloc_reals(cx, B * N * S);
    real *group_v2 = alloc_reals(cx, B);
    DR_OP(be, pair_dist, .d = d, .x = x, .y = y, .b = B, .n = N, .m = M, .s = S);
    DR_OP(be, drift_scale, .out = out->stats, .d = d, .w = w, .b = B, .n = N, .m = M);
    const real *scale = l2 ? NULL : out->stats;

    for (int t = 0; t < cfg->ntau; t++)
        add_temperature(cx,
                        (struct dr_drift_combine_args){.v = v,
                                                       .v2 = l2 ? group_v2 : out->v2 + t,
                                                       .coef = coef,
                                                       .x = x,
                                                       .y = y,
                                                       .scale = scale,
                                                       .b = B,
                                                       .n = N,
                                                       .m = M,
                                                       .s = S,
                                                       .per_group = l2},
                        (struct dr_drift_coef_args){
                            .coef = coef,
                            .d = d,
                            .w = w,
                            .scale = scale,
                            .b = B,
                            .n = N,
                            .n_neg = N + U,
                            .p = in->P,
                            .tau = (real)cfg->tau[t],
                            .floor = l2 ? 0 : (real)cfg->floor,
                            .diag = in->neg ? 0 : (real)(l2 ? KERNEL_L2_MASK : KERNEL_MASK),
                            .kernel = cfg->kernel,
                            .normalize = cfg->normalize,
                            .sinkhorn_iterations = (int)cfg->sinkhorn_iterations,
                        },
                        total, out->v2 + t, out->field ? out->field + t * B * N * S : NULL, l2,
                        t > 0);

    real *dx = l2 ? v : out->dgen;
    DR_OP(be, drift_grad, .dx = dx, .loss = out->loss, .total = total, .scale = scale, .b = B,
          .n = N, .s = S, .weight = in->weight);
    if (l2) // through the normalisation
        DR_OP(be, l2norm_bwd, .dx = out->dgen, .dy = dx, .y = x, .norm = norm, .m = B * N, .n = S,
              .eps = KERNEL_L2_EPS);
    dr_release(cx->tmp, mark);
}
