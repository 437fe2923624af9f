// Jobs that need jobs (needs.h): what a configuration names, which job has it, and what becomes of
// those that wait.
#include "daemon/jobs/needs.h"

#include "daemon/base/util.h"
#include "daemon/jobs/changed.h"
#include "daemon/jobs/jobs_priv.h"
#include "daemon/store/checkpoints.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FALLEN = 32 }; // ended by one round

#define OPEN "('queued','running','stopping','paused','interrupted')"
// Of a job that trains an encoder: it has it or will.
#define HAS_IT                                                                                     \
    "(state IN ('queued','running','paused','interrupted') OR (state='completed' AND"              \
    " EXISTS(SELECT 1 FROM checkpoints c WHERE c.job=jobs.id AND c.state='ok')))"

// --- which job has it ---

static bool makes(const char *json, const struct dr_config *encoder) {
    struct dr_config c;
    char key[80];
    return !dr_config_parse(json, strlen(json), NULL, &c, NULL) &&
           !dd_encoder_differs(&c, encoder, key);
}

int dd_needs_find(sqlite3 *db, const struct dr_config *encoder, int64_t *id, struct dr_err *err) {
    sqlite3_stmt *st = dd_sql_prepare(db, err,
                                      "SELECT id, config FROM jobs WHERE kind='encoder' AND " HAS_IT
                                      " ORDER BY state='completed' DESC, id DESC",
                                      "");
    *id = 0;
    while (st && !*id && sqlite3_step(st) == SQLITE_ROW)
        if (makes((const char *)sqlite3_column_text(st, 1), encoder))
            *id = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    return st ? 0 : DR_EIO;
}

int64_t dd_needs_kept(sqlite3 *db, int64_t job) {
    return dd_sql_one(
        db, 0, "SELECT id FROM jobs WHERE id=(SELECT needs FROM jobs WHERE id=?) AND " HAS_IT, "i",
        job);
}

int64_t dd_needs_kept_judge(sqlite3 *db, int64_t job) {
    return dd_sql_one(
        db, 0, "SELECT id FROM jobs WHERE id=(SELECT judge FROM jobs WHERE id=?) AND " HAS_IT, "i",
        job);
}

// It must not wait longer than the job that waits for it.
static int hurry(sqlite3 *db, int64_t id, int priority, struct dr_err *err) {
    return dd_sql_run(db, err,
                      "UPDATE jobs SET priority=max(priority,?) WHERE id=? AND state='queued'",
                      "ii", (int64_t)priority, id);
}

int dd_needs_take(sqlite3 *db, struct dd_need *n, int priority, struct dr_err *err) {
    int rc = dd_needs_find(db, &n->cfg, &n->id, err);
    if (!rc && n->id)
        rc = hurry(db, n->id, priority, err);
    if (rc || n->id)
        return rc;
    const char *name = n->cfg.name[0] ? n->cfg.name : "encoder";
    const struct dd_job_new in = {.cfg = &n->cfg,
                                  .recipe = name,
                                  .kind = dr_recipe_word(n->cfg.kind),
                                  .priority = priority,
                                  .changed = n->changed};
    n->made = true;
    return dd_job_insert(db, &in, n->json, n->cfg.train.steps, 0, 0, &n->id, err);
}

int dd_needs_read(const char *config_dir, const struct dr_config *cfg, struct dd_need *n,
                  struct dr_err *err) {
    if (!dd_encoder_ref_is_recipe(cfg))
        return 0;
    int rc = dd_encoder_recipe(config_dir, cfg, &n->cfg, err);
    if (!rc && !(n->json = dr_config_to_json(&n->cfg)))
        rc = dr_fail(err, DR_ENOMEM, "no memory for the configuration");
    if (!rc)
        n->changed = dd_changed(config_dir, n->cfg.name[0] ? n->cfg.name : "encoder", &n->cfg);
    return rc;
}

void dd_need_release(struct dd_need *n) {
    free(n->json);
    free(n->changed);
}

struct take {
    struct dd_need *need;
    int priority;
    int64_t parent; // that is to be evaluated
};
static int keep(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct take *t = arg;
    t->need->id = dd_needs_kept_judge(db, t->parent);
    return t->need->id ? hurry(db, t->need->id, t->priority, err) : 0;
}
static int take(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct take *t = arg;
    return dd_needs_take(db, t->need, t->priority, err);
}

int dd_needs_judge(struct dd_jobs *j, const char *config, int priority, int64_t *id,
                   struct dr_err *err) {
    struct dr_config cfg;
    struct dd_need *n = dd_xcalloc(1, sizeof *n);
    int rc = dr_config_parse(config, strlen(config), NULL, &cfg, err);
    struct take t = {n, priority, rc ? 0 : cfg.eval.job};
    if (!rc && dd_encoder_ref_is_recipe(&cfg))
        rc = dd_store_do(j->env.store, keep, &t, err);
    if (!rc && !n->id)
        rc = dd_needs_read(j->env.opt->config_dir, &cfg, n, err);
    if (!rc && n->json)
        rc = dd_store_do(j->env.store, take, &t, err);
    *id = n->id;
    if (!rc && n->made)
        dd_job_event(j, n->id, "", "queued", NULL);
    dd_need_release(n);
    free(n);
    return rc;
}

int dd_needs_check_drop(sqlite3 *db, const char *ids, struct dr_err *err) {
#define BY(column, what)                                                                           \
    "SELECT id, " column ", '" what "' FROM jobs WHERE " column " IN " DD_JOBS_LISTED              \
    " AND id NOT IN " DD_JOBS_LISTED " AND state IN " OPEN
    sqlite3_stmt *st = dd_sql_prepare(
        db, err, BY("needs", "encoder") " UNION ALL " BY("judge", "judge") " LIMIT 1", "t", ids);
    int rc = st ? 0 : DR_EIO;
    if (st && sqlite3_step(st) == SQLITE_ROW)
        rc = dr_fail(
            err, DR_ECONFLICT, "job %lld needs the %s of job %lld; stop or remove that job first",
            (long long)sqlite3_column_int64(st, 0), (const char *)sqlite3_column_text(st, 2),
            (long long)sqlite3_column_int64(st, 1));
    sqlite3_finalize(st);
    return rc;
}

int dd_needs_raise(sqlite3 *db, int64_t id, struct dr_err *err) {
    return dd_sql_run(db, err,
                      "UPDATE jobs SET priority=max(jobs.priority,j.priority) FROM jobs j WHERE"
                      " j.id=? AND jobs.id IN (j.needs,j.judge) AND jobs.state='queued'",
                      "i", id);
}

int dd_needs_resume(sqlite3 *db, int64_t id, int64_t *woken, bool *missing, char old[16],
                    struct dr_err *err) {
    static const char *const idle[] = {"paused", "stopped", "failed", "interrupted", NULL};
    const int64_t need = dd_sql_one(db, 0, "SELECT needs FROM jobs WHERE id=?", "i", id);
    *woken = 0;
    *missing = false;
    if (!need)
        return 0;
    if (dd_job_state(db, need, old, NULL) ||
        (!strcmp(old, "completed") &&
         !dd_sql_one(db, 0, "SELECT 1 FROM checkpoints WHERE job=? AND state='ok'", "i", need))) {
        *missing = true;
        return 0;
    }
    if (!dd_one_of(old, idle))
        return 0;
    *woken = need;
    int rc = dd_sql_run(db, err,
                        "UPDATE jobs SET state='queued', error=NULL, ended_us=NULL, resume=1,"
                        " crashes=0 WHERE id=?",
                        "i", need);
    return rc ? rc : dd_needs_raise(db, id, err);
}

// --- those that wait ---

struct settle {
    int n;
    struct fallen {
        int64_t id, need;
        char state[16], error[600];
    } fallen[FALLEN];
};

// A stopped need stops those that wait for it, so that resuming them goes on with both.
static void judge(struct fallen *f, sqlite3_stmt *st) {
    const char *state = (const char *)sqlite3_column_text(st, 2),
               *name = (const char *)sqlite3_column_text(st, 3),
               *why = (const char *)sqlite3_column_text(st, 4);
    char start[61];
    snprintf(start, sizeof start, "%s", name ? name : "");
    dd_trim_text(start);
    f->id = sqlite3_column_int64(st, 0);
    f->need = sqlite3_column_int64(st, 1);
    snprintf(f->state, sizeof f->state, "%s",
             state && !strcmp(state, "stopped") ? "stopped" : "failed");
    if (!state)
        snprintf(f->error, sizeof f->error,
                 "job %lld, which was to train the encoder, has been removed; resume this job to "
                 "train it anew",
                 (long long)f->need);
    else if (!strcmp(state, "stopped"))
        snprintf(f->error, sizeof f->error,
                 "job %lld (%s), which trains the encoder, was stopped; resume this job to go on "
                 "with both",
                 (long long)f->need, name);
    else
        snprintf(f->error, sizeof f->error,
                 "job %lld (%s), which trains the encoder, failed%s%.400s", (long long)f->need,
                 start, why ? ": " : "", why ? why : "");
    dd_trim_text(f->error);
}

static int settle(sqlite3 *db, void *arg, struct dr_err *err) {
    struct settle *s = arg;
    sqlite3_stmt *st = dd_sql_prepare(
        db, err,
        "SELECT j.id, j.needs, n.state, n.name, n.error FROM jobs j LEFT JOIN jobs n ON"
        " n.id=j.needs WHERE j.state='queued' AND j.needs IS NOT NULL AND"
        " (n.id IS NULL OR n.state IN ('failed','stopped')) LIMIT ?",
        "i", (int64_t)FALLEN);
    s->n = 0;
    while (st && sqlite3_step(st) == SQLITE_ROW)
        judge(&s->fallen[s->n++], st);
    sqlite3_finalize(st);
    int rc = st ? 0 : DR_EIO;
    for (int i = 0; i < s->n && !rc; i++)
        rc = dd_sql_run(db, err, "UPDATE jobs SET state=?, error=?, ended_us=? WHERE id=?", "ttii",
                        s->fallen[i].state, s->fallen[i].error, dd_wall_us(), s->fallen[i].id);
    return rc;
}

void dd_needs_settle(struct dd_jobs *j) {
    struct settle *s = dd_xcalloc(1, sizeof *s);
    struct dr_err err = {0};
    sqlite3 *db = dd_store_reader(j->env.store, &err); // mostly there is nothing to write
    const int64_t waiting =
        db ? dd_sql_one(db, 0, "SELECT 1 FROM jobs WHERE state='queued' AND needs IS NOT NULL", "")
           : 0;
    sqlite3_close(db);
    if (waiting && !dd_store_do(j->env.store, settle, s, &err))
        for (int i = 0; i < s->n; i++)
            dd_job_event(j, s->fallen[i].id, "queued", s->fallen[i].state, s->fallen[i].error);
    free(s);
}

// The newest checkpoint of the job that this one has waited for. One whose file is gone is marked
// as removed, so that resuming the job finds out.
static int of_need(struct dd_job *job, const char *key, char path[DD_PATH_MAX],
                   struct dr_err *err) {
    struct dd_store *store = job->env->store;
    sqlite3 *db = dd_store_reader(store, err);
    if (!db)
        return DR_EIO;
    const int64_t need = dd_sql_one(db, 0, "SELECT needs FROM jobs WHERE id=?", "i", job->id);
    const int64_t ckpt = dd_sql_one(db, 0,
                                    "SELECT id FROM checkpoints WHERE job=? AND state='ok'"
                                    " ORDER BY step DESC, id DESC LIMIT 1",
                                    "i", need);
    sqlite3_close(db);
    char id[24];
    snprintf(id, sizeof id, "%lld", (long long)ckpt);
    int rc = ckpt ? dd_ckpt_find(store, NULL, key, id, path, err) : DR_ENOENT;
    if (ckpt && !rc && access(path, F_OK) && errno == ENOENT) {
        char *stored = dd_store_rel(store, path);
        json_t *paths = json_pack("[s]", stored);
        rc = dd_ckpt_lost(store, job->env->events, paths, err);
        rc = rc ? rc : DR_ENOENT;
        json_decref(paths);
        free(stored);
    }
    return rc != DR_ENOENT ? rc
                           : dr_fail_at(err, rc, key,
                                        "%s: job %lld has no checkpoint of the encoder any more; "
                                        "resume this job to train it anew",
                                        key, (long long)need);
}

int dd_needs_encoder(struct dd_job *job, char path[DD_PATH_MAX], struct dr_err *err) {
    const char *word, *key = dd_encoder_key(&job->cfg);
    const enum dd_encoder_ref ref = dd_encoder_ref(&job->cfg, &word);
    path[0] = 0;
    if (ref == DD_ENCODER_NONE)
        return 0;
    return ref == DD_ENCODER_RECIPE
               ? of_need(job, key, path, err)
               : dd_ckpt_find(job->env->store, job->env->opt->data_dir, key, word, path, err);
}
