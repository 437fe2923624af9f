// See metric_wide.h. The curves of a job are merged by step, as each of them is in that order.
#include "daemon/store/metric_wide.h"

#include "daemon/base/util.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct column {
    struct dd_curve *curve;
    struct dd_bucket head; // the next row, not yet given out
    bool has;
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
};

static void add_job(struct dd_wide *w, sqlite3_stmt *st) {
    struct job *grown = realloc(w->job, (w->njobs + 1) * sizeof *grown);
    if (!grown)
        abort();
    w->job = grown;
    const char *name = (const char *)sqlite3_column_text(st, 1);
    w->job[w->njobs++] = (struct job){sqlite3_column_int64(st, 0), dd_xstrdup(name ? name : "")};
}

static int read_jobs(struct dd_wide *w, sqlite3 *db, const int64_t *ids, size_t n,
                     struct dr_err *err) {
    for (size_t i = 0; i < n || (!n && !i); i++) {
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

int dd_wide_open(struct dd_store *s, const int64_t *jobs, size_t njobs, const char *const *names,
                 size_t nnames, int64_t from, int64_t to, int max_points, struct dd_wide **out,
                 struct dr_err *err) {
    struct dd_wide *w = dd_xcalloc(1, sizeof *w);
    *w = (struct dd_wide){.store = s, .from = from, .to = to, .max_points = max_points};
    sqlite3 *db = dd_store_reader(s, err);
    int rc = db ? read_jobs(w, db, jobs, njobs, err) : DR_EIO;
    if (!rc)
        rc = nnames ? take_names(w, names, nnames, err) : read_names(w, db, err);
    sqlite3_close(db);
    if (rc) {
        dd_wide_close(w);
        return rc;
    }
    w->column = dd_xcalloc(w->n + 1, sizeof *w->column);
    w->value = dd_xcalloc(w->n + 1, sizeof *w->value);
    w->have = dd_xcalloc(w->n + 1, sizeof *w->have);
    *out = w;
    return 0;
}

const char *const *dd_wide_names(const struct dd_wide *w, size_t *n) {
    *n = w->n;
    return (const char *const *)w->name;
}

static void close_columns(struct dd_wide *w) {
    for (size_t i = 0; w->column && i < w->n; i++) {
        dd_curve_close(w->column[i].curve);
        w->column[i] = (struct column){0};
    }
}

void dd_wide_close(struct dd_wide *w) {
    if (!w)
        return;
    close_columns(w);
    for (size_t i = 0; i < w->njobs; i++)
        free(w->job[i].name);
    for (size_t i = 0; i < w->n; i++)
        free(w->name[i]);
    free(w->job);
    free(w->name);
    free(w->column);
    free(w->value);
    free(w->have);
    free(w);
}

static int advance(struct column *c) {
    const int rc = dd_curve_next(c->curve, &c->head);
    c->has = rc == 1;
    return rc < 0 ? -1 : 0;
}

// The curves of the next job, each at its first row.
static int open_job(struct dd_wide *w) {
    struct dr_err ignored = {0};
    close_columns(w);
    const int64_t id = w->job[w->next++].id;
    for (size_t i = 0; i < w->n; i++) {
        const char *name = w->name[i];
        if (dd_curve_open(w->store, id, &name, 1, w->from, w->to, w->max_points,
                          &w->column[i].curve, &ignored) ||
            advance(&w->column[i]))
            return -1;
    }
    return 0;
}

int dd_wide_next(struct dd_wide *w, struct dd_wide_row *out) {
    for (;;) {
        const struct column *first = NULL;
        for (size_t i = 0; w->next && i < w->n; i++)
            if (w->column[i].has && (!first || w->column[i].head.step_last < first->head.step_last))
                first = &w->column[i];
        if (first) {
            const struct job *job = &w->job[w->next - 1];
            *out = (struct dd_wide_row){.job = job->id,
                                        .step = first->head.step_last,
                                        .time_us = first->head.time_us,
                                        .run = job->name,
                                        .value = w->value,
                                        .have = w->have};
            break;
        }
        if (w->next == w->njobs)
            return 0;
        if (open_job(w))
            return -1;
    }
    for (size_t i = 0; i < w->n; i++) {
        struct column *c = &w->column[i];
        w->have[i] = c->has && c->head.step_last == out->step;
        w->value[i] = w->have[i] ? c->head.mean : (double)NAN;
        if (w->have[i] && advance(c))
            return -1;
    }
    return 1;
}
