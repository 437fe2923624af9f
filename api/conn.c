// Connections (conn.h): header and body deadlines (MHD's own timeout counts inactivity only; a
// client that sends one byte per second would never meet it), eviction of idle connections at the
// limits, and threads of MHD that stop serving.
#include "api/conn.h"

#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static bool same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b) {
    if (a->ss_family != b->ss_family)
        return false;
    if (a->ss_family == AF_INET)
        return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)b)->sin_addr.s_addr;
    if (a->ss_family == AF_INET6) // a subscriber usually holds a /64
        return !memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr,
                       &((const struct sockaddr_in6 *)b)->sin6_addr, 8);
    return false;
}

static void evict(struct api_server *s, struct api_conn *c) {
    c->evicted = true;
    shutdown(c->fd, SHUT_RDWR); // MHD sees the end and closes it
    s->unsent -= c->unsent;
    c->unsent = 0;
    atomic_fetch_add(&s->reaped, 1);
}

// Whether `o` is cut before `best`: the oldest without a request yet, then the oldest between two
// requests.
static bool gives_way(const struct api_conn *o, const struct api_conn *best) {
    if (o->phase != API_PHASE_HEADER && o->phase != API_PHASE_IDLE)
        return false;
    return !best || (o->phase == API_PHASE_HEADER && best->phase == API_PHASE_IDLE);
}

// Called with conn_mu held, after `c` has been added: makes room when a limit is passed.
static void enforce_limits(struct api_server *s, struct api_conn *c) {
    struct api_conn *idle_same = NULL, *idle_any = NULL;
    int same = 0, all = 0;
    for (struct api_conn *o = s->conn_first; o; o = o->next) {
        if (o->evicted)
            continue;
        all++;
        if (o != c && gives_way(o, idle_any))
            idle_any = o;
        if (c->is_unix || !same_address(&o->addr, &c->addr))
            continue;
        same++;
        if (o != c && gives_way(o, idle_same))
            idle_same = o;
    }
    if (!c->is_unix && same > s->cfg.max_per_address)
        evict(s, idle_same ? idle_same : c);
    else if (all > s->cfg.max_connections)
        evict(s, idle_any ? idle_any : c);
}

// --- workers of MHD that stopped ---

// A thread of libmicrohttpd (0.9.75 to 1.0) asks epoll for 128 events, and when it gets exactly
// that many it asks again before it serves them, and waits as long as for the first: they are not
// served until something else happens to that thread, up to the send timeout. A signal ends that
// wait. It cannot happen to threads with fewer connections than this.
enum { CROWD = 100 };
#define NUDGE_SIGNAL SIGURG // ignored by default

static void on_nudge(int sig) {
    (void)sig;
}

int api_nudge_prepare(void) {
    struct sigaction a = {.sa_handler = on_nudge, .sa_flags = SA_RESTART};
    sigemptyset(&a.sa_mask);
    return sigaction(NUDGE_SIGNAL, &a, NULL);
}

void api_nudge(struct api_server *s) {
    pthread_mutex_lock(&s->conn_mu);
    for (int i = 0; i < s->nworkers; i++)
        if (s->worker[i].nconn >= CROWD)
            pthread_kill(s->worker[i].thread, NUDGE_SIGNAL);
    pthread_mutex_unlock(&s->conn_mu);
}

// The calling thread's place in s->worker; with conn_mu held.
static int this_worker(struct api_server *s) {
    for (int i = 0; i < s->nworkers; i++)
        if (pthread_equal(s->worker[i].thread, pthread_self()))
            return i;
    if (s->nworkers == API_MAX_WORKERS)
        return -1;
    s->worker[s->nworkers].thread = pthread_self();
    return s->nworkers++;
}

static void conn_add(struct api_listener_ctx *l, struct MHD_Connection *mhd, void **socket_ctx) {
    struct api_server *s = l->srv;
    struct api_conn *c = calloc(1, sizeof *c);
    *socket_ctx = c;
    if (!c)
        return;
    const union MHD_ConnectionInfo *fd =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    const union MHD_ConnectionInfo *addr =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    c->fd = fd->connect_fd;
    c->is_unix = l->listener.is_unix;
    c->any_address = l->any_address;
    c->tls = l->tls;
    if (addr && addr->client_addr && addr->client_addr->sa_family == AF_INET)
        memcpy(&c->addr, addr->client_addr, sizeof(struct sockaddr_in));
    else if (addr && addr->client_addr && addr->client_addr->sa_family == AF_INET6)
        memcpy(&c->addr, addr->client_addr, sizeof(struct sockaddr_in6));
    c->phase = API_PHASE_HEADER;
    c->deadline_ns = api_now_ns() + api_ms_ns(s->cfg.header_timeout_ms);
    pthread_mutex_lock(&s->conn_mu);
    c->worker = this_worker(s); // the thread that accepts a connection serves it
    if (c->worker >= 0)
        s->worker[c->worker].nconn++;
    c->prev = s->conn_last;
    if (s->conn_last)
        s->conn_last->next = c;
    else
        s->conn_first = c;
    s->conn_last = c;
    s->nconn++;
    if (s->nconn > s->cfg.max_per_address || s->nconn > s->cfg.max_connections)
        enforce_limits(s, c);
    pthread_mutex_unlock(&s->conn_mu);
}

static void conn_remove(struct api_server *s, struct api_conn *c) {
    pthread_mutex_lock(&s->conn_mu);
    if (c->prev)
        c->prev->next = c->next;
    else
        s->conn_first = c->next;
    if (c->next)
        c->next->prev = c->prev;
    else
        s->conn_last = c->prev;
    s->nconn--;
    if (c->worker >= 0)
        s->worker[c->worker].nconn--;
    pthread_mutex_unlock(&s->conn_mu);
    free(c);
}

void api_conn_notify(void *cls, struct MHD_Connection *c, void **socket_ctx,
                     enum MHD_ConnectionNotificationCode code) {
    struct api_listener_ctx *l = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        conn_add(l, c, socket_ctx);
    else if (*socket_ctx)
        conn_remove(l->srv, *socket_ctx);
}

void api_conn_phase(struct api_server *s, struct api_conn *c, enum api_phase phase,
                    uint64_t timeout_ms) {
    pthread_mutex_lock(&s->conn_mu);
    c->phase = phase;
    c->deadline_ns =
        phase == API_PHASE_BUSY || !timeout_ms ? 0 : api_now_ns() + timeout_ms * 1000000u;
    pthread_mutex_unlock(&s->conn_mu);
}

void api_conn_reap(struct api_server *s, uint64_t now) {
    pthread_mutex_lock(&s->conn_mu);
    for (struct api_conn *c = s->conn_first; c; c = c->next)
        if (c->deadline_ns && now >= c->deadline_ns && !c->evicted)
            evict(s, c);
    pthread_mutex_unlock(&s->conn_mu);
}

// --- large answers ---

// The one whose answer has not advanced for longest, and for stall_ms at least. With conn_mu held.
static struct api_conn *most_stalled(struct api_server *s, uint64_t now) {
    const uint64_t stall = api_ms_ns(s->cfg.stall_ms);
    struct api_conn *found = NULL;
    uint64_t since = now > stall ? now - stall : 0;
    for (struct api_conn *c = s->conn_first; c; c = c->next) {
        const uint64_t moved = atomic_load(&c->moved_ns);
        if (!c->unsent || moved > since)
            continue;
        found = c;
        since = moved;
    }
    return found;
}

bool api_conn_hold(struct api_server *s, struct api_conn *c, size_t bytes, bool anyway) {
    const uint64_t now = api_now_ns();
    struct api_conn *o;
    pthread_mutex_lock(&s->conn_mu);
    while (s->unsent + bytes > s->cfg.max_unsent && (o = most_stalled(s, now)))
        evict(s, o);
    const bool ok = anyway || !s->unsent || s->unsent + bytes <= s->cfg.max_unsent;
    if (ok) {
        atomic_store(&c->moved_ns, now);
        c->unsent = bytes;
        s->unsent += bytes;
    }
    pthread_mutex_unlock(&s->conn_mu);
    return ok;
}

void api_conn_advance(struct api_conn *c) {
    atomic_store(&c->moved_ns, api_now_ns());
}

void api_conn_unhold(struct api_server *s, struct api_conn *c) {
    pthread_mutex_lock(&s->conn_mu);
    s->unsent -= c->unsent;
    c->unsent = 0;
    pthread_mutex_unlock(&s->conn_mu);
}

// The time at which the thread that has been in our code longest entered it; now when there is
// none.
uint64_t api_conn_beat(struct api_server *s, uint64_t now) {
    pthread_mutex_lock(&s->conn_mu);
    for (int i = 0; i < s->nworkers; i++) {
        uint64_t since = atomic_load(&s->worker[i].busy_ns);
        now = since && since < now ? since : now;
    }
    pthread_mutex_unlock(&s->conn_mu);
    return now;
}
