// Disk budget of the state folder (disk.h).
#include "daemon/store/disk.h"

#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "daemon/store/backup.h"
#include "daemon/store/checkpoints.h"
#include "daemon/store/refs.h"
#include "daemon/store/reserve.h"

#include <ftw.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { POLL_S = 2, IDLE_POLLS = 30, OPEN_FOLDERS = 8 };

struct dd_disk {
    struct dd_store *store;
    struct dd_events *events;
    int64_t budget;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool closing;   // under the lock
    bool announced; // that the budget is nearly used up
    bool stuck;     // nothing may be removed, and that has been said
    _Atomic int64_t bytes;
    _Atomic uint64_t removed;
};

// nftw has no argument of its own; walks are made by one thread at a time.
static _Thread_local struct {
    size_t root; // length of the state folder's path; 0: elsewhere
    int64_t sum;
} walk;
static int add_file(const char *path, const struct stat *st, int type, struct FTW *f) {
    static const char backups[] = "/backups/"; // links to what is counted elsewhere
    (void)f;
    if (type == FTW_F && (!walk.root || (strncmp(path + walk.root, backups, sizeof backups - 1) &&
                                         strcmp(path + walk.root, "/reserve"))))
        walk.sum += (int64_t)st->st_size;
    return 0;
}

// The state folder, and what of it lies elsewhere behind a symbolic link.
static int64_t measure(struct dd_disk *d) {
    const char *root = dd_store_root(d->store);
    walk.sum = 0;
    walk.root = strlen(root);
    nftw(root, add_file, OPEN_FOLDERS, FTW_PHYS);
    walk.root = 0;
    for (const char *const *name = dd_store_folders; *name; name++) {
        char *at = dd_store_folder(d->store, *name);
        const size_t n = strlen(root);
        if (at && (strncmp(at, root, n) || at[n] != '/'))
            nftw(at, add_file, OPEN_FOLDERS, FTW_PHYS);
        free(at);
    }
    atomic_store(&d->bytes, walk.sum);
    return walk.sum;
}

static void alert(struct dd_disk *d, const char *text) {
    dd_event(d->events, "alert", 0,
             json_pack("{s:s, s:i, s:s}", "kind", "disk", "step", 0, "text", text));
}

// The oldest checkpoint that may go. 0: none; its size otherwise, 1 at least.
static int64_t oldest(struct dd_disk *d, char path[DD_PATH_MAX], struct dr_err *err) {
    static const char sql[] =
        "SELECT path, bytes FROM checkpoints c WHERE " DD_CKPT_SPENT
        " AND id<>coalesce(" DD_CKPT_FINAL ",0)"
        " AND id<>coalesce((SELECT id FROM checkpoints WHERE state='ok' AND kind<>'encoder'"
        " ORDER BY created_us DESC, id DESC LIMIT 1),0) ORDER BY created_us, id LIMIT 1";
    sqlite3 *db = dd_store_reader(d->store, err);
    sqlite3_stmt *st = db ? dd_sql_prepare(db, err, sql, "") : NULL;
    int64_t bytes = 0;
    if (st && sqlite3_step(st) == SQLITE_ROW &&
        !dd_store_abs(d->store, (const char *)sqlite3_column_text(st, 0), path, err))
        bytes = DR_MAX(sqlite3_column_int64(st, 1), (int64_t)1);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return bytes;
}

// Removes the oldest checkpoints until `bytes` fits. Returns how many went.
static int make_room(struct dd_disk *d, int64_t bytes) {
    struct dr_err err = {0};
    char path[DD_PATH_MAX], q[600];
    int n = 0;
    for (int64_t size; bytes > d->budget && (size = oldest(d, path, &err));) {
        // The row first: a process that ends between the two leaves a file and no row without one.
        const int rc = dd_ckpt_let_go(d->store, path, DD_CKPT_BUDGET, &err);
        if (rc == DR_ECONFLICT)
            continue; // somebody wants it now: it is not the oldest any more
        if (rc)
            break;
        unlink(path);
        n++;
        bytes -= size;
        atomic_fetch_add(&d->removed, 1);
        dd_log(DR_LOG_INFO, "checkpoint.removed", "reason=disk-budget bytes=%lld path=%s",
               (long long)size, dd_log_quote(path, q, sizeof q));
    }
    return n;
}

void dd_disk_look(struct dd_disk *d) {
    char text[300];
    const long long bytes = measure(d), budget = d->budget;
    if (!budget)
        return;
    if (bytes > budget - budget / 10 && !d->announced) {
        d->announced = true;
        snprintf(text, sizeof text,
                 "the state folder takes %lld of the %lld bytes of disk-budget; beyond it, "
                 "references of evaluations and then the oldest checkpoints of jobs that have "
                 "ended are removed",
                 bytes, budget);
        alert(d, text);
    }
    if (bytes < budget - budget / 5)
        d->announced = false;
    long long after = bytes;
    int n = 0;
    if (after > budget && dd_refs_free(dd_store_root(d->store), after - budget))
        after = measure(d);
    for (int k; after > budget && (k = make_room(d, after)); n += k)
        after = measure(d); // the store itself has grown by what was written down
    if (n) {
        snprintf(text, sizeof text, "disk-budget: %d old checkpoints were removed; %lld bytes left",
                 n, after);
        alert(d, text);
    }
    if (after > budget && !d->stuck) {
        snprintf(text, sizeof text,
                 "the state folder takes %lld bytes, more than disk-budget (%lld), and no "
                 "checkpoint in it may be removed",
                 after, budget);
        alert(d, text);
    }
    d->stuck = after > budget;
}

// Looks when something about checkpoints has changed, and once a minute.
static void *keep(void *arg) {
    struct dd_disk *d = arg;
    pthread_setname_np(pthread_self(), "disk");
    pthread_mutex_lock(&d->lock);
    uint64_t seen = UINT64_MAX;
    for (int idle = 0; !d->closing;) {
        const uint64_t now = dd_store_version(d->store);
        if (now != seen || ++idle >= IDLE_POLLS) {
            seen = now;
            idle = 0;
            pthread_mutex_unlock(&d->lock);
            dd_reserve_keep(dd_store_root(d->store));
            dd_backup_expire(dd_store_root(d->store));
            dd_disk_look(d);
            pthread_mutex_lock(&d->lock);
        }
        if (!d->closing)
            dd_cond_wait_until(&d->wake, &d->lock, dd_now_ns() + POLL_S * (int64_t)1000000000);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

struct dd_disk *dd_disk_new(struct dd_store *s, struct dd_events *e, int64_t budget) {
    struct dd_disk *d = dd_xcalloc(1, sizeof *d);
    d->store = s;
    d->events = e;
    d->budget = budget;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->wake, NULL);
    return d;
}

struct dd_disk *dd_disk_start(struct dd_store *s, struct dd_events *e, int64_t budget) {
    struct dd_disk *d = dd_disk_new(s, e, budget);
    if (pthread_create(&d->thread, NULL, keep, d))
        abort();
    return d;
}

void dd_disk_stop(struct dd_disk *d) {
    if (!d)
        return;
    pthread_mutex_lock(&d->lock);
    d->closing = true;
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->lock);
    if (d->thread)
        pthread_join(d->thread, NULL);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->wake);
    free(d);
}

void dd_disk_stats(struct dd_disk *d, struct dd_disk_stats *out) {
    *out = (struct dd_disk_stats){atomic_load(&d->bytes), d->budget, atomic_load(&d->removed)};
}
