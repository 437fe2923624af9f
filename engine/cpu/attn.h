// Shared by the two ways of attention, by vectors of `real` (attn_vectors.h) and in bf16
// (attn_bf16.h). One (sample, head) at a time stays in the cache; every buffer belongs to one
// thread.
#pragma once

#include "engine/cpu/vec.h"

#define QB 96 // queries of one block of scores; a multiple of MR, of 4 and of a tile's step
#if VBYTES == 64
#define MR 8 // rows of a register block
#define NR 3 // its vectors: 24 accumulators of 32 registers
#else
#define MR 6
#define NR 2 // 12 of 16
#endif

// One head of a forward or backward pass. work: memory of this thread; dw [2, hd]: the head's part
// of the norms' gradients.
typedef void dr_attn_head(const struct dr_backend *be, const struct dr_attn_fwd_args *a, real *work,
                          int64_t head);
typedef void dr_attn_bwd_head(const struct dr_backend *be, const struct dr_attn_bwd_args *a,
                              real *work, int64_t head, real *dw);

DR_INLINE int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}

// What is done to q or k on the way in.
struct prep {
    const real *norm, *cos, *sin;
    real eps, scale; // the scores' scale goes into q
};

// One VL x VL block: log2(VL) perfect shuffles of the rows transpose it.
DR_INLINE void transpose_block(real *dst, int64_t ldd, const real *src, int64_t lds) {
    vreal a[VL], b[VL];
    for (int i = 0; i < VL; i++)
        a[i] = vload(src + i * lds);
#pragma GCC unroll 4
    for (int round = 1; round < VL; round *= 2) {
#pragma GCC unroll 16
        for (int i = 0; i < VL / 2; i++) {
            b[2 * i] = __builtin_shufflevector(a[i], a[i + VL / 2], V_LOW);
            b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + VL / 2], V_HIGH);
        }
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++)
            a[i] = b[i];
    }
    for (int i = 0; i < VL; i++)
        vstore(dst + i * ldd, a[i]);
}
