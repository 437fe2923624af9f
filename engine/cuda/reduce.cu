// Sums over whole arrays: columns of a matrix, squares. Called through the op table, and colsum by
// other ops for their partial sums. Arrays are cut at fixed places and the parts added in order, so
// the bytes depend on the shape alone.
#include "engine/cuda/device.h"

enum { COL_ROWS = 512, SQ_CHUNK = 8192 };

// out[chunk, n]: one block for 32 columns and a chunk of `rows` rows; warps take rows in turn, then
// their sums are added in the order of the warps. Blocks are counted in the grid's first dimension,
// chunk by chunk: the others end at 65535, and a position embedding alone has more columns.
template <typename T>
__global__ void __launch_bounds__(256)
    k_colsum(float *out, const T *x, int64_t m, int64_t n, int64_t ld, int64_t rows,
             unsigned chunks, bool acc) {
    DR_SHARED(float, s); // [8][32]
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t chunk = blockIdx.x % chunks, i0 = chunk * rows;
    const int64_t j = (int64_t)(blockIdx.x / chunks) * 32 + lane;
    const int64_t end = i0 + rows < m ? i0 + rows : m;
    float sum = 0;
    for (int64_t i = i0 + warp; i < end && j < n; i += 8)
        sum += to_f(x[i * ld + j]);
    s[warp * 32 + lane] = sum;
    __syncthreads();
    if (warp || j >= n)
        return;
    for (int k = 1; k < 8; k++)
        sum += s[k * 32 + lane];
    float *to = out + chunk * n + j;
    *to = acc ? *to + sum : sum;
}

template <typename T> static void colsum(struct dr_backend *be, const struct dr_colsum_args *a) {
    const int64_t ld = a->ld ? a->ld : a->n, chunks = ceil_div(a->m, COL_ROWS);
    const T *x = static_cast<const T *>(a->x);
    const unsigned columns = blocks_for(a->n, 32), cuts = (unsigned)chunks;
    if (chunks == 1) {
        DR_LAUNCH(be, (k_colsum<T>), columns, 256, 1024, a->out, x, a->m, a->n, ld, a->m, 1,
                  a->acc);
        return;
    }
    float *part = static_cast<float *>(
        dr_cuda_scratch(be, DR_CUDA_SUM, (size_t)(chunks * a->n) * sizeof(float)));
    if (!part)
        return;
    const int64_t rows = COL_ROWS;
    DR_LAUNCH(be, (k_colsum<T>), columns * cuts, 256, 1024, part, x, a->m, a->n, ld, rows, cuts,
              false);
    DR_LAUNCH(be, (k_colsum<float>), columns, 256, 1024, a->out, part, chunks, a->n, a->n, chunks,
              1, a->acc);
}

void dr_cuda_colsum(struct dr_backend *be, const struct dr_colsum_args *a) {
    if (a->m > 0 && a->n > 0)
        DR_FOR_DTYPE(a->xt, T, colsum<T>(be, a));
}

// ---- squares
// -------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(256) k_square_parts(double *part, const float *x, int64_t n) {
    DR_SHARED(double, s);
    const int64_t at = (int64_t)blockIdx.x * SQ_CHUNK, end = at + SQ_CHUNK < n ? at + SQ_CHUNK : n;
    double sum = 0;
    for (int64_t i = at + threadIdx.x; i < end; i += blockDim.x)
        sum += (double)x[i] * (double)x[i];
    sum = block_sum(sum, s);
    if (threadIdx.x == 0)
        part[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(256)
    k_square_total(float *out, const double *part, int64_t parts, bool acc) {
    DR_SHARED(double, s);
    double sum = 0;
    for (int64_t i = threadIdx.x; i < parts; i += blockDim.x)
        sum += part[i];
    sum = block_sum(sum, s);
    if (threadIdx.x == 0)
        out[0] = (float)(sum + (acc ? (double)out[0] : 0));
}

void dr_cuda_sumsq(struct dr_backend *be, const struct dr_sumsq_args *a) {
    const int64_t parts = ceil_div(a->n, SQ_CHUNK);
    double *part = static_cast<double *>(
        dr_cuda_scratch(be, DR_CUDA_OP, (size_t)(parts + 1) * sizeof(double)));
    if (!part)
        return;
    if (parts)
        DR_LAUNCH(be, k_square_parts, (unsigned)parts, 256, 256, part, a->x, a->n);
    DR_LAUNCH(be, k_square_total, 1, 256, 256, a->out, part, parts, a->acc);
}
