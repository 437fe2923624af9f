// The mathematics of evaluation (method.md 9): pure functions of feature matrices [n,d], one row
// per image. Sums run in double in one fixed order, so results depend neither on how rows were
// batched nor on the number of threads. Any thread; work is shared among OpenMP's threads.
//
// All return 0, DR_EINVAL for sizes that a metric is not defined for, or DR_ENOMEM; outputs are
// set on success only.
#pragma once

#include "engine/core/err.h"
#include "engine/core/types.h"

// A value and its standard error; NaN where there is none.
struct dr_estimate {
    double value, se;
};

// ---- mean and covariance of a stream of rows

// Rows are taken in blocks of DR_MOMENTS_BLOCK, centred, multiplied and merged (Chan et al. 1983):
// no cancellation, however far the mean is from zero. Memory: d * (d + DR_MOMENTS_BLOCK) doubles.
enum { DR_MOMENTS_BLOCK = 256 };
struct dr_moments;
int dr_moments_create(int64_t d, struct dr_moments **out, struct dr_err *err);
void dr_moments_free(struct dr_moments *m); // NULL is fine
void dr_moments_clear(struct dr_moments *m);
void dr_moments_add(struct dr_moments *m, const real *x, int64_t n); // x: [n,d]
// As if `from`'s rows had been seen too; rounding differs from adding them. Ends the open blocks
// of both. EINVAL: widths differ.
int dr_moments_merge(struct dr_moments *m, struct dr_moments *from, struct dr_err *err);
int64_t dr_moments_width(const struct dr_moments *m);
int64_t dr_moments_count(const struct dr_moments *m); // rows so far
// mean [d] and unbiased covariance [d,d]; either may be NULL. Ends the open block. EINVAL under 2
// rows.
int dr_moments_get(struct dr_moments *m, double *mean, double *cov, struct dr_err *err);
// The state, exactly, for resuming: doubles, dr_moments_state_count of them.
int64_t dr_moments_state_count(const struct dr_moments *m);
void dr_moments_state_get(const struct dr_moments *m, double *out);
int dr_moments_state_set(struct dr_moments *m, const double *in, struct dr_err *err);

// ---- distances between distributions

// Frechet distance |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr sqrt(C1 C2) (Heusel et al. 2017). The last
// trace is the nuclear norm of L1' L2, where C = L L' by pivoted Cholesky, which drops directions
// without variance: right for singular covariances (n <= d) without adding anything to their
// diagonals. Ends open blocks.
int dr_frechet(struct dr_moments *a, struct dr_moments *b, double *out, struct dr_err *err);
// The same from means [d] and covariances [d,d].
int dr_frechet_of(int64_t d, const double *m1, const double *c1, const double *m2, const double *c2,
                  double *out, struct dr_err *err);
// Intercept of the least-squares line through value[n] over x[n], weighted (Chong and Forsyth 2020:
// a Frechet distance is linear in 1 / images). EINVAL: fewer than two different x.
int dr_intercept(int64_t n, const double *x, const double *value, const double *weight,
                 double *intercept, struct dr_err *err);

// Kernel distance (Binkowski et al. 2018): unbiased MMD^2 with the kernel (x.y / d + 1)^3, mean
// over `subsets` random pairs of `size` rows of each side. Rows of a subset are drawn without
// replacement, a function of (seed, subset). Its standard error is that of other x, with y taken as
// given; NAN under 16 rows of x.
int dr_kid(const real *x, int64_t nx, const real *y, int64_t ny, int64_t d, int64_t subsets,
           int64_t size, uint64_t seed, struct dr_estimate *out, struct dr_err *err);

// ---- neighbours (Euclidean)

// out[n]: distance of each row of x to its nearest row of y.
int dr_nearest_rows(const real *x, int64_t n, const real *y, int64_t m, int64_t d, double *out,
                    struct dr_err *err);
// The same where row i of y is row i of x, which does not count; infinite where there is no other.
int dr_nearest_but_own(const real *x, int64_t n, const real *y, int64_t m, int64_t d, double *out,
                       struct dr_err *err);
// out[n,k]: squared distances of each row of x to its k nearest other rows of x, ascending; k < n.
int dr_nearest_others(const real *x, int64_t n, int64_t d, int64_t k, double *out,
                      struct dr_err *err);
// Precision: share of generated rows inside the union of balls around reals that reach to their
// k-th nearest real. Recall: the same with the sides exchanged (Kynkaanniemi et al. 2019; k = 3).
// Density and coverage (Naeem et al. 2020; k = 5): how many balls of reals a generated row is in,
// over k; share of reals whose ball holds a generated row. EINVAL where a side has not more rows
// than k.
struct dr_manifold {
    double precision, recall, density, coverage;
};
int dr_manifold(const real *reals, int64_t nr, const real *gen, int64_t ng, int64_t d,
                int64_t k_precision, int64_t k_density, struct dr_manifold *out,
                struct dr_err *err);
// Mean distance over all pairs of different rows, n >= 2.
int dr_mean_distance(const real *x, int64_t n, int64_t d, double *out, struct dr_err *err);

// ---- classifiers

// Inception score (Salimans et al. 2016) from sums over each split of the images: p[splits,classes]
// of probabilities, plogp[splits] of their p log p, count[splits] of images. Mean over the splits
// and its standard error.
int dr_inception_score(int64_t splits, int64_t classes, const double *p, const double *plogp,
                       const int64_t *count, struct dr_estimate *out, struct dr_err *err);
// Probabilities of logits, in double.
void dr_softmax(const real *logits, int64_t classes, double *p);
