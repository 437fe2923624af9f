// The host's part of an encoder's step: which images, augmented and masked how. Functions of
// (seed, step) alone: Philox streams with the step or the place in it as index (method.md 8). The
// data set is gone through in epochs, each in an order of its own.
#include "engine/train/encoder/augment.h"
#include "engine/train/encoder/encoder.h"
#include "engine/train/encoder/mask.h"

static void shuffle(struct encoder *t, int64_t epoch) {
    struct dr_rng g;
    dr_rng_init(&g, (uint64_t)t->cfg->train.seed, DR_STREAM_SAMPLER, (uint64_t)epoch);
    for (int64_t i = 0; i < t->data->n; i++)
        t->order[i] = i;
    for (int64_t i = t->data->n - 1; i > 0; i--) {
        const int64_t j = (int64_t)(dr_rng_uniform(&g) * (double)(i + 1)), k = t->order[i];
        t->order[i] = t->order[j];
        t->order[j] = k;
    }
    t->epoch = epoch;
}

static void choose(struct encoder *t, int64_t done) {
    for (int64_t i = 0; i < t->B; i++) {
        const int64_t at = done * t->all + t->first + i;
        if (at / t->data->n != t->epoch)
            shuffle(t, at / t->data->n);
        t->ids[i] = t->order[at % t->data->n];
    }
}

// Image i of this process's share: x, and what reconstruction compares.
static void prepare(const struct encoder *t, int64_t done, int64_t i,
                    const struct encoder_inputs *in) {
    const int64_t squares = (t->h / t->p) * (t->w / t->p), plane = t->h * t->w;
    const uint64_t seed = (uint64_t)t->cfg->train.seed,
                   number = (uint64_t)(done * t->all + t->first + i);
    real *x = in->x + i * t->image;
    struct dr_augment a;
    struct dr_rng g;
    dr_rng_init(&g, seed, DR_STREAM_AUGMENT, number);
    dr_augment_draw(t->cfg, t->h, t->w, &g, &a);
    dr_augment_apply(&a, t->rows + i * t->image, t->c, t->h, t->w, x);
    in->label[i] = t->data->label[t->ids[i]];
    if (t->reconstruction < 0)
        return;
    real *target = in->target + i * t->image, *mask = in->mask + i * squares;
    for (int64_t k = 0; k < t->c; k++)
        for (int64_t j = 0; j < plane; j++)
            target[j * t->c + k] = x[k * plane + j];
    dr_rng_init(&g, seed, DR_STREAM_MASK, number);
    dr_mask_draw(&g, t->cfg->encoder.mask_probability, squares, mask);
    dr_mask_apply(mask, t->c, t->h, t->w, t->p, x);
}

double encoder_weight(const struct dr_encoder_config *cfg, int64_t done) {
    const int64_t ramp = cfg->classify_ramp;
    if (cfg->objective != DR_ENCODER_BOTH)
        return cfg->objective == DR_ENCODER_CLASSIFY;
    return cfg->classify_weight * (done < ramp ? (double)done / (double)ramp : 1);
}

int encoder_draw(void *o, int64_t done, int slot, struct dr_err *err) {
    struct encoder *t = o;
    const struct encoder_inputs *in = &t->in[slot];
    const double l = encoder_weight(&t->cfg->encoder, done);
    choose(t, done);
    int rc = dr_dataset_reals(t->data, t->ids, t->B, t->rows, err);
    if (rc)
        return rc;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < t->B; i++)
        prepare(t, done, i, in);
    in->weight[0] = (real)l;
    in->weight[1] = (real)(1 - l);
    return 0;
}
