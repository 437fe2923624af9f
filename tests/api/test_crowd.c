// Many connections at once: none is forgotten.
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
#include <time.h>
#include <unistd.h>

enum { CONNS = 560, EVENTS = 128 }; // EVENTS: what libmicrohttpd asks epoll for

FAKE_SERVER(NULL)
static int fds[CONNS];

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void ask(int i, bool generate) {
    char text[200], target[60] = "GET /v1/status";
    if (generate)
        snprintf(target, sizeof target, "POST /v1/generate?seed=%d", i);
    int n =
        snprintf(text, sizeof text, "%s HTTP/1.1\r\nHost: localhost:%d\r\n\r\n", target, f.port);
    assert_int_equal(send(fds[i], text, (size_t)n, MSG_NOSIGNAL), n);
}

// Waits for an answer of 200 on a connection.
static bool answered(int i, int ms) {
    char buf[2000] = "";
    return read_until(fds[i], buf, sizeof buf, "fake", ms) && strstr(buf, " 200 ");
}

// As many connections of one thread of the server as it asks epoll for become readable at once,
// while the thread is busy. All of them are served, and soon.
static void test_round_of_events(void **state) {
    (void)state;
    int of[CONNS], n = 0, busy = -1;
    atomic_store(&f.mode, FAKE_AT_ONCE);
    for (int i = 0; i < CONNS; i++) {
        fds[i] = http_connect(&f);
        ask(i, true);
    }
    for (int i = 0; i < CONNS; i++)
        assert_true(answered(i, 20000));
    // The thread that has most.
    pthread_t best = f.served_by[0];
    int most = 0;
    for (int i = 0; i < CONNS; i++) {
        int k = 0;
        for (int j = 0; j < CONNS; j++)
            k += pthread_equal(f.served_by[i], f.served_by[j]);
        if (k > most) {
            most = k;
            best = f.served_by[i];
        }
    }
    assert_true(most > EVENTS);
    for (int i = 0; i < CONNS && n < EVENTS; i++)
        if (pthread_equal(f.served_by[i], best)) {
            if (busy < 0)
                busy = i;
            else
                of[n++] = i;
        }
    assert_int_equal(n, EVENTS);
    for (int round = 0; round < 3; round++) {
        atomic_store(&f.delay_ms, 500);
        atomic_store(&f.mode, FAKE_BLOCK);
        int before = atomic_load(&f.blocked);
        ask(busy, false);
        while (atomic_load(&f.blocked) == before)
            usleep(1000);
        atomic_store(&f.mode, FAKE_AT_ONCE);
        for (int i = 0; i < n; i++)
            ask(of[i], false);
        assert_true(answered(busy, 20000));
        for (int i = 0; i < n; i++)
            if (!answered(of[i], 8000))
                fail_msg("round %d: request %d of %d lies unread", round, i, n);
    }
    for (int i = 0; i < CONNS; i++)
        close(fds[i]);
}

// A thread of the server that hangs in a handler shows in the beat that the watchdog looks at.
static void test_beat(void **state) {
    (void)state;
    struct api_counters c;
    char buf[2000] = "";
    bool stale = false, late = true;
    uint64_t answered_at = 0;
    fds[0] = http_connect(&f);
    atomic_store(&f.delay_ms, 1500);
    atomic_store(&f.mode, FAKE_BLOCK);
    for (int round = 0; round < 10 && late; round++) { // late: it may hang no more
        const int before = atomic_load(&f.blocked);
        const uint64_t asked = now_ns();
        ask(0, false);
        while (atomic_load(&f.blocked) == before)
            usleep(1000);
        const uint64_t blocked = now_ns();
        usleep(1000000);
        api_server_counters(f.srv, &c);
        stale = c.beat_ns <= blocked;
        late = now_ns() - asked >= 1500000000;
        assert_true(read_until(fds[0], buf, sizeof buf, "fake", 20000));
        answered_at = now_ns();
        buf[0] = '\0';
    }
    assert_true(stale);
    for (int i = 0; i < 2000; i++) {
        api_server_counters(f.srv, &c);
        if (c.beat_ns > answered_at)
            break;
        usleep(10000);
    }
    assert_true(c.beat_ns > answered_at);
    atomic_store(&f.mode, FAKE_AT_ONCE);
    close(fds[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_of_events),
                                       cmocka_unit_test(test_beat)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
