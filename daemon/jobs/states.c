// The states of jobs as the queue and the job thread both change them, and the jobs' folders
// (jobs_priv.h).
#include "daemon/base/util.h"
#include "daemon/jobs/jobs_priv.h"

#include <stdio.h>
#include <string.h>

bool dd_one_of(const char *state, const char *const *list) {
    for (; *list; list++)
        if (!strcmp(state, *list))
            return true;
    return false;
}

char *dd_job_dir(const struct dd_jobs *j, const char *what, int64_t id) {
    return dd_printf("%s/%s/%lld", j->env.opt->state_dir, what, (long long)id);
}

int dd_job_state(sqlite3 *db, int64_t id, char old[16], struct dr_err *err) {
    sqlite3_stmt *st = dd_sql_prepare(db, err, "SELECT state FROM jobs WHERE id=?", "i", id);
    bool found = st && sqlite3_step(st) == SQLITE_ROW;
    if (found)
        snprintf(old, 16, "%s", (const char *)sqlite3_column_text(st, 0));
    sqlite3_finalize(st);
    return found ? 0 : dr_fail(err, DR_ENOENT, "there is no job %lld", (long long)id);
}

int dd_job_change(sqlite3 *db, void *arg, struct dr_err *err) {
    struct dd_job_change *c = arg;
    int rc = dd_job_state(db, c->id, c->old, err);
    if (rc)
        return rc;
    if (c->from && !dd_one_of(c->old, c->from))
        return dr_fail(err, DR_ECONFLICT, "job %lld is %s and cannot be %s", (long long)c->id,
                       c->old, c->verb);
    int64_t now = dd_wall_us();
    if (!strcmp(c->state, "queued"))
        return dd_sql_run(db, err,
                          "UPDATE jobs SET state=?, error=NULL, ended_us=NULL, resume=1, crashes=0"
                          " WHERE id=?",
                          "ti", c->state, c->id);
    bool ends = strcmp(c->state, "stopping") != 0 && strcmp(c->state, "paused") != 0;
    return dd_sql_run(
        db, err,
        "UPDATE jobs SET state=?, error=?, ended_us=CASE ? WHEN 1 THEN ? END, crashes=0,"
        " resume=CASE ? WHEN 1 THEN " DD_RESUME_PAUSING " ELSE min(resume,1) END WHERE id=?",
        "ttiiii", c->state, c->error, (int64_t)ends, now, (int64_t)c->pausing, c->id);
}

void dd_job_event(struct dd_jobs *j, int64_t id, const char *from, const char *to,
                  const char *error) {
    dd_event(j->env.events, "state", id,
             json_pack("{s:s, s:s, s:s*}", "from", from, "state", to, "error", error));
}

struct dd_lane *dd_job_lane(struct dd_jobs *j, int64_t id) {
    for (int i = 0; i < DD_LANES; i++)
        if (id && j->lane[i].running == id)
            return &j->lane[i];
    return NULL;
}

void dd_job_set_running(struct dd_lane *l, int64_t id, const char *name) {
    struct dd_jobs *j = l->jobs;
    l->running = id;
    if (l->beside)
        return;
    pthread_mutex_lock(&j->shown.lock);
    j->shown.running = id;
    snprintf(j->shown.name, sizeof j->shown.name, "%s", name);
    dd_trim_text(j->shown.name);
    pthread_mutex_unlock(&j->shown.lock);
}

// An evaluation that became due after the job had looked for the last one is not forgotten: there
// is work again.
static int end_run(sqlite3 *db, void *arg, struct dr_err *err) {
    struct dd_job_change *c = arg;
    int rc = dd_job_change(db, c, err);
    if (rc || strcmp(c->old, "running") != 0 ||
        (strcmp(c->state, "completed") != 0 && strcmp(c->state, "failed") != 0) ||
        !dd_sql_one(db, 0, "SELECT 1 FROM evals WHERE eval_job=? AND state='queued'", "i", c->id))
        return rc;
    c->state = "queued";
    c->error = NULL;
    return dd_sql_run(db, err,
                      "UPDATE jobs SET state='queued', error=NULL, ended_us=NULL, resume=0"
                      " WHERE id=?",
                      "i", c->id);
}

int dd_job_end(struct dd_jobs *j, int64_t id, bool ran, const char *state, const char *error,
               struct dr_err *err) {
    struct dd_job_change c = {.id = id, .state = state, .error = error};
    pthread_mutex_lock(&j->lock);
    dd_store_fn *end = ran ? end_run : dd_job_change;
    // At a stop there is no later: a full disk must not make it look like a crash.
    int rc = j->closing ? dd_store_free_by(j->env.store, end, &c, err)
                        : dd_store_do(j->env.store, end, &c, err);
    struct dd_lane *l = dd_job_lane(j, id);
    if (!rc && l)
        dd_job_set_running(l, 0, "");
    pthread_cond_broadcast(&j->wake); // the other lane may have waited for this job
    pthread_mutex_unlock(&j->lock);
    if (rc)
        return rc;
    dd_store_changed(j->env.store); // what is served may be its final checkpoint now
    dd_job_event(j, id, c.old, c.state, c.error);
    return 0;
}

bool dd_jobs_finish_early(struct dd_jobs *j, int64_t id) {
    pthread_mutex_lock(&j->lock);
    struct dd_lane *l = dd_job_lane(j, id);
    const bool can = l && (l->wish == DD_WISH_NONE || l->wish == DD_WISH_CHECKPOINT);
    if (can)
        l->wish = DD_WISH_FINISH;
    pthread_mutex_unlock(&j->lock);
    return can;
}

void dd_jobs_wake(struct dd_jobs *j) {
    pthread_mutex_lock(&j->lock);
    pthread_cond_broadcast(&j->wake);
    pthread_mutex_unlock(&j->lock);
}

void dd_jobs_tell(struct dd_jobs *j, int64_t id, const char *from, const char *to) {
    dd_job_event(j, id, from, to, NULL);
}

struct dd_store *dd_jobs_store(const struct dd_jobs *j) {
    return j->env.store;
}

int dd_job_insert(sqlite3 *db, const struct dd_job_new *in, const char *json, int64_t steps,
                  int64_t needs, int64_t judge, int64_t *id, struct dr_err *err) {
    int rc = dd_sql_run(
        db, err,
        "INSERT INTO jobs(name,kind,recipe,config,state,priority,created_us,steps_total,needs,"
        "sweep,cell,rung,changed,judge) VALUES(?1,?2,?3,?4,'queued',?5,?6,?7,nullif(?8,0),"
        "nullif(?9,0),CASE WHEN ?9 THEN ?10 END,CASE WHEN ?9 THEN ?11 END,?12,nullif(?13,0))",
        "ttttiiiiiiiti", in->name ? in->name : in->recipe, in->kind, in->recipe, json,
        (int64_t)in->priority, dd_wall_us(), steps, needs, in->sweep, in->cell, in->rung,
        in->changed, judge);
    *id = sqlite3_last_insert_rowid(db);
    return rc;
}
