// What comes before the routes, against a fake daemon: the gate (Host, Origin, framing), limits,
// header fields, and what becomes of connections.
#include "api/gate.h"
#include "expect.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

FAKE_SERVER(NULL)

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

static void quick_limits(struct api_config *c) {
    c->header_timeout_ms = 1200;
    c->body_timeout_ms = 1200;
}

static void test_slow_clients(void **state) {
    (void)state;
    struct fake t;
    struct api_counters c = {0};
    char buf[600] = "";
    fake_start(&t, quick_limits);
    int a = http_connect(&t), b = http_connect(&t);
    assert_true(write(a, "GET /liv", 8) == 8);
    int n = snprintf(buf, sizeof buf,
                     "POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" JSON_TYPE
                     "Content-Length: 20\r\n\r\n{",
                     t.port);
    assert_true(write(b, buf, (size_t)n) == n);
    for (int i = 0; i < 300 && c.reaped < 2; i++) {
        usleep(100000); // a byte now and then does not keep them alive
        send(a, "e", 1, MSG_NOSIGNAL);
        send(b, " ", 1, MSG_NOSIGNAL);
        api_server_counters(t.srv, &c);
    }
    assert_true(c.reaped >= 2);
    close(a);
    close(b);
    expect(http_do(&t, "GET", "/livez", NULL, NULL), 200);
    fake_stop(&t);
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
        cmocka_unit_test(test_host_and_origin),
        cmocka_unit_test(test_smuggling),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_slow_clients),
        cmocka_unit_test(test_header_lines),
        cmocka_unit_test(test_space_behind_values),
        cmocka_unit_test(test_refused_and_kept),
        cmocka_unit_test(test_counted_apart),
        cmocka_unit_test(test_idle_connections),
#ifndef __SANITIZE_THREAD__
        cmocka_unit_test(test_stop_beside_a_worker),
#endif
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
