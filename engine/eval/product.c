// See product.h. The tile is written as a macro because GCC lowers vector types to the baseline
// before it would inline them into a function of another instruction set.
#include "engine/eval/product.h"

#include <string.h>

enum { ROWS = 6, COLS = 8, PIECE = EVAL_PIECE };
typedef double vec __attribute__((vector_size(COLS * sizeof(double))));

// out[r] = sum over k of a[r][k] * b[k]; b: [depth, COLS].
#define TILE(name, target)                                                                         \
    target static void name(const double *const a[ROWS], const double *b, int64_t depth,           \
                            double(*out)[COLS]) {                                                  \
        vec acc[ROWS] = {0};                                                                       \
        for (int64_t k = 0; k < depth; k++) {                                                      \
            vec v;                                                                                 \
            memcpy(&v, b + k * COLS, sizeof v);                                                    \
            for (int r = 0; r < ROWS; r++)                                                         \
                acc[r] += a[r][k] * v;                                                             \
        }                                                                                          \
        memcpy(out, acc, sizeof acc);                                                              \
    }
TILE(tile_base, )
#ifdef __x86_64__
TILE(tile_avx2, __attribute__((target("avx2"))))
TILE(tile_avx512, __attribute__((target("avx512f"))))
#endif

typedef void tile_fn(const double *const a[ROWS], const double *b, int64_t depth,
                     double (*out)[COLS]);
static tile_fn *pick(void) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f"))
        return tile_avx512;
    if (__builtin_cpu_supports("avx2"))
        return tile_avx2;
#endif
    return tile_base;
}

// Columns of b's rows j .. j + COLS - 1 from k on, transposed, zero beyond m.
static void pack(const double *b, int64_t m, int64_t depth, int64_t j, int64_t k, int64_t count,
                 double *out) {
    for (int64_t c = 0; c < COLS; c++)
        for (int64_t i = 0; i < count; i++)
            out[i * COLS + c] = j + c < m ? b[(j + c) * depth + k + i] : 0;
}

// One piece of the sums of one tile's columns: a and c at its first row, column and k.
static void columns(tile_fn *tile, const double *a, int64_t n, int64_t lda, const double *packed,
                    int64_t count, int64_t width, double *c, int64_t ldc) {
    for (int64_t i = 0; i < n; i += ROWS) {
        const double *rows[ROWS];
        double out[ROWS][COLS];
        for (int64_t r = 0; r < ROWS; r++)
            rows[r] = a + DR_MIN(i + r, n - 1) * lda;
        tile(rows, packed, count, out);
        for (int64_t r = 0; r < DR_MIN((int64_t)ROWS, n - i); r++)
            for (int64_t k = 0; k < width; k++)
                c[(i + r) * ldc + k] += out[r][k];
    }
}

void eval_product(const double *a, int64_t n, const double *b, int64_t m, int64_t depth, double *c,
                  int64_t ldc, bool upper) {
    tile_fn *tile = pick();
    const int64_t tiles = (m + COLS - 1) / COLS;
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t t = 0; t < tiles; t++) {
        double packed[PIECE * COLS] __attribute__((aligned(64)));
        const int64_t j = t * COLS, width = DR_MIN((int64_t)COLS, m - j);
        const int64_t rows = upper ? DR_MIN(n, j + width) : n;
        for (int64_t k = 0; k < depth; k += PIECE) {
            const int64_t count = DR_MIN((int64_t)PIECE, depth - k);
            pack(b, m, depth, j, k, count, packed);
            columns(tile, a + k, rows, depth, packed, count, width, c + j, ldc);
        }
    }
}
