// Kinds of jobs. A kind is one file with its functions and one row in the table of kinds.c; the
// queue, the states, stop, pause and resume, events and metrics are the same for all, and the API
// and its description take the names from the table.
#pragma once

#include "daemon/jobs/runner.h"
#include "daemon/store/pump.h"

struct dd_jobs_env;
struct dd_lane;

// A job at work. Belongs to the job thread, which is where a kind's functions run.
struct dd_job {
    struct dd_jobs *queue;
    struct dd_lane *lane;
    const struct dd_jobs_env *env;
    const struct dd_job_kind *kind;
    int64_t id;
    struct dr_config cfg;
    double seconds; // it has trained before
    bool resume;    // the job has run before and its kind resumes: go on from where it was
    const struct dd_metric_table *metrics; // what its rows hold (dd_job_metrics)
    char note[512];                        // what its row says as the error of a stop, "": nothing
    void *own;                             // the kind's, while it runs
};

struct dd_job_kind {
    const char *name;    // "train": in rows, in the API and on the command line
    const char *about;   // a sentence for people: "Trains a generator."
    const char *section; // of the configuration: the keys that are this kind's own; NULL: none yet
    // Steps that a configuration asks for; an estimate will do, 0: not known.
    int64_t (*steps)(const struct dr_config *cfg);
    // Runs the job until its end, or until dd_job_wish says to stop. 0, with *outcome COMPLETED or
    // STOPPED, or DR_E* and the reason. NULL: the name is reserved, this build cannot run it.
    int (*run)(struct dd_job *job, enum dd_outcome *outcome, struct dr_err *err);
    bool resumes; // saves where it is, at a stop too; otherwise a resumed job starts over
    bool beside;  // runs beside a job that trains, on a thread of low priority; it has no rows of
                  // metrics, and reports by dd_job_progress
};

enum { DD_MAX_KINDS = 32 };
// The kinds of this build, reserved ones too; ends with NULL. The first one is the default.
extern const struct dd_job_kind *const dd_job_kinds[];
// By name, runnable: 0, or EINVAL for a name that is not in the table (NULL: dd_job_kinds),
// EUNSUPPORTED for a reserved one.
int dd_job_kind_find(const struct dd_job_kind *const *table, const char *name,
                     const struct dd_job_kind **out, struct dr_err *err);

// --- what a kind's run() may call; job thread ---

// What the user wants; ask it often, also to say that the job makes progress. A wish for a
// checkpoint is returned once.
enum dd_wish dd_job_wish(struct dd_job *job);
// Whether a write to the store that has failed with rc is to be tried again, as another process
// holds the database or the disk is full: waits for a moment. False too once the job is to stop.
bool dd_job_again(struct dd_job *job, int rc);
// The job begins, or goes on, after `step` of `total`: metrics of later steps, which will come
// again, are removed. data_name and class_names (a JSON array as text) may be NULL. Waits as long
// as the database is held or the disk is full; where it fails, or the job is to stop meanwhile, the
// run ends before it has reported anything.
int dd_job_started(struct dd_job *job, int64_t step, int64_t total, const char *data_name,
                   const char *class_names, struct dr_err *err);
// Names the metrics of the job's rows, before the first one. The definitions are copied.
void dd_job_metrics(struct dd_job *job, const struct dr_metric_def *def, int n);
// How far a job that runs beside others has come; seconds: since the last call.
void dd_job_progress(struct dd_job *job, int64_t step, int64_t total, double seconds);
// A row of metrics, which is also how far the job has come.
void dd_job_row(struct dd_job *job, const struct dd_row *row, int64_t total);
// Everything reported so far is in the store when it returns. Before what a resumed job will go on
// from is saved, since it will not report those steps again.
void dd_job_flush(struct dd_job *job);
void dd_job_alert(struct dd_job *job, const char *kind, int64_t step, const char *text);
// STATE_DIR/checkpoints/ID, STATE_DIR/samples/ID; malloc'ed.
char *dd_job_folder(const struct dd_job *job, const char *what);

// The rows, each in a file of its own.
extern const struct dd_job_kind dd_kind_train, dd_kind_encoder, dd_kind_eval;
