// Encoders in training, frozen ones in a drifting run and the U-Net on the emulated GPU, against
// the CPU: the same losses, and recordings of a step that hold nothing of that step's host.
#include "tests/emu/emu.h"

#include "engine/nn/params.h"
#include "engine/open.h"
#include "engine/sample/encode.h"
#include "engine/train/objective.h"
#include "tests/train/frozen.h"
#include "tests/train/util.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STEPS = 3 };

static void losses_on_emu(const struct dr_config *c, const struct dr_trainer_parts *parts,
                          bool reverse, double loss[STEPS]) {
    struct dr_err err = {0};
    struct run r = {0};
    if (dr_backend_emu(reverse, &r.be, &err))
        fail_msg("%s", err.msg);
    r.be->enter(r.be);
    if (dr_dataset_load(&c->data, NULL, false, &r.data, &err) ||
        dr_trainer_create_of(parts, c, r.be, r.data, &r.t, &err))
        fail_msg("%s", err.msg);
    run_steps(&r, STEPS, loss);
    run_close(&r);
}

// Replayed steps and, with the threads in another order, steps that run their ops directly give the
// same bits; the CPU comes close.
static void compare(const struct dr_config *c, const struct dr_trainer_parts *parts, double tol,
                    const char *what) {
    double cpu[STEPS], replayed[STEPS], direct[STEPS];
    struct run r;
    run_open_of(&r, c, parts);
    run_steps(&r, STEPS, cpu);
    run_close(&r);
    const long before = emu_replays();
    losses_on_emu(c, parts, false, replayed);
    assert_int_equal(emu_replays() - before, STEPS - 1);
    setenv("DRIFTD_GRAPHS", "0", 1);
    losses_on_emu(c, parts, true, direct);
    unsetenv("DRIFTD_GRAPHS");
    for (int i = 0; i < STEPS; i++) {
        if (!(fabs(cpu[i] - replayed[i]) <= tol * fabs(cpu[i])))
            fail_msg("%s, step %d: the loss is %.9g on the CPU, %.9g on emu", what, i + 1, cpu[i],
                     replayed[i]);
        if (replayed[i] != direct[i])
            fail_msg("%s, step %d: the loss is %.9g replayed, %.9g directly", what, i + 1,
                     replayed[i], direct[i]);
    }
}

// The weight of the labels changes from step to step in `both`.
static void encoders_train_like_on_the_cpu(void **state) {
    static const char *const small[] = {"kind=encoder",
                                        "data.set=digits",
                                        "data.size=8",
                                        "data.count=60",
                                        "data.seed=3",
                                        "data.flip=true",
                                        "data.crop=1",
                                        "encoder.width=4",
                                        "encoder.blocks=[1, 1]",
                                        "encoder.groups=2",
                                        "encoder.batch=12",
                                        "encoder.classify_ramp=3",
                                        "encoder.classify_weight=0.4",
                                        "encoder.label_smoothing=0.1",
                                        "encoder.jitter=0.1",
                                        "train.steps=20",
                                        "optim.lr=1e-3",
                                        "optim.warmup=2",
                                        "optim.schedule=one-cycle",
                                        NULL};
    static const char *const more[][2] = {{"encoder.objective=classify", NULL},
                                          {"encoder.objective=both", NULL}};
    const struct dr_trainer_parts parts = {0};
    (void)state;
    for (size_t i = 0; i < DR_COUNT(more); i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            struct dr_config c;
            config_of(&c, small);
            config_change(&c, more[i]);
            c.train.precision = bf16 ? DR_PREC_BF16 : DR_FP32;
            compare(&c, &parts, bf16 ? 3e-2 : 1e-3, more[i][0]);
        }
}

static void frozen_encoders_drive_like_on_the_cpu(void **state) {
    static const char *const frozen[] = {
        "data.flip=true",        "train.classes=3",    "optim.warmup=2",
        "features.kind=encoder", "features.encoder=x", "features.norm=sphere",
        "features.grid=2",       "features.rms=1",     NULL};
    static const char *const more[][6] = {
        {"loss.bias=abc", "loss.max_velocity=0.5", NULL},
        {"features.standardize=batch", "features.pixel_weight=0.5", "loss.negatives=independent",
         "loss.normalize=sinkhorn-split", NULL}};
    char path[512];
    (void)state;
    snprintf(path, sizeof path, "%s", scratch_path("emu-frozen.safetensors"));
    frozen_write(path, 8, 1, 4, "classifier", 5);
    for (size_t i = 0; i < DR_COUNT(more); i++) {
        struct dr_config c;
        const struct dr_trainer_parts parts = {.encoder = path};
        config_of(&c, tiniest);
        config_change(&c, frozen);
        config_change(&c, more[i]);
        compare(&c, &parts, 1e-3, more[i][0]);
    }
    unlink(path);
}

static void unets_train_like_on_the_cpu(void **state) {
    static const char *const unet[] = {"model.arch=unet",
                                       "model.dim=8",
                                       "model.widths=[1, 2]",
                                       "model.attention=4",
                                       "train.classes=3",
                                       "optim.warmup=2",
                                       NULL};
    const struct dr_trainer_parts parts = {0};
    struct dr_config c;
    (void)state;
    config_of(&c, tiniest);
    config_change(&c, unet);
    compare(&c, &parts, 1e-3, "unet");
}

// An encoder that learns beside the generator: its dilated convolutions, its own objective.
static void encoders_learn_beside_like_on_the_cpu(void **state) {
    static const char *const kde[] = {
        "features.kind=kde", "features.kde_width=8", "features.kde_lr=3", "features.patch2=true",
        "features.rms=1",    "train.classes=3",      "optim.warmup=2",    NULL};
    const struct dr_trainer_parts parts = {0};
    struct dr_config c;
    (void)state;
    config_of(&c, tiniest);
    config_change(&c, kde);
    compare(&c, &parts, 1e-3, "kde");
}

// Convolutions of every form, with ReLU, into parts of wider maps; pools; both kinds of images.
static void inceptions_judge_like_on_the_cpu(void **state) {
    static const char json[] = "{\"arch\":\"inception\",\"size\":75,\"narrow\":16,\"classes\":5}";
    enum { N = 2, INPUT = 3 * 75 * 75 };
    static real x[N * INPUT], out[2][3][N * 128];
    struct dr_err err = {0};
    struct dr_net *net;
    (void)state;
    if (dr_net_parse(json, strlen(json), NULL, &net, &err))
        fail_msg("%s", err.msg);
    real *w = calloc((size_t)dr_net_params(net)->total, sizeof *w);
    assert_non_null(w);
    dr_params_init(dr_net_params(net), 9, w);
    struct dr_snapshot *s = dr_snapshot_new(net, w, 0);
    for (int64_t i = 0; i < N * INPUT; i++)
        x[i] = (real)sin(0.37 * (double)i);
    for (int emu = 0; emu < 2; emu++) {
        real *y[DR_NET_OUTPUTS] = {out[emu][0], out[emu][1], out[emu][2]};
        struct dr_backend *be;
        struct dr_encode *e;
        if (emu ? dr_backend_emu(false, &be, &err) : dr_backend_open("cpu", 1, &be, &err))
            fail_msg("%s", err.msg);
        be->enter(be);
        if (dr_encode_create(be, DR_FP32, N, &e, &err) || dr_encode_run(e, s, x, N, y, &err))
            fail_msg("%s", err.msg);
        dr_encode_free(e);
        be->destroy(be);
    }
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < N * (k == 1 ? 128 : 5); i++)
            if (!(fabs((double)(out[0][k][i] - out[1][k][i])) <= 1e-4))
                fail_msg("output %d: %g on the CPU, %g on emu", k, (double)out[0][k][i],
                         (double)out[1][k][i]);
    dr_snapshot_unref(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(inceptions_judge_like_on_the_cpu),
                                       cmocka_unit_test(encoders_train_like_on_the_cpu),
                                       cmocka_unit_test(frozen_encoders_drive_like_on_the_cpu),
                                       cmocka_unit_test(encoders_learn_beside_like_on_the_cpu),
                                       cmocka_unit_test(unets_train_like_on_the_cpu)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
