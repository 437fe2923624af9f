// An operator S(x, Y) of the learned field (method.md 4): the step from x to where a set is dense.
// Private to engine/loss.
//
//     r = g(feature)          g: Linear GELU Linear, or the feature itself
//     a(x,y) = v . gelu(W [r_x, r_y, r_y - r_x] + u |r_y - r_x| + b)
//     S(x,Y) = out(sum_y softmax_y(a) (r_y - r_x))
//
// The last layer of the score has no bias: a softmax does not see one. W splits into a product per
// x and one per y, so that pairs meet in ops alone (pair_score), which store [N,M].
#pragma once

#include "engine/loss/field.h"
#include "engine/nn/layers.h"

struct dr_operator {
    const struct dr_weights *w;
    int64_t s, r, hidden;  // widths of a feature, of r, of the score's hidden layer
    bool projects, leaves; // has g; has out
    struct dr_linear in, mid, out;
    int x, y, difference, distance, bias, score; // parameters: W in three parts, u, b, v
    real *of_x, *of_y; // [hidden,r] W_x - W_difference and W_y + W_difference, in cx->tmp
};
// Rows on their way through g: x itself where there is no projection.
struct dr_operator_side {
    const real *x, *r; // [rows,s], [rows,r]
    real *pre, *act;   // [rows,in.out] before and after GELU
    int64_t rows;
};
// Scores of B groups of n by m pairs, and what the backward pass needs.
struct dr_operator_pairs {
    struct dr_operator_side x, y;
    real *hx, *hy, *d, *a; // [B*n,hidden], [B*m,hidden], [B,n,m] twice
    int64_t b, n, m;
};

int dr_operator_params_each(const struct dr_loss_config *cfg);
// Adds the parameters of an operator on vectors of width s; names begin with NAME.
void dr_operator_params(struct dr_params *ps, const struct dr_loss_config *cfg, int64_t s,
                        const char *name);
// The operator of feature number `feature` of a layout; folds W into cx->tmp.
void dr_operator_open(struct dr_ctx *cx, struct dr_operator *o, const struct dr_loss_config *cfg,
                      const struct dr_weights *w, int feature, int64_t s);
// Scores of x [b,n,s] and y [b,m,s], features at their scale.
void dr_operator_scores(struct dr_ctx *cx, const struct dr_operator *o, const real *x,
                        const real *y, int64_t b, int64_t n, int64_t m,
                        struct dr_operator_pairs *p);
// step [b,n,s] = out(sum_j coef_ij (r_j - r_i)). z: [b,n,r] before out, for the backward pass.
void dr_operator_step(struct dr_ctx *cx, const struct dr_operator *o,
                      const struct dr_operator_pairs *p, const real *coef, real *z, real *step);
// Gradients of the parameters: from da [b,n,m] by the scores (overwritten) through everything below
// them, with gradients by r that come from elsewhere in drx and dry ([b*n,r], [b*m,r], consumed;
// used with a projection only).
void dr_operator_scores_backward(struct dr_ctx *cx, const struct dr_operator *o,
                                 const struct dr_operator_pairs *p, real *da, real *drx, real *dry);
// From dstep through out, the softmax p of one set and the scores. Every row of p sums to 1.
void dr_operator_step_backward(struct dr_ctx *cx, const struct dr_operator *o,
                               const struct dr_operator_pairs *p, const real *coef, const real *z,
                               const real *dstep);
