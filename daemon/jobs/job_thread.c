// The job thread: takes the best queued job, runs it by its kind, and records how it ended (jobs.h,
// kinds.h).
#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "daemon/jobs/jobs_priv.h"
#include "daemon/jobs/needs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { JOB_NICE = 5, BESIDE_NICE = 19 };

// --- one job ---

static const char *end_state(struct dd_lane *l, int rc, enum dd_outcome outcome) {
    struct dd_jobs *j = l->jobs;
    if (rc)
        return "failed";
    if (outcome == DD_RUN_COMPLETED)
        return "completed";
    pthread_mutex_lock(&j->lock);
    bool by_wish = l->wish == DD_WISH_STOP || l->wish == DD_WISH_STOP_NOW, pause = l->pausing;
    pthread_mutex_unlock(&j->lock);
    return !by_wish ? "interrupted" : pause ? "paused" : "stopped";
}

// The job counts as running until its end is recorded. With a full disk this waits for space, or
// for the end of the daemon: the next start finds the row and goes on from the last checkpoint.
static void end_job(struct dd_lane *l, int64_t id, bool ran, const char *state, const char *error) {
    struct dd_jobs *j = l->jobs;
    struct dr_err why = {0};
    for (bool closing = false; !closing; sleep(1)) {
        if (!dd_job_end(j, id, ran, state, error, &why))
            return;
        char q[600];
        dd_log(DR_LOG_ERROR, "job.end", "job=%lld state=%s reason=%s", (long long)id, state,
               dd_log_quote(why.msg, q, sizeof q));
        if (!l->beside)
            atomic_store(&j->beat, dd_now_ns());
        pthread_mutex_lock(&j->lock);
        closing = j->closing;
        pthread_mutex_unlock(&j->lock);
    }
}

// Whether this process can still use the device: after some faults it cannot. A device without free
// memory works again once others have returned some.
static bool device_works(const char *device) {
    struct dr_backend *be;
    struct dr_err err = {0};
    int rc = dr_backend_open(device, 1, &be, &err);
    if (rc)
        return rc == DR_ENOMEM;
    dr_backend_enter(be);
    rc = dr_backend_probe(be, &err);
    dr_backend_free(be);
    return !rc || rc == DR_ENOMEM;
}

static void note_lost_device(struct dd_jobs *j) {
    atomic_store(&j->device_lost, true);
    dd_log(DR_LOG_ERROR, "device.lost", "device=%s hint=\"restart driftd; queued jobs wait\"",
           j->env.device);
}

static void run_job(struct dd_jobs *j, struct dd_job *job) {
    enum dd_outcome outcome = DD_RUN_FAILED;
    struct dr_err err = {0}, why = {0};
    int rc = job->kind->run(job, &outcome, &err);
    if (rc == DR_EDEVICE && !device_works(j->env.device))
        note_lost_device(j);
    dd_pump_flush(j->env.pump, &why);
    const char *state = end_state(job->lane, rc, outcome);
    // Before the end is recorded: a client that reads it is served the checkpoint, no longer the
    // live weights.
    if (!job->lane->beside)
        dd_live_set(j->env.live, 0, NULL);
    end_job(job->lane, job->id, true, state, rc ? err.msg : job->note[0] ? job->note : NULL);
}

// --- the queue's end ---

struct claim {
    struct dd_job *job;
    bool found;
    char error[512]; // the job cannot run
};

// Kind and configuration are refused only after a change of the build.
static void read_job(sqlite3_stmt *st, struct claim *c) {
    struct dd_job *job = c->job;
    const char *json = (const char *)sqlite3_column_text(st, 1);
    struct dr_err why = {0};
    job->id = sqlite3_column_int64(st, 0);
    job->seconds = sqlite3_column_double(st, 5);
    int rc = dd_job_kind_find(job->env->kinds, (const char *)sqlite3_column_text(st, 4), &job->kind,
                              &why);
    if (!rc)
        rc = dr_config_parse(json, strlen(json), "the job's configuration", &job->cfg, &why);
    if (rc)
        snprintf(c->error, sizeof c->error, "%s", why.msg);
    else
        job->resume = job->kind->resumes && sqlite3_column_int64(st, 2) != 0 &&
                      sqlite3_column_int64(st, 3) > 0;
}

// ",eval,": the kinds that run beside others, for a search in SQL.
static void kinds_beside(const struct dd_jobs *j, char *out, size_t size) {
    size_t n = (size_t)snprintf(out, size, ",");
    for (const struct dd_job_kind *const *k = j->env.kinds ? j->env.kinds : dd_job_kinds; *k; k++)
        if ((*k)->beside && n < size)
            n += (size_t)snprintf(out + n, size - n, "%s,", (*k)->name);
}

// The best queued job that the lane can take.
static sqlite3_stmt *find_next(sqlite3 *db, const struct dd_lane *l, struct dr_err *err) {
    char beside[200];
    kinds_beside(l->jobs, beside, sizeof beside);
    return dd_sql_prepare(
        db, err,
        "SELECT id, config, resume, attempts, kind, seconds FROM jobs WHERE state='queued' AND"
        " (instr(?, ','||kind||',')>0)=? AND " DD_NEEDS_READY " ORDER BY priority DESC, id LIMIT 1",
        "ti", beside, (int64_t)l->beside);
}

// Mostly there is none, and to find that out nobody should wait for the writer. Its count of jobs
// does not tell: it knows nothing of those that another process has queued.
static bool has_next(const struct dd_lane *l) {
    struct dr_err ignored;
    sqlite3 *db = dd_store_reader(l->jobs->env.store, &ignored);
    sqlite3_stmt *st = db ? find_next(db, l, &ignored) : NULL;
    const bool found = st && sqlite3_step(st) == SQLITE_ROW;
    sqlite3_finalize(st);
    sqlite3_close(db);
    return found;
}

static int claim(sqlite3 *db, void *arg, struct dr_err *err) {
    struct claim *c = arg;
    c->found = false;
    sqlite3_stmt *st = find_next(db, c->job->lane, err);
    if (!st)
        return DR_EIO;
    c->found = sqlite3_step(st) == SQLITE_ROW;
    if (c->found)
        read_job(st, c);
    sqlite3_finalize(st);
    if (!c->found)
        return 0;
    // Before the commit takes it out of the queue: whoever counts both never misses the job.
    dd_job_set_running(c->job->lane, c->job->id, c->job->cfg.name);
    return dd_sql_run(db, err,
                      "UPDATE jobs SET state='running', error=NULL, attempts=attempts+1,"
                      " ended_us=NULL, started_us=coalesce(started_us,?) WHERE id=?",
                      "ii", dd_wall_us(), c->job->id);
}

// Waits for a job and makes it the running one; false: the daemon is stopping. The lock is held
// over the claim, so that an action finds a job either waiting or at work.
static bool next_job(struct dd_lane *l, struct dd_job *job, char error[512]) {
    struct dd_jobs *j = l->jobs;
    pthread_mutex_lock(&j->lock);
    while (!j->closing) {
        struct claim c = {.job = job};
        struct dr_err err = {0};
        pthread_mutex_unlock(&j->lock);
        if (!l->beside) { // one thread is enough
            dd_needs_settle(j);
            if (j->env.between)
                j->env.between(j->env.between_ctx);
        }
        pthread_mutex_lock(&j->lock);
        if (j->closing)
            break;
        if (!atomic_load(&j->device_lost) && has_next(l) &&
            !dd_store_do(j->env.store, claim, &c, &err) && c.found) {
            l->wish = DD_WISH_NONE;
            l->pausing = false;
            atomic_store(&l->step, 0);
            atomic_store(&l->limit_ms, (int64_t)(60000 * job->cfg.train.minutes));
            atomic_store(&l->steps_total,
                         !c.error[0] && job->kind->steps ? job->kind->steps(&job->cfg) : 0);
            snprintf(error, 512, "%s", c.error);
            pthread_mutex_unlock(&j->lock);
            return true;
        }
        if (c.found) // the claim was rolled back
            dd_job_set_running(l, 0, "");
        // after a failure of the store, ask again
        dd_cond_wait_until(&j->wake, &j->lock, dd_now_ns() + 5 * (int64_t)1000000000);
    }
    pthread_mutex_unlock(&j->lock);
    return false;
}

// Requests come first: this thread, and the worker threads it will start, yield to the batcher's,
// relative to the nice value the daemon was started with, and what runs beside training yields to
// training. Linux keeps one per thread; a refusal changes nothing but latency.
static void yield_to_others(const struct dd_lane *l) {
    const int now = getpriority(PRIO_PROCESS, 0);
    setpriority(PRIO_PROCESS, 0, l->beside ? BESIDE_NICE : now + JOB_NICE);
    if (l->beside)
        pthread_setschedparam(pthread_self(), SCHED_BATCH, &(struct sched_param){0});
}

void *dd_job_thread(void *lane) {
    struct dd_lane *l = lane;
    struct dd_jobs *j = l->jobs;
    struct dd_job job = {.queue = j, .lane = l, .env = &j->env};
    char error[512];
    pthread_setname_np(pthread_self(), l->beside ? "eval" : "train");
    yield_to_others(l);
    while (next_job(l, &job, error)) {
        if (!l->beside)
            atomic_store(&j->beat, dd_now_ns());
        dd_job_event(j, job.id, "queued", "running", NULL);
        if (error[0])
            end_job(l, job.id, false, "failed", error);
        else
            run_job(j, &job);
        if (!l->beside)
            atomic_store(&j->beat, INT64_MAX);
        job = (struct dd_job){.queue = j, .lane = l, .env = &j->env};
    }
    return NULL;
}
