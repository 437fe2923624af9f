// The field moving free particles, no network: it reaches two modes from three starts, and guidance
// brings it where Eq. 16 of the paper says, q = alpha p(.|c) - (alpha - 1) p_unc.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/core/rng.h"
#include "tests/loss/ref.h"

// Gradient descent on the points themselves: x~ += eta V, eta falling from `first` to `last`.
static void flow(const struct dr_loss_config *cfg, struct dr_drift_in in, real *x, int steps,
                 double first, double last) {
    struct rig r;
    rig_open(&r, 1);
    int64_t n = in.B * in.N * in.S;
    in.gen = x;
    in.weight = 1;
    for (int t = 0; t < steps; t++) {
        struct eng_out e;
        eng_drift(&r, cfg, &in, &e);
        double eta = first * pow(last / first, (double)t / (double)(steps - 1));
        double f = (double)e.stats[0] / sqrt((double)in.S);
        for (int64_t i = 0; i < n; i++) // dgen = -2 V / n / f, a step in x is f eta V
            x[i] -= (real)(eta * f * f * (double)n / 2 * (double)e.dgen[i]);
        free(e.dgen);
    }
    rig_close(&r);
}

// ---- two modes
// -----------------------------------------------------------------------------------

#define POINTS 128

// Half of the points around (-2, 0), half around (2, 0).
static real *two_modes(uint64_t seed) {
    real *x = test_normals(seed, 2 * POINTS, 0, 0.25);
    for (int i = 0; i < POINTS; i++)
        x[2 * i] += (real)(i % 2 ? 2 : -2);
    return x;
}

static void converges(const char *name, double mx, double my, double std) {
    real *pos = two_modes(1), *other = two_modes(2), *x = test_normals(3, 2 * POINTS, 0, std);
    for (int i = 0; i < POINTS; i++) {
        x[2 * i] += (real)mx;
        x[2 * i + 1] += (real)my;
    }
    double before = dr_energy_distance(x, POINTS, pos, POINTS, 2);
    // The largest temperature carries mass from one mode to the other.
    struct dr_loss_config cfg = {.tau = {0.1, 0.3, 1}, .ntau = 3};
    flow(&cfg, (struct dr_drift_in){.pos = pos, .B = 1, .N = POINTS, .P = POINTS, .S = 2}, x, 300,
         0.2, 0.002);
    double after = dr_energy_distance(x, POINTS, pos, POINTS, 2);
    double real_to_real = dr_energy_distance(other, POINTS, pos, POINTS, 2);
    int right = 0;
    for (int i = 0; i < POINTS; i++)
        right += x[2 * i] > 0;
    printf("  %s: energy distance %.4f -> %.5f (real to real %.5f), %d of %d right\n", name, before,
           after, real_to_real, right, POINTS);
    assert_true(before > 0.5);
    assert_true(after < real_to_real);
    assert_in_range(right, POINTS * 45 / 100, POINTS * 55 / 100);
    free(pos), free(other), free(x);
}

static void two_modes_from_the_middle(void **state) {
    (void)state;
    converges("middle", 0, 0, 0.3);
}
static void two_modes_from_far_away(void **state) {
    (void)state;
    converges("far", 12, 9, 0.5);
}
static void two_modes_from_a_collapse(void **state) {
    (void)state;
    converges("collapsed", -2, 0, 0.01);
}

// ---- guidance
// ------------------------------------------------------------------------------------

// Two classes on [0,1] with densities 1 +- t (2x - 1), so p_unc is uniform and Eq. 16 for the first
// says q(x) = 1 + alpha t (2x - 1), a density while alpha t <= 1.
#define TILT 0.4
#define SET 192

// Quantiles of the density 1 + k (2x - 1): x (1 - k) + k x^2 = u.
static void tilted(real *x, int n, double k) {
    for (int i = 0; i < n; i++) {
        double u = (i + 0.5) / n;
        x[i] = (real)(k == 0 ? u : (sqrt((1 - k) * (1 - k) + 4 * k * u) - (1 - k)) / (2 * k));
    }
}

static void guided(double alpha) {
    real pos[SET], unc[SET], x[SET], want[SET], weight = (real)((alpha - 1) * (SET - 1) / SET);
    tilted(pos, SET, TILT);
    tilted(unc, SET, 0);
    tilted(want, SET, alpha * TILT);
    for (int i = 0; i < SET; i++)
        x[i] = (real)(0.4 + 0.2 * (i + 0.5) / SET);
    struct dr_loss_config cfg = {.tau = {0.1, 0.3}, .ntau = 2};
    flow(&cfg,
         (struct dr_drift_in){.pos = pos,
                              .unc = unc,
                              .unc_weight = &weight,
                              .B = 1,
                              .N = SET,
                              .U = SET,
                              .P = SET,
                              .S = 1,
                              .unc_shared = true},
         x, 300, 0.2, 0.002);
    double mean = 0, sq = 0, wm = 0, ws = 0;
    for (int i = 0; i < SET; i++) {
        mean += (double)x[i] / SET, sq += (double)x[i] * (double)x[i] / SET;
        wm += (double)want[i] / SET, ws += (double)want[i] * (double)want[i] / SET;
    }
    double std = sqrt(sq - mean * mean), wstd = sqrt(ws - wm * wm);
    double energy = dr_energy_distance(x, SET, want, SET, 1);
    double plain = dr_energy_distance(x, SET, pos, SET, 1);
    printf("  alpha %g: mean %.4f std %.4f, Eq. 16 says %.4f %.4f; energy %.6f, to p(.|c) %.6f\n",
           alpha, mean, std, wm, wstd, energy, plain);
    assert_true(fabs(mean - wm) < 0.01);
    assert_true(fabs(std - wstd) < 0.01);
    assert_true(energy < 0.001);
    assert_true(alpha == 1 || energy < plain / 4);
}

static void guidance_obeys_eq_16(void **state) {
    (void)state;
    guided(1);
    guided(2);
    guided(2.5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_modes_from_the_middle),
        cmocka_unit_test(two_modes_from_far_away),
        cmocka_unit_test(two_modes_from_a_collapse),
        cmocka_unit_test(guidance_obeys_eq_16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
