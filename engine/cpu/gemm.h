// Shared by the files of the matrix product: gemm_onednn.c cuts products, gemm_cache.c holds the
// primitives, gemm_pack.c copies operands, gemm_keep.c keeps packed weights. Private to engine/cpu
// and the tests of products.
#pragma once

#include "engine/cpu/cpu.h"

// What a primitive depends on, and nothing else: never the number of rows of a product, of its
// tokens or of threads. It writes C[m, n] = A[m, k] B[k, n], in fp32 without gaps unless it is
// direct; B is packed.
struct dr_gemm_key {
    int64_t m, n, k;  // of the piece, not of the product
    int64_t lda, ldc; // ldc 0: n elements per row
    int64_t form;     // DR_GEMM_*
};
// bf16: A and B. Direct: C is the product's own, with its type and its bias, rounded once; sum: the
// product is added to it.
enum {
    DR_GEMM_BF16 = 1,
    DR_GEMM_DIRECT = 2,
    DR_GEMM_C_BF16 = 4,
    DR_GEMM_BIAS = 8,
    DR_GEMM_SUM = 16,
};

// How a primitive wants its B packed: blocks [k_units][n_block] of units of `unit` neighbours along
// k; block (i, j) starts at element i k_stride + j n_stride, and its rows are `ld` units apart.
// Past k and n there are zeros.
struct dr_gemm_layout {
    int64_t unit, k_units, n_block, ld, k_stride, n_stride;
    int64_t k_blocks, n_blocks;
    size_t bytes;
};

static inline size_t dr_aligned(size_t bytes) {
    return (bytes + DR_ALIGN - 1) / DR_ALIGN * DR_ALIGN;
}

struct dr_gemm_prim; // one single-threaded primitive and each thread's handles

// The primitive of a key, made on first use. NULL: oneDNN refused. Called outside parallel regions.
struct dr_gemm_prim *dr_gemm_prim(struct dr_gemm_cache *g, const struct dr_gemm_key *key);
size_t dr_gemm_prim_scratch(const struct dr_gemm_prim *p); // bytes that each thread needs
const struct dr_gemm_layout *dr_gemm_prim_layout(const struct dr_gemm_prim *p);
// Runs it as `thread`. bias [n]: only of forms with DR_GEMM_BIAS. False: oneDNN failed.
bool dr_gemm_prim_run(struct dr_gemm_cache *g, struct dr_gemm_prim *p, int thread, const void *a,
                      const void *b, const real *bias, void *c, void *scratch);
// Units [0, count) of work, dealt to the threads of the instance in contiguous ranges.
struct dr_gemm_units;
// Runs work on all threads, each of which may run primitives as its `thread` and asks for units
// until there are none, or keeps to its part of them. pays: more than one thread is worth while.
void dr_gemm_share(struct dr_backend *be, int64_t count, bool pays,
                   void (*work)(void *ctx, struct dr_gemm_units *units, int thread), void *ctx);
// The next unit of the thread's own range, then of what the others have left: a processor that
// somebody else keeps busy holds nobody up. -1: all are taken. Work that goes through all units
// several times, with a barrier between, says which round it is, from 0.
int64_t dr_gemm_next(const struct dr_gemm_units *units, int thread, int64_t round);
bool dr_gemm_native_bf16(const struct dr_gemm_cache *g);
// Whether oneDNN found AMX and the system let it have the tiles.
bool dr_gemm_has_amx(const struct dr_gemm_cache *g);
// Whether direct primitives pay: one pass less over C.
bool dr_gemm_direct_pays(const struct dr_gemm_cache *g);
// Heights of panels must be multiples of it, for a row's place in a panel not to matter.
int64_t dr_gemm_row_unit(const struct dr_gemm_cache *g);
// Drops all primitives if fewer than `room` more fit: no pointer to one may be in use.
void dr_gemm_make_room(struct dr_gemm_cache *g, int room);

// ---- gemm_keep.c

// An operand B and the way it is packed; compared byte by byte, so it has no gaps.
struct dr_gemm_operand {
    const void *b;
    int64_t k, n, ld, step;           // step: columns of a block
    int64_t trans, type, packed_type; // enum dr_dtype
    struct dr_gemm_layout layout[2];  // of the blocks and of the last one
};
struct dr_gemm_kept;
struct dr_gemm_copy;

struct dr_gemm_kept *dr_gemm_kept_new(void); // NULL: out of memory
void dr_gemm_kept_free(struct dr_gemm_kept *k);
size_t dr_gemm_kept_bytes(const struct dr_gemm_kept *k);
struct dr_gemm_kept *dr_gemm_kept(struct dr_gemm_cache *g); // the one of a cache
// `bytes` of memory for the packed operand, NULL: there is no room for it. `ready`: it holds this
// version (not 0); otherwise the caller writes it and then calls dr_gemm_kept_written(*out). Valid
// until the next call.
void *dr_gemm_kept_find(struct dr_gemm_kept *k, const struct dr_gemm_operand *of, uint64_t version,
                        size_t bytes, struct dr_gemm_copy **out, bool *ready);
void dr_gemm_kept_written(struct dr_gemm_copy *c, uint64_t version);

// ---- for tests

// The keys of all primitives, sorted by their bytes; returns their number, of which the
// first `max` are written.
int dr_gemm_keys(const struct dr_gemm_cache *g, struct dr_gemm_key *out, int max);

// dst <- op(B) [k, n] in layout l, converting from type st to dt; B has leading dimension ld. Part
// `part` of `parts`, which together are all of it.
void dr_gemm_pack(const struct dr_gemm_layout *l, void *dst, enum dr_dtype dt, const void *src,
                  enum dr_dtype st, int64_t k, int64_t n, int64_t ld, bool trans, int part,
                  int parts);
// Rows of A between two places, converting.
void dr_gemm_copy(void *dst, enum dr_dtype dt, int64_t ldd, const void *src, enum dr_dtype st,
                  int64_t lds, int64_t rows, int64_t n);
// C (+)= sum + bias, C: `rows` rows of n elements; sum: n elements per row; bias NULL: none.
void dr_gemm_store(void *c, enum dr_dtype ct, int64_t ldc, const real *sum, int64_t rows, int64_t n,
                   const real *bias, bool acc);
