// What the networks are made of; private to engine/nn.
//
// Each layer is a description (parameter numbers and sizes, built once with the layout), an
// x_forward and an x_backward. Conventions: device pointers throughout, only ops touch data;
// parameter gradients accumulate into w->g, input gradients overwrite unless `acc`; activations a
// backward needs come from the arena `ar` (ctx->keep in training, ctx->tmp in inference, so one
// code path serves both); everything else comes from ctx->tmp and is released.
#pragma once

#include "engine/core/reals.h"
#include "engine/nn/type.h"

#define DR_RMS_EPS 1e-6    // every RMSNorm of both references
#define DR_FOURIER_DIM 256 // features of the guidance scale

// ---- linear.c ----

// y = x W' + bias. w, b: parameter numbers (b -1: no bias). W: [out,in], or several such parameters
// joined into one matrix.
struct dr_linear {
    int w, b;
    int64_t in, out;
    int64_t rows; // of x per sample
};
// Adds NAME.weight and, with `bias`, NAME.bias (zero). One row per sample unless `rows` is set
// after.
struct dr_linear dr_linear_add(struct dr_params *ps, int64_t in, int64_t out, enum dr_init init,
                               double arg, bool bias, const char *name);
// x: [m,in] xt; y: [m,out] yt, rows ldy apart (0: out). bf16 x multiplies the rounded weights.
void dr_linear_forward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_linear *l,
                       const void *x, enum dr_dtype xt, int64_t m, void *y, enum dr_dtype yt,
                       int64_t ldy);
// dW += dy' x, db += sum of dy's rows. x: [m,in], dy: [m,out] (rows ldy apart, 0: out), both t.
// Does nothing when the weights have no gradients (w->g NULL).
void dr_linear_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_linear *l,
                        const void *x, const void *dy, enum dr_dtype t, int64_t m, int64_t ldy);
// dx (+)= dy W. dy: [m,out] t, contiguous; dx: [m,in] dxt.
void dr_linear_backward_input(struct dr_ctx *cx, const struct dr_weights *w,
                              const struct dr_linear *l, const void *dy, enum dr_dtype t, int64_t m,
                              void *dx, enum dr_dtype dxt, bool acc);
const real *dr_weight(const struct dr_weights *w, int param); // NULL for -1
real *dr_grad(const struct dr_weights *w, int param);         // NULL for -1 or without gradients
static inline void *dr_alloc_act(struct dr_arena *a, const struct dr_ctx *cx, int64_t n) {
    return dr_alloc(a, (size_t)n * dr_sizeof(cx->act));
}

// ---- conv.c ----

// 2-D convolution with zero padding and a bias (b -1: none), on [b,height,width,channels]
// activations of cx->act. w, b: parameter numbers (w -1: not there). W: [co,ci,k,k], as PyTorch's.
struct dr_conv {
    int w, b;
    int64_t ci, co, k, stride, pad;
    int64_t dil; // of the kernel, 0: 1
};
// Adds NAME.weight and NAME.bias, both with this initialisation. shape: all but w and b.
struct dr_conv dr_conv_add(struct dr_params *ps, struct dr_conv shape, enum dr_init init,
                           double arg, const char *name);
// The same without a bias, Kaiming-normal for a ReLU behind it (fan out, as torchvision's ResNets).
struct dr_conv dr_conv_add_plain(struct dr_params *ps, struct dr_conv shape, const char *name);
// Side of the output for a side of the input.
static inline int64_t dr_conv_side(const struct dr_conv *l, int64_t side) {
    return (side + 2 * l->pad - DR_MAX(l->dil, 1) * (l->k - 1) - 1) / l->stride + 1;
}
// x: [b,height,width,ci]; y: [b,ho,wo,co], ho = dr_conv_side of height.
void dr_conv_forward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_conv *l,
                     const void *x, int64_t b, int64_t height, int64_t width, void *y);
// dW += the correlation of dy with x, db += sum of dy; nothing where w->g is NULL.
// Shapes as above.
void dr_conv_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_conv *l,
                      const void *x, const void *dy, int64_t b, int64_t height, int64_t width);
// dx: [b,height,width,ci], overwritten with the transposed convolution of dy.
void dr_conv_backward_input(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_conv *l,
                            const void *dy, int64_t b, int64_t height, int64_t width, void *dx);

// ---- cnorm.c ----

// Normalisation of [b,n,c] activations of cx->act by channel, n pixels per sample: a GroupNorm, or
// a BatchNorm that applies stored statistics and is never trained (groups 0).
struct dr_cnorm {
    int weight, bias; // parameter numbers
    int64_t c, groups;
    int64_t at, all; // BatchNorm: place of its channels among those of all, and their number
};
struct dr_cnorm_saved {
    real *mean, *rstd; // GroupNorm: [b,groups]
};
// The BatchNorms of a network. Their parameters lie one after the other, so that a handful of ops
// per forward pass turns all of them into scales and shifts.
struct dr_bnorms {
    int weight, bias, mean, var; // numbers of the first of each; -1: there are none
    int64_t channels;            // of all
};
#define DR_CNORM_EPS 1e-5
// Groups of c channels: the largest divisor of c that is at most `most` and leaves two channels to
// a group where it can.
int64_t dr_cnorm_groups(int64_t c, int64_t most);
// Adds NAME.weight (one) and NAME.bias (zero) of a GroupNorm.
struct dr_cnorm dr_cnorm_add(struct dr_params *ps, int64_t c, int64_t groups, const char *name);
// Adds n BatchNorms at once: NAME.weight, NAME.bias, NAME.running_mean, NAME.running_var of each.
// norm[i].c is given; the rest of norm[i] is filled.
void dr_bnorms_add(struct dr_params *ps, struct dr_cnorm *const norm[], const char (*name)[64],
                   int n, struct dr_bnorms *out);
// Scales and shifts of all BatchNorms, [2,channels] in `ar`: for dr_cnorm_forward and _backward.
// NULL where there are none.
const real *dr_bnorms_fold(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                           const struct dr_bnorms *k);
// y = fn(norm(x) + r); r NULL: nothing. y may be x or r. fold: of dr_bnorms_fold.
void dr_cnorm_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                      const struct dr_cnorm *l, const real *fold, int64_t b, int64_t n,
                      const void *x, const void *r, enum dr_fn fn, void *y,
                      struct dr_cnorm_saved *s);
// dx by x, dr by r (NULL: not wanted) from dy; x and r as they were in the forward pass. Either of
// dx and dr may be dy. Parameters' gradients accumulate, but for BatchNorms, which have none.
void dr_cnorm_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_cnorm *l,
                       const real *fold, int64_t b, int64_t n, const void *x, const void *r,
                       enum dr_fn fn, const struct dr_cnorm_saved *s, const void *dy, void *dx,
                       void *dr);

// ---- image.c ----

// Image [b,c,s,s] real to [b,s,s,c] of type t, and back; with acc added to the image.
void dr_to_nhwc(struct dr_ctx *cx, int64_t b, int64_t c, int64_t side, const real *image, void *out,
                enum dr_dtype t);
void dr_from_nhwc(struct dr_ctx *cx, int64_t b, int64_t c, int64_t side, const void *in,
                  enum dr_dtype t, real *image, bool acc);
// out = [a ; b] per pixel, `rows` pixels of ca and cb channels, all cx->act; and the reverse.
void dr_concat(struct dr_ctx *cx, int64_t rows, const void *a, int64_t ca, const void *b,
               int64_t cb, void *out);
void dr_split(struct dr_ctx *cx, int64_t rows, const void *in, void *a, int64_t ca, void *b,
              int64_t cb);

// ---- form ----

// In what the parameterisations differ (method.md 6): the reference's PyTorch networks (driftdit,
// and the mlp's conditioning) and its JAX ones (lightningdit).
struct dr_form {
    bool biases;             // in every linear layer of a block, not only proj, fc1 and fc2
    bool style_tables;       // one table per style index of a sample, not one codebook for all
    bool class_tokens;       // the registers are `cls_embed` plus a projection of the condition
    bool patch_is_conv;      // the patch embedding is stored as a Conv2d, pixels ordered c,y,x
    bool alpha_norm;         // the embedding of alpha is RMS-normalised and scaled by 0.02
    bool two_thirds;         // a SwiGLU's hidden width is 2/3 of dim mlp_ratio, in steps of 32
    enum dr_init alpha_init; // of the embedding of alpha: normal with std 0.02, or Xavier
    double alpha_period;     // longest period of its Fourier features
    const char *label;       // name of the class table
};

// ---- cond.c ----

// c = label[class] + alpha embedding + sum of style embeddings + linear(latent noise): [b,d] fp32,
// whatever the precision of the activations.
struct dr_cond {
    int label, alpha_norm, style;            // style: first table; alpha_norm -1: none
    struct dr_linear alpha0, alpha2, latent; // latent.w -1: none
    int64_t d, style_tokens, table_rows;     // table_rows 0: one shared codebook
    real max_period, gain;                   // of the embedding of alpha
};
struct dr_cond_saved {
    real *fourier, *a0, *s0; // features [b,256], before and after SiLU [b,d]
    real *a2, *rstd;         // before the alpha norm, [b,d] and [b]; NULL without
};
// latent: the noise is a vector that enters here.
void dr_cond_add(struct dr_params *ps, const struct dr_model_config *m, const struct dr_form *form,
                 bool latent, struct dr_cond *out);
void dr_cond_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                     const struct dr_cond *k, const struct dr_net_in *in, real *c,
                     struct dr_cond_saved *s);
// dnoise: [b,latent_dim], NULL: not wanted; overwritten, or added to with `acc`. Untouched where
// the noise does not enter here.
void dr_cond_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_cond *k,
                      const struct dr_net_in *in, const struct dr_cond_saved *s, const real *dc,
                      real *dnoise, bool acc);

// ---- block.c ----

struct dr_block {
    int norm1, norm2, q_norm, k_norm;
    struct dr_linear qkv, proj, up, down; // up: [w1 ; w3] joined, or fc1 of the GELU form
};
struct dr_block_shape {
    int64_t b, t, d, heads, hidden, mod_stride;
    bool gelu;
    const real *rope_cos, *rope_sin; // NULL: none
};
// x, x2: [b,t,d] real, rstd: [b,t] real, the rest act. NULL unless cx->keep_all: rstd, n and p.
struct dr_block_saved {
    real *x, *x2, *rstd1, *rstd2;
    void *n1, *qkv, *att, *y1, *n2, *h, *p, *y2;
};
void dr_block_add(struct dr_params *ps, const struct dr_model_config *m, const struct dr_form *form,
                  int64_t hidden, int index, struct dr_block *out);
// out = block(x) with the six modulation vectors at mods ([b,6,d], samples mod_stride apart). out
// may be x (inference: x2 then is x as well).
void dr_block_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                      const struct dr_block *k, const struct dr_block_shape *sh, const real *mods,
                      real *x, real *out, struct dr_block_saved *s);
// dx: gradient by the output on entry, by the input on return. dmods overwritten. Consumes s: qkv
// and h are overwritten by their gradients, which saves a trip through memory.
void dr_block_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_block *k,
                       const struct dr_block_shape *sh, const real *mods,
                       const struct dr_block_saved *s, real *dx, real *dmods);

// ---- head.c ----

// Final layer on the patch tokens, unpatchify, optional residual convolutions.
struct dr_head {
    int norm;
    struct dr_linear linear;
    struct dr_conv conv1, conv2; // w -1: head linear
    int64_t channels, size, patch, registers, tokens, d;
};
struct dr_head_saved {
    void *image, *h; // act, NHWC: before conv1 [b,s,s,c], after it [b,s,s,width]
};
void dr_head_add(struct dr_params *ps, const struct dr_model_config *m, struct dr_head *out);
// x: [b,tokens,d]; mods: shift and scale [b,2,d], mod_stride apart; image: [b,c,size,size].
void dr_head_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                     const struct dr_head *k, int64_t b, const real *x, const real *mods,
                     int64_t mod_stride, real *image, struct dr_head_saved *s);
// dx: [b,tokens,d] overwritten, zero at the registers; dmods overwritten.
void dr_head_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_head *k,
                      int64_t b, const real *x, const real *mods, int64_t mod_stride,
                      const struct dr_head_saved *s, const real *dimage, real *dx, real *dmods);

// ---- net.c ----

// For those who create networks: an empty network of `type`, its struct zeroed, then (with rc 0)
// built, laid out and described. On failure *net is freed and NULL.
int dr_net_new(const struct dr_net_type *type, struct dr_net **out, struct dr_err *err);
int dr_net_finish(struct dr_net **net, int rc, struct dr_err *err);

// ---- gen.c ----

// What every generator's struct begins with.
struct dr_gen {
    struct dr_net net;
    struct dr_model_config cfg;
};
// For the rows of generators.
int dr_gen_parse(struct dr_net *net, const char *json, size_t len, const char *where,
                 struct dr_err *err);
char *dr_gen_describe(const struct dr_net *net);
