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

static void bench(struct dr_backend *be, const char *name, struct dr_drift_in in, int ntau) {
    int64_t B = in.B, N = in.N, S = in.S, M = N + in.U + in.P;
    real *gen = normals(1, B * N * S), *unc = normals(2, in.U * S + 1),
         *pos = normals(3, B * in.P * S);
    real *w = normals(4, B), *dgen = normals(5, B * N * S), loss = 0, v2[DR_MAX_TAU], stats[3];
    in.gen = gen, in.unc = unc, in.pos = pos, in.unc_weight = w;
    in.unc_shared = true, in.weight = 1;
    for (int64_t b = 0; b < B; b++)
        w[b] = 1;
    struct dr_loss_config cfg = {.tau = {0.05, 0.2, 0.02}, .ntau = ntau};
    size_t size = (size_t)256 << 20;
    void *block = aligned_alloc(DR_ALIGN, size);
    struct dr_arena tmp;
    dr_arena_init(&tmp, block, size);
    struct dr_ctx cx = {.be = be, .tmp = &tmp};
    struct dr_drift_out out = {.dgen = dgen, .loss = &loss, .v2 = v2, .stats = stats};

    double all, dist, scale, coef, combine;
    BEST(all, 20, dr_drift_loss(&cx, &cfg, &in, &out));
    real *y = normals(6, B * M * S), *d = normals(7, B * N * M), *c = normals(8, B * N * M);
    BEST(dist, 20, DR_OP(be, pair_dist, .d = d, .x = gen, .y = y, .b = B, .n = N, .m = M, .s = S));
    double sums[4], sumsq;
    BEST(scale, 20, DR_OP(be, drift_sums, .sums = sums, .d = d, .b = B, .n = N, .m = M));
    BEST(coef, 20,
         DR_OP(be, drift_coef, .coef = c, .d = d, .scale = stats, .b = B, .n = N, .n_neg = N + in.U,
               .p = in.P, .tau = (real)0.05, .diag = 100));
    BEST(combine, 20,
         DR_OP(be, drift_combine, .v = dgen, .sumsq = &sumsq, .coef = c, .x = gen, .y = y,
               .scale = stats, .b = B, .n = N, .m = M, .s = S));
    double flop = 2e-6 * (double)(B * N * M * S);
    printf("%-22s %8.3f ms   pair_dist %.3f (%.0f GFLOP/s) scale %.3f, a temperature: coef %.3f "
           "combine %.3f (%.0f GFLOP/s)\n",
           name, all, dist, 1.5 * flop / dist, scale, coef, combine, flop / combine);
    free(gen), free(unc), free(pos), free(w), free(dgen), free(block), free(y), free(d), free(c);
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
    bench(be, "mnist-cpu image", (struct dr_drift_in){.B = 10, .N = 16, .U = 16, .P = 64, .S = 784},
          1);
    bench(be, "mnist-cpu quadrants",
          (struct dr_drift_in){.B = 40, .N = 16, .U = 16, .P = 64, .S = 196}, 1);
    bench(be, "Tiny", (struct dr_drift_in){.B = 10, .N = 32, .U = 0, .P = 32, .S = 1024}, 3);
    bench(be, "toy", (struct dr_drift_in){.B = 1, .N = 512, .U = 0, .P = 512, .S = 2}, 1);
    dr_backend_free(be);
    return 0;
}
