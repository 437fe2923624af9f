// A request's data from creation to release, and its header fields (req.h).
#include "api/req.h"

#include "api/negotiate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
    if (r->later_response)
        MHD_destroy_response(r->later_response);
    api_query_free(&r->query);
    free(r->uri);
    free(r->path);
    free(r->host);
    free(r->body);
    free(r);
}

const char *api_header(struct api_req *r, const char *name) {
    const char *v = NULL;
    size_t n = 0;
    if (MHD_lookup_connection_value_n(r->mhd, MHD_HEADER_KIND, name, strlen(name), &v, &n) !=
        MHD_YES)
        return NULL;
    return v;
}

const char *api_host(struct api_req *r) {
    return r->host ? r->host : api_header(r, "Host");
}

bool api_accepts(struct api_req *r, const char *type) {
    return api_media_accepted(api_header(r, "Accept"), type);
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
    const char *match = api_header(r, "If-Match"), *none = api_header(r, "If-None-Match");
    if (match && !api_etag_listed(match, etag, true))
        return 412;
    if (none && api_etag_listed(none, etag, false))
        return !strcmp(r->method, "GET") || !strcmp(r->method, "HEAD") ? 304 : 412;
    return 0;
}
