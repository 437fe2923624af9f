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

FILE *start_driftd(char *const argv[], const char *log, pid_t *pid) {
    int out[2];
    if (pipe2(out, O_CLOEXEC))
        bench_die("no pipe");
    *pid = fork();
    if (*pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(out[1], 1);
        dup2(open(log, O_WRONLY | O_CREAT | O_APPEND, 0600), 2);
        execv(argv[0], argv);
        _exit(127);
    }
    close(out[1]);
    FILE *f = fdopen(out[0], "r");
    if (*pid < 0 || !f)
        bench_die("%s cannot be started", argv[0]);
    return f;
}

void start_daemon(void) {
    char state[80], log[80], line[512] = "";
    snprintf(bench.dir, sizeof bench.dir, "/tmp/serve_bench-XXXXXX");
    if (!mkdtemp(bench.dir))
        bench_die("no temporary folder");
    snprintf(state, sizeof state, "%s/state", bench.dir);
    atexit(stop_daemon);
    snprintf(log, sizeof log, "%s/log", bench.dir);
    char *const argv[] = {(char *)bench.driftd,
                          "serve",
                          "--listen",
                          "127.0.0.1:0",
                          "--state-dir",
                          state,
                          "--config-dir",
                          (char *)bench.configs,
                          "--data-dir",
                          bench.dir,
                          NULL};
    FILE *f = start_driftd(argv, log, &bench.pid);
    if (!fgets(line, sizeof line, f) || !strstr(line, "http://127.0.0.1:"))
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

int step_times(long job, double **out) {
    char target[96], *text = NULL;
    snprintf(target, sizeof target, "/v1/jobs/%ld/metrics?names=step_seconds&format=csv", job);
    int fd = client_dial(bench.port), n = 0;
    struct reply r = client_call(fd, "GET", target, NULL, &text);
    close(fd);
    if (r.status != 200 || !text)
        bench_die("no metrics: %d", r.status);
    double *t = calloc(strlen(text) / 8 + 1, sizeof *t);
    for (char *p = strchr(text, '\n'); t && p && p[1]; p = strchr(p + 1, '\n')) {
        long long step;
        if (sscanf(p + 1, "step_seconds,%lld,%lf", &step, &t[n]) == 2)
            n++;
    }
    free(text);
    *out = t;
    return n;
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
