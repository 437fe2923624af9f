// Rates of the convolutions of encoders, generators and ResNet-18, towards y, dx and dw: by the
// backend and, where the build has oneDNN, by its primitive for the whole batch, plain [b,h,w,c]
// outside and weights already in its own layout. Above them the rate of one large product.
// Run by hand: conv_bench [bf16|fp32] [threads] [batch]. Not a test: it asserts nothing.
#include "engine/core/backend.h"
#include "engine/open.h"
#include "tests/bench/rates.h"

#include "driftd_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if DR_HAVE_ONEDNN
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#endif

enum { Y, DX, DW, WAYS };
#define MOST_FLOPS 4e9 // of one call; larger batches are cut

struct shape {
    int64_t ci, co, h, k, stride;
};

static const struct shape shapes[] = {
    // the encoders' stages: width 24, 32 and 64, with what leads from one to the next
    {3, 24, 32, 3, 1},
    {24, 24, 32, 3, 1},
    {24, 48, 32, 3, 2},
    {24, 48, 32, 1, 2},
    {48, 48, 16, 3, 1},
    {48, 96, 16, 3, 2},
    {96, 96, 8, 3, 1},
    {96, 192, 8, 3, 2},
    {192, 192, 4, 3, 1},
    {32, 32, 32, 3, 1},
    {64, 64, 16, 3, 1},
    {128, 128, 8, 3, 1},
    {256, 256, 4, 3, 1},
    // a head of pixels and what a U-Net adds
    {96, 32, 32, 3, 1},
    {32, 3, 32, 3, 1},
    {128, 64, 16, 1, 1},
    {128, 64, 16, 3, 1},
    {384, 128, 8, 3, 1},
    // ResNet-18
    {3, 64, 224, 7, 2},
    {64, 64, 56, 3, 1},
    {64, 128, 56, 3, 2},
    {64, 128, 56, 1, 2},
    {128, 128, 28, 3, 1},
    {256, 256, 14, 3, 1},
    {512, 512, 7, 3, 1},
};

static int threads;

struct job {
    struct dr_backend *be;
    struct shape s;
    enum dr_dtype t;
    int64_t b, out; // samples; pixels of a side of y
    void *x, *y, *w, *dw;
    uint64_t version;
};

static double flops(const struct job *j) {
    const struct shape *s = &j->s;
    return 2.0 * (double)(j->b * j->out * j->out * s->co * s->ci * s->k * s->k);
}

static void call(const struct job *j, int way) {
    const struct shape *s = &j->s;
    if (way == Y)
        DR_OP(j->be, conv2d_fwd, .y = j->y, .x = j->x, .t = j->t, .weight = j->w, .b = j->b,
              .h = s->h, .w = s->h, .ci = s->ci, .co = s->co, .k = s->k, .stride = s->stride,
              .pad = s->k / 2, .version = j->version);
    else if (way == DX)
        DR_OP(j->be, conv2d_bwd_data, .dx = j->x, .dy = j->y, .t = j->t, .weight = j->w, .b = j->b,
              .h = s->h, .w = s->h, .ci = s->ci, .co = s->co, .k = s->k, .stride = s->stride,
              .pad = s->k / 2, .version = j->version);
    else
        DR_OP(j->be, conv2d_bwd_weight, .dweight = j->dw, .x = j->x, .dy = j->y, .t = j->t,
              .b = j->b, .h = s->h, .w = s->h, .ci = s->ci, .co = s->co, .k = s->k,
              .stride = s->stride, .pad = s->k / 2);
}

static int runs_of(const struct job *j) {
    return (int)(6e9 / flops(j)) + 3;
}

// Best of a few runs, in GFLOP/s.
static double rate(const struct job *j, int way) {
    double best = 1e9;
    for (int i = 0; i < runs_of(j); i++) {
        double t = rates_now(threads);
        call(j, way);
        t = rates_now(threads) - t;
        best = t < best ? t : best;
    }
    return flops(j) / best * 1e-9;
}

#if DR_HAVE_ONEDNN

static dnnl_engine_t engine;
static dnnl_stream_t stream;

static dnnl_status_t describe(const struct job *j, int way, dnnl_primitive_desc_t *out) {
    const struct shape *s = &j->s;
    const dnnl_data_type_t t = j->t == DR_BF16 ? dnnl_bf16 : dnnl_f32;
    const int64_t pad = s->k / 2, past = (j->out - 1) * s->stride + s->k - s->h - pad;
    dnnl_dims_t xd = {j->b, s->ci, s->h, s->h}, yd = {j->b, s->co, j->out, j->out},
                wd = {s->co, s->ci, s->k, s->k}, step = {s->stride, s->stride}, p0 = {pad, pad},
                p1 = {past, past};
    dnnl_memory_desc_t x, y, w, dw;
    dnnl_convolution_desc_t f, d;
    dnnl_primitive_desc_t forward = NULL;
    dnnl_status_t st = dnnl_memory_desc_init_by_tag(&x, 4, xd, t, dnnl_nhwc);
    if (!st)
        st = dnnl_memory_desc_init_by_tag(&y, 4, yd, t, dnnl_nhwc);
    if (!st)
        st = dnnl_memory_desc_init_by_tag(&w, 4, wd, t, dnnl_format_tag_any);
    if (!st)
        st = dnnl_memory_desc_init_by_tag(&dw, 4, wd, dnnl_f32, dnnl_format_tag_any);
    if (!st)
        st = dnnl_convolution_forward_desc_init(&f, dnnl_forward_training, dnnl_convolution_direct,
                                                &x, &w, NULL, &y, step, p0, p1);
    if (!st)
        st = dnnl_primitive_desc_create(&forward, &f, NULL, engine, NULL);
    if (st || way == Y) {
        *out = forward;
        return st;
    }
    st = way == DX ? dnnl_convolution_backward_data_desc_init(&d, dnnl_convolution_direct, &x, &w,
                                                              &y, step, p0, p1)
                   : dnnl_convolution_backward_weights_desc_init(&d, dnnl_convolution_direct, &x,
                                                                 &dw, NULL, &y, step, p0, p1);
    if (!st)
        st = dnnl_primitive_desc_create(out, &d, NULL, engine, forward);
    dnnl_primitive_desc_destroy(forward);
    return st;
}

// The rate of oneDNN's own primitive for the whole batch; 0: it has none.
static double library_rate(const struct job *j, int way) {
    static const dnnl_query_t query[WAYS][3] = {
        {dnnl_query_src_md, dnnl_query_weights_md, dnnl_query_dst_md},
        {dnnl_query_diff_src_md, dnnl_query_weights_md, dnnl_query_diff_dst_md},
        {dnnl_query_src_md, dnnl_query_diff_weights_md, dnnl_query_diff_dst_md}};
    static const int name[WAYS][3] = {{DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST},
                                      {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST},
                                      {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST}};
    void *data[3] = {j->x, DNNL_MEMORY_ALLOCATE, j->y};
    dnnl_primitive_desc_t pd;
    dnnl_primitive_t p = NULL;
    if (describe(j, way, &pd))
        return 0;
    dnnl_exec_arg_t args[3] = {0};
    dnnl_status_t st = dnnl_primitive_create(&p, pd);
    for (int i = 0; i < 3 && !st; i++) {
        const dnnl_memory_desc_t *d = dnnl_primitive_desc_query_md(pd, query[way][i], 0);
        args[i].arg = name[way][i];
        st = dnnl_memory_create(&args[i].memory, d, engine, data[i]);
        void *own = NULL;
        if (!st && i == 1 && !dnnl_memory_get_data_handle(args[i].memory, &own))
            memset(own, 0, dnnl_memory_desc_get_size(d));
    }
    double best = 1e9;
    for (int i = 0; i < runs_of(j) && !st; i++) {
        double t = rates_now(threads);
        st = dnnl_primitive_execute(p, stream, 3, args);
        t = rates_now(threads) - t;
        best = t < best ? t : best;
    }
    for (int i = 0; i < 3; i++)
        if (args[i].memory)
            dnnl_memory_destroy(args[i].memory);
    if (p)
        dnnl_primitive_destroy(p);
    dnnl_primitive_desc_destroy(pd);
    return st ? 0 : flops(j) / best * 1e-9;
}

static bool library_open(void) {
    omp_set_num_threads(threads);
    return !dnnl_engine_create(&engine, dnnl_cpu, 0) &&
           !dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
}

#else

static double library_rate(const struct job *j, int way) {
    (void)j, (void)way;
    return 0;
}

static bool library_open(void) {
    return false;
}

#endif

static double product_rate(struct dr_backend *be, enum dr_dtype t) {
    enum { N = 2048 };
    void *a = rates_random(be, t, N * N), *b = rates_random(be, t, N * N);
    real *c = rates_random(be, DR_F32, N * N);
    double best = 1e9;
    for (int i = 0; i < 4; i++) {
        double s = rates_now(threads);
        DR_OP(be, gemm, .m = N, .n = N, .k = N, .a = a, .b = b, .c = c, .lda = N, .ldb = N,
              .ldc = N, .abt = t);
        s = rates_now(threads) - s;
        best = s < best ? s : best;
    }
    be->mem_free(be, a);
    be->mem_free(be, b);
    be->mem_free(be, c);
    return 2.0 * N * N * N / best * 1e-9;
}

static void measure(struct dr_backend *be, const struct shape *s, enum dr_dtype t, int64_t batch,
                    bool library) {
    struct job j = {.be = be, .s = *s, .t = t, .b = 1};
    j.out = (s->h + 2 * (s->k / 2) - s->k) / s->stride + 1;
    const double most = MOST_FLOPS / flops(&j);
    j.b = (double)batch < most ? batch : (int64_t)most;
    j.x = rates_random(be, t, j.b * s->h * s->h * s->ci);
    j.y = rates_random(be, t, j.b * j.out * j.out * s->co);
    j.w = rates_random(be, DR_F32, s->co * s->ci * s->k * s->k);
    j.dw = rates_random(be, DR_F32, s->co * s->ci * s->k * s->k);
    j.version = dr_next_version(be);
    printf("%3d -> %3d, %3d px, %dx%d by %d, %3d images ", (int)s->ci, (int)s->co, (int)s->h,
           (int)s->k, (int)s->k, (int)s->stride, (int)j.b);
    for (int way = 0; way < WAYS; way++) {
        printf(" | %5.0f", rate(&j, way));
        if (library)
            printf(" %5.0f", library_rate(&j, way));
        fflush(stdout);
    }
    printf("\n");
    be->mem_free(be, j.x);
    be->mem_free(be, j.y);
    be->mem_free(be, j.w);
    be->mem_free(be, j.dw);
}

int main(int argc, char **argv) {
    const enum dr_dtype t = argc > 1 && !strcmp(argv[1], "fp32") ? DR_F32 : DR_BF16;
    const int64_t batch = argc > 3 ? atoi(argv[3]) : 32;
    struct dr_backend *be;
    struct dr_err err = {0};
    threads = argc > 2 ? atoi(argv[2]) : 1;
    if (batch < 1 || dr_backend_open("cpu", threads, &be, &err)) {
        fprintf(stderr, "%s\n", batch < 1 ? "the batch must be at least 1" : err.msg);
        return 1;
    }
    be->enter(be);
    const bool library = library_open();
    printf("%s\n%s product of 2048^3: %.0f GFLOP/s\n", be->detail, t ? "bf16" : "fp32",
           product_rate(be, t));
    printf("GFLOP/s towards y | dx | dw%s\n",
           library ? ", each by the backend, then by oneDNN's primitive for the batch" : "");
    for (size_t i = 0; i < DR_COUNT(shapes); i++)
        measure(be, &shapes[i], t, batch, library);
    int status = be->sync(be, &err);
    if (status)
        fprintf(stderr, "%s\n", err.msg);
    dr_backend_free(be);
    return status != 0;
}
