// The parts of the U-Net generator, shared by unet.c and unet_block.c.
#pragma once

#include "engine/nn/layers.h"

// A residual block: y = conv2(silu(scale norm(conv1(silu(norm1 x))) + shift)) + skip(x), scale and
// shift per sample from the condition; then, with attention, y + proj(attention(qkv(norm y))).
struct dr_res {
    struct dr_cnorm norm1, attn_norm;  // attn_norm.weight -1: no attention
    struct dr_conv conv1, conv2, skip; // skip.w -1: the input itself
    struct dr_linear qkv, proj;
    int64_t groups, heads, mod; // mod: place of scale and shift in a sample's modulation row
};
struct dr_res_saved {
    void *x, *h1;        // act: input, output of conv1
    void *y, *qkv, *att; // act: around the attention
    struct dr_cnorm_saved n1, n2, na;
};

enum dr_unet_kind { DR_UNET_IN, DR_UNET_RES, DR_UNET_DOWN, DR_UNET_UP };
// A step of the network. Its input is the output of the step before, with the output of step `skip`
// beside it where that is not -1.
struct dr_unet_step {
    enum dr_unet_kind kind;
    int64_t ci, co, from, to; // channels, sides
    int skip;
    bool read_again; // by a later step's skip
    struct dr_conv conv;
    struct dr_res res;
};

// What all blocks of a pass share.
struct dr_mods {
    int64_t b, stride;
    const real *at; // [b,stride]
    real *d;        // backward: the gradient, overwritten block by block
};

// Adds the parameters of NAME.*, the modulation apart.
void dr_res_add(struct dr_params *ps, struct dr_res *k, int64_t ci, int64_t co, int64_t side,
                int64_t heads, bool attention, const char *name);
// x: [b,side,side,ci], y: [b,side,side,co], act.
void dr_res_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                    const struct dr_res *k, const struct dr_mods *m, int64_t side, void *x, void *y,
                    struct dr_res_saved *s);
// dy is overwritten; dx as x. Consumes s: qkv is overwritten.
void dr_res_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_res *k,
                     const struct dr_mods *m, int64_t side, const struct dr_res_saved *s, void *dy,
                     void *dx);
// A convolution with NAME.weight, normal with this std (0: zero), and NAME.bias, zero.
struct dr_conv dr_unet_conv(struct dr_params *ps, int64_t ci, int64_t co, int64_t k, int64_t stride,
                            double std, const char *name);
