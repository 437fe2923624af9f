// See changed.h.
#include "daemon/jobs/changed.h"

#include "daemon/base/util.h"
#include "daemon/store/store.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static json_t *tree(const struct dr_config *c) {
    char *text = dr_config_to_json(c);
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    return j;
}

// Members of `now` that `was` lacks or has otherwise, under dotted keys.
static void compare(json_t *was, json_t *now, const char *section, json_t *out) {
    const char *key;
    json_t *v;
    json_object_foreach(now, key, v) {
        json_t *old = json_object_get(was, key);
        if (json_is_object(v)) {
            compare(old, v, key, out);
        } else if (!json_equal(old, v) && !(json_is_number(old) && json_is_number(v) &&
                                            json_number_value(old) == json_number_value(v))) {
            char *path = section ? dd_printf("%s.%s", section, key) : dd_xstrdup(key);
            json_object_set(out, path, v);
            free(path);
        }
    }
}

char *dd_changed(const char *config_dir, const char *recipe, const struct dr_config *cfg) {
    struct dr_config base;
    struct dr_err ignored = {0};
    if (!config_dir || !recipe || dd_recipe_named(config_dir, recipe, &base, &ignored) ||
        base.kind != cfg->kind) {
        dr_config_defaults(&base);
        base.kind = cfg->kind;
    }
    json_t *was = tree(&base), *now = tree(cfg), *out = json_object();
    char *text = NULL;
    if (was && now && out) {
        json_object_del(now, "name");
        json_object_del(now, "about");
        json_object_del(now, "kind");
        compare(was, now, NULL, out);
        text = json_dumps(out, JSON_COMPACT | JSON_REAL_PRECISION(17));
    }
    json_decref(was);
    json_decref(now);
    json_decref(out);
    return text;
}

int dd_changed_fill(sqlite3 *db, void *config_dir, struct dr_err *err) {
    sqlite3_stmt *st = dd_sql_prepare(
        db, err, "SELECT id, recipe, config FROM jobs WHERE changed IS NULL ORDER BY id", "");
    int rc = st ? 0 : DR_EIO;
    while (!rc && sqlite3_step(st) == SQLITE_ROW) {
        const char *recipe = (const char *)sqlite3_column_text(st, 1),
                   *config = (const char *)sqlite3_column_text(st, 2);
        struct dr_config cfg;
        struct dr_err ignored = {0};
        if (!recipe || !config || dr_config_parse(config, strlen(config), NULL, &cfg, &ignored))
            continue;
        char *changed = dd_changed(config_dir, recipe, &cfg);
        rc = dd_sql_run(db, err, "UPDATE jobs SET changed=? WHERE id=?", "ti", changed,
                        sqlite3_column_int64(st, 0));
        free(changed);
    }
    sqlite3_finalize(st);
    return rc;
}
