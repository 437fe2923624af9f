// The machine around a running daemon turns: the wall clock jumps, the disk is really full, the
// state folder is read-only. argv: the driftd binary, the clock shim. The disks are mounted in a
// namespace of the daemon's own (unshare); where that is not allowed, those tests are skipped.
#include "tests/daemon/fixture.h"

#include "daemon/base/util.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct daemon d;
static const char *binary, *shim;

static int setup(void **state) {
    (void)state;
    d.binary = binary;
    daemon_open(&d);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    unsetenv("LD_PRELOAD");
    unsetenv("CLOCK_SHIM");
    daemon_close(&d);
    return 0;
}

static json_t *get_json(const char *path) {
    struct answer a;
    assert_int_equal(ask_http(&d, &a, "GET", path, NULL, NULL, 0), 200);
    json_t *j = answer_json(&a);
    answer_free(&a);
    return j;
}
// A number that a path of keys leads to in GET path.
static double number(const char *path, const char *key, const char *key2) {
    json_t *j = get_json(path), *v = json_object_get(j, key);
    if (key2)
        v = json_object_get(v, key2);
    double x = json_number_value(v);
    json_decref(j);
    return x;
}
static void wait_step(double more) {
    double from = number("/v1/status", "training", "step");
    for (int i = 0; i < 6000; i++) {
        if (number("/v1/status", "training", "step") >= from + more)
            return;
        usleep(10000);
    }
    fail_msg("training does not go on");
}
static double counter(const char *name) {
    struct answer a;
    double v = -1;
    if (ask_http(&d, &a, "GET", "/metrics", NULL, NULL, 0) == 200) {
        char *at = strstr(a.body, name);
        while (at && at > a.body && at[-1] != '\n')
            at = strstr(at + 1, name);
        v = at ? strtod(at + strlen(name), NULL) : -1;
    }
    answer_free(&a);
    return v;
}

static double newest_checkpoint(void) {
    json_t *j = get_json("/v1/checkpoints?limit=1");
    double step = json_number_value(
        json_object_get(json_array_get(json_object_get(j, "checkpoints"), 0), "step"));
    json_decref(j);
    return step;
}

// --- the clock ---

// How many seconds the clock of a daemon that is started from now on is ahead.
static volatile int64_t *shim_clock(void) {
    char file[300];
    struct dr_err err;
    int64_t ahead = 0;
    snprintf(file, sizeof file, "%s/ahead", d.dir);
    assert_int_equal(dd_write_file(file, &ahead, sizeof ahead, &err), 0);
    int fd = open(file, O_RDWR | O_CLOEXEC);
    volatile int64_t *clock = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(clock != MAP_FAILED);
    close(fd);
    setenv("LD_PRELOAD", shim, 1);
    setenv("CLOCK_SHIM", file, 1);
    return clock;
}

// Ten years ahead, back, and ten years behind: training, generation with a deadline, events and
// jobs go on, a restart with the clock behind too; metrics have no gap and event ids still grow.
static void test_clock(void **state) {
    (void)state;
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
    skip(); // their runtime wants to be first
#endif
    static const int64_t jump[] = {0, 315360000, -3600, -315360000, 86400};
    volatile int64_t *clock = shim_clock();
    int64_t boot = 0;
    for (int run = 0; run < 2; run++) { // the second starts ten years before the first one's end
        *clock = run ? jump[3] : 0;
        daemon_up(&d, (const char *const[]){"--autostart=long", NULL});
        wait_step(20);
        for (size_t i = 0; i < DR_COUNT(jump); i++) {
            *clock = jump[i];
            wait_step(60);
            daemon_expect(&d, "POST", "/v1/generate?class=1&timeout_ms=20000", NULL, 200, NULL);
            daemon_expect(&d, "GET", "/livez", NULL, 200, NULL);
            daemon_expect(&d, "GET", "/v1/jobs/1/metrics?max_points=100", NULL, 200, NULL);
        }
        assert_int_equal(daemon_end(&d, SIGTERM), 0);
        assert_int_equal(daemon_sql(&d, "SELECT max(step)-count(*) FROM metrics WHERE name=1"), 0);
        assert_int_equal(daemon_sql(&d, "SELECT count(*) FROM jobs WHERE state='failed'"), 0);
        // The jumps were seen at all: time stamps lie more than nine years apart.
        assert_true(daemon_sql(&d, "SELECT max(time_us)-min(time_us) FROM metrics") >
                    (int64_t)9 * 365 * 86400 * 1000000);
        int64_t now = daemon_sql(&d, "SELECT CAST(value AS INTEGER) FROM meta WHERE key='boot'");
        assert_true(now > boot);
        boot = now;
    }
    munmap((void *)clock, 8);
}

// Of two jobs the later one is served, also when the clock was set back in between.
static void test_served_after_clock(void **state) {
    (void)state;
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
    skip(); // their runtime wants to be first
#endif
    volatile int64_t *clock = shim_clock();
    *clock = 3600;
    daemon_up(&d, NULL);
    for (int i = 0; i < 2; i++) {
        daemon_expect(&d, "POST", "/v1/jobs", "{\"config\": \"tiny\"}", 201, NULL);
        daemon_wait_sql(&d, "SELECT count(*) FROM events WHERE data LIKE '%\"completed\"%'", i + 1);
        *clock = 0;
    }
    assert_int_equal(daemon_sql(&d, "SELECT (SELECT ended_us FROM jobs WHERE id=1) >"
                                    " (SELECT ended_us FROM jobs WHERE id=2)"),
                     1);
    daemon_expect(&d, "GET", "/v1/served", NULL, 200, "\"job\":\"2\"");
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    munmap((void *)clock, 8);
}

// --- disks ---

// Makes d.binary a script that mounts something over the state folder and starts driftd there.
static bool mounted(const char *mount) {
    static char script[300];
    char text[1200], path[300];
    struct dr_err err;
    if (system("unshare -rm true 2>/dev/null"))
        return false;
    snprintf(path, sizeof path, "%s/s", d.dir);
    mkdir(path, 0700);
    snprintf(script, sizeof script, "%s/start", d.dir);
    int n = snprintf(text, sizeof text,
                     "#!/bin/sh\nexec unshare -rm sh -c 'S=\"$1\"; D=\"$2\"; shift 2; %s && exec "
                     "\"$D\" \"$@\"' sh '%s' '%s' \"$@\"\n",
                     mount, path, binary);
    assert_int_equal(dd_write_file(script, text, (size_t)n, &err), 0);
    assert_int_equal(chmod(script, 0700), 0);
    d.binary = script;
    return true;
}

// Little room beside a large file: a checkpoint does not fit any more while the job runs. The
// process lives, reports it, serves, and goes on by itself when the file is gone.
static void test_full(void **state) {
    (void)state;
    char filler[400];
    if (!mounted("mount -t tmpfs -o size=16m tmpfs \"$S\" && "
                 "head -c 15000000 /dev/zero >\"$S/filler\""))
        skip();
    daemon_up(&d, NULL);
    daemon_expect(&d, "GET", "/readyz", NULL, 503, NULL); // less than 64 MiB
    daemon_expect(&d, "POST", "/v1/jobs",
                  "{\"config\": \"long\", \"overrides\": {\"metrics.every\": 50,"
                  " \"metrics.spread_every\": 0}}",
                  201, NULL);
    for (int i = 0; counter("driftd_checkpoint_failures_total") < 1; i++) {
        if (i == 6000)
            fail_msg("the disk never fills");
        usleep(10000);
    }
    wait_step(50); // training goes on
    daemon_expect(&d, "GET", "/livez", NULL, 200, NULL);
    daemon_expect(&d, "GET", "/v1/jobs", NULL, 200, NULL);
    daemon_expect(&d, "POST", "/v1/generate?class=1", NULL, 200, NULL);
    snprintf(filler, sizeof filler, "/proc/%d/root%s/s/filler", (int)d.pid, d.dir);
    assert_int_equal(unlink(filler), 0);
    wait_step(100); // one may have been under way
    double failures = counter("driftd_checkpoint_failures_total");
    wait_step(100);
    assert_true(counter("driftd_checkpoint_failures_total") == failures);
    double newest = newest_checkpoint();
    wait_step(100);
    assert_true(newest_checkpoint() > newest);
    daemon_expect(&d, "POST", "/v1/generate?class=1&checkpoint=latest", NULL, 200, NULL);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    assert_true(daemon_says(&d, "No space left") || daemon_says(&d, "disk is full"));
}

// Not one byte is left, while the process is down and again while it runs: it starts, and what is
// to make room can be removed.
static void test_full_before_start(void **state) {
    (void)state;
    char seed[300], folder[300], filler[400];
    daemon_up(&d, (const char *const[]){"--autostart=tiny", NULL});
    daemon_wait_sql(&d, "SELECT count(*) FROM jobs WHERE state='completed'", 1);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    snprintf(folder, sizeof folder, "%s/s", d.dir);
    snprintf(seed, sizeof seed, "%s/seed", d.dir);
    assert_int_equal(rename(folder, seed), 0);
    if (!mounted("mount -t tmpfs -o size=24m tmpfs \"$S\" && cp -R \"$S/../seed/.\" \"$S\" &&"
                 " head -c 8388608 /dev/zero >\"$S/reserve\" && "
                 "(cat /dev/zero >\"$S/filler\"; true) 2>/dev/null"))
        skip();
    daemon_up(&d, NULL);
    daemon_expect(&d, "DELETE", "/v1/checkpoints/1", NULL, 204, NULL);
    snprintf(filler, sizeof filler, "cat /dev/zero >/proc/%d/root%s/s/filler2 2>/dev/null",
             (int)d.pid, d.dir);
    assert_int_not_equal(system(filler), 0);
    daemon_expect(&d, "DELETE", "/v1/checkpoints/2", NULL, 204, NULL);
    daemon_expect(&d, "DELETE", "/v1/jobs/1", NULL, 204, NULL);
    daemon_expect(&d, "GET", "/v1/jobs/1", NULL, 404, NULL);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    assert_true(daemon_says(&d, "disk.reserve"));
}

// A state folder that has been used and is read-only now: a sentence and status 1.
static void test_read_only(void **state) {
    (void)state;
    daemon_up(&d, (const char *const[]){"--autostart=long", NULL});
    wait_step(30);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    if (!mounted("mount --bind \"$S\" \"$S\" && mount -o remount,bind,ro \"$S\""))
        skip();
    daemon_start(&d, (const char *const[]){"--autostart=long", NULL});
    assert_int_equal(daemon_end(&d, 0), 1);
    assert_true(daemon_says(&d, "Read-only file system"));
    d.binary = binary; // and nothing was harmed
    daemon_up(&d, NULL);
    wait_step(10);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    binary = argv[1];
    shim = argv[2];
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_clock), T(test_served_after_clock), T(test_full),
                                       T(test_full_before_start), T(test_read_only)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
