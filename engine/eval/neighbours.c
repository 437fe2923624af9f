// Metrics of pairs of rows: neighbours and manifolds. See metrics.h. Distances come from products
// of blocks; a pair has the same bits whichever side it is seen from, so that ties are ties.
#include "engine/eval/metrics.h"
#include "engine/eval/product.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 512 }; // rows of a block

// Squared distances p[n,m] of rows i, i + 1, ... of x to rows j, j + 1, ... of y.
typedef void pairs_fn(void *ctx, int64_t i, int64_t n, int64_t j, int64_t m, const double *p);

struct block {
    double x[SIDE], y[SIDE]; // squared lengths
    double *a, *b, *p;       // rows of x and y [SIDE,d], products [SIDE,SIDE]
};

// Rows in double and their squared lengths, summed in eval_product's order: a row is at distance 0
// from itself.
static void load(const real *x, int64_t n, int64_t d, double *rows, double *squares) {
    for (int64_t i = 0; i < n; i++) {
        squares[i] = 0;
        for (int64_t at = 0; at < d; at += EVAL_PIECE) {
            double s = 0;
            for (int64_t k = at; k < DR_MIN(d, at + EVAL_PIECE); k++) {
                rows[i * d + k] = (double)x[i * d + k];
                s += rows[i * d + k] * rows[i * d + k];
            }
            squares[i] += s;
        }
    }
}

static void squared(struct block *t, int64_t n, int64_t m, int64_t d) {
    memset(t->p, 0, (size_t)(n * m) * sizeof *t->p);
    eval_product(t->a, n, t->b, m, d, t->p, m, false);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < m; j++) {
            const double v = t->x[i] + t->y[j] - 2 * t->p[i * m + j];
            t->p[i * m + j] = v > 0 ? v : 0; // not fmax, which is a call
        }
}

// Calls fn for all pairs, block by block. `upper`: x is y; blocks below the diagonal are left out.
static int all_pairs(const real *x, int64_t n, const real *y, int64_t m, int64_t d, bool upper,
                     pairs_fn *fn, void *ctx, struct dr_err *err) {
    struct block *t = malloc(sizeof *t);
    double *own = malloc((size_t)(2 * SIDE * d + SIDE * SIDE) * sizeof *own);
    if (t && own) {
        t->a = own;
        t->b = own + SIDE * d;
        t->p = t->b + SIDE * d;
        for (int64_t i = 0; i < n; i += SIDE) {
            const int64_t rows = DR_MIN((int64_t)SIDE, n - i);
            load(x + i * d, rows, d, t->a, t->x);
            for (int64_t j = upper ? i : 0; j < m; j += SIDE) {
                const int64_t cols = DR_MIN((int64_t)SIDE, m - j);
                load(y + j * d, cols, d, t->b, t->y);
                squared(t, rows, cols, d);
                fn(ctx, i, rows, j, cols, t->p);
            }
        }
    }
    const bool ok = t && own;
    free(own);
    free(t);
    return ok ? 0
              : dr_fail(err, DR_ENOMEM, "out of memory for distances of %lld features",
                        (long long)d);
}

// The least of n values; LANES of them at a time, as one minimum waits for the one before it. Not
// by fmin, which is a call.
static double least(const double *p, int64_t n) {
    enum { LANES = 8 };
    double best[LANES];
    for (int l = 0; l < LANES; l++)
        best[l] = INFINITY;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            best[l] = p[i + l] < best[l] ? p[i + l] : best[l];
    for (; i < n; i++)
        best[0] = p[i] < best[0] ? p[i] : best[0];
    for (int l = 1; l < LANES; l++)
        best[0] = best[l] < best[0] ? best[l] : best[0];
    return best[0];
}

static void take_nearest(void *ctx, int64_t i, int64_t n, int64_t j, int64_t m, const double *p) {
    double *out = ctx;
    (void)j;
    for (int64_t r = 0; r < n; r++)
        out[i + r] = fmin(out[i + r], least(p + r * m, m));
}

static void take_but_own(void *ctx, int64_t i, int64_t n, int64_t j, int64_t m, const double *p) {
    double *out = ctx;
    for (int64_t r = 0; r < n; r++) {
        const int64_t own = DR_MIN(DR_MAX(i + r - j, (int64_t)-1), m); // -1, m: in another block
        const double *row = p + r * m, before = least(row, DR_MAX(own, (int64_t)0)),
                     after = own < m ? least(row + own + 1, m - own - 1) : INFINITY;
        out[i + r] = fmin(out[i + r], fmin(before, after));
    }
}

static int nearest(const real *x, int64_t n, const real *y, int64_t m, int64_t d, pairs_fn *take,
                   double *out, struct dr_err *err) {
    if (m < 1)
        return dr_fail(err, DR_EINVAL, "there are no images to search for the nearest");
    for (int64_t i = 0; i < n; i++)
        out[i] = INFINITY;
    const int rc = all_pairs(x, n, y, m, d, false, take, out, err);
    for (int64_t i = 0; i < n; i++)
        out[i] = sqrt(out[i]);
    return rc;
}

int dr_nearest_rows(const real *x, int64_t n, const real *y, int64_t m, int64_t d, double *out,
                    struct dr_err *err) {
    return nearest(x, n, y, m, d, take_nearest, out, err);
}

int dr_nearest_but_own(const real *x, int64_t n, const real *y, int64_t m, int64_t d, double *out,
                       struct dr_err *err) {
    return nearest(x, n, y, m, d, take_but_own, out, err);
}

struct others {
    int64_t k;
    double *out; // [n,k] ascending
};

static void insert(double *list, int64_t k, double v) {
    if (v >= list[k - 1])
        return;
    int64_t at = k - 1;
    for (; at > 0 && list[at - 1] > v; at--)
        list[at] = list[at - 1];
    list[at] = v;
}

static void take_others(void *ctx, int64_t i, int64_t n, int64_t j, int64_t m, const double *p) {
    const struct others *o = ctx;
    for (int64_t r = 0; r < n; r++)
        for (int64_t c = 0; c < m; c++)
            if (i + r != j + c)
                insert(o->out + (i + r) * o->k, o->k, p[r * m + c]);
}

int dr_nearest_others(const real *x, int64_t n, int64_t d, int64_t k, double *out,
                      struct dr_err *err) {
    struct others o = {k, out};
    if (k < 1 || k >= n)
        return dr_fail(err, DR_EINVAL, "%lld images have no %lld nearest others", (long long)n,
                       (long long)k);
    for (int64_t i = 0; i < n * k; i++)
        out[i] = INFINITY;
    return all_pairs(x, n, x, n, d, false, take_others, &o, err);
}

struct manifold {
    int64_t k, kp, kd;
    double *real, *gen;             // [n,k] squared distances to neighbours
    uint8_t *inside, *met, *nearby; // generated rows, reals, reals
    int64_t balls;
};

static void take_manifold(void *ctx, int64_t i, int64_t n, int64_t j, int64_t m, const double *p) {
    struct manifold *f = ctx;
    for (int64_t r = 0; r < n; r++) {
        const double *own = f->real + (i + r) * f->k;
        for (int64_t c = 0; c < m; c++) {
            const double v = p[r * m + c];
            f->inside[j + c] |= v <= own[f->kp - 1];
            f->met[i + r] |= v <= f->gen[(j + c) * f->k + f->kp - 1];
            f->nearby[i + r] |= v <= own[f->kd - 1];
            f->balls += v <= own[f->kd - 1];
        }
    }
}

static double share(const uint8_t *set, int64_t n) {
    int64_t sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += set[i];
    return (double)sum / (double)n;
}

int dr_manifold(const real *reals, int64_t nr, const real *gen, int64_t ng, int64_t d,
                int64_t k_precision, int64_t k_density, struct dr_manifold *out,
                struct dr_err *err) {
    const int64_t k = DR_MAX(k_precision, k_density);
    struct manifold f = {.k = k, .kp = k_precision, .kd = k_density};
    if (DR_MIN(k_precision, k_density) < 1 || DR_MIN(nr, ng) <= k)
        return dr_fail(err, DR_EINVAL,
                       "precision and its like need more than %lld images of each kind, not %lld",
                       (long long)k, (long long)DR_MIN(nr, ng));
    f.real = malloc((size_t)((nr + ng) * k) * sizeof *f.real);
    f.inside = calloc((size_t)(ng + 2 * nr), 1);
    int rc = f.real && f.inside ? 0 : dr_fail(err, DR_ENOMEM, "out of memory for neighbours");
    if (!rc) {
        f.gen = f.real + nr * k;
        f.met = f.inside + ng;
        f.nearby = f.met + nr;
        rc = dr_nearest_others(reals, nr, d, k, f.real, err);
    }
    if (!rc)
        rc = dr_nearest_others(gen, ng, d, k, f.gen, err);
    if (!rc)
        rc = all_pairs(reals, nr, gen, ng, d, false, take_manifold, &f, err);
    if (!rc)
        *out =
            (struct dr_manifold){share(f.inside, ng), share(f.met, nr),
                                 (double)f.balls / (double)(k_density * ng), share(f.nearby, nr)};
    free(f.real);
    free(f.inside);
    return rc;
}

static void take_sum(void *ctx, int64_t i, int64_t n, int64_t j, int64_t m, const double *p) {
    double *sum = ctx;
    for (int64_t r = 0; r < n; r++) {
        double s = 0;
        for (int64_t c = DR_MAX(i + r + 1 - j, (int64_t)0); c < m; c++)
            s += sqrt(p[r * m + c]);
        *sum += s;
    }
}

int dr_mean_distance(const real *x, int64_t n, int64_t d, double *out, struct dr_err *err) {
    double sum = 0;
    if (n < 2)
        return dr_fail(err, DR_EINVAL, "a mean distance needs at least 2 images, not %lld",
                       (long long)n);
    const int rc = all_pairs(x, n, x, n, d, true, take_sum, &sum, err);
    if (!rc)
        *out = sum / (0.5 * (double)n * (double)(n - 1));
    return rc;
}
