// Learning rate, bias correction and EMA decays of a step, and how far the run is.
#include "engine/train/trainer_priv.h"

#include <math.h>

// 0 to 1: by steps or, where train.minutes ends the run sooner, by the clock.
static double progress(const struct dr_trainer *t) {
    const double limit = t->cfg.train.minutes * 60;
    const double steps = (double)t->step / (double)t->cfg.train.steps;
    return limit > 0 ? fmax(steps, t->seconds / limit) : steps;
}

// Of the one-cycle rate, by progress: 1 until the warm-up's share of the steps is over, then in a
// straight line to lr_end.
static double one_cycle(const struct dr_trainer *t, double at) {
    const struct dr_optim_config *o = &t->cfg.optim;
    const double warm = fmin(1, (double)o->warmup / (double)t->cfg.train.steps);
    const double left = fmax(0, 1 - at) / fmax(1e-9, 1 - warm);
    return left >= 1 ? 1 : o->lr_end + (1 - o->lr_end) * left;
}

// A run that train.minutes ends early may be on the way down before its warm-up is over: the lower
// of the two counts, so that the one-cycle rate comes to its end at any speed.
static double learning_rate(const struct dr_trainer *t) {
    const struct dr_optim_config *o = &t->cfg.optim;
    const double at = progress(t);
    const double fall = o->schedule == DR_LR_ONE_CYCLE ? one_cycle(t, at) : 1;
    if (t->step < o->warmup)
        return fmin(o->lr * fall, o->lr * (double)(t->step + 1) / (double)o->warmup);
    if (o->schedule != DR_LR_COSINE)
        return o->lr * fall;
    if (at <= o->cosine_start)
        return o->lr;
    double u = fmin(1, (at - o->cosine_start) / fmax(1e-9, 1 - o->cosine_start));
    return o->lr * (o->lr_end + (1 - o->lr_end) * 0.5 * (1 + cos(M_PI * u)));
}

void trainer_fill_hyper(const struct dr_trainer *t, struct trainer_slot *s) {
    const double n = (double)(t->step + 1);
    s->lr = learning_rate(t);
    for (int k = 0; k < t->ngroups; k++) {
        real *h = s->hyper + HYPER_EACH * k;
        h[0] = (real)(s->lr * t->group[k].learning_rate);
        h[1] = (real)(1 - pow(t->cfg.optim.beta1, n));
        h[2] = (real)(1 - pow(t->cfg.optim.beta2, n));
    }
    for (int i = 0; i < t->cfg.ema.n; i++) {
        double d = t->cfg.ema.decay[i];
        s->hyper[hyper_ema(t) + i] = (real)(t->cfg.ema.ramp ? fmin(d, n / (9 + n)) : d);
    }
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
