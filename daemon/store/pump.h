// Moves metric rows from the trainer's ring to the event streams (10 Hz) and the store (4 Hz), and
// keeps the numbers that /v1/status and /metrics show. One thread of its own.
#pragma once

#include "daemon/base/ring.h"
#include "daemon/store/events.h"
#include "daemon/store/tensorboard.h"

struct dd_pump;
struct dd_pump_stats {
    uint64_t steps, dropped;
    struct dd_row newest;    // step 0: none yet
    double steps_per_second; // over the last seconds, 0: unknown
};
// keep_steps: see struct dd_metric_batch.
struct dd_pump *dd_pump_start(struct dd_store *s, struct dd_events *e, int64_t keep_steps);
// From now on rows and grids also go to event files; closed by dd_pump_stop. Before the first row.
void dd_pump_tensorboard(struct dd_pump *p, struct dd_tensorboard *t);
// A grid of samples was written; it goes to the event file where there is one. Any thread.
void dd_pump_image(struct dd_pump *p, int64_t job, int64_t step, const char *png, int64_t w,
                   int64_t h);
void dd_pump_stop(struct dd_pump *p); // flushes; NULL is fine
// The trainer's side: one thread at a time.
struct dd_ring *dd_pump_ring(struct dd_pump *p);
// Everything pushed so far is in the store and in the event files when it returns (trainer thread).
int dd_pump_flush(struct dd_pump *p, struct dr_err *err);
void dd_pump_stats(struct dd_pump *p, struct dd_pump_stats *out);
void dd_pump_prometheus(struct dd_pump *p, FILE *f); // the histogram of step times
