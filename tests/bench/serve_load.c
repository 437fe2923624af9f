// The client side of serve_bench but for its followers (serve_load.h).
#include "tests/bench/serve_load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double clock_seconds(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double bench_now(void) {
    return clock_seconds(CLOCK_MONOTONIC);
}

double bench_wall(void) {
    return clock_seconds(CLOCK_REALTIME);
}

void bench_sleep(double s) {
    struct timespec t = {(time_t)s, (long)((s - (double)(time_t)s) * 1e9)};
    nanosleep(&t, NULL);
}

void bench_die(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fputs("serve_bench: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

int client_dial(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a))
        bench_die("no connection to port %d: %s", port, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

// ---- responses ----

static const char *header(const char *head, const char *name) {
    size_t n = strlen(name);
    for (const char *p = strstr(head, "\r\n"); p; p = strstr(p, "\r\n")) {
        p += 2;
        if (!strncasecmp(p, name, n) && p[n] == ':')
            return p + n + 1;
    }
    return NULL;
}

static double header_number(const char *head, const char *name) {
    const char *v = header(head, name);
    return v ? strtod(v, NULL) : -1;
}

// What is known of a response: the head is in buf as soon as `left` is not -1.
struct response {
    char buf[16384];
    size_t n;
    long left;
    struct reply r;
    char *body; // grown by what follows the head when `keep` is set
    size_t body_n;
    bool keep, chunked;
};

static void response_reset(struct response *p) {
    p->n = p->body_n = 0;
    p->left = -1;
    p->chunked = false;
    p->r = (struct reply){.retry_after = -1, .compute_ms = -1, .queue_ms = -1};
}

static void response_keep(struct response *p, const char *data, size_t n) {
    p->body = realloc(p->body, p->body_n + n + 1);
    if (!p->body)
        bench_die("out of memory");
    memcpy(p->body + p->body_n, data, n);
    p->body_n += n;
    p->body[p->body_n] = '\0';
}

// Undoes the chunks of a whole body; responses of unknown length are only read by client_call.
static void response_dechunk(struct response *p) {
    char *in = p->body, *out = p->body, *end = p->body + p->body_n;
    while (in < end) {
        size_t n = strtoul(in, &in, 16);
        in += 2;
        if (!n || in + n > end)
            break;
        memmove(out, in, n);
        out += n;
        in += n + 2;
    }
    *out = '\0';
    p->body_n = (size_t)(out - p->body);
}

static bool response_head(struct response *p) {
    p->buf[p->n] = '\0';
    char *end = strstr(p->buf, "\r\n\r\n");
    if (!end)
        return false;
    size_t head = (size_t)(end - p->buf) + 4, more = p->n - head;
    char saved = *end;
    *end = '\0';
    p->r.status = (int)strtol(p->buf + 9, NULL, 10);
    p->r.retry_after = header_number(p->buf, "Retry-After");
    p->r.compute_ms = header_number(p->buf, "Driftd-Compute-Ms");
    p->r.queue_ms = header_number(p->buf, "Driftd-Queue-Ms");
    const char *te = header(p->buf, "Transfer-Encoding");
    p->chunked = te && strstr(te, "chunked");
    long length = (long)header_number(p->buf, "Content-Length");
    *end = saved;
    p->r.size = p->chunked || length < 0 ? 0 : (size_t)length;
    p->left = p->chunked ? 1 : (long)p->r.size - (long)more;
    response_keep(p, p->buf + head, p->keep || p->chunked || p->r.status != 200 ? more : 0);
    if (p->chunked && p->body_n >= 5 && !memcmp(p->body + p->body_n - 5, "0\r\n\r\n", 5))
        p->left = 0;
    return true;
}

// 1: the response is whole; 0: more must be waited for; -1: the connection is gone.
static int response_read(struct response *p, int fd, int flags) {
    char sink[32768];
    for (;;) {
        bool head = p->left < 0;
        size_t room = head ? sizeof p->buf - 1 - p->n : sizeof sink;
        ssize_t k = room ? recv(fd, head ? p->buf + p->n : sink, room, flags) : 0;
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return 0;
        if (k <= 0)
            return -1;
        if (head) {
            p->n += (size_t)k;
            if (!response_head(p))
                continue;
        } else {
            if (p->keep || p->chunked || p->r.status != 200)
                response_keep(p, sink, (size_t)k);
            if (!p->chunked)
                p->left -= k;
            else if (p->body_n >= 5 && !memcmp(p->body + p->body_n - 5, "0\r\n\r\n", 5))
                p->left = 0;
        }
        if (p->left > 0)
            continue;
        if (p->chunked)
            response_dechunk(p);
        return p->left == 0 ? 1 : -1;
    }
}

static void send_all(int fd, const char *text, size_t n) {
    while (n) {
        ssize_t k = send(fd, text, n, MSG_NOSIGNAL);
        if (k < 0 && errno != EINTR)
            return; // the reader notices
        if (k > 0) {
            text += k;
            n -= (size_t)k;
        }
    }
}

static int peer_port(int fd) {
    struct sockaddr_in a = {0};
    socklen_t n = sizeof a;
    getpeername(fd, (struct sockaddr *)&a, &n);
    return ntohs(a.sin_port);
}

struct reply client_call(int fd, const char *method, const char *target, const char *body,
                         char **out_body) {
    static struct response p;
    char head[1200];
    size_t n = body ? strlen(body) : 0;
    int h = snprintf(head, sizeof head,
                     "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s%sContent-Length: %zu\r\n\r\n",
                     method, target, peer_port(fd), body ? "Content-Type: application/json" : "",
                     body ? "\r\n" : "", n);
    p.keep = out_body != NULL;
    response_reset(&p);
    send_all(fd, head, (size_t)h);
    send_all(fd, body ? body : "", n);
    if (response_read(&p, fd, 0) != 1)
        bench_die("%s %s: the connection broke", method, target);
    if (out_body) {
        *out_body = p.body;
        p.body = NULL;
    }
    return p.r;
}

json_t *client_json(int port, const char *method, const char *target, const char *body,
                    int *status) {
    char *text = NULL;
    int fd = client_dial(port);
    struct reply r = client_call(fd, method, target, body, &text);
    close(fd);
    json_t *j = json_loads(text ? text : "", 0, NULL);
    free(text);
    if (status)
        *status = r.status;
    return j;
}

// ---- a closed loop of connections ----

struct conn {
    int fd, request;
    double sent, wake; // wake > 0: sleeps until then before it sends `request` again
    struct response p;
};

static bool load_over(const struct load *l, int issued, double start) {
    return issued >= l->requests || (l->seconds > 0 && bench_now() - start > l->seconds);
}

static void load_send(const struct load *l, struct conn *c) {
    char target[400], text[512];
    l->target(c->request, target, sizeof target);
    int n = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", target,
                     l->port);
    response_reset(&c->p);
    c->wake = 0;
    c->sent = bench_now();
    send_all(c->fd, text, (size_t)n);
}

static double problem_retry(const struct response *p) {
    const char *at = p->body ? strstr(p->body, "\"retry_after\":") : NULL;
    return at ? strtod(at + 14, NULL) : -1;
}

// Logs what came; true: this request is to be sent again later.
static bool load_log(struct load *l, struct conn *c, bool lost) {
    struct attempt *a = &l->log[l->nlog++];
    bool refused = !lost && c->p.r.status != 200;
    *a = (struct attempt){.request = c->request,
                          .status = lost ? 0 : c->p.r.status,
                          .sent = c->sent,
                          .done = bench_now(),
                          .retry_after = c->p.r.retry_after,
                          .retry_json = refused ? problem_retry(&c->p) : -1};
    l->lost += lost;
    if (!l->retry || !refused || c->p.r.retry_after < 0)
        return false;
    c->wake = a->done + c->p.r.retry_after;
    return true;
}

static int load_timeout(const struct conn *c, int n) {
    double first = 0, now = bench_now();
    for (int i = 0; i < n; i++)
        if (c[i].wake > 0 && (first == 0 || c[i].wake < first))
            first = c[i].wake;
    return first == 0 ? 60000 : first <= now ? 0 : (int)((first - now) * 1e3) + 1;
}

void load_run(struct load *l) {
    int n = l->connections, issued = 0, open = 0, room = 8 * l->requests + n;
    struct conn *c = calloc((size_t)n, sizeof *c);
    struct pollfd *fds = calloc((size_t)n, sizeof *fds);
    l->log = calloc((size_t)room, sizeof *l->log);
    l->nlog = l->lost = 0;
    if (!c || !fds || !l->log)
        bench_die("out of memory");
    for (int i = 0; i < n; i++)
        c[i].fd = client_dial(l->port);
    double start = bench_now();
    for (int i = 0; i < n; i++) {
        fds[i] = (struct pollfd){.fd = -1, .events = POLLIN};
        if (load_over(l, issued, start)) {
            close(c[i].fd);
            continue;
        }
        c[i].request = issued++;
        fds[i].fd = c[i].fd;
        open++;
        load_send(l, &c[i]);
    }
    while (open && l->nlog < room) {
        int ready = poll(fds, (nfds_t)n, load_timeout(c, n));
        if (!ready && load_timeout(c, n) == 60000) { // a minute of silence: all of them are lost
            l->lost += open;
            break;
        }
        for (int i = 0; i < n; i++) {
            if (fds[i].fd >= 0 && c[i].wake > 0 && c[i].wake <= bench_now())
                load_send(l, &c[i]);
            if (fds[i].fd < 0 || !fds[i].revents || l->nlog >= room)
                continue;
            int rc = response_read(&c[i].p, c[i].fd, MSG_DONTWAIT);
            if (!rc || (rc > 0 && load_log(l, &c[i], false)))
                continue;
            if (rc > 0 && !load_over(l, issued, start)) {
                c[i].request = issued++;
                load_send(l, &c[i]);
                continue;
            }
            if (rc < 0)
                load_log(l, &c[i], true);
            close(c[i].fd);
            fds[i].fd = -1;
            open--;
        }
    }
    for (int i = 0; i < n; i++) {
        if (fds[i].fd >= 0)
            close(fds[i].fd);
        free(c[i].p.body);
    }
    free(c);
    free(fds);
}
