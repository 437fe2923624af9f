// saturation: what the daemon gets out of the engine, beside the engine itself in this process
// (serve_bench.h).
#include "tests/bench/serve_bench.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { MAX_BATCH = 64, ENGINES = 16 };

// ---- the mix ----

static struct {
    int times;
    const char *format;
} mixing = {1, "png"};

void mix_set(int times, const char *format) {
    mixing.times = times;
    mixing.format = format;
}

struct mixed mix(int i) {
    uint32_t h = (uint32_t)i * 2654435761u;
    return (struct mixed){.n = mixing.times * (1 + (int)(h >> 28)),
                          .cls = (int)((h >> 8) % 10),
                          .cfg = 1 + (double)(h >> 12 & 7) / 4};
}

void mix_target(int i, char *out, size_t room) {
    struct mixed m = mix(i);
    snprintf(out, room, "/v1/generate?class=%d&cfg=%.2f&n=%d&seed=%d&format=%s", m.cls, m.cfg, m.n,
             i, mixing.format);
}

// ---- the engine alone ----

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
    e->x = malloc(MAX_BATCH * (size_t)dr_gen_image_count(e->snap->net) * sizeof *e->x);
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

// Images per second of full batches cut from the same sequence of requests.
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

struct alone {
    pthread_t thread;
    struct engine *e;
    double seconds, rate, cpu; // cpu: processor seconds per image
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

// ---- the daemon beside it ----

// Images per second by HTTP, from what was answered between the ends of a ramp and of the run.
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

// e[0]: the engine with every thread; e[1..n]: with one each.
static void saturation(struct engine *e, int n, const char *format, int connections) {
    int rounds = bench.quick ? 2 : 5, lost = 0;
    double seconds = bench.quick ? 0.7 : 1, rate[3][16], share[3][16], images = 0, batches = 0;
    char what[96];
    mix_set(1, format);
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
    report(what, "images/s", "%.0f (%.1f images per batch, lost %d)",
           quantile(rate[2], rounds, 0.5), images / batches, lost);
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

void bench_saturation(void) {
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
