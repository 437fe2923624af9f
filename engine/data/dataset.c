// Builds a data set in memory: read or drawn, fitted to the asked size, indexed by class,
// fingerprinted (see data.h). Called by the trainer when a job starts.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/data/data_priv.h"

static const char *const set_names[] = {
    [DR_DATA_DIGITS] = "digits",
    [DR_DATA_MNIST] = "mnist",
    [DR_DATA_FASHION] = "fashion-mnist",
    [DR_DATA_IDX] = "idx",
    [DR_DATA_CHECKERBOARD] = "toy-checkerboard",
    [DR_DATA_SWISS_ROLL] = "toy-swiss-roll",
    [DR_DATA_TWO_MODES] = "toy-two-modes",
};
static const char *const fashion_names[] = {"T-shirt/top", "Trouser",   "Pullover", "Dress",
                                            "Coat",        "Sandal",    "Shirt",    "Sneaker",
                                            "Bag",         "Ankle boot"};

// Centred on black (0, which stands for -1); an odd remainder goes to the right and bottom.
static void pad(const uint8_t *in, int64_t h, int64_t w, uint8_t *out, int64_t size) {
    int64_t y0 = (size - h) / 2, x0 = (size - w) / 2;
    memset(out, 0, (size_t)(size * size));
    for (int64_t y = 0; y < h; y++)
        memcpy(out + (y0 + y) * size + x0, in + y * w, (size_t)w);
}

// Bilinear between pixel centres (source = (target + 0.5) * scale - 0.5, edges clamped), without
// antialiasing.
static void resize(const uint8_t *in, int64_t h, int64_t w, uint8_t *out, int64_t size) {
    float sy = (float)h / (float)size, sx = (float)w / (float)size;
    for (int64_t y = 0; y < size; y++) {
        float fy = DR_MIN(DR_MAX(((float)y + 0.5f) * sy - 0.5f, 0), (float)(h - 1));
        int64_t y0 = (int64_t)fy, y1 = DR_MIN(y0 + 1, h - 1);
        float ty = fy - (float)y0;
        for (int64_t x = 0; x < size; x++) {
            float fx = DR_MIN(DR_MAX(((float)x + 0.5f) * sx - 0.5f, 0), (float)(w - 1));
            int64_t x0 = (int64_t)fx, x1 = DR_MIN(x0 + 1, w - 1);
            float tx = fx - (float)x0;
            float a = in[y0 * w + x0] + tx * (float)(in[y0 * w + x1] - in[y0 * w + x0]);
            float b = in[y1 * w + x0] + tx * (float)(in[y1 * w + x1] - in[y1 * w + x0]);
            out[y * size + x] = (uint8_t)(a + ty * (b - a) + 0.5f);
        }
    }
}

static int alloc_pixels(struct dr_dataset *d, int64_t size, struct dr_err *err) {
    d->c = 1;
    d->h = d->w = size;
    int64_t bytes;
    if (__builtin_mul_overflow(d->n, size * size, &bytes) || !(d->pixels = malloc((size_t)bytes)) ||
        !(d->label = malloc((size_t)d->n * sizeof *d->label)))
        return dr_fail(err, DR_ENOMEM, "no memory for %" PRId64 " images of %" PRId64 "x%" PRId64,
                       d->n, size, size);
    return 0;
}

static int load_idx(struct dr_dataset *d, const struct dr_data_config *cfg, const char *data_dir,
                    bool test_split, struct dr_err *err) {
    uint8_t *px = NULL, *lab = NULL;
    int64_t n = 0, h = 0, w = 0;
    int rc = dr_idx_load_set(cfg, d->name, data_dir, test_split, &px, &lab, &n, &h, &w, err);
    if (rc)
        return rc;
    d->n = cfg->limit ? DR_MIN(cfg->limit, n) : n;
    if (cfg->fit == DR_FIT_PAD && (h > cfg->size || w > cfg->size))
        rc = dr_fail(err, DR_ECONFIG,
                     "data.size %" PRId64 " cannot be reached by padding images of %" PRId64
                     "x%" PRId64 ": use data.fit \"resize\" or a size of at least %" PRId64,
                     cfg->size, h, w, DR_MAX(h, w));
    if (!rc)
        rc = alloc_pixels(d, cfg->size, err);
    for (int64_t i = 0; i < d->n && !rc; i++) {
        uint8_t *out = d->pixels + i * cfg->size * cfg->size;
        (cfg->fit == DR_FIT_PAD ? pad : resize)(px + i * h * w, h, w, out, cfg->size);
        d->label[i] = lab[i];
    }
    free(px);
    free(lab);
    return rc;
}

// Images made by code: `count` to train on, a fifth of that (at least 16) to test with.
static void made_count(struct dr_dataset *d, const struct dr_data_config *cfg, bool test_split) {
    d->n = test_split ? DR_MAX(cfg->count / 5, 16) : cfg->count;
    if (cfg->limit)
        d->n = DR_MIN(d->n, cfg->limit);
}

static int make_digits(struct dr_dataset *d, const struct dr_data_config *cfg, bool test_split,
                       struct dr_err *err) {
    made_count(d, cfg, test_split);
    int rc = alloc_pixels(d, cfg->size, err);
    if (rc)
        return rc;
    const uint64_t first = test_split ? DR_DATA_TEST_INDEX : 0;
    const int64_t n = d->n, size = cfg->size;
#pragma omp parallel for schedule(dynamic, 64)
    for (int64_t i = 0; i < n; i++) {
        d->label[i] = (int32_t)(i % 10);
        dr_digit_draw((uint64_t)cfg->seed, first + (uint64_t)i, d->label[i], size,
                      d->pixels + i * size * size);
    }
    return 0;
}

static int make_toy(struct dr_dataset *d, const struct dr_data_config *cfg, bool test_split,
                    struct dr_err *err) {
    made_count(d, cfg, test_split);
    d->c = 2;
    d->h = d->w = 1;
    d->points = malloc((size_t)d->n * 2 * sizeof *d->points);
    d->label = calloc((size_t)d->n, sizeof *d->label);
    if (!d->points || !d->label)
        return dr_fail(err, DR_ENOMEM, "no memory for %" PRId64 " points", d->n);
    const uint64_t first = test_split ? DR_DATA_TEST_INDEX : 0;
    for (int64_t i = 0; i < d->n; i++)
        dr_toy_point(cfg->set, (uint64_t)cfg->seed, first + (uint64_t)i, d->points + 2 * i);
    return 0;
}

// Counting sort of the image numbers by label.
static int index_classes(struct dr_dataset *d, struct dr_err *err) {
    d->class_start = calloc((size_t)d->classes + 1, sizeof *d->class_start);
    d->by_class = malloc((size_t)d->n * sizeof *d->by_class);
    int64_t *at = malloc((size_t)d->classes * sizeof *at);
    if (!d->class_start || !d->by_class || !at) {
        free(at);
        return dr_fail(err, DR_ENOMEM, "no memory for the class index");
    }
    for (int64_t i = 0; i < d->n; i++)
        d->class_start[d->label[i] + 1]++;
    for (int64_t k = 0; k < d->classes; k++) {
        d->class_start[k + 1] += d->class_start[k];
        at[k] = d->class_start[k];
    }
    for (int64_t i = 0; i < d->n; i++)
        d->by_class[at[d->label[i]]++] = i;
    free(at);
    return 0;
}

static uint64_t fnv1a(uint64_t h, const void *data, size_t n) {
    const uint8_t *p = data;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static void fingerprint(struct dr_dataset *d) {
    const int64_t shape[] = {d->n, d->c, d->h, d->w, d->classes};
    uint64_t h = fnv1a(0xcbf29ce484222325u, shape, sizeof shape);
    if (d->pixels)
        h = fnv1a(h, d->pixels, (size_t)(d->n * d->c * d->h * d->w));
    else
        h = fnv1a(h, d->points, (size_t)d->n * 2 * sizeof *d->points);
    d->fingerprint = fnv1a(h, d->label, (size_t)d->n * sizeof *d->label);
}

static void name_classes(struct dr_dataset *d, int set) {
    for (int k = 0; k < 10 && k < d->classes; k++)
        if (set == DR_DATA_FASHION)
            snprintf(d->class_name[k], sizeof d->class_name[k], "%s", fashion_names[k]);
        else if (set == DR_DATA_DIGITS || set == DR_DATA_MNIST)
            snprintf(d->class_name[k], sizeof d->class_name[k], "%d", k);
}

static int check_config(const struct dr_data_config *cfg, bool toy, struct dr_err *err) {
    if (cfg->set < 0 || cfg->set >= (int)DR_COUNT(set_names))
        return dr_fail(err, DR_ECONFIG, "data.set %d is unknown", cfg->set);
    const char *name = set_names[cfg->set];
    int64_t want = toy ? 1 : 10;
    if (cfg->set != DR_DATA_IDX && cfg->classes != want)
        return dr_fail(err, DR_ECONFIG, "data.classes is %" PRId64 ", but %s has %" PRId64,
                       cfg->classes, name, want);
    if (!toy && cfg->channels != 1)
        return dr_fail(err, DR_ECONFIG, "data.channels is %" PRId64 ", but %s has 1", cfg->channels,
                       name);
    if (cfg->classes < 1 || cfg->size < 1 || cfg->count < 1 || cfg->limit < 0)
        return dr_fail(err, DR_ECONFIG,
                       "data.classes, data.size and data.count must be positive and data.limit "
                       "not negative");
    return 0;
}

int dr_dataset_load(const struct dr_data_config *cfg, const char *data_dir, bool test_split,
                    struct dr_dataset **out, struct dr_err *err) {
    *out = NULL;
    const bool toy = cfg->set >= DR_DATA_CHECKERBOARD;
    int rc = check_config(cfg, toy, err);
    if (rc)
        return rc;
    struct dr_dataset *d = calloc(1, sizeof *d);
    if (!d)
        return dr_fail(err, DR_ENOMEM, "no memory for a data set");
    d->classes = cfg->classes;
    snprintf(d->name, sizeof d->name, "%s", set_names[cfg->set]);
    if (toy)
        rc = make_toy(d, cfg, test_split, err);
    else if (cfg->set == DR_DATA_DIGITS)
        rc = make_digits(d, cfg, test_split, err);
    else
        rc = load_idx(d, cfg, data_dir, test_split, err);
    if (!rc)
        rc = index_classes(d, err);
    if (rc) {
        dr_dataset_free(d);
        return rc;
    }
    name_classes(d, cfg->set);
    fingerprint(d);
    *out = d;
    return 0;
}

void dr_dataset_free(struct dr_dataset *d) {
    if (!d)
        return;
    free(d->pixels);
    free(d->points);
    free(d->label);
    free(d->class_start);
    free(d->by_class);
    free(d);
}

void dr_dataset_get(const struct dr_dataset *d, int64_t i, real *out) {
    if (d->points) {
        memcpy(out, d->points + 2 * i, 2 * sizeof *out);
        return;
    }
    const int64_t n = d->c * d->h * d->w;
    const uint8_t *p = d->pixels + i * n;
    for (int64_t k = 0; k < n; k++)
        out[k] = (real)p[k] / (real)127.5 - 1;
}
