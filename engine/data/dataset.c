// What all data sets share: the table's dispatch, the index by class, the fingerprint, reading rows
// (see data.h). Called by the trainer when a job starts. A set's own part is in its own file.
#include "engine/core/machine.h"
#include "engine/data/data_priv.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define FINGERPRINT_ROWS 256 // read at a time

int64_t dr_made_count(const struct dr_set_query *q) {
    const int64_t n = q->test ? DR_MAX(q->cfg->count / 5, 16) : q->cfg->count;
    return q->cfg->limit ? DR_MIN(n, q->cfg->limit) : n;
}

int64_t dr_made_share(const struct dr_dataset *d) {
    const int64_t work = 1 << 20, each = 1 << 10; // pixels, and what a sample costs beside them
    return DR_MAX(work / (each + d->c * d->h * d->w), (int64_t)64);
}

static void free_values(struct dr_dataset *d) {
    free(d->own);
}

int dr_dataset_alloc(struct dr_dataset *d, void **values, struct dr_err *err) {
    const size_t one = d->kind == DR_KIND_IMAGES ? sizeof *d->pixels : sizeof *d->points;
    size_t bytes;
    const bool fits =
        !__builtin_mul_overflow((size_t)d->n * one, (size_t)(d->c * d->h * d->w), &bytes) &&
        bytes <= dr_machine_room();
    *values = d->own = fits ? malloc(bytes) : NULL;
    d->release = free_values;
    d->label = calloc((size_t)d->n, sizeof *d->label);
    if (!d->own || !d->label)
        return dr_fail(err, DR_ENOMEM,
                       "no memory for %" PRId64 " samples [%" PRId64 ",%" PRId64 ",%" PRId64 "]%s",
                       d->n, d->c, d->h, d->w, dr_machine_cramped() ? " under `ulimit -v`" : "");
    if (d->kind == DR_KIND_IMAGES)
        d->pixels = d->own;
    else
        d->points = d->own;
    return 0;
}

int dr_dataset_name(struct dr_dataset *d, int64_t k, const char *name, struct dr_err *err) {
    char **names = (char **)(uintptr_t)d->class_name;
    if (!names)
        d->class_name = names = calloc((size_t)d->classes, sizeof *names);
    if (!names || !(names[k] = strdup(name)))
        return dr_fail(err, DR_ENOMEM, "no memory for the names of %" PRId64 " classes",
                       d->classes);
    json_t *text = json_string(name);
    json_decref(text);
    return text ? 0
                : dr_fail(err, DR_EFORMAT, "%s: the name of class %" PRId64 " is not UTF-8",
                          d->name, k);
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
    for (int64_t i = 0; i < d->n; i++) {
        if (d->label[i] < 0 || d->label[i] >= d->classes) {
            free(at);
            return dr_fail(err, DR_EFORMAT,
                           "%s: label %" PRId64 " is %d, expected 0 to %" PRId64 " (data.classes)",
                           d->name, i, d->label[i], d->classes - 1);
        }
        d->class_start[d->label[i] + 1]++;
    }
    for (int64_t k = 0; k < d->classes; k++) {
        d->class_start[k + 1] += d->class_start[k];
        at[k] = d->class_start[k];
    }
    for (int64_t i = 0; i < d->n; i++)
        d->by_class[at[d->label[i]]++] = i;
    free(at);
    return 0;
}

size_t dr_dataset_row_bytes(const struct dr_dataset *d) {
    const size_t one = d->kind == DR_KIND_IMAGES ? sizeof *d->pixels : sizeof *d->points;
    return (size_t)(d->c * d->h * d->w) * one;
}

const void *dr_dataset_all(const struct dr_dataset *d) {
    return d->pixels ? (const void *)d->pixels : d->points;
}

int dr_dataset_rows(const struct dr_dataset *d, const int64_t *ids, int64_t n, void *out,
                    struct dr_err *err) {
    const char *all = dr_dataset_all(d);
    const size_t row = dr_dataset_row_bytes(d);
    if (!all)
        return d->rows(d, ids, n, out, err);
    for (int64_t i = 0; i < n; i++)
        memcpy((char *)out + (size_t)i * row, all + (size_t)ids[i] * row, row);
    return dr_dataset_intact(d, err);
}

int dr_dataset_intact(const struct dr_dataset *d, struct dr_err *err) {
    return d->intact ? d->intact(d, err) : 0;
}

int dr_dataset_reals(const struct dr_dataset *d, const int64_t *ids, int64_t n, real *out,
                     struct dr_err *err) {
    if (d->kind != DR_KIND_IMAGES)
        return dr_dataset_rows(d, ids, n, out, err);
    // The bytes go to the end of `out`, so that widening them from the start never overtakes.
    const size_t count = (size_t)n * dr_dataset_row_bytes(d);
    uint8_t *p = (uint8_t *)(out + count) - count;
    int rc = dr_dataset_rows(d, ids, n, p, err);
    for (size_t k = 0; k < count && !rc; k++) {
        const uint8_t pixel = p[k];
        out[k] = (real)pixel / (real)127.5 - 1;
    }
    return rc;
}

uint64_t dr_fnv1a(uint64_t h, const void *data, size_t n) {
    const uint8_t *p = data;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static int fingerprint(struct dr_dataset *d, struct dr_err *err) {
    if (d->fingerprint) // the set knows it
        return 0;
    const int64_t shape[] = {d->n, d->c, d->h, d->w, d->classes};
    const size_t row = dr_dataset_row_bytes(d);
    uint64_t h = dr_fnv1a(DR_FNV1A_START, shape, sizeof shape);
    if (dr_dataset_all(d)) {
        h = dr_fnv1a(h, dr_dataset_all(d), (size_t)d->n * row);
    } else {
        char *buf = malloc(FINGERPRINT_ROWS * row);
        int rc = buf ? 0 : dr_fail(err, DR_ENOMEM, "no memory for %d samples", FINGERPRINT_ROWS);
        for (int64_t i = 0; i < d->n && !rc; i += FINGERPRINT_ROWS) {
            int64_t ids[FINGERPRINT_ROWS], n = DR_MIN(d->n - i, FINGERPRINT_ROWS);
            for (int64_t k = 0; k < n; k++)
                ids[k] = i + k;
            rc = d->rows(d, ids, n, buf, err);
            h = rc ? h : dr_fnv1a(h, buf, (size_t)n * row);
        }
        free(buf);
        if (rc)
            return rc;
    }
    d->fingerprint = dr_fnv1a(h, d->label, (size_t)d->n * sizeof *d->label);
    return dr_dataset_intact(d, err);
}

// dr_config_check has said the same of a whole configuration; tools may bring a section of their
// own.
static int check_config(const struct dr_data_config *cfg, const struct dr_set_facts *f,
                        struct dr_err *err) {
    if (f->classes && cfg->classes && cfg->classes != f->classes)
        return dr_fail_at(err, DR_ECONFIG, "data.classes",
                          "data.classes is %" PRId64 ", but %s has %" PRId64, cfg->classes, f->name,
                          f->classes);
    if (f->channels && cfg->channels != f->channels)
        return dr_fail_at(err, DR_ECONFIG, "data.channels",
                          "data.channels is %" PRId64 ", but %s has %" PRId64, cfg->channels,
                          f->name, f->channels);
    if (cfg->classes < 0 || cfg->size < 1 || cfg->count < 1 || cfg->limit < 0)
        return dr_fail_at(
            err, DR_ECONFIG, "data",
            "data.size and data.count must be positive, data.classes and data.limit not "
            "negative");
    return 0;
}

static void free_names(struct dr_dataset *d) {
    for (int64_t k = 0; d->class_name && k < d->classes; k++)
        free(d->class_name[k]);
    free((void *)(uintptr_t)d->class_name);
    d->class_name = NULL;
}

// data.classes 0: all samples are one group.
static void forget_labels(struct dr_dataset *d) {
    free_names(d);
    d->classes = 1;
    memset(d->label, 0, (size_t)d->n * sizeof *d->label);
}

int dr_dataset_open(dr_set_open *open, const struct dr_set_facts *facts,
                    const struct dr_set_query *q, struct dr_dataset **out, struct dr_err *err) {
    *out = NULL;
    int rc = check_config(q->cfg, facts, err);
    if (rc)
        return rc;
    struct dr_dataset *d = calloc(1, sizeof *d);
    if (!d)
        return dr_fail(err, DR_ENOMEM, "no memory for a data set");
    d->kind = facts->kind;
    d->name = facts->name;
    d->classes = q->cfg->classes ? q->cfg->classes : facts->classes ? facts->classes : 1;
    rc = open(d, q, err);
    if (!rc && !q->cfg->classes && !q->labelled)
        forget_labels(d);
    if (!rc)
        rc = index_classes(d, err);
    if (!rc)
        rc = fingerprint(d, err);
    if (rc)
        dr_dataset_free(d);
    else
        *out = d;
    return rc;
}

static dr_set_open *const table[] = {
#define DR_SET(id, open, ...) [DR_DATA_##id] = open,
#include "engine/data/sets.def"
#undef DR_SET
};

int dr_dataset_load(const struct dr_data_config *cfg, const char *data_dir, bool test_split,
                    struct dr_dataset **out, struct dr_err *err) {
    const struct dr_set_facts *f = dr_set_facts(cfg->set);
    *out = NULL;
    if (!f)
        return dr_fail_at(err, DR_ECONFIG, "data.set", "data.set %d is unknown", cfg->set);
    const struct dr_set_query q = {
        .cfg = cfg, .name = f->name, .data_dir = data_dir, .test = test_split};
    return dr_dataset_open(table[cfg->set], f, &q, out, err);
}

int dr_dataset_load_folder(const struct dr_data_config *cfg, const char *data_dir,
                           struct dr_dataset **out, struct dr_err *err) {
    struct dr_data_config c = *cfg;
    const struct dr_set_facts *f = dr_set_facts(DR_DATA_FOLDER);
    const struct dr_set_query q = {
        .cfg = &c, .name = f->name, .data_dir = data_dir, .labelled = true};
    c.set = DR_DATA_FOLDER;
    c.classes = 0;
    return dr_dataset_open(table[DR_DATA_FOLDER], f, &q, out, err);
}

int dr_dataset_renumber(struct dr_dataset *d, const int64_t *to, int64_t classes,
                        struct dr_err *err) {
    bool same = classes == d->classes;
    for (int64_t i = 0; i < d->n; i++) {
        same &= to[d->label[i]] == d->label[i];
        d->label[i] = (int32_t)to[d->label[i]];
    }
    free_names(d);
    free(d->class_start);
    free(d->by_class);
    d->class_start = d->by_class = NULL;
    d->classes = classes;
    if (!same)
        d->fingerprint = dr_fnv1a(d->fingerprint, d->label, (size_t)d->n * sizeof *d->label);
    return index_classes(d, err);
}

bool dr_dataset_found(const struct dr_data_config *cfg, const char *data_dir) {
    const struct dr_set_facts *f = dr_set_facts(cfg->set);
    struct dr_dataset none = {0};
    if (!f || f->made)
        return f;
    const struct dr_set_query q = {.cfg = cfg, .name = f->name, .data_dir = data_dir, .look = true};
    return !table[cfg->set](&none, &q, NULL);
}

void dr_dataset_free(struct dr_dataset *d) {
    if (!d)
        return;
    if (d->release)
        d->release(d);
    free_names(d);
    free(d->label);
    free(d->class_start);
    free(d->by_class);
    free(d);
}
