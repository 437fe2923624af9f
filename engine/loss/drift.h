// The drifting loss on feature vectors (method.md 2 and 3; paper Alg. 1-2, A.6, A.7).
//
// Works on one feature of all groups b = (class, location). Everything but the last line of the
// method is under stop-gradient, so forward and gradient come out of one call. Device pointers
// throughout; no host synchronisation: metrics are device scalars that the trainer downloads when
// it likes.
#pragma once

#include "engine/config/config.h"
#include "engine/core/backend.h"

struct dr_drift_in {
    const real *gen;        // [B,N,S]
    const real *neg;        // independent negatives [B,N,S], NULL: gen itself with the self mask
    const real *unc;        // [B,U,S], or [U,S] shared by every group with unc_shared; U may be 0
    const real *pos;        // [B,P,S]
    const real *unc_weight; // [B] w_unc of each group (dr_guidance_weight); NULL when U is 0
    int64_t B, N, U, P, S;
    int64_t groups; // of all processes, B of them here; 0: B
    bool unc_shared;
    real weight; // of this feature in the sum
    // For a field that learns: the feature's number, the number of the first group here among those
    // of all processes, and what its noise is drawn from, {seed, step} on the device (NULL: it does
    // not learn from these sets).
    int feature;
    int64_t first;
    const uint64_t *key;
};
struct dr_drift_out {
    real *dgen; // [B,N,S] gradient by gen, overwritten
    real *loss; // [1] accumulates weight * mean(V^2): this process's share of it
    real *v2; // [temperatures] mean V_tau^2 before normalisation (kernel-l2: averaged over groups)
    real *stats; // [3] {s, mean D, var D}
    real *field; // [temperatures,B,N,S] V_tau itself, before normalisation; NULL: not wanted
    real *own;   // [DR_FIELD_REPORT] of a field that learns, zero on entry; NULL: it does not
};
// By the field that cfg names (field.h). cfg: field, temperatures, kernel, normalize,
// sinkhorn_iterations, bias, floor, max_velocity (whether negatives are independent is in->neg).
// Not of a field with parameters.
// `sphere` and `standardize` are the caller's (features.h); kernel-l2 normalises by itself, the
// gradient included, takes no unconditional negatives (U is ignored) and no floor. Non-finite
// features end in a non-finite loss. Uses cx->tmp only; sums over the groups go over all processes
// of cx->comm.
void dr_drift_loss(struct dr_ctx *cx, const struct dr_loss_config *cfg,
                   const struct dr_drift_in *in, const struct dr_drift_out *out);

// w_unc of a class with guidance scale alpha: (alpha - 1)(N - 1) / U (A.7); 0 when U is 0. Host
// arithmetic in double, as alpha is drawn: a device would round alpha first.
real dr_guidance_weight(double alpha, int64_t N, int64_t U);

// Energy distance 2E|x-y| - E|x-x'| - E|y-y'| of two host samples [n,s], [m,s]; for toys and tests.
double dr_energy_distance(const real *x, int64_t n, const real *y, int64_t m, int64_t s);
