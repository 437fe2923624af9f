// Cases of the activations: silu, gelu, swiglu. Inputs are spread wide enough for both tails.
#include "tests/ops/harness.h"

static const int64_t sizes[] = {1, 7, 37, 4099, 40003};

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}
static double dsilu(double x) {
    return sigmoid(x) * (1 + x * (1 - sigmoid(x)));
}
static double cdf(double x) {
    return 0.5 * erfc(-x * M_SQRT1_2);
}
static double dgelu(double x) {
    return cdf(x) + x * exp(-0.5 * x * x) / sqrt(2 * M_PI);
}

// A few values where exp over- or underflows, at the front.
static struct tbuf *spread(struct t *t, enum dr_dtype type, int64_t n) {
    static const double hard[] = {300, -300, -87.5, 88.9, -0.0, 1e-20};
    double *v = t_tmp(t, n);
    struct tbuf *b = t_normal(t, type, n, 4);
    for (int64_t i = 0; i < n; i++)
        v[i] = i < (int64_t)DR_COUNT(hard) ? hard[i] : b->v[i];
    return t_values(t, type, n, v);
}

// The same with 0 <= |x| < 10, where the value decides about the error instead of 300.
static struct tbuf *plain(struct t *t, enum dr_dtype type, int64_t n) {
    return t_uniform(t, type, n, -10, 10);
}

void case_silu_fwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(sizes); s++)
        for (int f = 0; f < t_dtypes(t) * t_dtypes(t) * 2; f++) {
            int64_t n = sizes[s];
            enum dr_dtype xt = f / 2 % t_dtypes(t), yt = f / 2 / t_dtypes(t);
            struct tbuf *x = f & 1 ? spread(t, xt, n) : plain(t, xt, n), *y = t_out(t, yt, n);
            double *want = t_tmp(t, n);
            for (int64_t i = 0; i < n; i++)
                want[i] = x->v[i] * sigmoid(x->v[i]);
            T_RUN(t, silu_fwd, .y = y->p, .x = x->p, .yt = yt, .xt = xt, .n = n);
            t_check(t, "y", y, want, t_tol(t, yt));
            if (xt == yt) { // in place
                struct tbuf *z = t_inout(x);
                T_RUN(t, silu_fwd, .y = z->p, .x = z->p, .yt = yt, .xt = xt, .n = n);
                t_check(t, "y", z, want, t_tol(t, yt));
            }
        }
}

void case_silu_bwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(sizes); s++)
        for (int f = 0; f < t_dtypes(t) * 2; f++) {
            int64_t n = sizes[s];
            enum dr_dtype type = f / 2;
            struct tbuf *x = f & 1 ? spread(t, type, n) : plain(t, type, n);
            struct tbuf *dy = t_normal(t, type, n, 1), *dx = t_out(t, type, n);
            struct tbuf *y = t_out(t, type, n);
            double *want = t_tmp(t, n), *wy = t_tmp(t, n);
            for (int64_t i = 0; i < n; i++) {
                want[i] = dy->v[i] * dsilu(x->v[i]);
                wy[i] = x->v[i] * sigmoid(x->v[i]);
            }
            T_RUN(t, silu_bwd, .dx = dx->p, .y = y->p, .x = x->p, .dy = dy->p, .t = type, .n = n);
            t_check(t, "dx", dx, want, t_tol(t, type));
            t_check(t, "y", y, wy, t_tol(t, type));
            T_RUN(t, silu_bwd, .dx = t_inout(dy)->p, .x = x->p, .dy = dy->p, .t = type, .n = n);
            t_check(t, "dx", dy, want, t_tol(t, type));
        }
}

void case_gelu_fwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(sizes); s++)
        for (int f = 0; f < t_dtypes(t) * 2; f++) {
            int64_t n = sizes[s];
            enum dr_dtype type = f / 2;
            struct tbuf *x = f & 1 ? spread(t, type, n) : plain(t, type, n), *y = t_out(t, type, n);
            double *want = t_tmp(t, n);
            for (int64_t i = 0; i < n; i++)
                want[i] = x->v[i] * cdf(x->v[i]);
            T_RUN(t, gelu_fwd, .y = y->p, .x = x->p, .t = type, .n = n);
            t_check(t, "y", y, want, t_tol(t, type));
        }
}

void case_gelu_bwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(sizes); s++)
        for (int f = 0; f < t_dtypes(t) * 2; f++) {
            int64_t n = sizes[s];
            enum dr_dtype type = f / 2;
            struct tbuf *x = f & 1 ? spread(t, type, n) : plain(t, type, n);
            struct tbuf *dy = t_normal(t, type, n, 1), *dx = t_out(t, type, n);
            struct tbuf *y = t_out(t, type, n);
            double *want = t_tmp(t, n), *wy = t_tmp(t, n);
            for (int64_t i = 0; i < n; i++) {
                want[i] = dy->v[i] * dgelu(x->v[i]);
                wy[i] = x->v[i] * cdf(x->v[i]);
            }
            T_RUN(t, gelu_bwd, .dx = dx->p, .y = y->p, .x = x->p, .dy = dy->p, .t = type, .n = n);
            t_check(t, "dx", dx, want, t_tol(t, type));
            t_check(t, "y", y, wy, t_tol(t, type));
            T_RUN(t, gelu_bwd, .dx = t_inout(dy)->p, .x = x->p, .dy = dy->p, .t = type, .n = n);
            t_check(t, "dx", dy, want, t_tol(t, type));
        }
}

static const int64_t shapes[][2] = {{1, 1}, {3, 7}, {5, 64}, {33, 1024}, {260, 130}};

void case_swiglu_fwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(shapes); s++)
        for (int f = 0; f < t_dtypes(t); f++) {
            int64_t m = shapes[s][0], n = shapes[s][1];
            struct tbuf *h = t_normal(t, f, m * 2 * n, 2), *y = t_out(t, f, m * n);
            double *want = t_tmp(t, m * n);
            for (int64_t i = 0; i < m * n; i++) {
                double h1 = h->v[i / n * 2 * n + i % n], h3 = h->v[i / n * 2 * n + n + i % n];
                want[i] = h1 * sigmoid(h1) * h3;
            }
            T_RUN(t, swiglu_fwd, .y = y->p, .h = h->p, .act = f, .m = m, .n = n);
            t_check(t, "y", y, want, t_tol(t, f));
        }
}

void case_swiglu_bwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(shapes); s++)
        for (int f = 0; f < t_dtypes(t) * 2; f++) {
            int64_t m = shapes[s][0], n = shapes[s][1];
            enum dr_dtype act = f / 2;
            bool in_place = f & 1; // and without y
            struct tbuf *h = t_normal(t, act, m * 2 * n, 2), *dy = t_normal(t, act, m * n, 1);
            struct tbuf *y = in_place ? NULL : t_out(t, act, m * n);
            struct tbuf *dh = in_place ? t_inout(h) : t_out(t, act, m * 2 * n);
            double *wy = t_tmp(t, m * n), *wh = t_tmp(t, m * 2 * n);
            for (int64_t i = 0; i < m * n; i++) {
                int64_t at = i / n * 2 * n + i % n;
                double h1 = h->v[at], h3 = h->v[at + n], silu = h1 * sigmoid(h1);
                wy[i] = silu * h3;
                wh[at] = dy->v[i] * h3 * dsilu(h1);
                wh[at + n] = dy->v[i] * silu;
            }
            T_RUN(t, swiglu_bwd, .dh = dh->p, .y = y ? y->p : NULL, .h = h->p, .dy = dy->p,
                  .act = act, .m = m, .n = n);
            t_check(t, "dh", dh, wh, t_tol(t, act));
            if (y)
                t_check(t, "y", y, wy, t_tol(t, act));
        }
}
