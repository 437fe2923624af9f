// Rates of the matrix products of a Tiny training step, against one large square product.
// Run by hand: gemm_bench [threads]. Not a test: it measures, it asserts nothing.
#include "engine/core/backend.h"
#include "engine/open.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int threads;

// One thread: its CPU time, so that other processes count less.
static double now(void) {
    struct timespec ts;
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static void *random_values(struct dr_backend *be, enum dr_dtype t, int64_t n) {
    void *p = NULL;
    struct dr_err err = {0};
    real *f = malloc((size_t)n * sizeof *f);
    if (!f || be->mem_alloc(be, (size_t)n * sizeof *f, &p, &err)) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    for (int64_t i = 0; i < n; i++)
        f[i] = (real)(rand() % 2001 - 1000) * (real)1e-3;
    DR_OP(be, cast, .dst = p, .src = f, .dt = t, .st = DR_F32, .n = n);
    free(f);
    return p;
}

// y = x W' in fp32 by OpenBLAS, if its library is there: paired runs, in turn; prints both best
// rates and their ratio. OPENBLAS_CORETYPE=Haswell chooses its AVX2 kernels.
typedef void sgemm_fn(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
                      int lda, const float *b, int ldb, float beta, float *c, int ldc);

static void against_openblas(struct dr_backend *be, int64_t m, int64_t n, int64_t k) {
    static void *lib;
    if (!lib && !(lib = dlopen("libopenblas.so.0", RTLD_NOW))) {
        printf("libopenblas.so.0 was not found: no comparison\n");
        return;
    }
    sgemm_fn *sgemm = (sgemm_fn *)dlsym(lib, "cblas_sgemm");
    void (*set_threads)(int) = (void (*)(int))dlsym(lib, "openblas_set_num_threads");
    if (!sgemm || !set_threads) {
        printf("libopenblas.so.0 has no cblas_sgemm: no comparison\n");
        return;
    }
    set_threads(be->threads);
    float *a = random_values(be, DR_F32, m * k), *b = random_values(be, DR_F32, n * k);
    float *c = random_values(be, DR_F32, m * n);
    double best[2] = {1e9, 1e9}, flops = 2.0 * (double)m * (double)n * (double)k;
    for (int i = 0; i < 2 * ((int)(4e10 / flops) + 3); i++) {
        double t0 = now();
        if (i % 2)
            sgemm(101, 111, 112, (int)m, (int)n, (int)k, 1, a, (int)k, b, (int)k, 0, c, (int)n);
        else
            DR_OP(be, gemm, .m = m, .n = n, .k = k, .a = a, .b = b, .c = c, .lda = k, .ldb = k,
                  .ldc = n, .tb = true, .rows = 72);
        double t = now() - t0;
        best[i % 2] = t < best[i % 2] ? t : best[i % 2];
    }
    printf("fp32 %5d %5d %5d: %.0f GFLOP/s, OpenBLAS %.0f, ratio %.2f\n", (int)m, (int)n, (int)k,
           flops / best[0] * 1e-9, flops / best[1] * 1e-9, best[1] / best[0]);
    be->mem_free(be, a);
    be->mem_free(be, b);
    be->mem_free(be, c);
}

// Best of a few runs, in GFLOP/s.
static double rate(struct dr_backend *be, struct dr_gemm_args g) {
    g.a = random_values(be, g.abt, g.m * g.k);
    g.b = random_values(be, g.abt, g.n * g.k);
    g.c = random_values(be, g.ct, g.m * g.n);
    g.lda = g.ta ? g.m : g.k;
    g.ldb = g.tb ? g.k : g.n;
    g.ldc = g.n;
    double flops = 2.0 * (double)g.m * (double)g.n * (double)g.k, best = 1e9;
    int runs = (int)(1e10 / flops) + 3;
    for (int i = 0; i < runs; i++) {
        double t0 = now();
        be->op.gemm(be, &g);
        double t = now() - t0;
        best = t < best ? t : best;
    }
    be->mem_free(be, (void *)(uintptr_t)g.a);
    be->mem_free(be, (void *)(uintptr_t)g.b);
    be->mem_free(be, g.c);
    return flops / best * 1e-9;
}

int main(int argc, char **argv) {
    static const int64_t rows[] = {1152, 2304, 4608},
                         shapes[][2] = {{768, 256}, {256, 256}, {2048, 256}, {256, 1024}};
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
    against_openblas(be, 1536, 1536, 1536);
    for (size_t s = 0; s < DR_COUNT(shapes); s++)
        against_openblas(be, 2304, shapes[s][0], shapes[s][1]);
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
