// driftd on the emulated GPU, loaded as the module of `device cuda`: what it says without a driver,
// with an old one or without a GPU; memory that runs out; a device that is lost in the middle of a
// run. The job fails with its last checkpoint kept, the daemon lives. argv[1]: the driftd binary.
#include "tests/daemon/fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct daemon d;

static int setup(void **state) {
    (void)state;
    daemon_open(&d);
    test_tiny_file(d.dir, "tiny", 8);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    unsetenv("DRIFTD_EMU_FAIL");
    unsetenv("DRIFTD_EMU_MEMORY");
    daemon_close(&d);
    return 0;
}

// `cuda` asks for that device or an error; `auto` goes on with the CPU. Both say why.
static void test_missing(void **state) {
    (void)state;
    static const struct {
        const char *fail, *why;
    } cases[] = {{"driver:999:0", "no NVIDIA driver is installed"},
                 {"driver:35:0", "update the driver"},
                 {"devices:100:0", "finds no GPU"},
                 {"none:1:0", "there is no GPU 7"}};
    for (size_t i = 0; i < DR_COUNT(cases); i++) {
        setenv("DRIFTD_EMU_FAIL", cases[i].fail, 1);
        const char *device = i < 3 ? "--device=cuda" : "--device=cuda:7";
        daemon_start(&d, (const char *const[]){device, NULL});
        assert_true(daemon_end(&d, 0) > 0);
        assert_true(daemon_says(&d, cases[i].why));
    }
    setenv("DRIFTD_EMU_FAIL", "driver:999:0", 1);
    daemon_up(&d, (const char *const[]){"--device=auto", "--autostart=tiny", NULL});
    assert_true(daemon_says(&d, "picked=cpu"));
    assert_true(daemon_says(&d, "no_cuda="));
    daemon_expect(&d, "GET", "/readyz", NULL, 200, "cpu (");
    daemon_wait_sql(&d, "SELECT count(*) FROM jobs WHERE state='completed'", 1);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
}

static void test_runs(void **state) {
    (void)state;
    daemon_up(&d, (const char *const[]){"--device=auto", "--autostart=tiny", NULL});
    assert_true(daemon_says(&d, "picked=emu"));
    daemon_expect(&d, "GET", "/readyz", NULL, 200, "emulated GPU");
    daemon_wait_sql(&d, "SELECT count(*) FROM jobs WHERE state='completed' AND step=8", 1);
    assert_int_equal(daemon_sql(&d, "SELECT count(DISTINCT step) FROM metrics WHERE job=1"), 8);
    daemon_expect(&d, "POST", "/v1/generate?class=1&n=3", NULL, 200, NULL);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
}

// A batch too large for the device, then one that fits.
static void test_out_of_memory(void **state) {
    (void)state;
    setenv("DRIFTD_EMU_MEMORY", "8", 1);
    daemon_up(&d, (const char *const[]){"--device=cuda", NULL});
    daemon_expect(&d, "POST", "/v1/jobs",
                  "{\"config\": \"tiny\", \"overrides\": {\"train.generated\": 1500}}", 201, NULL);
    daemon_wait_sql(&d, "SELECT count(*) FROM jobs WHERE id=1 AND state='failed'", 1);
    daemon_expect(&d, "GET", "/v1/jobs/1", NULL, 200, "MiB wanted");
    daemon_expect(&d, "POST", "/v1/jobs", "{\"config\": \"tiny\"}", 201, NULL);
    daemon_wait_sql(&d, "SELECT count(*) FROM jobs WHERE id=2 AND state='completed'", 1);
    daemon_expect(&d, "POST", "/v1/generate?class=1", NULL, 200, NULL);
    daemon_expect(&d, "GET", "/readyz", NULL, 200, NULL);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
}

// A fault from which the process cannot use the device again, between two checkpoints. Nothing goes
// on with the CPU behind the user's back.
static void test_lost(void **state) {
    (void)state;
    char fail[400], trigger[300], path[600];
    snprintf(trigger, sizeof trigger, "%s/now", d.dir);
    snprintf(fail, sizeof fail, "launch:700:50:%s", trigger);
    setenv("DRIFTD_EMU_FAIL", fail, 1);
    daemon_up(&d, (const char *const[]){"--device=auto", NULL});
    daemon_expect(&d, "POST", "/v1/jobs",
                  "{\"config\": \"long\", \"overrides\": {\"checkpoint.every\": 4}}", 201, NULL);
    daemon_expect(&d, "POST", "/v1/jobs", "{\"config\": \"tiny\"}", 201, NULL);
    daemon_wait_sql(&d, "SELECT count(*) FROM checkpoints", 1);
    assert_true(close(open(trigger, O_WRONLY | O_CREAT, 0600)) == 0);
    daemon_wait_sql(&d, "SELECT count(*) FROM jobs WHERE state='failed'", 1);
    daemon_expect(&d, "GET", "/v1/jobs/1", NULL, 200, "illegal memory access");
    const int64_t step = daemon_sql(&d, "SELECT max(step) FROM checkpoints WHERE state='ok'");
    assert_true(step >= 4 && step % 4 == 0);
    snprintf(path, sizeof path, "%s/s/checkpoints/1/step-%08lld.safetensors", d.dir,
             (long long)step);
    assert_int_equal(access(path, R_OK), 0);
    daemon_expect(&d, "GET", "/livez", NULL, 200, NULL);
    daemon_expect(&d, "GET", "/readyz", NULL, 503, "has to be restarted");
    daemon_expect(&d, "POST", "/v1/generate?class=1", NULL, 500, "illegal memory access");
    daemon_expect(&d, "GET", "/readyz", NULL, 503, "has to be restarted");
    daemon_expect(&d, "GET", "/v1/jobs/2", NULL, 200,
                  "queued"); // does not share the first one's fate
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    assert_int_equal(daemon_sql(&d, "SELECT attempts FROM jobs WHERE id=2 AND state='queued'"), 0);

    unsetenv("DRIFTD_EMU_FAIL"); // a new process has the device again, and the job its checkpoint
    daemon_up(&d, (const char *const[]){"--device=cuda", NULL});
    daemon_wait_sql(&d, "SELECT count(*) FROM jobs WHERE id=2 AND state='completed'", 1);
    daemon_expect(&d, "POST", "/v1/jobs/1/resume", NULL, 202, NULL);
    char sql[120];
    snprintf(sql, sizeof sql, "SELECT max(step) > %lld FROM checkpoints WHERE job=1",
             (long long)step);
    daemon_wait_sql(&d, sql, 1);
    daemon_expect(&d, "POST", "/v1/generate?class=1", NULL, 200, NULL);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    d.binary = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_missing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_out_of_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
