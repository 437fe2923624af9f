// The kernel distance. See metrics.h.
#include "engine/core/rng.h"
#include "engine/eval/metrics.h"
#include "engine/eval/product.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct kid {
    int64_t d, size;
    int64_t *order; // [DR_MAX(nx, ny)]
    double *x, *y;  // [size,d]
    double *p;      // [size,size]
};

// `size` different rows of x[n,d], in double.
static void draw(const struct kid *k, const real *x, int64_t n, uint64_t seed, uint64_t number,
                 double *rows) {
    struct dr_rng g;
    dr_rng_init(&g, seed, DR_STREAM_SAMPLER, number);
    for (int64_t i = 0; i < n; i++)
        k->order[i] = i;
    for (int64_t i = 0; i < k->size; i++) {
        const int64_t at = i + dr_rng_below(&g, (uint32_t)(n - i)), row = k->order[at];
        k->order[at] = k->order[i];
        for (int64_t c = 0; c < k->d; c++)
            rows[i * k->d + c] = (double)x[row * k->d + c];
    }
}

// Sum of the kernel over pairs of rows; `same`: of rows that differ.
static double kernel_sum(const struct kid *k, const double *a, const double *b, bool same) {
    const int64_t n = k->size;
    double sum = 0;
    memset(k->p, 0, (size_t)(n * n) * sizeof *k->p);
    eval_product(a, n, b, n, k->d, k->p, n, same);
    for (int64_t i = 0; i < n; i++) {
        double s = 0;
        for (int64_t j = same ? i + 1 : 0; j < n; j++) {
            const double v = k->p[i * n + j] / (double)k->d + 1;
            s += v * v * v;
        }
        sum += same ? 2 * s : s;
    }
    return sum;
}

static double one_subset(const struct kid *k) {
    const double n = (double)k->size, pairs = n * (n - 1);
    return kernel_sum(k, k->x, k->x, true) / pairs + kernel_sum(k, k->y, k->y, true) / pairs -
           2 * kernel_sum(k, k->x, k->y, false) / (n * n);
}

// The spread of the distances of eight parts of x to the same rows of y, had they been as large as
// all of x: what other samples would change. (Subsets of one set overlap, and their spread says
// little about another set.) Too large where the distance is nearly 0, as the error of `fd` is.
static double error_of_parts(struct kid *k, const real *x, int64_t nx, const real *y, int64_t ny,
                             uint64_t seed) {
    enum { PARTS = 8 };
    double value[PARTS], mean = 0, squares = 0;
    k->size = DR_MIN(nx / PARTS, k->size);
    if (k->size < 2)
        return NAN;
    draw(k, y, ny, seed, 1, k->y);
    for (int part = 0; part < PARTS; part++) {
        const real *from = x + part * (nx / PARTS) * k->d;
        for (int64_t i = 0; i < k->size * k->d; i++)
            k->x[i] = (double)from[i];
        mean += (value[part] = one_subset(k)) / PARTS;
    }
    for (int part = 0; part < PARTS; part++)
        squares += (value[part] - mean) * (value[part] - mean);
    return sqrt(squares / (PARTS - 1) / PARTS);
}

int dr_kid(const real *x, int64_t nx, const real *y, int64_t ny, int64_t d, int64_t subsets,
           int64_t size, uint64_t seed, struct dr_estimate *out, struct dr_err *err) {
    struct kid k = {.d = d, .size = size};
    double sum = 0;
    if (size < 2 || subsets < 1 || DR_MIN(nx, ny) < size)
        return dr_fail(err, DR_EINVAL,
                       "the kernel distance needs subsets of 2 to %lld images, not %lld",
                       (long long)DR_MIN(nx, ny), (long long)size);
    k.order = malloc((size_t)DR_MAX(nx, ny) * sizeof *k.order);
    k.x = malloc((size_t)(2 * size * d + size * size) * sizeof *k.x);
    if (!k.order || !k.x) {
        free(k.order);
        free(k.x);
        return dr_fail(err, DR_ENOMEM, "out of memory for subsets of %lld images", (long long)size);
    }
    k.y = k.x + size * d;
    k.p = k.y + size * d;
    for (int64_t i = 0; i < subsets; i++) {
        draw(&k, x, nx, seed, 2 * (uint64_t)i, k.x);
        draw(&k, y, ny, seed, 2 * (uint64_t)i + 1, k.y);
        sum += one_subset(&k);
    }
    out->value = sum / (double)subsets;
    out->se = error_of_parts(&k, x, nx, y, ny, seed);
    free(k.order);
    free(k.x);
    return 0;
}
