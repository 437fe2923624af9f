// The writer thread, its queue and group commits and connections (store.h).
#include "daemon/store/store.h"

#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "daemon/store/keys.h"
#include "daemon/store/reserve.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct cmd {
    struct cmd *next;
    dd_store_fn *fn;
    void *arg;
    void (*done)(void *arg); // asynchronous ones
    bool waits, finished;    // synchronous ones: on the caller's stack
    bool frees;              // it makes room on the disk
    int rc;
    struct dr_err err;
};
struct dd_store {
    sqlite3 *db;               // the writer's
    char *path, *root, *given; // state folder: absolute, and as in `path`
    struct dd_metric_tables *metrics;
    int64_t boot;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work, ready;
    struct cmd *head, **tail, *freeing;
    int queued; // from head on
    bool closing;
    _Atomic int64_t beat;
    _Atomic uint64_t failures, version;
    _Atomic int queued_jobs;
    bool jobs_changed; // the writer's, since the count above
    int64_t forgot_us; // the writer's: when it last deleted what is old
};

enum { DB_MODE = 0640 };
enum { BUSY_MS = 5000, RETRY_MS = 200, GROUP_MAX = 256, EVENT_DAYS = 90 };
enum { START_ROOM = 1 << 20 }; // bytes of disk that a start writes at most
#define DAY_US INT64_C(86400000000)

// --- the writer ---

static void run_one(struct dd_store *s, struct cmd *c) {
    c->err = (struct dr_err){0};
    if (sqlite3_exec(s->db, "SAVEPOINT one", NULL, NULL, NULL) != SQLITE_OK) {
        c->rc = dd_sql_fail(s->db, &c->err, "savepoint");
        return;
    }
    c->rc = c->fn(s->db, c->arg, &c->err);
    if (c->rc)
        sqlite3_exec(s->db, "ROLLBACK TO one", NULL, NULL, NULL);
    sqlite3_exec(s->db, "RELEASE one", NULL, NULL, NULL);
}

// Nothing can be written for now (another process holds the database, the disk is full):
// synchronous callers get the error; posted writes are requeued at the front for a later round.
// Closing is the last round. Returns the commands that are finished.
static struct cmd *put_back(struct dd_store *s, struct cmd *group, int *back) {
    struct cmd *done = NULL, **end = &done, *keep = NULL, **tail = &keep;
    int n = 0;
    pthread_mutex_lock(&s->lock);
    for (struct cmd *c = group, *next; c; c = next) {
        bool later = c->rc == DR_EBUSY || c->rc == DR_ENOSPC;
        bool stays = later && !c->waits && !s->closing;
        struct cmd ***to = stays ? &tail : &end;
        next = c->next;
        c->next = NULL;
        n += stays;
        **to = c;
        *to = &c->next;
    }
    if (keep) {
        *tail = s->head;
        if (!s->head)
            s->tail = tail;
        s->head = keep;
        s->queued += n;
    }
    pthread_mutex_unlock(&s->lock);
    *back = n;
    return done;
}

// One transaction for the whole group; when it cannot be committed, all of its commands fail
// with the error returned.
static int run_group(struct dd_store *s, struct cmd *group) {
    struct dr_err why = {0};
    int rc = 0;
    for (struct cmd *c = group; c; c = c->next)
        c->rc = 0; // some have been here before
    if (sqlite3_exec(s->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
        rc = dd_sql_fail(s->db, &why, "begin");
    for (struct cmd *c = group; c && !rc; c = c->next) {
        run_one(s, c);
        // A full disk or an I/O error may roll everything back. What was posted and finds no room
        // stops those behind it: nothing overtakes it.
        if (sqlite3_get_autocommit(s->db) || (c->rc == DR_ENOSPC && !c->waits))
            rc = dr_fail(&why, c->rc ? c->rc : DR_EIO, "%s",
                         c->rc ? c->err.msg : "database: the transaction was rolled back");
    }
    if (!rc && sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        rc = dd_sql_fail(s->db, &why, "commit");
    if (rc && !sqlite3_get_autocommit(s->db))
        sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    for (struct cmd *c = group; c && rc; c = c->next)
        if (!c->rc) {
            c->rc = rc;
            c->err = why;
        }
    return rc;
}

static void on_update(void *arg, int op, const char *db, const char *table, sqlite3_int64 row) {
    struct dd_store *s = arg;
    (void)op, (void)db, (void)row;
    s->jobs_changed |= !strcmp(table, "jobs");
}

static void count_jobs(struct dd_store *s) {
    s->jobs_changed = false;
    atomic_store(&s->queued_jobs,
                 (int)dd_sql_one(s->db, 0, "SELECT count(*) FROM jobs WHERE state='queued'", ""));
}

static void finish_group(struct dd_store *s, struct cmd *group) {
    pthread_mutex_lock(&s->lock);
    for (struct cmd *c = group, *next; c; c = next) {
        next = c->next;
        if (c->rc && !c->waits) {
            char q[600];
            atomic_fetch_add(&s->failures, 1);
            dd_log(DR_LOG_ERROR, "store.failed", "reason=%s",
                   dd_log_quote(c->err.msg, q, sizeof q));
        }
        if (c->waits) {
            c->finished = true;
            continue;
        }
        if (c->done)
            c->done(c->arg);
        free(c);
    }
    pthread_cond_broadcast(&s->ready);
    pthread_mutex_unlock(&s->lock);
}

// Deletes old events and idempotency keys.
static int forget_old(sqlite3 *db, struct dr_err *err) {
    int rc = dd_sql_run(db, err, "DELETE FROM events WHERE time_us<?", "i",
                        dd_wall_us() - EVENT_DAYS * DAY_US);
    if (!rc)
        rc = dd_sql_run(db, err, "DELETE FROM idempotency WHERE created_us<?", "i", dd_key_since());
    return rc;
}

// Once a day, while nobody waits: at another time it would hold them up.
static void forget_daily(struct dd_store *s) {
    struct dr_err ignored; // until tomorrow
    const int64_t now = dd_wall_us();
    if (now - s->forgot_us < DAY_US)
        return;
    s->forgot_us = now;
    pthread_mutex_unlock(&s->lock);
    forget_old(s->db, &ignored);
    pthread_mutex_lock(&s->lock);
}

// With the lock held: what makes room, alone, else the next of the queue. NULL: nothing waits.
static struct cmd *take_group(struct dd_store *s) {
    struct cmd *group = s->freeing, *last;
    if (group) {
        s->freeing = group->next;
        group->next = NULL;
        return group;
    }
    int n = 1;
    group = last = s->head;
    if (!group)
        return NULL;
    while (last->next && n < GROUP_MAX) {
        last = last->next;
        n++;
    }
    s->head = last->next;
    last->next = NULL;
    if (!s->head)
        s->tail = &s->head;
    s->queued -= n;
    return group;
}

// What makes room is given the reserve, piece by piece; nobody else writes in between.
static int write_group(struct dd_store *s, struct cmd *group) {
    int rc = run_group(s, group);
    while (group->frees && group->rc == DR_ENOSPC && dd_reserve_give(s->root))
        rc = run_group(s, group);
    return rc;
}

static void *writer(void *arg) {
    struct dd_store *s = arg;
    pthread_setname_np(pthread_self(), "store");
    pthread_mutex_lock(&s->lock);
    for (;;) {
        atomic_store(&s->beat, dd_now_ns());
        struct cmd *group = take_group(s);
        if (!group) {
            if (s->closing)
                break;
            forget_daily(s);
            // wakes for the watchdog's beat
            if (!s->head && !s->freeing)
                dd_cond_wait_until(&s->work, &s->lock, dd_now_ns() + 1000000000);
            continue;
        }
        pthread_mutex_unlock(&s->lock);
        int back, rc = write_group(s, group);
        if (s->jobs_changed)
            count_jobs(s);
        group = put_back(s, group, &back);
        if (rc == DR_EBUSY)
            dd_log(DR_LOG_WARN, "store.busy", "reason=\"another process holds the database\"");
        else if (rc == DR_ENOSPC)
            dd_log(DR_LOG_WARN, "store.full", "waiting=%d", back);
        finish_group(s, group);
        pthread_mutex_lock(&s->lock);
        if (back && !s->closing) // or until the next command
            dd_cond_wait_until(&s->work, &s->lock, dd_now_ns() + RETRY_MS * (int64_t)1000000);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void push(struct dd_store *s, struct cmd *c) {
    c->next = c->frees ? s->freeing : NULL;
    if (c->frees) {
        s->freeing = c;
    } else {
        *s->tail = c;
        s->tail = &c->next;
        s->queued++;
    }
    pthread_cond_signal(&s->work);
}

static int wait_for(struct dd_store *s, struct cmd *c, struct dr_err *err) {
    pthread_mutex_lock(&s->lock);
    if (s->closing) {
        pthread_mutex_unlock(&s->lock);
        return dr_fail(err, DR_ECANCELED, "the store is closing");
    }
    push(s, c);
    while (!c->finished)
        pthread_cond_wait(&s->ready, &s->lock);
    pthread_mutex_unlock(&s->lock);
    if (c->rc && err)
        *err = c->err;
    return c->rc;
}

int dd_store_do(struct dd_store *s, dd_store_fn *fn, void *arg, struct dr_err *err) {
    struct cmd c = {.fn = fn, .arg = arg, .waits = true};
    return wait_for(s, &c, err);
}

int dd_store_free_by(struct dd_store *s, dd_store_fn *fn, void *arg, struct dr_err *err) {
    struct cmd c = {.fn = fn, .arg = arg, .waits = true, .frees = true};
    const int rc = dd_store_do(s, fn, arg, err);
    return rc == DR_ENOSPC ? wait_for(s, &c, err) : rc;
}

bool dd_store_post(struct dd_store *s, dd_store_fn *fn, void *arg, void (*done)(void *arg)) {
    struct cmd *c = dd_xcalloc(1, sizeof *c);
    *c = (struct cmd){.fn = fn, .arg = arg, .done = done};
    pthread_mutex_lock(&s->lock);
    bool ok = s->queued < DD_STORE_MAX_QUEUE && !s->closing;
    if (ok)
        push(s, c);
    pthread_mutex_unlock(&s->lock);
    if (!ok) {
        atomic_fetch_add(&s->failures, 1);
        if (done)
            done(arg);
        free(c);
    }
    return ok;
}

// --- opening and closing ---

static int set_up(sqlite3 *db, struct dr_err *err) {
    sqlite3_busy_timeout(db, BUSY_MS);
    if (sqlite3_exec(db,
                     "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
                     "PRAGMA journal_size_limit=67108864; PRAGMA temp_store=MEMORY",
                     NULL, NULL, NULL) != SQLITE_OK)
        return dd_sql_fail(db, err, "setting up");
    return 0;
}

static int quick_check(sqlite3 *db, struct dr_err *err) {
    struct dr_err e = {0};
    sqlite3_stmt *st = dd_sql_prepare(db, &e, "PRAGMA quick_check(1)", "");
    int rc = 0;
    if (!st || sqlite3_step(st) != SQLITE_ROW)
        rc = dd_sql_fail(db, err, "quick_check");
    else if (strcmp((const char *)sqlite3_column_text(st, 0), "ok"))
        rc = dr_fail(err, DR_EFORMAT, "database is damaged: %.300s",
                     (const char *)sqlite3_column_text(st, 0));
    sqlite3_finalize(st);
    return rc;
}

// Grows with every start, also when the folder was wiped or the clock went back.
static int next_boot(struct dd_store *s, struct dr_err *err) {
    int64_t last =
        dd_sql_one(s->db, 0, "SELECT CAST(value AS INTEGER) FROM meta WHERE key='boot'", "");
    int64_t now = dd_wall_us() / 1000000;
    char text[24];
    s->boot = now > last ? now : last + 1;
    snprintf(text, sizeof text, "%lld", (long long)s->boot);
    return dd_sql_run(s->db, err, "INSERT OR REPLACE INTO meta VALUES('boot', ?)", "t", text);
}

// The folder of the database, which is the state folder.
static int find_root(struct dd_store *s, struct dr_err *err) {
    const char *slash = strrchr(s->path, '/');
    size_t n = slash ? (size_t)(slash - s->path) : 0;
    while (n > 1 && s->path[n - 1] == '/')
        n--;
    s->given = !slash ? dd_xstrdup(".") : dd_printf("%.*s", n ? (int)n : 1, s->path);
    s->root = realpath(s->given, NULL);
    return s->root ? 0 : dr_fail(err, DR_EIO, "cannot find the folder: %s", strerror(errno));
}

static void store_free(struct dd_store *s) {
    sqlite3_close(s->db);
    dd_metric_tables_free(s->metrics);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->ready);
    free(s->path);
    free(s->root);
    free(s->given);
    free(s);
}

// SQLite gives the files beside the database its mode: it has to have it before they are made.
// Those that an earlier process left behind are set here.
static void make_private(const char *path) {
    static const char *const beside[] = {"", "-wal", "-shm"};
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, DB_MODE);
    if (fd >= 0) // before SQLite has a lock on it, which a close would drop
        close(fd);
    for (int i = 0; i < 3; i++) {
        char *name = dd_printf("%s%s", path, beside[i]);
        chmod(name, DB_MODE);
        free(name);
    }
}

int dd_store_open(const char *path, struct dd_store **out, struct dr_err *err) {
    struct dd_store *s = dd_xcalloc(1, sizeof *s);
    s->path = dd_xstrdup(path);
    s->metrics = dd_metric_tables_new();
    s->tail = &s->head;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    pthread_cond_init(&s->ready, NULL);
    int rc = find_root(s, err);
    const int64_t room = rc ? -1 : dd_free_bytes(s->root);
    if (room >= 0 && room < START_ROOM)
        dd_reserve_give(s->root);
    make_private(path);
    if (!rc && sqlite3_open_v2(path, &s->db,
                               SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                               NULL) != SQLITE_OK)
        rc = dr_fail(err, DR_EIO, "cannot open: %s", s->db ? sqlite3_errmsg(s->db) : "no memory");
    if (!rc)
        rc = set_up(s->db, err);
    if (!rc)
        rc = quick_check(s->db, err);
    if (!rc)
        rc = dd_schema_migrate(s->db, s->root, err);
    if (!rc)
        rc = next_boot(s, err);
    s->forgot_us = dd_wall_us();
    if (!rc)
        rc = forget_old(s->db, err);
    if (!rc) {
        count_jobs(s);
        sqlite3_update_hook(s->db, on_update, s);
    }
    atomic_store(&s->beat, dd_now_ns());
    if (!rc && pthread_create(&s->thread, NULL, writer, s))
        rc = dr_fail(err, DR_ENOMEM, "cannot start the writer thread");
    if (rc) {
        store_free(s);
        return dr_fail_prefix(err, rc, path);
    }
    *out = s;
    return 0;
}

void dd_store_close(struct dd_store *s) {
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    store_free(s);
}

sqlite3 *dd_store_reader(struct dd_store *s, struct dr_err *err) {
    sqlite3 *db = NULL;
    if (sqlite3_open_v2(s->path, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK) {
        if (db)
            dd_sql_fail(db, err, "opening for reading");
        else
            dr_fail(err, DR_ENOMEM, "database: no memory");
        sqlite3_close(db);
        return NULL;
    }
    sqlite3_busy_timeout(db, BUSY_MS);
    return db;
}

int dd_store_backup(struct dd_store *s, const char *path, struct dr_err *err) {
    sqlite3 *from = dd_store_reader(s, err), *to = NULL;
    if (!from)
        return DR_EIO;
    int rc = 0;
    if (sqlite3_open_v2(path, &to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
        rc = dr_fail(err, DR_EIO, "cannot create the backup %s", path);
    sqlite3_backup *b = rc ? NULL : sqlite3_backup_init(to, "main", from, "main");
    const int step = b ? sqlite3_backup_step(b, -1) : SQLITE_OK;
    if (b)
        sqlite3_backup_finish(b); // before it the connection does not know of a step's failure
    if (!rc && (step == SQLITE_BUSY || step == SQLITE_LOCKED))
        rc = dr_fail(err, DR_EBUSY, "database: %s (backup)", sqlite3_errstr(step));
    else if (!rc && step != SQLITE_DONE)
        rc = dd_sql_fail(to, err, "backup");
    sqlite3_close(to);
    sqlite3_close(from);
    return rc;
}

const char *dd_store_path(const struct dd_store *s) {
    return s->path;
}
const char *dd_store_root(const struct dd_store *s) {
    return s->root;
}

const char *const dd_store_folders[] = {"checkpoints", "samples", "evals", "datasets", NULL};

char *dd_store_folder(const struct dd_store *s, const char *name) {
    char *path = dd_printf("%s/%s", s->root, name), *at = realpath(path, NULL);
    free(path);
    return at;
}

// What follows folder/ in path; NULL: it does not lie there.
static const char *below(const char *path, const char *folder) {
    const size_t n = strlen(folder);
    if (strncmp(path, folder, n) || (path[n] != '/' && folder[n - 1] != '/'))
        return NULL;
    return path + n + strspn(path + n, "/");
}

char *dd_store_rel(const struct dd_store *s, const char *path) {
    const char *rest = below(path, s->root);
    if (!rest)
        rest = below(path, s->given);
    if (rest || *path == '/')
        return dd_xstrdup(rest ? rest : path);
    char *cwd = realpath(".", NULL);
    char *full = dd_printf("%s/%s", cwd ? cwd : "", path);
    free(cwd);
    rest = below(full, s->root);
    if (rest)
        memmove(full, rest, strlen(rest) + 1);
    return full;
}

int dd_store_abs(const struct dd_store *s, const char *stored, char out[DD_PATH_MAX],
                 struct dr_err *err) {
    if (*stored == '/')
        return dd_path(out, err, "%s", stored);
    return dd_path(out, err, "%s/%s", s->root, stored);
}

struct dd_metric_tables *dd_store_metrics(struct dd_store *s) {
    return s->metrics;
}
int64_t dd_store_boot(const struct dd_store *s) {
    return s->boot;
}
int64_t dd_store_beat_ns(const struct dd_store *s) {
    return atomic_load(&((struct dd_store *)s)->beat);
}
uint64_t dd_store_failures(const struct dd_store *s) {
    return atomic_load(&((struct dd_store *)s)->failures);
}
int dd_store_queued_jobs(const struct dd_store *s) {
    return atomic_load(&((struct dd_store *)s)->queued_jobs);
}
uint64_t dd_store_version(const struct dd_store *s) {
    return atomic_load(&((struct dd_store *)s)->version);
}
void dd_store_changed(struct dd_store *s) {
    atomic_fetch_add(&s->version, 1);
}
