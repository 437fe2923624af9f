// Moves metric rows from the trainer's ring to the event streams (10 Hz) and the store (4 Hz), and
// keeps the numbers that /v1/status and /metrics show. One thread of its own.
#pragma once

#include "daemon/base/ring.h"
#include "daemon/store/events.h"

struct dd_pump;
struct dd_pump_stats {
    uint64_t steps, dropped;
    struct dd_row newest;    // step 0: none yet
    double steps_per_second; // over the last seconds, 0: unknown
};
// keep_steps: see struct dd_metric_batch.
struct dd_pump *dd_pump_start(struct dd_store *s, struct dd_events *e, int64_t keep_steps);
void dd_pump_stop(struct dd_pump *p); // flushes; NULL is fine
// The trainer's side: one thread at a time.
struct dd_ring *dd_pump_ring(struct dd_pump *p);
// Everything pushed so far is in the store when it returns (trainer thread).
int dd_pump_flush(struct dd_pump *p, struct dr_err *err);
void dd_pump_stats(struct dd_pump *p, struct dd_pump_stats *out);
void dd_pump_prometheus(struct dd_pump *p, FILE *f); // the histogram of step times
