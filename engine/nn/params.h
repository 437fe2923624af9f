// Named parameters laid out in one flat block. The layout is immutable and holds no weights, so the
// trainer, the EMA snapshots and a loaded checkpoint share it; weights, gradients, moments and EMA
// are flat blocks of params->total `real`s each. Matrices that weight decay applies to come first,
// so the optimiser runs over two ranges. Names and shapes are the reference's (method.md 6).
#pragma once

#include "engine/core/err.h"
#include "engine/core/types.h"

enum dr_init {
    DR_INIT_ZERO,
    DR_INIT_ONE,
    DR_INIT_CONST,   // arg
    DR_INIT_NORMAL,  // std arg
    DR_INIT_XAVIER,  // U(+-sqrt(6 / (fan_in + fan_out))), fan_in = product of dims 1.., fan_out =
                     // dim 0
    DR_INIT_UNIFORM, // U(-arg, arg)
    DR_INIT_SINCOS,  // [1, grid*grid, D] fixed 2-D sin-cos table (MAE convention)
};
enum dr_param_flags {
    DR_PARAM_DECAY = 1, // weight decay applies
    DR_PARAM_JOIN = 2,  // directly after the previous one: the two form one matrix (w1 ; w3)
};

struct dr_param {
    char name[96];
    int ndim;
    int64_t dim[4];
    int64_t count;  // elements
    int64_t offset; // in reals, valid after dr_params_finish
    unsigned flags;
    enum dr_init init;
    double init_arg;
};
struct dr_params {
    struct dr_param *p;
    int n, cap;
    int64_t total;   // reals, 64-byte multiple; padding stays zero
    int64_t decayed; // reals at the front that decay applies to
};

// Adds a parameter dim[ndim] named by fmt and returns its number; layers keep it and read the
// offset after dr_params_finish. Out of memory: -1, and ps->cap stays -1.
int dr_params_add(struct dr_params *ps, unsigned flags, enum dr_init init, double arg, int ndim,
                  const int64_t *dim, const char *fmt, ...) __attribute__((format(printf, 7, 8)));
// Sets offsets, total and decayed; no parameter may be added after it.
void dr_params_finish(struct dr_params *ps);
void dr_params_free(struct dr_params *ps);
int dr_params_find(const struct dr_params *ps, const char *name); // -1: none
// Copies the parameters of `to` from those of the same name in another layout's weights, which may
// have more. EINVAL, naming the first one that is missing or of another shape; nothing is copied
// then. The padding of dst is set to zero.
int dr_params_copy_named(const struct dr_params *to, real *dst, const struct dr_params *from,
                         const real *src, struct dr_err *err);
// Fills host[total]; a function of (layout, seed). Philox stream INIT, index = parameter number.
void dr_params_init(const struct dr_params *ps, uint64_t seed, real *host);
// Parameter i of it alone, into host[total], whose other values stay; zero before.
void dr_params_init_one(const struct dr_params *ps, int i, uint64_t seed, real *host);

// One set of weights on a device, as the layers see it. Not owned.
struct dr_weights {
    const struct dr_params *layout;
    const real *w;      // [total]
    const dr_bf16 *w16; // [total] rounded copy, needed when ctx->act is DR_BF16, else NULL
    real *g;            // [total] gradients accumulate; NULL: input gradients only
    // Of the values behind w and w16: whoever writes them draws another (dr_next_version). 0: none,
    // nothing made of the weights is kept.
    uint64_t version;
};
