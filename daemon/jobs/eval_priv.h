// The job kind `eval` at work: what its files share. Thread of the job.
//   eval.c        the job: runs one after the other, resuming, how it ends
//   eval_setup.c  data sets, judges, references of reals (kept in STATE_DIR/evals/refs)
//   eval_one.c    one run: its source, its slices, its numbers
//   eval_classes.c  which class of the data each class of the source is
//   eval_files.c  what a run leaves in STATE_DIR/evals/ID
//   eval_pace.c   how much of the processor it takes
#pragma once

#include "daemon/evals/evals.h"
#include "daemon/jobs/jobs_priv.h"

struct dd_eval_judge {
    enum dd_eval_by by;
    struct dr_eval_config cfg;
    struct dr_snapshot *snap;
    struct dr_fid_way way; // of Inception
    struct dr_eval_ref *ref;
    char sha256[65], name[256];
    int64_t checkpoint; // 0: a file
};

// The last save of what is in the making: when it ended, how long it took, how far the work was.
struct dd_eval_saved {
    double at, took, progress;
};

struct dd_eval_work {
    struct dd_job *job;
    struct dr_backend *be;
    struct dr_dataset *train, *test; // test NULL: there is none
    struct dd_eval_judge judge[DD_EVAL_BYS];
    int njudges;
    char comparable[17];
    bool stop;                     // the user's wish
    bool noted;                    // an alert of dd_eval_note was sent
    int64_t done, total;           // images of runs
    int64_t refs_done, refs_total; // a reference that has to be made counts as a run
    // Pace: how much this thread has worked since `since`, while another job trains.
    double worked, since, reported, shown;
    struct dd_eval_saved saved;
};

// --- eval_pace.c ---
// Processor time of this thread, which computes alone while another job trains.
double dd_eval_thread_seconds(void);
bool dd_eval_others_train(const struct dd_eval_work *w);
// Tells how far the job is.
void dd_eval_report(struct dd_eval_work *w);
// After each slice: sleeps as long as a job that trains needs the processor. False: stop.
bool dd_eval_pace(struct dd_eval_work *w);
// Seconds of a slice.
double dd_eval_slice(const struct dd_eval_work *w);
// Whether to save again, for a process that may be killed. The files of wide networks have hundreds
// of megabytes: saves take at most a twentieth of the time, and there are at most twenty of them.
bool dd_eval_save_due(const struct dd_eval_saved *last, double now, double progress);
// Notes a save that began at this time and has ended now.
void dd_eval_note_save(struct dd_eval_work *w, double began, double progress);
// STATE_DIR/evals/WHAT into out, its folder made.
int dd_eval_path(const struct dd_eval_work *w, char out[DD_PATH_MAX], struct dr_err *err,
                 const char *fmt, ...) __attribute__((format(printf, 4, 5)));

// --- eval_setup.c ---
// dr_dataset_load, whose imports stop when the job does and leave room on the disk.
int dd_eval_load(struct dd_eval_work *w, const struct dr_data_config *cfg, const char *data_dir,
                 bool test, struct dr_dataset **out, struct dr_err *err);
// The same for the training split of a folder with the classes that it has.
int dd_eval_load_folder(struct dd_eval_work *w, const struct dr_data_config *cfg,
                        const char *data_dir, struct dr_dataset **out, struct dr_err *err);
// DR_ECANCELED when a stop came first.
int dd_eval_setup(struct dd_eval_work *w, struct dr_err *err);
void dd_eval_setdown(struct dd_eval_work *w);

// --- eval_one.c ---
// DR_ECANCELED when a stop came first: what was done is kept for the next time.
int dd_eval_one(struct dd_eval_work *w, const struct dd_eval_run *r, struct dd_eval_outcome *out,
                struct dr_err *err);
// Removes what is kept for the next time, once the run's end is in the store.
void dd_eval_forget(const struct dd_eval_work *w, const struct dd_eval_run *r);

// --- eval_classes.c ---
enum { DD_EVAL_NOTE = 320 };
// Whether a metric that is wanted needs to know the class of an image.
bool dd_eval_needs_classes(const struct dd_eval_work *w);
// Notes what a reader of the run's numbers has to know: in `note`, which goes into its settings, in
// the log and, once for the job, as an alert.
void dd_eval_note(struct dd_eval_work *w, const struct dd_eval_run *r, const char *text,
                  char note[DD_EVAL_NOTE]);
// Gives the pictures of a folder the class numbers of the data set by the names of both; by their
// order, with a note, where no name is the same and there are as many. A flat folder has no
// classes, nor has one of other classes where no metric needs them. DR_EINVAL, naming the classes,
// at "eval.folder" or "eval.metrics".
int dd_eval_match_folder(struct dd_eval_work *w, const struct dd_eval_run *r,
                         struct dr_dataset *folder, char note[DD_EVAL_NOTE], struct dr_err *err);
// Whether the checkpoint of that file has the classes of the data set, where both have names. Other
// names: a note. The same in another order: DR_EINVAL where a metric needs classes.
int dd_eval_match_names(struct dd_eval_work *w, const struct dd_eval_run *r, const char *path,
                        char note[DD_EVAL_NOTE], struct dr_err *err);

// --- eval_files.c ---
// grid.png, nearest.png and, where the configuration wants it, samples.npy; adds "nearest" to
// details. A picture that fails is an alert.
int dd_eval_write_files(struct dd_eval_work *w, const struct dd_eval_run *r,
                        struct dr_eval_source *s, json_t *details, struct dr_err *err);
int dd_eval_write_metadata(struct dd_eval_work *w, int64_t id, struct dr_err *err);
