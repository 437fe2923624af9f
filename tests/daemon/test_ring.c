// The metrics ring: order, overflow, and two threads hammering it. What a flush of the pump behind
// it brings to event files.
#include "tests/daemon/helper.h"

#include "daemon/base/ring.h"
#include "daemon/base/util.h"

#include <glob.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

static void test_overflow(void **state) {
    (void)state;
    struct dd_ring *r = dd_ring_new();
    struct dd_row row = {.job = 1}, out[100];
    for (int64_t i = 0; i < DD_RING_ROWS + 10; i++) {
        row.step = i;
        assert_int_equal(dd_ring_push(r, &row), i < DD_RING_ROWS);
    }
    assert_int_equal(dd_ring_dropped(r), 10);
    int64_t want = 0;
    for (int n; (n = dd_ring_pop(r, out, 100)) > 0;)
        for (int i = 0; i < n; i++)
            assert_int_equal(out[i].step, want++);
    assert_int_equal(want, DD_RING_ROWS);
    assert_true(dd_ring_push(r, &row));
    dd_ring_free(r);
}

enum { ROWS = 200000 };
static void *produce(void *arg) {
    struct dd_row row = {.job = 1};
    for (int64_t i = 0; i < ROWS; i++) {
        row.step = i;
        for (int k = 0; k < DR_MAX_METRICS; k++)
            row.v[k] = (double)(i + k);
        while (!dd_ring_push(arg, &row))
            sched_yield();
    }
    return NULL;
}

static void test_two_threads(void **state) {
    (void)state;
    struct dd_ring *r = dd_ring_new();
    struct dd_row out[64];
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, produce, r), 0);
    for (int64_t want = 0; want < ROWS;) {
        int n = dd_ring_pop(r, out, 64);
        for (int i = 0; i < n; i++, want++) {
            assert_int_equal(out[i].step, want);
            for (int k = 0; k < DR_MAX_METRICS; k++)
                assert_true(out[i].v[k] == (double)(want + k));
        }
        if (!n)
            sched_yield();
    }
    pthread_join(t, NULL);
    dd_ring_free(r);
}

// The last rows of a job: no later one brings them to its event file.
static void test_flushed_to_event_files(void **state) {
    (void)state;
    struct world w;
    struct dd_tensorboard *t;
    struct dr_err err = {0};
    glob_t found;
    char *board, *bytes;
    size_t n;
    world_open(&w, NULL);
    board = dd_printf("%s/board", w.dir);
    assert_int_equal(dd_tensorboard_open(board, &t, &err), 0);
    dd_pump_tensorboard(w.pump, t);
    const struct dd_row row = {
        .job = 7, .step = 3, .table = test_metric(w.store, "test_accuracy"), .mask = 1};
    assert_true(dd_ring_push(dd_pump_ring(w.pump), &row));
    assert_int_equal(dd_pump_flush(w.pump, &err), 0);
    char *pattern = dd_printf("%s/job-7/events.*", board);
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    assert_int_equal(dd_read_file(found.gl_pathv[0], 1 << 20, &bytes, &n, &err), 0);
    assert_non_null(memmem(bytes, n, "test_accuracy", strlen("test_accuracy")));
    globfree(&found);
    free(bytes);
    free(pattern);
    free(board);
    world_close(&w);
    test_rmdir(w.dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_overflow),
                                       cmocka_unit_test(test_two_threads),
                                       cmocka_unit_test(test_flushed_to_event_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
