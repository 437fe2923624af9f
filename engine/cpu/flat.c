// Flat ops: casts, fills, strided copies, column sums, the optimiser and the random fills.
//
// Loops over one range of elements are DR_HOT functions; the ops cut their arrays into SHARE-sized
// pieces and hand those to the threads. Sums are cut at fixed places and their parts added in
// order.
#include "engine/cpu/cpu.h"

#include "engine/core/rng.h"

enum { SHARE = 1 << 14, COLSUM_ROWS = 256, COLSUM_WIDE = 512 };

#define FOR_SHARES(be, n, at, len)                                                                 \
    DR_PARALLEL_FOR(be, (n) >= DR_PAYS)                                                            \
    for (int64_t at = 0; at < (n); at += SHARE)                                                    \
        for (int64_t len = DR_MIN((int64_t)SHARE, (n)-at); len; len = 0)

// ---- rows
// ----------------------------------------------------------------------------------------------

DR_INLINE void row_any(void *restrict d, enum dr_dtype dt, int64_t ds, const void *restrict s,
                       enum dr_dtype st, int64_t ss, int64_t n, bool acc) {
    for (int64_t i = 0; i < n; i++)
        dr_put(d, dt, i * ds, dr_get(s, st, i * ss) + (acc ? dr_get(d, dt, i * ds) : 0));
}

DR_INLINE void row_typed(void *restrict d, enum dr_dtype dt, int64_t ds, const void *restrict s,
                         enum dr_dtype st, int64_t ss, int64_t n, bool acc) {
    if (ds == 1 && ss == 1)
        row_any(d, dt, 1, s, st, 1, n, acc);
    else if (ds == 1 && ss == 0)
        row_any(d, dt, 1, s, st, 0, n, acc);
    else
        row_any(d, dt, ds, s, st, ss, n, acc);
}

// dst (+)= src for n elements, with any types and strides.
DR_HOT static void row_copy(void *d, enum dr_dtype dt, int64_t ds, const void *s, enum dr_dtype st,
                            int64_t ss, int64_t n, bool acc) {
    if (dt == DR_F32 && st == DR_F32 && acc)
        row_typed(d, DR_F32, ds, s, DR_F32, ss, n, true);
    else if (dt == st && !acc && ds == 1 && ss == 1)
        memcpy(d, s, (size_t)n * dr_sizeof(dt));
    else if (dt == DR_F32 && st == DR_F32)
        row_typed(d, DR_F32, ds, s, DR_F32, ss, n, false);
    else if (dt == DR_BF16 && st == DR_F32)
        row_typed(d, DR_BF16, ds, s, DR_F32, ss, n, acc);
    else if (dt == DR_F32)
        row_typed(d, DR_F32, ds, s, DR_BF16, ss, n, acc);
    else if (acc)
        row_typed(d, DR_BF16, ds, s, DR_BF16, ss, n, true);
    else // bits move: a bf16 NaN keeps its payload
        for (int64_t i = 0; i < n; i++)
            ((dr_bf16 *)d)[i * ds] = ((const dr_bf16 *)s)[i * ss];
}

DR_HOT static void row_axpy(real *restrict y, const void *restrict x, enum dr_dtype xt, int64_t n,
                            real alpha) {
    if (xt == DR_BF16)
        for (int64_t i = 0; i < n; i++)
            y[i] += alpha * dr_get(x, DR_BF16, i);
    else
        for (int64_t i = 0; i < n; i++)
            y[i] += alpha * ((const real *)x)[i];
}

DR_HOT static void row_fill(real *y, int64_t n, real value) {
    for (int64_t i = 0; i < n; i++)
        y[i] = value;
}

// ---- element-wise ops
// ----------------------------------------------------------------------------------

void dr_cpu_cast(struct dr_backend *be, const struct dr_cast_args *a) {
    FOR_SHARES(be, a->n, i, len)
    row_copy(dr_at_mut(a->dst, a->dt, i), a->dt, 1, dr_at(a->src, a->st, i), a->st, 1, len, false);
}

void dr_cpu_fill(struct dr_backend *be, const struct dr_fill_args *a) {
    FOR_SHARES(be, a->n, i, len)
    row_fill(a->dst + i, len, a->value);
}

void dr_cpu_axpy(struct dr_backend *be, const struct dr_axpy_args *a) {
    FOR_SHARES(be, a->n, i, len)
    row_axpy(a->y + i, dr_at(a->x, a->xt, i), a->xt, len, a->alpha);
}

DR_HOT static void row_pull(const struct dr_pair_pull_args *a, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) {
        const real v = a->d[i] <= (real)1e-4 ? 0 : a->factor * a->da[i] / a->d[i]; // keeps a NaN
        a->pull[i] = a->acc ? a->pull[i] + v : v;
    }
}

void dr_cpu_pair_pull(struct dr_backend *be, const struct dr_pair_pull_args *a) {
    FOR_SHARES(be, a->n, i, len)
    row_pull(a, i, i + len);
}

DR_HOT static void row_pixels(real *restrict y, const uint8_t *restrict p, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        y[i] = (real)p[i] / (real)127.5 - 1;
}

// Without repeating the edge: -1 is 1, n is n - 2.
static int64_t reflect(int64_t i, int64_t n) {
    i = i < 0 ? -i : i;
    return i < n ? i : 2 * (n - 1) - i;
}

// Row `from` seen as view says (ops.h).
static void gather_view(const struct dr_gather_args *a, const int32_t *view, int64_t from,
                        real *dst) {
    const int64_t plane = a->h * a->w;
    for (int64_t c = 0; c < a->count / plane; c++)
        for (int64_t y = 0; y < a->h; y++) {
            const int64_t line = from + c * plane + reflect(y + view[0], a->h) * a->w;
            for (int64_t x = 0; x < a->w; x++) {
                const int64_t at =
                    line + reflect(view[2] ? a->w - 1 - x - view[1] : x + view[1], a->w);
                *dst++ = a->pixels ? (real)a->pixels[at] / (real)127.5 - 1 : a->points[at];
            }
        }
}

void dr_cpu_gather(struct dr_backend *be, const struct dr_gather_args *a) {
    DR_PARALLEL_FOR(be, a->n * a->count >= DR_PAYS)
    for (int64_t i = 0; i < a->n; i++) {
        const int64_t from = (a->idx ? a->idx[i] : i) * a->count;
        if (a->view)
            gather_view(a, a->view + 3 * i, from, a->dst + i * a->count);
        else if (a->pixels)
            row_pixels(a->dst + i * a->count, a->pixels + from, a->count);
        else
            memcpy(a->dst + i * a->count, a->points + from, (size_t)a->count * sizeof(real));
    }
}

// Merges neighbouring dimensions that both sides walk in one stride and drops those of length 1, so
// that the last dimension is as long as it can be.
static void coalesce(struct dr_copy4_args *a) {
    int64_t dim[4] = {1, 1, 1, 1}, ds[4] = {0}, ss[4] = {0};
    int at = 4;
    for (int i = 3; i >= 0; i--) {
        if (a->dim[i] == 1)
            continue;
        if (at < 4 && a->dstride[i] == dim[at] * ds[at] && a->sstride[i] == dim[at] * ss[at]) {
            dim[at] *= a->dim[i];
            continue;
        }
        at--;
        dim[at] = a->dim[i], ds[at] = a->dstride[i], ss[at] = a->sstride[i];
    }
    memcpy(a->dim, dim, sizeof dim);
    memcpy(a->dstride, ds, sizeof ds);
    memcpy(a->sstride, ss, sizeof ss);
}

void dr_cpu_copy4(struct dr_backend *be, const struct dr_copy4_args *args) {
    struct dr_copy4_args a = *args;
    int64_t total = a.dim[0] * a.dim[1] * a.dim[2] * a.dim[3];
    if (total <= 0)
        return;
    coalesce(&a);
    int64_t rows = total / a.dim[3];
    if (rows == 1 && a.dstride[3] == 1 && (a.sstride[3] == 1 || a.sstride[3] == 0)) {
        FOR_SHARES(be, total, i, len)
        row_copy(dr_at_mut(a.dst, a.dt, i), a.dt, 1, dr_at(a.src, a.st, i * a.sstride[3]), a.st,
                 a.sstride[3], len, a.acc);
        return;
    }
    DR_PARALLEL_FOR(be, total >= DR_PAYS)
    for (int64_t r = 0; r < rows; r++) {
        int64_t k = r % a.dim[2], j = r / a.dim[2] % a.dim[1], i = r / a.dim[2] / a.dim[1];
        int64_t d = i * a.dstride[0] + j * a.dstride[1] + k * a.dstride[2];
        int64_t s = i * a.sstride[0] + j * a.sstride[1] + k * a.sstride[2];
        row_copy(dr_at_mut(a.dst, a.dt, d), a.dt, a.dstride[3], dr_at(a.src, a.st, s), a.st,
                 a.sstride[3], a.dim[3], a.acc);
    }
}

// ---- reductions
// ----------------------------------------------------------------------------------------

// out[n] = sum of `rows` rows.
DR_HOT static void add_rows(real *restrict out, const void *x, enum dr_dtype xt, int64_t rows,
                            int64_t n, int64_t ld) {
    for (int64_t j = 0; j < n; j++)
        out[j] = 0;
    for (int64_t i = 0; i < rows; i++)
        if (xt == DR_BF16)
            for (int64_t j = 0; j < n; j++)
                out[j] += dr_get(x, DR_BF16, i * ld + j);
        else
            for (int64_t j = 0; j < n; j++)
                out[j] += ((const real *)x)[i * ld + j];
}

// Narrow rows that lie end to end are summed several at a time, as if they were one, and those sums
// folded: out[n] = sum of x[m,n].
void dr_cpu_colsum(struct dr_backend *be, const struct dr_colsum_args *a) {
    const bool dense = !a->ld || a->ld == a->n;
    const int64_t fold = dense ? DR_MAX(COLSUM_WIDE / DR_MAX(a->n, 1), (int64_t)1) : 1;
    const int64_t m = a->m / fold, n = a->n * fold, ld = dense ? n : a->ld;
    const int64_t parts = (m + COLSUM_ROWS - 1) / COLSUM_ROWS;
    const int64_t wide = (n + 15) / 16 * 16; // parts on cache lines of their own
    real *part = dr_cpu_scratch(be, DR_WS_OP, (size_t)(DR_MAX(parts, 1) * wide) * sizeof *part);
    if (!part)
        return;
    DR_PARALLEL_FOR(be, m * n >= DR_PAYS)
    for (int64_t p = 0; p < parts; p++)
        add_rows(part + p * wide, dr_at(a->x, a->xt, p * COLSUM_ROWS * ld), a->xt,
                 DR_MIN((int64_t)COLSUM_ROWS, m - p * COLSUM_ROWS), n, ld);
    if (!a->acc)
        row_fill(a->out, a->n, 0);
    for (int64_t p = 0; p < parts; p++)
        for (int64_t f = 0; f < fold; f++)
            row_axpy(a->out, part + p * wide + f * a->n, DR_F32, a->n, 1);
    for (int64_t i = m * fold; i < a->m; i++) // the rest, less than one fold
        row_axpy(a->out, dr_at(a->x, a->xt, i * a->n), a->xt, a->n, 1);
}

DR_HOT static double square_sum(const real *x, int64_t n) {
    double acc[DR_LANES] = {0};
    int64_t i = 0;
    for (; i + DR_LANES <= n; i += DR_LANES)
        for (int l = 0; l < DR_LANES; l++)
            acc[l] += (double)x[i + l] * (double)x[i + l];
    for (int l = 0; i < n; i++, l++)
        acc[l] += (double)x[i] * (double)x[i];
    double sum = 0;
    for (int l = 0; l < DR_LANES; l++)
        sum += acc[l];
    return sum;
}

void dr_cpu_sumsq(struct dr_backend *be, const struct dr_sumsq_args *a) {
    int64_t parts = (a->n + DR_CHUNK - 1) / DR_CHUNK;
    double *part = dr_cpu_scratch(be, DR_WS_OP, (size_t)DR_MAX(parts, 1) * sizeof *part);
    if (!part)
        return;
    DR_PARALLEL_FOR(be, a->n >= DR_PAYS)
    for (int64_t p = 0; p < parts; p++)
        part[p] = square_sum(a->x + p * DR_CHUNK, DR_MIN((int64_t)DR_CHUNK, a->n - p * DR_CHUNK));
    double sum = a->acc ? (double)a->out[0] : 0;
    for (int64_t p = 0; p < parts; p++)
        sum += part[p];
    a->out[0] = (real)sum;
}

// ---- optimiser
// -----------------------------------------------------------------------------------------

struct adam {
    real scale, beta1, beta2, step, shrink, bias2, eps; // step: lr / bias1; shrink: 1 - lr decay
};

DR_INLINE void adam_range(real *restrict w, real *restrict m, real *restrict v,
                          const real *restrict g, dr_bf16 *restrict w16, int64_t n, struct adam h) {
    for (int64_t i = 0; i < n; i++) {
        real gi = g[i] * h.scale;
        real mi = h.beta1 * m[i] + (1 - h.beta1) * gi;
        real vi = h.beta2 * v[i] + (1 - h.beta2) * gi * gi;
        real wi = w[i] * h.shrink - h.step * mi / (dr_sqrt(vi * h.bias2) + h.eps);
        m[i] = mi;
        v[i] = vi;
        w[i] = wi;
        if (w16)
            w16[i] = dr_to_bf16((float)wi);
    }
}

DR_HOT static void adam_row(real *w, real *m, real *v, const real *g, dr_bf16 *w16, int64_t n,
                            const struct adam *h) {
    if (w16)
        adam_range(w, m, v, g, w16, n, *h);
    else
        adam_range(w, m, v, g, NULL, n, *h);
}

static bool forbids(const real *guard) {
    return guard && !(isfinite(guard[0]) && isfinite(guard[1]));
}

void dr_cpu_adamw(struct dr_backend *be, const struct dr_adamw_args *a) {
    if (forbids(a->guard))
        return;
    double norm = a->clip > 0 ? sqrt((double)a->sumsq[0]) : 0;
    double scale = a->clip > 0 ? fmin(1, a->clip / (norm + 1e-6)) : 1;
    if (isnan(norm)) // fmin would hide it
        scale = norm;
    const struct adam h = {
        .scale = (real)scale,
        .beta1 = a->beta1,
        .beta2 = a->beta2,
        .step = a->hyper[0] / a->hyper[1],
        .shrink = 1 - a->hyper[0] * a->decay,
        .bias2 = 1 / a->hyper[2],
        .eps = a->eps,
    };
    FOR_SHARES(be, a->n, i, len)
    adam_row(a->w + i, a->m + i, a->v + i, a->g + i, a->w16 ? a->w16 + i : NULL, len, &h);
}

DR_HOT static void ema_row(real *restrict e, const real *restrict w, int64_t n, real rate) {
    for (int64_t i = 0; i < n; i++)
        e[i] += rate * (w[i] - e[i]);
}

void dr_cpu_ema(struct dr_backend *be, const struct dr_ema_args *a) {
    if (forbids(a->guard))
        return;
    real rate = 1 - *a->decay;
    FOR_SHARES(be, a->n, i, len)
    ema_row(a->e + i, a->w + i, len, rate);
}

// ---- randomness
// ----------------------------------------------------------------------------------------

void dr_cpu_normals(struct dr_backend *be, const struct dr_normals_args *a) {
    DR_PARALLEL_FOR(be, a->b * a->n >= 1024) // about 20 ns a value
    for (int64_t r = 0; r < a->b; r++)
        dr_normals(a->seed[r], a->stream, a->index[r], a->out + r * a->n, a->n);
}

void dr_cpu_indices(struct dr_backend *be, const struct dr_indices_args *a) {
    DR_PARALLEL_FOR(be, a->b * a->n >= 4096)
    for (int64_t r = 0; r < a->b; r++)
        dr_indices(a->seed[r], a->stream, a->index[r], a->range, a->out + r * a->n, a->n);
}
