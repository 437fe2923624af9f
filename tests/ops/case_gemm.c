// Cases of the matrix product: every form, odd shapes, leading dimensions, batches.
#include "tests/ops/harness.h"

struct shape {
    int64_t m, n, k, batch, pad; // pad: extra elements between rows and between matrices
};

static double at(const struct tbuf *x, int64_t base, int64_t ld, bool trans, int64_t i, int64_t j) {
    return x->v[base + (trans ? j * ld + i : i * ld + j)];
}

static void gemm_once(struct t *t, const struct shape *s, bool ta, bool tb, bool acc, bool bias,
                      enum dr_dtype abt, enum dr_dtype ct) {
    int64_t b = s->batch, lda = (ta ? s->m : s->k) + s->pad, ldb = (tb ? s->k : s->n) + s->pad;
    int64_t ldc = s->n + s->pad, ra = ta ? s->k : s->m, rb = tb ? s->n : s->k;
    int64_t sa = ra * lda + s->pad, sb = rb * ldb + s->pad, sc = s->m * ldc + s->pad;
    struct tbuf *x = t_normal(t, abt, b * sa, 1), *y = t_normal(t, abt, b * sb, 1);
    struct tbuf *z = acc ? t_inout(t_normal(t, ct, b * sc, 1)) : t_out(t, ct, b * sc);
    struct tbuf *w = bias ? t_normal(t, DR_F32, s->n, 1) : NULL;
    double *want = t_tmp(t, b * sc);
    for (int64_t i = 0; i < b * sc; i++)
        want[i] = acc ? z->v[i] : NAN;
    for (int64_t l = 0; l < b; l++)
        for (int64_t i = 0; i < s->m; i++)
            for (int64_t j = 0; j < s->n; j++) {
                double sum = bias ? w->v[j] : acc ? want[l * sc + i * ldc + j] : 0;
                for (int64_t k = 0; k < s->k; k++)
                    sum += at(x, l * sa, lda, ta, i, k) * at(y, l * sb, ldb, tb, k, j);
                want[l * sc + i * ldc + j] = sum;
            }
    T_RUN(t, gemm, .m = s->m, .n = s->n, .k = s->k, .a = x->p, .b = y->p, .c = z->p, .lda = lda,
          .ldb = ldb, .ldc = ldc, .ta = ta, .tb = tb, .acc = acc, .abt = abt, .ct = ct,
          .bias = bias ? w->p : NULL, .batch = b == 1 ? 0 : b, .stride_a = sa, .stride_b = sb,
          .stride_c = sc);
    t_check(t, "c", z, want, t_tol(t, ct));
}

void case_gemm(struct t *t) {
    static const struct shape shapes[] = {
        {1, 1, 1, 1, 0},    {3, 5, 7, 1, 0},     {2, 96, 32, 1, 0},  {65, 33, 130, 1, 3},
        {17, 64, 9, 1, 0},  {160, 1, 288, 1, 0}, {72, 96, 64, 1, 0}, {5, 6, 7, 4, 0},
        {16, 33, 24, 3, 5}, {130, 70, 257, 1, 1}};
    for (size_t s = 0; s < DR_COUNT(shapes); s++)
        for (int f = 0; f < 4; f++)
            for (int add = 0; add < 3; add++)
                for (int type = 0; type < (t_dtypes(t) == 2 ? 3 : 1); type++) // no bf16 from fp32
                    gemm_once(t, &shapes[s], f & 1, f & 2, add == 1, add == 2, type > 0, type > 1);
}
