// Server-sent events: a replay ring of ready frames, the clients that follow it, batching of metric
// rows at 10 Hz. Events enter by api_publish* from any thread; each client's reader runs on its MHD
// thread and suspends the connection when there is nothing to send (0 without suspend would spin).
#include "api/handlers.h"
#include "api/respond.h"
#include "api/tokens.h"

#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RING 8192
#define RING_BYTES (16u << 20)
#define BLOCK 16384      // MHD's buffer per client
#define REPLAY_MAX 20000 // events out of the store for one reconnect
#define REPLAY_PAGE 500  // of them read at a time
#define METRIC_ROWS_MAX 512

struct frame {
    char job[API_ID_MAX];
    size_t len;
    char text[];
};

struct client {
    struct client *prev, *next_client;
    struct api_server *srv;
    struct MHD_Connection *mhd;
    int fd;
    uint64_t token;       // api_req.token
    char job[API_ID_MAX]; // "" follows everything
    uint64_t next;        // seq of the next frame
    size_t offset;        // bytes of that frame already sent
    char *preamble;       // what comes before the frames of the ring
    size_t pre_len, pre_off;
    bool replaying;               // more of the preamble is in the store
    uint64_t from_boot, from_seq; // the client's last id
    uint64_t at_boot, at_seq;     // of the last event that was replayed
    int replayed;
    bool suspended;
    bool half_closed, ping_now; // it has ended its side; it is to prove that it still reads
    bool gone;                  // nobody is there, or nobody who may read: no longer counted
    uint64_t sent_ns;
};

struct pending { // metric rows of one job since the last tick
    char job[API_ID_MAX];
    int64_t step0;
    size_t ncols, nrows;
    struct api_text names; // joined by \n, to notice a change
    struct api_text rows;
};

struct api_sse {
    pthread_mutex_t mu;
    struct frame *ring[RING];
    uint64_t oldest, head; // seqs: [oldest, head] are in the ring; head 0: nothing yet
    size_t bytes;
    struct client *clients;
    int nclients;        // those that are gone do not count
    struct pollfd *poll; // [max_sse]
    bool closing;
    struct pending pend;
};

int api_sse_create(struct api_server *s) {
    s->sse = calloc(1, sizeof *s->sse);
    if (!s->sse)
        return -1;
    s->sse->poll = calloc((size_t)s->cfg.max_sse, sizeof *s->sse->poll);
    if (!s->sse->poll) {
        free(s->sse);
        s->sse = NULL;
        return -1;
    }
    pthread_mutex_init(&s->sse->mu, NULL);
    s->sse->oldest = 1;
    return 0;
}

void api_sse_free(struct api_server *s) {
    struct api_sse *e = s->sse;
    if (!e)
        return;
    for (size_t i = 0; i < RING; i++)
        free(e->ring[i]);
    free(e->pend.names.s);
    free(e->pend.rows.s);
    free(e->poll);
    pthread_mutex_destroy(&e->mu);
    free(e);
    s->sse = NULL;
}

// --- publishing (sse.mu held in the static ones) ---

static void wake(struct client *c) {
    if (c->suspended) {
        c->suspended = false;
        MHD_resume_connection(c->mhd);
    }
}

static void drop_oldest(struct api_sse *e) {
    struct frame **slot = &e->ring[e->oldest % RING];
    e->bytes -= (*slot)->len;
    free(*slot);
    *slot = NULL;
    e->oldest++;
}

static bool concerns(const struct client *c, const char *job) {
    return !c->job[0] || !strcmp(c->job, job);
}

static uint64_t publish_locked(struct api_server *s, const char *type, const char *job,
                               const char *data, size_t n) {
    struct api_sse *e = s->sse;
    char head[160];
    uint64_t seq = e->head + 1;
    int h = snprintf(head, sizeof head,
                     "id: %" PRIu64 "-%" PRIu64 "\nevent: %.32s\ndata: ", s->cfg.boot, seq, type);
    struct frame *f = malloc(sizeof *f + (size_t)h + n + 3);
    while (e->head >= e->oldest && (e->head - e->oldest + 1 >= RING || e->bytes > RING_BYTES))
        drop_oldest(e);
    if (!f) { // clients see a gap
        while (e->head >= e->oldest)
            drop_oldest(e);
        e->head = seq;
        e->oldest = seq + 1;
        return seq;
    }
    snprintf(f->job, sizeof f->job, "%s", job);
    memcpy(f->text, head, (size_t)h);
    memcpy(f->text + h, data, n);
    memcpy(f->text + h + n, "\n\n", 3);
    f->len = (size_t)h + n + 2;
    e->ring[seq % RING] = f;
    e->bytes += f->len;
    e->head = seq;
    for (struct client *c = e->clients; c; c = c->next_client) {
        if (concerns(c, job))
            wake(c);
        else if (c->next == seq && !c->offset)
            c->next++; // a sleeping client is not lapped by events that are not for it
    }
    return seq;
}

static void flush_metrics(struct api_server *s) {
    struct pending *p = &s->sse->pend;
    struct api_text t = {0};
    if (!p->nrows)
        return;
    api_text_fmt(&t, "{\"job\":\"%s\",\"step0\":%" PRId64 ",\"cols\":[\"step\"", p->job, p->step0);
    for (char *name = p->names.s; name && *name;) {
        size_t n = strcspn(name, "\n");
        api_text_add(&t, ",\"", 2);
        api_text_add(&t, name, n);
        api_text_add(&t, "\"", 1);
        name += n + (name[n] == '\n');
    }
    api_text_add(&t, "],\"rows\":[", 10);
    api_text_add(&t, p->rows.s, p->rows.n);
    api_text_add(&t, "]}", 2);
    if (!t.failed && !p->rows.failed && !p->names.failed)
        publish_locked(s, "metrics", p->job, t.s, t.n);
    free(t.s);
    p->nrows = p->rows.n = p->names.n = p->ncols = 0;
    p->rows.failed = p->names.failed = false;
}

uint64_t api_publish(struct api_server *s, const char *type, const char *job, const json_t *data) {
    char *text = json_dumps(data, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(9));
    pthread_mutex_lock(&s->sse->mu);
    flush_metrics(s); // rows before this event come before it
    uint64_t seq =
        publish_locked(s, type, job ? job : "", text ? text : "{}", text ? strlen(text) : 2);
    pthread_mutex_unlock(&s->sse->mu);
    free(text);
    return seq;
}

uint64_t api_event_head(struct api_server *s) {
    pthread_mutex_lock(&s->sse->mu);
    flush_metrics(s);
    const uint64_t head = s->sse->head;
    pthread_mutex_unlock(&s->sse->mu);
    return head;
}

static bool same_names(const struct pending *p, size_t n, const char *const *names) {
    const char *have = p->names.s;
    if (p->ncols != n)
        return false;
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(names[i]);
        if (strncmp(have, names[i], len) || have[len] != '\n')
            return false;
        have += len + 1;
    }
    return true;
}

void api_publish_metrics(struct api_server *s, const char *job, int64_t step, size_t n,
                         const char *const *names, const double *values) {
    struct pending *p = &s->sse->pend;
    pthread_mutex_lock(&s->sse->mu);
    if (p->nrows &&
        (p->nrows >= METRIC_ROWS_MAX || strcmp(p->job, job) || !same_names(p, n, names)))
        flush_metrics(s);
    if (!p->nrows) {
        snprintf(p->job, sizeof p->job, "%s", job);
        p->step0 = step;
        p->ncols = n;
        for (size_t i = 0; i < n; i++) // plain identifiers: nothing to escape in JSON
            api_text_fmt(&p->names, "%s\n", names[i]);
    }
    api_text_fmt(&p->rows, "%s[%" PRId64, p->nrows ? "," : "", step);
    for (size_t i = 0; i < n; i++)
        if (isfinite(values[i]))
            api_text_fmt(&p->rows, ",%.7g", values[i]);
        else
            api_text_add(&p->rows, ",null", 5);
    api_text_add(&p->rows, "]", 1);
    p->nrows++;
    pthread_mutex_unlock(&s->sse->mu);
}

// Finds clients that have closed, long before a ping would; with sse.mu held. Only those that are
// suspended: their sockets stay open meanwhile. A reset or hang-up is certain. The end of what a
// client sends says nothing, as it may still read: it gets a ping, which a socket that nobody has
// any more answers with a reset.
static void notice_gone(struct api_sse *e) {
    nfds_t n = 0, i = 0;
    for (struct client *c = e->clients; c; c = c->next_client)
        if (c->suspended)
            e->poll[n++] = (struct pollfd){.fd = c->fd, .events = c->half_closed ? 0 : POLLRDHUP};
    if (poll(e->poll, n, 0) <= 0)
        return;
    for (struct client *c = e->clients; c; c = c->next_client) {
        if (!c->suspended)
            continue;
        const short seen = e->poll[i++].revents;
        c->gone = seen & (POLLHUP | POLLERR | POLLNVAL);
        if (c->gone)
            e->nclients--;
        else if (seen & POLLRDHUP)
            c->half_closed = c->ping_now = true;
        if (seen)
            wake(c);
    }
}

void api_sse_tick(struct api_server *s, uint64_t now) {
    struct api_sse *e = s->sse;
    pthread_mutex_lock(&e->mu);
    flush_metrics(s);
    notice_gone(e);
    for (struct client *c = e->clients; c; c = c->next_client)
        if (c->suspended && now - c->sent_ns >= (uint64_t)s->cfg.ping_ms * 1000000u)
            wake(c); // its reader sends the ping; a vanished client is noticed by this
    pthread_mutex_unlock(&e->mu);
}

void api_sse_close(struct api_server *s) {
    pthread_mutex_lock(&s->sse->mu);
    s->sse->closing = true;
    for (struct client *c = s->sse->clients; c; c = c->next_client)
        wake(c);
    pthread_mutex_unlock(&s->sse->mu);
}

void api_sse_recheck(struct api_server *s) {
    struct api_sse *e = s->sse;
    pthread_mutex_lock(&e->mu);
    for (struct client *c = e->clients; c; c = c->next_client) {
        if (c->gone || api_token_holds(s, c->token, API_SCOPE_READ))
            continue;
        c->gone = true;
        e->nclients--;
        wake(c); // its reader ends the stream
    }
    pthread_mutex_unlock(&e->mu);
}

int api_sse_count(struct api_server *s) {
    pthread_mutex_lock(&s->sse->mu);
    int n = s->sse->nclients;
    pthread_mutex_unlock(&s->sse->mu);
    return n;
}

// --- a client's reader ---

static size_t take(char *buf, size_t room, const char *from, size_t len, size_t *offset) {
    size_t n = len - *offset < room ? len - *offset : room;
    memcpy(buf, from + *offset, n);
    *offset += n;
    return n;
}

// What lies between the id (boot, seq) and the one before `oldest` of this boot: metrics, and with
// `events` other events as well.
static int gap_text(const struct client *c, char out[256], uint64_t boot, uint64_t seq,
                    uint64_t oldest, bool events) {
    const uint64_t me = c->srv->cfg.boot;
    return snprintf(out, 256,
                    "id: %" PRIu64 "-%" PRIu64 "\nevent: gap\ndata: {\"from\":\"%" PRIu64
                    "-%" PRIu64 "\",\"to\":\"%" PRIu64 "-%" PRIu64 "\",\"events\":%s}\n\n",
                    me, oldest - 1, boot, seq, me, oldest - 1, events ? "true" : "false");
}

// Copies what fits. -1: the stream cannot be continued (its frame was dropped when half was sent).
static ssize_t fill(struct client *c, char *buf, size_t max) {
    struct api_sse *e = c->srv->sse;
    size_t n = 0;
    if (c->pre_off < c->pre_len)
        n += take(buf, max, c->preamble, c->pre_len, &c->pre_off);
    if (c->pre_off == c->pre_len) {
        free(c->preamble);
        c->preamble = NULL;
    }
    while (!c->replaying && n < max && c->next <= e->head) {
        if (c->next < e->oldest) {
            char gap[256];
            if (c->offset)
                return -1;
            const int len = gap_text(c, gap, c->srv->cfg.boot, c->next, e->oldest, true);
            if ((size_t)len > max - n)
                break;
            memcpy(buf + n, gap, (size_t)len);
            n += (size_t)len;
            c->next = e->oldest;
            continue;
        }
        const struct frame *f = e->ring[c->next % RING];
        if (concerns(c, f->job)) {
            n += take(buf + n, max - n, f->text, f->len, &c->offset);
            if (c->offset < f->len)
                break;
        }
        c->offset = 0;
        c->next++;
    }
    return (ssize_t)n;
}

// --- replay out of the store, a page at a time as the client reads it ---

struct page {
    struct client *c;
    struct api_text text;
};

static void replay_one(void *arg, const struct api_event *ev) {
    struct page *p = arg;
    api_text_fmt(&p->text, "id: %" PRIu64 "-%" PRIu64 "\nevent: %.32s\ndata: ", ev->boot, ev->seq,
                 ev->type);
    api_text_add(&p->text, ev->data, strcspn(ev->data, "\r\n"));
    api_text_add(&p->text, "\n\n", 2);
    p->c->at_boot = ev->boot;
    p->c->at_seq = ev->seq;
}

static void pass_over(void *arg, const struct api_event *ev) {
    (void)arg, (void)ev;
}

static int read_events(struct client *c, uint64_t before, int max, api_event_fn *fn, void *arg) {
    const struct api_server *s = c->srv;
    if (!s->cb.events_read)
        return -1;
    return s->cb.events_read(s->ctx, c->at_boot, c->at_seq, s->cfg.boot, before,
                             c->job[0] ? c->job : NULL, max, fn, arg);
}

static void set_preamble(struct client *c, const struct api_text *t) {
    free(c->preamble);
    c->preamble = t->s;
    c->pre_len = t->n;
    c->pre_off = 0;
}

// The stream goes on from the ring.
static void end_replay(struct client *c, struct api_text *t, uint64_t oldest, bool lost) {
    struct api_sse *e = c->srv->sse;
    char gap[256];
    const int n = gap_text(c, gap, c->from_boot, c->from_seq, oldest, lost);
    api_text_add(t, gap, (size_t)n);
    pthread_mutex_lock(&e->mu);
    c->next = oldest;
    c->replaying = false;
    pthread_mutex_unlock(&e->mu);
}

// Up to the oldest event that is in the ring by now.
static void replay_page(struct client *c) {
    struct api_sse *e = c->srv->sse;
    struct page p = {.c = c};
    pthread_mutex_lock(&e->mu);
    const uint64_t oldest = e->oldest;
    pthread_mutex_unlock(&e->mu);
    const int n = read_events(c, oldest, REPLAY_PAGE, replay_one, &p);
    c->replayed += n > 0 ? n : 0;
    const bool enough = c->replayed >= REPLAY_MAX;
    bool lost = n < 0 || p.text.failed;
    if (n == REPLAY_PAGE && enough)
        lost = lost || read_events(c, oldest, 1, pass_over, NULL) != 0;
    if (p.text.failed) {
        free(p.text.s);
        p.text = (struct api_text){0};
    }
    if (lost || enough || n < REPLAY_PAGE)
        end_replay(c, &p.text, oldest, lost);
    set_preamble(c, &p.text);
}

static ssize_t sse_read(void *cls, uint64_t pos, char *buf, size_t max) {
    struct client *c = cls;
    struct api_sse *e = c->srv->sse;
    (void)pos;
    while (c->replaying && c->pre_off == c->pre_len)
        replay_page(c);
    pthread_mutex_lock(&e->mu);
    ssize_t n = c->gone ? -1 : fill(c, buf, max);
    uint64_t now = api_now_ns();
    const bool due = c->ping_now || now - c->sent_ns >= (uint64_t)c->srv->cfg.ping_ms * 1000000u;
    if (n < 0 || (n == 0 && e->closing)) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (n > 0) {
        c->sent_ns = now;
        c->ping_now = false; // as good as a ping
    } else if (due && max >= 8) {
        memcpy(buf, ": ping\n\n", 8);
        c->sent_ns = now;
        c->ping_now = false;
        n = 8;
    } else {
        c->suspended = true;
        MHD_suspend_connection(c->mhd);
    }
    pthread_mutex_unlock(&e->mu);
    return n;
}

static void client_free(void *cls) {
    struct client *c = cls;
    struct api_sse *e = c->srv->sse;
    pthread_mutex_lock(&e->mu);
    if (c->prev)
        c->prev->next_client = c->next_client;
    else
        e->clients = c->next_client;
    if (c->next_client)
        c->next_client->prev = c->prev;
    if (!c->gone)
        e->nclients--;
    pthread_mutex_unlock(&e->mu);
    free(c->preamble);
    free(c);
}

// --- connecting ---

static int parse_id(const char *text, uint64_t *boot, uint64_t *seq) {
    char *end;
    if (!text || *text < '0' || *text > '9')
        return -1;
    *boot = strtoull(text, &end, 10);
    if (*end != '-' || end[1] < '0' || end[1] > '9')
        return -1;
    *seq = strtoull(end + 1, &end, 10);
    return *end || *boot > INT64_MAX || *seq > INT64_MAX ? -1 : 0; // the store's numbers
}

// Where the stream starts, and what precedes it: retry and hello here, then the replay out of the
// store and a gap.
static void build_preamble(struct api_server *s, struct client *c, const char *last) {
    struct api_sse *e = s->sse;
    struct api_text t = {0};
    struct timespec wall;
    uint64_t boot = 0, seq = 0, me = s->cfg.boot;
    clock_gettime(CLOCK_REALTIME, &wall);
    pthread_mutex_lock(&e->mu);
    flush_metrics(s);
    uint64_t head = e->head, oldest = e->oldest;
    pthread_mutex_unlock(&e->mu);
    bool resume = last && *last, known = resume && !parse_id(last, &boot, &seq);
    if (!known)
        boot = seq = 0;
    bool ring = known && boot == me && seq <= head && seq + 1 >= oldest;
    api_text_fmt(&t, "retry: 2000\n");
    if (!resume)
        api_text_fmt(&t, "id: %" PRIu64 "-%" PRIu64 "\n", me, head);
    api_text_fmt(&t,
                 "event: hello\ndata: {\"boot\":%" PRIu64 ",\"seq\":%" PRIu64
                 ",\"time\":%lld.%03ld,\"version\":\"%.64s\",\"resumed\":%s}\n\n",
                 me, head, (long long)wall.tv_sec, wall.tv_nsec / 1000000, s->version,
                 ring ? "true" : "false");
    c->next = ring ? seq + 1 : head + 1;
    c->from_boot = c->at_boot = boot;
    c->from_seq = c->at_seq = seq;
    // else: an id from nowhere
    const bool past = known && (boot < me || (boot == me && seq <= head));
    c->replaying = resume && !ring && past;
    if (resume && !ring && !past)
        end_replay(c, &t, oldest, true);
    set_preamble(c, &t);
}

// 0, or -1 with the reason of a refusal.
static int add_client(struct api_server *s, struct client *c, struct api_problem *p) {
    struct api_sse *e = s->sse;
    int rc = 0;
    pthread_mutex_lock(&e->mu);
    if (e->nclients >= s->cfg.max_sse)
        notice_gone(e);
    if (e->closing)
        rc = api_problem_set(p, 503, "draining", "the server is stopping");
    else if (e->nclients >= s->cfg.max_sse)
        rc = api_problem_set(p, 503, "too-many-streams", "all event streams are taken");
    else if (!api_token_holds(s, c->token, API_SCOPE_READ)) // a reload since the gate
        rc = api_problem_set(p, 401, "unauthorized", "the bearer token is wrong");
    if (!rc) {
        c->next_client = e->clients;
        if (e->clients)
            e->clients->prev = c;
        e->clients = c;
        e->nclients++;
    }
    pthread_mutex_unlock(&e->mu);
    return rc;
}

static enum MHD_Result subscribe(struct api_req *r, const char *job) {
    struct api_server *s = r->srv;
    const char *last = api_header(r, "Last-Event-ID");
    struct client *c = calloc(1, sizeof *c);
    if (!c)
        return MHD_NO;
    if (!last)
        last = api_query_get(&r->query, "last_event_id");
    c->srv = s;
    c->mhd = r->mhd;
    c->fd = r->conn->fd;
    c->token = r->token;
    c->sent_ns = api_now_ns();
    snprintf(c->job, sizeof c->job, "%s", job);
    build_preamble(s, c, last);
    struct api_problem p;
    if (add_client(s, c, &p)) {
        free(c->preamble);
        free(c);
        p.retry_after = p.status == 503 ? 5 : 0;
        return api_send_problem(r, &p);
    }
    struct MHD_Response *resp =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, sse_read, c, client_free);
    if (!resp) {
        client_free(c);
        return MHD_NO;
    }
    MHD_add_response_header(resp, "Content-Type", "text/event-stream");
    MHD_add_response_header(resp, "X-Accel-Buffering", "no");
    return api_send(r, 200, resp);
}

enum MHD_Result api_h_events(struct api_req *r) {
    return subscribe(r, "");
}

enum MHD_Result api_h_job_events(struct api_req *r) {
    struct api_reply reply = {0};
    if (!r->srv->cb.job_get)
        return api_not_built(r);
    int rc = r->srv->cb.job_get(r->srv->ctx, r->seg[0], &reply); // 404 for an unknown job
    if (rc)
        return api_send_reply(r, rc, &reply);
    json_decref(reply.body);
    return subscribe(r, r->seg[0]);
}
