// Exports of checkpoints while clients read them: one file however many read the same one, and a
// limit on how many there are. argv[1]: the driftd binary.
#include "tests/daemon/fixture.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST = 8, KINDS = 4 }; // MOST: of export.c

static struct daemon d;

static int setup(void **state) {
    (void)state;
    daemon_open(&d);
    daemon_up(&d, (const char *const[]){"--log-level=error", NULL});
    // files that no socket's buffer takes whole
    daemon_expect(&d, "POST", "/v1/jobs",
                  "{\"config\": \"tiny\", \"overrides\": {\"model.dim\": 256, \"train.steps\": 3,"
                  " \"checkpoint.every\": 1}}",
                  201, NULL);
    daemon_wait_sql(&d, "SELECT count(*) FROM jobs WHERE state='completed'", 1);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    const int status = daemon_end(&d, SIGTERM);
    daemon_close(&d);
    return status;
}

// A client that reads the first line of an answer, and no more.
static int stall(int which, int status) {
    static const char *const query[KINDS] = {"format=safetensors", "format=safetensors&weights=raw",
                                             "format=pytorch", "format=pytorch&weights=raw"};
    char text[200], line[13] = "", want[13];
    const int fd = unix_dial(&d);
    assert_true(fd >= 0);
    int n = snprintf(text, sizeof text,
                     "GET /v1/checkpoints/%d/file?%s HTTP/1.1\r\nHost: localhost\r\n\r\n",
                     1 + which / KINDS, query[which % KINDS]);
    assert_int_equal(send(fd, text, (size_t)n, MSG_NOSIGNAL), n);
    assert_int_equal(recv(fd, line, 12, MSG_WAITALL), 12);
    snprintf(want, sizeof want, "HTTP/1.1 %d", status);
    assert_string_equal(line, want);
    return fd;
}

// Files of exports that the daemon holds open.
static int held(void) {
    ino_t seen[64];
    char path[100], name[600], at[700];
    int n = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)d.pid);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));) {
        struct stat st;
        snprintf(at, sizeof at, "%s/%s", path, e->d_name);
        const ssize_t k = readlink(at, name, sizeof name - 1);
        name[k < 0 ? 0 : k] = 0;
        if (!strstr(name, "/uploads/export-") || stat(at, &st))
            continue;
        bool known = false;
        for (int i = 0; i < n; i++)
            known |= seen[i] == st.st_ino;
        if (!known && n < 64)
            seen[n++] = st.st_ino;
    }
    closedir(dir);
    return n;
}

static void test_shared_and_few(void **state) {
    (void)state;
    int fd[MOST + 4], n = 0;
    for (int i = 0; i < 4; i++)
        fd[n++] = stall(0, 200);
    assert_int_equal(held(), 1);
    for (int i = 1; i < MOST; i++)
        fd[n++] = stall(i, 200);
    assert_int_equal(held(), MOST);
    close(stall(MOST, 503));
    close(stall(0, 200)); // which is there
    daemon_expect(&d, "GET", "/v1/checkpoints/3/file?format=safetensors", NULL, 503, "Retry-After");
    while (n)
        close(fd[--n]);
    for (int i = 0; i < 9000 && held(); i++)
        usleep(10000);
    assert_int_equal(held(), 0);
    close(stall(MOST, 200));
}

static void test_without_a_file(void **state) {
    (void)state;
    char path[400];
    snprintf(path, sizeof path, "%s/s/checkpoints/1/step-00000002.safetensors", d.dir);
    assert_int_equal(unlink(path), 0);
    daemon_expect(&d, "GET", "/v1/checkpoints/2/file?format=safetensors", NULL, 410,
                  "the file of checkpoint 2 is no longer there");
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    d.binary = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_shared_and_few, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_a_file, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
