// Fuzz target: the first line is taken as the path and query of a generate request, the rest as the
// JSON body of a job. Every refusal has a status and a sentence, its problem is JSON, and what is
// accepted keeps to the model's limits.
#include "api/handlers.h"
#include "api/params.h"
#include "api/routes.h"

#include <stdlib.h>
#include <string.h>

static const char *const class_names[3] = {"cat", "dog", "two words"};

static int describe(void *ctx, const char *ckpt, struct api_model *out, struct api_problem *p) {
    (void)ctx, (void)ckpt, (void)p;
    *out = (struct api_model){.classes = 3,
                              .names = class_names,
                              .cfg_min = 1,
                              .cfg_max = 4,
                              .cfg_default = 1,
                              .max_n = 256,
                              .width = 8,
                              .height = 8,
                              .channels = 3};
    return 0;
}

static void check_problem(const struct api_problem *p) {
    json_t *o = api_problem_json(p, "fuzz");
    char *text = json_dumps(o, 0);
    if (p->status < 400 || p->status > 599 || !p->detail[0] || !text)
        abort();
    free(text);
    json_decref(o);
}

static void check_images(const struct api_gen_request *g) {
    if (g->n < 1 || g->n > 256 || g->cols * g->rows < g->n || g->scale < 1)
        abort();
    for (int i = 0; i < g->n; i++)
        if (g->images[i].label < -1 || g->images[i].label > 2 || !(g->images[i].cfg >= 1) ||
            !(g->images[i].cfg <= 4))
            abort();
}

static void fuzz_query(struct api_req *r, const char *line) {
    char seg[2][API_ID_MAX], allow[96], err[160] = "";
    struct api_gen_request g = {0};
    struct api_problem p = {0};
    const char *q = strchr(line, '?');
    size_t n = q ? (size_t)(q - line) : strlen(line);
    char *path = malloc(n + 1);
    if (!path)
        abort();
    if (!api_percent_decode(path, line, n, false)) {
        const struct api_route *route = api_route_find("GET", path, seg, allow, sizeof allow);
        r->route = route ? route : &api_routes[0];
    }
    if (api_query_parse(q ? q + 1 : NULL, &r->query, err, sizeof err)) {
        if (!*err)
            abort();
    } else if (api_q_known(r, &p)) {
        check_problem(&p);
    }
    p = (struct api_problem){0};
    if (api_gen_parse(r, &g, &p))
        check_problem(&p);
    else
        check_images(&g);
    free(g.images);
    api_query_free(&r->query);
    free(path);
}

static void fuzz_body(struct api_req *r) {
    static const char *const keys[] = {"config", "overrides", "name", "kind", "priority", NULL};
    struct api_job_create in = {0};
    struct api_problem p = {0};
    json_t *o = api_body_object(r, keys, &p);
    if (o)
        api_parse_job(o, &in, &p);
    if (!o || p.status)
        check_problem(&p);
    else if (!in.config) // a kind that is not named is the first of the daemon's table
        abort();
    json_decref(o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct api_server srv = {.cb = {.describe = describe}, .cfg = {.default_timeout_ms = 1000}};
    struct api_req r = {.srv = &srv, .method = "GET", .route = &api_routes[0]};
    const uint8_t *nl = size ? memchr(data, '\n', size) : NULL;
    size_t n = nl ? (size_t)(nl - data) : size;
    char *line = malloc(n + 1);
    if (!line)
        abort();
    memcpy(line, data, n);
    line[n] = '\0';
    fuzz_query(&r, line);
    r.body = (char *)(nl ? nl + 1 : data + size);
    r.body_len = (size_t)(data + size - (const uint8_t *)r.body);
    fuzz_body(&r);
    free(line);
    return 0;
}
