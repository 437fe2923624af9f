// The basic residual block (He et al. 2016), y = relu(norm2(conv2(relu(norm1(conv1 x)))) + s), s
// the input or norm(conv1x1 x). Kept for the backward pass: both convolutions' outputs, the
// shortcut and the output; the input of conv2 with cx->keep_all, else it is computed again for the
// weights' gradient, which frozen networks do not need.
#include "engine/nn/resnet_priv.h"

static void *shortcut(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                      const struct dr_basic *k, const real *fold, int64_t b, void *x,
                      struct dr_basic_saved *s) {
    if (k->down.w < 0)
        return x;
    const int64_t n = k->out * k->out, all = b * n * k->down.co;
    s->hd = dr_alloc_act(ar, cx, all);
    s->s = ar == cx->tmp ? s->hd : dr_alloc_act(ar, cx, all);
    dr_conv_forward(cx, w, &k->down, x, b, k->in, k->in, s->hd);
    dr_cnorm_forward(cx, ar, w, &k->norm_down, fold, b, n, s->hd, NULL, DR_FN_NONE, s->s, &s->nd);
    return s->s;
}

void dr_basic_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                      const struct dr_basic *k, const real *fold, int64_t b, void *x, void *y,
                      struct dr_basic_saved *s) {
    const int64_t n = k->out * k->out, all = b * n * k->conv1.co;
    const size_t mark = dr_mark(cx->tmp);
    s->x = x;
    s->y = y;
    s->h1 = dr_alloc_act(ar, cx, all);
    s->h2 = dr_alloc_act(ar, cx, all);
    void *const r = shortcut(cx, ar, w, k, fold, b, x, s);
    void *const a = dr_alloc_act(cx->keep_all ? ar : cx->tmp, cx, all);
    s->a1 = cx->keep_all ? a : NULL;
    dr_conv_forward(cx, w, &k->conv1, x, b, k->in, k->in, s->h1);
    dr_cnorm_forward(cx, ar, w, &k->norm1, fold, b, n, s->h1, NULL, DR_FN_RELU, a, &s->n1);
    dr_conv_forward(cx, w, &k->conv2, a, b, k->out, k->out, s->h2);
    dr_cnorm_forward(cx, ar, w, &k->norm2, fold, b, n, s->h2, r, DR_FN_RELU, y, &s->n2);
    dr_release(cx->tmp, mark);
}

// The input of conv2: kept, computed again into `room`, or not needed.
static const void *inner(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_basic *k,
                         const real *fold, int64_t b, const struct dr_basic_saved *s, void *room) {
    struct dr_cnorm_saved again;
    if (s->a1 || !w->g)
        return s->a1;
    dr_cnorm_forward(cx, cx->tmp, w, &k->norm1, fold, b, k->out * k->out, s->h1, NULL, DR_FN_RELU,
                     room, &again);
    return room;
}

void dr_basic_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_basic *k,
                       const real *fold, int64_t b, const struct dr_basic_saved *s, void *dy,
                       void *dx) {
    const int64_t n = k->out * k->out, all = b * n * k->conv1.co, from = b * k->in * k->in;
    const size_t mark = dr_mark(cx->tmp);
    const void *const r = s->s ? s->s : s->x;
    void *const dh = dr_alloc_act(cx->tmp, cx, all);
    void *const da = dr_alloc_act(cx->tmp, cx, all);
    // dy becomes the gradient by the shortcut.
    dr_cnorm_backward(cx, w, &k->norm2, fold, b, n, s->h2, r, DR_FN_RELU, &s->n2, dy, dh, dy);
    if (w->g)
        dr_conv_backward(cx, w, &k->conv2, inner(cx, w, k, fold, b, s, da), dh, b, k->out, k->out);
    dr_conv_backward_input(cx, w, &k->conv2, dh, b, k->out, k->out, da);
    dr_cnorm_backward(cx, w, &k->norm1, fold, b, n, s->h1, NULL, DR_FN_RELU, &s->n1, da, da, NULL);
    dr_conv_backward(cx, w, &k->conv1, s->x, da, b, k->in, k->in);
    dr_conv_backward_input(cx, w, &k->conv1, da, b, k->in, k->in, dx);
    const void *ds = dy;
    if (s->s) {
        dr_cnorm_backward(cx, w, &k->norm_down, fold, b, n, s->hd, NULL, DR_FN_NONE, &s->nd, dy, dy,
                          NULL);
        dr_conv_backward(cx, w, &k->down, s->x, dy, b, k->in, k->in);
        void *const d = dr_alloc_act(cx->tmp, cx, from * k->down.ci);
        dr_conv_backward_input(cx, w, &k->down, dy, b, k->in, k->in, d);
        ds = d;
    }
    DR_OP(cx->be, add_act_fwd, .y = dx, .a = dx, .b = ds, .t = cx->act, .n = from * k->conv1.ci,
          .fn = DR_FN_NONE);
    dr_release(cx->tmp, mark);
}
