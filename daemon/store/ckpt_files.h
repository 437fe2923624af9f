// A job's folder of checkpoints: names, listing, rotation. Called by the runner's thread and at
// start.
#pragma once

#include "engine/config/config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dd_ckpt_list {
    int64_t *step; // ascending
    int n;
};
// dir/step-00001000.safetensors
void dd_ckpt_path(const char *dir, int64_t step, char *out, size_t size);
// The step of such a name (without folder), -1: it is no such name.
int64_t dd_ckpt_step(const char *name);
// A missing folder is empty. DR_EIO for one that cannot be read, whose files may all be there; *out
// is empty then.
int dd_ckpt_list(const char *dir, struct dd_ckpt_list *out, struct dr_err *err);
void dd_ckpt_list_free(struct dd_ckpt_list *l);
// Removes what keep_last and keep_every do not keep and let_go (NULL: all) does not refuse. newest:
// the step just written. Files of later steps were refused when the run was resumed: they count for
// nothing and stay, until the run writes or passes their steps. A folder that cannot be read is
// left for the next time, with a warning in the log.
void dd_ckpt_rotate(const char *dir, const struct dr_checkpoint_config *c, int64_t newest,
                    bool (*let_go)(void *ctx, const char *path), void *ctx);
// Removes temporary files (step-...tmp) that a killed process left in a job's folder.
void dd_ckpt_sweep(const char *dir);
// Moves checkpoints of an earlier run into dir/earlier-TIME, so that two runs' steps do not mix. A
// folder without any is left alone; one that cannot be read is an error.
int dd_ckpt_set_aside(const char *dir, struct dr_err *err);
