// Faults around a running daemon: the database held by another process, a disk that takes no more,
// a folder that cannot be written, a storm of signals. The daemon goes on answering, loses nothing
// that it acknowledged, and goes on by itself when the fault is gone. argv[1]: the driftd binary.
#include "tests/daemon/fixture.h"

#include "daemon/base/util.h"

#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

static struct daemon d;
static const char tiny_job[] = "{\"config\": \"tiny\"}";

static int setup(void **state) {
    (void)state;
    daemon_open(&d);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    daemon_close(&d);
    return 0;
}

// Metrics of a job without a gap up to its last one.
static void check_gapless(int job) {
    char sql[200];
    snprintf(sql, sizeof sql,
             "SELECT max(step)-count(*) FROM metrics WHERE job=%d AND name=1 AND"
             " EXISTS (SELECT 1 FROM metrics WHERE job=%d)",
             job, job);
    assert_int_equal(daemon_sql(&d, sql), 0);
    daemon_check_db(&d);
}

// Another process writes for a while: requests that write wait for it, or are told to come back;
// reading and generating go on; metrics of the time are kept.
static void test_locked(void **state) {
    (void)state;
    daemon_up(&d, (const char *const[]){"--autostart=long", NULL});
    daemon_wait_sql(&d, "SELECT max(step) FROM jobs", 40);
    sqlite3 *db = daemon_db(&d);
    assert_int_equal(sqlite3_exec(db, "BEGIN EXCLUSIVE", NULL, NULL, NULL), SQLITE_OK);
    int64_t before = dd_sql_one(db, -1, "SELECT max(step) FROM metrics", "");
    daemon_expect(&d, "POST", "/v1/jobs", tiny_job, 503, "Retry-After: "); // after 5 s
    daemon_expect(&d, "GET", "/livez", NULL, 200, NULL);
    daemon_expect(&d, "GET", "/v1/jobs", NULL, 200, NULL);
    daemon_expect(&d, "GET", "/v1/jobs/1/metrics?max_points=10", NULL, 200, NULL);
    daemon_expect(&d, "POST", "/v1/generate?class=1&n=2", NULL, 200, NULL);
    assert_int_equal(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    daemon_expect(&d, "POST", "/v1/jobs", tiny_job, 201, NULL);
    char sql[100];
    snprintf(sql, sizeof sql, "SELECT max(step) > %lld FROM metrics", (long long)before);
    daemon_wait_sql(&d, sql, 1);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    // The refused one left nothing.
    assert_int_equal(daemon_sql(&d, "SELECT count(*) FROM jobs"), 2);
    check_gapless(1);
    assert_true(daemon_says(&d, "store.busy"));
}

// No file may grow past a few kilobytes, as on a full disk: what is asked for is refused, the
// process lives; with room again the job goes on from where it was.
static void test_full_disk(void **state) {
    (void)state;
    daemon_up(&d, (const char *const[]){"--autostart=long", NULL});
    daemon_wait_sql(&d, "SELECT count(*) FROM checkpoints", 2);
    struct rlimit old, tight = {.rlim_cur = 4096, .rlim_max = RLIM_INFINITY};
    assert_int_equal(prlimit(d.pid, RLIMIT_FSIZE, &tight, &old), 0);
    int status = daemon_status(&d, "POST", "/v1/jobs", tiny_job);
    assert_true(status == 507 || status == 500 || status == 201); // 201: it fitted into the log
    usleep(300000);
    daemon_expect(&d, "GET", "/livez", NULL, 200, NULL);
    daemon_expect(&d, "GET", "/v1/jobs", NULL, 200, NULL);
    daemon_expect(&d, "POST", "/v1/generate?class=1", NULL, 200, NULL);
    daemon_expect(&d, "POST", "/v1/db/backup", NULL, 507, "disk");
    daemon_expect(&d, "POST", "/v1/backups", NULL, 507, "disk");
    assert_int_equal(prlimit(d.pid, RLIMIT_FSIZE, &old, NULL), 0);
    int64_t seen = daemon_sql(&d, "SELECT max(step) FROM checkpoints");
    char sql[100];
    snprintf(sql, sizeof sql, "SELECT max(step) > %lld FROM checkpoints", (long long)seen);
    daemon_wait_sql(&d, sql, 1);
    daemon_expect(&d, "POST", "/v1/jobs", tiny_job, 201, NULL);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    assert_int_equal(daemon_sql(&d, "SELECT count(*) FROM jobs"), 2 + (status == 201));
    daemon_check_db(&d);
    assert_int_equal(daemon_sql(&d, "SELECT count(*) FROM jobs WHERE state='failed'"), 0);
}

// The job's folder of checkpoints turns into something that cannot be written (the owner of the
// process does not matter, so root finds it too): training goes on, an alert is raised, and later
// checkpoints are kept again.
static void test_unwritable(void **state) {
    (void)state;
    struct dr_err err;
    char dir[300], aside[300];
    daemon_up(&d, (const char *const[]){"--autostart=long", NULL});
    daemon_wait_sql(&d, "SELECT count(*) FROM checkpoints", 1);
    snprintf(dir, sizeof dir, "%s/s/checkpoints/1", d.dir);
    snprintf(aside, sizeof aside, "%s/aside", d.dir);
    assert_int_equal(rename(dir, aside), 0);
    // The trainer may just have made the folder again.
    while (dd_write_file(dir, "", 0, &err))
        test_rmdir(dir);
    daemon_wait_sql(&d, "SELECT count(*) FROM events WHERE type='alert' AND data LIKE '%disk%'", 1);
    daemon_expect(&d, "GET", "/livez", NULL, 200, NULL);
    int64_t step = daemon_sql(&d, "SELECT step FROM jobs");
    assert_int_equal(unlink(dir), 0);
    assert_int_equal(rename(aside, dir), 0);
    char sql[100];
    snprintf(sql, sizeof sql, "SELECT max(step) > %lld FROM checkpoints", (long long)step);
    daemon_wait_sql(&d, sql, 1);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    assert_int_equal(daemon_sql(&d, "SELECT count(*) FROM jobs WHERE state='interrupted'"), 1);
    // At start it is a sentence and status 1.
    daemon_start(&d, (const char *const[]){"--state-dir=/proc/driftd", NULL});
    assert_int_equal(daemon_end(&d, 0), 1);
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
    daemon_up(&d, (const char *const[]){"--autostart=long", NULL});
    daemon_wait_sql(&d, "SELECT max(step) FROM jobs", 21);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    assert_int_equal(daemon_sql(&d, "SELECT count(*) FROM jobs"), 1);
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
