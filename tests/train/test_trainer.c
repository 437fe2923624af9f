// The training step: determinism, exact resume, refusals, failure on non-finite values, precision.
#include "tests/train/util.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void same_seed_same_losses(void **state) {
    (void)state;
    struct dr_config c;
    config_of(&c, tiny_digits);
    double a[6], b[6];
    struct run r;
    run_open(&r, &c);
    run_steps(&r, 6, a);
    run_close(&r);
    c.train.micro_batch = 16; // the same again
    run_open(&r, &c);
    run_steps(&r, 6, b);
    run_close(&r);
    assert_memory_equal(a, b, sizeof a);
    c.train.seed = 12;
    run_open(&r, &c);
    run_steps(&r, 6, b);
    run_close(&r);
    assert_true(memcmp(a, b, sizeof a) != 0);
}

// How the batch is cut changes the order of parameter-gradient sums and nothing else.
static void micro_batches_change_rounding_only(void **state) {
    (void)state;
    struct dr_config c;
    config_of(&c, tiny_digits);
    double a[5], b[5];
    struct run r;
    run_open(&r, &c);
    run_steps(&r, 5, a);
    run_close(&r);
    c.train.micro_batch = 7;
    run_open(&r, &c);
    run_steps(&r, 5, b);
    run_close(&r);
    for (int i = 0; i < 5; i++)
        assert_true(fabs(a[i] - b[i]) < 1e-3 * fabs(a[i]));
}

static void resume_is_exact_with(const char *sampler, const char *precision) {
    struct dr_config c;
    struct dr_err err = {0};
    config_of(&c, tiny_digits);
    char assignment[64];
    strcat(strcpy(assignment, "train.sampler="), sampler);
    assert_int_equal(dr_config_set(&c, assignment, &err), 0);
    strcat(strcpy(assignment, "train.precision="), precision);
    assert_int_equal(dr_config_set(&c, assignment, &err), 0);
    assert_int_equal(dr_config_set(&c, "ema.decay=[0.99, 0.9]", &err), 0);
    double whole[10], tail[5];
    char path[512], end[512];
    float *one, *other; // every tensor at the end, for losses know nothing of averages
    snprintf(path, sizeof path, "%s", scratch_path("resume.safetensors"));
    snprintf(end, sizeof end, "%s", scratch_path("resume-end.safetensors"));
    struct run r;
    run_open(&r, &c);
    run_steps(&r, 5, whole);
    char sha[65], again[65];
    int64_t bytes;
    if (dr_trainer_save(r.t, path, sha, &bytes, &err))
        fail_msg("%s", err.msg);
    run_steps(&r, 5, whole + 5);
    run_save(&r, end);
    const int64_t n = run_tensors(end, "", &one);
    run_close(&r);
    run_open(&r, &c);
    run_steps(&r, 2, NULL); // a trainer that was elsewhere
    if (dr_trainer_load(r.t, path, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(dr_trainer_steps_done(r.t), 5);
    run_steps(&r, 5, tail);
    assert_memory_equal(whole + 5, tail, sizeof tail);
    run_save(&r, end);
    assert_int_equal(run_tensors(end, "", &other), n);
    assert_memory_equal(one, other, (size_t)n * sizeof *one);
    free(one), free(other);
    unlink(end);
    run_close(&r);
    assert_int_equal(dr_sha256_file(path, again, &err), 0);
    assert_string_equal(sha, again);
    unlink(path);
}

static void resume_is_exact(void **state) {
    (void)state;
    resume_is_exact_with("exact", "fp32");
    resume_is_exact_with("queue", "fp32");
    resume_is_exact_with("exact", "bf16");
}

static void expect_refusal(const struct dr_config *c, const char *path, const char *word) {
    struct run r;
    struct dr_err err = {0};
    run_open(&r, c);
    assert_true(dr_trainer_load(r.t, path, &err) < 0);
    if (!strstr(err.msg, word))
        fail_msg("\"%s\" lacks \"%s\"", err.msg, word);
    run_close(&r);
}

static void other_runs_checkpoints_are_refused(void **state) {
    (void)state;
    struct dr_config c, d;
    struct dr_err err = {0};
    config_of(&c, tiny_digits);
    const char *path = scratch_path("refuse.safetensors");
    struct run r;
    run_open(&r, &c);
    run_steps(&r, 1, NULL);
    assert_int_equal(dr_trainer_save(r.t, path, NULL, NULL, &err), 0);
    run_close(&r);
    d = c;
    d.model.depth = 1;
    expect_refusal(&d, path, "model differs");
    d = c;
    d.train.seed = 5;
    expect_refusal(&d, path, "train.seed is 11");
    d = c;
    d.data.seed = 4;
    expect_refusal(&d, path, "fingerprint");
    assert_int_equal(truncate(path, 5000), 0);
    expect_refusal(&c, path, "refuse.safetensors");
    unlink(path);
}

// The file a trainer writes is the model: its samples are the trainer's, bit for bit.
static void checkpoint_serves_the_same_samples(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    config_of(&c, tiny_digits);
    struct run r;
    run_open(&r, &c);
    run_steps(&r, 3, NULL);
    const int64_t count = 16 * 16;
    real a[5 * 16 * 16], b[5 * 16 * 16];
    run_sample(&r, 2, 5, a);
    const char *path = scratch_path("serve.safetensors");
    assert_int_equal(dr_trainer_save(r.t, path, NULL, NULL, &err), 0);
    struct dr_snapshot *snap;
    if (dr_snapshot_load(path, NULL, &snap, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(snap->step, 3);
    const struct dr_guidance_range seen = dr_config_guidance_range(&c);
    assert_true(snap->guidance.lo == seen.lo && snap->guidance.hi == seen.hi && seen.hi > 0);
    struct dr_sampler *s;
    assert_int_equal(dr_sampler_create(r.be, DR_FP32, 8, &s, &err), 0);
    // the same five, backwards, between others of another class and scale, one of them in two
    // passes
    struct dr_sample req[11];
    for (int i = 0; i < 11; i++)
        req[i] = (struct dr_sample){
            .seed = 9, .index = (uint64_t)i, .cls = i % 10, .alpha = 2.5f, .two_pass = i == 4};
    for (int i = 0; i < 5; i++)
        req[2 * i + 1] =
            (struct dr_sample){.seed = 1, .index = 4 - (uint64_t)i, .cls = 2, .alpha = 1};
    real x[11 * 16 * 16];
    if (dr_sampler_run(s, snap, req, 11, x, &err))
        fail_msg("%s", err.msg);
    for (int i = 0; i < 5; i++)
        memcpy(b + (4 - i) * count, x + (2 * i + 1) * count, (size_t)count * sizeof *b);
    assert_memory_equal(a, b, sizeof a);
    req[0].cls = 10;
    assert_true(dr_sampler_run(s, snap, req, 11, x, &err) < 0);
    assert_non_null(strstr(err.msg, "0 to 9"));
    dr_sampler_free(s);
    dr_snapshot_unref(snap);
    run_close(&r);
    unlink(path);
}

static void non_finite_stops_and_keeps_the_weights(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    config_of(&c, tiny_digits);
    c.optim.lr = 1e38;
    c.optim.warmup = 0;
    c.optim.clip = 0;
    struct run r;
    run_open(&r, &c);
    struct dr_metrics m;
    int rc = 0;
    for (int i = 0; i < 5 && !rc; i++)
        rc = dr_trainer_step(r.t, &m, &err);
    assert_int_equal(rc, DR_ENONFINITE);
    assert_false(m.finite);
    assert_int_equal(dr_trainer_steps_done(r.t), m.step - 1);
    // The step that failed reports its values by name; those that follow report none.
    assert_false(isfinite(dr_metric(r.t, &m, "loss")) && isfinite(dr_metric(r.t, &m, "grad_norm")));
    assert_true(m.measured & 1);
    assert_true(dr_metric(r.t, &m, "lr") > 0);
    assert_int_equal(dr_trainer_step(r.t, &m, &err), DR_ENONFINITE);
    assert_int_equal(m.step, 0);
    run_close(&r);
}

// Every metric under its name, once; spread only where it is measured.
static void metrics_have_names(void **state) {
    (void)state;
    static const char *const known[] = {
        "loss",         "drift_norm",    "grad_norm",    "lr",           "step_seconds",
        "loss_seconds", "feature_scale", "dist_mean",    "dist_var",     "alpha_mean",
        "spread",       "spread_min",    "drift_norm_0", "drift_norm_1", "encoder_seconds"};
    struct dr_config c;
    struct dr_err err = {0};
    config_of(&c, tiny_digits);
    assert_int_equal(dr_config_set(&c, "loss.temperatures=[0.05, 0.2]", &err), 0);
    struct run r;
    run_open(&r, &c);
    int n;
    const struct dr_metric_def *def = dr_trainer_metrics(r.t, &n);
    assert_int_equal(n, DR_COUNT(known));
    for (int i = 0; i < n; i++) {
        assert_true(def[i].help[0] && strlen(def[i].name) < 32);
        for (int j = 0; j < i; j++)
            assert_string_not_equal(def[i].name, def[j].name);
    }
    for (int step = 1; step <= 3; step++) { // spread_every is 3
        struct dr_metrics m;
        assert_int_equal(dr_trainer_step(r.t, &m, &err), 0);
        assert_int_equal(m.n, n);
        for (size_t i = 0; i < DR_COUNT(known); i++) {
            const bool encoder = !strcmp(known[i], "encoder_seconds"); // this run has none
            if (isfinite(dr_metric(r.t, &m, known[i])) !=
                (!encoder && (step == 3 || strncmp(known[i], "spr", 3))))
                fail_msg("%s in step %d is %g", known[i], step, dr_metric(r.t, &m, known[i]));
        }
        assert_true(isnan(dr_metric(r.t, &m, "drift_norm_2")));
        double norm = dr_metric(r.t, &m, "drift_norm_0") + dr_metric(r.t, &m, "drift_norm_1");
        assert_true(fabs(dr_metric(r.t, &m, "drift_norm") - norm / 2) < 1e-12);
    }
    run_close(&r);
}

// A class whose reals are all alike has no ratio to be averaged; without any class nothing is
// measured.
static void alike_reals_have_no_spread(void **state) {
    (void)state;
    for (int all = 0; all < 2; all++) {
        struct dr_config c;
        struct run r;
        config_of(&c, tiny_digits);
        run_open(&r, &c);
        const int64_t row = (int64_t)dr_dataset_row_bytes(r.data);
        uint8_t *pixels = (uint8_t *)(uintptr_t)r.data->pixels; // the test's own copy of the set
        for (int64_t i = 0; i < r.data->n; i++)
            if (all || !r.data->label[i])
                memset(pixels + i * row, 0, (size_t)row);
        const struct dr_metrics m = run_steps(&r, 3, NULL); // spread_every is 3
        assert_true(isfinite(m.spread) == !all && isfinite(m.spread_min) == !all);
        assert_true(isfinite(dr_metric(r.t, &m, "spread")) == !all);
        assert_true(all || (m.spread_min > 0 && m.spread_min <= m.spread));
        run_close(&r);
    }
}

static void bf16_follows_fp32(void **state) {
    (void)state;
    struct dr_config c;
    config_of(&c, tiny_digits);
    struct run r;
    run_open(&r, &c);
    struct dr_metrics a = run_steps(&r, 10, NULL);
    run_close(&r);
    c.train.precision = DR_PREC_BF16;
    run_open(&r, &c);
    struct dr_metrics b = run_steps(&r, 10, NULL);
    run_close(&r);
    for (int i = 0; i < a.ntau; i++)
        assert_true(fabs(a.drift_norm[i] - b.drift_norm[i]) < 0.05 * a.drift_norm[i]);
}

static double first_loss(struct dr_config *c, bool image, bool quadrants) {
    struct run r;
    double loss;
    c->features.image = image;
    c->features.quadrants = quadrants;
    run_open(&r, c);
    run_steps(&r, 1, &loss);
    run_close(&r);
    return loss;
}

// The drifting losses of several features are summed; kernel-l2 takes their mean.
static void losses_of_features_are_joined(void **state) {
    (void)state;
    struct dr_config c;
    config_of(&c, tiny_digits);
    c.train.unconditional = 0;
    for (int field = DR_FIELD_KERNEL; field <= DR_FIELD_KERNEL_L2; field++) {
        c.loss.field = field;
        double one = first_loss(&c, true, false), four = first_loss(&c, false, true);
        double both = first_loss(&c, true, true);
        double want = (one + four) / (field == DR_FIELD_KERNEL_L2 ? 2 : 1);
        assert_true(fabs(both - want) < 1e-5 * want);
    }
}

// Every option of the field goes through whole steps, with quadrants (locations), unconditional
// reals and the sphere; the limit to V limits the loss.
static void options_of_the_field_train(void **state) {
    (void)state;
    static const char *const option[][3] = {
        {NULL},
        {"loss.bias=abc", NULL},
        {"features.standardize=batch", NULL},
        {"loss.max_velocity=0.25", NULL},
        {"loss.negatives=independent", "loss.normalize=sinkhorn-split", NULL}};
    double first[DR_COUNT(option)], loss[4];
    for (size_t k = 0; k < DR_COUNT(option); k++) {
        struct dr_config c;
        struct dr_err err = {0};
        struct run r;
        config_of(&c, tiny_digits);
        c.features.quadrants = true;
        c.features.norm = DR_FEATURE_NORM_SPHERE;
        c.features.rms = 0.25;
        c.train.unconditional = 6;
        c.loss.floor = 0;
        const int n = !option[k][0] ? 0 : option[k][1] ? 2 : 1;
        if (n && dr_config_set_all(&c, option[k], n, &err))
            fail_msg("%s", err.msg);
        run_open(&r, &c);
        run_steps(&r, 4, loss);
        run_close(&r);
        for (int i = 0; i < 4; i++)
            assert_true(isfinite(loss[i]) && loss[i] > 0);
        first[k] = loss[0];
        for (size_t q = 0; q < k; q++)
            assert_true(first[q] != first[k]);
    }
    assert_true(first[3] <= 2.25 * 0.25 * 0.25 * (1 + 1e-5)); // image, quadrants, a quarter of rms
}

static void schedule_and_metrics(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    config_of(&c, tiny_digits);
    c.train.steps = 20;
    assert_int_equal(dr_config_set(&c, "optim.schedule=cosine", &err), 0);
    c.optim.cosine_start = 0.5;
    c.optim.lr_end = 0.1;
    struct run r;
    run_open(&r, &c);
    double lr[20];
    int measured = 0;
    for (int i = 0; i < 20; i++) {
        struct dr_metrics m;
        assert_false(dr_trainer_finished(r.t));
        assert_int_equal(dr_trainer_step(r.t, &m, &err), 0);
        lr[i] = m.lr;
        measured += !isnan(m.spread);
        assert_true(m.drift_norm[0] > 0 && m.dist_mean > 0 && m.dist_var > 0 && m.grad_norm > 0);
        assert_true(m.alpha_mean >= 1 && m.alpha_mean <= 3);
    }
    assert_true(dr_trainer_finished(r.t));
    assert_int_equal(measured, 6);                                       // every third of twenty
    assert_true(fabs(lr[0] - 2e-4) < 1e-9 && fabs(lr[4] - 1e-3) < 1e-9); // warm-up of five
    assert_true(fabs(lr[10] - 1e-3) < 1e-9 && lr[15] < lr[11] && lr[19] < 0.2e-3);
    run_close(&r);
}

// Where train.minutes ends a run before train.steps, the cosine follows the clock to its end.
static void minutes_bring_the_schedule_to_its_end(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    config_of(&c, tiny_digits);
    c.train.steps = 1000000000;
    c.train.minutes = 0.01;
    assert_int_equal(dr_config_set(&c, "optim.schedule=cosine", &err), 0);
    c.optim.warmup = 0;
    c.optim.cosine_start = 0;
    c.optim.lr_end = 0.1;
    struct run r;
    run_open(&r, &c);
    while (!dr_trainer_finished(r.t)) {
        const double u = dr_trainer_seconds(r.t) / 0.6;
        const double want = c.optim.lr * (0.1 + 0.9 * 0.5 * (1 + cos(M_PI * u)));
        struct dr_metrics m;
        assert_int_equal(dr_trainer_step(r.t, &m, &err), 0);
        assert_true(fabs(m.lr - want) < 1e-6 * c.optim.lr);
    }
    assert_true(dr_trainer_seconds(r.t) >= 0.6 && dr_trainer_steps_done(r.t) < c.train.steps);
    run_close(&r);
}

// The same of one-cycle, also where the machine is too slow for the warm-up to be over by then.
static void one_cycle_ends_low_at_any_speed(void **state) {
    (void)state;
    for (int slow = 0; slow < 2; slow++) {
        struct dr_config c;
        struct dr_err err = {0};
        config_of(&c, tiny_digits);
        c.train.steps = 1000000000;
        c.train.minutes = 0.01;
        assert_int_equal(dr_config_set(&c, "optim.schedule=one-cycle", &err), 0);
        c.optim.warmup = slow ? 100 : 4;
        c.optim.lr_end = 0.1;
        struct run r;
        run_open(&r, &c);
        while (!dr_trainer_finished(r.t)) {
            const double left = 1 - dr_trainer_seconds(r.t) / 0.6;
            const double fall = 0.1 + 0.9 * fmin(1, left / (1 - (double)c.optim.warmup / 1e9));
            const double rise = (double)(dr_trainer_steps_done(r.t) + 1) / (double)c.optim.warmup;
            struct dr_metrics m;
            assert_int_equal(dr_trainer_step(r.t, &m, &err), 0);
            assert_true(fabs(m.lr - c.optim.lr * fmin(rise, fall)) < 1e-6 * c.optim.lr);
        }
        run_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_seed_same_losses),
        cmocka_unit_test(micro_batches_change_rounding_only),
        cmocka_unit_test(resume_is_exact),
        cmocka_unit_test(other_runs_checkpoints_are_refused),
        cmocka_unit_test(checkpoint_serves_the_same_samples),
        cmocka_unit_test(non_finite_stops_and_keeps_the_weights),
        cmocka_unit_test(metrics_have_names),
        cmocka_unit_test(alike_reals_have_no_spread),
        cmocka_unit_test(bf16_follows_fp32),
        cmocka_unit_test(losses_of_features_are_joined),
        cmocka_unit_test(options_of_the_field_train),
        cmocka_unit_test(schedule_and_metrics),
        cmocka_unit_test(minutes_bring_the_schedule_to_its_end),
        cmocka_unit_test(one_cycle_ends_low_at_any_speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
