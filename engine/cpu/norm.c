// RMSNorm with adaLN modulation, gated residual, and L2 normalisation, forward and backward. Called
// through the op table by nn/ and loss/. Formulas are at the argument structs in ops.h.
//
// Order: a row's sums keep VL partial sums; per-sample gradients add the tokens in order; the
// weight's gradient adds the samples in order. Neither the batch nor the threads enter.
#include "engine/cpu/vec.h"

// Modulation of one sample as one factor and one offset a column: y = x rstd mul + add.
static void modulation(const struct dr_rmsnorm_mod_fwd_args *a, int64_t b, real *mul, real *add) {
    const real *scale = a->scale ? a->scale + b * a->mod_stride : NULL;
    const real *shift = a->shift ? a->shift + b * a->mod_stride : NULL;
    const real gain = a->gain != 0 ? a->gain : 1;
    for (int64_t i = 0; i < a->d; i++) {
        mul[i] = gain * (a->weight ? a->weight[i] : 1) * (scale ? 1 + scale[i] : 1);
        add[i] = shift ? gain * shift[i] : 0;
    }
}

DR_INLINE real sum_squares(const real *x, int64_t d) {
    vreal s[4] = {{0}};
    int64_t i = 0;
    for (; i + 4 * VL <= d; i += 4 * VL)
        for (int j = 0; j < 4; j++) {
            vreal v = vload(x + i + j * VL);
            s[j] = vfma(v, v, s[j]);
        }
    for (; i < d; i += VL) {
        vreal v = vld(x, DR_F32, i, DR_MIN(d - i, VL));
        s[0] = vfma(v, v, s[0]);
    }
    return vsum((s[0] + s[1]) + (s[2] + s[3]));
}

DR_INLINE void norm_row(void *y, enum dr_dtype yt, int64_t at, const real *x, const real *mul,
                        const real *add, int64_t d, real rstd) {
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal h = vld(x, DR_F32, i, n) * rstd;                                                     \
        vst(y, yt, at + (i), n, vfma(h, vld(mul, DR_F32, i, n), vld(add, DR_F32, i, n)));          \
    } while (0)
    V_LOOP(d, STEP);
#undef STEP
}

static void norm_fwd_row(const struct dr_rmsnorm_mod_fwd_args *a, int64_t row, const real *mul) {
    const int64_t b = row / a->t, d = a->d;
    const real *x = a->x + b * (a->x_stride ? a->x_stride : a->t * d) + row % a->t * d;
    const real rstd = 1 / (real)sqrt(sum_squares(x, d) / (real)d + a->eps);
    if (a->rstd)
        a->rstd[row] = rstd;
    mul += b * 2 * d;
    if (a->yt == DR_BF16)
        norm_row(a->y, DR_BF16, row * d, x, mul, mul + d, d, rstd);
    else
        norm_row(a->y, DR_F32, row * d, x, mul, mul + d, d, rstd);
}

void DR_ISA_FN(rmsnorm_mod_fwd)(struct dr_backend *be, const struct dr_rmsnorm_mod_fwd_args *a) {
    real *mul = dr_cpu_scratch(be, DR_WS_OP, (size_t)(a->b * 2 * a->d) * sizeof *mul);
    if (!mul)
        return;
    for (int64_t b = 0; b < a->b; b++)
        modulation(a, b, mul + b * 2 * a->d, mul + b * 2 * a->d + a->d);
    DR_PARALLEL_FOR(be, a->b * a->t * a->d >= DR_PAYS)
    for (int64_t row = 0; row < a->b * a->t; row++)
        norm_fwd_row(a, row, mul);
}

// One row of dx, and its part of the sums over the tokens: sxh += dy xh, sdy += dy.
DR_INLINE void norm_bwd_row(const struct dr_rmsnorm_mod_bwd_args *a, enum dr_dtype dyt, int64_t row,
                            const real *mul, real *sxh, real *sdy) {
    const int64_t d = a->d, at = row * d;
    const int64_t xat = row / a->t * (a->x_stride ? a->x_stride : a->t * d) + row % a->t * d;
    const real *x = a->x + xat, rstd = a->rstd[row];
    real *dx = a->dx + xat;
    vreal dot = {0};
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal dy = vld(a->dy, dyt, at + (i), n), xh = vld(x, DR_F32, i, n) * rstd;                 \
        dot = vfma(dy * vld(mul, DR_F32, i, n), xh, dot);                                          \
        vst(sxh, DR_F32, i, n, vfma(dy, xh, vld(sxh, DR_F32, i, n)));                              \
        vst(sdy, DR_F32, i, n, dy + vld(sdy, DR_F32, i, n));                                       \
    } while (0)
    V_LOOP(d, STEP);
#undef STEP
    const real mean = vsum(dot) / (real)d;
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal g = vld(a->dy, dyt, at + (i), n) * vld(mul, DR_F32, i, n);                           \
        vreal xh = vld(x, DR_F32, i, n) * rstd, r = (g - xh * mean) * rstd;                        \
        vst(dx, DR_F32, i, n, a->acc_dx ? vld(dx, DR_F32, i, n) + r : r);                          \
    } while (0)
    V_LOOP(d, STEP);
#undef STEP
}

// One sample. sums: [3,d] of its own: the factor, sum_t dy xh (left there for dweight), sum_t dy.
static void norm_bwd_sample(const struct dr_rmsnorm_mod_bwd_args *a, int64_t b, real *sums) {
    const int64_t d = a->d;
    const struct dr_rmsnorm_mod_fwd_args fwd = {.weight = a->weight,
                                                .scale = a->scale,
                                                .mod_stride = a->mod_stride,
                                                .d = d,
                                                .gain = a->gain};
    real *mul = sums, *sxh = sums + d, *sdy = sums + 2 * d;
    modulation(&fwd, b, mul, sdy);
    memset(sxh, 0, (size_t)d * sizeof *sxh);
    memset(sdy, 0, (size_t)d * sizeof *sdy);
    for (int64_t row = b * a->t; row < (b + 1) * a->t; row++) {
        if (a->dyt == DR_BF16)
            norm_bwd_row(a, DR_BF16, row, mul, sxh, sdy);
        else
            norm_bwd_row(a, DR_F32, row, mul, sxh, sdy);
    }
    const real gain = a->gain != 0 ? a->gain : 1;
    const real *scale = a->scale ? a->scale + b * a->mod_stride : NULL;
    for (int64_t i = 0; i < d; i++) {
        if (a->dshift)
            a->dshift[b * a->dmod_stride + i] = gain * sdy[i];
        if (a->dscale)
            a->dscale[b * a->dmod_stride + i] = gain * (a->weight ? a->weight[i] : 1) * sxh[i];
        sxh[i] *= gain * (scale ? 1 + scale[i] : 1);
    }
}

void DR_ISA_FN(rmsnorm_mod_bwd)(struct dr_backend *be, const struct dr_rmsnorm_mod_bwd_args *a) {
    const int64_t d = a->d;
    real *sums = dr_cpu_scratch(be, DR_WS_OP, (size_t)(a->b * 3 * d) * sizeof *sums);
    if (!sums)
        return;
    DR_PARALLEL_FOR(be, a->b * a->t * d >= DR_PAYS)
    for (int64_t b = 0; b < a->b; b++)
        norm_bwd_sample(a, b, sums + b * 3 * d);
    if (!a->dweight)
        return;
    for (int64_t b = 0; b < a->b; b++)
        for (int64_t i = 0; i < d; i++)
            a->dweight[i] += sums[b * 3 * d + d + i];
}

// n elements from `at` on; gate: as many, or one for all.
DR_INLINE void gate_fwd(const struct dr_gate_fwd_args *a, enum dr_dtype t, int64_t at, int64_t len,
                        const real *gate, const bool one) {
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal g = one ? vset(gate[0]) : vld(gate, DR_F32, i, n);                                   \
        vreal x = vld(a->x, DR_F32, at + (i), n);                                                  \
        vst(a->out, DR_F32, at + (i), n, vfma(g, vld(a->y, t, at + (i), n), x));                   \
    } while (0)
    V_LOOP(len, STEP);
#undef STEP
}

static void gate_fwd_row(const struct dr_gate_fwd_args *a, int64_t row, int64_t len) {
    const int64_t at = row * len;
    const real *gate = a->gate + at / (a->t * a->d) * a->mod_stride;
    if (a->d == 1)
        gate_fwd(a, a->act, at, len, gate, true);
    else if (a->act == DR_BF16)
        gate_fwd(a, DR_BF16, at, len, gate, false);
    else
        gate_fwd(a, DR_F32, at, len, gate, false);
}

void DR_ISA_FN(gate_fwd)(struct dr_backend *be, const struct dr_gate_fwd_args *a) {
    const int64_t len = a->d == 1 ? a->t : a->d; // a gate for a whole sample makes it one row
    DR_PARALLEL_FOR(be, a->b * a->t * a->d >= DR_PAYS)
    for (int64_t row = 0; row < a->b * a->t * a->d / len; row++)
        gate_fwd_row(a, row, len);
}

DR_INLINE void gate_bwd(const struct dr_gate_bwd_args *a, enum dr_dtype t, int64_t b) {
    const real *gate = a->gate + b * a->mod_stride;
    real *dgate = a->dgate + b * a->dmod_stride;
    memset(dgate, 0, (size_t)a->d * sizeof *dgate);
    for (int64_t row = b * a->t; row < (b + 1) * a->t; row++) {
        const int64_t at = row * a->d;
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal dout = vld(a->dout, DR_F32, at + (i), n), y = vld(a->y, t, at + (i), n);             \
        vst(dgate, DR_F32, i, n, vfma(dout, y, vld(dgate, DR_F32, i, n)));                         \
        vst(a->dy, t, at + (i), n, dout * vld(gate, DR_F32, i, n));                                \
    } while (0)
        V_LOOP(a->d, STEP);
#undef STEP
    }
}

static void gate_bwd_sample(const struct dr_gate_bwd_args *a, int64_t b) {
    if (a->act == DR_BF16)
        gate_bwd(a, DR_BF16, b);
    else
        gate_bwd(a, DR_F32, b);
}

void DR_ISA_FN(gate_bwd)(struct dr_backend *be, const struct dr_gate_bwd_args *a) {
    DR_PARALLEL_FOR(be, a->b * a->t * a->d >= DR_PAYS)
    for (int64_t b = 0; b < a->b; b++)
        gate_bwd_sample(a, b);
}

static void l2_fwd_row(const struct dr_l2norm_fwd_args *a, int64_t row) {
    const int64_t at = row * a->n;
    const real *x = a->x + at;
    const real norm = DR_MAX((real)sqrt(sum_squares(x, a->n)), a->eps), inv = 1 / norm;
    a->norm[row] = norm;
#define STEP(i, n) vst(a->y, DR_F32, at + (i), n, vld(x, DR_F32, i, n) * inv)
    V_LOOP(a->n, STEP);
#undef STEP
}

void DR_ISA_FN(l2norm_fwd)(struct dr_backend *be, const struct dr_l2norm_fwd_args *a) {
    DR_PARALLEL_FOR(be, a->m * a->n >= DR_PAYS)
    for (int64_t row = 0; row < a->m; row++)
        l2_fwd_row(a, row);
}

// A row whose norm was clamped to eps was only divided by a constant: no projection.
static void l2_bwd_row(const struct dr_l2norm_bwd_args *a, int64_t row) {
    const int64_t at = row * a->n;
    const real inv = 1 / a->norm[row];
    vreal dot = {0};
#define STEP(i, n) dot = vfma(vld(a->y, DR_F32, at + (i), n), vld(a->dy, DR_F32, at + (i), n), dot)
    V_LOOP(a->n, STEP);
#undef STEP
    const real along = a->norm[row] > a->eps ? vsum(dot) : 0;
#define STEP(i, n)                                                                                 \
    vst(a->dx, DR_F32, at + (i), n,                                                                \
        (vld(a->dy, DR_F32, at + (i), n) - vld(a->y, DR_F32, at + (i), n) * along) * inv)
    V_LOOP(a->n, STEP);
#undef STEP
}

void DR_ISA_FN(l2norm_bwd)(struct dr_backend *be, const struct dr_l2norm_bwd_args *a) {
    DR_PARALLEL_FOR(be, a->m * a->n >= DR_PAYS)
    for (int64_t row = 0; row < a->m; row++)
        l2_bwd_row(a, row);
}
