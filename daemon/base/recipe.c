// Looking up training configurations (recipe.h).
#include "daemon/base/recipe.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_json(const struct dirent *e) {
    size_t n = strlen(e->d_name);
    return n > 5 && e->d_name[0] != '.' && !strcmp(e->d_name + n - 5, ".json");
}

static int not_found(const char *dir, const char *name, struct dr_err *err) {
    struct dirent **list = NULL;
    const char *names[256];
    int n = scandir(dir, &list, is_json, alphasort), k = 0;
    for (int i = 0; i < n; i++) {
        list[i]->d_name[strlen(list[i]->d_name) - 5] = 0;
        if (k < 256)
            names[k++] = list[i]->d_name;
    }
    const char *near = dr_nearest(name, names, k);
    char all[240] = "";
    for (int i = 0; !near && i < k && strlen(all) + strlen(names[i]) + 13 < sizeof all; i++) {
        strcat(all, i ? ", " : "; there are ");
        strcat(all, names[i]);
    }
    int rc = dr_fail(err, DR_ENOENT, "no recipe named %.100s in %.100s%s%s%s%s", name, dir,
                     near ? "; did you mean " : "", near ? near : "", near ? "?" : "", all);
    for (int i = 0; i < n; i++)
        free(list[i]);
    free(list);
    return rc;
}

int dd_recipe_named(const char *config_dir, const char *name, struct dr_config *out,
                    struct dr_err *err) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.json", config_dir, name);
    if (name[0] == '.' || !name[0] || strchr(name, '/') || access(path, R_OK))
        return not_found(config_dir, name, err);
    int rc = dr_config_load(path, out, err);
    if (!rc && !out->name[0])
        snprintf(out->name, sizeof out->name, "%s", name);
    return rc;
}

int dd_recipe_load(const char *config_dir, const char *name, struct dr_config *out,
                   struct dr_err *err) {
    size_t n = strlen(name);
    if (strchr(name, '/') || (n > 5 && !strcmp(name + n - 5, ".json")))
        return dr_config_load(name, out, err);
    return dd_recipe_named(config_dir, name, out, err);
}

void dd_recipe_each(const char *config_dir,
                    void (*fn)(void *ctx, const char *name, const struct dr_config *cfg,
                               const char *error),
                    void *ctx) {
    struct dirent **list = NULL;
    int n = scandir(config_dir, &list, is_json, alphasort);
    for (int i = 0; i < n; i++) {
        struct dr_config cfg;
        struct dr_err err = {0};
        list[i]->d_name[strlen(list[i]->d_name) - 5] = 0;
        int rc = dd_recipe_named(config_dir, list[i]->d_name, &cfg, &err);
        fn(ctx, list[i]->d_name, rc ? NULL : &cfg, rc ? err.msg : NULL);
        free(list[i]);
    }
    free(list);
}
