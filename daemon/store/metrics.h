// The columns of a metric row: one X-macro table, in the order of struct dd_row's v[]. Drift norms
// by temperature follow as drift_norm_0.., one per entry of loss.temperatures.
#pragma once

#include "daemon/base/ring.h"
#include "engine/train/trainer.h"

#define DD_METRICS(X)                                                                              \
    X(loss, m->loss)                                                                               \
    X(drift_norm, dd_mean_norm(m))                                                                 \
    X(grad_norm, m->grad_norm)                                                                     \
    X(lr, m->lr)                                                                                   \
    X(step_seconds, m->step_seconds)                                                               \
    X(loss_seconds, m->loss_seconds)                                                               \
    X(feature_scale, m->feature_scale)                                                             \
    X(dist_mean, m->dist_mean)                                                                     \
    X(dist_var, m->dist_var)                                                                       \
    X(alpha_mean, m->alpha_mean)                                                                   \
    X(spread, m->spread)                                                                           \
    X(spread_min, m->spread_min)

enum dd_metric {
#define X(name, expr) DD_M_##name,
    DD_METRICS(X)
#undef X
        DD_M_NORM0,
    DD_M_COUNT = DD_M_NORM0 + DR_MAX_TAU
};
_Static_assert(DD_M_COUNT <= DD_ROW_COLS, "a metric row holds every column");

const char *dd_metric_name(int column); // static text
int dd_metric_find(const char *name);   // -1: none
double dd_mean_norm(const struct dr_metrics *m);
// spread and spread_min are left out of the mask where they were not measured.
void dd_metric_row(const struct dr_metrics *m, int64_t job, double seconds, struct dd_row *row);
