// The objectives of encoders and judges on small digits: they learn, resume exactly, do not depend
// on threads; weights of one start another. Their gradients are in test_encoder_grad.c.
#include "tests/train/util.h"

#include "engine/io/safetensors.h"
#include "engine/train/encoder/augment.h"
#include "engine/train/encoder/judge.h"
#include "engine/train/objective.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const small[] = {"kind=encoder",
                                    "data.set=digits",
                                    "data.size=16",
                                    "data.count=800",
                                    "data.seed=3",
                                    "encoder.width=8",
                                    "encoder.blocks=[1, 1, 1]",
                                    "encoder.groups=4",
                                    "encoder.batch=40",
                                    "data.crop=1",
                                    "encoder.classify_ramp=10",
                                    "encoder.classify_weight=0.4",
                                    "train.micro_batch=16",
                                    "train.seed=5",
                                    "train.steps=100",
                                    "optim.lr=1e-2",
                                    "optim.warmup=15",
                                    "optim.schedule=one-cycle",
                                    "optim.lr_end=0",
                                    "ema.decay=[0.9]",
                                    NULL};

static void configure(struct dr_config *c, const char *objective) {
    struct dr_err err = {0};
    char text[64];
    config_of(c, small);
    snprintf(text, sizeof text, "encoder.objective=%s", objective);
    if (dr_config_set(c, text, &err))
        fail_msg("%s", err.msg);
}

struct judged {
    struct dr_dataset *test;
    struct dr_judge *j;
    struct dr_snapshot *s;
};
static void judge_open(struct judged *g, struct run *r, const struct dr_config *c) {
    struct dr_err err = {0};
    if (dr_dataset_load(&c->data, NULL, true, &g->test, &err) ||
        dr_judge_create(r->be, DR_FP32, r->data, g->test, &g->j, &err))
        fail_msg("%s", err.msg);
    g->s = dr_trainer_snapshot(r->t, 0);
    assert_non_null(g->s);
}
static void judge_close(struct judged *g) {
    dr_snapshot_unref(g->s);
    dr_judge_free(g->j);
    dr_dataset_free(g->test);
}

static void a_classifier_learns(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct run r;
    struct judged g;
    double loss[100], all, some, dots;
    configure(&c, "classify");
    run_open(&r, &c);
    struct dr_metrics m = run_steps(&r, 100, loss);
    judge_open(&g, &r, &c);
    assert_int_equal(dr_judge_accuracy(g.j, g.s, 0, &all, &err), 0);
    assert_int_equal(dr_judge_accuracy(g.j, g.s, 48, &some, &err), 0);
    assert_int_equal(dr_judge_probe(g.j, g.s, 400, 0, &dots, &err), 0);
    print_message("loss %.3f -> %.3f, accuracy %.3f, test %.3f (48: %.3f), probe %.3f\n", loss[0],
                  loss[99], dr_metric(r.t, &m, "accuracy"), all, some, dots);
    assert_true(loss[99] < 0.7 * loss[0]);
    assert_true(dr_metric(r.t, &m, "accuracy") > 0.5);
    assert_true(all > 0.7 && some > 0.6 && dots > 0.3);
    assert_true(isnan(dr_metric(r.t, &m, "test_accuracy"))); // nobody has measured it
    assert_true(dr_metric_put(r.t, &m, "test_accuracy", all));
    assert_true(dr_metric(r.t, &m, "test_accuracy") == all);
    assert_false(dr_metric_put(r.t, &m, "drift_norm", 1));
    assert_true(m.lr < 3e-4); // one-cycle: nothing is left at the end
    assert_int_equal(dr_net_kind(g.s->net), DR_NET_JUDGE);
    real x[3 * 256];
    assert_int_equal(dr_judge_reconstruct(g.j, g.s, 1, 2, 0.5, x, &err), DR_EINVAL);
    assert_non_null(strstr(err.msg, "reconstruction"));
    judge_close(&g);
    run_close(&r);
}

static void an_autoencoder_learns(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct run r;
    struct judged g;
    double loss[60], probe, none;
    configure(&c, "autoencode");
    run_open(&r, &c);
    run_steps(&r, 60, loss);
    judge_open(&g, &r, &c);
    real *x = malloc(sizeof *x * 70 * 3 * 256);
    assert_int_equal(dr_judge_probe(g.j, g.s, 400, 0, &probe, &err), 0);
    assert_int_equal(dr_judge_reconstruct(g.j, g.s, 70, 2, 0.5, x, &err), 0);
    double filled = 0, grey = 0;
    for (int i = 0; i < 70 * 256; i++) {
        const real *at = x + i / 256 * 768 + i % 256;
        if (at[256] == 0) { // masked
            filled += pow((double)(at[512] - at[0]), 2);
            grey += pow((double)at[0], 2);
        } else {
            assert_true(at[256] == at[0] && at[512] == at[0]);
        }
    }
    print_message("loss %.3f -> %.3f, probe %.3f, error of the pictures %.3f of grey's\n", loss[0],
                  loss[59], probe, filled / grey);
    assert_true(loss[59] < loss[0] / 2);
    assert_true(probe > 0.25); // chance: 0.1
    assert_true(filled < grey / 2);
    assert_int_equal(dr_net_kind(g.s->net), DR_NET_ENCODER);
    assert_int_equal(dr_judge_accuracy(g.j, g.s, 0, &none, &err), DR_EINVAL);
    free(x);
    judge_close(&g);
    run_close(&r);
}

// The weight of the cross-entropy grows from 0 to its value over the ramp.
static void both_weigh_their_losses(void **state) {
    (void)state;
    struct dr_config c;
    struct run r;
    struct dr_metrics m;
    configure(&c, "both");
    run_open(&r, &c);
    for (int step = 0; step < 14; step++) {
        const double l = step < 10 ? 0.4 * step / 10 : 0.4;
        m = run_steps(&r, 1, NULL);
        const double ce = dr_metric(r.t, &m, "classify_loss"),
                     error = dr_metric(r.t, &m, "autoencode_loss");
        assert_true(ce > 1 && error > 0);
        assert_true(fabs(m.loss - (l * ce + (1 - l) * error)) < 1e-5 * m.loss);
    }
    run_close(&r);
}

static void they_resume_exactly(void **state) {
    (void)state;
    static const char *const objective[] = {"classify", "autoencode", "both"};
    const char *path = scratch_path("encoders.safetensors");
    struct dr_err err = {0};
    for (int i = 0; i < 3; i++) {
        struct dr_config c;
        struct run r;
        double whole[24], tail[12];
        configure(&c, objective[i]); // 12 steps are 480 of 800 images: an epoch ends within
        run_open(&r, &c);
        run_steps(&r, 12, whole);
        if (dr_trainer_save(r.t, path, NULL, NULL, &err))
            fail_msg("%s", err.msg);
        run_steps(&r, 12, whole + 12);
        run_close(&r);
        run_open(&r, &c);
        if (dr_trainer_load(r.t, path, &err))
            fail_msg("%s", err.msg);
        run_steps(&r, 12, tail);
        assert_memory_equal(whole + 12, tail, sizeof tail);
        run_close(&r);
        // The file is a network that anyone may take weights from.
        struct dr_snapshot *s;
        if (dr_snapshot_load(path, NULL, &s, &err))
            fail_msg("%s", err.msg);
        assert_int_equal(s->step, 12);
        assert_true((dr_net_output_find(s->net, "logits") < 0) == (i == 1));
        assert_true((dr_net_output_find(s->net, "reconstruction") < 0) == (i == 0));
        dr_snapshot_unref(s);
        configure(&c, objective[(i + 1) % 3]);
        run_open(&r, &c);
        assert_int_equal(dr_trainer_load(r.t, path, &err), DR_EINVAL);
        assert_non_null(strstr(err.msg, objective[i]));
        run_close(&r);
    }
    unlink(path);
}

static void threads_change_nothing(void **state) {
    (void)state;
    struct dr_config c;
    struct run r;
    double a[4], b[4];
    configure(&c, "both");
    c.data.flip = true;
    c.encoder.crop_area = 0.5;
    c.encoder.jitter = 0.3;
    run_open(&r, &c);
    run_steps(&r, 4, a);
    run_close(&r);
    run_open(&r, &c);
    omp_set_num_threads(3);
    run_steps(&r, 4, b);
    run_close(&r);
    omp_set_num_threads(1);
    assert_memory_equal(a, b, sizeof a);
    c.train.micro_batch = 7; // chunks change the order of sums
    run_open(&r, &c);
    run_steps(&r, 4, b);
    run_close(&r);
    for (int i = 0; i < 4; i++)
        assert_true(fabs(a[i] - b[i]) < 1e-3 * a[i]);
}

static int start_from(const struct dr_config *c, const char *path, char note[400], double *first,
                      struct dr_err *err) {
    struct run r;
    run_open(&r, c);
    int rc = dr_trainer_init_from(r.t, path, note, err);
    if (!rc)
        run_steps(&r, 1, first);
    run_close(&r);
    return rc;
}

// The served weights of a checkpoint over its file, each name behind a wrapper's prefix.
static void save_behind(const char *prefix, const char *path) {
    struct dr_st_file *f;
    struct dr_st_writer *out;
    struct dr_err err = {0};
    char name[200];
    if (dr_st_open(path, &f, &err) || dr_st_writer_new(&out, &err))
        fail_msg("%s", err.msg);
    for (int i = 0; i < dr_st_count(f); i++) {
        const struct dr_st_tensor *t = dr_st_at(f, i);
        snprintf(name, sizeof name, "%s%s", prefix, t->name);
        if (!strchr(t->name, '/') && dr_st_add(out, name, t->dtype, t->ndim, t->dim, t->data, &err))
            fail_msg("%s", err.msg);
    }
    if (dr_st_finish(out, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
    dr_st_close(f);
}

static void weights_of_one_start_another(void **state) {
    (void)state;
    const char *path = scratch_path("init.safetensors");
    struct dr_config c, both;
    struct dr_err err = {0};
    struct run r;
    char note[400];
    double fresh, warm, wrapped, loss[40];
    configure(&c, "autoencode");
    run_open(&r, &c);
    run_steps(&r, 40, loss);
    assert_int_equal(dr_trainer_save(r.t, path, NULL, NULL, &err), 0);
    run_close(&r);
    configure(&both, "both");
    run_open(&r, &both);
    run_steps(&r, 1, &fresh);
    run_close(&r);
    if (start_from(&both, path, note, &warm, &err))
        fail_msg("%s", err.msg);
    print_message("first loss %.3f fresh, %.3f from the autoencoder; %s\n", fresh, warm, note);
    assert_true(warm < fresh / 2);
    assert_non_null(strstr(note, "2 of ")); // the classifier's weight and bias
    assert_non_null(strstr(note, "fc.weight"));
    if (start_from(&c, path, note, &warm, &err))
        fail_msg("%s", err.msg);
    assert_string_equal(note, "");
    save_behind("module.", path);
    if (start_from(&c, path, note, &wrapped, &err))
        fail_msg("%s", err.msg);
    assert_string_equal(note, "");
    assert_true(wrapped == warm);
    c.encoder.width = 16;
    assert_int_not_equal(start_from(&c, path, note, &warm, &err), 0);
    print_message("%s\n", err.msg);
    assert_non_null(strstr(err.msg, "module.conv1.weight"));
    config_of(&c, tiny_digits); // a generator has none of these names
    assert_int_equal(start_from(&c, path, note, &warm, &err), DR_EINVAL);
    assert_non_null(strstr(err.msg, "none of this network's tensors"));
    run_open(&r, &c);
    assert_int_equal(dr_trainer_save(r.t, path, NULL, NULL, &err), 0);
    run_close(&r);
    if (start_from(&c, path, note, &warm, &err))
        fail_msg("%s", err.msg);
    assert_string_equal(note, "");
    assert_int_not_equal(start_from(&c, "/nowhere.safetensors", note, &warm, &err), 0);
    unlink(path);
}

// ---- augmentation

static void ramp(real *x, int64_t c, int64_t h, int64_t w) {
    for (int64_t i = 0; i < c * h * w; i++)
        x[i] = (real)(i % (h * w)) / (real)(h * w);
}

static void images_are_changed_as_asked(void **state) {
    (void)state;
    enum { H = 4, W = 5, C = 2, N = C * H * W };
    real x[N], y[N];
    ramp(x, C, H, W);
    struct dr_augment a = {.sy = 1, .sx = 1, .contrast = 1, .saturation = 1};
    dr_augment_apply(&a, x, C, H, W, y);
    assert_memory_equal(x, y, sizeof x);
    a.x0 = W - 1, a.sx = -1; // mirrored
    dr_augment_apply(&a, x, C, H, W, y);
    for (int i = 0; i < N; i++)
        assert_true(y[i] == x[i / W * W + W - 1 - i % W]);
    a = (struct dr_augment){.y0 = 1, .x0 = -2, .sy = 1, .sx = 1, .contrast = 1, .saturation = 1};
    dr_augment_apply(&a, x, C, H, W, y); // moved: the border is mirrored
    assert_true(y[0] == x[W + 2] && y[1] == x[W + 1] && y[2] == x[W]);
    assert_true(y[(H - 1) * W + 2] == x[(H - 2) * W]);
    a = (struct dr_augment){.sy = 1, .sx = 1, .contrast = 1, .brightness = 0.5, .saturation = 1};
    dr_augment_apply(&a, x, C, H, W, y);
    for (int i = 0; i < N; i++)
        assert_true(fabs((double)y[i] - fmin(1, (double)x[i] + 0.5)) < 1e-6);
}

static void draws_stay_in_the_image(void **state) {
    (void)state;
    struct dr_config c;
    configure(&c, "classify");
    c.data.crop = 0;
    c.encoder.crop_area = 0.2;
    c.data.flip = true;
    double smallest = 1;
    int mirrored = 0;
    for (uint64_t i = 0; i < 2000; i++) {
        struct dr_augment a, again;
        struct dr_rng g;
        dr_rng_init(&g, 7, DR_STREAM_AUGMENT, i);
        dr_augment_draw(&c, 32, 32, &g, &a);
        dr_rng_init(&g, 7, DR_STREAM_AUGMENT, i);
        dr_augment_draw(&c, 32, 32, &g, &again);
        assert_memory_equal(&a, &again, sizeof a);
        const double left = fmin(a.x0, a.x0 + 31 * a.sx), right = fmax(a.x0, a.x0 + 31 * a.sx);
        assert_true(left > -0.5 && right < 31.5 && a.y0 > -0.5 && a.y0 + 31 * a.sy < 31.5);
        smallest = fmin(smallest, fabs(a.sx) * a.sy);
        mirrored += a.sx < 0;
    }
    assert_true(smallest > 0.19 && smallest < 0.25);
    assert_true(mirrored > 900 && mirrored < 1100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_classifier_learns),
        cmocka_unit_test(an_autoencoder_learns),
        cmocka_unit_test(both_weigh_their_losses),
        cmocka_unit_test(they_resume_exactly),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(weights_of_one_start_another),
        cmocka_unit_test(images_are_changed_as_asked),
        cmocka_unit_test(draws_stay_in_the_image),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
