// Jobs while another process holds the database: training goes on, a start waits, a stop is taken,
// and a pause is one also where the process ends before it.
#include "tests/daemon/helper.h"

#include "daemon/jobs/kinds.h"

#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct world w;
static struct dr_err err;

// --- the other process: a connection of its own ---

static sqlite3 *holder;
static _Atomic int refused;              // writes since hold()
static _Atomic int release_at, block_at; // by which of them it lets go, or which waits for unblock
static sem_t blocked, unblock;

static void release(void) {
    assert_int_equal(sqlite3_exec(holder, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
}

// On the writer's thread, which would wait for seconds else.
static int on_busy(void *ctx, int tries) {
    (void)ctx, (void)tries;
    const int n = atomic_fetch_add(&refused, 1) + 1;
    if (n == release_at)
        release();
    if (n == block_at) {
        sem_post(&blocked);
        sem_wait(&unblock);
    }
    return 0;
}

static int be_quick(sqlite3 *db, void *arg, struct dr_err *e) {
    (void)arg, (void)e;
    sqlite3_busy_handler(db, on_busy, NULL);
    return 0;
}

// What was posted before has been written.
static void hold(int releases, int blocks) {
    assert_int_equal(dd_store_do(w.store, be_quick, NULL, NULL), 0);
    refused = 0;
    release_at = releases;
    block_at = blocks;
    assert_int_equal(sqlite3_exec(holder, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
}

static void wait_for(_Atomic int *count) {
    for (int i = 0; i < 9000 && !*count; i++)
        usleep(10000);
    assert_true(*count > 0);
}

// --- kinds ---

static _Atomic int at_start = -1; // hold(at_start, 0) when the next job starts, -1: no
static _Atomic int asked;         // how often the job has asked what is wished
static _Atomic bool deaf;         // it does not do what it hears
static sem_t aside_runs, aside_ends;

static int train(struct dd_job *job, enum dd_outcome *outcome, struct dr_err *e) {
    const int releases = atomic_exchange(&at_start, -1);
    if (releases >= 0)
        hold(releases, 0);
    return dd_kind_train.run(job, outcome, e);
}

static int ask(struct dd_job *job, enum dd_outcome *outcome, struct dr_err *e) {
    (void)e;
    for (;; usleep(1000)) {
        const enum dd_wish wish = dd_job_wish(job);
        atomic_fetch_add(&asked, 1);
        if (wish != DD_WISH_NONE && !deaf)
            break;
    }
    *outcome = DD_RUN_STOPPED;
    return 0;
}

static int aside(struct dd_job *job, enum dd_outcome *outcome, struct dr_err *e) {
    (void)job, (void)e;
    sem_post(&aside_runs);
    sem_wait(&aside_ends);
    *outcome = DD_RUN_COMPLETED;
    return 0;
}

static const struct dd_job_kind trains = {.name = "train", .run = train, .resumes = true},
                                asks = {.name = "ask", .run = ask},
                                beside = {.name = "beside", .run = aside, .beside = true};
static const struct dd_job_kind *const table[] = {&trains, &asks, &beside, NULL};

static int setup(void **state) {
    (void)state;
    world_open_kinds(&w, NULL, table);
    sem_init(&blocked, 0, 0);
    sem_init(&unblock, 0, 0);
    sem_init(&aside_runs, 0, 0);
    sem_init(&aside_ends, 0, 0);
    asked = deaf = 0;
    assert_int_equal(sqlite3_open_v2(dd_store_path(w.store), &holder,
                                     SQLITE_OPEN_READWRITE | SQLITE_OPEN_FULLMUTEX, NULL),
                     SQLITE_OK);
    sqlite3_busy_timeout(holder, 60000);
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    deaf = false;
    sqlite3_close(holder);
    world_close(&w);
    test_rmdir(w.dir);
    return 0;
}

static int64_t submit(const char *kind) {
    struct dr_config c;
    int64_t id;
    bool replayed;
    test_tiny(&c, 1000000);
    c.checkpoint.every = 0;
    c.metrics.spread_every = 0;
    const struct dd_job_new in = {.cfg = &c, .recipe = "tiny", .kind = kind};
    if (dd_jobs_create(w.jobs, &in, &id, &replayed, &err))
        fail_msg("%s", err.msg);
    return id;
}

static void act(int64_t id, enum dd_job_action a) {
    if (dd_jobs_action(w.jobs, id, a, &err))
        fail_msg("%s", err.msg);
}

static void wait_count(const char *sql, int64_t at_least) {
    for (int i = 0; i < 9000 && world_count(&w, sql) < at_least; i++)
        usleep(10000);
    assert_true(world_count(&w, sql) >= at_least);
}

// The job `ask` is at work, and nothing waits to be written.
static void wait_asked(void) {
    wait_for(&asked);
    world_count(&w, "SELECT 1");
}

static void wait_idle(void) {
    struct dd_jobs_now now = {.running = 1};
    for (int i = 0; i < 9000 && now.running; i++) {
        usleep(10000);
        dd_jobs_now(w.jobs, &now);
    }
    assert_int_equal(now.running, 0);
}

// --- the queue's lock ---

static bool asks_on(void) {
    const int before = asked;
    for (int i = 0; i < 2000 && asked < before + 30; i++)
        usleep(10000);
    return asked >= before + 30;
}

// The other lane waits for the database with the queue's lock in its hand.
static void training_does_not_wait(void **state) {
    (void)state;
    const int64_t a = submit("ask"), b = submit("beside");
    wait_asked();
    sem_wait(&aside_runs);
    hold(0, 2); // the first one is of the job's metrics
    sem_post(&aside_ends);
    sem_wait(&blocked);
    const bool on = asks_on();
    release();
    sem_post(&unblock);
    assert_true(on);
    world_wait(&w, b, "completed");
    act(a, DD_JOB_STOP);
    world_wait(&w, a, "stopped");
}

static _Atomic int commits;
static int on_commit(void *ctx) {
    (void)ctx;
    commits++;
    return 0;
}
static int watch_commits(sqlite3 *db, void *arg, struct dr_err *e) {
    (void)arg, (void)e;
    sqlite3_commit_hook(db, on_commit, NULL);
    return 0;
}

// A lane that finds no job for it writes nothing.
static void looking_for_work_only_reads(void **state) {
    (void)state;
    const int64_t a = submit("ask"), next = submit("ask");
    wait_asked();
    assert_int_equal(dd_store_do(w.store, watch_commits, NULL, &err), 0);
    commits = 0;
    for (int i = 0; i < 3; i++) {
        dd_jobs_wake(w.jobs);
        assert_true(asks_on());
    }
    assert_int_equal(commits, 0);
    act(a, DD_JOB_STOP);
    world_wait(&w, next, "running");
    act(next, DD_JOB_STOP);
    world_wait(&w, next, "stopped");
}

// Another process queues a job.
static void what_others_queue_is_found(void **state) {
    (void)state;
    const int64_t a = submit("ask");
    wait_asked();
    act(a, DD_JOB_STOP);
    world_wait(&w, a, "stopped");
    wait_idle();
    world_count(&w, "SELECT 1"); // the writer has counted the jobs that wait
    assert_int_equal(sqlite3_exec(holder, "UPDATE jobs SET state='queued'", NULL, NULL, NULL),
                     SQLITE_OK);
    dd_jobs_wake(w.jobs);
    world_wait(&w, a, "running");
    act(a, DD_JOB_STOP);
    world_wait(&w, a, "stopped");
}

// --- starts ---

static void hold_next_start(int releases) {
    refused = 0;
    at_start = releases;
}

// What is written at a start is written once the database is free, before any metrics: the classes'
// names, and that what lies behind the checkpoint has not been.
static void a_start_waits(void **state) {
    (void)state;
    hold_next_start(1);
    const int64_t id = submit("train");
    wait_for(&refused);
    world_wait_step(&w, id, 30);
    assert_int_equal(world_count(&w, "SELECT count(class_names)+count(data_name) FROM jobs"), 2);
    act(id, DD_JOB_CHECKPOINT);
    wait_count("SELECT count(*) FROM checkpoints", 1);
    const int64_t saved = world_count(&w, "SELECT step FROM checkpoints");
    world_wait_step(&w, id, saved + 20);
    act(id, DD_JOB_STOP_NOW);
    world_wait(&w, id, "stopped");
    const int64_t last = world_count(&w, "SELECT max(step) FROM metrics");
    assert_true(last > saved);
    hold_next_start(1);
    act(id, DD_JOB_RESUME);
    wait_for(&refused);
    world_wait_step(&w, id, last + 20);
    act(id, DD_JOB_STOP);
    world_wait(&w, id, "stopped");
    assert_int_equal(world_count(&w, "SELECT count(*) FROM metric_rollups r WHERE n+nonfinite<>"
                                     "(SELECT count(*) FROM metrics m WHERE m.job=r.job AND"
                                     " m.name=r.name AND m.step/r.width=r.bucket)"),
                     0);
}

// A stop is taken although its row cannot say so yet, also by a job that still waits to start.
static void a_stop_is_taken(void **state) {
    (void)state;
    hold_next_start(0);
    const int64_t id = submit("train");
    wait_for(&refused);
    act(id, DD_JOB_STOP);
    char now[16];
    world_state(&w, id, now);
    assert_string_equal(now, "running");
    release();
    world_wait(&w, id, "stopped");
    assert_int_equal(world_count(&w, "SELECT count(*) FROM metrics"), 0);
}

// --- sample grids ---

// The row of a grid that was drawn meanwhile comes later.
static void a_grid_is_not_lost(void **state) {
    (void)state;
    int64_t grid;
    const int64_t id = submit("ask");
    wait_asked();
    hold(0, 0);
    assert_int_equal(dd_sample_record(w.store, id, 7, "samples/1/x.png", 5, 1, 1, &grid, &err),
                     DR_EBUSY);
    release();
    assert_int_equal(world_count(&w, "SELECT step FROM samples"), 7);
    act(id, DD_JOB_STOP);
    world_wait(&w, id, "stopped");
}

// --- the process ends while a job is stopping ---

// The state that a start would find the job in.
static void expect_recovered(int64_t id, const char *want) {
    const struct dd_jobs_env env = {.opt = &w.opt,
                                    .store = w.store,
                                    .events = w.events,
                                    .pump = w.pump,
                                    .live = w.live,
                                    .device = "cpu",
                                    .kinds = table};
    struct dd_jobs *next;
    char now[16];
    assert_int_equal(dd_jobs_new(&env, &next, &err), 0);
    world_state(&w, id, now);
    dd_jobs_free(next);
    assert_string_equal(now, want);
}

// The job ends, and is at work once more.
static void run_again(int64_t id) {
    deaf = false;
    wait_idle();
    asked = 0;
    deaf = true;
    act(id, DD_JOB_RESUME);
    wait_asked();
}

static void a_pause_stays_one(void **state) {
    (void)state;
    deaf = true;
    const int64_t a = submit("ask");
    wait_asked();
    act(a, DD_JOB_PAUSE);
    expect_recovered(a, "paused");
    run_again(a);
    act(a, DD_JOB_PAUSE);
    act(a, DD_JOB_STOP); // after all
    expect_recovered(a, "stopped");
    run_again(a);
    act(a, DD_JOB_STOP_NOW);
    act(a, DD_JOB_PAUSE); // too late
    expect_recovered(a, "stopped");
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(training_does_not_wait),
                                       T(looking_for_work_only_reads),
                                       T(what_others_queue_is_found),
                                       T(a_start_waits),
                                       T(a_stop_is_taken),
                                       T(a_grid_is_not_lost),
                                       T(a_pause_stays_one)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
