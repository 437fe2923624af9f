// The metrics of evaluations by the names that rows and the API have (evals.h).
#include "daemon/evals/evals.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const char *dd_eval_metric_name(int metric, enum dd_eval_by by, char out[DD_EVAL_NAME]) {
    const char *own = dr_eval_metrics[metric].name;
    if (by == DD_EVAL_BY_JUDGE)
        snprintf(out, DD_EVAL_NAME, "%s", own);
    else if (metric == DR_EVAL_FD)
        snprintf(out, DD_EVAL_NAME, "fid");
    else if (metric == DR_EVAL_FD_INF)
        snprintf(out, DD_EVAL_NAME, "fid_inf");
    else
        snprintf(out, DD_EVAL_NAME, "%s_inception", own);
    return out;
}

int dd_eval_metric_find(const char *name, int *metric, enum dd_eval_by *by, const char *field,
                        struct dr_err *err) {
    char all[2 * DR_EVAL_METRICS][DD_EVAL_NAME];
    const char *names[2 * DR_EVAL_METRICS];
    for (int i = 0; i < 2 * DR_EVAL_METRICS; i++) {
        names[i] = dd_eval_metric_name(i / 2, i % 2, all[i]);
        if (strcmp(name, names[i]))
            continue;
        *metric = i / 2;
        *by = i % 2;
        return 0;
    }
    const char *near = dr_nearest(name, names, 2 * DR_EVAL_METRICS);
    if (near)
        return dr_fail_at(err, DR_EINVAL, field, "%s: there is no metric %.40s; did you mean %s?",
                          field, name, near);
    char list[200] = "";
    for (int i = 0; i < DR_EVAL_METRICS; i++) {
        const size_t at = strlen(list);
        snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", dr_eval_metrics[i].name);
    }
    return dr_fail_at(
        err, DR_EINVAL, field,
        "%s: there is no metric %.40s; there are %s, and by Inception's features fid, "
        "fid_inf, kid_inception and so on",
        field, name, list);
}

int dd_eval_metrics_parse(const char *list, unsigned out[DD_EVAL_BYS], struct dr_err *err) {
    char word[DD_EVAL_NAME];
    out[0] = out[1] = 0;
    if (!strcmp(list, "all")) {
        out[0] = out[1] = DR_EVAL_ALL;
        return 0;
    }
    for (const char *p = list; *p;) {
        const size_t n = strcspn(p, ", ");
        int metric;
        enum dd_eval_by by;
        snprintf(word, sizeof word, "%.*s", (int)n, p);
        int rc = n ? dd_eval_metric_find(word, &metric, &by, "eval.metrics", err) : 0;
        if (rc)
            return rc;
        if (n)
            out[by] |= 1u << metric;
        p += n + strspn(p + n, ", ");
    }
    return out[0] | out[1] ? 0
                           : dr_fail_at(err, DR_EINVAL, "eval.metrics",
                                        "eval.metrics is empty; expected `all`, or names such as "
                                        "`fd,kid`");
}

bool dd_eval_better(int metric, double a, double b) {
    const int better = dr_eval_metrics[metric].better;
    return better ? better * a > better * b : fabs(a - 1) < fabs(b - 1);
}

json_t *dd_eval_metrics_json(void) {
    json_t *list = json_array();
    char name[DD_EVAL_NAME], help[300];
    for (int by = 0; by < DD_EVAL_BYS; by++)
        for (int i = 0; i < DR_EVAL_METRICS; i++) {
            const struct dr_eval_metric_def *d = &dr_eval_metrics[i];
            snprintf(help, sizeof help, "%s%s", d->help, by ? ", in features of Inception-v3" : "");
            json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s}", "name",
                                                  dd_eval_metric_name(i, (enum dd_eval_by)by, name),
                                                  "unit", d->unit, "help", help, "better",
                                                  d->better > 0   ? "higher"
                                                  : d->better < 0 ? "lower"
                                                                  : "one"));
        }
    return list;
}
