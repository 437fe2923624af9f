// Backups of the state folder (backup.h).
#include "daemon/store/backup.h"

#include "daemon/base/util.h"
#include "daemon/store/checkpoints.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEPT = 4, TRIES = 5, OPEN_FOLDERS = 8 };

// nftw has no argument of its own; each walk is made by one thread.
static _Thread_local struct {
    const char *from, *to; // state folder, backup
    json_t *files;         // listing; NULL: linking
    int64_t bytes;
    int error; // errno of what could not be linked
} walk;

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

// What is still being written has such a name; an upload goes on after the backup.
static bool unfinished(const char *path) {
    return ends_with(path, ".tmp") || ends_with(path, ".part") || ends_with(path, "/upload");
}

static int link_one(const char *path, const struct stat *st, int type, struct FTW *f) {
    (void)st, (void)f;
    char *to = dd_printf("%s/%s", walk.to, path + strlen(walk.from) + 1);
    if (type == FTW_D ? mkdir(to, 0750) && errno != EEXIST
                      : type == FTW_F && !unfinished(path) && link(path, to) && errno != EEXIST &&
                            errno != ENOENT) // removed since it was listed
        walk.error = errno;
    free(to);
    return walk.error != 0;
}

static int list_one(const char *path, const struct stat *st, int type, struct FTW *f) {
    (void)f;
    if (type != FTW_F)
        return 0;
    walk.bytes += (int64_t)st->st_size;
    json_array_append_new(walk.files, json_pack("{s:s, s:I}", "path", path + strlen(walk.from) + 1,
                                                "bytes", (json_int_t)st->st_size));
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f) {
    (void)st, (void)type, (void)f;
    remove(path);
    return 0;
}
static void remove_tree(const char *path) {
    nftw(path, remove_one, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS);
}

static int link_all(struct dd_store *s, const char *to, struct dr_err *err) {
    static const char *const folders[] = {"checkpoints", "samples", "evals", "datasets"};
    walk.from = dd_store_root(s);
    walk.to = to;
    walk.files = NULL;
    walk.error = 0;
    for (size_t i = 0; i < DR_COUNT(folders) && !walk.error; i++) {
        char *path = dd_printf("%s/%s", dd_store_root(s), folders[i]);
        nftw(path, link_one, OPEN_FOLDERS, FTW_PHYS);
        free(path);
    }
    return walk.error ? dr_fail(err, walk.error == ENOSPC ? DR_ENOSPC : DR_EIO,
                                "cannot link the files of the backup: %s", strerror(walk.error))
                      : 0;
}

// Whether every good checkpoint of the copied database is there too.
static bool complete(const char *db_path, const char *to) {
    sqlite3 *db = NULL;
    sqlite3_stmt *st = NULL;
    bool all = !sqlite3_open_v2(db_path, &db, SQLITE_OPEN_READONLY, NULL);
    if (all)
        st = dd_sql_prepare(db, NULL, "SELECT path FROM checkpoints WHERE state='ok'", "");
    while (st && sqlite3_step(st) == SQLITE_ROW) {
        const char *stored = (const char *)sqlite3_column_text(st, 0);
        char *path = dd_printf("%s/%s", to, stored);
        all = all && (*stored == '/' || !access(path, F_OK)); // an absolute one is not ours
        free(path);
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    return all && st;
}

// Files that exist before the database is copied, and those that came meanwhile: together all that
// the copy names, unless one came and went in between.
static int freeze(struct dd_store *s, const char *to, struct dr_err *err) {
    char *db = dd_printf("%s/driftd.sqlite3", to);
    int rc = 0;
    bool done = false;
    for (int i = 0; i < TRIES && !rc && !done; i++) {
        unlink(db);
        rc = link_all(s, to, err);
        if (!rc)
            rc = dd_store_backup(s, db, err);
        if (!rc)
            rc = link_all(s, to, err);
        done = !rc && complete(db, to);
    }
    if (!rc && !done)
        rc = dr_fail(err, DR_EBUSY, "checkpoints come and go too fast for a backup; try again");
    free(db);
    return rc;
}

static json_t *describe(const char *to, const char *id) {
    json_t *files = json_array(), *f;
    size_t i;
    walk.from = to;
    walk.files = files;
    walk.bytes = 0;
    nftw(to, list_one, OPEN_FOLDERS, FTW_PHYS);
    json_array_foreach(files, i, f) {
        json_object_set_new(f, "url", json_sprintf("/v1/backups/%s/files/%zu", id, i));
    }
    return json_pack("{s:s, s:o, s:I, s:o}", "id", id, "created", dd_json_time(dd_wall_us()),
                     "bytes", (json_int_t)walk.bytes, "files", files);
}

// Ids are times, so the first name is the oldest.
static int is_backup(const struct dirent *e) {
    return e->d_name[0] != '.' && !strchr(e->d_name + 1, '.');
}
static void remove_old(const char *folder) {
    struct dirent **names = NULL;
    const int n = scandir(folder, &names, is_backup, alphasort);
    for (int i = 0; i < n; i++) {
        if (i < n - KEPT) {
            char *path = dd_printf("%s/%s", folder, names[i]->d_name),
                 *list = dd_printf("%s.json", path);
            remove_tree(path);
            unlink(list);
            free(path);
            free(list);
        }
        free(names[i]);
    }
    free(names);
}

int dd_backup_make(struct dd_store *s, json_t **out, struct dr_err *err) {
    static _Atomic unsigned serial;
    char id[40];
    char *folder = dd_printf("%s/backups", dd_store_root(s));
    *out = NULL;
    snprintf(id, sizeof id, "%lld-%04u", (long long)(dd_wall_us() / 1000), serial++ % 10000);
    char *to = dd_printf("%s/%s", folder, id), *list = dd_printf("%s.json", to);
    int rc = dd_mkdirs(to, err);
    if (!rc)
        rc = freeze(s, to, err);
    if (!rc) {
        *out = describe(to, id);
        if (json_dump_file(*out, list, JSON_COMPACT))
            rc = dr_fail(err, DR_EIO, "cannot write %s", list);
    }
    if (rc) {
        json_decref(*out);
        *out = NULL;
        remove_tree(to);
    } else {
        remove_old(folder);
    }
    free(list);
    free(to);
    free(folder);
    return rc;
}

int dd_backup_file(struct dd_store *s, const char *id, int64_t n, char path[DD_PATH_MAX],
                   struct dr_err *err) {
    char *list = dd_printf("%s/backups/%s.json", dd_store_root(s), id);
    json_t *o = json_load_file(list, 0, NULL);
    const json_t *f = n < 0 ? NULL : json_array_get(json_object_get(o, "files"), (size_t)n);
    const char *name = json_string_value(json_object_get(f, "path"));
    int rc = name ? dd_path(path, err, "%s/backups/%s/%s", dd_store_root(s), id, name)
                  : dr_fail(err, DR_ENOENT, "there is no such file of backup %s", id);
    json_decref(o);
    free(list);
    return rc;
}

int dd_backup_remove(struct dd_store *s, const char *id, struct dr_err *err) {
    char *to = dd_printf("%s/backups/%s", dd_store_root(s), id), *list = dd_printf("%s.json", to);
    int rc = unlink(list) ? dr_fail(err, DR_ENOENT, "there is no backup %s", id) : 0;
    if (!rc)
        remove_tree(to);
    free(list);
    free(to);
    return rc;
}

void dd_backup_remove_all(const char *state_dir) {
    char *folder = dd_printf("%s/backups", state_dir);
    remove_tree(folder);
    free(folder);
}
