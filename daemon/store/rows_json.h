// Rows of jobs as the JSON that the API serves. Any thread; each call opens its own reader.
#pragma once

#include "daemon/store/store.h"

#include <jansson.h>

// NULL, with *err filled: DR_ENOENT when there is none.
json_t *dd_job_json(struct dd_store *s, int64_t id, bool with_config, struct dr_err *err);
// {"jobs": [...]}, newest first; next: cursor of the next page or "".
json_t *dd_jobs_json(struct dd_store *s, const char *state, const char *cursor, int limit,
                     char *next, size_t next_size, struct dr_err *err);
// {"alerts": [{"kind", "step", "text", "time"}]} of a job, oldest first, at most the newest
// thousand. DR_ENOENT for an unknown job.
json_t *dd_alerts_json(struct dd_store *s, int64_t job, struct dr_err *err);
