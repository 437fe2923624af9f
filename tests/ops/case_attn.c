// Cases of attention, against a forward and a backward written out in double from ops.h.
#include "tests/ops/harness.h"

struct attn {
    int64_t b, t, h, hd;
    bool norm, rope;
    double scale;
    bool opposed; // q points away from every k: all scores are far below 0
};
static const struct attn shapes[] = {
    {1, 1, 1, 2, true, true, 1},          {2, 5, 3, 10, true, true, 0.3},
    {2, 5, 3, 10, false, true, 0.3},      {3, 7, 2, 6, true, false, 0.4},
    {1, 16, 2, 32, false, false, 1},      {2, 72, 2, 64, true, true, 0.125},
    {1, 100, 1, 48, true, true, 0.2},     {1, 209, 2, 16, true, true, 0.25},
    {1, 33, 1, 128, true, true, 0.1},     {1, 145, 1, 74, true, true, 0.1},
    {1, 180, 1, 60, true, true, 0.1},     {1, 350, 1, 30, true, true, 0.2},
    {1, 209, 2, 64, true, true, 0.125},   {1, 97, 1, 32, false, true, 0.2},
    {2, 5, 2, 64, false, false, 2, true}, // about -128: exp(-score) is beyond a float
};

struct head { // one (sample, head) in double; [t,hd] each, probabilities [t,t]
    double *raw[2], *x[2], *rstd[2], *v, *p;
};
struct problem {
    const struct attn *s;
    struct tbuf *qkv, *norm[2], *cos, *sin;
    double eps;
};

static struct tbuf *opposed(struct t *t, const struct attn *s, enum dr_dtype act) {
    struct tbuf *x = t_uniform(t, act, s->b * s->t * 3 * s->h * s->hd, 0.5, 1.5);
    double *v = t_tmp(t, x->n);
    for (int64_t i = 0; i < x->n; i++)
        v[i] = i / (s->h * s->hd) % 3 == 0 ? -x->v[i] : x->v[i];
    return t_values(t, act, x->n, v);
}

static struct problem problem(struct t *t, const struct attn *s, enum dr_dtype act) {
    struct problem o = {.s = s, .eps = 1e-3};
    o.qkv = s->opposed ? opposed(t, s, act) : t_normal(t, act, s->b * s->t * 3 * s->h * s->hd, 1);
    for (int i = 0; i < 2; i++)
        o.norm[i] = s->norm ? t_uniform(t, DR_F32, s->hd, 0.5, 1.5) : NULL;
    int64_t half = s->hd / 2;
    double *c = t_tmp(t, s->t * half), *d = t_tmp(t, s->t * half);
    for (int64_t i = 0; i < s->t * half; i++) {
        double angle = (double)(i / half) * pow(10000, -(double)(i % half) / (double)half);
        c[i] = cos(angle);
        d[i] = sin(angle);
    }
    o.cos = s->rope ? t_values(t, DR_F32, s->t * half, c) : NULL;
    o.sin = s->rope ? t_values(t, DR_F32, s->t * half, d) : NULL;
    return o;
}

static double rotated(const struct problem *o, const double *x, int64_t i, int64_t j, double sign) {
    int64_t half = o->s->hd / 2, c = i * half + j % half;
    double other = j < half ? -x[j + half] : x[j - half];
    return x[j] * o->cos->v[c] + sign * other * o->sin->v[c];
}

static void prepare(const struct problem *o, struct head *w, int which) {
    int64_t hd = o->s->hd;
    double row[256];
    for (int64_t i = 0; i < o->s->t; i++) {
        const double *raw = w->raw[which] + i * hd;
        double sum = 0;
        for (int64_t j = 0; j < hd; j++)
            sum += raw[j] * raw[j];
        double r = w->rstd[which][i] = 1 / sqrt(sum / (double)hd + o->eps);
        for (int64_t j = 0; j < hd; j++)
            row[j] = o->s->norm ? raw[j] * r * o->norm[which]->v[j] : raw[j];
        for (int64_t j = 0; j < hd; j++)
            w->x[which][i * hd + j] = o->s->rope ? rotated(o, row, i, j, 1) : row[j];
    }
}

static struct head head(struct t *t, const struct problem *o, int64_t b, int64_t h) {
    const struct attn *s = o->s;
    struct head w = {.v = t_tmp(t, s->t * s->hd), .p = t_tmp(t, s->t * s->t)};
    for (int k = 0; k < 3; k++) {
        double *to = k < 2 ? (w.raw[k] = t_tmp(t, s->t * s->hd)) : w.v;
        for (int64_t i = 0; i < s->t * s->hd; i++)
            to[i] = o->qkv->v[(((b * s->t + i / s->hd) * 3 + k) * s->h + h) * s->hd + i % s->hd];
    }
    for (int k = 0; k < 2; k++) {
        w.x[k] = t_tmp(t, s->t * s->hd);
        w.rstd[k] = t_tmp(t, s->t);
        prepare(o, &w, k);
    }
    for (int64_t i = 0; i < s->t; i++) {
        double sum = 0, *p = w.p + i * s->t, max = -INFINITY;
        for (int64_t j = 0; j < s->t; j++) {
            for (int64_t c = 0; c < s->hd; c++)
                p[j] += s->scale * w.x[0][i * s->hd + c] * w.x[1][j * s->hd + c];
            max = fmax(max, p[j]);
        }
        for (int64_t j = 0; j < s->t; j++)
            sum += p[j] = exp(p[j] - max);
        for (int64_t j = 0; j < s->t; j++)
            p[j] /= sum;
    }
    return w;
}

#define P(buf) ((buf) ? (buf)->p : NULL)

void case_attn_fwd(struct t *t) {
    for (size_t k = 0; k < DR_COUNT(shapes); k++)
        for (int act = 0; act < t_dtypes(t); act++) {
            const struct attn *s = &shapes[k];
            struct problem o = problem(t, s, act);
            struct tbuf *out = t_out(t, act, s->b * s->t * s->h * s->hd);
            double *want = t_tmp(t, out->n);
            for (int64_t bh = 0; bh < s->b * s->h; bh++) {
                struct head w = head(t, &o, bh / s->h, bh % s->h);
                for (int64_t i = 0; i < s->t; i++)
                    for (int64_t c = 0; c < s->hd; c++)
                        for (int64_t j = 0; j < s->t; j++)
                            want[((bh / s->h * s->t + i) * s->h + bh % s->h) * s->hd + c] +=
                                w.p[i * s->t + j] * w.v[j * s->hd + c];
            }
            T_RUN(t, attn_fwd, .out = out->p, .qkv = o.qkv->p, .act = act, .q_norm = P(o.norm[0]),
                  .k_norm = P(o.norm[1]), .rope_cos = P(o.cos), .rope_sin = P(o.sin), .b = s->b,
                  .t = s->t, .h = s->h, .hd = s->hd, .scale = (real)s->scale, .eps = (real)o.eps);
            t_check(t, "out", out, want, t_tol(t, act));
        }
}

// d: gradient after norm and rotation, [t,hd]. Leaves the raw row's gradient there, adds to dnorm.
static void back_to_raw(const struct problem *o, const struct head *w, int which, double *d,
                        double *dnorm) {
    int64_t hd = o->s->hd;
    double row[256];
    for (int64_t i = 0; i < o->s->t; i++, d += hd) {
        for (int64_t j = 0; j < hd; j++)
            row[j] = o->s->rope ? rotated(o, d, i, j, -1) : d[j];
        double mean = 0, r = w->rstd[which][i];
        const double *raw = w->raw[which] + i * hd;
        for (int64_t j = 0; j < hd && o->s->norm; j++) {
            dnorm[j] += row[j] * raw[j] * r;
            row[j] *= o->norm[which]->v[j];
            mean += row[j] * raw[j] * r / (double)hd;
        }
        for (int64_t j = 0; j < hd; j++)
            d[j] = o->s->norm ? r * (row[j] - raw[j] * r * mean) : row[j];
    }
}

// g: dout of the head, [t,hd]; d: dq, dk, dv.
static void backward(struct t *t, const struct problem *o, const struct head *w, const double *g,
                     double *d[3]) {
    const struct attn *s = o->s;
    double *dp = t_tmp(t, s->t);
    for (int64_t i = 0; i < s->t; i++) {
        double dot = 0;
        for (int64_t j = 0; j < s->t; j++) {
            dp[j] = 0;
            for (int64_t c = 0; c < s->hd; c++)
                dp[j] += g[i * s->hd + c] * w->v[j * s->hd + c];
            dot += dp[j] * w->p[i * s->t + j];
        }
        for (int64_t j = 0; j < s->t; j++)
            for (int64_t c = 0; c < s->hd; c++) {
                double ds = s->scale * w->p[i * s->t + j] * (dp[j] - dot);
                d[0][i * s->hd + c] += ds * w->x[1][j * s->hd + c];
                d[1][j * s->hd + c] += ds * w->x[0][i * s->hd + c];
                d[2][j * s->hd + c] += w->p[i * s->t + j] * g[i * s->hd + c];
            }
    }
}

static void head_bwd(struct t *t, const struct problem *o, int64_t b, int64_t h, const double *dout,
                     double *dqkv, double *dnorm[2]) {
    const struct attn *s = o->s;
    struct head w = head(t, o, b, h);
    int64_t n = s->t * s->hd;
    double *g = t_tmp(t, n), *d[3] = {t_tmp(t, n), t_tmp(t, n), t_tmp(t, n)};
    for (int64_t i = 0; i < n; i++)
        g[i] = dout[((b * s->t + i / s->hd) * s->h + h) * s->hd + i % s->hd];
    backward(t, o, &w, g, d);
    for (int k = 0; k < 2; k++)
        back_to_raw(o, &w, k, d[k], dnorm[k]);
    for (int64_t i = 0; i < 3 * n; i++)
        dqkv[(((b * s->t + i % n / s->hd) * 3 + i / n) * s->h + h) * s->hd + i % s->hd] =
            d[i / n][i % n];
}

// GPUs keep q, k and dS between two products in bf16, as their tensor cores take them, so what
// comes of them has bf16's tolerance although it is fp32. So does the CPU backend for some widths,
// where the processor multiplies bf16; for others it computes in fp32 throughout.
static double norm_tol(const struct t *t, const struct attn *s, enum dr_dtype act) {
    const bool pairs = s->hd == 32 || s->hd == 64;
    return t_tol(t, strcmp(t->be->name, "cpu") || pairs ? act : DR_F32);
}

void case_attn_bwd(struct t *t) {
    for (size_t k = 0; k < DR_COUNT(shapes) * 2; k++)
        for (int act = 0; act < t_dtypes(t); act++) {
            const struct attn *s = &shapes[k / 2];
            struct problem o = problem(t, s, act);
            struct tbuf *dout = t_normal(t, act, s->b * s->t * s->h * s->hd, 1);
            struct tbuf *dqkv = k & 1 ? t_inout(o.qkv) : t_out(t, act, o.qkv->n);
            struct tbuf *dnorm[2] = {NULL, NULL};
            double *want = t_tmp(t, o.qkv->n), *wn[2] = {t_tmp(t, s->hd), t_tmp(t, s->hd)};
            for (int i = 0; i < 2 && s->norm; i++) {
                dnorm[i] = t_inout(t_normal(t, DR_F32, s->hd, 1));
                for (int64_t j = 0; j < s->hd; j++)
                    wn[i][j] = dnorm[i]->v[j];
            }
            for (int64_t bh = 0; bh < s->b * s->h; bh++)
                head_bwd(t, &o, bh / s->h, bh % s->h, dout->v, want, wn);
            T_RUN(t, attn_bwd, .dqkv = dqkv->p, .dq_norm = P(dnorm[0]), .dk_norm = P(dnorm[1]),
                  .dout = dout->p, .qkv = o.qkv->p, .act = act, .q_norm = P(o.norm[0]),
                  .k_norm = P(o.norm[1]), .rope_cos = P(o.cos), .rope_sin = P(o.sin), .b = s->b,
                  .t = s->t, .h = s->h, .hd = s->hd, .scale = (real)s->scale, .eps = (real)o.eps);
            t_check(t, "dqkv", dqkv, want, t_tol(t, act));
            for (int i = 0; i < 2 && s->norm; i++)
                t_check(t, i ? "dk_norm" : "dq_norm", dnorm[i], wn[i], norm_tol(t, s, act));
        }
}
