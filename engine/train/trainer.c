// The training loop: a step's ops around those of the objective, steps on their way, metrics. See
// trainer.h and objective.h; the step follows method.md 1 (paper A.9).
#include "engine/train/trainer_priv.h"

#include "engine/core/clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- a step: ops only, so that the dry run can follow it

static void update_group(struct dr_trainer *t, struct dr_ctx *cx, int k) {
    const struct dr_optim_config *o = &t->cfg.optim;
    const struct dr_group *g = &t->group[k];
    const struct dr_params *ps = g->layout;
    const int64_t at[2] = {0, ps->decayed}, n[2] = {ps->decayed, ps->total - ps->decayed};
    for (int i = 0; i < 2; i++)
        if (n[i])
            DR_OP(cx->be, adamw, .w = g->w + at[i], .m = g->m + at[i], .v = g->v + at[i],
                  .g = g->g + at[i], .sumsq = t->report + 1 + k, .hyper = t->hyper + HYPER_EACH * k,
                  .guard = t->guard, .w16 = g->w16 ? g->w16 + at[i] : NULL, .n = n[i],
                  .beta1 = (real)o->beta1, .beta2 = (real)o->beta2, .eps = (real)o->eps,
                  .decay = i ? 0 : (real)o->weight_decay, .clip = (real)o->clip);
}

static void update(struct dr_trainer *t, struct dr_ctx *cx) {
    const struct dr_group *served = &t->group[0];
    // 0 times what is not finite is NaN: once bad, the guard stays so, and with it the weights.
    DR_OP(cx->be, axpy, .y = t->guard, .x = t->report, .xt = DR_F32, .n = 2, .alpha = 0);
    for (int k = 1; k < t->ngroups; k++)
        DR_OP(cx->be, axpy, .y = t->guard + 1, .x = t->report + 1 + k, .xt = DR_F32, .n = 1,
              .alpha = 0);
    for (int k = 0; k < t->ngroups; k++)
        update_group(t, cx, k);
    for (int i = 0; i < t->cfg.ema.n; i++)
        DR_OP(cx->be, ema, .e = served->ema[i], .w = served->w,
              .decay = t->hyper + hyper_ema(t) + i, .guard = t->guard, .n = served->layout->total);
}

// Weights hold still from the beginning of a step to its update: what backends make of them is of
// use to all its passes and to nothing else.
static void hold(struct dr_trainer *t, bool still) {
    for (int k = 0; k < t->ngroups; k++) {
        struct dr_group *g = &t->group[k];
        g->weights.version = g->gradients.version = still ? dr_next_version(t->be) : 0;
    }
}

void trainer_device_step(void *arg) {
    struct trainer_pass *pass = arg;
    struct dr_trainer *t = pass->t;
    struct dr_ctx *cx = &pass->cx;
    const struct dr_step s = {
        .group = t->group, .loss = t->report, .report = t->report + report_own(t)};
    dr_release(cx->keep, 0);
    DR_OP(cx->be, fill, .dst = t->report, .n = t->nreport, .value = 0);
    for (int k = 0; k < t->ngroups; k++)
        DR_OP(cx->be, fill, .dst = t->group[k].g, .n = t->group[k].layout->total, .value = 0);
    hold(t, true);
    t->objective->device_step(t->o, cx, &s);
    hold(t, false);
    dr_sum_reals(cx, t->report, 1);
    for (int k = 0; k < t->ngroups; k++) {
        const struct dr_group *g = &t->group[k];
        dr_sum_reals(cx, g->g, g->layout->total);
        DR_OP(cx->be, sumsq, .out = t->report + 1 + k, .x = g->g, .n = g->layout->total);
    }
    if (t->objective->summed)
        t->objective->summed(t->o, cx, &s);
    update(t, cx);
}

// ---- metrics

const struct dr_metric_def *dr_trainer_metrics(const struct dr_trainer *t, int *n) {
    return t->objective->metrics(t->o, n);
}

const struct dr_metric_def *dr_train_metrics(const struct dr_config *cfg, int *n) {
    return dr_objective_of(cfg)->reports(cfg, n);
}

double dr_metric(const struct dr_trainer *t, const struct dr_metrics *m, const char *name) {
    int n;
    const struct dr_metric_def *def = dr_trainer_metrics(t, &n);
    for (int i = 0; i < DR_MIN(n, m->n); i++)
        if (!strcmp(def[i].name, name))
            return m->measured >> i & 1 ? m->value[i] : NAN;
    return NAN;
}

bool dr_metric_put(const struct dr_trainer *t, struct dr_metrics *m, const char *name,
                   double value) {
    int n;
    const struct dr_metric_def *def = dr_trainer_metrics(t, &n);
    for (int i = 0; i < DR_MIN(n, m->n); i++)
        if (!strcmp(def[i].name, name)) {
            dr_metric_set(m, i, value);
            return true;
        }
    return false;
}

static void read_report(const struct dr_trainer *t, const struct trainer_slot *s,
                        struct dr_metrics *m) {
    *m = (struct dr_metrics){.step = s->step,
                             .n = t->nmetrics,
                             .lr = s->lr,
                             .loss = (double)s->report[0],
                             .grad_norm = sqrt((double)s->report[1]),
                             .loss_seconds = NAN,
                             .spread = NAN,
                             .spread_min = NAN};
    m->finite = isfinite(m->loss);
    for (int k = 0; k < t->ngroups; k++)
        m->finite &= isfinite((double)s->report[1 + k]);
    dr_metric_set(m, t->at[TRAINER_LOSS], m->loss);
    dr_metric_set(m, t->at[TRAINER_GRAD_NORM], m->grad_norm);
    dr_metric_set(m, t->at[TRAINER_LR], m->lr);
}

// ---- steps on their way

// Starts step t->step + 1; nothing here waits for the device. After a failure no step can follow,
// as the objective's state has moved on.
static int launch(struct dr_trainer *t, struct trainer_slot *s, struct dr_err *err) {
    const struct dr_backend *be = t->be;
    const int slot = (int)(s - t->slot);
    s->started = dr_seconds();
    int rc = t->objective->draw(t->o, t->step, slot, err);
    if (rc)
        return t->failed = rc;
    trainer_fill_hyper(t, s);
    be->upload(t->be, t->inputs, s->inputs, t->in_bytes);
    be->replay(t->be, &t->graph, trainer_device_step, &t->pass);
    be->download_later(t->be, s->report, t->report, (size_t)t->nreport * sizeof(real));
    s->step = t->stepped = ++t->step;
    if (t->objective->launched)
        t->objective->launched(t->o, s->step, slot);
    be->mark(t->be, slot);
    return 0;
}

// Waits for a step and judges it. When it went wrong the weights are those of the step before, also
// if another had been started: the guard holds that one back.
static int collect(struct dr_trainer *t, struct trainer_slot *s, struct dr_metrics *m,
                   struct dr_err *err) {
    const int slot = (int)(s - t->slot), rc = t->be->wait(t->be, slot, err);
    read_report(t, s, m);
    s->step = 0;
    t->objective->read(t->o, slot, s->report + report_own(t), !rc && m->finite, m);
    const double at = dr_seconds();
    m->step_seconds = at - DR_MAX(s->started, t->collected);
    dr_metric_set(m, t->at[TRAINER_SECONDS], m->step_seconds);
    t->collected = at;
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

const struct dr_config *dr_trainer_config(const struct dr_trainer *t) {
    return &t->cfg;
}
int64_t dr_trainer_steps_done(const struct dr_trainer *t) {
    return t->step;
}
double dr_trainer_seconds(const struct dr_trainer *t) {
    return t->seconds;
}

void dr_trainer_seconds_before(struct dr_trainer *t, double seconds) {
    if (t->cfg.train.minutes <= 0 && t->seconds <= 0)
        t->seconds = seconds;
}
size_t dr_trainer_memory(const struct dr_trainer *t) {
    return t->block_bytes + t->scratch_bytes +
           (t->objective->memory ? t->objective->memory(t->o) : 0);
}
double dr_trainer_step_flops(const struct dr_trainer *t) {
    return t->flops;
}

struct dr_snapshot *dr_trainer_snapshot(struct dr_trainer *t, int which) {
    const size_t bytes = (size_t)t->group[0].layout->total * sizeof(real);
    if (!t->objective->snapshot)
        return NULL;
    real *w = aligned_alloc(DR_ALIGN, DR_MAX(bytes, (size_t)DR_ALIGN));
    if (!w)
        return NULL;
    t->be->download(t->be, w, t->group[0].ema[which], bytes);
    if (t->be->failed(t->be)) { // no weights; the next step or wait says why
        free(w);
        return NULL;
    }
    return t->objective->snapshot(t->o, w, t->step);
}

struct dr_drift_field *dr_trainer_field(struct dr_trainer *t) {
    if (!t->objective->field || t->stepped != t->step || !t->step)
        return NULL;
    return t->objective->field(t->o, t->step);
}
