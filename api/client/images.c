// Commands that generate: sample and sweep.
#include "api/client/ctl.h"

#include <stdlib.h>
#include <string.h>

#define GENERATE_S 60.0 // the server's own limit where timeout_ms is not given
#define MARGIN_S 10.0   // for its answer to arrive

static const char *extension(const struct ctl_reply *r) {
    if (!strncmp(r->content_type, "image/png", 9))
        return "png";
    if (!strncmp(r->content_type, "application/json", 16))
        return "json";
    if (!strncmp(r->content_type, "image/apng", 10))
        return "apng";
    return !strncmp(r->content_type, "application/zip", 15) ? "zip" : "npy";
}

static int save(struct ctl *c, const struct ctl_reply *r, const char *file) {
    char *name =
        file ? NULL : ctl_printf("driftd-%s.%s", *r->seed ? r->seed : "sample", extension(r));
    bool direct = ctl_is_stdout(file);
    file = file ? file : name;
    int rc = ctl_save(c, file, r->body.s, r->body.n, strcmp(extension(r), "json") != 0);
    if (!rc && c->json && !direct) {
        json_t *o =
            json_pack("{s:s, s:I, s:s, s:I, s:f, s:f, s:s?}", "file", file, "seed",
                      (json_int_t)strtoll(r->seed, NULL, 10), "checkpoint", r->checkpoint, "step",
                      (json_int_t)strtoll(r->step, NULL, 10), "queue_ms", strtod(r->queue_ms, NULL),
                      "compute_ms", strtod(r->compute_ms, NULL), "note", *r->note ? r->note : NULL);
        ctl_json(c, o);
        json_decref(o);
    } else if (!rc && !direct) {
        fprintf(c->out, "%s: seed %s, checkpoint %s at step %s, waited %s ms, computed %s ms\n",
                ctl_safe(file), ctl_safe(r->seed), ctl_safe(r->checkpoint), ctl_safe(r->step),
                ctl_safe(r->queue_ms), ctl_safe(r->compute_ms));
    }
    if (!rc && *r->note && (!c->json || direct))
        fprintf(stderr, "driftctl: %s\n", ctl_safe(r->note));
    free(name);
    return rc;
}

static int generate(struct ctl *c, struct ctl_buf *path) {
    struct ctl_reply r = {0};
    ctl_allow_time(c, ctl_get_num(c, "timeout-ms", 1000 * GENERATE_S) / 1000 + MARGIN_S);
    const char *noise = ctl_get(c, "noise");
    int rc = path->s ? ctl_post(c, path->s, noise, &r) : CTL_REFUSED;
    if (!rc && !*r.seed) // whatever the format
        rc = ctl_not_ours(c, &r, "images");
    if (!rc)
        rc = save(c, &r, ctl_get(c, "output"));
    ctl_reply_free(&r);
    free(path->s);
    return rc;
}

int ctl_cmd_sample(struct ctl *c) {
    static const char *const keys[] = {"class", "cfg",        "n",        "seed",    "grid",
                                       "scale", "checkpoint", "guidance", "weights", "temperature",
                                       "seed2", "steps",      NULL};
    struct ctl_buf path = {0};
    const char *format = ctl_get(c, "format"), *output = ctl_get(c, "output");
    const char *dot = output ? strrchr(output, '.') : NULL;
    ctl_buf_add(&path, "/v1/generate", 12);
    for (int i = 0; keys[i]; i++)
        ctl_query(&path, keys[i], ctl_get(c, keys[i]));
    if (!format && dot &&
        (!strcmp(dot, ".npy") || !strcmp(dot, ".zip") || !strcmp(dot, ".json") ||
         !strcmp(dot, ".apng")))
        format = dot + 1; // by the file's name
    ctl_query(&path, "format", format);
    ctl_query(&path, "timeout_ms", ctl_get(c, "timeout-ms"));
    return generate(c, &path);
}

int ctl_cmd_sweep(struct ctl *c) {
    static const char *const keys[] = {"class", "seed", "scale", "checkpoint", NULL};
    const double from = ctl_get_num(c, "from", 1), to = ctl_get_num(c, "to", 4);
    const int rows = (int)ctl_get_num(c, "rows", 7);
    const char *n = ctl_get(c, "n");
    struct ctl_buf path = {0}, list = {0};
    char item[24];
    for (int i = 0; i < rows; i++) {
        double a = rows > 1 ? from + (to - from) * i / (rows - 1) : from;
        int k = snprintf(item, sizeof item, "%s%.6g", i ? "," : "", a);
        ctl_buf_add(&list, item, (size_t)k);
    }
    ctl_buf_add(&path, "/v1/generate", 12);
    ctl_query(&path, "cfg", list.s);
    ctl_query(&path, "n", n ? n : "8");
    for (int i = 0; keys[i]; i++)
        ctl_query(&path, keys[i], ctl_get(c, keys[i]));
    if (!c->json && !ctl_is_stdout(ctl_get(c, "output")))
        fprintf(c->out, "guidance scales, top to bottom: %s\n", list.s ? list.s : "");
    free(list.s);
    return generate(c, &path);
}
