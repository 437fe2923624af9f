// Backups of the state folder (backup.h).
#include "daemon/store/backup.h"

#include "daemon/base/log.h"
#include "daemon/base/util.h"
#include "daemon/store/checkpoints.h"
#include "daemon/store/refs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEPT = 4, TRIES = 5, OPEN_FOLDERS = 8, UNREAD_S = 6 * 3600 };

// nftw has no argument of its own; each walk is made by one thread.
static _Thread_local struct {
    const char *from, *to; // the folder that is walked; the backup
    const char *name;      // linking: of the folder, in the state folder and in the backup
    sqlite3 *db;           // linking: says which uploads are whole
    json_t *files;         // listing; NULL: linking
    int64_t bytes;
    int error; // errno of what could not be linked
} walk;

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

// What is still being written has such a name: x.part, x.part-AbCdEf, x.tmp, x.tmp1234.
static bool unfinished(const char *path) {
    const char *base = base_name(path), *tmp = strstr(base, ".tmp"), *part = strstr(base, ".part");
    const size_t n = part ? strlen(part) : 0;
    return (tmp && !tmp[4 + strspn(tmp + 4, "0123456789")]) ||
           (part && (!part[5] || (part[5] == '-' && n == sizeof ".part-XXXXXX" - 1)));
}

// The archive that a client sends for a data set (DD_DATASET_UPLOAD) grows until it is complete,
// and so does the number beside it (DD_DATASET_RECEIVED). A set that is being imported needs the
// archive, and so does one whose import has failed and may be repeated.
static bool growing_upload(const char *path) {
    static const char head[] = "datasets/";
    const char *base = base_name(path);
    if (strncmp(path, head, sizeof head - 1) ||
        (strcmp(base, "upload.archive") && strcmp(base, "upload.received")))
        return false;
    char *name = dd_xstrdup(path + sizeof head - 1);
    name[strcspn(name, "/")] = 0;
    const bool whole = dd_sql_one(
        walk.db, 0, "SELECT 1 FROM datasets WHERE name=? AND state IN ('importing','failed')", "t",
        name);
    free(name);
    return !whole;
}

static atomic_bool canceled; // driftd stops

void dd_backup_cancel(void) {
    atomic_store(&canceled, true);
}

// As link(2), for a folder that lies on another file system than the backup.
static int copy(const char *path, const char *to) {
    const int in = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    const int out = in < 0 ? -1 : open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    ssize_t n = out < 0 ? -1 : 1;
    while (n > 0 && !atomic_load(&canceled))
        n = sendfile(out, in, NULL, 16 << 20);
    const int error = n < 0 ? errno : n ? ECANCELED : 0;
    if (out >= 0)
        close(out);
    if (in >= 0)
        close(in);
    if (error && out >= 0)
        unlink(to);
    errno = error;
    return error ? -1 : 0;
}

// Copies leave the disk the room that everything else needs.
static int freeze_file(const char *path, const char *to, int64_t bytes) {
    if (!link(path, to))
        return 0;
    if (errno != EXDEV && errno != EPERM && errno != EMLINK)
        return -1;
    const int64_t room = dd_free_bytes(walk.to);
    if (room >= 0 && room - bytes < DD_MIN_FREE) {
        errno = ENOSPC;
        return -1;
    }
    return copy(path, to);
}

static int link_one(const char *path, const struct stat *st, int type, struct FTW *f) {
    static const char aside[] = "datasets/.", // removed, or lost to the database
        refs[] = DD_REFS;                     // evaluations make them again
    char *rest = dd_printf("%s%s", walk.name, path + strlen(walk.from));
    (void)f;
    if (!strncmp(rest, aside, sizeof aside - 1) || !strncmp(rest, refs, sizeof refs - 1)) {
        free(rest);
        return 0;
    }
    char *to = dd_printf("%s/%s", walk.to, rest);
    if (type == FTW_D ? mkdir(to, 0750) && errno != EEXIST
                      : type == FTW_F && !unfinished(rest) && !growing_upload(rest) &&
                            freeze_file(path, to, (int64_t)st->st_size) && errno != EEXIST &&
                            errno != ENOENT) // removed since it was listed
        walk.error = errno;
    free(to);
    free(rest);
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

static int link_all(struct dd_store *s, const char *to, struct dr_err *err) {
    sqlite3 *db = dd_store_reader(s, err);
    if (!db)
        return err->code;
    walk.to = to;
    walk.db = db;
    walk.files = NULL;
    walk.error = 0;
    for (const char *const *name = dd_store_folders; *name && !walk.error; name++) {
        char *path = dd_store_folder(s, *name);
        walk.name = *name;
        walk.from = path;
        if (path)
            nftw(path, link_one, OPEN_FOLDERS, FTW_PHYS);
        free(path);
    }
    sqlite3_close(db);
    return walk.error
               ? dr_fail(err,
                         walk.error == ENOSPC      ? DR_ENOSPC
                         : walk.error == ECANCELED ? DR_ECANCELED
                                                   : DR_EIO,
                         "cannot link or copy the files of the backup: %s", strerror(walk.error))
               : 0;
}

// What the copied database names and the backup does not have.
struct gap {
    json_t *checkpoints; // paths of good ones, relative
    int uploads;         // of sets that are being imported
    bool read;           // the copy could be read
};

static struct gap find_gap(const char *db_path, const char *to) {
    struct gap g = {.checkpoints = json_array()};
    sqlite3 *db = NULL;
    sqlite3_stmt *st = NULL;
    if (!sqlite3_open_v2(db_path, &db, SQLITE_OPEN_READONLY, NULL))
        st = dd_sql_prepare(db, NULL,
                            "SELECT path, 0 FROM checkpoints WHERE state='ok' AND path NOT LIKE"
                            " '/%' UNION ALL SELECT 'datasets/'||name||'/upload.archive', 1 FROM"
                            " datasets WHERE state='importing' AND upload=1",
                            "");
    g.read = st != NULL;
    while (st && sqlite3_step(st) == SQLITE_ROW) {
        const char *stored = (const char *)sqlite3_column_text(st, 0);
        const bool upload = sqlite3_column_int64(st, 1) != 0;
        char *path = dd_printf("%s/%s", to, stored);
        const bool there = !access(path, F_OK);
        free(path);
        if (!there && upload)
            g.uploads++;
        else if (!there)
            json_array_append_new(g.checkpoints, json_string(stored));
    }
    sqlite3_finalize(st);
    sqlite3_close(db);
    return g;
}

// Files that exist before the database is copied, and those that came meanwhile: together all that
// the copy names, unless one came and went in between, or was lost before.
static int freeze(struct dd_store *s, struct dd_events *e, const char *to, struct dr_err *err) {
    char *db = dd_printf("%s/driftd.sqlite3", to);
    struct gap g = {0};
    bool done = false;
    int rc = 0;
    for (int i = 0; i < TRIES && !rc && !done; i++) {
        json_decref(g.checkpoints);
        g = (struct gap){0};
        unlink(db);
        rc = link_all(s, to, err);
        if (!rc)
            rc = dd_store_backup(s, db, err);
        if (!rc)
            rc = link_all(s, to, err);
        if (!rc)
            g = find_gap(db, to);
        done = g.read && !json_array_size(g.checkpoints) && !g.uploads;
        if (!rc && !done)
            rc = dd_ckpt_lost(s, e, g.checkpoints, err);
    }
    // An upload that is still missing fails its import with the reason, and not the backup.
    if (!rc && (!g.read || json_array_size(g.checkpoints)))
        rc = dr_fail(err, DR_EBUSY, "checkpoints come and go too fast for a backup; try again");
    json_decref(g.checkpoints);
    free(db);
    return rc;
}

static const char *path_of(const json_t *files, int64_t n) {
    return json_string_value(json_object_get(json_array_get(files, (size_t)n), "path"));
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

// Where the n-th path begins is read without the others: a backup may have a hundred thousand
// files, and each of them is asked for on its own. The number of paths, the offset of each, and the
// paths with a NUL behind each; numbers are those of this machine, as no backup outlives the
// process.
static int write_list(const char *list, const json_t *files, struct dr_err *err) {
    const int64_t n = (int64_t)json_array_size(files);
    int64_t at = (n + 1) * (int64_t)sizeof n;
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return dr_fail(err, DR_ENOMEM, "no memory for the list of a backup");
    fwrite(&n, sizeof n, 1, f);
    for (int64_t i = 0; i < n; i++) {
        fwrite(&at, sizeof at, 1, f);
        at += (int64_t)strlen(path_of(files, i)) + 1;
    }
    for (int64_t i = 0; i < n; i++)
        fwrite(path_of(files, i), 1, strlen(path_of(files, i)) + 1, f);
    int rc = fclose(f) ? dr_fail(err, DR_ENOMEM, "no memory for the list of a backup")
                       : dd_write_file(list, text, size, err);
    free(text);
    return rc;
}

// The n-th path of a list. False: it has none.
static bool read_path(const char *list, int64_t n, char path[DD_PATH_MAX]) {
    int64_t count = 0, at = 0;
    const int fd = open(list, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    const bool listed =
        pread(fd, &count, sizeof count, 0) == (ssize_t)sizeof count && n >= 0 && n < count &&
        pread(fd, &at, sizeof at, (n + 1) * (int64_t)sizeof at) == (ssize_t)sizeof at;
    const ssize_t got = listed ? pread(fd, path, DD_PATH_MAX, at) : 0; // and what follows it
    close(fd);
    return got > 0 && memchr(path, 0, (size_t)got);
}

// Ids are times, so the first name is the oldest.
static int is_backup(const struct dirent *e) {
    return e->d_name[0] != '.' && !strchr(e->d_name + 1, '.');
}

// Later than every backup that there is, also when the clock was set back.
static int64_t next_time(const char *folder) {
    struct dirent **names = NULL;
    const int n = scandir(folder, &names, is_backup, alphasort);
    int64_t time = dd_wall_us() / 1000, last;
    for (int i = 0; i < n; i++) {
        names[i]->d_name[strcspn(names[i]->d_name, "-")] = 0;
        if (dd_parse_int(names[i]->d_name, 0, INT64_MAX - 1, &last))
            time = DR_MAX(time, last + 1);
        free(names[i]);
    }
    free(names);
    return time;
}

static void drop(const char *folder, const char *id) {
    char *to = dd_printf("%s/%s", folder, id), *list = dd_printf("%s.list", to);
    unlink(list);
    dd_remove_tree(to);
    free(list);
    free(to);
}

static void remove_old(const char *folder) {
    struct dirent **names = NULL;
    const int n = scandir(folder, &names, is_backup, alphasort);
    for (int i = 0; i < n; i++) {
        if (i < n - KEPT)
            drop(folder, names[i]->d_name);
        free(names[i]);
    }
    free(names);
}

// The time at which somebody last read it. Monotonic: no backup outlives the process, and the clock
// may be set.
static int64_t uptime(void) {
    return dd_now_ns() / 1000000000;
}
static void touch(const char *list) {
    const struct timespec now[2] = {{.tv_sec = uptime()}, {.tv_sec = uptime()}};
    utimensat(AT_FDCWD, list, now, 0);
}

void dd_backup_expire(const char *state_dir) {
    char *folder = dd_printf("%s/backups", state_dir);
    struct dirent **names = NULL;
    const int n = scandir(folder, &names, is_backup, alphasort);
    for (int i = 0; i < n; i++) {
        char *list = dd_printf("%s/%s.list", folder, names[i]->d_name);
        struct stat st;
        if (!stat(list, &st) && uptime() - (int64_t)st.st_mtime > UNREAD_S) {
            drop(folder, names[i]->d_name);
            dd_log(DR_LOG_INFO, "backup.expired", "id=%s", names[i]->d_name);
        }
        free(list);
        free(names[i]);
    }
    free(names);
    free(folder);
}

int dd_backup_make(struct dd_store *s, struct dd_events *e, json_t **out, struct dr_err *err) {
    static _Atomic unsigned serial;
    char id[40];
    char *folder = dd_printf("%s/backups", dd_store_root(s));
    *out = NULL;
    snprintf(id, sizeof id, "%lld-%04u", (long long)next_time(folder), serial++ % 10000);
    char *to = dd_printf("%s/%s", folder, id), *list = dd_printf("%s.list", to);
    int rc = dd_mkdirs(to, err);
    if (!rc)
        rc = freeze(s, e, to, err);
    if (!rc) {
        *out = describe(to, id);
        rc = write_list(list, json_object_get(*out, "files"), err);
        touch(list);
    }
    if (rc) {
        json_decref(*out);
        *out = NULL;
        dd_remove_tree(to);
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
    char *list = dd_printf("%s/backups/%s.list", dd_store_root(s), id);
    char name[DD_PATH_MAX];
    int rc = read_path(list, n, name)
                 ? dd_path(path, err, "%s/backups/%s/%s", dd_store_root(s), id, name)
                 : dr_fail(err, DR_ENOENT, "there is no such file of backup %s", id);
    if (!rc)
        touch(list);
    free(list);
    return rc;
}

int dd_backup_remove(struct dd_store *s, const char *id, struct dr_err *err) {
    char *folder = dd_printf("%s/backups", dd_store_root(s)),
         *list = dd_printf("%s/%s.list", folder, id);
    const int rc = access(list, F_OK) ? dr_fail(err, DR_ENOENT, "there is no backup %s", id) : 0;
    if (!rc)
        drop(folder, id);
    free(list);
    free(folder);
    return rc;
}

void dd_backup_remove_all(const char *state_dir) {
    char *folder = dd_printf("%s/backups", state_dir);
    dd_remove_tree(folder);
    free(folder);
}
