// The ops of a drifting step (method.md 1): forward, features and their losses, backward.
#include "engine/train/drift/drift.h"

#include "engine/core/clock.h"

// ---- the generator, a chunk at a time

static struct dr_net_in chunk_input(const struct drift *t, int64_t i) {
    const int64_t at = i * t->chunk;
    const struct drift_inputs *in = &t->in[TRAINER_DEVICE];
    return (struct dr_net_in){.x = t->eps + at * t->noise,
                              .cls = in->cls + at,
                              .alpha = in->alpha + at,
                              .style = t->nstyle ? t->style + at * t->nstyle : NULL,
                              .tables = t->tables,
                              .b = DR_MIN(t->chunk, t->B - at)};
}

static void generate(struct drift *t, struct dr_ctx *cx, const struct dr_weights *w, real *x,
                     bool keep) {
    for (int64_t i = 0; i < t->nchunk; i++) {
        const struct dr_net_in in = chunk_input(t, i);
        real *const y[] = {x + i * t->chunk * t->image};
        dr_net_forward(cx, t->gen, w, &in, y, keep ? t->saved[i] : NULL);
    }
}

static void backward(struct drift *t, struct dr_ctx *cx, const struct dr_weights *w) {
    for (int64_t i = 0; i < t->nchunk; i++) {
        const struct dr_net_in in = chunk_input(t, i);
        const real *const dy[] = {t->dx + i * t->chunk * t->image};
        dr_net_backward(cx, t->gen, w, &in, t->saved[i], dy, NULL);
    }
}

// ---- features and their losses

// The maps of everything that a step compares.
struct compared {
    struct dr_maps x, dx, neg, pos, unc;
};

// Unconditional reals as [groups,U,S] vectors: the same U images for every class.
static real *unc_vectors(struct drift *t, struct dr_ctx *cx, int f, const struct dr_maps *m,
                         struct dr_feature_dim d) {
    const int64_t n = d.locations * t->U * d.s;
    real *one = dr_alloc_real(cx->tmp, n);
    if (t->cache.on)
        drift_cache_vectors(t, cx, f, t->nclass * t->P, 1, t->U, one);
    else
        dr_features_vectors(cx, t->features, f, m, true, one, NULL);
    if (d.locations == 1)
        return one;
    real *all = dr_alloc_real(cx->tmp, t->nclass * n);
    DR_OP(cx->be, copy4, .dst = all, .src = one, .dt = DR_F32, .st = DR_F32,
          .dim = {1, 1, t->nclass, n}, .dstride = {0, 0, n, 1}, .sstride = {0, 0, 0, 1});
    return all;
}

static real *unc_weights(struct drift *t, struct dr_ctx *cx, int64_t locations) {
    real *of_class = drift_device(t)->unc_weight;
    if (locations == 1)
        return of_class;
    real *w = dr_alloc_real(cx->tmp, t->nclass * locations);
    DR_OP(cx->be, copy4, .dst = w, .src = of_class, .dt = DR_F32, .st = DR_F32,
          .dim = {1, 1, t->nclass, locations}, .dstride = {0, 0, locations, 1},
          .sstride = {0, 0, 1, 0});
    return w;
}

static void feature_loss(struct drift *t, struct dr_ctx *cx, const struct dr_step *s,
                         const struct compared *c, int f) {
    const size_t mark = dr_mark(cx->tmp);
    const struct dr_feature_dim d = dr_features_dim(t->features, f);
    const int64_t groups = t->nclass * d.locations, gen_n = groups * t->N * d.s;
    const int share = t->field->mean ? dr_features_count(t->features) : 1;
    real *gen = dr_alloc_real(cx->tmp, gen_n);
    real *norm = dr_alloc_real(cx->tmp, groups * t->N);
    real *dgen = dr_alloc_real(cx->tmp, gen_n);
    real *pos = dr_alloc_real(cx->tmp, groups * t->P * d.s);
    real *neg = t->neg ? dr_alloc_real(cx->tmp, gen_n) : NULL;
    dr_features_vectors(cx, t->features, f, &c->x, false, gen, norm);
    if (t->cache.on)
        drift_cache_vectors(t, cx, f, 0, t->nclass, t->P, pos);
    else
        dr_features_vectors(cx, t->features, f, &c->pos, true, pos, NULL);
    if (neg)
        dr_features_vectors(cx, t->features, f, &c->neg, false, neg, NULL);
    struct dr_drift_in in = {.gen = gen,
                             .neg = neg,
                             .pos = pos,
                             .unc = t->U ? unc_vectors(t, cx, f, &c->unc, d) : NULL,
                             .unc_weight = t->U ? unc_weights(t, cx, d.locations) : NULL,
                             .B = groups,
                             .N = t->N,
                             .U = t->U,
                             .P = t->P,
                             .S = d.s,
                             .groups = drift_groups(t, d.locations),
                             .unc_shared = t->U && d.locations == 1,
                             .weight = d.weight / (real)share,
                             .feature = f,
                             .first = t->first * d.locations,
                             .key = drift_device(t)->key};
    struct dr_standard standard;
    dr_features_standardize(cx, t->features, f, &in, norm, &standard);
    real *rep = s->report + drift_report(t, f);
    const struct dr_drift_out out = {
        .dgen = dgen,
        .loss = s->loss,
        .v2 = rep,
        .stats = rep + drift_count(t),
        .field = t->v,
        .own = t->field->params_each ? s->report + drift_report_own(t, f) : NULL};
    t->field->loss(cx, &t->cfg->loss, t->field->params ? &s->group[1].gradients : NULL, &in, &out);
    dr_features_standardize_backward(cx, t->features, &in, norm, &standard, dgen);
    dr_features_vectors_backward(cx, t->features, f, &c->x, gen, norm, dgen, &c->dx);
    dr_release(cx->tmp, mark);
}

// The encoder as the generator sees it: it drives, and does not move.
static struct dr_weights encoder_weights(const struct drift *t, const struct dr_step *s) {
    if (drift_learns_features(t))
        return s->group[drift_encoder_group(t)].weights;
    return (struct dr_weights){
        .layout = dr_features_params(t->features), .w = t->encoder, .w16 = t->encoder16};
}

static void losses(struct drift *t, struct dr_ctx *cx, const struct dr_step *s) {
    const size_t mark = dr_mark(cx->tmp);
    const struct dr_weights encoder = encoder_weights(t, s);
    const struct dr_weights *w = encoder.layout ? &encoder : NULL;
    struct compared c = {.x = t->kept, .pos = t->kept_reals};
    c.neg.chunk = c.pos.chunk = c.unc.chunk = t->chunk;
    const double start = dr_seconds();
    dr_features_extract(cx, t->features, w, t->x, t->nclass, t->N, &c.x);
    if (t->cache.on)
        drift_cache_fill(t, cx, w);
    else
        dr_features_extract(cx, t->features, w, t->pos, t->nclass, t->P, &c.pos);
    if (t->U && !t->cache.on)
        dr_features_extract(cx, t->features, w, t->unc, 1, t->U, &c.unc);
    if (t->neg)
        dr_features_extract(cx, t->features, w, t->neg, t->nclass, t->N, &c.neg);
    const double extracted = dr_seconds();
    dr_features_zero_gradients(cx, t->features, &c.x, t->dx, &c.dx);
    for (int f = 0; f < dr_features_count(t->features); f++)
        feature_loss(t, cx, s, &c, f);
    const double back = dr_seconds();
    dr_features_backward(cx, t->features, w, &c.x, &c.dx, t->dx);
    if (drift_learns_features(t))
        drift_learn(t, cx, s, &c.x, &c.pos);
    t->encoder_seconds = dr_seconds() - back + extracted - start;
    dr_release(cx->tmp, mark);
}

void drift_device_step(void *o, struct dr_ctx *cx, const struct dr_step *s) {
    struct drift *t = o;
    t->report = s->report;
    drift_gather(t, cx);
    if (t->neg) { // before the kept pass: it reuses the noise buffers
        drift_noise(t, cx, true);
        generate(t, cx, &s->group[0].weights, t->neg, false);
    }
    drift_noise(t, cx, false);
    generate(t, cx, &s->group[0].weights, t->x, true);
    const double start = dr_seconds();
    losses(t, cx, s);
    t->loss_seconds = dr_seconds() - start;
    backward(t, cx, &s->group[0].gradients);
}

// The gradient norms of the field's parameters, feature by feature, and of the encoder's.
void drift_summed(void *o, struct dr_ctx *cx, const struct dr_step *s) {
    struct drift *t = o;
    if (drift_learns_features(t)) {
        const struct dr_group *e = &s->group[drift_encoder_group(t)];
        DR_OP(cx->be, sumsq, .out = s->report + drift_report_encoder(t) + DRIFT_ENCODER_GRADIENT,
              .x = e->g, .n = e->layout->total);
    }
    if (!t->field->params_each)
        return;
    const struct dr_group *g = &s->group[1];
    const int each = t->field->params_each(&t->cfg->loss);
    for (int k = 0; k < g->layout->n; k++) {
        real *own = s->report + drift_report_own(t, k / each);
        DR_OP(cx->be, sumsq, .out = own + DR_FIELD_GRADIENT, .x = g->g + g->layout->p[k].offset,
              .n = g->layout->p[k].count, .acc = true);
    }
}
