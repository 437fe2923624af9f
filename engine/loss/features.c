// Pixel features (method.md 7). See features.h. Called by the trainer around the drifting loss.
//
//   image        1 location of width C H W: the image as it lies in memory
//   quadrants    4 locations of width C (H/2)(W/2), in reading order; one normalisation scale
//   patchP.mean  1 location of width C (H/P)(W/P): the means of the P x P patches, a small copy of
//   the
//                image. Patches are not locations here: with one channel their vectors would have
//                width 1, which the sphere turns into a sign
//   patchP.std   the same of their standard deviations
//   rms          1 location of width C: sqrt(mean x^2) of every channel (A.5), never put on the
//                sphere: it is what holds the length that `sphere` leaves free. Of reals it is
//                taken `rms_gain` times, so that generated images may be held at a greater length
#include "engine/loss/features.h"

#include "engine/core/arena.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define SPHERE_EPS 1e-12

enum kind { IMAGE, QUADRANTS, PATCH_MEAN, PATCH_STD, RMS };

struct feature {
    struct dr_feature_dim dim;
    enum kind kind;
    int64_t p; // patch size
};
struct dr_features {
    struct feature f[DR_MAX_FEATURES];
    int count;
    bool sphere;
    real rms_gain;
    int64_t c, h, w;
};

static void add(struct dr_features *f, enum kind kind, int64_t p, int64_t locations, int64_t s,
                const char *name) {
    struct feature *t = &f->f[f->count++];
    *t = (struct feature){
        .dim = {.locations = locations, .s = s, .weight = 1}, .kind = kind, .p = p};
    snprintf(t->dim.name, sizeof t->dim.name, "%s", name);
}

static int add_patches(struct dr_features *f, int64_t p, struct dr_err *err) {
    if (f->h % p || f->w % p)
        return dr_fail(err, DR_ECONFIG,
                       "features.patch%d needs height and width divisible by %d, the image is "
                       "%lldx%lld",
                       (int)p, (int)p, (long long)f->h, (long long)f->w);
    int64_t s = f->c * (f->h / p) * (f->w / p);
    add(f, PATCH_MEAN, p, 1, s, p == 2 ? "patch2.mean" : "patch4.mean");
    add(f, PATCH_STD, p, 1, s, p == 2 ? "patch2.std" : "patch4.std");
    return 0;
}

static int add_all(struct dr_features *f, const struct dr_feature_config *cfg, struct dr_err *err) {
    int rc = 0;
    if (cfg->image)
        add(f, IMAGE, 0, 1, f->c * f->h * f->w, "image");
    if (cfg->quadrants && (f->h % 2 || f->w % 2))
        return dr_fail(err, DR_ECONFIG,
                       "features.quadrants needs an even height and width, the image is %lldx%lld",
                       (long long)f->h, (long long)f->w);
    if (cfg->quadrants)
        add(f, QUADRANTS, 0, 4, f->c * (f->h / 2) * (f->w / 2), "quadrants");
    if (cfg->patch2)
        rc = add_patches(f, 2, err);
    if (!rc && cfg->patch4)
        rc = add_patches(f, 4, err);
    if (cfg->rms > 0) {
        add(f, RMS, 0, 1, f->c, "rms");
        f->f[f->count - 1].dim.weight = (real)cfg->rms;
    }
    if (!rc && !f->count)
        rc = dr_fail(err, DR_ECONFIG,
                     "features: none is on; set at least one of features.image, "
                     "features.quadrants, features.patch2, features.patch4, features.rms");
    return rc;
}

int dr_features_create(const struct dr_feature_config *cfg, int64_t c, int64_t h, int64_t w,
                       struct dr_features **out, struct dr_err *err) {
    *out = NULL;
    struct dr_features *f = calloc(1, sizeof *f);
    if (!f)
        return dr_fail(err, DR_ENOMEM, "out of memory for the feature description");
    f->c = c, f->h = h, f->w = w;
    f->sphere = cfg->norm == DR_FEATURE_NORM_SPHERE;
    f->rms_gain = (real)cfg->rms_gain;
    int rc = add_all(f, cfg, err);
    if (rc)
        free(f);
    else
        *out = f;
    return rc;
}

void dr_features_free(struct dr_features *f) {
    free(f);
}
int dr_features_count(const struct dr_features *f) {
    return f->count;
}
struct dr_feature_dim dr_features_dim(const struct dr_features *f, int i) {
    return f->f[i].dim;
}

static real *alloc_reals(struct dr_ctx *cx, int64_t n) {
    return dr_alloc(cx->tmp, (size_t)n * sizeof(real));
}

// Between images [groups,n,C,H,W] and quadrants [groups,4,n,C,H/2,W/2].
static void copy_quadrants(struct dr_backend *be, const struct dr_features *f, int64_t groups,
                           int64_t n, real *quadrants, real *image, bool to_image) {
    int64_t h2 = f->h / 2, w2 = f->w / 2, planes = n * f->c, one = planes * h2 * w2;
    for (int q = 0; q < 4; q++) {
        real *a = quadrants + q * one, *b = image + q / 2 * h2 * f->w + q % 2 * w2;
        struct dr_copy4_args args = {
            .dst = a,
            .src = b,
            .dim = {groups, planes, h2, w2},
            .dstride = {4 * one, h2 * w2, w2, 1},
            .sstride = {planes * f->h * f->w, f->h * f->w, f->w, 1},
        };
        if (to_image)
            args = (struct dr_copy4_args){
                .dst = b,
                .src = a,
                .dim = {groups, planes, h2, w2},
                .dstride = {planes * f->h * f->w, f->h * f->w, f->w, 1},
                .sstride = {4 * one, h2 * w2, w2, 1},
                .acc = true,
            };
        be->op.copy4(be, &args);
    }
}

// Every plane of an image is a map of one channel: [images C, patches, (mean, std)].
static real *patch_stats(struct dr_ctx *cx, const struct dr_features *f, const struct feature *t,
                         const real *x, int64_t images) {
    real *pairs = alloc_reals(cx, 2 * images * t->dim.s);
    DR_OP(cx->be, patch_stats_fwd, .out = pairs, .x = x, .b = images * f->c, .h = f->h, .w = f->w,
          .c = 1, .p = t->p);
    return pairs;
}

// Planes of unit length and their lengths, [images C, H W] and [images C]; returns the former.
static real *unit_planes(struct dr_ctx *cx, const struct dr_features *f, const real *x,
                         int64_t planes, real *length) {
    real *unit = alloc_reals(cx, planes * f->h * f->w);
    DR_OP(cx->be, l2norm_fwd, .y = unit, .norm = length, .x = x, .m = planes, .n = f->h * f->w,
          .eps = SPHERE_EPS);
    return unit;
}

static real rms_factor(const struct dr_features *f) {
    return (real)(1 / sqrt((double)(f->h * f->w)));
}

static void extract_rms(struct dr_ctx *cx, const struct dr_features *f, const real *x,
                        int64_t planes, real gain, real *out) {
    real *length = alloc_reals(cx, planes);
    unit_planes(cx, f, x, planes, length);
    DR_OP(cx->be, fill, .dst = out, .n = planes, .value = 0);
    DR_OP(cx->be, axpy, .y = out, .x = length, .n = planes, .alpha = rms_factor(f) * gain);
}

// d|x| / dx is the unit plane: dx += (d / sqrt(H W)) x / |x|.
static void scatter_rms(struct dr_ctx *cx, const struct dr_features *f, const real *x,
                        int64_t planes, const real *d, real *dx) {
    real *length = alloc_reals(cx, planes), *scaled = alloc_reals(cx, planes);
    real *unit = unit_planes(cx, f, x, planes, length);
    DR_OP(cx->be, fill, .dst = scaled, .n = planes, .value = 0);
    DR_OP(cx->be, axpy, .y = scaled, .x = d, .n = planes, .alpha = rms_factor(f));
    DR_OP(cx->be, gate_fwd, .out = dx, .x = dx, .gate = scaled, .y = unit, .mod_stride = 1,
          .b = planes, .t = f->h * f->w, .d = 1);
}

// Writes the vectors before any normalisation to out, [groups*T, n, S].
static void extract(struct dr_ctx *cx, const struct dr_features *f, const struct feature *t,
                    const real *x, int64_t groups, int64_t n, real *out) {
    int64_t len = groups * n * t->dim.locations * t->dim.s;
    size_t mark = dr_mark(cx->tmp);
    switch (t->kind) {
    case IMAGE:
        DR_OP(cx->be, copy4, .dst = out, .src = x, .dim = {1, 1, 1, len}, .dstride = {0, 0, 0, 1},
              .sstride = {0, 0, 0, 1});
        break;
    case QUADRANTS:
        copy_quadrants(cx->be, f, groups, n, out, (real *)x, false);
        break;
    case PATCH_MEAN:
    case PATCH_STD:
        DR_OP(cx->be, copy4, .dst = out,
              .src = patch_stats(cx, f, t, x, groups * n) + (t->kind == PATCH_STD),
              .dim = {1, 1, 1, len}, .dstride = {0, 0, 0, 1}, .sstride = {0, 0, 0, 2});
        break;
    case RMS:
        extract_rms(cx, f, x, len, 1, out);
        break;
    }
    dr_release(cx->tmp, mark);
}

void dr_features_forward(struct dr_ctx *cx, const struct dr_features *f, int i, const real *x,
                         int64_t groups, int64_t n, real *out, real *norm_out) {
    const struct feature *t = &f->f[i];
    if (!f->sphere || t->kind == RMS) {
        extract(cx, f, t, x, groups, n, out);
        return;
    }
    size_t mark = dr_mark(cx->tmp);
    int64_t rows = groups * n * t->dim.locations;
    const real *raw = x; // the image is its own vector
    if (t->kind != IMAGE) {
        real *vectors = alloc_reals(cx, rows * t->dim.s);
        extract(cx, f, t, x, groups, n, vectors);
        raw = vectors;
    }
    DR_OP(cx->be, l2norm_fwd, .y = out, .norm = norm_out ? norm_out : alloc_reals(cx, rows),
          .x = raw, .m = rows, .n = t->dim.s, .eps = SPHERE_EPS);
    dr_release(cx->tmp, mark);
}

void dr_features_of_reals(struct dr_ctx *cx, const struct dr_features *f, int i, const real *x,
                          int64_t groups, int64_t n, real *out) {
    const struct feature *t = &f->f[i];
    if (t->kind != RMS) {
        dr_features_forward(cx, f, i, x, groups, n, out, NULL);
        return;
    }
    size_t mark = dr_mark(cx->tmp);
    extract_rms(cx, f, x, groups * n * t->dim.s, f->rms_gain, out);
    dr_release(cx->tmp, mark);
}

// dx += the transpose of `extract` (linearised at x for the standard deviations) applied to d.
static void scatter(struct dr_ctx *cx, const struct dr_features *f, const struct feature *t,
                    const real *x, int64_t groups, int64_t n, const real *d, real *dx) {
    int64_t len = groups * n * t->dim.locations * t->dim.s;
    switch (t->kind) {
    case IMAGE:
        DR_OP(cx->be, axpy, .y = dx, .x = d, .n = len, .alpha = 1);
        break;
    case QUADRANTS:
        copy_quadrants(cx->be, f, groups, n, (real *)d, dx, true);
        break;
    case PATCH_MEAN:
    case PATCH_STD: {
        real *pairs = patch_stats(cx, f, t, x, groups * n), *dpairs = alloc_reals(cx, 2 * len);
        DR_OP(cx->be, fill, .dst = dpairs, .n = 2 * len, .value = 0);
        DR_OP(cx->be, copy4, .dst = dpairs + (t->kind == PATCH_STD), .src = d,
              .dim = {1, 1, 1, len}, .dstride = {0, 0, 0, 2}, .sstride = {0, 0, 0, 1});
        DR_OP(cx->be, patch_stats_bwd, .dx = dx, .dout = dpairs, .out = pairs, .x = x,
              .b = groups * n * f->c, .h = f->h, .w = f->w, .c = 1, .p = t->p);
        break;
    }
    case RMS:
        scatter_rms(cx, f, x, len, d, dx);
        break;
    }
}

void dr_features_backward(struct dr_ctx *cx, const struct dr_features *f, int i, const real *x,
                          int64_t groups, int64_t n, const real *out, const real *norm,
                          const real *dout, real *dx) {
    const struct feature *t = &f->f[i];
    size_t mark = dr_mark(cx->tmp);
    if (f->sphere && t->kind != RMS) {
        int64_t rows = groups * n * t->dim.locations;
        real *draw = alloc_reals(cx, rows * t->dim.s);
        DR_OP(cx->be, l2norm_bwd, .dx = draw, .dy = dout, .y = out, .norm = norm, .m = rows,
              .n = t->dim.s, .eps = SPHERE_EPS);
        dout = draw;
    }
    scatter(cx, f, t, x, groups, n, dout, dx);
    dr_release(cx->tmp, mark);
}
