// A row of a product must have the same bytes whatever the number of rows and of threads: this is
// what makes a generated image independent of the batch that it rides in. Forms NN and NT, fp32 and
// bf16, bias or not, over the widths of the networks. `gemm_rows all` takes every width (slow
// suite), `gemm_rows older` few, for the slow kernels of older CPUs.
#include "engine/cpu/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const int64_t widths[] = {16, 32, 49, 96, 256, 288, 384, 768, 1024};
static const int64_t few_widths[] = {32, 49, 96, 256, 1024};
static const int64_t older_widths[] = {49, 96, 256};
static const int64_t rows[] = {1, 2, 3, 8, 17, 49, 72, 160, 333, 785, 1152, 2304};
static bool all, older;

enum { MAX_ROWS = 4608 };

struct form {
    int64_t n, k;
    bool tb, bias;
    enum dr_dtype t;
};

struct data {
    struct dr_backend *be[3];        // one thread, two, three
    void *a[2], *b[2], *full, *part; // a, b: fp32, bf16
    real *bias;
};

static void product(struct data *d, int thread, const struct form *f, int64_t m, int64_t from,
                    void *c) {
    struct dr_err err = {0};
    d->be[thread]->enter(d->be[thread]);
    DR_OP(d->be[thread], gemm, .m = m, .n = f->n, .k = f->k,
          .a = (char *)d->a[f->t] + (size_t)(from * f->k) * dr_sizeof(f->t), .b = d->b[f->t],
          .c = c, .lda = f->k, .ldb = f->tb ? f->k : f->n, .ldc = f->n, .tb = f->tb, .abt = f->t,
          .ct = f->t, .bias = f->bias ? d->bias : NULL);
    if (d->be[thread]->sync(d->be[thread], &err))
        fail_msg("%s", err.msg);
}

// The number of (m, threads) whose rows differ from those of the largest product.
static int differences(struct data *d, const struct form *f, int64_t *first) {
    size_t row = (size_t)f->n * dr_sizeof(f->t);
    int bad = 0;
    int64_t top = all ? MAX_ROWS : 600;
    product(d, 0, f, top, 0, d->full);
    product(d, 1, f, top, 0, d->part);
    if (memcmp(d->full, d->part, row * (size_t)top))
        bad++, *first = top;
    for (size_t i = 0; i < DR_COUNT(rows) && rows[i] < top; i++) {
        int64_t from = (top - rows[i]) / 3; // anywhere in the large one
        for (int thread = 0; thread < 2; thread++) {
            product(d, thread, f, rows[i], from, d->part);
            if (memcmp((char *)d->full + row * (size_t)from, d->part, row * (size_t)rows[i]))
                bad++, *first = rows[i];
        }
    }
    return bad;
}

static void check_widths(struct data *d, const int64_t *w, size_t count) {
    int wrong = 0;
    for (size_t i = 0; i < count * count; i++)
        for (int form = 0; form < 8; form++) {
            struct form f = {.n = w[i % count],
                             .k = w[i / count],
                             .tb = form & 1,
                             .bias = form & 2,
                             .t = form & 4 ? DR_BF16 : DR_F32};
            int64_t m = 0;
            int bad = differences(d, &f, &m);
            if (bad)
                print_error("n %d k %d %s %s%s: %d differ, e.g. m %d\n", (int)f.n, (int)f.k,
                            f.tb ? "NT" : "NN", f.t ? "bf16" : "fp32", f.bias ? " bias" : "", bad,
                            (int)m);
            wrong += bad;
        }
    assert_int_equal(wrong, 0);
}

static int setup(void **state) {
    struct data *d = calloc(1, sizeof *d);
    struct dr_err err = {0};
    for (int i = 0; i < 3; i++)
        if (dr_backend_cpu(i + 1, &d->be[i], &err))
            fail_msg("%s", err.msg);
    int64_t na = MAX_ROWS * 1024, nb = 1024 * 1024;
    real *v = malloc((size_t)na * sizeof *v);
    for (int64_t i = 0; i < na; i++)
        v[i] = (real)(rand() % 4001 - 2000) / 1999;
    for (int t = 0; t < 2; t++) {
        d->a[t] = malloc((size_t)na * 4);
        DR_OP(d->be[0], cast, .dst = d->a[t], .src = v, .dt = t, .st = DR_F32, .n = na);
        d->b[t] = malloc((size_t)nb * 4);
        DR_OP(d->be[0], cast, .dst = d->b[t], .src = v + 77, .dt = t, .st = DR_F32, .n = nb);
    }
    d->bias = v;
    d->full = malloc((size_t)na * 4);
    d->part = malloc((size_t)na * 4);
    *state = d;
    return 0;
}

static int teardown(void **state) {
    struct data *d = *state;
    for (int i = 0; i < 3; i++)
        dr_backend_free(d->be[i]);
    for (int i = 0; i < 2; i++) {
        free(d->a[i]);
        free(d->b[i]);
    }
    free(d->full);
    free(d->part);
    free(d->bias);
    free(d);
    return 0;
}

static void rows_do_not_depend_on_the_batch(void **state) {
    if (all)
        check_widths(*state, widths, DR_COUNT(widths));
    else if (older)
        check_widths(*state, older_widths, DR_COUNT(older_widths));
    else
        check_widths(*state, few_widths, DR_COUNT(few_widths));
}

static void gradients_do_not_depend_on_the_threads(void **state) {
    static const int64_t shapes[][2] = {{96, 96},   {288, 96},  {96, 49},  {49, 96},
                                        {256, 256}, {768, 256}, {32, 288}, {9, 32}};
    static const int64_t tokens[] = {16, 160, 1152, 1153, 2304, 2560, 2880, 4608};
    struct data *d = *state;
    for (size_t i = 0; i < DR_COUNT(shapes) * DR_COUNT(tokens) * 2; i++) {
        const int64_t *s = shapes[i / 2 % DR_COUNT(shapes)], k = tokens[i / 2 / DR_COUNT(shapes)];
        enum dr_dtype t = i % 2;
        size_t bytes = (size_t)(s[0] * s[1]) * sizeof(real);
        if (older && (s[0] * s[1] > 1 << 14 || k > 2560))
            continue;
        for (int thread = 0; thread < 3; thread++) {
            real *c = thread ? d->part : d->full;
            memset(c, 0, bytes);
            d->be[thread]->enter(d->be[thread]);
            DR_OP(d->be[thread], gemm, .m = s[0], .n = s[1], .k = k, .a = d->a[t], .b = d->a[t],
                  .c = c, .lda = s[0], .ldb = s[1], .ldc = s[1], .ta = true, .acc = true, .abt = t);
            if (thread && memcmp(d->full, c, bytes))
                fail_msg("m %d n %d k %d: %d threads give other bytes than one", (int)s[0],
                         (int)s[1], (int)k, thread + 1);
        }
    }
}

int main(int argc, char **argv) {
    all = argc > 1 && !strcmp(argv[1], "all");
    older = argc > 1 && !strcmp(argv[1], "older");
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_do_not_depend_on_the_batch),
                                       cmocka_unit_test(gradients_do_not_depend_on_the_threads)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
