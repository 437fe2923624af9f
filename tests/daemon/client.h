// A driftd process under test and a client of its sockets: started, spoken to, killed. Nothing here
// fails a test by itself; callers judge what comes back.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct daemon {
    const char *binary;
    char dir[256]; // DIR/s is the state folder, DIR/sock the socket, DIR/log what it has said
    pid_t pid;     // 0: none
};
// Starts the binary with these arguments, which end with NULL. The process dies with its parent.
void daemon_exec(struct daemon *d, const char *const *args);
// Starts it with the state folder, socket, recipes of dir and one thread each; further flags end
// with NULL (NULL: none).
void daemon_start(struct daemon *d, const char *const *flags);
bool daemon_wait_ready(struct daemon *d); // up to 20 s: the socket answers /livez
// Signals (0: does not), waits: exit status, or minus the signal.
int daemon_end(struct daemon *d, int sig);
bool daemon_says(const struct daemon *d, const char *word); // since it was started last

struct answer {
    int status; // 0: no whole answer came
    char *head, *body;
    size_t size; // of the body
};
void answer_free(struct answer *a);
// One request and its answer; the connection is closed. body NULL: none. Extra header lines each
// end with \r\n (NULL: none); Host, where it is not localhost, comes first.
int ask_http(const struct daemon *d, struct answer *a, const char *method, const char *path,
             const char *headers, const void *body, size_t size);
// The same over a connected socket, which it closes.
int ask_socket(int fd, struct answer *a, const char *method, const char *path, const char *headers,
               const void *body, size_t size);
int unix_dial(const struct daemon *d); // a connected socket with 20 s of patience, -1: none
// Over TCP on 127.0.0.1: a connected socket with 20 s of patience, -1: none.
int tcp_dial(int port);
int tcp_listen(int *port);                   // on a free port, -1: none
json_t *answer_json(const struct answer *a); // NULL: no JSON
