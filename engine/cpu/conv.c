// 2-D convolution as matrix products, forward, towards the data and towards the weights.
//
// Forward and backward-data are one operation: every pixel of dst sums, over the k x k taps, the
// product of a pixel of src with that tap's matrix; only the map from (pixel, tap) to the source
// pixel and the roles of the channels differ. Two ways, whichever moves less memory:
//   patches: copy the source pixels of a block of lines side by side, one product with all taps;
//   taps:    one product of the source pixels with all taps, then each dst pixel gathers its sums.
// Both cut the work into blocks that stay in the cache. Rows of products do not depend on the
// number of rows and taps are added in a fixed order, so a sample does not depend on the batch. A
// side with few channels goes to conv_thin.c.
#include "engine/cpu/conv.h"

enum { BLOCK_BYTES = 1 << 20 };

struct block { // buffers of one call, in the workspace
    void *cols, *weight;
    int64_t lines; // lines of dst (patches) or samples (taps) in a block
};

// Source coordinate of destination coordinate p and tap, or -1.
DR_INLINE int64_t source_of(const struct geo *g, int64_t p, int64_t tap, int64_t limit) {
    int64_t s = g->back ? p + g->pad - tap : p * g->stride - g->pad + tap;
    if (g->back && g->stride > 1) {
        if (s < 0 || s % g->stride)
            return -1;
        s /= g->stride;
    }
    return s < 0 || s >= limit ? -1 : s;
}

// One line of patches: out[dw][k][k][c] from the image src[sh][sw][c].
DR_INLINE void patch_line(char *restrict out, const char *restrict src, const struct geo *g,
                          int64_t y, size_t pixel) {
    for (int64_t x = 0; x < g->dw; x++)
        for (int64_t ky = 0; ky < g->k; ky++) {
            int64_t sy = source_of(g, y, ky, g->sh);
            for (int64_t kx = 0; kx < g->k; kx++, out += pixel) {
                int64_t sx = sy < 0 ? -1 : source_of(g, x, kx, g->sw);
                if (sx < 0)
                    memset(out, 0, pixel);
                else
                    memcpy(out, src + (size_t)(sy * g->sw + sx) * pixel, pixel);
            }
        }
}

// Pixels of one channel are the common small case: a constant size turns the copies into moves.
static void patch_row(char *out, const char *src, const struct geo *g, int64_t y, size_t pixel) {
    if (pixel == 4)
        patch_line(out, src, g, y, 4);
    else if (pixel == 2)
        patch_line(out, src, g, y, 2);
    else
        patch_line(out, src, g, y, pixel);
}

// Lines [from, from + lines) of the b*dh lines of patches.
static void patches(struct dr_backend *be, const struct geo *g, void *out, const void *src,
                    int64_t c, enum dr_dtype t, int64_t from, int64_t lines) {
    size_t pixel = (size_t)c * dr_sizeof(t), line = (size_t)(g->dw * g->k * g->k) * pixel;
    DR_PARALLEL_FOR(be, lines * g->dw * g->k * g->k * c >= DR_PAYS / 4)
    for (int64_t i = 0; i < lines; i++) {
        int64_t n = (from + i) / g->dh, y = (from + i) % g->dh;
        patch_row((char *)out + (size_t)i * line,
                  (const char *)src + (size_t)(n * g->sh * g->sw) * pixel, g, y, pixel);
    }
}

// out[taps][cd][cs] or, with `rows_first`, out[cd][taps][cs], from weight[co][ci][taps].
// `swap`: the destination's channels are ci.
static void arrange_weight(void *out, enum dr_dtype t, const real *w, int64_t cd, int64_t cs,
                           int64_t taps, bool swap, bool rows_first) {
    for (int64_t d = 0; d < cd; d++)
        for (int64_t tap = 0; tap < taps; tap++)
            for (int64_t s = 0; s < cs; s++) {
                int64_t to = rows_first ? (d * taps + tap) * cs + s : (tap * cd + d) * cs + s;
                int64_t at = swap ? (s * cd + d) * taps + tap : (d * cs + s) * taps + tap;
                dr_put(out, t, to, w[at]);
            }
}

// Adds the taps of one line: out[dw][cd] (+ bias) from sums[sh][sw][taps][cd] of the same sample.
static void gather_line(void *out, enum dr_dtype t, int64_t at, const real *sums, const real *bias,
                        const struct geo *g, int64_t y, int64_t cd) {
    int64_t taps = g->k * g->k;
    for (int64_t x = 0; x < g->dw; x++)
        for (int64_t c0 = 0; c0 < cd; c0 += 64) {
            real acc[64];
            int64_t n = DR_MIN((int64_t)64, cd - c0);
            for (int64_t c = 0; c < n; c++)
                acc[c] = bias ? bias[c0 + c] : 0;
            for (int64_t tap = 0; tap < taps; tap++) {
                int64_t sy = source_of(g, y, tap / g->k, g->sh);
                int64_t sx = sy < 0 ? -1 : source_of(g, x, tap % g->k, g->sw);
                if (sx < 0)
                    continue;
                const real *s = sums + ((sy * g->sw + sx) * taps + tap) * cd + c0;
                for (int64_t c = 0; c < n; c++)
                    acc[c] += s[c];
            }
            for (int64_t c = 0; c < n; c++)
                dr_put(out, t, at + x * cd + c0 + c, acc[c]);
        }
}

static bool block_alloc(struct dr_backend *be, struct block *k, size_t unit, int64_t units,
                        size_t weight) {
    k->lines = DR_MAX(DR_MIN((int64_t)(BLOCK_BYTES / DR_MAX(unit, 1)), units), (int64_t)1);
    weight = (weight + DR_ALIGN - 1) / DR_ALIGN * DR_ALIGN;
    k->weight = dr_cpu_scratch(be, DR_WS_CONV, weight + unit * (size_t)k->lines);
    k->cols = (char *)k->weight + weight;
    return k->weight != NULL;
}

// ---- forward and backward-data
// ---------------------------------------------------------------------------

static void apply_patches(struct dr_backend *be, const struct conv_apply *a) {
    const struct geo *g = &a->g;
    int64_t taps = g->k * g->k, depth = taps * a->cs;
    bool direct = taps == 1 && g->stride == 1 && g->pad == 0; // the image is its own patches
    struct block k;
    if (!block_alloc(be, &k, (size_t)(g->dw * depth) * dr_sizeof(a->t), g->b * g->dh,
                     (size_t)(a->cd * depth) * dr_sizeof(a->t)))
        return;
    arrange_weight(k.weight, a->t, a->weight, a->cd, a->cs, taps, g->back, true);
    if (direct)
        k.lines = g->b * g->dh;
    for (int64_t from = 0; from < g->b * g->dh; from += k.lines) {
        int64_t lines = DR_MIN(k.lines, g->b * g->dh - from);
        if (!direct)
            patches(be, g, k.cols, a->src, a->cs, a->t, from, lines);
        dr_cpu_gemm(be, &(struct dr_gemm_args){.m = lines * g->dw,
                                               .n = a->cd,
                                               .k = depth,
                                               .a = direct ? a->src : k.cols,
                                               .b = k.weight,
                                               .c = dr_at_mut(a->dst, a->t, from * g->dw * a->cd),
                                               .lda = depth,
                                               .ldb = depth,
                                               .ldc = a->cd,
                                               .tb = true,
                                               .abt = a->t,
                                               .ct = a->t,
                                               .bias = a->bias,
                                               .rows = g->dw});
    }
}

static void apply_taps(struct dr_backend *be, const struct conv_apply *a) {
    const struct geo *g = &a->g;
    int64_t taps = g->k * g->k, wide = taps * a->cd, pixels = g->sh * g->sw;
    struct block k;
    if (!block_alloc(be, &k, (size_t)(pixels * wide) * sizeof(real), g->b,
                     (size_t)(wide * a->cs) * dr_sizeof(a->t)))
        return;
    arrange_weight(k.weight, a->t, a->weight, a->cd, a->cs, taps, g->back, false);
    for (int64_t from = 0; from < g->b; from += k.lines) {
        int64_t samples = DR_MIN(k.lines, g->b - from);
        dr_cpu_gemm(be, &(struct dr_gemm_args){.m = samples * pixels,
                                               .n = wide,
                                               .k = a->cs,
                                               .a = dr_at(a->src, a->t, from * pixels * a->cs),
                                               .b = k.weight,
                                               .c = k.cols,
                                               .lda = a->cs,
                                               .ldb = a->cs,
                                               .ldc = wide,
                                               .tb = true,
                                               .abt = a->t,
                                               .ct = DR_F32,
                                               .rows = pixels});
        DR_PARALLEL_FOR(be, samples * pixels * wide >= DR_PAYS / 4)
        for (int64_t i = 0; i < samples * g->dh; i++)
            gather_line(a->dst, a->t, (from * g->dh + i) * g->dw * a->cd,
                        (const real *)k.cols + i / g->dh * pixels * wide, a->bias, g, i % g->dh,
                        a->cd);
    }
}

static void apply(struct dr_backend *be, const struct conv_apply *a) {
    const struct geo *g = &a->g;
    if (dr_conv_thin(g->k, g->stride, a->cs, a->cd))
        dr_conv_thin_apply(be, a);
    else if (g->k > 1 && 2 * g->sh * g->sw * a->cd < g->dh * g->dw * a->cs)
        apply_taps(be, a);
    else
        apply_patches(be, a);
}

static int64_t out_size(int64_t in, int64_t k, int64_t stride, int64_t pad) {
    return (in + 2 * pad - k) / stride + 1;
}

void DR_ISA_FN(conv2d_fwd)(struct dr_backend *be, const struct dr_conv2d_fwd_args *a) {
    apply(be, &(struct conv_apply){.g = {.b = a->b,
                                         .sh = a->h,
                                         .sw = a->w,
                                         .dh = out_size(a->h, a->k, a->stride, a->pad),
                                         .dw = out_size(a->w, a->k, a->stride, a->pad),
                                         .k = a->k,
                                         .stride = a->stride,
                                         .pad = a->pad},
                                   .dst = a->y,
                                   .src = a->x,
                                   .t = a->t,
                                   .weight = a->weight,
                                   .bias = a->bias,
                                   .cs = a->ci,
                                   .cd = a->co});
}

void DR_ISA_FN(conv2d_bwd_data)(struct dr_backend *be, const struct dr_conv2d_bwd_data_args *a) {
    apply(be, &(struct conv_apply){.g = {.b = a->b,
                                         .dh = a->h,
                                         .dw = a->w,
                                         .sh = out_size(a->h, a->k, a->stride, a->pad),
                                         .sw = out_size(a->w, a->k, a->stride, a->pad),
                                         .k = a->k,
                                         .stride = a->stride,
                                         .pad = a->pad,
                                         .back = true},
                                   .dst = a->dx,
                                   .src = a->dy,
                                   .t = a->t,
                                   .weight = a->weight,
                                   .cs = a->co,
                                   .cd = a->ci});
}

// ---- backward-weight
// -------------------------------------------------------------------------------------

// dweight[co][ci][taps] += sum[co][taps][ci], or sum[taps][co][ci] with taps_first.
static void add_weight(real *dw, const real *sum, int64_t co, int64_t ci, int64_t taps,
                       bool taps_first) {
    for (int64_t o = 0; o < co; o++)
        for (int64_t i = 0; i < ci; i++)
            for (int64_t tap = 0; tap < taps; tap++)
                dw[(o * ci + i) * taps + tap] +=
                    sum[taps_first ? (tap * co + o) * ci + i : (o * taps + tap) * ci + i];
}

// With patches of x: sum[co][taps ci] = dy' P(x). With patches of dy, when it has fewer values to
// copy: sum[taps co][ci] = P(dy)' x.
static void weight_by_patches(struct dr_backend *be, const struct dr_conv2d_bwd_weight_args *a) {
    int64_t ho = out_size(a->h, a->k, a->stride, a->pad),
            wo = out_size(a->w, a->k, a->stride, a->pad);
    int64_t taps = a->k * a->k;
    bool of_dy = a->h * a->w * a->co < ho * wo * a->ci;
    struct geo g = {.b = a->b,
                    .sh = a->h,
                    .sw = a->w,
                    .dh = ho,
                    .dw = wo,
                    .k = a->k,
                    .stride = a->stride,
                    .pad = a->pad};
    if (of_dy)
        g = (struct geo){.b = a->b,
                         .sh = ho,
                         .sw = wo,
                         .dh = a->h,
                         .dw = a->w,
                         .k = a->k,
                         .stride = a->stride,
                         .pad = a->pad,
                         .back = true};
    int64_t depth = taps * (of_dy ? a->co : a->ci), other = of_dy ? a->ci : a->co;
    struct block k;
    if (!block_alloc(be, &k, (size_t)(g.dw * depth) * dr_sizeof(a->t), g.b * g.dh,
                     (size_t)(depth * other) * sizeof(real)))
        return;
    for (int64_t from = 0; from < g.b * g.dh; from += k.lines) {
        int64_t lines = DR_MIN(k.lines, g.b * g.dh - from), pixels = lines * g.dw;
        patches(be, &g, k.cols, of_dy ? a->dy : a->x, of_dy ? a->co : a->ci, a->t, from, lines);
        const void *flat = dr_at(of_dy ? a->x : a->dy, a->t, from * g.dw * other);
        dr_cpu_gemm(be, &(struct dr_gemm_args){.m = of_dy ? depth : other,
                                               .n = of_dy ? other : depth,
                                               .k = pixels,
                                               .a = of_dy ? k.cols : flat,
                                               .b = of_dy ? flat : k.cols,
                                               .c = k.weight,
                                               .lda = of_dy ? depth : other,
                                               .ldb = of_dy ? other : depth,
                                               .ldc = of_dy ? other : depth,
                                               .ta = true,
                                               .acc = from > 0,
                                               .abt = a->t,
                                               .ct = DR_F32,
                                               .rows = g.dw});
    }
    add_weight(a->dweight, k.weight, a->co, a->ci, taps, of_dy);
}

void DR_ISA_FN(conv2d_bwd_weight)(struct dr_backend *be,
                                  const struct dr_conv2d_bwd_weight_args *a) {
    if (dr_conv_thin(a->k, a->stride, a->ci, a->co))
        dr_conv_thin_weight(be, a);
    else
        weight_by_patches(be, a);
    int64_t ho = out_size(a->h, a->k, a->stride, a->pad),
            wo = out_size(a->w, a->k, a->stride, a->pad);
    if (a->dbias)
        dr_cpu_colsum(be, &(struct dr_colsum_args){.out = a->dbias,
                                                   .x = a->dy,
                                                   .xt = a->t,
                                                   .m = a->b * ho * wo,
                                                   .n = a->co,
                                                   .acc = true});
}
