// Statistics beside the judge: what the second thread adds up is, bit for bit, what would be added
// one after the other, and its errors reach whoever waits.
#include "engine/eval/eval_priv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { WIDTH = 24, LOGITS = 3, CLASSES = 3, IMAGES = 500, CHUNK = 7 };

static real feature[CHUNK * WIDTH], logit[CHUNK * LOGITS];
static struct eval_judge judge = {
    .d = WIDTH, .classes = LOGITS, .feature = feature, .logit = logit};
static struct dr_eval_config cfg;

static void must(int rc, const struct dr_err *err) {
    if (rc)
        fail_msg("%s", err->msg);
}

static int settings(void **state) {
    (void)state;
    dr_eval_defaults(&cfg);
    return 0;
}

static struct eval_tally *open_tally(struct dr_moments *against) {
    const struct eval_plan plan = {
        .n = IMAGES, .cap = IMAGES, .moments = true, .logits = true, .parts = true};
    struct eval_tally *t;
    struct dr_err err = {0};
    must(eval_tally_create(&cfg, &judge, CLASSES, &plan, against, &t, &err), &err);
    return t;
}

static struct dr_moments *some_moments(int64_t width) {
    struct dr_moments *m;
    struct dr_err err = {0};
    real row[WIDTH];
    must(dr_moments_create(width, &m, &err), &err);
    for (int i = 0; i < 100; i++) {
        for (int64_t k = 0; k < width; k++)
            row[k] = (real)((i * 31 + k * k * 17) % 101) / 101;
        dr_moments_add(m, row, 1);
    }
    return m;
}

// What the judge says of images first, ...: other values each time, in the same memory.
static void say(int64_t first, int64_t n, int32_t *cls) {
    for (int64_t i = 0; i < n; i++) {
        cls[i] = (int32_t)((first + i) % CLASSES);
        for (int64_t k = 0; k < WIDTH; k++)
            feature[i * WIDTH + k] = (real)(((first + i) * 37 + k * k * 13) % 211) / 211;
        for (int64_t k = 0; k < LOGITS; k++)
            logit[i * LOGITS + k] = (real)(((first + i) * 7 + k * 5) % 11) / 4;
    }
}

static void the_same_bits_as_in_turn(void **state) {
    (void)state;
    struct dr_err err = {0};
    struct dr_moments *against = some_moments(WIDTH);
    struct eval_tally *t = open_tally(against), *want = open_tally(against);
    struct eval_beside *b;
    int32_t cls[CHUNK];
    must(eval_beside_create(true, &b, &err), &err);
    for (int64_t at = 0; at < IMAGES; at += CHUNK) {
        const int64_t n = DR_MIN((int64_t)CHUNK, IMAGES - at);
        say(at, n, cls);
        must(eval_beside_add(b, t, &judge, cls, n, &err), &err);
    }
    must(eval_beside_wait(b, &err), &err);
    for (int64_t at = 0; at < IMAGES; at += CHUNK) {
        const int64_t n = DR_MIN((int64_t)CHUNK, IMAGES - at);
        say(at, n, cls);
        must(eval_tally_add(want, feature, logit, cls, n, &err), &err);
    }
    assert_int_equal(t->n, IMAGES);
    assert_memory_equal(t->rows, want->rows, sizeof(real) * IMAGES * WIDTH);
    assert_memory_equal(t->cls, want->cls, sizeof(int32_t) * IMAGES);
    assert_memory_equal(t->confusion, want->confusion, sizeof(int64_t) * CLASSES * LOGITS);
    assert_memory_equal(t->fd, want->fd, sizeof t->fd);
    assert_true(t->fd[0] > 0);
    eval_beside_free(b);
    eval_tally_free(t);
    eval_tally_free(want);
    dr_moments_free(against);
}

// The first part cannot be compared; what comes after it is dropped, and every caller hears of it.
static void an_error_reaches_who_waits(void **state) {
    (void)state;
    struct dr_err err = {0};
    struct dr_moments *against = some_moments(WIDTH / 2);
    struct eval_tally *t = open_tally(against);
    struct eval_beside *b;
    int32_t cls[CHUNK];
    int64_t at = 0;
    int rc = 0;
    must(eval_beside_create(true, &b, &err), &err);
    for (; at < IMAGES && !rc; at += CHUNK) {
        say(at, CHUNK, cls);
        rc = eval_beside_add(b, t, &judge, cls, CHUNK, &err);
    }
    assert_int_equal(rc, DR_EINVAL);
    assert_true(at < IMAGES);
    assert_non_null(strstr(err.msg, "width"));
    assert_int_equal(eval_beside_wait(b, &err), DR_EINVAL);
    assert_int_equal(eval_beside_add(b, t, &judge, cls, CHUNK, &err), DR_EINVAL);
    eval_beside_free(b);
    eval_tally_free(t);
    dr_moments_free(against);
}

// An evaluation that is given up while there is work.
static void freed_while_at_work(void **state) {
    (void)state;
    struct dr_err err = {0};
    for (int i = 0; i < 20; i++) {
        struct eval_tally *t = open_tally(NULL);
        struct eval_beside *b;
        int32_t cls[CHUNK];
        must(eval_beside_create(true, &b, &err), &err);
        say(0, CHUNK, cls);
        for (int k = 0; k < i % 3; k++)
            must(eval_beside_add(b, t, &judge, cls, CHUNK, &err), &err);
        eval_beside_free(b);
        assert_int_equal(t->n, i % 3 * CHUNK);
        eval_tally_free(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_bits_as_in_turn),
        cmocka_unit_test(an_error_reaches_who_waits),
        cmocka_unit_test(freed_while_at_work),
    };
    return cmocka_run_group_tests(tests, settings, NULL);
}
