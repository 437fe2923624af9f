// SiLU, GELU and SwiGLU, forward and backward. Called through the op table by nn/.
// Element-wise, one pass; formulas are at the argument structs in ops.h.
#ifdef DR_DOUBLE // GCC does not see at -O1 that loops over the lanes fill a vector
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "engine/cpu/fn.h"

#define BLOCK 4096 // elements of one share of work

// for each block [lo, hi) of n elements
#define FOR_BLOCKS(be, n, call)                                                                    \
    do {                                                                                           \
        const int64_t blocks_ = ((n) + BLOCK - 1) / BLOCK;                                         \
        DR_PARALLEL_FOR(be, (n) >= DR_PAYS)                                                        \
        for (int64_t block_ = 0; block_ < blocks_; block_++) {                                     \
            const int64_t lo = block_ * BLOCK, hi = DR_MIN(lo + BLOCK, (n));                       \
            call;                                                                                  \
        }                                                                                          \
    } while (0)

DR_INLINE void silu_fwd(const struct dr_silu_fwd_args *a, enum dr_dtype yt, enum dr_dtype xt,
                        int64_t lo, int64_t hi) {
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal x = vld(a->x, xt, lo + (i), n);                                                      \
        vst(a->y, yt, lo + (i), n, x * vsigmoid_as(yt, x));                                        \
    } while (0)
    V_LOOP(hi - lo, STEP);
#undef STEP
}

static void silu_fwd_block(const struct dr_silu_fwd_args *a, int64_t lo, int64_t hi) {
    FOR_DTYPE(a->yt, YT, FOR_DTYPE(a->xt, XT, silu_fwd(a, YT, XT, lo, hi)));
}

void DR_ISA_FN(silu_fwd)(struct dr_backend *be, const struct dr_silu_fwd_args *a) {
    FOR_BLOCKS(be, a->n, silu_fwd_block(a, lo, hi));
}

DR_INLINE void silu_bwd(const struct dr_silu_bwd_args *a, enum dr_dtype t, int64_t lo, int64_t hi) {
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal x = vld(a->x, t, lo + (i), n), dy = vld(a->dy, t, lo + (i), n);                      \
        vreal s = vsigmoid_as(t, x);                                                               \
        vst(a->dx, t, lo + (i), n, dy * s * vfma(x, 1 - s, vset(1)));                              \
        if (a->y)                                                                                  \
            vst(a->y, t, lo + (i), n, x * s);                                                      \
    } while (0)
    V_LOOP(hi - lo, STEP);
#undef STEP
}

static void silu_bwd_block(const struct dr_silu_bwd_args *a, int64_t lo, int64_t hi) {
    FOR_DTYPE(a->t, T, silu_bwd(a, T, lo, hi));
}

void DR_ISA_FN(silu_bwd)(struct dr_backend *be, const struct dr_silu_bwd_args *a) {
    FOR_BLOCKS(be, a->n, silu_bwd_block(a, lo, hi));
}

// x Phi(x) = max(x, 0) - |x| Phi(-|x|)
DR_INLINE vreal gelu(vreal x, vreal u, vreal tail) {
    return vfma(-u, tail, vmax(vset(0), x));
}

DR_INLINE void gelu_fwd(const struct dr_gelu_fwd_args *a, enum dr_dtype t, int64_t lo, int64_t hi) {
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal density, x = vld(a->x, t, lo + (i), n), u = vmin(vset(V_FAR), vabs(x));              \
        vreal tail = vnormal_tail_as(t, u, &density);                                              \
        vst(a->y, t, lo + (i), n, gelu(x, u, tail));                                               \
    } while (0)
    V_LOOP(hi - lo, STEP);
#undef STEP
}

static void gelu_fwd_block(const struct dr_gelu_fwd_args *a, int64_t lo, int64_t hi) {
    FOR_DTYPE(a->t, T, gelu_fwd(a, T, lo, hi));
}

void DR_ISA_FN(gelu_fwd)(struct dr_backend *be, const struct dr_gelu_fwd_args *a) {
    FOR_BLOCKS(be, a->n, gelu_fwd_block(a, lo, hi));
}

DR_INLINE void gelu_bwd(const struct dr_gelu_bwd_args *a, enum dr_dtype t, int64_t lo, int64_t hi) {
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal density, x = vld(a->x, t, lo + (i), n), u = vmin(vset(V_FAR), vabs(x));              \
        vreal tail = vnormal_tail_as(t, u, &density), slope = vfma(-u, density, tail);             \
        slope = vpositive(x, 1 - slope, slope);                                                    \
        vst(a->dx, t, lo + (i), n, vld(a->dy, t, lo + (i), n) * slope);                            \
        if (a->y)                                                                                  \
            vst(a->y, t, lo + (i), n, gelu(x, u, tail));                                           \
    } while (0)
    V_LOOP(hi - lo, STEP);
#undef STEP
}

static void gelu_bwd_block(const struct dr_gelu_bwd_args *a, int64_t lo, int64_t hi) {
    FOR_DTYPE(a->t, T, gelu_bwd(a, T, lo, hi));
}

void DR_ISA_FN(gelu_bwd)(struct dr_backend *be, const struct dr_gelu_bwd_args *a) {
    FOR_BLOCKS(be, a->n, gelu_bwd_block(a, lo, hi));
}

DR_INLINE void swiglu_fwd(const struct dr_swiglu_fwd_args *a, enum dr_dtype t, int64_t row) {
    const int64_t h1 = row * 2 * a->n, h3 = h1 + a->n, y = row * a->n;
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal x = vld(a->h, t, h1 + (i), n), g = vld(a->h, t, h3 + (i), n);                        \
        vst(a->y, t, y + (i), n, x * vsigmoid_as(t, x) * g);                                       \
    } while (0)
    V_LOOP(a->n, STEP);
#undef STEP
}

static void swiglu_fwd_row(const struct dr_swiglu_fwd_args *a, int64_t row) {
    FOR_DTYPE(a->act, T, swiglu_fwd(a, T, row));
}

void DR_ISA_FN(swiglu_fwd)(struct dr_backend *be, const struct dr_swiglu_fwd_args *a) {
    DR_PARALLEL_FOR(be, a->m * a->n >= DR_PAYS)
    for (int64_t row = 0; row < a->m; row++)
        swiglu_fwd_row(a, row);
}

DR_INLINE void swiglu_bwd(const struct dr_swiglu_bwd_args *a, enum dr_dtype t, int64_t row) {
    const int64_t h1 = row * 2 * a->n, h3 = h1 + a->n, y = row * a->n;
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal x = vld(a->h, t, h1 + (i), n), g = vld(a->h, t, h3 + (i), n);                        \
        vreal dy = vld(a->dy, t, y + (i), n), s = vsigmoid_as(t, x), f = x * s;                    \
        vst(a->dh, t, h1 + (i), n, dy * g * vfma(f, 1 - s, s));                                    \
        vst(a->dh, t, h3 + (i), n, dy * f);                                                        \
        if (a->y)                                                                                  \
            vst(a->y, t, y + (i), n, f * g);                                                       \
    } while (0)
    V_LOOP(a->n, STEP);
#undef STEP
}

static void swiglu_bwd_row(const struct dr_swiglu_bwd_args *a, int64_t row) {
    FOR_DTYPE(a->act, T, swiglu_bwd(a, T, row));
}

void DR_ISA_FN(swiglu_bwd)(struct dr_backend *be, const struct dr_swiglu_bwd_args *a) {
    DR_PARALLEL_FOR(be, a->m * a->n >= DR_PAYS)
    for (int64_t row = 0; row < a->m; row++)
        swiglu_bwd_row(a, row);
}
