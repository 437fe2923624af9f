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
    int rc = dd_datasets_create(d->datasets, in->name, in->path, in->source, in->options, &err);
    if (rc)
        return dd_http_fail(&out->problem, rc, &err);
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

// --- a job's configuration ---

// The value of "section.key" in an object that may have it nested or dotted.
static const json_t *look(const json_t *o, const char *section, const char *key) {
    char dotted[64];
    snprintf(dotted, sizeof dotted, "%s.%s", section, key);
    const json_t *v = json_object_get(o, dotted);
    return v ? v : json_object_get(json_object_get(o, section), key);
}

json_t *dd_glue_fill(struct dd *d, const char *recipe, const json_t *given, int *rc,
                     struct dr_err *err) {
    static const char *const keys[] = {"size", "channels", "classes"};
    struct dr_config base;
    struct dd_dataset_facts f;
    const json_t *set = look(given, "data", "set"), *path = look(given, "data", "path");
    json_t *out = given ? json_copy((json_t *)(uintptr_t)given) : json_object();
    *rc = 0;
    dr_config_defaults(&base);
    if (recipe && dd_recipe_named(d->opt.config_dir, recipe, &base, NULL))
        return out; // which will be said once it is loaded
    const bool folder = set ? !strcmp(json_is_string(set) ? json_string_value(set) : "", "folder")
                            : dd_dataset_named(&base.data);
    const char *name = path ? json_string_value(path) : base.data.path;
    if (!folder || !name || !*name)
        return out;
    *rc = dd_dataset_facts(d->store, name, &f, err);
    if (*rc) {
        *rc = *rc == DR_ENOENT ? 0 : *rc; // a folder of the data directory, perhaps
        return out;
    }
    const int64_t values[] = {f.size, f.channels, f.classes};
    char dotted[64];
    for (int i = 0; i < 3; i++) {
        snprintf(dotted, sizeof dotted, "data.%s", keys[i]);
        if (!look(given, "data", keys[i]))
            json_object_set_new(out, dotted, json_integer(values[i]));
    }
    return out;
}

int dd_glue_fits(struct dd *d, const struct dr_config *cfg, struct dr_problems *list,
                 struct dr_err *err) {
    struct dd_dataset_facts f;
    const struct dr_data_config *c = &cfg->data;
    struct dr_err e[3] = {0};
    if (!dd_dataset_named(c))
        return 0;
    int rc = dd_dataset_facts(d->store, c->path, &f, err);
    if (rc)
        return rc == DR_ENOENT ? 0 : rc;
    if (c->size != f.size)
        dr_fail_at(&e[0], DR_ECONFIG, "data.size",
                   "data.size is %lld; the pictures of the data set %s are %lldx%lld",
                   (long long)c->size, c->path, (long long)f.size, (long long)f.size);
    if (c->channels != f.channels)
        dr_fail_at(&e[1], DR_ECONFIG, "data.channels",
                   "data.channels is %lld; the data set %s has %lld", (long long)c->channels,
                   c->path, (long long)f.channels);
    if (c->classes != f.classes)
        dr_fail_at(&e[2], DR_ECONFIG, "data.classes",
                   "data.classes is %lld; the data set %s has %lld", (long long)c->classes, c->path,
                   (long long)f.classes);
    for (int i = 0; i < 3; i++) {
        if (!e[i].code)
            continue;
        if (!rc)
            *err = e[i];
        rc = DR_ECONFIG;
        dr_problems_add(list, &e[i]);
    }
    return rc;
}
