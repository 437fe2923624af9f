// The features of the reals, kept: frozen weights give the same vectors every time, so each real is
// extracted once, when it is first drawn. The vectors are those that extraction in the step would
// give, to the bit, as no op lets a sample depend on its batch.
//
// On backends in the host's memory only: which reals are missing is decided while a step runs. A
// mirrored real is another one. Sample-major: [n * variants, T, S] per feature.
#include "engine/train/drift/drift.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t width(const struct drift *t, int f) {
    const struct dr_feature_dim d = dr_features_dim(t->features, f);
    return d.locations * d.s;
}

// Whether the same real comes in few enough ways, and all of them fit.
static bool pays(const struct drift *t, size_t *bytes) {
    const struct dr_dataset *d = t->reals.data;
    const int64_t mb = t->cfg->features.cache_mb;
    double each = 0;
    if (!mb || !dr_features_params(t->features) || drift_learns_features(t) ||
        !t->be->host_memory || t->cfg->data.crop)
        return false;
    for (int f = 0; f < dr_features_count(t->features); f++)
        each += (double)width(t, f) * sizeof(real) + DR_ALIGN;
    const double all = each * (double)d->n * (t->cfg->data.flip ? 2 : 1);
    *bytes = (size_t)all;
    if (all <= (double)mb * 1048576)
        return true;
    dr_log(DR_LOG_WARN,
           "the features of %lld reals take %.0f MiB, features.cache_mb allows %lld: every step"
           " extracts its reals again, which is slower",
           (long long)d->n, ceil(all / 1048576), (long long)mb);
    return false;
}

int drift_cache_open(struct drift *t, struct dr_err *err) {
    struct drift_cache *c = &t->cache;
    const struct dr_dataset *d = t->reals.data;
    struct dr_arena a;
    size_t bytes;
    if (!pays(t, &bytes))
        return 0;
    c->variants = t->cfg->data.flip ? 2 : 1;
    const size_t rows = (size_t)(d->n * c->variants);
    c->feature = calloc((size_t)dr_features_count(t->features), sizeof *c->feature);
    c->have = calloc(rows, sizeof *c->have);
    c->missing = calloc((size_t)(t->nclass * t->P + t->U), sizeof *c->missing);
    if (!c->feature || !c->have || !c->missing)
        return dr_fail(err, DR_ENOMEM, "out of memory for the features of %lld reals",
                       (long long)d->n);
    struct dr_err full;
    int rc = t->be->mem_alloc(t->be, bytes, &c->block, &full);
    if (rc) { // the same results, later
        dr_log(DR_LOG_WARN,
               "the features of the reals are not kept (features.cache_mb), so every step extracts "
               "its reals again, which is slower: %s",
               full.msg);
        drift_cache_close(t);
        return 0;
    }
    c->bytes = bytes;
    dr_arena_init(&a, c->block, bytes);
    for (int f = 0; f < dr_features_count(t->features); f++)
        c->feature[f] = dr_alloc(&a, rows * (size_t)width(t, f) * sizeof(real));
    c->on = true;
    return 0;
}

void drift_cache_close(struct drift *t) {
    struct drift_cache *c = &t->cache;
    if (c->block)
        t->be->mem_free(t->be, c->block);
    free(c->feature);
    free(c->have);
    free(c->missing);
    *c = (struct drift_cache){0};
}

void drift_cache_rows(const struct drift *t, const struct drift_inputs *in) {
    const int64_t npos = t->nclass * t->P, v = t->cache.variants;
    for (int64_t i = 0; in->cached && i < npos + t->U; i++) {
        const int64_t id = i < npos ? in->pos_ids[i] : in->unc_ids[i - npos];
        in->cached[i] = id * v + (in->view ? in->view[3 * i + 2] : 0);
    }
}

// After a step that failed, in which any op may not have run: what it was to store may be anything.
void drift_cache_forget(struct drift *t) {
    if (t->cache.on)
        memset(t->cache.have, 0, (size_t)(t->reals.data->n * t->cache.variants));
}

// Which of the step's reals are not there yet, each once; returns how many. They count as there
// from now on: no step follows one that failed before they are forgotten. The dry run has to reckon
// with all of them.
static int64_t find_missing(struct drift *t, const struct dr_ctx *cx) {
    struct drift_cache *c = &t->cache;
    const int64_t *rows = drift_device(t)->cached, all = t->nclass * t->P + t->U;
    int64_t n = 0;
    for (int64_t i = 0; i < all; i++) {
        if (cx->be == t->be && c->have[rows[i]])
            continue;
        if (cx->be == t->be)
            c->have[rows[i]] = 1;
        c->missing[n++] = i;
    }
    return n;
}

// Vectors [n,T,S] of feature f to the rows of missing[0..n).
static void store(struct drift *t, struct dr_ctx *cx, int f, const int64_t *missing, int64_t n,
                  const real *vectors) {
    const int64_t w = width(t, f), *rows = drift_device(t)->cached;
    for (int64_t i = 0; i < n; i++) {
        const int64_t row = cx->be == t->be ? rows[missing[i]] : 0;
        dr_copy_reals(cx, t->cache.feature[f] + row * w, vectors + i * w, w);
    }
}

// A chunk at a time, so that the maps of few images are in memory at once.
void drift_cache_fill(struct drift *t, struct dr_ctx *cx, const struct dr_weights *w) {
    const int64_t n = find_missing(t, cx), npos = t->nclass * t->P, chunk = DR_MIN(t->chunk, n);
    const size_t mark = dr_mark(cx->tmp);
    real *x = n ? dr_alloc_real(cx->tmp, chunk * t->image) : NULL;
    for (int64_t at = 0; at < n; at += chunk) {
        const int64_t m = DR_MIN(chunk, n - at), *missing = t->cache.missing + at;
        const size_t inner = dr_mark(cx->tmp);
        struct dr_maps maps = {.chunk = m};
        for (int64_t i = 0; i < m; i++) {
            const int64_t k = missing[i];
            const real *from = k < npos ? t->pos + k * t->image : t->unc + (k - npos) * t->image;
            dr_copy_reals(cx, x + i * t->image, from, t->image);
        }
        dr_features_extract(cx, t->features, w, x, m, 1, &maps); // groups of one: sample-major
        for (int f = 0; f < dr_features_count(t->features); f++) {
            const size_t one = dr_mark(cx->tmp);
            real *v = dr_alloc_real(cx->tmp, m * width(t, f));
            dr_features_vectors(cx, t->features, f, &maps, true, v, NULL);
            store(t, cx, f, missing, m, v);
            dr_release(cx->tmp, one);
        }
        dr_release(cx->tmp, inner);
    }
    dr_release(cx->tmp, mark);
}

void drift_cache_vectors(struct drift *t, struct dr_ctx *cx, int f, int64_t from, int64_t groups,
                         int64_t n, real *out) {
    const struct dr_feature_dim d = dr_features_dim(t->features, f);
    const int64_t T = d.locations, S = d.s, rows = groups * n;
    const size_t mark = dr_mark(cx->tmp);
    real *flat = T == 1 ? out : dr_alloc_real(cx->tmp, rows * T * S);
    DR_OP(cx->be, gather, .dst = flat, .points = t->cache.feature[f],
          .idx = drift_device(t)->cached + from, .n = rows, .count = T * S);
    if (T > 1)
        DR_OP(cx->be, copy4, .dst = out, .src = flat, .dim = {groups, T, n, S},
              .dstride = {T * n * S, n * S, S, 1}, .sstride = {n * T * S, S, T * S, 1});
    dr_release(cx->tmp, mark);
}
