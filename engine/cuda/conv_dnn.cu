// Convolution by cuDNN 9. The library is looked for when the first convolution runs, so driftd
// works with and without it; DRIFTD_CUDNN=0 in the environment disables it.
//
// Algorithms are fixed, the deterministic ones that gather instead of scattering with atomics:
// implicit GEMM with precomputed indices forward, algorithm 1 backward. Layout NHWC; sums are fp32.
#include "engine/cuda/conv_dnn.h"

#include <cudnn.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define DNN_CALLS(X)                                                                               \
    X(cudnnGetCudartVersion)                                                                       \
    X(cudnnCreate)                                                                                 \
    X(cudnnDestroy)                                                                                \
    X(cudnnSetStream)                                                                              \
    X(cudnnCreateTensorDescriptor)                                                                 \
    X(cudnnDestroyTensorDescriptor)                                                                \
    X(cudnnSetTensor4dDescriptor)                                                                  \
    X(cudnnCreateFilterDescriptor)                                                                 \
    X(cudnnDestroyFilterDescriptor)                                                                \
    X(cudnnSetFilter4dDescriptor)                                                                  \
    X(cudnnCreateConvolutionDescriptor)                                                            \
    X(cudnnDestroyConvolutionDescriptor)                                                           \
    X(cudnnSetConvolution2dDescriptor)                                                             \
    X(cudnnSetConvolutionMathType)                                                                 \
    X(cudnnGetConvolutionForwardWorkspaceSize)                                                     \
    X(cudnnConvolutionForward)                                                                     \
    X(cudnnGetConvolutionBackwardDataWorkspaceSize)                                                \
    X(cudnnConvolutionBackwardData)                                                                \
    X(cudnnGetConvolutionBackwardFilterWorkspaceSize)                                              \
    X(cudnnConvolutionBackwardFilter)

struct dnn { // dr_cuda.dnn
    bool ready;
    cudnnHandle_t handle;
    cudnnTensorDescriptor_t x, y;
    cudnnFilterDescriptor_t w;
    cudnnConvolutionDescriptor_t conv;
#define X(name) decltype(&::name) name;
    DNN_CALLS(X)
#undef X
};

static bool load(struct dnn *d) {
    const char *off = getenv("DRIFTD_CUDNN");
    if (off && !strcmp(off, "0"))
        return false;
    // Stays loaded: it has code on the device, which cannot be unloaded safely.
    void *library = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return false;
#define X(name)                                                                                    \
    d->name = reinterpret_cast<decltype(&::name)>(dlsym(library, #name));                          \
    if (!d->name)                                                                                  \
        return false;
    DNN_CALLS(X)
#undef X
    return true;
}

// One built for another CUDA has the same name, and ends the process for want of its cuBLAS.
static bool same_cuda(const struct dnn *d) {
    int runtime = 0;
    return !cudaRuntimeGetVersion(&runtime) &&
           d->cudnnGetCudartVersion() / 1000 == (size_t)runtime / 1000;
}

static bool start(struct dnn *d, cudaStream_t stream) {
    std::lock_guard<std::recursive_mutex> hold(dr_cuda_still);
    return load(d) && same_cuda(d) && !d->cudnnCreate(&d->handle) &&
           !d->cudnnSetStream(d->handle, stream) && !d->cudnnCreateTensorDescriptor(&d->x) &&
           !d->cudnnCreateTensorDescriptor(&d->y) && !d->cudnnCreateFilterDescriptor(&d->w) &&
           !d->cudnnCreateConvolutionDescriptor(&d->conv);
}

void dr_cuda_dnn_close(struct dr_cuda *c) {
    struct dnn *d = static_cast<struct dnn *>(c->dnn);
    c->dnn = NULL;
    if (!d)
        return;
    if (d->conv)
        d->cudnnDestroyConvolutionDescriptor(d->conv);
    if (d->w)
        d->cudnnDestroyFilterDescriptor(d->w);
    if (d->y)
        d->cudnnDestroyTensorDescriptor(d->y);
    if (d->x)
        d->cudnnDestroyTensorDescriptor(d->x);
    if (d->handle)
        d->cudnnDestroy(d->handle);
    free(d);
}

bool dr_cuda_dnn_ready(struct dr_backend *be) {
    struct dr_cuda *gpu = dr_cuda_of(be);
    struct dnn *d = static_cast<struct dnn *>(gpu->dnn);
    if (!d) {
        gpu->dnn = d = static_cast<struct dnn *>(calloc(1, sizeof(struct dnn)));
        if (d)
            d->ready = start(d, gpu->stream);
    }
    return d && d->ready;
}

// The instance's library with its descriptors set to c, or NULL.
static struct dnn *prepare(struct dr_backend *be, const dnn_conv &c) {
    struct dr_cuda *gpu = dr_cuda_of(be);
    if (!dr_cuda_dnn_ready(be))
        return NULL;
    struct dnn *d = static_cast<struct dnn *>(gpu->dnn);
    const cudnnDataType_t t = c.t == DR_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
    const cudnnMathType_t math = c.t == DR_BF16 ? CUDNN_TENSOR_OP_MATH
                                 : gpu->tf32    ? CUDNN_DEFAULT_MATH
                                                : CUDNN_FMA_MATH;
    const bool ok = !d->cudnnSetTensor4dDescriptor(d->x, CUDNN_TENSOR_NHWC, t, (int)c.b, (int)c.ci,
                                                   (int)c.h, (int)c.w) &&
                    !d->cudnnSetTensor4dDescriptor(d->y, CUDNN_TENSOR_NHWC, t, (int)c.b, (int)c.co,
                                                   (int)c.d.ho, (int)c.d.wo) &&
                    !d->cudnnSetFilter4dDescriptor(d->w, t, CUDNN_TENSOR_NHWC, (int)c.co, (int)c.ci,
                                                   (int)c.d.kh, (int)c.d.kw) &&
                    !d->cudnnSetConvolution2dDescriptor(
                        d->conv, (int)c.d.padh, (int)c.d.padw, (int)c.stride, (int)c.stride,
                        (int)c.d.dil, (int)c.d.dil, CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT) &&
                    !d->cudnnSetConvolutionMathType(d->conv, math);
    return ok ? d : NULL;
}

static const float one = 1, zero = 0;

bool dr_cuda_dnn_fwd(struct dr_backend *be, const dnn_conv &c, void *y, const void *x,
                     const void *weight) {
    const cudnnConvolutionFwdAlgo_t algo = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
    struct dnn *d = prepare(be, c);
    size_t bytes = 0;
    if (!d || d->cudnnGetConvolutionForwardWorkspaceSize(d->handle, d->x, d->w, d->conv, d->y, algo,
                                                         &bytes))
        return false;
    void *work = dr_cuda_scratch(be, DR_CUDA_DNN, bytes);
    dr_cuda_of(be)->last_op = __func__;
    return work && !d->cudnnConvolutionForward(d->handle, &one, d->x, x, d->w, weight, d->conv,
                                               algo, work, bytes, &zero, d->y, y);
}

bool dr_cuda_dnn_bwd_data(struct dr_backend *be, const dnn_conv &c, void *dx, const void *dy,
                          const void *weight) {
    const cudnnConvolutionBwdDataAlgo_t algo = CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
    struct dnn *d = prepare(be, c);
    size_t bytes = 0;
    if (!d || d->cudnnGetConvolutionBackwardDataWorkspaceSize(d->handle, d->w, d->y, d->conv, d->x,
                                                              algo, &bytes))
        return false;
    void *work = dr_cuda_scratch(be, DR_CUDA_DNN, bytes);
    dr_cuda_of(be)->last_op = __func__;
    return work && !d->cudnnConvolutionBackwardData(d->handle, &one, d->w, weight, d->y, dy,
                                                    d->conv, algo, work, bytes, &zero, d->x, dx);
}

bool dr_cuda_dnn_bwd_weight(struct dr_backend *be, const dnn_conv &c, void *dw, const void *x,
                            const void *dy) {
    const cudnnConvolutionBwdFilterAlgo_t algo = CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;
    struct dnn *d = c.t == DR_F32 ? prepare(be, c) : NULL;
    size_t bytes = 0;
    if (!d || d->cudnnGetConvolutionBackwardFilterWorkspaceSize(d->handle, d->x, d->y, d->conv,
                                                                d->w, algo, &bytes))
        return false;
    void *work = dr_cuda_scratch(be, DR_CUDA_DNN, bytes);
    dr_cuda_of(be)->last_op = __func__;
    return work && !d->cudnnConvolutionBackwardFilter(d->handle, &one, d->x, x, d->y, dy, d->conv,
                                                      algo, work, bytes, &zero, d->w, dw);
}
