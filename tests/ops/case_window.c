// Cases of pooling and resizing.
#include "tests/ops/harness.h"

struct pool {
    int64_t b, h, w, c, k, stride, pad;
    bool max, count_pad;
};
static const struct pool pools[] = {
    {1, 1, 1, 1, 1, 1, 0, true, false},  {2, 7, 9, 5, 3, 2, 1, true, false},
    {2, 8, 8, 64, 3, 2, 1, true, false}, {1, 6, 5, 20, 2, 2, 0, true, false},
    {2, 5, 6, 17, 3, 1, 1, true, false}, {1, 19, 16, 3, 15, 4, 7, true, false},
    {2, 7, 9, 5, 3, 2, 1, false, false}, {2, 7, 9, 36, 3, 2, 1, false, true},
    {1, 8, 6, 64, 2, 2, 0, false, true}, {2, 5, 6, 17, 3, 1, 1, false, false},
    {3, 4, 5, 33, 0, 0, 0, false, true}, {2, 17, 16, 8, 0, 1, 0, false, false},
};

static int64_t windows(const struct pool *p, int64_t size) {
    return p->k ? (size + 2 * p->pad - p->k) / p->stride + 1 : 1;
}

// Calls f(ctx, y index, x index, tap, share) for every pixel of every window.
typedef void (*visit)(void *ctx, int64_t y, int64_t x, int64_t tap, double share);
static void each_pixel(const struct pool *p, visit f, void *ctx) {
    const int64_t ho = windows(p, p->h), wo = windows(p, p->w);
    const int64_t kh = p->k ? p->k : p->h, kw = p->k ? p->k : p->w;
    for (int64_t o = 0; o < p->b * ho * wo * p->c; o++) {
        const int64_t ch = o % p->c, ox = o / p->c % wo, oy = o / p->c / wo % ho;
        const int64_t n = o / p->c / wo / ho;
        int64_t count = 0;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t tap = 0; tap < kh * kw; tap++) {
                const int64_t y = oy * p->stride - p->pad + tap / kw;
                const int64_t x = ox * p->stride - p->pad + tap % kw;
                if (y < 0 || x < 0 || y >= p->h || x >= p->w)
                    continue;
                if (pass)
                    f(ctx, o, ((n * p->h + y) * p->w + x) * p->c + ch, tap,
                      1 / (double)(p->count_pad && p->k ? kh * kw : count));
                else
                    count++;
            }
    }
}

struct pooled {
    const double *x;
    double *y, *where, *from;
    bool max;
};
static void into_y(void *ctx, int64_t y, int64_t x, int64_t tap, double share) {
    struct pooled *s = ctx;
    if (!s->max)
        s->y[y] += s->x[x] * share;
    else if (isnan(s->y[y]) || s->x[x] > s->y[y])
        s->y[y] = s->x[x], s->where[y] = (double)tap, s->from[y] = (double)x;
}

// Few different values, so that some windows have several maxima.
static struct tbuf *coarse(struct t *t, enum dr_dtype type, int64_t n) {
    double *v = t_tmp(t, n);
    for (int64_t i = 0; i < n; i++)
        v[i] = (double)(t_rand(t) % 9) - 6;
    return t_values(t, type, n, v);
}

static struct pooled pooled(struct t *t, const struct pool *p, const struct tbuf *x) {
    const int64_t n = p->b * windows(p, p->h) * windows(p, p->w) * p->c;
    struct pooled s = {x->v, t_tmp(t, n), t_tmp(t, n), t_tmp(t, n), p->max};
    for (int64_t i = 0; p->max && i < n; i++)
        s.y[i] = NAN;
    each_pixel(p, into_y, &s);
    return s;
}

static uint8_t *bytes_of(struct t *t, const double *v, int64_t n) {
    uint8_t *b = (uint8_t *)t_tmp(t, n / 8 + 1);
    for (int64_t i = 0; i < n; i++)
        b[i] = (uint8_t)v[i];
    return b;
}

void case_pool_fwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(pools) * 2; s++)
        for (int type = 0; type < t_dtypes(t); type++) {
            const struct pool *p = &pools[s / 2];
            struct tbuf *x = p->max ? coarse(t, type, p->b * p->h * p->w * p->c)
                                    : t_normal(t, type, p->b * p->h * p->w * p->c, 1);
            const int64_t n = p->b * windows(p, p->h) * windows(p, p->w) * p->c;
            const struct pooled want = pooled(t, p, x);
            struct tbuf *y = t_out(t, type, n);
            uint8_t *zeros = bytes_of(t, t_tmp(t, n), n);
            struct tbuf *taken = p->max && s % 2 ? t_inout(t_u8(t, n, zeros)) : NULL;
            T_RUN(t, pool_fwd, .y = y->p, .taken = taken ? taken->p : NULL, .x = x->p, .t = type,
                  .b = p->b, .h = p->h, .w = p->w, .c = p->c, .k = p->k, .stride = p->stride,
                  .pad = p->pad, .max = p->max, .count_pad = p->count_pad);
            t_check(t, "y", y, want.y, t_tol(t, type));
            if (!taken)
                continue;
            uint8_t *got = (uint8_t *)t_tmp(t, n / 8 + 1);
            t->be->download(t->be, got, taken->p, (size_t)n);
            for (int64_t i = 0; i < n; i++)
                if (got[i] != (uint8_t)want.where[i])
                    t_fail(t, "taken[%d] is %d, expected %d", (int)i, got[i], (int)want.where[i]);
        }
}

static void into_x(void *ctx, int64_t y, int64_t x, int64_t tap, double share) {
    struct pooled *s = ctx; // here x is dy and y is dx
    if (!s->max || s->where[y] == (double)tap)
        s->y[x] += s->x[y] * (s->max ? 1 : share);
}

void case_pool_bwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(pools); s++)
        for (int type = 0; type < t_dtypes(t); type++) {
            const struct pool *p = &pools[s];
            const int64_t n = p->b * windows(p, p->h) * windows(p, p->w) * p->c;
            const int64_t in = p->b * p->h * p->w * p->c;
            const struct pooled fwd = pooled(t, p, coarse(t, type, in));
            struct tbuf *dy = t_normal(t, type, n, 1), *dx = t_out(t, type, in);
            struct tbuf *taken = p->max ? t_u8(t, n, bytes_of(t, fwd.where, n)) : NULL;
            struct pooled want = {dy->v, t_tmp(t, in), fwd.where, NULL, p->max};
            each_pixel(p, into_x, &want);
            T_RUN(t, pool_bwd, .dx = dx->p, .taken = taken ? taken->p : NULL, .dy = dy->p,
                  .t = type, .b = p->b, .h = p->h, .w = p->w, .c = p->c, .k = p->k,
                  .stride = p->stride, .pad = p->pad, .max = p->max, .count_pad = p->count_pad);
            t_check(t, "dx", dx, want.y, t_tol(t, type));
        }
}

// ---- resizing

static const int64_t resizes[][6] = {
    {1, 1, 1, 1, 3, 2},    {2, 4, 5, 6, 8, 10},     {2, 8, 10, 33, 4, 5}, {1, 7, 5, 20, 11, 13},
    {2, 13, 11, 3, 7, 5},  {1, 6, 6, 64, 6, 6},     {1, 4, 3, 5, 29, 27}, {1, 30, 28, 4, 4, 3},
    {1, 3, 17, 16, 17, 3}, {2, 16, 16, 12, 32, 32}, {1, 2, 9, 4, 1, 1},
};

// Weights of the sources [in] of output p, from the definition.
static void weights(double *w, int64_t p, int64_t in, int64_t out, bool nearest) {
    memset(w, 0, (size_t)in * sizeof *w);
    if (nearest) {
        w[p * in / out] = 1;
        return;
    }
    const double at = fmax(((double)p + 0.5) * (double)in / (double)out - 0.5, 0);
    const int64_t low = (int64_t)at, high = DR_MIN(low + 1, in - 1);
    w[low] += 1 - (at - (double)low);
    w[high] += at - (double)low;
}

// y += the map of x, or x += the transposed map of y.
static void resize(struct t *t, const int64_t *s, bool nearest, double *x, double *y, bool back) {
    double *wy = t_tmp(t, s[1]), *wx = t_tmp(t, s[2]);
    for (int64_t o = 0; o < s[0] * s[4] * s[5]; o++) {
        weights(wy, o / s[5] % s[4], s[1], s[4], nearest);
        weights(wx, o % s[5], s[2], s[5], nearest);
        for (int64_t i = 0; i < s[1] * s[2]; i++) {
            const double w = wy[i / s[2]] * wx[i % s[2]];
            const int64_t from = (o / s[5] / s[4] * s[1] * s[2] + i) * s[3];
            for (int64_t c = 0; w != 0 && c < s[3]; c++)
                if (back)
                    x[from + c] += w * y[o * s[3] + c];
                else
                    y[o * s[3] + c] += w * x[from + c];
        }
    }
}

void case_resize_fwd(struct t *t) {
    for (size_t i = 0; i < DR_COUNT(resizes) * 2; i++)
        for (int type = 0; type < t_dtypes(t); type++) {
            const int64_t *s = resizes[i / 2];
            struct tbuf *x = t_normal(t, type, s[0] * s[1] * s[2] * s[3], 1);
            struct tbuf *y = t_out(t, type, s[0] * s[4] * s[5] * s[3]);
            double *want = t_tmp(t, y->n);
            resize(t, s, i % 2, x->v, want, false);
            T_RUN(t, resize_fwd, .y = y->p, .x = x->p, .t = type, .b = s[0], .h = s[1], .w = s[2],
                  .c = s[3], .ho = s[4], .wo = s[5], .nearest = i % 2);
            t_check(t, "y", y, want, t_tol(t, type));
        }
}

void case_resize_bwd(struct t *t) {
    for (size_t i = 0; i < DR_COUNT(resizes) * 2; i++)
        for (int type = 0; type < t_dtypes(t); type++) {
            const int64_t *s = resizes[i / 2];
            struct tbuf *dx = t_out(t, type, s[0] * s[1] * s[2] * s[3]);
            struct tbuf *dy = t_normal(t, type, s[0] * s[4] * s[5] * s[3], 1);
            double *want = t_tmp(t, dx->n);
            resize(t, s, i % 2, want, dy->v, true);
            T_RUN(t, resize_bwd, .dx = dx->p, .dy = dy->p, .t = type, .b = s[0], .h = s[1],
                  .w = s[2], .c = s[3], .ho = s[4], .wo = s[5], .nearest = i % 2);
            t_check(t, "dx", dx, want, t_tol(t, type));
        }
}
