// Event log (events.h). A read lock is held around calls into the sink, so that detaching waits.
#include "daemon/store/events.h"

#include "daemon/base/log.h"
#include "daemon/base/util.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct dd_events {
    struct dd_store *store;
    pthread_rwlock_t lock;
    struct dd_event_sink sink;
    bool attached;
    _Atomic uint64_t seq; // the newest one handed out
};
struct stored {
    int64_t boot, seq, job, time_us;
    char type[24];
    char *data;
};

struct dd_events *dd_events_new(struct dd_store *s) {
    struct dd_events *e = dd_xcalloc(1, sizeof *e);
    e->store = s;
    pthread_rwlock_init(&e->lock, NULL);
    return e;
}

void dd_events_free(struct dd_events *e) {
    if (!e)
        return;
    pthread_rwlock_destroy(&e->lock);
    free(e);
}

void dd_events_attach(struct dd_events *e, const struct dd_event_sink *sink) {
    pthread_rwlock_wrlock(&e->lock);
    // What follows is newer than all that a client has seen.
    if (!sink && e->attached && e->sink.head)
        atomic_store(&e->seq, e->sink.head(e->sink.ctx));
    e->attached = sink != NULL;
    e->sink = sink ? *sink : (struct dd_event_sink){0};
    pthread_rwlock_unlock(&e->lock);
}

static int insert(sqlite3 *db, void *arg, struct dr_err *err) {
    const struct stored *s = arg;
    return dd_sql_run(db, err,
                      "INSERT OR IGNORE INTO events(boot,seq,job,type,data,time_us)"
                      " VALUES(?,?,nullif(?,0),?,?,?)",
                      "iiitti", s->boot, s->seq, s->job, s->type, s->data, s->time_us);
}

static void stored_free(void *arg) {
    struct stored *s = arg;
    free(s->data);
    free(s);
}

// A line of the log with the event's members as its pairs; those that are null are left out.
static void log_event(const char *type, const char *job, const json_t *data) {
    const char *state = json_string_value(json_object_get(data, "state")), *key;
    const bool failed = state && !strcmp(state, "failed"), alert = !strcmp(type, "alert");
    char line[1000] = "", q[700];
    size_t n = *job ? (size_t)snprintf(line, sizeof line, "job=%s", job) : 0;
    json_t *v;
    json_object_foreach((json_t *)data, key, v) {
        if (json_is_null(v) || !strcmp(key, "job") || n >= sizeof line)
            continue;
        char *text = json_is_string(v) ? NULL : json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
        const char *value = text ? text : json_string_value(v);
        const bool plain = json_is_number(v) || json_is_boolean(v);
        n += (size_t)snprintf(line + n, sizeof line - n, "%s%s=%s", n ? " " : "", key,
                              plain ? value : dd_log_quote(value ? value : "", q, sizeof q));
        free(text);
    }
    dd_log(failed ? DR_LOG_ERROR : alert ? DR_LOG_WARN : DR_LOG_INFO, type, "%s", line);
}

void dd_event(struct dd_events *e, const char *type, int64_t job, json_t *data) {
    char id[24] = "";
    if (job)
        snprintf(id, sizeof id, "%lld", (long long)job);
    json_object_set_new(data, "job", job ? json_string(id) : json_null()); // a string, as in REST
    char *text = json_dumps(data, JSON_COMPACT);
    log_event(type, id, data);
    pthread_rwlock_rdlock(&e->lock);
    uint64_t seq = 0;
    if (e->attached && e->sink.publish)
        seq = e->sink.publish(e->sink.ctx, type, id, data);
    if (seq)
        atomic_store(&e->seq, seq);
    else
        seq = atomic_fetch_add(&e->seq, 1) + 1;
    pthread_rwlock_unlock(&e->lock);
    struct stored *s = dd_xcalloc(1, sizeof *s);
    *s = (struct stored){.boot = dd_store_boot(e->store),
                         .seq = (int64_t)seq,
                         .job = job,
                         .time_us = dd_wall_us(),
                         .data = text ? text : dd_xstrdup("{}")};
    snprintf(s->type, sizeof s->type, "%s", type);
    dd_store_post(e->store, insert, s, stored_free);
    json_decref(data);
}

void dd_event_metrics(struct dd_events *e, const struct dd_row *row) {
    const char *names[DR_MAX_METRICS];
    double values[DR_MAX_METRICS];
    size_t n = 0;
    char id[24];
    for (int i = 0; i < row->table->n; i++)
        if (row->mask >> i & 1) {
            names[n] = row->table->def[i].name;
            values[n++] = row->v[i];
        }
    snprintf(id, sizeof id, "%lld", (long long)row->job);
    pthread_rwlock_rdlock(&e->lock);
    if (e->attached && e->sink.metrics)
        e->sink.metrics(e->sink.ctx, id, row->step, n, names, values);
    pthread_rwlock_unlock(&e->lock);
}

int dd_events_read(struct dd_store *s, uint64_t boot, uint64_t seq, uint64_t boot2, uint64_t seq2,
                   int64_t job, int max, dd_event_fn *fn, void *arg) {
    struct dr_err err;
    sqlite3 *db = dd_store_reader(s, &err);
    if (!db)
        return -1;
    // An id beyond SQLite's range comes from a client's header: there is nothing after it.
    if (boot > INT64_MAX || seq > INT64_MAX)
        boot = seq = INT64_MAX;
    int64_t b2 = boot2 > INT64_MAX ? INT64_MAX : (int64_t)boot2;
    int64_t s2 = seq2 > INT64_MAX ? INT64_MAX : (int64_t)seq2;
    sqlite3_stmt *st =
        dd_sql_prepare(db, &err,
                       "SELECT boot, seq, type, coalesce(CAST(job AS TEXT),''), data FROM events"
                       " WHERE (boot, seq) > (?,?) AND (boot, seq) < (?,?) AND (?5 = 0 OR job = ?5)"
                       " ORDER BY boot, seq LIMIT ?",
                       "iiiiii", (int64_t)boot, (int64_t)seq, b2, s2, job, (int64_t)max);
    int n = st ? 0 : -1;
    while (st && sqlite3_step(st) == SQLITE_ROW) {
        fn(arg, (uint64_t)sqlite3_column_int64(st, 0), (uint64_t)sqlite3_column_int64(st, 1),
           (const char *)sqlite3_column_text(st, 2), (const char *)sqlite3_column_text(st, 3),
           (const char *)sqlite3_column_text(st, 4));
        n++;
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    return n;
}
