// Parity tests of the ops: a backend against naive double-precision references.
//
// One case function an op, `void case_<op>(struct t *t)` in tests/ops/case_*.c: it draws inputs,
// runs the op over several odd shapes, computes the expected values in double from the comment in
// ops.h (never from an implementation) and checks. The harness poisons outputs with NaN, fences
// every buffer with NaN on both sides, verifies that inputs stay untouched, and runs each case with
// one thread and with three (on the emulated GPU: forwards and backwards): the bytes must be the
// same. An op without a case fails the suite.
//
//     void case_silu_fwd(struct t *t)
//     {
//         for (int bf = 0; bf < t_dtypes(t); bf++) {
//             struct tbuf *x = t_normal(t, bf, 37, 1), *y = t_out(t, bf, 37);
//             double want[37]; ... want[i] = x->v[i] / (1 + exp(-x->v[i])) ...
//             T_RUN(t, silu_fwd, .y = y->p, .x = x->p, .yt = bf, .xt = bf, .n = 37);
//             t_check(t, "y", y, want, t_tol(t, bf));
//         }
//     }
#pragma once

#include "engine/core/backend.h"
#include "engine/open.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct tbuf {
    void *p;   // device memory for the op
    double *v; // inputs: the values as stored, i.e. after rounding to the type (i32/u64: exact)
    int64_t n; // elements
    enum dr_dtype t; // of reals
    size_t width;    // bytes of one element
    bool out, inout; // may be written
    char *base;      // device memory with the fences
    void *initial;   // host copy of the uploaded bytes
    struct tbuf *next;
};

struct t {
    struct dr_backend *be;
    const char *op;
    int flags;          // of ops.def
    uint64_t rng, hash; // hash: of every checked output's bytes
    struct tbuf *bufs;
};

// Tolerances as normalised mean square error, from the house rules.
static inline double t_tol(const struct t *t, enum dr_dtype type) {
    return type == DR_BF16 ? 1e-4 : (t->flags & (OP_REDUCE | OP_MATMUL)) ? 1e-8 : 1e-10;
}
// Types to loop over: 2 (fp32, bf16) in float builds, 1 where bf16 does not exist.
int t_dtypes(const struct t *t);

// Buffers live until the case ends. n may be 0.
struct tbuf *t_normal(struct t *t, enum dr_dtype type, int64_t n, double scale); // N(0, scale^2)
struct tbuf *t_uniform(struct t *t, enum dr_dtype type, int64_t n, double lo, double hi);
struct tbuf *t_values(struct t *t, enum dr_dtype type, int64_t n, const double *values);
struct tbuf *t_f64(struct t *t, int64_t n, const double *values);
struct tbuf *t_i32(struct t *t, int64_t n, const int32_t *values);
struct tbuf *t_u64(struct t *t, int64_t n, const uint64_t *values);
struct tbuf *t_u8(struct t *t, int64_t n, const uint8_t *values);
struct tbuf *t_out(struct t *t, enum dr_dtype type, int64_t n); // NaN; the op must write all of it
struct tbuf *t_out_f64(struct t *t, int64_t n);                 // double in every build
struct tbuf *t_out_i32(struct t *t, int64_t n);
struct tbuf *t_inout(struct tbuf *b);  // marks an input as accumulated into
uint64_t t_rand(struct t *t);          // 64 random bits
double *t_tmp(struct t *t, int64_t n); // zeroed host doubles, freed with the case

// Runs the op and fails the test on its error.
#define T_RUN(t, name, ...)                                                                        \
    do {                                                                                           \
        DR_OP((t)->be, name, __VA_ARGS__);                                                         \
        t_sync(t);                                                                                 \
    } while (0)
void t_sync(struct t *t);

// Compares buf with want[buf->n]: sum (got - want)^2 <= tol sum want^2 and not one NaN too many. A
// NaN in `want` means "must still be untouched" (gaps of strided outputs).
void t_check(struct t *t, const char *what, struct tbuf *b, const double *want, double tol);
// The buffer's present values as doubles, [n]; freed with the case.
double *t_read(struct t *t, struct tbuf *b);
// Fails the test with a sentence.
void t_fail(struct t *t, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));

// isa.c: device "cpu:base" or "cpu:v3" of the command line. False: this CPU or build lacks the
// level.
bool t_use_level(struct dr_backend *be, const char *level);

#define X(name, flags) void case_##name(struct t *t);
#include "engine/ops.def"
#undef X
