// The daemon's log: one key=value line per event on stderr, with journald's priority prefix when
// stderr is the journal. Any thread. Also the sink of the engine's log.
#pragma once

#include "engine/core/err.h"

#include <stdbool.h>
#include <stddef.h>

// Values for fmt are written by the caller as key=value; use dd_log_quote for free text.
void dd_log(enum dr_log_level level, const char *event, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void dd_log_init(enum dr_log_level max); // installs the engine's sink; may be called again (SIGHUP)
// "text" (key=value, the default) or "json": one object per line with ts, level, event and the
// pairs as members; numbers are numbers. -1: unknown, nothing changes.
int dd_log_format(const char *word);
bool dd_log_is_json(void);
enum dr_log_level dd_log_level(void);
// "error|warn|info|debug" -> level, -1: unknown.
int dd_log_parse(const char *word);
const char *dd_log_word(enum dr_log_level level); // as dd_log_parse reads it
// Quotes text into out ("..." with \" \\ \n escaped), always terminated. Returns out.
const char *dd_log_quote(const char *text, char *out, size_t size);
