// Samplers of the reals: distinctness, uniformity, exhaustion of a class, queues that reach every
// image, and exact continuation from a saved state.
#include "tests/data/util.h"

#include <math.h>

#include "engine/data/data.h"

enum { CLASSES = 3, N = 300 };
static int32_t label[N];
static int64_t class_start[CLASSES + 1], by_class[N];
static struct dr_dataset set = {.n = N,
                                .classes = CLASSES,
                                .label = label,
                                .class_start = class_start,
                                .by_class = by_class,
                                .fingerprint = 42,
                                .name = "three"};

// Classes of 50, 100 and 150 images, interleaved.
static void build(void) {
    static const int32_t pattern[6] = {2, 1, 2, 0, 2, 1};
    for (int i = 0; i < N; i++) {
        label[i] = pattern[i % 6];
        class_start[label[i] + 1]++;
    }
    int64_t at[CLASSES];
    for (int k = 0; k < CLASSES; k++) {
        class_start[k + 1] += class_start[k];
        at[k] = class_start[k];
    }
    for (int i = 0; i < N; i++)
        by_class[at[label[i]]++] = i;
}

static struct dr_config config(int sampler, int64_t p, int64_t u) {
    struct dr_config c = {0};
    c.train = (struct dr_train_config){.sampler = sampler,
                                       .positives = p,
                                       .unconditional = u,
                                       .queue_class = 20,
                                       .queue_global = 64,
                                       .push_per_step = 16,
                                       .seed = 11};
    return c;
}

static struct dr_reals *create(const struct dr_config *c) {
    struct dr_reals *r;
    struct dr_err err;
    assert_int_equal(dr_reals_create(c, &set, &r, &err), 0);
    return r;
}

static void check_distinct(const int64_t *v, int64_t n, int cls) {
    uint8_t seen[N] = {0};
    for (int64_t i = 0; i < n; i++) {
        assert_in_range(v[i], 0, N - 1);
        assert_int_equal(seen[v[i]], 0);
        seen[v[i]] = 1;
        if (cls >= 0)
            assert_int_equal(label[v[i]], cls);
    }
}

// Chi-square of how often each image of a class came, against equal chances; drawing without
// replacement makes it smaller than the textbook's, by 1 - P/m.
static double chi2(const int *count, const int64_t *ids, int64_t m, double total) {
    double want = total / (double)m, sum = 0;
    for (int64_t i = 0; i < m; i++)
        sum += (count[ids[i]] - want) * (count[ids[i]] - want) / want;
    return sum;
}

static void draw_many(int sampler, int steps, int *pos_count, int *unc_count) {
    enum { P = 10, U = 25 };
    struct dr_config c = config(sampler, P, U);
    struct dr_reals *r = create(&c);
    const int32_t classes[3] = {2, 0, 1};
    int64_t pos[3 * P], unc[U];
    for (int s = 0; s < steps; s++) {
        dr_reals_draw(r, (uint64_t)s, classes, 3, pos, unc);
        for (int k = 0; k < 3; k++)
            check_distinct(pos + k * P, P, classes[k]);
        check_distinct(unc, U, -1);
        for (int i = 0; i < 3 * P; i++)
            pos_count[pos[i]]++;
        for (int i = 0; i < U; i++)
            unc_count[unc[i]]++;
    }
    dr_reals_free(r);
}

static void test_exact_uniform(void **state) {
    (void)state;
    enum { STEPS = 4000 };
    int pos[N] = {0}, unc[N] = {0};
    int64_t all[N];
    draw_many(DR_SAMPLER_EXACT, STEPS, pos, unc);
    for (int k = 0; k < CLASSES; k++) {
        double m = (double)(class_start[k + 1] - class_start[k]), shrink = 1 - 10 / m;
        double x = chi2(pos, by_class + class_start[k], (int64_t)m, 10.0 * STEPS) / shrink;
        assert_true(fabs(x - (m - 1)) < 4.5 * sqrt(2 * (m - 1)));
    }
    for (int i = 0; i < N; i++)
        all[i] = i;
    double x = chi2(unc, all, N, 25.0 * STEPS) / (1 - 25.0 / N);
    assert_true(fabs(x - (N - 1)) < 4.5 * sqrt(2 * (N - 1)));
}

static void test_exact_is_a_function(void **state) {
    (void)state;
    struct dr_config c = config(DR_SAMPLER_EXACT, 50, 300); // the whole of class 0, all images
    struct dr_reals *r = create(&c), *q = create(&c);
    int64_t a[150], b[150], ua[300], ub[300];
    const int32_t classes[3] = {0, 1, 2};
    assert_int_equal(dr_reals_state_size(r), 0);
    dr_reals_draw(r, 9, classes, 3, a, ua);
    check_distinct(a, 50, 0);
    check_distinct(ua, 300, -1);
    for (int s = 0; s < 5; s++)
        dr_reals_draw(q, (uint64_t)s, classes, 3, b, ub);
    assert_memory_not_equal(a, b, sizeof a);
    dr_reals_draw(q, 9, classes, 3, b, ub);
    assert_memory_equal(a, b, sizeof a);
    assert_memory_equal(ua, ub, sizeof ua);
    dr_reals_free(q);
    c.train.seed++;
    q = create(&c);
    dr_reals_draw(q, 9, classes, 3, b, ub);
    assert_memory_not_equal(a, b, sizeof a);
    assert_int_equal(dr_reals_state_set(q, a, 8, NULL), DR_EFORMAT);
    assert_int_equal(dr_reals_state_set(q, NULL, 0, NULL), 0);
    dr_reals_free(q);
    dr_reals_free(r);
}

static void expect_refusal(struct dr_config c, const char *says) {
    struct dr_reals *r;
    struct dr_err err;
    assert_int_equal(dr_reals_create(&c, &set, &r, &err), DR_ECONFIG);
    assert_null(r);
    if (!strstr(err.msg, says))
        fail_msg("got '%s', expected '%s'", err.msg, says);
}

static void test_too_few(void **state) {
    (void)state;
    expect_refusal(config(DR_SAMPLER_EXACT, 51, 0), "class 0 of three has 50 images");
    static char *const names[CLASSES] = {"cat", "dog"};
    struct dr_config c = config(DR_SAMPLER_EXACT, 51, 0);
    strcpy(c.data.path, "pets");
    set.class_name = names;
    expect_refusal(c, "class 0 (cat) of three pets has 50 images");
    set.class_name = NULL;
    expect_refusal(config(DR_SAMPLER_EXACT, 5, 301), "only 300 images");
    expect_refusal(config(DR_SAMPLER_QUEUE, 21, 0), "train.queue_class 20");
    expect_refusal(config(DR_SAMPLER_QUEUE, 5, 65), "train.queue_global 64");
}

static void test_queue_passes_all(void **state) {
    (void)state;
    int pos[N] = {0}, unc[N] = {0};
    draw_many(DR_SAMPLER_QUEUE, 4000, pos, unc);
    // After 213 epochs no image is left out or favoured by much.
    for (int i = 0; i < N; i++) {
        double want = 4000.0 * 10 / (double)(class_start[label[i] + 1] - class_start[label[i]]);
        assert_true(pos[i] > 0.6 * want && pos[i] < 1.4 * want);
        assert_true(unc[i] > 0.6 * 333 && unc[i] < 1.4 * 333);
    }
}

static void test_queue_state(void **state) {
    (void)state;
    enum { P = 20, U = 64 };
    struct dr_config c = config(DR_SAMPLER_QUEUE, P, U);
    struct dr_reals *r = create(&c), *q = create(&c);
    const int32_t classes[3] = {0, 1, 2};
    int64_t a[3 * P], b[3 * P], ua[U], ub[U];
    uint64_t step = 0;
    for (; step < 137; step++)
        dr_reals_draw(r, step, classes, 3, a, ua);
    size_t n = dr_reals_state_size(r);
    uint8_t *s = malloc(n), *t = malloc(n);
    dr_reals_state_get(r, s);
    assert_int_equal(dr_reals_state_set(q, s, n, NULL), 0);
    for (; step < 300; step++) {
        dr_reals_draw(r, step, classes, 3, a, ua);
        dr_reals_draw(q, step, classes, 3, b, ub);
        assert_memory_equal(a, b, sizeof a);
        assert_memory_equal(ua, ub, sizeof ua);
    }
    dr_reals_state_get(r, s);
    dr_reals_state_get(q, t);
    assert_memory_equal(s, t, n);

    // Damage anywhere is refused or harmless, and a refusal changes nothing.
    struct dr_err err;
    assert_int_equal(dr_reals_state_set(q, s, n - 1, &err), DR_EFORMAT);
    int refused = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(t, s, n);
        t[i] ^= 0x81;
        if (dr_reals_state_set(q, t, n, &err)) {
            refused++;
            assert_int_equal(err.code, DR_EFORMAT);
            dr_reals_state_get(q, t);
            assert_memory_equal(s, t, n);
        } else {
            dr_reals_draw(q, step, classes, 3, b, ub);
            check_distinct(b, P, 0);
            assert_int_equal(dr_reals_state_set(q, s, n, &err), 0);
        }
    }
    assert_true(refused > (int)n / 2);
    dr_reals_free(q);
    c.train.seed++; // another seed, another data set, other queue sizes
    q = create(&c);
    assert_int_equal(dr_reals_state_set(q, s, n, &err), DR_EFORMAT);
    dr_reals_free(q);
    c.train.seed--;
    set.fingerprint++;
    q = create(&c);
    assert_int_equal(dr_reals_state_set(q, s, n, &err), DR_EFORMAT);
    set.fingerprint--;
    dr_reals_free(q);
    dr_reals_free(r);
    free(s);
    free(t);
}

// Queues as large as the data: every class ring holds its whole class, epochs meet without doubles.
static void test_queue_holds_everything(void **state) {
    (void)state;
    struct dr_config c = config(DR_SAMPLER_QUEUE, 50, 300);
    c.train.queue_class = 128;
    c.train.queue_global = 1000;
    struct dr_reals *r = create(&c);
    const int32_t classes[3] = {0, 1, 2};
    int64_t pos[150], unc[300];
    for (uint64_t s = 0; s < 100; s++) {
        dr_reals_draw(r, s, classes, 3, pos, unc);
        check_distinct(pos, 50, 0);
        check_distinct(pos + 100, 50, 2);
        check_distinct(unc, 300, -1);
    }
    dr_reals_free(r);
}

// Mirroring is a fair coin, shifts are uniform and independent; a function of seed, step and place.
static void test_views(void **state) {
    (void)state;
    enum { VIEWS = 9000 };
    struct dr_data_config cfg = {.flip = true, .crop = 4};
    int32_t view[3 * VIEWS], again[3 * VIEWS];
    int mirrored = 0, count[9 * 9] = {0};
    assert_true(dr_reals_have_views(&cfg));
    dr_reals_views(&cfg, 5, 17, 100, VIEWS, view);
    for (int i = 0; i < VIEWS; i++) {
        const int dy = view[3 * i], dx = view[3 * i + 1];
        assert_true(abs(dy) <= 4 && abs(dx) <= 4);
        count[(dy + 4) * 9 + dx + 4]++;
        mirrored += view[3 * i + 2];
    }
    double x = 0;
    for (int k = 0; k < 81; k++)
        x += (count[k] - VIEWS / 81.0) * (count[k] - VIEWS / 81.0) / (VIEWS / 81.0);
    assert_true(fabs(x - 80) < 4.5 * sqrt(2 * 80));
    assert_true(abs(mirrored - VIEWS / 2) < 4.5 * sqrt(VIEWS / 4.0));
    dr_reals_views(&cfg, 5, 17, 107, VIEWS - 7, again); // processes draw their own part
    assert_memory_equal(again, view + 21, (VIEWS - 7) * 3 * sizeof *view);
    dr_reals_views(&cfg, 5, 18, 100, VIEWS, again);
    assert_memory_not_equal(again, view, sizeof view);
    cfg = (struct dr_data_config){.flip = true};
    dr_reals_views(&cfg, 5, 17, 100, VIEWS, view);
    for (int i = 0; i < VIEWS; i++)
        assert_true(!view[3 * i] && !view[3 * i + 1]);
    cfg = (struct dr_data_config){.crop = 1};
    dr_reals_views(&cfg, 5, 17, 100, VIEWS, view);
    for (int i = 0; i < VIEWS; i++)
        assert_true(!view[3 * i + 2] && abs(view[3 * i]) <= 1);
    assert_false(dr_reals_have_views(&(struct dr_data_config){0}));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_exact_uniform),
        cmocka_unit_test(test_exact_is_a_function),
        cmocka_unit_test(test_too_few),
        cmocka_unit_test(test_queue_passes_all),
        cmocka_unit_test(test_queue_state),
        cmocka_unit_test(test_queue_holds_everything),
    };
    build();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
