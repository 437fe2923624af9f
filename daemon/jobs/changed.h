// What a job's configuration changes of its recipe, for lists that are compared.
#pragma once

#include "daemon/base/recipe.h"

#include <sqlite3.h>

// Keys of cfg that differ from the recipe of that name in config_dir as a JSON object of dotted
// keys
// ({"optim.lr": 0.002}), which as `overrides` of that recipe give cfg again; "name", "about" and
// "kind" are left out. Where there is no such recipe: what differs from the defaults. malloc'd;
// NULL: out of memory. Reads one file; any thread.
char *dd_changed(const char *config_dir, const char *recipe, const struct dr_config *cfg);
// dd_store_fn; arg: the folder of recipes. Fills in the jobs of earlier builds, which do not have
// it; one whose configuration cannot be read stays without.
int dd_changed_fill(sqlite3 *db, void *config_dir, struct dr_err *err);
