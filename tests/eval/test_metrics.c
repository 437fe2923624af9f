// The mathematics of evaluation against golden values of independent programs (make_golden_eval.py)
// and against what they must do: bits that depend on nothing but the rows, states that come back.
#include "engine/core/rng.h"
#include "engine/eval/metrics.h"
#include "engine/io/safetensors.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <omp.h>

static const char *const cases[] = {"plain", "near", "wide", "deficient", "apart", "far", "copies"};
static struct dr_st_file *vectors;

static void must(int rc, const struct dr_err *err) {
    if (rc)
        fail_msg("%s", err->msg);
}

static const struct dr_st_tensor *tensor(const char *name, const char *what) {
    char full[128];
    snprintf(full, sizeof full, "%s.%s", name, what);
    const struct dr_st_tensor *t = dr_st_find(vectors, what[0] ? full : name);
    if (!t)
        fail_msg("no %s", full);
    return t;
}

static real *rows(const char *name, const char *what, int64_t *n, int64_t *d) {
    const struct dr_st_tensor *t = tensor(name, what);
    real *x = malloc((size_t)t->count * sizeof *x);
    for (int64_t i = 0; i < t->count; i++) {
        float v; // the file does not promise alignment
        memcpy(&v, (const char *)t->data + 4 * i, 4);
        x[i] = (real)v;
    }
    *n = t->dim[0];
    *d = t->dim[1];
    return x;
}

static double number(const char *name, const char *what, int i) {
    double v;
    memcpy(&v, (const char *)tensor(name, what)->data + 8 * i, 8);
    return v;
}

static void near(const char *name, const char *what, double got, double want, double limit) {
    if (!(fabs(got - want) <= limit * fabs(want)))
        fail_msg("%s of %s is %.15g, not %.15g", what, name, got, want);
}

struct pair {
    real *x, *y;
    int64_t n, m, d;
};
static struct pair load(const char *name) {
    struct pair p;
    p.x = rows(name, "x", &p.n, &p.d);
    p.y = rows(name, "y", &p.m, &p.d);
    return p;
}

static struct dr_moments *moments(const real *x, int64_t n, int64_t d, int64_t step) {
    struct dr_moments *m;
    struct dr_err err = {0};
    must(dr_moments_create(d, &m, &err), &err);
    for (int64_t i = 0; i < n; i += step)
        dr_moments_add(m, x + i * d, DR_MIN(step, n - i));
    return m;
}

static void frechet_agrees(void **state) {
    (void)state;
    struct dr_err err = {0};
    for (size_t i = 0; i < DR_COUNT(cases); i++) {
        struct pair p = load(cases[i]);
        struct dr_moments *a = moments(p.x, p.n, p.d, 7), *b = moments(p.y, p.m, p.d, p.m);
        double fd, back, same;
        must(dr_frechet(a, b, &fd, &err), &err);
        must(dr_frechet(b, a, &back, &err), &err);
        must(dr_frechet(a, a, &same, &err), &err);
        near(cases[i], "fd", fd, number(cases[i], "fd", 0), 1e-6);
        near(cases[i], "fd with sides exchanged", back, fd, 1e-6);
        assert_true(same < 1e-9 * (1 + fd));
        dr_moments_free(a);
        dr_moments_free(b);
        free(p.x);
        free(p.y);
    }
}

static void pairs_agree(void **state) {
    (void)state;
    struct dr_err err = {0};
    for (size_t i = 0; i < DR_COUNT(cases); i++) {
        struct pair p = load(cases[i]);
        struct dr_manifold m;
        struct dr_estimate kid;
        double near_to[256], sum = 0, spread;
        must(dr_manifold(p.x, p.n, p.y, p.m, p.d, 3, 5, &m, &err), &err);
        const double got[] = {m.precision, m.recall, m.density, m.coverage};
        for (int k = 0; k < 4; k++)
            assert_true(fabs(got[k] - number(cases[i], "manifold", k)) < 1e-12);
        const int64_t least = DR_MIN(p.n, p.m);
        must(dr_kid(p.x, least, p.y, least, p.d, 2, least, 5, &kid, &err), &err);
        if (strcmp(cases[i], "far")) // whose kernel is 1e18: no double holds the difference
            near(cases[i], "kid", kid.value, number(cases[i], "kid", 0), 1e-6);
        must(dr_nearest_rows(p.x, p.n, p.y, p.m, p.d, near_to, &err), &err);
        for (int64_t k = 0; k < p.n; k++)
            sum += near_to[k];
        near(cases[i], "nearest", sum / (double)p.n, number(cases[i], "nearest", 0), 1e-6);
        must(dr_mean_distance(p.x, p.n, p.d, &spread, &err), &err);
        near(cases[i], "spread", spread, number(cases[i], "spread", 0), 1e-6);
        free(p.x);
        free(p.y);
    }
}

static void score_agrees(void **state) {
    (void)state;
    enum { SPLITS = 5 };
    struct dr_err err = {0};
    struct dr_estimate s;
    int64_t n, d, count[SPLITS] = {0};
    real *x = rows("logits", "", &n, &d);
    double p[16], sum[SPLITS * 16] = {0}, plogp[SPLITS] = {0};
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = i * SPLITS / n;
        dr_softmax(x + i * d, d, p);
        count[at]++;
        for (int64_t c = 0; c < d; c++) {
            sum[at * d + c] += p[c];
            plogp[at] += p[c] * log(p[c]);
        }
    }
    must(dr_inception_score(SPLITS, d, sum, plogp, count, &s, &err), &err);
    near("score", "value", s.value, number("score", "", 0), 1e-6);
    near("score", "se", s.se, number("score", "", 1), 1e-6);
    free(x);
}

// ---- what does not matter

static real *cloud(int64_t n, int64_t d, uint64_t seed) {
    real *x = malloc((size_t)(n * d) * sizeof *x);
    dr_normals(seed, DR_STREAM_DATA, 0, x, n * d);
    return x;
}

struct all {
    double fd, kid, kid_se, spread, near_to;
    struct dr_manifold m;
};
static struct all everything(const real *x, const real *y, int64_t n, int64_t d, int64_t step) {
    struct all a;
    struct dr_err err = {0};
    struct dr_moments *mx = moments(x, n, d, step), *my = moments(y, n, d, n);
    struct dr_estimate kid;
    double *dist = malloc((size_t)n * sizeof *dist);
    memset(&a, 0, sizeof a);
    must(dr_frechet(mx, my, &a.fd, &err), &err);
    must(dr_kid(x, n, y, n, d, 5, n / 2, 1, &kid, &err), &err);
    a.kid = kid.value;
    a.kid_se = kid.se;
    must(dr_mean_distance(x, n, d, &a.spread, &err), &err);
    must(dr_manifold(x, n, y, n, d, 3, 5, &a.m, &err), &err);
    must(dr_nearest_rows(x, n, y, n, d, dist, &err), &err);
    for (int64_t i = 0; i < n; i++)
        a.near_to += dist[i];
    free(dist);
    dr_moments_free(mx);
    dr_moments_free(my);
    return a;
}

static void bits_depend_on_rows_alone(void **state) {
    (void)state;
    enum { N = 700, D = 37 };
    real *x = cloud(N, D, 1), *y = cloud(N, D, 2);
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    const struct all one = everything(x, y, N, D, N);
    assert_true(one.kid_se > 0 && one.fd > 0);
    for (int t = 1; t < 5; t++) {
        omp_set_num_threads(t);
        const struct all other = everything(x, y, N, D, 13 * t);
        assert_memory_equal(&one, &other, sizeof one);
    }
    omp_set_num_threads(threads);
    free(x);
    free(y);
}

// A row's nearest but itself is the first of its neighbours; rows beyond those searched have none
// of their own among them.
static void a_row_is_not_its_own_neighbour(void **state) {
    (void)state;
    enum { N = 700, SOME = 600, D = 5 };
    real *x = cloud(N, D, 3);
    double squares[N], near_to[N], all[N];
    struct dr_err err = {0};
    must(dr_nearest_others(x, N, D, 1, squares, &err), &err);
    must(dr_nearest_but_own(x, SOME, x, N, D, near_to, &err), &err);
    for (int i = 0; i < SOME; i++)
        assert_true(near_to[i] == sqrt(squares[i]));
    must(dr_nearest_rows(x, N, x, SOME, D, all, &err), &err);
    must(dr_nearest_but_own(x, N, x, SOME, D, near_to, &err), &err);
    for (int i = 0; i < N; i++)
        assert_true(i < SOME ? all[i] == 0 && near_to[i] > 0 : near_to[i] == all[i]);
    must(dr_nearest_but_own(x, 2, x, 1, D, near_to, &err), &err);
    assert_true(isinf(near_to[0]) && isfinite(near_to[1]));
    free(x);
}

// The spread of `kid` over other samples at the same reals, over the error that it gives itself.
static double spread_over_error(real shift) {
    enum { SETS = 40, N = 256, REALS = 1000, D = 8 };
    real *y = cloud(REALS, D, 3);
    double mean = 0, squares = 0, error = 0;
    struct dr_err err = {0};
    for (int i = 0; i < SETS; i++) {
        struct dr_estimate kid;
        real *x = cloud(N, D, 100 + (uint64_t)i);
        for (int j = 0; j < N * D; j++)
            x[j] += shift;
        must(dr_kid(x, N, y, REALS, D, 20, 128, 7, &kid, &err), &err);
        mean += kid.value / SETS;
        squares += kid.value * kid.value;
        error += kid.se / SETS;
        free(x);
    }
    free(y);
    return sqrt((squares - SETS * mean * mean) / (SETS - 1)) / error;
}

// 40 sets tell their spread within 11 %, the 20 subsets of each add a little to it; two parts in
// five are four times that. Without a shift the error may only be too large.
static void an_error_is_that_of_other_samples(void **state) {
    (void)state;
    const double far = spread_over_error((real)0.5), none = spread_over_error(0);
    printf("  spread over error: %.2f, without a shift %.2f\n", far, none);
    assert_true(far > 0.6 && far < 1.4);
    assert_true(none > 0.1 && none < 1.2);
}

static void moments_come_back(void **state) {
    (void)state;
    enum { N = 1000, D = 9 };
    struct dr_err err = {0};
    real *x = cloud(N, D, 3);
    double mean[2][D], cov[2][D * D];
    struct dr_moments *whole = moments(x, N, D, 1), *half = moments(x, 300, D, 300), *rest;
    double *saved = malloc((size_t)dr_moments_state_count(half) * sizeof *saved);
    dr_moments_state_get(half, saved);
    must(dr_moments_create(D, &rest, &err), &err);
    must(dr_moments_state_set(rest, saved, &err), &err);
    assert_int_equal(dr_moments_count(rest), 300);
    dr_moments_add(rest, x + 300 * D, N - 300);
    must(dr_moments_get(whole, mean[0], cov[0], &err), &err);
    must(dr_moments_get(rest, mean[1], cov[1], &err), &err);
    assert_memory_equal(mean[0], mean[1], sizeof mean[0]);
    assert_memory_equal(cov[0], cov[1], sizeof cov[0]);
    saved[1] = DR_MOMENTS_BLOCK;
    assert_int_equal(dr_moments_state_set(rest, saved, &err), DR_EFORMAT);
    // Merging parts gives the whole but for rounding.
    dr_moments_clear(rest);
    dr_moments_add(rest, x + 300 * D, N - 300);
    must(dr_moments_merge(half, rest, &err), &err);
    must(dr_moments_get(half, mean[1], cov[1], &err), &err);
    for (int i = 0; i < D * D; i++)
        assert_true(fabs(cov[0][i] - cov[1][i]) < 1e-13);
    free(saved);
    dr_moments_free(whole);
    dr_moments_free(half);
    dr_moments_free(rest);
    free(x);
}

// The extrapolated distance of samples of one distribution is near 0, where each part's is not.
static void a_line_takes_the_bias_away(void **state) {
    (void)state;
    enum { N = 2000, D = 20, PARTS = 4 };
    struct dr_err err = {0};
    double x[PARTS], fd[PARTS], weight[PARTS], zero;
    real *many = cloud(20000, D, 4);
    struct dr_moments *all = moments(many, 20000, D, 1000);
    for (int k = 0; k < PARTS; k++) {
        const int64_t parts = 8 >> k, n = N / parts;
        fd[k] = 0;
        for (int64_t i = 0; i < parts; i++) {
            real *part = cloud(n, D, (uint64_t)(100 + 10 * k + i));
            struct dr_moments *m = moments(part, n, D, n);
            double v;
            must(dr_frechet(m, all, &v, &err), &err);
            fd[k] += v / (double)parts;
            dr_moments_free(m);
            free(part);
        }
        x[k] = 1 / (double)n;
        weight[k] = (double)n;
    }
    must(dr_intercept(PARTS, x, fd, weight, &zero, &err), &err);
    assert_true(fd[0] > fd[1] && fd[1] > fd[2] && fd[2] > fd[3]);
    assert_true(fabs(zero) < fd[3] / 2);
    dr_moments_free(all);
    free(many);
}

static void bad_sizes_are_refused(void **state) {
    (void)state;
    struct dr_err err = {0};
    struct dr_manifold m;
    struct dr_estimate e;
    struct dr_moments *a, *b;
    real x[8] = {0};
    double v;
    assert_int_equal(dr_manifold(x, 4, x, 4, 2, 3, 5, &m, &err), DR_EINVAL);
    assert_int_equal(dr_kid(x, 4, x, 4, 2, 1, 5, 0, &e, &err), DR_EINVAL);
    assert_int_equal(dr_mean_distance(x, 1, 2, &v, &err), DR_EINVAL);
    assert_int_equal(dr_nearest_rows(x, 4, x, 0, 2, &v, &err), DR_EINVAL);
    assert_int_equal(dr_intercept(1, &(double){1}, &(double){1}, &(double){1}, &v, &err),
                     DR_EINVAL);
    must(dr_moments_create(2, &a, &err), &err);
    must(dr_moments_create(3, &b, &err), &err);
    dr_moments_add(a, x, 1);
    assert_int_equal(dr_moments_get(a, NULL, NULL, &err), DR_EINVAL);
    assert_int_equal(dr_frechet(a, b, &v, &err), DR_EINVAL);
    assert_int_equal(dr_moments_merge(a, b, &err), DR_EINVAL);
    dr_moments_free(b);
    must(dr_moments_create(2, &b, &err), &err);
    x[0] = (real)NAN;
    dr_moments_add(a, x, 3);
    dr_moments_add(b, x + 2, 3);
    assert_int_equal(dr_frechet(a, b, &v, &err), DR_ENONFINITE);
    dr_moments_free(a);
    dr_moments_free(b);
}

int main(int argc, char **argv) {
    struct dr_err err = {0};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frechet_agrees),
        cmocka_unit_test(pairs_agree),
        cmocka_unit_test(score_agrees),
        cmocka_unit_test(bits_depend_on_rows_alone),
        cmocka_unit_test(a_row_is_not_its_own_neighbour),
        cmocka_unit_test(an_error_is_that_of_other_samples),
        cmocka_unit_test(moments_come_back),
        cmocka_unit_test(a_line_takes_the_bias_away),
        cmocka_unit_test(bad_sizes_are_refused),
    };
    if (argc < 2 || dr_st_open(argv[1], &vectors, &err)) {
        fprintf(stderr, "no golden values: %s\n", err.msg);
        return 1;
    }
    const int rc = cmocka_run_group_tests(tests, NULL, NULL);
    dr_st_close(vectors);
    return rc;
}
