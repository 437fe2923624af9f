// Handlers of sweeps: submission, list, detail, actions, tables and plots.
#include "api/handlers.h"
#include "api/params.h"
#include "api/respond.h"

#include <stdlib.h>
#include <string.h>

#define NEED(member)                                                                               \
    if (!r->srv->cb.member)                                                                        \
    return api_not_built(r)

enum { MAX_PIXELS = 4000, WIDTH = 1100, HEIGHT = 640 };

enum MHD_Result api_h_sweep_list(struct api_req *r) {
    struct api_page page;
    struct api_problem p = {0};
    struct api_reply reply = {0};
    NEED(sweep_list);
    if (api_parse_page(r, &page, &p))
        return api_send_problem(r, &p);
    return api_send_reply(r, r->srv->cb.sweep_list(r->srv->ctx, &page, &reply), &reply);
}

enum MHD_Result api_h_sweep_create(struct api_req *r) {
    struct api_problem p = {0};
    struct api_reply reply = {0};
    int check = 0;
    NEED(sweep_create);
    struct api_sweep_create in = {.idempotency_key = api_idempotency_key(r, &p)};
    if (p.status || api_q_enum(r, "check", "0|1", &check, &p))
        return api_send_problem(r, &p);
    json_t *file = api_body_any_object(r, &p);
    if (!file)
        return api_send_problem(r, &p);
    char *canonical = json_dumps(file, JSON_COMPACT | JSON_SORT_KEYS);
    in.file = file;
    in.check = check == 1;
    in.fingerprint = canonical ? canonical : "";
    enum MHD_Result rc =
        api_send_reply(r, r->srv->cb.sweep_create(r->srv->ctx, &in, &reply), &reply);
    free(canonical);
    json_decref(file);
    return rc;
}

enum MHD_Result api_h_sweep_get(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(sweep_get);
    return api_send_reply(r, r->srv->cb.sweep_get(r->srv->ctx, r->seg[0], &reply), &reply);
}

static enum MHD_Result act(struct api_req *r, enum api_sweep_action a) {
    struct api_reply reply = {0};
    NEED(sweep_action);
    return api_send_reply(r, r->srv->cb.sweep_action(r->srv->ctx, r->seg[0], a, &reply), &reply);
}

enum MHD_Result api_h_sweep_stop(struct api_req *r) {
    return act(r, API_SWEEP_STOP);
}

enum MHD_Result api_h_sweep_resume(struct api_req *r) {
    return act(r, API_SWEEP_RESUME);
}

enum MHD_Result api_h_sweep_remove(struct api_req *r) {
    struct api_problem p = {0};
    int jobs = 0;
    if (api_q_enum(r, "jobs", "keep|delete", &jobs, &p))
        return api_send_problem(r, &p);
    return act(r, jobs ? API_SWEEP_REMOVE_ALL : API_SWEEP_REMOVE);
}

static enum MHD_Result text(struct api_req *r, bool markdown) {
    struct api_problem p = {0};
    char *bytes;
    size_t n;
    NEED(sweep_text);
    if (r->srv->cb.sweep_text(r->srv->ctx, r->seg[0], markdown, &bytes, &n, &p))
        return api_send_problem(r, &p);
    return api_send_bytes(
        r, 200, markdown ? "text/markdown; charset=utf-8" : "text/csv; charset=utf-8", bytes, n);
}

enum MHD_Result api_h_sweep_csv(struct api_req *r) {
    return text(r, false);
}

enum MHD_Result api_h_sweep_markdown(struct api_req *r) {
    return text(r, true);
}

enum MHD_Result api_h_sweep_curve(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(sweep_curve);
    return api_send_reply(
        r,
        r->srv->cb.sweep_curve(r->srv->ctx, r->seg[0], api_query_get(&r->query, "metric"), &reply),
        &reply);
}

enum MHD_Result api_h_sweep_plot(struct api_req *r) {
    struct api_problem p = {0};
    int64_t width = WIDTH, height = HEIGHT;
    void *png;
    size_t n;
    NEED(sweep_plot);
    if (api_q_int(r, "width", 200, MAX_PIXELS, &width, &p) |
        api_q_int(r, "height", 150, MAX_PIXELS, &height, &p))
        return api_send_problem(r, &p);
    if (r->srv->cb.sweep_plot(r->srv->ctx, r->seg[0], api_query_get(&r->query, "metric"), width,
                              height, &png, &n, &p))
        return api_send_problem(r, &p);
    return api_send_bytes(r, 200, "image/png", png, n);
}
