// Answers: every response of this server is queued here, so that each carries X-Request-Id,
// nosniff and a cache rule. Called on MHD's worker threads, or on those of later.c.
#include "api/respond.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 32768 }; // of what is sent piece by piece

enum MHD_Result api_send(struct api_req *r, unsigned status, struct MHD_Response *resp) {
    if (!resp)
        return MHD_NO;
    if (r->early || atomic_load(&r->later) == API_LATER_RUNS) {
        r->status = status;
        r->kept = resp;
        return MHD_YES;
    }
    MHD_add_response_header(resp, "X-Request-Id", r->id);
    MHD_add_response_header(resp, "X-Content-Type-Options", "nosniff");
    if (!MHD_get_response_header(resp, "Cache-Control"))
        MHD_add_response_header(resp, "Cache-Control", "no-store");
    if (atomic_load(&r->srv->closing))
        MHD_add_response_header(resp, "Connection", "close");
    r->status = status;
    r->state = API_REQ_DONE;
    enum MHD_Result rc = MHD_queue_response(r->mhd, status, resp);
    MHD_destroy_response(resp);
    return rc;
}

enum MHD_Result api_send_kept(struct api_req *r) {
    struct MHD_Response *resp = r->kept;
    r->kept = NULL;
    return api_send(r, r->status, resp);
}

// --- large answers (conn.h) ---

struct answer {
    struct api_server *srv;
    struct api_conn *conn; // which outlives the response
    char *bytes;
    size_t size;
};

static ssize_t answer_read(void *cls, uint64_t pos, char *buf, size_t max) {
    struct answer *a = cls;
    const size_t left = a->size - (size_t)pos, n = left < max ? left : max;
    memcpy(buf, a->bytes + pos, n);
    api_conn_advance(a->conn); // the block before has gone to the socket
    return (ssize_t)n;
}

static void answer_free(void *cls) {
    struct answer *a = cls;
    api_conn_unhold(a->srv, a->conn);
    free(a->bytes);
    free(a);
}

static struct MHD_Response *large_response(struct api_req *r, void *bytes, size_t n) {
    const bool repeats = r->route->flags & API_GENERATES || !strcmp(r->route->method, "GET");
    struct answer *a = malloc(sizeof *a);
    if (!a || !api_conn_hold(r->srv, r->conn, n, !repeats)) {
        free(a);
        free(bytes);
        return NULL;
    }
    *a = (struct answer){r->srv, r->conn, bytes, n};
    struct MHD_Response *resp =
        MHD_create_response_from_callback(n, BLOCK, answer_read, a, answer_free);
    if (!resp)
        answer_free(a);
    return resp;
}

struct MHD_Response *api_bytes_response(struct api_req *r, void *bytes, size_t n) {
    if (n > API_ANSWER_SMALL)
        return large_response(r, bytes, n);
    struct MHD_Response *resp = MHD_create_response_from_buffer(n, bytes, MHD_RESPMEM_MUST_FREE);
    if (!resp)
        free(bytes);
    return resp;
}

enum MHD_Result api_send_no_room(struct api_req *r) {
    struct api_problem p = {0};
    api_problem_set(&p, 503, "busy",
                    "too many large answers are in memory already, as their clients read slowly");
    p.retry_after = 5;
    return api_send_problem(r, &p);
}

struct MHD_Response *api_stream_response(struct api_req *r, MHD_ContentReaderCallback read,
                                         void *cls, MHD_ContentReaderFreeCallback release) {
    struct MHD_Response *resp =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read, cls, release);
    // Behind the header of a HEAD libmicrohttpd (0.9.75) sends the end of a chunked body, which
    // would begin the next answer: without chunks the connection ends instead.
    if (resp && !strcmp(r->method, "HEAD"))
        MHD_set_response_options(resp, MHD_RF_HTTP_VERSION_1_0_ONLY, MHD_RO_END);
    return resp;
}

enum MHD_Result api_send_bytes(struct api_req *r, unsigned status, const char *type, void *bytes,
                               size_t n) {
    struct MHD_Response *resp = api_bytes_response(r, bytes, n);
    if (!resp)
        return api_send_no_room(r);
    MHD_add_response_header(resp, "Content-Type", type);
    return api_send(r, status, resp);
}

static struct MHD_Response *json_response(struct api_req *r, json_t *stolen, const char *type) {
    char *text = json_dumps(stolen, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(stolen);
    struct MHD_Response *resp = text ? api_bytes_response(r, text, strlen(text)) : NULL;
    if (resp)
        MHD_add_response_header(resp, "Content-Type", type);
    return resp;
}

enum MHD_Result api_send_json(struct api_req *r, unsigned status, json_t *stolen) {
    struct MHD_Response *resp = json_response(r, stolen, "application/json");
    return resp ? api_send(r, status, resp) : api_send_no_room(r);
}

static void add_retry_after(struct MHD_Response *resp, double seconds, bool exact) {
    char text[32];
    if (!(seconds > 0))
        return;
    // To the nearest: a measured rate may be too high or too low. A token's is neither.
    seconds = fmin(seconds, 86400);
    snprintf(text, sizeof text, "%.0f", fmax(1, exact ? ceil(seconds) : round(seconds)));
    MHD_add_response_header(resp, "Retry-After", text);
}

// What OpenAI's clients read of a problem. The parameters of a generate request have other names
// there.
static json_t *openai_error(const struct api_problem *p, const json_t *doc) {
    const json_t *first = json_array_get(json_object_get(doc, "errors"), 0);
    json_t *param = json_object_get(first, "field");
    const char *field = json_is_string(param) ? json_string_value(param) : "";
    const char *other = !strcmp(field, "class")        ? "prompt"
                        : !strcmp(field, "checkpoint") ? "model"
                                                       : NULL;
    return json_pack("{s:O, s:s, s:o, s:s}", "message", json_object_get(doc, "detail"), "type",
                     p->status < 500 ? "invalid_request_error" : "server_error", "param",
                     other   ? json_string(other)
                     : param ? json_incref(param)
                             : json_null(),
                     "code", p->type);
}

enum MHD_Result api_send_problem_with(struct api_req *r, const struct api_problem *p,
                                      const char *name, const char *value) {
    struct api_problem fixed = *p;
    if (fixed.status < 400 || fixed.status > 599)
        api_problem_set(&fixed, 500, "internal", "the request failed without a reason");
    if ((fixed.status == 429 || fixed.status == 503) && !(fixed.retry_after > 0))
        fixed.retry_after = 1; // these two always name a time
    json_t *doc = api_problem_json(&fixed, r->id);
    if (r->openai) // what its clients read; the rest is the problem as everywhere
        json_object_set_new(doc, "error", openai_error(&fixed, doc));
    struct MHD_Response *resp = json_response(r, doc, "application/problem+json");
    if (!resp)
        return MHD_NO;
    add_retry_after(resp, fixed.retry_after, r->limited);
    if (fixed.status == 401)
        MHD_add_response_header(resp, "WWW-Authenticate", "Bearer realm=\"driftd\"");
    if (!strcmp(fixed.type, "insufficient-scope"))
        MHD_add_response_header(resp, "WWW-Authenticate",
                                "Bearer realm=\"driftd\", error=\"insufficient_scope\"");
    if (name)
        MHD_add_response_header(resp, name, value);
    return api_send(r, fixed.status, resp);
}

enum MHD_Result api_send_problem(struct api_req *r, const struct api_problem *p) {
    return api_send_problem_with(r, p, NULL, NULL);
}

enum MHD_Result api_send_error(struct api_req *r, int status, const char *type, const char *fmt,
                               ...) {
    struct api_problem p;
    char detail[sizeof p.detail];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(detail, sizeof detail, fmt, ap);
    va_end(ap);
    api_problem_set(&p, status, type, "%s", detail);
    return api_send_problem(r, &p);
}

enum MHD_Result api_not_built(struct api_req *r) {
    return api_send_error(r, 501, "not-in-this-build", "%s is not in this build",
                          r->route ? r->route->summary : r->path);
}

static void add_location(struct api_req *r, struct MHD_Response *resp, const char *path) {
    struct api_text t = {0};
    api_text_fmt(&t, "%s%s", api_prefix(r), path);
    if (!t.failed)
        MHD_add_response_header(resp, "Location", t.s);
    free(t.s);
}

// The next page: the same query with another cursor.
static void add_link(struct api_req *r, struct MHD_Response *resp, const char *cursor) {
    struct api_text t = {0};
    api_text_fmt(&t, "<%s%s?cursor=", api_prefix(r), r->path);
    api_text_escape(&t, cursor);
    for (size_t i = 0; i < r->query.n; i++) {
        if (!strcmp(r->query.arg[i].key, "cursor"))
            continue;
        api_text_fmt(&t, "&%s=", r->query.arg[i].key); // a known one: nothing to escape
        api_text_escape(&t, r->query.arg[i].value);
    }
    api_text_fmt(&t, ">; rel=\"next\"");
    if (!t.failed)
        MHD_add_response_header(resp, "Link", t.s);
    free(t.s);
}

enum MHD_Result api_send_reply(struct api_req *r, int rc, struct api_reply *reply) {
    if (rc) {
        json_decref(reply->body);
        return api_send_problem(r, &reply->problem);
    }
    unsigned status = reply->status ? reply->status : r->route->status;
    struct MHD_Response *resp;
    if (reply->body && reply->next_cursor[0] && json_is_object(reply->body))
        json_object_set_new(reply->body, "next_cursor", json_string(reply->next_cursor));
    if (reply->body)
        resp = json_response(r, reply->body, "application/json");
    else
        resp = MHD_create_response_from_buffer(0, "", MHD_RESPMEM_PERSISTENT);
    if (!resp)
        return api_send_no_room(r);
    if (!reply->body && status == 200)
        status = 204;
    if (reply->location[0])
        add_location(r, resp, reply->location);
    if (reply->replayed)
        MHD_add_response_header(resp, "Idempotency-Replayed", "true");
    if (reply->next_cursor[0])
        add_link(r, resp, reply->next_cursor);
    return api_send(r, status, resp);
}
