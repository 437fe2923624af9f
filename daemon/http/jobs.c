// HTTP callbacks for jobs, metrics, events, recipes and generation (api/api.h -> the daemon's
// modules).
#include "daemon/http/daemon.h"

#include "daemon/base/log.h"
#include "daemon/base/recipe.h"
#include "daemon/base/util.h"
#include "daemon/store/metric_store.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int dd_glue_fail(struct api_problem *p, int status, const struct dr_err *err) {
    if (status == 500) // the store's reasons that pass
        status = err->code == DR_EBUSY ? 503 : err->code == DR_ENOSPC ? 507 : 500;
    const char *type = status == 404   ? "not-found"
                       : status == 409 ? "conflict"
                       : status == 422 ? "invalid"
                       : status == 503 ? "busy"
                       : status == 507 ? "disk-full"
                                       : "internal";
    api_problem_set(p, status, type, "%s", err->msg[0] ? err->msg : "internal error");
    // Sentences about one field begin with its name: "cursor: ...".
    size_t n = strspn(err->msg, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-");
    if (status == 422 && n && !strncmp(err->msg + n, ": ", 2)) {
        char field[64];
        snprintf(field, sizeof field, "%.*s", (int)n, err->msg);
        api_problem_field(p, field, "%s", err->msg + n + 2);
    }
    return -1;
}

bool dd_glue_id(const char *id, int64_t *out) {
    char *end;
    errno = 0;
    long long v = strtoll(id, &end, 10);
    *out = v;
    return id[0] >= '1' && id[0] <= '9' && !*end && !errno;
}

static int no_job(struct api_problem *p, const char *id) {
    return api_problem_set(p, 404, "not-found", "there is no job %s", id);
}

// --- creation ---

// The field of a configuration's error: the key that the sentence is about, below `field`
// ("overrides.optim.lr"), or `field` alone when it is about none.
static void name_key(const char *field, const char *msg, char *out, size_t size) {
    const char *key = strncmp(msg, "config: ", 8) ? msg : msg + 8;
    bool unknown = !strncmp(key, "unknown key `", 13);
    char word[64];
    key += unknown ? 13 : 0;
    size_t n = strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789_.");
    snprintf(word, sizeof word, "%.*s", (int)n, key);
    if (unknown || strchr(word, '.') || !strncmp(key + n, " is ", 4))
        snprintf(out, size, "%s.%s", field, word);
    else
        snprintf(out, size, "%s", field);
}

static int build_config(struct dd *d, const struct api_job_create *in, struct dr_config *cfg,
                        char *recipe, size_t recipe_size, struct api_problem *p) {
    struct dr_err err = {0};
    int rc;
    if (json_is_string(in->config)) {
        const char *name = json_string_value(in->config);
        rc = dd_recipe_named(d->opt.config_dir, name, cfg, &err);
        snprintf(recipe, recipe_size, "%s", rc || !cfg->name[0] ? name : cfg->name);
    } else {
        char *text = json_dumps(in->config, JSON_COMPACT);
        rc = dr_config_parse(text ? text : "", text ? strlen(text) : 0, "config", cfg, &err);
        free(text);
        snprintf(recipe, recipe_size, "%s", rc || !cfg->name[0] ? "custom" : cfg->name);
    }
    const char *field = "config";
    bool keyed = json_is_object(in->config); // what a recipe's file says is not the client's fault
    if (!rc && in->overrides) { // nested or dotted; checked together, since one may need another
        field = "overrides";
        keyed = true;
        char *text = json_dumps(in->overrides, JSON_COMPACT);
        rc = dr_config_merge(cfg, text ? text : "", text ? strlen(text) : 0, NULL, &err);
        free(text);
    }
    if (!rc)
        return 0;
    char name[96];
    name_key(field, keyed ? err.msg : "", name, sizeof name);
    api_problem_set(p, 422, "invalid-config", "%s", err.msg);
    return api_problem_field(p, name, "%s", err.msg);
}

static int job_create(void *ctx, const struct api_job_create *in, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_config cfg;
    struct dr_err err = {0};
    char recipe[64];
    int64_t id;
    int status;
    if (in->kind && strcmp(in->kind, "train")) {
        api_problem_set(&out->problem, 501, "not-implemented",
                        "jobs of kind %.20s are not in this build; it has train", in->kind);
        return api_problem_field(&out->problem, "kind", "this build has `train`");
    }
    if (build_config(d, in, &cfg, recipe, sizeof recipe, &out->problem))
        return -1;
    struct dd_job_new n = {.cfg = &cfg,
                           .recipe = recipe,
                           .name = in->name,
                           .kind = "train",
                           .priority = in->priority,
                           .key = in->idempotency_key,
                           .fingerprint = in->fingerprint};
    status = dd_jobs_create(d->jobs, &n, &id, &out->replayed, &err);
    if (status)
        return dd_glue_fail(&out->problem, status, &err);
    out->body = dd_job_json(d->store, id, true, &status, &err);
    if (!out->body)
        return dd_glue_fail(&out->problem, status, &err);
    snprintf(out->location, sizeof out->location, "/v1/jobs/%lld", (long long)id);
    return 0;
}

// --- reading and acting ---

static int job_list(void *ctx, const struct api_page *page, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int status;
    out->body = dd_jobs_json(d->store, page->state, page->cursor, page->limit, out->next_cursor,
                             sizeof out->next_cursor, &status, &err);
    return out->body ? 0 : dd_glue_fail(&out->problem, status, &err);
}

static int reply_job(struct dd *d, int64_t id, struct api_reply *out) {
    struct dr_err err = {0};
    int status;
    out->body = dd_job_json(d->store, id, true, &status, &err);
    return out->body ? 0 : dd_glue_fail(&out->problem, status, &err);
}

static int job_get(void *ctx, const char *id, struct api_reply *out) {
    int64_t n;
    return dd_glue_id(id, &n) ? reply_job(ctx, n, out) : no_job(&out->problem, id);
}

static int job_patch(void *ctx, const char *id, const struct api_job_patch *in,
                     struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t n;
    if (!dd_glue_id(id, &n))
        return no_job(&out->problem, id);
    int status = dd_jobs_patch(d->jobs, n, in->name, in->notes, &err);
    return status ? dd_glue_fail(&out->problem, status, &err) : reply_job(d, n, out);
}

static int job_remove(void *ctx, const char *id, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t n;
    if (!dd_glue_id(id, &n))
        return no_job(&out->problem, id);
    int status = dd_jobs_remove(d->jobs, n, &err);
    return status ? dd_glue_fail(&out->problem, status, &err) : 0;
}

static int job_action(void *ctx, const char *id, enum api_job_action a, struct api_reply *out) {
    static const enum dd_job_action map[] = {[API_JOB_STOP] = DD_JOB_STOP,
                                             [API_JOB_STOP_NOW] = DD_JOB_STOP_NOW,
                                             [API_JOB_PAUSE] = DD_JOB_PAUSE,
                                             [API_JOB_RESUME] = DD_JOB_RESUME,
                                             [API_JOB_CHECKPOINT] = DD_JOB_CHECKPOINT};
    static const char *const words[] = {[API_JOB_STOP] = "stopped",
                                        [API_JOB_STOP_NOW] = "stopped",
                                        [API_JOB_PAUSE] = "paused",
                                        [API_JOB_RESUME] = "resumed",
                                        [API_JOB_CHECKPOINT] = "checkpointed"};
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t n;
    if (!dd_glue_id(id, &n))
        return no_job(&out->problem, id);
    int status = dd_jobs_action(d->jobs, n, map[a], &err);
    if (status == 409)
        return api_problem_set(&out->problem, 409, "conflict", "%s and cannot be %s", err.msg,
                               words[a]);
    return status ? dd_glue_fail(&out->problem, status, &err) : reply_job(d, n, out);
}

// --- metrics ---

static int curve_next(void *self, struct api_metric_bucket *out) {
    struct dd_bucket b;
    int rc = dd_curve_next(self, &b);
    if (rc == 1)
        *out = (struct api_metric_bucket){.name = b.name,
                                          .step = b.step,
                                          .step_last = b.step_last,
                                          .time = (double)b.time_us * 1e-6,
                                          .n = b.n,
                                          .nonfinite = b.nonfinite,
                                          .min = b.min,
                                          .max = b.max,
                                          .mean = b.mean,
                                          .last = b.last};
    return rc;
}
static void curve_close(void *self) {
    dd_curve_close(self);
}

static int metrics_open(void *ctx, const struct api_metrics_query *q,
                        struct api_metrics_cursor *out, struct api_problem *p) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t job;
    int status;
    json_t *row =
        dd_glue_id(q->job, &job) ? dd_job_json(d->store, job, false, &status, &err) : NULL;
    if (!row)
        return no_job(p, q->job);
    json_decref(row);
    struct dd_curve *c;
    int rc =
        dd_curve_open(d->store, job, q->names, q->nnames, q->from, q->to, q->max_points, &c, &err);
    if (rc)
        return dd_glue_fail(p, rc == DR_EINVAL ? 422 : 500, &err);
    *out = (struct api_metrics_cursor){.self = c, .next = curve_next, .close = curve_close};
    return 0;
}

// --- events ---

struct relay {
    api_event_fn *fn;
    void *arg;
};
static void relay(void *arg, uint64_t boot, uint64_t seq, const char *type, const char *job,
                  const char *data) {
    struct relay *r = arg;
    r->fn(r->arg, &(struct api_event){boot, seq, type, job, data});
}
static int events_read(void *ctx, uint64_t boot, uint64_t seq, uint64_t boot2, uint64_t seq2,
                       const char *job, int max, api_event_fn *fn, void *arg) {
    struct dd *d = ctx;
    int64_t id = 0;
    if (job && *job && !dd_glue_id(job, &id))
        return 0;
    struct relay r = {fn, arg};
    return dd_events_read(d->store, boot, seq, boot2, seq2, id, max, relay, &r);
}

// --- recipes ---

static void add_recipe(void *ctx, const char *name, const struct dr_config *cfg,
                       const char *error) {
    json_t *j = json_pack("{s:s}", "name", name);
    if (cfg) {
        json_object_set_new(j, "about", json_string(cfg->about));
        json_object_set_new(j, "steps", json_integer(cfg->train.steps));
        json_object_set_new(j, "minutes", json_real(cfg->train.minutes));
        json_object_set_new(j, "size", json_integer(cfg->data.size));
        json_object_set_new(j, "classes", json_integer(cfg->data.classes));
    }
    json_object_set_new(j, "error", error ? json_string(error) : json_null());
    json_array_append_new(ctx, j);
}

static int config_list(void *ctx, struct api_reply *out) {
    struct dd *d = ctx;
    json_t *list = json_array();
    struct dr_err err = {0};
    if (dd_recipe_each(d->opt.config_dir, add_recipe, list, &err)) {
        json_decref(list);
        return dd_glue_fail(&out->problem, 500, &err);
    }
    out->body = json_pack("{s:o}", "configs", list);
    return 0;
}

static int config_get(void *ctx, const char *name, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_config cfg;
    struct dr_err err = {0};
    int rc = dd_recipe_named(d->opt.config_dir, name, &cfg, &err);
    if (rc)
        return dd_glue_fail(&out->problem, rc == DR_ENOENT ? 404 : 422, &err);
    char *text = dr_config_to_json(&cfg);
    out->body = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    return out->body ? 0 : api_problem_set(&out->problem, 500, "internal", "no memory");
}

static int config_schema(void *ctx, struct api_reply *out) {
    (void)ctx;
    char *text = dr_config_schema_json();
    out->body = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    return out->body ? 0 : api_problem_set(&out->problem, 500, "internal", "no memory");
}

// --- generate and log ---

static int generate(void *ctx, struct api_gen *g, struct api_problem *p) {
    struct dd *d = ctx;
    return dd_batcher_submit(d->batcher, g, p);
}

static void log_line(void *ctx, int level, const char *line) {
    (void)ctx;
    char q[900];
    enum dr_log_level l = level <= 3   ? DR_LOG_ERROR
                          : level <= 4 ? DR_LOG_WARN
                          : level <= 6 ? DR_LOG_INFO
                                       : DR_LOG_DEBUG;
    dd_log(l, "http", "msg=%s", dd_log_quote(line, q, sizeof q));
}

const struct api_callbacks dd_callbacks = {
    .describe = dd_glue_describe,
    .generate = generate,
    .job_create = job_create,
    .job_list = job_list,
    .job_get = job_get,
    .job_patch = job_patch,
    .job_remove = job_remove,
    .job_action = job_action,
    .job_field = dd_glue_field,
    .metrics_open = metrics_open,
    .events_read = events_read,
    .checkpoint_list = dd_glue_checkpoint_list,
    .checkpoint_get = dd_glue_checkpoint_get,
    .checkpoint_activate = dd_glue_checkpoint_activate,
    .checkpoint_file = dd_glue_checkpoint_file,
    .checkpoint_import = dd_glue_checkpoint_import,
    .config_list = config_list,
    .config_get = config_get,
    .config_schema = config_schema,
    .sample_list = dd_glue_sample_list,
    .sample_png = dd_glue_sample_png,
    .eval_list = dd_glue_eval_list,
    .eval_get = dd_glue_eval_get,
    .eval_create = dd_glue_eval_create,
    .status = dd_glue_status,
    .ready = dd_glue_ready,
    .prometheus = dd_glue_prometheus,
    .db_backup = dd_glue_backup,
    .log = log_line,
};
