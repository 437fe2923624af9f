// The drifting objective's state, private to engine/train/drift (method.md 1).
#pragma once

#include "engine/nn/net.h"
#include "engine/train/objective.h"

// What a step needs from the host.
struct drift_inputs {
    real *alpha, *unc_weight;   // [B], [nclass]
    int32_t *cls;               // [B]
    uint64_t *seed, *index;     // [B]
    uint64_t *key;              // {seed, step} of what the field draws; NULL: it draws nothing
    int64_t *pos_ids, *unc_ids; // [nclass * P], [U] rows of the data set
    int32_t *view;   // [nclass * P + U, 3] how they are seen, pos then unc; NULL: as stored
    int64_t *cached; // [nclass * P + U] their rows in the cache, pos then unc; NULL: there is none
    void *rows;      // the reals themselves, pos then unc, where the data set is not on the device
};

// The reals on the device; reals.c.
struct drift_reals {
    const struct dr_dataset *data; // borrowed
    struct dr_reals *draw;
    bool streamed;         // the data set does not fit the device: its rows travel with each step
    void *images;          // device memory: the data set; NULL: borrowed from the host, or streamed
    const uint8_t *pixels; // the data set as the device sees it; one of the two
    const real *points;
    size_t bytes; // of images
};

// The network that a feature kind runs; encoder.c. All NULL where it runs none.
struct drift_encoder {
    struct dr_net *net;
    real *weights; // host, until they are on the device
    char sha256[65];
};

// The features of reals that have been drawn before; cache.c.
struct drift_cache {
    bool on;
    int64_t variants; // rows per real: as it is, and mirrored
    void *block;
    size_t bytes;
    real **feature;   // [features] of [n * variants, T, S]
    uint8_t *have;    // [n * variants]
    int64_t *missing; // [nclass * P + U] scratch
};

struct drift {
    const struct dr_config *cfg;
    struct dr_backend *be;
    struct dr_comm *comm;
    const struct dr_field_def *field;
    struct dr_params field_params; // field->params; else empty
    struct dr_net *gen;
    struct dr_features *features;
    struct drift_encoder frozen;
    struct drift_cache cache;
    struct dr_net_saved **saved; // one per chunk
    struct dr_maps kept;         // of the generated images
    struct dr_maps kept_reals;   // of the positives, where the encoder learns from them
    struct drift_reals reals;

    // Classes of a step: all of them, and from which one on those of this process.
    int64_t classes, first, nclass;
    int64_t N, P, U, B; // per class; B = nclass * N
    int64_t chunk, nchunk, image, noise, nstyle;
    int64_t nreport;

    struct drift_inputs in[TRAINER_PLACES];
    // device
    real *tables, *eps, *x, *dx, *neg, *pos, *unc, *encoder;
    dr_bf16 *encoder16;
    real *v;      // [drifts,B,2] for dr_trainer_field, NULL: not of this data and loss
    real *report; // of the step; set when its ops are called
    int32_t *style;

    // host
    int32_t *class;                       // [classes]
    int64_t *ids;                         // [classes * P]
    real *real_rows;                      // scratch of the spread: [max(N, 32), image]
    double loss_seconds, encoder_seconds; // the latter are part of the former
    struct {
        real *x; // [B * image] for the spread, page-locked; NULL: never measured
        double alpha_mean;
        bool spread;
    } slot[TRAINER_SLOTS];
};

static inline int drift_count(const struct drift *t) {
    return dr_field_drifts(t->field, &t->cfg->loss);
}
// Offsets in the report: per feature v2[drifts], stats[3] and, of a field that learns,
// own[DR_FIELD_REPORT].
static inline int drift_report(const struct drift *t, int feature) {
    return feature * (drift_count(t) + 3 + (t->field->params_each ? DR_FIELD_REPORT : 0));
}
static inline int drift_report_own(const struct drift *t, int feature) {
    return drift_report(t, feature) + drift_count(t) + 3;
}
// After those, of an encoder that learns: what kde.h accumulates, and the square of its gradient's
// norm.
enum { DRIFT_ENCODER_LOSS, DRIFT_ENCODER_WRONG, DRIFT_ENCODER_GRADIENT, DRIFT_ENCODER_REPORT };
static inline int drift_report_encoder(const struct drift *t) {
    return drift_report(t, dr_features_count(t->features));
}
static inline bool drift_learns_features(const struct drift *t) {
    return dr_features_learns(t->features);
}
// The encoder's among the groups of parameters, where it learns.
static inline int drift_encoder_group(const struct drift *t) {
    return t->field->params ? 2 : 1;
}
static inline int64_t drift_groups(const struct drift *t, int64_t locations) {
    return t->classes * locations; // of all processes
}
static inline struct drift_inputs *drift_device(struct drift *t) {
    return &t->in[TRAINER_DEVICE];
}

// reals.c
int drift_reals_open(struct drift *t, const struct dr_dataset *data, struct dr_err *err);
void drift_reals_close(struct drift *t);
int drift_kind(const struct drift *t); // enum dr_kind of the samples
void drift_lay_out_rows(struct drift *t, struct drift_inputs *in, struct dr_arena *a);
int drift_copy_rows(const struct drift *t, const struct drift_inputs *in, struct dr_err *err);
void drift_gather(struct drift *t, struct dr_ctx *cx); // into t->pos and t->unc
// encoder.c. side: of the images. Errors carry the field features.encoder.
int drift_encoder_open(struct drift_encoder *e, const char *path, int64_t side, struct dr_err *err);
void drift_encoder_loaded(struct drift_encoder *e); // the device has the weights
void drift_encoder_close(struct drift_encoder *e);
// cache.c
int drift_cache_open(struct drift *t, struct dr_err *err); // leaves it off where it does not pay
void drift_cache_close(struct drift *t);
void drift_cache_forget(struct drift *t);
void drift_cache_rows(const struct drift *t, const struct drift_inputs *in); // fills in->cached
// Extracts those of t->pos and t->unc that are not there yet.
void drift_cache_fill(struct drift *t, struct dr_ctx *cx, const struct dr_weights *w);
// As dr_features_vectors, of the step's reals [from, from + groups * n), pos then unc.
void drift_cache_vectors(struct drift *t, struct dr_ctx *cx, int f, int64_t from, int64_t groups,
                         int64_t n, real *out);
// draw.c
int drift_draw(void *o, int64_t done, int slot, struct dr_err *err);
// Noise and style indices of the generated batch (second: the independent negatives).
void drift_noise(struct drift *t, struct dr_ctx *cx, bool second);
// step.c
void drift_device_step(void *o, struct dr_ctx *cx, const struct dr_step *s);
void drift_summed(void *o, struct dr_ctx *cx, const struct dr_step *s);
// learn.c: the encoder's own objective, on the maps of the generated images and of the positives.
void drift_learn(struct drift *t, struct dr_ctx *cx, const struct dr_step *s,
                 const struct dr_maps *gen, const struct dr_maps *pos);
// metrics.c
const struct dr_metric_def *drift_metrics(const void *o, int *n);
const struct dr_metric_def *drift_reports(const struct dr_config *cfg, int *n);
void drift_read(void *o, int slot, const real *report, bool ok, struct dr_metrics *m);
// spread.c: within-class spread of generated over real images, mean and worst class. False: the
// data set could not be read.
bool drift_spread(struct drift *t, int slot, struct dr_metrics *m);
// view.c
bool drift_has_view(const struct drift *t); // the samples are points whose drift can be drawn
struct dr_drift_field *drift_view(void *o, int64_t step);
