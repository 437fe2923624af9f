// Argument structs of the ops in ops.def. Shapes are row-major, contiguous unless a stride is
// named.
//
// Conventions: `real` pointers are fp32 (double in the gradient build); `void *` with an `act` or
// `*t` member may also be bf16. All arithmetic inside an op is fp32 or wider. Outputs overwrite
// unless the comment says "accumulates". Inputs may be NULL only where said. Outputs never alias
// inputs unless said. Per-sample work reduces in an order that depends on nothing but the sample,
// so results do not depend on the batch or on the thread count; parameter gradients reduce in an
// order that does not depend on the thread count.
#pragma once

#include "engine/core/types.h"

enum dr_op_flags { OP_ELEM = 1, OP_REDUCE = 2, OP_MATMUL = 4, OP_RNG = 8 };

// ---- linear algebra and data movement
// -------------------------------------------------------------

// C = op(A) op(B) + bias, or C += with `acc`. op(A): [m,k], op(B): [k,n], C: [m,n]; row-major with
// leading dimensions lda/ldb/ldc of the stored (untransposed) matrices. A and B share `abt`; ct may
// be bf16 only if abt is. k >= 1. batch > 1: the same for each i at a + i*stride_a etc. (elements).
// batch 0 means 1.
struct dr_gemm_args {
    int64_t m, n, k;
    const void *a, *b;
    void *c;
    int64_t lda, ldb, ldc;
    bool ta, tb, acc;
    enum dr_dtype abt, ct;
    const real *bias;      // [n], NULL: none (never together with acc)
    const dr_bf16 *bias16; // NULL, or bias rounded: backends may take it where C is bf16
    int64_t batch, stride_a, stride_b, stride_c;
    int64_t rows; // rows of a sample among the m (or, with ta, the k), 0: unknown; cuts follow it
    // Of B's values (dr_next_version): equal versions at one address mean equal values, so a
    // backend may keep what it made of them. 0: they may have changed.
    uint64_t version;
};
struct dr_cast_args { // dst[n] = src[n], rounding to nearest even
    void *dst;
    const void *src;
    enum dr_dtype dt, st;
    int64_t n;
};
struct dr_fill_args { // dst[n] = value
    real *dst;
    int64_t n;
    real value;
};
struct dr_axpy_args { // y[n] += alpha * x[n]; x may be bf16
    real *y;
    const void *x;
    enum dr_dtype xt;
    int64_t n;
    real alpha;
};
// dst[i0,i1,i2,i3] (+)= src[i0,i1,i2,i3], each with its own strides (elements); a source stride of
// 0 broadcasts. Concatenation, cropping, padding, layout changes.
struct dr_copy4_args {
    void *dst;
    const void *src;
    enum dr_dtype dt, st;
    int64_t dim[4], dstride[4], sstride[4];
    bool acc;
};
// dst[i,:] = row idx[i] of a data set: pixels as p / 127.5 - 1, or points as they are; one of the
// two is NULL. Rows hold `count` values. idx: [n] in range (the caller checked), NULL: row i.
// view: [n,3], how sample i is seen, {dy, dx, mirror}: of planes [h,w],
//   dst[y,x] = row[r(y + dy), r(mirror ? w - 1 - x - dx : x + dx)]
// with r reflecting at the edges without repeating them (|dy| < h, |dx| < w). NULL: as stored.
struct dr_gather_args {
    real *dst;
    const uint8_t *pixels;
    const real *points;
    const int64_t *idx;
    int64_t n, count;
    const int32_t *view;
    int64_t h, w; // with view; count is a multiple of h w
};
struct dr_colsum_args { // out[n] (+)= sum_m x[m,n]; x rows are ld apart (0: n)
    real *out;
    const void *x;
    enum dr_dtype xt;
    int64_t m, n, ld;
    bool acc;
};

// ---- activations
// -----------------------------------------------------------------------------------

struct dr_silu_fwd_args { // y = x sigmoid(x), [n]; y may alias x
    void *y;
    const void *x;
    enum dr_dtype yt, xt;
    int64_t n;
};
// dx = dy s(x)(1 + x(1 - s(x))), [n]; dx may alias dy. Also y again, which costs little here: a
// caller that kept only x wants it for the next layer's weights.
struct dr_silu_bwd_args {
    void *dx, *y; // y NULL: not wanted
    const void *x, *dy;
    enum dr_dtype t; // of all four
    int64_t n;
};
struct dr_gelu_fwd_args { // y = x Phi(x) (exact, erf), [n]
    void *y;
    const void *x;
    enum dr_dtype t;
    int64_t n;
};
struct dr_gelu_bwd_args { // dx = dy (Phi(x) + x phi(x)), [n], and y again; dx may alias dy
    void *dx, *y;         // y NULL: not wanted
    const void *x, *dy;
    enum dr_dtype t;
    int64_t n;
};
// h: [m, 2*n] rows are [h1 ; h3]; y[m,n] = silu(h1) h3.
struct dr_swiglu_fwd_args {
    void *y;
    const void *h;
    enum dr_dtype act;
    int64_t m, n;
};
// dh1 = dy h3 silu'(h1), dh3 = dy silu(h1), and y again (the forward keeps h only). dh may alias h.
struct dr_swiglu_bwd_args {
    void *dh, *y; // [m,2n], [m,n] (y NULL: not wanted)
    const void *h, *dy;
    enum dr_dtype act;
    int64_t m, n;
};

// ---- transformer
// -----------------------------------------------------------------------------------

// y = x rstd weight (1 + scale_b) + shift_b, rstd = 1 / sqrt(mean(x^2) + eps), then times `gain`.
// x: [b,t,d] real with x_stride between samples (0: t*d); y: [b,t,d] yt, contiguous.
struct dr_rmsnorm_mod_fwd_args {
    void *y;
    enum dr_dtype yt;
    real *rstd; // [b*t] kept for the backward pass, NULL: not wanted
    const real *x;
    int64_t x_stride;
    const real *weight;        // [d], NULL: ones
    const real *shift, *scale; // [b,d] with mod_stride between samples, NULL: none
    int64_t mod_stride;
    int64_t b, t, d;
    real eps, gain; // gain 0 means 1
};
// With g = dy gain (1 + scale) weight, xh = x rstd: dx = rstd (g - xh mean_d(g xh)).
struct dr_rmsnorm_mod_bwd_args {
    real *dx; // [b,t,d] with x_stride; accumulates when acc_dx
    bool acc_dx;
    real *dweight;         // [d] accumulates, NULL: not wanted
    real *dshift, *dscale; // [b,d] with dmod_stride, overwritten; NULL where shift/scale are NULL
    int64_t dmod_stride;
    const void *dy; // [b,t,d] dyt
    enum dr_dtype dyt;
    const real *x, *rstd, *weight, *scale;
    int64_t x_stride, mod_stride;
    int64_t b, t, d;
    real gain;
};
// out = x + gate_b y. x, out: [b,t,d] real (out may alias x); y: act; gate: [b,d] with mod_stride.
struct dr_gate_fwd_args {
    real *out;
    const real *x, *gate;
    const void *y;
    enum dr_dtype act;
    int64_t mod_stride, b, t, d;
};
// dy = dout gate_b; dgate_b = sum_t dout y. (dx = dout is the caller's residual.)
struct dr_gate_bwd_args {
    void *dy; // [b,t,d] act
    real *dgate;
    int64_t dmod_stride; // dgate: [b,d], overwritten
    const real *dout, *gate;
    const void *y;
    enum dr_dtype act;
    int64_t mod_stride, b, t, d;
};
// Self-attention of short sequences with optional QK-norm (RMSNorm over hd) and rotate-half RoPE:
// q,k = rope(rmsnorm(.) * norm weight); out = softmax(q k' scale) v.
// qkv: [b,t,3,h,hd] act; out: [b,t,h*hd] act; rope tables cos,sin: [t, hd/2].
struct dr_attn_fwd_args {
    void *out;
    const void *qkv;
    enum dr_dtype act;
    const real *q_norm, *k_norm;     // [hd] or both NULL
    const real *rope_cos, *rope_sin; // [t, hd/2] or both NULL
    int64_t b, t, h, hd;
    real scale, eps;
};
// Recomputes the probabilities from qkv. dqkv: [b,t,3,h,hd] act; may alias qkv.
struct dr_attn_bwd_args {
    void *dqkv;
    real *dq_norm, *dk_norm; // [hd] accumulate; NULL where the norms are NULL
    const void *dout, *qkv;
    enum dr_dtype act;
    const real *q_norm, *k_norm, *rope_cos, *rope_sin;
    int64_t b, t, h, hd;
    real scale, eps;
};
// out[b,:] (+)= sum_k table[k * table_rows + idx[b,k], :]. One shared table: table_rows = 0.
struct dr_embed_fwd_args {
    real *out; // [b,d]
    const real *table;
    const int32_t *idx; // [b,nk], in range (the caller checked)
    int64_t b, nk, d, table_rows;
    bool acc;
};
struct dr_embed_bwd_args { // dtable accumulates
    real *dtable;
    const real *dout; // [b,d]
    const int32_t *idx;
    int64_t b, nk, d, table_rows;
};
// out[b, 0:n/2] = cos(v_b f_i), out[b, n/2:] = sin(v_b f_i), f_i = max_period^(-i / (n/2)).
struct dr_fourier_args {
    real *out;       // [b,n]
    const real *val; // [b]
    int64_t b, n;
    real max_period;
};
// Image [b,c,h,w] real <-> tokens [b, (h/p)(w/p), c p p] t. The order inside a token is c,py,px
// (`hwc` false: a flattened Conv2d weight) or py,px,c (`hwc` true: unpatchify of both references).
struct dr_patchify_args {
    void *tokens;
    enum dr_dtype t;
    const real *image;
    int64_t b, c, h, w, p;
    bool hwc;
};
struct dr_unpatchify_args {
    real *image;
    const void *tokens;
    enum dr_dtype t;
    int64_t b, c, h, w, p;
    bool hwc;
};

// ---- images
// ----------------------------------------------------------------------------------------

// What a fused op applies last: nothing, max(x, 0), or x sigmoid(x).
enum dr_fn { DR_FN_NONE, DR_FN_RELU, DR_FN_SILU };
// 2-D convolution, zero padding. x: [b,h,w,ci] t, y: [b,ho,wo,co] t, weight: [co,ci,kh,kw] real
// (the PyTorch layout), bias: [co] or NULL. ho = (h + 2 padh - dil (kh - 1) - 1) / stride + 1, wo
// alike. kh 0: square, kh = kw = k and padh = padw = pad; otherwise k and pad are ignored. dil 0
// means 1. ho and wo must be at least 1 (the caller checked). Forward, `fn` is applied last, and
// pixels of y may lie `ldy` values apart (0: co): channels of a concatenation.
struct dr_conv2d_fwd_args {
    void *y;
    const void *x;
    enum dr_dtype t;
    const real *weight, *bias;
    int64_t b, h, w, ci, co, k, stride, pad;
    int64_t kh, kw, padh, padw, dil;
    int64_t ldy;
    enum dr_fn fn;
    uint64_t version; // of weight's values, as in dr_gemm_args
};
struct dr_conv2d_bwd_data_args {
    void *dx; // overwritten
    const void *dy;
    enum dr_dtype t;
    const real *weight;
    int64_t b, h, w, ci, co, k, stride, pad; // h, w of x
    int64_t kh, kw, padh, padw, dil;
    uint64_t version;
};
struct dr_conv2d_bwd_weight_args {
    real *dweight, *dbias; // accumulate; dbias NULL: not wanted
    const void *x, *dy;
    enum dr_dtype t;
    int64_t b, h, w, ci, co, k, stride, pad;
    int64_t kh, kw, padh, padw, dil;
};
// The sizes of a convolution with the shorthands resolved: dr_conv_dims_of(a) of any of the three.
struct dr_conv_dims {
    int64_t kh, kw, padh, padw, dil, ho, wo;
};
static inline struct dr_conv_dims dr_conv_dims(int64_t h, int64_t w, int64_t k, int64_t pad,
                                               int64_t kh, int64_t kw, int64_t padh, int64_t padw,
                                               int64_t dil, int64_t stride) {
    struct dr_conv_dims d = {
        kh ? kh : k, kh ? kw : k, kh ? padh : pad, kh ? padw : pad, dil ? dil : 1, 0, 0};
    d.ho = (h + 2 * d.padh - d.dil * (d.kh - 1) - 1) / stride + 1;
    d.wo = (w + 2 * d.padw - d.dil * (d.kw - 1) - 1) / stride + 1;
    return d;
}
#define dr_conv_dims_of(a)                                                                         \
    dr_conv_dims((a)->h, (a)->w, (a)->k, (a)->pad, (a)->kh, (a)->kw, (a)->padh, (a)->padw,         \
                 (a)->dil, (a)->stride)

// Group normalisation (Wu & He 2018): y = fn(xh weight + bias + r), xh = (x - mean) rstd over the n
// pixels and c / groups neighbouring channels of a group, rstd = 1 / sqrt(var + eps), var without
// Bessel's correction. x, r, y: [b,n,c] t; y may alias x or r. groups divides c.
struct dr_groupnorm_fwd_args {
    void *y;
    real *mean, *rstd; // [b,groups] kept for the backward pass, both NULL: not wanted
    const void *x, *r; // r NULL: none
    enum dr_dtype t;
    const real *weight, *bias; // [c], NULL: ones, zeros
    int64_t stride;            // 0, or that of a weight and bias per sample, [b,c]
    int64_t b, n, c, groups;
    enum dr_fn fn;
    real eps;
};
// With g = dy fn'(xh weight + bias + r): dr = g, dweight += sum g xh, dbias += sum g, and
// dx = rstd (g weight - mean(g weight) - xh mean(g weight xh)), means over the group. Takes what
// the forward pass took: x and r must still hold what they held then. Either dx or dr may alias dy.
struct dr_groupnorm_bwd_args {
    void *dx, *dr;         // [b,n,c] t; dr NULL: not wanted
    real *dweight, *dbias; // [c] accumulate; with `stride` [b,c] overwritten; NULL: not wanted
    int64_t stride;        // as above, of the gradients as well
    const void *dy, *x, *r;
    enum dr_dtype t;
    const real *mean, *rstd, *weight, *bias;
    int64_t b, n, c, groups;
    enum dr_fn fn;
};
// y = fn(x scale + shift + r) with a scale and a shift per channel: a BatchNorm at inference, or
// the normalisation of images. x: [m,c] xt; r, y: [m,c] t. y may alias r, and x where the types
// agree.
struct dr_channel_affine_fwd_args {
    void *y;
    const void *x, *r; // r NULL: none
    enum dr_dtype t, xt;
    const real *scale, *shift; // [c], NULL: ones, zeros
    int64_t m, c;
    enum dr_fn fn;
};
// With g = dy fn'(x scale + shift + r): dx = g scale, dr = g, dscale += sum g x, dshift += sum g.
// Either dx or dr may alias dy (dx: where the types agree).
struct dr_channel_affine_bwd_args {
    void *dx, *dr;          // [m,c] xt and t; NULL: not wanted
    real *dscale, *dshift;  // [c] accumulate; NULL: not wanted
    const void *dy, *x, *r; // [m,c] t, xt, t
    enum dr_dtype t, xt;
    const real *scale, *shift;
    int64_t m, c;
    enum dr_fn fn;
};
// y = fn(a + b), [n]; y may alias either. b NULL: y = fn(a).
struct dr_add_act_fwd_args {
    void *y;
    const void *a, *b;
    enum dr_dtype t;
    int64_t n;
    enum dr_fn fn;
};
// dx = dy fn'(a + b), the gradient of both a and b; dx may alias dy. With DR_FN_RELU the forward
// pass's y may stand for a, with b NULL.
struct dr_add_act_bwd_args {
    void *dx;
    const void *dy, *a, *b;
    enum dr_dtype t;
    int64_t n;
    enum dr_fn fn;
};
// Maximum or mean of k x k windows of x: [b,h,w,c] t -> y: [b,ho,wo,c] t, ho = (h + 2 pad - k) /
// stride + 1. Padding never is a maximum; means divide by the pixels that exist, with count_pad by
// k^2. k 0: one window, the whole image (means only; stride and pad are ignored). 2 pad <= k, and
// k <= 15 for maxima. Of equal maxima the first counts, line by line.
struct dr_pool_fwd_args {
    void *y;
    uint8_t *taken; // maxima: [b,ho,wo,c], where in its window each was; NULL: not wanted
    const void *x;
    enum dr_dtype t;
    int64_t b, h, w, c, k, stride, pad;
    bool max, count_pad;
};
struct dr_pool_bwd_args {
    void *dx;             // [b,h,w,c] t, overwritten
    const uint8_t *taken; // of the forward pass, for maxima
    const void *dy;
    enum dr_dtype t;
    int64_t b, h, w, c, k, stride, pad; // h, w of x
    bool max, count_pad;
};
// x: [b,h,w,c] t -> y: [b,ho,wo,c] t. Bilinear between half-pixel centres, borders repeated
// (PyTorch's align_corners=False, antialias=False), or the nearest pixel, floor(p h / ho) (its
// `nearest`).
struct dr_resize_fwd_args {
    void *y;
    const void *x;
    enum dr_dtype t;
    int64_t b, h, w, c, ho, wo;
    bool nearest;
};
struct dr_resize_bwd_args { // the transposed map
    void *dx;               // [b,h,w,c] t, overwritten
    const void *dy;
    enum dr_dtype t;
    int64_t b, h, w, c, ho, wo;
    bool nearest;
};
// A mask has one value per p x p patch of pixels: [b,hp,wp] real, hp = ceil(h / p), wp = ceil(w /
// p). y = x mask, with `invert` x (1 - mask). x, y: [b,h,w,c] t; y may alias x.
struct dr_mask_apply_args {
    void *y;
    const void *x;
    enum dr_dtype t;
    const real *mask;
    int64_t b, h, w, c, p;
    bool invert;
};
// Mean squared error where a mask is set, per sample: loss[i] = sum mask (x - y)^2 / D, and
// dx = 2 scale mask (x - y) / D. D = c sum mask, or 1 where that is less: the number of masked
// values of the sample where the mask is made of 0 and 1.
struct dr_masked_mse_args {
    real *loss;        // [b]
    void *dx;          // [b,h,w,c] xt, NULL: not wanted; may alias x
    const void *x, *y; // [b,h,w,c] xt, yt: prediction and target
    enum dr_dtype xt, yt;
    const real *mask; // [b,hp,wp] as above, NULL: ones
    int64_t b, h, w, c, p;
    real scale;
};
// Cross-entropy of softmax(logits) with targets q = (1 - smoothing) onehot(label) + smoothing / n:
// loss = -sum q log p, dlogits = scale (p - q). A row whose label is negative counts for nothing:
// its loss, prob, correct and dlogits are 0. Outputs may be NULL: not wanted.
struct dr_softmax_xent_args {
    real *loss, *prob; // [m]; prob: p of the label
    real *correct; // [m]: 1 if no logit is greater than the label's and none before it equals it
    void *dlogits; // [m,n] dt; may alias logits where the types agree
    const void *logits; // [m,n] lt
    enum dr_dtype lt, dt;
    const int32_t *labels; // [m], below n (the caller checked)
    int64_t m, n;
    real smoothing, scale;
};

// ---- features and loss (method.md 2; paper Alg. 2, A.6, A.7)
// ----------------------------------------

struct dr_l2norm_fwd_args { // y = x / max(|x|, eps) by row; norm: [m]
    real *y, *norm;
    const real *x;
    int64_t m, n;
    real eps;
};
struct dr_l2norm_bwd_args { // dx = (dy - y (y.dy)) / norm
    real *dx;
    const real *dy, *y, *norm;
    int64_t m, n;
    real eps;
};
// Means and stds (sqrt(var + 1e-6)) over non-overlapping p x p patches of x: [b,h,w,c] real.
// out: [b, (h/p)(w/p), 2c] = [means ; stds]. p = h = w gives the global statistics.
struct dr_patch_stats_fwd_args {
    real *out;
    const real *x;
    int64_t b, h, w, c, p;
};
struct dr_patch_stats_bwd_args { // dx accumulates; out is the forward result
    real *dx;
    const real *dout, *out, *x;
    int64_t b, h, w, c, p;
};
// Per group and column, over the n rows of x and the m rows of y together: mean, and rstd =
// 1 / sqrt(var + eps). Sums in double.
struct dr_column_stats_args {
    real *mean, *rstd; // [b,s]
    const real *x, *y; // [b,n,s], [b,m,s]
    int64_t b, n, m, s;
    real eps;
};
// y = (x - mean) rstd by column. x: [b,n,s], or [n,s] for every group with `shared`; y may alias x
// unless shared. mean NULL: y = x rstd, which is the gradient.
struct dr_standardize_args {
    real *y;                     // [b,n,s]
    const real *x, *mean, *rstd; // mean, rstd: [b,s]
    int64_t b, n, s;
    bool shared;
};
// d[b,i,j] = sqrt(max(|x_i - y_j|^2, 1e-8)). x: [b,n,s], y: [b,m,s], d: [b,n,m].
struct dr_pair_dist_args {
    real *d;
    const real *x, *y;
    int64_t b, n, m, s;
};
// sums = {sum D w, sum D, sum D^2, sum w} over all groups, w counted once per column. The means
// are taken once every process has added its own.
struct dr_drift_sums_args {
    double *sums;      // [4]
    const real *d, *w; // [b,n,m], [b,m] (NULL: ones)
    int64_t b, n, m;
};
// out[0] = mean(D w) / mean(w); out[1] = mean(D), out[2] = var(D); in double before the rounding.
struct dr_drift_scale_args {
    real *out;          // [3]
    const double *sums; // of drift_sums
    int64_t b, n, m;    // b: groups of all processes
};
// Kernels of D~ and tau, both lengths: exp(-D~ / tau) and exp(-D~^2 / (2 tau^2)).
enum dr_kernel { DR_KERNEL_LAPLACE, DR_KERNEL_GAUSSIAN };
// Affinities before the floor: sqrt(softmax_j softmax_i), softmax_j, the kernel itself, or Sinkhorn
// potentials by rounds of rows (to 1) then columns (to n / m), started from the kernel. SPLIT: one
// such plan of the n_neg negatives and one of the p positives, each with weighted row sums (sum_j
// w_j A_ij to 1) and columns to n / sum(w) of its side. The floor is A = max(A, sqrt(floor)) in all
// of them.
enum dr_normalize {
    DR_NORM_BOTH,
    DR_NORM_Y,
    DR_NORM_NONE,
    DR_NORM_SINKHORN,
    DR_NORM_SINKHORN_SPLIT
};
// Coefficients of one temperature: [c- ; c+] of method.md 2, columns ordered gen, unc, pos. abc:
// the bias correction; with a_j = A_ij w_j over its sum on one side, each coefficient of that side
// is multiplied by 1 - sum a^2 + a_j. A side whose row sum is 0 has coefficients 0.
struct dr_drift_coef_args {
    real *coef;        // [b,n,m], m = n_neg + p
    const real *d, *w; // distances [b,n,m], weights [b,m] (NULL: ones)
    const real *scale; // device scalar s: D~ = D / max(s, 1e-3). NULL: D~ = D
    int64_t b, n, n_neg, p;
    real tau, floor;
    real diag; // added to D~_ii of the gen-gen block; 0: no self mask
    enum dr_kernel kernel;
    enum dr_normalize normalize;
    int sinkhorn_iterations;
    bool abc;
};
// v = (coef y - rowsum(coef) x) / max(s / sqrt(S), 1e-3); sumsq = sum v^2 over everything ([1]), or
// per group ([b]) with per_group.
struct dr_drift_combine_args {
    real *v;
    double *sumsq;
    const real *coef, *x, *y; // [b,n,m], [b,n,s], [b,m,s]
    const real *scale;        // device scalar, NULL: 1 (no normalisation of features)
    int64_t b, n, m, s;
    bool per_group;
};
struct dr_drift_mean_args { // out[i] = sums[i] / count
    real *out;
    const double *sums; // [n]
    int64_t n;
    double count;
};
// total (+)= v / rms, rms = sqrt(max(v2, 1e-8)); with `l2` sqrt(v2 + 1e-8) + 1e-8 (field
// kernel-l2).
struct dr_drift_accumulate_args {
    real *total; // [b,n,s]
    const real *v, *v2;
    int64_t b, n, s;
    bool per_group, l2, acc;
};
// loss[0] += weight sum(V^2) / (groups n s); dx = -2 weight V / (groups n s) / max(s / sqrt(S),
// 1e-3). With max_rms, V is a row of total times min(1, max_rms / sqrt(mean_s total^2)).
struct dr_drift_grad_args {
    real *dx, *loss;
    const real *total, *scale; // scale NULL: 1
    int64_t b, n, s, groups;   // groups: of all processes, b of them here
    real weight, max_rms;      // max_rms 0: V is total
};

// ---- learned field (method.md 4)
// -------------------------------------------------------------------------------------

// y = x / f + sigma_r z by row, f = max(scale / sqrt(width), 1e-3), 1 where scale is NULL. Row r
// draws from Philox with seed key[0] and index key[1] 2^32 + first + r: z, `width` normals as
// dr_normals gives them (stream), in the precision of `real`; sigma_r = lo (hi / lo)^u, u the first
// uniform number of stream + 1. hi 0: no noise, and key and sigma are not used. y may alias x.
struct dr_set_noise_args {
    real *y, *sigma; // [rows,width], [rows]
    const real *x, *scale;
    const uint64_t *key; // [2]
    int64_t rows, width, first;
    uint32_t stream;
    real lo, hi;
};
// a[b,i,j] = sum_h v_h gelu(hx[b,i,h] + hy[b,j,h] + u_h d[b,i,j]): an MLP with one hidden layer on
// pairs, whose hidden layer is never stored. d: [b,n,m], hx: [b,n,h], hy: [b,m,h].
struct dr_pair_score_fwd_args {
    real *a; // [b,n,m]
    const real *hx, *hy, *d, *u, *v;
    int64_t b, n, m, h;
};
// With t the argument of gelu and g = da v gelu'(t): dhx = sum_j g, dhy = sum_i g, du += sum g d,
// dv += sum da gelu(t), and pull = (sum_h g u) / d, 0 where d is at most 1e-4: d is |x_i - y_j|
// (pair_dist), so its gradient by x_i is sum_j pull_ij (x_i - y_j). pull may alias da.
struct dr_pair_score_bwd_args {
    real *dhx, *dhy, *pull; // [b,n,h], [b,m,h], [b,n,m]; overwritten
    real *du, *dv;          // [h] accumulate
    const real *da, *hx, *hy, *d, *u, *v;
    int64_t b, n, m, h;
};
// Coefficients of two sets by row: columns [0,n_neg) of the scores are one, [n_neg,m) the other;
// either may be empty. p is the softmax within a set, of w_j exp(a_ij), without column diag + i of
// row i (diag -1: with all); a set of which nothing is left has p = 0.
//   coef = [-p ; p]; with `product` [-A- sum(A+) ; A+ sum(A-)], A the softmax over both sets
struct dr_set_softmax_fwd_args {
    real *coef;        // [b,n,m]; may alias a
    const real *a, *w; // [b,n,m], [b,m] at least 0 (NULL: ones)
    int64_t b, n, m, n_neg, diag;
    bool product;
};
// Of one set (n_neg 0, no product): da = p (dp - sum_j p dp). da may alias dp.
struct dr_set_softmax_bwd_args {
    real *da;
    const real *p, *dp; // [rows,m]
    int64_t rows, m;
};
// e = (s - (y - x)) / sigma_r by row; loss[0] += weight sum e^2 / count and ds = 2 weight e /
// (sigma_r count).
struct dr_denoise_loss_args {
    real *ds, *loss;               // [rows,width], may alias s; [1]
    const real *s, *y, *x, *sigma; // step, clean and noisy rows; [rows]
    int64_t rows, width;
    double count; // of values, over all processes
    real weight;
};
// With A the softmax of a row of scores over both sets of set_softmax_fwd and p that within the
// second: loss[0] -= weight sum log(sum(A+)) / count, da = weight (A - p) / count, p 0 in the
// first set. A row where either set has nothing left brings nothing.
struct dr_mass_loss_args {
    real *da, *loss; // [b,n,m], may alias a; [1]
    const real *a;
    int64_t b, n, m, n_neg, diag;
    double count; // of rows, over all processes
    real weight;
};
struct dr_correlate_args { // out = {sum x y, sum x^2, sum y^2}
    double *out;           // [3]
    const real *x, *y;     // [n]
    int64_t n;
};
// pull (+)= factor da / d, [n]; nothing where d is at most 1e-4: d is |x_i - y_j| (pair_dist), da a
// gradient by it, and the gradient by x_i is sum_j pull_ij (x_i - y_j). pull may alias da.
struct dr_pair_pull_args {
    real *pull;
    const real *da, *d;
    int64_t n;
    real factor;
    bool acc;
};

// ---- optimiser
// -------------------------------------------------------------------------------------

struct dr_sumsq_args { // out[0] (+)= sum x^2, accumulated in double, order independent of threads
    real *out;
    const real *x;
    int64_t n;
    bool acc;
};
// AdamW with decoupled decay. hyper (device): {lr, 1 - beta1^t, 1 - beta2^t}. The gradient is first
// scaled by min(1, clip / (sqrt(*sumsq) + 1e-6)); clip 0: not. w16 (NULL or bf16 [n]) gets a copy.
// guard ([2], NULL: none): unless both are finite nothing is written.
struct dr_adamw_args {
    real *w, *m, *v;
    const real *g, *sumsq, *hyper, *guard;
    dr_bf16 *w16;
    int64_t n;
    real beta1, beta2, eps, decay, clip;
};
// e += (1 - *decay) (w - e); decay on the device; guard as above
struct dr_ema_args {
    real *e;
    const real *w, *decay, *guard;
    int64_t n;
};

// ---- randomness (method.md 8)
// ----------------------------------------------------------------------

struct dr_normals_args { // out[b,n]: row r is dr_normals(seed[r], stream, index[r])
    real *out;
    const uint64_t *seed, *index; // [b]
    int64_t b, n;
    uint32_t stream;
};
struct dr_indices_args { // out[b,n]
    int32_t *out;
    const uint64_t *seed, *index; // [b]
    int64_t b, n;
    uint32_t stream, range;
};
