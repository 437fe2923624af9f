// A sample's convolution must not depend on the batch it is in, nor on the threads: forward and
// backward-data of each shape for 33 samples, against the same samples alone and by fives. Weight
// gradients must not depend on the threads, nor results on whether arranged weights were kept.
// And images that are cut into bands of lines, against the loops of the definition.
#include "engine/cpu/backend.h"
#include "engine/cpu/cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BATCH = 33 };

struct shape {
    int64_t h, w, ci, co, k, stride, pad, dil;
};

static void *converted(struct dr_backend *be, const real *v, enum dr_dtype t, int64_t n) {
    void *p = malloc((size_t)n * sizeof(real));
    DR_OP(be, cast, .dst = p, .src = v, .dt = t, .st = DR_F32, .n = n);
    return p;
}

static void run(struct dr_backend *be, const struct shape *s, bool back, enum dr_dtype t, void *out,
                const void *in, const real *weight, int64_t from, int64_t b) {
    struct dr_err err = {0};
    int64_t reach = DR_MAX(s->dil, (int64_t)1) * (s->k - 1) + 1;
    int64_t ho = (s->h + 2 * s->pad - reach) / s->stride + 1;
    int64_t wo = (s->w + 2 * s->pad - reach) / s->stride + 1;
    size_t x = (size_t)(from * s->h * s->w * s->ci) * dr_sizeof(t);
    size_t y = (size_t)(from * ho * wo * s->co) * dr_sizeof(t);
    be->enter(be);
    if (back)
        DR_OP(be, conv2d_bwd_data, .dx = (char *)out + x, .dy = (const char *)in + y, .t = t,
              .weight = weight, .b = b, .h = s->h, .w = s->w, .ci = s->ci, .co = s->co, .k = s->k,
              .stride = s->stride, .pad = s->pad, .dil = s->dil);
    else
        DR_OP(be, conv2d_fwd, .y = (char *)out + y, .x = (const char *)in + x, .t = t,
              .weight = weight, .bias = weight, .b = b, .h = s->h, .w = s->w, .ci = s->ci,
              .co = s->co, .k = s->k, .stride = s->stride, .pad = s->pad, .dil = s->dil);
    if (be->sync(be, &err))
        fail_msg("%s", err.msg);
}

static void samples_do_not_depend_on_the_batch(void **state) {
    static const struct shape shapes[] = {
        {28, 28, 1, 32, 3, 1, 1},  {28, 28, 32, 1, 3, 1, 1},     {16, 16, 24, 40, 3, 1, 1},
        {17, 16, 24, 40, 3, 2, 1}, {8, 8, 64, 32, 1, 2, 0},      {14, 14, 3, 64, 7, 2, 3},
        {6, 5, 130, 300, 3, 1, 1}, {12, 11, 30, 20, 3, 1, 2, 2}, {9, 9, 64, 8, 3, 1, 1},
        {19, 17, 64, 64, 3, 1, 1}, {32, 32, 24, 24, 3, 1, 1},    {4, 4, 256, 256, 3, 1, 1}};
    struct dr_backend *be[2];
    struct dr_err err = {0};
    (void)state;
    int64_t most = BATCH * 28 * 28 * 64;
    real *v = malloc((size_t)most * sizeof *v);
    char *whole = malloc((size_t)most * sizeof *v), *parts = malloc((size_t)most * sizeof *v);
    for (int64_t i = 0; i < most; i++)
        v[i] = (real)(rand() % 4001 - 2000) / 1999;
    for (int i = 0; i < 2; i++)
        assert_int_equal(dr_backend_cpu(i + 1, &be[i], &err), 0);
    for (size_t i = 0; i < DR_COUNT(shapes) * 4; i++) {
        enum dr_dtype t = i & 1;
        bool back = i & 2;
        const struct shape *s = &shapes[i / 4];
        void *in = converted(be[0], v, t, most);
        memset(whole, 0, (size_t)most * sizeof *v);
        memset(parts, 0, (size_t)most * sizeof *v);
        run(be[1], s, back, t, whole, in, v, 0, BATCH);
        for (int64_t n = 0; n < BATCH;) {
            int64_t b = DR_MIN(n % 2 ? (int64_t)5 : 1, BATCH - n);
            run(be[n % 2], s, back, t, parts, in, v, n, b);
            n += b;
        }
        if (memcmp(whole, parts, (size_t)most * sizeof *v))
            fail_msg("%s %s of %dx%d, %d to %d channels", t ? "bf16" : "fp32",
                     back ? "backward" : "forward", (int)s->h, (int)s->w, (int)s->ci, (int)s->co);
        free(in);
    }
    for (int i = 0; i < 2; i++)
        dr_backend_free(be[i]);
    free(v);
    free(whole);
    free(parts);
}

static struct dr_backend *open_cpu(int threads) {
    struct dr_backend *be;
    struct dr_err err = {0};
    if (dr_backend_cpu(threads, &be, &err))
        fail_msg("%s", err.msg);
    be->enter(be);
    return be;
}

static real *values(int64_t n, int64_t seed) {
    real *v = malloc((size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++)
        v[i] = (real)((i * 7919 + seed * 104729) % 4001 - 2000) / 1999;
    return v;
}

static void gradients_do_not_depend_on_the_threads(void **state) {
    static const struct shape shapes[] = {{32, 32, 24, 24, 3, 1, 1}, {16, 15, 20, 40, 3, 1, 1},
                                          {28, 28, 16, 24, 3, 2, 1}, {14, 14, 24, 8, 1, 1, 0},
                                          {8, 8, 48, 48, 3, 1, 1},   {32, 32, 3, 24, 3, 1, 1}};
    (void)state;
    for (size_t i = 0; i < DR_COUNT(shapes) * 2; i++) {
        const struct shape *s = &shapes[i / 2];
        const enum dr_dtype t = i % 2;
        const int64_t ho = (s->h + 2 * s->pad - s->k) / s->stride + 1,
                      wo = (s->w + 2 * s->pad - s->k) / s->stride + 1;
        const int64_t xs = BATCH * s->h * s->w * s->ci, ys = BATCH * ho * wo * s->co;
        const size_t bytes = (size_t)(s->co * s->ci * s->k * s->k) * sizeof(real);
        real *v = values(DR_MAX(xs, ys), (int64_t)i);
        char *first = malloc(bytes), *other = malloc(bytes);
        for (int threads = 1; threads <= 3; threads++) {
            struct dr_backend *be = open_cpu(threads);
            struct dr_err err = {0};
            void *x = converted(be, v, t, xs), *dy = converted(be, v, t, ys);
            char *dw = threads == 1 ? first : other;
            memcpy(dw, v, bytes);
            DR_OP(be, conv2d_bwd_weight, .dweight = (real *)(void *)dw, .x = x, .dy = dy, .t = t,
                  .b = BATCH, .h = s->h, .w = s->w, .ci = s->ci, .co = s->co, .k = s->k,
                  .stride = s->stride, .pad = s->pad);
            assert_int_equal(be->sync(be, &err), 0);
            if (dw == other && memcmp(first, other, bytes))
                fail_msg("%s of %dx%d, %d to %d channels: %d threads", t ? "bf16" : "fp32",
                         (int)s->h, (int)s->w, (int)s->ci, (int)s->co, threads);
            dr_backend_free(be);
            free(x), free(dy);
        }
        free(v), free(first), free(other);
    }
}

static void convolve(struct dr_backend *be, bool back, real *to, const real *from, const real *w,
                     uint64_t version) {
    enum { S = 9, C = 24, B = 3 };
    if (back)
        DR_OP(be, conv2d_bwd_data, .dx = to, .dy = from, .t = DR_F32, .weight = w, .b = B, .h = S,
              .w = S, .ci = C, .co = C, .k = 3, .stride = 1, .pad = 1, .version = version);
    else
        DR_OP(be, conv2d_fwd, .y = to, .x = from, .t = DR_F32, .weight = w, .b = B, .h = S, .w = S,
              .ci = C, .co = C, .k = 3, .stride = 1, .pad = 1, .version = version);
}

// Arranged weights are taken again only under the version that they were arranged for. With
// oneDNN nothing is read again under a version.
static void weights_are_arranged_once_per_version(void **state) {
    enum { N = 3 * 9 * 9 * 24, W = 24 * 24 * 9 };
    struct dr_backend *be = open_cpu(2);
    const bool keeps = ((const struct dr_cpu *)be->impl)->conv != NULL;
    real *x = values(N, 1), *w = malloc(W * sizeof *w), *y = malloc(N * sizeof *y);
    real *fresh = malloc(N * sizeof *fresh);
    (void)state;
    for (int round = 0; round < 8; round++) {
        const bool back = round % 2;
        for (int i = 0; i < W; i++)
            w[i] = (real)((i + round) * 37 % 1009) / 1009 - (real)0.5;
        const uint64_t version = dr_next_version(be);
        convolve(be, back, fresh, x, w, 0);
        for (int call = 0; call < 2; call++) {
            memset(y, 0, N * sizeof *y);
            convolve(be, back, y, x, w, version);
            assert_memory_equal(y, fresh, N * sizeof *y);
            if (keeps)
                memset(w, 0, W * sizeof *w);
        }
    }
    free(x), free(w), free(y), free(fresh);
    dr_backend_free(be);
}

static void by_definition(const struct shape *s, double *y, const real *x, const real *w) {
    const int64_t ho = (s->h + 2 * s->pad - s->k) / s->stride + 1,
                  wo = (s->w + 2 * s->pad - s->k) / s->stride + 1;
    for (int64_t p = 0; p < ho * wo; p++)
        for (int64_t o = 0; o < s->co; o++) {
            double sum = (double)w[o];
            for (int64_t tap = 0; tap < s->k * s->k; tap++) {
                const int64_t iy = p / wo * s->stride + tap / s->k - s->pad,
                              ix = p % wo * s->stride + tap % s->k - s->pad;
                if (iy < 0 || ix < 0 || iy >= s->h || ix >= s->w)
                    continue;
                for (int64_t i = 0; i < s->ci; i++)
                    sum += (double)x[(iy * s->w + ix) * s->ci + i] *
                           (double)w[(o * s->ci + i) * s->k * s->k + tap];
            }
            y[p * s->co + o] = sum;
        }
}

static void bands_are_the_convolution(void **state) {
    static const struct shape shapes[] = {
        {19, 17, 64, 64, 3, 1, 1}, {40, 35, 8, 64, 7, 2, 3}, {33, 32, 64, 64, 3, 1, 1}};
    struct dr_backend *be = open_cpu(2);
    (void)state;
    for (size_t i = 0; i < DR_COUNT(shapes); i++) {
        const struct shape *s = &shapes[i];
        const int64_t n = s->h * s->w * DR_MAX(s->ci, s->co);
        real *x = values(n, 3), *w = values(s->co * s->ci * s->k * s->k, 4);
        real *y = calloc((size_t)n, sizeof *y);
        double *want = calloc((size_t)n, sizeof *want), wrong = 0, all = 0;
        by_definition(s, want, x, w);
        run(be, s, false, DR_F32, y, x, w, 0, 1);
        for (int64_t j = 0; j < n; j++) {
            wrong += ((double)y[j] - want[j]) * ((double)y[j] - want[j]);
            all += want[j] * want[j];
        }
        if (!(wrong <= 1e-10 * all))
            fail_msg("%dx%d, %d to %d channels: NMSE %g", (int)s->h, (int)s->w, (int)s->ci,
                     (int)s->co, wrong / all);
        free(x), free(w), free(y), free(want);
    }
    dr_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_do_not_depend_on_the_batch),
        cmocka_unit_test(gradients_do_not_depend_on_the_threads),
        cmocka_unit_test(weights_are_arranged_once_per_version),
        cmocka_unit_test(bands_are_the_convolution),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
