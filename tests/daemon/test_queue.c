// What the queue says before a job runs: the same key is the same job whatever has become of what
// it named, and a reference to a network of the wrong kind or size is refused at once. And what it
// does once a job is over: what others need is not removed, removing holds up nobody, what a
// process has left is cleared away, and a job that ends the process is not run for ever.
#include "tests/daemon/helper.h"

#include "daemon/base/util.h"
#include "daemon/store/checkpoints.h"
#include "engine/drift.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
    refuse(EVAL("none", ""), "eval.inception", "nor a file below the data directory");
    refuse(EVAL("text", ""), "eval.inception", "text is no network of Inception-v3");
    refuse(EVAL("resnet", ""), "eval.inception", "resnet is no network of Inception-v3");
    refuse("{\"eval\": {\"at_end\": true, \"inception\": \"none\", \"n\": 100}}", "eval.inception",
           "\"none\" is neither");
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

// --- removal ---

static int submit(const char *init_from, int64_t *id) {
    struct dr_config c;
    bool replayed;
    test_tiny(&c, 5);
    snprintf(c.init_from, sizeof c.init_from, "%s", init_from);
    const struct dd_job_new in = {.cfg = &c, .recipe = "tiny", .kind = "train"};
    return dd_jobs_create(w.jobs, &in, id, &replayed, &err);
}

static int sql(sqlite3 *db, void *text, struct dr_err *e) {
    return dd_sql_run(db, e, text, "");
}
static void change(char *text) {
    if (dd_store_do(w.store, sql, text, &err))
        fail_msg("%s: %s", text, err.msg);
}

static void expect_needed(const char *words) {
    assert_int_equal(dd_jobs_remove(w.jobs, 1, &err), DR_ECONFLICT);
    if (!strstr(err.msg, words))
        fail_msg("%s", err.msg);
    assert_int_equal(access(generator, F_OK), 0);
}

static void what_others_name_stays(void **state) {
    (void)state;
    int64_t a;
    dd_jobs_stop(w.jobs); // nothing runs
    assert_int_equal(submit("checkpoint:1", &a), 0);
    expect_needed("job 2 needs a checkpoint of job 1");
    assert_int_equal(dd_jobs_action(w.jobs, a, DD_JOB_STOP, &err), 0); // it may be resumed
    expect_needed("job 2 needs a checkpoint of job 1");
    assert_int_equal(dd_jobs_remove(w.jobs, a, &err), 0);
    add_file("inception", "{\"arch\": \"inception\", \"size\": 75, \"narrow\": 16}");
    accept(
        "{\"kind\": \"eval\", \"eval\": {\"job\": 1, \"inception\": \"inception\", \"n\": 100}}");
    expect_needed("job 3 needs a checkpoint of job 1"); // all of its
    change("UPDATE jobs SET state='stopped' WHERE id=3");
    change("INSERT INTO evals(job,eval_job,checkpoint,kind,source,step,state,created_us) VALUES"
           "(1,3,1,'checkpoint','checkpoint:1',5,'queued',1)");
    change("UPDATE jobs SET state='paused' WHERE id=3");
    change("UPDATE jobs SET config=json_set(config,'$.eval.job',0) WHERE id=3");
    expect_needed("job 3 needs a checkpoint of job 1"); // one, in a row
    change("UPDATE jobs SET parent=1 WHERE id=3");      // as the job's own evaluations have it
    assert_int_equal(dd_jobs_remove(w.jobs, 1, &err), 0);
    assert_int_not_equal(access(generator, F_OK), 0);
}

static int commits;
static int on_commit(void *arg) {
    (void)arg;
    commits++;
    return 0;
}
static int watch_commits(sqlite3 *db, void *arg, struct dr_err *e) {
    (void)arg, (void)e;
    sqlite3_commit_hook(db, on_commit, NULL);
    commits = 0;
    return 0;
}

// A table of millions is not deleted in one transaction, in which nobody else writes.
static void removing_lets_others_write(void **state) {
    (void)state;
    change("WITH RECURSIVE s(i) AS (SELECT 10 UNION ALL SELECT i+1 FROM s WHERE i<100000)"
           " INSERT INTO metrics SELECT 1,1,i,1,0.5 FROM s");
    change("WITH RECURSIVE s(i) AS (SELECT 10 UNION ALL SELECT i+1 FROM s WHERE i<30000)"
           " INSERT INTO metric_rollups SELECT 1,1,64,i,1,0,1,1,1,1,64*i,1 FROM s");
    assert_int_equal(dd_store_do(w.store, watch_commits, NULL, &err), 0);
    assert_int_equal(dd_jobs_remove(w.jobs, 1, &err), 0);
    assert_true(commits >= 6);
    assert_int_equal(world_count(&w, "SELECT (SELECT count(*) FROM metrics) +"
                                     " (SELECT count(*) FROM metric_rollups)"),
                     0);
}

static bool make_folder(const char *name, bool make) {
    char path[DD_PATH_MAX];
    assert_int_equal(dd_path(path, &err, "%s/%s/x", w.dir, name), 0);
    if (make && (dd_mkdir_for(path, &err) || dd_write_file(path, "x", 1, &err)))
        fail_msg("%s", err.msg);
    return access(path, F_OK) == 0;
}

// Those of a process that ended between the row and the files. Where an older copy of the database
// has been put back, what it does not know of yet stays.
static void folders_without_a_job_go(void **state) {
    (void)state;
    static const char *const names[] = {"checkpoints/1",  "samples/1",      "checkpoints/2",
                                        "checkpoints/99", "checkpoints/no", "checkpoints/import"};
    int64_t a;
    assert_int_equal(submit("", &a), 0);
    world_wait(&w, a, "completed");
    change("DELETE FROM jobs WHERE id=1");
    for (size_t i = 0; i < DR_COUNT(names); i++)
        assert_true(make_folder(names[i], true));
    reopen();
    for (size_t i = 0; i < DR_COUNT(names); i++)
        if (make_folder(names[i], false) != (i >= 2))
            fail_msg("%s", names[i]);
}

// --- a job during which the process ends ---

static void expect(const char *query, int64_t want) {
    if (world_count(&w, query) != want)
        fail_msg("%s: %lld, expected %lld", query, (long long)world_count(&w, query),
                 (long long)want);
}
static void crash(void) { // a kill leaves the row as it was
    change("UPDATE jobs SET state='running' WHERE id=2");
    reopen();
}

static void one_that_ends_driftd_waits(void **state) {
    (void)state;
    static const char queued[] = "SELECT count(*) FROM jobs WHERE id=2 AND state='queued'";
    struct dd_ckpt_row row = {.job = 2, .step = 1, .config = "{}", .config_borrowed = true};
    int64_t a, b;
    dd_jobs_stop(w.jobs);
    assert_int_equal(submit("", &a), 0);
    assert_int_equal(submit("", &b), 0);
    for (int i = 0; i < 4; i++) {
        crash();
        expect(queued, 1);
    }
    snprintf(row.path, sizeof row.path, "%s/checkpoints/2/step-00000001.safetensors", w.dir);
    assert_int_equal(dd_ckpt_record(w.store, &row, &err), 0); // it came further
    for (int i = 0; i < 4; i++) {
        crash();
        expect(queued, 1);
    }
    crash();
    expect("SELECT count(*) FROM jobs WHERE id=2 AND state='interrupted' AND error LIKE"
           " '%ended 5 times while this job ran%'",
           1);
    reopen(); // nor at a start after that
    expect(queued, 0);
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    world_wait(&w, b, "completed"); // others are not held up
    assert_int_equal(dd_ckpt_set_state(w.store, row.path, "removed", &err), 0);
    assert_int_equal(dd_jobs_action(w.jobs, a, DD_JOB_RESUME, &err), 0);
    world_wait(&w, a, "completed");
    expect("SELECT crashes FROM jobs WHERE id=2", 0);
}

int main(void) {
#define T(f) WORLD_TEST(f, setup)
    const struct CMUnitTest tests[] = {T(a_key_is_one_job),
                                       T(a_generator_is_no_encoder),
                                       T(the_best_is_measured),
                                       T(inception_is_looked_at),
                                       T(weights_to_start_from_have_a_size),
                                       T(what_others_name_stays),
                                       T(removing_lets_others_write),
                                       T(folders_without_a_job_go),
                                       T(one_that_ends_driftd_waits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
