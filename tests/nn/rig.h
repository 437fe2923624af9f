// A generator on a backend with everything it needs to run, for the tests of engine/nn. Memory is
// measured by a dry run against the null backend, as the trainer does it; a disagreement aborts.
#pragma once

#include "engine/core/arena.h"
#include "engine/core/backend.h"
#include "engine/nn/net.h"
#include "engine/nn/params.h"

struct rig {
    struct dr_backend *be;
    struct dr_net *gen;
    const struct dr_params *params;
    struct dr_net_saved *saved;
    struct dr_ctx cx;
    struct dr_arena keep, tmp;
    struct dr_weights w; // device
    struct dr_net_in in; // device
    real *x, *dx;        // device [b, image_count]
    real *dnoise;        // device [b, noise_count]
    int64_t b, image, noise, style;
    void *mem[16];
    int nmem;
};
// A config with every field set: driftdit, dim 8, depth 2, 2 heads, 8x8x1 pixels in 4x4 patches.
struct dr_model_config rig_config(void);
// Fails the cmocka test on any error. b: samples per forward pass. Weights and gradients are zero.
void rig_open(struct rig *r, const struct dr_model_config *cfg, int64_t b, int threads,
              enum dr_dtype act);
void rig_close(struct rig *r);
// host[params->total]; makes the rounded copy as well.
void rig_weights(struct rig *r, const real *host);
// A deterministic, nowhere special set of weights: every parameter random, norms around one.
real *rig_random_weights(const struct dr_params *ps, uint64_t seed); // malloc'd
// Inputs of samples [0,n) from host arrays; style may be NULL when there is none.
void rig_inputs(struct rig *r, int64_t n, const real *noise, const int32_t *cls, const real *alpha,
                const int32_t *style);
void rig_random_inputs(struct rig *r, uint64_t seed);
// x: host [n, image]. keep: for a backward pass.
void rig_forward(struct rig *r, bool keep, real *x);
// dx: host [n, image]; g: host [total], gradients from zero.
void rig_backward(struct rig *r, const real *dx, real *g);
// The gradient by the noise alone, weights frozen, after rig_forward(keep). dnoise: host [n,
// noise].
void rig_backward_input(struct rig *r, const real *dx, real *dnoise);
