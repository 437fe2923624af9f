// Rows as JSON: jobs, checkpoints, samples, one by one and as pages with a cursor (the id to go on
// below). Readers with their own connections; any thread.
#include "daemon/store/rows_json.h"
#include "daemon/base/util.h"
#include "daemon/store/checkpoints.h"
#include "engine/nn/net.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

json_t *dd_json_time(int64_t us) {
    if (!us)
        return json_null();
    char text[40];
    time_t t = (time_t)(us / 1000000);
    struct tm tm;
    gmtime_r(&t, &tm);
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + n, sizeof text - n, ".%03dZ", (int)(us / 1000 % 1000));
    return json_string(text);
}

// INT64_MAX without one; -1: not a cursor.
static int64_t cursor_id(const char *cursor) {
    if (!cursor || !*cursor)
        return INT64_MAX;
    int64_t v;
    return dd_parse_int(cursor, 1, INT64_MAX - 1, &v) ? v : -1;
}

static const char *text(sqlite3_stmt *st, int i) {
    const char *t = (const char *)sqlite3_column_text(st, i);
    return t ? t : "";
}

// One page: `sql` takes (below id, filter, limit + 1) and row() turns a row into an object.
struct page {
    const char *sql, *key;
    int64_t filter;
    const char *filter_text; // used instead of filter when not NULL
    json_t *(*row)(sqlite3_stmt *st, int64_t arg);
    int64_t arg;
};
static json_t *read_page(struct dd_store *s, const struct page *p, const char *cursor, int limit,
                         char *next, size_t next_size, struct dr_err *err) {
    int64_t below = cursor_id(cursor);
    *next = 0;
    if (below < 0) {
        dr_fail_at(err, DR_EINVAL, "cursor", "cursor: not one that this server has given out");
        return NULL;
    }
    sqlite3 *db = dd_store_reader(s, err);
    if (!db)
        return NULL;
    sqlite3_stmt *st =
        p->filter_text
            ? dd_sql_prepare(db, err, p->sql, "iti", below, p->filter_text, (int64_t)limit + 1)
            : dd_sql_prepare(db, err, p->sql, "iii", below, p->filter, (int64_t)limit + 1);
    json_t *list = st ? json_array() : NULL;
    int64_t last = 0;
    while (st && sqlite3_step(st) == SQLITE_ROW) {
        if ((int)json_array_size(list) == limit) {
            snprintf(next, next_size, "%lld", (long long)last);
            break;
        }
        last = sqlite3_column_int64(st, 0);
        json_array_append_new(list, p->row(st, p->arg));
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    return list ? json_pack("{s:o}", p->key, list) : NULL;
}

// --- jobs ---

#define JOB_COLUMNS                                                                                \
    "SELECT id, name, notes, kind, recipe, state, priority, created_us, started_us, ended_us, "    \
    "step,"                                                                                        \
    " steps_total, seconds, attempts, error, data_name, config, class_names, needs,"               \
    " (SELECT name FROM jobs n WHERE n.id=jobs.needs),"                                            \
    " (SELECT state FROM jobs n WHERE n.id=jobs.needs),"                                           \
    " (SELECT count(*) FROM jobs n WHERE jobs.state='queued' AND (n.state IN "                     \
    "('running','stopping') OR (n.state='queued' AND (n.priority>jobs.priority OR"                 \
    " (n.priority=jobs.priority AND n.id<jobs.id))))), sweep, cell, changed,"                      \
    " (SELECT printf('/v1/samples/%d.png?v=%x', s.id, s.created_us) FROM samples s WHERE"          \
    " s.job=jobs.id ORDER BY s.step DESC LIMIT 1),"                                                \
    " CAST(json_extract(config,'$.train.minutes') AS REAL) FROM jobs "

// What the job changes of its recipe, and its newest sample grid; null where there is none.
static void add_looks(json_t *j, sqlite3_stmt *st) {
    json_t *changed = *text(st, 24) ? json_loads(text(st, 24), 0, NULL) : NULL;
    json_object_set_new(j, "changed", changed ? changed : json_null());
    json_object_set_new(j, "sample", *text(st, 25) ? json_string(text(st, 25)) : json_null());
}

// The job that one needs, and whether it waits for it; null: none.
static void add_needs(json_t *j, sqlite3_stmt *st) {
    const int64_t id = sqlite3_column_int64(st, 18);
    const char *state = text(st, 20);
    const bool waits = id && !strcmp(text(st, 5), "queued") && strcmp(state, "completed") != 0;
    json_object_set_new(j, "needs", id ? json_sprintf("%lld", (long long)id) : json_null());
    json_object_set_new(j, "waits_for",
                        waits ? json_pack("{s:o, s:s, s:s}", "id",
                                          json_sprintf("%lld", (long long)id), "name", text(st, 19),
                                          "state", *state ? state : "removed")
                              : json_null());
}

// By steps or by train.minutes (limit: its seconds, 0: none), whichever is further.
static double progress(int64_t step, int64_t total, double seconds, double limit) {
    const double by_step = total > 0 ? (double)step / (double)total : 0;
    return DR_MIN(1, limit > 0 ? DR_MAX(by_step, seconds / limit) : by_step);
}

static json_t *remaining(int64_t step, int64_t total, double seconds, double limit) {
    const bool known = step > 0 && total > step && seconds > 0;
    const double by_step = known ? seconds / (double)step * (double)(total - step) : 0;
    if (limit <= 0)
        return known ? json_real(by_step) : json_null();
    const double by_time = DR_MAX(0, limit - seconds);
    return json_real(known ? DR_MIN(by_step, by_time) : by_time);
}

// The sweep that a job belongs to, and its place there.
static void add_sweep(json_t *j, sqlite3_stmt *st) {
    const int64_t sweep = sqlite3_column_int64(st, 22);
    json_object_set_new(j, "sweep", sweep ? json_sprintf("%lld", (long long)sweep) : json_null());
    json_object_set_new(j, "cell",
                        sweep ? json_integer(sqlite3_column_int64(st, 23)) : json_null());
}

static json_t *job_row(sqlite3_stmt *st, int64_t with_config) {
    int64_t step = sqlite3_column_int64(st, 10), total = sqlite3_column_int64(st, 11);
    double seconds = sqlite3_column_double(st, 12), limit = 60 * sqlite3_column_double(st, 26);
    bool running = !strcmp(text(st, 5), "running");
    json_t *j = json_pack(
        "{s:o, s:s, s:s, s:s, s:s, s:s, s:I, s:o, s:o, s:o, s:I, s:I, s:f, s:f, s:I}", "id",
        json_sprintf("%lld", (long long)sqlite3_column_int64(st, 0)), "name", text(st, 1), "notes",
        text(st, 2), "kind", text(st, 3), "recipe", text(st, 4), "state", text(st, 5), "priority",
        (json_int_t)sqlite3_column_int64(st, 6), "created",
        dd_json_time(sqlite3_column_int64(st, 7)), "started",
        dd_json_time(sqlite3_column_int64(st, 8)), "ended",
        dd_json_time(sqlite3_column_int64(st, 9)), "step", (json_int_t)step, "steps_total",
        (json_int_t)total, "seconds", seconds, "progress", progress(step, total, seconds, limit),
        "attempts", (json_int_t)sqlite3_column_int64(st, 13));
    json_object_set_new(j, "eta_seconds",
                        running ? remaining(step, total, seconds, limit) : json_null());
    json_object_set_new(j, "error", *text(st, 14) ? json_string(text(st, 14)) : json_null());
    json_object_set_new(j, "data", *text(st, 15) ? json_string(text(st, 15)) : json_null());
    add_needs(j, st);
    json_object_set_new(j, "ahead", json_integer(sqlite3_column_int64(st, 21)));
    add_sweep(j, st);
    add_looks(j, st);
    if (with_config) {
        json_object_set_new(j, "config", json_loads(text(st, 16), 0, NULL));
        json_t *names = *text(st, 17) ? json_loads(text(st, 17), 0, NULL) : NULL;
        json_object_set_new(j, "class_names", names ? names : json_null());
    }
    return j;
}

json_t *dd_job_json(struct dd_store *s, int64_t id, bool with_config, struct dr_err *err) {
    sqlite3 *db = dd_store_reader(s, err);
    if (!db)
        return NULL;
    sqlite3_stmt *st = dd_sql_prepare(db, err, JOB_COLUMNS "WHERE id=?", "i", id);
    json_t *j = NULL;
    int step = st ? sqlite3_step(st) : SQLITE_ERROR;
    if (step == SQLITE_ROW) {
        j = job_row(st, with_config);
    } else if (st && step != SQLITE_DONE) {
        dd_sql_fail(db, err, "reading a job");
    } else if (st) {
        dr_fail(err, DR_ENOENT, "there is no job %lld", (long long)id);
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    return j;
}

json_t *dd_jobs_json(struct dd_store *s, const char *state, const char *cursor, int limit,
                     char *next, size_t next_size, struct dr_err *err) {
    static const char *const states[] = {"queued",    "running", "paused",  "stopping",
                                         "completed", "failed",  "stopped", "interrupted"};
    bool known = !state || !*state;
    for (int i = 0; i < 8 && !known; i++)
        known = !strcmp(state, states[i]);
    if (!known) {
        const char *near = dr_nearest(state, states, 8);
        dr_fail_at(err, DR_EINVAL, "state",
                   "state: no state %.40s%s%s%s; expected queued, running, paused, stopping, "
                   "completed, failed, stopped or interrupted",
                   state, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
        return NULL;
    }
    struct page p = {.sql =
                         JOB_COLUMNS "WHERE id<? AND (?2='' OR state=?2) ORDER BY id DESC LIMIT ?3",
                     .key = "jobs",
                     .filter_text = state ? state : "",
                     .row = job_row};
    return read_page(s, &p, cursor, limit, next, next_size, err);
}

static json_t *alert_row(sqlite3_stmt *st) {
    json_t *data = json_loads(text(st, 0), 0, NULL), *kind = json_object_get(data, "kind"),
           *step = json_object_get(data, "step"), *words = json_object_get(data, "text");
    json_t *row = json_pack("{s:O, s:O, s:O, s:o}", "kind", kind ? kind : json_null(), "step",
                            step ? step : json_null(), "text", words ? words : json_null(), "time",
                            dd_json_time(sqlite3_column_int64(st, 1)));
    json_decref(data);
    return row;
}

json_t *dd_alerts_json(struct dd_store *s, int64_t job, struct dr_err *err) {
    json_t *known = dd_job_json(s, job, false, err), *list = NULL;
    sqlite3 *db = known ? dd_store_reader(s, err) : NULL;
    sqlite3_stmt *st =
        db ? dd_sql_prepare(db, err,
                            "SELECT data, time_us FROM (SELECT boot, seq, data, time_us FROM events"
                            " WHERE job=? AND type='alert' ORDER BY boot DESC, seq DESC LIMIT 1000)"
                            " ORDER BY boot, seq",
                            "i", job)
           : NULL;
    json_decref(known);
    if (st)
        list = json_array();
    while (st && sqlite3_step(st) == SQLITE_ROW)
        json_array_append_new(list, alert_row(st));
    sqlite3_finalize(st);
    sqlite3_close(db);
    return list ? json_pack("{s:o}", "alerts", list) : NULL;
}

// --- checkpoints and samples ---

// "generator", "encoder" or "judge"; null: a network that this build does not know.
static json_t *net_kind(const char *config) {
    struct dr_net *net;
    if (!config || dr_net_parse(config, strlen(config), NULL, &net, NULL))
        return json_null();
    json_t *word = json_string(dr_net_kind_word(dr_net_kind(net)));
    dr_net_free(net);
    return word;
}

json_t *dd_ckpt_to_json(const struct dd_ckpt_row *r, int64_t active) {
    char act[24];
    snprintf(act, sizeof act, "%lld", (long long)active);
    json_t *job = r->job ? json_sprintf("%lld", (long long)r->job) : json_null();
    json_t *tags = r->tags ? json_loads(r->tags, 0, NULL) : NULL;
    json_t *config = r->config ? json_loads(r->config, 0, NULL) : NULL;
    return json_pack("{s:s, s:o, s:s, s:s, s:I, s:I, s:s, s:s, s:b, s:b, s:o, s:o, s:o, s:s, s:o}",
                     "id", r->id, "job", job, "name", r->name, "kind", r->kind, "step",
                     (json_int_t)r->step, "bytes", (json_int_t)r->bytes, "sha256", r->sha256,
                     "state", r->state, "active", !strcmp(act, r->id), "best", r->best, "created",
                     dd_json_time(r->created_us), "model", config ? config : json_null(), "net",
                     net_kind(r->config), "notes", r->notes ? r->notes : "", "tags",
                     tags ? tags : json_array());
}

static json_t *ckpt_row(sqlite3_stmt *st, int64_t active) {
    struct dd_ckpt_row r = {.job = sqlite3_column_int64(st, 1),
                            .step = sqlite3_column_int64(st, 2),
                            .bytes = sqlite3_column_int64(st, 3),
                            .created_us = sqlite3_column_int64(st, 4),
                            .config = (char *)text(st, 9),
                            .best = sqlite3_column_int64(st, 10) != 0,
                            .notes = (char *)text(st, 11),
                            .tags = (char *)text(st, 12)};
    snprintf(r.id, sizeof r.id, "%lld", (long long)sqlite3_column_int64(st, 0));
    snprintf(r.sha256, sizeof r.sha256, "%s", text(st, 5));
    snprintf(r.kind, sizeof r.kind, "%s", text(st, 6));
    snprintf(r.name, sizeof r.name, "%s", text(st, 7));
    snprintf(r.state, sizeof r.state, "%s", text(st, 8));
    return dd_ckpt_to_json(&r, active);
}

json_t *dd_ckpts_json(struct dd_store *s, int64_t job, const char *cursor, int limit, char *next,
                      size_t next_size, struct dr_err *err) {
    struct page p = {
        .sql = "SELECT id, coalesce(job,0), step, bytes, created_us, sha256, kind, name,"
               " state, config, best, notes, tags FROM checkpoints WHERE id<? AND (?2=0 OR job=?2)"
               " AND state<>'removed' ORDER BY id DESC LIMIT ?3",
        .key = "checkpoints",
        .filter = job,
        .row = ckpt_row,
        .arg = dd_ckpt_active(s)};
    return read_page(s, &p, cursor, limit, next, next_size, err);
}

static json_t *sample_row(sqlite3_stmt *st, int64_t arg) {
    (void)arg;
    return json_pack(
        "{s:o, s:o, s:I, s:I, s:I, s:I, s:o, s:o}", "id",
        json_sprintf("%lld", (long long)sqlite3_column_int64(st, 0)), "job",
        json_sprintf("%lld", (long long)sqlite3_column_int64(st, 1)), "step",
        (json_int_t)sqlite3_column_int64(st, 2), "bytes", (json_int_t)sqlite3_column_int64(st, 3),
        "width", (json_int_t)sqlite3_column_int64(st, 4), "height",
        (json_int_t)sqlite3_column_int64(st, 5), "created",
        dd_json_time(sqlite3_column_int64(st, 6)), "url",
        json_sprintf("/v1/samples/%lld.png?v=%llx", // another state folder: another address
                     (long long)sqlite3_column_int64(st, 0),
                     (long long)sqlite3_column_int64(st, 6)));
}

json_t *dd_samples_json(struct dd_store *s, int64_t job, const char *cursor, int limit, char *next,
                        size_t next_size, struct dr_err *err) {
    struct page p = {.sql = "SELECT id, job, step, bytes, width, height, created_us FROM samples"
                            " WHERE id<? AND (?2=0 OR job=?2) ORDER BY id DESC LIMIT ?3",
                     .key = "samples",
                     .filter = job,
                     .row = sample_row};
    return read_page(s, &p, cursor, limit, next, next_size, err);
}
