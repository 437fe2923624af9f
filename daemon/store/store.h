// The SQLite store: jobs, metrics with roll-ups, checkpoints, samples, events, idempotency keys.
//
// Threads: one writer thread owns the only writing connection and runs closures from a queue, all
// that wait in one transaction (one fsync), each inside its own savepoint. Readers take a
// short-lived read-only connection of their own (dd_store_reader). WAL, synchronous FULL, foreign
// keys, STRICT. While the disk is full, synchronous callers get DR_ENOSPC; while another process
// holds the database, DR_EBUSY after 5 s. Posted writes stay queued and are tried again.
#pragma once

#include "daemon/base/util.h"
#include "daemon/store/metrics.h"
#include "engine/core/err.h"

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

struct dd_store;
// Runs on the writer thread inside a savepoint; a non-zero return undoes it alone.
typedef int dd_store_fn(sqlite3 *db, void *arg, struct dr_err *err);

// Opens or creates, quick_check, migrates, starts the writer. Names the file on failure.
int dd_store_open(const char *path, struct dd_store **out, struct dr_err *err);
void dd_store_close(struct dd_store *s); // runs what is queued, checkpoints the WAL; NULL is fine
// Waits until the closure is committed (durable). Any thread but the writer.
int dd_store_do(struct dd_store *s, dd_store_fn *fn, void *arg, struct dr_err *err);
// The same for what makes room on the disk. Where that is full, it is repeated ahead of all that is
// queued, with the room of the reserve (reserve.h).
int dd_store_free_by(struct dd_store *s, dd_store_fn *fn, void *arg, struct dr_err *err);
// Queues and returns; done(arg) frees arg after the closure ran, committed or not. False and
// nothing done when more than DD_STORE_MAX_QUEUE are waiting (done is called then too).
bool dd_store_post(struct dd_store *s, dd_store_fn *fn, void *arg, void (*done)(void *arg));
enum { DD_STORE_MAX_QUEUE = 4096 };
// Read-only connection; close with sqlite3_close. NULL and a sentence on failure.
sqlite3 *dd_store_reader(struct dd_store *s, struct dr_err *err);
// Copies the database online to `path` (page by page, consistent).
int dd_store_backup(struct dd_store *s, const char *path, struct dr_err *err);
const char *dd_store_path(const struct dd_store *s);
const char *dd_store_root(const struct dd_store *s); // the state folder, absolute
// Its folders of files, NULL at the end; any of them may be a link to another disk.
extern const char *const dd_store_folders[];
// Where one of them really lies; malloc'd, NULL: it does not exist.
char *dd_store_folder(const struct dd_store *s, const char *name);
// Paths in rows are relative to the state folder where they lie below it, so that it can be moved.
// dd_store_rel: as a row holds it (malloc'd); dd_store_abs: to open it.
char *dd_store_rel(const struct dd_store *s, const char *path);
int dd_store_abs(const struct dd_store *s, const char *stored, char out[DD_PATH_MAX],
                 struct dr_err *err);
int64_t dd_store_boot(const struct dd_store *s);    // number of this start, grows over restarts
int64_t dd_store_beat_ns(const struct dd_store *s); // monotonic time of the writer's last round
uint64_t dd_store_failures(const struct dd_store *s);
// Jobs in state `queued` as of the last commit. Touches no database: for probes, which must not
// wait.
int dd_store_queued_jobs(const struct dd_store *s);
struct dd_metric_tables *dd_store_metrics(struct dd_store *s); // for dd_metric_table
// Counts changes that matter to those who keep rows of checkpoints in memory (models.h).
uint64_t dd_store_version(const struct dd_store *s);
void dd_store_changed(struct dd_store *s);

// SQL helpers for closures and readers. Parameters by a type string: i int64, d double (non-finite
// becomes NULL), t text (NULL allowed). dd_sql_one: first row's first column as int64, def if none.
sqlite3_stmt *dd_sql_prepare(sqlite3 *db, struct dr_err *err, const char *sql, const char *types,
                             ...);
int dd_sql_run(sqlite3 *db, struct dr_err *err, const char *sql, const char *types, ...);
int64_t dd_sql_one(sqlite3 *db, int64_t def, const char *sql, const char *types, ...);
int dd_sql_fail(sqlite3 *db, struct dr_err *err,
                const char *what); // DR_ENOSPC, DR_ENOMEM, DR_EBUSY, else DR_EIO
// Whether any connection of this process has found the database damaged.
bool dd_sql_damaged(void);

// Creates or upgrades the tables (schema.c). Refuses a newer version. root: the state folder.
int dd_schema_migrate(sqlite3 *db, const char *root, struct dr_err *err);
int dd_schema_version(void);
