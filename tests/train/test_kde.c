// Runs whose encoder learns beside the generator (features.kind kde): neither moves the other, what
// is kept or computed again changes no bit, checkpoints resume to the byte, the metrics tell how
// well it tells reals from generated samples.
#include "tests/train/util.h"

#include "engine/io/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void configure(struct dr_config *c, const char *const *more) {
    config_of(c, tiny_digits);
    config_change(c, (const char *const[]){"features.kind=kde", "features.kde_width=6",
                                           "features.patch2=true", "loss.temperatures=[0.1, 0.5]",
                                           "train.micro_batch=7", NULL});
    if (more)
        config_change(c, more);
}

static void losses_of(const struct dr_config *c, int n, double *loss) {
    struct run r;
    run_open(&r, c);
    run_steps(&r, n, loss);
    run_close(&r);
}

// An encoder that stands still is the identity: the run is one in pixels, to the bit, though its
// own objective is computed. So is the first step of one that moves.
static void it_begins_in_pixels(void **state) {
    (void)state;
    struct dr_config c;
    double pixel[6], still[6], moving[6];
    configure(&c, (const char *const[]){"features.rms=0.5", NULL});
    c.features.kind = DR_FEATURE_PIXEL;
    losses_of(&c, 6, pixel);
    c.features.kind = DR_FEATURE_KDE;
    c.features.kde_lr = 0;
    losses_of(&c, 6, still);
    c.features.kde_lr = 1;
    losses_of(&c, 6, moving);
    assert_memory_equal(pixel, still, sizeof pixel);
    assert_memory_equal(pixel, moving, sizeof *pixel);
    assert_true(moving[5] != pixel[5]);
}

// With a generator that stands still, what the encoder learns is its own.
static void every_weight_of_it_moves(void **state) {
    (void)state;
    struct dr_config c;
    struct run r;
    float *before, *after, *gen[2];
    char path[512];
    snprintf(path, sizeof path, "%s", scratch_path("kde-step.safetensors"));
    configure(&c, NULL);
    run_open(&r, &c);
    run_save(&r, path);
    const int64_t n = run_tensors(path, "train/encoder/", &before),
                  g = run_tensors(path, "train/", &gen[0]);
    struct dr_metrics m = run_steps(&r, 1, NULL);
    assert_true(fabs(dr_metric(r.t, &m, "encoder_loss")) < 20);
    assert_true(dr_metric(r.t, &m, "encoder_grad_norm") > 0);
    m = run_steps(&r, 3, NULL);
    run_save(&r, path);
    assert_int_equal(run_tensors(path, "train/encoder/", &after), n);
    assert_int_equal(run_tensors(path, "train/", &gen[1]), g);
    assert_true(n == 1 * 9 * 6 + 6 + 8 * (6 * 6 * 9 + 6) + 6 * 9 + 1 && g > n);
    int64_t moved = 0;
    for (int64_t i = 0; i < n; i++)
        moved += before[i] != after[i];
    if (moved < n * 99 / 100)
        fail_msg("%d of %d moved", (int)moved, (int)n);
    assert_true(isfinite(dr_metric(r.t, &m, "encoder_seconds")));
    assert_true(isfinite(dr_metric(r.t, &m, "drift_norm_1")));
    assert_true(isnan(dr_metric(r.t, &m, "drift_norm_2")));
    free(before), free(after), free(gen[0]), free(gen[1]);
    run_close(&r);
    unlink(path);
}

// Against a generator that hardly moves, the encoder comes to tell the two apart.
static void it_learns(void **state) {
    (void)state;
    struct dr_config c;
    struct run r;
    struct dr_err err = {0};
    configure(&c, (const char *const[]){"optim.lr=1e-5", "features.kde_lr=300", NULL});
    run_open(&r, &c);
    double loss[2] = {0}, right[2] = {0};
    for (int i = 0; i < 80; i++) {
        struct dr_metrics m;
        if (dr_trainer_step(r.t, &m, &err))
            fail_msg("%s", err.msg);
        if (i < 10 || i >= 70) {
            loss[i >= 70] += dr_metric(r.t, &m, "encoder_loss") / 10;
            right[i >= 70] += dr_metric(r.t, &m, "encoder_right") / 10;
        }
    }
    print_message("loss %.3f -> %.3f, right %.3f -> %.3f\n", loss[0], loss[1], right[0], right[1]);
    assert_true(loss[1] < 0.9 * loss[0] && right[1] > right[0] && right[1] <= 1);
    run_close(&r);
}

static void kept_or_again_changes_nothing(void **state) {
    (void)state;
    static const char *const all[][6] = {
        {NULL},
        {"features.norm=sphere", "features.rms=1", "features.pixel_weight=0.5", NULL},
        {"features.standardize=batch", "loss.negatives=independent", "data.flip=true", NULL},
        {"train.unconditional=0", "loss.field=kernel-l2", NULL}};
    for (size_t i = 0; i < DR_COUNT(all); i++) {
        struct dr_config c;
        struct run r;
        double kept[5], again[5];
        size_t bytes[2];
        configure(&c, all[i]);
        for (int k = 0; k < 2; k++) {
            c.features.keep_mb = k ? 0 : 2048;
            run_open(&r, &c);
            bytes[k] = dr_trainer_memory(r.t);
            run_steps(&r, 5, k ? again : kept);
            run_close(&r);
        }
        assert_true(bytes[1] < bytes[0]);
        assert_memory_equal(kept, again, sizeof kept);
    }
}

static void it_resumes_exactly(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct run r;
    double whole[6], tail[3];
    float *a, *b;
    char path[512], end[512];
    snprintf(path, sizeof path, "%s", scratch_path("kde.safetensors"));
    snprintf(end, sizeof end, "%s", scratch_path("kde-end.safetensors"));
    configure(&c, NULL);
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
    struct dr_snapshot *snap; // whoever serves the file sees the generator alone
    if (dr_snapshot_load(path, NULL, &snap, &err))
        fail_msg("%s", err.msg);
    assert_string_equal(dr_net_name(snap->net), "driftdit");
    dr_snapshot_unref(snap);
    c.features.kde_width = 7; // another encoder does not continue it
    run_open(&r, &c);
    assert_true(dr_trainer_load(r.t, path, &err) < 0);
    assert_non_null(strstr(err.msg, "encoder/residual."));
    run_close(&r);
    unlink(path);
    unlink(end);
}

static void bf16_follows_fp32(void **state) {
    (void)state;
    struct dr_config c;
    double fp32[8], bf16[8];
    configure(&c, NULL);
    losses_of(&c, 8, fp32);
    c.train.precision = DR_PREC_BF16;
    losses_of(&c, 8, bf16);
    for (int i = 0; i < 8; i++)
        if (!(fabs(fp32[i] - bf16[i]) <= 0.05 * fabs(fp32[i])))
            fail_msg("step %d: the loss is %g in fp32, %g in bf16", i + 1, fp32[i], bf16[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_begins_in_pixels), cmocka_unit_test(every_weight_of_it_moves),
        cmocka_unit_test(it_learns),           cmocka_unit_test(kept_or_again_changes_nothing),
        cmocka_unit_test(it_resumes_exactly),  cmocka_unit_test(bf16_follows_fp32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
