// Kinds of jobs: a new one is a file and a row, and the queue serves it like any other. It runs,
// reports, stops and goes on where it was, over a restart of the daemon too.
#include "tests/daemon/helper.h"
#include "tests/daemon/kind_count.h"

#include "engine/config/field.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct world w;
static struct dr_err err;
static const struct dd_job_kind reserved = {.name = "later", .about = "Not yet."};
static const struct dd_job_kind *const table[] = {&dd_kind_train, &kind_count, &reserved, NULL};

static int setup(void **state) {
    (void)state;
    world_open_kinds(&w, NULL, table);
    return 0;
}

static int submit(const char *kind, int64_t steps, int64_t *id) {
    struct dr_config c;
    bool replayed;
    test_tiny(&c, steps);
    struct dd_job_new in = {.cfg = &c, .recipe = "tiny", .kind = kind};
    return dd_jobs_create(w.jobs, &in, id, &replayed, &err);
}

static void test_life(void **state) {
    (void)state;
    enum { STEPS = 200 };
    double v[STEPS];
    int64_t id;
    char dir[256];
    assert_int_equal(submit("count", STEPS, &id), 0);
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    world_wait_step(&w, id, 5);
    assert_int_equal(dd_jobs_action(w.jobs, id, DD_JOB_STOP, &err), 0);
    world_wait(&w, id, "stopped");
    assert_int_equal(dd_jobs_action(w.jobs, id, DD_JOB_RESUME, &err), 0);
    char sql[100];
    snprintf(sql, sizeof sql, "SELECT attempts=2 AND step>0 FROM jobs WHERE id=%lld",
             (long long)id);
    for (int i = 0; i < 9000 && world_count(&w, sql) != 1; i++)
        usleep(1000);
    snprintf(dir, sizeof dir, "%s", w.dir);
    world_close(&w); // in the middle
    world_open_kinds(&w, dir, table);
    char now[16];
    world_state(&w, id, now);
    assert_string_equal(now, "queued");
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    world_wait(&w, id, "completed");
    assert_int_equal(world_values(w.store, id, "count", v, STEPS), STEPS);
    for (int i = 0; i < STEPS; i++)
        assert_true(v[i] == i + 1);
    assert_int_equal(world_count(&w, "SELECT attempts FROM jobs"), 3);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM jobs WHERE kind='count'"), 1);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM events WHERE type='state'"), 9);
}

// A queue of two kinds: each job is run by its own.
static void test_beside_train(void **state) {
    (void)state;
    int64_t train, count;
    assert_int_equal(submit("train", 20, &train), 0);
    assert_int_equal(submit("count", 3, &count), 0);
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    world_wait(&w, train, "completed");
    world_wait(&w, count, "completed");
    assert_int_equal(world_count(&w, "SELECT count(*) FROM checkpoints WHERE job=1"), 1);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM checkpoints WHERE job=2"), 0);
    assert_int_equal(world_count(&w, "SELECT step FROM jobs WHERE id=2"), 3);
}

static void test_names(void **state) {
    (void)state;
    int64_t id;
    assert_int_equal(submit("cuont", 3, &id), DR_EINVAL);
    assert_string_equal(err.field, "kind");
    assert_non_null(strstr(err.msg, "did you mean `count`?"));
    assert_int_equal(submit("later", 3, &id), DR_EUNSUPPORTED);
    assert_string_equal(err.field, "kind");
    assert_int_equal(world_count(&w, "SELECT count(*) FROM jobs"), 0);
    // This build's own: unique names, and a section for each kind that runs.
    for (const struct dd_job_kind *const *k = dd_job_kinds; *k; k++) {
        const struct dd_job_kind *found = NULL;
        int n, keys = 0;
        const struct dr_config_field *f = dr_config_fields(&n);
        assert_int_equal(dd_job_kind_find(NULL, (*k)->name, &found, &err),
                         (*k)->run ? 0 : DR_EUNSUPPORTED);
        assert_ptr_equal(found, (*k)->run ? *k : NULL);
        for (int i = 0; i < n && (*k)->run; i++)
            keys += !strncmp(f[i].path, (*k)->section, strlen((*k)->section));
        assert_true(keys > 0 || !(*k)->run);
    }
}

// A row of another build's kind fails with a sentence; the queue goes on.
static void test_row_without_kind(void **state) {
    (void)state;
    char dir[256];
    int64_t id, next;
    assert_int_equal(submit("count", 3, &id), 0);
    assert_int_equal(submit("train", 5, &next), 0);
    snprintf(dir, sizeof dir, "%s", w.dir);
    world_close(&w);
    world_open_kinds(&w, dir, NULL);
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    world_wait(&w, id, "failed");
    world_wait(&w, next, "completed");
    assert_int_equal(
        world_count(&w, "SELECT count(*) FROM jobs WHERE error LIKE '%there is no kind count%'"),
        1);
}

int main(void) {
#define T(f) WORLD_TEST(f, setup)
    const struct CMUnitTest tests[] = {T(test_life), T(test_beside_train), T(test_names),
                                       T(test_row_without_kind)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
