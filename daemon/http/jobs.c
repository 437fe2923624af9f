// HTTP callbacks for jobs, metrics, events and recipes (api/api.h -> the daemon's modules).
#include "daemon/http/daemon.h"

#include "daemon/base/log.h"
#include "daemon/base/recipe.h"
#include "daemon/base/util.h"
#include "daemon/store/metric_store.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int no_job(struct api_problem *p, const char *id) {
    return api_problem_set(p, 404, "not-found", "there is no job %s", id);
}

// --- creation ---

// Problems [from, to) are below a member of the body: "overrides.optim.lr". Not keyed: the
// recipe's file has them, which is not the client's fault.
static void below(struct dr_problems *list, int from, int to, const char *member, bool keyed) {
    for (int i = from; i < to; i++) {
        char *field = list->row[i].field, key[sizeof list->row[i].field];
        snprintf(key, sizeof key, "%s", field);
        snprintf(field, sizeof key, keyed && *key ? "%s.%.80s" : "%s", member, key);
    }
}

static int build_config(struct dd *d, const struct api_job_create *in, struct dr_config *cfg,
                        char *recipe, size_t recipe_size, struct api_problem *p) {
    struct dr_err err = {0};
    struct dd_glue_found found = {0};
    int rc = dd_glue_config(d, in->config, in->overrides, cfg, &found, &err);
    snprintf(recipe, recipe_size, "%s", rc ? "" : cfg->name[0] ? cfg->name : "custom");
    if (rc && !found.list.n)
        return dd_http_fail(p, rc, &err);
    below(&found.list, 0, found.base, "config", !json_is_string(in->config));
    below(&found.list, found.base, found.list.n, "overrides", true);
    return rc ? dd_http_fail_listed(p, DR_ECONFIG, &err, &found.list) : 0;
}

// The configuration says what kind of job it is for; a request may repeat it.
static int choose_kind(const struct api_job_create *in, const struct dr_config *cfg,
                       const struct dd_job_kind **kind, struct dr_err *err) {
    const char *of_config = dr_recipe_word(cfg->kind);
    bool recipes = false; // the kind asked for is one that configurations name
    for (int i = 0; in->kind && i < DR_RECIPE_KINDS; i++)
        recipes |= !strcmp(in->kind, dr_recipe_word(i));
    if (recipes && strcmp(in->kind, of_config))
        return dr_fail_at(err, DR_EINVAL, "kind",
                          "kind: %.40s, but the configuration is one of kind %s; leave `kind` out "
                          "or choose a recipe of that kind",
                          in->kind, of_config);
    return dd_job_kind_find(NULL, in->kind && !recipes ? in->kind : of_config, kind, err);
}

// One more problem, before those that are known.
static int fail_first(struct api_problem *p, int rc, const struct dr_err *err) {
    const struct api_problem others = *p;
    dd_http_fail(p, rc, err);
    api_problem_more(p, &others);
    return -1;
}

static int reply_created(struct dd *d, int64_t id, struct api_reply *out) {
    struct dr_err err = {0};
    out->body = dd_job_json(d->store, id, true, &err);
    if (!out->body)
        return dd_http_fail(&out->problem, err.code, &err);
    snprintf(out->location, sizeof out->location, "/v1/jobs/%lld", (long long)id);
    return 0;
}

static int job_create(void *ctx, const struct api_job_create *in, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_config cfg;
    struct dr_err err = {0};
    const struct dd_job_kind *kind;
    char recipe[64];
    int64_t id = 0;
    int rc = 0;
    // Before the configuration is read: its recipe or data set may be gone by now.
    if (in->idempotency_key && !in->check)
        rc = dd_jobs_known(d->jobs, in->idempotency_key, in->fingerprint, &id, &err);
    if (rc)
        return dd_http_fail(&out->problem, rc, &err);
    out->replayed = id != 0;
    if (id)
        return reply_created(d, id, out);
    if (in->kind)
        rc = dd_job_kind_find(NULL, in->kind, &kind, &err);
    const int refused = build_config(d, in, &cfg, recipe, sizeof recipe, &out->problem);
    if (!rc && !refused)
        rc = choose_kind(in, &cfg, &kind, &err);
    if (rc)
        return fail_first(&out->problem, rc, &err);
    if (refused || in->check)
        return refused;
    struct dd_job_new n = {.cfg = &cfg,
                           .recipe = recipe,
                           .name = in->name,
                           .kind = kind->name,
                           .priority = in->priority,
                           .key = in->idempotency_key,
                           .fingerprint = in->fingerprint};
    rc = dd_jobs_create(d->jobs, &n, &id, &out->replayed, &err);
    return rc ? dd_http_fail(&out->problem, rc, &err) : reply_created(d, id, out);
}

// A shorthand for a job of the kind `eval`.
static int eval_create(void *ctx, const json_t *body, bool check, struct api_reply *out) {
    struct dr_err err = {0};
    const json_t *name = json_object_get(body, "name"),
                 *priority = json_object_get(body, "priority");
    char own[201];
    json_t *config;
    int rc = dd_glue_eval_config(ctx, body, &config, &err);
    dd_glue_eval_name(config, own);
    const struct api_job_create in = {.config = config,
                                      .kind = "eval",
                                      .name = json_is_string(name) ? json_string_value(name) : own,
                                      .priority = (int)json_integer_value(priority),
                                      .check = check || rc};
    const int refused = job_create(ctx, &in, out);
    json_decref(config);
    dd_glue_eval_shorten(&out->problem);
    return rc ? fail_first(&out->problem, rc, &err) : refused;
}

// --- reading and acting ---

static int job_list(void *ctx, const struct api_page *page, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    out->body = dd_jobs_json(d->store, page->state, page->cursor, page->limit, out->next_cursor,
                             sizeof out->next_cursor, &err);
    return out->body ? 0 : dd_http_fail(&out->problem, err.code, &err);
}

static int reply_job(struct dd *d, int64_t id, struct api_reply *out) {
    struct dr_err err = {0};
    out->body = dd_job_json(d->store, id, true, &err);
    return out->body ? 0 : dd_http_fail(&out->problem, err.code, &err);
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
    int rc = dd_jobs_patch(d->jobs, n, in->name, in->notes, in->priority, &err);
    return rc ? dd_http_fail(&out->problem, rc, &err) : reply_job(d, n, out);
}

static int job_remove(void *ctx, const char *id, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t n;
    if (!dd_glue_id(id, &n))
        return no_job(&out->problem, id);
    int rc = dd_jobs_remove(d->jobs, n, &err);
    return rc ? dd_http_fail(&out->problem, rc, &err) : 0;
}

static int job_action(void *ctx, const char *id, enum api_job_action a, struct api_reply *out) {
    static const enum dd_job_action map[] = {[API_JOB_STOP] = DD_JOB_STOP,
                                             [API_JOB_STOP_NOW] = DD_JOB_STOP_NOW,
                                             [API_JOB_PAUSE] = DD_JOB_PAUSE,
                                             [API_JOB_RESUME] = DD_JOB_RESUME,
                                             [API_JOB_CHECKPOINT] = DD_JOB_CHECKPOINT};
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t n;
    if (!dd_glue_id(id, &n))
        return no_job(&out->problem, id);
    int rc = dd_jobs_action(d->jobs, n, map[a], &err);
    return rc ? dd_http_fail(&out->problem, rc, &err) : reply_job(d, n, out);
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
    json_t *row = dd_glue_id(q->job, &job) ? dd_job_json(d->store, job, false, &err) : NULL;
    if (!row)
        return err.code && err.code != DR_ENOENT ? dd_http_fail(p, err.code, &err)
                                                 : no_job(p, q->job);
    json_decref(row);
    struct dd_curve *c;
    int rc =
        dd_curve_open(d->store, job, q->names, q->nnames, q->from, q->to, q->max_points, &c, &err);
    if (rc)
        return dd_http_fail(p, rc, &err);
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
        json_object_set_new(j, "kind", json_string(dr_recipe_word(cfg->kind)));
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
    int rc = dd_recipe_each(d->opt.config_dir, add_recipe, list, &err);
    if (rc) {
        json_decref(list);
        return dd_http_fail(&out->problem, rc, &err);
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
        return dd_http_fail(&out->problem, rc == DR_ENOENT ? rc : DR_ECONFIG, &err);
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

// --- log ---

static void log_line(void *ctx, int level, const char *line) {
    (void)ctx;
    char q[900];
    enum dr_log_level l = level <= 3   ? DR_LOG_ERROR
                          : level <= 4 ? DR_LOG_WARN
                          : level <= 6 ? DR_LOG_INFO
                                       : DR_LOG_DEBUG;
    if (dd_log_is_json() && !strncmp(line, "http ", 5)) // pairs already
        dd_log(l, "http", "%s", line + 5);
    else
        dd_log(l, "http", "msg=%s", dd_log_quote(line, q, sizeof q));
}

const struct api_callbacks dd_callbacks = {
    .describe = dd_glue_describe,
    .generate = dd_glue_generate,
    .job_create = job_create,
    .job_list = job_list,
    .job_get = job_get,
    .job_patch = job_patch,
    .job_remove = job_remove,
    .job_action = job_action,
    .job_field = dd_glue_field,
    .metrics_open = metrics_open,
    .metrics_wide = dd_glue_metrics_wide,
    .job_alerts = dd_glue_job_alerts,
    .events_read = events_read,
    .checkpoint_list = dd_glue_checkpoint_list,
    .checkpoint_get = dd_glue_checkpoint_get,
    .checkpoint_patch = dd_glue_checkpoint_patch,
    .checkpoint_remove = dd_glue_checkpoint_remove,
    .checkpoint_activate = dd_glue_checkpoint_activate,
    .served_get = dd_glue_served_get,
    .served_put = dd_glue_served_put,
    .checkpoint_file = dd_glue_checkpoint_file,
    .checkpoint_export = dd_glue_checkpoint_export,
    .checkpoint_import = dd_glue_checkpoint_import,
    .config_list = config_list,
    .config_get = config_get,
    .config_schema = config_schema,
    .sample_list = dd_glue_sample_list,
    .sample_png = dd_glue_sample_png,
    .dataset_list = dd_glue_dataset_list,
    .dataset_get = dd_glue_dataset_get,
    .dataset_create = dd_glue_dataset_create,
    .dataset_append = dd_glue_dataset_append,
    .dataset_import = dd_glue_dataset_import,
    .dataset_remove = dd_glue_dataset_remove,
    .dataset_samples = dd_glue_dataset_samples,
    .dataset_recipe = dd_glue_dataset_recipe,
    .sweep_list = dd_glue_sweep_list,
    .sweep_create = dd_glue_sweep_create,
    .sweep_get = dd_glue_sweep_get,
    .sweep_action = dd_glue_sweep_action,
    .sweep_text = dd_glue_sweep_text,
    .sweep_curve = dd_glue_sweep_curve,
    .sweep_plot = dd_glue_sweep_plot,
    .eval_list = dd_glue_eval_list,
    .eval_get = dd_glue_eval_get,
    .eval_create = eval_create,
    .eval_remove = dd_glue_eval_remove,
    .eval_curve = dd_glue_eval_curve,
    .eval_csv = dd_glue_eval_csv,
    .eval_plot = dd_glue_eval_plot,
    .eval_file = dd_glue_eval_file,
    .status = dd_glue_status,
    .ready = dd_glue_ready,
    .prometheus = dd_glue_prometheus,
    .db_backup = dd_glue_backup,
    .backup_make = dd_glue_backup_make,
    .backup_file = dd_glue_backup_file,
    .backup_remove = dd_glue_backup_remove,
    .log = log_line,
};
