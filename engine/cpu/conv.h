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
    int64_t k, stride, pad;
    bool back; // source pixel = (p + pad - tap) / stride instead of p stride - pad + tap
};

// dst[b,dh,dw,cd] = bias + the taps of src[b,sh,sw,cs]. The weight is [co,ci,k,k]; forward: cs = ci
// and cd = co, with g.back: cs = co and cd = ci.
struct conv_apply {
    struct geo g;
    void *dst;
    const void *src;
    enum dr_dtype t;
    const real *weight, *bias; // bias NULL: none
    int64_t cs, cd;
};

// Whether the direct loops are right for it: stride 1 and one side with few channels.
bool dr_conv_thin(int64_t k, int64_t stride, int64_t cs, int64_t cd);
void dr_conv_thin_apply(struct dr_backend *be, const struct conv_apply *a);
// dweight (+= only) of a stride-1 convolution.
void dr_conv_thin_weight(struct dr_backend *be, const struct dr_conv2d_bwd_weight_args *a);
