// The U-Net in training: losses do not depend on the cut into micro-batches, a resumed run
// continues as the first one would, a checkpoint serves the trainer's own samples.
#include "tests/train/util.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static void unet_config(struct dr_config *c) {
    static const char *const set[] = {
        "model.arch=unet",   "model.dim=8",          "model.depth=1",        "model.widths=[1, 2]",
        "model.attention=8", "model.style_tokens=2", "train.micro_batch=16", NULL};
    struct dr_err err = {0};
    config_of(c, tiny_digits);
    if (dr_config_set_all(c, set, (int)DR_COUNT(set) - 1, &err))
        fail_msg("%s", err.msg);
}

static void micro_batches_change_rounding_only(void **state) {
    (void)state;
    struct dr_config c;
    double loss[2][4];
    for (int i = 0; i < 2; i++) {
        struct run r;
        unet_config(&c);
        c.train.micro_batch = i ? 7 : 16;
        run_open(&r, &c);
        run_steps(&r, 4, loss[i]);
        run_close(&r);
    }
    for (int i = 0; i < 4; i++)
        assert_true(fabs(loss[0][i] - loss[1][i]) < 1e-3 * fabs(loss[0][i]));
}

static void resume_is_exact(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct run r;
    struct dr_snapshot *snap;
    struct dr_sampler *s;
    double whole[5], tail[3];
    real want[3 * 256], got[3 * 256];
    const char *path = scratch_path("unet.safetensors");
    unet_config(&c);
    run_open(&r, &c);
    run_steps(&r, 2, whole);
    if (dr_trainer_save(r.t, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
    run_sample(&r, 2, 3, want);
    if (dr_snapshot_load(path, NULL, &snap, &err) || dr_sampler_create(r.be, DR_FP32, 3, &s, &err))
        fail_msg("%s", err.msg);
    struct dr_sample req[3];
    for (int i = 0; i < 3; i++)
        req[i] = (struct dr_sample){.seed = 1, .index = (uint64_t)i, .cls = 2, .alpha = 1};
    if (dr_sampler_run(s, snap, req, 3, got, &err))
        fail_msg("%s", err.msg);
    assert_memory_equal(want, got, sizeof want);
    dr_sampler_free(s);
    dr_snapshot_unref(snap);
    run_steps(&r, 3, whole + 2);
    run_close(&r);
    run_open(&r, &c);
    if (dr_trainer_load(r.t, path, &err))
        fail_msg("%s", err.msg);
    run_steps(&r, 3, tail);
    assert_memory_equal(whole + 2, tail, sizeof tail);
    run_close(&r);
    unlink(path);
}

static void precision_and_noise(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    double loss[2][3];
    for (int i = 0; i < 2; i++) {
        struct run r;
        unet_config(&c);
        if (dr_config_set(&c, "model.noise=latent", &err) ||
            (i && dr_config_set(&c, "train.precision=bf16", &err)))
            fail_msg("%s", err.msg);
        run_open(&r, &c);
        run_steps(&r, 3, loss[i]);
        run_close(&r);
    }
    for (int i = 0; i < 3; i++)
        assert_true(fabs(loss[0][i] - loss[1][i]) < 0.05 * fabs(loss[0][i]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(micro_batches_change_rounding_only),
        cmocka_unit_test(resume_is_exact),
        cmocka_unit_test(precision_and_noise),
    };
    return cmocka_run_group_tests_name("U-Net in training", tests, NULL, NULL);
}
