// GET /v1/checkpoints/{id}/file with parameters: one set of weights as a file for other programs
// (engine/export). The file is made anew, without a name, for each request.
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

static const struct {
    const char *word, *tail, *type;
} formats[] = {
#define X(ID, word, tail, type) {word, tail, type},
    DR_EXPORTS(X)
#undef X
};

// The good checkpoint of an id.
static int find(struct dd *d, const char *id, struct dd_ckpt_row *row, struct api_problem *p) {
    struct dr_err err = {0};
    int64_t n;
    if (!dd_glue_id(id, &n))
        return api_problem_set(p, 404, "not-found", "there is no checkpoint %s", id);
    int rc = dd_ckpt_get(d->store, n, row, &err);
    if (rc)
        return dd_http_fail(p, rc, &err);
    if (!strcmp(row->state, "ok"))
        return 0;
    rc = dr_fail(&err, DR_EGONE, "checkpoint %s is %s", row->id, row->state);
    dd_ckpt_row_free(row);
    return dd_http_fail_as(p, rc, &err, "checkpoint-gone");
}

// What is kept of the checkpoint's own metadata.
static int write_export(const struct dd_ckpt_row *row, const struct api_export *as,
                        const char *path, struct dr_err *err) {
    const bool raw = as->weights == API_WEIGHTS_RAW;
    struct dr_snapshot *snap;
    struct dr_st_file *f = NULL;
    int rc = raw ? dr_snapshot_load_raw(row->path, row->config, &snap, err)
                 : dr_snapshot_load(row->path, row->config, &snap, err);
    if (rc)
        return rc;
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

static int open_made(const char *path, struct api_file *out, struct dr_err *err) {
    struct stat st;
    out->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (out->fd < 0 || fstat(out->fd, &st))
        return dr_fail(err, DR_EIO, "cannot read the export again: %s", strerror(errno));
    out->size = (uint64_t)st.st_size;
    return 0;
}

static void describe(const struct dd_ckpt_row *row, const struct api_export *as,
                     struct api_file *out) {
    const char *raw = as->weights == API_WEIGHTS_RAW ? "-raw" : "";
    snprintf(out->etag, sizeof out->etag, "%.32s%s-%s", row->sha256, raw, formats[as->format].word);
    snprintf(out->content_type, sizeof out->content_type, "%s", formats[as->format].type);
    snprintf(out->filename, sizeof out->filename, "driftd-%s-step-%lld%s%s", row->id,
             (long long)row->step, raw, formats[as->format].tail);
}

int dd_glue_checkpoint_export(void *ctx, const char *id, const struct api_export *as,
                              struct api_file *out, struct api_problem *p) {
    struct dd *d = ctx;
    struct dd_ckpt_row row;
    struct dr_err err = {0};
    char path[DD_PATH_MAX];
    if (find(d, id, &row, p))
        return -1;
    out->fd = -1;
    snprintf(path, sizeof path, "%s/uploads/export-XXXXXX", d->opt.state_dir);
    const int fd = mkstemp(path);
    int rc = fd < 0 ? dr_fail(&err, DR_EIO, "cannot write the export: %s", strerror(errno))
                    : write_export(&row, as, path, &err);
    if (!rc)
        rc = open_made(path, out, &err);
    if (fd >= 0) {
        close(fd);
        unlink(path);
    }
    if (rc && out->fd >= 0)
        close(out->fd);
    if (rc)
        dd_http_fail(p, rc == DR_EUNSUPPORTED ? DR_EINVAL : rc, &err);
    else
        describe(&row, as, out);
    dd_ckpt_row_free(&row);
    return rc ? -1 : 0;
}
