// Clock, log and growing text (ground.h).
#include "api/ground.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t api_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t api_ms_ns(int64_t ms) {
    return ms > 0 ? (uint64_t)ms * 1000000u : 0;
}

void api_log(const struct api_logger *log, int level, const char *fmt, ...) {
    char line[600];
    va_list ap;
    if (!log->line)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    log->line(log->ctx, level, line);
}

static bool grow(struct api_text *t, size_t more) {
    if (t->failed)
        return false;
    if (t->n + more < t->cap)
        return true;
    size_t cap = (t->n + more + 1) * 2;
    char *s = realloc(t->s, cap);
    if (!s) {
        t->failed = true;
        return false;
    }
    t->s = s;
    t->cap = cap;
    return true;
}

void api_text_add(struct api_text *t, const char *s, size_t n) {
    if (!grow(t, n))
        return;
    memcpy(t->s + t->n, s, n);
    t->n += n;
    t->s[t->n] = '\0';
}

void api_text_fmt(struct api_text *t, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    if (n > 0 && grow(t, (size_t)n)) {
        vsnprintf(t->s + t->n, t->cap - t->n, fmt, again);
        t->n += (size_t)n;
    }
    va_end(again);
    va_end(ap);
}

void api_text_escape(struct api_text *t, const char *s) {
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    for (; *s; s++)
        if (strchr(plain, *s))
            api_text_add(t, s, 1);
        else
            api_text_fmt(t, "%%%02X", (unsigned char)*s);
}
