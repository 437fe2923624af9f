// A run with the learned field: its operators train in a group of their own, are saved and resumed
// to the byte, report by name; frozen ones stay as they were; more than one process.
#include "tests/train/util.h"

#include "engine/train/objective.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const small[] = {"loss.field=learned",
                                    "loss.ldf_hidden_dim=12",
                                    "loss.ldf_projection_dim=8",
                                    "loss.ldf_score_hidden_dim=16",
                                    "features.quadrants=true",
                                    "features.rms=0.1",
                                    NULL};

static void configure(struct dr_config *c, const char *objective, bool projection) {
    char set[64];
    snprintf(set, sizeof set, "loss.ldf_objective=%s", objective);
    config_of(c, tiny_digits);
    config_change(c, small);
    config_change(c, (const char *const[]){set, NULL});
    c->loss.ldf.projection = projection;
}

static void one_step(const char *objective, bool projection) {
    struct dr_config c;
    struct run r;
    float *before, *after, *first;
    const bool frozen = !strcmp(objective, "frozen");
    char path[512];
    snprintf(path, sizeof path, "%s", scratch_path("learned-step.safetensors"));
    configure(&c, objective, projection);
    run_open(&r, &c);
    run_save(&r, path);
    const int64_t n = run_tensors(path, "train/field/", &before);
    const struct dr_metrics m = run_steps(&r, 1, NULL);
    run_save(&r, path);
    assert_true(n > 1000);
    assert_int_equal(run_tensors(path, "train/field/", &after), n);
    assert_int_equal(run_tensors(path, "opt.m/field/", &first), n);
    int64_t moved = 0, graded = 0;
    for (int64_t i = 0; i < n; i++) {
        moved += before[i] != after[i];
        graded += first[i] != 0;
    }
    // A pixel that is black in every image has no gradient in the first layer.
    if (frozen ? moved || graded : moved < n * 8 / 10 || graded < n * 8 / 10)
        fail_msg("%s: %d of %d moved, %d have a gradient", objective, (int)moved, (int)n,
                 (int)graded);
    assert_true(isfinite(dr_metric(r.t, &m, "drift_norm")));
    assert_true((dr_metric(r.t, &m, "field_objective") > 0) == !frozen);
    assert_true(fabs(dr_metric(r.t, &m, "field_agreement")) <= 1);
    double square = 0;
    for (int k = 0; k < 3; k++) { // image, quadrants, rms
        char name[32];
        snprintf(name, sizeof name, "field_grad_norm_%d", k);
        const double g = dr_metric(r.t, &m, name);
        assert_true(frozen ? g == 0 : g > 0);
        square += g * g;
    }
    assert_true(fabs(dr_metric(r.t, &m, "field_grad_norm") - sqrt(square)) <= 1e-6 * sqrt(square));
    assert_true(isnan(dr_metric(r.t, &m, "field_grad_norm_3")));
    free(before), free(after), free(first);
    run_close(&r);
    unlink(path);
}
static void a_step_moves_what_learns(void **state) {
    (void)state;
    for (int projection = 0; projection < 2; projection++) {
        one_step("denoise", projection);
        one_step("nce", projection);
        one_step("frozen", projection);
    }
}

static void it_resumes_exactly(void **state) {
    (void)state;
    static const char *const objective[] = {"denoise", "nce", "frozen"};
    for (int k = 0; k < 3; k++) {
        struct dr_config c;
        struct dr_err err = {0};
        struct run r;
        double whole[6], tail[3];
        float *a, *b;
        char path[512], end[512];
        snprintf(path, sizeof path, "%s", scratch_path("learned.safetensors"));
        snprintf(end, sizeof end, "%s", scratch_path("learned-end.safetensors"));
        configure(&c, objective[k], true);
        run_open(&r, &c);
        run_steps(&r, 3, whole);
        run_save(&r, path);
        run_steps(&r, 3, whole + 3);
        run_save(&r, end);
        const int64_t n = run_tensors(end, "", &a);
        run_close(&r);
        run_open(&r, &c);
        if (dr_trainer_load(r.t, path, &err))
            fail_msg("%s", err.msg);
        run_steps(&r, 3, tail);
        run_save(&r, end);
        assert_int_equal(run_tensors(end, "", &b), n);
        assert_memory_equal(whole + 3, tail, sizeof tail);
        assert_memory_equal(a, b, (size_t)n * sizeof *a);
        free(a), free(b);
        run_close(&r);
        // Whoever serves the file sees the generator alone.
        struct dr_snapshot *snap;
        if (dr_snapshot_load(path, NULL, &snap, &err))
            fail_msg("%s", err.msg);
        dr_snapshot_unref(snap);
        // Another shape of the operators does not continue it.
        c.loss.ldf.score = 17;
        run_open(&r, &c);
        assert_true(dr_trainer_load(r.t, path, &err) < 0);
        assert_non_null(strstr(err.msg, "field/image.score"));
        run_close(&r);
        unlink(path);
        unlink(end);
    }
}

// The objective falls, and the drift that follows trains the generator.
static void it_learns(void **state) {
    (void)state;
    static const char *const objective[] = {"denoise", "nce"};
    for (int k = 0; k < 2; k++) {
        struct dr_config c;
        struct run r;
        configure(&c, objective[k], true);
        c.loss.ldf.lr = 5;
        run_open(&r, &c);
        struct dr_metrics m = run_steps(&r, 1, NULL);
        const double before = dr_metric(r.t, &m, "field_objective");
        m = run_steps(&r, 150, NULL);
        const double after = dr_metric(r.t, &m, "field_objective");
        print_message("%s: objective %.3f -> %.3f, agreement %.2f\n", objective[k], before, after,
                      dr_metric(r.t, &m, "field_agreement"));
        assert_true(after < 0.97 * before);
        run_close(&r);
    }
}

static size_t little(struct dr_backend *be) {
    (void)be;
    return (size_t)1 << 30;
}
static bool three_times(void *ctx) {
    int *asked = ctx;
    return ++*asked < 4;
}

// Widths that no machine has memory for are refused before anything is allocated, with the keys; a
// set-up that is no longer wanted ends.
static void too_large_and_unwanted(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct dr_backend *be = NULL;
    struct dr_dataset *data = NULL;
    struct dr_trainer *trainer;
    int asked = 0;
    configure(&c, "denoise", true);
    if (dr_backend_open("cpu", 1, &be, &err) || dr_dataset_load(&c.data, NULL, false, &data, &err))
        fail_msg("%s", err.msg);
    dr_backend_enter(be);
    const struct dr_trainer_files files = {.go_on = three_times, .ctx = &asked};
    assert_int_equal(dr_trainer_create_from(&files, &c, be, data, &trainer, &err), DR_ECANCELED);
    assert_null(trainer);
    assert_int_equal(asked, 4);
    be->mem_left = little;
    c.loss.ldf.hidden = c.loss.ldf.width = c.loss.ldf.score = 8192;
    assert_int_equal(dr_trainer_create(&c, be, data, &trainer, &err), DR_ENOMEM);
    assert_null(trainer);
    assert_string_equal(err.field, "loss.ldf_projection_dim");
    assert_non_null(strstr(err.msg, "loss.ldf_hidden_dim (8192)"));
    assert_non_null(strstr(err.msg, "there are 1.0 GiB"));
    dr_dataset_free(data);
    dr_backend_free(be);
}

// Points have a drift to draw, in the data's own units.
static void toys_have_arrows(void **state) {
    (void)state;
    struct dr_config c;
    struct run r;
    recipe(&c, "toy-swiss-roll-ldf");
    run_open(&r, &c);
    run_steps(&r, 3, NULL);
    struct dr_drift_field *f = dr_trainer_field(r.t);
    assert_non_null(f);
    double size = 0;
    for (int64_t i = 2 * f->n; i < 4 * f->n; i++)
        size += pow((double)f->at[i], 2);
    assert_true(size > 1e-6 && isfinite(size));
    free(f);
    run_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_moves_what_learns),
        cmocka_unit_test(it_resumes_exactly),
        cmocka_unit_test(it_learns),
        cmocka_unit_test(too_large_and_unwanted),
        cmocka_unit_test(toys_have_arrows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
