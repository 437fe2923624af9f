// Rates of the matrix products of a Tiny training step, against one large square product.
// Run by hand: gemm_bench [threads]. Not a test: it measures, it asserts nothing.
#include "engine/core/backend.h"
#include "engine/open.h"
#include "tests/bench/rates.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int threads;

typedef void sgemm_fn(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
                      int lda, const float *b, int ldb, float beta, float *c, int ldc);

static sgemm_fn *openblas(int with_threads) {
    void *lib = dlopen("libopenblas.so.0", RTLD_NOW);
    sgemm_fn *sgemm = lib ? (sgemm_fn *)dlsym(lib, "cblas_sgemm") : NULL;
    void (*set)(int) = lib ? (void (*)(int))dlsym(lib, "openblas_set_num_threads") : NULL;
    if (!sgemm || !set) {
        printf("%s: no comparison\n",
               lib ? "libopenblas.so.0 has no cblas_sgemm" : "libopenblas.so.0 was not found");
        return NULL;
    }
    set(with_threads);
    return sgemm;
}

// One product in fp32 by both, in turn; prints both best rates and their ratio.
static void compare(struct dr_backend *be, sgemm_fn *sgemm, const char *what,
                    struct dr_gemm_args g) {
    double best[2] = {1e9, 1e9}, flops = 2.0 * (double)g.m * (double)g.n * (double)g.k;
    const real *a = g.a = rates_random(be, DR_F32, g.m * g.k);
    const real *b = g.b = rates_random(be, DR_F32, g.n * g.k);
    real *c = g.c = rates_random(be, DR_F32, g.m * g.n);
    g.lda = g.ta ? g.m : g.k;
    g.ldb = g.tb ? g.k : g.n;
    g.ldc = g.n;
    for (int i = 0; i < 2 * ((int)(4e10 / flops) + 3); i++) {
        double t0 = rates_now(threads);
        if (i % 2)
            sgemm(101, g.ta ? 112 : 111, g.tb ? 112 : 111, (int)g.m, (int)g.n, (int)g.k, 1, a,
                  (int)g.lda, b, (int)g.ldb, g.acc, c, (int)g.ldc);
        else
            be->op.gemm(be, &g);
        double t = rates_now(threads) - t0;
        best[i % 2] = t < best[i % 2] ? t : best[i % 2];
    }
    printf("%-10s fp32 %5d %5d %5d: %.0f GFLOP/s, OpenBLAS %.0f, ratio %.2f\n", what, (int)g.m,
           (int)g.n, (int)g.k, flops / best[0] * 1e-9, flops / best[1] * 1e-9, best[1] / best[0]);
    be->mem_free(be, (void *)(uintptr_t)a);
    be->mem_free(be, (void *)(uintptr_t)b);
    be->mem_free(be, c);
}

// The products of a layer against OpenBLAS, if its library is there. OPENBLAS_CORETYPE=Haswell
// chooses its AVX2 kernels.
static void against_openblas(struct dr_backend *be, sgemm_fn *sgemm, int64_t m, int64_t n,
                             int64_t k, int64_t rows) {
    compare(be, sgemm, "y = x W'",
            (struct dr_gemm_args){.m = m, .n = n, .k = k, .tb = true, .rows = rows});
    compare(be, sgemm, "dx = dy W", (struct dr_gemm_args){.m = m, .n = k, .k = n, .rows = rows});
    compare(be, sgemm, "dW += dy'x",
            (struct dr_gemm_args){.m = n, .n = k, .k = m, .ta = true, .acc = true, .rows = rows});
}

// Best of a few runs, in GFLOP/s.
static double rate(struct dr_backend *be, struct dr_gemm_args g) {
    g.a = rates_random(be, g.abt, g.m * g.k);
    g.b = rates_random(be, g.abt, g.n * g.k);
    g.c = rates_random(be, g.ct, g.m * g.n);
    g.lda = g.ta ? g.m : g.k;
    g.ldb = g.tb ? g.k : g.n;
    g.ldc = g.n;
    double flops = 2.0 * (double)g.m * (double)g.n * (double)g.k, best = 1e9;
    int runs = (int)(1e10 / flops) + 3;
    for (int i = 0; i < runs; i++) {
        double t0 = rates_now(threads);
        be->op.gemm(be, &g);
        double t = rates_now(threads) - t0;
        best = t < best ? t : best;
    }
    be->mem_free(be, (void *)(uintptr_t)g.a);
    be->mem_free(be, (void *)(uintptr_t)g.b);
    be->mem_free(be, g.c);
    return flops / best * 1e-9;
}

int main(int argc, char **argv) {
    static const int64_t rows[] = {1152, 2304, 4608},
                         shapes[][2] = {{768, 256}, {256, 256}, {2048, 256}, {256, 1024}},
                         small[][2] = {
                             {288, 96}, {96, 96}, {384, 96}, {96, 384}}; // of mnist-pixels
    struct dr_backend *be;
    struct dr_err err = {0};
    threads = argc > 1 ? atoi(argv[1]) : 0;
    if (dr_backend_open("cpu", threads, &be, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    be->enter(be);
    printf("%s\n", be->detail);
    for (int t = 0; t < 2; t++)
        printf("%s square 1536: %.0f GFLOP/s\n", t ? "bf16" : "fp32",
               rate(be, (struct dr_gemm_args){.m = 1536, .n = 1536, .k = 1536, .abt = t}));
    sgemm_fn *sgemm = openblas(be->threads);
    if (sgemm)
        compare(be, sgemm, "square",
                (struct dr_gemm_args){.m = 1536, .n = 1536, .k = 1536, .tb = true});
    for (size_t s = 0; sgemm && s < DR_COUNT(shapes); s++)
        against_openblas(be, sgemm, 1152, shapes[s][0], shapes[s][1], 72);
    for (size_t s = 0; sgemm && s < DR_COUNT(small); s++)
        against_openblas(be, sgemm, 1024, small[s][0], small[s][1], 16);
    printf("%5s %5s %5s  | fp32: y=xW' dx=dyW dW+=dy'x | bf16: y=xW' dx=dyW dW+=dy'x  (GFLOP/s)\n",
           "m", "n", "k");
    for (size_t r = 0; r < DR_COUNT(rows); r++)
        for (size_t s = 0; s < DR_COUNT(shapes); s++) {
            int64_t m = rows[r], n = shapes[s][0], k = shapes[s][1];
            printf("%5d %5d %5d ", (int)m, (int)n, (int)k);
            for (int t = 0; t < 2; t++) {
                struct dr_gemm_args y = {.m = m, .n = n, .k = k, .tb = true, .abt = t, .ct = t};
                struct dr_gemm_args dx = {.m = m, .n = k, .k = n, .abt = t, .ct = t};
                struct dr_gemm_args dw = {
                    .m = n, .n = k, .k = m, .ta = true, .acc = true, .abt = t};
                printf(" | %9.0f %8.0f %9.0f", rate(be, y), rate(be, dx), rate(be, dw));
                fflush(stdout);
            }
            printf("\n");
        }
    int status = be->sync(be, &err);
    if (status)
        fprintf(stderr, "%s\n", err.msg);
    dr_backend_free(be);
    return status != 0;
}
