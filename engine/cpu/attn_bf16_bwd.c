// Self-attention backward in bf16; see attn_bf16.h, and attn_bwd.c for the formulas. Called there.
#include "engine/cpu/attn_bf16.h"

struct buffers {
    dr_bf16 *q, *k, *v, *g; // [tk, hd]: prepared q and k, v, dout
    uint32_t *qt, *gt;      // [hd / 2, tk] pairs along hd
    uint32_t *qp, *kp, *gp; // [tk / 2, hd] pairs along the tokens
    real *s, *dp;           // [tp, QB]: scores, dP; keys x queries
    dr_bf16 *pt, *dst;      // [tp, QB]: P, dS
    uint32_t *dsp;          // [tk / 2, QB]: dS in pairs along the keys
    dr_bf16 *ds;            // [QB, tk]: dS with queries as rows
    real *dq, *dk, *dv;     // [tk, hd]
    real *rq, *rk;          // [tk]: rstd of q and k
};

static struct buffers buffers_at(void *p, const struct head_dims *d) {
    const int64_t rows = d->tk * d->hd / 2;
    struct buffers b = {.qt = p};
    b.gt = b.qt + rows;
    b.qp = b.gt + rows;
    b.kp = b.qp + rows;
    b.gp = b.kp + rows;
    b.dsp = b.gp + rows;
    b.q = (dr_bf16 *)(b.dsp + d->tk * QB / 2);
    b.k = b.q + 2 * rows;
    b.v = b.k + 2 * rows;
    b.g = b.v + 2 * rows;
    b.ds = b.g + 2 * rows;
    b.pt = b.ds + d->tk * QB;
    b.dst = b.pt + d->tp * QB;
    b.s = (real *)(void *)(b.dst + d->tp * QB);
    b.dp = b.s + d->tp * QB;
    b.dq = b.dp + d->tp * QB;
    b.dk = b.dq + 2 * rows;
    b.dv = b.dk + 2 * rows;
    b.rq = b.dv + 2 * rows;
    b.rk = b.rq + d->tk;
    return b;
}

// P and dS = P (dP - sum dP P) of the lanes at column c, in every form that the products want.
DR_INLINE void softmax_bwd_lanes(const struct buffers *w, const struct head_dims *d, int64_t c) {
    real *s = w->s + c;
    const real *dp = w->dp + c;
    const vreal top = lanes_max(s, d->t);
    vreal sum = vset(0), dot = vset(0);
    for (int64_t i = 0; i < d->t; i++) {
        const vreal e = vexp_as(DR_BF16, vload(s + i * QB) - top);
        sum += e;
        dot = vfma(e, vload(dp + i * QB), dot);
        vstore(s + i * QB, e);
    }
    const vreal inverse = 1 / sum, mean = dot * inverse;
    for (int64_t i = 0; i < d->tk; i += 2) {
        vreal ds[2] = {{0}};
#pragma GCC unroll 2
        for (int r = 0; r < 2; r++) {
            const int64_t at = (i + r) * QB;
            vreal p = vset(0);
            if (i + r < d->t) {
                p = vload(s + at) * inverse;
                ds[r] = p * (vload(dp + at) - mean);
            }
            if (i + r < d->tp) {
                vst(w->pt, DR_BF16, at + c, VL, p);
                vst(w->dst, DR_BF16, at + c, VL, ds[r]);
            }
        }
        put_pairs(w->dsp + i / 2 * QB + c, pair_up(ds[0], ds[1]));
    }
}

// Queries [q0, q0 + nq): their dq, and their part of dk and dv.
DR_INLINE void backward_block(const struct head_dims *d, const struct buffers *w, int64_t q0,
                              int64_t nq) {
    const int64_t hd = d->hd, tk = d->tk, np = round_up(nq, SIDE), nk = round_up(nq, STEP);
    const int64_t at = q0 / 2 * hd;
    bf16_product(d, d->tp, np, hd, (struct operands){w->k, w->qt + q0, w->s, hd, tk, QB}, false);
    bf16_product(d, d->tp, np, hd, (struct operands){w->v, w->gt + q0, w->dp, hd, tk, QB}, false);
    for (int64_t c = 0; c < np; c += VL)
        softmax_bwd_lanes(w, d, c);
    for (int64_t i = 0; np < nk && i < d->tp; i++) {
        vst(w->pt, DR_BF16, i * QB + np, VL, vset(0));
        vst(w->dst, DR_BF16, i * QB + np, VL, vset(0));
    }
    turn(w->ds, tk / 2, w->dsp, QB, tk / 2, np);
    bf16_product(d, d->tp, hd, nk, (struct operands){w->pt, w->gp + at, w->dv, QB, hd, hd}, q0 > 0);
    bf16_product(d, d->tp, hd, nk, (struct operands){w->dst, w->qp + at, w->dk, QB, hd, hd},
                 q0 > 0);
    bf16_product(d, np, hd, tk, (struct operands){w->ds, w->kp, w->dq + q0 * hd, tk, hd, hd},
                 false);
}

// One of q or k on its way back.
struct back {
    const struct prep *prep;
    const dr_bf16 *raw; // rows of qkv, `step` elements apart
    dr_bf16 *to;        // rows of dqkv; may be the same
    int64_t step;
    const real *rstd;
    real *g;  // [tk, hd] dq or dk; left rotated back
    real *dw; // [hd] the head's part of the norm's gradient
};

// Rows [i, i + n), n <= 4, back through rotation and scale; adds to dw. Returns through mean what
// the norm takes off them.
DR_INLINE void turn_back(const struct back *k, const struct head_dims *d, int64_t i, int64_t n,
                         vreal *dw, real mean[4]) {
    const int64_t count = d->hd / VL, half = d->hd / 2;
    const struct prep *p = k->prep;
    vreal dot[4];
#pragma GCC unroll 4
    for (int64_t r = 0; r < 4; r++) {
        dot[r] = vset(0);
        if (r >= n)
            continue;
        const int64_t row = i + r;
        real *g = k->g + row * d->hd;
#pragma GCC unroll 2
        for (int64_t j = 0; j < count / 2; j++) {
            vreal x[2] = {vload(g + j * VL) * p->scale, vload(g + half + j * VL) * p->scale};
            if (p->cos) {
                const vreal c = vload(p->cos + row * half + j * VL);
                const vreal s = vload(p->sin + row * half + j * VL);
                const vreal first = vfma(x[0], c, x[1] * s);
                x[1] = vfma(x[1], c, -(x[0] * s));
                x[0] = first;
            }
#pragma GCC unroll 2
            for (int e = 0; e < 2; e++) {
                const int64_t at = e * half + j * VL;
                vstore(g + at, x[e]);
                if (p->norm) {
                    const vreal xh = vld(k->raw, DR_BF16, row * k->step + at, VL) * k->rstd[row];
                    const vreal dx = x[e] * xh;
                    dw[at / VL] += dx;
                    dot[r] = vfma(dx, vload(p->norm + at), dot[r]);
                }
            }
        }
    }
    vsum4(mean, dot);
    for (int r = 0; r < 4; r++)
        mean[r] /= (real)d->hd;
}

DR_INLINE void finish(const struct back *k, const struct head_dims *d) {
    enum { MOST = 64 / VL };
    const int64_t count = d->hd / VL;
    vreal dw[MOST] = {{0}};
    for (int64_t i = 0; i < d->t; i += 4) {
        const int64_t n = DR_MIN(d->t - i, 4);
        real mean[4];
        turn_back(k, d, i, n, dw, mean);
        for (int64_t row = i; row < i + n; row++) {
            const real f = k->rstd[row], m = mean[row - i] * f;
#pragma GCC unroll 4
            for (int64_t j = 0; j < count; j++) {
                const int64_t at = row * k->step + j * VL;
                vreal v = vload(k->g + row * d->hd + j * VL);
                if (k->prep->norm)
                    v = (v * vload(k->prep->norm + j * VL) - vld(k->raw, DR_BF16, at, VL) * m) * f;
                vst(k->to, DR_BF16, at, VL, v);
            }
        }
    }
    for (int64_t j = 0; j < count; j++)
        vstore(k->dw + j * VL, dw[j]);
}

DR_INLINE void backward(const struct dr_attn_bwd_args *a, const struct head_dims *d,
                        const struct buffers *w, int64_t b, int64_t h, real *dw) {
    const int64_t width = d->h * d->hd, step = 3 * width, tk = d->tk, hd = d->hd;
    const int64_t at = b * d->t * step + h * hd;
    const dr_bf16 *qkv = (const dr_bf16 *)a->qkv + at;
    const struct prep pq = {a->q_norm, a->rope_cos, a->rope_sin, a->eps, a->scale};
    const struct prep pk = {a->k_norm, a->rope_cos, a->rope_sin, a->eps, 1};
    prepare_rows(w->q, qkv, step, &pq, d, w->rq);
    prepare_rows(w->k, qkv + width, step, &pk, d, w->rk);
    copy_rows(w->v, qkv + 2 * width, step, d);
    copy_rows(w->g, (const dr_bf16 *)a->dout + b * d->t * width + h * hd, width, d);
    pairs_of_rows(w->qp, w->q, tk, hd);
    pairs_of_rows(w->kp, w->k, tk, hd);
    pairs_of_rows(w->gp, w->g, tk, hd);
    turn(w->qt, tk, w->q, hd / 2, tk, hd / 2);
    turn(w->gt, tk, w->g, hd / 2, tk, hd / 2);
    for (int64_t q0 = 0; q0 < d->t; q0 += QB)
        backward_block(d, w, q0, DR_MIN(d->t - q0, QB));
    dr_bf16 *to = (dr_bf16 *)a->dqkv + at;
    finish(&(struct back){&pq, qkv, to, step, w->rq, w->dq, dw}, d);
    finish(&(struct back){&pk, qkv + width, to + width, step, w->rk, w->dk, dw + hd}, d);
    for (int64_t i = 0; i < d->t; i++)
        for (int64_t j = 0; j < hd; j += VL)
            vst(to, DR_BF16, i * step + 2 * width + j, VL, vload(w->dv + i * hd + j));
}

int64_t dr_attn_bf16_bwd_size(const struct dr_backend *be, int64_t t, int64_t hd) {
    const struct head_dims d = head_dims_of(be, t, 1, hd);
    return 15 * d.tk * d.hd / 2 + 3 * d.tp * QB + d.tk * QB + 2 * d.tk;
}

void dr_attn_bf16_bwd_head(const struct dr_backend *be, const struct dr_attn_bwd_args *a,
                           real *work, int64_t head, real *dw) {
    const struct head_dims d = head_dims_of(be, a->t, a->h, a->hd);
    const struct buffers w = buffers_at(work, &d);
    if (d.tiles)
        tiles_begin();
    FOR_WIDTH(&d, shape, backward(a, &shape, &w, head / d.h, head % d.h, dw));
    if (d.tiles)
        _tile_release();
}
