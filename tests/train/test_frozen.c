// Training on the features of a frozen encoder read from a file: kept features of reals change no
// bit, nor does computing activations again; a run resumes exactly, and only with its own encoder;
// files that are no encoder for this run are refused with the reason.
#include "tests/train/util.h"

#include "engine/train/objective.h"
#include "tests/train/frozen.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char encoder[512];

static int open_files(void **state) {
    (void)state;
    snprintf(encoder, sizeof encoder, "%s", scratch_path("frozen.safetensors"));
    frozen_write(encoder, 16, 1, 4, "classifier", 5);
    return 0;
}
static int close_files(void **state) {
    (void)state;
    return unlink(encoder);
}

static void configure(struct dr_config *c, const char *const *more) {
    config_of(c, tiny_digits);
    config_change(c, (const char *const[]){"features.kind=encoder",
                                           "features.encoder=frozen.safetensors",
                                           "features.norm=sphere", "features.grid=4",
                                           "features.rms=1", "train.micro_batch=7", NULL});
    if (more)
        config_change(c, more);
}

static void losses_of(const struct dr_config *c, int n, double *loss) {
    const struct dr_trainer_parts parts = {.encoder = encoder};
    struct run r;
    run_open_of(&r, c, &parts);
    run_steps(&r, n, loss);
    run_close(&r);
}

static void kept_features_change_nothing(void **state) {
    static const char *const all[][5] = {
        {NULL},
        {"data.flip=true", NULL},
        {"features.standardize=batch", "features.rms=0", NULL},
        {"features.norm=none", "features.maps=stage1,-1", "features.pixel_weight=0.5", NULL},
        {"train.sampler=queue", "train.queue_class=20", "train.queue_global=40", NULL}};
    (void)state;
    for (size_t i = 0; i < DR_COUNT(all); i++) {
        struct dr_config c;
        double kept[12], plain[12];
        configure(&c, all[i]);
        losses_of(&c, 12, kept);
        c.features.cache_mb = 0;
        losses_of(&c, 12, plain);
        assert_memory_equal(kept, plain, sizeof kept);
    }
}

// A step in which ops fail leaves nothing behind: after a load the same losses follow.
static int (*sound_wait)(struct dr_backend *, int, struct dr_err *);
static int failing_wait(struct dr_backend *be, int which, struct dr_err *err) {
    sound_wait(be, which, NULL);
    return dr_fail(err, DR_EDEVICE, "the device has failed");
}
static void failing_stats(struct dr_backend *be, const struct dr_patch_stats_fwd_args *a) {
    (void)be;
    const int64_t n = a->b * (a->h / a->p) * (a->w / a->p) * 2 * a->c;
    for (int64_t i = 0; i < n; i++)
        a->out[i] = 7;
}

static void a_step_that_fails_keeps_no_features(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct dr_metrics m;
    struct run r;
    double want[4], got[4];
    char path[512];
    const struct dr_trainer_parts parts = {.encoder = encoder};
    snprintf(path, sizeof path, "%s", scratch_path("frozen-failed.safetensors"));
    configure(&c, NULL);
    losses_of(&c, 4, want);
    run_open_of(&r, &c, &parts);
    run_save(&r, path);
    sound_wait = r.be->wait;
    void (*const sound_stats)(struct dr_backend *, const struct dr_patch_stats_fwd_args *) =
        r.be->op.patch_stats_fwd;
    r.be->wait = failing_wait;
    r.be->op.patch_stats_fwd = failing_stats;
    assert_int_equal(dr_trainer_step(r.t, &m, &err), DR_EDEVICE);
    r.be->wait = sound_wait;
    r.be->op.patch_stats_fwd = sound_stats;
    if (dr_trainer_load(r.t, path, &err))
        fail_msg("%s", err.msg);
    run_steps(&r, 4, got);
    assert_memory_equal(got, want, sizeof want);
    run_close(&r);
    unlink(path);
}

static int warnings_about_memory;

static void count_warnings(enum dr_log_level level, const char *line) {
    warnings_about_memory +=
        level == DR_LOG_WARN && (strstr(line, "features.cache_mb allows 1:") ||
                                 strstr(line, "(features.cache_mb), so every step"));
}

static void too_little_memory_keeps_nothing(void **state) {
    (void)state;
    struct dr_config c;
    const struct dr_trainer_parts parts = {.encoder = encoder};
    struct run r;
    size_t bytes[2];
    for (int i = 0; i < 2; i++) {
        configure(&c, NULL);
        c.data.size = c.model.size = 16;
        c.features.cache_mb = i ? 1024 : 1; // 600 digits take more than a MiB
        warnings_about_memory = 0;
        dr_log_set(DR_LOG_INFO, count_warnings);
        run_open_of(&r, &c, &parts);
        dr_log_set(DR_LOG_INFO, NULL);
        assert_int_equal(warnings_about_memory, !i);
        bytes[i] = dr_trainer_memory(r.t);
        run_close(&r);
    }
    assert_true(bytes[1] > bytes[0] + ((size_t)1 << 20));
}

// Allocations of any size but those of `usual`, which are noted first, fail.
static size_t usual[64];
static int nusual;
static bool noting;
static int (*sound_alloc)(struct dr_backend *, size_t, void **, struct dr_err *);
static int scarce(struct dr_backend *be, size_t bytes, void **out, struct dr_err *err) {
    bool known = false;
    for (int i = 0; i < nusual; i++)
        known |= usual[i] == bytes;
    if (noting && nusual < (int)DR_COUNT(usual))
        usual[nusual++] = bytes;
    return noting || known ? sound_alloc(be, bytes, out, err)
                           : dr_fail(err, DR_ENOMEM, "no memory");
}

// Features that cannot be kept are made in every step: the same results.
static void no_memory_keeps_nothing(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    double kept[6], got[6];
    const struct dr_trainer_parts parts = {.encoder = encoder};
    configure(&c, NULL);
    losses_of(&c, 6, kept);
    for (int i = 0; i < 2; i++) {
        struct run r = {0};
        c.features.cache_mb = i ? 1024 : 0;
        noting = !i;
        if (dr_dataset_load(&c.data, NULL, false, &r.data, &err) ||
            dr_backend_open("cpu", 1, &r.be, &err))
            fail_msg("%s", err.msg);
        r.be->enter(r.be);
        sound_alloc = r.be->mem_alloc;
        r.be->mem_alloc = scarce;
        warnings_about_memory = 0;
        dr_log_set(DR_LOG_INFO, count_warnings);
        if (dr_trainer_create_of(&parts, &c, r.be, r.data, &r.t, &err))
            fail_msg("%s", err.msg);
        dr_log_set(DR_LOG_INFO, NULL);
        assert_int_equal(warnings_about_memory, i);
        run_steps(&r, 6, got);
        assert_memory_equal(got, kept, sizeof kept);
        run_close(&r);
    }
}

static void activations_again_change_nothing(void **state) {
    (void)state;
    struct dr_config c;
    double kept[6], again[6];
    const struct dr_trainer_parts parts = {.encoder = encoder};
    struct run r;
    configure(&c, NULL);
    run_open_of(&r, &c, &parts);
    const size_t much = dr_trainer_memory(r.t);
    run_steps(&r, 6, kept);
    run_close(&r);
    c.features.keep_mb = 0;
    run_open_of(&r, &c, &parts);
    assert_true(dr_trainer_memory(r.t) < much);
    run_steps(&r, 6, again);
    run_close(&r);
    assert_memory_equal(kept, again, sizeof kept);
}

// sqrt(mean x^2) of samples, and of the data.
static double length_of(struct run *r, bool real_ones) {
    enum { N = 32, IMAGE = 256 };
    real x[N * IMAGE];
    int64_t ids[N];
    struct dr_err err;
    double sum = 0;
    for (int64_t i = 0; i < N; i++)
        ids[i] = i;
    if (!real_ones)
        run_sample(r, 3, N, x);
    else if (dr_dataset_reals(r->data, ids, N, x, &err))
        fail_msg("%s", err.msg);
    for (int i = 0; i < N * IMAGE; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum / (N * IMAGE));
}

static void it_learns(void **state) {
    (void)state;
    struct dr_config c;
    const struct dr_trainer_parts parts = {.encoder = encoder};
    struct run r;
    configure(&c, NULL);
    run_open_of(&r, &c, &parts);
    const double before = length_of(&r, false), want = length_of(&r, true);
    const struct dr_metrics m = run_steps(&r, 60, NULL);
    const double after = length_of(&r, false);
    assert_true(m.grad_norm > 0);
    if (!(fabs(want - after) < 0.7 * fabs(want - before)))
        fail_msg("the images' length went from %g to %g; that of the reals is %g", before, after,
                 want);
    run_close(&r);
}

static void it_resumes_with_its_own_encoder_only(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    double whole[6], tail[3];
    struct run r;
    char path[512], other[512];
    struct dr_trainer_parts parts = {.encoder = encoder};
    snprintf(path, sizeof path, "%s", scratch_path("frozen-run.safetensors"));
    snprintf(other, sizeof other, "%s", scratch_path("frozen-other.safetensors"));
    frozen_write(other, 16, 1, 4, "classifier", 6);
    configure(&c, NULL);
    run_open_of(&r, &c, &parts);
    run_steps(&r, 3, whole);
    if (dr_trainer_save(r.t, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
    run_steps(&r, 3, whole + 3);
    run_close(&r);
    run_open_of(&r, &c, &parts);
    if (dr_trainer_load(r.t, path, &err))
        fail_msg("%s", err.msg);
    run_steps(&r, 3, tail);
    assert_memory_equal(whole + 3, tail, sizeof tail);
    run_close(&r);

    parts.encoder = other;
    run_open_of(&r, &c, &parts);
    assert_int_equal(dr_trainer_load(r.t, path, &err), DR_EINVAL);
    assert_non_null(strstr(err.msg, "frozen encoder"));
    run_close(&r);

    struct dr_snapshot *s; // the generator alone, without the encoder
    unlink(other);
    if (dr_snapshot_load(path, NULL, &s, &err))
        fail_msg("%s", err.msg);
    assert_string_equal(dr_net_name(s->net), "driftdit");
    dr_snapshot_unref(s);
    unlink(path);
}

static void refused(const struct dr_config *c, const char *file, const char *field,
                    const char *words) {
    struct dr_err err = {0};
    struct dr_backend *be;
    struct dr_dataset *data = NULL;
    struct dr_trainer *t = NULL;
    const struct dr_trainer_parts parts = {.encoder = file};
    if (dr_backend_open("cpu", 1, &be, &err) || dr_dataset_load(&c->data, NULL, false, &data, &err))
        fail_msg("%s", err.msg);
    dr_backend_enter(be);
    assert_int_not_equal(dr_trainer_create_of(&parts, c, be, data, &t, &err), 0);
    assert_null(t);
    if (strcmp(err.field, field) || !strstr(err.msg, words))
        fail_msg("at %s: %s; expected \"%s\" at %s", err.field, err.msg, words, field);
    dr_dataset_free(data);
    dr_backend_free(be);
}

static void wrong_files_are_refused(void **state) {
    (void)state;
    struct dr_config c;
    struct run r;
    struct dr_err err = {0};
    char path[512];
    snprintf(path, sizeof path, "%s", scratch_path("frozen-wrong.safetensors"));
    configure(&c, NULL);
    refused(&c, "/nonexistent/encoder.safetensors", "features.encoder", "nonexistent");
    FILE *f = fopen(path, "w");
    fputs("not a safetensors file, but long enough for a header", f);
    fclose(f);
    refused(&c, path, "features.encoder", "frozen-wrong");
    frozen_write(path, 16, 3, 4, "none", 1);
    refused(&c, path, "features.encoder", "takes images of 768 values");
    config_of(&c, tiny_digits); // a generator's checkpoint
    run_open(&r, &c);
    if (dr_trainer_save(r.t, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
    run_close(&r);
    configure(&c, NULL);
    refused(&c, path, "features.encoder", "no encoder");
    const char *const maps[] = {"features.maps=stage1,stage9", NULL};
    configure(&c, maps);
    refused(&c, encoder, "features.maps", "no map \"stage9\"");
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_features_change_nothing),
        cmocka_unit_test(a_step_that_fails_keeps_no_features),
        cmocka_unit_test(too_little_memory_keeps_nothing),
        cmocka_unit_test(no_memory_keeps_nothing),
        cmocka_unit_test(activations_again_change_nothing),
        cmocka_unit_test(it_learns),
        cmocka_unit_test(it_resumes_with_its_own_encoder_only),
        cmocka_unit_test(wrong_files_are_refused),
    };
    return cmocka_run_group_tests(tests, open_files, close_files);
}
