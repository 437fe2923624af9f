// One request and its route: the data that the gate, the handlers and the answers share.
#pragma once

#include "api/conn.h"
#include "api/problem.h"
#include "api/query.h"
#include "api/server.h"

#define API_MAX_URI (31 * 1024)
#define API_PREFIX_MAX 200 // bytes of X-Forwarded-Prefix

struct api_req;
typedef enum MHD_Result api_handler(struct api_req *r);

struct api_param {
    // type: string, integer, number or "a|b|c", then, as far as they are fixed, " LOW..HIGH" and
    // " =DEFAULT", for the description of the API: "integer 1..1000 =50".
    const char *name, *type, *doc;
};

// UPLOAD: bytes for a file, or JSON; BYTES: bytes for a file alone.
// GENERATE: none, JSON, or bytes that stay in memory.
enum api_body { API_BODY_NONE, API_BODY_JSON, API_BODY_UPLOAD, API_BODY_BYTES, API_BODY_GENERATE };
#define API_MAX_NOISE ((size_t)16 << 20) // bytes of a body of noise
enum { API_BODY_SMALL = 64 * 1024 };     // bodies up to this size are always read
enum {
    API_PUBLIC = 1, // no token
    API_NO_HEAD = 2,
    API_WRITES = 4,      // changes the database, which another process may hold: later.h
    API_LONG = 8,        // takes as long as a file is large: later.h
    API_READS = 16,      // computes over much of the database: later.h
    API_LONG_ASKED = 64, // API_LONG where the request has query parameters
    API_GENERATES = 128, // images: what the scope `generate` allows
    API_ADMIN = 256      // needs the scope `admin`, also when it reads
};

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

enum { API_LATER_NOT, API_LATER_RUNS, API_LATER_DONE }; // api_req.later
enum api_req_state { API_REQ_NEW, API_REQ_BODY, API_REQ_WAITING, API_REQ_DONE };

struct api_req {
    struct api_server *srv;
    struct MHD_Connection *mhd;
    struct api_conn *conn;
    const struct api_route *route;
    char id[40];
    char *uri;               // raw, as received
    char *path;              // decoded
    char *host;              // authority of a target in absolute form; NULL: the Host header counts
    const char *method;      // MHD's
    char seg[2][API_ID_MAX]; // values of {placeholders}
    struct api_query query;
    enum api_req_state state;
    uint64_t start_ns;
    // body
    char *body;
    size_t body_len, body_cap;
    size_t body_max;
    size_t held;        // memory that counts for it: api_hold
    bool body_is_bytes; // kept in memory: noise
    bool body_too_large;
    bool body_refused; // there was no memory for it
    int upload_fd;     // -1: not an upload
    uint64_t upload_bytes, upload_mark, upload_checked;
    char *upload_path;
    bool upload_failed;
    uint64_t token; // number of the token it came with, 0: none (tokens.h)
    // answer
    unsigned status;
    struct api_gen *gen;
    bool limited;                   // refused: its token makes too many requests
    bool openai;                    // answer as OpenAI's image API
    char size[24];                  // as asked for in it, or ""
    void (*file_closed)(void *arg); // api_file.closed of the file that it sends, or NULL
    void *file_arg;
    // later.c
    atomic_int later;
    struct api_req *later_next;
    // What was sent before MHD may queue it (see api_send), with `status`.
    bool early; // no handler runs yet, and no body follows
    struct MHD_Response *kept;
};

struct api_req *api_req_new(struct api_server *s, const char *uri, struct MHD_Connection *c);
void api_req_free(struct api_req *r); // removes an upload that nobody took

// Bodies in memory, of all requests together, have an upper limit (api_config.max_held), which
// small ones may pass. api_hold: false when the request's body may not take `bytes` in all; else
// they count until the request ends, or until whoever has taken over r->held calls api_unhold. Any
// thread.
bool api_hold(struct api_req *r, size_t bytes);
void api_unhold(size_t bytes);
void api_req_drop_body(struct api_req *r); // frees it

const char *api_header(struct api_req *r, const char *name); // NULL when absent
// All lines of a header that holds a list, as one (RFC 9110, 5.3): malloc'ed. NULL when absent.
char *api_header_list(struct api_req *r, const char *name);
const char *api_host(struct api_req *r);               // of the target, else the Host header
bool api_accepts(struct api_req *r, const char *type); // by the Accept header
// The path that a proxy removed in front of ours (X-Forwarded-Prefix), "" when there is none.
const char *api_prefix(struct api_req *r);
// If-Match and If-None-Match against the entity tag of what would be sent (without quotes; "": it
// has none). 0: go on; 304 or 412: answer this.
int api_precondition(struct api_req *r, const char *etag);
