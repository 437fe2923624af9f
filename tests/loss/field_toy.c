// The learned field on two known mixtures: how well its drift, and the kernel field's at its best
// temperature, follow the exact difference of the scores, by the size of the sets. The samples are
// those of a ring of eight Gaussians, smaller and shifted, the reals those of the larger ring.
//
//     field_toy [steps [size ...]]
//
// One line per size: cosines of the drift with the score difference over fresh samples, of the
// learned field with a projection and without, and of the kernel field. Fails where a learned one
// is below what docs/learned-field.md promises (steps of 0 only print). Not a part of the engine's
// tests when it runs long: see meson.build.
#include "tests/loss/learned.h"

#include "engine/core/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ring {
    double radius, x, std;
};
static const struct ring reals = {2, 0, 0.3}, samples = {1.4, 0.3, 0.3};

static void centre(const struct ring *r, int k, double c[2]) {
    c[0] = r->x + r->radius * cos(k * M_PI / 4);
    c[1] = r->radius * sin(k * M_PI / 4);
}

static void draw(const struct ring *r, struct dr_rng *g, int64_t n, real *x) {
    for (int64_t i = 0; i < n; i++) {
        double c[2];
        centre(r, (int)dr_rng_below(g, 8), c);
        for (int d = 0; d < 2; d++)
            x[2 * i + d] = (real)(c[d] + r->std * dr_rng_normal(g));
    }
}

static void score(const struct ring *r, const real *x, double sign, double out[2]) {
    double top = -INFINITY, sum = 0, s[2] = {0}, e[8];
    for (int k = 0; k < 8; k++) {
        double c[2];
        centre(r, k, c);
        e[k] = -(pow(c[0] - (double)x[0], 2) + pow(c[1] - (double)x[1], 2)) / (2 * r->std * r->std);
        top = fmax(top, e[k]);
    }
    for (int k = 0; k < 8; k++) {
        double c[2], w = exp(e[k] - top);
        centre(r, k, c);
        sum += w;
        for (int d = 0; d < 2; d++)
            s[d] += w * (c[d] - (double)x[d]);
    }
    for (int d = 0; d < 2; d++)
        out[d] += sign * s[d] / sum / (r->std * r->std);
}

// Sets of n samples and n reals in B groups; a function of the number.
struct batch {
    real *gen, *pos;
    struct dr_drift_in in;
};
static void fill(struct batch *b, int64_t number) {
    struct dr_rng g;
    dr_rng_init(&g, 77, DR_STREAM_DATA, (uint64_t)number);
    draw(&samples, &g, b->in.B * b->in.N, b->gen);
    draw(&reals, &g, b->in.B * b->in.P, b->pos);
}
static struct batch new_batch(int64_t B, int64_t n) {
    const size_t bytes = (size_t)(B * n * 2) * sizeof(real);
    struct batch b = {.gen = malloc(bytes), .pos = malloc(bytes)};
    b.in = (struct dr_drift_in){
        .gen = b.gen, .pos = b.pos, .B = B, .N = n, .P = n, .S = 2, .weight = 1};
    return b;
}
static void free_batch(struct batch *b) {
    free(b->gen);
    free(b->pos);
}

struct sums {
    double vs, vv, ss;
};
static void compare(struct sums *s, const struct batch *b, const real *v) {
    for (int64_t i = 0; i < b->in.B * b->in.N; i++) {
        double want[2] = {0};
        score(&reals, b->gen + 2 * i, 1, want);
        score(&samples, b->gen + 2 * i, -1, want);
        for (int d = 0; d < 2; d++) {
            s->vs += (double)v[2 * i + d] * want[d];
            s->vv += pow((double)v[2 * i + d], 2);
            s->ss += want[d] * want[d];
        }
    }
}
static double cosine(const struct sums *s) {
    return s->vs / sqrt(s->vv * s->ss);
}

enum { SAMPLES = 512, TESTS = 24 }; // per step; batches that are judged, never trained on

static void update(struct rig *r, struct learned *l, real *m, real *v, int step, int steps) {
    const double lr = 1e-2 * fmin(1, (step + 1) / 50.0) * (1 - 0.95 * step / steps);
    real sumsq,
        hyper[3] = {(real)lr, (real)(1 - pow(0.9, step + 1)), (real)(1 - pow(0.95, step + 1))};
    DR_OP(r->be, sumsq, .out = &sumsq, .x = l->g, .n = l->layout.total);
    DR_OP(r->be, adamw, .w = l->w, .m = m, .v = v, .g = l->g, .sumsq = &sumsq, .hyper = hyper,
          .n = l->layout.total, .beta1 = (real)0.9, .beta2 = (real)0.95, .eps = (real)1e-8,
          .clip = 2);
    memset(l->g, 0, (size_t)l->layout.total * sizeof(real));
}

static double learned_cosine(struct rig *r, int64_t n, bool projection, int steps) {
    struct dr_config defaults;
    struct learned l;
    struct sums s = {0};
    dr_config_defaults(&defaults);
    struct dr_loss_config cfg = defaults.loss;
    cfg.field = DR_FIELD_LEARNED;
    cfg.ldf.projection = projection;
    cfg.ntau = 1;
    cfg.ldf.hidden = cfg.ldf.width = 64;
    learned_open(&l, &cfg, 2, 1);
    real *m = calloc((size_t)l.layout.total, sizeof *m),
         *v = calloc((size_t)l.layout.total, sizeof *v);
    struct batch b = new_batch(SAMPLES / n, n);
    double objective = 0;
    for (int k = 0; k < steps; k++) {
        struct learned_out out;
        fill(&b, k);
        l.key[1] = (uint64_t)k;
        b.in.key = l.key;
        learned_run(r, &l, &b.in, &out);
        objective += 0.02 * ((double)out.own[DR_FIELD_OBJECTIVE] - objective);
        learned_drop(&out);
        update(r, &l, m, v, k, steps);
    }
    b.in.key = NULL;
    for (int k = 0; k < TESTS; k++) {
        struct learned_out out;
        fill(&b, -1 - k);
        learned_run(r, &l, &b.in, &out);
        compare(&s, &b, out.v);
        learned_drop(&out);
    }
    fprintf(stderr, "size %d projection %d: objective %.3f\n", (int)n, projection, objective);
    free(m);
    free(v);
    free_batch(&b);
    learned_close(&l);
    return cosine(&s);
}

static double kernel_cosine(struct rig *r, int64_t n) {
    static const double tau[] = {0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1};
    double best = -1;
    for (size_t t = 0; t < DR_COUNT(tau); t++) {
        const struct dr_loss_config cfg = {.tau = {tau[t]}, .ntau = 1};
        struct batch b = new_batch(SAMPLES / n, n);
        struct sums s = {0};
        for (int k = 0; k < TESTS; k++) {
            struct eng_out out;
            fill(&b, -1 - k);
            eng_drift(r, &cfg, &b.in, &out);
            compare(&s, &b, out.field);
            free(out.dgen);
        }
        best = fmax(best, cosine(&s));
        free_batch(&b);
    }
    return best;
}

static double promised(int64_t n) {
    static const double with[] = {0.44, 0.67, 0.80, 0.92};
    static const int64_t size[] = {4, 8, 16, 64};
    for (int i = 0; i < 4; i++)
        if (size[i] == n)
            return with[i];
    return -1;
}

int main(int argc, char **argv) {
    static const char *const usual[] = {"4", "8", "16", "64"};
    const int steps = argc > 1 ? atoi(argv[1]) : 2000;
    const char *const *size = argc > 2 ? (const char *const *)argv + 2 : usual;
    const int sizes = argc > 2 ? argc - 2 : 4;
    bool good = true;
    struct rig r;
    rig_open(&r, 1);
    printf("size,projection,no projection,kernel\n");
    for (int i = 0; i < sizes; i++) {
        const int64_t n = atoi(size[i]);
        if (n < 1 || n > SAMPLES) {
            fprintf(stderr, "field_toy: \"%s\": expected a set size from 1 to %d\n", size[i],
                    SAMPLES);
            return 2;
        }
        const double with = learned_cosine(&r, n, true, steps);
        const double without = learned_cosine(&r, n, false, steps), kernel = kernel_cosine(&r, n);
        printf("%d,%.3f,%.3f,%.3f\n", (int)n, with, without, kernel);
        fflush(stdout);
        good &= with >= promised(n) && with > kernel;
    }
    rig_close(&r);
    return good || !steps ? 0 : 1;
}
