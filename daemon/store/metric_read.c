// Reading metrics as curves (metric_store.h): picks raw rows or the widest roll-up that still gives
// enough points, and merges its rows into at most max_points buckets. Own connection, a short read
// transaction per page of rows; one thread at a time.
#include "daemon/store/metric_store.h"

#include "daemon/base/util.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 512 }; // source rows

struct metric {
    int64_t id;
    char *name;
};
struct source { // one row of the database
    struct dd_bucket b;
    double sum;
};
struct dd_curve {
    sqlite3 *db;
    int64_t job, from, to;
    int max_points;
    struct metric *metric; // [n], in the order of their ids
    int n, next;           // next: the metric after the current one
    int64_t width, merge;  // of a source row; source steps in an output bucket
    int64_t at, hi;        // key (step or bucket) of the next page's first row, and of the last row
    bool more;             // the current metric has pages left
    int have, read;        // rows of the page, and how many have been taken
    struct source page[PAGE];
};

static const char raw_sql[] =
    "SELECT step, step, time_us, value IS NOT NULL, value IS NULL, value, value, value, value, step"
    " FROM metrics WHERE job=? AND name=? AND step BETWEEN ? AND ? ORDER BY step LIMIT ?";
static const char roll_sql[] =
    "SELECT bucket*width, last_step, time_us, n, nonfinite, min, max, sum, last, bucket"
    " FROM metric_rollups WHERE job=? AND name=? AND width=? AND bucket BETWEEN ? AND ?"
    " ORDER BY bucket LIMIT ?";

// --- which metrics ---

static int read_names(struct dd_curve *c, struct dr_err *err) {
    sqlite3_stmt *st =
        dd_sql_prepare(c->db, err, "SELECT id, name FROM metric_names ORDER BY id", "");
    int rc = st ? SQLITE_ROW : SQLITE_ERROR;
    while (st && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct metric *grown = realloc(c->metric, (size_t)(c->n + 1) * sizeof *grown);
        if (!grown)
            abort();
        c->metric = grown;
        c->metric[c->n++] = (struct metric){sqlite3_column_int64(st, 0),
                                            dd_xstrdup((const char *)sqlite3_column_text(st, 1))};
    }
    if (st && rc != SQLITE_DONE)
        dd_sql_fail(c->db, err, "reading the names of metrics");
    sqlite3_finalize(st);
    return rc == SQLITE_DONE ? 0 : DR_EIO;
}

static int unknown(const struct dd_curve *c, const char *name, struct dr_err *err) {
    const char **all = dd_xcalloc((size_t)c->n, sizeof *all);
    for (int i = 0; i < c->n; i++)
        all[i] = c->metric[i].name;
    const char *near = dr_nearest(name, all, c->n);
    free(all);
    return dr_fail_at(err, DR_EINVAL, "names", "names: there is no metric %.60s%s%s%s", name,
                      near ? "; did you mean " : "; expected one such as loss or drift_norm",
                      near ? near : "", near ? "?" : "");
}

// Keeps the metrics that are asked for.
static int choose(struct dd_curve *c, const char *const *names, size_t count, struct dr_err *err) {
    bool *keep = dd_xcalloc((size_t)c->n, sizeof *keep);
    int rc = 0, n = 0;
    for (size_t k = 0; k < count && !rc; k++) {
        int i = 0;
        while (i < c->n && strcmp(c->metric[i].name, names[k]) != 0)
            i++;
        if (i < c->n)
            keep[i] = true;
        else
            rc = unknown(c, names[k], err);
    }
    for (int i = 0; i < c->n && !rc && count; i++) {
        if (keep[i])
            c->metric[n++] = c->metric[i];
        else
            free(c->metric[i].name);
    }
    c->n = !rc && count ? n : c->n;
    free(keep);
    return rc;
}

int dd_curve_open(struct dd_store *s, int64_t job, const char *const *names, size_t count,
                  int64_t from, int64_t to, int max_points, struct dd_curve **out,
                  struct dr_err *err) {
    struct dd_curve *c = dd_xcalloc(1, sizeof *c);
    *c = (struct dd_curve){.job = job, .from = from, .to = to, .max_points = max_points};
    c->db = dd_store_reader(s, err);
    int rc = c->db ? read_names(c, err) : DR_EIO;
    if (!rc)
        rc = choose(c, names, count, err);
    if (rc) {
        dd_curve_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

void dd_curve_close(struct dd_curve *c) {
    if (!c)
        return;
    for (int i = 0; i < c->n; i++)
        free(c->metric[i].name);
    free(c->metric);
    sqlite3_close(c->db);
    free(c);
}

// --- source rows, a page at a time ---

static int64_t bound(struct dd_curve *c, const char *sql) {
    return dd_sql_one(c->db, -1, sql, "ii", c->job, c->metric[c->next - 1].id);
}

// Chooses the source of the current metric. False: the metric has no rows.
static bool open_metric(struct dd_curve *c) {
    int64_t first =
        bound(c, "SELECT min(bucket)*64 FROM metric_rollups WHERE job=? AND name=? AND width=64");
    int64_t raw0 = bound(c, "SELECT min(step) FROM metrics WHERE job=? AND name=?");
    int64_t last =
        bound(c, "SELECT max(last_step) FROM metric_rollups WHERE job=? AND name=? AND width=4096");
    if (first < 0 || last < 0)
        return false;
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
    c->at = lo / c->width;
    c->hi = hi / c->width;
    c->more = true;
    return true;
}

static double column(sqlite3_stmt *st, int i) {
    return sqlite3_column_type(st, i) == SQLITE_NULL ? NAN : sqlite3_column_double(st, i);
}

static void read_row(const struct dd_curve *c, sqlite3_stmt *st, struct source *r) {
    r->b = (struct dd_bucket){.name = c->metric[c->next - 1].name,
                              .step = sqlite3_column_int64(st, 0),
                              .step_last = sqlite3_column_int64(st, 1),
                              .time_us = sqlite3_column_int64(st, 2),
                              .n = sqlite3_column_int64(st, 3),
                              .nonfinite = sqlite3_column_int64(st, 4),
                              .min = column(st, 5),
                              .max = column(st, 6),
                              .last = column(st, 8)};
    r->sum = column(st, 7);
    if (isnan(r->sum))
        r->sum = 0;
}

// Reads the next page of the current metric; the transaction ends with it. 0 or -1.
static int read_page(struct dd_curve *c) {
    struct dr_err err;
    const int64_t id = c->metric[c->next - 1].id;
    sqlite3_stmt *st = c->width == 1 ? dd_sql_prepare(c->db, &err, raw_sql, "iiiii", c->job, id,
                                                      c->at, c->hi, (int64_t)PAGE)
                                     : dd_sql_prepare(c->db, &err, roll_sql, "iiiiii", c->job, id,
                                                      c->width, c->at, c->hi, (int64_t)PAGE);
    int rc = st ? SQLITE_ROW : SQLITE_ERROR;
    c->have = c->read = 0;
    while (c->have < PAGE && rc == SQLITE_ROW && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        read_row(c, st, &c->page[c->have++]);
        c->at = sqlite3_column_int64(st, 9) + 1;
    }
    sqlite3_finalize(st);
    c->more = c->have == PAGE;
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : -1;
}

// The next source row of the current metric, not yet taken. 1, 0: there is none, -1: failed.
static int peek(struct dd_curve *c, const struct source **out) {
    while (c->read == c->have) {
        if (!c->more)
            return 0;
        if (read_page(c))
            return -1;
    }
    *out = &c->page[c->read];
    return 1;
}

static void merge(struct dd_bucket *out, const struct dd_bucket *a) {
    out->min = fmin(out->min, a->min); // fmin and fmax pass over NAN
    out->max = fmax(out->max, a->max);
    out->last = isnan(a->last) ? out->last : a->last;
    out->n += a->n;
    out->nonfinite += a->nonfinite;
    out->step_last = a->step_last;
    out->time_us = a->time_us;
}

int dd_curve_next(struct dd_curve *c, struct dd_bucket *out) {
    const struct source *r;
    int rc;
    while ((rc = peek(c, &r)) == 0) {
        if (c->next == c->n)
            return 0;
        c->next++;
        open_metric(c);
    }
    if (rc < 0)
        return -1;
    *out = r->b;
    double sum = r->sum;
    const int64_t bucket = out->step / c->merge;
    c->read++;
    while (c->max_points > 0 && (rc = peek(c, &r)) > 0 && r->b.step / c->merge == bucket) {
        merge(out, &r->b);
        sum += r->sum;
        c->read++;
    }
    if (rc < 0)
        return -1;
    out->mean = out->n ? sum / (double)out->n : NAN;
    return 1;
}
