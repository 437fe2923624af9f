// What batcher.c (queue, batches), render_thread.c (results, statistics) and tickets.c share.
#pragma once

#include "daemon/generate/batcher.h"
#include "daemon/generate/snap_cache.h"

#include <pthread.h>
#include <stdatomic.h>

// A request in progress. Touched by one thread at a time: queue (under the lock), batcher,
// renderer.
struct dd_ticket {
    struct dd_ticket *next;
    const struct dd_gen_request *req;
    int64_t id;               // checkpoint row; 0: the running job's weights
    struct dd_served served;  // what requests without a checkpoint get
    struct dr_snapshot *snap; // fixed by the first batch, so that a request has one set of weights
    int32_t *label;           // [n]
    real *x;                  // [n, image_count]
    int sent, done;           // images dispatched, finished
    int64_t submitted_ns, first_ns;
    double compute_s;
    int batch_size;
};
enum { DD_MAX_LANES = 16 };
struct dd_lane {
    struct dr_backend *be;
    struct dr_sampler *sampler;
};
struct dd_queue {
    struct dd_ticket *head, **tail;
};
struct dd_batcher {
    struct dd_batcher_env env;
    pthread_t thread, renderer[2]; // see dd_render_threads_start
    pthread_mutex_t lock;          // guards the queues and what follows
    pthread_cond_t work, rendering, idle;
    struct dd_queue queue, small, large; // small, large: computed and not yet rendered
    int waiting;                         // images accepted and not yet computed
    int64_t unrendered;                  // bytes of images computed that no renderer has taken yet
    int unsent;                          // tickets accepted and not yet answered
    bool draining, closing, render_closing;
    int start_rc; // 1: starting
    struct dr_err start_err;
    char device[160];
    bool on_device; // not the CPU; asked for when `be` may be gone
    double rate;    // images per second while the queue is not empty
    bool rate_full; // measured on batches as large as a full queue's
    double spread;  // seconds by which the next refused request comes later than the queue's end
    struct dd_hist queue_hist, compute_hist, batch_hist;
    _Atomic uint64_t images, batches, requests, abandoned, failed;
    _Atomic int64_t beat;
    _Atomic bool device_lost; // the last batch failed because of the device
    // the batcher's thread alone
    struct dr_backend *be;
    struct dr_sampler *sampler;
    struct dd_lane lane[DD_MAX_LANES];    // one CPU thread each, for parts of a batch
    int lanes;                            // 0: `be` is all there is
    int64_t last_ns;                      // end of the previous batch, 0: the queue was empty since
    double recent_images, recent_seconds; // what `rate` is made of
    double sample_flops;                  // of the model used last, 0: not known yet
    struct dd_snapcache *cache;
    struct dr_sample *sample; // [max_batch]
    real *x;                  // [max_batch, image_count], grown when a larger model comes
    size_t x_count;
    real *noise; // [max_batch, noise_count] of images whose noise is not the seed's alone
    size_t noise_count;
};

void dd_queue_put(struct dd_queue *q, struct dd_ticket *t);
int64_t dd_queue_limit(const struct dd_batcher *b); // images that may wait; under the lock
// Results are rendered by two threads: one takes small ones only, so that they never wait for a
// large one; the other takes what there is.
void dd_render_threads_start(struct dd_batcher *b);
void dd_render_threads_join(struct dd_batcher *b); // once they have failed what no one has taken
void dd_render_later(struct dd_batcher *b, struct dd_ticket *t); // under the lock
void dd_ticket_free(struct dd_ticket *t);
// Fails the request with a code and frees the ticket; DR_ECANCELED: nobody waits any more.
void dd_ticket_fail(struct dd_batcher *b, struct dd_ticket *t, int rc, const struct dr_err *err);
void dd_ticket_refuse(struct dd_batcher *b, struct dd_ticket *t); // fails with DR_ESTOPPING
