// Shared by conv.c (products of patches) and conv_thin.c (direct loops for a side of few channels).
#pragma once

#include "engine/cpu/isa.h"

#if DR_ISA_LEVELS // both files are compiled once a level
#define dr_conv_thin DR_CAT(dr_conv_thin, DR_ISA)
#define dr_conv_thin_apply DR_CAT(dr_conv_thin_apply, DR_ISA)
#define dr_conv_thin_weight DR_CAT(dr_conv_thin_weight, DR_ISA)
#endif

struct geo {
    int64_t b, sh, sw, dh, dw; // source and destination pixels
    int64_t kh, kw, padh, padw, stride, dil;
    bool back; // source pixel = (p + pad - dil tap) / stride instead of p stride - pad + dil tap
};

// dst[b,dh,dw,cd] = bias + the taps of src[b,sh,sw,cs]. The weight is [co,ci,kh,kw]; forward: cs =
// ci and cd = co, with g.back: cs = co and cd = ci. Forward, pixels of dst are ldd values apart and
// fn is applied last.
struct conv_apply {
    struct geo g;
    void *dst;
    const void *src;
    enum dr_dtype t;
    const real *weight, *bias; // bias NULL: none
    int64_t cs, cd, ldd;
    enum dr_fn fn;
    uint64_t version; // of the weight, as in dr_gemm_args
};

// conv_onednn.c: the same by oneDNN's own convolutions, for the shapes where they are fastest.
// False: nothing was done, it is not one of them.
bool dr_conv_whole(struct dr_backend *be, const struct conv_apply *a);
// Whether it is faster than the loops of conv_thin.c where x, or dy going back, has `few` channels.
bool dr_conv_whole_few(struct dr_backend *be, enum dr_dtype t, int64_t few);
// dweight (+= only); g: of its forward pass.
bool dr_conv_whole_weight(struct dr_backend *be, const struct dr_conv2d_bwd_weight_args *a,
                          const struct geo *g);

// Whether the direct loops are right for it: a square kernel, stride 1, no dilation and one side
// with few channels.
bool dr_conv_thin(const struct geo *g, int64_t cs, int64_t cd);
void dr_conv_thin_apply(struct dr_backend *be, const struct conv_apply *a);
// dweight (+= only) of such a convolution; g: of its forward pass.
void dr_conv_thin_weight(struct dr_backend *be, const struct dr_conv2d_bwd_weight_args *a,
                         const struct geo *g);
