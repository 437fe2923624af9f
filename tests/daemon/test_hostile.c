// Hostile clients against a driftd process: what must be refused is refused with the specified
// status, and a proper client is always served meanwhile; its latencies are printed. Everything
// goes to 127.0.0.1 and ends by itself. argv[1]: the driftd binary.
#include "tests/daemon/fixture.h"

#include "daemon/base/util.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CROWD = 5000, SPARE_FDS = 200, TIMES_MAX = 20000 };

static struct daemon d;
static int port;

static int dial(void) {
    return tcp_dial(port);
}

static void start(const char *const *more) {
    char listen[60];
    const char *flags[8] = {listen, "--autostart=long"};
    close(tcp_listen(&port)); // one that was free a moment ago
    snprintf(listen, sizeof listen, "--listen=127.0.0.1:%d", port);
    for (int i = 0; more && more[i]; i++)
        flags[2 + i] = more[i];
    daemon_up(&d, flags);
    for (int i = 0; daemon_status(&d, "POST", "/v1/generate?class=1", NULL) != 200; i++) {
        if (i == 2000)
            fail_msg("no model");
        usleep(10000);
    }
}

static int setup(void **state) {
    (void)state;
    struct rlimit lim;
    if (!getrlimit(RLIMIT_NOFILE, &lim)) {
        lim.rlim_cur = lim.rlim_max;
        setrlimit(RLIMIT_NOFILE, &lim);
    }
    daemon_open(&d);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    daemon_close(&d);
    return 0;
}

// --- a proper client ---

struct user {
    pthread_t thread;
    _Atomic bool done;
    _Atomic int asked;
    int failed, status; // status: of the last failure
    double ms[TIMES_MAX];
};
static struct user user;

static void *use(void *arg) {
    struct user *u = arg;
    static const char *const target[][2] = {{"POST", "/v1/generate?class=1&n=2"},
                                            {"GET", "/v1/jobs"},
                                            {"GET", "/livez"},
                                            {"GET", "/v1/jobs/1/metrics?max_points=50"}};
    char host[60];
    snprintf(host, sizeof host, "Host: 127.0.0.1:%d\r\n", port);
    while (!u->done && u->asked < TIMES_MAX) {
        struct answer a = {0};
        int64_t from = dd_now_ns();
        int fd = dial(), i = u->asked % 4;
        int status = fd < 0 ? 0 : ask_socket(fd, &a, target[i][0], target[i][1], host, NULL, 0);
        answer_free(&a);
        u->ms[u->asked++] = (double)(dd_now_ns() - from) * 1e-6;
        if (status != 200) {
            u->failed++;
            u->status = status;
        }
        usleep(2000);
    }
    return NULL;
}
static void user_start(void) {
    user = (struct user){0};
    assert_int_equal(pthread_create(&user.thread, NULL, use, &user), 0);
}
static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
// No request may fail; the limits on time are wide, for busy machines.
static void user_end(const char *what) {
    for (int i = 0; i < 6000 && user.asked < 20; i++) // whatever the machine does meanwhile
        usleep(10000);
    user.done = true;
    pthread_join(user.thread, NULL);
    int n = user.asked;
    if (user.failed)
        fail_msg("%s: %d of %d proper requests failed, the last with %d", what, user.failed, n,
                 user.status);
    assert_true(n >= 20);
    qsort(user.ms, (size_t)n, sizeof *user.ms, by_value);
    printf("%s: %d proper requests, p50 %.2f ms, p95 %.2f, max %.2f\n", what, n, user.ms[n / 2],
           user.ms[n * 95 / 100], user.ms[n - 1]);
    assert_true(user.ms[n / 2] < 500 && user.ms[n - 1] < 30000);
}

// --- what is refused ---

// Sends bytes and returns the status of what comes back, 0: closed without an answer.
static int raw(const char *bytes, size_t n) {
    char in[4000] = "";
    size_t got = 0;
    int fd = dial();
    assert_true(fd >= 0);
    for (size_t at = 0; at < n;) {
        ssize_t k = send(fd, bytes + at, n - at, MSG_NOSIGNAL);
        if (k <= 0)
            break;
        at += (size_t)k;
    }
    while (got < 13) {
        ssize_t k = recv(fd, in + got, sizeof in - 1 - got, 0);
        if (k < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            fail_msg("no answer and no end for a minute: %.60s", bytes);
        if (k <= 0)
            break;
        got += (size_t)k;
    }
    close(fd);
    return got >= 12 && !strncmp(in, "HTTP/1.1 ", 9) ? atoi(in + 9) : 0;
}

struct form {
    const char *what,
        *head;       // the request; $ stands for the real host
    int status, or ; // either one; 0: closed without an answer
};

#define AT " HTTP/1.1\r\nHost: $\r\nConnection: close\r\n"
#define JSON "Content-Type: application/json\r\n"
static const struct form forms[] = {
    {"traversal", "GET /../../etc/passwd" AT "\r\n", 400, 404},
    {"traversal", "GET /v1/samples/../../../etc/passwd" AT "\r\n", 400, 404},
    {"traversal, escaped", "GET /%2e%2e/%2e%2e/etc/passwd" AT "\r\n", 400, 404},
    {"traversal, slash escaped", "GET /v1/samples/..%2f..%2fx.png" AT "\r\n", 400, 404},
    {"traversal, backslash", "GET /..%5c..%5cetc" AT "\r\n", 400, 404},
    {"double slash", "GET //etc/passwd" AT "\r\n", 400, 404},
    {"NUL in the path", "GET /v1/jobs%00.png" AT "\r\n", 400, 400},
    {"NUL in the query", "GET /v1/jobs?state=run%00ning" AT "\r\n", 400, 400},
    {"bad escape", "GET /v1/%zz" AT "\r\n", 400, 400},
    {"bad UTF-8", "GET /v1/%ff%fe" AT "\r\n", 400, 400},
    {"absolute form of another host", "GET http://evil.example/v1/jobs" AT "\r\n", 403, 403},
    {"absolute form with a user", "GET http://$@evil.example/v1/jobs" AT "\r\n", 400, 400},
    {"CONNECT", "CONNECT evil.example:443" AT "\r\n", 400, 405},
    {"TRACE", "TRACE /v1/jobs" AT "\r\n", 405, 405},
    {"unknown method", "BREW /v1/jobs" AT "\r\n", 405, 405},
    {"foreign Host", "GET /v1/jobs HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403, 403},
    {"foreign Host that rebinds", "GET /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n",
     403, 403},
    {"no Host", "GET /v1/jobs HTTP/1.1\r\n\r\n", 400, 400},
    {"two Hosts", "GET /v1/jobs" AT "Host: evil.example\r\n\r\n", 400, 400},
    {"foreign Origin", "POST /generate" AT "Origin: http://evil.example\r\n\r\n", 403, 403},
    {"null Origin", "POST /v1/jobs/1/stop" AT "Origin: null\r\n\r\n", 403, 403},
    {"cross-site", "POST /generate?class=1" AT "Sec-Fetch-Site: cross-site\r\n\r\n", 403, 403},
    {"cross-site form",
     "POST /v1/jobs" AT "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", 415, 415},
    {"both lengths",
     "POST /v1/jobs" AT JSON "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     400, 400},
    {"two lengths", "POST /v1/jobs" AT JSON "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
     400, 400},
    {"list of lengths", "POST /v1/jobs" AT JSON "Content-Length: 2, 2\r\n\r\n{}", 400, 0},
    {"signed length", "POST /v1/jobs" AT JSON "Content-Length: +2\r\n\r\n{}", 400, 0},
    {"length beyond 64 bits",
     "POST /v1/jobs" AT JSON "Content-Length: 99999999999999999999\r\n\r\n{}", 413, 400},
    {"unknown coding", "POST /v1/jobs" AT JSON "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400,
     400},
    {"space before the colon", "POST /v1/jobs" AT JSON "Content-Length : 2\r\n\r\n{}", 400, 0},
    {"folded header", "POST /v1/jobs" AT JSON "X-A: b\r\n Content-Length: 2\r\n\r\n{}", 411, 400},
    {"bad chunk", "POST /v1/jobs" AT JSON "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}", 400, 0},
    {"declared too large", "POST /v1/jobs" AT JSON "Content-Length: 1048577\r\n\r\n", 413, 413},
    {"body where none is taken", "POST /v1/jobs/1/stop" AT "Content-Length: 4\r\n\r\nabcd", 400,
     400},
    {"body of no type", "POST /generate?class=1" AT "Content-Length: 4\r\n\r\nabcd", 415, 415},
    {"noise too large",
     "POST /generate?class=1" AT
     "Content-Type: application/octet-stream\r\nContent-Length: 99999999\r\n\r\n",
     413, 413},
    {"import from anywhere",
     "POST /v1/checkpoints" AT JSON "Content-Length: 22\r\n\r\n{\"path\":\"/etc/passwd\"}", 403,
     422},
    {"data from anywhere",
     "POST /v1/jobs" AT JSON "Content-Length: 69\r\n\r\n"
     "{\"config\":{\"data\":{\"set\":\"mnist\",\"path\":\"../../../../../../etc\"}}}    ",
     422, 422},
    {"no HTTP at all", "\x16\x03\x01\x02\x01\x01hello\r\n\r\n", 0, 400},
};

// A form with the real Host for $.
static int send_form(const char *head) {
    char text[1200];
    const char *dollar = strchr(head, '$');
    int n = dollar ? snprintf(text, sizeof text, "%.*s127.0.0.1:%d%s", (int)(dollar - head), head,
                              port, dollar + 1)
                   : snprintf(text, sizeof text, "%s", head);
    return raw(text, (size_t)n);
}

// Request line and Host, then `n` times `part`, then an end: too much of something.
static int send_much(const char *first, const char *part, size_t n, const char *last) {
    size_t k = strlen(part);
    char *text = malloc(600 + n * k), *p = text;
    assert_non_null(text);
    p += sprintf(p, first, port);
    for (size_t i = 0; i < n; i++, p += k)
        memcpy(p, part, k);
    p += sprintf(p, "%s", last);
    int status = raw(text, (size_t)(p - text));
    free(text);
    return status;
}

static void expect(const char *what, int got, int status, int or) {
    if (got != status && got != or)
        fail_msg("%s: answered %d, expected %d or %d", what, got, status, or);
}

static void test_refused(void **state) {
    (void)state;
    start(NULL);
    user_start();
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < DR_COUNT(forms); i++)
            expect(forms[i].what, send_form(forms[i].head), forms[i].status, forms[i].or);
    expect("long URI",
           send_much("GET /v1/jobs?state=", "a", 33000, " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
           414, 0);
    expect("many headers",
           send_much("GET /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n", "A: b\r\n", 7000, "\r\n"),
           431, 0);
    expect("endless header",
           send_much("GET /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nA: ", "aaaaaaaaaaaaaaaa",
                     20000, "\r\n\r\n"),
           431, 0);
    expect("endless request line", send_much("GET /", "aaaaaaaaaaaaaaaa", 20000, ""), 414, 0);
    expect("deep JSON",
           send_much("POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n" JSON
                     "Content-Length: 500000\r\n\r\n",
                     "[", 500000, ""),
           400, 422);
    expect("body that is too large",
           send_much("POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n" JSON
                     "Transfer-Encoding: chunked\r\n\r\n120000\r\n",
                     " ", 0x120000, "\r\n0\r\n\r\n"),
           413, 0);
    user_end("refused forms");
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
}

// --- those who take their time ---

enum { SLOW = 300, DRIPS = 20 };

// A third sends a header byte by byte, a third a body, a third asks and does not read; in between
// connections are cut off, closed half way, or reset.
static void test_slow(void **state) {
    (void)state;
    static int fd[SLOW];
    char text[400];
    start(NULL);
    user_start();
    for (int i = 0; i < SLOW; i++) {
        assert_true((fd[i] = dial()) >= 0);
        int n = i % 3 == 0 ? snprintf(text, sizeof text, "GET /v1/jobs HT")
                : i % 3 == 1
                    ? snprintf(text, sizeof text,
                               "POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" JSON
                               "Content-Length: 1000\r\n\r\n{",
                               port)
                    : snprintf(text, sizeof text,
                               "GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", port);
        for (int k = 0; k < (i % 3 == 2 ? 20 : 1); k++) // pipelined, and never read
            if (send(fd[i], text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
                break;
    }
    for (int drip = 0; drip < DRIPS; drip++) {
        for (int i = 0; i < SLOW; i++)
            if (i % 3 < 2)
                send(fd[i], " ", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        int half = dial(), reset = dial(), part = dial();
        struct linger hard = {.l_onoff = 1};
        int n = snprintf(text, sizeof text,
                         "POST /v1/generate?n=8 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", port);
        if (half >= 0 && reset >= 0 && part >= 0) {
            send(half, text, (size_t)n, MSG_NOSIGNAL);
            shutdown(half, SHUT_WR);
            send(reset, text, (size_t)n, MSG_NOSIGNAL);
            setsockopt(reset, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
            send(part, text, 20, MSG_NOSIGNAL);
            shutdown(part, SHUT_WR);
        }
        close(half);
        close(reset);
        close(part);
        usleep(100000);
    }
    user_end("300 slow clients");
    // A slow header ends at its deadline of 10 s, however often a byte comes.
    char in[200];
    for (int i = 0; i < 300; i++) {
        if (send(fd[0], "a", 1, MSG_NOSIGNAL) < 0 || recv(fd[0], in, sizeof in, MSG_DONTWAIT) == 0)
            break;
        usleep(100000);
        assert_true(i < 299);
    }
    for (int i = 0; i < SLOW; i++)
        close(fd[i]);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
}

// --- the crowd ---

// Clients that this process can have, or, held, that a daemon of the same limit keeps: it counts
// two descriptors each for either of its listeners, and an eighth for those that are being closed.
static int clients(bool held) {
    struct rlimit lim;
    const int share = held ? 5 : 1;
    if (getrlimit(RLIMIT_NOFILE, &lim) || lim.rlim_cur / share > CROWD + SPARE_FDS)
        return CROWD;
    return (int)lim.rlim_cur / share - SPARE_FDS;
}

static void crowd(const char *what, const char *const *flags, bool held) {
    int n = clients(held), open = 0, *fd = calloc(CROWD, sizeof *fd);
    assert_non_null(fd);
    if (n < CROWD)
        printf("only %d clients, for want of descriptors\n", n);
    start(flags);
    user_start();
    usleep(500000);
    user_end("nobody else");
    user_start();
    for (int i = 0; i < n; i++)
        assert_true((fd[i] = dial()) >= 0);
    usleep(1500000);
    user_end(what);
    for (int i = 0; i < n; i++) {
        char c;
        ssize_t k = recv(fd[i], &c, 1, MSG_DONTWAIT);
        open += k < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
    }
    printf("%d of %d idle connections are open\n", open, n);
    assert_true(held ? open > n * 9 / 10 : open < 1600 || n < 1600);
    for (int i = 0; i < n; i++)
        close(fd[i]);
    free(fd);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
}

// By default an address may have 1536 connections: the oldest idle ones give way.
static void test_crowd_within_limits(void **state) {
    (void)state;
    crowd("5000 idle clients, 1536 allowed", NULL, false);
}
// All of them are held where they may be, and for as long.
static void test_crowd_held(void **state) {
    (void)state;
    crowd("5000 idle clients held",
          (const char *const[]){"--max-connections=6000", "--max-per-address=6000",
                                "--header-timeout-ms=600000", NULL},
          true);
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    d.binary = argv[1];
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_refused), T(test_slow), T(test_crowd_within_limits),
                                       T(test_crowd_held)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
