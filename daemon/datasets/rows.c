// The table `datasets` (datasets_priv.h). Writes are durable when they return.
#include "daemon/datasets/datasets_priv.h"
#include "daemon/store/checkpoints.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void dd_dataset_row_free(struct dd_dataset_row *r) {
    free(r->source);
    free(r->options);
    *r = (struct dd_dataset_row){0};
}

void dd_dataset_result_free(struct dd_dataset_result *r) {
    json_decref(r->classes);
    json_decref(r->report);
    *r = (struct dd_dataset_result){0};
}

static const char *text(sqlite3_stmt *st, int i) {
    const char *t = (const char *)sqlite3_column_text(st, i);
    return t ? t : "";
}

// The first row of a SELECT of ROW; DR_ENOENT without a sentence: there is none.
#define ROW "SELECT id, name, state, upload, source, options FROM datasets "
static int read_row(struct dd_store *s, const char *sql, const char *types, const char *name,
                    struct dd_dataset_row *out, struct dr_err *err) {
    *out = (struct dd_dataset_row){0};
    sqlite3 *db = dd_store_reader(s, err);
    if (!db)
        return err->code;
    sqlite3_stmt *st = dd_sql_prepare(db, err, sql, types, name);
    int step = st ? sqlite3_step(st) : SQLITE_ERROR, rc = DR_ENOENT;
    if (step == SQLITE_ROW) {
        out->id = sqlite3_column_int64(st, 0);
        snprintf(out->name, sizeof out->name, "%s", text(st, 1));
        snprintf(out->state, sizeof out->state, "%s", text(st, 2));
        out->upload = sqlite3_column_int64(st, 3);
        out->source = dd_xstrdup(text(st, 4));
        out->options = dd_xstrdup(text(st, 5));
        rc = 0;
    } else if (step != SQLITE_DONE) {
        rc = dd_sql_fail(db, err, "reading a data set");
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    return rc;
}

int dd_dataset_row_get(struct dd_store *s, const char *name, struct dd_dataset_row *out,
                       struct dr_err *err) {
    int rc = read_row(s, ROW "WHERE name=?", "t", name, out, err);
    return rc == DR_ENOENT ? dr_fail(err, rc, "there is no data set %.80s", name) : rc;
}

int dd_dataset_row_next(struct dd_store *s, struct dd_dataset_row *out, struct dr_err *err) {
    return read_row(s, ROW "WHERE state='importing' ORDER BY id LIMIT 1", "", NULL, out, err);
}

static int insert(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct dd_dataset_row *r = arg;
    if (dd_sql_one(db, 0, "SELECT 1 FROM datasets WHERE name=?", "t", r->name))
        return dr_fail_at(err, DR_ECONFLICT, "name", "there is already a data set %s", r->name);
    return dd_sql_run(db, err,
                      "INSERT INTO datasets(name, kind, state, source, upload, options, created_us)"
                      " VALUES(?, 'folder', ?, ?, ?, ?, ?)",
                      "tttiti", r->name, r->state, r->source, (int64_t)r->upload, r->options,
                      dd_wall_us());
}
int dd_dataset_row_insert(struct dd_store *s, const struct dd_dataset_row *r, struct dr_err *err) {
    struct dd_dataset_row copy = *r;
    return dd_store_do(s, insert, &copy, err);
}

static int set_importing(sqlite3 *db, void *arg, struct dr_err *err) {
    return dd_sql_run(db, err,
                      "UPDATE datasets SET state='importing', error=NULL, report='{}' WHERE id=?",
                      "i", *(int64_t *)arg);
}
int dd_dataset_row_importing(struct dd_store *s, int64_t id, struct dr_err *err) {
    return dd_store_do(s, set_importing, &id, err);
}

struct failure {
    int64_t id;
    const char *error;
    char *report;
};
static int set_failed(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct failure *f = arg;
    return dd_sql_run(db, err,
                      "UPDATE datasets SET state='failed', error=?, report=coalesce(?,'{}'), "
                      "ended_us=? WHERE id=?",
                      "ttii", f->error, f->report, dd_wall_us(), f->id);
}
int dd_dataset_row_failed(struct dd_store *s, int64_t id, const char *error, const json_t *report,
                          struct dr_err *err) {
    struct failure f = {id, error, report ? json_dumps(report, JSON_COMPACT) : NULL};
    int rc = dd_store_do(s, set_failed, &f, err);
    free(f.report);
    return rc;
}

// Jobs that have not ended and use the set, as "3, 7"; "": none.
static int jobs_of(sqlite3 *db, const char *name, char out[120], struct dr_err *err) {
    static const char sql[] =
        "SELECT id FROM jobs WHERE state IN"
        " ('queued','running','stopping','paused','interrupted') AND "
        "json_extract(config,'$.data.set')='folder' AND json_extract(config,'$.data.path')=?"
        " ORDER BY id LIMIT 8";
    out[0] = 0;
    sqlite3_stmt *st = dd_sql_prepare(db, err, sql, "t", name);
    int step = SQLITE_ERROR;
    size_t n = 0;
    for (; st && (step = sqlite3_step(st)) == SQLITE_ROW; n = strlen(out))
        snprintf(out + n, 120 - n, "%s%lld", n ? ", " : "", (long long)sqlite3_column_int64(st, 0));
    int rc = step == SQLITE_DONE ? 0 : st ? dd_sql_fail(db, err, "reading jobs") : err->code;
    sqlite3_finalize(st);
    return rc;
}

// Looks for jobs in the transaction of the removal, so that none comes in between.
static int delete_row(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct dd_dataset_row *r = arg;
    char jobs[120];
    int rc = jobs_of(db, r->name, jobs, err);
    if (!rc && *jobs)
        rc = dr_fail(err, DR_ECONFLICT, "the data set %s is in use by job %s; stop it first",
                     r->name, jobs);
    return rc ? rc : dd_sql_run(db, err, "DELETE FROM datasets WHERE id=?", "i", r->id);
}
int dd_dataset_row_delete(struct dd_store *s, const struct dd_dataset_row *r, struct dr_err *err) {
    struct dd_dataset_row copy = *r;
    return dd_store_free_by(s, delete_row, &copy, err);
}

struct done {
    int64_t id;
    const struct dd_dataset_result *r;
    char *classes, *report;
};
static int set_done(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct done *d = arg;
    const struct dd_dataset_result *r = d->r;
    int rc = dd_sql_run(db, err,
                        "UPDATE datasets SET state='ready', error=NULL, size=?, channels=?, "
                        "train=?, test=?, bytes=?, fingerprint=?, classes=?, class_count=?, "
                        "report=?, ended_us=? WHERE id=? AND state='importing'",
                        "iiiiittitii", r->size, r->channels, r->train, r->test, r->bytes,
                        r->fingerprint, d->classes, (int64_t)json_array_size(r->classes), d->report,
                        dd_wall_us(), d->id);
    return rc || sqlite3_changes(db) ? rc : dr_fail(err, DR_ENOENT, "the data set was removed");
}
int dd_dataset_row_done(struct dd_store *s, int64_t id, const struct dd_dataset_result *r,
                        struct dr_err *err) {
    struct done d = {id, r, json_dumps(r->classes, JSON_COMPACT),
                     json_dumps(r->report, JSON_COMPACT)};
    int rc = d.classes && d.report ? dd_store_do(s, set_done, &d, err)
                                   : dr_fail(err, DR_ENOMEM, "no memory for the report");
    free(d.classes);
    free(d.report);
    return rc;
}

// --- as JSON ---

static json_t *parsed(sqlite3_stmt *st, int i, json_t *otherwise) {
    json_t *v = json_loads(text(st, i), JSON_DECODE_ANY, NULL);
    if (!v)
        return otherwise;
    json_decref(otherwise);
    return v;
}

// Earlier builds took paths that were no UTF-8.
static json_t *sound(const char *t) {
    char *copy = dd_xstrdup(t);
    dd_sound_text(copy);
    json_t *v = json_string(copy);
    free(copy);
    return v;
}

static json_t *to_json(sqlite3_stmt *st, bool whole) {
    const bool ready = !strcmp(text(st, 2), "ready");
    json_t *j = json_pack("{s:s, s:s, s:s, s:b, s:o, s:o, s:o, s:o, s:o, s:o}", "name", text(st, 0),
                          "kind", text(st, 1), "state", text(st, 2), "own", 1, "source",
                          sound(text(st, 3)), "options", parsed(st, 4, json_object()), "error",
                          *text(st, 5) ? json_string(text(st, 5)) : json_null(), "created",
                          dd_json_time(sqlite3_column_int64(st, 6)), "ended",
                          dd_json_time(sqlite3_column_int64(st, 7)), "uploaded",
                          json_boolean(sqlite3_column_int64(st, 13)));
    static const char *const counts[] = {"size", "channels", "train", "test", "bytes"};
    for (int i = 0; i < 5; i++)
        json_object_set_new(j, counts[i],
                            ready ? json_integer(sqlite3_column_int64(st, 8 + i)) : json_null());
    json_object_set_new(j, "fingerprint", *text(st, 14) ? json_string(text(st, 14)) : json_null());
    json_object_set_new(j, "class_count",
                        ready ? json_integer(sqlite3_column_int64(st, 15)) : json_null());
    if (whole) {
        json_object_set_new(j, "classes", ready ? parsed(st, 16, json_array()) : json_null());
        json_object_set_new(j, "report", parsed(st, 17, json_object()));
    }
    return j;
}

int dd_dataset_rows(struct dd_store *s, const char *name, void (*fn)(void *arg, json_t *row),
                    void *arg, struct dr_err *err) {
    static const char sql[] =
        "SELECT name, kind, state, source, options, error, created_us, ended_us, size, channels, "
        "train, test, bytes, upload, fingerprint, class_count, "
        "CASE WHEN ?1 IS NOT NULL THEN classes END, CASE WHEN ?1 IS NOT NULL THEN report END "
        "FROM datasets WHERE ?1 IS NULL OR name=?1 ORDER BY name";
    sqlite3 *db = dd_store_reader(s, err);
    sqlite3_stmt *st = db ? dd_sql_prepare(db, err, sql, "t", name) : NULL;
    int step = SQLITE_ERROR;
    while (st && (step = sqlite3_step(st)) == SQLITE_ROW)
        fn(arg, to_json(st, name));
    int rc = step == SQLITE_DONE ? 0 : st ? dd_sql_fail(db, err, "reading data sets") : err->code;
    sqlite3_finalize(st);
    sqlite3_close(db);
    return rc;
}

// --- for jobs ---

int dd_dataset_facts(struct dd_store *s, const char *name, struct dd_dataset_facts *out,
                     struct dr_err *err) {
    static const char sql[] =
        "SELECT state, size, channels, json_array_length(classes), train,"
        " (SELECT min(json_extract(value,'$.train')) FROM json_each(classes)),"
        " (SELECT json_extract(value,'$.name') FROM json_each(classes)"
        "  ORDER BY json_extract(value,'$.train') LIMIT 1)"
        " FROM datasets WHERE name=?";
    *out = (struct dd_dataset_facts){0};
    sqlite3 *db = dd_store_reader(s, err);
    sqlite3_stmt *st = db ? dd_sql_prepare(db, err, sql, "t", name) : NULL;
    int step = st ? sqlite3_step(st) : SQLITE_ERROR, rc = 0;
    if (step == SQLITE_DONE)
        rc = dr_fail(err, DR_ENOENT, "there is no data set %.80s", name);
    else if (step != SQLITE_ROW)
        rc = st ? dd_sql_fail(db, err, "reading a data set") : err->code;
    else if (strcmp(text(st, 0), "ready"))
        rc = dr_fail_at(err, DR_ECONFLICT, "data.path", "the data set %.80s is %s, not ready", name,
                        text(st, 0));
    else
        *out = (struct dd_dataset_facts){.size = sqlite3_column_int64(st, 1),
                                         .channels = sqlite3_column_int64(st, 2),
                                         .classes = sqlite3_column_int64(st, 3),
                                         .train = sqlite3_column_int64(st, 4),
                                         .smallest = sqlite3_column_int64(st, 5)};
    if (!rc) {
        snprintf(out->of_smallest, sizeof out->of_smallest, "%s", text(st, 6));
        dd_trim_text(out->of_smallest);
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    return rc;
}

bool dd_dataset_named(const struct dr_data_config *cfg) {
    const struct dr_set_facts *f = dr_set_facts(cfg->set);
    return f && !strcmp(f->name, "folder");
}

// Whether the engine would find data.path below a root.
static bool is_below(const char *root, const char *name) {
    static const char *const end[] = {"", DR_PICTURES_SUFFIX};
    char path[DD_PATH_MAX];
    for (int i = 0; root && *root && i < 2; i++)
        if (!dd_path(path, NULL, "%s/%s%s", root, name, end[i]) && !access(path, F_OK))
            return true;
    return false;
}

int dd_dataset_dir(struct dd_store *s, const struct dr_data_config *cfg, const char *data_dir,
                   char out[DD_PATH_MAX], struct dr_err *err) {
    struct dd_dataset_facts facts;
    const char *dir = data_dir ? data_dir : "";
    if (!dd_dataset_named(cfg))
        return dd_path(out, err, "%s", dir);
    int rc = dd_dataset_facts(s, cfg->path, &facts, err);
    if (!rc)
        return dd_path(out, err, "%s/datasets/%s", dd_store_root(s), cfg->path);
    if (rc != DR_ENOENT)
        return rc;
    if (is_below(dir, cfg->path) || is_below(getenv("DRIFTD_DATA"), cfg->path))
        return dd_path(out, err, "%s", dir);
    return dr_fail_at(err, rc, "data.path",
                      "there is no data set %.80s: it was removed, or never added; nor is there a "
                      "folder of that name in the data directory (%.200s)",
                      cfg->path, dir);
}
