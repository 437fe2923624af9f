// The event log: state, checkpoint, sample and alert events get a sequence number from the HTTP
// layer's ring (or counted here when there is none), are stored, and go out by SSE. Any thread.
#pragma once

#include "daemon/store/store.h"

#include <jansson.h>

struct dd_events;
// Where events go besides the store; NULL members are skipped.
struct dd_event_sink {
    void *ctx;
    uint64_t (*publish)(void *ctx, const char *type, const char *job, const json_t *data);
    void (*metrics)(void *ctx, const char *job, int64_t step, size_t n, const char *const *names,
                    const double *values);
    uint64_t (*head)(void *ctx); // the newest number, metrics included; asked when it is detached
};
struct dd_events *dd_events_new(struct dd_store *s);
void dd_events_free(struct dd_events *e);
// NULL: detach; when it returns, no call into the old sink is running.
void dd_events_attach(struct dd_events *e, const struct dd_event_sink *sink);
// Takes over data and gives it a member `job`, a string or null. job 0: concerns no job. Also
// writes a log line.
void dd_event(struct dd_events *e, const char *type, int64_t job, json_t *data);
void dd_event_metrics(struct dd_events *e, const struct dd_row *row);
// Stored events strictly between (boot, seq) and (boot2, seq2), oldest first. job 0: all. -1:
// failed.
typedef void dd_event_fn(void *arg, uint64_t boot, uint64_t seq, const char *type, const char *job,
                         const char *data);
int dd_events_read(struct dd_store *s, uint64_t boot, uint64_t seq, uint64_t boot2, uint64_t seq2,
                   int64_t job, int max, dd_event_fn *fn, void *arg);
