// The running daemon: what serve.c builds and the files of http/ show to HTTP.
#pragma once

#include "api/api.h"
#include "daemon/base/options.h"
#include "daemon/base/recipe.h"
#include "daemon/datasets/datasets.h"
#include "daemon/generate/batcher.h"
#include "daemon/http/errors.h"
#include "daemon/jobs/jobs.h"
#include "daemon/store/disk.h"
#include "daemon/store/pump.h"
#include "daemon/store/rows_json.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

struct dd_exports { // export.c
    pthread_mutex_t lock;
    struct dd_export *first;
    int n;
};
struct dd {
    struct dd_options opt;
    int argc; // the command line, read again by SIGHUP
    char **argv;
    struct dd_store *store;
    struct dd_events *events;
    struct dd_pump *pump;
    struct dd_live *live;
    struct dd_models *models;
    struct dd_batcher *batcher;
    struct dd_jobs *jobs;
    struct dd_disk *disk;
    struct dd_datasets *datasets;
    struct api_server *server;
    char *token;               // the token file as it was read last; NULL: none
    struct dd_exports exports; // those that are being read
    int64_t started_ns;
    int lock_fd;
    _Atomic bool stopping;
};

// The table of callbacks for api_server_start; ctx is struct dd.
extern const struct api_callbacks dd_callbacks;

// --- shared by the files of http/ ---
bool dd_glue_id(const char *id, int64_t *out); // false: not a number
int dd_glue_status(void *ctx, struct api_reply *out);
int dd_glue_ready(void *ctx, struct api_reply *out);
char *dd_glue_prometheus(void *ctx);
void dd_glue_process(FILE *out); // process_* metrics
int dd_glue_backup_make(void *ctx, struct api_reply *out);
int dd_glue_backup_file(void *ctx, const char *id, const char *name, struct api_file *out,
                        struct api_problem *p);
int dd_glue_backup_remove(void *ctx, const char *id, struct api_reply *out);
int dd_glue_backup(void *ctx, struct api_file *out, struct api_problem *p);
int dd_glue_describe(void *ctx, const char *checkpoint, struct api_model *out,
                     struct api_problem *p);
int dd_glue_generate(void *ctx, struct api_gen *g, struct api_problem *p);
int dd_glue_eval_list(void *ctx, const struct api_eval_query *q, struct api_reply *out);
int dd_glue_eval_get(void *ctx, const char *id, struct api_reply *out);
int dd_glue_eval_remove(void *ctx, const char *id, struct api_reply *out);
int dd_glue_eval_curve(void *ctx, const struct api_eval_query *q, struct api_reply *out);
int dd_glue_eval_csv(void *ctx, const struct api_eval_query *q, char **text, size_t *size,
                     struct api_problem *p);
int dd_glue_eval_plot(void *ctx, const struct api_eval_query *q, void **png, size_t *size,
                      struct api_problem *p);
int dd_glue_eval_file(void *ctx, const char *id, const char *name, struct api_file *out,
                      struct api_problem *p);
// Where a configuration of kind eval (an object) leaves out the data section: that of what it
// evaluates. Any other is left alone.
int dd_glue_eval_fill(struct dd *d, json_t *config, struct dr_err *err);
// The body of POST /v1/evals as a configuration of kind eval (new reference), what its job is
// called without a name, and errors in the body's own words.
int dd_glue_eval_config(struct dd *d, const json_t *body, json_t **out, struct dr_err *err);
void dd_glue_eval_name(const json_t *config, char out[201]);
void dd_glue_eval_shorten(struct api_problem *p);
int dd_glue_sweep_list(void *ctx, const struct api_page *page, struct api_reply *out);
int dd_glue_sweep_create(void *ctx, const struct api_sweep_create *in, struct api_reply *out);
int dd_glue_sweep_get(void *ctx, const char *id, struct api_reply *out);
int dd_glue_sweep_action(void *ctx, const char *id, enum api_sweep_action action,
                         struct api_reply *out);
int dd_glue_sweep_text(void *ctx, const char *id, bool markdown, char **text, size_t *size,
                       struct api_problem *p);
int dd_glue_sweep_curve(void *ctx, const char *id, const char *metric, struct api_reply *out);
int dd_glue_sweep_plot(void *ctx, const char *id, const char *metric, int64_t width, int64_t height,
                       void **png, size_t *size, struct api_problem *p);
// Opens a file of the state folder for sending; 404 or 410 in *p otherwise.
int dd_glue_open(const char *path, struct api_file *out, struct api_problem *p);
int dd_glue_checkpoint_list(void *ctx, const struct api_page *page, struct api_reply *out);
int dd_glue_checkpoint_get(void *ctx, const char *id, struct api_reply *out);
int dd_glue_checkpoint_patch(void *ctx, const char *id, const struct api_ckpt_patch *in,
                             struct api_reply *out);
int dd_glue_checkpoint_remove(void *ctx, const char *id, struct api_reply *out);
int dd_glue_checkpoint_activate(void *ctx, const char *id, struct api_reply *out);
int dd_glue_served_get(void *ctx, struct api_reply *out);
int dd_glue_served_put(void *ctx, const char *checkpoint, struct api_reply *out);
json_t *dd_glue_served(struct dd *d); // {"mode", "checkpoint", "step", "job", "why", "text"}
int dd_glue_checkpoint_file(void *ctx, const char *id, struct api_file *out, struct api_problem *p);
int dd_glue_checkpoint_export(void *ctx, const char *id, const struct api_export *as,
                              struct api_file *out, struct api_problem *p);
int dd_glue_checkpoint_import(void *ctx, const struct api_import *in, struct api_reply *out);
int dd_glue_dataset_list(void *ctx, struct api_reply *out);
int dd_glue_dataset_get(void *ctx, const char *name, struct api_reply *out);
int dd_glue_dataset_create(void *ctx, const struct api_dataset_create *in, struct api_reply *out);
int dd_glue_dataset_append(void *ctx, const char *name, const struct api_dataset_part *in,
                           struct api_reply *out);
int dd_glue_dataset_import(void *ctx, const char *name, int64_t bytes, struct api_reply *out);
int dd_glue_dataset_remove(void *ctx, const char *name, struct api_reply *out);
int dd_glue_dataset_samples(void *ctx, const char *name, const char *cls, int n, void **bytes,
                            size_t *size, struct api_problem *p);
int dd_glue_dataset_recipe(void *ctx, const char *name, double minutes, struct api_reply *out);
// What is wrong with the configuration of a job.
struct dd_glue_found {
    struct dr_problems list;
    int base; // so many of them are of the recipe or configuration, the rest of its overrides
};
// The configuration of a job as a client describes it: a recipe's name or an object, and overrides
// (NULL: none). What it leaves out of a user's data set or of what an evaluation is of is filled
// in. Fails with everything that is wrong in *found (zeroed before), the first of it in *err; where
// something else fails, such as the database, *found has nothing.
int dd_glue_config(struct dd *d, const json_t *config, const json_t *overrides,
                   struct dr_config *out, struct dd_glue_found *found, struct dr_err *err);
int dd_glue_field(void *ctx, const char *id, struct api_reply *out);
int dd_glue_metrics_wide(void *ctx, const struct api_wide_query *q, struct api_wide_cursor *out,
                         struct api_problem *p);
int dd_glue_job_alerts(void *ctx, const char *id, struct api_reply *out);
int dd_glue_sample_list(void *ctx, const struct api_page *page, struct api_reply *out);
int dd_glue_sample_png(void *ctx, const char *id, struct api_file *out, struct api_problem *p);
