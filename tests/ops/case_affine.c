// Cases of groupnorm, channel_affine and add_act.
#include "tests/ops/harness.h"

static double fn(enum dr_fn f, double x) {
    return f == DR_FN_RELU ? fmax(x, 0) : f == DR_FN_SILU ? x / (1 + exp(-x)) : x;
}
static double slope(enum dr_fn f, double x) {
    const double s = 1 / (1 + exp(-x));
    return f == DR_FN_RELU ? (x > 0) : f == DR_FN_SILU ? s * (1 + x * (1 - s)) : 1;
}

#define P(buf) ((buf) ? (buf)->p : NULL)
#define V(buf, i, otherwise) ((buf) ? (buf)->v[i] : (otherwise))

static double *kept(struct t *t, const struct tbuf *b) {
    double *v = t_tmp(t, b->n);
    memcpy(v, b->v, (size_t)b->n * sizeof *v);
    return v;
}

// A slope that jumps at 0 must not be asked for where rounding decides the side: x whose `pre` is
// closer to 0 than any rounding is moved, by way of dy = 0.
static void avoid_jump(double *dy, const double *pre, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (fabs(pre[i]) < 1e-4)
            dy[i] = 0;
}

// ---- group normalisation

struct group {
    int64_t b, n, c, groups;
    enum dr_fn fn;
    bool r, weight;
    double mean; // of x; far from 0 it takes digits from the variance
};
static const struct group groups[] = {
    {1, 1, 1, 1, DR_FN_NONE, false, false, 0},    {2, 6, 8, 2, DR_FN_RELU, true, true, 0},
    {3, 35, 20, 4, DR_FN_SILU, true, true, 1},    {2, 49, 66, 3, DR_FN_NONE, true, false, -2},
    {1, 300, 64, 32, DR_FN_RELU, false, true, 5}, {5, 16, 96, 8, DR_FN_SILU, false, true, 0},
    {2, 17, 33, 33, DR_FN_RELU, true, true, 0},   {2, 64, 256, 32, DR_FN_RELU, true, true, 100},
};
#define EPS 1e-2 // large, so that leaving it out would show

struct group_data {
    struct tbuf *x, *r, *weight, *bias;
    double *mean, *rstd, *xh, *pre;
};

static struct group_data group_data(struct t *t, const struct group *k, enum dr_dtype type) {
    const int64_t size = k->n * k->c, width = k->c / k->groups;
    double *v = kept(t, t_normal(t, DR_F32, k->b * size, 1));
    for (int64_t i = 0; i < k->b * size; i++)
        v[i] = v[i] * (1 + (double)(i % k->c % 3)) + k->mean;
    struct group_data o = {.x = t_values(t, type, k->b * size, v)};
    o.r = k->r ? t_normal(t, type, k->b * size, 1) : NULL;
    o.weight = k->weight ? t_uniform(t, DR_F32, k->c, 0.5, 2) : NULL;
    o.bias = k->weight ? t_normal(t, DR_F32, k->c, 1) : NULL;
    o.mean = t_tmp(t, k->b * k->groups), o.rstd = t_tmp(t, k->b * k->groups);
    o.xh = t_tmp(t, k->b * size), o.pre = t_tmp(t, k->b * size);
    const double count = (double)(k->n * width);
    for (int pass = 0; pass < 2; pass++)
        for (int64_t i = 0; i < k->b * size; i++) {
            const int64_t g = i / size * k->groups + i % k->c / width;
            if (pass)
                o.rstd[g] += pow(o.x->v[i] - o.mean[g], 2) / count;
            else
                o.mean[g] += o.x->v[i] / count;
        }
    for (int64_t g = 0; g < k->b * k->groups; g++)
        o.rstd[g] = 1 / sqrt(o.rstd[g] + EPS);
    for (int64_t i = 0; i < k->b * size; i++) {
        const int64_t c = i % k->c, g = i / size * k->groups + c / width;
        o.xh[i] = (o.x->v[i] - o.mean[g]) * o.rstd[g];
        o.pre[i] = o.xh[i] * V(o.weight, c, 1) + V(o.bias, c, 0) + V(o.r, i, 0);
    }
    return o;
}

void case_groupnorm_fwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(groups) * 2; s++)
        for (int type = 0; type < t_dtypes(t); type++) {
            const struct group *k = &groups[s / 2];
            struct group_data o = group_data(t, k, type);
            const int64_t n = k->b * k->n * k->c, stats = k->b * k->groups;
            struct tbuf *mean = s & 1 ? t_out(t, DR_F32, stats) : NULL;
            struct tbuf *rstd = s & 1 ? t_out(t, DR_F32, stats) : NULL;
            struct tbuf *y = s & 1 ? t_out(t, type, n) : t_inout(o.x);
            double *want = t_tmp(t, n);
            for (int64_t i = 0; i < n; i++)
                want[i] = fn(k->fn, o.pre[i]);
            T_RUN(t, groupnorm_fwd, .y = y->p, .mean = P(mean), .rstd = P(rstd), .x = o.x->p,
                  .r = P(o.r), .t = type, .weight = P(o.weight), .bias = P(o.bias), .b = k->b,
                  .n = k->n, .c = k->c, .groups = k->groups, .fn = k->fn, .eps = (real)EPS);
            t_check(t, "y", y, want, t_tol(t, type));
            if (mean) {
                t_check(t, "mean", mean, o.mean, t_tol(t, DR_F32));
                t_check(t, "rstd", rstd, o.rstd, t_tol(t, DR_F32));
            }
        }
}

// sums: per group, of g weight and of g weight xh
static void group_bwd(struct t *t, const struct group *k, enum dr_dtype type, int option) {
    struct group_data o = group_data(t, k, type);
    const int64_t size = k->n * k->c, n = k->b * size, width = k->c / k->groups;
    double *v = kept(t, t_normal(t, type, n, 1));
    avoid_jump(v, o.pre, k->fn == DR_FN_RELU ? n : 0);
    struct tbuf *dy = t_values(t, type, n, v);
    struct tbuf *dx = option == 1 ? t_inout(dy) : t_out(t, type, n);
    struct tbuf *dr = option == 2 ? t_inout(dy) : option ? NULL : t_out(t, type, n);
    struct tbuf *dw = option == 1 ? NULL : t_inout(t_normal(t, DR_F32, k->c, 1));
    struct tbuf *db = option == 1 ? NULL : t_inout(t_normal(t, DR_F32, k->c, 1));
    double *wdx = t_tmp(t, n), *wdr = t_tmp(t, n), *sums = t_tmp(t, 2 * k->b * k->groups);
    double *ww = dw ? kept(t, dw) : NULL, *wb = db ? kept(t, db) : NULL;
    for (int64_t i = 0; i < n; i++) {
        const int64_t c = i % k->c, g = i / size * k->groups + c / width;
        const double d = wdr[i] = dy->v[i] * slope(k->fn, o.pre[i]);
        sums[2 * g] += d * V(o.weight, c, 1) / (double)(k->n * width);
        sums[2 * g + 1] += d * V(o.weight, c, 1) * o.xh[i] / (double)(k->n * width);
        if (dw)
            ww[c] += d * o.xh[i], wb[c] += d;
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t c = i % k->c, g = i / size * k->groups + c / width;
        wdx[i] = o.rstd[g] * (wdr[i] * V(o.weight, c, 1) - sums[2 * g] - o.xh[i] * sums[2 * g + 1]);
    }
    struct tbuf *mean = t_values(t, DR_F32, k->b * k->groups, o.mean);
    struct tbuf *rstd = t_values(t, DR_F32, k->b * k->groups, o.rstd);
    T_RUN(t, groupnorm_bwd, .dx = dx->p, .dr = P(dr), .dweight = P(dw), .dbias = P(db), .dy = dy->p,
          .x = o.x->p, .r = P(o.r), .t = type, .mean = mean->p, .rstd = rstd->p,
          .weight = P(o.weight), .bias = P(o.bias), .b = k->b, .n = k->n, .c = k->c,
          .groups = k->groups, .fn = k->fn);
    // one pixel and channel per group has no gradient but rounding
    if (k->n * width > 1)
        t_check(t, "dx", dx, wdx, t_tol(t, type));
    if (dr)
        t_check(t, "dr", dr, wdr, t_tol(t, type));
    if (dw) {
        t_check(t, "dweight", dw, ww, t_tol(t, DR_F32));
        t_check(t, "dbias", db, wb, t_tol(t, DR_F32));
    }
}

void case_groupnorm_bwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(groups) * 3; s++)
        for (int type = 0; type < t_dtypes(t); type++)
            group_bwd(t, &groups[s / 3], type, (int)(s % 3));
}

// ---- scale and shift per channel

static const int64_t affines[][2] = {{1, 1}, {5, 3}, {7, 64}, {300, 20}, {1030, 36}, {70, 513}};

struct affine_data {
    struct tbuf *x, *r, *scale, *shift;
    double *pre;
};
static struct affine_data affine_data(struct t *t, int64_t m, int64_t c, enum dr_dtype type,
                                      enum dr_dtype xt, int option) {
    struct affine_data o = {.x = t_normal(t, xt, m * c, 1)};
    o.r = option & 1 ? t_normal(t, type, m * c, 1) : NULL;
    o.scale = option & 2 ? t_normal(t, DR_F32, c, 1) : NULL;
    o.shift = option & 2 ? t_normal(t, DR_F32, c, 1) : NULL;
    o.pre = t_tmp(t, m * c);
    for (int64_t i = 0; i < m * c; i++)
        o.pre[i] = o.x->v[i] * V(o.scale, i % c, 1) + V(o.shift, i % c, 0) + V(o.r, i, 0);
    return o;
}

void case_channel_affine_fwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(affines) * 12; s++)
        for (int f = 0; f < t_dtypes(t) * t_dtypes(t); f++) {
            const int64_t m = affines[s / 12][0], c = affines[s / 12][1];
            const enum dr_dtype type = f / t_dtypes(t), xt = f % t_dtypes(t);
            const enum dr_fn k = s % 3;
            struct affine_data o = affine_data(t, m, c, type, xt, (int)(s / 3 % 4));
            double *want = t_tmp(t, m * c);
            for (int64_t i = 0; i < m * c; i++)
                want[i] = fn(k, o.pre[i]);
            struct tbuf *y = type == xt && s % 2 ? t_inout(o.x) : t_out(t, type, m * c);
            T_RUN(t, channel_affine_fwd, .y = y->p, .x = o.x->p, .r = P(o.r), .t = type, .xt = xt,
                  .scale = P(o.scale), .shift = P(o.shift), .m = m, .c = c, .fn = k);
            t_check(t, "y", y, want, t_tol(t, type));
        }
}

static void affine_bwd(struct t *t, int64_t m, int64_t c, enum dr_dtype type, enum dr_dtype xt,
                       enum dr_fn k, int option) {
    struct affine_data o = affine_data(t, m, c, type, xt, option);
    double *v = kept(t, t_normal(t, type, m * c, 1));
    avoid_jump(v, o.pre, k == DR_FN_RELU ? m * c : 0);
    struct tbuf *dy = t_values(t, type, m * c, v);
    struct tbuf *dx = option == 3 && type == xt ? t_inout(dy) : t_out(t, xt, m * c);
    struct tbuf *dr = option == 1 ? t_out(t, type, m * c) : NULL;
    struct tbuf *ds = option < 3 ? t_inout(t_normal(t, DR_F32, c, 1)) : NULL;
    struct tbuf *db = option != 2 ? t_inout(t_normal(t, DR_F32, c, 1)) : NULL;
    double *wdx = t_tmp(t, m * c), *wdr = t_tmp(t, m * c);
    double *ws = ds ? kept(t, ds) : t_tmp(t, c), *wb = db ? kept(t, db) : t_tmp(t, c);
    for (int64_t i = 0; i < m * c; i++) {
        wdr[i] = dy->v[i] * slope(k, o.pre[i]);
        wdx[i] = wdr[i] * V(o.scale, i % c, 1);
        ws[i % c] += wdr[i] * o.x->v[i];
        wb[i % c] += wdr[i];
    }
    T_RUN(t, channel_affine_bwd, .dx = dx->p, .dr = P(dr), .dscale = P(ds), .dshift = P(db),
          .dy = dy->p, .x = o.x->p, .r = P(o.r), .t = type, .xt = xt, .scale = P(o.scale),
          .shift = P(o.shift), .m = m, .c = c, .fn = k);
    t_check(t, "dx", dx, wdx, t_tol(t, xt == DR_BF16 ? DR_BF16 : DR_F32));
    if (dr)
        t_check(t, "dr", dr, wdr, t_tol(t, type));
    if (ds)
        t_check(t, "dscale", ds, ws, t_tol(t, DR_F32));
    if (db)
        t_check(t, "dshift", db, wb, t_tol(t, DR_F32));
}

void case_channel_affine_bwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(affines) * 12; s++)
        for (int f = 0; f < t_dtypes(t) * t_dtypes(t); f++)
            affine_bwd(t, affines[s / 12][0], affines[s / 12][1], f / t_dtypes(t), f % t_dtypes(t),
                       s % 3, (int)(s / 3 % 4));
}

// ---- sums

static const int64_t sizes[] = {1, 7, 37, 4099, 40003};

void case_add_act_fwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(sizes) * 6; s++)
        for (int type = 0; type < t_dtypes(t); type++) {
            const int64_t n = sizes[s / 6];
            const enum dr_fn k = s % 3;
            struct tbuf *a = t_normal(t, type, n, 2);
            struct tbuf *b = s / 3 % 2 ? t_normal(t, type, n, 2) : NULL;
            double *want = t_tmp(t, n);
            for (int64_t i = 0; i < n; i++)
                want[i] = fn(k, a->v[i] + V(b, i, 0));
            struct tbuf *y = s % 2 ? t_inout(a) : t_out(t, type, n);
            T_RUN(t, add_act_fwd, .y = y->p, .a = a->p, .b = P(b), .t = type, .n = n, .fn = k);
            t_check(t, "y", y, want, t_tol(t, type));
        }
}

void case_add_act_bwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(sizes) * 6; s++)
        for (int type = 0; type < t_dtypes(t); type++) {
            const int64_t n = sizes[s / 6];
            const enum dr_fn k = s % 3;
            struct tbuf *a = t_normal(t, type, n, 2);
            struct tbuf *b = s / 3 % 2 ? t_normal(t, type, n, 2) : NULL;
            double *pre = t_tmp(t, n), *want = t_tmp(t, n);
            double *v = kept(t, t_normal(t, type, n, 1));
            for (int64_t i = 0; i < n; i++)
                pre[i] = a->v[i] + V(b, i, 0);
            avoid_jump(v, pre, k == DR_FN_RELU ? n : 0);
            struct tbuf *dy = t_values(t, type, n, v);
            for (int64_t i = 0; i < n; i++)
                want[i] = dy->v[i] * slope(k, pre[i]);
            struct tbuf *dx = s % 2 ? t_inout(dy) : t_out(t, type, n);
            T_RUN(t, add_act_bwd, .dx = dx->p, .dy = dy->p, .a = a->p, .b = P(b), .t = type, .n = n,
                  .fn = k);
            t_check(t, "dx", dx, want, t_tol(t, type));
        }
}
