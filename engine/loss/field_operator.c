// See operator.h.
#include "engine/loss/operator.h"

#include <math.h>

// ---- parameters

enum { SCORE_PARAMS = 6, PROJECTION_PARAMS = 4 };

// With nce the coefficients act on the features themselves, as the kernel's do.
static bool leaves(const struct dr_loss_config *cfg) {
    return cfg->ldf.projection && cfg->ldf.objective != DR_LDF_NCE;
}

int dr_operator_params_each(const struct dr_loss_config *cfg) {
    return SCORE_PARAMS + (cfg->ldf.projection ? PROJECTION_PARAMS : 0) + leaves(cfg);
}

static void add(struct dr_params *ps, unsigned flags, enum dr_init init, double arg, int64_t rows,
                int64_t cols, const char *name, const char *what) {
    const int64_t dim[] = {rows, cols};
    dr_params_add(ps, flags, init, arg, cols ? 2 : 1, dim, "%s.%s", name, what);
}

// A field that learns begins as a kernel: its score falls with the distance. A frozen one is random
// throughout.
void dr_operator_params(struct dr_params *ps, const struct dr_loss_config *cfg, int64_t s,
                        const char *name) {
    const struct dr_ldf_config *c = &cfg->ldf;
    const int64_t r = c->projection ? c->width : s, h = c->score;
    const bool frozen = c->objective == DR_LDF_FROZEN;
    const enum dr_init init = frozen ? DR_INIT_NORMAL : DR_INIT_CONST;
    const double norm = sqrt((double)r);
    if (c->projection) {
        add(ps, DR_PARAM_DECAY, DR_INIT_XAVIER, 0, c->hidden, s, name, "projection.0.weight");
        add(ps, 0, DR_INIT_ZERO, 0, c->hidden, 0, name, "projection.0.bias");
        add(ps, DR_PARAM_DECAY, DR_INIT_XAVIER, 0, r, c->hidden, name, "projection.2.weight");
        add(ps, 0, DR_INIT_ZERO, 0, r, 0, name, "projection.2.bias");
    }
    add(ps, DR_PARAM_DECAY, DR_INIT_XAVIER, 0, h, r, name, "score.x.weight");
    add(ps, DR_PARAM_DECAY, DR_INIT_XAVIER, 0, h, r, name, "score.y.weight");
    add(ps, DR_PARAM_DECAY, DR_INIT_XAVIER, 0, h, r, name, "score.difference.weight");
    add(ps, 0, init, 1 / norm, h, 0, name, "score.distance.weight");
    add(ps, 0, DR_INIT_ZERO, 0, h, 0, name, "score.bias");
    add(ps, 0, init, frozen ? 1 / sqrt((double)h) : -4 / (double)h, h, 0, name, "score.out.weight");
    if (leaves(cfg))
        add(ps, DR_PARAM_DECAY, DR_INIT_XAVIER, 0, s, r, name, "out.weight");
}

static void add_to(struct dr_ctx *cx, real *y, const real *x, int64_t n, real alpha) {
    DR_OP(cx->be, axpy, .y = y, .x = x, .n = n, .alpha = alpha);
}

void dr_operator_open(struct dr_ctx *cx, struct dr_operator *o, const struct dr_loss_config *cfg,
                      const struct dr_weights *w, int feature, int64_t s) {
    const struct dr_ldf_config *c = &cfg->ldf;
    int at = feature * dr_operator_params_each(cfg);
    *o = (struct dr_operator){.w = w, .s = s, .hidden = c->score, .projects = c->projection};
    o->r = c->projection ? c->width : s;
    o->leaves = leaves(cfg);
    if (o->projects) {
        o->in = (struct dr_linear){.w = at, .b = at + 1, .in = s, .out = c->hidden, .rows = 1};
        o->mid =
            (struct dr_linear){.w = at + 2, .b = at + 3, .in = c->hidden, .out = o->r, .rows = 1};
        at += PROJECTION_PARAMS;
    }
    o->x = at, o->y = at + 1, o->difference = at + 2;
    o->distance = at + 3, o->bias = at + 4, o->score = at + 5;
    o->out = (struct dr_linear){.w = at + 6, .b = -1, .in = o->r, .out = s, .rows = 1};
    const int64_t n = o->hidden * o->r;
    o->of_x = dr_alloc_real(cx->tmp, n);
    o->of_y = dr_alloc_real(cx->tmp, n);
    dr_copy_reals(cx, o->of_x, dr_weight(w, o->x), n);
    dr_copy_reals(cx, o->of_y, dr_weight(w, o->y), n);
    add_to(cx, o->of_x, dr_weight(w, o->difference), n, -1);
    add_to(cx, o->of_y, dr_weight(w, o->difference), n, 1);
}

// ---- the projection

static struct dr_operator_side project(struct dr_ctx *cx, const struct dr_operator *o,
                                       const real *x, int64_t rows) {
    struct dr_operator_side s = {.x = x, .r = x, .rows = rows};
    if (!o->projects)
        return s;
    s.pre = dr_alloc_real(cx->tmp, rows * o->in.out);
    s.act = dr_alloc_real(cx->tmp, rows * o->in.out);
    real *r = dr_alloc_real(cx->tmp, rows * o->r);
    dr_linear_forward(cx, o->w, &o->in, x, DR_F32, rows, s.pre, DR_F32, 0);
    DR_OP(cx->be, gelu_fwd, .y = s.act, .x = s.pre, .n = rows * o->in.out);
    dr_linear_forward(cx, o->w, &o->mid, s.act, DR_F32, rows, r, DR_F32, 0);
    s.r = r;
    return s;
}

static void project_backward(struct dr_ctx *cx, const struct dr_operator *o,
                             const struct dr_operator_side *s, const real *dr) {
    const size_t mark = dr_mark(cx->tmp);
    const int64_t n = s->rows * o->in.out;
    real *d = dr_alloc_real(cx->tmp, n);
    dr_linear_backward(cx, o->w, &o->mid, s->act, dr, DR_F32, s->rows, 0);
    dr_linear_backward_input(cx, o->w, &o->mid, dr, DR_F32, s->rows, d, DR_F32, false);
    DR_OP(cx->be, gelu_bwd, .dx = d, .x = s->pre, .dy = d, .n = n);
    dr_linear_backward(cx, o->w, &o->in, s->x, d, DR_F32, s->rows, 0);
    dr_release(cx->tmp, mark);
}

// ---- scores

// y [rows,hidden] = r W'; a row is a sample.
static void hidden_part(struct dr_ctx *cx, const struct dr_operator *o, const real *r, int64_t rows,
                        const real *w, const real *bias, real *y) {
    DR_OP(cx->be, gemm, .m = rows, .n = o->hidden, .k = o->r, .a = r, .b = w, .c = y, .lda = o->r,
          .ldb = o->r, .ldc = o->hidden, .tb = true, .bias = bias, .rows = 1);
}

void dr_operator_scores(struct dr_ctx *cx, const struct dr_operator *o, const real *x,
                        const real *y, int64_t b, int64_t n, int64_t m,
                        struct dr_operator_pairs *p) {
    *p = (struct dr_operator_pairs){.b = b, .n = n, .m = m};
    p->x = project(cx, o, x, b * n);
    p->y = project(cx, o, y, b * m);
    p->hx = dr_alloc_real(cx->tmp, b * n * o->hidden);
    p->hy = dr_alloc_real(cx->tmp, b * m * o->hidden);
    p->d = dr_alloc_real(cx->tmp, b * n * m);
    p->a = dr_alloc_real(cx->tmp, b * n * m);
    hidden_part(cx, o, p->x.r, b * n, o->of_x, dr_weight(o->w, o->bias), p->hx);
    hidden_part(cx, o, p->y.r, b * m, o->of_y, NULL, p->hy);
    DR_OP(cx->be, pair_dist, .d = p->d, .x = p->x.r, .y = p->y.r, .b = b, .n = n, .m = m,
          .s = o->r);
    DR_OP(cx->be, pair_score_fwd, .a = p->a, .hx = p->hx, .hy = p->hy, .d = p->d,
          .u = dr_weight(o->w, o->distance), .v = dr_weight(o->w, o->score), .b = b, .n = n, .m = m,
          .h = o->hidden);
}

// dr_i -= sum_j pull_ij (r_j - r_i), the gradient by x of distances; and the same by y with the
// transposed matrix.
static void pull_on(struct dr_ctx *cx, const struct dr_operator *o, const real *pull, const real *x,
                    const real *y, int64_t b, int64_t n, int64_t m, real *dr) {
    const size_t mark = dr_mark(cx->tmp);
    real *v = dr_alloc_real(cx->tmp, b * n * o->r);
    double *unused = dr_alloc(cx->tmp, sizeof *unused);
    DR_OP(cx->be, drift_combine, .v = v, .sumsq = unused, .coef = pull, .x = x, .y = y, .b = b,
          .n = n, .m = m, .s = o->r);
    add_to(cx, dr, v, b * n * o->r, -1);
    dr_release(cx->tmp, mark);
}

// The gradient of W by the hidden layer's: dw [hidden,r] = dh' r, added to its own part and, times
// `sign`, to that of the difference.
static void weight_part(struct dr_ctx *cx, const struct dr_operator *o, const real *dh,
                        const real *r, int64_t rows, int param, real sign) {
    const size_t mark = dr_mark(cx->tmp);
    const int64_t n = o->hidden * o->r;
    real *dw = dr_alloc_real(cx->tmp, n);
    DR_OP(cx->be, gemm, .m = o->hidden, .n = o->r, .k = rows, .a = dh, .b = r, .c = dw,
          .lda = o->hidden, .ldb = o->r, .ldc = o->r, .ta = true, .rows = 1);
    add_to(cx, dr_grad(o->w, param), dw, n, 1);
    add_to(cx, dr_grad(o->w, o->difference), dw, n, sign);
    dr_release(cx->tmp, mark);
}

// dr += dh W
static void hidden_backward(struct dr_ctx *cx, const struct dr_operator *o, const real *dh,
                            int64_t rows, const real *w, real *dr) {
    DR_OP(cx->be, gemm, .m = rows, .n = o->r, .k = o->hidden, .a = dh, .b = w, .c = dr,
          .lda = o->hidden, .ldb = o->r, .ldc = o->r, .acc = true, .rows = 1);
}

void dr_operator_scores_backward(struct dr_ctx *cx, const struct dr_operator *o,
                                 const struct dr_operator_pairs *p, real *da, real *drx,
                                 real *dry) {
    const size_t mark = dr_mark(cx->tmp);
    const int64_t b = p->b, n = p->n, m = p->m;
    real *dhx = dr_alloc_real(cx->tmp, b * n * o->hidden),
         *dhy = dr_alloc_real(cx->tmp, b * m * o->hidden);
    DR_OP(cx->be, pair_score_bwd, .dhx = dhx, .dhy = dhy, .pull = da,
          .du = dr_grad(o->w, o->distance), .dv = dr_grad(o->w, o->score), .da = da, .hx = p->hx,
          .hy = p->hy, .d = p->d, .u = dr_weight(o->w, o->distance), .v = dr_weight(o->w, o->score),
          .b = b, .n = n, .m = m, .h = o->hidden);
    DR_OP(cx->be, colsum, .out = dr_grad(o->w, o->bias), .x = dhx, .m = b * n, .n = o->hidden,
          .acc = true);
    weight_part(cx, o, dhx, p->x.r, b * n, o->x, -1);
    weight_part(cx, o, dhy, p->y.r, b * m, o->y, 1);
    if (o->projects) {
        real *turned = dr_alloc_real(cx->tmp, b * n * m);
        DR_OP(cx->be, copy4, .dst = turned, .src = da, .dim = {1, b, n, m},
              .dstride = {0, n * m, 1, n}, .sstride = {0, n * m, m, 1});
        hidden_backward(cx, o, dhx, b * n, o->of_x, drx);
        hidden_backward(cx, o, dhy, b * m, o->of_y, dry);
        pull_on(cx, o, da, p->x.r, p->y.r, b, n, m, drx);
        pull_on(cx, o, turned, p->y.r, p->x.r, b, m, n, dry);
        project_backward(cx, o, &p->x, drx);
        project_backward(cx, o, &p->y, dry);
    }
    dr_release(cx->tmp, mark);
}

// ---- steps

void dr_operator_step(struct dr_ctx *cx, const struct dr_operator *o,
                      const struct dr_operator_pairs *p, const real *coef, real *z, real *step) {
    const size_t mark = dr_mark(cx->tmp);
    double *unused = dr_alloc(cx->tmp, sizeof *unused);
    DR_OP(cx->be, drift_combine, .v = o->leaves ? z : step, .sumsq = unused, .coef = coef,
          .x = p->x.r, .y = p->y.r, .b = p->b, .n = p->n, .m = p->m, .s = o->r);
    if (o->leaves)
        dr_linear_forward(cx, o->w, &o->out, z, DR_F32, p->b * p->n, step, DR_F32, 0);
    dr_release(cx->tmp, mark);
}

void dr_operator_step_backward(struct dr_ctx *cx, const struct dr_operator *o,
                               const struct dr_operator_pairs *p, const real *coef, const real *z,
                               const real *dstep) {
    const size_t mark = dr_mark(cx->tmp);
    const int64_t b = p->b, n = p->n, m = p->m, r = o->r;
    real *da = dr_alloc_real(cx->tmp, b * n * m), *drx = NULL, *dry = NULL;
    const real *dz = dstep;
    if (o->leaves) {
        real *d = dr_alloc_real(cx->tmp, b * n * r);
        dr_linear_backward(cx, o->w, &o->out, z, dstep, DR_F32, b * n, 0);
        dr_linear_backward_input(cx, o->w, &o->out, dstep, DR_F32, b * n, d, DR_F32, false);
        dz = d;
    }
    // d coef_ij = dz_i (r_j - r_i); the part of r_i is the same along a row, and softmaxes do not
    // see it
    DR_OP(cx->be, gemm, .m = n, .n = m, .k = r, .a = dz, .b = p->y.r, .c = da, .lda = r, .ldb = r,
          .ldc = m, .tb = true, .batch = b, .stride_a = n * r, .stride_b = m * r,
          .stride_c = n * m);
    DR_OP(cx->be, set_softmax_bwd, .da = da, .p = coef, .dp = da, .rows = b * n, .m = m);
    if (o->projects) { // rows of coef sum to 1
        drx = dr_alloc_real(cx->tmp, b * n * r);
        dry = dr_alloc_real(cx->tmp, b * m * r);
        DR_OP(cx->be, fill, .dst = drx, .n = b * n * r, .value = 0);
        add_to(cx, drx, dz, b * n * r, -1);
        DR_OP(cx->be, gemm, .m = m, .n = r, .k = n, .a = coef, .b = dz, .c = dry, .lda = m,
              .ldb = r, .ldc = r, .ta = true, .batch = b, .stride_a = n * m, .stride_b = n * r,
              .stride_c = m * r);
    }
    dr_operator_scores_backward(cx, o, p, da, drx, dry);
    dr_release(cx->tmp, mark);
}
