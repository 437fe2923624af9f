// How a training objective describes the numbers it reports per step: by name, so that a new one
// changes nothing about those already stored. Tables of these are constant and outlive everybody.
#pragma once

#define DR_MAX_METRICS 64

enum dr_metric_axis { DR_METRIC_LINEAR, DR_METRIC_LOG };

struct dr_metric_def {
    const char *name;         // [a-z0-9_]{1,31}, unique: "loss", "drift_norm_0"
    const char *unit;         // "", "s", "1/s"
    const char *help;         // one sentence for people who read the curve
    enum dr_metric_axis axis; // how its curve is drawn best
};
