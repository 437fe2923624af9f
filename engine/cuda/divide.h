// Division by a number that stays the same for a launch. Integer division takes a GPU dozens of
// instructions (64 bits: a hundred), more than the memory traffic of a light kernel costs; below
// 2^31 a multiplication and a shift give the same quotient.
#pragma once

#include <stdint.h>

struct divisor {
    int64_t d;
    uint32_t mul, shift; // quotient of n < 2^31: n mul / 2^(32 + shift)

    // by >= 1. With 2^(l-1) < by <= 2^l and mul = ceil(2^(31+l) / by) the product is too large by
    // less than n 2^l / 2^(31+l) < 1 / by, never enough for the next quotient.
    explicit divisor(int64_t by = 1) : d(by), mul(0), shift(0) {
        int l = 0;
        while (l < 31 && ((int64_t)1 << l) < by)
            l++;
        if (by > 1 && by < (int64_t)1 << 31) {
            mul = (uint32_t)((((uint64_t)1 << (31 + l)) + (uint64_t)by - 1) / (uint64_t)by);
            shift = (uint32_t)(l - 1);
        }
    }
    // i >= 0
    __device__ int64_t of(int64_t i) const {
        if (d == 1)
            return i;
        if (mul && i < (int64_t)1 << 31)
            return (int64_t)((uint64_t)(uint32_t)i * mul >> 32 >> shift);
        return i / d;
    }
    // Splits i into quotient and remainder.
    __device__ int64_t split(int64_t i, int64_t *rest) const {
        const int64_t q = of(i);
        *rest = i - q * d;
        return q;
    }
};
