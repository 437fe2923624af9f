// The image part of ops_bench: convolutions of ResNets against the plain product of the same size,
// and what stands between them.
#include "tests/bench/ops_images.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const struct conv {
    const char *name;
    int64_t b, h, ci, co, k, stride, pad;
} convs[] = {
    // torchvision's ResNet-18 at 64 x 64
    {"stem 3-64 7x7/2 64", 16, 64, 3, 64, 7, 2, 3},
    {"64-64 3x3 16", 16, 16, 64, 64, 3, 1, 1},
    {"64-128 3x3/2 16", 16, 16, 64, 128, 3, 2, 1},
    {"64-128 1x1/2 16", 16, 16, 64, 128, 1, 2, 0},
    {"128-128 3x3 8", 32, 8, 128, 128, 3, 1, 1},
    {"256-256 3x3 4", 64, 4, 256, 256, 3, 1, 1},
    {"512-512 3x3 2", 64, 2, 512, 512, 3, 1, 1},
    // a ResNet for 32 x 32 pictures
    {"3-64 3x3 32", 16, 32, 3, 64, 3, 1, 1},
    {"64-64 3x3 32", 8, 32, 64, 64, 3, 1, 1},
    {"128-128 3x3 16", 16, 16, 128, 128, 3, 1, 1},
    {"256-256 3x3 8", 16, 8, 256, 256, 3, 1, 1},
    {"512-512 3x3 4", 32, 4, 512, 512, 3, 1, 1},
    {"256-128 1x1 8", 32, 8, 256, 128, 1, 1, 0},
};

enum { FORWARD, DATA, WEIGHT, PRODUCT, GRADIENT, KINDS };

struct room {
    struct dr_backend *be;
    enum dr_dtype t;
    void *x, *y, *patches, *weight16;
    real *weight, *dweight;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *fresh(struct dr_backend *be, enum dr_dtype type, int64_t n) {
    void *p = NULL;
    struct dr_err err = {0};
    real *v = malloc((size_t)n * sizeof *v);
    if (!v || be->mem_alloc(be, (size_t)n * dr_sizeof(type), &p, &err)) {
        fprintf(stderr, "%s\n", v ? err.msg : "out of memory");
        exit(1);
    }
    for (int64_t i = 0; i < n; i++)
        v[i] = (real)(i * 2654435761u % 2001) / 1000 - 1;
    DR_OP(be, cast, .dst = p, .src = v, .dt = type, .st = DR_F32, .n = n);
    free(v);
    return p;
}

static void run(const struct room *r, const struct conv *c, int kind) {
    const int64_t ho = (c->h + 2 * c->pad - c->k) / c->stride + 1, m = c->b * ho * ho;
    const int64_t depth = c->k * c->k * c->ci;
    if (kind == FORWARD)
        DR_OP(r->be, conv2d_fwd, .y = r->y, .x = r->x, .t = r->t, .weight = r->weight, .b = c->b,
              .h = c->h, .w = c->h, .ci = c->ci, .co = c->co, .k = c->k, .stride = c->stride,
              .pad = c->pad);
    else if (kind == DATA)
        DR_OP(r->be, conv2d_bwd_data, .dx = r->x, .dy = r->y, .t = r->t, .weight = r->weight,
              .b = c->b, .h = c->h, .w = c->h, .ci = c->ci, .co = c->co, .k = c->k,
              .stride = c->stride, .pad = c->pad);
    else if (kind == WEIGHT)
        DR_OP(r->be, conv2d_bwd_weight, .dweight = r->dweight, .x = r->x, .dy = r->y, .t = r->t,
              .b = c->b, .h = c->h, .w = c->h, .ci = c->ci, .co = c->co, .k = c->k,
              .stride = c->stride, .pad = c->pad);
    else if (kind == PRODUCT)
        DR_OP(r->be, gemm, .m = m, .n = c->co, .k = depth, .a = r->patches, .b = r->weight16,
              .c = r->y, .lda = depth, .ldb = depth, .ldc = c->co, .tb = true, .abt = r->t,
              .ct = r->t, .rows = ho * ho);
    else
        DR_OP(r->be, gemm, .m = c->co, .n = depth, .k = m, .a = r->y, .b = r->patches,
              .c = r->dweight, .lda = c->co, .ldb = depth, .ldc = depth, .ta = true, .acc = true,
              .abt = r->t, .ct = DR_F32, .rows = ho * ho);
}

// The fastest call after a warm-up: what it takes when nobody else wants the cores.
static double best(const struct room *r, const struct conv *c, int kind) {
    double least = 1e9;
    for (int i = 0; i < 12; i++) {
        const double t0 = now();
        run(r, c, kind);
        const double t = now() - t0;
        if (i > 1 && t < least)
            least = t;
    }
    return least;
}

static void bench_conv(struct dr_backend *be, enum dr_dtype t, const struct conv *c) {
    const int64_t ho = (c->h + 2 * c->pad - c->k) / c->stride + 1, m = c->b * ho * ho;
    const int64_t depth = c->k * c->k * c->ci;
    struct room r = {.be = be, .t = t};
    r.x = fresh(be, t, c->b * c->h * c->h * c->ci);
    r.y = fresh(be, t, m * c->co);
    r.patches = fresh(be, t, m * depth);
    r.weight16 = fresh(be, t, c->co * depth);
    r.weight = fresh(be, DR_F32, c->co * depth);
    r.dweight = fresh(be, DR_F32, c->co * depth);
    const double flops = 2.0 * (double)(m * depth * c->co) * 1e-9;
    double rate[KINDS];
    for (int k = KINDS - 1; k >= 0; k--)
        rate[k] = flops / best(&r, c, k);
    printf("%-20s %-5s %8.0f %8.0f %8.0f %8.0f %8.0f   %4.0f %4.0f %4.0f\n", c->name,
           t ? "bf16" : "fp32", rate[PRODUCT], rate[FORWARD], rate[DATA], rate[GRADIENT],
           rate[WEIGHT], 100 * rate[FORWARD] / rate[PRODUCT], 100 * rate[DATA] / rate[PRODUCT],
           100 * rate[WEIGHT] / rate[GRADIENT]);
    void *all[] = {r.x, r.y, r.patches, r.weight16, r.weight, r.dweight};
    for (size_t i = 0; i < DR_COUNT(all); i++)
        be->mem_free(be, all[i]);
}

// ---- between the convolutions: 16 samples of 32 x 32 x 64
// -----------------------------------------

enum { B = 16, S = 32, C = 64, G = 32 };
struct maps {
    struct dr_backend *be;
    enum dr_dtype t;
    void *x, *y, *r, *d;
    real *stats, *per;
    uint8_t *taken;
};

static void group_fwd(const struct maps *m) {
    DR_OP(m->be, groupnorm_fwd, .y = m->y, .mean = m->stats, .rstd = m->stats + B * G, .x = m->x,
          .r = m->r, .t = m->t, .weight = m->per, .bias = m->per + C, .b = B, .n = S * S, .c = C,
          .groups = G, .fn = DR_FN_RELU, .eps = (real)1e-5);
}
static void group_bwd(const struct maps *m) {
    DR_OP(m->be, groupnorm_bwd, .dx = m->d, .dr = m->y, .dweight = m->per + 2 * C,
          .dbias = m->per + 3 * C, .dy = m->y, .x = m->x, .r = m->r, .t = m->t, .mean = m->stats,
          .rstd = m->stats + B * G, .weight = m->per, .bias = m->per + C, .b = B, .n = S * S,
          .c = C, .groups = G, .fn = DR_FN_RELU);
}
static void affine_fwd(const struct maps *m) {
    DR_OP(m->be, channel_affine_fwd, .y = m->y, .x = m->x, .r = m->r, .t = m->t, .xt = m->t,
          .scale = m->per, .shift = m->per + C, .m = B * S * S, .c = C, .fn = DR_FN_RELU);
}
static void affine_bwd(const struct maps *m) {
    DR_OP(m->be, channel_affine_bwd, .dx = m->d, .dr = m->y, .dy = m->y, .x = m->x, .r = m->r,
          .t = m->t, .xt = m->t, .scale = m->per, .shift = m->per + C, .m = B * S * S, .c = C,
          .fn = DR_FN_RELU);
}
static void pool_fwd(const struct maps *m) {
    DR_OP(m->be, pool_fwd, .y = m->y, .taken = m->taken, .x = m->x, .t = m->t, .b = B, .h = S,
          .w = S, .c = C, .k = 3, .stride = 2, .pad = 1, .max = true);
}
static void pool_bwd(const struct maps *m) {
    DR_OP(m->be, pool_bwd, .dx = m->d, .taken = m->taken, .dy = m->y, .t = m->t, .b = B, .h = S,
          .w = S, .c = C, .k = 3, .stride = 2, .pad = 1, .max = true);
}
static void resize_fwd(const struct maps *m) {
    DR_OP(m->be, resize_fwd, .y = m->y, .x = m->x, .t = m->t, .b = B, .h = S / 2, .w = S / 2,
          .c = C, .ho = S, .wo = S);
}
static void resize_bwd(const struct maps *m) {
    DR_OP(m->be, resize_bwd, .dx = m->d, .dy = m->y, .t = m->t, .b = B, .h = S / 2, .w = S / 2,
          .c = C, .ho = S, .wo = S);
}

static const struct line {
    const char *name;
    void (*run)(const struct maps *);
    double maps; // of B S S C values, moved at least
} lines[] = {
    {"groupnorm_fwd", group_fwd, 3},       {"groupnorm_bwd", group_bwd, 5},
    {"channel_affine_fwd", affine_fwd, 3}, {"channel_affine_bwd", affine_bwd, 5},
    {"pool_fwd 3x3/2", pool_fwd, 1.25},    {"pool_bwd 3x3/2", pool_bwd, 1.25},
    {"resize_fwd x2", resize_fwd, 1.25},   {"resize_bwd x2", resize_bwd, 1.25},
};

static void bench_maps(struct dr_backend *be, enum dr_dtype t) {
    const int64_t n = B * S * S * C;
    struct maps m = {be,
                     t,
                     fresh(be, t, n),
                     fresh(be, t, n),
                     fresh(be, t, n),
                     fresh(be, t, n),
                     fresh(be, DR_F32, 2 * B * G),
                     fresh(be, DR_F32, 4 * C),
                     fresh(be, DR_F32, n)};
    for (size_t i = 0; i < DR_COUNT(lines); i++) {
        double least = 1e9;
        for (int k = 0; k < 20; k++) {
            const double t0 = now();
            lines[i].run(&m);
            least = DR_MIN(least, now() - t0);
        }
        const double bytes = lines[i].maps * (double)n * (double)dr_sizeof(t);
        printf("%-20s %-5s %8.0f us %8.1f GB/s\n", lines[i].name, t ? "bf16" : "fp32", least * 1e6,
               bytes / least * 1e-9);
    }
    void *all[] = {m.x, m.y, m.r, m.d, m.stats, m.per, m.taken};
    for (size_t i = 0; i < DR_COUNT(all); i++)
        be->mem_free(be, all[i]);
}

void bench_images(struct dr_backend *be) {
    printf("%-26s %8s %8s %8s %8s %8s   percent of the product\n", "GFLOP/s", "product", "fwd",
           "data", "product'", "weight");
    for (size_t i = 0; i < 2 * DR_COUNT(convs); i++)
        bench_conv(be, i / DR_COUNT(convs), &convs[i % DR_COUNT(convs)]);
    for (int t = DR_F32; t <= DR_BF16; t++)
        bench_maps(be, t);
}
