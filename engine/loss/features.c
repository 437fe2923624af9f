// The three phases of feature extraction and the table of its kinds. See features.h. Called by the
// trainer around the drifting loss.
#include "engine/loss/features.h"

#include "engine/core/reals.h"
#include "engine/loss/pools.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

static const struct dr_feature_kind *const table[] = {
#define X(ID, name, text) [DR_FEATURE_##ID] = &dr_feature_##name,
    DR_FEATURES(X)
#undef X
};

struct dr_features {
    const struct dr_feature_kind *kind;
    void *impl; // the kind's
    struct dr_map_dim image, map[DR_MAX_MAPS];
    struct dr_pooling f[DR_MAX_FEATURES];
    int maps, count;
    struct dr_feature_net net;
    bool sphere, standardize;
    real rms_gain;
};

const struct dr_feature_kind *dr_feature_kind(int kind) {
    return table[kind];
}

// ---- description

int dr_features_add_map(struct dr_features *f, struct dr_map_dim dim) {
    assert(f->maps < DR_MAX_MAPS);
    f->map[f->maps] = dim;
    return f->maps++;
}

void dr_features_add(struct dr_features *f, int map, enum dr_pool pool, int64_t p, double weight,
                     const char *name) {
    assert(f->count < DR_MAX_FEATURES && map < f->maps);
    struct dr_pooling *t = &f->f[f->count++];
    *t = (struct dr_pooling){
        .dim = dr_pool_dim(pool, p, f->map[map]), .pool = pool, .p = p, .map = map};
    t->dim.weight = (real)weight;
    snprintf(t->dim.name, sizeof t->dim.name, "%s", name);
}

struct dr_feature_net dr_features_net(const struct dr_features *f) {
    return f->net;
}

int dr_features_create_as(const struct dr_feature_kind *kind, const struct dr_feature_config *cfg,
                          struct dr_map_dim image, struct dr_features **out, struct dr_err *err) {
    return dr_features_create_on(kind, cfg, image, NULL, out, err);
}

int dr_features_create_on(const struct dr_feature_kind *kind, const struct dr_feature_config *cfg,
                          struct dr_map_dim image, const struct dr_feature_net *net,
                          struct dr_features **out, struct dr_err *err) {
    *out = NULL;
    struct dr_features *f = calloc(1, sizeof *f);
    if (!f)
        return dr_fail(err, DR_ENOMEM, "out of memory for the feature description");
    f->kind = kind;
    f->image = image;
    f->net = net ? *net : (struct dr_feature_net){0};
    f->sphere = cfg->norm == DR_FEATURE_NORM_SPHERE;
    f->standardize = cfg->standardize == DR_STANDARDIZE_BATCH;
    f->rms_gain = (real)cfg->rms_gain;
    const int rc = kind->create(cfg, image, f, &f->impl, err);
    if (rc)
        dr_features_free(f);
    else
        *out = f;
    return rc;
}

int dr_features_create(const struct dr_feature_config *cfg, int64_t c, int64_t h, int64_t w,
                       struct dr_features **out, struct dr_err *err) {
    return dr_features_create_as(dr_feature_kind(cfg->kind), cfg,
                                 (struct dr_map_dim){.c = c, .h = h, .w = w}, out, err);
}

void dr_features_free(struct dr_features *f) {
    if (f && f->kind->destroy)
        f->kind->destroy(f->impl);
    free(f);
}
int dr_features_count(const struct dr_features *f) {
    return f->count;
}
struct dr_feature_dim dr_features_dim(const struct dr_features *f, int i) {
    return f->f[i].dim;
}
const struct dr_params *dr_features_params(const struct dr_features *f) {
    return f->kind->params ? f->kind->params(f->impl) : NULL;
}
int dr_features_load(const struct dr_features *f, real *host, struct dr_err *err) {
    return f->kind->load(f->impl, host, err);
}

bool dr_features_learns(const struct dr_features *f) {
    return f->kind->learns;
}
bool dr_features_learns_from(const struct dr_features *f, int i) {
    return f->kind->learns && f->f[i].map == 0;
}

// ---- maps

// Bytes of cx->keep that one chunk's extraction takes, by a dry run. Weights of zero: kinds may
// look at them.
static int kept_bytes(const struct dr_features *f, int64_t images, enum dr_dtype act, void *saved,
                      size_t *bytes, struct dr_err *err) {
    const struct dr_params *layout = f->kind->params(f->impl);
    struct dr_arena keep, tmp;
    struct dr_backend *null = NULL;
    real *zero = calloc((size_t)DR_MAX(layout->total, 1), sizeof *zero);
    int rc = zero ? dr_backend_null(&null, err)
                  : dr_fail(err, DR_ENOMEM, "out of memory for an encoder's weights");
    if (!rc) {
        dr_arena_measure(&keep);
        dr_arena_measure(&tmp);
        struct dr_ctx cx = {.be = null, .keep = &keep, .tmp = &tmp, .act = act};
        const struct dr_weights w = {.layout = layout, .w = zero, .w16 = (const void *)zero};
        real *at[DR_MAX_MAPS], *x = dr_alloc(&tmp, sizeof *x);
        for (int k = 0; k < f->maps; k++)
            at[k] = dr_alloc(&tmp, sizeof(real));
        f->kind->extract(&cx, f->impl, &w, x, images, at, saved);
        *bytes = keep.peak;
    }
    dr_backend_free(null);
    free(zero);
    return rc;
}

int dr_maps_init(const struct dr_features *f, int64_t images, int64_t chunk, size_t budget,
                 enum dr_dtype act, struct dr_maps *m, struct dr_err *err) {
    *m = (struct dr_maps){.chunk = chunk};
    if (!f->kind->saved_new)
        return 0;
    const int64_t each = chunk > 0 ? DR_MIN(chunk, images) : images, n = (images + each - 1) / each;
    m->saved = calloc((size_t)n, sizeof *m->saved);
    bool failed = !m->saved || !(m->saved[0] = f->kind->saved_new(f->impl));
    size_t kept = 0;
    m->nsaved = m->saved ? 1 : 0;
    int rc = failed ? 0 : kept_bytes(f, each, act, m->saved[0], &kept, err);
    m->again = n > 1 && kept > budget / (size_t)n;
    for (; !rc && !failed && !m->again && m->nsaved < n; m->nsaved++)
        failed |= !(m->saved[m->nsaved] = f->kind->saved_new(f->impl));
    if (!failed && !rc)
        return 0;
    dr_maps_free(f, m);
    return rc ? rc
              : dr_fail(err, DR_ENOMEM, "out of memory for the features of %lld images",
                        (long long)images);
}

void dr_maps_free(const struct dr_features *f, struct dr_maps *m) {
    for (int i = 0; i < m->nsaved; i++)
        if (m->saved[i])
            f->kind->saved_free(m->saved[i]);
    free(m->saved);
    *m = (struct dr_maps){0};
}

static int64_t size_of(struct dr_map_dim d) {
    return d.c * d.h * d.w;
}
// Chunk i of m: its maps into at[]; returns how many images it has, 0 past the last one.
static int64_t chunk_of(const struct dr_features *f, const struct dr_maps *m, int64_t i,
                        real *at[DR_MAX_MAPS]) {
    const int64_t images = m->groups * m->n, each = m->chunk > 0 ? m->chunk : images;
    for (int k = 0; k < f->maps; k++)
        at[k] = m->map[k] + i * each * size_of(f->map[k]);
    return DR_MAX(DR_MIN(each, images - i * each), 0);
}

void dr_features_extract(struct dr_ctx *cx, const struct dr_features *f, const struct dr_weights *w,
                         real *x, int64_t groups, int64_t n, struct dr_maps *m) {
    real *at[DR_MAX_MAPS];
    m->groups = groups;
    m->n = n;
    m->x = x;
    if (!f->kind->extract) {
        m->map[0] = x;
        return;
    }
    for (int k = 0; k < f->maps; k++)
        m->map[k] = dr_alloc_real(cx->tmp, groups * n * size_of(f->map[k]));
    for (int64_t i = 0, b; (b = chunk_of(f, m, i, at)) > 0; i++, x += b * size_of(f->image))
        f->kind->extract(cx, f->impl, w, x, b, at, m->saved && !m->again ? m->saved[i] : NULL);
}

void dr_features_zero_gradients(struct dr_ctx *cx, const struct dr_features *f,
                                const struct dr_maps *m, real *dx, struct dr_maps *dm) {
    *dm = (struct dr_maps){.groups = m->groups, .n = m->n, .chunk = m->chunk};
    for (int k = 0; k < f->maps; k++) {
        const int64_t n = m->groups * m->n * size_of(f->map[k]);
        dm->map[k] = f->kind->extract ? dr_alloc_real(cx->tmp, n) : dx;
        DR_OP(cx->be, fill, .dst = dm->map[k], .n = n, .value = 0);
    }
}

// One chunk of x: what was not kept is computed again, to the same bits.
static void extract_again(struct dr_ctx *cx, const struct dr_features *f,
                          const struct dr_weights *w, const real *x, int64_t n, void *saved) {
    real *map[DR_MAX_MAPS];
    const size_t mark = dr_mark(cx->tmp);
    for (int k = 0; k < f->maps; k++)
        map[k] = dr_alloc_real(cx->tmp, n * size_of(f->map[k]));
    f->kind->extract(cx, f->impl, w, x, n, map, saved);
    dr_release(cx->tmp, mark);
}

void dr_features_backward(struct dr_ctx *cx, const struct dr_features *f,
                          const struct dr_weights *w, const struct dr_maps *m,
                          const struct dr_maps *dm, real *dx) {
    const int64_t image = size_of(f->image);
    const real *x = m->x;
    real *at[DR_MAX_MAPS];
    if (!f->kind->backward)
        return; // the gradients went to the images at once
    for (int64_t i = 0, b; (b = chunk_of(f, dm, i, at)) > 0; i++, x += b * image) {
        const size_t mark = dr_mark(cx->keep);
        if (m->again)
            extract_again(cx, f, w, x, b, m->saved[0]);
        f->kind->backward(cx, f->impl, w, x, b, at, m->saved[m->again ? 0 : i], dx);
        dx = dx ? dx + b * image : NULL;
        if (m->again)
            dr_release(cx->keep, mark);
    }
}

// ---- vectors

void dr_features_vectors(struct dr_ctx *cx, const struct dr_features *f, int i,
                         const struct dr_maps *m, bool reals, real *out, real *norm) {
    const struct dr_pooling *t = &f->f[i];
    const struct dr_map_dim d = f->map[t->map];
    const real *x = m->map[t->map];
    if (!f->sphere || f->standardize || t->pool == DR_POOL_RMS) {
        dr_pool_forward(cx, t, d, x, m->groups, m->n, reals ? f->rms_gain : 1, out);
        return;
    }
    const size_t mark = dr_mark(cx->tmp);
    const int64_t rows = m->groups * m->n * t->dim.locations;
    if (t->pool != DR_POOL_WHOLE) { // a whole map is its own vector
        real *vectors = dr_alloc_real(cx->tmp, rows * t->dim.s);
        dr_pool_forward(cx, t, d, x, m->groups, m->n, 1, vectors);
        x = vectors;
    }
    DR_OP(cx->be, l2norm_fwd, .y = out, .norm = norm ? norm : dr_alloc_real(cx->tmp, rows), .x = x,
          .m = rows, .n = t->dim.s, .eps = DR_SPHERE_EPS);
    dr_release(cx->tmp, mark);
}

void dr_features_vectors_backward(struct dr_ctx *cx, const struct dr_features *f, int i,
                                  const struct dr_maps *m, const real *out, const real *norm,
                                  const real *dout, const struct dr_maps *dm) {
    const struct dr_pooling *t = &f->f[i];
    const size_t mark = dr_mark(cx->tmp);
    if (f->sphere && !f->standardize && t->pool != DR_POOL_RMS) {
        const int64_t rows = m->groups * m->n * t->dim.locations;
        real *draw = dr_alloc_real(cx->tmp, rows * t->dim.s);
        DR_OP(cx->be, l2norm_bwd, .dx = draw, .dy = dout, .y = out, .norm = norm, .m = rows,
              .n = t->dim.s, .eps = DR_SPHERE_EPS);
        dout = draw;
    }
    dr_pool_backward(cx, t, f->map[t->map], m->map[t->map], m->groups, m->n, dout, dm->map[t->map]);
    dr_release(cx->tmp, mark);
}

void dr_features_plain(struct dr_ctx *cx, const struct dr_features *f, int i,
                       const struct dr_maps *m, real *out) {
    const struct dr_pooling *t = &f->f[i];
    dr_pool_forward(cx, t, f->map[t->map], m->map[t->map], m->groups, m->n, 1, out);
}

void dr_features_plain_backward(struct dr_ctx *cx, const struct dr_features *f, int i,
                                const struct dr_maps *m, const real *dout,
                                const struct dr_maps *dm) {
    const struct dr_pooling *t = &f->f[i];
    dr_pool_backward(cx, t, f->map[t->map], m->map[t->map], m->groups, m->n, dout, dm->map[t->map]);
}

// ---- standardisation

#define STANDARD_EPS 1e-6 // of the variance, as in every std of the features

// x [B,n,S], or [n,S] for all groups, as it enters the loss. norm NULL: no gradient is wanted.
static real *standardized(struct dr_ctx *cx, const struct dr_features *f,
                          const struct dr_standard *st, const real *x, const struct dr_drift_in *in,
                          int64_t n, bool shared, real *norm) {
    if (!x)
        return NULL;
    const int64_t rows = in->B * n;
    real *y = dr_alloc_real(cx->tmp, rows * in->S);
    DR_OP(cx->be, standardize, .y = y, .x = x, .mean = st->mean, .rstd = st->rstd, .b = in->B,
          .n = n, .s = in->S, .shared = shared);
    if (!f->sphere)
        return y;
    real *unit = dr_alloc_real(cx->tmp, rows * in->S);
    DR_OP(cx->be, l2norm_fwd, .y = unit, .norm = norm ? norm : dr_alloc_real(cx->tmp, rows), .x = y,
          .m = rows, .n = in->S, .eps = DR_SPHERE_EPS);
    return unit;
}

void dr_features_standardize(struct dr_ctx *cx, const struct dr_features *f, int i,
                             struct dr_drift_in *in, real *norm, struct dr_standard *st) {
    *st = (struct dr_standard){0};
    if (!f->standardize || f->f[i].pool == DR_POOL_RMS)
        return;
    real *mean = dr_alloc_real(cx->tmp, in->B * in->S),
         *rstd = dr_alloc_real(cx->tmp, in->B * in->S);
    DR_OP(cx->be, column_stats, .mean = mean, .rstd = rstd, .x = in->gen, .y = in->pos, .b = in->B,
          .n = in->N, .m = in->P, .s = in->S, .eps = (real)STANDARD_EPS);
    *st = (struct dr_standard){.mean = mean, .rstd = rstd};
    in->gen = standardized(cx, f, st, in->gen, in, in->N, false, norm);
    in->neg = standardized(cx, f, st, in->neg, in, in->N, false, NULL);
    in->pos = standardized(cx, f, st, in->pos, in, in->P, false, NULL);
    in->unc = in->U ? standardized(cx, f, st, in->unc, in, in->U, in->unc_shared, NULL) : NULL;
    in->unc_shared = false;
}

void dr_features_standardize_backward(struct dr_ctx *cx, const struct dr_features *f,
                                      const struct dr_drift_in *in, const real *norm,
                                      const struct dr_standard *st, real *dgen) {
    const size_t mark = dr_mark(cx->tmp);
    const real *dy = dgen;
    if (!st->rstd)
        return;
    if (f->sphere) {
        real *draw = dr_alloc_real(cx->tmp, in->B * in->N * in->S);
        DR_OP(cx->be, l2norm_bwd, .dx = draw, .dy = dgen, .y = in->gen, .norm = norm,
              .m = in->B * in->N, .n = in->S, .eps = DR_SPHERE_EPS);
        dy = draw;
    }
    DR_OP(cx->be, standardize, .y = dgen, .x = dy, .rstd = st->rstd, .b = in->B, .n = in->N,
          .s = in->S);
    dr_release(cx->tmp, mark);
}
