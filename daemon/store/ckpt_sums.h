// The sha256 of a checkpoint in a file beside it, FILE.sha256 as sha256sum writes and checks it:
// for runs that have no database to hold it. Called by the runner's thread and at start.
#pragma once

#include "engine/core/err.h"

// sha256: 64 hex digits.
int dd_ckpt_sum_write(const char *path, const char *sha256, struct dr_err *err);
// DR_EFORMAT where the checkpoint is not the one that was written; one without a sum passes.
int dd_ckpt_sum_check(const char *path, struct dr_err *err);
// Before the checkpoint itself goes: a sum must not wait for another file of that name.
void dd_ckpt_sum_remove(const char *path);
// Follows a checkpoint that is moved; there may be none.
int dd_ckpt_sum_move(const char *path, const char *to, struct dr_err *err);
