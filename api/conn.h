// Connections: their deadlines and limits, and the threads of libmicrohttpd that serve them.
#pragma once

#include "api/server.h"

#include <sys/socket.h>

enum api_phase { API_PHASE_HEADER, API_PHASE_BODY, API_PHASE_BUSY, API_PHASE_IDLE };

struct api_conn {
    struct api_conn *prev, *next; // list of the server, oldest first
    int fd;
    int worker; // the thread that serves it, -1: unknown
    bool is_unix, any_address, tls, evicted;
    struct sockaddr_storage addr;
    enum api_phase phase;
    uint64_t deadline_ns;          // of the phase; 0: none
    size_t unsent;                 // memory of its answer, if that is a large one and it is not cut
    atomic_uint_fast64_t moved_ns; // when some of that was sent last
};

// MHD's notification of connections; cls: struct api_listener_ctx.
void api_conn_notify(void *cls, struct MHD_Connection *c, void **socket_ctx,
                     enum MHD_ConnectionNotificationCode code);
// Enters a phase; it must end within timeout_ms (0 or API_PHASE_BUSY: no deadline).
void api_conn_phase(struct api_server *s, struct api_conn *c, enum api_phase phase,
                    uint64_t timeout_ms);
void api_conn_reap(struct api_server *s, uint64_t now); // cuts those past their deadline

// A large answer is in memory until its client has read it. All together have an upper limit
// (api_config.max_unsent); at it the connections whose answers have not advanced for
// api_config.stall_ms are cut. api_conn_hold: false when there is no room for `bytes` even so,
// unless it is the only one or `anyway`. Any thread, while a request of the connection lasts.
enum { API_ANSWER_SMALL = 64 * 1024 }; // bytes up to which an answer is not a large one
bool api_conn_hold(struct api_server *s, struct api_conn *c, size_t bytes, bool anyway);
void api_conn_advance(struct api_conn *c);                      // some of it was sent
void api_conn_unhold(struct api_server *s, struct api_conn *c); // it is out of memory

int api_nudge_prepare(void);                                // 0, or -1 with errno
void api_nudge(struct api_server *s);                       // wakes threads that may have stopped
uint64_t api_conn_beat(struct api_server *s, uint64_t now); // the time of the slowest thread
