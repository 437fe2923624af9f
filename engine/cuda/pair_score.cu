// Scores of pairs (method.md 4): an MLP with one hidden layer on every pair of a row of x and a row
// of y, which keeps none of its hidden values. Called by engine/loss/field_learned.c through the op
// table.
//
// Gradients of x and of the weights come from a block per row of x, those of y from a block per row
// of y, which computes the pairs once more: no sums across blocks but those of `part`, in order.
#include "engine/cuda/device.h"

enum { WIDE = 128 }; // hidden values of a block at a time

__device__ inline float gelu(float x, float *slope) {
    const float cdf = 0.5f * erfcf(x * -0.70710678118654752f);
    *slope = cdf + x * 0.39894228040143268f * expf(-0.5f * x * x);
    return x * cdf;
}

// A warp per pair, a block per row of x.
__global__ void __launch_bounds__(256) k_pair_score(struct dr_pair_score_fwd_args a) {
    const int64_t row = blockIdx.x, b = row / a.n;
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const float *hx = a.hx + row * a.h;
    for (int64_t j = warp; j < a.m; j += warps) {
        const float *hy = a.hy + (b * a.m + j) * a.h, d = a.d[row * a.m + j];
        float sum = 0;
        for (int64_t h = lane; h < a.h; h += 32) {
            float slope;
            sum += a.v[h] * gelu(a.u[h] * d + (hx[h] + hy[h]), &slope);
        }
        sum = warp_sum(sum);
        if (lane == 0)
            a.a[row * a.m + j] = sum;
    }
}

void dr_cuda_pair_score_fwd(struct dr_backend *be, const struct dr_pair_score_fwd_args *a) {
    if (a->b * a->n * a->m > 0)
        DR_LAUNCH(be, k_pair_score, (unsigned)(a->b * a->n), 256, 0, *a);
}

// dhx of a row, the row's share of du and dv into part[row,2h], and `slope`: sum_h g u of its
// pairs.
__global__ void __launch_bounds__(WIDE)
    k_pair_rows(struct dr_pair_score_bwd_args a, float *part, float *slope) {
    DR_SHARED(float, slots);
    const int64_t row = blockIdx.x, b = row / a.n;
    for (int64_t first = 0; first < a.h; first += WIDE) {
        const int64_t h = first + threadIdx.x;
        const bool here = h < a.h;
        const float hx = here ? a.hx[row * a.h + h] : 0;
        const float u = here ? a.u[h] : 0, v = here ? a.v[h] : 0;
        float dhx = 0, du = 0, dv = 0;
        for (int64_t j = 0; j < a.m; j++) {
            const int64_t at = row * a.m + j;
            const float da = a.da[at], d = a.d[at];
            const float hy = here ? a.hy[(b * a.m + j) * a.h + h] : 0;
            float s, y = gelu(u * d + (hx + hy), &s);
            const float g = s * v * da;
            dhx += g;
            du += g * d;
            dv += y * da;
            const float sum = block_sum(g * u, slots);
            if (threadIdx.x == 0)
                slope[at] = first ? slope[at] + sum : sum;
        }
        if (!here)
            continue;
        a.dhx[row * a.h + h] = dhx;
        part[row * 2 * a.h + h] = du;
        part[row * 2 * a.h + a.h + h] = dv;
    }
}

__global__ void __launch_bounds__(WIDE) k_pair_columns(struct dr_pair_score_bwd_args a) {
    const int64_t row = blockIdx.x, b = row / a.m, j = row % a.m;
    for (int64_t h = threadIdx.x; h < a.h; h += WIDE) {
        const float hy = a.hy[row * a.h + h], u = a.u[h], v = a.v[h];
        float dhy = 0;
        for (int64_t i = 0; i < a.n; i++) {
            const int64_t x = b * a.n + i, at = x * a.m + j;
            float s;
            gelu(u * a.d[at] + (a.hx[x * a.h + h] + hy), &s);
            dhy += s * v * a.da[at];
        }
        a.dhy[row * a.h + h] = dhy;
    }
}

__global__ void __launch_bounds__(256)
    k_pair_weights(struct dr_pair_score_bwd_args a, const float *part) {
    const int64_t h = (int64_t)blockIdx.x * 256 + threadIdx.x;
    double sum = 0;
    if (h >= 2 * a.h)
        return;
    for (int64_t r = 0; r < a.b * a.n; r++)
        sum += (double)part[r * 2 * a.h + h];
    float *to = h < a.h ? a.du + h : a.dv + (h - a.h);
    *to += (float)sum;
}

struct pair_pull_f {
    struct dr_pair_pull_args a;
    template <int V> __device__ void run(int64_t i) const {
        const float d = a.d[i], v = d <= 1e-4f ? 0 : a.factor * a.da[i] / d; // keeps a NaN
        a.pull[i] = a.acc ? a.pull[i] + v : v;
    }
};

void dr_cuda_pair_pull(struct dr_backend *be, const struct dr_pair_pull_args *a) {
    const pair_pull_f f = {*a};
    DR_FLAT(be, f, a->n, false);
}

struct pull_f {
    struct dr_pair_score_bwd_args a;
    const float *slope;
    template <int V> __device__ void run(int64_t i) const {
        const float d = a.d[i];
        a.pull[i] = d <= 1e-4f ? 0 : slope[i] / d;
    }
};

void dr_cuda_pair_score_bwd(struct dr_backend *be, const struct dr_pair_score_bwd_args *a) {
    const int64_t rows = a->b * a->n, pairs = rows * a->m;
    float *part = static_cast<float *>(
        dr_cuda_scratch(be, DR_CUDA_OP, (size_t)(rows * 2 * a->h + pairs + 1) * sizeof(float)));
    if (!part || pairs <= 0)
        return;
    float *slope = part + rows * 2 * a->h;
    DR_LAUNCH(be, k_pair_rows, (unsigned)rows, WIDE, 256, *a, part, slope);
    DR_LAUNCH(be, k_pair_columns, (unsigned)(a->b * a->m), WIDE, 0, *a);
    DR_LAUNCH(be, k_pair_weights, blocks_for(2 * a->h, 256), 256, 0, *a, part);
    const pull_f f = {*a, slope}; // last: it may overwrite da
    DR_FLAT(be, f, pairs, false);
}
