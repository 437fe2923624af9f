// Clients that read slowly, or not at all: an answer waits for a reader that pauses longer than an
// idle connection may, and a client that reads nothing is cut at --send-timeout-ms.
#include "fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

// More than the buffers of both sockets hold: each answer is half a megabyte.
enum { ANSWERS = 40 };

static struct fake f;
static char in[1 << 16];

static void patient(struct api_config *c) {
    c->idle_timeout_ms = 1000;
}

static void impatient(struct api_config *c) {
    c->idle_timeout_ms = 60000;
    c->send_timeout_ms = 1000;
}

static int ask(void) {
    char text[200];
    int fd = http_connect(&f);
    for (int i = 0; i < ANSWERS; i++) {
        int n = snprintf(text, sizeof text,
                         "GET /v1/jobs/j1/metrics?format=csv HTTP/1.1\r\nHost: localhost:%d\r\n%s"
                         "\r\n",
                         f.port, i == ANSWERS - 1 ? "Connection: close\r\n" : "");
        assert_int_equal(send(fd, text, (size_t)n, MSG_NOSIGNAL), n);
    }
    return fd;
}

static void test_pause(void **state) {
    (void)state;
    fake_start(&f, patient);
    int fd = ask(), answers = 0;
    size_t kept = 0;
    ssize_t n;
    sleep(4); // MHD's clock has seconds
    while ((n = recv(fd, in + kept, sizeof in - 1 - kept, 0)) > 0) {
        in[kept += (size_t)n] = '\0';
        for (char *p = in; (p = memmem(p, kept - (size_t)(p - in), "\r\n0\r\n\r\n", 7)); p++)
            answers++;
        size_t tail = kept < 6 ? kept : 6; // the end of a body may be cut in two
        memmove(in, in + kept - tail, tail);
        kept = tail;
    }
    assert_int_equal(answers, ANSWERS);
    close(fd);
    fake_stop(&f);
}

static void test_no_reader(void **state) {
    (void)state;
    struct api_counters c = {.connections = 1};
    fake_start(&f, impatient);
    int fd = ask();
    for (int i = 0; i < 1500 && c.connections; i++) {
        usleep(10000);
        api_server_counters(f.srv, &c);
    }
    assert_int_equal(c.connections, 0);
    close(fd);
    fake_stop(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pause),
                                       cmocka_unit_test(test_no_reader)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
