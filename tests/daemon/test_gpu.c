// driftd on the emulated GPU, loaded as the module of `device cuda`: what it says without a driver,
// with an old one or without a GPU; memory that runs out; a device that is lost in the middle of a
// run. The job fails with its last checkpoint kept, the daemon lives. argv[1]: the driftd binary.
#include "tests/daemon/client.h"
#include "tests/daemon/helper.h"

#include "daemon/util.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct daemon d;

static int setup(void **state) {
    (void)state;
    char dir[256];
    test_mkdir(dir);
    d = (struct daemon){.binary = d.binary};
    snprintf(d.dir, sizeof d.dir, "%.199s", dir);
    test_tiny_file(dir, "tiny", 8, "");
    test_tiny_file(dir, "long", 1000000, "");
    return 0;
}
static int teardown(void **state) {
    (void)state;
    daemon_end(&d, SIGKILL);
    unsetenv("DRIFTD_EMU_FAIL");
    unsetenv("DRIFTD_EMU_MEMORY");
    test_rmdir(d.dir);
    return 0;
}

static void start(const char *const *flags) {
    daemon_start(&d, flags);
    assert_true(daemon_wait_ready(&d));
}

// One request; checks the status and, where given, a word of the body.
static void expect(const char *method, const char *path, const char *body, int status,
                   const char *word) {
    struct answer a;
    const char *type = body ? "Content-Type: application/json\r\n" : NULL;
    const int got = ask_http(&d, &a, method, path, type, body, body ? strlen(body) : 0);
    if (got != status || (word && (!a.body || !strstr(a.body, word))))
        fail_msg("%s %s: %d instead of %d%s%s: %s", method, path, got, status,
                 word ? ", without " : "", word ? word : "", a.body ? a.body : "");
    answer_free(&a);
}

static int64_t ask_db(const char *sql) {
    char path[300];
    sqlite3 *db = NULL;
    int64_t v = -1;
    snprintf(path, sizeof path, "%s/s/driftd.sqlite3", d.dir);
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK) {
        sqlite3_busy_timeout(db, 10000);
        v = dd_sql_one(db, -1, sql, "");
    }
    sqlite3_close(db);
    return v;
}
static void wait_db(const char *sql) {
    for (int i = 0; i < 12000; i++) {
        if (ask_db(sql) > 0)
            return;
        usleep(10000);
    }
    fail_msg("never: %s", sql);
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
        int status;
        assert_int_equal(waitpid(d.pid, &status, 0), d.pid);
        d.pid = 0;
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 0);
        assert_true(daemon_says(&d, cases[i].why));
    }
    setenv("DRIFTD_EMU_FAIL", "driver:999:0", 1);
    start((const char *const[]){"--device=auto", "--autostart=tiny", NULL});
    assert_true(daemon_says(&d, "picked=cpu"));
    assert_true(daemon_says(&d, "no_cuda="));
    expect("GET", "/readyz", NULL, 200, "cpu (");
    wait_db("SELECT count(*) FROM jobs WHERE state='completed'");
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
}

static void test_runs(void **state) {
    (void)state;
    start((const char *const[]){"--device=auto", "--autostart=tiny", NULL});
    assert_true(daemon_says(&d, "picked=emu"));
    expect("GET", "/readyz", NULL, 200, "emulated GPU");
    wait_db("SELECT count(*) FROM jobs WHERE state='completed' AND step=8");
    assert_int_equal(ask_db("SELECT count(DISTINCT step) FROM metrics WHERE job=1"), 8);
    expect("POST", "/v1/generate?class=1&n=3", NULL, 200, NULL);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
}

// A batch too large for the device, then one that fits.
static void test_out_of_memory(void **state) {
    (void)state;
    setenv("DRIFTD_EMU_MEMORY", "8", 1);
    start((const char *const[]){"--device=cuda", NULL});
    expect("POST", "/v1/jobs", "{\"config\": \"tiny\", \"overrides\": {\"train.generated\": 1500}}",
           201, NULL);
    wait_db("SELECT count(*) FROM jobs WHERE id=1 AND state='failed'");
    expect("GET", "/v1/jobs/1", NULL, 200, "MiB wanted");
    expect("POST", "/v1/jobs", "{\"config\": \"tiny\"}", 201, NULL);
    wait_db("SELECT count(*) FROM jobs WHERE id=2 AND state='completed'");
    expect("POST", "/v1/generate?class=1", NULL, 200, NULL);
    expect("GET", "/readyz", NULL, 200, NULL);
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
    start((const char *const[]){"--device=auto", NULL});
    expect("POST", "/v1/jobs", "{\"config\": \"long\", \"overrides\": {\"checkpoint.every\": 4}}",
           201, NULL);
    expect("POST", "/v1/jobs", "{\"config\": \"tiny\"}", 201, NULL);
    wait_db("SELECT count(*) FROM checkpoints");
    assert_true(close(open(trigger, O_WRONLY | O_CREAT, 0600)) == 0);
    wait_db("SELECT count(*) FROM jobs WHERE state='failed'");
    expect("GET", "/v1/jobs/1", NULL, 200, "illegal memory access");
    const int64_t step = ask_db("SELECT max(step) FROM checkpoints WHERE state='ok'");
    assert_true(step >= 4 && step % 4 == 0);
    snprintf(path, sizeof path, "%s/s/checkpoints/1/step-%08lld.safetensors", d.dir,
             (long long)step);
    assert_int_equal(access(path, R_OK), 0);
    expect("GET", "/livez", NULL, 200, NULL);
    expect("GET", "/readyz", NULL, 503, "has to be restarted");
    expect("POST", "/v1/generate?class=1", NULL, 500, "illegal memory access");
    expect("GET", "/readyz", NULL, 503, "has to be restarted");
    expect("GET", "/v1/jobs/2", NULL, 200, "queued"); // does not share the first one's fate
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
    assert_int_equal(ask_db("SELECT attempts FROM jobs WHERE id=2 AND state='queued'"), 0);

    unsetenv("DRIFTD_EMU_FAIL"); // a new process has the device again, and the job its checkpoint
    start((const char *const[]){"--device=cuda", NULL});
    wait_db("SELECT count(*) FROM jobs WHERE id=2 AND state='completed'");
    expect("POST", "/v1/jobs/1/resume", NULL, 202, NULL);
    char sql[120];
    snprintf(sql, sizeof sql, "SELECT max(step) > %lld FROM checkpoints WHERE job=1",
             (long long)step);
    wait_db(sql);
    expect("POST", "/v1/generate?class=1", NULL, 200, NULL);
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
