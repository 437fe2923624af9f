// Unpacks the regular files of an archive into one folder, by their last path component only, so
// that no archive can write elsewhere. For `driftctl fetch cifar10`. libarchive reads the formats.
#include "api/client/ctl.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 1 << 16 };
#define MAX_FILE (1LL << 30)

static int copy_out(struct archive *a, const char *path, char *err, size_t n) {
    char block[BLOCK];
    la_ssize_t got = 0;
    int64_t size = 0;
    FILE *out = fopen(path, "wbe");
    bool ok = out, written = out;
    while (ok && (got = archive_read_data(a, block, sizeof block)) > 0) {
        written = fwrite(block, 1, (size_t)got, out) == (size_t)got;
        ok = written && (size += got) <= MAX_FILE;
    }
    if (out && fclose(out) && ok)
        written = ok = false;
    if (!written)
        snprintf(err, n, "%s: %s", path, strerror(errno));
    else if (got < 0)
        snprintf(err, n, "the archive is damaged: %s", archive_error_string(a));
    else if (!ok)
        snprintf(err, n, "%s: larger than %lld bytes", path, (long long)MAX_FILE);
    return ok && got == 0 ? 0 : -1;
}

static int entry(struct archive *a, struct archive_entry *e, const char *dir, char *err, size_t n) {
    const char *name = archive_entry_pathname(e);
    const char *slash = name ? strrchr(name, '/') : NULL;
    const char *base = slash ? slash + 1 : name;
    if (!base || !*base || *base == '.' || archive_entry_filetype(e) != AE_IFREG ||
        archive_entry_hardlink(e))
        return 0;
    char *path = ctl_printf("%s/%s", dir, base), *part = ctl_printf("%s.part", path);
    int rc = copy_out(a, part, err, n);
    if (!rc && rename(part, path)) {
        snprintf(err, n, "%s: %s", path, strerror(errno));
        rc = -1;
    }
    if (rc)
        unlink(part);
    free(part);
    free(path);
    return rc;
}

int ctl_unpack(const char *archive, const char *dir, char *err, size_t n) {
    struct archive *a = archive_read_new();
    struct archive_entry *e;
    int rc = 0, got = ARCHIVE_FATAL;
    if (!a) {
        snprintf(err, n, "out of memory");
        return -1;
    }
    archive_read_support_filter_gzip(a);
    archive_read_support_format_tar(a);
    archive_read_support_format_zip(a);
    if (archive_read_open_filename(a, archive, BLOCK) == ARCHIVE_OK)
        while (!rc && (got = archive_read_next_header(a, &e)) >= ARCHIVE_WARN && got != ARCHIVE_EOF)
            rc = entry(a, e, dir, err, n);
    if (!rc && got != ARCHIVE_EOF) {
        const char *why = archive_error_string(a);
        snprintf(err, n, "the archive is damaged: %s", why ? why : "unknown format");
        rc = -1;
    }
    archive_read_free(a);
    return rc;
}
