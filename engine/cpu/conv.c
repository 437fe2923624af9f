// 2-D convolution as matrix products, forward, towards the data and towards the weights.
//
// Forward and backward-data are one operation: every pixel of dst sums, over the taps, the product
// of a pixel of src with that tap's matrix; only the map from (pixel, tap) to the source pixel and
// the roles of the channels differ. The source pixels of a destination pixel side by side are its
// patch; the product makes patches where it uses them (dr_gemm_source), never all of them. Backward
// with a stride, pixels of dst whose coordinates leave the same remainder use the same taps: each
// such class is a product of its own, so that no patch has holes.
//   Most shapes go to oneDNN's own convolutions instead (conv_onednn.c), which make no patches.
//   Towards few channels patches cost more than they give. There, one product of the source pixels
// with all taps, then each line of dst gathers what reaches it. A side with very few goes to
// conv_thin.c. Rows of products do not depend on the number of rows and taps are added in a fixed
// order, so a sample does not depend on the batch.
#include "engine/cpu/conv.h"

#include "engine/cpu/fn.h"

#include <omp.h>

enum { MOST = 31, FEW = 16, LANES = 16, BLOCK_BYTES = 1 << 20 };

// The taps that pixels of an axis use: source pixel = at stride + off[i], where `at` counts the
// pixels of a class; in ascending order of the source. tap: their numbers in the kernel.
struct taps {
    int64_t count;
    int32_t off[MOST], tap[MOST];
};

// Taps of the pixels first, first + step, ... of an axis; step: 1 forward, the stride backward.
static struct taps taps_of(int64_t k, int64_t pad, int64_t dil, int64_t step, bool back,
                           int64_t first) {
    struct taps a = {.count = 0};
    for (int64_t i = 0; i < k; i++) {
        const int64_t tap = back ? k - 1 - i : i, at = first + pad - dil * tap;
        if (back && at % step)
            continue;
        a.off[a.count] = (int32_t)(back ? at / step : dil * tap - pad);
        a.tap[a.count++] = (int32_t)tap;
    }
    return a;
}

// ---- patches
// --------------------------------------------------------------------------------------

// The patches of the pixels of a class: rows [b gh gw] of [y.count][x.count][c].
struct view {
    const void *src;
    int64_t sh, sw, c, gh, gw, stride;
    size_t width; // bytes of an element
    struct taps y, x;
    bool side_by_side; // the source pixels of a line of taps
};

static bool side_by_side(const struct taps *x) {
    for (int64_t i = 1; i < x->count; i++)
        if (x->off[i] != x->off[i - 1] + 1)
            return false;
    return true;
}

// out = values [from, to) of a line that has `there` values from src on; zeros on both sides of it.
DR_INLINE char *copy_clipped(char *out, const char *src, int64_t from, int64_t to, int64_t there,
                             size_t width) {
    const int64_t lo = DR_MIN(DR_MAX(from, (int64_t)0), to);
    const int64_t hi = DR_MAX(DR_MIN(to, there), lo);
    if (lo > from)
        memset(out, 0, (size_t)(lo - from) * width);
    if (hi > lo)
        memcpy(out + (size_t)(lo - from) * width, src + (size_t)lo * width,
               (size_t)(hi - lo) * width);
    if (to > hi)
        memset(out + (size_t)(hi - from) * width, 0, (size_t)(to - hi) * width);
    return out + (size_t)(to - from) * width;
}

// Values [from, to) of the line of taps of a pixel whose first source pixel is x. line: the source
// line, NULL outside of the image.
DR_INLINE char *patch_line(const struct view *v, char *out, const char *line, int64_t x,
                           int64_t from, int64_t to) {
    const int64_t c = v->c;
    if (!line) {
        memset(out, 0, (size_t)(to - from) * v->width);
        return out + (size_t)(to - from) * v->width;
    }
    if (v->side_by_side) {
        const int64_t at = (x + v->x.off[0]) * c;
        return copy_clipped(out, line, at + from, at + to, v->sw * c, v->width);
    }
    for (int64_t i = from / c; i * c < to; i++) {
        const int64_t at = (x + v->x.off[i]) * c - i * c;
        const int64_t lo = DR_MAX(from, i * c), hi = DR_MIN(to, (i + 1) * c);
        out = copy_clipped(out, line, at + lo, at + hi, v->sw * c, v->width);
    }
    return out;
}

static void fill(const void *ctx, void *out, int64_t ld, int64_t row, int64_t rows, int64_t col,
                 int64_t cols) {
    const struct view *v = ctx;
    const int64_t wide = v->x.count * v->c, first = col / wide, last = (col + cols - 1) / wide;
    const size_t line = (size_t)(v->sw * v->c) * v->width;
    int64_t gx = row % v->gw, gy = row / v->gw % v->gh, n = row / v->gw / v->gh;
    for (int64_t r = 0; r < rows; r++) {
        char *to = (char *)out + (size_t)(r * ld) * v->width;
        const char *image = (const char *)v->src + (size_t)(n * v->sh) * line;
        for (int64_t i = first; i <= last; i++) {
            const int64_t sy = gy * v->stride + v->y.off[i];
            to = patch_line(v, to, sy < 0 || sy >= v->sh ? NULL : image + (size_t)sy * line,
                            gx * v->stride, DR_MAX(col - i * wide, (int64_t)0),
                            DR_MIN(col + cols - i * wide, wide));
        }
        if (++gx == v->gw) {
            gx = 0;
            if (++gy == v->gh)
                gy = 0, n++;
        }
    }
}

// ---- weights
// --------------------------------------------------------------------------------------

// Taps of a class of pixels as [taps][b], for one index of the weight's first side: out, `step`
// between taps, from w[b][kh][kw].
DR_INLINE void arrange_as(char *out, enum dr_dtype t, const real *w, int64_t b, int64_t all,
                          int64_t kw, const struct view *v, int64_t step) {
    for (int64_t i = 0; i < v->y.count * v->x.count; i++) {
        const real *from = w + v->y.tap[i / v->x.count] * kw + v->x.tap[i % v->x.count];
        char *to = out + (size_t)(i * step) * dr_sizeof(t);
#define STEP(j, n)                                                                                 \
    do {                                                                                           \
        vreal x = {0};                                                                             \
        for (int64_t l = 0; l < (n); l++)                                                          \
            x[l] = from[((j) + l) * all];                                                          \
        vst(to, t, j, n, x);                                                                       \
    } while (0)
        V_LOOP(b, STEP);
#undef STEP
    }
}

// Forward [co][taps][ci], backward [taps][co][ci], from weight [co][ci][kh][kw].
static void arrange_weight(struct dr_backend *be, void *out, enum dr_dtype t, const real *w,
                           const struct geo *g, int64_t co, int64_t ci, const struct view *v) {
    const int64_t all = g->kh * g->kw, taps = v->y.count * v->x.count;
    DR_PARALLEL_FOR(be, co * taps * ci >= DR_PAYS)
    for (int64_t o = 0; o < co; o++) {
        char *to = dr_at_mut(out, t, g->back ? o * ci : o * taps * ci);
        const int64_t step = g->back ? co * ci : ci;
        if (t == DR_BF16)
            arrange_as(to, DR_BF16, w + o * ci * all, ci, all, g->kw, v, step);
        else
            arrange_as(to, DR_F32, w + o * ci * all, ci, all, g->kw, v, step);
    }
}

// ---- forward and backward-data
// ---------------------------------------------------------------------------

// A class of pixels of dst: those at (fy + i step, fx + j step).
struct class {
    struct view v; // first: `fill` takes the class for it
    const struct conv_apply *a;
    int64_t fy, fx, step;
};

// `count` values from `line` to element `at` of out.
static void store_line(void *out, enum dr_dtype t, int64_t at, const real *line, int64_t count) {
    if (t == DR_BF16) {
#define STEP(i, n) vst(out, DR_BF16, at + (i), n, vld(line, DR_F32, i, n))
        V_LOOP(count, STEP);
#undef STEP
    } else {
        memcpy((real *)out + at, line, (size_t)count * sizeof *line);
    }
}

// Values of the class into their places in dst.
static void store(const void *ctx, const real *sum, int64_t row, int64_t rows, int64_t col,
                  int64_t cols) {
    const struct class *k = ctx;
    const struct geo *g = &k->a->g;
    for (int64_t r = row; r < row + rows; r++, sum += cols) {
        const int64_t x = r % k->v.gw, y = r / k->v.gw % k->v.gh, n = r / k->v.gw / k->v.gh;
        const int64_t at = (n * g->dh + k->fy + y * k->step) * g->dw + k->fx + x * k->step;
        store_line(k->a->dst, k->a->t, at * k->a->cd + col, sum, cols);
    }
}

DR_INLINE void finish_as(const struct conv_apply *a, enum dr_dtype t, enum dr_fn fn,
                         const real *sum, int64_t row, int64_t rows, int64_t col, int64_t cols) {
    for (int64_t r = row; r < row + rows; r++, sum += cols) {
        const int64_t at = r * a->ldd + col;
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal v = vld(sum, DR_F32, i, n);                                                          \
        if (a->bias)                                                                               \
            v += vld(a->bias, DR_F32, col + (i), n);                                               \
        vst(a->dst, t, at + (i), n, vfn(t, fn, v));                                                \
    } while (0)
        V_LOOP(cols, STEP);
#undef STEP
    }
}

// Forward sums with the bias and fn, ldd apart.
static void finish(const void *ctx, const real *sum, int64_t row, int64_t rows, int64_t col,
                   int64_t cols) {
    const struct conv_apply *a = ((const struct class *)ctx)->a;
    if (a->fn == DR_FN_RELU)
        FOR_DTYPE(a->t, T, finish_as(a, T, DR_FN_RELU, sum, row, rows, col, cols));
    else
        FOR_DTYPE(a->t, T, finish_as(a, T, a->fn, sum, row, rows, col, cols));
}

static bool finishes(const struct conv_apply *a) {
    return a->fn != DR_FN_NONE || a->ldd != a->cd;
}

// The product of a class; all of dst is one class where step is 1.
static void apply_class(struct dr_backend *be, const struct class *k) {
    const struct conv_apply *a = k->a;
    const struct geo *g = &a->g;
    const struct view *v = &k->v;
    const int64_t depth = v->y.count * v->x.count * a->cs;
    void *weight = dr_cpu_scratch(be, DR_WS_CONV, (size_t)(a->cd * depth) * dr_sizeof(a->t));
    if (!weight)
        return;
    arrange_weight(be, weight, a->t, a->weight, g, g->back ? a->cs : a->cd, g->back ? a->cd : a->cs,
                   v);
    const bool last = finishes(a);
    const struct dr_gemm_source from = {.fill = fill,
                                        .store = last          ? finish
                                                 : k->step > 1 ? store
                                                               : NULL,
                                        .ctx = k};
    const struct dr_gemm_args m = {.m = g->b * v->gh * v->gw,
                                   .n = a->cd,
                                   .k = depth,
                                   .a = a->src,
                                   .b = weight,
                                   .c = a->dst,
                                   .lda = depth,
                                   .ldb = g->back ? a->cd : depth,
                                   .ldc = a->cd,
                                   .tb = !g->back,
                                   .abt = a->t,
                                   .ct = a->t,
                                   .bias = last ? NULL : a->bias,
                                   .rows = v->gh * v->gw};
    // the image may be its own patches
    const bool itself = depth == a->cs && v->stride == 1 && k->step == 1 && v->y.off[0] == 0 &&
                        v->x.off[0] == 0 && g->sh == g->dh && g->sw == g->dw;
    if (itself && !last)
        dr_cpu_gemm(be, &m);
    else
        dr_cpu_gemm_from(be, &m, &from);
}

static void apply_patches(struct dr_backend *be, const struct conv_apply *a) {
    const struct geo *g = &a->g;
    const int64_t step = g->back ? g->stride : 1;
    if (step > g->kh || step > g->kw || (step > 1 && g->dil > 1)) // some pixels have no taps
        memset(a->dst, 0, (size_t)(g->b * g->dh * g->dw * a->cd) * dr_sizeof(a->t));
    for (int64_t i = 0; i < step * step; i++) {
        const int64_t fy = i / step, fx = i % step;
        struct class k = {.v = {.src = a->src,
                                .sh = g->sh,
                                .sw = g->sw,
                                .c = a->cs,
                                .gh = (g->dh - fy + step - 1) / step,
                                .gw = (g->dw - fx + step - 1) / step,
                                .stride = g->back ? 1 : g->stride,
                                .width = dr_sizeof(a->t),
                                .y = taps_of(g->kh, g->padh, g->dil, step, g->back, fy),
                                .x = taps_of(g->kw, g->padw, g->dil, step, g->back, fx)},
                          .a = a,
                          .fy = fy,
                          .fx = fx,
                          .step = step};
        k.v.side_by_side = side_by_side(&k.v.x);
        if (k.v.gh > 0 && k.v.gw > 0 && k.v.y.count && k.v.x.count)
            apply_class(be, &k);
    }
}

// ---- towards few channels
// --------------------------------------------------------------------------------

// Source pixel p reaches destination pixels p step - pad + tap, backward and (with a stride of 1
// and mirrored taps) forward.
struct reach {
    int64_t step, pady, padx;
};

// out[kh][kw][cd][cs], the taps mirrored going forward, from weight[co][ci][kh][kw].
static void arrange_taps(void *out, const struct conv_apply *a) {
    const int64_t taps = a->g.kh * a->g.kw;
    for (int64_t d = 0; d < a->cd; d++)
        for (int64_t s = 0; s < a->cs; s++)
            for (int64_t i = 0; i < taps; i++) {
                const real *w = a->weight + (a->g.back ? s * a->cd + d : d * a->cs + s) * taps;
                dr_put(out, a->t, (i * a->cd + d) * a->cs + s, w[a->g.back ? i : taps - 1 - i]);
            }
}

// line[dw][cd] = bias + what the source pixels of a sample, sums[sh][sw][kh][kw][cd], give line y.
static void gather_line(real *line, const real *sums, const struct conv_apply *a,
                        const struct reach *k, int64_t y) {
    const struct geo *g = &a->g;
    const int64_t cd = a->cd, wide = g->kw * cd;
    for (int64_t i = 0; i < g->dw * cd; i++)
        line[i] = a->bias ? a->bias[i % cd] : 0;
    for (int64_t tap = 0; tap < g->kh; tap++) {
        const int64_t at = y + k->pady - tap, sy = at / k->step;
        if (at < 0 || at % k->step || sy >= g->sh)
            continue;
        for (int64_t sx = 0; sx < g->sw; sx++) {
            const real *from = sums + ((sy * g->sw + sx) * g->kh + tap) * wide;
            const int64_t to = (sx * k->step - k->padx) * cd;
            const int64_t lo = DR_MAX(-to, (int64_t)0), hi = DR_MIN(g->dw * cd - to, wide);
            for (int64_t i = lo; i < hi; i += VL) {
                const int64_t n = DR_MIN(hi - i, (int64_t)VL);
                const vreal v = vld(from, DR_F32, i, n) + vld(line, DR_F32, to + i, n);
                vst(line, DR_F32, to + i, n, v);
            }
        }
    }
}

static size_t aligned(size_t n) {
    return (n + DR_ALIGN - 1) / DR_ALIGN * DR_ALIGN;
}

static void apply_taps(struct dr_backend *be, const struct conv_apply *a) {
    const struct geo *g = &a->g;
    const int64_t wide = g->kh * g->kw * a->cd, row = g->dw * a->cd;
    const int64_t pixels = g->sh * g->sw, unit = pixels * wide * (int64_t)sizeof(real);
    const int64_t block = DR_MAX(DR_MIN((int64_t)BLOCK_BYTES / unit, g->b), (int64_t)1);
    const size_t each = aligned((size_t)row * sizeof(real));
    const size_t weights = aligned((size_t)(wide * a->cs) * dr_sizeof(a->t));
    char *room = dr_cpu_scratch(be, DR_WS_CONV,
                                weights + each * (size_t)be->threads + (size_t)(block * unit));
    if (!room)
        return;
    char *lines = room + weights;
    real *sums = (real *)(void *)(lines + each * (size_t)be->threads);
    const struct reach k = {.step = g->back ? g->stride : 1,
                            .pady = g->back ? g->padh : g->kh - 1 - g->padh,
                            .padx = g->back ? g->padw : g->kw - 1 - g->padw};
    arrange_taps(room, a);
    for (int64_t from = 0; from < g->b; from += block) {
        const int64_t samples = DR_MIN(block, g->b - from);
        dr_cpu_gemm(be, &(struct dr_gemm_args){.m = samples * pixels,
                                               .n = wide,
                                               .k = a->cs,
                                               .a = dr_at(a->src, a->t, from * pixels * a->cs),
                                               .b = room,
                                               .c = sums,
                                               .lda = a->cs,
                                               .ldb = a->cs,
                                               .ldc = wide,
                                               .tb = true,
                                               .abt = a->t,
                                               .ct = DR_F32,
                                               .rows = pixels});
        DR_PARALLEL_FOR(be, samples * pixels * wide >= DR_PAYS / 4)
        for (int64_t i = 0; i < samples * g->dh; i++) {
            real *line = (real *)(void *)(lines + each * (size_t)omp_get_thread_num());
            gather_line(line, sums + i / g->dh * pixels * wide, a, &k, i % g->dh);
            store_line(a->dst, a->t, (from * g->dh + i) * row, line, row);
        }
    }
}

// Where patches would be copied for little: the product's width is a few channels.
static bool taps_pay(const struct geo *g, int64_t cs, int64_t cd) {
    const bool reaches = g->dil == 1 && (g->back || g->stride == 1);
    return reaches && g->kh * g->kw > 1 && cd < FEW && 2 * g->sh * g->sw * cd < g->dh * g->dw * cs;
}

// ---- the ops
// --------------------------------------------------------------------------------------

// False: recorded as an error.
static bool fits(struct dr_backend *be, const struct geo *g, const char *op) {
    if (g->kh <= MOST && g->kw <= MOST && g->dh > 0 && g->dw > 0 && g->sh > 0 && g->sw > 0)
        return true;
    dr_cpu_error(be, DR_EINVAL, op, "a kernel of 1 to 31 pixels that fits into the padded image");
    return false;
}

static void apply(struct dr_backend *be, const struct conv_apply *a) {
    const struct geo *g = &a->g;
    if (!fits(be, g, g->back ? "conv2d_bwd_data" : "conv2d_fwd"))
        return;
    const bool spread = a->cs < a->cd && a->cd % LANES == 0 && dr_conv_whole_few(be, a->t, a->cs);
    const bool patches = finishes(a); // the others cannot
    if (!patches && !spread && dr_conv_thin(g, a->cs, a->cd))
        dr_conv_thin_apply(be, a);
    else if (!patches && taps_pay(g, a->cs, a->cd))
        apply_taps(be, a);
    else if (patches || !dr_conv_whole(be, a))
        apply_patches(be, a);
}

// From the forward pass's input to its output, or back.
static struct geo geo_of(struct dr_conv_dims d, int64_t b, int64_t h, int64_t w, int64_t stride,
                         bool back) {
    return (struct geo){.b = b,
                        .sh = back ? d.ho : h,
                        .sw = back ? d.wo : w,
                        .dh = back ? h : d.ho,
                        .dw = back ? w : d.wo,
                        .kh = d.kh,
                        .kw = d.kw,
                        .padh = d.padh,
                        .padw = d.padw,
                        .stride = stride,
                        .dil = d.dil,
                        .back = back};
}

void DR_ISA_FN(conv2d_fwd)(struct dr_backend *be, const struct dr_conv2d_fwd_args *a) {
    apply(be,
          &(struct conv_apply){.g = geo_of(dr_conv_dims_of(a), a->b, a->h, a->w, a->stride, false),
                               .dst = a->y,
                               .src = a->x,
                               .t = a->t,
                               .weight = a->weight,
                               .bias = a->bias,
                               .cs = a->ci,
                               .cd = a->co,
                               .ldd = a->ldy ? a->ldy : a->co,
                               .fn = a->fn,
                               .version = a->version});
}

void DR_ISA_FN(conv2d_bwd_data)(struct dr_backend *be, const struct dr_conv2d_bwd_data_args *a) {
    apply(be,
          &(struct conv_apply){.g = geo_of(dr_conv_dims_of(a), a->b, a->h, a->w, a->stride, true),
                               .dst = a->dx,
                               .src = a->dy,
                               .t = a->t,
                               .weight = a->weight,
                               .cs = a->co,
                               .cd = a->ci,
                               .ldd = a->ci,
                               .version = a->version});
}

// ---- backward-weight
// -------------------------------------------------------------------------------------

// dweight[co][ci][taps] += sum[co][taps][ci]
static void add_weight(struct dr_backend *be, real *dw, const real *sum, int64_t co, int64_t ci,
                       int64_t taps) {
    DR_PARALLEL_FOR(be, co * ci * taps >= DR_PAYS)
    for (int64_t o = 0; o < co; o++)
        for (int64_t i = 0; i < ci; i++)
            for (int64_t tap = 0; tap < taps; tap++)
                dw[(o * ci + i) * taps + tap] += sum[(o * taps + tap) * ci + i];
}

// sum[co][taps ci] = dy' P(x)
static void weight_by_patches(struct dr_backend *be, const struct dr_conv2d_bwd_weight_args *a,
                              const struct geo *g) {
    const int64_t taps = g->kh * g->kw, depth = taps * a->ci;
    struct view v = {.src = a->x,
                     .sh = g->sh,
                     .sw = g->sw,
                     .c = a->ci,
                     .gh = g->dh,
                     .gw = g->dw,
                     .stride = g->stride,
                     .width = dr_sizeof(a->t),
                     .y = taps_of(g->kh, g->padh, g->dil, 1, false, 0),
                     .x = taps_of(g->kw, g->padw, g->dil, 1, false, 0)};
    v.side_by_side = side_by_side(&v.x);
    real *sum = dr_cpu_scratch(be, DR_WS_CONV, (size_t)(a->co * depth) * sizeof *sum);
    if (!sum || g->b < 1)
        return;
    const bool itself = taps == 1 && g->stride == 1 && g->padh == 0 && g->padw == 0;
    const struct dr_gemm_args m = {.m = a->co,
                                   .n = depth,
                                   .k = g->b * g->dh * g->dw,
                                   .a = a->dy,
                                   .b = a->x,
                                   .c = sum,
                                   .lda = a->co,
                                   .ldb = depth,
                                   .ldc = depth,
                                   .ta = true,
                                   .abt = a->t,
                                   .ct = DR_F32,
                                   .rows = DR_MAX(g->dh * g->dw, (int64_t)2)};
    if (itself)
        dr_cpu_gemm(be, &m);
    else
        dr_cpu_gemm_from(be, &m, &(struct dr_gemm_source){.fill = fill, .ctx = &v});
    add_weight(be, a->dweight, sum, a->co, a->ci, taps);
}

void DR_ISA_FN(conv2d_bwd_weight)(struct dr_backend *be,
                                  const struct dr_conv2d_bwd_weight_args *a) {
    const struct geo g = geo_of(dr_conv_dims_of(a), a->b, a->h, a->w, a->stride, false);
    if (!fits(be, &g, "conv2d_bwd_weight"))
        return;
    const bool whole = a->ci < a->co && dr_conv_whole_few(be, a->t, a->ci);
    if (!whole && dr_conv_thin(&g, a->ci, a->co))
        dr_conv_thin_weight(be, a, &g);
    else if (!dr_conv_whole_weight(be, a, &g))
        weight_by_patches(be, a, &g);
    if (a->dbias)
        dr_cpu_colsum(be, &(struct dr_colsum_args){.out = a->dbias,
                                                   .x = a->dy,
                                                   .xt = a->t,
                                                   .m = a->b * g.dh * g.dw,
                                                   .n = a->co,
                                                   .acc = true});
}
