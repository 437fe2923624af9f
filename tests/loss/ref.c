// See ref.h.
#include "tests/loss/ref.h"
#include "engine/cpu/backend.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/core/rng.h"

static double *zeros(int64_t n) {
    return calloc((size_t)n, sizeof(double));
}

static void to_sphere(double *x, int64_t rows, int64_t s) {
    for (int64_t r = 0; r < rows; r++) {
        double sq = 0;
        for (int64_t k = 0; k < s; k++)
            sq += x[r * s + k] * x[r * s + k];
        double norm = fmax(sqrt(sq), 1e-12);
        for (int64_t k = 0; k < s; k++)
            x[r * s + k] /= norm;
    }
}

// One group in double: x [N,S], y [M,S], w [M].
static void load_group(const struct dr_drift_in *in, int64_t U, int64_t b, bool sphere, double *x,
                       double *y, double *w) {
    int64_t N = in->N, P = in->P, S = in->S;
    const real *neg = in->neg ? in->neg : in->gen;
    for (int64_t i = 0; i < N * S; i++) {
        x[i] = (double)in->gen[b * N * S + i];
        y[i] = (double)neg[b * N * S + i];
    }
    for (int64_t i = 0; i < U * S; i++)
        y[N * S + i] = (double)in->unc[(in->unc_shared ? 0 : b * U * S) + i];
    for (int64_t i = 0; i < P * S; i++)
        y[(N + U) * S + i] = (double)in->pos[b * P * S + i];
    for (int64_t j = 0; j < N + U + P; j++)
        w[j] = j >= N && j < N + U ? (double)in->unc_weight[b] : 1;
    if (sphere) {
        to_sphere(x, N, S);
        to_sphere(y, N + U + P, S);
    }
}

static double lse(const double *x, int64_t n, int64_t stride) {
    double top = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        top = fmax(top, x[i * stride]);
    for (int64_t i = 0; i < n; i++)
        sum += exp(x[i * stride] - top);
    return top + log(sum);
}

// Rounds of Sinkhorn on logits L [n,m], whose rows are ld apart: sum_j w_j exp(L_ij) = 1 by row,
// sum_i exp(L_ij) = n / sum(w) by column. w NULL: ones.
static void plan(double *L, int64_t ld, int64_t n, int64_t m, const double *w, int64_t rounds) {
    double mass = 0, *row = zeros(m);
    for (int64_t j = 0; j < m; j++)
        mass += w ? w[j] : 1;
    for (int64_t t = 0; t < rounds; t++) {
        for (int64_t i = 0; i < n; i++) {
            for (int64_t j = 0; j < m; j++)
                row[j] = L[i * ld + j] + log(w ? w[j] : 1);
            double z = lse(row, m, 1);
            for (int64_t j = 0; j < m; j++)
                L[i * ld + j] -= z;
        }
        for (int64_t j = 0; j < m; j++) {
            double z = lse(L + j, n, ld) - log((double)n / mass);
            for (int64_t i = 0; i < n; i++)
                L[i * ld + j] -= z;
        }
    }
    free(row);
}

// Logits L [n,m] to affinities in place, the first n_neg columns those of the negatives.
static void normalise(const struct dr_loss_config *cfg, double *L, int64_t n, int64_t m,
                      int64_t n_neg, const double *w, double floor) {
    double *row = zeros(n), *col = zeros(m);
    if (cfg->normalize == DR_NORM_SINKHORN)
        plan(L, m, n, m, NULL, cfg->sinkhorn_iterations);
    if (cfg->normalize == DR_NORM_SINKHORN_SPLIT) {
        plan(L, m, n, n_neg, w, cfg->sinkhorn_iterations);
        plan(L + n_neg, m, n, m - n_neg, w + n_neg, cfg->sinkhorn_iterations);
    }
    for (int64_t i = 0; i < n; i++)
        row[i] = lse(L + i * m, m, 1);
    for (int64_t j = 0; j < m; j++)
        col[j] = lse(L + j, n, m);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < m; j++) {
            double l = L[i * m + j], a = exp(l);
            if (cfg->normalize == DR_NORM_BOTH)
                a = sqrt(exp(l - row[i]) * exp(l - col[j]));
            if (cfg->normalize == DR_NORM_Y)
                a = exp(l - row[i]);
            L[i * m + j] = sqrt(fmax(a * a, floor));
        }
    free(row);
    free(col);
}

// Element k of the centroid of m targets y with weights A, whose sum is `sum`.
static double centroid(const struct dr_loss_config *cfg, const double *A, double sum,
                       const double *y, int64_t m, int64_t S, int64_t k) {
    double first = 0, second = 0, h = 0;
    for (int64_t j = 0; j < m; j++) {
        double a = A[j] / sum;
        first += a * y[j * S + k];
        second += a * a * y[j * S + k];
        h += a * a;
    }
    return cfg->bias == DR_BIAS_ABC ? (1 - h) * first + second : first;
}

// V_tau of one group, [N,S], from its distances D [N,M]: the way from the centroid of the negatives
// to that of the positives.
static void field(const struct dr_loss_config *cfg, const struct dr_drift_in *in, int64_t U,
                  double tau, double smax, double f, double diag, double floor, const double *D,
                  const double *y, const double *w, double *V) {
    int64_t N = in->N, P = in->P, S = in->S, M = N + U + P;
    double *A = zeros(N * M);
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j < M; j++) {
            double d = D[i * M + j] / smax + (i == j ? diag : 0);
            A[i * M + j] = cfg->kernel == DR_KERNEL_GAUSSIAN ? -d * d / (2 * tau * tau) : -d / tau;
        }
    normalise(cfg, A, N, M, N + U, w, floor);
    for (int64_t i = 0; i < N; i++) {
        double pos = 0, neg = 0, *a = A + i * M;
        for (int64_t j = 0; j < M; j++) {
            a[j] *= w[j];
            *(j < N + U ? &neg : &pos) += a[j];
        }
        for (int64_t k = 0; k < S; k++)
            V[i * S + k] = pos == 0 || neg == 0
                               ? pos + neg - pos - neg // nothing, or a NaN
                               : pos * neg / f *
                                     (centroid(cfg, a + N + U, pos, y + (N + U) * S, P, S, k) -
                                      centroid(cfg, a, neg, y, N + U, S, k));
    }
    free(A);
}

// To the RMS of cfg->max_velocity, row by row.
static void shorten(const struct dr_loss_config *cfg, double *V, int64_t rows, int64_t S) {
    for (int64_t r = 0; r < rows && cfg->max_velocity > 0; r++) {
        double sq = 0;
        for (int64_t k = 0; k < S; k++)
            sq += V[r * S + k] * V[r * S + k] / (double)S;
        for (int64_t k = 0; k < S && sqrt(sq) > cfg->max_velocity; k++)
            V[r * S + k] *= cfg->max_velocity / sqrt(sq);
    }
}

// Loads every group and takes its distances: x, y, w and D, and their statistics.
static void distances(const struct dr_drift_in *in, int64_t U, bool l2, double *x, double *y,
                      double *w, double *D, struct ref_out *out) {
    int64_t B = in->B, N = in->N, S = in->S, M = N + U + in->P;
    double dw = 0, d1 = 0, d2 = 0, sw = 0, nd = (double)(B * N * M);
    for (int64_t b = 0; b < B; b++)
        load_group(in, U, b, l2, x + b * N * S, y + b * M * S, w + b * M);
    for (int64_t b = 0; b < B; b++)
        for (int64_t i = 0; i < N; i++)
            for (int64_t j = 0; j < M; j++) {
                double sq = 0;
                for (int64_t k = 0; k < S; k++)
                    sq += pow(x[(b * N + i) * S + k] - y[(b * M + j) * S + k], 2);
                double d = D[(b * N + i) * M + j] = sqrt(fmax(sq, 1e-8));
                dw += d * w[b * M + j];
                d1 += d;
                d2 += d * d;
            }
    for (int64_t j = 0; j < B * M; j++)
        sw += w[j];
    *out = (struct ref_out){.s = dw / nd / (sw / (double)(B * M)), .mean_d = d1 / nd};
    out->var_d = d2 / nd - out->mean_d * out->mean_d;
}

void ref_drift(const struct dr_loss_config *cfg, const struct dr_drift_in *in,
               struct ref_out *out) {
    bool l2 = cfg->field == DR_FIELD_KERNEL_L2;
    int64_t B = in->B, N = in->N, U = l2 ? 0 : in->U, S = in->S, M = N + U + in->P;
    double *x = zeros(B * N * S), *y = zeros(B * M * S), *w = zeros(B * M), *D = zeros(B * N * M);
    double *V = zeros(B * N * S), *total = zeros(B * N * S);
    distances(in, U, l2, x, y, w, D, out);
    double smax = l2 ? 1 : fmax(out->s, 1e-3);
    out->f = l2 ? 1 : fmax(out->s / sqrt((double)S), 1e-3);
    double diag = in->neg ? 0 : l2 ? 1e6 : 100;
    out->raw = zeros(cfg->ntau * B * N * S);
    for (int t = 0; t < cfg->ntau; t++) {
        memset(V, 0, (size_t)(B * N * S) * sizeof *V);
        for (int64_t b = 0; b < B; b++)
            field(cfg, in, U, cfg->tau[t], smax, out->f, diag, l2 ? 0 : cfg->floor, D + b * N * M,
                  y + b * M * S, w + b * M, V + b * N * S);
        memcpy(out->raw + t * B * N * S, V, (size_t)(B * N * S) * sizeof *V);
        double all = 0;
        for (int64_t i = 0; i < B * N * S; i++)
            all += V[i] * V[i] / (double)(B * N * S);
        out->v2[t] = all;
        for (int64_t b = 0; b < B; b++) {
            double v2 = 0;
            for (int64_t i = 0; i < N * S; i++)
                v2 += V[b * N * S + i] * V[b * N * S + i] / (double)(N * S);
            double rms = l2 ? sqrt(v2 + 1e-8) + 1e-8 : sqrt(fmax(all, 1e-8));
            for (int64_t i = 0; i < N * S; i++)
                total[b * N * S + i] += V[b * N * S + i] / rms;
        }
    }
    shorten(cfg, total, B * N, S);
    // The target, and the gradient of weight mean((x~ - target)^2) through x~.
    out->dgen = zeros(B * N * S);
    out->target = V;
    double g = -2 * (double)in->weight / (double)(B * N * S);
    for (int64_t r = 0; r < B * N; r++) {
        const real *gen = in->gen + r * S;
        double sq = 0, dot = 0;
        for (int64_t k = 0; k < S; k++) {
            sq += (double)gen[k] * (double)gen[k];
            dot += total[r * S + k] * x[r * S + k];
        }
        for (int64_t k = 0; k < S; k++) {
            double v = total[r * S + k], xt = x[r * S + k];
            out->loss += (double)in->weight * v * v / (double)(B * N * S);
            out->target[r * S + k] = xt / out->f + v;
            out->dgen[r * S + k] = l2 ? g * (v - xt * dot) / sqrt(sq) : g * v / out->f;
        }
    }
    free(x), free(y), free(w), free(D), free(total);
}

void ref_free(struct ref_out *out) {
    free(out->dgen);
    free(out->target);
    free(out->raw);
}

double ref_loss_at(const struct dr_loss_config *cfg, const struct dr_drift_in *in, const real *gen,
                   const struct ref_out *at) {
    int64_t rows = in->B * in->N, S = in->S;
    double *x = zeros(rows * S), loss = 0;
    for (int64_t i = 0; i < rows * S; i++)
        x[i] = (double)gen[i];
    if (cfg->field == DR_FIELD_KERNEL_L2)
        to_sphere(x, rows, S);
    for (int64_t i = 0; i < rows * S; i++)
        loss += pow(x[i] / at->f - at->target[i], 2);
    free(x);
    return (double)in->weight * loss / (double)(rows * S);
}

double ref_nmse(const real *a, const double *b, int64_t n) {
    double e = 0, q = 0;
    for (int64_t i = 0; i < n; i++) {
        e += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        q += b[i] * b[i];
    }
    return e / q;
}

double ref_nmse2(const real *a, const real *b, int64_t n) {
    double e = 0, q = 0;
    for (int64_t i = 0; i < n; i++) {
        e += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        q += (double)b[i] * (double)b[i];
    }
    return e / q;
}

// ---- the engine
// ----------------------------------------------------------------------------------

void rig_open(struct rig *r, int threads) {
    struct dr_err err = {0};
    *r = (struct rig){0};
    if (dr_backend_cpu(threads, &r->be, &err))
        abort();
    r->be->enter(r->be);
    size_t size = (size_t)48 << 20;
    r->block = aligned_alloc(DR_ALIGN, size);
    dr_arena_init(&r->tmp, r->block, size);
    r->cx = (struct dr_ctx){.be = r->be, .tmp = &r->tmp, .act = DR_F32};
}

void rig_close(struct rig *r) {
    dr_backend_free(r->be);
    free(r->block);
}

void eng_drift(struct rig *r, const struct dr_loss_config *cfg, const struct dr_drift_in *in,
               struct eng_out *out) {
    size_t n = (size_t)(in->B * in->N * in->S);
    *out = (struct eng_out){.dgen = malloc(n * (size_t)(1 + cfg->ntau) * sizeof(real))};
    out->field = out->dgen + n;
    dr_drift_loss(&r->cx, cfg, in,
                  &(struct dr_drift_out){.dgen = out->dgen,
                                         .loss = &out->loss,
                                         .v2 = out->v2,
                                         .stats = out->stats,
                                         .field = out->field});
    struct dr_err err = {0};
    if (r->be->sync(r->be, &err) || r->tmp.used) {
        dr_log(DR_LOG_ERROR, "engine: %s, %zu temporary bytes left", err.msg, r->tmp.used);
        abort();
    }
}

void test_slope(const struct slope *s) {
    double size = 0;
    for (int64_t k = 0; k < s->n; k++)
        size = fmax(size, fabs((double)s->dx[k]));
    assert_true(size > 0);
    for (int64_t k = 0; k < s->n; k += s->stride) {
        const real keep = s->x[k];
        s->x[k] = (real)((double)keep + s->h);
        const double xu = (double)s->x[k], up = s->value(s->ctx);
        s->x[k] = (real)((double)keep - s->h);
        const double xd = (double)s->x[k], down = s->value(s->ctx);
        s->x[k] = keep;
        const double want = (up - down) / (xu - xd);
        if (!(fabs((double)s->dx[k] - want) <= s->tol * size))
            fail_msg("%s, element %d: %.9g, differences say %.9g", s->what, (int)k,
                     (double)s->dx[k], want);
    }
}

real *test_normals(uint64_t seed, int64_t n, double mean, double std) {
    real *x = malloc((size_t)n * sizeof *x);
    dr_normals(seed, DR_STREAM_DATA, 0, x, n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (real)(mean + std * (double)x[i]);
    return x;
}

void feature_forward(struct dr_ctx *cx, const struct dr_features *f, int i, const real *x,
                     int64_t groups, int64_t n, bool reals, real *out, real *norm) {
    struct dr_maps m = {0};
    dr_features_extract(cx, f, NULL, (real *)x, groups, n, &m);
    dr_features_vectors(cx, f, i, &m, reals, out, norm);
}

void feature_backward(struct dr_ctx *cx, const struct dr_features *f, int i, const real *x,
                      int64_t groups, int64_t n, const real *out, const real *norm,
                      const real *dout, real *dx) {
    struct dr_maps m = {0}, dm = {.map = {dx}};
    dr_features_extract(cx, f, NULL, (real *)x, groups, n, &m);
    dr_features_vectors_backward(cx, f, i, &m, out, norm, dout, &dm);
    dr_features_backward(cx, f, NULL, &m, &dm, dx);
}
