// See residual.h.
#include "engine/nn/residual.h"

#include <math.h>
#include <stdio.h>

static const int64_t dilation[DR_RESIDUAL_BLOCKS] = {1, 2, 4, 1};

// PyTorch's default for Conv2d.
static struct dr_conv add(struct dr_params *ps, int64_t ci, int64_t co, int64_t dil,
                          const char *name) {
    const struct dr_conv shape = {.ci = ci, .co = co, .k = 3, .stride = 1, .pad = dil, .dil = dil};
    return dr_conv_add(ps, shape, DR_INIT_UNIFORM, 1 / sqrt((double)(9 * ci)), name);
}

void dr_residual_add(struct dr_params *ps, int64_t channels, int64_t side, int64_t width,
                     struct dr_residual *out) {
    const struct dr_conv back = {.ci = width, .co = channels, .k = 3, .stride = 1, .pad = 1};
    *out = (struct dr_residual){.channels = channels, .side = side, .width = width};
    out->in = add(ps, channels, width, 1, "residual.in");
    for (int k = 0; k < DR_RESIDUAL_BLOCKS; k++)
        for (int i = 0; i < 2; i++) {
            char name[40];
            snprintf(name, sizeof name, "residual.block%d.conv%d", k + 1, i + 1);
            out->conv[k][i] = add(ps, width, width, dilation[k], name);
        }
    out->out = dr_conv_add(ps, back, DR_INIT_ZERO, 0, "residual.out");
}

static void silu(struct dr_ctx *cx, void *y, const void *x, int64_t n) {
    DR_OP(cx->be, silu_fwd, .y = y, .x = x, .yt = cx->act, .xt = cx->act, .n = n);
}
static void sum(struct dr_ctx *cx, void *y, const void *a, const void *b, int64_t n) {
    DR_OP(cx->be, add_act_fwd, .y = y, .a = a, .b = b, .t = cx->act, .n = n, .fn = DR_FN_NONE);
}

void dr_residual_forward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_residual *k,
                         int64_t b, const real *x, real *y, struct dr_residual_saved *s) {
    const int64_t side = k->side, px = b * side * side, n = px * k->width;
    const size_t mark = dr_mark(cx->tmp);
    void *image = dr_alloc_act(s ? cx->keep : cx->tmp, cx, px * k->channels);
    void *h = dr_alloc_act(s ? cx->keep : cx->tmp, cx, n), *a = dr_alloc_act(cx->tmp, cx, n);
    void *c = s ? NULL : dr_alloc_act(cx->tmp, cx, n);
    dr_to_nhwc(cx, b, k->channels, side, x, image, cx->act);
    dr_conv_forward(cx, w, &k->in, image, b, side, side, h);
    if (s)
        s->x = image, s->h[0] = h;
    for (int i = 0; i < DR_RESIDUAL_BLOCKS; i++) {
        void *c1 = s ? dr_alloc_act(cx->keep, cx, n) : c;
        void *c2 = s ? dr_alloc_act(cx->keep, cx, n) : c;
        void *next = s ? dr_alloc_act(cx->keep, cx, n) : h;
        dr_conv_forward(cx, w, &k->conv[i][0], h, b, side, side, c1);
        silu(cx, a, c1, n);
        dr_conv_forward(cx, w, &k->conv[i][1], a, b, side, side, c2);
        silu(cx, a, c2, n);
        sum(cx, next, h, a, n);
        if (s)
            s->c[i][0] = c1, s->c[i][1] = c2, s->h[i + 1] = next;
        h = next;
    }
    void *r = dr_alloc_act(cx->tmp, cx, px * k->channels);
    dr_conv_forward(cx, w, &k->out, h, b, side, side, r);
    DR_OP(cx->be, cast, .dst = y, .src = x, .dt = DR_F32, .st = DR_F32, .n = px * k->channels);
    dr_from_nhwc(cx, b, k->channels, side, r, cx->act, y, true);
    dr_release(cx->tmp, mark);
}

// dh: gradient by the block's output on entry, by its input on return. a, d: room for as much.
static void block_backward(struct dr_ctx *cx, const struct dr_weights *w,
                           const struct dr_residual *k, int i, int64_t b,
                           const struct dr_residual_saved *s, void *dh, void *a, void *d) {
    const int64_t side = k->side, n = b * side * side * k->width;
    const struct dr_conv *c1 = &k->conv[i][0], *c2 = &k->conv[i][1];
    DR_OP(cx->be, silu_bwd, .dx = d, .x = s->c[i][1], .dy = dh, .t = cx->act, .n = n);
    if (w->g) {
        silu(cx, a, s->c[i][0], n);
        dr_conv_backward(cx, w, c2, a, d, b, side, side);
    }
    dr_conv_backward_input(cx, w, c2, d, b, side, side, a);
    DR_OP(cx->be, silu_bwd, .dx = a, .x = s->c[i][0], .dy = a, .t = cx->act, .n = n);
    dr_conv_backward(cx, w, c1, s->h[i], a, b, side, side);
    dr_conv_backward_input(cx, w, c1, a, b, side, side, d);
    sum(cx, dh, dh, d, n);
}

void dr_residual_backward(struct dr_ctx *cx, const struct dr_weights *w,
                          const struct dr_residual *k, int64_t b, const struct dr_residual_saved *s,
                          const real *dy, real *dx) {
    const int64_t side = k->side, px = b * side * side, n = px * k->width;
    const size_t mark = dr_mark(cx->tmp);
    void *dr = dr_alloc_act(cx->tmp, cx, px * k->channels), *dh = dr_alloc_act(cx->tmp, cx, n);
    void *a = dr_alloc_act(cx->tmp, cx, n), *d = dr_alloc_act(cx->tmp, cx, n);
    dr_to_nhwc(cx, b, k->channels, side, dy, dr, cx->act);
    dr_conv_backward(cx, w, &k->out, s->h[DR_RESIDUAL_BLOCKS], dr, b, side, side);
    dr_conv_backward_input(cx, w, &k->out, dr, b, side, side, dh);
    for (int i = DR_RESIDUAL_BLOCKS - 1; i >= 0; i--)
        block_backward(cx, w, k, i, b, s, dh, a, d);
    dr_conv_backward(cx, w, &k->in, s->x, dh, b, side, side);
    if (dx) {
        dr_conv_backward_input(cx, w, &k->in, dh, b, side, side, dr);
        DR_OP(cx->be, cast, .dst = dx, .src = dy, .dt = DR_F32, .st = DR_F32,
              .n = px * k->channels);
        dr_from_nhwc(cx, b, k->channels, side, dr, cx->act, dx, true);
    }
    dr_release(cx->tmp, mark);
}
