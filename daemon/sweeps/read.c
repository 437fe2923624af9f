// Sweeps as JSON (sweeps.h). What state one is in follows from its jobs.
#include "daemon/sweeps/priv.h"

#include "daemon/store/checkpoints.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *text(sqlite3_stmt *st, int i) {
    const char *t = (const char *)sqlite3_column_text(st, i);
    return t ? t : "";
}

static json_t *text_or_null(sqlite3_stmt *st, int i) {
    return *text(st, i) ? json_string(text(st, i)) : json_null();
}

struct counts {
    int64_t cells, jobs, queued, running, completed, failed, idle, evals, evals_idle, evals_failed;
    double done; // jobs, parts of jobs among them
};

static struct counts count(sqlite3 *db, int64_t id) {
    struct dr_err ignored;
    struct counts c = {
        .cells = dd_sql_one(db, 0, "SELECT count(*) FROM sweep_cells WHERE sweep=?", "i", id)};
    sqlite3_stmt *st = dd_sql_prepare(
        db, &ignored,
        "SELECT count(*), coalesce(sum(state='queued'),0), coalesce(sum(state IN"
        " ('running','stopping')),0), coalesce(sum(state='completed'),0),"
        " coalesce(sum(state='failed'),0), coalesce(sum(state IN"
        " ('stopped','paused','interrupted')),0), coalesce(sum(CASE WHEN state='completed' THEN 1"
        " WHEN steps_total>0 THEN min(1.0, 1.0*step/steps_total) ELSE 0 END),0) FROM jobs WHERE"
        " sweep=?",
        "i", id);
    int64_t *const into[] = {&c.jobs, &c.queued, &c.running, &c.completed, &c.failed, &c.idle};
    if (st && sqlite3_step(st) == SQLITE_ROW) {
        for (int i = 0; i < (int)DR_COUNT(into); i++)
            *into[i] = sqlite3_column_int64(st, i);
        c.done = sqlite3_column_double(st, (int)DR_COUNT(into));
    }
    sqlite3_finalize(st);
    st = dd_sql_prepare(db, &ignored,
                        "SELECT coalesce(sum(e.state IN " DD_SWEEP_OPEN
                        "),0), coalesce(sum(e.state IN ('stopped','paused','interrupted')),0),"
                        " coalesce(sum(e.state='failed'),0) FROM jobs e JOIN jobs j ON"
                        " j.id=e.parent WHERE j.sweep=?",
                        "i", id);
    if (st && sqlite3_step(st) == SQLITE_ROW) {
        c.evals = sqlite3_column_int64(st, 0);
        c.evals_idle = sqlite3_column_int64(st, 1);
        c.evals_failed = sqlite3_column_int64(st, 2);
    }
    sqlite3_finalize(st);
    return c;
}

static const char *state_of(const struct counts *c, bool stopped, bool more_rungs, bool error) {
    const bool open = c->queued || c->running || c->evals;
    if (open)
        return stopped ? "stopping" : c->running || c->completed || c->evals ? "running" : "queued";
    if (stopped || c->idle || c->evals_idle)
        return "stopped";
    if (error)
        return "failed";
    if (more_rungs)
        return "running"; // the next one begins
    return c->failed || c->evals_failed ? "failed" : "completed";
}

#define COLUMNS "SELECT id, name, stopped, rung, rungs, error, created_us, file FROM sweeps "
enum { ID, NAME, STOPPED, RUNG, RUNGS, ERROR_TEXT, CREATED, SWEEP_FILE };

static json_t *row(sqlite3 *db, sqlite3_stmt *st) {
    const int64_t id = sqlite3_column_int64(st, ID), rung = sqlite3_column_int64(st, RUNG),
                  rungs = sqlite3_column_int64(st, RUNGS);
    const struct counts c = count(db, id);
    json_t *file = json_loads(text(st, SWEEP_FILE), 0, NULL);
    const char *about = json_string_value(json_object_get(file, "about"));
    const char *kind = json_string_value(json_object_get(json_object_get(file, "search"), "kind"));
    const char *state = state_of(&c, sqlite3_column_int64(st, STOPPED) != 0, rung + 1 < rungs,
                                 *text(st, ERROR_TEXT));
    json_t *o = json_pack(
        "{s:o, s:s, s:s, s:s, s:s, s:o, s:o, s:I, s:I, s:f}", "id",
        json_sprintf("%lld", (long long)id), "name", text(st, NAME), "about", about ? about : "",
        "state", state, "kind", kind ? kind : "matrix", "error", text_or_null(st, ERROR_TEXT),
        "created", dd_json_time(sqlite3_column_int64(st, CREATED)), "rung", (json_int_t)rung,
        "rungs", (json_int_t)rungs, "progress", c.jobs ? c.done / (double)c.jobs : 1.0);
    json_object_set_new(o, "runs",
                        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "total", (json_int_t)c.jobs,
                                  "queued", (json_int_t)c.queued, "running", (json_int_t)c.running,
                                  "completed", (json_int_t)c.completed, "failed",
                                  (json_int_t)c.failed, "stopped", (json_int_t)c.idle));
    json_object_set_new(o, "cells", json_integer(c.cells));
    json_object_set_new(o, "evaluating", json_integer(c.evals));
    json_decref(file);
    return o;
}

json_t *dd_sweeps_json(struct dd_store *s, const char *cursor, int limit, char *next,
                       size_t next_size, struct dr_err *err) {
    int64_t below = INT64_MAX, last = 0;
    *next = 0;
    if (cursor && *cursor && !dd_parse_int(cursor, 1, INT64_MAX, &below)) {
        dr_fail_at(err, DR_EINVAL, "cursor", "cursor: not one that this server has given out");
        return NULL;
    }
    sqlite3 *db = dd_store_reader(s, err);
    sqlite3_stmt *st = db ? dd_sql_prepare(db, err, COLUMNS "WHERE id<? ORDER BY id DESC LIMIT ?",
                                           "ii", below, (int64_t)limit + 1)
                          : NULL;
    json_t *list = st ? json_array() : NULL;
    while (st && sqlite3_step(st) == SQLITE_ROW) {
        if ((int)json_array_size(list) == limit) {
            snprintf(next, next_size, "%lld", (long long)last);
            break;
        }
        last = sqlite3_column_int64(st, ID);
        json_array_append_new(list, row(db, st));
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    return list ? json_pack("{s:o}", "sweeps", list) : NULL;
}

// A row per cell with the job of its newest rung; state `removed` where that is gone.
static json_t *cells(sqlite3 *db, int64_t id) {
    struct dr_err ignored;
    json_t *list = json_array();
    sqlite3_stmt *st = dd_sql_prepare(
        db, &ignored,
        "SELECT c.cell, c.label, c.params, c.seed, coalesce(j.id,0), coalesce(j.state,'removed'),"
        " coalesce(j.step,0), coalesce(j.steps_total,0), coalesce(j.rung,0), j.error,"
        " (SELECT state FROM jobs e WHERE e.parent=j.id AND e.kind='eval' LIMIT 1) FROM sweep_cells"
        " c LEFT JOIN jobs j ON j.id=(SELECT id FROM jobs x WHERE x.sweep=c.sweep AND"
        " x.cell=c.cell ORDER BY x.rung DESC LIMIT 1) WHERE c.sweep=? ORDER BY c.cell",
        "i", id);
    while (st && sqlite3_step(st) == SQLITE_ROW) {
        const int64_t job = sqlite3_column_int64(st, 4);
        json_array_append_new(
            list, json_pack("{s:I, s:s, s:o, s:I, s:o, s:s, s:I, s:I, s:I, s:o, s:o}", "cell",
                            (json_int_t)sqlite3_column_int64(st, 0), "label", text(st, 1), "params",
                            json_loads(text(st, 2), 0, NULL), "seed",
                            (json_int_t)sqlite3_column_int64(st, 3), "job",
                            job ? json_sprintf("%lld", (long long)job) : json_null(), "state",
                            text(st, 5), "step", (json_int_t)sqlite3_column_int64(st, 6),
                            "steps_total", (json_int_t)sqlite3_column_int64(st, 7), "rung",
                            (json_int_t)sqlite3_column_int64(st, 8), "error", text_or_null(st, 9),
                            "evaluation", text_or_null(st, 10)));
    }
    sqlite3_finalize(st);
    return list;
}

json_t *dd_sweep_json(struct dd_store *s, int64_t id, struct dr_err *err) {
    sqlite3 *db = dd_store_reader(s, err);
    sqlite3_stmt *st = db ? dd_sql_prepare(db, err, COLUMNS "WHERE id=?", "i", id) : NULL;
    json_t *o = NULL;
    if (st && sqlite3_step(st) == SQLITE_ROW) {
        json_t *table = dd_sweep_table_of(db, id, err);
        o = row(db, st);
        json_object_set_new(o, "list", cells(db, id));
        json_object_set_new(o, "table", table ? table : json_null());
        json_object_set_new(o, "file", json_loads(text(st, SWEEP_FILE), 0, NULL));
    } else if (st) {
        dr_fail(err, DR_ENOENT, "there is no sweep %lld", (long long)id);
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    return o;
}
