// The batcher's second half: renders finished tickets off its thread, answers them, counts
// (batcher.h).
#include "daemon/base/util.h"
#include "daemon/generate/batcher_priv.h"
#include "daemon/generate/render.h"

#include <stdlib.h>
#include <string.h>

// Scales beyond those that the model was trained with give images that nothing vouches for.
static void note_scales(const struct dd_ticket *t, char *note, size_t size) {
    const struct dr_guidance_range g = t->snap->guidance;
    for (int i = 0; g.hi > 0 && !t->req->two_pass && i < t->req->n; i++) {
        double cfg = (double)t->req->images[i].cfg;
        if (cfg >= g.lo && cfg <= g.hi)
            continue;
        snprintf(note, size,
                 "cfg %.6g is outside of the scales that this model was trained with, %g to %g",
                 cfg, g.lo, g.hi);
        return;
    }
}

static void answer(struct dd_batcher *b, struct dd_ticket *t) {
    struct dd_gen_result out = {0};
    struct dr_err err = {0};
    double queue = (double)(t->first_ns - t->req->received_ns) * 1e-9;
    if (t->req->received_ns == 0 || queue < 0)
        queue = (double)(t->first_ns - t->submitted_ns) * 1e-9;
    dd_hist_add(&b->queue_hist, queue);
    dd_hist_add(&b->compute_hist, t->compute_s);
    note_scales(t, out.note, sizeof out.note);
    struct dd_rendered in = {
        .req = t->req, .label = t->label, .snap = t->snap, .x = t->x, .note = out.note};
    int rc = dd_render(&in, &out, &err);
    if (rc) { // DR_ECANCELED among others
        dd_ticket_fail(b, t, rc, &err);
        return;
    }
    out.queue_ms = queue * 1e3;
    out.compute_ms = t->compute_s * 1e3;
    out.batch_size = t->batch_size;
    out.served = t->served;
    atomic_fetch_add(&b->requests, 1);
    t->req->complete(t->req->owner, &out);
    dd_ticket_free(t);
    pthread_mutex_lock(&b->lock);
    b->unsent--;
    pthread_cond_broadcast(&b->idle);
    pthread_mutex_unlock(&b->lock);
}

// Values that a result encodes, above which it counts as large: some tens of milliseconds.
enum { LARGE = 4 << 20 };

static int64_t sample_bytes(const struct dd_ticket *t) {
    return t->req->n * dr_gen_image_count(t->snap->net) * (int64_t)sizeof *t->x;
}

void dd_render_later(struct dd_batcher *b, struct dd_ticket *t) {
    const bool large = dd_render_values(t->req, t->snap->net) > LARGE;
    dd_queue_put(large ? &b->large : &b->small, t);
    b->unrendered += sample_bytes(t);
    pthread_cond_broadcast(&b->rendering);
}

// Under the lock. Taken, a ticket no longer holds the batcher up.
static struct dd_ticket *take(struct dd_batcher *b, struct dd_queue *q) {
    struct dd_ticket *t = q->head;
    if (!t)
        return NULL;
    q->head = t->next;
    b->unrendered -= sample_bytes(t);
    pthread_cond_signal(&b->work);
    return t;
}

static void render(struct dd_batcher *b, bool large_too) {
    pthread_mutex_lock(&b->lock);
    for (;;) {
        struct dd_ticket *t = large_too ? take(b, &b->large) : NULL;
        if (!t)
            t = take(b, &b->small);
        if (t) {
            const bool closing = b->closing;
            pthread_mutex_unlock(&b->lock);
            if (closing)
                dd_ticket_refuse(b, t);
            else
                answer(b, t);
            pthread_mutex_lock(&b->lock);
        } else if (b->render_closing) {
            break;
        } else {
            pthread_cond_wait(&b->rendering, &b->lock);
        }
    }
    pthread_mutex_unlock(&b->lock);
}

static void *render_small(void *batcher) {
    pthread_setname_np(pthread_self(), "render");
    render(batcher, false);
    return NULL;
}

static void *render_any(void *batcher) {
    pthread_setname_np(pthread_self(), "render-large");
    render(batcher, true);
    return NULL;
}

void dd_render_threads_start(struct dd_batcher *b) {
    if (pthread_create(&b->renderer[0], NULL, render_small, b) ||
        pthread_create(&b->renderer[1], NULL, render_any, b))
        abort(); // no thread to be had at start: nothing to go on with
}

void dd_render_threads_join(struct dd_batcher *b) {
    pthread_mutex_lock(&b->lock);
    b->render_closing = true;
    pthread_cond_broadcast(&b->rendering);
    pthread_mutex_unlock(&b->lock);
    for (int i = 0; i < 2; i++)
        pthread_join(b->renderer[i], NULL);
}

void dd_batcher_stats(struct dd_batcher *b, struct dd_batcher_stats *out) {
    *out = (struct dd_batcher_stats){.images = atomic_load(&b->images),
                                     .batches = atomic_load(&b->batches),
                                     .requests = atomic_load(&b->requests),
                                     .abandoned = atomic_load(&b->abandoned),
                                     .failed = atomic_load(&b->failed),
                                     .beat_ns = atomic_load(&b->beat),
                                     .device_lost = atomic_load(&b->device_lost)};
    pthread_mutex_lock(&b->lock);
    out->waiting = b->waiting;
    out->queue_limit = dd_queue_limit(b);
    out->images_per_second = b->rate;
    out->on_device = b->on_device;
    memcpy(out->device, b->device, sizeof out->device);
    pthread_mutex_unlock(&b->lock);
}

void dd_batcher_prometheus(struct dd_batcher *b, FILE *f) {
    struct dd_batcher_stats s;
    dd_batcher_stats(b, &s);
    dd_hist_print(&b->queue_hist, f, "driftd_generate_queue_seconds",
                  "Time from a request's arrival to its first batch.");
    dd_hist_print(&b->compute_hist, f, "driftd_generate_compute_seconds",
                  "Time of the batches that held a request's images.");
    dd_hist_print(&b->batch_hist, f, "driftd_batch_size", "Images in a forward pass.");
    fprintf(f,
            "# HELP driftd_generate_images_total Images generated.\n"
            "# TYPE driftd_generate_images_total counter\ndriftd_generate_images_total %llu\n"
            "# HELP driftd_queue_depth Images that wait for generation.\n"
            "# TYPE driftd_queue_depth gauge\ndriftd_queue_depth %d\n",
            (unsigned long long)s.images, s.waiting);
}
