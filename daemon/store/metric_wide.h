// Metrics of several jobs as one table: a row per job and step, a column per metric.
#pragma once

#include "daemon/store/metric_store.h"

// Rows come job by job in the given order, steps ascending. They are read a part at a time, some
// hundred steps or all buckets of a job, each part over one connection to the database: little is
// in memory however long the runs are, and a slow reader holds nothing in the database. One thread.
struct dd_wide;
struct dd_wide_row {
    int64_t job, step, time_us; // step, time: of the last row in a bucket
    const char *run;            // the job's name; lives until the next call
    const double *value;        // [names]; means of buckets; NAN: not finite
    const bool *have;           // [names]; false: the job has nothing at this step
};
// jobs: count of them, 0: every job. names: count of them, 0: those that any of the jobs has.
// max_points as in dd_curve_open. DR_ENOENT with the field `jobs`, DR_EINVAL with `names`.
int dd_wide_open(struct dd_store *s, const int64_t *jobs, size_t njobs, const char *const *names,
                 size_t nnames, int64_t from, int64_t to, int max_points, struct dd_wide **out,
                 struct dr_err *err);
const char *const *dd_wide_names(const struct dd_wide *w, size_t *n);
int dd_wide_next(struct dd_wide *w, struct dd_wide_row *out); // 1, 0: end, -1: failed
// The same in milliseconds: 2: what comes next has been read in part, or not found yet; call again.
int dd_wide_try(struct dd_wide *w, struct dd_wide_row *out);
void dd_wide_close(struct dd_wide *w);
