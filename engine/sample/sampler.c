// Batched one-step generation from snapshots. See sampler.h; used by the batcher and the trainer's
// sample grids. A request's bytes depend on its seed, index and conditioning alone, so batches may
// be cut and padded freely: they run in power-of-two pieces, which stay in cache and reuse GEMM
// primitives or, on a device, the graphs recorded for those sizes.
#include "engine/sample/sampler.h"
#include "engine/core/arena.h"
#include "engine/core/backend.h"
#include "engine/core/rng.h"
#include "engine/nn/params.h"

#include <stdlib.h>
#include <string.h>

#define CPU_PIECE                                                                                  \
    16 // samples per pass on a CPU: activations of a block stay in the last-level cache

// What a pass needs from the host: one block there and one on the device, uploaded in one copy.
struct inputs {
    real *alpha;
    int32_t *cls;
    uint64_t *seed, *index; // [piece] each
};
enum { BUCKETS = 32 }; // powers of two

struct dr_sampler {
    struct dr_backend *be;
    enum dr_dtype act;
    int64_t piece;            // samples per forward pass at most
    double flops;             // of one sample
    struct dr_snapshot *snap; // the one the buffers below belong to
    void *block, *scratch;    // device: inputs, weights; activations
    struct dr_arena tmp;
    real *w, *tables, *x;
    real *drawn, *noise; // standard normal; times the temperature, one array where that is 1
    dr_bf16 *w16;
    uint64_t version; // of w and w16
    int32_t *style;
    struct inputs in;
    // Of a pass of 1, 2, 4, ... samples: with noise that it draws, with noise that it is given.
    struct dr_graph *graph[2][BUCKETS];
    struct dr_sample *rows; // host: requests of one pass, two-pass ones twice
    int64_t *owner;         // host: request of each row
    size_t in_bytes;
    struct inputs host; // page-locked, as is host_x
    real *host_x;
};

int dr_sampler_create(struct dr_backend *be, int precision, int64_t max_batch,
                      struct dr_sampler **out, struct dr_err *err) {
    struct dr_sampler *s = calloc(1, sizeof *s);
    *out = s;
    if (!s)
        return dr_fail(err, DR_ENOMEM, "out of memory for a sampler");
    s->be = be;
    s->act = precision == DR_PREC_BF16 ? DR_BF16 : DR_F32;
    s->piece = DR_MAX(max_batch, 2);
    if (be->host_memory)
        s->piece = DR_MIN(s->piece, CPU_PIECE);
    return 0;
}

static void drop_snapshot(struct dr_sampler *s) {
    for (int i = 0; i < 2 * BUCKETS; i++)
        s->be->graph_free(s->be, s->graph[i / BUCKETS][i % BUCKETS]);
    s->be->mem_free(s->be, s->block);
    s->be->mem_free(s->be, s->scratch);
    s->be->host_free(s->be, s->host.alpha);
    s->be->host_free(s->be, s->host_x);
    free(s->rows);
    free(s->owner);
    dr_snapshot_unref(s->snap);
    *s = (struct dr_sampler){.be = s->be, .act = s->act, .piece = s->piece};
}

void dr_sampler_free(struct dr_sampler *s) {
    if (!s)
        return;
    drop_snapshot(s);
    free(s);
}

static void lay_out_inputs(const struct dr_sampler *s, struct inputs *in, struct dr_arena *a) {
    const size_t n = (size_t)s->piece;
    in->alpha = dr_alloc(a, n * sizeof(real));
    in->cls = dr_alloc(a, n * sizeof(int32_t));
    in->seed = dr_alloc(a, n * sizeof(uint64_t));
    in->index = dr_alloc(a, n * sizeof(uint64_t));
}

// Assigns every device buffer; run once to measure and once for real.
static void lay_out(struct dr_sampler *s, const struct dr_net *g, struct dr_arena *a) {
    const size_t total = (size_t)dr_net_params(g)->total, n = (size_t)s->piece;
    const int64_t tables = dr_net_tables_count(g);
    if (!s->be->host_memory)
        s->w = dr_alloc(a, total * sizeof(real));
    s->w16 = s->act == DR_BF16 ? dr_alloc(a, total * sizeof(dr_bf16)) : NULL;
    s->tables = dr_alloc(a, (size_t)tables * sizeof(real));
    const size_t noise = n * (size_t)dr_gen_noise_count(g) * sizeof(real);
    s->drawn = dr_alloc(a, noise);
    s->noise = dr_gen_config(g)->temperature == 1 ? s->drawn : dr_alloc(a, noise);
    s->x = dr_alloc(a, n * (size_t)dr_gen_image_count(g) * sizeof(real));
    s->style = dr_alloc(a, n * (size_t)dr_gen_style_count(g) * sizeof(int32_t));
    const size_t mark = a->used;
    lay_out_inputs(s, &s->in, a);
    s->in_bytes = a->used - mark;
}

static void forward(struct dr_sampler *s, const struct dr_net *g, struct dr_backend *be,
                    struct dr_arena *tmp, int64_t n) {
    const struct dr_weights w = {
        .layout = dr_net_params(g), .w = s->w, .w16 = s->w16, .version = s->version};
    const struct dr_net_in in = {.x = s->noise,
                                 .cls = s->in.cls,
                                 .alpha = s->in.alpha,
                                 .style = s->style,
                                 .tables = s->tables,
                                 .b = n};
    struct dr_ctx cx = {.be = be, .tmp = tmp, .act = s->act};
    dr_net_forward(&cx, g, &w, &in, &s->x, NULL);
}

static int measure(struct dr_sampler *s, const struct dr_net *g, size_t *bytes,
                   struct dr_err *err) {
    struct dr_backend *null;
    int rc = dr_backend_null(&null, err);
    if (rc)
        return rc;
    struct dr_arena tmp;
    dr_arena_measure(&tmp);
    forward(s, g, null, &tmp, s->piece);
    *bytes = tmp.peak;
    s->flops = null->flops / (double)s->piece;
    dr_backend_free(null);
    return 0;
}

static int host_buffers(struct dr_sampler *s, const struct dr_net *g, struct dr_err *err) {
    const size_t n = (size_t)s->piece;
    s->rows = calloc(n, sizeof *s->rows);
    s->owner = calloc(n, sizeof *s->owner);
    if (!s->rows || !s->owner)
        return dr_fail(err, DR_ENOMEM, "out of memory for a batch of %zu samples", n);
    void *block, *x;
    int rc = s->be->host_alloc(s->be, s->in_bytes, &block, err);
    if (rc)
        return rc;
    struct dr_arena a;
    dr_arena_init(&a, block, s->in_bytes);
    lay_out_inputs(s, &s->host, &a);
    rc = s->be->host_alloc(s->be, n * (size_t)dr_gen_image_count(g) * sizeof(real), &x, err);
    s->host_x = rc ? NULL : x;
    return rc;
}

static bool same_shape(const struct dr_snapshot *a, const struct dr_snapshot *b) {
    return a && dr_net_same(a->net, b->net);
}

static int allocate(struct dr_sampler *s, const struct dr_net *g, struct dr_err *err) {
    struct dr_arena a;
    dr_arena_measure(&a);
    lay_out(s, g, &a);
    size_t scratch;
    int rc = s->be->mem_alloc(s->be, a.peak, &s->block, err);
    if (!rc) {
        dr_arena_init(&a, s->block, a.peak);
        lay_out(s, g, &a);
        rc = measure(s, g, &scratch, err);
    }
    if (!rc)
        rc = s->be->mem_alloc(s->be, DR_MAX(scratch, (size_t)DR_ALIGN), &s->scratch, err);
    if (!rc) {
        dr_arena_init(&s->tmp, s->scratch, scratch);
        rc = host_buffers(s, g, err);
    }
    return rc ? rc : dr_net_tables_upload(g, s->be, s->tables, err);
}

// Makes `snap` current: reuses the buffers when only the weights changed.
static int use_snapshot(struct dr_sampler *s, struct dr_snapshot *snap, struct dr_err *err) {
    if (s->snap == snap)
        return 0;
    if (!same_shape(s->snap, snap)) {
        drop_snapshot(s);
        if (s->be->host_memory)
            s->w = snap->weights;
        int rc = allocate(s, snap->net, err);
        if (rc) {
            drop_snapshot(s);
            return rc;
        }
    }
    const int64_t total = dr_net_params(snap->net)->total;
    s->version = dr_next_version(s->be);
    if (s->be->host_memory)
        s->w = snap->weights; // borrowed: the reference below keeps it alive
    else
        s->be->upload(s->be, s->w, snap->weights, (size_t)total * sizeof(real));
    if (s->w16)
        DR_OP(s->be, cast, .dst = s->w16, .src = s->w, .dt = DR_BF16, .st = DR_F32, .n = total);
    dr_snapshot_unref(s->snap);
    s->snap = dr_snapshot_ref(snap);
    return 0;
}

struct pass {
    struct dr_sampler *s;
    int64_t b;
    bool given; // the noise is there already
};

// What the network is given: `drawn` by the model's temperature.
static void temper(struct dr_sampler *s, const struct dr_net *g, int64_t b) {
    const int64_t n = b * dr_gen_noise_count(g);
    if (s->noise == s->drawn)
        return;
    DR_OP(s->be, fill, .dst = s->noise, .n = n, .value = 0);
    DR_OP(s->be, axpy, .y = s->noise, .x = s->drawn, .xt = DR_F32, .n = n,
          .alpha = (real)dr_gen_config(g)->temperature);
}

// The ops of a pass: noise, style indices, the network.
static void device_pass(void *ctx) {
    const struct pass *p = ctx;
    struct dr_sampler *s = p->s;
    const struct dr_net *g = s->snap->net;
    if (!p->given)
        DR_OP(s->be, normals, .out = s->drawn, .seed = s->in.seed, .index = s->in.index, .b = p->b,
              .n = dr_gen_noise_count(g), .stream = DR_STREAM_NOISE);
    temper(s, g, p->b);
    if (dr_gen_style_count(g))
        DR_OP(s->be, indices, .out = s->style, .seed = s->in.seed, .index = s->in.index, .b = p->b,
              .n = dr_gen_style_count(g), .stream = DR_STREAM_STYLE,
              .range = (uint32_t)dr_gen_config(g)->codebook);
    forward(s, g, s->be, &s->tmp, p->b);
}

// Runs rows [0,n) of s->rows, padded to a power of two with copies of the last one.
static int run_rows(struct dr_sampler *s, int64_t n, struct dr_err *err) {
    const struct dr_net *g = s->snap->net;
    struct dr_backend *be = s->be;
    struct pass p = {s, 1, s->rows[0].noise != NULL};
    const int64_t noise = dr_gen_noise_count(g);
    int bucket = 0;
    for (; p.b < n && bucket < BUCKETS - 1; bucket++)
        p.b *= 2;
    p.b = DR_MIN(p.b, s->piece);
    for (int64_t i = 0; i < p.b; i++) {
        const struct dr_sample *r = &s->rows[DR_MIN(i, n - 1)];
        s->host.alpha[i] = r->alpha;
        s->host.cls[i] = r->cls < 0 ? dr_gen_null_class(g) : r->cls;
        s->host.seed[i] = r->seed;
        s->host.index[i] = r->index;
        if (p.given)
            be->upload(be, s->drawn + i * noise, r->noise, (size_t)noise * sizeof(real));
    }
    be->upload(be, s->in.alpha, s->host.alpha, s->in_bytes);
    be->replay(be, &s->graph[p.given][bucket], device_pass, &p);
    be->download_later(be, s->host_x, s->x, (size_t)(n * dr_gen_image_count(g)) * sizeof(real));
    return be->sync(be, err);
}

static int check_sample(const struct dr_net *g, const struct dr_sample *r, struct dr_err *err) {
    const int64_t classes = dr_gen_config(g)->classes;
    if (r->cls >= classes || r->cls < -1)
        return dr_fail_at(err, DR_EINVAL, "class",
                          "class %d is out of range; this model has classes 0 to %lld", r->cls,
                          (long long)classes - 1);
    if ((r->cls < 0 || r->two_pass) && dr_gen_null_class(g) < 0)
        return dr_fail_at(err, DR_EINVAL, r->two_pass ? "guidance" : "class",
                          "this model has no null class, so it cannot sample unconditionally");
    return 0;
}

// Writes the rows of one pass to their requests: copies, or combines a two-pass pair.
static void scatter(const struct dr_sampler *s, int64_t n, real *x) {
    const int64_t count = dr_gen_image_count(s->snap->net);
    for (int64_t i = 0; i < n; i++) {
        const real *src = s->host_x + i * count;
        real *dst = x + s->owner[i] * count;
        if (!s->rows[i].two_pass) {
            memcpy(dst, src, (size_t)count * sizeof *dst);
            continue;
        }
        const real *uncond = src + count;
        for (int64_t j = 0; j < count; j++)
            dst[j] = uncond[j] + s->rows[i].alpha * (src[j] - uncond[j]);
        i++; // the null-class row is consumed
    }
}

int dr_sampler_run(struct dr_sampler *s, struct dr_snapshot *snap, const struct dr_sample *req,
                   int64_t n, real *x, struct dr_err *err) {
    int rc = dr_net_expect(snap->net, DR_NET_GENERATOR, "the checkpoint", err);
    for (int64_t i = 0; i < n && !rc; i++)
        rc = check_sample(snap->net, &req[i], err);
    if (rc)
        return rc;
    rc = use_snapshot(s, snap, err);
    for (int64_t i = 0; i < n && !rc;) {
        int64_t rows = 0;
        const bool given = req[i].noise; // one pass draws all of its noise or none
        while (i < n && !req[i].noise == !given && rows + (req[i].two_pass ? 2 : 1) <= s->piece) {
            s->rows[rows] = req[i];
            s->owner[rows++] = i;
            if (req[i].two_pass) {
                s->rows[rows] = req[i];
                s->rows[rows].cls = -1;
                s->owner[rows++] = i;
            }
            i++;
        }
        rc = run_rows(s, rows, err);
        if (!rc)
            scatter(s, rows, x);
    }
    if (rc && !s->be->host_memory)
        drop_snapshot(s); // some of its parts may not have arrived
    return rc;
}

double dr_sampler_flops(const struct dr_sampler *s) {
    return s->flops;
}
