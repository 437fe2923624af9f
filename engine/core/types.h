// Scalar types of the engine. Included by everything under engine/.
//
// `real` is the engine's "fp32": float in every shipped build. The gradient tests compile the same
// sources once more with -DDR_DOUBLE, where `real` is double, oneDNN is replaced by the reference
// GEMM and bf16 does not exist, so that finite differences can be checked to 1e-6.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef DR_DOUBLE
typedef double real;
#else
typedef float real;
#endif

typedef uint16_t dr_bf16; // upper half of an IEEE binary32, rounded to nearest even

enum dr_dtype {
    DR_F32 = 0, // `real`; the name says what the shipped build does
    DR_BF16 = 1,
};

// How samples become a picture: one grey or rgb image each, the channels side by side as grey
// images, or all of them as points in one plot.
enum dr_show { DR_SHOW_GREY, DR_SHOW_RGB, DR_SHOW_PLANES, DR_SHOW_POINTS };

static inline size_t dr_sizeof(enum dr_dtype t) {
    return t == DR_BF16 ? 2 : sizeof(real);
}

#define DR_MAX(a, b) ((a) > (b) ? (a) : (b))
#define DR_MIN(a, b) ((a) < (b) ? (a) : (b))
#define DR_COUNT(a) (sizeof(a) / sizeof((a)[0]))
