// Matrix products of the emulated build, where there is no library: one thread per element, in
// ascending k. The GPU build has gemm_blas.cu instead.
#include "engine/cuda/device.h"

template <typename A, typename C>
__global__ void __launch_bounds__(256) k_gemm(struct dr_gemm_args g) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, s = blockIdx.y;
    if (i >= g.m * g.n)
        return;
    const int64_t row = i / g.n, col = i % g.n;
    const int64_t ai = g.ta ? 1 : g.lda, ak = g.ta ? g.lda : 1, bj = g.tb ? g.ldb : 1,
                  bk = g.tb ? 1 : g.ldb;
    const A *a = static_cast<const A *>(g.a) + s * g.stride_a + row * ai;
    const A *b = static_cast<const A *>(g.b) + s * g.stride_b + col * bj;
    C *c = static_cast<C *>(g.c) + s * g.stride_c + row * g.ldc + col;
    float sum = 0;
    for (int64_t k = 0; k < g.k; k++)
        sum += to_f(a[k * ak]) * to_f(b[k * bk]);
    sum += g.acc ? to_f(*c) : g.bias ? g.bias[col] : 0;
    *c = from_f<C>(sum);
}

template <typename A, typename C>
static void gemm(struct dr_backend *be, const struct dr_gemm_args *g) {
    const dim3 grid(blocks_for(g->m * g->n, 256), (unsigned)(g->batch > 1 ? g->batch : 1));
    DR_LAUNCH(be, (k_gemm<A, C>), grid, 256, 0, *g);
}

void dr_cuda_gemm(struct dr_backend *be, const struct dr_gemm_args *g) {
    if (g->m > 0 && g->n > 0)
        DR_FOR_DTYPE(g->abt, A, DR_FOR_DTYPE(g->ct, C, (gemm<A, C>(be, g))));
}

int dr_cuda_blas_open(struct dr_cuda *c, struct dr_err *err) {
    (void)c;
    (void)err;
    return 0;
}

void dr_cuda_blas_close(struct dr_cuda *c) {
    (void)c;
}
