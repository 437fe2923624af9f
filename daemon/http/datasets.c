// HTTP callbacks for data sets (api/api.h -> datasets.h), and what a job's configuration takes from
// the set that it names.
#include "daemon/http/daemon.h"

#include "daemon/base/util.h"
#include "daemon/datasets/datasets.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int reply_set(struct dd *d, const char *name, struct api_reply *out) {
    struct dr_err err = {0};
    out->body = dd_datasets_get(d->datasets, name, &err);
    return out->body ? 0 : dd_http_fail(&out->problem, err.code, &err);
}

int dd_glue_dataset_list(void *ctx, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    out->body = dd_datasets_list(d->datasets, &err);
    return out->body ? 0 : dd_http_fail(&out->problem, err.code, &err);
}

int dd_glue_dataset_get(void *ctx, const char *name, struct api_reply *out) {
    return reply_set(ctx, name, out);
}

int dd_glue_dataset_create(void *ctx, const struct api_dataset_create *in, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    struct dr_problems list = {0};
    const struct dd_dataset_new new = {in->name, in->path, in->source, in->options};
    int rc = in->check ? dd_datasets_check(d->datasets, &new, &list, &err)
                       : dd_datasets_create(d->datasets, &new, &list, &err);
    if (rc)
        return dd_http_fail_listed(&out->problem, rc, &err, &list);
    if (in->check)
        return 0;
    snprintf(out->location, sizeof out->location, "/v1/datasets/%s", in->name);
    return reply_set(d, in->name, out);
}

int dd_glue_dataset_append(void *ctx, const char *name, const struct api_dataset_part *in,
                           struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t received;
    int rc = dd_datasets_append(d->datasets, name, in->offset, in->path, &received, &err);
    if (rc && !strcmp(err.field, "offset"))
        return dd_http_fail_as(&out->problem, rc, &err, "wrong-offset");
    if (rc && !strcmp(err.field, "body")) {
        dd_http_fail_as(&out->problem, rc, &err, "body-too-large");
        out->problem.status = 413;
        return -1;
    }
    if (rc)
        return dd_http_fail(&out->problem, rc, &err);
    out->body = json_pack("{s:s, s:I}", "name", name, "received", (json_int_t)received);
    return 0;
}

int dd_glue_dataset_import(void *ctx, const char *name, int64_t bytes, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int rc = dd_datasets_import(d->datasets, name, bytes, &err);
    return rc ? dd_http_fail(&out->problem, rc, &err) : reply_set(d, name, out);
}

int dd_glue_dataset_remove(void *ctx, const char *name, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int rc = dd_datasets_remove(d->datasets, name, &err);
    return rc ? dd_http_fail(&out->problem, rc, &err) : 0;
}

int dd_glue_dataset_samples(void *ctx, const char *name, const char *cls, int n, void **bytes,
                            size_t *size, struct api_problem *p) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    struct dr_bytes png = {0};
    int rc = dd_datasets_samples(d->datasets, name, cls, n, &png, &err);
    if (rc == DR_ECONFLICT)
        err.field[0] = 0; // of a configuration
    if (rc)
        return dd_http_fail(p, rc, &err);
    *bytes = png.p;
    *size = png.n;
    return 0;
}

int dd_glue_dataset_recipe(void *ctx, const char *name, double minutes, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    struct dr_config cfg;
    int rc = dd_dataset_recipe(d->store, d->opt.config_dir, name, minutes, &cfg, &err);
    if (rc)
        return dd_http_fail(&out->problem, rc, &err);
    char *text = dr_config_to_json(&cfg);
    out->body = json_pack("{s:o}", "config", text ? json_loads(text, 0, NULL) : json_null());
    free(text);
    return 0;
}
