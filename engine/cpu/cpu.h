// Internal header of the CPU backend: the instance, its workspace, multi-versioning, bf16 and
// threads.
//
// Included by engine/cpu/*.c only. Every op is `void dr_cpu_<op>(be, args)`, called by the one
// thread that entered the instance. Rules an op follows:
//   - it takes `be->threads` threads and only when the work pays for waking them;
//   - memory beyond a few KiB of stack comes from dr_cpu_scratch, never from malloc;
//   - sums are cut at fixed places (a row, a sample, DR_CHUNK elements), never at the thread count;
//   - an error is recorded with dr_cpu_error and the op returns.
#pragma once

#include "engine/core/arena.h"
#include "engine/core/backend.h"

#include <math.h>
#include <string.h>

// Hot loops are compiled for three levels of x86-64 and chosen when the program starts. The results
// of these loops are the same on every level: contraction is off and sums keep the order that the
// source gives them. (The kernels that dispatch.c picks use fused multiply-adds where the level has
// them and agree between levels to rounding.) Only the function itself is cloned: what it calls
// must be DR_INLINE, and an OpenMP region is outlined out of it, so call a DR_HOT function from
// inside the region instead.
#define DR_INLINE static inline __attribute__((always_inline))
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(DR_DOUBLE) &&      \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define DR_HOT __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define DR_HOT
#endif

// `DR_PARALLEL_FOR(be, pays) for (...)`: iterations in equal contiguous shares over the instance's
// threads when `pays`, else in the calling thread. Iterations must be independent.
#define DR_PRAGMA(x) _Pragma(#x)
#define DR_PARALLEL_FOR(be, pays)                                                                  \
    DR_PRAGMA(omp parallel for schedule(static) num_threads((be)->threads)                         \
                  if ((be)->threads > 1 && (pays)))
// The same for iterations of much work each: threads take one after another, so that a processor
// that somebody else keeps busy holds nobody up.
#define DR_PARALLEL_EACH(be, pays)                                                                 \
    DR_PRAGMA(omp parallel for schedule(dynamic) num_threads((be)->threads)                        \
                  if ((be)->threads > 1 && (pays)))
#define DR_CHUNK 4096     // elements of one partial sum
#define DR_PAYS (1 << 15) // elements of simple work from which on a second thread helps

// Scratch blocks of an instance. An op that calls another op must not share a slot with it.
enum dr_cpu_slot {
    DR_WS_OP,   // the op's own temporaries
    DR_WS_GEMM, // gemm: packed operands, padded panels, the library's scratchpads
    DR_WS_CONV, // convolution: rearranged weights, sums of taps
    DR_WS_FROM, // dr_cpu_gemm_from without oneDNN: a block of the source
    DR_WS_COUNT,
};
struct dr_gemm_cache;
struct dr_conv_cache;

struct dr_cpu { // be->impl
    struct dr_backend be;
    struct dr_err err; // sticky: the first error since the last sync
    struct {
        void *base;
        size_t size;
    } ws[DR_WS_COUNT];
    struct dr_gemm_cache *gemm; // oneDNN primitives; NULL in builds without
    struct dr_conv_cache *conv;
};

// At least `bytes` of 64-aligned memory, contents undefined, valid until the same slot is asked for
// again. Blocks only grow, so a step that has run once allocates nothing. NULL: out of memory,
// which is already recorded; the op returns at once.
void *dr_cpu_scratch(struct dr_backend *be, enum dr_cpu_slot slot, size_t bytes);
// Records the sticky error, "op: what"; the first one wins.
void dr_cpu_error(struct dr_backend *be, int code, const char *op, const char *what);

// A large operand that is never stored as a whole: its elements are made where they are used.
struct dr_gemm_source {
    // out[rows][ld] = elements [col, col + cols) of rows [row, row + rows), of the product's type.
    void (*fill)(const void *ctx, void *out, int64_t ld, int64_t row, int64_t rows, int64_t col,
                 int64_t cols);
    // NULL: C is stored as dr_gemm_args says. Otherwise c is ignored, and this takes columns
    // [col, col + cols) of rows [row, row + rows) of it, `cols` sums per row, each element once.
    void (*store)(const void *ctx, const real *sum, int64_t row, int64_t rows, int64_t col,
                  int64_t cols);
    const void *ctx;
};
// dr_cpu_gemm with an operand from a source: A [m,k], or with `ta` B [k,n]; that pointer, its
// leading dimension, its transposition and `batch` are ignored. `store` only without `ta`, and
// never with a bias or acc. fill and store run on any thread.
void dr_cpu_gemm_from(struct dr_backend *be, const struct dr_gemm_args *a,
                      const struct dr_gemm_source *from);
// gemm_ref.c: plain C, any build; the rows do not depend on each other.
void dr_gemm_ref(struct dr_backend *be, const struct dr_gemm_args *a);
// gemm_cache.c: the state behind dr_cpu_gemm, for `threads` threads.
int dr_gemm_cache_new(int threads, struct dr_gemm_cache **out, struct dr_err *err);
void dr_gemm_cache_free(struct dr_gemm_cache *g); // NULL is fine
// conv_cache.c: the same of convolutions.
int dr_conv_cache_new(int threads, struct dr_conv_cache **out, struct dr_err *err);
void dr_conv_cache_free(struct dr_conv_cache *c); // NULL is fine
// gemm_check.c: whether the bytes that `gemm` gives are independent of batch and threads; if not,
// `why` says what depends. Takes milliseconds; not from within an op.
typedef void dr_gemm_fn(struct dr_backend *be, const struct dr_gemm_args *a);
bool dr_gemm_self_check(struct dr_backend *be, dr_gemm_fn *gemm, char *why, size_t size);
// "avx512_core_bf16, oneDNN 2.6.3", or "avx2, bf16 by fp32, oneDNN 2.6.3"
void dr_gemm_describe(char *out, size_t size);

// ---- bf16
// ------------------------------------------------------------------------------------------

DR_INLINE float dr_from_bf16(dr_bf16 h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
DR_INLINE dr_bf16 dr_to_bf16(float f) // to nearest even; a NaN stays one
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16, nan = (u >> 16) | 0x40;
    return (dr_bf16)((u & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

// Element i of an array of dtype t. With t a constant after inlining the branch disappears, so
// loops over bf16 vectorise when the caller switches on t outside of them.
DR_INLINE real dr_get(const void *p, enum dr_dtype t, int64_t i) {
    return t == DR_BF16 ? (real)dr_from_bf16(((const dr_bf16 *)p)[i]) : ((const real *)p)[i];
}
DR_INLINE void dr_put(void *p, enum dr_dtype t, int64_t i, real v) {
    if (t == DR_BF16)
        ((dr_bf16 *)p)[i] = dr_to_bf16((float)v);
    else
        ((real *)p)[i] = v;
}
// Rows in and out of `real` buffers.
DR_INLINE void dr_load(real *restrict dst, const void *restrict src, enum dr_dtype t, int64_t n) {
    if (t == DR_BF16)
        for (int64_t i = 0; i < n; i++)
            dst[i] = dr_from_bf16(((const dr_bf16 *)src)[i]);
    else
        memcpy(dst, src, (size_t)n * sizeof *dst);
}
DR_INLINE void dr_store(void *restrict dst, enum dr_dtype t, const real *restrict src, int64_t n) {
    if (t == DR_BF16)
        for (int64_t i = 0; i < n; i++)
            ((dr_bf16 *)dst)[i] = dr_to_bf16((float)src[i]);
    else
        memcpy(dst, src, (size_t)n * sizeof *src);
}
DR_INLINE real dr_sqrt(real x) {
    return sizeof x == 8 ? (real)sqrt(x) : sqrtf((float)x);
}
// Address of element i.
DR_INLINE const void *dr_at(const void *p, enum dr_dtype t, int64_t i) {
    return (const char *)p + (size_t)i * dr_sizeof(t);
}
DR_INLINE void *dr_at_mut(void *p, enum dr_dtype t, int64_t i) {
    return (char *)p + (size_t)i * dr_sizeof(t);
}

// ---- sums in a fixed order
// ---------------------------------------------------------------------------

// Sum of DR_LANES interleaved partial sums, folded pairwise: the order is the source's, the
// compiler maps the lanes to vectors. `real acc[DR_LANES] = {0}; acc[i % DR_LANES] += ...;
// dr_fold(acc)`.
#define DR_LANES 16
DR_INLINE real dr_fold(const real acc[DR_LANES]) {
    real s[DR_LANES / 2];
    for (int i = 0; i < 8; i++)
        s[i] = acc[i] + acc[i + 8];
    for (int i = 0; i < 4; i++)
        s[i] += s[i + 4];
    return (s[0] + s[2]) + (s[1] + s[3]);
}
DR_INLINE real dr_dot(const real *restrict x, const real *restrict y, int64_t n) {
    real acc[DR_LANES] = {0};
    int64_t i = 0;
    for (; i + DR_LANES <= n; i += DR_LANES)
        for (int l = 0; l < DR_LANES; l++)
            acc[l] += x[i + l] * y[i + l];
    for (int l = 0; i < n; i++, l++)
        acc[l] += x[i] * y[i];
    return dr_fold(acc);
}
DR_INLINE real dr_sum(const real *restrict x, int64_t n) {
    real acc[DR_LANES] = {0};
    int64_t i = 0;
    for (; i + DR_LANES <= n; i += DR_LANES)
        for (int l = 0; l < DR_LANES; l++)
            acc[l] += x[i + l];
    for (int l = 0; i < n; i++, l++)
        acc[l] += x[i];
    return dr_fold(acc);
}

// ---- the ops
// -------------------------------------------------------------------------------------------

#define X(name, flags) void dr_cpu_##name(struct dr_backend *, const struct dr_##name##_args *);
#include "engine/ops.def"
#undef X
