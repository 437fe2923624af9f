// Handlers of the service itself: status, health, Prometheus, the OpenAPI document.
#include "api/durations.h"
#include "api/handlers.h"
#include "api/respond.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void api_server_counters(struct api_server *s, struct api_counters *out) {
    *out = (struct api_counters){
        .requests = atomic_load(&s->requests),
        .responses_4xx = atomic_load(&s->r4xx),
        .responses_503 = atomic_load(&s->r503),
        .responses_5xx = atomic_load(&s->r5xx),
        .shed = atomic_load(&s->shed),
        .limited = atomic_load(&s->limited),
        .reaped = atomic_load(&s->reaped),
        .sse_clients = api_sse_count(s),
        .generates_waiting = api_gen_waiting(s),
        .beat_ns = atomic_load(&s->beat_ns),
    };
    pthread_mutex_lock(&s->conn_mu);
    out->connections = s->nconn;
    pthread_mutex_unlock(&s->conn_mu);
}

enum MHD_Result api_h_status(struct api_req *r) {
    struct api_reply reply = {0};
    struct api_counters c;
    if (!r->srv->cb.status)
        return api_not_built(r);
    int rc = r->srv->cb.status(r->srv->ctx, &reply);
    if (!rc && json_is_object(reply.body)) {
        api_server_counters(r->srv, &c);
        json_object_set_new(
            reply.body, "http",
            json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:i}", "requests",
                      (json_int_t)c.requests, "responses_4xx", (json_int_t)c.responses_4xx,
                      "responses_503", (json_int_t)c.responses_503, "responses_5xx",
                      (json_int_t)c.responses_5xx, "shed", (json_int_t)c.shed, "reaped",
                      (json_int_t)c.reaped, "connections", c.connections, "sse_clients",
                      c.sse_clients, "generates_waiting", c.generates_waiting));
    }
    return api_send_reply(r, rc, &reply);
}

enum MHD_Result api_h_livez(struct api_req *r) {
    char *text = strdup("ok\n");
    return text ? api_send_bytes(r, 200, "text/plain", text, 3) : MHD_NO;
}

enum MHD_Result api_h_readyz(struct api_req *r) {
    struct api_reply reply = {0};
    struct api_problem p;
    if (atomic_load(&r->srv->closing)) {
        api_problem_set(&p, 503, "draining", "the server is stopping");
        p.retry_after = 5;
        return api_send_problem(r, &p);
    }
    if (!r->srv->cb.ready)
        return api_send_json(r, 200, json_pack("{s:{}}", "checks"));
    return api_send_reply(r, r->srv->cb.ready(r->srv->ctx, &reply), &reply);
}

// {"status": "ok"}, or 503 and why not.
enum MHD_Result api_h_health(struct api_req *r) {
    struct api_reply reply = {0};
    struct api_problem p = {0};
    struct api_model m = {0};
    int rc = 0;
    if (atomic_load(&r->srv->closing))
        rc = api_problem_set(&p, 503, "draining", "the server is stopping");
    if (!rc && r->srv->cb.ready && (rc = r->srv->cb.ready(r->srv->ctx, &reply)))
        p = reply.problem;
    json_decref(reply.body);
    if (!rc && r->srv->cb.describe) {
        rc = r->srv->cb.describe(r->srv->ctx, "served", &m, &p);
        if (!rc && m.release)
            m.release(&m);
    }
    return api_send_json(r, rc ? 503 : 200,
                         rc ? json_pack("{s:s, s:{s:i, s:s, s:s}}", "status", "error", "error",
                                        "code", 503, "message", p.detail, "type",
                                        "unavailable_error")
                            : json_pack("{s:s, s:s}", "status", "ok", "checkpoint", m.checkpoint));
}

enum MHD_Result api_h_prometheus(struct api_req *r) {
    struct api_counters c;
    char own[2000];
    api_server_counters(r->srv, &c);
    int n = snprintf(own, sizeof own,
                     "# HELP driftd_sse_clients Open event streams.\n"
                     "# TYPE driftd_sse_clients gauge\n"
                     "driftd_sse_clients %d\n"
                     "# HELP driftd_http_connections Open connections.\n"
                     "# TYPE driftd_http_connections gauge\n"
                     "driftd_http_connections %d\n"
                     "# HELP driftd_http_requests_total Requests begun.\n"
                     "# TYPE driftd_http_requests_total counter\n"
                     "driftd_http_requests_total %llu\n"
                     "# HELP driftd_http_errors_total Responses by class of error.\n"
                     "# TYPE driftd_http_errors_total counter\n"
                     "driftd_http_errors_total{class=\"4xx\"} %llu\n"
                     "driftd_http_errors_total{class=\"503\"} %llu\n"
                     "driftd_http_errors_total{class=\"5xx\"} %llu\n"
                     "# HELP driftd_http_shed_total Requests refused with 429.\n"
                     "# TYPE driftd_http_shed_total counter\n"
                     "driftd_http_shed_total %llu\n"
                     "# HELP driftd_http_limited_total Requests beyond the rate of their token.\n"
                     "# TYPE driftd_http_limited_total counter\n"
                     "driftd_http_limited_total %llu\n"
                     "# HELP driftd_http_reaped_total Connections cut at a deadline or limit.\n"
                     "# TYPE driftd_http_reaped_total counter\n"
                     "driftd_http_reaped_total %llu\n",
                     c.sse_clients, c.connections, (unsigned long long)c.requests,
                     (unsigned long long)c.responses_4xx, (unsigned long long)c.responses_503,
                     (unsigned long long)c.responses_5xx, (unsigned long long)c.shed,
                     (unsigned long long)c.limited, (unsigned long long)c.reaped);
    char *text = r->srv->cb.prometheus ? r->srv->cb.prometheus(r->srv->ctx) : NULL;
    struct api_text all = {0};
    if (text)
        api_text_add(&all, text, strlen(text));
    free(text);
    api_text_add(&all, own, (size_t)n);
    api_durations_print(r->srv->durations, &all);
    if (all.failed) {
        free(all.s);
        return MHD_NO;
    }
    return api_send_bytes(r, 200, "text/plain; version=0.0.4; charset=utf-8", all.s, all.n);
}

enum MHD_Result api_h_openapi(struct api_req *r) {
    struct MHD_Response *resp = MHD_create_response_from_buffer(
        r->srv->openapi_len, r->srv->openapi, MHD_RESPMEM_PERSISTENT);
    if (resp)
        MHD_add_response_header(resp, "Content-Type", "application/json");
    return api_send(r, 200, resp);
}
