// Copies of operands for the matrix product: B into the layout of a primitive, rows of A and C into
// and out of padded panels. Pure data movement, so the bytes are the same on every CPU.
#include "engine/cpu/gemm.h"

#if defined(__x86_64__) && !defined(DR_DOUBLE)
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))

static bool have_transpose8(void) {
    return __builtin_cpu_supports("avx2");
}

// dst[8][ldd] = the transpose of the rows r[8].
AVX2 DR_INLINE void store_transposed(float *dst, int64_t ldd, __m256 r[8]) {
    __m256 t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(dst + i * ldd, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(dst + (i + 4) * ldd, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

// Units of 32 bits, rows `stride` bytes apart.
AVX2 static void transpose8(float *dst, int64_t ldd, const char *src, int64_t stride) {
    __m256 r[8];
    for (int i = 0; i < 8; i++)
        r[i] = _mm256_loadu_ps((const float *)(const void *)(src + i * stride));
    store_transposed(dst, ldd, r);
}

AVX2 static void transpose8_wider(float *dst, int64_t ldd, const dr_bf16 *src, int64_t lds) {
    __m256 r[8];
    for (int i = 0; i < 8; i++) {
        __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(src + i * lds));
        r[i] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
    }
    store_transposed(dst, ldd, r);
}

AVX2 static void transpose8_half(dr_bf16 *dst, int64_t ldd, const dr_bf16 *src, int64_t lds) {
    __m128i r[8], t[8];
    for (int i = 0; i < 8; i++)
        r[i] = _mm_loadu_si128((const __m128i *)(const void *)(src + i * lds));
    // Three perfect shuffles: of words, of pairs, of fours.
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm_unpacklo_epi16(r[i], r[i + 4]);
        t[2 * i + 1] = _mm_unpackhi_epi16(r[i], r[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        r[2 * i] = _mm_unpacklo_epi16(t[i], t[i + 4]);
        r[2 * i + 1] = _mm_unpackhi_epi16(t[i], t[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm_unpacklo_epi16(r[i], r[i + 4]);
        t[2 * i + 1] = _mm_unpackhi_epi16(r[i], r[i + 4]);
    }
    for (int i = 0; i < 8; i++)
        _mm_storeu_si128((__m128i *)(void *)(dst + i * ldd), t[i]);
}

// The same in blocks whose source rows are whole cache lines: 16 x 16 units of 32 bits, and 16 rows
// of 32 bf16. The rows are far apart, so the next ones are asked for early.
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl")))
enum { BLOCK_ROWS = 16 };

static bool have_blocks(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
}

AVX512 DR_INLINE void load_lines(__m512i r[16], const char *src, int64_t stride) {
    for (int i = 0; i < BLOCK_ROWS; i++) {
        r[i] = _mm512_loadu_si512(src + i * stride);
        __builtin_prefetch(src + (i + BLOCK_ROWS) * stride);
    }
}

AVX512 static void transpose16(float *dst, int64_t ldd, const char *src, int64_t stride) {
    __m512i r[16], t[16];
    load_lines(r, src, stride);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) // r[i + j]: column j of each 128 bits, of rows i to i + 3
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88),
                      b = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd),
                      c = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88),
                      d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
        _mm512_storeu_si512(dst + j * ldd, _mm512_shuffle_i32x4(a, c, 0x88));
        _mm512_storeu_si512(dst + (j + 4) * ldd, _mm512_shuffle_i32x4(b, d, 0x88));
        _mm512_storeu_si512(dst + (j + 8) * ldd, _mm512_shuffle_i32x4(a, c, 0xdd));
        _mm512_storeu_si512(dst + (j + 12) * ldd, _mm512_shuffle_i32x4(b, d, 0xdd));
    }
}

// Three perfect shuffles of eight rows: r[j] then holds column j of each 128 bits.
AVX512 DR_INLINE void shuffle_half(__m512i r[8]) {
    __m512i t[8];
#pragma GCC unroll 3
    for (int round = 0; round < 3; round++) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            t[2 * i] = _mm512_unpacklo_epi16(r[i], r[i + 4]);
            t[2 * i + 1] = _mm512_unpackhi_epi16(r[i], r[i + 4]);
        }
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            r[i] = t[i];
    }
}

AVX512 static void transpose32_half(dr_bf16 *dst, int64_t ldd, const char *src, int64_t stride) {
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                  high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    __m512i r[16];
    load_lines(r, src, stride);
    shuffle_half(r);
    shuffle_half(r + 8);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++)
        for (int half = 0; half < 2; half++) {
            const __m512i v = _mm512_permutex2var_epi64(r[j], half ? high : low, r[8 + j]);
            dr_bf16 *to = dst + (16 * half + j) * ldd;
            _mm256_storeu_si256((__m256i *)(void *)to, _mm512_castsi512_si256(v));
            _mm256_storeu_si256((__m256i *)(void *)(to + 8 * ldd), _mm512_extracti64x4_epi64(v, 1));
        }
}

// Neighbours along k of columns [0, n) joined, n in whole vectors.
AVX512 static void join_vectors(uint32_t *restrict dst, const dr_bf16 *restrict a,
                                const dr_bf16 *restrict b, int64_t n) {
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                  high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    for (int64_t i = 0; i < n; i += 32) {
        const __m512i x = _mm512_loadu_si512(a + i), y = _mm512_loadu_si512(b + i);
        const __m512i even = _mm512_unpacklo_epi16(x, y), odd = _mm512_unpackhi_epi16(x, y);
        _mm512_storeu_si512(dst + i, _mm512_permutex2var_epi64(even, low, odd));
        _mm512_storeu_si512(dst + i + 16, _mm512_permutex2var_epi64(even, high, odd));
    }
}

// Units [0, *full) and columns [0, *wide), both made multiples of whole blocks.
static void transpose_blocks(void *dst, int64_t ldd, const char *src, int64_t stride, int64_t *full,
                             int64_t *wide, bool half) {
    const int64_t units = half ? 32 : 16;
    *full = have_blocks() ? *full / units * units : 0;
    *wide = *wide / BLOCK_ROWS * BLOCK_ROWS;
    for (int64_t j = 0; j < *wide; j += BLOCK_ROWS)
        for (int64_t u = 0; u < *full; u += units)
            if (half)
                transpose32_half((dr_bf16 *)dst + u * ldd + j, ldd, src + j * stride + u * 2,
                                 stride);
            else
                transpose16((float *)dst + u * ldd + j, ldd, src + j * stride + u * 4, stride);
}
#else
static bool have_blocks(void) {
    return false;
}

static void join_vectors(uint32_t *dst, const dr_bf16 *a, const dr_bf16 *b, int64_t n) {
    (void)dst, (void)a, (void)b, (void)n;
}

static bool have_transpose8(void) {
    return true;
}

static void transpose_blocks(void *dst, int64_t ldd, const char *src, int64_t stride, int64_t *full,
                             int64_t *wide, bool half) {
    (void)dst, (void)ldd, (void)src, (void)stride, (void)half;
    *full = *wide = 0;
}

static void transpose8(float *dst, int64_t ldd, const char *src, int64_t stride) {
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++)
            memcpy(dst + j * ldd + i, src + i * stride + j * 4, 4);
}

static void transpose8_wider(float *dst, int64_t ldd, const dr_bf16 *src, int64_t lds) {
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++)
            dst[j * ldd + i] = dr_from_bf16(src[i * lds + j]);
}

static void transpose8_half(dr_bf16 *dst, int64_t ldd, const dr_bf16 *src, int64_t lds) {
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++)
            dst[j * ldd + i] = src[i * lds + j];
}
#endif

// What is to be packed: op(B)[k, n], stored with leading dimension ld.
struct source {
    const void *p;
    enum dr_dtype st, dt;
    int64_t k, n, ld;
    bool trans;
};

DR_INLINE real element(const struct source *s, int64_t k, int64_t n) {
    return k < s->k && n < s->n ? dr_get(s->p, s->st, s->trans ? n * s->ld + k : k * s->ld + n) : 0;
}

// Units [u0, u1) and columns [j0, j1) of a block: element by element where there are any, zeros
// past the end of op(B).
static void pack_rest(void *dst, const struct source *s, const struct dr_gemm_layout *l, int64_t k0,
                      int64_t n0, int64_t u0, int64_t u1, int64_t j0, int64_t j1) {
    const size_t unit = (size_t)l->unit * dr_sizeof(s->dt);
    for (int64_t u = u0; u < u1; u++) {
        char *row = (char *)dst + (size_t)(u * l->ld) * unit;
        int64_t some = k0 + u * l->unit < s->k ? DR_MAX(DR_MIN(j1, s->n - n0), j0) : j0;
        for (int64_t j = j0; j < some; j++)
            for (int64_t v = 0; v < l->unit; v++)
                dr_put(row, s->dt, j * l->unit + v, element(s, k0 + u * l->unit + v, n0 + j));
        memset(row + (size_t)some * unit, 0, (size_t)(j1 - some) * unit);
    }
}

// Two rows of bf16 side by side, neighbours along k joined.
DR_HOT static void join_rows(uint32_t *restrict dst, const dr_bf16 *restrict a,
                             const dr_bf16 *restrict b, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        dst[i] = (uint32_t)a[i] | (uint32_t)b[i] << 16;
}

DR_HOT static void widen(float *restrict dst, const dr_bf16 *restrict src, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        dst[i] = dr_from_bf16(src[i]);
}

// `wide` columns from n0 on of the unit that starts at row k of a B that is not transposed, all
// inside op(B).
DR_INLINE void pack_unit(void *dst, const struct source *s, const struct dr_gemm_layout *l,
                         int64_t k, int64_t n0, int64_t wide) {
    const void *row = dr_at(s->p, s->st, k * s->ld + n0);
    if (l->unit == 2) {
        const int64_t whole = have_blocks() ? wide / 32 * 32 : 0;
        const dr_bf16 *a = row, *b = a + s->ld;
        if (whole)
            join_vectors(dst, a, b, whole);
        join_rows((uint32_t *)dst + whole, a + whole, b + whole, wide - whole);
    } else if (s->st != s->dt)
        widen(dst, row, wide);
    else
        memcpy(dst, row, (size_t)wide * dr_sizeof(s->dt));
}

// The same of a transposed one, by blocks or by squares of 8 x 8: units of 32 bits, or single bf16.
static void pack_columns(void *dst, const struct source *s, const struct dr_gemm_layout *l,
                         int64_t k0, int64_t n0, int64_t full, int64_t wide) {
    const bool half = l->unit == 1 && s->dt == DR_BF16, wider = s->st != s->dt;
    int64_t done_full = wider ? 0 : full, done_wide = wider ? 0 : wide;
    transpose_blocks(dst, l->ld, dr_at(s->p, s->st, n0 * s->ld + k0),
                     s->ld * (int64_t)dr_sizeof(s->st), &done_full, &done_wide, half);
    for (int64_t j = 0; j < wide; j += 8)
        for (int64_t u = j < done_wide ? done_full : 0; u < full; u += 8) {
            const void *from = dr_at(s->p, s->st, (n0 + j) * s->ld + k0 + u * l->unit);
            if (half)
                transpose8_half((dr_bf16 *)dst + u * l->ld + j, l->ld, from, s->ld);
            else if (wider)
                transpose8_wider((float *)dst + u * l->ld + j, l->ld, from, s->ld);
            else
                transpose8((float *)dst + u * l->ld + j, l->ld, from,
                           s->ld * (int64_t)dr_sizeof(s->st));
        }
}

// Unit u of a B that is not transposed, of all its blocks: a row of memory is read from end to end.
static void pack_across(void *dst, const struct source *s, const struct dr_gemm_layout *l,
                        int64_t u) {
    const int64_t i = u / l->k_units, within = u % l->k_units, k = u * l->unit;
    for (int64_t j = 0; j < l->n_blocks; j++) {
        char *block = dr_at_mut(dst, s->dt, i * l->k_stride + j * l->n_stride);
        const int64_t n0 = j * l->n_block;
        const int64_t wide = k + l->unit <= s->k ? DR_MIN(l->n_block, s->n - n0) : 0;
        if (wide > 0)
            pack_unit(dr_at_mut(block, s->dt, within * l->ld * l->unit), s, l, k, n0, wide);
        if (wide < l->n_block)
            pack_rest(block, s, l, k - within * l->unit, n0, within, within + 1, wide, l->n_block);
    }
}

// Block (i, j) of a transposed one.
static void pack_block(void *dst, const struct source *s, const struct dr_gemm_layout *l, int64_t i,
                       int64_t j) {
    void *block = dr_at_mut(dst, s->dt, i * l->k_stride + j * l->n_stride);
    const int64_t k0 = i * l->k_units * l->unit, n0 = j * l->n_block;
    int64_t full = 0, wide = 0;
    if (have_transpose8()) {
        full = DR_MIN(l->k_units, (s->k - k0) / l->unit) / 8 * 8; // whole units inside k
        wide = DR_MIN(l->n_block, s->n - n0) / 8 * 8;
        pack_columns(block, s, l, k0, n0, full, wide);
    }
    if (wide < l->n_block)
        pack_rest(block, s, l, k0, n0, 0, full, wide, l->n_block);
    if (full < l->k_units)
        pack_rest(block, s, l, k0, n0, full, l->k_units, 0, l->n_block);
}

void dr_gemm_pack(const struct dr_gemm_layout *l, void *dst, enum dr_dtype dt, const void *src,
                  enum dr_dtype st, int64_t k, int64_t n, int64_t ld, bool trans, int part,
                  int parts) {
    const struct source s = {
        .p = src, .st = st, .dt = dt, .k = k, .n = n, .ld = ld, .trans = trans};
    const int64_t count = l->k_blocks * (trans ? l->n_blocks : l->k_units);
    for (int64_t u = count * part / parts; u < count * (part + 1) / parts; u++)
        if (trans)
            pack_block(dst, &s, l, u % l->k_blocks, u / l->k_blocks);
        else
            pack_across(dst, &s, l, u);
}

void dr_gemm_copy(void *dst, enum dr_dtype dt, int64_t ldd, const void *src, enum dr_dtype st,
                  int64_t lds, int64_t rows, int64_t n) {
    for (int64_t i = 0; i < rows; i++) {
        void *d = dr_at_mut(dst, dt, i * ldd);
        const void *s = dr_at(src, st, i * lds);
        if (dt == st)
            memcpy(d, s, (size_t)n * dr_sizeof(dt));
        else if (dt == DR_F32)
            widen(d, s, n);
        else
            dr_store(d, dt, s, n);
    }
}

#if defined(__x86_64__) && !defined(DR_DOUBLE)
// Whole vectors of bf16 by the CPU's own rounding; returns how many elements were written.
__attribute__((target("avx512bf16,avx512f"))) static int64_t
store_native(dr_bf16 *restrict c, const float *restrict sum, const float *restrict add, int64_t n) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 v = _mm512_loadu_ps(sum + i);
        if (add)
            v = _mm512_add_ps(v, _mm512_loadu_ps(add + i));
        __m256bh h = _mm512_cvtneps_pbh(v);
        memcpy(c + i, &h, sizeof h);
    }
    return i;
}

static bool have_native(void) {
    return __builtin_cpu_supports("avx512bf16");
}
#else
static int64_t store_native(dr_bf16 *c, const real *sum, const real *add, int64_t n) {
    (void)c, (void)sum, (void)add, (void)n;
    return 0;
}

static bool have_native(void) {
    return false;
}
#endif

DR_HOT static void store_row(void *restrict c, enum dr_dtype ct, const real *restrict sum,
                             const real *restrict add, int64_t from, int64_t n) {
    if (ct == DR_BF16)
        for (int64_t i = from; i < n; i++)
            ((dr_bf16 *)c)[i] = dr_to_bf16((float)(add ? sum[i] + add[i] : sum[i]));
    else if (add)
        for (int64_t i = 0; i < n; i++)
            ((real *)c)[i] = sum[i] + add[i];
    else
        memcpy(c, sum, (size_t)n * sizeof *sum);
}

DR_HOT static void add_row(void *restrict c, enum dr_dtype ct, const real *restrict sum,
                           int64_t n) {
    if (ct == DR_BF16)
        for (int64_t i = 0; i < n; i++)
            ((dr_bf16 *)c)[i] = dr_to_bf16((float)(dr_from_bf16(((dr_bf16 *)c)[i]) + sum[i]));
    else
        for (int64_t i = 0; i < n; i++)
            ((real *)c)[i] += sum[i];
}

void dr_gemm_store(void *c, enum dr_dtype ct, int64_t ldc, const real *sum, int64_t rows, int64_t n,
                   const real *bias, bool acc) {
    const bool native = ct == DR_BF16 && !acc && have_native();
    for (int64_t i = 0; i < rows; i++) {
        void *to = dr_at_mut(c, ct, i * ldc);
        if (acc)
            add_row(to, ct, sum + i * n, n);
        else
            store_row(to, ct, sum + i * n, bias,
                      native ? store_native(to, sum + i * n, bias, n) : 0, n);
    }
}
