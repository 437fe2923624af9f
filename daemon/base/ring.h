// The metrics ring: one producer (trainer thread), one consumer (the pump), lock-free and bounded.
// A push is a few stores; a full ring drops the row and counts it, so the trainer never waits.
#pragma once

#include "engine/core/metric.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define DD_RING_ROWS 8192 // power of two; 8 s at 1000 steps per second

struct dd_metric_table; // store/metrics.h: what v[] holds
struct dd_row {
    int64_t job, step, time_us; // wall clock
    double seconds;             // training time so far
    const struct dd_metric_table *table;
    uint64_t mask;            // bit i: v[i] was measured
    double v[DR_MAX_METRICS]; // in the order of the table
};
struct dd_ring {
    _Alignas(64) _Atomic uint64_t head; // written by the producer
    uint64_t tail_seen;                 // producer's copy of tail: fewer cache misses
    _Alignas(64) _Atomic uint64_t tail; // written by the consumer
    _Alignas(64) _Atomic uint64_t dropped;
    struct dd_row row[DD_RING_ROWS];
};

struct dd_ring *dd_ring_new(void); // NULL: out of memory
void dd_ring_free(struct dd_ring *r);
bool dd_ring_push(struct dd_ring *r, const struct dd_row *row);  // producer; false: dropped
int dd_ring_pop(struct dd_ring *r, struct dd_row *out, int max); // consumer; rows copied
uint64_t dd_ring_dropped(struct dd_ring *r);
