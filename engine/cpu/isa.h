// Kernels compiled once per level of x86-64.
//
// The files listed as `isa_src` in meson.build are compiled for the baseline, for x86-64-v3, for
// x86-64-v4 and for that with bf16 conversions (v4h), with DR_ISA set to the suffix of the level;
// dispatch.c picks one when an op is called. attn_bf16*.c exist at v4h alone.
// (target_clones would do for scalar loops, but it clones after vector types were lowered to the
// baseline.) Elsewhere, and in the double build, they are compiled once and define dr_cpu_<op>.
// Between levels results agree to rounding only: vectors have other widths, and only those above
// the baseline fuse multiply and add.
#pragma once

#include "engine/cpu/cpu.h"

#if defined(__x86_64__) && !defined(DR_DOUBLE)
#define DR_ISA_LEVELS 1
#ifndef DR_ISA
#define DR_ISA base
#endif
#else
#define DR_ISA_LEVELS 0
#endif

#define DR_ISA_OPS(X)                                                                              \
    X(silu_fwd)                                                                                    \
    X(silu_bwd)                                                                                    \
    X(gelu_fwd)                                                                                    \
    X(gelu_bwd)                                                                                    \
    X(swiglu_fwd)                                                                                  \
    X(swiglu_bwd)                                                                                  \
    X(rmsnorm_mod_fwd)                                                                             \
    X(rmsnorm_mod_bwd)                                                                             \
    X(gate_fwd)                                                                                    \
    X(gate_bwd)                                                                                    \
    X(attn_fwd)                                                                                    \
    X(attn_bwd)                                                                                    \
    X(embed_fwd)                                                                                   \
    X(embed_bwd)                                                                                   \
    X(conv2d_fwd)                                                                                  \
    X(conv2d_bwd_data)                                                                             \
    X(conv2d_bwd_weight)                                                                           \
    X(groupnorm_fwd)                                                                               \
    X(groupnorm_bwd)                                                                               \
    X(channel_affine_fwd)                                                                          \
    X(channel_affine_bwd)                                                                          \
    X(add_act_fwd)                                                                                 \
    X(add_act_bwd)                                                                                 \
    X(pool_fwd)                                                                                    \
    X(pool_bwd)                                                                                    \
    X(resize_fwd)                                                                                  \
    X(resize_bwd)                                                                                  \
    X(mask_apply)                                                                                  \
    X(masked_mse)                                                                                  \
    X(softmax_xent)                                                                                \
    X(l2norm_fwd)                                                                                  \
    X(l2norm_bwd)                                                                                  \
    X(patch_stats_fwd)                                                                             \
    X(patch_stats_bwd)                                                                             \
    X(column_stats)                                                                                \
    X(standardize)                                                                                 \
    X(pair_dist)                                                                                   \
    X(drift_sums)                                                                                  \
    X(drift_scale)                                                                                 \
    X(drift_coef)                                                                                  \
    X(drift_combine)                                                                               \
    X(drift_mean)                                                                                  \
    X(drift_accumulate)                                                                            \
    X(drift_grad)                                                                                  \
    X(set_noise)                                                                                   \
    X(pair_score_fwd)                                                                              \
    X(pair_score_bwd)                                                                              \
    X(set_softmax_fwd)                                                                             \
    X(set_softmax_bwd)                                                                             \
    X(denoise_loss)                                                                                \
    X(mass_loss)                                                                                   \
    X(correlate)

#define DR_CAT_(a, b) a##_##b
#define DR_CAT(a, b) DR_CAT_(a, b)
#if DR_ISA_LEVELS
#define DR_ISA_FN(op) DR_CAT(dr_cpu_##op, DR_ISA)
#define DR_ISA_DECLARE(op, isa)                                                                    \
    void DR_CAT(dr_cpu_##op, isa)(struct dr_backend *, const struct dr_##op##_args *);
#define X(op)                                                                                      \
    DR_ISA_DECLARE(op, base)                                                                       \
    DR_ISA_DECLARE(op, v3) DR_ISA_DECLARE(op, v4) DR_ISA_DECLARE(op, v4h)
DR_ISA_OPS(X)
#undef X
#else
#define DR_ISA_FN(op) dr_cpu_##op
#endif
