// Pump thread (pump.h). The ring has one consumer at a time: whoever holds the lock.
#include "daemon/store/pump.h"

#include "daemon/base/hist.h"
#include "daemon/base/util.h"
#include "daemon/store/metric_store.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { TICK_MS = 100, FLUSH_TICKS = 2, CHUNK = 256 };

struct dd_pump {
    struct dd_ring *ring;
    struct dd_store *store;
    struct dd_events *events;
    struct dd_tensorboard *tensorboard; // NULL: none
    int64_t keep;
    pthread_t thread;
    pthread_mutex_t lock; // guards everything below and the consumer's side of the ring
    pthread_cond_t wake;
    bool closing;
    struct dd_metric_batch *batch; // rows not yet handed to the writer
    int cap;
    struct dd_pump_stats stats;
    struct dd_hist step_hist;
};

static void batch_add(struct dd_pump *p, const struct dd_row *rows, int n) {
    int have = p->batch ? p->batch->n : 0;
    if (!p->batch || have + n > p->cap) {
        p->cap = have + n > 2 * p->cap ? have + n : 2 * p->cap;
        p->batch = realloc(p->batch, sizeof *p->batch + (size_t)p->cap * sizeof *rows);
        if (!p->batch)
            abort();
        p->batch->keep_steps = p->keep;
    }
    memcpy(p->batch->row + have, rows, (size_t)n * sizeof *rows);
    p->batch->n = have + n;
}

// What was measured of the newest step after its row had come.
static void complete(struct dd_row *newest, const struct dd_row *r) {
    for (int i = 0; i < r->table->n; i++)
        if (r->mask >> i & 1)
            newest->v[i] = r->v[i];
    newest->mask |= r->mask;
}

static void count(struct dd_pump *p, const struct dd_row *r) {
    struct dd_pump_stats *s = &p->stats;
    const struct dd_row *old = &s->newest;
    if (old->job == r->job && old->step == r->step && old->table == r->table &&
        !(old->mask & r->mask)) {
        complete(&s->newest, r);
        return;
    }
    // One row may cover several steps (metrics.every).
    int64_t steps = old->job == r->job && r->step > old->step ? r->step - old->step : 1;
    s->steps += (uint64_t)steps;
    const double took = dd_row_value(r, "step_seconds");
    if (!isnan(took))
        dd_hist_add_n(&p->step_hist, took, (uint64_t)steps);
    if (old->job == r->job && r->seconds > old->seconds) {
        double now = (double)steps / (r->seconds - old->seconds);
        s->steps_per_second = s->steps_per_second > 0 ? 0.9 * s->steps_per_second + 0.1 * now : now;
    } else {
        s->steps_per_second = 0;
    }
    s->newest = *r;
}

static void drain(struct dd_pump *p) {
    struct dd_row rows[CHUNK];
    int n;
    while ((n = dd_ring_pop(p->ring, rows, CHUNK)) > 0) {
        for (int i = 0; i < n; i++) {
            dd_event_metrics(p->events, &rows[i]);
            if (p->tensorboard)
                dd_tensorboard_row(p->tensorboard, &rows[i]);
            count(p, &rows[i]);
        }
        batch_add(p, rows, n);
    }
}

static struct dd_metric_batch *take(struct dd_pump *p) {
    struct dd_metric_batch *b = p->batch;
    p->batch = NULL;
    p->cap = 0;
    return b;
}

static void *pump(void *arg) {
    struct dd_pump *p = arg;
    int ticks = 0;
    pthread_setname_np(pthread_self(), "metrics");
    pthread_mutex_lock(&p->lock);
    while (!p->closing) {
        dd_cond_wait_until(&p->wake, &p->lock, dd_now_ns() + TICK_MS * 1000000);
        drain(p);
        if (++ticks < FLUSH_TICKS || !p->batch)
            continue;
        ticks = 0;
        struct dd_metric_batch *b = take(p);
        dd_store_post(p->store, dd_metrics_insert, b, free);
        if (p->tensorboard)
            dd_tensorboard_flush(p->tensorboard);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

struct dd_pump *dd_pump_start(struct dd_store *s, struct dd_events *e, int64_t keep_steps) {
    struct dd_pump *p = dd_xcalloc(1, sizeof *p);
    static const double seconds[] = {.0005, .001, .0025, .005, .01, .025, .05, .1,
                                     .25,   .5,   1,     2.5,  5,   10,   30};
    *p = (struct dd_pump){.store = s, .events = e, .keep = keep_steps, .ring = dd_ring_new()};
    p->step_hist.bound = seconds;
    p->step_hist.nbound = (int)DR_COUNT(seconds);
    if (!p->ring)
        abort();
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    if (pthread_create(&p->thread, NULL, pump, p))
        abort();
    return p;
}

int dd_pump_flush(struct dd_pump *p, struct dr_err *err) {
    pthread_mutex_lock(&p->lock);
    drain(p);
    struct dd_metric_batch *b = take(p);
    if (p->tensorboard) // the thread has nothing left to flush until the next row
        dd_tensorboard_flush(p->tensorboard);
    pthread_mutex_unlock(&p->lock);
    struct dd_metric_batch none = {0};
    // Posted, so that they stay queued while another process holds the database; the empty batch
    // behind them is what is waited for.
    if (b)
        dd_store_post(p->store, dd_metrics_insert, b, free);
    return dd_store_do(p->store, dd_metrics_insert, &none, err);
}

void dd_pump_stop(struct dd_pump *p) {
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->closing = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    struct dr_err err;
    dd_pump_flush(p, &err);
    dd_tensorboard_close(p->tensorboard);
    dd_ring_free(p->ring);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    free(p);
}

void dd_pump_tensorboard(struct dd_pump *p, struct dd_tensorboard *t) {
    pthread_mutex_lock(&p->lock);
    p->tensorboard = t;
    pthread_mutex_unlock(&p->lock);
}

void dd_pump_image(struct dd_pump *p, int64_t job, int64_t step, const char *png, int64_t w,
                   int64_t h) {
    if (!p->tensorboard)
        return;
    dd_tensorboard_image(p->tensorboard, job, step, png, w, h);
    dd_tensorboard_flush(p->tensorboard);
}

struct dd_ring *dd_pump_ring(struct dd_pump *p) {
    return p->ring;
}

void dd_pump_stats(struct dd_pump *p, struct dd_pump_stats *out) {
    pthread_mutex_lock(&p->lock);
    *out = p->stats;
    pthread_mutex_unlock(&p->lock);
    out->dropped = dd_ring_dropped(p->ring);
}

void dd_pump_prometheus(struct dd_pump *p, FILE *f) {
    dd_hist_print(&p->step_hist, f, "driftd_train_step_seconds", "Time of a training step.");
}
