// Requests that wait for the database: they hold no thread that serves others, only so many of them
// wait, and a stop answers every one.
#include "fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka wants the four above first
#include <cmocka.h>

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RUN = 32, WAIT = 256, CONNS = RUN + WAIT + 12, PROBES = 24 }; // as api/later.c has them

static struct fake f;
static int fds[CONNS], created, refused;

static void post_jobs(int n) {
    static const char body[] = "{\"config\":\"digits\"}";
    char text[300];
    created = refused = 0;
    atomic_store(&f.blocked, 0);
    atomic_store(&f.mode, FAKE_BLOCK_JOBS);
    for (int i = 0; i < n; i++) {
        fds[i] = http_connect(&f);
        int k = snprintf(text, sizeof text,
                         "POST /v1/jobs HTTP/1.1\r\nHost: localhost:%d\r\nContent-Type: "
                         "application/json\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                         f.port, strlen(body), body);
        assert_int_equal(send(fds[i], text, (size_t)k, MSG_NOSIGNAL), k);
    }
    for (int i = 0; i < 5000 && atomic_load(&f.blocked) < (n < RUN ? n : RUN); i++)
        usleep(1000);
    assert_int_equal(atomic_load(&f.blocked), n < RUN ? n : RUN);
}

// Counts the answers that come within ms, and closes their connections.
static void take(int n, int ms) {
    for (int i = 0; i < n; i++) {
        char buf[2000] = "";
        struct pollfd p = {.fd = fds[i], .events = POLLIN};
        if (fds[i] < 0 || poll(&p, 1, ms) <= 0 ||
            !read_until(fds[i], buf, sizeof buf, "\r\n\r\n", 5000))
            continue;
        created += strstr(buf, " 201 ") != NULL;
        refused += strstr(buf, " 503 ") && strstr(buf, "Retry-After: ");
        close(fds[i]);
        fds[i] = -1;
    }
}

static void test_many_writers(void **state) {
    (void)state;
    fake_start(&f, NULL);
    post_jobs(CONNS);
    for (int i = 0; i < PROBES; i++) {
        struct reply r = http_do(&f, "GET", "/livez", "", NULL);
        assert_int_equal(r.status, 200);
        reply_free(&r);
    }
    for (int i = 0; i < 100 && refused < CONNS - RUN - WAIT; i++)
        take(CONNS, 1);
    assert_int_equal(refused, CONNS - RUN - WAIT);
    assert_int_equal(created, 0);
    atomic_store(&f.mode, FAKE_AT_ONCE);
    take(CONNS, 10000);
    assert_int_equal(created, RUN + WAIT);
    assert_int_equal(refused, CONNS - RUN - WAIT);
    fake_stop(&f);
}

// Large reads keep neither the threads that serve others nor those that write.
static void test_large_reads(void **state) {
    enum { READS = 6, AT_WORK = 4 };
    char text[200];
    int done = 0;
    (void)state;
    fake_start(&f, NULL);
    atomic_store(&f.mode, FAKE_BLOCK_READS);
    for (int i = 0; i < READS; i++) {
        fds[i] = http_connect(&f);
        const int n = snprintf(text, sizeof text,
                               "GET /v1/metrics.csv HTTP/1.1\r\nHost: localhost:%d\r\n"
                               "Connection: close\r\n\r\n",
                               f.port);
        assert_int_equal(send(fds[i], text, (size_t)n, MSG_NOSIGNAL), n);
    }
    for (int i = 0; i < 5000 && atomic_load(&f.blocked) < AT_WORK; i++)
        usleep(1000);
    assert_int_equal(atomic_load(&f.blocked), AT_WORK);
    for (int i = 0; i < PROBES; i++) {
        struct reply r = http_do(&f, "GET", "/livez", "", NULL);
        assert_int_equal(r.status, 200);
        reply_free(&r);
    }
    struct reply r = http_do(&f, "POST", "/v1/jobs", "Content-Type: application/json\r\n",
                             "{\"config\":\"digits\"}");
    assert_int_equal(r.status, 201);
    reply_free(&r);
    atomic_store(&f.mode, FAKE_AT_ONCE);
    for (int i = 0; i < READS; i++) {
        char buf[4000] = "";
        done += read_until(fds[i], buf, sizeof buf, "j2,\"a, \"\"b\"\"\",2,1003.000,nan,", 10000);
        close(fds[i]);
    }
    assert_int_equal(done, READS);
    fake_stop(&f);
}

static void *stop(void *arg) {
    (void)arg;
    fake_stop(&f);
    return NULL;
}

// Stops the server while RUN + 8 requests are there; counts what becomes of them.
static void stop_beside_waiters(void) {
    pthread_t t;
    fake_start(&f, NULL);
    post_jobs(RUN + 8);
    struct api_counters c = {0};
    for (int i = 0; i < 5000 && c.requests < RUN + 8; i++) {
        usleep(1000);
        api_server_counters(f.srv, &c);
    }
    assert_int_equal(pthread_create(&t, NULL, stop, NULL), 0);
    usleep(100000); // nothing shows that the pool has begun to drain
    atomic_store(&f.mode, FAKE_AT_ONCE);
    pthread_join(t, NULL);
    take(RUN + 8, 5000);
}

static void test_stop(void **state) {
    (void)state;
    // All are carried out where the stop came late: once in six is enough.
    for (int i = 0; i < 6 && (!i || (created == RUN + 8 && !refused)); i++)
        stop_beside_waiters();
    assert_int_equal(created, RUN); // those at work
    assert_int_equal(refused, 8);   // those that waited
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_many_writers),
                                       cmocka_unit_test(test_large_reads),
                                       cmocka_unit_test(test_stop)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
