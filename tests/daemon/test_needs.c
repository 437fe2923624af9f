// Jobs that need jobs: an encoder's job is queued with the first generator that asks for it, once;
// generators wait for it, say so, and follow what becomes of it, over a restart of the daemon too.
#include "tests/daemon/helper.h"
#include "tests/daemon/kind_count.h"

#include "daemon/base/util.h"
#include "daemon/evals/evals.h"
#include "daemon/jobs/encoder_data.h"
#include "daemon/jobs/needs.h"
#include "daemon/store/checkpoints.h"
#include "daemon/store/disk.h"
#include "engine/drift.h"
#include "engine/io/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct world w;
static struct dr_err err;

// Stands for both kinds: "encoder" writes a file that counts as its checkpoint, unless it has to
// fail; "train" asks for its encoder's file and ends.
static bool fails;
static char seen[DD_PATH_MAX]; // the encoder's file as the generator got it

static int run_encoder(struct dd_job *job, enum dd_outcome *outcome, struct dr_err *e) {
    char *folder = dd_job_folder(job, "checkpoints"), *file = dd_printf("%s/enc", folder);
    struct dd_ckpt_row row = {.job = job->id, .step = 1, .config = "{}", .config_borrowed = true};
    dd_job_started(job, 0, 1, NULL, NULL, e);
    int rc = fails ? dr_fail(e, DR_EIO, "the encoder's disk is gone") : dd_mkdir_for(file, e);
    if (!rc)
        rc = dd_write_file(file, "x", 1, e);
    snprintf(row.path, sizeof row.path, "%s", file);
    snprintf(row.kind, sizeof row.kind, "encoder");
    if (!rc)
        rc = dd_ckpt_record(job->env->store, &row, e);
    free(file);
    free(folder);
    *outcome = DD_RUN_COMPLETED;
    return rc;
}
static int run_train(struct dd_job *job, enum dd_outcome *outcome, struct dr_err *e) {
    dd_job_started(job, 0, 1, NULL, NULL, e);
    *outcome = DD_RUN_COMPLETED;
    return dd_needs_encoder(job, seen, e);
}
static const struct dd_job_kind encoder = {.name = "encoder",
                                           .about = "Stands in.",
                                           .run = run_encoder},
                                train = {.name = "train", .about = "Stands in.", .run = run_train};
static const struct dd_job_kind *const table[] = {&train, &encoder, NULL};

static void write_recipe(const char *name, const char *text) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s.json", w.opt.config_dir, name);
    if (dd_mkdir_for(path, &err) || dd_write_file(path, text, strlen(text), &err))
        fail_msg("%s", err.msg);
}

static void remove_recipe(const char *name) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s.json", w.opt.config_dir, name);
    remove(path);
}

static void find_recipes(void) {
    free(w.opt.config_dir);
    w.opt.config_dir = dd_printf("%s/recipes", w.dir);
}

static int setup(void **state) {
    (void)state;
    world_open_kinds(&w, NULL, table);
    find_recipes();
    write_recipe("small-encoder",
                 "{\"kind\": \"encoder\", \"data\": {\"size\": 16}, \"train\": {\"steps\": 7}}");
    write_recipe("small-judge",
                 "{\"kind\": \"encoder\", \"data\": {\"size\": 16}, \"train\": {\"steps\": 8}}");
    write_recipe("no-encoder", "{\"data\": {\"size\": 16}}");
    write_recipe("colour-encoder",
                 "{\"kind\": \"encoder\", \"data\": {\"set\": \"folder\", \"path\": "
                 "\"x\", \"channels\": 3, \"size\": 16}}");
    fails = false;
    seen[0] = 0;
    return 0;
}

static int submit_maps(const char *name, const char *maps, int64_t *id) {
    struct dr_config c;
    bool replayed;
    test_tiny(&c, 5);
    c.features.kind = DR_FEATURE_ENCODER;
    snprintf(c.features.encoder, sizeof c.features.encoder, "%s", name);
    snprintf(c.features.maps, sizeof c.features.maps, "%s", maps);
    struct dd_job_new in = {.cfg = &c, .recipe = "gen", .kind = "train", .priority = 3};
    return dd_jobs_create(w.jobs, &in, id, &replayed, &err);
}
static int submit(const char *name, int64_t *id) {
    return submit_maps(name, "all", id);
}
// A generator of priority 0 with an encoder and, for its evaluations, a judge.
static void submit_judged(int64_t *id) {
    struct dr_config c;
    bool replayed;
    test_tiny(&c, 5);
    c.features.kind = DR_FEATURE_ENCODER;
    snprintf(c.features.encoder, sizeof c.features.encoder, "small-encoder");
    snprintf(c.eval.judge, sizeof c.eval.judge, "small-judge");
    c.eval.at_end = true;
    c.eval.n = 100;
    struct dd_job_new in = {.cfg = &c, .recipe = "gen", .kind = "train"};
    if (dd_jobs_create(w.jobs, &in, id, &replayed, &err))
        fail_msg("%s", err.msg);
}
static int run_one(sqlite3 *db, void *sql, struct dr_err *e) {
    return dd_sql_run(db, e, sql, "");
}
static void run_sql(char *sql) {
    if (dd_store_do(w.store, run_one, sql, &err))
        fail_msg("%s: %s", sql, err.msg);
}
// As training asks for it after a checkpoint.
static void evaluation_is_due(int64_t job, int64_t judge, const char *config) {
    struct dr_config c;
    struct dd_eval_due d = {.job = job, .name = "gen", .config = config, .needs = judge};
    test_tiny(&c, 5);
    d.cfg = &c;
    if (dd_eval_due(w.store, &d, &err))
        fail_msg("%s", err.msg);
}
static void start(void) {
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
}
static void expect(const char *sql, int64_t want) {
    if (world_count(&w, sql) != want)
        fail_msg("%s: %lld, expected %lld", sql, (long long)world_count(&w, sql), (long long)want);
}

static void one_encoder_for_all(void **state) {
    (void)state;
    int64_t a, b, c;
    assert_int_equal(submit("small-encoder", &a), 0);
    assert_int_equal(submit("recipe:small-encoder", &b), 0);
    expect("SELECT count(*) FROM jobs WHERE kind='encoder'", 1);
    expect("SELECT priority FROM jobs WHERE kind='encoder'", 3);
    expect("SELECT count(*) FROM jobs WHERE changed IS NULL", 0); // not only at the next start
    json_t *j = dd_job_json(w.store, a, true, &err);
    const json_t *waits = json_object_get(j, "waits_for");
    assert_string_equal(json_string_value(json_object_get(waits, "id")), "1");
    assert_string_equal(json_string_value(json_object_get(waits, "name")), "small-encoder");
    assert_string_equal(json_string_value(json_object_get(waits, "state")), "queued");
    json_decref(j);
    start();
    world_wait(&w, a, "completed");
    world_wait(&w, b, "completed");
    assert_non_null(strstr(seen, "/checkpoints/1/enc"));
    j = dd_job_json(w.store, a, true, &err);
    assert_true(json_is_null(json_object_get(j, "waits_for")));
    assert_string_equal(json_string_value(json_object_get(j, "needs")), "1");
    json_decref(j);
    assert_int_equal(submit("small-encoder", &c), 0); // a finished one is used again
    world_wait(&w, c, "completed");
    expect("SELECT count(*) FROM jobs WHERE kind='encoder'", 1);
    expect("SELECT started_us < (SELECT min(started_us) FROM jobs WHERE kind='train') FROM jobs "
           "WHERE kind='encoder'",
           1);
    write_recipe("small-encoder", // other settings are another encoder
                 "{\"kind\": \"encoder\", \"data\": {\"size\": 16}, \"train\": {\"steps\": 8}}");
    assert_int_equal(submit("small-encoder", &c), 0);
    world_wait(&w, c, "completed");
    expect("SELECT count(*) FROM jobs WHERE kind='encoder'", 2);
}

static void its_failure_is_theirs(void **state) {
    (void)state;
    int64_t a;
    fails = true;
    assert_int_equal(submit("small-encoder", &a), 0);
    start();
    world_wait(&w, a, "failed");
    json_t *j = dd_job_json(w.store, a, false, &err);
    const char *why = json_string_value(json_object_get(j, "error"));
    assert_non_null(strstr(why, "job 1 (small-encoder)"));
    assert_non_null(strstr(why, "the encoder's disk is gone"));
    json_decref(j);
    fails = false; // resuming the generator resumes both
    assert_int_equal(dd_jobs_action(w.jobs, a, DD_JOB_RESUME, &err), 0);
    world_wait(&w, a, "completed");
    expect("SELECT count(*) FROM jobs WHERE kind='encoder' AND state='completed'", 1);
}

// The encoder's file is gone: one that was deleted has to be trained anew, one on a disk that is
// not mounted comes back.
static void its_file_is_gone(void **state) {
    (void)state;
    int64_t a, b;
    char folder[DD_PATH_MAX], aside[DD_PATH_MAX];
    assert_int_equal(submit("small-encoder", &a), 0);
    start();
    world_wait(&w, a, "completed");
    assert_int_equal(dd_path(folder, &err, "%s/checkpoints/1", w.dir), 0);
    assert_int_equal(dd_path(aside, &err, "%s/aside", w.dir), 0);
    assert_int_equal(rename(folder, aside), 0);
    assert_int_equal(submit("small-encoder", &b), 0);
    world_wait(&w, b, "failed");
    expect("SELECT count(*) FROM jobs WHERE error LIKE '%mounted%'", 1);
    expect("SELECT count(*) FROM checkpoints WHERE state='ok'", 1);
    assert_int_equal(rename(aside, folder), 0);
    assert_int_equal(dd_jobs_action(w.jobs, b, DD_JOB_RESUME, &err), 0);
    world_wait(&w, b, "completed");
    assert_int_equal(unlink(seen), 0);
    assert_int_equal(submit("small-encoder", &b), 0);
    world_wait(&w, b, "failed");
    expect("SELECT count(*) FROM jobs WHERE error LIKE '%no checkpoint of the encoder%'", 1);
    expect("SELECT count(*) FROM checkpoints WHERE state='removed'", 1);
}

static void stopping_and_removing(void **state) {
    (void)state;
    int64_t a;
    assert_int_equal(submit("small-encoder", &a), 0);
    assert_int_equal(dd_jobs_action(w.jobs, 1, DD_JOB_PAUSE, &err), 0);
    start();
    char now[16];
    world_state(&w, a, now);
    assert_string_equal(now, "queued"); // a paused need is waited for
    assert_int_equal(dd_jobs_action(w.jobs, 1, DD_JOB_STOP, &err), 0);
    world_wait(&w, a, "stopped");
    assert_int_equal(dd_jobs_remove(w.jobs, 1, &err), 0); // nothing waits for it now
    assert_int_equal(dd_jobs_action(w.jobs, a, DD_JOB_RESUME, &err), 0);
    world_wait(&w, a, "completed"); // with an encoder of its own
    expect("SELECT count(*) FROM jobs WHERE kind='encoder' AND id>1 AND state='completed'", 1);
}

static void removal_is_refused_while_others_need_it(void **state) {
    (void)state;
    int64_t a;
    assert_int_equal(submit("small-encoder", &a), 0);
    assert_int_equal(dd_jobs_action(w.jobs, a, DD_JOB_PAUSE, &err), 0);
    assert_int_equal(dd_jobs_action(w.jobs, 1, DD_JOB_STOP, &err), 0);
    assert_int_equal(dd_jobs_remove(w.jobs, 1, &err), DR_ECONFLICT);
    assert_non_null(strstr(err.msg, "job 2 needs the encoder of job 1"));
}

static int cut_off(sqlite3 *db, void *arg, struct dr_err *e) {
    return dd_sql_run(db, e, "UPDATE jobs SET state='interrupted' WHERE id=?", "i",
                      *(int64_t *)arg);
}

static int refuse(sqlite3 *db, void *arg, struct dr_err *e) {
    (void)db, (void)arg;
    return dr_fail(e, DR_EGONE, "no");
}

static void several_are_removed_together_or_not_at_all(void **state) {
    (void)state;
    int64_t both[] = {1, 0, 77}; // the last is no job
    assert_int_equal(submit("small-encoder", &both[1]), 0);
    for (int i = 1; i >= 0; i--)
        assert_int_equal(dd_jobs_action(w.jobs, both[i], DD_JOB_STOP, &err), 0);
    assert_int_equal(dd_store_do(w.store, cut_off, &both[1], &err), 0);
    assert_int_equal(dd_jobs_remove_all(w.jobs, both, 1, NULL, NULL, &err), DR_ECONFLICT);
    assert_int_equal(dd_jobs_remove_all(w.jobs, both, 3, refuse, NULL, &err), DR_EGONE);
    expect("SELECT count(*) FROM jobs", 2);
    assert_int_equal(dd_jobs_remove_all(w.jobs, both, 3, NULL, NULL, &err), 0);
    expect("SELECT count(*) FROM jobs", 0);
    assert_int_equal(dd_jobs_remove_all(w.jobs, both, 0, NULL, NULL, &err), 0);
    assert_int_equal(dd_jobs_remove(w.jobs, 1, &err), DR_ENOENT);
}

// An encoder is trained again when its checkpoint is gone, by hand or by the disk budget.
static void one_without_its_file_is_trained_anew(void **state) {
    (void)state;
    int64_t a;
    char file[DD_PATH_MAX], sql[100];
    start();
    assert_int_equal(submit("small-encoder", &a), 0);
    world_wait(&w, a, "completed");
    snprintf(file, sizeof file, "%s", seen);
    assert_int_equal(remove(file), 0);
    assert_int_equal(submit("small-encoder", &a), 0);
    world_wait(&w, a, "failed");
    snprintf(sql, sizeof sql, "SELECT error LIKE '%%resume this job%%' FROM jobs WHERE id=%d",
             (int)a);
    expect(sql, 1);
    assert_int_equal(dd_jobs_action(w.jobs, a, DD_JOB_RESUME, &err), 0);
    world_wait(&w, a, "completed");
    assert_string_not_equal(seen, file);
    expect("SELECT count(*) FROM jobs WHERE kind='encoder' AND state='completed'", 2);
    expect("SELECT count(*) FROM jobs WHERE kind='encoder' AND priority=3", 2);
}

// The budget and the rotation keep what a job that has not completed needs, and what has a name or
// a tag.
static void what_is_needed_stays(void **state) {
    (void)state;
    int64_t a, b;
    start();
    assert_int_equal(submit("small-encoder", &a), 0);
    world_wait(&w, a, "completed");
    assert_false(dd_ckpt_is_kept(w.store, seen));
    fails = true;
    write_recipe("wide-encoder",
                 "{\"kind\": \"encoder\", \"data\": {\"size\": 16}, \"train\": {\"steps\": 9}}");
    assert_int_equal(submit("wide-encoder", &b), 0);
    world_wait(&w, b, "failed");
    assert_false(dd_ckpt_is_kept(w.store, seen)); // another encoder's
    assert_int_equal(dd_jobs_action(w.jobs, b, DD_JOB_STOP, &err), DR_ECONFLICT);
    dd_jobs_stop(w.jobs);
    assert_int_equal(submit("1", &b), 0); // by the checkpoint's id
    assert_true(dd_ckpt_is_kept(w.store, seen));
    assert_int_equal(dd_jobs_action(w.jobs, b, DD_JOB_STOP, &err), 0);
    assert_true(dd_ckpt_is_kept(w.store, seen)); // it may be resumed
    assert_int_equal(dd_jobs_remove(w.jobs, b, &err), 0);
    assert_false(dd_ckpt_is_kept(w.store, seen));
    assert_int_equal(submit("small-encoder", &b), 0);
    assert_true(dd_ckpt_is_kept(w.store, seen));
    struct dd_disk *d = dd_disk_new(w.store, w.events, 1);
    dd_disk_look(d);
    dd_disk_stop(d);
    expect("SELECT count(*) FROM checkpoints WHERE state='ok'", 1);
    assert_int_equal(dd_jobs_action(w.jobs, b, DD_JOB_STOP, &err), 0);
    assert_int_equal(dd_jobs_remove(w.jobs, b, &err), 0);
    static const char *const marks[][2] = {{"", "[\"mine\"]"}, {"mine", "[]"}, {"", "[]"}};
    for (int i = 0; i < 3; i++) { // a name or a tag keeps it as well
        assert_int_equal(dd_ckpt_patch(w.store, 1, marks[i][0], NULL, marks[i][1], &err), 0);
        assert_int_equal(dd_ckpt_is_kept(w.store, seen), i < 2);
        d = dd_disk_new(w.store, w.events, 1);
        dd_disk_look(d);
        dd_disk_stop(d);
        expect("SELECT count(*) FROM checkpoints WHERE state='ok'", i < 2);
    }
}

static void a_waiting_encoder_takes_the_priority(void **state) {
    (void)state;
    struct dr_config c;
    int64_t a;
    bool replayed;
    assert_int_equal(submit("small-encoder", &a), 0);
    test_tiny(&c, 5);
    c.features.kind = DR_FEATURE_ENCODER;
    snprintf(c.features.encoder, sizeof c.features.encoder, "small-encoder");
    struct dd_job_new in = {.cfg = &c, .recipe = "gen", .kind = "train", .priority = 7};
    assert_int_equal(dd_jobs_create(w.jobs, &in, &a, &replayed, &err), 0);
    expect("SELECT priority FROM jobs WHERE kind='encoder'", 7);
}

// A higher priority given later reaches what the job waits for, the judge of its evaluations too,
// and at a resume.
static void a_later_priority_is_passed_on(void **state) {
    (void)state;
    int64_t other, a;
    struct dr_config c;
    test_tiny(&c, 5);
    other = world_submit(&w, &c, 50);
    submit_judged(&a); // its judge is job 2, its encoder 3
    assert_int_equal(dd_jobs_patch(w.jobs, a, NULL, NULL, &(int){100}, &err), 0);
    expect("SELECT count(*) FROM jobs WHERE kind='encoder' AND priority=100", 2);
    assert_int_equal(dd_jobs_patch(w.jobs, a, NULL, NULL, &(int){60}, &err), 0);
    expect("SELECT count(*) FROM jobs WHERE kind='encoder' AND priority=100", 2); // never less
    assert_int_equal(dd_jobs_patch(w.jobs, 3, NULL, NULL, &(int){-5}, &err), 0);
    assert_int_equal(dd_jobs_action(w.jobs, 3, DD_JOB_STOP, &err), 0);
    assert_int_equal(dd_jobs_action(w.jobs, a, DD_JOB_STOP, &err), 0);
    assert_int_equal(dd_jobs_action(w.jobs, a, DD_JOB_RESUME, &err), 0);
    expect("SELECT priority FROM jobs WHERE id=3", 60);
    start();
    world_wait(&w, other, "completed");
    expect("SELECT (SELECT started_us FROM jobs WHERE id=1) >"
           " (SELECT max(started_us) FROM jobs WHERE id>1)",
           1);
}

static const char other_judge[] =
    "{\"kind\": \"encoder\", \"data\": {\"size\": 16}, \"train\": {\"steps\": 9}}";

// The judge of a run that trains: before the first evaluation no job waits for it, and between two
// of them neither. Its recipe may have become another one, or be gone.
static void a_judge_stays_while_its_run_lasts(void **state) {
    (void)state;
    int64_t a, judge;
    char *config, file[DD_PATH_MAX];
    struct dr_config c, t;
    assert_int_equal(dd_path(file, &err, "%s/checkpoints/1/enc", w.dir), 0);
    submit_judged(&a);
    assert_int_equal(dd_jobs_action(w.jobs, a, DD_JOB_PAUSE, &err), 0);
    start();
    world_wait(&w, 2, "completed");
    expect("SELECT judge FROM jobs WHERE kind='train'", 1);
    test_tiny(&t, 5);
    dr_config_defaults(&c);
    c.kind = DR_RECIPE_EVAL;
    c.data = t.data;
    snprintf(c.eval.judge, sizeof c.eval.judge, "small-judge");
    c.eval.job = a;
    assert_non_null(config = dr_config_to_json(&c));
    write_recipe("small-judge", other_judge); // no longer what has been trained
    for (int i = 0; i < 2; i++) {             // before, and between
        assert_int_equal(dd_ckpt_let_go(w.store, file, DD_CKPT_BUDGET, &err), DR_ECONFLICT);
        assert_int_equal(dd_ckpt_remove(w.store, 1, &err), DR_ECONFLICT);
        assert_int_equal(dd_jobs_remove(w.jobs, 1, &err), DR_ECONFLICT);
        assert_non_null(strstr(err.msg, "job 3 needs the judge of job 1"));
        assert_int_equal(dd_needs_judge(w.jobs, config, 7, &judge, &err), 0);
        assert_int_equal(judge, 1);
        evaluation_is_due(a, judge, config);
        run_sql("UPDATE jobs SET state='completed' WHERE kind='eval'");
        remove_recipe("small-judge");
    }
    // Its twin that was trained later does not take its place: figures stay comparable.
    evaluation_is_due(a, 2, config);
    expect("SELECT (SELECT needs FROM jobs WHERE kind='eval')+judge FROM jobs WHERE kind='train'",
           2);
    run_sql("UPDATE jobs SET state='completed' WHERE kind='eval'");
    // Where its file is gone all the same, the next evaluation waits for the one that is trained
    // anew.
    run_sql("UPDATE checkpoints SET state='removed' WHERE job=1");
    write_recipe("small-judge", other_judge);
    assert_int_equal(dd_needs_judge(w.jobs, config, 7, &judge, &err), 0);
    assert_true(judge > 4);
    evaluation_is_due(a, judge, config);
    expect("SELECT count(*) FROM jobs WHERE kind='eval' AND state='queued'", 1);
    expect("SELECT (SELECT needs FROM jobs WHERE kind='eval')=(SELECT judge FROM jobs WHERE"
           " kind='train') AND (SELECT needs FROM jobs WHERE kind='eval')>4",
           1);
    expect("SELECT priority FROM jobs WHERE kind='encoder' ORDER BY id DESC LIMIT 1", 7);
    free(config);
}

static void they_wait_over_a_restart(void **state) {
    (void)state;
    int64_t a;
    char dir[256];
    assert_int_equal(submit("small-encoder", &a), 0);
    snprintf(dir, sizeof dir, "%s", w.dir);
    world_close(&w);
    world_open_kinds(&w, dir, table);
    find_recipes();
    start();
    world_wait(&w, a, "completed");
    assert_non_null(strstr(seen, "/checkpoints/1/enc"));
}

static void bad_names(void **state) {
    static const struct {
        const char *name, *words;
    } bad[] = {{"smal-encoder", "did you mean small-encoder"},
               {"no-encoder", "of kind train; expected one of kind encoder"},
               {"colour-encoder", "have 3 channels"},
               {"checkpoint:99", "checkpoint"},
               {"../etc/passwd", "etc/passwd"},
               {"there-is-none.safetensors", "there-is-none"}};
    (void)state;
    int64_t a;
    for (size_t i = 0; i < DR_COUNT(bad); i++) {
        err = (struct dr_err){0};
        assert_int_not_equal(submit(bad[i].name, &a), 0);
        assert_string_equal(err.field, "features.encoder");
        if (!strstr(err.msg, bad[i].words) || strstr(err.msg, "init_from"))
            fail_msg("%s: %s", bad[i].name, err.msg);
    }
    expect("SELECT count(*) FROM jobs", 0);
}

// An encoder file that says what it was trained on.
static void write_encoder(const char *path, const struct dr_config *cfg, const char *fingerprint) {
    struct dr_st_writer *st;
    const float one = 1;
    const int64_t dim = 1;
    char *json = dr_config_to_json(cfg);
    if (dr_st_writer_new(&st, &err) || dr_st_add(st, "x", DR_ST_F32, 1, &dim, &one, &err) ||
        dr_st_add_meta(st, "driftd.config", json, &err) ||
        dr_st_add_meta(st, "driftd.data_fingerprint", fingerprint, &err) ||
        dr_st_finish(st, path, NULL, NULL, &err))
        fail_msg("%s", err.msg);
    free(json);
}

// Maps that the encoder does not have are refused at once, whether it is trained yet or not.
static void maps_that_are_not_there(void **state) {
    (void)state;
    static const char *const encoder_of[] = {"small-encoder", "e.safetensors"};
    struct dr_config own;
    char path[600];
    int64_t a;
    dr_config_defaults(&own);
    own.kind = DR_RECIPE_ENCODER;
    own.data.size = 16;
    free(w.opt.data_dir);
    w.opt.data_dir = dd_xstrdup(w.dir);
    snprintf(path, sizeof path, "%s/e.safetensors", w.dir);
    write_encoder(path, &own, "0123456789abcdef");
    for (int i = 0; i < 2; i++) {
        err = (struct dr_err){0};
        assert_int_equal(submit_maps(encoder_of[i], "stage1,stage9", &a), DR_ECONFIG);
        assert_string_equal(err.field, "features.maps");
        if (!strstr(err.msg, "no map \"stage9\"") || !strstr(err.msg, "some of stage1, stage2"))
            fail_msg("%s: %s", encoder_of[i], err.msg);
        assert_int_equal(submit_maps(encoder_of[i], "99", &a), DR_ECONFIG);
        expect("SELECT count(*) FROM jobs", 2 * i);
        assert_int_equal(submit_maps(encoder_of[i], "stage1,-1", &a), 0);
        if (i)
            expect("SELECT count(*) FROM jobs", 3);
    }
}

static void data_that_changed(void **state) {
    (void)state;
    struct dr_config c, own;
    struct dr_dataset *d;
    char path[600], now[32];
    dr_config_defaults(&c);
    c.data.size = 16;
    c.data.count = 100;
    dr_config_defaults(&own);
    own.kind = DR_RECIPE_ENCODER;
    own.data = c.data;
    own.data.flip = true; // while training only
    snprintf(path, sizeof path, "%s/e.safetensors", w.dir);
    if (dr_dataset_load(&c.data, NULL, false, &d, &err))
        fail_msg("%s", err.msg);
    snprintf(now, sizeof now, "%016llx", (unsigned long long)d->fingerprint);
    write_encoder(path, &own, now);
    assert_int_equal(dd_encoder_data(path, &c, d, &err), 0);
    write_encoder(path, &own, "0123456789abcdef");
    assert_int_equal(dd_encoder_data(path, &c, d, &err), DR_ECONFLICT);
    assert_non_null(strstr(err.msg, "0123456789abcdef"));
    assert_string_equal(err.field, "features.encoder");
    own.data.seed = 77; // another set by intent
    write_encoder(path, &own, "0123456789abcdef");
    assert_int_equal(dd_encoder_data(path, &c, d, &err), 0);
    dr_dataset_free(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        WORLD_TEST(one_encoder_for_all, setup),
        WORLD_TEST(its_failure_is_theirs, setup),
        WORLD_TEST(its_file_is_gone, setup),
        WORLD_TEST(stopping_and_removing, setup),
        WORLD_TEST(removal_is_refused_while_others_need_it, setup),
        WORLD_TEST(several_are_removed_together_or_not_at_all, setup),
        WORLD_TEST(one_without_its_file_is_trained_anew, setup),
        WORLD_TEST(what_is_needed_stays, setup),
        WORLD_TEST(a_waiting_encoder_takes_the_priority, setup),
        WORLD_TEST(a_later_priority_is_passed_on, setup),
        WORLD_TEST(a_judge_stays_while_its_run_lasts, setup),
        WORLD_TEST(they_wait_over_a_restart, setup),
        WORLD_TEST(bad_names, setup),
        WORLD_TEST(maps_that_are_not_there, setup),
        WORLD_TEST(data_that_changed, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
