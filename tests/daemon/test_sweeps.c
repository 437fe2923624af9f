// Which metrics the runs of a sweep report is known before they train: the names are those of the
// trainers themselves. Configurations whose labels are cut alike stay different ones.
#include "tests/daemon/helper.h"

#include "daemon/base/util.h"
#include "daemon/sweeps/priv.h"
#include "engine/drift.h"

#include <stdio.h>
#include <stdlib.h>
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

// --- labels that are cut ---

enum { ALIKE = 4, SEEDS = 2 };
// A search over these values of `about`, which changes nothing.
#define HALVING(values)                                                                            \
    "{\"name\": \"few\", \"recipes\": {\"r\": {\"config\": {}}}, \"axes\": {\"about\": [" values   \
    "]}, \"search\": {\"kind\": \"halving\", \"metric\": \"loss\", \"keep\": 2, \"budget\": "      \
    "{\"key\":"                                                                                    \
    " \"train.steps\", \"min\": 2, \"max\": 4}}, \"seeds\": "
#define LONG                                                                                       \
    "the fiftieth byte is in a letter: \u3042\u3042\u3042\u3042\u3042\u3042\u3042\u3042\u3042"
static const char alike[] =
    HALVING("\"" LONG "1\", \"" LONG "2\", \"" LONG "3\", \"" LONG "4\"") "2}";
static const char two[] = HALVING("\"a\", \"b\"") "1}";

static struct world w;
static bool needs;        // an encoder and a judge, jobs 2 and 1
static const char *start; // init_from of the runs, NULL: none

static int build(void *ctx, const json_t *config, const json_t *overrides, struct dr_config *out,
                 struct dr_problems *list, struct dr_err *e) {
    (void)ctx, (void)config;
    char *text = json_dumps(overrides, JSON_COMPACT);
    test_tiny(out, 2);
    if (start)
        snprintf(out->init_from, sizeof out->init_from, "%s", start);
    if (needs) {
        out->features.kind = DR_FEATURE_ENCODER;
        snprintf(out->features.encoder, sizeof out->features.encoder, "encoder");
        snprintf(out->eval.judge, sizeof out->eval.judge, "judge");
        out->eval.at_end = true;
        out->eval.n = 100;
    }
    const int rc = dr_config_merge_listed(out, text, strlen(text), NULL, list, e);
    free(text);
    return rc;
}

// Every job completes, with its number as its loss; *runs of them, and what they need. Their labels
// are as an earlier driftd has left them.
static int complete(sqlite3 *db, void *runs, struct dr_err *e) {
    const int n = *(int *)runs + 2 * needs;
    struct dd_metric_batch *b = dd_xcalloc(1, sizeof *b + (size_t)n * sizeof *b->row);
    for (b->n = 0; b->n < n; b->n++)
        b->row[b->n] = (struct dd_row){.job = b->n + 1,
                                       .step = 2,
                                       .table = test_metric(w.store, "loss"),
                                       .mask = 1,
                                       .v[0] = b->n + 1};
    int rc = dd_metrics_insert(db, b, e);
    free(b);
    if (!rc)
        rc = dd_sql_run(db, e,
                        "INSERT INTO checkpoints(job,kind,step,path,sha256,bytes,config,"
                        "created_us) SELECT id,kind,2,id,'',0,'{}',id FROM jobs",
                        "");
    if (!rc)
        rc = dd_sql_run(db, e, "UPDATE sweep_cells SET label='cut alike'", "");
    return rc ? rc : dd_sql_run(db, e, "UPDATE jobs SET state='completed', step=2", "");
}

static void labels_differ(const json_t *preview) {
    for (size_t i = 0; i < ALIKE * SEEDS; i++)
        for (size_t k = 0; k < i; k++) {
            const json_t *a = json_object_get(json_array_get(preview, i), "label"),
                         *b = json_object_get(json_array_get(preview, k), "label");
            assert_non_null(a);
            assert_int_equal(json_equal((json_t *)(uintptr_t)a, (json_t *)(uintptr_t)b),
                             i / SEEDS == k / SEEDS);
        }
}

static void long_values_are_told_apart(void **state) {
    (void)state;
    json_t *file = json_loads(alike, 0, NULL), *problems = json_array();
    struct dd_sweep_new in = {.file = file, .build = build, .check = true};
    struct dd_sweep_made made;
    world_open(&w, NULL);
    if (dd_sweep_create(w.jobs, &in, &made, problems, &err))
        fail_msg("%s", err.msg);
    labels_differ(made.preview);
    json_decref(made.preview);
    in.check = false;
    if (dd_sweep_create(w.jobs, &in, &made, problems, &err) ||
        dd_store_do(w.store, complete, &(int){ALIKE * SEEDS}, &err))
        fail_msg("%s", err.msg);
    json_t *curve = dd_sweep_curve(w.store, made.id, "loss", &err);
    assert_int_equal(json_array_size(json_object_get(curve, "series")), ALIKE);
    json_decref(curve);
    dd_sweeps_between(&w.jobs);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM jobs WHERE rung=1"), ALIKE * SEEDS / 2);
    assert_int_equal(world_count(&w, "SELECT max(cell) FROM jobs WHERE rung=1"),
                     ALIKE * SEEDS / 2 - 1);
    json_decref(file);
    json_decref(problems);
    world_close(&w);
    test_rmdir(w.dir);
}

static void recipe(const char *name, int steps) {
    char path[600];
    char *text = dd_printf(
        "{\"kind\": \"encoder\", \"data\": {\"size\": 16}, \"train\": {\"steps\": %d}}", steps);
    snprintf(path, sizeof path, "%s/%s.json", w.opt.config_dir, name);
    if (dd_mkdir_for(path, &err) || dd_write_file(path, text, strlen(text), &err))
        fail_msg("%s", err.msg);
    free(text);
}

// A recipe that has become another one, or is gone, changes nothing of a search that has begun.
static void the_next_rung_has_the_same_encoder(void **state) {
    (void)state;
    json_t *file = json_loads(two, 0, NULL), *problems = json_array();
    const struct dd_sweep_new in = {.file = file, .build = build};
    struct dd_sweep_made made;
    needs = true;
    world_open(&w, NULL);
    free(w.opt.config_dir);
    w.opt.config_dir = dd_printf("%s/recipes", w.dir);
    recipe("encoder", 7);
    recipe("judge", 8);
    if (dd_sweep_create(w.jobs, &in, &made, problems, &err) ||
        dd_store_do(w.store, complete, &(int){2}, &err))
        fail_msg("%s", err.msg);
    recipe("encoder", 9);
    char *judge = dd_printf("%s/judge.json", w.opt.config_dir);
    remove(judge);
    dd_sweeps_between(&w.jobs);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM jobs WHERE rung=1 AND needs=2 AND"
                                     " judge=1"),
                     1);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM jobs WHERE kind='encoder'"), 2);
    free(judge);
    json_decref(file);
    json_decref(problems);
    world_close(&w);
    test_rmdir(w.dir);
    needs = false;
}

static int sql(sqlite3 *db, void *text, struct dr_err *e) {
    return dd_sql_run(db, e, text, "");
}

// A name that has moved to another checkpoint since changes nothing either.
static void the_next_rung_has_the_same_checkpoint(void **state) {
    (void)state;
    static char two_of[] = "INSERT INTO checkpoints(name,kind,step,path,sha256,bytes,config,"
                           "created_us) VALUES('start','train',1,'a','',0,'{}',1),"
                           "('','train',1,'b','',0,'{}',2)",
                move[] = "UPDATE checkpoints SET name=CASE id WHEN 2 THEN 'start' ELSE '' END";
    json_t *file = json_loads(two, 0, NULL), *problems = json_array();
    const struct dd_sweep_new in = {.file = file, .build = build};
    struct dd_sweep_made made;
    start = "checkpoint:start";
    world_open(&w, NULL);
    if (dd_store_do(w.store, sql, two_of, &err) ||
        dd_sweep_create(w.jobs, &in, &made, problems, &err) ||
        dd_store_do(w.store, complete, &(int){2}, &err) || dd_store_do(w.store, sql, move, &err))
        fail_msg("%s", err.msg);
    dd_sweeps_between(&w.jobs);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM jobs WHERE rung=1"), 1);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM jobs WHERE"
                                     " json_extract(config,'$.init_from')='checkpoint:1'"),
                     3);
    json_decref(file);
    json_decref(problems);
    world_close(&w);
    test_rmdir(w.dir);
    start = NULL;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(names_are_those_of_the_trainers),
                                       cmocka_unit_test(the_nearest_name_is_said),
                                       cmocka_unit_test(long_values_are_told_apart),
                                       cmocka_unit_test(the_next_rung_has_the_same_encoder),
                                       cmocka_unit_test(the_next_rung_has_the_same_checkpoint)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
