// Handlers of evaluations: their list with filters, curves, CSV and files (docs/api.md).
#include "api/handlers.h"
#include "api/params.h"
#include "api/respond.h"

#include <math.h>
#include <string.h>

#define NEED(member)                                                                               \
    if (!r->srv->cb.member)                                                                        \
    return api_not_built(r)

enum { MAX_PIXELS = 4000 };

// The filters, which every reading route takes.
static int filters(struct api_req *r, struct api_eval_query *q, struct api_problem *p) {
    static const char *const states[] = {NULL, "queued", "running", "done", "failed"},
                             *const weights[] = {NULL, "ema", "raw"};
    int state = -1, weight = -1;
    *q = (struct api_eval_query){.job = api_query_get(&r->query, "job"),
                                 .eval_job = api_query_get(&r->query, "eval_job"),
                                 .checkpoint = api_query_get(&r->query, "checkpoint"),
                                 .comparable = api_query_get(&r->query, "comparable"),
                                 .data = api_query_get(&r->query, "data"),
                                 .sort = api_query_get(&r->query, "sort"),
                                 .metric = api_query_get(&r->query, "metric"),
                                 .alpha = NAN,
                                 .width = 900,
                                 .height = 560};
    int bad = api_q_enum(r, "state", "queued|running|done|failed", &state, p) |
              api_q_enum(r, "weights", "ema|raw", &weight, p) |
              api_q_num(r, "alpha", -1e6, 1e6, &q->alpha, p) |
              api_q_int(r, "n", 1, INT32_MAX, &q->n, p);
    q->state = states[state + 1];
    q->weights = weights[weight + 1];
    return bad ? -1 : 0;
}

static int axis(struct api_req *r, struct api_eval_query *q, struct api_problem *p) {
    int x = 0;
    const int bad = filters(r, q, p) | api_q_enum(r, "x", "step|alpha", &x, p);
    q->over_alpha = x == 1;
    return bad ? -1 : 0;
}

enum MHD_Result api_h_eval_list(struct api_req *r) {
    struct api_eval_query q;
    struct api_page page;
    struct api_problem p = {0};
    struct api_reply reply = {0};
    NEED(eval_list);
    if (filters(r, &q, &p) || api_parse_page(r, &page, &p))
        return api_send_problem(r, &p);
    q.cursor = page.cursor;
    q.limit = page.limit;
    return api_send_reply(r, r->srv->cb.eval_list(r->srv->ctx, &q, &reply), &reply);
}

enum MHD_Result api_h_eval_get(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(eval_get);
    return api_send_reply(r, r->srv->cb.eval_get(r->srv->ctx, r->seg[0], &reply), &reply);
}

enum MHD_Result api_h_eval_remove(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(eval_remove);
    return api_send_reply(r, r->srv->cb.eval_remove(r->srv->ctx, r->seg[0], &reply), &reply);
}

static void expect(bool fine, const char *field, const char *what, struct api_problem *p) {
    if (fine)
        return;
    if (!p->status)
        api_problem_set(p, 422, "invalid-value", "%s %s", field, what);
    api_problem_field(p, field, "%s", what);
}

// The members that are not settings of the evaluation: those are checked with its configuration.
static void check_body(const json_t *o, struct api_problem *p) {
    const json_t *priority = json_object_get(o, "priority"), *data = json_object_get(o, "data"),
                 *settings = json_object_get(o, "settings");
    const char *name;
    api_body_str(o, "name", 200, &name, p);
    expect(!priority || json_is_null(priority) ||
               (json_is_integer(priority) && json_integer_value(priority) >= -1000 &&
                json_integer_value(priority) <= 1000),
           "priority", "must be a whole number from -1000 to 1000", p);
    expect(!data || json_is_null(data) || json_is_string(data) || json_is_object(data), "data",
           "must be the name of a recipe or an object such as {\"set\": \"mnist\"}", p);
    expect(!settings || json_is_null(settings) || json_is_object(settings), "settings",
           "must be an object such as {\"n\": 5000}", p);
}

enum MHD_Result api_h_eval_create(struct api_req *r) {
    static const char *const keys[] = {
        "checkpoint",        "job",   "folder",  "n",     "alpha",     "seed",   "split",
        "weights",           "batch", "metrics", "judge", "inception", "resize", "skip_existing",
        "samples",           "share", "data",    "name",  "priority",  "kind",   "settings",
        "allow_own_encoder", NULL};
    struct api_reply reply = {0};
    struct api_problem p = {0};
    NEED(eval_create);
    json_t *o = api_body_object(r, keys, &p);
    if (!o)
        return api_send_problem(r, &p);
    check_body(o, &p);
    const bool check = p.status != 0; // what else is wrong, behind it
    int made = r->srv->cb.eval_create(r->srv->ctx, o, check, &reply);
    if (check)
        api_problem_more(&p, &reply.problem);
    enum MHD_Result rc = check ? api_send_problem(r, &p) : api_send_reply(r, made, &reply);
    json_decref(o);
    return rc;
}

enum MHD_Result api_h_eval_csv(struct api_req *r) {
    struct api_eval_query q;
    struct api_problem p = {0};
    int format = 0;
    char *text;
    size_t n;
    NEED(eval_csv);
    if (filters(r, &q, &p) | api_q_enum(r, "format", "wide|long", &format, &p))
        return api_send_problem(r, &p);
    q.one_per_metric = format == 1;
    if (r->srv->cb.eval_csv(r->srv->ctx, &q, &text, &n, &p))
        return api_send_problem(r, &p);
    return api_send_bytes(r, 200, "text/csv; charset=utf-8", text, n);
}

enum MHD_Result api_h_eval_curve(struct api_req *r) {
    struct api_eval_query q;
    struct api_problem p = {0};
    struct api_reply reply = {0};
    NEED(eval_curve);
    if (axis(r, &q, &p))
        return api_send_problem(r, &p);
    return api_send_reply(r, r->srv->cb.eval_curve(r->srv->ctx, &q, &reply), &reply);
}

enum MHD_Result api_h_eval_plot(struct api_req *r) {
    struct api_eval_query q;
    struct api_problem p = {0};
    void *png;
    size_t n;
    NEED(eval_plot);
    if (axis(r, &q, &p) | api_q_int(r, "width", 200, MAX_PIXELS, &q.width, &p) |
        api_q_int(r, "height", 150, MAX_PIXELS, &q.height, &p))
        return api_send_problem(r, &p);
    if (r->srv->cb.eval_plot(r->srv->ctx, &q, &png, &n, &p))
        return api_send_problem(r, &p);
    return api_send_bytes(r, 200, "image/png", png, n);
}

enum MHD_Result api_h_eval_file(struct api_req *r) {
    struct api_file f = {.fd = -1};
    struct api_problem p = {0};
    NEED(eval_file);
    if (r->srv->cb.eval_file(r->srv->ctx, r->seg[0], r->seg[1], &f, &p))
        return api_send_problem(r, &p);
    return api_send_file(r, &f);
}
