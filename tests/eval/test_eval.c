// Evaluations on small digits: the same bits however they are cut, a place that is saved and taken
// up again, errors that name what is wrong, and metrics that notice the fault they are for.
#include "engine/core/backend.h"
#include "tests/eval/faults.h"
#include "tests/train/util.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const judge_of_digits[] = {"kind=encoder",
                                              "data.set=digits",
                                              "data.size=16",
                                              "data.count=1200",
                                              "data.seed=3",
                                              "encoder.objective=classify",
                                              "encoder.width=8",
                                              "encoder.blocks=[1, 1, 1]",
                                              "encoder.groups=4",
                                              "encoder.batch=40",
                                              "train.micro_batch=20",
                                              "train.seed=5",
                                              "train.steps=120",
                                              "optim.lr=1e-2",
                                              "optim.warmup=15",
                                              "optim.schedule=one-cycle",
                                              "optim.lr_end=0",
                                              "ema.decay=[0.9]",
                                              NULL};

static struct world {
    struct run judging;
    struct dr_dataset *test;
    struct dr_snapshot *judge, *generator;
} w;

static void must(int rc, const struct dr_err *err) {
    if (rc)
        fail_msg("%s", err->msg);
}

static int open_world(void **state) {
    (void)state;
    struct dr_config c, g;
    struct dr_err err = {0};
    struct dr_net *net;
    config_of(&c, judge_of_digits);
    run_open(&w.judging, &c);
    run_steps(&w.judging, 120, NULL);
    w.judge = dr_trainer_snapshot(w.judging.t, 0);
    must(dr_dataset_load(&c.data, NULL, true, &w.test, &err), &err);
    config_of(&g, tiny_digits);
    must(dr_gen_create(&g.model, &net, &err), &err);
    real *weights = aligned_alloc(64, (dr_net_bytes(net) + 63) / 64 * 64);
    dr_params_init(dr_net_params(net), 7, weights);
    w.generator = dr_snapshot_new(net, weights, 0);
    assert_non_null(w.generator);
    return 0;
}

static int close_world(void **state) {
    (void)state;
    dr_snapshot_unref(w.judge);
    dr_snapshot_unref(w.generator);
    dr_dataset_free(w.test);
    run_close(&w.judging);
    return 0;
}

static struct dr_eval_config config(int64_t n) {
    struct dr_eval_config c;
    dr_eval_defaults(&c);
    c.n = n;
    c.kid_subsets = 5;
    c.kid_size = 60;
    return c;
}

static struct dr_eval_ref *ref_of(const struct dr_eval_config *c, const struct dr_dataset *train,
                                  const struct dr_dataset *test) {
    const struct dr_eval_judge judge = {.snap = w.judge};
    struct dr_eval_ref *r;
    struct dr_err err = {0};
    must(dr_eval_ref_create(w.judging.be, c, &judge, train, test, &r, &err), &err);
    return r;
}

static struct dr_eval_ref *open_ref(const struct dr_eval_config *c) {
    return ref_of(c, w.judging.data, w.test);
}

static struct dr_eval_ref *finish(struct dr_eval_ref *r) {
    struct dr_err err = {0};
    bool done = false;
    while (!done)
        must(dr_eval_ref_advance(r, 1, &done, &err), &err);
    assert_true(dr_eval_ref_progress(r) == 1);
    return r;
}

static struct dr_eval_ref *full_ref(const struct dr_eval_config *c) {
    return finish(open_ref(c));
}

static struct dr_eval_source *generated(int64_t n) {
    struct dr_eval_source *s;
    struct dr_err err = {0};
    const struct dr_eval_generator g = {
        .snap = w.generator, .alpha = 1.5, .seed = 4, .n = n, .batch = 8};
    must(dr_eval_source_generator(w.judging.be, &g, &s, &err), &err);
    return s;
}

// What an evaluation found, without its times.
struct found {
    struct dr_eval_value metric[DR_EVAL_METRICS];
    double diversity[10], accuracy[10], fd[8];
    int64_t confusion[100];
};
static struct found found_in(const struct dr_eval *e) {
    struct found f;
    struct dr_eval_result r;
    struct dr_err err = {0};
    must(dr_eval_result(e, 0, &r, &err), &err);
    memset(&f, 0, sizeof f);
    memcpy(f.metric, r.metric, sizeof f.metric);
    memcpy(f.diversity, r.diversity, sizeof f.diversity);
    memcpy(f.accuracy, r.accuracy, sizeof f.accuracy);
    memcpy(f.confusion, r.confusion, sizeof f.confusion);
    memcpy(f.fd, r.fd_at, (size_t)r.fd_points * sizeof *f.fd);
    assert_int_equal(r.n, dr_eval_progress(e) == 1 ? r.n : -1);
    return f;
}

static struct found evaluate(struct dr_eval_source *s, struct dr_eval_ref *r) {
    struct dr_eval *e;
    struct dr_err err = {0};
    bool done = false;
    must(dr_eval_create(s, &r, 1, &e, &err), &err);
    while (!done)
        must(dr_eval_advance(e, 0, &done, &err), &err);
    const struct found f = found_in(e);
    dr_eval_free(e);
    return f;
}

static void bits_depend_on_nothing_else(void **state) {
    (void)state;
    struct found first = {0};
    const int threads = omp_get_max_threads();
    for (int i = 0; i < 4; i++) {
        struct dr_eval_config c = config(203);
        c.batch = (int64_t[]){64, 5, 33, 20}[i];
        omp_set_num_threads(1 + i % 2);
        w.judging.be->host_memory = i < 3; // else as beside a device, statistics on another thread
        struct dr_eval_ref *r = full_ref(&c);
        struct dr_eval_source *s = generated(c.n);
        const struct found f = evaluate(s, r);
        for (int k = 0; k < DR_EVAL_METRICS && !i; k++)
            assert_true(isfinite(f.metric[k].value) || k == DR_EVAL_FD_INF);
        if (!i)
            first = f;
        assert_memory_equal(&f, &first, sizeof f);
        dr_eval_source_free(s);
        dr_eval_ref_free(r);
    }
    omp_set_num_threads(threads);
    w.judging.be->host_memory = true;
}

// Every beginning has the classes in the proportions of the reals, from the generator as well. A
// class is half an image from its share of a whole round, and a beginning half of the ten classes.
static void classes_come_in_their_proportions(void **state) {
    (void)state;
    struct dr_dataset some = *w.judging.data; // a quarter of the threes
    int64_t start[11] = {0}, *of_class = malloc((size_t)some.n * sizeof *of_class), have[10] = {0};
    struct dr_eval_source *reals, *made, *in_turn = generated(20);
    struct dr_err err = {0};
    real x[16 * 16];
    int32_t cls;
    for (int c = 0; c < 10; c++) {
        const int64_t first = some.class_start[c], all = some.class_start[c + 1] - first,
                      n = c == 3 ? all / 4 : all;
        memcpy(of_class + start[c], some.by_class + first, (size_t)n * sizeof *of_class);
        start[c + 1] = start[c] + n;
    }
    some.class_start = start;
    some.by_class = of_class;
    some.n = start[10];
    must(dr_eval_source_dataset(&some, 0, &reals, &err), &err);
    const struct dr_eval_generator g = {
        .snap = w.generator, .like = &some, .alpha = 1, .n = some.n + 20, .batch = 1};
    must(dr_eval_source_generator(w.judging.be, &g, &made, &err), &err);
    for (int64_t i = 0; i < some.n; i++) {
        have[made->asked(made, i)]++;
        assert_int_equal(made->asked(made, i), reals->asked(reals, i));
        for (int c = 0; c < 10; c++) {
            const double share = (double)(start[c + 1] - start[c]) / (double)some.n;
            assert_true(fabs((double)have[c] - share * (double)(i + 1)) < .51 + 5 * share);
        }
    }
    for (int64_t i = 0; i < 20; i++) {
        assert_int_equal(made->asked(made, some.n + i), made->asked(made, i));
        assert_int_equal(in_turn->asked(in_turn, i), i % 10);
        must(made->images(made, i, 1, x, &cls, &err), &err);
        assert_int_equal(cls, made->asked(made, i));
    }
    assert_string_not_equal(made->key, in_turn->key);
    dr_eval_source_free(reals);
    dr_eval_source_free(made);
    dr_eval_source_free(in_turn);
    free(of_class);
}

// Advances by `slices`, saves, and takes up the saved place with a new object.
static struct dr_eval_ref *broken_ref(const struct dr_eval_config *c, int slices,
                                      const char *path) {
    struct dr_eval_ref *r = open_ref(c);
    struct dr_err err = {0};
    bool done = false;
    for (int i = 0; i < slices; i++)
        must(dr_eval_ref_advance(r, 0, &done, &err), &err);
    must(dr_eval_ref_save(r, path, &err), &err);
    dr_eval_ref_free(r);
    r = open_ref(c);
    must(dr_eval_ref_restore(r, path, &err), &err);
    while (!done)
        must(dr_eval_ref_advance(r, 0, &done, &err), &err);
    return r;
}

static struct found broken_eval(struct dr_eval_ref *r, int slices, const char *path) {
    struct dr_eval *e;
    struct dr_err err = {0};
    bool done = false;
    struct dr_eval_source *s = generated(203);
    must(dr_eval_create(s, &r, 1, &e, &err), &err);
    for (int i = 0; i < slices && !done; i++)
        must(dr_eval_advance(e, 0, &done, &err), &err);
    must(dr_eval_save(e, path, &err), &err);
    dr_eval_free(e);
    must(dr_eval_create(s, &r, 1, &e, &err), &err);
    must(dr_eval_restore(e, path, &err), &err);
    for (done = false; !done;)
        must(dr_eval_advance(e, 0, &done, &err), &err);
    const struct found f = found_in(e);
    dr_eval_free(e);
    dr_eval_source_free(s);
    return f;
}

static void a_saved_place_gives_the_same_bits(void **state) {
    (void)state;
    const char *path = scratch_path("eval-state.safetensors");
    for (int split = 0; split < 2; split++) {
        struct dr_eval_config c = config(203);
        c.split = split;
        c.batch = 16;
        w.judging.be->host_memory = !split; // else statistics on another thread
        struct dr_eval_ref *whole = full_ref(&c);
        struct dr_eval_source *s = generated(c.n);
        const struct found want = evaluate(s, whole);
        dr_eval_source_free(s);
        for (int slices = 1; slices < 100; slices += 19) {
            struct dr_eval_ref *r = broken_ref(&c, slices, path);
            const struct found got = broken_eval(r, slices / 6, path);
            assert_memory_equal(&got, &want, sizeof want);
            dr_eval_ref_free(r);
        }
        dr_eval_ref_free(whole);
    }
    w.judging.be->host_memory = true;
    unlink(path);
}

static void a_state_of_others_is_refused(void **state) {
    (void)state;
    const char *path = scratch_path("eval-other.safetensors");
    struct dr_eval_config c = config(50);
    struct dr_err err = {0};
    struct dr_eval_ref *r = full_ref(&c);
    must(dr_eval_ref_save(r, path, &err), &err);
    dr_eval_ref_free(r);
    c.n = 51;
    r = open_ref(&c);
    assert_int_equal(dr_eval_ref_restore(r, path, &err), DR_ECONFLICT);
    assert_int_equal(dr_eval_ref_restore(r, "/nonexistent", &err), DR_ENOENT);
    dr_eval_ref_free(r);
    unlink(path);
}

static void wrong_inputs_are_named(void **state) {
    (void)state;
    struct dr_err err = {0};
    struct dr_eval_config c = config(50);
    struct dr_eval_ref *r;
    struct dr_eval *e;
    unsigned bits;
    const struct dr_eval_judge judge = {.snap = w.judge}, wrong = {.snap = w.generator};
    struct dr_dataset *train = w.judging.data;
    struct dr_backend *be = w.judging.be;
    assert_int_equal(dr_eval_ref_create(be, &c, &wrong, train, w.test, &r, &err), DR_EINVAL);
    assert_string_equal(err.field, "judge");
    c.split = DR_EVAL_TEST;
    assert_int_equal(dr_eval_ref_create(be, &c, &judge, train, NULL, &r, &err), DR_EINVAL);
    assert_string_equal(err.field, "split");
    c = config(1);
    assert_int_equal(dr_eval_ref_create(be, &c, &judge, train, NULL, &r, &err), DR_EINVAL);
    assert_string_equal(err.field, "n");
    c = config(50);
    c.blocks = 3;
    assert_int_equal(dr_eval_ref_create(be, &c, &judge, train, NULL, &r, &err), DR_EINVAL);
    assert_string_equal(err.field, "blocks");
    assert_int_equal(dr_eval_metrics_parse("fd,acuracy", &bits, &err), DR_EINVAL);
    assert_non_null(strstr(err.msg, "\"accuracy\""));
    assert_int_equal(dr_eval_metrics_parse("", &bits, &err), DR_EINVAL);
    must(dr_eval_metrics_parse("fd, kid", &bits, &err), &err);
    assert_int_equal(bits, 1u << DR_EVAL_FD | 1u << DR_EVAL_KID);
    c = config(50);
    r = open_ref(&c);
    struct dr_eval_source *few = generated(49), *enough = generated(50);
    assert_int_equal(dr_eval_create(enough, &r, 1, &e, &err), DR_EINVAL); // not complete
    dr_eval_ref_free(r);
    r = full_ref(&c);
    assert_int_equal(dr_eval_create(few, &r, 1, &e, &err), DR_EINVAL);
    assert_string_equal(err.field, "n");
    dr_eval_source_free(few);
    dr_eval_source_free(enough);
    dr_eval_ref_free(r);
}

// Halves of the training split stand in where there is no test split.
static void without_a_test_split(void **state) {
    (void)state;
    struct dr_eval_config c = config(100);
    const struct dr_eval_judge judge = {.snap = w.judge};
    struct dr_eval_ref *r;
    struct dr_eval_result result;
    struct dr_eval *e;
    struct dr_err err = {0};
    bool done = false;
    must(dr_eval_ref_create(w.judging.be, &c, &judge, w.judging.data, NULL, &r, &err), &err);
    while (!done)
        must(dr_eval_ref_advance(r, 1, &done, &err), &err);
    struct dr_eval_source *s = generated(100);
    must(dr_eval_create(s, &r, 1, &e, &err), &err);
    for (done = false; !done;)
        must(dr_eval_advance(e, 1, &done, &err), &err);
    must(dr_eval_result(e, 0, &result, &err), &err);
    assert_true(result.floor_halves && result.reals == 600 && result.floor_n == 100);
    assert_true(isnan(result.judge_accuracy.value));
    assert_true(result.metric[DR_EVAL_FD].floor > 0);
    dr_eval_free(e);
    dr_eval_source_free(s);
    dr_eval_ref_free(r);
}

// `nn` of the first n images of a set, where there is no test split. `path`: the reference is saved
// on the way and taken up again.
static double nearest_of(const struct dr_dataset *d, int64_t n, const char *path) {
    struct dr_eval_config c = config(n);
    struct dr_eval_source *s;
    struct dr_err err = {0};
    bool done;
    c.metrics = 1u << DR_EVAL_NN | 1u << DR_EVAL_ACCURACY;
    struct dr_eval_ref *r = ref_of(&c, w.judging.data, NULL);
    for (int i = 0; i < 12 && path; i++)
        must(dr_eval_ref_advance(r, 0, &done, &err), &err);
    if (path) {
        must(dr_eval_ref_save(r, path, &err), &err);
        dr_eval_ref_free(r);
        r = ref_of(&c, w.judging.data, NULL);
        must(dr_eval_ref_restore(r, path, &err), &err);
        unlink(path);
    }
    finish(r);
    must(dr_eval_source_dataset(d, n, &s, &err), &err);
    const struct found f = evaluate(s, r);
    assert_true(f.metric[DR_EVAL_NN].floor == 1);
    dr_eval_source_free(s);
    dr_eval_ref_free(r);
    return f.metric[DR_EVAL_NN].value;
}

// Without a test split the training images are those of both halves, and a real that is held out
// does not find itself.
static void the_nearest_is_sought_in_both_halves(void **state) {
    (void)state;
    const int64_t all = w.judging.data->n, tested = w.test->n;
    const double copied = nearest_of(w.judging.data, all, NULL),
                 other = nearest_of(w.test, tested, NULL);
    print_message("nn: training images %g, others %g\n", copied, other);
    assert_true(copied < 1e-3);
    assert_true(other > .7 && other < 1.4);
    assert_true(nearest_of(w.test, tested, scratch_path("eval-halves.safetensors")) == other);
}

// A set of pictures has one fingerprint with its labels and without.
static void ignored_labels_are_another_reference(void **state) {
    (void)state;
    struct dr_dataset plain = *w.judging.data;
    struct dr_eval_config c = config(100);
    struct dr_eval_source *s[2];
    struct dr_err err = {0};
    int64_t start[2] = {0, plain.n};
    c.metrics = 1u << DR_EVAL_FD;
    plain.classes = 1;
    plain.class_start = start;
    plain.label = calloc((size_t)plain.n, sizeof *plain.label);
    struct dr_eval_ref *r = ref_of(&c, w.judging.data, NULL), *q = ref_of(&c, &plain, NULL);
    assert_string_not_equal(dr_eval_ref_key(r), dr_eval_ref_key(q));
    must(dr_eval_source_dataset(w.judging.data, 0, &s[0], &err), &err);
    must(dr_eval_source_dataset(&plain, 0, &s[1], &err), &err);
    assert_string_not_equal(s[0]->key, s[1]->key);
    dr_eval_source_free(s[0]);
    dr_eval_source_free(s[1]);
    dr_eval_ref_free(r);
    dr_eval_ref_free(q);
    free(plain.label);
}

static struct dr_snapshot *judge_of_seven(void) {
    static const char json[] = "{\"arch\":\"resnet\",\"size\":16,\"channels\":1,\"width\":4,"
                               "\"blocks\":[1],\"classes\":7,\"head\":\"classifier\"}";
    struct dr_net *net;
    struct dr_err err = {0};
    must(dr_net_parse(json, sizeof json - 1, NULL, &net, &err), &err);
    real *weights = aligned_alloc(64, (dr_net_bytes(net) + 63) / 64 * 64);
    dr_params_init(dr_net_params(net), 3, weights);
    return dr_snapshot_new(net, weights, 0);
}

// A judge of other classes, as Inception is, says nothing of the classes that were asked for; it
// measures the rest.
static void other_classes_are_not_confused(void **state) {
    (void)state;
    struct dr_eval_config c = config(50);
    struct dr_snapshot *seven = judge_of_seven();
    const struct dr_eval_judge judge = {.snap = seven};
    struct dr_eval_ref *r;
    struct dr_eval_result result;
    struct dr_eval *e;
    struct dr_err err = {0};
    bool done = false;
    struct dr_backend *be = w.judging.be;
    assert_int_equal(dr_eval_ref_create(be, &c, &judge, w.judging.data, w.test, &r, &err),
                     DR_EINVAL); // accuracy is among them
    assert_string_equal(err.field, "judge");
    c.metrics = 1u << DR_EVAL_IS | 1u << DR_EVAL_FD | 1u << DR_EVAL_DIVERSITY;
    must(dr_eval_ref_create(be, &c, &judge, w.judging.data, w.test, &r, &err), &err);
    finish(r);
    struct dr_eval_source *s = generated(c.n);
    must(dr_eval_create(s, &r, 1, &e, &err), &err);
    while (!done)
        must(dr_eval_advance(e, 1, &done, &err), &err);
    must(dr_eval_result(e, 0, &result, &err), &err);
    assert_null(result.confusion);
    assert_int_equal(result.logits, 7);
    for (int k = 0; k < 10; k++)
        assert_true(isnan(result.accuracy[k]) && isfinite(result.diversity[k]));
    assert_true(result.metric[DR_EVAL_IS].value >= 1 && result.metric[DR_EVAL_FD].value > 0);
    dr_eval_free(e);
    dr_eval_source_free(s);
    dr_eval_ref_free(r);
    dr_snapshot_unref(seven);
}

#define VALUE(f, m) found[FAULT_##f].metric[DR_EVAL_##m].value
#define FLOOR(m) found[FAULT_NONE].metric[DR_EVAL_##m].floor
static void metrics_notice_faults(void **state) {
    (void)state;
    struct dr_eval_config c = config(240);
    struct dr_eval_ref *r = full_ref(&c);
    struct found found[FAULT_COUNT];
    struct dr_err err = {0};
    for (int f = 0; f < FAULT_COUNT; f++) {
        struct dr_eval_source *s;
        must(fault_source((enum fault)f, w.judging.data, w.test, c.n, &s, &err), &err);
        found[f] = evaluate(s, r);
        dr_eval_source_free(s);
        print_message("%-20s", fault_names[f]);
        for (int m = 0; m < DR_EVAL_METRICS; m++)
            print_message(" %s %.3g", dr_eval_metrics[m].name, found[f].metric[m].value);
        print_message("\n");
    }
    assert_true(FLOOR(ACCURACY) > .8); // the judge is worth asking
    for (int f = FAULT_BLURRED; f < FAULT_COUNT; f++)
        if (f != FAULT_COPIED && f != FAULT_SWAPPED) { // every distribution that is another
            assert_true(found[f].metric[DR_EVAL_FD].value > 3 * VALUE(NONE, FD));
            assert_true(found[f].metric[DR_EVAL_KID].value > 3 * fabs(VALUE(NONE, KID)));
        }
    assert_true(VALUE(SWAPPED, ACCURACY) < .2);
    assert_true(VALUE(ONE, DIVERSITY) < .05 && VALUE(ONE, RECALL) < .3 * VALUE(NONE, RECALL));
    assert_true(VALUE(ONE, COVERAGE) < .5 * VALUE(NONE, COVERAGE));
    assert_true(VALUE(COPIED, NN) < .05 && VALUE(NONE, NN) > .7);
    assert_true(VALUE(COPIED, FD) < 2 * VALUE(NONE, FD)); // which FD does not see
    assert_true(VALUE(HALF, COVERAGE) < .7 * VALUE(NONE, COVERAGE));
    assert_true(VALUE(HALF, RECALL) < .8 * VALUE(NONE, RECALL));
    assert_true(VALUE(HALF, IS) < .9 * VALUE(NONE, IS));
    assert_true(VALUE(NOISED, PRECISION) < .8 * VALUE(NONE, PRECISION));
    dr_eval_ref_free(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_depend_on_nothing_else),
        cmocka_unit_test(classes_come_in_their_proportions),
        cmocka_unit_test(a_saved_place_gives_the_same_bits),
        cmocka_unit_test(a_state_of_others_is_refused),
        cmocka_unit_test(wrong_inputs_are_named),
        cmocka_unit_test(without_a_test_split),
        cmocka_unit_test(the_nearest_is_sought_in_both_halves),
        cmocka_unit_test(ignored_labels_are_another_reference),
        cmocka_unit_test(other_classes_are_not_confused),
        cmocka_unit_test(metrics_notice_faults),
    };
    return cmocka_run_group_tests(tests, open_world, close_world);
}
