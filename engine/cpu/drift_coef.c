// The coefficients of the drifting field on the CPU (method.md 2; paper Alg. 2 and Table 11): from
// distances to doubly normalised affinities to [c- c+]. Called by engine/loss/drift.c per
// temperature.
//
// Softmaxes are taken relative to the smallest cost of their row or column, and the geometric mean
// is formed in the exponent, so nothing underflows that matters at small temperatures. Differences
// of costs come before the division by tau: they are nearly exact, quotients of 50 and more are
// not. One group is one unit of work; rows are padded to whole vectors.
#include "engine/cpu/isa.h"

#include <math.h>

#define PAD 16
#define FAR ((real)1e30) // cost of a padding column: its affinity is 0

// e^x for x <= 0 or slightly above. fp32: Cody-Waite reduction and a degree-6 polynomial, within 2
// ulp, 0 below -87, NaN stays NaN. Plain arithmetic, so that the loops around it vectorise.
DR_INLINE real exp_(real x) {
#ifdef DR_DOUBLE
    return exp(x);
#else
    float c = x < -87.0f ? -87.0f : x;
    float t =
        c * 1.44269504f + 12582912.0f; // 1.5 * 2^23: the sum's low bits are the rounded integer
    float n = t - 12582912.0f;
    float r = (c - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r) * r + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &t, sizeof bits);
    bits = (bits + 127) << 23;
    float two_n;
    memcpy(&two_n, &bits, sizeof two_n);
    return x < -87.0f ? 0.0f : p * two_n;
#endif
}

struct coef_group {
    real *coef;          // [n,m]
    const real *d;       // [n,m]
    const real *w;       // [m], on the affinities; NULL: ones
    const real *mass;    // [m], on the row sums of a Sinkhorn plan; NULL: ones
    real *row, *e;       // [mp] costs of the current row, and a temporary
    real *cmin, *csum;   // [mp] by column: smallest cost, then sum or potential
    real *rmin, *rsum;   // [n] the same by row
    real diag, k, floor; // added to the diagonal's D; 1 / temperature of a cost; sqrt(floor)
    int64_t n, m, mp, n_neg;
    int64_t ld; // from one row of d to the next
    bool gaussian, abc;
};

// Costs of row i: D, or D^2 with the Gaussian kernel, the self mask included.
DR_INLINE void load_costs(const struct coef_group *g, int64_t i) {
    memcpy(g->row, g->d + i * g->ld, (size_t)g->m * sizeof *g->row);
    g->row[DR_MIN(i, g->m - 1)] += g->diag; // 0 where there is no mask
    if (g->gaussian)
        for (int64_t j = 0; j < g->m; j++)
            g->row[j] *= g->row[j];
    for (int64_t j = g->m; j < g->mp; j++)
        g->row[j] = FAR;
}

DR_INLINE real lanes_min(const real *x, int64_t n) {
    real lane[PAD], low;
    memcpy(lane, x, sizeof lane);
    for (int64_t j = PAD; j < n; j += PAD)
        for (int l = 0; l < PAD; l++)
            lane[l] = x[j + l] < lane[l] ? x[j + l] : lane[l];
    low = lane[0];
    for (int l = 1; l < PAD; l++)
        low = lane[l] < low ? lane[l] : low;
    return low;
}

// rmin, cmin and, for the normalisation over y, rsum = sum_j exp((rmin - u) k).
static void row_pass(const struct coef_group *g) {
    real *restrict e = g->e, *restrict cmin = g->cmin;
    const real *u = g->row;
    for (int64_t j = 0; j < g->mp; j++)
        cmin[j] = FAR;
    for (int64_t i = 0; i < g->n; i++) {
        load_costs(g, i);
        real low = lanes_min(u, g->mp);
        for (int64_t j = 0; j < g->mp; j++) {
            cmin[j] = u[j] < cmin[j] ? u[j] : cmin[j];
            e[j] = exp_((low - u[j]) * g->k);
        }
        g->rmin[i] = low;
        g->rsum[i] = dr_sum(e, g->m);
    }
}

// csum = sum_i exp((cmin - u) k).
static void column_pass(const struct coef_group *g) {
    real *restrict csum = g->csum;
    const real *u = g->row, *cmin = g->cmin;
    for (int64_t j = 0; j < g->mp; j++)
        csum[j] = 0;
    for (int64_t i = 0; i < g->n; i++) {
        load_costs(g, i);
        for (int64_t j = 0; j < g->mp; j++)
            csum[j] += exp_((cmin[j] - u[j]) * g->k);
    }
}

// Sinkhorn potentials in the log domain: rows sum to 1 (weighted by mass), columns to
// exp(log_column). rsum holds f, csum holds g, the affinity is exp(f_i + g_j - k u_ij). What has no
// mass must not set a row's minimum: beside it all others could underflow.
static void sinkhorn_round(const struct coef_group *g, real log_column) {
    real *restrict e = g->e, *restrict top = g->cmin, *restrict gj = g->csum;
    const real *u = g->row;
    for (int64_t i = 0; i < g->n; i++) {
        load_costs(g, i);
        for (int64_t j = 0; j < g->mp; j++)
            e[j] = u[j] * g->k - gj[j];
        for (int64_t j = 0; g->mass && j < g->m; j++)
            e[j] = g->mass[j] > 0 ? e[j] : FAR;
        real low = lanes_min(e, g->mp);
        for (int64_t j = 0; j < g->mp; j++)
            e[j] = exp_(low - e[j]);
        if (g->mass)
            for (int64_t j = 0; j < g->m; j++)
                e[j] *= g->mass[j];
        g->rsum[i] = low - (real)log((double)dr_sum(e, g->m));
    }
    for (int64_t j = 0; j < g->mp; j++)
        top[j] = FAR, gj[j] = 0;
    for (int64_t i = 0; i < g->n; i++) {
        load_costs(g, i);
        for (int64_t j = 0; j < g->mp; j++) {
            real t = u[j] * g->k - g->rsum[i];
            top[j] = t < top[j] ? t : top[j];
        }
    }
    for (int64_t i = 0; i < g->n; i++) {
        load_costs(g, i);
        for (int64_t j = 0; j < g->mp; j++)
            gj[j] += exp_(top[j] - (u[j] * g->k - g->rsum[i]));
    }
    for (int64_t j = 0; j < g->m; j++)
        gj[j] = log_column + top[j] - (real)log((double)gj[j]);
}

// Affinities of the row in g->row into g->e.
DR_INLINE void affinities(const struct coef_group *g, int64_t i, enum dr_normalize how) {
    real *restrict e = g->e;
    const real *u = g->row, *cmin = g->cmin, *csum = g->csum;
    real low = g->rmin[i], r = g->rsum[i], k = g->k;
    switch (how) {
    case DR_NORM_BOTH: // csum and r are 1 / sqrt of the sums by now
        for (int64_t j = 0; j < g->mp; j++)
            e[j] = exp_(((low - u[j]) + (cmin[j] - u[j])) * (k / 2)) * (r * csum[j]);
        break;
    case DR_NORM_Y:
        for (int64_t j = 0; j < g->mp; j++)
            e[j] = exp_((low - u[j]) * k) * r;
        break;
    case DR_NORM_NONE:
        for (int64_t j = 0; j < g->mp; j++)
            e[j] = exp_(-u[j] * k);
        break;
    case DR_NORM_SINKHORN:
    case DR_NORM_SINKHORN_SPLIT:
        for (int64_t j = 0; j < g->mp; j++)
            e[j] = exp_(r + csum[j] - u[j] * k);
        break;
    }
}

// The factors 1 - sum a^2 + a_j of `abc` into a; a_j = e_j / sum, squared as such: sum^2
// underflows.
static void bias_factors(real *restrict a, const real *restrict e, real sum, int64_t n) {
    for (int64_t j = 0; j < n; j++)
        a[j] = sum == 0 ? 0 : e[j] / sum;
    const real rest = 1 - dr_dot(a, a, n);
    for (int64_t j = 0; j < n; j++)
        a[j] += rest;
}

// c- = -A- rowsum(A+), c+ = A+ rowsum(A-), with the floor under A and the weights on it. A: the row
// in g->e.
DR_INLINE void emit_row(const struct coef_group *g, int64_t i) {
    real *restrict e = g->e, *restrict out = g->coef + i * g->m;
    const int64_t p = g->m - g->n_neg;
    for (int64_t j = 0; j < g->m; j++)
        e[j] = e[j] < g->floor ? g->floor : e[j];
    if (g->w)
        for (int64_t j = 0; j < g->m; j++)
            e[j] *= g->w[j];
    real neg = dr_sum(e, g->n_neg), pos = dr_sum(e + g->n_neg, p);
    for (int64_t j = 0; j < g->n_neg; j++)
        out[j] = -e[j] * pos;
    for (int64_t j = g->n_neg; j < g->m; j++)
        out[j] = e[j] * neg;
    if (!g->abc)
        return;
    bias_factors(g->row, e, neg, g->n_neg); // the costs have served
    bias_factors(g->row + g->n_neg, e + g->n_neg, pos, p);
    for (int64_t j = 0; j < g->m; j++)
        out[j] *= g->row[j];
}

static void emit_rows(const struct coef_group *g, enum dr_normalize how) {
    for (int64_t i = 0; i < g->n; i++) {
        load_costs(g, i);
        affinities(g, i, how);
        emit_row(g, i);
    }
}

static void sinkhorn(const struct coef_group *g, int iterations) {
    double columns = 0;
    for (int64_t j = 0; j < g->m; j++)
        columns += g->mass ? (double)g->mass[j] : 1;
    for (int64_t j = 0; j < g->mp; j++)
        g->csum[j] = 0;
    for (int t = 0; t < iterations; t++)
        sinkhorn_round(g, (real)log((double)g->n / columns));
}

static int64_t padded(int64_t n) {
    return (n + PAD - 1) / PAD * PAD;
}

// One plan of g's columns [from, from + m), with temporaries at t; returns their end.
static real *side_of(const struct coef_group *g, int64_t from, int64_t m, real *t,
                     struct coef_group *side) {
    const int64_t mp = padded(m);
    *side = *g;
    side->d = g->d + from;
    side->mass = g->w ? g->w + from : NULL;
    side->m = m;
    side->mp = mp;
    side->row = t;
    side->e = t + mp;
    side->cmin = t + 2 * mp;
    side->csum = t + 3 * mp;
    side->rsum = t + 4 * mp;
    return t + 4 * mp + padded(g->n);
}

// Two plans, of the negatives and of the positives. t: 4 (mp + PAD) + 2 np temporaries.
static void split_run(const struct coef_group *g, int iterations, real *t) {
    struct coef_group side[2];
    t = side_of(g, 0, g->n_neg, t, &side[0]);
    side_of(g, g->n_neg, g->m - g->n_neg, t, &side[1]);
    side[1].diag = 0;
    for (int k = 0; k < 2; k++)
        sinkhorn(&side[k], iterations);
    for (int64_t i = 0; i < g->n; i++) {
        for (int k = 0; k < 2; k++) {
            load_costs(&side[k], i);
            affinities(&side[k], i, DR_NORM_SINKHORN_SPLIT);
            memcpy(g->e + (k ? g->n_neg : 0), side[k].e, (size_t)side[k].m * sizeof *g->e);
        }
        emit_row(g, i);
    }
}

static void coef_group_run(struct coef_group *g, enum dr_normalize how, int iterations) {
    if (how == DR_NORM_BOTH || how == DR_NORM_Y)
        row_pass(g);
    if (how == DR_NORM_BOTH) {
        column_pass(g);
        for (int64_t j = 0; j < g->m; j++)
            g->csum[j] = 1 / (real)sqrt((double)g->csum[j]);
        for (int64_t i = 0; i < g->n; i++)
            g->rsum[i] = 1 / (real)sqrt((double)g->rsum[i]);
    } else if (how == DR_NORM_Y) {
        for (int64_t i = 0; i < g->n; i++)
            g->rsum[i] = 1 / g->rsum[i];
    } else if (how == DR_NORM_SINKHORN) {
        sinkhorn(g, iterations);
    }
    emit_rows(g, how);
}

void DR_ISA_FN(drift_coef)(struct dr_backend *be, const struct dr_drift_coef_args *a) {
    const int64_t m = a->n_neg + a->p, mp = padded(m), np = padded(a->n), own = 4 * mp + 2 * np;
    const bool split = a->normalize == DR_NORM_SINKHORN_SPLIT;
    const int64_t size = own + (split ? 4 * (mp + PAD) + 2 * np : 0); // of a group's temporaries
    real *ws = dr_cpu_scratch(be, DR_WS_OP, (size_t)(a->b * size) * sizeof *ws);
    if (!ws)
        return;
    memset(ws, 0, (size_t)(a->b * size) * sizeof *ws);
    double s = a->scale ? (double)*a->scale : 1;
    s = a->scale && s < 1e-3 ? 1e-3 : s;
    bool gaussian = a->kernel == DR_KERNEL_GAUSSIAN;
    double tau = (double)a->tau, k = gaussian ? 1 / (2 * tau * tau * s * s) : 1 / (tau * s);
    DR_PARALLEL_FOR(be, a->b * a->n * m > DR_PAYS / 16)
    for (int64_t b = 0; b < a->b; b++) {
        real *t = ws + b * size;
        struct coef_group g = {
            .coef = a->coef + b * a->n * m,
            .d = a->d + b * a->n * m,
            .w = a->w ? a->w + b * m : NULL,
            .row = t,
            .e = t + mp,
            .cmin = t + 2 * mp,
            .csum = t + 3 * mp,
            .rmin = t + 4 * mp,
            .rsum = t + 4 * mp + np,
            .diag = a->diag * (real)s,
            .k = (real)k,
            .floor = (real)sqrt((double)a->floor),
            .n = a->n,
            .m = m,
            .mp = mp,
            .n_neg = a->n_neg,
            .ld = m,
            .gaussian = gaussian,
            .abc = a->abc,
        };
        if (split)
            split_run(&g, a->sinkhorn_iterations, t + own);
        else
            coef_group_run(&g, a->normalize, a->sinkhorn_iterations);
    }
}
