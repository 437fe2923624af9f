// Commands on what is served, exports and imports, metrics, recipes, the database and the server's
// status.
#include "api/client/ctl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define IMPORT_S 300.0 // the server copies and hashes the file first

int ctl_cmd_activate(struct ctl *c) {
    struct ctl_reply r = {0};
    struct ctl_buf path = ctl_path("/v1/checkpoints/", c->arg[0], "/activate");
    int rc = ctl_call(c, "POST", path.s, NULL, NULL, &r);
    free(path.s);
    if (!rc)
        rc = ctl_answer(c, &r, NULL, NULL);
    if (!rc && c->json && r.body.n)
        ctl_json_text(c->out, r.body.s);
    else if (!rc)
        fprintf(c->out, "checkpoint %s is served\n", ctl_safe(c->arg[0]));
    ctl_reply_free(&r);
    return rc;
}

// "checkpoint 7, step 3000: the final checkpoint of the newest completed job"
static void served_text(struct ctl *c, const json_t *o) {
    const char *id = ctl_str(o, "checkpoint"), *job = ctl_str(o, "job");
    const double step = ctl_num(o, "step");
    if (*id)
        fprintf(c->out, "checkpoint %s", ctl_safe(id));
    else if (*job)
        fprintf(c->out, "job %s", ctl_safe(job));
    if (*id || *job)
        fprintf(c->out, ", step %.0f: ", isfinite(step) ? step : 0);
    fprintf(c->out, "%s\n", ctl_safe(ctl_str(o, "text")));
}

int ctl_cmd_serve(struct ctl *c) {
    struct ctl_reply r = {0};
    if (c->narg && ctl_check_utf8(c, "ID", c->arg[0]))
        return CTL_USAGE;
    json_t *body = c->narg ? json_pack("{s:s}", "checkpoint", c->arg[0]) : NULL, *o = NULL;
    int rc =
        body ? ctl_call(c, "PUT", "/v1/served", body, NULL, &r) : ctl_get_json(c, "/v1/served", &o);
    if (!rc && body)
        rc = ctl_answer(c, &r, NULL, &o);
    if (!rc && c->json)
        ctl_json(c, o);
    else if (!rc)
        served_text(c, o);
    json_decref(o);
    json_decref(body);
    ctl_reply_free(&r);
    return rc;
}

void ctl_print_file(struct ctl *c, const char *file) {
    struct stat st;
    if (ctl_is_direct(file)) // standard output may hold the bytes
        return;
    if (!c->json) {
        fprintf(c->out, "%s\n", ctl_safe(file));
        return;
    }
    json_t *o = json_pack("{s:s, s:I}", "file", file, "bytes",
                          (json_int_t)(stat(file, &st) ? 0 : st.st_size));
    ctl_json(c, o);
    json_decref(o);
}

// The end of the name of an exported file. A format that is not known is the server's to refuse.
static const char *export_tail(const char *format) {
    static const char *const tail[][2] = {{"onnx", ".onnx"}, {"pytorch", "-pytorch.zip"}};
    for (size_t i = 0; format && i < sizeof tail / sizeof *tail; i++)
        if (!strcmp(format, tail[i][0]))
            return tail[i][1];
    return ".safetensors";
}

int ctl_cmd_export(struct ctl *c) {
    const char *file = ctl_get(c, "output"), *weights = ctl_get(c, "weights");
    char *name = NULL;
    if (!file && strchr(c->arg[0], '/')) {
        fprintf(stderr, "driftctl: `%s` is not a checkpoint id\n", ctl_safe(c->arg[0]));
        return CTL_USAGE;
    }
    if (!file)
        file = name = ctl_printf("%s%s%s%s", c->arg[0], weights ? "-" : "", weights ? weights : "",
                                 export_tail(ctl_get(c, "format")));
    struct ctl_buf path = ctl_path("/v1/checkpoints/", c->arg[0], "/file");
    ctl_query(&path, "format", ctl_get(c, "format"));
    ctl_query(&path, "weights", weights);
    int rc = ctl_download(c, "GET", path.s, file, false);
    free(path.s);
    if (!rc)
        ctl_print_file(c, file);
    free(name);
    return rc;
}

int ctl_cmd_import(struct ctl *c) {
    struct ctl_reply r = {0};
    json_t *o = NULL;
    int rc;
    if (ctl_get(c, "path")) {
        if (ctl_check_utf8(c, "FILE", c->arg[0]))
            return CTL_USAGE;
        json_t *body = json_pack("{s:s, s:s*, s:s*}", "path", c->arg[0], "name", ctl_get(c, "name"),
                                 "config", ctl_get(c, "config"));
        ctl_allow_time(c, IMPORT_S);
        rc = ctl_call(c, "POST", "/v1/checkpoints", body, NULL, &r);
        json_decref(body);
    } else {
        struct ctl_buf path = {0};
        ctl_buf_add(&path, "/v1/checkpoints", 15);
        ctl_query(&path, "name", ctl_get(c, "name"));
        ctl_query(&path, "config", ctl_get(c, "config"));
        rc = ctl_post(c, path.s, c->arg[0], &r);
        free(path.s);
    }
    if (!rc)
        rc = ctl_answer(c, &r, "id", &o);
    if (!rc && c->json)
        ctl_json_text(c->out, r.body.s);
    else if (!rc)
        fprintf(c->out, "%s\n", ctl_safe(ctl_str(o, "id")));
    json_decref(o);
    ctl_reply_free(&r);
    return rc;
}

// Several jobs make one table, which is CSV alone.
static int metrics_path(struct ctl *c, struct ctl_buf *path) {
    const char *format = ctl_get(c, "csv") ? "csv" : ctl_get(c, "ndjson") ? "ndjson" : NULL;
    struct ctl_buf ids = {0};
    if (c->narg == 1) {
        *path = ctl_path("/v1/jobs/", c->arg[0], "/metrics");
        ctl_query(path, "format", !format && !c->json ? "csv" : format); // for other programs
        return 0;
    }
    if (c->json || (format && strcmp(format, "csv"))) {
        fprintf(stderr, "driftctl metrics: several jobs make one table, which is CSV\n");
        return CTL_USAGE;
    }
    *path = ctl_path("/v1/metrics.csv", "", "");
    for (int i = 0; i < c->narg; i++) {
        ctl_buf_add(&ids, ",", i > 0);
        ctl_buf_add(&ids, c->arg[i], strlen(c->arg[i]));
    }
    ctl_query(path, "jobs", ids.s);
    free(ids.s);
    return 0;
}

int ctl_cmd_metrics(struct ctl *c) {
    struct ctl_buf path = {0};
    const char *file = ctl_get(c, "output");
    if (metrics_path(c, &path))
        return CTL_USAGE;
    ctl_query(&path, "names", ctl_get(c, "names"));
    ctl_query(&path, "from", ctl_get(c, "from"));
    ctl_query(&path, "to", ctl_get(c, "to"));
    ctl_query(&path, "max_points", ctl_get(c, "max-points"));
    int rc = ctl_download_text(c, path.s, file ? file : "-", c->json);
    free(path.s);
    return rc;
}

int ctl_cmd_db(struct ctl *c) {
    const char *file = ctl_get(c, "output");
    char name[64];
    time_t t = time(NULL);
    struct tm tm;
    if (c->narg > 1 && file) {
        fprintf(stderr,
                "driftctl db: FILE and --output name the same thing; one of them will do\n");
        return CTL_USAGE;
    }
    if (c->narg > 1)
        file = c->arg[1];
    if (strcmp(c->arg[0], "backup")) {
        fprintf(stderr, "driftctl: `db backup` is the only such command\n");
        return CTL_USAGE;
    }
    if (file && !*file) {
        fprintf(stderr, "driftctl db: FILE: expected a name, got an empty one\n");
        return CTL_USAGE;
    }
    if (!file) {
        localtime_r(&t, &tm);
        strftime(name, sizeof name, "driftd-%Y%m%d-%H%M%S.sqlite", &tm);
        file = name;
    }
    int rc = ctl_download(c, "POST", "/v1/db/backup", file, false);
    if (!rc)
        ctl_print_file(c, file);
    return rc;
}

static void status_text(struct ctl *c, const json_t *o) {
    const json_t *t = json_object_get(o, "training"), *g = json_object_get(o, "generation");
    char a[32];
    fprintf(c->out, "driftd %s, %s, up %s\n", ctl_safe(ctl_str(o, "version")),
            ctl_safe(ctl_str(o, "state")), ctl_duration(ctl_num(o, "uptime_seconds"), a, sizeof a));
    if (json_is_object(t)) {
        fprintf(c->out, "training   job %s (%s), step %.0f of %.0f, %.3g steps/s",
                ctl_safe(ctl_str(t, "job")), ctl_safe(ctl_str(t, "name")), ctl_num(t, "step"),
                ctl_num(t, "steps_total"), ctl_num(t, "steps_per_second"));
        // Neither before the first row of metrics, and only generators have the second.
        if (isfinite(ctl_num(t, "loss")))
            fprintf(c->out, ", loss %.4g", ctl_num(t, "loss"));
        if (isfinite(ctl_num(t, "drift_norm")))
            fprintf(c->out, ", drift norm %.4g", ctl_num(t, "drift_norm"));
        fprintf(c->out, ", ETA %s\n", ctl_duration(ctl_num(t, "eta_seconds"), a, sizeof a));
    } else {
        fprintf(c->out, "training   nothing\n");
    }
    const double queued = ctl_num(o, "queued_jobs");
    fprintf(c->out, "queued     %.0f job%s\n", queued, queued == 1 ? "" : "s");
    if (json_is_object(g)) {
        const char *why = ctl_str(json_object_get(g, "served"), "why");
        fprintf(c->out, "serving    %s%s%s%s on %s, %.0f images so far, %.0f waiting\n",
                json_is_string(json_object_get(g, "serving")) ? ctl_safe(ctl_str(g, "serving"))
                                                              : "nothing yet",
                *why ? " (" : "", ctl_safe(why), *why ? ")" : "", ctl_safe(ctl_str(g, "device")),
                ctl_num(g, "images"), ctl_num(g, "waiting"));
    }
    const char *machine = ctl_str(json_object_get(o, "machine"), "description");
    if (*machine)
        fprintf(c->out, "machine    %s\n", ctl_safe(machine));
    double left = ctl_num(json_object_get(o, "store"), "disk_free");
    if (isfinite(left))
        fprintf(c->out, "disk free  %s\n", ctl_bytes(left, a, sizeof a));
}

int ctl_cmd_status(struct ctl *c) {
    json_t *o;
    int rc = ctl_get_json(c, "/v1/status", &o);
    if (rc)
        return rc;
    if (c->json)
        ctl_json(c, o);
    else
        status_text(c, o);
    json_decref(o);
    return 0;
}

// Every key that --set takes, one per line: for completions.
static int print_keys(struct ctl *c) {
    struct ctl_reply r;
    json_t *key;
    size_t i;
    int rc = ctl_call(c, "GET", "/v1/configs/schema", NULL, NULL, &r);
    json_t *o = rc || !r.body.n ? NULL : json_loadb(r.body.s, r.body.n, 0, NULL);
    if (!rc && !json_array_size(o))
        rc = ctl_not_ours(c, &r, "a list of keys");
    if (!rc && c->json)
        ctl_json(c, o);
    json_array_foreach(o, i, key) if (!rc && !c->json)
        fprintf(c->out, "%s\n", ctl_safe(ctl_str(key, "path")));
    json_decref(o);
    ctl_reply_free(&r);
    return rc;
}

// Recipes that cannot be used are listed as such, and below the table why.
static void mark_broken(json_t *recipes) {
    size_t i;
    json_t *r;
    json_array_foreach(recipes, i, r) if (*ctl_str(r, "error"))
        json_object_set_new(r, "about", json_string("(broken, see below)"));
}

static void print_broken(struct ctl *c, const json_t *recipes) {
    size_t i;
    json_t *r;
    json_array_foreach(recipes, i, r) if (*ctl_str(r, "error"))
        fprintf(c->out, "%s: %s\n", ctl_safe(ctl_str(r, "name")), ctl_safe(ctl_str(r, "error")));
}

int ctl_cmd_configs(struct ctl *c) {
    static const char *const columns[] = {"NAME:name", "ABOUT:about", NULL};
    const char *name = c->narg ? c->arg[0] : "";
    if (ctl_get(c, "keys"))
        return print_keys(c);
    struct ctl_buf path = ctl_path(c->narg ? "/v1/configs/" : "/v1/configs", name, "");
    json_t *o;
    int rc = ctl_get_json(c, path.s, &o);
    free(path.s);
    if (rc)
        return rc;
    if (c->json || c->narg)
        ctl_json(c, o);
    else {
        mark_broken(json_object_get(o, "configs"));
        ctl_table(c, json_object_get(o, "configs"), columns);
        print_broken(c, json_object_get(o, "configs"));
    }
    json_decref(o);
    return 0;
}
