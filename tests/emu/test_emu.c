// The whole emulated GPU: a training run against the CPU's, samples, and what is said when a
// driver, a device or its memory is missing.
#include "tests/emu/emu.h"

#include "tests/train/util.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void configure(struct dr_config *c) {
    config_of(c, tiniest);
    config_change(c, (const char *const[]){"train.micro_batch=20", "optim.warmup=20",
                                           "metrics.spread_every=3", NULL});
}

static void open_with(struct run *r, const struct dr_config *c, struct dr_backend *be) {
    struct dr_err err = {0};
    *r = (struct run){.be = be};
    be->enter(be);
    if (dr_dataset_load(&c->data, NULL, false, &r->data, &err) ||
        dr_trainer_create(c, be, r->data, &r->t, &err))
        fail_msg("%s", err.msg);
}

static struct dr_backend *open_emu(bool reverse) {
    struct dr_err err = {0};
    struct dr_backend *be;
    if (dr_backend_emu(reverse, &be, &err))
        fail_msg("%s", err.msg);
    return be;
}

static void expect_near(const double *a, const double *b, int n, double tol) {
    for (int i = 0; i < n; i++)
        if (!(fabs(a[i] - b[i]) <= tol * fabs(a[i])))
            fail_msg("step %d: the loss is %.9g on the CPU, %.9g on emu", i + 1, a[i], b[i]);
}

enum { STEPS = 5, PIXELS = 8 * 8 };

static void trains_like_the_cpu(void **state) {
    (void)state;
    struct dr_config c;
    configure(&c);
    for (int bf = 0; bf < 2; bf++) {
        double cpu[STEPS], emu[STEPS], back[STEPS];
        real x[2 * PIXELS], y[2 * PIXELS];
        struct run r;
        c.train.precision = bf ? DR_PREC_BF16 : DR_FP32;
        run_open(&r, &c);
        run_steps(&r, STEPS, cpu);
        run_sample(&r, 3, 2, x);
        run_close(&r);
        const long replays = emu_replays();
        open_with(&r, &c, open_emu(false));
        run_steps(&r, STEPS, emu);
        run_sample(&r, 3, 2, y);
        run_close(&r);
        assert_int_equal(emu_replays() - replays, STEPS - 1); // the first runs the ops themselves
        expect_near(cpu, emu, STEPS, bf ? 2e-2 : 1e-4);
        for (int i = 0; i < 2 * PIXELS; i++)
            if (!(fabs((double)(x[i] - y[i])) < (bf ? 5e-2 : 1e-3)))
                fail_msg("pixel %d of a sample is %g on the CPU, %g on emu", i, (double)x[i],
                         (double)y[i]);
        // Neither the order of threads nor replaying what the second step did changes a bit; a
        // value of that step's host in a recording would.
        setenv("DRIFTD_GRAPHS", "0", 1);
        open_with(&r, &c, open_emu(true));
        unsetenv("DRIFTD_GRAPHS");
        run_steps(&r, STEPS, back);
        run_close(&r);
        assert_memory_equal(emu, back, sizeof emu);
    }
}

// The same with the learned field, whose loss is nearly constant: its own metrics tell more.
static void the_learned_field_trains_like_the_cpus(void **state) {
    (void)state;
    static const char *const objective[] = {"loss.ldf_objective=denoise", "loss.ldf_objective=nce"};
    static const char *const metric[] = {"field_objective", "field_agreement", "field_grad_norm",
                                         "drift_norm", "grad_norm"};
    for (int k = 0; k < 4; k++) {
        struct dr_config c;
        struct run r;
        double cpu[DR_COUNT(metric)], loss[2][STEPS];
        struct dr_metrics m;
        configure(&c);
        config_change(&c, (const char *const[]){"loss.field=learned", "loss.ldf_hidden_dim=9",
                                                "loss.ldf_projection_dim=7",
                                                "loss.ldf_score_hidden_dim=10", "loss.ldf_lr=5",
                                                objective[k % 2], NULL});
        c.loss.ldf.projection = k / 2;
        run_open(&r, &c);
        m = run_steps(&r, STEPS, NULL);
        for (size_t i = 0; i < DR_COUNT(metric); i++)
            cpu[i] = dr_metric(r.t, &m, metric[i]);
        run_close(&r);
        const long replays = emu_replays();
        open_with(&r, &c, open_emu(false));
        m = run_steps(&r, STEPS, loss[0]);
        for (size_t i = 0; i < DR_COUNT(metric); i++) {
            const double emu = dr_metric(r.t, &m, metric[i]);
            if (!(fabs(emu - cpu[i]) <= 1e-3 * fabs(cpu[i])))
                fail_msg("%s, projection %d: %s is %.9g on the CPU, %.9g on emu", objective[k % 2],
                         k / 2, metric[i], cpu[i], emu);
        }
        run_close(&r);
        assert_int_equal(emu_replays() - replays, STEPS - 1);
        setenv("DRIFTD_GRAPHS", "0", 1);
        open_with(&r, &c, open_emu(true));
        unsetenv("DRIFTD_GRAPHS");
        run_steps(&r, STEPS, loss[1]);
        run_close(&r);
        assert_memory_equal(loss[0], loss[1], sizeof loss[0]);
    }
}

// Samples of one seed in every bucket, twice and a third time from recordings: the same bytes.
static void passes_are_replayed(void **state) {
    (void)state;
    enum { MOST = 5 };
    struct dr_config c;
    struct dr_err err = {0};
    struct dr_sampler *s;
    struct run r;
    configure(&c);
    open_with(&r, &c, open_emu(false));
    struct dr_snapshot *snap = dr_trainer_snapshot(r.t, 0);
    assert_int_equal(dr_sampler_create(r.be, DR_FP32, 4, &s, &err), 0);
    real first[MOST * PIXELS], x[MOST * PIXELS];
    const long before = emu_replays();
    for (int round = 0; round < 3; round++)
        for (int n = MOST; n > 0; n--) { // in pieces of 4: a pass of 4 and one of 1 for n = 5
            struct dr_sample req[MOST];
            for (int i = 0; i < n; i++)
                req[i] = (struct dr_sample){
                    .seed = 8, .index = (uint64_t)i, .cls = i, .alpha = (real)(1 + 0.5 * i)};
            if (dr_sampler_run(s, snap, req, n, x, &err))
                fail_msg("%s", err.msg);
            if (!round && n == MOST)
                memcpy(first, x, sizeof x);
            assert_memory_equal(x, first, (size_t)n * PIXELS * sizeof *x);
        }
    assert_true(emu_replays() - before == 3 * 6 - 3); // six passes a round, three sizes
    dr_sampler_free(s);
    dr_snapshot_unref(snap);
    run_close(&r);
}

// A workspace that another user of the instance has moved makes a recording void, not wrong.
static void recordings_notice_moved_workspaces(void **state) {
    (void)state;
    struct dr_config c;
    double a[6], b[6];
    struct run r;
    configure(&c);
    open_with(&r, &c, open_emu(false));
    run_steps(&r, 6, a);
    run_close(&r);
    open_with(&r, &c, open_emu(false));
    run_steps(&r, 3, b);
    void *p;
    struct dr_err err = {0};
    assert_int_equal(r.be->mem_alloc(r.be, 4 << 20, &p, &err), 0);
    DR_OP(r.be, sumsq, .out = (real *)p, .x = (real *)p + 1, .n = 900 << 10);
    DR_OP(r.be, colsum, .out = (real *)p, .x = (real *)p + 4096, .m = 200, .n = 4096);
    DR_OP(r.be, conv2d_fwd, .y = (real *)p, .x = (real *)p + (512 << 10), .t = DR_F32,
          .weight = (real *)p + (900 << 10), .b = 1, .h = 64, .w = 64, .ci = 4, .co = 4, .k = 3,
          .stride = 1, .pad = 1);
    run_steps(&r, 3, b + 3);
    r.be->mem_free(r.be, p);
    run_close(&r);
    assert_memory_equal(a, b, sizeof a);
}

// A data set that does not fit travels with the steps; the losses are the same to the bit.
static void large_data_sets_stream(void **state) {
    (void)state;
    for (int toy = 0; toy < 2; toy++) {
        struct dr_config c;
        double a[STEPS], b[STEPS];
        struct run r;
        if (toy) {
            recipe(&c, "toy-checkerboard");
            config_change(&c,
                          (const char *const[]){"train.generated=40", "train.positives=50", NULL});
        } else
            configure(&c);
        c.data.count = toy ? 1000000 : 20000;
        open_with(&r, &c, open_emu(false));
        const size_t resident = dr_trainer_memory(r.t);
        run_steps(&r, STEPS, a);
        run_close(&r);
        emu_memory((size_t)(toy ? 14 : 2) << 20);
        open_with(&r, &c, open_emu(false));
        run_steps(&r, STEPS, b);
        const size_t streamed = dr_trainer_memory(r.t);
        run_close(&r);
        emu_memory((size_t)1 << 30);
        assert_true(streamed + (1 << 20) < resident);
        assert_memory_equal(a, b, sizeof a);
    }
}

// A batch whose temporaries do not fit is cut: sums of gradients change their order, no more.
// Where not all fits that could be kept, it is computed again, which changes nothing; then the
// batch is cut.
static void large_batches_are_cut(void **state) {
    (void)state;
    struct dr_config c;
    double a[3], b[3];
    struct run r;
    configure(&c);
    c.data.count = 200;
    c.train.generated = 8;
    c.train.micro_batch = 20;
    open_with(&r, &c, open_emu(false));
    size_t before = dr_trainer_memory(r.t);
    run_steps(&r, 3, a);
    run_close(&r);
    for (int squeeze = 0; squeeze < 2; squeeze++) {
        emu_memory(emu_in_use() + before + before / 10); // an eighth is to stay free
        struct dr_backend *be = open_emu(false);
        be->enter(be);
        open_with(&r, &c, be);
        emu_memory((size_t)1 << 30); // the ops' own workspaces
        assert_true(dr_trainer_memory(r.t) < before);
        before = dr_trainer_memory(r.t);
        run_steps(&r, 3, b);
        run_close(&r);
        expect_near(a, b, 3, squeeze ? 1e-4 : 0);
    }
}

// The trainer finds out one step later; until then the guard keeps the weights as they were.
static void non_finite_keeps_the_weights(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct dr_metrics m = {0};
    struct run r;
    configure(&c);
    c.optim.lr = 1e38;
    c.optim.warmup = 0;
    c.optim.clip = 0;
    open_with(&r, &c, open_emu(false));
    int rc = 0;
    for (int i = 0; i < 6 && !rc; i++)
        rc = dr_trainer_step(r.t, &m, &err);
    assert_int_equal(rc, DR_ENONFINITE);
    assert_int_equal(dr_trainer_steps_done(r.t), m.step - 1);
    struct dr_snapshot *a = dr_trainer_snapshot(r.t, 0);
    assert_int_equal(dr_trainer_step(r.t, &m, &err), DR_ENONFINITE); // no more steps
    assert_int_equal(dr_trainer_save(r.t, "never", NULL, NULL, &err), DR_ENONFINITE);
    struct dr_snapshot *b = dr_trainer_snapshot(r.t, 0);
    assert_memory_equal(a->weights, b->weights,
                        (size_t)dr_net_params(a->net)->total * sizeof(real));
    dr_snapshot_unref(a);
    dr_snapshot_unref(b);
    run_close(&r);
}

static void resume_is_exact(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    double whole[8], tail[4];
    struct run r;
    configure(&c);
    config_change(&c, (const char *const[]){"train.sampler=queue", NULL});
    const char *path = scratch_path("emu.safetensors");
    open_with(&r, &c, open_emu(false));
    run_steps(&r, 3, whole);
    struct dr_metrics m;
    assert_int_equal(dr_trainer_step(r.t, &m, &err), 0); // one is on its way when it is saved
    if (dr_trainer_save(r.t, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(dr_trainer_wait(r.t, &m, &err), 0);
    assert_int_equal(m.step, 4);
    run_steps(&r, 4, whole + 4);
    run_close(&r);
    open_with(&r, &c, open_emu(false));
    assert_int_equal(dr_trainer_step(r.t, &m, &err), 0); // was elsewhere, and still is
    if (dr_trainer_load(r.t, path, &err))
        fail_msg("%s", err.msg);
    run_steps(&r, 4, tail);
    run_close(&r);
    assert_memory_equal(whole + 4, tail, sizeof tail);
    remove(path);
}

// What cannot be recorded or instantiated runs op by op, with the same numbers; three times, then
// nobody tries again.
static void refused_recordings_run_directly(void **state) {
    (void)state;
    static const struct {
        const char *call;
        int error;
    } kinds[] = {{"capture", EMU_CAPTURE_INVALIDATED}, {"instantiate", EMU_OUT_OF_MEMORY}};
    enum { N = 6, REFUSALS = 3 };
    struct dr_config c;
    double a[N], b[N];
    struct run r;
    configure(&c);
    open_with(&r, &c, open_emu(false));
    run_steps(&r, N, a);
    run_close(&r);
    for (int i = 0; i < 4; i++) {
        const int times = i / 2 ? REFUSALS : 1;
        open_with(&r, &c, open_emu(false));
        const long before = emu_replays();
        run_steps(&r, 1, b);
        for (int k = 0; k < times; k++) {
            emu_fail(kinds[i % 2].call, kinds[i % 2].error, 0);
            run_steps(&r, 1, b + 1 + k);
        }
        run_steps(&r, N - 1 - times, b + 1 + times);
        run_close(&r);
        assert_int_equal(emu_replays() - before, i / 2 ? 0 : N - 2);
        assert_memory_equal(a, b, sizeof a);
    }
}

// A request that failed leaves nothing behind that a later one would take for the weights.
static void a_failed_request_is_forgotten(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct dr_sampler *s;
    struct run r;
    real want[PIXELS], x[PIXELS];
    const struct dr_sample req = {.seed = 4, .cls = 1, .alpha = 1};
    configure(&c);
    open_with(&r, &c, open_emu(false));
    struct dr_snapshot *snap = dr_trainer_snapshot(r.t, 0);
    assert_int_equal(dr_sampler_create(r.be, DR_PREC_BF16, 4, &s, &err), 0);
    assert_int_equal(dr_sampler_run(s, snap, &req, 1, want, &err), 0);
    dr_sampler_free(s);
    assert_int_equal(dr_sampler_create(r.be, DR_PREC_BF16, 4, &s, &err), 0);
    emu_fail("launch", EMU_ILLEGAL_ADDRESS, 0); // of the cast that rounds the weights
    assert_int_equal(dr_sampler_run(s, snap, &req, 1, x, &err), DR_EDEVICE);
    assert_int_equal(dr_sampler_run(s, snap, &req, 1, x, &err), 0);
    assert_memory_equal(x, want, sizeof x);
    dr_sampler_free(s);
    dr_snapshot_unref(snap);
    run_close(&r);
}

static void expect_refusal(const char *call, int error, int code, const char *word) {
    struct dr_err err = {0};
    struct dr_backend *be;
    emu_fail(call, error, 0);
    assert_int_equal(dr_backend_emu(false, &be, &err), code);
    assert_null(be);
    if (!strstr(err.msg, word))
        fail_msg("\"%s\" lacks \"%s\"", err.msg, word);
}

static void missing_devices_are_named(void **state) {
    (void)state;
    expect_refusal("driver", EMU_NO_DRIVER, DR_EDEVICE, "no NVIDIA driver is installed");
    expect_refusal("driver", EMU_OLD_DRIVER, DR_EDEVICE, "update the driver");
    expect_refusal("devices", EMU_NO_DEVICE, DR_EDEVICE, "finds no GPU");
}

static void expect_error(struct dr_backend *be, int code, const char *word) {
    struct dr_err err = {0};
    assert_int_equal(be->sync(be, &err), code);
    if (!strstr(err.msg, word))
        fail_msg("\"%s\" lacks \"%s\"", err.msg, word);
    assert_int_equal(be->sync(be, &err), 0); // said once
}

static void errors_name_the_op(void **state) {
    (void)state;
    struct dr_err err = {0};
    struct dr_backend *be = open_emu(false);
    void *p, *q;
    emu_fail("malloc", EMU_OUT_OF_MEMORY, 0);
    assert_int_equal(be->mem_alloc(be, 64u << 20, &q, &err), DR_ENOMEM);
    assert_non_null(strstr(err.msg, "64 MiB wanted"));
    assert_int_equal(be->mem_alloc(be, 4096, &p, &err), 0);
    emu_fail("launch", EMU_ILLEGAL_ADDRESS, 1);
    DR_OP(be, fill, .dst = p, .n = 8, .value = 1);
    DR_OP(be, ema, .e = p, .w = p, .decay = p, .n = 8);
    expect_error(be, DR_EDEVICE, "ema on emulated GPU");
    emu_fail("malloc", EMU_OUT_OF_MEMORY, 0); // the op's first workspace
    DR_OP(be, sumsq, .out = p, .x = p, .n = 8);
    expect_error(be, DR_ENOMEM, "MiB");
    DR_OP(be, fill, .dst = p, .n = 8, .value = 3);
    emu_fail("sync", EMU_ILLEGAL_ADDRESS, 0);
    expect_error(be, DR_EDEVICE, "last kernel started: dr_cuda_fill");
    real v[8];
    be->download(be, v, p, sizeof v); // and goes on
    for (int i = 0; i < 8; i++)
        assert_true(v[i] == 3);
    DR_OP(be, attn_fwd, .out = p, .qkv = p, .b = 1, .t = 1, .h = 1, .hd = 200, .scale = 1);
    expect_error(be, DR_EUNSUPPORTED, "128 columns");
    DR_OP(be, embed_bwd, .dtable = p, .dout = p, .idx = p, .b = 1, .nk = 1, .d = 65536 * 128);
    expect_error(be, DR_EDEVICE, "invalid configuration argument"); // too many blocks
    be->mem_free(be, p);
    dr_backend_free(be);
}

// A grid's second dimension ends at 65535, here at 4: the gradient of a position embedding, patches
// x dim columns of a few rows, has more blocks than that.
static void more_columns_than_a_grid_has_rows(void **state) {
    (void)state;
    enum { M = 600, N = 5 * 32 + 1 }; // two chunks of rows
    static float x[M * N], sum[N];
    struct dr_err err = {0};
    struct dr_backend *be = open_emu(false);
    void *dx, *dsum;
    if (be->mem_alloc(be, sizeof x, &dx, &err) || be->mem_alloc(be, sizeof sum, &dsum, &err))
        fail_msg("%s", err.msg);
    for (int i = 0; i < M * N; i++)
        x[i] = (float)(i % N);
    be->upload(be, dx, x, sizeof x);
    emu_grid_rows(4);
    for (int64_t m = 1; m <= M; m += M - 1) {
        DR_OP(be, colsum, .out = dsum, .x = dx, .xt = DR_F32, .m = m, .n = N);
        be->download(be, sum, dsum, sizeof sum);
        if (be->sync(be, &err))
            fail_msg("%s", err.msg);
        for (int j = 0; j < N; j++)
            assert_true(sum[j] == (float)(m * j));
    }
    emu_grid_rows(65535);
    be->mem_free(be, dx);
    be->mem_free(be, dsum);
    dr_backend_free(be);
}

static void a_lost_device_fails_the_step(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct dr_metrics m;
    struct run r;
    configure(&c);
    open_with(&r, &c, open_emu(false));
    run_steps(&r, 1, NULL);
    emu_fail("launch", EMU_ILLEGAL_ADDRESS, 20);
    int rc = dr_trainer_step(r.t, &m, &err); // the report of the step before may come first
    if (!rc)
        rc = dr_trainer_wait(r.t, &m, &err);
    assert_int_equal(rc, DR_EDEVICE);
    assert_non_null(strstr(err.msg, "illegal memory access"));
    run_close(&r);
}

// Who looks at weights or at the field of a toy between two steps gets nothing from a device that
// has failed, and leaves the error to the next step.
static void looking_keeps_the_error(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct dr_metrics m;
    struct run r;
    recipe(&c, "toy-checkerboard");
    config_change(&c, (const char *const[]){"train.generated=40", "train.positives=50",
                                            "data.count=200", NULL});
    for (int field = 0; field < 2; field++) {
        open_with(&r, &c, open_emu(false));
        if (field)
            emu_fail("launch", EMU_ILLEGAL_ADDRESS, 20);
        assert_int_equal(dr_trainer_step(r.t, &m, &err), 0); // the first: nobody waits for it
        if (!field)
            emu_fail("sync", EMU_ILLEGAL_ADDRESS, 0); // of the download
        assert_null(field ? (void *)dr_trainer_field(r.t) : (void *)dr_trainer_snapshot(r.t, 0));
        assert_int_equal(dr_trainer_step(r.t, &m, &err), DR_EDEVICE);
        assert_non_null(strstr(err.msg, "illegal memory access"));
        run_close(&r);
    }
}

// A run and some samples with one failing call; says what it came to.
static int run_with_fault(const struct dr_config *c, struct dr_dataset *data, const char *call,
                          int error, int after, struct dr_err *err) {
    struct run r = {.be = open_emu(false)};
    struct dr_metrics m;
    real x[PIXELS];
    const struct dr_sample req = {.cls = 1, .alpha = 1};
    struct dr_sampler *s = NULL;
    struct dr_snapshot *snap = NULL;
    r.be->enter(r.be);
    emu_fail(call, error, after);
    int rc = dr_trainer_create(c, r.be, data, &r.t, err);
    for (int i = 0; i < 3 && !rc; i++)
        rc = dr_trainer_step(r.t, &m, err);
    if (!rc)
        rc = dr_trainer_wait(r.t, &m, err);
    if (!rc && !(snap = dr_trainer_snapshot(r.t, 0)) && !(rc = r.be->sync(r.be, err)))
        rc = dr_fail(err, DR_ENOMEM, "no snapshot");
    if (!rc)
        rc = dr_sampler_create(r.be, DR_FP32, 4, &s, err);
    for (int i = 0; i < 3 && !rc; i++)
        rc = dr_sampler_run(s, snap, &req, 1, x, err);
    emu_fail("none", 0, 0);
    dr_sampler_free(s);
    dr_snapshot_unref(snap);
    run_close(&r);
    return rc;
}

// Whichever call fails: the right code, a sentence, everything given back.
static void every_failure_is_clean(void **state) {
    (void)state;
    static const struct {
        const char *call;
        int error, code, stride;
    } kinds[] = {{"malloc", EMU_OUT_OF_MEMORY, DR_ENOMEM, 1},
                 {"launch", EMU_ILLEGAL_ADDRESS, DR_EDEVICE, 83},
                 {"sync", EMU_ILLEGAL_ADDRESS, DR_EDEVICE, 1}};
    struct dr_config c;
    struct dr_dataset *data;
    struct dr_err why = {0};
    configure(&c);
    c.data.count = 100;
    c.train.positives = 2;
    c.metrics.spread_every = 0;
    if (dr_dataset_load(&c.data, NULL, false, &data, &why))
        fail_msg("%s", why.msg);
    const size_t before = emu_in_use();
    for (size_t k = 0; k < DR_COUNT(kinds); k++) {
        int rc = -1, n = 0;
        for (int after = 0; rc && after < 4000; after += kinds[k].stride, n++) {
            struct dr_err err = {0};
            rc = run_with_fault(&c, data, kinds[k].call, kinds[k].error, after, &err);
            if (rc && (rc != kinds[k].code || !err.msg[0]))
                fail_msg("%s %d: %d, \"%s\"", kinds[k].call, after, rc, err.msg);
            assert_int_equal(emu_in_use(), before);
        }
        assert_int_equal(rc, 0); // past the last call of the run
        assert_true(n > 5);
    }
    dr_dataset_free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trains_like_the_cpu),
        cmocka_unit_test(the_learned_field_trains_like_the_cpus),
        cmocka_unit_test(passes_are_replayed),
        cmocka_unit_test(recordings_notice_moved_workspaces),
        cmocka_unit_test(large_data_sets_stream),
        cmocka_unit_test(large_batches_are_cut),
        cmocka_unit_test(non_finite_keeps_the_weights),
        cmocka_unit_test(resume_is_exact),
        cmocka_unit_test(refused_recordings_run_directly),
        cmocka_unit_test(a_failed_request_is_forgotten),
        cmocka_unit_test(missing_devices_are_named),
        cmocka_unit_test(errors_name_the_op),
        cmocka_unit_test(more_columns_than_a_grid_has_rows),
        cmocka_unit_test(a_lost_device_fails_the_step),
        cmocka_unit_test(looking_keeps_the_error),
        cmocka_unit_test(every_failure_is_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
