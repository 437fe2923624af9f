// struct dr_metrics -> named columns (metrics.h).
#include "daemon/store/metrics.h"

#include "daemon/base/util.h"

#include <math.h>
#include <string.h>

static const char *const names[DD_M_COUNT] = {
#define X(name, expr) #name,
    DD_METRICS(X)
#undef X
        "drift_norm_0",
    "drift_norm_1",
    "drift_norm_2",
    "drift_norm_3",
    "drift_norm_4",
    "drift_norm_5",
    "drift_norm_6",
    "drift_norm_7",
    "drift_norm_8",
    "drift_norm_9",
    "drift_norm_10",
    "drift_norm_11",
    "drift_norm_12",
    "drift_norm_13",
    "drift_norm_14",
    "drift_norm_15",
};

const char *dd_metric_name(int column) {
    return column >= 0 && column < DD_M_COUNT ? names[column] : "";
}

int dd_metric_find(const char *name) {
    for (int i = 0; i < DD_M_COUNT; i++)
        if (!strcmp(name, names[i]))
            return i;
    return -1;
}

double dd_mean_norm(const struct dr_metrics *m) {
    double s = 0;
    for (int i = 0; i < m->ntau; i++)
        s += m->drift_norm[i];
    return m->ntau ? s / m->ntau : 0;
}

void dd_metric_row(const struct dr_metrics *m, int64_t job, double seconds, struct dd_row *row) {
    *row =
        (struct dd_row){.job = job, .step = m->step, .time_us = dd_wall_us(), .seconds = seconds};
#define X(name, expr) row->v[DD_M_##name] = (expr);
    DD_METRICS(X)
#undef X
    row->mask = (1u << DD_M_NORM0) - 1;
    if (isnan(m->spread))
        row->mask &= ~(1u << DD_M_spread | 1u << DD_M_spread_min);
    for (int i = 0; i < m->ntau; i++) {
        row->v[DD_M_NORM0 + i] = m->drift_norm[i];
        row->mask |= 1u << (DD_M_NORM0 + i);
    }
}
