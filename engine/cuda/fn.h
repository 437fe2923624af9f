// What fused ops apply last (enum dr_fn) and its slope.
#pragma once

#include "engine/cuda/device.h"

__device__ inline float apply_fn(enum dr_fn fn, float x) {
    if (fn == DR_FN_RELU)
        return x > 0 || x != x ? x : 0; // a NaN stays one
    return fn == DR_FN_SILU ? x / (1 + expf(-x)) : x;
}

// dy fn'(x)
__device__ inline float slope_fn(enum dr_fn fn, float x, float dy) {
    if (fn == DR_FN_RELU)
        return x > 0 ? dy : 0;
    if (fn != DR_FN_SILU)
        return dy;
    const float s = 1 / (1 + expf(-x));
    return dy * s * (1 + x * (1 - s));
}
