// The sets that are read from pictures, `cifar10`, `cifar100` and `folder`: where their source is,
// what a picture file of it is kept under, and the cache of those files (see pictures.h).
#include "engine/data/pictures_priv.h"

#include "engine/io/sha256.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PART_SECONDS (24 * 3600) // after which a picture file that is not whole is written no more
#define KEY_VERSION "pictures 3" // of what an import makes of the same source

// ---- the key

static void hash_line(struct dr_sha256 *s, const char *name, int64_t size, int64_t mtime) {
    char numbers[64];
    const int n =
        snprintf(numbers, sizeof numbers, "\n%lld %lld\n", (long long)size, (long long)mtime);
    dr_sha256_update(s, name, strlen(name));
    dr_sha256_update(s, numbers, (size_t)n);
}

static int hash_source(struct dr_sha256 *s, const char *source, const struct dr_import_options *o,
                       struct dr_err *err) {
    struct stat st;
    if (stat(source, &st))
        return dr_fail(err, errno == ENOENT ? DR_ENOENT : DR_EIO, "%.300s: %s", source,
                       strerror(errno));
    char *real_path = realpath(source, NULL);
    if (!real_path)
        return dr_fail(err, DR_EIO, "%.300s: %s", source, strerror(errno));
    const int64_t mtime = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    const bool folder = S_ISDIR(st.st_mode);
    hash_line(s, real_path, folder ? 0 : st.st_size, folder ? 0 : mtime);
    free(real_path);
    if (!folder)
        return 0;
    struct pic_list list = {0};
    int rc = folder_list(source, o->max_files ? o->max_files : INT64_MAX, &list, NULL, err);
    for (int64_t i = 0; i < list.n && !rc; i++)
        hash_line(s, list.e[i].path, list.e[i].size, list.e[i].mtime);
    pic_list_free(&list);
    return rc;
}

int dr_pictures_key(const char *source, const struct dr_import_options *o, char key[33],
                    struct dr_err *err) {
    struct dr_sha256 s;
    char options[200], hex[65];
    const int n = snprintf(
        options, sizeof options, KEY_VERSION " %lld %lld %d %d %d %d %d %.17g %llu %lld %lld%s\n",
        (long long)o->size, (long long)o->channels, o->fit, o->background[0], o->background[1],
        o->background[2], o->refuse_bad, o->test_share, (unsigned long long)o->seed,
        (long long)o->max_pixels, (long long)o->max_file_bytes, o->present ? "" : " all");
    dr_sha256_init(&s);
    dr_sha256_update(&s, options, (size_t)n);
    int rc = hash_source(&s, source, o, err);
    dr_sha256_hex(&s, hex);
    snprintf(key, 33, "%.32s", hex);
    return rc;
}

// ---- the cache

static int make_folders(char *path, struct dr_err *err) {
    for (char *p = strchr(path + 1, '/');; p = strchr(p + 1, '/')) {
        if (p)
            *p = 0;
        const bool made = !mkdir(path, 0700) || errno == EEXIST;
        const int why = errno;
        if (!p)
            return made ? 0
                        : dr_fail(err, DR_EIO,
                                  "%.300s: cannot create the folder of picture files: %s", path,
                                  strerror(why));
        *p = '/';
    }
}

int dr_cache_dir(const char *fallback, char **dir, struct dr_err *err) {
    const char *own = getenv("DRIFTD_CACHE"), *service = getenv("CACHE_DIRECTORY");
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = -1;
    if (own && *own)
        n = asprintf(dir, "%s", own);
    else if (service && *service) // several are separated by colons
        n = asprintf(dir, "%.*s", (int)strcspn(service, ":"), service);
    else if (xdg && xdg[0] == '/')
        n = asprintf(dir, "%s/driftd", xdg);
    else if (home && home[0] == '/')
        n = asprintf(dir, "%s/.cache/driftd", home);
    else if (fallback && *fallback)
        n = asprintf(dir, "%s/cache", fallback);
    else
        return dr_fail(err, DR_ENOENT,
                       "no folder for picture files: set $DRIFTD_CACHE or $XDG_CACHE_HOME");
    if (n < 0)
        return dr_fail(err, DR_ENOMEM, "out of memory");
    int rc = make_folders(*dir, err);
    if (rc)
        free(*dir);
    return rc;
}

// Removes what processes that were killed while they wrote a picture file have left.
static void sweep_parts(const char *dir) {
    const int at = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = at < 0 ? NULL : fdopendir(at);
    struct stat st;
    for (struct dirent *e; d && (e = readdir(d));)
        if (strstr(e->d_name, DR_PICTURES_SUFFIX ".part-") &&
            !fstatat(at, e->d_name, &st, AT_SYMLINK_NOFOLLOW) && S_ISREG(st.st_mode) &&
            time(NULL) - st.st_mtime > PART_SECONDS)
            unlinkat(at, e->d_name, 0);
    if (d)
        closedir(d);
    else if (at >= 0)
        close(at);
}

static void say(const char *source, const struct dr_import_report *r) {
    dr_log(DR_LOG_INFO,
           "%s: %lld pictures to train on, %lld to test with, %lld files left out, %.1f s", source,
           (long long)r->train, (long long)r->test, (long long)r->skipped, r->seconds);
    for (int64_t i = 0; i < r->nnote; i++)
        dr_log(DR_LOG_WARN, "%s: %s", source, r->note[i]);
    for (int64_t i = 0; i < DR_MIN(r->nskip, 5); i++)
        dr_log(DR_LOG_WARN, "%s: left out %s: %s", source, r->skip[i].name, r->skip[i].reason);
}

static _Thread_local struct {
    dr_import_progress_fn progress;
    void *ctx;
} watch;

void dr_pictures_watch(dr_import_progress_fn progress, void *ctx) {
    watch.progress = progress;
    watch.ctx = ctx;
}

int dr_made_go_on(const struct dr_dataset *d, int64_t done, struct dr_err *err) {
    const struct dr_import_progress at = {
        .stage = DR_IMPORT_MAKING, .done = done, .total = d->n, .now = ""};
    if (!watch.progress || watch.progress(watch.ctx, &at))
        return 0;
    return dr_fail(err, DR_ECANCELED, "stopped while the data set %s was being generated", d->name);
}

// The source's picture file: the cached one, else a new one.
static int cached(const char *source, const struct dr_set_query *q, char **file,
                  struct dr_err *err) {
    struct dr_import_options o;
    struct dr_import_report r = {0};
    char key[33], *dir;
    dr_import_of_config(q->cfg, &o);
    int rc = dr_pictures_key(source, &o, key, err);
    if (!rc)
        rc = dr_cache_dir(q->data_dir, &dir, err);
    if (rc)
        return rc;
    if (asprintf(file, "%s/%s" DR_PICTURES_SUFFIX, dir, key) < 0)
        *file = NULL;
    const bool there = *file && !dr_pictures_info(*file, &r, NULL); // and not damaged
    if (*file && !there)
        sweep_parts(dir);
    free(dir);
    if (!*file)
        return dr_fail(err, DR_ENOMEM, "out of memory");
    if (!there) {
        dr_log(DR_LOG_INFO, "reading the pictures of %s once, into %s", source, *file);
        rc = dr_pictures_import(source, *file, &o, watch.progress, watch.ctx, &r, err);
        if (!rc)
            say(source, &r);
    }
    dr_import_report_free(&r);
    if (rc) {
        free(*file);
        *file = NULL;
    }
    return rc;
}

// ---- the sources of the sets

static bool exists(const char *path) {
    return !access(path, F_OK);
}

static bool has(const char *dir, const char *name) {
    char *path;
    if (asprintf(&path, "%s/%s", dir, name) < 0)
        return false;
    const bool there = exists(path);
    free(path);
    return there;
}

// The names under which a CIFAR comes, best first: lossless before JPEG, unpacked before packed.
static const char *const ten[] = {
    "cifar-10-batches-bin",   "cifar-10-batches-py", "cifar-10-binary.tar.gz",
    "cifar-10-python.tar.gz", "cifar10-jpeg",        "cifar10-jpeg.tar.xz",
    "cifar10.tar.gz",         "cifar10.zip",         NULL};
static const char *const hundred[] = {"cifar-100-binary",
                                      "cifar-100-python",
                                      "cifar-100-binary.tar.gz",
                                      "cifar-100-python.tar.gz",
                                      "cifar100-jpeg.tar.xz",
                                      "cifar100.tar.gz",
                                      "cifar100.zip",
                                      NULL};

// The source in dir: a known name in it, or dir itself by what it holds.
static char *source_in(const char *dir, const char *const *names, bool itself) {
    static const char *const inside[] = {"data_batch_1.bin", "data_batch_1", "train.bin", "train"};
    char *path = NULL;
    for (int i = 0; names[i]; i++)
        if (has(dir, names[i]))
            return asprintf(&path, "%s/%s", dir, names[i]) < 0 ? NULL : path;
    for (size_t i = 0; itself && i < DR_COUNT(inside); i++)
        if (has(dir, inside[i]))
            return strdup(dir);
    return NULL;
}

// data.path below a root: as it is, or with the suffix of a picture file.
static char *source_at(const char *root, const char *path) {
    char *p;
    for (int i = 0; i < 2; i++) {
        if (asprintf(&p, "%s/%s%s", root, path, i ? DR_PICTURES_SUFFIX : "") < 0)
            return NULL;
        if (exists(p))
            return p;
        free(p);
    }
    return NULL;
}

static char *find_in(const char *root, const struct dr_set_query *q, const char *const *names) {
    char *path = source_at(root, q->cfg->path[0] ? q->cfg->path : q->name), *inner = NULL;
    struct stat st;
    if (path && names && !stat(path, &st) && S_ISDIR(st.st_mode))
        inner = source_in(path, names, true);
    else if (!path && names && !q->cfg->path[0])
        return source_in(root, names, false);
    if (!inner)
        return path;
    free(path);
    return inner;
}

static int find_source(const struct dr_set_query *q, const char *const *names, char **source,
                       struct dr_err *err) {
    const char *env = getenv("DRIFTD_DATA");
    const char *const root[2] = {env && *env ? env : NULL, q->data_dir};
    char tried[300] = "";
    if (!dr_path_is_below(q->cfg->path))
        return dr_fail_at(err, DR_ECONFIG, "data.path",
                          "data.path '%.200s' must be a path below the data directory",
                          q->cfg->path);
    // A picture file of this name in the data directory was put there for it (a user's data set of
    // the daemon): it goes before what happens to have the name elsewhere.
    if (!names && q->data_dir &&
        asprintf(source, "%s/%s" DR_PICTURES_SUFFIX, q->data_dir, q->cfg->path) >= 0) {
        if (dr_pictures_is_file(*source))
            return 0;
        free(*source);
    }
    for (int i = 0; i < 2; i++) {
        if (!root[i] || !*root[i])
            continue;
        *source = find_in(root[i], q, names);
        if (*source)
            return 0;
        const size_t n = strlen(tried);
        snprintf(tried + n, sizeof tried - n, "%s%.140s", n ? " or " : "", root[i]);
    }
    if (!tried[0])
        return dr_fail(err, DR_ENOENT,
                       "%s: no data directory is set; pass --data-dir or set $DRIFTD_DATA",
                       q->name);
    if (q->cfg->path[0])
        return dr_fail_at(err, DR_ENOENT, "data.path", "there is no `%.150s` in %s", q->cfg->path,
                          tried);
    return dr_fail(err, DR_ENOENT, "%s: there is no folder %s, no %s and no %s in %s", q->name,
                   q->name, names ? names[0] : "archive", names ? names[2] : "folder", tried);
}

static int check_classes(const struct dr_set_query *q, const char *source, const char *file,
                         struct dr_err *err) {
    struct dr_import_report r;
    int rc = dr_pictures_info(file, &r, err);
    if (!rc && q->cfg->classes && r.classes != q->cfg->classes)
        rc = dr_fail_at(err, DR_ECONFIG, "data.classes",
                        "data.classes is %lld, but %.200s has %lld (%.60s%s%.60s%s)",
                        (long long)q->cfg->classes, source, (long long)r.classes, r.class[0].name,
                        r.classes > 1 ? ", " : "", r.classes > 1 ? r.class[1].name : "",
                        r.classes > 2 ? ", ..." : "");
    dr_import_report_free(&r);
    return rc;
}

// Takes over what dr_pictures_open made, under the name of the set.
static int adopt(struct dr_dataset *d, const struct dr_set_query *q, const char *file,
                 struct dr_err *err) {
    struct dr_dataset *from;
    int rc = dr_pictures_open(file, q->cfg, q->test, &from, err);
    if (rc)
        return rc;
    const char *name = d->name;
    free(from->class_start); // taken again by the caller
    free(from->by_class);
    *d = *from;
    d->name = name;
    d->class_start = d->by_class = NULL;
    free(from);
    return 0;
}

// Whether a source can hold a CIFAR: an archive, or a folder with a part of it or with folders, as
// the classes of pictures have them.
static bool promising(const char *source) {
    struct stat st;
    DIR *dir = opendir(source);
    bool yes = !dir && errno == ENOTDIR;
    for (struct dirent *e; dir && !yes && (e = readdir(dir));)
        yes = e->d_name[0] != '.' &&
              (cifar_has_name(e->d_name) ||
               (!fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) && S_ISDIR(st.st_mode)));
    if (dir)
        closedir(dir);
    return yes;
}

static int open_pictures(struct dr_dataset *d, const struct dr_set_query *q,
                         const char *const *names, struct dr_err *err) {
    char *source, *file = NULL;
    int rc = find_source(q, names, &source, err);
    if (rc)
        return rc;
    if (q->look) {
        rc = !names || promising(source) ? 0 : DR_ENOENT;
        free(source);
        return rc;
    }
    if (dr_pictures_is_file(source))
        file = strdup(source);
    else
        rc = cached(source, q, &file, err);
    if (!rc && !file)
        rc = dr_fail(err, DR_ENOMEM, "out of memory");
    if (!rc)
        rc = check_classes(q, source, file, err);
    if (!rc)
        rc = adopt(d, q, file, err);
    free(file);
    free(source);
    return rc;
}

int dr_open_cifar10(struct dr_dataset *d, const struct dr_set_query *q, struct dr_err *err) {
    return open_pictures(d, q, ten, err);
}

int dr_open_cifar100(struct dr_dataset *d, const struct dr_set_query *q, struct dr_err *err) {
    return open_pictures(d, q, hundred, err);
}

int dr_open_folder(struct dr_dataset *d, const struct dr_set_query *q, struct dr_err *err) {
    return open_pictures(d, q, NULL, err);
}
