// A request's data from creation to release, and its header fields (req.h).
#include "api/req.h"

#include "api/negotiate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

struct api_req *api_req_new(struct api_server *s, const char *uri, struct MHD_Connection *c) {
    struct api_req *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->srv = s;
    r->mhd = c;
    r->upload_fd = -1;
    r->start_ns = api_now_ns();
    r->uri = strdup(uri);
    uint64_t id = (atomic_fetch_add(&s->next_id, 1) + 1) * 0x9e3779b97f4a7c15u;
    snprintf(r->id, sizeof r->id, "%016llx", (unsigned long long)(id ^ s->id_salt));
    return r;
}

void api_req_free(struct api_req *r) {
    if (r->upload_fd >= 0)
        close(r->upload_fd);
    if (r->upload_path)
        unlink(r->upload_path);
    free(r->upload_path);
    if (r->file_closed)
        r->file_closed(r->file_arg);
    if (r->kept)
        MHD_destroy_response(r->kept);
    api_query_free(&r->query);
    free(r->uri);
    free(r->path);
    free(r->host);
    api_req_drop_body(r);
    free(r);
}

// Of the process and not of a server: the noise of a ticket may outlive its server.
static atomic_size_t held;

bool api_hold(struct api_req *r, size_t bytes) {
    if (bytes <= r->held)
        return true;
    const size_t more = bytes - r->held, all = atomic_fetch_add(&held, more) + more;
    if (bytes > API_BODY_SMALL + 1 && all > r->srv->cfg.max_held) {
        api_unhold(more);
        return false;
    }
    r->held = bytes;
    return true;
}

void api_unhold(size_t bytes) {
    atomic_fetch_sub(&held, bytes);
}

void api_req_drop_body(struct api_req *r) {
    free(r->body);
    r->body = NULL;
    r->body_cap = 0;
    api_unhold(r->held);
    r->held = 0;
}

// Bytes of a field's value without the white space behind it, which libmicrohttpd (0.9.75) leaves
// there and which is no part of it (RFC 9110, 5.5).
static size_t value_length(const char *v, size_t n) {
    while (n && (v[n - 1] == ' ' || v[n - 1] == '\t'))
        n--;
    return n;
}

const char *api_header(struct api_req *r, const char *name) {
    const char *v = NULL;
    size_t n = 0;
    if (MHD_lookup_connection_value_n(r->mhd, MHD_HEADER_KIND, name, strlen(name), &v, &n) !=
            MHD_YES ||
        !v)
        return NULL;
    const size_t length = value_length(v, n);
    if (length < n) // the connection's own memory, which outlives the request
        ((char *)(uintptr_t)v)[length] = '\0';
    return v;
}

struct lines {
    const char *name;
    struct api_text text;
};

static enum MHD_Result add_line(void *cls, enum MHD_ValueKind kind, const char *key,
                                size_t key_size, const char *value, size_t value_size) {
    struct lines *l = cls;
    (void)kind, (void)key_size;
    if (strcasecmp(key, l->name))
        return MHD_YES;
    if (l->text.s)
        api_text_add(&l->text, ", ", 2);
    api_text_add(&l->text, value ? value : "", value ? value_length(value, value_size) : 0);
    return MHD_YES;
}

char *api_header_list(struct api_req *r, const char *name) {
    struct lines l = {.name = name};
    MHD_get_connection_values_n(r->mhd, MHD_HEADER_KIND, add_line, &l);
    return l.text.s;
}

const char *api_host(struct api_req *r) {
    return r->host ? r->host : api_header(r, "Host");
}

bool api_accepts(struct api_req *r, const char *type) {
    char *accept = api_header_list(r, "Accept");
    const bool ok = api_media_accepted(accept, type);
    free(accept);
    return ok;
}

const char *api_prefix(struct api_req *r) {
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/";
    const char *p = api_header(r, "X-Forwarded-Prefix");
    size_t n = p ? strlen(p) : 0;
    bool ok = n > 1 && n <= API_PREFIX_MAX && p[0] == '/' && p[n - 1] != '/' && !strstr(p, "//") &&
              strspn(p, allowed) == n;
    return ok ? p : "";
}

int api_precondition(struct api_req *r, const char *etag) {
    char *match = api_header_list(r, "If-Match"), *none = api_header_list(r, "If-None-Match");
    const bool get = !strcmp(r->method, "GET") || !strcmp(r->method, "HEAD");
    const int status = match && !api_etag_listed(match, etag, true)   ? 412
                       : !none || !api_etag_listed(none, etag, false) ? 0
                       : get                                          ? 304
                                                                      : 412;
    free(match);
    free(none);
    return status;
}
