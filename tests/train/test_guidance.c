// What a trained network does with the guidance scale: on two classes that are known mixtures of
// the same two modes, its samples go where Eq. 16 of the paper says, q = alpha p(.|c) - (alpha - 1)
// p_unc.
#include "tests/train/util.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 8000, SAMPLES = 2000 };
// Class 0 has this share of its points left, class 1 right; together the modes are equal, so that
// Eq. 16 promises 1/2 + alpha (SHARE - 1/2).
#define SHARE 0.7

// The two modes of toy-two-modes, sorted into two classes.
static struct dr_dataset *mixtures(const struct dr_config *c) {
    struct dr_dataset *d;
    struct dr_err err = {0};
    if (dr_dataset_load(&c->data, NULL, false, &d, &err))
        fail_msg("%s", err.msg);
    free(d->class_start);
    d->classes = 2;
    d->class_start = calloc(3, sizeof *d->class_start);
    assert_non_null(d->class_start);
    int64_t at = 0;
    for (int32_t cls = 0; cls < 2; cls++) {
        for (int64_t i = 0; i < d->n; i++) {
            bool left = d->points[2 * i] < 0, usual = i % 10 < (int64_t)(10 * SHARE);
            if ((left == usual) != (cls == 0))
                continue;
            d->label[i] = cls;
            d->by_class[at++] = i;
        }
        d->class_start[cls + 1] = at;
    }
    assert_int_equal(at, d->n);
    return d;
}

// Share of the samples of a class that lie left; *off: of those that lie in neither mode.
static double left(struct run *r, int32_t cls, double alpha, double *off) {
    static real x[2 * SAMPLES];
    static struct dr_sample req[SAMPLES];
    struct dr_err err = {0};
    struct dr_snapshot *snap = dr_trainer_snapshot(r->t, 0);
    struct dr_sampler *s;
    assert_non_null(snap);
    for (int i = 0; i < SAMPLES; i++)
        req[i] =
            (struct dr_sample){.seed = 5, .index = (uint64_t)i, .cls = cls, .alpha = (real)alpha};
    if (dr_sampler_create(r->be, DR_FP32, 64, &s, &err) ||
        dr_sampler_run(s, snap, req, SAMPLES, x, &err))
        fail_msg("%s", err.msg);
    dr_sampler_free(s);
    dr_snapshot_unref(snap);
    double n = 0;
    *off = 0;
    for (int i = 0; i < SAMPLES; i++) {
        n += x[2 * i] < 0;
        *off += hypot(fabs((double)x[2 * i]) - 0.6, (double)x[2 * i + 1]) > 0.4;
    }
    *off /= SAMPLES;
    return n / SAMPLES;
}

static void alpha_sharpens_as_eq_16_says(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    recipe(&c, "toy-two-modes-middle");
    c.data.count = COUNT;
    c.train.steps = 4000;
    c.train.generated = c.train.positives = c.train.unconditional = 128;
    c.train.alpha_max = 2.4; // at 2.5 the smaller mode would be empty
    struct run r = {0};
    if (dr_backend_open("cpu", 1, &r.be, &err))
        fail_msg("%s", err.msg);
    r.be->enter(r.be);
    r.data = mixtures(&c);
    c.data.classes = c.model.classes = 2;
    if (dr_trainer_create(&c, r.be, r.data, &r.t, &err))
        fail_msg("%s", err.msg);
    run_steps(&r, (int)c.train.steps, NULL);
    for (int cls = 0; cls < 2; cls++)
        for (double alpha = 1; alpha <= 2; alpha += 0.5) {
            double off, want = 0.5 + (cls ? -1 : 1) * alpha * (SHARE - 0.5);
            double got = left(&r, cls, alpha, &off);
            print_message("class %d, alpha %.1f: %.3f left, Eq. 16 says %.3f; %.4f between\n", cls,
                          alpha, got, want, off);
            assert_true(fabs(got - want) < 0.06);
            assert_true(off < 0.06);
        }
    run_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(alpha_sharpens_as_eq_16_says)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
