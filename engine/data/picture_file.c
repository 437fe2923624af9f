// The picture file (see pictures.h; docs/data.md has its layout): a header of one page, the pixels
// of the training and then of the test split, their labels, and the report of the import as JSON.
// Numbers are little-endian.
#include "engine/core/mapped.h"
#include "engine/data/pictures_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC "DRPICS1\n"
#define PAGE 4096
#define JSON_MAX ((int64_t)1 << 30)

struct head {
    char magic[8];
    int64_t n[2], c, size, classes; // train, test
    uint64_t fingerprint[2];        // of the splits as data sets
    int64_t label_at, json_at, json_bytes, bytes;
    uint64_t sum; // FNV-1a of the labels, the JSON and of this header with sum 0
};

// ---- writing

struct sink {
    struct dr_import *im;
    FILE *f;
    const char *map; // the spool
};

static int put(const struct sink *s, const void *p, size_t n) {
    return fwrite(p, 1, n, s->f) == n ? 0 : import_write_failed(s->im);
}

// Pixels of one split in their final order, and the fingerprint that dr_dataset_open would take.
static int write_split(const struct sink *s, int split, struct head *h) {
    struct dr_import *im = s->im;
    const int64_t shape[] = {h->n[split], h->c, h->size, h->size, h->classes};
    uint64_t f = dr_fnv1a(DR_FNV1A_START, shape, sizeof shape);
    int rc = 0;
    for (int64_t i = 0; i < im->list.n && !rc; i++) {
        const struct pic_entry *e = &im->list.e[i];
        if (e->split != split)
            continue;
        const void *row = s->map + (size_t)e->slot * im->row;
        f = dr_fnv1a(f, row, im->row);
        rc = put(s, row, im->row);
        im->at.done++;
        im->at.to_write -= (int64_t)im->row;
        if (!rc)
            rc = import_wrote(im, (int64_t)im->row);
    }
    for (int64_t i = 0; i < im->list.n; i++)
        if (im->list.e[i].split == split)
            f = dr_fnv1a(f, &im->list.e[i].label, sizeof im->list.e[i].label);
    h->fingerprint[split] = f;
    return rc;
}

static int write_labels(const struct sink *s, struct head *h) {
    int rc = 0;
    h->sum = DR_FNV1A_START;
    for (int64_t i = 0; i < s->im->list.n && !rc; i++) { // train comes before test
        const int32_t label = s->im->list.e[i].label;
        h->sum = dr_fnv1a(h->sum, &label, sizeof label);
        rc = put(s, &label, sizeof label);
    }
    return rc;
}

static int write_all(const struct sink *s, struct head *h) {
    static const char page[PAGE];
    struct dr_import_report *r = s->im->report;
    int rc = put(s, page, PAGE);
    for (int split = 0; split < 2 && !rc; split++)
        rc = write_split(s, split, h);
    if (!rc)
        rc = write_labels(s, h);
    h->label_at = PAGE + (h->n[0] + h->n[1]) * (int64_t)s->im->row;
    h->json_at = h->label_at + (h->n[0] + h->n[1]) * (int64_t)sizeof(int32_t);
    r->fingerprint = h->fingerprint[0];
    r->file_bytes = h->json_at; // and this report
    char *json = rc ? NULL : dr_import_report_json(r);
    if (!rc && !json)
        rc = dr_fail(s->im->err, DR_ENOMEM, "no memory for a report");
    h->json_bytes = json ? (int64_t)strlen(json) : 0;
    if (h->json_bytes > JSON_MAX)
        rc = dr_fail(s->im->err, DR_EINVAL,
                     "%.200s: the names of its classes and files are longer than a picture file "
                     "holds",
                     s->im->source);
    h->bytes = r->file_bytes = h->json_at + h->json_bytes;
    if (!rc)
        rc = put(s, json, (size_t)h->json_bytes);
    if (!rc)
        h->sum = dr_fnv1a(h->sum, json, (size_t)h->json_bytes);
    free(json);
    struct head zero = *h;
    zero.sum = 0;
    h->sum = dr_fnv1a(h->sum, &zero, sizeof zero);
    if (!rc && fseeko(s->f, 0, SEEK_SET))
        rc = import_write_failed(s->im);
    if (!rc)
        rc = put(s, h, sizeof *h);
    if (!rc && (fflush(s->f) || fsync(fileno(s->f))))
        rc = import_write_failed(s->im);
    return rc;
}

static int write_file(struct dr_import *im, FILE *f) {
    const struct dr_import_report *r = im->report;
    struct head h = {.magic = MAGIC,
                     .n = {r->train, r->test},
                     .c = im->o.channels,
                     .size = im->o.size,
                     .classes = r->classes};
    const size_t bytes = (size_t)im->slots * im->row;
    void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, im->spool, 0);
    if (map == MAP_FAILED)
        return dr_fail(im->err, DR_EIO, "cannot map the pictures of %.300s: %s", im->source,
                       strerror(errno));
    const struct sink s = {.im = im, .f = f, .map = map};
    im->at.stage = DR_IMPORT_WRITING;
    im->at.done = 0;
    im->at.total = r->train + r->test;
    im->at.to_write = im->at.total * (int64_t)im->row;
    int rc = import_progress(im, "", true);
    if (!rc)
        rc = write_all(&s, &h);
    if (!rc)
        rc = import_progress(im, "", true);
    munmap(map, bytes);
    return rc;
}

int picture_file_write(struct dr_import *im, const char *out) {
    char *part;
    if (asprintf(&part, "%s.part-XXXXXX", out) < 0)
        return dr_fail(im->err, DR_ENOMEM, "out of memory");
    int fd = mkostemp(part, O_CLOEXEC);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "wb");
    int rc = f ? 0 : dr_fail(im->err, DR_EIO, "%.300s: cannot create: %s", part, strerror(errno));
    if (!rc)
        rc = write_file(im, f);
    if (f && fclose(f) && !rc)
        rc = dr_fail(im->err, DR_EIO, "%.300s: %s", part, strerror(errno));
    else if (!f && fd >= 0)
        close(fd);
    if (!rc && rename(part, out))
        rc = dr_fail(im->err, DR_EIO, "%.300s: cannot rename it to %.100s: %s", part, out,
                     strerror(errno));
    if (rc && fd >= 0)
        unlink(part);
    free(part);
    return rc;
}

// ---- opening

static int wrong(const char *path, const char *what, struct dr_err *err) {
    return dr_fail(err, DR_EFORMAT, "%.300s: not a sound picture file: %s; import it again", path,
                   what);
}

// A product of sizes that are in range, or -1.
static int64_t pixels_of(const struct head *h) {
    int64_t row, n, all;
    if (h->c < 1 || h->c > 4 || h->size < 1 || h->size > 4096 || h->classes < 1 ||
        h->classes > DR_IMPORT_CLASSES || h->n[0] < 1 || h->n[1] < 0)
        return -1;
    row = h->c * h->size * h->size;
    if (__builtin_add_overflow(h->n[0], h->n[1], &n) || n > INT64_MAX / 16 ||
        __builtin_mul_overflow(n, row, &all) || all > INT64_MAX / 4)
        return -1;
    return all;
}

static int check_head(const char *path, const struct dr_mapped *m, struct head *h,
                      struct dr_err *err) {
    if (m->n < PAGE)
        return wrong(path, "it is shorter than its header", err);
    memcpy(h, m->p, sizeof *h);
    if (memcmp(h->magic, MAGIC, 8))
        return wrong(path, "it does not begin as one", err);
    const int64_t pixels = pixels_of(h);
    if (pixels < 0)
        return wrong(path, "its sizes are impossible", err);
    const int64_t n = h->n[0] + h->n[1];
    if (h->label_at != PAGE + pixels || h->json_at != h->label_at + 4 * n || h->json_bytes < 2 ||
        h->json_bytes > JSON_MAX || h->bytes != h->json_at + h->json_bytes)
        return wrong(path, "its parts do not fit together", err);
    if ((uint64_t)h->bytes != m->n)
        return wrong(path, "it is truncated", err);
    struct head zero = *h;
    zero.sum = 0;
    uint64_t sum = dr_fnv1a(DR_FNV1A_START, m->p + h->label_at, m->n - (size_t)h->label_at);
    return dr_fnv1a(sum, &zero, sizeof zero) == h->sum ? 0
                                                       : wrong(path, "its checksum is wrong", err);
}

static int map_file(const char *path, struct dr_mapped *m, struct head *h, struct dr_err *err) {
    struct stat st;
    *m = (struct dr_mapped){.slot = -1};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = 0;
    if (fd < 0)
        return dr_fail(err, errno == ENOENT ? DR_ENOENT : DR_EIO, "%.300s: cannot open: %s", path,
                       strerror(errno));
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size < PAGE)
        rc = wrong(path, "it is shorter than its header", err);
    const int failed = rc ? 0 : dr_mapped_open(fd, (size_t)st.st_size, m);
    if (failed)
        rc = dr_fail(err, DR_EIO, "%.300s: cannot map: %s", path, strerror(failed));
    close(fd);
    if (!rc)
        rc = check_head(path, m, h, err);
    if (rc)
        dr_mapped_close(m);
    return rc;
}

bool dr_pictures_is_file(const char *path) {
    char magic[8] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    const bool is = fd >= 0 && read(fd, magic, 8) == 8 && !memcmp(magic, MAGIC, 8);
    if (fd >= 0)
        close(fd);
    return is;
}

static int read_report(const char *path, const struct dr_mapped *m, const struct head *h,
                       struct dr_import_report *r, struct dr_err *err) {
    int rc = report_from_json(m->p + h->json_at, (size_t)h->json_bytes, r, err);
    if (!rc && (r->classes != h->classes || r->train != h->n[0] || r->test != h->n[1]))
        rc = wrong(path, "its report is of other pictures", err);
    else if (rc)
        rc = dr_fail_prefix(err, rc, path);
    r->file_bytes = h->bytes;
    r->fingerprint = h->fingerprint[0];
    return rc;
}

int dr_pictures_info(const char *path, struct dr_import_report *report, struct dr_err *err) {
    struct dr_mapped m;
    struct head h;
    *report = (struct dr_import_report){0};
    int rc = map_file(path, &m, &h, err);
    if (rc)
        return rc;
    rc = read_report(path, &m, &h, report, err);
    dr_mapped_close(&m);
    if (rc)
        dr_import_report_free(report);
    return rc;
}

// ---- as a data set

struct query {
    struct dr_set_query q; // first
    const char *path;
    struct dr_mapped map;
    struct head head;
    const struct dr_import_report *report;
    bool *owned; // the map belongs to the data set
};

// What a data set keeps of its file.
struct own {
    struct dr_mapped map;
    char path[300]; // for messages
};

static void unmap(struct dr_dataset *d) {
    struct own *own = d->own;
    if (own)
        dr_mapped_close(&own->map);
    free(own);
}

static int intact(const struct dr_dataset *d, struct dr_err *err) {
    const struct own *own = d->own;
    return dr_mapped_lost(&own->map)
               ? dr_fail(err, DR_EIO,
                         "%.300s: the picture file was truncated, or could not be read, while it "
                         "was in use; import the pictures again",
                         own->path)
               : 0;
}

static int open_mapped(struct dr_dataset *d, const struct dr_set_query *set, struct dr_err *err) {
    const struct query *q = (const struct query *)set;
    const struct head *h = &q->head;
    const int split = set->test;
    const int64_t first = split ? h->n[0] : 0, n = h->n[split], limit = set->cfg->limit;
    struct own *own = malloc(sizeof *own);
    d->n = limit && limit < n ? limit : n;
    d->c = h->c;
    d->h = d->w = h->size;
    d->label = own ? malloc((size_t)d->n * sizeof *d->label) : NULL;
    if (!d->label) {
        free(own);
        return dr_fail(err, DR_ENOMEM, "no memory for %lld labels", (long long)d->n);
    }
    memcpy(d->label, q->map.p + h->label_at + first * 4, (size_t)d->n * sizeof *d->label);
    d->pixels = (const uint8_t *)q->map.p + PAGE + first * h->c * h->size * h->size;
    d->fingerprint = d->n == n ? h->fingerprint[split] : 0; // 0: to be taken
    int rc = 0;
    for (int64_t k = 0; k < d->classes && !rc; k++)
        rc = dr_dataset_name(d, k, q->report->class[k].name, err);
    if (rc) {
        free(own);
        return rc;
    }
    own->map = q->map;
    snprintf(own->path, sizeof own->path, "%s", q->path);
    d->own = own;
    d->release = unmap;
    d->intact = intact;
    *q->owned = true;
    return 0;
}

// The configuration against the file.
static int check_want(const char *path, const struct dr_data_config *want, const struct head *h,
                      const struct dr_import_report *r, bool test, struct dr_err *err) {
    if (test && !h->n[1])
        return dr_fail(
            err, DR_ENOENT,
            "%.300s has no pictures to test with: import it with a test share, or give it "
            "a folder test",
            path);
    if (!want)
        return 0;
    if (want->size && want->size != h->size)
        return dr_fail_at(err, DR_ECONFIG, "data.size",
                          "data.size is %lld, but the pictures of %.200s are %lldx%lld",
                          (long long)want->size, path, (long long)h->size, (long long)h->size);
    if (want->channels && want->channels != h->c)
        return dr_fail_at(err, DR_ECONFIG, "data.channels",
                          "data.channels is %lld, but the pictures of %.200s have %lld",
                          (long long)want->channels, path, (long long)h->c);
    if (want->classes && want->classes != h->classes)
        return dr_fail_at(err, DR_ECONFIG, "data.classes",
                          "data.classes is %lld, but %.200s has %lld (%.40s%s%.40s%s)",
                          (long long)want->classes, path, (long long)h->classes, r->class[0].name,
                          h->classes > 1 ? ", " : "", h->classes > 1 ? r->class[1].name : "",
                          h->classes > 2 ? ", ..." : "");
    return 0;
}

int dr_pictures_open(const char *path, const struct dr_data_config *want, bool test_split,
                     struct dr_dataset **out, struct dr_err *err) {
    static const struct dr_set_facts facts = {.name = "folder"};
    struct dr_data_config cfg = want ? *want : (struct dr_data_config){0};
    struct dr_import_report r = {0};
    bool owned = false;
    struct query q = {.path = path, .owned = &owned};
    *out = NULL;
    int rc = map_file(path, &q.map, &q.head, err);
    if (rc)
        return rc;
    rc = read_report(path, &q.map, &q.head, &r, err);
    if (!rc)
        rc = check_want(path, want, &q.head, &r, test_split, err);
    if (!rc) {
        cfg.size = q.head.size;
        cfg.channels = q.head.c;
        cfg.classes = q.head.classes;
        cfg.count = DR_MAX(cfg.count, 1);
        q.q = (struct dr_set_query){.cfg = &cfg, .name = facts.name, .test = test_split};
        q.report = &r;
        rc = dr_dataset_open(open_mapped, &facts, &q.q, out, err);
    }
    if (!owned)
        dr_mapped_close(&q.map);
    dr_import_report_free(&r);
    return rc;
}
