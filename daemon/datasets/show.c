// Data sets as JSON and as grids of their pictures (datasets.h). Any thread; a grid reads the
// picture file, which may take a second.
#include "daemon/datasets/datasets_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 16, CLASS_COLUMNS = 8, GAP = 2, SMALL = 64, BIG_PIXELS = 4 };
enum { MAX_VALUES = 1 << 24 }; // of a grid, 64 MiB

// --- JSON ---

// What only this process knows: how far an import or an upload has come.
static void add_progress(struct dd_datasets *d, json_t *row) {
    const char *name = json_string_value(json_object_get(row, "name"));
    const char *state = json_string_value(json_object_get(row, "state"));
    struct dd_dataset_row r = {0};
    if (!strcmp(state, "uploading"))
        json_object_set_new(row, "received", json_integer(dd_upload_received(d, name)));
    if (strcmp(state, "importing") || dd_dataset_row_get(d->env.store, name, &r, NULL))
        return;
    pthread_mutex_lock(&d->lock);
    const bool ours = d->id == r.id;
    const int64_t done = ours ? d->done : 0, total = ours ? d->total : 0;
    pthread_mutex_unlock(&d->lock);
    dd_dataset_row_free(&r);
    json_object_set_new(row, "progress",
                        total > 0 ? json_real(DR_MIN(1.0, (double)done / (double)total))
                        : ours    ? json_real(0)
                                  : json_null()); // it waits for its turn
}

static void append_row(void *list, json_t *row) {
    json_array_append_new(list, row);
}

static json_t *read_rows(struct dd_datasets *d, const char *name, struct dr_err *err) {
    json_t *list = json_array(), *row;
    size_t i;
    if (dd_dataset_rows(d->env.store, name, append_row, list, err)) {
        json_decref(list);
        return NULL;
    }
    json_array_foreach(list, i, row) add_progress(d, row);
    return list;
}

json_t *dd_datasets_list(struct dd_datasets *d, struct dr_err *err) {
    json_t *list = read_rows(d, NULL, err);
    if (!list)
        return NULL;
    dd_builtin_sets(d, list);
    return json_pack("{s:o}", "datasets", list);
}

json_t *dd_datasets_get(struct dd_datasets *d, const char *name, struct dr_err *err) {
    json_t *list = read_rows(d, name, err);
    json_t *row = list ? json_incref(json_array_get(list, 0)) : NULL;
    if (list && !row && !(row = dd_builtin_json(d, name)))
        dr_fail(err, DR_ENOENT, "there is no data set %.80s", name);
    json_decref(list);
    return row;
}

// --- grids ---

static int open_own(struct dd_datasets *d, const char *name, struct dr_dataset **out,
                    struct dr_err *err) {
    char path[DD_PATH_MAX];
    struct dd_dataset_facts f;
    struct dr_data_config any = {0}; // sizes 0: those of the file
    int rc = dd_dataset_facts(d->env.store, name, &f, err);
    if (!rc)
        rc = dd_dataset_file(d, name, path, err);
    any.classes = f.classes;
    return rc ? rc : dr_pictures_open(path, &any, false, out, err);
}

// Pictures are not read for the first time here, which would keep a thread of HTTP for minutes.
static bool no_import(void *ctx, const struct dr_import_progress *p) {
    (void)ctx;
    return p->stage == DR_IMPORT_MAKING;
}

static int open_set(struct dd_datasets *d, const char *name, struct dr_dataset **out,
                    struct dr_err *err) {
    struct dr_data_config cfg;
    int rc = open_own(d, name, out, err);
    if (rc != DR_ENOENT || !dd_builtin_config(name, &cfg))
        return rc;
    dr_pictures_watch(no_import, NULL);
    dr_workers_use(d->env.threads);
    rc = dr_dataset_load(&cfg, d->env.data_dir, false, out, err);
    dr_pictures_watch(NULL, NULL);
    dr_workers_rest(); // that drew built-in pictures
    return rc != DR_ECANCELED
               ? rc
               : dr_fail(err, DR_ECONFLICT,
                         "the pictures of %.80s have not been read yet: the first job that trains "
                         "on them does",
                         name);
}

// A class by its number or its name.
static int class_of(const struct dr_dataset *d, const char *text, int64_t *out,
                    struct dr_err *err) {
    if (dd_parse_int(text, 0, d->classes - 1, out))
        return 0;
    for (int64_t k = 0; d->class_name && k < d->classes; k++)
        if (!strcmp(d->class_name[k], text)) {
            *out = k;
            return 0;
        }
    return dr_fail_at(err, DR_EINVAL, "class",
                      "class: there is no class %.80s; expected 0 to %lld or a class's name", text,
                      (long long)d->classes - 1);
}

// n pictures of class k, spread over its samples, at x; the rest of the row stays as it is.
static int fill_class(const struct dr_dataset *d, int64_t k, int64_t n, real *x,
                      struct dr_err *err) {
    const int64_t have = d->class_start[k + 1] - d->class_start[k], m = DR_MIN(n, have);
    int64_t ids[1024];
    for (int64_t i = 0; i < m; i++)
        ids[i] = d->by_class[d->class_start[k] + i * have / m];
    return dr_dataset_reals(d, ids, m, x, err);
}

static int grid(const struct dr_dataset *d, const char *cls, int64_t n, struct dr_bytes *png,
                struct dr_err *err) {
    const int64_t one = d->c * d->h * d->w;
    int64_t first = 0, rows = DR_MIN(d->classes, (int64_t)MAX_ROWS);
    int rc = 0;
    if (d->kind != DR_KIND_IMAGES)
        return dr_fail(err, DR_EINVAL, "%s holds no pictures", d->name);
    if (cls && (rc = class_of(d, cls, &first, err)))
        return rc;
    if (cls)
        rows = 1;
    while (rows * n * one > MAX_VALUES && rows * n > 1) { // large pictures: fewer of them
        if (n > 1)
            n = (n + 1) / 2;
        else
            rows = (rows + 1) / 2;
    }
    real *x = calloc((size_t)(rows * n * one), sizeof *x); // 0: mid grey, where a class has fewer
    if (!x)
        return dr_fail(err, DR_ENOMEM, "no memory for a grid of %lld pictures",
                       (long long)(rows * n));
    for (int64_t k = 0; k < rows && !rc; k++)
        rc = fill_class(d, first + k, n, x + k * n * one, err);
    const int64_t scale = d->h >= SMALL ? 1 : d->h >= SMALL / 2 ? 2 : BIG_PIXELS;
    if (!rc)
        rc = dr_png_grid(x, rows * n, d->c, d->h, d->w, dr_show(d->kind, d->c),
                         cls ? DR_MIN(n, (int64_t)CLASS_COLUMNS) : n, scale, GAP, NULL, NULL, png,
                         err);
    free(x);
    return rc;
}

int dd_datasets_samples(struct dd_datasets *d, const char *name, const char *cls, int n,
                        struct dr_bytes *png, struct dr_err *err) {
    struct dr_dataset *set = NULL;
    int rc = open_set(d, name, &set, err);
    if (!rc)
        rc = grid(set, cls, n, png, err);
    dr_dataset_free(set);
    return rc;
}
