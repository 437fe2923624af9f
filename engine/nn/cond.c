// The conditioning vector: class, guidance scale, style and latent noise (method.md 6; paper A.2).
//
// driftdit: c = label[class] + alpha MLP(Fourier, period 10) + sum of draws from one codebook.
// lightningdit: every draw has its own table; the alpha MLP (period 10000) is RMS-normalised and
// scaled by 0.02. All of it is fp32: a few rows per batch, and it steers every block.
#include "engine/nn/layers.h"

#include <stdio.h>

static void add_styles(struct dr_params *ps, const struct dr_model_config *m,
                       const struct dr_form *form, struct dr_cond *k) {
    int64_t dim[2] = {m->codebook, m->dim};
    k->style_tokens = m->style_tokens;
    k->style = -1;
    if (!m->style_tokens)
        return;
    if (!form->style_tables) {
        k->style = dr_params_add(ps, DR_PARAM_DECAY, DR_INIT_NORMAL, 0.02, 2, dim,
                                 "style_embed.codebook.weight");
        return;
    }
    k->table_rows = m->codebook;
    for (int i = 0; i < (int)m->style_tokens; i++) {
        int p = dr_params_add(ps, DR_PARAM_DECAY | (i ? DR_PARAM_JOIN : 0), DR_INIT_NORMAL, 0.02, 2,
                              dim, "style_embed.%d.weight", i);
        if (!i)
            k->style = p;
    }
}

void dr_cond_add(struct dr_params *ps, const struct dr_model_config *m, const struct dr_form *form,
                 bool latent, struct dr_cond *out) {
    struct dr_cond *k = out;
    *k = (struct dr_cond){.d = m->dim, .alpha_norm = -1, .latent.w = -1};
    k->max_period = (real)form->alpha_period;
    k->gain = (real)0.02;
    k->label = dr_params_add(ps, DR_PARAM_DECAY, DR_INIT_NORMAL, 0.02, 2,
                             (int64_t[]){m->classes + m->null_class, m->dim}, "%s", form->label);
    k->alpha0 = dr_linear_add(ps, DR_FOURIER_DIM, m->dim, form->alpha_init, 0.02, true,
                              "alpha_embed.mlp.0");
    k->alpha2 =
        dr_linear_add(ps, m->dim, m->dim, form->alpha_init, 0.02, true, "alpha_embed.mlp.2");
    if (form->alpha_norm)
        k->alpha_norm = dr_params_add(ps, 0, DR_INIT_ONE, 0, 1, &m->dim, "alpha_embed.norm.weight");
    add_styles(ps, m, form, k);
    if (latent)
        k->latent =
            dr_linear_add(ps, m->latent_dim, m->dim, DR_INIT_XAVIER, 0, true, "latent_cond");
}

void dr_cond_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                     const struct dr_cond *k, const struct dr_net_in *in, real *c,
                     struct dr_cond_saved *s) {
    int64_t b = in->b, n = b * k->d;
    *s = (struct dr_cond_saved){.fourier = dr_alloc_real(ar, b * DR_FOURIER_DIM),
                                .a0 = dr_alloc_real(ar, n),
                                .s0 = dr_alloc_real(ar, n)};
    DR_OP(cx->be, fourier, .out = s->fourier, .val = in->alpha, .b = b, .n = DR_FOURIER_DIM,
          .max_period = k->max_period);
    dr_linear_forward(cx, w, &k->alpha0, s->fourier, DR_F32, b, s->a0, DR_F32, 0);
    DR_OP(cx->be, silu_fwd, .y = s->s0, .x = s->a0, .n = n);
    if (k->alpha_norm >= 0) {
        s->a2 = dr_alloc_real(ar, n);
        s->rstd = dr_alloc_real(ar, b);
    }
    dr_linear_forward(cx, w, &k->alpha2, s->s0, DR_F32, b, s->a2 ? s->a2 : c, DR_F32, 0);
    if (s->a2)
        DR_OP(cx->be, rmsnorm_mod_fwd, .y = c, .yt = DR_F32, .rstd = s->rstd, .x = s->a2,
              .weight = dr_weight(w, k->alpha_norm), .b = b, .t = 1, .d = k->d, .eps = DR_RMS_EPS,
              .gain = k->gain);
    DR_OP(cx->be, embed_fwd, .out = c, .table = dr_weight(w, k->label), .idx = in->cls, .b = b,
          .nk = 1, .d = k->d, .acc = true);
    if (k->style >= 0)
        DR_OP(cx->be, embed_fwd, .out = c, .table = dr_weight(w, k->style), .idx = in->style,
              .b = b, .nk = k->style_tokens, .d = k->d, .table_rows = k->table_rows, .acc = true);
    if (k->latent.w < 0)
        return;
    size_t mark = dr_mark(cx->tmp); // bias and accumulation exclude each other in a GEMM
    real *z = dr_alloc_real(cx->tmp, n);
    dr_linear_forward(cx, w, &k->latent, in->x, DR_F32, b, z, DR_F32, 0);
    DR_OP(cx->be, axpy, .y = c, .x = z, .n = n, .alpha = 1);
    dr_release(cx->tmp, mark);
}

void dr_cond_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_cond *k,
                      const struct dr_net_in *in, const struct dr_cond_saved *s, const real *dc,
                      real *dnoise, bool acc) {
    int64_t b = in->b, n = b * k->d;
    if (dnoise && k->latent.w >= 0)
        dr_linear_backward_input(cx, w, &k->latent, dc, DR_F32, b, dnoise, DR_F32, acc);
    if (!w->g) // beside the noise, only parameters depend on c
        return;
    size_t mark = dr_mark(cx->tmp);
    const real *da = dc;
    if (s->a2) {
        real *dn = dr_alloc_real(cx->tmp, n);
        DR_OP(cx->be, rmsnorm_mod_bwd, .dx = dn, .dweight = dr_grad(w, k->alpha_norm), .dy = dc,
              .dyt = DR_F32, .x = s->a2, .rstd = s->rstd, .weight = dr_weight(w, k->alpha_norm),
              .b = b, .t = 1, .d = k->d, .gain = k->gain);
        da = dn;
    }
    real *ds = dr_alloc_real(cx->tmp, n);
    dr_linear_backward(cx, w, &k->alpha2, s->s0, da, DR_F32, b, 0);
    dr_linear_backward_input(cx, w, &k->alpha2, da, DR_F32, b, ds, DR_F32, false);
    DR_OP(cx->be, silu_bwd, .dx = ds, .x = s->a0, .dy = ds, .n = n);
    dr_linear_backward(cx, w, &k->alpha0, s->fourier, ds, DR_F32, b, 0);
    DR_OP(cx->be, embed_bwd, .dtable = dr_grad(w, k->label), .dout = dc, .idx = in->cls, .b = b,
          .nk = 1, .d = k->d);
    if (k->style >= 0)
        DR_OP(cx->be, embed_bwd, .dtable = dr_grad(w, k->style), .dout = dc, .idx = in->style,
              .b = b, .nk = k->style_tokens, .d = k->d, .table_rows = k->table_rows);
    if (k->latent.w >= 0)
        dr_linear_backward(cx, w, &k->latent, in->x, dc, DR_F32, b, 0);
    dr_release(cx->tmp, mark);
}
