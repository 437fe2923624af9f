// Event streams: hello and ids, delivery, metric batches at 10 Hz, replay from the ring and from
// the store, gaps, filters, pings, reconnects without gap or duplicate, the limit on clients.
#include "fake.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static char buf[1 << 20];

static void edit(struct api_config *c) {
    c->ping_ms = 300;
    c->max_sse = 8;
}

FAKE_SERVER(edit)

static int open_stream(const char *target, const char *last) {
    char req[400], id[64] = "";
    int fd = http_connect(&f);
    if (last)
        snprintf(id, sizeof id, "Last-Event-ID: %s\r\n", last);
    int n = snprintf(req, sizeof req,
                     "GET %s HTTP/1.1\r\nHost: localhost:%d\r\nAccept: text/event-stream\r\n%s\r\n",
                     target, f.port, id);
    assert_int_equal(write(fd, req, (size_t)n), n);
    buf[0] = '\0';
    assert_true(read_until(fd, buf, sizeof buf, "event: hello", 60000));
    return fd;
}

static uint64_t emit(const char *type, const char *job, int value) {
    json_t *o = json_pack("{s:i}", "value", value);
    uint64_t seq = api_publish(f.srv, type, job, o);
    json_decref(o);
    return seq;
}

static int count(const char *needle) {
    int n = 0;
    for (const char *p = buf; (p = strstr(p, needle)); p++)
        n++;
    return n;
}

static void test_live(void **state) {
    (void)state;
    int fd = open_stream("/v1/events", NULL);
    assert_non_null(strstr(buf, "Content-Type: text/event-stream"));
    assert_non_null(strstr(buf, "retry: 2000\n"));
    assert_non_null(strstr(buf, "\"boot\":7"));
    uint64_t seq = emit("state", "j1", 11);
    char want[64];
    snprintf(want, sizeof want, "id: 7-%llu\nevent: state\ndata: {\"value\":11}\n\n",
             (unsigned long long)seq);
    assert_true(read_until(fd, buf, sizeof buf, want, 60000));
    assert_true(read_until(fd, buf, sizeof buf, ": ping", 60000));
    close(fd);
}

static void test_metrics(void **state) {
    (void)state;
    static const char *const names[] = {"loss", "drift_norm"};
    int fd = open_stream("/v1/events", NULL);
    for (int i = 0; i < 200; i++) {
        double v[2] = {0.5, i == 3 ? (double)NAN : i};
        api_publish_metrics(f.srv, "j1", 100 + i, 2, names, v);
        usleep(2500);
    }
    assert_true(read_until(fd, buf, sizeof buf, "[299,0.5,199]", 60000));
    assert_non_null(strstr(buf, "\"step0\":100,\"cols\":[\"step\",\"loss\",\"drift_norm\"]"));
    assert_non_null(strstr(buf, "[103,0.5,null]"));
    int events = count("event: metrics");
    assert_in_range(events, 1, 199); // gathered: fewer than the 200 rows
    // an event never overtakes the rows before it
    double v[2] = {1, 1};
    api_publish_metrics(f.srv, "j1", 777, 2, names, v);
    emit("checkpoint", "j1", 5);
    assert_true(read_until(fd, buf, sizeof buf, "event: checkpoint", 60000));
    assert_true(strstr(buf, "[777,") < strstr(buf, "event: checkpoint"));
    close(fd);
}

static void test_replay(void **state) {
    (void)state;
    uint64_t a = emit("state", "j1", 1001), b = emit("state", "j1", 1002);
    char last[32], want[64];
    snprintf(last, sizeof last, "7-%llu", (unsigned long long)a);
    int fd = open_stream("/v1/events", last);
    assert_true(read_until(fd, buf, sizeof buf, "1002", 60000));
    assert_null(strstr(buf, "1001"));
    assert_null(strstr(buf, "event: gap"));
    assert_int_equal(count("event: state"), 1);
    assert_non_null(strstr(buf, "\"resumed\":true"));
    close(fd);
    // the last id may come in the query, and in a fresh stream nothing is repeated
    snprintf(want, sizeof want, "/v1/events?last_event_id=7-%llu", (unsigned long long)b);
    fd = open_stream(want, NULL);
    emit("state", "j1", 1003);
    assert_true(read_until(fd, buf, sizeof buf, "1003", 60000));
    assert_null(strstr(buf, "1002"));
    close(fd);
}

static void test_reconnect_loses_nothing(void **state) {
    (void)state;
    char last[64] = "";
    int next = 0;
    for (int round = 0; round < 10; round++) {
        int fd = open_stream("/v1/events", round ? last : NULL);
        for (int i = 0; i < 5; i++)
            emit("sample", "j1", 5000 + round * 10 + i);
        char want[32];
        snprintf(want, sizeof want, "{\"value\":%d}", 5000 + round * 10 + 4);
        assert_true(read_until(fd, buf, sizeof buf, want, 60000));
        for (char *p = buf; (p = strstr(p, "\nevent: sample\ndata: {\"value\":")); p++) {
            assert_int_equal(atoi(p + 30), 5000 + next);
            next++;
        }
        for (char *p = buf; (p = strstr(p, "id: 7-")); p++)
            snprintf(last, sizeof last, "%.*s", (int)strcspn(p + 4, "\n"), p + 4);
        close(fd);
        for (int i = 5; i < 10; i++) // while nobody listens
            emit("sample", "j1", 5000 + round * 10 + i);
    }
}

static void test_other_boot(void **state) {
    (void)state;
    int asked = f.events_asked;
    int fd = open_stream("/v1/events", "6-40");
    assert_true(read_until(fd, buf, sizeof buf, "event: gap", 60000));
    assert_int_equal(f.events_asked, asked + 1);
    char *stored = strstr(buf, "id: 6-41\nevent: state\ndata: {\"state\":\"stored\"}");
    assert_non_null(stored);
    assert_true(stored < strstr(buf, "event: gap"));
    assert_non_null(strstr(buf, "\"from\":\"6-40\",\"to\":\"7-0\""));
    assert_true(read_until(fd, buf, sizeof buf, "id: 7-1\n", 60000)); // this boot from its start
    close(fd);
    fd = open_stream("/v1/events", "9-9999"); // an id of the future
    assert_true(read_until(fd, buf, sizeof buf, "\"events\":true}", 60000));
    assert_int_equal(f.events_asked, asked + 1);
    close(fd);
}

// Streams that tests before have closed leave on a ping.
static void all_gone(void) {
    struct api_counters c = {.sse_clients = 1};
    for (int i = 0; i < 3000 && c.sse_clients; i++) {
        usleep(10000);
        api_server_counters(f.srv, &c);
    }
    assert_int_equal(c.sse_clients, 0);
}

// What no stream has had leaves open what its client has seen.
static void test_strange_ids(void **state) {
    (void)state;
    static const char *const strange[] = {"nonsense", "6", "6-40x", "6-9223372036854775808",
                                          "99999999999999999999-1"};
    all_gone();
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++) {
        int fd = open_stream("/v1/events", strange[i]);
        assert_true(read_until(fd, buf, sizeof buf, "\"events\":true}", 60000));
        assert_non_null(strstr(buf, "\"from\":\"0-0\",\"to\":\"7-0\""));
        assert_non_null(strstr(buf, "\"resumed\":false"));
        close(fd);
    }
    int fd = open_stream("/v1/events", "6-40 \t"); // as without the space behind it
    assert_true(read_until(fd, buf, sizeof buf, "\"from\":\"6-40\",\"to\":\"7-0\"", 60000));
    close(fd);
    fd = open_stream("/v1/events", ""); // none
    assert_null(strstr(buf, "event: gap"));
    close(fd);
}

// Out of the store page by page, up to a limit: what was left out is announced.
static void test_long_replay(void **state) {
    (void)state;
    f.stored = 1700;
    int fd = open_stream("/v1/events", "6-0");
    assert_true(read_until(fd, buf, sizeof buf, "\"events\":false}\n\n", 60000));
    assert_int_equal(count("event: state\ndata: {\"n\":"), 1700);
    assert_non_null(strstr(buf, "id: 6-1700\n"));
    assert_non_null(strstr(buf, "\"from\":\"6-0\""));
    close(fd);
    fd = open_stream("/v1/events", "6-1699"); // what a client has seen does not come again
    assert_true(read_until(fd, buf, sizeof buf, "event: gap", 60000));
    assert_int_equal(count("event: state\ndata: {\"n\":"), 1);
    close(fd);
    f.stored = 20001;
    fd = open_stream("/v1/events", "6-1");
    assert_true(read_until(fd, buf, sizeof buf, "\"events\":false}\n\n", 60000));
    assert_int_equal(count("event: state\ndata: {\"n\":"), 20000);
    close(fd);
    fd = open_stream("/v1/events", "6-0");
    assert_true(read_until(fd, buf, sizeof buf, "\"events\":true}\n\n", 60000));
    assert_int_equal(count("event: state\ndata: {\"n\":"), 20000);
    assert_null(strstr(buf, "id: 6-20001\n"));
    close(fd);
    f.stored = 0;
}

static void test_job_filter(void **state) {
    (void)state;
    struct reply r = http_do(&f, "GET", "/v1/jobs/j9/events", NULL, NULL);
    assert_int_equal(r.status, 404);
    reply_free(&r);
    int fd = open_stream("/v1/jobs/j1/events", NULL);
    for (int i = 0; i < 9000; i++) // laps the ring with events of another job
        emit("state", "j2", 1);
    emit("state", "j1", 424242);
    assert_true(read_until(fd, buf, sizeof buf, "424242", 60000));
    assert_int_equal(count("event: state"), 1);
    assert_int_equal(count("event: gap"), 0);
    close(fd);
}

static void test_lapped_client(void **state) {
    (void)state;
    uint64_t seq = emit("state", "j1", 1);
    char last[32];
    for (int i = 0; i < 9000; i++)
        emit("state", "j1", i);
    snprintf(last, sizeof last, "7-%llu", (unsigned long long)seq);
    int fd = open_stream("/v1/events", last); // fell out of the ring: store, gap, ring
    assert_true(read_until(fd, buf, sizeof buf, "{\"value\":8999}", 60000));
    assert_int_equal(count("event: gap"), 1);
    assert_non_null(strstr(buf, "stored"));
    close(fd);
}

// A client may end its side after the request: it goes on to receive. When it closes, the stream
// ends with the next ping.
static void test_half_closed(void **state) {
    (void)state;
    struct api_counters c = {.sse_clients = 1};
    int fd = open_stream("/v1/events", NULL);
    shutdown(fd, SHUT_WR);
    assert_true(read_until(fd, buf, sizeof buf, ": ping", 60000));
    emit("state", "j1", 4711);
    assert_true(read_until(fd, buf, sizeof buf, "4711", 60000));
    close(fd);
    int ms = 0;
    for (; ms < 20000 && c.sse_clients; ms += 10) {
        usleep(10000);
        api_server_counters(f.srv, &c);
    }
    assert_int_equal(c.sse_clients, 0);
}

static void test_limit(void **state) {
    (void)state;
    int fds[8];
    all_gone();
    for (int i = 0; i < 8; i++)
        fds[i] = open_stream("/v1/events", NULL);
    struct reply r = http_do(&f, "GET", "/v1/events", NULL, NULL);
    assert_int_equal(r.status, 503);
    assert_non_null(reply_header(&r, "Retry-After"));
    reply_free(&r);
    r = http_do(&f, "GET", "/v1/events", "Accept: application/json\r\n", NULL);
    assert_int_equal(r.status, 406);
    reply_free(&r);
    r = http_do(&f, "HEAD", "/v1/events", NULL, NULL);
    assert_int_equal(r.status, 405);
    reply_free(&r);
    for (int i = 0; i < 8; i++)
        close(fds[i]);
}

// A stream of `t` that has said hello; -1: it was refused.
static int try_stream(const struct fake *t) {
    char req[200];
    int fd = http_connect(t);
    int n =
        snprintf(req, sizeof req, "GET /v1/events HTTP/1.1\r\nHost: localhost:%d\r\n\r\n", t->port);
    assert_int_equal(write(fd, req, (size_t)n), n);
    buf[0] = '\0';
    assert_true(read_until(fd, buf, sizeof buf, "\r\n\r\n", 60000));
    if (strstr(buf, " 200 OK")) {
        assert_true(read_until(fd, buf, sizeof buf, "event: hello", 60000));
        return fd;
    }
    assert_non_null(strstr(buf, " 503 "));
    close(fd);
    return -1;
}

static void few_streams(struct api_config *c) {
    c->max_sse = 8; // and a ping every 15 s
}

// What a client has closed is free again long before the next ping; one that has only ended its
// side stays.
static void test_closed_streams(void **state) {
    (void)state;
    struct fake t;
    int fds[8], half, again = -1;
    fake_start(&t, few_streams);
    for (int i = 0; i < 8; i++)
        assert_true((fds[i] = try_stream(&t)) >= 0);
    assert_int_equal(try_stream(&t), -1);
    half = fds[0];
    shutdown(half, SHUT_WR);
    for (int i = 1; i < 8; i++)
        close(fds[i]);
    for (int i = 0; i < 160 && again < 0; i++) {
        usleep(50000);
        again = try_stream(&t);
    }
    assert_true(again >= 0);
    struct api_counters c = {.sse_clients = 8};
    for (int i = 0; i < 160 && c.sse_clients > 2; i++) {
        usleep(50000);
        api_server_counters(t.srv, &c);
    }
    assert_int_equal(c.sse_clients, 2);
    json_t *o = json_pack("{s:i}", "value", 4712);
    api_publish(t.srv, "state", "j1", o);
    json_decref(o);
    buf[0] = '\0';
    assert_true(read_until(half, buf, sizeof buf, "4712", 60000));
    close(half);
    close(again);
    fake_stop(&t);
}

static void few_connections(struct api_config *c) {
    c->max_connections = 6;
}

// Streams take half of the connections at most.
static void test_room_beside_streams(void **state) {
    (void)state;
    struct fake t;
    int fds[3];
    fake_start(&t, few_connections);
    for (int i = 0; i < 3; i++)
        assert_true((fds[i] = try_stream(&t)) >= 0);
    assert_int_equal(try_stream(&t), -1);
    struct reply r = http_do(&t, "GET", "/livez", NULL, NULL);
    assert_int_equal(r.status, 200);
    reply_free(&r);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    fake_stop(&t);
}

static void two_tokens(struct api_config *c) {
    c->token = "token-one read\ntoken-two read\ntoken-three";
}

// A stream ends with its token, or with what that may do; the others go on.
static void test_removed_token(void **state) {
    (void)state;
    static const char *const tokens[] = {"token-one", "token-two", "token-three"};
    static char text[3][4096];
    struct api_counters c;
    struct fake t;
    char req[200], err[200];
    int fds[3];
    fake_start(&t, two_tokens);
    for (int i = 0; i < 3; i++) {
        const int n = snprintf(req, sizeof req,
                               "GET /v1/events HTTP/1.1\r\nHost: localhost:%d\r\n"
                               "Authorization: Bearer %s\r\nConnection: close\r\n\r\n",
                               t.port, tokens[i]);
        fds[i] = http_connect(&t);
        text[i][0] = '\0';
        assert_int_equal(write(fds[i], req, (size_t)n), n);
        assert_true(read_until(fds[i], text[i], sizeof text[i], "event: hello", 60000));
    }
    const char *const fewer = "token-new read\ntoken-two generate\ntoken-three read 5/min";
    assert_int_equal(api_server_reload(t.srv, fewer, NULL, NULL, err, sizeof err), 0);
    json_t *o = json_pack("{s:s}", "state", "running");
    api_publish(t.srv, "state", "j1", o);
    json_decref(o);
    for (int i = 0; i < 3; i++)
        assert_true(read_until(fds[i], text[i], sizeof text[i],
                               i < 2 ? "\r\n0\r\n" : "event: state", 60000));
    assert_null(strstr(text[0], "event: state"));
    assert_null(strstr(text[1], "event: state"));
    api_server_counters(t.srv, &c);
    assert_int_equal(c.sse_clients, 1);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    fake_stop(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_live),
        cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_other_boot),
        cmocka_unit_test(test_strange_ids),
        cmocka_unit_test(test_replay),
        cmocka_unit_test(test_reconnect_loses_nothing),
        cmocka_unit_test(test_long_replay),
        cmocka_unit_test(test_job_filter),
        cmocka_unit_test(test_lapped_client),
        cmocka_unit_test(test_half_closed),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_closed_streams),
        cmocka_unit_test(test_room_beside_streams),
        cmocka_unit_test(test_removed_token),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
