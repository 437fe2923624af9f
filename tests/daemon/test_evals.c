// What evaluations leave: curves of the rows that were asked for, references of reals within their
// bound, and how often work in progress is saved.
#include "tests/daemon/helper.h"

#include "daemon/evals/evals.h"
#include "daemon/jobs/eval_priv.h"
#include "daemon/store/backup.h"
#include "daemon/store/checkpoints.h"
#include "daemon/store/disk.h"
#include "daemon/store/refs.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct world w;
static struct dr_err err;

static int64_t a_job(void) {
    struct dr_config c;
    test_tiny(&c, 10);
    return world_submit(&w, &c, 0); // no job thread runs here
}

static int run_sql(sqlite3 *db, void *sql, struct dr_err *e) {
    return dd_sql_run(db, e, sql, "");
}

static void sql(const char *text) {
    if (dd_store_do(w.store, run_sql, (void *)(uintptr_t)text, &err))
        fail_msg("%s: %s", text, err.msg);
}

// --- curves ---

static json_t *curve_of(int64_t eval_job, const char *metric) {
    const struct dd_eval_query q = {.eval_job = eval_job, .alpha = NAN};
    json_t *o = dd_eval_curve(w.store, &q, metric, false, &err);
    if (!o)
        fail_msg("%s", err.msg);
    return o;
}

static void expect_curve(int64_t eval_job, const char *metric, const char *want, size_t series) {
    json_t *o = curve_of(eval_job, metric);
    assert_string_equal(json_string_value(json_object_get(o, "metric")), want);
    assert_int_equal(json_array_size(json_object_get(o, "series")), series);
    json_decref(o);
}

// A FID anywhere in the database is nothing to the rows that have none.
static void the_curve_is_of_what_these_rows_have(void **state) {
    (void)state;
    assert_true(a_job() == 1 && a_job() == 2);
    sql("INSERT INTO evals(id,eval_job,kind,source,step,state,created_us) VALUES"
        "(1,1,'checkpoint','checkpoint:1',5,'done',1),(2,2,'checkpoint','checkpoint:2',5,'done',1),"
        "(3,2,'checkpoint','checkpoint:3',9,'queued',1)");
    sql("INSERT INTO eval_values(eval,name,value) VALUES(1,'fid',7),(1,'fd',3),(2,'fd',4),"
        "(2,'fid',NULL),(3,'fid',1)");
    expect_curve(1, NULL, "fid", 1);
    expect_curve(2, NULL, "fd", 1); // its FID is no number, or of a row that is not done
    expect_curve(0, NULL, "fid", 1);
    expect_curve(1, "fd", "fd", 1);
    expect_curve(2, "fid", "fid", 0);
}

// --- references ---

// One that was last used at this time.
static void add_ref(const char *key, size_t bytes, time_t used) {
    char path[DD_PATH_MAX];
    if (dd_refs_path(w.dir, key, path, &err))
        fail_msg("%s", err.msg);
    char *zeros = dd_xcalloc(1, bytes);
    const struct timespec times[2] = {{.tv_sec = used}, {.tv_sec = used}};
    assert_int_equal(dd_write_file(path, zeros, bytes, &err), 0);
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    free(zeros);
}

static bool has_ref(const char *key) {
    char path[DD_PATH_MAX];
    assert_int_equal(dd_refs_path(w.dir, key, path, &err), 0);
    return !access(path, F_OK);
}

static void old_references_go(void **state) {
    (void)state;
    char path[DD_PATH_MAX];
    dd_refs_trim(w.dir, 0); // there is no folder yet
    assert_int_equal(dd_refs_free(w.dir, 1), 0);
    add_ref("b", 100, 2000);
    add_ref("a", 100, 3000);
    add_ref("c", 100, 1000);
    dd_refs_trim(w.dir, 300);
    assert_true(has_ref("a") && has_ref("b") && has_ref("c"));
    assert_int_equal(dd_refs_path(w.dir, "c", path, &err), 0);
    dd_refs_touch(path);
    dd_refs_trim(w.dir, 299);
    assert_true(has_ref("a") && !has_ref("b") && has_ref("c"));
    add_ref("d", 1000, 4000);
    dd_refs_touch(path);
    dd_refs_trim(w.dir, 50); // the newest stays, larger than the bound as it is
    assert_true(!has_ref("a") && has_ref("c") && !has_ref("d"));
    add_ref("e", 1000, 4000);
    assert_int_equal(dd_refs_free(w.dir, 1), 1000); // the oldest is enough
    assert_int_equal(dd_refs_free(w.dir, 1000), 100);
    assert_false(has_ref("c"));
}

static void add_ckpt(int64_t step) {
    struct dd_ckpt_row r = {.job = 1, .step = step, .config = "{}", .config_borrowed = true};
    char *zeros = dd_xcalloc(1, 100000);
    r.bytes = 100000;
    snprintf(r.kind, sizeof r.kind, "train");
    snprintf(r.path, sizeof r.path, "%s/checkpoints/1/%d", w.dir, (int)step);
    if (dd_mkdir_for(r.path, &err) || dd_write_file(r.path, zeros, 100000, &err) ||
        dd_ckpt_record(w.store, &r, &err))
        fail_msg("%s", err.msg);
    free(zeros);
}

static int64_t look(int64_t budget) {
    struct dd_disk_stats now;
    struct dd_disk *d = dd_disk_new(w.store, w.events, budget);
    dd_disk_look(d);
    dd_disk_stats(d, &now);
    dd_disk_stop(d);
    return now.bytes;
}

// A reference can be made again, a checkpoint cannot.
static void references_go_before_checkpoints(void **state) {
    (void)state;
    static const char kept[] = "SELECT count(*) FROM checkpoints WHERE state='ok'";
    a_job();
    sql("UPDATE jobs SET state='completed'");
    for (int i = 1; i <= 4; i++)
        add_ckpt(i);
    add_ref("old", 2 << 20, 1000);
    add_ref("new", 2 << 20, 2000);
    const int64_t all = look(0);
    look(all - (1 << 20));
    assert_true(!has_ref("old") && has_ref("new"));
    look(all - (3 << 20));
    assert_false(has_ref("new"));
    assert_int_equal(world_count(&w, kept), 4);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM events WHERE data LIKE '%removed; %'"
                                     " OR data LIKE '%may be removed%'"),
                     0);
    look(1); // now the others
    assert_int_equal(world_count(&w, kept), 1);
}

static void backups_leave_references_out(void **state) {
    (void)state;
    json_t *made = NULL;
    char path[DD_PATH_MAX];
    add_ref("x", 10, 1000);
    assert_int_equal(dd_path(path, &err, "%s/evals/5/grid.png", w.dir), 0);
    assert_int_equal(dd_mkdir_for(path, &err), 0);
    assert_int_equal(dd_write_file(path, "x", 1, &err), 0);
    if (dd_backup_make(w.store, w.events, &made, &err))
        fail_msg("%s", err.msg);
    char *files = json_dumps(json_object_get(made, "files"), 0);
    assert_non_null(strstr(files, "evals/5/grid.png"));
    assert_null(strstr(files, "evals/refs"));
    free(files);
    json_decref(made);
}

// --- saves ---

static void saves_take_little(void **state) {
    (void)state;
    static const struct {
        struct dd_eval_saved last;
        double now, progress;
        bool due;
    } t[] = {
        {{0, 0, 0}, 19, 0.5, false},    // too soon
        {{0, 0, 0}, 21, 0.5, true},     //
        {{0, 0, 0.5}, 21, 0.52, false}, // little is lost
        {{0, 0, 0.5}, 21, 0.56, true},  //
        {{100, 0.2, 0}, 121, 1, true},  // the last one was quick
        {{100, 3, 0}, 159, 1, false},   // it took three seconds, which are a twentieth of a minute
        {{100, 3, 0}, 161, 1, true},    //
        {{100, 3, 0.5}, 999, 0.5, false},
    };
    for (size_t i = 0; i < DR_COUNT(t); i++)
        if (dd_eval_save_due(&t[i].last, t[i].now, t[i].progress) != t[i].due)
            fail_msg("row %zu", i);
}

int main(void) {
#define T(f) WORLD_TEST(f, world_setup)
    const struct CMUnitTest tests[] = {T(the_curve_is_of_what_these_rows_have),
                                       T(old_references_go), T(references_go_before_checkpoints),
                                       T(backups_leave_references_out),
                                       cmocka_unit_test(saves_take_little)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
