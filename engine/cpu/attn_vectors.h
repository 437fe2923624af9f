// Parts shared by attn.c and attn_bwd.c: one head in vectors of `real`, its loading (QK-norm,
// RoPE), the register-blocked product and the softmax.
#pragma once

#include "engine/cpu/attn.h"

// Sizes of one head. Buffers of tokens are [rows, ld], of scores [QB, tp], transposed [ld, tp].
struct dims {
    int64_t t, hd, h;
    int64_t ld;   // hd rounded up to whole vectors
    int64_t tp;   // t rounded up to whole vectors
    int64_t rows; // t rounded up to whole vectors and to whole register blocks
};

DR_INLINE struct dims dims_of(int64_t t, int64_t h, int64_t hd) {
    return (struct dims){.t = t,
                         .hd = hd,
                         .h = h,
                         .ld = round_up(hd, VL),
                         .tp = round_up(t, VL),
                         .rows = DR_MAX(round_up(t, VL), round_up(t, MR))};
}

// Runs `call` with SHAPE a copy of dims d in which the usual widths of a head are constants, so
// that loops over a head unroll.
#define FOR_SHAPE(d, SHAPE, call)                                                                  \
    do {                                                                                           \
        if ((d)->hd == 32) {                                                                       \
            const struct dims SHAPE = dims_of((d)->t, (d)->h, 32);                                 \
            call;                                                                                  \
        } else if ((d)->hd == 64) {                                                                \
            const struct dims SHAPE = dims_of((d)->t, (d)->h, 64);                                 \
            call;                                                                                  \
        } else {                                                                                   \
            const struct dims SHAPE = *(d);                                                        \
            call;                                                                                  \
        }                                                                                          \
    } while (0)

// Scores are read past the end of a row block's last row by less than one register block.
DR_INLINE int64_t score_size(const struct dims *d) {
    return QB * d->tp + 64;
}

// 1 / rms of four rows of whole vectors, the last of the n repeated.
DR_INLINE void inverse_rms(real out[4], const real *x, int64_t n, const struct dims *d, real eps) {
    vreal s[4] = {{0}};
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++)
        for (int64_t j = 0; j < d->ld; j += VL) {
            vreal v = vload(x + DR_MIN(r, n - 1) * d->ld + j);
            s[r] = vfma(v, v, s[r]);
        }
    vsum4(out, s);
    for (int r = 0; r < 4; r++)
        out[r] = 1 / dr_sqrt(out[r] / (real)d->hd + eps);
}

// (x1, x2) -> (x1 c - x2 s, x2 c + x1 s) on the two halves of a row; `sign` -1 turns back.
DR_INLINE void rotate(real *x, const real *c, const real *s, int64_t half, real sign) {
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal x1 = vld(x, DR_F32, i, n), x2 = vld(x, DR_F32, half + (i), n);                       \
        vreal vc = vld(c, DR_F32, i, n), vs = vld(s, DR_F32, i, n) * sign;                         \
        vst(x, DR_F32, i, n, vfma(x1, vc, -(x2 * vs)));                                            \
        vst(x, DR_F32, half + (i), n, vfma(x2, vc, x1 * vs));                                      \
    } while (0)
    V_LOOP(half, STEP);
#undef STEP
}

// Token rows of one head, `step` elements apart in src, into dst[rows, ld]; padding becomes 0.
DR_INLINE void load_rows(real *dst, const void *src, enum dr_dtype t, int64_t at, int64_t step,
                         const struct dims *d) {
    for (int64_t i = 0; i < d->t; i++) {
        int64_t j = 0;
        for (; j + VL <= d->hd; j += VL)
            vstore(dst + i * d->ld + j, vld(src, t, at + i * step + j, VL));
        if (j < d->hd)
            vstore(dst + i * d->ld + j, vld(src, t, at + i * step + j, d->hd - j));
    }
    if (d->rows > d->t)
        memset(dst + d->t * d->ld, 0, (size_t)((d->rows - d->t) * d->ld) * sizeof *dst);
}

// QK-norm, RoPE and scale on loaded rows; rstd[t] is kept for the backward pass (NULL: not wanted).
DR_INLINE void prepare(real *x, const struct prep *p, const struct dims *d, real *rstd) {
    const int64_t half = d->hd / 2;
    for (int64_t i = 0; i < d->t; i += 4) {
        const int64_t n = DR_MIN(d->t - i, 4);
        real f[4] = {1, 1, 1, 1};
        if (p->norm)
            inverse_rms(f, x + i * d->ld, n, d, p->eps);
        for (int64_t r = 0; r < n; r++) {
            real *row = x + (i + r) * d->ld;
            const real g = f[r] * p->scale;
            if (rstd)
                rstd[i + r] = f[r];
#define STEP(j, m)                                                                                 \
    vst(row, DR_F32, j, m,                                                                         \
        vld(row, DR_F32, j, m) * g * (p->norm ? vld(p->norm, DR_F32, j, m) : vset(1)))
            if (p->norm || p->scale != 1)
                V_LOOP(d->hd, STEP);
#undef STEP
            if (p->cos)
                rotate(row, p->cos + (i + r) * half, p->sin + (i + r) * half, half, 1);
        }
    }
}

// dst[ld, tp] = src[rows, ld]'
DR_INLINE void transpose(real *dst, const real *src, const struct dims *d) {
    for (int64_t i = 0; i < d->tp; i += VL)
        for (int64_t j = 0; j < d->ld; j += VL)
            transpose_block(dst + j * d->tp + i, d->tp, src + i * d->ld + j, d->ld);
}

// A matrix read one element at a time: element (i, p) at p[i * row + p * col].
struct lhs {
    const real *p;
    int64_t row, col;
};

// c[MR, nr vectors] (+)= a[MR, k] b[k, nr vectors]
DR_INLINE void product_block(const int nr, int64_t k, struct lhs a, const real *b, int64_t ldb,
                             real *c, int64_t ldc, bool acc) {
    vreal s[MR][NR], v[NR];
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int j = 0; j < nr; j++)
            s[i][j] = acc ? vload(c + i * ldc + j * VL) : vset(0);
    for (int64_t p = 0; p < k; p++, b += ldb, a.p += a.col) {
#pragma GCC unroll 4
        for (int j = 0; j < nr; j++)
            v[j] = vload(b + j * VL);
#pragma GCC unroll 8
        for (int i = 0; i < MR; i++) {
            const vreal x = vset(a.p[i * a.row]);
#pragma GCC unroll 4
            for (int j = 0; j < nr; j++)
                s[i][j] = vfma(x, v[j], s[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 4
        for (int j = 0; j < nr; j++)
            vstore(c + i * ldc + j * VL, s[i][j]);
}

// c[m, n] (+)= a[m, k] b[k, n]; n in whole vectors, m is rounded up to MR. The shape alone decides
// the order of the sums.
static void product(int64_t m, int64_t n, int64_t k, struct lhs a, const real *b, int64_t ldb,
                    real *c, int64_t ldc, bool acc) {
    for (int64_t j = 0; j < n;) {
        const int64_t left = (n - j) / VL;
        const int64_t nr = left == NR + 1 && NR > 2 ? NR - 1 : DR_MIN(left, NR); // 4 = 2 + 2
        for (int64_t i = 0; i < m; i += MR) {
            const struct lhs ai = {a.p + i * a.row, a.row, a.col};
            real *ci = c + i * ldc + j;
            if (nr == NR)
                product_block(NR, k, ai, b + j, ldb, ci, ldc, acc);
#if NR > 2
            else if (nr == 2)
                product_block(2, k, ai, b + j, ldb, ci, ldc, acc);
#endif
            else
                product_block(1, k, ai, b + j, ldb, ci, ldc, acc);
        }
        j += nr * VL;
    }
}

// rows[4][tp] = exp(row - max), 0 in the padding; inverse: 1 / the sums.
DR_INLINE void softmax_rows(real inverse[4], real *rows, const struct dims *d) {
    const int64_t tp = d->tp, whole = d->t / VL * VL, rest = d->t - whole;
    vreal top[4], sum[4];
    real max[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        top[r] = vset(-INFINITY), sum[r] = vset(0);
        for (int64_t i = 0; i < whole; i += VL)
            top[r] = vmax(top[r], vload(rows + r * tp + i));
        if (rest)
            top[r] = vmax(top[r], vkeep(vload(rows + r * tp + whole), rest, -INFINITY));
    }
    vtop4(max, top);
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        for (int64_t i = 0; i < whole; i += VL) {
            vreal e = vexp(vload(rows + r * tp + i) - max[r]);
            sum[r] += e;
            vstore(rows + r * tp + i, e);
        }
        if (rest) {
            vreal e = vkeep(vexp(vload(rows + r * tp + whole) - max[r]), rest, 0);
            sum[r] += e;
            vstore(rows + r * tp + whole, e);
        }
    }
    vsum4(inverse, sum);
    for (int r = 0; r < 4; r++)
        inverse[r] = 1 / inverse[r];
}
