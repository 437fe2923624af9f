// dr_drift_loss against the double reference for every option, its gradient against finite
// differences, and the properties that the method promises.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/golden/drift_vectors.h"
#include "tests/loss/ref.h"

#ifdef DR_DOUBLE
#define TOL 1e-20 // NMSE
#else
#define TOL 1e-10
#endif

struct data {
    struct dr_drift_in in;
    real *buf[5];
};

// Clouds with a common mean, as features have; w_unc differs by group.
static struct data make(uint64_t seed, int64_t B, int64_t N, int64_t U, int64_t P, int64_t S,
                        bool neg, bool shared) {
    struct data d = {0};
    d.buf[0] = test_normals(seed, B * N * S, 0.3, 0.7);
    d.buf[1] = neg ? test_normals(seed + 1, B * N * S, 0.3, 0.7) : NULL;
    d.buf[2] = U ? test_normals(seed + 2, (shared ? 1 : B) * U * S, 0.1, 1.2) : NULL;
    d.buf[3] = test_normals(seed + 3, B * P * S, 0.4, 1);
    d.buf[4] = U ? test_normals(seed + 4, B, 1.5, 0.4) : NULL;
    d.in = (struct dr_drift_in){.gen = d.buf[0],
                                .neg = d.buf[1],
                                .unc = d.buf[2],
                                .pos = d.buf[3],
                                .unc_weight = d.buf[4],
                                .B = B,
                                .N = N,
                                .U = U,
                                .P = P,
                                .S = S,
                                .unc_shared = shared,
                                .weight = (real)0.75};
    return d;
}

static void drop(struct data *d) {
    for (int i = 0; i < 5; i++)
        free(d->buf[i]);
}

static struct dr_loss_config config(int field, int kernel, int normalize, double floor) {
    return (struct dr_loss_config){.field = field,
                                   .kernel = kernel,
                                   .normalize = normalize,
                                   .sinkhorn_iterations = 7,
                                   .tau = {0.02, 0.05, 0.2},
                                   .ntau = 3,
                                   .floor = floor};
}

static void near(const char *what, double got, double want, double rel) {
    if (!(fabs(got - want) <= rel * fabs(want)))
        fail_msg("%s: %.17g, expected %.17g within %g", what, got, want, rel);
}

static void agree(struct rig *r, const struct dr_loss_config *cfg, const struct dr_drift_in *in) {
    struct ref_out ref;
    struct eng_out eng;
    ref_drift(cfg, in, &ref);
    eng_drift(r, cfg, in, &eng);
    double rel = sqrt(TOL), nmse = ref_nmse(eng.dgen, ref.dgen, in->B * in->N * in->S);
    char what[160];
    snprintf(what, sizeof what,
             "field %d kernel %d normalize %d bias %d floor %g tau0 %g B %d N %d U %d P %d S %d "
             "neg %d",
             cfg->field, cfg->kernel, cfg->normalize, cfg->bias, cfg->floor, cfg->tau[0],
             (int)in->B, (int)in->N, (int)in->U, (int)in->P, (int)in->S, in->neg != NULL);
    if (!(nmse <= TOL))
        fail_msg("gradient NMSE %.3g over %g: %s", nmse, TOL, what);
    near(what, (double)eng.loss, ref.loss, rel);
    near("s", (double)eng.stats[0], ref.s, rel);
    near("mean D", (double)eng.stats[1], ref.mean_d, rel);
    near("var D", (double)eng.stats[2], ref.var_d, 10 * rel);
    if (cfg->field == DR_FIELD_KERNEL)
        for (int t = 0; t < cfg->ntau; t++)
            near("v2", (double)eng.v2[t], ref.v2[t], 10 * rel);
    for (int t = 0; t < cfg->ntau; t++) {
        int64_t n = in->B * in->N * in->S;
        nmse = ref_nmse(eng.field + t * n, ref.raw + t * n, n);
        if (!(nmse <= 100 * TOL))
            fail_msg("V of temperature %d: NMSE %.3g: %s", t, nmse, what);
    }
    free(eng.dgen);
    ref_free(&ref);
}

// Every combination of field, kernel, normalisation, bias, floor, negatives and guidance rows, on
// sizes that are not multiples of anything. Every third one has its drift shortened.
static void every_option_agrees(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2);
    uint64_t seed = 1;
    for (int how = DR_NORM_BOTH; how <= DR_NORM_SINKHORN_SPLIT; how++)
        for (int kernel = 0; kernel < 2; kernel++)
            for (int bits = 0; bits < 32; bits++, seed += 5) {
                bool l2 = bits & 8;
                if (how == DR_NORM_SINKHORN_SPLIT && !(bits & 4))
                    continue; // has a second batch
                struct dr_loss_config cfg = config(l2 ? DR_FIELD_KERNEL_L2 : DR_FIELD_KERNEL,
                                                   kernel, how, bits & 1 ? 1e-6 : 0);
                cfg.bias = bits & 16 ? DR_BIAS_ABC : DR_BIAS_NONE;
                cfg.max_velocity = seed % 3 ? 0 : 0.9;
                // Without a softmax, or squared, the smallest temperatures leave nothing in fp32.
                if (how == DR_NORM_NONE || kernel == DR_KERNEL_GAUSSIAN)
                    cfg.tau[0] = 0.3, cfg.tau[1] = 0.5, cfg.tau[2] = 1;
                struct data d = make(seed, 3, 7, bits & 2 ? 5 : 0, 11, 37, bits & 4, bits & 1);
                agree(&r, &cfg, &d.in);
                drop(&d);
            }
    rig_close(&r);
}

static void sizes_agree(void **state) {
    (void)state;
    static const int64_t size[][5] = {
        // B N U P S
        {1, 2, 0, 1, 1},      {2, 5, 3, 9, 2},      {1, 64, 0, 64, 2},   {3, 6, 1, 4, 3},
        {2, 9, 2, 17, 15},    {2, 4, 0, 16, 16},    {1, 13, 3, 21, 33},  {4, 16, 16, 64, 196},
        {2, 16, 16, 64, 784}, {2, 32, 0, 32, 1024}, {1, 17, 5, 40, 3072}};
    struct rig r;
    rig_open(&r, 2);
    for (size_t i = 0; i < DR_COUNT(size); i++)
        for (int field = 0; field < 2; field++) {
            const int64_t *z = size[i];
            struct dr_loss_config cfg = config(field, DR_KERNEL_LAPLACE, DR_NORM_BOTH, 0);
            if (field == DR_FIELD_KERNEL_L2 && z[4] == 1)
                continue; // the sphere of width 1 has two points
            struct data d = make(100 + i, z[0], z[1], z[2], z[3], z[4], false, i & 1);
            agree(&r, &cfg, &d.in);
            cfg.bias = DR_BIAS_ABC;
            agree(&r, &cfg, &d.in);
            drop(&d);
            d = make(100 + i, z[0], z[1], z[2], z[3], z[4], true, i & 1);
            cfg.normalize = DR_NORM_SINKHORN_SPLIT;
            agree(&r, &cfg, &d.in);
            drop(&d);
        }
    rig_close(&r);
}

struct frozen_target {
    const struct dr_loss_config *cfg;
    const struct data *d;
    const struct ref_out *ref;
};
static double loss_at(void *ctx) {
    const struct frozen_target *t = ctx;
    return ref_loss_at(t->cfg, &t->d->in, t->d->buf[0], t->ref);
}

// The gradient is that of weight mean((x~ - target)^2) with target and divisor held fixed.
static void gradient_is_that_of_the_loss(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 1);
    for (int k = 0; k < 4; k++) {
        const int field = k % 2, bias = k / 2;
        struct dr_loss_config cfg = config(field, DR_KERNEL_LAPLACE, DR_NORM_BOTH, 1e-6);
        struct data d = make(7, 2, 4, 3, 5, 6, false, true);
        cfg.bias = bias;
        cfg.max_velocity = bias ? 0.8 : 0;
        struct ref_out ref;
        struct eng_out eng;
        ref_drift(&cfg, &d.in, &ref);
        eng_drift(&r, &cfg, &d.in, &eng);
#ifdef DR_DOUBLE
        const double h = 1e-5, tol = 1e-6;
#else
        const double h = 1.0 / 256, tol = 2e-3; // the loss is quadratic but for the sphere
#endif
        struct frozen_target at = {&cfg, &d, &ref};
        test_slope(&(struct slope){.what = field ? "kernel-l2" : "kernel",
                                   .x = d.buf[0],
                                   .dx = eng.dgen,
                                   .n = 2 * 4 * 6,
                                   .stride = 1,
                                   .h = h,
                                   .tol = tol,
                                   .value = loss_at,
                                   .ctx = &at});
        free(eng.dgen);
        ref_free(&ref);
        drop(&d);
    }
    rig_close(&r);
}

// V(P,Q) = -V(Q,P), without self mask and guidance, whatever the normalisation.
static void field_is_antisymmetric(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2);
    for (int k = 0; k < 4; k++)
        for (int how = DR_NORM_BOTH; how <= DR_NORM_SINKHORN_SPLIT; how++) {
            struct dr_loss_config cfg = config(k % 2, DR_KERNEL_LAPLACE, how, 0);
            cfg.bias = k / 2;
            if (how == DR_NORM_NONE)
                cfg.tau[0] = 0.3, cfg.tau[1] = 0.5, cfg.tau[2] = 1;
            struct data d = make(40, 2, 12, 0, 12, 20, true, false);
            struct eng_out pq, qp;
            eng_drift(&r, &cfg, &d.in, &pq);
            const real *p = d.in.pos;
            d.in.pos = d.in.neg;
            d.in.neg = p;
            eng_drift(&r, &cfg, &d.in, &qp);
            int64_t n = 2 * 12 * 20;
            for (int64_t i = 0; i < n; i++)
                qp.dgen[i] = -qp.dgen[i];
            assert_true(ref_nmse2(qp.dgen, pq.dgen, n) < TOL);
            near("loss", (double)qp.loss, (double)pq.loss, sqrt(TOL));
            free(pq.dgen);
            free(qp.dgen);
            drop(&d);
        }
    rig_close(&r);
}

// Equal sets balance: the raw drift is rounding, the normalised one stays under its floor.
static void equal_sets_do_not_drift(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 1);
    for (int k = 0; k < 2 * (DR_NORM_SINKHORN_SPLIT + 1); k++) {
        struct dr_loss_config cfg = config(DR_FIELD_KERNEL, DR_KERNEL_LAPLACE, k / 2, 1e-6);
        cfg.bias = k % 2;
        struct data d = make(50, 2, 9, 0, 9, 24, true, false);
        d.in.pos = d.in.neg;
        struct eng_out e;
        eng_drift(&r, &cfg, &d.in, &e);
        for (int t = 0; t < cfg.ntau; t++)
            assert_true(e.v2[t] >= 0 && (double)e.v2[t] < 1e-12);
        assert_true((double)e.loss < 1e-3);
        free(e.dgen);
        drop(&d);
    }
    rig_close(&r);
}

// Unconditional negatives with weight 0 do not act; the heavier, the further the drift leaves them.
static void guidance_weight_repels(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 1);
    struct dr_loss_config cfg = config(DR_FIELD_KERNEL, DR_KERNEL_LAPLACE, DR_NORM_Y, 0);
    cfg.tau[0] = 0.5, cfg.ntau = 1;
    struct data d = make(60, 1, 16, 8, 16, 4, false, false);
    for (int i = 0; i < 8 * 4; i++)
        d.buf[2][i] = (real)(i % 4 == 0 ? 2 + 0.01 * i : 0); // all on one side of the first axis
    double before = -INFINITY;
    for (int step = 0; step < 4; step++) {
        d.buf[4][0] = (real)(step * 2);
        struct eng_out e;
        eng_drift(&r, &cfg, &d.in, &e);
        double push = 0; // mean drift along the axis away from them: dgen is -V up to a factor
        for (int i = 0; i < 16; i++)
            push += (double)e.dgen[i * 4];
        assert_true(push > before);
        before = push;
        free(e.dgen);
    }
    d.buf[4][0] = 0;
    struct ref_out with;
    ref_drift(&cfg, &d.in, &with);
    agree(&r, &cfg, &d.in);
    ref_free(&with);
    drop(&d);
    rig_close(&r);
}

// One bad value anywhere ends in a loss that is not finite.
static void non_finite_input_shows(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2);
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    for (int field = 0; field < 2; field++)
        for (int how = DR_NORM_BOTH; how <= DR_NORM_SINKHORN_SPLIT; how++)
            for (int which = 0; which < 4; which++)
                for (size_t k = 0; k < DR_COUNT(bad); k++) {
                    if (field == DR_FIELD_KERNEL_L2 && which == 2)
                        continue; // takes no unconditional negatives
                    struct dr_loss_config cfg = config(field, DR_KERNEL_LAPLACE, how, 1e-6);
                    const bool split = how == DR_NORM_SINKHORN_SPLIT;
                    cfg.bias = which % 2 ? DR_BIAS_ABC : DR_BIAS_NONE;
                    cfg.max_velocity = k ? 0.5 : 0;
                    struct data d = make(70, 2, 5, 4, 6, 18, which == 1 || split, false);
                    d.buf[which][19] = (real)bad[k];
                    struct eng_out e;
                    eng_drift(&r, &cfg, &d.in, &e);
                    if (isfinite((double)e.loss))
                        fail_msg("field %d normalize %d: input %d = %g gives loss %g", field, how,
                                 which, bad[k], (double)e.loss);
                    free(e.dgen);
                    drop(&d);
                }
    rig_close(&r);
}

static void threads_do_not_matter(void **state) {
    (void)state;
    for (int field = 0; field < 2; field++) {
        struct dr_loss_config cfg = config(field, DR_KERNEL_LAPLACE, DR_NORM_BOTH, 0);
        struct data d = make(80, 5, 18, 7, 33, 100, false, true);
        struct eng_out e[3];
        for (int t = 0; t < 3; t++) {
            struct rig r;
            rig_open(&r, t + 1);
            eng_drift(&r, &cfg, &d.in, &e[t]);
            rig_close(&r);
        }
        for (int t = 1; t < 3; t++) {
            assert_memory_equal(e[t].dgen, e[0].dgen, 5 * 18 * 100 * sizeof(real));
            assert_memory_equal(&e[t].loss, &e[0].loss, sizeof(real));
            assert_memory_equal(e[t].v2, e[0].v2, sizeof e[0].v2);
            assert_memory_equal(e[t].stats, e[0].stats, sizeof e[0].stats);
        }
        for (int t = 0; t < 3; t++)
            free(e[t].dgen);
        drop(&d);
    }
}

// A sample that is too far from everything for any affinity stays where it is: no 0 / 0.
static void lonely_samples_stay(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 1);
    struct dr_loss_config cfg = config(DR_FIELD_KERNEL, DR_KERNEL_GAUSSIAN, DR_NORM_NONE, 0);
    cfg.bias = DR_BIAS_ABC;
    cfg.tau[0] = 0.1, cfg.ntau = 1;
    struct data d = make(95, 1, 6, 3, 8, 20, true, false);
    for (int k = 0; k < 20; k++)
        d.buf[0][k] = 1000; // of all distances: many times their mean
    struct eng_out e;
    eng_drift(&r, &cfg, &d.in, &e);
    assert_true(isfinite((double)e.loss) && e.loss > 0);
    for (int k = 0; k < 20; k++)
        assert_true(e.dgen[k] == 0);
    agree(&r, &cfg, &d.in);
    free(e.dgen);
    drop(&d);
    rig_close(&r);
}

// No sample's drift is longer than allowed, none that was shorter changes, and none turns.
static void velocity_has_a_limit(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 2);
    enum { ROWS = 3 * 8, S = 30 };
    for (int field = 0; field < 2; field++) {
        struct dr_loss_config cfg = config(field, DR_KERNEL_LAPLACE, DR_NORM_BOTH, 0);
        struct data d = make(96, 3, 8, 0, 9, S, false, false);
        const double unit = 2 * 0.75 / (ROWS * S); // dgen is -unit V / f, on the sphere its tangent
        struct eng_out free_, held;
        eng_drift(&r, &cfg, &d.in, &free_);
        cfg.max_velocity = 2;
        eng_drift(&r, &cfg, &d.in, &held);
        const double f = field ? 1 : (double)held.stats[0] / sqrt(S);
        int shortened = 0;
        for (int row = 0; row < ROWS; row++) {
            double a = 0, b = 0, ab = 0;
            for (int k = row * S; k < (row + 1) * S; k++) {
                a += pow((double)free_.dgen[k], 2), b += pow((double)held.dgen[k], 2);
                ab += (double)free_.dgen[k] * (double)held.dgen[k];
            }
            assert_true(ab >= (1 - 1e-6) * sqrt(a * b));
            assert_true(field || sqrt(b / S) * f / unit <= 2 * (1 + 1e-5));
            assert_true(b <= a * (1 + 1e-6));
            shortened += b < 0.99 * a;
        }
        assert_true(shortened > 0 && shortened < ROWS);
        assert_true(held.loss < free_.loss);
        free(free_.dgen), free(held.dgen);
        drop(&d);
    }
    rig_close(&r);
}

// Weight 0 takes an unconditional negative out of its plan altogether.
static void split_plans_weigh_their_columns(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 1);
    struct dr_loss_config cfg =
        config(DR_FIELD_KERNEL, DR_KERNEL_LAPLACE, DR_NORM_SINKHORN_SPLIT, 1e-6);
    struct data d = make(97, 2, 9, 4, 7, 12, true, false);
    struct eng_out with, without;
    d.buf[4][0] = d.buf[4][1] = 0;
    eng_drift(&r, &cfg, &d.in, &with);
    for (int k = 0; k < 2 * 4 * 12; k++) // elsewhere, as near on average
        d.buf[2][k] = -d.buf[2][k];
    eng_drift(&r, &cfg, &d.in, &without);
    assert_true(ref_nmse2(with.dgen, without.dgen, 2 * 9 * 12) < TOL);
    // Where one of no weight is so near that all others underflow beside it.
    memcpy(d.buf[2], d.buf[0], 4 * 12 * sizeof(real));
    memcpy(d.buf[2] + 4 * 12, d.buf[0] + 9 * 12, 4 * 12 * sizeof(real));
    cfg.tau[0] = 0.001;
    cfg.ntau = 1;
    free(with.dgen);
    eng_drift(&r, &cfg, &d.in, &with);
    for (int k = 0; k < 2 * 9 * 12; k++)
        assert_true(isfinite(with.dgen[k]));
    free(with.dgen), free(without.dgen);
    drop(&d);
    rig_close(&r);
}

// The centroid that coefficients of one side stand for, of one group without y's.
static double centroid_of(const real *coef, const real *y, int n) {
    double sum = 0, at = 0;
    for (int j = 0; j < n; j++)
        sum += (double)coef[j], at += (double)coef[j] * (double)y[j];
    return at / sum;
}

// The Gaussian kernel's centroid at x under N(0, 1) is x / (1 + tau^2). Over n samples it is off by
// O(1/n) on average, with the correction by less than a third of that.
static void abc_lowers_the_bias(void **state) {
    (void)state;
    enum { SETS = 60000, POS = 8, M = 1 + POS };
    struct rig r;
    rig_open(&r, 1);
    const double tau = 1, x = 1, want = x / (1 + tau * tau);
    real *y = test_normals(98, SETS * POS, 0, 1), *d = malloc(SETS * M * sizeof *d);
    real *coef = malloc(SETS * M * sizeof *coef);
    double bias[2] = {0};
    for (int b = 0; b < SETS; b++)
        for (int j = 0; j < M; j++)
            d[b * M + j] = j ? (real)fabs(x - (double)y[b * POS + j - 1]) : 1;
    for (int abc = 0; abc < 2; abc++) {
        DR_OP(r.be, drift_coef, .coef = coef, .d = d, .b = SETS, .n = 1, .n_neg = 1, .p = POS,
              .tau = (real)tau, .kernel = DR_KERNEL_GAUSSIAN, .normalize = DR_NORM_NONE,
              .abc = abc);
        for (int b = 0; b < SETS; b++)
            bias[abc] += (centroid_of(coef + b * M + 1, y + b * POS, POS) - want) / SETS;
    }
    printf("  bias of a centroid over %d samples: %.4f, with abc %.4f\n", POS, bias[0], bias[1]);
    assert_true(fabs(bias[0]) > 0.02);
    assert_true(fabs(bias[1]) < fabs(bias[0]) / 3);
    free(y), free(d), free(coef);
    rig_close(&r);
}

static void loss_accumulates(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 1);
    struct dr_loss_config cfg = config(DR_FIELD_KERNEL, DR_KERNEL_LAPLACE, DR_NORM_BOTH, 0);
    struct data d = make(90, 1, 6, 0, 6, 20, false, false);
    struct eng_out once, twice;
    eng_drift(&r, &cfg, &d.in, &once);
    eng_drift(&r, &cfg, &d.in, &twice);
    dr_drift_loss(
        &r.cx, &cfg, &d.in,
        &(struct dr_drift_out){
            .dgen = twice.dgen, .loss = &twice.loss, .v2 = twice.v2, .stats = twice.stats});
    near("loss", (double)twice.loss, 2 * (double)once.loss, 1e-6);
    assert_memory_equal(twice.dgen, once.dgen, 6 * 20 * sizeof(real));
    free(once.dgen);
    free(twice.dgen);
    drop(&d);
    rig_close(&r);
}

static void energy_distance_is_right(void **state) {
    (void)state;
    const real x[] = {0, 0, 3, 4}, y[] = {0, 0, 0, 0, 6, 8};
    // E|x-y| = (0 + 0 + 10 + 5 + 5 + 5) / 6, E|x-x'| = 2 * 5 / 4, E|y-y'| = 4 * 10 / 9
    near("energy", dr_energy_distance(x, 2, y, 3, 2), 2 * 25.0 / 6 - 2.5 - 40.0 / 9, 1e-12);
    assert_true(fabs(dr_energy_distance(x, 2, x, 2, 2)) < 1e-12);
}

static real *reals(const double *x, int64_t n) {
    real *y = malloc((size_t)n * sizeof *y);
    for (int64_t i = 0; i < n; i++)
        y[i] = (real)x[i];
    return y;
}

// Against vectors of a program that shares nothing with this one.
static void golden_vectors_agree(void **state) {
    (void)state;
    struct rig r;
    rig_open(&r, 1);
    real *gen = reals(golden_gen, GB * GN * GS), *neg = reals(golden_neg, GB * GN * GS);
    real *unc = reals(golden_unc, GB * GU * GS), *pos = reals(golden_pos, GB * GP * GS);
    real *w = reals(golden_w_unc, GB);
    for (size_t i = 0; i < DR_COUNT(golden); i++) {
        struct dr_loss_config cfg = {.field = golden[i].field,
                                     .kernel = golden[i].kernel,
                                     .normalize = golden[i].normalize,
                                     .sinkhorn_iterations = GSINKHORN,
                                     .bias = golden[i].bias,
                                     .max_velocity = golden[i].max_velocity,
                                     .ntau = GTAUS,
                                     .floor = golden[i].floor};
        memcpy(cfg.tau, golden[i].tau, sizeof golden[i].tau);
        struct dr_drift_in in = {.gen = gen,
                                 .neg = golden[i].independent ? neg : NULL,
                                 .unc = unc,
                                 .pos = pos,
                                 .unc_weight = w,
                                 .B = GB,
                                 .N = GN,
                                 .U = GU,
                                 .P = GP,
                                 .S = GS,
                                 .weight = (real)golden_weight};
        struct eng_out e;
        eng_drift(&r, &cfg, &in, &e);
        near("loss", (double)e.loss, golden[i].loss, 10 * sqrt(TOL));
        near("s", (double)e.stats[0], golden[i].s, sqrt(TOL));
        for (int t = 0; t < GTAUS; t++)
            near("v2", (double)e.v2[t], golden[i].v2[t], 10 * sqrt(TOL));
        double nmse = ref_nmse(e.dgen, golden[i].dgen, GB * GN * GS);
        if (!(nmse <= TOL))
            fail_msg("golden vector %d: gradient NMSE %.3g", (int)i, nmse);
        free(e.dgen);
    }
    free(gen), free(neg), free(unc), free(pos), free(w);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_vectors_agree),
        cmocka_unit_test(every_option_agrees),
        cmocka_unit_test(sizes_agree),
        cmocka_unit_test(gradient_is_that_of_the_loss),
        cmocka_unit_test(field_is_antisymmetric),
        cmocka_unit_test(equal_sets_do_not_drift),
        cmocka_unit_test(guidance_weight_repels),
        cmocka_unit_test(non_finite_input_shows),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(lonely_samples_stay),
        cmocka_unit_test(velocity_has_a_limit),
        cmocka_unit_test(split_plans_weigh_their_columns),
        cmocka_unit_test(abc_lowers_the_bias),
        cmocka_unit_test(loss_accumulates),
        cmocka_unit_test(energy_distance_is_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
