// What the queue says before a job runs: the same key is the same job whatever has become of what
// it named, and a reference to a network of the wrong kind or size is refused at once.
#include "tests/daemon/helper.h"

#include "daemon/base/util.h"
#include "daemon/store/checkpoints.h"
#include "engine/drift.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct world w;
static struct dr_err err;
static char generator[DD_PATH_MAX]; // the file of checkpoint 1

// A world whose job 1 has trained a generator, with a data directory.
static int setup(void **state) {
    (void)state;
    struct dr_config c;
    struct dd_ckpt_row row;
    world_open(&w, NULL);
    free(w.opt.data_dir);
    w.opt.data_dir = dd_printf("%s/data", w.dir);
    test_tiny(&c, 5);
    const int64_t id = world_submit(&w, &c, 0);
    if (dd_mkdirs(w.opt.data_dir, &err) || dd_jobs_start(w.jobs, &err))
        fail_msg("%s", err.msg);
    world_wait(&w, id, "completed");
    assert_int_equal(dd_ckpt_get(w.store, 1, &row, &err), 0);
    snprintf(generator, sizeof generator, "%s", row.path);
    dd_ckpt_row_free(&row);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    world_close(&w);
    test_rmdir(w.dir);
    return 0;
}

static void reopen(void) {
    char dir[256];
    snprintf(dir, sizeof dir, "%s", w.dir);
    world_close(&w);
    world_open(&w, dir);
}

// --- keys ---

static int repeat(const char *init_from, const char *body, int64_t *id, bool *replayed) {
    struct dr_config c;
    test_tiny(&c, 5);
    snprintf(c.init_from, sizeof c.init_from, "%s", init_from);
    const struct dd_job_new in = {
        .cfg = &c, .recipe = "tiny", .kind = "train", .key = "night-1", .fingerprint = body};
    err = (struct dr_err){0};
    return dd_jobs_create(w.jobs, &in, id, replayed, &err);
}

static int make_old(sqlite3 *db, void *arg, struct dr_err *e) {
    (void)arg;
    int rc = dd_sql_run(db, e, "UPDATE meta SET value='1' WHERE key LIKE '%night-1'", "");
    return rc ? rc : dd_sql_run(db, e, "UPDATE idempotency SET created_us=1", "");
}

static void a_key_is_one_job(void **state) {
    (void)state;
    int64_t a, b;
    bool replayed;
    assert_int_equal(repeat("1", "body", &a, &replayed), 0);
    assert_false(replayed);
    world_wait(&w, a, "completed");
    assert_int_equal(dd_ckpt_set_state(w.store, generator, "removed", &err), 0);
    assert_int_equal(repeat("1", "body", &b, &replayed), 0); // what it named is gone
    assert_true(replayed);
    assert_int_equal(a, b);
    assert_int_equal(repeat("1", "another", &b, &replayed), DR_EINVAL);
    assert_string_equal(err.field, "Idempotency-Key");
    assert_int_equal(dd_jobs_remove(w.jobs, a, &err), 0);
    for (int i = 0; i < 2; i++) { // no new job, over a restart too
        assert_int_equal(repeat("", "body", &b, &replayed), DR_EGONE);
        assert_string_equal(err.field, "Idempotency-Key");
        assert_non_null(strstr(err.msg, "removed"));
        assert_int_equal(world_count(&w, "SELECT count(*) FROM jobs"), 1);
        reopen();
    }
    for (int i = 0; i < 2; i++) { // a week later: also where the job is still there
        assert_int_equal(dd_store_do(w.store, make_old, NULL, &err), 0);
        assert_int_equal(repeat("", i ? "another" : "body", &b, &replayed), 0);
        assert_false(replayed);
    }
    assert_int_equal(repeat("", "another", &a, &replayed), 0);
    assert_true(replayed);
    assert_int_equal(a, b);
}

// --- references ---

// A job of the tiny recipe (or of another kind, with the same data) with these changes.
static void refuse(const char *changes, const char *field, const char *words) {
    static const char tiny[] =
        "{\"data\": {\"set\": \"digits\", \"count\": 200, \"size\": 8, \"fit\": \"resize\"}}";
    struct dr_config c;
    int64_t id;
    bool replayed;
    if (!strncmp(changes, "{\"kind\"", 7)) {
        if (dr_config_parse(changes, strlen(changes), "test", &c, &err) ||
            dr_config_merge(&c, tiny, strlen(tiny), "test", &err))
            fail_msg("%s: %s", changes, err.msg);
    } else {
        test_tiny(&c, 5);
        if (dr_config_merge(&c, changes, strlen(changes), "test", &err))
            fail_msg("%s: %s", changes, err.msg);
    }
    const struct dd_job_new in = {.cfg = &c, .recipe = "x", .kind = dr_recipe_word(c.kind)};
    err = (struct dr_err){0};
    const int rc = dd_jobs_create(w.jobs, &in, &id, &replayed, &err);
    if (!field) {
        if (rc)
            fail_msg("%s: %s", changes, err.msg);
        return;
    }
    if (rc != DR_EINVAL || strcmp(err.field, field) || !strstr(err.msg, words))
        fail_msg("%s: %d at %s: %s", changes, rc, err.field, err.msg);
}
static void accept(const char *changes) {
    refuse(changes, NULL, NULL);
}

static void a_generator_is_no_encoder(void **state) {
    (void)state;
    refuse("{\"features\": {\"kind\": \"encoder\", \"encoder\": \"checkpoint:1\"}}",
           "features.encoder", "checkpoint:1 is a generator; expected an encoder");
    refuse("{\"kind\": \"eval\", \"eval\": {\"checkpoint\": 1, \"judge\": \"1\", \"n\": 100}}",
           "eval.judge", "1 is a generator; expected a judge");
    refuse("{\"eval\": {\"at_end\": true, \"judge\": \"checkpoint:1\", \"n\": 100}}", "eval.judge",
           "expected a judge");
    refuse("{\"eval\": {\"at_end\": true, \"judge\": \"checkpoint:9\", \"n\": 100}}", "eval.judge",
           "no checkpoint 9");
    refuse("{\"eval\": {\"at_end\": true, \"inception\": \"none\", \"metrics\": \"fdd\","
           " \"n\": 100}}",
           "eval.metrics", "fd");
    assert_int_equal(world_count(&w, "SELECT count(*) FROM jobs"), 1);
}

// The metric that says which checkpoint is the best is one that evaluations have.
static void the_best_is_measured(void **state) {
    (void)state;
#define EVERY(more) "{\"eval\": {\"every\": 2, \"judge\": \"checkpoint:9\", \"n\": 100, " more "}}"
    refuse(EVERY("\"best\": \"fdd\""), "eval.best", "did you mean");
    refuse(EVERY("\"best\": \"fid\""), "eval.best", "needs eval.inception; that is empty");
    refuse(EVERY("\"best\": \"kid\", \"metrics\": \"fd,accuracy\""), "eval.best", "not among");
    refuse("{\"data.classes\": 0, \"train.classes\": 0, \"eval\": {\"at_end\": true, \"judge\":"
           " \"checkpoint:9\", \"n\": 100, \"best\": \"diversity\"}}",
           "eval.best", "not among");
    refuse(EVERY("\"patience\": 2, \"metrics\": \"kid\""), "eval.patience", "have neither");
    // Further on than that:
    refuse(EVERY("\"best\": \"kid\", \"metrics\": \"fd,kid\""), "eval.judge", "no checkpoint 9");
    refuse(EVERY("\"best\": \"accuracy\""), "eval.judge", "no checkpoint 9");
    refuse(EVERY("\"patience\": 2, \"best\": \"kid\", \"metrics\": \"kid\""), "eval.judge",
           "no checkpoint 9");
    refuse(EVERY("\"metrics\": \"kid\""), "eval.judge", "no checkpoint 9");
}

// A file below the data directory; config NULL: of text.
static void add_file(const char *name, const char *config) {
    char path[DD_PATH_MAX];
    struct dr_st_writer *st;
    const float one = 1;
    const int64_t dim = 1;
    assert_int_equal(dd_path(path, &err, "%s/%s", w.opt.data_dir, name), 0);
    const int rc = !config ? dd_write_file(path, "no tensors in here", 18, &err)
                           : dr_st_writer_new(&st, &err) ||
                                 dr_st_add(st, "x", DR_ST_F32, 1, &dim, &one, &err) ||
                                 dr_st_add_meta(st, "driftd.config", config, &err) ||
                                 dr_st_finish(st, path, NULL, NULL, &err);
    if (rc)
        fail_msg("%s", err.msg);
}

static void inception_is_looked_at(void **state) {
    (void)state;
    add_file("text", NULL);
    add_file("resnet", "{\"arch\": \"resnet\", \"head\": \"classes\"}");
    add_file("inception", "{\"arch\": \"inception\", \"size\": 75, \"narrow\": 16}");
#define EVAL(file, more)                                                                           \
    "{\"kind\": \"eval\", \"eval\": {\"checkpoint\": 1, \"inception\": \"" file                    \
    "\", \"n\": 100" more "}}"
    refuse(EVAL("none", ""), "eval.inception", "no file none below the data directory");
    refuse(EVAL("text", ""), "eval.inception", "text is no network of Inception-v3");
    refuse(EVAL("resnet", ""), "eval.inception", "resnet is no network of Inception-v3");
    refuse("{\"eval\": {\"at_end\": true, \"inception\": \"none\", \"n\": 100}}", "eval.inception",
           "no file none");
    accept(EVAL("inception", ""));
    accept(EVAL("none", ", \"metrics\": \"fd\"")); // which does not need it
}

static void weights_to_start_from_have_a_size(void **state) {
    (void)state;
    refuse("{\"init_from\": \"1\", \"model\": {\"dim\": 32}}", "init_from",
           "model.dim 16; this job's has 32");
    refuse("{\"init_from\": \"1\", \"data\": {\"classes\": 0}, \"train\": {\"classes\": 0}}",
           "init_from", "data.classes 10; this job's has 1");
    refuse("{\"kind\": \"encoder\", \"init_from\": \"1\"}", "init_from",
           "a job of kind encoder cannot start from it");
    accept("{\"init_from\": \"1\", \"model\": {\"depth\": 2}}"); // what is missing starts fresh
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(a_key_is_one_job), T(a_generator_is_no_encoder),
                                       T(the_best_is_measured), T(inception_is_looked_at),
                                       T(weights_to_start_from_have_a_size)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
