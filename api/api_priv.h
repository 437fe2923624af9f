// What the files of api/ share: the server, a connection, a request, the route table, and the
// calls that answer a request. Not for outsiders; they include api/api.h.
//
// Locks, in the order in which they may be taken: server.conn_mu, sse.mu, server.gen_mu, a ticket's
// mu. MHD calls suspend on its own thread only, resume from anywhere.
#pragma once

#include "api/api.h"
#include "api/query.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#define API_MAX_LISTENERS 8
#define API_MAX_URI (31 * 1024)
#define API_MAX_HOSTS 32
enum { API_WORKERS = 4, API_MAX_WORKERS = API_WORKERS * API_MAX_LISTENERS }; // threads of MHD

struct api_server;
struct api_req;

// ---- connections (server.c) --------------------------------------------------------------------

enum api_phase { API_PHASE_HEADER, API_PHASE_BODY, API_PHASE_BUSY, API_PHASE_IDLE };

struct api_conn {
    struct api_conn *prev, *next; // list of the server, oldest first
    int fd;
    int worker; // the thread that serves it, -1: unknown
    bool is_unix, tls, evicted;
    struct sockaddr_storage addr;
    enum api_phase phase;
    uint64_t deadline_ns; // of the phase; 0: none
};

// ---- requests ----------------------------------------------------------------------------------

enum api_body { API_BODY_NONE, API_BODY_JSON, API_BODY_UPLOAD };
enum api_req_state { API_REQ_NEW, API_REQ_BODY, API_REQ_WAITING, API_REQ_DONE };

struct api_req {
    struct api_server *srv;
    struct MHD_Connection *mhd;
    struct api_conn *conn;
    const struct api_route *route;
    char id[40];
    char *uri;               // raw, as received
    char *path;              // decoded
    const char *method;      // MHD's
    char seg[2][API_ID_MAX]; // values of {placeholders}
    struct api_query query;
    enum api_req_state state;
    uint64_t start_ns;
    // body
    char *body;
    size_t body_len, body_cap;
    bool body_too_large;
    int upload_fd; // -1: not an upload
    uint64_t upload_bytes, upload_mark;
    char upload_path[256];
    bool upload_failed;
    // answer
    unsigned status;
    struct api_gen *gen;
};

typedef enum MHD_Result api_handler(struct api_req *r);

struct api_param {
    const char *name, *type, *doc; // type: string, integer, number or "a|b|c"
};

enum { API_PUBLIC = 1 /* no token */, API_NO_HEAD = 2 };

struct api_route {
    const char *method, *path; // path with {id} placeholders
    api_handler *fn;
    enum api_body body;
    unsigned flags;
    int status; // of success
    const char *produces;
    const char *summary;
    const struct api_param *params; // ends with a NULL name; NULL: none
};

extern const struct api_route api_routes[];
extern const size_t api_nroutes;

// Matches method and path. NULL: not found, with *allow (size allow_size) empty when no route has
// this path, or the list of its methods for 405. Fills seg.
const struct api_route *api_route_find(const char *method, const char *path,
                                       char seg[2][API_ID_MAX], char *allow, size_t allow_size);

// ---- the server --------------------------------------------------------------------------------

struct api_sse; // sse.c

struct api_server {
    struct api_callbacks cb;
    void *ctx;
    struct MHD_Daemon *mhd[API_MAX_LISTENERS];
    struct api_listener_ctx {
        struct api_server *srv;
        struct api_listener listener;
        bool tls;
    } lis[API_MAX_LISTENERS];
    size_t nlis;
    struct api_config cfg; // limits filled in; string members point into owned copies
    char *upload_dir, *version;
    char *hosts[API_MAX_HOSTS];
    size_t nhosts;
    pthread_mutex_t token_mu;
    char *token; // NULL: open
    struct api_tls *tls;

    pthread_mutex_t conn_mu;
    struct api_conn *conn_first, *conn_last;
    int nconn;
    struct api_worker {
        pthread_t thread;
        int nconn;
        atomic_uint_fast64_t busy_ns; // since when it is in our code; 0: it is not
    } worker[API_MAX_WORKERS];
    int nworkers;

    pthread_mutex_t gen_mu;
    struct api_gen *gens; // waiting tickets
    int ngens;

    struct api_sse *sse;
    pthread_t keeper;
    bool keeper_started;
    atomic_bool closing, stopping;
    atomic_int active; // requests between their first byte and their completion
    atomic_uint_fast64_t next_id;
    uint64_t id_salt;
    atomic_uint_fast64_t requests, r4xx, r5xx, shed, reaped, beat_ns;
    char *openapi; // JSON text
    size_t openapi_len;
};

uint64_t api_now_ns(void); // CLOCK_MONOTONIC
void api_log(struct api_server *s, int level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// server.c and keeper.c
void api_conn_phase(struct api_req *r, enum api_phase phase, uint64_t timeout_ms);
void api_conn_notify(void *cls, struct MHD_Connection *c, void **socket_ctx,
                     enum MHD_ConnectionNotificationCode code);
void *api_keeper_main(void *server);
int api_nudge_prepare(void); // the handler of the keeper's signal; 0, or -1 with errno

// request.c
void *api_req_begin(void *cls, const char *uri, struct MHD_Connection *c);
enum MHD_Result api_req_handle(void *cls, struct MHD_Connection *c, const char *url,
                               const char *method, const char *version, const char *upload_data,
                               size_t *upload_size, void **req_cls);
void api_req_end(void *cls, struct MHD_Connection *c, void **req_cls,
                 enum MHD_RequestTerminationCode code);
const char *api_header(struct api_req *r, const char *name);

// security.c: each 0, or -1 with the problem filled
int api_check_framing(struct api_req *r, const char *version, struct api_problem *p);
int api_check_host(struct api_req *r, struct api_problem *p);
int api_check_origin(struct api_req *r, struct api_problem *p);
int api_check_token(struct api_req *r, struct api_problem *p);
bool api_token_equal(const char *a, const char *b); // constant time in the length of b

// tls.c
int api_tls_create(const char *cert, const char *key, struct api_tls **out, char *err, size_t n);
int api_tls_replace(struct api_tls *t, const char *cert, const char *key, char *err, size_t n);
void api_tls_free(struct api_tls *t);
// Adds the options of a TLS listener; *n counts entries of ops.
void api_tls_options(struct api_tls *t, struct MHD_OptionItem *ops, int *n);

// respond.c: each queues one response and returns MHD's result. Stolen arguments are released.
enum MHD_Result api_send(struct api_req *r, unsigned status, struct MHD_Response *stolen);
enum MHD_Result api_send_problem(struct api_req *r, const struct api_problem *p);
enum MHD_Result api_send_error(struct api_req *r, int status, const char *type, const char *fmt,
                               ...) __attribute__((format(printf, 4, 5)));
enum MHD_Result api_send_json(struct api_req *r, unsigned status, json_t *stolen);
enum MHD_Result api_send_bytes(struct api_req *r, unsigned status, const char *content_type,
                               void *stolen, size_t n);
enum MHD_Result api_send_reply(struct api_req *r, int rc, struct api_reply *reply);
enum MHD_Result api_send_file(struct api_req *r, struct api_file *f); // closes f->fd
enum MHD_Result api_not_built(struct api_req *r);                     // 501
// True when the Accept header (or its absence) allows the media type.
bool api_accepts(struct api_req *r, const char *type);

// problem.c
json_t *api_problem_json(const struct api_problem *p, const char *instance);
const char *api_status_title(int status);
// "; did you mean `x`?" for the nearest of names (NULL-terminated), or "" when none is near.
const char *api_nearest(const char *word, const char *const *names, char *buf, size_t n);

// params.c: typed query parameters and JSON bodies; each 0, or -1 with a field error added
int api_q_int(struct api_req *r, const char *key, int64_t min, int64_t max, int64_t *out,
              struct api_problem *p);
int api_q_num(struct api_req *r, const char *key, double min, double max, double *out,
              struct api_problem *p);
// *out: index in the list "a|b|c"; unchanged when the key is absent.
int api_q_enum(struct api_req *r, const char *key, const char *list, int *out,
               struct api_problem *p);
int api_q_known(struct api_req *r, struct api_problem *p); // no unknown keys, by the route
int api_parse_num(const char *text, double *out);
int api_parse_int(const char *text, int64_t *out);
int api_parse_page(struct api_req *r, struct api_page *out, struct api_problem *p);
// The request's body as an object whose keys are all in `keys` (NULL-terminated).
json_t *api_body_object(struct api_req *r, const char *const *keys, struct api_problem *p);
// A string member of at most max bytes; NULL when absent or null.
int api_body_str(const json_t *o, const char *key, size_t max, const char **out,
                 struct api_problem *p);

// jobs.c: the members of a POST /v1/jobs body; errors go to p
void api_parse_job(json_t *o, struct api_job_create *in, struct api_problem *p);

// generate.c
void api_gen_tick(struct api_server *s, uint64_t now, bool poll_sockets);
void api_gen_shutdown(struct api_server *s); // answers every waiting request 503
enum MHD_Result api_gen_resume(struct api_req *r);
void api_gen_drop(struct api_req *r); // the request ended without its result

// genparse.c: fills `out` (images malloc'ed) from the query; checks it against the model
int api_gen_parse(struct api_req *r, struct api_gen_request *out, struct api_problem *p);

// sse.c
int api_sse_create(struct api_server *s);
void api_sse_free(struct api_server *s);
void api_sse_tick(struct api_server *s, uint64_t now);
void api_sse_close(struct api_server *s); // ends every stream
int api_sse_count(struct api_server *s);

// openapi.c
char *api_openapi_text(struct api_server *s, size_t *len);

// Handlers, one a route.
api_handler api_h_generate, api_h_events, api_h_job_events;
api_handler api_h_job_create, api_h_job_list, api_h_job_get, api_h_job_patch, api_h_job_remove,
    api_h_job_stop, api_h_job_pause, api_h_job_resume, api_h_job_checkpoint, api_h_job_metrics;
api_handler api_h_ckpt_list, api_h_ckpt_get, api_h_ckpt_activate, api_h_ckpt_file,
    api_h_ckpt_import;
api_handler api_h_config_list, api_h_config_get, api_h_config_schema;
api_handler api_h_job_field;
api_handler api_h_sample_list, api_h_sample_png;
api_handler api_h_eval_list, api_h_eval_get, api_h_eval_create, api_h_eval_csv, api_h_eval_curve;
api_handler api_h_status, api_h_livez, api_h_readyz, api_h_prometheus, api_h_openapi, api_h_backup;
// page.c: NULL route handler for assets; answers `/` and the asset table
bool api_page_find(struct api_server *s, const char *path);
api_handler api_h_page;
