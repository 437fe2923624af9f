// The store: opening, versions, isolation of closures, roll-ups against a plain computation,
// cutting back, retention, curves, backup, events.
#include "tests/daemon/helper.h"

#include "daemon/base/util.h"
#include "daemon/store/checkpoints.h"
#include "daemon/store/disk.h"
#include "daemon/store/reserve.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct world w;

static int64_t a_job(void) {
    struct dr_config c;
    test_tiny(&c, 10);
    return world_submit(&w, &c, 0); // the trainer thread is not running here
}

// A reproducible, irregular value; every 37th is not finite.
static double value(int64_t step) {
    return step % 37 == 0 ? NAN : sin((double)step * 0.7) * (double)(step % 11) - 1;
}

static void insert(int64_t job, int64_t from, int64_t to, int64_t keep) {
    struct dr_err err = {0};
    while (from <= to) {
        int n = (int)DR_MIN(to - from + 1, (int64_t)333); // across bucket borders
        struct dd_metric_batch *b = dd_xcalloc(1, sizeof *b + (size_t)n * sizeof *b->row);
        b->n = n;
        b->keep_steps = keep;
        for (int i = 0; i < n; i++, from++)
            b->row[i] = (struct dd_row){.job = job,
                                        .step = from,
                                        .time_us = from * 10,
                                        .table = test_metric(w.store, "loss"),
                                        .mask = 1,
                                        .v[0] = value(from)};
        if (dd_store_do(w.store, dd_metrics_insert, b, &err))
            fail_msg("%s", err.msg);
        free(b);
    }
}

static void check_bucket(const struct dd_bucket *b, int64_t last_of_all) {
    double min = INFINITY, max = -INFINITY, sum = 0, last = NAN;
    int64_t n = 0, bad = 0;
    assert_true(b->step_last <= last_of_all);
    for (int64_t s = b->step ? b->step : 1; s <= b->step_last; s++) {
        double v = value(s);
        if (!isfinite(v)) {
            bad++;
            continue;
        }
        min = fmin(min, v);
        max = fmax(max, v);
        sum += v;
        last = v;
        n++;
    }
    assert_int_equal(b->n, n);
    assert_int_equal(b->nonfinite, bad);
    if (!n)
        return;
    assert_true(b->min == min && b->max == max && b->last == last);
    assert_true(fabs(b->mean - sum / (double)n) < 1e-9);
}

// Reads a curve, checks every bucket, and that the buckets cover 1..last without gap.
static int check_curve(int64_t job, int64_t last, int max_points) {
    struct dr_err err = {0};
    struct dd_curve *c;
    struct dd_bucket b;
    const char *loss = "loss";
    int n = 0, rc;
    int64_t next = 0;
    assert_int_equal(dd_curve_open(w.store, job, &loss, 1, 0, INT64_MAX, max_points, &c, &err), 0);
    while ((rc = dd_curve_next(c, &b)) == 1) {
        check_bucket(&b, last);
        assert_true(b.step == next || (n == 0 && b.step <= 1));
        next = b.step_last + 1;
        n++;
    }
    assert_int_equal(rc, 0);
    assert_int_equal(next, last + 1);
    dd_curve_close(c);
    if (max_points)
        assert_true(n <= max_points);
    return n;
}

static void test_rollups(void **state) {
    (void)state;
    int64_t job = a_job();
    insert(job, 1, 20000, 0);
    static const int points[] = {0, 1, 2, 5, 30, 40, 311, 313, 2000, 19999, 30000};
    for (size_t i = 0; i < DR_COUNT(points); i++)
        check_curve(job, 20000, points[i]);
    assert_true(check_curve(job, 20000, 2000) > 1000);
}

static void test_truncate(void **state) {
    (void)state;
    int64_t job = a_job();
    static const int64_t cuts[] = {9000, 8191, 4096, 512, 511, 77, 1, 0};
    insert(job, 1, 10000, 0);
    for (size_t i = 0; i < DR_COUNT(cuts); i++) {
        struct dr_err err = {0};
        struct dd_metric_cut cut = {job, cuts[i]};
        assert_int_equal(dd_store_do(w.store, dd_metrics_truncate, &cut, &err), 0);
        if (cuts[i])
            check_curve(job, cuts[i], 9);
        insert(job, cuts[i] + 1, 10000, 0);
        check_curve(job, 10000, 9);
        check_curve(job, 10000, 100);
    }
}

static void test_retention(void **state) {
    (void)state;
    int64_t job = a_job();
    insert(job, 1, 30000, 8192);
    assert_int_equal(world_count(&w, "SELECT min(step) FROM metrics"),
                     (30000 - 8192) / 4096 * 4096);
    check_curve(job, 30000, 100); // roll-ups reach back to the start
    check_curve(job, 30000, 2000);
}

static int fails(sqlite3 *db, void *arg, struct dr_err *err) {
    (void)arg;
    dd_sql_run(db, err, "INSERT INTO meta VALUES('bad','1')", "");
    return dr_fail(err, DR_EINVAL, "no");
}
static int works(sqlite3 *db, void *arg, struct dr_err *err) {
    return dd_sql_run(db, err, "INSERT INTO meta VALUES(?,'1')", "t", (const char *)arg);
}

static void test_isolation(void **state) {
    (void)state;
    struct dr_err err = {0};
    dd_store_post(w.store, works, "one", NULL);
    assert_int_equal(dd_store_do(w.store, fails, NULL, &err), DR_EINVAL);
    assert_string_equal(err.msg, "no");
    assert_int_equal(dd_store_do(w.store, works, "two", &err), 0);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM meta WHERE key IN ('one','two')"), 2);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM meta WHERE key='bad'"), 0);
}

static void test_reopen_and_version(void **state) {
    (void)state;
    struct dr_err err = {0};
    struct dd_store *s = NULL;
    int64_t boot = dd_store_boot(w.store);
    a_job();
    char dir[256], path[600];
    snprintf(dir, sizeof dir, "%s", w.dir);
    world_close(&w);
    world_open(&w, dir);
    assert_true(dd_store_boot(w.store) > boot);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM jobs"), 1);
    snprintf(path, sizeof path, "%s/other.sqlite3", w.dir);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    sqlite3_exec(db, "PRAGMA user_version=99", NULL, NULL, NULL);
    sqlite3_close(db);
    assert_int_equal(dd_store_open(path, &s, &err), DR_EFORMAT);
    assert_non_null(strstr(err.msg, "version 99"));
    assert_int_equal(dd_write_file(path, "this is no data base at all, is it", 34, &err), 0);
    assert_int_not_equal(dd_store_open(path, &s, &err), 0);
    assert_non_null(strstr(err.msg, "other.sqlite3"));
}

static void test_backup(void **state) {
    (void)state;
    struct dr_err err = {0};
    struct dd_store *s = NULL;
    int64_t job = a_job();
    double v[600];
    insert(job, 1, 500, 0);
    char path[600];
    snprintf(path, sizeof path, "%s/backup.sqlite3", w.dir);
    assert_int_equal(dd_store_backup(w.store, path, &err), 0);
    assert_int_equal(dd_store_open(path, &s, &err), 0);
    assert_int_equal(world_values(s, job, "loss", v, 600), 500);
    assert_true(v[498] == value(499));
    dd_store_close(s);
}

struct seen {
    int n;
    uint64_t last;
};
static void see(void *arg, uint64_t boot, uint64_t seq, const char *type, const char *job,
                const char *data) {
    struct seen *s = arg;
    assert_int_equal(boot, dd_store_boot(w.store));
    assert_true(seq > s->last);
    assert_string_equal(type, "state");
    assert_string_equal(job, "1");
    assert_non_null(strstr(data, "queued"));
    s->last = seq;
    s->n++;
}

static void test_events(void **state) {
    (void)state;
    struct dr_err err = {0};
    for (int i = 0; i < 5; i++)
        dd_event(w.events, "state", 1, json_pack("{s:s}", "state", "queued"));
    dd_store_do(w.store, works, "flush", &err);
    uint64_t boot = (uint64_t)dd_store_boot(w.store);
    struct seen s = {0};
    assert_int_equal(dd_events_read(w.store, 0, 0, UINT64_MAX, 0, 0, 100, see, &s), 5);
    s = (struct seen){0};
    assert_int_equal(dd_events_read(w.store, boot, 2, boot, 5, 1, 100, see, &s), 2);
    s = (struct seen){0};
    assert_int_equal(dd_events_read(w.store, boot, 0, UINT64_MAX, 0, 2, 100, see, &s), 0);
    assert_int_equal(dd_events_read(w.store, UINT64_MAX, 7, UINT64_MAX, 9, 0, 100, see, &s), 0);
}

static void test_checkpoint_rows(void **state) {
    (void)state;
    struct dr_err err = {0};
    char next[64];
    for (int i = 0; i < 5; i++) {
        struct dd_ckpt_row r = {.step = i,
                                .bytes = 7,
                                .config = "{}",
                                .config_borrowed = true,
                                .kind = "import",
                                .sha256 = "00"};
        snprintf(r.path, sizeof r.path, "f%d", i);
        assert_int_equal(dd_ckpt_record(w.store, &r, &err), 0);
    }
    struct dd_ckpt_row got;
    assert_int_equal(dd_ckpt_set_state(w.store, "f4", "corrupt", &err), 0);
    assert_int_equal(dd_ckpt_latest(w.store, &got, &err), 0);
    assert_int_equal(got.step, 3);
    dd_ckpt_row_free(&got);
    assert_int_equal(dd_ckpt_get(w.store, 99, &got, &err), DR_ENOENT);
    json_t *page = dd_ckpts_json(w.store, 0, NULL, 2, next, sizeof next, &err);
    assert_int_equal(json_array_size(json_object_get(page, "checkpoints")), 2);
    assert_string_equal(next, "4");
    json_decref(page);
    page = dd_ckpts_json(w.store, 0, next, 10, next, sizeof next, &err);
    assert_int_equal(json_array_size(json_object_get(page, "checkpoints")), 3);
    assert_string_equal(next, "");
    json_decref(page);
    assert_null(dd_ckpts_json(w.store, 0, "x'; DROP", 10, next, sizeof next, &err));
    assert_int_equal(dd_ckpt_activate(w.store, 2, &err), 0);
    assert_int_equal(dd_ckpt_active(w.store), 2);
    assert_true(dd_ckpt_is_kept(w.store, "f1"));
}

static _Atomic bool room;

// Writes what it was given when there is room, as on a disk that is full for a while.
static int insert_if_room(sqlite3 *db, void *arg, struct dr_err *err) {
    int rc = dd_metrics_insert(db, arg, err);
    return rc || room ? rc : dr_fail(err, DR_ENOSPC, "database: insert: disk is full");
}

static struct dd_metric_batch *rows_from(int64_t job, int64_t step, int n) {
    struct dd_metric_batch *b = dd_xcalloc(1, sizeof *b + (size_t)n * sizeof *b->row);
    b->n = n;
    b->keep_steps = 1000000;
    for (int i = 0; i < n; i++)
        b->row[i] = (struct dd_row){
            .job = job, .step = step + i, .table = test_metric(w.store, "loss"), .mask = 1};
    return b;
}

// A full disk: who waits is refused, what was posted is kept, nothing overtakes it, and all of it
// is written when there is room again.
static void test_full(void **state) {
    (void)state;
    struct dr_err err = {0};
    int64_t job = a_job();
    room = false;
    assert_true(dd_store_post(w.store, insert_if_room, rows_from(job, 1, 50), free));
    assert_true(dd_store_post(w.store, dd_metrics_insert, rows_from(job, 51, 50), free));
    struct dd_metric_batch *more = rows_from(job, 101, 50);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(dd_store_do(w.store, dd_metrics_insert, more, &err), DR_ENOSPC);
        assert_non_null(strstr(err.msg, "full"));
        assert_int_equal(world_count(&w, "SELECT count(*) FROM metrics"), 0);
    }
    assert_int_equal(dd_store_failures(w.store), 0);
    room = true;
    assert_int_equal(dd_store_do(w.store, dd_metrics_insert, more, &err), 0);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM metrics"), 150);
    assert_int_equal(world_count(&w, "SELECT max(step) FROM jobs"), 150);
    free(more);
}

static void one_value(int64_t job, const struct dd_metric_table *t, int n) {
    struct dr_err err = {0};
    struct dd_metric_batch *b = dd_xcalloc(1, sizeof *b + sizeof *b->row);
    b->n = 1;
    b->row[0] = (struct dd_row){.job = job, .step = n, .table = t};
    for (int i = 0; i < n; i++) {
        b->row[0].mask |= (uint64_t)1 << i;
        b->row[0].v[i] = n * 100 + i;
    }
    assert_int_equal(dd_store_do(w.store, dd_metrics_insert, b, &err), 0);
    free(b);
}

// A new metric is a row in its objective's table, wherever in it: what is stored under the other
// names stays there.
static void test_new_metric(void **state) {
    (void)state;
    static const struct dr_metric_def before[] = {{"loss", "", "", 0}, {"lr", "", "", 0}};
    static const struct dr_metric_def after[] = {
        {"anew", "", "", 0}, {"loss", "", "", 0}, {"lr", "", "", 0}};
    const char *names[] = {"loss", "lr", "anew"};
    const double want[2][3] = {{200, 201, NAN}, {301, 302, 300}};
    struct dd_metric_tables *all = dd_store_metrics(w.store);
    int64_t job = a_job();
    one_value(job, dd_metric_table(all, before, 2), 2);
    one_value(job, dd_metric_table(all, after, 3), 3);
    assert_ptr_equal(dd_metric_table(all, after, 3), dd_metric_table(all, after, 3));
    for (int i = 0; i < 3; i++) {
        struct dd_curve *c;
        struct dd_bucket b;
        struct dr_err err = {0};
        assert_int_equal(dd_curve_open(w.store, job, &names[i], 1, 0, INT64_MAX, 0, &c, &err), 0);
        for (int k = i == 2; k < 2; k++) {
            assert_int_equal(dd_curve_next(c, &b), 1);
            assert_string_equal(b.name, names[i]);
            assert_int_equal(b.step, k + 2);
            assert_true(b.last == want[k][i]);
        }
        assert_int_equal(dd_curve_next(c, &b), 0);
        dd_curve_close(c);
    }
}

// A curve that is read slowly holds no transaction: the log is folded back meanwhile.
static void test_slow_curve(void **state) {
    (void)state;
    struct dr_err err = {0};
    struct dd_curve *c;
    struct dd_bucket b;
    int64_t job = a_job(), n = 1;
    int log = -1, done = -1;
    const char *loss = "loss";
    insert(job, 1, 3000, 0);
    assert_int_equal(dd_curve_open(w.store, job, &loss, 1, 0, INT64_MAX, 0, &c, &err), 0);
    assert_int_equal(dd_curve_next(c, &b), 1);
    insert(job, 3001, 6000, 0);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(dd_store_path(w.store), &db), SQLITE_OK);
    // Before its first query a connection does not know of the log, and folds back nothing.
    assert_int_equal(sqlite3_exec(db, "SELECT count(*) FROM jobs", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_RESTART, &log, &done),
                     SQLITE_OK);
    assert_true(log > 0);
    assert_int_equal(log, done);
    sqlite3_close(db);
    for (; dd_curve_next(c, &b) == 1; n++)
        assert_int_equal(b.step, n + 1);
    assert_int_equal(n, 3000); // the end was fixed when the metric was begun
    dd_curve_close(c);
}

static void add_ckpt(int64_t job, int64_t step, const char *name, const char *kind) {
    struct dr_err err = {0};
    struct dd_ckpt_row r = {
        .job = job, .step = step, .bytes = 100000, .config = "{}", .config_borrowed = true};
    char *bytes = dd_xcalloc(1, 100000);
    snprintf(r.kind, sizeof r.kind, "%s", kind);
    snprintf(r.name, sizeof r.name, "%s", name);
    assert_int_equal(dd_path(r.path, &err, "%s/checkpoints/%lld/step-%lld", w.dir, (long long)job,
                             (long long)step),
                     0);
    assert_int_equal(dd_mkdir_for(r.path, &err), 0);
    assert_int_equal(dd_write_file(r.path, bytes, 100000, &err), 0);
    assert_int_equal(dd_ckpt_record(w.store, &r, &err), 0);
    free(bytes);
}

static int set_states(sqlite3 *db, void *arg, struct dr_err *err) {
    (void)arg;
    return dd_sql_run(db, err,
                      "UPDATE jobs SET state=CASE id WHEN 1 THEN 'completed' WHEN 2 THEN 'paused' "
                      "ELSE 'stopped' END",
                      "");
}

static int64_t kept(const char *which) {
    char sql[200];
    snprintf(sql, sizeof sql, "SELECT count(*) FROM checkpoints WHERE state='ok' AND %s", which);
    return world_count(&w, sql);
}

// Beyond the budget the oldest go, announced before, and never what somebody still wants.
static void test_disk_budget(void **state) {
    (void)state;
    struct dr_err err = {0};
    struct dd_disk_stats now;
    const int64_t ended = a_job(), paused = a_job(), stopped = a_job();
    assert_int_equal(dd_store_do(w.store, set_states, NULL, &err), 0);
    add_ckpt(paused, 1, "", "train");    // 1: of a job that may go on
    add_ckpt(ended, 1, "", "train");     // 2: activated below
    add_ckpt(ended, 2, "mine", "train"); // 3: has a name
    add_ckpt(0, 3, "", "import");        // 4
    for (int i = 4; i < 24; i++)
        add_ckpt(ended, i, "", "train");
    assert_int_equal(dd_ckpt_activate(w.store, 2, &err), 0);
    struct dd_disk *d = dd_disk_new(w.store, w.events, 0);
    dd_disk_look(d); // no budget: counts
    dd_disk_stats(d, &now);
    dd_disk_stop(d);
    assert_true(now.bytes > 24 * 100000);
    assert_int_equal(kept("1"), 24);

    d = dd_disk_new(w.store, w.events, now.bytes + 200000); // nearly used up
    dd_disk_look(d);
    dd_disk_look(d);
    dd_disk_stop(d);
    assert_int_equal(kept("1"), 24);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM events WHERE type='alert'"), 1);

    d = dd_disk_new(w.store, w.events, now.bytes - 450000);
    dd_disk_look(d);
    dd_disk_stats(d, &now);
    dd_disk_stop(d);
    assert_true(now.removed >= 5 && now.removed <= 8); // the store's log grows meanwhile
    assert_int_equal(kept("1"), 24 - (int)now.removed);
    char oldest[60];
    snprintf(oldest, sizeof oldest, "step>3 AND step<4+%d", (int)now.removed);
    assert_int_equal(kept(oldest), 0);
    assert_int_equal(kept("id<=4"), 4);

    add_ckpt(stopped, 40, "", "train");    // goes: the job would go on from the next one
    add_ckpt(stopped, 41, "", "train");    // which therefore stays
    add_ckpt(ended, 42, "", "train");      // the newest generator
    add_ckpt(ended, 30, "", "encoder");    // newer, but never served: the newest generator stays
    add_ckpt(0, 31, "", "encoder");        // imported
    d = dd_disk_new(w.store, w.events, 1); // cannot be met
    dd_disk_look(d);
    dd_disk_stop(d);
    assert_int_equal(kept("1"), 7);
    assert_int_equal(kept("id<=4 OR step IN (31,41,42)"), 7);
    assert_int_equal(
        world_count(&w, "SELECT count(*) FROM events WHERE data LIKE '%no checkpoint%'"), 1);
    char path[600];
    snprintf(path, sizeof path, "%s/checkpoints/1/step-5", w.dir);
    assert_int_equal(access(path, F_OK), -1);
}

static void add_bytes(const char *dir, const char *name, size_t n) {
    struct dr_err err = {0};
    char path[DD_PATH_MAX], *bytes = dd_xcalloc(1, n);
    assert_int_equal(dd_path(path, &err, "%s/%s", dir, name), 0);
    assert_int_equal(dd_mkdir_for(path, &err), 0);
    assert_int_equal(dd_write_file(path, bytes, n, &err), 0);
    free(bytes);
}

static int64_t state_bytes(struct world *of) {
    struct dd_disk_stats now;
    struct dd_disk *d = dd_disk_new(of->store, of->events, 0);
    dd_disk_look(d);
    dd_disk_stats(d, &now);
    dd_disk_stop(d);
    return now.bytes;
}

// Whatever the state folder and what is in it are called, and where a link leads: all of it counts
// but the links of backups and the reserve.
static void test_disk_places(void **state) {
    (void)state;
    struct dr_err err = {0};
    struct world in;
    char dir[300], link_to[600];
    snprintf(dir, sizeof dir, "%s/backups/x", w.dir);
    assert_int_equal(dd_mkdirs(dir, &err), 0);
    world_open(&in, dir);
    const int64_t before = state_bytes(&in);
    assert_true(before > 0);
    add_bytes(dir, "datasets/backups/backups.pictures", 1 << 20);
    add_bytes(dir, "backups/17-0000/driftd.sqlite3", 4 << 20);
    add_bytes(dir, "reserve", 4 << 20);
    add_bytes(w.dir, "big/step-1", 2 << 20);
    snprintf(dir, sizeof dir, "%s/big", w.dir);
    snprintf(link_to, sizeof link_to, "%s/checkpoints", in.dir);
    assert_int_equal(symlink(dir, link_to), 0);
    assert_int_equal(state_bytes(&in) - before, 3 << 20);
    world_close(&in);
}

static int64_t reserved(void) {
    char path[600];
    struct stat st;
    snprintf(path, sizeof path, "%s/reserve", w.dir);
    return stat(path, &st) ? -1 : (int64_t)st.st_size;
}
// A full disk on which there is room once that much of the reserve has been given back.
static int needs_room(sqlite3 *db, void *left, struct dr_err *err) {
    (void)db;
    return reserved() <= *(int64_t *)left ? 0 : dr_fail(err, DR_ENOSPC, "database: disk is full");
}

// What makes room is written down on a full disk too, by the reserve, and past what waits for room;
// nothing else gets at it.
static void test_reserve(void **state) {
    (void)state;
    struct dr_err err = {0};
    int64_t left = DD_RESERVE / 4, job = a_job();
    dd_reserve_keep(w.dir);
    if (reserved() < 0 && dd_free_bytes(w.dir) < 200 << 20)
        skip();
    assert_int_equal(reserved(), DD_RESERVE);
    room = false;
    assert_true(dd_store_post(w.store, insert_if_room, rows_from(job, 1, 50), free));
    assert_int_equal(dd_store_do(w.store, needs_room, &left, &err), DR_ENOSPC);
    assert_int_equal(reserved(), DD_RESERVE);
    assert_int_equal(dd_store_free_by(w.store, needs_room, &left, &err), 0);
    assert_int_equal(reserved(), left);
    assert_int_equal(dd_store_free_by(w.store, needs_room, &left, &err), 0);
    assert_int_equal(reserved(), left);
    left = -1;
    assert_int_equal(dd_store_free_by(w.store, needs_room, &left, &err), DR_ENOSPC);
    assert_false(dd_reserve_give(w.dir));
    room = true;
    dd_reserve_keep(w.dir); // there is room again
    assert_int_equal(reserved(), DD_RESERVE);
}

int main(void) {
#define T(f) WORLD_TEST(f, world_setup)
    const struct CMUnitTest tests[] = {
        T(test_rollups), T(test_truncate),   T(test_retention),       T(test_isolation),
        T(test_backup),  T(test_events),     T(test_checkpoint_rows), T(test_reopen_and_version),
        T(test_full),    T(test_new_metric), T(test_slow_curve),      T(test_disk_budget),
        T(test_reserve), T(test_disk_places)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
