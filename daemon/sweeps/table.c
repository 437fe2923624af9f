// The table of a sweep (sweeps.h): a row per configuration, rung and guidance scale, each metric as
// its mean and standard deviation over the seeds whose runs are complete.
#include "daemon/sweeps/priv.h"

#include "daemon/evals/evals.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

json_t *dd_sweep_file(sqlite3 *db, int64_t id, struct dr_err *err) {
    sqlite3_stmt *st = dd_sql_prepare(db, err, "SELECT file FROM sweeps WHERE id=?", "i", id);
    const bool found = st && sqlite3_step(st) == SQLITE_ROW;
    json_t *file = found ? json_loads((const char *)sqlite3_column_text(st, 0), 0, NULL) : NULL;
    sqlite3_finalize(st);
    if (st && !file)
        dr_fail(err, DR_ENOENT, "there is no sweep %lld", (long long)id);
    return file;
}

bool dd_sweep_evaluated(const char *metric) {
    int m;
    enum dd_eval_by by;
    struct dr_err ignored;
    return !dd_eval_metric_find(metric, &m, &by, "metric", &ignored);
}

struct dd_sweep_spread dd_sweep_spread(const json_t *list) {
    struct dd_sweep_spread s = {0, NAN, 0};
    double squares = 0;
    json_t *v;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)list, i, v) s.mean += json_number_value(v);
    s.n = (int)json_array_size(list);
    s.mean = s.n ? s.mean / s.n : NAN;
    json_array_foreach((json_t *)(uintptr_t)list, i, v) squares +=
        (json_number_value(v) - s.mean) * (json_number_value(v) - s.mean);
    if (s.n > 1)
        s.sd = sqrt(squares / (s.n - 1));
    return s;
}

// --- gathering ---

struct run {
    int64_t job, cell, rung, step, seed;
    double seconds;
    bool complete;
    const char *params, *label;
};

static void append(json_t *row, const char *name, double v) {
    json_t *values = json_object_get(row, "values"), *list = json_object_get(values, name);
    if (!isfinite(v))
        return;
    if (!list)
        json_object_set_new(values, name, list = json_array());
    json_array_append_new(list, json_real(v));
}

// The row of a run at a guidance scale (NaN: it has no evaluation), with the run noted.
static json_t *row_of(json_t *rows, const struct run *r, double alpha) {
    char key[64];
    snprintf(key, sizeof key, "%lld %.17g ", (long long)r->rung, alpha);
    char *whole = dd_printf("%s%s", key, r->params);
    json_t *row = json_object_get(rows, whole);
    if (!row) {
        row = json_pack("{s:o, s:s, s:I, s:o, s:i, s:i, s:[], s:[], s:{}}", "params",
                        json_loads(r->params, 0, NULL), "label", r->label, "rung",
                        (json_int_t)r->rung, "alpha", isnan(alpha) ? json_null() : json_real(alpha),
                        "runs", 0, "of", 0, "cells", "seeds", "values");
        json_object_set_new(rows, whole, row);
    }
    free(whole);
    json_object_set_new(row, "of",
                        json_integer(1 + json_integer_value(json_object_get(row, "of"))));
    json_array_append_new(json_object_get(row, "cells"), json_integer(r->cell));
    if (!r->complete)
        return row;
    json_object_set_new(row, "runs",
                        json_integer(1 + json_integer_value(json_object_get(row, "runs"))));
    json_array_append_new(json_object_get(row, "seeds"), json_integer(r->seed));
    append(row, "steps", (double)r->step);
    append(row, "seconds", r->seconds);
    return row;
}

// The evaluations of a run's last evaluated step, a row per guidance scale. These rows: none, where
// there are no evaluations.
static json_t *add_evals(sqlite3 *db, json_t *rows, const struct run *r, json_t *seen) {
    struct dr_err ignored;
    double last = NAN;
    json_t *row = NULL, *own = json_array();
    sqlite3_stmt *st = dd_sql_prepare(
        db, &ignored,
        "SELECT e.alpha, v.name, v.value FROM jobs p JOIN evals e ON e.eval_job=p.id JOIN"
        " eval_values v ON v.eval=e.id WHERE p.parent=?1 AND e.state='done' AND e.step=(SELECT"
        " max(x.step) FROM evals x JOIN jobs q ON q.id=x.eval_job WHERE q.parent=?1 AND"
        " x.state='done') ORDER BY e.alpha",
        "i", r->job);
    while (st && sqlite3_step(st) == SQLITE_ROW) {
        const double alpha = sqlite3_column_double(st, 0);
        const char *name = (const char *)sqlite3_column_text(st, 1);
        if (!row || alpha != last)
            json_array_append(own, row = row_of(rows, r, last = alpha));
        if (sqlite3_column_type(st, 2) != SQLITE_NULL)
            append(row, name, sqlite3_column_double(st, 2));
        json_object_set_new(seen, name, json_true());
    }
    sqlite3_finalize(st);
    return own;
}

// What training reported over the last tenth of its steps: the mean.
static double trained(sqlite3 *db, const struct run *r, const char *name) {
    struct dr_err ignored;
    sqlite3_stmt *st = dd_sql_prepare(
        db, &ignored,
        "SELECT avg(value) FROM metrics WHERE job=? AND name=(SELECT id FROM metric_names WHERE"
        " name=?) AND step>?",
        "iti", r->job, name, r->step - (r->step + 9) / 10);
    const double v =
        st && sqlite3_step(st) == SQLITE_ROW && sqlite3_column_type(st, 0) != SQLITE_NULL
            ? sqlite3_column_double(st, 0)
            : NAN;
    sqlite3_finalize(st);
    return v;
}

// Metrics that the file asks for; NULL: those that there are.
static const json_t *asked(const json_t *file) {
    return json_object_get(file, "metrics");
}

static void add_trained(sqlite3 *db, json_t *row, const struct run *r, const json_t *file) {
    const char *by = json_string_value(json_object_get(json_object_get(file, "search"), "metric"));
    bool search = by && !dd_sweep_evaluated(by); // by a metric of training, asked for or not
    json_t *m;
    size_t i;
    if (!asked(file)) {
        append(row, "loss", trained(db, r, "loss"));
        search &= by && strcmp(by, "loss");
    }
    json_array_foreach((json_t *)(uintptr_t)asked(file), i, m) {
        const char *name = json_string_value(m);
        if (!name || dd_sweep_evaluated(name))
            continue;
        append(row, name, trained(db, r, name));
        search &= by && strcmp(by, name);
    }
    if (search)
        append(row, by, trained(db, r, by));
}

// A run's place in the table, with training's numbers, which stand at every scale.
static void add_run(sqlite3 *db, const struct run *r, const json_t *file, json_t *rows,
                    json_t *seen) {
    json_t *own = r->complete ? add_evals(db, rows, r, seen) : json_array(), *row;
    size_t i;
    if (!json_array_size(own))
        json_array_append(own, row_of(rows, r, NAN));
    json_array_foreach(own, i, row) if (r->complete) add_trained(db, row, r, file);
    json_decref(own);
}

static int gather(sqlite3 *db, int64_t id, const json_t *file, json_t *rows, json_t *seen,
                  struct dr_err *err) {
    sqlite3_stmt *st = dd_sql_prepare(
        db, err,
        "SELECT coalesce(j.id,0), c.cell, coalesce(j.rung,0), j.step, c.seed, j.seconds,"
        " coalesce(j.state,'')='completed', c.params, c.label FROM sweep_cells c LEFT JOIN jobs j"
        " ON j.sweep=c.sweep AND j.cell=c.cell WHERE c.sweep=? ORDER BY j.rung, c.cell",
        "i", id);
    while (st && sqlite3_step(st) == SQLITE_ROW) {
        const struct run r = {.job = sqlite3_column_int64(st, 0),
                              .cell = sqlite3_column_int64(st, 1),
                              .rung = sqlite3_column_int64(st, 2),
                              .step = sqlite3_column_int64(st, 3),
                              .seed = sqlite3_column_int64(st, 4),
                              .seconds = sqlite3_column_double(st, 5),
                              .complete = sqlite3_column_int64(st, 6) != 0,
                              .params = (const char *)sqlite3_column_text(st, 7),
                              .label = (const char *)sqlite3_column_text(st, 8)};
        add_run(db, &r, file, rows, seen);
    }
    sqlite3_finalize(st);
    return st ? 0 : DR_EIO;
}

// --- the table ---

static json_t *finished(json_t *row) {
    json_t *values = json_object_get(row, "values"), *list, *out = json_object();
    const char *name;
    json_object_foreach(values, name, list) {
        const struct dd_sweep_spread s = dd_sweep_spread(list);
        json_object_set_new(out, name,
                            json_pack("{s:f, s:o, s:i}", "mean", s.mean, "sd",
                                      isnan(s.sd) ? json_null() : json_real(s.sd), "n", s.n));
    }
    static const char *const own[] = {"steps", "seconds"};
    for (int i = 0; i < 2; i++) {
        const json_t *mean = json_object_get(json_object_get(out, own[i]), "mean");
        json_object_set_new(row, own[i], mean ? json_real(json_real_value(mean)) : json_null());
        json_object_del(out, own[i]);
    }
    json_object_set_new(row, "values", out);
    return row;
}

char *dd_sweep_key(const json_t *row) {
    char *params = json_dumps(json_object_get(row, "params"), JSON_COMPACT | JSON_SORT_KEYS),
         *key = dd_printf("%lld %s", (long long)json_integer_value(json_object_get(row, "rung")),
                          params ? params : "");
    free(params);
    return key;
}

// How many rows each configuration has, by its key.
static json_t *count_rows(json_t *rows) {
    json_t *counts = json_object(), *row;
    const char *name;
    json_object_foreach(rows, name, row) {
        char *key = dd_sweep_key(row);
        const json_int_t n = json_integer_value(json_object_get(counts, key));
        json_object_set_new(counts, key, json_integer(n + 1));
        free(key);
    }
    return counts;
}

// A configuration of which some runs have no evaluation yet has a row for those; where it has
// others, these stand for it.
static bool empty_beside_others(const json_t *counts, const json_t *row) {
    if (json_integer_value(json_object_get(row, "runs")))
        return false;
    char *key = dd_sweep_key(row);
    const json_int_t n = json_integer_value(json_object_get(counts, key));
    free(key);
    return n > 1;
}

static void add_metric(json_t *list, const char *name) {
    int m = 0;
    enum dd_eval_by by;
    struct dr_err ignored;
    const bool eval = !dd_eval_metric_find(name, &m, &by, "metric", &ignored);
    const int better = dr_eval_metrics[m].better;
    const char *word = !eval ? NULL : better > 0 ? "higher" : better < 0 ? "lower" : "one";
    json_array_append_new(
        list, json_pack("{s:s, s:b, s:s?}", "name", name, "eval", eval, "better", word));
}

static json_t *metrics_of(const json_t *file, json_t *seen) {
    json_t *list = json_array(), *m;
    char name[DD_EVAL_NAME];
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)asked(file), i, m)
        add_metric(list, json_string_value(m));
    for (int k = 0; !asked(file) && k < 2 * DR_EVAL_METRICS; k++)
        if (json_object_get(seen, dd_eval_metric_name(k / 2, (enum dd_eval_by)(k % 2), name)))
            add_metric(list, name);
    if (!json_array_size(list))
        add_metric(list, "loss");
    return list;
}

static json_t *params_of(json_t *rows) {
    json_t *all = json_object(), *list = json_array(), *row, *v;
    const char *key, *name;
    json_object_foreach(rows, key, row) json_object_update(all, json_object_get(row, "params"));
    json_object_foreach(all, name, v) json_array_append_new(list, json_string(name));
    json_decref(all);
    return list;
}

json_t *dd_sweep_table_of(sqlite3 *db, int64_t id, struct dr_err *err) {
    json_t *file = dd_sweep_file(db, id, err), *rows = json_object(), *seen = json_object(),
           *list = json_array(), *row, *table = NULL;
    const char *key;
    if (file && !gather(db, id, file, rows, seen, err)) {
        json_t *counts = count_rows(rows);
        json_object_foreach(rows, key, row) if (!empty_beside_others(counts, row))
            json_array_append(list, finished(row));
        json_decref(counts);
        table = json_pack(
            "{s:o, s:o, s:o, s:O}", "params", params_of(rows), "metrics", metrics_of(file, seen),
            "halving",
            json_boolean(json_object_get(json_object_get(json_object_get(file, "search"), "budget"),
                                         "max") != NULL),
            "rows", list);
    }
    json_decref(list);
    json_decref(rows);
    json_decref(seen);
    json_decref(file);
    return table;
}

json_t *dd_sweep_table(struct dd_store *s, int64_t id, struct dr_err *err) {
    sqlite3 *db = dd_store_reader(s, err);
    json_t *table = db ? dd_sweep_table_of(db, id, err) : NULL;
    sqlite3_close(db);
    return table;
}

// --- as text ---

static void put_cell(FILE *f, enum dd_sweep_format how, const char *text) {
    if (how == DD_SWEEP_MARKDOWN) {
        fputs("| ", f);
        for (; *text; text++) {
            if (*text == '|')
                fputc('\\', f);
            fputc(*text == '\n' || *text == '\r' ? ' ' : *text, f);
        }
        fputc(' ', f);
        return;
    }
    const bool quote = strpbrk(text, "\",\r\n") != NULL;
    if (quote)
        fputc('"', f);
    for (; *text; text++)
        fprintf(f, *text == '"' ? "\"\"" : "%c", *text);
    fputs(quote ? "\"," : ",", f);
}

static void put_json(FILE *f, enum dd_sweep_format how, const json_t *v) {
    char *text = json_is_string(v) ? dd_xstrdup(json_string_value(v))
                 : json_is_real(v) ? dd_printf("%.9g", json_real_value(v))
                 : !v || json_is_null(v)
                     ? dd_xstrdup("")
                     : json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
    put_cell(f, how, text ? text : "");
    free(text);
}

static void put_metric(FILE *f, enum dd_sweep_format how, const json_t *v) {
    const json_t *sd = json_object_get(v, "sd"), *mean = json_object_get(v, "mean");
    char text[80] = "";
    if (how == DD_SWEEP_CSV) {
        put_json(f, how, mean);
        put_json(f, how, sd);
        put_json(f, how, v ? json_object_get(v, "n") : NULL);
        return;
    }
    if (mean && json_is_real(sd))
        snprintf(text, sizeof text, "%.4g ± %.2g", json_real_value(mean), json_real_value(sd));
    else if (mean)
        snprintf(text, sizeof text, "%.4g", json_real_value(mean));
    put_cell(f, how, text);
}

static void put_header(FILE *f, enum dd_sweep_format how, const json_t *table) {
    json_t *v;
    size_t i, n = 4;
    json_array_foreach(json_object_get(table, "params"), i, v) {
        put_json(f, how, v);
        n++;
    }
    if (json_is_true(json_object_get(table, "halving"))) {
        put_cell(f, how, "rung");
        n++;
    }
    put_cell(f, how, "alpha");
    put_cell(f, how, "runs");
    put_cell(f, how, "steps");
    put_cell(f, how, "seconds");
    json_array_foreach(json_object_get(table, "metrics"), i, v) {
        const char *name = json_string_value(json_object_get(v, "name"));
        n++;
        if (how == DD_SWEEP_MARKDOWN) {
            put_cell(f, how, name);
            continue;
        }
        static const char *const part[] = {"mean", "sd", "n"};
        for (int k = 0; k < 3; k++) {
            char text[80];
            snprintf(text, sizeof text, "%.60s_%s", name, part[k]);
            put_cell(f, how, text);
        }
    }
    for (i = 0; how == DD_SWEEP_MARKDOWN && i < n; i++)
        fputs(i ? "|---" : "|\n|---", f);
}

static void put_row(FILE *f, enum dd_sweep_format how, const json_t *table, const json_t *row) {
    static const char *const own[] = {"alpha", "runs", "steps", "seconds"};
    json_t *v;
    size_t i;
    json_array_foreach(json_object_get(table, "params"), i, v)
        put_json(f, how, json_object_get(json_object_get(row, "params"), json_string_value(v)));
    if (json_is_true(json_object_get(table, "halving")))
        put_json(f, how, json_object_get(row, "rung"));
    for (i = 0; i < DR_COUNT(own); i++)
        put_json(f, how, json_object_get(row, own[i]));
    json_array_foreach(json_object_get(table, "metrics"), i, v)
        put_metric(f, how,
                   json_object_get(json_object_get(row, "values"),
                                   json_string_value(json_object_get(v, "name"))));
}

int dd_sweep_text(struct dd_store *s, int64_t id, enum dd_sweep_format how, char **text,
                  size_t *size, struct dr_err *err) {
    json_t *table = dd_sweep_table(s, id, err), *row;
    if (!table)
        return err->code;
    FILE *f = open_memstream(text, size);
    size_t i;
    // The comma behind the last column of a CSV line is taken back.
    const char *const end = how == DD_SWEEP_MARKDOWN ? "|\n" : "\n";
    if (f) {
        put_header(f, how, table);
        if (how == DD_SWEEP_CSV)
            fseek(f, -1, SEEK_CUR);
        fputs(end, f);
    }
    json_array_foreach(json_object_get(table, "rows"), i, row) {
        if (!f)
            break;
        put_row(f, how, table, row);
        if (how == DD_SWEEP_CSV)
            fseek(f, -1, SEEK_CUR);
        fputs(end, f);
    }
    json_decref(table);
    return !f || fclose(f) ? dr_fail(err, DR_ENOMEM, "no memory for a table") : 0;
}
