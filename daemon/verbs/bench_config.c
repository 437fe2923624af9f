// What `driftd bench` runs: a recipe as it is, but on procedurally generated images (verbs.h).
#include "daemon/base/recipe.h"
#include "daemon/verbs/verbs.h"

#include <stdio.h>
#include <string.h>

int dd_bench_config(const char *name, int precision, struct dr_config *out, struct dr_err *err) {
    struct dr_config c;
    if (!strcmp(name, "tiny"))
        dr_config_defaults(&c);
    else {
        int rc = dd_recipe_builtin(name, &c, err);
        if (rc)
            return rc;
    }
    if (c.kind != DR_RECIPE_TRAIN || c.features.kind == DR_FEATURE_ENCODER)
        return dr_fail(err, DR_EUNSUPPORTED,
                       "%s trains %s: expected a recipe of a generator without an encoder "
                       "(tests/bench/step_bench measures this one)",
                       name,
                       c.kind != DR_RECIPE_TRAIN ? "an encoder" : "with an encoder's weights");
    const bool colour = c.data.channels == 3;
    const char *set[] = {"metrics.spread_every=0",
                         "data.count=2000",
                         "data.limit=0",
                         precision == DR_PREC_BF16 ? "train.precision=bf16"
                                                   : "train.precision=fp32",
                         colour ? "data.set=shapes" : "data.set=digits",
                         colour ? "data.classes=8" : "data.classes=10",
                         "data.path="};
    const int n = DR_COUNT(set) - (dr_set_facts(c.data.set)->made ? 3 : 0); // no files needed
    int rc = dr_config_set_all(&c, set, n, err);
    if (!rc)
        *out = c;
    return rc;
}
