// The sets of the build (engine/data/sets.def) as entries of the list: those procedurally generated
// and those whose files are in the data directory.
#include "daemon/datasets/datasets_priv.h"

#include <string.h>

// The row of a set that has a name of its own: not `idx` and `folder`, which need a path.
static const struct dr_set_facts *find(const char *name, int *set) {
    const struct dr_set_facts *f;
    for (*set = 0; (f = dr_set_facts(*set)); (*set)++)
        if (!f->folder && !strcmp(f->name, name))
            return f;
    return NULL;
}

bool dd_builtin_set(const char *name) {
    const struct dr_set_facts *f;
    for (int i = 0; (f = dr_set_facts(i)); i++)
        if (!strcmp(f->name, name))
            return true; // `folder` and `idx` too: they mean something else in a configuration
    return false;
}

static json_t *entry(const struct dd_datasets *d, const struct dr_set_facts *f) {
    const bool points = f->kind == DR_KIND_POINTS;
    struct dr_data_config cfg;
    const bool found = dd_builtin_config(f->name, &cfg) && dr_dataset_found(&cfg, d->env.data_dir);
    json_t *j = json_pack("{s:s, s:s, s:s, s:b, s:s}", "name", f->name, "kind",
                          points    ? "points"
                          : f->made ? "made"
                                    : "files",
                          "state", found ? "ready" : "missing", "own", 0, "source",
                          f->made ? "procedurally generated" : "the data directory");
    json_object_set_new(j, "size", f->side ? json_integer(f->side) : json_null());
    json_object_set_new(j, "channels",
                        points        ? json_integer(2)
                        : f->channels ? json_integer(f->channels)
                                      : json_null());
    json_object_set_new(j, "class_count", f->classes ? json_integer(f->classes) : json_null());
    return j;
}

void dd_builtin_sets(const struct dd_datasets *d, json_t *list) {
    const struct dr_set_facts *f;
    for (int i = 0; (f = dr_set_facts(i)); i++)
        if (!f->folder)
            json_array_append_new(list, entry(d, f));
}

json_t *dd_builtin_json(const struct dd_datasets *d, const char *name) {
    int set;
    const struct dr_set_facts *f = find(name, &set);
    return f ? entry(d, f) : NULL;
}

bool dd_builtin_config(const char *name, struct dr_data_config *out) {
    enum { SIDE = 32, COUNT = 2000 };
    struct dr_config c;
    int set;
    const struct dr_set_facts *f = find(name, &set);
    dr_config_defaults(&c);
    *out = c.data;
    if (!f)
        return false;
    out->set = set;
    out->size = DR_MAX(f->side, (int64_t)SIDE);
    out->classes = f->classes ? f->classes : out->classes;
    out->channels = f->channels ? f->channels : out->channels;
    out->count = COUNT;
    return true;
}
