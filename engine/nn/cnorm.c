// Normalisation layers of convolutional networks: GroupNorm (Wu & He 2018), trained, and BatchNorm
// with stored statistics, frozen. See layers.h.
#include "engine/nn/layers.h"

int64_t dr_cnorm_groups(int64_t c, int64_t most) {
    int64_t g = DR_MIN(most, DR_MAX(c / 2, (int64_t)1));
    while (c % g)
        g--;
    return g;
}

struct dr_cnorm dr_cnorm_add(struct dr_params *ps, int64_t c, int64_t groups, const char *name) {
    struct dr_cnorm l = {.c = c, .groups = dr_cnorm_groups(c, groups)};
    l.weight = dr_params_add(ps, 0, DR_INIT_ONE, 0, 1, &c, "%s.weight", name);
    l.bias = dr_params_add(ps, 0, DR_INIT_ZERO, 0, 1, &c, "%s.bias", name);
    return l;
}

void dr_bnorms_add(struct dr_params *ps, struct dr_cnorm *const norm[], const char (*name)[64],
                   int n, struct dr_bnorms *out) {
    static const char *const part[] = {"weight", "bias", "running_mean", "running_var"};
    int first[DR_COUNT(part)] = {-1, -1, -1, -1};
    out->channels = 0;
    for (size_t j = 0; j < DR_COUNT(part); j++)
        for (int i = 0; i < n; i++) {
            const bool one = j == 0 || j == 3;
            int p = dr_params_add(ps, i ? DR_PARAM_JOIN : 0, one ? DR_INIT_ONE : DR_INIT_ZERO, 0, 1,
                                  &norm[i]->c, "%s.%s", name[i], part[j]);
            first[j] = i ? first[j] : p;
            if (j == 0) {
                *norm[i] = (struct dr_cnorm){.c = norm[i]->c, .weight = p, .at = out->channels};
                out->channels += norm[i]->c;
            } else if (j == 1) {
                norm[i]->bias = p;
            }
        }
    for (int i = 0; i < n; i++)
        norm[i]->all = out->channels;
    out->weight = first[0], out->bias = first[1], out->mean = first[2], out->var = first[3];
}

// scale = weight / sqrt(var + eps), shift = bias - mean scale. No op is made for this; the division
// by roots is the one of the drifting field, a group per channel (drift_accumulate; its floor of
// 1e-8 lies under eps).
const real *dr_bnorms_fold(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                           const struct dr_bnorms *k) {
    const int64_t c = k->channels;
    if (k->weight < 0)
        return NULL;
    real *fold = dr_alloc_real(ar, 2 * c), *scale = fold, *shift = fold + c;
    const size_t mark = dr_mark(cx->tmp); // with ar == cx->tmp above the fold
    real *t = dr_alloc_real(cx->tmp, c);
    DR_OP(cx->be, fill, .dst = t, .n = c, .value = (real)DR_CNORM_EPS);
    DR_OP(cx->be, axpy, .y = t, .x = dr_weight(w, k->var), .n = c, .alpha = 1);
    DR_OP(cx->be, drift_accumulate, .total = scale, .v = dr_weight(w, k->weight), .v2 = t, .b = c,
          .n = 1, .s = 1, .per_group = true);
    DR_OP(cx->be, fill, .dst = t, .n = c, .value = 0);
    DR_OP(cx->be, axpy, .y = t, .x = scale, .n = c, .alpha = -1);
    DR_OP(cx->be, gate_fwd, .out = shift, .x = dr_weight(w, k->bias), .gate = t,
          .y = dr_weight(w, k->mean), .act = DR_F32, .mod_stride = c, .b = 1, .t = 1, .d = c);
    dr_release(cx->tmp, mark);
    return fold;
}

void dr_cnorm_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                      const struct dr_cnorm *l, const real *fold, int64_t b, int64_t n,
                      const void *x, const void *r, enum dr_fn fn, void *y,
                      struct dr_cnorm_saved *s) {
    if (!l->groups) {
        DR_OP(cx->be, channel_affine_fwd, .y = y, .x = x, .r = r, .t = cx->act, .xt = cx->act,
              .scale = fold + l->at, .shift = fold + l->all + l->at, .m = b * n, .c = l->c,
              .fn = fn);
        return;
    }
    s->mean = dr_alloc_real(ar, b * l->groups);
    s->rstd = dr_alloc_real(ar, b * l->groups);
    DR_OP(cx->be, groupnorm_fwd, .y = y, .mean = s->mean, .rstd = s->rstd, .x = x, .r = r,
          .t = cx->act, .weight = dr_weight(w, l->weight), .bias = dr_weight(w, l->bias), .b = b,
          .n = n, .c = l->c, .groups = l->groups, .fn = fn, .eps = (real)DR_CNORM_EPS);
}

void dr_cnorm_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_cnorm *l,
                       const real *fold, int64_t b, int64_t n, const void *x, const void *r,
                       enum dr_fn fn, const struct dr_cnorm_saved *s, const void *dy, void *dx,
                       void *dr) {
    if (!l->groups) {
        DR_OP(cx->be, channel_affine_bwd, .dx = dx, .dr = dr, .dy = dy, .x = x, .r = r,
              .t = cx->act, .xt = cx->act, .scale = fold + l->at, .shift = fold + l->all + l->at,
              .m = b * n, .c = l->c, .fn = fn);
        return;
    }
    DR_OP(cx->be, groupnorm_bwd, .dx = dx, .dr = dr, .dweight = dr_grad(w, l->weight),
          .dbias = dr_grad(w, l->bias), .dy = dy, .x = x, .r = r, .t = cx->act, .mean = s->mean,
          .rstd = s->rstd, .weight = dr_weight(w, l->weight), .bias = dr_weight(w, l->bias), .b = b,
          .n = n, .c = l->c, .groups = l->groups, .fn = fn);
}
