// sse and latency: what those who follow and ask cost a daemon that trains, and what its training
// costs them (serve_bench.h).
#include "tests/bench/serve_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FOLLOWERS = 20 };

// ---- sse ----

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

static double steps_in(const double *t, int n, const struct window *w) {
    int count = 0;
    for (int i = 0; i < n; i++)
        count += t[i] >= w->from && t[i] < w->to;
    return count / (w->to - w->from);
}

void bench_sse(void) {
    // About 200 steps per second on two processors.
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

// ---- latency ----

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

void bench_latency(void) {
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
