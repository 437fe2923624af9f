// References of reals that evaluations keep (STATE_DIR/evals/refs): what a judge made of the reals
// of a data set, up to half a gigabyte each. Any evaluation makes one again, so they are a cache:
// within a bound, the first to go when the disk budget is passed, and in no backup. A file is read
// and written as a whole, so any of them may go at any time. Any thread.
#pragma once

#include "daemon/base/util.h"

#define DD_REFS "evals/refs" // in the state folder
#define DD_REFS_BYTES ((int64_t)4 << 30)

// The file of a key; its folder is made.
int dd_refs_path(const char *state_dir, const char *key, char out[DD_PATH_MAX], struct dr_err *err);
// This file was used: no other is newer.
void dd_refs_touch(const char *path);
// Removes the oldest until at most `bytes` are left; the newest stays whatever its size.
void dd_refs_trim(const char *state_dir, int64_t bytes);
// Removes the oldest until `bytes` are free, or none is left. Returns how many bytes were freed.
int64_t dd_refs_free(const char *state_dir, int64_t bytes);
