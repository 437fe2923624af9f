// What fused ops apply last (enum dr_fn) and its slope, on vectors. Included by files of `isa_src`.
#pragma once

#include "engine/cpu/vec.h"

// fn(x), to be stored as t; a NaN stays one.
DR_INLINE vreal vfn(enum dr_dtype t, enum dr_fn fn, vreal x) {
    return fn == DR_FN_RELU ? vmax(vset(0), x) : fn == DR_FN_SILU ? x * vsigmoid_as(t, x) : x;
}

// dy fn'(x) of a dy of type t
DR_INLINE vreal vslope(enum dr_dtype t, enum dr_fn fn, vreal x, vreal dy) {
    if (fn == DR_FN_RELU)
        return vpositive(x, dy, vset(0));
    if (fn != DR_FN_SILU)
        return dy;
    const vreal s = vsigmoid_as(t, x);
    return dy * s * vfma(x, 1 - s, vset(1));
}

// Runs `call` with T a constant dtype, so that the loops inside specialise.
#define FOR_DTYPE(t, T, call)                                                                      \
    do {                                                                                           \
        if ((t) == DR_BF16) {                                                                      \
            const enum dr_dtype T = DR_BF16;                                                       \
            call;                                                                                  \
        } else {                                                                                   \
            const enum dr_dtype T = DR_F32;                                                        \
            call;                                                                                  \
        }                                                                                          \
    } while (0)
