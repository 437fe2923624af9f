// What lets jobs be compared: the settings that differ from the recipe, metrics as one table,
// alerts, spikes of the gradient, and the field that a toy leaves behind.
#include "tests/daemon/helper.h"

#include "daemon/base/util.h"
#include "daemon/generate/field.h"
#include "daemon/jobs/changed.h"
#include "daemon/jobs/spike.h"
#include "daemon/store/metric_wide.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct world w;

static int64_t a_job(const char *name) {
    struct dr_config c;
    test_tiny(&c, 10);
    snprintf(c.name, sizeof c.name, "%s", name);
    return world_submit(&w, &c, 0); // no job thread runs here
}

static void expect_changed(const char *recipe, const struct dr_config *c, const char *want) {
    char *got = dd_changed(w.dir, recipe, c);
    assert_string_equal(got, want);
    free(got);
}

static void test_changed(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    test_tiny_file(w.dir, "small", 25);
    assert_int_equal(dd_recipe_named(w.dir, "small", &c, &err), 0);
    expect_changed("small", &c, "{}");
    assert_int_equal(dr_config_set(&c, "optim.lr=0.125", &err), 0);
    assert_int_equal(dr_config_set(&c, "train.steps=7", &err), 0);
    assert_int_equal(dr_config_set(&c, "loss.temperatures=[0.5,0.25]", &err), 0);
    snprintf(c.name, sizeof c.name, "another name");
    expect_changed("small", &c,
                   "{\"loss.temperatures\":[0.5,0.25],\"train.steps\":7,\"optim.lr\":0.125}");
    // As overrides of the recipe they give the same configuration again.
    char *changed = dd_changed(w.dir, "small", &c), *want = dr_config_to_json(&c);
    struct dr_config again;
    assert_int_equal(dd_recipe_named(w.dir, "small", &again, &err), 0);
    assert_int_equal(dr_config_merge(&again, changed, strlen(changed), NULL, &err), 0);
    snprintf(again.name, sizeof again.name, "another name");
    char *have = dr_config_to_json(&again);
    assert_string_equal(have, want);
    free(have);
    free(want);
    free(changed);
    dr_config_defaults(&c); // a recipe that is not there: what differs from the defaults
    c.train.steps++;
    char steps[60];
    snprintf(steps, sizeof steps, "{\"train.steps\":%lld}", (long long)c.train.steps);
    expect_changed("gone", &c, steps);
}

static json_t *listed(int64_t id) {
    struct dr_err err = {0};
    char next[64];
    json_t *page = dd_jobs_json(w.store, NULL, NULL, 50, next, sizeof next, &err), *found = NULL;
    size_t i;
    json_t *j;
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)id);
    json_array_foreach(json_object_get(page, "jobs"), i, j) {
        if (!strcmp(json_string_value(json_object_get(j, "id")), text))
            found = json_incref(j);
    }
    json_decref(page);
    return found;
}

// A job as an earlier build left it, with two grids.
static int as_before(sqlite3 *db, void *arg, struct dr_err *err) {
    const int64_t *id = arg;
    int rc = dd_sql_run(db, err,
                        "INSERT INTO samples(job,step,path,bytes,width,height,created_us)"
                        " VALUES(?1,5,'a',1,1,1,255),(?1,9,'b',1,1,1,256)",
                        "i", *id);
    return rc ? rc : dd_sql_run(db, err, "UPDATE jobs SET changed=NULL", "");
}

// In lists too, also for rows of a build that did not have it.
static void test_lists(void **state) {
    (void)state;
    struct dr_err err = {0};
    int64_t id = a_job("tiny");
    json_t *j = listed(id), *before = json_incref(json_object_get(j, "changed"));
    assert_true(json_is_object(before) && json_object_size(before) > 0);
    assert_true(json_is_null(json_object_get(j, "sample")));
    json_decref(j);
    assert_int_equal(dd_store_do(w.store, as_before, &id, &err), 0);
    j = listed(id);
    assert_true(json_is_null(json_object_get(j, "changed")));
    assert_string_equal(json_string_value(json_object_get(j, "sample")), "/v1/samples/2.png?v=100");
    json_decref(j);
    assert_int_equal(dd_store_do(w.store, dd_changed_fill, w.dir, &err), 0);
    j = listed(id);
    assert_true(json_equal(json_object_get(j, "changed"), before));
    json_decref(j);
    json_decref(before);
}

static void insert(int64_t job, const char *name, int64_t from, int64_t to, int64_t every) {
    struct dr_err err = {0};
    for (; from <= to; from += every) {
        struct dd_metric_batch *b = dd_xcalloc(1, sizeof *b + sizeof *b->row);
        b->n = 1;
        b->keep_steps = 1000000;
        b->row[0] = (struct dd_row){.job = job,
                                    .step = from,
                                    .time_us = from * 1000000,
                                    .table = test_metric(w.store, name),
                                    .mask = 1,
                                    .v[0] = from == 3 ? (double)NAN : (double)(10 * job + from)};
        assert_int_equal(dd_store_do(w.store, dd_metrics_insert, b, &err), 0);
        free(b);
    }
}

// The table as lines "job step value value", '-' for what is not there.
static void expect_table(const int64_t *jobs, size_t n, int64_t from, int64_t to, int points,
                         const char *want) {
    struct dr_err err = {0};
    struct dd_wide *t;
    struct dd_wide_row r;
    char got[4000] = "";
    size_t names;
    int rc;
    if (dd_wide_open(w.store, jobs, n, NULL, 0, from, to, points, &t, &err))
        fail_msg("%s", err.msg);
    dd_wide_names(t, &names);
    while ((rc = dd_wide_next(t, &r)) == 1) {
        size_t at = strlen(got);
        at += (size_t)snprintf(got + at, sizeof got - at, "%lld %lld", (long long)r.job,
                               (long long)r.step);
        for (size_t i = 0; i < names; i++)
            at += (size_t)(r.have[i] ? snprintf(got + at, sizeof got - at, " %g", r.value[i])
                                     : snprintf(got + at, sizeof got - at, " -"));
        snprintf(got + at, sizeof got - at, "\n");
    }
    assert_int_equal(rc, 0);
    dd_wide_close(t);
    assert_string_equal(got, want);
}

static void test_wide(void **state) {
    (void)state;
    struct dr_err err = {0};
    const int64_t a = a_job("a"), b = a_job("b"), empty = a_job("c");
    insert(a, "loss", 1, 4, 1);
    insert(a, "drift_norm", 2, 4, 2);
    insert(b, "loss", 1, 2, 1);
    const int64_t both[] = {b, a}, none[] = {empty}, wrong[] = {a, 77};
    expect_table(both, 2, 0, INT64_MAX, 0,
                 "2 1 21 -\n2 2 22 -\n1 1 11 -\n1 2 12 12\n1 3 nan -\n1 4 14 14\n");
    const int64_t again[] = {b, b, a, b, a};
    expect_table(again, 5, 2, 2, 0, "2 2 22 -\n1 2 12 12\n"); // each once
    expect_table(NULL, 0, 2, 2, 0, "1 2 12 12\n2 2 22 -\n");
    expect_table(none, 1, 0, INT64_MAX, 0, "");
    struct dd_wide *t;
    assert_int_equal(dd_wide_open(w.store, wrong, 2, NULL, 0, 0, 9, 0, &t, &err), DR_ENOENT);
    assert_non_null(strstr(err.msg, "no job 77"));
    const char *bad = "los", *twice[] = {"loss", "loss"};
    assert_int_equal(dd_wide_open(w.store, both, 2, &bad, 1, 0, 9, 0, &t, &err), DR_EINVAL);
    assert_non_null(strstr(err.msg, "did you mean loss"));
    assert_int_equal(dd_wide_open(w.store, both, 2, twice, 2, 0, 9, 0, &t, &err), 0);
    size_t n;
    assert_string_equal(dd_wide_names(t, &n)[0], "loss");
    assert_int_equal(n, 1);
    dd_wide_close(t);
    insert(a, "loss", 5, 300, 1);
    insert(a, "drift_norm", 5, 300, 1);
    assert_int_equal(dd_wide_open(w.store, &a, 1, NULL, 0, 0, INT64_MAX, 4, &t, &err), 0);
    struct dd_wide_row r;
    int rows = 0;
    for (; dd_wide_next(t, &r) == 1; rows++)
        assert_true(r.have[0] && r.have[1] && fabs(r.value[0] - (double)r.step) < 128);
    assert_true(rows >= 2 && rows <= 4);
    dd_wide_close(t);
}

static int open_files(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    closedir(d);
    return n;
}

// Runs that are read in many parts, metrics at different steps, and a reader that takes its time.
static void test_long_tables(void **state) {
    (void)state;
    struct dr_err err = {0};
    const int64_t a = a_job("a"), b = a_job("b");
    insert(a, "loss", 1, 520, 1);
    insert(a, "drift_norm", 100, 5100, 1000); // and far behind the other
    insert(b, "drift_norm", 7, 7, 1);
    static const int64_t tail[] = {1100, 2100, 3100, 4100, 5100};
    struct dd_wide *t;
    struct dd_wide_row r;
    const int files = open_files();
    assert_int_equal(dd_wide_open(w.store, NULL, 0, NULL, 0, 0, INT64_MAX, 0, &t, &err), 0);
    for (int64_t step = 1; step <= 520; step++) {
        assert_int_equal(dd_wide_next(t, &r), 1);
        assert_true(open_files() <= files + 1); // no connection per metric (SQLite keeps one file)
        assert_int_equal(r.job, a);
        assert_int_equal(r.step, step);
        assert_true(r.have[0] && r.have[1] == (step == 100));
    }
    for (size_t i = 0; i < DR_COUNT(tail); i++) {
        assert_int_equal(dd_wide_next(t, &r), 1);
        assert_int_equal(r.step, tail[i]);
        assert_true(!r.have[0] && r.have[1] && r.value[1] == (double)(10 * a + tail[i]));
    }
    assert_int_equal(dd_wide_next(t, &r), 1);
    assert_true(r.job == b && r.step == 7);
    assert_int_equal(dd_wide_next(t, &r), 0);
    dd_wide_close(t);
    // A job that goes on while it is read.
    assert_int_equal(dd_wide_open(w.store, &b, 1, NULL, 0, 0, INT64_MAX, 0, &t, &err), 0);
    assert_int_equal(dd_wide_next(t, &r), 1);
    insert(b, "drift_norm", 8, 9, 1);
    for (int64_t step = 8; step <= 9; step++) {
        assert_int_equal(dd_wide_next(t, &r), 1);
        assert_int_equal(r.step, step);
    }
    assert_int_equal(dd_wide_next(t, &r), 0);
    dd_wide_close(t);
}

static void test_alerts(void **state) {
    (void)state;
    struct dr_err err = {0};
    const int64_t id = a_job("a");
    for (int i = 1; i <= 2; i++)
        dd_event(w.events, "alert", id,
                 json_pack("{s:s, s:i, s:s}", "kind", i == 1 ? "collapse" : "gradient", "step",
                           10 * i, "text", "why"));
    dd_event(w.events, "alert", 0, json_pack("{s:s}", "kind", "disk"));
    json_t *j = NULL;
    for (int i = 0; i < 500 && (!j || json_array_size(json_object_get(j, "alerts")) < 2); i++) {
        json_decref(j); // events are written behind the scenes
        j = dd_alerts_json(w.store, id, &err);
        dd_store_changed(w.store);
        usleep(10000);
    }
    json_t *list = json_object_get(j, "alerts");
    assert_int_equal(json_array_size(list), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "kind")),
                        "collapse");
    assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 1), "step")), 20);
    json_decref(j);
    assert_null(dd_alerts_json(w.store, 77, &err));
    assert_int_equal(err.code, DR_ENOENT);
}

static void test_spike(void **state) {
    (void)state;
    struct dd_spike s = {0};
    double usual;
    int seen = 0;
    for (int i = 0; i < DD_SPIKE_STEPS; i++) // nothing is known of the level yet
        seen += dd_spike(&s, i == 50 ? 100 : 1 + 0.5 * sin(i), &usual);
    assert_int_equal(seen, 0);
    assert_true(dd_spike(&s, 20, &usual));
    assert_true(usual > 0.7 && usual < 1.3);
    assert_false(dd_spike(&s, 20, &usual)); // once
    assert_false(dd_spike(&s, NAN, &usual));
    assert_false(dd_spike(&s, 1, &usual)); // it is over
    assert_true(dd_spike(&s, 20, &usual));
    for (int i = 0; i < 2 * DD_SPIKE_STEPS; i++) // it stays: that is the level now
        assert_false(dd_spike(&s, 20, &usual));
    assert_true(fabs(usual - 20) < 0.1);
    assert_false(dd_spike(&s, 30, &usual));
    assert_true(dd_spike(&s, 300, &usual));
}

static void test_field(void **state) {
    (void)state;
    struct dr_err err = {0};
    char folder[300];
    snprintf(folder, sizeof folder, "%s/samples/3", w.dir);
    assert_null(dd_field_kept(folder));
    struct dr_drift_field *f = dd_xcalloc(1, sizeof *f + 6 * sizeof(real));
    *f = (struct dr_drift_field){.step = 12, .n = 1, .p = 1};
    for (int i = 0; i < 6; i++)
        f->at[i] = (real)(0.5 * i);
    assert_int_equal(dd_field_keep(f, 3, folder, &err), 0);
    json_t *want = dd_field_json(f, 3), *have = dd_field_kept(folder);
    assert_true(json_equal(want, have));
    json_t *row = json_array_get(json_object_get(have, "samples"), 0);
    assert_true(json_number_value(json_array_get(row, 3)) == 1.5);
    json_decref(want);
    json_decref(have);
    free(f);
    char file[320];
    snprintf(file, sizeof file, "%s/field.json", folder);
    assert_int_equal(dd_write_file(file, "{\"a\":", 5, &err), 0); // torn
    assert_null(dd_field_kept(folder));
}

int main(void) {
#define T(f) WORLD_TEST(f, world_setup)
    const struct CMUnitTest tests[] = {T(test_changed),     T(test_lists),  T(test_wide),
                                       T(test_long_tables), T(test_alerts), T(test_spike),
                                       T(test_field)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
