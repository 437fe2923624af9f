// Checkpoints written by commit c354205 (tests/fixtures/c354205/networks): each network's loads to
// the bytes that are in the file, generates what that build generated, and resumes with that
// build's losses. NAME.txt holds its numbers: three losses of the resumed run, three samples before
// it and the same three after it. Other processors round differently: NMSE 1e-10.
#include "tests/train/util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STEPS = 3, SAMPLES = 3, NUMBERS = 1024 };

static int read_numbers(const char *path, double *out) {
    FILE *f = fopen(path, "r");
    int n = 0;
    assert_non_null(f);
    while (n < NUMBERS && fscanf(f, "%lf", &out[n]) == 1)
        n++;
    fclose(f);
    return n;
}

static void near(const char *what, const real *got, const double *want, int64_t n) {
    double difference = 0, power = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += (got[i] - want[i]) * (got[i] - want[i]);
        power += want[i] * want[i];
    }
    if (!(difference <= 1e-10 * power))
        fail_msg("%s: NMSE %g", what, difference / power);
}

static void sample(struct dr_sampler *s, struct dr_snapshot *snap, real *x) {
    struct dr_err err = {0};
    struct dr_sample req[SAMPLES];
    for (int i = 0; i < SAMPLES; i++)
        req[i] = (struct dr_sample){.seed = 5,
                                    .index = (uint64_t)i,
                                    .cls = (int32_t)(i % dr_gen_config(snap->net)->classes),
                                    .alpha = (real)(1 + 0.5 * i)};
    if (dr_sampler_run(s, snap, req, SAMPLES, x, &err))
        fail_msg("%s", err.msg);
}

static void weights_are_the_file(const char *path, const struct dr_snapshot *s) {
    struct dr_err err = {0};
    struct dr_st_file *f;
    const struct dr_params *ps = dr_net_params(s->net);
    if (dr_st_open(path, &f, &err))
        fail_msg("%s", err.msg);
    for (int i = 0; i < ps->n; i++) {
        const struct dr_st_tensor *t = dr_st_find(f, ps->p[i].name);
        assert_non_null(t);
        assert_int_equal(t->bytes, (size_t)ps->p[i].count * sizeof(float));
        assert_memory_equal(s->weights + ps->p[i].offset, t->data, t->bytes);
    }
    dr_st_close(f);
}

// Every tensor of the file, optimiser and sampler state included, comes back byte for byte.
static void saves_the_same(struct dr_trainer *t, const char *path) {
    struct dr_err err = {0};
    struct dr_st_file *was, *is;
    const char *copy = scratch_path("base.safetensors");
    if (dr_trainer_save(t, copy, NULL, NULL, &err) || dr_st_open(path, &was, &err) ||
        dr_st_open(copy, &is, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(dr_st_count(was), dr_st_count(is));
    for (int i = 0; i < dr_st_count(was); i++) {
        const struct dr_st_tensor *a = dr_st_at(was, i), *b = dr_st_find(is, a->name);
        assert_non_null(b);
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(a->data, b->data, a->bytes);
    }
    dr_st_close(was);
    dr_st_close(is);
    unlink(copy);
}

static void config_in(const char *path, struct dr_config *c) {
    struct dr_err err = {0};
    struct dr_st_file *f;
    if (dr_st_open(path, &f, &err))
        fail_msg("%s", err.msg);
    const char *json = dr_st_meta(f, "driftd.config");
    assert_non_null(json);
    if (dr_config_parse(json, strlen(json), path, c, &err))
        fail_msg("%s", err.msg);
    dr_st_close(f);
}

static void is_served_and_resumed(void **state) {
    const char *name = *state;
    char path[512], numbers[512];
    double want[NUMBERS], loss[STEPS];
    struct dr_err err = {0};
    struct dr_snapshot *s;
    struct dr_sampler *sampler;
    struct dr_config c;
    struct run r;
    const char *folder = "tests/fixtures/c354205/networks";
    snprintf(path, sizeof path, "%s/%s/%s.safetensors", getenv("DRIFTD_SOURCE"), folder, name);
    snprintf(numbers, sizeof numbers, "%s/%s/%s.txt", getenv("DRIFTD_SOURCE"), folder, name);
    const int n = read_numbers(numbers, want);
    config_in(path, &c);
    c.train.steps = 12 + STEPS;
    run_open(&r, &c);
    if (dr_snapshot_load(path, NULL, &s, &err) ||
        dr_sampler_create(r.be, DR_FP32, 4, &sampler, &err) || dr_trainer_load(r.t, path, &err))
        fail_msg("%s", err.msg);
    assert_string_equal(dr_net_name(s->net), name);
    weights_are_the_file(path, s);
    saves_the_same(r.t, path);

    const int64_t count = SAMPLES * dr_gen_image_count(s->net);
    assert_int_equal(n, STEPS + 2 * count);
    real *x = calloc((size_t)count, sizeof *x), losses[STEPS];
    sample(sampler, s, x);
    near("samples of the file", x, want + STEPS, count);
    assert_int_equal(dr_trainer_steps_done(r.t), 12);
    run_steps(&r, STEPS, loss);
    for (int i = 0; i < STEPS; i++)
        losses[i] = (real)loss[i];
    near("losses of the resumed run", losses, want, STEPS);
    dr_snapshot_unref(s);
    s = dr_trainer_snapshot(r.t, 0);
    assert_non_null(s);
    sample(sampler, s, x);
    near("samples of the resumed run", x, want + STEPS + count, count);
    free(x);
    dr_snapshot_unref(s);
    dr_sampler_free(sampler);
    run_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        {.name = "driftdit",
         .test_func = is_served_and_resumed,
         .initial_state = (void *)"driftdit"},
        {.name = "lightningdit",
         .test_func = is_served_and_resumed,
         .initial_state = (void *)"lightningdit"},
        {.name = "mlp", .test_func = is_served_and_resumed, .initial_state = (void *)"mlp"},
    };
    return cmocka_run_group_tests_name("checkpoints of c354205", tests, NULL, NULL);
}
