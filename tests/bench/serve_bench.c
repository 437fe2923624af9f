// What serving costs: starts a driftd of its own on a temporary state folder and measures it from
// outside. Not a test: run it on a machine that does nothing else.
//   serve_bench [--driftd PATH] [--configs DIR] [--json] [--quick] [--only
//   sse,latency,saturation,flood]
// sse         steps a second with 0 and with 20 followers of /v1/events, in turns
// latency     POST /generate, 1 and 16 images, while a job trains and while none does
// saturation  images a second by HTTP over the engine's own rate for the same mix, in turns; what
//             HTTP adds to one image
// flood       1000 requests at once: what becomes of them, and whether Retry-After was right
#include "engine/drift.h"
#include "tests/bench/serve_load.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FOLLOWERS = 20, MAX_BATCH = 64, FLOOD = 1000, MAX_SAMPLES = 4096, ENGINES = 16 };

static struct {
    const char *driftd, *configs, *only;
    bool json, quick;
    char dir[64];
    pid_t pid;
    int port;
    json_t *rows;
} bench;

// ---- output
// --------------------------------------------------------------------------------------

static void report(const char *what, const char *unit, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// One figure or a few words on it; `fmt` makes the value.
static void report(const char *what, const char *unit, const char *fmt, ...) {
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!bench.json)
        printf("%-58s %s %s\n", what, text, unit);
    fflush(stdout);
    json_array_append_new(bench.rows,
                          json_pack("{s:s, s:s, s:s}", "what", what, "value", text, "unit", unit));
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
// Sorts v.
static double quantile(double *v, int n, double q) {
    if (!n)
        return NAN;
    qsort(v, (size_t)n, sizeof *v, by_value);
    double at = q * (n - 1);
    int i = (int)at;
    return i + 1 < n ? v[i] + (at - i) * (v[i + 1] - v[i]) : v[n - 1];
}

static bool wanted(const char *section) {
    return !bench.only || strstr(bench.only, section);
}

// ---- the daemon
// ------------------------------------------------------------------------------------

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

static void start_daemon(void) {
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

// ---- jobs
// ----------------------------------------------------------------------------------------

static long start_job(const char *request) {
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

static void wait_steps(long job, json_int_t steps) {
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

static void stop_job(long job) {
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

// ---- sse
// -----------------------------------------------------------------------------------------

struct cpu {
    double training, other; // seconds of the two sorts of threads
};

// Processor time of the daemon's threads so far: the busiest ones train, one for each processor.
static struct cpu daemon_cpu(void) {
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

struct window {
    double from, to; // wall clock
    struct cpu cpu;
    long events, rows, gaps; // of all followers
    long rows_min;           // of the one that got fewest
};

static void measure_window(struct window *w, int followers, double seconds) {
    struct follower f[FOLLOWERS];
    *w = (struct window){0};
    for (int i = 0; i < followers; i++)
        follower_open(&f[i], bench.port);
    followers_read(f, followers, 0.3); // connecting is not what is measured
    for (int i = 0; i < followers; i++)
        f[i].events = f[i].rows = 0;
    struct cpu before = daemon_cpu();
    w->from = bench_wall();
    followers_read(f, followers, seconds);
    w->to = bench_wall();
    struct cpu after = daemon_cpu();
    w->cpu = (struct cpu){after.training - before.training, after.other - before.other};
    w->rows_min = followers ? f[0].rows : 0;
    for (int i = 0; i < followers; i++) {
        w->events += f[i].events;
        w->rows += f[i].rows;
        w->gaps += f[i].gaps + f[i].ended;
        w->rows_min = DR_MIN(w->rows_min, f[i].rows);
        follower_close(&f[i]);
    }
    if (!followers)
        bench_sleep(0.05);
}

// Times of all steps of a job, wall clock. Returns their number.
static int step_times(long job, double **out) {
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

static double steps_in(const double *t, int n, const struct window *w) {
    int count = 0;
    for (int i = 0; i < n; i++)
        count += t[i] >= w->from && t[i] < w->to;
    return count / (w->to - w->from);
}

static void bench_sse(void) {
    // About 200 steps a second on two processors.
    static const char job_text[] =
        "{\"config\":{\"name\":\"sse\",\"data\":{\"set\":\"digits\",\"size\":28,\"count\":2000},"
        "\"model\":{\"arch\":\"driftdit\",\"dim\":48,\"depth\":2,\"heads\":2,\"patch\":7,"
        "\"registers\":0,\"mlp\":\"gelu\",\"mlp_ratio\":2,\"rope\":false,\"noise\":\"latent\","
        "\"null_class\":false},\"features\":{\"norm\":\"sphere\"},"
        "\"loss\":{\"temperatures\":[0.05],\"affinity_floor\":0},"
        "\"train\":{\"steps\":10000000,\"classes\":10,\"generated\":10,\"positives\":16},"
        "\"checkpoint\":{\"every\":0,\"every_seconds\":0},\"samples\":{\"every\":0},"
        "\"metrics\":{\"spread_every\":0}}}";
    int pairs = bench.quick ? 2 : 8;
    double seconds = bench.quick ? 1 : 2.5;
    struct window with[16], without[16];
    long job = start_job(job_text);
    wait_steps(job, 50);
    for (int i = 0; i < pairs; i++) { // the order turns, so that a slow drift cancels
        if (i % 2)
            measure_window(&with[i], FOLLOWERS, seconds);
        measure_window(&without[i], 0, seconds);
        if (i % 2 == 0)
            measure_window(&with[i], FOLLOWERS, seconds);
    }
    bench_sleep(0.6); // the last rows reach the store
    double *t, rate[16], rate20[16], cost[16], cpu[16];
    double sum_rows = 0, sum_events = 0, sum_s = 0, fewest = INFINITY;
    int n = step_times(job, &t);
    long gaps = 0;
    for (int i = 0; i < pairs; i++) {
        const struct window *w = &with[i];
        rate[i] = steps_in(t, n, &without[i]);
        rate20[i] = steps_in(t, n, w);
        cost[i] = 100 * (1 - rate20[i] / rate[i]);
        cpu[i] = 100 * (w->cpu.other / (w->to - w->from) -
                        without[i].cpu.other / (without[i].to - without[i].from));
        sum_rows += (double)w->rows / FOLLOWERS;
        sum_events += (double)w->events / FOLLOWERS;
        sum_s += w->to - w->from;
        gaps += w->gaps;
        fewest = fmin(fewest, (double)w->rows_min / (rate20[i] * (w->to - w->from)));
    }
    free(t);
    report("training, nobody follows", "steps/s", "%.1f", quantile(rate, pairs, 0.5));
    report("training, 20 followers of /v1/events", "steps/s", "%.1f", quantile(rate20, pairs, 0.5));
    report("cost of 20 followers, median of pairs", "%", "%.2f", quantile(cost, pairs, 0.5));
    report("  quartiles of the pairs", "%", "%.2f to %.2f", quantile(cost, pairs, 0.25),
           quantile(cost, pairs, 0.75));
    report("  processor time they add outside the training threads", "% of one processor", "%.2f",
           quantile(cpu, pairs, 0.5));
    report("metric rows a follower", "rows/s", "%.1f", sum_rows / sum_s);
    report("metric events a follower", "events/s", "%.2f", sum_events / sum_s);
    report("rows over steps, worst follower and window (100 ms of slack)", "", "%.3f", fewest);
    report("rows missing between events, all followers", "", "%ld", gaps);
    stop_job(job);
}

// ---- latency
// -------------------------------------------------------------------------------------

static void latency(const char *what, int n, int count) {
    double *ms = calloc((size_t)count, sizeof *ms), *compute = calloc((size_t)count, sizeof *ms);
    int fd = client_dial(bench.port);
    if (!ms || !compute)
        bench_die("out of memory");
    for (int i = 0; i < count; i++) {
        char target[160];
        snprintf(target, sizeof target, "/generate?class=%d&cfg=1.5&n=%d&seed=%d", i % 10, n, i);
        bench_sleep(0.005 + 0.025 * (i * 37 % 64) / 64); // not in step with training
        double t0 = bench_now();
        struct reply r = client_call(fd, "POST", target, NULL, NULL);
        ms[i] = (bench_now() - t0) * 1e3;
        compute[i] = r.compute_ms;
        if (r.status != 200)
            bench_die("POST %s: %d", target, r.status);
    }
    close(fd);
    char text[96];
    snprintf(text, sizeof text, "/generate, %d image%s, %s", n, n > 1 ? "s" : "", what);
    double p50 = quantile(ms, count, 0.5), p95 = quantile(ms, count, 0.95);
    report(text, "ms", "p50 %.2f  p95 %.2f  max %.2f  (compute p50 %.2f)", p50, p95, ms[count - 1],
           quantile(compute, count, 0.5));
    free(ms);
    free(compute);
}

static const char digits_job[] =
    "{\"config\":\"digits\",\"overrides\":{\"train.minutes\":30,\"samples.every\":0}}";

// Leaves a checkpoint behind for the sections that follow.
static void bench_latency(void) {
    long job = start_job(digits_job);
    int few = bench.quick ? 20 : 100;
    wait_steps(job, 3);
    if (wanted("latency")) {
        latency("training", 1, few);
        latency("training", 16, few / 2);
    }
    stop_job(job);
    if (!wanted("latency"))
        return;
    latency("idle", 1, few);
    latency("idle", 16, few / 2);
}

// ---- saturation
// ----------------------------------------------------------------------------------

// Request i of the mix: 1 to 16 images of one class and scale.
struct mixed {
    int n, cls;
    double cfg;
};
static int mix_times = 1; // that many times the images
static struct mixed mix(int i) {
    uint32_t h = (uint32_t)i * 2654435761u;
    return (struct mixed){.n = mix_times * (1 + (int)(h >> 28)),
                          .cls = (int)((h >> 8) % 10),
                          .cfg = 1 + (double)(h >> 12 & 7) / 4};
}

static const char *mix_format = "png";
static void mix_target(int i, char *out, size_t room) {
    struct mixed m = mix(i);
    snprintf(out, room, "/v1/generate?class=%d&cfg=%.2f&n=%d&seed=%d&format=%s", m.cls, m.cfg, m.n,
             i, mix_format);
}

struct engine {
    struct dr_backend *be;
    struct dr_sampler *sampler;
    struct dr_snapshot *snap;
    real *x;
};

static void engine_open(struct engine *e, int threads) {
    struct dr_err err = {0};
    json_t *list = client_json(bench.port, "GET", "/v1/checkpoints?limit=1", NULL, NULL);
    const json_t *row = json_array_get(json_object_get(list, "checkpoints"), 0);
    const char *id = json_string_value(json_object_get(row, "id"));
    char target[128], path[128], *bytes = NULL;
    snprintf(target, sizeof target, "/v1/checkpoints/%.20s/file", id ? id : "?");
    snprintf(path, sizeof path, "%s/weights.safetensors", bench.dir);
    int fd = client_dial(bench.port);
    struct reply r = client_call(fd, "GET", target, NULL, &bytes);
    close(fd);
    FILE *f = fopen(path, "w");
    if (r.status != 200 || !f || fwrite(bytes, 1, r.size, f) != r.size || fclose(f))
        bench_die("no checkpoint to compare with: GET %s gave %d", target, r.status);
    free(bytes);
    json_decref(list);
    if (dr_backend_open("cpu", threads, &e->be, &err))
        bench_die("%s", err.msg);
    if (dr_sampler_create(e->be, DR_FP32, MAX_BATCH, &e->sampler, &err) ||
        dr_snapshot_load(path, NULL, &e->snap, &err))
        bench_die("%s", err.msg);
    e->x = malloc(MAX_BATCH * (size_t)dr_gen_image_count(e->snap->gen) * sizeof *e->x);
}

static void engine_close(struct engine *e) {
    free(e->x);
    dr_snapshot_unref(e->snap);
    dr_sampler_free(e->sampler);
    dr_backend_free(e->be);
}

static void engine_batch(struct engine *e, const struct dr_sample *s, int n) {
    struct dr_err err = {0};
    e->be->enter(e->be);
    if (dr_sampler_run(e->sampler, e->snap, s, n, e->x, &err))
        bench_die("%s", err.msg);
}

// Images a second of full batches cut from the same sequence of requests.
static double engine_rate(struct engine *e, double seconds) {
    struct dr_sample s[MAX_BATCH];
    int request = 0, image = 0, done = 0;
    double start = bench_now(), spent;
    do {
        for (int i = 0; i < MAX_BATCH; i++) {
            struct mixed m = mix(request);
            s[i] = (struct dr_sample){.seed = (uint64_t)request,
                                      .index = (uint64_t)image,
                                      .cls = m.cls,
                                      .alpha = (real)m.cfg};
            if (++image == m.n)
                image = 0, request++;
        }
        engine_batch(e, s, MAX_BATCH);
        done += MAX_BATCH;
        spent = bench_now() - start;
    } while (spent < seconds);
    return done / spent;
}

// Images a second by HTTP, from what was answered between the ends of a ramp and of the run.
static double http_rate(int connections, double seconds, int *lost) {
    struct load l = {.port = bench.port,
                     .connections = connections,
                     .requests = 200000,
                     .seconds = seconds + 0.4,
                     .target = mix_target};
    double start = bench_now(), images = 0, first = 0, last = 0;
    load_run(&l);
    for (int i = 0; i < l.nlog; i++) {
        double at = l.log[i].done - start;
        if (l.log[i].status != 200 || at < 0.4 || at > seconds + 0.4)
            continue;
        if (first == 0) { // counting starts behind the first one
            first = at;
            continue;
        }
        images += mix(l.log[i].request).n;
        last = at;
    }
    *lost += l.lost;
    free(l.log);
    return last > first ? images / (last - first) : NAN;
}

struct served {
    double images, batches;
};

// What the daemon has computed so far.
static struct served served(void) {
    struct served v = {0};
    char *text = NULL;
    int fd = client_dial(bench.port);
    client_call(fd, "GET", "/metrics", NULL, &text);
    close(fd);
    const char *images = strstr(text, "\ndriftd_generate_images_total ");
    const char *batches = strstr(text, "\ndriftd_batch_size_count ");
    v.images = images ? strtod(images + strlen("\ndriftd_generate_images_total "), NULL) : NAN;
    v.batches = batches ? strtod(batches + strlen("\ndriftd_batch_size_count "), NULL) : NAN;
    free(text);
    return v;
}

struct alone {
    pthread_t thread;
    struct engine *e;
    double seconds, rate, cpu; // cpu: processor seconds an image
};
static double thread_cpu(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
static void *alone(void *arg) {
    struct alone *a = arg;
    double cpu = thread_cpu(), start = bench_now();
    a->rate = engine_rate(a->e, a->seconds);
    a->cpu = (thread_cpu() - cpu) / (a->rate * (bench_now() - start));
    return NULL;
}

// The engines of one thread side by side, each with batches of its own: no thread ever waits for
// another.
static double engines_rate(struct engine *e, int n, double seconds, double *cpu) {
    struct alone a[ENGINES];
    double sum = 0;
    *cpu = 0;
    for (int i = 0; i < n; i++) {
        a[i] = (struct alone){.e = &e[i], .seconds = seconds};
        if (pthread_create(&a[i].thread, NULL, alone, &a[i]))
            bench_die("no thread");
    }
    for (int i = 0; i < n; i++) {
        pthread_join(a[i].thread, NULL);
        sum += a[i].rate;
        *cpu += a[i].cpu / n;
    }
    return sum;
}

// e[0]: the engine with every thread; e[1..n]: with one each.
static void saturation(struct engine *e, int n, const char *format, int connections) {
    int rounds = bench.quick ? 2 : 5, lost = 0;
    double seconds = bench.quick ? 0.7 : 1, rate[3][16], share[3][16], images = 0, batches = 0;
    char what[96];
    mix_format = format;
    for (int i = 0; i < rounds; i++) {
        rate[0][i] = engine_rate(&e[0], seconds);
        double cpu;
        rate[1][i] = engines_rate(e + 1, n, seconds, &cpu);
        struct served before = served();
        struct cpu from = daemon_cpu();
        rate[2][i] = http_rate(connections, seconds, &lost);
        struct cpu to = daemon_cpu();
        struct served after = served();
        double spent = to.training - from.training + to.other - from.other;
        share[2][i] = 100 * cpu * (after.images - before.images) / spent;
        images += after.images - before.images;
        batches += after.batches - before.batches;
        for (int k = 0; k < 2; k++)
            share[k][i] = 100 * rate[2][i] / rate[k][i];
    }
    snprintf(what, sizeof what, "engine, batches of %d: threads share one, have one each",
             MAX_BATCH);
    report(what, "images/s", "%.0f, %.0f", quantile(rate[0], rounds, 0.5),
           quantile(rate[1], rounds, 0.5));
    snprintf(what, sizeof what, "HTTP, %s, %d connections, 1 to 16 images", format, connections);
    report(what, "images/s", "%.0f (%.1f images a batch, lost %d)", quantile(rate[2], rounds, 0.5),
           images / batches, lost);
    report("  share of the engine's rate: threads share, each its own", "%", "%.1f, %.1f",
           quantile(share[0], rounds, 0.5), quantile(share[1], rounds, 0.5));
    report("  processor time: the engine's own over the daemon's, an image", "%", "%.1f",
           quantile(share[2], rounds, 0.5));
}

// One image at a time, by HTTP and by the engine in turns at the same pace.
static void added_latency(struct engine *e, const char *format) {
    int count = bench.quick ? 50 : 300;
    double http[300], direct[300], added[300];
    int fd = client_dial(bench.port);
    char target[160], what[96];
    for (int i = 0; i < count; i++) {
        struct dr_sample s = {.seed = (uint64_t)i, .cls = i % 10, .alpha = 1.5f};
        bench_sleep(0.003);
        double t0 = bench_now();
        engine_batch(e, &s, 1);
        direct[i] = (bench_now() - t0) * 1e3;
        snprintf(target, sizeof target, "/v1/generate?class=%d&cfg=1.5&seed=%d&format=%s", i % 10,
                 i, format);
        bench_sleep(0.003);
        t0 = bench_now();
        struct reply r = client_call(fd, "GET", target, NULL, NULL);
        http[i] = (bench_now() - t0) * 1e3;
        if (r.status != 200)
            bench_die("GET %s: %d", target, r.status);
        added[i] = http[i] - r.compute_ms;
    }
    close(fd);
    snprintf(what, sizeof what, "one image, %s: engine (one thread), HTTP (p50)", format);
    double a = quantile(direct, count, 0.5), b = quantile(http, count, 0.5);
    report(what, "ms", "%.3f, %.3f", a, b);
    report("  added: difference of the medians", "ms", "%.3f", b - a);
    report("  added: request time without its computing, p50 and p95", "ms", "%.3f, %.3f",
           quantile(added, count, 0.5), quantile(added, count, 0.95));
}

// ---- flood
// ---------------------------------------------------------------------------------------

static void flood(int times) {
    struct load l = {.port = bench.port,
                     .connections = FLOOD,
                     .requests = FLOOD,
                     .retry = true,
                     .target = mix_target};
    mix_format = "png";
    mix_times = times;
    double start = bench_now(), drained = 0;
    load_run(&l);
    int first[6] = {0}, ok = 0, within = 0, within_json = 0, refused = 0, again = 0, seen_n = 0;
    bool *seen = calloc(FLOOD, sizeof *seen);
    double *ratio = calloc((size_t)l.nlog + 1, sizeof *ratio), images = 0;
    if (!seen || !ratio)
        bench_die("out of memory");
    // The first wave: a request's first attempt. What it accepted is done at `drained`.
    for (int i = 0; i < l.nlog; i++) {
        struct attempt *a = &l.log[i];
        ok += a->status == 200;
        again += a->status == 429 && seen[a->request];
        if (seen[a->request])
            continue;
        seen[a->request] = true;
        seen_n++;
        first[a->status == 200 ? 0 : a->status == 429 ? 1 : a->status == 503 ? 2 : 3]++;
        if (a->status == 200) {
            drained = fmax(drained, a->done);
            images += mix(a->request).n;
        }
    }
    memset(seen, 0, FLOOD * sizeof *seen);
    for (int i = 0; i < l.nlog; i++) {
        struct attempt *a = &l.log[i];
        if (!seen[a->request] && a->status == 429) {
            double real_wait = drained - a->done;
            within += a->retry_after <= 2 * real_wait && a->retry_after >= real_wait / 2;
            within_json += a->retry_json <= 2 * real_wait && a->retry_json >= real_wait / 2;
            ratio[refused++] = a->retry_json / real_wait;
        }
        seen[a->request] = true;
    }
    char what[96];
    snprintf(what, sizeof what, "1000 requests at once for %d to %d images: 200, 429, 503, other",
             times, 16 * times);
    report(what, "", "%d, %d, %d, %d", first[0], first[1], first[2], first[3]);
    report("  in the end: answered with images, lost", "", "%d, %d (refused again %d times)", ok,
           FLOOD - seen_n + l.lost, again);
    report("  first wave", "", "%.0f images in %.2f s", images, drained - start);
    if (refused) {
        report("  Retry-After (whole seconds) within a factor of two", "", "%d of %d", within,
               refused);
        report("  retry_after (JSON) within a factor of two", "", "%d of %d", within_json, refused);
        double p50 = quantile(ratio, refused, 0.5);
        report("  retry_after said / turned out", "", "%.2f (%.2f to %.2f)", p50, ratio[0],
               ratio[refused - 1]);
    }
    mix_times = 1;
    free(seen);
    free(ratio);
    free(l.log);
}

int main(int argc, char **argv) {
    bench.driftd = DRIFTD_PATH;
    bench.configs = CONFIG_DIR;
    // As driftd itself does: threads that spin long at a barrier would disturb the daemon measured.
    if (!getenv("GOMP_SPINCOUNT") && !setenv("GOMP_SPINCOUNT", "10000", 1))
        execv("/proc/self/exe", argv);
    for (int i = 1; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(argv[i], "--json"))
            bench.json = true;
        else if (!strcmp(argv[i], "--quick"))
            bench.quick = true;
        else if (next && !strcmp(argv[i], "--driftd"))
            bench.driftd = next, i++;
        else if (next && !strcmp(argv[i], "--configs"))
            bench.configs = next, i++;
        else if (next && !strcmp(argv[i], "--only"))
            bench.only = next, i++;
        else
            bench_die("unknown option %s; see the head of serve_bench.c", argv[i]);
    }
    signal(SIGPIPE, SIG_IGN);
    bench.rows = json_array();
    start_daemon();
    if (wanted("sse"))
        bench_sse();
    if (wanted("latency") || wanted("saturation") || wanted("flood"))
        bench_latency();
    if (wanted("saturation")) {
        struct engine e[ENGINES + 1] = {0};
        int n = (int)DR_MIN(sysconf(_SC_NPROCESSORS_ONLN), (long)ENGINES);
        for (int i = 0; i <= n; i++)
            engine_open(&e[i], i ? 1 : 0);
        added_latency(&e[1], "png");
        added_latency(&e[1], "npy");
        saturation(e, n, "png", 64);
        saturation(e, n, "npy", 64);
        for (int i = 0; i <= n; i++)
            engine_close(&e[i]);
    }
    if (wanted("flood")) {
        flood(1);
        flood(8);
    }
    if (bench.json)
        json_dumpf(bench.rows, stdout, JSON_INDENT(1));
    json_decref(bench.rows);
    return 0;
}
