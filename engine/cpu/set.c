// Sets of the learned field (method.md 4) on the CPU: noise for its denoising, softmaxes over sets,
// its losses, and how two fields agree. Called by engine/loss/field_learned.c through the op table.
//
// A row is one thread's and its sums have a fixed order.
#include "engine/cpu/vec.h"

#include "engine/core/rng.h"

#include <math.h>

#ifdef DR_DOUBLE
#define R(fn) fn
#else
#define R(fn) fn##f
#endif

// ---- noise
// ----------------------------------------------------------------------------------------

static real uniform(uint32_t r) {
    return ((real)r + (real)0.5) * (real)0x1p-32;
}

static void noise_row(const struct dr_set_noise_args *a, int64_t row, real divisor) {
    const real *x = a->x + row * a->width;
    real *y = a->y + row * a->width, sigma;
    const uint64_t index = (a->key[1] << 32) + (uint64_t)(a->first + row);
    uint32_t r[4];
    dr_philox(a->key[0], 0, a->stream + 1, index, r);
    sigma = a->lo * R(exp)((real)log((double)a->hi / (double)a->lo) * uniform(r[0]));
    a->sigma[row] = sigma;
    for (int64_t i = 0; i < a->width; i += 4) {
        real z[4];
        dr_philox(a->key[0], (uint32_t)(i / 4), a->stream, index, r);
        for (int k = 0; k < 4; k += 2) {
            const real len = R(sqrt)(-2 * R(log)(uniform(r[k])));
            const real angle = (real)(2 * M_PI) * uniform(r[k + 1]);
            z[k] = len * R(cos)(angle);
            z[k + 1] = len * R(sin)(angle);
        }
        for (int64_t k = 0; k < DR_MIN(4, a->width - i); k++)
            y[i + k] = x[i + k] / divisor + sigma * z[k];
    }
}

void DR_ISA_FN(set_noise)(struct dr_backend *be, const struct dr_set_noise_args *a) {
    real f = 1;
    if (a->scale) {
        f = *a->scale / (real)sqrt((double)a->width);
        f = f < (real)1e-3 ? (real)1e-3 : f; // a NaN stays one
    }
    DR_PARALLEL_FOR(be, a->rows * a->width > (a->hi > 0 ? 1024 : DR_PAYS))
    for (int64_t row = 0; row < a->rows; row++)
        if (a->hi > 0)
            noise_row(a, row, f);
        else
            for (int64_t i = row * a->width; i < (row + 1) * a->width; i++)
                a->y[i] = a->x[i] / f;
}

// ---- softmaxes
// ------------------------------------------------------------------------------------

// Columns [from, to) of a row without column `self`.
struct set {
    int64_t from, to, self;
};

static real set_weight(const struct set *s, const real *w, int64_t j) {
    return j == s->self ? 0 : w ? w[j] : 1;
}

// The largest score that has a weight, -inf where none has. A NaN shows in the sum.
static real set_top(const struct set *s, const real *a, const real *w) {
    real top = -INFINITY;
    for (int64_t j = s->from; j < s->to; j++)
        if (set_weight(s, w, j) != 0 && !(a[j] <= top))
            top = a[j];
    return top;
}

// out = w exp(a - top), 0 where the set holds nothing; returns the sum.
static double set_exp(const struct set *s, real *out, const real *a, const real *w, real top) {
    double sum = 0;
    for (int64_t j = s->from; j < s->to; j++) {
        const real weight = set_weight(s, w, j);
        out[j] = weight != 0 ? weight * R(exp)(a[j] - top) : 0;
        sum += (double)out[j];
    }
    return sum;
}

static void set_times(const struct set *s, real *out, double f) {
    for (int64_t j = s->from; j < s->to; j++)
        out[j] = (real)((double)out[j] * f);
}

static void softmax_row(const struct dr_set_softmax_fwd_args *a, int64_t row) {
    const real *x = a->a + row * a->m, *w = a->w ? a->w + row / a->n * a->m : NULL;
    real *out = a->coef + row * a->m;
    const int64_t self = a->diag < 0 ? -1 : a->diag + row % a->n;
    const struct set neg = {0, a->n_neg, self}, pos = {a->n_neg, a->m, self};
    real top[2] = {set_top(&neg, x, w), set_top(&pos, x, w)};
    if (a->product)
        top[0] = top[1] = top[0] <= top[1] ? top[1] : top[0];
    const double down = set_exp(&neg, out, x, w, top[0]), up = set_exp(&pos, out, x, w, top[1]);
    const double all = down + up;
    if (a->product) {
        set_times(&neg, out, all == 0 ? 0 : -up / all / all);
        set_times(&pos, out, all == 0 ? 0 : down / all / all);
        return;
    }
    set_times(&neg, out, down == 0 ? 0 : -1 / down);
    set_times(&pos, out, up == 0 ? 0 : 1 / up);
}

void DR_ISA_FN(set_softmax_fwd)(struct dr_backend *be, const struct dr_set_softmax_fwd_args *a) {
    DR_PARALLEL_FOR(be, a->b * a->n * a->m > DR_PAYS / 8)
    for (int64_t row = 0; row < a->b * a->n; row++)
        softmax_row(a, row);
}

void DR_ISA_FN(set_softmax_bwd)(struct dr_backend *be, const struct dr_set_softmax_bwd_args *a) {
    DR_PARALLEL_FOR(be, a->rows * a->m > DR_PAYS)
    for (int64_t row = 0; row < a->rows; row++) {
        const real *p = a->p + row * a->m, *dp = a->dp + row * a->m;
        real *da = a->da + row * a->m;
        double mean = 0;
        for (int64_t j = 0; j < a->m; j++)
            mean += (double)p[j] * (double)dp[j];
        for (int64_t j = 0; j < a->m; j++)
            da[j] = p[j] * (dp[j] - (real)mean);
    }
}

// ---- losses
// ---------------------------------------------------------------------------------------

static double in_order(const double *part, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += part[i];
    return sum;
}

static double denoise_row(const struct dr_denoise_loss_args *a, int64_t row, double unit) {
    const real inv = 1 / a->sigma[row], f = (real)(unit * (double)inv);
    const int64_t at = row * a->width;
    double sum = 0;
    for (int64_t i = at; i < at + a->width; i++) {
        const real e = (a->s[i] - (a->y[i] - a->x[i])) * inv;
        a->ds[i] = f * e;
        sum += (double)e * (double)e;
    }
    return sum;
}

void DR_ISA_FN(denoise_loss)(struct dr_backend *be, const struct dr_denoise_loss_args *a) {
    double *part = dr_cpu_scratch(be, DR_WS_OP, (size_t)(a->rows + 1) * sizeof *part);
    const double unit = (double)a->weight / a->count;
    if (!part)
        return;
    DR_PARALLEL_FOR(be, a->rows * a->width > DR_PAYS)
    for (int64_t row = 0; row < a->rows; row++)
        part[row] = denoise_row(a, row, 2 * unit);
    a->loss[0] += (real)(unit * in_order(part, a->rows));
}

// Returns -log of the second set's mass.
static double mass_row(const struct dr_mass_loss_args *a, int64_t row, double unit) {
    const real *x = a->a + row * a->m;
    real *out = a->da + row * a->m;
    const int64_t self = a->diag < 0 ? -1 : a->diag + row % a->n;
    const struct set neg = {0, a->n_neg, self}, pos = {a->n_neg, a->m, self};
    const real low = set_top(&neg, x, NULL), high = set_top(&pos, x, NULL);
    const real top = low <= high ? high : low;
    const bool empty = low == -INFINITY || high == -INFINITY;
    // The second set against its own top: its mass may be too small to be seen beside the first's.
    const double down = set_exp(&neg, out, x, NULL, top), up = set_exp(&pos, out, x, NULL, high);
    const double less = exp((double)high - (double)top), all = down + up * less;
    set_times(&neg, out, empty ? 0 : unit / all);
    set_times(&pos, out, empty ? 0 : unit * (less / all - 1 / up));
    return empty ? 0 : log(all) - log(up) - ((double)high - (double)top);
}

void DR_ISA_FN(mass_loss)(struct dr_backend *be, const struct dr_mass_loss_args *a) {
    const int64_t rows = a->b * a->n;
    double *part = dr_cpu_scratch(be, DR_WS_OP, (size_t)(rows + 1) * sizeof *part);
    const double unit = (double)a->weight / a->count;
    if (!part)
        return;
    DR_PARALLEL_FOR(be, rows * a->m > DR_PAYS / 8)
    for (int64_t row = 0; row < rows; row++)
        part[row] = mass_row(a, row, unit);
    a->loss[0] += (real)(unit * in_order(part, rows));
}

// ---- agreement
// ------------------------------------------------------------------------------------

static void correlate_block(double out[3], const real *x, const real *y, int64_t n) {
    double acc[3][8] = {{0}};
    for (int64_t i = 0; i < n; i++) {
        const double u = (double)x[i], v = (double)y[i];
        acc[0][i % 8] += u * v;
        acc[1][i % 8] += u * u;
        acc[2][i % 8] += v * v;
    }
    for (int k = 0; k < 3; k++)
        out[k] = in_order(acc[k], 8);
}

void DR_ISA_FN(correlate)(struct dr_backend *be, const struct dr_correlate_args *a) {
    const int64_t blocks = (a->n + DR_CHUNK - 1) / DR_CHUNK;
    double(*part)[3] = dr_cpu_scratch(be, DR_WS_OP, (size_t)(blocks + 1) * sizeof *part);
    double sum[3] = {0};
    if (!part)
        return;
    DR_PARALLEL_FOR(be, a->n > DR_PAYS)
    for (int64_t k = 0; k < blocks; k++)
        correlate_block(part[k], a->x + k * DR_CHUNK, a->y + k * DR_CHUNK,
                        DR_MIN(DR_CHUNK, a->n - k * DR_CHUNK));
    for (int64_t k = 0; k < blocks; k++)
        for (int i = 0; i < 3; i++)
            sum[i] += part[k][i];
    for (int i = 0; i < 3; i++)
        a->out[i] = sum[i];
}
