// Convolution by cuDNN, where the machine has it: conv.cu asks here first and does the work itself
// when this declines (not built in, not installed, a form cuDNN declines).
#pragma once

#include "engine/cuda/launch.h"

struct dnn_conv { // x: [b,h,w,ci], y: [b,ho,wo,co], weight: [co,kh,kw,ci]; all of type t
    int64_t b, h, w, ci, co, stride;
    struct dr_conv_dims d;
    enum dr_dtype t;
};

#ifdef DR_HAVE_CUDNN
// Loads the library at the first call of an instance.
bool dr_cuda_dnn_ready(struct dr_backend *be);
// y = conv(x); dx from dy; dw from dy and x (fp32 only: cuDNN would round a bf16 gradient). Outputs
// are overwritten. False: nothing has been done. Temporaries come from slot DR_CUDA_DNN.
bool dr_cuda_dnn_fwd(struct dr_backend *be, const dnn_conv &c, void *y, const void *x,
                     const void *weight);
bool dr_cuda_dnn_bwd_data(struct dr_backend *be, const dnn_conv &c, void *dx, const void *dy,
                          const void *weight);
bool dr_cuda_dnn_bwd_weight(struct dr_backend *be, const dnn_conv &c, void *dw, const void *x,
                            const void *dy);
void dr_cuda_dnn_close(struct dr_cuda *c);
#else
static inline bool dr_cuda_dnn_ready(struct dr_backend *) {
    return false;
}
static inline bool dr_cuda_dnn_fwd(struct dr_backend *, const dnn_conv &, void *, const void *,
                                   const void *) {
    return false;
}
static inline bool dr_cuda_dnn_bwd_data(struct dr_backend *, const dnn_conv &, void *, const void *,
                                        const void *) {
    return false;
}
static inline bool dr_cuda_dnn_bwd_weight(struct dr_backend *, const dnn_conv &, void *,
                                          const void *, const void *) {
    return false;
}
static inline void dr_cuda_dnn_close(struct dr_cuda *) {}
#endif
