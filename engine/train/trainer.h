// One training run, of a generator (method.md 1): sampling of labels, alpha, noise and reals,
// forward, drifting loss, backward, clipping, AdamW, EMA; or of an encoder or judge (method.md 7;
// `kind: encoder`). Metrics; checkpoints and exact resume.
//
// A trainer belongs to one thread, the one that enters its backend; dr_trainer_snapshot's result
// may go anywhere. Nothing here opens sockets or makes policy.
#pragma once

#include "engine/config/config.h"
#include "engine/core/metric.h"
#include "engine/data/data.h"
#include "engine/sample/sampler.h"

// What a step measured, in the order of dr_trainer_metrics.
struct dr_metrics {
    int64_t step;                 // the step these metrics describe, from 1; 0: none yet
    bool finite;                  // loss and gradient norm are finite
    int n;                        // entries of value
    uint64_t measured;            // bit i: this step measured value[i]
    double value[DR_MAX_METRICS]; // not finite: measured, and so it came out

    // The same by member, for who has not moved to names yet.
    double loss;
    int ntau;
    double drift_norm[DR_MAX_TAU];
    double feature_scale, dist_mean, dist_var, grad_norm, lr, alpha_mean, step_seconds;
    double loss_seconds, spread, spread_min; // NAN: not measured
};
_Static_assert(DR_MAX_METRICS <= 64, "dr_metrics.measured has a bit per metric");
struct dr_trainer;

// The drift of the last step of a two-dimensional toy, in the data's own units (paper, Fig. 3): a
// sample at x was sent towards x + v, where v sums the temperatures' V before their normalisation.
struct dr_drift_field {
    int64_t step, n, p; // step whose batch this is; generated samples; reals
    real at[];          // x [n,2], v [n,2], reals [p,2]
};
static inline size_t dr_drift_field_bytes(const struct dr_drift_field *f) {
    return sizeof *f + (size_t)(4 * f->n + 2 * f->p) * sizeof(real);
}

// The SHA-256 of the encoder inside a network and its weights, as extraction from images of this
// side uses them: what a generator's checkpoint holds as `driftd.encoder_sha256`. EINVAL for a
// network without one. Any thread.
int dr_encoder_identity(const struct dr_snapshot *snap, int64_t side, char sha256_hex[65],
                        struct dr_err *err);
// The data set must outlive the trainer. Allocates everything a step needs (dry run first).
int dr_trainer_create(const struct dr_config *cfg, struct dr_backend *be,
                      const struct dr_dataset *data, struct dr_trainer **out, struct dr_err *err);
// Files that a configuration names in words which only its user can look up; NULL: none.
struct dr_trainer_files {
    const char *encoder; // of features.encoder; NULL: that is the path
    // Asked now and then while weights are made, which of very large networks takes minutes: false
    // ends it with ECANCELED. NULL: nobody is asked.
    bool (*go_on)(void *ctx);
    void *ctx;
};
int dr_trainer_create_from(const struct dr_trainer_files *files, const struct dr_config *cfg,
                           struct dr_backend *be, const struct dr_dataset *data,
                           struct dr_trainer **out, struct dr_err *err);
void dr_trainer_free(struct dr_trainer *t);
// Before the first step: weights and averages become those of a checkpoint or another safetensors
// file (the served average of a checkpoint), found by name, behind a prefix where an import would
// find them there. A tensor of another shape is an error that names it, and so is a file without
// any of this network's tensors; `note` names those that are missing and keep their initial values,
// "" when there are none.
int dr_trainer_init_from(struct dr_trainer *t, const char *path, char note[400],
                         struct dr_err *err);
const struct dr_config *dr_trainer_config(const struct dr_trainer *t);
// The metrics of this run's steps; *n: how many. The table is constant and outlives the trainer.
const struct dr_metric_def *dr_trainer_metrics(const struct dr_trainer *t, int *n);
// Those that a run of this configuration would have, perhaps with some more at the end.
const struct dr_metric_def *dr_train_metrics(const struct dr_config *cfg, int *n);
// The value of the metric called `name`; NAN where m has none or did not measure it.
double dr_metric(const struct dr_trainer *t, const struct dr_metrics *m, const char *name);
// Sets the metric called `name`, for what is measured between steps; false: this run has none.
bool dr_metric_put(const struct dr_trainer *t, struct dr_metrics *m, const char *name,
                   double value);
int64_t dr_trainer_steps_done(const struct dr_trainer *t);  // or started
int64_t dr_trainer_steps_total(const struct dr_trainer *t); // estimate when train.minutes rules
double
dr_trainer_seconds(const struct dr_trainer *t); // training time so far, resumed time included
// After a load of a file that does not say: the time so far, for what is shown. Without effect
// where train.minutes makes the time a part of the run.
void dr_trainer_seconds_before(struct dr_trainer *t, double seconds);
bool dr_trainer_finished(const struct dr_trainer *t);     // by steps or by minutes
size_t dr_trainer_memory(const struct dr_trainer *t);     // bytes held on the device
double dr_trainer_step_flops(const struct dr_trainer *t); // from the dry run
// One optimiser step. On the CPU the step has completed on return and *m holds its metrics; on a
// device it has been started and *m describes the step before it (m->step 0: there was none), so
// that the device never waits for the host. A non-finite loss or gradient returns DR_ENONFINITE
// with *m holding that step's values, and leaves the weights as they were before that step. After
// any error there are no more steps until a load succeeds; m->step is 0 in those that follow.
int dr_trainer_step(struct dr_trainer *t, struct dr_metrics *m, struct dr_err *err);
// The field of the last step, to be freed by the caller. NULL: no step yet, out of memory, or it is
// none to draw: the data are images, or the loss does not work on the bare coordinates
// (kernel-l2, sphere).
struct dr_drift_field *dr_trainer_field(struct dr_trainer *t);
// Waits for a step that has been started and fills *m with its metrics, also with DR_ENONFINITE;
// m->step 0: there was none. Before a checkpoint, at the end, and wherever the last step's metrics
// or errors matter.
int dr_trainer_wait(struct dr_trainer *t, struct dr_metrics *m, struct dr_err *err);
// A copy of the EMA (which: index in ema.decay) to hand to samplers. NULL: out of memory, or the
// device has failed, which the next step or wait says.
struct dr_snapshot *dr_trainer_snapshot(struct dr_trainer *t, int which);
// Atomic write of weights, EMAs, optimiser state and positions. sha256_hex, bytes may be NULL.
int dr_trainer_save(struct dr_trainer *t, const char *path, char *sha256_hex, int64_t *bytes,
                    struct dr_err *err);
// Continues from a checkpoint of the same configuration: the losses that follow equal those of a
// run never stopped. Refuses one of another model, data set or seed, saying which,
// with the trainer untouched; after any other error its weights are undefined until a load
// succeeds.
int dr_trainer_load(struct dr_trainer *t, const char *path, struct dr_err *err);
