// HTTP callbacks for checkpoints, samples and evaluations (api/api.h -> checkpoints.h).
#include "daemon/base/recipe.h"
#include "daemon/base/util.h"
#include "daemon/http/daemon.h"
#include "daemon/store/checkpoints.h"
#include "engine/drift.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// --- checkpoints ---

static int find(struct dd *d, const char *id, struct dd_ckpt_row *row, struct api_problem *p) {
    struct dr_err err = {0};
    int64_t n;
    if (!dd_glue_id(id, &n))
        return api_problem_set(p, 404, "not-found", "there is no checkpoint %s", id);
    int rc = dd_ckpt_get(d->store, n, row, &err);
    return rc ? dd_http_fail(p, rc, &err) : 0;
}

// 0: every job; -1: the filter is no number, so nothing matches.
static int64_t job_filter(const struct api_page *page) {
    int64_t id = 0;
    if (page->job && *page->job && !dd_glue_id(page->job, &id))
        return -1;
    return id;
}

int dd_glue_checkpoint_list(void *ctx, const struct api_page *page, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    out->body = dd_ckpts_json(d->store, job_filter(page), page->cursor, page->limit,
                              out->next_cursor, sizeof out->next_cursor, &err);
    return out->body ? 0 : dd_http_fail(&out->problem, err.code, &err);
}

int dd_glue_checkpoint_get(void *ctx, const char *id, struct api_reply *out) {
    struct dd *d = ctx;
    struct dd_ckpt_row row;
    if (find(d, id, &row, &out->problem))
        return -1;
    out->body = dd_ckpt_to_json(&row, dd_ckpt_active(d->store));
    dd_ckpt_row_free(&row);
    return 0;
}

int dd_glue_checkpoint_patch(void *ctx, const char *id, const struct api_ckpt_patch *in,
                             struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t n;
    if (!dd_glue_id(id, &n))
        return api_problem_set(&out->problem, 404, "not-found", "there is no checkpoint %s", id);
    char *tags = in->tags ? json_dumps(in->tags, JSON_COMPACT) : NULL;
    int rc = dd_ckpt_patch(d->store, n, in->name, in->notes, tags, &err);
    free(tags);
    return rc ? dd_http_fail(&out->problem, rc, &err) : dd_glue_checkpoint_get(ctx, id, out);
}

int dd_glue_checkpoint_remove(void *ctx, const char *id, struct api_reply *out) {
    struct dd *d = ctx;
    struct dd_served served = {0};
    struct dr_err err = {0};
    int64_t n;
    if (!dd_glue_id(id, &n))
        return api_problem_set(&out->problem, 404, "not-found", "there is no checkpoint %s", id);
    if (!dd_batcher_served(d->batcher, &served, NULL) && served.id == n)
        return api_problem_set(&out->problem, 409, "conflict",
                               "checkpoint %s is served; serve another one first", id);
    int rc = dd_ckpt_remove(d->store, n, &err);
    return rc ? dd_http_fail(&out->problem, rc, &err) : 0;
}

int dd_glue_checkpoint_activate(void *ctx, const char *id, struct api_reply *out) {
    struct dd *d = ctx;
    struct dd_ckpt_row row;
    int64_t n;
    int rc = dd_glue_served_put(ctx, id, out);
    if (rc)
        return rc;
    json_decref(out->body);
    if (!dd_glue_id(id, &n)) { // a word
        out->body = json_pack("{s:n}", "active");
        return 0;
    }
    if (find(d, id, &row, &out->problem))
        return -1;
    out->body = dd_ckpt_to_json(&row, dd_ckpt_active(d->store));
    dd_ckpt_row_free(&row);
    return 0;
}

int dd_glue_open(const char *path, struct api_file *out, struct api_problem *p) {
    struct stat st;
    out->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO must not hang us
    if (out->fd < 0 || fstat(out->fd, &st) || !S_ISREG(st.st_mode)) {
        if (out->fd >= 0)
            close(out->fd);
        return api_problem_set(p, 410, "gone", "the file is no longer there");
    }
    out->size = (uint64_t)st.st_size;
    return 0;
}

int dd_glue_checkpoint_file(void *ctx, const char *id, struct api_file *out,
                            struct api_problem *p) {
    struct dd_ckpt_row row;
    if (find(ctx, id, &row, p))
        return -1;
    int rc = dd_glue_open(row.path, out, p);
    if (!rc) {
        snprintf(out->etag, sizeof out->etag, "%s", row.sha256);
        snprintf(out->content_type, sizeof out->content_type, "application/octet-stream");
        snprintf(out->filename, sizeof out->filename, "driftd-%s-step-%lld.safetensors", row.id,
                 (long long)row.step);
    }
    dd_ckpt_row_free(&row);
    return rc;
}

// The real path of a file below one of the import roots, else a problem that does not tell which.
static int confine(struct dd *d, const char *path, char out[PATH_MAX], struct api_problem *p) {
    char root[PATH_MAX];
    bool ok = path[0] == '/' && realpath(path, out);
    for (int i = 0; ok && i < d->opt.import_root.n; i++) {
        size_t n;
        if (!realpath(d->opt.import_root.v[i], root))
            continue;
        n = strlen(root);
        if (!strncmp(out, root, n) && (out[n] == '/' || n == 1))
            return 0;
    }
    if (!d->opt.import_root.n)
        return api_problem_set(p, 403, "import-root",
                               "no import root is configured; send the file itself instead");
    api_problem_set(p, 403, "import-root",
                    "path: expected an absolute path of a file below an import root");
    return api_problem_field(p, "path", "an absolute path of a file below an import root");
}

int dd_glue_checkpoint_import(void *ctx, const struct api_import *in, struct api_reply *out) {
    struct dd *d = ctx;
    struct dd_ckpt_row row;
    struct dr_config cfg;
    struct dr_err err = {0};
    char path[PATH_MAX];
    if (in->uploaded)
        snprintf(path, sizeof path, "%s", in->path);
    else if (confine(d, in->path, path, &out->problem))
        return -1;
    int rc = 0;
    if (in->config)
        rc = dd_recipe_named(d->opt.config_dir, in->config, &cfg, &err);
    if (!rc && in->config && cfg.kind != DR_RECIPE_TRAIN)
        rc = dr_fail(&err, DR_EINVAL, "%s is a recipe of kind %s; expected that of a generator",
                     in->config, dr_recipe_word(cfg.kind));
    if (rc) { // no such recipe, or one that is broken
        snprintf(err.field, sizeof err.field, "config");
        dd_http_fail(&out->problem, DR_EINVAL, &err);
    }
    const struct dd_ckpt_source source = {.path = path,
                                          .take = in->uploaded,
                                          .name = in->name,
                                          .model = in->config ? &cfg.model : NULL,
                                          .cancel = &d->stopping};
    if (rc && in->uploaded)
        unlink(path);
    if (!rc)
        rc = dd_ckpt_import(d->store, &source, &row, &err);
    if (rc) {
        if (out->problem.status)
            return -1;
        bool ours = rc == DR_ENOSPC || rc == DR_EIO || rc == DR_ENOMEM || rc == DR_EBUSY ||
                    rc == DR_ECANCELED;
        err.field[0] = 0; // what it names lies inside of the file
        dd_http_fail(&out->problem, ours ? rc : DR_EINVAL, &err);
        return ours ? -1
                    : api_problem_field(&out->problem, in->uploaded ? "body" : "path",
                                        "a safetensors file of a model was expected");
    }
    out->body = dd_ckpt_to_json(&row, dd_ckpt_active(d->store));
    snprintf(out->location, sizeof out->location, "/v1/checkpoints/%s", row.id);
    dd_event(
        d->events, "checkpoint", 0,
        json_pack("{s:s, s:I, s:s}", "id", row.id, "step", (json_int_t)row.step, "kind", "import"));
    dd_ckpt_row_free(&row);
    return 0;
}

// --- samples ---

int dd_glue_sample_list(void *ctx, const struct api_page *page, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    out->body = dd_samples_json(d->store, job_filter(page), page->cursor, page->limit,
                                out->next_cursor, sizeof out->next_cursor, &err);
    return out->body ? 0 : dd_http_fail(&out->problem, err.code, &err);
}

int dd_glue_sample_png(void *ctx, const char *id, struct api_file *out, struct api_problem *p) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    char path[DD_PATH_MAX];
    int64_t n, created_us;
    if (!dd_glue_id(id, &n) || dd_sample_path(d->store, n, path, &created_us, &err))
        return api_problem_set(p, 404, "not-found", "there is no sample %s", id);
    if (dd_glue_open(path, out, p))
        return -1;
    snprintf(out->etag, sizeof out->etag, "sample-%lld-%llx", (long long)n, (long long)created_us);
    snprintf(out->content_type, sizeof out->content_type, "image/png");
    out->immutable = true; // a grid made again at the same step gets a new id
    return 0;
}
