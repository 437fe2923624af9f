// Evaluations beside training, where something comes in between: the database is held by another
// process just when a run begins or has been measured, or a run becomes due while the job ends.
#include "tests/daemon/helper.h"

#include "daemon/base/util.h"
#include "daemon/evals/evals.h"
#include "daemon/store/checkpoints.h"
#include "daemon/store/refs.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct world w;
static struct dr_err err;

static int teardown(void **state) {
    (void)state;
    world_close(&w);
    test_rmdir(w.dir);
    return 0;
}

static void expect(const char *sql, int64_t want) {
    if (world_count(&w, sql) != want)
        fail_msg("%s: %lld, expected %lld", sql, (long long)world_count(&w, sql), (long long)want);
}

// --- a database that is held ---

static _Atomic int faults[2], hits[2]; // of a run's begin, of its end

static void fault(sqlite3_context *c, int n, sqlite3_value **v) {
    const int which = sqlite3_value_int(v[0]);
    (void)n;
    atomic_fetch_add(&hits[which], 1);
    if (atomic_fetch_sub(&faults[which], 1) > 0)
        sqlite3_result_error_code(c, SQLITE_BUSY);
}

// As if another process held the database whenever a run is queued, or is done.
static int hold(sqlite3 *db, void *arg, struct dr_err *e) {
    (void)arg;
    if (sqlite3_create_function(db, "fault", 1, SQLITE_UTF8, NULL, fault, NULL, NULL) ||
        sqlite3_exec(db,
                     "CREATE TEMP TRIGGER begins BEFORE INSERT ON evals BEGIN SELECT fault(0); END;"
                     "CREATE TEMP TRIGGER ends BEFORE UPDATE OF state ON evals WHEN"
                     " NEW.state='done' BEGIN SELECT fault(1); END",
                     NULL, NULL, NULL))
        return dd_sql_fail(db, e, "triggers");
    return 0;
}

static void find_recipes(void) {
    free(w.opt.config_dir);
    w.opt.config_dir = dd_printf("%s/recipes", w.dir);
}

static int with_judge(void **state) {
    static const char judge[] =
        "{\"kind\": \"encoder\", \"encoder\": {\"objective\": \"classify\", \"width\": 4,"
        " \"blocks\": [1, 1], \"groups\": 2, \"batch\": 16}, \"train\": {\"steps\": 20},"
        " \"optim\": {\"warmup\": 5}, \"checkpoint\": {\"every\": 0, \"every_seconds\": 0},"
        " \"metrics\": {\"test_every\": 0}}";
    char path[600];
    (void)state;
    world_open(&w, NULL);
    find_recipes();
    snprintf(path, sizeof path, "%s/judge.json", w.opt.config_dir);
    if (dd_mkdir_for(path, &err) || dd_write_file(path, judge, sizeof judge - 1, &err))
        fail_msg("%s", err.msg);
    return 0;
}

// A reference that nobody has used for long, larger than all of them may be together; it has holes
// for bytes.
static void add_old_reference(char path[DD_PATH_MAX]) {
    const struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    if (dd_refs_path(w.dir, "old", path, &err) || dd_write_file(path, "x", 1, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(truncate(path, DD_REFS_BYTES + 1), 0);
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void what_was_measured_is_kept(void **state) {
    (void)state;
    struct dr_config c;
    char dir[256], old[DD_PATH_MAX];
    add_old_reference(old);
    test_tiny(&c, 20);
    snprintf(c.eval.judge, sizeof c.eval.judge, "judge");
    c.eval.at_end = true;
    c.eval.n = 100;
    atomic_store(&faults[0], 1);
    atomic_store(&faults[1], 1000);
    assert_int_equal(dd_store_do(w.store, hold, NULL, &err), 0);
    const int64_t id = world_submit(&w, &c, 0);
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    world_wait(&w, id, "completed");
    for (int i = 0; atomic_load(&hits[1]) < 2; i++) { // it is tried again
        if (i == 9000 || world_count(&w, "SELECT count(*) FROM evals WHERE state='failed'"))
            fail_msg("%d tries to begin, %d to end", atomic_load(&hits[0]), atomic_load(&hits[1]));
        usleep(10000);
    }
    assert_int_equal(atomic_load(&hits[0]), 2);
    expect("SELECT count(*) FROM events WHERE type='alert'", 0);
    snprintf(dir, sizeof dir, "%s", w.dir);
    world_close(&w); // while it waits
    world_open(&w, dir);
    find_recipes();
    expect("SELECT count(*) FROM evals WHERE state='queued'", 1);
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    world_wait(&w, 3, "completed");
    expect("SELECT count(*) FROM evals WHERE state='done'", 1);
    expect("SELECT count(*) > 3 FROM eval_values", 1);
    assert_int_equal(access(old, F_OK), -1); // the new one has taken its place
}

// --- one that is due at the last moment ---

static void checkpoint(int64_t step) {
    struct dd_ckpt_row row = {.job = 1, .step = step, .config = "{}", .config_borrowed = true};
    snprintf(row.path, sizeof row.path, "%s/checkpoints/1/%d", w.dir, (int)step);
    if (dd_ckpt_record(w.store, &row, &err))
        fail_msg("%s", err.msg);
}
// As training asks for it after a checkpoint.
static void is_due(int64_t checkpoint) {
    struct dr_config c;
    struct dd_eval_due d = {.job = 1, .checkpoint = checkpoint, .name = "x", .config = "{}"};
    struct dr_err why = {0};
    test_tiny(&c, 5);
    d.cfg = &c;
    if (dd_eval_due(w.store, &d, &why))
        fail_msg("%s", why.msg);
}

// Stands for the kind: takes the runs that wait. The first time, another becomes due after that.
static int run_eval(struct dd_job *job, enum dd_outcome *outcome, struct dr_err *e) {
    struct dd_eval_run r;
    int rc;
    while (!(rc = dd_eval_next(job->env->store, job->id, &r, e)) && r.id)
        if ((rc = dd_eval_fail(job->env->store, r.id, "taken", e)))
            return rc;
    if (world_count(&w, "SELECT attempts FROM jobs WHERE kind='eval'") == 1)
        is_due(2);
    *outcome = DD_RUN_COMPLETED;
    return rc;
}
static const struct dd_job_kind eval = {.name = "eval", .about = "Stands in.", .run = run_eval};
static const struct dd_job_kind *const table[] = {&dd_kind_train, &eval, NULL};

static int with_stand_in(void **state) {
    (void)state;
    world_open_kinds(&w, NULL, table);
    return 0;
}

static void one_due_at_the_end_is_taken(void **state) {
    (void)state;
    struct dr_config c;
    test_tiny(&c, 5);
    const int64_t id = world_submit(&w, &c, 0);
    assert_int_equal(dd_jobs_action(w.jobs, id, DD_JOB_PAUSE, &err), 0);
    checkpoint(1);
    checkpoint(2);
    is_due(1);
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    for (int i = 0; world_count(&w, "SELECT count(*) FROM evals WHERE error='taken'") < 2; i++) {
        if (i == 1000)
            fail_msg("the second one still waits");
        usleep(10000);
    }
    world_wait(&w, 2, "completed");
    expect("SELECT attempts FROM jobs WHERE id=2", 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_was_measured_is_kept, with_judge, teardown),
        cmocka_unit_test_setup_teardown(one_due_at_the_end_is_taken, with_stand_in, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
