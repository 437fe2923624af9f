// HTTP callbacks for evaluations (api/api.h -> daemon/evals).
#include "daemon/http/daemon.h"

#include "daemon/base/util.h"
#include "daemon/evals/evals.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// --- creation ---

static int64_t whole(const json_t *config, const char *key) {
    char dotted[40];
    snprintf(dotted, sizeof dotted, "eval.%s", key);
    const json_t *v = json_object_get(json_object_get(config, "eval"), key);
    v = v ? v : json_object_get(config, dotted);
    return json_is_integer(v) ? json_integer_value(v) : 0;
}

// Whether eval.folder names one. A value of another type is refused with the rest.
static bool has_folder(const json_t *config) {
    const json_t *v = json_object_get(json_object_get(config, "eval"), "folder");
    const char *text = json_string_value(v ? v : json_object_get(config, "eval.folder"));
    return text && *text;
}

int dd_glue_eval_fill(struct dd *d, json_t *config, struct dr_err *err) {
    const char *kind = json_string_value(json_object_get(config, "kind")), *key;
    const json_t *v;
    struct dr_eval_section e = {.checkpoint = whole(config, "checkpoint"),
                                .job = whole(config, "job")};
    json_t *data = NULL;
    bool given = false;
    json_object_foreach(config, key, v) given |= !strncmp(key, "data", 4);
    if (!kind || strcmp(kind, "eval") || given)
        return 0;
    if (has_folder(config))
        return dr_fail_at(err, DR_EINVAL, "data",
                          "data: a folder of pictures needs the data set to judge it against, as "
                          "the name of a recipe or as {\"set\": ...}");
    if (!e.checkpoint && !e.job)
        return 0;
    int rc = dd_eval_sources(d->store, d->opt.data_dir, &e, &data, err);
    if (!rc && data) {
        json_object_del(data, "flip"); // of training
        json_object_del(data, "crop");
        json_object_set(config, "data", data);
    }
    json_decref(data);
    if (!rc && !data)
        return dr_fail_at(err, DR_EINVAL, "data",
                          "data: the checkpoint does not say which data set it was trained on; "
                          "name one to judge it against");
    return rc;
}

// An id as a number: the API's ids are strings.
static json_t *id_of(const json_t *v) {
    int64_t id;
    if (json_is_string(v) && dd_glue_id(json_string_value(v), &id))
        return json_integer(id);
    return json_incref((json_t *)(uintptr_t)v);
}

static void take(json_t *eval, const char *key, const json_t *v) {
    if (!strcmp(key, "checkpoint") || !strcmp(key, "job"))
        json_object_set_new(eval, key, id_of(v));
    else if (!strcmp(key, "kind")) // the older word for it
        json_object_set(eval, "metrics", (json_t *)(uintptr_t)v);
    else if (!strcmp(key, "alpha") && json_is_number(v))
        json_object_set_new(eval, key, json_pack("[O]", v));
    else
        json_object_set(eval, key, (json_t *)(uintptr_t)v);
}

// The body's members as a configuration of kind eval.
int dd_glue_eval_config(struct dd *d, const json_t *body, json_t **out, struct dr_err *err) {
    const json_t *data = json_object_get(body, "data"), *v;
    json_t *eval = json_object();
    const char *key;
    struct dr_config recipe;
    json_object_foreach((json_t *)(uintptr_t)json_object_get(body, "settings"), key, v)
        take(eval, key, v);
    json_object_foreach((json_t *)(uintptr_t)body, key,
                        v) if (strcmp(key, "data") && strcmp(key, "settings") &&
                               strcmp(key, "name") && strcmp(key, "priority") && !json_is_null(v))
        take(eval, key, v);
    *out = json_pack("{s:s, s:o}", "kind", "eval", "eval", eval);
    if (json_is_object(data))
        json_object_set(*out, "data", (json_t *)(uintptr_t)data);
    if (!json_is_string(data))
        return 0;
    int rc = dd_recipe_named(d->opt.config_dir, json_string_value(data), &recipe, err);
    if (rc)
        return dr_fail_at(err, DR_EINVAL, "data", "data: %.300s", err->msg);
    recipe.data.flip = false;
    recipe.data.crop = 0;
    char *text = dr_config_to_json(&recipe);
    json_t *whole_recipe = text ? json_loads(text, 0, NULL) : NULL;
    json_object_set(*out, "data", json_object_get(whole_recipe, "data"));
    json_decref(whole_recipe);
    free(text);
    return 0;
}

// "config.eval.n" is the body's member `n`.
void dd_glue_eval_shorten(struct api_problem *p) {
    static const char *const prefix[] = {"config.eval.", "eval.", "config."};
    for (size_t i = 0; i < p->nerrors; i++)
        for (int k = 0; k < 3; k++) {
            char *f = p->errors[i].field;
            const size_t n = strlen(prefix[k]);
            if (!strncmp(f, prefix[k], n))
                memmove(f, f + n, strlen(f + n) + 1);
        }
}

// What a job without a name is called.
void dd_glue_eval_name(const json_t *config, char out[201]) {
    const int64_t checkpoint = whole(config, "checkpoint");
    const char *folder =
        json_string_value(json_object_get(json_object_get(config, "eval"), "folder"));
    char start[151];
    snprintf(start, sizeof start, "%s", folder ? folder : "");
    dd_trim_text(start);
    if (folder)
        snprintf(out, 201, "%s, evaluated", start);
    else
        snprintf(out, 201, "%s %lld, evaluated", checkpoint ? "checkpoint" : "job",
                 (long long)(checkpoint ? checkpoint : whole(config, "job")));
}

// --- reading ---

static int64_t filter(const char *id) {
    int64_t n;
    return !id || !*id ? 0 : dd_glue_id(id, &n) ? n : -1;
}

static struct dd_eval_query query(const struct api_eval_query *q) {
    return (struct dd_eval_query){.job = filter(q->job),
                                  .eval_job = filter(q->eval_job),
                                  .checkpoint = filter(q->checkpoint),
                                  .state = q->state,
                                  .comparable = q->comparable,
                                  .data = q->data,
                                  .weights = q->weights,
                                  .alpha = q->alpha,
                                  .n = q->n,
                                  .sort = q->sort,
                                  .cursor = q->cursor,
                                  .limit = q->limit};
}

int dd_glue_eval_list(void *ctx, const struct api_eval_query *in, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    const struct dd_eval_query q = query(in);
    out->body = dd_evals_json(d->store, &q, out->next_cursor, sizeof out->next_cursor, &err);
    return out->body ? 0 : dd_http_fail(&out->problem, err.code, &err);
}

static int no_eval(struct api_problem *p, const char *id) {
    return api_problem_set(p, 404, "not-found", "there is no evaluation %s", id);
}

int dd_glue_eval_get(void *ctx, const char *id, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t n;
    if (!dd_glue_id(id, &n))
        return no_eval(&out->problem, id);
    out->body = dd_eval_json(d->store, n, &err);
    return out->body ? 0 : dd_http_fail(&out->problem, err.code, &err);
}

int dd_glue_eval_remove(void *ctx, const char *id, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t n;
    if (!dd_glue_id(id, &n))
        return no_eval(&out->problem, id);
    int rc = dd_eval_remove(d->store, n, &err);
    return rc ? dd_http_fail(&out->problem, rc, &err) : 0;
}

int dd_glue_eval_curve(void *ctx, const struct api_eval_query *in, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    const struct dd_eval_query q = query(in);
    out->body = dd_eval_curve(d->store, &q, in->metric, in->over_alpha, &err);
    return out->body ? 0 : dd_http_fail(&out->problem, err.code, &err);
}

int dd_glue_eval_csv(void *ctx, const struct api_eval_query *in, char **text, size_t *size,
                     struct api_problem *p) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    const struct dd_eval_query q = query(in);
    int rc = dd_eval_csv(d->store, &q, in->one_per_metric, text, size, &err);
    return rc ? dd_http_fail(p, rc, &err) : 0;
}

int dd_glue_eval_plot(void *ctx, const struct api_eval_query *in, void **png, size_t *size,
                      struct api_problem *p) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    const struct dd_eval_query q = query(in);
    json_t *curve = dd_eval_curve(d->store, &q, in->metric, in->over_alpha, &err);
    int rc = curve ? dd_eval_plot(curve, in->width, in->height, png, size, &err) : err.code;
    json_decref(curve);
    return rc ? dd_http_fail(p, rc, &err) : 0;
}

int dd_glue_eval_file(void *ctx, const char *id, const char *name, struct api_file *out,
                      struct api_problem *p) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    char path[DD_PATH_MAX];
    int64_t n;
    json_t *row = dd_glue_id(id, &n) ? dd_eval_json(d->store, n, &err) : NULL;
    if (!row)
        return no_eval(p, id);
    json_decref(row);
    if (dd_eval_file(d->store, n, name, path, &err))
        return dd_http_fail(p, err.code, &err);
    if (dd_glue_open(path, out, p))
        return api_problem_set(p, 404, "not-found", "evaluation %s has no %s", id, name);
    snprintf(out->content_type, sizeof out->content_type, "%s",
             strstr(name, ".png")    ? "image/png"
             : strstr(name, ".json") ? "application/json"
                                     : "application/octet-stream");
    return 0;
}
