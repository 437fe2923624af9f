// Generators: x = f(noise, class, alpha, style), one forward pass (method.md 6; paper A.2).
//
// struct dr_gen is an immutable description (architecture, parameter layout); any number of threads
// may use one with their own dr_ctx and weights. Forward and backward are written by hand, layer by
// layer; activations needed by the backward pass live in ctx->keep and are named by struct
// dr_gen_saved (host memory, reusable, one per chunk of the batch).
//
// Parameter names. driftdit: the reference's state dict, as method.md 6 lists them. lightningdit
// (its JAX reference has no such names): patch_embed.*, pos_embed [1,P,D], cls_proj.*, cls_embed
// [1,R,D], label_embed.weight, alpha_embed.{mlp.0,mlp.2}.*, alpha_embed.norm.weight,
// style_embed.K.weight (one table a draw), and blocks and final layer as in driftdit with biases
// everywhere; all matrices [out,in]. Options add: latent_embed.* [P*D,L] and latent_cond.* [D,L]
// (`noise: latent`, instead of patch_embed), pos_embed (driftdit), mlp.{fc1,fc2}.* (`mlp: gelu`,
// with biases), head.{conv1,conv2}.* (`head: conv`). mlp: label_embed.embedding_table.weight,
// alpha_embed.mlp.*, latent_cond.* (noise in), hidden.K.*, out.*.
#pragma once

#include "engine/config/config.h"
#include "engine/core/backend.h"
#include "engine/nn/params.h"

struct dr_gen;
struct dr_gen_saved;

// Checks the model section (divisibility, ranges) and builds the layout. cfg is copied.
int dr_gen_create(const struct dr_model_config *cfg, struct dr_gen **out, struct dr_err *err);
void dr_gen_free(struct dr_gen *g);
const struct dr_params *dr_gen_params(const struct dr_gen *g);
const struct dr_model_config *dr_gen_config(const struct dr_gen *g);
int64_t dr_gen_noise_count(const struct dr_gen *g); // reals of noise per sample
int64_t dr_gen_style_count(const struct dr_gen *g); // style indices per sample, 0: none
int64_t dr_gen_image_count(const struct dr_gen *g); // C*H*W (2 for the toys)
int dr_gen_null_class(const struct dr_gen *g);      // index of the null class, -1: none

// Constant tables (RoPE) on a device, built once per backend instance. Owned by the caller.
int dr_gen_tables_count(const struct dr_gen *g, int64_t *reals);
void dr_gen_tables_fill(const struct dr_gen *g, real *host);

// Device pointers.
struct dr_gen_in {
    const real *noise;    // [b, noise_count]
    const int32_t *cls;   // [b], in [0, classes] (classes = null class where there is one)
    const real *alpha;    // [b]
    const int32_t *style; // [b, style_count] or NULL when style_count is 0
    const real *tables;   // from dr_gen_tables_fill, uploaded; NULL when their count is 0
    int64_t b;
};
struct dr_gen_saved *dr_gen_saved_new(const struct dr_gen *g); // NULL: out of memory
void dr_gen_saved_free(struct dr_gen_saved *s);

// x: [b,C,H,W] real. saved NULL: inference, nothing is kept (ctx->keep may be NULL).
void dr_gen_forward(struct dr_ctx *cx, const struct dr_gen *g, const struct dr_weights *w,
                    const struct dr_gen_in *in, real *x, struct dr_gen_saved *saved);
// dx: [b,C,H,W] gradient of the loss by x. Accumulates into w->g. Input gradients do not exist.
// Once per forward: activations named by `saved` are overwritten by their gradients.
void dr_gen_backward(struct dr_ctx *cx, const struct dr_gen *g, const struct dr_weights *w,
                     const struct dr_gen_in *in, const struct dr_gen_saved *saved, const real *dx);
