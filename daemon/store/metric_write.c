// Writing metrics: raw rows, roll-ups, truncation, retention (metric_store.h). Runs on the writer thread.
#include "daemon/store/metric_store.h"

#include <math.h>
#include <string.h>

static const int64_t widths[] = {64, 512, 4096};
enum { NWIDTH = 3 };

struct acc {
    int64_t bucket, n, nonfinite, last_step, time_us;
    double min, max, sum, last;
};
struct sink {
    sqlite3 *db;
    sqlite3_stmt *raw, *roll;
    struct dr_err *err;
};

static const char raw_sql[] = "INSERT OR REPLACE INTO metrics VALUES(?1,?2,?3,?4,?5)";
static const char roll_sql[] =
    "INSERT INTO metric_rollups VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)"
    " ON CONFLICT DO UPDATE SET n=n+excluded.n, nonfinite=nonfinite+excluded.nonfinite,"
    " min=min(coalesce(min,excluded.min),coalesce(excluded.min,min)),"
    " max=max(coalesce(max,excluded.max),coalesce(excluded.max,max)),"
    " sum=sum+excluded.sum, last=coalesce(excluded.last,last), last_step=excluded.last_step,"
    " time_us=excluded.time_us";

static void acc_add(struct acc *a, int64_t step, int64_t time_us, double v) {
    a->last_step = step;
    a->time_us = time_us;
    if (!isfinite(v)) {
        a->nonfinite++;
        return;
    }
    a->min = a->n ? fmin(a->min, v) : v;
    a->max = a->n ? fmax(a->max, v) : v;
    a->sum += v;
    a->last = v;
    a->n++;
}

static int put_roll(struct sink *k, int64_t job, int col, int64_t width, const struct acc *a) {
    if (!a->n && !a->nonfinite)
        return 0;
    sqlite3_stmt *st = k->roll;
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    sqlite3_bind_int64(st, 1, job);
    sqlite3_bind_int64(st, 2, col + 1);
    sqlite3_bind_int64(st, 3, width);
    sqlite3_bind_int64(st, 4, a->bucket);
    sqlite3_bind_int64(st, 5, a->n);
    sqlite3_bind_int64(st, 6, a->nonfinite);
    if (a->n) {
        sqlite3_bind_double(st, 7, a->min);
        sqlite3_bind_double(st, 8, a->max);
        sqlite3_bind_double(st, 10, a->last);
    }
    sqlite3_bind_double(st, 9, a->sum);
    sqlite3_bind_int64(st, 11, a->last_step);
    sqlite3_bind_int64(st, 12, a->time_us);
    return sqlite3_step(st) == SQLITE_DONE ? 0 : dd_sql_fail(k->db, k->err, "roll-up");
}

static int put_raw(struct sink *k, const struct dd_row *r, int col) {
    sqlite3_stmt *st = k->raw;
    sqlite3_reset(st);
    sqlite3_bind_int64(st, 1, r->job);
    sqlite3_bind_int64(st, 2, col + 1);
    sqlite3_bind_int64(st, 3, r->step);
    sqlite3_bind_int64(st, 4, r->time_us);
    if (isfinite(r->v[col]))
        sqlite3_bind_double(st, 5, r->v[col]);
    else
        sqlite3_bind_null(st, 5);
    return sqlite3_step(st) == SQLITE_DONE ? 0 : dd_sql_fail(k->db, k->err, "metric");
}

// One column of rows of one job: the clustered tables are appended to column by column.
static int put_column(struct sink *k, const struct dd_row *row, int n, int col) {
    struct acc a[NWIDTH] = {0};
    for (int w = 0; w < NWIDTH; w++)
        a[w].bucket = -1;
    int rc = 0;
    for (int i = 0; i < n && !rc; i++) {
        if (!(row[i].mask & 1u << col))
            continue;
        rc = put_raw(k, &row[i], col);
        for (int w = 0; w < NWIDTH && !rc; w++) {
            int64_t b = row[i].step / widths[w];
            if (a[w].bucket != b) {
                rc = put_roll(k, row[i].job, col, widths[w], &a[w]);
                a[w] = (struct acc){.bucket = b};
            }
            acc_add(&a[w], row[i].step, row[i].time_us, row[i].v[col]);
        }
    }
    for (int w = 0; w < NWIDTH && !rc; w++)
        rc = put_roll(k, row[0].job, col, widths[w], &a[w]);
    return rc;
}

static int sink_open(struct sink *k, sqlite3 *db, struct dr_err *err) {
    *k = (struct sink){.db = db, .err = err};
    k->raw = dd_sql_prepare(db, err, raw_sql, "");
    k->roll = dd_sql_prepare(db, err, roll_sql, "");
    return k->raw && k->roll ? 0 : DR_EIO;
}
static void sink_close(struct sink *k) {
    sqlite3_finalize(k->raw);
    sqlite3_finalize(k->roll);
}

// Drops raw rows that lie more than keep steps back whenever a 4096-step bucket has been completed.
static int retain(sqlite3 *db, const struct dd_row *first, const struct dd_row *last, int64_t keep,
                  struct dr_err *err) {
    int64_t cut = (last->step - keep) / 4096 * 4096;
    if (keep <= 0 || cut <= 0 || first->step / 4096 == last->step / 4096)
        return 0;
    int rc = 0;
    for (int col = 0; col < DD_M_COUNT && !rc; col++)
        rc = dd_sql_run(db, err, "DELETE FROM metrics WHERE job=? AND name=? AND step<?", "iii",
                        last->job, (int64_t)col + 1, cut);
    return rc;
}

// Rows of one job.
static int insert_job(sqlite3 *db, struct sink *k, const struct dd_row *row, int n, int64_t keep,
                      struct dr_err *err) {
    const struct dd_row *last = &row[n - 1];
    if (!dd_sql_one(db, 0, "SELECT 1 FROM jobs WHERE id=?", "i", last->job))
        return 0; // removed meanwhile
    int rc = 0;
    for (int col = 0; col < DD_M_COUNT && !rc; col++)
        rc = put_column(k, row, n, col);
    if (!rc)
        rc = dd_sql_run(db, err, "UPDATE jobs SET step=?, seconds=? WHERE id=?", "idi", last->step,
                        last->seconds, last->job);
    // The previous row's bucket is not known here: one step of overlap makes a crossing visible.
    struct dd_row before = row[0];
    before.step -= 1;
    return rc ? rc : retain(db, &before, last, keep, err);
}

int dd_metrics_insert(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct dd_metric_batch *b = arg;
    struct sink k;
    int rc = sink_open(&k, db, err);
    for (int i = 0, j; i < b->n && !rc; i = j) {
        for (j = i + 1; j < b->n && b->row[j].job == b->row[i].job; j++)
            ;
        rc = insert_job(db, &k, b->row + i, j - i, b->keep_steps, err);
    }
    sink_close(&k);
    return rc;
}

// Builds bucket `width` that holds `step` of one column again from raw rows up to `step`.
static int rebuild(struct sink *k, int64_t job, int col, int64_t width, int64_t step) {
    struct acc a = {.bucket = step / width};
    sqlite3_stmt *st = dd_sql_prepare(
        k->db, k->err,
        "SELECT step, time_us, value FROM metrics WHERE job=? AND name=? AND step BETWEEN ? AND ?"
        " ORDER BY step",
        "iiii", job, (int64_t)col + 1, a.bucket * width, step);
    if (!st)
        return DR_EIO;
    while (sqlite3_step(st) == SQLITE_ROW)
        acc_add(&a, sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1),
                sqlite3_column_type(st, 2) == SQLITE_NULL ? NAN : sqlite3_column_double(st, 2));
    sqlite3_finalize(st);
    return put_roll(k, job, col, width, &a);
}

int dd_metrics_truncate(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct dd_metric_cut *c = arg;
    struct sink k;
    int rc = sink_open(&k, db, err);
    for (int col = 0; col < DD_M_COUNT && !rc; col++) {
        rc = dd_sql_run(db, err, "DELETE FROM metrics WHERE job=? AND name=? AND step>?", "iii",
                        c->job, (int64_t)col + 1, c->step);
        if (!rc && !sqlite3_changes(db))
            continue; // nothing after the cut: the roll-ups are right as they are
        for (int w = 0; w < NWIDTH && !rc; w++) {
            rc = dd_sql_run(db, err,
                            "DELETE FROM metric_rollups WHERE job=? AND name=? AND width=? AND "
                            "bucket>=?",
                            "iiii", c->job, (int64_t)col + 1, widths[w], c->step / widths[w]);
            if (!rc)
                rc = rebuild(&k, c->job, col, widths[w], c->step);
        }
    }
    sink_close(&k);
    return rc;
}
