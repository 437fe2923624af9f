// Checkpoint and sample rows (checkpoints.h): writing, verifying, activation.
#include "daemon/store/checkpoints.h"

#include "daemon/base/util.h"
#include "daemon/store/ckpt_files.h"
#include "engine/drift.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void dd_ckpt_row_free(struct dd_ckpt_row *r) {
    if (!r->config_borrowed) {
        free(r->config);
        free(r->notes);
        free(r->tags);
    }
    r->config = r->notes = r->tags = NULL;
}

struct record {
    struct dd_ckpt_row *row;
    char *path; // as stored
};
static int record(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct record *in = arg;
    struct dd_ckpt_row *r = in->row;
    int64_t id = dd_sql_one(db, 0, "SELECT id FROM checkpoints WHERE path=?", "t", in->path);
    int rc;
    // "latest" goes by this time: it grows also when the clock was set back.
    r->created_us = dd_sql_one(
        db, 0, "SELECT max(?, coalesce(max(created_us),0)+1) FROM checkpoints", "i", dd_wall_us());
    if (id) {
        rc = dd_sql_run(db, err,
                        "UPDATE checkpoints SET step=?, sha256=?, bytes=?, config=?, created_us=?,"
                        " name=coalesce(nullif(?,''),name), state='ok' WHERE id=?",
                        "itititi", r->step, r->sha256, r->bytes, r->config, r->created_us, r->name,
                        id);
    } else {
        rc = dd_sql_run(
            db, err,
            "INSERT INTO checkpoints(job,name,kind,step,path,sha256,bytes,config,created_us)"
            " VALUES(nullif(?,0),?,?,?,?,?,?,?,?)",
            "ittittiti", r->job, r->name, r->kind, r->step, in->path, r->sha256, r->bytes,
            r->config, r->created_us);
        id = sqlite3_last_insert_rowid(db);
    }
    if (!rc) // the job comes further, however often the process has ended
        rc = dd_sql_run(db, err, "UPDATE jobs SET crashes=0 WHERE id=? AND crashes>0", "i", r->job);
    snprintf(r->id, sizeof r->id, "%lld", (long long)id);
    snprintf(r->state, sizeof r->state, "ok");
    return rc;
}

int dd_ckpt_record(struct dd_store *s, struct dd_ckpt_row *row, struct dr_err *err) {
    struct record in = {row, dd_store_rel(s, row->path)};
    int rc = dd_store_do(s, record, &in, err);
    free(in.path);
    dd_store_changed(s);
    return rc;
}

struct mark {
    const char *path, *state;
};
static int mark(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct mark *m = arg;
    return dd_sql_run(db, err, "UPDATE checkpoints SET state=? WHERE path=?", "tt", m->state,
                      m->path);
}
int dd_ckpt_set_state(struct dd_store *s, const char *path, const char *state, struct dr_err *err) {
    char *stored = dd_store_rel(s, path);
    int rc = dd_store_do(s, mark, &(struct mark){stored, state}, err);
    free(stored);
    dd_store_changed(s);
    return rc;
}

struct go {
    const char *path;
    enum dd_ckpt_taker taker;
};
// Under the writer, so that nothing is promoted or resumed in between.
static int let_go(sqlite3 *db, void *arg, struct dr_err *err) {
    static const char *const stays[] = {
        [DD_CKPT_ROTATION] = "SELECT 1 FROM checkpoints c WHERE path=? AND " DD_CKPT_KEPT,
        [DD_CKPT_BUDGET] = "SELECT 1 FROM checkpoints c WHERE path=? AND NOT " DD_CKPT_SPENT};
    const struct go *g = arg;
    if (dd_sql_one(db, 0, stays[g->taker], "t", g->path))
        return dr_fail(err, DR_ECONFLICT, "%s is kept", g->path);
    return mark(db, &(struct mark){g->path, "removed"}, err);
}
int dd_ckpt_let_go(struct dd_store *s, const char *path, enum dd_ckpt_taker taker,
                   struct dr_err *err) {
    char *stored = dd_store_rel(s, path);
    int rc = dd_store_free_by(s, let_go, &(struct go){stored, taker}, err);
    free(stored);
    dd_store_changed(s);
    return rc;
}

#define COLUMNS                                                                                    \
    "SELECT id, coalesce(job,0), step, bytes, created_us, path, sha256, kind, name, state, "       \
    "config,"                                                                                      \
    " best, notes, tags FROM checkpoints "

static int from_row(struct dd_store *s, sqlite3_stmt *st, struct dd_ckpt_row *r,
                    struct dr_err *err) {
    *r = (struct dd_ckpt_row){.job = sqlite3_column_int64(st, 1),
                              .step = sqlite3_column_int64(st, 2),
                              .bytes = sqlite3_column_int64(st, 3),
                              .created_us = sqlite3_column_int64(st, 4),
                              .best = sqlite3_column_int64(st, 11) != 0};
    snprintf(r->id, sizeof r->id, "%lld", (long long)sqlite3_column_int64(st, 0));
    snprintf(r->sha256, sizeof r->sha256, "%s", (const char *)sqlite3_column_text(st, 6));
    snprintf(r->kind, sizeof r->kind, "%s", (const char *)sqlite3_column_text(st, 7));
    snprintf(r->name, sizeof r->name, "%s", (const char *)sqlite3_column_text(st, 8));
    snprintf(r->state, sizeof r->state, "%s", (const char *)sqlite3_column_text(st, 9));
    int rc = dd_store_abs(s, (const char *)sqlite3_column_text(st, 5), r->path, err);
    if (rc)
        return rc;
    r->config = dd_xstrdup((const char *)sqlite3_column_text(st, 10));
    r->notes = dd_xstrdup((const char *)sqlite3_column_text(st, 12));
    r->tags = dd_xstrdup((const char *)sqlite3_column_text(st, 13));
    return 0;
}

static int get_one(struct dd_store *s, const char *sql, int64_t id, const char *path,
                   struct dd_ckpt_row *out, struct dr_err *err) {
    sqlite3 *db = dd_store_reader(s, err);
    if (!db)
        return DR_EIO;
    char *stored = path ? dd_store_rel(s, path) : NULL;
    sqlite3_stmt *st = path ? dd_sql_prepare(db, err, sql, "t", stored)
                            : dd_sql_prepare(db, err, sql, id ? "i" : "", id);
    free(stored);
    int step = st ? sqlite3_step(st) : SQLITE_ERROR;
    int rc = step == SQLITE_ROW    ? 0
             : step == SQLITE_DONE ? DR_ENOENT
                                   : dd_sql_fail(db, err, "reading a checkpoint");
    if (!rc)
        rc = from_row(s, st, out, err);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return rc;
}

int dd_ckpt_get(struct dd_store *s, int64_t id, struct dd_ckpt_row *out, struct dr_err *err) {
    int rc = get_one(s, COLUMNS "WHERE id=?", id, NULL, out, err);
    return rc == DR_ENOENT ? dr_fail(err, rc, "there is no checkpoint %lld", (long long)id) : rc;
}

int dd_ckpt_at(struct dd_store *s, const char *path, struct dd_ckpt_row *out, struct dr_err *err) {
    return get_one(s, COLUMNS "WHERE path=?", 0, path, out, err);
}

int dd_ckpt_latest(struct dd_store *s, struct dd_ckpt_row *out, struct dr_err *err) {
    int rc = get_one(
        s, COLUMNS "WHERE state='ok' AND kind<>'encoder' ORDER BY created_us DESC, id DESC LIMIT 1",
        0, NULL, out, err);
    return rc == DR_ENOENT ? dr_fail(err, rc, "there is no checkpoint yet") : rc;
}

int dd_ckpt_verify(struct dd_store *s, const char *path, int64_t job, const char *kind,
                   const char *model_json, struct dr_err *err) {
    struct dd_ckpt_row r = {0};
    char sha[65];
    int rc = dr_sha256_file(path, sha, err);
    if (rc)
        return rc;
    rc = dd_ckpt_at(s, path, &r, err);
    if (!rc) {
        if (strcmp(sha, r.sha256))
            rc = dr_fail(err, DR_EFORMAT, "%s: sha256 is %.16s..., the database says %.16s...",
                         path, sha, r.sha256);
        dd_ckpt_row_free(&r);
        return rc;
    }
    if (rc != DR_ENOENT)
        return rc;
    // Adopted only when it opens as a whole file; the trainer then checks what is in it.
    struct dr_st_file *f = NULL;
    struct stat st;
    if ((rc = dr_st_open(path, &f, err)))
        return rc;
    dr_st_close(f);
    const char *base = strrchr(path, '/');
    int64_t step = dd_ckpt_step(base ? base + 1 : path);
    r = (struct dd_ckpt_row){.job = job, .step = step, .config = (char *)model_json};
    r.bytes = stat(path, &st) ? 0 : (int64_t)st.st_size;
    if ((rc = dd_path(r.path, err, "%s", path)))
        return rc;
    snprintf(r.sha256, sizeof r.sha256, "%s", sha);
    snprintf(r.kind, sizeof r.kind, "%s", kind);
    return dd_ckpt_record(s, &r, err);
}

// --- activation: meta key `active` ---

static int activate(sqlite3 *db, void *arg, struct dr_err *err) {
    const int64_t id = *(int64_t *)arg;
    char text[24];
    if (id > 0 &&
        !dd_sql_one(db, 0, "SELECT 1 FROM checkpoints WHERE id=? AND state='ok'", "i", id))
        return dr_fail(err, DR_EGONE, "checkpoint %lld is no longer there", (long long)id);
    snprintf(text, sizeof text, "%lld", (long long)id);
    if (id == DD_SERVE_LIVE) // a build that does not know the word reads 0
        snprintf(text, sizeof text, "live");
    return dd_sql_run(db, err, "INSERT OR REPLACE INTO meta VALUES('active', ?)", "t", text);
}
int dd_ckpt_activate(struct dd_store *s, int64_t id, struct dr_err *err) {
    int rc = dd_store_do(s, activate, &id, err);
    dd_store_changed(s);
    return rc;
}

static int64_t ask(struct dd_store *s, const char *sql, const char *types, const char *path) {
    struct dr_err err;
    sqlite3 *db = dd_store_reader(s, &err);
    char *stored = path ? dd_store_rel(s, path) : NULL;
    int64_t v = db ? dd_sql_one(db, 0, sql, types, stored) : 0;
    free(stored);
    sqlite3_close(db);
    return v;
}
int64_t dd_ckpt_active(struct dd_store *s) {
    return ask(s,
               "SELECT coalesce((SELECT id FROM checkpoints WHERE state='ok' AND id="
               "(SELECT CAST(value AS INTEGER) FROM meta WHERE key='active')),"
               "(SELECT -1 FROM meta WHERE key='active' AND value='live'), 0)",
               "", NULL);
}
int64_t dd_ckpt_final(struct dd_store *s) {
    return ask(s, "SELECT " DD_CKPT_FINAL, "", NULL);
}
bool dd_ckpt_is_kept(struct dd_store *s, const char *path) {
    return ask(s, "SELECT 1 FROM checkpoints c WHERE path=? AND " DD_CKPT_KEPT, "t", path) != 0;
}

// --- samples ---

struct sample {
    int64_t job, step, bytes, w, h, id;
    char *path;
};
static void sample_free(void *arg) {
    free(((struct sample *)arg)->path);
    free(arg);
}
static int sample(sqlite3 *db, void *arg, struct dr_err *err) {
    struct sample *p = arg;
    int rc =
        dd_sql_run(db, err,
                   "INSERT OR REPLACE INTO samples(job,step,path,bytes,width,height,created_us)"
                   " VALUES(?,?,?,?,?,?,?)",
                   "iitiiii", p->job, p->step, p->path, p->bytes, p->w, p->h, dd_wall_us());
    p->id = sqlite3_last_insert_rowid(db);
    return rc;
}
int dd_sample_record(struct dd_store *s, int64_t job, int64_t step, const char *path, int64_t bytes,
                     int64_t w, int64_t h, int64_t *id, struct dr_err *err) {
    struct sample *p = dd_xcalloc(1, sizeof *p);
    *p = (struct sample){.job = job, .step = step, .bytes = bytes, .w = w, .h = h};
    p->path = dd_store_rel(s, path);
    const int rc = dd_store_do(s, sample, p, err);
    *id = p->id;
    if (rc == DR_EBUSY || rc == DR_ENOSPC)
        dd_store_post(s, sample, p, sample_free);
    else
        sample_free(p);
    return rc;
}

int dd_sample_path(struct dd_store *s, int64_t id, char path[DD_PATH_MAX], int64_t *created_us,
                   struct dr_err *err) {
    sqlite3 *db = dd_store_reader(s, err);
    if (!db)
        return DR_EIO;
    sqlite3_stmt *st =
        dd_sql_prepare(db, err, "SELECT path, created_us FROM samples WHERE id=?", "i", id);
    int rc = st && sqlite3_step(st) == SQLITE_ROW
                 ? 0
                 : dr_fail(err, DR_ENOENT, "there is no sample %lld", (long long)id);
    if (!rc) {
        rc = dd_store_abs(s, (const char *)sqlite3_column_text(st, 0), path, err);
        *created_us = sqlite3_column_int64(st, 1);
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    return rc;
}
