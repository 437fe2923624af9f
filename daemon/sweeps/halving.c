// Searches by successive halving (sweeps.h): when a rung's runs have ended, the best of them are
// trained again with more steps. The next rung's jobs and the sweep's count of rungs change in one
// transaction.
#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "daemon/evals/evals.h"
#include "daemon/sweeps/priv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct next_cell {
    struct dr_config cfg;
    char name[201], recipe[64];
    struct dd_job_draft *draft;
};
struct promotion {
    int64_t id, rung;
    const char *error; // no rung follows
    struct next_cell *cell;
    int n;
};

// --- which go on ---

struct ranked {
    const json_t *row;
    double score;
};

static double score_of(const json_t *row, const char *metric) {
    const json_t *v = json_object_get(json_object_get(row, "values"), metric);
    return v ? json_number_value(json_object_get(v, "mean")) : NAN;
}

static bool better(const struct dd_sweep_halving *h, double a, double b) {
    int m;
    enum dd_eval_by by;
    struct dr_err ignored;
    if (!dd_eval_metric_find(h->metric, &m, &by, "metric", &ignored))
        return dd_eval_better(m, a, b);
    return h->most ? a > b : a < b;
}

// Rows of the rung in the order of their scores, one per configuration: that of the smallest scale.
// Returns how many; *all: with those that have no score.
static int rank(const json_t *table, const struct dd_sweep_halving *h, int64_t rung,
                struct ranked *out, int *all) {
    json_t *row, *seen = json_object();
    size_t i;
    int n = 0;
    *all = 0;
    json_array_foreach(json_object_get(table, "rows"), i, row) {
        if (json_integer_value(json_object_get(row, "rung")) != rung)
            continue;
        char *key = dd_sweep_key(row);
        const bool another_scale = json_object_get(seen, key) != NULL;
        json_object_set_new(seen, key, json_true());
        free(key);
        if (another_scale)
            continue;
        ++*all;
        const struct ranked r = {row, score_of(row, h->metric)};
        if (isnan(r.score))
            continue;
        int at = n++;
        for (; at > 0 && better(h, r.score, out[at - 1].score); at--)
            out[at] = out[at - 1];
        out[at] = r;
    }
    json_decref(seen);
    return n;
}

// --- their jobs ---

static int add_cell(struct dd_jobs *j, sqlite3 *db, struct promotion *p,
                    const struct dd_sweep_spec *spec, int64_t cell, struct dr_err *err) {
    struct next_cell *c = &p->cell[p->n++];
    json_t *budget = dd_sweep_budget(&spec->halving, (int)p->rung + 1);
    char *more = json_dumps(budget, JSON_COMPACT);
    sqlite3_stmt *st = dd_sql_prepare(
        db, err, "SELECT config, recipe, label, seed FROM sweep_cells WHERE sweep=? AND cell=?",
        "ii", p->id, cell);
    int rc = st ? DR_ENOENT : DR_EIO;
    if (st && more && sqlite3_step(st) == SQLITE_ROW) {
        const char *json = (const char *)sqlite3_column_text(st, 0);
        snprintf(c->recipe, sizeof c->recipe, "%s", (const char *)sqlite3_column_text(st, 1));
        snprintf(c->name, sizeof c->name, "%.80s: %.70s, seed %lld, rung %lld", spec->name,
                 (const char *)sqlite3_column_text(st, 2), (long long)sqlite3_column_int64(st, 3),
                 (long long)p->rung + 1);
        dd_trim_text(c->name);
        rc = dr_config_parse(json, strlen(json), NULL, &c->cfg, err);
        if (!rc)
            rc = dr_config_merge(&c->cfg, more, strlen(more), NULL, err);
    }
    sqlite3_finalize(st);
    free(more);
    json_decref(budget);
    const struct dd_job_new in = {.cfg = &c->cfg,
                                  .recipe = c->recipe,
                                  .name = c->name,
                                  .kind = dr_recipe_word(c->cfg.kind),
                                  .priority = spec->priority,
                                  .cell = cell,
                                  .rung = p->rung + 1,
                                  .like = dd_sql_one(db, 0,
                                                     "SELECT id FROM jobs WHERE sweep=? AND cell=?"
                                                     " AND rung=?",
                                                     "iii", p->id, cell, p->rung)};
    return rc ? rc : dd_job_draft(j, &in, &c->draft, err);
}

static int put(sqlite3 *db, void *arg, struct dr_err *err) {
    struct promotion *p = arg;
    int64_t job;
    if (!dd_sql_one(db, 0, "SELECT 1 FROM sweeps WHERE id=? AND rung=? AND stopped=0", "ii", p->id,
                    p->rung))
        return dr_fail(err, DR_ECONFLICT, "sweep %lld has been stopped", (long long)p->id);
    int rc = p->error ? dd_sql_run(db, err, "UPDATE sweeps SET error=? WHERE id=?", "ti", p->error,
                                   p->id)
                      : dd_sql_run(db, err, "UPDATE sweeps SET rung=rung+1 WHERE id=?", "i", p->id);
    for (int i = 0; i < p->n && !rc && !p->error; i++)
        rc = dd_job_draft_put(db, p->cell[i].draft, p->id, &job, err);
    return rc;
}

static int choose(struct dd_jobs *j, sqlite3 *db, struct promotion *p,
                  const struct dd_sweep_spec *spec, struct dr_err *err) {
    json_t *table = dd_sweep_table_of(db, p->id, err), *cell;
    if (!table)
        return err->code;
    struct ranked *r = dd_xcalloc(json_array_size(json_object_get(table, "rows")) + 1, sizeof *r);
    int all, rc = 0, n = rank(table, &spec->halving, p->rung, r, &all);
    const int keep = DR_MIN(n, DR_MAX(1, all / spec->halving.keep));
    size_t i;
    if (!n)
        rc = dr_fail(err, DR_EINVAL, "no run of rung %lld has the metric %s", (long long)p->rung,
                     spec->halving.metric);
    p->cell = dd_xcalloc((size_t)spec->n, sizeof *p->cell);
    for (int k = 0; k < keep && !rc; k++)
        json_array_foreach(json_object_get(r[k].row, "cells"), i, cell) if (!rc && p->n < spec->n)
            rc = add_cell(j, db, p, spec, json_integer_value(cell), err);
    free(r);
    json_decref(table);
    return rc;
}

static void promote(struct dd_jobs *j, sqlite3 *db, struct promotion *p) {
    struct dd_sweep_spec spec = {0};
    struct dr_err err = {0}, why = {0};
    char q[600];
    json_t *problems = json_array(), *file = dd_sweep_file(db, p->id, &err);
    int rc = file && dd_sweep_parse(file, &spec, problems)
                 ? choose(j, db, p, &spec, &err)
                 : dr_fail(&err, DR_ECONFIG, "this driftd cannot read the file of the sweep");
    const bool later = rc == DR_EIO || rc == DR_EBUSY || rc == DR_ENOMEM || rc == DR_ENOSPC;
    if (rc) // it ends here, with the reason
        p->error = err.msg;
    const bool put_in = !later && !dd_store_do(dd_jobs_store(j), put, p, &why);
    if (put_in)
        dd_log(p->error ? DR_LOG_WARN : DR_LOG_INFO, "sweep.rung", "sweep=%lld rung=%lld%s%s",
               (long long)p->id, (long long)p->rung + 1, p->error ? " reason=" : "",
               p->error ? dd_log_quote(p->error, q, sizeof q) : "");
    for (int i = 0; i < p->n; i++)
        dd_job_draft_free(j, p->cell[i].draft, put_in && !p->error);
    free(p->cell);
    p->error = NULL;
    dd_sweep_spec_free(&spec);
    json_decref(problems);
    json_decref(file);
    if (put_in)
        dd_jobs_wake(j);
}

void dd_sweeps_between(void *ctx) {
    struct dd_jobs *j = *(struct dd_jobs **)ctx;
    struct dr_err err = {0};
    sqlite3 *db = dd_store_reader(dd_jobs_store(j), &err);
    sqlite3_stmt *st =
        db ? dd_sql_prepare(
                 db, &err,
                 "SELECT s.id, s.rung FROM sweeps s WHERE s.rung+1<s.rungs AND s.stopped=0 AND"
                 " s.error IS NULL AND NOT EXISTS(SELECT 1 FROM jobs j WHERE j.sweep=s.id AND"
                 " (j.state NOT IN ('completed','failed') OR EXISTS(SELECT 1 FROM jobs e WHERE"
                 " e.parent=j.id AND e.state NOT IN ('completed','failed'))))",
                 "")
           : NULL;
    struct promotion due[4]; // the others at the next call
    int n = 0;
    while (st && n < (int)DR_COUNT(due) && sqlite3_step(st) == SQLITE_ROW)
        due[n++] = (struct promotion){.id = sqlite3_column_int64(st, 0),
                                      .rung = sqlite3_column_int64(st, 1)};
    sqlite3_finalize(st);
    for (int i = 0; i < n; i++)
        promote(j, db, &due[i]);
    sqlite3_close(db);
}
