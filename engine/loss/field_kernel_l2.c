// The kernel field on the unit sphere (method.md 3): its own normalisation of the features, raw
// distances, no unconditional negatives, one normalisation of V per group.
#include "engine/loss/field.h"

#include "engine/core/comm.h"
#include "engine/core/reals.h"

#define SELF_MASK 1e6
#define EPS 1e-12

static real *unit_rows(struct dr_ctx *cx, const real *x, real *norm, int64_t rows, int64_t S) {
    real *y = dr_alloc_real(cx->tmp, rows * S);
    DR_OP(cx->be, l2norm_fwd, .y = y, .norm = norm, .x = x, .m = rows, .n = S, .eps = EPS);
    return y;
}

// *out = the mean of group_v2[B] over the groups of all processes.
static void mean_of_groups(struct dr_ctx *cx, const real *group_v2, int64_t B, int64_t groups,
                           real *out) {
    real *sum = dr_alloc_real(cx->tmp, 1);
    DR_OP(cx->be, colsum, .out = sum, .x = group_v2, .m = B, .n = 1);
    dr_sum_reals(cx, sum, 1);
    DR_OP(cx->be, fill, .dst = out, .n = 1, .value = 0);
    DR_OP(cx->be, axpy, .y = out, .x = sum, .n = 1, .alpha = (real)(1.0 / (double)groups));
}

static void kernel_l2_loss(struct dr_ctx *cx, const struct dr_loss_config *cfg,
                           const struct dr_weights *own, const struct dr_drift_in *in,
                           const struct dr_drift_out *out) {
    struct dr_backend *be = cx->be;
    const size_t mark = dr_mark(cx->tmp);
    const int64_t B = in->B, N = in->N, M = N + in->P, S = in->S, n = B * N * S;
    const int64_t groups = in->groups ? in->groups : B;
    const real *targets = dr_drift_targets(cx, in, 0);
    real *norm = dr_alloc_real(cx->tmp, B * N);
    const real *x = unit_rows(cx, in->gen, norm, B * N, S);
    const real *y = unit_rows(cx, targets, dr_alloc_real(cx->tmp, B * M), B * M, S);
    real *d = dr_alloc_real(cx->tmp, B * N * M), *coef = dr_alloc_real(cx->tmp, B * N * M);
    real *v = dr_alloc_real(cx->tmp, n), *total = dr_alloc_real(cx->tmp, n),
         *group_v2 = dr_alloc_real(cx->tmp, B);
    double *sumsq = dr_alloc(cx->tmp, (size_t)B * sizeof *sumsq);
    (void)own;
    DR_OP(be, pair_dist, .d = d, .x = x, .y = y, .b = B, .n = N, .m = M, .s = S);
    dr_drift_stats(cx, in, d, NULL, M, out->stats);
    struct dr_drift_coef_args args = dr_drift_coef_of(cfg, in, 0);
    args.coef = coef, args.d = d;
    args.diag = in->neg ? 0 : (real)SELF_MASK;
    for (int t = 0; t < cfg->ntau; t++) {
        args.tau = (real)cfg->tau[t];
        be->op.drift_coef(be, &args);
        DR_OP(be, drift_combine, .v = v, .sumsq = sumsq, .coef = coef, .x = x, .y = y, .b = B,
              .n = N, .m = M, .s = S, .per_group = true);
        DR_OP(be, drift_mean, .out = group_v2, .sums = sumsq, .n = B,
              .count = (double)N * (double)S);
        dr_drift_keep(cx, out->field ? out->field + t * n : NULL, v, n);
        DR_OP(be, drift_accumulate, .total = total, .v = v, .v2 = group_v2, .b = B, .n = N, .s = S,
              .per_group = true, .l2 = true, .acc = t > 0);
        mean_of_groups(cx, group_v2, B, groups, out->v2 + t);
    }
    DR_OP(be, drift_grad, .dx = v, .loss = out->loss, .total = total, .b = B, .n = N, .s = S,
          .groups = groups, .weight = in->weight, .max_rms = (real)cfg->max_velocity);
    DR_OP(be, l2norm_bwd, .dx = out->dgen, .dy = v, .y = x, .norm = norm, .m = B * N, .n = S,
          .eps = EPS); // through the normalisation
    dr_release(cx->tmp, mark);
}

const struct dr_field_def dr_field_kernel_l2 = {
    .name = "kernel-l2", .loss = kernel_l2_loss, .mean = true};
