// Cases of rmsnorm_mod, gate and l2norm.
#include "tests/ops/harness.h"

// One shape of rmsnorm_mod with its options; `gap` is added to every stride.
struct norm {
    int64_t b, t, d, gap;
    bool weight, mod, acc;
    double gain;
};
static const struct norm norms[] = {
    {1, 1, 1, 0, true, true, false, 0},       {3, 5, 7, 3, true, true, true, 0},
    {2, 4, 64, 0, true, false, false, 0},     {2, 3, 33, 5, false, true, true, 0.5},
    {3, 2, 16, 1, false, false, false, 0.02}, {5, 31, 256, 8, true, true, false, 0},
    {2, 70, 384, 0, true, true, true, 1},     {2, 9, 512, 4, true, true, false, 0},
    {1, 3, 700, 0, true, true, true, 0},      {2, 3, 1024, 0, true, true, false, 0},
    {1, 9, 1100, 0, true, true, true, 0},
};

struct norm_data {
    struct tbuf *x, *weight, *shift, *scale;
    int64_t xs, ms;
    double *rstd, *mul; // [b*t], [b,d]: gain weight (1 + scale)
};
#define EPS 1e-3 // large, so that leaving it out would show

static struct norm_data norm_data(struct t *t, const struct norm *n) {
    struct norm_data o = {.xs = n->t * n->d + n->gap, .ms = n->d + n->gap};
    o.x = t_normal(t, DR_F32, n->b * o.xs, 1);
    o.weight = n->weight ? t_uniform(t, DR_F32, n->d, 0.5, 2) : NULL;
    o.shift = n->mod ? t_normal(t, DR_F32, n->b * o.ms, 1) : NULL;
    o.scale = n->mod ? t_normal(t, DR_F32, n->b * o.ms, 0.5) : NULL;
    o.rstd = t_tmp(t, n->b * n->t);
    o.mul = t_tmp(t, n->b * n->d);
    for (int64_t r = 0; r < n->b * n->t; r++) {
        double sum = 0;
        for (int64_t i = 0; i < n->d; i++)
            sum += pow(o.x->v[r / n->t * o.xs + r % n->t * n->d + i], 2);
        o.rstd[r] = 1 / sqrt(sum / (double)n->d + EPS);
    }
    for (int64_t i = 0; i < n->b * n->d; i++) {
        int64_t m = i / n->d * o.ms + i % n->d;
        o.mul[i] = (n->gain != 0 ? n->gain : 1) * (n->weight ? o.weight->v[i % n->d] : 1) *
                   (n->mod ? 1 + o.scale->v[m] : 1);
    }
    return o;
}

#define P(buf) ((buf) ? (buf)->p : NULL)

void case_rmsnorm_mod_fwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(norms) * 2; s++)
        for (int yt = 0; yt < t_dtypes(t); yt++) {
            const struct norm *n = &norms[s / 2];
            struct norm_data o = norm_data(t, n);
            struct tbuf *y = t_out(t, yt, n->b * n->t * n->d);
            struct tbuf *rstd = s & 1 ? t_out(t, DR_F32, n->b * n->t) : NULL;
            double *want = t_tmp(t, y->n), gain = n->gain != 0 ? n->gain : 1;
            for (int64_t i = 0; i < y->n; i++) {
                int64_t r = i / n->d, b = r / n->t, c = i % n->d;
                want[i] = o.x->v[b * o.xs + r % n->t * n->d + c] * o.rstd[r] * o.mul[b * n->d + c] +
                          (n->mod ? gain * o.shift->v[b * o.ms + c] : 0);
            }
            T_RUN(t, rmsnorm_mod_fwd, .y = y->p, .yt = yt, .rstd = P(rstd), .x = o.x->p,
                  .x_stride = n->gap ? o.xs : 0, .weight = P(o.weight), .shift = P(o.shift),
                  .scale = P(o.scale), .mod_stride = o.ms, .b = n->b, .t = n->t, .d = n->d,
                  .eps = (real)EPS, .gain = (real)n->gain);
            t_check(t, "y", y, want, t_tol(t, yt));
            if (rstd)
                t_check(t, "rstd", rstd, o.rstd, t_tol(t, DR_F32));
        }
}

// Expected gradients; gaps of dx, dshift and dscale keep what they hold.
struct norm_want {
    double *dx, *dweight, *dshift, *dscale;
};

static void norm_bwd_row(const struct norm *n, const struct norm_data *o, const double *dy,
                         int64_t r, struct norm_want *w) {
    const int64_t b = r / n->t, d = n->d, x = b * o->xs + r % n->t * d, m = b * o->ms;
    const double rstd = o->rstd[r], gain = n->gain != 0 ? n->gain : 1;
    double mean = 0;
    for (int64_t i = 0; i < d; i++)
        mean += dy[r * d + i] * o->mul[b * d + i] * o->x->v[x + i] * rstd / (double)d;
    for (int64_t i = 0; i < d; i++) {
        double xh = o->x->v[x + i] * rstd, g = dy[r * d + i];
        double dx = rstd * (g * o->mul[b * d + i] - xh * mean);
        w->dx[x + i] = n->acc ? w->dx[x + i] + dx : dx;
        if (n->weight)
            w->dweight[i] += g * gain * (n->mod ? 1 + o->scale->v[m + i] : 1) * xh;
        if (!n->mod)
            continue;
        if (r % n->t == 0)
            w->dshift[m + i] = w->dscale[m + i] = 0;
        w->dshift[m + i] += g * gain;
        w->dscale[m + i] += g * gain * (n->weight ? o->weight->v[i] : 1) * xh;
    }
}

static double *kept(struct t *t, const struct tbuf *b) {
    double *v = t_tmp(t, b->n);
    for (int64_t i = 0; i < b->n; i++)
        v[i] = b->v[i];
    return v;
}

static void norm_bwd(struct t *t, const struct norm *n, enum dr_dtype dyt, bool want_weight) {
    struct norm_data o = norm_data(t, n);
    struct tbuf *dy = t_normal(t, dyt, n->b * n->t * n->d, 1);
    struct tbuf *rstd = t_values(t, DR_F32, n->b * n->t, o.rstd);
    struct tbuf *dx = t_inout(t_normal(t, DR_F32, n->b * o.xs, 1));
    struct tbuf *dweight = t_inout(t_normal(t, DR_F32, n->d, 1));
    struct tbuf *dshift = t_inout(t_normal(t, DR_F32, n->b * o.ms, 1));
    struct tbuf *dscale = t_inout(t_normal(t, DR_F32, n->b * o.ms, 1));
    struct norm_want w = {kept(t, dx), kept(t, dweight), kept(t, dshift), kept(t, dscale)};
    for (int64_t r = 0; r < n->b * n->t; r++)
        norm_bwd_row(n, &o, dy->v, r, &w);
    T_RUN(t, rmsnorm_mod_bwd, .dx = dx->p, .acc_dx = n->acc,
          .dweight = want_weight && n->weight ? dweight->p : NULL,
          .dshift = n->mod ? dshift->p : NULL, .dscale = n->mod ? dscale->p : NULL,
          .dmod_stride = o.ms, .dy = dy->p, .dyt = dyt, .x = o.x->p, .rstd = rstd->p,
          .weight = P(o.weight), .scale = P(o.scale), .x_stride = n->gap ? o.xs : 0,
          .mod_stride = o.ms, .b = n->b, .t = n->t, .d = n->d, .gain = (real)n->gain);
    t_check(t, "dx", dx, w.dx, t_tol(t, DR_F32));
    t_check(t, "dweight", dweight, want_weight ? w.dweight : dweight->v, t_tol(t, DR_F32));
    t_check(t, "dshift", dshift, w.dshift, t_tol(t, DR_F32));
    t_check(t, "dscale", dscale, w.dscale, t_tol(t, DR_F32));
}

void case_rmsnorm_mod_bwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(norms) * 2; s++)
        for (int dyt = 0; dyt < t_dtypes(t); dyt++)
            norm_bwd(t, &norms[s / 2], dyt, s & 1);
}

static const int64_t gates[][4] = {{1, 1, 1, 0}, {3, 5, 7, 4}, {2, 9, 64, 0}, {4, 72, 256, 1280}};

void case_gate_fwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(gates) * 2; s++)
        for (int act = 0; act < t_dtypes(t); act++) {
            int64_t b = gates[s / 2][0], tt = gates[s / 2][1], d = gates[s / 2][2];
            int64_t ms = d + gates[s / 2][3], n = b * tt * d;
            struct tbuf *x = t_normal(t, DR_F32, n, 1), *y = t_normal(t, act, n, 1);
            struct tbuf *gate = t_normal(t, DR_F32, b * ms, 1);
            struct tbuf *out = s & 1 ? t_inout(x) : t_out(t, DR_F32, n);
            double *want = t_tmp(t, n);
            for (int64_t i = 0; i < n; i++)
                want[i] = x->v[i] + gate->v[i / (tt * d) * ms + i % d] * y->v[i];
            T_RUN(t, gate_fwd, .out = out->p, .x = x->p, .gate = gate->p, .y = y->p, .act = act,
                  .mod_stride = ms, .b = b, .t = tt, .d = d);
            t_check(t, "out", out, want, t_tol(t, DR_F32));
        }
}

void case_gate_bwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(gates); s++)
        for (int f = 0; f < t_dtypes(t) * 2; f++) {
            enum dr_dtype act = f / 2;
            int64_t b = gates[s][0], tt = gates[s][1], d = gates[s][2], ms = d + gates[s][3];
            int64_t n = b * tt * d, dms = ms + (f & 1 ? 4 : 3);
            struct tbuf *dout = t_normal(t, DR_F32, n, 1), *y = t_normal(t, act, n, 1);
            struct tbuf *gate = t_normal(t, DR_F32, b * ms, 1);
            struct tbuf *dy = t_out(t, act, n), *dgate = t_out(t, DR_F32, b * dms);
            double *wy = t_tmp(t, n), *wg = t_tmp(t, b * dms);
            for (int64_t i = 0; i < b * dms; i++)
                wg[i] = i % dms < d ? 0 : NAN;
            for (int64_t i = 0; i < n; i++) {
                int64_t bi = i / (tt * d);
                wy[i] = dout->v[i] * gate->v[bi * ms + i % d];
                wg[bi * dms + i % d] += dout->v[i] * y->v[i];
            }
            T_RUN(t, gate_bwd, .dy = dy->p, .dgate = dgate->p, .dmod_stride = dms, .dout = dout->p,
                  .gate = gate->p, .y = y->p, .act = act, .mod_stride = ms, .b = b, .t = tt,
                  .d = d);
            t_check(t, "dy", dy, wy, t_tol(t, act));
            t_check(t, "dgate", dgate, wg, t_tol(t, DR_F32));
        }
}

static const int64_t rows[][2] = {{1, 2}, {4, 7}, {5, 48}, {70, 1000}};

// Row 1 is shorter than eps.
static struct tbuf *l2_input(struct t *t, int64_t m, int64_t n) {
    struct tbuf *b = t_normal(t, DR_F32, m * n, 1);
    double *v = kept(t, b);
    for (int64_t i = 0; i < m * n; i++)
        v[i] *= i / n == 1 ? 1e-5 : 1;
    return t_values(t, DR_F32, m * n, v);
}
#define L2_EPS 1e-2

void case_l2norm_fwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(rows); s++) {
        int64_t m = rows[s][0], n = rows[s][1];
        struct tbuf *x = l2_input(t, m, n), *y = t_out(t, DR_F32, m * n);
        struct tbuf *norm = t_out(t, DR_F32, m);
        double *wy = t_tmp(t, m * n), *wn = t_tmp(t, m);
        for (int64_t i = 0; i < m * n; i++)
            wn[i / n] += x->v[i] * x->v[i];
        for (int64_t r = 0; r < m; r++)
            wn[r] = fmax(sqrt(wn[r]), L2_EPS);
        for (int64_t i = 0; i < m * n; i++)
            wy[i] = x->v[i] / wn[i / n];
        T_RUN(t, l2norm_fwd, .y = y->p, .norm = norm->p, .x = x->p, .m = m, .n = n,
              .eps = (real)L2_EPS);
        t_check(t, "y", y, wy, t_tol(t, DR_F32));
        t_check(t, "norm", norm, wn, t_tol(t, DR_F32));
    }
}

void case_l2norm_bwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(rows); s++) {
        int64_t m = rows[s][0], n = rows[s][1];
        struct tbuf *x = l2_input(t, m, n), *dy = t_normal(t, DR_F32, m * n, 1);
        struct tbuf *dx = t_out(t, DR_F32, m * n);
        double *y = t_tmp(t, m * n), *norm = t_tmp(t, m), *along = t_tmp(t, m),
               *w = t_tmp(t, m * n);
        for (int64_t i = 0; i < m * n; i++)
            norm[i / n] += x->v[i] * x->v[i];
        for (int64_t r = 0; r < m; r++)
            norm[r] = sqrt(norm[r]);
        for (int64_t i = 0; i < m * n; i++) {
            y[i] = x->v[i] / fmax(norm[i / n], L2_EPS);
            along[i / n] += dy->v[i] * y[i];
        }
        // below eps the divisor is a constant and nothing is projected out
        for (int64_t i = 0; i < m * n; i++)
            w[i] = norm[i / n] > L2_EPS ? (dy->v[i] - y[i] * along[i / n]) / norm[i / n]
                                        : dy->v[i] / L2_EPS;
        for (int64_t r = 0; r < m; r++)
            norm[r] = fmax(norm[r], (real)L2_EPS);
        struct tbuf *by = t_values(t, DR_F32, m * n, y), *bn = t_values(t, DR_F32, m, norm);
        T_RUN(t, l2norm_bwd, .dx = dx->p, .dy = dy->p, .y = by->p, .norm = bn->p, .m = m, .n = n,
              .eps = (real)L2_EPS);
        t_check(t, "dx", dx, w, t_tol(t, DR_F32));
    }
}
