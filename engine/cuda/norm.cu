// RMSNorm with adaLN modulation, gated residual, L2 normalisation, forward and backward. Called
// through the op table by nn/ and loss/. Formulas are at the argument structs in ops.h.
//
// A row is one warp's; sums over the tokens of a sample are one block's, 32 columns at a time:
// eight warps take tokens in turn and their sums are added in order. Nothing depends on the batch.
#include "engine/cuda/device.h"
#include "engine/cuda/divide.h"

// Warps and threads per block of the row kernels.
enum { ROWS = 8, THREADS = 32 * ROWS };

static inline int64_t stride_or(int64_t stride, int64_t contiguous) {
    return stride ? stride : contiguous;
}

// ---- RMSNorm
// -------------------------------------------------------------------------------------------

template <int V, typename T>
__global__ void __launch_bounds__(THREADS) k_norm_fwd(struct dr_rmsnorm_mod_fwd_args a, T *y) {
    const int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / 32, b = row / a.t, d = a.d;
    const int lane = threadIdx.x % 32;
    if (row >= a.b * a.t)
        return;
    const float *x = a.x + b * a.x_stride + row % a.t * d;
    float sum = 0;
    for (int64_t i = lane * V; i < d; i += 32 * V) {
        float u[V];
        load(u, x + i);
        for (int k = 0; k < V; k++)
            sum += u[k] * u[k];
    }
    const float rstd = 1 / sqrtf(warp_sum(sum) / (float)d + a.eps), gain = a.gain != 0 ? a.gain : 1;
    if (a.rstd && lane == 0)
        a.rstd[row] = rstd;
    for (int64_t i = lane * V; i < d; i += 32 * V) {
        float u[V], t[V];
        load(u, x + i);
        for (int k = 0; k < V; k++)
            u[k] *= rstd;
        if (a.weight) {
            load(t, a.weight + i);
            for (int k = 0; k < V; k++)
                u[k] *= t[k];
        }
        if (a.scale) {
            load(t, a.scale + b * a.mod_stride + i);
            for (int k = 0; k < V; k++)
                u[k] *= 1 + t[k];
        }
        if (a.shift) {
            load(t, a.shift + b * a.mod_stride + i);
            for (int k = 0; k < V; k++)
                u[k] += t[k];
        }
        for (int k = 0; k < V; k++)
            u[k] *= gain;
        store(y + row * d + i, u);
    }
}

template <typename T>
static void norm_fwd(struct dr_backend *be, const struct dr_rmsnorm_mod_fwd_args *a) {
    struct dr_rmsnorm_mod_fwd_args k = *a;
    T *y = static_cast<T *>(a->y);
    k.x_stride = stride_or(a->x_stride, a->t * a->d);
    const unsigned grid = blocks_for(a->b * a->t, ROWS);
    if (a->d % 4 == 0 && k.x_stride % 4 == 0 && a->mod_stride % 4 == 0 &&
        wide(y, a->x, a->weight, a->shift, a->scale))
        DR_LAUNCH(be, (k_norm_fwd<4, T>), grid, THREADS, 0, k, y);
    else
        DR_LAUNCH(be, (k_norm_fwd<1, T>), grid, THREADS, 0, k, y);
}

void dr_cuda_rmsnorm_mod_fwd(struct dr_backend *be, const struct dr_rmsnorm_mod_fwd_args *a) {
    if (a->b * a->t > 0)
        DR_FOR_DTYPE(a->yt, T, norm_fwd<T>(be, a));
}

// g = dy gain (1 + scale) weight of V columns
template <int V, typename T>
__device__ inline void norm_g(float (&g)[V], const struct dr_rmsnorm_mod_bwd_args &a, const T *dy,
                              int64_t b, int64_t i, float gain) {
    float t[V];
    load(g, dy + i);
    if (a.weight) {
        load(t, a.weight + i);
        for (int k = 0; k < V; k++)
            g[k] *= t[k];
    }
    if (a.scale) {
        load(t, a.scale + b * a.mod_stride + i);
        for (int k = 0; k < V; k++)
            g[k] *= 1 + t[k];
    }
    for (int k = 0; k < V; k++)
        g[k] *= gain;
}

template <int V, typename T>
__global__ void __launch_bounds__(THREADS)
    k_norm_dx(struct dr_rmsnorm_mod_bwd_args a, const T *dys) {
    const int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x / 32, b = row / a.t, d = a.d;
    const int lane = threadIdx.x % 32;
    if (row >= a.b * a.t)
        return;
    const int64_t at = b * a.x_stride + row % a.t * d;
    const float *x = a.x + at, rstd = a.rstd[row], gain = a.gain != 0 ? a.gain : 1;
    const T *dy = dys + row * d;
    float *dx = a.dx + at, sum = 0;
    for (int64_t i = lane * V; i < d; i += 32 * V) {
        float g[V], u[V];
        norm_g(g, a, dy, b, i, gain);
        load(u, x + i);
        for (int k = 0; k < V; k++)
            sum += g[k] * (u[k] * rstd);
    }
    const float mean = warp_sum(sum) / (float)d;
    for (int64_t i = lane * V; i < d; i += 32 * V) {
        float g[V], u[V], old[V];
        norm_g(g, a, dy, b, i, gain);
        load(u, x + i);
        for (int k = 0; k < V; k++)
            g[k] = rstd * (g[k] - u[k] * rstd * mean);
        if (a.acc_dx) {
            load(old, dx + i);
            for (int k = 0; k < V; k++)
                g[k] += old[k];
        }
        store(dx + i, g);
    }
}

// dshift, dscale and the sample's part of dweight, part[b,d].
template <typename T>
__global__ void __launch_bounds__(256)
    k_norm_sums(struct dr_rmsnorm_mod_bwd_args a, const T *dys, float *part) {
    DR_SHARED(float, s); // [2][8][32]
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t b = blockIdx.x, i = (int64_t)blockIdx.y * 32 + lane, d = a.d;
    float sxh = 0, sdy = 0;
    for (int64_t t = warp; t < a.t && i < d; t += 8) {
        const float dy = to_f(dys[(b * a.t + t) * d + i]);
        sxh += dy * (a.x[b * a.x_stride + t * d + i] * a.rstd[b * a.t + t]);
        sdy += dy;
    }
    s[warp * 32 + lane] = sxh;
    s[256 + warp * 32 + lane] = sdy;
    __syncthreads();
    if (warp || i >= d)
        return;
    for (int k = 1; k < 8; k++) {
        sxh += s[k * 32 + lane];
        sdy += s[256 + k * 32 + lane];
    }
    const float gain = a.gain != 0 ? a.gain : 1;
    if (a.dshift)
        a.dshift[b * a.dmod_stride + i] = gain * sdy;
    if (a.dscale)
        a.dscale[b * a.dmod_stride + i] = gain * (a.weight ? a.weight[i] : 1) * sxh;
    if (part)
        part[b * d + i] = gain * (a.scale ? 1 + a.scale[b * a.mod_stride + i] : 1) * sxh;
}

// Adds the warps' sums over tokens, of dy, then of dy xh, and writes the gradients of shift, scale
// and weight. s: [8][d] shared.
template <int NV>
__device__ void norm_bwd_sums(const struct dr_rmsnorm_mod_bwd_args &a, float *s,
                              const float (&sdy)[NV][4], const float (&sxh)[NV][4], float *part) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t b = blockIdx.x, d = a.d;
    const float gain = a.gain != 0 ? a.gain : 1;
    for (int which = 0; which < 2; which++) { // sums of dy, then of dy xh
        __syncthreads();
        for (int v = 0; v < NV; v++)
            for (int k = 0; k < 4; k++)
                if ((v * 32 + lane) * 4 < d)
                    s[warp * d + (v * 32 + lane) * 4 + k] = which ? sxh[v][k] : sdy[v][k];
        __syncthreads();
        for (int64_t i = threadIdx.x; i < d; i += 256) {
            float sum = 0;
            for (int w = 0; w < 8; w++)
                sum += s[w * d + i];
            if (!which && a.dshift)
                a.dshift[b * a.dmod_stride + i] = gain * sum;
            if (which && a.dscale)
                a.dscale[b * a.dmod_stride + i] = gain * (a.weight ? a.weight[i] : 1) * sum;
            if (which && part)
                part[b * d + i] = gain * (a.scale ? 1 + a.scale[b * a.mod_stride + i] : 1) * sum;
        }
    }
}

// All of it in one walk where a lane can hold its columns: one block per sample, whose warps
// take tokens in turn and keep the sums over them in registers. part: as above. Up to 128 NV
// columns.
template <int NV, typename T>
__global__ void __launch_bounds__(256)
    k_norm_bwd(struct dr_rmsnorm_mod_bwd_args a, const T *dys, float *part) {
    DR_SHARED(float, s); // [8][d]
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t b = blockIdx.x, d = a.d;
    const float gain = a.gain != 0 ? a.gain : 1;
    float factor[NV][4] = {}, sxh[NV][4] = {}, sdy[NV][4] = {};
    for (int v = 0; v < NV; v++) {
        const int64_t i = (v * 32 + lane) * 4;
        for (int k = 0; k < 4 && i < d; k++)
            factor[v][k] = gain * (a.weight ? a.weight[i + k] : 1) *
                           (a.scale ? 1 + a.scale[b * a.mod_stride + i + k] : 1);
    }
    for (int64_t t = warp; t < a.t; t += 8) {
        const int64_t at = b * a.x_stride + t * d;
        const float rstd = a.rstd[b * a.t + t];
        float xh[NV][4], g[NV][4], sum = 0;
        DR_UNROLL
        for (int v = 0; v < NV; v++) {
            const int64_t i = (v * 32 + lane) * 4;
            for (int k = 0; k < 4; k++)
                xh[v][k] = g[v][k] = 0;
            if (i < d) {
                load(xh[v], a.x + at + i);
                load(g[v], dys + (b * a.t + t) * d + i);
            }
            for (int k = 0; k < 4; k++) {
                xh[v][k] *= rstd;
                sxh[v][k] += g[v][k] * xh[v][k];
                sdy[v][k] += g[v][k];
                g[v][k] *= factor[v][k];
                sum += g[v][k] * xh[v][k];
            }
        }
        const float mean = warp_sum(sum) / (float)d;
        DR_UNROLL
        for (int v = 0; v < NV; v++) {
            const int64_t i = (v * 32 + lane) * 4;
            float old[4] = {};
            if (i >= d)
                continue;
            if (a.acc_dx)
                load(old, a.dx + at + i);
            for (int k = 0; k < 4; k++)
                g[v][k] = rstd * (g[v][k] - xh[v][k] * mean) + old[k];
            store(a.dx + at + i, g[v]);
        }
    }
    norm_bwd_sums<NV>(a, s, sdy, sxh, part);
}

template <typename T>
static void norm_bwd_once(struct dr_backend *be, const struct dr_rmsnorm_mod_bwd_args &k,
                          const T *dy, float *part) {
    const unsigned grid = (unsigned)k.b;
    const size_t bytes = (size_t)(8 * k.d) * sizeof(float);
    if (k.d <= 256)
        DR_LAUNCH(be, (k_norm_bwd<2, T>), grid, 256, bytes, k, dy, part);
    else if (k.d <= 384)
        DR_LAUNCH(be, (k_norm_bwd<3, T>), grid, 256, bytes, k, dy, part);
    else if (k.d <= 512)
        DR_LAUNCH(be, (k_norm_bwd<4, T>), grid, 256, bytes, k, dy, part);
    else if (k.d <= 768)
        DR_LAUNCH(be, (k_norm_bwd<6, T>), grid, 256, bytes, k, dy, part);
    else
        DR_LAUNCH(be, (k_norm_bwd<8, T>), grid, 256, bytes, k, dy, part);
}

template <typename T>
static void norm_bwd(struct dr_backend *be, const struct dr_rmsnorm_mod_bwd_args *a) {
    struct dr_rmsnorm_mod_bwd_args k = *a;
    const T *dy = static_cast<const T *>(a->dy);
    float *part = NULL;
    k.x_stride = stride_or(a->x_stride, a->t * a->d);
    if (a->dweight) {
        part = static_cast<float *>(
            dr_cuda_scratch(be, DR_CUDA_OP, (size_t)(a->b * a->d) * sizeof(float)));
        if (!part)
            return;
    }
    const unsigned grid = blocks_for(a->b * a->t, ROWS);
    const bool sums = a->dweight || a->dshift || a->dscale;
    const bool four = a->d % 4 == 0 && k.x_stride % 4 == 0 && a->mod_stride % 4 == 0 &&
                      wide(dy, a->x, a->dx, a->weight, a->scale);
    if (four && sums && a->d <= 1024) {
        norm_bwd_once(be, k, dy, part);
    } else {
        if (four)
            DR_LAUNCH(be, (k_norm_dx<4, T>), grid, THREADS, 0, k, dy);
        else
            DR_LAUNCH(be, (k_norm_dx<1, T>), grid, THREADS, 0, k, dy);
        if (sums)
            DR_LAUNCH(be, (k_norm_sums<T>), dim3((unsigned)a->b, blocks_for(a->d, 32)), 256, 2048,
                      k, dy, part);
    }
    if (a->dweight) {
        struct dr_colsum_args sum = {};
        sum.out = a->dweight, sum.x = part, sum.m = a->b, sum.n = a->d, sum.acc = true;
        dr_cuda_colsum(be, &sum);
    }
}

void dr_cuda_rmsnorm_mod_bwd(struct dr_backend *be, const struct dr_rmsnorm_mod_bwd_args *a) {
    if (a->b * a->t > 0)
        DR_FOR_DTYPE(a->dyt, T, norm_bwd<T>(be, a));
}

// ---- gated residual
// ------------------------------------------------------------------------------------

template <typename T> struct gate_fwd_f {
    struct dr_gate_fwd_args a;
    const T *y;
    divisor by_sample, by_d;
    template <int V> __device__ void run(int64_t i) const {
        float x[V], u[V], g[V];
        int64_t col;
        by_d.split(i, &col);
        load(x, a.x + i);
        load(u, y + i);
        load(g, a.gate + by_sample.of(i) * a.mod_stride + col);
        for (int k = 0; k < V; k++)
            x[k] += g[k] * u[k];
        store(a.out + i, x);
    }
};

template <typename T>
static void gate_fwd(struct dr_backend *be, const struct dr_gate_fwd_args *a) {
    const gate_fwd_f<T> f = {*a, static_cast<const T *>(a->y), divisor(a->t * a->d), divisor(a->d)};
    DR_FLAT(be, f, a->b * a->t * a->d,
            a->d % 4 == 0 && a->mod_stride % 4 == 0 && wide(a->out, a->x, f.y, a->gate));
}

void dr_cuda_gate_fwd(struct dr_backend *be, const struct dr_gate_fwd_args *a) {
    DR_FOR_DTYPE(a->act, T, gate_fwd<T>(be, a));
}

// A block has 32 V columns of a sample.
template <int V, typename T>
__global__ void __launch_bounds__(256) k_gate_bwd(struct dr_gate_bwd_args a, T *dy, const T *y) {
    DR_SHARED(float, s); // [8][32][V]
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t b = blockIdx.x, i = ((int64_t)blockIdx.y * 32 + lane) * V, d = a.d;
    float gate[V] = {}, sum[V] = {};
    if (i < d)
        load(gate, a.gate + b * a.mod_stride + i);
    for (int64_t t = warp; t < a.t && i < d; t += 8) {
        const int64_t at = (b * a.t + t) * d + i;
        float g[V], u[V];
        load(g, a.dout + at);
        load(u, y + at);
        for (int k = 0; k < V; k++) {
            sum[k] += g[k] * u[k];
            g[k] *= gate[k];
        }
        store(dy + at, g);
    }
    store(s + (warp * 32 + lane) * V, sum);
    __syncthreads();
    if (warp || i >= d)
        return;
    for (int w = 1; w < 8; w++)
        for (int k = 0; k < V; k++)
            sum[k] += s[(w * 32 + lane) * V + k];
    store(a.dgate + b * a.dmod_stride + i, sum);
}

template <typename T>
static void gate_bwd(struct dr_backend *be, const struct dr_gate_bwd_args *a) {
    T *dy = static_cast<T *>(a->dy);
    const T *y = static_cast<const T *>(a->y);
    if (a->d % 4 == 0 && a->mod_stride % 4 == 0 && a->dmod_stride % 4 == 0 &&
        wide(dy, y, a->dout, a->gate, a->dgate))
        DR_LAUNCH(be, (k_gate_bwd<4, T>), dim3((unsigned)a->b, blocks_for(a->d, 128)), 256, 4096,
                  *a, dy, y);
    else
        DR_LAUNCH(be, (k_gate_bwd<1, T>), dim3((unsigned)a->b, blocks_for(a->d, 32)), 256, 1024, *a,
                  dy, y);
}

void dr_cuda_gate_bwd(struct dr_backend *be, const struct dr_gate_bwd_args *a) {
    if (a->b > 0)
        DR_FOR_DTYPE(a->act, T, gate_bwd<T>(be, a));
}

// ---- L2 normalisation: rows are feature vectors, long enough for one block each
// ------------------------------

__global__ void __launch_bounds__(128) k_l2_fwd(struct dr_l2norm_fwd_args a) {
    DR_SHARED(float, s);
    const int64_t at = (int64_t)blockIdx.x * a.n;
    float sum = 0;
    for (int64_t i = threadIdx.x; i < a.n; i += blockDim.x)
        sum += a.x[at + i] * a.x[at + i];
    float norm = sqrtf(block_sum(sum, s));
    norm = norm < a.eps ? a.eps : norm;
    if (threadIdx.x == 0)
        a.norm[blockIdx.x] = norm;
    for (int64_t i = threadIdx.x; i < a.n; i += blockDim.x)
        a.y[at + i] = a.x[at + i] / norm;
}

void dr_cuda_l2norm_fwd(struct dr_backend *be, const struct dr_l2norm_fwd_args *a) {
    if (a->m > 0)
        DR_LAUNCH(be, k_l2_fwd, (unsigned)a->m, 128, 128, *a);
}

// A row whose norm was clamped to eps was only divided by a constant: no projection.
__global__ void __launch_bounds__(128) k_l2_bwd(struct dr_l2norm_bwd_args a) {
    DR_SHARED(float, s);
    const int64_t at = (int64_t)blockIdx.x * a.n;
    float sum = 0;
    for (int64_t i = threadIdx.x; i < a.n; i += blockDim.x)
        sum += a.y[at + i] * a.dy[at + i];
    sum = block_sum(sum, s);
    const float norm = a.norm[blockIdx.x], along = norm > a.eps ? sum : 0;
    for (int64_t i = threadIdx.x; i < a.n; i += blockDim.x)
        a.dx[at + i] = (a.dy[at + i] - a.y[at + i] * along) / norm;
}

void dr_cuda_l2norm_bwd(struct dr_backend *be, const struct dr_l2norm_bwd_args *a) {
    if (a->m > 0)
        DR_LAUNCH(be, k_l2_bwd, (unsigned)a->m, 128, 128, *a);
}
