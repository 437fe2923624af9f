// The whole process, as a user or systemd runs it: kill -9 in the middle of training and exact
// resume, SIGTERM, a state folder in use, bad options, `run` and its exit status. argv[1]: the
// driftd binary.
#include "tests/daemon/fixture.h"

#include "daemon/base/util.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { STEPS = 200 };
static struct daemon d, other;

static int setup(void **state) {
    (void)state;
    other.binary = d.binary;
    daemon_open(&d);
    daemon_open(&other);
    test_tiny_file(d.dir, "tiny", STEPS);
    test_tiny_file(other.dir, "tiny", STEPS);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    daemon_close(&d);
    daemon_close(&other);
    return 0;
}

// Killed three times at moments of its choosing, then left alone; the other is not disturbed.
static void test_kill_and_resume(void **state) {
    (void)state;
    static const char completed[] = "SELECT count(*) FROM jobs WHERE state='completed'";
    static const char *const flags[] = {"--autostart=tiny", NULL};
    double v[STEPS + 1], w[STEPS + 1];
    daemon_start(&other, flags);
    daemon_wait_sql(&other, completed, 1);
    assert_true(daemon_says(&other, "driftd ready: "));
    assert_int_equal(daemon_end(&other, SIGTERM), 0);
    for (int i = 0; i < 3; i++) {
        daemon_start(&d, flags);
        daemon_wait_sql(&d, "SELECT max(step) FROM jobs", 30 + 40 * i);
        assert_int_equal(daemon_end(&d, SIGKILL), -SIGKILL);
        daemon_check_db(&d);
    }
    daemon_start(&d, flags);
    daemon_wait_sql(&d, completed, 1);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    assert_int_equal(daemon_sql(&d, "SELECT count(*) FROM jobs"), 1);
    assert_int_equal(daemon_losses(&other, 1, v, STEPS + 1), STEPS);
    assert_int_equal(daemon_losses(&d, 1, w, STEPS + 1), STEPS);
    assert_memory_equal(v, w, STEPS * sizeof *v);
}

static void test_stop_and_lock(void **state) {
    (void)state;
    char same[300];
    daemon_up(&d, (const char *const[]){"--autostart=long", NULL});
    snprintf(same, sizeof same, "--state-dir=%s/s", d.dir);
    daemon_start(&other, (const char *const[]){same, NULL});
    assert_int_equal(daemon_end(&other, 0), 1);
    assert_true(daemon_says(&other, "in use by another driftd"));
    daemon_wait_sql(&d, "SELECT max(step) FROM jobs", 25);
    kill(d.pid, SIGHUP);
    kill(d.pid, SIGTERM);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    // Stopped at its step: the newest checkpoint is exactly where the job says it is.
    assert_int_equal(daemon_sql(&d, "SELECT count(*) FROM jobs WHERE state='interrupted'"), 1);
    assert_int_equal(daemon_sql(&d, "SELECT (SELECT max(step) FROM checkpoints) - step FROM jobs"),
                     0);
}

static void test_bad_options(void **state) {
    (void)state;
    static const struct {
        const char *flag, *word;
        int status;
    } bad[] = {{"--listen=0.0.0.0:0", "--token-file", 1},
               {"--autostart=no-such", "no-such", 1},
               {"--thread=1", "threads", 2},
               {"--token-file=/does/not/exist", "token-file", 1}};
    for (size_t i = 0; i < DR_COUNT(bad); i++) {
        daemon_start(&d, (const char *const[]){bad[i].flag, NULL});
        assert_int_equal(daemon_end(&d, 0), bad[i].status);
        assert_true(daemon_says(&d, bad[i].word));
    }
}

// `run` in d.dir, to its end.
static int run(const char *const *args) {
    daemon_exec(&d, args);
    return daemon_end(&d, 0);
}

static void test_run(void **state) {
    (void)state;
    char file[300], out[300], png[300], grid[310], st[300], *bytes;
    struct dr_err err;
    snprintf(file, sizeof file, "%s/tiny.json", d.dir);
    snprintf(out, sizeof out, "--out=%s/run", d.dir);
    snprintf(png, sizeof png, "%s/grid.png", d.dir);
    snprintf(grid, sizeof grid, "--grid=%s", png);
    snprintf(st, sizeof st, "--state-dir=%s/s", d.dir);
    assert_int_equal(
        run((const char *const[]){"run", file, out, grid, st, "--set=train.steps=60", NULL}), 0);
    assert_true(daemon_says(&d, "completed at step 60"));
    assert_int_equal(dd_read_file(png, 1 << 24, &bytes, NULL, &err), 0);
    assert_memory_equal(bytes, "\x89PNG", 4);
    free(bytes);
    assert_int_equal(
        run((const char *const[]){"run", file, out, st, "--set=train.steps=60", "--resume", NULL}),
        0);
    assert_true(daemon_says(&d, "resumed at step 60"));
    assert_int_not_equal(run((const char *const[]){"run", file, st, "--set=model.dmi=60", NULL}),
                         0);
    assert_true(daemon_says(&d, "model.dim"));
    daemon_exec(&d, (const char *const[]){"run", file, out, st, "--set=train.steps=1000000", NULL});
    for (int i = 0; !daemon_says(&d, "checkpoint step 20 "); i++) {
        if (i == 9000)
            fail_msg("no checkpoint");
        usleep(10000);
    }
    assert_int_equal(daemon_end(&d, SIGINT), 3);
    assert_true(daemon_says(&d, "stopped at step"));
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    d.binary = argv[1];
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_kill_and_resume), T(test_stop_and_lock),
                                       T(test_bad_options), T(test_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
