// Convolutions by oneDNN's own primitives, cut so that bytes depend neither on the batch nor on
// the threads. Called by conv.c, which takes patches or direct loops for the shapes that
// are refused here.
//
// Forward and backward-data: one image, or a band of its lines, is one single-threaded primitive;
// how an image is cut follows from its shape and never from the batch, and the threads of the
// instance share the bands. So a sample is computed by the same instructions whatever batch it is
// in. Backward-weight: a piece is a fixed number of images, what is left over single images; pieces
// are added in order within at most GROUPS groups that follow from the batch alone, the
// groups then in order as well.
//   Where multiplying bf16 as it is does not pay, images are widened one by one and results
//   rounded once.
#include "engine/cpu/conv_onednn.h"
#include "engine/cpu/conv.h"
#include "engine/cpu/gemm.h"

enum {
    BANDS = 8,           // most bands of an image
    BAND_LINES = 8,      // fewest lines of one
    BAND_WORK = 1 << 22, // fewest multiply-adds of one
    GROUPS = 16,
    PIECE = 1024,    // pixels of y of a piece of a weight gradient, about
    PIECE_MOST = 64, // images of one
    SIZES = 3,       // of pieces: so many images, a quarter of them, one
    SMALL_MAP = 16,  // pixels: with MANY channels or more, products of patches are faster
    MANY = 256,
    LARGE_MAP = 196,   // fewest pixels of y for which gradients of weights pay here, in bf16
    LARGE_MAP_32 = 64, // and in fp32
    WEIGHTS = 600000,  // most weights of those
    FEW_STRIDED = 32,  // most channels of x where they have a stride
    FEW = 3,           // fewest channels
    PAYS = 1 << 19,    // multiply-adds from which on a second thread helps
    PRIMS = BANDS + 4, // most primitives of one convolution
};

struct band {
    int64_t src, dst; // first lines
    int64_t src_lines, dst_lines;
    struct dr_conv_prim *prim;
};

// Memory of one thread, offsets into its share of the workspace: images as multiplied, where they
// are widened, and oneDNN's own.
struct room {
    size_t dst, scratch, total; // src at 0
};

struct whole {
    struct dr_backend *be;
    struct dr_conv_cache *cache;
    bool widen;
    struct room room;
    char *memory;
    bool failed;
    // forward and backward-data
    const struct conv_apply *a;
    struct band band[BANDS];
    int64_t bands;
    const void *weight; // arranged
    // backward-weight
    const struct dr_conv2d_bwd_weight_args *w;
    const struct geo *g;
    struct piece {
        struct dr_conv_prim *prim;
        int64_t images, count; // of one; how many there are of them in the batch
    } piece[SIZES];
    int64_t units, groups;
    size_t weight_bytes;
    char *sums, *slots; // of the groups, of the threads
};

static struct dr_conv_cache *cache_of(struct dr_backend *be) {
    struct dr_conv_cache *c = ((const struct dr_cpu *)be->impl)->conv;
    dr_conv_make_room(c, PRIMS);
    return c;
}

static bool widens(struct dr_backend *be, enum dr_dtype t) {
    return t == DR_BF16 && !dr_gemm_native_bf16(((const struct dr_cpu *)be->impl)->gemm);
}

// The thread's memory for images of `src` and `dst` elements and a primitive's scratchpad.
static struct room room_of(bool widen, int64_t src, int64_t dst, size_t scratch) {
    struct room r = {0};
    r.dst = widen ? dr_aligned((size_t)src * sizeof(real)) : 0;
    r.scratch = r.dst + (widen ? dr_aligned((size_t)dst * sizeof(real)) : 0);
    r.total = r.scratch + dr_aligned(scratch);
    return r;
}

static void share(struct whole *k, int64_t count, bool pays,
                  void (*work)(void *, struct dr_gemm_units *, int)) {
    dr_gemm_share(k->be, count, pays, work, k);
    if (k->failed)
        dr_cpu_error(k->be, DR_EDEVICE, "conv2d", "oneDNN failed to run a convolution");
}

static void run(struct whole *k, struct dr_conv_prim *p, int t, const void *x, const void *y,
                const void *weight, const real *bias) {
    char *scratch = k->memory + k->room.total * (size_t)t + k->room.scratch;
    if (!dr_conv_prim_run(k->cache, p, t, x, y, weight, bias, scratch)) {
#pragma omp atomic write
        k->failed = true;
    }
}

// How much padding an axis uses behind its last pixel.
static int64_t behind(int64_t in, int64_t out, int64_t k, int64_t before, int64_t stride,
                      int64_t dil) {
    return DR_MAX((out - 1) * stride + dil * (k - 1) + 1 - in - before, (int64_t)0);
}

// ---- forward and backward-data
// ---------------------------------------------------------------------------

// The primitive of a band of an image, all of it going back.
static struct dr_conv_prim *band_prim(const struct whole *k, const struct band *b) {
    const struct conv_apply *a = k->a;
    const struct geo *g = &a->g;
    struct dr_conv_key key = {.way = g->back ? DR_CONV_DATA : DR_CONV_FORWARD,
                              .b = 1,
                              .h = g->back ? g->dh : b->src_lines,
                              .w = g->back ? g->dw : g->sw,
                              .ho = g->back ? g->sh : b->dst_lines,
                              .wo = g->back ? g->sw : g->dw,
                              .ci = g->back ? a->cd : a->cs,
                              .co = g->back ? a->cs : a->cd,
                              .kh = g->kh,
                              .kw = g->kw,
                              .left = g->padw,
                              .stride = g->stride,
                              .dil = g->dil,
                              .bf16 = a->t == DR_BF16 && !k->widen,
                              .bias = a->bias != NULL};
    key.above = g->back ? g->padh : DR_MAX(g->padh - b->dst * g->stride, (int64_t)0);
    key.below = behind(key.h, key.ho, g->kh, key.above, g->stride, g->dil);
    key.right = behind(key.w, key.wo, g->kw, key.left, g->stride, g->dil);
    return dr_conv_prim(k->cache, &key);
}

// Cuts an image into `n` bands of about the same number of lines of dst.
static bool cut(struct whole *k, int64_t n) {
    const struct geo *g = &k->a->g;
    k->bands = n;
    for (int64_t i = 0; i < n; i++) {
        struct band *b = &k->band[i];
        *b = (struct band){.dst = g->dh * i / n, .src_lines = g->sh, .dst_lines = g->dh};
        if (n > 1) {
            const int64_t end = g->dh * (i + 1) / n, first = b->dst * g->stride - g->padh;
            const int64_t last = (end - 1) * g->stride - g->padh + g->dil * (g->kh - 1);
            b->src = DR_MAX(first, (int64_t)0);
            b->src_lines = DR_MIN(last + 1, g->sh) - b->src;
            b->dst_lines = end - b->dst;
        }
        b->prim = b->src_lines > 0 ? band_prim(k, b) : NULL;
        if (!b->prim || !dr_conv_prim_same_layout(k->band[0].prim, b->prim))
            return false;
    }
    return true;
}

static int64_t work_of(const struct conv_apply *a) { // of a sample
    const struct geo *g = &a->g;
    return (g->back ? g->sh * g->sw : g->dh * g->dw) * g->kh * g->kw * a->cs * a->cd;
}

static int64_t bands_of(const struct conv_apply *a) {
    if (a->g.back)
        return 1;
    const int64_t n = DR_MIN(a->g.dh / BAND_LINES, work_of(a) / BAND_WORK);
    return DR_MAX(DR_MIN(n, (int64_t)BANDS), (int64_t)1);
}

static void bands_work(void *whole, struct dr_gemm_units *units, int t) {
    struct whole *k = whole;
    const struct conv_apply *a = k->a;
    const struct geo *g = &a->g;
    const int64_t src_line = g->sw * a->cs, dst_line = g->dw * a->cd;
    char *mine = k->memory + k->room.total * (size_t)t;
    for (int64_t u; (u = dr_gemm_next(units, t, 0)) >= 0;) {
        const int64_t n = u / k->bands;
        const struct band *b = &k->band[u % k->bands];
        const int64_t ins = b->src_lines * src_line, outs = b->dst_lines * dst_line;
        const void *src = dr_at(a->src, a->t, (n * g->sh + b->src) * src_line);
        void *to_dst = dr_at_mut(a->dst, a->t, (n * g->dh + b->dst) * dst_line), *dst = to_dst;
        if (k->widen) {
            dr_gemm_copy(mine, DR_F32, ins, src, a->t, ins, 1, ins);
            src = mine, dst = mine + k->room.dst;
        }
        run(k, b->prim, t, g->back ? dst : src, g->back ? src : dst, k->weight, a->bias);
        if (k->widen)
            dr_gemm_copy(to_dst, a->t, outs, dst, DR_F32, outs, 1, outs);
    }
}

// The weights in oneDNN's layout: kept under their version, or written for this call.
static bool arrange(struct whole *k, void *here) {
    const struct conv_apply *a = k->a;
    struct dr_conv_prim *p = k->band[0].prim;
    struct dr_gemm_copy *copy = NULL;
    void *to = NULL;
    bool ready = false;
    if (a->version) {
        const struct dr_gemm_operand of = {.b = a->weight, .k = dr_conv_prim_id(p)};
        to = dr_gemm_kept_find(dr_gemm_kept(((const struct dr_cpu *)k->be->impl)->gemm), &of,
                               a->version, k->weight_bytes, &copy, &ready);
    }
    k->weight = to = to ? to : here;
    if (!ready && !dr_conv_prim_arrange(k->cache, p, a->weight, to)) {
        dr_cpu_error(k->be, DR_EDEVICE, "conv2d", "oneDNN failed to arrange weights");
        return false;
    }
    if (copy)
        dr_gemm_kept_written(copy, a->version);
    for (int64_t i = 0; i < k->bands; i++)
        dr_conv_prim_use(k->cache, k->band[i].prim, to);
    return true;
}

bool dr_conv_whole(struct dr_backend *be, const struct conv_apply *a) {
    const struct geo *g = &a->g;
    const bool avx512 = dr_gemm_direct_pays(((const struct dr_cpu *)be->impl)->gemm);
    if (!g->back && g->dh * g->dw <= SMALL_MAP && DR_MIN(a->cs, a->cd) >= MANY)
        return false;
    if (g->kh * g->kw == 1 && !avx512) // a product of the pixels costs nothing more
        return false;
    struct whole k = {.be = be, .cache = cache_of(be), .widen = widens(be, a->t), .a = a};
    if (!cut(&k, bands_of(a)) && !cut(&k, 1))
        return false;
    size_t scratch = 0;
    for (int64_t i = 0; i < k.bands; i++)
        scratch = DR_MAX(scratch, dr_conv_prim_scratch(k.band[i].prim));
    k.weight_bytes = dr_aligned(dr_conv_prim_weight_bytes(k.band[0].prim));
    k.room = room_of(k.widen, g->sh * g->sw * a->cs, g->dh * g->dw * a->cd, scratch);
    char *here =
        dr_cpu_scratch(be, DR_WS_CONV, k.weight_bytes + k.room.total * (size_t)be->threads);
    if (!here)
        return true;
    k.memory = here + k.weight_bytes;
    if (arrange(&k, here))
        share(&k, g->b * k.bands, g->b * work_of(a) >= PAYS, bands_work);
    return true;
}

// ---- backward-weight
// -------------------------------------------------------------------------------------

static struct dr_conv_prim *piece_prim(const struct whole *k, int64_t images) {
    const struct geo *g = k->g;
    const struct dr_conv_key key = {
        .way = DR_CONV_WEIGHT,
        .b = images,
        .h = g->sh,
        .w = g->sw,
        .ho = g->dh,
        .wo = g->dw,
        .ci = k->w->ci,
        .co = k->w->co,
        .kh = g->kh,
        .kw = g->kw,
        .above = g->padh,
        .below = behind(g->sh, g->dh, g->kh, g->padh, g->stride, g->dil),
        .left = g->padw,
        .right = behind(g->sw, g->dw, g->kw, g->padw, g->stride, g->dil),
        .stride = g->stride,
        .dil = g->dil,
        .bf16 = k->w->t == DR_BF16 && !k->widen};
    return dr_conv_prim(k->cache, &key);
}

DR_HOT static void add(real *restrict sum, const real *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        sum[i] += x[i];
}

// Unit i of the batch: a piece, the larger ones first; its gradient goes to `to`.
static void unit(struct whole *k, int64_t i, void *to, int t) {
    const struct geo *g = k->g;
    const struct piece *p = k->piece;
    int64_t first = 0;
    for (; i >= p->count; p++)
        first += p->count * p->images, i -= p->count;
    first += i * p->images;
    const int64_t xs = g->sh * g->sw * k->w->ci, ys = g->dh * g->dw * k->w->co;
    const void *x = dr_at(k->w->x, k->w->t, first * xs), *y = dr_at(k->w->dy, k->w->t, first * ys);
    if (k->widen) {
        char *mine = k->memory + k->room.total * (size_t)t;
        dr_gemm_copy(mine, DR_F32, xs, x, k->w->t, xs, p->images, xs);
        dr_gemm_copy(mine + k->room.dst, DR_F32, ys, y, k->w->t, ys, p->images, ys);
        x = mine, y = mine + k->room.dst;
    }
    run(k, p->prim, t, x, y, to, NULL);
}

static void groups_work(void *whole, struct dr_gemm_units *units, int t) {
    struct whole *k = whole;
    real *slot = (real *)(void *)(k->slots + k->weight_bytes * (size_t)t);
    for (int64_t j; (j = dr_gemm_next(units, t, 0)) >= 0;) {
        real *sum = (real *)(void *)(k->sums + k->weight_bytes * (size_t)j);
        const int64_t first = k->units * j / k->groups, end = k->units * (j + 1) / k->groups;
        unit(k, first, sum, t);
        for (int64_t i = first + 1; i < end; i++) {
            unit(k, i, slot, t);
            add(sum, slot, (int64_t)(k->weight_bytes / sizeof *sum));
        }
    }
}

// Chunks of the groups' sums, all into the first.
static void sums_work(void *whole, struct dr_gemm_units *units, int t) {
    const struct whole *k = whole;
    const int64_t each = (int64_t)(k->weight_bytes / sizeof(real));
    real *sum = (real *)(void *)k->sums;
    for (int64_t u; (u = dr_gemm_next(units, t, 0)) >= 0;) {
        const int64_t at = u * DR_CHUNK, n = DR_MIN(DR_CHUNK, each - at);
        for (int64_t j = 1; j < k->groups; j++)
            add(sum + at, sum + j * each + at, n);
    }
}

static bool weight_pays(const struct whole *k) {
    const struct geo *g = k->g;
    const int64_t ci = k->w->ci, pixels = g->dh * g->dw;
    const bool bf16 = k->w->t == DR_BF16 && !k->widen;
    return pixels >= (bf16 ? LARGE_MAP : LARGE_MAP_32) &&
           g->kh * g->kw * ci * k->w->co <= WEIGHTS && (g->stride == 1 || ci <= FEW_STRIDED);
}

// The sizes of pieces, whatever the batch, and what the batch has of them.
static bool cut_batch(struct whole *k) {
    const int64_t pixels = k->g->dh * k->g->dw;
    int64_t images = 1, left = k->g->b;
    while (images < PIECE_MOST && images * pixels < PIECE)
        images *= 2;
    for (int i = 0; i < SIZES; i++) {
        struct piece *p = &k->piece[i];
        p->images = i < SIZES - 1 ? DR_MAX(images >> 2 * i, (int64_t)1) : 1;
        p->prim = piece_prim(k, p->images);
        if (!p->prim || !dr_conv_prim_same_layout(k->piece[0].prim, p->prim))
            return false;
        p->count = left / p->images;
        left -= p->count * p->images;
        k->units += p->count;
    }
    return true;
}

bool dr_conv_whole_weight(struct dr_backend *be, const struct dr_conv2d_bwd_weight_args *a,
                          const struct geo *g) {
    struct whole k = {.be = be, .cache = cache_of(be), .widen = widens(be, a->t), .w = a, .g = g};
    if (!weight_pays(&k) || !cut_batch(&k))
        return false;
    if (k.units == 0)
        return true;
    const int64_t images = k.piece[0].images;
    size_t scratch = 0;
    for (int i = 0; i < SIZES; i++)
        scratch = DR_MAX(scratch, dr_conv_prim_scratch(k.piece[i].prim));
    k.groups = DR_MIN((int64_t)GROUPS, k.units);
    k.weight_bytes = dr_aligned(dr_conv_prim_weight_bytes(k.piece[0].prim));
    k.room =
        room_of(k.widen, images * g->sh * g->sw * a->ci, images * g->dh * g->dw * a->co, scratch);
    const size_t threads = (size_t)be->threads, sums = k.weight_bytes * (size_t)k.groups;
    k.sums = dr_cpu_scratch(be, DR_WS_CONV, sums + (k.weight_bytes + k.room.total) * threads);
    if (!k.sums)
        return true;
    k.slots = k.sums + sums;
    k.memory = k.slots + k.weight_bytes * threads;
    const int64_t work = g->b * g->dh * g->dw * g->kh * g->kw * a->ci * a->co;
    share(&k, k.groups, work >= PAYS, groups_work);
    const int64_t each = (int64_t)(k.weight_bytes / sizeof(real));
    share(&k, (each + DR_CHUNK - 1) / DR_CHUNK, each * k.groups >= DR_PAYS, sums_work);
    if (!dr_conv_prim_add(k.cache, k.piece[0].prim, k.sums, a->dweight))
        dr_cpu_error(be, DR_EDEVICE, "conv2d_bwd_weight", "oneDNN failed to add a gradient");
    return true;
}

bool dr_conv_whole_few(struct dr_backend *be, enum dr_dtype t, int64_t few) {
    return t == DR_BF16 && !widens(be, t) && few >= FEW;
}
