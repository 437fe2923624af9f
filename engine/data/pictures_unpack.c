// The wrapping of an archive (gzip, xz, zstd, bzip2), unpacked as a stream of its own below the
// archive's reader. The reader stops at the archive's last entry; whoever owns this stream reads on
// to its end, where the checksums are that tell damage from data. gzip is read by zlib, as
// libarchive passes over the length and the checksum of that format.
#include "engine/data/pictures_priv.h"

#include "driftd_config.h"

#if DR_HAVE_ARCHIVE

#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#define BLOCK ((size_t)1 << 16)

struct unpack {
    gzFile gz; // one of the two
    struct archive *raw;
    int64_t bytes; // unpacked
    uint8_t block[BLOCK];
};

static int open_gzip(struct unpack *u, int fd) {
    const int own = dup(fd);
    if (own >= 0 && !(u->gz = gzdopen(own, "rb")))
        close(own);
    return u->gz && !gzbuffer(u->gz, BLOCK) ? 0 : DR_ENOMEM;
}

// The library has more filters, some of which start programs.
static int open_raw(struct unpack *u, int fd) {
    struct archive_entry *e;
    if (!(u->raw = archive_read_new()))
        return DR_ENOMEM;
    archive_read_support_filter_xz(u->raw);
    archive_read_support_filter_zstd(u->raw);
    archive_read_support_filter_bzip2(u->raw);
    archive_read_support_format_raw(u->raw);
    if (archive_read_open_fd(u->raw, fd, BLOCK) != ARCHIVE_OK)
        return DR_EFORMAT;
    if (archive_filter_count(u->raw) <= 1) // nothing but the file
        return DR_ENOENT;
    return archive_read_next_header(u->raw, &e) == ARCHIVE_OK ? 0 : DR_EFORMAT;
}

int unpack_open(int fd, struct unpack **out, struct dr_err *err) {
    uint8_t magic[2] = {0};
    *out = NULL;
    struct unpack *u = malloc(sizeof *u);
    if (!u)
        return dr_fail(err, DR_ENOMEM, "no memory to unpack an archive");
    u->gz = NULL;
    u->raw = NULL;
    u->bytes = 0;
    const bool gzip = pread(fd, magic, 2, 0) == 2 && magic[0] == 0x1f && magic[1] == 0x8b;
    int rc = gzip ? open_gzip(u, fd) : open_raw(u, fd);
    if (!rc) {
        *out = u;
        return 0;
    }
    if (rc == DR_ENOMEM)
        dr_fail(err, rc, "no memory to unpack an archive");
    else if (rc == DR_EFORMAT)
        dr_fail(err, rc, "%.120s", unpack_said(u));
    unpack_close(u);
    return rc == DR_ENOENT && lseek(fd, 0, SEEK_SET) == 0 ? 0 : rc;
}

int64_t unpack_read(struct unpack *u, const uint8_t **p) {
    int64_t n;
    int code = Z_OK;
    if (u->gz) {
        n = gzread(u->gz, u->block, BLOCK);
        if (!n)
            gzerror(u->gz, &code); // zlib counts a file that ends too early as ended
    } else {
        do
            n = archive_read_data(u->raw, u->block, BLOCK);
        while (n == ARCHIVE_RETRY);
    }
    if (n < 0 || code != Z_OK)
        return -1;
    u->bytes += n;
    *p = u->block;
    return n;
}

const char *unpack_said(struct unpack *u) {
    int code;
    const char *s = u->gz ? gzerror(u->gz, &code) : archive_error_string(u->raw);
    if (u->gz && s[0] == '<' && strchr(s, ' ')) // "<fd:7>: "
        s = strchr(s, ' ') + 1;
    return s && *s ? s : "its packed data are damaged or end too early";
}

int64_t unpack_bytes(const struct unpack *u) {
    return u->bytes;
}

int64_t unpack_packed(struct unpack *u) {
    return u->gz ? (int64_t)gzoffset(u->gz) : archive_filter_bytes(u->raw, -1);
}

void unpack_close(struct unpack *u) {
    if (u && u->gz)
        gzclose(u->gz);
    if (u && u->raw)
        archive_read_free(u->raw);
    free(u);
}

#endif
