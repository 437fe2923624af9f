// HTTP callbacks for backups of database and files together (api/api.h -> backup.h).
#include "daemon/base/util.h"
#include "daemon/http/daemon.h"
#include "daemon/store/backup.h"

#include <stdio.h>

int dd_glue_backup_make(void *ctx, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int rc = dd_backup_make(d->store, d->events, &out->body, &err);
    if (rc)
        return dd_http_fail(&out->problem, rc, &err);
    snprintf(out->location, sizeof out->location, "/v1/backups/%s",
             json_string_value(json_object_get(out->body, "id")));
    return 0;
}

int dd_glue_backup_file(void *ctx, const char *id, const char *name, struct api_file *out,
                        struct api_problem *p) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    char path[DD_PATH_MAX];
    int64_t n;
    if (!dd_parse_int(name, 0, INT32_MAX, &n))
        n = -1;
    int rc = dd_backup_file(d->store, id, n, path, &err);
    if (rc)
        return dd_http_fail(p, rc, &err);
    if (dd_glue_open(path, out, p))
        return -1;
    snprintf(out->etag, sizeof out->etag, "backup-%.40s-%lld", id, (long long)n);
    snprintf(out->content_type, sizeof out->content_type, "application/octet-stream");
    return 0;
}

int dd_glue_backup_remove(void *ctx, const char *id, struct api_reply *out) {
    struct dd *d = ctx;
    struct dr_err err = {0};
    int rc = dd_backup_remove(d->store, id, &err);
    return rc ? dd_http_fail(&out->problem, rc, &err) : 0;
}
