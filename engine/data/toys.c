// Two-dimensional toys (paper, Fig. 3-4): checkerboard, swiss roll, two modes. A point is a
// function of (seed, index), roughly within [-1,1].
#include "engine/data/data_priv.h"

#include <math.h>

// The 8 dark cells of a 4x4 board on [-1,1]^2.
static void checkerboard(struct dr_rng *g, double *x, double *y) {
    uint32_t cell = dr_rng_below(g, 8), row = cell / 2, col = 2 * (cell % 2) + row % 2;
    *x = -1 + 0.5 * (col + dr_rng_uniform(g));
    *y = -1 + 0.5 * (row + dr_rng_uniform(g));
}

// One and a half turns, outer radius 0.9.
static void swiss_roll(struct dr_rng *g, double *x, double *y) {
    double t = 1.5 * M_PI * (1 + 2 * dr_rng_uniform(g)), r = 0.9 * t / (4.5 * M_PI);
    *x = r * cos(t) + 0.02 * dr_rng_normal(g);
    *y = r * sin(t) + 0.02 * dr_rng_normal(g);
}

// Two Gaussians of std 0.1.
static void two_modes(struct dr_rng *g, double *x, double *y) {
    *x = (dr_rng_below(g, 2) ? 0.6 : -0.6) + 0.1 * dr_rng_normal(g);
    *y = 0.1 * dr_rng_normal(g);
}

static int make(struct dr_dataset *d, const struct dr_set_query *q,
                void (*point)(struct dr_rng *, double *x, double *y), struct dr_err *err) {
    const uint64_t first = q->test ? DR_DATA_TEST_INDEX : 0;
    void *values;
    d->n = dr_made_count(q);
    d->c = 2;
    d->h = d->w = 1;
    int rc = dr_dataset_alloc(d, &values, err);
    real *out = values;
    for (int64_t i = 0; i < d->n && !rc; i++) {
        struct dr_rng g;
        double x, y;
        dr_rng_init(&g, (uint64_t)q->cfg->seed, DR_STREAM_DATA, first + (uint64_t)i);
        point(&g, &x, &y);
        out[2 * i] = (real)x;
        out[2 * i + 1] = (real)y;
        if (i % dr_made_share(d) == 0)
            rc = dr_made_go_on(d, i, err);
    }
    return rc;
}

int dr_open_checkerboard(struct dr_dataset *d, const struct dr_set_query *q, struct dr_err *err) {
    return make(d, q, checkerboard, err);
}
int dr_open_swiss_roll(struct dr_dataset *d, const struct dr_set_query *q, struct dr_err *err) {
    return make(d, q, swiss_roll, err);
}
int dr_open_two_modes(struct dr_dataset *d, const struct dr_set_query *q, struct dr_err *err) {
    return make(d, q, two_modes, err);
}
