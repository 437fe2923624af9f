// Cases of the flat ops: cast, fill, axpy, copy4, colsum, sumsq, adamw, ema, normals, indices.
#include "tests/ops/harness.h"

static const int64_t sizes[] = {1, 7, 64, 1001, 70001};

void case_cast(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(sizes); s++)
        for (int f = 0; f < t_dtypes(t); f++)
            for (int g = 0; g < t_dtypes(t); g++) {
                int64_t n = sizes[s];
                struct tbuf *x = t_normal(t, f, n, 3), *y = t_out(t, g, n);
                T_RUN(t, cast, .dst = y->p, .src = x->p, .dt = g, .st = f, .n = n);
                struct tbuf *want = t_values(t, g, n, x->v); // rounds to nearest even
                t_check(t, "dst", y, want->v, 0);
            }
}

void case_fill(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(sizes); s++) {
        struct tbuf *y = t_out(t, DR_F32, sizes[s]);
        double *want = t_tmp(t, sizes[s]);
        for (int64_t i = 0; i < sizes[s]; i++)
            want[i] = 0.75;
        T_RUN(t, fill, .dst = y->p, .n = sizes[s], .value = (real)0.75);
        t_check(t, "dst", y, want, 0);
    }
}

void case_axpy(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(sizes); s++)
        for (int f = 0; f < t_dtypes(t); f++) {
            int64_t n = sizes[s];
            struct tbuf *x = t_normal(t, f, n, 1), *y = t_inout(t_normal(t, DR_F32, n, 1));
            double *want = t_tmp(t, n);
            for (int64_t i = 0; i < n; i++)
                want[i] = y->v[i] - 0.625 * x->v[i];
            T_RUN(t, axpy, .y = y->p, .x = x->p, .xt = f, .n = n, .alpha = (real)-0.625);
            t_check(t, "y", y, want, t_tol(t, DR_F32));
        }
}

// Fills want from dst's and src's values by the definition.
static void copy4_ref(double *want, const double *src, const struct dr_copy4_args *a) {
    for (int64_t i = 0; i < a->dim[0]; i++)
        for (int64_t j = 0; j < a->dim[1]; j++)
            for (int64_t k = 0; k < a->dim[2]; k++)
                for (int64_t l = 0; l < a->dim[3]; l++) {
                    int64_t d = i * a->dstride[0] + j * a->dstride[1] + k * a->dstride[2] +
                                l * a->dstride[3];
                    double v = src[i * a->sstride[0] + j * a->sstride[1] + k * a->sstride[2] +
                                   l * a->sstride[3]];
                    want[d] = a->acc ? want[d] + v : v;
                }
}

void case_copy4(struct t *t) {
    static const struct dr_copy4_args shapes[] = {
        // all contiguous; rows into wider rows; a transpose; a broadcast; a crop; long rows
        {.dim = {2, 3, 4, 5}, .dstride = {60, 20, 5, 1}, .sstride = {60, 20, 5, 1}},
        {.dim = {1, 3, 4, 5}, .dstride = {999, 40, 10, 1}, .sstride = {60, 20, 5, 1}},
        {.dim = {2, 7, 5, 3}, .dstride = {105, 1, 7, 35}, .sstride = {105, 15, 3, 1}},
        {.dim = {3, 4, 2, 6}, .dstride = {48, 12, 6, 1}, .sstride = {6, 0, 0, 1}},
        {.dim = {2, 2, 3, 3}, .dstride = {18, 9, 3, 1}, .sstride = {80, 40, 8, 1}},
        {.dim = {3, 17, 1, 1025},
         .dstride = {17 * 1025, 1025, 1, 1},
         .sstride = {1025, 3100, 7, 1}},
        {.dim = {2, 3, 28, 28}, .dstride = {2352, 1, 84, 3}, .sstride = {2352, 784, 28, 1}},
    };
    for (size_t s = 0; s < DR_COUNT(shapes); s++)
        for (int f = 0; f < t_dtypes(t) * t_dtypes(t) * 2; f++) {
            struct dr_copy4_args a = shapes[s];
            a.dt = f & 1 ? DR_BF16 : DR_F32;
            a.st = f & 2 ? DR_BF16 : DR_F32;
            if (t_dtypes(t) == 1)
                a.dt = a.st = DR_F32;
            a.acc = f >= t_dtypes(t) * t_dtypes(t);
            int64_t dn = 1, sn = 1;
            for (int i = 0; i < 4; i++) {
                dn += (a.dim[i] - 1) * a.dstride[i];
                sn += (a.dim[i] - 1) * a.sstride[i];
            }
            struct tbuf *x = t_normal(t, a.st, sn, 1), *y;
            double *want = t_tmp(t, dn);
            for (int64_t i = 0; i < dn; i++)
                want[i] = NAN;
            if (a.acc) {
                y = t_inout(t_normal(t, a.dt, dn, 1));
                memcpy(want, y->v, (size_t)dn * sizeof *want);
            } else {
                y = t_out(t, a.dt, dn);
            }
            copy4_ref(want, x->v, &a);
            a.dst = y->p;
            a.src = x->p;
            t->be->op.copy4(t->be, &a);
            t_sync(t);
            t_check(t, "dst", y, want, t_tol(t, a.dt));
        }
}

void case_colsum(struct t *t) {
    static const int64_t shapes[][3] = {{1, 1, 0},       {5, 3, 0},      {33, 70, 0},
                                        {1152, 256, 0},  {700, 17, 19},  {4609, 96, 0},
                                        {3, 3000, 3001}, {150001, 1, 0}, {2111, 7, 0}};
    for (size_t s = 0; s < DR_COUNT(shapes); s++)
        for (int f = 0; f < 2 * t_dtypes(t); f++) {
            int64_t m = shapes[s][0], n = shapes[s][1], ld = shapes[s][2] ? shapes[s][2] : n;
            enum dr_dtype xt = f / 2;
            bool acc = f & 1;
            struct tbuf *x = t_normal(t, xt, (m - 1) * ld + n, 1);
            struct tbuf *y = acc ? t_inout(t_normal(t, DR_F32, n, 1)) : t_out(t, DR_F32, n);
            double *want = t_tmp(t, n);
            for (int64_t j = 0; j < n; j++) {
                want[j] = acc ? y->v[j] : 0;
                for (int64_t i = 0; i < m; i++)
                    want[j] += x->v[i * ld + j];
            }
            T_RUN(t, colsum, .out = y->p, .x = x->p, .xt = xt, .m = m, .n = n, .ld = shapes[s][2],
                  .acc = acc);
            t_check(t, "out", y, want, t_tol(t, DR_F32));
        }
}

void case_sumsq(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(sizes); s++)
        for (int acc = 0; acc < 2; acc++) {
            struct tbuf *x = t_normal(t, DR_F32, sizes[s], 2);
            struct tbuf *y = acc ? t_inout(t_normal(t, DR_F32, 1, 1)) : t_out(t, DR_F32, 1);
            double want = acc ? y->v[0] : 0;
            for (int64_t i = 0; i < sizes[s]; i++)
                want += x->v[i] * x->v[i];
            T_RUN(t, sumsq, .out = y->p, .x = x->p, .n = sizes[s], .acc = acc);
            t_check(t, "out", y, &want, 1e-13); // double inside: one rounding of the result
        }
}

// Row `at` of planes [h,w] as view has it: dr_gather_args says how.
static double seen(const double *from, bool bytes, const int32_t *view, int64_t row, int64_t count,
                   int64_t h, int64_t w, int64_t at) {
    int64_t x = at % w, y = at / w % h;
    if (view[2])
        x = w - 1 - x;
    x += view[2] ? -view[1] : view[1];
    y += view[0];
    while (x < 0 || x >= w)
        x = x < 0 ? -x : 2 * w - 2 - x;
    while (y < 0 || y >= h)
        y = y < 0 ? -y : 2 * h - 2 - y;
    const double v = from[row * count + at / (h * w) * h * w + y * w + x];
    return bytes ? v / 127.5 - 1 : v;
}

static void gather_seen(struct t *t, int64_t n, int64_t c, int64_t h, int64_t w, bool bytes) {
    enum { ROWS = 5, MOST = ROWS * 3 * 9 * 8 };
    const int64_t count = c * h * w;
    int32_t view[3 * 40];
    uint64_t id[40];
    uint8_t pixel[MOST];
    for (int64_t i = 0; i < n; i++) {
        id[i] = t_rand(t) % ROWS;
        view[3 * i] = (int32_t)(t_rand(t) % (uint64_t)(2 * h - 1)) - (int32_t)h + 1;
        view[3 * i + 1] = (int32_t)(t_rand(t) % (uint64_t)(2 * w - 1)) - (int32_t)w + 1;
        view[3 * i + 2] = (int32_t)(t_rand(t) & 1);
    }
    for (int64_t i = 0; i < ROWS * count; i++)
        pixel[i] = (uint8_t)t_rand(t);
    struct tbuf *from = bytes ? t_u8(t, ROWS * count, pixel) : t_normal(t, DR_F32, ROWS * count, 1);
    struct tbuf *idx = t_u64(t, n, id), *as = t_i32(t, 3 * n, view);
    struct tbuf *dst = t_out(t, DR_F32, n * count);
    double *want = t_tmp(t, n * count), *value = t_tmp(t, ROWS * count);
    for (int64_t i = 0; i < ROWS * count; i++)
        value[i] = bytes ? pixel[i] : from->v[i];
    for (int64_t i = 0; i < n * count; i++)
        want[i] = seen(value, bytes, view + 3 * (i / count), (int64_t)id[i / count], count, h, w,
                       i % count);
    T_RUN(t, gather, .dst = dst->p, .pixels = bytes ? from->p : NULL,
          .points = bytes ? NULL : from->p, .idx = idx->p, .n = n, .count = count, .view = as->p,
          .h = h, .w = w);
    t_check(t, "dst", dst, want, bytes ? t_tol(t, DR_F32) : 0);
}

static void gather_views(struct t *t) {
    for (int bytes = 0; bytes < 2; bytes++) {
        gather_seen(t, 1, 1, 1, 1, bytes);
        gather_seen(t, 7, 1, 2, 3, bytes);
        gather_seen(t, 40, 3, 9, 8, bytes);
    }
}

void case_gather(struct t *t) {
    enum { ROWS = 7 };
    static const int64_t shapes[][2] = {{1, 1}, {5, 2}, {ROWS, 33}, {300, 1024}}; // n, count
    for (size_t s = 0; s < DR_COUNT(shapes) * 4; s++) {
        const int64_t n = shapes[s / 4][0], count = shapes[s / 4][1];
        const bool bytes = s & 1, indexed = (s & 2) || n > ROWS;
        int64_t id[300];
        uint64_t raw[300]; // int64 as the buffer sees it
        for (int64_t i = 0; i < n; i++)
            raw[i] = (uint64_t)(id[i] = indexed ? (int64_t)(t_rand(t) % ROWS) : i);
        uint8_t pixel[ROWS * 1024];
        for (int64_t i = 0; i < ROWS * count; i++)
            pixel[i] = (uint8_t)t_rand(t);
        struct tbuf *from =
            bytes ? t_u8(t, ROWS * count, pixel) : t_normal(t, DR_F32, ROWS * count, 1);
        struct tbuf *idx = t_u64(t, n, raw), *dst = t_out(t, DR_F32, n * count);
        double *want = t_tmp(t, n * count);
        for (int64_t i = 0; i < n * count; i++) {
            const int64_t at = id[i / count] * count + i % count;
            want[i] = bytes ? pixel[at] / 127.5 - 1 : from->v[at];
        }
        T_RUN(t, gather, .dst = dst->p, .pixels = bytes ? from->p : NULL,
              .points = bytes ? NULL : from->p, .idx = indexed ? idx->p : NULL, .n = n,
              .count = count);
        t_check(t, "dst", dst, want, bytes ? t_tol(t, DR_F32) : 0);
    }
    gather_views(t);
}

// What the guard forbids is not written at all.
static void guarded(struct t *t, double first, double second) {
    const double value[] = {first, second}, hyper[] = {1e-3, 0.1, 0.1, 0.5};
    const bool open = isfinite(first) && isfinite(second);
    struct tbuf *w = t_inout(t_normal(t, DR_F32, 9, 1)), *m = t_inout(t_normal(t, DR_F32, 9, 1)),
                *v = t_inout(t_uniform(t, DR_F32, 9, 1, 2)),
                *e = t_inout(t_normal(t, DR_F32, 9, 1)), *g = t_normal(t, DR_F32, 9, 1),
                *x = t_normal(t, DR_F32, 9, 1);
    struct tbuf *h = t_values(t, DR_F32, 4, hyper), *ok = t_values(t, DR_F32, 2, value);
    T_RUN(t, adamw, .w = w->p, .m = m->p, .v = v->p, .g = g->p, .hyper = h->p, .guard = ok->p,
          .n = 9, .beta1 = (real)0.9, .beta2 = (real)0.9, .eps = (real)1e-8);
    T_RUN(t, ema, .e = e->p, .w = x->p, .decay = (real *)h->p + 3, .guard = ok->p, .n = 9);
    struct tbuf *const all[] = {w, m, v, e};
    for (int k = 0; k < 4; k++) {
        const double *now = t_read(t, all[k]);
        for (int i = 0; i < 9; i++)
            if ((now[i] == all[k]->v[i]) == open)
                t_fail(t, "a guard of %g, %g was not heeded", first, second);
    }
}

void case_adamw(struct t *t) {
    guarded(t, 0, 0);
    guarded(t, NAN, 1);
    guarded(t, 1, INFINITY);
    for (int f = 0; f < 8; f++) {
        int64_t n = sizes[f % 5];
        bool half = t_dtypes(t) == 2 && (f & 1);
        double clip = f & 2 ? 2.0 : 0, b1 = 0.9, b2 = 0.95, eps = 1e-8, decay = f & 4 ? 0.01 : 0;
        double hyper[] = {2e-3, 1 - 0.9 * 0.9 * 0.9, 1 - 0.95 * 0.95 * 0.95};
        double sum = f & 4 ? 100.0 : 1.0; // norms 10 and 1: over and under the clip
        struct tbuf *w = t_inout(t_normal(t, DR_F32, n, 1)),
                    *m = t_inout(t_normal(t, DR_F32, n, .1));
        struct tbuf *v = t_inout(t_uniform(t, DR_F32, n, 0.001, 0.1)),
                    *g = t_normal(t, DR_F32, n, .3);
        struct tbuf *h = t_values(t, DR_F32, 3, hyper), *s = t_values(t, DR_F32, 1, &sum);
        struct tbuf *w16 = half ? t_out(t, DR_BF16, n) : NULL;
        double *ww = t_tmp(t, n), *wm = t_tmp(t, n), *wv = t_tmp(t, n);
        double scale = clip > 0 ? fmin(1, clip / (sqrt(s->v[0]) + 1e-6)) : 1;
        for (int64_t i = 0; i < n; i++) {
            double gi = g->v[i] * scale;
            wm[i] = b1 * m->v[i] + (1 - b1) * gi;
            wv[i] = b2 * v->v[i] + (1 - b2) * gi * gi;
            double step = wm[i] / h->v[1] / (sqrt(wv[i] / h->v[2]) + eps);
            ww[i] = w->v[i] - h->v[0] * decay * w->v[i] - h->v[0] * step;
        }
        T_RUN(t, adamw, .w = w->p, .m = m->p, .v = v->p, .g = g->p, .sumsq = s->p, .hyper = h->p,
              .w16 = half ? w16->p : NULL, .n = n, .beta1 = (real)b1, .beta2 = (real)b2,
              .eps = (real)eps, .decay = (real)decay, .clip = (real)clip);
        t_check(t, "w", w, ww, t_tol(t, DR_F32));
        t_check(t, "m", m, wm, t_tol(t, DR_F32));
        t_check(t, "v", v, wv, t_tol(t, DR_F32));
        if (half) { // exactly the rounded new weights
            struct tbuf *round = t_values(t, DR_BF16, n, t_read(t, w));
            t_check(t, "w16", w16, round->v, 0);
        }
    }
}

void case_ema(struct t *t) {
    for (size_t s = 0; s < DR_COUNT(sizes); s++) {
        int64_t n = sizes[s];
        double decay = 0.98;
        struct tbuf *e = t_inout(t_normal(t, DR_F32, n, 1)), *w = t_normal(t, DR_F32, n, 1);
        struct tbuf *d = t_values(t, DR_F32, 1, &decay);
        double *want = t_tmp(t, n);
        for (int64_t i = 0; i < n; i++)
            want[i] = e->v[i] + (1 - d->v[0]) * (w->v[i] - e->v[i]);
        T_RUN(t, ema, .e = e->p, .w = w->p, .decay = d->p, .n = n);
        t_check(t, "e", e, want, t_tol(t, DR_F32));
    }
}

// Philox4x32-10 once more, from Salmon et al. 2011: rounds of two 32x32 multiplications.
static void philox(uint64_t seed, uint32_t block, uint32_t stream, uint64_t index, uint32_t c[4]) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    c[0] = block, c[1] = stream, c[2] = (uint32_t)index, c[3] = (uint32_t)(index >> 32);
    for (int r = 0; r < 10; r++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c[1] ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
        c[1] = (uint32_t)p1, c[3] = (uint32_t)p0, c[0] = n0, c[2] = n2;
    }
}

static const uint64_t seeds[] = {0, 42, 0xfedcba9876543210u, 7, 7},
                      indices[] = {0, 1, 3, 1ull << 40, 5};

void case_normals(struct t *t) {
    static const int64_t widths[] = {1, 6, 33, 3072};
    struct tbuf *seed = t_u64(t, 5, seeds), *index = t_u64(t, 5, indices);
    for (size_t s = 0; s < DR_COUNT(widths); s++) {
        int64_t n = widths[s];
        struct tbuf *out = t_out(t, DR_F32, 5 * n);
        double *want = t_tmp(t, 5 * n);
        for (int64_t i = 0; i < 5 * n; i++) {
            uint32_t r[4], j = (uint32_t)(i % n % 4), pair = j / 2 * 2;
            philox(seeds[i / n], (uint32_t)(i % n / 4), 9, indices[i / n], r);
            double u0 = (r[pair] + 0.5) * 0x1p-32, u1 = (r[pair + 1] + 0.5) * 0x1p-32;
            want[i] = sqrt(-2 * log(u0)) * (j % 2 ? sin(2 * M_PI * u1) : cos(2 * M_PI * u1));
        }
        T_RUN(t, normals, .out = out->p, .seed = seed->p, .index = index->p, .b = 5, .n = n,
              .stream = 9);
        t_check(t, "out", out, want, 1e-13);
    }
}

void case_indices(struct t *t) {
    struct tbuf *seed = t_u64(t, 5, seeds), *index = t_u64(t, 5, indices);
    struct tbuf *out = t_out_i32(t, 5 * 33);
    T_RUN(t, indices, .out = out->p, .seed = seed->p, .index = index->p, .b = 5, .n = 33,
          .stream = 1, .range = 64);
    int32_t got[5 * 33];
    t->be->download(t->be, got, out->p, sizeof got);
    for (int i = 0; i < 5 * 33; i++) {
        uint32_t r[4];
        philox(seeds[i / 33], (uint32_t)(i % 33 / 4), 1, indices[i / 33], r);
        int32_t want = (int32_t)(((uint64_t)r[i % 33 % 4] * 64) >> 32);
        if (got[i] != want)
            t_fail(t, "out[%d] is %d, expected %d", i, got[i], want);
    }
}
