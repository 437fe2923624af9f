// HTTP callbacks for what is served when a request names no checkpoint (api/api.h ->
// checkpoints.h, batcher.h).
#include "daemon/base/util.h"
#include "daemon/http/daemon.h"
#include "daemon/store/checkpoints.h"
#include "engine/drift.h"

#include <stdlib.h>
#include <string.h>

// In words. In mode `live` something answers between jobs too.
static const char *text_of(const char *mode, const char *why) {
    const bool live = !strcmp(mode, "live");
    return !why                        ? "nothing yet: no checkpoint exists and no job has a model"
           : !strcmp(why, "promoted")  ? "a checkpoint that was promoted"
           : !strcmp(why, "completed") ? "the final checkpoint of the newest completed job"
           : !strcmp(why, "live")      ? "the averaged weights of the running job"
           : live                      ? "the newest checkpoint until a job runs"
                                       : "the newest checkpoint";
}

json_t *dd_glue_served(struct dd *d) {
    struct dd_served s = {0};
    struct dd_model_info info;
    const int64_t active = dd_models_active(d->models);
    const char *mode = active > 0 ? "checkpoint" : active == DD_SERVE_LIVE ? "live" : "auto";
    dd_batcher_served(d->batcher, &s, NULL);
    json_t *o = json_pack("{s:s, s:n, s:n, s:n, s:s?, s:s}", "mode", mode, "checkpoint", "job",
                          "step", "why", s.why, "text", text_of(mode, s.why));
    if (s.id && !dd_models_get(d->models, s.id, &info, NULL)) {
        json_object_set_new(o, "checkpoint", json_sprintf("%lld", (long long)s.id));
        json_object_set_new(o, "step", json_integer(info.step));
        if (info.job)
            json_object_set_new(o, "job", json_sprintf("%lld", (long long)info.job));
        dd_models_release(d->models, info.names);
    } else if (s.why && !s.id) {
        int64_t job = 0;
        struct dr_snapshot *live = dd_live_get(d->live, &job);
        if (live) {
            json_object_set_new(o, "step", json_integer(live->step));
            json_object_set_new(o, "job", json_sprintf("%lld", (long long)job));
        }
        dr_snapshot_unref(live);
    }
    return o;
}

int dd_glue_served_get(void *ctx, struct api_reply *out) {
    out->body = dd_glue_served(ctx);
    return 0;
}

// DR_ENOENT, DR_EGONE or DR_EINVAL where a checkpoint cannot be served.
static int check(struct dd *d, const char *what, int64_t *id, struct dr_err *err) {
    static const char *const words[] = {"live", "auto"};
    const char *near = dr_nearest(what, words, 2);
    struct dd_ckpt_row row;
    if (!dd_glue_id(what, id))
        return dr_fail_at(err, DR_ENOENT, "checkpoint",
                          "there is no checkpoint %s; expected an id, `live` or `auto`%s%s%s", what,
                          near ? "; did you mean `" : "", near ? near : "", near ? "`?" : "");
    int rc = dd_ckpt_get(d->store, *id, &row, err);
    if (rc)
        return rc;
    rc = strcmp(row.state, "ok") ? dr_fail(err, DR_EGONE, "checkpoint %s is %s", row.id, row.state)
                                 : dd_ckpt_expect_generator(&row, err);
    dd_ckpt_row_free(&row);
    return rc;
}

int dd_glue_served_put(void *ctx, const char *what, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t id = DD_SERVE_AUTO;
    int rc = 0;
    if (!strcmp(what, "live"))
        id = DD_SERVE_LIVE;
    else if (strcmp(what, "auto") != 0)
        rc = check(d, what, &id, &err);
    if (!rc)
        rc = dd_ckpt_activate(d->store, id, &err);
    if (rc)
        return rc == DR_EGONE ? dd_http_fail_as(&out->problem, rc, &err, "checkpoint-gone")
                              : dd_http_fail(&out->problem, rc, &err);
    out->body = dd_glue_served(d);
    dd_event(d->events, "served", 0,
             json_pack("{s:O, s:O, s:O}", "mode", json_object_get(out->body, "mode"), "checkpoint",
                       json_object_get(out->body, "checkpoint"), "why",
                       json_object_get(out->body, "why")));
    return 0;
}
