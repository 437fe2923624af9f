// Self-attention backward. Called through the op table by nn/. With S = q k', P = softmax(S), all
// after QK-norm, RoPE and scale:
//   dv = P' dO;  dP = dO v';  dS = P (dP - D), D = rowsum(dP P);  dq = dS k;  dk = dS' q
// then back through the rotation (its transpose) and the norm: with xh = x rstd and g = d w,
//   dx = rstd (g - xh mean(g xh));  dw += d xh.
// Two kernels, no atomics: k_attn_dq has a block for 32 (or 16) queries and leaves the row's
// max + log(sum) and D; k_attn_dkv has a block for 32 keys and walks the queries. Each block leaves
// its part of the norms' gradients; they are added in the order of the blocks.
#include "engine/cuda/attn.h"

struct bwd { // device pointers of one call
    struct dr_attn_bwd_args a;
    float *lse, *delta; // [b*h, t]
    float *wq, *wk;     // parts of dq_norm [blocks, hd], of dk_norm
};

// Row `token` of dq or dk in g[hd] (shared, this warp's own) back through scale, rotation and norm
// into dst; dw[j] += this row's part of the norm's gradient at column lane + 32 j.
template <typename T, int NJ>
__device__ inline void finish_row(T *dst, const T *raw, float *g, int64_t token, const head &p,
                                  float (&dw)[NJ]) {
    const int lane = threadIdx.x % 32, hd = (int)p.hd, half = hd / 2;
    float d[NJ], x[NJ], sum = 0, dot = 0;
    for (int j = 0; j < NJ; j++) { // rotate back
        const int c = lane + 32 * j, i = c < half ? c : c - half;
        x[j] = c < hd ? to_f(raw[c]) : 0;
        d[j] = c < hd ? g[c] : 0;
        if (p.cos && c < 2 * half) {
            const float co = p.cos[token * half + i], si = p.sin[token * half + i];
            const float y = g[c < half ? c + half : c - half];
            d[j] = c < half ? d[j] * co + y * si : d[j] * co - y * si;
        }
        d[j] *= p.scale;
        sum += x[j] * x[j];
    }
    if (p.norm) {
        const float rstd = 1 / sqrtf(warp_sum(sum) / (float)hd + p.eps);
        for (int j = 0; j < NJ; j++) {
            const int c = lane + 32 * j;
            x[j] *= rstd;
            dw[j] += d[j] * x[j];
            d[j] *= c < hd ? p.norm[c] : 0;
            dot += d[j] * x[j];
        }
        const float mean = warp_sum(dot) / (float)hd;
        for (int j = 0; j < NJ; j++)
            d[j] = rstd * (d[j] - x[j] * mean);
    }
    for (int j = 0; j < NJ; j++)
        if (lane + 32 * j < hd)
            dst[lane + 32 * j] = from_f<T>(d[j]);
}

// part[hd] = sum over the warps of dw, in order. `s`: [WARPS][hd] of shared memory.
template <int NJ>
__device__ inline void norm_part(float *part, const float (&dw)[NJ], float *s, int hd) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    __syncthreads();
    for (int j = 0; j < NJ; j++)
        if (lane + 32 * j < hd)
            s[warp * hd + lane + 32 * j] = dw[j];
    __syncthreads();
    for (int c = threadIdx.x; c < hd; c += ATTN_THREADS) {
        float sum = 0;
        for (int w = 0; w < WARPS; w++)
            sum += s[w * hd + c];
        part[c] = sum;
    }
}

// Rows of scores p and of dout v' dp, both [rows][tp]: p becomes the softmax, dp the gradient by
// the scores; keeps each row's log sum and delta for k_attn_dkv.
template <int RW>
__device__ void softmax_bwd(const bwd &k, float *p, float *dp, int tp, int64_t first) {
    const struct dr_attn_bwd_args &a = k.a;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int r = 0; r < RW; r++) {
        const int row = warp + r * WARPS;
        const int64_t token = first + row;
        const float lse = softmax_row(p + row * tp, a.t);
        float delta = 0;
        for (int64_t i = lane; i < a.t; i += 32)
            delta += p[row * tp + i] * dp[row * tp + i];
        delta = warp_sum(delta);
        for (int64_t i = lane; i < a.t; i += 32)
            dp[row * tp + i] = p[row * tp + i] * (dp[row * tp + i] - delta);
        if (token < a.t && lane == 0) {
            k.lse[blockIdx.y * a.t + token] = lse;
            k.delta[blockIdx.y * a.t + token] = delta;
        }
    }
}

template <typename T, int RW, int NJ>
__global__ void __launch_bounds__(ATTN_THREADS)
    k_attn_dq(bwd k, T *dqkv, const T *qkv, const T *dout) {
    constexpr int ROWS = RW * WARPS;
    const struct dr_attn_bwd_args &a = k.a;
    DR_SHARED(float, shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, hd = (int)a.hd, ld = head_ld(hd);
    const int tp = (int)(a.t + 31) / 32 * 32;
    float *q = shared, *g = q + ROWS * ld, *kv = g + ROWS * ld; // g: dout
    float *p = kv + KEYS * ld, *dp = p + ROWS * tp;             // [ROWS][tp]
    const int64_t width = a.h * a.hd, step = 3 * width, b = blockIdx.y / a.h, h = blockIdx.y % a.h;
    const int64_t first = (int64_t)blockIdx.x * ROWS;
    const T *base = qkv + b * a.t * step + h * a.hd;
    const head hq = {a.t, a.h, a.hd, a.q_norm, a.rope_cos, a.rope_sin, a.eps, a.scale};
    const head hk = {a.t, a.h, a.hd, a.k_norm, a.rope_cos, a.rope_sin, a.eps, 1};
    const head plain = {a.t, a.h, a.hd, NULL, NULL, NULL, 0, 1};

    load_tile<T, ROWS>(q, base, step, first, hq);
    load_tile<T, ROWS>(g, dout + b * a.t * width + h * a.hd, width, first, plain);
    for (int k0 = 0; k0 < a.t; k0 += KEYS) {
        float dot[RW];
        __syncthreads();
        load_tile<T, KEYS>(kv, base + width, step, k0, hk);
        __syncthreads();
        tile_scores<RW>(dot, q, kv, hd, ld);
        for (int r = 0; r < RW; r++)
            p[(warp + r * WARPS) * tp + k0 + lane] = dot[r];
        __syncthreads();
        load_tile<T, KEYS>(kv, base + 2 * width, step, k0, plain);
        __syncthreads();
        tile_scores<RW>(dot, g, kv, hd, ld);
        for (int r = 0; r < RW; r++)
            dp[(warp + r * WARPS) * tp + k0 + lane] = dot[r];
    }
    __syncwarp();
    softmax_bwd<RW>(k, p, dp, tp, first);
    float acc[RW][NJ] = {}, dw[NJ] = {};
    for (int k0 = 0; k0 < a.t; k0 += KEYS) {
        __syncthreads();
        load_tile<T, KEYS>(kv, base + width, step, k0, hk);
        __syncthreads();
        const int n = a.t - k0 < KEYS ? (int)a.t - k0 : (int)KEYS;
        tile_values<RW, NJ>(acc, dp + k0, tp, kv, n, hd, ld);
    }
    for (int r = 0; r < RW; r++) { // q's rows are this warp's own from here on
        const int row = warp + r * WARPS;
        const int64_t token = first + row, at = b * a.t * step + token * step + h * a.hd;
        for (int j = 0; j < NJ; j++)
            if (lane + 32 * j < hd)
                q[row * ld + lane + 32 * j] = acc[r][j];
        __syncwarp();
        if (token < a.t)
            finish_row<T, NJ>(dqkv + at, qkv + at, q + row * ld, token, hq, dw);
    }
    if (k.wq)
        norm_part<NJ>(k.wq + ((int64_t)blockIdx.y * gridDim.x + blockIdx.x) * hd, dw, kv, hd);
}

template <typename T, int NJ>
__global__ void __launch_bounds__(ATTN_THREADS)
    k_attn_dkv(bwd w, T *dqkv, const T *qkv, const T *dout) {
    constexpr int RW = 2, ROWS = RW * WARPS, QUERIES = 32; // ROWS keys per block
    const struct dr_attn_bwd_args &a = w.a;
    DR_SHARED(float, shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, hd = (int)a.hd, ld = head_ld(hd);
    float *k = shared, *v = k + ROWS * ld, *q = v + ROWS * ld, *g = q + QUERIES * ld; // g: dout
    float *p = g + QUERIES * ld, *ds = p + ROWS * QUERIES; // [ROWS][QUERIES]
    const int64_t width = a.h * a.hd, step = 3 * width, b = blockIdx.y / a.h, h = blockIdx.y % a.h;
    const int64_t first = (int64_t)blockIdx.x * ROWS;
    const T *base = qkv + b * a.t * step + h * a.hd;
    const head hq = {a.t, a.h, a.hd, a.q_norm, a.rope_cos, a.rope_sin, a.eps, a.scale};
    const head hk = {a.t, a.h, a.hd, a.k_norm, a.rope_cos, a.rope_sin, a.eps, 1};
    const head plain = {a.t, a.h, a.hd, NULL, NULL, NULL, 0, 1};

    load_tile<T, ROWS>(k, base + width, step, first, hk);
    load_tile<T, ROWS>(v, base + 2 * width, step, first, plain);
    float dk[RW][NJ] = {}, dv[RW][NJ] = {};
    for (int q0 = 0; q0 < a.t; q0 += QUERIES) {
        float s[RW], dp[RW];
        __syncthreads();
        load_tile<T, QUERIES>(q, base, step, q0, hq);
        load_tile<T, QUERIES>(g, dout + b * a.t * width + h * a.hd, width, q0, plain);
        __syncthreads();
        tile_scores<RW>(s, k, q, hd, ld); // lanes across queries
        tile_scores<RW>(dp, v, g, hd, ld);
        const bool there = q0 + lane < a.t;
        const float lse = there ? w.lse[blockIdx.y * a.t + q0 + lane] : 0;
        const float delta = there ? w.delta[blockIdx.y * a.t + q0 + lane] : 0;
        for (int r = 0; r < RW; r++) {
            const float e = there ? expf(s[r] - lse) : 0;
            p[(warp + r * WARPS) * QUERIES + lane] = e;
            ds[(warp + r * WARPS) * QUERIES + lane] = e * (dp[r] - delta);
        }
        __syncwarp(); // rows of p and ds belong to their warp
        tile_values<RW, NJ>(dv, p, QUERIES, g, QUERIES, hd, ld);
        tile_values<RW, NJ>(dk, ds, QUERIES, q, QUERIES, hd, ld);
    }
    float dw[NJ] = {};
    for (int r = 0; r < RW; r++) { // k's rows are this warp's own
        const int row = warp + r * WARPS;
        const int64_t token = first + row, at = b * a.t * step + token * step + h * a.hd + width;
        for (int j = 0; j < NJ; j++)
            if (lane + 32 * j < hd) {
                k[row * ld + lane + 32 * j] = dk[r][j];
                if (token < a.t)
                    dqkv[at + width + lane + 32 * j] = from_f<T>(dv[r][j]);
            }
        __syncwarp();
        if (token < a.t)
            finish_row<T, NJ>(dqkv + at, qkv + at, k + row * ld, token, hk, dw);
    }
    if (w.wk)
        norm_part<NJ>(w.wk + ((int64_t)blockIdx.y * gridDim.x + blockIdx.x) * hd, dw, q, hd);
}

// ---- host
// ----------------------------------------------------------------------------------------------

enum { KEY_ROWS = 2 * WARPS };

static size_t dq_shared(int64_t t, int64_t hd, int rows) {
    return (size_t)((2 * rows + KEYS) * head_ld(hd) + 2 * rows * ((t + 31) / 32 * 32)) *
           sizeof(float);
}
static size_t dkv_shared(int64_t hd) {
    return (size_t)((2 * KEY_ROWS + 64) * head_ld(hd) + 2 * KEY_ROWS * 32) * sizeof(float);
}

static void add_parts(struct dr_backend *be, float *out, const float *part, int64_t m, int64_t n) {
    struct dr_colsum_args sum = {};
    sum.out = out, sum.x = part, sum.m = m, sum.n = n, sum.acc = true;
    if (out)
        dr_cuda_colsum(be, &sum);
}

template <typename T>
static void attn_bwd(struct dr_backend *be, const struct dr_attn_bwd_args *a) {
    const bool tall = dq_shared(a->t, a->hd, 4 * WARPS) <= dr_cuda_of(be)->shared_limit;
    const int rows = (tall ? 4 : 2) * WARPS;
    const size_t bytes = dq_shared(a->t, a->hd, rows), key_bytes = dkv_shared(a->hd);
    const dim3 grid(blocks_for(a->t, rows), (unsigned)(a->b * a->h));
    const dim3 key_grid(blocks_for(a->t, KEY_ROWS), grid.y);
    if (!attn_supported(be, a->hd, bytes > key_bytes ? bytes : key_bytes, "attn_bwd"))
        return;
    // rows of statistics, parts of the norms' gradients, and a copy of qkv when it is overwritten
    const size_t stats = (size_t)(a->b * a->h * a->t), nq = (size_t)grid.x * grid.y * (size_t)a->hd;
    const size_t nk = (size_t)key_grid.x * grid.y * (size_t)a->hd;
    const size_t copy =
        a->dqkv == a->qkv ? (size_t)(3 * a->b * a->t * a->h * a->hd) * sizeof(T) : 0;
    float *s = static_cast<float *>(
        dr_cuda_scratch(be, DR_CUDA_OP, (2 * stats + nq + nk) * sizeof(float) + copy));
    if (!s)
        return;
    const bwd k = {*a, s, s + stats, a->dq_norm ? s + 2 * stats : NULL,
                   a->dk_norm ? s + 2 * stats + nq : NULL};
    const T *qkv = static_cast<const T *>(a->qkv), *dout = static_cast<const T *>(a->dout);
    T *dqkv = static_cast<T *>(a->dqkv);
    if (copy) {
        T *raw = reinterpret_cast<T *>(s + 2 * stats + nq + nk);
        cudaMemcpyAsync(raw, qkv, copy, cudaMemcpyDeviceToDevice, dr_cuda_of(be)->stream);
        qkv = raw;
    }
    if (tall)
        DR_ATTN_WIDTH(
            a->hd, NJ,
            DR_LAUNCH(be, (k_attn_dq<T, 4, NJ>), grid, ATTN_THREADS, bytes, k, dqkv, qkv, dout));
    else
        DR_ATTN_WIDTH(
            a->hd, NJ,
            DR_LAUNCH(be, (k_attn_dq<T, 2, NJ>), grid, ATTN_THREADS, bytes, k, dqkv, qkv, dout));
    DR_ATTN_WIDTH(
        a->hd, NJ,
        DR_LAUNCH(be, (k_attn_dkv<T, NJ>), key_grid, ATTN_THREADS, key_bytes, k, dqkv, qkv, dout));
    add_parts(be, a->dq_norm, k.wq, (int64_t)grid.x * grid.y, a->hd);
    add_parts(be, a->dk_norm, k.wk, (int64_t)key_grid.x * grid.y, a->hd);
}

void dr_cuda_attn_bwd(struct dr_backend *be, const struct dr_attn_bwd_args *args) {
    struct dr_attn_bwd_args a = *args;
    const int64_t most = 65535 / (args->h > 0 ? args->h : 1); // of a grid's second dimension
    const size_t token = (size_t)(args->h * args->hd) * dr_sizeof(args->act);
    for (int64_t from = 0; from < args->b; from += most) {
        a.b = args->b - from < most ? args->b - from : most;
        if (attn_by_mma(a.act, a.hd))
            dr_cuda_attn_bwd_mma(be, &a);
        else
            DR_FOR_DTYPE(a.act, T, attn_bwd<T>(be, &a));
        a.qkv = static_cast<const char *>(a.qkv) + (size_t)(a.b * a.t * 3) * token;
        a.dqkv = static_cast<char *>(a.dqkv) + (size_t)(a.b * a.t * 3) * token;
        a.dout = static_cast<const char *>(a.dout) + (size_t)(a.b * a.t) * token;
    }
}
