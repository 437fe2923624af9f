// driftctl: what its files share. A thin client of the HTTP API; one command per run, no threads.
// Exit status: 0 done, 1 the server refused or the job failed, 2 usage, 3 the server cannot be
// reached, 4 the job was stopped, 5 the job was interrupted, 6 it is paused, 130 detached by
// Ctrl-C.
#pragma once

#include <curl/curl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum {
    CTL_OK = 0,
    CTL_REFUSED = 1,
    CTL_USAGE = 2,
    CTL_UNREACHABLE = 3,
    CTL_STOPPED = 4,
    CTL_INTERRUPTED = 5,
    CTL_PAUSED = 6,
    CTL_DETACHED = 130
};

// What an option's value must be; ctl_parse refuses anything else before a request is made.
enum ctl_kind { CTL_TEXT, CTL_INT, CTL_REAL };

struct ctl_opt {
    const char *name; // long name
    char letter;      // or 0
    const char *arg;  // name of the value in the help, or NULL for a switch
    const char *help;
    enum ctl_kind kind;
    double lo, hi; // of a number
};

struct ctl;
struct ctl_command {
    const char *name, *args, *help;
    int min_args, max_args;
    const struct ctl_opt *opts; // ends with a NULL name; NULL: none
    int (*run)(struct ctl *c);
};
extern const struct ctl_command ctl_commands[];
extern const struct ctl_opt ctl_common[];

#define CTL_MAX_OPTS 64
#define CTL_MAX_COLUMNS 40 // of a table
struct ctl {
    const struct ctl_command *command;
    struct {
        const char *name, *value;
    } opt[CTL_MAX_OPTS];
    int nopt;
    const char *arg[8];
    int narg;
    char *url, *unix_path, *token;
    const char *ca_file; // or NULL: the system's certificates
    double timeout;      // s to wait for an answer, or for the next byte of a file; 0: for ever
    bool json;
    bool tty;       // standard output is a terminal that understands escapes
    bool rate_said; // that the token's rate is spent, once a run
    FILE *out;
};

// cli.c. The value of the last such option ("" for a switch), or NULL.
const char *ctl_get(const struct ctl *c, const char *name);
// The value of a numeric option, which ctl_parse has checked; `otherwise` without it.
double ctl_get_num(const struct ctl *c, const char *name, double otherwise);
// 0 for UTF-8, which is all that JSON carries; else CTL_USAGE, with a message that calls it `what`.
int ctl_check_utf8(const struct ctl *c, const char *what, const char *value);
// 0, or CTL_USAGE with a message printed. Reorders nothing in argv.
int ctl_parse(struct ctl *c, int argc, char **argv);
void ctl_help(const struct ctl_command *cmd, FILE *out); // NULL: the overview
// completion.c. CTL_USAGE when the shell is not bash, zsh or fish.
int ctl_completion(const char *shell, FILE *out);
void ctl_nearest(const char *word, const char *const *names, char *buf, size_t n);

// http.c ------------------------------------------------------------------------------------------
struct ctl_buf {
    char *s;
    size_t n, cap;
};
int ctl_buf_add(struct ctl_buf *b, const void *p, size_t n);

struct ctl_reply {
    long status;
    struct ctl_buf body;
    char content_type[96], request_id[48];
    char seed[32], checkpoint[80], step[32], queue_ms[32], compute_ms[32], location[300];
    char note[200];     // Driftd-Note: what to know about the images
    char etag[96];      // as sent, with quotes
    uint64_t total;     // size of a file, from Content-Range or Content-Length; 0: unknown
    uint64_t first;     // first byte of a 206
    double retry_after; // s, by the header; 0: none
};
void ctl_reply_free(struct ctl_reply *r);

// One request. body: JSON or NULL. CTL_OK whatever the status, or CTL_UNREACHABLE (printed unless
// quiet). headers: further header lines, NULL-terminated, or NULL.
int ctl_http(struct ctl *c, const char *method, const char *path, const json_t *body,
             const char *const *headers, bool quiet, struct ctl_reply *out);
// The same, and anything but 2xx is printed as the problem it is and returned as CTL_REFUSED; so is
// a page (text/html), which a proxy has sent.
int ctl_call(struct ctl *c, const char *method, const char *path, const json_t *body,
             const char *const *headers, struct ctl_reply *out);
// A POST that makes one thing however often the connection breaks and it is repeated: with --key,
// or a key of this run. As ctl_call.
int ctl_create(struct ctl *c, const char *path, const json_t *body, struct ctl_reply *out);
// GET of a JSON object; *out is a new reference.
int ctl_get_json(struct ctl *c, const char *path, json_t **out);
// Whether a reply is a JSON object and, where `member` is given, has it as a list or as text that
// is not empty: else it is not driftd's, CTL_REFUSED with a message. *out: a new reference; where
// out is NULL, a 204 will do.
int ctl_answer(const struct ctl *c, const struct ctl_reply *r, const char *member, json_t **out);
// Says that a reply is not what was expected ("a file") and returns CTL_REFUSED.
int ctl_not_ours(const struct ctl *c, const struct ctl_reply *r, const char *expected);
// What ctl_call makes of a reply.
int ctl_verdict(const struct ctl *c, const struct ctl_reply *r);
bool ctl_is_page(const struct ctl_reply *r);
// curl_easy_perform, and the status. Where the token's rate is spent it waits and asks again, for
// as long as --timeout allows, a minute without it. body: what is sent, read from its beginning, or
// NULL.
CURLcode ctl_perform(struct ctl *c, CURL *h, struct ctl_reply *r, FILE *body);
// On stderr: sentences, or with --json the problem document as it came.
void ctl_print_problem(const struct ctl *c, const struct ctl_reply *r);
// GET of the list `key`; with --all every page of it, joined.
int ctl_get_list(struct ctl *c, const char *path, const char *key, json_t **out);
// Prepares a handle for streaming; the caller sets its callbacks. headers is freed by the caller.
CURL *ctl_handle(struct ctl *c, const char *path, struct curl_slist **headers);
// "PREFIXidREST" with the id escaped; the caller frees its `s`.
struct ctl_buf ctl_path(const char *prefix, const char *id, const char *rest);
// Adds "key=value" to a path under construction, escaped, with '?' or '&'.
int ctl_query(struct ctl_buf *path, const char *key, const char *value);
// The libcurl callback for headers; arg is a struct ctl_reply.
size_t ctl_on_header(char *p, size_t size, size_t n, void *arg);
// The libcurl callback for bodies; arg is a struct ctl_reply.
size_t ctl_on_body(char *p, size_t size, size_t n, void *arg);
// Prints why there was no answer (unless quiet) and returns CTL_UNREACHABLE.
int ctl_unreachable(const struct ctl *c, CURLcode rc, bool quiet);
// For any handle: no proxy for loopback addresses and unix sockets, the environment's for others.
void ctl_set_proxy(CURL *h, const char *url, bool is_unix);
bool ctl_is_local(const struct ctl *c); // the server is on this machine
// Requests of this command may take this many seconds unless --timeout says otherwise.
void ctl_allow_time(struct ctl *c, double seconds);
enum { CTL_REMOVE_S = 3600 }; // for runs with very many metrics

// download.c --------------------------------------------------------------------------------------
// Streams a response into a file, with a progress line on a terminal. A regular file appears whole
// or not at all (through FILE.part, which a GET continues); "-", devices and pipes are written to
// directly. Where the ETag is a sha256 the bytes are checked against it. json: the file may be
// JSON; else such an answer is refused, as a page and one without a type are.
int ctl_download(struct ctl *c, const char *method, const char *path, const char *file, bool json);
// A GET likewise of text, which a terminal gets as ctl_put does.
int ctl_download_text(struct ctl *c, const char *path, const char *file, bool json);
// POST of a file as application/octet-stream, or of nothing (NULL). The time limit is one without a
// byte: answers may be large.
int ctl_post(struct ctl *c, const char *path, const char *file, struct ctl_reply *out);

// output.c ----------------------------------------------------------------------------------------
bool ctl_is_stdout(const char *file); // "-", or a name of the same file; NULL: false
// Whether bytes go straight to `file`: standard output and whatever exists and is no regular file.
bool ctl_is_direct(const char *file);
// Opens such a file for writing; NULL and a message otherwise. `binary` data is not sent to a
// terminal. Closed by ctl_close.
FILE *ctl_open_direct(const char *file, bool binary);
// 0, or -1 with errno set: flushes, and closes all but standard output.
int ctl_close(FILE *f);
// The path that symbolic links lead to, whether or not it exists; the caller frees it.
char *ctl_target(const char *file);
// Writes a whole reply; "-" is standard output.
int ctl_save(struct ctl *c, const char *file, const void *data, size_t n, bool binary);
// snprintf into malloc'd memory; ends the program when out of memory.
char *ctl_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

// text.c ------------------------------------------------------------------------------------------
// Whether this descriptor is a terminal that understands escapes (TERM is not "dumb").
bool ctl_terminal(int fd);
// Text from elsewhere, fit for a terminal and a table: control and direction characters and what is
// not UTF-8 become '?'. Each result stays valid for the next seven calls.
const char *ctl_safe(const char *s);
// The same, cut to `max` columns with an ellipsis; *columns (or NULL) is the width on a terminal.
const char *ctl_fit(const char *s, int max, int *columns);
// Writes text, on a terminal without what could steer it; lines stay.
void ctl_put(const struct ctl *c, FILE *f, const char *s, size_t n);
// The JSON of a file or a pipe, a new reference; NULL, with a message, where it has none.
json_t *ctl_read_json(const char *file);
void ctl_json(const struct ctl *c, const json_t *v);
// A JSON document as the server sent it; control characters as \u escapes, which mean the same.
void ctl_json_text(FILE *f, const char *s);
// A table: columns are "Title:key[:kind]" with kind bytes, duration or num.
void ctl_table(const struct ctl *c, const json_t *rows, const char *const *columns);
const char *ctl_bytes(double n, char *buf, size_t size);
const char *ctl_duration(double seconds, char *buf, size_t size);
const char *ctl_str(const json_t *o, const char *key); // "" when absent
double ctl_num(const json_t *o, const char *key);      // NAN when absent
int ctl_width(void);                                   // columns of the terminal
void ctl_bar(char *buf, size_t size, int width, double fraction);

// jobs.c: GET /v1/WHAT with the options `filter` and `limit`, as JSON or a table.
int ctl_list(struct ctl *c, const char *what, const char *filter, const char *const *columns);
// jobs.c: which of n actions arg[0] is, where it has an argument of its own; -1: usage, printed.
int ctl_action(struct ctl *c, const char *const *actions, int n);
// One thing as JSON; its removal, "checkpoint 7 is removed".
int ctl_show(struct ctl *c, const char *path);
int ctl_remove(struct ctl *c, const char *path, const char *what, const char *id);
// models.c: the name of a file that was written, unless it is standard output.
void ctl_print_file(struct ctl *c, const char *file);
// follow.c: shows a job until it ends and returns the exit status for how it ended.
int ctl_follow(struct ctl *c, const char *job);
bool ctl_interrupted(void);
double ctl_now(void); // s, of a clock that nobody sets

// fetch.c
int ctl_md5_file(const char *path, bool inflate, char hex[33]);
int ctl_sha256_file(const char *path, char hex[65]);
// send.c: sends a file, or a folder as a tar stream, to the data set's upload from byte `received`
// on; *sent: bytes that the server has in the end. CTL_*.
int ctl_send(struct ctl *c, const char *name, const char *path, int64_t received, int64_t *sent);
// Names a file or a folder in UTF-8, with what tells it from another state of it; *bytes: about how
// many it has.
enum { CTL_SOURCE = 400 }; // as many bytes as the server takes
int ctl_describe(const char *path, char out[CTL_SOURCE], int64_t *bytes);
// unpack.c: writes the regular files of an archive (tar, tar.gz, zip; last path component only)
// into dir. 0, or -1 with a sentence in err.
int ctl_unpack(const char *archive, const char *dir, char *err, size_t n);

int ctl_cmd_train(struct ctl *c), ctl_cmd_jobs(struct ctl *c), ctl_cmd_job(struct ctl *c),
    ctl_cmd_edit(struct ctl *c), ctl_cmd_follow(struct ctl *c), ctl_cmd_stop(struct ctl *c),
    ctl_cmd_pause(struct ctl *c), ctl_cmd_resume(struct ctl *c), ctl_cmd_checkpoint(struct ctl *c),
    ctl_cmd_remove(struct ctl *c), ctl_cmd_sample(struct ctl *c), ctl_cmd_sweep(struct ctl *c),
    ctl_cmd_ablate(struct ctl *c), ctl_cmd_eval(struct ctl *c), ctl_cmd_evals(struct ctl *c),
    ctl_cmd_compare(struct ctl *c), ctl_cmd_checkpoints(struct ctl *c),
    ctl_cmd_grids(struct ctl *c), ctl_cmd_activate(struct ctl *c), ctl_cmd_serve(struct ctl *c),
    ctl_cmd_export(struct ctl *c), ctl_cmd_import(struct ctl *c), ctl_cmd_fetch(struct ctl *c),
    ctl_cmd_data(struct ctl *c), ctl_cmd_metrics(struct ctl *c), ctl_cmd_backup(struct ctl *c),
    ctl_cmd_restore(struct ctl *c), ctl_cmd_db(struct ctl *c), ctl_cmd_status(struct ctl *c),
    ctl_cmd_configs(struct ctl *c), ctl_cmd_completion(struct ctl *c), ctl_cmd_help(struct ctl *c);
