// An import from its source to its picture file (see pictures.h): options, progress, the passes
// over the source, and the spool, a file of fitted pictures in their order of arrival. Batches of
// files are decoded on all threads and spooled in order, so that nothing depends on the number of
// threads.
#include "engine/data/pictures_priv.h"

#include "engine/core/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define BATCH 256                      // files
#define BATCH_BYTES ((size_t)64 << 20) // of them, as they are in the source; of fitted pictures
#define DECODED_MAX ((int64_t)1 << 25) // pixels of a picture in memory, per thread
#define AUTO_SIDE 64                   // the largest size that is chosen
#define AUTO_LEAST 32                  // the smallest, unless all pictures are smaller
#define TELL_SECONDS 0.2
#define TELL_BYTES (16 << 20)

struct pic_batch {
    int64_t n, most;
    size_t bytes;
    struct {
        int64_t entry;
        uint8_t *p; // NULL: read by the thread that decodes it
        size_t n;
        int rc;
        bool other; // no picture, by name and content
        struct dr_err err;
        struct dr_picture as; // sizes
    } item[BATCH];
    uint8_t *rows; // [most, row]
};

void dr_import_defaults(struct dr_import_options *o) {
    *o = (struct dr_import_options){.fit = DR_FIT_CROP,
                                    .background = {255, 255, 255},
                                    .test_share = 0.1,
                                    .max_files = 10000000,
                                    .max_names = (int64_t)1 << 30,
                                    .max_bytes = (int64_t)1 << 40,
                                    .max_file_bytes = (int64_t)256 << 20,
                                    .max_pixels = (int64_t)1 << 29,
                                    .max_ratio = 1000,
                                    .max_classes = DR_IMPORT_CLASSES};
}

static void fill_limits(struct dr_import_options *o) {
    struct dr_import_options d;
    dr_import_defaults(&d);
    o->max_files = o->max_files ? o->max_files : d.max_files;
    o->max_names = o->max_names ? o->max_names : d.max_names;
    o->max_bytes = o->max_bytes ? o->max_bytes : d.max_bytes;
    o->max_file_bytes = o->max_file_bytes ? o->max_file_bytes : d.max_file_bytes;
    o->max_pixels = o->max_pixels ? o->max_pixels : d.max_pixels;
    o->max_ratio = o->max_ratio ? o->max_ratio : d.max_ratio;
    o->max_classes = o->max_classes ? o->max_classes : d.max_classes;
}

void dr_import_of_config(const struct dr_data_config *cfg, struct dr_import_options *o) {
    unsigned rgb = 0xffffff;
    dr_import_defaults(o);
    o->size = cfg->size;
    o->channels = cfg->channels;
    o->fit = cfg->fit;
    sscanf(cfg->background, "#%6x", &rgb);
    for (int k = 0; k < 3; k++)
        o->background[k] = (uint8_t)(rgb >> (16 - 8 * k));
    o->refuse_bad = cfg->refuse_bad;
    o->present = cfg->set == DR_DATA_FOLDER; // the others have their number of classes
    o->test_share = cfg->test_share;
    o->seed = (uint64_t)cfg->seed;
}

static int check_options(const struct dr_import_options *o, struct dr_err *err) {
    if (o->size < 0 || o->size > 4096)
        return dr_fail_at(err, DR_EINVAL, "size",
                          "size is %lld; expected 1 to 4096, or 0 to choose", (long long)o->size);
    if (o->channels != 0 && o->channels != 1 && o->channels != 3)
        return dr_fail_at(err, DR_EINVAL, "channels",
                          "channels is %lld; pictures have 1 (grey) or 3 (rgb), or 0 to choose",
                          (long long)o->channels);
    if (!(o->test_share >= 0 && o->test_share <= 0.9))
        return dr_fail_at(err, DR_EINVAL, "test_share", "test_share is %g; expected 0 to 0.9",
                          o->test_share);
    if (o->fit < DR_FIT_PAD || o->fit > DR_FIT_FIT)
        return dr_fail_at(err, DR_EINVAL, "fit", "fit is %d; expected one of the four", o->fit);
    return 0;
}

// ---- lists

int pic_list_add(struct pic_list *l, const char *path, struct dr_err *err) {
    if (l->n == l->room) {
        const int64_t room = l->room ? 2 * l->room : 256;
        struct pic_entry *e = realloc(l->e, (size_t)room * sizeof *e);
        if (!e)
            return dr_fail(err, DR_ENOMEM, "no memory for %lld files", (long long)room);
        l->e = e;
        l->room = room;
    }
    char *copy = path ? strdup(path) : NULL;
    if (path && !copy)
        return dr_fail(err, DR_ENOMEM, "no memory for the names of files");
    l->e[l->n++] = (struct pic_entry){.path = copy, .slot = -1};
    l->bytes += copy ? (int64_t)strlen(copy) + 1 : 0;
    return 0;
}

void pic_list_free(struct pic_list *l) {
    for (int64_t i = 0; i < l->n; i++)
        free(l->e[i].path);
    free(l->e);
    *l = (struct pic_list){0};
}

int import_check_names(const struct dr_import *im) {
    return im->list.bytes + im->folders.bytes <= im->o.max_names
               ? 0
               : dr_fail(im->err, DR_EINVAL,
                         "%.300s: the names of its files are longer than %lld bytes together",
                         im->source, (long long)im->o.max_names);
}

// ---- progress

int import_progress(struct dr_import *im, const char *now, bool force) {
    const double t = dr_seconds();
    if (!im->progress || (!force && t - im->told < TELL_SECONDS && im->untold < TELL_BYTES))
        return 0;
    im->told = t;
    im->untold = 0;
    im->at.now = now;
    if (im->progress(im->ctx, &im->at))
        return 0;
    return dr_fail(im->err, DR_ECANCELED, "the import was canceled");
}

int import_wrote(struct dr_import *im, int64_t bytes) {
    im->untold += bytes;
    return import_progress(im, "", false);
}

int import_write_failed(struct dr_import *im) {
    return dr_fail(im->err, errno == ENOSPC || errno == EDQUOT ? DR_ENOSPC : DR_EIO,
                   "%.300s: cannot write: %s", im->out, strerror(errno));
}

// ---- the spool

static int open_spool(struct dr_import *im, const char *out) {
    char *path;
    if (asprintf(&path, "%s.part-XXXXXX", out) < 0)
        return dr_fail(im->err, DR_ENOMEM, "out of memory");
    im->spool = mkostemp(path, O_CLOEXEC);
    int rc = 0;
    if (im->spool < 0)
        rc = dr_fail(im->err, errno == ENOSPC ? DR_ENOSPC : DR_EIO, "%.300s: cannot create: %s",
                     path, strerror(errno));
    else
        unlink(path);
    free(path);
    return rc;
}

int import_spool(struct dr_import *im, const void *rows, int64_t n) {
    const char *p = rows;
    size_t left = (size_t)n * im->row;
    off_t at = (off_t)((size_t)im->slots * im->row);
    while (left) {
        ssize_t got = pwrite(im->spool, p, left, at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return import_write_failed(im);
        p += got;
        at += got;
        left -= (size_t)got;
    }
    im->slots += n;
    return import_wrote(im, n * (int64_t)im->row);
}

// ---- batches

static bool named_as_picture(const char *path) {
    static const char *const ext[] = {".jpg", ".jpeg", ".jpe",  ".jfif", ".png",  ".webp", ".gif",
                                      ".bmp", ".tif",  ".tiff", ".heic", ".avif", ".jxl"};
    const char *dot = strrchr(path, '.');
    for (size_t i = 0; dot && i < DR_COUNT(ext); i++)
        if (!strcasecmp(dot, ext[i]))
            return true;
    return false;
}

// One file on a thread of its own: reads, decodes and fits it. Touches its item and row only.
static void decode_item(struct dr_import *im, int64_t i) {
    struct pic_batch *b = im->batch;
    const struct pic_entry *e = &im->list.e[b->item[i].entry];
    struct dr_err *err = &b->item[i].err;
    struct dr_picture *pic = &b->item[i].as;
    int rc = 0;
    if (!b->item[i].p)
        rc = folder_read(im->source, e, im->o.max_file_bytes, &b->item[i].p, &b->item[i].n, err);
    const uint8_t *p = b->item[i].p;
    const size_t n = b->item[i].n;
    b->item[i].other =
        !rc && dr_picture_format(p, n) == DR_PICTURE_NONE && !named_as_picture(e->path);
    if (!rc)
        rc = im->probing ? dr_picture_probe(p, n, pic, err)
                         : dr_picture_decode(p, n, &im->pic, pic, err);
    if (!rc && !im->probing)
        rc = import_fit(&im->o, pic, b->rows + (size_t)i * im->row, err);
    b->item[i].rc = rc;
    free(pic->pixels);
    pic->pixels = NULL;
    free(b->item[i].p);
    b->item[i].p = NULL;
}

static int collect_item(struct dr_import *im, int64_t i) {
    struct pic_batch *b = im->batch;
    struct pic_entry *e = &im->list.e[b->item[i].entry];
    const struct dr_picture *pic = &b->item[i].as;
    if (b->item[i].other)
        return import_skip(im, e->path, false, "not a picture (JPEG, PNG or WebP)");
    if (b->item[i].rc == DR_EGONE)
        return dr_fail(im->err, DR_ECONFLICT, "%.250s: %.240s", e->path, b->item[i].err.msg);
    if (b->item[i].rc) // also one that memory does not suffice for: the others may be smaller
        return import_skip(im, e->path, true, "%s", b->item[i].err.msg);
    e->w = (int32_t)pic->full_w;
    e->h = (int32_t)pic->full_h;
    im->colour |= pic->c == 3;
    if (im->probing) {
        e->slot = 0; // sizes count
        return 0;
    }
    e->slot = im->slots;
    im->at.pictures++;
    return import_spool(im, b->rows + (size_t)i * im->row, 1);
}

int64_t import_rows_at_once(const struct dr_import *im) {
    int64_t least = 1; // as many as there are threads
#ifdef _OPENMP
    least = omp_get_max_threads();
#endif
    const int64_t fit = (int64_t)(BATCH_BYTES / DR_MAX(im->row, 1));
    return DR_MIN(DR_MAX(fit, least), (int64_t)BATCH);
}

// Builds without OpenMP, as the fuzzers are, have one thread.
static bool first_thread(void) {
#ifdef _OPENMP
    return omp_get_thread_num() == 0;
#else
    return true;
#endif
}

int import_flush(struct dr_import *im) {
    struct pic_batch *b = im->batch;
    int rc = 0, stop = 0;
    // A batch of large pictures takes minutes: canceling does not wait for its end.
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < b->n; i++) {
        int seen;
#pragma omp atomic read
        seen = stop;
        if (!seen)
            decode_item(im, i);
        if (!seen && first_thread() && import_progress(im, "", false)) {
#pragma omp atomic write
            stop = 1;
        }
    }
    if (stop) // what was not decoded is freed with the batch
        return DR_ECANCELED;
    for (int64_t i = 0; i < b->n && !rc; i++)
        rc = collect_item(im, i);
    const char *now = b->n ? im->list.e[b->item[b->n - 1].entry].path : "";
    im->at.done += b->n;
    b->n = 0;
    b->bytes = 0;
    return rc ? rc : import_progress(im, now, false);
}

int import_take(struct dr_import *im, int64_t entry, uint8_t *bytes, size_t n) {
    struct pic_batch *b = im->batch;
    int rc = b->n == b->most || (b->n && b->bytes + n > BATCH_BYTES) ? import_flush(im) : 0;
    if (rc) {
        free(bytes);
        return rc;
    }
    memset(&b->item[b->n], 0, sizeof b->item[b->n]);
    b->item[b->n].entry = entry;
    b->item[b->n].p = bytes;
    b->item[b->n].n = n;
    b->n++;
    b->bytes += n;
    return 0;
}

int import_folder(struct dr_import *im, const char *path) {
    return im->probing ? 0 : pic_list_add(&im->folders, path, im->err);
}

static void free_batch(struct dr_import *im) {
    for (int64_t i = 0; im->batch && i < im->batch->n; i++)
        free(im->batch->item[i].p);
    if (im->batch)
        free(im->batch->rows);
    free(im->batch);
    im->batch = NULL;
}

// ---- the passes

// One file of a folder. Those with the name of a part of CIFAR are looked into first; what cannot
// be read is left out by the thread that reads it again.
static int take_file(struct dr_import *im, int64_t i) {
    const struct pic_entry e = im->list.e[i]; // the list may grow
    size_t n = (size_t)DR_MIN(e.size, im->o.max_file_bytes);
    uint8_t *p = NULL;
    bool taken = false;
    int rc = 0;
    im->at.bytes += e.size;
    if (cifar_has_name(e.path) && !folder_read(im->source, &e, im->o.max_file_bytes, &p, &n, NULL))
        rc = cifar_take(im, e.path, p, n, &taken);
    if (!rc && !taken)
        return import_take(im, i, p, n);
    free(p);
    return rc;
}

static int walk_folder(struct dr_import *im) {
    const int64_t n = im->list.n;
    im->at.total = n;
    int rc = 0;
    for (int64_t i = 0; i < n && !rc; i++)
        rc = take_file(im, i);
    return rc ? rc : import_flush(im);
}

static int walk(struct dr_import *im) {
    im->at.stage = DR_IMPORT_DECODING;
    im->at.done = im->at.bytes = im->at.pictures = 0;
    int rc = import_progress(im, "", true);
    if (!rc)
        rc = im->archive ? archive_walk(im) : walk_folder(im);
    return rc;
}

static int by_side(const void *a, const void *b) {
    return *(const int32_t *)a - *(const int32_t *)b;
}

// Sizes seen, into the report.
static int sum_sizes(struct dr_import *im) {
    struct dr_import_report *r = im->report;
    int32_t *side = malloc((size_t)DR_MAX(im->list.n, 1) * sizeof *side);
    int64_t n = 0;
    if (!side)
        return dr_fail(im->err, DR_ENOMEM, "no memory for %lld sizes", (long long)im->list.n);
    r->min_w = r->min_h = INT32_MAX;
    r->max_w = r->max_h = r->upscaled = 0;
    for (int64_t i = 0; i < im->list.n; i++) {
        const struct pic_entry *e = &im->list.e[i];
        if (e->slot < 0 || !e->w)
            continue;
        side[n++] = DR_MIN(e->w, e->h);
        r->min_w = DR_MIN(r->min_w, e->w);
        r->min_h = DR_MIN(r->min_h, e->h);
        r->max_w = DR_MAX(r->max_w, e->w);
        r->max_h = DR_MAX(r->max_h, e->h);
        r->upscaled += DR_MIN(e->w, e->h) < im->o.size;
    }
    qsort(side, (size_t)n, sizeof *side, by_side);
    r->median_side = n ? side[n / 2] : 0;
    if (!n)
        r->min_w = r->min_h = 0;
    free(side);
    return 0;
}

// Size and channels from a look at all headers.
static int choose(struct dr_import *im) {
    im->probing = true;
    int rc = walk(im);
    if (!rc)
        rc = sum_sizes(im);
    const struct dr_import_report *r = im->report;
    const bool same = r->min_w == r->max_w && r->min_h == r->max_h && r->min_w == r->min_h;
    if (!im->o.size)
        im->o.size = im->cifar                                       ? 32
                     : same && r->min_w > 0 && r->min_w <= AUTO_SIDE ? r->min_w
                     : r->median_side >= AUTO_SIDE                   ? AUTO_SIDE
                                                                     : AUTO_LEAST;
    if (!im->o.channels)
        im->o.channels = im->colour || im->cifar ? 3 : 1;
    if (im->archive)
        pic_list_free(&im->list);
    for (int64_t i = 0; i < im->list.n; i++)
        im->list.e[i].slot = -1;
    im->probing = im->cifar = false;
    im->bad = 0;
    return rc;
}

// Whether the folder is as it was listed.
static int unchanged(struct dr_import *im, const struct pic_list *before) {
    struct pic_list now = {0};
    int rc = folder_list(im->source, im->o.max_files, &now, NULL, im->err);
    int64_t i = 0, k = 0, fresh = 0, gone = 0, changed = 0;
    const char *first = NULL;
    while (!rc && (i < before->n || k < now.n)) {
        const struct pic_entry *a = i < before->n ? &before->e[i] : NULL,
                               *b = k < now.n ? &now.e[k] : NULL;
        const int c = !a ? 1 : !b ? -1 : pic_natural(a->path, b->path);
        const bool differs = c || a->size != b->size || a->mtime != b->mtime;
        if (differs && !first)
            first = c > 0 ? b->path : a->path;
        fresh += c > 0;
        gone += c < 0;
        changed += !c && differs;
        i += c <= 0;
        k += c >= 0;
    }
    if (!rc && first)
        rc = dr_fail(im->err, DR_ECONFLICT,
                     "%.200s changed during the import (%lld files new, %lld gone, %lld changed; "
                     "the first is %.120s): start it again when nothing is writing there",
                     im->source, (long long)fresh, (long long)gone, (long long)changed, first);
    pic_list_free(&now);
    return rc;
}

static int copy_names(const struct pic_list *from, struct pic_list *to, struct dr_err *err) {
    int rc = 0;
    for (int64_t i = 0; i < from->n && !rc; i++) {
        rc = pic_list_add(to, from->e[i].path, err);
        if (!rc) {
            to->e[i].size = from->e[i].size;
            to->e[i].mtime = from->e[i].mtime;
        }
    }
    return rc;
}

static int start_batches(struct dr_import *im) {
    im->row = (size_t)(im->o.channels * im->o.size * im->o.size);
    im->pic = (struct dr_picture_options){.side = im->o.fit == DR_FIT_PAD ? 0 : im->o.size,
                                          .max_pixels = im->o.max_pixels,
                                          .max_decoded = DECODED_MAX};
    memcpy(im->pic.background, im->o.background, 3);
    free_batch(im);
    im->batch = calloc(1, sizeof *im->batch);
    const int64_t most = import_rows_at_once(im);
    if (im->batch) {
        im->batch->most = most;
        im->batch->rows = malloc(DR_MAX(im->row, 1) * (size_t)most);
    }
    return im->batch && im->batch->rows
               ? 0
               : dr_fail(im->err, DR_ENOMEM, "no memory for %lld pictures of %lldx%lld",
                         (long long)most, (long long)im->o.size, (long long)im->o.size);
}

static int run(struct dr_import *im, const char *out) {
    struct pic_list before = {0};
    struct stat a = {0}, b = {0};
    int rc = stat(im->source, &a) ? dr_fail(im->err, errno == ENOENT ? DR_ENOENT : DR_EIO,
                                            "%.300s: %s", im->source, strerror(errno))
                                  : 0;
    im->archive = !S_ISDIR(a.st_mode);
    if (!rc && im->archive && !S_ISREG(a.st_mode))
        rc = dr_fail(im->err, DR_EFORMAT, "%.300s: neither a folder nor a file", im->source);
    im->at.total_bytes = im->archive ? a.st_size : 0;
    if (!rc)
        rc = import_progress(im, "", true);
    if (!rc && !im->archive)
        rc = folder_list(im->source, im->o.max_files, &im->list, im, im->err);
    if (!rc && !im->archive)
        rc = copy_names(&im->list, &before, im->err);
    for (int64_t i = 0; i < before.n; i++)
        im->at.total_bytes += before.e[i].size;
    if (!rc)
        rc = start_batches(im);
    if (!rc && (!im->o.size || !im->o.channels))
        rc = choose(im);
    if (!rc)
        rc = start_batches(im);
    if (!rc)
        rc = open_spool(im, out);
    if (!rc)
        rc = walk(im);
    if (!rc && im->archive &&
        (stat(im->source, &b) || a.st_size != b.st_size ||
         memcmp(&a.st_mtim, &b.st_mtim, sizeof a.st_mtim)))
        rc = dr_fail(im->err, DR_ECONFLICT, "%.300s changed while it was read", im->source);
    if (!rc && !im->archive)
        rc = unchanged(im, &before);
    pic_list_free(&before);
    im->report->read_bytes = im->at.total_bytes;
    if (!rc)
        rc = layout(im);
    return rc ? rc : sum_sizes(im);
}

int dr_pictures_import(const char *source, const char *out, const struct dr_import_options *o,
                       dr_import_progress_fn progress, void *ctx, struct dr_import_report *report,
                       struct dr_err *err) {
    struct dr_import_report own = {0};
    struct dr_err local = {0};
    struct dr_import im = {.source = source,
                           .out = out,
                           .o = *o,
                           .progress = progress,
                           .ctx = ctx,
                           .report = report ? report : &own,
                           .spool = -1,
                           .err = err ? err : &local};
    const double start = dr_seconds();
    *im.report = (struct dr_import_report){0};
    im.at.now = "";
    im.format = "folder";
    fill_limits(&im.o);
    int rc = check_options(o, im.err);
    if (!rc)
        rc = run(&im, out);
    im.report->size = im.o.size;
    im.report->channels = im.o.channels;
    im.report->fit = im.o.fit;
    im.report->seconds = dr_seconds() - start;
    if (!rc && asprintf(&im.report->source, "%s%s", im.cifar ? "CIFAR, " : "", im.format) < 0) {
        im.report->source = NULL;
        rc = dr_fail(im.err, DR_ENOMEM, "out of memory");
    }
    if (!rc)
        rc = picture_file_write(&im, out);
    free_batch(&im);
    pic_list_free(&im.list);
    pic_list_free(&im.folders);
    for (int k = 0; k <= CIFAR_PARTS; k++)
        free(im.cifar_part[k]);
    free(im.misfit);
    if (im.spool >= 0)
        close(im.spool);
    dr_import_report_free(&own);
    return rc;
}
