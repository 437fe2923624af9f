// Features of an encoder that learns beside the generator (method.md 7, `kde`): the image and what
// a residual network adds to it, E(x) = x + R(x), in the image's own shape, so that the pixel
// features are taken of it. See features.h, and kde.h for what it learns.
//
//   image, quadrants, patchP.mean, patchP.std   of E(x), as in feature_pixel.c
//   the same again with pixel_weight, and rms   of the image itself
#include "engine/loss/features.h"

#include "engine/core/arena.h"
#include "engine/nn/residual.h"

#include <stdlib.h>

struct kde {
    struct dr_params params;
    struct dr_residual net;
    struct dr_map_dim image;
    int pixels; // number of the map that is the image itself, -1: none
};

static int create(const struct dr_feature_config *cfg, struct dr_map_dim image,
                  struct dr_features *f, void **impl, struct dr_err *err) {
    struct kde *e = *impl = calloc(1, sizeof *e);
    struct dr_feature_config own = *cfg;
    own.rms = 0;
    if (!e)
        return dr_fail(err, DR_ENOMEM, "out of memory for an encoder");
    e->image = image;
    e->pixels = -1;
    if (image.h != image.w)
        return dr_fail_at(err, DR_ECONFIG, "features.kind",
                          "features.kind kde works on square images; these are %lldx%lld",
                          (long long)image.h, (long long)image.w);
    dr_residual_add(&e->params, image.c, image.h, cfg->kde_width, &e->net);
    if (e->params.cap < 0)
        return dr_fail(err, DR_ENOMEM, "out of memory for the encoder's parameters");
    dr_params_finish(&e->params);
    int rc = dr_features_add_pixels(&own, image, f, dr_features_add_map(f, image), 1, err);
    if (!rc && !dr_features_count(f))
        rc = dr_fail_at(err, DR_ECONFIG, "features.image",
                        "features.kind kde: the encoder has no feature to learn from; set at least "
                        "one of features.image, features.quadrants, features.patch2, "
                        "features.patch4");
    if (rc || (cfg->pixel_weight <= 0 && cfg->rms <= 0))
        return rc;
    e->pixels = dr_features_add_map(f, image);
    return dr_features_add_pixels(cfg, image, f, e->pixels, cfg->pixel_weight, err);
}

static void destroy(void *impl) {
    struct kde *e = impl;
    if (e)
        dr_params_free(&e->params);
    free(e);
}

static const struct dr_params *params(const void *impl) {
    return &((const struct kde *)impl)->params;
}

static void *saved_new(const void *impl) {
    (void)impl;
    return calloc(1, sizeof(struct dr_residual_saved));
}

static int64_t image_count(const struct kde *e, int64_t n) {
    return n * e->image.c * e->image.h * e->image.w;
}

static void extract(struct dr_ctx *cx, const void *impl, const struct dr_weights *w, const real *x,
                    int64_t n, real *const *map, void *saved) {
    const struct kde *e = impl;
    dr_residual_forward(cx, w, &e->net, n, x, map[0], saved);
    if (e->pixels >= 0)
        DR_OP(cx->be, cast, .dst = map[e->pixels], .src = x, .dt = DR_F32, .st = DR_F32,
              .n = image_count(e, n));
}

static void backward(struct dr_ctx *cx, const void *impl, const struct dr_weights *w, const real *x,
                     int64_t n, real *const *dmap, void *saved, real *dx) {
    const struct kde *e = impl;
    (void)x;
    dr_residual_backward(cx, w, &e->net, n, saved, dmap[0], dx);
    if (e->pixels >= 0 && dx)
        DR_OP(cx->be, axpy, .y = dx, .x = dmap[e->pixels], .n = image_count(e, n), .alpha = 1);
}

const struct dr_feature_kind dr_feature_kde = {.name = "kde",
                                               .learns = true,
                                               .create = create,
                                               .destroy = destroy,
                                               .params = params,
                                               .saved_new = saved_new,
                                               .saved_free = free,
                                               .extract = extract,
                                               .backward = backward};
