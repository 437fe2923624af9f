// Features of a frozen residual network: every pool of its maps has the gradient that differences
// of its values have, on and off the sphere, activations kept or computed again; the vectors are
// those that plain loops over the maps give; which features a configuration turns on.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/nn/net.h"
#include "tests/loss/ref.h"

enum { G = 2, N = 2, C = 2, SIDE = 8, IMAGE = C * SIDE * SIDE, LEN = G * N * IMAGE };

struct fixture {
    struct rig r;
    struct dr_arena keep;
    void *block;
    struct dr_net *net;
    struct dr_features *f;
    real *w;
    struct dr_weights weights;
};

static struct dr_feature_config config_of(const char *maps) {
    struct dr_feature_config c = {.kind = DR_FEATURE_ENCODER,
                                  .rms_gain = 1,
                                  .map_locations = true,
                                  .map_global = true,
                                  .map_quadrants = true,
                                  .map_patch2 = true,
                                  .map_patch4 = true,
                                  .map_std = true,
                                  .grid = 4};
    snprintf(c.maps, sizeof c.maps, "%s", maps);
    return c;
}

static void open_net(struct fixture *t) {
    static const char json[] = "{\"arch\": \"resnet\", \"size\": 8, \"channels\": 2, \"width\": 4,"
                               " \"groups\": 2, \"blocks\": [1, 2], \"every\": 1}";
    struct dr_err err = {0};
    rig_open(&t->r, 1);
    t->block = aligned_alloc(DR_ALIGN, 4 << 20);
    dr_arena_init(&t->keep, t->block, 4 << 20);
    t->r.cx.keep = &t->keep;
    if (dr_net_parse(json, strlen(json), NULL, &t->net, &err))
        fail_msg("%s", err.msg);
    const struct dr_params *ps = dr_net_params(t->net);
    t->w = aligned_alloc(DR_ALIGN, (size_t)ps->total * sizeof *t->w);
    dr_params_init(ps, 3, t->w);
    for (int i = 0; i < ps->n; i++) // shifts that keep the ReLUs off their corner
        for (int64_t j = 0; ps->p[i].ndim == 1 && j < ps->p[i].count; j++)
            t->w[ps->p[i].offset + j] += (real)(0.05 * (double)((j * 5 + i) % 7 - 2));
}

static void open_fixture(struct fixture *t, const struct dr_feature_config *cfg) {
    struct dr_err err = {0};
    open_net(t);
    const struct dr_feature_net net = {.net = t->net, .weights = t->w};
    if (dr_features_create_on(&dr_feature_encoder, cfg, (struct dr_map_dim){C, SIDE, SIDE, false},
                              &net, &t->f, &err))
        fail_msg("%s", err.msg);
    t->weights = (struct dr_weights){.layout = dr_features_params(t->f), .w = t->w};
}

static void close_fixture(struct fixture *t) {
    dr_features_free(t->f);
    dr_net_free(t->net);
    free(t->w);
    free(t->block);
    rig_close(&t->r);
}

// sum of weight * vector over the elements of feature `only` (-1: all), and with dx its gradient.
static double functional(struct fixture *t, real *x, const real *weights, int only, size_t budget,
                         real *dx) {
    struct dr_ctx *cx = &t->r.cx;
    struct dr_maps m = {0}, dm;
    struct dr_err err = {0};
    static real out[1 << 16], norm[1 << 12];
    double sum = 0;
    if (dx && dr_maps_init(t->f, G * N, 3, budget, DR_F32, &m, &err))
        fail_msg("%s", err.msg);
    dr_features_extract(cx, t->f, &t->weights, x, G, N, &m);
    if (dx) {
        assert_true(m.again == (budget == 0));
        dr_features_zero_gradients(cx, t->f, &m, dx, &dm);
    }
    for (int i = 0; i < dr_features_count(t->f); i++) {
        const struct dr_feature_dim d = dr_features_dim(t->f, i);
        if (only >= 0 && i != only)
            continue;
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

// Along random directions; the double build also every pixel of all features together.
static void check_gradient(struct fixture *t, int only, const real *dx, real *x,
                           const real *weights) {
#ifdef DR_DOUBLE
    const double h = 1e-6, tol = 1e-6;
#else
    const double h = 1.0 / 512, tol = 2e-2;
#endif
    real *d = test_normals(77 + (uint64_t)only, LEN, 0, 1), *y = malloc(LEN * sizeof *y);
    double want, have = 0, size = 0;
    for (int k = 0; k < LEN; k++) {
        have += (double)dx[k] * (double)d[k];
        size += fabs((double)dx[k] * (double)d[k]);
    }
    for (int k = 0; k < LEN; k++)
        y[k] = (real)((double)x[k] + h * (double)d[k]);
    want = functional(t, y, weights, only, 0, NULL);
    for (int k = 0; k < LEN; k++)
        y[k] = (real)((double)x[k] - h * (double)d[k]);
    want = (want - functional(t, y, weights, only, 0, NULL)) / (2 * h);
    if (!(fabs(have - want) <= tol * size))
        fail_msg("feature %d (%s): %.9g, differences say %.9g", only,
                 only < 0 ? "all" : dr_features_dim(t->f, only).name, have, want);
    free(d), free(y);
}

static void every_pool_has_its_gradient(void **state) {
    (void)state;
    for (int norm = 0; norm < 2; norm++) {
        struct fixture t;
        struct dr_feature_config cfg = config_of("all");
        cfg.norm = norm ? DR_FEATURE_NORM_SPHERE : DR_FEATURE_NORM_NONE;
        cfg.pixel_weight = 0.5, cfg.image = cfg.quadrants = true, cfg.rms = 1;
        open_fixture(&t, &cfg);
        real *x = test_normals(2, LEN, 0.2, 1), *weights = test_normals(3, 1 << 14, 0, 1);
        real dx[LEN], again[LEN];
        assert_true(dr_features_count(t.f) > 15);
        for (int only = -1; only < dr_features_count(t.f); only++) {
            functional(&t, x, weights, only, (size_t)1 << 30, dx);
            functional(&t, x, weights, only, 0, again);
            assert_memory_equal(dx, again, sizeof dx);
            check_gradient(&t, only, dx, x, weights);
        }
        free(x), free(weights);
        close_fixture(&t);
    }
}

// The vectors of one map [G*N,h,w,c] by plain loops.
static void plain_vectors(const real *map, int64_t side, int64_t c, int64_t p, bool std, bool whole,
                          double *out) {
    const int64_t cells = side / p;
    for (int64_t i = 0; i < G * N; i++)
        for (int64_t cell = 0; cell < cells * cells; cell++)
            for (int64_t k = 0; k < c; k++) {
                double s = 0, q = 0;
                for (int64_t y = 0; y < p; y++)
                    for (int64_t x = 0; x < p; x++) {
                        const int64_t r = cell / cells * p + y, l = cell % cells * p + x;
                        const double v = (double)map[((i * side + r) * side + l) * c + k];
                        s += v, q += v * v;
                    }
                s /= (double)(p * p), q = sqrt(q / (double)(p * p) - s * s + 1e-6);
                const int64_t g = i / N, j = i % N, T = cells * cells;
                const int64_t at =
                    whole ? (i * T + cell) * c + k : ((g * T + cell) * N + j) * c + k;
                out[at] = std ? q : s;
            }
}

static void vectors_agree_with_plain_loops(void **state) {
    static const struct {
        const char *name;
        int64_t p;
        bool std, whole;
    } want[] = {{"stage1.locations", 2, false, false}, {"stage1.mean", 8, false, false},
                {"stage1.std", 8, true, false},        {"stage1.quadrants", 4, false, true},
                {"stage1.2x2.mean", 2, false, false},  {"stage1.2x2.std", 2, true, false},
                {"stage1.4x4.mean", 4, false, false},  {"stage1.4x4.std", 4, true, false}};
    struct fixture t;
    const struct dr_feature_config cfg = config_of("stage1");
    (void)state;
    open_fixture(&t, &cfg);
    real *x = test_normals(9, LEN, 0.2, 1), out[G * N * 4 * 64];
    double ref[G * N * 4 * 64];
    struct dr_maps m = {0};
    assert_int_equal(dr_features_count(t.f), DR_COUNT(want));
    dr_features_extract(&t.r.cx, t.f, &t.weights, x, G, N, &m);
    for (int i = 0; i < (int)DR_COUNT(want); i++) {
        const struct dr_feature_dim d = dr_features_dim(t.f, i);
        assert_string_equal(d.name, want[i].name);
        dr_features_vectors(&t.r.cx, t.f, i, &m, true, out, NULL);
        plain_vectors(m.map[0], 8, 4, want[i].p, want[i].std, want[i].whole, ref);
        assert_true(ref_nmse(out, ref, G * N * d.locations * d.s) < 1e-9);
    }
    free(x);
    close_fixture(&t);
}

// A kind whose one map is the image, taken as if its channels came last.
static int create_cells(const struct dr_feature_config *cfg, struct dr_map_dim image,
                        struct dr_features *f, void **impl, struct dr_err *err) {
    (void)cfg, (void)impl, (void)err;
    image.last = true;
    dr_features_add(f, dr_features_add_map(f, image), DR_POOL_CELLS, 2, 1, "cells");
    return 0;
}

// Cells of 2x2 on odd sides: those at the edge are means of what they hold, and a value's gradient
// is its share of its cell's.
static void check_odd_cells(int64_t h, int64_t w) {
    static const struct dr_feature_kind kind = {.name = "cells", .create = create_cells};
    enum { CH = 3, MOST = G * N * 5 * 5 * CH };
    const struct dr_feature_config cfg = {.rms_gain = 1};
    const int64_t rows = (h + 1) / 2, cols = (w + 1) / 2, T = rows * cols;
    real *x = test_normals(4, MOST, 0.2, 1), *weights = test_normals(5, MOST, 0, 1);
    real out[MOST], dx[MOST];
    double want[MOST] = {0}, gradient[MOST];
    struct dr_maps m = {0}, dm;
    struct dr_features *f;
    struct dr_err err = {0};
    struct rig r;
    rig_open(&r, 1);
    if (dr_features_create_as(&kind, &cfg, (struct dr_map_dim){CH, h, w, false}, &f, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(dr_features_dim(f, 0).locations, T);
    for (int64_t i = 0; i < G * N * h * w * CH; i++) {
        const int64_t k = i % CH, col = i / CH % w, row = i / CH / w % h, n = i / CH / w / h;
        const int64_t cell = row / 2 * cols + col / 2,
                      at = ((n / N * T + cell) * N + n % N) * CH + k;
        const double share =
            1.0 / (double)(DR_MIN(2, h - row / 2 * 2) * DR_MIN(2, w - col / 2 * 2));
        want[at] += share * (double)x[i];
        gradient[i] = share * (double)weights[at];
    }
    dr_features_extract(&r.cx, f, NULL, x, G, N, &m);
    dr_features_vectors(&r.cx, f, 0, &m, true, out, NULL);
    assert_true(ref_nmse(out, want, G * N * T * CH) < 1e-9);
    dr_features_zero_gradients(&r.cx, f, &m, dx, &dm);
    dr_features_vectors_backward(&r.cx, f, 0, &m, out, NULL, weights, &dm);
    assert_true(ref_nmse(dx, gradient, G * N * h * w * CH) < 1e-9);
    dr_features_free(f);
    rig_close(&r);
    free(x), free(weights);
}

static void odd_sides_have_cells_too(void **state) {
    (void)state;
    check_odd_cells(5, 5);
    check_odd_cells(5, 4);
    check_odd_cells(4, 3);
}

// features.grid is a bound, whatever divides the side of a map.
static void a_grid_is_not_exceeded(void **state) {
    (void)state;
    for (int64_t side = 2; side <= 14; side++)
        for (int64_t grid = 1; grid <= 8; grid++) {
            struct dr_feature_config cfg = config_of("stage1");
            char json[200];
            struct dr_net *net;
            struct dr_features *f;
            struct dr_err err = {0};
            snprintf(json, sizeof json,
                     "{\"arch\": \"resnet\", \"size\": %d, \"channels\": 2, \"width\": 4,"
                     " \"groups\": 2, \"blocks\": [1, 1]}",
                     (int)side);
            cfg.grid = grid;
            if (dr_net_parse(json, strlen(json), NULL, &net, &err) ||
                dr_features_create_on(&dr_feature_encoder, &cfg,
                                      (struct dr_map_dim){2, side, side, false},
                                      &(struct dr_feature_net){.net = net}, &f, &err))
                fail_msg("%s", err.msg);
            const struct dr_feature_dim d = dr_features_dim(f, 0);
            const bool some = !strcmp(d.name, "stage1.locations");
            assert_true(some || side > grid); // what fits is taken whole
            assert_true(!some || d.locations <= grid * grid);
            assert_true(some || side > 2 * grid || side == 2);
            if (side == 7 && grid == 4)
                assert_int_equal(d.locations, 16);
            dr_features_free(f);
            dr_net_free(net);
        }
}

static void a_configuration_turns_features_on(void **state) {
    (void)state;
    struct fixture t;
    struct dr_feature_config cfg = config_of("-1, 1");
    cfg.pool = DR_FEATURE_POOL_GLOBAL;
    open_fixture(&t, &cfg); // two maps, mean and std each
    assert_int_equal(dr_features_count(t.f), 4);
    assert_string_equal(dr_features_dim(t.f, 0).name, "stage1.mean");
    assert_string_equal(dr_features_dim(t.f, 3).name, "stage2.std");
    close_fixture(&t);
    cfg = config_of("stage2");
    cfg.grid = 0, cfg.map_std = false, cfg.map_patch4 = false, cfg.map_quadrants = false;
    open_fixture(&t, &cfg); // every location, mean, 2x2 means
    assert_int_equal(dr_features_count(t.f), 3);
    assert_int_equal(dr_features_dim(t.f, 0).locations, 16);
    close_fixture(&t);
}

static void maps_that_are_not_there(void **state) {
    static const char *const bad[] = {"stage7", "0", "9", "-4", "stage1,x", ","};
    (void)state;
    for (size_t i = 0; i < DR_COUNT(bad); i++) {
        struct fixture t;
        struct dr_err err = {0};
        const struct dr_feature_config cfg = config_of(bad[i]);
        open_net(&t);
        const struct dr_feature_net net = {.net = t.net, .weights = t.w};
        assert_int_equal(dr_features_create_on(&dr_feature_encoder, &cfg,
                                               (struct dr_map_dim){C, SIDE, SIDE, false}, &net,
                                               &t.f, &err),
                         DR_ECONFIG);
        assert_string_equal(err.field, "features.maps");
        assert_non_null(strstr(err.msg, "stage2"));
        close_fixture(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pool_has_its_gradient),
        cmocka_unit_test(vectors_agree_with_plain_loops),
        cmocka_unit_test(odd_sides_have_cells_too),
        cmocka_unit_test(a_grid_is_not_exceeded),
        cmocka_unit_test(a_configuration_turns_features_on),
        cmocka_unit_test(maps_that_are_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
