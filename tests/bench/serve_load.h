// What serve_bench needs of HTTP, from one thread over 127.0.0.1: single calls, a closed loop of
// keep-alive connections (with retries after what Retry-After says), followers of /v1/events.
// Plain sockets: a client that costs much takes the processor from the daemon it measures.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

double bench_now(void); // seconds, monotonic
double bench_wall(void);
void bench_sleep(double seconds);
void bench_die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

struct reply {
    int status;
    double retry_after;          // header, seconds; -1: none
    double compute_ms, queue_ms; // Driftd-* headers; -1: none
    size_t size;                 // of the body
};
// A keep-alive connection used for one call after the other. Ends the bench when it breaks.
int client_dial(int port);
// body: of the request, NULL for none. out_body: malloc'd, NUL-terminated; NULL: dropped.
struct reply client_call(int fd, const char *method, const char *target, const char *body,
                         char **out_body);
// One call on its own connection, the answer as JSON (NULL when it is none).
json_t *client_json(int port, const char *method, const char *target, const char *body,
                    int *status);

struct attempt {
    int request, status; // status 0: lost
    double sent, done, retry_after, retry_json;
};
struct load {
    int port, connections, requests;
    double seconds;                                      // requests stop after so long; 0: no limit
    bool retry;                                          // 429 and 503 come again after Retry-After
    void (*target)(int request, char *out, size_t room); // path and query of a request
    struct attempt *log;                                 // in order of completion; free()
    int nlog, lost;
};
void load_run(struct load *l);

struct follower {
    int fd;
    char *buf;           // received, chunks not yet taken off
    size_t n, cap, skip; // skip: length of the response's head, 0 before it is whole
    char *line;          // the event line being put together
    size_t len, line_cap;
    long events, rows, gaps; // gaps: rows that are missing between two events
    long long next_step;     // -1: not known yet
    bool ended;
};
void follower_open(struct follower *f, int port);
void followers_read(struct follower *f, int n, double seconds);
void follower_close(struct follower *f);
