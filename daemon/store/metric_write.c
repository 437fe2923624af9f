// Writing metrics: raw rows, roll-ups, truncation, retention (metric_store.h). Runs on the writer
// thread.
#include "daemon/base/util.h"
#include "daemon/store/metric_store.h"

#include <math.h>
#include <stdlib.h>
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

static int put_roll(struct sink *k, int64_t job, int64_t id, int64_t width, const struct acc *a) {
    if (!a->n && !a->nonfinite)
        return 0;
    sqlite3_stmt *st = k->roll;
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    sqlite3_bind_int64(st, 1, job);
    sqlite3_bind_int64(st, 2, id);
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

static int put_raw(struct sink *k, const struct dd_row *r, int64_t id, int col) {
    sqlite3_stmt *st = k->raw;
    sqlite3_reset(st);
    sqlite3_bind_int64(st, 1, r->job);
    sqlite3_bind_int64(st, 2, id);
    sqlite3_bind_int64(st, 3, r->step);
    sqlite3_bind_int64(st, 4, r->time_us);
    if (isfinite(r->v[col]))
        sqlite3_bind_double(st, 5, r->v[col]);
    else
        sqlite3_bind_null(st, 5);
    return sqlite3_step(st) == SQLITE_DONE ? 0 : dd_sql_fail(k->db, k->err, "metric");
}

// One metric of a job's rows: the clustered tables are appended to metric by metric.
static int put_column(struct sink *k, const struct dd_row *row, int n, int64_t id, int col) {
    struct acc a[NWIDTH] = {0};
    for (int w = 0; w < NWIDTH; w++)
        a[w].bucket = -1;
    int rc = 0;
    for (int i = 0; i < n && !rc; i++) {
        if (!(row[i].mask >> col & 1))
            continue;
        rc = put_raw(k, &row[i], id, col);
        for (int w = 0; w < NWIDTH && !rc; w++) {
            int64_t b = row[i].step / widths[w];
            if (a[w].bucket != b) {
                rc = put_roll(k, row[i].job, id, widths[w], &a[w]);
                a[w] = (struct acc){.bucket = b};
            }
            acc_add(&a[w], row[i].step, row[i].time_us, row[i].v[col]);
        }
    }
    for (int w = 0; w < NWIDTH && !rc; w++)
        rc = put_roll(k, row[0].job, id, widths[w], &a[w]);
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

// Every metric that the database knows. malloc'd; NULL on failure.
static int64_t *all_ids(sqlite3 *db, int *n, struct dr_err *err) {
    const int64_t count = dd_sql_one(db, 0, "SELECT count(*) FROM metric_names", "");
    int64_t *id = dd_xcalloc((size_t)count, sizeof *id);
    sqlite3_stmt *st = dd_sql_prepare(db, err, "SELECT id FROM metric_names", "");
    *n = 0;
    while (st && *n < count && sqlite3_step(st) == SQLITE_ROW)
        id[(*n)++] = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    if (st)
        return id;
    free(id);
    return NULL;
}

// The id of a name, which is given one when it is new.
static int64_t id_of(sqlite3 *db, const char *name, struct dr_err *err) {
    static const char find[] = "SELECT id FROM metric_names WHERE name=?";
    int64_t id = dd_sql_one(db, 0, find, "t", name);
    if (id || dd_sql_run(db, err, "INSERT INTO metric_names(name) VALUES(?)", "t", name))
        return id;
    return sqlite3_last_insert_rowid(db);
}

// Drops raw rows that lie more than keep steps back whenever a 4096-step bucket has been completed.
static int retain(sqlite3 *db, const struct dd_row *first, const struct dd_row *last, int64_t keep,
                  struct dr_err *err) {
    int64_t cut = (last->step - keep) / 4096 * 4096;
    if (keep <= 0 || cut <= 0 || first->step / 4096 == last->step / 4096)
        return 0;
    int n, rc = 0;
    int64_t *id = all_ids(db, &n, err);
    for (int i = 0; id && i < n && !rc; i++)
        rc = dd_sql_run(db, err, "DELETE FROM metrics WHERE job=? AND name=? AND step<?", "iii",
                        last->job, id[i], cut);
    rc = id ? rc : DR_EIO;
    free(id);
    return rc;
}

// Rows of one job and one table.
static int insert_job(sqlite3 *db, struct sink *k, const struct dd_row *row, int n, int64_t keep,
                      struct dr_err *err) {
    const struct dd_row *last = &row[n - 1];
    if (!dd_sql_one(db, 0, "SELECT 1 FROM jobs WHERE id=?", "i", last->job))
        return 0; // removed meanwhile
    uint64_t seen = 0;
    int rc = 0;
    for (int i = 0; i < n; i++)
        seen |= row[i].mask;
    for (int col = 0; col < row->table->n && !rc; col++) {
        if (!(seen >> col & 1))
            continue;
        const int64_t id = id_of(db, row->table->def[col].name, err);
        rc = id ? put_column(k, row, n, id, col) : DR_EIO;
    }
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
        for (j = i + 1;
             j < b->n && b->row[j].job == b->row[i].job && b->row[j].table == b->row[i].table; j++)
            ;
        rc = insert_job(db, &k, b->row + i, j - i, b->keep_steps, err);
    }
    sink_close(&k);
    return rc;
}

// Builds bucket `width` that holds `step` of one metric again from raw rows up to `step`.
static int rebuild(struct sink *k, int64_t job, int64_t id, int64_t width, int64_t step) {
    struct acc a = {.bucket = step / width};
    sqlite3_stmt *st = dd_sql_prepare(
        k->db, k->err,
        "SELECT step, time_us, value FROM metrics WHERE job=? AND name=? AND step BETWEEN ? AND ?"
        " ORDER BY step",
        "iiii", job, id, a.bucket * width, step);
    if (!st)
        return DR_EIO;
    while (sqlite3_step(st) == SQLITE_ROW)
        acc_add(&a, sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1),
                sqlite3_column_type(st, 2) == SQLITE_NULL ? NAN : sqlite3_column_double(st, 2));
    sqlite3_finalize(st);
    return put_roll(k, job, id, width, &a);
}

static int truncate_one(struct sink *k, const struct dd_metric_cut *c, int64_t id) {
    int rc = dd_sql_run(k->db, k->err, "DELETE FROM metrics WHERE job=? AND name=? AND step>?",
                        "iii", c->job, id, c->step);
    if (!rc && !sqlite3_changes(k->db))
        return 0; // nothing after the cut: the roll-ups are right as they are
    for (int w = 0; w < NWIDTH && !rc; w++) {
        rc = dd_sql_run(
            k->db, k->err,
            "DELETE FROM metric_rollups WHERE job=? AND name=? AND width=? AND bucket>=?", "iiii",
            c->job, id, widths[w], c->step / widths[w]);
        if (!rc)
            rc = rebuild(k, c->job, id, widths[w], c->step);
    }
    return rc;
}

int dd_metrics_truncate(sqlite3 *db, void *arg, struct dr_err *err) {
    struct sink k;
    int n = 0, rc = sink_open(&k, db, err);
    int64_t *id = rc ? NULL : all_ids(db, &n, err);
    for (int i = 0; id && i < n && !rc; i++)
        rc = truncate_one(&k, arg, id[i]);
    rc = id ? rc : DR_EIO;
    free(id);
    sink_close(&k);
    return rc;
}
