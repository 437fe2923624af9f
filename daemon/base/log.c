// Log lines on stderr: key=value, or a JSON object each (log.h). One write(2) per line, so that
// threads do not interleave.
#include "daemon/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

enum { DD_LOG_REST = 1200 };

static _Atomic int max_level = DR_LOG_INFO;
static _Atomic bool to_journal, json;
static _Atomic bool is_journal; // stderr itself, not only what it was at first
static const char *const names[] = {"error", "warn", "info", "debug"};
static const char prio[] = {'3', '4', '6', '7'};

// ISO 8601 in UTC with milliseconds.
static const char *now(char out[32]) {
    struct timespec t;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    size_t n = strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, 32 - n, ".%03ldZ", t.tv_nsec / 1000000);
    return out;
}

// The value at *at, which moves behind it: "quoted" (dd_log_quote) or up to the next space.
static size_t read_value(const char **at, char *out) {
    const char *p = *at;
    size_t n = 0;
    const bool quoted = *p == '"';
    for (p += quoted; *p && *p != (quoted ? '"' : ' '); p++) {
        if (quoted && *p == '\\' && p[1])
            out[n++] = *++p == 'n' ? '\n' : *p;
        else
            out[n++] = *p;
    }
    out[n] = 0;
    p += quoted && *p == '"';
    *at = p + strspn(p, " ");
    return n;
}

// Numbers are numbers, but for keys whose values only happen to look like one.
static json_t *json_value(const char *key, bool quoted, const char *v, size_t n) {
    static const char *const texts[] = {"request", "sha256", "version"};
    const char *digits = v + (*v == '-');
    size_t whole = strspn(digits, "0123456789"), rest = 0;
    bool number = !quoted && whole && whole < 16 && (*digits != '0' || whole == 1);
    if (number && digits[whole] == '.')
        number = (rest = 1 + strspn(digits + whole + 1, "0123456789")) > 1;
    number = number && !digits[whole + rest];
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        number = number && strcmp(key, texts[i]) != 0;
    if (number)
        return rest ? json_real(strtod(v, NULL)) : json_integer(strtoll(v, NULL, 10));
    json_t *text = json_stringn(v, n);
    if (text)
        return text;
    char ascii[DD_LOG_REST]; // what is not UTF-8, or was cut inside a character
    for (size_t i = 0; i < n; i++)
        ascii[i] = (unsigned char)v[i] < 0x80 ? v[i] : '?';
    return json_stringn(ascii, n);
}

// One object from the pairs of `rest`; what is no pair becomes `text`.
static void emit_json(enum dr_log_level level, const char *event, const char *rest) {
    char stamp[32], key[64], value[DD_LOG_REST];
    json_t *o =
        json_pack("{s:s, s:s, s:s}", "ts", now(stamp), "level", names[level], "event", event);
    for (const char *at = rest; o && *at;) {
        const size_t n = strcspn(at, "= \"");
        const bool pair = at[n] == '=' && n && n < sizeof key;
        snprintf(key, sizeof key, "%.*s", pair ? (int)n : 4, pair ? at : "text");
        at += pair ? n + 1 : 0;
        const bool quoted = *at == '"';
        const size_t size = read_value(&at, value);
        if (!json_object_get(o, key))
            json_object_set_new(o, key, json_value(key, quoted, value, size));
    }
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
    json_decref(o);
    if (!text)
        return;
    const bool journal = atomic_load(&is_journal);
    struct iovec v[3] = {{(char[]){'<', prio[level], '>'}, journal ? 3 : 0},
                         {text, strlen(text)},
                         {(char[]){'\n'}, 1}};
    ssize_t w = writev(STDERR_FILENO, v, 3);
    (void)w;
    free(text);
}

static void emit(enum dr_log_level level, const char *event, const char *rest) {
    char line[1400], stamp[40] = "", time[32];
    if (atomic_load(&json)) {
        emit_json(level, event, rest);
        return;
    }
    if (!atomic_load(&to_journal))
        snprintf(stamp, sizeof stamp, "ts=%s ", now(time));
    else
        snprintf(stamp, sizeof stamp, "<%c>", prio[level]);
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
    char rest[DD_LOG_REST];
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

// $JOURNAL_STREAM is DEVICE:INODE of the journal's socket.
static bool stderr_is_journal(void) {
    const char *v = getenv("JOURNAL_STREAM");
    unsigned long long dev, ino;
    struct stat st;
    return v && sscanf(v, "%llu:%llu", &dev, &ino) == 2 && !fstat(STDERR_FILENO, &st) &&
           st.st_dev == dev && st.st_ino == ino;
}

int dd_log_format(const char *word) {
    if (strcmp(word, "text") && strcmp(word, "json"))
        return -1;
    atomic_store(&is_journal, stderr_is_journal());
    atomic_store(&json, !strcmp(word, "json"));
    return 0;
}

bool dd_log_is_json(void) {
    return atomic_load(&json);
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
