// Matrix products by oneDNN, cut so that bytes depend neither on the batch nor on the threads.
// Called as dr_cpu_gemm by every layer.
//
// Rows of C: a product is cut into panels of rows and blocks of columns. Each piece is one
// single-threaded primitive whose shape follows from n, k, the form and the rows per sample, never
// from m; the threads of the instance share the pieces, and the last panel is padded. So the same
// row is computed by the same instructions whatever batch it rides in. Weight gradients (A
// transposed, k the number of tokens): C is cut into tiles, k into pieces of fixed length, the last
// one padded with zeros, and the sums over pieces are added in order.
//
// Which implementation oneDNN chooses for a shape therefore does not matter: AMX, AVX-512, AVX2.
// Where multiplying bf16 as it is does not pay, operands are widened piece by piece and results
// rounded once.
#include "engine/cpu/gemm.h"

#include <omp.h>

enum {
    WIDE = 1 << 21,   // bytes of a packed B that is not cut
    BLOCK = 1 << 19,  // bytes of a packed block of B, about
    COLUMNS = 384,    // most of a block
    PANEL = 64,       // rows of a panel, about, where a sample has fewer
    PANEL_MAX = 48,   // rows of a panel that is a sample or a part of one
    PANEL_SINGLE = 8, // rows of a panel where a sample is one row
    TILE_M = 128,     // rows of a tile of a weight gradient, about, where it is narrow
    TILE_FLAT = 64,   // and where it has TILE_WIDE columns or more
    TILE_WIDE = 512,
    TILE_N = 256,       // its columns where a C without gaps does not pay
    TILE_B = 1 << 22,   // bytes of its packed B that is not cut
    TILE_OWN = 1 << 18, // bytes up to which each thread packs B for itself
    K_PIECE = 512,      // tokens of a piece of a weight gradient, where samples are unknown or long
    K_MOST = 800,       // where a piece is whole samples
    K_SINGLE = 64,      // where a sample is one row
    PAYS = 1 << 19,     // multiply-adds from which on a second thread helps
    SHAPES = 4,         // most primitives of one product
};

// Blocks of `step`, the last one possibly shorter.
struct cut {
    int64_t size, step, count;
};

// Memory of one thread, offsets into its share of the workspace.
struct room {
    size_t c, stage, scratch, total; // A at 0; stage: rows of a source before they are widened
};

struct product {
    struct dr_backend *be;
    struct dr_gemm_cache *cache;
    struct dr_gemm_args g;
    const struct dr_gemm_source *from; // NULL: both operands are stored
    int64_t staged;   // elements of a source: rows, of each thread; tiles, a piece, of all of them
    char *stage;      // tiles: that piece
    enum dr_dtype ab; // as multiplied: fp32 where bf16 is widened
    bool direct;      // the primitives write to C itself
    struct cut m, n;
    int64_t k_long, k_short; // pieces of k and of the rest
    struct dr_gemm_prim *prim[SHAPES];
    struct room room;
    size_t block; // bytes of a packed block
    char *memory;
    char *packed; // rows: all of B, block after block of columns; tiles: pieces of B
    bool own;     // tiles: one for each thread, or two for all, in turn
    real *sum;    // tiles: C, or what becomes C in fp32; rows ld apart
    int64_t ld;
    bool ready; // `packed` holds B already
    bool failed;
};

static struct cut cut_in(int64_t size, int64_t parts, int64_t multiple) {
    int64_t step = (size + parts - 1) / parts;
    step = DR_MIN((step + multiple - 1) / multiple * multiple, size);
    return (struct cut){.size = size, .step = step, .count = (size + step - 1) / step};
}

static struct cut cut_evenly(int64_t size, int64_t most, int64_t multiple) {
    int64_t parts = (size + most - 1) / most;
    return cut_in(size, parts, multiple);
}

DR_INLINE int64_t length(const struct cut *c, int64_t i) {
    return DR_MIN(c->step, c->size - i * c->step);
}

// Rows of a panel, of a layer that sees `rows` rows of each sample (0: unknown): whole samples
// where they are short, equal parts of a long one, so that few rows are padding and one sample
// occupies several threads.
static int64_t panel_rows(int64_t rows) {
    if (rows == 1)
        return PANEL_SINGLE;
    if (rows <= 0)
        return PANEL;
    if (rows <= PANEL_MAX)
        return rows * (PANEL / rows);
    int64_t parts = (rows + PANEL_MAX - 1) / PANEL_MAX;
    return (rows + parts - 1) / parts;
}

static struct dr_gemm_prim *get(const struct product *p, int64_t m, int64_t n, int64_t k,
                                int64_t lda) {
    struct dr_gemm_key key = {
        .m = m, .n = n, .k = k, .lda = lda, .form = p->ab == DR_BF16 ? DR_GEMM_BF16 : 0};
    if (p->direct && p->g.ta) {
        key.ldc = p->ld;
        key.form |= DR_GEMM_DIRECT | DR_GEMM_SUM;
    } else if (p->direct) {
        key.ldc = p->g.ldc;
        key.form |= DR_GEMM_DIRECT | (p->g.ct == DR_BF16 ? DR_GEMM_C_BF16 : 0) |
                    (p->g.bias ? DR_GEMM_BIAS : 0);
    }
    return dr_gemm_prim(p->cache, &key);
}

// The workspace of all threads, once the primitives are known: A and C elements of each, and
// `blocks` packed B and `sums` elements that they share. False: recorded as an error.
static bool prepare(struct product *p, int64_t a, int64_t c, int64_t blocks, int64_t sums) {
    struct room *r = &p->room;
    size_t b = 0, scratch = 0;
    for (int i = 0; i < SHAPES; i++)
        if (p->prim[i]) {
            b = DR_MAX(b, dr_gemm_prim_layout(p->prim[i])->bytes);
            scratch = DR_MAX(scratch, dr_gemm_prim_scratch(p->prim[i]));
        }
    p->block = dr_aligned(b);
    r->c = dr_aligned((size_t)a * dr_sizeof(p->ab));
    r->stage = r->c + dr_aligned((size_t)c * sizeof(real));
    const size_t staged = dr_aligned((size_t)p->staged * dr_sizeof(p->g.abt));
    r->scratch = r->stage + (p->g.ta ? 0 : staged);
    r->total = r->scratch + dr_aligned(scratch);
    const size_t summed = p->block * (size_t)blocks + dr_aligned((size_t)sums * sizeof(real));
    const size_t shared = summed + (p->g.ta ? staged : 0);
    p->packed = dr_cpu_scratch(p->be, DR_WS_GEMM, shared + r->total * (size_t)p->be->threads);
    if (!p->packed)
        return false;
    p->memory = p->packed + shared;
    p->stage = p->packed + summed;
    if (sums)
        p->sum = (real *)(void *)(p->packed + p->block * (size_t)blocks);
    return true;
}

static void share(struct product *p, int64_t count, bool pays,
                  void (*work)(void *, struct dr_gemm_units *, int)) {
    dr_gemm_share(p->be, count, pays, work, p);
    if (p->failed)
        dr_cpu_error(p->be, DR_EDEVICE, "gemm", "oneDNN failed to run a matmul");
}

// C of the piece. a, c NULL: they are in the thread's memory.
static const void *execute(struct product *p, struct dr_gemm_prim *prim, int t, const void *a,
                           const void *b, const real *bias, void *c) {
    char *mine = p->memory + p->room.total * (size_t)t;
    c = c ? c : mine + p->room.c;
    if (!dr_gemm_prim_run(p->cache, prim, t, a ? a : mine, b, bias, c, mine + p->room.scratch)) {
#pragma omp atomic write
        p->failed = true;
    }
    return c;
}

// ---- rows
// -----------------------------------------------------------------------------------------

static struct dr_gemm_prim *block_prim(const struct product *p, int64_t j) {
    return p->prim[length(&p->n, j) < p->n.step];
}

// `rows` rows of A at m0, made by the source, and zeros up to a whole panel.
static void fill_panel(struct product *p, int64_t m0, int64_t rows, int t) {
    const struct dr_gemm_args *g = &p->g;
    char *mine = p->memory + p->room.total * (size_t)t;
    char *to = p->ab == g->abt ? mine : mine + p->room.stage;
    p->from->fill(p->from->ctx, to, g->k, m0, rows, 0, g->k);
    if (to != mine)
        dr_gemm_copy(mine, p->ab, g->k, to, g->abt, g->k, rows, g->k);
    memset(dr_at_mut(mine, p->ab, rows * g->k), 0,
           (size_t)((p->m.step - rows) * g->k) * dr_sizeof(p->ab));
}

// The same of a stored A, where oneDNN cannot read it in place. Returns where it is; NULL: copied.
static const void *stored_panel(struct product *p, int64_t m0, int64_t rows, int t) {
    const struct dr_gemm_args *g = &p->g;
    char *mine = p->memory + p->room.total * (size_t)t;
    const void *a = dr_at(g->a, g->abt, m0 * g->lda);
    if (p->ab == g->abt && rows == p->m.step)
        return a;
    int64_t lda = p->ab != g->abt ? g->k : g->lda;
    dr_gemm_copy(mine, p->ab, lda, a, g->abt, g->lda, rows, g->k);
    for (int64_t r = rows; r < p->m.step; r++)
        memset(dr_at_mut(mine, p->ab, r * lda), 0, (size_t)g->k * dr_sizeof(p->ab));
    return NULL;
}

// Panel i of block j of the columns. fresh: this thread has not filled the panel yet.
static void panel(struct product *p, int64_t i, int64_t j, bool fresh, int t) {
    const struct dr_gemm_args *g = &p->g;
    struct dr_gemm_prim *prim = block_prim(p, j);
    const void *b = p->packed + p->block * (size_t)j, *a = NULL;
    int64_t n0 = j * p->n.step, n = length(&p->n, j);
    int64_t rows = length(&p->m, i), m0 = i * p->m.step;
    if (!p->from)
        a = stored_panel(p, m0, rows, t);
    else if (fresh)
        fill_panel(p, m0, rows, t);
    if (p->from && p->from->store) {
        p->from->store(p->from->ctx, execute(p, prim, t, a, b, NULL, NULL), m0, rows, n0, n);
        return;
    }
    void *c = dr_at_mut(g->c, g->ct, m0 * g->ldc + n0);
    const real *bias = g->bias ? g->bias + n0 : NULL;
    if (!p->direct)
        dr_gemm_store(c, g->ct, g->ldc, execute(p, prim, t, a, b, NULL, NULL), rows, n, bias,
                      g->acc);
    else if (rows == p->m.step)
        execute(p, prim, t, a, b, bias, c);
    else
        dr_gemm_copy(c, g->ct, g->ldc, execute(p, prim, t, a, b, bias, NULL), g->ct, g->ldc, rows,
                     n);
}

// Each thread packs its part of every block, unless that was done before; units are panels, one
// block of columns after another, or, of a source, the blocks of one panel after another: it is
// filled once.
static void rows_work(void *product, struct dr_gemm_units *units, int t) {
    struct product *p = product;
    const struct dr_gemm_args *g = &p->g;
    const int team = omp_get_num_threads();
    for (int64_t j = 0; j < p->n.count && !p->ready; j++) {
        int64_t n0 = j * p->n.step;
        dr_gemm_pack(dr_gemm_prim_layout(block_prim(p, j)), p->packed + p->block * (size_t)j, p->ab,
                     dr_at(g->b, g->abt, g->tb ? n0 * g->ldb : n0), g->abt, g->k, length(&p->n, j),
                     g->ldb, g->tb, t, team);
    }
    if (!p->ready) {
#pragma omp barrier
    }
    for (int64_t u, filled = -1; (u = dr_gemm_next(units, t, 0)) >= 0;)
        if (p->from) {
            const int64_t i = u / p->n.count;
            panel(p, i, u % p->n.count, i != filled, t);
            filled = i;
        } else
            panel(p, u % p->m.count, u / p->m.count, true, t);
}

// Weights whose values have a version are packed into memory that outlives the product. NULL: B is
// packed into the workspace.
static struct dr_gemm_copy *kept_copy(struct product *p) {
    const struct dr_gemm_args *g = &p->g;
    struct dr_gemm_copy *copy = NULL;
    if (!g->version)
        return NULL;
    const struct dr_gemm_operand of = {
        .b = g->b,
        .k = g->k,
        .n = g->n,
        .ld = g->ldb,
        .step = p->n.step,
        .trans = g->tb,
        .type = g->abt,
        .packed_type = p->ab,
        .layout = {*dr_gemm_prim_layout(p->prim[0]), *dr_gemm_prim_layout(p->prim[1])}};
    void *kept = dr_gemm_kept_find(dr_gemm_kept(p->cache), &of, g->version,
                                   p->block * (size_t)p->n.count, &copy, &p->ready);
    if (kept)
        p->packed = kept;
    return copy;
}

static void by_rows(struct product *p) {
    const struct dr_gemm_args *g = &p->g;
    p->m.size = g->m;
    const int64_t unit = dr_gemm_row_unit(p->cache);
    p->m.step = (panel_rows(g->rows) + unit - 1) / unit * unit;
    p->m.count = (g->m + p->m.step - 1) / p->m.step;
    // oneDNN's best kernels write a C without gaps: B as a whole, or a copy of the block of C.
    const int64_t column = g->k * (int64_t)dr_sizeof(p->ab);
    const bool whole = g->ldc == g->n && column * g->n <= WIDE && !(p->from && p->from->store);
    p->direct = !g->acc && p->ab == g->abt && whole && dr_gemm_direct_pays(p->cache);
    int64_t columns = p->direct ? g->n : DR_MIN(BLOCK / column / 64 * 64, (int64_t)COLUMNS);
    p->n = cut_evenly(g->n, DR_MAX(columns, (int64_t)64), 32);
    int64_t lda = p->from || p->ab != g->abt ? g->k : g->lda;
    p->staged = p->from && p->ab != g->abt ? p->m.step * lda : 0;
    p->prim[0] = get(p, p->m.step, p->n.step, g->k, lda);
    p->prim[1] = get(p, p->m.step, length(&p->n, p->n.count - 1), g->k, lda);
    if (!p->prim[0] || !p->prim[1])
        dr_cpu_error(p->be, DR_EDEVICE, "gemm", "oneDNN has no matmul for this shape");
    else if (prepare(p, p->m.step * lda, p->m.step * (p->direct ? g->ldc : p->n.step), p->n.count,
                     0)) {
        struct dr_gemm_copy *copy = kept_copy(p);
        share(p, p->m.count * p->n.count, g->m * g->n * g->k >= PAYS, rows_work);
        if (copy)
            dr_gemm_kept_written(copy, g->version);
    }
}

// ---- weight gradients
// -----------------------------------------------------------------------------

enum { SHORT_N = 1, SHORT_K = 2 }; // which primitive of a product

// Length of the piece of k that starts at `at`.
static int64_t piece(const struct product *p, int64_t at) {
    return p->g.k - at >= p->k_long ? p->k_long : p->k_short;
}

// Where the rows of a sample are known, pieces are whole samples, a power of two of them, so that a
// batch rarely leaves a rest.
static void cut_pieces(struct product *p) {
    const int64_t rows = p->g.rows;
    if (rows <= 0 || rows > K_MOST) {
        p->k_long = K_PIECE;
        p->k_short = K_PIECE / 4;
        return;
    }
    int64_t samples = 1;
    while (2 * samples * rows <= (rows == 1 ? K_SINGLE : K_MOST))
        samples *= 2;
    p->k_long = samples * rows;
    p->k_short = DR_MAX(samples / 4, (int64_t)1) * rows;
}

static struct dr_gemm_prim *tile_prim(const struct product *p, int64_t j, int64_t k0) {
    return p->prim[(length(&p->n, j) < p->n.step ? SHORT_N : 0) |
                   (piece(p, k0) == p->k_long ? 0 : SHORT_K)];
}

// The piece of k at k0 of the tile (i, j) is added to the sums; b: packed.
static void tile(struct product *p, int64_t i, int64_t j, int64_t k0, const void *b, int t) {
    const struct dr_gemm_args *g = &p->g;
    int64_t m0 = i * p->m.step, n0 = j * p->n.step, k = piece(p, k0);
    int64_t m = length(&p->m, i), n = length(&p->n, j);
    const struct dr_gemm_layout rows = {
        .unit = 1, .k_units = p->m.step, .n_block = k, .ld = k, .k_blocks = 1, .n_blocks = 1};
    dr_gemm_pack(&rows, p->memory + p->room.total * (size_t)t, p->ab,
                 dr_at(g->a, g->abt, k0 * g->lda + m0), g->abt, m, DR_MIN(k, g->k - k0), g->lda,
                 true, 0, 1);
    real *to = p->sum + m0 * p->ld + n0;
    const bool first = k0 == 0 && (!g->acc || g->ct == DR_BF16);
    if (!p->direct)
        dr_gemm_store(to, DR_F32, p->ld, execute(p, tile_prim(p, j, k0), t, NULL, b, NULL, NULL), m,
                      n, first && g->ct == DR_F32 && g->bias ? g->bias + n0 : NULL, !first);
    else {
        if (first)
            memset(to, 0, (size_t)(m * p->ld) * sizeof *to);
        execute(p, tile_prim(p, j, k0), t, NULL, b, NULL, to);
    }
}

// This thread's part of the piece of k at k0 of block j of B, packed; of a source, made before.
static void pack_piece(const struct product *p, char *to, int64_t j, int64_t k0, int t, int team) {
    const struct dr_gemm_args *g = &p->g;
    const int64_t n0 = j * p->n.step, n = length(&p->n, j), k = DR_MIN(piece(p, k0), g->k - k0);
    const struct dr_gemm_layout *l = dr_gemm_prim_layout(tile_prim(p, j, k0));
    if (!p->from) {
        const void *b = dr_at(g->b, g->abt, g->tb ? n0 * g->ldb + k0 : k0 * g->ldb + n0);
        dr_gemm_pack(l, to, p->ab, b, g->abt, k, n, g->ldb, g->tb, t, team);
        return;
    }
    const int64_t r0 = k * t / team, r1 = k * (t + 1) / team;
    p->from->fill(p->from->ctx, dr_at_mut(p->stage, g->abt, r0 * n), n, k0 + r0, r1 - r0, n0, n);
#pragma omp barrier
    dr_gemm_pack(l, to, p->ab, p->stage, g->abt, k, n, n, false, t, team);
}

// Units are rows of tiles. All threads pack a piece of B together, and each goes through tiles; the
// next piece goes into the other block, so that nobody waits before packing. The barrier between
// keeps a tile's pieces in order, whoever takes them.
static void tiles_by_all(struct product *p, struct dr_gemm_units *units, int t, int team) {
    int64_t round = 0;
    for (int64_t j = 0; j < p->n.count; j++)
        for (int64_t k0 = 0; k0 < p->g.k; k0 += piece(p, k0), round++) {
            char *b = p->packed + p->block * (size_t)(round % 2);
            pack_piece(p, b, j, k0, t, team);
#pragma omp barrier
            for (int64_t i; (i = dr_gemm_next(units, t, round)) >= 0;)
                tile(p, i, j, k0, b, t);
        }
#pragma omp barrier
}

// A small piece each thread packs for itself, and keeps to its own tiles.
static void tiles_by_each(struct product *p, int64_t from, int64_t to, int t) {
    char *b = p->packed + p->block * (size_t)t;
    for (int64_t j = 0; j < p->n.count; j++)
        for (int64_t k0 = 0; k0 < p->g.k; k0 += piece(p, k0)) {
            pack_piece(p, b, j, k0, 0, 1);
            for (int64_t i = from; i < to; i++)
                tile(p, i, j, k0, b, t);
        }
}

static void tiles_work(void *product, struct dr_gemm_units *units, int t) {
    struct product *p = product;
    const struct dr_gemm_args *g = &p->g;
    const int team = omp_get_num_threads();
    const int64_t from = p->m.count * t / team, to = p->m.count * (t + 1) / team;
    if (p->own)
        tiles_by_each(p, from, to, t);
    else
        tiles_by_all(p, units, t, team);
    for (int64_t i = from; i < to && g->ct == DR_BF16; i++)
        dr_gemm_store(dr_at_mut(g->c, g->ct, i * p->m.step * g->ldc), g->ct, g->ldc,
                      p->sum + i * p->m.step * p->ld, length(&p->m, i), g->n, g->bias, g->acc);
}

static void by_tiles(struct product *p) {
    const struct dr_gemm_args *g = &p->g;
    const bool half = g->ct == DR_BF16;
    cut_pieces(p);
    const int64_t columns = TILE_B / (p->k_long * (int64_t)dr_sizeof(p->ab)) / 64 * 64;
    p->n = cut_evenly(g->n, dr_gemm_direct_pays(p->cache) ? columns : TILE_N, 32);
    // An even number of tiles, so that two threads have the same work.
    const int64_t most = p->n.step < TILE_WIDE ? TILE_M : TILE_FLAT;
    p->m = cut_in(g->m, g->m < TILE_M / 2 ? 1 : (g->m + 2 * most - 1) / (2 * most) * 2, 8);
    p->own = !p->from && p->k_long * p->n.step * (int64_t)dr_sizeof(p->ab) <= TILE_OWN;
    p->staged = p->from ? p->k_long * p->n.step : 0;
    p->sum = half ? NULL : g->c;
    p->ld = half ? g->n : g->ldc;
    // Whole tiles as wide as C are added by the primitives themselves.
    p->direct = p->n.count == 1 && p->ld == g->n && p->m.count * p->m.step == g->m &&
                (half || !g->bias) && dr_gemm_direct_pays(p->cache);
    bool whole = true;
    for (int i = 0; i < SHAPES && whole; i++) { // all of them, whatever k is
        int64_t n = i & SHORT_N ? length(&p->n, p->n.count - 1) : p->n.step;
        int64_t k = i & SHORT_K ? p->k_short : p->k_long;
        whole = (p->prim[i] = get(p, p->m.step, n, k, k)) != NULL;
    }
    if (!whole)
        dr_cpu_error(p->be, DR_EDEVICE, "gemm", "oneDNN has no matmul for this shape");
    else if (prepare(p, p->m.step * p->k_long, p->m.step * p->n.step, p->own ? p->be->threads : 2,
                     half ? g->m * g->n : 0))
        share(p, p->m.count, g->m * g->n * g->k >= PAYS, tiles_work);
}

// ---- entry
// ----------------------------------------------------------------------------------------

static struct product product_of(struct dr_backend *be, const struct dr_gemm_args *a) {
    struct dr_gemm_cache *cache = ((const struct dr_cpu *)be->impl)->gemm;
    struct product p = {.be = be, .cache = cache, .g = *a, .ab = a->abt};
    if (a->abt == DR_BF16 && !dr_gemm_native_bf16(cache))
        p.ab = DR_F32;
    dr_gemm_make_room(cache, SHAPES);
    return p;
}

void dr_cpu_gemm(struct dr_backend *be, const struct dr_gemm_args *a) {
    if (a->m <= 0 || a->n <= 0)
        return;
    struct product p = product_of(be, a);
    for (int64_t i = 0; i < DR_MAX(a->batch, (int64_t)1); i++) {
        if (a->ta)
            by_tiles(&p);
        else
            by_rows(&p);
        p.g.a = dr_at(p.g.a, a->abt, a->stride_a);
        p.g.b = dr_at(p.g.b, a->abt, a->stride_b);
        p.g.c = dr_at_mut(p.g.c, a->ct, a->stride_c);
    }
}

void dr_cpu_gemm_from(struct dr_backend *be, const struct dr_gemm_args *a,
                      const struct dr_gemm_source *from) {
    if (a->m <= 0 || a->n <= 0)
        return;
    struct product p = product_of(be, a);
    p.from = from;
    if (a->ta)
        by_tiles(&p);
    else
        by_rows(&p);
}
