// The self-check of the matrix product when a CPU backend is made, a few milliseconds: rows of a
// product must have the same bytes alone, at another place and in a larger product, and a weight
// gradient on one thread and on all. The cuts of gemm_onednn.c make it so; a library or a CPU that
// breaks it anyway is reported at once, in the backend's description and in the log.
#include "engine/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>

enum { M = 160, N = 96, K = 96, PART = 24 };

struct check {
    struct dr_backend *be;
    dr_gemm_fn *gemm;
    void *a, *b;
    real *whole, *part;
    enum dr_dtype t;
};

static void rows_product(const struct check *c, int64_t from, int64_t m, int64_t rows, real *out) {
    c->gemm(c->be, &(struct dr_gemm_args){.m = m,
                                          .n = N,
                                          .k = K,
                                          .a = dr_at(c->a, c->t, from * K),
                                          .b = c->b,
                                          .c = out,
                                          .lda = K,
                                          .ldb = K,
                                          .ldc = N,
                                          .tb = true,
                                          .abt = c->t,
                                          .rows = rows});
}

static bool same(const void *a, const void *b, int64_t n) {
    return !memcmp(a, b, (size_t)n * sizeof(real));
}

// Whether rows are the same at every place of a panel and in products of other sizes.
static bool rows_hold(const struct check *c, int64_t rows) {
    static const int64_t sizes[] = {1, 3, PART, M - PART};
    rows_product(c, 0, M, rows, c->whole);
    for (size_t i = 0; i < DR_COUNT(sizes); i++)
        for (int64_t from = 0; from < PART; from += DR_MAX(sizes[i], (int64_t)5)) {
            rows_product(c, from, sizes[i], rows, c->part);
            if (!same(c->whole + from * N, c->part, sizes[i] * N))
                return false;
        }
    return true;
}

static bool gradient_holds(const struct check *c) {
    const int threads = c->be->threads;
    for (int i = 0; i < 2; i++) {
        c->be->threads = i ? threads : 1;
        c->gemm(c->be, &(struct dr_gemm_args){.m = N,
                                              .n = K,
                                              .k = M,
                                              .a = c->a,
                                              .b = c->a,
                                              .c = i ? c->part : c->whole,
                                              .lda = N,
                                              .ldb = K,
                                              .ldc = K,
                                              .ta = true,
                                              .abt = c->t});
    }
    return same(c->whole, c->part, N * K);
}

static void fill(const struct check *c, void *to, int64_t n) {
    uint32_t x = 1;
    for (int64_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        dr_put(to, c->t, i, (real)(x >> 8) / (real)(1 << 23) - 1);
    }
}

bool dr_gemm_self_check(struct dr_backend *be, dr_gemm_fn *gemm, char *why, size_t size) {
    struct check c = {.be = be, .gemm = gemm};
    real *memory = malloc((size_t)(M * K + N * K + 2 * M * N) * sizeof(real));
    const char *fault = memory ? NULL : "there is no memory to check products";
    if (memory) {
        c.a = memory;
        c.whole = memory + M * K;
        c.part = c.whole + M * N;
        c.b = c.part + M * N;
    }
    for (int t = 0; !fault && t < (sizeof(real) == 4 ? 2 : 1); t++) {
        c.t = t ? DR_BF16 : DR_F32;
        fill(&c, c.a, M * K);
        fill(&c, c.b, N * K);
        if (!rows_hold(&c, 1) || !rows_hold(&c, 0))
            fault = t ? "bf16 products depend on the batch" : "fp32 products depend on the batch";
        else if (!gradient_holds(&c))
            fault =
                t ? "bf16 gradients depend on the threads" : "fp32 gradients depend on the threads";
    }
    free(memory);
    snprintf(why, size, "%s", fault ? fault : "");
    return !fault;
}
