// Images to tokens and back; statistics over the patches of a feature map. Called through the op
// table by nn/ at the two ends of the generator and by loss/features (method.md 7).
#include "engine/cuda/device.h"
#include "engine/cuda/divide.h"

// ---- patchify: element i of the image and its place among the tokens
// --------------------------------------

struct patch_shape {
    divisor c, h, w, p;
    int64_t down, along; // patches
    bool hwc;
    __device__ int64_t token_of(int64_t i) const {
        int64_t x, y, ch, px, py;
        const int64_t b = c.split(h.split(w.split(i, &x), &y), &ch);
        y = p.split(y, &py);
        x = p.split(x, &px);
        const int64_t token = (b * down + y) * along + x;
        return token * c.d * p.d * p.d +
               (hwc ? (py * p.d + px) * c.d + ch : (ch * p.d + py) * p.d + px);
    }
};
template <typename A> static patch_shape shape_of(const A *a) {
    return {divisor(a->c), divisor(a->h), divisor(a->w), divisor(a->p),
            a->h / a->p,   a->w / a->p,   a->hwc};
}

template <typename T> struct patchify_f {
    T *tokens;
    const float *image;
    patch_shape s;
    template <int V> __device__ void run(int64_t i) const {
        tokens[s.token_of(i)] = from_f<T>(image[i]);
    }
};

template <typename T> struct unpatchify_f {
    float *image;
    const T *tokens;
    patch_shape s;
    template <int V> __device__ void run(int64_t i) const {
        image[i] = to_f(tokens[s.token_of(i)]);
    }
};

template <typename T>
static void patchify(struct dr_backend *be, const struct dr_patchify_args *a) {
    const patchify_f<T> f = {static_cast<T *>(a->tokens), a->image, shape_of(a)};
    DR_FLAT(be, f, a->b * a->c * a->h * a->w, false);
}

void dr_cuda_patchify(struct dr_backend *be, const struct dr_patchify_args *a) {
    DR_FOR_DTYPE(a->t, T, patchify<T>(be, a));
}

template <typename T>
static void unpatchify(struct dr_backend *be, const struct dr_unpatchify_args *a) {
    const unpatchify_f<T> f = {a->image, static_cast<const T *>(a->tokens), shape_of(a)};
    DR_FLAT(be, f, a->b * a->c * a->h * a->w, false);
}

void dr_cuda_unpatchify(struct dr_backend *be, const struct dr_unpatchify_args *a) {
    DR_FOR_DTYPE(a->t, T, unpatchify<T>(be, a));
}

// ---- patch statistics: one thread per patch and channel
// ----------------------------------------------------

// First element of patch i of x; `row` is the distance of its lines.
__device__ inline int64_t patch_at(int64_t i, int64_t h, int64_t w, int64_t c, int64_t p) {
    const int64_t nx = w / p, ny = h / p, b = i / (nx * ny), y = i / nx % ny, x = i % nx;
    return ((b * h + y * p) * w + x * p) * c;
}

struct stats_fwd_f {
    struct dr_patch_stats_fwd_args a;
    template <int V> __device__ void run(int64_t i) const {
        const int64_t patch = i / a.c, ch = i % a.c, row = a.w * a.c, p = a.p;
        const float *x = a.x + patch_at(patch, a.h, a.w, a.c, p) + ch;
        float sum = 0, var = 0;
        for (int64_t k = 0; k < p * p; k++)
            sum += x[k / p * row + k % p * a.c];
        const float mean = sum / (float)(p * p);
        for (int64_t k = 0; k < p * p; k++) {
            const float v = x[k / p * row + k % p * a.c] - mean;
            var += v * v;
        }
        a.out[patch * 2 * a.c + ch] = mean;
        a.out[patch * 2 * a.c + a.c + ch] = sqrtf(var / (float)(p * p) + 1e-6f);
    }
};

void dr_cuda_patch_stats_fwd(struct dr_backend *be, const struct dr_patch_stats_fwd_args *a) {
    const stats_fwd_f f = {*a};
    DR_FLAT(be, f, a->b * (a->h / a->p) * (a->w / a->p) * a->c, false);
}

// dx += (dmean + dstd (x - mean) / std) / p^2
struct stats_bwd_f {
    struct dr_patch_stats_bwd_args a;
    template <int V> __device__ void run(int64_t i) const {
        const int64_t patch = i / a.c, ch = i % a.c, row = a.w * a.c, p = a.p;
        const int64_t at = patch_at(patch, a.h, a.w, a.c, p) + ch, m = patch * 2 * a.c + ch;
        const float mean = a.out[m], dmean = a.dout[m], slope = a.dout[m + a.c] / a.out[m + a.c];
        for (int64_t k = 0; k < p * p; k++) {
            const int64_t j = at + k / p * row + k % p * a.c;
            a.dx[j] += (dmean + slope * (a.x[j] - mean)) / (float)(p * p);
        }
    }
};

void dr_cuda_patch_stats_bwd(struct dr_backend *be, const struct dr_patch_stats_bwd_args *a) {
    const stats_bwd_f f = {*a};
    DR_FLAT(be, f, a->b * (a->h / a->p) * (a->w / a->p) * a->c, false);
}
