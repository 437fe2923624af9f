// Where a training step's time goes, op by op and product by product, on any device.
// usage: step_bench DEVICE CONFIG [STEPS[+WARM] [KEY=VALUE]...]     DEVICE: cpu, cuda[:N]
// STEPS: 10; WARM: steps before, 3. Features of reals that are kept (features.cache_mb) need as
// many as it takes to draw most of the reals once.
//
// Each op is waited for, so a device starts them one by one and without a recording: what an empty
// op takes that way is taken off, and the last line tells how long a step takes undisturbed. "best"
// adds up the best of each call over the steps: on a machine with neighbours it is what compares.
// It is 0 where steps differ in their calls, as while features of reals are still missing.
#include "engine/core/backend.h"
#include "engine/drift.h"
#include "engine/nn/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void stop(const struct dr_err *err) {
    fprintf(stderr, "step_bench: %s\n", err->msg);
    exit(1);
}

static struct line {
    char what[64];
    int64_t calls;
    double seconds, best; // of all steps; of one, the best of each call
} lines[512];
static int nlines;
// The calls of a step in their order.
static struct call {
    int line;
    double best;
} calls[1 << 16];
static int ncalls, call;        // call: within this step
static bool differ;             // a step had other calls than the first
static double idle;             // an empty op, from start to end
static struct dr_backend plain; // with the backend's own table

static void add(const char *what, double seconds) {
    int i = 0;
    while (i < nlines && strcmp(lines[i].what, what))
        i++;
    if (i == (int)DR_COUNT(lines))
        return;
    if (i == nlines)
        snprintf(lines[nlines++].what, sizeof lines->what, "%s", what);
    seconds = fmax(0, seconds - idle);
    lines[i].calls++;
    lines[i].seconds += seconds;
    if (call == (int)DR_COUNT(calls))
        return;
    if (call == ncalls)
        calls[ncalls++] = (struct call){i, seconds};
    differ |= calls[call].line != i;
    calls[call].best = fmin(calls[call].best, seconds);
    call++;
}

// Products have a line a shape: "gemm 768x256x25600 ta bf16>fp32 +=".
static void label(char *out, size_t size, const char *op, const void *args) {
    static const char *const type[] = {[DR_F32] = "fp32", [DR_BF16] = "bf16"};
    const struct dr_gemm_args *g = args;
    if (strcmp(op, "gemm"))
        snprintf(out, size, "%s", op);
    else
        snprintf(out, size, "gemm %lldx%lldx%lld%s%s %s>%s%s%s", (long long)g->m, (long long)g->n,
                 (long long)g->k, g->ta ? " ta" : "", g->tb ? " tb" : "", type[g->abt], type[g->ct],
                 g->acc ? " +=" : "", g->bias ? " bias" : "");
}

static void finish(struct dr_backend *be, const char *op, const void *args, double start) {
    struct dr_err err = {0};
    char what[64];
    if (be->sync(be, &err))
        stop(&err);
    const double seconds = now() - start;
    label(what, sizeof what, op, args);
    add(what, seconds);
}

#define X(name, flags)                                                                             \
    static void timed_##name(struct dr_backend *be, const struct dr_##name##_args *a) {            \
        const double start = now();                                                                \
        plain.op.name(be, a);                                                                      \
        finish(be, #name, a, start);                                                               \
    }
#include "engine/ops.def"
#undef X

static void wrap(struct dr_backend *be) {
#define X(name, flags) be->op.name = timed_##name;
#include "engine/ops.def"
#undef X
}

static void measure_idle(struct dr_backend *be) {
    struct dr_err err = {0};
    void *p;
    if (be->mem_alloc(be, sizeof(real), &p, &err))
        stop(&err);
    idle = 1;
    for (int i = 0; i < 100; i++) {
        const double start = now();
        DR_OP(be, fill, .dst = p, .n = 1, .value = 0);
        if (be->sync(be, &err))
            stop(&err);
        idle = fmin(idle, now() - start);
    }
    be->mem_free(be, p);
}

static int by_seconds(const void *a, const void *b) {
    const double x = ((const struct line *)a)->seconds, y = ((const struct line *)b)->seconds;
    return (x < y) - (x > y);
}

static double phase[2]; // seconds of all steps: features with their losses, the encoder within them

static double run(struct dr_trainer *t, int64_t steps) {
    struct dr_err err = {0};
    struct dr_metrics m;
    const double start = now();
    phase[0] = phase[1] = 0;
    for (int64_t i = 0; i < steps; i++) {
        const int before = ncalls;
        call = 0;
        if (dr_trainer_step(t, &m, &err))
            stop(&err);
        differ |= i > 0 && call != before;
        phase[0] += fmax(0, dr_metric(t, &m, "loss_seconds")); // NAN: not measured
        phase[1] += fmax(0, dr_metric(t, &m, "encoder_seconds"));
    }
    if (dr_trainer_wait(t, &m, &err))
        stop(&err);
    return (now() - start) / (double)steps;
}

// Seconds of a step; with `timed`, op by op.
static double steps_of(const char *device, const struct dr_config *c, int64_t warm, int64_t steps,
                       bool timed) {
    struct dr_backend *be;
    struct dr_dataset *data;
    struct dr_trainer *t;
    struct dr_err err = {0};
    if (dr_backend_open(device, 0, &be, &err))
        stop(&err);
    be->enter(be);
    if (dr_dataset_load(&c->data, getenv("DRIFTD_DATA"), false, &data, &err) ||
        dr_trainer_create(c, be, data, &t, &err))
        stop(&err);
    run(t, warm); // workspaces, libraries, the recording
    if (timed) {
        printf("%s: %s; %lld samples per step\n", be->name, be->detail,
               (long long)dr_config_batch(c));
        measure_idle(be);
        plain = *be;
        wrap(be);
    }
    const double each = run(t, steps);
    if (timed)
        be->op = plain.op;
    dr_trainer_free(t);
    dr_dataset_free(data);
    dr_backend_free(be);
    return each;
}

// Of a step undisturbed, on devices that tell the time of its parts.
static void print_phases(double each, double losses, double encoder) {
    if (losses <= 0)
        return;
    printf("%-44s %8s %10.4f %6.1f%%\n", "  generator and optimiser", "", 1e3 * (each - losses),
           100 * (1 - losses / each));
    printf("%-44s %8s %10.4f %6.1f%%\n", "  encoder", "", 1e3 * encoder, 100 * encoder / each);
    printf("%-44s %8s %10.4f %6.1f%%\n", "  features and drifting losses", "",
           1e3 * (losses - encoder), 100 * (losses - encoder) / each);
}

int main(int argc, char **argv) {
    struct dr_config c;
    struct dr_err err = {0};
    long long steps = 10, warm = 3;
    if (argc > 3)
        sscanf(argv[3], "%lld+%lld", &steps, &warm);
    if (argc < 3 || steps < 1 || warm < 1) {
        fputs("usage: step_bench DEVICE CONFIG [STEPS[+WARM] [KEY=VALUE]...]\n", stderr);
        return 2;
    }
    if (dr_config_load(argv[2], &c, &err) ||
        (argc > 4 && dr_config_set_all(&c, (const char *const *)argv + 4, argc - 4, &err)))
        stop(&err);
    c.metrics.spread_every = 0;
    const double each = steps_of(argv[1], &c, warm, steps, false);
    const double losses = phase[0] / (double)steps, encoder = phase[1] / (double)steps;
    setenv("DRIFTD_GRAPHS", "0", 1);
    steps_of(argv[1], &c, warm, steps, true);
    double sum = 0, best = 0;
    for (int i = 0; i < ncalls && !differ; i++) {
        lines[calls[i].line].best += calls[i].best;
        best += calls[i].best;
    }
    qsort(lines, (size_t)nlines, sizeof *lines, by_seconds);
    for (int i = 0; i < nlines; i++)
        sum += lines[i].seconds / (double)steps;
    printf("%-44s %8s %10s %7s %10s\n", "op", "calls", "ms/step", "share", "best");
    for (int i = 0; i < nlines; i++)
        printf("%-44s %8.4g %10.4f %6.1f%% %10.4f\n", lines[i].what,
               (double)lines[i].calls / (double)steps, 1e3 * lines[i].seconds / (double)steps,
               100 * lines[i].seconds / (double)steps / sum, 1e3 * lines[i].best);
    printf("%-44s %8s %10.4f %7s %10.4f\n%-44s %8s %10.4f\n", "sum", "", sum * 1e3, "", best * 1e3,
           "a step undisturbed", "", each * 1e3);
    print_phases(each, losses, encoder);
    return 0;
}
