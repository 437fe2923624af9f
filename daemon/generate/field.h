// The drift field of a two-dimensional toy as JSON, live and as it is kept when its job ends.
#pragma once

#include "daemon/generate/live.h"

#include <jansson.h>

// {"job", "step", "columns", "samples", "data"} (docs/api.md); a new reference.
json_t *dd_field_json(const struct dr_drift_field *f, int64_t job);
// Writes it to folder/field.json. DR_EIO or DR_ENOSPC with the file's name.
int dd_field_keep(const struct dr_drift_field *f, int64_t job, const char *folder,
                  struct dr_err *err);
// Reads what was kept; NULL: there is none, or it cannot be read.
json_t *dd_field_kept(const char *folder);
