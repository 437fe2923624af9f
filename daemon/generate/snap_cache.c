// Cache of loaded checkpoints (snap_cache.h).
#include "daemon/generate/snap_cache.h"

#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "daemon/store/checkpoints.h"
#include "engine/drift.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRIES = 64 };

struct entry {
    int64_t id, bytes;
    uint64_t used;
    bool raw;
    char sha256[65]; // the row's at loading time: a rewritten checkpoint is loaded again
    struct dr_snapshot *snap;
};
struct dd_snapcache {
    struct dd_store *store;
    struct dd_events *events;
    struct dd_models *models;
    int64_t max, bytes;
    uint64_t clock;
    struct entry e[ENTRIES];
};

struct dd_snapcache *dd_snapcache_new(struct dd_store *s, struct dd_events *e, struct dd_models *m,
                                      int64_t max_bytes) {
    struct dd_snapcache *c = dd_xcalloc(1, sizeof *c);
    c->store = s;
    c->events = e;
    c->models = m;
    c->max = max_bytes;
    return c;
}

static void evict(struct dd_snapcache *c, struct entry *e) {
    dr_snapshot_unref(e->snap);
    c->bytes -= e->bytes;
    *e = (struct entry){0};
}

void dd_snapcache_free(struct dd_snapcache *c) {
    if (!c)
        return;
    for (int i = 0; i < ENTRIES; i++)
        evict(c, &c->e[i]);
    free(c);
}

static struct entry *oldest(struct dd_snapcache *c, bool free_slot_counts) {
    struct entry *best = NULL;
    for (int i = 0; i < ENTRIES; i++) {
        if (!c->e[i].snap) {
            if (free_slot_counts)
                return &c->e[i];
            continue;
        }
        if (!best || c->e[i].used < best->used)
            best = &c->e[i];
    }
    return best;
}

// The file is not what its row says: it is not served any more.
static int damaged(struct dd_snapcache *c, const struct dd_model_info *row, struct dr_err *err) {
    struct dr_err why = {0};
    char q[700];
    const int rc = dr_fail(err, DR_EFORMAT, "checkpoint %lld is damaged: its sha256 has changed",
                           (long long)row->id);
    if (!dd_ckpt_set_state(c->store, row->path, "corrupt", &why))
        dd_event(c->events, "alert", row->job,
                 json_pack("{s:s, s:I, s:s}", "kind", "checkpoint", "step", (json_int_t)row->step,
                           "text", err->msg));
    else // the next request finds it again: one alert, once it is marked
        dd_log(DR_LOG_ERROR, "checkpoint.unmarked", "checkpoint=%lld reason=%s", (long long)row->id,
               dd_log_quote(why.msg, q, sizeof q));
    return rc;
}

// The same where there is no file, with the alert that backups send.
static int gone(struct dd_snapcache *c, const struct dd_model_info *row, struct dr_err *err) {
    char *stored = dd_store_rel(c->store, row->path);
    json_t *paths = json_pack("[s]", stored);
    int rc = dd_ckpt_lost(c->store, c->events, paths, err);
    json_decref(paths);
    free(stored);
    return rc ? rc
              : dr_fail(err, DR_ENOENT, "checkpoint %lld is removed: its file is gone",
                        (long long)row->id);
}

// Clients learn what is wrong with a file, and not its path. A folder in its place has DR_EFORMAT.
static int check_file(struct dd_snapcache *c, const struct dd_model_info *row, struct dr_err *err) {
    struct dr_err why = {0};
    char sha[65], q[700];
    const int rc = dr_sha256_file(row->path, sha, &why);
    if (rc == DR_ENOENT)
        return gone(c, row, err);
    if (rc == DR_EFORMAT || (!rc && strcmp(sha, row->sha256)))
        return damaged(c, row, err);
    if (!rc)
        return 0;
    dd_log(DR_LOG_ERROR, "checkpoint.unreadable", "checkpoint=%lld reason=%s", (long long)row->id,
           dd_log_quote(why.msg, q, sizeof q));
    return dr_fail(err, rc, "the file of checkpoint %lld cannot be read; the log has the reason",
                   (long long)row->id);
}

static int load(struct dd_snapcache *c, const struct dd_model_info *row, bool raw,
                struct dr_snapshot **out, struct dr_err *err) {
    int rc = check_file(c, row, err);
    if (!rc) {
        char *description = dr_model_config_to_json(&row->model);
        rc = (raw ? dr_snapshot_load_raw : dr_snapshot_load)(row->path, description, out, err);
        free(description);
    }
    if (rc)
        return rc;
    snprintf((*out)->id, sizeof(*out)->id, "%lld", (long long)row->id);
    int64_t bytes = (int64_t)dr_net_bytes((*out)->net);
    for (struct entry *e; c->bytes + bytes > c->max && (e = oldest(c, false));)
        evict(c, e);
    struct entry *e = oldest(c, true);
    evict(c, e);
    *e = (struct entry){.id = row->id,
                        .bytes = bytes,
                        .used = ++c->clock,
                        .raw = raw,
                        .snap = dr_snapshot_ref(*out)};
    snprintf(e->sha256, sizeof e->sha256, "%s", row->sha256);
    c->bytes += bytes;
    return 0;
}

int dd_snapcache_get(struct dd_snapcache *c, int64_t id, bool raw, struct dr_snapshot **out,
                     struct dr_err *err) {
    struct dd_model_info row;
    int rc = dd_models_get(c->models, id, &row, err);
    if (rc)
        return rc;
    if (strcmp(row.state, "ok"))
        rc = dr_fail(err, DR_ENOENT, "checkpoint %lld is %s", (long long)id, row.state);
    for (int i = 0; i < ENTRIES && !rc; i++) {
        struct entry *e = &c->e[i];
        if (!e->snap || e->id != id || e->raw != raw)
            continue;
        if (strcmp(e->sha256, row.sha256)) {
            evict(c, e);
            break;
        }
        e->used = ++c->clock;
        *out = dr_snapshot_ref(e->snap);
        dd_models_release(c->models, row.names);
        return 0;
    }
    if (!rc)
        rc = load(c, &row, raw, out, err);
    dd_models_release(c->models, row.names);
    return rc;
}
