// The kind `train`, and what `encoder` shares with it: the runner (runner.h) with hooks that write
// to the store, the metrics ring, the event log and the live snapshot. Job thread.
#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "daemon/datasets/datasets.h"
#include "daemon/generate/field.h"
#include "daemon/jobs/eval_due.h"
#include "daemon/jobs/jobs_priv.h"
#include "daemon/jobs/needs.h"
#include "daemon/store/checkpoints.h"
#include "daemon/store/metric_store.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BUSY_TRIES = 6, MOST_NUMBERS = 64 };

// The network's description as JSON, which rows of checkpoints hold.
static char *model_json(const struct dd_job *job) {
    return job->own;
}

static int describe(struct dd_job *job, struct dr_err *err) {
    struct dr_net *net;
    if (job->cfg.kind == DR_RECIPE_TRAIN) {
        job->own = dr_model_config_to_json(&job->cfg.model);
        return 0;
    }
    char *json = dr_config_to_json(&job->cfg);
    int rc = json ? dr_net_parse(json, strlen(json), NULL, &net, err)
                  : dr_fail(err, DR_ENOMEM, "no memory for a configuration");
    free(json);
    if (rc)
        return rc;
    job->own = dd_xstrdup(dr_net_description(net));
    dr_net_free(net);
    return 0;
}

// JSON; NULL where the numbers alone would be more than anyone reads.
static char *class_names(const struct dr_dataset *d) {
    if (!d->class_name && d->classes > MOST_NUMBERS)
        return NULL;
    json_t *a = json_array();
    for (int64_t i = 0; i < d->classes; i++) {
        json_t *name = d->class_name ? json_string(d->class_name[i]) : NULL; // NULL: not UTF-8
        json_array_append_new(a, name ? name : json_sprintf("%lld", (long long)i));
    }
    char *text = json_dumps(a, JSON_COMPACT);
    json_decref(a);
    return text;
}

static int on_started(void *ctx, const struct dr_trainer *tr, const struct dr_dataset *data,
                      int64_t step, struct dr_err *err) {
    struct dd_job *job = ctx;
    char *names = class_names(data), q[600];
    int n;
    const struct dr_metric_def *def = dr_trainer_metrics(tr, &n);
    dd_job_metrics(job, def, n);
    // not what a resumed trainer expects by its past: train.minutes has a rule of its own in rows
    const int rc = dd_job_started(job, step, job->cfg.train.steps, data->name, names, err);
    dd_log(DR_LOG_INFO, "job.start", "job=%lld step=%lld total=%lld data=%s memory=%zu",
           (long long)job->id, (long long)step, (long long)dr_trainer_steps_total(tr),
           dd_log_quote(data->name, q, sizeof q), dr_trainer_memory(tr));
    free(names);
    return rc;
}

static enum dd_wish on_wish(void *ctx) {
    return dd_job_wish(ctx);
}

static void on_step(void *ctx, const struct dr_metrics *m, double seconds, int64_t total) {
    struct dd_job *job = ctx;
    struct dd_row row;
    dd_metric_row(job->metrics, m, job->id, seconds, &row);
    dd_job_row(job, &row, total);
}

static void on_snapshot(void *ctx, struct dr_snapshot *s) {
    struct dd_job *job = ctx;
    dd_live_set(job->env->live, job->id, s);
}

static void on_field(void *ctx, struct dr_drift_field *f) {
    struct dd_job *job = ctx;
    dd_live_set_field(job->env->live, job->id, f);
}

// What the page draws of a toy once its job no longer runs. A failure costs the picture alone.
static void keep_field(struct dd_job *job, const char *folder) {
    struct dr_drift_field *f = dd_live_field(job->env->live, job->id);
    struct dr_err err = {0};
    if (f && dd_field_keep(f, job->id, folder, &err)) {
        char q[600];
        dd_log(DR_LOG_WARN, "field.failed", "job=%lld reason=%s", (long long)job->id,
               dd_log_quote(err.msg, q, sizeof q));
    }
    free(f);
}

static void on_saving(void *ctx) {
    dd_job_flush(ctx);
}

static int on_checkpoint(void *ctx, int64_t step, const char *path, const char *sha256,
                         int64_t bytes, struct dr_err *err) {
    struct dd_job *job = ctx;
    struct dd_ckpt_row row = {.job = job->id, .step = step, .bytes = bytes};
    snprintf(row.path, sizeof row.path, "%s", path);
    snprintf(row.sha256, sizeof row.sha256, "%s", sha256);
    snprintf(row.kind, sizeof row.kind, "%s", job->kind->name);
    row.config = model_json(job);
    row.config_borrowed = true;
    // Another process may hold the database for a while (a backup, someone's sqlite3): for a
    // checkpoint it is worth waiting.
    int rc = DR_EBUSY;
    for (int i = 0; i < BUSY_TRIES && rc == DR_EBUSY; i++)
        rc = dd_ckpt_record(job->env->store, &row, err);
    if (!rc)
        dd_event(job->env->events, "checkpoint", job->id,
                 json_pack("{s:s, s:I, s:I, s:s}", "id", row.id, "step", (json_int_t)step, "bytes",
                           (json_int_t)bytes, "sha256", sha256));
    return rc;
}

static void on_checkpoint_failed(void *ctx, int64_t step, const struct dr_err *e) {
    struct dd_job *job = ctx;
    char q[600];
    atomic_fetch_add(&job->queue->checkpoint_failures, 1);
    dd_log(DR_LOG_ERROR, "checkpoint.failed", "job=%lld step=%lld reason=%s", (long long)job->id,
           (long long)step, dd_log_quote(e->msg, q, sizeof q));
}

// Where the database cannot write, rotation goes on: it may be what makes room.
static bool on_let_go(void *ctx, const char *path) {
    struct dd_job *job = ctx;
    struct dr_err err;
    const int rc = dd_ckpt_let_go(job->env->store, path, DD_CKPT_ROTATION, &err);
    return !rc || (rc != DR_ECONFLICT && !dd_ckpt_is_kept(job->env->store, path));
}

// Checkpoints whose files have gone count as removed from now on. With none left the job would lose
// all that it has done for a disk that is not mounted.
static int on_lost(void *ctx, int files, struct dr_err *err) {
    struct dd_job *job = ctx;
    struct dd_store *s = job->env->store;
    struct dr_err later; // or a backup marks them
    sqlite3 *db = dd_store_reader(s, err);
    sqlite3_stmt *st =
        db ? dd_sql_prepare(db, err,
                            "SELECT path, step FROM checkpoints WHERE job=? AND state='ok'"
                            " ORDER BY step",
                            "i", job->id)
           : NULL;
    json_t *gone = json_array();
    int64_t n = 0, newest = 0;
    char path[DD_PATH_MAX];
    for (; st && sqlite3_step(st) == SQLITE_ROW; n++) {
        const char *stored = (const char *)sqlite3_column_text(st, 0);
        newest = sqlite3_column_int64(st, 1);
        if (!dd_store_abs(s, stored, path, &later) && access(path, F_OK) && errno == ENOENT)
            json_array_append_new(gone, json_string(stored));
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    int rc = st ? 0 : DR_EIO;
    if (n && !files)
        rc = dr_fail(err, DR_ENOENT,
                     "none of this job's %lld checkpoints, the newest of step %lld, is in the "
                     "folder checkpoints/%lld: put them back (is the disk mounted?) and resume, or "
                     "start a new job",
                     (long long)n, (long long)newest, (long long)job->id);
    if (!rc && json_array_size(gone)) {
        int marked;
        do
            marked = dd_ckpt_lost(s, job->env->events, gone, &later);
        while (dd_job_again(job, marked));
    }
    json_decref(gone);
    return rc;
}

static int on_verify(void *ctx, const char *path, struct dr_err *err) {
    struct dd_job *job = ctx;
    return dd_ckpt_verify(job->env->store, path, job->id, job->kind->name, model_json(job), err);
}

static void on_refused(void *ctx, const char *path, const struct dr_err *e) {
    struct dd_job *job = ctx;
    struct dr_err ignored;
    dd_ckpt_set_state(job->env->store, path, "corrupt", &ignored);
    dd_event(job->env->events, "alert", job->id,
             json_pack("{s:s, s:s, s:s}", "kind", "checkpoint", "path", path, "text", e->msg));
}

static void on_sample(void *ctx, int64_t step, const char *path, int64_t bytes, int64_t w,
                      int64_t h) {
    struct dd_job *job = ctx;
    struct dr_err err = {0};
    int64_t id = 0;
    dd_pump_image(job->env->pump, job->id, step, path, w, h);
    if (!dd_sample_record(job->env->store, job->id, step, path, bytes, w, h, &id, &err))
        dd_event(job->env->events, "sample", job->id,
                 json_pack("{s:o, s:I}", "id", json_sprintf("%lld", (long long)id), "step",
                           (json_int_t)step));
}

static void on_alert(void *ctx, const char *kind, int64_t step, const char *text) {
    dd_job_alert(ctx, kind, step, text);
}

static void on_evaluate(void *ctx, int64_t step, const char *path) {
    dd_eval_checkpoint(ctx, step, path);
}

int64_t dd_train_steps(const struct dr_config *cfg) {
    return cfg->train.steps;
}

// The file of init_from. A job that goes on needs it only where it has to start anew: that it is
// gone waits in *gone for the runner.
static int find_init(const struct dd_job *job, char path[DD_PATH_MAX], struct dr_err *gone,
                     struct dd_run_spec *spec, struct dr_err *err) {
    const char *word = job->cfg.init_from;
    const int rc = word[0] ? dd_ckpt_find(job->env->store, job->env->opt->data_dir, "init_from",
                                          word, path, gone)
                           : 0;
    spec->init_from = word[0] && !rc ? path : NULL;
    spec->no_init = rc ? gone : NULL;
    if (!rc || job->resume)
        return 0;
    *err = *gone;
    return rc;
}

int dd_train_run(struct dd_job *job, enum dd_outcome *outcome, struct dr_err *err) {
    static const struct dd_run_hooks all = {.wish = on_wish,
                                            .started = on_started,
                                            .step = on_step,
                                            .snapshot = on_snapshot,
                                            .field = on_field,
                                            .saving = on_saving,
                                            .checkpoint = on_checkpoint,
                                            .checkpoint_failed = on_checkpoint_failed,
                                            .checkpoint_let_go = on_let_go,
                                            .checkpoint_lost = on_lost,
                                            .checkpoint_verify = on_verify,
                                            .checkpoint_refused = on_refused,
                                            .sample = on_sample,
                                            .alert = on_alert,
                                            .evaluate = on_evaluate};
    struct dd_run_hooks hooks = all;
    char data_dir[DD_PATH_MAX];
    int rc =
        dd_dataset_dir(job->env->store, &job->cfg.data, job->env->opt->data_dir, data_dir, err);
    if (rc)
        return rc;
    char *ckpt = dd_job_folder(job, "checkpoints"), *samples = dd_job_folder(job, "samples"),
         id[24];
    snprintf(id, sizeof id, "%lld", (long long)job->id);
    struct dd_run_spec spec = {.cfg = &job->cfg,
                               .data_dir = data_dir,
                               .device = job->env->device,
                               .checkpoint_dir = ckpt,
                               .sample_dir = samples,
                               .id = id,
                               .resume = job->resume,
                               .seconds_before = job->seconds,
                               .threads = (int)job->env->opt->threads};
    struct dd_run_result res = {0};
    struct dr_err gone = {0};
    char init[DD_PATH_MAX], encoder[DD_PATH_MAX];
    const char *word;
    hooks.ctx = job;
    rc = describe(job, err);
    if (!rc)
        rc = find_init(job, init, &gone, &spec, err);
    if (!rc)
        rc = dd_needs_encoder(job, encoder, err);
    if (!rc) {
        spec.encoder = encoder[0] ? encoder : NULL;
        spec.encoder_of_recipe = dd_encoder_ref(&job->cfg, &word) == DD_ENCODER_RECIPE;
        rc = dd_run(&spec, &hooks, &res, err);
        *outcome = res.outcome;
        snprintf(job->note, sizeof job->note, "%s", res.unsaved.msg);
        keep_field(job, samples);
    }
    free(job->own);
    job->own = NULL;
    free(ckpt);
    free(samples);
    return rc;
}

const struct dd_job_kind dd_kind_train = {.name = "train",
                                          .about = "Trains a generator.",
                                          .section = "train",
                                          .steps = dd_train_steps,
                                          .run = dd_train_run,
                                          .resumes = true};
