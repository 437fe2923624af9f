// The request target (RFC 9112, 3.2): origin form "/path?query", absolute form
// "http://host/path?query", and "*" of OPTIONS. Called by request.c.
#include "api/gate.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

// Length of "http://" or "https://", 0 for another beginning.
static size_t scheme_length(const char *target) {
    return !strncasecmp(target, "http://", 7) ? 7 : !strncasecmp(target, "https://", 8) ? 8 : 0;
}

// Takes the authority of an absolute form; what remains is an origin form, or empty.
static const char *take_authority(struct api_req *r, const char *authority) {
    size_t n = strcspn(authority, "/?#");
    if (!n || memchr(authority, '@', n))
        return NULL;
    r->host = strndup(authority, n);
    return r->host ? authority + n : NULL;
}

int api_parse_target(struct api_req *r, struct api_problem *p) {
    char err[160];
    const char *target = r->uri;
    size_t scheme = scheme_length(target);
    if (scheme && !(target = take_authority(r, target + scheme)))
        return api_problem_set(p, 400, "bad-uri", "the request target needs a host and no user");
    if (!*target && scheme)
        target = strcmp(r->method, "OPTIONS") ? "/" : "*";
    if (!strcmp(target, "*") && !strcmp(r->method, "OPTIONS"))
        return (r->path = strdup("*")) ? 0 : api_problem_set(p, 500, "internal", "out of memory");
    const char *q = strchr(target, '?');
    size_t n = q ? (size_t)(q - target) : strlen(target);
    if (scheme && n == 0) { // "http://host?query"
        target = "/";
        n = 1;
    }
    if (target[0] != '/' || memchr(target, '#', n))
        return api_problem_set(
            p, 400, "bad-uri",
            "the request target must be a path, or http:// and a host before it");
    // What an encoded slash separates is no path of ours, but would be one once it is decoded: past
    // a proxy that allows some paths only.
    if (memmem(target, n, "%2f", 3) || memmem(target, n, "%2F", 3))
        return api_problem_set(p, 400, "bad-uri", "the path is not canonical");
    if (!(r->path = malloc(n + 1)))
        return api_problem_set(p, 500, "internal", "out of memory");
    if (api_percent_decode(r->path, target, n, false) || !api_valid_utf8(r->path)) {
        r->path[0] = '\0';
        return api_problem_set(p, 400, "bad-uri",
                               "malformed percent-encoding in the path (%%00 is never allowed)");
    }
    if (strstr(r->path, "/../") || strstr(r->path, "//") || strchr(r->path, '\\'))
        return api_problem_set(p, 400, "bad-uri", "the path is not canonical");
    if (api_query_parse(q ? q + 1 : NULL, &r->query, err, sizeof err))
        return api_problem_set(p, 400, "bad-query", "%s", err);
    return 0;
}
