// GET /v1/jobs/ID/field: the last drift of a two-dimensional toy as JSON (live.h, trainer.h), live
// or as its job left it.
#include "daemon/generate/field.h"
#include "daemon/base/util.h"
#include "daemon/http/daemon.h"

#include <stdlib.h>

int dd_glue_field(void *ctx, const char *id, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t job;
    if (!dd_glue_id(id, &job))
        return api_problem_set(&out->problem, 404, "not-found", "there is no job %s", id);
    json_t *row = dd_job_json(d->store, job, false, &err); // first: the field outlives its job
    if (!row)
        return dd_http_fail(&out->problem, err.code, &err);
    json_decref(row);
    struct dr_drift_field *f = dd_live_field(d->live, job);
    if (f) {
        out->body = dd_field_json(f, job);
        free(f);
        return 0;
    }
    char *folder = dd_printf("%s/samples/%lld", d->opt.state_dir, (long long)job);
    out->body = dd_field_kept(folder);
    free(folder);
    if (out->body)
        return 0;
    return api_problem_set(&out->problem, 404, "no-field",
                           "job %s has no drift field: only two-dimensional jobs have one, from "
                           "their first step on",
                           id);
}
