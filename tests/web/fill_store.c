// Writes metrics into a store as the daemon would have, for bench.mjs: a run of many steps without
// the days of training. usage: fill_store DATABASE JOB STEPS    (no daemon may have it open)
#include "daemon/base/util.h"
#include "daemon/store/metric_store.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 1000, STEPS_A_SECOND = 100, BAD_EVERY = 125000 };

// Falling, noisy and different for every job; a step that was not finite now and then.
#define M(name)                                                                                    \
    { name, "", "", DR_METRIC_LINEAR }
static const struct dr_metric_def metrics[] = {
    M("loss"),         M("drift_norm"),   M("grad_norm"),   M("lr"),
    M("step_seconds"), M("drift_norm_0"), M("drift_norm_1")};

static struct dd_row row_of(int64_t job, int64_t step, int64_t start_us) {
    struct dd_row r = {.job = job,
                       .step = step,
                       .time_us = start_us + step * (1000000 / STEPS_A_SECOND),
                       .seconds = (double)step / STEPS_A_SECOND};
    uint64_t hash = (uint64_t)step * 0x9e3779b97f4a7c15u;
    const double noise = (double)(hash >> 40) * 0x1p-24 - 0.5;
    const double fall = exp(-(double)step / (2e4 + 5e4 * (double)(job % 10)));
    const double norm = 0.05 + 0.2 * fall + 0.02 * noise;
    const double v[] = {2 + fall + 0.3 * noise,
                        norm,
                        1 + 4 * fall + noise,
                        2e-4 * fmin(1, (double)step / 1000),
                        0.01 + 0.002 * noise,
                        norm,
                        1.5 * norm};
    for (size_t i = 0; i < DR_COUNT(v); i++)
        r.v[i] = step % BAD_EVERY ? v[i] : (double)NAN;
    r.mask = ((uint64_t)1 << DR_COUNT(v)) - 1;
    return r;
}

int main(int argc, char **argv) {
    struct dd_store *s;
    struct dr_err err = {0};
    if (argc != 4) {
        fprintf(stderr, "usage: fill_store DATABASE JOB STEPS\n");
        return 2;
    }
    const int64_t job = atoll(argv[2]), steps = atoll(argv[3]);
    const int64_t start_us = dd_wall_us() - steps * (1000000 / STEPS_A_SECOND);
    struct dd_metric_batch *b = dd_xcalloc(1, sizeof *b + BATCH * sizeof *b->row);
    b->keep_steps = INT64_MAX / 2;
    int rc = dd_store_open(argv[1], &s, &err);
    const struct dd_metric_table *table =
        rc ? NULL : dd_metric_table(dd_store_metrics(s), metrics, (int)DR_COUNT(metrics));
    for (int64_t step = 1; !rc && step <= steps;) {
        for (b->n = 0; b->n < BATCH && step <= steps; step++) {
            b->row[b->n] = row_of(job, step, start_us);
            b->row[b->n++].table = table;
        }
        rc = dd_store_do(s, dd_metrics_insert, b, &err);
    }
    if (rc)
        fprintf(stderr, "fill_store: %s\n", err.msg);
    else
        dd_store_close(s);
    free(b);
    return rc != 0;
}
