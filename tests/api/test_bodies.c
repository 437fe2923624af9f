// Bodies of requests: imports and uploads, how much memory and disk they may take.
#include "expect.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void small_uploads(struct api_config *c) {
    c->max_upload = 100000;
}

static void test_import(void **state) {
    (void)state;
    struct fake f;
    char *big = malloc(200001);
    fake_start(&f, small_uploads);
    memset(big, 'x', 200000);
    big[200000] = '\0';
    struct reply r = http_do(&f, "POST", "/v1/checkpoints?name=mine",
                             "Content-Type: application/octet-stream\r\n", "tensors");
    assert_string_equal(reply_header(&r, "Location"), "/v1/checkpoints/c9");
    expect(r, 201);
    assert_string_equal(f.imported, "tensors");
    expect(http_do(&f, "POST", "/v1/checkpoints", JSON_TYPE, "{\"path\":\"a/b\"}"), 201);
    assert_string_equal(f.imported, "path:a/b");
    expect_problem(http_do(&f, "POST", "/v1/checkpoints", JSON_TYPE, "{}"), 422, "invalid-value");
    r = http_do(&f, "POST", "/v1/checkpoints", "Content-Type: application/octet-stream\r\n", big);
    assert_true(r.status == 413 || r.status == 0);
    reply_free(&r);
    expect_problem(http_do(&f, "POST", "/v1/checkpoints", "Content-Type: text/plain\r\n", "x"), 415,
                   "unsupported-media-type");
    free(big);
    fake_stop(&f);
}

#define OCTETS "Content-Type: application/octet-stream\r\n"

static void little_memory(struct api_config *c) {
    c->max_held = 200000;
}

// The headers of a request with a body, and as much of that as there is.
static struct reply send_part(const struct fake *t, const char *what, const char *fields,
                              const char *body) {
    char *text;
    const int n =
        asprintf(&text, "%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n%s\r\n%s", what,
                 t->port, fields, body);
    struct reply r = http_raw(t, text, (size_t)n);
    free(text);
    return r;
}

// Bodies of all requests have one limit: decided on the headers, or while chunks come.
static void test_memory_of_bodies(void **state) {
    (void)state;
    static char chunk[100100] = "186a0\r\n", small[60100] = "ea60\r\n";
    char buf[600] = "", head[300];
    struct fake t;
    int status = 503;
    fake_start(&t, little_memory);
    const int first = http_connect(&t);
    const int n = snprintf(head, sizeof head,
                           "POST /generate HTTP/1.1\r\nHost: localhost:%d\r\n" OCTETS
                           "Content-Length: 150000\r\nExpect: 100-continue\r\n\r\n",
                           t.port);
    assert_int_equal(write(first, head, (size_t)n), n);
    assert_true(read_until(first, buf, sizeof buf, "100 Continue", 5000));
    expect_problem(send_part(&t, "POST /generate", OCTETS "Content-Length: 100000\r\n", ""), 503,
                   "busy");
    expect_problem(send_part(&t, "POST /v1/jobs", JSON_TYPE "Content-Length: 100000\r\n", ""), 503,
                   "busy");
    memset(chunk + 7, 'x', 100000);
    snprintf(chunk + 7 + 100000, 20, "\r\n0\r\n\r\n");
    expect_problem(send_part(&t, "POST /generate", OCTETS "Transfer-Encoding: chunked\r\n", chunk),
                   503, "busy");
    // Small ones are always taken: 60000 bytes, of which nearly all are blanks.
    memset(small + 6, ' ', 60000);
    memcpy(small + 6, "{\"config\":\"digits\"}", 19);
    snprintf(small + 6 + 60000, 20, "\r\n0\r\n\r\n");
    expect(send_part(&t, "POST /v1/jobs", JSON_TYPE "Transfer-Encoding: chunked\r\n", small), 201);
    close(first);
    for (int i = 0; i < 500 && status == 503; i++) {
        struct reply r =
            send_part(&t, "POST /generate", OCTETS "Transfer-Encoding: chunked\r\n", chunk);
        status = r.status;
        reply_free(&r);
        usleep(10000);
    }
    assert_int_equal(status, 422); // read, and no npy
    fake_stop(&t);
}

static void full_disk(struct api_config *c) {
    c->min_free = UINT64_MAX / 2;
}

static void test_disk_reserve(void **state) {
    (void)state;
    static const char *const length[] = {OCTETS "Content-Length: 5\r\n",
                                         OCTETS "Transfer-Encoding: chunked\r\n"};
    struct fake t;
    fake_start(&t, full_disk);
    for (int i = 0; i < 2; i++) // without the body
        expect_problem(send_part(&t, "POST /v1/checkpoints", length[i], ""), 507, "storage");
    expect_problem(send_part(&t, "PUT /v1/datasets/cats/upload", length[0], ""), 507, "storage");
    fake_stop(&t);
}

// The size of the upload that a server has open; -1: there is none.
static long long upload_size(const struct fake *t) {
    long long size = -1;
    char path[400];
    struct stat st;
    DIR *d = opendir(t->dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (!strncmp(e->d_name, ".upload-", 8) &&
            snprintf(path, sizeof path, "%s/%s", t->dir, e->d_name) > 0 && !stat(path, &st))
            size = (long long)st.st_size;
    closedir(d);
    return size;
}

static void expect_upload(const struct fake *t, long long size) {
    for (int i = 0; i < 1000 && upload_size(t) != size; i++)
        usleep(5000);
    assert_int_equal(upload_size(t), size);
}

// What will not be used takes no room while its client goes on sending.
static void test_failed_uploads(void **state) {
    (void)state;
    static char part[50000];
    char head[300];
    struct fake t;
    struct rlimit was, low;
    fake_start(&t, small_uploads);
    signal(SIGXFSZ, SIG_IGN);
    for (int full = 0; full < 2; full++) { // beyond max_upload; a file that may not grow
        const int fd = http_connect(&t);
        const int n = snprintf(head, sizeof head,
                               "POST /v1/checkpoints HTTP/1.1\r\nHost: localhost:%d\r\n" OCTETS
                               "Transfer-Encoding: chunked\r\n\r\n249f0\r\n", // 150000 bytes
                               t.port);
        assert_int_equal(write(fd, head, (size_t)n), n);
        assert_int_equal(send(fd, part, 40000, MSG_NOSIGNAL), 40000);
        expect_upload(&t, 40000);
        getrlimit(RLIMIT_FSIZE, &was);
        low = (struct rlimit){.rlim_cur = 45000, .rlim_max = was.rlim_max};
        if (full)
            setrlimit(RLIMIT_FSIZE, &low);
        assert_int_equal(send(fd, part, 50000, MSG_NOSIGNAL), 50000);
        if (!full)
            assert_int_equal(send(fd, part, 20000, MSG_NOSIGNAL), 20000);
        expect_upload(&t, 0);
        setrlimit(RLIMIT_FSIZE, &was);
        close(fd);
        expect_upload(&t, -1);
    }
    fake_stop(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_import), cmocka_unit_test(test_memory_of_bodies),
        cmocka_unit_test(test_disk_reserve), cmocka_unit_test(test_failed_uploads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
