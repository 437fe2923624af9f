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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(shown_by_kind)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
