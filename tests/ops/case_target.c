// Cases of mask_apply, masked_mse and softmax_xent.
#include "tests/ops/harness.h"

struct masked {
    int64_t b, h, w, c, p;
};
static const struct masked masks[] = {
    {1, 1, 1, 1, 1}, {2, 4, 6, 3, 2}, {3, 5, 7, 4, 2}, {2, 8, 8, 33, 4}, {2, 31, 29, 12, 1},
};

static int64_t patches(const struct masked *k) {
    return k->b * ((k->h + k->p - 1) / k->p) * ((k->w + k->p - 1) / k->p);
}
// The mask's value at element i of [b,h,w,c].
static double mask_at(const struct masked *k, const struct tbuf *mask, int64_t i) {
    const int64_t x = i / k->c % k->w, y = i / k->c / k->w % k->h, n = i / k->c / k->w / k->h;
    const int64_t high = (k->h + k->p - 1) / k->p, along = (k->w + k->p - 1) / k->p;
    return mask ? mask->v[(n * high + y / k->p) * along + x / k->p] : 1;
}
// Zeros and ones; none at all in the last sample.
static struct tbuf *make_mask(struct t *t, const struct masked *k) {
    const int64_t n = patches(k);
    double *v = t_tmp(t, n);
    for (int64_t i = 0; i < n - n / k->b * (k->b > 1); i++)
        v[i] = (double)(t_rand(t) % 2);
    return t_values(t, DR_F32, n, v);
}

void case_mask_apply(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(masks) * 4; s++)
        for (int type = 0; type < t_dtypes(t); type++) {
            const struct masked *k = &masks[s / 4];
            const int64_t n = k->b * k->h * k->w * k->c;
            struct tbuf *x = t_normal(t, type, n, 1),
                        *mask = t_uniform(t, DR_F32, patches(k), 0, 1);
            double *want = t_tmp(t, n);
            for (int64_t i = 0; i < n; i++) {
                const double m = mask_at(k, mask, i);
                want[i] = x->v[i] * (s % 2 ? 1 - m : m);
            }
            struct tbuf *y = s / 2 % 2 ? t_inout(x) : t_out(t, type, n);
            T_RUN(t, mask_apply, .y = y->p, .x = x->p, .t = type, .mask = mask->p, .b = k->b,
                  .h = k->h, .w = k->w, .c = k->c, .p = k->p, .invert = s % 2);
            t_check(t, "y", y, want, t_tol(t, type));
        }
}

void case_masked_mse(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(masks) * 4; s++)
        for (int f = 0; f < t_dtypes(t) * t_dtypes(t); f++) {
            const struct masked *k = &masks[s / 4];
            const enum dr_dtype xt = f / t_dtypes(t), yt = f % t_dtypes(t);
            const int64_t size = k->h * k->w * k->c, n = k->b * size;
            struct tbuf *x = t_normal(t, xt, n, 1), *y = t_normal(t, yt, n, 1);
            struct tbuf *mask = s % 2 ? make_mask(t, k) : NULL;
            double *loss = t_tmp(t, k->b), *count = t_tmp(t, k->b), *want = t_tmp(t, n);
            for (int64_t i = 0; i < n; i++)
                count[i / size] += mask_at(k, mask, i);
            for (int64_t i = 0; i < n; i++) {
                const double d = x->v[i] - y->v[i], m = mask_at(k, mask, i);
                loss[i / size] += m * d * d / fmax(count[i / size], 1);
                want[i] = 2 * 0.25 * m * d / fmax(count[i / size], 1);
            }
            struct tbuf *out = t_out(t, DR_F32, k->b);
            struct tbuf *dx = s / 2 % 2 ? t_inout(x) : s % 2 ? t_out(t, xt, n) : NULL;
            T_RUN(t, masked_mse, .loss = out->p, .dx = dx ? dx->p : NULL, .x = x->p, .y = y->p,
                  .xt = xt, .yt = yt, .mask = mask ? mask->p : NULL, .b = k->b, .h = k->h,
                  .w = k->w, .c = k->c, .p = k->p, .scale = (real)0.25);
            t_check(t, "loss", out, loss, t_tol(t, DR_F32));
            if (dx)
                t_check(t, "dx", dx, want, t_tol(t, xt));
        }
}

// ---- cross-entropy

static const int64_t rows[][2] = {{1, 1}, {5, 2}, {7, 10}, {9, 33}, {3, 1000}, {70, 100}};

struct xent_want {
    double *loss, *prob, *correct, *slope;
};

static void xent_row(const double *x, double *slope, int64_t n, int32_t label, double smoothing,
                     double scale, const struct xent_want *w, int64_t row) {
    double sum = 0, top = x[0];
    for (int64_t i = 0; i < n; i++)
        top = fmax(top, x[i]);
    for (int64_t i = 0; i < n; i++)
        sum += exp(x[i] - top);
    if (label < 0)
        return;
    w->correct[row] = 1;
    for (int64_t i = 0; i < n; i++) {
        const double q = (i == label ? 1 - smoothing : 0) + smoothing / (double)n;
        const double logp = x[i] - top - log(sum);
        w->loss[row] -= q * logp;
        slope[i] = scale * (exp(logp) - q);
        if (x[i] > x[label] || (i < label && x[i] == x[label]))
            w->correct[row] = 0;
    }
    w->prob[row] = exp(x[label] - top) / sum;
}

void case_softmax_xent(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(rows) * 4; s++)
        for (int f = 0; f < t_dtypes(t) * t_dtypes(t); f++) {
            const int64_t m = rows[s / 4][0], n = rows[s / 4][1];
            const enum dr_dtype lt = f / t_dtypes(t), dt = f % t_dtypes(t);
            const double smoothing = s % 2 ? 0.1 : 0, scale = s / 2 % 2 ? 0.5 : 1;
            struct tbuf *x = t_normal(t, lt, m * n, 6);
            int32_t *labels = (int32_t *)t_tmp(t, m);
            const struct xent_want w = {t_tmp(t, m), t_tmp(t, m), t_tmp(t, m), t_tmp(t, m * n)};
            for (int64_t i = 0; i < m; i++) {
                labels[i] = i == 4 ? -1 : (int32_t)(t_rand(t) % (uint64_t)n);
                for (int64_t j = 1; i % 3 == 0 && j < n; j++) // often right
                    labels[i] = x->v[i * n + j] > x->v[i * n + labels[i]] ? (int32_t)j : labels[i];
                xent_row(x->v + i * n, w.slope + i * n, n, labels[i], smoothing, scale, &w, i);
            }
            struct tbuf *loss = t_out(t, DR_F32, m), *prob = t_out(t, DR_F32, m);
            struct tbuf *correct = t_out(t, DR_F32, m), *label = t_i32(t, m, labels);
            struct tbuf *d = lt == dt && s % 4 == 3 ? t_inout(x) : t_out(t, dt, m * n);
            const bool only = s % 4 == 2; // the gradient
            T_RUN(t, softmax_xent, .loss = only ? NULL : loss->p, .prob = only ? NULL : prob->p,
                  .correct = only ? NULL : correct->p, .dlogits = s % 4 ? d->p : NULL,
                  .logits = x->p, .lt = lt, .dt = dt, .labels = label->p, .m = m, .n = n,
                  .smoothing = (real)smoothing, .scale = (real)scale);
            if (s % 4 && n > 1) // the softmax of one logit has no slope but rounding
                t_check(t, "dlogits", d, w.slope, t_tol(t, dt));
            if (only)
                continue;
            t_check(t, "loss", loss, w.loss, t_tol(t, DR_F32));
            t_check(t, "prob", prob, w.prob, t_tol(t, DR_F32));
            t_check(t, "correct", correct, w.correct, t_tol(t, DR_F32));
        }
}
