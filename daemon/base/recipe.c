// Looking up training configurations (recipe.h).
#include "daemon/base/recipe.h"

#include "daemon/base/util.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char reserved[] = "schema"; // GET /v1/configs/schema describes the keys

static int is_json(const struct dirent *e) {
    size_t n = strlen(e->d_name);
    return n > 5 && e->d_name[0] != '.' && !strcmp(e->d_name + n - 5, ".json");
}

// Names of the folder's recipes, sorted, the suffix cut off. Returns how many, or -errno.
static int names(const char *dir, struct dirent ***list) {
    int n = scandir(dir, list, is_json, alphasort);
    for (int i = 0; i < n; i++)
        (*list)[i]->d_name[strlen((*list)[i]->d_name) - 5] = 0;
    return n < 0 ? -errno : n;
}

static void names_free(struct dirent **list, int n) {
    for (int i = 0; i < n; i++)
        free(list[i]);
    if (n >= 0)
        free(list);
}

static int not_found(const char *dir, const char *name, struct dr_err *err) {
    struct dirent **list = NULL;
    int n = names(dir, &list);
    if (n < 0)
        return dr_fail(err, DR_ENOENT, "the folder of recipes %.200s cannot be read: %s", dir,
                       strerror(-n));
    const char **word = dd_xcalloc((size_t)n, sizeof *word);
    for (int i = 0; i < n; i++)
        word[i] = list[i]->d_name;
    const char *near = dr_nearest(name, word, n);
    char all[240] = "";
    for (int i = 0; !near && i < n && strlen(all) + strlen(word[i]) + 13 < sizeof all; i++) {
        strcat(all, i ? ", " : "; there are ");
        strcat(all, word[i]);
    }
    int rc = dr_fail(err, DR_ENOENT, "no recipe named %.100s in %.100s%s%.100s%s%s", name, dir,
                     near ? "; did you mean " : "", near ? near : "", near ? "?" : "", all);
    free(word);
    names_free(list, n);
    return rc;
}

// A name that JSON, URLs and terminals can carry.
static bool printable(const char *name) {
    bool ok = dd_is_utf8(name);
    for (; *name && ok; name++)
        ok = (unsigned char)*name >= 0x20 && *name != 0x7f && *name != '\\';
    return ok;
}

// Whether a recipe may have this name at all.
static int check_name(const char *config_dir, const char *name, size_t room, struct dr_err *err) {
    if (name[0] == '.' || !name[0] || strchr(name, '/'))
        return not_found(config_dir, name, err);
    if (!printable(name))
        return dr_fail(err, DR_EINVAL,
                       "the recipe's file name is not UTF-8, or has control characters or a "
                       "backslash: rename it");
    if (!strcmp(name, reserved))
        return dr_fail(err, DR_EINVAL,
                       "the name %s is reserved (/v1/configs/%s describes all keys): rename the "
                       "recipe's file",
                       reserved, reserved);
    if (strlen(name) >= room)
        return dr_fail(err, DR_EINVAL,
                       "the recipe's file name %.20s... is longer than %zu bytes: rename it", name,
                       room - 1);
    return 0;
}

int dd_recipe_named_listed(const char *config_dir, const char *name, struct dr_config *out,
                           struct dr_problems *list, struct dr_err *err) {
    struct dr_err why = {0};
    const int before = list ? list->n : 0;
    int rc = check_name(config_dir, name, sizeof out->name, &why);
    if (!rc) {
        char *path = dd_printf("%s/%s.json", config_dir, name);
        rc = dr_config_load_listed(path, out, list, &why);
        free(path);
        if (rc == DR_ENOENT)
            rc = not_found(config_dir, name, &why);
    }
    if (!rc && !out->name[0])
        memcpy(out->name, name, strlen(name));
    if (rc && list && list->n == before) // not a problem inside the file
        dr_problems_add(list, &why);
    if (rc && err)
        *err = why;
    return rc;
}

int dd_recipe_load_listed(const char *config_dir, const char *name, struct dr_config *out,
                          struct dr_problems *list, struct dr_err *err) {
    size_t n = strlen(name);
    if (strchr(name, '/') || (n > 5 && !strcmp(name + n - 5, ".json")))
        return dr_config_load_listed(name, out, list, err);
    return dd_recipe_named_listed(config_dir, name, out, list, err);
}

int dd_recipe_named(const char *config_dir, const char *name, struct dr_config *out,
                    struct dr_err *err) {
    return dd_recipe_named_listed(config_dir, name, out, NULL, err);
}

int dd_recipe_load(const char *config_dir, const char *name, struct dr_config *out,
                   struct dr_err *err) {
    return dd_recipe_load_listed(config_dir, name, out, NULL, err);
}

int dd_recipe_each(const char *config_dir,
                   void (*fn)(void *ctx, const char *name, const struct dr_config *cfg,
                              const char *error),
                   void *ctx, struct dr_err *err) {
    struct dirent **list = NULL;
    int n = names(config_dir, &list);
    if (n == -ENOENT)
        return 0;
    if (n < 0)
        return dr_fail(err, DR_EIO, "the folder of recipes %.200s cannot be read: %s", config_dir,
                       strerror(-n));
    for (int i = 0; i < n; i++) {
        struct dr_config cfg;
        struct dr_err why = {0};
        char *name = list[i]->d_name;
        int rc = dd_recipe_named(config_dir, name, &cfg, &why);
        if (!printable(name)) // shown with a question mark per byte that is not ASCII
            for (char *p = name; *p; p++)
                *p = *p < 0x20 || *p == 0x7f ? '?' : *p;
        fn(ctx, name, rc ? NULL : &cfg, rc ? why.msg : NULL);
    }
    names_free(list, n);
    return 0;
}

int dd_recipe_builtin(const char *name, struct dr_config *out, struct dr_err *err) {
    const struct dd_builtin_recipe *r = dd_builtin_recipes;
    int n = 0;
    for (; r[n].name; n++)
        if (!strcmp(r[n].name, name))
            return dr_config_parse(r[n].json, strlen(r[n].json), name, out, err);
    const char **word = dd_xcalloc((size_t)n, sizeof *word);
    for (int i = 0; i < n; i++)
        word[i] = r[i].name;
    const char *near = dr_nearest(name, word, n);
    free(word);
    return dr_fail(err, DR_ENOENT, "this build has no recipe named %.100s%s%s%s", name,
                   near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}
