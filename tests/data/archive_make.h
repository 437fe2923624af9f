// Writes archives for tests into the test's folder.
#pragma once

#include "tests/data/import_run.h"

#include <archive.h>
#include <archive_entry.h>

// By its name: the format and the wrapping (".zip", ".tar.gz", ...), "ustar" or "gnu" for another
// tar than pax, "utf8" for names that are marked as UTF-8, "padded" for half a MiB of zeros at the
// end.
static inline struct archive *new_archive(const char *name) {
    struct archive *a = archive_write_new();
    if (strstr(name, ".zip")) {
        archive_write_set_format_zip(a);
    } else {
        if (strstr(name, "ustar"))
            archive_write_set_format_ustar(a);
        else if (strstr(name, "gnu"))
            archive_write_set_format_gnutar(a);
        else
            archive_write_set_format_pax_restricted(a);
        if (strstr(name, ".gz"))
            archive_write_add_filter_gzip(a);
        else if (strstr(name, ".xz"))
            archive_write_add_filter_xz(a);
        else if (strstr(name, ".zst"))
            archive_write_add_filter_zstd(a);
    }
    if (strstr(name, "padded"))
        archive_write_set_bytes_per_block(a, 1 << 19);
    if (strstr(name, "utf8"))
        assert_int_equal(archive_write_set_options(a, "hdrcharset=UTF-8"), ARCHIVE_OK);
    assert_int_equal(archive_write_open_filename(a, at(name)), ARCHIVE_OK);
    return a;
}

static inline void add(struct archive *a, const char *name, unsigned type, const char *link,
                       const void *p, size_t n) {
    struct archive_entry *e = archive_entry_new();
    archive_entry_set_pathname(e, name);
    archive_entry_set_filetype(e, type);
    archive_entry_set_perm(e, 0644);
    archive_entry_set_size(e, (la_int64_t)n);
    if (link && type == AE_IFLNK)
        archive_entry_set_symlink(e, link);
    else if (link)
        archive_entry_set_hardlink(e, link);
    // A warning: the name is not of the C locale.
    assert_true(archive_write_header(a, e) >= ARCHIVE_WARN);
    if (n)
        assert_int_equal(archive_write_data(a, p, n), n);
    archive_entry_free(e);
}

static inline void add_made(struct archive *a, const char *name, struct made m) {
    add(a, name, AE_IFREG, NULL, m.p, m.n);
    free(m.p);
}

static inline void add_level(struct archive *a, const char *name, int level) {
    const uint8_t v = (uint8_t)level;
    add_made(a, name, make_flat(10, 10, v, v, v));
}

static inline void finish(struct archive *a) {
    assert_int_equal(archive_write_close(a), ARCHIVE_OK);
    archive_write_free(a);
}
