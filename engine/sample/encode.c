// See encode.h. Memory is allocated for the network of the snapshot that comes first and reused as
// long as the next ones have the same network.
#include "engine/sample/encode.h"

#include "engine/core/reals.h"
#include "engine/nn/params.h"

#include <stdlib.h>
#include <string.h>

struct dr_encode {
    struct dr_backend *be;
    enum dr_dtype act;
    int64_t piece;
    struct dr_snapshot *snap;
    void *block, *scratch; // device: weights, input, outputs; activations
    size_t scratch_bytes;
    real *w, *tables, *x, *y[DR_NET_OUTPUTS];
    dr_bf16 *w16;
};

int dr_encode_create(struct dr_backend *be, int precision, int64_t piece, struct dr_encode **out,
                     struct dr_err *err) {
    struct dr_encode *e = *out = calloc(1, sizeof *e);
    if (!e)
        return dr_fail(err, DR_ENOMEM, "out of memory for an encoder");
    e->be = be;
    e->act = precision == DR_PREC_BF16 ? DR_BF16 : DR_F32;
    e->piece = DR_MAX(piece, 1);
    return 0;
}

static void drop(struct dr_encode *e) {
    e->be->mem_free(e->be, e->block);
    e->be->mem_free(e->be, e->scratch);
    dr_snapshot_unref(e->snap);
    *e = (struct dr_encode){.be = e->be, .act = e->act, .piece = e->piece};
}

void dr_encode_free(struct dr_encode *e) {
    if (!e)
        return;
    e->be->sync(e->be, NULL);
    drop(e);
    free(e);
}

static int64_t output_count(const struct dr_net *net, int i) {
    const struct dr_net_shape s = dr_net_output(net, i);
    return s.c * s.h * s.w;
}

static void lay_out(struct dr_encode *e, const struct dr_net *net, struct dr_arena *a) {
    const int64_t total = dr_net_params(net)->total;
    e->w = dr_alloc_real(a, total);
    e->w16 = e->act == DR_BF16 ? dr_alloc(a, (size_t)total * sizeof(dr_bf16)) : NULL;
    e->tables = dr_alloc_real(a, dr_net_tables_count(net));
    e->x = dr_alloc_real(a, e->piece * dr_net_input(net));
    for (int i = 0; i < dr_net_outputs(net); i++)
        e->y[i] = dr_alloc_real(a, e->piece * output_count(net, i));
}

static void forward(struct dr_encode *e, const struct dr_net *net, struct dr_backend *be,
                    struct dr_arena *tmp, int64_t n) {
    const struct dr_weights w = {.layout = dr_net_params(net), .w = e->w, .w16 = e->w16};
    const struct dr_net_in in = {.x = e->x, .tables = e->tables, .b = n};
    struct dr_ctx cx = {.be = be, .tmp = tmp, .act = e->act};
    dr_net_forward(&cx, net, &w, &in, e->y, NULL);
}

static int measure(struct dr_encode *e, const struct dr_net *net, struct dr_err *err) {
    struct dr_backend *null;
    struct dr_arena tmp;
    int rc = dr_backend_null(&null, err);
    if (rc)
        return rc;
    dr_arena_measure(&tmp);
    forward(e, net, null, &tmp, e->piece);
    e->scratch_bytes = DR_MAX(tmp.peak, (size_t)DR_ALIGN);
    dr_backend_free(null);
    return 0;
}

static int allocate(struct dr_encode *e, const struct dr_net *net, struct dr_err *err) {
    struct dr_arena a;
    dr_arena_measure(&a);
    lay_out(e, net, &a);
    int rc = e->be->mem_alloc(e->be, a.peak, &e->block, err);
    if (rc)
        return rc;
    dr_arena_init(&a, e->block, a.peak);
    lay_out(e, net, &a);
    rc = measure(e, net, err);
    if (!rc)
        rc = e->be->mem_alloc(e->be, e->scratch_bytes, &e->scratch, err);
    return rc ? rc : dr_net_tables_upload(net, e->be, e->tables, err);
}

static int use(struct dr_encode *e, struct dr_snapshot *snap, struct dr_err *err) {
    if (e->snap == snap)
        return 0;
    if (!e->snap || !dr_net_same(e->snap->net, snap->net)) {
        drop(e);
        int rc = allocate(e, snap->net, err);
        if (rc) {
            drop(e);
            return rc;
        }
    }
    const int64_t total = dr_net_params(snap->net)->total;
    e->be->upload(e->be, e->w, snap->weights, (size_t)total * sizeof(real));
    if (e->w16)
        DR_OP(e->be, cast, .dst = e->w16, .src = e->w, .dt = DR_BF16, .st = DR_F32, .n = total);
    dr_snapshot_unref(e->snap);
    e->snap = dr_snapshot_ref(snap);
    return 0;
}

int dr_encode_run(struct dr_encode *e, struct dr_snapshot *snap, const real *x, int64_t n,
                  real *const y[], struct dr_err *err) {
    const int64_t input = dr_net_input(snap->net);
    struct dr_arena tmp;
    if (dr_net_kind(snap->net) == DR_NET_GENERATOR)
        return dr_net_expect(snap->net, DR_NET_ENCODER, "the checkpoint", err);
    int rc = use(e, snap, err);
    for (int64_t at = 0; at < n && !rc; at += e->piece) {
        const int64_t b = DR_MIN(e->piece, n - at);
        dr_arena_init(&tmp, e->scratch, e->scratch_bytes);
        e->be->upload(e->be, e->x, x + at * input, (size_t)(b * input) * sizeof *x);
        forward(e, snap->net, e->be, &tmp, b);
        for (int i = 0; i < dr_net_outputs(snap->net); i++) {
            const int64_t count = output_count(snap->net, i);
            if (y[i])
                e->be->download(e->be, y[i] + at * count, e->y[i],
                                (size_t)(b * count) * sizeof(real));
        }
        rc = e->be->sync(e->be, err);
    }
    if (rc)
        drop(e); // some of its parts may not have arrived
    return rc;
}
