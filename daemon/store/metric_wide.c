// See metric_wide.h. A part of a job is read into one list per column, and the lists are merged by
// step, as each of them is in that order.
#include "daemon/store/metric_wide.h"

#include "daemon/base/util.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    STEPS = 256,  // of a part, in full resolution
    BUCKETS = 256 // read in one call, of all columns
};

struct point {
    int64_t step, time_us;
    double value;
};
struct column {
    int64_t name; // id of the metric
    struct point *p;
    size_t n, room, at; // at: the next one, not yet given out
};
struct job {
    int64_t id;
    char *name;
};
struct dd_wide {
    struct dd_store *store;
    struct job *job;
    size_t njobs, next; // next: the job after the current one
    char **name;
    size_t n;
    struct column *column;
    double *value;
    bool *have;
    int64_t from, to;
    int max_points;
    struct dd_curve *curve; // buckets of the current job that have not been read yet, or NULL
    int64_t step;           // full resolution: where the next part of the current job begins
    bool more;              // there may be one
};

static void add_job(struct dd_wide *w, sqlite3_stmt *st) {
    struct job *grown = realloc(w->job, (w->njobs + 1) * sizeof *grown);
    if (!grown)
        abort();
    w->job = grown;
    const char *name = (const char *)sqlite3_column_text(st, 1);
    w->job[w->njobs++] = (struct job){sqlite3_column_int64(st, 0), dd_xstrdup(name ? name : "")};
}

static bool has_job(const struct dd_wide *w, int64_t id) {
    for (size_t i = 0; i < w->njobs; i++)
        if (w->job[i].id == id)
            return true;
    return false;
}

// Each once, in the order in which they are named.
static int read_jobs(struct dd_wide *w, sqlite3 *db, const int64_t *ids, size_t n,
                     struct dr_err *err) {
    for (size_t i = 0; i < n || (!n && !i); i++) {
        if (n && has_job(w, ids[i]))
            continue;
        sqlite3_stmt *st =
            dd_sql_prepare(db, err, "SELECT id, name FROM jobs WHERE ?1=0 OR id=?1 ORDER BY id",
                           "i", n ? ids[i] : 0);
        const size_t before = w->njobs;
        while (st && sqlite3_step(st) == SQLITE_ROW)
            add_job(w, st);
        sqlite3_finalize(st);
        if (!st)
            return DR_EIO;
        if (n && w->njobs == before)
            return dr_fail_at(err, DR_ENOENT, "jobs", "jobs: there is no job %lld",
                              (long long)ids[i]);
    }
    return 0;
}

static void add_name(struct dd_wide *w, const char *name) {
    char **grown = realloc(w->name, (w->n + 1) * sizeof *grown);
    if (!grown)
        abort();
    w->name = grown;
    w->name[w->n++] = dd_xstrdup(name);
}

// Whether any of the jobs has rows of a metric.
static bool used(const struct dd_wide *w, sqlite3 *db, int64_t name) {
    for (size_t i = 0; i < w->njobs; i++)
        if (dd_sql_one(db, 0, "SELECT EXISTS(SELECT 1 FROM metric_rollups WHERE job=? AND name=?)",
                       "ii", w->job[i].id, name))
            return true;
    return false;
}

static int read_names(struct dd_wide *w, sqlite3 *db, struct dr_err *err) {
    sqlite3_stmt *st = dd_sql_prepare(db, err, "SELECT id, name FROM metric_names ORDER BY id", "");
    while (st && sqlite3_step(st) == SQLITE_ROW)
        if (used(w, db, sqlite3_column_int64(st, 0)))
            add_name(w, (const char *)sqlite3_column_text(st, 1));
    sqlite3_finalize(st);
    return st ? 0 : DR_EIO;
}

// Names that are asked for, each once; an unknown one is refused by the curve that it opens.
static int take_names(struct dd_wide *w, const char *const *names, size_t n, struct dr_err *err) {
    struct dd_curve *probe;
    int rc = dd_curve_open(w->store, 0, names, n, 0, 0, 0, &probe, err);
    if (rc)
        return rc;
    dd_curve_close(probe);
    for (size_t i = 0; i < n; i++) {
        size_t k = 0;
        while (k < w->n && strcmp(w->name[k], names[i]) != 0)
            k++;
        if (k == w->n)
            add_name(w, names[i]);
    }
    return 0;
}

static void make_columns(struct dd_wide *w, sqlite3 *db) {
    w->column = dd_xcalloc(w->n + 1, sizeof *w->column);
    w->value = dd_xcalloc(w->n + 1, sizeof *w->value);
    w->have = dd_xcalloc(w->n + 1, sizeof *w->have);
    for (size_t i = 0; i < w->n; i++)
        w->column[i].name =
            dd_sql_one(db, 0, "SELECT id FROM metric_names WHERE name=?", "t", w->name[i]);
}

int dd_wide_open(struct dd_store *s, const int64_t *jobs, size_t njobs, const char *const *names,
                 size_t nnames, int64_t from, int64_t to, int max_points, struct dd_wide **out,
                 struct dr_err *err) {
    struct dd_wide *w = dd_xcalloc(1, sizeof *w);
    *w = (struct dd_wide){.store = s, .from = from, .to = to, .max_points = max_points};
    sqlite3 *db = dd_store_reader(s, err);
    int rc = db ? read_jobs(w, db, jobs, njobs, err) : DR_EIO;
    if (!rc)
        rc = nnames ? take_names(w, names, nnames, err) : read_names(w, db, err);
    if (!rc)
        make_columns(w, db);
    sqlite3_close(db);
    if (rc) {
        dd_wide_close(w);
        return rc;
    }
    *out = w;
    return 0;
}

const char *const *dd_wide_names(const struct dd_wide *w, size_t *n) {
    *n = w->n;
    return (const char *const *)w->name;
}

void dd_wide_close(struct dd_wide *w) {
    if (!w)
        return;
    dd_curve_close(w->curve);
    for (size_t i = 0; i < w->njobs; i++)
        free(w->job[i].name);
    for (size_t i = 0; i < w->n; i++) {
        free(w->name[i]);
        if (w->column)
            free(w->column[i].p);
    }
    free(w->job);
    free(w->name);
    free(w->column);
    free(w->value);
    free(w->have);
    free(w);
}

// --- parts of a job ---

static void clear(struct dd_wide *w) {
    for (size_t i = 0; i < w->n; i++)
        w->column[i].n = w->column[i].at = 0;
}

static void add_point(struct column *c, int64_t step, int64_t time_us, double value) {
    if (c->n == c->room) {
        c->room = c->room ? 2 * c->room : STEPS;
        c->p = realloc(c->p, c->room * sizeof *c->p);
        if (!c->p)
            abort();
    }
    c->p[c->n++] = (struct point){step, time_us, value};
}

// The first step from w->step on at which the job has any of the metrics; -1: there is none.
static int64_t first_step(const struct dd_wide *w, sqlite3 *db, int64_t job) {
    int64_t first = -1;
    for (size_t i = 0; i < w->n; i++) {
        const int64_t step = dd_sql_one(
            db, -1,
            "SELECT step FROM metrics WHERE job=? AND name=? AND step>=? ORDER BY step LIMIT 1",
            "iii", job, w->column[i].name, w->step);
        if (step >= 0 && (first < 0 || step < first))
            first = step;
    }
    return first;
}

static int read_column(sqlite3 *db, int64_t job, struct column *c, int64_t first, int64_t last) {
    struct dr_err ignored;
    int rc = SQLITE_ERROR;
    sqlite3_stmt *st = dd_sql_prepare(db, &ignored,
                                      "SELECT step, time_us, value FROM metrics WHERE job=? AND"
                                      " name=? AND step BETWEEN ? AND ? ORDER BY step",
                                      "iiii", job, c->name, first, last);
    while (st && (rc = sqlite3_step(st)) == SQLITE_ROW)
        add_point(c, sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1),
                  sqlite3_column_type(st, 2) == SQLITE_NULL ? (double)NAN
                                                            : sqlite3_column_double(st, 2));
    sqlite3_finalize(st);
    return rc == SQLITE_DONE ? 0 : -1;
}

// The next steps of the current job, in one read transaction. What a running job adds meanwhile
// comes with the next part, which begins behind the last row of this one.
static int read_steps(struct dd_wide *w) {
    struct dr_err ignored;
    const int64_t job = w->job[w->next - 1].id;
    sqlite3 *db = dd_store_reader(w->store, &ignored);
    int rc = db && !dd_sql_run(db, &ignored, "BEGIN", "") ? 0 : -1;
    const int64_t first = rc ? -1 : first_step(w, db, job);
    clear(w);
    w->more = first >= 0 && first <= w->to;
    const int64_t last = w->more && w->to - first >= STEPS ? first + STEPS - 1 : w->to;
    for (size_t i = 0; i < w->n && !rc && w->more; i++) {
        struct column *c = &w->column[i];
        rc = read_column(db, job, c, first, last);
        if (c->n && c->p[c->n - 1].step >= w->step)
            w->step = c->p[c->n - 1].step + 1;
    }
    sqlite3_close(db);
    return rc;
}

static struct column *column_of(const struct dd_wide *w, const char *name) {
    size_t i = 0;
    while (strcmp(w->name[i], name) != 0)
        i++;
    return &w->column[i];
}

// Some more buckets of the current job, which come metric by metric.
static int read_buckets(struct dd_wide *w) {
    struct dd_bucket b;
    int rc = 1;
    for (int k = 0; k < BUCKETS && (rc = dd_curve_next(w->curve, &b)) == 1; k++)
        add_point(column_of(w, b.name), b.step_last, b.time_us, b.mean);
    if (rc == 1)
        return 0;
    dd_curve_close(w->curve);
    w->curve = NULL;
    return rc;
}

static int open_job(struct dd_wide *w) {
    struct dr_err ignored;
    const int64_t id = w->job[w->next++].id;
    clear(w);
    w->step = w->from;
    w->more = !w->max_points;
    if (!w->n || !w->max_points)
        return 0;
    return dd_curve_open(w->store, id, (const char *const *)w->name, w->n, w->from, w->to,
                         w->max_points, &w->curve, &ignored)
               ? -1
               : 0;
}

// --- rows ---

static const struct point *head(const struct column *c) {
    return c->at < c->n ? &c->p[c->at] : NULL;
}

// The next row of what has been read. False: all of it was given out.
static bool merge(struct dd_wide *w, struct dd_wide_row *out) {
    const struct point *first = NULL, *p;
    for (size_t i = 0; i < w->n; i++)
        if ((p = head(&w->column[i])) && (!first || p->step < first->step))
            first = p;
    if (!first)
        return false;
    const struct job *job = &w->job[w->next - 1];
    *out = (struct dd_wide_row){.job = job->id,
                                .step = first->step,
                                .time_us = first->time_us,
                                .run = job->name,
                                .value = w->value,
                                .have = w->have};
    for (size_t i = 0; i < w->n; i++) {
        p = head(&w->column[i]);
        w->have[i] = p && p->step == out->step;
        w->value[i] = w->have[i] ? p->value : (double)NAN;
        w->column[i].at += w->have[i];
    }
    return true;
}

int dd_wide_try(struct dd_wide *w, struct dd_wide_row *out) {
    int rc;
    if (!w->curve && merge(w, out))
        return 1;
    if (w->curve)
        rc = read_buckets(w);
    else if (w->next && w->more)
        rc = read_steps(w);
    else if (w->next < w->njobs)
        rc = open_job(w);
    else
        return 0;
    return rc ? -1 : 2;
}

int dd_wide_next(struct dd_wide *w, struct dd_wide_row *out) {
    int rc;
    while ((rc = dd_wide_try(w, out)) == 2)
        ;
    return rc;
}
