// Cases of embeddings, Fourier features, patches and patch statistics.
#include "tests/ops/harness.h"

struct embed {
    int64_t b, nk, d, rows;
    bool shared;
};
static const struct embed embeds[] = {{1, 1, 1, 1, true},    {5, 1, 7, 11, true},
                                      {6, 32, 33, 64, true}, {9, 32, 130, 8, true},
                                      {4, 3, 20, 6, false},  {70, 32, 100, 64, false}};

// Indices, and for each lookup the table row it meets.
static struct tbuf *draw(struct t *t, const struct embed *e, int64_t *row) {
    int32_t idx[70 * 32];
    for (int64_t i = 0; i < e->b * e->nk; i++) {
        idx[i] = (int32_t)(t_rand(t) % (uint64_t)e->rows);
        row[i] = idx[i] + (e->shared ? 0 : i % e->nk * e->rows);
    }
    return t_i32(t, e->b * e->nk, idx);
}

void case_embed_fwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(embeds) * 2; s++) {
        const struct embed *e = &embeds[s / 2];
        int64_t row[70 * 32], n = e->b * e->d;
        struct tbuf *idx = draw(t, e, row);
        struct tbuf *table = t_normal(t, DR_F32, (e->shared ? 1 : e->nk) * e->rows * e->d, 1);
        struct tbuf *out = s & 1 ? t_inout(t_normal(t, DR_F32, n, 1)) : t_out(t, DR_F32, n);
        double *want = t_tmp(t, n);
        for (int64_t i = 0; i < n; i++) {
            want[i] = s & 1 ? out->v[i] : 0;
            for (int64_t k = 0; k < e->nk; k++)
                want[i] += table->v[row[i / e->d * e->nk + k] * e->d + i % e->d];
        }
        T_RUN(t, embed_fwd, .out = out->p, .table = table->p, .idx = idx->p, .b = e->b, .nk = e->nk,
              .d = e->d, .table_rows = e->shared ? 0 : e->rows, .acc = s & 1);
        t_check(t, "out", out, want, t_tol(t, DR_F32));
    }
}

void case_embed_bwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(embeds); s++) {
        const struct embed *e = &embeds[s];
        int64_t row[70 * 32];
        struct tbuf *idx = draw(t, e, row), *dout = t_normal(t, DR_F32, e->b * e->d, 1);
        struct tbuf *dt = t_inout(t_normal(t, DR_F32, (e->shared ? 1 : e->nk) * e->rows * e->d, 1));
        double *want = t_tmp(t, dt->n);
        for (int64_t i = 0; i < dt->n; i++)
            want[i] = dt->v[i];
        for (int64_t i = 0; i < e->b * e->nk; i++)
            for (int64_t c = 0; c < e->d; c++)
                want[row[i] * e->d + c] += dout->v[i / e->nk * e->d + c];
        T_RUN(t, embed_bwd, .dtable = dt->p, .dout = dout->p, .idx = idx->p, .b = e->b, .nk = e->nk,
              .d = e->d, .table_rows = e->shared ? 0 : e->rows);
        t_check(t, "dtable", dt, want, t_tol(t, DR_F32));
    }
}

void case_fourier(struct t *t) {
    static const int64_t widths[] = {2, 7, 256};
    for (size_t s = 0; s < DR_COUNT(widths); s++) {
        int64_t b = 5, n = widths[s], half = n / 2;
        double period = s ? 10 : 10000;
        struct tbuf *v = t_uniform(t, DR_F32, b, 0, 4), *out = t_out(t, DR_F32, b * n);
        double *want = t_tmp(t, b * n); // an odd width ends in 0
        for (int64_t i = 0; i < b * half; i++) {
            double x = v->v[i / half] * pow(period, -(double)(i % half) / (double)half);
            want[i / half * n + i % half] = cos(x);
            want[i / half * n + half + i % half] = sin(x);
        }
        T_RUN(t, fourier, .out = out->p, .val = v->p, .b = b, .n = n, .max_period = (real)period);
        t_check(t, "out", out, want, t_tol(t, DR_F32));
    }
}

static const int64_t images[][5] = { // b, c, h, w, p
    {1, 1, 1, 1, 1},
    {2, 3, 4, 6, 2},
    {3, 1, 28, 28, 7},
    {9, 4, 32, 32, 2}};

// Element of the token tensor that holds image element i.
static int64_t token_of(const int64_t s[5], int64_t i, bool hwc) {
    int64_t c = s[1], h = s[2], w = s[3], p = s[4];
    int64_t x = i % w, y = i / w % h, ch = i / (w * h) % c, b = i / (w * h * c);
    int64_t token = (b * (h / p) + y / p) * (w / p) + x / p;
    int64_t in = hwc ? (y % p * p + x % p) * c + ch : (ch * p + y % p) * p + x % p;
    return token * c * p * p + in;
}

void case_patchify(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(images) * 2; s++)
        for (int type = 0; type < t_dtypes(t); type++) {
            const int64_t *d = images[s / 2], n = d[0] * d[1] * d[2] * d[3];
            struct tbuf *image = t_normal(t, DR_F32, n, 1), *tokens = t_out(t, type, n);
            double *want = t_tmp(t, n);
            for (int64_t i = 0; i < n; i++)
                want[token_of(d, i, s & 1)] = image->v[i];
            T_RUN(t, patchify, .tokens = tokens->p, .t = type, .image = image->p, .b = d[0],
                  .c = d[1], .h = d[2], .w = d[3], .p = d[4], .hwc = s & 1);
            struct tbuf *rounded = t_values(t, type, n, want);
            t_check(t, "tokens", tokens, rounded->v, 0);
        }
}

void case_unpatchify(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(images) * 2; s++)
        for (int type = 0; type < t_dtypes(t); type++) {
            const int64_t *d = images[s / 2], n = d[0] * d[1] * d[2] * d[3];
            struct tbuf *tokens = t_normal(t, type, n, 1), *image = t_out(t, DR_F32, n);
            double *want = t_tmp(t, n);
            for (int64_t i = 0; i < n; i++)
                want[i] = tokens->v[token_of(d, i, s & 1)];
            T_RUN(t, unpatchify, .image = image->p, .tokens = tokens->p, .t = type, .b = d[0],
                  .c = d[1], .h = d[2], .w = d[3], .p = d[4], .hwc = s & 1);
            t_check(t, "image", image, want, 0);
        }
}

static const int64_t maps[][5] = { // b, h, w, c, p; the last ones leave a border out
    {1, 1, 1, 1, 1},  {2, 4, 6, 7, 2}, {3, 8, 8, 33, 4},
    {2, 5, 5, 64, 5}, {2, 7, 9, 5, 2}, {4, 28, 28, 17, 4}};

// Means and variances of every patch in double: out[patch, 2c].
static void stats(const int64_t d[5], const double *x, double *mean, double *var) {
    int64_t h = d[1], w = d[2], c = d[3], p = d[4], nx = w / p, ny = h / p;
    for (int64_t i = 0; i < d[0] * ny * nx * c; i++) {
        int64_t b = i / (ny * nx * c), py = i / (nx * c) % ny, px = i / c % nx;
        double sum = 0, sq = 0;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t k = 0; k < p * p; k++) {
                double v = x[((b * h + py * p + k / p) * w + px * p + k % p) * c + i % c];
                if (pass)
                    sq += pow(v - sum / (double)(p * p), 2);
                else
                    sum += v;
            }
        mean[i] = sum / (double)(p * p);
        var[i] = sq / (double)(p * p);
    }
}

void case_patch_stats_fwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(maps); s++) {
        const int64_t *d = maps[s], c = d[3], n = d[0] * (d[1] / d[4]) * (d[2] / d[4]) * c;
        struct tbuf *x = t_normal(t, DR_F32, d[0] * d[1] * d[2] * c, 1);
        struct tbuf *out = t_out(t, DR_F32, 2 * n);
        double *mean = t_tmp(t, n), *var = t_tmp(t, n), *want = t_tmp(t, 2 * n);
        stats(d, x->v, mean, var);
        for (int64_t i = 0; i < n; i++) {
            want[i / c * 2 * c + i % c] = mean[i];
            want[i / c * 2 * c + c + i % c] = sqrt(var[i] + 1e-6);
        }
        T_RUN(t, patch_stats_fwd, .out = out->p, .x = x->p, .b = d[0], .h = d[1], .w = d[2], .c = c,
              .p = d[4]);
        t_check(t, "out", out, want, t_tol(t, DR_F32));
    }
}

void case_patch_stats_bwd(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(maps); s++) {
        const int64_t *d = maps[s], c = d[3], p = d[4], nx = d[2] / p, ny = d[1] / p;
        const int64_t n = d[0] * ny * nx * c;
        struct tbuf *x = t_normal(t, DR_F32, d[0] * d[1] * d[2] * c, 1);
        struct tbuf *dout = t_normal(t, DR_F32, 2 * n, 1),
                    *dx = t_inout(t_normal(t, DR_F32, x->n, 1));
        double *mean = t_tmp(t, n), *var = t_tmp(t, n), *fwd = t_tmp(t, 2 * n),
               *want = t_tmp(t, x->n);
        stats(d, x->v, mean, var);
        for (int64_t i = 0; i < n; i++) {
            fwd[i / c * 2 * c + i % c] = mean[i];
            fwd[i / c * 2 * c + c + i % c] = sqrt(var[i] + 1e-6);
        }
        for (int64_t i = 0; i < x->n; i++) {
            int64_t ch = i % c, px = i / c % d[2] / p, py = i / (c * d[2]) % d[1] / p;
            int64_t b = i / (c * d[2] * d[1]), patch = (b * ny + py) * nx + px;
            want[i] = dx->v[i];
            if (px >= nx || py >= ny)
                continue;
            double m = fwd[patch * 2 * c + ch], sd = fwd[patch * 2 * c + c + ch];
            want[i] += (dout->v[patch * 2 * c + ch] +
                        dout->v[patch * 2 * c + c + ch] * (x->v[i] - m) / sd) /
                       (double)(p * p);
        }
        struct tbuf *out = t_values(t, DR_F32, 2 * n, fwd);
        T_RUN(t, patch_stats_bwd, .dx = dx->p, .dout = dout->p, .out = out->p, .x = x->p, .b = d[0],
              .h = d[1], .w = d[2], .c = c, .p = p);
        t_check(t, "dx", dx, want, t_tol(t, DR_F32));
    }
}
