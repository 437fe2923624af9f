// Maps of a pixel's channels with a fused residual and activation, forward and backward: group
// normalisation, a scale and shift per channel, and sums. Called through the op table by nn/.
// Formulas are at the argument structs in ops.h.
//
// Both per-channel ops are rows of fn((x - mean) mul + add + r). Channels lie on lanes. Order: a
// channel's sums add the pixels of a sample (group normalisation) or of ROWS rows in turn;
// gradients of parameters add samples or blocks of rows in turn. Neither the batch nor the threads
// enter a sample's values.
#include "engine/cpu/fn.h"

enum { ROWS = 256, BLOCK = 4096 };

struct affine {
    const void *x, *r;
    const real *mean, *mul, *add; // [c]
    int64_t c;
    enum dr_fn fn;
};

// Calls F(..., i, W, n) over [0, c) channels from i on: W vectors of n lanes each, W a constant.
#define W_LOOP(c, F)                                                                               \
    do {                                                                                           \
        int64_t w_i = 0;                                                                           \
        for (; w_i + 4 * VL <= (c); w_i += 4 * VL)                                                 \
            F(w_i, 4, VL);                                                                         \
        for (; w_i + 2 * VL <= (c); w_i += 2 * VL)                                                 \
            F(w_i, 2, VL);                                                                         \
        for (; w_i < (c); w_i += VL)                                                               \
            F(w_i, 1, DR_MIN((c)-w_i, (int64_t)VL));                                               \
    } while (0)

// ---- rows
// -----------------------------------------------------------------------------------------

DR_INLINE void rows_fwd_as(const struct affine *f, void *y, enum dr_dtype t, enum dr_dtype xt,
                           int64_t from, int64_t rows) {
    for (int64_t row = from; row < from + rows; row++) {
        const int64_t at = row * f->c;
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal x = vld(f->x, xt, at + (i), n) - vld(f->mean, DR_F32, i, n);                         \
        x = vfma(x, vld(f->mul, DR_F32, i, n), vld(f->add, DR_F32, i, n));                         \
        if (f->r)                                                                                  \
            x += vld(f->r, t, at + (i), n);                                                        \
        vst(y, t, at + (i), n, vfn(t, f->fn, x));                                                  \
    } while (0)
        V_LOOP(f->c, STEP);
#undef STEP
    }
}

static void rows_fwd(const struct affine *f, void *y, enum dr_dtype t, enum dr_dtype xt,
                     int64_t from, int64_t rows) {
    FOR_DTYPE(t, T, FOR_DTYPE(xt, XT, rows_fwd_as(f, y, T, XT, from, rows)));
}

// g = dy fn' summed over rows, and g (x - mean), of W vectors of channels from i on.
DR_INLINE void sums_as(const struct affine *f, const void *dy, enum dr_dtype t, enum dr_dtype xt,
                       int64_t from, int64_t rows, real *sg, real *sx, int64_t i, const int W,
                       int64_t n) {
    vreal g[4] = {{0}}, gx[4] = {{0}}, mean[4], mul[4], add[4];
    for (int k = 0; k < W; k++) {
        mean[k] = vld(f->mean, DR_F32, i + k * VL, n);
        mul[k] = vld(f->mul, DR_F32, i + k * VL, n);
        add[k] = vld(f->add, DR_F32, i + k * VL, n);
    }
    for (int64_t row = from; row < from + rows; row++)
#pragma GCC unroll 4
        for (int k = 0; k < W; k++) {
            const int64_t at = row * f->c + i + k * VL;
            const vreal x = vld(f->x, xt, at, n) - mean[k];
            vreal pre = vfma(x, mul[k], add[k]);
            if (f->r)
                pre += vld(f->r, t, at, n);
            const vreal v = vslope(t, f->fn, pre, vld(dy, t, at, n));
            g[k] += v;
            gx[k] = vfma(v, x, gx[k]);
        }
    for (int k = 0; k < W; k++) {
        vst(sg, DR_F32, i + k * VL, n, g[k]);
        vst(sx, DR_F32, i + k * VL, n, gx[k]);
    }
}

static void sums(const struct affine *f, const void *dy, enum dr_dtype t, enum dr_dtype xt,
                 int64_t from, int64_t rows, real *sg, real *sx) {
#define F(i, W, n)                                                                                 \
    FOR_DTYPE(t, T, FOR_DTYPE(xt, XT, sums_as(f, dy, T, XT, from, rows, sg, sx, i, W, n)))
    W_LOOP(f->c, F);
#undef F
}

// dx = g mul - off - (x - mean) slant (off NULL: without both) and dr = g; either may be NULL.
struct back {
    void *dx, *dr;
    const void *dy;
    const real *off, *slant; // [c]
};

DR_INLINE void rows_bwd_as(const struct affine *f, const struct back *b, enum dr_dtype t,
                           enum dr_dtype xt, int64_t from, int64_t rows) {
    for (int64_t row = from; row < from + rows; row++) {
        const int64_t at = row * f->c;
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        const vreal x = vld(f->x, xt, at + (i), n) - vld(f->mean, DR_F32, i, n);                   \
        const vreal mul = vld(f->mul, DR_F32, i, n);                                               \
        vreal pre = vfma(x, mul, vld(f->add, DR_F32, i, n));                                       \
        if (f->r)                                                                                  \
            pre += vld(f->r, t, at + (i), n);                                                      \
        const vreal g = vslope(t, f->fn, pre, vld(b->dy, t, at + (i), n));                         \
        vreal d = g * mul;                                                                         \
        if (b->off)                                                                                \
            d -= vfma(x, vld(b->slant, DR_F32, i, n), vld(b->off, DR_F32, i, n));                  \
        if (b->dr)                                                                                 \
            vst(b->dr, t, at + (i), n, g);                                                         \
        if (b->dx)                                                                                 \
            vst(b->dx, xt, at + (i), n, d);                                                        \
    } while (0)
        V_LOOP(f->c, STEP);
#undef STEP
    }
}

static void rows_bwd(const struct affine *f, const struct back *b, enum dr_dtype t,
                     enum dr_dtype xt, int64_t from, int64_t rows) {
    FOR_DTYPE(t, T, FOR_DTYPE(xt, XT, rows_bwd_as(f, b, T, XT, from, rows)));
}

// out[c] += the sums of all parts, `stride` reals apart; out NULL: not wanted.
static void add_parts(real *out, const real *part, int64_t parts, int64_t stride, int64_t c) {
    for (int64_t p = 0; out && p < parts; p++)
        for (int64_t i = 0; i < c; i++)
            out[i] += part[p * stride + i];
}

// out[p,c] = part p; out NULL: not wanted.
static void copy_parts(real *out, int64_t out_stride, const real *part, int64_t parts,
                       int64_t stride, int64_t c) {
    for (int64_t p = 0; out && p < parts; p++)
        memcpy(out + p * out_stride, part + p * stride, (size_t)c * sizeof *out);
}

// ---- group normalisation
// --------------------------------------------------------------------------

// Per channel of a sample: its first pixel, and the sums of (x - first) and of its square. Without
// the shift a mean far from 0 would take the variance's digits.
DR_INLINE void moments_as(const void *x, enum dr_dtype t, int64_t at, int64_t n, int64_t c,
                          real *out, int64_t i, const int W, int64_t lanes) {
    vreal first[4], s[4] = {{0}}, q[4] = {{0}};
    for (int k = 0; k < W; k++)
        first[k] = vld(x, t, at + i + k * VL, lanes);
    for (int64_t p = 1; p < n; p++)
#pragma GCC unroll 4
        for (int k = 0; k < W; k++) {
            const vreal v = vld(x, t, at + p * c + i + k * VL, lanes) - first[k];
            s[k] += v;
            q[k] = vfma(v, v, q[k]);
        }
    for (int k = 0; k < W; k++) {
        vst(out, DR_F32, i + k * VL, lanes, first[k]);
        vst(out, DR_F32, c + i + k * VL, lanes, s[k]);
        vst(out, DR_F32, 2 * c + i + k * VL, lanes, q[k]);
    }
}

static void moments(const void *x, enum dr_dtype t, int64_t at, int64_t n, int64_t c, real *out) {
#define F(i, W, lanes) FOR_DTYPE(t, T, moments_as(x, T, at, n, c, out, i, W, lanes))
    W_LOOP(c, F);
#undef F
}

// Mean and rstd of a group of `width` channels from the moments [3][c], at the group's first one.
static void group_stats(const real *m, int64_t n, int64_t c, int64_t width, real eps, real *mean,
                        real *rstd) {
    const double pixels = (double)n, count = pixels * (double)width;
    double sum = 0, square = 0;
    for (int64_t i = 0; i < width; i++)
        sum += (double)m[i] * pixels + (double)m[c + i];
    const double centre = sum / count;
    for (int64_t i = 0; i < width; i++) {
        const double s = m[c + i], apart = (double)m[i] + s / pixels - centre;
        square += (double)m[2 * c + i] - s * s / pixels + pixels * apart * apart;
    }
    *mean = (real)centre;
    *rstd = (real)(1 / sqrt(DR_MAX(square, 0.0) / count + (double)eps));
}

// A sample's own, or the one of all.
static const real *of_sample(const real *p, int64_t stride, int64_t b) {
    return p ? p + stride * b : NULL;
}

// A sample's statistics per channel, from those of its groups: [3][c], mean, mul and add.
static void spread(real *per, const real *mean, const real *rstd, const real *weight,
                   const real *bias, int64_t c, int64_t groups) {
    for (int64_t i = 0; i < c; i++) {
        const int64_t g = i / (c / groups);
        per[i] = mean[g];
        per[c + i] = rstd[g] * (weight ? weight[i] : 1);
        per[2 * c + i] = bias ? bias[i] : 0;
    }
}

// room: [3 c + 2 groups] of the sample.
static void group_fwd_sample(const struct dr_groupnorm_fwd_args *a, int64_t b, real *room) {
    const int64_t c = a->c, width = c / a->groups;
    real *mean = a->mean ? a->mean + b * a->groups : room + 3 * c;
    real *rstd = a->rstd ? a->rstd + b * a->groups : room + 3 * c + a->groups;
    moments(a->x, a->t, b * a->n * c, a->n, c, room);
    for (int64_t g = 0; g < a->groups; g++)
        group_stats(room + g * width, a->n, c, width, a->eps, mean + g, rstd + g);
    spread(room, mean, rstd, of_sample(a->weight, a->stride, b), of_sample(a->bias, a->stride, b),
           c, a->groups);
    const struct affine f = {.x = a->x,
                             .r = a->r,
                             .mean = room,
                             .mul = room + c,
                             .add = room + 2 * c,
                             .c = c,
                             .fn = a->fn};
    rows_fwd(&f, a->y, a->t, a->t, b * a->n, a->n);
}

void DR_ISA_FN(groupnorm_fwd)(struct dr_backend *be, const struct dr_groupnorm_fwd_args *a) {
    const int64_t each = 3 * a->c + 2 * a->groups;
    real *room = dr_cpu_scratch(be, DR_WS_OP, (size_t)(a->b * each) * sizeof *room);
    if (!room)
        return;
    DR_PARALLEL_FOR(be, a->b * a->n * a->c >= DR_PAYS)
    for (int64_t b = 0; b < a->b; b++)
        group_fwd_sample(a, b, room + b * each);
}

// off and slant of a group: rstd mean(g weight), rstd^2 mean(g weight xh). sg: sums of g per
// channel, sxh: of g xh.
static void group_slope(const real *sg, const real *sxh, const real *weight, int64_t n,
                        int64_t width, real rstd, real *off, real *slant) {
    double a = 0, b = 0;
    for (int64_t i = 0; i < width; i++) {
        const double w = weight ? weight[i] : 1;
        a += w * sg[i];
        b += w * sxh[i];
    }
    const double count = (double)(n * width);
    for (int64_t i = 0; i < width; i++) {
        off[i] = (real)(rstd * a / count);
        slant[i] = (real)((double)rstd * rstd * b / count);
    }
}

// room: [7][c] of the sample: sums of g and of g xh (left there for the weights), mean, mul, add,
// off, slant.
static void group_bwd_sample(const struct dr_groupnorm_bwd_args *a, int64_t b, real *room) {
    const int64_t c = a->c, width = c / a->groups, from = b * a->n;
    const real *mean = a->mean + b * a->groups, *rstd = a->rstd + b * a->groups;
    real *sg = room, *sxh = room + c, *per = room + 2 * c, *off = room + 5 * c;
    const real *weight = of_sample(a->weight, a->stride, b);
    spread(per, mean, rstd, weight, of_sample(a->bias, a->stride, b), c, a->groups);
    const struct affine f = {
        .x = a->x, .r = a->r, .mean = per, .mul = per + c, .add = per + 2 * c, .c = c, .fn = a->fn};
    sums(&f, a->dy, a->t, a->t, from, a->n, sg, sxh);
    for (int64_t i = 0; i < c; i++)
        sxh[i] *= rstd[i / width];
    for (int64_t g = 0; g < a->groups; g++) {
        const int64_t i = g * width;
        group_slope(sg + i, sxh + i, weight ? weight + i : NULL, a->n, width, rstd[g], off + i,
                    off + c + i);
    }
    rows_bwd(&f,
             &(struct back){.dx = a->dx, .dr = a->dr, .dy = a->dy, .off = off, .slant = off + c},
             a->t, a->t, from, a->n);
}

void DR_ISA_FN(groupnorm_bwd)(struct dr_backend *be, const struct dr_groupnorm_bwd_args *a) {
    const int64_t each = 7 * a->c;
    real *room = dr_cpu_scratch(be, DR_WS_OP, (size_t)(a->b * each) * sizeof *room);
    if (!room)
        return;
    DR_PARALLEL_FOR(be, a->b * a->n * a->c >= DR_PAYS)
    for (int64_t b = 0; b < a->b; b++)
        group_bwd_sample(a, b, room + b * each);
    if (a->stride) {
        copy_parts(a->dbias, a->stride, room, a->b, each, a->c);
        copy_parts(a->dweight, a->stride, room + a->c, a->b, each, a->c);
        return;
    }
    add_parts(a->dbias, room, a->b, each, a->c);
    add_parts(a->dweight, room + a->c, a->b, each, a->c);
}

// ---- scale and shift per channel
// ------------------------------------------------------------------

// The map from its parameters; room: [3][c].
static struct affine affine_of(const void *x, const void *r, const real *scale, const real *shift,
                               int64_t c, enum dr_fn fn, real *room) {
    for (int64_t i = 0; i < c; i++) {
        room[i] = 0;
        room[c + i] = scale ? scale[i] : 1;
        room[2 * c + i] = shift ? shift[i] : 0;
    }
    return (struct affine){
        .x = x, .r = r, .mean = room, .mul = room + c, .add = room + 2 * c, .c = c, .fn = fn};
}

void DR_ISA_FN(channel_affine_fwd)(struct dr_backend *be,
                                   const struct dr_channel_affine_fwd_args *a) {
    real *room = dr_cpu_scratch(be, DR_WS_OP, (size_t)(3 * a->c) * sizeof *room);
    if (!room)
        return;
    const struct affine f = affine_of(a->x, a->r, a->scale, a->shift, a->c, a->fn, room);
    DR_PARALLEL_FOR(be, a->m * a->c >= DR_PAYS)
    for (int64_t row = 0; row < a->m; row += ROWS)
        rows_fwd(&f, a->y, a->t, a->xt, row, DR_MIN((int64_t)ROWS, a->m - row));
}

void DR_ISA_FN(channel_affine_bwd)(struct dr_backend *be,
                                   const struct dr_channel_affine_bwd_args *a) {
    const int64_t c = a->c, parts = (a->m + ROWS - 1) / ROWS;
    const bool wanted = a->dscale || a->dshift;
    real *room =
        dr_cpu_scratch(be, DR_WS_OP, (size_t)(c * (3 + (wanted ? 2 * parts : 0))) * sizeof *room);
    if (!room)
        return;
    const struct affine f = affine_of(a->x, a->r, a->scale, a->shift, c, a->fn, room);
    const struct back b = {.dx = a->dx, .dr = a->dr, .dy = a->dy};
    real *part = room + 3 * c;
    DR_PARALLEL_FOR(be, a->m * c >= DR_PAYS)
    for (int64_t p = 0; p < parts; p++) {
        const int64_t from = p * ROWS, rows = DR_MIN((int64_t)ROWS, a->m - from);
        if (wanted)
            sums(&f, a->dy, a->t, a->xt, from, rows, part + p * 2 * c, part + p * 2 * c + c);
        if (a->dx || a->dr)
            rows_bwd(&f, &b, a->t, a->xt, from, rows);
    }
    add_parts(a->dshift, part, parts, 2 * c, c);
    add_parts(a->dscale, part + c, parts, 2 * c, c);
}

// ---- sums
// -----------------------------------------------------------------------------------------

DR_INLINE void add_fwd_as(const struct dr_add_act_fwd_args *a, enum dr_dtype t, int64_t at,
                          int64_t len) {
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal x = vld(a->a, t, at + (i), n);                                                       \
        if (a->b)                                                                                  \
            x += vld(a->b, t, at + (i), n);                                                        \
        vst(a->y, t, at + (i), n, vfn(t, a->fn, x));                                               \
    } while (0)
    V_LOOP(len, STEP);
#undef STEP
}

static void add_fwd(const struct dr_add_act_fwd_args *a, int64_t at, int64_t len) {
    FOR_DTYPE(a->t, T, add_fwd_as(a, T, at, len));
}

void DR_ISA_FN(add_act_fwd)(struct dr_backend *be, const struct dr_add_act_fwd_args *a) {
    DR_PARALLEL_FOR(be, a->n >= DR_PAYS)
    for (int64_t at = 0; at < a->n; at += BLOCK)
        add_fwd(a, at, DR_MIN((int64_t)BLOCK, a->n - at));
}

DR_INLINE void add_bwd_as(const struct dr_add_act_bwd_args *a, enum dr_dtype t, int64_t at,
                          int64_t len) {
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal x = vld(a->a, t, at + (i), n);                                                       \
        if (a->b)                                                                                  \
            x += vld(a->b, t, at + (i), n);                                                        \
        vst(a->dx, t, at + (i), n, vslope(t, a->fn, x, vld(a->dy, t, at + (i), n)));               \
    } while (0)
    V_LOOP(len, STEP);
#undef STEP
}

static void add_bwd(const struct dr_add_act_bwd_args *a, int64_t at, int64_t len) {
    FOR_DTYPE(a->t, T, add_bwd_as(a, T, at, len));
}

void DR_ISA_FN(add_act_bwd)(struct dr_backend *be, const struct dr_add_act_bwd_args *a) {
    DR_PARALLEL_FOR(be, a->n >= DR_PAYS)
    for (int64_t at = 0; at < a->n; at += BLOCK)
        add_bwd(a, at, DR_MIN((int64_t)BLOCK, a->n - at));
}
