// Training objectives: what a step draws, computes and reports. The trainer (trainer.c, setup.c,
// checkpoint.c) owns the rest: parameters, optimiser, averages, schedule, the slots of steps on
// their way, recording, checkpoints. A new objective is one file with its row (dr_objective_NAME),
// its line in the table of objective.c, and its tests.
//
// Everything here runs on the trainer's thread. `o` is the objective's own state.
#pragma once

#include "engine/core/comm.h"
#include "engine/core/reals.h"
#include "engine/loss/field.h"
#include "engine/nn/params.h"
#include "engine/train/trainer.h"

enum {
    TRAINER_SLOTS = 2,              // steps on their way, at most
    TRAINER_DEVICE = TRAINER_SLOTS, // the place of the inputs that is not a slot's
    TRAINER_PLACES,
    TRAINER_GROUPS = 4,
};

// Parameters that one AdamW updates, clipped by their own norm. The first group is the network that
// is served: it is averaged (ema.decay), and its tensors have no prefix in checkpoints.
struct dr_group {
    const char *name; // prefix in checkpoints, "NAME/"; "" for the first
    const struct dr_params *layout;
    double learning_rate; // times optim.lr
    // Device memory; the trainer's.
    real *w, *g, *m, *v;         // [layout->total]
    real *ema[DR_MAX_EMA];       // the first group's
    dr_bf16 *w16;                // with cx->act bf16, else NULL
    struct dr_weights weights;   // for forward passes: no gradients
    struct dr_weights gradients; // for backward passes
};

struct dr_objective_env {
    const struct dr_config *cfg; // these four outlive the objective
    const struct dr_dataset *data;
    struct dr_backend *be;
    struct dr_comm *comm;               // NULL: one process
    const struct dr_field_def *field;   // NULL: the one that loss.field names
    const struct dr_feature_kind *kind; // NULL: the one that features.kind names
    const char *encoder;                // file of the frozen encoder; NULL: features.encoder is it
};

// What device_step writes to, all zero on entry. Device pointers.
struct dr_step {
    struct dr_group *group; // gradients accumulate in group[i].g
    real *loss;             // [1] this process's share
    real *report;           // [report_count]
};

struct dr_identity {
    const char *name;        // "encoder"
    const char *description; // JSON
    const char *sha256;      // 64 hex digits
};

struct dr_objective {
    const char *name;
    // Checks the configuration against the data and allocates what is not laid out below.
    int (*create)(const struct dr_objective_env *env, void **o, struct dr_err *err);
    void (*destroy)(void *o); // NULL is fine
    // Fills name, layout and learning_rate of each group; returns how many.
    int (*groups)(const void *o, struct dr_group out[TRAINER_GROUPS]);
    // Constant table; loss, grad_norm, lr and step_seconds are in it and filled by the trainer.
    const struct dr_metric_def *(*metrics)(const void *o, int *n);
    // The same table before there is a trainer; *n may be larger, where it depends on the data.
    const struct dr_metric_def *(*reports)(const struct dr_config *cfg, int *n);
    int64_t (*report_count)(const void *o); // reals that a step reports beside the loss
    // Samples of a step here, and how many of them to run through the networks at a time.
    int64_t (*batch)(const void *o);
    int (*cut)(void *o, int64_t chunk, struct dr_err *err);
    // Device memory for the whole run; then, once per place (a slot's number or TRAINER_DEVICE), a
    // step's inputs from the host. Called several times, with measuring arenas first.
    void (*lay_out)(void *o, struct dr_arena *a);
    void (*lay_out_inputs)(void *o, int place, struct dr_arena *a);
    int (*start)(void *o, struct dr_err *err); // memory is there: constants go to the device

    // Fills the inputs of `slot` for the step after `done` steps: a function of the configuration,
    // the data, `done` and the saved state, so that a resumed run draws what the first one would.
    // Fails when the data set cannot be read.
    int (*draw)(void *o, int64_t done, int slot, struct dr_err *err);
    // The ops of a step through cx->be and nothing else of it, the same in every step: they are
    // recorded, and run once against the null backend to be measured.
    void (*device_step)(void *o, struct dr_ctx *cx, const struct dr_step *s);
    // More ops of the step, once gradients are the sums over all processes. NULL: none.
    void (*summed)(void *o, struct dr_ctx *cx, const struct dr_step *s);
    // After device_step of `step` was launched: more to bring back (download_later). NULL: nothing.
    void (*launched)(void *o, int64_t step, int slot);
    // Its metrics (dr_metric_set) of a step that has completed; ok: it is finite and without error.
    void (*read)(void *o, int slot, const real *report, bool ok, struct dr_metrics *m);

    size_t (*memory)(const void *o); // device bytes of its own; NULL: none
    // Whether a checkpoint of the configuration `theirs` continues this run; NULL: always.
    int (*same)(const void *o, const struct dr_config *theirs, const char *path,
                struct dr_err *err);
    // What the weights depend on beside configuration and data, as two words: metadata NAME and
    // NAME_sha256 of checkpoints, and a run of another sha256 does not continue them. False:
    // nothing.
    bool (*identity)(const void *o, struct dr_identity *out);
    // State beside parameters and step, a tensor of bytes of this name; size 0: none. NULL: none.
    const char *state_name;
    size_t (*state_size)(const void *o);
    void (*state_get)(const void *o, void *out);
    int (*state_set)(void *o, const void *in, size_t bytes, struct dr_err *err);
    // dr_trainer_snapshot; takes over w, [total] of the first group. NULL: nothing to serve.
    struct dr_snapshot *(*snapshot)(const void *o, real *w, int64_t step);
    struct dr_drift_field *(*field)(void *o, int64_t step); // dr_trainer_field; NULL: none
};

extern const struct dr_objective dr_objective_drift, dr_objective_classify, dr_objective_autoencode,
    dr_objective_both;
// What a configuration trains with: by its kind and, for encoders, encoder.objective.
const struct dr_objective *dr_objective_of(const struct dr_config *cfg);
const struct dr_objective *dr_objective_find(const char *name); // NULL: none of that name

// dr_trainer_create with parts given directly rather than by the configuration's words.
struct dr_trainer_parts {
    const struct dr_objective *objective; // NULL: dr_objective_of
    const struct dr_field_def *field;     // NULL: loss.field
    const struct dr_feature_kind *kind;   // NULL: features.kind
    struct dr_comm *comm;                 // NULL: one process
    const char *encoder;                  // file of features.encoder; NULL: that is its path
    bool (*go_on)(void *ctx);             // as in dr_trainer_files
    void *ctx;
};
int dr_trainer_create_of(const struct dr_trainer_parts *parts, const struct dr_config *cfg,
                         struct dr_backend *be, const struct dr_dataset *data,
                         struct dr_trainer **out, struct dr_err *err);

static inline void dr_metric_set(struct dr_metrics *m, int i, double value) {
    m->value[i] = value;
    m->measured |= (uint64_t)1 << i;
}
