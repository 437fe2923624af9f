// See kde.h. softplus(-score) of a sample of one set is -log of the mass that a softmax over both
// sets puts on its own, once the logits of the own set are raised by log(others / (own - 1)): what
// mass_loss computes of the learned field's scores.
#include "engine/loss/kde.h"

#include "engine/core/reals.h"

#include <math.h>

struct set {
    const real *x; // [B,n,S]
    real *dx;
    int64_t n;
};

// Between rows [at, at + s->n) of all [B,M,S] and a set of its own: copies, or adds to the
// gradient.
static void rows(struct dr_ctx *cx, const struct dr_kde_in *in, const struct set *s, real *all,
                 int64_t M, int64_t at, bool gradient) {
    const int64_t S = in->S, own = s->n * S;
    if (gradient)
        DR_OP(cx->be, copy4, .dst = s->dx, .src = all + at * S, .dim = {1, in->B, s->n, S},
              .dstride = {0, own, S, 1}, .sstride = {0, M * S, S, 1}, .acc = true);
    else
        DR_OP(cx->be, copy4, .dst = all + at * S, .src = s->x, .dim = {1, in->B, s->n, S},
              .dstride = {0, M * S, S, 1}, .sstride = {0, own, S, 1});
}

// out [n,M], every row `first` in the columns before `from` and `second` from there on.
static real *columns(struct dr_ctx *cx, int64_t n, int64_t M, int64_t from, real first,
                     real second) {
    real *row = dr_alloc_real(cx->tmp, M), *out = dr_alloc_real(cx->tmp, n * M);
    DR_OP(cx->be, fill, .dst = row, .n = from, .value = first);
    DR_OP(cx->be, fill, .dst = row + from, .n = M - from, .value = second);
    DR_OP(cx->be, copy4, .dst = out, .src = row, .dim = {1, 1, n, M}, .dstride = {0, 0, M, 1},
          .sstride = {0, 0, 0, 1});
    return out;
}

// wrong += half of the mass on the columns of the other set: of da, which is weighted already.
static void add_wrong(struct dr_ctx *cx, const struct dr_kde_in *in, const real *da, const real *w,
                      int64_t n, int64_t M, real *wrong) {
    double *sums = dr_alloc(cx->tmp, 4 * sizeof *sums);
    real *mean = dr_alloc_real(cx->tmp, 1);
    DR_OP(cx->be, drift_sums, .sums = sums, .d = da, .w = w, .b = in->B, .n = n, .m = M);
    DR_OP(cx->be, drift_mean, .out = mean, .sums = sums, .n = 1, .count = 2);
    DR_OP(cx->be, axpy, .y = wrong, .x = mean, .n = 1, .alpha = 1);
}

// pull [B,n,M] to the gradients of both ends of each pair, with the sign of drift_combine.
static void pull_back(struct dr_ctx *cx, const struct dr_kde_in *in, const real *pull,
                      const struct set *own, const struct set *other, const real *y, int64_t M) {
    const int64_t B = in->B, n = own->n, S = in->S;
    real *turned = dr_alloc_real(cx->tmp, B * n * M), *v = dr_alloc_real(cx->tmp, B * M * S);
    double *unused = dr_alloc(cx->tmp, sizeof *unused);
    DR_OP(cx->be, drift_combine, .v = v, .sumsq = unused, .coef = pull, .x = own->x, .y = y, .b = B,
          .n = n, .m = M, .s = S);
    rows(cx, in, own, v, n, 0, true);
    DR_OP(cx->be, copy4, .dst = turned, .src = pull, .dim = {1, B, n, M},
          .dstride = {0, n * M, 1, n}, .sstride = {0, n * M, M, 1});
    DR_OP(cx->be, drift_combine, .v = v, .sumsq = unused, .coef = turned, .x = y, .y = own->x,
          .b = B, .n = M, .m = n, .s = S);
    rows(cx, in, other, v, M, 0, true);
    rows(cx, in, own, v, M, other->n, true);
}

// The half of the loss whose samples are `own`.
static void tell(struct dr_ctx *cx, const struct dr_kde_in *in, const struct dr_kde_out *out,
                 const struct set *own, const struct set *other) {
    const size_t mark = dr_mark(cx->tmp);
    const int64_t B = in->B, n = own->n, M = other->n + n, pairs = B * n * M;
    const real more = (real)log((double)other->n / (double)(n - 1));
    real *y = dr_alloc_real(cx->tmp, B * M * in->S), *d = dr_alloc_real(cx->tmp, pairs);
    real *a = dr_alloc_real(cx->tmp, pairs), *pull = dr_alloc_real(cx->tmp, pairs);
    const real *shift = columns(cx, B * n, M, other->n, 0, more);
    const real *others = columns(cx, B, M, other->n, 1, 0);
    rows(cx, in, other, y, M, 0, false);
    rows(cx, in, own, y, M, other->n, false);
    DR_OP(cx->be, pair_dist, .d = d, .x = own->x, .y = y, .b = B, .n = n, .m = M, .s = in->S);
    for (int t = 0; t < in->ntau; t++) {
        const real over = (real)(1 / (in->tau[t] * sqrt((double)in->S)));
        DR_OP(cx->be, cast, .dst = a, .src = shift, .dt = DR_F32, .st = DR_F32, .n = pairs);
        DR_OP(cx->be, axpy, .y = a, .x = d, .n = pairs, .alpha = -over);
        DR_OP(cx->be, mass_loss, .da = a, .loss = out->loss, .a = a, .b = B, .n = n, .m = M,
              .n_neg = other->n, .diag = other->n, .count = (double)in->groups * (double)n,
              .weight = in->weight / (real)in->ntau);
        add_wrong(cx, in, a, others, n, M, out->wrong);
        DR_OP(cx->be, pair_pull, .pull = pull, .da = a, .d = d, .n = pairs, .factor = over,
              .acc = t > 0);
    }
    pull_back(cx, in, pull, own, other, y, M);
    dr_release(cx->tmp, mark);
}

void dr_kde_loss(struct dr_ctx *cx, const struct dr_kde_in *in, const struct dr_kde_out *out) {
    const struct set gen = {.x = in->gen, .dx = out->dgen, .n = in->N};
    const struct set pos = {.x = in->pos, .dx = out->dpos, .n = in->P};
    DR_OP(cx->be, fill, .dst = out->dgen, .n = in->B * in->N * in->S, .value = 0);
    DR_OP(cx->be, fill, .dst = out->dpos, .n = in->B * in->P * in->S, .value = 0);
    tell(cx, in, out, &pos, &gen);
    tell(cx, in, out, &gen, &pos);
}
