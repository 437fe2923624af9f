// Time of the drifting loss by shape: the whole loss and its parts, best of a few rounds. Not a
// test.
//     loss_bench [threads]
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine/core/arena.h"
#include "engine/core/rng.h"
#include "engine/cpu/backend.h"
#include "engine/loss/drift.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static real *normals(uint64_t seed, int64_t n) {
    real *x = malloc((size_t)n * sizeof *x);
    dr_normals(seed, DR_STREAM_DATA, 0, x, n);
    return x;
}

#define BEST(ms, rounds, call)                                                                     \
    do {                                                                                           \
        ms = 1e9;                                                                                  \
        for (int r_ = 0; r_ < (rounds); r_++) {                                                    \
            double t_ = now();                                                                     \
            call;                                                                                  \
            t_ = 1e3 * (now() - t_);                                                               \
            ms = t_ < ms ? t_ : ms;                                                                \
        }                                                                                          \
    } while (0)

// What a bench of one shape works on.
struct shape {
    struct dr_drift_in in;
    struct dr_loss_config cfg;
    real *gen, *unc, *pos, *w, *dgen;
    void *block;
    struct dr_arena tmp;
};

static struct shape make(struct dr_drift_in in, int ntau) {
    struct shape t = {.in = in, .cfg = {.tau = {0.05, 0.2, 0.02}, .ntau = ntau}};
    const size_t size = (size_t)512 << 20;
    t.gen = normals(1, in.B * in.N * in.S), t.unc = normals(2, in.U * in.S + 1);
    t.pos = normals(3, in.B * in.P * in.S), t.w = normals(4, in.B);
    t.dgen = normals(5, in.B * in.N * in.S);
    for (int64_t b = 0; b < in.B; b++)
        t.w[b] = 1;
    t.in.gen = t.gen, t.in.unc = t.unc, t.in.pos = t.pos, t.in.unc_weight = t.w;
    t.in.unc_shared = true, t.in.weight = 1;
    t.block = aligned_alloc(DR_ALIGN, size);
    dr_arena_init(&t.tmp, t.block, size);
    return t;
}

static void drop(struct shape *t) {
    free(t->gen), free(t->unc), free(t->pos), free(t->w), free(t->dgen), free(t->block);
}

#define ROUNDS 20

static void bench(struct dr_backend *be, const char *name, struct dr_drift_in in, int ntau) {
    struct shape t = make(in, ntau);
    const int64_t B = in.B, N = in.N, S = in.S, M = N + in.U + in.P;
    real loss = 0, v2[DR_MAX_TAU], stats[3];
    struct dr_ctx cx = {.be = be, .tmp = &t.tmp};
    struct dr_drift_out out = {.dgen = t.dgen, .loss = &loss, .v2 = v2, .stats = stats};
    double all, dist, scale, coef, combine, add, grad;
    BEST(all, ROUNDS, dr_drift_loss(&cx, &t.cfg, &t.in, &out));
    real *y = normals(6, B * M * S), *d = normals(7, B * N * M), *c = normals(8, B * N * M);
    real *total = normals(9, B * N * S);
    BEST(dist, ROUNDS,
         DR_OP(be, pair_dist, .d = d, .x = t.gen, .y = y, .b = B, .n = N, .m = M, .s = S));
    double sums[4], sumsq;
    BEST(scale, ROUNDS, DR_OP(be, drift_sums, .sums = sums, .d = d, .b = B, .n = N, .m = M));
    BEST(coef, ROUNDS,
         DR_OP(be, drift_coef, .coef = c, .d = d, .scale = stats, .b = B, .n = N, .n_neg = N + in.U,
               .p = in.P, .tau = (real)0.05, .diag = 100));
    BEST(combine, ROUNDS,
         DR_OP(be, drift_combine, .v = t.dgen, .sumsq = &sumsq, .coef = c, .x = t.gen, .y = y,
               .scale = stats, .b = B, .n = N, .m = M, .s = S));
    BEST(add, ROUNDS,
         DR_OP(be, drift_accumulate, .total = total, .v = t.dgen, .v2 = v2, .b = B, .n = N, .s = S,
               .acc = true));
    BEST(grad, ROUNDS,
         DR_OP(be, drift_grad, .dx = t.dgen, .loss = &loss, .total = total, .scale = stats, .b = B,
               .n = N, .s = S, .groups = B, .weight = 1));
    double flop = 2e-6 * (double)(B * N * M * S);
    printf("%-22s %8.3f ms   pair_dist %.3f (%.0f GFLOP/s) scale %.3f grad %.3f, a temperature: "
           "coef %.3f combine %.3f (%.0f GFLOP/s) accumulate %.3f\n",
           name, all, dist, 1.5 * flop / dist, scale, grad, coef, combine, flop / combine, add);
    fflush(stdout);
    drop(&t);
    free(y), free(d), free(c), free(total);
}

int main(int argc, char **argv) {
    struct dr_backend *be;
    struct dr_err err = {0};
    if (dr_backend_cpu(argc > 1 ? atoi(argv[1]) : 0, &be, &err)) {
        fprintf(stderr, "loss_bench: %s\n", err.msg);
        return 1;
    }
    be->enter(be);
    printf("%s\n", be->detail);
    bench(be, "mnist-pixels image",
          (struct dr_drift_in){.B = 10, .N = 16, .U = 16, .P = 64, .S = 784}, 1);
    bench(be, "mnist-pixels quadrants",
          (struct dr_drift_in){.B = 40, .N = 16, .U = 16, .P = 64, .S = 196}, 1);
    bench(be, "Tiny", (struct dr_drift_in){.B = 10, .N = 32, .U = 0, .P = 32, .S = 1024}, 3);
    // feature drifting: classes times locations, widths of an encoder's maps
    bench(be, "10 x 1024", (struct dr_drift_in){.B = 10, .N = 16, .U = 16, .P = 48, .S = 1024}, 1);
    bench(be, "10 x 256", (struct dr_drift_in){.B = 10, .N = 16, .U = 16, .P = 48, .S = 256}, 1);
    bench(be, "40 x 512", (struct dr_drift_in){.B = 40, .N = 16, .U = 16, .P = 48, .S = 512}, 1);
    bench(be, "160 x 128", (struct dr_drift_in){.B = 160, .N = 16, .U = 16, .P = 48, .S = 128}, 1);
    bench(be, "640 x 64", (struct dr_drift_in){.B = 640, .N = 16, .U = 16, .P = 48, .S = 64}, 1);
    bench(be, "640 x 64, three", (struct dr_drift_in){.B = 640, .N = 16, .U = 16, .P = 48, .S = 64},
          3);
    bench(be, "toy", (struct dr_drift_in){.B = 1, .N = 512, .U = 0, .P = 512, .S = 2}, 1);
    dr_backend_free(be);
    return 0;
}
