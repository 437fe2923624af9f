// Submission of sweeps, stop, resume and removal (sweeps.h). Rows and jobs are made in one
// transaction: a process that dies has made all of them or none.
#include "daemon/base/util.h"
#include "daemon/evals/evals.h"
#include "daemon/store/checkpoints.h"
#include "daemon/store/keys.h"
#include "daemon/sweeps/priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// --- submission ---

struct built {
    struct dr_config cfg;
    char name[200], recipe[64], *params, *json;
    struct dd_job_draft *draft;
};
struct submit {
    const struct dd_sweep_new *in;
    const struct dd_sweep_spec *spec;
    struct built *built; // [spec->n]
    char *file;
    int64_t id;
    bool replayed;
};

// Where the file has the key that an error is at.
static const char *origin(const struct dd_sweep_cell *c, const char *field) {
    const char *path = json_string_value(json_object_get(c->from, field));
    return path ? path : !strncmp(field, "eval.", 5) ? "eval" : c->recipe;
}

static void build_one(struct dd_jobs *j, const struct dd_sweep_new *in,
                      const struct dd_sweep_spec *spec, int i, struct built *b, json_t *problems) {
    const struct dd_sweep_cell *c = &spec->cell[i];
    struct dr_err err = {0};
    struct dr_problems list = {0};
    unsigned metrics[DD_EVAL_BYS];
    int rc = in->build(in->ctx, c->config, c->overrides, &b->cfg, &list, &err);
    if (!rc) // before the cell is kept: later rungs are to have the same checkpoints
        rc = dd_ckpt_pin(dd_jobs_store(j), &b->cfg, &err);
    if (!rc) {
        snprintf(b->recipe, sizeof b->recipe, "%s", b->cfg.name[0] ? b->cfg.name : "custom");
        snprintf(b->name, sizeof b->name, "%.90s: %.80s, seed %lld", spec->name, c->label,
                 (long long)c->seed);
        dd_trim_text(b->name);
        b->params = json_dumps(c->params, JSON_COMPACT);
        b->json = dr_config_to_json(&b->cfg);
        const struct dd_job_new job = {.cfg = &b->cfg,
                                       .recipe = b->recipe,
                                       .name = b->name,
                                       .kind = dr_recipe_word(b->cfg.kind),
                                       .priority = spec->priority,
                                       .cell = i};
        if (!b->params || !b->json)
            rc = dr_fail(&err, DR_ENOMEM, "no memory for the configuration");
        else if (b->cfg.kind == DR_RECIPE_EVAL)
            rc = dr_fail_at(&err, DR_ECONFIG, "kind",
                            "is a recipe of kind eval; expected one that trains");
        else if (dr_config_evaluates(&b->cfg))
            rc = dd_eval_metrics_parse(b->cfg.eval.metrics, metrics, &err);
        if (!rc)
            rc = dd_job_draft(j, &job, &b->draft, &err);
    }
    for (int k = 0; k < list.n; k++)
        dd_sweep_problem(problems, origin(c, list.row[k].field), "%s", list.row[k].msg);
    if (rc && !list.n)
        dd_sweep_problem(problems, origin(c, err.field), "%s", err.msg);
}

static void check_metric(const struct submit *s, const char *field, const char *name,
                         json_t *problems) {
    bool evaluates = true, trains = false;
    if (!name)
        return;
    for (int i = 0; i < s->spec->n; i++) {
        evaluates &= dr_config_evaluates(&s->built[i].cfg);
        trains |= dd_sweep_reports(&s->built[i].cfg, name);
    }
    if (dd_sweep_evaluated(name) && !evaluates)
        dd_sweep_problem(problems, field,
                         "%.40s is measured by evaluations; expected a block `eval` with a judge",
                         name);
    else if (!dd_sweep_evaluated(name) && !trains)
        dd_sweep_no_metric(problems, field, name, &s->built[0].cfg);
}

static void check_metrics(const struct submit *s, json_t *problems) {
    json_t *m;
    size_t i;
    char field[40];
    json_array_foreach(json_object_get(s->in->file, "metrics"), i, m) {
        snprintf(field, sizeof field, "metrics[%zu]", i);
        check_metric(s, field, json_string_value(m), problems);
    }
    if (s->spec->halving.keep)
        check_metric(s, "search.metric", s->spec->halving.metric, problems);
}

// The sweep that the key has made, if there is one. DR_EGONE: it has been removed.
static int known_key(sqlite3 *db, struct submit *s, struct dr_err *err) {
    const char *fp = s->in->fingerprint ? s->in->fingerprint : "";
    sqlite3_stmt *st =
        dd_sql_prepare(db, err, "SELECT id, fingerprint FROM sweeps WHERE key=? AND created_us>=?",
                       "ti", s->in->key, dd_key_since());
    int rc = st ? 0 : DR_EIO;
    if (st && sqlite3_step(st) == SQLITE_ROW) {
        s->id = sqlite3_column_int64(st, 0);
        s->replayed = true;
        if (strcmp(fp, (const char *)sqlite3_column_text(st, 1)))
            rc = dr_fail_at(err, DR_EINVAL, "Idempotency-Key",
                            "Idempotency-Key: this key was used with another body");
    }
    sqlite3_finalize(st);
    return rc || s->replayed ? rc : dd_key_check(db, "sweep", s->in->key, err);
}

// Before anything is checked, since what the file names may be gone by now.
static int replay(struct dd_jobs *j, struct submit *s, struct dr_err *err) {
    if (!s->in->key || s->in->check)
        return 0;
    sqlite3 *db = dd_store_reader(dd_jobs_store(j), err);
    int rc = db ? known_key(db, s, err) : DR_EIO;
    sqlite3_close(db);
    return rc;
}

static int insert(sqlite3 *db, void *arg, struct dr_err *err) {
    struct submit *s = arg;
    const struct dd_sweep_spec *spec = s->spec;
    int rc = s->in->key ? known_key(db, s, err) : 0;
    if (rc || s->replayed)
        return rc;
    if (s->in->key) // an older one's key is free again
        rc = dd_sql_run(db, err, "UPDATE sweeps SET key=NULL WHERE key=?", "t", s->in->key);
    if (!rc)
        rc = dd_sql_run(db, err,
                        "INSERT INTO sweeps(name,file,rungs,created_us,key,fingerprint)"
                        " VALUES(?,?,?,?,?,?)",
                        "ttiitt", spec->name, s->file,
                        (int64_t)(spec->halving.keep ? spec->halving.rungs : 1), dd_wall_us(),
                        s->in->key, s->in->fingerprint ? s->in->fingerprint : "");
    s->id = sqlite3_last_insert_rowid(db);
    for (int i = 0; i < spec->n && !rc; i++) {
        const struct built *b = &s->built[i];
        int64_t job;
        rc = dd_sql_run(db, err, "INSERT INTO sweep_cells VALUES(?,?,?,?,?,?,?)", "iittitt", s->id,
                        (int64_t)i, spec->cell[i].label, b->params, spec->cell[i].seed, b->recipe,
                        b->json);
        if (!rc)
            rc = dd_job_draft_put(db, b->draft, s->id, &job, err);
    }
    return rc;
}

static void release(struct dd_jobs *j, struct submit *s, bool committed) {
    for (int i = 0; s->built && i < s->spec->n; i++) {
        dd_job_draft_free(j, s->built[i].draft, committed);
        free(s->built[i].params);
        free(s->built[i].json);
    }
    free(s->built);
    free(s->file);
    if (committed)
        dd_jobs_wake(j);
}

static int wrong(const json_t *problems, struct dr_err *err) {
    const json_t *first = json_array_get(problems, 0);
    const size_t n = json_array_size(problems);
    const char *field = json_string_value(json_object_get(first, "field"));
    return dr_fail_at(err, DR_ECONFIG, field, "%s%s%.300s%s", field, *field ? ": " : "",
                      json_string_value(json_object_get(first, "message")),
                      n > 1 ? " (the first of several problems)" : "");
}

static json_t *preview(const struct dd_sweep_spec *spec) {
    json_t *list = json_array();
    for (int i = 0; i < spec->n; i++)
        json_array_append_new(list, json_pack("{s:s, s:I}", "label", spec->cell[i].label, "seed",
                                              (json_int_t)spec->cell[i].seed));
    return list;
}

// Checks the whole file and makes every job of it, none of them in the database yet.
static bool build_all(struct dd_jobs *j, struct submit *s, struct dd_sweep_spec *spec,
                      json_t *problems) {
    if (!dd_sweep_parse(s->in->file, spec, problems))
        return false;
    s->built = dd_xcalloc((size_t)spec->n, sizeof *s->built);
    for (int i = 0; i < spec->n && json_array_size(problems) < DD_SWEEP_MAX_PROBLEMS; i++)
        build_one(j, s->in, spec, i, &s->built[i], problems);
    if (!json_array_size(problems))
        check_metrics(s, problems);
    return !json_array_size(problems);
}

int dd_sweep_create(struct dd_jobs *j, const struct dd_sweep_new *in, struct dd_sweep_made *out,
                    json_t *problems, struct dr_err *err) {
    struct dd_sweep_spec spec = {0};
    struct submit s = {.in = in, .spec = &spec};
    *out = (struct dd_sweep_made){0};
    int rc = replay(j, &s, err);
    if (!rc && !s.replayed && !build_all(j, &s, &spec, problems))
        rc = wrong(problems, err);
    if (!rc && in->check)
        out->preview = preview(&spec);
    if (!rc && !in->check && !s.replayed) {
        s.file = json_dumps(in->file, JSON_COMPACT);
        rc = s.file ? dd_store_do(dd_jobs_store(j), insert, &s, err)
                    : dr_fail(err, DR_ENOMEM, "no memory for the file");
    }
    release(j, &s, !rc && !in->check && !s.replayed);
    out->id = s.id;
    out->replayed = s.replayed;
    out->cells = spec.n;
    dd_sweep_spec_free(&spec);
    return rc;
}

// --- actions ---

struct ids {
    int n, room;
    int64_t *id;
};

// Ids of a query over one sweep.
static int list(sqlite3 *db, int64_t sweep, const char *sql, struct ids *out, struct dr_err *err) {
    sqlite3_stmt *st = dd_sql_prepare(db, err, sql, "i", sweep);
    while (st && sqlite3_step(st) == SQLITE_ROW) {
        if (out->n == out->room) {
            out->room = out->room ? 2 * out->room : 64;
            out->id = realloc(out->id, (size_t)out->room * sizeof *out->id);
            if (!out->id)
                abort();
        }
        out->id[out->n++] = sqlite3_column_int64(st, 0);
    }
    sqlite3_finalize(st);
    return st ? 0 : DR_EIO;
}

struct flag {
    int64_t id;
    int stopped;
    struct ids waiting, running; // out
};

static int exists(sqlite3 *db, int64_t id, struct dr_err *err) {
    return dd_sql_one(db, 0, "SELECT 1 FROM sweeps WHERE id=?", "i", id)
               ? 0
               : dr_fail(err, DR_ENOENT, "there is no sweep %lld", (long long)id);
}

// All in one transaction: jobs that wait are stopped, those that run are marked, so that whatever
// process has the database next does not begin them again.
static int stop(sqlite3 *db, void *arg, struct dr_err *err) {
    struct flag *f = arg;
    f->waiting.n = f->running.n = 0;
    int rc = exists(db, f->id, err);
    if (!rc)
        rc = list(db, f->id,
                  "SELECT id FROM jobs j WHERE " DD_SWEEP_JOBS
                  " AND state IN ('queued','paused','interrupted')",
                  &f->waiting, err);
    if (!rc)
        rc = list(db, f->id, "SELECT id FROM jobs j WHERE " DD_SWEEP_JOBS " AND state='running'",
                  &f->running, err);
    if (!rc)
        rc = dd_sql_run(db, err, "UPDATE sweeps SET stopped=1 WHERE id=?", "i", f->id);
    if (!rc)
        rc = dd_sql_run(db, err,
                        "UPDATE jobs AS j SET state='stopped', ended_us=?2 WHERE " DD_SWEEP_JOBS
                        " AND state IN ('queued','paused','interrupted')",
                        "ii", f->id, dd_wall_us());
    if (!rc)
        rc = dd_sql_run(db, err,
                        "UPDATE jobs AS j SET state='stopping' WHERE " DD_SWEEP_JOBS
                        " AND state='running'",
                        "i", f->id);
    return rc;
}

int dd_sweep_stop(struct dd_jobs *j, int64_t id, struct dr_err *err) {
    struct flag f = {.id = id};
    struct dr_err ended; // meanwhile
    int rc = dd_store_do(dd_jobs_store(j), stop, &f, err);
    for (int i = 0; !rc && i < f.waiting.n; i++)
        dd_jobs_tell(j, f.waiting.id[i], "queued", "stopped");
    for (int i = 0; !rc && i < f.running.n; i++)
        dd_jobs_action(j, f.running.id[i], DD_JOB_STOP, &ended);
    free(f.waiting.id);
    free(f.running.id);
    return rc;
}

// --- resume ---

struct missing {
    struct dr_config cfg;
    int64_t cell;
    char name[201], recipe[64];
    struct dd_job_draft *draft;
};
struct again {
    int64_t id, rung;
    int n;
    struct missing *cell;
    struct ids idle;
};

static int read_missing(sqlite3 *db, struct again *a, json_t *file, struct dr_err *err) {
    const char *name = json_string_value(json_object_get(file, "name"));
    sqlite3_stmt *st = dd_sql_prepare(
        db, err,
        "SELECT cell, label, seed, recipe, config FROM sweep_cells c WHERE sweep=?1 AND NOT"
        " EXISTS(SELECT 1 FROM jobs j WHERE j.sweep=?1 AND j.cell=c.cell)",
        "i", a->id);
    int rc = st ? 0 : DR_EIO;
    while (st && !rc && sqlite3_step(st) == SQLITE_ROW) {
        a->cell = realloc(a->cell, (size_t)(a->n + 1) * sizeof *a->cell);
        if (!a->cell)
            abort();
        struct missing *m = &a->cell[a->n++];
        const char *json = (const char *)sqlite3_column_text(st, 4);
        *m = (struct missing){.cell = sqlite3_column_int64(st, 0)};
        snprintf(m->name, sizeof m->name, "%.90s: %.80s, seed %lld", name,
                 (const char *)sqlite3_column_text(st, 1), (long long)sqlite3_column_int64(st, 2));
        dd_trim_text(m->name);
        snprintf(m->recipe, sizeof m->recipe, "%s", (const char *)sqlite3_column_text(st, 3));
        rc = dr_config_parse(json, strlen(json), NULL, &m->cfg, err);
    }
    sqlite3_finalize(st);
    return rc;
}

static int read_again(struct dd_jobs *j, struct again *a, int *priority, struct dr_err *err) {
    sqlite3 *db = dd_store_reader(dd_jobs_store(j), err);
    json_t *file = db ? dd_sweep_file(db, a->id, err) : NULL;
    const json_t *p = json_object_get(file, "priority");
    int rc = file ? 0 : err->code;
    *priority = p ? (int)json_integer_value(p) : -1;
    a->rung = db ? dd_sql_one(db, 0, "SELECT rung FROM sweeps WHERE id=?", "i", a->id) : 0;
    if (!rc && !a->rung) // what was dropped by a search stays so
        rc = read_missing(db, a, file, err);
    if (!rc)
        rc = list(db, a->id,
                  "SELECT id FROM jobs j WHERE " DD_SWEEP_JOBS
                  " AND state IN ('stopped','paused','interrupted','failed') ORDER BY id",
                  &a->idle, err);
    json_decref(file);
    sqlite3_close(db);
    return rc;
}

static int put_missing(sqlite3 *db, void *arg, struct dr_err *err) {
    struct again *a = arg;
    int64_t job;
    int rc = exists(db, a->id, err);
    if (!rc)
        rc = dd_sql_run(db, err, "UPDATE sweeps SET stopped=0, error=NULL WHERE id=?", "i", a->id);
    for (int i = 0; i < a->n && !rc; i++)
        rc = dd_job_draft_put(db, a->cell[i].draft, a->id, &job, err);
    return rc;
}

int dd_sweep_resume(struct dd_jobs *j, int64_t id, struct dr_err *err) {
    struct again a = {.id = id};
    struct dr_err changed; // meanwhile, by another client
    int priority, rc = read_again(j, &a, &priority, err);
    for (int i = 0; i < a.n && !rc; i++) {
        struct missing *m = &a.cell[i];
        const struct dd_job_new in = {.cfg = &m->cfg,
                                      .recipe = m->recipe,
                                      .name = m->name,
                                      .kind = dr_recipe_word(m->cfg.kind),
                                      .priority = priority,
                                      .cell = m->cell};
        rc = dd_job_draft(j, &in, &m->draft, err);
    }
    if (!rc)
        rc = dd_store_do(dd_jobs_store(j), put_missing, &a, err);
    for (int i = 0; i < a.n; i++)
        dd_job_draft_free(j, a.cell[i].draft, !rc);
    for (int i = 0; i < a.idle.n && !rc; i++)
        dd_jobs_action(j, a.idle.id[i], DD_JOB_RESUME, &changed);
    free(a.cell);
    free(a.idle.id);
    if (!rc)
        dd_jobs_wake(j);
    return rc;
}

// --- removal ---

static int check_closed(sqlite3 *db, int64_t id, struct dr_err *err) {
    const int64_t open =
        dd_sql_one(db, 0,
                   "SELECT id FROM jobs j WHERE " DD_SWEEP_JOBS
                   " AND state IN ('queued','running','stopping','paused') LIMIT 1",
                   "i", id);
    return open ? dr_fail(err, DR_ECONFLICT,
                          "job %lld of sweep %lld has not ended; stop the sweep first",
                          (long long)open, (long long)id)
                : 0;
}

static int drop(sqlite3 *db, void *arg, struct dr_err *err) {
    const int64_t id = *(const int64_t *)arg;
    int rc = exists(db, id, err);
    if (!rc)
        rc = check_closed(db, id, err);
    if (!rc)
        rc = dd_key_retire(db, "sweep", "SELECT key FROM sweeps WHERE id=?2", id, err);
    return rc ? rc : dd_sql_run(db, err, "DELETE FROM sweeps WHERE id=?", "i", id);
}

static int list_closed(struct dd_jobs *j, int64_t id, struct ids *out, struct dr_err *err) {
    sqlite3 *db = dd_store_reader(dd_jobs_store(j), err);
    int rc = db ? exists(db, id, err) : DR_EIO;
    if (!rc)
        rc = check_closed(db, id, err);
    if (!rc)
        rc = list(db, id, "SELECT id FROM jobs j WHERE " DD_SWEEP_JOBS, out, err);
    sqlite3_close(db);
    return rc;
}

int dd_sweep_remove(struct dd_jobs *j, int64_t id, bool jobs, struct dr_err *err) {
    struct ids all = {0};
    if (!jobs)
        return dd_store_do(dd_jobs_store(j), drop, &id, err);
    int rc = list_closed(j, id, &all, err);
    if (!rc)
        rc = dd_jobs_remove_all(j, all.id, all.n, drop, &id, err);
    free(all.id);
    return rc;
}
