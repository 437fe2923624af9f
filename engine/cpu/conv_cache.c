// oneDNN's convolution primitives: made once per key, single-threaded, and kept. Used by
// conv_onednn.c.
//
// As those of the matrix product (gemm_cache.c), they are made while OpenMP's thread count is one,
// their scratchpad is the caller's, and every thread has memory objects of its own. What oneDNN
// answers with a plain loop or with patches of its own is refused and remembered as refused.
#include "engine/cpu/conv_onednn.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>

enum { SLOTS = 1024, MOST = 768 };
enum { ARG_X, ARG_Y, ARG_WEIGHT, ARG_SCRATCH, ARG_BIAS, ARGS };

struct handles {
    dnnl_memory_t mem[ARGS];
};

struct dr_conv_prim {
    struct dr_conv_key key;
    bool taken;
    int64_t id;
    dnnl_primitive_t prim;         // NULL: refused
    dnnl_primitive_t reorder;      // of the weights into oneDNN's layout, of gradients out of it
    dnnl_memory_t plain, arranged; // its operands
    dnnl_memory_desc_t layout;     // of arranged weights
    size_t scratch, weight_bytes;
    struct handles *thread; // one per thread of the instance
};

struct dr_conv_cache {
    dnnl_engine_t engine;
    dnnl_stream_t *stream; // one per thread
    int threads, used;
    int64_t ids;
    struct dr_conv_prim slot[SLOTS];
};

static void destroy_memory(dnnl_memory_t m) {
    if (m)
        dnnl_memory_destroy(m);
}

static void prim_clear(struct dr_conv_prim *p, int threads) {
    for (int i = 0; p->thread && i < threads * ARGS; i++)
        destroy_memory(p->thread[i / ARGS].mem[i % ARGS]);
    free(p->thread);
    destroy_memory(p->plain);
    destroy_memory(p->arranged);
    if (p->reorder)
        dnnl_primitive_destroy(p->reorder);
    if (p->prim)
        dnnl_primitive_destroy(p->prim);
    *p = (struct dr_conv_prim){.taken = p->taken, .key = p->key, .id = p->id};
}

static void cache_clear(struct dr_conv_cache *c) {
    for (int i = 0; i < SLOTS; i++) {
        prim_clear(&c->slot[i], c->threads);
        c->slot[i].taken = false;
    }
    c->used = 0;
}

int dr_conv_cache_new(int threads, struct dr_conv_cache **out, struct dr_err *err) {
    struct dr_conv_cache *c = calloc(1, sizeof *c);
    *out = NULL;
    if (c)
        c->stream = calloc((size_t)threads, sizeof(dnnl_stream_t));
    if (!c || !c->stream) {
        free(c);
        return dr_fail(err, DR_ENOMEM, "cannot allocate the cache of convolutions");
    }
    c->threads = threads;
    bool ok = !dnnl_engine_create(&c->engine, dnnl_cpu, 0);
    for (int t = 0; ok && t < threads; t++)
        ok = !dnnl_stream_create(&c->stream[t], c->engine, dnnl_stream_default_flags);
    if (!ok) {
        dr_conv_cache_free(c);
        return dr_fail(err, DR_EDEVICE, "oneDNN cannot create its CPU engine");
    }
    *out = c;
    return 0;
}

void dr_conv_cache_free(struct dr_conv_cache *c) {
    if (!c)
        return;
    cache_clear(c);
    for (int t = 0; t < c->threads; t++)
        if (c->stream[t])
            dnnl_stream_destroy(c->stream[t]);
    free(c->stream);
    if (c->engine)
        dnnl_engine_destroy(c->engine);
    free(c);
}

// ---- making one
// ---------------------------------------------------------------------------------------

static dnnl_status_t images(dnnl_memory_desc_t *d, dnnl_data_type_t t, int64_t b, int64_t c,
                            int64_t h, int64_t w) {
    dnnl_dims_t dims = {b, c, h, w};
    return dnnl_memory_desc_init_by_tag(d, 4, dims, t, dnnl_nhwc);
}

// Backward passes are described together with their forward pass.
static dnnl_status_t describe(const struct dr_conv_cache *c, const struct dr_conv_key *q,
                              const dnnl_memory_desc_t *d, dnnl_primitive_desc_t *pd) {
    dnnl_dims_t step = {q->stride, q->stride}, dil = {q->dil - 1, q->dil - 1};
    dnnl_dims_t before = {q->above, q->left}, after = {q->below, q->right};
    const dnnl_memory_desc_t *bias = q->bias ? &d[ARG_BIAS] : NULL;
    const dnnl_alg_kind_t alg = dnnl_convolution_direct;
    dnnl_memory_desc_t weight = d[ARG_WEIGHT];
    dnnl_convolution_desc_t forward, op;
    dnnl_primitive_desc_t hint = NULL;
    dnnl_primitive_attr_t attr = NULL;
    weight.data_type = d[ARG_X].data_type;
    dnnl_status_t s = dnnl_primitive_attr_create(&attr);
    if (!s)
        s = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (!s)
        s = dnnl_dilated_convolution_forward_desc_init(&forward, dnnl_forward_training, alg,
                                                       &d[ARG_X], &weight, bias, &d[ARG_Y], step,
                                                       dil, before, after);
    if (!s)
        s = dnnl_primitive_desc_create(&hint, &forward, attr, c->engine, NULL);
    if (!s && q->way == DR_CONV_DATA)
        s = dnnl_dilated_convolution_backward_data_desc_init(&op, alg, &d[ARG_X], &weight,
                                                             &d[ARG_Y], step, dil, before, after);
    if (!s && q->way == DR_CONV_WEIGHT)
        s = dnnl_dilated_convolution_backward_weights_desc_init(
            &op, alg, &d[ARG_X], &d[ARG_WEIGHT], NULL, &d[ARG_Y], step, dil, before, after);
    if (q->way == DR_CONV_FORWARD)
        *pd = hint;
    else {
        if (!s)
            s = dnnl_primitive_desc_create(pd, &op, attr, c->engine, hint);
        if (hint)
            dnnl_primitive_desc_destroy(hint);
    }
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return s;
}

// Whether it is one of oneDNN's kernels for convolutions, not a loop or a product of patches.
static bool worth_it(const_dnnl_primitive_desc_t pd) {
    const char *name = NULL;
    return !dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name) && name &&
           (!strncmp(name, "brgconv", 7) || !strncmp(name, "jit", 3));
}

// The reorder between plain weights and `d`, and its operands.
static dnnl_status_t make_reorder(struct dr_conv_cache *c, struct dr_conv_prim *p,
                                  const dnnl_memory_desc_t *d) {
    const struct dr_conv_key *q = &p->key;
    const bool out = q->way == DR_CONV_WEIGHT; // and added to what is there
    dnnl_dims_t dims = {q->co, q->ci, q->kh, q->kw};
    dnnl_memory_desc_t plain;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t sum = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t s = dnnl_memory_desc_init_by_tag(&plain, 4, dims, dnnl_f32, dnnl_oihw);
    if (!s)
        s = dnnl_memory_create(&p->plain, &plain, c->engine, DNNL_MEMORY_NONE);
    if (!s)
        s = dnnl_memory_create(&p->arranged, d, c->engine, DNNL_MEMORY_NONE);
    if (!s)
        s = dnnl_primitive_attr_create(&attr);
    if (!s && out)
        s = dnnl_post_ops_create(&sum);
    if (!s && out)
        s = dnnl_post_ops_append_sum(sum, 1);
    if (!s && out)
        s = dnnl_primitive_attr_set_post_ops(attr, sum);
    if (!s)
        s = dnnl_reorder_primitive_desc_create(&pd, out ? d : &plain, c->engine, out ? &plain : d,
                                               c->engine, attr);
    if (!s)
        s = dnnl_primitive_create(&p->reorder, pd);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    if (sum)
        dnnl_post_ops_destroy(sum);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return s;
}

static dnnl_status_t describe_operands(const struct dr_conv_key *q, dnnl_memory_desc_t *d) {
    const dnnl_data_type_t t = q->bf16 ? dnnl_bf16 : dnnl_f32;
    dnnl_dims_t weight = {q->co, q->ci, q->kh, q->kw}, bias = {q->co};
    dnnl_status_t s = images(&d[ARG_X], t, q->b, q->ci, q->h, q->w);
    if (!s)
        s = images(&d[ARG_Y], t, q->b, q->co, q->ho, q->wo);
    if (!s)
        s = dnnl_memory_desc_init_by_tag(&d[ARG_WEIGHT], 4, weight,
                                         q->way == DR_CONV_WEIGHT ? dnnl_f32 : t,
                                         dnnl_format_tag_any);
    if (!s)
        s = dnnl_memory_desc_init_by_tag(&d[ARG_BIAS], 1, bias, dnnl_f32, dnnl_x);
    return s;
}

static dnnl_status_t make_prim(struct dr_conv_cache *c, struct dr_conv_prim *p) {
    const struct dr_conv_key *q = &p->key;
    dnnl_memory_desc_t d[ARGS] = {0};
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t s = describe_operands(q, d);
    if (!s)
        s = describe(c, q, d, &pd);
    if (!s && !worth_it(pd))
        s = dnnl_unimplemented;
    if (!s)
        s = dnnl_primitive_create(&p->prim, pd);
    if (!s) {
        d[ARG_WEIGHT] = *dnnl_primitive_desc_query_md(
            pd, q->way == DR_CONV_WEIGHT ? dnnl_query_diff_weights_md : dnnl_query_weights_md, 0);
        d[ARG_SCRATCH] = *dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
        p->scratch = dnnl_memory_desc_get_size(&d[ARG_SCRATCH]);
        p->layout = d[ARG_WEIGHT];
        p->weight_bytes = dnnl_memory_desc_get_size(&d[ARG_WEIGHT]);
        s = make_reorder(c, p, &d[ARG_WEIGHT]);
    }
    if (!s) {
        p->thread = calloc((size_t)c->threads, sizeof *p->thread);
        s = p->thread ? dnnl_success : dnnl_out_of_memory;
    }
    for (int i = 0; !s && i < c->threads * ARGS; i++)
        if (i % ARGS != ARG_BIAS || q->bias)
            s = dnnl_memory_create(&p->thread[i / ARGS].mem[i % ARGS], &d[i % ARGS], c->engine,
                                   DNNL_MEMORY_NONE);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    return s;
}

static uint64_t hash_key(const struct dr_conv_key *k) {
    const int64_t *p = (const int64_t *)k;
    uint64_t h = 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < sizeof *k / sizeof *p; i++)
        h = (h ^ (uint64_t)p[i]) * 0xff51afd7ed558ccdu, h ^= h >> 32;
    return h;
}

struct dr_conv_prim *dr_conv_prim(struct dr_conv_cache *c, const struct dr_conv_key *key) {
    uint64_t at = hash_key(key) % SLOTS;
    for (; c->slot[at].taken; at = (at + 1) % SLOTS)
        if (!memcmp(&c->slot[at].key, key, sizeof *key))
            return c->slot[at].prim ? &c->slot[at] : NULL;
    struct dr_conv_prim *p = &c->slot[at];
    *p = (struct dr_conv_prim){.key = *key, .taken = true, .id = ++c->ids};
    c->used++;
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    dnnl_status_t s = make_prim(c, p);
    omp_set_num_threads(threads);
    if (s)
        prim_clear(p, c->threads);
    return s ? NULL : p;
}

void dr_conv_make_room(struct dr_conv_cache *c, int room) {
    if (c->used + room > MOST) // shapes keep changing: start over rather than grow
        cache_clear(c);
}

// ---- using one
// --------------------------------------------------------------------------------------

int64_t dr_conv_prim_id(const struct dr_conv_prim *p) {
    return p->id;
}

size_t dr_conv_prim_scratch(const struct dr_conv_prim *p) {
    return p->scratch;
}

size_t dr_conv_prim_weight_bytes(const struct dr_conv_prim *p) {
    return p->weight_bytes;
}

bool dr_conv_prim_same_layout(const struct dr_conv_prim *a, const struct dr_conv_prim *b) {
    return a == b || dnnl_memory_desc_equal(&a->layout, &b->layout);
}

// Setting a pointer also clears the padding of blocked weights, so only new ones are set.
static void point(dnnl_memory_t m, const void *to) {
    void *was = NULL;
    if (dnnl_memory_get_data_handle(m, &was) || was != to)
        dnnl_memory_set_data_handle(m, (void *)(uintptr_t)to);
}

static bool reorder(struct dr_conv_cache *c, struct dr_conv_prim *p, const void *plain,
                    const void *arranged) {
    const bool out = p->key.way == DR_CONV_WEIGHT;
    point(p->plain, plain);
    point(p->arranged, arranged);
    const dnnl_exec_arg_t args[2] = {{DNNL_ARG_FROM, out ? p->arranged : p->plain},
                                     {DNNL_ARG_TO, out ? p->plain : p->arranged}};
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    bool ok = !dnnl_primitive_execute(p->reorder, c->stream[0], 2, args);
    omp_set_num_threads(threads);
    return ok;
}

bool dr_conv_prim_arrange(struct dr_conv_cache *c, struct dr_conv_prim *p, const real *weight,
                          void *out) {
    return reorder(c, p, weight, out);
}

bool dr_conv_prim_add(struct dr_conv_cache *c, struct dr_conv_prim *p, const void *gradient,
                      real *dweight) {
    return reorder(c, p, dweight, gradient);
}

void dr_conv_prim_use(struct dr_conv_cache *c, struct dr_conv_prim *p, const void *weight) {
    for (int t = 0; t < c->threads; t++)
        point(p->thread[t].mem[ARG_WEIGHT], weight);
}

bool dr_conv_prim_run(struct dr_conv_cache *c, struct dr_conv_prim *p, int thread, const void *x,
                      const void *y, const void *weight, const real *bias, void *scratch) {
    static const int name[3][ARGS] = {
        [DR_CONV_FORWARD] = {DNNL_ARG_SRC, DNNL_ARG_DST, DNNL_ARG_WEIGHTS, DNNL_ARG_SCRATCHPAD,
                             DNNL_ARG_BIAS},
        [DR_CONV_DATA] = {DNNL_ARG_DIFF_SRC, DNNL_ARG_DIFF_DST, DNNL_ARG_WEIGHTS,
                          DNNL_ARG_SCRATCHPAD, DNNL_ARG_BIAS},
        [DR_CONV_WEIGHT] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_WEIGHTS,
                            DNNL_ARG_SCRATCHPAD, DNNL_ARG_DIFF_BIAS}};
    const void *data[ARGS] = {x, y, weight, scratch, bias};
    const int count = p->key.bias ? ARGS : ARG_BIAS;
    dnnl_exec_arg_t args[ARGS];
    for (int i = 0; i < count; i++) {
        dnnl_memory_t m = p->thread[thread].mem[i];
        point(m, data[i]);
        args[i] = (dnnl_exec_arg_t){name[p->key.way][i], m};
    }
    return !dnnl_primitive_execute(p->prim, c->stream[thread], count, args);
}

// ---- for tests
// ----------------------------------------------------------------------------------------

static int by_bytes(const void *a, const void *b) {
    return memcmp(a, b, sizeof(struct dr_conv_key));
}

int dr_conv_keys(const struct dr_conv_cache *c, struct dr_conv_key *out, int max) {
    int n = 0;
    for (int i = 0; i < SLOTS; i++)
        if (c->slot[i].prim) {
            if (n < max)
                out[n] = c->slot[i].key;
            n++;
        }
    qsort(out, (size_t)DR_MIN(n, max), sizeof *out, by_bytes);
    return n;
}
