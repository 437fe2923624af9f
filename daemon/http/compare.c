// HTTP callbacks for comparing jobs: their metrics as one table, and the alerts of each.
#include "daemon/base/util.h"
#include "daemon/http/daemon.h"
#include "daemon/store/metric_wide.h"

#include <stdio.h>
#include <stdlib.h>

struct table {
    struct dd_wide *wide;
    char id[24];
};

static int table_next(void *self, struct api_wide_row *out) {
    struct table *t = self;
    struct dd_wide_row row;
    const int rc = dd_wide_try(t->wide, &row);
    if (rc != 1)
        return rc;
    snprintf(t->id, sizeof t->id, "%lld", (long long)row.job);
    *out = (struct api_wide_row){.job = t->id,
                                 .run = row.run,
                                 .step = row.step,
                                 .time = (double)row.time_us * 1e-6,
                                 .value = row.value,
                                 .have = row.have};
    return 1;
}

static void table_close(void *self) {
    struct table *t = self;
    dd_wide_close(t->wide);
    free(t);
}

static int ids_of(const struct api_wide_query *q, int64_t *ids, struct dr_err *err) {
    for (size_t i = 0; i < q->njobs; i++)
        if (!dd_glue_id(q->jobs[i], &ids[i]))
            return dr_fail_at(err, DR_ENOENT, "jobs", "jobs: there is no job %.40s", q->jobs[i]);
    return 0;
}

int dd_glue_metrics_wide(void *ctx, const struct api_wide_query *q, struct api_wide_cursor *out,
                         struct api_problem *p) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    struct table *t = dd_xcalloc(1, sizeof *t);
    int64_t *ids = dd_xcalloc(q->njobs + 1, sizeof *ids);
    int rc = ids_of(q, ids, &err);
    if (!rc)
        rc = dd_wide_open(d->store, ids, q->njobs, q->names, q->nnames, q->from, q->to,
                          q->max_points, &t->wide, &err);
    free(ids);
    if (rc) {
        free(t);
        return dd_http_fail(p, rc, &err);
    }
    *out = (struct api_wide_cursor){.self = t, .next = table_next, .close = table_close};
    out->names = dd_wide_names(t->wide, &out->nnames);
    return 0;
}

int dd_glue_job_alerts(void *ctx, const char *id, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int64_t job;
    if (!dd_glue_id(id, &job))
        return api_problem_set(&out->problem, 404, "not-found", "there is no job %s", id);
    out->body = dd_alerts_json(d->store, job, &err);
    return out->body ? 0 : dd_http_fail(&out->problem, err.code, &err);
}
