// Maps of a pixel's channels with a fused residual and activation, forward and backward: group
// normalisation, a scale and shift per channel, and sums. Called through the op table by nn/.
// Formulas are at the argument structs in ops.h.
//
// Statistics of a group are one block's. Sums per channel are one block's for 32 channels and a
// sample (or ROWS rows): eight warps take pixels in turn and their sums are added in order. The
// rest is one flat pass. Nothing of a sample depends on the batch.
#include "engine/cuda/divide.h"
#include "engine/cuda/fn.h"

enum { ROWS = 512 };

// ---- group normalisation
// --------------------------------------------------------------------------

// A group's mean and rstd, the variance in a second walk around the mean.
template <typename T>
__global__ void __launch_bounds__(256)
    k_group_stats(struct dr_groupnorm_fwd_args a, const T *x, float *mean, float *rstd) {
    DR_SHARED(float, s);
    const int64_t width = a.c / a.groups, count = a.n * width;
    const int64_t b = blockIdx.x / a.groups, first = blockIdx.x % a.groups * width;
    const T *from = x + b * a.n * a.c + first;
    float sum = 0, square = 0;
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x)
        sum += to_f(from[i / width * a.c + i % width]);
    const float centre = block_sum(sum, s) / (float)count;
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
        const float v = to_f(from[i / width * a.c + i % width]) - centre;
        square += v * v;
    }
    square = block_sum(square, s);
    if (threadIdx.x)
        return;
    mean[blockIdx.x] = centre;
    rstd[blockIdx.x] = 1 / sqrtf(square / (float)count + a.eps);
}

template <typename T> struct group_fwd_f {
    T *y;
    const T *x, *r;
    const float *mean, *rstd, *weight, *bias;
    int64_t groups;
    enum dr_fn fn;
    divisor by_sample, by_c, by_width;
    template <int V> __device__ void run(int64_t i) const {
        float u[V], v[V] = {};
        int64_t c;
        by_c.split(i, &c);
        const int64_t g = by_sample.of(i) * groups;
        load(u, x + i);
        if (r)
            load(v, r + i);
        for (int k = 0; k < V; k++) {
            const int64_t j = g + by_width.of(c + k);
            const float mul = rstd[j] * (weight ? weight[c + k] : 1);
            u[k] = apply_fn(fn, (u[k] - mean[j]) * mul + (bias ? bias[c + k] : 0) + v[k]);
        }
        store(y + i, u);
    }
};

template <typename T>
static void group_fwd(struct dr_backend *be, const struct dr_groupnorm_fwd_args *a) {
    const T *x = static_cast<const T *>(a->x);
    const int64_t stats = a->b * a->groups;
    float *room = NULL, *mean = a->mean, *rstd = a->rstd;
    if (!mean || !rstd) {
        room = static_cast<float *>(
            dr_cuda_scratch(be, DR_CUDA_OP, (size_t)(2 * stats) * sizeof(float)));
        if (!room)
            return;
        mean = mean ? mean : room;
        rstd = rstd ? rstd : room + stats;
    }
    DR_LAUNCH(be, (k_group_stats<T>), (unsigned)stats, 256, 128, *a, x, mean, rstd);
    const group_fwd_f<T> f = {static_cast<T *>(a->y),
                              x,
                              static_cast<const T *>(a->r),
                              mean,
                              rstd,
                              a->weight,
                              a->bias,
                              a->groups,
                              a->fn,
                              divisor(a->n * a->c),
                              divisor(a->c),
                              divisor(a->c / a->groups)};
    DR_FLAT(be, f, a->b * a->n * a->c, a->c % 4 == 0 && wide(f.y, f.x, f.r));
}

void dr_cuda_groupnorm_fwd(struct dr_backend *be, const struct dr_groupnorm_fwd_args *a) {
    if (a->b * a->n > 0)
        DR_FOR_DTYPE(a->t, T, group_fwd<T>(be, a));
}

// ---- sums per channel
// -----------------------------------------------------------------------------

// The map x -> fn((x - mean) mul + add + r) of a row's channel; mean and rstd NULL: 0 and 1.
template <typename T, typename X> struct affine {
    const X *x;
    const T *r, *dy;
    const float *mean, *rstd, *mul, *add; // [b,groups], [b,groups], [c], [c]
    int64_t c, groups;
    enum dr_fn fn;
    divisor by_width;
    // g = dy fn' of element i, in sample b and channel ch; *xh = (x - mean) rstd.
    __device__ float slope(int64_t i, int64_t b, int64_t ch, float *xh) const {
        const int64_t j = mean ? b * groups + by_width.of(ch) : 0;
        const float inv = mean ? rstd[j] : 1, w = mul ? mul[ch] : 1;
        const float v = to_f(x[i]) - (mean ? mean[j] : 0);
        *xh = v * inv;
        // as the forward pass computes it
        const float pre = v * (inv * w) + (add ? add[ch] : 0) + (r ? to_f(r[i]) : 0);
        return slope_fn(fn, pre, to_f(dy[i]));
    }
};

// part[block.x][2][c]: sums of g and of g xh over the rows of the block, `rows` of [m,c].
template <typename T, typename X>
__global__ void __launch_bounds__(256)
    k_affine_sums(affine<T, X> f, float *part, int64_t m, int64_t rows) {
    DR_SHARED(float, s); // [2][8][32]
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t from = (int64_t)blockIdx.x * rows, ch = (int64_t)blockIdx.y * 32 + lane;
    const int64_t end = from + rows < m ? from + rows : m;
    float sum = 0, sumx = 0;
    for (int64_t row = from + warp; row < end && ch < f.c; row += 8) {
        float xh;
        const float g = f.slope(row * f.c + ch, blockIdx.x, ch, &xh);
        sum += g;
        sumx += g * xh;
    }
    s[warp * 32 + lane] = sum;
    s[256 + warp * 32 + lane] = sumx;
    __syncthreads();
    if (warp || ch >= f.c)
        return;
    for (int k = 1; k < 8; k++) {
        sum += s[k * 32 + lane];
        sumx += s[256 + k * 32 + lane];
    }
    part[(int64_t)blockIdx.x * 2 * f.c + ch] = sum;
    part[(int64_t)blockIdx.x * 2 * f.c + f.c + ch] = sumx;
}

// out += the sums of all parts, every second row of [2 parts][c].
static void add_parts(struct dr_backend *be, float *out, const float *part, int64_t parts,
                      int64_t c) {
    struct dr_colsum_args sum = {};
    sum.out = out, sum.x = part, sum.m = parts, sum.n = c, sum.ld = 2 * c, sum.acc = true;
    if (out)
        dr_cuda_colsum(be, &sum);
}

// ---- group normalisation, backward
// ----------------------------------------------------------------

// along[b,groups][2]: mean(g weight) and mean(g weight xh) of a group.
struct group_along_f {
    float *along;
    const float *part, *weight;
    int64_t n, c, groups;
    template <int V> __device__ void run(int64_t i) const {
        const int64_t b = i / groups, width = c / groups, first = i % groups * width;
        float sum = 0, sumx = 0;
        for (int64_t k = first; k < first + width; k++) {
            const float w = weight ? weight[k] : 1;
            sum += w * part[b * 2 * c + k];
            sumx += w * part[b * 2 * c + c + k];
        }
        along[2 * i] = sum / (float)(n * width);
        along[2 * i + 1] = sumx / (float)(n * width);
    }
};

template <typename T> struct group_bwd_f {
    affine<T, T> f;
    T *dx, *dr;
    const float *along;
    divisor by_sample, by_c;
    template <int V> __device__ void run(int64_t i) const {
        float d[V], g[V];
        int64_t c;
        by_c.split(i, &c);
        const int64_t b = by_sample.of(i);
        for (int k = 0; k < V; k++) {
            float xh;
            const int64_t j = b * f.groups + f.by_width.of(c + k);
            g[k] = f.slope(i + k, b, c + k, &xh);
            d[k] = f.rstd[j] *
                   (g[k] * (f.mul ? f.mul[c + k] : 1) - along[2 * j] - xh * along[2 * j + 1]);
        }
        store(dx + i, d);
        if (dr)
            store(dr + i, g);
    }
};

template <typename T>
static void group_bwd(struct dr_backend *be, const struct dr_groupnorm_bwd_args *a) {
    const int64_t c = a->c, parts = a->b * 2 * c, groups = a->b * a->groups;
    float *part = static_cast<float *>(
        dr_cuda_scratch(be, DR_CUDA_OP, (size_t)(parts + 2 * groups) * sizeof(float)));
    if (!part)
        return;
    const affine<T, T> f = {static_cast<const T *>(a->x),
                            static_cast<const T *>(a->r),
                            static_cast<const T *>(a->dy),
                            a->mean,
                            a->rstd,
                            a->weight,
                            a->bias,
                            c,
                            a->groups,
                            a->fn,
                            divisor(c / a->groups)};
    const dim3 grid((unsigned)a->b, blocks_for(c, 32));
    DR_LAUNCH(be, (k_affine_sums<T, T>), grid, 256, 2048, f, part, a->b * a->n, a->n);
    const group_along_f along = {part + parts, part, a->weight, a->n, c, a->groups};
    DR_FLAT(be, along, groups, false);
    const group_bwd_f<T> g = {f,
                              static_cast<T *>(a->dx),
                              static_cast<T *>(a->dr),
                              part + parts,
                              divisor(a->n * c),
                              divisor(c)};
    DR_FLAT(be, g, a->b * a->n * c, c % 4 == 0 && wide(g.dx, g.dr));
    add_parts(be, a->dbias, part, a->b, c);
    add_parts(be, a->dweight, part + c, a->b, c);
}

void dr_cuda_groupnorm_bwd(struct dr_backend *be, const struct dr_groupnorm_bwd_args *a) {
    if (a->b * a->n > 0)
        DR_FOR_DTYPE(a->t, T, group_bwd<T>(be, a));
}

// ---- scale and shift per channel
// ------------------------------------------------------------------

template <typename T, typename X> struct affine_fwd_f {
    T *y;
    const X *x;
    const T *r;
    const float *scale, *shift;
    enum dr_fn fn;
    divisor by_c;
    template <int V> __device__ void run(int64_t i) const {
        float u[V], v[V] = {};
        int64_t c;
        by_c.split(i, &c);
        load(u, x + i);
        if (r)
            load(v, r + i);
        for (int k = 0; k < V; k++)
            u[k] =
                apply_fn(fn, u[k] * (scale ? scale[c + k] : 1) + (shift ? shift[c + k] : 0) + v[k]);
        store(y + i, u);
    }
};

template <typename T, typename X>
static void affine_fwd(struct dr_backend *be, const struct dr_channel_affine_fwd_args *a) {
    const affine_fwd_f<T, X> f = {static_cast<T *>(a->y),
                                  static_cast<const X *>(a->x),
                                  static_cast<const T *>(a->r),
                                  a->scale,
                                  a->shift,
                                  a->fn,
                                  divisor(a->c)};
    DR_FLAT(be, f, a->m * a->c, a->c % 4 == 0 && wide(f.y, f.x, f.r));
}

void dr_cuda_channel_affine_fwd(struct dr_backend *be, const struct dr_channel_affine_fwd_args *a) {
    DR_FOR_DTYPE(a->t, T, DR_FOR_DTYPE(a->xt, X, (affine_fwd<T, X>(be, a))));
}

template <typename T, typename X> struct affine_bwd_f {
    affine<T, X> f;
    X *dx;
    T *dr;
    divisor by_c;
    template <int V> __device__ void run(int64_t i) const {
        float d[V], g[V];
        int64_t c;
        by_c.split(i, &c);
        for (int k = 0; k < V; k++) {
            float xh;
            g[k] = f.slope(i + k, 0, c + k, &xh);
            d[k] = g[k] * (f.mul ? f.mul[c + k] : 1);
        }
        if (dx)
            store(dx + i, d);
        if (dr)
            store(dr + i, g);
    }
};

template <typename T, typename X>
static void affine_bwd(struct dr_backend *be, const struct dr_channel_affine_bwd_args *a) {
    const int64_t c = a->c, parts = ceil_div(a->m, ROWS);
    const affine<T, X> f = {static_cast<const X *>(a->x),
                            static_cast<const T *>(a->r),
                            static_cast<const T *>(a->dy),
                            NULL,
                            NULL,
                            a->scale,
                            a->shift,
                            c,
                            1,
                            a->fn,
                            divisor(1)};
    if (a->dscale || a->dshift) {
        float *part = static_cast<float *>(
            dr_cuda_scratch(be, DR_CUDA_OP, (size_t)(parts * 2 * c) * sizeof(float)));
        if (!part)
            return;
        const dim3 grid((unsigned)parts, blocks_for(c, 32));
        const int64_t rows = ROWS;
        DR_LAUNCH(be, (k_affine_sums<T, X>), grid, 256, 2048, f, part, a->m, rows);
        add_parts(be, a->dshift, part, parts, c);
        add_parts(be, a->dscale, part + c, parts, c);
    }
    const affine_bwd_f<T, X> g = {f, static_cast<X *>(a->dx), static_cast<T *>(a->dr), divisor(c)};
    if (a->dx || a->dr)
        DR_FLAT(be, g, a->m * c, c % 4 == 0 && wide(g.dx, g.dr));
}

void dr_cuda_channel_affine_bwd(struct dr_backend *be, const struct dr_channel_affine_bwd_args *a) {
    if (a->m > 0)
        DR_FOR_DTYPE(a->t, T, DR_FOR_DTYPE(a->xt, X, (affine_bwd<T, X>(be, a))));
}

// ---- sums
// -----------------------------------------------------------------------------------------

template <typename T> struct add_fwd_f {
    T *y;
    const T *a, *b;
    enum dr_fn fn;
    template <int V> __device__ void run(int64_t i) const {
        float u[V], v[V] = {};
        load(u, a + i);
        if (b)
            load(v, b + i);
        for (int k = 0; k < V; k++)
            u[k] = apply_fn(fn, u[k] + v[k]);
        store(y + i, u);
    }
};

template <typename T>
static void add_fwd(struct dr_backend *be, const struct dr_add_act_fwd_args *a) {
    const add_fwd_f<T> f = {static_cast<T *>(a->y), static_cast<const T *>(a->a),
                            static_cast<const T *>(a->b), a->fn};
    DR_FLAT(be, f, a->n, wide(f.y, f.a, f.b));
}

void dr_cuda_add_act_fwd(struct dr_backend *be, const struct dr_add_act_fwd_args *a) {
    DR_FOR_DTYPE(a->t, T, add_fwd<T>(be, a));
}

template <typename T> struct add_bwd_f {
    T *dx;
    const T *dy, *a, *b;
    enum dr_fn fn;
    template <int V> __device__ void run(int64_t i) const {
        float u[V], v[V] = {}, d[V];
        load(u, a + i);
        load(d, dy + i);
        if (b)
            load(v, b + i);
        for (int k = 0; k < V; k++)
            d[k] = slope_fn(fn, u[k] + v[k], d[k]);
        store(dx + i, d);
    }
};

template <typename T>
static void add_bwd(struct dr_backend *be, const struct dr_add_act_bwd_args *a) {
    const add_bwd_f<T> f = {static_cast<T *>(a->dx), static_cast<const T *>(a->dy),
                            static_cast<const T *>(a->a), static_cast<const T *>(a->b), a->fn};
    DR_FLAT(be, f, a->n, wide(f.dx, f.dy, f.a, f.b));
}

void dr_cuda_add_act_bwd(struct dr_backend *be, const struct dr_add_act_bwd_args *a) {
    DR_FOR_DTYPE(a->t, T, add_bwd<T>(be, a));
}
