// What a run leaves in STATE_DIR/evals/ID (eval_priv.h): pictures, samples, a copy of its row.
#include "daemon/jobs/eval_priv.h"

#include "daemon/base/util.h"
#include "daemon/generate/grid.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PER_CLASS = 8, CLASSES = 16, NEAREST = 16, CHUNK = 256, TEXT = 400 };
enum { CHUNK_VALUES = 1 << 24 }; // of training pictures that are read at a time, 64 MiB

static enum dr_show show(const struct dd_eval_work *w) {
    return dr_show(w->train->kind, w->train->c);
}

static int write_png(const struct dd_eval_work *w, const struct dd_eval_run *r, const char *name,
                     const real *x, int64_t n, int64_t columns, int64_t scale, struct dr_err *err) {
    const struct dr_dataset *d = w->train;
    char path[DD_PATH_MAX], text[TEXT];
    struct dr_bytes png = {0};
    snprintf(text, sizeof text, "{\"eval\": %lld, \"step\": %lld, \"seed\": %lld, \"cfg\": %g}",
             (long long)r->id, (long long)r->step, (long long)w->job->cfg.eval.seed, r->alpha);
    int rc = dd_eval_path(w, path, err, "%lld/%s", (long long)r->id, name);
    if (!rc)
        rc = dr_png_grid(x, n, d->c, d->h, d->w, show(w), columns, scale, 2, "driftd", text, &png,
                         err);
    if (!rc)
        rc = dd_write_file(path, png.p, png.n, err);
    dr_bytes_free(&png);
    return rc;
}

// Image numbers of a grid, row by row: the first samples of each class, or a folder's pictures in
// their order. -1: none.
static int64_t lay_out(const struct dd_eval_work *w, const struct dr_eval_source *s,
                       const struct dd_grid_shape *g, int64_t at[PER_CLASS * CLASSES]) {
    const bool folder = w->job->cfg.eval.folder[0];
    const int64_t places = g->rows * g->columns;
    int64_t have[CLASSES] = {0}, n = 0;
    for (int64_t i = 0; i < places; i++)
        at[i] = folder && i < s->n ? i : -1;
    for (int64_t i = 0; i < s->n && n < places && !folder; i++) {
        const int32_t c = s->asked(s, i);
        if (c >= g->rows || have[c] == g->columns)
            continue;
        at[c * g->columns + have[c]++] = i;
        n++;
    }
    return places;
}

static int grid(struct dd_eval_work *w, const struct dd_eval_run *r, struct dr_eval_source *s,
                struct dr_err *err) {
    const int64_t count = s->c * s->h * s->w,
                  classes = w->job->cfg.eval.folder[0] ? CLASSES : DR_MAX(s->classes, (int64_t)1);
    const struct dd_grid_shape shape =
        dd_grid_shape(DR_MIN(classes, (int64_t)CLASSES), PER_CLASS, count, s->h);
    int64_t at[PER_CLASS * CLASSES], n = 0;
    const int64_t places = lay_out(w, s, &shape, at);
    int32_t cls;
    real *x = calloc((size_t)(places * count), sizeof *x);
    int rc = x ? 0 : dr_fail(err, DR_ENOMEM, "no memory for a grid");
    for (int64_t i = 0; i < places && !rc; i++) {
        if (at[i] < 0)
            continue;
        rc = s->images(s, at[i], 1, x + i * count, &cls, err);
        n = i + 1;
    }
    if (!rc && n)
        rc = write_png(w, r, "grid.png", x, n, shape.columns, shape.scale, err);
    free(x);
    return rc;
}

// --- nearest training pictures ---

struct best {
    int64_t at;
    double distance; // squared
};

static double squared(const real *a, const real *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)a[i] - (double)b[i];
        sum += d * d;
    }
    return sum;
}

// The training picture nearest to each of n samples, by their pixels.
static int search(struct dd_eval_work *w, const real *x, int64_t n, struct best best[NEAREST],
                  struct dr_err *err) {
    const struct dr_dataset *d = w->train;
    const int64_t count = d->c * d->h * d->w,
                  chunk = DR_MAX(DR_MIN((int64_t)CHUNK, CHUNK_VALUES / count), (int64_t)1);
    real *y = malloc((size_t)(chunk * count) * sizeof *y);
    int rc = y ? 0 : dr_fail(err, DR_ENOMEM, "no memory for training pictures");
    int64_t ids[CHUNK];
    for (int64_t i = 0; i < d->n && !rc; i += chunk) {
        const int64_t m = DR_MIN(chunk, d->n - i);
        for (int64_t k = 0; k < m; k++)
            ids[k] = i + k;
        rc = dr_dataset_reals(d, ids, m, y, err);
        for (int64_t k = 0; k < n * m && !rc; k++) {
            struct best *b = &best[k / m];
            const double now = squared(x + k / m * count, y + k % m * count, count);
            if (now < b->distance)
                *b = (struct best){i + k % m, now};
        }
        if (!rc && !dd_eval_pace(w))
            rc = dr_fail(err, DR_ECANCELED, "stopped");
    }
    free(y);
    return rc;
}

static int nearest(struct dd_eval_work *w, const struct dd_eval_run *r, struct dr_eval_source *s,
                   json_t *details, struct dr_err *err) {
    const int64_t count = s->c * s->h * s->w;
    const struct dd_grid_shape shape = dd_grid_shape(NEAREST, 1, 3 * count, s->h);
    const int64_t n = DR_MIN(shape.rows, s->n);
    struct best best[NEAREST];
    int32_t cls[NEAREST];
    real *x = malloc((size_t)(3 * n * count) * sizeof *x), *pairs = x + n * count;
    if (!x)
        return dr_fail(err, DR_ENOMEM, "no memory for samples");
    int rc = s->images(s, 0, n, x, cls, err);
    for (int64_t i = 0; i < n; i++)
        best[i] = (struct best){0, INFINITY};
    if (!rc)
        rc = search(w, x, n, best, err);
    json_t *list = json_array();
    for (int64_t i = 0; i < n && !rc; i++) {
        memcpy(pairs + 2 * i * count, x + i * count, (size_t)count * sizeof *x);
        rc = dr_dataset_reals(w->train, &best[i].at, 1, pairs + (2 * i + 1) * count, err);
        json_array_append_new(list,
                              json_pack("{s:I, s:o, s:I, s:f}", "sample", (json_int_t)i, "class",
                                        cls[i] < 0 ? json_null() : json_integer(cls[i]), "train",
                                        (json_int_t)best[i].at, "distance",
                                        sqrt(best[i].distance / (double)count)));
    }
    json_object_set_new(details, "nearest", list);
    if (!rc)
        rc = write_png(w, r, "nearest.png", pairs, 2 * n, 8, shape.scale, err);
    free(x);
    return rc;
}

// --- samples ---

// NumPy's format, version 1.0: float32 [n,c,h,w] as they left the network.
static int samples(struct dd_eval_work *w, const struct dd_eval_run *r, struct dr_eval_source *s,
                   struct dr_err *err) {
    const int64_t count = s->c * s->h * s->w, batch = DR_MIN(w->job->cfg.eval.batch, s->n);
    char path[DD_PATH_MAX], part[DD_PATH_MAX], head[129];
    memset(head, ' ', 128);
    memcpy(head, "\x93NUMPY\x01\x00\x76\x00", 10);
    const int len = snprintf(head + 10, 118,
                             "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld, %lld, "
                             "%lld), }",
                             (long long)s->n, (long long)s->c, (long long)s->h, (long long)s->w);
    head[10 + len] = ' ';
    head[127] = '\n';
    int rc = dd_eval_path(w, path, err, "%lld/samples.npy", (long long)r->id);
    if (!rc)
        rc = dd_path(part, err, "%s.part", path);
    FILE *f = rc ? NULL : fopen(part, "wb");
    real *x = malloc((size_t)(batch * count) * sizeof *x);
    int32_t *cls = malloc((size_t)batch * sizeof *cls);
    if (!rc && (!f || !x || !cls || fwrite(head, 128, 1, f) != 1))
        rc = dr_fail(err, DR_EIO, "%s cannot be written", part);
    for (int64_t i = 0; i < s->n && !rc; i += batch) {
        const int64_t m = DR_MIN(batch, s->n - i);
        rc = s->images(s, i, m, x, cls, err);
        for (int64_t k = 0; k < m * count && !rc; k++) {
            const float v = (float)x[k];
            if (fwrite(&v, sizeof v, 1, f) != 1)
                rc = dr_fail(err, DR_ENOSPC, "%s cannot be written", part);
        }
        if (!rc && !dd_eval_pace(w))
            rc = dr_fail(err, DR_ECANCELED, "stopped");
    }
    if (f && fclose(f) && !rc)
        rc = dr_fail(err, DR_ENOSPC, "%s cannot be written", part);
    if (!rc && rename(part, path))
        rc = dr_fail(err, DR_EIO, "%s cannot be written", path);
    if (rc && f)
        remove(part);
    free(x);
    free(cls);
    return rc;
}

// A picture that fails costs an alert and not what was measured; a stop is passed on.
static int drawn(const struct dd_eval_work *w, const struct dd_eval_run *r, const char *name,
                 int rc, const struct dr_err *why, struct dr_err *err) {
    char text[300];
    if (rc == DR_ECANCELED) {
        *err = *why;
        return rc;
    }
    snprintf(text, sizeof text, "evaluation %lld has no %s: %.200s", (long long)r->id, name,
             why->msg);
    if (rc)
        dd_job_alert(w->job, "eval", r->step, text);
    return 0;
}

int dd_eval_write_files(struct dd_eval_work *w, const struct dd_eval_run *r,
                        struct dr_eval_source *s, json_t *details, struct dr_err *err) {
    struct dr_err why = {0};
    int rc = drawn(w, r, "grid.png", grid(w, r, s, &why), &why, err);
    if (!rc)
        rc = drawn(w, r, "nearest.png", nearest(w, r, s, details, &why), &why, err);
    if (!rc && w->job->cfg.eval.samples)
        rc = samples(w, r, s, err);
    return rc;
}

int dd_eval_write_metadata(struct dd_eval_work *w, int64_t id, struct dr_err *err) {
    char path[DD_PATH_MAX];
    json_t *row = dd_eval_json(w->job->env->store, id, err);
    char *text = row ? json_dumps(row, JSON_INDENT(1) | JSON_REAL_PRECISION(17)) : NULL;
    int rc = text ? dd_eval_path(w, path, err, "%lld/metadata.json", (long long)id) : DR_EIO;
    if (!rc)
        rc = dd_write_file(path, text, strlen(text), err);
    free(text);
    json_decref(row);
    return rc;
}
