// idx files (MNIST's format: big-endian magic, sizes, bytes), plain or gzip, and where to find
// them. Called by dr_dataset_load, tests and importers. A file is believed in nothing: magic, sizes
// against the file's length, and the end of the data are checked, for gzip the checksum with it.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "engine/data/data_priv.h"

#define SIDE_MAX 4096
#define DEFLATE_RATIO 1040 // deflate cannot expand by more (1032:1 and a margin)

struct idx {
    const char *path;
    gzFile gz;
    int64_t size; // of the file as it lies on disk
};

static void idx_close(struct idx *f) {
    if (f->gz)
        gzclose_r(f->gz);
    f->gz = NULL;
}

static int idx_open(struct idx *f, const char *path, struct dr_err *err) {
    *f = (struct idx){.path = path};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO must not hang us
    if (fd < 0)
        return dr_fail(err, errno == ENOENT ? DR_ENOENT : DR_EIO, "%.300s: cannot open: %s", path,
                       strerror(errno));
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        close(fd);
        return dr_fail(err, DR_EFORMAT, "%.300s: not a regular file", path);
    }
    f->size = st.st_size;
    f->gz = gzdopen(fd, "rb");
    if (!f->gz) {
        close(fd);
        return dr_fail(err, DR_ENOMEM, "%.300s: no memory to read it", path);
    }
    gzbuffer(f->gz, 1 << 18);
    return 0;
}

// Exactly n bytes; a short file or a broken gzip stream is told apart from an I/O error.
static int idx_read(struct idx *f, void *out, int64_t n, const char *what, struct dr_err *err) {
    uint8_t *p = out;
    int64_t done = 0;
    while (done < n) {
        int got = gzread(f->gz, p + done, (unsigned)DR_MIN(n - done, 1 << 24));
        if (got <= 0)
            break;
        done += got;
    }
    if (done == n)
        return 0;
    int code;
    const char *msg = gzerror(f->gz, &code);
    if (code == Z_ERRNO)
        return dr_fail(err, DR_EIO, "%.300s: cannot read: %s", f->path, strerror(errno));
    if (code == Z_OK || code == Z_BUF_ERROR)
        return dr_fail(err, DR_EFORMAT,
                       "%.300s: the file is truncated: %s has %" PRId64 " bytes, expected %" PRId64,
                       f->path, what, done, n);
    return dr_fail(err, DR_EFORMAT, "%.300s: broken gzip data: %.100s", f->path, msg);
}

// Nothing may follow the data; reading to the end also makes zlib check the gzip checksum.
static int idx_end(struct idx *f, struct dr_err *err) {
    char byte;
    int got = gzread(f->gz, &byte, 1), code;
    gzerror(f->gz, &code);
    if (got == 0 && (code == Z_OK || code == Z_STREAM_END))
        return 0;
    if (got > 0)
        return dr_fail(err, DR_EFORMAT, "%.300s: data goes on after what its sizes announce",
                       f->path);
    return dr_fail(err, DR_EFORMAT, "%.300s: the gzip data is truncated or its checksum is wrong",
                   f->path);
}

static int64_t be32(const uint8_t *p) {
    return (int64_t)p[0] << 24 | (int64_t)p[1] << 16 | (int64_t)p[2] << 8 | p[3];
}

// Reads a whole idx file of bytes with ndim sizes (1: labels, 3: images).
static int read_idx(const char *path, int ndim, int64_t dim[3], uint8_t **out, struct dr_err *err) {
    struct idx f;
    uint8_t head[16];
    *out = NULL;
    int rc = idx_open(&f, path, err);
    if (rc)
        return rc;
    const int64_t magic = 0x800 + ndim;
    const char *kind = ndim == 3 ? "images" : "labels";
    rc = idx_read(&f, head, 4 + 4 * ndim, "the header", err);
    if (!rc && be32(head) != magic)
        rc = dr_fail(err, DR_EFORMAT,
                     "%.300s: magic number is 0x%08" PRIx64 ", expected 0x%08" PRIx64
                     " (idx %s of bytes)",
                     path, be32(head), magic, kind);
    int64_t count = 1;
    for (int i = 0; i < ndim && !rc; i++) {
        dim[i] = be32(head + 4 + 4 * i);
        if (dim[i] < 1 || (i && dim[i] > SIDE_MAX))
            rc = dr_fail(err, DR_EFORMAT,
                         "%.300s: size %d of the %s is %" PRId64 ", expected 1 to %" PRId64, path,
                         i, kind, dim[i], i ? (int64_t)SIDE_MAX : INT64_C(4294967295));
        count *= rc ? 1 : dim[i]; // below 2^56
    }
    if (!rc && count / DEFLATE_RATIO > f.size)
        rc = dr_fail(err, DR_EFORMAT,
                     "%.300s: announces %" PRId64 " bytes of %s, which a file of %" PRId64
                     " bytes cannot hold: truncated or damaged",
                     path, count, kind, f.size);
    if (!rc && !(*out = malloc((size_t)count)))
        rc = dr_fail(err, DR_ENOMEM, "%.300s: no memory for %" PRId64 " bytes", path, count);
    if (!rc)
        rc = idx_read(&f, *out, count, kind, err);
    if (!rc)
        rc = idx_end(&f, err);
    idx_close(&f);
    if (rc) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

int dr_idx_read_images(const char *path, uint8_t **pixels, int64_t *n, int64_t *h, int64_t *w,
                       struct dr_err *err) {
    int64_t dim[3];
    int rc = read_idx(path, 3, dim, pixels, err);
    if (!rc)
        *n = dim[0], *h = dim[1], *w = dim[2];
    return rc;
}

int dr_idx_read_labels(const char *path, uint8_t **labels, int64_t *n, struct dr_err *err) {
    int64_t dim[3];
    int rc = read_idx(path, 1, dim, labels, err);
    if (!rc)
        *n = dim[0];
    return rc;
}

// `dir`/`name` or the same with .gz, whichever exists.
static bool find_file(const char *dir, const char *name, char *out, size_t size) {
    for (int gz = 0; gz < 2; gz++)
        if ((size_t)snprintf(out, size, "%s/%s%s", dir, name, gz ? ".gz" : "") < size &&
            access(out, F_OK) == 0)
            return true;
    return false;
}

// MNIST and Fashion-MNIST have the same file names: a folder named after another set is not ours.
static bool foreign_folder(const char *root, const char *set) {
    static const char *const known[] = {"mnist", "fashion-mnist"};
    const char *slash = strrchr(root, '/'), *base = slash ? slash + 1 : root;
    for (size_t i = 0; i < DR_COUNT(known); i++)
        if (!strcmp(base, known[i]) && strcmp(set, known[i]))
            return true;
    return false;
}

static bool path_is_below(const char *path) {
    if (path[0] == '/')
        return false;
    for (const char *p = path; p; p = strchr(p, '/'), p = p ? p + 1 : NULL)
        if (!strncmp(p, "..", 2) && (p[2] == '/' || !p[2]))
            return false;
    return true;
}

// The folder that holds `images` of the set: below $DRIFTD_DATA, then below data_dir, then these
// themselves.
static int find_folder(const struct dr_data_config *cfg, const char *set, const char *data_dir,
                       const char *images, char *dir, size_t size, struct dr_err *err) {
    const char *env = getenv("DRIFTD_DATA");
    const char *root[2] = {env && *env ? env : NULL, data_dir && *data_dir ? data_dir : NULL};
    const char *sub = cfg->path[0] ? cfg->path : set;
    char file[1200], tried[240] = "";
    if (!path_is_below(cfg->path))
        return dr_fail(err, DR_ECONFIG,
                       "data.path '%.200s' must be a folder below the data directory", cfg->path);
    for (int i = 0; i < 2; i++) {
        if (!root[i])
            continue;
        snprintf(dir, size, "%s/%s", root[i], sub);
        if (find_file(dir, images, file, sizeof file))
            return 0;
        size_t n = strlen(tried);
        snprintf(tried + n, sizeof tried - n, "%s%.150s", n ? ", " : "", dir);
        snprintf(dir, size, "%s", root[i]);
        if (!foreign_folder(dir, set) && find_file(dir, images, file, sizeof file))
            return 0;
    }
    return dr_fail(err, DR_ENOENT,
                   "%s: no %s[.gz] in %s; fetch it with `driftctl fetch %.20s`, or set "
                   "$DRIFTD_DATA or --data-dir to the folder that holds it",
                   set, images, *tried ? tried : "any folder, as no data directory is set", set);
}

static int read_pair(const char *dir, const char *images, const char *labels, uint8_t **pixels,
                     uint8_t **label, int64_t *n, int64_t *h, int64_t *w, struct dr_err *err) {
    char image_path[1200], label_path[1200];
    find_file(dir, images, image_path, sizeof image_path);
    if (!find_file(dir, labels, label_path, sizeof label_path))
        return dr_fail(err, DR_ENOENT, "%.300s: %s[.gz] is missing beside the images", dir, labels);
    int rc = dr_idx_read_images(image_path, pixels, n, h, w, err);
    int64_t nl = 0;
    if (!rc)
        rc = dr_idx_read_labels(label_path, label, &nl, err);
    if (!rc && nl != *n)
        rc = dr_fail(err, DR_EFORMAT,
                     "%.300s has %" PRId64 " labels, but there are %" PRId64 " images beside it",
                     label_path, nl, *n);
    return rc;
}

int dr_idx_load_set(const struct dr_data_config *cfg, const char *set, const char *data_dir,
                    bool test_split, uint8_t **pixels, uint8_t **labels, int64_t *n, int64_t *h,
                    int64_t *w, struct dr_err *err) {
    const char *images = test_split ? "t10k-images-idx3-ubyte" : "train-images-idx3-ubyte";
    const char *lab = test_split ? "t10k-labels-idx1-ubyte" : "train-labels-idx1-ubyte";
    char dir[1024];
    *pixels = *labels = NULL;
    int rc = find_folder(cfg, set, data_dir, images, dir, sizeof dir, err);
    if (!rc)
        rc = read_pair(dir, images, lab, pixels, labels, n, h, w, err);
    for (int64_t i = 0; i < *n && !rc; i++)
        if ((*labels)[i] >= cfg->classes)
            rc = dr_fail(err, DR_EFORMAT,
                         "%.200s/%s: label %" PRId64 " is %d, expected 0 to %" PRId64
                         " (data.classes)",
                         dir, lab, i, (*labels)[i], cfg->classes - 1);
    if (rc) {
        free(*pixels);
        free(*labels);
        *pixels = *labels = NULL;
    }
    return rc;
}
