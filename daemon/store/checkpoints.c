// Checkpoint and sample rows (checkpoints.h): writing, verifying, activation, import.
#include "daemon/store/checkpoints.h"

#include "daemon/base/util.h"
#include "daemon/store/ckpt_files.h"
#include "engine/drift.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

void dd_ckpt_row_free(struct dd_ckpt_row *r) {
    if (!r->config_borrowed)
        free(r->config);
    r->config = NULL;
}

static int record(sqlite3 *db, void *arg, struct dr_err *err) {
    struct dd_ckpt_row *r = arg;
    int64_t id = dd_sql_one(db, 0, "SELECT id FROM checkpoints WHERE path=?", "t", r->path);
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
            "ittittiti", r->job, r->name, r->kind, r->step, r->path, r->sha256, r->bytes, r->config,
            r->created_us);
        id = sqlite3_last_insert_rowid(db);
    }
    snprintf(r->id, sizeof r->id, "%lld", (long long)id);
    snprintf(r->state, sizeof r->state, "ok");
    return rc;
}

int dd_ckpt_record(struct dd_store *s, struct dd_ckpt_row *row, struct dr_err *err) {
    int rc = dd_store_do(s, record, row, err);
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
    int rc = dd_store_do(s, mark, &(struct mark){path, state}, err);
    dd_store_changed(s);
    return rc;
}

#define COLUMNS                                                                                    \
    "SELECT id, coalesce(job,0), step, bytes, created_us, path, sha256, kind, name, state, config" \
    " FROM checkpoints "

static void from_row(sqlite3_stmt *st, struct dd_ckpt_row *r) {
    *r = (struct dd_ckpt_row){.job = sqlite3_column_int64(st, 1),
                              .step = sqlite3_column_int64(st, 2),
                              .bytes = sqlite3_column_int64(st, 3),
                              .created_us = sqlite3_column_int64(st, 4)};
    snprintf(r->id, sizeof r->id, "%lld", (long long)sqlite3_column_int64(st, 0));
    snprintf(r->path, sizeof r->path, "%s", (const char *)sqlite3_column_text(st, 5));
    snprintf(r->sha256, sizeof r->sha256, "%s", (const char *)sqlite3_column_text(st, 6));
    snprintf(r->kind, sizeof r->kind, "%s", (const char *)sqlite3_column_text(st, 7));
    snprintf(r->name, sizeof r->name, "%s", (const char *)sqlite3_column_text(st, 8));
    snprintf(r->state, sizeof r->state, "%s", (const char *)sqlite3_column_text(st, 9));
    r->config = dd_xstrdup((const char *)sqlite3_column_text(st, 10));
}

static int get_one(struct dd_store *s, const char *sql, int64_t id, const char *path,
                   struct dd_ckpt_row *out, struct dr_err *err) {
    sqlite3 *db = dd_store_reader(s, err);
    if (!db)
        return DR_EIO;
    sqlite3_stmt *st = path ? dd_sql_prepare(db, err, sql, "t", path)
                            : dd_sql_prepare(db, err, sql, id ? "i" : "", id);
    int step = st ? sqlite3_step(st) : SQLITE_ERROR;
    int rc = step == SQLITE_ROW    ? 0
             : step == SQLITE_DONE ? DR_ENOENT
                                   : dd_sql_fail(db, err, "reading a checkpoint");
    if (!rc)
        from_row(st, out);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return rc;
}

int dd_ckpt_get(struct dd_store *s, int64_t id, struct dd_ckpt_row *out, struct dr_err *err) {
    int rc = get_one(s, COLUMNS "WHERE id=?", id, NULL, out, err);
    return rc == DR_ENOENT ? dr_fail(err, rc, "there is no checkpoint %lld", (long long)id) : rc;
}

int dd_ckpt_latest(struct dd_store *s, struct dd_ckpt_row *out, struct dr_err *err) {
    int rc = get_one(s, COLUMNS "WHERE state='ok' ORDER BY created_us DESC, id DESC LIMIT 1", 0,
                     NULL, out, err);
    return rc == DR_ENOENT ? dr_fail(err, rc, "there is no checkpoint yet") : rc;
}

int dd_ckpt_verify(struct dd_store *s, const char *path, int64_t job, const char *model_json,
                   struct dr_err *err) {
    struct dd_ckpt_row r = {0};
    char sha[65];
    int rc = dr_sha256_file(path, sha, err);
    if (rc)
        return rc;
    rc = get_one(s, COLUMNS "WHERE path=?", 0, path, &r, err);
    if (!rc) {
        if (strcmp(sha, r.sha256))
            rc = dr_fail(err, DR_EFORMAT, "%s: sha256 is %.16s..., the data base says %.16s...",
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
    snprintf(r.path, sizeof r.path, "%s", path);
    snprintf(r.sha256, sizeof r.sha256, "%s", sha);
    snprintf(r.kind, sizeof r.kind, "train");
    return dd_ckpt_record(s, &r, err);
}

// --- activation: meta key `active` ---

static int activate(sqlite3 *db, void *arg, struct dr_err *err) {
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)*(int64_t *)arg);
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
    int64_t v = db ? dd_sql_one(db, 0, sql, types, path) : 0;
    sqlite3_close(db);
    return v;
}
int64_t dd_ckpt_active(struct dd_store *s) {
    return ask(s,
               "SELECT id FROM checkpoints WHERE state='ok' AND id="
               "(SELECT CAST(value AS INTEGER) FROM meta WHERE key='active')",
               "", NULL);
}
bool dd_ckpt_is_active(struct dd_store *s, const char *path) {
    return ask(s,
               "SELECT 1 FROM checkpoints WHERE path=? AND id="
               "(SELECT CAST(value AS INTEGER) FROM meta WHERE key='active')",
               "t", path) != 0;
}

// --- import ---

static int copy_file(const char *from, const char *to, struct dr_err *err) {
    int in = open(from, O_RDONLY | O_CLOEXEC), e = 0;
    int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    struct stat st;
    if (in < 0 || out < 0 || fstat(in, &st))
        e = errno;
    for (int64_t left = e ? 0 : (int64_t)st.st_size; left > 0;) {
        ssize_t n = sendfile(out, in, NULL, (size_t)DR_MIN(left, (int64_t)1 << 30));
        if (n <= 0) {
            e = n ? errno : EIO;
            break;
        }
        left -= n;
    }
    if (!e && fsync(out))
        e = errno;
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    if (!e)
        return 0;
    if (out >= 0)
        unlink(to);
    return dr_fail(err, e == ENOSPC ? DR_ENOSPC : DR_EIO, "cannot copy %s: %s", from, strerror(e));
}

int dd_ckpt_import(struct dd_store *s, const char *state_dir, const char *from, bool take,
                   const char *name, const struct dr_model_config *model, struct dd_ckpt_row *out,
                   struct dr_err *err) {
    struct dr_snapshot *snap = NULL;
    struct stat st;
    char dir[400];
    *out = (struct dd_ckpt_row){0};
    char *description = model ? dr_model_config_to_json(model) : NULL;
    int rc = dr_snapshot_load(from, description, &snap, err);
    free(description);
    if (!rc && (rc = dr_net_expect(snap->net, DR_NET_GENERATOR, from, err)))
        dr_snapshot_unref(snap);
    if (rc)
        return rc;
    out->config = dd_xstrdup(dr_net_description(snap->net));
    out->step = snap->step;
    dr_snapshot_unref(snap);
    rc = dr_sha256_file(from, out->sha256, err);
    if (!rc && stat(from, &st))
        rc = dr_fail(err, DR_EIO, "%s: %s", from, strerror(errno));
    snprintf(dir, sizeof dir, "%s/checkpoints/import", state_dir);
    if (!rc)
        rc = dd_mkdirs(dir, err);
    if (!rc) {
        snprintf(out->path, sizeof out->path, "%s/%.32s.safetensors", dir, out->sha256);
        bool there = !access(out->path, F_OK); // the same bytes: imported before
        if (there && take)
            unlink(from);
        else if (!there && (!take || rename(from, out->path))) // another file system: copy
            rc = copy_file(from, out->path, err);
    }
    if (!rc) {
        out->bytes = (int64_t)st.st_size;
        snprintf(out->kind, sizeof out->kind, "import");
        snprintf(out->name, sizeof out->name, "%s", name ? name : "");
        rc = dd_ckpt_record(s, out, err);
    }
    if (rc)
        dd_ckpt_row_free(out);
    return rc;
}

// --- samples ---

struct sample {
    int64_t job, step, bytes, w, h, id;
    const char *path;
};
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
    struct sample p = {.job = job, .step = step, .bytes = bytes, .w = w, .h = h, .path = path};
    int rc = dd_store_do(s, sample, &p, err);
    *id = p.id;
    return rc;
}

int dd_sample_path(struct dd_store *s, int64_t id, char *path, size_t size, int64_t *created_us,
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
        snprintf(path, size, "%s", (const char *)sqlite3_column_text(st, 0));
        *created_us = sqlite3_column_int64(st, 1);
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    return rc;
}
