// Sample grids of models without training: four channels are drawn as grey planes, three as rgb,
// points as one plot.
#include "daemon/base/util.h"
#include "daemon/generate/grid.h"
#include "engine/nn/params.h"
#include "tests/daemon/helper.h"

#include <stdlib.h>
#include <string.h>

enum { GREY = 0, RGB = 2 }; // colour types of a PNG's IHDR

static void draw(const char *model, int64_t per_class, struct dd_grid_file *info, int *colour) {
    struct dr_model_config m;
    struct dr_net *net;
    struct dr_backend *be;
    struct dd_grid *g;
    struct dr_err err = {0};
    char dir[256], path[300], *text;
    if (dr_model_config_parse(model, strlen(model), NULL, &m, &err) ||
        dr_gen_create(&m, &net, &err) || dr_backend_open("cpu", 1, &be, &err))
        fail_msg("%s", err.msg);
    dr_backend_enter(be);
    const size_t bytes = ((size_t)dr_net_params(net)->total * sizeof(real) + 63) / 64 * 64;
    real *w = aligned_alloc(64, bytes);
    memset(w, 0, bytes);
    struct dr_snapshot *s = dr_snapshot_new(net, w, 3);
    test_mkdir(dir);
    snprintf(path, sizeof path, "%s/grid.png", dir);
    assert_int_equal(dd_grid_new(be, DR_FP32, &g, &err), 0);
    if (dd_grid_write(g, s, per_class, 1, path, info, &err) ||
        dd_read_file(path, 1 << 20, &text, NULL, &err))
        fail_msg("%s", err.msg);
    *colour = text[25];
    free(text);
    dd_grid_free(g);
    dr_snapshot_unref(s);
    dr_backend_free(be);
    test_rmdir(dir);
}

#define SMALL "\"size\":8,\"patch\":4,\"dim\":16,\"depth\":1,\"heads\":2,\"classes\":3"
enum { SCALE = 2, GAP = 2, SIDE = 8 }; // as grid.c draws

static int64_t width(int64_t n, int64_t side) {
    return n * (side * SCALE + GAP) - GAP;
}

static void shown_by_kind(void **state) {
    (void)state;
    struct dd_grid_file f;
    int colour;
    draw("{" SMALL ",\"channels\":4}", 2, &f, &colour);
    assert_int_equal(colour, GREY);
    assert_true(f.width == width(2, 4 * SIDE) && f.height == width(3, SIDE));
    draw("{" SMALL ",\"channels\":3}", 2, &f, &colour);
    assert_int_equal(colour, RGB);
    assert_true(f.width == width(2, SIDE) && f.height == width(3, SIDE));
    draw("{" SMALL ",\"channels\":3,\"kind\":\"latents\"}", 2, &f, &colour);
    assert_int_equal(colour, GREY);
    assert_true(f.width == width(2, 3 * SIDE));
    draw("{" SMALL ",\"channels\":2}", 2, &f, &colour);
    assert_int_equal(colour, GREY);
    assert_true(f.width == width(2, 2 * SIDE));
    draw("{\"size\":1,\"channels\":2,\"classes\":1,\"arch\":\"mlp\",\"dim\":16,\"depth\":1}", 2, &f,
         &colour);
    assert_int_equal(colour, GREY);
    assert_true(f.width == 256 && f.height == 256);
}

// Whatever the size of the images, their picture can be written and takes little memory.
static void large_images_are_fewer(void **state) {
    (void)state;
    const struct dd_grid_shape small = dd_grid_shape(10, 8, 28 * 28, 28),
                               large = dd_grid_shape(16, 8, 3 << 20, 1024);
    assert_true(small.rows == 10 && small.columns == 8 && small.scale == 2);
    assert_true(large.rows == 16 && large.columns == 1 && large.scale == 1);
    for (int64_t side = 1; side <= 1024; side++)
        for (int64_t channels = 1; channels <= 4; channels++)
            for (int64_t columns = 1; columns <= 64; columns *= 2) {
                const int64_t one = channels * side * side;
                const struct dd_grid_shape g = dd_grid_shape(16, columns, one, side);
                const int64_t w = g.columns * (channels * side * g.scale + GAP),
                              h = g.rows * (side * g.scale + GAP);
                assert_true(g.rows >= 1 && g.columns >= 1 && g.rows <= 16 && g.columns <= columns);
                assert_true(g.rows * g.columns * one <= 1 << 26);
                assert_true(w <= 1000000 && h <= 1000000 && w * h <= 1 << 30); // image.c's limits
            }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(shown_by_kind),
                                       cmocka_unit_test(large_images_are_fewer)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
