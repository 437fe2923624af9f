// Rows of evaluations: the table `evals`, one row per run (a checkpoint or a folder of pictures at
// one guidance scale), and what the API serves of them (docs/api.md). Rows outlive the jobs and the
// checkpoints that they came from. Any thread; DR_E* with a sentence in err.
#pragma once

#include "daemon/store/events.h"
#include "engine/drift.h"
#include "engine/eval/eval.h"

#include <jansson.h>

// --- metrics by name ---

// What rows hold: the engine's metrics under their own names where a judge measured them, and those
// of Inception-v3 as fid, fid_inf and NAME_inception.
enum dd_eval_by { DD_EVAL_BY_JUDGE, DD_EVAL_BY_INCEPTION, DD_EVAL_BYS };
enum { DD_EVAL_NAME = 40 };
const char *dd_eval_metric_name(int metric, enum dd_eval_by by, char out[DD_EVAL_NAME]);
// 0, or DR_EINVAL at the field with the nearest word.
int dd_eval_metric_find(const char *name, int *metric, enum dd_eval_by *by, const char *field,
                        struct dr_err *err);
// "fd,fid" as bits for each judge; "all". DR_EINVAL at eval.metrics.
int dd_eval_metrics_parse(const char *list, unsigned out[DD_EVAL_BYS], struct dr_err *err);
// Whether a is better than b. Numbers only.
bool dd_eval_better(int metric, double a, double b);
json_t *dd_eval_metrics_json(void); // [{name, unit, help, better}]

// --- runs of a job ---

struct dd_eval_run {
    int64_t id, job, eval_job, checkpoint, step; // 0: none
    double alpha;
    char source[300]; // "checkpoint:7", "folder:PATH"
    char name[201], job_name[201];
    double started_us;
};
// Makes the rows that the job's configuration asks for and that are not there yet; those that a
// process left `running` are queued again, with `again` those that failed as well. DR_ENOENT and
// DR_EINVAL at eval.checkpoint or eval.job. A job with a parent has the rows that dd_eval_due made.
int dd_eval_plan(struct dd_store *s, int64_t eval_job, const struct dr_config *cfg, bool again,
                 struct dr_err *err);
// What eval.checkpoint, eval.job and eval.folder name is there: asked before a job is made. *data:
// the data section of the checkpoint's own configuration, new reference; NULL: not known.
int dd_eval_sources(struct dd_store *s, const char *data_dir, const struct dr_eval_section *e,
                    json_t **data, struct dr_err *err);
// A training job has a checkpoint to evaluate: adds its runs and queues the eval job, which is made
// by the first one. Both remember the job that trains the judge. *id: the eval job; *made: just
// now.
struct dd_eval_due {
    int64_t job, checkpoint, step;
    const char *name;            // of the training job
    const struct dr_config *cfg; // of the training job
    const char *config;          // of the eval job, as text
    const char *changed;         // of its defaults, as daemon/jobs/changed.h says
    int64_t needs;               // the job that trains the judge, 0: none
    int priority;
    int64_t id;
    bool made, queued; // out
};
int dd_eval_due(struct dd_store *s, struct dd_eval_due *d, struct dr_err *err);
// The next queued run, marked as running; id 0: none.
int dd_eval_next(struct dd_store *s, int64_t eval_job, struct dd_eval_run *out, struct dr_err *err);
// Runs of a job that are queued, and that are finished or have failed.
int dd_eval_counts(struct dd_store *s, int64_t eval_job, int64_t *waiting, int64_t *ended,
                   struct dr_err *err);
// How a run ended.
struct dd_eval_outcome {
    const char *comparable;
    json_t *settings, *training, *details; // borrowed
    double epoch, seconds;
    int n;
    struct dd_eval_number {
        char name[DD_EVAL_NAME];
        double value, stderr_, floor; // NaN: none
    } value[2 * DR_EVAL_METRICS];
    const char
        *best; // metric that says which checkpoint of the training job is the best; NULL: none
    int64_t since_best; // out: steps evaluated since the best one
    bool is_best;       // out
};
int dd_eval_finish(struct dd_store *s, const struct dd_eval_run *r, struct dd_eval_outcome *o,
                   struct dr_err *err);
int dd_eval_fail(struct dd_store *s, int64_t id, const char *why, struct dr_err *err);
// Back to the queue, after a stop.
int dd_eval_put_back(struct dd_store *s, int64_t id, double progress, struct dr_err *err);
// Another finished row of the same source, alpha, seed, weights and key; 0: none.
int64_t dd_eval_same(struct dd_store *s, const struct dd_eval_run *r, const char *comparable,
                     const char *weights, int64_t seed, struct dr_err *err);
int dd_eval_skip(struct dd_store *s, int64_t id, struct dr_err *err); // removes the queued row
int dd_eval_give_up(struct dd_store *s, int64_t eval_job, const char *why, struct dr_err *err);
void dd_eval_event(struct dd_events *e, const struct dd_eval_run *r, const char *state,
                   double progress);
// Means and last values of what the training job reported up to the run's step (docs/api.md).
json_t *dd_eval_training(struct dd_store *s, const struct dd_eval_run *r);

// --- reading ---

struct dd_eval_query {
    int64_t job, eval_job, checkpoint;               // 0: any; -1: none
    const char *state, *comparable, *data, *weights; // NULL: any
    double alpha;                                    // NaN: any
    int64_t n;                                       // 0: any
    const char *sort, *cursor;
    int limit;
};
json_t *dd_evals_json(struct dd_store *s, const struct dd_eval_query *q, char *next,
                      size_t next_size, struct dr_err *err);
json_t *dd_eval_json(struct dd_store *s, int64_t id, struct dr_err *err); // NULL: see err->code
int dd_eval_remove(struct dd_store *s, int64_t id, struct dr_err *err);
// A file of STATE_DIR/evals/ID; DR_ENOENT where name is none of them.
int dd_eval_file(struct dd_store *s, int64_t id, const char *name, char path[DD_PATH_MAX],
                 struct dr_err *err);
// metric NULL: fid where one of these rows has it, else fd. {"metric", "x", "series": [...]}
json_t *dd_eval_curve(struct dd_store *s, const struct dd_eval_query *q, const char *metric,
                      bool over_alpha, struct dr_err *err);
// The same as PNG (plot.c). *png is malloc'ed.
int dd_eval_plot(const json_t *curve, int64_t width, int64_t height, void **png, size_t *size,
                 struct dr_err *err);
// As CSV; *text is malloc'ed.
int dd_eval_csv(struct dd_store *s, const struct dd_eval_query *q, bool one_per_metric, char **text,
                size_t *size, struct dr_err *err);
