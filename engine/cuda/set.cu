// Sets of the learned field (method.md 4): noise for its denoising, softmaxes over sets, its
// losses, and how two fields agree. Called by engine/loss/field_learned.c through the op table.
//
// A row is one block's, its sums in a fixed order; those of the rows are added in order.
#include "engine/cuda/device.h"
#include "engine/cuda/divide.h"
#include "engine/cuda/random.h"

// ---- noise
// ----------------------------------------------------------------------------------------

__device__ inline float uniform(uint32_t r) {
    return ((float)r + 0.5f) * 2.3283064365386963e-10f;
}

struct set_noise_f {
    struct dr_set_noise_args a;
    divisor blocks; // of a row
    float root;     // sqrt(width)
    template <int V> __device__ void run(int64_t i) const {
        int64_t block;
        const int64_t row = blocks.split(i, &block), at = 4 * block;
        float f = a.scale ? *a.scale / root : 1, sigma = 0, z[4] = {};
        f = f < 1e-3f ? 1e-3f : f; // a NaN stays one
        if (a.hi > 0) {
            const uint64_t index = (a.key[1] << 32) + (uint64_t)(a.first + row);
            uint32_t r[4];
            philox(a.key[0], 0, a.stream + 1, index, r);
            sigma = a.lo * expf(logf(a.hi / a.lo) * uniform(r[0]));
            if (block == 0)
                a.sigma[row] = sigma;
            philox(a.key[0], (uint32_t)block, a.stream, index, r);
            for (int k = 0; k < 4; k += 2) {
                const float len = sqrtf(-2 * logf(uniform(r[k])));
                const float angle = 6.28318530717958647f * uniform(r[k + 1]);
                z[k] = len * cosf(angle);
                z[k + 1] = len * sinf(angle);
            }
        }
        for (int k = 0; k < 4 && at + k < a.width; k++) {
            const int64_t e = row * a.width + at + k;
            a.y[e] = a.x[e] / f + sigma * z[k];
        }
    }
};

void dr_cuda_set_noise(struct dr_backend *be, const struct dr_set_noise_args *a) {
    const set_noise_f f = {*a, divisor(ceil_div(a->width, 4)), (float)sqrt((double)a->width)};
    DR_FLAT(be, f, a->rows * f.blocks.d, false);
}

// ---- softmaxes
// ------------------------------------------------------------------------------------

__device__ inline float block_max(float v, float *slots) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    v = warp_max(v);
    if (lane == 0)
        slots[warp] = v;
    __syncthreads();
    v = warp_max(lane < warps ? slots[lane] : -INFINITY);
    __syncthreads();
    return v;
}

// A row's scores over two sets. Every thread of the block calls the functions.
struct sets {
    const float *a, *w; // of the row; w NULL: ones
    int64_t n_neg, m, self;

    __device__ float weight(int64_t j) const { return j == self ? 0 : w ? w[j] : 1; }
    // The largest score of one set that has a weight, -inf where none has.
    __device__ float top(bool second, float *slots) const {
        float t = -INFINITY;
        for (int64_t j = (second ? n_neg : 0) + threadIdx.x; j < (second ? m : n_neg);
             j += blockDim.x)
            if (weight(j) != 0 && !(a[j] <= t))
                t = a[j];
        return block_max(t, slots);
    }
    __device__ float term(int64_t j, float t) const {
        const float by = weight(j);
        return by != 0 ? by * expf(a[j] - t) : 0;
    }
    __device__ double sum(bool second, float t, double *slots) const {
        double s = 0;
        for (int64_t j = (second ? n_neg : 0) + threadIdx.x; j < (second ? m : n_neg);
             j += blockDim.x)
            s += (double)term(j, t);
        return block_sum(s, slots);
    }
};

enum { ROW = 128 };

__global__ void __launch_bounds__(ROW) k_set_softmax(struct dr_set_softmax_fwd_args a) {
    DR_SHARED(double, slots);
    const int64_t row = blockIdx.x;
    const sets s = {a.a + row * a.m, a.w ? a.w + row / a.n * a.m : NULL, a.n_neg, a.m,
                    a.diag < 0 ? -1 : a.diag + row % a.n};
    float low = s.top(false, reinterpret_cast<float *>(slots));
    float high = s.top(true, reinterpret_cast<float *>(slots));
    if (a.product)
        low = high = low <= high ? high : low;
    const double down = s.sum(false, low, slots), up = s.sum(true, high, slots), all = down + up;
    double neg = down == 0 ? 0 : -1 / down, pos = up == 0 ? 0 : 1 / up;
    if (a.product) {
        neg = all == 0 ? 0 : -up / all / all;
        pos = all == 0 ? 0 : down / all / all;
    }
    for (int64_t j = threadIdx.x; j < a.m; j += blockDim.x) { // its own lane's scores
        const bool second = j >= a.n_neg;
        const float e = s.term(j, second ? high : low);
        a.coef[row * a.m + j] = (float)((double)e * (second ? pos : neg));
    }
}

void dr_cuda_set_softmax_fwd(struct dr_backend *be, const struct dr_set_softmax_fwd_args *a) {
    if (a->b * a->n * a->m > 0)
        DR_LAUNCH(be, k_set_softmax, (unsigned)(a->b * a->n), ROW, 256, *a);
}

__global__ void __launch_bounds__(ROW) k_set_softmax_bwd(struct dr_set_softmax_bwd_args a) {
    DR_SHARED(double, slots);
    const int64_t at = (int64_t)blockIdx.x * a.m;
    double mean = 0;
    for (int64_t j = threadIdx.x; j < a.m; j += blockDim.x)
        mean += (double)a.p[at + j] * (double)a.dp[at + j];
    mean = block_sum(mean, slots);
    for (int64_t j = threadIdx.x; j < a.m; j += blockDim.x)
        a.da[at + j] = a.p[at + j] * (a.dp[at + j] - (float)mean);
}

void dr_cuda_set_softmax_bwd(struct dr_backend *be, const struct dr_set_softmax_bwd_args *a) {
    if (a->rows * a->m > 0)
        DR_LAUNCH(be, k_set_softmax_bwd, (unsigned)a->rows, ROW, 256, *a);
}

// ---- losses
// ---------------------------------------------------------------------------------------

__global__ void __launch_bounds__(256)
    k_add_rows(float *loss, const double *part, int64_t rows, double unit) {
    DR_SHARED(double, slots);
    double sum = 0;
    for (int64_t i = threadIdx.x; i < rows; i += blockDim.x)
        sum += part[i];
    sum = block_sum(sum, slots);
    if (threadIdx.x == 0)
        loss[0] += (float)(unit * sum);
}

static double *row_parts(struct dr_backend *be, int64_t rows) {
    return static_cast<double *>(
        dr_cuda_scratch(be, DR_CUDA_OP, (size_t)(rows + 1) * sizeof(double)));
}

__global__ void __launch_bounds__(ROW)
    k_denoise(struct dr_denoise_loss_args a, double unit, double *part) {
    DR_SHARED(double, slots);
    const int64_t at = (int64_t)blockIdx.x * a.width;
    const float inv = 1 / a.sigma[blockIdx.x], f = (float)(unit * (double)inv);
    double sum = 0;
    for (int64_t i = at + threadIdx.x; i < at + a.width; i += blockDim.x) {
        const float e = (a.s[i] - (a.y[i] - a.x[i])) * inv;
        a.ds[i] = f * e;
        sum += (double)e * (double)e;
    }
    sum = block_sum(sum, slots);
    if (threadIdx.x == 0)
        part[blockIdx.x] = sum;
}

void dr_cuda_denoise_loss(struct dr_backend *be, const struct dr_denoise_loss_args *a) {
    double *part = row_parts(be, a->rows);
    const double unit = (double)a->weight / a->count;
    if (!part || a->rows * a->width <= 0)
        return;
    DR_LAUNCH(be, k_denoise, (unsigned)a->rows, ROW, 256, *a, 2 * unit, part);
    DR_LAUNCH(be, k_add_rows, 1, 256, 256, a->loss, part, a->rows, unit);
}

__global__ void __launch_bounds__(ROW)
    k_mass(struct dr_mass_loss_args a, double unit, double *part) {
    DR_SHARED(double, slots);
    const int64_t row = blockIdx.x;
    const sets s = {a.a + row * a.m, NULL, a.n_neg, a.m, a.diag < 0 ? -1 : a.diag + row % a.n};
    const float low = s.top(false, reinterpret_cast<float *>(slots));
    const float high = s.top(true, reinterpret_cast<float *>(slots));
    const float top = low <= high ? high : low;
    const bool empty = low == -INFINITY || high == -INFINITY;
    const double down = s.sum(false, top, slots), up = s.sum(true, high, slots);
    const double less = exp((double)high - (double)top), all = down + up * less;
    const double neg = empty ? 0 : unit / all, pos = empty ? 0 : unit * (less / all - 1 / up);
    for (int64_t j = threadIdx.x; j < a.m; j += blockDim.x) {
        const bool second = j >= a.n_neg;
        const float e = s.term(j, second ? high : top);
        a.da[row * a.m + j] = (float)((double)e * (second ? pos : neg));
    }
    if (threadIdx.x == 0)
        part[row] = empty ? 0 : log(all) - log(up) - ((double)high - (double)top);
}

void dr_cuda_mass_loss(struct dr_backend *be, const struct dr_mass_loss_args *a) {
    const int64_t rows = a->b * a->n;
    double *part = row_parts(be, rows);
    const double unit = (double)a->weight / a->count;
    if (!part || rows * a->m <= 0)
        return;
    DR_LAUNCH(be, k_mass, (unsigned)rows, ROW, 256, *a, unit, part);
    DR_LAUNCH(be, k_add_rows, 1, 256, 256, a->loss, part, rows, unit);
}

// ---- agreement
// ------------------------------------------------------------------------------------

enum { CHUNK = 8192 };

__global__ void __launch_bounds__(256) k_correlate(struct dr_correlate_args a, double *part) {
    DR_SHARED(double, slots);
    const int64_t at = (int64_t)blockIdx.x * CHUNK, end = at + CHUNK < a.n ? at + CHUNK : a.n;
    double xy = 0, xx = 0, yy = 0;
    for (int64_t i = at + threadIdx.x; i < end; i += blockDim.x) {
        const double x = (double)a.x[i], y = (double)a.y[i];
        xy += x * y;
        xx += x * x;
        yy += y * y;
    }
    xy = block_sum(xy, slots);
    xx = block_sum(xx, slots);
    yy = block_sum(yy, slots);
    if (threadIdx.x == 0) {
        part[3 * blockIdx.x] = xy;
        part[3 * blockIdx.x + 1] = xx;
        part[3 * blockIdx.x + 2] = yy;
    }
}

__global__ void __launch_bounds__(32)
    k_correlate_total(double *out, const double *part, int64_t n) {
    double sum = 0;
    if (threadIdx.x >= 3)
        return;
    for (int64_t i = 0; i < n; i++)
        sum += part[3 * i + threadIdx.x];
    out[threadIdx.x] = sum;
}

void dr_cuda_correlate(struct dr_backend *be, const struct dr_correlate_args *a) {
    const int64_t blocks = ceil_div(a->n, CHUNK);
    double *part = row_parts(be, 3 * blocks);
    if (!part)
        return;
    if (blocks)
        DR_LAUNCH(be, k_correlate, (unsigned)blocks, 256, 256, *a, part);
    DR_LAUNCH(be, k_correlate_total, 1, 32, 0, a->out, part, blocks);
}
