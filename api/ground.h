// The ground of api/: clock, log, and text that grows. Included by every other file; includes none.
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

uint64_t api_now_ns(void); // CLOCK_MONOTONIC
uint64_t api_ms_ns(int64_t ms);

struct api_logger {
    void (*line)(void *ctx, int level, const char *line); // NULL: no log
    void *ctx;
};
// Levels as in syslog. Lines are cut at 600 bytes.
void api_log(const struct api_logger *log, int level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// A string that grows. When memory runs out, `failed` is set and what is added later is dropped.
struct api_text {
    char *s; // NULL while empty; ends with NUL; the owner frees it
    size_t n, cap;
    bool failed;
};
void api_text_add(struct api_text *t, const char *s, size_t n);
void api_text_fmt(struct api_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
// Adds a percent-encoded copy of s: only letters and digits stay as they are.
void api_text_escape(struct api_text *t, const char *s);
