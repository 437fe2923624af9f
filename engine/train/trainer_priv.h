// What the files of engine/train share: the trainer's state. Nobody else includes this.
#pragma once

#include "engine/core/arena.h"
#include "engine/loss/drift.h"
#include "engine/loss/features.h"
#include "engine/train/trainer.h"

struct dr_trainer {
    struct dr_config cfg;
    struct dr_backend *be;         // borrowed
    const struct dr_dataset *data; // borrowed
    struct dr_gen *gen;
    struct dr_features *features;
    struct dr_reals *reals;
    struct dr_gen_saved **saved; // one a chunk
    enum dr_dtype act;

    int64_t step;    // steps done
    int64_t stepped; // the last step done here, 0: none since the load
    double seconds, flops;
    int64_t nclass, N, P, U, B; // B = nclass * N
    int64_t chunk, nchunk, image, noise, nstyle;

    void *block, *scratch; // device memory: state and inputs; activations
    size_t block_bytes, scratch_bytes;
    struct dr_arena keep, tmp;

    // device, in block
    real *w, *g, *m, *v, *ema[DR_MAX_EMA], *tables, *hyper, *report;
    dr_bf16 *w16;
    real *eps, *alpha, *x, *dx, *neg, *pos, *unc, *unc_weight;
    real *field; // [temperatures,B,2] for dr_trainer_field, NULL: not of this data and loss
    int32_t *cls, *style;
    uint64_t *seed, *index;

    // host staging
    real *h_alpha, *h_pos, *h_unc, *h_x, *h_unc_weight, *h_report;
    int32_t *h_cls, *classes;
    uint64_t *h_seed, *h_index;
    int64_t *pos_ids, *unc_ids;
    int nreport;
    double class_alpha_mean;
};

// Offsets in the device array `report`: [loss, sumsq, then per feature: v2[ntau], stats[3]].
static inline int report_feature(const struct dr_trainer *t, int feature) {
    return 2 + feature * (t->cfg.loss.ntau + 3);
}
// Offsets in the device array `hyper`: [lr, 1 - beta1^t, 1 - beta2^t, EMA decays...].
enum { HYPER_LR, HYPER_BC1, HYPER_BC2, HYPER_EMA, HYPER_COUNT = HYPER_EMA + DR_MAX_EMA };

// field.c: whether the samples are points whose drift can be drawn.
bool trainer_has_field(const struct dr_trainer *t);
// draw.c: fills the host staging of step t->step from Philox and the data set, and uploads it.
void trainer_draw(struct dr_trainer *t);
// Noise and style indices of the generated batch (second: the independent negatives).
void trainer_noise(struct dr_trainer *t, bool second);
// spread.c: within-class spread of generated over real images, mean and worst class.
void trainer_spread(struct dr_trainer *t, struct dr_metrics *m);
