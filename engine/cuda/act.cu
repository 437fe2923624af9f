// SiLU, GELU and SwiGLU, forward and backward. Called through the op table by nn/.
// One pass over the elements; formulas are at the argument structs in ops.h.
#include "engine/cuda/device.h"
#include "engine/cuda/divide.h"

__device__ inline float sigmoid(float x) {
    return 1 / (1 + expf(-x));
}
__device__ inline float normal_cdf(float x) {
    return 0.5f * erfcf(x * -0.70710678118654752f);
}

template <typename Y, typename X> struct silu_fwd_f {
    Y *y;
    const X *x;
    template <int V> __device__ void run(int64_t i) const {
        float u[V];
        load(u, x + i);
        for (int k = 0; k < V; k++)
            u[k] *= sigmoid(u[k]);
        store(y + i, u);
    }
};

template <typename Y, typename X>
static void silu_fwd(struct dr_backend *be, const struct dr_silu_fwd_args *a) {
    const silu_fwd_f<Y, X> f = {static_cast<Y *>(a->y), static_cast<const X *>(a->x)};
    DR_FLAT(be, f, a->n, wide(f.y, f.x));
}

void dr_cuda_silu_fwd(struct dr_backend *be, const struct dr_silu_fwd_args *a) {
    DR_FOR_DTYPE(a->yt, Y, DR_FOR_DTYPE(a->xt, X, (silu_fwd<Y, X>(be, a))));
}

// The slope at x; x becomes the function's value.
struct silu_slope { // s (1 + x (1 - s))
    __device__ static float of(float &x) {
        const float s = sigmoid(x), slope = s * (1 + x * (1 - s));
        x *= s;
        return slope;
    }
};
struct gelu_slope { // Phi(x) + x phi(x)
    __device__ static float of(float &x) {
        const float cdf = normal_cdf(x);
        const float density = 0.39894228040143268f * expf(-0.5f * x * x), slope = cdf + x * density;
        x *= cdf;
        return slope;
    }
};

template <typename T, typename SLOPE> struct act_bwd_f {
    T *dx, *y;
    const T *x, *dy;
    template <int V> __device__ void run(int64_t i) const {
        float u[V], v[V];
        load(u, x + i);
        load(v, dy + i);
        for (int k = 0; k < V; k++)
            v[k] *= SLOPE::of(u[k]);
        store(dx + i, v);
        if (y)
            store(y + i, u);
    }
};

template <typename SLOPE, typename T, typename ARGS>
static void act_bwd(struct dr_backend *be, const ARGS *a) {
    const act_bwd_f<T, SLOPE> f = {static_cast<T *>(a->dx), static_cast<T *>(a->y),
                                   static_cast<const T *>(a->x), static_cast<const T *>(a->dy)};
    DR_FLAT(be, f, a->n, wide(f.dx, f.y, f.x, f.dy));
}

void dr_cuda_silu_bwd(struct dr_backend *be, const struct dr_silu_bwd_args *a) {
    DR_FOR_DTYPE(a->t, T, (act_bwd<silu_slope, T>(be, a)));
}

void dr_cuda_gelu_bwd(struct dr_backend *be, const struct dr_gelu_bwd_args *a) {
    DR_FOR_DTYPE(a->t, T, (act_bwd<gelu_slope, T>(be, a)));
}

template <typename T> struct gelu_fwd_f {
    T *y;
    const T *x;
    template <int V> __device__ void run(int64_t i) const {
        float u[V];
        load(u, x + i);
        for (int k = 0; k < V; k++)
            u[k] *= normal_cdf(u[k]);
        store(y + i, u);
    }
};

template <typename T>
static void gelu_fwd(struct dr_backend *be, const struct dr_gelu_fwd_args *a) {
    const gelu_fwd_f<T> f = {static_cast<T *>(a->y), static_cast<const T *>(a->x)};
    DR_FLAT(be, f, a->n, wide(f.y, f.x));
}

void dr_cuda_gelu_fwd(struct dr_backend *be, const struct dr_gelu_fwd_args *a) {
    DR_FOR_DTYPE(a->t, T, gelu_fwd<T>(be, a));
}

// ---- SwiGLU: element i of y belongs to columns i % n and n + i % n of its row of h
// -----------------------

template <typename T> struct swiglu_fwd_f {
    T *y;
    const T *h;
    int64_t n;
    divisor by_n;
    template <int V> __device__ void run(int64_t i) const {
        const T *row = h + i + by_n.of(i) * n;
        float x[V], g[V];
        load(x, row);
        load(g, row + n);
        for (int k = 0; k < V; k++)
            x[k] = x[k] * sigmoid(x[k]) * g[k]; // as the backward pass computes it again
        store(y + i, x);
    }
};

template <typename T>
static void swiglu_fwd(struct dr_backend *be, const struct dr_swiglu_fwd_args *a) {
    const swiglu_fwd_f<T> f = {static_cast<T *>(a->y), static_cast<const T *>(a->h), a->n,
                               divisor(a->n)};
    DR_FLAT(be, f, a->m * a->n, a->n % 4 == 0 && wide(f.y, f.h));
}

void dr_cuda_swiglu_fwd(struct dr_backend *be, const struct dr_swiglu_fwd_args *a) {
    DR_FOR_DTYPE(a->act, T, swiglu_fwd<T>(be, a));
}

template <typename T> struct swiglu_bwd_f {
    T *dh, *y;
    const T *h, *dy;
    int64_t n;
    divisor by_n;
    template <int V> __device__ void run(int64_t i) const {
        const int64_t at = i + by_n.of(i) * n;
        float x[V], g[V], d[V], out[V];
        load(x, h + at);
        load(g, h + at + n);
        load(d, dy + i);
        for (int k = 0; k < V; k++) {
            const float s = sigmoid(x[k]), f = x[k] * s, t = d[k];
            d[k] = t * g[k] * (s + f * (1 - s));
            out[k] = f * g[k];
            g[k] = t * f;
        }
        store(dh + at, d);
        store(dh + at + n, g);
        if (y)
            store(y + i, out);
    }
};

template <typename T>
static void swiglu_bwd(struct dr_backend *be, const struct dr_swiglu_bwd_args *a) {
    const swiglu_bwd_f<T> f = {static_cast<T *>(a->dh),
                               static_cast<T *>(a->y),
                               static_cast<const T *>(a->h),
                               static_cast<const T *>(a->dy),
                               a->n,
                               divisor(a->n)};
    DR_FLAT(be, f, a->m * a->n, a->n % 4 == 0 && wide(f.dh, f.y, f.h, f.dy));
}

void dr_cuda_swiglu_bwd(struct dr_backend *be, const struct dr_swiglu_bwd_args *a) {
    DR_FOR_DTYPE(a->act, T, swiglu_bwd<T>(be, a));
}
