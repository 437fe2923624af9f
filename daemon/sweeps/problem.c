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

// What an objective reports is known to the engine once a trainer has been made; this is the same
// for configurations. tests/daemon/test_sweeps.c compares the two.
enum { KERNEL = 1, LEARNED = 2, KDE = 4, CLASSIFY = 8, AUTOENCODE = 16, BOTH = 32 };
enum { GENERATOR = KERNEL | LEARNED | KDE, LABELS = CLASSIFY | BOTH, ALL = 63, OPERATORS = 40 };
static const struct {
    const char *name;
    unsigned of;
} trained[] = {{"loss", ALL},
               {"drift_norm", GENERATOR},
               {"grad_norm", ALL},
               {"lr", ALL},
               {"step_seconds", ALL},
               {"loss_seconds", GENERATOR},
               {"feature_scale", GENERATOR},
               {"dist_mean", GENERATOR},
               {"dist_var", GENERATOR},
               {"alpha_mean", GENERATOR},
               {"spread", GENERATOR},
               {"spread_min", GENERATOR},
               {"encoder_seconds", GENERATOR},
               {"field_objective", LEARNED},
               {"field_agreement", LEARNED},
               {"field_grad_norm", LEARNED},
               {"encoder_loss", KDE},
               {"encoder_right", KDE},
               {"encoder_grad_norm", KDE},
               {"accuracy", LABELS},
               {"test_accuracy", LABELS},
               {"classify_loss", BOTH},
               {"autoencode_loss", BOTH},
               {"probe_accuracy", AUTOENCODE | BOTH}};

static unsigned objective(const struct dr_config *c) {
    static const unsigned encoder[] = {[DR_ENCODER_CLASSIFY] = CLASSIFY,
                                       [DR_ENCODER_AUTOENCODE] = AUTOENCODE,
                                       [DR_ENCODER_BOTH] = BOTH};
    if (c->kind == DR_RECIPE_ENCODER)
        return encoder[c->encoder.objective];
    return c->features.kind == DR_FEATURE_KDE  ? KDE
           : c->loss.field == DR_FIELD_LEARNED ? LEARNED
                                               : KERNEL;
}

struct names {
    int n;
    char text[DR_COUNT(trained) + DR_MAX_TAU + OPERATORS + 2 * DR_EVAL_METRICS][DD_EVAL_NAME];
};

static void add_numbered(struct names *names, const char *start, int n) {
    for (int i = 0; i < n; i++)
        snprintf(names->text[names->n++], DD_EVAL_NAME, "%s%d", start, i);
}

static void list_trained(const struct dr_config *c, struct names *names) {
    const unsigned of = objective(c);
    names->n = 0;
    for (size_t i = 0; i < DR_COUNT(trained); i++)
        if (trained[i].of & of)
            snprintf(names->text[names->n++], DD_EVAL_NAME, "%s", trained[i].name);
    if (of & GENERATOR) // one per temperature; of the learned field one in all
        add_numbered(names, "drift_norm_", of == LEARNED ? 1 : c->loss.ntau);
    if (of == LEARNED) // one per operator, of which the features have so many at most
        add_numbered(names, "field_grad_norm_", OPERATORS);
}

bool dd_sweep_reports(const struct dr_config *c, const char *metric) {
    struct names names;
    list_trained(c, &names);
    for (int i = 0; i < names.n; i++)
        if (!strcmp(names.text[i], metric))
            return true;
    return false;
}

void dd_sweep_no_metric(json_t *problems, const char *field, const char *metric,
                        const struct dr_config *c) {
    const char *list[DR_COUNT(((struct names *)0)->text)];
    struct names names;
    list_trained(c, &names);
    for (int i = 0; i < 2 * DR_EVAL_METRICS; i++)
        dd_eval_metric_name(i / 2, (enum dd_eval_by)(i % 2), names.text[names.n++]);
    for (int i = 0; i < names.n; i++)
        list[i] = names.text[i];
    const char *near = dr_nearest(metric, list, names.n);
    dd_sweep_problem(problems, field,
                     "no run of this sweep reports %.40s%s%s%s; expected a metric of training such "
                     "as loss, or of evaluations such as fd",
                     metric, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}
