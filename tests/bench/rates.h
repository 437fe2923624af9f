// What the benchmarks of single ops share.
#pragma once

#include "engine/core/backend.h"

// Seconds. One thread: its CPU time, so that other processes count less.
double rates_now(int threads);
// n values in [-1, 1] of dtype t in the backend's memory; ends the program without memory. The
// caller keeps them to its end.
void *rates_random(struct dr_backend *be, enum dr_dtype t, int64_t n);
