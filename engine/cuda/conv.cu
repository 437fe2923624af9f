// 2-D convolution: forward, towards the data, towards the weights. By cuDNN where conv_dnn.cu can,
// else as matrix products over patches.
//
// Forward and backward-data are one operation: every pixel of dst sums, over the k x k taps, the
// product of a pixel of src with that tap's matrix; only the map from (pixel, tap) to the source
// pixel and the roles of the channels differ. Work is cut by whole samples so that patches stay
// within BLOCK_BYTES; a sample's sums do not depend on the batch beyond what the matrix product
// does.
#include "engine/cuda/conv_dnn.h"
#include "engine/cuda/device.h"
#include "engine/cuda/divide.h"
#include "engine/cuda/fn.h"

static const int64_t BLOCK_BYTES = (int64_t)64 << 20;

struct geo {
    int64_t b, sh, sw, dh, dw; // source and destination pixels
    struct dr_conv_dims d;
    int64_t stride;
    bool back; // source pixel = (p + pad - dil tap) / stride instead of p stride - pad + dil tap
};

__device__ inline int64_t source_of(const geo &g, int64_t p, int64_t tap, int64_t pad,
                                    int64_t limit) {
    const int64_t off = tap * g.d.dil - pad;
    int64_t s = g.back ? p - off : p * g.stride + off;
    if (g.back && g.stride > 1) {
        if (s < 0 || s % g.stride)
            return -1;
        s /= g.stride;
    }
    return s < 0 || s >= limit ? -1 : s;
}

// out[pixel][tap][c]: element i.
template <typename T> struct patches_f {
    T *out;
    const T *src;
    geo g;
    int64_t c;
    divisor by_c, by_kw, by_kh, by_w, by_h;
    patches_f(T *to, const T *from, const geo &shape, int64_t channels)
        : out(to), src(from), g(shape), c(channels), by_c(channels), by_kw(shape.d.kw),
          by_kh(shape.d.kh), by_w(shape.dw), by_h(shape.dh) {}
    template <int V> __device__ void run(int64_t i) const {
        int64_t ch, tx, ty, x, y;
        const int64_t pixel = by_kh.split(by_kw.split(by_c.split(i, &ch), &tx), &ty);
        const int64_t n = by_h.split(by_w.split(pixel, &x), &y);
        const int64_t sy = source_of(g, y, ty, g.d.padh, g.sh);
        const int64_t sx = source_of(g, x, tx, g.d.padw, g.sw);
        const bool there = sy >= 0 && sx >= 0;
        const T *from = src + ((n * g.sh + sy) * g.sw + sx) * c + ch;
        pack<T, V> v;
        for (int k = 0; k < V; k++)
            v.v[k] = from_f<T>(0);
        if (there)
            v = *reinterpret_cast<const pack<T, V> *>(from);
        *reinterpret_cast<pack<T, V> *>(out + i) = v;
    }
};

// out[cd][taps][cs] from weight[co][ci][taps]; `swap`: the destination's channels are ci.
template <typename T> struct arrange_f {
    T *out;
    const float *w;
    int64_t cd, cs, taps;
    bool swap;
    template <int V> __device__ void run(int64_t i) const {
        const int64_t s = i % cs, tap = i / cs % taps, d = i / cs / taps;
        out[i] = from_f<T>(w[swap ? (s * cd + d) * taps + tap : (d * cs + s) * taps + tap]);
    }
};

// dw[co][ci][taps] += sum[co][taps][ci]
struct add_weight_f {
    float *dw;
    const float *sum;
    int64_t ci, taps;
    template <int V> __device__ void run(int64_t i) const {
        const int64_t tap = i % taps, c = i / taps % ci, o = i / taps / ci;
        dw[i] += sum[(o * taps + tap) * ci + c];
    }
};

struct work { // of one call: rearranged weights (or their gradient), then patches of `samples`
              // samples
    char *weight, *cols;
    int64_t samples;
};

static bool work_for(struct dr_backend *be, work *k, int64_t weight_bytes, int64_t sample_bytes,
                     int64_t b) {
    const int64_t fit = BLOCK_BYTES / (sample_bytes > 0 ? sample_bytes : 1);
    k->samples = fit < 1 ? 1 : fit < b ? fit : b;
    weight_bytes = ceil_div(weight_bytes, 256) * 256;
    k->weight = static_cast<char *>(
        dr_cuda_scratch(be, DR_CUDA_CONV, (size_t)(weight_bytes + k->samples * sample_bytes)));
    k->cols = k->weight + weight_bytes;
    return k->weight != NULL;
}

struct apply {
    geo g;
    void *dst;
    const void *src;
    const float *weight, *bias;
    int64_t cs, cd, ldd; // ldd: values between pixels of dst
    enum dr_fn fn;       // applied last
};

// y = fn(y + bias), in place; bias NULL: none.
template <typename T> struct finish_f {
    T *y;
    const float *bias;
    divisor by_c;
    int64_t ld;
    enum dr_fn fn;
    template <int V> __device__ void run(int64_t i) const {
        float v[V];
        int64_t c;
        T *at = y + by_c.split(i, &c) * ld;
        at += c;
        load(v, at);
        for (int k = 0; k < V; k++)
            v[k] = apply_fn(fn, bias ? v[k] + bias[c + k] : v[k]);
        store(at, v);
    }
};

template <typename T>
static void finish(struct dr_backend *be, const apply &a, void *y, const float *bias,
                   int64_t pixels) {
    const finish_f<T> f = {static_cast<T *>(y), bias, divisor(a.cd), a.ldd, a.fn};
    if (bias || a.fn != DR_FN_NONE)
        DR_FLAT(be, f, pixels * a.cd, a.cd % 4 == 0 && a.ldd % 4 == 0 && wide(f.y));
}

// x: the side of the forward pass's input, whichever of src and dst that is.
static dnn_conv dnn_shape(const geo &g, int64_t cs, int64_t cd, enum dr_dtype t) {
    if (g.back)
        return {g.b, g.dh, g.dw, cd, cs, g.stride, g.d, t};
    return {g.b, g.sh, g.sw, cs, cd, g.stride, g.d, t};
}

// Forward or towards the data; false: this path does not apply.
template <typename T>
static bool conv2d_dnn(struct dr_backend *be, const apply &a, enum dr_dtype t) {
    const dnn_conv c = dnn_shape(a.g, a.cs, a.cd, t);
    const int64_t taps = c.d.kh * c.d.kw;
    work k;
    if (a.ldd != a.cd || !dr_cuda_dnn_ready(be))
        return false;
    if (!work_for(be, &k, c.co * taps * c.ci * (int64_t)sizeof(T), 0, c.b))
        return true; // out of memory, already recorded
    const arrange_f<T> arrange = {
        reinterpret_cast<T *>(k.weight), a.weight, c.co, c.ci, taps, false};
    DR_FLAT(be, arrange, c.co * taps * c.ci, false);
    if (!(a.g.back ? dr_cuda_dnn_bwd_data(be, c, a.dst, a.src, k.weight)
                   : dr_cuda_dnn_fwd(be, c, a.dst, a.src, k.weight)))
        return false;
    finish<T>(be, a, a.dst, a.bias, c.b * a.g.dh * a.g.dw);
    return true;
}

static bool its_own_patches(const geo &g) {
    return g.d.kh * g.d.kw == 1 && g.stride == 1 && g.d.padh == 0 && g.d.padw == 0;
}

template <typename T> static void conv2d(struct dr_backend *be, const apply &a, enum dr_dtype t) {
    const int64_t taps = a.g.d.kh * a.g.d.kw, depth = taps * a.cs, pixels = a.g.dh * a.g.dw;
    const bool direct = its_own_patches(a.g);
    work k;
    if (a.g.b <= 0 || (!direct && conv2d_dnn<T>(be, a, t)))
        return;
    if (!work_for(be, &k, a.cd * depth * (int64_t)sizeof(T),
                  direct ? 0 : pixels * depth * (int64_t)sizeof(T), a.g.b))
        return;
    const arrange_f<T> arrange = {
        reinterpret_cast<T *>(k.weight), a.weight, a.cd, a.cs, taps, a.g.back};
    DR_FLAT(be, arrange, a.cd * depth, false);
    for (int64_t from = 0; from < a.g.b; from += k.samples) {
        const int64_t n = a.g.b - from < k.samples ? a.g.b - from : k.samples;
        const T *src = static_cast<const T *>(a.src) + from * a.g.sh * a.g.sw * a.cs;
        const patches_f<T> f(reinterpret_cast<T *>(k.cols), src, a.g, a.cs);
        if (!direct)
            DR_FLAT(be, f, n * pixels * depth, a.cs % 4 == 0 && wide(f.out, f.src));
        struct dr_gemm_args m = {};
        m.m = n * pixels, m.n = a.cd, m.k = depth;
        m.a = direct ? (const void *)src : k.cols, m.b = k.weight;
        m.c = static_cast<T *>(a.dst) + from * pixels * a.ldd;
        m.lda = m.ldb = depth, m.ldc = a.ldd, m.tb = true;
        m.abt = m.ct = t, m.bias = a.bias;
        dr_cuda_gemm(be, &m);
        finish<T>(be, a, m.c, NULL, m.m);
    }
}

template <typename A> static geo forward_geo(const A *a) {
    const struct dr_conv_dims d = dr_conv_dims_of(a);
    return {a->b, a->h, a->w, d.ho, d.wo, d, a->stride, false};
}

void dr_cuda_conv2d_fwd(struct dr_backend *be, const struct dr_conv2d_fwd_args *a) {
    const apply k = {forward_geo(a),          a->y, a->x, a->weight, a->bias, a->ci, a->co,
                     a->ldy ? a->ldy : a->co, a->fn};
    DR_FOR_DTYPE(a->t, T, conv2d<T>(be, k, a->t));
}

void dr_cuda_conv2d_bwd_data(struct dr_backend *be, const struct dr_conv2d_bwd_data_args *a) {
    const geo f = forward_geo(a);
    const geo g = {a->b, f.dh, f.dw, a->h, a->w, f.d, a->stride, true};
    const apply k = {g, a->dx, a->dy, a->weight, NULL, a->co, a->ci, a->ci, DR_FN_NONE};
    DR_FOR_DTYPE(a->t, T, conv2d<T>(be, k, a->t));
}

// sum[co][taps ci] = dy' P(x), then added to dweight in its own layout.
template <typename T>
static void conv2d_bwd_weight(struct dr_backend *be, const struct dr_conv2d_bwd_weight_args *a) {
    const geo g = forward_geo(a);
    const int64_t taps = g.d.kh * g.d.kw, depth = taps * a->ci, pixels = g.dh * g.dw;
    const bool direct = its_own_patches(g);
    const dnn_conv c = dnn_shape(g, a->ci, a->co, a->t);
    work k;
    if (!work_for(be, &k, depth * a->co * (int64_t)sizeof(float),
                  direct ? 0 : pixels * depth * (int64_t)sizeof(T), a->b))
        return;
    const bool by_dnn = a->b > 0 && dr_cuda_dnn_bwd_weight(be, c, k.weight, a->x, a->dy);
    for (int64_t from = 0; !by_dnn && from < a->b; from += k.samples) {
        const int64_t n = a->b - from < k.samples ? a->b - from : k.samples;
        const T *x = static_cast<const T *>(a->x) + from * a->h * a->w * a->ci;
        const patches_f<T> f(reinterpret_cast<T *>(k.cols), x, g, a->ci);
        if (!direct)
            DR_FLAT(be, f, n * pixels * depth, a->ci % 4 == 0 && wide(f.out, f.src));
        struct dr_gemm_args m = {};
        m.m = a->co, m.n = depth, m.k = n * pixels;
        m.a = static_cast<const T *>(a->dy) + from * pixels * a->co;
        m.b = direct ? (const void *)x : k.cols, m.c = k.weight;
        m.lda = a->co, m.ldb = m.ldc = depth, m.ta = true, m.acc = from > 0;
        m.abt = a->t, m.ct = DR_F32;
        dr_cuda_gemm(be, &m);
    }
    const add_weight_f add = {a->dweight, reinterpret_cast<float *>(k.weight), a->ci, taps};
    DR_FLAT(be, add, a->co * depth, false);
    if (!a->dbias)
        return;
    struct dr_colsum_args sum = {};
    sum.out = a->dbias, sum.x = a->dy, sum.xt = a->t;
    sum.m = a->b * pixels, sum.n = a->co, sum.acc = true;
    dr_cuda_colsum(be, &sum);
}

void dr_cuda_conv2d_bwd_weight(struct dr_backend *be, const struct dr_conv2d_bwd_weight_args *a) {
    DR_FOR_DTYPE(a->t, T, conv2d_bwd_weight<T>(be, a));
}
