// What the benchmarks of single ops share.
#include "tests/bench/rates.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

double rates_now(int threads) {
    struct timespec ts;
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

void *rates_random(struct dr_backend *be, enum dr_dtype t, int64_t n) {
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
