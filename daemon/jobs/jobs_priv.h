// What queue.c (the queue), remove.c, states.c, job_thread.c (the thread that runs jobs) and the
// kinds share.
#pragma once

#include "daemon/jobs/jobs.h"
#include "daemon/jobs/kinds.h"

#include <pthread.h>
#include <stdatomic.h>

// A thread with one job at a time.
struct dd_lane {
    struct dd_jobs *jobs;
    bool beside; // takes the kinds that run beside training, the other lane the rest
    pthread_t thread;
    bool started;
    int64_t running; // id, 0: none; under the lock
    // Wished under the lock, heard and a checkpoint taken without it: training never waits for
    // those who wait for the store with it.
    _Atomic enum dd_wish wish;
    bool pausing;                      // the stop wish is a pause; under the lock
    _Atomic int64_t step, steps_total; // of the running job; the total may be an estimate
    _Atomic int64_t limit_ms;          // its train.minutes; 0: none
};
enum { DD_LANE_MAIN, DD_LANE_BESIDE, DD_LANES };

struct dd_jobs {
    struct dd_jobs_env env;
    pthread_mutex_t lock; // guards what follows
    pthread_cond_t wake;
    _Atomic bool closing; // read without it as well
    struct dd_lane lane[DD_LANES];
    struct { // of the main lane, for dd_jobs_now: the lock above is held while the store is waited
             // for
        pthread_mutex_t lock;
        int64_t running;
        char name[64];
    } shown;
    _Atomic uint64_t checkpoint_failures;
    _Atomic int64_t beat;
    _Atomic bool device_lost; // by this process: queued jobs wait for the next one
};

void *dd_job_thread(void *lane);

// --- train.c: what every kind that trains has in common ---

int64_t dd_train_steps(const struct dr_config *cfg);
int dd_train_run(struct dd_job *job, enum dd_outcome *outcome, struct dr_err *err);

// --- states.c ---

// jobs.resume: 0: begins anew, 1: goes on from where it was. In state stopping, this: it becomes
// paused, and not stopped, where the process ends before it has.
#define DD_RESUME_PAUSING "2"
struct dd_job_change {
    int64_t id;
    const char *state, *error;
    bool pausing; // to stopping: it is to end as paused, also where the process ends first
    const char *const *from; // allowed old states, NULL: any
    const char *verb;        // "stopped": what the refused action would have done
    char old[16];
};
// The row of a new job, queued; within a closure of the store. needs: the job that it waits for,
// judge: the one that its evaluations will (0: none).
int dd_job_insert(sqlite3 *db, const struct dd_job_new *in, const char *json, int64_t steps,
                  int64_t needs, int64_t judge, int64_t *id, struct dr_err *err);
bool dd_one_of(const char *state, const char *const *list);
// The state of a job as the row has it; DR_ENOENT where there is none.
int dd_job_state(sqlite3 *db, int64_t id, char out[16], struct dr_err *err);
int dd_job_change(sqlite3 *db, void *change, struct dr_err *err); // a dd_store_fn
// With the lock held; id 0: none runs.
void dd_job_set_running(struct dd_lane *l, int64_t id, const char *name);
// The lane that runs the job; NULL: none does. With the lock held.
struct dd_lane *dd_job_lane(struct dd_jobs *j, int64_t id);
// The running job's last state, durable, with its event; nothing runs afterwards. Under the lock,
// so that an action sees either the job at work or how it ended. A job that ran (not one that could
// not be read) is queued instead where an evaluation of it waits by now.
int dd_job_end(struct dd_jobs *j, int64_t id, bool ran, const char *state, const char *error,
               struct dr_err *err);
void dd_job_event(struct dd_jobs *j, int64_t id, const char *from, const char *to,
                  const char *error);
// STATE_DIR/checkpoints/ID and STATE_DIR/samples/ID; malloc'ed
char *dd_job_dir(const struct dd_jobs *j, const char *what, int64_t id);

// --- remove.c ---

// Removes the folders of jobs that have been removed.
void dd_job_sweep_folders(struct dd_jobs *j);
