// Generation: a bounded queue of requests, one thread with its own backend that packs whatever
// classes, scales and seeds wait into batches of one checkpoint, and threads that render results.
// Dispatch is at once when idle (or after max-queue-delay-us).
#pragma once

#include "daemon/base/hist.h"
#include "daemon/base/options.h"
#include "daemon/generate/ckpt_cache.h"
#include "daemon/generate/live.h"
#include "daemon/generate/request.h"
#include "daemon/store/events.h"
#include "daemon/store/store.h"

struct dd_batcher;
struct dd_batcher_env {
    const struct dd_options *opt;
    struct dd_store *store;
    struct dd_events *events;
    struct dd_live *live;
    struct dd_models *models;
};
// Opens the backend on its thread and waits for the outcome.
int dd_batcher_start(const struct dd_batcher_env *env, struct dd_batcher **out, struct dr_err *err);
// Finishes the batch and the answers under way, fails what waits with DR_ESTOPPING. NULL is fine.
void dd_batcher_stop(struct dd_batcher *b);
void dd_batcher_drain(struct dd_batcher *b); // refuses new requests, goes on with the queue

// Takes the request, which must stay valid until its complete() or fail(), or refuses it: ENOTYET
// (no model), ENOENT and EGONE (its checkpoint), EFULL, ESTOPPING, or the store's error.
// *retry_after: seconds after which a refused request is worth repeating, 0: not known.
int dd_batcher_submit(struct dd_batcher *b, const struct dd_gen_request *req, double *retry_after,
                      struct dr_err *err);
// What a word (served, live, latest) or an id stands for now: a checkpoint row (id > 0) or the
// running job's weights (id 0). ENOENT, EGONE, ENOTYET, or the store's error.
int dd_batcher_resolve(struct dd_batcher *b, const char *checkpoint, int64_t *id,
                       struct dr_err *err);
// What `served` stands for and why (request.h). ENOTYET, or the store's error.
int dd_batcher_served(struct dd_batcher *b, struct dd_served *out, struct dr_err *err);

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
