// What the files of engine/train share: the trainer's state. Nobody else includes this.
#pragma once

#include "engine/core/arena.h"
#include "engine/core/backend.h"
#include "engine/loss/drift.h"
#include "engine/loss/features.h"
#include "engine/nn/params.h"
#include "engine/train/trainer.h"

// What a step needs from the host, one block on either side, uploaded at once.
struct trainer_inputs {
    void *block;
    real *hyper, *alpha, *unc_weight; // [HYPER_COUNT], [B], [nclass]
    int32_t *cls;                     // [B]
    uint64_t *seed, *index;           // [B]
    int64_t *pos_ids, *unc_ids;       // [nclass * P], [U] rows of the data set
    void *rows; // the reals themselves, pos then unc, where the data set is not on the device
};

// A step on its way: its inputs, and what comes back. All page-locked.
struct trainer_slot {
    struct trainer_inputs in;
    real *report, *x; // [nreport], [B * image] for the spread
    int64_t step;     // its number, from 1; 0: nothing is on its way
    double lr, alpha_mean, started;
    bool spread;
};
enum { TRAINER_SLOTS = 2 };

struct dr_trainer {
    struct dr_config cfg;
    struct dr_backend *be;         // borrowed
    const struct dr_dataset *data; // borrowed
    struct dr_net *gen;
    struct dr_features *features;
    struct dr_reals *reals;
    struct dr_net_saved **saved; // one a chunk
    enum dr_dtype act;

    int64_t step;    // steps done or on their way
    int64_t stepped; // the last step started here, 0: none since the load
    double seconds, flops;
    int64_t nclass, N, P, U, B; // B = nclass * N
    int64_t chunk, nchunk, image, noise, nstyle;
    bool keep_all; // struct dr_ctx's
    bool streamed; // the data set is not in the device's memory: its rows travel with each step

    void *block, *scratch; // device memory: state and inputs; activations
    void *images;          // device memory: the data set; NULL: borrowed from the host, or streamed
    size_t block_bytes, scratch_bytes, images_bytes, in_bytes;
    struct dr_arena keep, tmp;
    struct dr_graph *graph; // of a step

    // device, in block
    struct trainer_inputs in;
    real *w, *g, *m, *v, *ema[DR_MAX_EMA], *tables, *report;
    real *guard; // [2]: 0 until a loss or gradient norm is not finite, NaN ever after
    dr_bf16 *w16;
    real *eps, *x, *dx, *neg, *pos, *unc;
    real *field; // [temperatures,B,2] for dr_trainer_field, NULL: not of this data and loss
    int32_t *style;
    const uint8_t *pixels; // the data set as the device sees it; one of the two
    const real *points;

    // host
    struct trainer_slot slot[TRAINER_SLOTS];
    int nslots; // 2: a step is started before the one before it is looked at
    int32_t *classes;
    real *real_rows; // scratch of the spread: [max(N, 32), image]
    int nreport;
    double loss_seconds, collected; // of the last step; when it was
    struct dr_metrics late;         // collected for a checkpoint; step 0: none
    int failed;                     // why no step can follow; 0: none failed
};

// Offsets in the device array `report`: [loss, sumsq, then per feature: v2[ntau], stats[3]].
static inline int report_feature(const struct dr_trainer *t, int feature) {
    return 2 + feature * (t->cfg.loss.ntau + 3);
}
// Offsets in the device array `hyper`: [lr, 1 - beta1^t, 1 - beta2^t, EMA decays...].
enum { HYPER_LR, HYPER_BC1, HYPER_BC2, HYPER_EMA, HYPER_COUNT = HYPER_EMA + DR_MAX_EMA };

// field.c: whether the samples are points whose drift can be drawn.
bool trainer_has_field(const struct dr_trainer *t);
// setup.c: where each part of a block of inputs lies; the same offsets on both sides.
void trainer_lay_out_inputs(const struct dr_trainer *t, struct trainer_inputs *in,
                            struct dr_arena *a);
// trainer.c: the ops of a whole step, through t->be.
void trainer_device_step(void *trainer);
// Waits for what is on its way and keeps its metrics for later.
int trainer_settle(struct dr_trainer *t, struct dr_err *err);
// draw.c: fills the inputs of step t->step, all but `hyper`, from Philox and the data set. Fails
// when the data set cannot be read.
int trainer_draw(struct dr_trainer *t, struct trainer_slot *s, struct dr_err *err);
// Its reals, from the data set into t->pos and t->unc.
void trainer_gather(struct dr_trainer *t);
// Noise and style indices of the generated batch (second: the independent negatives).
void trainer_noise(struct dr_trainer *t, bool second);
// metrics.c: fills n, value and measured from the named members.
void trainer_name_metrics(const struct dr_trainer *t, bool spread, struct dr_metrics *m);
// spread.c: within-class spread of generated over real images, mean and worst class.
void trainer_spread(struct dr_trainer *t, const struct trainer_slot *s, struct dr_metrics *m);
