// Gradients of the generators against finite differences, in the double build: for each combination
// of options a random direction through all parameters, one through each parameter, and on the
// smallest networks every element. L(w) = sum dx . x(w); five-point differences, so that the
// truncation error (h^4) lies far under the tolerance.
#include "engine/core/rng.h"
#include "tests/nn/rig.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SEED 4
#define STEP 1e-4 // of a unit vector: small against the curvature of a norm over two values
#define TOL 1e-6

struct probe {
    struct rig r;
    real *w, *moved, *dir, *dx, *x, *g;
};

static real *numbers(int64_t n, uint64_t index) {
    real *v = calloc((size_t)n, sizeof *v);
    assert_non_null(v);
    if (index)
        dr_normals(SEED, DR_STREAM_DATA, index, v, n);
    return v;
}

static double loss_at(struct probe *p, int64_t from, int64_t n, double step) {
    for (int64_t i = from; i < from + n; i++)
        p->moved[i] = p->w[i] + step * p->dir[i];
    rig_weights(&p->r, p->moved);
    rig_forward(&p->r, false, p->x);
    double sum = 0;
    for (int64_t i = 0; i < p->r.b * p->r.image; i++)
        sum += (double)p->x[i] * p->dx[i];
    return sum;
}

static double rms(const real *v, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)v[i] * v[i];
    return sqrt(sum / (double)n);
}

static void unit_direction(struct probe *p, uint64_t index, int64_t from, int64_t n) {
    dr_normals(SEED, DR_STREAM_LABEL, index, p->dir + from, n);
    double scale = 1 / (rms(p->dir + from, n) * sqrt((double)n));
    for (int64_t i = from; i < from + n; i++)
        p->dir[i] *= scale;
}

// Along p->dir, which is only looked at in [from, from + n). `scale`: what a relative error refers
// to where the derivative itself is a near cancellation.
static void check_direction(struct probe *p, const char *what, int64_t from, int64_t n,
                            double scale) {
    double want = 0, h = STEP;
    for (int64_t i = from; i < from + n; i++)
        want += (double)p->g[i] * p->dir[i];
    double near = loss_at(p, from, n, h) - loss_at(p, from, n, -h);
    double far = loss_at(p, from, n, 2 * h) - loss_at(p, from, n, -2 * h);
    memcpy(p->moved + from, p->w + from, (size_t)n * sizeof *p->w);
    double got = (8 * near - far) / (12 * h);
    if (!(fabs(got - want) <= TOL * fmax(fabs(want), scale)))
        fail_msg("%s: backward %.12g, finite differences %.12g", what, want, got);
}

static void probe_open(struct probe *p, const struct dr_model_config *m) {
    rig_open(&p->r, m, 3, 1, DR_F32);
    int64_t total = p->r.params->total, image = p->r.b * p->r.image;
    p->w = rig_random_weights(p->r.params, SEED);
    p->moved = rig_random_weights(p->r.params, SEED);
    p->dir = numbers(total, 0);
    p->dx = numbers(image, 1);
    p->x = numbers(image, 0);
    p->g = numbers(total, 0);
    rig_random_inputs(&p->r, SEED);
    rig_weights(&p->r, p->w);
    rig_forward(&p->r, true, p->x);
    rig_backward(&p->r, p->dx, p->g);
}

static void probe_close(struct probe *p) {
    free(p->w);
    free(p->moved);
    free(p->dir);
    free(p->dx);
    free(p->x);
    free(p->g);
    rig_close(&p->r);
}

static double loss_of_noise(struct probe *p, real *noise, const real *at, const real *dir,
                            double step) {
    const int64_t n = p->r.b * p->r.noise;
    for (int64_t i = 0; i < n; i++)
        noise[i] = at[i] + step * dir[i];
    return loss_at(p, 0, 0, 0);
}

// The gradient by the noise, with frozen weights, along a random direction. The backend computes in
// the host's memory, so the noise is changed in place.
static void check_noise(struct probe *p) {
    const int64_t n = p->r.b * p->r.noise;
    real *at = numbers(n, 0), *dir = numbers(n, 2), *grad = numbers(n, 0);
    real *noise = (real *)p->r.in.x;
    memcpy(at, noise, (size_t)n * sizeof *at);
    rig_weights(&p->r, p->w);
    rig_forward(&p->r, true, p->x);
    rig_backward_input(&p->r, p->dx, grad);
    memcpy(p->moved, p->w, (size_t)p->r.params->total * sizeof *p->w);
    const double h = STEP, length = rms(dir, n) * sqrt((double)n);
    double want = 0;
    for (int64_t i = 0; i < n; i++) {
        dir[i] /= length;
        want += (double)grad[i] * dir[i];
    }
    const double near = loss_of_noise(p, noise, at, dir, h) - loss_of_noise(p, noise, at, dir, -h);
    const double far =
        loss_of_noise(p, noise, at, dir, 2 * h) - loss_of_noise(p, noise, at, dir, -2 * h);
    const double got = (8 * near - far) / (12 * h);
    memcpy(noise, at, (size_t)n * sizeof *at);
    if (!(fabs(got - want) <= TOL * fmax(fabs(want), rms(grad, n))))
        fail_msg("noise: backward %.12g, finite differences %.12g", want, got);
    free(at);
    free(dir);
    free(grad);
}

static void check_config(const struct dr_model_config *m, bool every_element) {
    struct probe p;
    char what[160];
    probe_open(&p, m);
    for (int i = 0; i < p.r.params->n; i++) {
        const struct dr_param *q = &p.r.params->p[i];
        double size = rms(p.g + q->offset, q->count);
        for (int64_t j = 0; every_element && j < q->count; j++) {
            snprintf(what, sizeof what, "%s[%lld]", q->name, (long long)j);
            p.dir[q->offset + j] = 1;
            check_direction(&p, what, q->offset + j, 1, size);
        }
        unit_direction(&p, (uint64_t)i, q->offset, q->count);
        check_direction(&p, q->name, q->offset, q->count, size);
    }
    int64_t total = p.r.params->total;
    unit_direction(&p, (uint64_t)p.r.params->n, 0, total);
    check_direction(&p, "all parameters", 0, total, rms(p.g, total));
    check_noise(&p);
    probe_close(&p);
}

static struct dr_model_config smallest(enum dr_arch arch) {
    struct dr_model_config m = rig_config();
    m.arch = arch;
    m.dim = 4;
    m.heads = arch == DR_ARCH_LIGHTNINGDIT ? 1 : 2;
    m.depth = 1;
    m.size = 4;
    m.patch = 2;
    m.registers = m.style_tokens = m.codebook = 2;
    m.classes = 1;
    return m;
}

static void every_element_driftdit(void **state) {
    (void)state;
    struct dr_model_config m = smallest(DR_ARCH_DRIFTDIT);
    check_config(&m, true);
}

static void every_element_options(void **state) {
    (void)state;
    struct dr_model_config m = smallest(DR_ARCH_DRIFTDIT);
    m.noise = DR_NOISE_LATENT;
    m.head = DR_HEAD_CONV;
    m.mlp = DR_MLP_GELU;
    m.channels = 2;
    m.registers = 0;
    m.pos_embed = true;
    m.rope = false;
    check_config(&m, true);
}

static void every_element_lightningdit(void **state) {
    (void)state;
    struct dr_model_config m = smallest(DR_ARCH_LIGHTNINGDIT);
    check_config(&m, true);
}

static void every_element_mlp(void **state) {
    (void)state;
    struct dr_model_config m = smallest(DR_ARCH_MLP);
    m.kind = DR_KIND_POINTS;
    m.depth = 3;
    check_config(&m, true);
}

// Every combination of the two-valued options, with odd sizes.
static void combinations(void **state) {
    enum dr_arch arch = *(const enum dr_arch *)*state;
    for (unsigned bits = 0; bits < 128; bits++) {
        struct dr_model_config m = rig_config();
        m.arch = arch;
        m.dim = bits & 1 ? 12 : 8;
        m.size = 6;
        m.patch = bits & 1 ? 2 : 3;
        m.channels = bits & 1 ? 3 : 1;
        m.depth = bits & 2 ? 2 : 1;
        m.rope = bits & 2;
        m.qk_norm = bits & 4;
        m.mlp = bits & 8 ? DR_MLP_GELU : DR_MLP_SWIGLU;
        m.mlp_ratio = bits & 4 ? 1.5 : 3;
        m.noise = bits & 16 ? DR_NOISE_LATENT : DR_NOISE_IMAGE;
        m.head = bits & 32 ? DR_HEAD_CONV : DR_HEAD_LINEAR;
        m.registers = bits & 64 ? 0 : 3;
        m.pos_embed = !(bits & 64);
        m.style_tokens = bits & 32 ? 0 : 3;
        m.null_class = bits & 8;
        // A third of the combinations covers every pair of options.
        if (bits % 3 == 0)
            check_config(&m, false);
    }
}

static void no_blocks(void **state) {
    (void)state;
    struct dr_model_config m = rig_config();
    m.depth = 0;
    check_config(&m, false);
}

int main(void) {
    static const enum dr_arch drift = DR_ARCH_DRIFTDIT, light = DR_ARCH_LIGHTNINGDIT;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_element_driftdit),
        cmocka_unit_test(every_element_options),
        cmocka_unit_test(every_element_lightningdit),
        cmocka_unit_test(every_element_mlp),
        {.name = "combinations driftdit",
         .test_func = combinations,
         .initial_state = (void *)&drift},
        {.name = "combinations lightningdit",
         .test_func = combinations,
         .initial_state = (void *)&light},
        cmocka_unit_test(no_blocks),
    };
    print_message("seed %d\n", SEED);
    return cmocka_run_group_tests_name("gradients of the generators", tests, NULL, NULL);
}
