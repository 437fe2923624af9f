// The learned field: golden vectors, finite differences of its objectives, anti-symmetry, small and
// empty sets, what has a gradient and what has none.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/golden/field_vectors.h"
#include "tests/loss/learned.h"

#ifdef DR_DOUBLE
#define TOL 1e-20 // NMSE
#else
#define TOL 1e-9
#endif

static struct dr_loss_config config(int objective, bool projection) {
    return (struct dr_loss_config){.field = DR_FIELD_LEARNED,
                                   .tau = {0.05, 0.2},
                                   .ntau = 2,
                                   .ldf = {.objective = objective,
                                           .projection = projection,
                                           .mask = true,
                                           .hidden = FHIDDEN,
                                           .width = FWIDTH,
                                           .score = FSCORE,
                                           .sigma_min = field_sigma[0],
                                           .sigma_max = field_sigma[1],
                                           .lr = 1}};
}

struct data {
    struct dr_drift_in in;
    real *buf[4], weight[8];
};

static struct data make(uint64_t seed, int64_t B, int64_t N, int64_t U, int64_t P, int64_t S) {
    struct data d = {.buf = {test_normals(seed, B * N * S, 0.3, 0.7),
                             test_normals(seed + 1, B * N * S, 0.3, 0.7),
                             test_normals(seed + 2, U * S + 1, 0.1, 1.2),
                             test_normals(seed + 3, B * P * S, 0.4, 1)}};
    for (int i = 0; i < 8; i++)
        d.weight[i] = (real)(0.5 * i);
    d.in = (struct dr_drift_in){.gen = d.buf[0],
                                .unc = d.buf[2],
                                .pos = d.buf[3],
                                .B = B,
                                .N = N,
                                .U = U,
                                .P = P,
                                .S = S,
                                .unc_shared = true,
                                .weight = 1};
    return d;
}

// The caller's d has its place by now.
static void link_weights(struct data *d, const uint64_t *key) {
    d->in.unc_weight = d->in.U ? d->weight : NULL;
    d->in.key = key;
}

static void drop(struct data *d) {
    for (int i = 0; i < 4; i++)
        free(d->buf[i]);
}

static void check(const char *what, const real *got, const double *want, int64_t n, double tol) {
    const double nmse = ref_nmse(got, want, n);
    if (!(nmse <= tol))
        fail_msg("%s: NMSE %.3g over %g", what, nmse, tol);
}
static void near(const char *what, double got, double want, double rel) {
    if (!(fabs(got - want) <= rel * fabs(want)))
        fail_msg("%s: %.17g, expected %.17g", what, got, want);
}

static void agrees_with_pytorch(void **state) {
    (void)state;
    enum { ALL = 512 };
    real gen[FB * FN * FS], unc[FB * FU * FS], pos[FB * FP * FS], w_unc[FB];
    for (int i = 0; i < FB * FN * FS; i++)
        gen[i] = (real)field_gen[i];
    for (int i = 0; i < FB * FU * FS; i++)
        unc[i] = (real)field_unc[i];
    for (int i = 0; i < FB * FP * FS; i++)
        pos[i] = (real)field_pos[i];
    for (int i = 0; i < FB; i++)
        w_unc[i] = (real)field_w_unc[i];
    struct rig r;
    rig_open(&r, 2);
    for (size_t k = 0; k < DR_COUNT(field_golden); k++) {
        const struct dr_loss_config cfg =
            config(field_golden[k].objective, field_golden[k].projection);
        struct learned l;
        struct learned_out out;
        learned_open(&l, &cfg, FS, 1);
        int64_t at = 0;
        for (int p = 0; p < l.layout.n; p++)
            for (int64_t i = 0; i < l.layout.p[p].count; i++)
                l.w[l.layout.p[p].offset + i] = (real)field_golden[k].weight[at++];
        l.key[0] = FSEED, l.key[1] = FSTEP;
        const struct dr_drift_in in = {.gen = gen,
                                       .unc = unc,
                                       .pos = pos,
                                       .unc_weight = w_unc,
                                       .B = FB,
                                       .N = FN,
                                       .U = FU,
                                       .P = FP,
                                       .S = FS,
                                       .weight = (real)field_weight,
                                       .feature = FFEATURE,
                                       .first = FFIRST,
                                       .key = l.key};
        learned_run(&r, &l, &in, &out);
        real g[ALL];
        at = 0;
        for (int p = 0; p < l.layout.n; p++)
            for (int64_t i = 0; i < l.layout.p[p].count; i++)
                g[at++] = l.g[l.layout.p[p].offset + i];
        near("s", (double)out.stats[0], field_golden[k].s, sqrt(TOL));
        near("v2", (double)out.v2[0], field_golden[k].v2, sqrt(TOL));
        near("objective", (double)out.own[DR_FIELD_OBJECTIVE], field_golden[k].objective_value,
             sqrt(TOL));
        check("V", out.v, field_golden[k].v, FB * FN * FS, TOL);
        check("dgen", out.dgen, field_golden[k].dgen, FB * FN * FS, TOL);
        if (cfg.ldf.objective != DR_LDF_FROZEN)
            check("gradient", g, field_golden[k].gradient, at, TOL);
        for (int64_t i = 0; i < at && cfg.ldf.objective == DR_LDF_FROZEN; i++)
            assert_true(g[i] == 0);
        learned_drop(&out);
        learned_close(&l);
    }
    rig_close(&r);
}

#ifdef DR_DOUBLE
static double objective_at(struct rig *r, struct learned *l, const struct dr_drift_in *in) {
    struct learned_out out;
    learned_run(r, l, in, &out);
    const double value = (double)out.own[DR_FIELD_OBJECTIVE];
    learned_drop(&out);
    return value;
}

static void objectives_have_these_gradients(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 1);
    for (int k = 0; k < 4; k++) {
        const struct dr_loss_config cfg = config(k % 2 ? DR_LDF_NCE : DR_LDF_DENOISE, k / 2);
        struct data d = make(30, 2, 4, 2, 5, FS);
        struct learned l;
        struct learned_out out;
        learned_open(&l, &cfg, FS, 3);
        link_weights(&d, l.key);
        for (int64_t i = 0; i < l.layout.total; i++) // away from the symmetric start
            l.w[i] += 0.2 * sin((double)(7 * i + 1));
        learned_run(&r, &l, &d.in, &out);
        real *g = calloc((size_t)l.layout.total, sizeof *g);
        memcpy(g, l.g, (size_t)l.layout.total * sizeof *g);
        double largest = 0;
        for (int64_t i = 0; i < l.layout.total; i++)
            largest = fmax(largest, fabs(g[i]));
        for (int p = 0; p < l.layout.n; p++)
            for (int64_t i = 0; i < l.layout.p[p].count; i++) {
                real *w = l.w + l.layout.p[p].offset + i, old = *w;
                const double h = 1e-5, got = g[l.layout.p[p].offset + i];
                *w = old + h;
                double want = objective_at(&r, &l, &d.in);
                *w = old - h;
                want = (want - objective_at(&r, &l, &d.in)) / (2 * h);
                *w = old;
                if (!(fabs(got - want) <= 1e-6 * largest))
                    fail_msg("objective %d, %s[%d]: %.9g, differences say %.9g", cfg.ldf.objective,
                             l.layout.p[p].name, (int)i, got, want);
            }
        free(g);
        learned_drop(&out);
        learned_close(&l);
        drop(&d);
    }
    rig_close(&r);
}
#endif

// Every objective, with and without a projection.
static void each(void (*test)(struct rig *r, const struct dr_loss_config *cfg)) {
    struct rig r;
    rig_open(&r, 2);
    for (int k = 0; k < 6; k++) {
        const struct dr_loss_config cfg = config(k / 2, k % 2);
        test(&r, &cfg);
    }
    rig_close(&r);
}

// Each parameter's tensor has a gradient that is not zero; none with `frozen`, and without a key
// nothing is learnt.
static void gradient_of_all(struct rig *r, const struct dr_loss_config *cfg) {
    struct data d = make(20, 3, 6, 0, 5, 9);
    struct learned l;
    for (int keyed = 0; keyed < 2; keyed++) {
        struct learned_out out;
        learned_open(&l, cfg, 9, 4);
        link_weights(&d, keyed ? l.key : NULL);
        learned_run(r, &l, &d.in, &out);
        for (int p = 0; p < l.layout.n; p++) {
            const struct dr_param *q = &l.layout.p[p];
            int64_t not_zero = 0;
            for (int64_t i = 0; i < q->count; i++)
                not_zero += l.g[q->offset + i] != 0;
            const bool learns = keyed && cfg->ldf.objective != DR_LDF_FROZEN;
            if (not_zero != (learns ? q->count : 0))
                fail_msg("objective %d, %s: %d of %d have a gradient", cfg->ldf.objective, q->name,
                         (int)not_zero, (int)q->count);
        }
        learned_drop(&out);
        learned_close(&l);
    }
    drop(&d);
}
static void every_parameter_has_a_gradient(void **state) {
    (void)state;
    each(gradient_of_all);
}

static void antisymmetric(struct rig *r, const struct dr_loss_config *cfg) {
    struct data d = make(40, 2, 12, 0, 12, 20);
    struct learned l;
    struct learned_out pq, qp, same;
    learned_open(&l, cfg, 20, 5);
    d.in.neg = d.buf[1];
    learned_run(r, &l, &d.in, &pq);
    d.in.neg = d.buf[3], d.in.pos = d.buf[1];
    learned_run(r, &l, &d.in, &qp);
    d.in.neg = d.in.pos;
    learned_run(r, &l, &d.in, &same);
    double down = 0, up = 0;
    for (int64_t i = 0; i < 2 * 12 * 20; i++) {
        up += pow((double)pq.v[i], 2);
        down += pow((double)pq.v[i] + (double)qp.v[i], 2);
    }
    assert_true(down <= TOL * up);
    assert_true((double)same.v2[0] <= TOL * (double)pq.v2[0]);
    assert_true((double)same.loss < 1e-2);
    learned_drop(&pq), learned_drop(&qp), learned_drop(&same);
    learned_close(&l);
    drop(&d);
}
static void field_is_antisymmetric(void **state) {
    (void)state;
    each(antisymmetric);
}

// One sample, one real, or both: sets of which the mask or leaving one out leaves nothing.
static void small_sets(struct rig *r, const struct dr_loss_config *cfg) {
    static const int64_t size[][3] = {{1, 0, 1}, {1, 0, 4}, {4, 0, 1}, {2, 0, 2}, {1, 2, 1}};
    for (size_t i = 0; i < DR_COUNT(size); i++)
        for (int near_by = 0; near_by < 2; near_by++) {
            struct data d = make(60, 2, size[i][0], size[i][1], size[i][2], 6);
            struct learned l;
            struct learned_out out;
            learned_open(&l, cfg, 6, 6);
            link_weights(&d, l.key);
            for (int64_t k = 0; near_by && k < 2 * size[i][0] * 6; k++)
                d.buf[0][k] = d.buf[0][0]; // all in one place
            learned_run(r, &l, &d.in, &out);
            assert_true(isfinite((double)out.loss));
            assert_true(isfinite((double)out.own[DR_FIELD_OBJECTIVE]));
            for (int64_t k = 0; k < 2 * size[i][0] * 6; k++)
                assert_true(isfinite((double)out.dgen[k]) && isfinite((double)out.v[k]));
            for (int64_t k = 0; k < l.layout.total; k++)
                assert_true(isfinite((double)l.g[k]));
            learned_drop(&out);
            learned_close(&l);
            drop(&d);
        }
}
static void small_sets_stay_finite(void **state) {
    (void)state;
    each(small_sets);
}

// One bad value anywhere ends in a loss that is not finite.
static void bad_input(struct rig *r, const struct dr_loss_config *cfg) {
    static const int which[] = {0, 2, 3};
    for (size_t k = 0; k < DR_COUNT(which); k++) {
        struct data d = make(70, 2, 5, 4, 6, 18);
        struct learned l;
        struct learned_out out;
        learned_open(&l, cfg, 18, 7);
        link_weights(&d, l.key);
        d.weight[0] = 1;
        d.buf[which[k]][19] = NAN;
        learned_run(r, &l, &d.in, &out);
        assert_true(!isfinite((double)out.loss));
        learned_drop(&out);
        learned_close(&l);
        drop(&d);
    }
}
static void non_finite_input_shows(void **state) {
    (void)state;
    each(bad_input);
}

// Unconditional negatives of weight 0 are not there; heavy ones repel.
static void weights_count(struct rig *r, const struct dr_loss_config *cfg) {
    struct data d = make(80, 1, 8, 6, 8, 5);
    struct learned l;
    struct learned_out with, without, heavy;
    learned_open(&l, cfg, 5, 8);
    link_weights(&d, NULL);
    d.weight[0] = 0;
    learned_run(r, &l, &d.in, &with);
    const real scale = with.stats[0];
    d.weight[0] = 3;
    learned_run(r, &l, &d.in, &heavy);
    assert_true(ref_nmse2(heavy.v, with.v, 40) > 1e-4);
    d.in.U = 0;
    learned_run(r, &l, &d.in, &without);
    // The feature scale counts weights as well: mean(D w) / mean(w), equal here to rounding.
    near("scale", (double)scale, (double)without.stats[0], 1e-5);
    assert_true(ref_nmse2(with.v, without.v, 40) < 1e-9);
    learned_drop(&with), learned_drop(&without), learned_drop(&heavy);
    learned_close(&l);
    drop(&d);
}
static void guidance_weights_count(void **state) {
    (void)state;
    each(weights_count);
}

static void threads_do_not_matter(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++) {
        const struct dr_loss_config cfg = config(k / 2, k % 2);
        struct data d = make(90, 5, 18, 7, 23, 100);
        struct learned l[2];
        struct learned_out out[2];
        for (int t = 0; t < 2; t++) {
            struct rig r;
            rig_open(&r, t ? 3 : 1);
            learned_open(&l[t], &cfg, 100, 9);
            link_weights(&d, l[t].key);
            learned_run(&r, &l[t], &d.in, &out[t]);
            rig_close(&r);
        }
        assert_memory_equal(out[0].dgen, out[1].dgen, 5 * 18 * 100 * sizeof(real));
        assert_memory_equal(out[0].own, out[1].own, sizeof out[0].own);
        assert_memory_equal(l[0].g, l[1].g, (size_t)l[0].layout.total * sizeof(real));
        for (int t = 0; t < 2; t++) {
            learned_drop(&out[t]);
            learned_close(&l[t]);
        }
        drop(&d);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_pytorch),
#ifdef DR_DOUBLE
        cmocka_unit_test(objectives_have_these_gradients),
#endif
        cmocka_unit_test(every_parameter_has_a_gradient),
        cmocka_unit_test(field_is_antisymmetric),
        cmocka_unit_test(small_sets_stay_finite),
        cmocka_unit_test(non_finite_input_shows),
        cmocka_unit_test(guidance_weights_count),
        cmocka_unit_test(threads_do_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
