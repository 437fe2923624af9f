// Cases of the convolution and its two gradients, against the seven loops of the definition.
#include "tests/ops/harness.h"

struct conv {
    int64_t b, h, w, ci, co, k, stride, pad;
    int64_t kh, kw, padh, padw, dil;
};

static const struct conv shapes[] = {
    {2, 5, 7, 3, 4, 3, 1, 1},
    {1, 28, 28, 1, 32, 3, 1, 1},
    {3, 28, 28, 32, 1, 3, 1, 1},
    {2, 9, 8, 5, 6, 3, 2, 1},
    {2, 8, 6, 16, 4, 1, 1, 0},
    {1, 8, 9, 8, 33, 1, 2, 0},
    {2, 12, 11, 3, 8, 7, 2, 3},
    {1, 6, 6, 70, 3, 3, 1, 1},
    {2, 5, 5, 4, 67, 3, 1, 0},
    {1, 16, 16, 64, 66, 3, 1, 1},
    {2, 7, 6, 20, 3, 3, 1, 1},
    {1, 6, 11, 2, 41, 5, 1, 2},
    {2, 11, 9, 20, 24, 3, 2, 1},
    {1, 4, 5, 40, 12, 1, 1, 1},
    {2, 13, 12, 17, 19, 3, 3, 0},
    {1, 9, 10, 70, 18, 2, 2, 0},
    {2, 12, 13, 3, 64, 7, 2, 3},
    {2, 9, 11, 18, 20, 3, 1, 2, .dil = 2},
    {1, 14, 15, 3, 6, 3, 1, 2, .dil = 2},
    {2, 11, 12, 20, 17, 3, 2, 2, .dil = 2},
    {1, 12, 11, 19, 18, 3, 2, 3, .dil = 3},
    {2, 9, 10, 24, 20, .stride = 1, .kh = 1, .kw = 7, .padh = 0, .padw = 3},
    {1, 9, 10, 24, 20, .stride = 1, .kh = 7, .kw = 1, .padh = 3, .padw = 0},
    {2, 8, 7, 3, 9, .stride = 2, .kh = 3, .kw = 2, .padh = 1, .padw = 0},
    {1, 9, 9, 130, 300, 3, 1, 1}, // several blocks of columns
    {9, 14, 14, 8, 9, 3, 1, 1},   // weight gradients: a piece of several images and one more
};

static struct conv_size { int64_t kh, kw, padh, padw, dil, ho, wo; } size_of(const struct conv *c) {
    struct conv_size s = {c->k, c->k, c->pad, c->pad, c->dil ? c->dil : 1, 0, 0};
    if (c->kh)
        s.kh = c->kh, s.kw = c->kw, s.padh = c->padh, s.padw = c->padw;
    s.ho = (c->h + 2 * s.padh - s.dil * (s.kh - 1) - 1) / c->stride + 1;
    s.wo = (c->w + 2 * s.padw - s.dil * (s.kw - 1) - 1) / c->stride + 1;
    return s;
}

// Calls f(context, y index, x index, weight index) for every product of the convolution.
typedef void (*visit)(void *ctx, int64_t y, int64_t x, int64_t w);
static void each_product(const struct conv *c, visit f, void *ctx) {
    const struct conv_size s = size_of(c);
    for (int64_t n = 0; n < c->b; n++)
        for (int64_t oy = 0; oy < s.ho; oy++)
            for (int64_t ox = 0; ox < s.wo; ox++)
                for (int64_t ky = 0; ky < s.kh; ky++)
                    for (int64_t kx = 0; kx < s.kw; kx++) {
                        int64_t iy = oy * c->stride + ky * s.dil - s.padh,
                                ix = ox * c->stride + kx * s.dil - s.padw;
                        if (iy < 0 || ix < 0 || iy >= c->h || ix >= c->w)
                            continue;
                        for (int64_t i = 0; i < c->ci; i++)
                            for (int64_t o = 0; o < c->co; o++)
                                f(ctx, ((n * s.ho + oy) * s.wo + ox) * c->co + o,
                                  ((n * c->h + iy) * c->w + ix) * c->ci + i,
                                  ((o * c->ci + i) * s.kh + ky) * s.kw + kx);
                    }
}

struct terms {
    double *to;
    const double *p, *q;
};
static void into_y(void *ctx, int64_t y, int64_t x, int64_t w) {
    struct terms *s = ctx;
    s->to[y] += s->p[x] * s->q[w];
}
static void into_x(void *ctx, int64_t y, int64_t x, int64_t w) {
    struct terms *s = ctx;
    s->to[x] += s->p[y] * s->q[w];
}
static void into_w(void *ctx, int64_t y, int64_t x, int64_t w) {
    struct terms *s = ctx;
    s->to[w] += s->p[y] * s->q[x];
}

static int64_t y_size(const struct conv *c) {
    return c->b * size_of(c).ho * size_of(c).wo * c->co;
}
static int64_t x_size(const struct conv *c) {
    return c->b * c->h * c->w * c->ci;
}
static int64_t w_size(const struct conv *c) {
    return c->co * c->ci * size_of(c).kh * size_of(c).kw;
}

static double apply_fn(enum dr_fn fn, double x) {
    return fn == DR_FN_RELU ? (x > 0 ? x : 0) : fn == DR_FN_SILU ? x / (1 + exp(-x)) : x;
}

// With what is applied last, into channels [at, at + co) of wider pixels; the others stay.
static void conv2d_fwd_of(struct t *t, const struct conv *c, enum dr_dtype type, enum dr_fn fn,
                          int64_t at, int64_t ld) {
    struct tbuf *w = t_values(t, DR_F32, w_size(c), t_normal(t, type, w_size(c), 1)->v);
    struct tbuf *x = t_normal(t, type, x_size(c), 1), *bias = t_normal(t, DR_F32, c->co, 1);
    const int64_t pixels = y_size(c) / c->co;
    struct tbuf *y = t_out(t, type, pixels * ld);
    double *sum = t_tmp(t, y_size(c)), *want = t_tmp(t, y->n);
    for (int64_t i = 0; i < y_size(c); i++)
        sum[i] = bias->v[i % c->co];
    each_product(c, into_y, &(struct terms){sum, x->v, w->v});
    for (int64_t i = 0; i < pixels; i++)
        for (int64_t k = 0; k < ld; k++)
            want[i * ld + k] =
                k >= at && k < at + c->co ? apply_fn(fn, sum[i * c->co + k - at]) : (double)NAN;
    T_RUN(t, conv2d_fwd, .y = (char *)y->p + (size_t)at * dr_sizeof(type), .x = x->p, .t = type,
          .weight = w->p, .bias = bias->p, .b = c->b, .h = c->h, .w = c->w, .ci = c->ci,
          .co = c->co, .k = c->k, .stride = c->stride, .pad = c->pad, .kh = c->kh, .kw = c->kw,
          .padh = c->padh, .padw = c->padw, .dil = c->dil, .ldy = ld == c->co ? 0 : ld, .fn = fn);
    t_check(t, "y", y, want, t_tol(t, type));
}

void case_conv2d_fwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(shapes); s++)
        for (int f = 0; f < 2 * t_dtypes(t); f++) {
            const struct conv *c = &shapes[s];
            enum dr_dtype type = f / 2;
            // the product's operands are bf16, so the weights are rounded first
            struct tbuf *w = t_values(t, DR_F32, w_size(c), t_normal(t, type, w_size(c), 1)->v);
            struct tbuf *x = t_normal(t, type, x_size(c), 1), *y = t_out(t, type, y_size(c));
            struct tbuf *bias = f & 1 ? t_normal(t, DR_F32, c->co, 1) : NULL;
            double *want = t_tmp(t, y->n);
            for (int64_t i = 0; bias && i < y->n; i++)
                want[i] = bias->v[i % c->co];
            each_product(c, into_y, &(struct terms){want, x->v, w->v});
            T_RUN(t, conv2d_fwd, .y = y->p, .x = x->p, .t = type, .weight = w->p,
                  .bias = bias ? bias->p : NULL, .b = c->b, .h = c->h, .w = c->w, .ci = c->ci,
                  .co = c->co, .k = c->k, .stride = c->stride, .pad = c->pad, .kh = c->kh,
                  .kw = c->kw, .padh = c->padh, .padw = c->padw, .dil = c->dil);
            t_check(t, "y", y, want, t_tol(t, type));
        }
    for (size_t s = 0; s < DR_COUNT(shapes); s++)
        for (int type = 0; type < t_dtypes(t); type++) {
            static const enum dr_fn fn[] = {DR_FN_RELU, DR_FN_SILU, DR_FN_NONE};
            const struct conv *c = &shapes[s];
            conv2d_fwd_of(t, c, type, DR_FN_RELU, 0, c->co);
            conv2d_fwd_of(t, c, type, fn[s % 3], s % 2 ? 8 : 3, c->co + (s % 2 ? 12 : 5));
        }
}

void case_conv2d_bwd_data(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(shapes); s++)
        for (int type = 0; type < t_dtypes(t); type++) {
            const struct conv *c = &shapes[s];
            struct tbuf *w = t_values(t, DR_F32, w_size(c), t_normal(t, type, w_size(c), 1)->v);
            struct tbuf *dy = t_normal(t, type, y_size(c), 1), *dx = t_out(t, type, x_size(c));
            double *want = t_tmp(t, dx->n);
            each_product(c, into_x, &(struct terms){want, dy->v, w->v});
            T_RUN(t, conv2d_bwd_data, .dx = dx->p, .dy = dy->p, .t = type, .weight = w->p,
                  .b = c->b, .h = c->h, .w = c->w, .ci = c->ci, .co = c->co, .k = c->k,
                  .stride = c->stride, .pad = c->pad, .kh = c->kh, .kw = c->kw, .padh = c->padh,
                  .padw = c->padw, .dil = c->dil);
            t_check(t, "dx", dx, want, t_tol(t, type));
        }
}

void case_conv2d_bwd_weight(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(shapes); s++)
        for (int f = 0; f < 2 * t_dtypes(t); f++) {
            const struct conv *c = &shapes[s];
            enum dr_dtype type = f / 2;
            struct tbuf *x = t_normal(t, type, x_size(c), 1), *dy = t_normal(t, type, y_size(c), 1);
            struct tbuf *dw = t_inout(t_normal(t, DR_F32, w_size(c), 1));
            struct tbuf *db = f & 1 ? t_inout(t_normal(t, DR_F32, c->co, 1)) : NULL;
            double *want = t_tmp(t, dw->n), *want_b = t_tmp(t, c->co);
            memcpy(want, dw->v, (size_t)dw->n * sizeof *want);
            each_product(c, into_w, &(struct terms){want, dy->v, x->v});
            for (int64_t i = 0; db && i < c->co; i++)
                want_b[i] = db->v[i];
            for (int64_t i = 0; i < dy->n; i++)
                want_b[i % c->co] += dy->v[i];
            T_RUN(t, conv2d_bwd_weight, .dweight = dw->p, .dbias = db ? db->p : NULL, .x = x->p,
                  .dy = dy->p, .t = type, .b = c->b, .h = c->h, .w = c->w, .ci = c->ci, .co = c->co,
                  .k = c->k, .stride = c->stride, .pad = c->pad, .kh = c->kh, .kw = c->kw,
                  .padh = c->padh, .padw = c->padw, .dil = c->dil);
            t_check(t, "dweight", dw, want, t_tol(t, DR_F32));
            if (db)
                t_check(t, "dbias", db, want_b, t_tol(t, DR_F32));
        }
}
