// A stage of the U-Net decoder of the masked autoencoder (paper A.3): bilinear resize to the side
// of the skip (twice the side, where that is even), concatenation, GroupNorm, two
// conv-GroupNorm-ReLU.
#include "engine/nn/resnet_priv.h"

#include <stdio.h>

void dr_up_add(struct dr_params *ps, struct dr_up *k, int64_t groups, int stage) {
    const struct dr_conv first = {
        .ci = k->c + k->skip, .co = k->skip, .k = 3, .stride = 1, .pad = 1};
    const struct dr_conv second = {.ci = k->skip, .co = k->skip, .k = 3, .stride = 1, .pad = 1};
    char name[64];
#define NAME(part) (snprintf(name, sizeof name, "decoder.stage%d.%s", stage, part), name)
    k->norm = dr_cnorm_add(ps, k->c + k->skip, groups, NAME("norm"));
    k->conv1 = dr_conv_add_plain(ps, first, NAME("conv1"));
    k->norm1 = dr_cnorm_add(ps, k->skip, groups, NAME("norm1"));
    k->conv2 = dr_conv_add_plain(ps, second, NAME("conv2"));
    k->norm2 = dr_cnorm_add(ps, k->skip, groups, NAME("norm2"));
#undef NAME
}

void dr_up_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                   const struct dr_up *k, int64_t b, const void *x, const void *skip, void *y,
                   struct dr_up_saved *s) {
    const int64_t n = k->to * k->to, rows = b * n, both = k->c + k->skip;
    const size_t mark = dr_mark(cx->tmp);
    s->y = y;
    s->cat = dr_alloc_act(ar, cx, rows * both);
    s->h1 = dr_alloc_act(ar, cx, rows * k->skip);
    s->h2 = dr_alloc_act(ar, cx, rows * k->skip);
    void *const t = dr_alloc_act(cx->tmp, cx, rows * both);
    DR_OP(cx->be, resize_fwd, .y = t, .x = x, .t = cx->act, .b = b, .h = k->from, .w = k->from,
          .c = k->c, .ho = k->to, .wo = k->to);
    dr_concat(cx, rows, t, k->c, skip, k->skip, s->cat);
    dr_cnorm_forward(cx, ar, w, &k->norm, NULL, b, n, s->cat, NULL, DR_FN_NONE, t, &s->n);
    dr_conv_forward(cx, w, &k->conv1, t, b, k->to, k->to, s->h1);
    dr_cnorm_forward(cx, ar, w, &k->norm1, NULL, b, n, s->h1, NULL, DR_FN_RELU, t, &s->n1);
    dr_conv_forward(cx, w, &k->conv2, t, b, k->to, k->to, s->h2);
    dr_cnorm_forward(cx, ar, w, &k->norm2, NULL, b, n, s->h2, NULL, DR_FN_RELU, y, &s->n2);
    dr_release(cx->tmp, mark);
}

// Through conv(act(norm(x))): dh by the conv's output on entry, dx by x on return. room: as large
// as x; x again is computed there for the weights' gradient.
static void conv_of_norm_backward(struct dr_ctx *cx, const struct dr_weights *w,
                                  const struct dr_conv *conv, const struct dr_cnorm *norm,
                                  enum dr_fn fn, int64_t b, int64_t side, const void *x,
                                  const struct dr_cnorm_saved *s, const void *dh, void *room,
                                  void *dx) {
    if (w->g) {
        struct dr_cnorm_saved again;
        dr_cnorm_forward(cx, cx->tmp, w, norm, NULL, b, side * side, x, NULL, fn, room, &again);
        dr_conv_backward(cx, w, conv, room, dh, b, side, side);
    }
    dr_conv_backward_input(cx, w, conv, dh, b, side, side, room);
    dr_cnorm_backward(cx, w, norm, NULL, b, side * side, x, NULL, fn, s, room, dx, NULL);
}

void dr_up_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_up *k, int64_t b,
                    const struct dr_up_saved *s, const void *dy, void *dx, void *dskip) {
    const int64_t n = k->to * k->to, rows = b * n, both = k->c + k->skip;
    const size_t mark = dr_mark(cx->tmp);
    void *const dh = dr_alloc_act(cx->tmp, cx, rows * k->skip);
    void *const t = dr_alloc_act(cx->tmp, cx, rows * both);
    void *const dcat = dr_alloc_act(cx->tmp, cx, rows * both);
    dr_cnorm_backward(cx, w, &k->norm2, NULL, b, n, s->h2, NULL, DR_FN_RELU, &s->n2, dy, dh, NULL);
    conv_of_norm_backward(cx, w, &k->conv2, &k->norm1, DR_FN_RELU, b, k->to, s->h1, &s->n1, dh, t,
                          dh);
    conv_of_norm_backward(cx, w, &k->conv1, &k->norm, DR_FN_NONE, b, k->to, s->cat, &s->n, dh, t,
                          dcat);
    dr_split(cx, rows, dcat, t, k->c, dskip, k->skip);
    DR_OP(cx->be, resize_bwd, .dx = dx, .dy = t, .t = cx->act, .b = b, .h = k->from, .w = k->from,
          .c = k->c, .ho = k->to, .wo = k->to);
    dr_release(cx->tmp, mark);
}
