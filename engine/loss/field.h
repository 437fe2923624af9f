// Drifting fields: what turns the features of generated and real samples into a loss. One row of
// this table per value of loss.field; a new field is one file with its row (dr_field_NAME), its
// line in DR_FIELDS (engine/config/kinds.h), and its tests.
#pragma once

#include "engine/loss/drift.h"
#include "engine/loss/features.h"
#include "engine/nn/params.h"

struct dr_field_def {
    const char *name; // loss.field
    // The loss and its gradient for one feature, as dr_drift_loss says. own: the field's parameters
    // with room for their gradients, which accumulate; NULL: it has none.
    void (*loss)(struct dr_ctx *cx, const struct dr_loss_config *cfg, const struct dr_weights *own,
                 const struct dr_drift_in *in, const struct dr_drift_out *out);
    // Refuses a configuration that the field cannot compute, naming the key; NULL: it takes all.
    int (*validate)(const struct dr_config *cfg, struct dr_err *err);
    // Adds the field's parameters to an empty layout; NULL: it has none. They form a group of the
    // optimiser of their own, at learning_rate times optim.lr.
    int (*params)(const struct dr_loss_config *cfg, const struct dr_features *f,
                  struct dr_params *ps, struct dr_err *err);
    double learning_rate;
    double (*rate)(const struct dr_loss_config *cfg); // replaces learning_rate; NULL: that is it
    // Of a field that learns (DR_FIELD_REPORT): how many of its parameters belong to each feature,
    // in the features' order; NULL: it reports nothing.
    int (*params_each)(const struct dr_loss_config *cfg);
    bool one;   // there is one drift, whatever loss.temperatures lists
    bool mean;  // the loss is the mean over the features; else their sum
    bool plain; // V acts on the features themselves, so that it can be drawn (dr_trainer_field)
};
const struct dr_field_def *dr_field(int field); // enum dr_field
// How many V there are: one per temperature, or one.
static inline int dr_field_drifts(const struct dr_field_def *f, const struct dr_loss_config *cfg) {
    return f->one ? 1 : cfg->ntau;
}

// What a field that learns reports per feature, over the groups of all processes, to
// dr_drift_out.own: its objective; means of V K, V^2 and K^2, K the kernel field's drift of the
// same sets; the square of its gradient's norm, which the caller fills once all gradients are
// summed.
enum {
    DR_FIELD_OBJECTIVE,
    DR_FIELD_VK,
    DR_FIELD_VV,
    DR_FIELD_KK,
    DR_FIELD_GRADIENT,
    DR_FIELD_REPORT
};

#define X(ID, name, text) extern const struct dr_field_def dr_field_##name;
DR_FIELDS(X)
#undef X

// What the kernel fields share; field_kernel.c.

// Y = [neg ; unc ; pos], [B,M,S] in cx->tmp, U of the unconditional ones.
real *dr_drift_targets(struct dr_ctx *cx, const struct dr_drift_in *in, int64_t U);
// w = [1..1 ; w_unc..w_unc ; 1..1], [B,M] in cx->tmp, M = N + U + P; NULL when all are 1.
real *dr_drift_target_weights(struct dr_ctx *cx, const struct dr_drift_in *in);
// The kernel field's drift: total [B,N,S] = sum of V_tau over its RMS, of distances d [B,N,M] to
// targets y [B,M,S] with weights w (NULL: ones) at scale s. v2: [temperatures]. field: as in
// dr_drift_out.
struct dr_kernel_sets {
    const real *d, *y, *w, *scale;
};
void dr_kernel_drift(struct dr_ctx *cx, const struct dr_loss_config *cfg,
                     const struct dr_drift_in *in, const struct dr_kernel_sets *sets, real *total,
                     real *v2, real *field);
// The arguments of the coefficients that both take from the configuration.
struct dr_drift_coef_args dr_drift_coef_of(const struct dr_loss_config *cfg,
                                           const struct dr_drift_in *in, int64_t U);
// A copy of n reals for whoever asked for one; dst NULL: nothing.
void dr_drift_keep(struct dr_ctx *cx, real *dst, const real *src, int64_t n);
// {s, mean D, var D} of distances [B,N,M] over the groups of all processes; w NULL: ones.
void dr_drift_stats(struct dr_ctx *cx, const struct dr_drift_in *in, const real *d, const real *w,
                    int64_t M, real *stats);
