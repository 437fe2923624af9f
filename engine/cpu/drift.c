// CPU ops of the drifting loss (method.md 2 and 3; paper Alg. 2, A.6) except the coefficients,
// which are in drift_coef.c: distances, the feature scale, the field, its normalisation and the
// gradient. Called by engine/loss/drift.c through the op table.
//
// Comparisons are written so that a NaN survives them: a non-finite sample must end in a non-finite
// loss. Every sum is cut at rows or blocks of rows, so results do not depend on the thread count.
#include "engine/cpu/vec.h"

#include <math.h>

#define SHORT ((int64_t)(64 / sizeof(real))) // vectors shorter than this have loops of their own

static real feature_divisor(const real *scale, int64_t s) // max(s / sqrt(S), 1e-3), or 1
{
    if (!scale)
        return 1;
    real f = *scale / (real)sqrt((double)s);
    return f < (real)1e-3 ? (real)1e-3 : f;
}

// ---- distances
// -----------------------------------------------------------------------------------

// The difference x - y is squared, never |x|^2 + |y|^2 - 2xy: at tau = 0.02 the affinities need D
// to the last bit. Lanes are flushed every CHUNK elements, so the error does not grow with s.
#define CHUNK 512
#if VBYTES == 64
#define ROWS 8 // of x that share a pass over y: 16 accumulators of 32 registers
#else
#define ROWS 4 // 8 of 16
#endif
// Squared distances of n elements. Not inlined: the loop wants all registers.
__attribute__((noinline)) static void dist_chunk(real out[2][ROWS], const real *const x[ROWS],
                                                 const real *y0, const real *y1, int64_t len) {
    vreal a[2][ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        a[0][r] = a[1][r] = vset(0);
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        const vreal v0 = vld(y0, DR_F32, i, n), v1 = vld(y1, DR_F32, i, n);                        \
        _Pragma("GCC unroll 8") for (int r = 0; r < ROWS; r++) {                                   \
            const vreal u = vld(x[r], DR_F32, i, n), e0 = u - v0, e1 = u - v1;                     \
            a[0][r] = vfma(e0, e0, a[0][r]);                                                       \
            a[1][r] = vfma(e1, e1, a[1][r]);                                                       \
        }                                                                                          \
    } while (0)
    V_LOOP(len, STEP);
#undef STEP
#pragma GCC unroll 2
    for (int r = 0; r < ROWS; r += 4)
        vsum4(out[0] + r, a[0] + r), vsum4(out[1] + r, a[1] + r);
}

// Squares of vectors that are one chunk: the sum over the chunks is the chunk's own.
static void dist_squares(real *d, const real *x, const real *y, int rows, int64_t m, int64_t s) {
    const real *xr[ROWS];
    for (int r = 0; r < ROWS; r++) // spare rows repeat the last one
        xr[r] = x + DR_MIN(r, rows - 1) * s;
    for (int64_t j = 0; j < m; j += 2) {
        const int64_t k = DR_MIN(j + 1, m - 1);
        real t[2][ROWS];
        dist_chunk(t, xr, y + j * s, y + k * s, s);
        for (int r = 0; r < rows; r++)
            d[r * m + j] = t[0][r], d[r * m + k] = t[1][r];
    }
}

static void dist_squares_long(real *d, const real *x, const real *y, int rows, int64_t m,
                              int64_t s) {
    for (int64_t j = 0; j < m; j += 2) {
        const real *y0 = y + j * s, *y1 = y + DR_MIN(j + 1, m - 1) * s, *xr[ROWS];
        double sum[2][ROWS] = {{0}};
        for (int64_t c = 0; c < s; c += CHUNK) {
            real t[2][ROWS];
            for (int r = 0; r < ROWS; r++)
                xr[r] = x + DR_MIN(r, rows - 1) * s + c;
            dist_chunk(t, xr, y0 + c, y1 + c, DR_MIN(CHUNK, s - c));
            for (int r = 0; r < ROWS; r++)
                sum[0][r] += (double)t[0][r], sum[1][r] += (double)t[1][r];
        }
        for (int r = 0; r < rows; r++)
            for (int q = 0; q < 2 && j + q < m; q++)
                d[r * m + j + q] = (real)sum[q][r];
    }
}

static void dist_rows(real *d, const real *x, const real *y, int rows, int64_t m, int64_t s) {
    (s <= CHUNK ? dist_squares : dist_squares_long)(d, x, y, rows, m, s);
#define STEP(i, n) vst(d, DR_F32, i, n, vsqrt(vmax(vset((real)1e-8), vld(d, DR_F32, i, n))))
    V_LOOP(rows * m, STEP);
#undef STEP
}

// Vectors shorter than a register (the two-dimensional toys): the loop over y is the inner one.
static void dist_rows_short(real *restrict d, const real *restrict x, const real *restrict y,
                            int rows, int64_t m, int64_t s) {
    for (int r = 0; r < rows; r++, d += m, x += s) {
        if (s == 2)
            for (int64_t j = 0; j < m; j++) {
                double e0 = (double)x[0] - (double)y[2 * j];
                double e1 = (double)x[1] - (double)y[2 * j + 1], sum = e0 * e0 + e1 * e1;
                d[j] = (real)sqrt(sum < 1e-8 ? 1e-8 : sum);
            }
        else
            for (int64_t j = 0; j < m; j++) {
                double sum = 0;
                for (int64_t k = 0; k < s; k++) {
                    double e = (double)x[k] - (double)y[j * s + k];
                    sum += e * e;
                }
                d[j] = (real)sqrt(sum < 1e-8 ? 1e-8 : sum);
            }
    }
}

void DR_ISA_FN(pair_dist)(struct dr_backend *be, const struct dr_pair_dist_args *a) {
    int64_t blocks = (a->n + ROWS - 1) / ROWS;
    DR_PARALLEL_FOR(be, a->b * a->n * a->m * a->s > DR_PAYS)
    for (int64_t t = 0; t < a->b * blocks; t++) {
        int64_t b = t / blocks, i = t % blocks * ROWS;
        int rows = (int)DR_MIN(ROWS, a->n - i);
        real *d = a->d + (b * a->n + i) * a->m;
        const real *x = a->x + (b * a->n + i) * a->s, *y = a->y + b * a->m * a->s;
        (a->s < SHORT ? dist_rows_short : dist_rows)(d, x, y, rows, a->m, a->s);
    }
}

// ---- scale
// ---------------------------------------------------------------------------------------

// Eight columns at a time and what is left of a row: with a constant count the inner loops become
// vectors.
#define BY_EIGHT(m, STEP)                                                                          \
    do {                                                                                           \
        int64_t j = 0;                                                                             \
        for (; j + 8 <= (m); j += 8)                                                               \
            for (int l = 0; l < 8; l++)                                                            \
                STEP;                                                                              \
        for (int l = 0; j + l < (m); l++)                                                          \
            STEP;                                                                                  \
    } while (0)

DR_INLINE void scale_terms(double *dw, double *s1, double *s2, double v, double w) {
    *dw += v * w;
    *s1 += v;
    *s2 += v * v;
}

// {sum D w, sum D, sum D^2} of one row; w NULL: ones.
static void scale_row(double out[3], const real *d, const real *w, int64_t m) {
    double dw[8] = {0}, s1[8] = {0}, s2[8] = {0};
    if (w)
        BY_EIGHT(m, scale_terms(&dw[l], &s1[l], &s2[l], (double)d[j + l], (double)w[j + l]));
    else
        BY_EIGHT(m, scale_terms(&dw[l], &s1[l], &s2[l], (double)d[j + l], 1));
    out[0] = out[1] = out[2] = 0;
    for (int l = 0; l < 8; l++) {
        out[0] += dw[l];
        out[1] += s1[l];
        out[2] += s2[l];
    }
}

void DR_ISA_FN(drift_sums)(struct dr_backend *be, const struct dr_drift_sums_args *a) {
    int64_t rows = a->b * a->n;
    double(*part)[3] = dr_cpu_scratch(be, DR_WS_OP, (size_t)rows * sizeof *part);
    if (!part)
        return;
    DR_PARALLEL_FOR(be, rows * a->m > DR_PAYS)
    for (int64_t r = 0; r < rows; r++)
        scale_row(part[r], a->d + r * a->m, a->w ? a->w + r / a->n * a->m : NULL, a->m);
    double sum[4] = {0};
    for (int64_t r = 0; r < rows; r++)
        for (int k = 0; k < 3; k++)
            sum[k] += part[r][k];
    for (int64_t j = 0; j < a->b * a->m; j++)
        sum[3] += a->w ? (double)a->w[j] : 1;
    for (int k = 0; k < 4; k++)
        a->sums[k] = sum[k];
}

void DR_ISA_FN(drift_scale)(struct dr_backend *be, const struct dr_drift_scale_args *a) {
    (void)be;
    const double *sum = a->sums, columns = (double)a->b * (double)a->m;
    const double count = columns * (double)a->n, mean = sum[1] / count;
    a->out[0] = (real)((sum[0] / count) / (sum[3] / columns));
    a->out[1] = (real)mean;
    a->out[2] = (real)(sum[2] / count - mean * mean);
}

// ---- the field
// -----------------------------------------------------------------------------------

static double row_sumsq(const real *x, int64_t n) {
    double total = 0;
    for (int64_t i = 0; i < n; i += 512)
        total += (double)dr_dot(x + i, x + i, DR_MIN(512, n - i));
    return total;
}

// sum_j c_j y_j, the elements of y `stride` apart; y NULL: ones.
static double strided_dot(const real *c, const real *y, int64_t m, int64_t stride) {
    double acc[8] = {0};
    if (y)
        BY_EIGHT(m, acc[l] += (double)c[j + l] * (double)y[(j + l) * stride]);
    else
        BY_EIGHT(m, acc[l] += (double)c[j + l]);
    return ((acc[0] + acc[4]) + (acc[1] + acc[5])) + ((acc[2] + acc[6]) + (acc[3] + acc[7]));
}

#define WIDE_ROWS 6 // rows of a register block: 24 accumulators of 32 registers, or 12 of 16
#if VBYTES == 64
#define WIDTH 4 // its vectors
#else
#define WIDTH 2
#endif

// `width` vectors of columns from c on.
DR_INLINE void combine_tile(real *const v[WIDE_ROWS], const real *const coef[WIDE_ROWS],
                            const real rowsum[WIDE_ROWS], const real *const x[WIDE_ROWS],
                            const real *y, real divisor, int64_t m, int64_t s, int64_t c,
                            const int width) {
    vreal a[WIDE_ROWS][WIDTH];
#pragma GCC unroll 8
    for (int r = 0; r < WIDE_ROWS; r++)
#pragma GCC unroll 4
        for (int q = 0; q < width; q++)
            a[r][q] = vset(0);
    for (int64_t j = 0; j < m; j++) {
        vreal t[WIDTH];
#pragma GCC unroll 4
        for (int q = 0; q < width; q++)
            t[q] = vload(y + j * s + c + q * VL);
#pragma GCC unroll 8
        for (int r = 0; r < WIDE_ROWS; r++) {
            const vreal k = vset(coef[r][j]);
#pragma GCC unroll 4
            for (int q = 0; q < width; q++)
                a[r][q] = vfma(k, t[q], a[r][q]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < WIDE_ROWS; r++)
#pragma GCC unroll 4
        for (int q = 0; q < width; q++) {
            const int64_t at = c + q * VL;
            vstore(v[r] + at, (a[r][q] - vload(x[r] + at) * rowsum[r]) / divisor);
        }
}

// v rows = (coef y - rowsum(coef) x) / divisor. The last tile overlaps its neighbour where s is not
// a multiple of a vector: the shared columns are computed twice, to the same bits.
static void combine_rows(real *vout, const real *cin, const real *xin, const real *y, int rows,
                         real divisor, int64_t m, int64_t s) {
    real *v[WIDE_ROWS], rowsum[WIDE_ROWS];
    const real *coef[WIDE_ROWS], *x[WIDE_ROWS];
    for (int r = 0; r < WIDE_ROWS; r++) { // spare rows repeat the last one
        int64_t q = DR_MIN(r, rows - 1);
        v[r] = vout + q * s, coef[r] = cin + q * m, x[r] = xin + q * s;
        rowsum[r] = (real)strided_dot(coef[r], NULL, m, 0);
    }
    int64_t c = 0;
    for (; c + WIDTH * VL <= s; c += WIDTH * VL)
        combine_tile(v, coef, rowsum, x, y, divisor, m, s, c, WIDTH);
    for (; c < s; c += VL)
        combine_tile(v, coef, rowsum, x, y, divisor, m, s, DR_MIN(c, s - VL), 1);
}

static void combine_rows_short(real *v, const real *coef, const real *x, const real *y, int rows,
                               real divisor, int64_t m, int64_t s) {
    for (int r = 0; r < rows; r++, v += s, coef += m, x += s) {
        double rowsum = strided_dot(coef, NULL, m, 0);
        for (int64_t k = 0; k < s; k++)
            v[k] =
                (real)((strided_dot(coef, y + k, m, s) - rowsum * (double)x[k]) / (double)divisor);
    }
}

void DR_ISA_FN(drift_combine)(struct dr_backend *be, const struct dr_drift_combine_args *a) {
    int64_t blocks = (a->n + WIDE_ROWS - 1) / WIDE_ROWS;
    double *part = dr_cpu_scratch(be, DR_WS_OP, (size_t)(a->b * blocks) * sizeof *part);
    if (!part)
        return;
    real divisor = feature_divisor(a->scale, a->s);
    DR_PARALLEL_FOR(be, a->b * a->n * a->m * a->s > DR_PAYS)
    for (int64_t t = 0; t < a->b * blocks; t++) {
        int64_t b = t / blocks, i = t % blocks * WIDE_ROWS, row = b * a->n + i;
        int rows = (int)DR_MIN(WIDE_ROWS, a->n - i);
        real *v = a->v + row * a->s;
        (a->s < SHORT ? combine_rows_short
                      : combine_rows)(v, a->coef + row * a->m, a->x + row * a->s,
                                      a->y + b * a->m * a->s, rows, divisor, a->m, a->s);
        part[t] = row_sumsq(v, rows * a->s);
    }
    double sum = 0;
    for (int64_t t = 0; t < a->b * blocks; t++) {
        sum += part[t];
        if (a->per_group && t % blocks == blocks - 1) {
            a->sumsq[t / blocks] = sum;
            sum = 0;
        }
    }
    if (!a->per_group)
        a->sumsq[0] = sum;
}

void DR_ISA_FN(drift_mean)(struct dr_backend *be, const struct dr_drift_mean_args *a) {
    (void)be;
    for (int64_t i = 0; i < a->n; i++)
        a->out[i] = (real)(a->sums[i] / a->count);
}

static void accumulate_row(real *restrict total, const real *restrict v, real inv, int64_t n,
                           bool acc) {
    if (acc)
        for (int64_t i = 0; i < n; i++)
            total[i] += v[i] * inv;
    else
        for (int64_t i = 0; i < n; i++)
            total[i] = v[i] * inv;
}

void DR_ISA_FN(drift_accumulate)(struct dr_backend *be, const struct dr_drift_accumulate_args *a) {
    int64_t rows = a->b * a->n;
    DR_PARALLEL_FOR(be, rows * a->s > DR_PAYS)
    for (int64_t r = 0; r < rows; r++) {
        double v2 = (double)a->v2[a->per_group ? r / a->n : 0];
        double rms = a->l2 ? sqrt(v2 + 1e-8) + 1e-8 : sqrt(v2 < 1e-8 ? 1e-8 : v2);
        accumulate_row(a->total + r * a->s, a->v + r * a->s, (real)(1 / rms), a->s, a->acc);
    }
}

// ---- loss and gradient
// ---------------------------------------------------------------------------

// What brings a drift of this mean square down to `most`, 0: as long as it likes. A NaN stays one.
static double shortening(double mean_square, double most) {
    return most > 0 && mean_square > most * most ? most / sqrt(mean_square) : 1;
}

void DR_ISA_FN(drift_grad)(struct dr_backend *be, const struct dr_drift_grad_args *a) {
    int64_t rows = a->b * a->n;
    double *part = dr_cpu_scratch(be, DR_WS_OP, (size_t)rows * sizeof *part);
    if (!part)
        return;
    double count = (double)a->groups * (double)a->n * (double)a->s;
    double f = -2 * (double)a->weight / count / (double)feature_divisor(a->scale, a->s);
    DR_PARALLEL_FOR(be, rows * a->s > DR_PAYS)
    for (int64_t r = 0; r < rows; r++) {
        const double square = row_sumsq(a->total + r * a->s, a->s);
        const double k = shortening(square / (double)a->s, (double)a->max_rms);
        part[r] = square * (k * k);
        accumulate_row(a->dx + r * a->s, a->total + r * a->s, (real)(f * k), a->s, false);
    }
    double sum = 0;
    for (int64_t r = 0; r < rows; r++)
        sum += part[r];
    a->loss[0] += (real)((double)a->weight * sum / count);
}
