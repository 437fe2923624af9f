// What the trainer publishes to the other threads: the running job's newest EMA snapshot, and the
// last drift field of the newest toy. The lock is held only to swap a pointer (a field is copied,
// some kilobytes). Any thread.
#pragma once

#include "engine/sample/sampler.h"
#include "engine/train/trainer.h"

#include <stdbool.h>
#include <stdint.h>

struct dd_live;
struct dd_live *dd_live_new(void);
void dd_live_free(struct dd_live *l);
void dd_live_set(struct dd_live *l, int64_t job, struct dr_snapshot *s); // takes over s; NULL: none
// A new reference, NULL: no job has weights now. job may be NULL.
bool dd_live_has(struct dd_live *l);
struct dr_snapshot *dd_live_get(struct dd_live *l, int64_t *job);
// The field stays when the job ends, until another toy has one. set takes over f; get returns a
// copy to free, NULL: this job's is not there.
void dd_live_set_field(struct dd_live *l, int64_t job, struct dr_drift_field *f);
struct dr_drift_field *dd_live_field(struct dd_live *l, int64_t job);
