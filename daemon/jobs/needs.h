// Jobs that need jobs: a generator on the features of an encoder (features.encoder) waits until
// that encoder has been trained, by a job of its own that is queued with it, once, and used again
// by every later job that asks for the same one.
#pragma once

#include "daemon/jobs/encoder_data.h"
#include "daemon/jobs/jobs.h"

// The recipe of an encoder, or of a judge, that a job needs; json NULL: none.
struct dd_need {
    struct dr_config cfg;
    char *json, *changed; // malloc'd; changed: of the recipe, as dd_changed says
    int64_t id;           // the job that trains it
    bool made;            // queued just now
};
void dd_need_release(struct dd_need *n); // what it points to
// What cfg names, into n; json stays NULL where it is no recipe.
int dd_needs_read(const char *config_dir, const struct dr_config *cfg, struct dd_need *n,
                  struct dr_err *err);
// The job that trains the judge of an eval job's configuration (text): the one that the job it
// evaluates (eval.job) was queued with, whatever its recipe says by now; else one that has it or
// will, else a new one of this priority. *id 0: the judge is no recipe.
int dd_needs_judge(struct dd_jobs *j, const char *config, int priority, int64_t *id,
                   struct dr_err *err);

// --- within closures of the store ---

// The jobs that train the encoder and the judge of another job, where they have them or will; 0:
// there is none.
int64_t dd_needs_kept(sqlite3 *db, int64_t job);
int64_t dd_needs_kept_judge(sqlite3 *db, int64_t job);
// The job that trains n: one that has it or will, else a new one of this priority.
int dd_needs_take(sqlite3 *db, struct dd_need *n, int priority, struct dr_err *err);

// The job whose encoder a job of this configuration may use: one that is at work, waits, or is
// complete with its checkpoint. 0: there is none.
int dd_needs_find(sqlite3 *db, const struct dr_config *encoder, int64_t *id, struct dr_err *err);
// What a job needs, its judge too, gets its priority where that is higher: it must not wait longer.
int dd_needs_raise(sqlite3 *db, int64_t id, struct dr_err *err);
// The jobs of a list (JSON) that a statement has as its first parameter.
#define DD_JOBS_LISTED "(SELECT value FROM json_each(?1))"
// ECONFLICT when another job that has not ended needs one of these (JSON), for its features or as
// its judge.
int dd_needs_check_drop(sqlite3 *db, const char *ids, struct dr_err *err);
// Queues what a job to be resumed needs as well, unless that is done or on its way. *woken: its id,
// 0: nothing was done; *missing: it is gone.
int dd_needs_resume(sqlite3 *db, int64_t id, int64_t *woken, bool *missing, char old[16],
                    struct dr_err *err);

// --- the queue's ---

// Ends queued jobs whose need has failed, was stopped or is gone, with the reason.
void dd_needs_settle(struct dd_jobs *j);
// The file of a job's encoder, when it runs. *path is empty for configurations without one.
int dd_needs_encoder(struct dd_job *job, char path[DD_PATH_MAX], struct dr_err *err);

// Of the queue's rows: ready to run.
#define DD_NEEDS_READY                                                                             \
    "(needs IS NULL OR EXISTS(SELECT 1 FROM jobs n WHERE n.id=jobs.needs AND "                     \
    "n.state='completed'))"
