// Cases of the drifting loss's ops: column_stats, standardize, pair_dist, drift_sums, drift_scale,
// drift_coef, drift_combine, drift_mean, drift_accumulate, drift_grad. The whole loss against
// method.md is in tests/loss.
#include "tests/ops/harness.h"

// Strict for fp32: distances and coefficients meet tau = 0.02.
#define TOL 1e-10

static const int64_t sizes[][4] = {
    // b, n, m, s
    {1, 1, 2, 1}, {2, 3, 5, 2}, {3, 9, 7, 15}, {1, 4, 17, 16}, {2, 5, 6, 49}, {2, 18, 33, 600},
};

static double at_least(double x, double low) {
    return x < low ? low : x;
}
static double divisor(double scale, int64_t s) {
    return at_least(scale / sqrt((double)s), 1e-3);
}

void case_column_stats(struct t *t) {
    for (size_t i = 0; i < DR_COUNT(sizes); i++) {
        int64_t B = sizes[i][0], N = sizes[i][1], M = sizes[i][2], S = sizes[i][3];
        struct tbuf *x = t_normal(t, DR_F32, B * N * S, 1),
                    *y = t_uniform(t, DR_F32, B * M * S, 3, 9);
        struct tbuf *mean = t_out(t, DR_F32, B * S), *rstd = t_out(t, DR_F32, B * S);
        double *want = t_tmp(t, B * S), *want2 = t_tmp(t, B * S), eps = 1.0 / 1024;
        for (int64_t r = 0; r < B * S; r++) {
            const int64_t b = r / S, k = r % S;
            for (int64_t j = 0; j < N + M; j++)
                want[r] += (j < N ? x->v[(b * N + j) * S + k] : y->v[(b * M + j - N) * S + k]) /
                           (double)(N + M);
            for (int64_t j = 0; j < N + M; j++) {
                double e = j < N ? x->v[(b * N + j) * S + k] : y->v[(b * M + j - N) * S + k];
                want2[r] += (e - want[r]) * (e - want[r]) / (double)(N + M);
            }
            want2[r] = 1 / sqrt(want2[r] + eps);
        }
        T_RUN(t, column_stats, .mean = mean->p, .rstd = rstd->p, .x = x->p, .y = y->p, .b = B,
              .n = N, .m = M, .s = S, .eps = (real)eps);
        t_check(t, "mean", mean, want, TOL);
        t_check(t, "rstd", rstd, want2, TOL);
    }
}

void case_standardize(struct t *t) {
    for (size_t i = 0; i < DR_COUNT(sizes) * 4; i++) {
        int64_t B = sizes[i / 4][0], N = sizes[i / 4][1], S = sizes[i / 4][3];
        const bool shared = i % 2, gradient = i / 2 % 2;
        struct tbuf *x = t_normal(t, DR_F32, (shared ? 1 : B) * N * S, 1);
        struct tbuf *mean = t_normal(t, DR_F32, B * S, 1);
        struct tbuf *rstd = t_uniform(t, DR_F32, B * S, 0.5, 2), *y = t_out(t, DR_F32, B * N * S);
        double *want = t_tmp(t, B * N * S);
        for (int64_t r = 0; r < B * N * S; r++) {
            const int64_t c = r / (N * S) * S + r % S;
            want[r] = (x->v[shared ? r % (N * S) : r] - (gradient ? 0 : mean->v[c])) * rstd->v[c];
        }
        T_RUN(t, standardize, .y = y->p, .x = x->p, .mean = gradient ? NULL : mean->p,
              .rstd = rstd->p, .b = B, .n = N, .s = S, .shared = shared);
        t_check(t, "y", y, want, TOL);
    }
}

void case_pair_dist(struct t *t) {
    for (size_t i = 0; i < DR_COUNT(sizes); i++) {
        int64_t B = sizes[i][0], N = sizes[i][1], M = sizes[i][2], S = sizes[i][3];
        struct tbuf *x = t_normal(t, DR_F32, B * N * S, 1), *y = t_normal(t, DR_F32, B * M * S, 2);
        struct tbuf *d = t_out(t, DR_F32, B * N * M);
        double *want = t_tmp(t, B * N * M);
        for (int64_t r = 0; r < B * N * M; r++) {
            int64_t b = r / (N * M), n = r / M, m = b * M + r % M;
            double sum = 0;
            for (int64_t k = 0; k < S; k++)
                sum += (x->v[n * S + k] - y->v[m * S + k]) * (x->v[n * S + k] - y->v[m * S + k]);
            want[r] = sqrt(at_least(sum, 1e-8));
        }
        T_RUN(t, pair_dist, .d = d->p, .x = x->p, .y = y->p, .b = B, .n = N, .m = M, .s = S);
        t_check(t, "d", d, want, TOL);
    }
    // Equal points end on the floor.
    struct tbuf *x = t_normal(t, DR_F32, 40, 1), *d = t_out(t, DR_F32, 1);
    T_RUN(t, pair_dist, .d = d->p, .x = x->p, .y = x->p, .b = 1, .n = 1, .m = 1, .s = 40);
    t_check(t, "floor", d, &(double){1e-4}, TOL);
}

void case_drift_sums(struct t *t) {
    for (size_t i = 0; i < DR_COUNT(sizes) * 2; i++) {
        const int64_t *z = sizes[i / 2];
        int64_t B = z[0], N = z[1], M = z[2];
        struct tbuf *d = t_uniform(t, DR_F32, B * N * M, 0.5, 3);
        struct tbuf *w = i % 2 ? t_uniform(t, DR_F32, B * M, 0, 4) : NULL;
        struct tbuf *sums = t_out_f64(t, 4);
        double want[4] = {0};
        for (int64_t r = 0; r < B * N * M; r++) {
            want[0] += d->v[r] * (w ? w->v[r / (N * M) * M + r % M] : 1);
            want[1] += d->v[r];
            want[2] += d->v[r] * d->v[r];
        }
        for (int64_t j = 0; j < B * M; j++)
            want[3] += w ? w->v[j] : 1;
        T_RUN(t, drift_sums, .sums = sums->p, .d = d->p, .w = w ? w->p : NULL, .b = B, .n = N,
              .m = M);
        t_check(t, "sums", sums, want, 1e-24);
    }
}

void case_drift_scale(struct t *t) {
    // D of 2 groups of 3 by 4, weights 1: as many sums as drift_sums would give
    const double count = 24, columns = 8, sums[4] = {90, 60, 190, 12};
    struct tbuf *in = t_f64(t, 4, sums), *out = t_out(t, DR_F32, 3);
    T_RUN(t, drift_scale, .out = out->p, .sums = in->p, .b = 2, .n = 3, .m = 4);
    const double mean = sums[1] / count;
    t_check(t, "out", out,
            (double[]){sums[0] / count / (sums[3] / columns), mean, sums[2] / count - mean * mean},
            TOL);
}

// log sum exp of n values, `stride` apart
static double lse(const double *x, int64_t n, int64_t stride) {
    double top = x[0], sum = 0;
    for (int64_t i = 1; i < n; i++)
        top = at_least(x[i * stride], top);
    for (int64_t i = 0; i < n; i++)
        sum += exp(x[i * stride] - top);
    return top + log(sum);
}

static void shift_rows(double *L, int64_t n, int64_t m) {
    for (int64_t i = 0; i < n; i++) {
        double z = lse(L + i * m, m, 1);
        for (int64_t j = 0; j < m; j++)
            L[i * m + j] -= z;
    }
}

static void shift_columns(double *L, int64_t n, int64_t m, double log_sum) {
    for (int64_t j = 0; j < m; j++) {
        double z = lse(L + j, n, m) - log_sum;
        for (int64_t i = 0; i < n; i++)
            L[i * m + j] -= z;
    }
}

// A plan of columns [from, to) of L: its exponentials times w sum to 1 by row, unweighted to n over
// the sum of w by column.
static void plan_of(double *L, int64_t n, int64_t m, int64_t from, int64_t to, const double *w,
                    int rounds) {
    double mass = 0;
    for (int64_t j = from; j < to; j++)
        mass += w ? w[j] : 1;
    for (int k = 0; k < rounds; k++) {
        for (int64_t i = 0; i < n; i++) {
            double sum = 0, top = L[i * m + from];
            for (int64_t j = from; j < to; j++)
                top = at_least(L[i * m + j], top);
            for (int64_t j = from; j < to; j++)
                sum += (w ? w[j] : 1) * exp(L[i * m + j] - top);
            for (int64_t j = from; j < to; j++)
                L[i * m + j] -= top + log(sum);
        }
        for (int64_t j = from; j < to; j++) {
            double z = lse(L + j, n, m) - log((double)n / mass);
            for (int64_t i = 0; i < n; i++)
                L[i * m + j] -= z;
        }
    }
}

// The coefficients of n targets, c, times what the bias correction makes of their shares of `sum`.
static void correct(double *c, const double *A, int64_t n, double sum) {
    double h = 0;
    for (int64_t j = 0; j < n; j++)
        h += A[j] / sum * (A[j] / sum);
    for (int64_t j = 0; j < n; j++)
        c[j] *= 1 - h + A[j] / sum;
}

// One group's coefficients from its distances, by the definition.
static void coef_ref(double *want, double *rows, double *columns, const double *d, const double *w,
                     const struct dr_drift_coef_args *a, double s) {
    int64_t n = a->n, m = a->n_neg + a->p;
    double tau = (double)a->tau;
    for (int64_t r = 0; r < n * m; r++) {
        double q = d[r] / s + (r / m == r % m ? (double)a->diag : 0);
        want[r] = a->kernel == DR_KERNEL_GAUSSIAN ? -q * q / (2 * tau * tau) : -q / tau;
        rows[r] = columns[r] = want[r];
    }
    shift_rows(rows, n, m);
    shift_columns(columns, n, m, 0);
    if (a->normalize == DR_NORM_SINKHORN)
        for (int k = 0; k < a->sinkhorn_iterations; k++) {
            shift_rows(want, n, m);
            shift_columns(want, n, m, log((double)n / (double)m));
        }
    if (a->normalize == DR_NORM_SINKHORN_SPLIT) {
        plan_of(want, n, m, 0, a->n_neg, w, a->sinkhorn_iterations);
        plan_of(want, n, m, a->n_neg, m, w, a->sinkhorn_iterations);
    }
    for (int64_t i = 0; i < n; i++) {
        double neg = 0, pos = 0;
        for (int64_t j = 0; j < m; j++) {
            double *v = want + i * m + j;
            if (a->normalize == DR_NORM_BOTH)
                *v = (rows[i * m + j] + columns[i * m + j]) / 2;
            if (a->normalize == DR_NORM_Y)
                *v = rows[i * m + j];
            *v = at_least(exp(*v), sqrt((double)a->floor)) * (w ? w[j] : 1);
            *(j < a->n_neg ? &neg : &pos) += *v;
        }
        for (int64_t j = 0; j < m; j++) {
            rows[j] = want[i * m + j];
            want[i * m + j] *= j < a->n_neg ? -pos : neg;
        }
        if (a->abc) {
            correct(want + i * m, rows, a->n_neg, neg);
            correct(want + i * m + a->n_neg, rows + a->n_neg, a->p, pos);
        }
    }
}

static void coef_case(struct t *t, int64_t b, int64_t n, int64_t n_neg, int64_t p, int bits,
                      enum dr_normalize how) {
    int64_t m = n_neg + p;
    bool gaussian = bits & 1;
    struct tbuf *d = t_uniform(t, DR_F32, b * n * m, 1, 4);
    struct tbuf *w = bits & 2 ? t_uniform(t, DR_F32, b * m, 0, 3) : NULL;
    double s = bits & 4 ? 2.25 : 1;
    struct tbuf *scale = t_values(t, DR_F32, 1, &s), *coef = t_out(t, DR_F32, b * n * m);
    struct dr_drift_coef_args a = {
        .coef = coef->p,
        .d = d->p,
        .w = w ? w->p : NULL,
        .scale = bits & 4 ? scale->p : NULL,
        .b = b,
        .n = n,
        .n_neg = n_neg,
        .p = p,
        .tau = (real)(gaussian && how == DR_NORM_NONE   ? 0.75
                      : gaussian || how == DR_NORM_NONE ? 0.25
                                                        : 0.03125),
        .floor = (real)(bits & 8 ? 1.0 / (1 << 20) : 0),
        .diag = bits & 16 ? 100 : 0,
        .kernel = gaussian ? DR_KERNEL_GAUSSIAN : DR_KERNEL_LAPLACE,
        .normalize = how,
        .sinkhorn_iterations = 3,
        .abc = bits & 32,
    };
    double *want = t_tmp(t, b * n * m), *rows = t_tmp(t, n * m), *columns = t_tmp(t, n * m);
    for (int64_t g = 0; g < b; g++)
        coef_ref(want + g * n * m, rows, columns, d->v + g * n * m, w ? w->v + g * m : NULL, &a, s);
    t->be->op.drift_coef(t->be, &a);
    t_sync(t);
    t_check(t, "coef", coef, want, TOL);
}

// Rows without any affinity, on one side and on both: coefficients 0, corrected or not.
static void coef_nothing(struct t *t) {
    enum { N = 3, NEG = 5, P = 4, M = NEG + P };
    double d[N * M], want[N * M] = {0};
    for (int k = 0; k < N * M; k++)
        d[k] = k / M == 0 || (k / M == 1 && k % M < NEG) ? 900 : 1;
    const double a = exp(-2.0), h = 1.0 / P; // of the last row, whose shares are equal
    for (int j = 0; j < M; j++)
        want[2 * M + j] =
            j < NEG ? -a * P * a * (1 - 1.0 / NEG + 1.0 / NEG) : a * NEG * a * (1 - h + h);
    for (int abc = 0; abc < 2; abc++) {
        struct tbuf *in = t_values(t, DR_F32, N * M, d), *coef = t_out(t, DR_F32, N * M);
        T_RUN(t, drift_coef, .coef = coef->p, .d = in->p, .b = 1, .n = N, .n_neg = NEG, .p = P,
              .tau = (real)0.5, .normalize = DR_NORM_NONE, .abc = abc);
        t_check(t, "nothing", coef, want, TOL);
        const double *got = t_read(t, coef);
        for (int k = 0; k < 2 * M; k++)
            if (got[k] != 0)
                t_fail(t, "coefficient %d of a row without affinities is %g", k, got[k]);
    }
}

void case_drift_coef(struct t *t) {
    for (int how = DR_NORM_BOTH; how <= DR_NORM_SINKHORN_SPLIT; how++)
        for (int bits = 0; bits < 64; bits++) {
            coef_case(t, 1, 2, 2, 1, bits, how);
            coef_case(t, 3, 7, 12, 9, bits, how);
            coef_case(t, 2, 33, 33, 31, bits, how);
        }
    coef_nothing(t);
}

void case_drift_combine(struct t *t) {
    for (size_t i = 0; i < DR_COUNT(sizes) * 2; i++) {
        const int64_t *z = sizes[i / 2];
        int64_t B = z[0], N = z[1], M = z[2], S = z[3];
        bool group = i % 2;
        struct tbuf *x = t_normal(t, DR_F32, B * N * S, 1), *y = t_normal(t, DR_F32, B * M * S, 1);
        struct tbuf *c = t_normal(t, DR_F32, B * N * M, 1);
        double s = 1.75;
        struct tbuf *scale = t_values(t, DR_F32, 1, &s);
        struct tbuf *v = t_out(t, DR_F32, B * N * S), *sumsq = t_out_f64(t, group ? B : 1);
        double *want = t_tmp(t, B * N * S), *want2 = t_tmp(t, B);
        for (int64_t r = 0; r < B * N * S; r++) {
            int64_t n = r / S, b = n / N, k = r % S;
            for (int64_t m = 0; m < M; m++)
                want[r] += c->v[n * M + m] * (y->v[(b * M + m) * S + k] - x->v[r]);
            want[r] /= group ? 1 : divisor(s, S);
            want2[group ? b : 0] += want[r] * want[r];
        }
        T_RUN(t, drift_combine, .v = v->p, .sumsq = sumsq->p, .coef = c->p, .x = x->p, .y = y->p,
              .scale = group ? NULL : scale->p, .b = B, .n = N, .m = M, .s = S, .per_group = group);
        t_check(t, "v", v, want, TOL);
        t_check(t, "sumsq", sumsq, want2, TOL);
    }
}

void case_drift_mean(struct t *t) {
    const double sums[5] = {3, 1e-12, 7e30, 0, 11}, count = 48;
    double want[5];
    for (int n = 1; n <= 5; n += 4) {
        struct tbuf *in = t_f64(t, n, sums), *out = t_out(t, DR_F32, n);
        for (int i = 0; i < n; i++)
            want[i] = sums[i] / count;
        T_RUN(t, drift_mean, .out = out->p, .sums = in->p, .n = n, .count = count);
        t_check(t, "out", out, want, TOL);
    }
}

void case_drift_accumulate(struct t *t) {
    for (int bits = 0; bits < 16; bits++) {
        int64_t B = 3, N = 5, S = 70;
        bool group = bits & 1, l2 = bits & 2, acc = bits & 4;
        struct tbuf *v = t_normal(t, DR_F32, B * N * S, 1);
        // Below the floor of 1e-8 as well as above it.
        struct tbuf *v2 = t_uniform(t, DR_F32, group ? B : 1, 0, bits & 8 ? 1e-8 : 2);
        struct tbuf *total =
            acc ? t_inout(t_normal(t, DR_F32, B * N * S, 1)) : t_out(t, DR_F32, B * N * S);
        double *want = t_tmp(t, B * N * S);
        for (int64_t r = 0; r < B * N * S; r++) {
            double q = v2->v[group ? r / (N * S) : 0];
            double rms = l2 ? sqrt(q + 1e-8) + 1e-8 : sqrt(at_least(q, 1e-8));
            want[r] = (acc ? total->v[r] : 0) + v->v[r] / rms;
        }
        T_RUN(t, drift_accumulate, .total = total->p, .v = v->p, .v2 = v2->p, .b = B, .n = N,
              .s = S, .per_group = group, .l2 = l2, .acc = acc);
        t_check(t, "total", total, want, TOL);
    }
}

void case_drift_grad(struct t *t) {
    for (size_t i = 0; i < DR_COUNT(sizes) * 4; i++) {
        const int64_t *z = sizes[i / 4];
        int64_t B = z[0], N = z[1], S = z[3];
        bool scaled = i % 2;
        const double most = i / 2 % 2 ? 0.9 : 0;
        double s = 2.5, weight = 0.75;
        struct tbuf *total = t_normal(t, DR_F32, B * N * S, 1);
        struct tbuf *scale = t_values(t, DR_F32, 1, &s);
        struct tbuf *dx = t_out(t, DR_F32, B * N * S);
        struct tbuf *loss = t_inout(t_uniform(t, DR_F32, 1, 1, 2));
        const int64_t groups = B + (int64_t)(i / 4 % 3); // some of another process
        double *want = t_tmp(t, B * N * S), want_loss = loss->v[0],
               count = (double)(groups * N * S);
        for (int64_t r = 0; r < B * N * S; r++) {
            double square = 0, v = total->v[r];
            for (int64_t k = r / S * S; k < (r / S + 1) * S; k++)
                square += total->v[k] * total->v[k] / (double)S;
            v *= most > 0 && sqrt(square) > most ? most / sqrt(square) : 1;
            want_loss += weight * v * v / count;
            want[r] = -2 * weight * v / count / (scaled ? divisor(s, S) : 1);
        }
        T_RUN(t, drift_grad, .dx = dx->p, .loss = loss->p, .total = total->p,
              .scale = scaled ? scale->p : NULL, .b = B, .n = N, .s = S, .groups = groups,
              .weight = (real)weight, .max_rms = (real)most);
        t_check(t, "dx", dx, want, TOL);
        t_check(t, "loss", loss, &want_loss, TOL);
    }
}
