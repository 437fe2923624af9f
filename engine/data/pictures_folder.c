// A folder as a source of pictures: its files in their natural order, links not followed. Called
// at the start and, to see what changed, at the end of an import.
#include "engine/data/pictures_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

static int by_name(const void *a, const void *b) {
    return pic_natural(((const struct pic_entry *)a)->path, ((const struct pic_entry *)b)->path);
}

// What systems leave in folders.
static bool clutter(const char *name) {
    return name[0] == '.' || !strcasecmp(name, "Thumbs.db") || !strcasecmp(name, "desktop.ini") ||
           !strcmp(name, "__MACOSX");
}

static int visit(FTSENT *e, size_t root, struct pic_list *list, struct dr_import *im, FTS *fts,
                 struct dr_err *err) {
    const char *rel = e->fts_path + root, *why = NULL;
    rel += *rel == '/';
    if (e->fts_level > 0 && clutter(e->fts_name)) {
        fts_set(fts, e, FTS_SKIP);
        return 0;
    }
    switch (e->fts_info) {
    case FTS_D:
        if (e->fts_level > 0 && im && pic_utf8(rel))
            return import_folder(im, rel);
        return 0;
    case FTS_DP:
        return 0;
    case FTS_F:
        if (pic_utf8(rel)) {
            int rc = pic_list_add(list, rel, err);
            if (!rc) {
                list->e[list->n - 1].size = e->fts_statp->st_size;
                list->e[list->n - 1].mtime = (int64_t)e->fts_statp->st_mtim.tv_sec * 1000000000 +
                                             e->fts_statp->st_mtim.tv_nsec;
            }
            return rc;
        }
        why = "its name is not UTF-8";
        break;
    case FTS_SL:
    case FTS_SLNONE:
        why = "links are not followed";
        break;
    case FTS_DNR:
    case FTS_NS:
    case FTS_ERR:
        why = strerror(e->fts_errno);
        break;
    default:
        why = "neither a file nor a folder";
    }
    const bool bad = e->fts_info == FTS_DNR || e->fts_info == FTS_NS || e->fts_info == FTS_ERR;
    return im ? import_skip(im, rel, bad, "%s", why) : 0;
}

int folder_list(const char *source, int64_t max_files, struct pic_list *list, struct dr_import *im,
                struct dr_err *err) {
    char *const roots[] = {(char *)(uintptr_t)source, NULL};
    FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR | FTS_COMFOLLOW, NULL);
    if (!fts)
        return dr_fail(err, DR_EIO, "%.300s: %s", source, strerror(errno));
    int rc = 0;
    errno = 0;
    for (FTSENT *e; !rc && (e = fts_read(fts));) {
        rc = visit(e, strlen(source), list, im, fts, err);
        if (!rc && list->n > max_files)
            rc = dr_fail(err, DR_EINVAL, "%.300s has more than %lld files", source,
                         (long long)max_files);
        if (!rc && im)
            rc = import_check_names(im);
        if (!rc && im && list->n % 1024 == 0)
            rc = import_progress(im, e->fts_name, false);
        errno = 0;
    }
    if (!rc && errno)
        rc = dr_fail(err, DR_EIO, "%.300s: %s", source, strerror(errno));
    fts_close(fts);
    if (list->n)
        qsort(list->e, (size_t)list->n, sizeof *list->e, by_name);
    return rc;
}

static int read_all(int fd, size_t size, uint8_t **p, size_t *n, struct dr_err *err) {
    *p = malloc(size + 1);
    if (!*p)
        return dr_fail(err, DR_ENOMEM, "no memory for a file of %zu bytes", size);
    while (*n <= size) { // one byte more shows that it grows
        ssize_t got = read(fd, *p + *n, size + 1 - *n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return dr_fail(err, DR_EIO, "cannot read: %s", strerror(errno));
        if (!got)
            break;
        *n += (size_t)got;
    }
    return *n == size ? 0 : dr_fail(err, DR_EGONE, "the file changed while it was read");
}

int folder_read(const char *source, const struct pic_entry *e, int64_t max, uint8_t **p, size_t *n,
                struct dr_err *err) {
    char *path;
    struct stat st;
    *p = NULL;
    *n = 0;
    if (e->size > max)
        return dr_fail(err, DR_EINVAL, "%lld bytes are more than the limit of %lld for a file",
                       (long long)e->size, (long long)max);
    if (asprintf(&path, "%s/%s", source, e->path) < 0)
        return dr_fail(err, DR_ENOMEM, "out of memory");
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), rc = 0;
    free(path);
    if (fd < 0 && errno == ENOENT)
        return dr_fail(err, DR_EGONE, "the file was removed during the import");
    if (fd < 0)
        return dr_fail(err, DR_EIO, "cannot open: %s", strerror(errno));
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size != e->size)
        rc = dr_fail(err, DR_EGONE, "the file changed during the import");
    else
        rc = read_all(fd, (size_t)st.st_size, p, n, err);
    close(fd);
    if (rc) {
        free(*p);
        *p = NULL;
    }
    return rc;
}
