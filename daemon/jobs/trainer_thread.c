// The trainer thread: takes the best queued job, runs it with hooks that write to the store, the
// metrics ring, the event log and the live snapshot, and records how it ended (jobs.h, runner.h).
#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "daemon/jobs/jobs_priv.h"
#include "daemon/store/checkpoints.h"
#include "daemon/store/metric_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { TRAINER_NICE = 5, BUSY_TRIES = 6 };

struct task {
    struct dd_jobs *j;
    int64_t id;
    struct dr_config cfg;
    bool resume;
    char *model_json;
    const struct dd_metric_table *metrics;
};

// --- hooks, all on this thread ---

static enum dd_wish on_wish(void *ctx) {
    struct task *t = ctx;
    struct dd_jobs *j = t->j;
    atomic_store(&j->beat, dd_now_ns());
    pthread_mutex_lock(&j->lock);
    enum dd_wish w = j->closing && j->wish != DD_WISH_STOP_NOW ? DD_WISH_STOP : j->wish;
    if (w == DD_WISH_CHECKPOINT)
        j->wish = DD_WISH_NONE;
    pthread_mutex_unlock(&j->lock);
    return w;
}

struct started {
    int64_t id, step, total;
    const char *data_name;
    char *names;
};

static int note_start(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct started *s = arg;
    return dd_sql_run(
        db, err, "UPDATE jobs SET step=?, steps_total=?, data_name=?, class_names=? WHERE id=?",
        "iitti", s->step, s->total, s->data_name, s->names, s->id);
}

static char *class_names(const struct dr_dataset *d) {
    json_t *a = json_array();
    for (int64_t i = 0; i < d->classes && i < (int64_t)DR_COUNT(d->class_name); i++) {
        char num[24];
        snprintf(num, sizeof num, "%lld", (long long)i);
        json_array_append_new(a, json_string(d->class_name[i][0] ? d->class_name[i] : num));
    }
    char *text = json_dumps(a, JSON_COMPACT);
    json_decref(a);
    return text;
}

static void on_started(void *ctx, const struct dr_trainer *tr, const struct dr_dataset *data,
                       int64_t step) {
    struct task *t = ctx;
    struct dr_err err = {0};
    struct started s = {.id = t->id,
                        .step = step,
                        .total = dr_trainer_steps_total(tr),
                        .data_name = data->name,
                        .names = class_names(data)};
    struct dd_metric_cut cut = {.job = t->id, .step = step};
    int nmetrics;
    const struct dr_metric_def *def = dr_trainer_metrics(tr, &nmetrics);
    t->metrics = dd_metric_table(dd_store_metrics(t->j->env.store), def, nmetrics);
    int rc = dd_store_do(t->j->env.store, note_start, &s, &err);
    dd_store_changed(t->j->env.store); // class names
    if (!rc)
        rc = dd_store_do(t->j->env.store, dd_metrics_truncate, &cut, &err);
    char q[600];
    if (rc)
        dd_log(DR_LOG_ERROR, "job.start", "job=%lld reason=%s", (long long)t->id,
               dd_log_quote(err.msg, q, sizeof q));
    dd_log(DR_LOG_INFO, "job.start", "job=%lld step=%lld total=%lld data=%s memory=%zu",
           (long long)t->id, (long long)step, (long long)s.total,
           dd_log_quote(data->name, q, sizeof q), dr_trainer_memory(tr));
    free(s.names);
    atomic_store(&t->j->step, step);
    atomic_store(&t->j->steps_total, s.total);
}

static void on_step(void *ctx, const struct dr_metrics *m, double seconds, int64_t total) {
    struct task *t = ctx;
    struct dd_row row;
    dd_metric_row(t->metrics, m, t->id, seconds, &row);
    dd_ring_push(dd_pump_ring(t->j->env.pump), &row);
    atomic_store(&t->j->step, m->step);
    atomic_store(&t->j->steps_total, total);
}

static void on_snapshot(void *ctx, struct dr_snapshot *s) {
    struct task *t = ctx;
    dd_live_set(t->j->env.live, t->id, s);
}

static void on_field(void *ctx, struct dr_drift_field *f) {
    struct task *t = ctx;
    dd_live_set_field(t->j->env.live, t->id, f);
}

// A process that is killed goes on from the checkpoint: the metrics before it must be in the store.
static void on_saving(void *ctx) {
    struct task *t = ctx;
    struct dr_err ignored;
    dd_pump_flush(t->j->env.pump, &ignored);
}

static void on_checkpoint(void *ctx, int64_t step, const char *path, const char *sha256,
                          int64_t bytes) {
    struct task *t = ctx;
    struct dr_err err = {0};
    struct dd_ckpt_row row = {.job = t->id, .step = step, .bytes = bytes};
    snprintf(row.path, sizeof row.path, "%s", path);
    snprintf(row.sha256, sizeof row.sha256, "%s", sha256);
    snprintf(row.kind, sizeof row.kind, "train");
    row.config = t->model_json;
    row.config_borrowed = true;
    // Another process may hold the data base for a while (a backup, someone's sqlite3): a
    // checkpoint is worth the wait.
    int rc = DR_EBUSY;
    for (int i = 0; i < BUSY_TRIES && rc == DR_EBUSY; i++)
        rc = dd_ckpt_record(t->j->env.store, &row, &err);
    if (rc) {
        atomic_fetch_add(&t->j->checkpoint_failures, 1);
        dd_event(t->j->env.events, "alert", t->id,
                 json_pack("{s:s, s:I, s:s}", "kind", "disk", "step", (json_int_t)step, "text",
                           err.msg));
        return;
    }
    dd_event(t->j->env.events, "checkpoint", t->id,
             json_pack("{s:s, s:I, s:I, s:s}", "id", row.id, "step", (json_int_t)step, "bytes",
                       (json_int_t)bytes, "sha256", sha256));
}

static void on_checkpoint_failed(void *ctx, int64_t step, const struct dr_err *e) {
    struct task *t = ctx;
    char q[600];
    atomic_fetch_add(&t->j->checkpoint_failures, 1);
    dd_log(DR_LOG_ERROR, "checkpoint.failed", "job=%lld step=%lld reason=%s", (long long)t->id,
           (long long)step, dd_log_quote(e->msg, q, sizeof q));
}

static void on_removed(void *ctx, const char *path) {
    struct task *t = ctx;
    struct dr_err err;
    dd_ckpt_set_state(t->j->env.store, path, "removed", &err);
}

static int on_verify(void *ctx, const char *path, struct dr_err *err) {
    struct task *t = ctx;
    return dd_ckpt_verify(t->j->env.store, path, t->id, t->model_json, err);
}

static void on_refused(void *ctx, const char *path, const struct dr_err *e) {
    struct task *t = ctx;
    struct dr_err ignored;
    dd_ckpt_set_state(t->j->env.store, path, "corrupt", &ignored);
    dd_event(t->j->env.events, "alert", t->id,
             json_pack("{s:s, s:s, s:s}", "kind", "checkpoint", "path", path, "text", e->msg));
}

static void on_sample(void *ctx, int64_t step, const char *path, int64_t bytes, int64_t w,
                      int64_t h) {
    struct task *t = ctx;
    struct dr_err err = {0};
    int64_t id = 0;
    if (!dd_sample_record(t->j->env.store, t->id, step, path, bytes, w, h, &id, &err))
        dd_event(t->j->env.events, "sample", t->id,
                 json_pack("{s:o, s:I}", "id", json_sprintf("%lld", (long long)id), "step",
                           (json_int_t)step));
}

static void on_alert(void *ctx, const char *kind, int64_t step, const char *text) {
    struct task *t = ctx;
    dd_event(t->j->env.events, "alert", t->id,
             json_pack("{s:s, s:I, s:s}", "kind", kind, "step", (json_int_t)step, "text", text));
}

static bool on_protect(void *ctx, const char *path) {
    struct task *t = ctx;
    return dd_ckpt_is_active(t->j->env.store, path);
}

// --- one job ---

static const char *end_state(struct dd_jobs *j, int rc, const struct dd_run_result *res) {
    if (rc)
        return "failed";
    if (res->outcome == DD_RUN_COMPLETED)
        return "completed";
    pthread_mutex_lock(&j->lock);
    bool by_wish = j->wish == DD_WISH_STOP || j->wish == DD_WISH_STOP_NOW, pause = j->pausing;
    pthread_mutex_unlock(&j->lock);
    return !by_wish ? "interrupted" : pause ? "paused" : "stopped";
}

static int run_task(struct task *t, struct dd_run_result *res, struct dr_err *err) {
    struct dd_jobs *j = t->j;
    char ckpt[4096], samples[4096], id[24];
    dd_job_dir(j, "checkpoints", t->id, ckpt, sizeof ckpt);
    dd_job_dir(j, "samples", t->id, samples, sizeof samples);
    snprintf(id, sizeof id, "%lld", (long long)t->id);
    struct dd_run_spec spec = {.cfg = &t->cfg,
                               .data_dir = j->env.opt->data_dir,
                               .device = j->env.device,
                               .checkpoint_dir = ckpt,
                               .sample_dir = samples,
                               .id = id,
                               .resume = t->resume,
                               .threads = (int)j->env.opt->threads};
    struct dd_run_hooks hooks = {.ctx = t,
                                 .wish = on_wish,
                                 .started = on_started,
                                 .step = on_step,
                                 .snapshot = on_snapshot,
                                 .field = on_field,
                                 .saving = on_saving,
                                 .checkpoint = on_checkpoint,
                                 .checkpoint_failed = on_checkpoint_failed,
                                 .checkpoint_removed = on_removed,
                                 .checkpoint_verify = on_verify,
                                 .checkpoint_refused = on_refused,
                                 .sample = on_sample,
                                 .alert = on_alert,
                                 .protect = on_protect};
    t->model_json = dr_model_config_to_json(&t->cfg.model);
    int rc = dd_run(&spec, &hooks, res, err);
    free(t->model_json);
    return rc;
}

// Until it is recorded the job counts as at work: with a full disk that waits for space (or for the
// end of the daemon; the next start then finds the row and goes on from the last checkpoint).
static void end_job(struct dd_jobs *j, int64_t id, const char *state, const char *error) {
    struct dr_err why = {0};
    for (bool closing = false; !closing; sleep(1)) {
        if (!dd_job_end(j, id, state, error, &why))
            return;
        char q[600];
        dd_log(DR_LOG_ERROR, "job.end", "job=%lld state=%s reason=%s", (long long)id, state,
               dd_log_quote(why.msg, q, sizeof q));
        atomic_store(&j->beat, dd_now_ns());
        pthread_mutex_lock(&j->lock);
        closing = j->closing;
        pthread_mutex_unlock(&j->lock);
    }
}

// Whether this process can still use the device: after some faults it cannot. A full one it can,
// when others have given memory back.
static bool device_works(const char *device) {
    struct dr_backend *be;
    struct dr_err err = {0};
    int rc = dr_backend_open(device, 1, &be, &err);
    if (rc)
        return rc == DR_ENOMEM;
    dr_backend_enter(be);
    rc = dr_backend_probe(be, &err);
    dr_backend_free(be);
    return !rc || rc == DR_ENOMEM;
}

static void note_lost_device(struct dd_jobs *j) {
    atomic_store(&j->device_lost, true);
    dd_log(DR_LOG_ERROR, "device.lost", "device=%s hint=\"restart driftd; queued jobs wait\"",
           j->env.device);
}

static void run_job(struct dd_jobs *j, struct task *t) {
    struct dd_run_result res = {0};
    struct dr_err err = {0}, why = {0};
    int rc = run_task(t, &res, &err);
    if (rc == DR_EDEVICE && !device_works(j->env.device))
        note_lost_device(j);
    dd_pump_flush(j->env.pump, &why);
    const char *state = end_state(j, rc, &res);
    // First, so that whoever reads that the job has ended is served its checkpoint and no longer
    // the live weights.
    dd_live_set(j->env.live, 0, NULL);
    end_job(j, t->id, state, rc ? err.msg : NULL);
}

// --- the queue's end ---

struct claim {
    struct task *t;
    bool found;
    char error[512]; // the job cannot run
};

static int claim(sqlite3 *db, void *arg, struct dr_err *err) {
    struct claim *c = arg;
    c->found = false;
    sqlite3_stmt *st = dd_sql_prepare(db, err,
                                      "SELECT id, config, resume, attempts FROM jobs WHERE state="
                                      "'queued' ORDER BY priority DESC, id LIMIT 1",
                                      "");
    if (!st)
        return DR_EIO;
    if (sqlite3_step(st) == SQLITE_ROW) {
        const char *json = (const char *)sqlite3_column_text(st, 1);
        struct dr_err why = {0};
        c->found = true;
        c->t->id = sqlite3_column_int64(st, 0);
        c->t->resume = sqlite3_column_int64(st, 2) != 0 && sqlite3_column_int64(st, 3) > 0;
        // Refused only when an upgrade has changed what a configuration may say.
        if (dr_config_parse(json, strlen(json), "the job's configuration", &c->t->cfg, &why))
            snprintf(c->error, sizeof c->error, "%s", why.msg);
    }
    sqlite3_finalize(st);
    if (!c->found)
        return 0;
    return dd_sql_run(db, err,
                      "UPDATE jobs SET state='running', error=NULL, attempts=attempts+1,"
                      " ended_us=NULL, started_us=coalesce(started_us,?) WHERE id=?",
                      "ii", dd_wall_us(), c->t->id);
}

// Waits for a job and makes it the running one; false: the daemon is stopping. The lock is held
// over the claim, so that an action finds a job either waiting or at work.
static bool next_task(struct dd_jobs *j, struct task *t, char error[512]) {
    pthread_mutex_lock(&j->lock);
    while (!j->closing) {
        struct claim c = {.t = t};
        struct dr_err err = {0};
        if (!atomic_load(&j->device_lost) && !dd_store_do(j->env.store, claim, &c, &err) &&
            c.found) {
            j->running = t->id;
            j->wish = DD_WISH_NONE;
            j->pausing = false;
            atomic_store(&j->step, 0);
            atomic_store(&j->steps_total, t->cfg.train.steps);
            snprintf(j->name, sizeof j->name, "%s", t->cfg.name);
            snprintf(error, 512, "%s", c.error);
            pthread_mutex_unlock(&j->lock);
            return true;
        }
        // a store that failed is asked again
        dd_cond_wait_until(&j->wake, &j->lock, dd_now_ns() + 5 * (int64_t)1000000000);
    }
    pthread_mutex_unlock(&j->lock);
    return false;
}

void *dd_trainer_thread(void *jobs) {
    struct dd_jobs *j = jobs;
    struct task t = {.j = j};
    char error[512];
    pthread_setname_np(pthread_self(), "train");
    // Requests come first: this thread, and the worker threads it will start, yield to the
    // batcher's, relative to the nice value the daemon was started with. Linux keeps one per
    // thread; a refusal changes nothing but latency.
    setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + TRAINER_NICE);
    while (next_task(j, &t, error)) {
        atomic_store(&j->beat, dd_now_ns());
        dd_job_event(j, t.id, "queued", "running", NULL);
        if (error[0])
            end_job(j, t.id, "failed", error);
        else
            run_job(j, &t);
        atomic_store(&j->beat, INT64_MAX);
        t = (struct task){.j = j};
    }
    return NULL;
}
