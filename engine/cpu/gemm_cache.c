// The oneDNN primitives behind the matrix product: made once per key, single-threaded, and kept.
//
// A primitive is made while OpenMP's thread count is one, so that its blocking cannot depend on the
// machine's threads. Its scratchpad is the caller's and every thread has memory objects of its own,
// so several threads may run one primitive at a time. Running sets data pointers and executes:
// nothing is allocated.
#include "engine/cpu/gemm.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { CACHE_SLOTS = 1024, CACHE_MAX = 768 };
enum { ARG_A, ARG_B, ARG_C, ARG_SCRATCH, ARG_BIAS, ARGS };

struct handles {
    dnnl_memory_t mem[ARGS];
};

struct dr_gemm_prim {
    struct dr_gemm_key key;
    dnnl_primitive_t prim; // NULL: free slot
    struct dr_gemm_layout layout;
    size_t scratch;
    struct handles *thread; // one per thread of the instance
};

// Units taken of one thread's range, on a line of its own.
struct dr_gemm_taken {
    _Alignas(DR_ALIGN) atomic_llong count;
};

struct dr_gemm_cache {
    dnnl_engine_t engine;
    dnnl_stream_t *stream; // one per thread
    int threads;
    bool bf16; // bf16 is multiplied as it is
    bool avx512, amx;
    int used;
    struct dr_gemm_taken *taken; // one per thread
    struct dr_gemm_kept *kept;
    struct dr_gemm_prim slot[CACHE_SLOTS];
};

static void prim_clear(struct dr_gemm_prim *p, int threads) {
    for (int t = 0; p->thread && t < threads; t++)
        for (int i = 0; i < ARGS; i++)
            if (p->thread[t].mem[i])
                dnnl_memory_destroy(p->thread[t].mem[i]);
    free(p->thread);
    if (p->prim)
        dnnl_primitive_destroy(p->prim);
    *p = (struct dr_gemm_prim){0};
}

static void cache_clear(struct dr_gemm_cache *g) {
    for (int i = 0; i < CACHE_SLOTS; i++)
        prim_clear(&g->slot[i], g->threads);
    g->used = 0;
}

static bool has(dnnl_cpu_isa_t isa) {
    return (dnnl_get_effective_cpu_isa() & isa) == isa;
}

// Whether multiplying bf16 as it is pays. Intel's cores from Sapphire Rapids on leave bf16 to AMX;
// their vector instruction for it has half the rate of fp32's, and where a virtual machine hides
// AMX a Tiny step took 1.5 times as long with it (docs/benchmarks.md).
static bool pays_bf16(void) {
    const bool amx = has(dnnl_cpu_isa_avx512_core_amx);
#ifdef __x86_64__
    if (!amx && __builtin_cpu_is("intel") && !__builtin_cpu_is("cooperlake"))
        return false;
#endif
    return amx || has(dnnl_cpu_isa_avx512_core_bf16);
}

int dr_gemm_cache_new(int threads, struct dr_gemm_cache **out, struct dr_err *err) {
    struct dr_gemm_cache *g = calloc(1, sizeof *g);
    *out = NULL;
    if (g) {
        g->stream = calloc((size_t)threads, sizeof(dnnl_stream_t));
        g->taken = aligned_alloc(DR_ALIGN, (size_t)threads * sizeof *g->taken);
        g->kept = dr_gemm_kept_new();
    }
    if (!g || !g->stream || !g->taken || !g->kept) {
        free(g ? g->kept : NULL);
        free(g ? g->taken : NULL);
        free(g ? g->stream : NULL);
        free(g);
        return dr_fail(err, DR_ENOMEM, "cannot allocate the cache of matrix products");
    }
    g->threads = threads;
    bool ok = !dnnl_engine_create(&g->engine, dnnl_cpu, 0);
    for (int t = 0; ok && t < threads; t++)
        ok = !dnnl_stream_create(&g->stream[t], g->engine, dnnl_stream_default_flags);
    if (!ok) {
        dr_gemm_cache_free(g);
        return dr_fail(err, DR_EDEVICE, "oneDNN cannot create its CPU engine");
    }
    g->avx512 = has(dnnl_cpu_isa_avx512_core);
    g->amx = has(dnnl_cpu_isa_avx512_core_amx);
    g->bf16 = pays_bf16();
    *out = g;
    return 0;
}

void dr_gemm_cache_free(struct dr_gemm_cache *g) {
    if (!g)
        return;
    cache_clear(g);
    dr_gemm_kept_free(g->kept);
    for (int t = 0; t < g->threads; t++)
        if (g->stream[t])
            dnnl_stream_destroy(g->stream[t]);
    free(g->stream);
    free(g->taken);
    if (g->engine)
        dnnl_engine_destroy(g->engine);
    free(g);
}

struct dr_gemm_kept *dr_gemm_kept(struct dr_gemm_cache *g) {
    return g->kept;
}

bool dr_gemm_native_bf16(const struct dr_gemm_cache *g) {
    return g->bf16;
}

bool dr_gemm_direct_pays(const struct dr_gemm_cache *g) {
    return g->avx512;
}

bool dr_gemm_has_amx(const struct dr_gemm_cache *g) {
    return g->amx;
}

// Below AVX-512 oneDNN takes rows by six, and what is left over by kernels that round differently.
int64_t dr_gemm_row_unit(const struct dr_gemm_cache *g) {
    return g->avx512 ? 1 : 12;
}

void dr_gemm_describe(char *out, size_t size) {
    static const struct {
        dnnl_cpu_isa_t isa;
        const char *name;
    } names[] = {
        {dnnl_cpu_isa_sse41, "sse41"},
        {dnnl_cpu_isa_avx, "avx"},
        {dnnl_cpu_isa_avx2, "avx2"},
        {dnnl_cpu_isa_avx2_vnni, "avx2_vnni"},
        {dnnl_cpu_isa_avx512_core, "avx512_core"},
        {dnnl_cpu_isa_avx512_core_vnni, "avx512_core_vnni"},
        {dnnl_cpu_isa_avx512_core_bf16, "avx512_core_bf16"},
        {dnnl_cpu_isa_avx512_core_amx, "avx512_core_amx"},
    };
    dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    const dnnl_version_t *v = dnnl_version();
    const char *name = "plain instructions";
    for (size_t i = 0; i < DR_COUNT(names); i++)
        if (names[i].isa == isa)
            name = names[i].name;
    snprintf(out, size, "%s%s, oneDNN %d.%d.%d", name, pays_bf16() ? "" : ", bf16 by fp32",
             v->major, v->minor, v->patch);
}

// ---- making one
// ---------------------------------------------------------------------------------------

static dnnl_status_t strided(dnnl_memory_desc_t *d, dnnl_data_type_t t, int64_t rows, int64_t cols,
                             int64_t ld) {
    dnnl_dims_t dims = {rows, cols}, strides = {ld, 1};
    return dnnl_memory_desc_init_by_strides(d, 2, dims, t, strides);
}

// A plain row-major copy of B, n elements per row.
static struct dr_gemm_layout plain_layout(const struct dr_gemm_key *q) {
    return (struct dr_gemm_layout){.unit = 1,
                                   .k_units = q->k,
                                   .n_block = q->n,
                                   .ld = q->n,
                                   .k_blocks = 1,
                                   .n_blocks = 1,
                                   .bytes = (size_t)(q->k * q->n) *
                                            dr_sizeof(q->form & DR_GEMM_BF16 ? DR_BF16 : DR_F32)};
}

// Reads the layout that oneDNN chose for B, [k][n] in blocks of k x n or k x n x 2k. False: it is
// another one.
static bool read_layout(const dnnl_memory_desc_t *d, struct dr_gemm_layout *l) {
    const dnnl_blocking_desc_t *b = &d->format_desc.blocking;
    if (d->format_kind != dnnl_blocked || d->extra.flags || d->offset0 || b->inner_nblks < 2 ||
        b->inner_nblks > 3 || b->inner_idxs[0] != 0 || b->inner_idxs[1] != 1)
        return false;
    *l = (struct dr_gemm_layout){.unit = 1,
                                 .k_units = b->inner_blks[0],
                                 .n_block = b->inner_blks[1],
                                 .ld = b->inner_blks[1],
                                 .k_stride = b->strides[0],
                                 .n_stride = b->strides[1],
                                 .bytes = dnnl_memory_desc_get_size(d)};
    if (b->inner_nblks == 3) {
        if (b->inner_idxs[2] != 0 || b->inner_blks[2] != 2 || d->data_type != dnnl_bf16)
            return false;
        l->unit = 2;
    }
    l->k_blocks = d->padded_dims[0] / (l->k_units * l->unit);
    l->n_blocks = d->padded_dims[1] / l->n_block;
    return true;
}

// any: oneDNN chooses the layout of B, otherwise it is plain.
static dnnl_status_t describe(struct dr_gemm_cache *g, const struct dr_gemm_key *q, bool any,
                              dnnl_memory_desc_t *d, dnnl_primitive_desc_t *pd) {
    const dnnl_data_type_t ab = q->form & DR_GEMM_BF16 ? dnnl_bf16 : dnnl_f32;
    const bool bias = q->form & DR_GEMM_BIAS;
    dnnl_dims_t dims = {q->k, q->n};
    dnnl_matmul_desc_t op;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t sum = NULL;
    dnnl_status_t s = strided(&d[ARG_A], ab, q->m, q->k, q->lda);
    if (!s)
        s = any ? dnnl_memory_desc_init_by_tag(&d[ARG_B], 2, dims, ab, dnnl_format_tag_any)
                : strided(&d[ARG_B], ab, q->k, q->n, q->n);
    if (!s)
        s = strided(&d[ARG_C], q->form & DR_GEMM_C_BF16 ? dnnl_bf16 : dnnl_f32, q->m, q->n,
                    q->ldc ? q->ldc : q->n);
    if (!s && bias)
        s = strided(&d[ARG_BIAS], dnnl_f32, 1, q->n, q->n);
    if (!s)
        s = dnnl_matmul_desc_init(&op, &d[ARG_A], &d[ARG_B], bias ? &d[ARG_BIAS] : NULL, &d[ARG_C]);
    if (!s)
        s = dnnl_primitive_attr_create(&attr);
    if (!s)
        s = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (!s && q->form & DR_GEMM_SUM)
        s = dnnl_post_ops_create(&sum);
    if (!s && sum)
        s = dnnl_post_ops_append_sum(sum, 1);
    if (!s && sum)
        s = dnnl_primitive_attr_set_post_ops(attr, sum);
    if (!s)
        s = dnnl_primitive_desc_create(pd, &op, attr, g->engine, NULL);
    if (sum)
        dnnl_post_ops_destroy(sum);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    if (s)
        return s;
    d[ARG_B] = *dnnl_primitive_desc_query_md(*pd, dnnl_query_weights_md, 0);
    d[ARG_SCRATCH] = *dnnl_primitive_desc_query_md(*pd, dnnl_query_scratchpad_md, 0);
    return dnnl_success;
}

static dnnl_status_t make_prim(struct dr_gemm_cache *g, struct dr_gemm_prim *p) {
    const struct dr_gemm_key *q = &p->key;
    dnnl_memory_desc_t d[ARGS] = {0};
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t s = describe(g, q, true, d, &pd);
    if (!s && !read_layout(&d[ARG_B], &p->layout)) {
        dnnl_primitive_desc_destroy(pd);
        pd = NULL;
        p->layout = plain_layout(q);
        s = describe(g, q, false, d, &pd);
    }
    if (!s)
        s = dnnl_primitive_create(&p->prim, pd);
    if (!s) {
        p->scratch = dnnl_memory_desc_get_size(&d[ARG_SCRATCH]);
        p->thread = calloc((size_t)g->threads, sizeof *p->thread);
        s = p->thread ? dnnl_success : dnnl_out_of_memory;
    }
    for (int i = 0; !s && i < g->threads * ARGS; i++)
        if (i % ARGS != ARG_BIAS || q->form & DR_GEMM_BIAS)
            s = dnnl_memory_create(&p->thread[i / ARGS].mem[i % ARGS], &d[i % ARGS], g->engine,
                                   DNNL_MEMORY_NONE);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    return s;
}

static uint64_t hash_key(const struct dr_gemm_key *k) {
    const int64_t *p = (const int64_t *)k;
    uint64_t h = 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < sizeof *k / sizeof *p; i++)
        h = (h ^ (uint64_t)p[i]) * 0xff51afd7ed558ccdu, h ^= h >> 32;
    return h;
}

struct dr_gemm_prim *dr_gemm_prim(struct dr_gemm_cache *g, const struct dr_gemm_key *key) {
    uint64_t at = hash_key(key) % CACHE_SLOTS;
    for (; g->slot[at].prim; at = (at + 1) % CACHE_SLOTS)
        if (!memcmp(&g->slot[at].key, key, sizeof *key))
            return &g->slot[at];
    struct dr_gemm_prim *p = &g->slot[at];
    p->key = *key;
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    dnnl_status_t s = make_prim(g, p);
    omp_set_num_threads(threads);
    if (s) {
        prim_clear(p, g->threads);
        return NULL;
    }
    g->used++;
    return p;
}

void dr_gemm_make_room(struct dr_gemm_cache *g, int room) {
    if (g->used + room > CACHE_MAX) // shapes keep changing: start over rather than grow
        cache_clear(g);
}

// ---- running them
// --------------------------------------------------------------------------------------

struct dr_gemm_units {
    int64_t count;
    int threads;
    struct dr_gemm_taken *taken; // of each thread's range
};

int64_t dr_gemm_next(const struct dr_gemm_units *units, int thread, int64_t round) {
    for (int i = 0; i < units->threads; i++) {
        const int whose = (thread + i) % units->threads;
        const int64_t from = units->count * whose / units->threads;
        const int64_t own = units->count * (whose + 1) / units->threads - from;
        atomic_llong *count = &units->taken[whose].count;
        long long taken = atomic_load_explicit(count, memory_order_relaxed);
        while (taken < (round + 1) * own)
            if (atomic_compare_exchange_weak_explicit(count, &taken, taken + 1,
                                                      memory_order_relaxed, memory_order_relaxed))
                return from + taken - round * own;
    }
    return -1;
}

void dr_gemm_share(struct dr_backend *be, int64_t count, bool pays,
                   void (*work)(void *ctx, struct dr_gemm_units *units, int thread), void *ctx) {
    struct dr_gemm_cache *g = ((const struct dr_cpu *)be->impl)->gemm;
#ifdef __SANITIZE_THREAD__
    pays = false; // ThreadSanitizer does not see libgomp's barriers
#endif
    const bool all = pays && be->threads > 1 && count > 1;
    struct dr_gemm_units units = {count, all ? be->threads : 1, g->taken};
    for (int t = 0; t < units.threads; t++)
        atomic_store_explicit(&g->taken[t].count, 0, memory_order_relaxed);
#pragma omp parallel num_threads(be->threads) if (all)
    {
        int was = omp_get_max_threads();
        omp_set_num_threads(1); // for oneDNN, also where this region has one thread
        work(ctx, &units, omp_get_thread_num());
        omp_set_num_threads(was);
    }
}

size_t dr_gemm_prim_scratch(const struct dr_gemm_prim *p) {
    return p->scratch;
}

const struct dr_gemm_layout *dr_gemm_prim_layout(const struct dr_gemm_prim *p) {
    return &p->layout;
}

bool dr_gemm_prim_run(struct dr_gemm_cache *g, struct dr_gemm_prim *p, int thread, const void *a,
                      const void *b, const real *bias, void *c, void *scratch) {
    const void *data[ARGS] = {a, b, c, scratch, bias};
    static const int name[ARGS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST,
                                   DNNL_ARG_SCRATCHPAD, DNNL_ARG_BIAS};
    const int count = p->key.form & DR_GEMM_BIAS ? ARGS : ARG_BIAS;
    dnnl_memory_t *mem = p->thread[thread].mem;
    dnnl_exec_arg_t args[ARGS];
    for (int i = 0; i < count; i++) {
        // Setting a pointer also clears the padding of a packed B, so only new ones are set.
        void *was = NULL;
        if (dnnl_memory_get_data_handle(mem[i], &was) || was != data[i])
            dnnl_memory_set_data_handle(mem[i], (void *)(uintptr_t)data[i]);
        args[i] = (dnnl_exec_arg_t){name[i], mem[i]};
    }
    return !dnnl_primitive_execute(p->prim, g->stream[thread], count, args);
}

// ---- for tests
// ----------------------------------------------------------------------------------------

static int by_bytes(const void *a, const void *b) {
    return memcmp(a, b, sizeof(struct dr_gemm_key));
}

int dr_gemm_keys(const struct dr_gemm_cache *g, struct dr_gemm_key *out, int max) {
    int n = 0;
    for (int i = 0; i < CACHE_SLOTS; i++)
        if (g->slot[i].prim) {
            if (n < max)
                out[n] = g->slot[i].key;
            n++;
        }
    qsort(out, (size_t)DR_MIN(n, max), sizeof *out, by_bytes);
    return n;
}
