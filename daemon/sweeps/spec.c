// The file of a sweep (sweeps.h, docs/ablations.md): recipes x axes x points x seeds, each
// combination a cell with the overrides that it means.
#include "daemon/base/util.h"
#include "daemon/sweeps/sweeps.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 96, MAX_AXES = 16, MAX_NAME = 100, MAX_SEEDS = 100, MAX_POINTS = 500 };
// Values of all rules of `skip`; combinations that are looked at, left out or not.
enum { MAX_METRICS = 100, MAX_SKIP = 1000, MAX_TRIED = 100000 };
enum { MAX_RUNGS = 30 };              // from 2 steps to 1e9, with the smallest `keep`
static const double MAX_BUDGET = 1e9; // of train.steps

struct option {
    const json_t *config; // of the axis `recipe`
    json_t *params, *set; // what it is called; what it changes, dotted keys
    char path[PATH];
};
struct axis {
    int n;
    struct option *option;
};
struct parse {
    const json_t *file;
    json_t *problems;
    struct axis axis[MAX_AXES];
    int naxes;
    json_t *common, *eval; // dotted
    int64_t seed[MAX_SEEDS];
    int nseeds;
    struct dd_sweep_spec *out;
};

static json_t *loose(const json_t *v) { // jansson's loops take no const
    return (json_t *)(uintptr_t)v;
}

// A file of a megabyte could otherwise keep a processor for hours, or fill the memory.
static bool few(struct parse *p, const char *path, size_t n, size_t most, const char *what) {
    if (n > most)
        dd_sweep_problem(p->problems, path, "%zu %s; expected at most %zu", n, what, most);
    return n <= most;
}

// --- overrides ---

// {"train": {"steps": 5}} and {"train.steps": 5} alike, into `out`.
static void flatten(json_t *out, const char *prefix, const json_t *o) {
    const char *key;
    json_t *v;
    char path[200];
    json_object_foreach(loose(o), key, v) {
        snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", key);
        if (json_is_object(v))
            flatten(out, path, v);
        else
            json_object_set(out, path, v);
    }
}

// The overrides under a path of the file as dotted keys, empty where there are none.
static json_t *overrides(struct parse *p, const char *path, const json_t *o) {
    json_t *out = json_object();
    if (json_is_object(o))
        flatten(out, "", o);
    else if (o && !json_is_null(o))
        dd_sweep_problem(p->problems, path, "expected an object such as {\"optim.lr\": 0.001}");
    if (!few(p, path, json_object_size(out), DD_SWEEP_MAX_KEYS, "keys"))
        json_object_clear(out);
    return out;
}

static void check_keys(struct parse *p, const char *path, const json_t *o, const char *const *keys,
                       int n) {
    const char *key;
    json_t *v;
    char field[PATH], all[160] = "";
    for (int i = 0; i < n; i++) {
        const size_t at = strlen(all);
        snprintf(all + at, sizeof all - at, "%s%s", i ? ", " : "", keys[i]);
    }
    json_object_foreach(loose(o), key, v) {
        bool known = false;
        for (int i = 0; i < n; i++)
            known |= !strcmp(key, keys[i]);
        if (known)
            continue;
        const char *near = dr_nearest(key, keys, n);
        snprintf(field, sizeof field, "%s%s%.40s", path, *path ? "." : "", key);
        dd_sweep_problem(p->problems, field, "unknown key; %s %s%s",
                         near ? "did you mean" : "expected one of", near ? near : all,
                         near ? "?" : "");
    }
}

// --- axes ---

static struct option *add_option(struct axis *a, const char *path) {
    a->option = realloc(a->option, (size_t)(a->n + 1) * sizeof *a->option);
    if (!a->option)
        abort();
    struct option *o = &a->option[a->n++];
    *o = (struct option){.params = json_object()};
    snprintf(o->path, sizeof o->path, "%.*s", PATH - 1, path);
    return o;
}

static struct axis *add_axis(struct parse *p, const char *path) {
    if (p->naxes < MAX_AXES)
        return &p->axis[p->naxes++];
    dd_sweep_problem(p->problems, path, "more than %d axes", MAX_AXES - 2);
    return NULL;
}

// A recipe's name, a configuration, or {"config", "overrides"}.
static void add_recipe(struct parse *p, struct axis *a, const char *label, const json_t *v,
                       const char *path) {
    static const char *const keys[] = {"config", "overrides"};
    const json_t *config = json_object_get(v, "config"), *set = NULL;
    if (config) {
        check_keys(p, path, v, keys, 2);
        set = json_object_get(v, "overrides");
    } else {
        config = v;
    }
    if (!json_is_string(config) && !json_is_object(config)) {
        dd_sweep_problem(p->problems, path,
                         "expected the name of a recipe, a configuration, or {\"config\", "
                         "\"overrides\"}");
        return;
    }
    struct option *o = add_option(a, path);
    o->config = config;
    o->set = overrides(p, path, set);
    json_object_set_new(o->params, "recipe", json_string(label));
}

static void read_recipes(struct parse *p) {
    const json_t *list = json_object_get(p->file, "recipes");
    struct axis *a = add_axis(p, "recipes");
    const char *label;
    json_t *v;
    char path[PATH];
    size_t i;
    if (!few(p, "recipes", json_array_size(list) + json_object_size(list), DD_SWEEP_MAX_CELLS,
             "recipes"))
        return;
    json_array_foreach(loose(list), i, v) {
        snprintf(path, sizeof path, "recipes[%zu]", i);
        const char *name = json_string_value(v);
        for (size_t k = 0; name && k < i; k++)
            if (json_equal(v, json_array_get(list, k)))
                dd_sweep_problem(p->problems, path, "%.60s is there twice", name);
        if (name)
            add_recipe(p, a, name, v, path);
        else
            dd_sweep_problem(p->problems, path,
                             "expected the name of a recipe; use {\"LABEL\": ...} for others");
    }
    if (json_is_object(list))
        json_object_foreach(loose(list), label, v) {
            snprintf(path, sizeof path, "recipes.%.70s", label);
            add_recipe(p, a, label, v, path);
        }
    if (!json_array_size(list) && !json_object_size(list))
        dd_sweep_problem(p->problems, "recipes",
                         "expected a list of recipes, or an object {\"LABEL\": RECIPE}");
}

static void read_axis(struct parse *p, const char *name, const json_t *v) {
    static const char *const reserved[] = {"recipe", "seed", "alpha", "budget", "runs", "rung"};
    char path[PATH];
    const char *label;
    json_t *item;
    size_t i;
    snprintf(path, sizeof path, "axes.%.60s", name);
    for (i = 0; i < DR_COUNT(reserved); i++)
        if (!strcmp(name, reserved[i]))
            dd_sweep_problem(p->problems, path, "the name %s is taken; choose another", name);
    if (!json_array_size(v) && !json_object_size(v)) {
        dd_sweep_problem(p->problems, path,
                         "expected a list of values of the key %.40s, or an object {\"LABEL\": "
                         "{\"KEY\": VALUE}}",
                         name);
        return;
    }
    struct axis *a = add_axis(p, path);
    if (!a || !few(p, path, json_array_size(v) + json_object_size(v), DD_SWEEP_MAX_CELLS, "values"))
        return;
    json_array_foreach(loose(v), i, item) {
        char at[2 * PATH];
        snprintf(at, sizeof at, "%.80s[%zu]", path, i);
        struct option *o = add_option(a, at);
        for (size_t k = 0; k < i; k++)
            if (json_equal(item, json_array_get(v, k)))
                dd_sweep_problem(p->problems, at, "this value is there twice");
        json_object_set(o->params, name, item);
        o->set = json_pack("{s:O}", name, item);
    }
    if (!json_is_object(v))
        return;
    json_object_foreach(loose(v), label, item) {
        char at[2 * PATH];
        snprintf(at, sizeof at, "%.60s.%.30s", path, label);
        struct option *o = add_option(a, at);
        if (!json_is_object(item))
            dd_sweep_problem(p->problems, at, "expected an object {\"KEY\": VALUE}");
        json_object_set_new(o->params, name, json_string(label));
        o->set = overrides(p, at, json_is_object(item) ? item : NULL);
    }
}

static void read_axes(struct parse *p) {
    const json_t *axes = json_object_get(p->file, "axes");
    const char *name;
    json_t *v;
    if (axes && !json_is_object(axes))
        dd_sweep_problem(p->problems, "axes", "expected an object {\"NAME\": VALUES}");
    if (json_is_object(axes))
        json_object_foreach(loose(axes), name, v) read_axis(p, name, v);
}

// --- seeds, eval, search ---

static void read_seeds(struct parse *p) {
    const json_t *v = json_object_get(p->file, "seeds");
    const int64_t n = json_is_integer(v) ? json_integer_value(v)
                      : v                ? (int64_t)json_array_size(v)
                                         : 1;
    bool ok = n >= 1 && n <= MAX_SEEDS && (!v || json_is_integer(v) || json_is_array(v));
    for (int64_t i = 0; ok && i < n; i++) {
        const json_t *item = json_is_array(v) ? json_array_get(v, (size_t)i) : NULL;
        p->seed[i] = item ? json_integer_value(item) : i;
        ok = !item || (json_is_integer(item) && p->seed[i] >= 0);
        for (int64_t k = 0; ok && k < i; k++)
            ok = p->seed[k] != p->seed[i];
    }
    p->nseeds = ok ? (int)n : 1;
    if (!ok)
        dd_sweep_problem(p->problems, "seeds",
                         "expected how many, 1 to %d, or a list of different whole numbers",
                         MAX_SEEDS);
}

static void read_eval(struct parse *p) {
    const json_t *v = json_object_get(p->file, "eval");
    const char *key;
    json_t *item;
    char path[PATH];
    p->eval = json_object();
    if (v && !json_is_object(v))
        dd_sweep_problem(p->problems, "eval",
                         "expected an object such as {\"judge\": \"mnist-judge\", \"n\": 2000}");
    if (!json_is_object(v) || !few(p, "eval", json_object_size(v), DD_SWEEP_MAX_KEYS, "keys"))
        return;
    json_object_set_new(p->eval, "eval.at_end", json_true());
    json_object_foreach(loose(v), key, item) {
        static const char *const own[] = {"job", "checkpoint", "folder", "skip_existing"};
        snprintf(path, sizeof path, "eval.%.80s", key);
        for (size_t i = 0; i < DR_COUNT(own); i++)
            if (!strcmp(key, own[i]))
                dd_sweep_problem(p->problems, path,
                                 "is not for sweeps: each run evaluates its own checkpoint");
        if (!strcmp(key, "alpha") && json_is_number(item))
            json_object_set_new(p->eval, path, json_pack("[O]", item));
        else
            json_object_set(p->eval, path, item);
    }
}

static void count_rungs(struct parse *p, struct dd_sweep_halving *h) {
    double at = h->min;
    h->rungs = 1;
    if (h->keep < 2 || !(h->min > 0))
        return;
    for (; at < h->max * (1 - 1e-9) && h->rungs <= MAX_RUNGS; at *= h->keep)
        h->rungs++;
    if (h->rungs > MAX_RUNGS)
        dd_sweep_problem(
            p->problems, "search.budget",
            "leads from min to max in more than %d rungs; expected a greater min, or a "
            "greater search.keep",
            MAX_RUNGS);
}

static void read_budget(struct parse *p, const json_t *search) {
    static const char *const keys[] = {"key", "min", "max"}, *const goals[] = {"min", "max"};
    struct dd_sweep_halving *h = &p->out->halving;
    const json_t *b = json_object_get(search, "budget"), *keep = json_object_get(search, "keep"),
                 *lo = json_object_get(b, "min"), *hi = json_object_get(b, "max");
    const char *metric = json_string_value(json_object_get(search, "metric")),
               *key = json_string_value(json_object_get(b, "key")),
               *goal = json_string_value(json_object_get(search, "goal"));
    if (!json_is_object(b) || !json_is_number(lo) || !json_is_number(hi) ||
        !(json_number_value(lo) > 0 && json_number_value(lo) < json_number_value(hi) &&
          json_number_value(hi) <= MAX_BUDGET))
        dd_sweep_problem(p->problems, "search.budget",
                         "expected {\"key\": \"train.steps\", \"min\": 100, \"max\": 900}, min "
                         "above 0 and below max, max at most 1e9");
    else
        check_keys(p, "search.budget", b, keys, 3);
    if (key && strcmp(key, "train.steps") && strcmp(key, "train.minutes"))
        dd_sweep_problem(p->problems, "search.budget.key", "expected train.steps or train.minutes");
    const json_int_t every = json_is_integer(keep) ? json_integer_value(keep) : keep ? 0 : 3;
    h->keep = every >= 2 && every <= 100 ? (int)every : 0;
    if (!h->keep)
        dd_sweep_problem(p->problems, "search.keep",
                         "expected a whole number K from 2 to 100: the best of every K go on");
    if (!metric || !*metric || strlen(metric) >= sizeof h->metric)
        dd_sweep_problem(p->problems, "search.metric",
                         "is required: the metric that says which runs go on, such as fd");
    if (json_object_get(search, "goal") &&
        (!goal || (strcmp(goal, goals[0]) && strcmp(goal, goals[1]))))
        dd_sweep_problem(p->problems, "search.goal", "expected min or max");
    snprintf(h->key, sizeof h->key, "%s", key ? key : "train.steps");
    snprintf(h->metric, sizeof h->metric, "%s", metric ? metric : "");
    h->min = json_number_value(lo);
    h->max = json_number_value(hi);
    h->whole = !strcmp(h->key, "train.steps");
    count_rungs(p, h);
    h->most = goal && !strcmp(goal, "max");
}

static void read_search(struct parse *p) {
    static const char *const keys[] = {"kind",   "count", "seed",   "ranges",
                                       "metric", "goal",  "budget", "keep"};
    const json_t *s = json_object_get(p->file, "search"), *count = json_object_get(s, "count"),
                 *seed = json_object_get(s, "seed");
    const char *kind = json_string_value(json_object_get(s, "kind"));
    const bool halving = kind && !strcmp(kind, "halving");
    if (!s)
        return;
    if (!kind || (!halving && strcmp(kind, "random")))
        dd_sweep_problem(p->problems, "search.kind", "expected random or halving");
    check_keys(p, "search", s, keys, halving ? 8 : 4);
    if (halving)
        read_budget(p, s);
    const int64_t n = count ? json_integer_value(count) : 0;
    if (seed && (!json_is_integer(seed) || json_integer_value(seed) < 0))
        dd_sweep_problem(p->problems, "search.seed", "expected a whole number of at least 0");
    if (halving && !count && !json_object_get(s, "ranges"))
        return; // among the axes' combinations alone
    if (n < 1 || n > MAX_POINTS) {
        dd_sweep_problem(p->problems, "search.count", "expected a whole number from 1 to %d",
                         MAX_POINTS);
        return;
    }
    json_t *points = dd_sweep_draw(json_object_get(s, "ranges"), n, json_integer_value(seed),
                                   p->problems),
           *point;
    struct axis *a = points ? add_axis(p, "search") : NULL;
    size_t i;
    json_array_foreach(points, i, point) {
        struct option *o = a ? add_option(a, "search.ranges") : NULL;
        if (o) {
            json_object_update(o->params, point);
            o->set = json_copy(point);
        }
    }
    json_decref(points);
}

// --- cells ---

// Members of a `skip` entry against a cell: texts as they are, other values by their JSON.
static bool matches(const json_t *rule, const json_t *params) {
    const char *key;
    json_t *v;
    json_object_foreach(loose(rule), key, v) {
        const json_t *have = json_object_get(params, key), *one;
        bool hit = have && json_equal(loose(have), v);
        size_t i;
        if (json_is_array(v) && !json_is_array(have))
            json_array_foreach(v, i, one) hit |= have && json_equal(loose(have), loose(one));
        if (!hit)
            return false;
    }
    return true;
}

static bool skipped(const struct parse *p, const json_t *params) {
    json_t *rule;
    size_t i;
    json_array_foreach(json_object_get(p->file, "skip"), i,
                       rule) if (matches(rule, params)) return true;
    return false;
}

// Values in it, of lists and objects each.
static size_t count_values(const json_t *v) {
    size_t n = 1, i;
    const char *key;
    json_t *item;
    json_array_foreach(loose(v), i, item) n += count_values(item);
    json_object_foreach(loose(v), key, item) n += count_values(item);
    return n;
}

static void check_skip(struct parse *p) {
    const json_t *skip = json_object_get(p->file, "skip");
    json_t *rule, *v;
    const char *key;
    char path[PATH];
    size_t i;
    if (!few(p, "skip", count_values(skip), MAX_SKIP, "values"))
        return;
    if (skip && !json_is_array(skip))
        dd_sweep_problem(p->problems, "skip", "expected a list such as [{\"recipe\": \"kernel\"}]");
    json_array_foreach(loose(skip), i, rule) {
        snprintf(path, sizeof path, "skip[%zu]", i);
        if (!json_object_size(rule))
            dd_sweep_problem(p->problems, path, "expected an object {\"AXIS\": LABEL}");
        if (json_is_object(rule))
            json_object_foreach(rule, key, v) {
                bool known = false;
                for (int k = 0; k < p->naxes; k++)
                    known |= p->axis[k].n && json_object_get(p->axis[k].option[0].params, key);
                if (!known)
                    dd_sweep_problem(p->problems, path, "there is no axis %.60s", key);
            }
    }
}

static void take(struct dd_sweep_cell *c, const json_t *set, const char *path) {
    const char *key;
    json_t *v;
    json_object_foreach(loose(set), key, v) {
        char at[200];
        json_object_set(c->overrides, key, v);
        if (strstr(path, key)) // axes.optim.lr[0]
            snprintf(at, sizeof at, "%s", path);
        else
            snprintf(at, sizeof at, "%s%s%s", path, *path ? "." : "", key);
        json_object_set_new(c->from, key, json_string(at));
    }
}

static void add_label(struct dd_sweep_cell *c) {
    const char *key;
    json_t *v;
    json_object_foreach(c->params, key, v) {
        const size_t n = strlen(c->label);
        char *text = json_is_string(v) ? dd_xstrdup(json_string_value(v))
                                       : json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
        if (!strcmp(key, "recipe"))
            snprintf(c->label, sizeof c->label, "%.80s", text);
        else
            snprintf(c->label + n, sizeof c->label - n, "%s%.50s %.50s", n ? ", " : "", key, text);
        free(text);
    }
    dd_trim_text(c->label);
}

// Long values are cut and numbers rounded: where that leaves the same text of two configurations,
// the later one's number comes in front of it.
static void number_label(const struct dd_sweep_spec *s, struct dd_sweep_cell *c, int number) {
    bool taken = false;
    for (int i = 0; i < s->n && !taken; i++)
        taken = !strcmp(s->cell[i].label, c->label) && !json_equal(s->cell[i].params, c->params);
    if (!taken)
        return;
    char *label = dd_printf("(%d) %s", number, c->label);
    snprintf(c->label, sizeof c->label, "%s", label);
    dd_trim_text(c->label);
    free(label);
}

// The combination at[] with a seed.
static void add_cell(struct parse *p, const int *at, int64_t seed) {
    struct dd_sweep_spec *s = p->out;
    struct dd_sweep_cell c = {.params = json_object(), .seed = seed};
    for (int i = 0; i < p->naxes; i++)
        json_object_update(c.params, p->axis[i].option[at[i]].params);
    if (skipped(p, c.params) || s->n > DD_SWEEP_MAX_CELLS) {
        json_decref(c.params);
        return;
    }
    c.overrides = json_object();
    c.from = json_object();
    c.config = p->axis[0].option[at[0]].config;
    snprintf(c.recipe, sizeof c.recipe, "%s", p->axis[0].option[at[0]].path);
    take(&c, p->common, "overrides");
    for (int i = 0; i < p->naxes; i++)
        take(&c, p->axis[i].option[at[i]].set, p->axis[i].option[at[i]].path);
    take(&c, p->eval, "");
    few(p, "overrides", json_object_size(c.overrides), DD_SWEEP_MAX_KEYS, "keys in one run");
    json_object_set_new(c.overrides, "train.seed", json_integer(seed));
    json_object_set_new(c.from, "train.seed", json_string("seeds"));
    if (s->halving.keep) {
        json_t *budget = dd_sweep_budget(&s->halving, 0);
        take(&c, budget, "search.budget");
        json_decref(budget);
    }
    add_label(&c);
    number_label(s, &c, s->n / p->nseeds + 1); // seeds of a configuration follow each other
    s->cell = realloc(s->cell, (size_t)(s->n + 1) * sizeof *s->cell);
    if (!s->cell)
        abort();
    s->cell[s->n++] = c;
}

static void add_cells(struct parse *p) {
    int at[MAX_AXES] = {0}, tried = 0;
    for (int i = 0; i < p->naxes; i++)
        if (!p->axis[i].n)
            return;
    for (int i = 0; i >= 0 && p->out->n <= DD_SWEEP_MAX_CELLS && !json_array_size(p->problems);) {
        for (int k = 0; k < p->nseeds; k++)
            add_cell(p, at, p->seed[k]);
        for (i = p->naxes - 1; i >= 0 && ++at[i] == p->axis[i].n; i--)
            at[i] = 0;
        if ((tried += p->nseeds) > MAX_TRIED)
            dd_sweep_problem(p->problems, "axes",
                             "too many combinations with those of `skip`; expected at most %d",
                             MAX_TRIED);
    }
    if (p->out->n > DD_SWEEP_MAX_CELLS)
        dd_sweep_problem(p->problems, "axes", "more than %d runs in one sweep", DD_SWEEP_MAX_CELLS);
    if (!p->out->n && !json_array_size(p->problems))
        dd_sweep_problem(p->problems, "skip", "leaves nothing to run");
}

// Two axes must not change the same key: which one would win?
static void check_overlap(struct parse *p) {
    const char *key;
    json_t *v;
    for (int a = 1; a < p->naxes; a++)
        for (int b = 0; p->axis[a].n && b < a; b++)
            for (int i = 0; i < p->axis[b].n; i++)
                json_object_foreach(p->axis[b].option[i].set, key,
                                    v) if (b && json_object_get(p->axis[a].option[0].set, key))
                    dd_sweep_problem(p->problems, p->axis[a].option[0].path,
                                     "changes %.40s, which %.60s changes too", key,
                                     p->axis[b].option[i].path);
}

static void read_rest(struct parse *p) {
    const json_t *name = json_object_get(p->file, "name"),
                 *about = json_object_get(p->file, "about"),
                 *priority = json_object_get(p->file, "priority"),
                 *metrics = json_object_get(p->file, "metrics"), *m;
    size_t i;
    p->out->name = json_string_value(name);
    if (!p->out->name || !*p->out->name || strlen(p->out->name) > MAX_NAME)
        dd_sweep_problem(p->problems, "name", "is required: a text of at most %d bytes", MAX_NAME);
    if (about && !json_is_string(about))
        dd_sweep_problem(p->problems, "about", "expected a text");
    const json_int_t n = json_integer_value(priority);
    const bool fits = json_is_integer(priority) && n >= -1000 && n <= 1000;
    p->out->priority = fits ? (int)n : -1;
    if (priority && !fits)
        dd_sweep_problem(p->problems, "priority", "expected a whole number from -1000 to 1000");
    if (metrics && !json_array_size(metrics))
        dd_sweep_problem(p->problems, "metrics", "expected a list such as [\"fd\", \"accuracy\"]");
    few(p, "metrics", json_array_size(metrics), MAX_METRICS, "metrics");
    json_array_foreach(loose(metrics), i, m) if (!json_is_string(m))
        dd_sweep_problem(p->problems, "metrics", "expected names of metrics");
    p->common = overrides(p, "overrides", json_object_get(p->file, "overrides"));
}

bool dd_sweep_parse(const json_t *file, struct dd_sweep_spec *out, json_t *problems) {
    static const char *const keys[] = {"name",  "about", "recipes", "overrides", "axes",    "skip",
                                       "seeds", "eval",  "metrics", "search",    "priority"};
    struct parse p = {.file = file, .problems = problems, .out = out};
    *out = (struct dd_sweep_spec){0};
    if (!json_is_object(file)) {
        dd_sweep_problem(problems, "", "expected a JSON object");
        return false;
    }
    check_keys(&p, "", file, keys, (int)DR_COUNT(keys));
    read_rest(&p);
    read_recipes(&p);
    read_axes(&p);
    read_seeds(&p);
    read_eval(&p);
    read_search(&p);
    check_skip(&p);
    check_overlap(&p);
    if (!json_array_size(problems))
        add_cells(&p);
    for (int a = 0; a < p.naxes; a++) {
        for (int i = 0; i < p.axis[a].n; i++) {
            json_decref(p.axis[a].option[i].params);
            json_decref(p.axis[a].option[i].set);
        }
        free(p.axis[a].option);
    }
    json_decref(p.common);
    json_decref(p.eval);
    return !json_array_size(problems);
}

void dd_sweep_spec_free(struct dd_sweep_spec *s) {
    for (int i = 0; i < s->n; i++) {
        json_decref(s->cell[i].params);
        json_decref(s->cell[i].overrides);
        json_decref(s->cell[i].from);
    }
    free(s->cell);
    *s = (struct dd_sweep_spec){0};
}

json_t *dd_sweep_budget(const struct dd_sweep_halving *h, int rung) {
    const double v = fmin(h->max, h->min * pow(h->keep, rung));
    json_t *value = h->whole ? json_integer((json_int_t)llround(v)) : json_real(v);
    return json_pack("{s:o}", h->key, value);
}
