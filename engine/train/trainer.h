// One training run (method.md 1): sampling of labels, alpha, noise and reals, forward, drifting
// loss, backward, clipping, AdamW, EMA; metrics; checkpoints and exact resume.
//
// A trainer belongs to one thread, the one that enters its backend; dr_trainer_snapshot's result
// may go anywhere. Nothing here opens sockets or makes policy.
#pragma once

#include "engine/config/config.h"
#include "engine/data/data.h"
#include "engine/sample/sampler.h"

struct dr_metrics {
    int64_t step; // number of the step that this tells of, from 1; 0: nothing to tell yet
    double loss;
    int ntau;
    double drift_norm[DR_MAX_TAU];             // sqrt(v2_tau), raw, averaged over features
    double feature_scale, dist_mean, dist_var; // of the first feature
    double grad_norm, lr, alpha_mean;
    double step_seconds, loss_seconds; // the drifting loss's share; NAN: not measured (devices)
    double
        spread; // within-class spread of generated over real, mean over classes; NAN: not measured
    double spread_min; // worst class
    bool finite;       // loss and gradient norm are finite
};
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

// The data set must outlive the trainer. Allocates everything a step needs (dry run first).
int dr_trainer_create(const struct dr_config *cfg, struct dr_backend *be,
                      const struct dr_dataset *data, struct dr_trainer **out, struct dr_err *err);
void dr_trainer_free(struct dr_trainer *t);
const struct dr_config *dr_trainer_config(const struct dr_trainer *t);
int64_t dr_trainer_steps_done(const struct dr_trainer *t);  // or started
int64_t dr_trainer_steps_total(const struct dr_trainer *t); // estimate when train.minutes rules
double
dr_trainer_seconds(const struct dr_trainer *t);       // training time so far, resumed time included
bool dr_trainer_finished(const struct dr_trainer *t); // by steps or by minutes
size_t dr_trainer_memory(const struct dr_trainer *t); // bytes held on the device
double dr_trainer_step_flops(const struct dr_trainer *t); // from the dry run
// One optimiser step. On the CPU it is done on return and *m tells of it; on a device it is
// started, and *m tells of the step before it (none yet: m->step 0), so that the device never waits
// for the host. A non-finite loss or gradient returns DR_ENONFINITE and leaves the weights as they
// were before that step; after any error there are no more steps until a load succeeds.
int dr_trainer_step(struct dr_trainer *t, struct dr_metrics *m, struct dr_err *err);
// The field of the last step, to be freed by the caller. NULL: no step yet, out of memory, or it is
// none to draw: the data are images, or the loss does not work on the bare coordinates
// (kernel-l2, sphere).
struct dr_drift_field *dr_trainer_field(struct dr_trainer *t);
// Waits for a step on its way and tells of it; m->step 0: there was none. Before a checkpoint, at
// the end, and wherever the last step's metrics or errors matter.
int dr_trainer_wait(struct dr_trainer *t, struct dr_metrics *m, struct dr_err *err);
// A copy of the EMA (which: index in ema.decay) to hand to samplers. NULL: out of memory.
struct dr_snapshot *dr_trainer_snapshot(struct dr_trainer *t, int which);
// Atomic write of weights, EMAs, optimiser state and positions. sha256_hex, bytes may be NULL.
int dr_trainer_save(struct dr_trainer *t, const char *path, char *sha256_hex, int64_t *bytes,
                    struct dr_err *err);
// Continues from a checkpoint of the same configuration: the losses that follow equal those of a
// run never stopped. Refuses one of another model, data set or seed, saying which,
// with the trainer untouched; after any other error its weights are undefined until a load
// succeeds.
int dr_trainer_load(struct dr_trainer *t, const char *path, struct dr_err *err);
