// The route table: every endpoint with its method, body, success status and query parameters. The
// dispatcher, the unknown-parameter check and /openapi.json all come from it.
#include "api/routes.h"

#include "api/handlers.h"

#include <stdio.h>
#include <string.h>

#define JSON "application/json"
#define PARAMS(...) ((const struct api_param[]){__VA_ARGS__, {NULL, NULL, NULL}})
#define PAGING                                                                                     \
    {"limit", "integer 1..1000 =50", "entries per page, 1 to 1000 (50)"}, {                        \
        "cursor", "string", "`next_cursor` of the page before"                                     \
    }
#define OF_JOB                                                                                     \
    { "job", "string", "only those of this job" }

#define EVAL_FILTERS                                                                               \
    {"job", "string", "only those of this training job"},                                          \
        {"eval_job", "string", "only those of this eval job"},                                     \
        {"checkpoint", "string", "only those of this checkpoint"},                                 \
        {"state", "queued|running|done|failed", "only those in this state"},                       \
        {"comparable", "string", "only those with this key"},                                      \
        {"data", "string", "only those against this data set"},                                    \
        {"weights", "ema|raw", "only those of these weights"},                                     \
        {"alpha", "number", "only those at this guidance scale"}, {                                \
        "n", "integer", "only those of so many samples"                                            \
    }
#define EVAL_CURVE                                                                                 \
    {"metric", "string", "name of the metric (fid, else fd)"}, {                                   \
        "x", "step|alpha =step", "what runs along the axis (step)"                                 \
    }

static const struct api_param generate_params[] = {
    {"class", "string", "index, name, range 2-5, comma-separated list of those, or random"},
    {"cfg", "string", "guidance scale, or a comma-separated list (one block of images per scale)"},
    {"seed", "integer 0..9007199254740991",
     "0 to 2^53-1; drawn and reported in Driftd-Seed when absent"},
    {"n", "integer", "images (per scale)"},
    {"grid", "string", "COLUMNSxROWS of the picture"},
    {"scale", "integer 1..32 =1", "magnification of the picture, 1 to 32"},
    {"format", "png|json|zip|npy|apng",
     "npy: raw float32, unclamped; apng: a walk, animated; default by Accept, else png"},
    {"checkpoint", "string", "served (default), live, latest, an id or a tag"},
    {"guidance", "one-step|two-pass =one-step", "how the scale is applied"},
    {"weights", "ema|raw =ema", "the average that is served, or the weights themselves"},
    {"temperature", "number 0..10 =1", "scale of the noise, 0 to 10 (1)"},
    {"seed2", "integer 0..9007199254740991", "walk from the noise of seed to that of this one"},
    {"steps", "integer 2..256 =16", "images of a walk, 2 to 256 (16)"},
    {"timeout_ms", "integer", "answer 504 after this time"},
    {NULL, NULL, NULL}};

static const struct api_param event_params[] = {
    {"last_event_id", "string", "for clients that cannot send Last-Event-ID"}, {NULL, NULL, NULL}};

static const struct api_param metrics_params[] = {
    {"names", "string", "comma-separated; default: all"},
    {"from", "integer 0..9007199254740991 =0", "first step"},
    {"to", "integer 0..9007199254740991", "last step"},
    {"max_points", "integer 0..100000",
     "buckets per metric, 1 to 100000 (2000); 0: full resolution"},
    {"format", "json|csv|ndjson =json", "csv is in full resolution unless max_points is given"},
    {NULL, NULL, NULL}};

const struct api_route api_routes[] = {
    {"GET", "/v1/generate", api_h_generate, API_BODY_NONE, API_NO_HEAD | API_GENERATES, 200, "*/*",
     "Generate images", generate_params},
    {"POST", "/v1/generate", api_h_generate, API_BODY_GENERATE, API_GENERATES, 200, "*/*",
     "Generate images", generate_params},
    {"GET", "/generate", api_h_generate, API_BODY_NONE, API_NO_HEAD | API_GENERATES, 200, "*/*",
     "Alias of /v1/generate", generate_params},
    {"POST", "/generate", api_h_generate, API_BODY_GENERATE, API_GENERATES, 200, "*/*",
     "Alias of /v1/generate", generate_params},
    {"POST", "/v1/images/generations", api_h_openai, API_BODY_JSON, API_GENERATES, 200, JSON,
     "Generate images, in the form of OpenAI's image API", NULL},

    {"GET", "/v1/jobs", api_h_job_list, API_BODY_NONE, 0, 200, JSON, "List jobs",
     PARAMS({"state", "string",
             "queued, running, paused, stopping, completed, failed, stopped, interrupted"},
            PAGING)},
    {"POST", "/v1/jobs", api_h_job_create, API_BODY_JSON, API_WRITES, 201, JSON,
     "Create a job (header Idempotency-Key makes it repeatable)", NULL},
    {"GET", "/v1/jobs/{id}", api_h_job_get, API_BODY_NONE, 0, 200, JSON, "One job", NULL},
    {"PATCH", "/v1/jobs/{id}", api_h_job_patch, API_BODY_JSON, API_WRITES, 200, JSON,
     "Change a job's name or notes, or the priority of one that is queued", NULL},
    {"DELETE", "/v1/jobs/{id}", api_h_job_remove, API_BODY_NONE, API_WRITES, 204, JSON,
     "Delete a job that has ended", NULL},
    {"POST", "/v1/jobs/{id}/stop", api_h_job_stop, API_BODY_NONE, API_WRITES, 202, JSON,
     "Stop a job",
     PARAMS({"mode", "graceful|now =graceful", "graceful ends the step and keeps a checkpoint"})},
    {"POST", "/v1/jobs/{id}/pause", api_h_job_pause, API_BODY_NONE, API_WRITES, 202, JSON,
     "Pause a job", NULL},
    {"POST", "/v1/jobs/{id}/resume", api_h_job_resume, API_BODY_NONE, API_WRITES, 202, JSON,
     "Resume a paused, stopped or interrupted job", NULL},
    {"POST", "/v1/jobs/{id}/checkpoint", api_h_job_checkpoint, API_BODY_NONE, API_WRITES, 202, JSON,
     "Write a checkpoint now", NULL},
    {"GET", "/v1/jobs/{id}/metrics", api_h_job_metrics, API_BODY_NONE, 0, 200, "*/*",
     "Metrics of a job", metrics_params},
    {"GET", "/v1/jobs/{id}/field", api_h_job_field, API_BODY_NONE, 0, 200, JSON,
     "Samples, reals and drift of a two-dimensional job's last step", NULL},
    {"GET", "/v1/jobs/{id}/alerts", api_h_job_alerts, API_BODY_NONE, 0, 200, JSON,
     "Alerts of a job, oldest first", NULL},
    {"GET", "/v1/metrics.csv", api_h_metrics_csv, API_BODY_NONE, API_READS, 200, "text/csv",
     "Metrics of several jobs as one table: a line per job and step, a column per metric",
     PARAMS({"jobs", "string", "comma-separated ids, at most 1000; default: every job"},
            {"names", "string", "comma-separated; default: those that any of the jobs has"},
            {"from", "integer", "first step"}, {"to", "integer", "last step"},
            {"max_points", "integer", "buckets per metric, 1 to 100000; 0: every row (0)"})},
    {"GET", "/v1/jobs/{id}/events", api_h_job_events, API_BODY_NONE, API_NO_HEAD, 200,
     "text/event-stream", "Events of a job", event_params},
    {"GET", "/v1/events", api_h_events, API_BODY_NONE, API_NO_HEAD, 200, "text/event-stream",
     "All events", event_params},

    {"GET", "/v1/checkpoints", api_h_ckpt_list, API_BODY_NONE, 0, 200, JSON, "List checkpoints",
     PARAMS(OF_JOB, PAGING)},
    {"POST", "/v1/checkpoints", api_h_ckpt_import, API_BODY_UPLOAD, API_LONG, 201, JSON,
     "Import a safetensors file: its bytes, or JSON {path}",
     PARAMS({"name", "string", "name of the checkpoint"},
            {"config", "string", "recipe, for files without driftd.config"})},
    {"GET", "/v1/checkpoints/{id}", api_h_ckpt_get, API_BODY_NONE, 0, 200, JSON, "One checkpoint",
     NULL},
    {"PATCH", "/v1/checkpoints/{id}", api_h_ckpt_patch, API_BODY_JSON, API_WRITES, 200, JSON,
     "Change a checkpoint's name, notes or tags", NULL},
    {"DELETE", "/v1/checkpoints/{id}", api_h_ckpt_remove, API_BODY_NONE, API_WRITES, 204, JSON,
     "Delete a checkpoint that is not in use", NULL},
    {"POST", "/v1/checkpoints/{id}/activate", api_h_ckpt_activate, API_BODY_NONE, API_WRITES, 200,
     JSON, "Serve this checkpoint; `live` and `auto` as for PUT /v1/served", NULL},
    {"GET", "/v1/served", api_h_served_get, API_BODY_NONE, 0, 200, JSON,
     "What requests without a checkpoint get, and why", NULL},
    {"PUT", "/v1/served", api_h_served_put, API_BODY_JSON, API_WRITES, 200, JSON,
     "Serve a checkpoint, `live` (the running job) or `auto`", NULL},
    {"DELETE", "/v1/served", api_h_served_auto, API_BODY_NONE, API_WRITES, 200, JSON,
     "Serve automatically again", NULL},
    {"GET", "/v1/checkpoints/{id}/file", api_h_ckpt_file, API_BODY_NONE, API_LONG_ASKED, 200, "*/*",
     "Download a checkpoint (Range); with parameters: one set of weights alone, for other programs",
     PARAMS({"format", API_EXPORT_FORMATS " =safetensors", "safetensors by default"},
            {"weights", "ema|raw =ema", "averaged (default), or as the optimiser has them"})},

    {"GET", "/v1/datasets", api_h_dataset_list, API_BODY_NONE, 0, 200, JSON,
     "List data sets: those of users, then those of the build", NULL},
    {"POST", "/v1/datasets", api_h_dataset_create, API_BODY_JSON, API_WRITES, 201, JSON,
     "Add a data set: a folder or an archive of the server by its path, or one to be uploaded",
     NULL},
    {"GET", "/v1/datasets/{id}", api_h_dataset_get, API_BODY_NONE, 0, 200, JSON, "One data set",
     NULL},
    {"DELETE", "/v1/datasets/{id}", api_h_dataset_remove, API_BODY_NONE, API_WRITES, 204, JSON,
     "Remove a data set that no job uses", NULL},
    {"PUT", "/v1/datasets/{id}/upload", api_h_dataset_upload, API_BODY_BYTES, API_WRITES, 200, JSON,
     "Send a part of the archive (zip or tar)",
     PARAMS({"offset", "integer 0..9007199254740991 =0", "bytes that were received before (0)"})},
    {"POST", "/v1/datasets/{id}/import", api_h_dataset_import, API_BODY_NONE, API_WRITES, 202, JSON,
     "The upload is complete: decode it. Also tries a set that has failed again",
     PARAMS({"bytes", "integer", "size of the whole archive, to be compared"})},
    {"GET", "/v1/datasets/{id}/samples", api_h_dataset_samples, API_BODY_NONE, API_READS, 200,
     "image/png", "A grid of its pictures, one row per class",
     PARAMS({"class", "string", "index or name: this class alone"},
            {"n", "integer 1..128 =8", "pictures per class, 1 to 128 (8)"})},
    {"GET", "/v1/datasets/{id}/recipe", api_h_dataset_recipe, API_BODY_NONE, 0, 200, JSON,
     "A configuration fitted to the data set, for POST /v1/jobs",
     PARAMS({"minutes", "number =10", "training time (10)"})},

    {"GET", "/v1/evals", api_h_eval_list, API_BODY_NONE, 0, 200, JSON,
     "List evaluations, and the metrics of this build",
     PARAMS(EVAL_FILTERS, {"sort", "string", "a member or a metric; `-` before it: greatest first"},
            PAGING)},
    {"POST", "/v1/evals", api_h_eval_create, API_BODY_JSON, API_WRITES, 201, JSON,
     "Evaluate a checkpoint, those of a job, or a folder of pictures", NULL},
    {"GET", "/v1/evals/{id}", api_h_eval_get, API_BODY_NONE, 0, 200, JSON,
     "One evaluation, with its details", NULL},
    {"DELETE", "/v1/evals/{id}", api_h_eval_remove, API_BODY_NONE, API_WRITES, 204, JSON,
     "Remove an evaluation and its files", NULL},
    {"GET", "/v1/evals/{id}/files/{name}", api_h_eval_file, API_BODY_NONE, 0, 200, "*/*",
     "A file of an evaluation: grid.png, nearest.png, metadata.json, samples.npy", NULL},
    {"GET", "/v1/evals.csv", api_h_eval_csv, API_BODY_NONE, API_READS, 200, "text/csv",
     "Evaluations as CSV, one line per run; `long`: one line per metric",
     PARAMS(EVAL_FILTERS, {"format", "wide|long =wide", "columns (wide)"})},
    {"GET", "/v1/evals/curve", api_h_eval_curve, API_BODY_NONE, API_READS, 200, JSON,
     "A metric over steps, or over alpha", PARAMS(EVAL_CURVE, EVAL_FILTERS)},
    {"GET", "/v1/evals/curve.png", api_h_eval_plot, API_BODY_NONE, API_READS, 200, "image/png",
     "Plot of a metric over steps, or over alpha",
     PARAMS(EVAL_CURVE, {"width", "integer 200..4000 =900", "pixels, 200 to 4000 (900)"},
            {"height", "integer 150..4000 =560", "pixels, 150 to 4000 (560)"}, EVAL_FILTERS)},

    {"GET", "/v1/sweeps", api_h_sweep_list, API_BODY_NONE, 0, 200, JSON,
     "List sweeps: many runs from one file", PARAMS(PAGING)},
    {"POST", "/v1/sweeps", api_h_sweep_create, API_BODY_JSON, API_WRITES, 201, JSON,
     "Start a sweep (header Idempotency-Key makes it repeatable)",
     PARAMS({"check", "0|1", "1: only check the file and list its runs"})},
    {"GET", "/v1/sweeps/{id}.csv", api_h_sweep_csv, API_BODY_NONE, API_READS, 200, "text/csv",
     "Table of a sweep: means and standard deviations over seeds", NULL},
    {"GET", "/v1/sweeps/{id}.md", api_h_sweep_markdown, API_BODY_NONE, API_READS, 200,
     "text/markdown", "The same table in Markdown", NULL},
    {"GET", "/v1/sweeps/{id}.png", api_h_sweep_plot, API_BODY_NONE, API_READS, 200, "image/png",
     "Plot of a metric over steps, one line per configuration",
     PARAMS({"metric", "string", "an evaluation's or of training (the table's first)"},
            {"width", "integer", "pixels, 200 to 4000 (1100)"},
            {"height", "integer", "pixels, 150 to 4000 (640)"})},
    {"GET", "/v1/sweeps/{id}", api_h_sweep_get, API_BODY_NONE, API_READS, 200, JSON,
     "One sweep: its file, runs and table", NULL},
    {"DELETE", "/v1/sweeps/{id}", api_h_sweep_remove, API_BODY_NONE, API_WRITES, 204, JSON,
     "Remove a sweep that has ended", PARAMS({"jobs", "keep|delete", "its jobs (keep)"})},
    {"GET", "/v1/sweeps/{id}/curve", api_h_sweep_curve, API_BODY_NONE, API_READS, 200, JSON,
     "The plot's numbers",
     PARAMS({"metric", "string", "an evaluation's or of training (the table's first)"})},
    {"POST", "/v1/sweeps/{id}/stop", api_h_sweep_stop, API_BODY_NONE, API_WRITES, 202, JSON,
     "Stop the runs of a sweep", NULL},
    {"POST", "/v1/sweeps/{id}/resume", api_h_sweep_resume, API_BODY_NONE, API_WRITES, 202, JSON,
     "Go on with a sweep: what was stopped or has failed again, what was removed anew", NULL},

    {"GET", "/v1/samples", api_h_sample_list, API_BODY_NONE, 0, 200, JSON, "List sample grids",
     PARAMS(OF_JOB, PAGING)},
    {"GET", "/v1/samples/{id}.png", api_h_sample_png, API_BODY_NONE, 0, 200, "image/png",
     "One sample grid",
     PARAMS({"v", "string", "version, as in a sample's url: what caches tell grids apart by"})},

    {"GET", "/v1/configs", api_h_config_list, API_BODY_NONE, 0, 200, JSON, "List recipes", NULL},
    {"GET", "/v1/configs/schema", api_h_config_schema, API_BODY_NONE, 0, 200, JSON,
     "Every configuration key", NULL},
    {"GET", "/v1/configs/{id}", api_h_config_get, API_BODY_NONE, 0, 200, JSON, "One recipe", NULL},
    {"GET", "/v1/status", api_h_status, API_BODY_NONE, 0, 200, JSON, "Status", NULL},
    {"POST", "/v1/db/backup", api_h_backup, API_BODY_NONE, API_LONG, 200, "*/*",
     "Consistent copy of the database", NULL},
    {"POST", "/v1/backups", api_h_backup_make, API_BODY_NONE, API_LONG, 201, JSON,
     "Freeze the database and all files for a backup", NULL},
    {"GET", "/v1/backups/{id}/files/{name}", api_h_backup_file, API_BODY_NONE, API_ADMIN, 200,
     "application/octet-stream", "A file of a backup, by its position in the list (Range)", NULL},
    {"DELETE", "/v1/backups/{id}", api_h_backup_remove, API_BODY_NONE, API_LONG, 204, JSON,
     "End a backup", NULL},
    {"GET", "/metrics", api_h_prometheus, API_BODY_NONE, 0, 200, "text/plain", "Prometheus metrics",
     NULL},
    {"GET", "/livez", api_h_livez, API_BODY_NONE, API_PUBLIC, 200, "text/plain", "Liveness", NULL},
    {"GET", "/health", api_h_health, API_BODY_NONE, API_PUBLIC, 200, JSON,
     "Whether images can be made, in the form of other model servers", NULL},
    {"GET", "/readyz", api_h_readyz, API_BODY_NONE, API_PUBLIC, 200, JSON, "Readiness", NULL},
    {"GET", "/openapi.json", api_h_openapi, API_BODY_NONE, API_PUBLIC, 200, JSON, "This document",
     NULL},
};
const size_t api_nroutes = sizeof api_routes / sizeof *api_routes;

// name: a recipe's, the name of a file, which may have any character but control characters.
static bool id_ok(const char *s, size_t n, bool name) {
    if (n < 1 || n >= API_ID_MAX || s[0] == '.')
        return false;
    for (size_t i = 0; i < n; i++)
        if (name ? (unsigned char)s[i] < 0x20 || s[i] == 0x7f
                 : !strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-",
                           s[i]))
            return false;
    return true;
}

// Matches a pattern with at most two {id}s; a placeholder takes a whole segment up to its suffix.
static bool match(const char *pat, const char *path, char seg[2][API_ID_MAX]) {
    const bool name = !strncmp(pat, "/v1/configs/", 12);
    int k = 0;
    while (*pat) {
        if (*pat != '{') {
            if (*pat++ != *path++)
                return false;
            continue;
        }
        pat = strchr(pat, '}') + 1;
        size_t n = strcspn(path, "/"), suffix = strcspn(pat, "/");
        if (n < suffix || strncmp(path + n - suffix, pat, suffix) ||
            !id_ok(path, n - suffix, name) || k == 2)
            return false;
        snprintf(seg[k++], API_ID_MAX, "%.*s", (int)(n - suffix), path);
        path += n - suffix;
    }
    return !*path;
}

const struct api_route *api_route_find(const char *method, const char *path,
                                       char seg[2][API_ID_MAX], char *allow, size_t allow_size) {
    const struct api_route *found = NULL;
    const char *of = NULL; // pattern of the first match: an exact one comes before its {id}
    bool head = !strcmp(method, "HEAD");
    allow[0] = '\0';
    for (int exact = 1; exact >= 0 && !of; exact--)
        for (size_t i = 0; i < api_nroutes; i++) {
            const struct api_route *r = &api_routes[i];
            char tmp[2][API_ID_MAX];
            if (exact != !strchr(r->path, '{') || (of && strcmp(of, r->path)) ||
                !match(r->path, path, tmp))
                continue;
            of = r->path;
            memcpy(seg, tmp, sizeof tmp);
            size_t n = strlen(allow);
            bool has_head = !strcmp(r->method, "GET") && !(r->flags & API_NO_HEAD);
            snprintf(allow + n, allow_size - n, "%s%s%s", n ? ", " : "", r->method,
                     has_head ? ", HEAD" : "");
            if (!strcmp(r->method, method) || (head && has_head))
                found = r;
        }
    if (*allow) {
        size_t n = strlen(allow);
        snprintf(allow + n, allow_size - n, ", OPTIONS");
    }
    return found;
}
