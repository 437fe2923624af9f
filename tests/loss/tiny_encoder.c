// See tiny_encoder.h.
#include "tests/loss/tiny_encoder.h"

#include "engine/core/arena.h"

#include <stdlib.h>

struct encoder {
    struct dr_map_dim d;
    struct dr_params layout;
};
struct kept {
    real *pre; // [n,H,W], before the silu
};
int tiny_encoder_alive;

static int create(const struct dr_feature_config *cfg, struct dr_map_dim d, struct dr_features *f,
                  void **impl, struct dr_err *err) {
    struct encoder *e = *impl = calloc(1, sizeof *e);
    (void)cfg;
    if (!e)
        return dr_fail(err, DR_ENOMEM, "out of memory");
    e->d = d;
    dr_params_add(&e->layout, 0, DR_INIT_CONST, 1, 1, (int64_t[]){1}, "a");
    dr_params_add(&e->layout, 0, DR_INIT_CONST, 1, 1, (int64_t[]){1}, "b");
    dr_params_finish(&e->layout);
    const int wide = dr_features_add_map(f, d);
    const int thin = dr_features_add_map(f, (struct dr_map_dim){1, d.h, d.w});
    dr_features_add(f, wide, DR_POOL_WHOLE, 0, 1, "wide");
    dr_features_add(f, thin, DR_POOL_QUADRANTS, 0, 2, "thin.quadrants");
    dr_features_add(f, thin, DR_POOL_MEAN, 2, 1, "thin.mean");
    dr_features_add(f, thin, DR_POOL_STD, 2, 1, "thin.std");
    dr_features_add(f, wide, DR_POOL_RMS, 0, 1, "wide.rms");
    return 0;
}
static void destroy(void *impl) {
    dr_params_free(&((struct encoder *)impl)->layout);
    free(impl);
}
static const struct dr_params *params(const void *impl) {
    return &((const struct encoder *)impl)->layout;
}
static int load(const void *impl, real *host, struct dr_err *err) {
    const struct dr_params *ps = params(impl);
    (void)err;
    host[ps->p[0].offset] = (real)0.75;
    host[ps->p[1].offset] = (real)-1.25;
    return 0;
}
static void *saved_new(const void *impl) {
    (void)impl;
    tiny_encoder_alive++;
    return calloc(1, sizeof(struct kept));
}
static void saved_free(void *saved) {
    tiny_encoder_alive--;
    free(saved);
}

// The weights lie in device memory; on this backend the host may read them.
static real weight(const struct encoder *e, const struct dr_weights *w, int i) {
    return w->w[e->layout.p[i].offset];
}
static void scale(struct dr_ctx *cx, real *y, const real *x, int64_t n, real by) {
    DR_OP(cx->be, fill, .dst = y, .n = n, .value = 0);
    DR_OP(cx->be, axpy, .y = y, .x = x, .n = n, .alpha = by);
}

static void extract(struct dr_ctx *cx, const void *impl, const struct dr_weights *w, const real *x,
                    int64_t n, real *const *map, void *saved) {
    const struct encoder *e = impl;
    const int64_t plane = e->d.h * e->d.w, image = e->d.c * plane;
    const size_t mark = dr_mark(cx->tmp);
    real *first = dr_alloc(cx->tmp, (size_t)(n * plane) * sizeof(real));
    real *pre = dr_alloc(saved ? cx->keep : cx->tmp, (size_t)(n * plane) * sizeof(real));
    scale(cx, map[0], x, n * image, weight(e, w, 0));
    DR_OP(cx->be, copy4, .dst = first, .src = x, .dim = {1, 1, n, plane},
          .dstride = {0, 0, plane, 1}, .sstride = {0, 0, image, 1});
    scale(cx, pre, first, n * plane, weight(e, w, 1));
    DR_OP(cx->be, silu_fwd, .y = map[1], .x = pre, .n = n * plane);
    if (saved)
        ((struct kept *)saved)->pre = pre;
    dr_release(cx->tmp, mark);
}

static void backward(struct dr_ctx *cx, const void *impl, const struct dr_weights *w, const real *x,
                     int64_t n, real *const *dmap, void *saved, real *dx) {
    const struct encoder *e = impl;
    (void)x;
    const int64_t plane = e->d.h * e->d.w, image = e->d.c * plane;
    const size_t mark = dr_mark(cx->tmp);
    real *d = dr_alloc(cx->tmp, (size_t)(n * plane) * sizeof(real));
    real *scaled = dr_alloc(cx->tmp, (size_t)(n * plane) * sizeof(real));
    DR_OP(cx->be, silu_bwd, .dx = d, .x = ((const struct kept *)saved)->pre, .dy = dmap[1],
          .n = n * plane);
    scale(cx, scaled, d, n * plane, weight(e, w, 1));
    scale(cx, dx, dmap[0], n * image, weight(e, w, 0));
    DR_OP(cx->be, copy4, .dst = dx, .src = scaled, .dim = {1, 1, n, plane},
          .dstride = {0, 0, image, 1}, .sstride = {0, 0, plane, 1}, .acc = true);
    dr_release(cx->tmp, mark);
}

const struct dr_feature_kind tiny_encoder = {.name = "tiny",
                                             .create = create,
                                             .destroy = destroy,
                                             .params = params,
                                             .load = load,
                                             .saved_new = saved_new,
                                             .saved_free = saved_free,
                                             .extract = extract,
                                             .backward = backward};
