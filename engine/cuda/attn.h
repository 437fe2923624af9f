// Parts shared by attn.cu and attn_bwd.cu: tiles of one head in shared memory, with QK-norm and
// RoPE applied on the way in, and products of tiles in fp32.
//
// A tile has R rows (tokens) of hd columns, then zeros up to a multiple of four. Its stride LD is
// an odd number of four columns, so that lanes that walk their rows in steps of 16 bytes meet
// different banks. Everywhere, warp w owns the rows w, w + WARPS, ... of a tile and lanes take
// columns in turn; a thread's accumulators are [rows of its warp][columns of its lane].
#pragma once

#include "engine/cuda/device.h"

enum { WARPS = 8, ATTN_THREADS = 32 * WARPS, KEYS = 32, MAX_HD = 128 };

// The head's place in qkv, and what is done to q or k.
struct head {
    int64_t t, h, hd;
    const float *norm, *cos, *sin; // NULL: not done
    float eps, scale;
};

__host__ __device__ inline int head_ld(int64_t hd) {
    return 4 * ((int)(hd + 3) / 4 | 1);
}

// One raw row into dst[hd]: norm, rotation, scale. Called by a whole warp; returns the row's rstd.
template <typename T>
__device__ inline float prepare_row(float *dst, const T *src, int64_t token, const head &p) {
    const int lane = threadIdx.x % 32, hd = (int)p.hd, half = hd / 2;
    float rstd = 1;
    if (p.norm) {
        float sum = 0;
        for (int c = lane; c < hd; c += 32)
            sum += to_f(src[c]) * to_f(src[c]);
        rstd = 1 / sqrtf(warp_sum(sum) / (float)hd + p.eps);
    }
    for (int c = lane; c < hd; c += 32) {
        float x = to_f(src[c]) * rstd * (p.norm ? p.norm[c] : 1);
        if (p.cos && c < 2 * half) {
            const int other = c < half ? c + half : c - half, i = c < half ? c : c - half;
            const float y = to_f(src[other]) * rstd * (p.norm ? p.norm[other] : 1);
            const float co = p.cos[token * half + i], si = p.sin[token * half + i];
            x = c < half ? x * co - y * si : x * co + y * si;
        }
        dst[c] = x * p.scale;
    }
    return rstd;
}

// Rows [first, first + ROWS) of a head into dst[ROWS][LD]; rows past the end and the columns up to
// a multiple of four become 0. src: token 0 of this head; `step` elements between tokens. norm and
// rotation where p asks for them.
template <typename T, int ROWS>
__device__ inline void load_tile(float *dst, const T *src, int64_t step, int64_t first,
                                 const head &p) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, ld = head_ld(p.hd);
    for (int r = warp; r < ROWS; r += WARPS) {
        const int64_t token = first + r;
        if (token < p.t)
            prepare_row(dst + r * ld, src + token * step, token, p);
        for (int c = lane + (token < p.t ? (int)p.hd : 0); c < (p.hd + 3) / 4 * 4; c += 32)
            dst[r * ld + c] = 0;
    }
}

// s[r] = a[row r of the warp] . b[lane], over hd: one tile of scores, lanes across b's rows.
template <int RW>
__device__ inline void tile_scores(float (&s)[RW], const float *a, const float *b, int hd, int ld) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int r = 0; r < RW; r++)
        s[r] = 0;
    for (int c = 0; c < hd; c += 4) {
        float x[4], y[4];
        load<4>(y, b + lane * ld + c);
        for (int r = 0; r < RW; r++) {
            load<4>(x, a + (warp + r * WARPS) * ld + c);
            for (int e = 0; e < 4; e++)
                s[r] += x[e] * y[e];
        }
    }
}

// acc[r][j] += sum_k p[row r][k] v[k][lane + 32 j], k < n; p: rows ldp apart, a multiple of four.
// Four k at a time: past n v has rows of zeros, and p is finite where its row is.
template <int RW, int NJ>
__device__ inline void tile_values(float (&acc)[RW][NJ], const float *p, int ldp, const float *v,
                                   int n, int hd, int ld) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int k = 0; k < n; k += 4) {
        float x[4][NJ], w[4];
        for (int e = 0; e < 4; e++)
            for (int j = 0; j < NJ; j++)
                x[e][j] = lane + 32 * j < hd ? v[(k + e) * ld + lane + 32 * j] : 0;
        for (int r = 0; r < RW; r++) {
            load<4>(w, p + (warp + r * WARPS) * ldp + k);
            for (int e = 0; e < 4; e++)
                for (int j = 0; j < NJ; j++)
                    acc[r][j] += w[e] * x[e][j];
        }
    }
}

// Softmax of n values, lanes across them, in place; returns max + log(sum).
__device__ inline float softmax_row(float *s, int64_t n) {
    const int lane = threadIdx.x % 32;
    float top = -INFINITY, sum = 0;
    for (int64_t i = lane; i < n; i += 32)
        top = s[i] > top || s[i] != s[i] ? s[i] : top; // a NaN stays
    top = warp_max(top);
    for (int64_t i = lane; i < n; i += 32) {
        s[i] = expf(s[i] - top);
        sum += s[i];
    }
    sum = warp_sum(sum);
    for (int64_t i = lane; i < n; i += 32)
        s[i] /= sum;
    return top + logf(sum);
}

// The kernel for a head size and a tile height: call(NJ, RW).
#define DR_ATTN_WIDTH(hd, NJ, call)                                                                \
    do {                                                                                           \
        if ((hd) <= 32) {                                                                          \
            constexpr int NJ = 1;                                                                  \
            call;                                                                                  \
        } else if ((hd) <= 64) {                                                                   \
            constexpr int NJ = 2;                                                                  \
            call;                                                                                  \
        } else {                                                                                   \
            constexpr int NJ = 4;                                                                  \
            call;                                                                                  \
        }                                                                                          \
    } while (0)

// attn_mma.cu and attn_mma_bwd.cu have the bf16 heads of an even width, the others stay here.
static inline bool attn_by_mma(enum dr_dtype act, int64_t hd) {
    return act == DR_BF16 && hd % 2 == 0 && hd <= MAX_HD;
}
void dr_cuda_attn_fwd_mma(struct dr_backend *be, const struct dr_attn_fwd_args *a);
void dr_cuda_attn_bwd_mma(struct dr_backend *be, const struct dr_attn_bwd_args *a);

static inline bool attn_supported(struct dr_backend *be, int64_t hd, size_t bytes, const char *op) {
    if (hd <= MAX_HD && bytes <= dr_cuda_of(be)->shared_limit)
        return true;
    dr_cuda_error(be, DR_EUNSUPPORTED, op,
                  hd > MAX_HD ? "heads of more than 128 columns are not supported on the GPU"
                              : "the sequence is too long for this GPU's shared memory");
    return false;
}
