// A job that reads its pictures for the first time: it is stopped while it reads, takes the threads
// that it is given, and leaves room on the disk, as an evaluation does.
#include "tests/daemon/helper.h"

#include "daemon/jobs/runner.h"

#include <dirent.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int64_t disk_free = -1; // -1: as it is

int64_t __real_dd_free_bytes(const char *path);
int64_t __wrap_dd_free_bytes(const char *path);
int64_t __wrap_dd_free_bytes(const char *path) {
    return disk_free < 0 ? __real_dd_free_bytes(path) : disk_free;
}

static int asked, threads;

static enum dd_wish on_wish(void *ctx) {
    asked++;
    threads = omp_get_max_threads();
    return *(const enum dd_wish *)ctx;
}

static int on_started(void *ctx, const struct dr_trainer *t, const struct dr_dataset *data,
                      int64_t step, struct dr_err *err) {
    (void)ctx, (void)t, (void)data, (void)step, (void)err;
    fail_msg("the pictures were read to the end");
    return 0;
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

// Two pictures of two classes below dir, and a configuration that trains on them.
static void put_pictures(const char *dir, struct dr_config *c) {
    int set = 0;
    char path[400];
    test_tiny(c, 20);
    while (strcmp(dr_set_facts(set)->name, "folder"))
        set++;
    c->data.set = set;
    c->data.channels = 1;
    snprintf(c->data.path, sizeof c->data.path, "mine");
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/mine/%d/1.png", dir, i);
        assert_int_equal(dd_mkdir_for(path, NULL), 0);
        put_picture(path);
    }
    c->data.classes = c->model.classes = 2;
    c->train.positives = 1;
    snprintf(path, sizeof path, "%s/cache", dir);
    setenv("DRIFTD_CACHE", path, 1);
}

static int run(const struct dr_config *c, const char *dir, enum dd_wish wish,
               struct dd_run_result *res, struct dr_err *err) {
    const struct dd_run_hooks hooks = {.ctx = &wish, .wish = on_wish, .started = on_started};
    const struct dd_run_spec spec = {.cfg = c,
                                     .data_dir = dir,
                                     .device = "cpu",
                                     .checkpoint_dir = dir,
                                     .id = "test",
                                     .threads = 3};
    asked = 0;
    return dd_run(&spec, &hooks, res, err);
}

static void a_stop_holds_while_pictures_are_read(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    struct dd_run_result res;
    char dir[256];
    test_mkdir(dir);
    put_pictures(dir, &c);
    omp_set_num_threads(2);
    const int rc = run(&c, dir, DD_WISH_STOP, &res, &err);
    if (rc)
        fail_msg("%s", err.msg);
    assert_int_equal(res.outcome, DD_RUN_STOPPED);
    assert_true(asked > 0 && res.step == 0 && !res.saved);
    assert_int_equal(threads, 3);
    test_rmdir(dir);
}

static void expect_no_files(const char *dir) {
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.')
            fail_msg("%s is left in the cache", e->d_name);
    closedir(d);
}

// At the start, and once it is known what the picture file comes to.
static void room_is_left_on_the_disk(void **state) {
    (void)state;
    struct dr_config c;
    struct dd_run_result res;
    char dir[256];
    test_mkdir(dir);
    put_pictures(dir, &c);
    for (int more = -1; more <= 100; more += 101) { // two pictures of 8 x 8 are more
        struct dr_err err = {0};
        disk_free = DD_MIN_FREE + more;
        const int rc = run(&c, dir, DD_WISH_NONE, &res, &err);
        disk_free = -1;
        if (rc != DR_ENOSPC || !strstr(err.msg, "the disk is full") || !strstr(err.msg, "/cache"))
            fail_msg("%d: %s", rc, err.msg);
        assert_int_equal(res.outcome, DD_RUN_FAILED);
        expect_no_files(getenv("DRIFTD_CACHE"));
    }
    test_rmdir(dir);
}

static void an_evaluation_leaves_room_too(void **state) {
    (void)state;
    struct world w;
    struct dr_config pictures, c;
    struct dr_err err = {0};
    char path[400];
    int64_t id;
    bool replayed;
    world_open(&w, NULL);
    free(w.opt.data_dir);
    w.opt.data_dir = dd_xstrdup(w.dir);
    put_pictures(w.dir, &pictures);
    dr_config_defaults(&c);
    c.kind = DR_RECIPE_EVAL;
    c.data = pictures.data;
    snprintf(c.eval.folder, sizeof c.eval.folder, "mine");
    snprintf(c.eval.judge, sizeof c.eval.judge, "judge.safetensors");
    snprintf(path, sizeof path, "%s/judge.safetensors", w.dir); // is not come to
    assert_int_equal(dd_write_file(path, "x", 1, &err), 0);
    const struct dd_job_new in = {.cfg = &c, .recipe = "eval", .kind = "eval"};
    if (dd_jobs_create(w.jobs, &in, &id, &replayed, &err))
        fail_msg("%s", err.msg);
    disk_free = DD_MIN_FREE - 1;
    assert_int_equal(dd_jobs_start(w.jobs, &err), 0);
    world_wait(&w, id, "failed");
    json_t *j = dd_job_json(w.store, id, false, &err);
    const char *said = json_string_value(json_object_get(j, "error"));
    if (!said || !strstr(said, "the disk is full") || !strstr(said, "/cache"))
        fail_msg("%s", said ? said : "no error");
    json_decref(j);
    expect_no_files(getenv("DRIFTD_CACHE"));
    world_close(&w);
    disk_free = -1;
    test_rmdir(w.dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_stop_holds_while_pictures_are_read),
                                       cmocka_unit_test(room_is_left_on_the_disk),
                                       cmocka_unit_test(an_evaluation_leaves_room_too)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
