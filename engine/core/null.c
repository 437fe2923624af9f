// The null backend: every op does nothing but count its floating-point operations. It measures
// arenas in dry runs and counts the work of a step for the bench. Memory calls fail: nothing that
// runs here may need them.
#include "engine/core/backend.h"

#include <stdlib.h>
#include <string.h>

static double times(int64_t batch) {
    return (double)(batch > 1 ? batch : 1);
}

// Only what counts as matrix work is counted; the rest is overhead by definition of the bench.
static double flops_gemm(const struct dr_gemm_args *a) {
    return 2.0 * times(a->batch) * (double)a->m * (double)a->n * (double)a->k;
}
static double flops_attn_fwd(const struct dr_attn_fwd_args *a) {
    return 4.0 * (double)(a->b * a->h) * (double)(a->t * a->t) * (double)a->hd;
}
static double flops_attn_bwd(const struct dr_attn_bwd_args *a) // without the recomputed forward
{
    return 8.0 * (double)(a->b * a->h) * (double)(a->t * a->t) * (double)a->hd;
}
static double conv_flops(struct dr_conv_dims d, int64_t b, int64_t ci, int64_t co) {
    return 2.0 * (double)(b * d.ho * d.wo) * (double)(d.kh * d.kw) * (double)(ci * co);
}
#define CONV_FLOPS(a) conv_flops(dr_conv_dims_of(a), (a)->b, (a)->ci, (a)->co)
static double flops_conv2d_fwd(const struct dr_conv2d_fwd_args *a) {
    return CONV_FLOPS(a);
}
static double flops_conv2d_bwd_data(const struct dr_conv2d_bwd_data_args *a) {
    return CONV_FLOPS(a);
}
static double flops_conv2d_bwd_weight(const struct dr_conv2d_bwd_weight_args *a) {
    return CONV_FLOPS(a);
}
static double flops_pair_dist(const struct dr_pair_dist_args *a) {
    return 2.0 * (double)a->b * (double)(a->n * a->m) * (double)a->s;
}
static double flops_drift_combine(const struct dr_drift_combine_args *a) {
    return 2.0 * (double)a->b * (double)(a->n * a->m) * (double)a->s;
}
static double flops_pair_score_fwd(const struct dr_pair_score_fwd_args *a) {
    return 2.0 * (double)a->b * (double)(a->n * a->m) * (double)a->h;
}
static double flops_pair_score_bwd(const struct dr_pair_score_bwd_args *a) {
    return 4.0 * (double)a->b * (double)(a->n * a->m) * (double)a->h;
}

enum {
#define X(name, flags) NULL_##name,
#include "engine/ops.def"
#undef X
};

static double flops_of(int op, const void *args) {
    switch (op) {
#define COUNTS(name)                                                                               \
    case NULL_##name:                                                                              \
        return flops_##name(args)
        COUNTS(gemm);
        COUNTS(attn_fwd);
        COUNTS(attn_bwd);
        COUNTS(conv2d_fwd);
        COUNTS(conv2d_bwd_data);
        COUNTS(conv2d_bwd_weight);
        COUNTS(pair_dist);
        COUNTS(drift_combine);
        COUNTS(pair_score_fwd);
        COUNTS(pair_score_bwd);
#undef COUNTS
    default:
        return 0;
    }
}

#define X(name, flags)                                                                             \
    static void null_##name(struct dr_backend *be, const struct dr_##name##_args *a) {             \
        be->flops += flops_of(NULL_##name, a);                                                     \
    }
#include "engine/ops.def"
#undef X

static void null_enter(struct dr_backend *be) {
    (void)be;
}
static int null_alloc(struct dr_backend *be, size_t bytes, void **out, struct dr_err *err) {
    (void)be;
    *out = NULL;
    return dr_fail(err, DR_EUNSUPPORTED, "the null backend has no memory (%zu bytes wanted)",
                   bytes);
}
static void null_free(struct dr_backend *be, void *p) {
    (void)be;
    (void)p;
}
static void null_upload(struct dr_backend *be, void *dst, const void *src, size_t bytes) {
    (void)be;
    (void)dst;
    (void)src;
    (void)bytes;
}
static void null_download(struct dr_backend *be, void *dst, const void *src, size_t bytes) {
    (void)be;
    (void)src;
    memset(dst, 0, bytes);
}
static size_t null_left(struct dr_backend *be) {
    (void)be;
    return 0;
}
static void null_mark(struct dr_backend *be, int which) {
    (void)be;
    (void)which;
}
static int null_wait(struct dr_backend *be, int which, struct dr_err *err) {
    (void)be;
    (void)which;
    (void)err;
    return 0;
}
static void null_replay(struct dr_backend *be, struct dr_graph **g, void (*steps)(void *),
                        void *ctx) {
    (void)be;
    (void)g;
    steps(ctx);
}
static void null_graph_free(struct dr_backend *be, struct dr_graph *g) {
    (void)be;
    (void)g;
}
static int null_sync(struct dr_backend *be, struct dr_err *err) {
    (void)be;
    (void)err;
    return 0;
}
static bool null_failed(const struct dr_backend *be) {
    (void)be;
    return false;
}
static void null_destroy(struct dr_backend *be) {
    free(be);
}

int dr_backend_null(struct dr_backend **out, struct dr_err *err) {
    struct dr_backend *be = calloc(1, sizeof *be);
    *out = be;
    if (!be)
        return dr_fail(err, DR_ENOMEM, "out of memory for a backend");
    memcpy(be->name, "null", 5);
    be->threads = 1;
    be->enter = null_enter;
    be->mem_alloc = null_alloc;
    be->mem_free = null_free;
    be->mem_left = null_left;
    be->host_alloc = null_alloc;
    be->host_free = null_free;
    be->upload = null_upload;
    be->download = null_download;
    be->download_later = null_download;
    be->mark = null_mark;
    be->wait = null_wait;
    be->sync = null_sync;
    be->failed = null_failed;
    be->replay = null_replay;
    be->graph_free = null_graph_free;
    be->hurry = null_sync;
    be->destroy = null_destroy;
#define X(name, flags) be->op.name = null_##name;
#include "engine/ops.def"
#undef X
    return 0;
}
