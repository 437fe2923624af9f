// Convolutions of stride 1 with few channels on one side: the pixel head of a generator, the first
// layer of an encoder. A product would be a sliver of a tile, so these are direct loops, a sample a
// task, over a copy of the sample's image in fp32 with the zero padding around it:
//   spread: few source channels; each pixel of dst accumulates `cd` channels over the taps;
//   dots:   few destination channels; a line of taps is contiguous, so each is one dot product;
//   weight: an outer product of the few channels' taps with the other side's channels.
// A sample's sums see that sample only, in a fixed order; weight sums are added sample by sample.
#include "engine/cpu/conv.h"

#include <omp.h>

enum { FEW = 4, DEPTH = 64, LANES = 64 / sizeof(real), BLOCK = 2 * LANES };

// 64 bytes of reals at any address; the compiler splits it where the CPU's vectors are shorter.
typedef real vec __attribute__((vector_size(64), aligned(sizeof(real)), may_alias));

static int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}

bool dr_conv_thin(int64_t k, int64_t stride, int64_t cs, int64_t cd) {
    int64_t few = DR_MIN(cs, cd);
    return stride == 1 && k > 1 && few <= FEW && few * k * k <= DEPTH && DR_MAX(cs, cd) <= 512;
}

// The image with `pad` zeros on each side, a row being `row` reals: out[sh + 2 pad][row].
DR_HOT static void pad_image(real *restrict out, const void *src, enum dr_dtype t, int64_t sh,
                             int64_t sw, int64_t c, int64_t pad, int64_t row) {
    size_t edge = (size_t)(pad * row + pad * c) * sizeof *out,
           gap = (size_t)(2 * pad * c) * sizeof *out;
    memset(out, 0, edge); // the lines above and the first left edge
    for (int64_t y = 0; y < sh; y++) {
        real *to = out + (y + pad) * row + pad * c;
        memset(to + sw * c, 0, y + 1 < sh ? gap : edge); // a right edge and the next left one
        if (t == DR_BF16)
            dr_load(to, dr_at(src, DR_BF16, y * sw * c), DR_BF16, sw * c);
        else
            dr_load(to, dr_at(src, DR_F32, y * sw * c), DR_F32, sw * c);
    }
}

// A thread's buffers, side by side in one block: the padded image, then `extra` reals.
struct room {
    real *base;
    int64_t each, image, row;
};

static bool room_alloc(struct dr_backend *be, struct room *r, int64_t sh, int64_t sw, int64_t c,
                       int64_t pad, int64_t extra, int64_t shared, real **common) {
    r->row = (sw + 2 * pad) * c;
    r->image = round_up((sh + 2 * pad) * r->row + LANES, LANES); // dots read past the last pixel
    r->each = r->image + round_up(extra, LANES);
    shared = round_up(shared, LANES);
    *common =
        dr_cpu_scratch(be, DR_WS_CONV, (size_t)(shared + be->threads * r->each) * sizeof(real));
    r->base = *common ? *common + shared : NULL;
    if (*common) // also the tails, which meet zero weights and must not be NaN
        memset(*common, 0, (size_t)(shared + be->threads * r->each) * sizeof(real));
    return *common != NULL;
}

static real *room_of_thread(const struct room *r) {
    return r->base + omp_get_thread_num() * r->each;
}

// Weight of (destination d, source s, tap), the taps mirrored going back.
static real weight_at(const struct conv_apply *a, int64_t d, int64_t s, int64_t tap) {
    int64_t taps = a->g.k * a->g.k;
    return a->g.back ? a->weight[(s * a->cd + d) * taps + taps - 1 - tap]
                     : a->weight[(d * a->cs + s) * taps + tap];
}

// ---- few source channels
// -----------------------------------------------------------------------------------

// BLOCK channels of one line. s: the padded line; w: [k][kc][wide]; kc = k cs.
DR_INLINE void spread_block(void *restrict out, enum dr_dtype t, const real *restrict s,
                            int64_t row, const real *restrict w, const real *restrict bias,
                            int64_t wide, int64_t dw, int64_t cs, int64_t k, int64_t cd,
                            int64_t n) {
    for (int64_t x = 0; x < dw; x++) {
        union {
            vec v[2];
            real r[BLOCK];
        } a;
        vec a0 = *(const vec *)bias, a1 = *(const vec *)(bias + LANES);
        for (int64_t ky = 0; ky < k; ky++)
            for (int64_t j = 0; j < k * cs; j++) {
                const real v = s[ky * row + x * cs + j], *q = w + (ky * k * cs + j) * wide;
                a0 += v * *(const vec *)q;
                a1 += v * *(const vec *)(q + LANES);
            }
        a.v[0] = a0;
        a.v[1] = a1;
        for (int64_t c = 0; c < n; c++)
            dr_put(out, t, x * cd + c, a.r[c]);
    }
}

DR_HOT static void spread_line(void *out, enum dr_dtype t, int64_t at, const real *s, int64_t row,
                               const real *w, const real *bias, int64_t wide,
                               const struct conv_apply *a) {
    int64_t dw = a->g.dw, cs = a->cs, k = a->g.k, cd = a->cd;
    for (int64_t c = 0; c < cd; c += BLOCK) {
        void *to = dr_at_mut(out, t, at + c);
        if (cd - c < BLOCK)
            spread_block(to, t, s, row, w + c, bias + c, wide, dw, cs, k, cd, cd - c);
        else if (t == DR_BF16)
            spread_block(to, DR_BF16, s, row, w + c, bias + c, wide, dw, cs, k, cd, BLOCK);
        else if (cs == 1 && k == 3)
            spread_block(to, DR_F32, s, row, w + c, bias + c, wide, dw, 1, 3, cd, BLOCK);
        else
            spread_block(to, DR_F32, s, row, w + c, bias + c, wide, dw, cs, k, cd, BLOCK);
    }
}

static void spread(struct dr_backend *be, const struct conv_apply *a, int64_t pad) {
    const struct geo *g = &a->g;
    int64_t taps = g->k * g->k, depth = taps * a->cs, wide = round_up(a->cd, BLOCK);
    struct room r;
    real *w;
    if (!room_alloc(be, &r, g->sh, g->sw, a->cs, pad, 0, (depth + 1) * wide, &w))
        return;
    real *bias = w + depth * wide;
    for (int64_t d = 0; d < a->cd; d++) {
        bias[d] = a->bias ? a->bias[d] : 0;
        for (int64_t i = 0; i < depth; i++)
            w[i * wide + d] = weight_at(a, d, i % a->cs, i / a->cs);
    }
    DR_PARALLEL_FOR(be, g->b * g->dh * g->dw * depth * a->cd >= DR_PAYS)
    for (int64_t n = 0; n < g->b; n++) {
        real *image = room_of_thread(&r);
        pad_image(image, dr_at(a->src, a->t, n * g->sh * g->sw * a->cs), a->t, g->sh, g->sw, a->cs,
                  pad, r.row);
        for (int64_t y = 0; y < g->dh; y++)
            spread_line(a->dst, a->t, (n * g->dh + y) * g->dw * a->cd, image + y * r.row, r.row, w,
                        bias, wide, a);
    }
}

// ---- few destination channels
// ------------------------------------------------------------------------------

typedef real quad __attribute__((vector_size(4 * sizeof(real)), aligned(sizeof(real)), may_alias));

// The sums of the lanes of four vectors, each in the same fixed order.
DR_INLINE void fold_four(real out[4], const real lanes[4][LANES]) {
    quad q[4];
    for (int i = 0; i < 4; i++) {
        q[i] = *(const quad *)lanes[i];
        for (int64_t l = 4; l < (int64_t)LANES; l += 4)
            q[i] += *(const quad *)(lanes[i] + l);
    }
    quad s = __builtin_shufflevector(q[0], q[1], 0, 4, 1, 5) +
             __builtin_shufflevector(q[0], q[1], 2, 6, 3, 7);
    quad u = __builtin_shufflevector(q[2], q[3], 0, 4, 1, 5) +
             __builtin_shufflevector(q[2], q[3], 2, 6, 3, 7);
    *(quad *)out =
        __builtin_shufflevector(s, u, 0, 1, 4, 5) + __builtin_shufflevector(s, u, 2, 3, 6, 7);
}

// Dot products of four pixels, the last ones repeated at the end of a line. w: [k][len].
DR_INLINE void dots_four(real out[4], const real *s, int64_t row, int64_t cs, int64_t left,
                         const real *restrict w, int64_t len, int64_t k) {
    real lanes[4][LANES];
    const real *p[4];
    vec sum[4] = {0};
    for (int i = 0; i < 4; i++)
        p[i] = s + DR_MIN((int64_t)i, left - 1) * cs;
    for (int64_t ky = 0; ky < k; ky++)
        for (int64_t j = 0; j < len; j += LANES)
            for (int i = 0; i < 4; i++)
                sum[i] += *(const vec *)(p[i] + ky * row + j) * *(const vec *)(w + ky * len + j);
    for (int i = 0; i < 4; i++)
        *(vec *)lanes[i] = sum[i];
    fold_four(out, lanes);
}

// One line of one channel, `step` elements apart. w: [k][len], len = k cs rounded up to LANES with
// zeros.
DR_HOT static void dots_line(void *out, enum dr_dtype t, int64_t at, int64_t step, const real *s,
                             int64_t row, const real *w, int64_t len, real bias,
                             const struct conv_apply *a) {
    int64_t dw = a->g.dw, cs = a->cs;
    for (int64_t x = 0; x < dw; x += 4) {
        real four[4];
        int64_t n = DR_MIN(dw - x, (int64_t)4);
        if (a->g.k == 3 && len == 6 * LANES)
            dots_four(four, s + x * cs, row, cs, n, w, 6 * LANES, 3);
        else
            dots_four(four, s + x * cs, row, cs, n, w, len, a->g.k);
        for (int64_t i = 0; i < n; i++)
            dr_put(out, t, at + (x + i) * step, four[i] + bias);
    }
}

static void dots(struct dr_backend *be, const struct conv_apply *a, int64_t pad) {
    const struct geo *g = &a->g;
    int64_t len = round_up(g->k * a->cs, LANES);
    struct room r;
    real *w;
    if (!room_alloc(be, &r, g->sh, g->sw, a->cs, pad, 0, a->cd * g->k * len, &w))
        return;
    for (int64_t d = 0; d < a->cd; d++)
        for (int64_t tap = 0; tap < g->k * g->k; tap++)
            for (int64_t s = 0; s < a->cs; s++)
                w[(d * g->k + tap / g->k) * len + tap % g->k * a->cs + s] = weight_at(a, d, s, tap);
    DR_PARALLEL_FOR(be, g->b * g->dh * g->dw * g->k * len * a->cd >= DR_PAYS)
    for (int64_t n = 0; n < g->b; n++) {
        real *image = room_of_thread(&r);
        pad_image(image, dr_at(a->src, a->t, n * g->sh * g->sw * a->cs), a->t, g->sh, g->sw, a->cs,
                  pad, r.row);
        for (int64_t i = 0; i < g->dh * a->cd; i++) {
            int64_t y = i / a->cd, d = i % a->cd;
            dots_line(a->dst, a->t, (n * g->dh + y) * g->dw * a->cd + d, a->cd, image + y * r.row,
                      r.row, w + d * g->k * len, len, a->bias ? a->bias[d] : 0, a);
        }
    }
}

void dr_conv_thin_apply(struct dr_backend *be, const struct conv_apply *a) {
    int64_t pad = a->g.back ? a->g.k - 1 - a->g.pad : a->g.pad; // mirrored taps, mirrored padding
    if (a->cs <= a->cd)
        spread(be, a, pad);
    else
        dots(be, a, pad);
}

// ---- weights
// -----------------------------------------------------------------------------------------------

// sum[depth][wide] += taps of `px` pixels times their `wide` channels. s: padded line of the few
// channels at the first pixel; f: [px][wide].
DR_INLINE void outer_pixels(real *restrict sum, const real *restrict s, int64_t row,
                            const real *restrict f, int64_t wide, int64_t few, int64_t k, int px) {
    for (int64_t c = 0; c < wide; c += BLOCK)
        for (int64_t ky = 0; ky < k; ky++)
            for (int64_t j = 0; j < k * few; j++) {
                real *to = sum + (ky * k * few + j) * wide + c;
                const real *p = s + ky * row + j;
                vec a0 = *(vec *)to, a1 = *(vec *)(to + LANES);
                for (int i = 0; i < px; i++) {
                    a0 += p[i * few] * *(const vec *)(f + i * wide + c);
                    a1 += p[i * few] * *(const vec *)(f + i * wide + c + LANES);
                }
                *(vec *)to = a0;
                *(vec *)(to + LANES) = a1;
            }
}

DR_HOT static void outer_line(real *sum, const real *s, int64_t row, const real *f, int64_t wide,
                              int64_t few, int64_t k, int64_t pixels) {
    int64_t x = 0;
    if (wide == BLOCK && few == 1 && k == 3)
        for (; x + 4 <= pixels; x += 4)
            outer_pixels(sum, s + x, row, f + x * BLOCK, BLOCK, 1, 3, 4);
    for (; x + 4 <= pixels; x += 4)
        outer_pixels(sum, s + x * few, row, f + x * wide, wide, few, k, 4);
    for (; x < pixels; x++)
        outer_pixels(sum, s + x * few, row, f + x * wide, wide, few, k, 1);
}

DR_HOT static void widen_line(real *restrict out, int64_t wide, const void *src, enum dr_dtype t,
                              int64_t at, int64_t c, int64_t pixels) {
    for (int64_t x = 0; x < pixels; x++)
        if (t == DR_BF16)
            dr_load(out + x * wide, dr_at(src, DR_BF16, at + x * c), DR_BF16, c);
        else
            dr_load(out + x * wide, dr_at(src, DR_F32, at + x * c), DR_F32, c);
}

// One convolution seen from its few-channel side: `small` is padded so that pixel p of `flat` meets
// small[p + tap]. With few input channels that is the forward map; with few output channels the
// roles swap and the taps are mirrored.
void dr_conv_thin_weight(struct dr_backend *be, const struct dr_conv2d_bwd_weight_args *a) {
    int64_t ho = a->h + 2 * a->pad - a->k + 1, wo = a->w + 2 * a->pad - a->k + 1,
            taps = a->k * a->k;
    bool of_x = a->ci <= a->co;
    int64_t few = of_x ? a->ci : a->co, many = of_x ? a->co : a->ci, wide = round_up(many, BLOCK);
    int64_t sh = of_x ? a->h : ho, sw = of_x ? a->w : wo, fh = of_x ? ho : a->h,
            fw = of_x ? wo : a->w;
    int64_t pad = of_x ? a->pad : a->k - 1 - a->pad, depth = taps * few;
    const void *small = of_x ? a->x : a->dy, *flat = of_x ? a->dy : a->x;
    struct room r;
    real *sums;
    if (!room_alloc(be, &r, sh, sw, few, pad, fw * wide, a->b * depth * wide, &sums))
        return;
    DR_PARALLEL_FOR(be, a->b * fh * fw * depth * wide >= DR_PAYS)
    for (int64_t n = 0; n < a->b; n++) {
        real *image = room_of_thread(&r), *line = image + r.image;
        pad_image(image, dr_at(small, a->t, n * sh * sw * few), a->t, sh, sw, few, pad, r.row);
        for (int64_t y = 0; y < fh; y++) {
            int64_t at = (n * fh + y) * fw * many;
            const real *from = line;
            if (a->t == DR_F32 && many == wide)
                from = (const real *)flat + at;
            else
                widen_line(line, wide, flat, a->t, at, many, fw);
            outer_line(sums + n * depth * wide, image + y * r.row, r.row, from, wide, few, a->k,
                       fw);
        }
    }
    for (int64_t n = 1; n < a->b; n++)
        for (int64_t i = 0; i < depth * wide; i++)
            sums[i] += sums[n * depth * wide + i];
    for (int64_t i = 0; i < depth; i++)
        for (int64_t c = 0; c < many; c++) {
            int64_t tap = i / few, f = i % few;
            int64_t at = of_x ? (c * few + f) * taps + tap : (f * many + c) * taps + taps - 1 - tap;
            a->dweight[at] += sums[i * wide + c];
        }
}
