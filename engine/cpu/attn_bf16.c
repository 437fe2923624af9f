// Self-attention forward in bf16; see attn_bf16.h. Called by attn.c.
#include "engine/cpu/attn_bf16.h"

struct buffers {
    dr_bf16 *q, *k;   // [tk, hd] prepared
    dr_bf16 *p;       // [QB, tk] probabilities times their sum
    uint32_t *qt;     // [hd / 2, tk] pairs along hd
    uint32_t *v;      // [tk / 2, hd] pairs along the tokens
    uint32_t *pt;     // [tk / 2, QB] pairs along the keys
    real *s;          // [tp, QB]
    real *o;          // [QB, hd]
    real inverse[QB]; // 1 / the sums
};

static void buffers_at(struct buffers *b, void *p, const struct head_dims *d) {
    const int64_t rows = d->tk * d->hd / 2;
    uint32_t *at = p;
    b->qt = at;
    b->v = b->qt + rows;
    b->pt = b->v + rows;
    b->q = (dr_bf16 *)(b->pt + d->tk * QB / 2);
    b->k = b->q + 2 * rows;
    b->p = b->k + 2 * rows;
    b->s = (real *)(void *)(b->p + d->tk * QB);
    b->o = b->s + d->tp * QB;
}

// exp(s - max) of the lanes at column c, as pairs along the keys; the rest of pt's column is 0.
DR_INLINE void softmax_lanes(struct buffers *w, const struct head_dims *d, int64_t c) {
    const real *s = w->s + c;
    uint32_t *pt = w->pt + c;
    const vreal top = lanes_max(s, d->t);
    vreal sum = vset(0);
    for (int64_t i = 0; i < d->tk; i += 2, pt += QB) {
        vreal e[2] = {{0}};
#pragma GCC unroll 2
        for (int r = 0; r < 2; r++)
            if (i + r < d->t)
                e[r] = vexp_as(DR_BF16, vload(s + (i + r) * QB) - top);
        sum += e[0] + e[1];
        put_pairs(pt, pair_up(e[0], e[1]));
    }
    vstore(w->inverse + c, 1 / sum);
}

DR_INLINE void attend(const struct dr_attn_fwd_args *a, const struct head_dims *d,
                      struct buffers *w, int64_t b, int64_t h) {
    const int64_t width = d->h * d->hd, step = 3 * width;
    const dr_bf16 *qkv = (const dr_bf16 *)a->qkv + b * d->t * step + h * d->hd;
    dr_bf16 *out = (dr_bf16 *)a->out + b * d->t * width + h * d->hd;
    const struct prep pq = {a->q_norm, a->rope_cos, a->rope_sin, a->eps, a->scale};
    const struct prep pk = {a->k_norm, a->rope_cos, a->rope_sin, a->eps, 1};
    copy_rows(w->q, qkv + 2 * width, step, d); // v, while there is no q
    pairs_of_rows(w->v, w->q, d->tk, d->hd);
    prepare_rows(w->q, qkv, step, &pq, d, NULL);
    prepare_rows(w->k, qkv + width, step, &pk, d, NULL);
    turn(w->qt, d->tk, w->q, d->hd / 2, d->tk, d->hd / 2);
    for (int64_t q0 = 0; q0 < d->t; q0 += QB) {
        const int64_t nq = DR_MIN(d->t - q0, QB), np = round_up(nq, SIDE);
        bf16_product(d, d->tp, np, d->hd,
                     (struct operands){w->k, w->qt + q0, w->s, d->hd, d->tk, QB}, false);
        for (int64_t c = 0; c < np; c += VL)
            softmax_lanes(w, d, c);
        turn(w->p, d->tk / 2, w->pt, QB, d->tk / 2, np);
        bf16_product(d, np, d->hd, d->tk, (struct operands){w->p, w->v, w->o, d->tk, d->hd, d->hd},
                     false);
        for (int64_t i = 0; i < nq; i++)
            for (int64_t j = 0; j < d->hd; j += VL)
                vst(out, DR_BF16, (q0 + i) * width + j, VL,
                    vload(w->o + i * d->hd + j) * w->inverse[i]);
    }
}

int64_t dr_attn_bf16_size(const struct dr_backend *be, int64_t t, int64_t hd) {
    const struct head_dims d = head_dims_of(be, t, 1, hd);
    return 2 * d.tk * d.hd + d.tk * QB + d.tp * QB + QB * d.hd;
}

void dr_attn_bf16_head(const struct dr_backend *be, const struct dr_attn_fwd_args *a, real *work,
                       int64_t head) {
    const struct head_dims d = head_dims_of(be, a->t, a->h, a->hd);
    struct buffers w;
    buffers_at(&w, work, &d);
    if (d.tiles)
        tiles_begin();
    FOR_WIDTH(&d, shape, attend(a, &shape, &w, head / d.h, head % d.h));
    if (d.tiles)
        _tile_release();
}
