// HTTP of driftctl over libcurl: requests, problems on stderr, downloads that resume, uploads.
#include "api/client/ctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

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

static size_t on_body(char *p, size_t size, size_t n, void *arg) {
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

static size_t on_header(char *p, size_t size, size_t n, void *arg) {
    struct ctl_reply *r = arg;
    size_t len = size * n;
    char range[96] = "";
    keep(p, len, "Content-Type", r->content_type, sizeof r->content_type);
    keep(p, len, "X-Request-Id", r->request_id, sizeof r->request_id);
    keep(p, len, "Location", r->location, sizeof r->location);
    keep(p, len, "ETag", r->etag, sizeof r->etag);
    keep(p, len, "Driftd-Seed", r->seed, sizeof r->seed);
    keep(p, len, "Driftd-Checkpoint", r->checkpoint, sizeof r->checkpoint);
    keep(p, len, "Driftd-Step", r->step, sizeof r->step);
    keep(p, len, "Driftd-Queue-Ms", r->queue_ms, sizeof r->queue_ms);
    keep(p, len, "Driftd-Compute-Ms", r->compute_ms, sizeof r->compute_ms);
    keep(p, len, "Content-Length", range, sizeof range);
    if (*range && !r->total)
        r->total = strtoull(range, NULL, 10);
    range[0] = '\0';
    keep(p, len, "Content-Range", range, sizeof range);
    if (strchr(range, '/'))
        r->total = strtoull(strchr(range, '/') + 1, NULL, 10);
    return len;
}

CURL *ctl_handle(struct ctl *c, const char *path, struct curl_slist **headers) {
    CURL *h = curl_easy_init();
    struct ctl_buf url = {0};
    if (!h || ctl_buf_add(&url, c->url, strlen(c->url)) || ctl_buf_add(&url, path, strlen(path))) {
        curl_easy_cleanup(h);
        free(url.s);
        return NULL;
    }
    curl_easy_setopt(h, CURLOPT_URL, url.s);
    free(url.s);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_USERAGENT, "driftctl");
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, 10000L);
    if (c->unix_path)
        curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, c->unix_path);
    if (c->ca_file && *c->ca_file)
        curl_easy_setopt(h, CURLOPT_CAINFO, c->ca_file);
    if (c->token) {
        char line[4200];
        snprintf(line, sizeof line, "Authorization: Bearer %s", c->token);
        *headers = curl_slist_append(*headers, line);
    }
    return h;
}

static int unreachable(struct ctl *c, CURLcode rc, bool quiet) {
    if (!quiet)
        fprintf(stderr, "driftctl: %s: %s\n", c->unix_path ? c->unix_path : c->url,
                curl_easy_strerror(rc));
    return CTL_UNREACHABLE;
}

int ctl_http(struct ctl *c, const char *method, const char *path, const json_t *body,
             const char *const *headers, bool quiet, struct ctl_reply *out) {
    struct curl_slist *list = NULL;
    CURL *h = ctl_handle(c, path, &list);
    char *text = body ? json_dumps(body, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    memset(out, 0, sizeof *out);
    if (!h)
        return unreachable(c, CURLE_OUT_OF_MEMORY, quiet);
    for (; headers && *headers; headers++)
        list = curl_slist_append(list, *headers);
    if (text) {
        list = curl_slist_append(list, "Content-Type: application/json");
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, text);
    } else if (!strcmp(method, "POST")) {
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, "");
        list = curl_slist_append(list, "Content-Type:");
    }
    curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, out);
    curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(h, CURLOPT_HEADERDATA, out);
    CURLcode rc = curl_easy_perform(h);
    curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &out->status);
    curl_easy_cleanup(h);
    curl_slist_free_all(list);
    free(text);
    return rc ? unreachable(c, rc, quiet) : CTL_OK;
}

void ctl_print_problem(const struct ctl *c, const struct ctl_reply *r) {
    json_t *o = r->body.s ? json_loadb(r->body.s, r->body.n, 0, NULL) : NULL, *e;
    const char *detail = ctl_str(o, "detail");
    size_t i;
    if (c->json && json_is_object(o)) {
        fprintf(stderr, "%s\n", r->body.s);
        json_decref(o);
        return;
    }
    fprintf(stderr, "driftctl: %s (HTTP %ld", *detail ? detail : "the server refused", r->status);
    if (*r->request_id)
        fprintf(stderr, ", request %s", r->request_id);
    fprintf(stderr, ")\n");
    json_array_foreach(json_object_get(o, "errors"), i, e)
        fprintf(stderr, "  %s: %s\n", ctl_str(e, "field"), ctl_str(e, "message"));
    if (json_is_number(json_object_get(o, "retry_after")))
        fprintf(stderr, "  try again in %.0f s\n",
                json_number_value(json_object_get(o, "retry_after")));
    json_decref(o);
}

int ctl_call(struct ctl *c, const char *method, const char *path, const json_t *body,
             const char *const *headers, struct ctl_reply *out) {
    int rc = ctl_http(c, method, path, body, headers, false, out);
    if (rc || (out->status >= 200 && out->status < 300))
        return rc;
    ctl_print_problem(c, out);
    return CTL_REFUSED;
}

int ctl_get_json(struct ctl *c, const char *path, json_t **out) {
    struct ctl_reply r;
    json_error_t e;
    *out = NULL;
    int rc = ctl_call(c, "GET", path, NULL, NULL, &r);
    if (!rc && !(*out = json_loadb(r.body.s ? r.body.s : "", r.body.n, 0, &e))) {
        fprintf(stderr, "driftctl: the server did not answer with JSON: %s\n", e.text);
        rc = CTL_REFUSED;
    }
    ctl_reply_free(&r);
    return rc;
}

int ctl_get_list(struct ctl *c, const char *path, const char *key, json_t **out) {
    int rc = ctl_get_json(c, path, out);
    const json_t *page = rc ? NULL : *out;
    json_t *more = NULL;
    while (!rc && ctl_get(c, "all") && *ctl_str(page, "next_cursor")) {
        struct ctl_buf next = {0};
        json_t *got;
        ctl_buf_add(&next, path, strlen(path));
        ctl_query(&next, "cursor", ctl_str(page, "next_cursor"));
        rc = ctl_get_json(c, next.s, &got);
        free(next.s);
        if (!rc)
            json_array_extend(json_object_get(*out, key), json_object_get(got, key));
        json_decref(more);
        page = more = rc ? NULL : got;
    }
    json_decref(more);
    if (!rc && ctl_get(c, "all"))
        json_object_del(*out, "next_cursor");
    else if (rc) {
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}

// ---- files
// ---------------------------------------------------------------------------------------

enum { AGAIN = -1 }; // the part was another file's: once more from the beginning

struct transfer {
    struct ctl_reply reply;
    CURL *h;
    FILE *f;
    const char *label;
    uint64_t start; // bytes that were there before
    bool tty, failed;
};

static size_t on_file(char *p, size_t size, size_t n, void *arg) {
    struct transfer *t = arg;
    long status = 0;
    curl_easy_getinfo(t->h, CURLINFO_RESPONSE_CODE, &status);
    if (status < 200 || status > 299)
        return on_body(p, size, n, &t->reply);
    if (status == 200 && t->start) { // the server sends all of it again
        if (fflush(t->f) || ftruncate(fileno(t->f), 0) || fseeko(t->f, 0, SEEK_SET))
            t->failed = true;
        t->start = 0;
    }
    if (t->failed || fwrite(p, size, n, t->f) != n) {
        t->failed = true;
        return 0;
    }
    return size * n;
}

static int on_progress(void *arg, curl_off_t total, curl_off_t now, curl_off_t up_total,
                       curl_off_t up_now) {
    struct transfer *t = arg;
    char a[32], b[32], bar[64];
    if (up_total > 0) {
        total = up_total;
        now = up_now;
    }
    if (t->tty && total > 0) {
        double all = (double)total + (double)t->start, done = (double)now + (double)t->start;
        ctl_bar(bar, sizeof bar, 30, done / all);
        fprintf(stderr, "\r%s [%s] %s of %s \033[K", t->label, bar, ctl_bytes(done, a, sizeof a),
                ctl_bytes(all, b, sizeof b));
    }
    return ctl_interrupted();
}

static void set_transfer(struct transfer *t, struct ctl *c) {
    t->tty = isatty(STDERR_FILENO) && !c->json;
    curl_easy_setopt(t->h, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(t->h, CURLOPT_HEADERDATA, &t->reply);
    curl_easy_setopt(t->h, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(t->h, CURLOPT_XFERINFODATA, t);
    curl_easy_setopt(t->h, CURLOPT_NOPROGRESS, 0L);
}

// A part left by another download may have been continued: what came must have the sha256 that the
// server calls it by.
static bool is_whole(const struct transfer *t, const char *part) {
    char want[80], have[65];
    snprintf(want, sizeof want, "%.*s", (int)strcspn(t->reply.etag + 1, "\""), t->reply.etag + 1);
    if (*t->reply.etag != '"' || strlen(want) != 64 || strspn(want, "0123456789abcdef") != 64)
        return true;
    return !ctl_sha256_file(part, have) && !strcmp(have, want);
}

static int finish_download(struct transfer *t, struct ctl *c, CURLcode rc, const char *part,
                           const char *file) {
    bool bad = fclose(t->f) || t->failed;
    if (t->tty)
        fprintf(stderr, "\r\033[K");
    if (bad) {
        fprintf(stderr, "driftctl: %s: %s\n", part, strerror(errno));
        return CTL_REFUSED;
    }
    if (rc && rc != CURLE_WRITE_ERROR)
        return unreachable(c, rc, false);
    if (t->reply.status < 200 || t->reply.status > 299) {
        ctl_print_problem(c, &t->reply);
        return CTL_REFUSED;
    }
    if (!is_whole(t, part)) {
        unlink(part);
        if (t->start)
            return AGAIN;
        fprintf(stderr, "driftctl: %s: the sha256 is wrong\n", file);
        return CTL_REFUSED;
    }
    if (rename(part, file)) {
        fprintf(stderr, "driftctl: %s: %s\n", file, strerror(errno));
        return CTL_REFUSED;
    }
    return CTL_OK;
}

static int download(struct ctl *c, const char *method, const char *path, const char *file) {
    char part[4096], range[32];
    struct transfer t = {.label = file};
    struct curl_slist *list = NULL;
    bool resume = !strcmp(method, "GET");
    snprintf(part, sizeof part, "%s.part", file);
    t.f = fopen(part, resume ? "ab" : "wb");
    if (!t.f || !(t.h = ctl_handle(c, path, &list))) {
        fprintf(stderr, "driftctl: %s: %s\n", part, strerror(errno));
        if (t.f)
            fclose(t.f);
        return CTL_REFUSED;
    }
    fseeko(t.f, 0, SEEK_END);
    t.start = (uint64_t)ftello(t.f);
    if (t.start) {
        snprintf(range, sizeof range, "%llu-", (unsigned long long)t.start);
        curl_easy_setopt(t.h, CURLOPT_RANGE, range);
    }
    set_transfer(&t, c);
    if (!resume) {
        curl_easy_setopt(t.h, CURLOPT_POSTFIELDS, "");
        list = curl_slist_append(list, "Content-Type:");
    }
    curl_easy_setopt(t.h, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(t.h, CURLOPT_WRITEFUNCTION, on_file);
    curl_easy_setopt(t.h, CURLOPT_WRITEDATA, &t);
    CURLcode rc = curl_easy_perform(t.h);
    curl_easy_getinfo(t.h, CURLINFO_RESPONSE_CODE, &t.reply.status);
    curl_easy_cleanup(t.h);
    curl_slist_free_all(list);
    if (t.reply.status == 416 && t.reply.total == t.start) // it was complete already
        t.reply.status = 200;
    int out = finish_download(&t, c, rc, part, file);
    ctl_reply_free(&t.reply);
    return out;
}

int ctl_download(struct ctl *c, const char *method, const char *path, const char *file) {
    int rc = download(c, method, path, file);
    return rc == AGAIN ? download(c, method, path, file) : rc;
}

int ctl_upload(struct ctl *c, const char *path, const char *file, struct ctl_reply *out) {
    struct transfer t = {.label = file};
    struct curl_slist *list = NULL;
    struct stat st;
    memset(out, 0, sizeof *out);
    t.f = fopen(file, "rbe");
    if (!t.f || fstat(fileno(t.f), &st) || !(t.h = ctl_handle(c, path, &list))) {
        fprintf(stderr, "driftctl: %s: %s\n", file, strerror(errno));
        if (t.f)
            fclose(t.f);
        return CTL_REFUSED;
    }
    list = curl_slist_append(list, "Content-Type: application/octet-stream");
    set_transfer(&t, c);
    curl_easy_setopt(t.h, CURLOPT_POST, 1L);
    curl_easy_setopt(t.h, CURLOPT_READDATA, t.f);
    curl_easy_setopt(t.h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)st.st_size);
    curl_easy_setopt(t.h, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(t.h, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(t.h, CURLOPT_WRITEDATA, &t.reply);
    CURLcode rc = curl_easy_perform(t.h);
    curl_easy_getinfo(t.h, CURLINFO_RESPONSE_CODE, &t.reply.status);
    curl_easy_cleanup(t.h);
    curl_slist_free_all(list);
    fclose(t.f);
    if (t.tty)
        fprintf(stderr, "\r\033[K");
    *out = t.reply;
    if (rc && !out->status)
        return unreachable(c, rc, false);
    if (out->status >= 200 && out->status < 300)
        return CTL_OK;
    ctl_print_problem(c, out);
    return CTL_REFUSED;
}
