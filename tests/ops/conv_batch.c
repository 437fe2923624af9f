// A sample's convolution must not depend on the batch it is in, nor on the threads: forward and
// backward-data of each shape for 33 samples, against the same samples alone and by fives.
#include "engine/cpu/backend.h"

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
        {6, 5, 130, 300, 3, 1, 1}, {12, 11, 30, 20, 3, 1, 2, 2}, {9, 9, 64, 8, 3, 1, 1}};
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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(samples_do_not_depend_on_the_batch)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
