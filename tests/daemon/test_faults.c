// Faults around a running daemon: the data base held by another process, a disk that takes no more,
// a folder that cannot be written, a storm of signals. The daemon goes on answering, loses nothing
// that it acknowledged, and goes on by itself when the fault is gone. argv[1]: the driftd binary.
#include "tests/daemon/client.h"
#include "tests/daemon/helper.h"

#include "daemon/util.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static struct daemon d;

static int setup(void **state) {
    (void)state;
    char dir[256];
    test_mkdir(dir);
    d = (struct daemon){.binary = d.binary};
    snprintf(d.dir, sizeof d.dir, "%.199s", dir);
    test_tiny_file(dir, "tiny", 60, "");
    test_tiny_file(dir, "long", 1000000, "");
    return 0;
}
static int teardown(void **state) {
    (void)state;
    daemon_end(&d, SIGKILL);
    test_rmdir(d.dir);
    return 0;
}

static int submit(const char *body) {
    struct answer a;
    int status = ask_http(&d, &a, "POST", "/v1/jobs", "Content-Type: application/json\r\n", body,
                          strlen(body));
    if (status == 503)
        assert_non_null(strstr(a.head, "Retry-After: "));
    answer_free(&a);
    return status;
}
static int get(const char *path) {
    struct answer a;
    int status = ask_http(&d, &a, "GET", path, NULL, NULL, 0);
    answer_free(&a);
    return status;
}
static int post(const char *path) {
    struct answer a;
    int status = ask_http(&d, &a, "POST", path, NULL, NULL, 0);
    answer_free(&a);
    return status;
}

static sqlite3 *open_db(void) {
    char path[300];
    sqlite3 *db = NULL;
    snprintf(path, sizeof path, "%s/s/driftd.sqlite3", d.dir);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    sqlite3_busy_timeout(db, 10000);
    return db;
}
static int64_t ask_db(const char *sql) {
    sqlite3 *db = open_db();
    int64_t v = dd_sql_one(db, -1, sql, "");
    sqlite3_close(db);
    return v;
}
static void wait_db(const char *sql, int64_t at_least) {
    for (int i = 0; i < 9000; i++) {
        if (ask_db(sql) >= at_least)
            return;
        usleep(10000);
    }
    fail_msg("never: %s >= %lld", sql, (long long)at_least);
}
// Metrics of a job without a gap up to its last one.
static void check_gapless(int job) {
    char sql[200];
    snprintf(sql, sizeof sql,
             "SELECT max(step)-count(*) FROM metrics WHERE job=%d AND name=1 AND"
             " EXISTS (SELECT 1 FROM metrics WHERE job=%d)",
             job, job);
    assert_int_equal(ask_db(sql), 0);
    assert_int_equal(ask_db("SELECT count(*) FROM pragma_integrity_check WHERE "
                            "integrity_check='ok'"),
                     1);
}

// Another process writes for a while: requests that write wait for it, or are told to come back;
// reading and generating go on; metrics of the time are kept.
static void test_locked(void **state) {
    (void)state;
    daemon_start(&d, (const char *const[]){"--autostart=long", NULL});
    assert_true(daemon_wait_ready(&d));
    wait_db("SELECT max(step) FROM jobs", 40);
    sqlite3 *db = open_db();
    assert_int_equal(sqlite3_exec(db, "BEGIN EXCLUSIVE", NULL, NULL, NULL), SQLITE_OK);
    int64_t before = dd_sql_one(db, -1, "SELECT max(step) FROM metrics", "");
    assert_int_equal(submit("{\"config\": \"tiny\"}"), 503); // after 5 s
    assert_int_equal(get("/livez"), 200);
    assert_int_equal(get("/v1/jobs"), 200);
    assert_int_equal(get("/v1/jobs/1/metrics?max_points=10"), 200);
    assert_int_equal(post("/v1/generate?class=1&n=2"), 200);
    assert_int_equal(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(submit("{\"config\": \"tiny\"}"), 201);
    char sql[100];
    snprintf(sql, sizeof sql, "SELECT max(step) > %lld FROM metrics", (long long)before);
    wait_db(sql, 1);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    assert_int_equal(ask_db("SELECT count(*) FROM jobs"), 2); // the refused one left nothing
    check_gapless(1);
    assert_true(daemon_says(&d, "store.busy"));
}

// No file may grow past a few kilobytes, as on a full disk: what is asked for is refused, the
// process lives; with room again the job goes on from where it was.
static void test_full_disk(void **state) {
    (void)state;
    daemon_start(&d, (const char *const[]){"--autostart=long", NULL});
    assert_true(daemon_wait_ready(&d));
    wait_db("SELECT count(*) FROM checkpoints", 2);
    struct rlimit old, tight = {.rlim_cur = 4096, .rlim_max = RLIM_INFINITY};
    assert_int_equal(prlimit(d.pid, RLIMIT_FSIZE, &tight, &old), 0);
    int status = submit("{\"config\": \"tiny\"}");
    assert_true(status == 507 || status == 500 || status == 201); // 201: it fitted into the log
    usleep(300000);
    assert_int_equal(get("/livez"), 200);
    assert_int_equal(get("/v1/jobs"), 200);
    assert_int_equal(post("/v1/generate?class=1"), 200);
    assert_int_equal(prlimit(d.pid, RLIMIT_FSIZE, &old, NULL), 0);
    int64_t seen = ask_db("SELECT max(step) FROM checkpoints");
    char sql[100];
    snprintf(sql, sizeof sql, "SELECT max(step) > %lld FROM checkpoints", (long long)seen);
    wait_db(sql, 1);
    assert_int_equal(submit("{\"config\": \"tiny\"}"), 201);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    assert_int_equal(ask_db("SELECT count(*) FROM jobs"), 2 + (status == 201));
    assert_int_equal(ask_db("SELECT count(*) FROM pragma_integrity_check WHERE "
                            "integrity_check='ok'"),
                     1);
    assert_int_equal(ask_db("SELECT count(*) FROM jobs WHERE state='failed'"), 0);
}

// The job's folder of checkpoints turns into something that cannot be written (the owner of the
// process does not matter, so root finds it too): training goes on, an alert says so, and later
// checkpoints are kept again.
static void test_unwritable(void **state) {
    (void)state;
    struct dr_err err;
    char dir[300], aside[300];
    daemon_start(&d, (const char *const[]){"--autostart=long", NULL});
    assert_true(daemon_wait_ready(&d));
    wait_db("SELECT count(*) FROM checkpoints", 1);
    snprintf(dir, sizeof dir, "%s/s/checkpoints/1", d.dir);
    snprintf(aside, sizeof aside, "%s/aside", d.dir);
    assert_int_equal(rename(dir, aside), 0);
    // The trainer may just have made the folder again.
    while (dd_write_file(dir, "", 0, &err))
        test_rmdir(dir);
    wait_db("SELECT count(*) FROM events WHERE type='alert' AND data LIKE '%disk%'", 1);
    assert_int_equal(get("/livez"), 200);
    int64_t step = ask_db("SELECT step FROM jobs");
    assert_int_equal(unlink(dir), 0);
    assert_int_equal(rename(aside, dir), 0);
    char sql[100];
    snprintf(sql, sizeof sql, "SELECT max(step) > %lld FROM checkpoints", (long long)step);
    wait_db(sql, 1);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    assert_int_equal(ask_db("SELECT count(*) FROM jobs WHERE state='interrupted'"), 1);
    // At start it is a sentence and status 1.
    daemon_start(&d, (const char *const[]){"--state-dir=/proc/driftd", NULL});
    assert_int_equal(daemon_end(&d, SIGCONT), 1);
    assert_true(daemon_says(&d, "state-dir: cannot create folder /proc/driftd"));
}

// Signals of every kind from the first instant on, and again during the stop.
static void test_signal_storm(void **state) {
    (void)state;
    static const int sig[] = {SIGHUP, SIGTERM, SIGINT, SIGTERM, SIGHUP, SIGPIPE};
    for (int round = 0; round < 6; round++) {
        daemon_start(&d, (const char *const[]){"--autostart=long", NULL});
        usleep((useconds_t)round * 40000);
        if (round == 5)
            daemon_wait_ready(&d);
        for (int i = 0; i < 60; i++) {
            kill(d.pid, sig[i % (int)DR_COUNT(sig)]);
            usleep(500);
        }
        int status = daemon_end(&d, SIGTERM);
        // Before it has begun to build anything a signal simply ends it.
        if (status && status != -SIGTERM && status != -SIGHUP && status != -SIGINT &&
            status != -SIGPIPE)
            fail_msg("round %d ended with %d", round, status);
        if (round == 5)
            assert_int_equal(status, 0);
    }
    daemon_start(&d, (const char *const[]){"--autostart=long", NULL});
    assert_true(daemon_wait_ready(&d));
    wait_db("SELECT max(step) FROM jobs", 21);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    assert_int_equal(ask_db("SELECT count(*) FROM jobs"), 1);
    check_gapless(1);
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    d.binary = argv[1];
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_locked), T(test_full_disk), T(test_unwritable),
                                       T(test_signal_storm)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
