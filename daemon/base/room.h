// Room on a disk for what imports and exports write. Any thread.
#pragma once

#include "engine/drift.h"

// DR_ENOSPC with a sentence unless `bytes` more fit on the disk of the folder dir and DD_MIN_FREE
// is left.
int dd_room(const char *dir, int64_t bytes, struct dr_err *err);
// The same of the folder of cached picture files, for an import that dr_dataset_load makes with
// this data_dir: ask while it goes on (dr_pictures_watch).
int dd_cache_room(const char *data_dir, const struct dr_import_progress *p, struct dr_err *err);
