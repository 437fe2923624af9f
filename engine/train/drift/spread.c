// Within-class spread: the mean pairwise distance of the generated images of a class over that of
// its reals in the same step. 1 is ideal, near 0 is collapse (method.md 9, `diversity`, in pixels).
// A class whose reals of the step are all alike has no ratio, and is left out.
#include "engine/train/drift/drift.h"

#include <math.h>

static double mean_distance(const real *x, int64_t n, int64_t s) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++) {
            const real *a = x + i * s, *b = x + j * s;
            real d2 = 0;
            for (int64_t k = 0; k < s; k++)
                d2 += (a[k] - b[k]) * (a[k] - b[k]);
            sum += sqrt((double)d2);
        }
    return n > 1 ? 2 * sum / ((double)n * (double)(n - 1)) : 0;
}

// What a user sees: pixels are clamped when served, points are not.
static void clamp_pixels(real *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        x[i] = DR_MIN(DR_MAX(x[i], (real)-1), (real)1);
}

bool drift_spread(struct drift *t, int slot, struct dr_metrics *m) {
    const int64_t *ids = t->in[slot].pos_ids;
    real *x = t->slot[slot].x;
    if (drift_kind(t) == DR_KIND_IMAGES)
        clamp_pixels(x, t->B * t->image);
    const int64_t reals = DR_MIN(t->P, DR_MAX(t->N, 32));
    double sum = 0, worst = INFINITY;
    int64_t n = 0;
    for (int64_t c = 0; c < t->nclass; c++) {
        if (dr_dataset_reals(t->reals.data, ids + c * t->P, reals, t->real_rows, NULL))
            return false;
        const double ratio = mean_distance(x + c * t->N * t->image, t->N, t->image) /
                             mean_distance(t->real_rows, reals, t->image);
        if (!isfinite(ratio))
            continue;
        sum += ratio;
        worst = fmin(worst, ratio);
        n++;
    }
    if (!n)
        return false;
    m->spread = sum / (double)n;
    m->spread_min = worst;
    return true;
}
