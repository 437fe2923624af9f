// The drift of the last step's samples for people to look at (trainer.h, dr_drift_field): the step
// leaves the V of every temperature in t->v, and this brings their sum to the host in data
// units.
#include "engine/train/drift/drift.h"

#include <math.h>
#include <stdlib.h>

bool drift_has_view(const struct drift *t) {
    return drift_kind(t) == DR_KIND_POINTS && t->field->plain &&
           t->cfg->features.norm != DR_FEATURE_NORM_SPHERE &&
           t->cfg->features.standardize == DR_STANDARDIZE_NONE &&
           dr_features_count(t->features) == 1 && dr_features_dim(t->features, 0).locations == 1;
}

// The loss works on x / divisor, which follows from the feature scale.
static real divisor(real scale) {
    return (real)fmax((double)scale / sqrt(2), 1e-3);
}

struct dr_drift_field *drift_view(void *o, int64_t step) {
    struct drift *t = o;
    if (!t->v)
        return NULL;
    const int64_t n = t->B, p = t->nclass * t->P, ntau = drift_count(t);
    struct dr_drift_field *f = calloc(1, sizeof *f + (size_t)(4 * n + 2 * p) * sizeof(real));
    real *all = calloc((size_t)(2 * n * ntau), sizeof *all), scale = 0;
    if (f && all) {
        *f = (struct dr_drift_field){.step = step, .n = n, .p = p};
        t->be->download(t->be, f->at, t->x, (size_t)(2 * n) * sizeof(real));
        t->be->download(t->be, all, t->v, (size_t)(2 * n * ntau) * sizeof(real));
        t->be->download(t->be, f->at + 4 * n, t->pos, (size_t)(2 * p) * sizeof(real));
        t->be->download(t->be, &scale, t->report + drift_report(t, 0) + ntau, sizeof scale);
    }
    if (!f || !all || t->be->failed(t->be)) { // an error is the step's, which says it
        free(all);
        free(f);
        return NULL;
    }
    const real d = divisor(scale);
    real *v = f->at + 2 * n;
    for (int64_t k = 0; k < ntau; k++)
        for (int64_t i = 0; i < 2 * n; i++)
            v[i] += d * all[k * 2 * n + i];
    free(all);
    return f;
}
