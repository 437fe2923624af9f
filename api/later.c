// Pools of threads for handlers that may take long (later.h). The handler of a route with
// API_WRITES, API_LONG or API_READS runs here unchanged: api_send keeps its response in the request
// instead of queueing it, and MHD's thread sends it after the connection has been resumed. A
// suspended connection does not end, so the request stays valid throughout.
#include "api/later.h"

#include "api/respond.h"

#include <stdlib.h>
#include <time.h>

enum { IDLE_S = 10 }; // a thread without work ends after so long

struct pool {
    pthread_mutex_t mu;
    pthread_cond_t work, gone;
    struct api_req *head, **tail;
    int queued, accepted, threads, idle; // accepted: queued or at work
    int max_threads, max_queued;
    bool closing;
};
struct api_later {
    struct pool pool[API_LATER_POOLS];
};

struct api_later *api_later_new(void) {
    // While another process holds the database, that many writers wait at the same time.
    static const struct {
        int threads, queued;
    } sizes[API_LATER_POOLS] = {{32, 256}, {2, 16}, {API_WORKERS, 128}};
    struct api_later *l = calloc(1, sizeof *l);
    for (int i = 0; l && i < API_LATER_POOLS; i++) {
        struct pool *p = &l->pool[i];
        pthread_mutex_init(&p->mu, NULL);
        pthread_cond_init(&p->work, NULL);
        pthread_cond_init(&p->gone, NULL);
        p->tail = &p->head;
        p->max_threads = sizes[i].threads;
        p->max_queued = sizes[i].queued;
    }
    return l;
}

void api_later_free(struct api_later *l) {
    if (!l)
        return;
    api_later_drain(l);
    for (int i = 0; i < API_LATER_POOLS; i++) {
        pthread_mutex_destroy(&l->pool[i].mu);
        pthread_cond_destroy(&l->pool[i].work);
        pthread_cond_destroy(&l->pool[i].gone);
    }
    free(l);
}

// With the lock held. NULL: there was nothing to do for a while, or the pool is closing.
static struct api_req *take(struct pool *p) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += IDLE_S;
    p->idle++;
    while (!p->head && !p->closing &&
           !pthread_cond_clockwait(&p->work, &p->mu, CLOCK_MONOTONIC, &until))
        ;
    p->idle--;
    struct api_req *r = p->head;
    if (!r)
        return NULL;
    p->head = r->later_next;
    if (!p->head)
        p->tail = &p->head;
    p->queued--;
    return r;
}

static void run(struct api_req *r, bool closing) {
    struct MHD_Connection *mhd = r->mhd;
    struct api_problem p = {0};
    if (closing) {
        api_problem_set(&p, 503, "draining", "the server is stopping");
        p.retry_after = 5;
        api_send_problem(r, &p);
    } else {
        r->route->fn(r);
    }
    atomic_store(&r->later, API_LATER_DONE);
    MHD_resume_connection(mhd); // from here on r belongs to MHD's thread
}

static void *worker(void *arg) {
    struct pool *p = arg;
    pthread_setname_np(pthread_self(), "http-later");
    pthread_mutex_lock(&p->mu);
    for (struct api_req *r; (r = take(p));) {
        bool closing = p->closing;
        pthread_mutex_unlock(&p->mu);
        run(r, closing);
        pthread_mutex_lock(&p->mu);
        p->accepted--;
    }
    if (--p->threads == 0)
        pthread_cond_broadcast(&p->gone);
    pthread_mutex_unlock(&p->mu);
    return NULL;
}

// With the lock held: a thread for what is about to be queued. False: there is none at all.
static bool ensure_thread(struct pool *p) {
    pthread_t t;
    if (p->idle > p->queued || p->threads == p->max_threads)
        return true;
    if (pthread_create(&t, NULL, worker, p))
        return p->threads > 0;
    pthread_detach(t);
    p->threads++;
    return true;
}

static struct pool *pool_of(const struct api_req *r) {
    const unsigned flags = r->route->flags;
    return &r->srv->later->pool[flags & (API_LONG | API_LONG_ASKED) ? 1
                                : flags & API_READS                 ? 2
                                                                    : 0];
}

enum MHD_Result api_later_start(struct api_req *r) {
    struct pool *p = pool_of(r);
    pthread_mutex_lock(&p->mu);
    const bool closing = p->closing;
    // By what was accepted, not by the queue: a thread that has not begun yet is no reason to
    // refuse.
    const bool room = p->accepted < p->max_threads + p->max_queued;
    const bool ok = !closing && room && ensure_thread(p);
    if (ok) {
        r->state = API_REQ_WAITING;
        atomic_store(&r->later, API_LATER_RUNS);
        MHD_suspend_connection(r->mhd);
        r->later_next = NULL;
        *p->tail = r;
        p->tail = &r->later_next;
        p->queued++;
        p->accepted++;
        pthread_cond_signal(&p->work);
    }
    pthread_mutex_unlock(&p->mu);
    if (ok)
        return MHD_YES;
    struct api_problem why = {0};
    api_problem_set(&why, 503, closing ? "draining" : "busy",
                    closing ? "the server is stopping" : "too many requests of this kind wait");
    why.retry_after = 5;
    return api_send_problem(r, &why);
}

enum MHD_Result api_later_resume(struct api_req *r) {
    if (atomic_load(&r->later) != API_LATER_DONE)
        return MHD_YES; // woken without a reason
    atomic_store(&r->later, API_LATER_NOT);
    return api_send_kept(r);
}

void api_later_drain(struct api_later *l) {
    for (int i = 0; i < API_LATER_POOLS; i++) {
        struct pool *p = &l->pool[i];
        pthread_mutex_lock(&p->mu);
        p->closing = true;
        pthread_cond_broadcast(&p->work);
        while (p->threads)
            pthread_cond_wait(&p->gone, &p->mu);
        pthread_mutex_unlock(&p->mu);
    }
}
