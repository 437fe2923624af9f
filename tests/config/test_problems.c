// Configurations with several problems: all of them are listed, and none that rests on another.
#include "engine/config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

// `json` has exactly these problems, in this order: their fields, up to a NULL.
static void problems(const char *json, ...) {
    struct dr_config c;
    struct dr_problems list = {0};
    struct dr_err err = {0}, first = {0};
    dr_config_defaults(&c);
    const int64_t dim = c.model.dim;
    if (dr_config_parse_listed(json, strlen(json), "here", &c, &list, &err) != DR_ECONFIG)
        fail_msg("accepted: %s", json);
    assert_int_equal(c.model.dim, dim); // nothing is taken
    assert_int_equal(dr_config_parse(json, strlen(json), "here", &c, &first), DR_ECONFIG);
    assert_string_equal(err.msg, first.msg); // with a list or without
    assert_string_equal(err.field, first.field);
    assert_string_equal(err.msg, list.row[0].msg);
    va_list ap;
    va_start(ap, json);
    int n = 0;
    for (const char *field; (field = va_arg(ap, const char *)); n++) {
        if (n >= list.n || strcmp(list.row[n].field, field))
            fail_msg("%s: problem %d is `%s`, not `%s`", json, n,
                     n < list.n ? list.row[n].msg : "none", field);
        assert_int_equal(strncmp(list.row[n].msg, "here: ", 6), 0);
    }
    va_end(ap);
    if (list.n != n)
        fail_msg("%s: and `%s`", json, list.row[n].msg);
}

static void every_problem(void **state) {
    (void)state;
    // Wrong types, unknown keys, values out of range, contradictions.
    problems("{\"model\": {\"dim\": \"wide\", \"dpeth\": 3}, \"optim\": {\"lr\": -1},"
             " \"train\": {\"alpha_min\": 3, \"alpha_max\": 2}, \"metrics\": 7, \"surprise\": 1}",
             "model.dim", "model.dpeth", "optim.lr", "metrics", "surprise", "train.alpha_min",
             NULL);
    problems(
        "{\"model\": {\"heads\": 3, \"patch\": 7, \"label_dropout\": 0.1, \"null_class\": false},"
        " \"train\": {\"classes\": 500}}",
        "model.label_dropout", "model.heads", "model.patch", "train.classes", NULL);
    problems("{\"model.dim\": 64, \"model\": {\"dim\": 128}, \"ema.ramp\": 3}", "model.dim",
             "ema.ramp", NULL);
    problems("{\"encoder.width\": 8, \"encoder.batch\": 8, \"data.size\": 28}", "encoder.width",
             "encoder.batch", NULL);
    // What would be compared with a value that could not be taken.
    problems("{\"model\": {\"dim\": \"wide\", \"heads\": 3}}", "model.dim", NULL);
    problems("{\"model\": {\"dmi\": 96, \"heads\": 3}}", "model.dmi", NULL);
    problems("{\"model\": {\"arch\": \"none\", \"heads\": 3}, \"train.classes\": 11}", "model.arch",
             "train.classes", NULL);
    problems("{\"data\": {\"set\": \"none\"}, \"model.heads\": 3}", "data.set", NULL);
    problems("{\"kind\": \"none\", \"encoder.width\": 8}", "kind", NULL);
    problems("{\"data\": {\"classes\": \"none\", \"count\": 500}, \"train.positives\": 100}",
             "data.classes", NULL);
    problems("{\"model\": 3, \"data.size\": 27, \"features.patch4\": true}", "model",
             "features.patch4", NULL);
}

static void problems_of_changes(void **state) {
    (void)state;
    static const char *const set[] = {"optim.lr=-1", "model.hedas=3", "model.heads",
                                      "data.size=27"};
    struct dr_config c, before;
    struct dr_problems list = {0};
    struct dr_err err = {0};
    dr_config_defaults(&c);
    before = c;
    assert_int_equal(dr_config_set_listed(&c, set, 4, &list, &err), DR_ECONFIG);
    assert_memory_equal(&c, &before, sizeof c);
    assert_string_equal(err.field, "optim.lr");
    assert_true(list.n >= 4);
    assert_string_equal(list.row[1].field, "model.hedas");
    assert_non_null(strstr(list.row[2].msg, "KEY=VALUE"));
    list.n = 0; // each by itself: nothing about data.size
    assert_int_equal(dr_config_set_listed(NULL, set, 4, &list, NULL), DR_ECONFIG);
    assert_int_equal(list.n, 3);
    list.n = 0;
    const char json[] = "{\"optim.lr\": -1, \"model.heads\": 3, \"model.dim\": 256}";
    assert_int_equal(dr_config_merge_listed(NULL, json, sizeof json - 1, NULL, &list, NULL),
                     DR_ECONFIG);
    assert_int_equal(list.n, 1);
}

// More than a list holds are counted.
static void many_problems(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_problems list = {0};
    struct dr_err err = {0};
    json_t *o = json_object();
    for (int i = 0; i < DR_MAX_PROBLEMS + 5; i++) {
        char key[16];
        snprintf(key, sizeof key, "zzzzzz%d", i);
        json_object_set_new(o, key, json_true());
    }
    char *text = json_dumps(o, 0);
    assert_int_equal(dr_config_parse_listed(text, strlen(text), NULL, &c, &list, &err), DR_ECONFIG);
    assert_int_equal(list.n, DR_MAX_PROBLEMS);
    assert_int_equal(list.more, 5);
    free(text);
    json_decref(o);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_problem),
                                       cmocka_unit_test(problems_of_changes),
                                       cmocka_unit_test(many_problems)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
