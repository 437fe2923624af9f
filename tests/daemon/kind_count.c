// A job kind for the tests: counts to train.steps and reports the count as its loss. All that a
// kind takes is this file and its row in a table.
#include "tests/daemon/kind_count.h"

#include "daemon/base/util.h"
#include "daemon/store/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { STEP_US = 2000 };

static const struct dr_metric_def metrics[] = {
    {"count", "", "how far it has counted", DR_METRIC_LINEAR}};

static int64_t steps(const struct dr_config *cfg) {
    return cfg->train.steps;
}

static int64_t saved(const char *file) {
    char *text;
    struct dr_err err;
    if (dd_read_file(file, 100, &text, NULL, &err))
        return 0;
    int64_t at = strtoll(text, NULL, 10);
    free(text);
    return at;
}

static int save(struct dd_job *job, const char *file, int64_t at, struct dr_err *err) {
    char text[24];
    int n = snprintf(text, sizeof text, "%lld", (long long)at);
    dd_job_flush(job);
    int rc = dd_mkdir_for(file, err);
    return rc ? rc : dd_write_file(file, text, (size_t)n, err);
}

static int count(struct dd_job *job, const char *file, enum dd_outcome *outcome,
                 struct dr_err *err) {
    int64_t at = job->resume ? saved(file) : 0, total = steps(&job->cfg);
    dd_job_metrics(job, metrics, 1);
    int rc = dd_job_started(job, at, total, NULL, NULL, err);
    if (rc)
        return rc;
    for (; at < total; usleep(STEP_US)) {
        if (dd_job_wish(job) == DD_WISH_STOP) {
            *outcome = DD_RUN_STOPPED;
            return save(job, file, at, err);
        }
        struct dd_row row = {.job = job->id,
                             .step = ++at,
                             .time_us = dd_wall_us(),
                             .table = job->metrics,
                             .mask = 1,
                             .v = {(double)at}};
        dd_job_row(job, &row, total);
    }
    *outcome = DD_RUN_COMPLETED;
    return 0;
}

static int run(struct dd_job *job, enum dd_outcome *outcome, struct dr_err *err) {
    char *folder = dd_job_folder(job, "checkpoints"), *file = dd_printf("%s/count", folder);
    int rc = count(job, file, outcome, err);
    free(file);
    free(folder);
    return rc;
}

const struct dd_job_kind kind_count = {.name = "count",
                                       .about = "Counts.",
                                       .section = "train",
                                       .steps = steps,
                                       .run = run,
                                       .resumes = true};
