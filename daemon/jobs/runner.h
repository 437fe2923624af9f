// One training job of any kind of recipe from start to end: data set, trainer, resume, steps,
// checkpoints with rotation, sample grids, alerts, published EMA snapshots (of generators only). No
// SQLite, no HTTP: `driftd run` and the job kinds give it hooks. The caller's thread becomes the
// trainer's thread (method.md 1).
#pragma once

#include "daemon/base/util.h"
#include "engine/drift.h"

#include <stdbool.h>
#include <stdint.h>

// FINISH: end as if the last step had been reached.
enum dd_wish { DD_WISH_NONE, DD_WISH_CHECKPOINT, DD_WISH_FINISH, DD_WISH_STOP, DD_WISH_STOP_NOW };
enum dd_outcome { DD_RUN_COMPLETED, DD_RUN_STOPPED, DD_RUN_FAILED };

// All are called on the runner's thread; NULL: not wanted. Strings live for the call.
struct dd_run_hooks {
    void *ctx;
    enum dd_wish (*wish)(void *ctx); // asked before every step; returns each wish once
    // The trainer is ready at `step` (0: from scratch). Non-zero and the reason where nothing may
    // be reported of the run: it ends, as stopped where that was wished.
    int (*started)(void *ctx, const struct dr_trainer *t, const struct dr_dataset *data,
                   int64_t step, struct dr_err *err);
    // Of an encoder once more at the end, with what was then measured and step_seconds NAN.
    void (*step)(void *ctx, const struct dr_metrics *m, double seconds, int64_t total);
    void (*snapshot)(void *ctx, struct dr_snapshot *s); // takes over the reference
    // The drift of a two-dimensional toy, a few times per second and at the end; takes over f.
    void (*field)(void *ctx, struct dr_drift_field *f);
    // Before a checkpoint is written: flush metrics; a resumed run will not report them again.
    void (*saving)(void *ctx);
    // One has been written; non-zero and the reason where it could not be recorded.
    int (*checkpoint)(void *ctx, int64_t step, const char *path, const char *sha256, int64_t bytes,
                      struct dr_err *err);
    void (*checkpoint_failed)(void *ctx, int64_t step, const struct dr_err *err);
    bool (*checkpoint_let_go)(void *ctx, const char *path); // false: rotation must keep this file
    // Before a run goes on from one of `files` checkpoints: non-zero and a sentence where there
    // were more, without which it must not start anew.
    int (*checkpoint_lost)(void *ctx, int files, struct dr_err *err);
    // May refuse a file before it is loaded (sha256 mismatch): non-zero and a sentence.
    int (*checkpoint_verify)(void *ctx, const char *path, struct dr_err *err);
    void (*checkpoint_refused)(void *ctx, const char *path, const struct dr_err *err);
    void (*sample)(void *ctx, int64_t step, const char *path, int64_t bytes, int64_t width,
                   int64_t height);
    void (*alert)(void *ctx, const char *kind, int64_t step, const char *text);
    // A checkpoint of this step has been written and is to be evaluated (eval.every, eval.at_end).
    void (*evaluate)(void *ctx, int64_t step, const char *path);
};

struct dd_run_spec {
    const struct dr_config *cfg;
    const char *data_dir, *device, *checkpoint_dir, *sample_dir; // sample_dir NULL: no grids
    const char *id;                                              // for logs and snapshot ids
    const char *init_from; // safetensors file whose weights a fresh run starts from; NULL: none
    // Why that file is not there, with which a fresh run fails; one that goes on needs none. NULL:
    // it is there, or none is named.
    const struct dr_err *no_init;
    const char *encoder;    // file of features.encoder; NULL: that is its path
    bool encoder_of_recipe; // it was trained for this run: on other data it is refused
    int threads;
    bool resume; // continue from the newest good checkpoint of checkpoint_dir; else those there
                 // are moved out of the way
    double seconds_before; // of a run that is resumed, where its checkpoint does not say
    bool strict_resume;    // checkpoints that all fail to load are an error, not a fresh start
    // A run that is resumed behind its last step is taken as it is; else what is measured of an
    // encoder at the end is measured (again).
    bool complete_is_tested;
};
struct dd_run_result {
    enum dd_outcome outcome;
    int64_t step; // steps done
    double seconds;
    bool saved;                  // a checkpoint of exactly this step exists
    char last_good[DD_PATH_MAX]; // newest good checkpoint, "" if none
    struct dr_err unsaved; // a stop could not save the checkpoint of its step; code 0: it could
};

// 0 when the job completed or was stopped as wished; DR_E* and the reason when it failed.
int dd_run(const struct dd_run_spec *spec, const struct dd_run_hooks *hooks,
           struct dd_run_result *res, struct dr_err *err);
