// Errors of the engine: one X-macro table of codes and a sentence a user can act on.
//
// Functions that can fail return 0 or a negative DR_E* and fill the optional `struct dr_err *`.
// The sentence names the culprit (key, file, value) and what was expected. Thread-safe: no globals.
#pragma once

#include <stdarg.h>

#define DR_ERRORS(X)                                                                               \
    X(EINVAL, 1, "invalid argument")                                                               \
    X(ECONFIG, 2, "invalid configuration")                                                         \
    X(EIO, 3, "input/output error")                                                                \
    X(EFORMAT, 4, "malformed file")                                                                \
    X(ENOMEM, 5, "out of memory")                                                                  \
    X(ENOENT, 6, "not found")                                                                      \
    X(ENOSPC, 7, "no space left on device")                                                        \
    X(EDEVICE, 8, "device error")                                                                  \
    X(ENONFINITE, 9, "non-finite value")                                                           \
    X(EUNSUPPORTED, 10, "not supported by this build")                                             \
    X(ECANCELED, 11, "canceled")                                                                   \
    X(EBUSY, 12, "busy, try again")                                                                \
    X(ECONFLICT, 13, "not possible in this state")                                                 \
    X(EGONE, 14, "no longer there")                                                                \
    X(ENOTYET, 15, "not there yet")                                                                \
    X(EFULL, 16, "the queue is full")                                                              \
    X(ESTOPPING, 17, "stopping")

enum dr_code {
    DR_OK = 0,
#define X(name, value, text) DR_##name = -(value),
    DR_ERRORS(X)
#undef X
};

struct dr_err {
    int code;       // DR_E*
    char msg[512];  // one sentence of UTF-8 without control characters
    char field[96]; // the input at fault ("optim.lr", "names", "class"); "": none in particular
};

// Fills *err (may be NULL) and returns `code`, so that callers write `return dr_fail(...)`.
int dr_fail(struct dr_err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// The same for an input that has a name: err->field takes `field`, cut at its size.
int dr_fail_at(struct dr_err *err, int code, const char *field, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
#ifdef __clang_analyzer__ // shows the analyzer that the code is returned and not 0
#define dr_fail(err, code, ...) (dr_fail(err, code, __VA_ARGS__), (code))
#define dr_fail_at(err, code, ...) (dr_fail_at(err, code, __VA_ARGS__), (code))
#endif
// Puts "prefix: " before the sentence already in *err, whose field stays; returns err->code (or
// `code` if err is NULL).
int dr_fail_prefix(struct dr_err *err, int code, const char *prefix);
// What came from a file or a request goes to terminals, logs and JSON: control characters, and
// bytes that are no UTF-8, become question marks. dr_fail does it to its sentence.
void dr_make_plain(char *text);
// Static text of a code, e.g. "malformed file". Never NULL.
const char *dr_code_text(int code);

// Log level is the engine's only mutable global; the daemon installs a sink. Thread-safe.
enum dr_log_level { DR_LOG_ERROR, DR_LOG_WARN, DR_LOG_INFO, DR_LOG_DEBUG };
typedef void (*dr_log_fn)(enum dr_log_level, const char *line);
void dr_log_set(enum dr_log_level max, dr_log_fn sink); // sink NULL: stderr
void dr_log(enum dr_log_level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
