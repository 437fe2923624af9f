// Pixel features: what each vector holds, the gradient against finite differences, refusals.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/loss/features.h"
#include "tests/loss/ref.h"

enum { G = 2, N = 3, C = 2, H = 8, W = 12, LEN = G * N * C * H * W };

static struct dr_features *create(struct dr_feature_config cfg, int64_t c, int64_t h, int64_t w) {
    struct dr_features *f;
    struct dr_err err = {0};
    if (dr_features_create(&cfg, c, h, w, &f, &err))
        fail_msg("%s", err.msg);
    return f;
}

static const struct dr_feature_config all = {
    .image = true, .quadrants = true, .patch2 = true, .patch4 = true, .rms = 0.25, .rms_gain = 1.5};

// Element k of the vector of image (g, n) at a location, before any normalisation.
static double expected(const char *name, const real *x, int64_t g, int64_t n, int64_t location,
                       int64_t k) {
    const real *image = x + (g * N + n) * C * H * W;
    int64_t p = name[5] - '0';
    if (!strcmp(name, "image"))
        return (double)image[k];
    if (!strcmp(name, "quadrants")) {
        int64_t c = k / (H / 2 * W / 2), row = k / (W / 2) % (H / 2), col = k % (W / 2);
        return (double)image[(c * H + row + location / 2 * H / 2) * W + col + location % 2 * W / 2];
    }
    if (!strcmp(name, "rms")) {
        double sq = 0;
        for (int64_t q = 0; q < H * W; q++)
            sq += pow((double)image[k * H * W + q], 2) / (H * W);
        return sqrt(sq);
    }
    int64_t c = k / (H / p * W / p), row = k / (W / p) % (H / p) * p, col = k % (W / p) * p;
    double mean = 0, var = 0, count = (double)(p * p);
    for (int64_t q = 0; q < p * p; q++)
        mean += (double)image[(c * H + row + q / p) * W + col + q % p] / count;
    for (int64_t q = 0; q < p * p; q++)
        var += pow((double)image[(c * H + row + q / p) * W + col + q % p] - mean, 2) / count;
    return strstr(name, "mean") ? mean : sqrt(var + 1e-6);
}

static void vectors_hold_what_they_should(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2);
    real *x = test_normals(1, LEN, 0.2, 1), out[LEN], norm[G * N * 4];
    for (int sphere = 0; sphere < 2; sphere++) {
        struct dr_feature_config cfg = all;
        cfg.norm = sphere ? DR_FEATURE_NORM_SPHERE : DR_FEATURE_NORM_NONE;
        struct dr_features *f = create(cfg, C, H, W);
        assert_int_equal(dr_features_count(f), 7);
        for (int i = 0; i < 7; i++) {
            struct dr_feature_dim d = dr_features_dim(f, i);
            feature_forward(&r.cx, f, i, x, G, N, false, out, norm);
            const bool on_sphere = sphere && strcmp(d.name, "rms"); // never
            double want[LEN];
            for (int64_t v = 0; v < G * d.locations * N; v++) { // vector by vector, [g,t,n]
                int64_t g = v / N / d.locations, t = v / N % d.locations, n = v % N;
                double sq = 0;
                for (int64_t k = 0; k < d.s; k++) {
                    want[v * d.s + k] = expected(d.name, x, g, n, t, k);
                    sq += want[v * d.s + k] * want[v * d.s + k];
                }
                for (int64_t k = 0; on_sphere && k < d.s; k++)
                    want[v * d.s + k] /= sqrt(sq);
                if (on_sphere)
                    assert_true(fabs((double)norm[v] - sqrt(sq)) < 1e-5 * sqrt(sq));
            }
            assert_true(ref_nmse(out, want, G * N * d.locations * d.s) < 1e-10);
            assert_true(d.weight == (strcmp(d.name, "rms") ? (real)1 : (real)0.25));
        }
        dr_features_free(f);
    }
    struct dr_err err = {0};
    assert_int_equal(r.be->sync(r.be, &err), 0);
    assert_int_equal(r.tmp.used, 0);
    free(x);
    rig_close(&r);
}

// Reals are what the generated are, but for the gain of rms.
static void reals_differ_by_the_gain(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 1);
    real *x = test_normals(4, LEN, 0.2, 1), out[LEN], reals[LEN];
    struct dr_feature_config cfg = all;
    cfg.norm = DR_FEATURE_NORM_SPHERE;
    struct dr_features *f = create(cfg, C, H, W);
    for (int i = 0; i < dr_features_count(f); i++) {
        struct dr_feature_dim d = dr_features_dim(f, i);
        const double gain = strcmp(d.name, "rms") ? 1 : cfg.rms_gain;
        feature_forward(&r.cx, f, i, x, G, N, false, out, NULL);
        feature_forward(&r.cx, f, i, x, G, N, true, reals, NULL);
        for (int64_t k = 0; k < G * N * d.locations * d.s; k++)
            assert_true(fabs((double)reals[k] - gain * (double)out[k]) <=
                        1e-6 * fabs((double)reals[k]));
    }
    dr_features_free(f);
    assert_int_equal(r.tmp.used, 0);
    free(x);
    rig_close(&r);
}

struct weighted {
    struct rig *r;
    const struct dr_features *f;
    int i; // which feature
    const real *x, *weight;
};

// sum(weight * feature(x))
static double weighted_sum(void *ctx) {
    const struct weighted *w = ctx;
    struct dr_feature_dim d = dr_features_dim(w->f, w->i);
    real out[LEN];
    feature_forward(&w->r->cx, w->f, w->i, w->x, G, N, false, out, NULL);
    double sum = 0;
    for (int64_t k = 0; k < G * N * d.locations * d.s; k++)
        sum += (double)w->weight[k] * (double)out[k];
    return sum;
}

// dx accumulates the gradient: it starts at 1 everywhere.
static void gradient_agrees_with_differences(void **state) {
    (void)state;
#ifdef DR_DOUBLE
    const double h = 1e-6, tol = 1e-6;
#else
    const double h = 1.0 / 256, tol = 5e-3;
#endif
    struct rig r;
    rig_open(&r, 1);
    real *x = test_normals(2, LEN, 0.2, 1), *weight = test_normals(3, LEN, 0, 1);
    real out[LEN], norm[G * N * 4], dx[LEN];
    for (int sphere = 0; sphere < 2; sphere++) {
        struct dr_feature_config cfg = all;
        cfg.norm = sphere ? DR_FEATURE_NORM_SPHERE : DR_FEATURE_NORM_NONE;
        struct dr_features *f = create(cfg, C, H, W);
        for (int i = 0; i < dr_features_count(f); i++) {
            feature_forward(&r.cx, f, i, x, G, N, false, out, norm);
            struct weighted at = {&r, f, i, x, weight};
            for (int k = 0; k < LEN; k++)
                dx[k] = 1;
            feature_backward(&r.cx, f, i, x, G, N, out, norm, weight, dx);
            for (int k = 0; k < LEN; k++)
                dx[k] -= 1;
            test_slope(&(struct slope){.what = dr_features_dim(f, i).name,
                                       .x = x,
                                       .dx = dx,
                                       .n = LEN,
                                       .stride = 7,
                                       .h = h,
                                       .tol = tol,
                                       .value = weighted_sum,
                                       .ctx = &at});
        }
        dr_features_free(f);
    }
    struct dr_err err = {0};
    assert_int_equal(r.be->sync(r.be, &err), 0);
    assert_int_equal(r.tmp.used, 0);
    free(x), free(weight);
    rig_close(&r);
}

// ---- standardisation

enum { P = 4, U = 2 };

struct sets { // of one feature: the images, their vectors before, and what enters the loss
    real *x[3];
    real raw[3][G * 4 * P * C * H * W], norm[G * N * 4];
    struct dr_drift_in in;
    struct dr_standard st;
    struct dr_feature_dim d;
};

static void take_sets(struct rig *r, const struct dr_features *f, int i, struct sets *s) {
    const int64_t T = dr_features_dim(f, i).locations;
    s->d = dr_features_dim(f, i);
    feature_forward(&r->cx, f, i, s->x[0], G, N, false, s->raw[0], NULL);
    feature_forward(&r->cx, f, i, s->x[1], G, P, true, s->raw[1], NULL);
    feature_forward(&r->cx, f, i, s->x[2], T == 1 ? 1 : G, U, true, s->raw[2], NULL);
    s->in = (struct dr_drift_in){.gen = s->raw[0],
                                 .pos = s->raw[1],
                                 .unc = s->raw[2],
                                 .B = G * T,
                                 .N = N,
                                 .P = P,
                                 .U = U,
                                 .S = s->d.s,
                                 .unc_shared = T == 1};
    dr_features_standardize(&r->cx, f, i, &s->in, s->norm, &s->st);
}

// Row of n in group b as it should enter the loss: every dimension by the mean and the variance of
// the group's generated and positive samples.
static void standard_row(const struct sets *s, const real *row, int64_t b, bool sphere,
                         double *out) {
    double length = 0;
    const int64_t S = s->d.s;
    for (int64_t k = 0; k < S; k++) {
        double mean = 0, var = 0;
        for (int64_t j = 0; j < N + P; j++)
            mean += (double)(j < N ? s->raw[0][(b * N + j) * S + k]
                                   : s->raw[1][(b * P + j - N) * S + k]) /
                    (N + P);
        for (int64_t j = 0; j < N + P; j++)
            var += pow((double)(j < N ? s->raw[0][(b * N + j) * S + k]
                                      : s->raw[1][(b * P + j - N) * S + k]) -
                           mean,
                       2) /
                   (N + P);
        out[k] = ((double)row[k] - mean) / sqrt(var + 1e-6);
        length += out[k] * out[k];
    }
    for (int64_t k = 0; sphere && k < S; k++)
        out[k] /= sqrt(length);
}

static void check_rows(const struct sets *s, const real *got, const real *raw, int64_t n,
                       bool shared, bool sphere) {
    double want[C * H * W];
    for (int64_t row = 0; row < s->in.B * n; row++) {
        const real *x = raw + (shared ? row % n : row) * s->d.s;
        standard_row(s, x, row / n, sphere, want);
        if (!(ref_nmse(got + row * s->d.s, want, s->d.s) < 1e-9))
            fail_msg("%s sphere %d: row %d of %d differs", s->d.name, sphere, (int)row,
                     (int)(s->in.B * n));
    }
}

static struct dr_features *standardizing(int sphere) {
    struct dr_feature_config cfg = all;
    cfg.norm = sphere ? DR_FEATURE_NORM_SPHERE : DR_FEATURE_NORM_NONE;
    cfg.standardize = DR_STANDARDIZE_BATCH;
    return create(cfg, C, H, W);
}

static void make_images(struct sets *s) {
    s->x[0] = test_normals(5, LEN, 0.2, 1);
    s->x[1] = test_normals(6, G * P * C * H * W, -0.1, 0.7);
    s->x[2] = test_normals(7, G * U * C * H * W, 0.3, 1.3);
}

static void groups_are_standardized(void **state) {
    (void)state;
    static struct sets s;
    struct rig r;
    rig_open(&r, 2);
    make_images(&s);
    for (int sphere = 0; sphere < 2; sphere++) {
        struct dr_features *f = standardizing(sphere);
        for (int i = 0; i < dr_features_count(f); i++) {
            const size_t mark = dr_mark(&r.tmp);
            take_sets(&r, f, i, &s);
            if (!strcmp(s.d.name, "rms")) { // holds a length: left as it is
                assert_true(!s.st.rstd && s.in.gen == s.raw[0] && s.in.pos == s.raw[1]);
                continue;
            }
            const bool shared = s.d.locations == 1;
            check_rows(&s, s.in.gen, s.raw[0], N, false, sphere);
            check_rows(&s, s.in.pos, s.raw[1], P, false, sphere);
            check_rows(&s, s.in.unc, s.raw[2], U, shared, sphere);
            assert_false(s.in.unc_shared);
            dr_release(&r.tmp, mark);
        }
        dr_features_free(f);
    }
    for (int k = 0; k < 3; k++)
        free(s.x[k]);
    rig_close(&r);
}

struct standard {
    struct weighted w;
    struct sets *s;
    bool sphere;
};
static double standard_sum(void *ctx) {
    const struct standard *t = ctx;
    const int64_t S = t->s->d.s;
    real moved[LEN];
    double row[C * H * W], sum = 0;
    feature_forward(&t->w.r->cx, t->w.f, t->w.i, t->w.x, G, N, false, moved, NULL);
    for (int64_t q = 0; q < t->s->in.B * N; q++) {
        standard_row(t->s, moved + q * S, q / N, t->sphere, row);
        for (int64_t c = 0; c < S; c++)
            sum += (double)t->w.weight[q * S + c] * row[c];
    }
    return sum;
}

// Through the affine map and the sphere, with the statistics held fixed.
static void standardized_gradient_agrees(void **state) {
    (void)state;
#ifdef DR_DOUBLE
    const double h = 1e-6, tol = 1e-6;
#else
    const double h = 1.0 / 256, tol = 5e-3;
#endif
    static struct sets s;
    struct rig r;
    rig_open(&r, 1);
    make_images(&s);
    real *weight = test_normals(8, LEN, 0, 1), dx[LEN], dgen[LEN];
    for (int sphere = 0; sphere < 2; sphere++) {
        struct dr_features *f = standardizing(sphere);
        for (int i = 0; i < dr_features_count(f) - 1; i++) {
            const size_t mark = dr_mark(&r.tmp);
            take_sets(&r, f, i, &s);
            const int64_t S = s.d.s, rows = s.in.B * N;
            memcpy(dgen, weight, (size_t)(rows * S) * sizeof *dgen);
            memset(dx, 0, sizeof dx);
            dr_features_standardize_backward(&r.cx, f, &s.in, s.norm, &s.st, dgen);
            feature_backward(&r.cx, f, i, s.x[0], G, N, s.raw[0], s.norm, dgen, dx);
            struct standard at = {{&r, f, i, s.x[0], weight}, &s, sphere};
            test_slope(&(struct slope){.what = s.d.name,
                                       .x = s.x[0],
                                       .dx = dx,
                                       .n = LEN,
                                       .stride = 11,
                                       .h = h,
                                       .tol = tol,
                                       .value = standard_sum,
                                       .ctx = &at});
            dr_release(&r.tmp, mark);
        }
        dr_features_free(f);
    }
    for (int k = 0; k < 3; k++)
        free(s.x[k]);
    free(weight);
    rig_close(&r);
}

static void a_point_is_its_own_feature(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 1);
    struct dr_features *f = create((struct dr_feature_config){.image = true}, 2, 1, 1);
    assert_int_equal(dr_features_count(f), 1);
    assert_int_equal(dr_features_dim(f, 0).locations, 1);
    assert_int_equal(dr_features_dim(f, 0).s, 2);
    real x[20], out[20];
    for (int i = 0; i < 20; i++)
        x[i] = (real)i;
    feature_forward(&r.cx, f, 0, x, 2, 5, false, out, NULL);
    assert_memory_equal(x, out, sizeof x);
    dr_features_free(f);
    rig_close(&r);
}

static void refused(struct dr_feature_config cfg, int64_t h, int64_t w, const char *word) {
    struct dr_features *f = (void *)&cfg;
    struct dr_err err = {0};
    assert_int_equal(dr_features_create(&cfg, 1, h, w, &f, &err), DR_ECONFIG);
    assert_null(f);
    if (!strstr(err.msg, word))
        fail_msg("\"%s\" does not name %s", err.msg, word);
}

static void impossible_features_are_refused(void **state) {
    (void)state;
    refused((struct dr_feature_config){0}, 8, 8, "features.image");
    refused((struct dr_feature_config){.quadrants = true}, 7, 8, "features.quadrants");
    refused((struct dr_feature_config){.quadrants = true}, 8, 7, "8x7");
    refused((struct dr_feature_config){.patch2 = true}, 8, 9, "features.patch2");
    refused((struct dr_feature_config){.patch4 = true}, 6, 8, "features.patch4");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_hold_what_they_should),
        cmocka_unit_test(reals_differ_by_the_gain),
        cmocka_unit_test(gradient_agrees_with_differences),
        cmocka_unit_test(groups_are_standardized),
        cmocka_unit_test(standardized_gradient_agrees),
        cmocka_unit_test(a_point_is_its_own_feature),
        cmocka_unit_test(impossible_features_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
