// One operator of the learned field on host arrays: its parameters, and a call of the field.
#pragma once

#include "engine/loss/field.h"
#include "tests/loss/ref.h"

struct learned {
    struct dr_loss_config cfg;
    struct dr_params layout;
    real *w, *g; // [layout.total]
    uint64_t key[2];
};
// An operator on features of width s: cfg->ldf says which. Weights as a run's with that seed.
void learned_open(struct learned *l, const struct dr_loss_config *cfg, int64_t s, uint64_t seed);
void learned_close(struct learned *l);

struct learned_out {
    real loss, v2[DR_MAX_TAU], stats[3], own[DR_FIELD_REPORT];
    real *dgen, *v; // [B,N,S]; freed by learned_drop
};
// Gradients accumulate in l->g. Learns when `in` has a key.
void learned_run(struct rig *r, struct learned *l, const struct dr_drift_in *in,
                 struct learned_out *out);
void learned_drop(struct learned_out *out);
