// Evaluations by networks of elsewhere: an Inception and a ResNet that were imported, named by id,
// name or tag; what they measure, what they are refused for, and that they stay while they are
// needed.
#include "tests/daemon/helper.h"

#include "daemon/base/util.h"
#include "daemon/store/checkpoints.h"
#include "engine/drift.h"
#include "engine/nn/params.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct world w;
static struct dr_err err;

// Job 1 has trained checkpoint 1, of digits of 8 x 8; checkpoints 2 to 4 are imports.
enum { INCEPTION = 2, TORCHVISION, RESNET };

// A file of weights as its description begins them; described: it holds the description.
static void write_net(const char *path, const char *json, bool described) {
    struct dr_net *net;
    struct dr_st_writer *out;
    if (dr_net_parse(json, strlen(json), NULL, &net, &err))
        fail_msg("%s", err.msg);
    const struct dr_params *ps = dr_net_params(net);
    real *weights = aligned_alloc(64, (dr_net_bytes(net) + 63) / 64 * 64);
    dr_params_init(ps, 7, weights);
    int rc = dr_st_writer_new(&out, &err);
    for (int i = 0; i < ps->n && !rc; i++)
        rc = dr_st_add(out, ps->p[i].name, DR_ST_F32, ps->p[i].ndim, ps->p[i].dim,
                       weights + ps->p[i].offset, &err);
    if (!rc && described)
        rc = dr_st_add_meta(out, "driftd.config", json, &err);
    if (rc || dr_st_finish(out, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
    free(weights);
    dr_net_free(net);
}

static void import(const char *name, const char *json, bool described, int64_t id) {
    char path[600];
    struct dd_ckpt_row row;
    const struct dd_ckpt_source from = {.path = path, .name = name};
    snprintf(path, sizeof path, "%s/%s.safetensors", w.dir, name);
    write_net(path, json, described);
    if (dd_ckpt_import(w.store, &from, &row, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(strtoll(row.id, NULL, 10), id);
    dd_ckpt_row_free(&row);
}

static int setup(void **state) {
    (void)state;
    struct dr_config c;
    world_open(&w, NULL);
    test_tiny(&c, 5);
    const int64_t id = world_submit(&w, &c, 0);
    if (dd_jobs_start(w.jobs, &err))
        fail_msg("%s", err.msg);
    world_wait(&w, id, "completed");
#define NARROW "{\"arch\":\"inception\",\"size\":75,\"narrow\":16,\"classes\":1008,\"variant\":\""
    import("fid", NARROW "fid\"}", true, INCEPTION);
    import("tv", NARROW "torchvision\"}", true, TORCHVISION);
    import("seven",
           "{\"arch\":\"resnet\",\"channels\":1,\"width\":4,\"blocks\":[1],\"norm\":\"batch\","
           "\"classes\":7,\"head\":\"classifier\"}",
           false, RESNET); // its file does not say for which side
    if (dd_ckpt_patch(w.store, INCEPTION, NULL, NULL, "[\"inception-v3\"]", &err))
        fail_msg("%s", err.msg);
    return 0;
}

// An evaluation of checkpoint 1, with these settings.
static int submit(const char *settings, int64_t *id) {
    static const char data[] = "{\"data\": {\"set\": \"digits\", \"count\": 200, \"size\": 8,"
                               " \"fit\": \"resize\"}}";
    char text[600];
    struct dr_config c;
    bool replayed;
    snprintf(text, sizeof text,
             "{\"kind\": \"eval\", \"eval\": {\"checkpoint\": 1, \"n\": 100, %s}}", settings);
    if (dr_config_parse(text, strlen(text), "test", &c, &err) ||
        dr_config_merge(&c, data, strlen(data), "test", &err))
        fail_msg("%s: %s", text, err.msg);
    const struct dd_job_new in = {.cfg = &c, .recipe = "x", .kind = dr_recipe_word(c.kind)};
    err = (struct dr_err){0};
    return dd_jobs_create(w.jobs, &in, id, &replayed, &err);
}
static void refuse(const char *settings, const char *field, const char *words) {
    int64_t id;
    const int rc = submit(settings, &id);
    if (rc != DR_EINVAL || strcmp(err.field, field) || !strstr(err.msg, words))
        fail_msg("%s: %d at %s: %s", settings, rc, err.field, err.msg);
}
static int64_t evaluate(const char *settings) {
    int64_t id;
    if (submit(settings, &id))
        fail_msg("%s: %s", settings, err.msg);
    world_wait(&w, id, "completed");
    return id;
}
// A number of the newest row.
static void expect(const char *what, int64_t want) {
    char sql[300];
    snprintf(sql, sizeof sql, "SELECT %s FROM evals e WHERE id=(SELECT max(id) FROM evals)", what);
    if (world_count(&w, sql) != want)
        fail_msg("%s: %lld, expected %lld", what, (long long)world_count(&w, sql), (long long)want);
}
#define HAS(name) "(SELECT count(*) FROM eval_values v WHERE v.eval=e.id AND v.name='" name "')"

static void an_imported_inception_makes_fid(void **state) {
    (void)state;
    static const char *const named[] = {"2", "checkpoint:2", "checkpoint:fid",
                                        "checkpoint:inception-v3"};
    char settings[200], sql[100];
    for (size_t i = 0; i < DR_COUNT(named); i++) {
        snprintf(settings, sizeof settings,
                 "\"inception\": \"%s\", \"metrics\": \"fid,is_inception\"", named[i]);
        const int64_t id = evaluate(settings);
        expect("state='done'", 1);
        expect(HAS("fid"), 1);
        expect(HAS("is_inception"), 1);
        // A job that was given a name keeps the checkpoint that had it.
        snprintf(
            sql, sizeof sql,
            "SELECT replace(json_extract(config,'$.eval.inception'),'checkpoint:','') FROM jobs"
            " WHERE id=%lld",
            (long long)id);
        assert_int_equal(world_count(&w, sql), INCEPTION);
        // Its 1008 classes are not those of digits.
        expect("json_type(details,'$.confusion')='null'", 1);
        expect("json_type(details,'$.per_class')='null'", 1);
    }
}

static void others_are_refused(void **state) {
    (void)state;
    refuse("\"inception\": \"3\"", "eval.inception", "torchvision's inception_v3");
    refuse("\"inception\": \"checkpoint:seven\"", "eval.inception", "no network of Inception-v3");
    refuse("\"inception\": \"1\"", "eval.inception", "no network of Inception-v3");
    refuse("\"inception\": \"checkpoint:9\"", "eval.inception", "no checkpoint 9");
    refuse("\"inception\": \"checkpoint:nine\"", "eval.inception", "name or tag \"nine\"");
    refuse("\"judge\": \"2\"", "eval.judge", "name it as eval.inception");
    refuse("\"judge\": \"checkpoint:seven\", \"metrics\": \"fd,accuracy\"", "eval.judge",
           "7 classes apart, the data has 10");
    assert_int_equal(world_count(&w, "SELECT count(*) FROM jobs"), 1);
}

// Classes of its own rule out nothing but accuracy, and its pictures have whatever side is wanted.
static void a_judge_of_other_classes(void **state) {
    (void)state;
    evaluate("\"judge\": \"checkpoint:seven\", \"metrics\": \"fd\"");
    expect("state='done'", 1);
    expect(HAS("fd"), 1);
    evaluate("\"judge\": \"4\"");
    expect("state='done'", 1);
    expect(HAS("kid"), 1);
    expect(HAS("is"), 1);
    expect(HAS("accuracy"), 0);
    expect("json_type(details,'$.confusion')='null'", 1);
    expect("json_type(details,'$.per_class[9].diversity')='real'", 1);
    expect("json_type(details,'$.per_class[9].accuracy')='null'", 1);
}

static void what_a_job_names_stays(void **state) {
    (void)state;
    int64_t id;
    dd_jobs_stop(w.jobs); // nothing runs
    assert_int_equal(submit("\"inception\": \"checkpoint:fid\", \"metrics\": \"fid\"", &id), 0);
    assert_int_equal(dd_ckpt_remove(w.store, INCEPTION, &err), DR_ECONFLICT);
    assert_int_equal(dd_ckpt_remove(w.store, TORCHVISION, &err), 0);
}

int main(void) {
#define T(f) WORLD_TEST(f, setup)
    const struct CMUnitTest tests[] = {T(an_imported_inception_makes_fid), T(others_are_refused),
                                       T(a_judge_of_other_classes), T(what_a_job_names_stays)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
