// Self-attention forward: scores of one head in blocks of queries, softmax, values. Called through
// the op table by nn/. A head's result depends on its own rows only, so bytes do not depend on the
// batch or the threads.
#include "engine/cpu/attn_bf16.h"
#include "engine/cpu/attn_vectors.h"

#include <omp.h>

struct buffers {
    real *q, *k, *v, *kt, *s, *o;
};

static int64_t buffer_size(const struct dims *d) {
    return round_up(3 * d->rows * d->ld + d->ld * d->tp + score_size(d) + QB * d->ld, 16);
}

static struct buffers buffers_at(real *p, const struct dims *d) {
    struct buffers b = {.q = p};
    b.k = b.q + d->rows * d->ld;
    b.v = b.k + d->rows * d->ld;
    b.kt = b.v + d->rows * d->ld;
    b.o = b.kt + d->ld * d->tp;
    b.s = b.o + QB * d->ld;
    return b;
}

DR_INLINE void attend(const struct dr_attn_fwd_args *a, enum dr_dtype act, const struct dims *d,
                      const struct buffers *w, int64_t b, int64_t h) {
    const int64_t width = d->h * d->hd, step = 3 * width;
    const int64_t at = b * d->t * step + h * d->hd;
    const struct prep pq = {a->q_norm, a->rope_cos, a->rope_sin, a->eps, a->scale};
    const struct prep pk = {a->k_norm, a->rope_cos, a->rope_sin, a->eps, 1};
    load_rows(w->q, a->qkv, act, at, step, d);
    load_rows(w->k, a->qkv, act, at + width, step, d);
    load_rows(w->v, a->qkv, act, at + 2 * width, step, d);
    prepare(w->q, &pq, d, NULL);
    prepare(w->k, &pk, d, NULL);
    transpose(w->kt, w->k, d);
    for (int64_t q0 = 0; q0 < d->t; q0 += QB) {
        const int64_t nq = DR_MIN(d->t - q0, QB);
        product(nq, d->tp, d->hd, (struct lhs){w->q + q0 * d->ld, d->ld, 1}, w->kt, d->tp, w->s,
                d->tp, false);
        real inverse[QB];
        for (int64_t i = 0; i < nq; i += 4)
            softmax_rows(inverse + i, w->s + i * d->tp, d);
        product(nq, d->ld, d->t, (struct lhs){w->s, d->tp, 1}, w->v, d->ld, w->o, d->ld, false);
        for (int64_t i = 0; i < nq; i++) {
            const int64_t out = (b * d->t + q0 + i) * width + h * d->hd;
#define STEP(j, n)                                                                                 \
    vst(a->out, act, out + (j), n, vld(w->o, DR_F32, i * d->ld + (j), n) * inverse[i])
            V_LOOP(d->hd, STEP);
#undef STEP
        }
    }
}

static void attend_head(const struct dr_backend *be, const struct dr_attn_fwd_args *a, real *work,
                        int64_t head) {
    const struct dims d = dims_of(a->t, a->h, a->hd);
    const struct buffers w = buffers_at(work, &d);
    const int64_t b = head / d.h, h = head % d.h;
    (void)be;
    if (a->act == DR_BF16)
        FOR_SHAPE(&d, shape, attend(a, DR_BF16, &shape, &w, b, h));
    else
        FOR_SHAPE(&d, shape, attend(a, DR_F32, &shape, &w, b, h));
}

void DR_ISA_FN(attn_fwd)(struct dr_backend *be, const struct dr_attn_fwd_args *a) {
    const struct dims d = dims_of(a->t, a->h, a->hd);
    int64_t size = buffer_size(&d);
    dr_attn_head *one = attend_head;
#ifdef DR_ATTN_BF16
    if (a->t > SIDE && attn_bf16_fits(be, a->act, a->hd)) { // one tile alone does not pay
        size = dr_attn_bf16_size(be, a->t, a->hd);
        one = dr_attn_bf16_head;
    }
#endif
    real *work = dr_cpu_scratch(be, DR_WS_OP, (size_t)(size * be->threads) * sizeof *work);
    if (!work)
        return;
    DR_PARALLEL_EACH(be, a->b * a->h * a->t * a->t * a->hd >= DR_PAYS)
    for (int64_t head = 0; head < a->b * a->h; head++)
        one(be, a, work + size * omp_get_thread_num(), head);
}
