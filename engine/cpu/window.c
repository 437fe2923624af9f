// Pooling and resizing of [b,h,w,c] images, forward and backward. Called through the op table by
// nn/. Formulas are at the argument structs in ops.h.
//
// Channels lie on lanes; a pixel of the output adds its sources line by line, backward too: each
// pixel of dx gathers from the windows that cover it. A line is one thread's.
#include "engine/cpu/fn.h"

typedef uint8_t vbyte __attribute__((vector_size(VL)));

// ---- pooling
// --------------------------------------------------------------------------------------

struct range { // [from, to)
    int64_t from, to;
};

// Pixels of window o that lie in [0, size).
static struct range window_at(int64_t o, int64_t k, int64_t stride, int64_t pad, int64_t size) {
    const int64_t from = o * stride - pad;
    return (struct range){.from = DR_MAX(from, (int64_t)0), .to = DR_MIN(from + k, size)};
}

// Windows of [0, count) that cover pixel p.
static struct range covering(int64_t p, int64_t k, int64_t stride, int64_t pad, int64_t count) {
    const int64_t first = p + pad - k + 1;
    return (struct range){.from = first > 0 ? (first + stride - 1) / stride : 0,
                          .to = DR_MIN((p + pad) / stride + 1, count)};
}

struct pool {
    int64_t h, w, c, ho, wo, kh, kw, stride, pad;
    bool count_pad;
};

static struct pool pool_of(int64_t h, int64_t w, int64_t c, int64_t k, int64_t stride, int64_t pad,
                           bool count_pad) {
    if (k == 0)
        return (struct pool){
            .h = h, .w = w, .c = c, .ho = 1, .wo = 1, .kh = h, .kw = w, .stride = 1};
    return (struct pool){.h = h,
                         .w = w,
                         .c = c,
                         .ho = (h + 2 * pad - k) / stride + 1,
                         .wo = (w + 2 * pad - k) / stride + 1,
                         .kh = k,
                         .kw = k,
                         .stride = stride,
                         .pad = pad,
                         .count_pad = count_pad};
}

static real share_of(const struct pool *p, struct range y, struct range x) {
    const int64_t there = (y.to - y.from) * (x.to - x.from);
    return 1 / (real)(p->count_pad ? p->kh * p->kw : there);
}

DR_INLINE void pool_fwd_as(const struct dr_pool_fwd_args *a, const struct pool *p, enum dr_dtype t,
                           int64_t line) {
    const int64_t n = line / p->ho, oy = line % p->ho, c = p->c;
    const struct range y = window_at(oy, p->kh, p->stride, p->pad, p->h);
    for (int64_t ox = 0; ox < p->wo; ox++) {
        const struct range x = window_at(ox, p->kw, p->stride, p->pad, p->w);
        const int64_t out = (line * p->wo + ox) * c, image = n * p->h * p->w;
        const int64_t tap = p->pad - oy * p->stride, along = p->pad - ox * p->stride;
        const real share = share_of(p, y, x);
#define STEP(i, lanes)                                                                             \
    do {                                                                                           \
        vreal best = {0};                                                                          \
        vint where = {0};                                                                          \
        for (int64_t sy = y.from; sy < y.to; sy++)                                                 \
            for (int64_t sx = x.from; sx < x.to; sx++) {                                           \
                const vreal v = vld(a->x, t, (image + sy * p->w + sx) * c + (i), lanes);           \
                const vint at = (v_int)((sy + tap) * p->kw + sx + along) - (vint){0};              \
                if (!a->max)                                                                       \
                    best += v;                                                                     \
                else if (sy == y.from && sx == x.from)                                             \
                    best = v, where = at;                                                          \
                else {                                                                             \
                    const vint more = (v > best) | (v != v);                                       \
                    best = vsel(more, v, best);                                                    \
                    where = (more & at) | (~more & where);                                         \
                }                                                                                  \
            }                                                                                      \
        vst(a->y, t, out + (i), lanes, a->max ? best : best * share);                              \
        if (a->taken) {                                                                            \
            const vbyte bytes = __builtin_convertvector(where, vbyte);                             \
            memcpy(a->taken + out + (i), &bytes, (size_t)(lanes));                                 \
        }                                                                                          \
    } while (0)
        V_LOOP(c, STEP);
#undef STEP
    }
}

static void pool_fwd_line(const struct dr_pool_fwd_args *a, const struct pool *p, int64_t line) {
    FOR_DTYPE(a->t, T, pool_fwd_as(a, p, T, line));
}

void DR_ISA_FN(pool_fwd)(struct dr_backend *be, const struct dr_pool_fwd_args *a) {
    const struct pool p = pool_of(a->h, a->w, a->c, a->k, a->stride, a->pad, a->count_pad);
    if (a->max && (a->k < 1 || a->k > 15)) {
        dr_cpu_error(be, DR_EINVAL, "pool_fwd", "maxima need windows of 1 to 15 pixels");
        return;
    }
    DR_PARALLEL_FOR(be, a->b * a->h * a->w * a->c >= DR_PAYS)
    for (int64_t line = 0; line < a->b * p.ho; line++)
        pool_fwd_line(a, &p, line);
}

DR_INLINE void pool_bwd_as(const struct dr_pool_bwd_args *a, const struct pool *p, enum dr_dtype t,
                           int64_t line) {
    const int64_t n = line / p->h, sy = line % p->h, c = p->c;
    const struct range y = covering(sy, p->kh, p->stride, p->pad, p->ho);
    for (int64_t sx = 0; sx < p->w; sx++) {
        const struct range x = covering(sx, p->kw, p->stride, p->pad, p->wo);
#define STEP(i, lanes)                                                                             \
    do {                                                                                           \
        vreal sum = {0};                                                                           \
        for (int64_t oy = y.from; oy < y.to; oy++)                                                 \
            for (int64_t ox = x.from; ox < x.to; ox++) {                                           \
                const int64_t at = ((n * p->ho + oy) * p->wo + ox) * c + (i);                      \
                const vreal d = vld(a->dy, t, at, lanes);                                          \
                if (!a->max) {                                                                     \
                    sum += d * share_of(p, window_at(oy, p->kh, p->stride, p->pad, p->h),          \
                                        window_at(ox, p->kw, p->stride, p->pad, p->w));            \
                    continue;                                                                      \
                }                                                                                  \
                const int64_t tap =                                                                \
                    (sy + p->pad - oy * p->stride) * p->kw + sx + p->pad - ox * p->stride;         \
                vbyte bytes = {0};                                                                 \
                memcpy(&bytes, a->taken + at, (size_t)(lanes));                                    \
                sum += vsel(__builtin_convertvector(bytes, vint) == (v_int)tap, d, vset(0));       \
            }                                                                                      \
        vst(a->dx, t, (line * p->w + sx) * c + (i), lanes, sum);                                   \
    } while (0)
        V_LOOP(c, STEP);
#undef STEP
    }
}

static void pool_bwd_line(const struct dr_pool_bwd_args *a, const struct pool *p, int64_t line) {
    FOR_DTYPE(a->t, T, pool_bwd_as(a, p, T, line));
}

void DR_ISA_FN(pool_bwd)(struct dr_backend *be, const struct dr_pool_bwd_args *a) {
    const struct pool p = pool_of(a->h, a->w, a->c, a->k, a->stride, a->pad, a->count_pad);
    if (a->max && !a->taken) {
        dr_cpu_error(be, DR_EINVAL, "pool_bwd",
                     "maxima need the places that the forward pass kept");
        return;
    }
    DR_PARALLEL_FOR(be, a->b * a->h * a->w * a->c >= DR_PAYS)
    for (int64_t line = 0; line < a->b * a->h; line++)
        pool_bwd_line(a, &p, line);
}

// ---- resizing
// -------------------------------------------------------------------------------------

// Output p of an axis is (1 - part) of source pixel `low` and `part` of pixel `high`; source pixel
// s is used by the outputs [from[s], to[s]).
struct axis {
    int32_t *low, *high, *from, *to;
    real *part;
};

// The axis of `in` to `out` pixels in *room, which moves past it.
static struct axis axis_of(int64_t in, int64_t out, bool nearest, char **room) {
    struct axis a = {.part = (real *)(void *)*room};
    a.low = (int32_t *)(a.part + out);
    a.high = a.low + out;
    a.from = a.high + out;
    a.to = a.from + in;
    *room += (size_t)out * (sizeof(real) + 2 * sizeof(int32_t)) + (size_t)in * 2 * sizeof(int32_t);
    *room += -(uintptr_t)*room % sizeof(real);
    for (int64_t s = 0; s < in; s++)
        a.from[s] = (int32_t)out, a.to[s] = 0;
    for (int64_t p = 0; p < out; p++) {
        // (p + 1/2) in / out - 1/2 as a fraction over 2 out, so that no rounding enters
        const int64_t at = nearest ? 2 * (p * in / out) * out : (2 * p + 1) * in - out;
        const int64_t low = at > 0 ? at / (2 * out) : 0;
        a.low[p] = (int32_t)low;
        a.high[p] = (int32_t)DR_MIN(low + 1, in - 1);
        a.part[p] = at > 0 ? (real)(at % (2 * out)) / (real)(2 * out) : 0;
        const int32_t ends[2] = {a.low[p], a.high[p]};
        for (int e = 0; e < (a.part[p] != 0 ? 2 : 1); e++) {
            a.from[ends[e]] = DR_MIN(a.from[ends[e]], (int32_t)p);
            a.to[ends[e]] = (int32_t)p + 1;
        }
    }
    return a;
}

struct resize {
    struct axis y, x;
    int64_t h, w, c, ho, wo;
};

// False: out of memory, already recorded.
static bool resize_of(struct dr_backend *be, struct resize *r, int64_t h, int64_t w, int64_t c,
                      int64_t ho, int64_t wo, bool nearest) {
    char *room = dr_cpu_scratch(be, DR_WS_OP, (size_t)(h + w + ho + wo + 4) * 24);
    *r = (struct resize){.h = h, .w = w, .c = c, .ho = ho, .wo = wo};
    if (!room)
        return false;
    r->y = axis_of(h, ho, nearest, &room);
    r->x = axis_of(w, wo, nearest, &room);
    return true;
}

DR_INLINE void resize_fwd_as(const struct dr_resize_fwd_args *a, const struct resize *r,
                             enum dr_dtype t, int64_t line) {
    const int64_t image = line / r->ho * r->h * r->w, oy = line % r->ho, c = r->c;
    const int64_t up = image + r->y.low[oy] * r->w, down = image + r->y.high[oy] * r->w;
    const vreal fy = vset(r->y.part[oy]);
    for (int64_t ox = 0; ox < r->wo; ox++) {
        const int64_t left = r->x.low[ox], right = r->x.high[ox];
        const vreal fx = vset(r->x.part[ox]);
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        const vreal p = vld(a->x, t, (up + left) * c + (i), n);                                    \
        const vreal q = vld(a->x, t, (up + right) * c + (i), n);                                   \
        const vreal u = vld(a->x, t, (down + left) * c + (i), n);                                  \
        const vreal v = vld(a->x, t, (down + right) * c + (i), n);                                 \
        const vreal above = vfma(fx, q - p, p), below = vfma(fx, v - u, u);                        \
        vst(a->y, t, (line * r->wo + ox) * c + (i), n, vfma(fy, below - above, above));            \
    } while (0)
        V_LOOP(c, STEP);
#undef STEP
    }
}

static void resize_fwd_line(const struct dr_resize_fwd_args *a, const struct resize *r,
                            int64_t line) {
    FOR_DTYPE(a->t, T, resize_fwd_as(a, r, T, line));
}

void DR_ISA_FN(resize_fwd)(struct dr_backend *be, const struct dr_resize_fwd_args *a) {
    struct resize r;
    if (!resize_of(be, &r, a->h, a->w, a->c, a->ho, a->wo, a->nearest))
        return;
    DR_PARALLEL_FOR(be, a->b * a->ho * a->wo * a->c >= DR_PAYS)
    for (int64_t line = 0; line < a->b * a->ho; line++)
        resize_fwd_line(a, &r, line);
}

// What output p takes from source pixel s.
static real weight_of(const struct axis *a, int64_t p, int64_t s) {
    return (a->low[p] == s ? 1 - a->part[p] : 0) + (a->high[p] == s ? a->part[p] : 0);
}

DR_INLINE void resize_bwd_as(const struct dr_resize_bwd_args *a, const struct resize *r,
                             enum dr_dtype t, int64_t line) {
    const int64_t out = line / r->h * r->ho * r->wo, sy = line % r->h, c = r->c;
    for (int64_t sx = 0; sx < r->w; sx++) {
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal sum = {0};                                                                           \
        for (int64_t oy = r->y.from[sy]; oy < r->y.to[sy]; oy++) {                                 \
            const real wy = weight_of(&r->y, oy, sy);                                              \
            for (int64_t ox = r->x.from[sx]; ox < r->x.to[sx]; ox++)                               \
                sum = vfma(vset(wy * weight_of(&r->x, ox, sx)),                                    \
                           vld(a->dy, t, (out + oy * r->wo + ox) * c + (i), n), sum);              \
        }                                                                                          \
        vst(a->dx, t, (line * r->w + sx) * c + (i), n, sum);                                       \
    } while (0)
        V_LOOP(c, STEP);
#undef STEP
    }
}

static void resize_bwd_line(const struct dr_resize_bwd_args *a, const struct resize *r,
                            int64_t line) {
    FOR_DTYPE(a->t, T, resize_bwd_as(a, r, T, line));
}

void DR_ISA_FN(resize_bwd)(struct dr_backend *be, const struct dr_resize_bwd_args *a) {
    struct resize r;
    if (!resize_of(be, &r, a->h, a->w, a->c, a->ho, a->wo, a->nearest))
        return;
    DR_PARALLEL_FOR(be, a->b * a->ho * a->wo * a->c >= DR_PAYS)
    for (int64_t line = 0; line < a->b * a->h; line++)
        resize_bwd_line(a, &r, line);
}
