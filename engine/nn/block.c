// The adaLN-Zero transformer block (method.md 6), forward and backward.
//
//   x2  = x  + gate1 proj(attention(qkv(n1))),  n1 = norm1(x)  (1 + scale1) + shift1
//   out = x2 + gate2 mlp(n2),                   n2 = norm2(x2) (1 + scale2) + shift2
//
// Kept for the backward pass: x, x2, qkv, attention output, both branch outputs (for the gates'
// gradients) and the MLP's hidden pre-activation. The normed inputs and the MLP's activation are
// kept with cx->keep_all, else computed again.
#include "engine/nn/layers.h"

#include <math.h>
#include <stdio.h>

// The six vectors inside a sample's modulation row, in units of d.
enum { SHIFT1, SCALE1, GATE1, SHIFT2, SCALE2, GATE2 };

static int add_norm(struct dr_params *ps, int64_t d, int index, const char *name) {
    return dr_params_add(ps, 0, DR_INIT_ONE, 0, 1, &d, "blocks.%d.%s.weight", index, name);
}

static struct dr_linear add_linear(struct dr_params *ps, int64_t tokens, int64_t in, int64_t out,
                                   bool bias, int index, const char *name) {
    char full[80];
    snprintf(full, sizeof full, "blocks.%d.%s", index, name);
    struct dr_linear l = dr_linear_add(ps, in, out, DR_INIT_XAVIER, 0, bias, full);
    l.rows = tokens;
    return l;
}

// w1 and w3 lie one after the other, so that one GEMM gives rows [h1 ; h3].
static struct dr_linear add_joined(struct dr_params *ps, int64_t tokens, int64_t d, int64_t hidden,
                                   bool bias, int index) {
    static const char *const name[2] = {"w1", "w3"};
    struct dr_linear l = {.w = -1, .b = -1, .in = d, .out = 2 * hidden, .rows = tokens};
    for (int j = 0; j < 2; j++) {
        int p = dr_params_add(ps, DR_PARAM_DECAY | (j ? DR_PARAM_JOIN : 0), DR_INIT_XAVIER, 0, 2,
                              (int64_t[]){hidden, d}, "blocks.%d.mlp.%s.weight", index, name[j]);
        l.w = j ? l.w : p;
    }
    for (int j = 0; bias && j < 2; j++) {
        int p = dr_params_add(ps, j ? DR_PARAM_JOIN : 0, DR_INIT_ZERO, 0, 1, &hidden,
                              "blocks.%d.mlp.%s.bias", index, name[j]);
        l.b = j ? l.b : p;
    }
    return l;
}

void dr_block_add(struct dr_params *ps, const struct dr_model_config *m, const struct dr_form *form,
                  int64_t hidden, int index, struct dr_block *out) {
    int64_t d = m->dim, hd = m->dim / m->heads, side = m->size / m->patch;
    int64_t tokens = side * side + m->registers;
    struct dr_block *k = out;
    *k = (struct dr_block){.q_norm = -1, .k_norm = -1};
    k->norm1 = add_norm(ps, d, index, "norm1");
    k->qkv = add_linear(ps, tokens, d, 3 * d, form->biases, index, "attn.qkv");
    if (m->qk_norm) {
        k->q_norm = add_norm(ps, hd, index, "attn.q_norm");
        k->k_norm = add_norm(ps, hd, index, "attn.k_norm");
    }
    k->proj = add_linear(ps, tokens, d, d, true, index, "attn.proj");
    k->norm2 = add_norm(ps, d, index, "norm2");
    if (m->mlp == DR_MLP_GELU) {
        k->up = add_linear(ps, tokens, d, hidden, true, index, "mlp.fc1");
        k->down = add_linear(ps, tokens, hidden, d, true, index, "mlp.fc2");
    } else {
        k->up = add_joined(ps, tokens, d, hidden, form->biases, index);
        k->down = add_linear(ps, tokens, hidden, d, form->biases, index, "mlp.w2");
    }
}

static void norm(struct dr_ctx *cx, const struct dr_weights *w, int weight,
                 const struct dr_block_shape *sh, const real *x, const real *shift,
                 const real *scale, void *y, real *rstd) {
    DR_OP(cx->be, rmsnorm_mod_fwd, .y = y, .yt = cx->act, .rstd = rstd, .x = x,
          .weight = dr_weight(w, weight), .shift = shift, .scale = scale,
          .mod_stride = sh->mod_stride, .b = sh->b, .t = sh->t, .d = sh->d, .eps = DR_RMS_EPS);
}

// Where the output of a block's norm goes: kept with its factors, or a temporary without.
static void *normed_input(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_block_shape *sh,
                          void **n, real **rstd) {
    int64_t rows = sh->b * sh->t;
    if (!cx->keep_all)
        return dr_alloc_act(cx->tmp, cx, rows * sh->d);
    *rstd = dr_alloc_real(ar, rows);
    return *n = dr_alloc_act(ar, cx, rows * sh->d);
}

static void attention_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                              const struct dr_block *k, const struct dr_block_shape *sh,
                              const real *mods, const real *x, struct dr_block_saved *s) {
    int64_t rows = sh->b * sh->t, d = sh->d, hd = d / sh->heads;
    s->qkv = dr_alloc_act(ar, cx, rows * 3 * d);
    s->att = dr_alloc_act(ar, cx, rows * d);
    s->y1 = dr_alloc_act(ar, cx, rows * d);
    size_t mark = dr_mark(cx->tmp);
    void *n1 = normed_input(cx, ar, sh, &s->n1, &s->rstd1);
    norm(cx, w, k->norm1, sh, x, mods + SHIFT1 * d, mods + SCALE1 * d, n1, s->rstd1);
    dr_linear_forward(cx, w, &k->qkv, n1, cx->act, rows, s->qkv, cx->act, 0);
    dr_release(cx->tmp, mark);
    DR_OP(cx->be, attn_fwd, .out = s->att, .qkv = s->qkv, .act = cx->act,
          .q_norm = dr_weight(w, k->q_norm), .k_norm = dr_weight(w, k->k_norm),
          .rope_cos = sh->rope_cos, .rope_sin = sh->rope_sin, .b = sh->b, .t = sh->t,
          .h = sh->heads, .hd = hd, .scale = (real)(1 / sqrt((double)hd)), .eps = DR_RMS_EPS);
    dr_linear_forward(cx, w, &k->proj, s->att, cx->act, rows, s->y1, cx->act, 0);
}

static void mlp_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                        const struct dr_block *k, const struct dr_block_shape *sh, const real *mods,
                        const real *x2, struct dr_block_saved *s) {
    int64_t rows = sh->b * sh->t, d = sh->d;
    s->h = dr_alloc_act(ar, cx, rows * k->up.out);
    s->y2 = dr_alloc_act(ar, cx, rows * d);
    size_t mark = dr_mark(cx->tmp);
    void *n2 = normed_input(cx, ar, sh, &s->n2, &s->rstd2);
    norm(cx, w, k->norm2, sh, x2, mods + SHIFT2 * d, mods + SCALE2 * d, n2, s->rstd2);
    dr_linear_forward(cx, w, &k->up, n2, cx->act, rows, s->h, cx->act, 0);
    dr_release(cx->tmp, mark);
    void *p = dr_alloc_act(cx->keep_all ? ar : cx->tmp, cx, rows * sh->hidden);
    if (cx->keep_all)
        s->p = p;
    if (sh->gelu)
        DR_OP(cx->be, gelu_fwd, .y = p, .x = s->h, .t = cx->act, .n = rows * sh->hidden);
    else
        DR_OP(cx->be, swiglu_fwd, .y = p, .h = s->h, .act = cx->act, .m = rows, .n = sh->hidden);
    dr_linear_forward(cx, w, &k->down, p, cx->act, rows, s->y2, cx->act, 0);
    dr_release(cx->tmp, mark);
}

void dr_block_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                      const struct dr_block *k, const struct dr_block_shape *sh, const real *mods,
                      real *x, real *out, struct dr_block_saved *s) {
    int64_t d = sh->d;
    *s = (struct dr_block_saved){.x = x};
    s->x2 = out == x ? x : dr_alloc_real(ar, sh->b * sh->t * d);
    attention_forward(cx, ar, w, k, sh, mods, x, s);
    DR_OP(cx->be, gate_fwd, .out = s->x2, .x = x, .gate = mods + GATE1 * d, .y = s->y1,
          .act = cx->act, .mod_stride = sh->mod_stride, .b = sh->b, .t = sh->t, .d = d);
    mlp_forward(cx, ar, w, k, sh, mods, s->x2, s);
    DR_OP(cx->be, gate_fwd, .out = out, .x = s->x2, .gate = mods + GATE2 * d, .y = s->y2,
          .act = cx->act, .mod_stride = sh->mod_stride, .b = sh->b, .t = sh->t, .d = d);
}

// dy = dx gate, dgate = sum_t dx y of one branch.
static void gate_backward(struct dr_ctx *cx, const struct dr_block_shape *sh, const real *dx,
                          const real *gate, const void *y, void *dy, real *dgate) {
    DR_OP(cx->be, gate_bwd, .dy = dy, .dgate = dgate, .dmod_stride = sh->mod_stride, .dout = dx,
          .gate = gate, .y = y, .act = cx->act, .mod_stride = sh->mod_stride, .b = sh->b,
          .t = sh->t, .d = sh->d);
}

// Through one modulated norm and the linear layer it feeds: dlin is the gradient by the linear's
// output, dx accumulates the gradient by the norm's input. n, rstd: what the norm gave, or NULL.
static void normed_linear_backward(struct dr_ctx *cx, const struct dr_weights *w, int weight,
                                   const struct dr_linear *l, const struct dr_block_shape *sh,
                                   const real *mods, const real *x, void *n, real *rstd,
                                   const void *dlin, real *dx, real *dmods) {
    int64_t rows = sh->b * sh->t, d = sh->d;
    size_t mark = dr_mark(cx->tmp);
    if (!n) {
        n = dr_alloc_act(cx->tmp, cx, rows * d);
        rstd = dr_alloc_real(cx->tmp, rows);
        norm(cx, w, weight, sh, x, mods, mods + d, n, rstd);
    }
    dr_linear_backward(cx, w, l, n, dlin, cx->act, rows, 0);
    void *dn = n; // the normed input has done its work
    dr_linear_backward_input(cx, w, l, dlin, cx->act, rows, dn, cx->act, false);
    DR_OP(cx->be, rmsnorm_mod_bwd, .dx = dx, .acc_dx = true, .dweight = dr_grad(w, weight),
          .dshift = dmods, .dscale = dmods + d, .dmod_stride = sh->mod_stride, .dy = dn,
          .dyt = cx->act, .x = x, .rstd = rstd, .weight = dr_weight(w, weight), .scale = mods + d,
          .mod_stride = sh->mod_stride, .b = sh->b, .t = sh->t, .d = d);
    dr_release(cx->tmp, mark);
}

// Returns the gradient by the hidden pre-activation, in s->h or in cx->tmp (not given back).
static void *mlp_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_block *k,
                          const struct dr_block_shape *sh, const void *dy,
                          const struct dr_block_saved *s) {
    int64_t rows = sh->b * sh->t, n = rows * sh->hidden;
    void *dp = dr_alloc_act(cx->tmp, cx, n), *dh = sh->gelu ? dp : s->h;
    size_t mark = dr_mark(cx->tmp);
    void *again = s->p ? NULL : dr_alloc_act(cx->tmp, cx, n), *p = s->p ? s->p : again;
    dr_linear_backward_input(cx, w, &k->down, dy, cx->act, rows, dp, cx->act, false);
    if (sh->gelu)
        DR_OP(cx->be, gelu_bwd, .dx = dh, .y = again, .x = s->h, .dy = dp, .t = cx->act, .n = n);
    else
        DR_OP(cx->be, swiglu_bwd, .dh = dh, .y = again, .h = s->h, .dy = dp, .act = cx->act,
              .m = rows, .n = sh->hidden);
    dr_linear_backward(cx, w, &k->down, p, dy, cx->act, rows, 0);
    dr_release(cx->tmp, mark);
    return dh;
}

void dr_block_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_block *k,
                       const struct dr_block_shape *sh, const real *mods,
                       const struct dr_block_saved *s, real *dx, real *dmods) {
    int64_t rows = sh->b * sh->t, d = sh->d, hd = d / sh->heads;
    size_t mark = dr_mark(cx->tmp);
    void *dy = dr_alloc_act(cx->tmp, cx, rows * d);
    gate_backward(cx, sh, dx, mods + GATE2 * d, s->y2, dy, dmods + GATE2 * d);
    size_t branch = dr_mark(cx->tmp);
    const void *dh = mlp_backward(cx, w, k, sh, dy, s);
    normed_linear_backward(cx, w, k->norm2, &k->up, sh, mods + SHIFT2 * d, s->x2, s->n2, s->rstd2,
                           dh, dx, dmods + SHIFT2 * d);
    dr_release(cx->tmp, branch);

    gate_backward(cx, sh, dx, mods + GATE1 * d, s->y1, dy, dmods + GATE1 * d);
    void *datt = dr_alloc_act(cx->tmp, cx, rows * d);
    dr_linear_backward(cx, w, &k->proj, s->att, dy, cx->act, rows, 0);
    dr_linear_backward_input(cx, w, &k->proj, dy, cx->act, rows, datt, cx->act, false);
    DR_OP(cx->be, attn_bwd, .dqkv = s->qkv, .dq_norm = dr_grad(w, k->q_norm),
          .dk_norm = dr_grad(w, k->k_norm), .dout = datt, .qkv = s->qkv, .act = cx->act,
          .q_norm = dr_weight(w, k->q_norm), .k_norm = dr_weight(w, k->k_norm),
          .rope_cos = sh->rope_cos, .rope_sin = sh->rope_sin, .b = sh->b, .t = sh->t,
          .h = sh->heads, .hd = hd, .scale = (real)(1 / sqrt((double)hd)), .eps = DR_RMS_EPS);
    normed_linear_backward(cx, w, k->norm1, &k->qkv, sh, mods + SHIFT1 * d, s->x, s->n1, s->rstd1,
                           s->qkv, dx, dmods + SHIFT1 * d);
    dr_release(cx->tmp, mark);
}
