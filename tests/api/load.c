// A bounded HTTP load, for measuring and for the tests: N requests over C keep-alive connections
// from one epoll thread, or I idle connections held open beside them.
//   api-load PORT TARGET CONNECTIONS REQUESTS [IDLE]
// Prints rate, latency percentiles, statuses, the Retry-After values seen and what was lost.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct conn {
    int fd;
    double sent;
    char buf[8192]; // head of the response
    size_t n;
    long left; // bytes of the body still to come, -1: in the head
};

struct run {
    int ep, port, issued, done, lost, wanted;
    char request[1024];
    size_t request_len;
    double *latency;
    int status[600];
    double retry_min, retry_max, retry_sum;
    int retries;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int dial(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a)) {
        close(fd);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void issue(struct run *r, struct conn *c) {
    if (r->issued >= r->wanted) {
        close(c->fd);
        c->fd = -1;
        return;
    }
    r->issued++;
    c->n = 0;
    c->left = -1;
    c->sent = now();
    if (send(c->fd, r->request, r->request_len, MSG_NOSIGNAL) != (ssize_t)r->request_len)
        c->left = -2; // its end will be seen as a loss
}

static void finish(struct run *r, struct conn *c) {
    int status = atoi(c->buf + 9);
    const char *retry = strcasestr(c->buf, "\r\nRetry-After: ");
    r->latency[r->done++] = now() - c->sent;
    if (status > 0 && status < 600)
        r->status[status]++;
    if (retry) {
        double v = atof(retry + 15);
        r->retry_min = r->retries && r->retry_min < v ? r->retry_min : v;
        r->retry_max = r->retry_max > v ? r->retry_max : v;
        r->retry_sum += v;
        r->retries++;
    }
    issue(r, c);
}

static void lose(struct run *r, struct conn *c) {
    r->lost++;
    close(c->fd);
    c->fd = -1;
}

static void readable(struct run *r, struct conn *c) {
    char body[65536];
    ssize_t k;
    if (c->left >= 0) {
        k = recv(c->fd, body, c->left < (long)sizeof body ? (size_t)c->left : sizeof body, 0);
        if (k <= 0) {
            lose(r, c);
            return;
        }
        c->left -= k;
    } else {
        k = recv(c->fd, c->buf + c->n, sizeof c->buf - 1 - c->n, 0);
        if (k <= 0) {
            lose(r, c);
            return;
        }
        c->n += (size_t)k;
        c->buf[c->n] = '\0';
        char *end = strstr(c->buf, "\r\n\r\n"), *len = strcasestr(c->buf, "\r\nContent-Length: ");
        if (!end)
            return;
        c->left = (len ? atol(len + 18) : 0) - (long)(c->buf + c->n - (end + 4));
    }
    if (c->left <= 0)
        finish(r, c);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(struct run *r, double seconds) {
    qsort(r->latency, (size_t)r->done, sizeof *r->latency, by_value);
    printf("%d answered in %.3f s, %.1f/s, %d lost\n", r->done, seconds, r->done / seconds,
           r->lost);
    if (r->done)
        printf("latency ms: p50 %.3f  p95 %.3f  p99 %.3f  max %.3f\n",
               1e3 * r->latency[r->done / 2], 1e3 * r->latency[(int)(0.95 * r->done)],
               1e3 * r->latency[(int)(0.99 * r->done)], 1e3 * r->latency[r->done - 1]);
    for (int i = 0; i < 600; i++)
        if (r->status[i])
            printf("status %d: %d\n", i, r->status[i]);
    if (r->retries)
        printf("Retry-After s: min %.0f  mean %.1f  max %.0f\n", r->retry_min,
               r->retry_sum / r->retries, r->retry_max);
}

static void loop(struct run *r, struct conn *conns, int n) {
    struct epoll_event ev[256];
    for (int i = 0; i < n; i++) {
        conns[i].fd = dial(r->port);
        if (conns[i].fd < 0) {
            r->lost++;
            continue;
        }
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = &conns[i]};
        epoll_ctl(r->ep, EPOLL_CTL_ADD, conns[i].fd, &e);
        issue(r, &conns[i]);
    }
    while (r->done + r->lost < r->wanted) {
        int k = epoll_wait(r->ep, ev, 256, 30000);
        if (k <= 0) {
            fprintf(stderr, "no answer for 30 s\n");
            break;
        }
        for (int i = 0; i < k; i++)
            readable(r, ev[i].data.ptr);
    }
}

int main(int argc, char **argv) {
    struct rlimit lim;
    if (argc < 5) {
        fprintf(stderr, "usage: api-load PORT TARGET CONNECTIONS REQUESTS [IDLE]\n");
        return 2;
    }
    if (!getrlimit(RLIMIT_NOFILE, &lim)) {
        lim.rlim_cur = lim.rlim_max;
        setrlimit(RLIMIT_NOFILE, &lim);
    }
    int n = atoi(argv[3]), idle = argc > 5 ? atoi(argv[5]) : 0, refused = 0;
    struct run r = {
        .ep = epoll_create1(EPOLL_CLOEXEC), .port = atoi(argv[1]), .wanted = atoi(argv[4])};
    r.request_len =
        (size_t)snprintf(r.request, sizeof r.request,
                         "POST %s HTTP/1.1\r\nHost: localhost:%d\r\n\r\n", argv[2], r.port);
    r.latency = calloc((size_t)r.wanted + 1, sizeof *r.latency);
    struct conn *conns = calloc((size_t)n, sizeof *conns);
    if (r.ep < 0 || !r.latency || !conns || n < 1 || r.request_len >= sizeof r.request)
        return 1;
    for (int i = 0; i < idle; i++)
        refused += dial(r.port) < 0;
    if (idle)
        printf("%d idle connections asked for, %d refused\n", idle, refused);
    double start = now();
    loop(&r, conns, n);
    report(&r, now() - start);
    return r.lost > 0;
}
