// What a drifting step reports: the tables of its metrics, and their values from the device's
// report.
#include "engine/train/drift/drift.h"

#include <math.h>

enum {
    LOSS,
    NORM,
    GRAD_NORM,
    LR,
    STEP_SECONDS,
    LOSS_SECONDS,
    FEATURE_SCALE,
    DIST_MEAN,
    DIST_VAR,
    ALPHA_MEAN,
    SPREAD,
    SPREAD_MIN,
    ENCODER_SECONDS,
    NORM0
};
#define ROW_OF(k)                                                                                  \
    { "drift_norm_" #k, "", "drift norm of entry " #k " of loss.temperatures", DR_METRIC_LOG }
#define FIXED_ROWS                                                                                 \
    [LOSS] = {"loss", "",                                                                          \
              "drifting loss; the drift is normalised, so it hardly moves while all goes well",    \
              DR_METRIC_LOG},                                                                      \
    [NORM] = {"drift_norm", "",                                                                    \
              "RMS of the drift before normalisation, mean over the temperatures", DR_METRIC_LOG}, \
    [GRAD_NORM] = {"grad_norm", "", "norm of the gradient before clipping", DR_METRIC_LOG},        \
    [LR] = {"lr", "", "learning rate", DR_METRIC_LINEAR},                                          \
    [STEP_SECONDS] = {"step_seconds", "s", "time of a training step", DR_METRIC_LINEAR},           \
    [LOSS_SECONDS] = {"loss_seconds", "s",                                                         \
                      "time of the features and their losses within a step; CPU only",             \
                      DR_METRIC_LINEAR},                                                           \
    [FEATURE_SCALE] = {"feature_scale", "",                                                        \
                       "mean weighted distance of the first feature, which sets its scale",        \
                       DR_METRIC_LINEAR},                                                          \
    [DIST_MEAN] = {"dist_mean", "", "mean distance of the first feature's vectors",                \
                   DR_METRIC_LINEAR},                                                              \
    [DIST_VAR] = {"dist_var", "", "variance of those distances", DR_METRIC_LINEAR},                \
    [ALPHA_MEAN] = {"alpha_mean", "", "mean guidance scale of the step's classes",                 \
                    DR_METRIC_LINEAR},                                                             \
    [SPREAD] = {"spread", "",                                                                      \
                "within-class spread of generated over real samples; near 0 is collapse",          \
                DR_METRIC_LINEAR},                                                                 \
    [SPREAD_MIN] = {"spread_min", "", "spread of the class where it is lowest", DR_METRIC_LINEAR}, \
    [ENCODER_SECONDS] = {                                                                          \
        "encoder_seconds", "s",                                                                    \
        "time of the encoder within loss_seconds, its own training included; CPU only",            \
        DR_METRIC_LINEAR}

static const struct dr_metric_def defs[] = {
    FIXED_ROWS, [NORM0] = ROW_OF(0), ROW_OF(1),  ROW_OF(2),  ROW_OF(3),  ROW_OF(4),
    ROW_OF(5),  ROW_OF(6),           ROW_OF(7),  ROW_OF(8),  ROW_OF(9),  ROW_OF(10),
    ROW_OF(11), ROW_OF(12),          ROW_OF(13), ROW_OF(14), ROW_OF(15),
};
_Static_assert(DR_COUNT(defs) == NORM0 + DR_MAX_TAU, "a row per temperature");
_Static_assert(DR_COUNT(defs) <= DR_MAX_METRICS, "struct dr_metrics holds every metric");

// Of a field that learns: one drift, and what its operators report, of the first of them one by
// one.
enum { OBJECTIVE = NORM0 + 1, AGREEMENT, FIELD_GRADIENT, GRADIENT0, OPERATORS = 40 };
#define GRADIENT_OF(k)                                                                             \
    {                                                                                              \
        "field_grad_norm_" #k, "", "gradient norm of the field's operator of feature " #k,         \
            DR_METRIC_LOG                                                                          \
    }
#define GRADIENTS_OF(k)                                                                            \
    GRADIENT_OF(k##0), GRADIENT_OF(k##1), GRADIENT_OF(k##2), GRADIENT_OF(k##3), GRADIENT_OF(k##4), \
        GRADIENT_OF(k##5), GRADIENT_OF(k##6), GRADIENT_OF(k##7), GRADIENT_OF(k##8),                \
        GRADIENT_OF(k##9)
static const struct dr_metric_def learned[] = {
    FIXED_ROWS,
    [NORM0] = ROW_OF(0),
    [OBJECTIVE] = {"field_objective", "",
                   "what the field minimises, mean over the features: the error of its denoising "
                   "over that of no step at all, or of telling reals apart (docs/learned-field.md)",
                   DR_METRIC_LINEAR},
    [AGREEMENT] = {"field_agreement", "",
                   "cosine of the learned drift and the kernel field's, mean over the features",
                   DR_METRIC_LINEAR},
    [FIELD_GRADIENT] = {"field_grad_norm", "", "norm of the gradient of the field's parameters",
                        DR_METRIC_LOG},
    [GRADIENT0] = GRADIENTS_OF(),
    GRADIENTS_OF(1),
    GRADIENTS_OF(2),
    GRADIENTS_OF(3),
};
_Static_assert(DR_COUNT(learned) == GRADIENT0 + OPERATORS, "a row per operator");
_Static_assert(DR_COUNT(learned) <= DR_MAX_METRICS, "struct dr_metrics holds every metric");

// Of features whose encoder learns.
enum { ENCODER_LOSS = NORM0, ENCODER_RIGHT, ENCODER_GRADIENT, BESIDE_NORM0 };
static const struct dr_metric_def beside[] = {
    FIXED_ROWS,
    [ENCODER_LOSS] = {"encoder_loss", "",
                      "what the encoder minimises: telling reals from generated samples by kernel "
                      "densities; 1.386 is chance",
                      DR_METRIC_LINEAR},
    [ENCODER_RIGHT] = {"encoder_right", "",
                       "mean probability with which the encoder's densities name reals and "
                       "generated samples rightly; 0.5 is chance",
                       DR_METRIC_LINEAR},
    [ENCODER_GRADIENT] = {"encoder_grad_norm", "", "norm of the gradient of the encoder's weights",
                          DR_METRIC_LOG},
    [BESIDE_NORM0] = ROW_OF(0),
    ROW_OF(1),
    ROW_OF(2),
    ROW_OF(3),
    ROW_OF(4),
    ROW_OF(5),
    ROW_OF(6),
    ROW_OF(7),
    ROW_OF(8),
    ROW_OF(9),
    ROW_OF(10),
    ROW_OF(11),
    ROW_OF(12),
    ROW_OF(13),
    ROW_OF(14),
    ROW_OF(15),
};
_Static_assert(DR_COUNT(beside) == BESIDE_NORM0 + DR_MAX_TAU, "a row per temperature");
_Static_assert(DR_COUNT(beside) <= DR_MAX_METRICS, "struct dr_metrics holds every metric");

static int norm0(const struct drift *t) {
    return drift_learns_features(t) ? BESIDE_NORM0 : NORM0;
}

static int operators(const struct drift *t) {
    return DR_MIN(dr_features_count(t->features), OPERATORS);
}

// Of a step whose features' encoder learns, or whose field does with so many operators.
static const struct dr_metric_def *rows(bool encoder_learns, bool field_learns, int drifts,
                                        int noperators, int *n) {
    if (encoder_learns) {
        *n = BESIDE_NORM0 + drifts;
        return beside;
    }
    *n = field_learns ? GRADIENT0 + noperators : NORM0 + drifts;
    return field_learns ? learned : defs;
}

const struct dr_metric_def *drift_metrics(const void *o, int *n) {
    const struct drift *t = o;
    return rows(drift_learns_features(t), t->field->params_each, drift_count(t), operators(t), n);
}

const struct dr_metric_def *drift_reports(const struct dr_config *cfg, int *n) {
    const struct dr_field_def *field = dr_field(cfg->loss.field);
    return rows(dr_feature_kind(cfg->features.kind)->learns, field->params_each,
                dr_field_drifts(field, &cfg->loss), OPERATORS, n);
}

static void read_field(const struct drift *t, const real *report, struct dr_metrics *m) {
    const int features = dr_features_count(t->features);
    double objective = 0, agreement = 0, all = 0;
    for (int f = 0; f < features; f++) {
        const real *own = report + drift_report_own(t, f);
        const double size = sqrt((double)own[DR_FIELD_VV] * (double)own[DR_FIELD_KK]);
        const double square = (double)own[DR_FIELD_GRADIENT];
        objective += (double)own[DR_FIELD_OBJECTIVE] / features;
        agreement += size > 0 ? (double)own[DR_FIELD_VK] / size / features : 0;
        all += square;
        if (f < operators(t))
            dr_metric_set(m, GRADIENT0 + f, sqrt(square));
    }
    dr_metric_set(m, OBJECTIVE, objective);
    dr_metric_set(m, AGREEMENT, agreement);
    dr_metric_set(m, FIELD_GRADIENT, sqrt(all));
}

static void read_encoder(const struct drift *t, const real *report, struct dr_metrics *m) {
    const real *own = report + drift_report_encoder(t);
    dr_metric_set(m, ENCODER_LOSS, (double)own[DRIFT_ENCODER_LOSS]);
    dr_metric_set(m, ENCODER_RIGHT, 1 - (double)own[DRIFT_ENCODER_WRONG]);
    dr_metric_set(m, ENCODER_GRADIENT, sqrt((double)own[DRIFT_ENCODER_GRADIENT]));
}

void drift_read(void *o, int slot, const real *report, bool ok, struct dr_metrics *m) {
    struct drift *t = o;
    const int features = dr_features_count(t->features), ntau = drift_count(t);
    const real *stats = report + drift_report(t, 0) + ntau;
    double sum = 0;
    m->ntau = ntau;
    for (int f = 0; f < features; f++)
        for (int k = 0; k < ntau; k++)
            m->drift_norm[k] += sqrt((double)report[drift_report(t, f) + k]) / features;
    for (int k = 0; k < ntau; k++) {
        dr_metric_set(m, norm0(t) + k, m->drift_norm[k]);
        sum += m->drift_norm[k];
    }
    dr_metric_set(m, NORM, ntau ? sum / ntau : 0);
    dr_metric_set(m, FEATURE_SCALE, m->feature_scale = (double)stats[0]);
    dr_metric_set(m, DIST_MEAN, m->dist_mean = (double)stats[1]);
    dr_metric_set(m, DIST_VAR, m->dist_var = (double)stats[2]);
    dr_metric_set(m, ALPHA_MEAN, m->alpha_mean = t->slot[slot].alpha_mean);
    if (t->be->host_memory)
        dr_metric_set(m, LOSS_SECONDS, m->loss_seconds = t->loss_seconds);
    if (t->be->host_memory && dr_features_params(t->features))
        dr_metric_set(m, ENCODER_SECONDS, t->encoder_seconds);
    if (drift_learns_features(t))
        read_encoder(t, report, m);
    else if (t->field->params_each)
        read_field(t, report, m);
    if (!ok)
        drift_cache_forget(t);
    if (!ok || !t->slot[slot].spread)
        return;
    if (!drift_spread(t, slot, m))
        return;
    dr_metric_set(m, SPREAD, m->spread);
    dr_metric_set(m, SPREAD_MIN, m->spread_min);
}
