// Matrix products by oneDNN, behind a cache of ready primitives. Called as dr_cpu_gemm by every
// layer.
//
// A primitive is made once for each shape, form and stride; running one sets the data pointers of
// its memory objects and executes: nothing is allocated.
//
// Rows of a result are bit-identical whatever m and the thread count, which makes a sample's bytes
// independent of the batch it rides in (tests/ops/gemm_rows.c). oneDNN gives that in fp32 from
// AVX-512 on and in bf16 with native bf16; below, bf16 goes through fp32 and fp32 to the reference
// product. Weight gradients (A transposed, k the number of tokens) are cut at fixed places along k:
// oneDNN would share a long k among the threads, and the sums would depend on their number. It is
// faster, too.
#include "engine/cpu/cpu.h"

#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>

enum { CACHE_SLOTS = 1024, CACHE_MAX = 768, K_PIECE = 1152 };

struct gemm_key {
    int64_t m, n, k, lda, ldb, ldc, batch, stride_a, stride_b, stride_c;
    int64_t form; // bits: ta, tb, acc, bias, abt, ct
};

enum { ARG_A, ARG_B, ARG_C, ARG_BIAS, ARG_SCRATCH, ARGS };

struct gemm_entry {
    struct gemm_key key;
    dnnl_primitive_t prim; // NULL: free slot
    dnnl_memory_t mem[ARGS];
    size_t scratch;
};

struct dr_gemm_cache {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    bool avx512, bf16; // what oneDNN may be used for
    int used;
    struct gemm_entry slot[CACHE_SLOTS];
};

static void entry_clear(struct gemm_entry *e) {
    for (int i = 0; i < ARGS; i++)
        if (e->mem[i])
            dnnl_memory_destroy(e->mem[i]);
    if (e->prim)
        dnnl_primitive_destroy(e->prim);
    *e = (struct gemm_entry){0};
}

static void cache_clear(struct dr_gemm_cache *g) {
    for (int i = 0; i < CACHE_SLOTS; i++)
        entry_clear(&g->slot[i]);
    g->used = 0;
}

static bool has(dnnl_cpu_isa_t isa) {
    return (dnnl_get_effective_cpu_isa() & isa) == isa;
}

int dr_gemm_cache_new(struct dr_gemm_cache **out, struct dr_err *err) {
    struct dr_gemm_cache *g = calloc(1, sizeof *g);
    *out = NULL;
    if (!g)
        return dr_fail(err, DR_ENOMEM, "cannot allocate the GEMM cache");
    if (dnnl_engine_create(&g->engine, dnnl_cpu, 0) ||
        dnnl_stream_create(&g->stream, g->engine, dnnl_stream_default_flags)) {
        dr_gemm_cache_free(g);
        return dr_fail(err, DR_EDEVICE, "oneDNN cannot create its CPU engine");
    }
    g->avx512 = has(dnnl_cpu_isa_avx512_core);
    g->bf16 = has(dnnl_cpu_isa_avx512_core_bf16);
    *out = g;
    return 0;
}

void dr_gemm_cache_free(struct dr_gemm_cache *g) {
    if (!g)
        return;
    cache_clear(g);
    if (g->stream)
        dnnl_stream_destroy(g->stream);
    if (g->engine)
        dnnl_engine_destroy(g->engine);
    free(g);
}

void dr_gemm_describe(char *out, size_t size, bool *bf16) {
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
    *bf16 = has(dnnl_cpu_isa_avx512_core_bf16);
    snprintf(out, size, "%s, oneDNN %d.%d.%d%s", name, v->major, v->minor, v->patch,
             has(dnnl_cpu_isa_avx512_core) ? "" : " (products by the reference)");
}

static dnnl_data_type_t type_of(enum dr_dtype t) {
    return t == DR_BF16 ? dnnl_bf16 : dnnl_f32;
}

// [rows, cols] of one operand, with a batch dimension in front when there is one.
static dnnl_status_t desc(dnnl_memory_desc_t *d, enum dr_dtype t, int64_t batch, int64_t stride,
                          int64_t rows, int64_t cols, int64_t ld, bool trans) {
    int64_t rs = trans ? 1 : ld, cs = trans ? ld : 1;
    dnnl_dims_t dims3 = {batch, rows, cols}, strides3 = {stride, rs, cs};
    dnnl_dims_t dims2 = {rows, cols}, strides2 = {rs, cs};
    return batch > 1 ? dnnl_memory_desc_init_by_strides(d, 3, dims3, type_of(t), strides3)
                     : dnnl_memory_desc_init_by_strides(d, 2, dims2, type_of(t), strides2);
}

// A row of n biases, broadcast over rows and batch.
static dnnl_status_t desc_bias(dnnl_memory_desc_t *d, int64_t batch, int64_t n) {
    dnnl_dims_t dims3 = {1, 1, n}, strides3 = {n, n, 1}, dims2 = {1, n}, strides2 = {n, 1};
    return batch > 1 ? dnnl_memory_desc_init_by_strides(d, 3, dims3, dnnl_f32, strides3)
                     : dnnl_memory_desc_init_by_strides(d, 2, dims2, dnnl_f32, strides2);
}

static dnnl_status_t make_attr(dnnl_primitive_attr_t *attr, bool acc) {
    dnnl_status_t s = dnnl_primitive_attr_create(attr);
    if (!s)
        s = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
    if (s || !acc)
        return s;
    dnnl_post_ops_t ops = NULL;
    s = dnnl_post_ops_create(&ops);
    if (!s)
        s = dnnl_post_ops_append_sum(ops, 1.0f);
    if (!s)
        s = dnnl_primitive_attr_set_post_ops(*attr, ops);
    dnnl_post_ops_destroy(ops);
    return s;
}

static dnnl_status_t make_entry(struct dr_gemm_cache *g, struct gemm_entry *e,
                                const struct dr_gemm_args *a) {
    const struct gemm_key *q = &e->key;
    dnnl_memory_desc_t d[ARGS] = {0};
    dnnl_status_t s = desc(&d[ARG_A], a->abt, q->batch, q->stride_a, a->m, a->k, a->lda, a->ta);
    if (!s)
        s = desc(&d[ARG_B], a->abt, q->batch, q->stride_b, a->k, a->n, a->ldb, a->tb);
    if (!s)
        s = desc(&d[ARG_C], a->ct, q->batch, q->stride_c, a->m, a->n, a->ldc, false);
    if (!s && a->bias)
        s = desc_bias(&d[ARG_BIAS], q->batch, a->n);
    dnnl_matmul_desc_t op;
    if (!s)
        s = dnnl_matmul_desc_init(&op, &d[ARG_A], &d[ARG_B], a->bias ? &d[ARG_BIAS] : NULL,
                                  &d[ARG_C]);
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    if (!s)
        s = make_attr(&attr, a->acc);
    if (!s)
        s = dnnl_primitive_desc_create(&pd, &op, attr, g->engine, NULL);
    if (!s) {
        d[ARG_SCRATCH] = *dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
        e->scratch = dnnl_memory_desc_get_size(&d[ARG_SCRATCH]);
        s = dnnl_primitive_create(&e->prim, pd);
    }
    for (int i = 0; !s && i < ARGS; i++)
        if (i != ARG_BIAS || a->bias)
            s = dnnl_memory_create(&e->mem[i], &d[i], g->engine, DNNL_MEMORY_NONE);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return s;
}

static uint64_t hash_key(const struct gemm_key *k) {
    const int64_t *p = (const int64_t *)k;
    uint64_t h = 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < sizeof *k / sizeof *p; i++)
        h = (h ^ (uint64_t)p[i]) * 0xff51afd7ed558ccdu, h ^= h >> 32;
    return h;
}

// The entry of these arguments, made on first use. NULL: oneDNN refused.
static struct gemm_entry *lookup(struct dr_gemm_cache *g, const struct dr_gemm_args *a) {
    int64_t batch = DR_MAX(a->batch, (int64_t)1);
    struct gemm_key key = {.m = a->m,
                           .n = a->n,
                           .k = a->k,
                           .lda = a->lda,
                           .ldb = a->ldb,
                           .ldc = a->ldc,
                           .batch = batch,
                           .stride_a = batch > 1 ? a->stride_a : 0,
                           .stride_b = batch > 1 ? a->stride_b : 0,
                           .stride_c = batch > 1 ? a->stride_c : 0,
                           .form = a->ta | a->tb << 1 | a->acc << 2 | (a->bias != NULL) << 3 |
                                   (int)a->abt << 4 | (int)a->ct << 5};
    uint64_t at = hash_key(&key) % CACHE_SLOTS;
    for (; g->slot[at].prim; at = (at + 1) % CACHE_SLOTS)
        if (!memcmp(&g->slot[at].key, &key, sizeof key))
            return &g->slot[at];
    if (g->used == CACHE_MAX) { // shapes keep changing: start over rather than grow
        cache_clear(g);
        at = hash_key(&key) % CACHE_SLOTS;
    }
    struct gemm_entry *e = &g->slot[at];
    e->key = key;
    if (make_entry(g, e, a)) {
        entry_clear(e);
        return NULL;
    }
    g->used++;
    return e;
}

static void run(struct dr_backend *be, const struct dr_gemm_args *a) {
    struct dr_cpu *cpu = be->impl;
    struct gemm_entry *e = lookup(cpu->gemm, a);
    if (!e) {
        dr_cpu_error(be, DR_EDEVICE, "gemm", "oneDNN has no matmul for this shape");
        return;
    }
    void *scratch = dr_cpu_scratch(be, DR_WS_GEMM, e->scratch);
    if (!scratch)
        return;
    const void *data[ARGS] = {a->a, a->b, a->c, a->bias, scratch};
    static const int name[ARGS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS,
                                   DNNL_ARG_SCRATCHPAD};
    dnnl_exec_arg_t args[ARGS];
    int count = 0;
    for (int i = 0; i < ARGS; i++)
        if (e->mem[i]) {
            dnnl_memory_set_data_handle(e->mem[i], (void *)(uintptr_t)data[i]);
            args[count++] = (dnnl_exec_arg_t){name[i], e->mem[i]};
        }
    if (dnnl_primitive_execute(e->prim, cpu->gemm->stream, count, args))
        dr_cpu_error(be, DR_EDEVICE, "gemm", "oneDNN failed to run a matmul");
}

// A transposed: pieces of k of equal length, each added to the sum of those before.
static void by_pieces(struct dr_backend *be, struct dr_gemm_args g) {
    int64_t k = g.k, pieces = (k + K_PIECE - 1) / K_PIECE;
    int64_t step = ((k + pieces - 1) / pieces + 15) / 16 * 16;
    for (int64_t at = 0; at < k; at += step) {
        g.k = DR_MIN(step, k - at);
        run(be, &g);
        g.a = dr_at(g.a, g.abt, step * g.lda);
        g.b = dr_at(g.b, g.abt, g.tb ? step : step * g.ldb);
        g.acc = true;
        g.bias = NULL;
    }
}

static void run_or_cut(struct dr_backend *be, const struct dr_gemm_args *a) {
    if (a->ta && a->k > K_PIECE && a->ct == DR_F32)
        by_pieces(be, *a);
    else
        run(be, a);
}

// batch matrices [rows, cols] between two places, converting.
static void move(struct dr_backend *be, struct dr_copy4_args c, int64_t batch, int64_t rows,
                 int64_t cols) {
    c.dim[0] = 1, c.dim[1] = batch, c.dim[2] = rows, c.dim[3] = cols;
    c.dstride[3] = c.sstride[3] = 1;
    dr_cpu_copy4(be, &c);
}

// bf16 on a CPU without: the operands widened, an fp32 product, the result rounded once.
static void through_fp32(struct dr_backend *be, const struct dr_gemm_args *a) {
    int64_t batch = DR_MAX(a->batch, (int64_t)1);
    int64_t ar = a->ta ? a->k : a->m, ac = a->ta ? a->m : a->k;
    int64_t br = a->tb ? a->n : a->k, bc = a->tb ? a->k : a->n;
    size_t na = (size_t)(batch * ar * ac + 15) / 16 * 16,
           nb = (size_t)(batch * br * bc + 15) / 16 * 16;
    real *wa =
        dr_cpu_scratch(be, DR_WS_CAST, (na + nb + (size_t)(batch * a->m * a->n)) * sizeof *wa);
    if (!wa)
        return;
    struct dr_gemm_args f = *a;
    f.abt = f.ct = DR_F32;
    f.a = wa, f.lda = ac, f.stride_a = ar * ac;
    f.b = wa + na, f.ldb = bc, f.stride_b = br * bc;
    move(be,
         (struct dr_copy4_args){.dst = wa,
                                .src = a->a,
                                .st = DR_BF16,
                                .dstride = {0, ar * ac, ac},
                                .sstride = {0, a->stride_a, a->lda}},
         batch, ar, ac);
    move(be,
         (struct dr_copy4_args){.dst = wa + na,
                                .src = a->b,
                                .st = DR_BF16,
                                .dstride = {0, br * bc, bc},
                                .sstride = {0, a->stride_b, a->ldb}},
         batch, br, bc);
    if (a->ct == DR_F32) {
        run_or_cut(be, &f);
        return;
    }
    f.c = wa + na + nb, f.ldc = a->n, f.stride_c = a->m * a->n, f.acc = false;
    run_or_cut(be, &f);
    move(be,
         (struct dr_copy4_args){.dst = a->c,
                                .dt = DR_BF16,
                                .src = f.c,
                                .acc = a->acc,
                                .dstride = {0, a->stride_c, a->ldc},
                                .sstride = {0, f.stride_c, f.ldc}},
         batch, a->m, a->n);
}

void dr_cpu_gemm(struct dr_backend *be, const struct dr_gemm_args *a) {
    const struct dr_gemm_cache *g = ((const struct dr_cpu *)be->impl)->gemm;
    if (a->m <= 0 || a->n <= 0)
        return;
    if (!g->avx512)
        dr_gemm_ref(be, a);
    else if (a->abt == DR_BF16 && !g->bf16)
        through_fp32(be, a);
    else
        run_or_cut(be, a);
}
