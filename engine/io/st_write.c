// safetensors writer (see safetensors.h). Called by checkpoint writing and export. The file appears
// under its name whole or not at all: temporary in the same folder, fsync, rename, fsync of the
// folder. Bytes are a function of what was added and in which order.
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "engine/io/safetensors.h"
#include "engine/io/sha256.h"

#define CHUNK ((size_t)4 << 20) // bytes a write(2), and hashed while they are in cache

struct piece {
    const void *p;
    size_t n;
};

struct dr_st_writer {
    json_t *root; // header, in the order of the calls
    json_t *meta; // borrowed from root; NULL before the first key
    struct piece *piece;
    size_t n, room;
    int64_t bytes; // data so far
};

static const struct {
    const char *name;
    int64_t size;
} dtypes[] = {
    [DR_ST_F32] = {"F32", 4},   [DR_ST_F64] = {"F64", 8}, [DR_ST_F16] = {"F16", 2},
    [DR_ST_BF16] = {"BF16", 2}, [DR_ST_I64] = {"I64", 8}, [DR_ST_I32] = {"I32", 4},
    [DR_ST_U8] = {"U8", 1},
};

int dr_st_writer_new(struct dr_st_writer **out, struct dr_err *err) {
    struct dr_st_writer *w = *out = calloc(1, sizeof *w);
    if (w && !(w->root = json_object())) {
        free(w);
        w = *out = NULL;
    }
    return w ? 0 : dr_fail(err, DR_ENOMEM, "no memory for a safetensors writer");
}

void dr_st_writer_free(struct dr_st_writer *w) {
    if (!w)
        return;
    json_decref(w->root);
    free(w->piece);
    free(w);
}

int dr_st_add(struct dr_st_writer *w, const char *name, enum dr_st_dtype t, int ndim,
              const int64_t *dim, const void *data, struct dr_err *err) {
    size_t len = strlen(name);
    if (!len || len >= sizeof((struct dr_st_tensor *)0)->name || !strcmp(name, "__metadata__"))
        return dr_fail(err, DR_EINVAL, "'%.60s' cannot name a tensor (1 to 127 bytes)", name);
    if (json_object_get(w->root, name))
        return dr_fail(err, DR_EINVAL, "tensor '%s' was added twice", name);
    if (t >= DR_ST_OTHER || ndim < 0 || ndim > 8)
        return dr_fail(err, DR_EINVAL, "tensor '%s': dtype %d of %d dimensions cannot be written",
                       name, (int)t, ndim);
    int64_t bytes = dtypes[t].size, end;
    json_t *shape = json_array();
    bool ok = shape;
    for (int i = 0; i < ndim && ok; i++)
        ok = dim[i] >= 0 && !__builtin_mul_overflow(bytes, dim[i], &bytes) &&
             !json_array_append_new(shape, json_integer(dim[i]));
    if (!ok || __builtin_add_overflow(w->bytes, bytes, &end)) {
        json_decref(shape);
        return dr_fail(err, DR_EINVAL, "tensor '%s': its shape is negative or overflows", name);
    }
    if (w->n == w->room) {
        size_t room = w->room ? 2 * w->room : 64;
        struct piece *p = realloc(w->piece, room * sizeof *p);
        if (!p) {
            json_decref(shape);
            return dr_fail(err, DR_ENOMEM, "no memory for tensor '%s'", name);
        }
        w->piece = p;
        w->room = room;
    }
    json_t *e = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtypes[t].name, "shape", shape,
                          "data_offsets", (json_int_t)w->bytes, (json_int_t)end);
    if (json_object_set_new(w->root, name, e))
        return dr_fail(err, DR_EINVAL, "tensor '%s': no memory, or its name is not UTF-8", name);
    w->piece[w->n++] = (struct piece){.p = data, .n = (size_t)bytes};
    w->bytes = end;
    return 0;
}

int dr_st_add_meta(struct dr_st_writer *w, const char *key, const char *value, struct dr_err *err) {
    if (!w->meta) {
        w->meta = json_object();
        if (json_object_set_new(w->root, "__metadata__", w->meta)) {
            w->meta = NULL;
            return dr_fail(err, DR_ENOMEM, "no memory for metadata");
        }
    }
    if (json_object_set_new(w->meta, key, json_string(value)))
        return dr_fail(err, DR_EINVAL, "metadata '%.60s': no memory, or it is not UTF-8", key);
    return 0;
}

// Length, JSON and spaces up to a multiple of 8, so that the data begins aligned.
static char *make_header(const struct dr_st_writer *w, size_t *size) {
    size_t n = json_dumpb(w->root, NULL, 0, JSON_COMPACT), padded = (n + 7) / 8 * 8;
    char *h = n ? malloc(8 + padded) : NULL;
    if (!h)
        return NULL;
    uint64_t len = padded;
    memcpy(h, &len, 8);
    json_dumpb(w->root, h + 8, n, JSON_COMPACT);
    memset(h + 8 + n, ' ', padded - n);
    *size = 8 + padded;
    return h;
}

static int write_piece(int fd, const void *data, size_t n, struct dr_sha256 *sha) {
    const char *p = data;
    while (n) {
        ssize_t got = write(fd, p, DR_MIN(n, CHUNK));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            errno = got ? errno : EIO;
            return -1;
        }
        if (sha)
            dr_sha256_update(sha, p, (size_t)got);
        p += got;
        n -= (size_t)got;
    }
    return 0;
}

static int io_error(struct dr_err *err, const char *path, const char *what) {
    int code = errno == ENOSPC || errno == EDQUOT ? DR_ENOSPC
               : errno == ENOENT                  ? DR_ENOENT
                                                  : DR_EIO;
    return dr_fail(err, code, "%.300s: cannot %s: %s", path, what, strerror(errno));
}

static int sync_folder(const char *path, struct dr_err *err) {
    char dir[4096];
    const char *slash = strrchr(path, '/');
    const size_t len = slash ? (size_t)(slash - path) + 1 : 1;
    if (len >= sizeof dir) {
        errno = ENAMETOOLONG;
        return io_error(err, path, "sync its folder");
    }
    memcpy(dir, slash ? path : ".", len);
    dir[len] = '\0';
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    // EINVAL: some file systems cannot sync a folder, and there is nothing more to be done.
    int rc = fd < 0 || (fsync(fd) < 0 && errno != EINVAL) ? io_error(err, dir, "sync folder") : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

static int open_tmp(const char *path, char *tmp, size_t size) {
    for (int i = 0; i < 100; i++) {
        uint32_t r = 0;
        if (getrandom(&r, sizeof r, 0) != (ssize_t)sizeof r)
            r = (uint32_t)getpid() + (uint32_t)i;
        if ((size_t)snprintf(tmp, size, "%s.%08x.tmp", path, r) >= size) {
            errno = ENAMETOOLONG;
            return -1;
        }
        int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 || errno != EEXIST)
            return fd;
    }
    return -1;
}

static int write_all(const struct dr_st_writer *w, int fd, const char *header, size_t hlen,
                     struct dr_sha256 *sha) {
    int rc = write_piece(fd, header, hlen, sha);
    for (size_t i = 0; i < w->n && !rc; i++)
        rc = write_piece(fd, w->piece[i].p, w->piece[i].n, sha);
    return rc;
}

int dr_st_finish(struct dr_st_writer *w, const char *path, char *sha256_hex, int64_t *bytes,
                 struct dr_err *err) {
    struct dr_sha256 sha;
    dr_sha256_init(&sha);
    size_t hlen = 0;
    char tmp[4096], *header = make_header(w, &hlen);
    int rc = 0, fd = -1;
    if (!header)
        rc = dr_fail(err, DR_ENOMEM, "%.300s: no memory for the header", path);
    else if ((fd = open_tmp(path, tmp, sizeof tmp)) < 0)
        rc = io_error(err, path, "create a temporary file beside it");
    else if (write_all(w, fd, header, hlen, sha256_hex ? &sha : NULL) || fsync(fd))
        rc = io_error(err, path, "write");
    if (fd >= 0 && close(fd) && !rc)
        rc = io_error(err, path, "close");
    if (fd >= 0 && !rc && rename(tmp, path))
        rc = io_error(err, path, "rename the finished file");
    if (fd >= 0 && rc)
        unlink(tmp);
    if (!rc)
        rc = sync_folder(path, err);
    if (!rc && sha256_hex)
        dr_sha256_hex(&sha, sha256_hex);
    if (!rc && bytes)
        *bytes = (int64_t)hlen + w->bytes;
    free(header);
    dr_st_writer_free(w);
    return rc;
}
