// The generate endpoint: a request becomes a ticket, its connection is suspended, the daemon's
// batcher completes the ticket from its own thread, and the connection's MHD thread answers.
// A ticket has two holders, the request and the daemon, and lives until both let go.
#include "api/handlers.h"
#include "api/respond.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum outcome { WAITING, DELIVERED, FAILED, TIMED_OUT, CLIENT_GONE, STOPPED };

struct api_gen {
    struct api_gen *prev, *next; // the server's list, under gen_mu
    struct api_gen_request req;
    size_t held; // for its noise (api_hold)
    pthread_mutex_t mu;
    int refs;
    enum outcome outcome;
    bool suspended; // mhd may be touched: it cannot close while suspended
    bool listed;
    struct MHD_Connection *mhd;
    int fd;
    struct api_gen_result result;
    struct api_problem problem;
};

static void unref(struct api_gen *g) {
    pthread_mutex_lock(&g->mu);
    int left = --g->refs;
    pthread_mutex_unlock(&g->mu);
    if (left)
        return;
    free(g->result.bytes);
    free(g->req.images);
    free(g->req.noise);
    api_unhold(g->held);
    pthread_mutex_destroy(&g->mu);
    free(g);
}

// Records how it ended and wakes the connection; the first one wins. Called with g->mu held.
static bool settle(struct api_gen *g, enum outcome o) {
    if (g->outcome != WAITING)
        return false;
    g->outcome = o;
    if (g->suspended) {
        g->suspended = false;
        MHD_resume_connection(g->mhd);
    }
    return true;
}

const struct api_gen_request *api_gen_request(const struct api_gen *g) {
    return &g->req;
}

// The end of what the client sends (POLLRDHUP) says nothing: it may still read. Over TCP a client
// that has closed looks the same until something is sent to it; only a reset is certain. A unix
// socket that its client has closed hangs up.
static bool client_left(struct api_gen *g) {
    struct pollfd p = {.fd = g->fd}; // hang-up and errors are always reported
    return g->suspended && poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR));
}

bool api_gen_abandoned(struct api_gen *g) {
    pthread_mutex_lock(&g->mu);
    if (g->outcome == WAITING && api_now_ns() >= g->req.deadline_ns)
        settle(g, TIMED_OUT);
    else if (g->outcome == WAITING && client_left(g))
        settle(g, CLIENT_GONE);
    bool gone = g->outcome != WAITING;
    pthread_mutex_unlock(&g->mu);
    return gone;
}

void api_gen_complete(struct api_gen *g, const struct api_gen_result *result) {
    pthread_mutex_lock(&g->mu);
    if (g->outcome == WAITING) {
        g->result = *result; // before the connection wakes
        settle(g, DELIVERED);
    } else {
        free(result->bytes);
    }
    pthread_mutex_unlock(&g->mu);
    unref(g);
}

void api_gen_fail(struct api_gen *g, const struct api_problem *problem) {
    pthread_mutex_lock(&g->mu);
    if (g->outcome == WAITING) {
        if (problem)
            g->problem = *problem;
        else
            api_problem_set(&g->problem, 503, "abandoned", "the request was dropped");
        settle(g, FAILED);
    }
    pthread_mutex_unlock(&g->mu);
    unref(g);
}

static void list_remove(struct api_server *s, struct api_gen *g) {
    pthread_mutex_lock(&s->gen_mu);
    if (g->listed) {
        if (g->prev)
            g->prev->next = g->next;
        else
            s->gens = g->next;
        if (g->next)
            g->next->prev = g->prev;
        g->listed = false;
        s->ngens--;
    }
    pthread_mutex_unlock(&s->gen_mu);
}

static void list_add(struct api_server *s, struct api_gen *g) {
    pthread_mutex_lock(&s->gen_mu);
    g->next = s->gens;
    if (s->gens)
        s->gens->prev = g;
    s->gens = g;
    g->listed = true;
    s->ngens++;
    pthread_mutex_unlock(&s->gen_mu);
}

void api_gen_drop(struct api_req *r) {
    struct api_gen *g = r->gen;
    r->gen = NULL;
    list_remove(r->srv, g);
    pthread_mutex_lock(&g->mu);
    g->suspended = false;
    if (g->outcome == WAITING)
        g->outcome = CLIENT_GONE;
    pthread_mutex_unlock(&g->mu);
    unref(g);
}

void api_gen_tick(struct api_server *s, uint64_t now, bool poll_sockets) {
    pthread_mutex_lock(&s->gen_mu);
    for (struct api_gen *g = s->gens; g; g = g->next) {
        pthread_mutex_lock(&g->mu);
        if (g->outcome == WAITING && now >= g->req.deadline_ns)
            settle(g, TIMED_OUT);
        else if (poll_sockets && g->outcome == WAITING && client_left(g))
            settle(g, CLIENT_GONE);
        pthread_mutex_unlock(&g->mu);
    }
    pthread_mutex_unlock(&s->gen_mu);
}

void api_gen_shutdown(struct api_server *s) {
    pthread_mutex_lock(&s->gen_mu);
    for (struct api_gen *g = s->gens; g; g = g->next) {
        pthread_mutex_lock(&g->mu);
        settle(g, STOPPED);
        pthread_mutex_unlock(&g->mu);
    }
    pthread_mutex_unlock(&s->gen_mu);
}

int api_gen_waiting(struct api_server *s) {
    pthread_mutex_lock(&s->gen_mu);
    int n = s->ngens;
    pthread_mutex_unlock(&s->gen_mu);
    return n;
}

static enum MHD_Result deliver(struct api_req *r, struct api_gen *g) {
    struct api_gen_result *res = &g->result;
    char text[64];
    struct MHD_Response *resp = api_bytes_response(r, res->bytes, res->size);
    res->bytes = NULL;
    if (!resp)
        return api_send_no_room(r);
    MHD_add_response_header(resp, "Content-Type", res->content_type);
    snprintf(text, sizeof text, "%llu", (unsigned long long)g->req.seed);
    MHD_add_response_header(resp, "Driftd-Seed", text);
    MHD_add_response_header(resp, "Driftd-Checkpoint", res->checkpoint);
    snprintf(text, sizeof text, "%lld", (long long)res->step);
    MHD_add_response_header(resp, "Driftd-Step", text);
    snprintf(text, sizeof text, "%.3f", res->queue_ms);
    MHD_add_response_header(resp, "Driftd-Queue-Ms", text);
    snprintf(text, sizeof text, "%.3f", res->compute_ms);
    MHD_add_response_header(resp, "Driftd-Compute-Ms", text);
    snprintf(text, sizeof text, "%d", res->batch_size);
    MHD_add_response_header(resp, "Driftd-Batch-Size", text);
    if (res->served[0])
        MHD_add_response_header(resp, "Driftd-Served", res->served);
    if (res->note[0])
        MHD_add_response_header(resp, "Driftd-Note", res->note);
    return api_send(r, 200, resp);
}

enum MHD_Result api_gen_resume(struct api_req *r) {
    struct api_gen *g = r->gen;
    pthread_mutex_lock(&g->mu);
    enum outcome o = g->outcome;
    pthread_mutex_unlock(&g->mu);
    if (o == WAITING)
        return MHD_YES; // woken without a reason
    enum MHD_Result rc = MHD_NO;
    struct api_problem p;
    switch (o) {
    case DELIVERED:
        rc = deliver(r, g);
        break;
    case FAILED:
        rc = api_send_problem(r, &g->problem);
        break;
    case TIMED_OUT:
        rc = api_send_error(r, 504, "deadline", "no result within the request's timeout_ms");
        break;
    case STOPPED:
        api_problem_set(&p, 503, "draining", "the server is stopping");
        p.retry_after = 5;
        rc = api_send_problem(r, &p);
        break;
    case WAITING:
    case CLIENT_GONE:
        break; // closes the connection
    }
    api_gen_drop(r);
    return rc;
}

enum MHD_Result api_h_generate(struct api_req *r) {
    struct api_server *s = r->srv;
    struct api_problem p = {0};
    struct api_gen *g;
    if (!s->cb.generate || !s->cb.describe)
        return api_not_built(r);
    if (!(g = calloc(1, sizeof *g)))
        return MHD_NO;
    pthread_mutex_init(&g->mu, NULL);
    g->refs = 1;
    g->mhd = r->mhd;
    g->fd = r->conn->fd;
    const int rc = api_gen_parse(r, &g->req, &p);
    if (g->req.noise) { // it may outlive the request
        g->held = r->held;
        r->held = 0;
    }
    if (rc) {
        unref(g);
        return api_send_problem(r, &p);
    }
    g->refs = 2;
    r->gen = g;
    r->state = API_REQ_WAITING;
    pthread_mutex_lock(&g->mu);
    g->suspended = true;
    MHD_suspend_connection(r->mhd);
    pthread_mutex_unlock(&g->mu);
    list_add(s, g);
    if (s->cb.generate(s->ctx, g, &p)) { // refused: the ticket was never the daemon's
        pthread_mutex_lock(&g->mu);
        g->problem = p;
        settle(g, FAILED);
        pthread_mutex_unlock(&g->mu);
        unref(g);
    }
    return MHD_YES;
}
