// From sums and rows to metrics. See eval_priv.h.
#include "engine/eval/eval_priv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Rows that metrics of pairs may use: a beginning, which has all classes in proportion.
static int64_t usable(const struct dr_eval_config *cfg, const struct eval_tally *t) {
    return DR_MIN(eval_tally_kept(t), cfg->rows);
}

// ---- Frechet distances

int eval_fd_points(const struct eval_tally *t, double *sizes, double *values) {
    int n = 0;
    for (int k = 0; k < EVAL_LEVELS; k++)
        if (t->fds[k]) {
            sizes[n] = (double)t->planned / (double)t->fds[k];
            values[n++] = t->fd[k] / (double)t->fds[k];
        }
    return n;
}

static void frechet(const struct eval_tally *t, struct dr_estimate *out) {
    double sizes[EVAL_LEVELS], values[EVAL_LEVELS];
    const int n = eval_fd_points(t, sizes, values);
    if (!n)
        return;
    out->value = values[n - 1];
    const double parts = (double)t->fds[0];
    if (n > 1) // the spread of parts, had they been as large as all of them
        out->se = sqrt(fmax(0, t->fd_square - parts * values[0] * values[0]) / (parts - 1) / parts);
}

// A line through the distances of parts that have more images than features.
static void frechet_at_infinity(const struct eval_tally *t, struct dr_estimate *out) {
    double sizes[EVAL_LEVELS], values[EVAL_LEVELS], x[EVAL_LEVELS], weight[EVAL_LEVELS];
    const int n = eval_fd_points(t, sizes, values);
    int from = 0;
    while (from < n && sizes[from] <= (double)t->d)
        from++;
    for (int i = from; i < n; i++) {
        x[i] = 1 / sizes[i];
        weight[i] = sizes[i]; // a distance's variance falls with its images
    }
    struct dr_err none;
    if (n - from > 1 &&
        dr_intercept(n - from, x + from, values + from, weight + from, &out->value, &none))
        out->value = NAN;
}

// ---- classes

// Copies the usable rows of a class, at most EVAL_PER_CLASS; how many.
static int64_t rows_of(const struct dr_eval_config *cfg, const struct eval_tally *t, int64_t cls,
                       real *out) {
    const int64_t n = usable(cfg, t);
    int64_t found = 0;
    for (int64_t i = 0; i < n && found < EVAL_PER_CLASS; i++)
        if (t->cls[i] == cls)
            memcpy(out + found++ * t->d, t->rows + i * t->d, (size_t)t->d * sizeof *out);
    return found;
}

int eval_spread(const struct dr_eval_config *cfg, const struct eval_tally *t, double *out,
                struct dr_err *err) {
    const int64_t most = DR_MIN((int64_t)EVAL_PER_CLASS, usable(cfg, t));
    real *rows = malloc((size_t)(DR_MAX(most, (int64_t)1) * t->d) * sizeof *rows);
    int rc = rows ? 0 : dr_fail(err, DR_ENOMEM, "out of memory for the rows of a class");
    for (int64_t c = 0; c < t->classes && !rc; c++) {
        const int64_t n = rows_of(cfg, t, c, rows);
        out[c] = NAN;
        if (n > 1)
            rc = dr_mean_distance(rows, n, t->d, &out[c], err);
    }
    free(rows);
    return rc;
}

static int diversity(struct eval_sides *s, struct dr_estimate *out, struct dr_err *err) {
    const int64_t classes = s->gen->classes;
    double sum = 0, worst = INFINITY;
    int64_t n = 0;
    int rc = eval_spread(s->cfg, s->gen, s->spread, err);
    for (int64_t c = 0; c < classes && !rc; c++) {
        s->spread[c] /= s->real_spread[c];
        if (!isfinite(s->spread[c]))
            continue;
        sum += s->spread[c];
        worst = fmin(worst, s->spread[c]);
        n++;
    }
    out->value = n ? sum / (double)n : NAN;
    s->diversity_worst = n ? worst : NAN;
    return rc;
}

static void accuracy(const struct eval_tally *t, struct dr_estimate *out) {
    int64_t right, all;
    eval_tally_correct(t, -1, &right, &all);
    if (!all)
        return;
    const double n = (double)all, p = (double)right / n;
    *out = (struct dr_estimate){p, sqrt(p * (1 - p) / n)};
}

// ---- rows

static int kernel(struct eval_sides *s, struct dr_estimate *out, struct dr_err *err) {
    const int64_t ng = usable(s->cfg, s->gen), nr = usable(s->cfg, s->real);
    const int64_t size = DR_MIN(s->cfg->kid_size, DR_MIN(ng, nr));
    if (size < 2)
        return 0;
    return dr_kid(s->gen->rows, ng, s->real->rows, nr, s->gen->d, s->cfg->kid_subsets, size,
                  s->cfg->seed, out, err);
}

static int manifold(struct eval_sides *s, double *which, struct dr_estimate *out,
                    struct dr_err *err) {
    const struct dr_eval_config *c = s->cfg;
    const int64_t ng = usable(c, s->gen), nr = usable(c, s->real);
    int rc = 0;
    if (DR_MIN(ng, nr) <= DR_MAX(c->k_manifold, c->k_density))
        return 0;
    if (isnan(s->manifold.precision)) // all four at once
        rc = dr_manifold(s->real->rows, nr, s->gen->rows, ng, s->gen->d, c->k_manifold,
                         c->k_density, &s->manifold, err);
    out->value = rc ? NAN : *which;
    return rc;
}

// Distances of n images to their nearest training images: out [2,n], of which the first row is the
// result. held: they are s->held.
static int nearest_training(const struct eval_sides *s, const real *x, int64_t n, bool held,
                            double *out, struct dr_err *err) {
    const int64_t d = s->real->d;
    int rc = dr_nearest_rows(x, n, s->train, s->ntrain, d, out, err);
    if (rc || !s->nmore)
        return rc;
    rc = held ? dr_nearest_but_own(x, n, s->more, s->nmore, d, out + n, err)
              : dr_nearest_rows(x, n, s->more, s->nmore, d, out + n, err);
    for (int64_t i = 0; i < n && !rc; i++)
        out[i] = fmin(out[i], out[n + i]);
    return rc;
}

static int mean_nearest(const struct eval_sides *s, const real *x, int64_t n, bool held,
                        struct dr_estimate *out, struct dr_err *err) {
    double *near = malloc((size_t)(2 * n) * sizeof *near), sum = 0, squares = 0;
    int rc = near ? nearest_training(s, x, n, held, near, err)
                  : dr_fail(err, DR_ENOMEM, "out of memory for %lld distances", (long long)n);
    for (int64_t i = 0; i < n && !rc; i++)
        sum += near[i];
    for (int64_t i = 0; i < n && !rc; i++)
        squares += (near[i] - sum / (double)n) * (near[i] - sum / (double)n);
    out->value = sum / (double)n;
    out->se = n > 1 ? sqrt(squares / (double)(n - 1) / (double)n) : NAN;
    free(near);
    return rc;
}

int eval_held_nearest(struct eval_sides *s, struct dr_err *err) {
    struct dr_estimate held;
    if (!s->train || !s->held || s->nheld < 1 || s->ntrain < 1)
        return 0;
    const int rc = mean_nearest(s, s->held, s->nheld, true, &held, err);
    s->held_nearest = rc ? NAN : held.value;
    return rc;
}

static int nearest(struct eval_sides *s, struct dr_estimate *out, struct dr_err *err) {
    struct dr_estimate own;
    const int64_t n = usable(s->cfg, s->gen);
    if (!(s->held_nearest > 0) || n < 1)
        return 0;
    const int rc = mean_nearest(s, s->gen->rows, n, false, &own, err);
    if (!rc)
        *out = (struct dr_estimate){own.value / s->held_nearest, own.se / s->held_nearest};
    return rc;
}

int eval_statistic(struct eval_sides *s, int metric, struct dr_estimate *out, struct dr_err *err) {
    const struct eval_tally *t = s->gen;
    *out = (struct dr_estimate){NAN, NAN};
    switch (metric) {
    case DR_EVAL_FD:
        frechet(t, out);
        return 0;
    case DR_EVAL_FD_INF:
        frechet_at_infinity(t, out);
        return 0;
    case DR_EVAL_KID:
        return kernel(s, out, err);
    case DR_EVAL_IS:
        return t->planned < s->cfg->is_splits
                   ? 0
                   : dr_inception_score(s->cfg->is_splits, t->logits, t->p, t->plogp, t->count, out,
                                        err);
    case DR_EVAL_PRECISION:
        return manifold(s, &s->manifold.precision, out, err);
    case DR_EVAL_RECALL:
        return manifold(s, &s->manifold.recall, out, err);
    case DR_EVAL_DENSITY:
        return manifold(s, &s->manifold.density, out, err);
    case DR_EVAL_COVERAGE:
        return manifold(s, &s->manifold.coverage, out, err);
    case DR_EVAL_ACCURACY:
        accuracy(t, out);
        return 0;
    case DR_EVAL_DIVERSITY:
        return diversity(s, out, err);
    case DR_EVAL_DIVERSITY_WORST: {
        const int rc = isnan(s->diversity_worst) ? diversity(s, out, err) : 0;
        out->value = s->diversity_worst;
        return rc;
    }
    default:
        return nearest(s, out, err);
    }
}
