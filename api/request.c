// One request from its first line to its completion: raw URI, the checks that come before a body
// is read, body accumulation under limits, dispatch to the route's handler. Called by MHD.
#include "api/request.h"

#include "api/durations.h"
#include "api/gate.h"
#include "api/handlers.h"
#include "api/later.h"
#include "api/params.h"
#include "api/respond.h"
#include "api/routes.h"
#include "api/tokens.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/statvfs.h>
#include <unistd.h>

// What a client may still send after its body exceeds the limit; then it is cut off.
#define DISCARD_MAX (1024 * 1024)
#define DISK_EVERY (4 * 1024 * 1024) // bytes of an upload between two looks at the disk

void *api_req_begin(void *cls, const char *uri, struct MHD_Connection *c) {
    struct api_server *s = ((struct api_listener_ctx *)cls)->srv;
    struct api_req *r = api_req_new(s, uri, c);
    if (r) {
        atomic_fetch_add(&s->requests, 1);
        atomic_fetch_add(&s->active, 1);
    }
    return r;
}

void api_req_end(void *cls, struct MHD_Connection *c, void **req_cls,
                 enum MHD_RequestTerminationCode code) {
    struct api_req *r = *req_cls;
    (void)cls, (void)c, (void)code;
    if (!r)
        return;
    if (r->gen)
        api_gen_drop(r);
    if (r->conn)
        api_conn_phase(r->srv, r->conn, API_PHASE_IDLE, (uint64_t)r->srv->cfg.idle_timeout_ms);
    // What a build leaves out is no failure; nor is it to be told to come back.
    const bool failed = r->status >= 500 && r->status != 501 && r->status != 503;
    if (failed)
        atomic_fetch_add(&r->srv->r5xx, 1);
    else if (r->status == 503)
        atomic_fetch_add(&r->srv->r503, 1);
    else if (r->status >= 400 && r->status != 501)
        atomic_fetch_add(&r->srv->r4xx, 1);
    if (r->status == 429)
        atomic_fetch_add(r->limited ? &r->srv->limited : &r->srv->shed, 1);
    api_durations_add(r);
    const char *uri = r->uri ? r->uri : "-"; // as it came: without spaces
    const size_t path = strcspn(uri, "? \"");
    api_log(&r->srv->log, failed ? 4 : 7, "http request=%s method=%s path=%.*s status=%u ms=%.1f",
            r->id, r->method ? r->method : "-", path < 200 ? (int)path : 200, uri, r->status,
            (double)(api_now_ns() - r->start_ns) / 1e6);
    atomic_fetch_sub(&r->srv->active, 1);
    api_req_free(r);
    *req_cls = NULL;
}

static void adopt_request_id(struct api_req *r) {
    const char *id = api_header(r, "X-Request-Id");
    if (id && *id && strlen(id) < sizeof r->id &&
        strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") ==
            strlen(id))
        snprintf(r->id, sizeof r->id, "%s", id);
}

static enum MHD_Result answer_options(struct api_req *r, const char *allow) {
    struct MHD_Response *resp = MHD_create_response_from_buffer(0, "", MHD_RESPMEM_PERSISTENT);
    if (resp)
        MHD_add_response_header(resp, "Allow", allow);
    return api_send(r, 204, resp);
}

// 404 or 405 for a path and method without a route.
static enum MHD_Result answer_unrouted(struct api_req *r, const char *allow) {
    struct api_problem p;
    if (!*allow)
        return api_send_error(r, 404, "not-found", "there is no `%.200s` here; see /openapi.json",
                              r->path);
    api_problem_set(&p, 405, "method-not-allowed", "`%.100s` takes %s", r->path, allow);
    return api_send_problem_with(r, &p, "Allow", allow);
}

static bool content_type_is(const char *have, const char *want) {
    size_t n = strlen(want);
    return have && !strncasecmp(have, want, n) && (have[n] == '\0' || strchr("; \t", have[n]));
}

// Whether the disk of the uploads takes `bytes` more and keeps what is left alone.
static bool disk_takes(const struct api_server *s, uint64_t bytes) {
    struct statvfs v;
    if (statvfs(s->upload_dir, &v))
        return true; // writing will tell
    const uint64_t left = (uint64_t)v.f_bavail * v.f_frsize;
    return left >= s->cfg.min_free && left - s->cfg.min_free >= bytes;
}

static int disk_full(const struct api_req *r, struct api_problem *p) {
    return api_problem_set(
        p, 507, "storage",
        "the disk is full: %llu MiB stay free, and the upload does not fit beside "
        "them; remove data sets or checkpoints",
        (unsigned long long)(r->srv->cfg.min_free >> 20));
}

static int open_upload(struct api_req *r, uint64_t bytes, struct api_problem *p) {
    if (!r->srv->upload_dir)
        return api_problem_set(p, 501, "not-in-this-build", "uploads are not configured");
    if (!disk_takes(r->srv, bytes))
        return disk_full(r, p);
    if (asprintf(&r->upload_path, "%s/.upload-XXXXXX", r->srv->upload_dir) < 0) {
        r->upload_path = NULL;
        return api_problem_set(p, 500, "internal", "out of memory");
    }
    r->upload_fd = mkostemp(r->upload_path, O_CLOEXEC);
    if (r->upload_fd >= 0)
        return 0;
    free(r->upload_path);
    r->upload_path = NULL;
    return api_problem_set(p, 507, "storage", "the upload cannot be stored: %s", strerror(errno));
}

// The body, as declared or as it came, exceeds its limit.
static int too_large(const struct api_req *r, bool upload, struct api_problem *p) {
    return api_problem_set(
        p, 413, "body-too-large", "%s may have %llu bytes", upload ? "an upload" : "a body",
        upload ? (unsigned long long)r->srv->cfg.max_upload : (unsigned long long)r->body_max);
}

static int no_memory_for(struct api_problem *p) {
    api_problem_set(p, 503, "busy", "too many large bodies are in memory already");
    p->retry_after = 5;
    return -1;
}

// Decides on headers alone whether the body will be read.
static int check_body(struct api_req *r, struct api_problem *p) {
    const char *length = api_header(r, "Content-Length"), *type = api_header(r, "Content-Type");
    bool chunked = api_header(r, "Transfer-Encoding");
    uint64_t n = length ? strtoull(length, NULL, 10) : 0;
    enum api_body kind = r->route->body;
    if (kind == API_BODY_NONE)
        return chunked || n ? api_problem_set(p, 400, "unexpected-body",
                                              "this endpoint takes no body; use the query")
                            : 0;
    r->body_max = r->srv->cfg.max_body;
    const bool bytes = content_type_is(type, "application/octet-stream");
    if (kind == API_BODY_GENERATE && !n && !chunked && !bytes) // without bytes it is not noise
        return 0;
    if (!length && !chunked) {
        r->early = false; // what follows is meant as one
        return api_problem_set(p, 411, "length-required", "a body with Content-Length is required");
    }
    if (bytes && kind == API_BODY_GENERATE) {
        r->body_is_bytes = true;
        r->body_max = API_MAX_NOISE;
    }
    if (bytes && (kind == API_BODY_UPLOAD || kind == API_BODY_BYTES)) {
        if (n > r->srv->cfg.max_upload)
            return too_large(r, true, p);
        return open_upload(r, n, p);
    }
    if (kind == API_BODY_BYTES || (!r->body_is_bytes && !content_type_is(type, "application/json")))
        return api_problem_set(p, 415, "unsupported-media-type", "Content-Type must be %s",
                               kind == API_BODY_BYTES ? "application/octet-stream"
                               : kind == API_BODY_UPLOAD || kind == API_BODY_GENERATE
                                   ? "application/octet-stream or application/json"
                                   : "application/json");
    if (n > r->body_max)
        return too_large(r, false, p);
    return n && !api_hold(r, n + 1) ? no_memory_for(p) : 0;
}

// The route of the request, NULL when there is none; `allow` as in api_route_find.
static const struct api_route *find_route(struct api_req *r, char *allow, size_t allow_size) {
    static const struct api_route page = {
        "GET", "/", api_h_page, API_BODY_NONE, API_PUBLIC, 200, "text/html", "The dashboard", NULL};
    const struct api_route *route = api_route_find(r->method, r->path, r->seg, allow, allow_size);
    if (route || *allow || !api_page_find(r->srv, r->path))
        return route;
    if (!strcmp(r->method, "GET") || !strcmp(r->method, "HEAD"))
        return &page;
    snprintf(allow, allow_size, "GET, HEAD, OPTIONS");
    return NULL;
}

static int check_closing(struct api_req *r, struct api_problem *p) {
    if (!atomic_load(&r->srv->closing) || r->route->flags & API_PUBLIC)
        return 0;
    api_problem_set(p, 503, "draining", "the server is stopping");
    p->retry_after = 5;
    return -1;
}

static int check_accept(struct api_req *r, struct api_problem *p) {
    const char *type = r->route->produces;
    if (!strcmp(type, "*/*") || api_accepts(r, type))
        return 0;
    return api_problem_set(p, 406, "not-acceptable", "this endpoint produces %s", type);
}

static int check_token(struct api_req *r, struct api_problem *p) {
    const int rc = r->route->flags & API_PUBLIC ? 0 : api_check_token(r, p);
    r->limited = rc && p->status == 429;
    return rc;
}

static bool has_body(struct api_req *r) {
    const char *length = api_header(r, "Content-Length");
    return api_header(r, "Transfer-Encoding") || (length && strtoull(length, NULL, 10) > 0);
}

// First call of MHD: headers are complete, no body has been read. An answer that is queued in it
// ends the connection, since a body may follow: where none does, api_send keeps it for the next
// call.
static enum MHD_Result on_headers(struct api_req *r, const char *version) {
    struct api_problem p = {0};
    char allow[96] = "";
    const int bad = api_check_framing(r, version, &p); // before api_header cuts any value
    adopt_request_id(r);
    if (bad) // whether a body follows is not known
        return api_send_problem(r, &p);
    r->early = !has_body(r);
    if (api_parse_target(r, &p) || api_check_host(r, version, &p))
        return api_send_problem(r, &p);
    if (!strcmp(r->path, "*"))
        return answer_options(r, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    r->route = find_route(r, allow, sizeof allow);
    if (!strcmp(r->method, "OPTIONS") && *allow)
        return answer_options(r, allow);
    if (!r->route)
        return answer_unrouted(r, allow);
    r->openai = r->route->fn == api_h_openai;
    bool page = r->route->fn == api_h_page; // takes any query
    if (api_check_origin(r, &p) || check_token(r, &p) || (!page && api_q_known(r, &p)) ||
        check_closing(r, &p) || check_body(r, &p) || check_accept(r, &p))
        return api_send_problem(r, &p);
    bool body = r->route->body != API_BODY_NONE;
    api_conn_phase(r->srv, r->conn, body ? API_PHASE_BODY : API_PHASE_BUSY,
                   (uint64_t)r->srv->cfg.body_timeout_ms);
    return MHD_YES;
}

// What has been written of an upload that will not be used takes no room on the disk while the rest
// of it is discarded.
static void give_up(struct api_req *r, bool *why) {
    *why = true;
    if (ftruncate(r->upload_fd, 0))
        api_log(&r->srv->log, 4, "http.upload request=%s reason=\"%s\"", r->id, strerror(errno));
}

static void write_upload(struct api_req *r, const char *data, size_t n) {
    if (r->upload_bytes - r->upload_checked >= DISK_EVERY) {
        r->upload_checked = r->upload_bytes;
        if (!disk_takes(r->srv, 0)) {
            give_up(r, &r->upload_failed);
            return;
        }
    }
    for (size_t done = 0; done < n;) {
        ssize_t k = write(r->upload_fd, data + done, n - done);
        if (k < 0 && errno != EINTR) {
            give_up(r, &r->upload_failed);
            return;
        }
        if (k > 0)
            done += (size_t)k;
    }
}

static enum MHD_Result on_upload(struct api_req *r, const char *data, size_t n) {
    r->upload_bytes += n;
    if (r->upload_bytes > r->srv->cfg.max_upload) {
        if (!r->body_too_large)
            give_up(r, &r->body_too_large);
        return r->upload_bytes > r->srv->cfg.max_upload + DISCARD_MAX ? MHD_NO : MHD_YES;
    }
    if (!r->upload_failed)
        write_upload(r, data, n);
    if (r->upload_bytes - r->upload_mark >= 64 * 1024) { // it advances: a new deadline
        r->upload_mark = r->upload_bytes;
        api_conn_phase(r->srv, r->conn, API_PHASE_BODY, (uint64_t)r->srv->cfg.body_timeout_ms);
    }
    return MHD_YES;
}

// Room for a body of `size` bytes and a NUL: all of a declared length at once, else twice what is
// needed, but for limits. False: the server's bodies take too much memory.
static bool grow_body(struct api_req *r, size_t size) {
    const size_t top = size <= API_BODY_SMALL ? API_BODY_SMALL : r->body_max,
                 twice = 2 * (size + 1);
    const size_t cap = r->held > size ? r->held : twice > top + 1 ? top + 1 : twice;
    if (size < r->body_cap)
        return true;
    char *grown = api_hold(r, cap) ? realloc(r->body, cap) : NULL;
    if (!grown)
        return false;
    r->body = grown;
    r->body_cap = cap;
    return true;
}

static enum MHD_Result on_data(struct api_req *r, const char *data, size_t n) {
    if (r->upload_fd >= 0)
        return on_upload(r, data, n);
    const size_t size = r->body_len + n;
    r->body_too_large |= size > r->body_max;
    if (!r->body_too_large && !r->body_refused)
        r->body_refused = !grow_body(r, size);
    if (r->body_too_large || r->body_refused) { // counted, not kept
        api_req_drop_body(r);
        r->body_len = size;
        return size > r->body_max + DISCARD_MAX ? MHD_NO : MHD_YES;
    }
    memcpy(r->body + r->body_len, data, n);
    r->body_len = size;
    r->body[size] = '\0';
    return MHD_YES;
}

static enum MHD_Result dispatch(struct api_req *r) {
    struct api_problem p = {0};
    api_conn_phase(r->srv, r->conn, API_PHASE_BUSY, 0);
    if (r->body_too_large) {
        too_large(r, r->upload_fd >= 0, &p);
        return api_send_problem(r, &p);
    }
    if (r->body_refused) {
        no_memory_for(&p);
        return api_send_problem(r, &p);
    }
    if (r->upload_failed)
        return api_send_error(r, 507, "storage",
                              "the upload could not be written: the disk is full, or fails");
    // What these change has no entity tag. Files and the page check their own on GET.
    if (strcmp(r->method, "GET") && strcmp(r->method, "HEAD") && api_precondition(r, ""))
        return api_send_error(r, 412, "precondition", "no such entity tag: there are none here");
    const unsigned later = API_WRITES | API_LONG | API_READS | (r->query.n ? API_LONG_ASKED : 0);
    return r->route->flags & later ? api_later_start(r) : r->route->fn(r);
}

static enum MHD_Result advance(struct api_req *r, const char *version, const char *upload_data,
                               size_t *upload_size) {
    enum MHD_Result rc;
    switch (r->state) {
    case API_REQ_NEW:
        r->state = API_REQ_BODY; // unless an answer is queued now
        rc = on_headers(r, version);
        r->early = false;
        return rc;
    case API_REQ_BODY:
        if (r->kept)
            return api_send_kept(r);
        if (*upload_size) {
            rc = on_data(r, upload_data, *upload_size);
            *upload_size = 0;
            return rc;
        }
        return dispatch(r);
    case API_REQ_WAITING:
        return r->gen ? api_gen_resume(r) : api_later_resume(r);
    case API_REQ_DONE:
        *upload_size = 0;
        return MHD_YES;
    }
    return MHD_NO;
}

enum MHD_Result api_req_handle(void *cls, struct MHD_Connection *c, const char *url,
                               const char *method, const char *version, const char *upload_data,
                               size_t *upload_size, void **req_cls) {
    struct api_req *r = *req_cls;
    (void)cls, (void)url;
    if (!r || !r->uri)
        return MHD_NO; // out of memory
    if (r->state == API_REQ_NEW) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        r->conn = info ? info->socket_context : NULL;
        r->method = method;
    }
    if (!r->conn)
        return MHD_NO;
    // Read before advance(): afterwards another thread may own the request.
    struct api_server *s = r->srv;
    const int w = r->conn->worker;
    if (w >= 0)
        atomic_store(&s->worker[w].busy_ns, api_now_ns());
    enum MHD_Result rc = advance(r, version, upload_data, upload_size);
    if (w >= 0)
        atomic_store(&s->worker[w].busy_ns, 0);
    return rc;
}
