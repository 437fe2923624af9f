// Networks. A struct dr_net is an immutable description: which network, its parameter layout, the
// shapes of what goes in and comes out. It holds no weights, so any number of threads may use one,
// each with a dr_ctx and weights of its own. Snapshots, checkpoints and caches know only this.
//
// Three kinds. A generator turns noise and conditioning into an image in one forward pass
// (method.md 6; paper A.2); an encoder turns an image into feature maps (or into the image again);
// a judge turns it into logits. engine/nn/nets.def lists them all; type.h says how to write one.
#pragma once

#include "engine/config/config.h"

enum dr_net_kind { DR_NET_GENERATOR, DR_NET_ENCODER, DR_NET_JUDGE };
enum { DR_NET_OUTPUTS = 32 };

struct dr_net;
struct dr_ctx;     // core/backend.h
struct dr_params;  // params.h
struct dr_weights; // params.h

// ---- descriptions ----

// Builds a network from its description: JSON, the text of dr_net_description or a whole
// configuration. ECONFIG, with the field, for what no network of that kind accepts; `where`
// (NULL: none) goes before the sentence. *out is NULL on failure; the caller frees it.
int dr_net_parse(const char *json, size_t len, const char *where, struct dr_net **out,
                 struct dr_err *err);
// A generator from the model section of a configuration, which is checked and copied.
int dr_gen_create(const struct dr_model_config *cfg, struct dr_net **out, struct dr_err *err);
void dr_net_free(struct dr_net *net); // NULL is fine

const char *dr_net_name(const struct dr_net *net); // the word of engine/nn/nets.def
enum dr_net_kind dr_net_kind(const struct dr_net *net);
const char *dr_net_kind_word(enum dr_net_kind kind); // "generator", "encoder", "judge"
// The JSON that dr_net_parse turns into the same network. Lives as long as `net`.
const char *dr_net_description(const struct dr_net *net);
// A parameter whose name ends the names of no others.
const char *dr_net_anchor(const struct dr_net *net);
// That of the network whose parameters these are; NULL: they are of none.
const char *dr_net_anchor_in(const struct dr_params *ps);
// Whether weights of one serve the other, with the same results.
bool dr_net_same(const struct dr_net *a, const struct dr_net *b);
// EINVAL with a sentence unless `net` is of this kind; `what` ("checkpoint 7") begins it.
int dr_net_expect(const struct dr_net *net, enum dr_net_kind kind, const char *what,
                  struct dr_err *err);

// The bare encoder inside a network that has one (the body of a classifier or of an autoencoder):
// feature maps, with the parameter names of `net`, for images of this side (0: that of `net`; the
// weights do not depend on it). Its weights come by dr_params_copy_named (params.h). EINVAL, at
// the field "encoder", for a network without an encoder or a side it does not take. *out is NULL
// on failure; the caller frees it. EINVAL too where the network runs forward only.
int dr_net_encoder(const struct dr_net *net, int64_t side, struct dr_net **out, struct dr_err *err);
// All of `net`, its heads too, for images of another side, with the same parameters: of a ResNet
// with BatchNorm, whose weights are of elsewhere and often come without a word on the side. EINVAL,
// at the field "size", for other networks, ECONFIG for a side that it does not take. *out is NULL
// on failure; the caller frees it.
int dr_net_resized(const struct dr_net *net, int64_t side, struct dr_net **out, struct dr_err *err);

const struct dr_params *dr_net_params(const struct dr_net *net);
int64_t dr_net_parameters(const struct dr_net *net); // numbers that training may change
size_t dr_net_bytes(const struct dr_net *net);       // size of one set of weights

// False: the network runs forward only; it judges, and nothing can be trained through it.
bool dr_net_learns(const struct dr_net *net);

// ---- generators ----

// NULL unless `net` is a generator. The others are for generators only.
const struct dr_model_config *dr_gen_config(const struct dr_net *net);
int64_t dr_gen_noise_count(const struct dr_net *net);     // reals of noise per sample
int64_t dr_gen_noise_of(const struct dr_model_config *m); // the same before there is a network
int64_t dr_gen_style_count(const struct dr_net *net);     // style indices per sample, 0: none
int64_t dr_gen_image_count(const struct dr_net *net);     // C*H*W (2 for points)
int dr_gen_null_class(const struct dr_net *net);          // index of the null class, -1: none

// Which outputs of an encoder a list names, into chosen: `all` (or nothing), or some by their names
// or numbers with commas, from 1, below 0 from the end. ECONFIG at features.maps for one that it
// does not have, with those that it has.
int dr_net_choose(const struct dr_net *net, const char *list, bool chosen[DR_NET_OUTPUTS],
                  struct dr_err *err);

// ---- running ----

// Shape of one output per sample. Images of a generator lie as [b,c,h,w], maps of an encoder as
// [b,h,w,c], logits of a judge as [b,c] (h and w are 1).
struct dr_net_shape {
    int64_t c, h, w;
};
int64_t dr_net_input(const struct dr_net *net); // reals per sample of struct dr_net_in's x
int dr_net_outputs(const struct dr_net *net);   // 1 to DR_NET_OUTPUTS
struct dr_net_shape dr_net_output(const struct dr_net *net, int i);
// "image" of a generator, "stage1.block2", "stage1", ... of an encoder, "logits" of a judge.
const char *dr_net_output_name(const struct dr_net *net, int i);
int dr_net_output_find(const struct dr_net *net, const char *name); // -1: none of that name

struct dr_backend;
// Constant tables on a device (RoPE), one set per backend instance, owned by the caller.
int64_t dr_net_tables_count(const struct dr_net *net); // reals, 0: none
// Computes them and writes them to `to` on the device, [dr_net_tables_count]. ENOMEM.
int dr_net_tables_upload(const struct dr_net *net, struct dr_backend *be, real *to,
                         struct dr_err *err);

// Device pointers.
struct dr_net_in {
    const real *x;        // [b, input]: noise, or images [b,C,H,W] of an encoder or judge
    const int32_t *cls;   // [b], in [0, classes], classes being the null class; generators
    const real *alpha;    // [b] guidance scales; generators
    const int32_t *style; // [b, style_count], NULL when that is 0; generators
    const real *tables;   // from dr_net_tables_upload; NULL when their count is 0
    int64_t b;            // samples
};
// Names the activations of one forward pass (of one chunk of a batch), which lie in ctx->keep. Host
// memory, reusable. NULL: out of memory.
struct dr_net_saved;
struct dr_net_saved *dr_net_saved_new(const struct dr_net *net);
void dr_net_saved_free(struct dr_net_saved *s); // NULL is fine

// y[i]: output i of every sample, real, overwritten; of networks with several outputs NULL: not
// wanted. saved NULL: inference, nothing is kept
// (ctx->keep may be NULL).
void dr_net_forward(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                    const struct dr_net_in *in, real *const y[], struct dr_net_saved *saved);
// dy[i]: gradient of the loss by output i; of networks with several outputs NULL: zero, and the
// only choice for an output that forward was not asked for. Accumulates the gradients of the
// weights into w->g (NULL: the network is frozen) and overwrites dx [b, input], the gradient by
// in->x (NULL: not wanted). Once per forward pass: activations named by `saved` are overwritten.
// Not for a network that runs forward only (dr_net_learns).
void dr_net_backward(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                     const struct dr_net_in *in, struct dr_net_saved *saved, const real *const dy[],
                     real *dx);
