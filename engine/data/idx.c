// idx files (MNIST's format: big-endian magic, sizes, bytes), plain or gzip, where to find them,
// and the sets that consist of them. Nothing in a file is trusted: magic, sizes against the file's
// length, and the end of the data are checked, and for gzip the checksum.
#include "engine/data/data_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define SIDE_MAX 4096
#define DEFLATE_RATIO 1040 // deflate cannot expand by more (1032:1 and a margin)

struct idx {
    const char *path;
    gzFile gz;
    int64_t size; // of the file on disk
};

static void idx_close(struct idx *f) {
    if (f->gz)
        gzclose_r(f->gz);
    f->gz = NULL;
}

static int idx_open(struct idx *f, const char *path, struct dr_err *err) {
    *f = (struct idx){.path = path};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // opening a FIFO must not wait
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

// Reads exactly n bytes. Short files and broken gzip streams are DR_EFORMAT, the rest DR_EIO.
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
        return dr_fail(err, DR_EFORMAT, "%.300s: more data than its sizes announce", f->path);
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

// `dir`/`name` or the same with .gz, whichever exists: malloc'd, or NULL.
static char *find_file(const char *dir, const char *name) {
    for (int gz = 0; gz < 2; gz++) {
        char *path;
        if (asprintf(&path, "%s/%s%s", dir, name, gz ? ".gz" : "") < 0)
            return NULL;
        if (!access(path, F_OK))
            return path;
        free(path);
    }
    return NULL;
}

static bool has_file(const char *dir, const char *name) {
    char *path = find_file(dir, name);
    free(path);
    return path != NULL;
}

// These sets have the same file names: a folder named after another one is not ours.
static bool foreign_folder(const char *root, const char *set) {
    const char *slash = strrchr(root, '/'), *base = slash ? slash + 1 : root;
    const struct dr_set_facts *f;
    for (int i = 0; (f = dr_set_facts(i)); i++)
        if (!f->made && !f->folder && !strcmp(base, f->name) && strcmp(set, f->name))
            return true;
    return false;
}

// The folder that holds `images` of the set: below $DRIFTD_DATA, then below data_dir, then these
// themselves. *dir is malloc'd.
static int find_folder(const struct dr_set_query *q, const char *images, char **dir,
                       struct dr_err *err) {
    const char *env = getenv("DRIFTD_DATA"), *path = q->cfg->path;
    const char *root[2] = {env && *env ? env : NULL,
                           q->data_dir && *q->data_dir ? q->data_dir : NULL};
    char tried[240] = "";
    if (!dr_path_is_below(path))
        return dr_fail_at(err, DR_ECONFIG, "data.path",
                          "data.path '%.200s' must be a folder below the data directory", path);
    for (int i = 0; i < 2; i++) {
        if (!root[i])
            continue;
        if (asprintf(dir, "%s/%s", root[i], path[0] ? path : q->name) < 0)
            return dr_fail(err, DR_ENOMEM, "%s: out of memory", q->name);
        if (has_file(*dir, images))
            return 0;
        size_t n = strlen(tried);
        snprintf(tried + n, sizeof tried - n, "%s%.150s", n ? ", " : "", *dir);
        free(*dir);
        if (foreign_folder(root[i], q->name) || !has_file(root[i], images))
            continue;
        if (!(*dir = strdup(root[i])))
            return dr_fail(err, DR_ENOMEM, "%s: out of memory", q->name);
        return 0;
    }
    char fetch[60] = ""; // only sets that have an official place
    if (strcmp(q->name, "idx") != 0)
        snprintf(fetch, sizeof fetch, "fetch it with `driftctl fetch %.20s`, or ", q->name);
    return dr_fail(
        err, DR_ENOENT,
        "%s: no %s[.gz] in %s; %sset $DRIFTD_DATA or --data-dir to the folder that holds "
        "it",
        q->name, images, *tried ? tried : "any folder, as no data directory is set", fetch);
}

struct pair {
    uint8_t *pixels, *label; // [n,h,w], [n]; malloc'd
    int64_t n, h, w;
};

static void pair_free(struct pair *p) {
    free(p->pixels);
    free(p->label);
}

static int check_labels(const struct pair *p, const char *path, int64_t classes,
                        struct dr_err *err) {
    for (int64_t i = 0; i < p->n; i++)
        if (p->label[i] >= classes)
            return dr_fail(err, DR_EFORMAT,
                           "%.300s: label %" PRId64 " is %d, expected 0 to %" PRId64
                           " (data.classes)",
                           path, i, p->label[i], classes - 1);
    return 0;
}

static int read_pair(const char *dir, const char *images, const char *labels, int64_t classes,
                     struct pair *p, struct dr_err *err) {
    char *image_path = find_file(dir, images), *label_path = find_file(dir, labels);
    int64_t n = 0;
    int rc = 0;
    if (!image_path || !label_path)
        rc = dr_fail(err, DR_ENOENT, "%.300s: %s[.gz] is missing beside the images", dir, labels);
    if (!rc)
        rc = dr_idx_read_images(image_path, &p->pixels, &p->n, &p->h, &p->w, err);
    if (!rc)
        rc = dr_idx_read_labels(label_path, &p->label, &n, err);
    if (!rc && n != p->n)
        rc = dr_fail(err, DR_EFORMAT,
                     "%.300s has %" PRId64 " labels, but there are %" PRId64 " images beside it",
                     label_path, n, p->n);
    if (!rc)
        rc = check_labels(p, label_path, classes, err);
    free(image_path);
    free(label_path);
    return rc;
}

static int fit_pair(struct dr_dataset *d, const struct dr_data_config *cfg, const struct pair *p,
                    struct dr_err *err) {
    const int64_t size = cfg->size;
    void *values = NULL;
    d->n = cfg->limit ? DR_MIN(cfg->limit, p->n) : p->n;
    d->c = 1;
    d->h = d->w = size;
    int rc = dr_fit_check(cfg, p->h, p->w, err);
    if (!rc)
        rc = dr_dataset_alloc(d, &values, err);
    for (int64_t i = 0; i < d->n && !rc; i++) {
        rc = dr_fit_plane(cfg, p->pixels + i * p->h * p->w, p->h, p->w,
                          (uint8_t *)values + i * size * size, err);
        d->label[i] = p->label[i];
    }
    return rc;
}

static int open_named(struct dr_dataset *d, const struct dr_set_query *q,
                      const char *const names[10], struct dr_err *err) {
    const char *images = q->test ? "t10k-images-idx3-ubyte" : "train-images-idx3-ubyte";
    const char *labels = q->test ? "t10k-labels-idx1-ubyte" : "train-labels-idx1-ubyte";
    struct pair p = {0};
    char *dir = NULL;
    int rc = find_folder(q, images, &dir, err);
    if (rc)
        return rc;
    if (q->look) {
        rc = has_file(dir, labels) ? 0 : DR_ENOENT;
        free(dir);
        return rc;
    }
    rc = read_pair(dir, images, labels, q->cfg->classes ? q->cfg->classes : 256, &p, err);
    if (!rc)
        rc = fit_pair(d, q->cfg, &p, err);
    for (int k = 0; names && k < 10 && !rc; k++)
        rc = dr_dataset_name(d, k, names[k], err);
    pair_free(&p);
    free(dir);
    return rc;
}

int dr_open_mnist(struct dr_dataset *d, const struct dr_set_query *q, struct dr_err *err) {
    static const char *const names[10] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
    return open_named(d, q, names, err);
}

int dr_open_fashion(struct dr_dataset *d, const struct dr_set_query *q, struct dr_err *err) {
    static const char *const names[10] = {"T-shirt/top", "Trouser",   "Pullover", "Dress",
                                          "Coat",        "Sandal",    "Shirt",    "Sneaker",
                                          "Bag",         "Ankle boot"};
    return open_named(d, q, names, err);
}

// The files of a folder that the configuration names, their classes without names.
int dr_open_idx(struct dr_dataset *d, const struct dr_set_query *q, struct dr_err *err) {
    return open_named(d, q, NULL, err);
}
