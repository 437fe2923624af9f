// A zip or tar as a source of pictures, read by libarchive as a stream: nothing is unpacked to the
// disk. What leaves the archive, links and devices are left out with a reason; limits on files, on
// bytes and on their ratio to the archive's own end it. An archive that is damaged or cut off
// fails.
#include "engine/data/pictures_priv.h"

#include "driftd_config.h"

#if DR_HAVE_ARCHIVE

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK ((size_t)1 << 16)
#define RATIO_FREE ((int64_t)64 << 20) // unpacked bytes before the ratio counts

struct walk {
    struct dr_import *im;
    struct archive *a;
    struct unpack *u;       // NULL: it is not wrapped
    bool utf8;              // the locale's encoding
    bool damaged;           // its wrapping
    int64_t entries, bytes; // unpacked, of entries that were read or passed over
    uint8_t block[BLOCK];
};

// What the library says of the last call, without its name.
static const char *said(struct archive *a) {
    const char *s = archive_error_string(a);
    return s ? s : "it cannot be read";
}

static int broken(const struct walk *w, const char *name) {
    return dr_fail(
        w->im->err, DR_EFORMAT,
        "%.200s: the archive is damaged or truncated after %lld entries (%.100s): %.100s",
        w->im->source, (long long)w->entries, name, said(w->a));
}

static int no_archive(const struct walk *w) {
    if (w->damaged)
        return broken(w, "at its start");
    return dr_fail(w->im->err, DR_EFORMAT,
                   "%.300s: neither a folder nor a zip or tar archive that can be read: %.120s",
                   w->im->source, said(w->a));
}

// Bytes read of the file.
static int64_t packed_bytes(const struct walk *w) {
    return w->u ? unpack_packed(w->u) : archive_filter_bytes(w->a, -1);
}

static int check_limits(const struct walk *w) {
    const struct dr_import_options *o = &w->im->o;
    const int64_t packed = DR_MAX(packed_bytes(w), 1);
    const int64_t unpacked =
        DR_MAX(w->u ? unpack_bytes(w->u) : archive_filter_bytes(w->a, 0), w->bytes);
    if (w->entries > o->max_files)
        return dr_fail(w->im->err, DR_EINVAL, "%.300s has more than %lld entries", w->im->source,
                       (long long)o->max_files);
    int rc = import_check_names(w->im);
    if (rc)
        return rc;
    if (unpacked > o->max_bytes)
        return dr_fail(w->im->err, DR_EINVAL, "%.300s unpacks to more than %lld bytes",
                       w->im->source, (long long)o->max_bytes);
    if (unpacked > RATIO_FREE && unpacked / packed > o->max_ratio)
        return dr_fail(w->im->err, DR_EFORMAT,
                       "%.300s unpacks to more than %lld times its size: it looks like an archive "
                       "made to fill memory",
                       w->im->source, (long long)o->max_ratio);
    return 0;
}

// Why an entry is left out; NULL: it is a file or a folder with a name that stays inside.
static const char *unwanted(const struct walk *w, struct archive_entry *e, const char *name) {
    if (!name)
        return w->utf8 ? "its name cannot be converted to UTF-8"
                       : "its name needs the locale C.UTF-8, which this system does not have";
    if (!*name)
        return "it has no name";
    if (strlen(name) >= PATH_MAX)
        return "its name is longer than a path may be";
    if (name[0] == '/')
        return "its name is an absolute path";
    if (!dr_path_is_below(name))
        return "its name leaves the archive (..)";
    if (archive_entry_hardlink(e) || archive_entry_filetype(e) == AE_IFLNK)
        return "links are not followed";
    if (archive_entry_filetype(e) != AE_IFREG && archive_entry_filetype(e) != AE_IFDIR)
        return "neither a file nor a folder";
    if (archive_entry_is_encrypted(e))
        return "it is encrypted";
    return pic_utf8(name) ? NULL : "its name is not UTF-8";
}

// Files that systems add, with or without a folder of their own.
static bool clutter(const char *name) {
    for (const char *p = name; p; p = strchr(p, '/'), p = p ? p + 1 : NULL)
        if ((p[0] == '.' && p[1] != '/') || !strncmp(p, "__MACOSX/", 9))
            return true;
    const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
    return !strcasecmp(base, "Thumbs.db") || !strcasecmp(base, "desktop.ini");
}

// The bytes of the entry at hand, malloc'd. bad: what is wrong with this entry alone.
static int read_entry(struct walk *w, const char *name, uint8_t **p, size_t *n, const char **bad) {
    const int64_t most = w->im->o.max_file_bytes;
    size_t room = 0;
    *p = NULL;
    *n = 0;
    *bad = NULL;
    for (;;) {
        if (*n == room) {
            const size_t next = room ? 2 * room : BLOCK;
            uint8_t *q = realloc(*p, next);
            if (!q) {
                *bad = "there is no memory for it";
                return 0;
            }
            *p = q;
            room = next;
        }
        const la_ssize_t got = archive_read_data(w->a, *p + *n, DR_MIN(room - *n, (size_t)1 << 20));
        if (got == ARCHIVE_RETRY)
            continue;
        if (got == ARCHIVE_FATAL)
            return broken(w, name);
        if (got < 0) {
            *bad = said(w->a);
            return 0;
        }
        if (!got)
            return 0;
        *n += (size_t)got;
        w->bytes += got;
        if ((int64_t)*n > most) {
            *bad = "it is larger than the limit for a file";
            return 0;
        }
        int rc = check_limits(w);
        if (rc)
            return rc;
    }
}

// Passes over an entry, a block at a time, so that limits and cancelling hold.
static int pass_over(struct walk *w, const char *name) {
    for (;;) {
        const la_ssize_t got = archive_read_data(w->a, w->block, BLOCK);
        if (got == ARCHIVE_RETRY)
            continue;
        if (got == ARCHIVE_FATAL)
            return broken(w, name);
        if (got <= 0)
            return 0;
        w->bytes += got;
        int rc = check_limits(w);
        if (!rc)
            rc = import_progress(w->im, name, false);
        if (rc)
            return rc;
    }
}

static int take_file(struct walk *w, const char *name) {
    struct dr_import *im = w->im;
    uint8_t *p;
    size_t n;
    const char *bad;
    bool taken = false;
    int rc = read_entry(w, name, &p, &n, &bad);
    if (!rc && bad) {
        rc = import_skip(im, name, true, "%s", bad);
        if (!rc)
            rc = pass_over(w, name);
    } else if (!rc) {
        rc = cifar_take(im, name, p, n, &taken);
    }
    if (!rc && !bad && !taken) {
        rc = pic_list_add(&im->list, name, im->err);
        if (!rc) {
            rc = import_take(im, im->list.n - 1, p, n);
            p = NULL;
        }
    }
    free(p);
    return rc;
}

// "./a//b" as "a/b", without a slash at the end.
static char *tidy(const char *name) {
    char *out = malloc(strlen(name) + 1), *o = out;
    for (const char *p = name; out && *p;) {
        if ((o == out || o[-1] == '/') && p[0] == '.' && (p[1] == '/' || !p[1])) {
            p += p[1] ? 2 : 1;
            continue;
        }
        if (*p == '/' && (o == out || o[-1] == '/')) {
            p++;
            continue;
        }
        *o++ = *p++;
    }
    if (out) {
        o -= o > out && o[-1] == '/';
        *o = 0;
    }
    return out;
}

static int take_entry(struct walk *w, struct archive_entry *e) {
    const char *utf8 = archive_entry_pathname_utf8(e), *raw = archive_entry_pathname(e);
    const char *stored = utf8 ? utf8 : raw, *why = unwanted(w, e, stored);
    char *name = tidy(stored ? stored : "(no name)");
    int rc = name ? 0 : dr_fail(w->im->err, DR_ENOMEM, "out of memory");
    w->entries++;
    w->im->format =
        (archive_format(w->a) & ARCHIVE_FORMAT_BASE_MASK) == ARCHIVE_FORMAT_ZIP ? "zip" : "tar";
    if (!rc && why)
        rc = import_skip(w->im, stored ? stored : "(no name)", false, "%s", why);
    else if (!rc && archive_entry_filetype(e) == AE_IFDIR)
        rc = *name && !clutter(name) ? import_folder(w->im, name) : 0;
    else if (!rc && !clutter(name))
        rc = take_file(w, name);
    if (!rc)
        rc = pass_over(w, name);
    w->im->at.bytes = packed_bytes(w);
    free(name);
    return rc;
}

// What follows the last entry in the wrapping: padding, and the checksums of all before it.
static int drain(struct walk *w) {
    for (;;) {
        const uint8_t *p;
        const int64_t n = unpack_read(w->u, &p);
        if (n < 0)
            return dr_fail(w->im->err, DR_EFORMAT,
                           "%.200s: the archive is damaged: %lld entries were read, but its "
                           "checksum is wrong or missing (%.100s)",
                           w->im->source, (long long)w->entries, unpack_said(w->u));
        if (!n)
            return 0;
        int rc = check_limits(w);
        if (!rc)
            rc = import_progress(w->im, "", false);
        if (rc)
            return rc;
    }
}

// No entry is left. A tar ends with a block of zeros; libarchive takes the end of the file for it
// as well, so that a tar that was cut off between two entries would lose the rest in silence.
static int end(struct walk *w) {
    const bool tar = (archive_format(w->a) & ARCHIVE_FORMAT_BASE_MASK) == ARCHIVE_FORMAT_TAR;
    if (w->entries && tar && archive_filter_bytes(w->a, 0) == archive_read_header_position(w->a))
        return dr_fail(w->im->err, DR_EFORMAT,
                       "%.200s: the archive is truncated: after %lld entries the file ends without "
                       "the mark that ends a tar",
                       w->im->source, (long long)w->entries);
    int rc = w->u ? drain(w) : 0;
    return rc ? rc : import_flush(w->im);
}

static int each_entry(struct walk *w) {
    for (;;) {
        struct archive_entry *e;
        int rc = archive_read_next_header(w->a, &e);
        if (rc == ARCHIVE_RETRY)
            continue;
        if (rc == ARCHIVE_EOF)
            return end(w);
        if (rc == ARCHIVE_FATAL && !w->entries)
            return no_archive(w);
        if (rc == ARCHIVE_FATAL || rc == ARCHIVE_FAILED)
            return broken(w, "at the next entry");
        rc = take_entry(w, e);
        if (!rc)
            rc = check_limits(w);
        if (rc)
            return rc;
    }
}

static la_ssize_t feed(struct archive *a, void *walk, const void **block) {
    struct walk *w = walk;
    const uint8_t *p = NULL;
    const int64_t n = unpack_read(w->u, &p);
    if (n < 0) {
        w->damaged = true;
        archive_set_error(a, EIO, "%s", unpack_said(w->u));
    }
    *block = p;
    return n < 0 ? ARCHIVE_FATAL : (la_ssize_t)n;
}

static int open_archive(struct walk *w, int fd) {
    struct dr_err why = {0};
    int rc = unpack_open(fd, &w->u, &why);
    if (rc)
        return dr_fail(w->im->err, rc, "%.300s: %s%.150s", w->im->source,
                       rc == DR_EFORMAT ? "the archive is damaged: " : "", why.msg);
    archive_read_support_format_tar(w->a);
    archive_read_support_format_zip(w->a);
    rc = w->u ? archive_read_open(w->a, w, NULL, feed, NULL)
              : archive_read_open_fd(w->a, fd, BLOCK); // a zip is read from its end
    return rc == ARCHIVE_OK ? 0 : no_archive(w);
}

static int walk(struct dr_import *im, bool utf8) {
    struct walk *w = calloc(1, sizeof *w);
    struct archive *a = archive_read_new();
    int fd = open(im->source, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = 0;
    if (!w || !a)
        rc = dr_fail(im->err, DR_ENOMEM, "no memory to read an archive");
    else if (fd < 0)
        rc = dr_fail(im->err, DR_EIO, "%.300s: cannot open: %s", im->source, strerror(errno));
    if (!rc) {
        w->im = im;
        w->a = a;
        w->utf8 = utf8;
        rc = open_archive(w, fd);
    }
    if (!rc)
        rc = each_entry(w);
    if (!rc && !w->entries)
        rc = dr_fail(im->err, DR_EFORMAT, "%.300s: the archive is empty", im->source);
    if (a)
        archive_read_free(a);
    if (w)
        unpack_close(w->u);
    if (fd >= 0)
        close(fd);
    free(w);
    return rc;
}

// libarchive gives names by way of the locale's encoding, and the daemon has the locale C: there a
// name beyond ASCII is lost. Where this system has no C.UTF-8, the locale stays, and names that
// cannot be had are left out with that reason.
int archive_walk(struct dr_import *im) {
    locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0), before = (locale_t)0;
    if (utf8)
        before = uselocale(utf8);
    int rc = walk(im, utf8 != (locale_t)0);
    if (utf8) {
        uselocale(before);
        freelocale(utf8);
    }
    return rc;
}

#else

int archive_walk(struct dr_import *im) {
    return dr_fail(
        im->err, DR_EUNSUPPORTED,
        "%.300s: this build reads no archives, as it was made without libarchive; unpack "
        "it into a folder",
        im->source);
}

#endif
