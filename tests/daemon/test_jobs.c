// Jobs on a real trainer with a tiny network: the state machine, priorities, idempotency, exact
// resume over stop, pause and a torn checkpoint, a full disk, a loss that explodes.
#include "tests/daemon/helper.h"

#include "daemon/base/util.h"
#include "daemon/jobs/jobs.h"
#include "daemon/jobs/runner.h"
#include "daemon/store/checkpoints.h"
#include "daemon/store/ckpt_files.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static struct world w;
static struct dr_err err;

static void start(void) {
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
}

static void same_losses(int64_t a, int64_t b, int n) {
    double va[400], vb[400];
    for (int col = 0; col < 2; col++) {
        const char *name = col ? "grad_norm" : "loss";
        assert_int_equal(world_values(w.store, a, name, va, 400), n);
        assert_int_equal(world_values(w.store, b, name, vb, 400), n);
        assert_memory_equal(va, vb, (size_t)n * sizeof *va);
    }
}

static void test_complete_and_priority(void **state) {
    (void)state;
    struct dr_config c;
    test_tiny(&c, 40);
    int64_t low = world_submit(&w, &c, -5), high = world_submit(&w, &c, 5);
    start();
    world_wait(&w, low, "completed");
    world_wait(&w, high, "completed");
    assert_int_equal(world_count(&w, "SELECT (SELECT started_us FROM jobs WHERE id=2) <"
                                     " (SELECT started_us FROM jobs WHERE id=1)"),
                     1);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM checkpoints WHERE state='ok'"), 4);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM samples"), 2);
    assert_int_equal(world_count(&w, "SELECT step FROM jobs WHERE id=1"), 40);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM events WHERE type='state' AND job=1"),
                     3);
    same_losses(low, high, 40);
    // Ended: what can still be done, and what not.
    assert_int_equal(dd_jobs_action(w.jobs, low, DD_JOB_STOP, &err), DR_ECONFLICT);
    assert_int_equal(dd_jobs_action(w.jobs, low, DD_JOB_RESUME, &err), DR_ECONFLICT);
    assert_int_equal(dd_jobs_action(w.jobs, 77, DD_JOB_STOP, &err), DR_ENOENT);
    assert_int_equal(dd_jobs_patch(w.jobs, low, "a name", "notes", NULL, &err), 0);
    assert_int_equal(dd_jobs_patch(w.jobs, 77, "a name", NULL, NULL, &err), DR_ENOENT);
    assert_int_equal(dd_jobs_remove(w.jobs, low, &err), 0);
    assert_int_equal(dd_jobs_remove(w.jobs, low, &err), DR_ENOENT);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM metrics WHERE job=1"), 0);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM checkpoints"), 2);
}

// Removing the job whose checkpoint is served as `live` would change what `live` is.
static void test_remove_active(void **state) {
    (void)state;
    struct dr_config c;
    test_tiny(&c, 20);
    int64_t id = world_submit(&w, &c, 0), other = world_submit(&w, &c, 0);
    start();
    world_wait(&w, other, "completed");
    assert_int_equal(dd_ckpt_activate(w.store, 1, &err), 0);
    assert_int_equal(dd_jobs_remove(w.jobs, id, &err), DR_ECONFLICT);
    assert_non_null(strstr(err.msg, "checkpoint 1 of job 1 is activated"));
    assert_int_equal(world_count(&w, "SELECT count(*) FROM checkpoints WHERE state='ok'"), 2);
    assert_int_equal(dd_jobs_remove(w.jobs, other, &err), 0);
    assert_int_equal(dd_ckpt_activate(w.store, 2, &err), DR_EGONE); // and what was promoted stays
    assert_int_equal(dd_ckpt_active(w.store), 1);
    assert_int_equal(dd_ckpt_activate(w.store, 0, &err), 0);
    assert_int_equal(dd_jobs_remove(w.jobs, id, &err), 0);
}

static void test_idempotency(void **state) {
    (void)state;
    struct dr_config c;
    int64_t a, b;
    bool replayed;
    test_tiny(&c, 40);
    struct dd_job_new in = {
        .cfg = &c, .recipe = "tiny", .kind = "train", .key = "k1", .fingerprint = "body"};
    assert_int_equal(dd_jobs_create(w.jobs, &in, &a, &replayed, &err), 0);
    assert_false(replayed);
    assert_int_equal(dd_jobs_create(w.jobs, &in, &b, &replayed, &err), 0);
    assert_true(replayed);
    assert_int_equal(a, b);
    in.fingerprint = "another";
    assert_int_equal(dd_jobs_create(w.jobs, &in, &b, &replayed, &err), DR_EINVAL);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM jobs"), 1);
    assert_int_equal(dd_jobs_remove(w.jobs, a, &err), DR_ECONFLICT);
    assert_int_equal(dd_jobs_action(w.jobs, a, DD_JOB_CHECKPOINT, &err), DR_ECONFLICT);
    assert_int_equal(dd_jobs_action(w.jobs, a, DD_JOB_PAUSE, &err), 0);
    assert_int_equal(dd_jobs_action(w.jobs, a, DD_JOB_STOP, &err), 0);
}

static void test_stop_pause_resume(void **state) {
    (void)state;
    struct dr_config c;
    test_tiny(&c, 300);
    c.metrics.spread_every = 0;
    start();
    int64_t ref = world_submit(&w, &c, 0);
    world_wait(&w, ref, "completed");
    int64_t id = world_submit(&w, &c, 0);
    world_wait_step(&w, id, 30);
    assert_int_equal(dd_jobs_action(w.jobs, id, DD_JOB_CHECKPOINT, &err), 0);
    assert_int_equal(dd_jobs_action(w.jobs, id, DD_JOB_PAUSE, &err), 0);
    char now[16] = "";
    for (int i = 0; i < 9000 && strcmp(now, "paused") && strcmp(now, "completed"); i++) {
        world_state(&w, id, now);
        usleep(10000);
    }
    if (!strcmp(now, "paused")) { // a fast machine may have been through already
        assert_int_equal(dd_jobs_action(w.jobs, id, DD_JOB_RESUME, &err), 0);
        dd_jobs_action(w.jobs, id, DD_JOB_STOP_NOW, &err); // loses up to 20 steps, does them again
        for (int i = 0; i < 9000 && strcmp(now, "stopped") && strcmp(now, "completed"); i++) {
            world_state(&w, id, now);
            usleep(10000);
        }
        dd_jobs_action(w.jobs, id, DD_JOB_RESUME, &err);
    }
    world_wait(&w, id, "completed");
    same_losses(ref, id, 300);
}

// The daemon's own shutdown: interrupted, queued again by the next start, same losses. The newest
// checkpoint is torn in between: refused, the one before it is used.
static void test_shutdown_and_torn(void **state) {
    (void)state;
    struct dr_config c;
    char dir[256], path[600];
    test_tiny(&c, 400);
    c.metrics.spread_every = 0;
    start();
    int64_t ref = world_submit(&w, &c, 0);
    world_wait(&w, ref, "completed");
    int64_t id = world_submit(&w, &c, 0);
    world_wait_step(&w, id, 60);
    snprintf(dir, sizeof dir, "%s", w.dir);
    world_close(&w);
    world_open(&w, dir);
    char now[16];
    world_state(&w, id, now);
    if (!strcmp(now, "queued")) {
        int64_t step = world_count(&w, "SELECT max(step) FROM checkpoints WHERE job=2");
        snprintf(path, sizeof path, "%s/checkpoints/2/step-%08lld.safetensors", dir,
                 (long long)step);
        assert_int_equal(truncate(path, 5000), 0);
        start();
        world_wait(&w, id, "completed");
        assert_int_equal(world_count(&w, "SELECT count(*) FROM events WHERE type='alert' AND job=2"
                                         " AND data LIKE '%checkpoint%'"),
                         1);
        assert_int_equal(world_count(&w, "SELECT attempts FROM jobs WHERE id=2"), 2);
    }
    same_losses(ref, id, 400);
}

// A refused file of a later step neither costs the run that starts again the checkpoints that it
// writes, nor stays once that step has been passed.
static void test_rotation_below_a_refused_file(void **state) {
    (void)state;
    struct dr_config c;
    struct dd_run_result res;
    char dir[300], path[2][DD_PATH_MAX];
    snprintf(dir, sizeof dir, "%s/run", w.dir);
    const struct dd_run_hooks none = {0};
    struct dd_run_spec spec = {
        .cfg = &c, .device = "cpu", .checkpoint_dir = dir, .id = "run", .threads = 1};
    test_tiny(&c, 80);
    c.checkpoint.keep_last = 1;
    assert_int_equal(dd_run(&spec, &none, &res, &err), 0);
    dd_ckpt_path(dir, 40, path[0], sizeof path[0]);
    dd_ckpt_path(dir, 80, path[1], sizeof path[1]);
    assert_int_equal(access(path[0], F_OK), -1);
    assert_int_equal(truncate(path[1], 5000), 0);
    c.train.steps = 40;
    spec.resume = true;
    assert_int_equal(dd_run(&spec, &none, &res, &err), 0);
    assert_string_equal(res.last_good, path[0]);
    assert_int_equal(access(path[0], F_OK), 0);
    test_tiny(&c, 100);
    c.checkpoint.keep_last = 1;
    c.checkpoint.every = 50; // another file than the refused one
    assert_int_equal(dd_run(&spec, &none, &res, &err), 0);
    assert_int_equal(res.step, 100);
    assert_int_equal(access(path[0], F_OK), -1);
    assert_int_equal(access(path[1], F_OK), -1);
}

static void test_disk_full(void **state) {
    (void)state;
    struct dr_config c;
    test_tiny(&c, 60);
    c.model.dim = 128; // a checkpoint of more bytes than the database will have
    c.model.depth = 3;
    c.checkpoint.every = 20;
    c.metrics.spread_every = 0;
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit old, tight;
    getrlimit(RLIMIT_FSIZE, &old);
    tight = (struct rlimit){.rlim_cur = 5 << 20, .rlim_max = old.rlim_max};
    int64_t id = world_submit(&w, &c, 0);
    setrlimit(RLIMIT_FSIZE, &tight);
    start();
    world_wait(&w, id, "failed"); // the steps were done, the last checkpoint could not be written
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(world_count(&w, "SELECT step FROM jobs WHERE id=1"), 60);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM checkpoints"), 0);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM events WHERE type='alert'"
                                     " AND data LIKE '%disk%'"),
                     1);
    struct dd_jobs_now now;
    dd_jobs_now(w.jobs, &now);
    assert_int_equal(now.checkpoint_failures, 4); // three by step, one at the end
    // With space again the job goes through, and nothing half-written is left.
    assert_int_equal(dd_jobs_action(w.jobs, id, DD_JOB_RESUME, &err), 0);
    world_wait(&w, id, "completed");
    assert_int_equal(world_count(&w, "SELECT count(*) FROM checkpoints WHERE state='ok'"), 3);
    char cmd[400];
    snprintf(cmd, sizeof cmd, "test $(ls -A %s/checkpoints/1 | wc -l) = 3", w.dir);
    assert_int_equal(system(cmd), 0);
}

// Decay of lr * wd = 4 a step multiplies the matrices by -3 each time: they overflow soon.
static int sql(sqlite3 *db, void *arg, struct dr_err *e) {
    return dd_sql_run(db, e, arg, "");
}

// The last checkpoint's file has found room and its row has not: the job has not completed, and
// resuming it takes the file in.
static void test_unrecorded(void **state) {
    (void)state;
    static char no_rows[] = "CREATE TRIGGER full BEFORE INSERT ON checkpoints WHEN NEW.step=40"
                            " BEGIN SELECT RAISE(FAIL, 'no room'); END",
                room_again[] = "DROP TRIGGER full";
    struct dr_config c;
    test_tiny(&c, 40);
    assert_int_equal(dd_store_do(w.store, sql, no_rows, &err), 0);
    int64_t id = world_submit(&w, &c, 0);
    start();
    world_wait(&w, id, "failed");
    assert_int_equal(
        world_count(&w, "SELECT count(*) FROM jobs WHERE error LIKE '%last checkpoint%recorded'"),
        1);
    assert_int_equal(
        world_count(&w, "SELECT count(*) FROM events WHERE type='alert' AND data LIKE '%no room%'"),
        1);
    assert_int_equal(dd_store_do(w.store, sql, room_again, &err), 0);
    assert_int_equal(dd_jobs_action(w.jobs, id, DD_JOB_RESUME, &err), 0);
    world_wait(&w, id, "completed");
    assert_int_equal(
        world_count(&w, "SELECT count(*) FROM checkpoints WHERE step=40 AND state='ok'"), 1);
}

// --- a job that trained to some checkpoint, and further ---

static void act(int64_t id, enum dd_job_action a) {
    if (dd_jobs_action(w.jobs, id, a, &err))
        fail_msg("%s", err.msg);
}

static int64_t wait_checkpoints(int64_t n) {
    static const char count[] = "SELECT count(*) FROM checkpoints WHERE state='ok'";
    for (int i = 0; i < 9000 && world_count(&w, count) < n; i++)
        usleep(10000);
    return world_count(&w, "SELECT max(step) FROM checkpoints WHERE state='ok'");
}

// Pauses the job some steps behind `after`, where its checkpoint cannot be saved, for the reason
// given (a pattern of SQL). Returns the step that it has come to.
static int64_t pause_unsaved(int64_t id, int64_t after, const char *reason) {
    char text[400];
    world_wait_step(&w, id, after + 10);
    act(id, DD_JOB_PAUSE);
    world_wait(&w, id, "paused");
    snprintf(text, sizeof text,
             "SELECT count(*) FROM jobs WHERE error LIKE 'stopped at step '||step||'%s'", reason);
    assert_int_equal(world_count(&w, text), 1);
    return world_count(&w, "SELECT step FROM jobs");
}

// A stop that could not save its checkpoint says from where the job will go on: from the file that
// has no row, or where there is none from the one before it.
static void test_stop_unsaved(void **state) {
    (void)state;
    static char no_rows[] = "CREATE TRIGGER full BEFORE INSERT ON checkpoints"
                            " BEGIN SELECT RAISE(FAIL, 'no room'); END",
                room_again[] = "DROP TRIGGER full";
    struct dr_config c;
    char dir[300], aside[300], why[200];
    test_tiny(&c, 1000000);
    c.checkpoint.every = 0;
    snprintf(dir, sizeof dir, "%s/checkpoints/1", w.dir);
    snprintf(aside, sizeof aside, "%s/aside", w.dir);
    assert_int_equal(dd_store_do(w.store, sql, no_rows, &err), 0);
    start();
    const int64_t id = world_submit(&w, &c, 0);
    const int64_t written = pause_unsaved(id, 0,
                                          "; the checkpoint is written, but could not be recorded:"
                                          " %no room%; a resume goes on from it");
    assert_int_equal(dd_store_do(w.store, sql, room_again, &err), 0);
    act(id, DD_JOB_RESUME);
    assert_int_equal(wait_checkpoints(1), written);
    world_wait_step(&w, id, written + 1);
    assert_int_equal(rename(dir, aside), 0);
    assert_int_equal(dd_write_file(dir, "", 0, &err), 0);
    snprintf(why, sizeof why,
             ", but its checkpoint could not be written: %%; the newest is of step %lld",
             (long long)written);
    pause_unsaved(id, written, why);
    assert_int_equal(unlink(dir), 0);
    assert_int_equal(rename(aside, dir), 0);
    act(id, DD_JOB_RESUME);
    world_wait(&w, id, "running");
    act(id, DD_JOB_STOP_NOW); // wishes for no checkpoint
    world_wait(&w, id, "stopped");
    assert_int_equal(world_count(&w, "SELECT count(error) FROM jobs"), 0);
}

static void expect_error(int64_t id, const char *like, int64_t values) {
    char text[400];
    act(id, DD_JOB_RESUME);
    world_wait(&w, id, "failed");
    snprintf(text, sizeof text, "SELECT count(*) FROM jobs WHERE error LIKE '%s'", like);
    assert_int_equal(world_count(&w, text), 1);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM metrics"), values);
}

// The folder of a job's checkpoints is gone, or cannot be read: it does not start anew, and keeps
// its curves. Where one of several is gone, the job goes on from the one before it, with an alert.
static void test_lost_checkpoints(void **state) {
    (void)state;
    struct dr_config c;
    char dir[300], aside[300], text[200], path[DD_PATH_MAX];
    test_tiny(&c, 1000000);
    start();
    const int64_t id = world_submit(&w, &c, 0);
    wait_checkpoints(3);
    act(id, DD_JOB_STOP);
    world_wait(&w, id, "stopped");
    const int64_t newest = wait_checkpoints(3), n = world_count(&w, "SELECT count(*) FROM metrics");
    snprintf(dir, sizeof dir, "%s/checkpoints/1", w.dir);
    snprintf(aside, sizeof aside, "%s/aside", w.dir);
    assert_int_equal(rename(dir, aside), 0);
    expect_error(id, "none of this job''s 3 checkpoints%is in the folder checkpoints/1%", n);
    assert_int_equal(dd_write_file(dir, "", 0, &err), 0);
    expect_error(id, "cannot go on from %/checkpoints/1: cannot read the folder%", n);
    assert_int_equal(wait_checkpoints(3), newest);
    assert_int_equal(unlink(dir), 0);
    assert_int_equal(rename(aside, dir), 0);
    dd_ckpt_path(dir, newest, path, sizeof path);
    assert_int_equal(unlink(path), 0);
    act(id, DD_JOB_RESUME);
    world_wait_step(&w, id, newest + 1);
    act(id, DD_JOB_STOP);
    world_wait(&w, id, "stopped");
    snprintf(text, sizeof text,
             "SELECT count(*) FROM events WHERE type='alert' AND data LIKE '%%is gone%%' AND"
             " json_extract(data,'$.step')=%lld",
             (long long)newest);
    assert_int_equal(world_count(&w, text), 1);
}

// A folder that cannot be read is no empty one.
static void test_unread_folder(void **state) {
    (void)state;
    struct dd_ckpt_list l;
    char dir[300];
    snprintf(dir, sizeof dir, "%s/nowhere", w.dir);
    assert_int_equal(dd_ckpt_list(dir, &l, &err), 0);
    assert_int_equal(l.n, 0);
    assert_int_equal(dd_ckpt_set_aside(dir, &err), 0);
    assert_int_equal(dd_ckpt_list(dd_store_path(w.store), &l, &err), DR_EIO);
    assert_int_equal(l.n, 0);
    assert_non_null(strstr(err.msg, "driftd.sqlite3: cannot read the folder: Not a directory"));
    assert_int_equal(dd_ckpt_set_aside(dd_store_path(w.store), &err), DR_EIO);
}

static void test_nonfinite(void **state) {
    (void)state;
    struct dr_config c, ok;
    test_tiny(&c, 200);
    c.optim.lr = 2;
    c.optim.weight_decay = 2;
    c.optim.clip = 0;
    c.optim.warmup = 0;
    c.checkpoint.every = 5;
    start();
    int64_t id = world_submit(&w, &c, 0);
    world_wait(&w, id, "failed");
    assert_int_equal(world_count(&w, "SELECT count(*) FROM events WHERE type='alert'"
                                     " AND data LIKE '%nonfinite%'"),
                     1);
    assert_true(world_count(&w, "SELECT count(*) FROM checkpoints WHERE state='ok'") > 0);
    // The failing step has its row, and is the newest that /metrics shows.
    struct dd_pump_stats ps;
    dd_pump_stats(w.pump, &ps);
    assert_int_equal(ps.newest.job, id);
    assert_false(isfinite(dd_row_value(&ps.newest, "loss")) &&
                 isfinite(dd_row_value(&ps.newest, "grad_norm")));
    assert_int_equal(ps.newest.step, world_count(&w, "SELECT max(step) FROM metrics"));
    assert_true(world_count(&w, "SELECT count(*) FROM metrics WHERE value IS NULL AND"
                                " step=(SELECT max(step) FROM metrics)") > 0);
    // The thread lives and takes the next job.
    test_tiny(&ok, 20);
    world_wait(&w, world_submit(&w, &ok, 0), "completed");
}

static int64_t collapse_alerts(int64_t job) {
    char sql[160];
    snprintf(sql, sizeof sql,
             "SELECT count(*) FROM events WHERE type='alert' AND job=%lld AND data LIKE "
             "'%%collapse%%'",
             (long long)job);
    return world_count(&w, sql);
}

// Raw pixels under the authors' affinity floor collapse on the class means (method.md 10); the same
// run without the floor stays healthy.
static void test_collapse(void **state) {
    (void)state;
    static const char *const set[] = {"data.size=16",
                                      "data.fit=resize",
                                      "data.count=2000",
                                      "model.dim=48",
                                      "model.depth=2",
                                      "model.style_tokens=4",
                                      "model.noise=latent",
                                      "model.rope=false",
                                      "model.pos_embed=true",
                                      "model.mlp=gelu",
                                      "model.registers=0",
                                      "train.generated=8",
                                      "train.positives=32",
                                      "train.alpha_max=1",
                                      "optim.lr=0.004",
                                      "optim.warmup=20",
                                      "loss.temperatures=[0.02]",
                                      "metrics.spread_every=1",
                                      "train.steps=200",
                                      "checkpoint.every=0",
                                      "samples.every=0"};
    struct dr_config c;
    dr_config_defaults(&c);
    for (size_t i = 0; i < DR_COUNT(set); i++)
        if (dr_config_set(&c, set[i], &err))
            fail_msg("%s", err.msg);
    start();
    int64_t floor = world_submit(&w, &c, 0);
    c.loss.floor = 0;
    int64_t healthy = world_submit(&w, &c, 0);
    world_wait(&w, floor, "completed");
    world_wait(&w, healthy, "completed");
    assert_int_equal(collapse_alerts(floor), 1);
    assert_int_equal(collapse_alerts(healthy), 0);
}

static void test_bad_data(void **state) {
    (void)state;
    struct dr_config c;
    test_tiny(&c, 20);
    c.data.set = DR_DATA_MNIST;
    snprintf(c.data.path, sizeof c.data.path, "no-such-folder");
    start();
    int64_t id = world_submit(&w, &c, 0);
    world_wait(&w, id, "failed");
    assert_int_equal(world_count(&w, "SELECT error LIKE '%no-such-folder%' FROM jobs WHERE id=1"),
                     1);
    test_tiny(&c, 20);
    id = world_submit(&w, &c, 0);
    world_wait(&w, id, "completed");
}

static int change_data(sqlite3 *db, void *count, struct dr_err *e) {
    return dd_sql_run(db, e, "UPDATE jobs SET config=json_set(config,'$.data.count',?) WHERE id=1",
                      "i", *(int64_t *)count);
}

// A job whose data has changed meanwhile fails and keeps its checkpoints; with the old data it goes
// on from them.
static void test_changed_data(void **state) {
    (void)state;
    struct dr_config c;
    test_tiny(&c, 1000000);
    start();
    int64_t id = world_submit(&w, &c, 0), count = c.data.count, more = count + 10;
    world_wait_step(&w, id, 30);
    assert_int_equal(dd_jobs_action(w.jobs, id, DD_JOB_STOP, &err), 0);
    world_wait(&w, id, "stopped");
    const int64_t step = world_count(&w, "SELECT max(step) FROM checkpoints"),
                  kept = world_count(&w, "SELECT count(*) FROM checkpoints WHERE state='ok'");
    assert_int_equal(dd_store_do(w.store, change_data, &more, &err), 0);
    assert_int_equal(dd_jobs_action(w.jobs, id, DD_JOB_RESUME, &err), 0);
    world_wait(&w, id, "failed");
    assert_int_equal(world_count(&w, "SELECT error LIKE '%fingerprint%put that right%' FROM jobs"),
                     1);
    assert_int_equal(world_count(&w, "SELECT count(*) FROM checkpoints WHERE state='ok'"), kept);
    assert_int_equal(dd_store_do(w.store, change_data, &count, &err), 0);
    assert_int_equal(dd_jobs_action(w.jobs, id, DD_JOB_RESUME, &err), 0);
    world_wait_step(&w, id, step + 1);
    assert_int_equal(dd_jobs_action(w.jobs, id, DD_JOB_STOP, &err), 0);
    world_wait(&w, id, "stopped");
}

static void test_live(void **state) {
    (void)state;
    struct dr_config c;
    int64_t job = 0;
    test_tiny(&c, 1000000);
    start();
    int64_t id = world_submit(&w, &c, 0);
    world_wait_step(&w, id, 5);
    struct dr_snapshot *a = dd_live_get(w.live, &job);
    assert_non_null(a);
    assert_int_equal(job, id);
    struct dr_snapshot *b = dd_live_get(w.live, NULL);
    for (int i = 0; i < 9000 && b->step <= a->step; i++) { // published anew while it trains
        dr_snapshot_unref(b);
        usleep(10000);
        b = dd_live_get(w.live, NULL);
    }
    assert_true(b->step > a->step);
    dr_snapshot_unref(a);
    dr_snapshot_unref(b);
    assert_int_equal(dd_jobs_action(w.jobs, id, DD_JOB_STOP, &err), 0);
    world_wait(&w, id, "stopped");
    for (int i = 0; i < 9000 && (b = dd_live_get(w.live, NULL)); i++) { // let go a moment later
        dr_snapshot_unref(b);
        usleep(10000);
    }
    assert_null(b);
}

int main(void) {
#define T(f) WORLD_TEST(f, world_setup)
    const struct CMUnitTest tests[] = {T(test_complete_and_priority),
                                       T(test_remove_active),
                                       T(test_idempotency),
                                       T(test_stop_pause_resume),
                                       T(test_shutdown_and_torn),
                                       T(test_rotation_below_a_refused_file),
                                       T(test_disk_full),
                                       T(test_unrecorded),
                                       T(test_stop_unsaved),
                                       T(test_lost_checkpoints),
                                       T(test_unread_folder),
                                       T(test_nonfinite),
                                       T(test_collapse),
                                       T(test_bad_data),
                                       T(test_changed_data),
                                       T(test_live)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
