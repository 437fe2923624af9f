// The seam between HTTP (api/) and the rest of driftd (daemon/): plain messages, callbacks that the
// daemon implements, and the few calls it makes into a running server. api/ knows no engine type,
// the daemon knows no HTTP.
//
// Who owns what. Strings in a request live as long as the call (or the ticket). json_t in a reply
// is a new reference that api takes over. Bytes and descriptors handed over belong to the receiver.
// Threads. Callbacks run on HTTP worker threads, several at once; they may take milliseconds (a
// SQLite read) and must never wait for a writer, a training step or a batch. The callbacks of
// routes that change something (jobs, activation), that read whole files (import, backup) or that
// compute over much of the database (tables, curves, plots) run on threads of their own with the
// connection suspended: they may wait. Calls into the server
// (api_publish*, api_gen_*) are allowed from any thread, also from inside a callback.
// Errors. A callback returns 0, or -1 with `problem` filled by api_problem_set (a client's fault or
// a state that refuses, never a reason to end the process). A NULL callback answers 501.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define API_ID_MAX 64 // job, checkpoint, sample and eval ids: [A-Za-z0-9._-], 1..63 bytes
#define API_PROBLEM_ERRORS 24
#define API_GEN_MAX_IMAGES 4096 // per request; the model's max_n is usually lower

// ---------------------------------------------------------------------------------------------
// Problems (RFC 9457)

struct api_field_error {
    char field[96];    // "class", "config.optim.lr"
    char message[256]; // what was expected
};

struct api_problem {
    int status;         // HTTP status, 400..599
    char type[48];      // slug: "queue-full"; sent as "urn:driftd:problem:queue-full"
    char detail[512];   // a sentence a user can act on
    double retry_after; // seconds, > 0: Retry-After (whole seconds, 1 at least) and the member
                        // retry_after
    size_t nerrors;
    struct api_field_error errors[API_PROBLEM_ERRORS];
};

// Fills status, type and detail, keeps nothing else; returns -1 so that a callback can
// `return api_problem_set(...)`.
int api_problem_set(struct api_problem *p, int status, const char *type, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
// Appends one field error; beyond API_PROBLEM_ERRORS they are dropped. Returns -1 as well.
int api_problem_field(struct api_problem *p, const char *field, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// Appends the field errors of `more`, but for fields that p has an error of.
void api_problem_more(struct api_problem *p, const struct api_problem *more);

// ---------------------------------------------------------------------------------------------
// Replies of the plain (synchronous) callbacks

struct api_reply {
    int status;            // 0: the route's own (200, 201, 202 or 204)
    json_t *body;          // new reference, api decrefs; NULL: empty body
    char location[256];    // Location header, when not empty
    char next_cursor[128]; // lists: cursor of the next page; api writes the Link header
    bool replayed;         // jobs: the idempotency key was known; sends Idempotency-Replayed: true
    struct api_problem problem;
};

// A file to send: HEAD, Range and conditions are api's.
struct api_file {
    int fd;                // open for reading, seekable; api closes it
    uint64_t size;         // bytes from offset 0
    char etag[80];         // without quotes (a sha256 will do); empty: none
    char content_type[64]; // "image/png", "application/octet-stream"
    char filename[128];    // for Content-Disposition: attachment; empty: inline
    bool immutable;        // Cache-Control: immutable, a year
    // Called when fd is no longer read, where the file was given without an error. NULL: nothing.
    void (*closed)(void *arg);
    void *arg;
};

// A model for other programs: GET /v1/checkpoints/{id}/file with parameters.
#define API_EXPORT_FORMATS "safetensors|onnx|pytorch"
enum api_weights { API_WEIGHTS_EMA, API_WEIGHTS_RAW };
struct api_export {
    int format; // index in API_EXPORT_FORMATS
    enum api_weights weights;
};

// ---------------------------------------------------------------------------------------------
// Generate

// API_APNG: a walk as an animation. API_OPENAI: JSON as OpenAI's image API has it.
enum api_format { API_PNG, API_JSON, API_ZIP, API_NPY, API_APNG, API_OPENAI };
enum api_guidance { API_GUIDANCE_ONE_STEP, API_GUIDANCE_TWO_PASS };

// What the model of a checkpoint accepts; the parser checks ranges against it.
struct api_model {
    char checkpoint[API_ID_MAX]; // what the word stands for now
    int classes;                 // labels 0..classes-1
    const char *const *names;    // [classes] or NULL; valid as long as the server runs or until
                                 // `release` is called
    void (*release)(struct api_model *m); // called once the request has been parsed; may be NULL
    void *owner;                          // for release
    double cfg_min, cfg_max, cfg_default;
    int max_n;                   // images per request
    int width, height, channels; // of one image
    int plot_side;               // > 0: images are points, shown as square plots of so many pixels
    bool two_pass;               // the model has a null class, guidance=two-pass is possible
    size_t noise_count;          // values of an image's noise; 0: not known yet
};

// One image of a request. Its bytes depend on (checkpoint, seed, index, label, cfg) alone.
struct api_gen_image {
    int32_t label;  // class index, or -1: random, to be drawn from (seed, index)
    float cfg;      // guidance scale
    uint32_t index; // noise stream under the request's seed; equal for the rows of a sweep
    float walk;     // where on the way to the noise of seed2: 0 to 1
};

struct api_gen_request {
    char request_id[40];
    struct api_gen_image *images; // [n]; freed with the ticket
    int n;
    uint64_t seed;  // drawn by api when the client gave none (53 bits, fits JSON)
    int cols, rows; // grid, cols * rows >= n
    int scale;      // nearest-neighbour magnification of the PNG, >= 1
    enum api_format format;
    char checkpoint[API_ID_MAX]; // "served", "live", "latest" or an id
    enum api_guidance guidance;
    bool raw;           // the weights themselves, not their average
    bool scaled;        // the noise, by the temperature
    double temperature; // 0 to 10
    int steps;          // of a walk to seed2: images[k * steps ...]; 0: none
    uint64_t seed2;
    float *noise;         // [n, noise_count], the client's own; freed with the ticket. NULL: drawn
    size_t noise_count;   // values per image
    uint64_t received_ns; // CLOCK_MONOTONIC
    uint64_t deadline_ns; // CLOCK_MONOTONIC; past it api has answered 504 by itself
};

// A result, ready to send. PNG carries its own iTXt; api only copies the numbers into headers.
struct api_gen_result {
    void *bytes; // malloc'ed; api frees it
    size_t size;
    const char *content_type; // static string
    char checkpoint[API_ID_MAX];
    int64_t step;
    double queue_ms, compute_ms;
    int batch_size;  // largest batch that held an image of this request
    char served[96]; // what requests without a checkpoint get, and why; sent as Driftd-Served
    char note[200];  // sent as Driftd-Note when not empty
};

struct api_gen; // a ticket: one suspended request

// Valid until api_gen_complete or api_gen_fail.
const struct api_gen_request *api_gen_request(const struct api_gen *g);
// True when nobody waits for the result any more (deadline passed, client gone, server stopping).
// Ask just before dispatching and between the parts of what takes long; then call
// api_gen_fail(g, NULL). Looks at the socket: ~1 us.
bool api_gen_abandoned(struct api_gen *g);
// Exactly one of the two, exactly once for every accepted ticket, from any thread (also before
// `generate` has returned). Takes over result->bytes. The ticket is gone afterwards.
void api_gen_complete(struct api_gen *g, const struct api_gen_result *result);
void api_gen_fail(struct api_gen *g, const struct api_problem *problem); // NULL: abandoned

// ---------------------------------------------------------------------------------------------
// Messages of the other callbacks

struct api_job_create {
    const json_t *config;        // borrowed: string (a recipe's name) or object
    const json_t *overrides;     // borrowed: object {"optim.lr": 1e-3, ...} or NULL
    const char *name;            // or NULL
    const char *kind;            // as given, or NULL: the first of api_config.job_kinds
    int priority;                // -1000..1000, default 0, higher first
    const char *idempotency_key; // or NULL; 1..255 printable bytes
    const char *fingerprint; // canonical text of the body: the same key with another text is 422
    bool check;              // only say what is wrong with the configuration; make nothing
};

struct api_page {
    const char *state;  // filter of jobs, or NULL
    const char *job;    // filter of checkpoints and samples, or NULL
    const char *cursor; // opaque, as given in next_cursor, or NULL
    int limit;          // 1..1000, default 50
};

struct api_job_patch {
    const char *name;    // NULL: unchanged
    const char *notes;   // NULL: unchanged
    const int *priority; // NULL: unchanged; else 409 unless the job is queued
};

struct api_ckpt_patch {
    const char *name, *notes; // NULL: unchanged
    const json_t *tags;       // borrowed: an array of different words; NULL: unchanged
};

enum api_job_action {
    API_JOB_STOP,
    API_JOB_STOP_NOW,
    API_JOB_PAUSE,
    API_JOB_RESUME,
    API_JOB_CHECKPOINT
};

struct api_metrics_query {
    const char *job;
    const char *const *names; // [nnames]; nnames 0: every metric of the job
    size_t nnames;
    int64_t from, to; // steps, inclusive; 0 and INT64_MAX by default
    int max_points;   // buckets per metric; 0: full resolution (raw rows)
};

// One bucket (or one raw row: n <= 1, step_last == step). NaN where no finite value exists.
struct api_metric_bucket {
    const char *name; // valid until the next call; names come one after the other
    int64_t step, step_last;
    double time; // Unix seconds of the last row
    int64_t n, nonfinite;
    double min, max, mean, last;
};

// A running metrics read, ordered by (name, step).
struct api_metrics_cursor {
    void *self;
    // 1: *out filled; 0: end; -1: failed (the response ends early). Called by one thread at a time.
    int (*next)(void *self, struct api_metric_bucket *out);
    void (*close)(void *self);
};

// Metrics of several jobs as one table.
struct api_wide_query {
    const char *const *jobs; // [njobs] ids; njobs 0: every job
    size_t njobs;
    const char *const *names; // [nnames]; nnames 0: those that any of the jobs has
    size_t nnames;
    int64_t from, to; // steps, inclusive; 0 and INT64_MAX by default
    int max_points;   // buckets per metric, of which the means are given; 0: every row
};
struct api_wide_row {
    const char *job, *run; // id and name; all of this lives until the next call
    int64_t step;          // the last one of a bucket
    double time;           // Unix seconds
    const double *value;   // [nnames] of the cursor; NAN: not finite
    const bool *have;      // [nnames]; false: none at this step
};
struct api_wide_cursor {
    void *self;
    const char *const *names; // the columns; live as long as the cursor
    size_t nnames;
    // 1: *out filled; 2: nothing yet, to be called again, as finding the next row takes time; 0:
    // end; -1: failed (the response ends early). Called by one thread at a time.
    int (*next)(void *self, struct api_wide_row *out);
    void (*close)(void *self);
};

struct api_import {
    const char *path;   // absolute for an upload; as given by the client (to be confined by the
                        // daemon to its import roots) otherwise
    bool uploaded;      // path is a temporary file in upload_dir: the callback moves or deletes it
    const char *name;   // or NULL
    const char *config; // recipe's name for files without driftd.config, or NULL
};

// What to read of the evaluations. NULL, NaN and 0: not asked for.
struct api_eval_query {
    const char *job, *eval_job, *checkpoint, *state, *comparable, *data, *weights;
    double alpha;
    int64_t n;
    const char *sort, *cursor; // of lists
    int limit;
    const char *metric;    // of curves
    bool over_alpha;       // curves: alpha along the axis in place of the step
    bool one_per_metric;   // csv: a line per metric in place of a line per run
    int64_t width, height; // of a plot, in pixels
};

struct api_sweep_create {
    const json_t *file;                        // borrowed
    const char *idempotency_key, *fingerprint; // as of api_job_create
    bool check;                                // only say what would run
};
// REMOVE keeps the jobs, REMOVE_ALL removes them as well.
enum api_sweep_action { API_SWEEP_STOP, API_SWEEP_RESUME, API_SWEEP_REMOVE, API_SWEEP_REMOVE_ALL };

struct api_dataset_create {
    const char *name;
    const char *path;      // of the server, to be confined by the daemon; NULL: to be uploaded
    const char *source;    // of an upload: what it is, in the client's words; or NULL
    const json_t *options; // borrowed: an object, or NULL
    bool check;            // only say what is wrong with name (NULL: nothing), path and options
};
struct api_dataset_part {
    const char *path; // a temporary file in upload_dir: the callback moves or deletes it
    int64_t offset;   // of its first byte in the upload
};

// One event out of the log, for replay.
struct api_event {
    uint64_t boot, seq;
    const char *type; // "state", "checkpoint", "eval", "sample", "alert", "dataset"
    const char *job;  // "" when it concerns no job
    const char *data; // JSON text without line breaks
};
typedef void api_event_fn(void *arg, const struct api_event *e);

struct api_callbacks {
    // Generate. describe: 404 for an unknown checkpoint, 503 + retry_after while loading.
    // generate: 0 = accepted, the daemon owes one api_gen_complete/fail; -1 = refused (429 queue
    // full, 503 draining; retry_after from measured throughput), the ticket stays api's.
    int (*describe)(void *ctx, const char *checkpoint, struct api_model *out,
                    struct api_problem *problem);
    int (*generate)(void *ctx, struct api_gen *g, struct api_problem *problem);

    // Jobs. create: 201 + location "/v1/jobs/ID"; remove: 409 unless the job has ended;
    // action: 202, 409 when the state does not allow it. list body: {"jobs": [...]}.
    int (*job_create)(void *ctx, const struct api_job_create *in, struct api_reply *out);
    int (*job_list)(void *ctx, const struct api_page *page, struct api_reply *out);
    int (*job_get)(void *ctx, const char *id, struct api_reply *out);
    int (*job_patch)(void *ctx, const char *id, const struct api_job_patch *in,
                     struct api_reply *out);
    int (*job_remove)(void *ctx, const char *id, struct api_reply *out);
    int (*job_action)(void *ctx, const char *id, enum api_job_action action, struct api_reply *out);

    // The drift field of a two-dimensional toy's last step; 404 when there is none.
    int (*job_field)(void *ctx, const char *id, struct api_reply *out);
    int (*metrics_open)(void *ctx, const struct api_metrics_query *q,
                        struct api_metrics_cursor *out, struct api_problem *problem);
    // Several jobs as one table, rows by job and step; 404 for a job that does not exist.
    int (*metrics_wide)(void *ctx, const struct api_wide_query *q, struct api_wide_cursor *out,
                        struct api_problem *problem);
    // {"alerts": [{"kind", "step", "text", "time"}]}, oldest first.
    int (*job_alerts)(void *ctx, const char *id, struct api_reply *out);

    // Events with (boot, seq) strictly after the given pair and before (boot2, seq2), oldest
    // first, at most `max`; job NULL: all. Returns how many, or -1.
    int (*events_read)(void *ctx, uint64_t boot, uint64_t seq, uint64_t boot2, uint64_t seq2,
                       const char *job, int max, api_event_fn *fn, void *arg);

    // Checkpoints. list body: {"checkpoints": [...]}; import: 201 + location.
    int (*checkpoint_list)(void *ctx, const struct api_page *page, struct api_reply *out);
    int (*checkpoint_get)(void *ctx, const char *id, struct api_reply *out);
    int (*checkpoint_patch)(void *ctx, const char *id, const struct api_ckpt_patch *in,
                            struct api_reply *out);
    // 409 where it is served or in use.
    int (*checkpoint_remove)(void *ctx, const char *id, struct api_reply *out);
    int (*checkpoint_activate)(void *ctx, const char *id, struct api_reply *out);
    // What requests without a checkpoint get: {"mode", "checkpoint", "why", ...}. put: an id,
    // "live" or "auto"; 404, 410 or 422 for a checkpoint that cannot be served.
    int (*served_get)(void *ctx, struct api_reply *out);
    int (*served_put)(void *ctx, const char *checkpoint, struct api_reply *out);
    int (*checkpoint_file)(void *ctx, const char *id, struct api_file *out,
                           struct api_problem *problem);
    int (*checkpoint_export)(void *ctx, const char *id, const struct api_export *as,
                             struct api_file *out, struct api_problem *problem);
    int (*checkpoint_import)(void *ctx, const struct api_import *in, struct api_reply *out);

    // Recipes: {"configs": [{name, about, ...}]}, one resolved, and the schema of all keys.
    int (*config_list)(void *ctx, struct api_reply *out);
    int (*config_get)(void *ctx, const char *name, struct api_reply *out);
    int (*config_schema)(void *ctx, struct api_reply *out);

    // Sample grids: {"samples": [...]} and one PNG.
    int (*sample_list)(void *ctx, const struct api_page *page, struct api_reply *out);
    int (*sample_png)(void *ctx, const char *id, struct api_file *out, struct api_problem *problem);

    // Evaluations (docs/api.md). list: {"evals": [...], "metrics": [...]}; create: as job_create
    // with the kind `eval` (check: only say what is wrong); remove: 409 while it runs. csv and plot
    // give malloc'ed bytes.
    int (*eval_list)(void *ctx, const struct api_eval_query *q, struct api_reply *out);
    int (*eval_get)(void *ctx, const char *id, struct api_reply *out);
    int (*eval_create)(void *ctx, const json_t *body, bool check, struct api_reply *out);
    int (*eval_remove)(void *ctx, const char *id, struct api_reply *out);
    int (*eval_curve)(void *ctx, const struct api_eval_query *q, struct api_reply *out);
    int (*eval_csv)(void *ctx, const struct api_eval_query *q, char **text, size_t *size,
                    struct api_problem *problem);
    int (*eval_plot)(void *ctx, const struct api_eval_query *q, void **png, size_t *size,
                     struct api_problem *problem);
    int (*eval_file)(void *ctx, const char *id, const char *name, struct api_file *out,
                     struct api_problem *problem);

    // Sweeps (docs/ablations.md). list: {"sweeps": [...]}; create: 201 + location "/v1/sweeps/ID",
    // 200 for a check; action: 409 for the removal of one that is open. text and plot give
    // malloc'ed bytes; metric NULL: the table's first.
    int (*sweep_list)(void *ctx, const struct api_page *page, struct api_reply *out);
    int (*sweep_create)(void *ctx, const struct api_sweep_create *in, struct api_reply *out);
    int (*sweep_get)(void *ctx, const char *id, struct api_reply *out);
    int (*sweep_action)(void *ctx, const char *id, enum api_sweep_action action,
                        struct api_reply *out);
    int (*sweep_text)(void *ctx, const char *id, bool markdown, char **text, size_t *size,
                      struct api_problem *problem);
    int (*sweep_curve)(void *ctx, const char *id, const char *metric, struct api_reply *out);
    int (*sweep_plot)(void *ctx, const char *id, const char *metric, int64_t width, int64_t height,
                      void **png, size_t *size, struct api_problem *problem);

    // Data sets: {"datasets": [...]}; create: 201 + location. append: {"name", "received"}, 409
    // `wrong-offset` when the upload has another length. import: 202. remove: 409 while jobs use
    // it. samples: *bytes is malloc'ed PNG; cls NULL: every class. recipe: {"config": {...}}.
    int (*dataset_list)(void *ctx, struct api_reply *out);
    int (*dataset_get)(void *ctx, const char *name, struct api_reply *out);
    int (*dataset_create)(void *ctx, const struct api_dataset_create *in, struct api_reply *out);
    int (*dataset_append)(void *ctx, const char *name, const struct api_dataset_part *in,
                          struct api_reply *out);
    int (*dataset_import)(void *ctx, const char *name, int64_t bytes, struct api_reply *out);
    int (*dataset_remove)(void *ctx, const char *name, struct api_reply *out);
    int (*dataset_samples)(void *ctx, const char *name, const char *cls, int n, void **bytes,
                           size_t *size, struct api_problem *problem);
    int (*dataset_recipe)(void *ctx, const char *name, double minutes, struct api_reply *out);

    // status: any object. ready: 0 = ready, body {"checks": {...}}; -1 = 503 with the reason.
    // prometheus: malloc'ed exposition text (api appends its own families), NULL on failure.
    int (*status)(void *ctx, struct api_reply *out);
    int (*ready)(void *ctx, struct api_reply *out);
    char *(*prometheus)(void *ctx);
    // Online backup into an unlinked temporary file.
    int (*db_backup)(void *ctx, struct api_file *out, struct api_problem *problem);
    // Database and files, frozen: 201, {"id", "files": [{"path", "bytes", "url"}], ...}; its
    // files by their position in the list; its end.
    int (*backup_make)(void *ctx, struct api_reply *out);
    int (*backup_file)(void *ctx, const char *id, const char *name, struct api_file *out,
                       struct api_problem *problem);
    int (*backup_remove)(void *ctx, const char *id, struct api_reply *out);

    // One line for the log; level as in syslog (3 error, 4 warning, 6 info, 7 debug). May be NULL.
    void (*log)(void *ctx, int level, const char *line);
};

// ---------------------------------------------------------------------------------------------
// The server

struct api_listener {
    int fd;       // bound and listening, from the daemon or systemd; closed by api_server_stop
    bool is_unix; // no Host check, no per-address limit
};

// One file of the dashboard, from the build. The table is static and matched exactly.
struct api_asset {
    const char *path; // "/", "/app.js"
    const char *content_type;
    const char *etag;          // without quotes
    const unsigned char *gzip; // gzip'ed bytes; inflated for clients that do not take gzip
    size_t gzip_size;
    size_t plain_size;
};

// A kind of job, for the description of the API; job_create judges what it gets.
struct api_job_kind {
    const char *name, *about;
};

struct api_config {
    const struct api_listener *listeners;
    size_t nlisteners;
    const char *const
        *hosts; // further exact Host values ("lab.example:8080"); those of the
                // listeners (127.0.0.1, localhost, [::1], the bound address) are known
    size_t nhosts;
    const char *token;              // text of the token file (tokens.h); NULL or "": open to all
    const char *tls_cert, *tls_key; // PEM text, both or neither; TLS is for non-unix listeners
    const char *upload_dir;         // for imports, on the file system of the checkpoints
    uint64_t boot; // number of this start of the daemon, counts up (kept by the store)
    const char *version;
    const struct api_asset *assets; // NULL: a built-in page
    size_t nassets;
    const struct api_job_kind *job_kinds; // read during api_server_start only
    size_t njob_kinds;
    // Limits; 0 takes the default in brackets.
    size_t max_body;       // JSON bodies [1 MiB]
    size_t max_held;       // of bodies in memory, those of 64 KiB and less apart [256 MiB]
    size_t max_unsent;     // of answers in memory, those of 64 KiB and less apart [512 MiB]
    uint64_t max_upload;   // imports [4 GiB]
    uint64_t min_free;     // of the disk, which uploads leave alone [64 MiB]
    int max_connections;   // in all [4096]
    int max_per_address;   // [1536], not for unix sockets; at either limit the oldest idle one goes
    int max_sse;           // SSE clients [100], at most half of the connections
    int header_timeout_ms; // from the accept or the end of the last response [10000]
    int body_timeout_ms;   // JSON bodies [30000]; uploads must advance 64 KiB in that time
    int idle_timeout_ms;   // keep-alive [60000]
    int send_timeout_ms;   // an answer of which the client reads nothing [300000]
    int stall_ms;          // the same where max_unsent is reached [5000]
    int default_timeout_ms; // generate [60000]
    int ping_ms;            // SSE comment [15000]
};

struct api_server;

// Whether the text of a token file would do. 0, or -1 with a sentence that names the line.
int api_tokens_check(const char *text, char *err, size_t err_size);

// Starts the listeners' threads. `cb` is copied, `ctx` is passed back; config strings are copied.
// 0, or -1 with a sentence in err.
int api_server_start(const struct api_config *config, const struct api_callbacks *cb, void *ctx,
                     struct api_server **out, char *err, size_t err_size);
// Refuses new work, ends event streams, waits for suspended requests at most grace_ms (those left
// are answered 503) and for callbacks that run, then for answers on their way until grace_ms are
// over, but at least 2 s; stops the threads, closes the listeners. NULL is allowed. Tickets still
// held by the daemon stay valid for api_gen_abandoned/complete/fail.
void api_server_stop(struct api_server *s, int grace_ms);
// SIGHUP: a new token file's text (NULL: unchanged) and certificate pair (NULL: unchanged). 0 or -1
// + err.
int api_server_reload(struct api_server *s, const char *token, const char *tls_cert,
                      const char *tls_key, char *err, size_t err_size);

// Publishes an event to every SSE client and the replay ring; returns its seq (> 0, counting up
// within this boot) under which the daemon should store (boot, seq, type, job, data).
// data: borrowed JSON object; job: id or "".
uint64_t api_publish(struct api_server *s, const char *type, const char *job, const json_t *data);
// The newest seq there is, that of waiting rows of metrics included. Whoever stops publishing
// counts on from here.
uint64_t api_event_head(struct api_server *s);
// Adds a row of metrics; rows are sent at 10 Hz at most, as `metrics {job, step0, cols, rows}`
// (cols starts with "step"; a non-finite value is null). Not stored: replay beyond the ring is a
// `gap`, and clients refetch by REST.
void api_publish_metrics(struct api_server *s, const char *job, int64_t step, size_t n,
                         const char *const *names, const double *values);

// Counters for the watchdog and /v1/status.
struct api_counters {
    uint64_t requests, responses_4xx, responses_503, responses_5xx, shed, limited, reaped;
    int connections, sse_clients, generates_waiting;
    uint64_t beat_ns; // CLOCK_MONOTONIC of the last beat of the housekeeping thread
};
void api_server_counters(struct api_server *s, struct api_counters *out);
