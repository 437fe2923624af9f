// The driftd under test: started, given jobs, looked at from outside (serve_bench.h).
#include "tests/bench/serve_bench.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void stop_daemon(void) {
    char cmd[128];
    if (bench.pid > 0) {
        kill(bench.pid, SIGTERM);
        waitpid(bench.pid, NULL, 0);
        bench.pid = 0;
    }
    if (bench.dir[0]) {
        snprintf(cmd, sizeof cmd, "rm -rf '%s'", bench.dir);
        if (system(cmd))
            fprintf(stderr, "serve_bench: %s is left behind\n", bench.dir);
        bench.dir[0] = 0;
    }
}

void start_daemon(void) {
    int out[2];
    char state[80], line[512] = "";
    snprintf(bench.dir, sizeof bench.dir, "/tmp/serve_bench-XXXXXX");
    if (!mkdtemp(bench.dir) || pipe2(out, O_CLOEXEC))
        bench_die("no temporary folder");
    snprintf(state, sizeof state, "%s/state", bench.dir);
    atexit(stop_daemon);
    bench.pid = fork();
    if (bench.pid == 0) {
        char log[80];
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        snprintf(log, sizeof log, "%s/log", bench.dir);
        dup2(out[1], 1);
        dup2(open(log, O_WRONLY | O_CREAT, 0600), 2);
        execl(bench.driftd, bench.driftd, "serve", "--listen", "127.0.0.1:0", "--state-dir", state,
              "--config-dir", bench.configs, "--data-dir", bench.dir, (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    FILE *f = fdopen(out[0], "r");
    if (!f || !fgets(line, sizeof line, f) || !strstr(line, "http://127.0.0.1:"))
        bench_die("%s did not get ready: %s", bench.driftd, line);
    bench.port = (int)strtol(strstr(line, "127.0.0.1:") + 10, NULL, 10);
    fclose(f);
}

// ---- jobs ----

long start_job(const char *request) {
    int status;
    json_t *j = client_json(bench.port, "POST", "/v1/jobs", request, &status);
    const json_t *id = json_object_get(j, "id");
    if (status != 201 || !json_is_string(id))
        bench_die("the job was refused with %d: %s", status,
                  json_string_value(json_object_get(j, "detail")));
    long n = strtol(json_string_value(id), NULL, 10);
    json_decref(j);
    return n;
}

static json_t *job_get(long job) {
    char target[64];
    snprintf(target, sizeof target, "/v1/jobs/%ld", job);
    return client_json(bench.port, "GET", target, NULL, NULL);
}

void wait_steps(long job, json_int_t steps) {
    for (int i = 0; i < 600; i++) {
        json_t *s = client_json(bench.port, "GET", "/v1/status", NULL, NULL);
        json_t *run = json_object_get(s, "training");
        json_int_t step = json_integer_value(json_object_get(run, "step"));
        json_decref(s);
        if (step >= steps)
            return;
        bench_sleep(0.1);
    }
    bench_die("job %ld does not get to step %lld", job, (long long)steps);
}

void stop_job(long job) {
    char target[64];
    snprintf(target, sizeof target, "/v1/jobs/%ld/stop", job);
    int status;
    json_decref(client_json(bench.port, "POST", target, NULL, &status));
    if (status != 202)
        bench_die("POST %s: %d", target, status);
    for (int i = 0; i < 600; i++) {
        json_t *j = job_get(job);
        bool ended = json_is_string(json_object_get(j, "ended"));
        json_decref(j);
        if (ended)
            return;
        bench_sleep(0.1);
    }
    bench_die("job %ld does not stop", job);
}

// ---- what it has done ----

struct cpu daemon_cpu(void) {
    char path[320];
    double t[512];
    int n = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)bench.pid);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        long long ns;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", (int)bench.pid, e->d_name);
        FILE *f = isdigit((unsigned char)e->d_name[0]) ? fopen(path, "r") : NULL;
        if (f && n < 512 && fscanf(f, "%lld", &ns) == 1)
            t[n++] = (double)ns * 1e-9;
        if (f)
            fclose(f);
    }
    if (d)
        closedir(d);
    qsort(t, (size_t)n, sizeof *t, by_value);
    struct cpu c = {0};
    int trainers = (int)sysconf(_SC_NPROCESSORS_ONLN);
    for (int i = 0; i < n; i++)
        *(i >= n - trainers ? &c.training : &c.other) += t[i];
    return c;
}

// A line of /metrics without labels.
static double counter(const char *text, const char *line) {
    const char *at = strstr(text, line);
    return at ? strtod(at + strlen(line), NULL) : NAN;
}

struct served served(void) {
    char *text = NULL;
    int fd = client_dial(bench.port);
    client_call(fd, "GET", "/metrics", NULL, &text);
    close(fd);
    struct served v = {counter(text, "\ndriftd_generate_images_total "),
                       counter(text, "\ndriftd_batch_size_count ")};
    free(text);
    return v;
}
