// Matrix products by cuBLASLt: fp32 accumulation always; fp32 inputs in strict fp32 unless
// DRIFTD_TF32 asks for TF32. A bias rides in the product's epilogue. (The library's GELU is the
// tanh form and ours is the exact one, so that stays a kernel.)
//
// What to run is looked up once per shape and kept: descriptors, layouts and the algorithm that
// the library's heuristic names first. The stream and the workspace are the instance's own, and
// partial sums of a split product are fp32 in that workspace, so results repeat run after run and
// under graph capture. A shape that cuBLASLt declines goes to cuBLAS, with the bias by a kernel.
#include "engine/cuda/conv_dnn.h"
#include "engine/cuda/device.h"

#include <cublasLt.h>
#include <cublas_v2.h>
#include <stdio.h>
#include <stdlib.h>

enum { WORKSPACE = 32 << 20, BIAS_ROOM = 1 << 16, PLANS = 512, TRIED = 8, FULL = 512 << 20 };

// How the bias gets in: within the product, in C's type, to which BIAS_CAST rounds it first; or by
// a kernel.
enum bias_form { BIAS_NONE, BIAS_F32, BIAS_BF16, BIAS_CAST, BIAS_KERNEL };

struct key { // everything a plan depends on; compared as bytes
    int64_t m, n, k, lda, ldb, ldc, batch, stride_a, stride_b, stride_c;
    uint32_t align_a, align_b, align_c;
    uint8_t ta, tb, acc, abt, ct, bias; // bias: the form to try first
};

struct plan {
    struct key key;
    bool used, lt; // lt: by cuBLASLt
    enum bias_form bias;
    cublasLtMatmulDesc_t what;
    cublasLtMatrixLayout_t a, b, c; // column-major: a is the caller's B and the other way round
    cublasLtMatmulAlgo_t algo;
};

struct blas { // dr_cuda.blas
    cublasHandle_t plain;
    cublasLtHandle_t lt;
    struct plan plans[PLANS]; // open addressing
};

static int open_failed(const struct dr_cuda *c, struct dr_err *err, cublasStatus_t s,
                       const char *what) {
    // On a full device the library does not name what it lacks.
    size_t left = 0, total = 0;
    const bool full = !cudaMemGetInfo(&left, &total) && left < FULL;
    const bool memory =
        s == CUBLAS_STATUS_ALLOC_FAILED || (s == CUBLAS_STATUS_NOT_INITIALIZED && full);
    if (err) {
        err->code = memory ? DR_ENOMEM : DR_EDEVICE;
        snprintf(err->msg, sizeof err->msg, "%s: %s: %s (%zu of %zu MiB are free)", c->be.detail,
                 what, cublasGetStatusString(s), left >> 20, total >> 20);
    }
    return memory ? DR_ENOMEM : DR_EDEVICE;
}

int dr_cuda_blas_open(struct dr_cuda *c, struct dr_err *err) {
    struct blas *b = static_cast<struct blas *>(calloc(1, sizeof(struct blas)));
    c->blas = b; // dr_cuda_blas_close frees whatever exists
    cublasStatus_t s = b ? cublasLtCreate(&b->lt) : CUBLAS_STATUS_ALLOC_FAILED;
    if (!s)
        s = cublasCreate(&b->plain);
    if (s)
        return open_failed(c, err, s, "cuBLAS does not start");
    void *work = dr_cuda_scratch(&c->be, DR_CUDA_BLAS, WORKSPACE + BIAS_ROOM);
    s = work ? cublasSetStream(b->plain, c->stream) : CUBLAS_STATUS_ALLOC_FAILED;
    if (!s) // partial sums of a split product stay fp32, whatever the type of C
        s = cublasSetMathMode(b->plain, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
    if (!s)
        s = cublasSetWorkspace(b->plain, work, WORKSPACE);
    return s ? open_failed(c, err, s, "cuBLAS workspace") : 0;
}

static void drop(struct plan *p) {
    if (p->what)
        cublasLtMatmulDescDestroy(p->what);
    for (cublasLtMatrixLayout_t l : {p->a, p->b, p->c})
        if (l)
            cublasLtMatrixLayoutDestroy(l);
    p->what = NULL;
    p->a = p->b = p->c = NULL;
}

// The shape goes to cuBLAS from now on.
static void leave_lt(struct plan *p) {
    drop(p);
    p->lt = false;
    p->bias = p->key.bias == BIAS_NONE ? BIAS_NONE : BIAS_KERNEL;
}

void dr_cuda_blas_close(struct dr_cuda *c) {
    struct blas *b = static_cast<struct blas *>(c->blas);
    dr_cuda_dnn_close(c);
    c->blas = NULL;
    if (!b)
        return;
    for (int i = 0; i < PLANS; i++)
        drop(&b->plans[i]);
    if (b->plain)
        cublasDestroy(b->plain);
    if (b->lt)
        cublasLtDestroy(b->lt);
    free(b);
}

// ---- plans
// ---------------------------------------------------------------------------------------------

static cudaDataType type_of(enum dr_dtype t) {
    return t == DR_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cublasComputeType_t compute_of(const struct dr_cuda *c, enum dr_dtype abt) {
    return abt == DR_F32 && c->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

// The largest power of two up to 256 that divides an address: what kernels may load at once.
static uint32_t align_of(const void *p) {
    const uintptr_t bit = (uintptr_t)p & (0 - (uintptr_t)p);
    return bit && bit < 256 ? (uint32_t)bit : 256;
}

// The library's kernels load a bias by 16 bytes.
static enum bias_form form_of(const struct dr_gemm_args *g) {
    if (!g->bias)
        return BIAS_NONE;
    if (g->ct == DR_F32)
        return align_of(g->bias) >= 16 ? BIAS_F32 : BIAS_KERNEL;
    if (g->bias16 && align_of(g->bias16) >= 16)
        return BIAS_BF16;
    return (size_t)g->n * sizeof(bf16) <= BIAS_ROOM ? BIAS_CAST : BIAS_KERNEL;
}

static void key_of(struct key *k, const struct dr_gemm_args *g) {
    memset(k, 0, sizeof *k); // the padding is compared as well
    k->m = g->m, k->n = g->n, k->k = g->k;
    k->lda = g->lda, k->ldb = g->ldb, k->ldc = g->ldc;
    k->batch = g->batch > 1 ? g->batch : 1;
    if (k->batch > 1)
        k->stride_a = g->stride_a, k->stride_b = g->stride_b, k->stride_c = g->stride_c;
    k->align_a = align_of(g->a), k->align_b = align_of(g->b), k->align_c = align_of(g->c);
    k->ta = g->ta, k->tb = g->tb, k->acc = g->acc, k->bias = (uint8_t)form_of(g);
    k->abt = (uint8_t)g->abt, k->ct = (uint8_t)g->ct;
}

static cublasStatus_t layout(cublasLtMatrixLayout_t *l, enum dr_dtype t, int64_t rows, int64_t cols,
                             int64_t ld, const struct key *k, int64_t stride) {
    const int32_t batch = (int32_t)k->batch;
    cublasStatus_t s =
        cublasLtMatrixLayoutCreate(l, type_of(t), (uint64_t)rows, (uint64_t)cols, ld);
    if (!s && batch > 1)
        s = cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch,
                                             sizeof batch);
    if (!s && batch > 1)
        s = cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                             &stride, sizeof stride);
    return s;
}

template <typename T>
static cublasStatus_t set(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t what, T v) {
    return cublasLtMatmulDescSetAttribute(d, what, &v, sizeof v);
}
template <typename T>
static cublasStatus_t set(cublasLtMatmulPreference_t d, cublasLtMatmulPreferenceAttributes_t what,
                          T v) {
    return cublasLtMatmulPreferenceSetAttribute(d, what, &v, sizeof v);
}

// Where the product finds its bias.
static const void *bias_of(const struct dr_cuda *c, enum bias_form form,
                           const struct dr_gemm_args *g) {
    return form == BIAS_CAST   ? static_cast<char *>(c->ws[DR_CUDA_BLAS].base) + WORKSPACE
           : form == BIAS_BF16 ? (const void *)g->bias16
                               : g->bias;
}

// Row-major C = A B is column-major C' = B' A'.
static cublasStatus_t describe(const struct dr_cuda *c, struct plan *p,
                               const struct dr_gemm_args *g) {
    const struct key *k = &p->key;
    cublasStatus_t s = cublasLtMatmulDescCreate(&p->what, compute_of(c, g->abt), CUDA_R_32F);
    if (!s)
        s = set(p->what, CUBLASLT_MATMUL_DESC_TRANSA, g->tb ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (!s)
        s = set(p->what, CUBLASLT_MATMUL_DESC_TRANSB, g->ta ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (!s && p->bias != BIAS_NONE && p->bias != BIAS_KERNEL) {
        s = set(p->what, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
        if (!s)
            s = set(p->what, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
                    p->bias == BIAS_F32 ? CUDA_R_32F : CUDA_R_16BF);
        if (!s) // the heuristic wants one; each call brings its own
            s = set(p->what, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias_of(c, p->bias, g));
    }
    if (!s)
        s = layout(&p->a, g->abt, g->tb ? g->k : g->n, g->tb ? g->n : g->k, g->ldb, k, g->stride_b);
    if (!s)
        s = layout(&p->b, g->abt, g->ta ? g->m : g->k, g->ta ? g->k : g->m, g->lda, k, g->stride_a);
    if (!s)
        s = layout(&p->c, g->ct, g->n, g->m, g->ldc, k, g->stride_c);
    return s;
}

static cublasStatus_t choose(struct blas *b, struct plan *p) {
    cublasLtMatmulPreference_t pref = NULL;
    cublasLtMatmulHeuristicResult_t found[TRIED];
    int count = 0;
    cublasStatus_t s = cublasLtMatmulPreferenceCreate(&pref);
    if (!s)
        s = set(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (size_t)WORKSPACE);
    if (!s)
        s = set(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                (uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
    if (!s)
        s = set(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, p->key.align_b);
    if (!s)
        s = set(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, p->key.align_a);
    if (!s)
        s = set(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, p->key.align_c);
    if (!s)
        s = set(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, p->key.align_c);
    if (!s)
        s = cublasLtMatmulAlgoGetHeuristic(b->lt, p->what, p->a, p->b, p->c, p->c, pref, TRIED,
                                           found, &count);
    if (pref)
        cublasLtMatmulPreferenceDestroy(pref);
    for (int i = 0; !s && i < count; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS) {
            p->algo = found[i].algo;
            return CUBLAS_STATUS_SUCCESS;
        }
    return s ? s : CUBLAS_STATUS_NOT_SUPPORTED;
}

// Fills a new plan: with the bias in the epilogue, else with the bias by a kernel, else for cuBLAS.
static void make_plan(const struct dr_cuda *c, struct blas *b, struct plan *p,
                      const struct dr_gemm_args *g) {
    const enum bias_form forms[2] = {form_of(g), BIAS_KERNEL};
    p->used = true;
    for (int i = 0; i < (g->bias ? 2 : 1) && !p->lt; i++) {
        p->bias = forms[i];
        p->lt = !describe(c, p, g) && !choose(b, p);
        if (!p->lt)
            leave_lt(p);
    }
}

static uint64_t hash_of(const struct key *k) {
    const unsigned char *bytes = reinterpret_cast<const unsigned char *>(k);
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < sizeof *k; i++)
        h = (h ^ bytes[i]) * 1099511628211u;
    return h;
}

// The shape's plan. `spare` serves shapes that the full table has no place for; the caller drops
// it.
static struct plan *plan_for(const struct dr_cuda *c, struct blas *b, const struct dr_gemm_args *g,
                             struct plan *spare) {
    struct key key;
    key_of(&key, g);
    const uint64_t first = hash_of(&key);
    struct plan *p = spare;
    for (int i = 0; i < PLANS; i++) {
        struct plan *q = &b->plans[(first + (uint64_t)i) % PLANS];
        if (q->used && memcmp(&q->key, &key, sizeof key))
            continue;
        if (q->used)
            return q;
        p = q;
        break;
    }
    p->key = key;
    make_plan(c, b, p, g);
    return p;
}

// ---- the op
// --------------------------------------------------------------------------------------------

template <typename C> struct bias_f {
    C *c;
    const float *bias;
    int64_t n, m, ldc, stride;
    template <int V> __device__ void run(int64_t i) const {
        const int64_t at = i / (m * n) * stride + i / n % m * ldc + i % n;
        c[at] = from_f<C>(to_f(c[at]) + bias[i % n]);
    }
};

template <typename C>
static void add_bias(struct dr_backend *be, const struct dr_gemm_args *g, int64_t batch) {
    const bias_f<C> f = {static_cast<C *>(g->c), g->bias, g->n, g->m, g->ldc, g->stride_c};
    DR_FLAT(be, f, batch * g->m * g->n, false);
}

static cublasStatus_t by_lt(struct dr_backend *be, struct plan *p, const struct dr_gemm_args *g) {
    struct dr_cuda *c = dr_cuda_of(be);
    const float one = 1, beta = g->acc ? 1 : 0;
    char *work = static_cast<char *>(c->ws[DR_CUDA_BLAS].base);
    if (p->bias == BIAS_CAST) { // a few bytes
        struct dr_cast_args cast = {};
        cast.dst = work + WORKSPACE, cast.src = g->bias, cast.n = g->n;
        cast.dt = DR_BF16, cast.st = DR_F32;
        dr_cuda_cast(be, &cast);
    }
    if (p->bias != BIAS_NONE && p->bias != BIAS_KERNEL) {
        const cublasStatus_t s =
            set(p->what, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias_of(c, p->bias, g));
        if (s)
            return s;
    }
    return cublasLtMatmul(static_cast<struct blas *>(c->blas)->lt, p->what, &one, g->b, p->a, g->a,
                          p->b, &beta, g->c, p->c, g->c, p->c, &p->algo, work, WORKSPACE,
                          c->stream);
}

static cublasStatus_t by_cublas(struct dr_cuda *c, const struct dr_gemm_args *g) {
    const float one = 1, beta = g->acc ? 1 : 0;
    return cublasGemmStridedBatchedEx(
        static_cast<struct blas *>(c->blas)->plain, g->tb ? CUBLAS_OP_T : CUBLAS_OP_N,
        g->ta ? CUBLAS_OP_T : CUBLAS_OP_N, (int)g->n, (int)g->m, (int)g->k, &one, g->b,
        type_of(g->abt), (int)g->ldb, g->stride_b, g->a, type_of(g->abt), (int)g->lda, g->stride_a,
        &beta, g->c, type_of(g->ct), (int)g->ldc, g->stride_c, (int)(g->batch > 1 ? g->batch : 1),
        compute_of(c, g->abt), CUBLAS_GEMM_DEFAULT);
}

void dr_cuda_gemm(struct dr_backend *be, const struct dr_gemm_args *g) {
    struct dr_cuda *c = dr_cuda_of(be);
    struct plan spare = {};
    if (g->m <= 0 || g->n <= 0)
        return;
    struct plan *p = plan_for(c, static_cast<struct blas *>(c->blas), g, &spare);
    cublasStatus_t s = p->lt ? by_lt(be, p, g) : CUBLAS_STATUS_NOT_SUPPORTED;
    // The heuristic may name an algorithm that the product itself then refuses.
    if (s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE) {
        leave_lt(p);
        s = by_cublas(c, g);
    }
    c->last_op = __func__;
    if (s)
        dr_cuda_error(be, s == CUBLAS_STATUS_ALLOC_FAILED ? DR_ENOMEM : DR_EDEVICE, __func__,
                      cublasGetStatusString(s));
    else if (p->bias == BIAS_KERNEL)
        DR_FOR_DTYPE(g->ct, C, add_bias<C>(be, g, g->batch > 1 ? g->batch : 1));
    drop(&spare);
}
