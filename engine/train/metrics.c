// The metrics of a drifting run by name (trainer.h, dr_trainer_metrics).
#include "engine/train/trainer_priv.h"

#include <math.h>
#include <string.h>

#define NORM(k)                                                                                    \
    { "drift_norm_" #k, "", "drift norm of entry " #k " of loss.temperatures", DR_METRIC_LOG }
// The order of the rows is free: whoever stores values does it by name.
static const struct dr_metric_def table[] = {
    {"loss", "", "drifting loss; the drift is normalised, so it hardly moves while all goes well",
     DR_METRIC_LOG},
    {"drift_norm", "", "RMS of the drift before normalisation, mean over the temperatures",
     DR_METRIC_LOG},
    {"grad_norm", "", "norm of the gradient before clipping", DR_METRIC_LOG},
    {"lr", "", "learning rate", DR_METRIC_LINEAR},
    {"step_seconds", "s", "time of a training step", DR_METRIC_LINEAR},
    {"loss_seconds", "s", "time of the features and their losses within a step; CPU only",
     DR_METRIC_LINEAR},
    {"feature_scale", "", "mean weighted distance of the first feature, which sets its scale",
     DR_METRIC_LINEAR},
    {"dist_mean", "", "mean distance of the first feature's vectors", DR_METRIC_LINEAR},
    {"dist_var", "", "variance of those distances", DR_METRIC_LINEAR},
    {"alpha_mean", "", "mean guidance scale of the step's classes", DR_METRIC_LINEAR},
    {"spread", "", "within-class spread of generated over real samples; near 0 is collapse",
     DR_METRIC_LINEAR},
    {"spread_min", "", "spread of the class where it is lowest", DR_METRIC_LINEAR},
    NORM(0),
    NORM(1),
    NORM(2),
    NORM(3),
    NORM(4),
    NORM(5),
    NORM(6),
    NORM(7),
    NORM(8),
    NORM(9),
    NORM(10),
    NORM(11),
    NORM(12),
    NORM(13),
    NORM(14),
    NORM(15),
};
enum { FIXED = 12 };
_Static_assert(DR_COUNT(table) == FIXED + DR_MAX_TAU, "a row per temperature");
_Static_assert(DR_COUNT(table) <= DR_MAX_METRICS, "struct dr_metrics holds every metric");

const struct dr_metric_def *dr_trainer_metrics(const struct dr_trainer *t, int *n) {
    *n = FIXED + t->cfg.loss.ntau;
    return table;
}

double dr_metric(const struct dr_trainer *t, const struct dr_metrics *m, const char *name) {
    int n;
    const struct dr_metric_def *def = dr_trainer_metrics(t, &n);
    for (int i = 0; i < DR_MIN(n, m->n); i++)
        if (!strcmp(def[i].name, name))
            return m->measured >> i & 1 ? m->value[i] : NAN;
    return NAN;
}

static double mean_norm(const struct dr_metrics *m) {
    double sum = 0;
    for (int i = 0; i < m->ntau; i++)
        sum += m->drift_norm[i];
    return m->ntau ? sum / m->ntau : 0;
}

void trainer_name_metrics(const struct dr_trainer *t, bool spread, struct dr_metrics *m) {
    const struct {
        double value;
        bool measured;
    } row[FIXED] = {{m->loss, true},          {mean_norm(m), true},
                    {m->grad_norm, true},     {m->lr, true},
                    {m->step_seconds, true},  {m->loss_seconds, t->be->host_memory},
                    {m->feature_scale, true}, {m->dist_mean, true},
                    {m->dist_var, true},      {m->alpha_mean, true},
                    {m->spread, spread},      {m->spread_min, spread}};
    m->n = FIXED + m->ntau;
    m->measured = 0;
    for (int i = 0; i < m->n; i++) {
        m->value[i] = i < FIXED ? row[i].value : m->drift_norm[i - FIXED];
        m->measured |= (uint64_t)(i >= FIXED || row[i].measured) << i;
    }
}
