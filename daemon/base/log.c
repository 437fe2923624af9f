// Key=value log lines on stderr (log.h). One write(2) per line, so that threads do not interleave.
#include "daemon/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static _Atomic int max_level = DR_LOG_INFO;
static _Atomic bool to_journal;
static const char *const names[] = {"error", "warn", "info", "debug"};
static const char prio[] = {'3', '4', '6', '7'};

static void emit(enum dr_log_level level, const char *event, const char *rest) {
    char line[1400], stamp[40] = "";
    if (!atomic_load(&to_journal)) {
        struct timespec t;
        struct tm tm;
        clock_gettime(CLOCK_REALTIME, &t);
        gmtime_r(&t.tv_sec, &tm);
        size_t n = strftime(stamp, sizeof stamp, "ts=%Y-%m-%dT%H:%M:%S", &tm);
        snprintf(stamp + n, sizeof stamp - n, ".%03ldZ ", t.tv_nsec / 1000000);
    } else {
        snprintf(stamp, sizeof stamp, "<%c>", prio[level]);
    }
    int n = snprintf(line, sizeof line - 1, "%slevel=%s event=%s%s%s", stamp, names[level], event,
                     *rest ? " " : "", rest);
    if (n < 0)
        return;
    size_t len = (size_t)n < sizeof line - 1 ? (size_t)n : sizeof line - 2;
    line[len++] = '\n';
    ssize_t w = write(STDERR_FILENO, line, len); // there is nowhere to report a failure of the log
    (void)w;
}

void dd_log(enum dr_log_level level, const char *event, const char *fmt, ...) {
    if ((int)level > atomic_load(&max_level))
        return;
    char rest[1200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(rest, sizeof rest, fmt, ap);
    va_end(ap);
    emit(level, event, rest);
}

static void from_engine(enum dr_log_level level, const char *text) {
    char q[1000];
    dd_log(level, "engine", "msg=%s", dd_log_quote(text, q, sizeof q));
}

void dd_log_init(enum dr_log_level max) {
    atomic_store(&max_level, (int)max);
    atomic_store(&to_journal, getenv("JOURNAL_STREAM") != NULL);
    dr_log_set(max, from_engine);
}

enum dr_log_level dd_log_level(void) {
    return (enum dr_log_level)atomic_load(&max_level);
}

const char *dd_log_word(enum dr_log_level level) {
    return names[level];
}

int dd_log_parse(const char *word) {
    for (int i = 0; i < 4; i++)
        if (!strcmp(word, names[i]))
            return i;
    return -1;
}

const char *dd_log_quote(const char *text, char *out, size_t size) {
    size_t o = 0;
    out[o++] = '"';
    for (const char *p = text; *p && o + 4 < size; p++) {
        if (*p == '"' || *p == '\\')
            out[o++] = '\\';
        if (*p == '\n' || *p == '\r') {
            out[o++] = '\\';
            out[o++] = 'n';
        } else if ((unsigned char)*p >= 0x20) {
            out[o++] = *p;
        }
    }
    out[o++] = '"';
    out[o] = 0;
    return out;
}
