// Reading the rows of evaluations (evals.h): lists, one row, curves.
#include "daemon/evals/read_priv.h"

#include "daemon/base/util.h"
#include "daemon/store/checkpoints.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Members of a row to sort by; anything else is a metric.
static const struct {
    const char *name, *sql;
} members[] = {{"id", "e.id"},           {"step", "e.step"},
               {"alpha", "e.alpha"},     {"n", "e.n"},
               {"seed", "e.seed"},       {"created", "e.created_us"},
               {"seconds", "e.seconds"}, {"state", "e.state"},
               {"data", "e.data"},       {"job", "e.job"},
               {"weights", "e.weights"}, {"name", "e.name"}};

static const char *const files[] = {"metadata.json", "grid.png", "nearest.png", "samples.npy"};

// "fd", "-fd", "step" to an ORDER BY. metric: the one to join, "" for a member.
static int order(const char *sort, char out[120], char metric[DD_EVAL_NAME], struct dr_err *err) {
    const bool down = sort && *sort == '-';
    const char *word = sort ? sort + down : "id", *sql = NULL;
    int m;
    enum dd_eval_by by;
    metric[0] = 0;
    for (size_t i = 0; i < DR_COUNT(members); i++)
        sql = strcmp(word, members[i].name) ? sql : members[i].sql;
    if (!sql) {
        int rc = dd_eval_metric_find(word, &m, &by, "sort", err);
        if (rc)
            return rc;
        snprintf(metric, DD_EVAL_NAME, "%s", word);
        sql = "v.value";
    }
    snprintf(out, 120, "%s IS NULL, %s %s, e.id DESC", sql, sql, !sort || down ? "DESC" : "ASC");
    return 0;
}

#define COLUMNS                                                                                    \
    "SELECT e.id, coalesce(e.job,0), e.job_name, coalesce(e.eval_job,0), "                         \
    "coalesce(e.checkpoint,0),"                                                                    \
    " e.kind, e.name, e.folder, e.step, e.epoch, e.data, e.weights, e.alpha, e.seed, e.n, "        \
    "e.state,"                                                                                     \
    " e.progress, e.best, e.comparable, e.settings, e.training, e.error, e.created_us,"            \
    " e.started_us, e.ended_us, e.seconds, e.details FROM evals e LEFT JOIN eval_values v ON"      \
    " v.eval=e.id AND v.name=?1 WHERE "
enum {
    ID,
    JOB,
    JOB_NAME,
    EVAL_JOB,
    CHECKPOINT,
    KIND,
    NAME,
    FOLDER,
    STEP,
    EPOCH,
    DATA,
    WEIGHTS,
    ALPHA,
    SEED,
    N,
    STATE,
    PROGRESS,
    BEST,
    COMPARABLE,
    SETTINGS,
    TRAINING,
    ERROR,
    CREATED,
    STARTED,
    ENDED,
    SECONDS,
    DETAILS
};

sqlite3_stmt *dd_eval_select(sqlite3 *db, const struct dd_eval_query *q, const char *metric,
                             const char *order_by, int64_t below, int64_t limit, int64_t offset,
                             struct dr_err *err) {
    char *sql = dd_printf(
        COLUMNS "(?2=0 OR e.job=?2) AND (?3=0 OR e.eval_job=?3) AND (?4=0 OR e.checkpoint=?4) AND"
                " (?5 IS NULL OR e.state=?5) AND (?6 IS NULL OR e.comparable=?6) AND"
                " (?7 IS NULL OR e.data=?7) AND (?8 IS NULL OR e.weights=?8) AND"
                " (?9 IS NULL OR e.alpha=?9) AND (?10=0 OR e.n=?10) AND e.id<?11 ORDER BY %s"
                " LIMIT ?12 OFFSET ?13",
        order_by);
    sqlite3_stmt *st = dd_sql_prepare(db, err, sql, "tiiittttdiiii", metric, q->job, q->eval_job,
                                      q->checkpoint, q->state, q->comparable, q->data, q->weights,
                                      q->alpha, q->n, below, limit, offset);
    free(sql);
    return st;
}

static const char *text(sqlite3_stmt *st, int i) {
    const char *t = (const char *)sqlite3_column_text(st, i);
    return t ? t : "";
}

static json_t *id_or_null(sqlite3_stmt *st, int i) {
    const int64_t id = sqlite3_column_int64(st, i);
    return id ? json_sprintf("%lld", (long long)id) : json_null();
}

static json_t *real_or_null(sqlite3_stmt *st, int i) {
    return sqlite3_column_type(st, i) == SQLITE_NULL ? json_null()
                                                     : json_real(sqlite3_column_double(st, i));
}

static json_t *text_or_null(sqlite3_stmt *st, int i) {
    return *text(st, i) ? json_string(text(st, i)) : json_null();
}

static json_t *object_at(sqlite3_stmt *st, int i) {
    json_t *o = json_loads(text(st, i), 0, NULL);
    return json_is_object(o) ? o : (json_decref(o), json_object());
}

// Values, standard errors and floors of a row.
static void add_values(sqlite3 *db, json_t *row, int64_t id) {
    struct dr_err ignored;
    static const char *const member[] = {"results", "errors", "floors"};
    json_t *o[3];
    for (int i = 0; i < 3; i++)
        json_object_set_new(row, member[i], o[i] = json_object());
    sqlite3_stmt *st = dd_sql_prepare(
        db, &ignored,
        "SELECT name, value, stderr, floor FROM eval_values WHERE eval=? ORDER BY name", "i", id);
    while (st && sqlite3_step(st) == SQLITE_ROW)
        for (int i = 0; i < 3; i++)
            if (!i || sqlite3_column_type(st, i + 1) != SQLITE_NULL)
                json_object_set_new(o[i], text(st, 0), real_or_null(st, i + 1));
    sqlite3_finalize(st);
}

static json_t *artifacts(struct dd_store *s, int64_t id) {
    json_t *list = json_array();
    char path[DD_PATH_MAX];
    struct stat f;
    for (size_t i = 0; i < DR_COUNT(files); i++)
        if (!dd_path(path, NULL, "%s/evals/%lld/%s", dd_store_root(s), (long long)id, files[i]) &&
            !stat(path, &f))
            json_array_append_new(
                list,
                json_pack("{s:s, s:I, s:o}", "name", files[i], "bytes", (json_int_t)f.st_size,
                          "url", json_sprintf("/v1/evals/%lld/files/%s", (long long)id, files[i])));
    return list;
}

json_t *dd_eval_row_json(struct dd_store *s, sqlite3 *db, sqlite3_stmt *st, bool details) {
    const int64_t id = sqlite3_column_int64(st, ID);
    json_t *o = json_pack(
        "{s:o, s:s, s:o, s:s, s:o, s:o, s:s, s:o, s:I, s:o, s:s, s:o, s:b, s:f}", "id",
        id_or_null(st, ID), "kind", text(st, KIND), "job", id_or_null(st, JOB), "job_name",
        text(st, JOB_NAME), "eval_job", id_or_null(st, EVAL_JOB), "checkpoint",
        id_or_null(st, CHECKPOINT), "name", text(st, NAME), "folder", text_or_null(st, FOLDER),
        "step", (json_int_t)sqlite3_column_int64(st, STEP), "epoch", real_or_null(st, EPOCH),
        "state", text(st, STATE), "error", text_or_null(st, ERROR), "best",
        (int)sqlite3_column_int64(st, BEST), "progress", sqlite3_column_double(st, PROGRESS));
    json_t *settings = object_at(st, SETTINGS);
    json_object_set_new(settings, "data", json_string(text(st, DATA)));
    json_object_set_new(settings, "weights", json_string(text(st, WEIGHTS)));
    json_object_set_new(settings, "alpha", json_real(sqlite3_column_double(st, ALPHA)));
    json_object_set_new(settings, "seed", json_integer(sqlite3_column_int64(st, SEED)));
    json_object_set_new(settings, "n", json_integer(sqlite3_column_int64(st, N)));
    json_object_set_new(o, "settings", settings);
    json_object_set_new(o, "comparable", text_or_null(st, COMPARABLE));
    add_values(db, o, id);
    json_object_set_new(o, "training", object_at(st, TRAINING));
    json_object_set_new(o, "created", dd_json_time(sqlite3_column_int64(st, CREATED)));
    json_object_set_new(o, "started", dd_json_time(sqlite3_column_int64(st, STARTED)));
    json_object_set_new(o, "ended", dd_json_time(sqlite3_column_int64(st, ENDED)));
    json_object_set_new(o, "seconds", json_real(sqlite3_column_double(st, SECONDS)));
    json_object_set_new(o, "artifacts", artifacts(s, id));
    if (details)
        json_object_set_new(o, "details", object_at(st, DETAILS));
    return o;
}

static int bad_cursor(struct dr_err *err) {
    return dr_fail_at(err, DR_EINVAL, "cursor", "cursor: not one that this server has given out");
}

json_t *dd_evals_json(struct dd_store *s, const struct dd_eval_query *q, char *next,
                      size_t next_size, struct dr_err *err) {
    char by[120], metric[DD_EVAL_NAME];
    int64_t at = 0;
    const bool newest = !q->sort; // the default order goes on below an id, any other after a count
    *next = 0;
    if (order(q->sort, by, metric, err) ||
        (q->cursor && *q->cursor && !dd_parse_int(q->cursor, 1, INT64_MAX, &at) && bad_cursor(err)))
        return NULL;
    sqlite3 *db = dd_store_reader(s, err);
    sqlite3_stmt *st = db ? dd_eval_select(db, q, metric, by, newest && at ? at : INT64_MAX,
                                           q->limit + 1, newest ? 0 : at, err)
                          : NULL;
    json_t *list = st ? json_array() : NULL;
    int64_t last = 0;
    while (st && sqlite3_step(st) == SQLITE_ROW) {
        if ((int)json_array_size(list) == q->limit) {
            snprintf(next, next_size, "%lld", (long long)(newest ? last : at + q->limit));
            break;
        }
        last = sqlite3_column_int64(st, ID);
        json_array_append_new(list, dd_eval_row_json(s, db, st, false));
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    if (!list)
        return NULL;
    json_t *o = json_pack("{s:o, s:o}", "evals", list, "metrics", dd_eval_metrics_json()),
           *kinds = json_array(), *m;
    size_t i;
    json_array_foreach(json_object_get(o, "metrics"), i, m)
        json_array_append(kinds, json_object_get(m, "name"));
    json_object_set_new(o, "kinds", kinds);
    return o;
}

json_t *dd_eval_json(struct dd_store *s, int64_t id, struct dr_err *err) {
    sqlite3 *db = dd_store_reader(s, err);
    if (!db)
        return NULL;
    sqlite3_stmt *st = dd_sql_prepare(db, err, COLUMNS "e.id=?2", "ti", "", id);
    const int step = st ? sqlite3_step(st) : SQLITE_ERROR;
    json_t *o = step == SQLITE_ROW ? dd_eval_row_json(s, db, st, true) : NULL;
    if (step == SQLITE_DONE)
        dr_fail(err, DR_ENOENT, "there is no evaluation %lld", (long long)id);
    else if (!o)
        dd_sql_fail(db, err, "reading an evaluation");
    sqlite3_finalize(st);
    sqlite3_close(db);
    return o;
}

// --- files ---

int dd_eval_file(struct dd_store *s, int64_t id, const char *name, char path[DD_PATH_MAX],
                 struct dr_err *err) {
    for (size_t i = 0; i < DR_COUNT(files); i++)
        if (!strcmp(name, files[i]))
            return dd_path(path, err, "%s/evals/%lld/%s", dd_store_root(s), (long long)id, name);
    return dr_fail(err, DR_ENOENT,
                   "an evaluation has no file %.60s; expected metadata.json, grid.png, nearest.png "
                   "or samples.npy",
                   name);
}

static int drop(sqlite3 *db, void *arg, struct dr_err *err) {
    const int64_t id = *(const int64_t *)arg,
                  busy = dd_sql_one(db, -1,
                                    "SELECT state='running' AND EXISTS(SELECT 1 FROM jobs j WHERE"
                                    " j.id=eval_job AND j.state IN ('running','stopping'))"
                                    " FROM evals WHERE id=?",
                                    "i", id);
    if (busy < 0)
        return dr_fail(err, DR_ENOENT, "there is no evaluation %lld", (long long)id);
    if (busy)
        return dr_fail(err, DR_ECONFLICT, "evaluation %lld is running; stop its job first",
                       (long long)id);
    return dd_sql_run(db, err, "DELETE FROM evals WHERE id=?", "i", id);
}

int dd_eval_remove(struct dd_store *s, int64_t id, struct dr_err *err) {
    char path[DD_PATH_MAX];
    int rc = dd_store_do(s, drop, &id, err);
    if (!rc && !dd_path(path, NULL, "%s/evals/%lld", dd_store_root(s), (long long)id))
        dd_remove_tree(path);
    return rc;
}

// --- curves ---

struct series {
    json_t *all;
    json_t *by; // the same, by what the runs of one have in common: there may be thousands
    bool over_alpha;
};

static json_t *series_of(struct series *x, sqlite3_stmt *st) {
    json_t *own = json_pack(
        "{s:o, s:s, s:s, s:I, s:I, s:s, s:[]}", "job", id_or_null(st, JOB), "name",
        *text(st, JOB_NAME) ? text(st, JOB_NAME) : text(st, NAME), "weights", text(st, WEIGHTS),
        "n", (json_int_t)sqlite3_column_int64(st, N), "seed",
        (json_int_t)sqlite3_column_int64(st, SEED), "comparable", text(st, COMPARABLE), "points");
    json_object_set_new(own, x->over_alpha ? "step" : "alpha",
                        x->over_alpha ? json_integer(sqlite3_column_int64(st, STEP))
                                      : json_real(sqlite3_column_double(st, ALPHA)));
    char *key = json_dumps(own, JSON_COMPACT); // without points yet
    json_t *known = key ? json_object_get(x->by, key) : NULL;
    if (known) {
        json_decref(own);
    } else {
        known = own;
        json_array_append_new(x->all, own);
        if (key)
            json_object_set(x->by, key, own);
    }
    free(key);
    return known;
}

static void add_point(struct series *x, sqlite3 *db, sqlite3_stmt *st, const char *metric) {
    struct dr_err ignored;
    sqlite3_stmt *v = dd_sql_prepare(
        db, &ignored, "SELECT value, stderr, floor FROM eval_values WHERE eval=? AND name=?", "it",
        sqlite3_column_int64(st, ID), metric);
    if (v && sqlite3_step(v) == SQLITE_ROW && sqlite3_column_type(v, 0) != SQLITE_NULL)
        json_array_append_new(
            json_object_get(series_of(x, st), "points"),
            json_pack("{s:o, s:I, s:f, s:o, s:o, s:o}", "eval", id_or_null(st, ID), "step",
                      (json_int_t)sqlite3_column_int64(st, STEP), "alpha",
                      sqlite3_column_double(st, ALPHA), "value", real_or_null(v, 0), "error",
                      real_or_null(v, 1), "floor", real_or_null(v, 2)));
    sqlite3_finalize(v);
}

// The series of one metric; NULL: see err->code.
static json_t *read_series(sqlite3 *db, const struct dd_eval_query *q, const char *metric,
                           bool over_alpha, struct dr_err *err) {
    sqlite3_stmt *st = dd_eval_select(db, q, "", over_alpha ? "e.alpha, e.id" : "e.step, e.id",
                                      INT64_MAX, -1, 0, err);
    struct series x = {
        .all = st ? json_array() : NULL, .by = json_object(), .over_alpha = over_alpha};
    while (st && sqlite3_step(st) == SQLITE_ROW)
        if (!strcmp(text(st, STATE), "done"))
            add_point(&x, db, st, metric);
    sqlite3_finalize(st);
    json_decref(x.by);
    return x.all;
}

json_t *dd_eval_curve(struct dd_store *s, const struct dd_eval_query *q, const char *metric,
                      bool over_alpha, struct dr_err *err) {
    int m;
    enum dd_eval_by by;
    if (metric && dd_eval_metric_find(metric, &m, &by, "metric", err))
        return NULL;
    sqlite3 *db = dd_store_reader(s, err);
    if (!db)
        return NULL;
    const bool chosen = metric != NULL;
    metric = chosen ? metric : "fid";
    json_t *series = read_series(db, q, metric, over_alpha, err);
    if (!chosen && series && !json_array_size(series)) { // none of these rows has it
        json_decref(series);
        metric = "fd";
        series = read_series(db, q, metric, over_alpha, err);
    }
    sqlite3_close(db);
    return series ? json_pack("{s:s, s:s, s:o}", "metric", metric, "x",
                              over_alpha ? "alpha" : "step", "series", series)
                  : NULL;
}
