// What systemd relies on, against a stand-in for it: Type=notify (path and abstract sockets),
// watchdog pings, STOPPING, reload by SIGHUP, inherited sockets, the token from a credential.
// argv[1]: the driftd binary.
#include "tests/daemon/fixture.h"

#include "daemon/base/util.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static struct daemon d;
static int notify_fd = -1;
static char message[2000];

static int setup(void **state) {
    (void)state;
    daemon_open(&d);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    static const char *const names[] = {"NOTIFY_SOCKET",         "WATCHDOG_USEC", "WATCHDOG_PID",
                                        "CREDENTIALS_DIRECTORY", "LISTEN_FDS",    "LISTEN_PID"};
    for (size_t i = 0; i < DR_COUNT(names); i++)
        unsetenv(names[i]);
    if (notify_fd >= 0)
        close(notify_fd);
    notify_fd = -1;
    daemon_close(&d);
    return 0;
}

// The manager's end; NOTIFY_SOCKET is set for the next start.
static void manager(bool abstract) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    char name[108];
    snprintf(name, sizeof name, "%c%.90s/notify", abstract ? '@' : '/',
             abstract ? d.dir : d.dir + 1);
    memcpy(un.sun_path, name, sizeof name);
    if (abstract)
        un.sun_path[0] = 0;
    notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
    assert_int_equal(bind(notify_fd, (struct sockaddr *)&un, n), 0);
    struct timeval t = {.tv_sec = 20};
    setsockopt(notify_fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    setenv("NOTIFY_SOCKET", name, 1);
}
static const char *next_message(void) {
    ssize_t n = recv(notify_fd, message, sizeof message - 1, 0);
    if (n <= 0)
        fail_msg("no message within 20 s");
    message[n] = 0;
    return message;
}
// A line of the message that has just come.
static bool has(const char *line) {
    size_t n = strlen(line);
    for (const char *p = message; p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
        if (!strncmp(p, line, n))
            return true;
    return false;
}
static void wait_message(const char *line) {
    do
        next_message();
    while (!has(line));
}

static void handshake(bool abstract) {
    manager(abstract);
    setenv("WATCHDOG_USEC", "200000", 1);
    daemon_start(&d, (const char *const[]){"--autostart=long", NULL});
    next_message();
    assert_true(has("READY=1") && has("STATUS=ready at "));
    daemon_expect(&d, "GET", "/livez", NULL, 200, NULL); // ready means: it answers
    int64_t start = dd_now_ns();
    for (int i = 0; i < 5; i++)
        wait_message("WATCHDOG=1");
    // Five pings at half the interval; a wide margin, for a machine that is busy.
    assert_true(dd_now_ns() - start < 10 * (int64_t)1000000000);
    wait_message("STATUS=training tiny"); // in time; it comes with a ping
    kill(d.pid, SIGHUP);
    wait_message("RELOADING=1");
    assert_true(has("MONOTONIC_USEC="));
    wait_message("READY=1");
    wait_message("WATCHDOG=1");
    kill(d.pid, SIGTERM);
    wait_message("STOPPING=1");
    assert_true(has("EXTEND_TIMEOUT_USEC="));
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
}
static void test_notify_path(void **state) {
    (void)state;
    handshake(false);
}
static void test_notify_abstract(void **state) {
    (void)state;
    handshake(true);
}

// A watchdog meant for another process is not fed.
static void test_foreign_watchdog(void **state) {
    (void)state;
    manager(false);
    setenv("WATCHDOG_USEC", "100000", 1);
    setenv("WATCHDOG_PID", "1", 1);
    daemon_start(&d, NULL);
    wait_message("READY=1");
    usleep(400000);
    kill(d.pid, SIGTERM);
    next_message();
    assert_true(has("STOPPING=1"));
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
}

// Stops one thread of the daemon, by its name.
static pid_t stop_thread(const char *name) {
    char path[300], comm[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)d.pid);
    DIR *dir = opendir(path);
    pid_t tid = 0;
    assert_non_null(dir);
    for (struct dirent *e; !tid && (e = readdir(dir));) {
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/comm", (int)d.pid, e->d_name);
        FILE *f = fopen(path, "r");
        if (f && fgets(comm, sizeof comm, f) && !strncmp(comm, name, strlen(name)))
            tid = (pid_t)atoi(e->d_name);
        if (f)
            fclose(f);
    }
    closedir(dir);
    assert_true(tid > 0);
    if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) || ptrace(PTRACE_INTERRUPT, tid, NULL, NULL))
        return 0; // not allowed here
    assert_int_equal(waitpid(tid, NULL, __WALL), tid);
    return tid;
}

// Reads what has come and what comes until there is nothing for a second and a half.
static void drain(const char *stopped) {
    struct timeval t = {.tv_sec = 1, .tv_usec = 500000}, old = {.tv_sec = 20};
    int64_t from = dd_now_ns();
    setsockopt(notify_fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    while (recv(notify_fd, message, sizeof message, 0) > 0)
        if (dd_now_ns() - from > 60 * (int64_t)1000000000)
            fail_msg("%s stands still, and the watchdog is fed", stopped);
    setsockopt(notify_fd, SOL_SOCKET, SO_RCVTIMEO, &old, sizeof old);
}

// A job's name is text: its lines do not tell the manager anything.
static void test_name_of_many_lines(void **state) {
    (void)state;
    manager(false);
    setenv("WATCHDOG_USEC", "200000", 1);
    daemon_start(&d, NULL);
    wait_message("READY=1");
    daemon_expect(&d, "POST", "/v1/jobs",
                  "{\"config\": \"long\", \"overrides\": {\"name\": \"x\\nSTOPPING=1\"}}", 201,
                  NULL);
    wait_message("STATUS=training x STOPPING=1");
    assert_false(has("STOPPING=1"));
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
}

// The watchdog is fed while every thread makes progress and no longer: one after the other is
// stopped until there are no pings, and let go.
static void test_watchdog_starves(void **state) {
    (void)state;
    // The trainer may be stopped while it holds a lock that the log needs: no line is awaited
    // there.
    static const char *const name[][2] = {
        {"store", "thread=store"}, {"http-keeper", "thread=http"}, {"train", NULL}};
    manager(false);
    setenv("WATCHDOG_USEC", "200000", 1);
    daemon_start(&d, (const char *const[]){"--autostart=long", NULL});
    wait_message("STATUS=training tiny");
    for (size_t i = 0; i < DR_COUNT(name); i++) {
        pid_t tid = stop_thread(name[i][0]);
        if (!tid)
            skip();
        for (int t = 0; name[i][1] && !daemon_says(&d, name[i][1]); t++) {
            assert_true(t < 6000);
            recv(notify_fd, message, sizeof message, MSG_DONTWAIT); // room for the next ping
            usleep(10000);
        }
        drain(name[i][0]);
        assert_int_equal(ptrace(PTRACE_DETACH, tid, NULL, NULL), 0);
        wait_message("WATCHDOG=1");
    }
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
}

// A step that takes long when the daemon is to stop: more time is asked for as long as the trainer
// may still be at work.
static void test_long_stop(void **state) {
    (void)state;
    manager(false);
    setenv("WATCHDOG_USEC", "1000000", 1);
    daemon_start(&d, NULL);
    wait_message("READY=1");
    // Without checkpoints it holds no lock that others need when it is stopped.
    daemon_expect(&d, "POST", "/v1/jobs",
                  "{\"config\": \"long\", \"overrides\": {\"checkpoint.every\": 0}}", 201, NULL);
    wait_message("STATUS=training tiny");
    const pid_t tid = stop_thread("train");
    if (!tid)
        skip();
    kill(d.pid, SIGTERM);
    wait_message("STOPPING=1");
    for (int i = 0; i < 2; i++)
        wait_message("EXTEND_TIMEOUT_USEC=30000000");
    assert_int_equal(ptrace(PTRACE_DETACH, tid, NULL, NULL), 0);
    assert_int_equal(daemon_end(&d, 0), 0);
}

static int status_with(const char *token, const char *path) {
    struct answer a;
    char head[100] = "";
    if (token)
        snprintf(head, sizeof head, "Authorization: Bearer %s\r\n", token);
    int status = ask_http(&d, &a, "GET", path, head, NULL, 0);
    answer_free(&a);
    return status;
}
static void reload(void) {
    kill(d.pid, SIGHUP);
    wait_message("RELOADING=1");
    wait_message("READY=1");
}
static void write_token(const char *token) {
    struct dr_err err;
    char path[300];
    snprintf(path, sizeof path, "%s/api-token", d.dir);
    assert_int_equal(dd_write_file(path, token, strlen(token), &err), 0);
}

// The credential is the token; SIGHUP takes a new one; one that will not do leaves the old.
static void test_credential_and_reload(void **state) {
    (void)state;
    manager(false);
    write_token("first-token\n");
    setenv("CREDENTIALS_DIRECTORY", d.dir, 1);
    daemon_start(&d, NULL);
    wait_message("READY=1");
    assert_int_equal(status_with(NULL, "/v1/jobs"), 401);
    assert_int_equal(status_with("first-token", "/v1/jobs"), 200);
    write_token("second-token");
    assert_int_equal(status_with("second-token", "/v1/jobs"), 401);
    reload();
    assert_int_equal(status_with("first-token", "/v1/jobs"), 401);
    assert_int_equal(status_with("second-token", "/v1/jobs"), 200);
    // As systemd leaves it: its copy is of the start, whatever has happened to the file.
    assert_false(daemon_says(&d, "reload.token"));
    reload();
    assert_true(daemon_says(&d, "reload.token") && daemon_says(&d, "needs a restart"));
    write_token("short");
    reload();
    assert_int_equal(status_with("second-token", "/v1/jobs"), 200);
    assert_int_equal(status_with("short", "/v1/jobs"), 401);
    assert_true(daemon_says(&d, "reload.failed"));
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
}

static int unix_listener(const char *path) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof un.sun_path, "%.107s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

// Starts driftd with the sockets as descriptors 3 and 4 and no --listen, as systemd does.
static void activate(int first, int second) {
    char state_dir[300];
    snprintf(state_dir, sizeof state_dir, "--state-dir=%s/s", d.dir);
    d.pid = fork();
    if (d.pid)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char pid[24];
    int a = fcntl(first, F_DUPFD, 20), b = fcntl(second, F_DUPFD, 20);
    dup2(a, 3);
    dup2(b, 4);
    for (int fd = 5; fd < 64; fd++)
        close(fd);
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(null, 1);
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    setenv("LISTEN_PID", pid, 1);
    setenv("LISTEN_FDS", "2", 1);
    execl(d.binary, d.binary, state_dir, "--threads=1", "--log-level=error", (char *)NULL);
    _exit(127);
}

static void test_sockets(void **state) {
    (void)state;
    int port, first = tcp_listen(&port);
    char path[300], host[40];
    struct answer a;
    manager(false);
    snprintf(path, sizeof path, "%s/sock", d.dir);
    int second = unix_listener(path);
    // A client that comes before the service: it waits in the backlog and is answered.
    int early = tcp_dial(port);
    assert_true(early >= 0);
    activate(first, second);
    close(first);
    close(second);
    wait_message("READY=1");
    snprintf(host, sizeof host, "http://127.0.0.1:%d", port);
    assert_non_null(strstr(message, host));
    snprintf(host, sizeof host, "Host: 127.0.0.1:%d\r\n", port);
    assert_int_equal(ask_socket(early, &a, "GET", "/livez", host, NULL, 0), 200);
    answer_free(&a);
    daemon_expect(&d, "GET", "/v1/status", NULL, 200, NULL);
    assert_int_equal(daemon_end(&d, SIGTERM), 0);
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    d.binary = argv[1];
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_notify_path),           T(test_notify_abstract),
                                       T(test_name_of_many_lines),    T(test_foreign_watchdog),
                                       T(test_watchdog_starves),      T(test_long_stop),
                                       T(test_credential_and_reload), T(test_sockets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
