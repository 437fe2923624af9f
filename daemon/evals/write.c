// Writing the rows of evaluations (evals.h): planning the runs of a job, and how each ends.
#include "daemon/evals/evals.h"

#include "daemon/base/util.h"
#include "daemon/store/checkpoints.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

// --- what is to be evaluated ---

// The new rows of one source, one per guidance scale.
struct runs {
    int64_t eval_job, job, checkpoint, step;
    const char *job_name, *kind, *name, *folder;
    const struct dr_config *cfg;
};

static int insert(sqlite3 *db, const struct runs *r, struct dr_err *err) {
    const struct dr_eval_section *e = &r->cfg->eval;
    char source[300];
    int rc = 0;
    if (r->folder)
        snprintf(source, sizeof source, "folder:%s", r->folder);
    else
        snprintf(source, sizeof source, "checkpoint:%lld", (long long)r->checkpoint);
    for (int i = 0; i < (r->folder ? 1 : e->nalpha) && !rc; i++)
        rc = dd_sql_run(db, err,
                        "INSERT OR IGNORE INTO evals(job,job_name,eval_job,checkpoint,kind,source,"
                        "name,folder,step,data,weights,alpha,seed,n,state,created_us) VALUES("
                        "nullif(?,0),?,?,nullif(?,0),?,?,?,?,?,?,?,?,?,?,'queued',?)",
                        "itiittttittdiii", r->job, r->job_name, r->eval_job, r->checkpoint, r->kind,
                        source, r->name, r->folder, r->step, dr_set_facts(r->cfg->data.set)->name,
                        e->weights ? "raw" : "ema", r->folder ? 1.0 : e->alpha[i], e->seed, e->n,
                        dd_wall_us());
    return rc;
}

// One row of checkpoints with the name of its job: id, job, step, name, path, name of the job.
#define SOURCES                                                                                    \
    "SELECT c.id, coalesce(c.job,0), c.step, c.name, c.path, coalesce(j.name,'') FROM checkpoints" \
    " c LEFT JOIN jobs j ON j.id=c.job WHERE c.state='ok' AND "

static int insert_found(sqlite3 *db, sqlite3_stmt *st, int64_t eval_job,
                        const struct dr_config *cfg, struct dr_err *err) {
    const char *path = (const char *)sqlite3_column_text(st, 4), *base = strrchr(path, '/'),
               *own = (const char *)sqlite3_column_text(st, 3);
    char name[201];
    snprintf(name, sizeof name, "%s", *own ? own : base ? base + 1 : path);
    dd_trim_text(name);
    char *suffix = strstr(name, ".safetensors");
    if (suffix && !suffix[12])
        *suffix = 0;
    const struct runs r = {.eval_job = eval_job,
                           .job = sqlite3_column_int64(st, 1),
                           .checkpoint = sqlite3_column_int64(st, 0),
                           .step = sqlite3_column_int64(st, 2),
                           .job_name = (const char *)sqlite3_column_text(st, 5),
                           .kind = "checkpoint",
                           .name = name,
                           .cfg = cfg};
    return insert(db, &r, err);
}

struct plan {
    int64_t eval_job;
    const struct dr_config *cfg;
    bool again;
};

static int plan_checkpoints(sqlite3 *db, const struct plan *p, struct dr_err *err) {
    const struct dr_eval_section *e = &p->cfg->eval;
    sqlite3_stmt *st =
        e->checkpoint ? dd_sql_prepare(db, err, SOURCES "c.id=?", "i", e->checkpoint)
                      : dd_sql_prepare(db, err, SOURCES "c.job=? ORDER BY c.step", "i", e->job);
    int rc = st ? 0 : DR_EIO, n = 0;
    while (st && !rc && sqlite3_step(st) == SQLITE_ROW) {
        rc = insert_found(db, st, p->eval_job, p->cfg, err);
        n++;
    }
    sqlite3_finalize(st);
    const int64_t have =
        dd_sql_one(db, 0, "SELECT count(*) FROM evals WHERE eval_job=?", "i", p->eval_job);
    if (rc || n || have)
        return rc;
    return e->checkpoint ? dr_fail_at(err, DR_ENOENT, "eval.checkpoint",
                                      "eval.checkpoint: checkpoint %lld is not there any more",
                                      (long long)e->checkpoint)
                         : dr_fail_at(err, DR_ENOENT, "eval.job",
                                      "eval.job: job %lld has no checkpoints", (long long)e->job);
}

static int plan(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct plan *p = arg;
    int rc = dd_sql_run(db, err,
                        "UPDATE evals SET state='queued', error=NULL WHERE eval_job=? AND"
                        " (state='running' OR (state='failed' AND ?))",
                        "ii", p->eval_job, (int64_t)p->again);
    if (rc || dd_sql_one(db, 0, "SELECT parent FROM jobs WHERE id=?", "i", p->eval_job))
        return rc;
    if (!p->cfg->eval.folder[0])
        return plan_checkpoints(db, p, err);
    const struct runs r = {.eval_job = p->eval_job,
                           .job_name = "",
                           .kind = "folder",
                           .name = p->cfg->eval.folder,
                           .folder = p->cfg->eval.folder,
                           .cfg = p->cfg};
    return insert(db, &r, err);
}

int dd_eval_plan(struct dd_store *s, int64_t eval_job, const struct dr_config *cfg, bool again,
                 struct dr_err *err) {
    return dd_store_do(s, plan, &(struct plan){eval_job, cfg, again}, err);
}

// The data section of the job that made a checkpoint, or of the job itself.
static json_t *data_of(sqlite3 *db, int64_t job) {
    struct dr_err ignored;
    sqlite3_stmt *st = dd_sql_prepare(
        db, &ignored, "SELECT json_extract(config,'$.data') FROM jobs WHERE id=?", "i", job);
    const char *text =
        st && sqlite3_step(st) == SQLITE_ROW ? (const char *)sqlite3_column_text(st, 0) : NULL;
    json_t *o = text ? json_loads(text, 0, NULL) : NULL;
    sqlite3_finalize(st);
    return o;
}

static int check_checkpoint(struct dd_store *s, sqlite3 *db, int64_t id, json_t **data,
                            struct dr_err *err) {
    struct dd_ckpt_row row;
    struct dr_err why = {0};
    int rc = dd_ckpt_get(s, id, &row, &why);
    if (rc)
        return dr_fail_at(err, DR_EINVAL, "eval.checkpoint", "eval.checkpoint: %.300s", why.msg);
    if (strcmp(row.state, "ok"))
        rc = dr_fail_at(err, DR_EINVAL, "eval.checkpoint", "eval.checkpoint: checkpoint %s is %s",
                        row.id, row.state);
    else if (dd_ckpt_expect_generator(&row, &why))
        rc = dr_fail_at(err, DR_EINVAL, "eval.checkpoint", "eval.checkpoint: %.300s", why.msg);
    else
        *data = data_of(db, row.job);
    dd_ckpt_row_free(&row);
    return rc;
}

int dd_eval_sources(struct dd_store *s, const char *data_dir, const struct dr_eval_section *e,
                    json_t **data, struct dr_err *err) {
    char path[DD_PATH_MAX];
    struct stat st;
    *data = NULL;
    if (e->folder[0]) {
        if (dd_path(path, err, "%s/%s", data_dir ? data_dir : ".", e->folder) || stat(path, &st))
            return dr_fail_at(err, DR_EINVAL, "eval.folder",
                              "eval.folder: there is no folder %.200s below the data directory",
                              e->folder);
        return 0;
    }
    sqlite3 *db = dd_store_reader(s, err);
    if (!db)
        return DR_EIO;
    int rc = 0;
    if (e->checkpoint) {
        rc = check_checkpoint(s, db, e->checkpoint, data, err);
    } else {
        const int64_t n =
            dd_sql_one(db, -1,
                       "SELECT (SELECT count(*) FROM checkpoints WHERE job=?1 AND state='ok') FROM"
                       " jobs WHERE id=?1 AND kind='train'",
                       "i", e->job);
        if (n < 0)
            rc = dr_fail_at(err, DR_EINVAL, "eval.job",
                            "eval.job: there is no job %lld that trains a generator",
                            (long long)e->job);
        else if (!n)
            rc = dr_fail_at(err, DR_EINVAL, "eval.job", "eval.job: job %lld has no checkpoints",
                            (long long)e->job);
        else
            *data = data_of(db, e->job);
    }
    sqlite3_close(db);
    return rc;
}

// --- while a job trains ---

static int due(sqlite3 *db, void *arg, struct dr_err *err) {
    struct dd_eval_due *d = arg;
    int rc = 0;
    d->id = dd_sql_one(db, 0, "SELECT id FROM jobs WHERE parent=? AND kind='eval'", "i", d->job);
    d->made = !d->id;
    if (d->made) {
        char name[201], start[181];
        snprintf(start, sizeof start, "%s", d->name);
        dd_trim_text(start);
        snprintf(name, sizeof name, "%s, evaluated", start);
        rc = dd_sql_run(db, err,
                        "INSERT INTO jobs(name,kind,recipe,config,state,priority,created_us,"
                        "steps_total,needs,parent,changed) VALUES(?,'eval','',?,'queued',?,?,0,"
                        "nullif(?,0),?,?)",
                        "ttiiiit", name, d->config, (int64_t)d->priority, dd_wall_us(), d->needs,
                        d->job, d->changed);
        d->id = sqlite3_last_insert_rowid(db);
    }
    sqlite3_stmt *st = rc ? NULL : dd_sql_prepare(db, err, SOURCES "c.id=?", "i", d->checkpoint);
    if (st && sqlite3_step(st) == SQLITE_ROW)
        rc = insert_found(db, st, d->id, d->cfg, err);
    sqlite3_finalize(st);
    // A judge stays the judge, or what it measured could not be compared: another job than before
    // trains it only where the checkpoint of that one is gone. What runs has its judge already.
    if (!rc)
        rc = dd_sql_run(db, err,
                        "UPDATE jobs SET needs=nullif(?,0) WHERE id=? AND state NOT IN"
                        " ('running','stopping') AND NOT EXISTS(SELECT 1 FROM checkpoints c WHERE"
                        " c.job=jobs.needs AND c.state='ok')",
                        "ii", d->needs, d->id);
    if (!rc)
        rc = dd_sql_run(
            db, err, "UPDATE jobs SET judge=(SELECT e.needs FROM jobs e WHERE e.id=?) WHERE id=?",
            "ii", d->id, d->job);
    if (rc || d->made)
        return rc;
    d->queued = dd_sql_one(db, 0,
                           "SELECT 1 FROM jobs WHERE id=? AND state IN"
                           " ('completed','failed')",
                           "i", d->id) != 0;
    return !d->queued ? 0
                      : dd_sql_run(db, err,
                                   "UPDATE jobs SET state='queued', error=NULL, ended_us=NULL,"
                                   " resume=0 WHERE id=?",
                                   "i", d->id);
}

int dd_eval_due(struct dd_store *s, struct dd_eval_due *d, struct dr_err *err) {
    return dd_store_do(s, due, d, err);
}

// --- one run ---

struct next {
    int64_t eval_job;
    struct dd_eval_run *out;
};

static void copy_text(char *out, size_t size, sqlite3_stmt *st, int column) {
    const char *t = (const char *)sqlite3_column_text(st, column);
    snprintf(out, size, "%s", t ? t : "");
}

static int next(sqlite3 *db, void *arg, struct dr_err *err) {
    struct next *n = arg;
    struct dd_eval_run *r = n->out;
    *r = (struct dd_eval_run){.eval_job = n->eval_job};
    sqlite3_stmt *st = dd_sql_prepare(
        db, err,
        "SELECT id, coalesce(job,0), coalesce(checkpoint,0), step, alpha, source, name, job_name"
        " FROM evals WHERE eval_job=? AND state='queued' ORDER BY step, id LIMIT 1",
        "i", n->eval_job);
    if (!st)
        return DR_EIO;
    if (sqlite3_step(st) == SQLITE_ROW) {
        r->id = sqlite3_column_int64(st, 0);
        r->job = sqlite3_column_int64(st, 1);
        r->checkpoint = sqlite3_column_int64(st, 2);
        r->step = sqlite3_column_int64(st, 3);
        r->alpha = sqlite3_column_double(st, 4);
        copy_text(r->source, sizeof r->source, st, 5);
        copy_text(r->name, sizeof r->name, st, 6);
        copy_text(r->job_name, sizeof r->job_name, st, 7);
    }
    sqlite3_finalize(st);
    if (!r->id)
        return 0;
    return dd_sql_run(db, err,
                      "UPDATE evals SET state='running', started_us=coalesce(started_us,?) WHERE"
                      " id=?",
                      "ii", dd_wall_us(), r->id);
}

int dd_eval_next(struct dd_store *s, int64_t eval_job, struct dd_eval_run *out,
                 struct dr_err *err) {
    return dd_store_do(s, next, &(struct next){eval_job, out}, err);
}

struct counts {
    int64_t eval_job, *waiting, *ended;
};

static int counts(sqlite3 *db, void *arg, struct dr_err *err) {
    (void)err;
    const struct counts *c = arg;
    *c->waiting = dd_sql_one(
        db, 0, "SELECT count(*) FROM evals WHERE eval_job=? AND state='queued'", "i", c->eval_job);
    *c->ended = dd_sql_one(db, 0,
                           "SELECT count(*) FROM evals WHERE eval_job=? AND state IN"
                           " ('done','failed')",
                           "i", c->eval_job);
    return 0;
}

int dd_eval_counts(struct dd_store *s, int64_t eval_job, int64_t *waiting, int64_t *ended,
                   struct dr_err *err) {
    return dd_store_do(s, counts, &(struct counts){eval_job, waiting, ended}, err);
}

struct finish {
    const struct dd_eval_run *r;
    struct dd_eval_outcome *o;
    char *settings, *training, *details;
};

// Marks the best run of the training job among those that can be compared with this one, and its
// checkpoint.
static int mark_best(sqlite3 *db, const struct finish *f, struct dr_err *err) {
    const struct dd_eval_run *r = f->r;
    int metric;
    enum dd_eval_by by;
    int rc = dd_eval_metric_find(f->o->best, &metric, &by, "eval.best", err);
    if (rc)
        return rc;
    sqlite3_stmt *st = dd_sql_prepare(
        db, err,
        "SELECT e.id, coalesce(e.checkpoint,0), e.step, v.value FROM evals e JOIN eval_values v ON"
        " v.eval=e.id AND v.name=? WHERE e.eval_job=? AND e.comparable=? AND e.state='done' AND"
        " v.value IS NOT NULL ORDER BY e.step, e.id",
        "tit", f->o->best, r->eval_job, f->o->comparable);
    int64_t id = 0, checkpoint = 0, step = 0;
    double best = 0;
    while (st && sqlite3_step(st) == SQLITE_ROW) {
        const double v = sqlite3_column_double(st, 3);
        if (id && !dd_eval_better(metric, v, best))
            continue;
        best = v;
        id = sqlite3_column_int64(st, 0);
        checkpoint = sqlite3_column_int64(st, 1);
        step = sqlite3_column_int64(st, 2);
    }
    sqlite3_finalize(st);
    if (!st || !id)
        return st ? 0 : DR_EIO;
    rc =
        dd_sql_run(db, err, "UPDATE evals SET best=(id=?) WHERE eval_job=?", "ii", id, r->eval_job);
    if (!rc)
        rc = dd_sql_run(db, err, "UPDATE checkpoints SET best=(id=?) WHERE job=?", "ii", checkpoint,
                        r->job);
    f->o->is_best = id == r->id;
    f->o->since_best = dd_sql_one(db, 0,
                                  "SELECT count(DISTINCT step) FROM evals WHERE eval_job=? AND"
                                  " state='done' AND step>?",
                                  "ii", r->eval_job, step);
    return rc;
}

static int finish(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct finish *f = arg;
    struct dd_eval_outcome *o = f->o;
    int rc = dd_sql_run(db, err, "UPDATE jobs SET crashes=0 WHERE id=? AND crashes>0", "i",
                        f->r->eval_job);
    if (!rc)
        rc = dd_sql_run(db, err,
                        "UPDATE evals SET state='done', error=NULL, progress=1, comparable=?,"
                        " settings=?, training=?, details=?, epoch=?, ended_us=?, seconds=? WHERE"
                        " id=?",
                        "ttttdidi", o->comparable, f->settings, f->training, f->details, o->epoch,
                        dd_wall_us(), o->seconds, f->r->id);
    if (!rc)
        rc = dd_sql_run(db, err, "DELETE FROM eval_values WHERE eval=?", "i", f->r->id);
    for (int i = 0; i < o->n && !rc; i++)
        rc =
            dd_sql_run(db, err, "INSERT INTO eval_values VALUES(?,?,?,?,?)", "itddd", f->r->id,
                       o->value[i].name, o->value[i].value, o->value[i].stderr_, o->value[i].floor);
    o->is_best = false;
    o->since_best = 0;
    if (!rc && o->best && f->r->job)
        rc = mark_best(db, f, err);
    return rc;
}

int dd_eval_finish(struct dd_store *s, const struct dd_eval_run *r, struct dd_eval_outcome *o,
                   struct dr_err *err) {
    struct finish f = {r, o, json_dumps(o->settings, JSON_COMPACT),
                       json_dumps(o->training, JSON_COMPACT), json_dumps(o->details, JSON_COMPACT)};
    int rc = f.settings && f.training && f.details
                 ? dd_store_do(s, finish, &f, err)
                 : dr_fail(err, DR_ENOMEM, "no memory for the results of an evaluation");
    free(f.settings);
    free(f.training);
    free(f.details);
    dd_store_changed(s);
    return rc;
}

struct mark {
    const char *sql, *text;
    int64_t id;
    double progress;
};

static int mark(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct mark *m = arg;
    if (m->text)
        return dd_sql_run(db, err, m->sql, "tii", m->text, dd_wall_us(), m->id);
    return isnan(m->progress) ? dd_sql_run(db, err, m->sql, "i", m->id)
                              : dd_sql_run(db, err, m->sql, "di", m->progress, m->id);
}

int dd_eval_fail(struct dd_store *s, int64_t id, const char *why, struct dr_err *err) {
    return dd_store_do(
        s, mark,
        &(struct mark){"UPDATE evals SET state='failed', error=?, ended_us=? WHERE id=?", why, id,
                       0},
        err);
}

int dd_eval_give_up(struct dd_store *s, int64_t eval_job, const char *why, struct dr_err *err) {
    return dd_store_do(s, mark,
                       &(struct mark){"UPDATE evals SET state='failed', error=?, ended_us=? WHERE"
                                      " eval_job=? AND state IN ('queued','running')",
                                      why, eval_job, 0},
                       err);
}

int dd_eval_put_back(struct dd_store *s, int64_t id, double progress, struct dr_err *err) {
    return dd_store_do(
        s, mark,
        &(struct mark){"UPDATE evals SET state='queued', progress=? WHERE id=? AND state='running'",
                       NULL, id, progress},
        err);
}

int dd_eval_skip(struct dd_store *s, int64_t id, struct dr_err *err) {
    return dd_store_do(s, mark, &(struct mark){"DELETE FROM evals WHERE id=?", NULL, id, NAN}, err);
}

int64_t dd_eval_same(struct dd_store *s, const struct dd_eval_run *r, const char *comparable,
                     const char *weights, int64_t seed, struct dr_err *err) {
    sqlite3 *db = dd_store_reader(s, err);
    const int64_t id =
        db ? dd_sql_one(db, 0,
                        "SELECT id FROM evals WHERE source=? AND alpha=? AND comparable=? AND"
                        " weights=? AND seed=? AND state='done' AND id<>? LIMIT 1",
                        "tdttii", r->source, r->alpha, comparable, weights, seed, r->id)
           : 0;
    sqlite3_close(db);
    return id;
}

void dd_eval_event(struct dd_events *e, const struct dd_eval_run *r, const char *state,
                   double progress) {
    dd_event(e, "eval", r->job,
             json_pack("{s:o, s:o, s:s, s:I, s:f}", "id", json_sprintf("%lld", (long long)r->id),
                       "eval_job", json_sprintf("%lld", (long long)r->eval_job), "state", state,
                       "step", (json_int_t)r->step, "progress", progress));
}
