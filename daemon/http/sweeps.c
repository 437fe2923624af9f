// HTTP callbacks for sweeps (api/api.h -> daemon/sweeps).
#include "daemon/http/daemon.h"

#include "daemon/base/util.h"
#include "daemon/evals/evals.h"
#include "daemon/sweeps/sweeps.h"

#include <stdlib.h>
#include <string.h>

static int no_sweep(struct api_problem *p, const char *id) {
    return api_problem_set(p, 404, "not-found", "there is no sweep %s", id);
}

// A cell's configuration, made as that of POST /v1/jobs.
static int build(void *ctx, const json_t *config, const json_t *overrides, struct dr_config *out,
                 struct dr_problems *list, struct dr_err *err) {
    struct dd_glue_found found = {0};
    const int rc = dd_glue_config(ctx, config, overrides, out, &found, err);
    *list = found.list;
    return rc;
}

static int reply(struct dd *d, int64_t id, struct api_reply *out) {
    struct dr_err err = {0};
    out->body = dd_sweep_json(d->store, id, &err);
    return out->body ? 0 : dd_http_fail(&out->problem, err.code, &err);
}

int dd_glue_sweep_create(void *ctx, const struct api_sweep_create *in, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    struct dd_sweep_made made;
    const struct dd_sweep_new n = {.file = in->file,
                                   .build = build,
                                   .ctx = d,
                                   .key = in->idempotency_key,
                                   .fingerprint = in->fingerprint,
                                   .check = in->check};
    json_t *problems = json_array(), *p;
    size_t i;
    int rc = dd_sweep_create(d->jobs, &n, &made, problems, &err);
    if (rc) {
        dd_http_fail(&out->problem, rc, &err);
        if (json_array_size(problems))
            out->problem.nerrors = 0; // all of them, below
        json_array_foreach(problems, i, p)
            api_problem_field(&out->problem, json_string_value(json_object_get(p, "field")), "%s",
                              json_string_value(json_object_get(p, "message")));
    }
    json_decref(problems);
    if (rc)
        return -1;
    if (in->check) {
        out->status = 200;
        out->body = json_pack("{s:i, s:o}", "cells", made.cells, "list", made.preview);
        return 0;
    }
    out->replayed = made.replayed;
    snprintf(out->location, sizeof out->location, "/v1/sweeps/%lld", (long long)made.id);
    return reply(d, made.id, out);
}

int dd_glue_sweep_list(void *ctx, const struct api_page *page, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    out->body = dd_sweeps_json(d->store, page->cursor, page->limit, out->next_cursor,
                               sizeof out->next_cursor, &err);
    return out->body ? 0 : dd_http_fail(&out->problem, err.code, &err);
}

int dd_glue_sweep_get(void *ctx, const char *id, struct api_reply *out) {
    int64_t n;
    return dd_glue_id(id, &n) ? reply(ctx, n, out) : no_sweep(&out->problem, id);
}

int dd_glue_sweep_action(void *ctx, const char *id, enum api_sweep_action action,
                         struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t n;
    int rc;
    if (!dd_glue_id(id, &n))
        return no_sweep(&out->problem, id);
    if (action == API_SWEEP_STOP)
        rc = dd_sweep_stop(d->jobs, n, &err);
    else if (action == API_SWEEP_RESUME)
        rc = dd_sweep_resume(d->jobs, n, &err);
    else
        rc = dd_sweep_remove(d->jobs, n, action == API_SWEEP_REMOVE_ALL, &err);
    if (rc)
        return dd_http_fail(&out->problem, rc, &err);
    return action == API_SWEEP_STOP || action == API_SWEEP_RESUME ? reply(d, n, out) : 0;
}

int dd_glue_sweep_text(void *ctx, const char *id, bool markdown, char **text, size_t *size,
                       struct api_problem *p) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t n;
    if (!dd_glue_id(id, &n))
        return no_sweep(p, id);
    int rc =
        dd_sweep_text(d->store, n, markdown ? DD_SWEEP_MARKDOWN : DD_SWEEP_CSV, text, size, &err);
    return rc ? dd_http_fail(p, rc, &err) : 0;
}

int dd_glue_sweep_curve(void *ctx, const char *id, const char *metric, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t n;
    if (!dd_glue_id(id, &n))
        return no_sweep(&out->problem, id);
    out->body = dd_sweep_curve(d->store, n, metric, &err);
    return out->body ? 0 : dd_http_fail(&out->problem, err.code, &err);
}

int dd_glue_sweep_plot(void *ctx, const char *id, const char *metric, int64_t width, int64_t height,
                       void **png, size_t *size, struct api_problem *p) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t n;
    if (!dd_glue_id(id, &n))
        return no_sweep(p, id);
    json_t *curve = dd_sweep_curve(d->store, n, metric, &err);
    int rc = curve ? dd_eval_plot(curve, width, height, png, size, &err) : err.code;
    json_decref(curve);
    return rc ? dd_http_fail(p, rc, &err) : 0;
}
