// Matrix products in plain C: the gradient build (double), builds without oneDNN, and CPUs without
// AVX-512, where the rows of oneDNN's products depend on the number of rows (gemm_onednn.c).
//
// Each element of C is one sum over k in ascending order, so a row does not depend on the other
// rows. Tiles of B are packed so that the inner loop runs over contiguous columns.
#include "engine/cpu/conv.h"
#include "engine/cpu/cpu.h"

#include "driftd_config.h"

#include <stdio.h>

enum { TILE_M = 4, TILE_N = 64, TILE_K = 256 };

struct view { // element (i, j) of op(X)
    const void *p;
    enum dr_dtype t;
    int64_t row, col;
};

static struct view view_of(const void *p, enum dr_dtype t, int64_t ld, bool trans) {
    return (struct view){.p = p, .t = t, .row = trans ? 1 : ld, .col = trans ? ld : 1};
}

static inline real at(const struct view *v, int64_t i, int64_t j) {
    return dr_get(v->p, v->t, i * v->row + j * v->col);
}

// acc[rows][TILE_N] += A[i0.., k0..] packed_b
DR_HOT static void tile(real acc[TILE_M][TILE_N], const struct view *a, const real *b, int64_t i0,
                        int64_t rows, int64_t k0, int64_t ks) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < ks; k++) {
            real x = at(a, i0 + i, k0 + k);
            for (int64_t j = 0; j < TILE_N; j++)
                acc[i][j] += x * b[k * TILE_N + j];
        }
}

static void pack_b(real *out, const struct view *b, int64_t k, int64_t j0, int64_t cols) {
    for (int64_t l = 0; l < k; l++)
        for (int64_t j = 0; j < TILE_N; j++)
            out[l * TILE_N + j] = j < cols ? at(b, l, j0 + j) : 0;
}

// TILE_M rows of C against one packed panel of B.
static void rows_by_panel(const struct dr_gemm_args *g, const struct view *a, const real *panel,
                          void *c, int64_t i0, int64_t j0, int64_t cols) {
    real acc[TILE_M][TILE_N] = {0};
    int64_t rows = DR_MIN((int64_t)TILE_M, g->m - i0);
    for (int64_t k0 = 0; k0 < g->k; k0 += TILE_K)
        tile(acc, a, panel + k0 * TILE_N, i0, rows, k0, DR_MIN((int64_t)TILE_K, g->k - k0));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            int64_t o = (i0 + i) * g->ldc + j0 + j;
            real add = g->acc ? dr_get(c, g->ct, o) : g->bias ? g->bias[j0 + j] : 0;
            dr_put(c, g->ct, o, acc[i][j] + add);
        }
}

void dr_gemm_ref(struct dr_backend *be, const struct dr_gemm_args *g) {
    int64_t batch = DR_MAX(g->batch, (int64_t)1);
    real *panel = dr_cpu_scratch(be, DR_WS_GEMM, (size_t)DR_MAX(g->k, 1) * TILE_N * sizeof(real));
    if (!panel)
        return;
    for (int64_t s = 0; s < batch; s++) {
        struct view a = view_of(dr_at(g->a, g->abt, s * g->stride_a), g->abt, g->lda, g->ta);
        struct view b = view_of(dr_at(g->b, g->abt, s * g->stride_b), g->abt, g->ldb, g->tb);
        void *c = dr_at_mut(g->c, g->ct, s * g->stride_c);
        for (int64_t j0 = 0; j0 < g->n; j0 += TILE_N) {
            int64_t cols = DR_MIN((int64_t)TILE_N, g->n - j0);
            pack_b(panel, &b, g->k, j0, cols);
            DR_PARALLEL_FOR(be, g->m * cols * g->k > DR_PAYS)
            for (int64_t i0 = 0; i0 < g->m; i0 += TILE_M)
                rows_by_panel(g, &a, panel, c, i0, j0, cols);
        }
    }
}

#if defined(DR_DOUBLE) || !DR_HAVE_ONEDNN

void dr_cpu_gemm(struct dr_backend *be, const struct dr_gemm_args *g) {
    dr_gemm_ref(be, g);
}

enum { SOURCE_ROWS = 256 };

void dr_cpu_gemm_from(struct dr_backend *be, const struct dr_gemm_args *a,
                      const struct dr_gemm_source *from) {
    const int64_t rows = a->ta ? a->k : a->m, cols = a->ta ? a->n : a->k;
    const size_t size = (size_t)(SOURCE_ROWS * cols) * sizeof(real);
    char *block =
        dr_cpu_scratch(be, DR_WS_FROM, size + (size_t)(SOURCE_ROWS * a->n) * sizeof(real));
    if (!block)
        return;
    real *sum = (real *)(void *)(block + size);
    for (int64_t at = 0; at < rows; at += SOURCE_ROWS) {
        struct dr_gemm_args g = *a;
        const int64_t n = DR_MIN((int64_t)SOURCE_ROWS, rows - at);
        from->fill(from->ctx, block, cols, at, n, 0, cols);
        if (a->ta) {
            g.a = dr_at(a->a, a->abt, at * a->lda);
            g.b = block, g.ldb = cols, g.tb = false, g.k = n, g.acc = a->acc || at;
        } else {
            g.a = block, g.lda = cols, g.m = n;
            g.c = dr_at_mut(a->c, a->ct, at * a->ldc);
            if (from->store)
                g.c = sum, g.ct = DR_F32, g.ldc = a->n;
        }
        dr_gemm_ref(be, &g);
        if (from->store)
            from->store(from->ctx, sum, at, n, 0, a->n);
    }
}

int dr_gemm_cache_new(int threads, struct dr_gemm_cache **out, struct dr_err *err) {
    (void)threads;
    (void)err;
    *out = NULL;
    return 0;
}

void dr_gemm_cache_free(struct dr_gemm_cache *g) {
    (void)g;
}

int dr_conv_cache_new(int threads, struct dr_conv_cache **out, struct dr_err *err) {
    (void)threads;
    (void)err;
    *out = NULL;
    return 0;
}

void dr_conv_cache_free(struct dr_conv_cache *c) {
    (void)c;
}

bool dr_conv_whole(struct dr_backend *be, const struct conv_apply *a) {
    (void)be, (void)a;
    return false;
}

bool dr_conv_whole_few(struct dr_backend *be, enum dr_dtype t, int64_t few) {
    (void)be, (void)t, (void)few;
    return false;
}

bool dr_conv_whole_weight(struct dr_backend *be, const struct dr_conv2d_bwd_weight_args *a,
                          const struct geo *g) {
    (void)be, (void)a, (void)g;
    return false;
}

void dr_gemm_describe(char *out, size_t size) {
    snprintf(out, size, "%s", "reference GEMM");
}

#endif
