// Gradients of a whole step of each encoder objective, chunks included, against central differences
// of its loss; double build.
#include "tests/train/util.h"

#include "engine/train/trainer_priv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const small[] = {"kind=encoder",
                                    "data.set=digits",
                                    "data.size=8",
                                    "data.count=64",
                                    "encoder.width=4",
                                    "encoder.blocks=[1, 1]",
                                    "encoder.groups=2",
                                    "encoder.batch=5",
                                    "data.crop=1",
                                    "encoder.classify_ramp=0",
                                    "train.micro_batch=2",
                                    "optim.lr=0",
                                    "optim.weight_decay=0",
                                    "encoder.classify_weight=0.3",
                                    NULL};

// The loss of the first step, whatever came before: nothing moves at a learning rate of 0.
static double loss_of(struct run *r) {
    struct dr_metrics m;
    struct dr_err err = {0};
    r->t->step = 0;
    if (dr_trainer_step(r->t, &m, &err))
        fail_msg("%s", err.msg);
    return m.loss;
}

static void move(struct run *r, const real *w, const real *d, double by) {
    const struct dr_group *g = &r->t->group[0];
    for (int64_t i = 0; i < g->layout->total; i++)
        g->w[i] = w[i] + (real)by * d[i];
}

static void check(const char *objective) {
    struct dr_config c;
    struct run r;
    struct dr_err err = {0};
    char text[64];
    config_of(&c, small);
    snprintf(text, sizeof text, "encoder.objective=%s", objective);
    if (dr_config_set(&c, text, &err))
        fail_msg("%s", err.msg);
    run_open(&r, &c);
    const struct dr_group *g = &r.t->group[0];
    const int64_t n = g->layout->total;
    real *w = malloc((size_t)n * sizeof *w), *grad = malloc((size_t)n * sizeof *w),
         *d = calloc((size_t)n, sizeof *d);
    for (int64_t i = 0; i < n; i++)
        w[i] = g->w[i];
    loss_of(&r);
    for (int64_t i = 0; i < n; i++)
        grad[i] = g->g[i];
    const double h = 1e-6;
    for (int p = 0; p < g->layout->n; p++) { // a random direction within each parameter
        const struct dr_param *at = &g->layout->p[p];
        struct dr_rng rng;
        double slope = 0, size = 0;
        dr_rng_init(&rng, 3, DR_STREAM_DATA, (uint64_t)p);
        for (int64_t i = 0; i < n; i++)
            d[i] = 0;
        for (int64_t i = at->offset; i < at->offset + at->count; i++) {
            d[i] = (real)dr_rng_normal(&rng);
            slope += (double)(d[i] * grad[i]);
            size += fabs((double)grad[i]);
        }
        move(&r, w, d, h);
        const double up = loss_of(&r);
        move(&r, w, d, -h);
        const double measured = (up - loss_of(&r)) / (2 * h);
        move(&r, w, d, 0);
        if (fabs(measured - slope) > 1e-6 * (size + 1e-2))
            fail_msg("%s, %s: gradient %.10g, measured %.10g", objective, at->name, slope,
                     measured);
        if (size <= 0)
            fail_msg("%s, %s: no gradient at all", objective, at->name);
    }
    free(w);
    free(grad);
    free(d);
    run_close(&r);
}

static void classify(void **state) {
    (void)state;
    check("classify");
}
static void autoencode(void **state) {
    (void)state;
    check("autoencode");
}
static void both(void **state) {
    (void)state;
    check("both");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(classify), cmocka_unit_test(autoencode),
                                       cmocka_unit_test(both)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
