// Which metrics the runs of a sweep report is known before they train: the names are those of the
// trainers themselves.
#include "tests/daemon/helper.h"

#include "daemon/sweeps/priv.h"
#include "engine/drift.h"

#include <stdio.h>
#include <string.h>

enum { CONFIGS = 7, NAMES = 400 };

// Of every objective, field and kind of features.
static const char *const json[CONFIGS] = {
    "{\"loss\": {\"temperatures\": [0.05, 0.2]}}",
    "{\"loss\": {\"field\": \"kernel-l2\"}}",
    "{\"loss\": {\"field\": \"learned\", \"temperatures\": [0.05, 0.2]}}",
    "{\"features\": {\"kind\": \"kde\", \"kde_width\": 8}}",
    "{\"kind\": \"encoder\", \"encoder\": {\"objective\": \"classify\"}}",
    "{\"kind\": \"encoder\", \"encoder\": {\"objective\": \"autoencode\"}}",
    "{\"kind\": \"encoder\", \"encoder\": {\"objective\": \"both\"}}"};
static const char data[] =
    "{\"data\": {\"set\": \"digits\", \"count\": 200, \"size\": 8, \"fit\": \"resize\"}}";
static const char small_generator[] =
    "{\"model\": {\"dim\": 16, \"depth\": 1, \"heads\": 2, \"registers\": 1, \"style_tokens\": 2},"
    " \"train\": {\"classes\": 2, \"generated\": 4, \"positives\": 4}}";
static const char small_encoder[] =
    "{\"encoder\": {\"width\": 4, \"blocks\": [1, 1], \"groups\": 2, \"batch\": 16}}";

static struct dr_err err;
static char known[NAMES][40]; // of all of them together
static int nknown;

static void merge(struct dr_config *c, const char *text) {
    if (dr_config_merge(c, text, strlen(text), "test", &err))
        fail_msg("%s", err.msg);
}

static void configure(int i, struct dr_config *c) {
    // The data last: what the defaults ask for is more than so few pictures have.
    if (dr_config_parse(json[i], strlen(json[i]), "test", c, &err))
        fail_msg("%s", err.msg);
    merge(c, c->kind == DR_RECIPE_ENCODER ? small_encoder : small_generator);
    merge(c, data);
}

// The metrics of a trainer made for it, as a list with bars around each name.
static void ask_trainer(const struct dr_config *c, char *out, size_t size) {
    struct dr_backend *be;
    struct dr_dataset *d;
    struct dr_trainer *t;
    int n;
    if (dr_backend_open("cpu", 1, &be, &err))
        fail_msg("%s", err.msg);
    dr_backend_enter(be);
    if (dr_dataset_load(&c->data, NULL, false, &d, &err) || dr_trainer_create(c, be, d, &t, &err))
        fail_msg("%s", err.msg);
    const struct dr_metric_def *def = dr_trainer_metrics(t, &n);
    snprintf(out, size, "|");
    for (int i = 0; i < n; i++) {
        const size_t at = strlen(out);
        snprintf(out + at, size - at, "%s|", def[i].name);
        assert_true(nknown < NAMES);
        snprintf(known[nknown++], sizeof known[0], "%s", def[i].name);
    }
    dr_trainer_free(t);
    dr_dataset_free(d);
    dr_backend_free(be);
}

static void names_are_those_of_the_trainers(void **state) {
    (void)state;
    static struct dr_config c[CONFIGS];
    static char own[CONFIGS][4000];
    for (int i = 0; i < CONFIGS; i++) {
        configure(i, &c[i]);
        ask_trainer(&c[i], own[i], sizeof own[i]);
    }
    for (int i = 0; i < CONFIGS; i++)
        for (int k = 0; k < nknown; k++) {
            char barred[50];
            snprintf(barred, sizeof barred, "|%.40s|", known[k]);
            const bool reports = strstr(own[i], barred) != NULL;
            if (dd_sweep_reports(&c[i], known[k]) != reports)
                fail_msg("%s: %s is %sone of %s", json[i], known[k], reports ? "" : "not ", own[i]);
        }
    assert_false(dd_sweep_reports(&c[0], "los"));
    assert_false(dd_sweep_reports(&c[0], "drift_norm_2"));
    assert_false(dd_sweep_reports(&c[0], ""));
}

static void the_nearest_name_is_said(void **state) {
    (void)state;
    static const char *const wrong[][2] = {
        {"los", "did you mean loss?"}, {"acuracy", "accuracy"}, {"zebra", "such as loss"}};
    struct dr_config c;
    configure(0, &c);
    for (size_t i = 0; i < DR_COUNT(wrong); i++) {
        json_t *problems = json_array();
        dd_sweep_no_metric(problems, "metrics[0]", wrong[i][0], &c);
        const json_t *p = json_array_get(problems, 0);
        assert_string_equal(json_string_value(json_object_get(p, "field")), "metrics[0]");
        if (!strstr(json_string_value(json_object_get(p, "message")), wrong[i][1]))
            fail_msg("%s: %s", wrong[i][0], json_string_value(json_object_get(p, "message")));
        json_decref(problems);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(names_are_those_of_the_trainers),
                                       cmocka_unit_test(the_nearest_name_is_said)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
