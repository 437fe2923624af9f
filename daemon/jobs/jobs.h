// The job queue: rows in the store with a state machine, one job at a time on the job thread, and
// beside it one of the kinds that run beside training, each by the functions of its kind (kinds.h).
//
//   queued -> running -> completed | failed | stopped | paused (both on request) | interrupted
//   running -> stopping -> stopped | paused
//   paused | stopped | failed | interrupted -> queued by resume
// A start finds rows still `running`: they were cut off, become `interrupted` and are queued again
// when the policy is auto, but not after several such ends in a row before anything was saved.
// Those still `stopping` become what was asked for, stopped or paused. An eval job that ends while
// a run of it waits is queued again. Any thread. The functions return 0 or DR_E* with a sentence in
// err: ENOENT for an unknown job, ECONFLICT where its state refuses, EINVAL for bad input, or what
// the store failed with.
#pragma once

#include "daemon/base/options.h"
#include "daemon/generate/live.h"
#include "daemon/jobs/kinds.h"
#include "daemon/store/pump.h"

struct dd_jobs;
struct dd_jobs_env {
    const struct dd_options *opt;
    struct dd_store *store;
    struct dd_events *events;
    struct dd_pump *pump;
    struct dd_live *live;
    const char *device;                     // where jobs run: the option, with `auto` decided
    const struct dd_job_kind *const *kinds; // ends with NULL; NULL: those of this build
    // Called on the job thread before it looks for a job, also after each end of one; may queue
    // more. NULL: nothing to do.
    void (*between)(void *ctx);
    void *between_ctx;
};
enum dd_job_action { DD_JOB_STOP, DD_JOB_STOP_NOW, DD_JOB_PAUSE, DD_JOB_RESUME, DD_JOB_CHECKPOINT };

// Recovers rows of a process that ended; starts nothing.
int dd_jobs_new(const struct dd_jobs_env *env, struct dd_jobs **out, struct dr_err *err);
int dd_jobs_start(struct dd_jobs *j, struct dr_err *err); // the job thread
// Checkpoints the running job at its step (it becomes `interrupted`) and ends the job thread.
void dd_jobs_stop(struct dd_jobs *j);
void dd_jobs_free(struct dd_jobs *j);

struct dd_job_new {
    const struct dr_config *cfg;
    const char *recipe, *name, *kind; // name NULL: the recipe's; kind: of kinds.h
    int priority;
    const char *key, *fingerprint; // idempotency, NULL: none
    int64_t sweep, cell, rung;     // of a sweep's job; sweep 0: none
    int64_t like;                  // a job whose encoder and judge it has too, whatever their
                                   // recipes say by now; 0: none
    const char *changed;           // as dd_changed says; NULL: found when it is queued
};
int dd_jobs_create(struct dd_jobs *j, const struct dd_job_new *in, int64_t *id, bool *replayed,
                   struct dr_err *err);
// The job that an idempotency key has made, whatever has become of what it named; 0: none.
// DR_EGONE: it has been removed; DR_EINVAL: the key was used with another body.
int dd_jobs_known(struct dd_jobs *j, const char *key, const char *fingerprint, int64_t *id,
                  struct dr_err *err);
// Several jobs in one transaction, or jobs together with other rows. A draft is a job that has been
// checked; what `in` points to must outlive it. dd_job_draft_put, within a closure of the store,
// inserts it and the jobs that it needs. dd_job_draft_free (NULL is fine) tells clients of them
// where they have been committed; dd_jobs_wake afterwards.
struct dd_job_draft;
int dd_job_draft(struct dd_jobs *j, const struct dd_job_new *in, struct dd_job_draft **out,
                 struct dr_err *err);
int dd_job_draft_put(sqlite3 *db, struct dd_job_draft *d, int64_t sweep, int64_t *id,
                     struct dr_err *err);
void dd_job_draft_free(struct dd_jobs *j, struct dd_job_draft *d, bool committed);
int dd_jobs_action(struct dd_jobs *j, int64_t id, enum dd_job_action a, struct dr_err *err);
// NULL: unchanged. DR_ECONFLICT where the priority of a job that is not queued would change.
int dd_jobs_patch(struct dd_jobs *j, int64_t id, const char *name, const char *notes,
                  const int *priority, struct dr_err *err);
// With its rows and folders. DR_ECONFLICT, naming why, where it has not ended, another job needs
// what it has trained, or a checkpoint of it is promoted. Takes as long as it has metrics;
// DR_ECANCELED where the queue is stopped meanwhile: some of them are left.
int dd_jobs_remove(struct dd_jobs *j, int64_t id, struct dr_err *err);
// Several or none, those of them that are there, together with what `also` (NULL: nothing) changes
// in the same transaction. What they need of one another does not count.
int dd_jobs_remove_all(struct dd_jobs *j, const int64_t *ids, int n, dd_store_fn *also, void *arg,
                       struct dr_err *err);
// Submits the recipe unless a checkpoint or a job of that name exists; failed and stopped jobs do
// not count.
int dd_jobs_autostart(struct dd_jobs *j, const char *recipe, struct dr_err *err);

// Ends a running job as if its last step had been reached. False: it does not run.
bool dd_jobs_finish_early(struct dd_jobs *j, int64_t id);
// Jobs have been queued behind the queue's back (dd_eval_due).
void dd_jobs_wake(struct dd_jobs *j);
// Tells clients that a closure of the caller's has changed a job's state.
void dd_jobs_tell(struct dd_jobs *j, int64_t id, const char *from, const char *to);
struct dd_store *dd_jobs_store(const struct dd_jobs *j);

struct dd_jobs_now {
    int64_t running; // 0: none
    int queued;
    uint64_t checkpoint_failures;
    int64_t beat_ns; // last time the job thread made progress; INT64_MAX while it waits for work
    int64_t step, steps_total;
    double minutes; // train.minutes: ends it before its last step; 0: no limit
    char name[64];
};
void dd_jobs_now(struct dd_jobs *j, struct dd_jobs_now *out);
bool dd_jobs_device_lost(struct dd_jobs *j); // no job runs before a restart; reads no database
