// No primitive has a shape that depends on the batch or on the threads: the keys of the cache after
// products and convolutions are the same for every batch size and thread count.
// This holds whatever oneDNN does with a shape, so also on CPUs that no test has seen.
//
// And the self-check: silent here, and it names the fault when one is injected.
#include "engine/cpu/backend.h"
#include "engine/cpu/conv_onednn.h"
#include "engine/cpu/gemm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MAX_KEYS = 768 };

struct keys {
    struct dr_gemm_key key[MAX_KEYS];
    int count;
};

static void keys_of(const struct dr_backend *be, struct keys *k) {
    k->count = dr_gemm_keys(((const struct dr_cpu *)be->impl)->gemm, k->key, MAX_KEYS);
    assert_in_range(k->count, 1, MAX_KEYS);
}

static void assert_same(const struct keys *a, const struct keys *b, const char *what, int threads,
                        int64_t samples) {
    if (a->count == b->count && !memcmp(a->key, b->key, (size_t)a->count * sizeof *a->key))
        return;
    for (int i = 0; i < a->count || i < b->count; i++)
        for (int side = 0; side < 2; side++) {
            const struct keys *k = side ? b : a;
            if (i < k->count)
                print_error("%c m %d n %d k %d lda %d ldc %d form %d\n", side ? '>' : '<',
                            (int)k->key[i].m, (int)k->key[i].n, (int)k->key[i].k,
                            (int)k->key[i].lda, (int)k->key[i].ldc, (int)k->key[i].form);
        }
    fail_msg("%s: %d threads and %d samples make other primitives than one thread and one sample",
             what, threads, (int)samples);
}

static struct dr_backend *open_cpu(int threads) {
    struct dr_backend *be;
    struct dr_err err = {0};
    if (dr_backend_cpu(threads, &be, &err))
        fail_msg("%s", err.msg);
    be->enter(be);
    return be;
}

static void finish(struct dr_backend *be, struct keys *k) {
    struct dr_err err = {0};
    if (be->sync(be, &err))
        fail_msg("%s", err.msg);
    keys_of(be, k);
    dr_backend_free(be);
}

// A layer of `rows` rows per sample and a convolution: forward, by the input, by the weight.
static void run_layers(struct dr_backend *be, enum dr_dtype t, int64_t rows, int64_t samples) {
    const int64_t in = 40, out = 200, m = rows * samples, c = 24, s = 12;
    void *x = calloc((size_t)(m * out + samples * s * s * c), sizeof(real)),
         *y = calloc((size_t)(m * out + samples * s * s * c), sizeof(real));
    real *w = calloc((size_t)(in * out + 9 * c * c), sizeof *w);
    DR_OP(be, gemm, .m = m, .n = out, .k = in, .a = x, .b = w, .c = y, .lda = in, .ldb = in,
          .ldc = out, .tb = true, .abt = t, .ct = t, .rows = rows);
    DR_OP(be, gemm, .m = m, .n = in, .k = out, .a = x, .b = w, .c = y, .lda = out, .ldb = in,
          .ldc = in, .abt = t, .ct = t, .rows = rows);
    DR_OP(be, gemm, .m = out, .n = in, .k = m, .a = x, .b = y, .c = w, .lda = out, .ldb = in,
          .ldc = in, .ta = true, .acc = true, .abt = t, .rows = rows);
    DR_OP(be, conv2d_fwd, .y = y, .x = x, .t = t, .weight = w, .b = samples, .h = s, .w = s,
          .ci = c, .co = c, .k = 3, .stride = 1, .pad = 1);
    DR_OP(be, conv2d_bwd_data, .dx = x, .dy = y, .t = t, .weight = w, .b = samples, .h = s, .w = s,
          .ci = c, .co = c, .k = 3, .stride = 1, .pad = 1);
    DR_OP(be, conv2d_bwd_weight, .dweight = w, .dy = y, .x = x, .t = t, .b = samples, .h = s,
          .w = s, .ci = c, .co = c, .k = 3, .stride = 1, .pad = 1);
    // one product per class of pixels
    DR_OP(be, conv2d_bwd_data, .dx = x, .dy = y, .t = t, .weight = w, .b = samples, .h = s, .w = s,
          .ci = c, .co = c, .k = 3, .stride = 2, .pad = 1);
    free(x);
    free(y);
    free(w);
}

static void keys_do_not_depend_on_batch_or_threads(void **state) {
    static const int64_t per_sample[] = {1, 7, 16, 49, 72, 260}, samples[] = {1, 2, 3, 17, 64};
    (void)state;
    for (size_t i = 0; i < DR_COUNT(per_sample) * 2; i++) {
        struct keys first = {0}, other = {0};
        for (int threads = 1; threads <= 3; threads++)
            for (size_t j = 0; j < DR_COUNT(samples); j++) {
                struct dr_backend *be = open_cpu(threads);
                run_layers(be, i % 2, per_sample[i / 2], samples[j]);
                finish(be, first.count ? &other : &first);
                if (other.count)
                    assert_same(&first, &other, i % 2 ? "bf16" : "fp32", threads, samples[j]);
            }
    }
}

static void convolve(struct dr_backend *be, enum dr_dtype t, int64_t samples, int64_t stride) {
    enum { S = 17, C = 64 };
    void *x = calloc((size_t)(samples * S * S * C), sizeof(real)),
         *y = calloc((size_t)(samples * S * S * C), sizeof(real));
    real *w = calloc(9 * C * C, sizeof *w);
    DR_OP(be, conv2d_fwd, .y = y, .x = x, .t = t, .weight = w, .bias = w, .b = samples, .h = S,
          .w = S, .ci = C, .co = C, .k = 3, .stride = stride, .pad = 1);
    DR_OP(be, conv2d_bwd_data, .dx = x, .dy = y, .t = t, .weight = w, .b = samples, .h = S, .w = S,
          .ci = C, .co = C, .k = 3, .stride = stride, .pad = 1);
    DR_OP(be, conv2d_bwd_weight, .dweight = w, .dy = y, .x = x, .t = t, .b = samples, .h = S,
          .w = S, .ci = C, .co = C, .k = 3, .stride = stride, .pad = 1);
    free(x), free(y), free(w);
}

// The same of the convolutions of oneDNN, whose cache is another one.
static void keys_of_convolutions_neither(void **state) {
    static const int64_t samples[] = {1, 2, 7, 19};
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct dr_conv_key first[64], other[64];
        int count = 0;
        for (int threads = 1; threads <= 3; threads++)
            for (size_t j = 0; j < DR_COUNT(samples); j++) {
                struct dr_backend *be = open_cpu(threads);
                const struct dr_conv_cache *c = ((const struct dr_cpu *)be->impl)->conv;
                struct dr_err err = {0};
                convolve(be, i, samples[j], 1);
                convolve(be, i, samples[j], 2);
                assert_int_equal(be->sync(be, &err), 0);
                const int n = dr_conv_keys(c, count ? other : first, 64);
                assert_in_range(n, 5, 64); // bands, backward, pieces and single images
                if (!count)
                    count = n;
                else if (n != count || memcmp(first, other, (size_t)n * sizeof *first))
                    fail_msg("%s: %d threads and %d samples make other primitives than one thread "
                             "and one sample",
                             i ? "bf16" : "fp32", threads, (int)samples[j]);
                for (int k = 0; k < n; k++)
                    if (first[k].way != DR_CONV_WEIGHT)
                        assert_int_equal(first[k].b, 1);
                dr_backend_free(be);
            }
    }
}

static void self_check_passes_here(void **state) {
    struct dr_backend *be = open_cpu(2);
    char why[80] = "?";
    (void)state;
    assert_true(dr_gemm_self_check(be, dr_cpu_gemm, why, sizeof why));
    assert_string_equal(why, "");
    assert_null(strstr(be->detail, "FAULT"));
    dr_backend_free(be);
}

// As a library that blocks by the number of rows would: the last bit depends on m.
static void depends_on_rows(struct dr_backend *be, const struct dr_gemm_args *a) {
    dr_cpu_gemm(be, a);
    if (!a->ta && a->m > 100 && a->abt == DR_F32)
        ((uint32_t *)a->c)[7] ^= 1;
}

static void depends_on_threads(struct dr_backend *be, const struct dr_gemm_args *a) {
    dr_cpu_gemm(be, a);
    if (a->ta && be->threads > 1 && a->abt == DR_BF16)
        ((uint32_t *)a->c)[7] ^= 1;
}

static void self_check_sees_faults(void **state) {
    struct dr_backend *be = open_cpu(2);
    char why[80];
    (void)state;
    assert_false(dr_gemm_self_check(be, depends_on_rows, why, sizeof why));
    assert_string_equal(why, "fp32 products depend on the batch");
    assert_false(dr_gemm_self_check(be, depends_on_threads, why, sizeof why));
    assert_string_equal(why, "bf16 gradients depend on the threads");
    dr_backend_free(be);
}

// A row's place in a panel does not matter: one row at every place of panels of each height.
static void every_place_of_a_panel(void **state) {
    enum { N = 72, K = 52, MOST = 300 };
    static const int64_t per_sample[] = {0, 1, 16, 49, 72, 260};
    struct dr_backend *be = open_cpu(2);
    real *row = malloc(K * sizeof *row), *b = malloc(N * K * sizeof *b);
    char *x = malloc(MOST * K * sizeof(real)), *w = malloc(N * K * sizeof(real));
    char *y = malloc(MOST * N * sizeof(real)), first[N * sizeof(real)];
    (void)state;
    for (int i = 0; i < N * K; i++)
        b[i] = (real)(i * 37 % 1009) / 1009 - (real)0.5;
    memcpy(row, b + 9, K * sizeof *row);
    for (size_t i = 0; i < DR_COUNT(per_sample) * 2; i++) {
        const enum dr_dtype t = i % 2;
        const size_t bytes = N * dr_sizeof(t);
        DR_OP(be, cast, .dst = w, .src = b, .dt = t, .st = DR_F32, .n = N * K);
        for (int r = 0; r < MOST; r++)
            DR_OP(be, cast, .dst = x + (size_t)r * K * dr_sizeof(t), .src = row, .dt = t,
                  .st = DR_F32, .n = K);
        for (int64_t m = 1; m <= MOST; m += m < 9 ? 1 : 97)
            for (int64_t r = 0; r < m; r++) {
                if (r == 0)
                    DR_OP(be, gemm, .m = m, .n = N, .k = K, .a = x, .b = w, .c = y, .lda = K,
                          .ldb = K, .ldc = N, .tb = true, .abt = t, .ct = t,
                          .rows = per_sample[i / 2]);
                if (m == 1)
                    memcpy(first, y, bytes);
                else if (memcmp(first, y + (size_t)r * bytes, bytes))
                    fail_msg("%s, %d rows per sample: row %d of %d differs from the row alone",
                             t ? "bf16" : "fp32", (int)per_sample[i / 2], (int)r, (int)m);
            }
    }
    dr_backend_free(be);
    free(row), free(b), free(x), free(w), free(y);
}

// Packed weights are taken again only under the version that they were packed for, whatever else
// is at the same address, and what is kept stays within its bounds.
static void weights_are_packed_once_per_version(void **state) {
    enum { N = 96, K = 64, M = 40 };
    struct dr_backend *be = open_cpu(2);
    const struct dr_gemm_kept *kept = dr_gemm_kept(((const struct dr_cpu *)be->impl)->gemm);
    real *x = malloc(M * N * sizeof *x), *w = malloc(N * K * sizeof *w);
    real *y = malloc(M * N * sizeof *y), *fresh = malloc(M * N * sizeof *y);
    struct dr_gemm_args g = {.m = M, .a = x, .b = w, .rows = 16};
    (void)state;
    for (int i = 0; i < M * N; i++)
        x[i] = (real)(i * 29 % 997) / 997 - (real)0.5;
    for (int round = 0; round < 12; round++) {
        // y = x W', dx = y W, and another shape at the same address; two calls of each
        const int form = round % 3;
        g.n = form == 1 ? K : form == 2 ? N / 2 : N;
        g.k = form == 1 ? N : K;
        g.tb = form != 1;
        g.lda = g.k, g.ldb = K, g.ldc = g.n;
        for (int i = 0; i < N * K; i++)
            w[i] = (real)((i + round) * 37 % 1009) / 1009 - (real)0.5;
        const uint64_t version = dr_next_version(be);
        for (int call = 0; call < 2; call++) {
            g.version = 0, g.c = fresh;
            be->op.gemm(be, &g);
            g.version = version, g.c = y;
            be->op.gemm(be, &g);
            assert_memory_equal(y, fresh, (size_t)(M * g.n) * sizeof *y);
        }
        memset(w, 0, N * K * sizeof *w); // it was kept: under its version nothing is read again
        be->op.gemm(be, &g);
        assert_memory_equal(y, fresh, (size_t)(M * g.n) * sizeof *y);
    }
    assert_in_range(dr_gemm_kept_bytes(kept), (2 * N + N / 2) * K * sizeof *w,
                    8 * N * K * sizeof *w);
    free(x), free(w), free(y), free(fresh);
    dr_backend_free(be);
}

// Copies of weights that are gone make room, and no more is kept than there is room for.
static void kept_weights_are_bounded(void **state) {
    enum { LARGE = 24 << 20, SMALL = 4096 };
    struct dr_gemm_kept *k = dr_gemm_kept_new();
    static const char at[101];
    struct dr_gemm_operand of = {.k = 1};
    struct dr_gemm_copy *c;
    bool ready;
    int held = 0;
    (void)state;
    for (int i = 1; i <= 12; i++) {
        of.b = at + i;
        held += dr_gemm_kept_find(k, &of, 7, LARGE, &c, &ready) != NULL;
        assert_false(ready);
    }
    assert_int_equal(held, 5); // of 24 MiB in 128
    assert_int_equal(dr_gemm_kept_bytes(k), 5 * (size_t)LARGE);
    of.b = at + 1;
    for (int i = 0; i < 10000; i++) {
        assert_non_null(dr_gemm_kept_find(k, &of, 8, LARGE, &c, &ready));
        assert_int_equal(ready, i > 0); // never before it was written
        dr_gemm_kept_written(c, 8);
    }
    of.b = at + 100;
    assert_non_null(dr_gemm_kept_find(k, &of, 9, SMALL, &c, &ready));
    assert_int_equal(dr_gemm_kept_bytes(k), LARGE + SMALL); // the four idle ones went
    dr_gemm_kept_free(k);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(keys_do_not_depend_on_batch_or_threads),
                                       cmocka_unit_test(keys_of_convolutions_neither),
                                       cmocka_unit_test(every_place_of_a_panel),
                                       cmocka_unit_test(weights_are_packed_once_per_version),
                                       cmocka_unit_test(kept_weights_are_bounded),
                                       cmocka_unit_test(self_check_passes_here),
                                       cmocka_unit_test(self_check_sees_faults)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
