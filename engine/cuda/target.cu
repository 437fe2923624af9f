// Losses against a target that is there: masked squared error, cross-entropy; and masking itself.
// Called through the op table by train/. Formulas are at the argument structs in ops.h.
//
// A sample (squared error) or a row (cross-entropy) is one block's, its sums in a fixed order.
#include "engine/cuda/device.h"
#include "engine/cuda/divide.h"

// ---- masks
// ----------------------------------------------------------------------------------------

// The mask's value at an element of [b,h,w,c]; mask NULL: 1.
struct mask_of {
    const float *mask;
    divisor by_c, by_w, by_h, by_p;
    int64_t high, along;
    __device__ float at(int64_t i) const {
        int64_t c, x, y;
        if (!mask)
            return 1;
        const int64_t n = by_h.split(by_w.split(by_c.split(i, &c), &x), &y);
        return mask[(n * high + by_p.of(y)) * along + by_p.of(x)];
    }
};
template <typename A> static mask_of mask_shape(const A *a) {
    const int64_t p = a->mask ? a->p : 1;
    return {a->mask,    divisor(a->c),     divisor(a->w),    divisor(a->h),
            divisor(p), ceil_div(a->h, p), ceil_div(a->w, p)};
}

template <typename T> struct mask_f {
    T *y;
    const T *x;
    mask_of m;
    bool invert;
    template <int V> __device__ void run(int64_t i) const {
        float u[V];
        const float mask = m.at(i), by = invert ? 1 - mask : mask; // of V channels of one pixel
        load(u, x + i);
        for (int k = 0; k < V; k++)
            u[k] *= by;
        store(y + i, u);
    }
};

template <typename T>
static void mask_apply(struct dr_backend *be, const struct dr_mask_apply_args *a) {
    const mask_f<T> f = {static_cast<T *>(a->y), static_cast<const T *>(a->x), mask_shape(a),
                         a->invert};
    DR_FLAT(be, f, a->b * a->h * a->w * a->c, a->c % 4 == 0 && wide(f.y, f.x));
}

void dr_cuda_mask_apply(struct dr_backend *be, const struct dr_mask_apply_args *a) {
    DR_FOR_DTYPE(a->t, T, mask_apply<T>(be, a));
}

// loss of sample blockIdx.x, and its divisor D for dx.
template <typename X, typename Y>
__global__ void __launch_bounds__(256)
    k_masked_mse(struct dr_masked_mse_args a, mask_of m, const X *x, const Y *y, float *count) {
    DR_SHARED(float, s);
    const int64_t size = a.h * a.w * a.c, from = (int64_t)blockIdx.x * size;
    float sum = 0, there = 0;
    for (int64_t i = from + threadIdx.x; i < from + size; i += blockDim.x) {
        const float d = to_f(x[i]) - to_f(y[i]), mask = m.at(i);
        sum += mask * d * d;
        there += mask;
    }
    sum = block_sum(sum, s);
    there = block_sum(there, s);
    if (threadIdx.x)
        return;
    there = there > 1 ? there : 1;
    a.loss[blockIdx.x] = sum / there;
    count[blockIdx.x] = there;
}

template <typename X, typename Y> struct mse_slope_f {
    X *dx;
    const X *x;
    const Y *y;
    const float *count;
    mask_of m;
    divisor by_sample;
    float scale;
    template <int V> __device__ void run(int64_t i) const {
        const float by = 2 * scale * m.at(i) / count[by_sample.of(i)];
        dx[i] = from_f<X>(by * (to_f(x[i]) - to_f(y[i])));
    }
};

template <typename X, typename Y>
static void masked_mse(struct dr_backend *be, const struct dr_masked_mse_args *a) {
    const X *x = static_cast<const X *>(a->x);
    const Y *y = static_cast<const Y *>(a->y);
    const mask_of m = mask_shape(a);
    float *count =
        static_cast<float *>(dr_cuda_scratch(be, DR_CUDA_OP, (size_t)a->b * sizeof(float)));
    if (!count)
        return;
    DR_LAUNCH(be, (k_masked_mse<X, Y>), (unsigned)a->b, 256, 128, *a, m, x, y, count);
    const int64_t size = a->h * a->w * a->c;
    const mse_slope_f<X, Y> f = {static_cast<X *>(a->dx), x, y, count, m, divisor(size), a->scale};
    if (a->dx)
        DR_FLAT(be, f, a->b * size, false);
}

void dr_cuda_masked_mse(struct dr_backend *be, const struct dr_masked_mse_args *a) {
    if (a->b > 0)
        DR_FOR_DTYPE(a->xt, X, DR_FOR_DTYPE(a->yt, Y, (masked_mse<X, Y>(be, a))));
}

// ---- cross-entropy: one block per row
// -------------------------------------------------------------

__device__ inline float block_max(float v, float *slots) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    v = warp_max(v);
    if (lane == 0)
        slots[warp] = v;
    __syncthreads();
    v = warp_max(slots[lane < warps ? lane : 0]);
    __syncthreads();
    return v;
}

template <typename L, typename D>
__global__ void __launch_bounds__(128)
    k_softmax_xent(struct dr_softmax_xent_args a, const L *logits, D *out) {
    DR_SHARED(float, s);
    const int64_t row = blockIdx.x, label = a.labels[row];
    const L *x = logits + row * a.n;
    D *to = out ? out + row * a.n : NULL;
    if (label < 0) {
        for (int64_t i = threadIdx.x; to && i < a.n; i += blockDim.x)
            to[i] = from_f<D>(0);
        if (threadIdx.x)
            return;
        if (a.loss)
            a.loss[row] = 0;
        if (a.prob)
            a.prob[row] = 0;
        if (a.correct)
            a.correct[row] = 0;
        return;
    }
    const float mine = to_f(x[label]);
    float top = to_f(x[0]), sum = 0, all = 0, above = 0;
    for (int64_t i = threadIdx.x; i < a.n; i += blockDim.x) {
        const float v = to_f(x[i]);
        top = v > top ? v : top;
        above += !(i < label ? mine > v : mine >= v);
    }
    top = block_max(top, s);
    for (int64_t i = threadIdx.x; i < a.n; i += blockDim.x) {
        const float v = to_f(x[i]) - top;
        sum += expf(v);
        all += v;
    }
    sum = block_sum(sum, s);
    all = block_sum(all, s);
    above = block_sum(above, s);
    const float on = 1 - a.smoothing, off = a.smoothing / (float)a.n;
    for (int64_t i = threadIdx.x; to && i < a.n; i += blockDim.x)
        to[i] = from_f<D>(a.scale * (expf(to_f(x[i]) - top) / sum - off - (i == label ? on : 0)));
    if (threadIdx.x)
        return;
    if (a.loss)
        a.loss[row] = logf(sum) - on * (mine - top) - off * all;
    if (a.prob)
        a.prob[row] = expf(mine - top) / sum;
    if (a.correct)
        a.correct[row] = above == 0;
}

template <typename L, typename D>
static void softmax_xent(struct dr_backend *be, const struct dr_softmax_xent_args *a) {
    const L *logits = static_cast<const L *>(a->logits);
    D *out = static_cast<D *>(a->dlogits);
    DR_LAUNCH(be, (k_softmax_xent<L, D>), (unsigned)a->m, 128, 128, *a, logits, out);
}

void dr_cuda_softmax_xent(struct dr_backend *be, const struct dr_softmax_xent_args *a) {
    if (a->m > 0)
        DR_FOR_DTYPE(a->lt, L, DR_FOR_DTYPE(a->dt, D, (softmax_xent<L, D>(be, a))));
}
