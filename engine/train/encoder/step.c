// The ops of an encoder's step: a chunk at a time forward, loss, backward, so that memory goes with
// the chunk and not with the batch.
#include "engine/train/encoder/encoder.h"

// x *= *by, which lies on the device: the weights change from step to step, and the ops of a step
// are recorded once.
static void scale(struct dr_ctx *cx, real *x, int64_t n, const real *by) {
    real *zero = dr_alloc_real(cx->tmp, n);
    DR_OP(cx->be, fill, .dst = zero, .n = n, .value = 0);
    DR_OP(cx->be, ema, .e = x, .w = zero, .decay = by, .n = n);
}

static void add_sum(struct dr_ctx *cx, real *to, const real *x, int64_t n) {
    DR_OP(cx->be, colsum, .out = to, .x = x, .m = n, .n = 1, .acc = true);
}

// The gradient by the logits and the sums for the report.
static real *classify(struct encoder *t, struct dr_ctx *cx, const struct dr_step *s, int64_t at,
                      int64_t n, const real *logits) {
    real *loss = dr_alloc_real(cx->tmp, n), *correct = dr_alloc_real(cx->tmp, n);
    real *d = dr_alloc_real(cx->tmp, n * t->classes);
    DR_OP(cx->be, softmax_xent, .loss = loss, .correct = correct, .dlogits = d, .logits = logits,
          .labels = t->in[TRAINER_DEVICE].label + at, .m = n, .n = t->classes,
          .smoothing = (real)t->cfg->encoder.label_smoothing,
          .scale = (real)(1.0 / (double)t->all));
    add_sum(cx, s->report + ENCODER_XENT, loss, n);
    add_sum(cx, s->report + ENCODER_CORRECT, correct, n);
    return d;
}

static real *reconstruct(struct encoder *t, struct dr_ctx *cx, const struct dr_step *s, int64_t at,
                         int64_t n, const real *y) {
    const struct encoder_inputs *in = &t->in[TRAINER_DEVICE];
    const int64_t squares = (t->h / t->p) * (t->w / t->p);
    real *loss = dr_alloc_real(cx->tmp, n), *d = dr_alloc_real(cx->tmp, n * t->image);
    DR_OP(cx->be, masked_mse, .loss = loss, .dx = d, .x = y, .y = in->target + at * t->image,
          .mask = in->mask + at * squares, .b = n, .h = t->h, .w = t->w, .c = t->c, .p = t->p,
          .scale = (real)(1.0 / (double)t->all));
    add_sum(cx, s->report + ENCODER_ERROR, loss, n);
    return d;
}

static void chunk_step(struct encoder *t, struct dr_ctx *cx, const struct dr_step *s, int64_t at) {
    const struct encoder_inputs *in = &t->in[TRAINER_DEVICE];
    const int64_t n = DR_MIN(t->chunk, t->B - at);
    const bool both = t->logits >= 0 && t->reconstruction >= 0;
    const struct dr_net_in net_in = {.x = in->x + at * t->image, .tables = t->tables, .b = n};
    real *y[DR_NET_OUTPUTS] = {0};
    const real *dy[DR_NET_OUTPUTS] = {0};
    if (t->logits >= 0)
        y[t->logits] = dr_alloc_real(cx->tmp, n * t->classes);
    if (t->reconstruction >= 0)
        y[t->reconstruction] = dr_alloc_real(cx->tmp, n * t->image);
    dr_net_forward(cx, t->net, &s->group[0].weights, &net_in, y, t->saved);
    if (t->logits >= 0) {
        real *d = classify(t, cx, s, at, n, y[t->logits]);
        if (both)
            scale(cx, d, n * t->classes, in->weight);
        dy[t->logits] = d;
    }
    if (t->reconstruction >= 0) {
        real *d = reconstruct(t, cx, s, at, n, y[t->reconstruction]);
        if (both)
            scale(cx, d, n * t->image, in->weight + 1);
        dy[t->reconstruction] = d;
    }
    dr_net_backward(cx, t->net, &s->group[0].gradients, &net_in, t->saved, dy, NULL);
}

// loss += weight * report / all
static void add_loss(struct encoder *t, struct dr_ctx *cx, const struct dr_step *s, int term,
                     const real *weight) {
    const size_t mark = dr_mark(cx->tmp);
    real *part = dr_alloc_real(cx->tmp, 1);
    DR_OP(cx->be, fill, .dst = part, .n = 1, .value = 0);
    DR_OP(cx->be, axpy, .y = part, .x = s->report + term, .n = 1,
          .alpha = (real)(1.0 / (double)t->all));
    if (t->logits >= 0 && t->reconstruction >= 0)
        scale(cx, part, 1, weight);
    DR_OP(cx->be, axpy, .y = s->loss, .x = part, .n = 1, .alpha = 1);
    dr_release(cx->tmp, mark);
}

void encoder_device_step(void *o, struct dr_ctx *cx, const struct dr_step *s) {
    struct encoder *t = o;
    const struct encoder_inputs *in = &t->in[TRAINER_DEVICE];
    for (int64_t at = 0; at < t->B; at += t->chunk) {
        const size_t keep = dr_mark(cx->keep), tmp = dr_mark(cx->tmp);
        chunk_step(t, cx, s, at);
        dr_release(cx->tmp, tmp);
        dr_release(cx->keep, keep);
    }
    if (t->logits >= 0)
        add_loss(t, cx, s, ENCODER_XENT, in->weight);
    if (t->reconstruction >= 0)
        add_loss(t, cx, s, ENCODER_ERROR, in->weight + 1);
    dr_sum_reals(cx, s->report, ENCODER_REPORT);
}
