// What queue.c (the queue), states.c, job_thread.c (the thread that runs jobs) and the kinds share.
#pragma once

#include "daemon/jobs/jobs.h"
#include "daemon/jobs/kinds.h"

#include <pthread.h>
#include <stdatomic.h>

struct dd_jobs {
    struct dd_jobs_env env;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock; // guards what follows
    pthread_cond_t wake;
    bool closing;
    int64_t running; // id, 0: none
    enum dd_wish wish;
    bool pausing; // the stop wish is a pause
    struct {      // a copy for dd_jobs_now: the lock above is held while the store is waited for
        pthread_mutex_t lock;
        int64_t running;
        char name[64];
    } shown;
    _Atomic int64_t step, steps_total; // of the running job; the total may be an estimate
    _Atomic uint64_t checkpoint_failures;
    _Atomic int64_t beat;
    _Atomic bool device_lost; // by this process: queued jobs wait for the next one
};

void *dd_job_thread(void *jobs);

// --- train.c: what every kind that trains has in common ---

int64_t dd_train_steps(const struct dr_config *cfg);
int dd_train_run(struct dd_job *job, enum dd_outcome *outcome, struct dr_err *err);

// --- states.c ---

struct dd_job_change {
    int64_t id;
    const char *state, *error;
    const char *const *from; // allowed old states, NULL: any
    const char *verb;        // "stopped": what the refused action would have done
    char old[16];
};
bool dd_one_of(const char *state, const char *const *list);
// The state of a job as the row has it; DR_ENOENT where there is none.
int dd_job_state(sqlite3 *db, int64_t id, char out[16], struct dr_err *err);
int dd_job_change(sqlite3 *db, void *change, struct dr_err *err); // a dd_store_fn
// With the lock held; id 0: none runs.
void dd_job_set_running(struct dd_jobs *j, int64_t id, const char *name);
// The running job's last state, durable, with its event; nothing runs afterwards. Under the lock,
// so that an action sees either the job at work or how it ended.
int dd_job_end(struct dd_jobs *j, int64_t id, const char *state, const char *error,
               struct dr_err *err);
void dd_job_event(struct dd_jobs *j, int64_t id, const char *from, const char *to,
                  const char *error);
// STATE_DIR/checkpoints/ID and STATE_DIR/samples/ID; malloc'ed
char *dd_job_dir(const struct dd_jobs *j, const char *what, int64_t id);
