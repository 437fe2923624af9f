// Table lookups and their gradients, Fourier features of a scalar. Called through the op table by
// nn/ (class and style embeddings, guidance scale).
#include "engine/cuda/device.h"
#include "engine/cuda/divide.h"

struct embed_fwd_f {
    struct dr_embed_fwd_args a;
    divisor by_d;
    template <int V> __device__ void run(int64_t i) const {
        int64_t j;
        const int64_t b = by_d.split(i, &j);
        float sum = a.acc ? a.out[i] : 0;
        for (int64_t k = 0; k < a.nk; k++)
            sum += a.table[(k * a.table_rows + a.idx[b * a.nk + k]) * a.d + j];
        a.out[i] = sum;
    }
};

void dr_cuda_embed_fwd(struct dr_backend *be, const struct dr_embed_fwd_args *a) {
    const embed_fwd_f f = {*a, divisor(a->d)};
    DR_FLAT(be, f, a->b * a->d, false);
}

// One block a lookup (b, k). The first lookup of a table row owns it and adds every later one of
// that row, in order; the other blocks leave. Separate tables share nothing, so only their own k
// counts.
__global__ void __launch_bounds__(128) k_embed_bwd(struct dr_embed_bwd_args a) {
    DR_SHARED(int, slots);
    const int64_t me = blockIdx.x, step = a.table_rows ? a.nk : 1;
    const int32_t row = a.idx[me];
    int earlier = 0;
    for (int64_t e = me - step * (1 + (int64_t)threadIdx.x); e >= 0; e -= step * blockDim.x)
        earlier |= a.idx[e] == row;
    if (block_sum(earlier, slots))
        return;
    float *to = a.dtable + (me % a.nk * a.table_rows + row) * a.d;
    for (int64_t j = threadIdx.x; j < a.d; j += blockDim.x) {
        float sum = to[j];
        for (int64_t e = me; e < a.b * a.nk; e += step)
            if (a.idx[e] == row)
                sum += a.dout[e / a.nk * a.d + j];
        to[j] = sum;
    }
}

void dr_cuda_embed_bwd(struct dr_backend *be, const struct dr_embed_bwd_args *a) {
    if (a->b * a->nk > 0)
        DR_LAUNCH(be, k_embed_bwd, (unsigned)(a->b * a->nk), 128, 32 * sizeof(int), *a);
}

struct fourier_f {
    struct dr_fourier_args a;
    template <int V> __device__ void run(int64_t i) const {
        const int64_t b = i / a.n, j = i % a.n, half = a.n / 2;
        if (j == 2 * half) { // the odd one out
            a.out[i] = 0;
            return;
        }
        const double f = pow((double)a.max_period, -(double)(j % half) / (double)half);
        const double v = (double)a.val[b] * f;
        a.out[i] = (float)(j < half ? cos(v) : sin(v));
    }
};

void dr_cuda_fourier(struct dr_backend *be, const struct dr_fourier_args *a) {
    const fourier_f f = {*a};
    DR_FLAT(be, f, a->b * a->n, false);
}
