// training: a step in the daemon beside one of `driftd run`, which trains the same recipe alone in
// its process, in turns (serve_bench.h). What else the daemon's process does, idle threads of other
// pools included, must not slow training down.
#include "tests/bench/serve_bench.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WARM = 5, FEWEST = 10, MOST_PAIRS = 5, MOST_CHANGES = 16 };

struct network {
    const char *what, *recipe;
    const char *change[MOST_CHANGES]; // up to a NULL
};
// Small batches: the shorter a step, the more its threads meet.
static const struct network networks[] = {
    {"digits (a DiT, fp32)", "digits", {"train.generated=4", "train.positives=16", NULL}},
    {"a U-Net on shapes, bf16",
     "cifar10-cpu",
     {"features.kind=pixel", "features.encoder=", "features.image=true", "data.set=shapes",
      "data.classes=8", "train.generated=2", "train.positives=16", NULL}}};
// Nothing but steps, until the job is stopped.
static const char *const steps_alone[] = {
    "train.steps=10000000",       "train.minutes=0", "data.count=2000", "checkpoint.every=0",
    "checkpoint.every_seconds=0", "samples.every=0", "eval.every=0",    "metrics.spread_every=0"};

// The recipe as JSON; malloc'd.
static char *recipe_of(const struct network *n) {
    struct dr_config c;
    struct dr_err err = {0};
    char path[4096];
    int changes = 0;
    snprintf(path, sizeof path, "%s/%s.json", bench.configs, n->recipe);
    while (n->change[changes])
        changes++;
    if (dr_config_load(path, &c, &err) || dr_config_set_all(&c, n->change, changes, &err) ||
        dr_config_set_all(&c, steps_alone, DR_COUNT(steps_alone), &err))
        bench_die("%s: %s", n->recipe, err.msg);
    char *json = dr_config_to_json(&c);
    if (!json)
        bench_die("out of memory");
    return json;
}

// Milliseconds a step of a new job takes, in a daemon whose generator has been used.
static double in_daemon(const char *recipe, double seconds) {
    char *request;
    if (asprintf(&request, "{\"config\":%s}", recipe) < 0)
        bench_die("out of memory");
    const long job = start_job(request);
    free(request);
    wait_steps(job, WARM);
    const int fd = client_dial(bench.port);
    const struct reply r = client_call(fd, "POST", "/generate?class=1&cfg=1.5&n=16", NULL, NULL);
    close(fd);
    if (r.status != 200)
        bench_die("POST /generate: %d", r.status);
    bench_sleep(0.5); // the generator comes to rest
    const double from = bench_wall();
    bench_sleep(seconds);
    wait_steps(job, WARM + FEWEST); // a slow machine takes longer
    const double to = bench_wall();
    stop_job(job);
    double *t;
    int n = step_times(job, &t), first = 0, last;
    while (first < n && t[first] < from)
        first++;
    for (last = first; last + 1 < n && t[last + 1] <= to; last++)
        ;
    if (last <= first)
        bench_die("no two steps in %.1f s", to - from);
    const double ms = 1e3 * (t[last] - t[first]) / (last - first);
    free(t);
    return ms;
}

// The same of `driftd run`, by its lines of progress.
static double by_itself(const char *recipe, double seconds) {
    char path[80], out[80], log[80], line[512];
    snprintf(path, sizeof path, "%s/recipe.json", bench.dir);
    snprintf(out, sizeof out, "%s/run", bench.dir);
    snprintf(log, sizeof log, "%s/run.log", bench.dir);
    FILE *f = fopen(path, "w");
    if (!f || fputs(recipe, f) < 0 || fclose(f))
        bench_die("%s cannot be written", path);
    pid_t pid;
    char *const argv[] = {(char *)bench.driftd, "run",     path,         "--out",   out,
                          "--state-dir",        bench.dir, "--data-dir", bench.dir, NULL};
    f = start_driftd(argv, log, &pid);
    long long step = 0, first = 0;
    double from = 0, to = 0;
    while (to - from < seconds && fgets(line, sizeof line, f)) {
        if (sscanf(line, "step %lld/", &step) != 1 || step < WARM)
            continue;
        to = bench_now();
        if (!first)
            first = step, from = to;
    }
    kill(pid, SIGTERM);
    const double ms = 1e3 * (to - from) / (double)(step - first);
    while (fgets(line, sizeof line, f))
        ;
    fclose(f);
    int status = 0;
    waitpid(pid, &status, 0);
    if (to - from < seconds || !WIFEXITED(status) || WEXITSTATUS(status) != 3)
        bench_die("%s run ended early: %s", bench.driftd, line);
    return ms;
}

static void compare(const struct network *n, int pairs, double seconds) {
    double daemon[MOST_PAIRS], run[MOST_PAIRS], ratio[MOST_PAIRS];
    char text[96], *recipe = recipe_of(n);
    for (int i = 0; i < pairs; i++) { // the order turns, so that a slow drift cancels
        if (i % 2)
            run[i] = by_itself(recipe, seconds);
        daemon[i] = in_daemon(recipe, seconds);
        if (i % 2 == 0)
            run[i] = by_itself(recipe, seconds);
        ratio[i] = daemon[i] / run[i];
    }
    free(recipe);
    snprintf(text, sizeof text, "a step in the daemon, %s", n->what);
    report(text, "ms", "%.2f", quantile(daemon, pairs, 0.5));
    report("  of driftd run", "ms", "%.2f", quantile(run, pairs, 0.5));
    report("  daemon over driftd run, median of pairs", "", "%.3f", quantile(ratio, pairs, 0.5));
    report("  least to greatest of the pairs", "", "%.3f to %.3f", quantile(ratio, pairs, 0),
           quantile(ratio, pairs, 1));
}

void bench_training(void) {
    for (size_t i = 0; i < DR_COUNT(networks); i++)
        compare(&networks[i], bench.quick ? 2 : MOST_PAIRS, bench.quick ? 2 : 4);
}
