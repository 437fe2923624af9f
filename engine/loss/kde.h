// What the encoder of the feature kind `kde` learns (method.md 7): to tell real samples from
// generated ones by two kernel densities, which it has no parameters for beyond the features.
//
// For a sample q of either kind, log of the mean kernel over a set, q itself left out:
//     density(q; Y) = log mean_{y in Y, y not q} exp(-|q - y| / (tau sqrt(S)))
//     score(q)      = density(q; reals) - density(q; generated)
//     loss          = mean_reals softplus(-score) + mean_generated softplus(score)
// as a mean over groups and temperatures. Two equal sets give 2 log 2.
#pragma once

#include "engine/core/backend.h"

struct dr_kde_in {
    const real *gen, *pos; // [B,N,S], [B,P,S]; N and P at least 2
    int64_t B, N, P, S;
    int64_t groups;    // of all processes, B of them here
    const double *tau; // [ntau]
    int ntau;
    real weight; // of this call in the loss
};
struct dr_kde_out {
    real *dgen, *dpos; // gradients by gen and pos, overwritten
    real *loss;        // [1] accumulates this process's share
    // [1] accumulates weight * the mean probability that the densities give to the wrong kind: 1/2
    // by chance.
    real *wrong;
};
// Device pointers; uses cx->tmp only.
void dr_kde_loss(struct dr_ctx *cx, const struct dr_kde_in *in, const struct dr_kde_out *out);
