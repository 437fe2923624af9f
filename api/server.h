// The running server: what its threads share. Not for outsiders; they include api/api.h.
//
// The files of api/ form layers; each calls those before it and none after it (a test checks this):
//   ground, query        clock, log, text; URL decoding
//   negotiate, problem   header fields; RFC 9457
//   conn, tls            connections and their limits; certificates
//   req, params, tokens  one request: its data; its query and JSON body; what its token allows
//   respond, file        answers
//   durations            histograms of requests
//   handlers             jobs, checkpoints, datasets, metrics, generate, sse, info, page
//   routes, openapi      the table of handlers, and what follows from it
//   target, security     the gate in front of the handlers
//   later                handlers on threads of their own
//   request              from the first byte to the end of a request
//   keeper, server       housekeeping thread; start and stop
//
// Locks, in the order in which they may be taken: server.conn_mu, sse.mu, server.gen_mu, a ticket's
// mu; server.token_mu last. MHD calls suspend on its own thread only, resume from anywhere.
#pragma once

#include "api/api.h"
#include "api/ground.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#define API_MAX_LISTENERS 8
enum { API_WORKERS = 4, API_MAX_WORKERS = API_WORKERS * API_MAX_LISTENERS }; // threads of MHD

struct api_conn;      // conn.h
struct api_gen;       // generate.c
struct api_durations; // durations.h
struct api_later;     // later.c
struct api_sse;       // sse.c
struct api_tls;       // tls.c
struct api_tokens;    // tokens.h

struct api_server {
    struct api_callbacks cb;
    void *ctx;
    struct api_logger log;
    struct MHD_Daemon *mhd[API_MAX_LISTENERS];
    struct api_listener_ctx {
        struct api_server *srv;
        struct api_listener listener;
        bool tls, any_address; // bound to 0.0.0.0 or [::]
    } lis[API_MAX_LISTENERS];
    size_t nlis;
    int mhd_limit;         // connections of one listener, for libmicrohttpd
    struct api_config cfg; // limits filled in; of its strings only the copies below are used
    char *upload_dir, *version;
    char **hosts; // [nhosts]
    size_t nhosts;
    pthread_mutex_t token_mu;
    struct api_tokens *tokens; // NULL: open
    struct api_tls *tls;

    pthread_mutex_t conn_mu;
    struct api_conn *conn_first, *conn_last;
    int nconn;
    size_t unsent; // memory of large answers, of all connections
    struct api_worker {
        pthread_t thread;
        int nconn;
        atomic_uint_fast64_t busy_ns; // since when it has been in our code; 0: it is not
    } worker[API_MAX_WORKERS];
    int nworkers;

    pthread_mutex_t gen_mu;
    struct api_gen *gens; // waiting tickets
    int ngens;

    struct api_sse *sse;
    struct api_later *later;
    pthread_t keeper;
    bool keeper_started;
    atomic_bool closing, stopping;
    atomic_int active; // requests between their first byte and their completion
    atomic_uint_fast64_t next_id;
    uint64_t id_salt;
    atomic_uint_fast64_t requests, r4xx, r503, r5xx, shed, limited, reaped, beat_ns;
    struct api_durations *durations; // of requests, by route
    char *openapi;                   // JSON text
    size_t openapi_len;
};

// tls.c
int api_tls_create(const char *cert, const char *key, struct api_tls **out, char *err, size_t n);
int api_tls_replace(struct api_tls *t, const char *cert, const char *key, char *err, size_t n);
void api_tls_free(struct api_tls *t);
// Adds the options of a TLS listener; *n counts entries of ops.
void api_tls_options(struct api_tls *t, struct MHD_OptionItem *ops, int *n);

// keeper.c
void *api_keeper_main(void *server);
