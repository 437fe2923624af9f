// Cache of checkpoint rows for requests (ckpt_cache.h).
#include "daemon/generate/ckpt_cache.h"

#include "daemon/base/util.h"
#include "engine/drift.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRIES = 32 };

struct dd_models {
    struct dd_store *store;
    pthread_mutex_t lock;
    uint64_t version; // of the store's checkpoints when the rest was read
    bool ids_read;
    struct dd_model_ids ids;
    struct dd_model_info info[ENTRIES];
    int64_t name_job[ENTRIES];
    json_t *names[ENTRIES];
    int ninfo, nnames;
};

struct dd_models *dd_models_new(struct dd_store *s) {
    struct dd_models *m = dd_xcalloc(1, sizeof *m);
    m->store = s;
    pthread_mutex_init(&m->lock, NULL);
    return m;
}

static void forget(struct dd_models *m) {
    for (int i = 0; i < m->ninfo; i++)
        json_decref(m->info[i].names);
    for (int i = 0; i < m->nnames; i++)
        json_decref(m->names[i]);
    m->ninfo = m->nnames = 0;
    m->ids_read = false;
}

void dd_models_free(struct dd_models *m) {
    if (!m)
        return;
    forget(m);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

// Takes the lock and drops what is stale. The version is read before the rows, so that the next
// caller sees a change in between.
static void enter(struct dd_models *m) {
    pthread_mutex_lock(&m->lock);
    uint64_t now = dd_store_version(m->store);
    if (now != m->version)
        forget(m);
    m->version = now;
}

// The first two cannot say that they failed: the row read after them says whether the database can
// be read at all.
static int read_ids(struct dd_store *s, struct dd_model_ids *out, struct dr_err *err) {
    struct dd_ckpt_row row;
    *out = (struct dd_model_ids){.active = dd_ckpt_active(s), .final = dd_ckpt_final(s)};
    int rc = dd_ckpt_latest(s, &row, err);
    if (rc)
        return rc == DR_ENOENT ? 0 : rc;
    out->latest = strtoll(row.id, NULL, 10);
    dd_ckpt_row_free(&row);
    return 0;
}

int dd_models_ids(struct dd_models *m, struct dd_model_ids *out, struct dr_err *err) {
    struct dr_err why = {0};
    enter(m);
    int rc = m->ids_read ? 0 : read_ids(m->store, &m->ids, &why);
    m->ids_read = !rc;
    *out = rc ? (struct dd_model_ids){0} : m->ids;
    pthread_mutex_unlock(&m->lock);
    if (rc && err)
        *err = why;
    return rc;
}

int64_t dd_models_active(struct dd_models *m) {
    struct dd_model_ids ids;
    dd_models_ids(m, &ids, NULL);
    return ids.active;
}

static json_t *read_names(struct dd_store *s, int64_t job) {
    struct dr_err err;
    json_t *names = NULL;
    sqlite3 *db = dd_store_reader(s, &err);
    sqlite3_stmt *st =
        db ? dd_sql_prepare(db, &err, "SELECT class_names FROM jobs WHERE id=?", "i", job) : NULL;
    if (st && sqlite3_step(st) == SQLITE_ROW && sqlite3_column_text(st, 0))
        names = json_loads((const char *)sqlite3_column_text(st, 0), 0, NULL);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return names;
}

// With the lock held.
static json_t *names_of(struct dd_models *m, int64_t job) {
    for (int i = 0; i < m->nnames; i++)
        if (m->name_job[i] == job)
            return json_incref(m->names[i]);
    json_t *names = job > 0 ? read_names(m->store, job) : NULL;
    if (names && m->nnames < ENTRIES) {
        m->name_job[m->nnames] = job;
        m->names[m->nnames++] = json_incref(names);
    }
    return names;
}

json_t *dd_models_names(struct dd_models *m, int64_t job) {
    enter(m);
    json_t *names = names_of(m, job);
    pthread_mutex_unlock(&m->lock);
    return names;
}

void dd_models_release(struct dd_models *m, json_t *names) {
    pthread_mutex_lock(&m->lock);
    json_decref(names);
    pthread_mutex_unlock(&m->lock);
}

// Class names out of the file's own metadata; NULL: it has none that fit.
static json_t *names_in_file(const char *path, int64_t classes) {
    struct dr_st_file *f = NULL;
    struct dr_err err;
    json_t *names = NULL, *name;
    size_t i;
    if (dr_st_open(path, &f, &err))
        return NULL;
    const char *text = dr_st_meta(f, "driftd.classes");
    names = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
    bool fit = json_is_array(names) && (int64_t)json_array_size(names) == classes;
    json_array_foreach(names, i, name) fit = fit && json_is_string(name);
    dr_st_close(f);
    if (fit)
        return names;
    json_decref(names);
    return NULL;
}

static int read_info(struct dd_models *m, int64_t id, struct dd_model_info *out,
                     struct dr_err *err) {
    struct dd_ckpt_row row;
    int rc = dd_ckpt_get(m->store, id, &row, err);
    if (rc)
        return rc;
    *out = (struct dd_model_info){.id = id, .job = row.job, .step = row.step};
    memcpy(out->path, row.path, sizeof out->path);
    memcpy(out->sha256, row.sha256, sizeof out->sha256);
    memcpy(out->state, row.state, sizeof out->state);
    rc = dd_ckpt_expect_generator(&row, err);
    if (!rc)
        rc = dr_model_config_parse(row.config, strlen(row.config), "the checkpoint's row",
                                   &out->model, err);
    dd_ckpt_row_free(&row);
    if (!rc)
        out->names =
            out->job ? names_of(m, out->job) : names_in_file(out->path, out->model.classes);
    return rc;
}

int dd_models_get(struct dd_models *m, int64_t id, struct dd_model_info *out, struct dr_err *err) {
    int rc = 0;
    enter(m);
    for (int i = 0; i < m->ninfo; i++)
        if (m->info[i].id == id) {
            *out = m->info[i];
            json_incref(out->names);
            pthread_mutex_unlock(&m->lock);
            return 0;
        }
    rc = read_info(m, id, out, err);
    if (!rc) {
        if (m->ninfo == ENTRIES)
            json_decref(m->info[--m->ninfo].names);
        m->info[m->ninfo++] = *out;
        json_incref(out->names);
    }
    pthread_mutex_unlock(&m->lock);
    return rc;
}
