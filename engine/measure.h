// How fast a device is at what everything else is made of, for `driftd bench`. On the thread that
// entered the backend.
#pragma once

#include "engine/core/device.h"

// Best time of one product of n x n matrices, fp32 or bf16 in with fp32 out: 2 n^3 operations.
// Repeats it for two seconds, 200 times at most.
int dr_measure_gemm(struct dr_backend *be, int64_t n, bool bf16, double *seconds,
                    struct dr_err *err);
// Best time of y[n] += x[n] in fp32: 3 n reals moved.
int dr_measure_bandwidth(struct dr_backend *be, int64_t n, double *seconds, struct dr_err *err);
