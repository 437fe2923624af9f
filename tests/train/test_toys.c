// Whole small runs: the toys of Fig. 3 converge from every start by energy distance, and a
// pixel-space collapse (the affinity floor of 1e-6) is seen by the spread metric, where floor 0
// keeps it healthy.
#include "tests/train/util.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS = 1000 };

static double distance_to_data(struct run *r, const real *x) {
    real *y = malloc(sizeof *y * 2 * POINTS);
    for (int64_t i = 0; i < POINTS; i++)
        dr_dataset_get(r->data, r->data->n - 1 - i, y + 2 * i);
    double d = dr_energy_distance(x, POINTS, y, POINTS, 2);
    free(y);
    return d;
}

static void toy_converges(const char *name, int steps, double limit) {
    struct dr_config c;
    recipe(&c, name);
    c.train.steps = steps;
    struct run r;
    run_open(&r, &c);
    real *x = malloc(sizeof *x * 2 * POINTS);
    run_sample(&r, 0, POINTS, x);
    double before = distance_to_data(&r, x);
    run_steps(&r, steps, NULL);
    run_sample(&r, 0, POINTS, x);
    double after = distance_to_data(&r, x);
    print_message("%s: energy distance %.4f -> %.5f\n", name, before, after);
    if (!(after < limit && after < before / 10))
        fail_msg("%s: energy distance %g, expected under %g", name, after, limit);
    free(x);
    run_close(&r);
}

static void middle(void **s) {
    (void)s;
    toy_converges("toy-two-modes-middle", 400, 0.01);
}
static void far_away(void **s) {
    (void)s;
    toy_converges("toy-two-modes-far", 1000, 0.01);
}
static void collapsed(void **s) {
    (void)s;
    toy_converges("toy-two-modes-collapsed", 400, 0.01);
}
static void checkerboard(void **s) {
    (void)s;
    toy_converges("toy-checkerboard", 400, 0.01);
}
static void swiss_roll(void **s) {
    (void)s;
    toy_converges("toy-swiss-roll", 400, 0.01);
}

static double spread_after(const char *floor_value, int steps) {
    static const char *const set[] = {"model.patch=4",
                                      "data.size=16",
                                      "data.count=2000",
                                      "model.dim=48",
                                      "model.depth=2",
                                      "model.head=linear",
                                      "model.out_std=0.02",
                                      "features.norm=none",
                                      "features.quadrants=false",
                                      "features.rms=0",
                                      "train.generated=8",
                                      "train.positives=32",
                                      "train.unconditional=0",
                                      "train.alpha_max=1",
                                      "train.steps=200",
                                      "loss.temperatures=[0.02]",
                                      "metrics.spread_every=1"};
    struct dr_config c;
    struct dr_err err = {0};
    char floor_set[64];
    snprintf(floor_set, sizeof floor_set, "loss.affinity_floor=%s", floor_value);
    recipe(&c, "digits");
    for (size_t i = 0; i < sizeof set / sizeof *set; i++)
        if (dr_config_set(&c, set[i], &err))
            fail_msg("%s", err.msg);
    assert_int_equal(dr_config_set(&c, floor_set, &err), 0);
    struct run r;
    run_open(&r, &c);
    run_steps(&r, steps - 10, NULL);
    double sum = 0;
    for (int i = 0; i < 10; i++)
        sum += run_steps(&r, 1, NULL).spread;
    run_close(&r);
    return sum / 10;
}

static void floor_collapse_is_measured(void **state) {
    (void)state;
    double with = spread_after("1e-6", 200), without = spread_after("0", 200);
    print_message("spread: floor 1e-6 %.3f, floor 0 %.3f\n", with, without);
    struct dr_config c;
    dr_config_defaults(&c);
    assert_true(with < c.metrics.collapse_below); // the alert's threshold
    assert_true(without > 0.75);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(middle),     cmocka_unit_test(far_away),
        cmocka_unit_test(collapsed),  cmocka_unit_test(checkerboard),
        cmocka_unit_test(swiss_roll), cmocka_unit_test(floor_collapse_is_measured),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
