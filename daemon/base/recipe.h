// Recipes: training configurations by name (a JSON file of the config folder) or by file. Any
// thread.
#pragma once

#include "engine/config/config.h"

// config_dir/NAME.json for a name ("digits") and nothing else: what a client may ask for over HTTP,
// where a path would let it probe the file system. A name is at most 63 bytes of UTF-8 without
// control characters; `schema` is reserved. A recipe without `name` gets that of its file.
// DR_ENOENT lists the nearest name.
int dd_recipe_named(const char *config_dir, const char *name, struct dr_config *out,
                    struct dr_err *err);
// The same, but anything with a slash or a .json suffix is a file: what a user may say in a shell.
int dd_recipe_load(const char *config_dir, const char *name, struct dr_config *out,
                   struct dr_err *err);
// The same, with everything that is wrong in *list (dr_config_load_listed).
int dd_recipe_named_listed(const char *config_dir, const char *name, struct dr_config *out,
                           struct dr_problems *list, struct dr_err *err);
int dd_recipe_load_listed(const char *config_dir, const char *name, struct dr_config *out,
                          struct dr_problems *list, struct dr_err *err);
// Calls fn for each *.json of the folder, by name; cfg is NULL and `error` a sentence where it
// cannot be used (broken, not a regular file, a name that dd_recipe_named refuses). A folder that
// is not there has none; DR_EIO when it cannot be read.
int dd_recipe_each(const char *config_dir,
                   void (*fn)(void *ctx, const char *name, const struct dr_config *cfg,
                              const char *error),
                   void *ctx, struct dr_err *err);

// The recipes of this build (configs/*.json), compiled in; the last row has no name.
struct dd_builtin_recipe {
    const char *name, *json;
};
extern const struct dd_builtin_recipe dd_builtin_recipes[];
// One of them by name. DR_ENOENT lists the nearest name.
int dd_recipe_builtin(const char *name, struct dr_config *out, struct dr_err *err);
