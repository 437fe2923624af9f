// The training step and the memory behind it. See trainer.h; the step follows method.md 1 (paper
// A.9).
#include "engine/train/trainer_priv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

// ---- the computation of a step: ops only, so that the dry run can follow it
// ------------------------

static struct dr_weights weights_of(const struct dr_trainer *t, bool with_gradients) {
    return (struct dr_weights){.layout = dr_net_params(t->gen),
                               .w = t->w,
                               .w16 = t->w16,
                               .g = with_gradients ? t->g : NULL};
}

static struct dr_net_in chunk_input(const struct dr_trainer *t, int64_t i) {
    const int64_t at = i * t->chunk;
    return (struct dr_net_in){.x = t->eps + at * t->noise,
                              .cls = t->in.cls + at,
                              .alpha = t->in.alpha + at,
                              .style = t->nstyle ? t->style + at * t->nstyle : NULL,
                              .tables = t->tables,
                              .b = DR_MIN(t->chunk, t->B - at)};
}

static void generate(struct dr_trainer *t, struct dr_ctx *cx, real *x, bool keep) {
    const struct dr_weights w = weights_of(t, false);
    for (int64_t i = 0; i < t->nchunk; i++) {
        const struct dr_net_in in = chunk_input(t, i);
        real *const y[] = {x + i * t->chunk * t->image};
        dr_net_forward(cx, t->gen, &w, &in, y, keep ? t->saved[i] : NULL);
    }
}

// Unconditional reals as [groups,U,S] vectors: the same U images for every class.
static real *unc_features(struct dr_trainer *t, struct dr_ctx *cx, int f, struct dr_feature_dim d) {
    const int64_t n = d.locations * t->U * d.s;
    real *one = dr_alloc(cx->tmp, (size_t)n * sizeof(real));
    dr_features_of_reals(cx, t->features, f, t->unc, 1, t->U, one);
    if (d.locations == 1)
        return one;
    real *all = dr_alloc(cx->tmp, (size_t)(t->nclass * n) * sizeof(real));
    DR_OP(cx->be, copy4, .dst = all, .src = one, .dt = DR_F32, .st = DR_F32,
          .dim = {1, 1, t->nclass, n}, .dstride = {0, 0, n, 1}, .sstride = {0, 0, 0, 1});
    return all;
}

static real *unc_weights(struct dr_trainer *t, struct dr_ctx *cx, int64_t locations) {
    if (locations == 1)
        return t->in.unc_weight;
    real *w = dr_alloc(cx->tmp, (size_t)(t->nclass * locations) * sizeof(real));
    DR_OP(cx->be, copy4, .dst = w, .src = t->in.unc_weight, .dt = DR_F32, .st = DR_F32,
          .dim = {1, 1, t->nclass, locations}, .dstride = {0, 0, locations, 1},
          .sstride = {0, 0, 1, 0});
    return w;
}

static void feature_loss(struct dr_trainer *t, struct dr_ctx *cx, int f) {
    const size_t mark = dr_mark(cx->tmp);
    const struct dr_feature_dim d = dr_features_dim(t->features, f);
    const int64_t groups = t->nclass * d.locations, gen_n = groups * t->N * d.s;
    // method.md 1.6 sums over features; 3 takes their mean.
    const int share = t->cfg.loss.field == DR_FIELD_KERNEL_L2 ? dr_features_count(t->features) : 1;
    real *gen = dr_alloc(cx->tmp, (size_t)gen_n * sizeof(real));
    real *norm = dr_alloc(cx->tmp, (size_t)(groups * t->N) * sizeof(real));
    real *dgen = dr_alloc(cx->tmp, (size_t)gen_n * sizeof(real));
    real *pos = dr_alloc(cx->tmp, (size_t)(groups * t->P * d.s) * sizeof(real));
    real *neg = NULL;
    dr_features_forward(cx, t->features, f, t->x, t->nclass, t->N, gen, norm);
    dr_features_of_reals(cx, t->features, f, t->pos, t->nclass, t->P, pos);
    if (t->neg) {
        neg = dr_alloc(cx->tmp, (size_t)gen_n * sizeof(real));
        dr_features_forward(cx, t->features, f, t->neg, t->nclass, t->N, neg, NULL);
    }
    const struct dr_drift_in in = {.gen = gen,
                                   .neg = neg,
                                   .pos = pos,
                                   .unc = t->U ? unc_features(t, cx, f, d) : NULL,
                                   .unc_weight = t->U ? unc_weights(t, cx, d.locations) : NULL,
                                   .B = groups,
                                   .N = t->N,
                                   .U = t->U,
                                   .P = t->P,
                                   .S = d.s,
                                   .unc_shared = t->U && d.locations == 1,
                                   .weight = d.weight / (real)share};
    real *rep = t->report + report_feature(t, f);
    const struct dr_drift_out out = {.dgen = dgen,
                                     .loss = t->report,
                                     .v2 = rep,
                                     .stats = rep + t->cfg.loss.ntau,
                                     .field = t->field};
    dr_drift_loss(cx, &t->cfg.loss, &in, &out);
    dr_features_backward(cx, t->features, f, t->x, t->nclass, t->N, gen, norm, dgen, t->dx);
    dr_release(cx->tmp, mark);
}

static void losses(struct dr_trainer *t, struct dr_ctx *cx) {
    DR_OP(cx->be, fill, .dst = t->report, .n = t->nreport, .value = 0);
    DR_OP(cx->be, fill, .dst = t->dx, .n = t->B * t->image, .value = 0);
    for (int f = 0; f < dr_features_count(t->features); f++)
        feature_loss(t, cx, f);
}

static void backward(struct dr_trainer *t, struct dr_ctx *cx) {
    const int64_t total = dr_net_params(t->gen)->total;
    const struct dr_weights w = weights_of(t, true);
    DR_OP(cx->be, fill, .dst = t->g, .n = total, .value = 0);
    for (int64_t i = 0; i < t->nchunk; i++) {
        const struct dr_net_in in = chunk_input(t, i);
        const real *const dy[] = {t->dx + i * t->chunk * t->image};
        dr_net_backward(cx, t->gen, &w, &in, t->saved[i], dy, NULL);
    }
    DR_OP(cx->be, sumsq, .out = t->report + 1, .x = t->g, .n = total);
}

// Forward, loss and backward.
static void compute(struct dr_trainer *t, struct dr_ctx *cx) {
    dr_release(cx->keep, 0);
    trainer_gather(t);
    if (t->neg) { // before the kept pass: it reuses the noise buffers
        trainer_noise(t, true);
        generate(t, cx, t->neg, false);
    }
    trainer_noise(t, false);
    generate(t, cx, t->x, true);
    double start = now();
    losses(t, cx);
    t->loss_seconds = now() - start;
    backward(t, cx);
}

static void update(struct dr_trainer *t) {
    const struct dr_optim_config *o = &t->cfg.optim;
    const struct dr_params *ps = dr_net_params(t->gen);
    const int64_t at[2] = {0, ps->decayed}, n[2] = {ps->decayed, ps->total - ps->decayed};
    // 0 times what is not finite is NaN: once bad, the guard stays so, and with it the weights.
    DR_OP(t->be, axpy, .y = t->guard, .x = t->report, .xt = DR_F32, .n = 2, .alpha = 0);
    for (int i = 0; i < 2; i++)
        if (n[i])
            DR_OP(t->be, adamw, .w = t->w + at[i], .m = t->m + at[i], .v = t->v + at[i],
                  .g = t->g + at[i], .sumsq = t->report + 1, .hyper = t->in.hyper,
                  .guard = t->guard, .w16 = t->w16 ? t->w16 + at[i] : NULL, .n = n[i],
                  .beta1 = (real)o->beta1, .beta2 = (real)o->beta2, .eps = (real)o->eps,
                  .decay = i ? 0 : (real)o->weight_decay, .clip = (real)o->clip);
    for (int i = 0; i < t->cfg.ema.n; i++)
        DR_OP(t->be, ema, .e = t->ema[i], .w = t->w, .decay = t->in.hyper + HYPER_EMA + i,
              .guard = t->guard, .n = ps->total);
}

void trainer_device_step(void *trainer) {
    struct dr_trainer *t = trainer;
    struct dr_ctx cx = {
        .be = t->be, .keep = &t->keep, .tmp = &t->tmp, .act = t->act, .keep_all = t->keep_all};
    compute(t, &cx);
    update(t);
}

// ---- schedule
// ---------------------------------------------------------------------------------------

// How far the run is, 0 to 1: by steps or, where train.minutes ends it sooner, by the clock.
static double progress(const struct dr_trainer *t) {
    const double limit = t->cfg.train.minutes * 60;
    const double steps = (double)t->step / (double)t->cfg.train.steps;
    return limit > 0 ? fmax(steps, t->seconds / limit) : steps;
}

static double learning_rate(const struct dr_trainer *t) {
    const struct dr_optim_config *o = &t->cfg.optim;
    if (t->step < o->warmup)
        return o->lr * (double)(t->step + 1) / (double)o->warmup;
    if (o->schedule == DR_LR_CONSTANT)
        return o->lr;
    const double at = progress(t);
    if (at <= o->cosine_start)
        return o->lr;
    double u = fmin(1, (at - o->cosine_start) / fmax(1e-9, 1 - o->cosine_start));
    return o->lr * (o->lr_end + (1 - o->lr_end) * 0.5 * (1 + cos(M_PI * u)));
}

static void fill_hyper(const struct dr_trainer *t, struct trainer_slot *s) {
    real *h = s->in.hyper;
    const double n = (double)(t->step + 1);
    s->lr = learning_rate(t);
    h[HYPER_LR] = (real)s->lr;
    h[HYPER_BC1] = (real)(1 - pow(t->cfg.optim.beta1, n));
    h[HYPER_BC2] = (real)(1 - pow(t->cfg.optim.beta2, n));
    for (int i = 0; i < t->cfg.ema.n; i++) {
        double d = t->cfg.ema.decay[i];
        h[HYPER_EMA + i] = (real)(t->cfg.ema.ramp ? fmin(d, n / (9 + n)) : d);
    }
}

// ---- metrics
// ----------------------------------------------------------------------------------------

static void read_report(const struct dr_trainer *t, const struct trainer_slot *s,
                        struct dr_metrics *m) {
    const int features = dr_features_count(t->features);
    *m = (struct dr_metrics){.step = s->step,
                             .lr = s->lr,
                             .alpha_mean = s->alpha_mean,
                             .ntau = t->cfg.loss.ntau,
                             .loss = (double)s->report[0],
                             .grad_norm = sqrt((double)s->report[1]),
                             .loss_seconds = t->be->host_memory ? t->loss_seconds : NAN,
                             .spread = NAN,
                             .spread_min = NAN};
    for (int f = 0; f < features; f++)
        for (int k = 0; k < m->ntau; k++)
            m->drift_norm[k] += sqrt((double)s->report[report_feature(t, f) + k]) / features;
    const real *stats = s->report + report_feature(t, 0) + m->ntau;
    m->feature_scale = (double)stats[0];
    m->dist_mean = (double)stats[1];
    m->dist_var = (double)stats[2];
    m->finite = isfinite(m->loss) && isfinite(m->grad_norm);
}

// ---- steps on their way
// ------------------------------------------------------------------------------

// Starts step t->step + 1; nothing here waits for the device. After a failure no step can follow,
// as the sampler of reals has moved on.
static int launch(struct dr_trainer *t, struct trainer_slot *s, struct dr_err *err) {
    const struct dr_backend *be = t->be;
    const int64_t every = t->cfg.metrics.spread_every;
    s->started = now();
    int rc = trainer_draw(t, s, err);
    if (rc)
        return t->failed = rc;
    fill_hyper(t, s);
    be->upload(t->be, t->in.block, s->in.block, t->in_bytes);
    be->replay(t->be, &t->graph, trainer_device_step, t);
    be->download_later(t->be, s->report, t->report, (size_t)t->nreport * sizeof(real));
    s->step = t->stepped = ++t->step;
    s->spread = every && s->step % every == 0;
    if (s->spread)
        be->download_later(t->be, s->x, t->x, (size_t)(t->B * t->image) * sizeof(real));
    be->mark(t->be, (int)(s - t->slot));
    return 0;
}

// Waits for a step and judges it. When it went wrong the weights are those of the step before, also
// if another had been started: the guard holds that one back.
static int collect(struct dr_trainer *t, struct trainer_slot *s, struct dr_metrics *m,
                   struct dr_err *err) {
    const int rc = t->be->wait(t->be, (int)(s - t->slot), err);
    read_report(t, s, m);
    s->step = 0;
    const bool spread = !rc && m->finite && s->spread;
    if (spread)
        trainer_spread(t, s, m);
    const double at = now();
    m->step_seconds = at - DR_MAX(s->started, t->collected);
    t->collected = at;
    trainer_name_metrics(t, spread, m);
    if (!rc && m->finite) {
        t->seconds += m->step_seconds;
        return 0;
    }
    t->step = m->step - 1;
    t->failed = rc ? rc : DR_ENONFINITE;
    if (rc)
        return rc;
    return dr_fail(err, DR_ENONFINITE,
                   "step %lld: loss %g, gradient norm %g; the weights are those of step %lld",
                   (long long)m->step, m->loss, m->grad_norm, (long long)t->step);
}

// The oldest step on its way, NULL: none.
static struct trainer_slot *oldest(struct dr_trainer *t) {
    struct trainer_slot *s = NULL;
    for (int i = 0; i < t->nslots; i++)
        if (t->slot[i].step && (!s || t->slot[i].step < s->step))
            s = &t->slot[i];
    return s;
}

int trainer_settle(struct dr_trainer *t, struct dr_err *err) {
    struct trainer_slot *s = oldest(t);
    if (t->failed)
        return dr_fail(err, t->failed, "the run has failed before");
    return s ? collect(t, s, &t->late, err) : 0;
}

int dr_trainer_wait(struct dr_trainer *t, struct dr_metrics *m, struct dr_err *err) {
    struct trainer_slot *s = oldest(t);
    *m = t->late;
    t->late.step = 0;
    if (m->step && !t->failed)
        return 0;
    if (t->failed)
        return dr_fail(err, t->failed, "the run has failed before");
    return s ? collect(t, s, m, err) : 0;
}

int dr_trainer_step(struct dr_trainer *t, struct dr_metrics *m, struct dr_err *err) {
    struct trainer_slot *s = &t->slot[t->step % t->nslots];
    *m = (struct dr_metrics){.spread = NAN, .spread_min = NAN};
    if (t->failed)
        return dr_trainer_wait(t, m, err);
    int rc = launch(t, s, err);
    if (rc)
        return rc;
    if (t->nslots > 1 && oldest(t) == s && !t->late.step)
        return 0; // the first of a run: no metrics yet
    return dr_trainer_wait(t, m, err);
}

// ---- what outsiders ask
// ------------------------------------------------------------------------------

const struct dr_config *dr_trainer_config(const struct dr_trainer *t) {
    return &t->cfg;
}
int64_t dr_trainer_steps_done(const struct dr_trainer *t) {
    return t->step;
}
double dr_trainer_seconds(const struct dr_trainer *t) {
    return t->seconds;
}
size_t dr_trainer_memory(const struct dr_trainer *t) {
    return t->block_bytes + t->scratch_bytes + t->images_bytes;
}
double dr_trainer_step_flops(const struct dr_trainer *t) {
    return t->flops;
}

int64_t dr_trainer_steps_total(const struct dr_trainer *t) {
    const double limit = t->cfg.train.minutes * 60;
    if (limit <= 0 || t->step < 1 || t->seconds <= 0)
        return t->cfg.train.steps;
    return DR_MIN(t->cfg.train.steps, (int64_t)(limit / (t->seconds / (double)t->step)));
}

bool dr_trainer_finished(const struct dr_trainer *t) {
    return progress(t) >= 1;
}

struct dr_snapshot *dr_trainer_snapshot(struct dr_trainer *t, int which) {
    const size_t bytes = (size_t)dr_net_params(t->gen)->total * sizeof(real);
    struct dr_net *gen;
    if (dr_gen_create(&t->cfg.model, &gen, NULL))
        return NULL;
    real *w = aligned_alloc(DR_ALIGN, DR_MAX(bytes, (size_t)DR_ALIGN));
    if (!w) {
        dr_net_free(gen);
        return NULL;
    }
    t->be->download(t->be, w, t->ema[which], bytes);
    struct dr_snapshot *s = dr_snapshot_new(gen, w, t->step);
    if (s)
        s->guidance = dr_config_guidance_range(&t->cfg);
    return s;
}
