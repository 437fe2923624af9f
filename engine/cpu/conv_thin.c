// Convolutions of stride 1 with few channels on one side: the pixel head of a generator, the first
// layer of an encoder. A product would be a sliver of a tile, so these are direct loops, a sample a
// task, over fp32 copies of lines with the zero padding around them:
//   spread: few source channels; each pixel of dst accumulates its channels over the taps;
//   dots:   few destination channels; a line of taps is contiguous, so each is one dot product;
//   weight: an outer product of the few channels' taps with the other side's channels.
// A sample's sums see that sample only, in a fixed order; weight sums are added sample by sample.
#include "engine/cpu/conv.h"

#include "engine/cpu/vec.h"

#include <omp.h>

enum { FEW = 4, DEPTH = 64 };
#define PX 4           // pixels of a register block
#define BLOCK (2 * VL) // channels of one
#if VBYTES == 64
#define TAPS 9 // of a block of weights: 18 accumulators of 32 registers
#else
#define TAPS 5 // 10 of 16
#endif

static int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}

bool dr_conv_thin(const struct geo *g, int64_t cs, int64_t cd) {
    const int64_t few = DR_MIN(cs, cd), k = g->kh;
    const bool plain = g->stride == 1 && g->dil == 1 && g->kw == k && g->padh == g->padw;
    return plain && k > 1 && few <= FEW && few * k * k <= DEPTH && DR_MAX(cs, cd) <= 512;
}

// What a call needs: memory common to the threads, then `each` reals of every thread. All of it is
// 0: padding stays so, and tails meet zero weights and must not be NaN.
struct room {
    real *common, *base;
    int64_t each;
};

static bool room_alloc(struct dr_backend *be, struct room *r, int64_t common, int64_t each) {
    common = round_up(common, 64), each = round_up(each, 64);
    const size_t bytes = (size_t)(common + be->threads * each) * sizeof(real);
    *r = (struct room){.common = dr_cpu_scratch(be, DR_WS_CONV, bytes), .each = each};
    if (!r->common)
        return false;
    r->base = r->common + common;
    memset(r->common, 0, bytes);
    return true;
}

static real *room_of_thread(const struct room *r) {
    return r->base + omp_get_thread_num() * r->each;
}

DR_INLINE void widen_as(real *out, const void *src, enum dr_dtype t, int64_t at, int64_t n) {
#define STEP(i, m) vst(out, DR_F32, i, m, vld(src, t, at + (i), m))
    V_LOOP(n, STEP);
#undef STEP
}

// out[n] = n elements of src from `at` on.
static void widen(real *out, const void *src, enum dr_dtype t, int64_t at, int64_t n) {
    if (t == DR_BF16)
        widen_as(out, src, DR_BF16, at, n);
    else
        widen_as(out, src, DR_F32, at, n);
}

// The image of a sample in the middle of out[sh + 2 pad][row], row = (sw + 2 pad) c.
static void pad_image(real *out, const void *src, enum dr_dtype t, int64_t at, int64_t sh,
                      int64_t sw, int64_t c, int64_t pad) {
    const int64_t row = (sw + 2 * pad) * c;
    for (int64_t y = 0; y < sh; y++)
        widen(out + (y + pad) * row + pad * c, src, t, at + y * sw * c, sw * c);
}

// Where the taps of a pixel lie in a padded image, relative to the pixel; the last one is repeated.
static void tap_places(int64_t at[DEPTH + TAPS], int64_t k, int64_t few, int64_t row) {
    const int64_t depth = k * k * few;
    for (int64_t i = 0; i < DEPTH + TAPS; i++) {
        const int64_t j = DR_MIN(i, depth - 1);
        at[i] = j / (k * few) * row + j % (k * few);
    }
}

// Weight of (destination d, source s, tap), the taps mirrored going back.
static real weight_at(const struct conv_apply *a, int64_t d, int64_t s, int64_t tap) {
    int64_t taps = a->g.kh * a->g.kh;
    return a->g.back ? a->weight[(s * a->cd + d) * taps + taps - 1 - tap]
                     : a->weight[(d * a->cs + s) * taps + tap];
}

// ---- few source channels
// -----------------------------------------------------------------------------------

struct spread {
    const real *w, *bias; // [depth][wide], [wide]
    int64_t at[DEPTH + TAPS], depth, wide, cs, cd;
};

// `n` channels from c on of PX pixels, the first `left` of which are wanted. s: the padded image at
// the first one's first tap.
DR_INLINE void spread_block(const struct spread *f, void *out, enum dr_dtype t, int64_t at,
                            int64_t left, const real *s, int64_t c, int64_t n) {
    vreal a[PX][2];
#pragma GCC unroll 4
    for (int i = 0; i < PX; i++)
        a[i][0] = vload(f->bias + c), a[i][1] = vload(f->bias + c + VL);
    for (int64_t j = 0; j < f->depth; j++) {
        const real *p = s + f->at[j], *w = f->w + j * f->wide + c;
        const vreal w0 = vload(w), w1 = vload(w + VL);
#pragma GCC unroll 4
        for (int i = 0; i < PX; i++) {
            const vreal x = vset(p[i * f->cs]);
            a[i][0] = vfma(x, w0, a[i][0]);
            a[i][1] = vfma(x, w1, a[i][1]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < PX; i++)
        if (i < left) {
            vst(out, t, at + i * f->cd + c, DR_MIN(n, VL), a[i][0]);
            if (n > VL)
                vst(out, t, at + i * f->cd + c + VL, n - VL, a[i][1]);
        }
}

DR_INLINE void spread_line(const struct spread *f, void *out, enum dr_dtype t, int64_t at,
                           const real *s, int64_t dw) {
    for (int64_t x = 0; x < dw; x += PX)
        for (int64_t c = 0; c < f->cd; c += BLOCK)
            if (f->cd - c >= BLOCK)
                spread_block(f, out, t, at + x * f->cd, dw - x, s + x * f->cs, c, BLOCK);
            else
                spread_block(f, out, t, at + x * f->cd, dw - x, s + x * f->cs, c, f->cd - c);
}

static void spread_sample(const struct spread *f, const struct conv_apply *a, int64_t n,
                          const real *image, int64_t row) {
    for (int64_t y = 0; y < a->g.dh; y++) {
        const int64_t at = (n * a->g.dh + y) * a->g.dw * a->cd;
        if (a->t == DR_BF16)
            spread_line(f, a->dst, DR_BF16, at, image + y * row, a->g.dw);
        else
            spread_line(f, a->dst, DR_F32, at, image + y * row, a->g.dw);
    }
}

static void spread(struct dr_backend *be, const struct conv_apply *a, int64_t pad) {
    const struct geo *g = &a->g;
    const int64_t row = (g->sw + 2 * pad) * a->cs, wide = round_up(a->cd, BLOCK);
    struct spread f = {.depth = g->kh * g->kh * a->cs, .wide = wide, .cs = a->cs, .cd = a->cd};
    struct room r;
    // Blocks of pixels go past the end of the last line.
    if (!room_alloc(be, &r, (f.depth + 1) * wide, (g->sh + 2 * pad) * row + PX * a->cs))
        return;
    real *w = r.common, *bias = w + f.depth * wide;
    f.w = w, f.bias = bias;
    tap_places(f.at, g->kh, a->cs, row);
    for (int64_t d = 0; d < a->cd; d++) {
        bias[d] = a->bias ? a->bias[d] : 0;
        for (int64_t i = 0; i < f.depth; i++)
            w[i * wide + d] = weight_at(a, d, i % a->cs, i / a->cs);
    }
    DR_PARALLEL_FOR(be, g->b * g->dh * g->dw * f.depth * a->cd >= DR_PAYS)
    for (int64_t n = 0; n < g->b; n++) {
        real *image = room_of_thread(&r);
        pad_image(image, a->src, a->t, n * g->sh * g->sw * a->cs, g->sh, g->sw, a->cs, pad);
        spread_sample(&f, a, n, image, row);
    }
}

// ---- few destination channels
// ------------------------------------------------------------------------------

struct dots {
    const real *w; // [cd][k][len]; len = k cs in whole BLOCKs, the rest zeros
    int64_t len, row;
};

// Dot products of PX pixels, the last ones repeated at the end of a line.
DR_INLINE void dots_block(real out[PX], const real *const *lines, int64_t x, int64_t cs,
                          int64_t left, const real *w, int64_t len, int64_t k) {
    vreal sum[2][PX];
    int64_t at[PX];
#pragma GCC unroll 4
    for (int i = 0; i < PX; i++)
        sum[0][i] = sum[1][i] = vset(0), at[i] = (x + DR_MIN(i, left - 1)) * cs;
    for (int64_t ky = 0; ky < k; ky++, w += len)
        for (int64_t j = 0; j < len; j += BLOCK) {
            const vreal w0 = vload(w + j), w1 = vload(w + j + VL);
#pragma GCC unroll 4
            for (int i = 0; i < PX; i++) {
                const real *p = lines[ky] + at[i] + j;
                sum[0][i] = vfma(vload(p), w0, sum[0][i]);
                sum[1][i] = vfma(vload(p + VL), w1, sum[1][i]);
            }
        }
#pragma GCC unroll 4
    for (int i = 0; i < PX; i++)
        sum[0][i] += sum[1][i];
    vsum4(out, sum[0]);
}

// One line of channel d of dst, its elements cd apart.
static void dots_line(const struct dots *f, const struct conv_apply *a, int64_t d, int64_t at,
                      const real *const *lines) {
    const int64_t k = a->g.kh, cs = a->cs;
    const real *w = f->w + d * k * f->len, bias = a->bias ? a->bias[d] : 0;
    for (int64_t x = 0; x < a->g.dw; x += PX) {
        const int64_t left = a->g.dw - x;
        real four[PX];
        dots_block(four, lines, x, cs, left, w, f->len, k);
        for (int64_t i = 0; i < DR_MIN(left, PX); i++)
            dr_put(a->dst, a->t, at + (x + i) * a->cd + d, four[i] + bias);
    }
}

// The last k lines of the sample are held, line y in slot y % k, and one of zeros after them.
static void dots_sample(const struct dots *f, const struct conv_apply *a, int64_t n, int64_t pad,
                        real *held) {
    const struct geo *g = &a->g;
    const real *lines[DEPTH];
    for (int64_t y = -pad; y < g->dh + g->kh - 1 - pad; y++) {
        const int64_t top = y - (g->kh - 1);
        if (y >= 0 && y < g->sh)
            widen(held + y % g->kh * f->row + pad * a->cs, a->src, a->t,
                  (n * g->sh + y) * g->sw * a->cs, g->sw * a->cs);
        for (int64_t ky = 0; ky < g->kh; ky++) {
            const int64_t s = top + ky;
            lines[ky] = held + (s >= 0 && s < g->sh ? s % g->kh : g->kh) * f->row;
        }
        for (int64_t d = 0; top >= -pad && d < a->cd; d++)
            dots_line(f, a, d, (n * g->dh + top + pad) * g->dw * a->cd, lines);
    }
}

static void dots(struct dr_backend *be, const struct conv_apply *a, int64_t pad) {
    const struct geo *g = &a->g;
    struct dots f = {.len = round_up(g->kh * a->cs, BLOCK),
                     .row = round_up((g->sw + 2 * pad) * a->cs + BLOCK, BLOCK)};
    struct room r;
    if (!room_alloc(be, &r, a->cd * g->kh * f.len, (g->kh + 1) * f.row))
        return;
    f.w = r.common;
    for (int64_t d = 0; d < a->cd; d++)
        for (int64_t tap = 0; tap < g->kh * g->kh; tap++)
            for (int64_t s = 0; s < a->cs; s++)
                r.common[(d * g->kh + tap / g->kh) * f.len + tap % g->kh * a->cs + s] =
                    weight_at(a, d, s, tap);
    DR_PARALLEL_FOR(be, g->b * g->dh * g->dw * g->kh * f.len * a->cd >= DR_PAYS)
    for (int64_t n = 0; n < g->b; n++)
        dots_sample(&f, a, n, pad, room_of_thread(&r));
}

void dr_conv_thin_apply(struct dr_backend *be, const struct conv_apply *a) {
    int64_t pad =
        a->g.back ? a->g.kh - 1 - a->g.padh : a->g.padh; // mirrored taps, mirrored padding
    if (a->cs <= a->cd)
        spread(be, a, pad);
    else
        dots(be, a, pad);
}

// ---- weights
// -----------------------------------------------------------------------------------------------

// sum[TAPS][wide] += taps of a line of pixels times BLOCK of their channels. s: the padded image at
// the first pixel; f: [pixels][wide] at the first channel.
static void outer_block(real *sum, const real *s, const int64_t at[TAPS], int64_t few,
                        const real *f, int64_t wide, int64_t pixels) {
    vreal a[TAPS][2];
#pragma GCC unroll 16
    for (int j = 0; j < TAPS; j++)
        a[j][0] = vload(sum + j * wide), a[j][1] = vload(sum + j * wide + VL);
    for (int64_t x = 0; x < pixels; x++, f += wide, s += few) {
        const vreal f0 = vload(f), f1 = vload(f + VL);
#pragma GCC unroll 16
        for (int j = 0; j < TAPS; j++) {
            const vreal p = vset(s[at[j]]);
            a[j][0] = vfma(p, f0, a[j][0]);
            a[j][1] = vfma(p, f1, a[j][1]);
        }
    }
#pragma GCC unroll 16
    for (int j = 0; j < TAPS; j++)
        vstore(sum + j * wide, a[j][0]), vstore(sum + j * wide + VL, a[j][1]);
}

// One convolution seen from its few-channel side: `small` is padded so that pixel p of `flat` meets
// small[p + tap]. With few input channels that is the forward map; with few output channels the
// roles swap and the taps are mirrored.
struct outer {
    int64_t at[DEPTH + TAPS], k, few, many, wide, depth; // depth: in whole TAPS
    int64_t sh, sw, fh, fw, pad;
    const void *small, *flat;
    enum dr_dtype t;
};

// sums[depth][wide] of a sample.
static void outer_sample(const struct outer *o, int64_t n, real *image, real *sums) {
    const int64_t row = (o->sw + 2 * o->pad) * o->few;
    real *line = image + (o->sh + 2 * o->pad) * row;
    pad_image(image, o->small, o->t, n * o->sh * o->sw * o->few, o->sh, o->sw, o->few, o->pad);
    for (int64_t y = 0; y < o->fh; y++) {
        const int64_t from = (n * o->fh + y) * o->fw * o->many;
        const bool direct = o->many == o->wide && o->t == DR_F32;
        const real *flat = direct ? (const real *)o->flat + from : line;
        if (!direct && o->many == o->wide)
            widen(line, o->flat, o->t, from, o->fw * o->wide);
        for (int64_t x = 0; o->many < o->wide && x < o->fw; x++)
            widen(line + x * o->wide, o->flat, o->t, from + x * o->many, o->many);
        for (int64_t j = 0; j < o->depth; j += TAPS)
            for (int64_t c = 0; c < o->wide; c += BLOCK)
                outer_block(sums + j * o->wide + c, image + y * row, o->at + j, o->few, flat + c,
                            o->wide, o->fw);
    }
}

void dr_conv_thin_weight(struct dr_backend *be, const struct dr_conv2d_bwd_weight_args *a,
                         const struct geo *g) {
    const int64_t ho = g->dh, wo = g->dw, k = g->kh;
    const bool of_x = a->ci <= a->co;
    struct outer o = {.k = k,
                      .few = of_x ? a->ci : a->co,
                      .many = of_x ? a->co : a->ci,
                      .sh = of_x ? a->h : ho,
                      .sw = of_x ? a->w : wo,
                      .fh = of_x ? ho : a->h,
                      .fw = of_x ? wo : a->w,
                      .pad = of_x ? g->padh : k - 1 - g->padh,
                      .small = of_x ? a->x : a->dy,
                      .flat = of_x ? a->dy : a->x,
                      .t = a->t};
    const int64_t row = (o.sw + 2 * o.pad) * o.few, taps = k * k;
    o.wide = round_up(o.many, BLOCK);
    o.depth = round_up(taps * o.few, TAPS);
    tap_places(o.at, k, o.few, row);
    struct room r;
    if (!room_alloc(be, &r, a->b * o.depth * o.wide, (o.sh + 2 * o.pad) * row + o.fw * o.wide))
        return;
    DR_PARALLEL_FOR(be, a->b * o.fh * o.fw * o.depth * o.wide >= DR_PAYS)
    for (int64_t n = 0; n < a->b; n++)
        outer_sample(&o, n, room_of_thread(&r), r.common + n * o.depth * o.wide);
    for (int64_t n = 1; n < a->b; n++)
        for (int64_t i = 0; i < o.depth * o.wide; i++)
            r.common[i] += r.common[n * o.depth * o.wide + i];
    for (int64_t i = 0; i < taps * o.few; i++)
        for (int64_t c = 0; c < o.many; c++) {
            const int64_t tap = i / o.few, f = i % o.few;
            const int64_t at =
                of_x ? (c * o.few + f) * taps + tap : (f * o.many + c) * taps + taps - 1 - tap;
            a->dweight[at] += r.common[i * o.wide + c];
        }
}
