// The drifting loss in double precision with plain loops, written from method.md 2 and 3 alone:
// what the engine is held against. Also the bench that runs the engine's loss on host arrays.
#pragma once

#include "engine/core/arena.h"
#include "engine/loss/drift.h"
#include "engine/loss/features.h"

struct ref_out {
    double loss, s, mean_d, var_d, f; // f: the features' divisor
    double v2[DR_MAX_TAU];
    double *dgen, *target; // [B,N,S] gradient; x~ + V, the regression target. Owned, ref_free
    double *raw;           // [temperatures,B,N,S] V_tau before normalisation. Owned too
};
void ref_drift(const struct dr_loss_config *cfg, const struct dr_drift_in *in, struct ref_out *out);
void ref_free(struct ref_out *out);
// weight * mean((x~ - target)^2) of features gen with the target and the divisor held fixed.
double ref_loss_at(const struct dr_loss_config *cfg, const struct dr_drift_in *in, const real *gen,
                   const struct ref_out *at);

// sum (a - b)^2 / sum b^2
double ref_nmse(const real *a, const double *b, int64_t n);
double ref_nmse2(const real *a, const real *b, int64_t n);

// A CPU backend with a temporary arena, and the engine's loss on it.
struct rig {
    struct dr_backend *be;
    struct dr_arena tmp;
    struct dr_ctx cx;
    void *block;
};
void rig_open(struct rig *r, int threads);
void rig_close(struct rig *r);
struct eng_out {
    real loss, v2[DR_MAX_TAU], stats[3];
    real *dgen;  // owned, free
    real *field; // [temperatures,B,N,S], in the same block
};
void eng_drift(struct rig *r, const struct dr_loss_config *cfg, const struct dr_drift_in *in,
               struct eng_out *out);

struct slope {
    const char *what; // for the message
    real *x;          // as before on return
    const real *dx;
    int64_t n, stride;
    double h, tol;
    double (*value)(void *ctx);
    void *ctx;
};
// Fails the test unless dx[n] is the gradient of value(ctx) by x[n]: central differences of step h
// at every `stride`th element, each within tol of the largest dx.
void test_slope(const struct slope *s);

// Test data: n values N(mean, std^2) of one seed; malloc'd.
real *test_normals(uint64_t seed, int64_t n, double mean, double std);

// One feature of images whose map is the image itself: x [groups,n,C,H,W] to vectors, and back
// (dx accumulates).
void feature_forward(struct dr_ctx *cx, const struct dr_features *f, int i, const real *x,
                     int64_t groups, int64_t n, bool reals, real *out, real *norm);
void feature_backward(struct dr_ctx *cx, const struct dr_features *f, int i, const real *x,
                      int64_t groups, int64_t n, const real *out, const real *norm,
                      const real *dout, real *dx);
