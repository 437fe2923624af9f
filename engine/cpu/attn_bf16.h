// Parts shared by attn_bf16.c and attn_bf16_bwd.c: attention in bf16 where the processor multiplies
// pairs of it, by AMX's tiles or by vectors. Level v4h alone has it, in builds with oneDNN.
//
// As on a GPU, q, k, probabilities and dS are rounded to bf16 between two products; sums, softmax,
// norm and rotation are in fp32. A product takes A in rows and B in pairs: element [p, j] of pairs
// along k is the 32 bits of B's rows 2p and 2p + 1 in column j. Scores are computed with keys as
// rows and queries as columns, so that a softmax runs down the lanes of vectors, without folds.
#pragma once

#include "engine/cpu/attn.h"

#ifdef DR_ATTN_BF16
#include "engine/cpu/gemm.h"

#include <immintrin.h>

enum {
    SIDE = 16,  // rows and columns of a tile
    STEP = 32,  // its elements along k: 16 pairs
    LINE = 64,  // bytes of a row
    ROWS_V = 8, // rows of a block of vectors
};

// Whether heads like these are computed here.
DR_INLINE bool attn_bf16_fits(const struct dr_backend *be, enum dr_dtype act, int64_t hd) {
    return act == DR_BF16 && (hd == 32 || hd == 64) &&
           dr_gemm_native_bf16(((const struct dr_cpu *)be->impl)->gemm);
}
// One head, and the memory that it needs, in elements of 32 bits.
dr_attn_head dr_attn_bf16_head;
dr_attn_bwd_head dr_attn_bf16_bwd_head;
int64_t dr_attn_bf16_size(const struct dr_backend *be, int64_t t, int64_t hd);
int64_t dr_attn_bf16_bwd_size(const struct dr_backend *be, int64_t t, int64_t hd);

// Sizes of one head. Buffers of tokens have tk rows, those of operands zeros from row t on; buffers
// of scores have tp rows of QB.
struct head_dims {
    int64_t t, hd, h;
    int64_t tp, tk; // t rounded up to whole tiles as rows, and as steps of k
    bool tiles;     // AMX
};

DR_INLINE struct head_dims head_dims_of(const struct dr_backend *be, int64_t t, int64_t h,
                                        int64_t hd) {
    return (struct head_dims){.t = t,
                              .hd = hd,
                              .h = h,
                              .tp = round_up(t, SIDE),
                              .tk = round_up(t, STEP),
                              .tiles = dr_gemm_has_amx(((const struct dr_cpu *)be->impl)->gemm)};
}

// Runs `call` with SHAPE a copy of d in which the head's width is a constant.
#define FOR_WIDTH(d, SHAPE, call)                                                                  \
    do {                                                                                           \
        struct head_dims SHAPE = *(d);                                                             \
        if ((d)->hd == 32) {                                                                       \
            SHAPE.hd = 32;                                                                         \
            call;                                                                                  \
        } else {                                                                                   \
            SHAPE.hd = 64;                                                                         \
            call;                                                                                  \
        }                                                                                          \
    } while (0)

// ---- pairs

DR_INLINE vuint wide(const dr_bf16 *p) {
    __m256i h;
    memcpy(&h, p, sizeof h);
    return (vuint)_mm512_cvtepu16_epi32(h);
}
// The bf16 of lo and hi side by side in each lane.
DR_INLINE vuint pair_up(vreal lo, vreal hi) {
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)hi, (__m512)lo);
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (vuint)_mm512_permutexvar_epi16(order, both);
}
DR_INLINE void put_pairs(uint32_t *to, vuint x) {
    memcpy(to, &x, sizeof x);
}
// to[rows / 2, hd]: pairs along the rows.
DR_INLINE void pairs_of_rows(uint32_t *to, const dr_bf16 *from, int64_t rows, int64_t hd) {
    for (int64_t p = 0; p < rows / 2; p++, from += 2 * hd)
        for (int64_t j = 0; j < hd; j += VL)
            put_pairs(to + p * hd + j, wide(from + j) | wide(from + hd + j) << 16);
}
// dst[cols, rows] = src[rows, cols]' of 32 bits each, in whole blocks of VL x VL.
DR_INLINE void turn(void *dst, int64_t ldd, const void *src, int64_t lds, int64_t rows,
                    int64_t cols) {
    for (int64_t i = 0; i < rows; i += VL)
        for (int64_t j = 0; j < cols; j += VL)
            transpose_block((real *)dst + j * ldd + i, ldd, (const real *)src + i * lds + j, lds);
}

// ---- one head on its way in

// Token rows, `step` elements apart, to[tk, hd].
DR_INLINE void copy_rows(dr_bf16 *to, const dr_bf16 *from, int64_t step,
                         const struct head_dims *d) {
    for (int64_t i = 0; i < d->t; i++)
        memcpy(to + i * d->hd, from + i * step, (size_t)d->hd * sizeof *to);
    memset(to + d->t * d->hd, 0, (size_t)((d->tk - d->t) * d->hd) * sizeof *to);
}

// The same through QK-norm, rotation and scale. rstd [t]: NULL: not wanted.
DR_INLINE void prepare_rows(dr_bf16 *to, const dr_bf16 *from, int64_t step, const struct prep *p,
                            const struct head_dims *d, real *rstd) {
    enum { MOST = 64 / VL };
    const int64_t count = d->hd / VL, half = d->hd / 2;
    vreal w[MOST];
    for (int64_t j = 0; j < count; j++)
        w[j] = (p->norm ? vload(p->norm + j * VL) : vset(1)) * p->scale;
    for (int64_t i = 0; i < d->t; i += 4) {
        const int64_t n = DR_MIN(d->t - i, 4);
        vreal x[4][MOST], square[4];
        real f[4] = {1, 1, 1, 1};
#pragma GCC unroll 4
        for (int64_t r = 0; r < 4; r++) {
            square[r] = vset(0);
#pragma GCC unroll 4
            for (int64_t j = 0; j < count; j++) {
                x[r][j] = vld(from, DR_BF16, (i + DR_MIN(r, n - 1)) * step + j * VL, VL);
                square[r] = vfma(x[r][j], x[r][j], square[r]);
            }
        }
        if (p->norm) {
            vsum4(f, square);
            for (int r = 0; r < 4; r++)
                f[r] = 1 / dr_sqrt(f[r] / (real)d->hd + p->eps);
        }
#pragma GCC unroll 4
        for (int64_t r = 0; r < 4; r++) {
            if (r >= n)
                break;
            if (rstd)
                rstd[i + r] = f[r];
#pragma GCC unroll 4
            for (int64_t j = 0; j < count; j++)
                x[r][j] *= w[j] * f[r];
#pragma GCC unroll 2
            for (int64_t j = 0; j < count / 2; j++) {
                vreal a = x[r][j], b = x[r][j + count / 2];
                if (p->cos) {
                    const vreal c = vload(p->cos + (i + r) * half + j * VL);
                    const vreal s = vload(p->sin + (i + r) * half + j * VL);
                    const vreal turned = vfma(a, c, -(b * s));
                    b = vfma(b, c, a * s);
                    a = turned;
                }
                vst(to, DR_BF16, (i + r) * d->hd + j * VL, VL, a);
                vst(to, DR_BF16, (i + r) * d->hd + half + j * VL, VL, b);
            }
        }
    }
    memset(to + d->t * d->hd, 0, (size_t)((d->tk - d->t) * d->hd) * sizeof *to);
}

// ---- products

// The tiles' configuration as LDTILECFG reads it: eight whole tiles.
DR_INLINE void tiles_begin(void) {
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) whole = {
        .palette = 1,
        .row_bytes = {LINE, LINE, LINE, LINE, LINE, LINE, LINE, LINE},
        .rows = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE},
    };
    _tile_loadconfig(&whole);
}

// Operands of a product: A in rows lda elements apart, pairs of B ldb apart, C ldc apart.
struct operands {
    const dr_bf16 *a;
    const uint32_t *b;
    real *c;
    int64_t lda, ldb, ldc;
};

// One block of C, (1 + low) x (1 + right) tiles.
DR_INLINE void tiles_block(const bool low, const bool right, int64_t k, struct operands o,
                           bool acc) {
    const int64_t a_step = o.lda * 2, b_step = o.ldb * 4, c_step = o.ldc * 4;
    real *below = o.c + SIDE * o.ldc;
    if (acc) {
        _tile_loadd(0, o.c, c_step);
        if (right)
            _tile_loadd(1, o.c + SIDE, c_step);
        if (low)
            _tile_loadd(2, below, c_step);
        if (low && right)
            _tile_loadd(3, below + SIDE, c_step);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t p = 0; p < k; p += STEP, o.a += STEP, o.b += STEP / 2 * o.ldb) {
        _tile_loadd(4, o.a, a_step);
        _tile_loadd(6, o.b, b_step);
        _tile_dpbf16ps(0, 4, 6);
        if (right) {
            _tile_loadd(7, o.b + SIDE, b_step);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (low) {
            _tile_loadd(5, o.a + SIDE * o.lda, a_step);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (low && right)
            _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, o.c, c_step);
    if (right)
        _tile_stored(1, o.c + SIDE, c_step);
    if (low)
        _tile_stored(2, below, c_step);
    if (low && right)
        _tile_stored(3, below + SIDE, c_step);
}

// The same by vectors: ROWS_V x nr vectors.
DR_INLINE void vectors_block(const int nr, int64_t k, struct operands o, bool acc) {
    vreal s[ROWS_V][NR];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS_V; i++)
#pragma GCC unroll 4
        for (int j = 0; j < nr; j++)
            s[i][j] = acc ? vload(o.c + i * o.ldc + j * VL) : vset(0);
    for (int64_t p = 0; p < k; p += 2, o.a += 2, o.b += o.ldb) {
        __m512i b[NR];
#pragma GCC unroll 4
        for (int j = 0; j < nr; j++)
            b[j] = _mm512_loadu_si512(o.b + j * VL);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS_V; i++) {
            int32_t pair;
            memcpy(&pair, o.a + i * o.lda, sizeof pair);
            const __m512bh a = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
            for (int j = 0; j < nr; j++)
                s[i][j] = (vreal)_mm512_dpbf16_ps((__m512)s[i][j], a, (__m512bh)b[j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS_V; i++)
#pragma GCC unroll 4
        for (int j = 0; j < nr; j++)
            vstore(o.c + i * o.ldc + j * VL, s[i][j]);
}

DR_INLINE struct operands operands_at(const struct operands *o, int64_t i, int64_t j) {
    struct operands at = *o;
    at.a += i * o->lda;
    at.b += j;
    at.c += i * o->ldc + j;
    return at;
}

// c[m, n] (+)= a[m, k] b[k, n]; m and n in whole tiles, k in whole steps.
DR_INLINE void bf16_product(const struct head_dims *d, int64_t m, int64_t n, int64_t k,
                            struct operands o, bool acc) {
    __asm__ volatile("" ::: "memory"); // the loads of tiles do not say that they read memory
    for (int64_t i = 0; d->tiles && i < m; i += 2 * SIDE)
        for (int64_t j = 0; j < n; j += 2 * SIDE) {
            const struct operands at = operands_at(&o, i, j);
            if (i + SIDE < m && j + SIDE < n)
                tiles_block(true, true, k, at, acc);
            else if (i + SIDE < m)
                tiles_block(true, false, k, at, acc);
            else if (j + SIDE < n)
                tiles_block(false, true, k, at, acc);
            else
                tiles_block(false, false, k, at, acc);
        }
    for (int64_t j = 0; !d->tiles && j < n;) {
        const int64_t left = (n - j) / VL, nr = left == NR + 1 ? NR - 1 : DR_MIN(left, NR);
        for (int64_t i = 0; i < m; i += ROWS_V) {
            const struct operands at = operands_at(&o, i, j);
            if (nr == 3)
                vectors_block(3, k, at, acc);
            else if (nr == 2)
                vectors_block(2, k, at, acc);
            else
                vectors_block(1, k, at, acc);
        }
        j += nr * VL;
    }
}

// The greatest of t scores in each lane, QB apart.
DR_INLINE vreal lanes_max(const real *s, int64_t t) {
    vreal top[4];
    for (int r = 0; r < 4; r++)
        top[r] = vset(-INFINITY);
    for (int64_t i = 0; i < t; i += 4)
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++)
            top[r] = vmax(top[r], vload(s + DR_MIN(i + r, t - 1) * QB));
    return vmax(vmax(top[0], top[1]), vmax(top[2], top[3]));
}
#endif
