// Commands that generate: sample and sweep.
#include "api/client/ctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *extension(const struct ctl_reply *r) {
    if (!strncmp(r->content_type, "image/png", 9))
        return "png";
    if (!strncmp(r->content_type, "application/json", 16))
        return "json";
    return !strncmp(r->content_type, "application/zip", 15) ? "zip" : "npy";
}

static int save(struct ctl *c, const struct ctl_reply *r, const char *file) {
    char name[96];
    if (!file) {
        snprintf(name, sizeof name, "driftd-%.31s.%s", *r->seed ? r->seed : "sample", extension(r));
        file = name;
    }
    bool pipe = !strcmp(file, "-");
    if (pipe && isatty(STDOUT_FILENO) && strcmp(extension(r), "json")) {
        fprintf(stderr, "driftctl: the image is not written to a terminal; use -o FILE\n");
        return CTL_USAGE;
    }
    FILE *f = pipe ? stdout : fopen(file, "wbe");
    bool ok = f && fwrite(r->body.s, 1, r->body.n, f) == r->body.n;
    if (f && !pipe)
        ok = !fclose(f) && ok;
    if (!ok) {
        fprintf(stderr, "driftctl: %s: %s\n", file, strerror(errno));
        return CTL_REFUSED;
    }
    if (c->json && !pipe) {
        json_t *o = json_pack("{s:s, s:I, s:s, s:I, s:f, s:f}", "file", file, "seed",
                              (json_int_t)strtoll(r->seed, NULL, 10), "checkpoint", r->checkpoint,
                              "step", (json_int_t)strtoll(r->step, NULL, 10), "queue_ms",
                              strtod(r->queue_ms, NULL), "compute_ms", strtod(r->compute_ms, NULL));
        ctl_json(c, o);
        json_decref(o);
    } else if (!pipe) {
        fprintf(c->out, "%s: seed %s, checkpoint %s at step %s, waited %s ms, computed %s ms\n",
                file, r->seed, r->checkpoint, r->step, r->queue_ms, r->compute_ms);
    }
    return CTL_OK;
}

static int generate(struct ctl *c, struct ctl_buf *path) {
    struct ctl_reply r = {0};
    int rc = path->s ? ctl_call(c, "POST", path->s, NULL, NULL, &r) : CTL_REFUSED;
    if (!rc)
        rc = save(c, &r, ctl_get(c, "output"));
    ctl_reply_free(&r);
    free(path->s);
    return rc;
}

int ctl_cmd_sample(struct ctl *c) {
    static const char *const keys[] = {"class", "cfg",        "n",        "seed", "grid",
                                       "scale", "checkpoint", "guidance", NULL};
    struct ctl_buf path = {0};
    const char *format = ctl_get(c, "format"), *output = ctl_get(c, "output");
    const char *dot = output ? strrchr(output, '.') : NULL;
    ctl_buf_add(&path, "/v1/generate", 12);
    for (int i = 0; keys[i]; i++)
        ctl_query(&path, keys[i], ctl_get(c, keys[i]));
    if (!format && dot && (!strcmp(dot, ".npy") || !strcmp(dot, ".zip") || !strcmp(dot, ".json")))
        format = dot + 1; // the file's name says it
    ctl_query(&path, "format", format);
    ctl_query(&path, "timeout_ms", ctl_get(c, "timeout-ms"));
    return generate(c, &path);
}

static int number(struct ctl *c, const char *name, double *out) {
    const char *text = ctl_get(c, name);
    char *end;
    if (!text)
        return 0;
    *out = strtod(text, &end);
    if (*end || end == text) {
        fprintf(stderr, "driftctl sweep: --%s takes a number, not `%s`\n", name, text);
        return -1;
    }
    return 0;
}

int ctl_cmd_sweep(struct ctl *c) {
    double from = 1, to = 4, rows = 7;
    struct ctl_buf path = {0};
    char list[1024] = "", item[24];
    const char *n = ctl_get(c, "n");
    if (number(c, "from", &from) || number(c, "to", &to) || number(c, "rows", &rows))
        return CTL_USAGE;
    if (rows < 1 || rows > 32) {
        fprintf(stderr, "driftctl sweep: --rows must be from 1 to 32\n");
        return CTL_USAGE;
    }
    for (int i = 0; i < (int)rows; i++) {
        double a = (int)rows > 1 ? from + (to - from) * i / ((int)rows - 1) : from;
        snprintf(item, sizeof item, "%s%.6g", i ? "," : "", a);
        strcat(list, item);
    }
    ctl_buf_add(&path, "/v1/generate", 12);
    ctl_query(&path, "cfg", list);
    ctl_query(&path, "n", n ? n : "8");
    ctl_query(&path, "class", ctl_get(c, "class"));
    ctl_query(&path, "seed", ctl_get(c, "seed"));
    ctl_query(&path, "scale", ctl_get(c, "scale"));
    ctl_query(&path, "checkpoint", ctl_get(c, "checkpoint"));
    if (!c->json && strcmp(ctl_get(c, "output") ? ctl_get(c, "output") : "", "-"))
        fprintf(c->out, "guidance scales, top to bottom: %s\n", list);
    return generate(c, &path);
}
