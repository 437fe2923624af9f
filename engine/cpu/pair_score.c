// Scores of pairs (method.md 4): an MLP with one hidden layer on every pair of a row of x and a row
// of y, which keeps none of its hidden values. Called by engine/loss/field_learned.c through the op
// table.
//
// The forward pass is cut at rows of x, the backward pass at groups, so results do not depend on
// the thread count.
#ifdef DR_DOUBLE // GCC does not see at -O1 that loops over the lanes fill a vector
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "engine/cpu/vec.h"

// x Phi(x) and its slope Phi(x) + x phi(x).
DR_INLINE vreal gelu(vreal x, vreal *slope) {
    vreal density;
    const vreal u = vmin(vset(V_FAR), vabs(x)), tail = vnormal_tail(u, &density);
    const vreal below = vfma(-u, density, tail);
    *slope = vpositive(x, 1 - below, below);
    return vfma(-u, tail, vmax(vset(0), x));
}

// Reads at i of what a pair's hidden layer needs.
struct pair {
    const real *hx, *hy, *u, *v;
    real d;
};
DR_INLINE vreal argument(const struct pair *k, int64_t i, int64_t n) {
    return vfma(vld(k->u, DR_F32, i, n), vset(k->d),
                vld(k->hx, DR_F32, i, n) + vld(k->hy, DR_F32, i, n));
}

static real score(const struct pair *k, int64_t h) {
    vreal sum = vset(0);
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal slope;                                                                               \
        sum = vfma(vld(k->v, DR_F32, i, n), gelu(argument(k, i, n), &slope), sum);                 \
    } while (0)
    V_LOOP(h, STEP);
#undef STEP
    return vsum(sum);
}

void DR_ISA_FN(pair_score_fwd)(struct dr_backend *be, const struct dr_pair_score_fwd_args *a) {
    DR_PARALLEL_FOR(be, a->b * a->n * a->m * a->h > DR_PAYS)
    for (int64_t row = 0; row < a->b * a->n; row++)
        for (int64_t j = 0; j < a->m; j++) {
            const struct pair k = {.hx = a->hx + row * a->h,
                                   .hy = a->hy + (row / a->n * a->m + j) * a->h,
                                   .u = a->u,
                                   .v = a->v,
                                   .d = a->d[row * a->m + j]};
            a->a[row * a->m + j] = score(&k, a->h);
        }
}

// What one pair adds to the gradients; returns sum_h g u.
static real pair_gradients(const struct pair *k, real da, int64_t h, real *dhx, real *dhy, real *du,
                           real *dv) {
    vreal sum = vset(0);
#define ADD(to, i, n, x) vst(to, DR_F32, i, n, vld(to, DR_F32, i, n) + (x))
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal slope, y = gelu(argument(k, i, n), &slope);                                          \
        const vreal g = slope * vld(k->v, DR_F32, i, n) * da;                                      \
        ADD(dhx, i, n, g);                                                                         \
        ADD(dhy, i, n, g);                                                                         \
        ADD(du, i, n, g * k->d);                                                                   \
        ADD(dv, i, n, y *da);                                                                      \
        sum = vfma(g, vld(k->u, DR_F32, i, n), sum);                                               \
    } while (0)
    V_LOOP(h, STEP);
#undef STEP
#undef ADD
    return vsum(sum);
}

// One group. part: [4,h]: du and dv of a row, then of the group; a row's own sums first, so that
// the rounding does not grow with the group.
static void group_gradients(const struct dr_pair_score_bwd_args *a, int64_t b, real *part) {
    const int64_t h = a->h;
    real *du = part, *dv = part + h, *all = part + 2 * h;
    memset(a->dhy + b * a->m * h, 0, (size_t)(a->m * h) * sizeof(real));
    memset(all, 0, (size_t)(2 * h) * sizeof(real));
    for (int64_t row = b * a->n; row < (b + 1) * a->n; row++) {
        real *dhx = a->dhx + row * h;
        memset(dhx, 0, (size_t)h * sizeof(real));
        memset(part, 0, (size_t)(2 * h) * sizeof(real));
        for (int64_t j = 0; j < a->m; j++) {
            const int64_t at = row * a->m + j, y = (b * a->m + j) * h;
            const struct pair k = {
                .hx = a->hx + row * h, .hy = a->hy + y, .u = a->u, .v = a->v, .d = a->d[at]};
            const real da = a->da[at];
            if (da == 0) { // masked: nothing of it is anywhere
                a->pull[at] = 0;
                continue;
            }
            const real dd = pair_gradients(&k, da, h, dhx, a->dhy + y, du, dv);
            a->pull[at] = k.d <= (real)1e-4 ? 0 : dd / k.d;
        }
        for (int64_t i = 0; i < 2 * h; i++)
            all[i] += part[i];
    }
}

void DR_ISA_FN(pair_score_bwd)(struct dr_backend *be, const struct dr_pair_score_bwd_args *a) {
    const int64_t h = a->h;
    real *part = dr_cpu_scratch(be, DR_WS_OP, (size_t)(a->b * 4 * h) * sizeof *part);
    if (!part)
        return;
    DR_PARALLEL_FOR(be, a->b * a->n * a->m * h > DR_PAYS)
    for (int64_t b = 0; b < a->b; b++)
        group_gradients(a, b, part + b * 4 * h);
    for (int64_t i = 0; i < h; i++) {
        double du = 0, dv = 0;
        for (int64_t b = 0; b < a->b; b++) {
            du += (double)part[b * 4 * h + 2 * h + i];
            dv += (double)part[b * 4 * h + 3 * h + i];
        }
        a->du[i] += (real)du;
        a->dv[i] += (real)dv;
    }
}
