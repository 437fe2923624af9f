// Times the CPU ops of a training step in chunks of 16 samples and projects their sum over a step,
// for DriftDiT-Tiny (320 samples, SwiGLU, RoPE) and for the mnist-pixels recipe (160 samples,
// GELU). A tool for whoever tunes an op, not a test: ops_bench [threads [images]]. With `images`:
// the ops of convolutional networks instead (ops_images.c).
#include "engine/cpu/backend.h"

#include "tests/bench/ops_images.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { B = 16 };
static const struct shape {
    const char *name;
    int64_t samples, t, d, h, f, blocks; // f: hidden width of the MLP
    bool swiglu;
} shapes[] = {
    {"Tiny", 320, 72, 256, 4, 1024, 6, true},
    {"mnist-pixels", 160, 16, 96, 3, 384, 4, false},
};

// Activations of several chunks, used in turn, so that operands come from memory as in a step.
enum { TURNS = 4 };

struct data {
    struct shape s;
    int64_t tokens;
    struct dr_backend *be;
    enum dr_dtype act;
    real *x[TURNS], *dx[TURNS], *mod, *dmod, *weight, *dweight, *rstd, *cos, *sin;
    void *h[TURNS], *dh[TURNS], *y[TURNS], *dy[TURNS], *qkv[TURNS], *dqkv[TURNS];
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *fresh(struct data *d, enum dr_dtype type, int64_t n) {
    void *p = NULL;
    struct dr_err err = {0};
    if (d->be->mem_alloc(d->be, (size_t)n * dr_sizeof(type), &p, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
    for (int64_t i = 0; i < n; i++) {
        real v = (real)(i * 2654435761u % 2001) / 1000 - 1;
        if (type == DR_F32)
            ((real *)p)[i] = v;
        else
            DR_OP(d->be, cast, .dst = (dr_bf16 *)p + i, .src = &v, .dt = DR_BF16, .n = 1);
    }
    return p;
}

static void setup(struct data *d) {
    const int64_t TOKENS = d->tokens, D = d->s.d, F = d->s.f, T = d->s.t;
    for (int i = 0; i < TURNS; i++) {
        d->x[i] = fresh(d, DR_F32, TOKENS * D);
        d->dx[i] = fresh(d, DR_F32, TOKENS * D);
        d->y[i] = fresh(d, d->act, TOKENS * F);
        d->dy[i] = fresh(d, d->act, TOKENS * F);
        d->h[i] = fresh(d, d->act, TOKENS * 2 * F);
        d->dh[i] = fresh(d, d->act, TOKENS * 2 * F);
        d->qkv[i] = fresh(d, d->act, TOKENS * 3 * D);
        d->dqkv[i] = fresh(d, d->act, TOKENS * 3 * D);
    }
    d->mod = fresh(d, DR_F32, B * 6 * D);
    d->dmod = fresh(d, DR_F32, B * 6 * D);
    d->weight = fresh(d, DR_F32, D);
    d->dweight = fresh(d, DR_F32, D);
    d->rstd = fresh(d, DR_F32, TOKENS);
    d->cos = fresh(d, DR_F32, T * D / d->s.h / 2);
    d->sin = fresh(d, DR_F32, T * D / d->s.h / 2);
}

static void run_swiglu_fwd(struct data *d, int i) {
    DR_OP(d->be, swiglu_fwd, .y = d->y[i], .h = d->h[i], .act = d->act, .m = d->tokens,
          .n = d->s.f);
}
static void run_swiglu_bwd(struct data *d, int i) {
    DR_OP(d->be, swiglu_bwd, .dh = d->dh[i], .y = d->y[i], .h = d->h[i], .dy = d->dy[i],
          .act = d->act, .m = d->tokens, .n = d->s.f);
}
static void run_gelu_fwd(struct data *d, int i) {
    DR_OP(d->be, gelu_fwd, .y = d->y[i], .x = d->h[i], .t = d->act, .n = d->tokens * d->s.f);
}
static void run_gelu_bwd(struct data *d, int i) {
    DR_OP(d->be, gelu_bwd, .dx = d->dh[i], .x = d->h[i], .dy = d->dy[i], .t = d->act,
          .n = d->tokens * d->s.f);
}
static void run_norm_fwd(struct data *d, int i) {
    DR_OP(d->be, rmsnorm_mod_fwd, .y = d->y[i], .yt = d->act, .rstd = d->rstd, .x = d->x[i],
          .weight = d->weight, .shift = d->mod, .scale = d->mod + d->s.d, .mod_stride = 6 * d->s.d,
          .b = B, .t = d->s.t, .d = d->s.d, .eps = (real)1e-6);
}
static void run_norm_bwd(struct data *d, int i) {
    DR_OP(d->be, rmsnorm_mod_bwd, .dx = d->dx[i], .acc_dx = true, .dweight = d->dweight,
          .dshift = d->dmod, .dscale = d->dmod + d->s.d, .dmod_stride = 6 * d->s.d, .dy = d->dy[i],
          .dyt = d->act, .x = d->x[i], .rstd = d->rstd, .weight = d->weight,
          .scale = d->mod + d->s.d, .mod_stride = 6 * d->s.d, .b = B, .t = d->s.t, .d = d->s.d);
}
static void run_gate_fwd(struct data *d, int i) {
    DR_OP(d->be, gate_fwd, .out = d->x[i], .x = d->x[i], .gate = d->mod, .y = d->y[i],
          .act = d->act, .mod_stride = 6 * d->s.d, .b = B, .t = d->s.t, .d = d->s.d);
}
static void run_gate_bwd(struct data *d, int i) {
    DR_OP(d->be, gate_bwd, .dy = d->dy[i], .dgate = d->dmod, .dmod_stride = 6 * d->s.d,
          .dout = d->dx[i], .gate = d->mod, .y = d->y[i], .act = d->act, .mod_stride = 6 * d->s.d,
          .b = B, .t = d->s.t, .d = d->s.d);
}
static void run_attn_fwd(struct data *d, int i) {
    DR_OP(d->be, attn_fwd, .out = d->y[i], .qkv = d->qkv[i], .act = d->act, .q_norm = d->weight,
          .k_norm = d->weight, .rope_cos = d->cos, .rope_sin = d->sin, .b = B, .t = d->s.t,
          .h = d->s.h, .hd = d->s.d / d->s.h, .scale = (real)0.125, .eps = (real)1e-6);
}
static void run_attn_bwd(struct data *d, int i) {
    DR_OP(d->be, attn_bwd, .dqkv = d->dqkv[i], .dq_norm = d->dweight, .dk_norm = d->dweight,
          .dout = d->dy[i], .qkv = d->qkv[i], .act = d->act, .q_norm = d->weight,
          .k_norm = d->weight, .rope_cos = d->cos, .rope_sin = d->sin, .b = B, .t = d->s.t,
          .h = d->s.h, .hd = d->s.d / d->s.h, .scale = (real)0.125, .eps = (real)1e-6);
}

struct line {
    const char *name;
    void (*run)(struct data *, int);
    int per_block; // calls per block and chunk of a step
    int mlp;       // 1: only with SwiGLU, 2: only with GELU
    double reals, acts,
        wide;     // moved per token at least: reals and activations of d, activations of f
    double flops; // times tokens * t * d
};

static const struct line lines[] = {
    {"rmsnorm_mod_fwd", run_norm_fwd, 2, 0, 1, 1, 0, 0},
    {"rmsnorm_mod_bwd", run_norm_bwd, 2, 0, 3, 1, 0, 0},
    {"attn_fwd", run_attn_fwd, 1, 0, 0, 4, 0, 4},
    {"attn_bwd", run_attn_bwd, 1, 0, 0, 7, 0, 10},
    {"gate_fwd", run_gate_fwd, 2, 0, 2, 1, 0, 0},
    {"gate_bwd", run_gate_bwd, 2, 0, 1, 2, 0, 0},
    {"swiglu_fwd", run_swiglu_fwd, 1, 1, 0, 0, 3, 0},
    {"swiglu_bwd", run_swiglu_bwd, 1, 1, 0, 0, 6, 0},
    {"gelu_fwd", run_gelu_fwd, 1, 2, 0, 0, 2, 0},
    {"gelu_bwd", run_gelu_bwd, 1, 2, 0, 0, 3, 0},
};

// The fastest call after a warm-up: what the op takes when nobody else wants the cores.
static double time_line(struct data *d, const struct line *l) {
    double best = 1e9;
    for (int i = 0; i < 40; i++) {
        double t0 = now();
        l->run(d, i % TURNS);
        double t = now() - t0;
        if (i >= TURNS && t < best)
            best = t;
    }
    return best;
}

static void bench(struct data *d) {
    double sum = 0;
    setup(d);
    printf("%-10s %-5s %9s %8s %8s %9s\n", d->s.name, d->act ? "bf16" : "fp32", "us/call", "GB/s",
           "GFLOP/s", "s/step");
    for (size_t i = 0; i < DR_COUNT(lines); i++) {
        const struct line *l = &lines[i];
        if (l->mlp && l->mlp != (d->s.swiglu ? 1 : 2))
            continue;
        const double t = time_line(d, l), tokens = (double)d->tokens, width = (double)d->s.d;
        const double step = t * l->per_block * (double)(d->s.blocks * d->s.samples / B);
        const double acts = l->acts * width + l->wide * (double)d->s.f;
        const double bytes =
            tokens * (l->reals * width * sizeof(real) + acts * (double)dr_sizeof(d->act));
        printf("%-16s %9.0f %8.1f %8.1f %9.4f\n", l->name, t * 1e6, bytes / t * 1e-9,
               l->flops * tokens * (double)d->s.t * width / t * 1e-9, step);
        sum += step;
    }
    printf("%-16s %37.4f\n", "sum", sum);
}

int main(int argc, char **argv) {
    struct data d = {0};
    struct dr_err err = {0};
    if (dr_backend_cpu(argc > 1 ? atoi(argv[1]) : 0, &d.be, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    d.be->enter(d.be);
    printf("%s\n", d.be->detail);
    if (argc > 2)
        bench_images(d.be);
    for (size_t i = 0; argc < 3 && i < 2 * DR_COUNT(shapes); i++) {
        d.s = shapes[i / 2];
        d.act = i % 2 ? DR_BF16 : DR_F32;
        d.tokens = B * d.s.t;
        bench(&d);
    }
    dr_backend_free(d.be);
    return 0;
}
