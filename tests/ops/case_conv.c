// Cases of the convolution and its two gradients, against the seven loops of the definition.
#include "tests/ops/harness.h"

struct conv {
    int64_t b, h, w, ci, co, k, stride, pad;
};

static const struct conv shapes[] = {
    {2, 5, 7, 3, 4, 3, 1, 1},     {1, 28, 28, 1, 32, 3, 1, 1}, {3, 28, 28, 32, 1, 3, 1, 1},
    {2, 9, 8, 5, 6, 3, 2, 1},     {2, 8, 6, 16, 4, 1, 1, 0},   {1, 8, 9, 8, 33, 1, 2, 0},
    {2, 12, 11, 3, 8, 7, 2, 3},   {1, 6, 6, 70, 3, 3, 1, 1},   {2, 5, 5, 4, 67, 3, 1, 0},
    {1, 16, 16, 64, 66, 3, 1, 1}, {2, 7, 6, 20, 3, 3, 1, 1},   {1, 6, 11, 2, 41, 5, 1, 2},
};

// Calls f(context, y index, x index, weight index) for every product of the convolution.
typedef void (*visit)(void *ctx, int64_t y, int64_t x, int64_t w);
static void each_product(const struct conv *c, visit f, void *ctx) {
    int64_t ho = (c->h + 2 * c->pad - c->k) / c->stride + 1;
    int64_t wo = (c->w + 2 * c->pad - c->k) / c->stride + 1;
    for (int64_t n = 0; n < c->b; n++)
        for (int64_t oy = 0; oy < ho; oy++)
            for (int64_t ox = 0; ox < wo; ox++)
                for (int64_t ky = 0; ky < c->k; ky++)
                    for (int64_t kx = 0; kx < c->k; kx++) {
                        int64_t iy = oy * c->stride + ky - c->pad,
                                ix = ox * c->stride + kx - c->pad;
                        if (iy < 0 || ix < 0 || iy >= c->h || ix >= c->w)
                            continue;
                        for (int64_t i = 0; i < c->ci; i++)
                            for (int64_t o = 0; o < c->co; o++)
                                f(ctx, ((n * ho + oy) * wo + ox) * c->co + o,
                                  ((n * c->h + iy) * c->w + ix) * c->ci + i,
                                  ((o * c->ci + i) * c->k + ky) * c->k + kx);
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
    return c->b * ((c->h + 2 * c->pad - c->k) / c->stride + 1) *
           ((c->w + 2 * c->pad - c->k) / c->stride + 1) * c->co;
}
static int64_t x_size(const struct conv *c) {
    return c->b * c->h * c->w * c->ci;
}
static int64_t w_size(const struct conv *c) {
    return c->co * c->ci * c->k * c->k;
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
                  .co = c->co, .k = c->k, .stride = c->stride, .pad = c->pad);
            t_check(t, "y", y, want, t_tol(t, type));
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
                  .stride = c->stride, .pad = c->pad);
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
                  .k = c->k, .stride = c->stride, .pad = c->pad);
            t_check(t, "dweight", dw, want, t_tol(t, DR_F32));
            if (db)
                t_check(t, "dbias", db, want_b, t_tol(t, DR_F32));
        }
}
