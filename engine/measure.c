// Rates of a device. See measure.h.
#include "engine/measure.h"

#include "engine/core/backend.h"
#include "engine/core/clock.h"

#include <math.h>

#define MIN_SECONDS 2.0
#define MAX_REPEATS 200

int dr_measure_gemm(struct dr_backend *be, int64_t n, bool bf16, double *seconds,
                    struct dr_err *err) {
    const enum dr_dtype t = bf16 ? DR_BF16 : DR_F32;
    void *block;
    int rc = be->mem_alloc(be, (size_t)(3 * n * n) * sizeof(real), &block, err);
    if (rc)
        return rc;
    real *a = block, *w = a + n * n, *c = w + n * n;
    if (t == DR_F32) {
        DR_OP(be, fill, .dst = a, .n = 2 * n * n, .value = (real)0.5);
    } else {
        DR_OP(be, fill, .dst = c, .n = n * n, .value = (real)0.5);
        DR_OP(be, cast, .dst = a, .src = c, .dt = t, .st = DR_F32, .n = n * n);
        DR_OP(be, cast, .dst = w, .src = c, .dt = t, .st = DR_F32, .n = n * n);
    }
    double best = INFINITY, spent = 0;
    for (int i = 0; i < MAX_REPEATS && spent < MIN_SECONDS && !rc; i++) {
        double start = dr_seconds();
        DR_OP(be, gemm, .m = n, .n = n, .k = n, .a = a, .b = w, .c = c, .lda = n, .ldb = n,
              .ldc = n, .abt = t, .ct = DR_F32);
        rc = be->sync(be, err);
        double s = dr_seconds() - start;
        spent += s;
        best = fmin(best, s);
    }
    be->mem_free(be, block);
    *seconds = best;
    return rc;
}

int dr_measure_bandwidth(struct dr_backend *be, int64_t n, double *seconds, struct dr_err *err) {
    void *block;
    int rc = be->mem_alloc(be, (size_t)(2 * n) * sizeof(real), &block, err);
    if (rc)
        return rc;
    real *x = block;
    double best = INFINITY;
    for (int i = 0; i < 8 && !rc; i++) { // the first touches the pages
        double start = dr_seconds();
        DR_OP(be, axpy, .y = x, .x = x + n, .xt = DR_F32, .n = n, .alpha = 1);
        rc = be->sync(be, err);
        if (i)
            best = fmin(best, dr_seconds() - start);
    }
    be->mem_free(be, block);
    *seconds = best;
    return rc;
}
