// Self-attention backward. Called through the op table by nn/. With S = q k', P = softmax(S) and
// O = P v, all after QK-norm, RoPE and scale:
//   dv = P' dO;  dP = dO v';  dS = P (dP - rowsum(dP P));  dq = dS k;  dk = dS' q
// then back through the rotation (its transpose) and the norm: with xh = x rstd and g = d w,
//   dx = rstd (g - xh mean(g xh));  dw += d xh.
// P is recomputed from qkv. Each head leaves its part of dw in the workspace; they are added in the
// order of the heads, whatever thread made them.
#include "engine/cpu/attn_bf16.h"
#include "engine/cpu/attn_vectors.h"

#include <omp.h>

struct buffers {
    real *q, *k, *v, *g; // [rows, ld]: prepared q and k, v, dout
    real *kt, *vt;       // [ld, tp]
    real *p, *ds;        // [QB, tp]
    real *dq, *dk, *dv;  // [rows, ld]
    real *rq, *rk;       // [rows]: rstd of q and k
};

static int64_t buffer_size(const struct dims *d) {
    return round_up(7 * d->rows * d->ld + 2 * d->ld * d->tp + 2 * score_size(d) + 2 * d->rows, 16);
}

static struct buffers buffers_at(real *p, const struct dims *d) {
    const int64_t rows = d->rows * d->ld, across = d->ld * d->tp;
    struct buffers b = {.q = p, .k = p + rows, .v = p + 2 * rows, .g = p + 3 * rows};
    b.dq = p + 4 * rows;
    b.dk = p + 5 * rows;
    b.dv = p + 6 * rows;
    b.kt = p + 7 * rows;
    b.vt = b.kt + across;
    b.p = b.vt + across;
    b.ds = b.p + score_size(d);
    b.rq = b.ds + score_size(d);
    b.rk = b.rq + d->rows;
    return b;
}

// Four rows. p = exp row, ds = dP row: makes p the probabilities and ds = p (dP - sum dP p).
DR_INLINE void softmax_bwd_rows(real *p, real *ds, const real inverse[4], const struct dims *d) {
    const int64_t tp = d->tp;
    vreal dot[4];
    real sum[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        dot[r] = vset(0);
        for (int64_t i = r * tp; i < (r + 1) * tp; i += VL) {
            vreal v = vload(p + i) * inverse[r];
            vstore(p + i, v);
            dot[r] = vfma(v, vload(ds + i), dot[r]);
        }
    }
    vsum4(sum, dot);
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++)
        for (int64_t i = r * tp; i < (r + 1) * tp; i += VL)
            vstore(ds + i, vload(p + i) * (vload(ds + i) - sum[r]));
}

// Queries [q0, q0 + nq): their dq, and their part of dk and dv.
static void backward_block(int64_t t, int64_t h, int64_t hd, const struct buffers *w, int64_t q0,
                           int64_t nq) {
    const struct dims shape = dims_of(t, h, hd), *d = &shape;
    const int64_t ld = d->ld, tp = d->tp, at = q0 * ld;
    product(nq, tp, d->hd, (struct lhs){w->q + at, ld, 1}, w->kt, tp, w->p, tp, false);
    product(nq, tp, d->hd, (struct lhs){w->g + at, ld, 1}, w->vt, tp, w->ds, tp, false);
    for (int64_t i = 0; i < nq; i += 4) {
        real inverse[4];
        softmax_rows(inverse, w->p + i * tp, d);
        softmax_bwd_rows(w->p + i * tp, w->ds + i * tp, inverse, d);
    }
    product(d->t, ld, nq, (struct lhs){w->p, 1, tp}, w->g + at, ld, w->dv, ld, q0 > 0);
    product(d->t, ld, nq, (struct lhs){w->ds, 1, tp}, w->q + at, ld, w->dk, ld, q0 > 0);
    product(nq, ld, d->t, (struct lhs){w->ds, tp, 1}, w->k, ld, w->dq + at, ld, false);
}

// Rows [token, token + n) of dq or dk, n <= 4, back through scale, rotation and norm, into elements
// at + i step of dqkv. g: the rows; rstd: of the raw rows; dw: the head's part of the norm's
// gradient.
DR_INLINE void finish_rows(const struct dr_attn_bwd_args *a, enum dr_dtype act, int64_t at,
                           int64_t step, real *g, const struct dims *d, int64_t token, int64_t n,
                           const struct prep *p, const real *rstd, real *dw) {
    const int64_t half = d->hd / 2;
    real mean[4] = {0};
    for (int64_t r = 0; p->cos && r < n; r++)
        rotate(g + r * d->ld, p->cos + (token + r) * half, p->sin + (token + r) * half, half, -1);
    if (p->norm) {
        vreal dot[4] = {{0}};
#define STEP(i, m)                                                                                 \
    do {                                                                                           \
        vreal sum = vld(dw, DR_F32, i, m), w = vld(p->norm, DR_F32, i, m);                         \
        _Pragma("GCC unroll 4") for (int r = 0; r < 4; r++) if (r < n) {                           \
            vreal xh = vld(a->qkv, act, at + r * step + (i), m) * rstd[r];                         \
            vreal dx = vld(g, DR_F32, r * d->ld + (i), m) * p->scale * xh;                         \
            sum += dx;                                                                             \
            dot[r] = vfma(dx, w, dot[r]);                                                          \
        }                                                                                          \
        vst(dw, DR_F32, i, m, sum);                                                                \
    } while (0)
        V_LOOP(d->hd, STEP);
#undef STEP
        vsum4(mean, dot);
    }
    for (int64_t r = 0; r < n; r++) {
        const real m1 = mean[r] / (real)d->hd;
#define STEP(i, m)                                                                                 \
    do {                                                                                           \
        vreal v = vld(g, DR_F32, r * d->ld + (i), m) * p->scale;                                   \
        if (p->norm) {                                                                             \
            vreal xh = vld(a->qkv, act, at + r * step + (i), m) * rstd[r];                         \
            v = (v * vld(p->norm, DR_F32, i, m) - xh * m1) * rstd[r];                              \
        }                                                                                          \
        vst(a->dqkv, act, at + r * step + (i), m, v);                                              \
    } while (0)
        V_LOOP(d->hd, STEP);
#undef STEP
    }
}

DR_INLINE void backward(const struct dr_attn_bwd_args *a, enum dr_dtype act, const struct dims *d,
                        const struct buffers *w, int64_t b, int64_t h, real *dw) {
    const int64_t width = d->h * d->hd, step = 3 * width;
    const int64_t at = b * d->t * step + h * d->hd;
    const struct prep pq = {a->q_norm, a->rope_cos, a->rope_sin, a->eps, a->scale};
    const struct prep pk = {a->k_norm, a->rope_cos, a->rope_sin, a->eps, 1};
    load_rows(w->q, a->qkv, act, at, step, d);
    load_rows(w->k, a->qkv, act, at + width, step, d);
    load_rows(w->v, a->qkv, act, at + 2 * width, step, d);
    load_rows(w->g, a->dout, act, b * d->t * width + h * d->hd, width, d);
    prepare(w->q, &pq, d, w->rq);
    prepare(w->k, &pk, d, w->rk);
    transpose(w->kt, w->k, d);
    transpose(w->vt, w->v, d);
    for (int64_t q0 = 0; q0 < d->t; q0 += QB)
        backward_block(d->t, d->h, d->hd, w, q0, DR_MIN(d->t - q0, QB));
    memset(dw, 0, (size_t)(2 * d->hd) * sizeof *dw);
    for (int64_t i = 0; i < d->t; i += 4) {
        const int64_t n = DR_MIN(d->t - i, 4), row = at + i * step;
        finish_rows(a, act, row, step, w->dq + i * d->ld, d, i, n, &pq, w->rq + i, dw);
        finish_rows(a, act, row + width, step, w->dk + i * d->ld, d, i, n, &pk, w->rk + i,
                    dw + d->hd);
    }
    for (int64_t i = 0; i < d->t; i++) {
        const int64_t row = at + i * step + 2 * width;
#define STEP(j, n) vst(a->dqkv, act, row + (j), n, vld(w->dv, DR_F32, i * d->ld + (j), n))
        V_LOOP(d->hd, STEP);
#undef STEP
    }
}

static void backward_head(const struct dr_backend *be, const struct dr_attn_bwd_args *a, real *work,
                          int64_t head, real *dw) {
    const struct dims d = dims_of(a->t, a->h, a->hd);
    const struct buffers w = buffers_at(work, &d);
    const int64_t b = head / d.h, h = head % d.h;
    (void)be;
    if (a->act == DR_BF16)
        FOR_SHAPE(&d, shape, backward(a, DR_BF16, &shape, &w, b, h, dw));
    else
        FOR_SHAPE(&d, shape, backward(a, DR_F32, &shape, &w, b, h, dw));
}

void DR_ISA_FN(attn_bwd)(struct dr_backend *be, const struct dr_attn_bwd_args *a) {
    const struct dims d = dims_of(a->t, a->h, a->hd);
    const int64_t heads = a->b * a->h;
    int64_t size = buffer_size(&d);
    dr_attn_bwd_head *one = backward_head;
#ifdef DR_ATTN_BF16
    if (attn_bf16_fits(be, a->act, a->hd)) {
        size = dr_attn_bf16_bwd_size(be, a->t, a->hd);
        one = dr_attn_bf16_bwd_head;
    }
#endif
    const int64_t total = size * be->threads + heads * 2 * a->hd;
    real *work = dr_cpu_scratch(be, DR_WS_OP, (size_t)total * sizeof *work);
    if (!work)
        return;
    real *parts = work + size * be->threads;
    DR_PARALLEL_EACH(be, heads * a->t * a->t * a->hd >= DR_PAYS)
    for (int64_t head = 0; head < heads; head++)
        one(be, a, work + size * omp_get_thread_num(), head, parts + head * 2 * a->hd);
    for (int64_t head = 0; a->dq_norm && head < heads; head++)
        for (int64_t i = 0; i < a->hd; i++)
            a->dq_norm[i] += parts[head * 2 * a->hd + i];
    for (int64_t head = 0; a->dk_norm && head < heads; head++)
        for (int64_t i = 0; i < a->hd; i++)
            a->dk_norm[i] += parts[head * 2 * a->hd + a->hd + i];
}
