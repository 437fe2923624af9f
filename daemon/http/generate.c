// HTTP callbacks for generation: what a checkpoint's model accepts, and requests on their way to
// the batcher and back (api/api.h -> batcher.h).
#include "daemon/base/util.h"
#include "daemon/generate/grid.h"
#include "daemon/http/daemon.h"
#include "engine/drift.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The slugs of generation, where they say more than those of the codes.
static int fail(struct api_problem *p, int rc, const struct dr_err *err) {
    const char *type = rc == DR_ENOENT    ? "unknown-checkpoint"
                       : rc == DR_EGONE   ? "checkpoint-gone"
                       : rc == DR_EINVAL  ? "invalid-value"
                       : rc == DR_EFORMAT ? "checkpoint-unusable"
                       : rc == DR_EDEVICE ? "generate-failed"
                                          : NULL;
    return type ? dd_http_fail_as(p, rc, err, type) : dd_http_fail(p, rc, err);
}

// --- describe ---

struct names {
    struct dd_models *models;
    json_t *array;
    const char *list[];
};
static void release_names(struct api_model *m) {
    struct names *n = m->owner;
    dd_models_release(n->models, n->array);
    free(n);
}

// Takes over a: class names, used when there is one for every class.
static void attach_names(struct dd_models *models, json_t *a, struct api_model *out) {
    if (!json_is_array(a) || (int)json_array_size(a) != out->classes) {
        dd_models_release(models, a);
        return;
    }
    struct names *n = dd_xcalloc(1, sizeof *n + (size_t)out->classes * sizeof *n->list);
    n->models = models;
    n->array = a;
    for (int i = 0; i < out->classes; i++)
        n->list[i] = json_string_value(json_array_get(a, (size_t)i));
    out->names = n->list;
    out->owner = n;
    out->release = release_names;
}

static void fill_model(struct dd *d, const struct dr_model_config *m, struct api_model *out) {
    out->classes = (int)m->classes;
    out->cfg_min = 0;
    out->cfg_max = 1000; // as train.alpha_max may be
    out->cfg_default = 1;
    out->max_n = (int)d->opt.max_n;
    out->width = out->height = (int)m->size;
    out->channels = (int)m->channels;
    out->plot_side = m->kind == DR_KIND_POINTS ? DD_PLOT_SIDE : 0;
    out->two_pass = m->null_class;
    out->noise_count = (size_t)dr_gen_noise_of(m);
}

// The problem of a checkpoint that cannot be served.
static int explain(struct dd *d, const char *checkpoint, int rc, const struct dr_err *err,
                   struct api_problem *p) {
    static const char *const words[] = {"served", "live", "latest"};
    const char *near = dr_nearest(checkpoint, words, 3);
    struct dd_jobs_now now;
    fail(p, rc, err);
    if (rc == DR_ENOENT)
        return api_problem_field(
            p, "checkpoint", "expected served, live, latest, an id or a tag%s%s%s",
            near ? "; did you mean `" : "", near ? near : "", near ? "`?" : "");
    if (rc != DR_ENOTYET)
        return -1;
    dd_jobs_now(d->jobs, &now);
    if (!now.running && !now.queued)
        return -1;
    double wait = p->retry_after; // with a job on its way this passes by itself
    api_problem_set(p, 503, "loading",
                    "no model yet: the first job has not finished its first step");
    p->retry_after = wait;
    return -1;
}

int dd_glue_describe(void *ctx, const char *checkpoint, struct api_model *out,
                     struct api_problem *p) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t id, job = 0;
    int rc = dd_batcher_resolve(d->batcher, checkpoint, &id, &err);
    if (rc)
        return explain(d, checkpoint, rc, &err, p);
    *out = (struct api_model){0};
    struct dr_snapshot *s = id ? NULL : dd_live_get(d->live, &job);
    if (s) {
        fill_model(d, dr_gen_config(s->net), out);
        snprintf(out->checkpoint, sizeof out->checkpoint, "%.63s", s->id);
        dr_snapshot_unref(s);
        attach_names(d->models, dd_models_names(d->models, job), out);
        return 0;
    }
    // Without an id the job has ended since: its last checkpoint is next.
    struct dd_model_info info;
    rc = id ? 0 : dd_batcher_resolve(d->batcher, "latest", &id, &err);
    if (!rc)
        rc = dd_models_get(d->models, id, &info, &err);
    if (rc)
        return fail(p, rc, &err);
    fill_model(d, &info.model, out);
    snprintf(out->checkpoint, sizeof out->checkpoint, "%lld", (long long)id);
    attach_names(d->models, info.names, out);
    return 0;
}

// --- requests ---

// A request of the batcher's made from a ticket of api/, which it answers.
struct relay {
    struct dd_gen_request req;
    struct api_gen *gen;
    struct dd_gen_image image[];
};

static bool abandoned(void *owner) {
    struct relay *r = owner;
    return api_gen_abandoned(r->gen);
}

static void complete(void *owner, const struct dd_gen_result *in) {
    struct relay *r = owner;
    struct api_gen_result out = {.bytes = in->bytes,
                                 .size = in->size,
                                 .content_type = in->content_type,
                                 .step = in->step,
                                 .queue_ms = in->queue_ms,
                                 .compute_ms = in->compute_ms,
                                 .batch_size = in->batch_size};
    snprintf(out.checkpoint, sizeof out.checkpoint, "%.63s", in->checkpoint);
    snprintf(out.note, sizeof out.note, "%s", in->note);
    if (in->served.why && in->served.id)
        snprintf(out.served, sizeof out.served, "%lld;why=%s", (long long)in->served.id,
                 in->served.why);
    else if (in->served.why)
        snprintf(out.served, sizeof out.served, "live;why=%s", in->served.why);
    api_gen_complete(r->gen, &out);
    free(r);
}

static void failed(void *owner, int rc, const struct dr_err *err) {
    struct relay *r = owner;
    struct api_problem p = {0};
    if (rc != DR_ECANCELED)
        fail(&p, rc, err);
    api_gen_fail(r->gen, rc == DR_ECANCELED ? NULL : &p);
    free(r);
}

static enum dd_format format_of(enum api_format f) {
    static const enum dd_format map[] = {
        [API_PNG] = DD_PNG, [API_JSON] = DD_JSON, [API_ZIP] = DD_ZIP,
        [API_NPY] = DD_NPY, [API_APNG] = DD_APNG, [API_OPENAI] = DD_OPENAI};
    return map[f];
}

int dd_glue_generate(void *ctx, struct api_gen *g, struct api_problem *p) {
    struct dd *d = ctx;
    const struct api_gen_request *in = api_gen_request(g);
    struct dr_err err = {0};
    double retry_after;
    struct relay *r = dd_xcalloc(1, sizeof *r + (size_t)in->n * sizeof *r->image);
    r->gen = g;
    for (int i = 0; i < in->n; i++)
        r->image[i] = (struct dd_gen_image){.label = in->images[i].label,
                                            .cfg = in->images[i].cfg,
                                            .index = in->images[i].index,
                                            .walk = in->images[i].walk};
    r->req = (struct dd_gen_request){.images = r->image,
                                     .n = in->n,
                                     .seed = in->seed,
                                     .cols = in->cols,
                                     .rows = in->rows,
                                     .scale = in->scale,
                                     .format = format_of(in->format),
                                     .two_pass = in->guidance == API_GUIDANCE_TWO_PASS,
                                     .raw = in->raw,
                                     .noise = {.scaled = in->scaled,
                                               .temperature = in->temperature,
                                               .steps = in->steps,
                                               .seed2 = in->seed2,
                                               .own = in->noise,
                                               .own_count = in->noise_count},
                                     .received_ns = (int64_t)in->received_ns,
                                     .owner = r,
                                     .abandoned = abandoned,
                                     .complete = complete,
                                     .fail = failed};
    memcpy(r->req.checkpoint, in->checkpoint, sizeof in->checkpoint);
    int rc = dd_batcher_submit(d->batcher, &r->req, &retry_after, &err);
    if (!rc)
        return 0;
    free(r);
    fail(p, rc, &err);
    if (retry_after > 0)
        p->retry_after = retry_after;
    return -1;
}
