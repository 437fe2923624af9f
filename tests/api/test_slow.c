// Clients that read slowly, or not at all: an answer waits for a reader that pauses longer than an
// idle connection may, and for the end of the grace of a stop; a client that reads nothing is cut
// at
// --send-timeout-ms, and earlier where answers take too much memory.
#include "expect.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

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

enum { ANSWER = 16 << 20 }; // more than sockets hold

// A connection with little room that has asked for an answer of so many bytes, and has read its
// status line into `head`.
static int ask_large(int bytes, char head[16]) {
    static const int room = 65536;
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)f.port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char text[100];
    const int n =
        snprintf(text, sizeof text,
                 "GET /generate?format=npy HTTP/1.1\r\nHost: localhost:%d\r\n\r\n", f.port);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    atomic_store(&f.answer_bytes, bytes);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(send(fd, text, (size_t)n, MSG_NOSIGNAL), n);
    assert_int_equal(recv(fd, head, 12, MSG_WAITALL), 12);
    head[12] = '\0';
    return fd;
}

// Its status.
static int large_status(int bytes, int *fd) {
    char head[16];
    *fd = ask_large(bytes, head);
    return atoi(head + 9);
}

// What is left to read.
static size_t drain(int fd) {
    size_t all = 0;
    for (ssize_t n; (n = recv(fd, in, sizeof in, 0)) > 0;)
        all += (size_t)n;
    return all;
}

static void little_room(struct api_config *c) {
    c->max_unsent = 40 << 20;
    c->stall_ms = 600000;
}

// Answers that are in memory have an upper limit; small ones may pass it.
static void test_memory_of_answers(void **state) {
    (void)state;
    struct reply r;
    int fds[3], status = 0;
    fake_start(&f, little_room);
    for (int i = 0; i < 2; i++)
        assert_int_equal(large_status(ANSWER, &fds[i]), 200);
    r = http_do(&f, "GET", "/generate?format=npy", NULL, NULL);
    expect_problem(r, 503, "busy");
    expect(http_do(&f, "GET", "/generate", NULL, NULL), 200);
    expect(http_do(&f, "GET", "/v1/jobs", NULL, NULL), 200);
    close(fds[0]); // given up: its room is free again
    for (int i = 0; i < 9000 && status != 200; i++) {
        status = large_status(ANSWER, &fds[0]);
        if (status != 200) {
            close(fds[0]);
            usleep(10000);
        }
    }
    assert_int_equal(status, 200);
    close(fds[0]);
    close(fds[1]);
    fake_stop(&f);
    fake_start(&f, little_room); // read to their end they leave nothing behind
    atomic_store(&f.answer_bytes, ANSWER);
    for (int i = 0; i < 4; i++) {
        r = http_do(&f, "GET", "/generate?format=npy", NULL, NULL);
        assert_int_equal(r.body_len, ANSWER);
        expect(r, 200);
    }
    fake_stop(&f);
}

static void short_stalls(struct api_config *c) {
    c->max_unsent = 40 << 20;
    c->stall_ms = 1;
}

// At the limit, who has not read for a while gives way.
static void test_stalled_answers(void **state) {
    (void)state;
    enum { CROWD = 10 };
    struct api_counters c = {0};
    int fds[CROWD];
    fake_start(&f, short_stalls);
    for (int i = 0, tries = 0; i < CROWD && tries < 9000; tries++) {
        if (large_status(ANSWER, &fds[i]) == 200) {
            i++;
        } else { // those before still fill the sockets
            assert_true(tries < 8999);
            close(fds[i]);
            usleep(10000);
        }
    }
    for (int i = 0; i < 9000 && (c.reaped < CROWD - 2 || c.connections > 2); i++) {
        usleep(10000);
        api_server_counters(f.srv, &c);
    }
    assert_int_equal(c.reaped, CROWD - 2);
    assert_int_equal(c.connections, 2);
    for (int i = 0; i < CROWD; i++)
        close(fds[i]);
    fake_stop(&f);
}

static void *stop_main(void *arg) {
    api_server_stop(f.srv, 60000);
    return arg;
}

// A stop waits for answers that are on their way as long as for those that are not made yet.
static void test_stop(void **state) {
    (void)state;
    char head[16];
    pthread_t stopper;
    fake_start(&f, NULL);
    const int fd = ask_large(ANSWER, head);
    assert_string_equal(head, "HTTP/1.1 200");
    pthread_create(&stopper, NULL, stop_main, NULL);
    usleep(2500000); // longer than a stop without grace leaves them
    assert_true(drain(fd) > ANSWER);
    pthread_join(stopper, NULL);
    close(fd);
    unlink(f.unix_path);
    rmdir(f.dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pause),
        cmocka_unit_test(test_no_reader),
        cmocka_unit_test(test_memory_of_answers),
        cmocka_unit_test(test_stalled_answers),
        cmocka_unit_test(test_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
