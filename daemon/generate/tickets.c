// The queue's tickets, as the batcher and the render thread both handle them (batcher_priv.h).
#include "daemon/generate/batcher_priv.h"

#include <math.h>
#include <stdlib.h>

enum { COLD_QUEUE = 4096 }; // images that may wait before a rate is known

void dd_queue_put(struct dd_queue *q, struct dd_ticket *t) {
    t->next = NULL;
    if (!q->head)
        q->tail = &q->head;
    *q->tail = t;
    q->tail = &t->next;
}

void dd_ticket_free(struct dd_ticket *t) {
    dr_snapshot_unref(t->snap);
    free(t->label);
    free(t->x);
    free(t);
}

void dd_ticket_fail(struct dd_batcher *b, struct dd_ticket *t, int rc, const struct dr_err *err) {
    atomic_fetch_add(rc == DR_ECANCELED ? &b->abandoned : &b->failed, 1);
    t->req->fail(t->req->owner, rc, err);
    dd_ticket_free(t);
    pthread_mutex_lock(&b->lock);
    b->unsent--;
    pthread_cond_broadcast(&b->idle);
    pthread_mutex_unlock(&b->lock);
}

void dd_ticket_refuse(struct dd_batcher *b, struct dd_ticket *t) {
    struct dr_err err = {0};
    dd_ticket_fail(b, t, dr_fail(&err, DR_ESTOPPING, "the daemon is stopping"), &err);
}

// Bounded by time, so that a refused client hears a time worth waiting for and an accepted one is
// answered in it, whatever the network.
int64_t dd_queue_limit(const struct dd_batcher *b) {
    const struct dd_options *o = b->env.opt;
    if (!o->max_queue_ms)
        return o->max_queue;
    double most = b->rate * (double)o->max_queue_ms * 1e-3;
    if (!b->rate_full) // single images say how much full batches will do at least
        most = b->rate > 0 ? fmin(4 * most, COLD_QUEUE * 4) : COLD_QUEUE;
    return (int64_t)fmin(fmax(most, 2.0 * (double)o->max_batch), (double)o->max_queue);
}
