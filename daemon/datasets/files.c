// Files of data sets: where they are, room for them, uploads that grow, and what is swept away or
// put aside at the start (datasets_priv.h).
#include "daemon/datasets/datasets_priv.h"

#include "daemon/base/log.h"
#include "daemon/base/room.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int dd_dataset_path(const struct dd_datasets *d, const char *name, const char *file,
                    char out[DD_PATH_MAX], struct dr_err *err) {
    return dd_path(out, err, "%s/%s%s%s", d->root, name, file ? "/" : "", file ? file : "");
}

int dd_dataset_file(const struct dd_datasets *d, const char *name, char out[DD_PATH_MAX],
                    struct dr_err *err) {
    return dd_path(out, err, "%s/%s/%s" DR_PICTURES_SUFFIX, d->root, name, name);
}

int64_t dd_file_size(const char *path) {
    struct stat st;
    return lstat(path, &st) || !S_ISREG(st.st_mode) ? -1 : (int64_t)st.st_size;
}

int dd_dataset_room(const struct dd_datasets *d, int64_t bytes, struct dr_err *err) {
    return dd_room(d->root, bytes, err);
}

// --- uploads ---

static int add_failed(struct dr_err *err) {
    const int e = errno;
    const bool full = e == ENOSPC || e == EDQUOT || e == EFBIG;
    return dr_fail(err, full ? DR_ENOSPC : DR_EIO, "%s: %s",
                   full ? "the disk is full" : "the upload cannot be stored", strerror(e));
}

static int copy(int from, int to, struct dr_err *err) {
    char buf[1 << 16];
    for (ssize_t n; (n = read(from, buf, sizeof buf)) != 0;) {
        if (n < 0 && errno == EINTR)
            continue;
        for (ssize_t done = 0, w; n > 0 && done < n; done += w)
            if ((w = write(to, buf + done, (size_t)(n - done))) < 0) {
                if (errno != EINTR)
                    return add_failed(err);
                w = 0;
            }
        if (n < 0)
            return add_failed(err);
    }
    return fsync(to) ? add_failed(err) : 0;
}

// The number in DD_DATASET_RECEIVED; -1: there is none.
static int64_t read_mark(const struct dd_datasets *d, const char *name) {
    char path[DD_PATH_MAX], *text = NULL;
    struct dr_err ignored;
    int64_t n = -1;
    if (!dd_dataset_path(d, name, DD_DATASET_RECEIVED, path, NULL) &&
        !dd_read_file(path, 32, &text, NULL, &ignored) && !dd_parse_int(text, 0, INT64_MAX, &n))
        n = -1;
    free(text);
    return n;
}

static int write_mark(const struct dd_datasets *d, const char *name, int64_t n,
                      struct dr_err *err) {
    char path[DD_PATH_MAX], dir[DD_PATH_MAX], text[24];
    int rc = dd_dataset_path(d, name, DD_DATASET_RECEIVED, path, err);
    if (!rc)
        rc = dd_dataset_path(d, name, NULL, dir, err);
    const int size = snprintf(text, sizeof text, "%lld", (long long)n);
    if (!rc)
        rc = dd_write_file(path, text, (size_t)size, err);
    return rc ? rc : dd_sync_folder(dir, err);
}

static void remove_mark(const struct dd_datasets *d, const char *name) {
    char path[DD_PATH_MAX];
    if (!dd_dataset_path(d, name, DD_DATASET_RECEIVED, path, NULL))
        unlink(path);
}

int64_t dd_upload_received(const struct dd_datasets *d, const char *name) {
    char path[DD_PATH_MAX];
    if (dd_dataset_path(d, name, DD_DATASET_UPLOAD, path, NULL))
        return 0;
    const int64_t size = DR_MAX(dd_file_size(path), (int64_t)0), mark = read_mark(d, name);
    return mark >= 0 && mark < size ? mark : size;
}

// The first part becomes the file.
static int add_first(const struct dd_datasets *d, const char *name, const char *part,
                     const char *to, struct dr_err *err) {
    char dir[DD_PATH_MAX];
    int rc = dd_dataset_path(d, name, NULL, dir, err);
    remove_mark(d, name);
    if (!rc && rename(part, to))
        rc = add_failed(err);
    return rc ? rc : dd_sync_folder(dir, err);
}

static int append(const char *part, const char *to, struct dr_err *err) {
    int in = open(part, O_RDONLY | O_CLOEXEC);
    int out = open(to, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
    int rc = in < 0 || out < 0 ? add_failed(err) : copy(in, out, err);
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    return rc;
}

// Durable: afterwards the mark is not needed.
static int cut(const char *path, int64_t size, struct dr_err *err) {
    if (dd_file_size(path) <= size)
        return 0;
    const int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    int rc = fd < 0 || ftruncate(fd, size) || fsync(fd) ? add_failed(err) : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

int dd_upload_add(const struct dd_datasets *d, const char *name, const char *part,
                  struct dr_err *err) {
    struct dr_err ignored;
    char to[DD_PATH_MAX];
    const int64_t had = dd_upload_received(d, name), bytes = dd_file_size(part);
    int rc = dd_dataset_path(d, name, DD_DATASET_UPLOAD, to, err);
    if (rc || !had)
        return rc ? rc : add_first(d, name, part, to, err);
    // Until the part is whole the mark stands where it began.
    if (read_mark(d, name) != had)
        rc = write_mark(d, name, had, err);
    if (!rc)
        rc = cut(to, had, err);
    if (!rc)
        rc = append(part, to, err);
    if (!rc)
        rc = write_mark(d, name, had + bytes, err);
    if (rc)
        cut(to, had, &ignored); // else the next part does
    return rc;
}

int dd_upload_complete(const struct dd_datasets *d, const char *name, struct dr_err *err) {
    char path[DD_PATH_MAX];
    int rc = dd_dataset_path(d, name, DD_DATASET_UPLOAD, path, err);
    if (!rc)
        rc = cut(path, dd_upload_received(d, name), err);
    if (!rc)
        remove_mark(d, name);
    return rc;
}

// --- where sets may be imported from ---

// Whether `full` is `root` or lies below it.
static bool below(const char *full, const char *root) {
    char *r = root && *root ? realpath(root, NULL) : NULL;
    const size_t n = r ? strlen(r) : 0;
    const bool yes = r && !strncmp(full, r, n) && (!full[n] || full[n] == '/' || n == 1);
    free(r);
    return yes;
}

int dd_dataset_confine(const struct dd_datasets *d, const char *path, char out[DD_PATH_MAX],
                       struct dr_err *err) {
    static const char expected[] =
        "a folder or an archive below the data directory or an import root";
    const struct dd_datasets_env *e = &d->env;
    char given[DD_PATH_MAX];
    char *full = NULL;
    bool ok = *path && (*path == '/' || e->data_dir) &&
              !dd_path(given, NULL, "%s%s%s", *path == '/' ? "" : e->data_dir,
                       *path == '/' ? "" : "/", path) &&
              (full = realpath(given, NULL));
    bool inside = ok && (below(full, e->data_dir) || below(full, getenv("DRIFTD_DATA")));
    for (int i = 0; ok && i < e->nroots && !inside; i++)
        inside = below(full, e->roots[i]);
    // The state folder may lie below a root; what it holds is not for import.
    if (inside && below(full, dd_store_root(d->env.store)) &&
        !(e->data_dir && below(e->data_dir, dd_store_root(d->env.store)) &&
          below(full, e->data_dir)))
        inside = false;
    int rc = !inside ? dr_fail_at(err, DR_EINVAL, "path", "path: expected %s", expected)
             : !dd_is_utf8(full)
                 ? dr_fail_at(err, DR_EINVAL, "path",
                              "path: the folders or links of %.300s lead to a name that is not "
                              "UTF-8, which JSON cannot carry; rename it",
                              path)
                 : dd_path(out, err, "%s", full);
    free(full);
    return rc;
}

// --- the start ---

// Half-written files of a set: what an import that was cut off has left beside its target. The mark
// of an upload is needed as long as parts may come.
static void sweep_set(const struct dd_datasets *d, const char *name, bool uploading) {
    char dir[DD_PATH_MAX], file[DD_PATH_MAX];
    if (dd_dataset_path(d, name, NULL, dir, NULL))
        return;
    const size_t n = strlen(name);
    DIR *f = opendir(dir);
    for (struct dirent *e; f && (e = readdir(f));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") ||
            !strcmp(e->d_name, DD_DATASET_UPLOAD) ||
            (uploading && !strcmp(e->d_name, DD_DATASET_RECEIVED)) ||
            (!strncmp(e->d_name, name, n) && !strcmp(e->d_name + n, DR_PICTURES_SUFFIX)))
            continue;
        if (!dd_path(file, NULL, "%s/%s", dir, e->d_name))
            dd_remove_tree(file);
    }
    if (f)
        closedir(f);
}

// What has no row goes to `.lost-NAME-TIME`, since only a person can say whether it is wanted: a
// set that the database has lost, as it was emptied or an older copy of it was put back, or a
// removal that was cut off. An empty folder is a creation that was cut off.
static void put_aside(const struct dd_datasets *d, const char *name) {
    char from[DD_PATH_MAX], to[DD_PATH_MAX], f[600], t[600];
    if (dd_dataset_path(d, name, NULL, from, NULL) || !rmdir(from))
        return;
    const bool moved = !dd_path(to, NULL, "%s/.lost-%s-%lld", d->root, name,
                                (long long)(dd_wall_us() / 1000000)) &&
                       !rename(from, to);
    dd_log_quote(from, f, sizeof f);
    if (moved)
        dd_log(DR_LOG_WARN, "dataset.lost", "path=%s moved=%s reason=\"not in the database\"", f,
               dd_log_quote(to, t, sizeof t));
    else
        dd_log(DR_LOG_ERROR, "dataset.lost", "path=%s reason=%s", f,
               dd_log_quote(strerror(errno), t, sizeof t));
}

static int sweep_one(struct dd_datasets *d, const char *name, struct dr_err *err) {
    char path[DD_PATH_MAX];
    struct dd_dataset_row row;
    if (!strncmp(name, ".gone-", 6) && !dd_dataset_path(d, name, NULL, path, NULL))
        dd_remove_tree(path); // a removal that was cut off (dd_datasets_remove)
    if (*name == '.')         // no name of a set begins so
        return 0;
    int rc = dd_dataset_row_get(d->env.store, name, &row, err);
    const bool uploading = !rc && !strcmp(row.state, "uploading");
    dd_dataset_row_free(&row);
    if (!rc)
        sweep_set(d, name, uploading);
    else if (rc == DR_ENOENT)
        put_aside(d, name);
    return rc == DR_ENOENT ? 0 : rc;
}

int dd_dataset_sweep(struct dd_datasets *d, struct dr_err *err) {
    DIR *f = opendir(d->root);
    if (!f)
        return dr_fail(err, DR_EIO, "cannot read %s: %s", d->root, strerror(errno));
    int rc = 0;
    for (struct dirent *e; !rc && (e = readdir(f));)
        rc = sweep_one(d, e->d_name, err);
    closedir(f);
    return rc;
}
