// What the state folder takes on disk, and its budget: when it is passed, references of evaluations
// (refs.h) go, and then checkpoints of jobs that have ended, oldest first. One thread of its own,
// which also keeps the reserve (reserve.h).
//
// Kept whatever the budget: the checkpoint that is served, those with a name, imported ones, the
// newest of all, and those of jobs that may still go on (queued, running, paused, interrupted).
#pragma once

#include "daemon/store/events.h"

struct dd_disk;
struct dd_disk_stats {
    int64_t bytes, budget; // of all files of the state folder but the reserve; budget 0: none
    uint64_t removed;      // checkpoints, by this process
};
// budget: bytes, 0: only counts.
struct dd_disk *dd_disk_start(struct dd_store *s, struct dd_events *e, int64_t budget);
void dd_disk_stop(struct dd_disk *d); // NULL is fine
void dd_disk_stats(struct dd_disk *d, struct dd_disk_stats *out);
// One look, as the thread does it. Not while a thread runs.
struct dd_disk *dd_disk_new(struct dd_store *s, struct dd_events *e, int64_t budget);
void dd_disk_look(struct dd_disk *d);
