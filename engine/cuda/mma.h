// Products of 16 x 16 tiles by one warp: bf16 inputs, fp32 sums (mma.sync m16n8k16). The three
// operations below are all of the tensor cores that engine/cuda uses; tests/emu does them on the
// host with the same distribution of elements over lanes.
//
// A fragment of 16 x 16 elements is four registers per lane, two neighbouring elements each. With
// g = lane / 4 and t = lane % 4 the accumulators d[0], d[1] are row g, columns 2t and 2t + 1 of a
// 16 x 8 product, d[2], d[3] the same columns of row g + 8.
#pragma once

#include "engine/cuda/device.h"

#ifdef __CUDACC__
// d += a b: a 16 x 16, b 16 x 8.
__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Four 8 x 8 matrices; lane l brings the address of row l % 8 of matrix l / 8, 16-byte aligned.
__device__ inline void ldmatrix(uint32_t (&r)[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}
__device__ inline void ldmatrix_trans(uint32_t (&r)[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}
#else
inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const uint32_t b[2] = {b0, b1};
    emu_mma(d, a, b);
}
inline void ldmatrix(uint32_t (&r)[4], const bf16 *row) {
    emu_ldmatrix(r, row, false);
}
inline void ldmatrix_trans(uint32_t (&r)[4], const bf16 *row) {
    emu_ldmatrix(r, row, true);
}
#endif

__device__ inline uint32_t pack2(float low, float high) {
    return (uint32_t)from_f<bf16>(low).u | (uint32_t)from_f<bf16>(high).u << 16;
}
__device__ inline float low_of(uint32_t u) {
    return to_f(bf16{(uint16_t)u});
}
__device__ inline float high_of(uint32_t u) {
    return to_f(bf16{(uint16_t)(u >> 16)});
}

// The 16 x 16 elements of a tile in shared memory from (row, col) on, rows LD apart. As the left
// operand r is used whole. As the right one, with the tile's rows as columns (a product with its
// transpose), columns 0-7 are r[0], r[2] and 8-15 r[1], r[3].
template <int LD>
__device__ inline void tile_load(uint32_t (&r)[4], const bf16 *tile, int row, int col) {
    const int lane = threadIdx.x % 32;
    ldmatrix(r, tile + (row + lane % 16) * LD + col + lane / 16 * 8);
}
// The same transposed: the right operand of a product with the tile itself. Columns 0-7 are r[0],
// r[1] and 8-15 r[2], r[3].
template <int LD>
__device__ inline void tile_load_trans(uint32_t (&r)[4], const bf16 *tile, int row, int col) {
    const int lane = threadIdx.x % 32;
    ldmatrix_trans(r, tile + (row + lane % 16) * LD + col + lane / 16 * 8);
}

// d[16 x 16] = a b' over HD columns: rows of `a` from ar on, rows of `b` from br on.
template <int HD, int LD>
__device__ inline void tile_product(float (&d)[2][4], const bf16 *a, int ar, const bf16 *b,
                                    int br) {
    for (int n = 0; n < 2; n++)
        for (int e = 0; e < 4; e++)
            d[n][e] = 0;
    DR_UNROLL
    for (int c = 0; c < HD; c += 16) {
        uint32_t x[4], y[4];
        tile_load<LD>(x, a, ar, c);
        tile_load<LD>(y, b, br, c);
        mma(d[0], x, y[0], y[2]);
        mma(d[1], x, y[1], y[3]);
    }
}
// d[16 x HD] += p b: p 16 x 16 as tile_product leaves it, rounded to bf16; 16 rows of `b` from br.
template <int HD, int LD>
__device__ inline void tile_add(float (&d)[HD / 8][4], const float (&p)[2][4], const bf16 *b,
                                int br) {
    const uint32_t x[4] = {pack2(p[0][0], p[0][1]), pack2(p[0][2], p[0][3]),
                           pack2(p[1][0], p[1][1]), pack2(p[1][2], p[1][3])};
    DR_UNROLL
    for (int c = 0; c < HD; c += 16) {
        uint32_t y[4];
        tile_load_trans<LD>(y, b, br, c);
        mma(d[c / 8], x, y[0], y[1]);
        mma(d[c / 8 + 1], x, y[2], y[3]);
    }
}
