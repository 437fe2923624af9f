// Followers of /v1/events, for serve_bench (serve_load.h).
#include "tests/bench/serve_load.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void follower_open(struct follower *f, int port) {
    char req[128];
    int n = snprintf(req, sizeof req,
                     "GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                     "Accept: text/event-stream\r\n\r\n",
                     port);
    *f = (struct follower){.fd = client_dial(port), .next_step = -1};
    if (send(f->fd, req, (size_t)n, MSG_NOSIGNAL) != n)
        bench_die("GET /v1/events: the connection broke");
    fcntl(f->fd, F_SETFL, O_NONBLOCK);
}

// One line of the stream. Chunk sizes stand on lines of their own and mean nothing here.
static void follower_line(struct follower *f, const char *line) {
    const char *step0 = strncmp(line, "data: {\"job\"", 12) ? NULL : strstr(line, "\"step0\":");
    const char *rows = step0 ? strstr(step0, "\"rows\":[[") : NULL;
    if (!rows)
        return;
    long n = 1;
    for (const char *p = rows; (p = strstr(p, "],[")); p += 3)
        n++;
    long long first = strtoll(step0 + 8, NULL, 10);
    if (f->next_step >= 0 && first != f->next_step)
        f->gaps += labs((long)(first - f->next_step));
    f->next_step = first + n;
    f->events++;
    f->rows += n;
}

// Reads what is there; an event may arrive in chunks whose seams fall anywhere, so the framing is
// taken off first.
static void follower_pull(struct follower *f) {
    char in[32768];
    ssize_t k;
    while ((k = recv(f->fd, in, sizeof in, 0)) > 0) {
        if (f->n + (size_t)k + 1 > f->cap) {
            f->cap = 2 * (f->n + (size_t)k + 1);
            f->buf = realloc(f->buf, f->cap);
            if (!f->buf)
                bench_die("out of memory");
        }
        memcpy(f->buf + f->n, in, (size_t)k);
        f->n += (size_t)k;
    }
    if (k == 0)
        f->ended = true;
}

static void follower_text(struct follower *f, const char *text, size_t n) {
    if (f->len + n + 1 > f->line_cap) {
        f->line_cap = 2 * (f->len + n + 1);
        f->line = realloc(f->line, f->line_cap);
        if (!f->line)
            bench_die("out of memory");
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i] != '\n') {
            f->line[f->len++] = text[i];
            continue;
        }
        f->line[f->len] = '\0';
        follower_line(f, f->line);
        f->len = 0;
    }
}

// Takes whole chunks off the front of buf, and hands their lines on.
static void follower_parse(struct follower *f) {
    size_t at = 0;
    if (f->skip == 0) { // the head of the response
        char *end = f->n ? memmem(f->buf, f->n, "\r\n\r\n", 4) : NULL;
        if (!end)
            return;
        at = f->skip = (size_t)(end - f->buf) + 4;
    }
    for (;;) {
        char *eol = f->n > at ? memmem(f->buf + at, f->n - at, "\r\n", 2) : NULL;
        if (!eol)
            break;
        size_t size = strtoul(f->buf + at, NULL, 16), body = (size_t)(eol - f->buf) + 2;
        if (body + size + 2 > f->n)
            break;
        follower_text(f, f->buf + body, size);
        at = body + size + 2;
    }
    memmove(f->buf, f->buf + at, f->n - at);
    f->n -= at;
}

void followers_read(struct follower *f, int n, double seconds) {
    struct pollfd fds[64];
    double end = bench_now() + seconds, left;
    while ((left = end - bench_now()) > 0) {
        for (int i = 0; i < n; i++)
            fds[i] = (struct pollfd){.fd = f[i].ended ? -1 : f[i].fd, .events = POLLIN};
        if (poll(fds, (nfds_t)n, (int)(left * 1e3) + 1) <= 0)
            continue;
        for (int i = 0; i < n; i++)
            if (fds[i].revents) {
                follower_pull(&f[i]);
                follower_parse(&f[i]);
            }
    }
}

void follower_close(struct follower *f) {
    close(f->fd);
    free(f->buf);
    free(f->line);
    f->buf = f->line = NULL;
}
