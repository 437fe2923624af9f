// The data set as the drifting objective sees it: whole on the device where it fits, else a step's
// rows travel with the step's inputs.
#include "engine/train/drift/drift.h"

int drift_kind(const struct drift *t) {
    return t->reals.data->kind;
}

static int check(const struct dr_config *c, const struct dr_dataset *d, struct dr_err *err) {
    if (d->classes != c->model.classes)
        return dr_fail(err, DR_ECONFIG, "data.classes is %lld but the data set %s has %lld",
                       (long long)c->data.classes, d->name, (long long)d->classes);
    const int64_t want = c->model.channels * c->model.size * c->model.size;
    const int64_t have = d->c * d->h * d->w;
    if (want != have)
        return dr_fail(err, DR_ECONFIG,
                       "the configuration wants images of %lld values, %s has %lld",
                       (long long)want, d->name, (long long)have);
    return 0;
}

// Puts the data set on the device where it fits beside everything else; half of what is free is
// left for the rest. A host_memory backend reads it where it is. What is in neither memory travels
// with each step.
static int place(struct drift *t, struct dr_err *err) {
    struct drift_reals *r = &t->reals;
    const struct dr_dataset *d = r->data;
    const size_t bytes = (size_t)d->n * dr_dataset_row_bytes(d);
    const void *all = dr_dataset_all(d);
    r->pixels = d->pixels;
    r->points = d->points;
    r->streamed = !all || (!t->be->host_memory && bytes > t->be->mem_left(t->be) / 2);
    if (t->be->host_memory || r->streamed)
        return 0;
    int rc = t->be->mem_alloc(t->be, bytes, &r->images, err);
    if (rc)
        return rc;
    r->bytes = bytes;
    t->be->upload(t->be, r->images, all, bytes);
    r->pixels = d->pixels ? r->images : NULL;
    r->points = d->pixels ? NULL : r->images;
    return 0;
}

int drift_reals_open(struct drift *t, const struct dr_dataset *data, struct dr_err *err) {
    t->reals.data = data;
    int rc = check(t->cfg, data, err);
    if (!rc)
        rc = dr_reals_create(t->cfg, data, &t->reals.draw, err);
    return rc ? rc : place(t, err);
}

void drift_reals_close(struct drift *t) {
    t->be->mem_free(t->be, t->reals.images);
    dr_reals_free(t->reals.draw);
}

void drift_lay_out_rows(struct drift *t, struct drift_inputs *in, struct dr_arena *a) {
    const size_t rows = (size_t)(t->nclass * t->P + t->U);
    in->view = dr_reals_have_views(&t->cfg->data) ? dr_alloc(a, rows * 3 * sizeof(int32_t)) : NULL;
    in->rows = t->reals.streamed ? dr_alloc(a, rows * dr_dataset_row_bytes(t->reals.data)) : NULL;
}

// Rows in the order of the device's gather: pos, then unc.
int drift_copy_rows(const struct drift *t, const struct drift_inputs *in, struct dr_err *err) {
    const struct dr_dataset *d = t->reals.data;
    const int64_t npos = t->nclass * t->P;
    if (!t->reals.streamed)
        return 0;
    int rc = dr_dataset_rows(d, in->pos_ids, npos, in->rows, err);
    return rc ? rc
              : dr_dataset_rows(d, in->unc_ids, t->U,
                                (char *)in->rows + (size_t)npos * dr_dataset_row_bytes(d), err);
}

static void gather(struct drift *t, struct dr_ctx *cx, real *dst, const int64_t *ids, int64_t from,
                   int64_t n) {
    const uint8_t *pixels = t->reals.pixels;
    const real *points = t->reals.points;
    const void *rows = drift_device(t)->rows;
    const int32_t *view = drift_device(t)->view;
    if (t->reals.streamed) {
        ids = NULL;
        const bool images = t->reals.data->kind == DR_KIND_IMAGES;
        pixels = images ? (const uint8_t *)rows + from * t->image : NULL;
        points = images ? NULL : (const real *)rows + from * t->image;
    }
    if (n)
        DR_OP(cx->be, gather, .dst = dst, .pixels = pixels, .points = points, .idx = ids, .n = n,
              .count = t->image, .view = view ? view + 3 * from : NULL, .h = t->reals.data->h,
              .w = t->reals.data->w);
}

void drift_gather(struct drift *t, struct dr_ctx *cx) {
    const struct drift_inputs *in = drift_device(t);
    const int64_t npos = t->nclass * t->P;
    gather(t, cx, t->pos, in->pos_ids, 0, npos);
    gather(t, cx, t->unc, in->unc_ids, npos, t->U);
}
