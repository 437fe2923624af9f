// Metrics in the store: batches in, roll-ups of 64, 512 and 4096 steps, retention, curves out.
#pragma once

#include "daemon/store/store.h"

// A flush: rows of one or several jobs in step order.
struct dd_metric_batch {
    int n;
    int64_t
        keep_steps; // raw rows older than this many steps are dropped (in whole roll-up buckets)
    struct dd_row row[];
};
// dd_store_fn; arg: struct dd_metric_batch. Raw rows and roll-ups in the same transaction, and the
// jobs' step and seconds.
int dd_metrics_insert(sqlite3 *db, void *arg, struct dr_err *err);

// dd_store_fn; arg: struct dd_metric_cut. Forgets everything after `step` before a resumed job
// counts on from there; roll-up buckets that the cut goes through are built again from raw rows.
struct dd_metric_cut {
    int64_t job, step;
};
int dd_metrics_truncate(sqlite3 *db, void *arg, struct dr_err *err);

// A curve: buckets in (name, step) order. max_points 0: raw rows.
//
// Rows are read a page at a time, each page in a read transaction of its own, so a slow reader
// holds nothing in the database. What is removed meanwhile (retention, the job) is missing from the
// pages that follow; what is added behind the reader's place is read.
struct dd_curve;
struct dd_bucket {
    const char *name; // lives as long as the curve
    int64_t step, step_last, time_us, n, nonfinite;
    double min, max, mean, last; // NAN where no finite value
};
// names: count of them; 0: every metric the job has. An unknown one: DR_EINVAL with field `names`.
int dd_curve_open(struct dd_store *s, int64_t job, const char *const *names, size_t count,
                  int64_t from, int64_t to, int max_points, struct dd_curve **out,
                  struct dr_err *err);
int dd_curve_next(struct dd_curve *c, struct dd_bucket *out); // 1, 0: end, -1: failed
void dd_curve_close(struct dd_curve *c);
