// Self-attention forward for short sequences. Called through the op table by nn/. One block
// computes 32 (or 16) queries of one head: all their scores stay in shared memory while keys, then
// values pass through in tiles of 32. A head's result depends on its own rows only.
#include "engine/cuda/attn.h"

template <typename T, int RW, int NJ>
__global__ void __launch_bounds__(ATTN_THREADS)
    k_attn_fwd(struct dr_attn_fwd_args a, T *out, const T *qkv) {
    constexpr int ROWS = RW * WARPS;
    DR_SHARED(float, shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, hd = (int)a.hd, ld = head_ld(hd);
    const int tp = (int)(a.t + 31) / 32 * 32;
    float *q = shared, *kv = q + ROWS * ld, *s = kv + KEYS * ld; // s: [ROWS][tp]
    const int64_t width = a.h * a.hd, step = 3 * width, b = blockIdx.y / a.h, h = blockIdx.y % a.h;
    const int64_t first = (int64_t)blockIdx.x * ROWS;
    const T *base = qkv + b * a.t * step + h * a.hd;
    const head hq = {a.t, a.h, a.hd, a.q_norm, a.rope_cos, a.rope_sin, a.eps, a.scale};
    const head hk = {a.t, a.h, a.hd, a.k_norm, a.rope_cos, a.rope_sin, a.eps, 1};
    const head hv = {a.t, a.h, a.hd, NULL, NULL, NULL, 0, 1};

    load_tile<T, ROWS>(q, base, step, first, hq);
    for (int k0 = 0; k0 < a.t; k0 += KEYS) {
        __syncthreads();
        load_tile<T, KEYS>(kv, base + width, step, k0, hk);
        __syncthreads();
        float dot[RW];
        tile_scores<RW>(dot, q, kv, hd, ld);
        for (int r = 0; r < RW; r++)
            s[(warp + r * WARPS) * tp + k0 + lane] = dot[r];
    }
    __syncwarp(); // rows of s belong to their warp
    for (int r = 0; r < RW; r++)
        softmax_row(s + (warp + r * WARPS) * tp, a.t);
    float acc[RW][NJ] = {};
    for (int k0 = 0; k0 < a.t; k0 += KEYS) {
        __syncthreads();
        load_tile<T, KEYS>(kv, base + 2 * width, step, k0, hv);
        __syncthreads();
        const int n = a.t - k0 < KEYS ? (int)a.t - k0 : (int)KEYS;
        tile_values<RW, NJ>(acc, s + k0, tp, kv, n, hd, ld);
    }
    for (int r = 0; r < RW; r++) {
        const int64_t token = first + warp + r * WARPS;
        for (int j = 0; j < NJ; j++)
            if (token < a.t && lane + 32 * j < hd)
                out[(b * a.t + token) * width + h * hd + lane + 32 * j] = from_f<T>(acc[r][j]);
    }
}

static size_t shared_of(int64_t t, int64_t hd, int rows) {
    return (size_t)((rows + KEYS) * head_ld(hd) + rows * ((t + 31) / 32 * 32)) * sizeof(float);
}

template <typename T>
static void attn_fwd(struct dr_backend *be, const struct dr_attn_fwd_args *a) {
    T *out = static_cast<T *>(a->out);
    const T *qkv = static_cast<const T *>(a->qkv);
    const bool tall = shared_of(a->t, a->hd, 4 * WARPS) <= dr_cuda_of(be)->shared_limit;
    const int rows = (tall ? 4 : 2) * WARPS;
    const size_t bytes = shared_of(a->t, a->hd, rows);
    const dim3 grid(blocks_for(a->t, rows), (unsigned)(a->b * a->h));
    if (!attn_supported(be, a->hd, bytes, "attn_fwd"))
        return;
    if (tall)
        DR_ATTN_WIDTH(
            a->hd, NJ,
            DR_LAUNCH(be, (k_attn_fwd<T, 4, NJ>), grid, ATTN_THREADS, bytes, *a, out, qkv));
    else
        DR_ATTN_WIDTH(
            a->hd, NJ,
            DR_LAUNCH(be, (k_attn_fwd<T, 2, NJ>), grid, ATTN_THREADS, bytes, *a, out, qkv));
}

void dr_cuda_attn_fwd(struct dr_backend *be, const struct dr_attn_fwd_args *args) {
    struct dr_attn_fwd_args a = *args;
    const int64_t most = 65535 / (args->h > 0 ? args->h : 1); // of a grid's second dimension
    for (int64_t from = 0; from < args->b; from += most) {
        a.b = args->b - from < most ? args->b - from : most;
        if (attn_by_mma(a.act, a.hd))
            dr_cuda_attn_fwd_mma(be, &a);
        else
            DR_FOR_DTYPE(a.act, T, attn_fwd<T>(be, &a));
        a.qkv = static_cast<const char *>(a.qkv) +
                (size_t)(a.b * 3 * a.t * a.h * a.hd) * dr_sizeof(a.act);
        a.out = static_cast<char *>(a.out) + (size_t)(a.b * a.t * a.h * a.hd) * dr_sizeof(a.act);
    }
}
