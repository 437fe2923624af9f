// The table of job kinds (kinds.h).
#include "daemon/jobs/kinds.h"

#include <stdio.h>
#include <string.h>

const struct dd_job_kind *const dd_job_kinds[] = {&dd_kind_train, &dd_kind_encoder, &dd_kind_eval,
                                                  NULL};

int dd_job_kind_find(const struct dd_job_kind *const *table, const char *name,
                     const struct dd_job_kind **out, struct dr_err *err) {
    const char *names[DD_MAX_KINDS];
    char all[200] = "", built[200] = "";
    int n = 0;
    for (table = table ? table : dd_job_kinds; *table && n < DD_MAX_KINDS; table++) {
        const struct dd_job_kind *k = *table;
        if (!strcmp(k->name, name) && k->run) {
            *out = k;
            return 0;
        }
        size_t a = strlen(all), b = strlen(built);
        snprintf(all + a, sizeof all - a, "%s%s", a ? ", " : "", k->name);
        if (k->run)
            snprintf(built + b, sizeof built - b, "%s%s", b ? ", " : "", k->name);
        names[n++] = k->name;
    }
    for (int i = 0; i < n; i++)
        if (!strcmp(names[i], name))
            return dr_fail_at(err, DR_EUNSUPPORTED, "kind",
                              "kind: jobs of kind %s are not in this build, which has %s", name,
                              built);
    const char *near = dr_nearest(name, names, n);
    return dr_fail_at(err, DR_EINVAL, "kind", "kind: there is no kind %.40s%s%s%s; expected %s",
                      name, near ? "; did you mean `" : "", near ? near : "", near ? "`?" : "",
                      all);
}
