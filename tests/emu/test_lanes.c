// Every kernel in which threads share memory, with one pthread per lane (lanes.cc): ThreadSanitizer
// ends the program at an access that no barrier orders. Tiny shapes that still need several warps,
// several tiles and a ragged end; what the ops compute is the business of tests/ops.
#include "tests/emu/emu.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct dr_backend *be;

// n reals (or bf16) of device memory, normal numbers.
static void *some(enum dr_dtype type, int64_t n) {
    struct dr_err err = {0};
    void *x, *y, *seed;
    const uint64_t zero = 0;
    if (be->mem_alloc(be, (size_t)n * sizeof(real), &x, &err) ||
        be->mem_alloc(be, (size_t)n * sizeof(real), &y, &err) ||
        be->mem_alloc(be, sizeof zero, &seed, &err))
        fail_msg("%s", err.msg);
    be->upload(be, seed, &zero, sizeof zero);
    DR_OP(be, normals, .out = x, .seed = seed, .index = seed, .b = 1, .n = n, .stream = 1);
    DR_OP(be, cast, .dst = y, .src = x, .dt = type, .st = DR_F32, .n = n);
    be->mem_free(be, x);
    be->mem_free(be, seed);
    return y; // goes with the process
}
#define F(n) some(DR_F32, n)

static void done(const real *out, int64_t n) {
    struct dr_err err = {0};
    real *v = malloc((size_t)n * sizeof *v);
    be->download(be, v, out, (size_t)n * sizeof *v);
    if (be->sync(be, &err))
        fail_msg("%s", err.msg);
    for (int64_t i = 0; i < n; i++)
        if (isnan(v[i]))
            fail_msg("element %d is NaN", (int)i);
    free(v);
}

static void sums(void **state) {
    (void)state;
    real *x = F(600 * 33), *out = F(40);
    DR_OP(be, colsum, .out = out, .x = x, .m = 600, .n = 33, .acc = true);
    done(out, 33);
    DR_OP(be, sumsq, .out = out, .x = x, .n = 600 * 33);
    done(out, 1);
    DR_OP(be, l2norm_fwd, .y = x, .norm = out, .x = F(3 * 200), .m = 3, .n = 200, .eps = 1e-6f);
    DR_OP(be, l2norm_bwd, .dx = F(600), .dy = F(600), .y = x, .norm = out, .m = 3, .n = 200);
    done(x, 600);
    const int32_t idx[6] = {1, 0, 1, 1, 2, 0};
    int32_t *i = (int32_t *)F(6);
    be->upload(be, i, idx, sizeof idx);
    DR_OP(be, embed_bwd, .dtable = x, .dout = F(2 * 40), .idx = i, .b = 2, .nk = 3, .d = 40);
    done(x, 3 * 40);
}

static void norms(void **state) {
    (void)state;
    enum { B = 1, T = 11 };
    static const int64_t widths[] = {36, 33, 1028}; // in one walk, and in two
    for (size_t k = 0; k < DR_COUNT(widths); k++) {
        const int64_t d = widths[k], n = B * T * d;
        real *dx = F(n), *mods = F(2 * d), *dmods = F(2 * d), *rstd = F(B * T);
        DR_OP(be, rmsnorm_mod_bwd, .dx = dx, .acc_dx = true, .dweight = F(d), .dshift = dmods,
              .dscale = dmods + d, .dmod_stride = 2 * d, .dy = F(n), .x = F(n), .rstd = rstd,
              .weight = F(d), .scale = mods, .mod_stride = 2 * d, .b = B, .t = T, .d = d);
        done(dx, n);
        DR_OP(be, gate_bwd, .dy = dx, .dgate = dmods, .dmod_stride = d, .dout = F(n), .gate = mods,
              .y = F(n), .mod_stride = d, .b = B, .t = T, .d = d);
        done(dmods, d);
    }
}

// 150 tokens of 64 columns in bf16 pass through shared memory in tiles, the others fit whole.
static void attention(void **state) {
    (void)state;
    static const struct {
        int64_t t, hd;
        enum dr_dtype act;
    } shapes[] = {{35, 6, DR_F32}, {35, 32, DR_BF16}, {150, 64, DR_BF16}};
    for (size_t k = 0; k < DR_COUNT(shapes); k++) {
        const int64_t t = shapes[k].t, hd = shapes[k].hd, n = t * hd;
        const enum dr_dtype act = shapes[k].act;
        void *qkv = some(act, 3 * n), *out = some(act, n);
        real *norm = F(hd), *angle = F(t * hd / 2), *dnorm = F(hd), *check = F(3 * n);
        DR_OP(be, attn_fwd, .out = out, .qkv = qkv, .act = act, .q_norm = norm, .k_norm = norm,
              .rope_cos = angle, .rope_sin = angle, .b = 1, .t = t, .h = 1, .hd = hd, .scale = 0.1f,
              .eps = 1e-6f);
        DR_OP(be, attn_bwd, .dqkv = qkv, .dq_norm = dnorm, .dk_norm = dnorm, .dout = out,
              .qkv = qkv, .act = act, .q_norm = norm, .k_norm = norm, .rope_cos = angle,
              .rope_sin = angle, .b = 1, .t = t, .h = 1, .hd = hd, .scale = 0.1f, .eps = 1e-6f);
        DR_OP(be, cast, .dst = check, .src = qkv, .dt = DR_F32, .st = act, .n = 3 * n);
        done(check, 3 * n);
        done(dnorm, hd);
    }
}

static void drift(void **state) {
    (void)state;
    enum { B = 1, N = 5, M = 35, S = 300 };
    real *x = F(B * N * S), *y = F(B * M * S), *d = F(B * N * M), *stats = F(3);
    real *coef = F(B * N * M), *v = F(B * N * S), *v2 = F(1), *loss = F(1);
    double *sums = (double *)F(8), *sumsq = (double *)F(2);
    DR_OP(be, pair_dist, .d = d, .x = x, .y = y, .b = B, .n = N, .m = M, .s = S);
    DR_OP(be, drift_sums, .sums = sums, .d = d, .b = B, .n = N, .m = M);
    DR_OP(be, drift_scale, .out = stats, .sums = sums, .b = B, .n = N, .m = M);
    DR_OP(be, drift_coef, .coef = coef, .d = d, .scale = stats, .b = B, .n = N, .n_neg = N + 2,
          .p = M - N - 2, .tau = 0.2f, .floor = 1e-6f, .diag = 100);
    DR_OP(be, drift_combine, .v = v, .sumsq = sumsq, .coef = coef, .x = x, .y = y, .scale = stats,
          .b = B, .n = N, .m = M, .s = S);
    DR_OP(be, drift_mean, .out = v2, .sums = sumsq, .n = 1, .count = N * S);
    DR_OP(be, drift_grad, .dx = x, .loss = loss, .total = v, .scale = stats, .b = B, .n = N, .s = S,
          .groups = B, .weight = 1);
    done(x, B * N * S);
    done(loss, 1);
}

static void images(void **state) {
    (void)state;
    enum { B = 2, H = 4, W = 5, C = 36, N = B * H * W * C };
    real *x = F(N), *dx = F(N), *stats = F(2 * B * 4), *per = F(4 * C), *loss = F(B);
    const int32_t label[3] = {1, 0, -1};
    int32_t *labels = (int32_t *)F(3);
    be->upload(be, labels, label, sizeof label);
    DR_OP(be, groupnorm_fwd, .y = dx, .mean = stats, .rstd = stats + B * 4, .x = x, .weight = per,
          .bias = per + C, .b = B, .n = H * W, .c = C, .groups = 4, .eps = 1e-5f);
    DR_OP(be, groupnorm_bwd, .dx = dx, .dweight = per + 2 * C, .dbias = per + 3 * C, .dy = dx,
          .x = x, .mean = stats, .rstd = stats + B * 4, .weight = per, .bias = per + C, .b = B,
          .n = H * W, .c = C, .groups = 4, .fn = DR_FN_SILU);
    done(dx, N);
    done(per, 4 * C);
    DR_OP(be, channel_affine_bwd, .dx = dx, .dscale = per + 2 * C, .dshift = per + 3 * C, .dy = dx,
          .x = x, .scale = per, .shift = per + C, .m = B * H * W, .c = C);
    done(per, 4 * C);
    DR_OP(be, masked_mse, .loss = loss, .dx = dx, .x = x, .y = dx, .b = B, .h = H, .w = W, .c = C,
          .scale = 1);
    done(loss, B);
    DR_OP(be, softmax_xent, .loss = loss, .dlogits = dx, .logits = x, .labels = labels, .m = 2,
          .n = 150, .scale = 1);
    done(dx, 2 * 150);
}

static int open_emu(void **state) {
    (void)state;
    struct dr_err err = {0};
    return dr_backend_emu(false, &be, &err);
}
static int close_emu(void **state) {
    (void)state;
    dr_backend_free(be);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(sums), cmocka_unit_test(norms),
                                       cmocka_unit_test(attention), cmocka_unit_test(drift),
                                       cmocka_unit_test(images)};
    return cmocka_run_group_tests(tests, open_emu, close_emu);
}
