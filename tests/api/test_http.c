// The HTTP surface against a fake daemon: status codes, problems, the gate (Host, Origin,
// framing), limits, every route of the table.
#include "api/gate.h"
#include "api/routes.h"
#include "expect.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

static struct fake f;

static void quick_limits(struct api_config *c) {
    c->header_timeout_ms = 1200;
    c->body_timeout_ms = 1200;
    c->max_upload = 100000;
}

static int setup(void **state) {
    (void)state;
    fake_start(&f, quick_limits);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fake_stop(&f);
    return 0;
}

static const char *field(json_t *o, size_t i, const char *key) {
    return json_string_value(json_object_get(json_array_get(json_object_get(o, "errors"), i), key));
}

// The route's path, with something in the place of what is in braces.
static void target_of(const struct api_route *r, char *target, size_t size) {
    const char *at = strstr(r->path, "{id}");
    if (at)
        snprintf(target, size, "%.*sj1%s", (int)(at - r->path), r->path, at + 4);
    else
        snprintf(target, size, "%s", r->path);
    char *name = strstr(target, "{name}");
    if (name)
        snprintf(name, 2, "a");
}

static void test_every_route(void **state) {
    (void)state;
    for (size_t i = 0; i < api_nroutes; i++) {
        const struct api_route *r = &api_routes[i];
        char target[200];
        const char *at = strstr(r->path, "{id}");
        target_of(r, target, sizeof target);
        if (!strcmp(r->produces, "text/event-stream"))
            continue; // test_sse.c
        const char *body = NULL, *type = NULL;
        if (r->body != API_BODY_NONE) {
            type = r->body == API_BODY_BYTES ? "Content-Type: application/octet-stream\r\n"
                                             : "Content-Type: application/json\r\n";
            body = !strcmp(target, "/v1/jobs")          ? "{\"config\":\"digits\"}"
                   : !strcmp(target, "/v1/checkpoints") ? "{\"path\":\"a\"}"
                   : !strcmp(target, "/v1/datasets")    ? "{\"name\":\"a\"}"
                   : strstr(target, "/images/")         ? "{\"prompt\":\"3\"}"
                   : !strcmp(target, "/v1/served")      ? "{\"checkpoint\":\"auto\"}"
                   : strstr(target, "generations")      ? "{\"prompt\":\"random\"}"
                                                        : "{}";
        }
        struct reply got = http_do(&f, r->method, target, type, body);
        int want = r->status;
        if (!strcmp(r->method, "DELETE") && at)
            want = 409;
        if (strstr(r->path, "/evals") || strstr(r->path, "/backups") ||
            strstr(r->path, "/sweeps")) // which the fake has not
            want = 501;
        if (got.status != want)
            print_error("%s %s: %d %s\n", r->method, target, got.status, got.body);
        expect(got, want);
    }
}

// Behind the header of the answer to HEAD comes the next answer, or the end.
static void test_head(void **state) {
    (void)state;
    size_t asked = 0;
    for (size_t i = 0; i < api_nroutes; i++) {
        const struct api_route *route = &api_routes[i];
        char target[200], raw[600];
        target_of(route, target, sizeof target);
        if (strcmp(route->method, "GET"))
            continue;
        const int n = snprintf(raw, sizeof raw,
                               "HEAD %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"
                               "GET /livez HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                               "Connection: close\r\n\r\n",
                               target, f.port, f.port);
        char got[4000] = "";
        const int fd = http_connect(&f);
        assert_int_equal(write(fd, raw, (size_t)n), n);
        assert_false(read_until(fd, got, sizeof got, "the end", 60000));
        close(fd);
        const char *rest = strstr(got, "\r\n\r\n");
        assert_non_null(rest);
        if (rest[4] && strncmp(rest + 4, "HTTP/1.1 200", 12))
            print_error("HEAD %s: %s\n", target, got);
        assert_true(!rest[4] || !strncmp(rest + 4, "HTTP/1.1 200", 12));
        const int status = atoi(got + 9);
        assert_true(status == (route->flags & API_NO_HEAD ? 405 : 200) || status == 501);
        asked++;
    }
    assert_true(asked > 20);
    struct reply r = http_do(&f, "HEAD", "/v1/jobs/j1/metrics?format=csv", NULL, NULL);
    assert_string_equal(reply_header(&r, "Content-Type"), "text/csv; charset=utf-8");
    assert_null(reply_header(&r, "Content-Length"));
    assert_int_equal(r.body_len, 0);
    expect(r, 200);
}

static void test_openapi_matches_routes(void **state) {
    (void)state;
    struct reply r = http_do(&f, "GET", "/openapi.json", NULL, NULL);
    json_t *doc = json_loadb(r.body, r.body_len, 0, NULL), *item, *op;
    const char *path, *method;
    size_t listed = 0;
    assert_non_null(doc);
    for (size_t i = 0; i < api_nroutes; i++) {
        char lower[8] = "";
        for (size_t k = 0; api_routes[i].method[k]; k++)
            lower[k] = (char)(api_routes[i].method[k] | 0x20);
        item = json_object_get(json_object_get(doc, "paths"), api_routes[i].path);
        assert_non_null(json_object_get(item, lower));
    }
    json_object_foreach(json_object_get(doc, "paths"), path, item)
        json_object_foreach(item, method, op) listed++;
    assert_int_equal(listed, api_nroutes);
    assert_string_equal(json_string_value(json_object_get(doc, "openapi")), "3.1.0");
    json_decref(doc);
    reply_free(&r);
}

static void test_methods(void **state) {
    (void)state;
    struct reply r = http_do(&f, "DELETE", "/v1/jobs", NULL, NULL);
    assert_string_equal(reply_header(&r, "Allow"), "GET, HEAD, POST, OPTIONS");
    expect_problem(r, 405, "method-not-allowed");
    r = http_do(&f, "FROB", "/v1/jobs", NULL, NULL);
    expect_problem(r, 405, "method-not-allowed");
    r = http_do(&f, "OPTIONS", "/v1/jobs/j1", "Origin: http://evil.example\r\n", NULL);
    assert_string_equal(reply_header(&r, "Allow"), "GET, HEAD, PATCH, DELETE, OPTIONS");
    assert_null(reply_header(&r, "Access-Control-Allow-Origin"));
    expect(r, 204);
    r = http_do(&f, "OPTIONS", "*", NULL, NULL);
    expect(r, 204);
    r = http_do(&f, "HEAD", "/v1/jobs", NULL, NULL);
    assert_int_equal(r.body_len, 0);
    expect(r, 200);
    r = http_do(&f, "HEAD", "/v1/generate", NULL, NULL);
    assert_non_null(strstr(reply_header(&r, "Allow"), "GET, POST"));
    expect(r, 405);
    expect_problem(http_do(&f, "GET", "/v2/nothing", NULL, NULL), 404, "not-found");
    expect_problem(http_do(&f, "GET", "/v1/jobs/no", NULL, NULL), 404, "not-found");
    expect_problem(http_do(&f, "GET", "/v1/jobs/..", NULL, NULL), 404, "not-found");
    expect(http_do(&f, "DELETE", "/v1/jobs/j2", NULL, NULL), 204);
}

static void test_query(void **state) {
    (void)state;
    json_t *o = expect_problem(http_do(&f, "POST", "/generate?clas=3", NULL, NULL), 400,
                               "unknown-parameter");
    assert_string_equal(field(o, 0, "field"), "clas");
    assert_non_null(strstr(field(o, 0, "message"), "`class`"));
    // Quoted up to 40 bytes, here within a character: what is whole stays.
    o = expect_problem(
        http_do(&f, "GET", "/generate?format=%C3%BC2345678901234567890123456789012345678%C3%9Fe",
                NULL, NULL),
        422, "invalid-value");
    assert_non_null(strstr(field(o, 0, "message"), "`\u00fc2345678"));
    assert_non_null(strstr(field(o, 0, "message"), "\ufffd` is not one of"));
    o = expect_problem(http_do(&f, "GET", "/v1/status?x=1", NULL, NULL), 400, "unknown-parameter");
    assert_non_null(strstr(field(o, 0, "message"), "takes none"));
    expect_problem(http_do(&f, "GET", "/v1/jobs?limit=1&limit=2", NULL, NULL), 400, "bad-query");
    expect_problem(http_do(&f, "GET", "/v1/jobs?state=%00", NULL, NULL), 400, "bad-query");
    expect_problem(http_do(&f, "GET", "/v1/jobs?state=%zz", NULL, NULL), 400, "bad-query");
    expect_problem(http_do(&f, "GET", "/v1/jobs?state=%ff", NULL, NULL), 400, "bad-query");
    expect_problem(http_do(&f, "GET", "/v1/jobs/%00", NULL, NULL), 400, "bad-uri");
    expect_problem(http_do(&f, "GET", "/v1/../etc/passwd", NULL, NULL), 400, "bad-uri");
    expect_problem(http_do(&f, "GET", "/v1/%2e%2e/etc/passwd", NULL, NULL), 400, "bad-uri");
    // an encoded slash is none
    expect_problem(http_do(&f, "GET", "/v1%2Fjobs", NULL, NULL), 400, "bad-uri");
    expect_problem(http_do(&f, "GET", "/v1/jobs%2fj1", NULL, NULL), 400, "bad-uri");
    expect(http_do(&f, "GET", "/v1/jobs?cursor=a%2Fb", NULL, NULL), 200);
    expect_problem(http_do(&f, "GET", "http://evil.example/v1/jobs", NULL, NULL), 403,
                   "foreign-host");
    o = expect_problem(http_do(&f, "GET", "/v1/jobs?limit=0", NULL, NULL), 422, "invalid-value");
    assert_string_equal(field(o, 0, "field"), "limit");
    expect(http_do(&f, "GET", "/v1/jobs?limit=7&state=running", NULL, NULL), 200);
    assert_int_equal(f.last_limit, 7);
}

static void test_list_link(void **state) {
    (void)state;
    char target[400], state_of[301] = "";
    memset(state_of, 'x', 300); // a filter of any length stays in the link
    snprintf(target, sizeof target, "/v1/jobs?state=%s", state_of);
    struct reply long_one = http_do(&f, "GET", target, NULL, NULL);
    assert_non_null(strstr(reply_header(&long_one, "Link"), state_of));
    expect(long_one, 200);
    struct reply r = http_do(&f, "GET", "/v1/jobs?limit=7", NULL, NULL);
    assert_string_equal(reply_header(&r, "Link"), "</v1/jobs?cursor=a%20b&limit=7>; rel=\"next\"");
    assert_non_null(strstr(r.body, "\"next_cursor\":\"a b\""));
    expect(r, 200);
    r = http_do(&f, "GET", "/v1/jobs?cursor=a%20b", NULL, NULL);
    assert_null(reply_header(&r, "Link"));
    expect(r, 200);
}

static void test_job_create(void **state) {
    (void)state;
    struct reply r = http_do(&f, "POST", "/v1/jobs", JSON_TYPE "Idempotency-Key: k1\r\n",
                             "{\"config\":\"digits\",\"overrides\":{\"optim.lr\":0.1}}");
    assert_string_equal(reply_header(&r, "Location"), "/v1/jobs/j1");
    expect(r, 201);
    assert_string_equal(f.last_key, "k1");
    r = http_do(&f, "POST", "/v1/jobs", JSON_TYPE "Idempotency-Key: k1\r\n",
                "{ \"overrides\":{\"optim.lr\":0.1}, \"config\":\"digits\"}");
    assert_string_equal(reply_header(&r, "Idempotency-Replayed"), "true");
    expect(r, 201);
    expect_problem(http_do(&f, "POST", "/v1/jobs", JSON_TYPE "Idempotency-Key: k1\r\n",
                           "{\"config\":\"digits\"}"),
                   422, "idempotency");
    expect_problem(http_do(&f, "POST", "/v1/jobs", JSON_TYPE "Idempotency-Key: a b\r\n",
                           "{\"config\":\"digits\"}"),
                   400, "bad-idempotency-key");
    json_t *o = expect_problem(http_do(&f, "POST", "/v1/jobs", JSON_TYPE, "{\"confg\":1}"), 422,
                               "invalid-value");
    assert_non_null(strstr(field(o, 0, "message"), "`config`"));
    o = expect_problem(
        http_do(&f, "POST", "/v1/jobs", JSON_TYPE, "{\"priority\":1.5,\"overrides\":[]}"), 422,
        "invalid-value");
    assert_int_equal(json_array_size(json_object_get(o, "errors")), 3);
    expect_problem(http_do(&f, "POST", "/v1/jobs", JSON_TYPE, "{\"config\":"), 400,
                   "malformed-json");
    expect_problem(http_do(&f, "POST", "/v1/jobs", JSON_TYPE, "{\"config\":1,\"config\":2}"), 400,
                   "malformed-json");
    expect_problem(http_do(&f, "POST", "/v1/jobs", JSON_TYPE, "[]"), 422, "invalid-value");
    expect_problem(http_do(&f, "POST", "/v1/jobs", "Content-Type: text/plain\r\n", "{}"), 415,
                   "unsupported-media-type");
    expect_problem(http_do(&f, "POST", "/v1/jobs", JSON_TYPE, NULL), 411, "length-required");
    expect_problem(http_do(&f, "GET", "/v1/jobs", "Accept: text/html\r\n", NULL), 406,
                   "not-acceptable");
    expect(http_do(&f, "GET", "/v1/jobs", "Accept: text/html, application/*;q=0.5\r\n", NULL), 200);
}

static void test_job_actions(void **state) {
    (void)state;
    expect(http_do(&f, "POST", "/v1/jobs/j1/stop?mode=now", NULL, NULL), 202);
    assert_int_equal(f.last_action, API_JOB_STOP_NOW);
    expect(http_do(&f, "POST", "/v1/jobs/j1/stop", NULL, ""), 202);
    assert_int_equal(f.last_action, API_JOB_STOP);
    expect(http_do(&f, "POST", "/v1/jobs/j1/checkpoint", NULL, NULL), 202);
    assert_int_equal(f.last_action, API_JOB_CHECKPOINT);
    expect_problem(http_do(&f, "POST", "/v1/jobs/j1/stop?mode=fast", NULL, NULL), 422,
                   "invalid-value");
    expect_problem(http_do(&f, "POST", "/v1/jobs/j1/stop", NULL, "x"), 400, "unexpected-body");
    expect(http_do(&f, "PATCH", "/v1/jobs/j1", JSON_TYPE, "{\"name\":\"n\"}"), 200);
    expect_problem(http_do(&f, "DELETE", "/v1/jobs/j1", NULL, NULL), 409, "running");
}

static void test_host_and_origin(void **state) {
    (void)state;
    char ok[200], raw[400];
    int n = snprintf(raw, sizeof raw,
                     "GET /v1/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    expect_problem(http_raw(&f, raw, (size_t)n), 403, "foreign-host");
    n = snprintf(raw, sizeof raw,
                 "GET /v1/status HTTP/1.1\r\nHost: localhost:1\r\nConnection: close\r\n\r\n");
    expect_problem(http_raw(&f, raw, (size_t)n), 403, "foreign-host");
    n = snprintf(raw, sizeof raw, "GET /v1/status HTTP/1.1\r\nConnection: close\r\n\r\n");
    expect_problem(http_raw(&f, raw, (size_t)n), 400, "bad-host");
    n = snprintf(raw, sizeof raw, "GET /v1/status HTTP/1.0\r\n\r\n");
    expect(http_raw(&f, raw, (size_t)n), 200);
    n = snprintf(raw, sizeof raw,
                 "GET /v1/status HTTP/1.1\r\nHost: localhost:%d\r\nHost: x\r\nConnection: "
                 "close\r\n\r\n",
                 f.port);
    struct reply r = http_raw(&f, raw, (size_t)n); // libmicrohttpd may refuse it first
    assert_int_equal(r.status, 400);
    reply_free(&r);
    expect_problem(http_do(&f, "POST", "/generate", "Sec-Fetch-Site: cross-site\r\n", NULL), 403,
                   "cross-site");
    expect_problem(http_do(&f, "POST", "/generate", "Origin: http://evil.example\r\n", NULL), 403,
                   "cross-site");
    expect_problem(http_do(&f, "POST", "/generate", "Origin: null\r\n", NULL), 403, "cross-site");
    snprintf(ok, sizeof ok, "Origin: http://127.0.0.1:%d\r\nSec-Fetch-Site: same-origin\r\n",
             f.port);
    expect(http_do(&f, "POST", "/generate", ok, NULL), 200);
    expect(http_do(&f, "GET", "/generate", "Sec-Fetch-Site: cross-site\r\n", NULL), 200);
}

static void expect_raw(const char *head, int status, const char *type) {
    char raw[600];
    int n = snprintf(raw, sizeof raw, head, f.port);
    struct reply r = http_raw(&f, raw, (size_t)n);
    if (type)
        expect_problem(r, status, type);
    else { // answered by libmicrohttpd itself, or the connection is cut
        assert_true(r.status == status || r.status == 0);
        reply_free(&r);
    }
}

static void test_smuggling(void **state) {
    (void)state;
#define POST "POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n" JSON_TYPE
    expect_raw(POST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
               "bad-framing");
    expect_raw(POST "Content-Length: 3\r\nContent-Length: 3\r\n\r\n{} ", 400, "bad-framing");
    expect_raw(POST "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", 400, "bad-framing");
    expect_raw(POST "Content-Length: +2\r\n\r\n{}", 400, NULL);
    expect_raw(POST "Content-Length: 2, 2\r\n\r\n{}", 400, NULL);
    expect_raw(POST "Content-Length: 99999999999999999999\r\n\r\n{}", 413, NULL);
    expect_raw(POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, "bad-framing");
    expect_raw(POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400, "bad-framing");
    expect_raw(POST "Bad Name: 1\r\nContent-Length: 2\r\n\r\n{}", 400, "bad-framing");
    expect_raw(POST "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", 400, NULL);
    expect_raw("GET /v1/jobs HTTP/3.7\r\nHost: 127.0.0.1:%d\r\n\r\n", 505, NULL);
#undef POST
    expect(http_do(&f, "GET", "/livez", NULL, NULL), 200);
}

static void test_limits(void **state) {
    (void)state;
    size_t n = 33000;
    static char big[1200 * 1024];
    memset(big, 'a', sizeof big);
    memcpy(big, "/v1/jobs?state=", 15);
    big[n] = '\0';
    expect_problem(http_do(&f, "GET", big, NULL, NULL), 414, "uri-too-long");
    memcpy(big, "X-Big: ", 7);
    memset(big + 7, 'a', 20);
    memcpy(big + n - 2, "\r\n", 3);
    expect_problem(http_do(&f, "GET", "/v1/jobs", big, NULL), 431, "headers-too-large");
    memset(big, ' ', 1200 * 1024);
    big[1100 * 1024] = '\0';
    struct reply r = http_do(&f, "POST", "/v1/jobs", JSON_TYPE, big);
    assert_true(r.status == 413 || r.status == 0); // the reset may overtake the response
    reply_free(&r);
    // declared too large, with nothing sent: the refusal needs no body
    char raw[300];
    int k = snprintf(raw, sizeof raw,
                     "POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" JSON_TYPE
                     "Content-Length: 1048577\r\n\r\n",
                     f.port);
    expect_problem(http_raw(&f, raw, (size_t)k), 413, "body-too-large");
    // chunked, over the limit
    char *chunked;
    int m =
        asprintf(&chunked,
                 "POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n" JSON_TYPE
                 "Transfer-Encoding: chunked\r\n\r\n113000\r\n%s\r\n0\r\n\r\n",
                 f.port, big);
    json_t *o = expect_problem(http_raw(&f, chunked, (size_t)m), 413, "body-too-large");
    assert_string_equal(json_string_value(json_object_get(o, "detail")),
                        "a body may have 1048576 bytes");
    free(chunked);
}

static void test_slow_clients(void **state) {
    (void)state;
    struct api_counters before, after;
    char buf[600] = "";
    api_server_counters(f.srv, &before);
    int a = http_connect(&f), b = http_connect(&f);
    assert_true(write(a, "GET /liv", 8) == 8);
    int n = snprintf(buf, sizeof buf,
                     "POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" JSON_TYPE
                     "Content-Length: 20\r\n\r\n{",
                     f.port);
    assert_true(write(b, buf, (size_t)n) == n);
    after = before;
    for (int i = 0; i < 300 && after.reaped < before.reaped + 2; i++) {
        usleep(100000); // a byte now and then does not keep them alive
        send(a, "e", 1, MSG_NOSIGNAL);
        send(b, " ", 1, MSG_NOSIGNAL);
        api_server_counters(f.srv, &after);
    }
    assert_true(after.reaped >= before.reaped + 2);
    close(a);
    close(b);
    expect(http_do(&f, "GET", "/livez", NULL, NULL), 200);
}

static void test_files(void **state) {
    (void)state;
    struct reply r = http_do(&f, "GET", "/v1/checkpoints/c1/file", NULL, NULL);
    assert_int_equal(r.body_len, 1000);
    assert_string_equal(reply_header(&r, "ETag"), "\"abc\"");
    assert_string_equal(reply_header(&r, "Content-Disposition"),
                        "attachment; filename=\"c1.safetensors\"");
    expect(r, 200);
    r = http_do(&f, "GET", "/v1/checkpoints/c1/file", "Range: bytes=10-14\r\n", NULL);
    assert_string_equal(r.body, "01234");
    assert_string_equal(reply_header(&r, "Content-Range"), "bytes 10-14/1000");
    expect(r, 206);
    r = http_do(&f, "GET", "/v1/checkpoints/c1/file", "Range: bytes=-3\r\n", NULL);
    assert_string_equal(r.body, "789");
    expect(r, 206);
    r = http_do(&f, "GET", "/v1/checkpoints/c1/file", "Range: bytes=995-\r\nIf-Range: \"abc\"\r\n",
                NULL);
    assert_string_equal(r.body, "56789");
    expect(r, 206);
    expect(http_do(&f, "GET", "/v1/checkpoints/c1/file",
                   "Range: bytes=995-\r\nIf-Range: \"old\"\r\n", NULL),
           200);
    r = http_do(&f, "GET", "/v1/checkpoints/c1/file", "Range: bytes=1000-\r\n", NULL);
    assert_string_equal(reply_header(&r, "Content-Range"), "bytes */1000");
    expect(r, 416);
    r = http_do(&f, "HEAD", "/v1/checkpoints/c1/file", NULL, NULL);
    assert_string_equal(reply_header(&r, "Content-Length"), "1000");
    assert_int_equal(r.body_len, 0);
    expect(r, 200);
    expect_problem(http_do(&f, "GET", "/v1/checkpoints/gone/file", NULL, NULL), 410, "gone");

    r = http_do(&f, "GET", "/v1/checkpoints/c1/file?format=onnx", NULL, NULL);
    assert_string_equal(reply_header(&r, "Content-Disposition"),
                        "attachment; filename=\"c1.onnx\"");
    expect(r, 200);
    r = http_do(&f, "GET", "/v1/checkpoints/c1/file?weights=raw", NULL, NULL);
    assert_string_equal(reply_header(&r, "Content-Disposition"),
                        "attachment; filename=\"c1-raw.safetensors\"");
    expect(r, 200);
    expect(http_do(&f, "GET", "/v1/checkpoints/c1/file?format=pytorch", "Range: bytes=10-14\r\n",
                   NULL),
           206);
    expect_problem(http_do(&f, "GET", "/v1/checkpoints/c1/file?format=onyx", NULL, NULL), 422,
                   "invalid-value");
    expect_problem(http_do(&f, "GET", "/v1/checkpoints/c1/file?weights=both", NULL, NULL), 422,
                   "invalid-value");
    r = http_do(&f, "GET", "/v1/samples/s1.png", NULL, NULL);
    assert_non_null(strstr(reply_header(&r, "Cache-Control"), "immutable"));
    assert_string_equal(reply_header(&r, "Content-Type"), "image/png");
    expect(r, 200);
    expect(http_do(&f, "GET", "/v1/samples/s1.png", "If-None-Match: \"abc\"\r\n", NULL), 304);
}

// What is no range asks for the whole file.
static void test_malformed_ranges(void **state) {
    (void)state;
    static const char *const malformed[] = {"5-2", "7x", "7-8x", "99999999999-5", "1-2,4-5"};
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        char range[60];
        snprintf(range, sizeof range, "Range: bytes=%s\r\n", malformed[i]);
        struct reply r = http_do(&f, "GET", "/v1/checkpoints/c1/file", range, NULL);
        assert_int_equal(r.body_len, 1000);
        assert_memory_equal(r.body, "0123456789", 10);
        assert_null(reply_header(&r, "Content-Range"));
        expect(r, 200);
    }
}

// Several lines of a header that holds a list are one list.
static void test_header_lines(void **state) {
    (void)state;
    expect(
        http_do(&f, "GET", "/v1/jobs", "Accept: text/html\r\nAccept: application/json\r\n", NULL),
        200);
    expect_problem(http_do(&f, "GET", "/v1/jobs",
                           "Accept: application/json;q=0\r\nAccept: text/html\r\n", NULL),
                   406, "not-acceptable");
    static const char *const tags = "If-None-Match: \"x\", \"y\"\r\nif-none-match: \"abc\"\r\n";
    expect(http_do(&f, "GET", "/v1/samples/s1.png", tags, NULL), 304);
    expect(
        http_do(&f, "GET", "/v1/samples/s1.png", "If-Match: \"x\"\r\nIf-Match: \"abc\"\r\n", NULL),
        200);
    expect_problem(
        http_do(&f, "GET", "/v1/samples/s1.png", "If-Match: \"x\"\r\nIf-Match: \"y\"\r\n", NULL),
        412, "precondition");
}

// White space around a value is no part of it.
static void test_space_behind_values(void **state) {
    (void)state;
    static const char file[] = "/v1/checkpoints/c1/file";
    char raw[300];
    int n = snprintf(raw, sizeof raw,
                     "GET /v1/status HTTP/1.1\r\nHost:  127.0.0.1:%d \t \r\n"
                     "Connection: close\r\n\r\n",
                     f.port);
    expect(http_raw(&f, raw, (size_t)n), 200);
    expect(http_do(&f, "GET", file, "Range: bytes=10-14 \r\n", NULL), 206);
    expect(http_do(&f, "GET", file, "Range: bytes=10-14\r\nIf-Range: \"abc\"\t\r\n", NULL), 206);
    expect(http_do(&f, "GET", file, "If-None-Match: \"x\" \r\nIf-None-Match: \"abc\" \r\n", NULL),
           304);
    struct reply r = http_do(&f, "POST", "/v1/jobs", JSON_TYPE "Idempotency-Key: k 1 \r\n",
                             "{\"config\":\"digits\"}");
    assert_int_equal(r.status, 400); // within it there may be none
    reply_free(&r);
    expect(http_do(&f, "POST", "/v1/jobs", JSON_TYPE "Idempotency-Key: key-1 \r\n",
                   "{\"config\":\"digits\"}"),
           201);
    assert_string_equal(f.last_key, "key-1");
    r = http_do(&f, "GET", "/livez", "X-Request-Id: mine \r\n", NULL);
    assert_string_equal(reply_header(&r, "X-Request-Id"), "mine");
    expect(r, 200);
}

// What is refused without a look at a body leaves the connection open, unless a body follows.
static void test_refused_and_kept(void **state) {
    (void)state;
    static const struct {
        const char *line, *more; // of the request
        int status;
    } asked[] = {{"GET /v2/nothing", "", 404},
                 {"GET /v1/jobs?x=1", "", 400},
                 {"DELETE /v1/jobs", "", 405},
                 {"GET /v1/jobs", "Accept: text/html\r\n", 406},
                 {"OPTIONS /v1/jobs", "", 204},
                 {"GET /v1%2fjobs", "", 400},
                 {"POST /v1/generate", "Origin: null\r\n", 403},
                 {"DELETE /v1/jobs", "Content-Length: 0\r\n", 405}};
    char raw[300], got[4000] = "", want[40];
    const int fd = http_connect(&f);
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        int n = snprintf(raw, sizeof raw, "%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s\r\n",
                         asked[i].line, f.port, asked[i].more);
        assert_int_equal(write(fd, raw, (size_t)n), n);
        snprintf(want, sizeof want, "HTTP/1.1 %d", asked[i].status);
        if (!read_until(fd, got, sizeof got, want, 20000) ||
            !read_until(fd, got, sizeof got, "\r\n\r\n", 20000))
            fail_msg("%s: %s", asked[i].line, got);
        assert_null(strstr(got, "Connection: close"));
        if (asked[i].status != 204)
            assert_true(read_until(fd, got, sizeof got, "}", 20000));
        got[0] = '\0';
    }
    close(fd);
    // a body follows, or what is meant as one
    static const char *const bodies[][2] = {{"/v2/nothing", "Content-Length: 2\r\n\r\n"},
                                            {"/v1/jobs", "\r\n"}};
    for (int i = 0; i < 2; i++) {
        const int n = snprintf(raw, sizeof raw, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s",
                               bodies[i][0], f.port, bodies[i][1]);
        struct reply r = http_raw(&f, raw, (size_t)n);
        assert_string_equal(reply_header(&r, "Connection"), "close");
        expect(r, i ? 411 : 404);
    }
}

// To be told to come back is counted, but not as a failure.
static void test_counted_apart(void **state) {
    (void)state;
    struct api_counters a, b;
    api_server_counters(f.srv, &a);
    b = a;
    expect_problem(http_do(&f, "GET", "/v1/generate?checkpoint=loading", NULL, NULL), 503,
                   "loading");
    for (int i = 0; i < 9000 && b.responses_503 == a.responses_503; i++, usleep(1000))
        api_server_counters(f.srv, &b); // the answer is read before its request has ended
    assert_int_equal(b.responses_503, a.responses_503 + 1);
    assert_int_equal(b.responses_5xx, a.responses_5xx);
    char said[60];
    snprintf(said, sizeof said, "\"responses_503\":%llu,", (unsigned long long)b.responses_503);
    struct reply r = http_do(&f, "GET", "/v1/status", NULL, NULL);
    assert_non_null(strstr(r.body, said));
    expect(r, 200);
}

static void test_datasets(void **state) {
    static const char octets[] = "Content-Type: application/octet-stream\r\n";
    (void)state;
    struct reply r = http_do(&f, "PUT", "/v1/datasets/cats/upload", octets, "0123456789");
    assert_non_null(strstr(r.body, "\"received\":10"));
    expect(r, 200);
    expect_problem(http_do(&f, "PUT", "/v1/datasets/cats/upload?offset=5", octets, "x"), 409,
                   "wrong-offset");
    expect_problem(http_do(&f, "PUT", "/v1/datasets/cats/upload?offset=-1", octets, "x"), 422,
                   "invalid-value");
    expect_problem(
        http_do(&f, "PUT", "/v1/datasets/cats/upload", "Content-Type: application/json\r\n", "{}"),
        415, "unsupported-media-type");
    expect_problem(http_do(&f, "PUT", "/v1/datasets/cats", octets, "x"), 405, "method-not-allowed");
    r = http_do(&f, "POST", "/v1/datasets/cats/import?bytes=10", NULL, NULL);
    assert_non_null(strstr(r.body, "\"bytes\":10"));
    expect(r, 202);
    r = http_do(&f, "GET", "/v1/datasets/cats/samples?class=a%20b&n=3", NULL, NULL);
    assert_string_equal(r.body, "cats a b 3");
    expect(r, 200);
    expect_problem(http_do(&f, "GET", "/v1/datasets/cats/samples?n=0", NULL, NULL), 422,
                   "invalid-value");
    expect_problem(http_do(&f, "GET", "/v1/datasets/cats/recipe?minutes=x", NULL, NULL), 422,
                   "invalid-value");
}

static void test_metrics(void **state) {
    (void)state;
    struct reply r = http_do(&f, "GET", "/v1/jobs/j1/metrics", NULL, NULL);
    json_t *o = json_loadb(r.body, r.body_len, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(o, "series")), 2);
    json_t *rows = json_object_get(json_array_get(json_object_get(o, "series"), 0), "rows");
    assert_int_equal(json_array_size(rows), 2);
    assert_true(json_is_null(json_array_get(json_array_get(rows, 1), 7))); // NaN
    json_decref(o);
    expect(r, 200);
    r = http_do(&f, "GET", "/v1/jobs/j1/metrics?format=csv&names=loss,grad_norm", NULL, NULL);
    size_t lines = 0;
    for (size_t i = 0; i < r.body_len; i++)
        lines += r.body[i] == '\n';
    assert_int_equal(lines, 20001);
    assert_memory_equal(r.body, "name,step,time,value\ngrad_norm,0,1000.000,0.25\n", 47);
    expect(r, 200);
    r = http_do(&f, "GET", "/v1/jobs/j1/metrics?format=ndjson&max_points=5", NULL, NULL);
    assert_non_null(strstr(r.body, "\"mean\":1.5"));
    expect(r, 200);
    r = http_do(&f, "GET", "/v1/jobs/j1/metrics?from=9&to=3", NULL, NULL);
    expect_problem(r, 422, "invalid-value");
    expect_problem(http_do(&f, "GET", "/v1/jobs/j9/metrics", NULL, NULL), 404, "not-found");
}

static void test_wide(void **state) {
    (void)state;
    struct reply r = http_do(&f, "GET", "/v1/metrics.csv?jobs=j1,j2", NULL, NULL);
    assert_string_equal(reply_header(&r, "Content-Type"), "text/csv; charset=utf-8");
    assert_string_equal(r.body, "job,run,step,time,loss,lr\n"
                                "j1,\"first\",1,1000.000,0,0.0001\n"
                                "j1,\"first\",2,1001.000,0.25,0.0001\n"
                                "j2,\"a, \"\"b\"\"\",1,1002.000,0.5,\n"
                                "j2,\"a, \"\"b\"\"\",2,1003.000,nan,\n");
    expect(r, 200);
    expect(http_do(&f, "GET", "/v1/metrics.csv", NULL, NULL), 200);
    expect_problem(http_do(&f, "GET", "/v1/metrics.csv?jobs=9", NULL, NULL), 404, "not-found");
    expect_problem(http_do(&f, "GET", "/v1/metrics.csv?from=9&to=3", NULL, NULL), 422,
                   "invalid-value");
    expect_problem(http_do(&f, "GET", "/v1/metrics.csv?job=1", NULL, NULL), 400,
                   "unknown-parameter");
    r = http_do(&f, "GET", "/v1/jobs/j1/alerts", NULL, NULL);
    assert_non_null(strstr(r.body, "collapse"));
    expect(r, 200);
    expect_problem(http_do(&f, "GET", "/v1/jobs/j9/alerts", NULL, NULL), 404, "not-found");
}

static void test_page_and_text(void **state) {
    (void)state;
    struct reply r = http_do(&f, "GET", "/", NULL, NULL);
    assert_non_null(strstr(reply_header(&r, "Content-Security-Policy"), "default-src 'self'"));
    assert_non_null(strstr(r.body, "driftd"));
    expect(r, 200);
    expect(http_do(&f, "GET", "/index.js", NULL, NULL), 200);
    expect_problem(http_do(&f, "POST", "/", NULL, NULL), 405, "method-not-allowed");
    r = http_do(&f, "GET", "/metrics", NULL, NULL);
    assert_non_null(strstr(r.body, "driftd_train_steps_total 5\n"));
    assert_non_null(strstr(r.body, "driftd_sse_clients 0\n"));
    expect(r, 200);
    r = http_do(&f, "GET", "/v1/status", "X-Request-Id: my-own-id\r\n", NULL);
    assert_string_equal(reply_header(&r, "X-Request-Id"), "my-own-id");
    assert_non_null(strstr(r.body, "\"sse_clients\""));
    expect(r, 200);
}

static void few(struct api_config *c) {
    c->max_per_address = 20;
}

static void test_idle_connections(void **state) {
    (void)state;
    struct fake t;
    int fds[200];
    for (int i = 0; i < 200; i++)
        fds[i] = http_connect(&f);
    expect(http_do(&f, "GET", "/livez", NULL, NULL), 200);
    for (int i = 0; i < 200; i++)
        close(fds[i]);
    fake_start(&t, few); // past the limit the oldest idle ones give way
    for (int i = 0; i < 100; i++)
        fds[i] = http_connect(&t);
    expect(http_do(&t, "GET", "/livez", NULL, NULL), 200);
    struct api_counters c = {0};
    for (int i = 0; i < 900 && (c.connections > 21 || c.reaped < 80); i++) {
        usleep(10000);
        api_server_counters(t.srv, &c);
    }
    assert_true(c.connections <= 21);
    assert_true(c.reaped >= 80);
    for (int i = 0; i < 100; i++)
        close(fds[i]);
    fake_stop(&t);
}

#ifndef __SANITIZE_THREAD__ // which has an epoll_ctl of its own
static atomic_int late;     // removals from an epoll set that somebody else was faster with

// libmicrohttpd's calls end here.
int epoll_ctl(int ep, int op, int fd, struct epoll_event *event) {
    if (op == EPOLL_CTL_DEL && atomic_load(&late) > 0) {
        atomic_fetch_sub(&late, 1);
        errno = ENOENT;
        return -1;
    }
    return (int)syscall(SYS_epoll_ctl, ep, op, fd, event);
}

// The server stops while a thread of libmicrohttpd wakes: both take the listener away.
static void test_stop_beside_a_worker(void **state) {
    (void)state;
    struct fake own;
    fake_start(&own, NULL);
    atomic_store(&late, 3);
    fake_stop(&own);
    assert_int_equal(atomic_load(&late), 0);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_route),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_openapi_matches_routes),
        cmocka_unit_test(test_methods),
        cmocka_unit_test(test_query),
        cmocka_unit_test(test_list_link),
        cmocka_unit_test(test_job_create),
        cmocka_unit_test(test_job_actions),
        cmocka_unit_test(test_host_and_origin),
        cmocka_unit_test(test_smuggling),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_slow_clients),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_malformed_ranges),
        cmocka_unit_test(test_header_lines),
        cmocka_unit_test(test_space_behind_values),
        cmocka_unit_test(test_refused_and_kept),
        cmocka_unit_test(test_counted_apart),
        cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_wide),
        cmocka_unit_test(test_datasets),
        cmocka_unit_test(test_page_and_text),
        cmocka_unit_test(test_idle_connections),
#ifndef __SANITIZE_THREAD__
        cmocka_unit_test(test_stop_beside_a_worker),
#endif
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
