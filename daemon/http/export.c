// GET /v1/checkpoints/{id}/file with parameters: one set of weights as a file for other programs
// (engine/export). The file has no name; it is on the disk as long as somebody reads it.
#include "daemon/base/room.h"
#include "daemon/base/util.h"
#include "daemon/http/daemon.h"
#include "daemon/store/checkpoints.h"
#include "engine/drift.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST = 8 }; // exports on the disk at a time

// Requests for the same one, while it is read, share it.
struct dd_export {
    struct dd_export *next;
    struct dd *d;
    struct api_file file; // what each reader gets, with an fd of its own; fd -1: being made
    int readers;
};

static const struct {
    const char *word, *tail, *type;
} formats[] = {
#define X(ID, word, tail, type) {word, tail, type},
    DR_EXPORTS(X)
#undef X
};

// The good checkpoint of an id, with its file.
static int find(struct dd *d, const char *id, struct dd_ckpt_row *row, struct api_problem *p) {
    struct dr_err err = {0};
    int64_t n;
    if (!dd_glue_id(id, &n))
        return api_problem_set(p, 404, "not-found", "there is no checkpoint %s", id);
    int rc = dd_ckpt_get(d->store, n, row, &err);
    if (rc)
        return dd_http_fail(p, rc, &err);
    const bool good = !strcmp(row->state, "ok");
    if (good && !access(row->path, F_OK))
        return 0;
    rc = good ? dr_fail(&err, DR_EGONE, "the file of checkpoint %s is no longer there", row->id)
              : dr_fail(&err, DR_EGONE, "checkpoint %s is %s", row->id, row->state);
    dd_ckpt_row_free(row);
    return dd_http_fail_as(p, rc, &err, "checkpoint-gone");
}

// NULL: there are too many. One that is new is the caller's to make.
static struct dd_export *enter(struct dd *d, const struct api_file *want) {
    struct dd_exports *all = &d->exports;
    pthread_mutex_lock(&all->lock);
    struct dd_export *e = all->first;
    while (e && (e->file.fd < 0 || strcmp(e->file.etag, want->etag) != 0))
        e = e->next;
    if (e) {
        e->readers++;
    } else if (all->n < MOST) {
        e = dd_xcalloc(1, sizeof *e);
        *e = (struct dd_export){.next = all->first, .d = d, .file = *want, .readers = 1};
        all->first = e;
        all->n++;
    }
    pthread_mutex_unlock(&all->lock);
    return e;
}

static void leave(void *arg) {
    struct dd_export *e = arg, **at;
    struct dd_exports *all = &e->d->exports;
    pthread_mutex_lock(&all->lock);
    const bool last = --e->readers == 0;
    for (at = &all->first; last && *at != e; at = &(*at)->next)
        ;
    if (last) {
        *at = e->next;
        all->n--;
    }
    pthread_mutex_unlock(&all->lock);
    if (!last)
        return;
    if (e->file.fd >= 0)
        close(e->file.fd);
    free(e);
}

// What is kept of the checkpoint's own metadata. `dir`: where the disk is to have room for it.
static int write_export(const struct dd_ckpt_row *row, const struct api_export *as, const char *dir,
                        const char *path, struct dr_err *err) {
    const bool raw = as->weights == API_WEIGHTS_RAW;
    struct dr_snapshot *snap = NULL;
    struct dr_st_file *f = NULL;
    int rc = raw ? dr_snapshot_load_raw(row->path, row->config, &snap, err)
                 : dr_snapshot_load(row->path, row->config, &snap, err);
    if (rc)
        return rc;
    const int copies = as->format == DR_EXPORT_PYTORCH ? 2 : 1; // a zip is made of a file
    rc = dd_room(dir, copies * (int64_t)dr_net_bytes(snap->net), err);
    if (!rc)
        rc = dr_st_open(row->path, &f, err);
    if (!rc) {
        const struct dr_export x = {.snap = snap,
                                    .format = (enum dr_export_format)as->format,
                                    .config = dr_st_meta(f, "driftd.config"),
                                    .classes = dr_st_meta(f, "driftd.classes"),
                                    .weights = raw ? "raw" : "ema"};
        rc = dr_export(&x, path, err);
    }
    dr_st_close(f);
    dr_snapshot_unref(snap);
    return rc;
}

static void describe(const struct dd_ckpt_row *row, const struct api_export *as,
                     struct api_file *out) {
    const char *raw = as->weights == API_WEIGHTS_RAW ? "-raw" : "";
    snprintf(out->etag, sizeof out->etag, "%.32s%s-%s", row->sha256, raw, formats[as->format].word);
    snprintf(out->content_type, sizeof out->content_type, "%s", formats[as->format].type);
    snprintf(out->filename, sizeof out->filename, "driftd-%s-step-%lld%s%s", row->id,
             (long long)row->step, raw, formats[as->format].tail);
}

static int open_made(const char *path, struct dd_export *e, struct dr_err *err) {
    struct stat st;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        const int why = errno;
        if (fd >= 0)
            close(fd);
        return dr_fail(err, DR_EIO, "cannot read the export again: %s", strerror(why));
    }
    pthread_mutex_lock(&e->d->exports.lock);
    e->file.size = (uint64_t)st.st_size;
    e->file.fd = fd;
    pthread_mutex_unlock(&e->d->exports.lock);
    return 0;
}

static int make(struct dd_export *e, const struct dd_ckpt_row *row, const struct api_export *as,
                struct dr_err *err) {
    const char *state_dir = e->d->opt.state_dir;
    char path[DD_PATH_MAX];
    snprintf(path, sizeof path, "%s/uploads/export-XXXXXX", state_dir);
    const int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return dr_fail(err, DR_EIO, "cannot write the export: %s", strerror(errno));
    int rc = write_export(row, as, state_dir, path, err);
    if (!rc)
        rc = open_made(path, e, err);
    close(fd);
    unlink(path);
    return rc;
}

static int hand_out(struct dd_export *e, struct api_file *out, struct dr_err *err) {
    *out = e->file;
    out->fd = fcntl(e->file.fd, F_DUPFD_CLOEXEC, 0);
    out->closed = leave;
    out->arg = e;
    return out->fd < 0 ? dr_fail(err, DR_EIO, "cannot open the export: %s", strerror(errno)) : 0;
}

int dd_glue_checkpoint_export(void *ctx, const char *id, const struct api_export *as,
                              struct api_file *out, struct api_problem *p) {
    struct dd *d = ctx;
    struct dd_ckpt_row row = {0};
    struct api_file want = {.fd = -1};
    struct dr_err err = {0};
    if (find(d, id, &row, p))
        return -1;
    describe(&row, as, &want);
    struct dd_export *e = enter(d, &want);
    int rc = e ? 0
               : dr_fail(&err, DR_EBUSY,
                         "%d exports are being read, each of which takes room on the disk", MOST);
    if (!rc && e->file.fd < 0)
        rc = make(e, &row, as, &err);
    if (!rc)
        rc = hand_out(e, out, &err);
    dd_ckpt_row_free(&row);
    if (!rc)
        return 0;
    if (e)
        leave(e);
    dd_http_fail(p, rc == DR_EUNSUPPORTED ? DR_EINVAL : rc, &err);
    if (rc == DR_EBUSY)
        p->retry_after = 5;
    return -1;
}
