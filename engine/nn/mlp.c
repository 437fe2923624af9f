// The small generator of the two-dimensional toys (`arch: mlp`, paper Fig. 3-4), always fp32:
//
//   h_1 = in(z) + label[class] + alpha embedding (+ styles),  h_{i+1} = hidden_i(silu(h_i)),
//   point = out(silu(h_depth)),   z a Gaussian vector of latent_dim.
//
// The first line is the conditioning vector of the transformers with latent noise (cond.c).
#include "engine/nn/layers.h"

#include <stdio.h>
#include <stdlib.h>

int dr_mlp_build(struct dr_gen *g, struct dr_err *err) {
    const struct dr_model_config *m = &g->cfg;
    struct dr_mlp *k = &g->mlp;
    if (m->depth < 1)
        return dr_fail(err, DR_ECONFIG, "model.depth must be at least 1 for model.arch mlp");
    k->hidden = calloc((size_t)m->depth, sizeof *k->hidden);
    if (!k->hidden)
        return dr_fail(err, DR_ENOMEM, "out of memory for %lld layers", (long long)m->depth);
    dr_cond_add(&g->params, m, true, &k->cond);
    for (int i = 0; i + 1 < (int)m->depth; i++) {
        char name[32];
        snprintf(name, sizeof name, "hidden.%d", i);
        k->hidden[i] = dr_linear_add(&g->params, m->dim, m->dim, DR_INIT_XAVIER, 0, true, name);
    }
    int64_t two = 2;
    k->out = dr_linear_add(&g->params, m->dim, two, m->out_std > 0 ? DR_INIT_NORMAL : DR_INIT_ZERO,
                           m->out_std, false, "out");
    k->out.b = dr_params_add(&g->params, 0, DR_INIT_CONST, m->out_bias, 1, &two, "out.bias");
    return 0;
}

void dr_mlp_forward(struct dr_ctx *cx, const struct dr_gen *g, const struct dr_weights *w,
                    const struct dr_gen_in *in, real *x, struct dr_gen_saved *saved) {
    const struct dr_mlp *k = &g->mlp;
    struct dr_gen_saved local = {0}, *s = saved ? saved : &local;
    struct dr_arena *ar = saved ? cx->keep : cx->tmp;
    int64_t n = in->b * g->cfg.dim;
    size_t mark = dr_mark(cx->tmp);
    real *h = dr_alloc_real(ar, n);
    dr_cond_forward(cx, ar, w, &k->cond, in, h, &s->cond);
    real *a = dr_alloc_real(cx->tmp, n);
    for (int64_t i = 0; i < g->cfg.depth; i++) {
        DR_OP(cx->be, silu_fwd, .y = a, .x = h, .n = n);
        if (saved)
            s->hidden[i] = h;
        if (i + 1 == g->cfg.depth)
            break;
        h = saved ? dr_alloc_real(ar, n) : h;
        dr_linear_forward(cx, w, &k->hidden[i], a, DR_F32, in->b, h, DR_F32, 0);
    }
    dr_linear_forward(cx, w, &k->out, a, DR_F32, in->b, x, DR_F32, 0);
    dr_release(cx->tmp, mark);
}

void dr_mlp_backward(struct dr_ctx *cx, const struct dr_gen *g, const struct dr_weights *w,
                     const struct dr_gen_in *in, const struct dr_gen_saved *s, const real *dx) {
    const struct dr_mlp *k = &g->mlp;
    int64_t n = in->b * g->cfg.dim;
    size_t mark = dr_mark(cx->tmp);
    real *a = dr_alloc_real(cx->tmp, n);
    real *dh[2] = {dr_alloc_real(cx->tmp, n), dr_alloc_real(cx->tmp, n)};
    const real *dy = dx;
    for (int64_t i = g->cfg.depth - 1; i >= 0; i--) {
        const struct dr_linear *l = i + 1 == g->cfg.depth ? &k->out : &k->hidden[i];
        real *d = dh[i & 1];
        DR_OP(cx->be, silu_fwd, .y = a, .x = s->hidden[i], .n = n);
        dr_linear_backward(cx, w, l, a, dy, DR_F32, in->b, 0);
        dr_linear_backward_input(cx, w, l, dy, DR_F32, in->b, d, DR_F32, false);
        DR_OP(cx->be, silu_bwd, .dx = d, .x = s->hidden[i], .dy = d, .n = n);
        dy = d;
    }
    dr_cond_backward(cx, w, &k->cond, in, &s->cond, dy);
    dr_release(cx->tmp, mark);
}
