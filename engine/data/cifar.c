// CIFAR-10 and CIFAR-100 as their authors distribute them, the binary and the python version
// (https://www.cs.toronto.edu/~kriz/cifar.html): 32x32 rgb, planes of red, green and blue. A file
// is known by its name and by what it holds: `train` and `train.bin` are names that others use too.
#include "engine/data/pictures_priv.h"

#include "engine/data/pickle.h"

#include <stdlib.h>
#include <string.h>

enum { SIDE = 32, PIXELS = 3 * SIDE * SIDE };

static const struct part {
    const char *name;
    int order, split; // among the training parts
    int head;         // bytes of labels before a row's pixels; 0: a pickle
    const char *labels;
} parts[] = {
    {"data_batch_1.bin", 1, 0, 1, NULL}, {"data_batch_2.bin", 2, 0, 1, NULL},
    {"data_batch_3.bin", 3, 0, 1, NULL}, {"data_batch_4.bin", 4, 0, 1, NULL},
    {"data_batch_5.bin", 5, 0, 1, NULL}, {"test_batch.bin", 6, 1, 1, NULL},
    {"train.bin", 1, 0, 2, NULL},        {"test.bin", 6, 1, 2, NULL},
    {"data_batch_1", 1, 0, 0, "labels"}, {"data_batch_2", 2, 0, 0, "labels"},
    {"data_batch_3", 3, 0, 0, "labels"}, {"data_batch_4", 4, 0, 0, "labels"},
    {"data_batch_5", 5, 0, 0, "labels"}, {"test_batch", 6, 1, 0, "labels"},
    {"train", 1, 0, 0, "fine_labels"},   {"test", 6, 1, 0, "fine_labels"},
};

static const struct part *part_of(const char *path) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    for (size_t i = 0; i < DR_COUNT(parts); i++)
        if (!strcmp(base, parts[i].name))
            return &parts[i];
    return NULL;
}

bool cifar_has_name(const char *path) {
    return part_of(path) != NULL;
}

struct rows {
    const uint8_t *pixels; // row i at i * stride
    size_t stride;
    const uint8_t *label; // at i * stride; NULL: in list
    const struct dr_pickle *pickle;
    const struct dr_pk *list;
    int64_t n;
};

static int from_binary(const struct part *part, const char *path, const uint8_t *p, size_t n,
                       struct rows *r, struct dr_err *err) {
    const size_t stride = (size_t)part->head + PIXELS;
    if (!n || n % stride)
        return dr_fail(err, DR_EFORMAT,
                       "%.200s has %zu bytes; expected a multiple of %zu, as a row of CIFAR has "
                       "(truncated?)",
                       path, n, stride);
    *r = (struct rows){.pixels = p + part->head,
                       .stride = stride,
                       .label = p + part->head - 1, // fine labels are the second
                       .n = (int64_t)(n / stride)};
    return 0;
}

static int from_pickle(const struct part *part, const char *path, const uint8_t *p, size_t n,
                       struct rows *r, struct dr_pickle **k, struct dr_err *err) {
    if (!n || p[0] != 0x80) // PROTO
        return dr_fail(err, DR_EFORMAT,
                       "%.200s is no pickle of protocol 2 or later, as a part of CIFAR is", path);
    int rc = dr_pickle_read(p, n, k, err);
    if (rc)
        return dr_fail_prefix(err, rc, path);
    const struct dr_pk *root = dr_pickle_root(*k), *data = dr_pk_get(*k, root, "data");
    const struct dr_pk *label = dr_pk_get(*k, root, part->labels);
    const bool fits = data && data->type == DR_PK_ARRAY && data->ndim == 2 && data->width == 1 &&
                      data->dim[1] == PIXELS;
    if (!fits || !label || label->type != DR_PK_LIST || label->items != data->dim[0])
        return dr_fail(err, DR_EFORMAT,
                       "%.200s: expected a dict with `data`, bytes [n,%d], and `%s`, n numbers",
                       path, PIXELS, part->labels);
    *r = (struct rows){
        .pixels = data->p, .stride = PIXELS, .pickle = *k, .list = label, .n = data->dim[0]};
    return 0;
}

static int64_t label_of(const struct rows *r, int64_t i) {
    if (r->label)
        return r->label[(size_t)i * r->stride];
    const struct dr_pk *v = dr_pk_at(r->pickle, r->list, (int32_t)i);
    return v->type == DR_PK_INT ? v->i : -1;
}

static int64_t classes_of(const struct part *part) {
    return part->head == 2 || (part->labels && part->labels[0] == 'f') ? 100 : 10;
}

static int check_labels(const struct part *part, const char *path, const struct rows *r,
                        struct dr_err *err) {
    const int64_t classes = classes_of(part);
    for (int64_t i = 0; i < r->n; i++) {
        const int64_t label = label_of(r, i);
        if (label < 0 || label >= classes)
            return dr_fail(err, DR_EFORMAT, "%.200s: label %lld is %lld, expected 0 to %lld", path,
                           (long long)i, (long long)label, (long long)classes - 1);
    }
    return 0;
}

// Each part once: a copy in another folder, or the other version beside it, would count twice.
static int claim(struct dr_import *im, const struct part *part, const char *path) {
    const int64_t classes = classes_of(part);
    char **taken = &im->cifar_part[part->order];
    if (im->cifar_classes && im->cifar_classes != classes)
        return dr_fail(im->err, DR_EFORMAT, "%.200s: CIFAR-10 and CIFAR-100 in one place", path);
    im->cifar_classes = classes;
    if (*taken)
        return dr_fail(im->err, DR_EFORMAT,
                       "%.200s and %.200s are the same part of CIFAR: leave one of them there",
                       *taken, path);
    *taken = strdup(path);
    return *taken ? 0 : dr_fail(im->err, DR_ENOMEM, "out of memory");
}

// Entries of a part's rows, which follow each other in the spool.
static int add_entries(struct dr_import *im, const struct part *part, const struct rows *r) {
    for (int64_t i = 0; i < r->n; i++) {
        int rc = pic_list_add(&im->list, NULL, im->err);
        if (rc)
            return rc;
        struct pic_entry *e = &im->list.e[im->list.n - 1];
        e->slot = im->slots + i;
        e->order = part->order * (INT64_C(1) << 32) + i;
        e->label = (int32_t)label_of(r, i);
        e->split = part->split;
        e->w = e->h = SIDE;
    }
    return 0;
}

// A row as an interleaved picture, fitted.
static int fit_row(const struct dr_import *im, const uint8_t *in, uint8_t *out,
                   struct dr_err *err) {
    uint8_t rgb[PIXELS];
    for (int i = 0; i < PIXELS; i++)
        rgb[i] = in[i % 3 * SIDE * SIDE + i / 3];
    const struct dr_picture p = {.w = SIDE,
                                 .h = SIDE,
                                 .c = 3,
                                 .full_w = SIDE,
                                 .full_h = SIDE,
                                 .box = {0, 0, SIDE, SIDE},
                                 .pixels = rgb};
    return import_fit(&im->o, &p, out, err);
}

static int spool_rows(struct dr_import *im, const struct rows *r) {
    const int64_t piece = import_rows_at_once(im);
    uint8_t *buf = malloc((size_t)piece * im->row);
    int rc = buf ? 0 : dr_fail(im->err, DR_ENOMEM, "no memory for %lld pictures", (long long)piece);
    for (int64_t from = 0; from < r->n && !rc; from += piece) {
        const int64_t n = DR_MIN(r->n - from, piece);
        int failed = 0;
        struct dr_err first = {0};
#pragma omp parallel for reduction(min : failed)
        for (int64_t i = 0; i < n; i++) {
            struct dr_err err = {0};
            const int one = fit_row(im, r->pixels + (size_t)(from + i) * r->stride,
                                    buf + (size_t)i * im->row, &err);
            failed = DR_MIN(failed, one);
            if (one && i == 0)
                first = err;
        }
        rc = failed ? dr_fail(im->err, failed, "CIFAR: %.200s",
                              first.msg[0] ? first.msg : dr_code_text(failed))
                    : import_spool(im, buf, n);
        im->at.pictures += n;
        if (!rc)
            rc = import_progress(im, "", false);
    }
    free(buf);
    return rc;
}

// A file of a part's name that is none. Whether that matters shows at the end.
static int note_misfit(struct dr_import *im, const struct dr_err *why) {
    if (!im->misfit && !(im->misfit = strdup(why->msg)))
        return dr_fail(im->err, DR_ENOMEM, "out of memory");
    return 0;
}

int cifar_take(struct dr_import *im, const char *path, const uint8_t *p, size_t n, bool *taken) {
    const struct part *part = part_of(path);
    struct dr_pickle *k = NULL;
    struct dr_err why = {0};
    struct rows r;
    *taken = false;
    if (!part)
        return 0;
    int rc = part->head ? from_binary(part, path, p, n, &r, &why)
                        : from_pickle(part, path, p, n, &r, &k, &why);
    if (!rc)
        rc = check_labels(part, path, &r, &why);
    *taken = !rc;
    if (rc == DR_EFORMAT)
        rc = note_misfit(im, &why);
    else if (rc)
        dr_fail(im->err, rc, "%s", why.msg);
    if (*taken) {
        im->cifar = true;
        im->at.done++;
    }
    if (*taken && !im->probing)
        rc = claim(im, part, path);
    if (*taken && !im->probing && !rc)
        rc = add_entries(im, part, &r);
    if (*taken && !im->probing && !rc)
        rc = spool_rows(im, &r);
    dr_pickle_free(k);
    return rc;
}

int cifar_note_missing(struct dr_import *im) {
    static const char *const ten[] = {"data_batch_1", "data_batch_2", "data_batch_3",
                                      "data_batch_4", "data_batch_5", "test_batch"};
    int rc = 0;
    for (int k = 1; k <= CIFAR_PARTS && !rc; k++) {
        const bool one = im->cifar_classes == 10 || k == 1 || k == CIFAR_PARTS;
        const char *name = im->cifar_classes == 10 ? ten[k - 1] : k == 1 ? "train" : "test";
        if (one && !im->cifar_part[k])
            rc = import_note(im, "%s of CIFAR-%lld is missing", name, (long long)im->cifar_classes);
    }
    return rc;
}

const char *cifar_class(int64_t classes, int64_t k) {
    static const char *const ten[] = {"airplane", "automobile", "bird",  "cat",  "deer",
                                      "dog",      "frog",       "horse", "ship", "truck"};
    // clang-format off
    static const char *const hundred[] = {
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
        "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
        "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
        "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
        "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
        "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
        "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
        "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
        "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
        "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm"};
    // clang-format on
    return classes == 10 ? ten[k] : hundred[k];
}
