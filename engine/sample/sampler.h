// Generation: batches of samples from one snapshot in one forward pass each (method.md 5 and 8).
//
// A sampler belongs to the thread that enters its backend. Sample k of seed s is a function of (s,
// k) and its conditioning alone: the same bytes in any batch, with any thread count.
#pragma once

#include "engine/core/device.h"
#include "engine/nn/net.h"

// Weights of a network of any kind at one moment, immutable, reference-counted; any thread.
struct dr_snapshot {
    struct dr_net *net; // owned
    real *weights;      // host, dr_net_bytes of them, owned
    int64_t step;
    struct dr_guidance_range guidance; // scales seen in training; hi 0: not known
    char id[80];                       // checkpoint id or "live:<job>"; the daemon's
    int refs;                          // atomic
};
// Takes net and weights (from malloc or aligned_alloc) also on failure, which is NULL: no memory.
struct dr_snapshot *dr_snapshot_new(struct dr_net *net, real *weights, int64_t step);
struct dr_snapshot *dr_snapshot_ref(struct dr_snapshot *s); // NULL is fine
void dr_snapshot_unref(struct dr_snapshot *s);              // NULL is fine
// Weights from a checkpoint or a foreign safetensors file: the first EMA under the network's own
// names, or those names behind one prefix (foreign.h: `module.`, `ema.`, ...). What the network is
// comes from the metadata's `driftd.config`, else from `description` (JSON for dr_net_parse), else
// (NULL) from the shapes where the file is a plain `driftdit`, a ResNet of torchvision or an
// Inception-v3 (foreign.h). F16, BF16 and F64 are converted.
// Extra tensors of known harmless names (rope.*, optimiser state) are ignored; a missing tensor, a
// wrong shape, an unknown tensor or a value that is not finite is an error that names it. *out is
// NULL on failure; the caller unrefs it.
int dr_snapshot_load(const char *path, const char *description, struct dr_snapshot **out,
                     struct dr_err *err);
// The raw weights of a training checkpoint, which lie beside the averaged ones. EINVAL, at the
// field "weights", for a file that has one set of weights alone.
int dr_snapshot_load_raw(const char *path, const char *description, struct dr_snapshot **out,
                         struct dr_err *err);
// The network alone that a file holds, from its header: none of its weights is read, so that they
// may still be missing or wrong. Fails as the two above. The caller frees it.
int dr_snapshot_network(const char *path, struct dr_net **out, struct dr_err *err);
// A copy of the same weights in the network for images of another side (dr_net_resized, with its
// errors). *out is NULL on failure; the caller unrefs it.
int dr_snapshot_resized(const struct dr_snapshot *s, int64_t side, struct dr_snapshot **out,
                        struct dr_err *err);

struct dr_sample {
    uint64_t seed, index;
    int32_t cls; // in [0, classes); -1: null class
    real alpha;
    bool two_pass;     // uncond + alpha (cond - uncond), needs a null class
    const real *noise; // [noise_count] on the host, borrowed until the run returns; NULL: drawn
                       // from (seed, index). Style indices are drawn either way. Like what is
                       // drawn, it is scaled by model.temperature
};
struct dr_sampler;
// max_batch: samples per forward pass at most. precision: DR_FP32 or DR_PREC_BF16. be: borrowed.
// Memory is allocated by the first run of a network.
int dr_sampler_create(struct dr_backend *be, int precision, int64_t max_batch,
                      struct dr_sampler **out, struct dr_err *err);
void dr_sampler_free(struct dr_sampler *s);
// x: host [n, image_count]. Uploads the snapshot's weights when it differs from the last one used.
// EINVAL, with the field, for a snapshot that is no generator and a sample that it cannot make;
// ENOMEM and EDEVICE leave the sampler usable.
int dr_sampler_run(struct dr_sampler *s, struct dr_snapshot *snap, const struct dr_sample *req,
                   int64_t n, real *x, struct dr_err *err);
// Floating-point operations of one sample's forward pass (matrix work), known after the first run.
double dr_sampler_flops(const struct dr_sampler *s);
