// Losses against a target that is there: masked squared error, cross-entropy; and masking itself.
// Called through the op table by train/. Formulas are at the argument structs in ops.h.
//
// A sample (squared error) or a row (cross-entropy) is one thread's, its sums in a fixed order.
#include "engine/cpu/fn.h"

// ---- masks
// ----------------------------------------------------------------------------------------

// The values of a line of pixels that share one value of the mask: from `at` on, `len` of them.
struct run {
    int64_t at, len;
    real mask;
};

struct masked {
    const real *mask; // NULL: ones
    int64_t h, w, c, p;
};

static int64_t runs_of(const struct masked *m) {
    return m->mask ? (m->w + m->p - 1) / m->p : 1;
}

static struct run run_at(const struct masked *m, int64_t line, int64_t i) {
    if (!m->mask)
        return (struct run){.at = line * m->w * m->c, .len = m->w * m->c, .mask = 1};
    const int64_t wide = runs_of(m), high = (m->h + m->p - 1) / m->p;
    const int64_t n = line / m->h, y = line % m->h / m->p, x = i * m->p;
    return (struct run){.at = (line * m->w + x) * m->c,
                        .len = DR_MIN(m->p, m->w - x) * m->c,
                        .mask = m->mask[(n * high + y) * wide + i]};
}

DR_INLINE void mask_as(const struct dr_mask_apply_args *a, enum dr_dtype t, struct run r) {
    const vreal by = vset(a->invert ? 1 - r.mask : r.mask);
#define STEP(i, n) vst(a->y, t, r.at + (i), n, vld(a->x, t, r.at + (i), n) * by)
    V_LOOP(r.len, STEP);
#undef STEP
}

static void mask_line(const struct dr_mask_apply_args *a, const struct masked *m, int64_t line) {
    for (int64_t i = 0; i < runs_of(m); i++)
        FOR_DTYPE(a->t, T, mask_as(a, T, run_at(m, line, i)));
}

void DR_ISA_FN(mask_apply)(struct dr_backend *be, const struct dr_mask_apply_args *a) {
    const struct masked m = {.mask = a->mask, .h = a->h, .w = a->w, .c = a->c, .p = a->p};
    DR_PARALLEL_FOR(be, a->b * a->h * a->w * a->c >= DR_PAYS)
    for (int64_t line = 0; line < a->b * a->h; line++)
        mask_line(a, &m, line);
}

// Sum of (x - y)^2 of the run; dx = slope (x - y).
DR_INLINE real error_as(const struct dr_masked_mse_args *a, enum dr_dtype xt, enum dr_dtype yt,
                        struct run r, real slope) {
    vreal sum = {0};
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        const vreal d = vld(a->x, xt, r.at + (i), n) - vld(a->y, yt, r.at + (i), n);               \
        sum = vfma(d, d, sum);                                                                     \
        if (a->dx)                                                                                 \
            vst(a->dx, xt, r.at + (i), n, d * slope);                                              \
    } while (0)
    V_LOOP(r.len, STEP);
#undef STEP
    return vsum(sum);
}

static real error_of(const struct dr_masked_mse_args *a, struct run r, real slope) {
    FOR_DTYPE(a->xt, XT, FOR_DTYPE(a->yt, YT, return error_as(a, XT, YT, r, slope)));
}

static void masked_mse_sample(const struct dr_masked_mse_args *a, const struct masked *m,
                              int64_t n) {
    double sum = 0, count = 0;
    for (int64_t line = n * a->h; line < (n + 1) * a->h; line++)
        for (int64_t i = 0; i < runs_of(m); i++) {
            const struct run r = run_at(m, line, i);
            count += (double)r.mask * (double)r.len;
        }
    count = DR_MAX(count, 1.0);
    for (int64_t line = n * a->h; line < (n + 1) * a->h; line++)
        for (int64_t i = 0; i < runs_of(m); i++) {
            const struct run r = run_at(m, line, i);
            const double slope = 2 * (double)a->scale * (double)r.mask / count;
            sum += (double)r.mask * (double)error_of(a, r, (real)slope);
        }
    a->loss[n] = (real)(sum / count);
}

void DR_ISA_FN(masked_mse)(struct dr_backend *be, const struct dr_masked_mse_args *a) {
    const struct masked m = {.mask = a->mask, .h = a->h, .w = a->w, .c = a->c, .p = a->p};
    DR_PARALLEL_FOR(be, a->b * a->h * a->w * a->c >= DR_PAYS)
    for (int64_t n = 0; n < a->b; n++)
        masked_mse_sample(a, &m, n);
}

// ---- cross-entropy
// --------------------------------------------------------------------------------

static void leave_row(const struct dr_softmax_xent_args *a, int64_t row) {
    if (a->loss)
        a->loss[row] = 0;
    if (a->prob)
        a->prob[row] = 0;
    if (a->correct)
        a->correct[row] = 0;
    for (int64_t i = 0; a->dlogits && i < a->n; i++)
        dr_put(a->dlogits, a->dt, row * a->n + i, 0);
}

DR_INLINE bool is_top(const struct dr_softmax_xent_args *a, enum dr_dtype t, int64_t row,
                      int64_t label) {
    const real mine = dr_get(a->logits, t, row * a->n + label);
    bool top = true;
    for (int64_t i = 0; i < a->n; i++) {
        const real other = dr_get(a->logits, t, row * a->n + i);
        top &= i < label ? mine > other : mine >= other;
    }
    return top;
}

DR_INLINE void xent_as(const struct dr_softmax_xent_args *a, enum dr_dtype lt, enum dr_dtype dt,
                       int64_t row, int64_t label) {
    const int64_t at = row * a->n;
    vreal most = vset(-INFINITY), sum = {0}, all = {0};
#define STEP(i, n) most = vmax(most, vkeep(vld(a->logits, lt, at + (i), n), n, -INFINITY))
    V_LOOP(a->n, STEP);
#undef STEP
    const real top = vtop(most);
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        const vreal v = vkeep(vld(a->logits, lt, at + (i), n) - top, n, 0);                        \
        sum += vkeep(vexp(v), n, 0);                                                               \
        all += v;                                                                                  \
    } while (0)
    V_LOOP(a->n, STEP);
#undef STEP
    const real total = vsum(sum), mine = dr_get(a->logits, lt, at + label) - top;
    const real on = 1 - a->smoothing, off = a->smoothing / (real)a->n, inv = 1 / total;
    if (a->loss)
        a->loss[row] = (real)(log((double)total) - on * mine - off * vsum(all));
    if (a->prob)
        a->prob[row] = (real)exp((double)mine) * inv;
    if (a->correct)
        a->correct[row] = is_top(a, lt, row, label);
    if (!a->dlogits)
        return;
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        vreal p = vexp(vld(a->logits, lt, at + (i), n) - top) * inv - off;                         \
        if (label >= (i) && label < (i) + (n))                                                     \
            p[label - (i)] -= on;                                                                  \
        vst(a->dlogits, dt, at + (i), n, p * a->scale);                                            \
    } while (0)
    V_LOOP(a->n, STEP);
#undef STEP
}

static void xent_row(const struct dr_softmax_xent_args *a, int64_t row) {
    const int64_t label = a->labels[row];
    if (label < 0)
        leave_row(a, row);
    else
        FOR_DTYPE(a->lt, LT, FOR_DTYPE(a->dt, DT, xent_as(a, LT, DT, row, label)));
}

void DR_ISA_FN(softmax_xent)(struct dr_backend *be, const struct dr_softmax_xent_args *a) {
    DR_PARALLEL_FOR(be, a->m * a->n >= DR_PAYS / 4)
    for (int64_t row = 0; row < a->m; row++)
        xent_row(a, row);
}
