// A drifting field in one file, with a parameter of its own that trains: it pulls every coordinate
// to theta, which learns the mean of the positives. Its group is optimised, saved and resumed with
// the generator's.
#include "tests/train/util.h"

#include "engine/core/arena.h"
#include "engine/train/objective.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int params(const struct dr_loss_config *cfg, const struct dr_features *f,
                  struct dr_params *ps, struct dr_err *err) {
    (void)cfg;
    (void)f;
    (void)err;
    dr_params_add(ps, 0, DR_INIT_CONST, 3, 1, (int64_t[]){1}, "theta");
    return 0;
}

static int validate(const struct dr_config *c, struct dr_err *err) {
    return c->train.unconditional
               ? dr_fail(err, DR_ECONFIG, "train.unconditional: the field pull takes none")
               : 0;
}

// V = theta - x; theta's own loss is (theta - mean(pos))^2 / 2.
static void pull_loss(struct dr_ctx *cx, const struct dr_loss_config *cfg,
                      const struct dr_weights *own, const struct dr_drift_in *in,
                      const struct dr_drift_out *out) {
    const size_t mark = dr_mark(cx->tmp);
    const int64_t n = in->B * in->N * in->S, np = in->B * in->P * in->S;
    const real *theta = own->w + own->layout->p[0].offset;
    real *g = own->g + own->layout->p[0].offset;
    real *v = dr_alloc(cx->tmp, (size_t)n * sizeof *v), *sum = dr_alloc(cx->tmp, sizeof *sum);
    (void)cfg;
    DR_OP(cx->be, copy4, .dst = v, .src = theta, .dim = {1, 1, 1, n}, .dstride = {0, 0, 0, 1});
    DR_OP(cx->be, axpy, .y = v, .x = in->gen, .n = n, .alpha = -1);
    DR_OP(cx->be, drift_grad, .dx = out->dgen, .loss = out->loss, .total = v, .b = in->B,
          .n = in->N, .s = in->S, .groups = in->groups, .weight = in->weight);
    DR_OP(cx->be, colsum, .out = sum, .x = in->pos, .m = np, .n = 1);
    DR_OP(cx->be, axpy, .y = g, .x = theta, .n = 1, .alpha = 1);
    DR_OP(cx->be, axpy, .y = g, .x = sum, .n = 1, .alpha = (real)(-1.0 / (double)np));
    dr_release(cx->tmp, mark);
}

static const struct dr_field_def pull = {
    .name = "pull", .loss = pull_loss, .validate = validate, .params = params, .learning_rate = 10};
static const struct dr_trainer_parts parts = {.field = &pull};

static void configure(struct dr_config *c) {
    recipe(c, "toy-swiss-roll");
    c->train.steps = 1000;
    config_change(c, (const char *const[]){"train.generated=32", "train.positives=64", NULL});
}

// What a checkpoint holds under `name`, one value.
static double saved(struct run *r, const char *name) {
    const char *path = scratch_path("field-look.safetensors");
    struct dr_err err = {0};
    struct dr_st_file *f;
    float value = NAN;
    if (dr_trainer_save(r->t, path, NULL, NULL, &err) || dr_st_open(path, &f, &err) ||
        dr_st_read_f32(f, name, 1, (int64_t[]){1}, &value, &err))
        fail_msg("%s", err.msg);
    dr_st_close(f);
    unlink(path);
    return (double)value;
}

static void its_parameter_trains(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct run r;
    configure(&c);
    run_open_of(&r, &c, &parts);
    assert_true(saved(&r, "train/field/theta") == 3);
    run_steps(&r, 1, NULL);
    assert_true(saved(&r, "opt.m/field/theta") != 0); // a gradient, and it has moved
    assert_true(saved(&r, "train/field/theta") != 3);
    run_steps(&r, 999, NULL);
    const double theta = saved(&r, "train/field/theta");
    double mean = 0;
    real p[2], x[400];
    for (int64_t i = 0; i < r.data->n; i++) {
        if (dr_dataset_reals(r.data, &i, 1, p, &err))
            fail_msg("%s", err.msg);
        mean += (double)(p[0] + p[1]) / 2 / (double)r.data->n;
    }
    run_sample(&r, 0, 200, x);
    double gen = 0;
    for (int i = 0; i < 400; i++)
        gen += (double)x[i] / 400;
    print_message("theta %.4f, mean of the data %.4f, of the samples %.4f\n", theta, mean, gen);
    assert_true(fabs(theta - mean) < 0.05 && fabs(gen - theta) < 0.1);
    assert_null(dr_trainer_field(r.t)); // not one to draw
    run_close(&r);
}

static void it_resumes_exactly(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct run r;
    double whole[8], tail[4];
    char path[512]; // scratch_path's own is overwritten by saved()
    snprintf(path, sizeof path, "%s", scratch_path("field.safetensors"));
    configure(&c);
    run_open_of(&r, &c, &parts);
    run_steps(&r, 4, whole);
    if (dr_trainer_save(r.t, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
    run_steps(&r, 4, whole + 4);
    const double theta = saved(&r, "train/field/theta");
    run_close(&r);
    run_open_of(&r, &c, &parts);
    if (dr_trainer_load(r.t, path, &err))
        fail_msg("%s", err.msg);
    run_steps(&r, 4, tail);
    assert_memory_equal(whole + 4, tail, sizeof tail);
    assert_true(saved(&r, "train/field/theta") == theta);
    run_close(&r);
    // The file is the generator's too: what the field adds is optimiser state to whoever serves it.
    struct dr_snapshot *snap;
    if (dr_snapshot_load(path, NULL, &snap, &err))
        fail_msg("%s", err.msg);
    dr_snapshot_unref(snap);
    // A run without the field's parameters ignores them; one with them misses them elsewhere.
    run_open(&r, &c);
    assert_int_equal(dr_trainer_save(r.t, path, NULL, NULL, &err), 0);
    run_close(&r);
    run_open_of(&r, &c, &parts);
    assert_int_equal(dr_trainer_load(r.t, path, &err), DR_ENOENT);
    assert_non_null(strstr(err.msg, "train/field/theta"));
    run_close(&r);
    unlink(path);
}

static void it_may_refuse_a_configuration(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct run r;
    configure(&c);
    run_open(&r, &c);
    struct dr_trainer *t;
    c.train.unconditional = 4;
    assert_int_equal(dr_trainer_create_of(&parts, &c, r.be, r.data, &t, &err), DR_ECONFIG);
    assert_non_null(strstr(err.msg, "train.unconditional"));
    assert_null(t);
    run_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(its_parameter_trains),
        cmocka_unit_test(it_resumes_exactly),
        cmocka_unit_test(it_may_refuse_a_configuration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
