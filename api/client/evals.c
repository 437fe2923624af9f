// Commands on evaluations: eval, evals, compare.
#include "api/client/ctl.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_PATH = 4096 };

// --- eval ---

enum { MAX_ALPHA = 1000 }; // the server's limit, of either sign

// "1,1.5" as a list of numbers; NULL and a message otherwise.
static json_t *alphas(const char *text) {
    json_t *list = json_array();
    for (const char *p = text; *p;) {
        char *end;
        const double v = strtod(p, &end);
        if (end == p || (*end && *end != ',') || !(fabs(v) <= MAX_ALPHA)) {
            fprintf(stderr,
                    "driftctl eval: --alpha takes numbers from -%d to %d with commas between, not "
                    "`%s`\n",
                    MAX_ALPHA, MAX_ALPHA, ctl_safe(text));
            json_decref(list);
            return NULL;
        }
        json_array_append_new(list, v == floor(v) ? json_integer((json_int_t)v) : json_real(v));
        p = *end ? end + 1 : end;
    }
    return list;
}

// Options that are members of the body under the same name, with - for _.
static int body_of(struct ctl *c, json_t **out) {
    static const char *const text[] = {"checkpoint", "job",     "folder", "split",
                                       "weights",    "metrics", "judge",  "inception",
                                       "resize",     "data",    "name"},
                             *const whole[] = {"n", "seed", "batch", "priority"};
    json_t *o = *out = json_object();
    for (size_t i = 0; i < sizeof text / sizeof *text; i++)
        if (ctl_get(c, text[i]))
            json_object_set_new(o, text[i], json_string(ctl_get(c, text[i])));
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        if (ctl_get(c, whole[i]))
            json_object_set_new(o, whole[i], json_integer((json_int_t)ctl_get_num(c, whole[i], 0)));
    if (ctl_get(c, "share"))
        json_object_set_new(o, "share", json_real(ctl_get_num(c, "share", 1)));
    if (ctl_get(c, "kind"))
        json_object_set_new(o, "kind", json_string(ctl_get(c, "kind")));
    if (ctl_get(c, "skip-existing"))
        json_object_set_new(o, "skip_existing", json_true());
    if (ctl_get(c, "allow-own-encoder"))
        json_object_set_new(o, "allow_own_encoder", json_true());
    if (ctl_get(c, "samples"))
        json_object_set_new(o, "samples", json_true());
    json_t *list = ctl_get(c, "alpha") ? alphas(ctl_get(c, "alpha")) : NULL;
    if (list)
        json_object_set_new(o, "alpha", list);
    else if (ctl_get(c, "alpha"))
        return CTL_USAGE;
    if (json_object_get(o, "data") && strchr(ctl_get(c, "data"), '{'))
        json_object_set_new(o, "data", json_loads(ctl_get(c, "data"), 0, NULL));
    return 0;
}

// Rows for a table: settings move up, and so do results, with their floors: "12.3 (1.2)".
static json_t *flat(const json_t *evals) {
    json_t *list = json_array();
    for (size_t i = 0; i < json_array_size(evals); i++) {
        json_t *e = json_array_get(evals, i), *row = json_copy(e), *v;
        const char *key;
        json_object_foreach(json_object_get(e, "settings"), key, v) if (!json_is_null(v))
            json_object_set(row, key, v);
        json_object_foreach(json_object_get(e, "results"), key, v) {
            const double value = json_number_value(v),
                         floor = ctl_num(json_object_get(e, "floors"), key);
            if (json_is_number(v))
                json_object_set_new(row, key,
                                    isnan(floor) ? json_sprintf("%.5g", value)
                                                 : json_sprintf("%.5g (%.3g)", value, floor));
        }
        json_array_append_new(list, row);
    }
    return list;
}

static bool any_has(const json_t *rows, const char *key) {
    for (size_t i = 0; i < json_array_size(rows); i++)
        if (json_object_get(json_array_get(rows, i), key))
            return true;
    return false;
}

// What a table shows: of all metrics of the reply those that a row has, or a usual few.
struct shown {
    char text[CTL_MAX_COLUMNS][64];
    const char *columns[CTL_MAX_COLUMNS + 1];
};

static void show(struct shown *s, const json_t *reply, const json_t *rows, bool all) {
    static const char *const first[] = {"ID:id",          "JOB:job",         "CHECKPOINT:name",
                                        "STEP:step:num",  "ALPHA:alpha:num", "N:n:num",
                                        "WEIGHTS:weights"},
                             *const last[] = {"STATE:state", "KEY:comparable", "ERROR:error"};
    static const char usual[] = " fid fd kid accuracy diversity ";
    const json_t *metrics = json_object_get(reply, "metrics");
    int n = 0;
    for (size_t i = 0; i < sizeof first / sizeof *first; i++)
        s->columns[n++] = first[i];
    for (size_t i = 0; i < json_array_size(metrics) && n < CTL_MAX_COLUMNS - 3; i++) {
        const char *name = ctl_str(json_array_get(metrics, i), "name");
        char word[34];
        snprintf(word, sizeof word, " %.31s ", name);
        if (!any_has(rows, name) || (!all && !strstr(usual, word)))
            continue;
        snprintf(s->text[n], sizeof s->text[n], "%.31s:%.31s", name, name);
        for (char *p = s->text[n]; *p != ':'; p++)
            *p = (char)toupper((unsigned char)*p);
        s->columns[n] = s->text[n];
        n++;
    }
    for (size_t i = 0; i < sizeof last / sizeof *last; i++)
        s->columns[n++] = last[i];
    s->columns[n] = NULL;
}

static int table(struct ctl *c, const char *query, bool all) {
    char *path = ctl_printf("/v1/evals%s", query);
    struct shown shown;
    json_t *o;
    int rc = ctl_get_list(c, path, "evals", &o);
    free(path);
    if (rc)
        return rc;
    json_t *rows = flat(json_object_get(o, "evals"));
    if (c->json)
        ctl_json(c, o);
    else {
        show(&shown, o, rows, all);
        ctl_table(c, rows, shown.columns);
    }
    json_decref(rows);
    json_decref(o);
    return 0;
}

static int make_folder(const char *path) {
    if (!mkdir(path, 0777) || errno == EEXIST)
        return 0;
    fprintf(stderr, "driftctl: %s: %s\n", ctl_safe(path), strerror(errno));
    return CTL_REFUSED;
}

static int save(struct ctl *c, const char *from, const char *dir, const char *name, bool json) {
    char *file = ctl_printf("%s/%s", dir, name);
    int rc = ctl_download(c, "GET", from, file, json);
    free(file);
    return rc;
}

static int save_artifacts(struct ctl *c, const json_t *row, const char *dir) {
    char *folder = ctl_printf("%s/artifacts/%s", dir, ctl_str(row, "id"));
    int rc = strchr(ctl_str(row, "id"), '/') ? CTL_REFUSED : make_folder(folder);
    const json_t *files = json_object_get(row, "artifacts");
    for (size_t i = 0; i < json_array_size(files) && !rc; i++) {
        const json_t *f = json_array_get(files, i);
        const char *name = ctl_str(f, "name");
        if (*name && *name != '.' && !strchr(name, '/'))
            rc = save(c, ctl_str(f, "url"), folder, name, true);
    }
    free(folder);
    return rc;
}

// The reference's file names: fid_metrics.csv, fid_vs_step.png, artifacts/ID/.
static int leave(struct ctl *c, const char *dir, const char *query) {
    char *sub = ctl_printf("%s/artifacts", dir), *csv = ctl_printf("/v1/evals.csv%s", query),
         *png = ctl_printf("/v1/evals/curve.png%s", query),
         *list = ctl_printf("/v1/evals%s&limit=1000", query);
    json_t *o = NULL;
    int rc = make_folder(dir);
    if (!rc)
        rc = make_folder(sub);
    if (!rc)
        rc = save(c, csv, dir, "fid_metrics.csv", false);
    if (!rc)
        rc = save(c, png, dir, "fid_vs_step.png", false);
    if (!rc)
        rc = ctl_get_list(c, list, "evals", &o);
    for (size_t i = 0; !rc && i < json_array_size(json_object_get(o, "evals")); i++)
        rc = save_artifacts(c, json_array_get(json_object_get(o, "evals"), i), dir);
    json_decref(o);
    free(sub);
    free(csv);
    free(png);
    free(list);
    return rc;
}

int ctl_cmd_eval(struct ctl *c) {
    static const char *const what[] = {"checkpoint", "job", "folder"};
    const char *dir = ctl_get(c, "output");
    struct ctl_reply r = {0};
    json_t *body;
    int named = 0;
    for (int i = 0; i < 3; i++)
        named += ctl_get(c, what[i]) != NULL;
    if (named != 1) {
        fprintf(stderr,
                "driftctl eval: exactly one of --checkpoint, --job and --folder is needed\n");
        return CTL_USAGE;
    }
    int rc = body_of(c, &body);
    if (!rc)
        rc = ctl_call(c, "POST", "/v1/evals", body, NULL, &r);
    json_decref(body);
    json_t *job = NULL;
    if (!rc)
        rc = ctl_answer(c, &r, "id", &job);
    ctl_reply_free(&r);
    if (rc)
        return rc;
    const bool wait = dir || ctl_get(c, "follow");
    char *id = ctl_printf("%s", ctl_str(job, "id")), *query = ctl_printf("?eval_job=%s", id);
    if (c->json && !wait)
        ctl_json(c, job);
    else if (!wait)
        fprintf(c->out, "%s\n", ctl_safe(id));
    json_decref(job);
    if (wait)
        rc = ctl_follow(c, id);
    if (wait && (!rc || rc == CTL_REFUSED)) { // a job that failed has rows as well
        char *all = ctl_printf("%s&limit=1000", query);
        const int listed = table(c, all, true);
        free(all);
        rc = rc ? rc : listed;
    }
    if (dir && !rc)
        rc = leave(c, dir, query);
    free(id);
    free(query);
    return rc;
}

// --- evals ---

static int act(struct ctl *c) {
    static const char *const actions[] = {"show", "remove"};
    const int action = ctl_action(c, actions, 2);
    if (action < 0)
        return CTL_USAGE;
    struct ctl_buf path = ctl_path("/v1/evals/", c->arg[1], "");
    const int rc =
        action == 0 ? ctl_show(c, path.s) : ctl_remove(c, path.s, "evaluation", c->arg[1]);
    free(path.s);
    return rc;
}

int ctl_cmd_evals(struct ctl *c) {
    static const char *const filters[] = {"job",  "eval-job", "checkpoint", "state",
                                          "data", "weights",  "alpha",      "n",
                                          "key",  "sort",     "limit"},
                             *const keys[] = {"job",        "eval_job", "checkpoint", "state",
                                              "data",       "weights",  "alpha",      "n",
                                              "comparable", "sort",     "limit"};
    const bool csv = ctl_get(c, "csv"), png = ctl_get(c, "png");
    if (ctl_get(c, "output") && (c->narg || !(csv || png))) {
        fprintf(stderr, "driftctl evals: --output goes with --csv or --png\n");
        return CTL_USAGE;
    }
    if (c->narg)
        return act(c);
    struct ctl_buf path = ctl_path("", "",
                                   csv   ? "/v1/evals.csv"
                                   : png ? "/v1/evals/curve.png"
                                         : "");
    for (size_t i = 0; i < sizeof keys / sizeof *keys - (csv || png ? 2 : 0); i++)
        ctl_query(&path, keys[i], ctl_get(c, filters[i]));
    if (png)
        ctl_query(&path, "metric", ctl_get(c, "metric"));
    const char *file = ctl_get(c, "output");
    const int rc = csv   ? ctl_download_text(c, path.s, file ? file : "-", false)
                   : png ? ctl_download(c, "GET", path.s, file ? file : "evals.png", false)
                         : table(c, path.s, false);
    free(path.s);
    return rc;
}

// --- compare ---

struct sides {
    json_t *a, *b; // runs
    bool jobs;     // of two eval jobs; else one run each, which the user has named
};

// Runs of one side: an evaluation, else those of an eval job.
static int side(struct ctl *c, const char *id, bool jobs, json_t **out) {
    struct ctl_buf path = jobs ? ctl_path("/v1/evals?limit=1000&state=done&eval_job=", id, "")
                               : ctl_path("/v1/evals/", id, "");
    json_t *o;
    int rc = ctl_get_json(c, path.s, &o);
    free(path.s);
    if (rc)
        return rc;
    *out = jobs ? json_incref(json_object_get(o, "evals")) : json_pack("[O]", o);
    json_decref(o);
    if (json_array_size(*out))
        return 0;
    fprintf(stderr, "driftctl compare: job %s has no finished evaluations\n", ctl_safe(id));
    json_decref(*out);
    *out = NULL;
    return CTL_REFUSED;
}

static double at(const json_t *row, const char *member, const char *key) {
    const json_t *v = json_object_get(json_object_get(row, member), key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static bool same_draw(const json_t *x, const json_t *y) {
    return at(x, "settings", "seed") == at(y, "settings", "seed") &&
           at(x, "settings", "alpha") == at(y, "settings", "alpha");
}

// Pictures and imported checkpoints have no training job, and no step to tell apart.
static bool same_step(const json_t *x, const json_t *y) {
    return !json_is_string(json_object_get(x, "job")) ||
           !json_is_string(json_object_get(y, "job")) || ctl_num(x, "step") == ctl_num(y, "step");
}

struct pairs {
    int n;
    double a, b, error; // sums; error: of squares of the runs' own
};

// Pairs of the runs of one seed that have a metric: of the same guidance scale and, where there are
// several runs, the same step.
static struct pairs pairs_of(const struct sides *s, double seed, const char *metric) {
    struct pairs p = {0};
    for (size_t i = 0; i < json_array_size(s->a); i++) {
        const json_t *x = json_array_get(s->a, i);
        const double u = at(x, "results", metric), eu = at(x, "errors", metric);
        if (isnan(u) || at(x, "settings", "seed") != seed)
            continue;
        for (size_t k = 0; k < json_array_size(s->b); k++) {
            const json_t *y = json_array_get(s->b, k);
            const double v = at(y, "results", metric), ev = at(y, "errors", metric);
            if (isnan(v) || !same_draw(x, y) || (s->jobs && !same_step(x, y)))
                continue;
            p.n++;
            p.a += u;
            p.b += v;
            p.error += eu * eu + ev * ev;
        }
    }
    return p;
}

struct difference {
    int pairs, seeds;
    double a, b, squares, error; // sums over seeds of means over pairs; squares: of b - a
};

// Pairs of one seed share its noise, and are one observation together.
static struct difference differences(const struct sides *s, const char *metric) {
    struct difference d = {0};
    for (size_t i = 0; i < json_array_size(s->a); i++) {
        const double seed = at(json_array_get(s->a, i), "settings", "seed");
        bool seen = false;
        for (size_t k = 0; k < i && !seen; k++)
            seen = at(json_array_get(s->a, k), "settings", "seed") == seed;
        const struct pairs p = seen ? (struct pairs){0} : pairs_of(s, seed, metric);
        if (!p.n)
            continue;
        const double gap = (p.b - p.a) / p.n;
        d.seeds++;
        d.pairs += p.n;
        d.a += p.a / p.n;
        d.b += p.b / p.n;
        d.squares += gap * gap;
        d.error += p.error / p.n;
    }
    return d;
}

// Standard error of the mean difference: over the seeds where there are several, else by the runs'
// own standard errors, as large as if those of one seed erred together. NaN: neither.
static double uncertainty(const struct difference *d) {
    const double n = d->seeds, mean = (d->b - d->a) / n;
    if (d->seeds > 1)
        return sqrt(fmax(d->squares / n - mean * mean, 0) / (n - 1));
    return sqrt(d->error);
}

static bool can_compare(const json_t *a, const json_t *b) {
    const char *key = ctl_str(json_array_get(a, 0), "comparable");
    bool same = true;
    for (size_t i = 0; i < json_array_size(a); i++)
        same &= !strcmp(key, ctl_str(json_array_get(a, i), "comparable"));
    for (size_t i = 0; i < json_array_size(b); i++)
        same &= !strcmp(key, ctl_str(json_array_get(b, i), "comparable"));
    return same;
}

static json_t *number(double v) {
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *compare(const struct sides *s) {
    json_t *list = json_array(), *v;
    const char *metric;
    json_object_foreach(json_object_get(json_array_get(s->a, 0), "results"), metric, v) {
        const struct difference d = differences(s, metric);
        if (!d.seeds)
            continue;
        const double a = d.a / d.seeds, b = d.b / d.seeds, e = uncertainty(&d);
        json_array_append_new(list,
                              json_pack("{s:s, s:i, s:i, s:f, s:f, s:f, s:o, s:o, s:s}", "metric",
                                        metric, "pairs", d.pairs, "seeds", d.seeds, "a", a, "b", b,
                                        "difference", b - a, "error", number(e), "errors_away",
                                        number(e > 0 ? (b - a) / e : NAN), "by",
                                        d.seeds > 1   ? "seeds"
                                        : isfinite(e) ? "runs"
                                                      : "unknown"));
    }
    return list;
}

// Says why there is nothing to compare, and what could be: runs limited by minutes end at different
// steps.
static int no_pairs(const struct sides *s) {
    const json_t *a = NULL, *b = NULL;
    for (size_t i = 0; s->jobs && i < json_array_size(s->a); i++)
        for (size_t k = 0; k < json_array_size(s->b); k++) {
            const json_t *x = json_array_get(s->a, i), *y = json_array_get(s->b, k);
            if (!same_draw(x, y) || same_step(x, y) ||
                (a && ctl_num(x, "step") + ctl_num(y, "step") <=
                          ctl_num(a, "step") + ctl_num(b, "step")))
                continue;
            a = x;
            b = y;
        }
    if (a)
        fprintf(stderr,
                "driftctl compare: no two of their runs are of the same step; for the last ones: "
                "driftctl compare %s %s\n",
                ctl_safe(ctl_str(a, "id")), ctl_safe(ctl_str(b, "id")));
    else
        fprintf(stderr, "driftctl compare: no metric was measured of two runs with the same seed "
                        "and guidance scale\n");
    return CTL_REFUSED;
}

int ctl_cmd_compare(struct ctl *c) {
    static const char *const shown[] = {"METRIC:metric",   "PAIRS:pairs:num",
                                        "SEEDS:seeds:num", "A:a:num",
                                        "B:b:num",         "B - A:difference:num",
                                        "+-:error:num",    "ERRORS AWAY:errors_away:num",
                                        "BY:by",           NULL};
    struct sides s = {.jobs = ctl_get(c, "jobs")};
    int rc = side(c, c->arg[0], s.jobs, &s.a);
    if (!rc)
        rc = side(c, c->arg[1], s.jobs, &s.b);
    if (!rc && !can_compare(s.a, s.b) && !ctl_get(c, "force")) {
        fprintf(stderr,
                "driftctl compare: these were not measured in the same way (data set, n, "
                "judge, resize: see `driftctl evals`); --force compares them all the same\n");
        rc = CTL_REFUSED;
    }
    json_t *list = rc ? NULL : compare(&s);
    if (list && !json_array_size(list))
        rc = no_pairs(&s);
    else if (list && c->json)
        ctl_json(c, list);
    else if (list)
        ctl_table(c, list, shown);
    json_decref(list);
    json_decref(s.a);
    json_decref(s.b);
    return rc;
}
