// What a kind may call while its job runs (kinds.h): the queue's side of a job at work.
#include "daemon/base/util.h"
#include "daemon/jobs/jobs_priv.h"
#include "daemon/store/metric_store.h"

#include <stdlib.h>
#include <string.h>

#define AGAIN_NS INT64_C(1000000000)

enum dd_wish dd_job_wish(struct dd_job *job) {
    struct dd_jobs *j = job->queue;
    struct dd_lane *l = job->lane;
    if (!l->beside)
        atomic_store(&j->beat, dd_now_ns());
    enum dd_wish w = atomic_load(&l->wish);
    if (atomic_load(&j->closing) && w != DD_WISH_STOP_NOW)
        return DD_WISH_STOP;
    if (w == DD_WISH_CHECKPOINT) // w is what was wished meanwhile, where that is another one
        atomic_compare_exchange_strong(&l->wish, &w, DD_WISH_NONE);
    return w;
}

bool dd_job_again(struct dd_job *job, int rc) {
    struct dd_jobs *j = job->queue;
    struct dd_lane *l = job->lane;
    if (rc != DR_EBUSY && rc != DR_ENOSPC)
        return false;
    if (!l->beside)
        atomic_store(&j->beat, dd_now_ns());
    pthread_mutex_lock(&j->lock);
    const bool stop = j->closing || l->wish == DD_WISH_STOP || l->wish == DD_WISH_STOP_NOW;
    if (!stop)
        dd_cond_wait_until(&j->wake, &j->lock, dd_now_ns() + AGAIN_NS);
    pthread_mutex_unlock(&j->lock);
    return !stop;
}

struct progress {
    int64_t id, step, total;
    double seconds;
};
struct started {
    int64_t id, step, total;
    const char *data_name, *names;
};

static int note_start(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct started *s = arg;
    struct dd_metric_cut cut = {.job = s->id, .step = s->step};
    int rc = dd_sql_run(
        db, err, "UPDATE jobs SET step=?, steps_total=?, data_name=?, class_names=? WHERE id=?",
        "iitti", s->step, s->total, s->data_name, s->names, s->id);
    return rc ? rc : dd_metrics_truncate(db, &cut, err);
}

int dd_job_started(struct dd_job *job, int64_t step, int64_t total, const char *data_name,
                   const char *class_names, struct dr_err *err) {
    struct started s = {job->id, step, total, data_name, class_names};
    struct dr_err why;
    int rc;
    do
        rc = dd_store_do(job->env->store, note_start, &s, &why);
    while (dd_job_again(job, rc));
    if (rc)
        *err = why;
    dd_store_changed(job->env->store); // class names
    atomic_store(&job->lane->step, step);
    atomic_store(&job->lane->steps_total, total);
    return rc;
}

static int note_progress(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct progress *p = arg;
    return dd_sql_run(db, err,
                      "UPDATE jobs SET step=?, steps_total=?, seconds=seconds+? WHERE id=?", "iidi",
                      p->step, p->total, p->seconds, p->id);
}

void dd_job_progress(struct dd_job *job, int64_t step, int64_t total, double seconds) {
    struct progress *p = dd_xcalloc(1, sizeof *p);
    *p = (struct progress){job->id, step, total, seconds};
    dd_store_post(job->env->store, note_progress, p, free);
    atomic_store(&job->lane->step, step);
    atomic_store(&job->lane->steps_total, total);
}

void dd_job_metrics(struct dd_job *job, const struct dr_metric_def *def, int n) {
    job->metrics = dd_metric_table(dd_store_metrics(job->env->store), def, n);
}

void dd_job_row(struct dd_job *job, const struct dd_row *row, int64_t total) {
    dd_ring_push(dd_pump_ring(job->env->pump), row);
    atomic_store(&job->lane->step, row->step);
    atomic_store(&job->lane->steps_total, total);
}

void dd_job_flush(struct dd_job *job) {
    struct dr_err ignored;
    dd_pump_flush(job->env->pump, &ignored);
}

void dd_job_alert(struct dd_job *job, const char *kind, int64_t step, const char *text) {
    dd_event(job->env->events, "alert", job->id,
             json_pack("{s:s, s:I, s:s}", "kind", kind, "step", (json_int_t)step, "text", text));
}

char *dd_job_folder(const struct dd_job *job, const char *what) {
    return dd_job_dir(job->queue, what, job->id);
}
