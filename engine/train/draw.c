// Everything random in a step, drawn on the host from Philox with the step in the index, so that a
// resumed run draws what the uninterrupted one would have (method.md 1 and 8).
#include "engine/train/trainer_priv.h"

#include <math.h>

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

static void draw_conditions(struct dr_trainer *t, struct trainer_slot *s) {
    const struct dr_train_config *c = &t->cfg.train;
    struct dr_rng ga, gd;
    dr_rng_init(&ga, (uint64_t)c->seed, DR_STREAM_ALPHA, (uint64_t)t->step);
    dr_rng_init(&gd, (uint64_t)c->seed, DR_STREAM_DROPOUT, (uint64_t)t->step);
    const int null = dr_gen_null_class(t->gen);
    double sum = 0;
    for (int64_t i = 0; i < t->nclass; i++) {
        double alpha = draw_alpha(c, &ga);
        sum += alpha;
        s->in.unc_weight[i] =
            t->U ? (real)((alpha - 1) * (double)(t->N - 1) / (double)t->U) : (real)0; // A.7
        for (int64_t j = i * t->N; j < (i + 1) * t->N; j++) {
            s->in.alpha[j] = (real)alpha;
            bool drop =
                t->cfg.model.label_dropout > 0 && dr_rng_uniform(&gd) < t->cfg.model.label_dropout;
            s->in.cls[j] = drop ? null : t->classes[i];
        }
    }
    s->alpha_mean = sum / (double)t->nclass;
}

// Rows in the order of the device's gather: pos, then unc.
static int copy_rows(const struct dr_trainer *t, const struct trainer_inputs *in,
                     struct dr_err *err) {
    const int64_t npos = t->nclass * t->P;
    char *unc = (char *)in->rows + (size_t)npos * dr_dataset_row_bytes(t->data);
    int rc = dr_dataset_rows(t->data, in->pos_ids, npos, in->rows, err);
    return rc ? rc : dr_dataset_rows(t->data, in->unc_ids, t->U, unc, err);
}

int trainer_draw(struct dr_trainer *t, struct trainer_slot *s, struct dr_err *err) {
    draw_classes(t);
    draw_conditions(t, s);
    dr_reals_draw(t->reals, (uint64_t)t->step, t->classes, t->nclass, s->in.pos_ids, s->in.unc_ids);
    for (int64_t i = 0; i < t->B; i++) {
        s->in.seed[i] = (uint64_t)t->cfg.train.seed;
        s->in.index[i] = (uint64_t)(t->step * t->B + i);
    }
    return t->streamed ? copy_rows(t, &s->in, err) : 0;
}

static void gather(struct dr_trainer *t, real *dst, const int64_t *ids, int64_t from, int64_t n) {
    const uint8_t *pixels = t->pixels;
    const real *points = t->points;
    if (t->streamed) {
        ids = NULL;
        const bool images = t->data->kind == DR_KIND_IMAGES;
        pixels = images ? (const uint8_t *)t->in.rows + from * t->image : NULL;
        points = images ? NULL : (const real *)t->in.rows + from * t->image;
    }
    if (n)
        DR_OP(t->be, gather, .dst = dst, .pixels = pixels, .points = points, .idx = ids, .n = n,
              .count = t->image);
}

void trainer_gather(struct dr_trainer *t) {
    const int64_t npos = t->nclass * t->P;
    gather(t, t->pos, t->in.pos_ids, 0, npos);
    gather(t, t->unc, t->in.unc_ids, npos, t->U);
}

void trainer_noise(struct dr_trainer *t, bool second) {
    DR_OP(t->be, normals, .out = t->eps, .seed = t->in.seed, .index = t->in.index, .b = t->B,
          .n = t->noise, .stream = second ? DR_STREAM_TRAIN_NOISE2 : DR_STREAM_TRAIN_NOISE);
    if (t->nstyle)
        DR_OP(t->be, indices, .out = t->style, .seed = t->in.seed, .index = t->in.index, .b = t->B,
              .n = t->nstyle, .stream = second ? DR_STREAM_TRAIN_STYLE2 : DR_STREAM_TRAIN_STYLE,
              .range = (uint32_t)t->cfg.model.codebook);
}
