// Cache of checkpoint rows for requests (ckpt_cache.h).
#include "daemon/generate/ckpt_cache.h"

#include "daemon/base/util.h"
#include "engine/drift.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRIES = 32 };

// Of a job: what its requests ask for, read from its row.
struct job_facts {
    int64_t id;
    json_t *names;               // NULL: none known
    double alpha_min, alpha_max; // NAN: not known
};

struct dd_models {
    struct dd_store *store;
    pthread_mutex_t lock;
    uint64_t version;       // of the store's checkpoints when the rest was read
    int64_t active, latest; // -1: not read
    struct dd_model_info info[ENTRIES];
    struct job_facts job[ENTRIES];
    int ninfo, njobs;
};

struct dd_models *dd_models_new(struct dd_store *s) {
    struct dd_models *m = dd_xcalloc(1, sizeof *m);
    m->store = s;
    m->active = m->latest = -1;
    pthread_mutex_init(&m->lock, NULL);
    return m;
}

static void forget(struct dd_models *m) {
    for (int i = 0; i < m->ninfo; i++)
        json_decref(m->info[i].names);
    for (int i = 0; i < m->njobs; i++)
        json_decref(m->job[i].names);
    m->ninfo = m->njobs = 0;
    m->active = m->latest = -1;
}

void dd_models_free(struct dd_models *m) {
    if (!m)
        return;
    forget(m);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

// Takes the lock with nothing stale behind it. The version is read before the rows are, so that a
// change in between is seen by the next caller.
static void enter(struct dd_models *m) {
    pthread_mutex_lock(&m->lock);
    uint64_t now = dd_store_version(m->store);
    if (now != m->version)
        forget(m);
    m->version = now;
}

int64_t dd_models_active(struct dd_models *m) {
    enter(m);
    if (m->active < 0)
        m->active = dd_ckpt_active(m->store);
    int64_t v = m->active;
    pthread_mutex_unlock(&m->lock);
    return v;
}

int64_t dd_models_latest(struct dd_models *m) {
    struct dd_ckpt_row row;
    struct dr_err err;
    enter(m);
    if (m->latest < 0) {
        int rc = dd_ckpt_latest(m->store, &row, &err);
        if (!rc) {
            m->latest = strtoll(row.id, NULL, 10);
            dd_ckpt_row_free(&row);
        } else if (rc == DR_ENOENT) {
            m->latest = 0;
        }
    }
    int64_t v = m->latest > 0 ? m->latest : 0;
    pthread_mutex_unlock(&m->lock);
    return v;
}

static struct job_facts read_job(struct dd_store *s, int64_t id) {
    struct job_facts f = {.id = id, .alpha_min = NAN, .alpha_max = NAN};
    struct dr_err err;
    struct dr_config cfg;
    sqlite3 *db = dd_store_reader(s, &err);
    sqlite3_stmt *st =
        db ? dd_sql_prepare(db, &err, "SELECT class_names, config FROM jobs WHERE id=?", "i", id)
           : NULL;
    if (st && sqlite3_step(st) == SQLITE_ROW) {
        const char *names = (const char *)sqlite3_column_text(st, 0);
        const char *config = (const char *)sqlite3_column_text(st, 1);
        f.names = names ? json_loads(names, 0, NULL) : NULL;
        if (config && !dr_config_parse(config, strlen(config), "", &cfg, &err)) {
            f.alpha_min = cfg.train.alpha_min;
            f.alpha_max = cfg.train.alpha_max;
        }
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    return f;
}

// With the lock held; valid as long as it is. A full cache gives up its last entry.
static const struct job_facts *job_facts(struct dd_models *m, int64_t id) {
    for (int i = 0; i < m->njobs; i++)
        if (m->job[i].id == id)
            return &m->job[i];
    if (m->njobs == ENTRIES)
        json_decref(m->job[--m->njobs].names);
    m->job[m->njobs] = read_job(m->store, id);
    return &m->job[m->njobs++];
}

// With the lock held.
static json_t *names_of(struct dd_models *m, int64_t job) {
    return job > 0 ? json_incref(job_facts(m, job)->names) : NULL;
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

// Class names out of the file's own metadata; NULL: it has none that will do.
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
    rc = dr_model_config_parse(row.config, strlen(row.config), "the checkpoint's row", &out->model,
                               err);
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

bool dd_models_scales(struct dd_models *m, const char *snapshot, double *min, double *max) {
    static const char live[] = "live:";
    const size_t n = sizeof live - 1;
    const bool running = !strncmp(snapshot, live, n);
    struct dd_model_info info;
    struct dr_err err;
    int64_t job;
    if (!dd_parse_int(snapshot + (running ? n : 0), 1, INT64_MAX, &job))
        return false;
    if (!running) {
        if (dd_models_get(m, job, &info, &err))
            return false;
        dd_models_release(m, info.names);
        job = info.job;
    }
    if (job <= 0)
        return false;
    enter(m);
    const struct job_facts *f = job_facts(m, job);
    *min = f->alpha_min;
    *max = f->alpha_max;
    pthread_mutex_unlock(&m->lock);
    return isfinite(*min) && isfinite(*max);
}
