// driftctl: what its files share. A thin client of the HTTP API; one command a run, no threads.
// Exit status: 0 done, 1 the server refused or the job failed, 2 usage, 3 the server cannot be
// reached, 4 the job was stopped, 5 the job was interrupted, 130 detached by Ctrl-C.
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
    CTL_DETACHED = 130
};

struct ctl_opt {
    const char *name; // long name
    char letter;      // or 0
    const char *arg;  // name of the value in the help, or NULL for a switch
    const char *help;
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
    bool json, tty;
    FILE *out;
};

// main.c. The value of the last such option ("" for a switch), or NULL.
const char *ctl_get(const struct ctl *c, const char *name);
// cli.c. 0, or CTL_USAGE with a message printed.
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
    char etag[96];  // without quotes
    uint64_t total; // size of a file, out of Content-Range or Content-Length; 0: unknown
};
void ctl_reply_free(struct ctl_reply *r);

// One request. body: JSON or NULL. CTL_OK whatever the status, or CTL_UNREACHABLE (printed unless
// quiet). headers: further header lines, NULL-terminated, or NULL.
int ctl_http(struct ctl *c, const char *method, const char *path, const json_t *body,
             const char *const *headers, bool quiet, struct ctl_reply *out);
// The same, and anything but 2xx is printed as the problem it is and returned as CTL_REFUSED.
int ctl_call(struct ctl *c, const char *method, const char *path, const json_t *body,
             const char *const *headers, struct ctl_reply *out);
// GET and parse; *out is a new reference.
int ctl_get_json(struct ctl *c, const char *path, json_t **out);
// On stderr: sentences, or with --json the problem document as it came.
void ctl_print_problem(const struct ctl *c, const struct ctl_reply *r);
// GET of a list; with --all every page of it, joined under `key`.
int ctl_get_list(struct ctl *c, const char *path, const char *key, json_t **out);
// Prepares a handle for streaming; the caller sets its callbacks. headers is freed by the caller.
CURL *ctl_handle(struct ctl *c, const char *path, struct curl_slist **headers);
// "PREFIXidREST" with the id escaped; the caller frees its `s`.
struct ctl_buf ctl_path(const char *prefix, const char *id, const char *rest);
// Adds "key=value" to a path under construction, escaped, with '?' or '&'.
int ctl_query(struct ctl_buf *path, const char *key, const char *value);
// Streams a response into a file (through FILE.part), with a progress line on a terminal; where the
// server gives a sha256 as ETag the file is checked against it.
int ctl_download(struct ctl *c, const char *method, const char *path, const char *file);
// Sends a file as application/octet-stream.
int ctl_upload(struct ctl *c, const char *path, const char *file, struct ctl_reply *out);

// text.c ------------------------------------------------------------------------------------------
void ctl_json(const struct ctl *c, const json_t *v);
// A table: columns are "Title:key[:kind]" with kind num, bytes, time, duration, percent, bool.
void ctl_table(const struct ctl *c, const json_t *rows, const char *const *columns);
const char *ctl_bytes(double n, char *buf, size_t size);
const char *ctl_duration(double seconds, char *buf, size_t size);
const char *ctl_str(const json_t *o, const char *key); // "" when absent
double ctl_num(const json_t *o, const char *key);      // NAN when absent
int ctl_width(void);                                   // columns of the terminal
void ctl_bar(char *buf, size_t size, int width, double fraction);

// jobs.c: GET /v1/WHAT with the options `filter` and `limit`, as JSON or a table.
int ctl_list(struct ctl *c, const char *what, const char *filter, const char *const *columns);
// follow.c: shows a job until it ends; returns the exit status that tells its fate.
int ctl_follow(struct ctl *c, const char *job);
bool ctl_interrupted(void);

// fetch.c
int ctl_md5_file(const char *path, bool inflate, char hex[33]);
int ctl_sha256_file(const char *path, char hex[65]);
// untar.c: writes the regular files of a .tar.gz (last path component only) into dir.
int ctl_untar(const char *archive, const char *dir, char *err, size_t n);

int ctl_cmd_train(struct ctl *c), ctl_cmd_mae(struct ctl *c), ctl_cmd_jobs(struct ctl *c),
    ctl_cmd_job(struct ctl *c), ctl_cmd_edit(struct ctl *c), ctl_cmd_follow(struct ctl *c),
    ctl_cmd_stop(struct ctl *c), ctl_cmd_pause(struct ctl *c), ctl_cmd_resume(struct ctl *c),
    ctl_cmd_checkpoint(struct ctl *c), ctl_cmd_remove(struct ctl *c), ctl_cmd_sample(struct ctl *c),
    ctl_cmd_sweep(struct ctl *c), ctl_cmd_eval(struct ctl *c), ctl_cmd_checkpoints(struct ctl *c),
    ctl_cmd_activate(struct ctl *c), ctl_cmd_export(struct ctl *c), ctl_cmd_import(struct ctl *c),
    ctl_cmd_fetch(struct ctl *c), ctl_cmd_metrics(struct ctl *c), ctl_cmd_db(struct ctl *c),
    ctl_cmd_status(struct ctl *c), ctl_cmd_configs(struct ctl *c),
    ctl_cmd_completion(struct ctl *c), ctl_cmd_help(struct ctl *c);
