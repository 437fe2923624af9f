// Answers: every response of this server is queued here, so that each carries X-Request-Id,
// nosniff and a cache rule. Called on MHD's worker threads.
#include "api/api_priv.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum MHD_Result api_send(struct api_req *r, unsigned status, struct MHD_Response *resp) {
    if (!resp)
        return MHD_NO;
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

enum MHD_Result api_send_bytes(struct api_req *r, unsigned status, const char *type, void *bytes,
                               size_t n) {
    struct MHD_Response *resp = MHD_create_response_from_buffer(n, bytes, MHD_RESPMEM_MUST_FREE);
    if (!resp) {
        free(bytes);
        return MHD_NO;
    }
    MHD_add_response_header(resp, "Content-Type", type);
    return api_send(r, status, resp);
}

static struct MHD_Response *json_response(json_t *stolen, const char *type) {
    char *text = json_dumps(stolen, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(stolen);
    if (!text)
        return NULL;
    struct MHD_Response *resp =
        MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    if (!resp)
        free(text);
    else
        MHD_add_response_header(resp, "Content-Type", type);
    return resp;
}

enum MHD_Result api_send_json(struct api_req *r, unsigned status, json_t *stolen) {
    return api_send(r, status, json_response(stolen, "application/json"));
}

static void add_retry_after(struct MHD_Response *resp, double seconds) {
    char text[32];
    if (!(seconds > 0))
        return;
    // To the nearest: what is measured errs to both sides.
    snprintf(text, sizeof text, "%.0f", fmax(1, round(fmin(seconds, 86400))));
    MHD_add_response_header(resp, "Retry-After", text);
}

enum MHD_Result api_send_problem(struct api_req *r, const struct api_problem *p) {
    struct api_problem fixed = *p;
    if (fixed.status < 400 || fixed.status > 599)
        api_problem_set(&fixed, 500, "internal", "the request failed without a reason");
    if ((fixed.status == 429 || fixed.status == 503) && !(fixed.retry_after > 0))
        fixed.retry_after = 1; // these two always say when to come back
    struct MHD_Response *resp =
        json_response(api_problem_json(&fixed, r->id), "application/problem+json");
    if (!resp)
        return MHD_NO;
    add_retry_after(resp, fixed.retry_after);
    if (fixed.status == 401)
        MHD_add_response_header(resp, "WWW-Authenticate", "Bearer realm=\"driftd\"");
    return api_send(r, fixed.status, resp);
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

// The next page: the same query with another cursor.
static void add_link(struct api_req *r, struct MHD_Response *resp, const char *cursor) {
    char link[2048];
    int n = snprintf(link, sizeof link, "<%s?cursor=", r->path);
    for (const unsigned char *c = (const unsigned char *)cursor; *c && n < 1000; c++)
        n += snprintf(link + n, sizeof link - n, isalnum(*c) ? "%c" : "%%%02X", *c);
    for (size_t i = 0; i < r->query.n; i++) {
        const char *key = r->query.arg[i].key, *value = r->query.arg[i].value;
        if (!strcmp(key, "cursor") || strlen(value) > 200)
            continue;
        n += snprintf(link + n, sizeof link - n, "&%s=", key); // keys are known ones
        for (const unsigned char *c = (const unsigned char *)value; *c && n < 1900; c++)
            n += snprintf(link + n, sizeof link - n, isalnum(*c) ? "%c" : "%%%02X", *c);
    }
    snprintf(link + n, sizeof link - n, ">; rel=\"next\"");
    MHD_add_response_header(resp, "Link", link);
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
        resp = json_response(reply->body, "application/json");
    else
        resp = MHD_create_response_from_buffer(0, "", MHD_RESPMEM_PERSISTENT);
    if (!resp)
        return MHD_NO;
    if (!reply->body && status == 200)
        status = 204;
    if (reply->location[0])
        MHD_add_response_header(resp, "Location", reply->location);
    if (reply->replayed)
        MHD_add_response_header(resp, "Idempotency-Replayed", "true");
    if (reply->next_cursor[0])
        add_link(r, resp, reply->next_cursor);
    return api_send(r, status, resp);
}

// ---- content negotiation -----------------------------------------------------------------------

static bool media_match(const char *range, size_t n, const char *type) {
    const char *slash = strchr(type, '/');
    if (n == 3 && !strncmp(range, "*/*", 3))
        return true;
    if (n >= 2 && range[n - 1] == '*' && range[n - 2] == '/')
        return (size_t)(slash - type) == n - 2 && !strncasecmp(range, type, n - 2);
    return strlen(type) == n && !strncasecmp(range, type, n);
}

static double quality(const char *params, const char *end) {
    for (const char *s = params; s < end; s++)
        if (*s == ';') {
            while (++s < end && (*s == ' ' || *s == '\t'))
                ;
            if (end - s > 2 && (*s == 'q' || *s == 'Q') && s[1] == '=')
                return strtod(s + 2, NULL);
            s--;
        }
    return 1;
}

bool api_accepts(struct api_req *r, const char *type) {
    const char *p = api_header(r, "Accept");
    double best = -1;
    int best_rank = -1;
    if (!p || !*p)
        return true;
    while (*p) {
        p += strspn(p, " \t,");
        size_t len = strcspn(p, ","), n = strcspn(p, ",; \t");
        if (n && media_match(p, n, type)) { // the most specific range decides
            int rank = (n == 3 && *p == '*') ? 0 : p[n - 1] == '*' ? 1 : 2;
            if (rank > best_rank) {
                best_rank = rank;
                best = quality(p + n, p + len);
            }
        }
        p += len;
    }
    return best > 0;
}

// ---- files -------------------------------------------------------------------------------------

static bool etag_listed(const char *header, const char *etag) {
    char quoted[96];
    if (!header || !*etag)
        return false;
    snprintf(quoted, sizeof quoted, "\"%s\"", etag);
    return !strcmp(header, "*") || strstr(header, quoted);
}

static bool digits(const char *s, uint64_t *out, const char **end) {
    uint64_t v = 0;
    const char *p = s;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (v > UINT64_MAX / 10 - 10)
            return false;
        v = v * 10 + (uint64_t)(*p - '0');
    }
    *out = v;
    *end = p;
    return p > s;
}

// One byte range. 1: use [*from, *to]; 0: send all (absent, malformed or several); -1: 416.
static int parse_range(const char *h, uint64_t size, uint64_t *from, uint64_t *to) {
    const char *p;
    if (!h || strncasecmp(h, "bytes=", 6) || strchr(h, ','))
        return 0;
    h += 6;
    if (*h == '-') {
        uint64_t tail;
        if (!digits(h + 1, &tail, &p) || *p)
            return 0;
        if (!tail || !size)
            return -1;
        *from = tail < size ? size - tail : 0;
        *to = size - 1;
        return 1;
    }
    if (!digits(h, from, &p) || *p++ != '-')
        return 0;
    *to = UINT64_MAX;
    if (*p && (!digits(p, to, &p) || *p || *to < *from))
        return 0;
    if (*from >= size)
        return -1;
    if (*to >= size)
        *to = size - 1;
    return 1;
}

static void file_headers(struct MHD_Response *resp, const struct api_file *f) {
    char text[256];
    MHD_add_response_header(resp, "Content-Type",
                            f->content_type[0] ? f->content_type : "application/octet-stream");
    MHD_add_response_header(resp, "Accept-Ranges", "bytes");
    if (f->etag[0]) {
        snprintf(text, sizeof text, "\"%s\"", f->etag);
        MHD_add_response_header(resp, "ETag", text);
    }
    if (f->filename[0] && !strpbrk(f->filename, "\"\\\r\n")) {
        snprintf(text, sizeof text, "attachment; filename=\"%s\"", f->filename);
        MHD_add_response_header(resp, "Content-Disposition", text);
    }
    MHD_add_response_header(resp, "Cache-Control",
                            f->immutable ? "private, max-age=31536000, immutable" : "no-cache");
}

enum MHD_Result api_send_file(struct api_req *r, struct api_file *f) {
    struct MHD_Response *resp;
    char text[96];
    uint64_t from = 0, to = f->size - 1;
    if (etag_listed(api_header(r, "If-None-Match"), f->etag)) {
        close(f->fd);
        resp = MHD_create_response_from_buffer(0, "", MHD_RESPMEM_PERSISTENT);
        if (resp)
            file_headers(resp, f);
        return api_send(r, 304, resp);
    }
    const char *if_range = api_header(r, "If-Range");
    int ranged = if_range && !etag_listed(if_range, f->etag)
                     ? 0
                     : parse_range(api_header(r, "Range"), f->size, &from, &to);
    if (ranged < 0) {
        close(f->fd);
        struct api_problem p;
        api_problem_set(&p, 416, "range", "the range lies outside of the %llu bytes",
                        (unsigned long long)f->size);
        resp = json_response(api_problem_json(&p, r->id), "application/problem+json");
        snprintf(text, sizeof text, "bytes */%llu", (unsigned long long)f->size);
        if (resp)
            MHD_add_response_header(resp, "Content-Range", text);
        return api_send(r, 416, resp);
    }
    resp = MHD_create_response_from_fd_at_offset64(ranged ? to - from + 1 : f->size, f->fd,
                                                   ranged ? from : 0);
    if (!resp) {
        close(f->fd);
        return MHD_NO;
    }
    file_headers(resp, f);
    if (ranged) {
        snprintf(text, sizeof text, "bytes %llu-%llu/%llu", (unsigned long long)from,
                 (unsigned long long)to, (unsigned long long)f->size);
        MHD_add_response_header(resp, "Content-Range", text);
    }
    return api_send(r, ranged ? 206 : 200, resp);
}
