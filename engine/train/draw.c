// Everything random in a step, drawn on the host from Philox with the step in the index, so that a
// resumed run draws what the uninterrupted one would have (method.md 1 and 8).
#include "engine/train/trainer_priv.h"

#include <math.h>
#include <string.h>

// Classes of this step: all of them, or a sample without replacement (partial Fisher-Yates).
static void draw_classes(struct dr_trainer *t) {
    const int32_t all = (int32_t)t->cfg.data.classes;
    if (t->nclass == all) {
        for (int32_t c = 0; c < all; c++)
            t->classes[c] = c;
        return;
    }
    struct dr_rng g;
    dr_rng_init(&g, (uint64_t)t->cfg.train.seed, DR_STREAM_LABEL, (uint64_t)t->step);
    for (int32_t i = 0; i < (int32_t)t->nclass; i++) { // rejection: nclass is well below `all`
        bool again = true;
        while (again) {
            t->classes[i] = (int32_t)dr_rng_below(&g, (uint32_t)all);
            again = false;
            for (int32_t j = 0; j < i; j++)
                again |= t->classes[j] == t->classes[i];
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

static void draw_conditions(struct dr_trainer *t) {
    const struct dr_train_config *c = &t->cfg.train;
    struct dr_rng ga, gd;
    dr_rng_init(&ga, (uint64_t)c->seed, DR_STREAM_ALPHA, (uint64_t)t->step);
    dr_rng_init(&gd, (uint64_t)c->seed, DR_STREAM_DROPOUT, (uint64_t)t->step);
    const int null = dr_gen_null_class(t->gen);
    double sum = 0;
    for (int64_t i = 0; i < t->nclass; i++) {
        double alpha = draw_alpha(c, &ga);
        sum += alpha;
        t->h_unc_weight[i] =
            t->U ? (real)((alpha - 1) * (double)(t->N - 1) / (double)t->U) : (real)0; // A.7
        for (int64_t j = i * t->N; j < (i + 1) * t->N; j++) {
            t->h_alpha[j] = (real)alpha;
            bool drop =
                t->cfg.model.label_dropout > 0 && dr_rng_uniform(&gd) < t->cfg.model.label_dropout;
            t->h_cls[j] = drop ? null : t->classes[i];
        }
    }
    t->class_alpha_mean = sum / (double)t->nclass;
}

static void draw_reals(struct dr_trainer *t) {
    dr_reals_draw(t->reals, (uint64_t)t->step, t->classes, t->nclass, t->pos_ids, t->unc_ids);
    for (int64_t i = 0; i < t->nclass * t->P; i++)
        dr_dataset_get(t->data, t->pos_ids[i], t->h_pos + i * t->image);
    for (int64_t i = 0; i < t->U; i++)
        dr_dataset_get(t->data, t->unc_ids[i], t->h_unc + i * t->image);
}

static void upload(struct dr_trainer *t, void *dst, const void *src, int64_t n, size_t size) {
    if (n)
        t->be->upload(t->be, dst, src, (size_t)n * size);
}

void trainer_draw(struct dr_trainer *t) {
    draw_classes(t);
    draw_conditions(t);
    draw_reals(t);
    for (int64_t i = 0; i < t->B; i++) {
        t->h_seed[i] = (uint64_t)t->cfg.train.seed;
        t->h_index[i] = (uint64_t)(t->step * t->B + i);
    }
    upload(t, t->alpha, t->h_alpha, t->B, sizeof(real));
    upload(t, t->cls, t->h_cls, t->B, sizeof(int32_t));
    upload(t, t->seed, t->h_seed, t->B, sizeof(uint64_t));
    upload(t, t->index, t->h_index, t->B, sizeof(uint64_t));
    upload(t, t->pos, t->h_pos, t->nclass * t->P * t->image, sizeof(real));
    upload(t, t->unc, t->h_unc, t->U * t->image, sizeof(real));
    upload(t, t->unc_weight, t->h_unc_weight, t->nclass, sizeof(real));
}

void trainer_noise(struct dr_trainer *t, bool second) {
    DR_OP(t->be, normals, .out = t->eps, .seed = t->seed, .index = t->index, .b = t->B,
          .n = t->noise, .stream = second ? DR_STREAM_TRAIN_NOISE2 : DR_STREAM_TRAIN_NOISE);
    if (t->nstyle)
        DR_OP(t->be, indices, .out = t->style, .seed = t->seed, .index = t->index, .b = t->B,
              .n = t->nstyle, .stream = second ? DR_STREAM_TRAIN_STYLE2 : DR_STREAM_TRAIN_STYLE,
              .range = (uint32_t)t->cfg.model.codebook);
}
