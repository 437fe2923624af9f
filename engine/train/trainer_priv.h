// What the files of the trainer's loop share. Objectives see objective.h instead.
#pragma once

#include "engine/train/objective.h"

// A step on its way: what it needs from the host, one block, and what comes back. Page-locked.
struct trainer_slot {
    void *inputs;
    real *hyper;  // at the front of inputs
    real *report; // [nreport]
    int64_t step; // its number, from 1; 0: nothing is on its way
    double lr, started;
};

// A run of the step's ops: of the step itself, or the dry run.
struct trainer_pass {
    struct dr_trainer *t;
    struct dr_ctx cx;
};

enum trainer_metric { TRAINER_LOSS, TRAINER_GRAD_NORM, TRAINER_LR, TRAINER_SECONDS, TRAINER_OWN };

struct dr_trainer {
    struct dr_config cfg;
    struct dr_backend *be;         // borrowed
    const struct dr_dataset *data; // borrowed
    const struct dr_objective *objective;
    void *o; // the objective's

    int64_t step;    // steps done or on their way
    int64_t stepped; // the last step started here, 0: none since the load
    double seconds, flops;
    struct dr_group group[TRAINER_GROUPS];
    int ngroups;
    int at[TRAINER_OWN]; // where the trainer's metrics lie in the objective's table
    int nmetrics;

    void *block, *scratch; // device memory: state and inputs; activations
    size_t block_bytes, scratch_bytes, in_bytes;
    struct dr_arena keep, tmp;
    struct trainer_pass pass;
    struct dr_graph *graph; // of a step

    // device, in block
    void *inputs;
    real *hyper;  // at the front of inputs
    real *report; // [nreport]
    real *guard;  // [2]: 0 until a loss or gradient norm is not finite, NaN ever after

    // host
    struct trainer_slot slot[TRAINER_SLOTS];
    int nslots; // 2: a step is started before the one before it is looked at
    int64_t nreport;
    double collected;       // when the last step was collected
    struct dr_metrics late; // collected for a checkpoint; step 0: none
    int failed;             // why no step can follow; 0: none failed
};

// The device array `report`: [loss, sumsq of each group, then the objective's own].
static inline int64_t report_own(const struct dr_trainer *t) {
    return 1 + t->ngroups;
}
// The device array `hyper`: {lr, 1 - beta1^t, 1 - beta2^t} of each group, then the EMA decays.
enum { HYPER_EACH = 3 };
static inline int64_t hyper_ema(const struct dr_trainer *t) {
    return HYPER_EACH * t->ngroups;
}
static inline int64_t hyper_count(const struct dr_trainer *t) {
    return hyper_ema(t) + DR_MAX_EMA;
}

// trainer.c: the ops of a whole step; pass: struct trainer_pass.
void trainer_device_step(void *pass);
// Waits for what is on its way and keeps its metrics for later.
int trainer_settle(struct dr_trainer *t, struct dr_err *err);
// setup.c: the rounded copies of the weights that bf16 multiplies.
void trainer_round_weights(struct dr_trainer *t);
// schedule.c: learning rates and decays of the step that comes next, into the slot.
void trainer_fill_hyper(const struct dr_trainer *t, struct trainer_slot *s);
