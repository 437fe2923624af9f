// Checkpoints whose files have gone without driftd: marked where somebody notices, a backup or a
// request for images (checkpoints.h).
#include "daemon/store/checkpoints.h"

#include "daemon/base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct lost {
    struct dd_store *store;
    const json_t *paths;
    json_t *marked;   // [{"id", "job", "step"}]
    int64_t unmarked; // one whose folder is gone as well; 0: none
};

// A file that somebody has deleted leaves its folder; a disk that is not mounted leaves none, also
// where a job has made its own in the folder `checkpoints` meanwhile.
static bool has_folder(const char *path) {
    char *folder = dd_xstrdup(path);
    *strrchr(folder, '/') = 0;
    const bool there = !access(folder, F_OK);
    free(folder);
    return there;
}

// A row goes before its file everywhere, so one of a good checkpoint without a file has lost it.
static int mark_one(struct lost *l, sqlite3 *db, const char *stored, struct dr_err *err) {
    char path[DD_PATH_MAX];
    int64_t id = 0;
    if (dd_store_abs(l->store, stored, path, err))
        return DR_EINVAL;
    sqlite3_stmt *st = dd_sql_prepare(
        db, err, "SELECT id, coalesce(job,0), step FROM checkpoints WHERE path=? AND state='ok'",
        "t", stored);
    if (st && sqlite3_step(st) == SQLITE_ROW && access(path, F_OK) && errno == ENOENT) {
        id = sqlite3_column_int64(st, 0);
        if (!has_folder(path))
            l->unmarked = id;
        else
            json_array_append_new(l->marked,
                                  json_pack("{s:I, s:I, s:I}", "id", (json_int_t)id, "job",
                                            (json_int_t)sqlite3_column_int64(st, 1), "step",
                                            (json_int_t)sqlite3_column_int64(st, 2)));
    }
    sqlite3_finalize(st);
    if (!st)
        return DR_EIO;
    return id && id != l->unmarked
               ? dd_sql_run(db, err, "UPDATE checkpoints SET state='removed' WHERE id=?", "i", id)
               : 0;
}

static int mark_all(sqlite3 *db, void *arg, struct dr_err *err) {
    struct lost *l = arg;
    json_t *p;
    size_t i;
    int rc = 0;
    json_array_clear(l->marked);
    l->unmarked = 0;
    json_array_foreach((json_t *)(uintptr_t)l->paths, i, p) {
        rc = rc ? rc : mark_one(l, db, json_string_value(p), err);
    }
    return rc;
}

static int64_t member(const json_t *o, const char *key) {
    return json_integer_value(json_object_get(o, key));
}

static void alert(struct dd_events *e, const json_t *c) {
    json_t *text = json_sprintf("the file of checkpoint %lld is gone: it counts as removed now",
                                (long long)member(c, "id"));
    dd_event(e, "alert", member(c, "job"),
             json_pack("{s:s, s:I, s:o}", "kind", "checkpoint", "step",
                       (json_int_t)member(c, "step"), "text", text));
}

int dd_ckpt_lost(struct dd_store *s, struct dd_events *e, const json_t *paths, struct dr_err *err) {
    struct lost l = {.store = s, .paths = paths, .marked = json_array()};
    json_t *c;
    size_t i;
    int rc = dd_store_do(s, mark_all, &l, err);
    if (rc)
        json_array_clear(l.marked);
    if (json_array_size(l.marked))
        dd_store_changed(s);
    json_array_foreach(l.marked, i, c) {
        alert(e, c);
    }
    json_decref(l.marked);
    if (!rc && l.unmarked)
        rc = dr_fail(err, DR_EBUSY,
                     "the file of checkpoint %lld is gone, and so is its folder: is the disk "
                     "mounted? Where the folder was deleted, make an empty one",
                     (long long)l.unmarked);
    return rc;
}
