// The one thing that crosses from trainer to batcher: the running job's newest EMA snapshot,
// swapped under a lock that is held for a pointer's time. Any thread.
#pragma once

#include "engine/sample/sampler.h"

#include <stdbool.h>
#include <stdint.h>

struct dd_live;
struct dd_live *dd_live_new(void);
void dd_live_free(struct dd_live *l);
void dd_live_set(struct dd_live *l, int64_t job, struct dr_snapshot *s); // takes over s; NULL: none
// A new reference, NULL: no job has weights now. job may be NULL.
bool dd_live_has(struct dd_live *l);
struct dr_snapshot *dd_live_get(struct dd_live *l, int64_t *job);
