// Cases of the learned field's ops: set_noise, pair_score_fwd and _bwd, set_softmax_fwd and _bwd,
// denoise_loss, mass_loss, correlate, pair_pull. The whole field is in tests/loss.
#include "tests/ops/harness.h"

#include "engine/core/rng.h"

static const int64_t sizes[][4] = {
    // b, n, m, h
    {1, 1, 1, 1}, {2, 3, 5, 2}, {3, 9, 7, 15}, {1, 4, 17, 16}, {2, 5, 6, 49}, {2, 8, 33, 200},
};

// ---- noise

void case_set_noise(struct t *t) {
    static const int64_t shape[][2] = {{1, 1}, {3, 2}, {5, 7}, {2, 64}, {9, 33}};
    for (size_t i = 0; i < DR_COUNT(shape) * 4; i++) {
        const int64_t rows = shape[i / 4][0], width = shape[i / 4][1], n = rows * width;
        const bool noisy = i % 2, scaled = i / 2 % 2;
        struct tbuf *x = t_normal(t, DR_F32, n, 1);
        struct tbuf *scale = t_values(t, DR_F32, 1, &(double){i > 3 ? 2.5 : 1e-9});
        struct tbuf *key = t_u64(t, 2, (uint64_t[]){UINT64_C(0x123456789abc), 7 + i});
        struct tbuf *sigma = noisy ? t_out(t, DR_F32, rows) : NULL;
        double *want = t_tmp(t, n), *wide = t_tmp(t, rows), f = 1;
        if (scaled)
            f = fmax(scale->v[0] / sqrt((double)width), 1e-3);
        for (int64_t r = 0; r < rows; r++) {
            const uint64_t index = ((uint64_t)(7 + i) << 32) + 40 + (uint64_t)r;
            uint32_t u[4];
            dr_philox(UINT64_C(0x123456789abc), 0, 1001, index, u);
            wide[r] = 0.25 * pow(8, ((double)u[0] + 0.5) * 0x1p-32);
            real *z = calloc((size_t)width, sizeof *z);
            dr_normals(UINT64_C(0x123456789abc), 1000, index, z, width);
            for (int64_t k = 0; k < width; k++)
                want[r * width + k] =
                    x->v[r * width + k] / f + (noisy ? wide[r] * (double)z[k] : 0);
            free(z);
        }
        struct tbuf *y = scaled ? t_out(t, DR_F32, n) : t_inout(x);
        T_RUN(t, set_noise, .y = y->p, .sigma = noisy ? sigma->p : NULL, .x = x->p,
              .scale = scaled ? scale->p : NULL, .key = noisy ? key->p : NULL, .rows = rows,
              .width = width, .first = 40, .stream = 1000, .lo = noisy ? (real)0.25 : 0,
              .hi = noisy ? 2 : 0);
        t_check(t, "y", y, want, t_tol(t, DR_F32));
        if (noisy)
            t_check(t, "sigma", sigma, wide, t_tol(t, DR_F32));
    }
}

// ---- scores

struct pairs {
    int64_t b, n, m, h;
    struct tbuf *hx, *hy, *d, *u, *v;
};

static struct pairs make_pairs(struct t *t, const int64_t *z) {
    return (struct pairs){.b = z[0],
                          .n = z[1],
                          .m = z[2],
                          .h = z[3],
                          .hx = t_normal(t, DR_F32, z[0] * z[1] * z[3], 1),
                          .hy = t_normal(t, DR_F32, z[0] * z[2] * z[3], 1),
                          .d = t_uniform(t, DR_F32, z[0] * z[1] * z[2], 0.25, 4),
                          .u = t_normal(t, DR_F32, z[3], 0.5),
                          .v = t_normal(t, DR_F32, z[3], 1)};
}

// The hidden value k of pair `at` before gelu.
static double hidden(const struct pairs *p, int64_t at, int64_t k) {
    const int64_t x = at / p->m, y = x / p->n * p->m + at % p->m;
    return p->hx->v[x * p->h + k] + p->hy->v[y * p->h + k] + p->u->v[k] * p->d->v[at];
}
static double cdf(double x) {
    return 0.5 * erfc(-x * M_SQRT1_2);
}

void case_pair_score_fwd(struct t *t) {
    for (size_t i = 0; i < DR_COUNT(sizes); i++) {
        const struct pairs p = make_pairs(t, sizes[i]);
        const int64_t pairs = p.b * p.n * p.m;
        struct tbuf *a = t_out(t, DR_F32, pairs);
        double *want = t_tmp(t, pairs);
        for (int64_t at = 0; at < pairs; at++)
            for (int64_t k = 0; k < p.h; k++)
                want[at] += p.v->v[k] * hidden(&p, at, k) * cdf(hidden(&p, at, k));
        T_RUN(t, pair_score_fwd, .a = a->p, .hx = p.hx->p, .hy = p.hy->p, .d = p.d->p, .u = p.u->p,
              .v = p.v->p, .b = p.b, .n = p.n, .m = p.m, .h = p.h);
        t_check(t, "a", a, want, t_tol(t, DR_F32));
    }
}

struct pair_wants {
    double *dhx, *dhy, *pull, *du, *dv;
};

static void pair_ref(const struct pairs *p, const double *da, const struct pair_wants *w) {
    for (int64_t at = 0; at < p->b * p->n * p->m; at++) {
        const int64_t x = at / p->m, y = x / p->n * p->m + at % p->m;
        double sum = 0;
        for (int64_t k = 0; k < p->h; k++) {
            const double q = hidden(p, at, k), density = exp(-q * q / 2) / sqrt(2 * M_PI);
            const double g = da[at] * p->v->v[k] * (cdf(q) + q * density);
            w->dhx[x * p->h + k] += g;
            w->dhy[y * p->h + k] += g;
            w->du[k] += g * p->d->v[at];
            w->dv[k] += da[at] * q * cdf(q);
            sum += g * p->u->v[k];
        }
        w->pull[at] = p->d->v[at] <= 1e-4 ? 0 : sum / p->d->v[at];
    }
}

void case_pair_score_bwd(struct t *t) {
    for (size_t i = 0; i < DR_COUNT(sizes) * 2; i++) {
        const struct pairs p = make_pairs(t, sizes[i / 2]);
        const int64_t pairs = p.b * p.n * p.m;
        double *da = t_tmp(t, pairs), *d = t_tmp(t, pairs);
        for (int64_t at = 0; at < pairs; at++) { // some masked; one pair of equal points
            da[at] = t_rand(t) % 4 ? (double)(t_rand(t) % 512) / 256 - 1 : 0;
            d[at] = at == 3 ? 0x1p-14 : p.d->v[at];
        }
        struct pairs q = p;
        q.d = t_values(t, DR_F32, pairs, d);
        struct tbuf *in = t_values(t, DR_F32, pairs, da);
        struct tbuf *du = t_inout(t_normal(t, DR_F32, p.h, 1)),
                    *dv = t_inout(t_normal(t, DR_F32, p.h, 1));
        struct tbuf *dhx = t_out(t, DR_F32, p.b * p.n * p.h),
                    *dhy = t_out(t, DR_F32, p.b * p.m * p.h);
        struct tbuf *pull = i % 2 ? t_inout(in) : t_out(t, DR_F32, pairs);
        const struct pair_wants w = {.dhx = t_tmp(t, dhx->n),
                                     .dhy = t_tmp(t, dhy->n),
                                     .pull = t_tmp(t, pairs),
                                     .du = t_tmp(t, p.h),
                                     .dv = t_tmp(t, p.h)};
        memcpy(w.du, du->v, (size_t)p.h * sizeof(double));
        memcpy(w.dv, dv->v, (size_t)p.h * sizeof(double));
        pair_ref(&q, da, &w);
        T_RUN(t, pair_score_bwd, .dhx = dhx->p, .dhy = dhy->p, .pull = pull->p, .du = du->p,
              .dv = dv->p, .da = in->p, .hx = q.hx->p, .hy = q.hy->p, .d = q.d->p, .u = q.u->p,
              .v = q.v->p, .b = p.b, .n = p.n, .m = p.m, .h = p.h);
        t_check(t, "dhx", dhx, w.dhx, t_tol(t, DR_F32));
        t_check(t, "dhy", dhy, w.dhy, t_tol(t, DR_F32));
        t_check(t, "pull", pull, w.pull, t_tol(t, DR_F32));
        t_check(t, "du", du, w.du, t_tol(t, DR_F32));
        t_check(t, "dv", dv, w.dv, t_tol(t, DR_F32));
    }
}

// ---- softmaxes

// Two sets of scores; w NULL: ones.
struct sets {
    int64_t b, n, m, n_neg, diag;
    const double *a, *w;
};
static double set_weight(const struct sets *s, int64_t row, int64_t j) {
    if (s->diag >= 0 && j == s->diag + row % s->n)
        return 0;
    return s->w ? s->w[row / s->n * s->m + j] : 1;
}
// The sum of w exp(a - top) over one set of a row.
static double set_sum(const struct sets *s, int64_t row, bool second, double top) {
    double sum = 0;
    for (int64_t j = second ? s->n_neg : 0; j < (second ? s->m : s->n_neg); j++)
        sum += set_weight(s, row, j) * exp(s->a[row * s->m + j] - top);
    return sum;
}

static void softmax_ref(const struct sets *s, bool product, double *want) {
    for (int64_t row = 0; row < s->b * s->n; row++) {
        const double neg = set_sum(s, row, false, 0), pos = set_sum(s, row, true, 0);
        for (int64_t j = 0; j < s->m; j++) {
            const bool second = j >= s->n_neg;
            const double e = set_weight(s, row, j) * exp(s->a[row * s->m + j]);
            const double own = second ? pos : neg, other = second ? neg : pos;
            double p = own > 0 ? e / own : 0;
            if (product)
                p = neg + pos > 0 ? e * other / (neg + pos) / (neg + pos) : 0;
            want[row * s->m + j] = second ? p : -p;
        }
    }
}

// Columns, negatives, where the own column begins (-1: nowhere).
static const int64_t splits[][3] = {{1, 0, -1}, {1, 0, 0}, {1, 1, 0},  {5, 3, 0},    {5, 0, 0},
                                    {5, 5, 0},  {7, 3, 3}, {9, 9, -1}, {130, 65, 0}, {300, 10, 10}};

void case_set_softmax_fwd(struct t *t) {
    for (size_t i = 0; i < DR_COUNT(splits) * 8; i++) {
        const int64_t *z = splits[i / 8], b = 2, n = z[2] < 0 ? 5 : DR_MIN(z[0] - z[2], 4);
        const bool product = i % 2, weighted = i / 2 % 2, in_place = i / 4 % 2;
        struct tbuf *a = t_normal(t, DR_F32, b * n * z[0], 3), *w = NULL;
        double *v = t_tmp(t, b * z[0]), *want = t_tmp(t, b * n * z[0]);
        for (int64_t k = 0; k < b * z[0]; k++)
            v[k] = (double)(t_rand(t) % 5) / 2; // 0 leaves a column out
        if (weighted)
            w = t_values(t, DR_F32, b * z[0], v);
        const struct sets s = {
            .b = b, .n = n, .m = z[0], .n_neg = z[1], .diag = z[2], .a = a->v, .w = w ? v : NULL};
        softmax_ref(&s, product, want);
        struct tbuf *coef = in_place ? t_inout(a) : t_out(t, DR_F32, b * n * z[0]);
        T_RUN(t, set_softmax_fwd, .coef = coef->p, .a = a->p, .w = w ? w->p : NULL, .b = b, .n = n,
              .m = z[0], .n_neg = z[1], .diag = z[2], .product = product);
        t_check(t, "coef", coef, want, t_tol(t, DR_F32));
    }
    // Scores far apart: nothing overflows, and each set is a softmax of its own.
    struct tbuf *a = t_values(t, DR_F32, 4, (double[]){-1000, -1001, 5000, 4000});
    struct tbuf *coef = t_out(t, DR_F32, 4);
    T_RUN(t, set_softmax_fwd, .coef = coef->p, .a = a->p, .b = 1, .n = 1, .m = 4, .n_neg = 2,
          .diag = -1);
    const double e = exp(-1);
    t_check(t, "far", coef, (double[]){-1 / (1 + e), -e / (1 + e), 1, 0}, t_tol(t, DR_F32));
}

void case_set_softmax_bwd(struct t *t) {
    static const int64_t shape[][2] = {{1, 1}, {3, 2}, {5, 7}, {2, 64}, {9, 133}};
    for (size_t i = 0; i < DR_COUNT(shape) * 2; i++) {
        const int64_t rows = shape[i / 2][0], m = shape[i / 2][1];
        double *p = t_tmp(t, rows * m), *want = t_tmp(t, rows * m);
        for (int64_t k = 0; k < rows * m; k++) // the last row is empty
            p[k] = k / m == rows - 1 && rows > 1 ? 0 : (double)(1 + t_rand(t) % 8) / 16;
        struct tbuf *prob = t_values(t, DR_F32, rows * m, p);
        struct tbuf *dp = t_normal(t, DR_F32, rows * m, 1);
        for (int64_t r = 0; r < rows; r++) {
            double mean = 0;
            for (int64_t j = r * m; j < (r + 1) * m; j++)
                mean += p[j] * dp->v[j];
            for (int64_t j = r * m; j < (r + 1) * m; j++)
                want[j] = p[j] * (dp->v[j] - mean);
        }
        struct tbuf *da = i % 2 ? t_inout(dp) : t_out(t, DR_F32, rows * m);
        T_RUN(t, set_softmax_bwd, .da = da->p, .p = prob->p, .dp = dp->p, .rows = rows, .m = m);
        t_check(t, "da", da, want, t_tol(t, DR_F32));
    }
}

// ---- losses

void case_denoise_loss(struct t *t) {
    static const int64_t shape[][2] = {{1, 1}, {3, 2}, {5, 7}, {2, 64}, {9, 533}};
    for (size_t i = 0; i < DR_COUNT(shape) * 2; i++) {
        const int64_t rows = shape[i / 2][0], width = shape[i / 2][1], n = rows * width;
        struct tbuf *s = t_normal(t, DR_F32, n, 1), *y = t_normal(t, DR_F32, n, 2);
        struct tbuf *x = t_normal(t, DR_F32, n, 2), *sigma = t_uniform(t, DR_F32, rows, 0.25, 2);
        struct tbuf *loss = t_inout(t_normal(t, DR_F32, 1, 1));
        double *want = t_tmp(t, n), total = loss->v[0], count = 3.0 * (double)n;
        for (int64_t k = 0; k < n; k++) {
            const double e = (s->v[k] - (y->v[k] - x->v[k])) / sigma->v[k / width];
            want[k] = 2 * 0.5 * e / sigma->v[k / width] / count;
            total += 0.5 * e * e / count;
        }
        struct tbuf *ds = i % 2 ? t_inout(s) : t_out(t, DR_F32, n);
        T_RUN(t, denoise_loss, .ds = ds->p, .loss = loss->p, .s = s->p, .y = y->p, .x = x->p,
              .sigma = sigma->p, .rows = rows, .width = width, .count = count, .weight = (real)0.5);
        t_check(t, "ds", ds, want, t_tol(t, DR_F32));
        t_check(t, "loss", loss, &total, t_tol(t, DR_F32));
    }
}

void case_mass_loss(struct t *t) {
    for (size_t i = 0; i < DR_COUNT(splits) * 2; i++) {
        const int64_t *z = splits[i / 2], b = 2, n = z[2] < 0 ? 5 : DR_MIN(z[0] - z[2], 4);
        struct tbuf *a = t_normal(t, DR_F32, b * n * z[0], 3);
        struct tbuf *loss = t_inout(t_normal(t, DR_F32, 1, 1));
        const struct sets s = {.b = b, .n = n, .m = z[0], .n_neg = z[1], .diag = z[2], .a = a->v};
        double *want = t_tmp(t, a->n), total = loss->v[0], count = 2.0 * (double)(b * n);
        for (int64_t row = 0; row < b * n; row++) {
            const double neg = set_sum(&s, row, false, 0), pos = set_sum(&s, row, true, 0);
            if (!(neg > 0) || !(pos > 0))
                continue;
            total -= 0.75 * log(pos / (neg + pos)) / count;
            for (int64_t j = 0; j < z[0]; j++) {
                const double e = set_weight(&s, row, j) * exp(a->v[row * z[0] + j]);
                want[row * z[0] + j] = 0.75 * (e / (neg + pos) - (j >= z[1] ? e / pos : 0)) / count;
            }
        }
        struct tbuf *da = i % 2 ? t_inout(a) : t_out(t, DR_F32, a->n);
        T_RUN(t, mass_loss, .da = da->p, .loss = loss->p, .a = a->p, .b = b, .n = n, .m = z[0],
              .n_neg = z[1], .diag = z[2], .count = count, .weight = (real)0.75);
        t_check(t, "da", da, want, t_tol(t, DR_F32));
        t_check(t, "loss", loss, &total, t_tol(t, DR_F32));
    }
    // Reals that are far from reals: the loss is their distance, not infinity.
    struct tbuf *a = t_values(t, DR_F32, 2, (double[]){500, -500}), *da = t_out(t, DR_F32, 2);
    struct tbuf *loss = t_inout(t_values(t, DR_F32, 1, (double[]){0}));
    T_RUN(t, mass_loss, .da = da->p, .loss = loss->p, .a = a->p, .b = 1, .n = 1, .m = 2, .n_neg = 1,
          .diag = -1, .count = 1, .weight = 1);
    t_check(t, "far da", da, (double[]){1, -1}, t_tol(t, DR_F32));
    t_check(t, "far loss", loss, (double[]){1000}, t_tol(t, DR_F32));
}

// ---- agreement

void case_correlate(struct t *t) {
    static const int64_t n[] = {1, 7, 4096, 9001, 20000};
    for (size_t i = 0; i < DR_COUNT(n); i++) {
        struct tbuf *x = t_normal(t, DR_F32, n[i], 1), *y = t_normal(t, DR_F32, n[i], 3);
        struct tbuf *out = t_out_f64(t, 3);
        double want[3] = {0};
        for (int64_t k = 0; k < n[i]; k++) {
            want[0] += x->v[k] * y->v[k];
            want[1] += x->v[k] * x->v[k];
            want[2] += y->v[k] * y->v[k];
        }
        T_RUN(t, correlate, .out = out->p, .x = x->p, .y = y->p, .n = n[i]);
        t_check(t, "out", out, want, 1e-24);
    }
}

// ---- gradients by distances

void case_pair_pull(struct t *t) {
    static const int64_t count[] = {1, 3, 37, 128, 40000};
    for (size_t i = 0; i < DR_COUNT(count) * 4; i++) {
        const int64_t n = count[i / 4];
        const bool acc = i % 2, alias = !acc && i / 2 % 2;
        double *d = t_tmp(t, n), *want = t_tmp(t, n);
        for (int64_t k = 0; k < n; k++) // some pairs of equal points, at the floor of pair_dist
            d[k] = t_rand(t) % 5 ? 0.25 + (double)(t_rand(t) % 512) / 64 : 0x1p-14;
        struct tbuf *dist = t_values(t, DR_F32, n, d), *da = t_normal(t, DR_F32, n, 1);
        struct tbuf *pull = alias ? t_inout(da)
                            : acc ? t_inout(t_normal(t, DR_F32, n, 1))
                                  : t_out(t, DR_F32, n);
        for (int64_t k = 0; k < n; k++)
            want[k] = (acc ? pull->v[k] : 0) + (d[k] <= 1e-4 ? 0 : -1.5 * da->v[k] / d[k]);
        T_RUN(t, pair_pull, .pull = pull->p, .da = da->p, .d = dist->p, .n = n, .factor = -1.5,
              .acc = acc);
        t_check(t, "pull", pull, want, t_tol(t, DR_F32));
    }
}
