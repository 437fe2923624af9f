// HTTP of driftctl over libcurl: requests with a time limit, and problems on stderr. Ctrl-C ends a
// request within about a second (libcurl's progress callback), also where the server hangs.
#include "api/client/ctl.h"

#include <arpa/inet.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <unistd.h>

#define CONNECT_S 10.0
#define RATE_S 60.0      // that a token's rate is waited for where --timeout is not given
#define RATE_LEAST_S .05 // between two requests, whatever the server says

int ctl_buf_add(struct ctl_buf *b, const void *p, size_t n) {
    if (!b->s || b->n + n + 1 > b->cap) {
        size_t cap = (b->n + n + 1) * 2;
        char *s = realloc(b->s, cap);
        if (!s)
            return -1;
        b->s = s;
        b->cap = cap;
    }
    memcpy(b->s + b->n, p, n);
    b->n += n;
    b->s[b->n] = '\0';
    return 0;
}

void ctl_reply_free(struct ctl_reply *r) {
    free(r->body.s);
    memset(r, 0, sizeof *r);
}

int ctl_query(struct ctl_buf *path, const char *key, const char *value) {
    const char *sep = path->s && strchr(path->s, '?') ? "&" : "?";
    if (!value)
        return 0;
    char *v = curl_easy_escape(NULL, value, 0);
    int rc = !v || ctl_buf_add(path, sep, 1) || ctl_buf_add(path, key, strlen(key)) ||
             ctl_buf_add(path, "=", 1) || ctl_buf_add(path, v, strlen(v));
    curl_free(v);
    return rc ? -1 : 0;
}

struct ctl_buf ctl_path(const char *prefix, const char *id, const char *rest) {
    struct ctl_buf b = {0};
    char *v = curl_easy_escape(NULL, id, 0);
    ctl_buf_add(&b, prefix, strlen(prefix));
    ctl_buf_add(&b, v ? v : "", v ? strlen(v) : 0);
    ctl_buf_add(&b, rest, strlen(rest));
    curl_free(v);
    return b;
}

size_t ctl_on_body(char *p, size_t size, size_t n, void *arg) {
    struct ctl_reply *r = arg;
    return ctl_buf_add(&r->body, p, size * n) ? 0 : size * n;
}

static void keep(const char *line, size_t n, const char *name, char *out, size_t size) {
    size_t k = strlen(name);
    if (n <= k || strncasecmp(line, name, k) || line[k] != ':')
        return;
    const char *v = line + k + 1;
    while (v < line + n && *v == ' ')
        v++;
    size_t len = (size_t)(line + n - v);
    while (len && (v[len - 1] == '\r' || v[len - 1] == '\n'))
        len--;
    snprintf(out, size, "%.*s", (int)len, v);
}

size_t ctl_on_header(char *p, size_t size, size_t n, void *arg) {
    struct ctl_reply *r = arg;
    size_t len = size * n;
    char range[96] = "";
    if (len > 5 && !strncasecmp(p, "HTTP/", 5)) // after a 100 Continue, too
        r->total = r->first = 0;
    keep(p, len, "Content-Type", r->content_type, sizeof r->content_type);
    keep(p, len, "X-Request-Id", r->request_id, sizeof r->request_id);
    keep(p, len, "Location", r->location, sizeof r->location);
    keep(p, len, "ETag", r->etag, sizeof r->etag);
    keep(p, len, "Driftd-Seed", r->seed, sizeof r->seed);
    keep(p, len, "Driftd-Checkpoint", r->checkpoint, sizeof r->checkpoint);
    keep(p, len, "Driftd-Step", r->step, sizeof r->step);
    keep(p, len, "Driftd-Queue-Ms", r->queue_ms, sizeof r->queue_ms);
    keep(p, len, "Driftd-Compute-Ms", r->compute_ms, sizeof r->compute_ms);
    keep(p, len, "Driftd-Note", r->note, sizeof r->note);
    keep(p, len, "Content-Length", range, sizeof range);
    if (*range && !r->total)
        r->total = strtoull(range, NULL, 10);
    range[0] = '\0';
    keep(p, len, "Retry-After", range, sizeof range);
    if (*range)
        r->retry_after = strtod(range, NULL);
    range[0] = '\0';
    keep(p, len, "Content-Range", range, sizeof range);
    if (!strncmp(range, "bytes ", 6))
        r->first = strtoull(range + 6, NULL, 10);
    if (strchr(range, '/'))
        r->total = strtoull(strchr(range, '/') + 1, NULL, 10);
    return len;
}

// Whether the URL names this machine: its requests never go to a proxy, and neither does the token.
static bool is_loopback(const char *url) {
    CURLU *u = curl_url();
    char *host = NULL;
    struct in_addr v4;
    struct in6_addr v6;
    bool yes = false;
    if (u && !curl_url_set(u, CURLUPART_URL, url, CURLU_GUESS_SCHEME) &&
        !curl_url_get(u, CURLUPART_HOST, &host, 0)) {
        size_t n = strlen(host);
        if (n && host[n - 1] == '.')
            host[--n] = '\0';
        yes = !strcasecmp(host, "localhost") ||
              (n > 10 && !strcasecmp(host + n - 10, ".localhost")) ||
              (inet_pton(AF_INET, host, &v4) == 1 &&
               (ntohl(v4.s_addr) >> 24 == 127 || v4.s_addr == INADDR_ANY));
        if (!yes && *host == '[' && n > 2) {
            host[n - 1] = '\0';
            yes = inet_pton(AF_INET6, host + 1, &v6) == 1 &&
                  (IN6_IS_ADDR_LOOPBACK(&v6) || IN6_IS_ADDR_UNSPECIFIED(&v6) ||
                   (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127));
        }
    }
    curl_free(host);
    curl_url_cleanup(u);
    return yes;
}

bool ctl_is_local(const struct ctl *c) {
    return c->unix_path || is_loopback(c->url);
}

void ctl_set_proxy(CURL *h, const char *url, bool is_unix) {
    if (is_unix || is_loopback(url))
        curl_easy_setopt(h, CURLOPT_NOPROXY, "*");
}

static int on_tick(void *arg, curl_off_t a, curl_off_t b, curl_off_t d, curl_off_t e) {
    (void)arg, (void)a, (void)b, (void)d, (void)e;
    return ctl_interrupted();
}

void ctl_allow_time(struct ctl *c, double seconds) {
    if (!ctl_get(c, "timeout") && c->timeout < seconds)
        c->timeout = seconds;
}

CURL *ctl_handle(struct ctl *c, const char *path, struct curl_slist **headers) {
    CURL *h = curl_easy_init();
    struct ctl_buf url = {0};
    if (!h || !path || ctl_buf_add(&url, c->url, strlen(c->url)) ||
        ctl_buf_add(&url, path, strlen(path))) {
        curl_easy_cleanup(h);
        free(url.s);
        return NULL;
    }
    curl_easy_setopt(h, CURLOPT_URL, url.s);
    free(url.s);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_USERAGENT, "driftctl");
    double connect = c->timeout > 0 && c->timeout < CONNECT_S ? c->timeout : CONNECT_S;
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)(1000 * connect));
    curl_easy_setopt(h, CURLOPT_XFERINFOFUNCTION, on_tick);
    curl_easy_setopt(h, CURLOPT_NOPROGRESS, 0L);
    ctl_set_proxy(h, c->url, c->unix_path);
    if (c->unix_path)
        curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, c->unix_path);
    if (c->ca_file && *c->ca_file)
        curl_easy_setopt(h, CURLOPT_CAINFO, c->ca_file);
    if (c->token) {
        char *line = ctl_printf("Authorization: Bearer %s", c->token);
        *headers = curl_slist_append(*headers, line);
        free(line);
    }
    return h;
}

int ctl_unreachable(const struct ctl *c, CURLcode rc, bool quiet) {
    const char *server = ctl_safe(c->unix_path ? c->unix_path : c->url);
    if (!quiet && rc == CURLE_OPERATION_TIMEDOUT)
        fprintf(stderr, "driftctl: %s: no answer within %g s (--timeout)\n", server, c->timeout);
    else if (!quiet)
        fprintf(stderr, "driftctl: %s: %s\n", server, curl_easy_strerror(rc));
    return CTL_UNREACHABLE;
}

// Seconds until a token that has spent its rate may ask again; 0: another answer.
static double spent(const struct ctl_reply *r) {
    if (r->status != 429 || !r->body.n) // the answer to a HEAD has the header alone
        return r->status == 429 ? r->retry_after : 0;
    json_t *o = json_loadb(r->body.s, r->body.n, 0, NULL);
    const bool rate = !strcmp(ctl_str(o, "type"), "urn:driftd:problem:rate-limited");
    const double exact = ctl_num(o, "retry_after");
    json_decref(o);
    return !rate ? 0 : isfinite(exact) ? fmax(exact, RATE_LEAST_S) : r->retry_after;
}

// Waits for a rate. False after Ctrl-C.
static bool rest(struct ctl *c, double seconds) {
    if (!c->rate_said && !c->json)
        fprintf(stderr, "%sdriftctl: this token has spent its rate; going on at that rate\n",
                ctl_terminal(STDERR_FILENO) ? "\r\033[K" : "");
    c->rate_said = true;
    for (; seconds > 0 && !ctl_interrupted(); seconds -= 0.1)
        usleep((unsigned)(1e6 * fmin(seconds, 0.1)));
    return !ctl_interrupted();
}

CURLcode ctl_perform(struct ctl *c, CURL *h, struct ctl_reply *r, FILE *body) {
    double left = c->timeout <= 0         ? (double)INFINITY
                  : ctl_get(c, "timeout") ? c->timeout
                                          : fmax(c->timeout, RATE_S);
    for (;;) {
        if (body)
            rewind(body);
        const CURLcode rc = curl_easy_perform(h);
        curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &r->status);
        const double wait = spent(r);
        if (!(wait > 0) || wait > left || !rest(c, wait))
            return rc;
        left -= wait;
        ctl_reply_free(r);
    }
}

int ctl_http(struct ctl *c, const char *method, const char *path, const json_t *body,
             const char *const *headers, bool quiet, struct ctl_reply *out) {
    struct curl_slist *list = NULL;
    CURL *h = ctl_handle(c, path, &list);
    char *text = body ? json_dumps(body, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    memset(out, 0, sizeof *out);
    if (!h)
        return ctl_unreachable(c, CURLE_OUT_OF_MEMORY, quiet);
    for (; headers && *headers; headers++)
        list = curl_slist_append(list, *headers);
    if (text) {
        list = curl_slist_append(list, "Content-Type: application/json");
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, text);
    } else if (!strcmp(method, "POST")) {
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, "");
        list = curl_slist_append(list, "Content-Type:");
    }
    if (!strcmp(method, "HEAD"))
        curl_easy_setopt(h, CURLOPT_NOBODY, 1L);
    else
        curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)(1000 * c->timeout)); // 0: none
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, ctl_on_body);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, out);
    curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, ctl_on_header);
    curl_easy_setopt(h, CURLOPT_HEADERDATA, out);
    CURLcode rc = ctl_perform(c, h, out, NULL);
    curl_easy_cleanup(h);
    curl_slist_free_all(list);
    free(text);
    return rc ? ctl_unreachable(c, rc, quiet) : CTL_OK;
}

// Whether a sentence has the field, of "overrides.optim.lr" at least `lr`, and what is wrong with
// it.
static bool says(const char *detail, const json_t *error) {
    const char *field = ctl_str(error, "field"), *last = strrchr(field, '.');
    return strstr(detail, last ? last + 1 : field) && strstr(detail, ctl_str(error, "message"));
}

void ctl_print_problem(const struct ctl *c, const struct ctl_reply *r) {
    json_t *o = r->body.s ? json_loadb(r->body.s, r->body.n, 0, NULL) : NULL, *e;
    const char *detail = ctl_str(o, "detail");
    size_t i;
    if (c->json && json_is_object(o)) {
        ctl_json_text(stderr, r->body.s);
        json_decref(o);
        return;
    }
    fprintf(stderr, "driftctl: %s (HTTP %ld", *detail ? ctl_safe(detail) : "the server refused",
            r->status);
    if (*r->request_id)
        fprintf(stderr, ", request %s", ctl_safe(r->request_id));
    fprintf(stderr, ")\n");
    const json_t *errors = json_object_get(o, "errors");
    const bool said = json_array_size(errors) == 1 && says(detail, json_array_get(errors, 0));
    if (!said)
        json_array_foreach(errors, i, e) fprintf(
            stderr, "  %s: %s\n", ctl_safe(ctl_str(e, "field")), ctl_safe(ctl_str(e, "message")));
    if (json_is_number(json_object_get(o, "retry_after")))
        fprintf(stderr, "  try again in %.0f s\n",
                json_number_value(json_object_get(o, "retry_after")));
    json_decref(o);
}

int ctl_not_ours(const struct ctl *c, const struct ctl_reply *r, const char *expected) {
    fprintf(stderr, "driftctl: %s: expected %s, not this (%s); is the address driftd's?\n",
            ctl_safe(c->unix_path ? c->unix_path : c->url), expected,
            *r->content_type ? ctl_safe(r->content_type) : "without a type");
    return CTL_REFUSED;
}

bool ctl_is_page(const struct ctl_reply *r) {
    return !strncasecmp(r->content_type, "text/html", 9);
}

int ctl_verdict(const struct ctl *c, const struct ctl_reply *r) {
    if (r->status >= 200 && r->status < 300)
        return ctl_is_page(r) ? ctl_not_ours(c, r, "an answer of driftd") : CTL_OK;
    ctl_print_problem(c, r);
    return CTL_REFUSED;
}

int ctl_call(struct ctl *c, const char *method, const char *path, const json_t *body,
             const char *const *headers, struct ctl_reply *out) {
    int rc = ctl_http(c, method, path, body, headers, false, out);
    return rc ? rc : ctl_verdict(c, out);
}

int ctl_answer(const struct ctl *c, const struct ctl_reply *r, const char *member, json_t **out) {
    json_t *o = r->body.n ? json_loadb(r->body.s, r->body.n, 0, NULL) : NULL;
    const json_t *v = member ? json_object_get(o, member) : NULL;
    const bool has = !member || json_is_array(v) || json_string_length(v);
    int rc = CTL_OK;
    if ((!json_is_object(o) || !has) && (out || r->status != 204)) {
        char *expected = ctl_printf(member ? "JSON with `%s`" : "JSON", member);
        rc = ctl_not_ours(c, r, expected);
        free(expected);
    }
    if (out)
        *out = rc ? NULL : json_incref(o);
    json_decref(o);
    return rc;
}

static int get(struct ctl *c, const char *path, const char *member, json_t **out) {
    struct ctl_reply r;
    *out = NULL;
    int rc = ctl_call(c, "GET", path, NULL, NULL, &r);
    if (!rc)
        rc = ctl_answer(c, &r, member, out);
    ctl_reply_free(&r);
    return rc;
}

int ctl_get_json(struct ctl *c, const char *path, json_t **out) {
    return get(c, path, NULL, out);
}

int ctl_get_list(struct ctl *c, const char *path, const char *key, json_t **out) {
    int rc = get(c, path, key, out);
    const json_t *page = rc ? NULL : *out;
    json_t *more = NULL;
    while (!rc && ctl_get(c, "all") && *ctl_str(page, "next_cursor")) {
        struct ctl_buf next = {0};
        json_t *got;
        ctl_buf_add(&next, path, strlen(path));
        ctl_query(&next, "cursor", ctl_str(page, "next_cursor"));
        rc = get(c, next.s, key, &got);
        free(next.s);
        if (!rc)
            json_array_extend(json_object_get(*out, key), json_object_get(got, key));
        json_decref(more);
        page = more = rc ? NULL : got;
    }
    json_decref(more);
    if (!rc && ctl_get(c, "all"))
        json_object_del(*out, "next_cursor");
    else if (!rc && !c->json && *ctl_str(*out, "next_cursor"))
        fprintf(stderr, "driftctl: there are more; --all shows them\n");
    else if (rc) {
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}

int ctl_create(struct ctl *c, const char *path, const json_t *body, struct ctl_reply *out) {
    uint64_t id[2] = {0};
    const char *key = ctl_get(c, "key");
    if (getrandom(id, sizeof id, 0) != sizeof id)
        id[0] = (uint64_t)getpid();
    char *line = key ? ctl_printf("Idempotency-Key: %s", key)
                     : ctl_printf("Idempotency-Key: driftctl-%016llx%016llx",
                                  (unsigned long long)id[0], (unsigned long long)id[1]);
    const char *const headers[] = {line, NULL};
    int rc = CTL_UNREACHABLE;
    for (int attempt = 0; attempt < 3 && rc == CTL_UNREACHABLE; attempt++) {
        if (attempt) {
            ctl_reply_free(out);
            usleep(150000u << attempt);
        }
        rc = ctl_http(c, "POST", path, body, headers, attempt < 2, out);
    }
    free(line);
    return rc ? rc : ctl_verdict(c, out);
}
