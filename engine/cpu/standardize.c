// Standardisation of features on the CPU (method.md 2, features.standardize): statistics by group
// and column, and their use. Called by engine/loss/features.c through the op table.
#include "engine/cpu/vec.h"

#include <math.h>

#define BLOCK 64 // columns of a unit of work

// acc[k] += (x[r,k] - shift[k])^power over `rows` rows that are s apart.
DR_INLINE void add_rows(double acc[BLOCK], const double shift[BLOCK], const real *x, int64_t rows,
                        int64_t s, int64_t cols, const int power) {
    for (int64_t r = 0; r < rows; r++, x += s)
        for (int64_t k = 0; k < cols; k++) {
            const double e = (double)x[k] - shift[k];
            acc[k] += power == 2 ? e * e : e;
        }
}

static void stats_block(const struct dr_column_stats_args *a, int64_t b, int64_t first) {
    const int64_t cols = DR_MIN(BLOCK, a->s - first);
    const real *x = a->x + b * a->n * a->s + first, *y = a->y + b * a->m * a->s + first;
    const double count = (double)(a->n + a->m);
    double mean[BLOCK] = {0}, square[BLOCK] = {0};
    const double zero[BLOCK] = {0};
    add_rows(mean, zero, x, a->n, a->s, cols, 1);
    add_rows(mean, zero, y, a->m, a->s, cols, 1);
    for (int64_t k = 0; k < cols; k++)
        mean[k] /= count;
    add_rows(square, mean, x, a->n, a->s, cols, 2);
    add_rows(square, mean, y, a->m, a->s, cols, 2);
    for (int64_t k = 0; k < cols; k++) {
        a->mean[b * a->s + first + k] = (real)mean[k];
        a->rstd[b * a->s + first + k] = (real)(1 / sqrt(square[k] / count + (double)a->eps));
    }
}

void DR_ISA_FN(column_stats)(struct dr_backend *be, const struct dr_column_stats_args *a) {
    const int64_t blocks = (a->s + BLOCK - 1) / BLOCK;
    DR_PARALLEL_FOR(be, a->b * (a->n + a->m) * a->s > DR_PAYS)
    for (int64_t t = 0; t < a->b * blocks; t++)
        stats_block(a, t / blocks, t % blocks * BLOCK);
}

static void standardize_row(const struct dr_standardize_args *a, int64_t row) {
    const int64_t b = row / a->n, i = a->shared ? row % a->n : row;
    const real *x = a->x + i * a->s, *rstd = a->rstd + b * a->s;
    real *y = a->y + row * a->s;
    if (a->mean) {
        const real *mean = a->mean + b * a->s;
        for (int64_t k = 0; k < a->s; k++)
            y[k] = (x[k] - mean[k]) * rstd[k];
    } else
        for (int64_t k = 0; k < a->s; k++)
            y[k] = x[k] * rstd[k];
}

void DR_ISA_FN(standardize)(struct dr_backend *be, const struct dr_standardize_args *a) {
    DR_PARALLEL_FOR(be, a->b * a->n * a->s > DR_PAYS)
    for (int64_t row = 0; row < a->b * a->n; row++)
        standardize_row(a, row);
}
