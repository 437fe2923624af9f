// The configuration of a job as a client describes it (daemon.h).
#include "daemon/http/daemon.h"

#include "daemon/base/recipe.h"
#include "daemon/datasets/datasets.h"

#include <stdlib.h>
#include <string.h>

// The value of "section.key" in an object that may have it nested or dotted.
static const json_t *look(const json_t *o, const char *section, const char *key) {
    char dotted[64];
    snprintf(dotted, sizeof dotted, "%s.%s", section, key);
    const json_t *v = json_object_get(o, dotted);
    return v ? v : json_object_get(json_object_get(o, section), key);
}

// A copy of the keys that a client gives for a job (over `recipe`, or NULL), with data.size,
// data.channels and data.classes where it leaves them out and names a user's data set. *rc: that
// set is not ready.
static json_t *fill(struct dd *d, const char *recipe, const json_t *given, int *rc,
                    struct dr_err *err) {
    static const char *const keys[] = {"size", "channels", "classes"};
    struct dr_config base;
    struct dd_dataset_facts f;
    const json_t *set = look(given, "data", "set"), *path = look(given, "data", "path");
    json_t *out = given ? json_copy((json_t *)(uintptr_t)given) : json_object();
    *rc = 0;
    dr_config_defaults(&base);
    if (recipe && dd_recipe_named(d->opt.config_dir, recipe, &base, NULL))
        return out; // which will be said once it is loaded
    const bool folder = set ? !strcmp(json_is_string(set) ? json_string_value(set) : "", "folder")
                            : dd_dataset_named(&base.data);
    const char *name = path ? json_string_value(path) : base.data.path;
    if (!folder || !name || !*name)
        return out;
    *rc = dd_dataset_facts(d->store, name, &f, err);
    if (*rc) {
        *rc = *rc == DR_ENOENT ? 0 : *rc; // a folder of the data directory, perhaps
        return out;
    }
    const int64_t values[] = {f.size, f.channels, f.classes};
    char dotted[64];
    for (int i = 0; i < 3; i++) {
        snprintf(dotted, sizeof dotted, "data.%s", keys[i]);
        if (!look(given, "data", keys[i]))
            json_object_set_new(out, dotted, json_integer(values[i]));
    }
    return out;
}

// What a step draws, against what there is, before an encoder is trained for a job that cannot
// start.
static void check_step(const struct dr_config *cfg, const struct dd_dataset_facts *f,
                       struct dr_err *positives, struct dr_err *unconditional) {
    const struct dr_data_config *c = &cfg->data;
    const int64_t train = c->limit ? DR_MIN(c->limit, f->train) : f->train,
                  smallest = c->classes ? f->smallest : train;
    if (cfg->kind != DR_RECIPE_TRAIN)
        return;
    if (cfg->train.positives > smallest)
        dr_fail_at(positives, DR_ECONFIG, "train.positives",
                   "train.positives is %lld; %s%s%sthe data set %s has %lld pictures to train on: "
                   "at most as many%s",
                   (long long)cfg->train.positives, c->classes ? "class " : "",
                   c->classes ? f->of_smallest : "", c->classes ? " of " : "", c->path,
                   (long long)smallest,
                   smallest ? " (as `driftctl data train` takes)"
                            : ", so add the set anew: classes without any are then left out");
    if (cfg->train.unconditional > train)
        dr_fail_at(unconditional, DR_ECONFIG, "train.unconditional",
                   "train.unconditional is %lld; the data set %s has %lld pictures to train on",
                   (long long)cfg->train.unconditional, c->path, (long long)train);
}

// DR_ECONFIG where a configuration contradicts the user's set that it names; all of them go to
// *list.
static int fits(struct dd *d, const struct dr_config *cfg, struct dr_problems *list,
                struct dr_err *err) {
    struct dd_dataset_facts f;
    const struct dr_data_config *c = &cfg->data;
    struct dr_err e[5] = {0};
    if (!dd_dataset_named(c))
        return 0;
    int rc = dd_dataset_facts(d->store, c->path, &f, err);
    if (rc)
        return rc == DR_ENOENT ? 0 : rc;
    if (c->size != f.size)
        dr_fail_at(&e[0], DR_ECONFIG, "data.size",
                   "data.size is %lld; the pictures of the data set %s are %lldx%lld",
                   (long long)c->size, c->path, (long long)f.size, (long long)f.size);
    if (c->channels != f.channels)
        dr_fail_at(&e[1], DR_ECONFIG, "data.channels",
                   "data.channels is %lld; the data set %s has %lld", (long long)c->channels,
                   c->path, (long long)f.channels);
    if (c->classes && c->classes != f.classes) // 0: without labels
        dr_fail_at(&e[2], DR_ECONFIG, "data.classes",
                   "data.classes is %lld; the data set %s has %lld", (long long)c->classes, c->path,
                   (long long)f.classes);
    check_step(cfg, &f, &e[3], &e[4]);
    for (int i = 0; i < 5; i++) {
        if (!e[i].code)
            continue;
        if (!rc)
            *err = e[i];
        rc = DR_ECONFIG;
        dr_problems_add(list, &e[i]);
    }
    return rc;
}

// The recipe, or the configuration itself.
static int read_base(struct dd *d, const char *recipe, const json_t *keys, struct dr_config *cfg,
                     struct dr_problems *list, struct dr_err *err) {
    if (recipe)
        return dd_recipe_named_listed(d->opt.config_dir, recipe, cfg, list, err);
    char *text = json_dumps(keys, JSON_COMPACT);
    int rc =
        dr_config_parse_listed(text ? text : "", text ? strlen(text) : 0, "config", cfg, list, err);
    free(text);
    return rc;
}

// Nested or dotted; checked together, since one may need another. cfg NULL: each by itself.
static int read_overrides(const json_t *overrides, struct dr_config *cfg, struct dr_problems *list,
                          struct dr_err *err) {
    char *text = json_dumps(overrides, JSON_COMPACT);
    int rc =
        dr_config_merge_listed(cfg, text ? text : "", text ? strlen(text) : 0, NULL, list, err);
    free(text);
    return rc;
}

// What else is wrong with keys of which `first` is known.
static void add_others(struct dd *d, const json_t *keys, const struct dr_err *first,
                       struct dd_glue_found *found) {
    struct dr_config unused;
    struct dr_err e = *first;
    const size_t n = strlen(e.field);
    if (!strncmp(e.msg, e.field, n) && !strncmp(e.msg + n, ": ", 2)) // the list names the field
        memmove(e.msg, e.msg + n + 2, strlen(e.msg + n + 2) + 1);
    dr_problems_add(&found->list, &e);
    if (!read_base(d, NULL, keys, &unused, &found->list, NULL))
        found->list.n = 0;
    found->base = found->list.n;
}

int dd_glue_config(struct dd *d, const json_t *config, const json_t *overrides,
                   struct dr_config *out, struct dd_glue_found *found, struct dr_err *err) {
    const char *recipe = json_string_value(config);
    struct dr_problems *list = &found->list;
    int rc;
    json_t *keys = fill(d, recipe, recipe ? overrides : config, &rc, err);
    if (!rc && !recipe)
        rc = dd_glue_eval_fill(d, keys, err);
    if (recipe)
        overrides = json_object_size(keys) ? keys : NULL;
    if (rc) {
        if (!recipe && err->field[0])
            add_others(d, keys, err, found);
        json_decref(keys);
        return rc;
    }
    rc = read_base(d, recipe, keys, out, list, err);
    found->base = list->n;
    if (overrides) {
        const int refused = read_overrides(overrides, rc ? NULL : out, list, rc ? NULL : err);
        rc = rc ? rc : refused;
    }
    json_decref(keys);
    if (!rc) {
        rc = fits(d, out, list, err);
        found->base = overrides ? 0 : list->n;
    }
    return rc;
}
