// Reading metrics as curves (metric_store.h): picks raw rows or the widest roll-up that still gives
// enough points, and merges its rows into at most max_points buckets. Own connection; one thread at
// a time.
#include "daemon/store/metric_store.h"

#include "daemon/base/util.h"

#include <math.h>
#include <stdlib.h>

struct dd_curve {
    sqlite3 *db;
    sqlite3_stmt *st;
    int64_t job, from, to;
    int max_points;
    uint32_t todo; // columns not yet read
    int col;
    int64_t width, merge; // of a source row; source steps in an output bucket
    bool have;            // a row of the next bucket has been read already
    struct dd_bucket ahead;
    double ahead_sum;
};

static const char raw_sql[] =
    "SELECT step, step, time_us, value IS NOT NULL, value IS NULL, value, value, value, value"
    " FROM metrics WHERE job=? AND name=? AND step BETWEEN ? AND ? ORDER BY step";
static const char roll_sql[] =
    "SELECT bucket*width, last_step, time_us, n, nonfinite, min, max, sum, last FROM metric_rollups"
    " WHERE job=? AND name=? AND width=? AND bucket BETWEEN ? AND ? ORDER BY bucket";

int dd_curve_open(struct dd_store *s, int64_t job, uint32_t columns, int64_t from, int64_t to,
                  int max_points, struct dd_curve **out, struct dr_err *err) {
    struct dd_curve *c = dd_xcalloc(1, sizeof *c);
    *c = (struct dd_curve){.job = job, .from = from, .to = to, .max_points = max_points, .col = -1};
    c->todo = columns ? columns : (uint32_t)((1ull << DD_M_COUNT) - 1);
    c->db = dd_store_reader(s, err);
    if (!c->db) {
        free(c);
        return DR_EIO;
    }
    *out = c;
    return 0;
}

void dd_curve_close(struct dd_curve *c) {
    if (!c)
        return;
    sqlite3_finalize(c->st);
    sqlite3_close(c->db);
    free(c);
}

static int64_t bound(struct dd_curve *c, const char *sql) {
    return dd_sql_one(c->db, -1, sql, "ii", c->job, (int64_t)c->col + 1);
}

// Chooses the source of the current column and opens its statement. 0: the column has no rows.
static int open_column(struct dd_curve *c) {
    struct dr_err err;
    int64_t first =
        bound(c, "SELECT min(bucket)*64 FROM metric_rollups WHERE job=? AND name=? AND width=64");
    int64_t raw0 = bound(c, "SELECT min(step) FROM metrics WHERE job=? AND name=?");
    int64_t last =
        bound(c, "SELECT max(last_step) FROM metric_rollups WHERE job=? AND name=? AND width=4096");
    if (first < 0 || last < 0)
        return 0;
    int64_t lo = c->from > first ? c->from : first, hi = c->to < last ? c->to : last;
    c->width = c->merge = 1;
    if (c->max_points > 0 && hi >= lo) {
        int64_t parts = c->max_points > 1 ? c->max_points - 1 : 1;
        c->merge = (hi - lo + parts) / parts;
        c->width = c->merge >= 4096 ? 4096 : c->merge >= 512 ? 512 : c->merge >= 64 ? 64 : 1;
        if (c->width == 1 && raw0 > lo + 64) // raw rows of that age are gone
            c->width = 64;
        c->merge = (c->merge + c->width - 1) / c->width * c->width;
    }
    if (c->width == 1)
        c->st = dd_sql_prepare(c->db, &err, raw_sql, "iiii", c->job, (int64_t)c->col + 1, lo, hi);
    else
        c->st = dd_sql_prepare(c->db, &err, roll_sql, "iiiii", c->job, (int64_t)c->col + 1,
                               c->width, lo / c->width, hi / c->width);
    return c->st ? 1 : -1;
}

static double column(sqlite3_stmt *st, int i) {
    return sqlite3_column_type(st, i) == SQLITE_NULL ? NAN : sqlite3_column_double(st, i);
}

// Reads one source row into c->ahead. 1, 0: column done, -1.
static int read_row(struct dd_curve *c) {
    int rc = sqlite3_step(c->st);
    if (rc != SQLITE_ROW)
        return rc == SQLITE_DONE ? 0 : -1;
    struct dd_bucket *b = &c->ahead;
    *b = (struct dd_bucket){.column = c->col,
                            .step = sqlite3_column_int64(c->st, 0),
                            .step_last = sqlite3_column_int64(c->st, 1),
                            .time_us = sqlite3_column_int64(c->st, 2),
                            .n = sqlite3_column_int64(c->st, 3),
                            .nonfinite = sqlite3_column_int64(c->st, 4),
                            .min = column(c->st, 5),
                            .max = column(c->st, 6),
                            .last = column(c->st, 8)};
    double sum = column(c->st, 7);
    c->ahead_sum = isnan(sum) ? 0 : sum;
    c->have = true;
    return 1;
}

static int next_column(struct dd_curve *c) {
    sqlite3_finalize(c->st);
    c->st = NULL;
    while (c->todo) {
        c->col = __builtin_ctz(c->todo);
        c->todo &= c->todo - 1;
        int rc = open_column(c);
        if (rc)
            return rc;
    }
    return 0;
}

int dd_curve_next(struct dd_curve *c, struct dd_bucket *out) {
    while (!c->have) {
        int rc = c->st ? read_row(c) : 0;
        if (!rc)
            rc = next_column(c);
        if (rc <= 0)
            return rc;
    }
    *out = c->ahead;
    double sum = c->ahead_sum;
    int64_t bucket = out->step / c->merge;
    c->have = false;
    int rc;
    while ((rc = read_row(c)) > 0 && c->max_points > 0 && c->ahead.step / c->merge == bucket) {
        const struct dd_bucket *a = &c->ahead;
        out->min = fmin(out->min, a->min); // fmin and fmax pass over NAN
        out->max = fmax(out->max, a->max);
        out->last = isnan(a->last) ? out->last : a->last;
        out->n += a->n;
        out->nonfinite += a->nonfinite;
        out->step_last = a->step_last;
        out->time_us = a->time_us;
        sum += c->ahead_sum;
        c->have = false;
    }
    if (rc < 0)
        return -1;
    if (rc == 0) {
        sqlite3_finalize(c->st);
        c->st = NULL;
    }
    out->mean = out->n ? sum / (double)out->n : NAN;
    return 1;
}
