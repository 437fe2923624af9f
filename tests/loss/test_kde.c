// The encoder that learns beside the generator: its objective against plain loops, both gradients
// against differences, what chance and equal sets give; its network starts as the identity, and its
// gradients, chunks and repeated passes.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/loss/kde.h"
#include "tests/loss/ref.h"

#ifdef DR_DOUBLE
static const double step = 1e-5, tolerance = 1e-6, exact = 1e-12;
#else
static const double step = 1.0 / 128, tolerance = 2e-3, exact = 1e-5;
#endif

enum { TAUS = 2 };
static const double taus[TAUS] = {0.3, 1.1};

// ---- the objective

struct sets {
    real *gen, *pos;
    int64_t B, N, P, S;
};

static struct sets make(uint64_t seed, int64_t B, int64_t N, int64_t P, int64_t S) {
    return (struct sets){.gen = test_normals(seed, B * N * S, 0.3, 0.8),
                         .pos = test_normals(seed + 1, B * P * S, 0, 1),
                         .B = B,
                         .N = N,
                         .P = P,
                         .S = S};
}
static void drop(struct sets *s) {
    free(s->gen);
    free(s->pos);
}

static double density(const real *q, const real *y, int64_t n, int64_t S, double tau) {
    double sum = 0;
    int64_t others = 0;
    for (int64_t j = 0; j < n; j++) {
        double square = 0;
        if (y + j * S == q)
            continue;
        for (int64_t k = 0; k < S; k++)
            square += pow((double)q[k] - (double)y[j * S + k], 2);
        sum += exp(-sqrt(square) / (tau * sqrt((double)S)));
        others++;
    }
    return log(sum / (double)others);
}

struct told {
    double loss, wrong;
};

static struct told ref(const struct sets *s) {
    struct told t = {0};
    for (int64_t b = 0; b < s->B; b++)
        for (int k = 0; k < TAUS; k++)
            for (int64_t i = 0; i < s->N + s->P; i++) {
                const real *gen = s->gen + b * s->N * s->S, *pos = s->pos + b * s->P * s->S;
                const bool is_real = i >= s->N;
                const real *q = is_real ? pos + (i - s->N) * s->S : gen + i * s->S;
                const double score =
                    density(q, pos, s->P, s->S, taus[k]) - density(q, gen, s->N, s->S, taus[k]);
                const double of = (double)(s->B * TAUS * (is_real ? s->P : s->N));
                const double toward = is_real ? -score : score;
                t.loss += log1p(exp(toward)) / of;
                t.wrong += 0.5 / (1 + exp(-toward)) / of;
            }
    return t;
}

// dgen, dpos: NULL, or [B,N,S], [B,P,S].
static struct told run(struct rig *r, const struct sets *s, real weight, real *dgen, real *dpos) {
    real *gen = calloc((size_t)(s->B * s->N * s->S), sizeof *gen),
         *pos = calloc((size_t)(s->B * s->P * s->S), sizeof *pos), loss = 0, wrong = 0;
    const struct dr_kde_in in = {.gen = s->gen,
                                 .pos = s->pos,
                                 .B = s->B,
                                 .N = s->N,
                                 .P = s->P,
                                 .S = s->S,
                                 .groups = s->B,
                                 .tau = taus,
                                 .ntau = TAUS,
                                 .weight = weight};
    const struct dr_kde_out out = {.dgen = gen, .dpos = pos, .loss = &loss, .wrong = &wrong};
    dr_kde_loss(&r->cx, &in, &out);
    assert_int_equal(r->cx.tmp->used, 0);
    if (dgen)
        memcpy(dgen, gen, (size_t)(s->B * s->N * s->S) * sizeof *gen);
    if (dpos)
        memcpy(dpos, pos, (size_t)(s->B * s->P * s->S) * sizeof *pos);
    free(gen);
    free(pos);
    return (struct told){(double)loss, (double)wrong};
}

static const int64_t shapes[][4] = {{1, 2, 2, 1}, {2, 3, 5, 7}, {1, 9, 4, 33}, {3, 2, 11, 600}};

static void it_is_what_method_says(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2);
    for (size_t i = 0; i < DR_COUNT(shapes); i++) {
        struct sets s = make(7 + i, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3]);
        const struct told want = ref(&s), got = run(&r, &s, 2, NULL, NULL);
        if (!(fabs(got.loss - 2 * want.loss) <= exact * 2 * want.loss))
            fail_msg("shape %d: loss %.12g, expected %.12g", (int)i, got.loss, 2 * want.loss);
        if (!(fabs(got.wrong - 2 * want.wrong) <= exact * 2))
            fail_msg("shape %d: wrong %.12g, expected %.12g", (int)i, got.wrong, 2 * want.wrong);
        drop(&s);
    }
    rig_close(&r);
}

static double ref_loss(void *sets) {
    return ref(sets).loss;
}

static void gradient_of(struct sets *s, real *x, int64_t n, const real *dx, const char *what) {
    test_slope(&(struct slope){.what = what,
                               .x = x,
                               .dx = dx,
                               .n = n,
                               .stride = 1 + n / 40,
                               .h = step,
                               .tol = tolerance,
                               .value = ref_loss,
                               .ctx = s});
}

static void its_gradients_agree_with_differences(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 1);
    for (size_t i = 0; i < DR_COUNT(shapes); i++) {
        struct sets s = make(70 + i, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3]);
        const int64_t ng = s.B * s.N * s.S, np = s.B * s.P * s.S;
        real *dgen = calloc((size_t)ng, sizeof *dgen), *dpos = calloc((size_t)np, sizeof *dpos);
        run(&r, &s, 1, dgen, dpos);
        gradient_of(&s, s.gen, ng, dgen, "generated");
        gradient_of(&s, s.pos, np, dpos, "real");
        free(dgen);
        free(dpos);
        drop(&s);
    }
    rig_close(&r);
}

// Samples of one distribution cannot be told apart; those far apart are, and a NaN is not hidden.
static void chance_and_certainty(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 1);
    struct sets s = make(3, 2, 64, 64, 4);
    for (int64_t k = 0; k < 2 * 64 * 4; k++) // the two were drawn with other means and deviations
        s.gen[k] = (s.gen[k] - (real)0.3) / (real)0.8;
    struct told t = run(&r, &s, 1, NULL, NULL);
    assert_true(fabs(t.loss - 2 * log(2)) < 0.1 && fabs(t.wrong - 0.5) < 0.05);
    for (int64_t k = 0; k < 2 * 64 * 4; k++)
        s.gen[k] += 100;
    t = run(&r, &s, 1, NULL, NULL);
    assert_true(t.loss < 1e-6 && t.wrong < 1e-6);
    s.pos[5] = (real)NAN;
    assert_true(isnan(run(&r, &s, 1, NULL, NULL).loss));
    drop(&s);
    // Pairs of equal points have no direction: no gradient, and no NaN.
    s = make(4, 1, 4, 4, 3);
    real dgen[12], dpos[12];
    memcpy(s.gen, s.pos, sizeof dgen);
    memcpy(s.pos + 3, s.pos, 3 * sizeof *s.pos);
    run(&r, &s, 1, dgen, dpos);
    for (int k = 0; k < 12; k++)
        assert_true(isfinite((double)dgen[k]) && isfinite((double)dpos[k]));
    drop(&s);
    rig_close(&r);
}

// ---- the network

enum { IMAGES = 3, C = 2, SIDE = 6, IMAGE = C * SIDE * SIDE, LEN = IMAGES * IMAGE, WIDTH = 5 };

struct network {
    struct rig r;
    struct dr_arena keep;
    void *block;
    struct dr_features *f;
    struct dr_maps m;
    real *w, *g, x[LEN], dmap[LEN];
    struct dr_weights weights;
};

static void open_network(struct network *t, int64_t chunk, size_t budget) {
    const struct dr_feature_config cfg = {.kind = DR_FEATURE_KDE,
                                          .image = true,
                                          .quadrants = true,
                                          .rms = 1,
                                          .rms_gain = 1,
                                          .kde_width = WIDTH};
    struct dr_err err = {0};
    rig_open(&t->r, 2);
    t->block = aligned_alloc(DR_ALIGN, 1 << 22);
    dr_arena_init(&t->keep, t->block, 1 << 22);
    t->r.cx.keep = &t->keep;
    if (dr_features_create(&cfg, C, SIDE, SIDE, &t->f, &err) ||
        dr_maps_init(t->f, IMAGES, chunk, budget, DR_F32, &t->m, &err))
        fail_msg("%s", err.msg);
    const struct dr_params *ps = dr_features_params(t->f);
    t->w = calloc((size_t)ps->total, sizeof *t->w);
    t->g = calloc((size_t)ps->total, sizeof *t->g);
    dr_params_init(ps, 5, t->w);
    t->weights = (struct dr_weights){.layout = ps, .w = t->w, .g = t->g};
    real *x = test_normals(11, LEN, 0.1, 0.7), *d = test_normals(12, LEN, 0, 1);
    memcpy(t->x, x, sizeof t->x);
    memcpy(t->dmap, d, sizeof t->dmap);
    free(x);
    free(d);
}
static void close_network(struct network *t) {
    dr_maps_free(t->f, &t->m);
    dr_features_free(t->f);
    free(t->w);
    free(t->g);
    free(t->block);
    rig_close(&t->r);
}

// sum dmap E(x).
static double functional(struct network *t) {
    double sum = 0;
    dr_features_extract(&t->r.cx, t->f, &t->weights, t->x, 1, IMAGES, &t->m);
    for (int k = 0; k < LEN; k++)
        sum += (double)t->dmap[k] * (double)t->m.map[0][k];
    return sum;
}
static void clear(struct network *t) {
    dr_release(t->r.cx.tmp, 0);
    dr_release(&t->keep, 0);
}

// Gradients of the functional: by the weights into t->g where they learn, by x into dx.
static void gradients(struct network *t, bool learns, real *dx) {
    struct dr_weights w = t->weights;
    struct dr_maps dm;
    w.g = learns ? t->g : NULL;
    dr_features_zero_gradients(&t->r.cx, t->f, &t->m, NULL, &dm);
    memcpy(dm.map[0], t->dmap, sizeof t->dmap);
    dr_features_backward(&t->r.cx, t->f, &w, &t->m, &dm, dx);
}

static void noise_in_the_last_layer(struct network *t) {
    const struct dr_params *ps = dr_features_params(t->f);
    const int last = dr_params_find(ps, "residual.out.weight");
    real *d = test_normals(13, ps->p[last].count, 0, 0.3);
    memcpy(t->w + ps->p[last].offset, d, (size_t)ps->p[last].count * sizeof *d);
    free(d);
}

static void it_starts_as_the_identity(void **state) {
    (void)state;
    struct network t;
    real dx[LEN];
    open_network(&t, 2, 1 << 22);
    assert_true(dr_features_learns(t.f));
    assert_int_equal(dr_features_count(t.f), 3); // image, quadrants; rms of the image itself
    assert_true(dr_features_learns_from(t.f, 1) && !dr_features_learns_from(t.f, 2));
    functional(&t);
    assert_memory_equal(t.m.map[0], t.x, sizeof t.x);
    assert_memory_equal(t.m.map[1], t.x, sizeof t.x);
    gradients(&t, true, dx);
    assert_memory_equal(dx, t.dmap, sizeof dx);
    const struct dr_params *ps = dr_features_params(t.f);
    for (int p = 0; p < ps->n; p++) { // only the last layer can move the first time
        double size = 0;
        for (int64_t i = 0; i < ps->p[p].count; i++)
            size += fabs((double)t.g[ps->p[p].offset + i]);
        assert_int_equal(size > 0, !strncmp(ps->p[p].name, "residual.out.", 13));
    }
    close_network(&t);
}

static double functional_alone(void *network) {
    const double value = functional(network);
    clear(network);
    return value;
}

static void slope_of(struct network *t, const char *what, real *x, int64_t n, const real *dx) {
    test_slope(&(struct slope){.what = what,
                               .x = x,
                               .dx = dx,
                               .n = n,
                               .stride = 1 + n / 12,
                               .h = step,
                               .tol = 2 * tolerance,
                               .value = functional_alone,
                               .ctx = t});
}

static void its_network_has_the_right_gradients(void **state) {
    (void)state;
    struct network t;
    real dx[LEN];
    open_network(&t, 2, 1 << 22);
    noise_in_the_last_layer(&t);
    functional(&t);
    gradients(&t, true, dx);
    clear(&t);
    slope_of(&t, "image", t.x, LEN, dx);
    const struct dr_params *ps = dr_features_params(t.f);
    assert_int_equal(ps->n, 2 * (2 + 2 * 4));
    for (int p = 0; p < ps->n; p++)
        slope_of(&t, ps->p[p].name, t.w + ps->p[p].offset, ps->p[p].count, t.g + ps->p[p].offset);
    close_network(&t);
}

// The generator's pass, frozen, then the encoder's own, on what one extraction kept; in chunks, and
// where nothing is kept.
static void passes_and_chunks_change_nothing(void **state) {
    (void)state;
    struct network whole;
    real dx[LEN], other[LEN];
    open_network(&whole, 0, 1 << 22);
    noise_in_the_last_layer(&whole);
    const double sum = functional(&whole);
    gradients(&whole, true, dx);
    const int64_t n = whole.weights.layout->total;
    for (int64_t chunk = 1; chunk <= IMAGES; chunk++)
        for (int again = 0; again < 2; again++) {
            struct network t;
            open_network(&t, chunk, again ? 0 : 1 << 22);
            noise_in_the_last_layer(&t);
            assert_true(functional(&t) == sum);
            gradients(&t, false, other);
            assert_memory_equal(dx, other, sizeof dx);
            for (int64_t i = 0; i < n; i++)
                assert_true(t.g[i] == 0);
            gradients(&t, true, NULL);
            double off = 0, size = 0;
            for (int64_t i = 0; i < n; i++) {
                off += pow((double)(t.g[i] - whole.g[i]), 2);
                size += pow((double)whole.g[i], 2);
            }
            assert_true(off <= 1e-10 * size);
            close_network(&t);
        }
    close_network(&whole);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_what_method_says),
        cmocka_unit_test(its_gradients_agree_with_differences),
        cmocka_unit_test(chance_and_certainty),
        cmocka_unit_test(it_starts_as_the_identity),
        cmocka_unit_test(its_network_has_the_right_gradients),
        cmocka_unit_test(passes_and_chunks_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
