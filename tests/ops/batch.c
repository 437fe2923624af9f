// Bytes do not depend on the batch: whatever an op makes for a sample alone, it makes in a batch,
// with one thread and with two. And the elementary functions keep NaN and infinities where they
// belong.
#include "engine/cpu/backend.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { B = 5 };

// Sizes of a sample; odd ones and those of DriftDiT-Tiny.
struct shape {
    int64_t t, h, hd;
};
static const struct shape shapes[] = {{5, 3, 10}, {72, 4, 64}, {103, 2, 32}};

struct tensors { // whole batch; `d` = h * hd
    enum dr_dtype act;
    struct shape s;
    real *x, *mod, *weight, *tables, *rstd;
    void *y, *qkv;
    // outputs
    real *dx, *dmod, *out32;
    void *out, *dqkv;
};

static struct dr_backend *open_cpu(int threads) {
    struct dr_err err = {0};
    struct dr_backend *be;
    if (dr_backend_cpu(threads, &be, &err))
        fail_msg("%s", err.msg);
    be->enter(be);
    return be;
}

static void *filled(struct dr_backend *be, enum dr_dtype type, int64_t n, uint64_t seed) {
    real *v = calloc((size_t)n + 1, sizeof *v);
    void *p = calloc((size_t)n + 1, sizeof *v);
    const uint64_t index = 0;
    DR_OP(be, normals, .out = v, .seed = &seed, .index = &index, .b = 1, .n = n, .stream = 30);
    DR_OP(be, cast, .dst = p, .src = v, .dt = type, .st = DR_F32, .n = n);
    free(v);
    return p;
}

static struct tensors make(struct dr_backend *be, struct shape s, enum dr_dtype act) {
    const int64_t d = s.h * s.hd, n = B * s.t * d;
    return (struct tensors){
        .act = act,
        .s = s,
        .x = filled(be, DR_F32, n, 1),
        .mod = filled(be, DR_F32, B * 3 * d, 2),
        .weight = filled(be, DR_F32, d, 3),
        .tables = filled(be, DR_F32, 2 * s.t * s.hd, 4),
        .y = filled(be, act, n, 5),
        .qkv = filled(be, act, 3 * n, 6),
        .rstd = calloc((size_t)(B * s.t), sizeof(real)),
        .dx = calloc((size_t)n, sizeof(real)),
        .out32 = calloc((size_t)n, sizeof(real)),
        .dmod = calloc((size_t)(B * 3 * d), sizeof(real)),
        .out = calloc((size_t)n, sizeof(real)),
        .dqkv = calloc((size_t)(3 * n), sizeof(real)),
    };
}

static void drop(struct tensors *o) {
    void *all[] = {o->x,    o->mod, o->weight, o->tables, o->y,   o->qkv,
                   o->rstd, o->dx,  o->out32,  o->dmod,   o->out, o->dqkv};
    for (size_t i = 0; i < DR_COUNT(all); i++)
        free(all[i]);
}

static void *at(const void *p, enum dr_dtype t, int64_t i) {
    return (char *)(uintptr_t)p + (size_t)i * dr_sizeof(t);
}

// Runs one op on samples [b0, b0 + n).
typedef void run_fn(struct dr_backend *be, const struct tensors *o, int64_t b0, int64_t n);

static void run_attn_fwd(struct dr_backend *be, const struct tensors *o, int64_t b0, int64_t n) {
    const int64_t d = o->s.h * o->s.hd, one = o->s.t * d;
    DR_OP(be, attn_fwd, .out = at(o->out, o->act, b0 * one),
          .qkv = at(o->qkv, o->act, b0 * 3 * one), .act = o->act, .q_norm = o->weight,
          .k_norm = o->weight, .rope_cos = o->tables, .rope_sin = o->tables + o->s.t * o->s.hd,
          .b = n, .t = o->s.t, .h = o->s.h, .hd = o->s.hd, .scale = (real)0.125, .eps = (real)1e-6);
}

static void run_attn_bwd(struct dr_backend *be, const struct tensors *o, int64_t b0, int64_t n) {
    const int64_t d = o->s.h * o->s.hd, one = o->s.t * d;
    real ignored[2][256] = {{0}}; // sums over the batch
    DR_OP(be, attn_bwd, .dqkv = at(o->dqkv, o->act, b0 * 3 * one), .dq_norm = ignored[0],
          .dk_norm = ignored[1], .dout = at(o->y, o->act, b0 * one),
          .qkv = at(o->qkv, o->act, b0 * 3 * one), .act = o->act, .q_norm = o->weight,
          .k_norm = o->weight, .rope_cos = o->tables, .rope_sin = o->tables + o->s.t * o->s.hd,
          .b = n, .t = o->s.t, .h = o->s.h, .hd = o->s.hd, .scale = (real)0.125, .eps = (real)1e-6);
}

static void run_norm(struct dr_backend *be, const struct tensors *o, int64_t b0, int64_t n) {
    const int64_t d = o->s.h * o->s.hd, one = o->s.t * d, m = b0 * 3 * d;
    real ignored[512] = {0};
    DR_OP(be, rmsnorm_mod_fwd, .y = at(o->out, o->act, b0 * one), .yt = o->act,
          .rstd = o->rstd + b0 * o->s.t, .x = o->x + b0 * one, .weight = o->weight,
          .shift = o->mod + m, .scale = o->mod + m + d, .mod_stride = 3 * d, .b = n, .t = o->s.t,
          .d = d, .eps = (real)1e-6);
    DR_OP(be, rmsnorm_mod_bwd, .dx = o->dx + b0 * one, .dweight = ignored, .dshift = o->dmod + m,
          .dscale = o->dmod + m + d, .dmod_stride = 3 * d, .dy = at(o->y, o->act, b0 * one),
          .dyt = o->act, .x = o->x + b0 * one, .rstd = o->rstd + b0 * o->s.t, .weight = o->weight,
          .scale = o->mod + m + d, .mod_stride = 3 * d, .b = n, .t = o->s.t, .d = d);
}

static void run_gate(struct dr_backend *be, const struct tensors *o, int64_t b0, int64_t n) {
    const int64_t d = o->s.h * o->s.hd, one = o->s.t * d, m = b0 * 3 * d;
    DR_OP(be, gate_fwd, .out = o->out32 + b0 * one, .x = o->x + b0 * one, .gate = o->mod + m,
          .y = at(o->y, o->act, b0 * one), .act = o->act, .mod_stride = 3 * d, .b = n, .t = o->s.t,
          .d = d);
    DR_OP(be, gate_bwd, .dy = at(o->out, o->act, b0 * one), .dgate = o->dmod + m,
          .dmod_stride = 3 * d, .dout = o->x + b0 * one, .gate = o->mod + m,
          .y = at(o->y, o->act, b0 * one), .act = o->act, .mod_stride = 3 * d, .b = n, .t = o->s.t,
          .d = d);
}

static void run_mlp(struct dr_backend *be, const struct tensors *o, int64_t b0, int64_t n) {
    const int64_t d = o->s.h * o->s.hd, one = o->s.t * d;
    DR_OP(be, swiglu_fwd, .y = at(o->out, o->act, b0 * one), .h = at(o->qkv, o->act, b0 * 2 * one),
          .act = o->act, .m = n * o->s.t, .n = d);
    DR_OP(be, swiglu_bwd, .dh = at(o->dqkv, o->act, b0 * 2 * one),
          .h = at(o->qkv, o->act, b0 * 2 * one), .dy = at(o->y, o->act, b0 * one), .act = o->act,
          .m = n * o->s.t, .n = d);
    DR_OP(be, l2norm_fwd, .y = o->out32 + b0 * one, .norm = o->rstd + b0 * o->s.t,
          .x = o->x + b0 * one, .m = n * o->s.t, .n = d, .eps = (real)1e-12);
    DR_OP(be, l2norm_bwd, .dx = o->dx + b0 * one, .dy = o->x + b0 * one, .y = o->out32 + b0 * one,
          .norm = o->rstd + b0 * o->s.t, .m = n * o->s.t, .n = d, .eps = (real)1e-12);
}

// Images of t pixels in one column, groups of hd channels.
static void run_images(struct dr_backend *be, const struct tensors *o, int64_t b0, int64_t n) {
    const int64_t t = o->s.t, d = o->s.h * o->s.hd, one = t * d, small = (t - 1) / 2 + 1;
    real *mean = o->dmod + b0 * o->s.h, *rstd = o->dmod + (B + b0) * o->s.h, ignored[2][256] = {0};
    const void *x = at(o->y, o->act, b0 * one), *r = at(o->qkv, o->act, b0 * one);
    DR_OP(be, groupnorm_fwd, .y = at(o->out, o->act, b0 * one), .mean = mean, .rstd = rstd, .x = x,
          .r = r, .t = o->act, .weight = o->weight, .bias = o->tables, .b = n, .n = t, .c = d,
          .groups = o->s.h, .fn = DR_FN_SILU, .eps = (real)1e-5);
    DR_OP(be, groupnorm_bwd, .dx = at(o->dqkv, o->act, b0 * one),
          .dr = at(o->dqkv, o->act, (B + b0) * one), .dweight = ignored[0], .dbias = ignored[1],
          .dy = x, .x = x, .r = r, .t = o->act, .mean = mean, .rstd = rstd, .weight = o->weight,
          .bias = o->tables, .b = n, .n = t, .c = d, .groups = o->s.h, .fn = DR_FN_SILU);
    DR_OP(be, pool_fwd, .y = at(o->dqkv, o->act, 2 * B * one + b0 * small * d), .x = x, .t = o->act,
          .b = n, .h = t, .w = 1, .c = d, .k = 3, .stride = 2, .pad = 1, .max = true);
    DR_OP(be, resize_fwd, .y = o->out32 + b0 * small * d, .x = o->x + b0 * one, .b = n, .h = t,
          .w = 1, .c = d, .ho = small, .wo = 1);
    DR_OP(be, resize_bwd, .dx = o->dx + b0 * one, .dy = o->x + b0 * small * d, .b = n, .h = t,
          .w = 1, .c = d, .ho = small, .wo = 1);
    DR_OP(be, masked_mse, .loss = o->rstd + b0, .x = x, .y = r, .xt = o->act, .yt = o->act, .b = n,
          .h = t, .w = 1, .c = d);
    DR_OP(be, channel_affine_bwd, .dx = at(o->dqkv, o->act, (B + b0) * one), .dy = x, .x = r,
          .t = o->act, .xt = o->act, .scale = o->weight, .shift = o->tables, .m = n * t, .c = d,
          .fn = DR_FN_RELU);
}

static void same(const void *a, const void *b, size_t bytes, const char *what) {
    if (memcmp(a, b, bytes))
        fail_msg("%s depends on the batch or the threads", what);
}

static void check(struct shape s, enum dr_dtype act, run_fn *run) {
    struct dr_backend *one = open_cpu(1), *two = open_cpu(2);
    struct tensors whole = make(two, s, act), alone = make(one, s, act), single = make(one, s, act);
    run(two, &whole, 0, B);
    for (int64_t b = B - 1; b >= 0; b--)
        run(b % 2 ? one : two, &alone, b, 1);
    run(one, &single, 0, B);
    const size_t n = (size_t)(B * s.t * s.h * s.hd);
    const struct tensors *others[] = {&alone, &single};
    for (int i = 0; i < 2; i++) {
        same(whole.out, others[i]->out, n * sizeof(real), "the output");
        same(whole.out32, others[i]->out32, n * sizeof(real), "the fp32 output");
        same(whole.dqkv, others[i]->dqkv, 3 * n * sizeof(real), "dqkv");
        same(whole.dx, others[i]->dx, n * sizeof(real), "dx");
        same(whole.rstd, others[i]->rstd, (size_t)(B * s.t) * sizeof(real), "a sum");
        same(whole.dmod, others[i]->dmod, (size_t)(B * 3 * s.h * s.hd) * sizeof(real), "dmod");
    }
    drop(&whole);
    drop(&alone);
    drop(&single);
    dr_backend_free(one);
    dr_backend_free(two);
}

static void test_batch(void **state) {
    (void)state;
    run_fn *const ops[] = {run_attn_fwd, run_attn_bwd, run_norm, run_gate, run_mlp, run_images};
    for (size_t i = 0; i < DR_COUNT(shapes); i++)
        for (size_t k = 0; k < DR_COUNT(ops); k++)
            for (int act = DR_F32; act <= DR_BF16; act++)
                check(shapes[i], act, ops[k]);
}

// y = x sigmoid(x) and x Phi(x) at the ends of the scale; a NaN in a vector stays in its lane.
static void test_special(void **state) {
    (void)state;
    struct dr_backend *be = open_cpu(1);
    real x[19], y[19];
    for (int i = 0; i < 19; i++)
        x[i] = (real)1;
    x[3] = NAN;
    x[5] = INFINITY;
    x[7] = (real)-1e30;
    x[9] = (real)1e30;
    x[17] = NAN; // in the tail
    for (int op = 0; op < 2; op++) {
        if (op)
            DR_OP(be, gelu_fwd, .y = y, .x = x, .n = 19);
        else
            DR_OP(be, silu_fwd, .y = y, .x = x, .n = 19);
        for (int i = 0; i < 19; i++)
            assert_int_equal(isnan(y[i]) != 0, i == 3 || i == 17);
        assert_true(isinf(y[5]) && y[5] > 0);
        assert_true(y[7] == 0 && y[9] == (real)1e30);
        assert_true(y[18] == y[0]);
    }
    dr_bf16 half[19], out[19];
    DR_OP(be, cast, .dst = half, .src = x, .dt = DR_BF16, .st = DR_F32, .n = 19);
    DR_OP(be, silu_fwd, .y = out, .x = half, .yt = DR_BF16, .xt = DR_BF16, .n = 19);
    for (int i = 0; i < 19; i++)
        assert_int_equal((out[i] & 0x7fff) > 0x7f80, i == 3 || i == 17);
    dr_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_special),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
