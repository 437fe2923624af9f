// The whole process, as a user or systemd runs it: kill -9 in the middle of training and exact
// resume, SIGTERM, readiness by NOTIFY_SOCKET, a state folder in use, bad options, `run` and its
// exit status. argv[1]: the driftd binary.
#include "tests/daemon/helper.h"

#include "daemon/util.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STEPS = 200 };
static const char *driftd;
static char dir[256];

// Starts driftd with output in dir/NAME.out and .err; flags end with NULL.
static pid_t spawn(const char *name, const char *const *flags) {
    char out[300], errors[300], unix_path[320], *argv[24] = {(char *)driftd};
    int n = 1;
    snprintf(out, sizeof out, "%s/%s.out", dir, name);
    snprintf(errors, sizeof errors, "%s/%s.err", dir, name);
    snprintf(unix_path, sizeof unix_path, "--listen=unix:%s/%s.sock", dir, name);
    for (; *flags; flags++)
        argv[n++] = (char *)*flags;
    if (strcmp(argv[1], "run"))
        argv[n++] = unix_path;
    pid_t p = fork();
    assert_true(p >= 0);
    if (!p) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); // a test that fails leaves no daemon behind
        int fd = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        int fe = open(errors, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(fd, 1);
        dup2(fe, 2);
        execv(driftd, argv);
        _exit(127);
    }
    return p;
}

static bool file_has(const char *name, const char *word) {
    char path[300], *text;
    struct dr_err err;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (dd_read_file(path, 1 << 24, &text, NULL, &err))
        return false;
    bool yes = strstr(text, word) != NULL;
    free(text);
    return yes;
}
static void wait_for(const char *name, const char *word) {
    for (int i = 0; i < 9000; i++) {
        if (file_has(name, word))
            return;
        usleep(10000);
    }
    fail_msg("%s does not say %s", name, word);
}
static int wait_exit(pid_t p) {
    int status = 0;
    assert_int_equal(waitpid(p, &status, 0), p);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// One number from the data base of a state folder, -1 when it cannot be read yet.
static int64_t ask(const char *state, const char *sql) {
    char path[400];
    sqlite3 *db = NULL;
    int64_t v = -1;
    snprintf(path, sizeof path, "%s/driftd.sqlite3", state);
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK) {
        sqlite3_busy_timeout(db, 2000);
        v = dd_sql_one(db, -1, sql, "");
    }
    sqlite3_close(db);
    return v;
}
static void wait_sql(const char *state, const char *sql, int64_t at_least) {
    for (int i = 0; i < 9000; i++) {
        if (ask(state, sql) >= at_least)
            return;
        usleep(10000);
    }
    fail_msg("never: %s >= %lld", sql, (long long)at_least);
}

static int read_losses(const char *state, double *v) {
    char path[400];
    struct dd_store *s;
    struct dr_err err;
    int64_t step[STEPS + 1];
    snprintf(path, sizeof path, "%s/driftd.sqlite3", state);
    assert_int_equal(dd_store_open(path, &s, &err), 0);
    int n = world_values(s, 1, DD_M_loss, step, v, STEPS + 1);
    for (int i = 0; i < n; i++)
        assert_int_equal(step[i], i + 1);
    dd_store_close(s);
    return n;
}

static int setup(void **state) {
    (void)state;
    test_mkdir(dir);
    test_tiny_file(dir, "tiny", STEPS, "");
    return 0;
}
static int teardown(void **state) {
    (void)state;
    test_rmdir(dir);
    return 0;
}

// Killed three times at moments of its choosing, then left alone.
static void test_kill_and_resume(void **state) {
    (void)state;
    char a[300], b[300], cfg[300];
    double va[STEPS + 1], vb[STEPS + 1];
    snprintf(a, sizeof a, "--state-dir=%s/a", dir);
    snprintf(b, sizeof b, "--state-dir=%s/b", dir);
    snprintf(cfg, sizeof cfg, "--config-dir=%s", dir);
    const char *const flags_a[] = {a, cfg, "--autostart=tiny", "--threads=1", NULL};
    const char *const flags_b[] = {b, cfg, "--autostart=tiny", "--threads=1", NULL};
    pid_t p = spawn("a", flags_a);
    wait_for("a.out", "driftd ready: ");
    wait_sql(a + 12, "SELECT count(*) FROM jobs WHERE state='completed'", 1);
    kill(p, SIGTERM);
    assert_int_equal(wait_exit(p), 0);
    for (int i = 0; i < 3; i++) {
        char sql[80];
        p = spawn("b", flags_b);
        snprintf(sql, sizeof sql, "SELECT max(step) FROM jobs WHERE 1+%d", i);
        wait_sql(b + 12, sql, 30 + 40 * i);
        kill(p, SIGKILL);
        assert_int_equal(wait_exit(p), -SIGKILL);
        assert_int_equal(ask(b + 12, "SELECT count(*) FROM pragma_integrity_check WHERE "
                                     "integrity_check='ok'"),
                         1);
    }
    p = spawn("b", flags_b);
    wait_sql(b + 12, "SELECT count(*) FROM jobs WHERE state='completed'", 1);
    kill(p, SIGTERM);
    assert_int_equal(wait_exit(p), 0);
    assert_int_equal(ask(b + 12, "SELECT count(*) FROM jobs"), 1);
    assert_int_equal(read_losses(a + 12, va), STEPS);
    assert_int_equal(read_losses(b + 12, vb), STEPS);
    assert_memory_equal(va, vb, STEPS * sizeof *va);
}

static void test_stop_and_lock(void **state) {
    (void)state;
    char st[300], cfg[300], sock[320], buf[300];
    test_tiny_file(dir, "long", 1000000, "");
    snprintf(st, sizeof st, "--state-dir=%s/c", dir);
    snprintf(cfg, sizeof cfg, "--config-dir=%s", dir);
    snprintf(sock, sizeof sock, "%s/notify", dir);
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof un.sun_path, "%.100s", sock);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
    setenv("NOTIFY_SOCKET", sock, 1);
    const char *const flags[] = {st, cfg, "--autostart=long", NULL};
    pid_t p = spawn("c", flags);
    unsetenv("NOTIFY_SOCKET");
    ssize_t n = recv(fd, buf, sizeof buf - 1, 0);
    assert_true(n > 0);
    buf[n] = 0;
    assert_non_null(strstr(buf, "READY=1"));
    pid_t second = spawn("second", flags);
    assert_int_equal(wait_exit(second), 1);
    assert_true(file_has("second.err", "in use by another driftd"));
    wait_sql(st + 12, "SELECT max(step) FROM jobs", 25);
    kill(p, SIGHUP);
    kill(p, SIGTERM);
    kill(p, SIGTERM);
    assert_int_equal(wait_exit(p), 0);
    close(fd);
    // Stopped at its step: the newest checkpoint is exactly where the job says it is.
    assert_int_equal(ask(st + 12, "SELECT count(*) FROM jobs WHERE state='interrupted'"), 1);
    assert_int_equal(ask(st + 12, "SELECT (SELECT max(step) FROM checkpoints) - step FROM jobs"),
                     0);
}

static void test_bad_options(void **state) {
    (void)state;
    char st[300];
    snprintf(st, sizeof st, "--state-dir=%s/d", dir);
    const char *const bad[][4] = {{st, "--listen=0.0.0.0:0", NULL},
                                  {st, "--autostart=no-such", NULL},
                                  {st, "--thread=1", NULL},
                                  {st, "--token-file=/does/not/exist", NULL}};
    static const char *const word[] = {"--token-file", "no-such", "threads", "token-file"};
    static const int status[] = {1, 1, 2, 1};
    for (int i = 0; i < 4; i++) {
        char name[20], file[30];
        snprintf(name, sizeof name, "bad%d", i);
        snprintf(file, sizeof file, "bad%d.err", i);
        assert_int_equal(wait_exit(spawn(name, bad[i])), status[i]);
        assert_true(file_has(file, word[i]));
    }
}

static void test_run(void **state) {
    (void)state;
    char file[300], out[300], grid[300], st[300];
    snprintf(file, sizeof file, "%s/tiny.json", dir);
    snprintf(out, sizeof out, "--out=%s/run", dir);
    snprintf(grid, sizeof grid, "--grid=%s/grid.png", dir);
    snprintf(st, sizeof st, "--state-dir=%s/e", dir);
    const char *const first[] = {"run", file, out, grid, st, "--set=train.steps=60", NULL};
    assert_int_equal(wait_exit(spawn("run1", first)), 0);
    assert_true(file_has("run1.out", "completed at step 60"));
    assert_true(file_has("grid.png", "\x89PNG"));
    const char *const more[] = {"run", file, out, st, "--set=train.steps=60", "--resume", NULL};
    assert_int_equal(wait_exit(spawn("run2", more)), 0);
    assert_true(file_has("run2.out", "resumed at step 60"));
    const char *const bad[] = {"run", file, st, "--set=model.dmi=60", NULL};
    assert_int_not_equal(wait_exit(spawn("run3", bad)), 0);
    assert_true(file_has("run3.err", "model.dim"));
    const char *const endless[] = {"run", file, out, st, "--set=train.steps=1000000", NULL};
    pid_t p = spawn("run4", endless);
    wait_for("run4.out", "checkpoint step 20 ");
    kill(p, SIGINT);
    assert_int_equal(wait_exit(p), 3);
    assert_true(file_has("run4.out", "stopped at step"));
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    driftd = argv[1];
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_kill_and_resume), T(test_stop_and_lock),
                                       T(test_bad_options), T(test_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
