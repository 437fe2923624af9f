// The table from error codes to HTTP (errors.h).
#include "daemon/http/errors.h"

#include "engine/config/config.h"

#include <string.h>

struct row {
    int code, status;
    const char *type;   // the slug of "urn:driftd:problem:..."
    double retry_after; // seconds; 0: waiting does not help
};

static const struct row rows[] = {
    {DR_EINVAL, 422, "invalid", 0},       {DR_ECONFIG, 422, "invalid-config", 0},
    {DR_ENOENT, 404, "not-found", 0},     {DR_ECONFLICT, 409, "conflict", 0},
    {DR_ENOTYET, 409, "no-model-yet", 0}, {DR_EGONE, 410, "gone", 0},
    {DR_EFULL, 429, "queue-full", 1},     {DR_EUNSUPPORTED, 501, "not-implemented", 0},
    {DR_EBUSY, 503, "busy", 0},           {DR_ENOMEM, 503, "no-memory", 1},
    {DR_ECANCELED, 503, "draining", 5},   {DR_ESTOPPING, 503, "draining", 5},
    {DR_ENOSPC, 507, "disk-full", 0},
};
static const struct row other = {0, 500, "internal", 0};

static const struct row *find(int rc) {
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].code == rc)
            return &rows[i];
    return &other;
}

int dd_http_fail(struct api_problem *p, int rc, const struct dr_err *err) {
    return dd_http_fail_as(p, rc, err, find(rc)->type);
}

// "cursor: ..." need not name the field twice.
static void add_field(struct api_problem *p, const char *field, const char *msg) {
    const size_t n = strlen(field);
    if (!strncmp(msg, field, n) && !strncmp(msg + n, ": ", 2))
        msg += n + 2;
    api_problem_field(p, field, "%s", msg);
}

int dd_http_fail_listed(struct api_problem *p, int rc, const struct dr_err *err,
                        const struct dr_problems *list) {
    dd_http_fail(p, rc, err);
    if (list->n)
        p->nerrors = 0;
    for (int i = 0; i < list->n; i++)
        add_field(p, list->row[i].field, list->row[i].msg);
    return -1;
}

int dd_http_fail_as(struct api_problem *p, int rc, const struct dr_err *err, const char *type) {
    const struct row *row = find(rc);
    const char *msg = err->msg[0] ? err->msg : dr_code_text(rc);
    api_problem_set(p, row->status, type, "%s", msg);
    p->retry_after = row->retry_after;
    if (err->field[0])
        add_field(p, err->field, msg);
    return -1;
}
