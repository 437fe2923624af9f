// Means and standard deviations over the patches of a feature map, forward and backward. Called
// through the op table by loss/features (method.md 7).
#include "engine/cpu/vec.h"

#define VAR_EPS ((real)1e-6)

struct patch { // one patch of x: its first element and the distance of its rows
    int64_t at, row;
};

static struct patch patch_of(int64_t i, int64_t h, int64_t w, int64_t c, int64_t p) {
    const int64_t nx = w / p, ny = h / p, b = i / (nx * ny), y = i / nx % ny, x = i % nx;
    return (struct patch){.at = ((b * h + y * p) * w + x * p) * c, .row = w * c};
}

// Channels on lanes, pixels in order; the variance in a second pass around the mean.
static void stats_fwd(const struct dr_patch_stats_fwd_args *a, int64_t patch) {
    const struct patch at = patch_of(patch, a->h, a->w, a->c, a->p);
    const int64_t p = a->p, c = a->c;
    const real inv = 1 / (real)(p * p);
    real *mean = a->out + patch * 2 * c, *std = mean + c;
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal s = {0}, q = {0};                                                                    \
        for (int64_t y = 0; y < p; y++)                                                            \
            for (int64_t x = 0; x < p; x++)                                                        \
                s += vld(a->x, DR_F32, at.at + y * at.row + x * c + (i), n);                       \
        s *= inv;                                                                                  \
        for (int64_t y = 0; y < p; y++)                                                            \
            for (int64_t x = 0; x < p; x++) {                                                      \
                vreal v = vld(a->x, DR_F32, at.at + y * at.row + x * c + (i), n) - s;              \
                q = vfma(v, v, q);                                                                 \
            }                                                                                      \
        vst(mean, DR_F32, i, n, s);                                                                \
        vst(std, DR_F32, i, n, q *inv);                                                            \
    } while (0)
    V_LOOP(c, STEP);
#undef STEP
    for (int64_t i = 0; i < c; i++)
        std[i] = (real)sqrt(std[i] + VAR_EPS);
}

void DR_ISA_FN(patch_stats_fwd)(struct dr_backend *be, const struct dr_patch_stats_fwd_args *a) {
    const int64_t patches = a->b * (a->h / a->p) * (a->w / a->p);
    DR_PARALLEL_FOR(be, a->b * a->h * a->w * a->c >= DR_PAYS)
    for (int64_t i = 0; i < patches; i++)
        stats_fwd(a, i);
}

// dx += (dmean + dstd (x - mean) / std) / p^2.
static void stats_bwd(const struct dr_patch_stats_bwd_args *a, int64_t patch) {
    const struct patch at = patch_of(patch, a->h, a->w, a->c, a->p);
    const int64_t p = a->p, c = a->c;
    const real inv = 1 / (real)(p * p);
    const real *mean = a->out + patch * 2 * c, *dmean = a->dout + patch * 2 * c;
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal m = vld(mean, DR_F32, i, n), s = vkeep(vld(mean, DR_F32, c + (i), n), n, 1);         \
        vreal dm = vld(dmean, DR_F32, i, n), ds = vld(dmean, DR_F32, c + (i), n) / s;              \
        for (int64_t y = 0; y < p; y++)                                                            \
            for (int64_t x = 0; x < p; x++) {                                                      \
                const int64_t j = at.at + y * at.row + x * c + (i);                                \
                vreal v = vld(a->x, DR_F32, j, n) - m;                                             \
                vst(a->dx, DR_F32, j, n,                                                           \
                    vfma(vfma(ds, v, dm), vset(inv), vld(a->dx, DR_F32, j, n)));                   \
            }                                                                                      \
    } while (0)
    V_LOOP(c, STEP);
#undef STEP
}

void DR_ISA_FN(patch_stats_bwd)(struct dr_backend *be, const struct dr_patch_stats_bwd_args *a) {
    const int64_t patches = a->b * (a->h / a->p) * (a->w / a->p);
    DR_PARALLEL_FOR(be, a->b * a->h * a->w * a->c >= DR_PAYS)
    for (int64_t i = 0; i < patches; i++)
        stats_bwd(a, i);
}
