// The gate before a route's handler: request framing (smuggling forms), Host allow-list, cross-site
// requests. Called by request.c on MHD's worker threads, once per request.
#include "api/gate.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct header_scan {
    size_t bytes;
    int length, encoding, host;
    bool bad_name, bad_value;
    const char *length_value, *encoding_value, *host_value;
};

static bool token_char(unsigned char c) {
    return c > 32 && c < 127 && !strchr("()<>@,;:\\\"/[]?={}", c);
}

static enum MHD_Result scan_header(void *cls, enum MHD_ValueKind kind, const char *key,
                                   size_t key_size, const char *value, size_t value_size) {
    struct header_scan *h = cls;
    (void)kind;
    h->bytes += key_size + value_size + 4;
    for (size_t i = 0; i < key_size; i++)
        h->bad_name |= !token_char((unsigned char)key[i]);
    h->bad_name |= key_size == 0;
    for (size_t i = 0; i < value_size; i++)
        h->bad_value |= ((unsigned char)value[i] < 32 && value[i] != '\t') || value[i] == 127;
    if (!strcasecmp(key, "Content-Length")) {
        h->length++;
        h->length_value = value;
    } else if (!strcasecmp(key, "Transfer-Encoding")) {
        h->encoding++;
        h->encoding_value = value;
    } else if (!strcasecmp(key, "Host")) {
        h->host++;
        h->host_value = value;
    }
    return MHD_YES;
}

int api_check_framing(struct api_req *r, const char *version, struct api_problem *p) {
    struct header_scan h = {0};
    MHD_get_connection_values_n(r->mhd, MHD_HEADER_KIND, scan_header, &h);
    if (strlen(r->uri) > API_MAX_URI)
        return api_problem_set(p, 414, "uri-too-long", "the URI exceeds %d bytes", API_MAX_URI);
    if (h.bytes + strlen(r->uri) > API_MAX_URI)
        return api_problem_set(p, 431, "headers-too-large", "URI and headers exceed %d bytes",
                               API_MAX_URI);
    if (strcmp(version, "HTTP/1.1") && strcmp(version, "HTTP/1.0"))
        return api_problem_set(p, 400, "bad-framing", "only HTTP/1.1 and HTTP/1.0 are spoken");
    if (h.bad_name || h.bad_value)
        return api_problem_set(p, 400, "bad-framing", "malformed header field");
    if (h.length && h.encoding)
        return api_problem_set(p, 400, "bad-framing",
                               "both Content-Length and Transfer-Encoding are given");
    if (h.length > 1 || h.encoding > 1)
        return api_problem_set(p, 400, "bad-framing", "%s is given more than once",
                               h.length > 1 ? "Content-Length" : "Transfer-Encoding");
    if (h.length && (!*h.length_value || strlen(h.length_value) > 19 ||
                     strspn(h.length_value, "0123456789") != strlen(h.length_value)))
        return api_problem_set(p, 400, "bad-framing", "Content-Length is not a number");
    if (h.encoding && (strcasecmp(h.encoding_value, "chunked") || !strcmp(version, "HTTP/1.0")))
        return api_problem_set(p, 400, "bad-framing",
                               "the only Transfer-Encoding understood is chunked, in HTTP/1.1");
    if (h.host > 1)
        return api_problem_set(p, 400, "bad-host", "more than one Host header");
    return 0;
}

// "name:port" -> the part before the port, kept with the brackets of IPv6.
static size_t host_name_length(const char *host) {
    if (host[0] == '[') {
        const char *end = strchr(host, ']');
        return end ? (size_t)(end - host) + 1 : strlen(host);
    }
    const char *colon = strchr(host, ':');
    return colon ? (size_t)(colon - host) : strlen(host);
}

static bool port_matches(const char *port, const char *own) {
    return !strcmp(port, own) || (!*port && (!strcmp(own, ":80") || !strcmp(own, ":443")));
}

// A numeric address, with or without a port. No browser can be made to send one by DNS rebinding.
static bool is_numeric(const char *host) {
    struct in6_addr a;
    char ip[INET6_ADDRSTRLEN];
    size_t n = host_name_length(host);
    bool v6 = n > 2 && host[0] == '[' && host[n - 1] == ']';
    const char *port = host + n, *from = host + v6;
    n -= v6 ? 2 : 0;
    if (n >= sizeof ip || (*port && (*port != ':' || strspn(port + 1, "0123456789") > 5 ||
                                     port[1 + strspn(port + 1, "0123456789")])))
        return false;
    memcpy(ip, from, n);
    ip[n] = '\0';
    return inet_pton(v6 ? AF_INET6 : AF_INET, ip, &a) == 1;
}

int api_check_host(struct api_req *r, const char *version, struct api_problem *p) {
    const char *header = api_header(r, "Host"), *host = api_host(r);
    bool old = !strcmp(version, "HTTP/1.0");
    if (r->conn->is_unix)
        return 0;
    if (!header && !old)
        return api_problem_set(p, 400, "bad-host", "the Host header is missing");
    if (!host || (!*host && old)) // HTTP/1.0 needs none, and browsers do not speak it
        return 0;
    for (size_t i = 0; i < r->srv->nhosts; i++) {
        const char *own = r->srv->hosts[i];
        size_t n = host_name_length(own);
        if (!strncasecmp(host, own, n) && host_name_length(host) == n &&
            port_matches(host + n, own + n))
            return 0;
    }
    // Bound to every address: reached by one that only the client and its network know.
    if (r->conn->any_address && is_numeric(host))
        return 0;
    return api_problem_set(
        p, 403, "foreign-host",
        "Host `%.100s` is not one of this server; --allow-host takes further ones", host);
}

int api_check_origin(struct api_req *r, struct api_problem *p) {
    const char *site = api_header(r, "Sec-Fetch-Site"), *origin = api_header(r, "Origin");
    const char *host = api_host(r);
    if (!strcmp(r->method, "GET") || !strcmp(r->method, "HEAD") || !strcmp(r->method, "OPTIONS"))
        return 0;
    if (site && strcasecmp(site, "same-origin") && strcasecmp(site, "none"))
        return api_problem_set(p, 403, "cross-site", "cross-site requests are refused");
    if (!origin)
        return 0;
    const char *rest = strstr(origin, "://");
    bool scheme = !strncasecmp(origin, "http://", 7) || !strncasecmp(origin, "https://", 8);
    if (rest && scheme && host && !strcasecmp(rest + 3, host))
        return 0;
    return api_problem_set(p, 403, "cross-site", "Origin `%.100s` is not this server", origin);
}
