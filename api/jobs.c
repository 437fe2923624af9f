// Handlers of jobs, recipes and samples: parse, call back, send the reply.
#include "api/handlers.h"
#include "api/params.h"
#include "api/respond.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEED(member)                                                                               \
    if (!r->srv->cb.member)                                                                        \
    return api_not_built(r)

static enum MHD_Result list(struct api_req *r,
                            int (*fn)(void *, const struct api_page *, struct api_reply *)) {
    struct api_page page;
    struct api_problem p = {0};
    struct api_reply reply = {0};
    if (!fn)
        return api_not_built(r);
    if (api_parse_page(r, &page, &p))
        return api_send_problem(r, &p);
    return api_send_reply(r, fn(r->srv->ctx, &page, &reply), &reply);
}

enum MHD_Result api_h_job_list(struct api_req *r) {
    return list(r, r->srv->cb.job_list);
}

static void bad_field(struct api_problem *p, const char *field, const char *message) {
    if (!p->status)
        api_problem_set(p, 422, "invalid-value", "%s %s", field, message);
    api_problem_field(p, field, "%s", message);
}

// Whether there is one; a wrong one is a field error.
static bool read_priority(const json_t *o, int *out, struct api_problem *p) {
    const json_t *v = json_object_get(o, "priority");
    if (!v)
        return false;
    if (!json_is_integer(v) || json_integer_value(v) < -1000 || json_integer_value(v) > 1000)
        bad_field(p, "priority", "must be a whole number from -1000 to 1000");
    else
        *out = (int)json_integer_value(v);
    return true;
}

void api_parse_job(json_t *o, struct api_job_create *in, struct api_problem *p) {
    in->config = json_object_get(o, "config");
    in->overrides = json_object_get(o, "overrides");
    if (!json_is_string(in->config) && !json_is_object(in->config))
        bad_field(p, "config", "is required: the name of a recipe or an object");
    if (json_is_null(in->overrides))
        in->overrides = NULL;
    if (in->overrides && !json_is_object(in->overrides))
        bad_field(p, "overrides", "must be an object such as {\"optim.lr\": 0.001}");
    api_body_str(o, "name", 200, &in->name, p);
    api_body_str(o, "kind", 16, &in->kind, p);
    read_priority(o, &in->priority, p);
}

// What is wrong with the configuration, behind what is wrong with other members of the body.
static void add_config_errors(struct api_req *r, struct api_job_create *in, struct api_problem *p) {
    struct api_reply reply = {0};
    for (size_t i = 0; i < p->nerrors; i++)
        if (!strcmp(p->errors[i].field, "config") || !strcmp(p->errors[i].field, "overrides"))
            return;
    in->check = true;
    r->srv->cb.job_create(r->srv->ctx, in, &reply);
    json_decref(reply.body);
    api_problem_more(p, &reply.problem);
}

enum MHD_Result api_h_job_create(struct api_req *r) {
    static const char *const keys[] = {"config", "overrides", "name", "kind", "priority", NULL};
    struct api_job_create in = {0};
    struct api_problem p = {0};
    struct api_reply reply = {0};
    NEED(job_create);
    in.idempotency_key = api_idempotency_key(r, &p);
    json_t *o = p.status ? NULL : api_body_object(r, keys, &p);
    if (!o)
        return api_send_problem(r, &p);
    api_parse_job(o, &in, &p);
    if (p.status)
        add_config_errors(r, &in, &p);
    char *canonical = json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS);
    in.fingerprint = canonical ? canonical : "";
    enum MHD_Result rc =
        p.status ? api_send_problem(r, &p)
                 : api_send_reply(r, r->srv->cb.job_create(r->srv->ctx, &in, &reply), &reply);
    free(canonical);
    json_decref(o);
    return rc;
}

enum MHD_Result api_h_job_get(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(job_get);
    return api_send_reply(r, r->srv->cb.job_get(r->srv->ctx, r->seg[0], &reply), &reply);
}

enum MHD_Result api_h_job_patch(struct api_req *r) {
    static const char *const keys[] = {"name", "notes", "priority", NULL};
    struct api_job_patch in = {0};
    int priority = 0;
    struct api_problem p = {0};
    struct api_reply reply = {0};
    NEED(job_patch);
    json_t *o = api_body_object(r, keys, &p);
    if (!o)
        return api_send_problem(r, &p);
    api_body_str(o, "name", 200, &in.name, &p);
    api_body_str(o, "notes", 65536, &in.notes, &p);
    if (read_priority(o, &priority, &p))
        in.priority = &priority;
    enum MHD_Result rc =
        p.status
            ? api_send_problem(r, &p)
            : api_send_reply(r, r->srv->cb.job_patch(r->srv->ctx, r->seg[0], &in, &reply), &reply);
    json_decref(o);
    return rc;
}

enum MHD_Result api_h_job_remove(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(job_remove);
    return api_send_reply(r, r->srv->cb.job_remove(r->srv->ctx, r->seg[0], &reply), &reply);
}

static enum MHD_Result action(struct api_req *r, enum api_job_action a) {
    struct api_reply reply = {0};
    NEED(job_action);
    return api_send_reply(r, r->srv->cb.job_action(r->srv->ctx, r->seg[0], a, &reply), &reply);
}

enum MHD_Result api_h_job_stop(struct api_req *r) {
    struct api_problem p = {0};
    int mode = 0;
    if (api_q_enum(r, "mode", "graceful|now", &mode, &p))
        return api_send_problem(r, &p);
    return action(r, mode ? API_JOB_STOP_NOW : API_JOB_STOP);
}

enum MHD_Result api_h_job_pause(struct api_req *r) {
    return action(r, API_JOB_PAUSE);
}

enum MHD_Result api_h_job_resume(struct api_req *r) {
    return action(r, API_JOB_RESUME);
}

enum MHD_Result api_h_job_checkpoint(struct api_req *r) {
    return action(r, API_JOB_CHECKPOINT);
}

enum MHD_Result api_h_job_field(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(job_field);
    return api_send_reply(r, r->srv->cb.job_field(r->srv->ctx, r->seg[0], &reply), &reply);
}

// --- recipes and samples ---

enum MHD_Result api_h_config_list(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(config_list);
    return api_send_reply(r, r->srv->cb.config_list(r->srv->ctx, &reply), &reply);
}

enum MHD_Result api_h_config_get(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(config_get);
    return api_send_reply(r, r->srv->cb.config_get(r->srv->ctx, r->seg[0], &reply), &reply);
}

enum MHD_Result api_h_config_schema(struct api_req *r) {
    struct api_reply reply = {0};
    NEED(config_schema);
    return api_send_reply(r, r->srv->cb.config_schema(r->srv->ctx, &reply), &reply);
}

enum MHD_Result api_h_sample_list(struct api_req *r) {
    return list(r, r->srv->cb.sample_list);
}

enum MHD_Result api_h_sample_png(struct api_req *r) {
    struct api_file f = {.fd = -1};
    struct api_problem p = {0};
    NEED(sample_png);
    if (r->srv->cb.sample_png(r->srv->ctx, r->seg[0], &f, &p))
        return api_send_problem(r, &p);
    return api_send_file(r, &f);
}
