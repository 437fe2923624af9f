// Whole small runs: the toys of Fig. 3 converge from every start by energy distance, and a
// pixel-space collapse (the affinity floor of 1e-6) is seen by the spread metric, where floor 0
// keeps it healthy.
#include "tests/loss/ref.h"
#include "tests/train/util.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS = 1000 };

static double distance_to_data(struct run *r, const real *x) {
    real *y = malloc(sizeof *y * 2 * POINTS);
    for (int64_t i = 0; i < POINTS; i++)
        memcpy(y + 2 * i, r->data->points + 2 * (r->data->n - 1 - i), 2 * sizeof *y);
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

// What the dashboard draws: samples, reals and displacements of the last step, the displacements
// being the summed V of the reference on just these points.
static void field_is_the_drift(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    recipe(&c, "toy-swiss-roll");
    assert_int_equal(dr_config_set(&c, "train.generated=48", &err), 0);
    assert_int_equal(dr_config_set(&c, "train.positives=80", &err), 0);
    struct run r;
    run_open(&r, &c);
    assert_null(dr_trainer_field(r.t));
    double size = 0;
    for (int k = 0; k < 3; k++) {
        run_steps(&r, k == 2 ? 150 : 1, NULL);
        struct dr_drift_field *f = dr_trainer_field(r.t);
        assert_non_null(f);
        assert_int_equal(f->step, dr_trainer_steps_done(r.t));
        assert_int_equal(f->n, 48);
        assert_int_equal(f->p, 80);
        const real *v = f->at + 2 * f->n;
        struct ref_out ref;
        ref_drift(&c.loss,
                  &(struct dr_drift_in){.gen = f->at,
                                        .pos = v + 2 * f->n,
                                        .B = 1,
                                        .N = f->n,
                                        .P = f->p,
                                        .S = 2,
                                        .weight = 1},
                  &ref);
        double want[96] = {0};
        size = 0;
        for (int64_t i = 0; i < 2 * f->n; i++) {
            for (int t = 0; t < c.loss.ntau; t++)
                want[i] += ref.f * ref.raw[t * 2 * f->n + i];
            size += want[i] * want[i];
        }
        double nmse = ref_nmse(v, want, 2 * f->n);
        if (!(nmse < 1e-9))
            fail_msg("step %d: the field is off, NMSE %g", (int)f->step, nmse);
        ref_free(&ref);
        free(f);
    }
    print_message("mean square drift: %.5f\n", size / 96);
    assert_true(size / 96 > 1e-5);
    run_close(&r);
}

// Images have no field to draw.
static void images_have_no_field(void **state) {
    (void)state;
    struct dr_config c;
    config_of(&c, tiny_digits);
    struct run r;
    run_open(&r, &c);
    run_steps(&r, 1, NULL);
    assert_null(dr_trainer_field(r.t));
    run_close(&r);
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
                                      "loss.normalize=both",
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
        cmocka_unit_test(middle),
        cmocka_unit_test(far_away),
        cmocka_unit_test(collapsed),
        cmocka_unit_test(checkerboard),
        cmocka_unit_test(swiss_roll),
        cmocka_unit_test(floor_collapse_is_measured),
        cmocka_unit_test(field_is_the_drift),
        cmocka_unit_test(images_have_no_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
