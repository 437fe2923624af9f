// Matrix products by cuBLAS: fp32 accumulation always; fp32 inputs in strict fp32 unless
// DRIFTD_TF32 asks for TF32. A bias is added by a second kernel. The workspace is the instance's
// own and the stream is its own, so that cuBLAS repeats its results run after run.
#include "engine/cuda/device.h"

#include <cublas_v2.h>
#include <stdio.h>

enum { WORKSPACE = 32 << 20 };

static const char *text_of(cublasStatus_t s) {
    return cublasGetStatusString(s);
}

int dr_cuda_blas_open(struct dr_cuda *c, struct dr_err *err) {
    cublasHandle_t h = NULL;
    cublasStatus_t s = cublasCreate(&h);
    if (s) {
        if (err) {
            err->code = s == CUBLAS_STATUS_ALLOC_FAILED ? DR_ENOMEM : DR_EDEVICE;
            snprintf(err->msg, sizeof err->msg, "%s: cuBLAS does not start: %s", c->be.detail,
                     text_of(s));
        }
        return s == CUBLAS_STATUS_ALLOC_FAILED ? DR_ENOMEM : DR_EDEVICE;
    }
    c->blas = h;
    s = cublasSetStream(h, c->stream);
    if (!s) // partial sums of a split product stay fp32, whatever the type of C
        s = cublasSetMathMode(h, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
    void *work = dr_cuda_scratch(&c->be, DR_CUDA_BLAS, WORKSPACE);
    if (!s && work)
        s = cublasSetWorkspace(h, work, WORKSPACE);
    if (!s && work)
        return 0;
    if (err) {
        err->code = work ? DR_EDEVICE : DR_ENOMEM;
        snprintf(err->msg, sizeof err->msg, "%s: cuBLAS workspace: %s", c->be.detail,
                 work ? text_of(s) : "out of memory");
    }
    return work ? DR_EDEVICE : DR_ENOMEM;
}

void dr_cuda_blas_close(struct dr_cuda *c) {
    if (c->blas)
        cublasDestroy(static_cast<cublasHandle_t>(c->blas));
    c->blas = NULL;
}

template <typename C> struct bias_f {
    C *c;
    const float *bias;
    int64_t n, m, ldc, stride;
    template <int V> __device__ void run(int64_t i) const {
        const int64_t at = i / (m * n) * stride + i / n % m * ldc + i % n;
        c[at] = from_f<C>(to_f(c[at]) + bias[i % n]);
    }
};

template <typename C>
static void add_bias(struct dr_backend *be, const struct dr_gemm_args *g, int64_t batch) {
    const bias_f<C> f = {static_cast<C *>(g->c), g->bias, g->n, g->m, g->ldc, g->stride_c};
    DR_FLAT(be, f, batch * g->m * g->n, false);
}

// Row-major C = A B is column-major C' = B' A'.
void dr_cuda_gemm(struct dr_backend *be, const struct dr_gemm_args *g) {
    struct dr_cuda *c = dr_cuda_of(be);
    const int64_t batch = g->batch > 1 ? g->batch : 1;
    const float one = 1, beta = g->acc ? 1 : 0;
    const cudaDataType in = g->abt == DR_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    const cudaDataType out = g->ct == DR_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    const cublasComputeType_t how =
        g->abt == DR_F32 && c->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    if (g->m <= 0 || g->n <= 0)
        return;
    const cublasStatus_t s = cublasGemmStridedBatchedEx(
        static_cast<cublasHandle_t>(c->blas), g->tb ? CUBLAS_OP_T : CUBLAS_OP_N,
        g->ta ? CUBLAS_OP_T : CUBLAS_OP_N, (int)g->n, (int)g->m, (int)g->k, &one, g->b, in,
        (int)g->ldb, g->stride_b, g->a, in, (int)g->lda, g->stride_a, &beta, g->c, out, (int)g->ldc,
        g->stride_c, (int)batch, how, CUBLAS_GEMM_DEFAULT);
    if (s)
        dr_cuda_error(be, s == CUBLAS_STATUS_ALLOC_FAILED ? DR_ENOMEM : DR_EDEVICE, __func__,
                      text_of(s));
    else if (g->bias)
        DR_FOR_DTYPE(g->ct, C, add_bias<C>(be, g, batch));
}
