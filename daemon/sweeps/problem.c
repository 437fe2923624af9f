// What is wrong with a sweep's file, collected (sweeps.h), and which metrics a run reports
// (priv.h).
#include "daemon/sweeps/priv.h"

#include "daemon/evals/evals.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void dd_sweep_problem(json_t *problems, const char *field, const char *fmt, ...) {
    char text[400];
    struct dr_err e = {0}; // cuts texts between characters
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    dr_fail_at(&e, DR_ECONFIG, field, "%.240s", text);
    json_t *p = json_pack("{s:s, s:s}", "field", e.field, "message", e.msg), *have;
    size_t i;
    if (!p)
        p = json_pack("{s:s, s:s}", "field", "", "message", "a name that is no UTF-8 text");
    bool known = json_array_size(problems) == DD_SWEEP_MAX_PROBLEMS;
    json_array_foreach(problems, i, have) known |= json_equal(have, p);
    if (!known)
        json_array_append(problems, p);
    json_decref(p);
}

// --- metrics ---

bool dd_sweep_reports(const struct dr_config *c, const char *metric) {
    int n;
    const struct dr_metric_def *def = dr_train_metrics(c, &n);
    for (int i = 0; i < n; i++)
        if (!strcmp(def[i].name, metric))
            return true;
    return false;
}

void dd_sweep_no_metric(json_t *problems, const char *field, const char *metric,
                        const struct dr_config *c) {
    char evaluated[2 * DR_EVAL_METRICS][DD_EVAL_NAME];
    const char *list[DR_MAX_METRICS + DR_COUNT(evaluated)];
    int n;
    const struct dr_metric_def *def = dr_train_metrics(c, &n);
    for (int i = 0; i < n; i++)
        list[i] = def[i].name;
    for (int i = 0; i < 2 * DR_EVAL_METRICS; i++)
        list[n++] = dd_eval_metric_name(i / 2, (enum dd_eval_by)(i % 2), evaluated[i]);
    const char *near = dr_nearest(metric, list, n);
    dd_sweep_problem(problems, field,
                     "no run of this sweep reports %.40s%s%s%s; expected a metric of training such "
                     "as loss, or of evaluations such as fd",
                     metric, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}
