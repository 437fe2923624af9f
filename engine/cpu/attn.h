// Parts shared by attn.c and attn_bwd.c: one head's buffers, its loading (QK-norm, RoPE), and the
// register-blocked product. One (sample, head) at a time stays in the cache; every buffer belongs
// to one thread.
#pragma once

#include "engine/cpu/vec.h"

#define MR 6  // rows of a register block
#define QB 96 // queries of one block of scores; a multiple of MR
#if VBYTES == 64
#define NR 4 // vectors of a register block: 24 accumulators of 32 registers
#else
#define NR 2 // 12 of 16
#endif

// Sizes of one head. Buffers of tokens are [rows, ld], of scores [QB, tp], transposed [ld, tp].
struct dims {
    int64_t t, hd, h;
    int64_t ld;   // hd rounded up to whole vectors
    int64_t tp;   // t rounded up to whole vectors
    int64_t rows; // t rounded up to whole vectors and to whole register blocks
};

DR_INLINE int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}

DR_INLINE struct dims dims_of(int64_t t, int64_t h, int64_t hd) {
    return (struct dims){.t = t,
                         .hd = hd,
                         .h = h,
                         .ld = round_up(hd, VL),
                         .tp = round_up(t, VL),
                         .rows = DR_MAX(round_up(t, VL), round_up(t, MR))};
}

// Scores are read past the end of a row block's last row by less than one register block.
DR_INLINE int64_t score_size(const struct dims *d) {
    return QB * d->tp + 64;
}

// What is done to q or k on the way in.
struct prep {
    const real *norm, *cos, *sin;
    real eps, scale; // the scores' scale goes into q
};

DR_INLINE real inverse_rms(const real *x, int64_t hd, real eps) {
    vreal s = {0};
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal v = vld(x, DR_F32, i, n);                                                            \
        s = vfma(v, v, s);                                                                         \
    } while (0)
    V_LOOP(hd, STEP);
#undef STEP
    return 1 / (real)sqrt(vsum(s) / (real)hd + eps);
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
    memset(dst + d->t * d->ld, 0, (size_t)((d->rows - d->t) * d->ld) * sizeof *dst);
}

// QK-norm, RoPE and scale on loaded rows; rstd[t] is kept for the backward pass (NULL: not wanted).
DR_INLINE void prepare(real *x, const struct prep *p, const struct dims *d, real *rstd) {
    const int64_t half = d->hd / 2;
    for (int64_t i = 0; i < d->t; i++, x += d->ld) {
        if (p->norm || p->scale != 1) {
            const real r = p->norm ? inverse_rms(x, d->hd, p->eps) : 1, f = r * p->scale;
            if (rstd)
                rstd[i] = r;
#define STEP(j, n)                                                                                 \
    vst(x, DR_F32, j, n,                                                                           \
        vld(x, DR_F32, j, n) * f * (p->norm ? vld(p->norm, DR_F32, j, n) : vset(1)))
            V_LOOP(d->hd, STEP);
#undef STEP
        }
        if (p->cos)
            rotate(x, p->cos + i * half, p->sin + i * half, half, 1);
    }
}

// One VL x VL block: log2(VL) perfect shuffles of the rows transpose it.
DR_INLINE void transpose_block(real *dst, int64_t ldd, const real *src, int64_t lds) {
    vreal a[VL], b[VL];
    for (int i = 0; i < VL; i++)
        a[i] = vload(src + i * lds);
#pragma GCC unroll 4
    for (int round = 1; round < VL; round *= 2) {
#pragma GCC unroll 16
        for (int i = 0; i < VL / 2; i++) {
            b[2 * i] = __builtin_shufflevector(a[i], a[i + VL / 2], V_LOW);
            b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + VL / 2], V_HIGH);
        }
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++)
            a[i] = b[i];
    }
    for (int i = 0; i < VL; i++)
        vstore(dst + i * ldd, a[i]);
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
        const int64_t nr = left == NR + 1 && NR > 2 ? NR - 1 : DR_MIN(left, NR); // 5 = 3 + 2
        for (int64_t i = 0; i < m; i += MR) {
            const struct lhs ai = {a.p + i * a.row, a.row, a.col};
            real *ci = c + i * ldc + j;
            if (nr == NR)
                product_block(NR, k, ai, b + j, ldb, ci, ldc, acc);
#if NR > 2
            else if (nr == 3)
                product_block(3, k, ai, b + j, ldb, ci, ldc, acc);
            else if (nr == 2)
                product_block(2, k, ai, b + j, ldb, ci, ldc, acc);
#endif
            else
                product_block(1, k, ai, b + j, ldb, ci, ldc, acc);
        }
        j += nr * VL;
    }
}

// row[tp] = exp(row - max), 0 in the padding; returns the sum.
DR_INLINE real softmax_row(real *row, const struct dims *d) {
    const int64_t whole = d->t / VL * VL, rest = d->t - whole;
    vreal top = vset(-INFINITY), sum = {0};
    for (int64_t i = 0; i < whole; i += VL)
        top = vmax(top, vload(row + i));
    if (rest)
        top = vmax(top, vkeep(vload(row + whole), rest, -INFINITY));
    const real max = vtop(top);
    for (int64_t i = 0; i < whole; i += VL) {
        vreal e = vexp(vload(row + i) - max);
        sum += e;
        vstore(row + i, e);
    }
    if (rest) {
        vreal e = vkeep(vexp(vload(row + whole) - max), rest, 0);
        sum += e;
        vstore(row + whole, e);
    }
    return vsum(sum);
}
