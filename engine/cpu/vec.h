// Vectors of `real` as wide as the instruction set of this compilation (isa.h) and the elementary
// functions on them. Included by engine/cpu/*.c of `isa_src` only.
//
// A lane's value depends on nothing but the lane's input, so an element comes out the same in a
// full vector and in a tail. Sums over a row keep VL partial sums and fold them in one fixed order.
// exp: relative error below 2e-7, 0 below -104, +inf above 88.8, NaN stays. The double build uses
// libm, lane by lane. Polynomials: minimax fits made for this file (weighted least squares on
// Chebyshev nodes).
#pragma once

#include "engine/cpu/isa.h"

#include <math.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define VBYTES 64
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__FMA__)
#define VBYTES 32
#include <immintrin.h>
#else
#define VBYTES 16
#endif
#if VBYTES > 16 && !defined(DR_DOUBLE)
#define V_INTEL 1
#else
#define V_INTEL 0
#endif

#ifdef DR_DOUBLE
#define VL (VBYTES / 8)
typedef int64_t v_int;
typedef uint64_t v_uint;
#else
#define VL (VBYTES / 4)
typedef int32_t v_int;
typedef uint32_t v_uint;
#endif
typedef real vreal __attribute__((vector_size(VBYTES)));
typedef v_int vint __attribute__((vector_size(VBYTES)));
typedef v_uint vuint __attribute__((vector_size(VBYTES)));

DR_INLINE vreal vset(real x) {
    return x - (vreal){0};
}

#if V_INTEL && VBYTES == 64
DR_INLINE vreal vfma(vreal a, vreal b, vreal c) {
    return (vreal)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
DR_INLINE vreal vmax(vreal a, vreal b) {
    return (vreal)_mm512_max_ps((__m512)a, (__m512)b);
}
DR_INLINE vreal vmin(vreal a, vreal b) {
    return (vreal)_mm512_min_ps((__m512)a, (__m512)b);
}
#elif V_INTEL
DR_INLINE vreal vfma(vreal a, vreal b, vreal c) {
    return (vreal)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
DR_INLINE vreal vmax(vreal a, vreal b) {
    return (vreal)_mm256_max_ps((__m256)a, (__m256)b);
}
DR_INLINE vreal vmin(vreal a, vreal b) {
    return (vreal)_mm256_min_ps((__m256)a, (__m256)b);
}
#else
DR_INLINE vreal vfma(vreal a, vreal b, vreal c) {
    return a * b + c;
}
// Like the instructions: the second operand when either is a NaN.
DR_INLINE vreal vmax(vreal a, vreal b) {
    vint m = a > b;
    return (vreal)((m & (vint)a) | (~m & (vint)b));
}
DR_INLINE vreal vmin(vreal a, vreal b) {
    vint m = a < b;
    return (vreal)((m & (vint)a) | (~m & (vint)b));
}
#endif
// a where x > 0, else b
DR_INLINE vreal vpositive(vreal x, vreal a, vreal b) {
#if V_INTEL && VBYTES == 64
    const __mmask16 above = _mm512_cmp_ps_mask((__m512)x, _mm512_setzero_ps(), _CMP_GT_OQ);
    return (vreal)_mm512_mask_blend_ps(above, (__m512)b, (__m512)a);
#else
    vint mask = x > 0;
    return (vreal)((mask & (vint)a) | (~mask & (vint)b));
#endif
}
DR_INLINE vreal vsel(vint mask, vreal a, vreal b) {
    return (vreal)((mask & (vint)a) | (~mask & (vint)b));
}

// ---- loads and stores: n lanes at element i of an array of dtype t; lanes from n on are 0
// ----------- n = VL as a constant is the fast path.

#ifndef DR_DOUBLE
typedef uint16_t vhalf __attribute__((vector_size(VBYTES / 2)));
#if VBYTES == 64
DR_INLINE vreal v_from_half(vhalf h) {
    return (vreal)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16);
}
#else
DR_INLINE vreal v_from_half(vhalf h) {
    return (vreal)(__builtin_convertvector(h, vuint) << 16);
}
#endif
// To nearest even; a NaN stays one.
#if VBYTES == 64 && defined(__AVX512BF16__)
DR_INLINE vhalf v_to_half(vreal x) { // the instruction takes denormals for 0
    return (vhalf)_mm512_cvtneps_pbh((__m512)x);
}
#else
DR_INLINE vhalf v_to_half(vreal x) {
    vuint u = (vuint)x;
    vuint r = u + 0x7fff + ((u >> 16) & 1);
#if VBYTES == 64
    const __mmask16 nan = _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q);
    r = (vuint)_mm512_mask_or_epi32((__m512i)r, nan, (__m512i)u, _mm512_set1_epi32(0x400000));
    return (vhalf)_mm512_cvtepi32_epi16((__m512i)(r >> 16));
#else
    vuint nan = (vuint)(x != x);
    r = (r & ~nan) | ((u | 0x400000) & nan);
    return __builtin_convertvector(r >> 16, vhalf);
#endif
}
#endif
#endif

DR_INLINE vreal vld(const void *p, enum dr_dtype t, int64_t i, int64_t n) {
#ifdef DR_DOUBLE
    vreal x = {0};
    for (int64_t l = 0; l < n; l++)
        x[l] = dr_get(p, t, i + l);
    return x;
#else
    if (t == DR_F32) {
        const real *s = (const real *)p + i;
        vreal x = {0};
        if (n == VL)
            memcpy(&x, s, sizeof x);
        else {
#if V_INTEL && VBYTES == 64
            x = (vreal)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), s);
#else
            memcpy(&x, s, (size_t)n * sizeof(real));
#endif
        }
        return x;
    }
    const dr_bf16 *s = (const dr_bf16 *)p + i;
    vhalf h = {0};
    if (n == VL)
        memcpy(&h, s, sizeof h);
    else {
#if V_INTEL && VBYTES == 64
        h = (vhalf)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), s);
#else
        memcpy(&h, s, (size_t)n * sizeof(dr_bf16));
#endif
    }
    return v_from_half(h);
#endif
}

DR_INLINE void vst(void *p, enum dr_dtype t, int64_t i, int64_t n, vreal x) {
#ifdef DR_DOUBLE
    for (int64_t l = 0; l < n; l++)
        dr_put(p, t, i + l, x[l]);
#else
    if (t == DR_F32) {
        real *d = (real *)p + i;
        if (n == VL)
            memcpy(d, &x, sizeof x);
        else {
#if V_INTEL && VBYTES == 64
            _mm512_mask_storeu_ps(d, (__mmask16)((1u << n) - 1), (__m512)x);
#else
            memcpy(d, &x, (size_t)n * sizeof(real));
#endif
        }
        return;
    }
    dr_bf16 *d = (dr_bf16 *)p + i;
    vhalf h = v_to_half(x);
    if (n == VL)
        memcpy(d, &h, sizeof h);
    else {
#if V_INTEL && VBYTES == 64
        _mm256_mask_storeu_epi16(d, (__mmask16)((1u << n) - 1), (__m256i)h);
#else
        memcpy(d, &h, (size_t)n * sizeof(dr_bf16));
#endif
    }
#endif
}
// `real` arrays.
DR_INLINE vreal vload(const real *p) {
    vreal x;
    memcpy(&x, p, sizeof x);
    return x;
}
DR_INLINE void vstore(real *p, vreal x) {
    memcpy(p, &x, sizeof x);
}

// Lanes below n of x, `fill` elsewhere.
DR_INLINE vreal vkeep(vreal x, int64_t n, real fill) {
    vint lane;
    for (int l = 0; l < VL; l++)
        lane[l] = l;
    return vsel(lane < (v_int)n, x, vset(fill));
}

// Runs STEP(i, n) over [0, count): whole vectors first, then the tail.
#define V_LOOP(count, STEP)                                                                        \
    do {                                                                                           \
        const int64_t v_count = (count);                                                           \
        int64_t v_i = 0;                                                                           \
        for (; v_i + VL <= v_count; v_i += VL)                                                     \
            STEP(v_i, VL);                                                                         \
        if (v_i < v_count)                                                                         \
            STEP(v_i, v_count - v_i);                                                              \
    } while (0)

// ---- folds: lane l meets lane l + VL/2, then VL/4, ...
// ----------------------------------------------

#if VL == 16
#define V_HALVES(x, OP)                                                                            \
    x = OP(x,                                                                                      \
           __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));   \
    x = OP(x,                                                                                      \
           __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));   \
    x = OP(x,                                                                                      \
           __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));   \
    x = OP(x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14))
#elif VL == 8
#define V_HALVES(x, OP)                                                                            \
    x = OP(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3));                              \
    x = OP(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5));                              \
    x = OP(x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6))
#elif VL == 4
#define V_HALVES(x, OP)                                                                            \
    x = OP(x, __builtin_shufflevector(x, x, 2, 3, 0, 1));                                          \
    x = OP(x, __builtin_shufflevector(x, x, 1, 0, 3, 2))
#else
#define V_HALVES(x, OP) x = OP(x, __builtin_shufflevector(x, x, 1, 0))
#endif
DR_INLINE vreal v_add(vreal a, vreal b) {
    return a + b;
}
DR_INLINE real vsum(vreal x) {
    V_HALVES(x, v_add);
    return x[0];
}
DR_INLINE real vtop(vreal x) {
    V_HALVES(x, vmax);
    return x[0];
}

// The perfect shuffle of two vectors: a[0], b[0], a[1], b[1], ...
#if VL == 16
#define V_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define V_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif VL == 8
#define V_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define V_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif VL == 4
#define V_LOW 0, 4, 1, 5
#define V_HIGH 2, 6, 3, 7
#else
#define V_LOW 0, 2
#define V_HIGH 1, 3
#endif
#define V_MERGE(a, b, OP)                                                                          \
    OP(__builtin_shufflevector(a, b, V_LOW), __builtin_shufflevector(a, b, V_HIGH))
// Folds of four vectors at once, in the same order each.
#if VL == 16
#define V_QUARTERS(x, OP)                                                                          \
    x = OP(x,                                                                                      \
           __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));   \
    x = OP(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11))
#elif VL == 8
#define V_QUARTERS(x, OP) x = OP(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3))
#else
#define V_QUARTERS(x, OP) (void)0
#endif
#if VL >= 4
#define V_FOLD4(out, x, OP)                                                                        \
    do {                                                                                           \
        vreal fold_ = V_MERGE(V_MERGE(x[0], x[2], OP), V_MERGE(x[1], x[3], OP), OP);               \
        V_QUARTERS(fold_, OP);                                                                     \
        memcpy(out, &fold_, 4 * sizeof *out);                                                      \
    } while (0)
#else
#define V_FOLD4(out, x, OP)                                                                        \
    for (int r = 0; r < 4; r++)                                                                    \
    out[r] = OP(vset(x[r][0]), vset(x[r][1]))[0]
#endif
DR_INLINE void vsum4(real out[4], const vreal x[4]) {
    V_FOLD4(out, x, v_add);
}
DR_INLINE void vtop4(real out[4], const vreal x[4]) {
    V_FOLD4(out, x, vmax);
}

// ---- elementary functions
// -----------------------------------------------------------------------------

DR_INLINE vreal vabs(vreal x) {
    return (vreal)((vuint)x << 1 >> 1);
}
DR_INLINE vreal vsqrt(vreal x) {
    for (int l = 0; l < VL; l++)
        x[l] = dr_sqrt(x[l]);
    return x;
}
// The absolute value beyond which the normal distribution has nothing left.
#ifdef DR_DOUBLE
#define V_FAR 40
#else
#define V_FAR 14.4f
#endif

#ifdef DR_DOUBLE
DR_INLINE vreal vexp(vreal x) {
    for (int l = 0; l < VL; l++)
        x[l] = exp(x[l]);
    return x;
}
DR_INLINE vreal vnormal_tail(vreal u, vreal *density) {
    vreal tail = {0};
    *density = tail;
    for (int l = 0; l < VL; l++) {
        tail[l] = 0.5 * erfc(u[l] * M_SQRT1_2);
        (*density)[l] = exp(-0.5 * u[l] * u[l]) * (M_SQRT1_2 * M_2_SQRTPI * 0.5);
    }
    return tail;
}
#else
// The nearest whole number, |x| < 2^22.
DR_INLINE vreal v_whole(vreal x) {
#if VBYTES == 64
    return (vreal)_mm512_roundscale_ps((__m512)x, 0);
#else
    const float shift = 0x1.8p23f;
    return (x + shift) - shift;
#endif
}
// p 2^k, k whole
DR_INLINE vreal v_scale2(vreal p, vreal k) {
#if VBYTES == 64
    return (vreal)_mm512_scalef_ps((__m512)p, (__m512)k);
#else
    // In two steps: 2^k itself may be too large or too small for a float.
    vint n = __builtin_convertvector(k, vint), a = n >> 1;
    vuint b = (vuint)n - (vuint)a;
    return p * (vreal)(((vuint)a + 127u) << 23) * (vreal)((b + 127u) << 23);
#endif
}
// exp(x) = 2^k exp(r), |r| <= ln 2 / 2, exp(r) = 1 + r + r^2 p(r). vmin/vmax keep a NaN when it is
// their second operand.
DR_INLINE vreal vexp(vreal x) {
    x = vmax(vset(-104.5f), vmin(vset(89.0f), x));
    vreal k = v_whole(x * 0x1.715476p0f);
    vreal r = vfma(k, vset(-0.693359375f), x);
    r = vfma(k, vset(2.12194440e-4f), r);
    vreal p = vfma(vset(0x1.6a2252p-10f), r, vset(0x1.123b04p-7f));
    p = vfma(p, r, vset(0x1.5558f8p-5f));
    p = vfma(p, r, vset(0x1.555490p-3f));
    p = vfma(p, r, vset(0x1.fffffcp-2f));
    p = vfma(p * r, r, r) + 1.0f;
    return v_scale2(p, k);
}
// Phi(-u), the tail of the normal distribution beyond u, and phi(u), its density, for
// 0 <= u <= V_FAR. The tail is q = exp(-u^2 / 2) t R(t) with t = 1 / (1 + 0.3 u), R of degree 7
// (relative error 1.3e-7); the exponential is 2^k 2^f, |f| <= 1/2, 2^f of degree 5 (9e-8).
DR_INLINE vreal vnormal_tail(vreal u, vreal *density) {
    vreal t = 1.0f / vfma(u, vset(0.3f), vset(1.0f));
    vreal z = u * -0x1.715476p-1f;
    vreal k = v_whole(z * u), f = vfma(z, u, -k);
    vreal e = vfma(vset(0x1.5bb9fep-10f), f, vset(0x1.3cea8ap-7f));
    e = vfma(e, f, vset(0x1.c6b754p-5f));
    e = vfma(e, f, vset(0x1.ebf9bcp-3f));
    e = vfma(e, f, vset(0x1.62e42ap-1f));
    e = v_scale2(vfma(e, f, vset(1.0f)), k);
    vreal p = vfma(vset(0x1.265af4p-5f), t, vset(-0x1.4426d2p-3f));
    p = vfma(p, t, vset(0x1.aa692ep-3f));
    p = vfma(p, t, vset(-0x1.c5cc80p-5f));
    p = vfma(p, t, vset(0x1.092788p-3f));
    p = vfma(p, t, vset(0x1.981d48p-4f));
    p = vfma(p, t, vset(0x1.eeca4ap-4f));
    p = vfma(p, t, vset(0x1.e9fd5cp-4f));
    *density = e * 0.3989422804f;
    return e * t * p;
}
#endif
DR_INLINE vreal vsigmoid(vreal x) {
    return 1 / (1 + vexp(-x));
}

// The same for results that are rounded to bf16 (half a unit of it is 2e-3 of the value): t DR_BF16
// and AVX-512, relative error below 3e-4. A NaN stays one.
#if V_INTEL && VBYTES == 64
// 2^x = 2^floor(x) 2^f; SCALEF takes the floor itself. 2^f of degree 3 (9e-5), 1 at 0.
DR_INLINE vreal v_exp2_short(vreal x) {
    const vreal f = (vreal)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF);
    vreal p = vfma(vset(0x1.3baaa6p-4f), f, vset(0x1.d2378ap-3f));
    p = vfma(p, f, vset(0x1.63e658p-1f));
    p = vfma(p, f, vset(1.0f));
    return v_scale2(p, x);
}
DR_INLINE vreal v_inverse_short(vreal x) { // 6e-5; exact where x is a power of 2, 0 of infinity
    return (vreal)_mm512_rcp14_ps((__m512)x);
}
DR_INLINE vreal vexp_as(enum dr_dtype t, vreal x) {
    return t == DR_BF16 ? v_exp2_short(x * 0x1.715476p0f) : vexp(x);
}
DR_INLINE vreal vsigmoid_as(enum dr_dtype t, vreal x) {
    return t == DR_BF16 ? v_inverse_short(1 + v_exp2_short(x * -0x1.715476p0f)) : vsigmoid(x);
}
// R of degree 5 (9e-6).
DR_INLINE vreal vnormal_tail_as(enum dr_dtype type, vreal u, vreal *density) {
    if (type != DR_BF16)
        return vnormal_tail(u, density);
    const vreal t = v_inverse_short(vfma(u, vset(0.3f), vset(1.0f)));
    const vreal e = v_exp2_short(u * -0x1.715476p-1f * u);
    vreal p = vfma(vset(-0x1.3a7c80p-4f), t, vset(0x1.b87d72p-3f));
    p = vfma(p, t, vset(-0x1.03e69ap-6f));
    p = vfma(p, t, vset(0x1.261fb4p-3f));
    p = vfma(p, t, vset(0x1.d27bacp-4f));
    p = vfma(p, t, vset(0x1.ebc4c2p-4f));
    *density = e * 0.3989422804f;
    return e * t * p;
}
#else
DR_INLINE vreal vexp_as(enum dr_dtype t, vreal x) {
    (void)t;
    return vexp(x);
}
DR_INLINE vreal vsigmoid_as(enum dr_dtype t, vreal x) {
    (void)t;
    return vsigmoid(x);
}
DR_INLINE vreal vnormal_tail_as(enum dr_dtype t, vreal u, vreal *density) {
    (void)t;
    return vnormal_tail(u, density);
}
#endif
