// Parameter layouts and their initial values. See params.h; used by the networks of engine/nn, read
// by the trainer, the sampler and the checkpoint code. Initial values: method.md 6.
#include "engine/nn/params.h"
#include "engine/core/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN_REALS 16 // 64 bytes of float: rows of a parameter start on a cache line

int dr_params_add(struct dr_params *ps, unsigned flags, enum dr_init init, double arg, int ndim,
                  const int64_t *dim, const char *fmt, ...) {
    if (ps->cap < 0) // an earlier call ran out of memory; dr_net_finish checks once, at the end
        return -1;
    if (ps->n == ps->cap) {
        int cap = ps->cap ? 2 * ps->cap : 64;
        struct dr_param *grown = realloc(ps->p, (size_t)cap * sizeof *grown);
        if (!grown) {
            ps->cap = -1;
            return -1;
        }
        ps->p = grown;
        ps->cap = cap;
    }
    struct dr_param *p = &ps->p[ps->n];
    *p = (struct dr_param){.ndim = ndim, .count = 1, .flags = flags, .init = init, .init_arg = arg};
    for (int i = 0; i < ndim; i++) {
        p->dim[i] = dim[i];
        p->count *= dim[i];
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(p->name, sizeof p->name, fmt, ap);
    va_end(ap);
    return ps->n++;
}

static int64_t place(struct dr_params *ps, bool decayed, int64_t at) {
    for (int i = 0; i < ps->n; i++) {
        struct dr_param *p = &ps->p[i];
        if (((p->flags & DR_PARAM_DECAY) != 0) != decayed)
            continue;
        if (!(p->flags & DR_PARAM_JOIN))
            at = (at + ALIGN_REALS - 1) / ALIGN_REALS * ALIGN_REALS;
        p->offset = at;
        at += p->count;
    }
    return (at + ALIGN_REALS - 1) / ALIGN_REALS * ALIGN_REALS;
}

void dr_params_finish(struct dr_params *ps) {
    ps->decayed = place(ps, true, 0);
    ps->total = place(ps, false, ps->decayed);
}

void dr_params_free(struct dr_params *ps) {
    free(ps->p);
    *ps = (struct dr_params){0};
}

int dr_params_find(const struct dr_params *ps, const char *name) {
    for (int i = 0; i < ps->n; i++)
        if (!strcmp(ps->p[i].name, name))
            return i;
    return -1;
}

static bool same_shape(const struct dr_param *a, const struct dr_param *b) {
    return a->ndim == b->ndim && !memcmp(a->dim, b->dim, (size_t)a->ndim * sizeof *a->dim);
}

int dr_params_copy_named(const struct dr_params *to, real *dst, const struct dr_params *from,
                         const real *src, struct dr_err *err) {
    for (int i = 0; i < to->n; i++) {
        const int j = dr_params_find(from, to->p[i].name);
        if (j < 0)
            return dr_fail(err, DR_EINVAL, "the weights have no parameter \"%s\"", to->p[i].name);
        if (!same_shape(&to->p[i], &from->p[j]))
            return dr_fail(err, DR_EINVAL,
                           "the parameter \"%s\" has %lld values in the weights; expected %lld in "
                           "%d dimensions",
                           to->p[i].name, (long long)from->p[j].count, (long long)to->p[i].count,
                           to->p[i].ndim);
    }
    memset(dst, 0, (size_t)to->total * sizeof *dst);
    for (int i = 0; i < to->n; i++)
        memcpy(dst + to->p[i].offset, src + from->p[dr_params_find(from, to->p[i].name)].offset,
               (size_t)to->p[i].count * sizeof *dst);
    return 0;
}

static void fill_uniform(real *out, int64_t n, double bound, uint64_t seed, int number) {
    struct dr_rng g;
    dr_rng_init(&g, seed, DR_STREAM_INIT, (uint64_t)number);
    for (int64_t i = 0; i < n; i++)
        out[i] = (real)(bound * (2 * dr_rng_uniform(&g) - 1));
}

// [1, grid*grid, D]: the first half of a row encodes the column, the second half the row of the
// patch, each as [sin ; cos] of D/4 frequencies 10000^(-i / (D/4)).
static void fill_sincos(real *out, int64_t patches, int64_t d) {
    int64_t grid = (int64_t)lround(sqrt((double)patches)), quarter = d / 4;
    for (int64_t t = 0; t < patches; t++)
        for (int64_t i = 0; i < quarter; i++) {
            double omega = pow(10000, -(double)i / (double)quarter);
            double x = (double)(t % grid) * omega, y = (double)(t / grid) * omega;
            real *row = out + t * d + i;
            row[0] = (real)sin(x);
            row[quarter] = (real)cos(x);
            row[2 * quarter] = (real)sin(y);
            row[3 * quarter] = (real)cos(y);
        }
}

static void init_one(const struct dr_param *p, int number, uint64_t seed, real *out) {
    switch (p->init) {
    case DR_INIT_ZERO:
        break;
    case DR_INIT_ONE:
        for (int64_t i = 0; i < p->count; i++)
            out[i] = 1;
        break;
    case DR_INIT_CONST:
        for (int64_t i = 0; i < p->count; i++)
            out[i] = (real)p->init_arg;
        break;
    case DR_INIT_NORMAL:
        dr_normals(seed, DR_STREAM_INIT, (uint64_t)number, out, p->count);
        for (int64_t i = 0; i < p->count; i++)
            out[i] *= (real)p->init_arg;
        break;
    case DR_INIT_XAVIER:
        fill_uniform(out, p->count, sqrt(6.0 / (double)(p->count / p->dim[0] + p->dim[0])), seed,
                     number);
        break;
    case DR_INIT_UNIFORM:
        fill_uniform(out, p->count, p->init_arg, seed, number);
        break;
    case DR_INIT_SINCOS:
        fill_sincos(out, p->dim[1], p->dim[2]);
        break;
    }
}

void dr_params_init_one(const struct dr_params *ps, int i, uint64_t seed, real *host) {
    init_one(&ps->p[i], i, seed, host + ps->p[i].offset);
}

void dr_params_init(const struct dr_params *ps, uint64_t seed, real *host) {
    memset(host, 0, (size_t)ps->total * sizeof *host);
    for (int i = 0; i < ps->n; i++)
        dr_params_init_one(ps, i, seed, host);
}
