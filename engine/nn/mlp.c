// The small generator of the two-dimensional toys (`arch: mlp`, paper Fig. 3-4), always fp32:
//
//   h_1 = in(z) + label[class] + alpha embedding (+ styles),  h_{i+1} = hidden_i(silu(h_i)),
//   point = out(silu(h_depth)),   z a Gaussian vector of latent_dim.
//
// The first line is the conditioning vector of the transformers with latent noise (cond.c).
// Parameters: label_embed.embedding_table.weight, alpha_embed.mlp.*, latent_cond.* (noise in),
// hidden.K.*, out.*.
#include "engine/nn/layers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct dr_mlp {
    struct dr_gen gen;
    struct dr_cond cond;
    struct dr_linear *hidden; // [depth - 1]
    struct dr_linear out;
};
struct saved {
    struct dr_cond_saved cond;
    real *hidden[]; // before SiLU, [depth] of [b,d]
};

static const struct dr_form form = {.alpha_init = DR_INIT_XAVIER,
                                    .alpha_period = 10,
                                    .label = "label_embed.embedding_table.weight"};

static int build(struct dr_net *net, struct dr_err *err) {
    struct dr_mlp *k = (struct dr_mlp *)net;
    const struct dr_model_config *m = &k->gen.cfg;
    struct dr_params *ps = &net->params;
    if (m->depth < 1)
        return dr_fail_at(err, DR_ECONFIG, "model.depth",
                          "model.depth must be at least 1 for model.arch mlp");
    k->hidden = calloc((size_t)m->depth, sizeof *k->hidden);
    if (!k->hidden)
        return dr_fail(err, DR_ENOMEM, "out of memory for %lld layers", (long long)m->depth);
    dr_cond_add(ps, m, &form, true, &k->cond);
    for (int i = 0; i + 1 < (int)m->depth; i++) {
        char name[32];
        snprintf(name, sizeof name, "hidden.%d", i);
        k->hidden[i] = dr_linear_add(ps, m->dim, m->dim, DR_INIT_XAVIER, 0, true, name);
    }
    int64_t two = 2;
    k->out = dr_linear_add(ps, m->dim, two, m->out_std > 0 ? DR_INIT_NORMAL : DR_INIT_ZERO,
                           m->out_std, false, "out");
    k->out.b = dr_params_add(ps, 0, DR_INIT_CONST, m->out_bias, 1, &two, "out.bias");
    net->outputs = 1;
    net->output[0] = (struct dr_net_shape){two, 1, 1};
    strcpy(net->output_name[0], "image");
    net->input = dr_gen_noise_of(m);
    net->saved_bytes = sizeof(struct saved) + (size_t)m->depth * sizeof(real *);
    return 0;
}

static void clear(struct dr_net *net) {
    free(((struct dr_mlp *)net)->hidden);
}

static void forward(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                    const struct dr_net_in *in, real *const y[], void *saved) {
    const struct dr_mlp *k = (const struct dr_mlp *)net;
    struct saved local = {0}, *s = saved ? saved : &local;
    struct dr_arena *ar = saved ? cx->keep : cx->tmp;
    int64_t depth = k->gen.cfg.depth, n = in->b * k->gen.cfg.dim;
    size_t mark = dr_mark(cx->tmp);
    real *h = dr_alloc_real(ar, n);
    dr_cond_forward(cx, ar, w, &k->cond, in, h, &s->cond);
    real *a = dr_alloc_real(cx->tmp, n);
    for (int64_t i = 0; i < depth; i++) {
        DR_OP(cx->be, silu_fwd, .y = a, .x = h, .n = n);
        if (saved)
            s->hidden[i] = h;
        if (i + 1 == depth)
            break;
        h = saved ? dr_alloc_real(ar, n) : h;
        dr_linear_forward(cx, w, &k->hidden[i], a, DR_F32, in->b, h, DR_F32, 0);
    }
    dr_linear_forward(cx, w, &k->out, a, DR_F32, in->b, y[0], DR_F32, 0);
    dr_release(cx->tmp, mark);
}

static void backward(struct dr_ctx *cx, const struct dr_net *net, const struct dr_weights *w,
                     const struct dr_net_in *in, void *saved, const real *const dpoint[],
                     real *dnoise) {
    const struct dr_mlp *k = (const struct dr_mlp *)net;
    const struct saved *s = saved;
    int64_t depth = k->gen.cfg.depth, n = in->b * k->gen.cfg.dim;
    size_t mark = dr_mark(cx->tmp);
    real *a = dr_alloc_real(cx->tmp, n);
    real *dh[2] = {dr_alloc_real(cx->tmp, n), dr_alloc_real(cx->tmp, n)};
    const real *dy = dpoint[0];
    for (int64_t i = depth - 1; i >= 0; i--) {
        const struct dr_linear *l = i + 1 == depth ? &k->out : &k->hidden[i];
        real *d = dh[i & 1];
        DR_OP(cx->be, silu_fwd, .y = a, .x = s->hidden[i], .n = n);
        dr_linear_backward(cx, w, l, a, dy, DR_F32, in->b, 0);
        dr_linear_backward_input(cx, w, l, dy, DR_F32, in->b, d, DR_F32, false);
        DR_OP(cx->be, silu_bwd, .dx = d, .x = s->hidden[i], .dy = d, .n = n);
        dy = d;
    }
    dr_cond_backward(cx, w, &k->cond, in, &s->cond, dy, dnoise, false);
    dr_release(cx->tmp, mark);
}

const struct dr_net_type dr_net_mlp = {.name = "mlp",
                                       .kind = DR_NET_GENERATOR,
                                       .anchor = "alpha_embed.mlp.0.weight",
                                       .size = sizeof(struct dr_mlp),
                                       .parse = dr_gen_parse,
                                       .build = build,
                                       .clear = clear,
                                       .describe = dr_gen_describe,
                                       .forward = forward,
                                       .backward = backward};
