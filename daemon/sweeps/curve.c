// A metric over steps for every configuration of a sweep (sweeps.h), as dd_eval_plot draws it: the
// k-th value of each seed's run makes point k, with the standard deviation over the seeds.
#include "daemon/sweeps/priv.h"

#include "daemon/evals/evals.h"
#include "daemon/store/metric_store.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS = 60 };

struct run {
    int64_t job, rung;
    bool rungs; // the sweep has more than one
    const char *label, *params;
};

// The series of a configuration at a guidance scale (NaN: none), made when it is new.
static json_t *series(json_t *all, const struct run *r, double alpha) {
    char *key = dd_printf("%lld %.17g %s", (long long)r->rung, alpha, r->params), more[60] = "";
    json_t *s = json_object_get(all, key);
    if (r->rungs)
        snprintf(more, sizeof more, ", rung %lld", (long long)r->rung);
    if (!isnan(alpha))
        snprintf(more + strlen(more), sizeof more - strlen(more), ", alpha %g", alpha);
    if (!s) {
        s = json_pack("{s:o, s:[]}", "label", json_sprintf("%s%s", r->label, more), "points");
        json_object_set_new(all, key, s);
    }
    free(key);
    return s;
}

static void add_point(json_t *s, size_t k, double step, double value) {
    json_t *points = json_object_get(s, "points");
    if (k >= json_array_size(points))
        json_array_append_new(points, json_pack("{s:[], s:[]}", "steps", "values"));
    json_t *p = json_array_get(points, k);
    if (!p || !isfinite(value))
        return;
    json_array_append_new(json_object_get(p, "steps"), json_real(step));
    json_array_append_new(json_object_get(p, "values"), json_real(value));
}

static void add_evals(sqlite3 *db, json_t *all, const struct run *r, const char *metric) {
    struct dr_err ignored;
    double last = NAN;
    size_t k = 0;
    sqlite3_stmt *st = dd_sql_prepare(
        db, &ignored,
        "SELECT e.alpha, e.step, v.value FROM jobs p JOIN evals e ON e.eval_job=p.id JOIN"
        " eval_values v ON v.eval=e.id AND v.name=? WHERE p.parent=? AND e.state='done' AND"
        " v.value IS NOT NULL ORDER BY e.alpha, e.step",
        "ti", metric, r->job);
    while (st && sqlite3_step(st) == SQLITE_ROW) {
        const double alpha = sqlite3_column_double(st, 0);
        k = alpha == last ? k + 1 : 0;
        last = alpha;
        add_point(series(all, r, alpha), k, sqlite3_column_double(st, 1),
                  sqlite3_column_double(st, 2));
    }
    sqlite3_finalize(st);
}

static void add_trained(struct dd_store *s, json_t *all, const struct run *r, const char *metric) {
    struct dd_curve *c;
    struct dd_bucket b;
    struct dr_err ignored;
    json_t *to = series(all, r, NAN);
    if (dd_curve_open(s, r->job, &metric, 1, 0, INT64_MAX, POINTS, &c, &ignored))
        return; // this run has not reported it
    for (size_t k = 0; dd_curve_next(c, &b) == 1; k++)
        add_point(to, k, (double)b.step_last, b.mean);
    dd_curve_close(c);
}

static json_t *finished(json_t *all) {
    json_t *list = json_array(), *s, *p;
    const char *name;
    size_t i;
    json_object_foreach(all, name, s) {
        json_t *points = json_array();
        json_array_foreach(json_object_get(s, "points"), i, p) {
            const struct dd_sweep_spread v = dd_sweep_spread(json_object_get(p, "values")),
                                         x = dd_sweep_spread(json_object_get(p, "steps"));
            if (v.n)
                json_array_append_new(
                    points, json_pack("{s:f, s:f, s:o}", "step", x.mean, "value", v.mean, "error",
                                      isnan(v.sd) ? json_null() : json_real(v.sd)));
        }
        json_object_set_new(s, "points", points);
        if (json_array_size(points))
            json_array_append(list, s);
    }
    return list;
}

struct chosen {
    const char *name;
    json_t *table; // holds the name where none was asked for
    bool in_table; // so runs report it, sooner or later
};

// The metric asked for, else the table's first.
static int choose(sqlite3 *db, int64_t id, const char *asked, struct chosen *out,
                  struct dr_err *err) {
    json_t *m;
    size_t i;
    out->table = dd_sweep_table_of(db, id, err);
    if (!out->table)
        return err->code;
    const json_t *metrics = json_object_get(out->table, "metrics");
    out->name = asked && *asked
                    ? asked
                    : json_string_value(json_object_get(json_array_get(metrics, 0), "name"));
    json_array_foreach(metrics, i, m) {
        const char *name = json_string_value(json_object_get(m, "name"));
        out->in_table |= !strcmp(name, out->name);
    }
    return 0;
}

static void no_such(const struct chosen *c, struct dr_err *err) {
    char names[200] = "";
    json_t *m;
    size_t i;
    json_array_foreach(json_object_get(c->table, "metrics"), i, m) {
        const size_t at = strlen(names);
        snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "",
                 json_string_value(json_object_get(m, "name")));
    }
    dr_fail_at(err, DR_EINVAL, "metric",
               "metric: no run of this sweep has reported %.40s; its table has %s", c->name, names);
}

json_t *dd_sweep_curve(struct dd_store *s, int64_t id, const char *asked, struct dr_err *err) {
    struct chosen metric = {0};
    sqlite3 *db = dd_store_reader(s, err);
    json_t *all = json_object(), *out = NULL;
    sqlite3_stmt *st =
        db && !choose(db, id, asked, &metric, err)
            ? dd_sql_prepare(
                  db, err,
                  "SELECT j.id, c.label, j.rung, w.rungs, c.params FROM sweep_cells c"
                  " JOIN jobs j ON j.sweep=c.sweep AND j.cell=c.cell JOIN sweeps w ON w.id=c.sweep"
                  " WHERE c.sweep=? ORDER BY j.rung, c.cell",
                  "i", id)
            : NULL;
    while (st && sqlite3_step(st) == SQLITE_ROW) {
        const struct run r = {.job = sqlite3_column_int64(st, 0),
                              .label = (const char *)sqlite3_column_text(st, 1),
                              .rung = sqlite3_column_int64(st, 2),
                              .rungs = sqlite3_column_int64(st, 3) > 1,
                              .params = (const char *)sqlite3_column_text(st, 4)};
        if (dd_sweep_evaluated(metric.name))
            add_evals(db, all, &r, metric.name);
        else
            add_trained(s, all, &r, metric.name);
    }
    json_t *series = finished(all);
    if (st && !json_array_size(series) && !metric.in_table)
        no_such(&metric, err);
    else if (st)
        out = json_pack("{s:s, s:s, s:O}", "metric", metric.name, "x", "step", "series", series);
    json_decref(series);
    json_decref(metric.table);
    sqlite3_finalize(st);
    sqlite3_close(db);
    json_decref(all);
    return out;
}
