// The encoder that learns beside the generator (features.kind kde): one step on its own objective
// per step of the generator, on the maps that the drifting losses are taken of. Nothing of it
// reaches the generator, and nothing of the drifting losses reaches the encoder.
#include "engine/train/drift/drift.h"

#include "engine/loss/kde.h"

static int learnt_from(const struct drift *t) {
    int n = 0;
    for (int f = 0; f < dr_features_count(t->features); f++)
        n += dr_features_learns_from(t->features, f);
    return n;
}

struct pair_of_maps {
    const struct dr_maps *gen, *pos;
    struct dr_maps dgen, dpos;
};

static void feature(struct drift *t, struct dr_ctx *cx, const struct dr_step *s,
                    const struct pair_of_maps *m, int f) {
    const size_t mark = dr_mark(cx->tmp);
    const struct dr_feature_dim d = dr_features_dim(t->features, f);
    const int64_t B = t->nclass * d.locations, gen_n = B * t->N * d.s, pos_n = B * t->P * d.s;
    real *gen = dr_alloc_real(cx->tmp, gen_n), *pos = dr_alloc_real(cx->tmp, pos_n);
    real *own = s->report + drift_report_encoder(t);
    dr_features_plain(cx, t->features, f, m->gen, gen);
    dr_features_plain(cx, t->features, f, m->pos, pos);
    const struct dr_kde_in in = {.gen = gen,
                                 .pos = pos,
                                 .B = B,
                                 .N = t->N,
                                 .P = t->P,
                                 .S = d.s,
                                 .groups = drift_groups(t, d.locations),
                                 .tau = t->cfg->loss.tau,
                                 .ntau = t->cfg->loss.ntau,
                                 .weight = 1 / (real)learnt_from(t)};
    const struct dr_kde_out out = {.dgen = dr_alloc_real(cx->tmp, gen_n),
                                   .dpos = dr_alloc_real(cx->tmp, pos_n),
                                   .loss = own + DRIFT_ENCODER_LOSS,
                                   .wrong = own + DRIFT_ENCODER_WRONG};
    dr_kde_loss(cx, &in, &out);
    dr_features_plain_backward(cx, t->features, f, m->gen, out.dgen, &m->dgen);
    dr_features_plain_backward(cx, t->features, f, m->pos, out.dpos, &m->dpos);
    dr_release(cx->tmp, mark);
}

void drift_learn(struct drift *t, struct dr_ctx *cx, const struct dr_step *s,
                 const struct dr_maps *gen, const struct dr_maps *pos) {
    const struct dr_weights *w = &s->group[drift_encoder_group(t)].gradients;
    const size_t mark = dr_mark(cx->tmp);
    struct pair_of_maps m = {.gen = gen, .pos = pos};
    dr_features_zero_gradients(cx, t->features, gen, NULL, &m.dgen);
    dr_features_zero_gradients(cx, t->features, pos, NULL, &m.dpos);
    for (int f = 0; f < dr_features_count(t->features); f++)
        if (dr_features_learns_from(t->features, f))
            feature(t, cx, s, &m, f);
    dr_features_backward(cx, t->features, w, gen, &m.dgen, NULL);
    dr_features_backward(cx, t->features, w, pos, &m.dpos, NULL);
    dr_sum_reals(cx, s->report + drift_report_encoder(t), DRIFT_ENCODER_GRADIENT);
    dr_release(cx->tmp, mark);
}
