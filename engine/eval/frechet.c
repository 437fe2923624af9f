// The Frechet distance by LAPACK. See metrics.h.
#include "engine/eval/metrics.h"
#include "engine/eval/product.h"

#include <dlfcn.h>
#include <lapacke.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

// Where LAPACK is OpenBLAS, the bits of its results would depend on its number of threads.
static void one_thread(void) {
    void (*set)(int);
    *(void **)&set = dlsym(RTLD_DEFAULT, "openblas_set_num_threads");
    if (set)
        set(1);
}

// c [d,d], symmetric, becomes the transpose of a factor: rows 0 .. rank - 1 of l are columns of L
// with C = L L'. Directions whose variance is rounding are dropped.
static int factor(int64_t d, double *c, double *l, int64_t *rank, struct dr_err *err) {
    lapack_int *pivot = malloc((size_t)d * sizeof *pivot), r = 0;
    if (!pivot)
        return dr_fail(err, DR_ENOMEM, "out of memory for a factor of %lld features", (long long)d);
    // P' C P = L L'; columns of L are rows here.
    const lapack_int info =
        LAPACKE_dpstrf(LAPACK_COL_MAJOR, 'L', (lapack_int)d, c, (lapack_int)d, pivot, &r, -1);
    memset(l, 0, (size_t)(d * d) * sizeof *l);
    for (int64_t k = 0; k < r; k++)
        for (int64_t j = k; j < d; j++)
            l[k * d + pivot[j] - 1] = c[k * d + j];
    *rank = r;
    free(pivot);
    if (info < 0)
        return dr_fail(err, info == LAPACK_WORK_MEMORY_ERROR ? DR_ENOMEM : DR_ENONFINITE,
                       "a covariance of %lld features has no factor: is it finite?", (long long)d);
    return 0;
}

// Sum of singular values of m [rows,cols], which is overwritten; LAPACK sees its transpose.
static int nuclear(int64_t rows, int64_t cols, double *m, double *out, struct dr_err *err) {
    const int64_t n = DR_MIN(rows, cols);
    double *s = malloc((size_t)DR_MAX(n, (int64_t)1) * sizeof *s), unused;
    if (!s)
        return dr_fail(err, DR_ENOMEM, "out of memory for singular values");
    *out = 0;
    lapack_int info = 0;
    if (n)
        info = LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'N', (lapack_int)cols, (lapack_int)rows, m,
                              (lapack_int)cols, s, &unused, 1, &unused, 1);
    for (int64_t i = n - 1; i >= 0; i--)
        *out += s[i];
    free(s);
    if (info)
        return dr_fail(err, info == LAPACK_WORK_MEMORY_ERROR ? DR_ENOMEM : DR_ENONFINITE,
                       "the singular values of two covariances were not found");
    return 0;
}

static int distance(int64_t d, const double *m1, double *c1, const double *m2, double *c2,
                    double *work, double *out, struct dr_err *err) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    double mean = 0, traces = 0, cross = 0;
    double *l1 = work, *l2 = work + d * d;
    int64_t r1 = 0, r2 = 0;
    pthread_once(&once, one_thread);
    for (int64_t i = 0; i < d; i++) {
        mean += (m1[i] - m2[i]) * (m1[i] - m2[i]);
        traces += c1[i * d + i] + c2[i * d + i];
    }
    if (!isfinite(mean) || !isfinite(traces))
        return dr_fail(err, DR_ENONFINITE, "features are not finite");
    int rc = factor(d, c1, l1, &r1, err);
    if (!rc)
        rc = factor(d, c2, l2, &r2, err);
    if (rc)
        return rc;
    memset(c1, 0, (size_t)(r1 * r2) * sizeof *c1);
    eval_product(l1, r1, l2, r2, d, c1, r2, false);
    rc = nuclear(r1, r2, c1, &cross, err);
    if (!rc)
        *out = fmax(0, mean + traces - 2 * cross);
    return rc;
}

int dr_frechet_of(int64_t d, const double *m1, const double *c1, const double *m2, const double *c2,
                  double *out, struct dr_err *err) {
    const size_t count = (size_t)(d * d);
    double *work = malloc(4 * count * sizeof *work);
    if (!work)
        return dr_fail(err, DR_ENOMEM, "out of memory for a distance of %lld features",
                       (long long)d);
    memcpy(work, c1, count * sizeof *work);
    memcpy(work + count, c2, count * sizeof *work);
    const int rc = distance(d, m1, work, m2, work + count, work + 2 * count, out, err);
    free(work);
    return rc;
}

int dr_frechet(struct dr_moments *a, struct dr_moments *b, double *out, struct dr_err *err) {
    const int64_t d = dr_moments_width(a), square = d * d;
    if (d != dr_moments_width(b))
        return dr_fail(err, DR_EINVAL,
                       "features of width %lld cannot be compared with those of %lld", (long long)d,
                       (long long)dr_moments_width(b));
    double *work = malloc((size_t)(4 * square + 2 * d) * sizeof *work);
    if (!work)
        return dr_fail(err, DR_ENOMEM, "out of memory for a distance of %lld features",
                       (long long)d);
    double *c1 = work, *c2 = work + square, *m1 = work + 4 * square, *m2 = m1 + d;
    int rc = dr_moments_get(a, m1, c1, err);
    if (!rc)
        rc = dr_moments_get(b, m2, c2, err);
    if (!rc)
        rc = distance(d, m1, c1, m2, c2, work + 2 * square, out, err);
    free(work);
    return rc;
}

int dr_intercept(int64_t n, const double *x, const double *value, const double *weight,
                 double *intercept, struct dr_err *err) {
    double w = 0, mx = 0, mv = 0, xx = 0, xv = 0;
    for (int64_t i = 0; i < n; i++) {
        w += weight[i];
        mx += weight[i] * x[i];
        mv += weight[i] * value[i];
    }
    mx /= w;
    mv /= w;
    for (int64_t i = 0; i < n; i++) {
        xx += weight[i] * (x[i] - mx) * (x[i] - mx);
        xv += weight[i] * (x[i] - mx) * (value[i] - mv);
    }
    if (!(xx > 0))
        return dr_fail(err, DR_EINVAL, "a line needs two numbers of images that differ");
    *intercept = mv - xv / xx * mx;
    return 0;
}
