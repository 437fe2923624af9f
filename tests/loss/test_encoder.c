// A feature kind in one file, of the shape that encoders have: frozen weights, two maps per image,
// activations kept for the backward pass, several features per map. Its gradient agrees with
// differences, and how the images are cut into chunks changes no bit.
//
//   map 0   a x per pixel, [C,H,W]             as a whole vector, and its rms
//   map 1   silu(b x) of channel 0, [1,H,W]    its quadrants, patch means and patch stds
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/loss/ref.h"

enum { G = 2, N = 3, C = 2, H = 4, W = 6, IMAGE = C * H * W, LEN = G * N * IMAGE, FEATURES = 5 };

struct encoder {
    struct dr_map_dim d;
    struct dr_params layout;
};
struct kept {
    real *pre; // [n,H,W], before the silu
};
static int alive; // saved objects

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
    alive++;
    return calloc(1, sizeof(struct kept));
}
static void saved_free(void *saved) {
    alive--;
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

static void backward(struct dr_ctx *cx, const void *impl, const struct dr_weights *w, int64_t n,
                     real *const *dmap, const void *saved, real *dx) {
    const struct encoder *e = impl;
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

static const struct dr_feature_kind tiny = {.name = "tiny",
                                            .create = create,
                                            .destroy = destroy,
                                            .params = params,
                                            .load = load,
                                            .saved_new = saved_new,
                                            .saved_free = saved_free,
                                            .extract = extract,
                                            .backward = backward};

// ---- tests

struct fixture {
    struct rig r;
    struct dr_arena keep;
    void *block;
    struct dr_features *f;
    real w[64];
    struct dr_weights weights;
};

static void open_fixture(struct fixture *t, int norm) {
    const struct dr_feature_config cfg = {.norm = norm, .rms_gain = 1};
    struct dr_err err = {0};
    rig_open(&t->r, 1);
    t->block = aligned_alloc(DR_ALIGN, 1 << 20);
    dr_arena_init(&t->keep, t->block, 1 << 20);
    t->r.cx.keep = &t->keep;
    if (dr_features_create_as(&tiny, &cfg, (struct dr_map_dim){C, H, W}, &t->f, &err) ||
        dr_features_load(t->f, t->w, &err))
        fail_msg("%s", err.msg);
    t->weights = (struct dr_weights){.layout = dr_features_params(t->f), .w = t->w};
    assert_int_equal(dr_features_count(t->f), FEATURES);
}
static void close_fixture(struct fixture *t) {
    dr_features_free(t->f);
    free(t->block);
    rig_close(&t->r);
}

// sum over all features and elements of weight * vector, and with dx its gradient.
static double functional(struct fixture *t, real *x, const real *weights, int64_t chunk, real *dx) {
    struct dr_ctx *cx = &t->r.cx;
    struct dr_maps m = {0}, dm;
    struct dr_err err = {0};
    real out[LEN], norm[G * N * 4];
    double sum = 0;
    if (dx && dr_maps_init(t->f, G * N, chunk, &m, &err))
        fail_msg("%s", err.msg);
    m.chunk = chunk;
    dr_features_extract(cx, t->f, &t->weights, x, G, N, &m);
    assert_int_equal(t->keep.used > 0, dx != NULL); // without a gradient nothing is kept
    if (dx)
        dr_features_zero_gradients(cx, t->f, &m, dx, &dm);
    for (int i = 0; i < FEATURES; i++) {
        const struct dr_feature_dim d = dr_features_dim(t->f, i);
        dr_features_vectors(cx, t->f, i, &m, false, out, norm);
        for (int64_t k = 0; k < G * N * d.locations * d.s; k++)
            sum += (double)weights[k] * (double)out[k];
        if (dx)
            dr_features_vectors_backward(cx, t->f, i, &m, out, norm, weights, &dm);
    }
    if (dx)
        dr_features_backward(cx, t->f, &t->weights, &m, &dm, dx);
    dr_release(cx->tmp, 0);
    dr_release(&t->keep, 0);
    dr_maps_free(t->f, &m);
    return sum;
}

static void its_gradient_agrees_with_differences(void **state) {
    (void)state;
#ifdef DR_DOUBLE
    const double h = 1e-6, tol = 1e-6;
#else
    const double h = 1.0 / 256, tol = 5e-3;
#endif
    for (int norm = 0; norm < 2; norm++) {
        struct fixture t;
        open_fixture(&t, norm ? DR_FEATURE_NORM_SPHERE : DR_FEATURE_NORM_NONE);
        real *x = test_normals(2, LEN, 0.2, 1), *weights = test_normals(3, LEN, 0, 1), dx[LEN];
        double size = 0;
        functional(&t, x, weights, 4, dx);
        for (int k = 0; k < LEN; k++)
            size = fmax(size, fabs((double)dx[k]));
        for (int k = 0; k < LEN; k++) {
            const real keep = x[k];
            x[k] = (real)((double)keep + h);
            double xu = (double)x[k], up = functional(&t, x, weights, 0, NULL);
            x[k] = (real)((double)keep - h);
            double xd = (double)x[k], down = functional(&t, x, weights, 0, NULL);
            x[k] = keep;
            double want = (up - down) / (xu - xd);
            if (!(fabs((double)dx[k] - want) <= tol * size))
                fail_msg("norm %d pixel %d: %.9g, differences say %.9g", norm, k, (double)dx[k],
                         want);
        }
        free(x), free(weights);
        close_fixture(&t);
        assert_int_equal(alive, 0);
    }
}

static void chunks_change_nothing(void **state) {
    (void)state;
    struct fixture t;
    open_fixture(&t, DR_FEATURE_NORM_NONE);
    real *x = test_normals(2, LEN, 0.2, 1), *weights = test_normals(3, LEN, 0, 1);
    real whole[LEN], cut[LEN];
    const double sum = functional(&t, x, weights, 0, whole);
    for (int64_t chunk = 1; chunk <= G * N; chunk++) {
        memset(cut, 0xff, sizeof cut);
        assert_true(functional(&t, x, weights, chunk, cut) == sum);
        assert_memory_equal(whole, cut, sizeof cut);
    }
    free(x), free(weights);
    close_fixture(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(its_gradient_agrees_with_differences),
        cmocka_unit_test(chunks_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
