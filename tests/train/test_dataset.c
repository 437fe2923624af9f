// A data set that is not in memory trains like one that is: its rows travel with each step. What
// cannot be read stops the run, and every class name reaches the checkpoint.
#include "tests/train/util.h"

#include "engine/io/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool unreadable;

static int fetch(const struct dr_dataset *d, const int64_t *ids, int64_t n, void *out,
                 struct dr_err *err) {
    return unreadable ? dr_fail(err, DR_EIO, "the disk is gone")
                      : dr_dataset_rows(d->own, ids, n, out, err);
}

// The data of r behind rows() alone, and a trainer on it.
static void open_streamed(struct run *r, const struct dr_config *c, struct dr_dataset *behind) {
    struct dr_err err = {0};
    run_open(r, c);
    dr_trainer_free(r->t);
    *behind = *r->data;
    behind->pixels = NULL;
    behind->points = NULL;
    behind->own = r->data;
    behind->rows = fetch;
    if (dr_trainer_create(c, r->be, behind, &r->t, &err))
        fail_msg("%s", err.msg);
}

static void compare(const struct dr_config *c) {
    enum { STEPS = 4 };
    struct run a, b;
    struct dr_dataset behind;
    double x[STEPS], y[STEPS];
    unreadable = false;
    run_open(&a, c);
    open_streamed(&b, c, &behind);
    struct dr_metrics m = run_steps(&a, STEPS, x), n = run_steps(&b, STEPS, y);
    assert_memory_equal(x, y, sizeof x);
    assert_memory_equal(&m.spread, &n.spread, sizeof m.spread);
    unreadable = true;
    struct dr_err err = {0};
    assert_int_equal(dr_trainer_step(b.t, &n, &err), DR_EIO);
    assert_string_equal(err.msg, "the disk is gone");
    assert_int_equal(dr_trainer_steps_done(b.t), STEPS);
    unreadable = false; // the sampler has moved on: no step may follow
    assert_int_equal(dr_trainer_step(b.t, &n, &err), DR_EIO);
    run_close(&a);
    run_close(&b);
}

static void rows_travel_with_the_steps(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err = {0};
    config_of(&c, tiny_digits);
    compare(&c);
    assert_int_equal(dr_config_set(&c, "train.sampler=queue", &err), 0);
    compare(&c);
    recipe(&c, "toy-checkerboard");
    assert_int_equal(dr_config_set(&c, "data.count=600", &err), 0);
    compare(&c);
}

static double first_loss(const struct dr_config *c) {
    struct run r;
    double loss;
    run_open(&r, c);
    run_steps(&r, 1, &loss);
    run_close(&r);
    return loss;
}

// Reals in colour, mirrored and moved: the same whether they are in memory or travel, and not what
// they are without.
static void reals_are_mirrored_and_moved(void **state) {
    (void)state;
    static const char *const colour[] = {"data.set=shapes", "data.channels=3", "data.classes=8",
                                         "data.count=400"};
    static const char *const moved[] = {"data.flip=true", "data.crop=3"};
    struct dr_config c;
    struct dr_err err = {0};
    config_of(&c, tiny_digits);
    if (dr_config_set_all(&c, colour, 4, &err))
        fail_msg("%s", err.msg);
    const double plain = first_loss(&c);
    assert_true(first_loss(&c) == plain);
    if (dr_config_set_all(&c, moved, 2, &err))
        fail_msg("%s", err.msg);
    assert_true(first_loss(&c) != plain);
    compare(&c);
}

static void every_class_name_is_kept(void **state) {
    (void)state;
    enum { CLASSES = 70 };
    static char text[CLASSES][64], *names[CLASSES];
    static int64_t start[CLASSES + 1];
    struct dr_config c;
    struct dr_err err = {0};
    struct run r;
    config_of(&c, tiny_digits);
    run_open(&r, &c);
    dr_trainer_free(r.t);
    struct dr_dataset many = *r.data;
    for (int k = 0; k < CLASSES; k++) {
        snprintf(text[k], sizeof text[k],
                 "Stra\xc3\x9f"
                 "enschild mit langem Namen %d",
                 k);
        names[k] = text[k];
        start[k + 1] = 6 * (k + 1);
    }
    many.classes = c.data.classes = c.model.classes = CLASSES;
    many.class_name = names;
    many.class_start = start; // any six images will do
    c.train.classes = 2;
    if (dr_trainer_create(&c, r.be, &many, &r.t, &err))
        fail_msg("%s", err.msg);
    const char *path = scratch_path("names.safetensors");
    assert_int_equal(dr_trainer_save(r.t, path, NULL, NULL, &err), 0);
    struct dr_st_file *f;
    assert_int_equal(dr_st_open(path, &f, &err), 0);
    json_t *list = json_loads(dr_st_meta(f, "driftd.classes"), 0, NULL);
    assert_int_equal(json_array_size(list), CLASSES);
    for (int k = 0; k < CLASSES; k++)
        assert_string_equal(json_string_value(json_array_get(list, (size_t)k)), text[k]);
    json_decref(list);
    dr_st_close(f);
    unlink(path);
    run_close(&r);
}

// data.classes 0: one group of all samples, a network of one class.
static void labels_can_be_done_without(void **state) {
    (void)state;
    static const char *const set[] = {"data.classes=0", "train.generated=12", "train.positives=40"};
    struct dr_config c;
    struct dr_err err = {0};
    struct run r;
    real x[2 * 256];
    config_of(&c, tiny_digits);
    if (dr_config_set_all(&c, set, (int)DR_COUNT(set), &err))
        fail_msg("%s", err.msg);
    assert_int_equal(dr_config_batch(&c), 12);
    assert_int_equal(c.model.classes, 1);
    run_open(&r, &c);
    assert_int_equal(r.data->classes, 1);
    assert_int_equal(r.data->class_start[1], 600);
    assert_null(r.data->class_name);
    run_steps(&r, 3, NULL);
    run_sample(&r, 0, 2, x);
    run_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_can_be_done_without),
        cmocka_unit_test(rows_travel_with_the_steps),
        cmocka_unit_test(reals_are_mirrored_and_moved),
        cmocka_unit_test(every_class_name_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
