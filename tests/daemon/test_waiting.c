// Work that takes long holds up nobody: writers that wait for the database, and imports of files
// that change while they are read. argv[1]: the driftd binary.
#include "tests/daemon/fixture.h"

#include "daemon/base/util.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct daemon d;

static int setup(void **state) {
    (void)state;
    char root[300];
    daemon_open(&d);
    snprintf(root, sizeof root, "--import-root=%s", d.dir);
    daemon_up(&d, (const char *const[]){root, "--log-level=error", NULL});
    return 0;
}
static int teardown(void **state) {
    (void)state;
    int status = daemon_end(&d, SIGTERM);
    daemon_close(&d);
    return status;
}

// --- writers ---

enum { WRITERS = 8, PROBES = 24 };
static _Atomic int answered, refused;

static void *write_job(void *arg) {
    (void)arg;
    int status = daemon_status(&d, "POST", "/v1/jobs", "{\"config\": \"tiny\"}");
    atomic_fetch_add(status == 503 ? &refused : &answered, status == 503 || status == 201);
    return NULL;
}

// Seconds until the answer, which must be 200.
static double probe(const char *path) {
    int64_t t = dd_now_ns();
    daemon_expect(&d, "GET", path, NULL, 200, NULL);
    return (double)(dd_now_ns() - t) * 1e-9;
}

static void test_probes_behind_writers(void **state) {
    (void)state;
    static const char *const paths[] = {"/livez", "/readyz", "/metrics", "/v1/status"};
    pthread_t t[WRITERS];
    sqlite3 *db = daemon_db(&d);
    int slow = 0;
    answered = refused = 0;
    assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, write_job, NULL), 0);
    usleep(200000); // they are under way
    assert_int_equal(answered + refused, 0);
    for (int i = 0; i < PROBES * (int)DR_COUNT(paths); i++) {
        const char *path = paths[i % (int)DR_COUNT(paths)];
        const double s = probe(path);
        // Below any wait for the database; a machine that stands still may be slow a few times.
        if (s > 2 && ++slow > 4)
            fail_msg("%s took %.1f s, and %d probes before it more than 2", path, s, slow - 1);
        usleep(20000);
    }
    assert_int_equal(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(answered + refused, WRITERS);
    assert_int_equal(daemon_sql(&d, "SELECT count(*) FROM jobs"), answered);
    daemon_expect(&d, "POST", "/v1/jobs", "{\"config\": \"tiny\"}", 201, NULL);
}

// The stop answers writers that wait instead of cutting them off.
static void test_stop_behind_writers(void **state) {
    (void)state;
    pthread_t t[WRITERS];
    sqlite3 *db = daemon_db(&d);
    answered = refused = 0;
    assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, write_job, NULL), 0);
    usleep(200000);
    kill(d.pid, SIGTERM);
    usleep(200000);
    assert_int_equal(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(answered + refused, WRITERS);
    assert_int_equal(daemon_end(&d, 0), 0);
}

// --- imports ---

static char source[300];
static _Atomic bool stop;

// The bytes of a job's checkpoint, malloc'd.
static char *a_checkpoint(size_t *n) {
    struct answer a;
    char *bytes;
    daemon_expect(&d, "POST", "/v1/jobs", "{\"config\": \"tiny\"}", 201, NULL);
    daemon_wait_sql(&d, "SELECT count(*) FROM jobs WHERE state='completed'", 1);
    assert_int_equal(ask_http(&d, &a, "GET", "/v1/checkpoints/1/file", NULL, NULL, 0), 200);
    bytes = malloc(a.size);
    memcpy(bytes, a.body, a.size);
    *n = a.size;
    answer_free(&a);
    return bytes;
}

struct bytes {
    const char *p;
    size_t n;
};

// Truncates the file and writes it again, over and over.
static void *shake(void *arg) {
    const struct bytes *b = arg;
    unsigned seed = 1;
    while (!atomic_load(&stop)) {
        int fd = open(source, O_WRONLY);
        size_t cut = (size_t)rand_r(&seed) % b->n;
        if (ftruncate(fd, (off_t)cut))
            atomic_store(&stop, true);
        usleep(rand_r(&seed) % 300);
        if (pwrite(fd, b->p + cut, b->n - cut, (off_t)cut) != (ssize_t)(b->n - cut))
            atomic_store(&stop, true);
        close(fd);
        usleep(rand_r(&seed) % 2000);
    }
    return NULL;
}

static void test_import_of_changing_file(void **state) {
    (void)state;
    struct dr_err err = {0};
    struct bytes b;
    char *bytes = a_checkpoint(&b.n), body[400];
    int good = 0, bad = 0;
    pthread_t t;
    b.p = bytes;
    snprintf(source, sizeof source, "%s/model.safetensors", d.dir);
    snprintf(body, sizeof body, "{\"path\": \"%s\"}", source);
    assert_int_equal(dd_write_file(source, bytes, b.n, &err), 0);
    daemon_expect(&d, "POST", "/v1/checkpoints", body, 201, "\"kind\":\"import\"");
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&t, NULL, shake, &b), 0);
    for (int i = 0; i < 60; i++) {
        int status = daemon_status(&d, "POST", "/v1/checkpoints", body);
        good += status == 201;
        bad += status == 422;
    }
    assert_false(atomic_load(&stop));
    atomic_store(&stop, true);
    pthread_join(t, NULL);
    assert_int_equal(good + bad, 60); // nothing else, and the daemon lives
    daemon_expect(&d, "GET", "/livez", NULL, 200, NULL);
    // All that was taken in are the file's own bytes, once.
    assert_int_equal(daemon_sql(&d, "SELECT count(*) FROM checkpoints WHERE kind='import'"), 1);
    daemon_expect(&d, "GET", "/v1/generate?checkpoint=latest&class=1&seed=1", NULL, 200, NULL);
    char cmd[400];
    snprintf(cmd, sizeof cmd, "test -z \"$(ls -A %s/s/uploads)\"", d.dir);
    assert_int_equal(system(cmd), 0); // nothing half-copied is left
    free(bytes);
}

static void test_import_of_odd_files(void **state) {
    (void)state;
    char body[400];
    snprintf(source, sizeof source, "%s/fifo", d.dir);
    assert_int_equal(mkfifo(source, 0600), 0);
    snprintf(body, sizeof body, "{\"path\": \"%s\"}", source);
    daemon_expect(&d, "POST", "/v1/checkpoints", body, 422, "not a regular file");
    snprintf(body, sizeof body, "{\"path\": \"%s/tiny.json\"}", d.dir);
    daemon_expect(&d, "POST", "/v1/checkpoints", body, 422, "/tiny.json: ");
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    d.binary = argv[1];
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_probes_behind_writers), T(test_stop_behind_writers),
                                       T(test_import_of_changing_file),
                                       T(test_import_of_odd_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
