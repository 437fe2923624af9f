// Import of checkpoint files (checkpoints.h): one reading into the state folder, then validation of
// the copy. And removal, which must not meet an import of the same bytes.
#include "daemon/store/checkpoints.h"

#include "engine/drift.h"
#include "engine/io/sha256.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 1 << 20 };

struct import {
    const struct dd_ckpt_source *in;
    const char *shown;      // the name that error messages give the file
    char part[DD_PATH_MAX]; // the copy
    int from, to;           // descriptors; to is -1 when the file is taken
    int64_t bytes;
    struct dr_sha256 sha;
};

static int write_failed(const struct import *m, struct dr_err *err) {
    const int e = errno;
    return dr_fail(err, e == ENOSPC || e == EDQUOT || e == EFBIG ? DR_ENOSPC : DR_EIO,
                   "cannot copy %s: %s", m->shown, strerror(e));
}

static int write_all(const struct import *m, const char *p, size_t n, struct dr_err *err) {
    while (n && m->to >= 0) {
        ssize_t w = write(m->to, p, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return write_failed(m, err);
        p += w;
        n -= (size_t)w;
    }
    return 0;
}

static int read_all(struct import *m, char *buf, struct dr_err *err) {
    for (;;) {
        if (m->in->cancel && atomic_load(m->in->cancel))
            return dr_fail(err, DR_ECANCELED, "the import was stopped");
        ssize_t n = read(m->from, buf, CHUNK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return dr_fail(err, DR_EIO, "cannot read %s: %s", m->shown, strerror(errno));
        if (n == 0)
            return 0;
        dr_sha256_update(&m->sha, buf, (size_t)n);
        m->bytes += n;
        int rc = write_all(m, buf, (size_t)n, err);
        if (rc)
            return rc;
    }
}

static bool changed(const struct stat *a, const struct stat *b) {
    return a->st_size != b->st_size || a->st_mtim.tv_sec != b->st_mtim.tv_sec ||
           a->st_mtim.tv_nsec != b->st_mtim.tv_nsec;
}

// Reads the file to its end and knows its bytes, or says why not.
static int take_in(struct import *m, struct dr_err *err) {
    struct stat before, after;
    m->from = open(m->in->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (m->from < 0 || fstat(m->from, &before))
        return dr_fail(err, errno == ENOENT ? DR_ENOENT : DR_EIO, "cannot read %s: %s", m->shown,
                       strerror(errno));
    if (!S_ISREG(before.st_mode))
        return dr_fail(err, DR_EFORMAT, "%s is not a regular file", m->shown);
    if (!m->in->take) {
        m->to = mkostemp(m->part, O_CLOEXEC);
        if (m->to < 0)
            return write_failed(m, err);
    }
    char *buf = malloc(CHUNK);
    int rc = buf ? read_all(m, buf, err) : dr_fail(err, DR_ENOMEM, "no memory for an import");
    free(buf);
    if (rc)
        return rc;
    if (fstat(m->from, &after) || changed(&before, &after) || m->bytes != after.st_size)
        return dr_fail(err, DR_EFORMAT, "%s changed while it was read", m->shown);
    if (m->to >= 0 && (fchmod(m->to, 0640) || fsync(m->to)))
        return write_failed(m, err);
    return 0;
}

// Messages about the copy name the file that was asked for: they begin with "PATH: ", of which a
// long PATH has lost its beginning.
static void name_source(struct dr_err *err, const char *part, const char *shown) {
    const char *base = strrchr(part, '/'), *end = err && base ? strstr(err->msg, base) : NULL;
    char rest[sizeof err->msg];
    if (!end)
        return;
    snprintf(rest, sizeof rest, "%s", end + strlen(base));
    snprintf(err->msg, sizeof err->msg, "%.200s%.300s", shown, rest);
}

// Held while a file and its row change together: a removal of the same bytes would otherwise take
// the file of an import that has its place already and its row not yet.
static pthread_mutex_t files_and_rows = PTHREAD_MUTEX_INITIALIZER;

// With files_and_rows held. Over a file of the same bytes that was imported before, should there be
// one.
static int place(struct dd_store *s, struct import *m, const char *dir, struct dd_ckpt_row *out,
                 struct dr_err *err) {
    if (rename(m->part, out->path) || dd_sync_folder(dir, err))
        return dr_fail(err, DR_EIO, "cannot store %s: %s", m->shown, strerror(errno));
    m->part[0] = 0;
    struct dd_ckpt_row known = {0};
    struct dr_err ignored;
    const int rc = dd_ckpt_record(s, out, err);
    if (rc && dd_ckpt_at(s, out->path, &known, &ignored) == DR_ENOENT)
        unlink(out->path); // nobody would find it, nor the budget take it
    dd_ckpt_row_free(&known);
    return rc;
}

// One that is missing while imports should be in it is on a disk that is not mounted: another one
// in its place would make them count as deleted, and be hidden itself later.
static int make_folder(struct dd_store *s, const char *dir, struct dr_err *err) {
    if (!access(dir, F_OK))
        return 0;
    sqlite3 *db = dd_store_reader(s, err);
    if (!db)
        return err->code;
    const bool had = dd_sql_one(db, 0,
                                "SELECT 1 FROM checkpoints WHERE state='ok' AND path LIKE"
                                " 'checkpoints/import/%' LIMIT 1",
                                "");
    sqlite3_close(db);
    return had ? dr_fail(err, DR_EBUSY,
                         "the folder of the imports before is gone: is the disk mounted? Where the "
                         "folder was deleted, make an empty one")
               : dd_mkdirs(dir, err);
}

// Validates the copy and gives it its place and its row.
static int keep(struct dd_store *s, struct import *m, struct dd_ckpt_row *out, struct dr_err *err) {
    struct dr_snapshot *snap = NULL;
    char dir[DD_PATH_MAX];
    char *model = m->in->model ? dr_model_config_to_json(m->in->model) : NULL;
    int rc = dr_snapshot_load(m->part, model, &snap, err);
    free(model);
    if (rc) {
        name_source(err, m->part, m->shown);
        return rc;
    }
    out->config = dd_xstrdup(dr_net_description(snap->net));
    out->step = snap->step;
    out->bytes = m->bytes;
    const bool generator = dr_net_kind(snap->net) == DR_NET_GENERATOR;
    dr_snapshot_unref(snap);
    dr_sha256_hex(&m->sha, out->sha256);
    snprintf(out->kind, sizeof out->kind, generator ? "import" : "encoder");
    snprintf(out->name, sizeof out->name, "%s", m->in->name ? m->in->name : "");
    rc = dd_path(dir, err, "%s/checkpoints/import", dd_store_root(s));
    if (!rc)
        rc = make_folder(s, dir, err);
    if (!rc)
        rc = dd_path(out->path, err, "%s/%.32s.safetensors", dir, out->sha256);
    if (rc)
        return rc;
    pthread_mutex_lock(&files_and_rows);
    rc = place(s, m, dir, out, err);
    pthread_mutex_unlock(&files_and_rows);
    return rc;
}

int dd_ckpt_import(struct dd_store *s, const struct dd_ckpt_source *in, struct dd_ckpt_row *out,
                   struct dr_err *err) {
    struct import *m = dd_xcalloc(1, sizeof *m);
    char dir[DD_PATH_MAX];
    *out = (struct dd_ckpt_row){0};
    *m = (struct import){.in = in, .shown = in->take ? "the file" : in->path, .from = -1, .to = -1};
    dr_sha256_init(&m->sha);
    int rc = dd_path(dir, err, "%s/uploads", dd_store_root(s)); // emptied at the next start
    if (!rc)
        rc = dd_mkdirs(dir, err);
    if (!rc)
        rc = in->take ? dd_path(m->part, err, "%s", in->path)
                      : dd_path(m->part, err, "%s/import-XXXXXX", dir);
    if (!rc)
        rc = take_in(m, err);
    if (!rc)
        rc = keep(s, m, out, err);
    if (m->from >= 0)
        close(m->from);
    if (m->to >= 0)
        close(m->to);
    if (m->part[0] && (in->take || m->to >= 0))
        unlink(m->part);
    if (rc)
        dd_ckpt_row_free(out);
    free(m);
    return rc;
}

// --- removal ---

// Under the writer, so that nothing is promoted or queued in between.
static int drop(sqlite3 *db, void *arg, struct dr_err *err) {
    static const struct {
        const char *sql, *why;
    } uses[] = {{"SELECT 1 FROM meta WHERE key='active' AND value=''||?", "it is promoted"},
                {"SELECT 1 FROM checkpoints c WHERE c.id=? AND " DD_CKPT_NEEDED,
                 "a job needs it, or it is the best of its job"},
                {"SELECT 1 FROM checkpoints c WHERE c.id=? AND " DD_CKPT_CONTINUED,
                 "its job, which has not completed, would go on from it"}};
    const int64_t id = *(const int64_t *)arg;
    if (!dd_sql_one(db, 0, "SELECT 1 FROM checkpoints WHERE id=? AND state<>'removed'", "i", id))
        return dr_fail(err, DR_ENOENT, "there is no checkpoint %lld", (long long)id);
    for (size_t i = 0; i < DR_COUNT(uses); i++)
        if (dd_sql_one(db, 0, uses[i].sql, "i", id))
            return dr_fail(err, DR_ECONFLICT, "checkpoint %lld is in use: %s", (long long)id,
                           uses[i].why);
    return dd_sql_run(db, err, "UPDATE checkpoints SET state='removed', tags='[]' WHERE id=?", "i",
                      id);
}

int dd_ckpt_remove(struct dd_store *s, int64_t id, struct dr_err *err) {
    struct dd_ckpt_row row;
    int rc = dd_ckpt_get(s, id, &row, err);
    if (rc)
        return rc;
    pthread_mutex_lock(&files_and_rows);
    // The row first: a process that ends between the two leaves a file and no row without one.
    rc = dd_store_free_by(s, drop, &id, err);
    if (!rc)
        unlink(row.path);
    pthread_mutex_unlock(&files_and_rows);
    dd_store_changed(s);
    dd_ckpt_row_free(&row);
    return rc;
}
