// The learned field (method.md 4, docs/learned-field.md): V(x; P, Q) = S(x, P) - S(x, Q) with one
// operator S per feature, and how S learns. Called once per feature; knows nothing of images.
//
// Features are taken at their scale, x / (s / sqrt(S)), as the kernel field takes them. V is not
// differentiated: the generator gets -2 V, the operator the gradient of its own objective.
#include "engine/loss/operator.h"

#include "engine/core/comm.h"
#include "engine/core/rng.h"

// What the parts of one call share.
struct call {
    struct dr_ctx *cx;
    const struct dr_loss_config *cfg;
    const struct dr_drift_in *in;
    const struct dr_drift_out *out;
    struct dr_operator op;
    double groups; // of all processes
    const real *x; // [B,N,S] generated samples at the feature's scale
};

static real *at_scale(const struct call *c, const real *x, int64_t rows) {
    real *y = dr_alloc_real(c->cx->tmp, rows * c->in->S);
    DR_OP(c->cx->be, set_noise, .y = y, .x = x, .scale = c->out->stats, .rows = rows,
          .width = c->in->S);
    return y;
}

// ---- the drift

// V [B,N,S] of x by targets y [B,M,S], both at scale: the negatives are one set, the positives the
// other.
static void drift_of(const struct call *c, const real *y, const real *w, int64_t M, real *v) {
    struct dr_ctx *cx = c->cx;
    const struct dr_drift_in *in = c->in;
    const size_t mark = dr_mark(cx->tmp);
    struct dr_operator_pairs p;
    double *unused = dr_alloc(cx->tmp, sizeof *unused);
    const bool product = c->cfg->ldf.objective == DR_LDF_NCE;
    dr_operator_scores(cx, &c->op, c->x, y, in->B, in->N, M, &p);
    DR_OP(cx->be, set_softmax_fwd, .coef = p.a, .a = p.a, .w = w, .b = in->B, .n = in->N, .m = M,
          .n_neg = in->N + in->U, .diag = in->neg || !c->cfg->ldf.mask ? -1 : 0,
          .product = product);
    if (product) // on the features themselves, as the kernel's coefficients
        DR_OP(cx->be, drift_combine, .v = v, .sumsq = unused, .coef = p.a, .x = c->x, .y = y,
              .b = in->B, .n = in->N, .m = M, .s = in->S);
    else
        dr_operator_step(cx, &c->op, &p, p.a, dr_alloc_real(cx->tmp, in->B * in->N * c->op.r), v);
    dr_release(cx->tmp, mark);
}

// {mean x y, mean x^2, mean y^2} over the values of all processes.
static void means(const struct call *c, const real *x, const real *y, int64_t n, real *out) {
    double *sums = dr_alloc(c->cx->tmp, 3 * sizeof *sums);
    DR_OP(c->cx->be, correlate, .out = sums, .x = x, .y = y, .n = n);
    dr_sum_doubles(c->cx, sums, 3);
    DR_OP(c->cx->be, drift_mean, .out = out, .sums = sums, .n = 3,
          .count = c->groups * (double)c->in->N * (double)c->in->S);
}

// ---- what the operator learns from

// Leave-one-out denoising of sets z [B,m,S] at scale; a set of one has nothing to leave.
static void denoise(const struct call *c, const real *z, int64_t m, uint32_t which) {
    struct dr_ctx *cx = c->cx;
    const struct dr_ldf_config *l = &c->cfg->ldf;
    const size_t mark = dr_mark(cx->tmp);
    const int64_t B = c->in->B, S = c->in->S, rows = B * m;
    struct dr_operator_pairs p;
    if (m < 2)
        return;
    real *x = dr_alloc_real(cx->tmp, rows * S), *sigma = dr_alloc_real(cx->tmp, rows);
    real *step = dr_alloc_real(cx->tmp, rows * S),
         *between = dr_alloc_real(cx->tmp, rows * c->op.r);
    DR_OP(cx->be, set_noise, .y = x, .sigma = sigma, .x = z, .key = c->in->key, .rows = rows,
          .width = S, .first = c->in->first * m,
          .stream = DR_STREAM_FIELD + 4 * (uint32_t)c->in->feature + 2 * which,
          .lo = (real)l->sigma_min, .hi = (real)l->sigma_max);
    dr_operator_scores(cx, &c->op, x, z, B, m, m, &p);
    DR_OP(cx->be, set_softmax_fwd, .coef = p.a, .a = p.a, .b = B, .n = m, .m = m);
    dr_operator_step(cx, &c->op, &p, p.a, between, step);
    DR_OP(cx->be, denoise_loss, .ds = step, .loss = c->out->own + DR_FIELD_OBJECTIVE, .s = step,
          .y = z, .x = x, .sigma = sigma, .rows = rows, .width = S,
          .count = c->groups * (double)m * (double)S, .weight = (real)0.5);
    dr_operator_step_backward(cx, &c->op, &p, p.a, between, step);
    dr_release(cx->tmp, mark);
}

// Reals look for the mass that their scores put on reals, over reals and generated samples.
static void tell_apart(const struct call *c, const real *pos) {
    struct dr_ctx *cx = c->cx;
    const struct dr_drift_in *in = c->in;
    const size_t mark = dr_mark(cx->tmp);
    const int64_t B = in->B, N = in->N, P = in->P, M = N + P;
    struct dr_operator_pairs p;
    const real *y = at_scale(c, dr_drift_targets(cx, in, 0), B * M);
    real *drx = dr_alloc_real(cx->tmp, B * P * c->op.r),
         *dry = dr_alloc_real(cx->tmp, B * M * c->op.r);
    dr_operator_scores(cx, &c->op, pos, y, B, P, M, &p);
    DR_OP(cx->be, mass_loss, .da = p.a, .loss = c->out->own + DR_FIELD_OBJECTIVE, .a = p.a, .b = B,
          .n = P, .m = M, .n_neg = N, .diag = N, .count = c->groups * (double)P, .weight = 1);
    DR_OP(cx->be, fill, .dst = drx, .n = B * P * c->op.r, .value = 0);
    DR_OP(cx->be, fill, .dst = dry, .n = B * M * c->op.r, .value = 0);
    dr_operator_scores_backward(cx, &c->op, &p, p.a, drx, dry);
    dr_release(cx->tmp, mark);
}

static void learn(const struct call *c) {
    const int objective = c->cfg->ldf.objective;
    if (objective == DR_LDF_FROZEN || !c->in->key || !c->op.w->g)
        return;
    const real *pos = at_scale(c, c->in->pos, c->in->B * c->in->P);
    if (objective == DR_LDF_NCE) {
        tell_apart(c, pos);
    } else {
        denoise(c, pos, c->in->P, 0);
        denoise(c, c->x, c->in->N, 1);
    }
    dr_sum_reals(c->cx, c->out->own + DR_FIELD_OBJECTIVE, 1);
}

// ---- the row of the table

static void learned_loss(struct dr_ctx *cx, const struct dr_loss_config *cfg,
                         const struct dr_weights *own, const struct dr_drift_in *in,
                         const struct dr_drift_out *out) {
    struct dr_backend *be = cx->be;
    const size_t mark = dr_mark(cx->tmp);
    const int64_t B = in->B, N = in->N, M = N + in->U + in->P, S = in->S, n = B * N * S;
    const int64_t groups = in->groups ? in->groups : B;
    const real *y = dr_drift_targets(cx, in, in->U), *w = dr_drift_target_weights(cx, in);
    real *d = dr_alloc_real(cx->tmp, B * N * M), *v = dr_alloc_real(cx->tmp, n),
         *total = dr_alloc_real(cx->tmp, n);
    real *kernel = dr_alloc_real(cx->tmp, n), *v2 = dr_alloc_real(cx->tmp, DR_MAX_TAU);
    struct call c = {.cx = cx, .cfg = cfg, .in = in, .out = out, .groups = (double)groups};
    DR_OP(be, pair_dist, .d = d, .x = in->gen, .y = y, .b = B, .n = N, .m = M, .s = S);
    dr_drift_stats(cx, in, d, w, M, out->stats);
    dr_operator_open(cx, &c.op, cfg, own, in->feature, S);
    c.x = at_scale(&c, in->gen, B * N);
    drift_of(&c, at_scale(&c, y, B * M), w, M, v);
    dr_drift_keep(cx, out->field, v, n);
    means(&c, v, v, n, v2);
    dr_drift_keep(cx, out->v2, v2, 1);
    DR_OP(be, drift_accumulate, .total = total, .v = v, .v2 = out->v2, .b = B, .n = N, .s = S);
    DR_OP(be, drift_grad, .dx = out->dgen, .loss = out->loss, .total = total, .scale = out->stats,
          .b = B, .n = N, .s = S, .groups = groups, .weight = in->weight,
          .max_rms = (real)cfg->max_velocity);
    const struct dr_kernel_sets sets = {.d = d, .y = y, .w = w, .scale = out->stats};
    dr_kernel_drift(cx, cfg, in, &sets, kernel, v2, NULL);
    if (out->own) {
        means(&c, total, kernel, n, out->own + DR_FIELD_VK);
        learn(&c);
    }
    dr_release(cx->tmp, mark);
}

static int params(const struct dr_loss_config *cfg, const struct dr_features *f,
                  struct dr_params *ps, struct dr_err *err) {
    for (int i = 0; i < dr_features_count(f); i++) {
        const struct dr_feature_dim d = dr_features_dim(f, i);
        dr_operator_params(ps, cfg, d.s, d.name);
    }
    return ps->cap < 0 ? dr_fail(err, DR_ENOMEM, "out of memory for the field's parameters") : 0;
}

static double rate(const struct dr_loss_config *cfg) {
    return cfg->ldf.objective == DR_LDF_FROZEN ? 0 : cfg->ldf.lr;
}

const struct dr_field_def dr_field_learned = {.name = "learned",
                                              .loss = learned_loss,
                                              .params = params,
                                              .rate = rate,
                                              .params_each = dr_operator_params_each,
                                              .one = true,
                                              .plain = true};
