// GET /v1/jobs/ID/field: the last drift of a two-dimensional toy as JSON (live.h, trainer.h).
#include "daemon/http/daemon.h"

#include <math.h>
#include <stdlib.h>

// Six digits draw any picture; a value that is no number is null.
static json_t *number(double v) {
    if (!isfinite(v))
        return json_null();
    const double unit = 1e6;
    return json_real(round(v * unit) / unit);
}

// n rows of `width` numbers, column k of row i from at[k][2 * i + (k & 1)].
static json_t *rows(int64_t n, int width, const real *const at[2]) {
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) {
        json_t *row = json_array();
        for (int k = 0; k < width; k++)
            json_array_append_new(row, number((double)at[k / 2][2 * i + k % 2]));
        json_array_append_new(list, row);
    }
    return list;
}

int dd_glue_field(void *ctx, const char *id, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t job;
    if (!dd_glue_id(id, &job))
        return api_problem_set(&out->problem, 404, "not-found", "there is no job %s", id);
    struct dr_drift_field *f = dd_live_field(d->live, job);
    if (!f) {
        json_t *row = dd_job_json(d->store, job, false, &err);
        if (!row)
            return dd_http_fail(&out->problem, err.code, &err);
        json_decref(row);
        return api_problem_set(&out->problem, 404, "no-field",
                               "job %s has no drift field: it is kept for the last two-dimensional "
                               "job that has trained since driftd started",
                               id);
    }
    const real *x = f->at, *v = x + 2 * f->n, *data = v + 2 * f->n;
    out->body = json_pack("{s:s, s:I, s:[s,s,s,s], s:o, s:o}", "job", id, "step",
                          (json_int_t)f->step, "columns", "x", "y", "vx", "vy", "samples",
                          rows(f->n, 4, (const real *const[2]){x, v}), "data",
                          rows(f->p, 2, (const real *const[2]){data, NULL}));
    free(f);
    return 0;
}
