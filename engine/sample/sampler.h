// Generation: batches of samples from one snapshot in one forward pass each (method.md 5 and 8).
//
// A sampler belongs to the thread that enters its backend. Sample k of seed s is a function of (s,
// k) and its conditioning alone: the same bytes in any batch, with any thread count.
#pragma once

#include "engine/nn/gen.h"

// Weights of a generator at one moment, immutable, reference-counted; any thread.
struct dr_snapshot {
    struct dr_gen *gen; // owned
    real *weights;      // host [params->total], owned
    int64_t step;
    struct dr_guidance_range guidance; // scales seen in training; hi 0: not known
    char id[80];                       // checkpoint id or "live:<job>"; the daemon's
    int refs;                          // atomic
};
// Takes ownership of gen and weights (malloc/aligned_alloc'd) also on failure.
struct dr_snapshot *dr_snapshot_new(struct dr_gen *gen, real *weights, int64_t step);
struct dr_snapshot *dr_snapshot_ref(struct dr_snapshot *s); // NULL is fine
void dr_snapshot_unref(struct dr_snapshot *s);              // NULL is fine
// Weights served from a checkpoint or a foreign safetensors file: the first EMA under the
// reference's names, or those names behind one prefix (foreign.h: `module.`, `ema.`, ...). What the
// model is comes from the metadata's `driftd.config`, else from `model`, else (NULL) from the
// shapes where the file is a plain `driftdit`. F16, BF16 and F64 are converted. Extra tensors of
// known harmless names (rope.*, optimiser state) are ignored; a missing one, a wrong shape, an
// unknown one or a value that is not finite is an error that names it.
int dr_snapshot_load(const char *path, const struct dr_model_config *model,
                     struct dr_snapshot **out, struct dr_err *err);

struct dr_sample {
    uint64_t seed, index;
    int32_t cls; // in [0, classes); -1: null class
    real alpha;
    bool two_pass; // uncond + alpha (cond - uncond), needs a null class
};
struct dr_sampler;
// max_batch: samples per forward pass. precision: DR_FP32 or DR_PREC_BF16.
int dr_sampler_create(struct dr_backend *be, int precision, int64_t max_batch,
                      struct dr_sampler **out, struct dr_err *err);
void dr_sampler_free(struct dr_sampler *s);
// x: host [n, C,H,W]. Uploads the snapshot's weights when it differs from the last one used.
int dr_sampler_run(struct dr_sampler *s, struct dr_snapshot *snap, const struct dr_sample *req,
                   int64_t n, real *x, struct dr_err *err);
// Floating-point operations of one sample's forward pass (matrix work), known after the first run.
double dr_sampler_flops(const struct dr_sampler *s);
