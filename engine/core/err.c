// Error codes, sentences and the log sink. See err.h.
#include "engine/core/err.h"

#include "engine/core/types.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

// Bytes of the UTF-8 character at p, 0 when it is none.
static int character(const unsigned char *p) {
    const int n = p[0] < 0x80                    ? 1
                  : p[0] >= 0xc2 && p[0] <= 0xdf ? 2
                  : (p[0] & 0xf0) == 0xe0        ? 3
                  : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4
                                                 : 0;
    for (int i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    const bool overlong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
    const bool beyond = (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf4 && p[1] > 0x8f);
    return overlong || beyond ? 0 : n;
}

void dr_make_plain(char *text) {
    for (unsigned char *p = (unsigned char *)text; *p;) {
        int n = character(p);
        const bool control = p[0] < 0x20 || p[0] == 0x7f || (p[0] == 0xc2 && p[1] < 0xa0);
        if (n && !control) {
            p += n;
            continue;
        }
        for (n = DR_MAX(n, 1); n > 0; n--)
            *p++ = '?';
    }
}

static void fill(struct dr_err *err, int code, const char *field, const char *fmt, va_list ap) {
    char name[sizeof err->field], msg[sizeof err->msg]; // what comes may be parts of err itself
    snprintf(name, sizeof name, "%s", field);
    vsnprintf(msg, sizeof msg, fmt, ap);
    err->code = code;
    strcpy(err->field, name);
    strcpy(err->msg, msg);
    dr_make_plain(err->field);
    dr_make_plain(err->msg);
}

int(dr_fail)(struct dr_err *err, int code, const char *fmt, ...) {
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        fill(err, code, "", fmt, ap);
        va_end(ap);
    }
    return code;
}

int(dr_fail_at)(struct dr_err *err, int code, const char *field, const char *fmt, ...) {
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        fill(err, code, field, fmt, ap);
        va_end(ap);
    }
    return code;
}

int dr_fail_prefix(struct dr_err *err, int code, const char *prefix) {
    if (!err)
        return code;
    char old[sizeof err->msg];
    memcpy(old, err->msg, sizeof old);
    snprintf(err->msg, sizeof err->msg, "%.200s: %.300s", prefix, old);
    dr_make_plain(err->msg);
    return err->code;
}

const char *dr_code_text(int code) {
    switch (code) {
    case DR_OK:
        return "success";
#define X(name, value, text)                                                                       \
    case DR_##name:                                                                                \
        return text;
        DR_ERRORS(X)
#undef X
    default:
        return "unknown error";
    }
}

static enum dr_log_level log_max = DR_LOG_INFO;
static dr_log_fn log_sink;

void dr_log_set(enum dr_log_level max, dr_log_fn sink) {
    __atomic_store_n(&log_max, max, __ATOMIC_RELAXED);
    __atomic_store_n(&log_sink, sink, __ATOMIC_RELEASE);
}

void dr_log(enum dr_log_level level, const char *fmt, ...) {
    if (level > __atomic_load_n(&log_max, __ATOMIC_RELAXED))
        return;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    dr_log_fn sink = __atomic_load_n(&log_sink, __ATOMIC_ACQUIRE);
    if (sink) {
        sink(level, line);
        return;
    }
    static const char *const word[] = {"error", "warn", "info", "debug"};
    fprintf(stderr, "level=%s %s\n", word[level], line);
}
