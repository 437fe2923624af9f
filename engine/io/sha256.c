// SHA-256 of memory and of files. See sha256.h; called by the safetensors writer and by whoever
// copies or verifies a checkpoint.
#include "engine/io/sha256.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/io/safetensors.h"

void dr_sha256_init(struct dr_sha256 *s) {
    sha256_init(&s->state);
}

void dr_sha256_update(struct dr_sha256 *s, const void *p, size_t n) {
    sha256_update(&s->state, n, p);
}

void dr_sha256_hex(struct dr_sha256 *s, char hex[65]) {
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_digest(&s->state, sizeof digest, digest);
    for (size_t i = 0; i < sizeof digest; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

int dr_sha256_file(const char *path, char hex[65], struct dr_err *err) {
    enum { CHUNK = 1 << 20 };
    // O_NONBLOCK: a FIFO must not hang the caller before fstat refuses it.
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    if (fd < 0)
        return dr_fail(err, errno == ENOENT ? DR_ENOENT : DR_EIO, "%.300s: cannot open: %s", path,
                       strerror(errno));
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        close(fd);
        return dr_fail(err, DR_EFORMAT, "%.300s: not a regular file", path);
    }
    uint8_t *buf = malloc(CHUNK);
    if (!buf) {
        close(fd);
        return dr_fail(err, DR_ENOMEM, "%.300s: no memory for a read buffer", path);
    }
    struct dr_sha256 s;
    dr_sha256_init(&s);
    ssize_t got;
    while ((got = read(fd, buf, CHUNK)) != 0) {
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            break;
        dr_sha256_update(&s, buf, (size_t)got);
    }
    int rc = got < 0 ? dr_fail(err, DR_EIO, "%.300s: cannot read: %s", path, strerror(errno)) : 0;
    free(buf);
    close(fd);
    if (!rc)
        dr_sha256_hex(&s, hex);
    return rc;
}
