// The whole emulated GPU: a training run against the CPU's, samples, and what is said when a
// driver, a device or its memory is missing.
#include "tests/emu/emu.h"

#include "tests/train/util.h"

#include <math.h>
#include <string.h>

static const char *const smaller[] = {"data.set=digits",
                                      "data.size=8",
                                      "data.count=600",
                                      "model.dim=16",
                                      "model.depth=1",
                                      "model.heads=2",
                                      "model.patch=4",
                                      "model.registers=1",
                                      "model.mlp_ratio=2",
                                      "model.style_tokens=2",
                                      "model.codebook=4",
                                      "train.generated=2",
                                      "train.positives=3",
                                      "train.unconditional=2",
                                      "train.micro_batch=20",
                                      "train.seed=11",
                                      "optim.lr=1e-3",
                                      "optim.warmup=2",
                                      "loss.affinity_floor=0",
                                      "metrics.spread_every=3",
                                      NULL};

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

enum { STEPS = 4, PIXELS = 8 * 8 };

static void trains_like_the_cpu(void **state) {
    (void)state;
    struct dr_config c;
    config_of(&c, smaller);
    for (int bf = 0; bf < 2; bf++) {
        double cpu[STEPS], emu[STEPS], back[STEPS];
        real x[2 * PIXELS], y[2 * PIXELS];
        struct run r;
        c.train.precision = bf ? DR_PREC_BF16 : DR_FP32;
        run_open(&r, &c);
        run_steps(&r, STEPS, cpu);
        run_sample(&r, 3, 2, x);
        run_close(&r);
        open_with(&r, &c, open_emu(false));
        run_steps(&r, STEPS, emu);
        run_sample(&r, 3, 2, y);
        run_close(&r);
        expect_near(cpu, emu, STEPS, bf ? 2e-2 : 1e-4);
        for (int i = 0; i < 2 * PIXELS; i++)
            if (!(fabs((double)(x[i] - y[i])) < (bf ? 5e-2 : 1e-3)))
                fail_msg("pixel %d of a sample is %g on the CPU, %g on emu", i, (double)x[i],
                         (double)y[i]);
        open_with(&r, &c, open_emu(true));
        run_steps(&r, STEPS, back);
        run_close(&r);
        assert_memory_equal(emu, back, sizeof emu); // the order of threads changes nothing
    }
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
    be->mem_free(be, p);
    dr_backend_free(be);
}

static void a_lost_device_fails_the_step(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct dr_metrics m;
    struct run r;
    config_of(&c, smaller);
    open_with(&r, &c, open_emu(false));
    run_steps(&r, 1, NULL);
    emu_fail("launch", EMU_ILLEGAL_ADDRESS, 20);
    assert_int_equal(dr_trainer_step(r.t, &m, &err), DR_EDEVICE);
    assert_non_null(strstr(err.msg, "illegal memory access"));
    run_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trains_like_the_cpu),
        cmocka_unit_test(missing_devices_are_named),
        cmocka_unit_test(errors_name_the_op),
        cmocka_unit_test(a_lost_device_fails_the_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
