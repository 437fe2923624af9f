// Element-wise ops without a home of their own: casts, fills, strided copies, AdamW, EMA, and the
// random fills. Called through the op table. Formulas are at the argument structs in ops.h.
#include "engine/cuda/device.h"
#include "engine/cuda/divide.h"
#include "engine/cuda/random.h"

// ---- casts, fills, copies
// ----------------------------------------------------------------------------

template <typename D, typename S> struct cast_f {
    D *d;
    const S *s;
    template <int V> __device__ void run(int64_t i) const {
        if constexpr (std::is_same_v<D, S>) { // bits move: a NaN keeps its payload
            *reinterpret_cast<pack<D, V> *>(d + i) = *reinterpret_cast<const pack<S, V> *>(s + i);
        } else {
            float x[V];
            load(x, s + i);
            store(d + i, x);
        }
    }
};

template <typename D, typename S>
static void cast(struct dr_backend *be, const struct dr_cast_args *a) {
    const cast_f<D, S> f = {static_cast<D *>(a->dst), static_cast<const S *>(a->src)};
    DR_FLAT(be, f, a->n, wide(f.d, f.s));
}

void dr_cuda_cast(struct dr_backend *be, const struct dr_cast_args *a) {
    DR_FOR_DTYPE(a->dt, D, DR_FOR_DTYPE(a->st, S, (cast<D, S>(be, a))));
}

struct fill_f {
    float *d, value;
    template <int V> __device__ void run(int64_t i) const {
        float x[V];
        for (int k = 0; k < V; k++)
            x[k] = value;
        store(d + i, x);
    }
};

void dr_cuda_fill(struct dr_backend *be, const struct dr_fill_args *a) {
    const fill_f f = {a->dst, a->value};
    DR_FLAT(be, f, a->n, wide(f.d));
}

template <typename S> struct axpy_f {
    float *y;
    const S *x;
    float alpha;
    template <int V> __device__ void run(int64_t i) const {
        float u[V], v[V];
        load(u, y + i);
        load(v, x + i);
        for (int k = 0; k < V; k++)
            u[k] += alpha * v[k];
        store(y + i, u);
    }
};

template <typename S> static void axpy(struct dr_backend *be, const struct dr_axpy_args *a) {
    const axpy_f<S> f = {a->y, static_cast<const S *>(a->x), a->alpha};
    DR_FLAT(be, f, a->n, wide(f.y, f.x));
}

void dr_cuda_axpy(struct dr_backend *be, const struct dr_axpy_args *a) {
    DR_FOR_DTYPE(a->xt, S, axpy<S>(be, a));
}

template <typename D, typename S> struct copy4_f {
    D *d;
    const S *s;
    divisor dim[4];
    int64_t ds[4], ss[4];
    bool acc;
    template <int V> __device__ void run(int64_t i) const {
        int64_t at = 0, from = 0;
        for (int k = 3; k >= 0; k--) {
            int64_t j;
            i = dim[k].split(i, &j);
            at += j * ds[k];
            from += j * ss[k];
        }
        if constexpr (std::is_same_v<D, S>)
            if (!acc) { // bits move
                *reinterpret_cast<pack<D, V> *>(d + at) =
                    *reinterpret_cast<const pack<S, V> *>(s + from);
                return;
            }
        float x[V], old[V] = {};
        load(x, s + from);
        if (acc)
            load(old, d + at);
        for (int k = 0; k < V; k++)
            x[k] += old[k];
        store(d + at, x);
    }
};

template <typename D, typename S>
static void copy4(struct dr_backend *be, const struct dr_copy4_args *a) {
    copy4_f<D, S> f;
    f.d = static_cast<D *>(a->dst);
    f.s = static_cast<const S *>(a->src);
    f.acc = a->acc;
    bool four = a->dim[3] % 4 == 0 && a->dstride[3] == 1 && a->sstride[3] == 1 && wide(f.d, f.s);
    for (int i = 0; i < 4; i++) {
        f.dim[i] = divisor(a->dim[i]);
        f.ds[i] = a->dstride[i];
        f.ss[i] = a->sstride[i];
        four &= i == 3 || (f.ds[i] % 4 == 0 && f.ss[i] % 4 == 0);
    }
    DR_FLAT(be, f, a->dim[0] * a->dim[1] * a->dim[2] * a->dim[3], four);
}

void dr_cuda_copy4(struct dr_backend *be, const struct dr_copy4_args *a) {
    DR_FOR_DTYPE(a->dt, D, DR_FOR_DTYPE(a->st, S, (copy4<D, S>(be, a))));
}

// Without repeating the edge: -1 is 1, n is n - 2.
__device__ inline int64_t reflect(int64_t i, int64_t n) {
    i = i < 0 ? -i : i;
    return i < n ? i : 2 * (n - 1) - i;
}

struct gather_f {
    struct dr_gather_args a;
    divisor by_count, by_h, by_w;
    template <int V> __device__ void run(int64_t i) const {
        int64_t at, x, y;
        const int64_t row = by_count.split(i, &at);
        if (a.view) { // `at` of the row as it is seen, to that of the row as it is stored
            const int32_t *v = a.view + 3 * row;
            const int64_t plane = by_h.split(by_w.split(at, &x), &y);
            x = reflect(v[2] ? a.w - 1 - x - v[1] : x + v[1], a.w);
            at = (plane * a.h + reflect(y + v[0], a.h)) * a.w + x;
        }
        const int64_t from = (a.idx ? a.idx[row] : row) * a.count + at;
        a.dst[i] = a.pixels ? (float)a.pixels[from] / 127.5f - 1 : a.points[from];
    }
};

void dr_cuda_gather(struct dr_backend *be, const struct dr_gather_args *a) {
    const gather_f f = {*a, divisor(a->count), divisor(a->view ? a->h : 1),
                        divisor(a->view ? a->w : 1)};
    DR_FLAT(be, f, a->n * a->count, false);
}

// ---- optimiser
// -----------------------------------------------------------------------------------------

__device__ inline bool forbids(const float *guard) {
    return guard && !(isfinite(guard[0]) && isfinite(guard[1]));
}

struct adamw_f {
    struct dr_adamw_args a;
    template <int V> __device__ void run(int64_t i) const {
        if (forbids(a.guard))
            return;
        const float lr = a.hyper[0], step = lr / a.hyper[1], bias2 = 1 / a.hyper[2];
        const float shrink = 1 - lr * a.decay;
        float scale = 1;
        if (a.clip > 0) { // a NaN norm passes through the comparison into every weight
            const float f = a.clip / (sqrtf(a.sumsq[0]) + 1e-6f); // fp64 is slow on many cards
            scale = f > 1 ? 1 : f;
        }
        float w[V], m[V], v[V], g[V];
        load(w, a.w + i);
        load(m, a.m + i);
        load(v, a.v + i);
        load(g, a.g + i);
        for (int k = 0; k < V; k++) {
            const float gi = g[k] * scale;
            m[k] = a.beta1 * m[k] + (1 - a.beta1) * gi;
            v[k] = a.beta2 * v[k] + (1 - a.beta2) * gi * gi;
            w[k] = w[k] * shrink - step * m[k] / (sqrtf(v[k] * bias2) + a.eps);
        }
        store(a.w + i, w);
        store(a.m + i, m);
        store(a.v + i, v);
        if (a.w16)
            store(reinterpret_cast<bf16 *>(a.w16) + i, w);
    }
};

void dr_cuda_adamw(struct dr_backend *be, const struct dr_adamw_args *a) {
    const adamw_f f = {*a};
    DR_FLAT(be, f, a->n, wide(a->w, a->m, a->v, a->g, a->w16));
}

struct ema_f {
    float *e;
    const float *w, *decay, *guard;
    template <int V> __device__ void run(int64_t i) const {
        if (forbids(guard))
            return;
        const float rate = 1 - *decay;
        float x[V], y[V];
        load(x, e + i);
        load(y, w + i);
        for (int k = 0; k < V; k++)
            x[k] += rate * (y[k] - x[k]);
        store(e + i, x);
    }
};

void dr_cuda_ema(struct dr_backend *be, const struct dr_ema_args *a) {
    const ema_f f = {a->e, a->w, a->decay, a->guard};
    DR_FLAT(be, f, a->n, wide(f.e, f.w));
}

// ---- randomness: one Philox block of four values per thread
// ------------------------------------------------

__device__ inline double unit(uint32_t r) {
    return ((double)r + 0.5) * (1.0 / 4294967296.0);
}

struct normals_f {
    struct dr_normals_args a;
    divisor blocks; // of a row
    template <int V> __device__ void run(int64_t i) const {
        int64_t block;
        const int64_t row = blocks.split(i, &block), at = 4 * block;
        uint32_t r[4];
        philox(a.seed[row], (uint32_t)block, a.stream, a.index[row], r);
        for (int k = 0; k < 4 && at + k < a.n; k += 2) { // two values per draw
            const double len = sqrt(-2 * log(unit(r[k])));
            double s, c;
            sincos(2 * 3.14159265358979323846 * unit(r[k + 1]), &s, &c);
            float *out = a.out + row * a.n + at + k;
            out[0] = (float)(len * c);
            if (at + k + 1 < a.n)
                out[1] = (float)(len * s);
        }
    }
};

void dr_cuda_normals(struct dr_backend *be, const struct dr_normals_args *a) {
    const normals_f f = {*a, divisor(ceil_div(a->n, 4))};
    DR_FLAT(be, f, a->b * f.blocks.d, false);
}

struct indices_f {
    struct dr_indices_args a;
    divisor blocks;
    template <int V> __device__ void run(int64_t i) const {
        int64_t block;
        const int64_t row = blocks.split(i, &block), at = 4 * block;
        uint32_t r[4];
        philox(a.seed[row], (uint32_t)block, a.stream, a.index[row], r);
        for (int k = 0; k < 4 && at + k < a.n; k++)
            a.out[row * a.n + at + k] = (int32_t)(((uint64_t)r[k] * a.range) >> 32);
    }
};

void dr_cuda_indices(struct dr_backend *be, const struct dr_indices_args *a) {
    const indices_f f = {*a, divisor(ceil_div(a->n, 4))};
    DR_FLAT(be, f, a->b * f.blocks.d, false);
}
