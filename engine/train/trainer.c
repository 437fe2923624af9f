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
    return (struct dr_weights){.layout = dr_gen_params(t->gen),
                               .w = t->w,
                               .w16 = t->w16,
                               .g = with_gradients ? t->g : NULL};
}

static struct dr_gen_in chunk_input(const struct dr_trainer *t, int64_t i) {
    const int64_t at = i * t->chunk;
    return (struct dr_gen_in){.noise = t->eps + at * t->noise,
                              .cls = t->cls + at,
                              .alpha = t->alpha + at,
                              .style = t->nstyle ? t->style + at * t->nstyle : NULL,
                              .tables = t->tables,
                              .b = DR_MIN(t->chunk, t->B - at)};
}

static void generate(struct dr_trainer *t, struct dr_ctx *cx, real *x, bool keep) {
    const struct dr_weights w = weights_of(t, false);
    for (int64_t i = 0; i < t->nchunk; i++) {
        const struct dr_gen_in in = chunk_input(t, i);
        dr_gen_forward(cx, t->gen, &w, &in, x + i * t->chunk * t->image, keep ? t->saved[i] : NULL);
    }
}

// Unconditional reals as [groups,U,S] vectors: the same U images for every class.
static real *unc_features(struct dr_trainer *t, struct dr_ctx *cx, int f, struct dr_feature_dim d) {
    const int64_t n = d.locations * t->U * d.s;
    real *one = dr_alloc(cx->tmp, (size_t)n * sizeof(real));
    dr_features_forward(cx, t->features, f, t->unc, 1, t->U, one, NULL);
    if (d.locations == 1)
        return one;
    real *all = dr_alloc(cx->tmp, (size_t)(t->nclass * n) * sizeof(real));
    DR_OP(cx->be, copy4, .dst = all, .src = one, .dt = DR_F32, .st = DR_F32,
          .dim = {1, 1, t->nclass, n}, .dstride = {0, 0, n, 1}, .sstride = {0, 0, 0, 1});
    return all;
}

static real *unc_weights(struct dr_trainer *t, struct dr_ctx *cx, int64_t locations) {
    if (locations == 1)
        return t->unc_weight;
    real *w = dr_alloc(cx->tmp, (size_t)(t->nclass * locations) * sizeof(real));
    DR_OP(cx->be, copy4, .dst = w, .src = t->unc_weight, .dt = DR_F32, .st = DR_F32,
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
    dr_features_forward(cx, t->features, f, t->pos, t->nclass, t->P, pos, NULL);
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
    const int64_t total = dr_gen_params(t->gen)->total;
    const struct dr_weights w = weights_of(t, true);
    DR_OP(cx->be, fill, .dst = t->g, .n = total, .value = 0);
    for (int64_t i = 0; i < t->nchunk; i++) {
        const struct dr_gen_in in = chunk_input(t, i);
        dr_gen_backward(cx, t->gen, &w, &in, t->saved[i], t->dx + i * t->chunk * t->image);
    }
    DR_OP(cx->be, sumsq, .out = t->report + 1, .x = t->g, .n = total);
}

// Forward, loss and backward; returns the seconds the loss took.
static double compute(struct dr_trainer *t, struct dr_ctx *cx) {
    dr_release(cx->keep, 0);
    if (t->neg) { // before the kept pass: it reuses the noise buffers
        trainer_noise(t, true);
        generate(t, cx, t->neg, false);
    }
    trainer_noise(t, false);
    generate(t, cx, t->x, true);
    double start = now();
    losses(t, cx);
    double seconds = now() - start;
    backward(t, cx);
    return seconds;
}

static void update(struct dr_trainer *t) {
    const struct dr_optim_config *o = &t->cfg.optim;
    const struct dr_params *ps = dr_gen_params(t->gen);
    const int64_t at[2] = {0, ps->decayed}, n[2] = {ps->decayed, ps->total - ps->decayed};
    for (int i = 0; i < 2; i++)
        if (n[i])
            DR_OP(t->be, adamw, .w = t->w + at[i], .m = t->m + at[i], .v = t->v + at[i],
                  .g = t->g + at[i], .sumsq = t->report + 1, .hyper = t->hyper,
                  .w16 = t->w16 ? t->w16 + at[i] : NULL, .n = n[i], .beta1 = (real)o->beta1,
                  .beta2 = (real)o->beta2, .eps = (real)o->eps,
                  .decay = i ? 0 : (real)o->weight_decay, .clip = (real)o->clip);
    for (int i = 0; i < t->cfg.ema.n; i++)
        DR_OP(t->be, ema, .e = t->ema[i], .w = t->w, .decay = t->hyper + HYPER_EMA + i,
              .n = ps->total);
}

// ---- schedule
// ---------------------------------------------------------------------------------------

static double learning_rate(const struct dr_trainer *t) {
    const struct dr_optim_config *o = &t->cfg.optim;
    if (t->step < o->warmup)
        return o->lr * (double)(t->step + 1) / (double)o->warmup;
    if (o->schedule == DR_LR_CONSTANT)
        return o->lr;
    double progress = (double)t->step / (double)t->cfg.train.steps;
    if (progress <= o->cosine_start)
        return o->lr;
    double u = fmin(1, (progress - o->cosine_start) / fmax(1e-9, 1 - o->cosine_start));
    return o->lr * (o->lr_end + (1 - o->lr_end) * 0.5 * (1 + cos(M_PI * u)));
}

static double upload_hyper(struct dr_trainer *t) {
    real h[HYPER_COUNT] = {0};
    const double lr = learning_rate(t), n = (double)(t->step + 1);
    h[HYPER_LR] = (real)lr;
    h[HYPER_BC1] = (real)(1 - pow(t->cfg.optim.beta1, n));
    h[HYPER_BC2] = (real)(1 - pow(t->cfg.optim.beta2, n));
    for (int i = 0; i < t->cfg.ema.n; i++) {
        double d = t->cfg.ema.decay[i];
        h[HYPER_EMA + i] = (real)(t->cfg.ema.ramp ? fmin(d, n / (9 + n)) : d);
    }
    t->be->upload(t->be, t->hyper, h, sizeof h);
    return lr;
}

// ---- metrics
// ----------------------------------------------------------------------------------------

static void read_report(struct dr_trainer *t, struct dr_metrics *m) {
    t->be->download(t->be, t->h_report, t->report, (size_t)t->nreport * sizeof(real));
    const int features = dr_features_count(t->features);
    m->loss = (double)t->h_report[0];
    m->grad_norm = sqrt((double)t->h_report[1]);
    m->ntau = t->cfg.loss.ntau;
    for (int f = 0; f < features; f++)
        for (int k = 0; k < m->ntau; k++)
            m->drift_norm[k] += sqrt((double)t->h_report[report_feature(t, f) + k]) / features;
    const real *stats = t->h_report + report_feature(t, 0) + m->ntau;
    m->feature_scale = (double)stats[0];
    m->dist_mean = (double)stats[1];
    m->dist_var = (double)stats[2];
    m->finite = isfinite(m->loss) && isfinite(m->grad_norm);
}

int dr_trainer_step(struct dr_trainer *t, struct dr_metrics *m, struct dr_err *err) {
    const double start = now();
    *m = (struct dr_metrics){.step = t->step + 1, .spread = NAN, .spread_min = NAN};
    trainer_draw(t);
    m->lr = upload_hyper(t);
    struct dr_ctx cx = {.be = t->be, .keep = &t->keep, .tmp = &t->tmp, .act = t->act};
    m->loss_seconds = compute(t, &cx);
    read_report(t, m);
    int rc = t->be->sync(t->be, err);
    if (rc)
        return rc;
    m->alpha_mean = t->class_alpha_mean;
    if (!m->finite)
        return dr_fail(err, DR_ENONFINITE,
                       "step %lld: loss %g, gradient norm %g; the weights are those of step %lld",
                       (long long)m->step, m->loss, m->grad_norm, (long long)t->step);
    update(t);
    t->stepped = ++t->step;
    const int64_t every = t->cfg.metrics.spread_every;
    if (every && t->step % every == 0)
        trainer_spread(t, m);
    rc = t->be->sync(t->be, err);
    m->step_seconds = now() - start;
    t->seconds += m->step_seconds;
    return rc;
}

// ---- set-up
// -----------------------------------------------------------------------------------------

// Assigns every device pointer of the block; run once to measure, once for real.
static void lay_out(struct dr_trainer *t, struct dr_arena *a) {
    const size_t total = (size_t)dr_gen_params(t->gen)->total * sizeof(real);
    const size_t img = (size_t)t->image * sizeof(real), B = (size_t)t->B;
    int64_t tables;
    dr_gen_tables_count(t->gen, &tables);
    t->w = dr_alloc(a, total);
    t->g = dr_alloc(a, total);
    t->m = dr_alloc(a, total);
    t->v = dr_alloc(a, total);
    for (int i = 0; i < t->cfg.ema.n; i++)
        t->ema[i] = dr_alloc(a, total);
    t->w16 = t->act == DR_BF16 ? dr_alloc(a, total / sizeof(real) * sizeof(dr_bf16)) : NULL;
    t->tables = dr_alloc(a, (size_t)tables * sizeof(real));
    t->hyper = dr_alloc(a, HYPER_COUNT * sizeof(real));
    t->report = dr_alloc(a, (size_t)t->nreport * sizeof(real));
    t->eps = dr_alloc(a, B * (size_t)t->noise * sizeof(real));
    t->style = dr_alloc(a, B * (size_t)t->nstyle * sizeof(int32_t));
    t->alpha = dr_alloc(a, B * sizeof(real));
    t->cls = dr_alloc(a, B * sizeof(int32_t));
    t->seed = dr_alloc(a, B * sizeof(uint64_t));
    t->index = dr_alloc(a, B * sizeof(uint64_t));
    t->x = dr_alloc(a, B * img);
    t->dx = dr_alloc(a, B * img);
    t->neg = t->cfg.loss.negatives == DR_NEG_INDEPENDENT ? dr_alloc(a, B * img) : NULL;
    t->pos = dr_alloc(a, (size_t)(t->nclass * t->P) * img);
    t->field = trainer_has_field(t) ? dr_alloc(a, (size_t)t->cfg.loss.ntau * B * img) : NULL;
    t->unc = dr_alloc(a, (size_t)t->U * img);
    t->unc_weight = dr_alloc(a, (size_t)t->nclass * sizeof(real));
}

static int allocate_block(struct dr_trainer *t, struct dr_err *err) {
    struct dr_arena a;
    dr_arena_measure(&a);
    lay_out(t, &a);
    t->block_bytes = a.peak;
    int rc = t->be->mem_alloc(t->be, t->block_bytes, &t->block, err);
    if (rc)
        return rc;
    dr_arena_init(&a, t->block, t->block_bytes);
    lay_out(t, &a);
    return 0;
}

// The dry run: the whole step against the null backend, then one allocation for all activations.
static int allocate_scratch(struct dr_trainer *t, struct dr_err *err) {
    struct dr_backend *null, *real_be = t->be;
    int rc = dr_backend_null(&null, err);
    if (rc)
        return rc;
    dr_arena_measure(&t->keep);
    dr_arena_measure(&t->tmp);
    struct dr_ctx cx = {.be = null, .keep = &t->keep, .tmp = &t->tmp, .act = t->act};
    t->be = null; // the noise ops of the step go through t->be
    compute(t, &cx);
    t->be = real_be;
    t->flops = null->flops;
    dr_backend_free(null);
    const size_t keep = t->keep.peak, tmp = t->tmp.peak;
    t->scratch_bytes = keep + tmp + DR_ALIGN;
    rc = t->be->mem_alloc(t->be, t->scratch_bytes, &t->scratch, err);
    if (rc)
        return rc;
    dr_arena_init(&t->keep, t->scratch, keep);
    dr_arena_init(&t->tmp, (char *)t->scratch + keep, tmp);
    return 0;
}

static void *host_array(int64_t n, size_t size, bool *failed) {
    void *p = calloc((size_t)DR_MAX(n, 1), size);
    *failed |= !p;
    return p;
}

static int allocate_host(struct dr_trainer *t, struct dr_err *err) {
    bool failed = false;
    t->h_alpha = host_array(t->B, sizeof(real), &failed);
    t->h_cls = host_array(t->B, sizeof(int32_t), &failed);
    t->h_seed = host_array(t->B, sizeof(uint64_t), &failed);
    t->h_index = host_array(t->B, sizeof(uint64_t), &failed);
    t->h_pos = host_array(t->nclass * t->P * t->image, sizeof(real), &failed);
    t->h_unc = host_array(t->U * t->image, sizeof(real), &failed);
    t->h_unc_weight = host_array(t->nclass, sizeof(real), &failed);
    t->h_x = host_array(t->B * t->image, sizeof(real), &failed);
    t->h_report = host_array(t->nreport, sizeof(real), &failed);
    t->classes = host_array(t->nclass, sizeof(int32_t), &failed);
    t->pos_ids = host_array(t->nclass * t->P, sizeof(int64_t), &failed);
    t->unc_ids = host_array(t->U, sizeof(int64_t), &failed);
    t->saved = host_array(t->nchunk, sizeof(struct dr_gen_saved *), &failed);
    for (int64_t i = 0; !failed && i < t->nchunk; i++)
        failed |= !(t->saved[i] = dr_gen_saved_new(t->gen));
    return failed ? dr_fail(err, DR_ENOMEM, "out of memory for a batch of %lld samples",
                            (long long)t->B)
                  : 0;
}

static int initial_weights(struct dr_trainer *t, struct dr_err *err) {
    const struct dr_params *ps = dr_gen_params(t->gen);
    int64_t tables;
    dr_gen_tables_count(t->gen, &tables);
    real *host = calloc((size_t)DR_MAX(ps->total, tables), sizeof *host);
    if (!host)
        return dr_fail(err, DR_ENOMEM, "out of memory for %lld parameters", (long long)ps->total);
    dr_gen_tables_fill(t->gen, host);
    t->be->upload(t->be, t->tables, host, (size_t)tables * sizeof(real));
    memset(host, 0, (size_t)DR_MAX(ps->total, tables) * sizeof *host);
    dr_params_init(ps, (uint64_t)t->cfg.train.seed, host);
    t->be->upload(t->be, t->w, host, (size_t)ps->total * sizeof(real));
    for (int i = 0; i < t->cfg.ema.n; i++)
        t->be->upload(t->be, t->ema[i], host, (size_t)ps->total * sizeof(real));
    free(host);
    if (t->w16)
        DR_OP(t->be, cast, .dst = t->w16, .src = t->w, .dt = DR_BF16, .st = DR_F32, .n = ps->total);
    return t->be->sync(t->be, err);
}

static int check_against_data(const struct dr_config *c, const struct dr_dataset *d,
                              struct dr_err *err) {
    if (d->classes != c->data.classes)
        return dr_fail(err, DR_ECONFIG, "data.classes is %lld but the data set %s has %lld",
                       (long long)c->data.classes, d->name, (long long)d->classes);
    const int64_t want = d->points ? 2 : c->data.channels * c->data.size * c->data.size;
    const int64_t have = d->points ? 2 : d->c * d->h * d->w;
    if (want != have)
        return dr_fail(err, DR_ECONFIG,
                       "the configuration wants images of %lld values, %s has %lld",
                       (long long)want, d->name, (long long)have);
    if (c->train.precision == DR_PREC_BF16 && sizeof(real) != 4)
        return dr_fail(err, DR_EUNSUPPORTED, "train.precision bf16 is not in this build");
    return 0;
}

static void take_sizes(struct dr_trainer *t) {
    const struct dr_train_config *c = &t->cfg.train;
    t->act = c->precision == DR_PREC_BF16 ? DR_BF16 : DR_F32;
    t->nclass =
        c->classes > 0 && c->classes < t->cfg.data.classes ? c->classes : t->cfg.data.classes;
    t->N = c->generated;
    t->P = c->positives;
    t->U = c->unconditional;
    t->B = t->nclass * t->N;
    t->chunk = c->micro_batch > 0 ? DR_MIN(c->micro_batch, t->B) : t->B;
    t->nchunk = (t->B + t->chunk - 1) / t->chunk;
    t->image = dr_gen_image_count(t->gen);
    t->noise = dr_gen_noise_count(t->gen);
    t->nstyle = dr_gen_style_count(t->gen);
    t->nreport = report_feature(t, dr_features_count(t->features));
}

int dr_trainer_create(const struct dr_config *cfg, struct dr_backend *be,
                      const struct dr_dataset *data, struct dr_trainer **out, struct dr_err *err) {
    *out = NULL;
    int rc = check_against_data(cfg, data, err);
    if (rc)
        return rc;
    struct dr_trainer *t = calloc(1, sizeof *t);
    if (!t)
        return dr_fail(err, DR_ENOMEM, "out of memory for a trainer");
    t->cfg = *cfg;
    t->be = be;
    t->data = data;
    const bool points = data->points != NULL;
    rc = dr_gen_create(&cfg->model, &t->gen, err);
    if (!rc)
        rc = dr_features_create(&cfg->features, points ? 2 : data->c, points ? 1 : data->h,
                                points ? 1 : data->w, &t->features, err);
    if (!rc)
        rc = dr_reals_create(cfg, data, &t->reals, err);
    if (!rc) {
        take_sizes(t);
        rc = allocate_host(t, err);
    }
    if (!rc)
        rc = allocate_block(t, err);
    if (!rc)
        rc = allocate_scratch(t, err);
    if (!rc)
        rc = initial_weights(t, err);
    if (rc) {
        dr_trainer_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

void dr_trainer_free(struct dr_trainer *t) {
    if (!t)
        return;
    t->be->mem_free(t->be, t->block);
    t->be->mem_free(t->be, t->scratch);
    for (int64_t i = 0; t->saved && i < t->nchunk; i++)
        dr_gen_saved_free(t->saved[i]);
    void *const host[] = {t->saved,   t->h_alpha, t->h_cls,        t->h_seed, t->h_index,
                          t->h_pos,   t->h_unc,   t->h_unc_weight, t->h_x,    t->h_report,
                          t->classes, t->pos_ids, t->unc_ids};
    for (size_t i = 0; i < DR_COUNT(host); i++)
        free(host[i]);
    dr_reals_free(t->reals);
    dr_features_free(t->features);
    dr_gen_free(t->gen);
    free(t);
}

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
    return t->block_bytes + t->scratch_bytes;
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
    return t->step >= t->cfg.train.steps ||
           (t->cfg.train.minutes > 0 && t->seconds >= t->cfg.train.minutes * 60);
}

struct dr_snapshot *dr_trainer_snapshot(struct dr_trainer *t, int which) {
    const size_t bytes = (size_t)dr_gen_params(t->gen)->total * sizeof(real);
    struct dr_gen *gen;
    if (dr_gen_create(&t->cfg.model, &gen, NULL))
        return NULL;
    real *w = aligned_alloc(DR_ALIGN, DR_MAX(bytes, (size_t)DR_ALIGN));
    if (!w) {
        dr_gen_free(gen);
        return NULL;
    }
    t->be->download(t->be, w, t->ema[which], bytes);
    return dr_snapshot_new(gen, w, t->step);
}
