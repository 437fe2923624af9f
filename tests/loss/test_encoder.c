// The three phases of feature extraction on a kind with weights and several maps (tiny_encoder.h):
// its gradient agrees with differences, and how the images are cut into chunks changes no bit.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/loss/ref.h"
#include "tests/loss/tiny_encoder.h"

enum { G = 2, N = 3, C = 2, H = 4, W = 6, IMAGE = C * H * W, LEN = G * N * IMAGE };

struct fixture {
    struct rig r;
    struct dr_arena keep;
    void *block;
    struct dr_features *f;
    real w[64];
    size_t budget; // for what is kept; 0: extraction runs again
    struct dr_weights weights;
};

static void open_fixture(struct fixture *t, int norm) {
    const struct dr_feature_config cfg = {.norm = norm, .rms_gain = 1};
    struct dr_err err = {0};
    rig_open(&t->r, 1);
    t->budget = 1 << 20;
    t->block = aligned_alloc(DR_ALIGN, 1 << 20);
    dr_arena_init(&t->keep, t->block, 1 << 20);
    t->r.cx.keep = &t->keep;
    if (dr_features_create_as(&tiny_encoder, &cfg, (struct dr_map_dim){C, H, W}, &t->f, &err) ||
        dr_features_load(t->f, t->w, &err))
        fail_msg("%s", err.msg);
    t->weights = (struct dr_weights){.layout = dr_features_params(t->f), .w = t->w};
    assert_int_equal(dr_features_count(t->f), TINY_FEATURES);
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
    if (dx && dr_maps_init(t->f, G * N, chunk, t->budget, DR_F32, &m, &err))
        fail_msg("%s", err.msg);
    m.chunk = chunk;
    dr_features_extract(cx, t->f, &t->weights, x, G, N, &m);
    // Without a gradient, or where extraction runs again, nothing is kept.
    assert_int_equal(t->keep.used > 0, dx && !m.again);
    if (dx)
        dr_features_zero_gradients(cx, t->f, &m, dx, &dm);
    for (int i = 0; i < TINY_FEATURES; i++) {
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

struct weighted {
    struct fixture *t;
    real *x;
    const real *weights;
};
static double weighted_sum(void *ctx) {
    const struct weighted *w = ctx;
    return functional(w->t, w->x, w->weights, 0, NULL);
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
        struct weighted at = {&t, x, weights};
        functional(&t, x, weights, 4, dx);
        test_slope(&(struct slope){.what = norm ? "on the sphere" : "as they are",
                                   .x = x,
                                   .dx = dx,
                                   .n = LEN,
                                   .stride = 1,
                                   .h = h,
                                   .tol = tol,
                                   .value = weighted_sum,
                                   .ctx = &at});
        free(x), free(weights);
        close_fixture(&t);
        assert_int_equal(tiny_encoder_alive, 0);
    }
}

static void chunks_change_nothing(void **state) {
    (void)state;
    struct fixture t;
    open_fixture(&t, DR_FEATURE_NORM_NONE);
    real *x = test_normals(2, LEN, 0.2, 1), *weights = test_normals(3, LEN, 0, 1);
    real whole[LEN], cut[LEN];
    const double sum = functional(&t, x, weights, 0, whole);
    for (int64_t chunk = 1; chunk <= G * N; chunk++)
        for (int again = 0; again < 2; again++) {
            t.budget = again ? 0 : 1 << 20;
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
