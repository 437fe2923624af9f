// Pooling and resizing of [b,h,w,c] images, forward and backward. Called through the op table by
// nn/. Formulas are at the argument structs in ops.h.
//
// One thread per element (or four) of the output; backward, an element of dx gathers from the
// windows that cover it, in their order.
#include "engine/cuda/device.h"
#include "engine/cuda/divide.h"

// ---- pooling
// --------------------------------------------------------------------------------------

struct range { // [from, to)
    int64_t from, to;
};

struct pool_shape {
    int64_t h, w, ho, wo, kh, kw, stride, pad;
    bool count_pad;
    // Pixels of window o that lie in [0, size).
    __device__ range window(int64_t o, int64_t k, int64_t size) const {
        const int64_t from = o * stride - pad, to = from + k;
        return {from > 0 ? from : 0, to < size ? to : size};
    }
    // Windows of [0, count) that cover pixel p.
    __device__ range covering(int64_t p, int64_t k, int64_t count) const {
        const int64_t first = p + pad - k + 1, to = (p + pad) / stride + 1;
        return {first > 0 ? (first + stride - 1) / stride : 0, to < count ? to : count};
    }
    __device__ float share(const range &y, const range &x) const {
        const int64_t there = (y.to - y.from) * (x.to - x.from);
        return 1 / (float)(count_pad ? kh * kw : there);
    }
};
template <typename A> static pool_shape pool_of(const A *a) {
    if (a->k == 0)
        return {a->h, a->w, 1, 1, a->h, a->w, 1, 0, false};
    return {a->h,
            a->w,
            (a->h + 2 * a->pad - a->k) / a->stride + 1,
            (a->w + 2 * a->pad - a->k) / a->stride + 1,
            a->k,
            a->k,
            a->stride,
            a->pad,
            a->count_pad};
}

// Element i of an image: its line (over all samples), pixel and channel.
struct place {
    int64_t n, y, x, c;
};
struct place_of {
    divisor by_c, by_w, by_h;
    __device__ place at(int64_t i) const {
        place p;
        p.n = by_h.split(by_w.split(by_c.split(i, &p.c), &p.x), &p.y);
        return p;
    }
};

template <typename T> struct pool_fwd_f {
    T *y;
    uint8_t *taken;
    const T *x;
    pool_shape s;
    place_of out;
    bool max;
    template <int V> __device__ void run(int64_t i) const {
        const place o = out.at(i);
        const range ys = s.window(o.y, s.kh, s.h), xs = s.window(o.x, s.kw, s.w);
        const int64_t c = out.by_c.d;
        float best[V] = {};
        int where[V] = {};
        bool first = true;
        for (int64_t sy = ys.from; sy < ys.to; sy++)
            for (int64_t sx = xs.from; sx < xs.to; sx++) {
                float v[V];
                load(v, x + ((o.n * s.h + sy) * s.w + sx) * c + o.c);
                const int at =
                    (int)((sy + s.pad - o.y * s.stride) * s.kw + sx + s.pad - o.x * s.stride);
                for (int k = 0; k < V; k++)
                    if (!max) {
                        best[k] += v[k];
                    } else if (first || v[k] > best[k] || v[k] != v[k]) {
                        best[k] = v[k];
                        where[k] = at;
                    }
                first = false;
            }
        const float share = s.share(ys, xs);
        for (int k = 0; k < V; k++) {
            best[k] = max ? best[k] : best[k] * share;
            if (taken)
                taken[i + k] = (uint8_t)where[k];
        }
        store(y + i, best);
    }
};

template <typename T>
static void pool_fwd(struct dr_backend *be, const struct dr_pool_fwd_args *a) {
    const pool_shape s = pool_of(a);
    const pool_fwd_f<T> f = {static_cast<T *>(a->y),
                             a->taken,
                             static_cast<const T *>(a->x),
                             s,
                             {divisor(a->c), divisor(s.wo), divisor(s.ho)},
                             a->max};
    DR_FLAT(be, f, a->b * s.ho * s.wo * a->c, a->c % 4 == 0 && wide(f.y, f.x));
}

void dr_cuda_pool_fwd(struct dr_backend *be, const struct dr_pool_fwd_args *a) {
    if (a->max && (a->k < 1 || a->k > 15))
        dr_cuda_error(be, DR_EINVAL, __func__, "maxima need windows of 1 to 15 pixels");
    else
        DR_FOR_DTYPE(a->t, T, pool_fwd<T>(be, a));
}

template <typename T> struct pool_bwd_f {
    T *dx;
    const uint8_t *taken;
    const T *dy;
    pool_shape s;
    place_of in;
    bool max;
    template <int V> __device__ void run(int64_t i) const {
        const place p = in.at(i);
        const range ys = s.covering(p.y, s.kh, s.ho), xs = s.covering(p.x, s.kw, s.wo);
        float sum[V] = {};
        for (int64_t oy = ys.from; oy < ys.to; oy++)
            for (int64_t ox = xs.from; ox < xs.to; ox++) {
                const int64_t at = ((p.n * s.ho + oy) * s.wo + ox) * in.by_c.d + p.c;
                const int tap =
                    (int)((p.y + s.pad - oy * s.stride) * s.kw + p.x + s.pad - ox * s.stride);
                float d[V];
                load(d, dy + at);
                const float share = s.share(s.window(oy, s.kh, s.h), s.window(ox, s.kw, s.w));
                for (int k = 0; k < V; k++)
                    sum[k] += !max ? d[k] * share : taken[at + k] == tap ? d[k] : 0;
            }
        store(dx + i, sum);
    }
};

template <typename T>
static void pool_bwd(struct dr_backend *be, const struct dr_pool_bwd_args *a) {
    const pool_bwd_f<T> f = {static_cast<T *>(a->dx),
                             a->taken,
                             static_cast<const T *>(a->dy),
                             pool_of(a),
                             {divisor(a->c), divisor(a->w), divisor(a->h)},
                             a->max};
    DR_FLAT(be, f, a->b * a->h * a->w * a->c, a->c % 4 == 0 && wide(f.dx, f.dy));
}

void dr_cuda_pool_bwd(struct dr_backend *be, const struct dr_pool_bwd_args *a) {
    if (a->max && !a->taken)
        dr_cuda_error(be, DR_EINVAL, __func__, "maxima need the places that the forward pass kept");
    else
        DR_FOR_DTYPE(a->t, T, pool_bwd<T>(be, a));
}

// ---- resizing
// -------------------------------------------------------------------------------------

// What output p of an axis takes: (1 - part) of source pixel low and `part` of pixel high.
struct taps {
    int64_t low, high;
    float part;
};
struct axis {
    int64_t in, out;
    bool nearest;
    // (p + 1/2) in / out - 1/2 as a fraction over 2 out, so that no rounding enters
    __device__ taps of(int64_t p) const {
        const int64_t at = nearest ? 2 * (p * in / out) * out : (2 * p + 1) * in - out;
        const int64_t low = at > 0 ? at / (2 * out) : 0;
        const float part = at > 0 ? (float)(at - low * 2 * out) / (float)(2 * out) : 0;
        return {low, low + 1 < in ? low + 1 : low, part};
    }
    // Outputs that may take something of source pixel s; at the ends some take nothing.
    __device__ range users(int64_t s) const {
        const int64_t from = s > 0 ? (s - 1) * out / in - 1 : 0, to = (s + 2) * out / in + 2;
        return {from > 0 ? from : 0, s + 1 < in && to < out ? to : out};
    }
    __device__ float weight(int64_t p, int64_t s) const {
        const taps t = of(p);
        return (t.low == s ? 1 - t.part : 0) + (t.high == s ? t.part : 0);
    }
};

template <typename T> struct resize_fwd_f {
    T *y;
    const T *x;
    axis down, along;
    place_of out;
    template <int V> __device__ void run(int64_t i) const {
        const place o = out.at(i);
        const taps ty = down.of(o.y), tx = along.of(o.x);
        const int64_t c = out.by_c.d, top = (o.n * down.in + ty.low) * along.in;
        const int64_t bottom = (o.n * down.in + ty.high) * along.in;
        float p[V], q[V], u[V], v[V];
        load(p, x + (top + tx.low) * c + o.c);
        load(q, x + (top + tx.high) * c + o.c);
        load(u, x + (bottom + tx.low) * c + o.c);
        load(v, x + (bottom + tx.high) * c + o.c);
        for (int k = 0; k < V; k++) {
            p[k] += tx.part * (q[k] - p[k]);
            u[k] += tx.part * (v[k] - u[k]);
            p[k] += ty.part * (u[k] - p[k]);
        }
        store(y + i, p);
    }
};

template <typename T>
static void resize_fwd(struct dr_backend *be, const struct dr_resize_fwd_args *a) {
    const resize_fwd_f<T> f = {static_cast<T *>(a->y),
                               static_cast<const T *>(a->x),
                               {a->h, a->ho, a->nearest},
                               {a->w, a->wo, a->nearest},
                               {divisor(a->c), divisor(a->wo), divisor(a->ho)}};
    DR_FLAT(be, f, a->b * a->ho * a->wo * a->c, a->c % 4 == 0 && wide(f.y, f.x));
}

void dr_cuda_resize_fwd(struct dr_backend *be, const struct dr_resize_fwd_args *a) {
    DR_FOR_DTYPE(a->t, T, resize_fwd<T>(be, a));
}

template <typename T> struct resize_bwd_f {
    T *dx;
    const T *dy;
    axis down, along;
    place_of in;
    template <int V> __device__ void run(int64_t i) const {
        const place p = in.at(i);
        const range ys = down.users(p.y), xs = along.users(p.x);
        float sum[V] = {};
        for (int64_t oy = ys.from; oy < ys.to; oy++) {
            const float wy = down.weight(oy, p.y);
            for (int64_t ox = xs.from; wy != 0 && ox < xs.to; ox++) {
                const float w = wy * along.weight(ox, p.x);
                float d[V];
                if (w == 0)
                    continue;
                load(d, dy + ((p.n * down.out + oy) * along.out + ox) * in.by_c.d + p.c);
                for (int k = 0; k < V; k++)
                    sum[k] += w * d[k];
            }
        }
        store(dx + i, sum);
    }
};

template <typename T>
static void resize_bwd(struct dr_backend *be, const struct dr_resize_bwd_args *a) {
    const resize_bwd_f<T> f = {static_cast<T *>(a->dx),
                               static_cast<const T *>(a->dy),
                               {a->h, a->ho, a->nearest},
                               {a->w, a->wo, a->nearest},
                               {divisor(a->c), divisor(a->w), divisor(a->h)}};
    DR_FLAT(be, f, a->b * a->h * a->w * a->c, a->c % 4 == 0 && wide(f.dx, f.dy));
}

void dr_cuda_resize_bwd(struct dr_backend *be, const struct dr_resize_bwd_args *a) {
    DR_FOR_DTYPE(a->t, T, resize_bwd<T>(be, a));
}
