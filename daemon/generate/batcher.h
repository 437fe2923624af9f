// Generation: a bounded queue of tickets from HTTP, one thread with its own backend that packs
// whatever classes, scales and seeds wait into batches of one checkpoint, and a thread that renders
// results. Dispatch is at once when idle (or after max-queue-delay-us).
#pragma once

#include "api/api.h"
#include "daemon/base/hist.h"
#include "daemon/base/options.h"
#include "daemon/generate/ckpt_cache.h"
#include "daemon/generate/live.h"
#include "daemon/store/store.h"

struct dd_batcher;
struct dd_batcher_env {
    const struct dd_options *opt;
    struct dd_store *store;
    struct dd_live *live;
    struct dd_models *models;
};
// Opens the backend on its thread and waits for the outcome.
int dd_batcher_start(const struct dd_batcher_env *env, struct dd_batcher **out, struct dr_err *err);
// Finishes the batch under way and fails what waits with 503; NULL is fine.
void dd_batcher_stop(struct dd_batcher *b);
void dd_batcher_drain(struct dd_batcher *b); // refuses new tickets with 503, goes on with the queue

// The api callback: takes the ticket or refuses with 409 (no model), 429 (full) or 503 (draining).
int dd_batcher_submit(struct dd_batcher *b, struct api_gen *g, struct api_problem *problem);
// What `live`, `latest` or an id stands for now: "live:<job>" semantics resolved to a checkpoint
// row (id > 0) or the running job's weights (id 0). 0, or -1 with a problem (404, 409).
int dd_batcher_resolve(struct dd_batcher *b, const char *checkpoint, int64_t *id,
                       struct api_problem *problem);

struct dd_batcher_stats {
    int waiting; // images in the queue or in a batch
    int64_t queue_limit;
    uint64_t images, batches, requests, abandoned, failed;
    double images_per_second; // while busy; 0: unknown
    int64_t beat_ns;          // INT64_MAX while idle
    char device[160];
    bool on_device;   // not the CPU
    bool device_lost; // until a batch succeeds
};
void dd_batcher_stats(struct dd_batcher *b, struct dd_batcher_stats *out);
void dd_batcher_prometheus(struct dd_batcher *b, FILE *f);
