// A job that reads its pictures for the first time is stopped while it reads.
#include "tests/daemon/helper.h"

#include "daemon/jobs/runner.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static enum dd_wish on_wish(void *ctx) {
    ++*(int *)ctx;
    return DD_WISH_STOP;
}

static void on_started(void *ctx, const struct dr_trainer *t, const struct dr_dataset *data,
                       int64_t step) {
    (void)ctx, (void)t, (void)data, (void)step;
    fail_msg("the pictures were read to the end");
}

static void put_picture(const char *path) {
    enum { SIDE = 16 };
    static const real x[SIDE * SIDE];
    struct dr_bytes png = {0};
    struct dr_err err = {0};
    const enum dr_show show = dr_show(DR_KIND_IMAGES, 1);
    if (dr_png_grid(x, 1, 1, SIDE, SIDE, show, 1, 1, 0, NULL, NULL, &png, &err) ||
        dd_write_file(path, png.p, png.n, &err))
        fail_msg("%s", err.msg);
    free(png.p);
}

static void a_stop_holds_while_pictures_are_read(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct dd_run_result res;
    int asked = 0, set = 0;
    char dir[256], path[400];
    const struct dd_run_hooks hooks = {.ctx = &asked, .wish = on_wish, .started = on_started};
    test_tiny(&c, 20);
    test_mkdir(dir);
    setenv("DRIFTD_CACHE", dir, 1);
    while (strcmp(dr_set_facts(set)->name, "folder"))
        set++;
    c.data.set = set;
    c.data.channels = 1;
    snprintf(c.data.path, sizeof c.data.path, "mine");
    for (int i = 0; i < 3; i++) {
        static const char *const at[] = {"mine", "mine/0", "mine/1"};
        snprintf(path, sizeof path, "%s/%s", dir, at[i]);
        assert_int_equal(mkdir(path, 0700), 0);
        snprintf(path, sizeof path, "%s/%s/1.png", dir, at[i]);
        if (i)
            put_picture(path);
    }
    c.data.classes = c.model.classes = 2;
    c.train.positives = 1;
    const struct dd_run_spec spec = {.cfg = &c,
                                     .data_dir = dir,
                                     .device = "cpu",
                                     .checkpoint_dir = dir,
                                     .id = "test",
                                     .threads = 1};
    const int rc = dd_run(&spec, &hooks, &res, &err);
    if (rc)
        fail_msg("%s", err.msg);
    assert_int_equal(res.outcome, DD_RUN_STOPPED);
    assert_true(asked > 0 && res.step == 0 && !res.saved);
    test_rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_stop_holds_while_pictures_are_read)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
