// A stand-in for the daemon behind api/api.h, and a raw HTTP client, shared by the tests of api/.
#pragma once

#include "api/api.h"

#include <pthread.h>
#include <stdatomic.h>

enum fake_mode {
    FAKE_AT_ONCE,
    FAKE_LATER,
    FAKE_HOLD,
    FAKE_FULL,
    FAKE_DRAINING,
    FAKE_BLOCK,      // status
    FAKE_BLOCK_JOBS, // job_create, until the mode changes
    FAKE_BLOCK_READS // metrics_wide, until the mode changes
};

enum { FAKE_IMAGES = 64 };

struct fake {
    struct api_server *srv;
    int port;
    char unix_path[108];
    char dir[64];
    atomic_int mode, delay_ms; // of generate, and of status with FAKE_BLOCK
    atomic_int blocked, submitted, completed, abandoned;
    atomic_int answer_bytes; // of a npy; 0: one value
    pthread_mutex_t mu;
    pthread_t served_by[1024]; // the thread that took generate's seed
    struct api_gen *held[256];
    int nheld;
    char last_job[4096];  // fingerprint of the last job_create
    char last_key[256];   // its idempotency key
    char imported[65536]; // contents of the last import
    int last_action, last_limit;
    struct api_gen_request last_gen; // scalars only
    struct api_gen_image last_images[FAKE_IMAGES];
    atomic_int job_step, job_ended; // of j1; ended: 0 no, 1 completed, 2 failed, 3 stopped
    uint64_t boot;
    int events_asked;
    int stored; // events that the store has of boot 6; 0: one after each id
};

// Starts a server on a free port of 127.0.0.1 (and on a unix socket). `edit` may change the config.
void fake_start(struct fake *f, void (*edit)(struct api_config *c));
void fake_stop(struct fake *f);
// The server of a file of tests, `f`, with the setup and teardown of its group.
#define FAKE_SERVER(edit)                                                                          \
    static struct fake f;                                                                          \
    static int setup(void **state) {                                                               \
        (void)state;                                                                               \
        fake_start(&f, edit);                                                                      \
        return 0;                                                                                  \
    }                                                                                              \
    static int teardown(void **state) {                                                            \
        (void)state;                                                                               \
        fake_stop(&f);                                                                             \
        return 0;                                                                                  \
    }
// Completes everything held; `check` asks api_gen_abandoned first.
void fake_release(struct fake *f);

struct reply {
    int status;
    char *head; // status line and headers
    char *body;
    size_t body_len;
};

int http_connect(const struct fake *f);
// Sends raw bytes on a new connection and reads until the connection ends (the request should say
// Connection: close) or nothing comes for a minute.
struct reply http_raw(const struct fake *f, const char *bytes, size_t n);
// One request with Host and Connection: close; `extra` holds further header lines ("A: b\r\n").
struct reply http_do(const struct fake *f, const char *method, const char *target,
                     const char *extra, const char *body);
void reply_free(struct reply *r);
// Value of a header, in a static buffer of the calling thread; NULL when absent.
const char *reply_header(const struct reply *r, const char *name);
// Reads until `needle` has been seen or ms have passed; 1 when seen. Appends to buf.
int read_until(int fd, char *buf, size_t size, const char *needle, int ms);
