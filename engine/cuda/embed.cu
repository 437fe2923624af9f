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

// One block per lookup (b, k) and ROW columns. The first lookup of a table row owns it and adds
// every later one of that row, in order; the other blocks leave. Separate tables share nothing, so
// only their own k counts. The nearest lookups are looked at first: where rows repeat, an earlier
// one is close. Later lookups are gathered ROW at a time: most are of other rows.
enum { ROW = 128 };

__global__ void __launch_bounds__(ROW) k_embed_bwd(struct dr_embed_bwd_args a) {
    DR_SHARED(int, slots); // [32], then the samples found: [ROW]
    int *found = slots + 32;
    const int64_t me = blockIdx.x, step = a.table_rows ? a.nk : 1, total = a.b * a.nk;
    const int64_t j = (int64_t)blockIdx.y * ROW + threadIdx.x;
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int32_t row = a.idx[me];
    for (int64_t last = me - step; last >= 0; last -= step * ROW) {
        const int64_t e = last - step * threadIdx.x;
        if (block_sum(e >= 0 && a.idx[e] == row ? 1 : 0, slots))
            return;
    }
    float *to = a.dtable + (me % a.nk * a.table_rows + row) * a.d + j;
    float sum = j < a.d ? *to : 0;
    for (int64_t first = me; first < total; first += step * ROW) {
        const int64_t e = first + step * threadIdx.x;
        const bool hit = e < total && a.idx[e] == row;
        const unsigned hits = __ballot_sync(DR_FULL, hit);
        if (lane == 0)
            slots[warp] = __popc(hits);
        __syncthreads();
        int at = __popc(hits & ((1u << lane) - 1)), count = 0;
        for (unsigned w = 0; w < ROW / 32; w++) {
            at += w < warp ? slots[w] : 0;
            count += slots[w];
        }
        if (hit)
            found[at] = (int)(e / a.nk);
        __syncthreads();
        for (int k = 0; k < count && j < a.d; k++)
            sum += a.dout[found[k] * a.d + j];
        __syncthreads();
    }
    if (j < a.d)
        *to = sum;
}

void dr_cuda_embed_bwd(struct dr_backend *be, const struct dr_embed_bwd_args *a) {
    const dim3 grid((unsigned)(a->b * a->nk), blocks_for(a->d, ROW));
    if (a->b * a->nk > 0)
        DR_LAUNCH(be, k_embed_bwd, grid, ROW, (32 + ROW) * sizeof(int), *a);
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
