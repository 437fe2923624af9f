// The kernel field (method.md 2; paper Alg. 1-2, A.6, A.7), and what it shares with kernel-l2.
// Assembled from ops; called once per feature; knows nothing of images or networks.
#include "engine/loss/field.h"

#include "engine/core/comm.h"
#include "engine/core/reals.h"

#define SELF_MASK 100 // added to D~_ii: a sample does not repel itself

// dst[b, at:at+rows, :] of [B,M,S] = src [B,rows,S], or src [rows,S] for every b when shared.
static void put_rows(struct dr_backend *be, real *dst, const real *src, int64_t B, int64_t M,
                     int64_t at, int64_t rows, int64_t S, bool shared) {
    DR_OP(be, copy4, .dst = dst + at * S, .src = src, .dim = {1, B, rows, S},
          .dstride = {0, M * S, S, 1}, .sstride = {0, shared ? 0 : rows * S, S, 1});
}

real *dr_drift_targets(struct dr_ctx *cx, const struct dr_drift_in *in, int64_t U) {
    const int64_t M = in->N + U + in->P;
    real *y = dr_alloc_real(cx->tmp, in->B * M * in->S);
    put_rows(cx->be, y, in->neg ? in->neg : in->gen, in->B, M, 0, in->N, in->S, false);
    if (U)
        put_rows(cx->be, y, in->unc, in->B, M, in->N, U, in->S, in->unc_shared);
    put_rows(cx->be, y, in->pos, in->B, M, in->N + U, in->P, in->S, false);
    return y;
}

struct dr_drift_coef_args dr_drift_coef_of(const struct dr_loss_config *cfg,
                                           const struct dr_drift_in *in, int64_t U) {
    return (struct dr_drift_coef_args){.b = in->B,
                                       .n = in->N,
                                       .n_neg = in->N + U,
                                       .p = in->P,
                                       .kernel = cfg->kernel,
                                       .normalize = cfg->normalize,
                                       .sinkhorn_iterations = (int)cfg->sinkhorn_iterations,
                                       .abc = cfg->bias == DR_BIAS_ABC};
}

void dr_drift_keep(struct dr_ctx *cx, real *dst, const real *src, int64_t n) {
    if (dst)
        dr_copy_reals(cx, dst, src, n);
}

void dr_drift_stats(struct dr_ctx *cx, const struct dr_drift_in *in, const real *d, const real *w,
                    int64_t M, real *stats) {
    double *sums = dr_alloc(cx->tmp, 4 * sizeof *sums);
    DR_OP(cx->be, drift_sums, .sums = sums, .d = d, .w = w, .b = in->B, .n = in->N, .m = M);
    dr_sum_doubles(cx, sums, 4);
    DR_OP(cx->be, drift_scale, .out = stats, .sums = sums, .b = in->groups ? in->groups : in->B,
          .n = in->N, .m = M);
}

real *dr_drift_target_weights(struct dr_ctx *cx, const struct dr_drift_in *in) {
    const int64_t M = in->N + in->U + in->P;
    if (!in->U)
        return NULL;
    real *w = dr_alloc_real(cx->tmp, in->B * M);
    DR_OP(cx->be, fill, .dst = w, .n = in->B * M, .value = 1);
    DR_OP(cx->be, copy4, .dst = w + in->N, .src = in->unc_weight, .dim = {1, 1, in->B, in->U},
          .dstride = {0, 0, M, 1}, .sstride = {0, 0, 1, 0});
    return w;
}

void dr_kernel_drift(struct dr_ctx *cx, const struct dr_loss_config *cfg,
                     const struct dr_drift_in *in, const struct dr_kernel_sets *sets, real *total,
                     real *v2, real *field) {
    struct dr_backend *be = cx->be;
    const size_t mark = dr_mark(cx->tmp);
    const int64_t B = in->B, N = in->N, M = N + in->U + in->P, S = in->S, n = B * N * S;
    const int64_t groups = in->groups ? in->groups : B;
    real *coef = dr_alloc_real(cx->tmp, B * N * M), *v = dr_alloc_real(cx->tmp, n);
    double *sumsq = dr_alloc(cx->tmp, sizeof *sumsq);
    struct dr_drift_coef_args args = dr_drift_coef_of(cfg, in, in->U);
    args.coef = coef, args.d = sets->d, args.w = sets->w, args.scale = sets->scale;
    args.floor = (real)cfg->floor;
    args.diag = in->neg ? 0 : SELF_MASK;
    for (int t = 0; t < cfg->ntau; t++) {
        args.tau = (real)cfg->tau[t];
        be->op.drift_coef(be, &args);
        DR_OP(be, drift_combine, .v = v, .sumsq = sumsq, .coef = coef, .x = in->gen, .y = sets->y,
              .scale = sets->scale, .b = B, .n = N, .m = M, .s = S);
        dr_sum_doubles(cx, sumsq, 1);
        DR_OP(be, drift_mean, .out = v2 + t, .sums = sumsq, .n = 1,
              .count = (double)groups * (double)N * (double)S);
        dr_drift_keep(cx, field ? field + t * n : NULL, v, n);
        DR_OP(be, drift_accumulate, .total = total, .v = v, .v2 = v2 + t, .b = B, .n = N, .s = S,
              .acc = t > 0);
    }
    dr_release(cx->tmp, mark);
}

static void kernel_loss(struct dr_ctx *cx, const struct dr_loss_config *cfg,
                        const struct dr_weights *own, const struct dr_drift_in *in,
                        const struct dr_drift_out *out) {
    struct dr_backend *be = cx->be;
    const size_t mark = dr_mark(cx->tmp);
    const int64_t B = in->B, N = in->N, M = N + in->U + in->P, S = in->S;
    const real *y = dr_drift_targets(cx, in, in->U), *w = dr_drift_target_weights(cx, in);
    real *d = dr_alloc_real(cx->tmp, B * N * M), *total = dr_alloc_real(cx->tmp, B * N * S);
    (void)own;
    DR_OP(be, pair_dist, .d = d, .x = in->gen, .y = y, .b = B, .n = N, .m = M, .s = S);
    dr_drift_stats(cx, in, d, w, M, out->stats);
    const struct dr_kernel_sets sets = {.d = d, .y = y, .w = w, .scale = out->stats};
    dr_kernel_drift(cx, cfg, in, &sets, total, out->v2, out->field);
    DR_OP(be, drift_grad, .dx = out->dgen, .loss = out->loss, .total = total, .scale = out->stats,
          .b = B, .n = N, .s = S, .groups = in->groups ? in->groups : B, .weight = in->weight,
          .max_rms = (real)cfg->max_velocity);
    dr_release(cx->tmp, mark);
}

const struct dr_field_def dr_field_kernel = {.name = "kernel", .loss = kernel_loss, .plain = true};
