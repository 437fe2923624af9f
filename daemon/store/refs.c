// See refs.h.
#include "daemon/store/refs.h"

#include "daemon/base/log.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int dd_refs_path(const char *state_dir, const char *key, char out[DD_PATH_MAX],
                 struct dr_err *err) {
    int rc = dd_path(out, err, "%s/" DD_REFS "/%s.safetensors", state_dir, key);
    return rc ? rc : dd_mkdir_for(out, err);
}

void dd_refs_touch(const char *path) {
    utimensat(AT_FDCWD, path, NULL, 0);
}

struct ref {
    char name[NAME_MAX + 1];
    struct timespec used;
    int64_t bytes;
};
struct refs {
    struct ref *ref; // oldest first
    int n;
    int64_t bytes;
};

static int by_use(const void *a, const void *b) {
    const struct ref *x = a, *y = b;
    const struct timespec *s = &x->used, *t = &y->used;
    if (s->tv_sec != t->tv_sec)
        return s->tv_sec < t->tv_sec ? -1 : 1;
    if (s->tv_nsec != t->tv_nsec)
        return s->tv_nsec < t->tv_nsec ? -1 : 1;
    return strcmp(x->name, y->name);
}

static struct refs read_all(const char *folder) {
    struct refs all = {0};
    struct stat st;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode))
            continue;
        struct ref *more = realloc(all.ref, (size_t)(all.n + 1) * sizeof *more);
        if (!more)
            break; // those that are known will do
        all.ref = more;
        more[all.n] = (struct ref){.used = st.st_mtim, .bytes = (int64_t)st.st_size};
        snprintf(more[all.n++].name, sizeof more->name, "%s", e->d_name);
        all.bytes += (int64_t)st.st_size;
    }
    if (d)
        closedir(d);
    if (all.n)
        qsort(all.ref, (size_t)all.n, sizeof *all.ref, by_use);
    return all;
}

// The oldest, all but the newest `keep`, until `bytes` are free.
static int64_t drop(const char *folder, const struct refs *all, int64_t bytes, int keep) {
    int64_t freed = 0;
    char q[600];
    for (int i = 0; i < all->n - keep && freed < bytes; i++) {
        char *path = dd_printf("%s/%s", folder, all->ref[i].name);
        if (!unlink(path)) {
            freed += all->ref[i].bytes;
            dd_log(DR_LOG_INFO, "reference.removed", "bytes=%lld path=%s",
                   (long long)all->ref[i].bytes, dd_log_quote(path, q, sizeof q));
        }
        free(path);
    }
    return freed;
}

void dd_refs_trim(const char *state_dir, int64_t bytes) {
    char *folder = dd_printf("%s/" DD_REFS, state_dir);
    const struct refs all = read_all(folder);
    drop(folder, &all, all.bytes - bytes, 1);
    free(all.ref);
    free(folder);
}

int64_t dd_refs_free(const char *state_dir, int64_t bytes) {
    char *folder = dd_printf("%s/" DD_REFS, state_dir);
    const struct refs all = read_all(folder);
    const int64_t freed = drop(folder, &all, bytes, 0);
    free(all.ref);
    free(folder);
    return freed;
}
