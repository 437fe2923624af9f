// Feature extraction: images to the list of feature vectors that each get a drifting loss
// (method.md 7). `pixel`: the whole image, optionally the four quadrants and patch statistics; each
// optionally L2-normalised (`norm: sphere`, gradient through it). Encoders join here in a later
// issue.
#pragma once

#include "engine/config/config.h"
#include "engine/core/backend.h"

#define DR_MAX_FEATURES 64

struct dr_feature_dim {
    int64_t locations, s; // T location vectors of width S
    real weight;
    char name[24]; // "image", "quadrants", "patch2", ...
};
struct dr_features; // immutable description

int dr_features_create(const struct dr_feature_config *cfg, int64_t c, int64_t h, int64_t w,
                       struct dr_features **out, struct dr_err *err);
void dr_features_free(struct dr_features *f);
int dr_features_count(const struct dr_features *f);
struct dr_feature_dim dr_features_dim(const struct dr_features *f, int i);

// Feature i of `groups` groups of n images x: [groups,n,C,H,W] -> out: [groups*T, n, S]
// (group-major: b = group * T + location). norm_out: [groups*T*n] norms kept for the backward pass,
// used with `sphere` (NULL when no gradient is wanted).
void dr_features_forward(struct dr_ctx *cx, const struct dr_features *f, int i, const real *x,
                         int64_t groups, int64_t n, real *out, real *norm_out);
// The same of real images: what generated ones are drawn to and driven from. Differs by the gain of
// `rms`.
void dr_features_of_reals(struct dr_ctx *cx, const struct dr_features *f, int i, const real *x,
                          int64_t groups, int64_t n, real *out);
// dx: [groups,n,C,H,W] accumulates. out, norm: what forward gave.
void dr_features_backward(struct dr_ctx *cx, const struct dr_features *f, int i, const real *x,
                          int64_t groups, int64_t n, const real *out, const real *norm,
                          const real *dout, real *dx);
