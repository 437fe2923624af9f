// Life of a data set: created, uploaded, imported on one thread, removed (datasets.h).
#include "daemon/datasets/datasets_priv.h"

#include "daemon/base/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RETRY_S = 5 };

static void announce(struct dd_datasets *d, const char *name, const char *state,
                     const char *error) {
    json_t *j = json_pack("{s:s, s:s}", "name", name, "state", state);
    if (error)
        json_object_set_new(j, "error", json_string(error));
    dd_event(d->env.events, "dataset", 0, j);
}

// --- the import thread ---

static void on_progress(void *arg, int64_t done, int64_t total) {
    struct dd_datasets *d = arg;
    pthread_mutex_lock(&d->lock);
    d->done = done;
    d->total = total;
    pthread_mutex_unlock(&d->lock);
}

static int room(void *arg, int64_t bytes, struct dr_err *err) {
    return dd_dataset_room(arg, bytes, err);
}

static int decode(struct dd_datasets *d, const struct dd_dataset_row *row, const char *cache,
                  struct dd_dataset_result *res, struct dr_err *err) {
    char source[DD_PATH_MAX];
    // A folder may have become a link since it was added.
    int rc = row->upload ? dd_dataset_path(d, row->name, DD_DATASET_UPLOAD, source, err)
             : access(row->source, F_OK) ? dd_path(source, err, "%s", row->source)
                                         : dd_dataset_confine(d, row->source, source, err);
    json_t *options = json_loads(row->options, 0, NULL);
    const struct dd_decode in = {.source = source,
                                 .cache = cache,
                                 .options = options,
                                 .threads = d->env.threads,
                                 .cancel = &d->cancel,
                                 .progress = on_progress,
                                 .room = room,
                                 .arg = d};
    if (!rc)
        rc = dd_dataset_room(d, 0, err);
    if (!rc)
        rc = dd_dataset_decode(&in, res, err);
    json_decref(options);
    return rc;
}

// Messages call an upload by what it is, not by the file that keeps it.
static void name_upload(struct dd_datasets *d, const char *name, struct dr_err *err) {
    static const char instead[] = "the upload";
    char path[DD_PATH_MAX];
    if (dd_dataset_path(d, name, DD_DATASET_UPLOAD, path, NULL))
        return;
    for (char *at; (at = strstr(err->msg, path));) {
        const size_t n = strlen(path);
        memmove(at + sizeof instead - 1, at + n, strlen(at + n) + 1);
        memcpy(at, instead, sizeof instead - 1);
    }
}

// The row of a set whose file is whole, or of one that failed. Not DR_ENOENT: it may be tried
// again, as the database was busy or the disk is full.
static int settle(struct dd_datasets *d, const struct dd_dataset_row *row, int rc,
                  const struct dd_dataset_result *res, const struct dr_err *why,
                  struct dr_err *err) {
    char upload[DD_PATH_MAX], q[600];
    if (!rc) {
        rc = dd_dataset_row_done(d->env.store, row->id, res, err);
        if (!rc && row->upload && !dd_dataset_path(d, row->name, DD_DATASET_UPLOAD, upload, NULL))
            unlink(upload);
        if (!rc)
            announce(d, row->name, "ready", NULL);
        return rc;
    }
    rc = dd_dataset_row_failed(d->env.store, row->id, why->msg, res->report, err);
    if (!rc)
        announce(d, row->name, "failed", why->msg);
    dd_log(DR_LOG_WARN, "dataset.failed", "name=%s reason=%s", row->name,
           dd_log_quote(why->msg, q, sizeof q));
    return rc;
}

// One import. False: it is to be tried again after a while.
static bool import(struct dd_datasets *d, const struct dd_dataset_row *row) {
    struct dd_dataset_result res = {0};
    struct dr_err why = {0}, err = {0};
    char cache[DD_PATH_MAX];
    int rc = dd_dataset_file(d, row->name, cache, &why);
    if (!rc)
        rc = decode(d, row, cache, &res, &why);
    name_upload(d, row->name, &why);
    bool settled = true;
    pthread_mutex_lock(&d->change);
    // Cancelled by a removal, whose row is gone, or by the end of the daemon, after which it starts
    // again.
    if (!atomic_load(&d->cancel)) {
        rc = settle(d, row, rc, &res, &why, &err);
        settled = !rc || rc == DR_ENOENT;
    }
    pthread_mutex_lock(&d->lock);
    d->id = 0;
    pthread_mutex_unlock(&d->lock);
    pthread_mutex_unlock(&d->change);
    dd_dataset_result_free(&res);
    return settled;
}

// Claims the next import, so that a removal from here on cancels it.
static int claim(struct dd_datasets *d, struct dd_dataset_row *row) {
    struct dr_err err = {0};
    pthread_mutex_lock(&d->change);
    int rc = dd_dataset_row_next(d->env.store, row, &err);
    pthread_mutex_lock(&d->lock);
    if (!rc) {
        d->id = row->id;
        d->done = d->total = 0;
        atomic_store(&d->cancel, d->closing);
    }
    pthread_mutex_unlock(&d->lock);
    pthread_mutex_unlock(&d->change);
    return rc;
}

static void *work(void *arg) {
    struct dd_datasets *d = arg;
    pthread_setname_np(pthread_self(), "datasets");
    for (;;) {
        struct dd_dataset_row row;
        bool idle = claim(d, &row) != 0;
        if (!idle) {
            idle = !import(d, &row);
            dd_dataset_row_free(&row);
        }
        pthread_mutex_lock(&d->lock);
        if (idle && !d->woken && !d->closing)
            dd_cond_wait_until(&d->wake, &d->lock, dd_now_ns() + RETRY_S * (int64_t)1000000000);
        d->woken = false;
        const bool closing = d->closing;
        pthread_mutex_unlock(&d->lock);
        if (closing)
            return NULL;
    }
}

// There is an import to do.
static void wake(struct dd_datasets *d) {
    pthread_mutex_lock(&d->lock);
    d->woken = true;
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->lock);
}

int dd_datasets_start(const struct dd_datasets_env *env, struct dd_datasets **out,
                      struct dr_err *err) {
    struct dd_datasets *d = dd_xcalloc(1, sizeof *d);
    d->env = *env;
    pthread_mutex_init(&d->change, NULL);
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->wake, NULL);
    *out = d;
    int rc = dd_path(d->root, err, "%s/datasets", dd_store_root(env->store));
    if (!rc)
        rc = dd_mkdirs(d->root, err);
    if (!rc)
        rc = dd_dataset_sweep(d, err);
    if (!rc && pthread_create(&d->thread, NULL, work, d))
        rc = dr_fail(err, DR_ENOMEM, "no thread for data sets");
    d->started = !rc;
    if (rc) {
        dd_datasets_stop(d);
        *out = NULL;
    }
    return rc;
}

void dd_datasets_stop(struct dd_datasets *d) {
    if (!d)
        return;
    pthread_mutex_lock(&d->lock);
    d->closing = true;
    atomic_store(&d->cancel, true);
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->lock);
    if (d->started)
        pthread_join(d->thread, NULL);
    pthread_mutex_destroy(&d->change);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->wake);
    free(d);
}

// --- creation ---

static int check_name(const char *name, struct dr_err *err) {
    const size_t n = strlen(name);
    if (n < 1 || n > DD_DATASET_NAME_MAX || *name == '.' ||
        strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != n)
        return dr_fail_at(err, DR_EINVAL, "name",
                          "name: expected 1 to %d of the characters A-Z a-z 0-9 . _ - without a "
                          "dot in front",
                          DD_DATASET_NAME_MAX);
    if (dd_builtin_set(name))
        return dr_fail_at(err, DR_ECONFLICT, "name", "%s is the name of a built-in data set", name);
    return 0;
}

// With `change` held.
static int add(struct dd_datasets *d, struct dd_dataset_row *row, struct dr_err *err) {
    char dir[DD_PATH_MAX];
    struct dd_dataset_row old;
    int rc = dd_dataset_row_get(d->env.store, row->name, &old, err);
    dd_dataset_row_free(&old);
    if (!rc)
        return dr_fail_at(err, DR_ECONFLICT, "name",
                          "there is already a data set %s; remove it first, or choose another name",
                          row->name);
    if (rc != DR_ENOENT)
        return rc;
    rc = dd_dataset_path(d, row->name, NULL, dir, err);
    if (!rc) {
        dd_remove_tree(dir); // of a set that was removed a moment ago
        rc = dd_mkdirs(dir, err);
    }
    if (!rc)
        rc = dd_sync_folder(d->root, err);
    return rc ? rc : dd_dataset_row_insert(d->env.store, row, err);
}

// found: the path as it will be kept. A new reference to the options, whole, or NULL where f holds
// a fault.
static json_t *check(struct dd_datasets *d, const struct dd_dataset_new *in,
                     char found[DD_PATH_MAX], struct dd_dataset_faults *f) {
    struct dr_err e = {0};
    *found = 0;
    if (in->name && check_name(in->name, &e))
        dd_dataset_fault(f, &e);
    if (in->path && dd_dataset_confine(d, in->path, found, &e))
        dd_dataset_fault(f, &e);
    return dd_dataset_options(in->options, f);
}

int dd_datasets_check(struct dd_datasets *d, const struct dd_dataset_new *in,
                      struct dr_problems *list, struct dr_err *err) {
    char found[DD_PATH_MAX];
    struct dd_dataset_faults f = {list, err, 0};
    json_decref(check(d, in, found, &f));
    return f.rc;
}

int dd_datasets_create(struct dd_datasets *d, const struct dd_dataset_new *in,
                       struct dr_problems *list, struct dr_err *err) {
    const char *name = in->name, *path = in->path;
    struct dd_dataset_row row = {.upload = !path};
    struct dd_dataset_faults f = {list, err, 0};
    char found[DD_PATH_MAX];
    json_t *all = check(d, in, found, &f);
    int rc = all ? dd_dataset_room(d, 0, err) : f.rc;
    if (!rc) {
        snprintf(row.name, sizeof row.name, "%s", name);
        snprintf(row.state, sizeof row.state, "%s", path ? "importing" : "uploading");
        row.source = path ? found : in->source ? (char *)(uintptr_t)in->source : found;
        row.options = json_dumps(all, JSON_COMPACT);
        rc = row.options ? 0 : dr_fail(err, DR_ENOMEM, "out of memory");
    }
    json_decref(all);
    if (rc)
        return rc;
    pthread_mutex_lock(&d->change);
    rc = add(d, &row, err);
    if (!rc) {
        announce(d, name, row.state, NULL);
        wake(d);
    }
    pthread_mutex_unlock(&d->change);
    free(row.options);
    return rc;
}

// --- uploads ---

// With `change` held. The size of what has been received.
static int uploading(struct dd_datasets *d, const char *name, int64_t *received,
                     struct dr_err *err) {
    struct dd_dataset_row row;
    int rc = dd_dataset_row_get(d->env.store, name, &row, err);
    if (!rc && strcmp(row.state, "uploading"))
        rc = dr_fail(err, DR_ECONFLICT, "the data set %s is %s and takes no upload", name,
                     row.state);
    dd_dataset_row_free(&row);
    if (!rc)
        *received = dd_upload_received(d, name);
    return rc;
}

static int append(struct dd_datasets *d, const char *name, int64_t offset, const char *part,
                  int64_t *received, struct dr_err *err) {
    const int64_t bytes = dd_file_size(part);
    int rc = uploading(d, name, received, err);
    if (rc)
        return rc;
    if (offset != *received)
        return dr_fail_at(err, DR_ECONFLICT, "offset",
                          "the upload has %lld bytes: go on from offset %lld, not %lld",
                          (long long)*received, (long long)*received, (long long)offset);
    if (bytes < 0)
        return dr_fail(err, DR_EIO, "the upload is gone");
    if (bytes > d->env.max_upload - offset)
        return dr_fail_at(err, DR_EINVAL, "body",
                          "an upload may have %lld bytes in all (max-upload-mb); put larger data "
                          "sets below the data directory and add them by path",
                          (long long)d->env.max_upload);
    rc = dd_dataset_room(d, *received ? bytes : 0, err); // the first part is not copied
    if (!rc)
        rc = dd_upload_add(d, name, part, err);
    if (!rc)
        *received = offset + bytes;
    return rc;
}

int dd_datasets_append(struct dd_datasets *d, const char *name, int64_t offset, const char *part,
                       int64_t *received, struct dr_err *err) {
    *received = 0;
    pthread_mutex_lock(&d->change);
    int rc = append(d, name, offset, part, received, err);
    pthread_mutex_unlock(&d->change);
    unlink(part); // where it has not become the file
    return rc;
}

// With `change` held.
static int queue(struct dd_datasets *d, const char *name, int64_t bytes, struct dr_err *err) {
    struct dd_dataset_row row;
    char path[DD_PATH_MAX];
    int64_t received = 0;
    int rc = dd_dataset_row_get(d->env.store, name, &row, err);
    if (rc)
        return rc;
    const bool failed = !strcmp(row.state, "failed");
    if (!failed || row.upload)
        rc = failed ? dd_dataset_path(d, name, DD_DATASET_UPLOAD, path, err)
                    : uploading(d, name, &received, err);
    if (!rc && failed && row.upload && (received = dd_file_size(path)) < 0)
        rc = dr_fail(err, DR_ECONFLICT,
                     "the upload of %s is gone; remove the set and send it again", name);
    if (!rc && row.upload && !received)
        rc = dr_fail(err, DR_EINVAL, "nothing has been uploaded to %s yet", name);
    if (!rc && bytes >= 0 && row.upload && bytes != received)
        rc = dr_fail_at(err, DR_ECONFLICT, "bytes", "the upload has %lld bytes, not %lld",
                        (long long)received, (long long)bytes);
    if (!rc && row.upload)
        rc = dd_upload_complete(d, name, err);
    if (!rc)
        rc = dd_dataset_row_importing(d->env.store, row.id, err);
    dd_dataset_row_free(&row);
    return rc;
}

int dd_datasets_import(struct dd_datasets *d, const char *name, int64_t bytes, struct dr_err *err) {
    pthread_mutex_lock(&d->change);
    int rc = queue(d, name, bytes, err);
    if (!rc) {
        announce(d, name, "importing", NULL);
        wake(d);
    }
    pthread_mutex_unlock(&d->change);
    return rc;
}

// --- removal ---

static void cancel(struct dd_datasets *d, int64_t id) {
    pthread_mutex_lock(&d->lock);
    if (d->id == id)
        atomic_store(&d->cancel, true);
    pthread_mutex_unlock(&d->lock);
}

// With `change` held. The row goes first: a process that ends in between leaves a folder without a
// row, which the next start puts aside.
static int take_away(struct dd_datasets *d, const char *name, char gone[DD_PATH_MAX],
                     struct dr_err *err) {
    struct dd_dataset_row row;
    char dir[DD_PATH_MAX];
    int rc = dd_dataset_row_get(d->env.store, name, &row, err);
    if (!rc)
        rc = dd_dataset_row_delete(d->env.store, &row, err);
    if (!rc)
        cancel(d, row.id);
    if (!rc && !dd_dataset_path(d, name, NULL, dir, NULL) &&
        (dd_path(gone, NULL, "%s/.gone-%lld", d->root, (long long)row.id) || rename(dir, gone)))
        *gone = 0;
    dd_dataset_row_free(&row);
    return rc;
}

int dd_datasets_remove(struct dd_datasets *d, const char *name, struct dr_err *err) {
    char gone[DD_PATH_MAX] = "";
    if (dd_builtin_set(name))
        return dr_fail(err, DR_ECONFLICT, "%s is a built-in data set and cannot be removed", name);
    pthread_mutex_lock(&d->change);
    int rc = take_away(d, name, gone, err);
    if (!rc)
        announce(d, name, "removed", NULL);
    pthread_mutex_unlock(&d->change);
    if (!rc && *gone)
        dd_remove_tree(gone);
    return rc;
}
