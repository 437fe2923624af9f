// driftctl as a process against the fake daemon: commands, exit statuses, files; `fetch` against a
// local server that breaks off, ignores ranges or sends damaged files.
#include "fake.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct fake f;
static char out[1 << 16], dir[64];
static const char *driftctl;

static int setup(void **state) {
    (void)state;
    fake_start(&f, NULL);
    snprintf(dir, sizeof dir, P_tmpdir "/driftd-ctl-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    char cmd[200];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    fake_stop(&f);
    return system(cmd);
}

// The order of what the fake notes in its threads and what the tests read here.
static void fence(void) {
    pthread_mutex_lock(&f.mu);
    pthread_mutex_unlock(&f.mu);
}

// Runs a shell line in the scratch folder, with $D for driftctl; returns its exit status.
static int sh(const char *line) {
    char cmd[2000];
    snprintf(cmd, sizeof cmd,
             "cd '%s' && D='%s' && export DRIFTD_URL=http://127.0.0.1:%d HOME='%s' SOCK='%s' && "
             "{ %s; } 2>&1",
             dir, driftctl, f.port, dir, f.unix_path, line);
    fence();
    FILE *p = popen(cmd, "r");
    size_t n = fread(out, 1, sizeof out - 1, p);
    out[n] = '\0';
    int rc = pclose(p);
    fence();
    return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

#define RUN(line, status, needle)                                                                  \
    do {                                                                                           \
        int rc_ = sh(line);                                                                        \
        if (rc_ != (status) || !strstr(out, needle))                                               \
            print_error("%s -> %d: %s\n", line, rc_, out);                                         \
        assert_int_equal(rc_, status);                                                             \
        assert_non_null(strstr(out, needle));                                                      \
    } while (0)

static void test_usage(void **state) {
    (void)state;
    RUN("$D", 2, "usage: driftctl COMMAND");
    RUN("$D help", 0, "train");
    RUN("$D help sample", 0, "--cfg");
    RUN("$D sample --help", 0, "--cfg");
    RUN("$D smaple", 2, "`sample`");
    RUN("$D sample --clas 3", 2, "`--class`");
    RUN("$D job", 2, "usage: driftctl job ID");
    RUN("$D sample --class", 2, "needs a value");
    RUN("$D train digits --set lr", 2, "KEY=VALUE");
    RUN("$D completion bash > c.sh && bash -n c.sh && grep -c complete c.sh", 0, "");
    RUN("$D --url http://127.0.0.1:1 status", 3, "connect");
    RUN("$D --token-file missing status", 2, "no token");
}

static void test_jobs(void **state) {
    (void)state;
    RUN("$D train digits --set optim.lr=0.5 --set data.set=mnist --name x --priority 3", 0, "j1\n");
    assert_string_equal(f.last_job, "{\"config\":\"digits\",\"name\":\"x\","
                                    "\"overrides\":{\"data.set\":\"mnist\",\"optim.lr\":0.5},"
                                    "\"priority\":3}");
    assert_non_null(strstr(f.last_key, "driftctl-"));
    RUN("$D train nope", 1, "config: did you mean `digits`?");
    RUN("echo '{\"train\":{\"steps\":3}}' > r.json; $D train ./r.json --json", 0, "\"id\": \"j1\"");
    RUN("$D train missing.json", 2, "missing.json");
    RUN("$D jobs", 0, "j1");
    RUN("$D jobs --json", 0, "\"jobs\"");
    RUN("$D job j1", 0, "\"running\"");
    RUN("$D job j2", 1, "there is no job `j2` (HTTP 404, request ");
    RUN("$D stop j1 --now", 0, "will stop");
    assert_int_equal(f.last_action, API_JOB_STOP_NOW);
    RUN("$D pause j1", 0, "pause");
    assert_int_equal(f.last_action, API_JOB_PAUSE);
    RUN("$D remove j1", 1, "it runs");
    RUN("$D eval --job j1", 1, "not in this build");
    RUN("$D eval", 2, "one of");
    RUN("$D evals", 1, "not in this build");
    RUN("$D compare e1", 2, "");
    RUN("$D follow j2", 1, "there is no job");
    RUN("$D metrics j1 -o m.csv && wc -l < m.csv", 0, "20001");
    RUN("$D metrics j1 --json", 0, "\"series\"");
}

static void test_images(void **state) {
    (void)state;
    RUN("$D sample --class 3 --cfg 1.5 -n 16 --seed 5 -o grid.png && wc -c < grid.png", 0, "14");
    assert_int_equal(f.last_gen.n, 16);
    assert_int_equal(f.last_images[0].label, 3);
    assert_int_equal(f.last_gen.seed, 5);
    RUN("$D sample -c 1 -o x.npy", 0, "x.npy: seed");
    assert_int_equal(f.last_gen.format, API_NPY);
    RUN("$D sample -c 1 -o - | wc -c", 0, "14");
    RUN("$D sample --class 12", 1, "0 to 9");
    RUN("$D sweep --class 3 --rows 4 -n 2 -o s.png", 0, "1,2,3,4");
    assert_int_equal(f.last_gen.n, 8);
    assert_int_equal(f.last_gen.rows, 4);
    atomic_store(&f.mode, FAKE_FULL);
    RUN("$D sample", 1, "try again in 3 s");
    atomic_store(&f.mode, FAKE_AT_ONCE);
}

static void test_files(void **state) {
    (void)state;
    RUN("$D export c1 && wc -c < c1.safetensors", 0, "1000");
    RUN("head -c 400 c1.safetensors > c2.safetensors.part && $D export c2 && "
        "cmp c1.safetensors c2.safetensors && echo same",
        0, "same");
    RUN("$D export gone", 1, "rotated away");
    RUN("$D export c1 --format onnx && wc -c < c1.onnx", 0, "1000");
    RUN("$D export c1 --format pytorch --weights raw && wc -c < c1-raw-pytorch.zip", 0, "1000");
    RUN("$D export c1 --weights raw -o r.safetensors && wc -c < r.safetensors", 0, "1000");
    RUN("$D export c1 --format onyx", 1, "onnx");
    RUN("$D export gone --format onnx", 1, "rotated away");
    RUN("printf tensors > w.safetensors; $D import w.safetensors --name w", 0, "c9");
    assert_string_equal(f.imported, "tensors");
    RUN("$D import --path some/file", 0, "c9");
    assert_string_equal(f.imported, "path:some/file");
    RUN("$D import missing", 1, "missing");
    RUN("$D activate c1", 0, "c1 is served");
    RUN("$D serve c1", 0, "checkpoint c1, step 60: a checkpoint that was promoted");
    RUN("$D serve auto", 0, "the running job");
    RUN("$D serve", 0, "the running job");
    RUN("$D serve c1 --json", 0, "\"promoted\"");
    RUN("$D serve a b", 2, "usage");
    RUN("$D checkpoints", 0, "ACTIVE");
    RUN("$D db backup -o b.sqlite && wc -c < b.sqlite", 0, "1000");
    RUN("$D db backup c.sqlite && wc -c < c.sqlite", 0, "1000");
    RUN("$D db backup c.sqlite -o d.sqlite", 2, "one of them");
    RUN("$D --version", 0, "driftctl ");
    RUN("$D status --version", 0, "driftctl ");
    RUN("$D status --json", 0, "\"fake\": \"yes\"");
    RUN("$D configs digits", 0, "digits");
    RUN("$D --url unix:$SOCK status --json", 0, "fake");
}

// ---- following a job
// -----------------------------------------------------------------------------

static void *feed(void *arg) {
    static const char *const names[] = {"loss", "drift_norm"};
    (void)arg;
    for (int i = 1; i <= 20; i++) {
        double v[2] = {1.0 / i, 2.0 / i};
        usleep(50000);
        api_publish_metrics(f.srv, "j1", i * 10, 2, names, v);
        atomic_store(&f.job_step, i * 10);
    }
    atomic_store(&f.job_ended, 1);
    json_t *o = json_pack("{s:s}", "state", "completed");
    api_publish(f.srv, "state", "j1", o);
    json_decref(o);
    return NULL;
}

static void test_follow(void **state) {
    (void)state;
    pthread_t t;
    pthread_create(&t, NULL, feed, NULL);
    RUN("$D train digits --follow", 0, "completed");
    pthread_join(t, NULL);
    assert_non_null(strstr(out, "loss 0.05"));
    atomic_store(&f.job_ended, 2);
    RUN("$D follow j1", 1, "failed: no luck");
    atomic_store(&f.job_ended, 3);
    RUN("$D follow j1", 4, "stopped");
    atomic_store(&f.job_ended, 0);
    RUN("$D follow j1 >said 2>&1 & p=$!; for i in $(seq 3000); do [ -s said ] && break; "
        "sleep .02; done; kill -INT $p; wait $p; echo status $?; cat said",
        0, "goes on");
}

// ---- fetch
// ---------------------------------------------------------------------------------------

struct mirror {
    int fd, port;
    atomic_int requests, ranges;
    atomic_int cut;       // bytes after which a response breaks off, 0: never
    atomic_bool no_range; // answers 200 to everything
    atomic_bool damaged;  // flips the first byte
    bool empty;           // has no file
    pthread_t thread;
};

static size_t load(const char *name, char *buf, size_t size) {
    char path[300];
    snprintf(path, sizeof path, "%s/src/%s", dir, name);
    FILE *in = fopen(path, "rb");
    size_t n = in ? fread(buf, 1, size, in) : 0;
    if (in)
        fclose(in);
    return n;
}

static void serve_one(struct mirror *m, int c) {
    static char data[1 << 20];
    char req[4000] = "", name[100] = "", head[300];
    size_t from = 0;
    if (!read_until(c, req, sizeof req, "\r\n\r\n", 60000))
        return;
    sscanf(req, "GET /%99s", name);
    atomic_fetch_add(&m->requests, 1);
    size_t n = m->empty ? 0 : load(name, data, sizeof data);
    const char *range = strstr(req, "Range: bytes=");
    if (m->damaged)
        data[0] ^= 1;
    if (range && !m->no_range) {
        from = strtoul(range + 13, NULL, 10);
        atomic_fetch_add(&m->ranges, 1);
    }
    int k = !n         ? snprintf(head, sizeof head, "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
            : from > 0 ? snprintf(head, sizeof head,
                                  "HTTP/1.1 206 Part\r\nContent-Range: bytes %zu-%zu/%zu\r\n"
                                  "Content-Length: %zu\r\nConnection: close\r\n\r\n",
                                  from, n - 1, n, n - from)
                       : snprintf(head, sizeof head,
                                  "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: "
                                  "close\r\n\r\n",
                                  n);
    size_t left = n > from ? n - from : 0;
    if (m->cut && left > (size_t)m->cut)
        left = (size_t)m->cut;
    if (send(c, head, (size_t)k, MSG_NOSIGNAL) < 0 || send(c, data + from, left, MSG_NOSIGNAL) < 0)
        return;
}

static void *mirror_main(void *arg) {
    struct mirror *m = arg;
    int c;
    while ((c = accept(m->fd, NULL, NULL)) >= 0) {
        serve_one(m, c);
        close(c);
    }
    return NULL;
}

static void mirror_start(struct mirror *m) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    m->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(m->fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(m->fd, 8), 0);
    getsockname(m->fd, (struct sockaddr *)&a, &n);
    m->port = ntohs(a.sin_port);
    pthread_create(&m->thread, NULL, mirror_main, m);
}

static void mirror_stop(struct mirror *m) {
    shutdown(m->fd, SHUT_RDWR);
    pthread_join(m->thread, NULL);
    close(m->fd);
}

// The first mirror refuses connections, the second has none of the files, the third has them.
static void fetch_by_turns(const struct mirror *m) {
    struct mirror empty = {.empty = true};
    char line[600];
    mirror_start(&empty);
    snprintf(
        line, sizeof line,
        "$D fetch test-set --list set.md5 --mirror http://127.0.0.1:1/ --mirror "
        "http://127.0.0.1:%d --mirror http://127.0.0.1:%d/ --data-dir turns && "
        "cmp src/a.bin turns/test-set/a.bin && cmp src/b.bin turns/test-set/b.bin && echo same",
        empty.port, m->port);
    RUN(line, 0, "same");
    assert_non_null(strstr(out, "refused"));
    assert_int_equal(atomic_load(&empty.requests), 2);
    mirror_stop(&empty);
}

static int fetch(const struct mirror *m, const char *to) {
    char line[300];
    snprintf(line, sizeof line,
             "$D fetch test-set --list set.md5 --mirror http://127.0.0.1:%d/ --data-dir %s",
             m->port, to);
    return sh(line);
}

static void test_fetch(void **state) {
    (void)state;
    assert_int_equal(sh("mkdir -p src && head -c 300000 /dev/urandom > src/a.bin && "
                        "head -c 5000 /dev/urandom > src/b.bin && "
                        "(cd src && md5sum a.bin b.bin) > set.md5"),
                     0);
    struct mirror m = {.cut = 70000};
    mirror_start(&m);
    assert_int_equal(fetch(&m, "got"), 0); // breaks off four times, goes on each time
    assert_int_equal(atomic_load(&m.ranges), 4);
    RUN("cmp src/a.bin got/test-set/a.bin && cmp src/b.bin got/test-set/b.bin && ls got/test-set",
        0, "a.bin\nb.bin\n");
    int before = atomic_load(&m.requests);
    assert_int_equal(fetch(&m, "got"), 0); // nothing to do
    assert_int_equal(atomic_load(&m.requests), before);
    m.cut = 0;
    m.no_range = true; // a part from before and a server without ranges
    RUN("mkdir -p two/test-set && head -c 1000 src/a.bin > two/test-set/a.bin.part", 0, "");
    assert_int_equal(fetch(&m, "two"), 0);
    RUN("cmp src/a.bin two/test-set/a.bin && echo same", 0, "same");
    m.no_range = false; // a part that is damaged: once more from the beginning
    RUN("mkdir -p three/test-set && head -c 1000 /dev/zero > three/test-set/a.bin.part", 0, "");
    assert_int_equal(fetch(&m, "three"), 0);
    RUN("cmp src/a.bin three/test-set/a.bin && echo same", 0, "same");
    fetch_by_turns(&m);
    m.damaged = true;
    assert_int_equal(fetch(&m, "four"), 1);
    assert_non_null(strstr(out, "checksum"));
    RUN("ls four/test-set | wc -l", 0, "0\n");
    mirror_stop(&m);
    RUN("$D fetch test-set --list set.md5 --from src --data-dir five && ls five/test-set", 0,
        "a.bin\nb.bin\n");
    RUN("$D fetch test-set --list set.md5 --from dir-that-is-missing --data-dir six", 1,
        "dir-that-is-missing");
    RUN("echo 0123456789abcdef0123456789abcdef  ../evil > bad.md5; "
        "$D fetch test-set --list bad.md5 --from src --data-dir five",
        2, "bad.md5");
    RUN("export DRIFTD_DATA=seven DRIFTD_DATA_DIR=eight; $D fetch test-set --list set.md5 --from "
        "src; "
        "unset DRIFTD_DATA; $D fetch test-set --list set.md5 --from src; ls seven/test-set "
        "eight/test-set",
        0, "eight/test-set:\na.bin\nb.bin\n\nseven/test-set:\na.bin\nb.bin\n");
    RUN("$D fetch mnits", 2, "`mnist`");
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_usage),  cmocka_unit_test(test_jobs),
                                       cmocka_unit_test(test_images), cmocka_unit_test(test_files),
                                       cmocka_unit_test(test_follow), cmocka_unit_test(test_fetch)};
    if (argc < 2)
        return 77;
    driftctl = realpath(argv[1], NULL);
    if (!driftctl)
        return 1;
    return cmocka_run_group_tests(tests, setup, teardown);
}
