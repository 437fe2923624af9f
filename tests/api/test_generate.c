// The generate endpoint: the parser's reading of every parameter, suspended requests, refusals,
// deadlines, clients that leave, and the end of a server with requests in flight.
#include "fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

FAKE_SERVER(NULL)

static void ok(const char *query) {
    char target[600];
    snprintf(target, sizeof target, "/v1/generate%s", query);
    struct reply r = http_do(&f, "POST", target, NULL, NULL);
    if (r.status != 200)
        print_error("%s: %s\n", query, r.body);
    assert_int_equal(r.status, 200);
    reply_free(&r);
}

// Expects `status` and `needle` in the problem.
static void bad(const char *query, int status, const char *needle) {
    char target[600];
    snprintf(target, sizeof target, "/v1/generate%s", query);
    struct reply r = http_do(&f, "POST", target, NULL, NULL);
    if (r.status != status || !strstr(r.body, needle))
        print_error("%s: %d %s\n", query, r.status, r.body);
    assert_int_equal(r.status, status);
    assert_non_null(strstr(r.body, needle));
    reply_free(&r);
}

static bool wait_for(atomic_int *v, int want) {
    for (int i = 0; i < 9000 && atomic_load(v) < want; i++)
        usleep(10000);
    return atomic_load(v) >= want;
}

static void test_result(void **state) {
    (void)state;
    struct reply r = http_do(&f, "POST", "/generate?class=3&cfg=1.5&seed=42", NULL, NULL);
    assert_int_equal(r.status, 200);
    assert_string_equal(reply_header(&r, "Content-Type"), "image/png");
    assert_string_equal(reply_header(&r, "Driftd-Seed"), "42");
    assert_string_equal(reply_header(&r, "Driftd-Checkpoint"), "ck1");
    assert_string_equal(reply_header(&r, "Driftd-Step"), "77");
    assert_string_equal(reply_header(&r, "Driftd-Queue-Ms"), "1.500");
    assert_string_equal(reply_header(&r, "Driftd-Compute-Ms"), "2.250");
    assert_string_equal(reply_header(&r, "Driftd-Batch-Size"), "1");
    assert_int_equal(r.body_len, 14);
    assert_memory_equal(r.body, "\x89PNG\r\n\x1a\n\0fake", 14);
    assert_int_equal(f.last_images[0].label, 3);
    assert_true(f.last_images[0].cfg == 1.5f);
    reply_free(&r);
    r = http_do(&f, "GET", "/v1/generate?format=npy", NULL, NULL);
    assert_int_equal(r.status, 200);
    assert_string_equal(reply_header(&r, "Content-Type"), "application/octet-stream");
    assert_memory_equal(r.body, "\x93NUMPY", 6);
    assert_non_null(reply_header(&r, "Driftd-Seed"));
    reply_free(&r);
}

static void test_parameters(void **state) {
    (void)state;
    ok("");
    assert_int_equal(f.last_gen.n, 1);
    assert_int_equal(f.last_images[0].label, -1);
    assert_string_equal(f.last_gen.checkpoint, "served");
    ok("?class=Seven&n=4&checkpoint=latest&scale=2&guidance=one-step&timeout_ms=5000");
    assert_int_equal(f.last_gen.n, 4);
    assert_int_equal(f.last_images[3].label, 7);
    assert_int_equal(f.last_images[3].index, 3);
    assert_int_equal(f.last_gen.cols, 2);
    assert_int_equal(f.last_gen.scale, 2);
    ok("?class=7,seven,SEVEN,2001"); // an index before a name, the same letters before any others
    static const int32_t label[] = {7, 7, 8, 6};
    for (int i = 0; i < 4; i++)
        assert_int_equal(f.last_images[i].label, label[i]);
    ok("?class=0-9&n=50"); // one row per class
    assert_int_equal(f.last_gen.cols, 5);
    assert_int_equal(f.last_gen.rows, 10);
    assert_int_equal(f.last_images[4].label, 0);
    assert_int_equal(f.last_images[5].label, 1);
    assert_int_equal(f.last_images[49].label, 9);
    ok("?class=3,one,random&grid=3x2");
    assert_int_equal(f.last_gen.n, 6);
    assert_int_equal(f.last_images[1].label, 3);
    assert_int_equal(f.last_images[2].label, 1);
    assert_int_equal(f.last_images[5].label, -1);
    ok("?class=3&cfg=1,2,3&n=4&seed=9"); // a sweep: the same noise in every row
    assert_int_equal(f.last_gen.n, 12);
    assert_int_equal(f.last_gen.cols, 4);
    assert_int_equal(f.last_gen.rows, 3);
    assert_int_equal(f.last_images[5].index, 1);
    assert_true(f.last_images[5].cfg == 2);
    assert_int_equal(f.last_gen.seed, 9);
}

static void test_refusals(void **state) {
    (void)state;
    bad("?class=99", 422, "0 to 9");
    bad("?class=-1", 422, "0 to 9");
    bad("?class=sevn", 422, "`seven`");
    bad("?class=", 422, "is empty");
    bad("?class=5-12", 422, "0 to 9");
    bad("?cfg=9", 422, "from 1 to 4");
    bad("?cfg=nan", 422, "from 1 to 4");
    bad("?cfg=1,x", 422, "from 1 to 4");
    bad("?n=65", 422, "1 to 64");
    bad("?n=0", 422, "1 to 64");
    bad("?n=2&class=0-9", 422, "fewer than the 10");
    bad("?n=64&cfg=1,2", 422, "at most 64");
    bad("?grid=3", 422, "COLUMNSxROWS");
    bad("?grid=0x3", 422, "COLUMNSxROWS");
    bad("?grid=-1x3", 422, "COLUMNSxROWS");
    static const char *const odd[] = {"4x%204", "4x%2B4", "4x%09%0a4", "4x+4",
                                      "%204x4", "4%20x4", "+4x4",      "4x4%20",
                                      "4x",     "x4",     "4xx4",      "4x000004"};
    char query[40];
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        snprintf(query, sizeof query, "?grid=%s", odd[i]);
        bad(query, 422, "COLUMNSxROWS");
    }
    bad("?grid=2x2&n=5", 422, "fewer than n=5");
    bad("?grid=9x9", 422, "at most 64");
    bad("?format=pgn", 422, "`png`");
    bad("?seed=-4", 422, "seed");
    bad("?seed=9007199254740992", 422, "seed");
    bad("?scale=0", 422, "scale");
    bad("?guidance=two-pass", 422, "null class");
    bad("?timeout_ms=abc", 422, "timeout_ms");
    bad("?checkpoint=gone", 404, "gone");
    bad("?checkpoint=loading", 503, "retry_after");
    bad("?class=99&cfg=99&seed=x", 422, "\"field\":\"seed\""); // all mistakes at once
}

// What one answer may encode, whatever its format: magnification counts where there are pictures.
static void test_size_of_answers(void **state) {
    (void)state;
    static const char *const pictures[] = {"png", "json", "zip"};
    char query[200];
    for (int i = 0; i < 3; i++) {
        snprintf(query, sizeof query, "?checkpoint=large&scale=32&format=%s", pictures[i]);
        ok(query); // 8192 x 8192: just the limit
        snprintf(query, sizeof query, "?checkpoint=large&n=2&scale=32&format=%s", pictures[i]);
        bad(query, 422, "134217728 values; at most 67108864");
        bad(query, 422, "\"field\":\"scale\"");
    }
    ok("?checkpoint=large&n=64&scale=32&format=npy");
    ok("?n=64&scale=32&format=json");
    bad("?n=63&grid=9x8&scale=32", 422, "75497472 values"); // with its empty places
    bad("?checkpoint=large&seed2=9&steps=4&scale=32&format=apng", 422, "at most 67108864");
    // points: a plot each, or one of all of them
    ok("?checkpoint=points&n=1024&scale=32&format=zip");
    bad("?checkpoint=points&n=1025&format=zip", 422, "67174400 values");
    bad("?checkpoint=points&n=1025&format=json", 422, "\"field\":\"n\"");
    ok("?checkpoint=points&n=4096&format=npy");
    ok("?checkpoint=points&n=4096&scale=32&format=png");
    ok("?checkpoint=points&n=16&seed2=9&steps=256&format=apng");
    struct reply r =
        http_do(&f, "POST", "/v1/images/generations", "Content-Type: application/json\r\n",
                "{\"prompt\":\"3\",\"model\":\"large\",\"n\":2,\"size\":\"8192x8192\"}");
    assert_int_equal(r.status, 422);
    assert_non_null(strstr(r.body, "\"field\":\"size\""));
    reply_free(&r);
    r = http_do(&f, "POST", "/v1/images/generations", "Content-Type: application/json\r\n",
                "{\"prompt\":\"3\",\"size\":\"64x 64\"}");
    assert_int_equal(r.status, 422);
    reply_free(&r);
}

// As an answer's `request` lists the class of every image.
static void test_many_classes(void **state) {
    (void)state;
    enum { N = 4096 };
    static char body[2 * N + 200];
    size_t n = 0;
    for (int extra = 0; extra < 2; extra++) {
        n = (size_t)snprintf(body, sizeof body, "{\"checkpoint\":\"many\",\"class\":\"");
        for (int i = 0; i < N + extra; i++)
            n += (size_t)snprintf(body + n, sizeof body - n, "%s%d", i ? "," : "", i % 10);
        snprintf(body + n, sizeof body - n, "\",\"n\":%d,\"format\":\"npy\"}", N);
        struct reply r =
            http_do(&f, "POST", "/v1/generate", "Content-Type: application/json\r\n", body);
        assert_int_equal(r.status, extra ? 422 : 200);
        if (extra)
            assert_non_null(strstr(r.body, "more than 4096 classes"));
        else
            assert_int_equal(f.last_images[11].label, 1);
        reply_free(&r);
    }
}

// The labels of a request's images, in their order; -1 ends them.
static void labels(const char *target, const char *body, const int *want) {
    struct reply r =
        http_do(&f, "POST", target, body ? "Content-Type: application/json\r\n" : NULL, body);
    if (r.status != 200)
        print_error("%s %s: %s\n", target, body ? body : "", r.body);
    assert_int_equal(r.status, 200);
    int n = 0;
    for (; want[n] >= 0; n++)
        assert_int_equal(f.last_images[n].label, want[n]);
    assert_int_equal(f.last_gen.n, n);
    reply_free(&r);
}

// Names that hold commas or begin with a space, as ImageNet's do.
static void test_names_with_commas(void **state) {
    (void)state;
    static const char at[] = "/v1/generate?checkpoint=commas";
#define LABELS(...) (const int[]){__VA_ARGS__, -1}
    labels("/v1/generate?checkpoint=commas&class=tench,%20Tinca%20tinca", NULL, LABELS(0));
    labels("/v1/generate?checkpoint=commas&class=%20lead", NULL, LABELS(1));
    labels("/v1/generate?checkpoint=commas&class=a,b", NULL, LABELS(4));
    labels("/v1/generate?checkpoint=commas&class=b,%20a,3", NULL, LABELS(3, 2, 3));
    labels("/v1/generate?checkpoint=commas&class=2,3", NULL, LABELS(2, 3)); // as replies have it
    labels(at, "{\"class\":[\"a\",\"b\"]}", LABELS(2, 3));
    labels(at, "{\"class\":[\"a,b\"]}", LABELS(4));
    labels(at, "{\"class\":\"a,b\"}", LABELS(4));
    labels(at, "{\"class\":[\" lead\",\"TENCH, tinca tinca\",7,\"0-1\",\"2,3\"]}",
           LABELS(1, 0, 7, 0, 1, 2, 3));
    labels("/v1/images/generations", "{\"prompt\":\"tench, Tinca tinca\",\"model\":\"commas\"}",
           LABELS(0));
    bad("?checkpoint=commas&class=a,c", 422, "`c` is not a class");
#undef LABELS
}

static void test_accept(void **state) {
    (void)state;
    struct reply r = http_do(&f, "GET", "/v1/generate", "Accept: application/json\r\n", NULL);
    assert_int_equal(r.status, 200);
    assert_int_equal(f.last_gen.format, API_JSON);
    reply_free(&r);
    r = http_do(&f, "GET", "/v1/generate", "Accept: text/html\r\n", NULL);
    assert_int_equal(r.status, 406);
    reply_free(&r);
    r = http_do(&f, "GET", "/v1/generate?format=npy", "Accept: image/png\r\n", NULL);
    assert_int_equal(r.status, 406);
    reply_free(&r);
    r = http_do(&f, "GET", "/v1/generate", "Accept: image/*;q=0, */*\r\n", NULL);
    assert_int_equal(r.status, 200);
    assert_int_equal(f.last_gen.format, API_JSON);
    reply_free(&r);
}

static void test_back_pressure(void **state) {
    (void)state;
    atomic_store(&f.mode, FAKE_FULL);
    struct reply r = http_do(&f, "POST", "/generate", NULL, NULL);
    assert_int_equal(r.status, 429);
    assert_string_equal(reply_header(&r, "Retry-After"), "3"); // 3.2, rounded
    assert_non_null(strstr(r.body, "\"retry_after\":3.2"));
    reply_free(&r);
    atomic_store(&f.mode, FAKE_DRAINING);
    r = http_do(&f, "POST", "/generate", NULL, NULL);
    assert_int_equal(r.status, 503);
    assert_string_equal(reply_header(&r, "Retry-After"), "3");
    reply_free(&r);
    atomic_store(&f.mode, FAKE_AT_ONCE);
}

static void test_suspended(void **state) {
    (void)state;
    int fds[40], n;
    char req[200], buf[2000];
    atomic_store(&f.mode, FAKE_LATER);
    atomic_store(&f.delay_ms, 30);
    n = snprintf(req, sizeof req, "POST /generate?seed=1 HTTP/1.1\r\nHost: localhost:%d\r\n\r\n",
                 f.port);
    for (int i = 0; i < 40; i++) {
        fds[i] = http_connect(&f);
        assert_int_equal(write(fds[i], req, (size_t)n), n);
    }
    for (int i = 0; i < 40; i++) {
        buf[0] = '\0';
        assert_true(read_until(fds[i], buf, sizeof buf, "fake", 60000));
        assert_int_equal(write(fds[i], req, (size_t)n), n); // keep-alive: once more
    }
    for (int i = 0; i < 40; i++) {
        buf[0] = '\0';
        assert_true(read_until(fds[i], buf, sizeof buf, "fake", 60000));
        close(fds[i]);
    }
    atomic_store(&f.mode, FAKE_AT_ONCE);
}

static void test_deadline(void **state) {
    (void)state;
    atomic_store(&f.mode, FAKE_HOLD);
    int gone = atomic_load(&f.abandoned);
    struct reply r = http_do(&f, "POST", "/generate?timeout_ms=100", NULL, NULL);
    assert_int_equal(r.status, 504);
    reply_free(&r);
    fake_release(&f); // the ticket outlives its request
    assert_int_equal(atomic_load(&f.abandoned), gone + 1);
    atomic_store(&f.mode, FAKE_AT_ONCE);
}

static int unix_connect(void) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", f.unix_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

// Goes away for good: over TCP with a reset, since a FIN alone leaves open whether it still reads.
static void hang_up(int fd) {
    struct linger now = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
}

static void goes_away(int a, int b, const char *req, size_t n) {
    int gone = atomic_load(&f.abandoned), sub = atomic_load(&f.submitted);
    assert_int_equal(write(a, req, n), (ssize_t)n);
    assert_int_equal(write(b, req, n), (ssize_t)n);
    assert_true(wait_for(&f.submitted, sub + 2));
    hang_up(a);
    usleep(20000);
    fake_release(&f); // asks at once: the hint comes from the socket
    assert_int_equal(atomic_load(&f.abandoned), gone + 1);
    char buf[2000] = "";
    assert_true(read_until(b, buf, sizeof buf, "fake", 60000));
    close(b);
}

static void test_disconnect(void **state) {
    (void)state;
    char req[200];
    atomic_store(&f.mode, FAKE_HOLD);
    int n =
        snprintf(req, sizeof req, "POST /generate HTTP/1.1\r\nHost: localhost:%d\r\n\r\n", f.port);
    goes_away(http_connect(&f), http_connect(&f), req, (size_t)n);
    goes_away(unix_connect(), unix_connect(), req, (size_t)n);
    // without anybody asking, the housekeeping thread notices
    int gone = atomic_load(&f.abandoned), sub = atomic_load(&f.submitted);
    int a = http_connect(&f);
    assert_int_equal(write(a, req, (size_t)n), n);
    assert_true(wait_for(&f.submitted, sub + 1));
    hang_up(a);
    struct api_counters c = {.generates_waiting = 1};
    for (int i = 0; i < 3000 && c.generates_waiting; i++) {
        usleep(10000);
        api_server_counters(f.srv, &c);
    }
    assert_int_equal(c.generates_waiting, 0);
    fake_release(&f);
    assert_int_equal(atomic_load(&f.abandoned), gone + 1);
    atomic_store(&f.mode, FAKE_AT_ONCE);
}

// A client that has sent all it has to say (`shutdown(SHUT_WR)`, as nc -N does) still reads.
static void half_closed(int fd, const char *req, size_t n, int ms) {
    char buf[2000] = "";
    int sub = atomic_load(&f.submitted);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, req, n), (ssize_t)n);
    if (!ms)
        shutdown(fd, SHUT_WR);
    assert_true(wait_for(&f.submitted, sub + 1));
    if (ms) {
        shutdown(fd, SHUT_WR);
        usleep((useconds_t)ms * 1000); // several rounds of the housekeeping thread
    }
    fake_release(&f);
    if (!read_until(fd, buf, sizeof buf, "fake", 60000))
        fail_msg("no answer but `%s`", buf);
    close(fd);
}

static void test_half_closed(void **state) {
    (void)state;
    char req[128];
    int n =
        snprintf(req, sizeof req, "POST /generate HTTP/1.1\r\nHost: localhost:%d\r\n\r\n", f.port);
    atomic_store(&f.mode, FAKE_HOLD);
    for (int ms = 0; ms <= 500; ms += 500) {
        int gone = atomic_load(&f.abandoned);
        half_closed(http_connect(&f), req, (size_t)n, ms);
        half_closed(unix_connect(), req, (size_t)n, ms);
        assert_int_equal(atomic_load(&f.abandoned), gone);
    }
    atomic_store(&f.mode, FAKE_AT_ONCE);
}

static void test_unix_socket(void **state) {
    (void)state;
    char buf[2000] = "";
    static const char req[] = "POST /generate HTTP/1.1\r\nHost: anything\r\n\r\n";
    int fd = unix_connect();
    assert_int_equal(write(fd, req, sizeof req - 1), sizeof req - 1);
    assert_true(read_until(fd, buf, sizeof buf, "fake", 60000));
    close(fd);
}

static void *release_soon(void *arg) {
    usleep(150000);
    fake_release(arg);
    return NULL;
}

// An array of the shape (rows, count) as numpy.save writes it: 0, 0.5, 1, ... Returns its size.
static size_t make_npy(char *out, int rows, int count, bool wide) {
    enum { HEAD = 128 };
    memset(out, ' ', HEAD);
    memcpy(out, "\x93NUMPY\1\0", 8);
    out[8] = HEAD - 10;
    out[9] = 0;
    const int n = snprintf(out + 10, HEAD - 10,
                           "{'descr': '<f%d', 'fortran_order': False, 'shape': (%d, %d)}",
                           wide ? 8 : 4, rows, count);
    out[10 + n] = ' ';
    for (int i = 0; i < rows * count; i++) {
        const double d = 0.5 * i;
        const float s = (float)d;
        if (wide)
            memcpy(out + HEAD + 8 * (size_t)i, &d, 8);
        else
            memcpy(out + HEAD + 4 * (size_t)i, &s, 4);
    }
    return HEAD + (size_t)rows * (size_t)count * (wide ? 8 : 4);
}

// Sends noise, of which `sent` bytes, and returns the connection.
static int send_noise(const struct fake *t, const char *query, const char *body, size_t n,
                      size_t sent) {
    char head[400];
    const int fd = http_connect(t);
    const int k = snprintf(head, sizeof head,
                           "POST /v1/generate%s HTTP/1.1\r\nHost: localhost:%d\r\nConnection: "
                           "close\r\nContent-Type: application/octet-stream\r\nContent-Length: "
                           "%zu\r\n\r\n",
                           query, t->port, n);
    assert_int_equal(send(fd, head, (size_t)k, MSG_NOSIGNAL), k);
    for (size_t done = 0; done < sent;) {
        const ssize_t w = send(fd, body + done, sent - done, MSG_NOSIGNAL);
        assert_true(w > 0);
        done += (size_t)w;
    }
    return fd;
}

static void expect_answer(int fd, const char *needle) {
    char buf[4000] = "";
    if (!read_until(fd, buf, sizeof buf, needle, 60000))
        fail_msg("no %s in: %s", needle, buf);
    close(fd);
}

static void test_own_noise(void **state) {
    (void)state;
    char body[400];
    const int before = atomic_load(&f.submitted);
    atomic_store(&f.mode, FAKE_HOLD);
    for (int wide = 0; wide < 2; wide++) {
        const size_t n = make_npy(body, 2, 4, wide);
        const int fd = send_noise(&f, "?checkpoint=vector", body, n, n);
        assert_true(wait_for(&f.submitted, before + wide + 1));
        pthread_mutex_lock(&f.mu);
        const struct api_gen_request *q = &f.last_gen;
        assert_int_equal(q->n, 2);
        assert_int_equal(q->noise_count, 4);
        for (int i = 0; i < 8; i++)
            assert_true(q->noise[i] == 0.5f * (float)i);
        pthread_mutex_unlock(&f.mu);
        fake_release(&f);
        expect_answer(fd, "HTTP/1.1 200");
    }
    const size_t n = make_npy(body, 2, 3, false);
    expect_answer(send_noise(&f, "?checkpoint=vector", body, n, n), "this model takes 4");
    assert_int_equal(atomic_load(&f.submitted), before + 2);
    atomic_store(&f.mode, FAKE_AT_ONCE);
}

static void little_memory(struct api_config *c) {
    c->max_held = 200000;
}

// Noise counts as long as it waits to be used, also after its request has ended.
static void test_memory_of_noise(void **state) {
    (void)state;
    enum { VALUES = 30000 };
    static char body[128 + 4 * VALUES];
    struct fake t;
    const size_t n = make_npy(body, 1, VALUES, false);
    fake_start(&t, little_memory);
    atomic_store(&t.mode, FAKE_HOLD);
    expect_answer(send_noise(&t, "?timeout_ms=300", body, n, n), "HTTP/1.1 504");
    assert_int_equal(atomic_load(&t.submitted), 1);
    expect_answer(send_noise(&t, "", body, n, 0), "problem:busy"); // on the headers
    fake_release(&t);
    assert_int_equal(atomic_load(&t.abandoned), 1);
    atomic_store(&t.mode, FAKE_AT_ONCE);
    expect_answer(send_noise(&t, "", body, n, n), "HTTP/1.1 200");
    fake_stop(&t);
}

static void test_shutdown(void **state) {
    (void)state;
    struct fake t;
    char req[200], stream[200], buf[2000];
    int fds[20];
    for (int round = 0; round < 2; round++) {
        pthread_t th;
        fake_start(&t, NULL);
        atomic_store(&t.mode, FAKE_HOLD);
        int n = snprintf(req, sizeof req, "POST /generate HTTP/1.1\r\nHost: localhost:%d\r\n\r\n",
                         t.port);
        int m = snprintf(stream, sizeof stream,
                         "GET /v1/events HTTP/1.1\r\nHost: localhost:%d\r\n\r\n", t.port);
        for (int i = 0; i < 20; i++) {
            fds[i] = http_connect(&t);
            if (i < 10)
                assert_int_equal(write(fds[i], req, (size_t)n), n);
            else
                assert_int_equal(write(fds[i], stream, (size_t)m), m);
        }
        assert_true(wait_for(&t.submitted, 10));
        if (round == 1) { // results that come within the grace are delivered
            pthread_create(&th, NULL, release_soon, &t);
            api_server_stop(t.srv, 5000);
            pthread_join(th, NULL);
        } else {
            api_server_stop(t.srv, 20);
        }
        for (int i = 0; i < 10; i++) {
            buf[0] = '\0';
            assert_true(read_until(fds[i], buf, sizeof buf, round ? "HTTP/1.1 200" : "HTTP/1.1 503",
                                   60000));
        }
        for (int i = 0; i < 20; i++)
            close(fds[i]);
        fake_release(&t); // held beyond the end of the server
        unlink(t.unix_path);
        rmdir(t.dir);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_result),
        cmocka_unit_test(test_parameters),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_accept),
        cmocka_unit_test(test_size_of_answers),
        cmocka_unit_test(test_back_pressure),
        cmocka_unit_test(test_suspended),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_disconnect),
        cmocka_unit_test(test_half_closed),
        cmocka_unit_test(test_unix_socket),
        cmocka_unit_test(test_own_noise),
        cmocka_unit_test(test_memory_of_noise),
        cmocka_unit_test(test_many_classes),
        cmocka_unit_test(test_names_with_commas),
        cmocka_unit_test(test_shutdown),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
