// Everything random in a step, drawn on the host from Philox with the step in the index, so that a
// resumed run draws what the uninterrupted one would have (method.md 1 and 8).
//
// Every process draws the whole step, so that all agree on it, and keeps its own classes: those
// from t->first on. Unconditional reals are everybody's.
#include "engine/train/drift/drift.h"

#include <math.h>
#include <string.h>

// Classes of this step: all of them, or a sample without replacement.
static void draw_classes(struct drift *t, int64_t done) {
    const int32_t all = (int32_t)t->cfg->model.classes;
    if (t->classes == all) {
        for (int32_t c = 0; c < all; c++)
            t->class[c] = c;
        return;
    }
    struct dr_rng g;
    dr_rng_init(&g, (uint64_t)t->cfg->train.seed, DR_STREAM_LABEL, (uint64_t)done);
    for (int32_t i = 0; i < (int32_t)t->classes; i++) { // rejection: well below `all` are wanted
        bool again = true;
        while (again) {
            t->class[i] = (int32_t)dr_rng_below(&g, (uint32_t)all);
            again = false;
            for (int32_t j = 0; j < i; j++)
                again |= t->class[j] == t->class[i];
        }
    }
}

// alpha with density ∝ alpha^-k on [lo, hi] by inverse CDF.
static double draw_alpha(const struct dr_train_config *c, struct dr_rng *g) {
    double one = dr_rng_uniform(g), u = dr_rng_uniform(g);
    if (one < c->alpha_one_fraction)
        return 1;
    double lo = c->alpha_min, hi = c->alpha_max, k = 1 - c->alpha_power;
    if (fabs(k) < 1e-9)
        return lo * pow(hi / lo, u);
    return pow(pow(lo, k) + u * (pow(hi, k) - pow(lo, k)), 1 / k);
}

static void draw_conditions(struct drift *t, int64_t done, int slot) {
    const struct dr_train_config *c = &t->cfg->train;
    const struct drift_inputs *in = &t->in[slot];
    const double dropout = t->cfg->model.label_dropout;
    struct dr_rng ga, gd;
    dr_rng_init(&ga, (uint64_t)c->seed, DR_STREAM_ALPHA, (uint64_t)done);
    dr_rng_init(&gd, (uint64_t)c->seed, DR_STREAM_DROPOUT, (uint64_t)done);
    const int null = dr_gen_null_class(t->gen);
    double sum = 0;
    for (int64_t i = 0; i < t->classes; i++) {
        const double alpha = draw_alpha(c, &ga);
        const int64_t own = i - t->first; // its number here
        const bool here = own >= 0 && own < t->nclass;
        sum += alpha;
        if (here)
            in->unc_weight[own] = dr_guidance_weight(alpha, t->N, t->U);
        for (int64_t j = 0; j < t->N; j++) {
            const bool drop = dropout > 0 && dr_rng_uniform(&gd) < dropout;
            if (!here)
                continue;
            in->alpha[own * t->N + j] = (real)alpha;
            in->cls[own * t->N + j] = drop ? null : t->class[i];
        }
    }
    t->slot[slot].alpha_mean = sum / (double)t->classes;
}

// Positives are numbered over the classes of all processes, unconditional reals after them.
static void draw_views(struct drift *t, int64_t done, const struct drift_inputs *in) {
    const uint64_t seed = (uint64_t)t->cfg->train.seed;
    const int64_t npos = t->nclass * t->P;
    if (!in->view)
        return;
    dr_reals_views(&t->cfg->data, seed, (uint64_t)done, t->first * t->P, npos, in->view);
    dr_reals_views(&t->cfg->data, seed, (uint64_t)done, t->classes * t->P, t->U,
                   in->view + 3 * npos);
}

int drift_draw(void *o, int64_t done, int slot, struct dr_err *err) {
    struct drift *t = o;
    const struct drift_inputs *in = &t->in[slot];
    draw_classes(t, done);
    draw_conditions(t, done, slot);
    dr_reals_draw(t->reals.draw, (uint64_t)done, t->class, t->classes, t->ids, in->unc_ids);
    memcpy(in->pos_ids, t->ids + t->first * t->P, (size_t)(t->nclass * t->P) * sizeof *in->pos_ids);
    draw_views(t, done, in);
    drift_cache_rows(t, in);
    for (int64_t i = 0; i < t->B; i++) {
        in->seed[i] = (uint64_t)t->cfg->train.seed;
        in->index[i] = (uint64_t)((done * t->classes + t->first) * t->N + i);
    }
    if (in->key) {
        in->key[0] = (uint64_t)t->cfg->train.seed;
        in->key[1] = (uint64_t)done;
    }
    return drift_copy_rows(t, in, err);
}

void drift_noise(struct drift *t, struct dr_ctx *cx, bool second) {
    const struct drift_inputs *in = drift_device(t);
    DR_OP(cx->be, normals, .out = t->eps, .seed = in->seed, .index = in->index, .b = t->B,
          .n = t->noise, .stream = second ? DR_STREAM_TRAIN_NOISE2 : DR_STREAM_TRAIN_NOISE);
    if (t->nstyle)
        DR_OP(cx->be, indices, .out = t->style, .seed = in->seed, .index = in->index, .b = t->B,
              .n = t->nstyle, .stream = second ? DR_STREAM_TRAIN_STYLE2 : DR_STREAM_TRAIN_STYLE,
              .range = (uint32_t)t->cfg->model.codebook);
}
