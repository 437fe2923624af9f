// Parts shared by attn_mma.cu and attn_mma_bwd.cu: rows of one head on their way from bf16 global
// memory through QK-norm, RoPE and scale (in fp32) to bf16 tiles in shared memory, and back.
//
// HD is the head's width rounded up to 32, 64 or 128; columns past hd are zeros. A row is the work
// of HD / 4 lanes: lane i has columns 2i and 2i + 1 of each half, so that RoPE's pairs meet in one
// lane. Tiles are LD = HD + 8 apart, which spreads ldmatrix over all banks.
#pragma once

#include "engine/cuda/attn.h"
#include "engine/cuda/mma.h"

enum { MMA_ROWS = 16 };

static inline int64_t round_up16(int64_t n) {
    return (n + 15) / 16 * 16;
}

template <int HD> struct rows { // q, k, v or dout of one head
    static constexpr int LANES = HD / 4, AT_ONCE = 32 / LANES, LD = HD + 8;
    const bf16 *src; // token 0 of this head
    int64_t step;    // elements between tokens
    head h;
    float w[4]; // this lane's elements of the norm's weight

    __device__ rows(const bf16 *p, int64_t between, const head &what) : src(p), step(between) {
        h = what;
        for (int e = 0; e < 4; e++)
            w[e] = h.norm && inside(e) ? h.norm[column(e)] : 0;
    }
    __device__ static int lane() { return (int)(threadIdx.x % LANES); }
    // Element e = 0, 1 of the first half, 2, 3 of the second.
    __device__ bool inside(int e) const { return 2 * lane() + e % 2 < h.hd / 2; }
    __device__ int column(int e) const { return 2 * lane() + e % 2 + (int)(e / 2 * (h.hd / 2)); }

    // Two packed registers: the raw elements of `token`, zeros past the end.
    __device__ void raw(uint32_t (&r)[2], int64_t token) const {
        const bf16 *p = src + token * step;
        r[0] = r[1] = 0;
        if (token >= h.t)
            return;
        if (h.hd % 4 == 0) { // both halves start at an even column
            if (inside(0))
                for (int k = 0; k < 2; k++)
                    r[k] = *reinterpret_cast<const uint32_t *>(p + column(2 * k));
        } else {
            for (int e = 0; e < 4; e++)
                if (inside(e))
                    r[e / 2] |= (uint32_t)p[column(e)].u << 16 * (e % 2);
        }
    }
    __device__ static void unpack(float (&x)[4], const uint32_t (&r)[2]) {
        x[0] = low_of(r[0]), x[1] = high_of(r[0]);
        x[2] = low_of(r[1]), x[3] = high_of(r[1]);
    }
    // Sums over rows, N at once: one row's shuffles wait for each other.
    template <int N> __device__ static void row_sums(float (&v)[N]) {
        DR_UNROLL
        for (int m = LANES / 2; m; m >>= 1)
            for (int k = 0; k < N; k++)
                v[k] += __shfl_xor_sync(DR_FULL, v[k], m);
    }
    // rstd of N raw rows.
    template <int N> __device__ void rstd(float (&r)[N], const uint32_t (&u)[N][2]) const {
        DR_UNROLL
        for (int k = 0; k < N; k++) {
            float x[4];
            unpack(x, u[k]);
            r[k] = x[0] * x[0] + x[1] * x[1] + x[2] * x[2] + x[3] * x[3];
        }
        row_sums(r);
        for (int k = 0; k < N; k++)
            r[k] = 1 / sqrtf(r[k] / (float)h.hd + h.eps);
    }
    // (a, b) of each pair turned by the token's angle, or back with sign -1.
    __device__ void rotate(float (&x)[4], int64_t token, float sign) const {
        for (int e = 0; h.cos && e < 2; e++)
            if (inside(e)) {
                const int64_t at = token * (h.hd / 2) + 2 * lane() + e;
                const float co = h.cos[at], si = sign * h.sin[at], a = x[e], b = x[e + 2];
                x[e] = a * co - b * si;
                x[e + 2] = b * co + a * si;
            }
    }
    // Norm, rotation and scale of one row, whose rstd is r.
    __device__ void prepare(float (&x)[4], int64_t token, float r) const {
        for (int e = 0; h.norm && e < 4; e++)
            x[e] *= r * w[e];
        if (token < h.t)
            rotate(x, token, 1);
        for (int e = 0; e < 4; e++)
            x[e] *= h.scale;
    }
    __device__ void put(bf16 *row, const float (&x)[4]) const {
        const int half = (int)h.hd / 2, i = 2 * lane();
        for (int e = 0; e < 2; e++)
            if (i + e >= half) { // this lane owns two columns of the padding instead
                row[2 * (i + e)] = row[2 * (i + e) + 1] = from_f<bf16>(0);
            }
        if (h.hd % 4 == 0) {
            if (i < half) {
                *reinterpret_cast<uint32_t *>(row + i) = pack2(x[0], x[1]);
                *reinterpret_cast<uint32_t *>(row + half + i) = pack2(x[2], x[3]);
            }
        } else {
            for (int e = 0; e < 4; e++)
                if (inside(e))
                    row[column(e)] = from_f<bf16>(x[e]);
        }
    }
    // Tokens [first, first + count) into tile[count][LD], by the whole block; rows past the end of
    // the sequence become 0. count: a multiple of 16. Four rows are under way at once.
    __device__ void load(bf16 *tile, int64_t first, int count) const {
        const int warps = blockDim.x / 32, me = (int)threadIdx.x / 32 * AT_ONCE;
        const int sub = (int)threadIdx.x % 32 / LANES, stride = warps * AT_ONCE;
        for (int r0 = me; r0 < count; r0 += 4 * stride) { // the same for a warp: AT_ONCE divides 16
            uint32_t u[4][2];
            DR_UNROLL
            for (int k = 0; k < 4; k++)
                raw(u[k], r0 + k * stride < count ? first + r0 + k * stride + sub : h.t);
            float rs[4] = {};
            if (h.norm)
                rstd(rs, u);
            DR_UNROLL
            for (int k = 0; k < 4; k++) {
                const int r = r0 + k * stride;
                if (r >= count)
                    break;
                float x[4];
                unpack(x, u[k]);
                prepare(x, first + r + sub, rs[k]);
                for (int e = 0; e < 4; e++)
                    x[e] = first + r + sub < h.t ? x[e] : 0;
                put(tile + (r + sub) * LD, x);
            }
        }
    }
};

// Calls with HD the padded width of a head.
#define DR_MMA_WIDTH(hd, HD, call)                                                                 \
    do {                                                                                           \
        if ((hd) <= 32) {                                                                          \
            constexpr int HD = 32;                                                                 \
            call;                                                                                  \
        } else if ((hd) <= 64) {                                                                   \
            constexpr int HD = 64;                                                                 \
            call;                                                                                  \
        } else {                                                                                   \
            constexpr int HD = 128;                                                                \
            call;                                                                                  \
        }                                                                                          \
    } while (0)

// Sum or maximum over the four lanes that share a row of an accumulator.
__device__ inline float quad_sum(float v) {
    v += __shfl_xor_sync(DR_FULL, v, 1);
    return v + __shfl_xor_sync(DR_FULL, v, 2);
}
__device__ inline float quad_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(DR_FULL, v, 1));
    return fmaxf(v, __shfl_xor_sync(DR_FULL, v, 2));
}

// The largest values so far of the accumulator's two rows, keys past the end (`valid` of the 16
// are there) set to -inf; returns by how much older sums have to shrink.
__device__ inline void new_tops(float (&s)[2][4], int valid, float (&top)[2], float (&shrink)[2]) {
    const int col = 2 * (int)(threadIdx.x % 4);
    for (int n = 0; n < 2; n++)
        for (int e = 0; e < 4; e++)
            if (8 * n + col + e % 2 >= valid)
                s[n][e] = -INFINITY;
    for (int r = 0; r < 2; r++) { // a NaN is passed over here and comes back through exp
        const float m = quad_max(
            fmaxf(fmaxf(s[0][2 * r], s[0][2 * r + 1]), fmaxf(s[1][2 * r], s[1][2 * r + 1])));
        const float next = fmaxf(top[r], m);
        shrink[r] = expf(top[r] - next);
        top[r] = next;
    }
}
