// Mean and covariance of a stream. See metrics.h.
#include "engine/eval/metrics.h"
#include "engine/eval/product.h"

#include <stdlib.h>
#include <string.h>

struct dr_moments {
    int64_t d;
    int64_t n, open; // rows in mean and m2; rows in block
    double *mean;    // [d]
    double *m2;      // [d,d] sum of (x - mean)(x - mean)', upper triangle
    double *block;   // [DR_MOMENTS_BLOCK, d]
    double *columns; // [d, DR_MOMENTS_BLOCK] of the block, centred
    double *own;     // [d] the block's mean
};

int dr_moments_create(int64_t d, struct dr_moments **out, struct dr_err *err) {
    const size_t n = (size_t)d;
    struct dr_moments *m = *out = calloc(1, sizeof *m);
    if (m) {
        m->d = d;
        m->mean = calloc(n, sizeof(double));
        m->own = calloc(n, sizeof(double));
        m->m2 = calloc(n * n, sizeof(double));
        m->block = malloc(n * DR_MOMENTS_BLOCK * sizeof(double));
        m->columns = malloc(n * DR_MOMENTS_BLOCK * sizeof(double));
        if (m->mean && m->own && m->m2 && m->block && m->columns)
            return 0;
    }
    dr_moments_free(m);
    *out = NULL;
    return dr_fail(err, DR_ENOMEM, "out of memory for the covariance of %zu features", n);
}

void dr_moments_free(struct dr_moments *m) {
    if (!m)
        return;
    free(m->mean);
    free(m->own);
    free(m->m2);
    free(m->block);
    free(m->columns);
    free(m);
}

void dr_moments_clear(struct dr_moments *m) {
    m->n = m->open = 0;
    memset(m->mean, 0, (size_t)m->d * sizeof(double));
    memset(m->m2, 0, (size_t)(m->d * m->d) * sizeof(double));
}

int64_t dr_moments_width(const struct dr_moments *m) {
    return m->d;
}

int64_t dr_moments_count(const struct dr_moments *m) {
    return m->n + m->open;
}

// Chan's update for n more rows with this mean, whose sums about it are in m2 already.
static void join(struct dr_moments *m, const double *mean, int64_t n) {
    const int64_t d = m->d;
    const double share = (double)n / (double)(m->n + n), weight = (double)m->n * share;
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t i = 0; i < d; i++) {
        const double di = (mean[i] - m->mean[i]) * weight;
        for (int64_t j = i; j < d; j++)
            m->m2[i * d + j] += di * (mean[j] - m->mean[j]);
    }
    for (int64_t i = 0; i < d; i++)
        m->mean[i] += (mean[i] - m->mean[i]) * share;
    m->n += n;
}

static void close_block(struct dr_moments *m) {
    const int64_t n = m->open, d = m->d;
    if (!n)
        return;
    for (int64_t i = 0; i < d; i++) {
        double sum = 0;
        for (int64_t r = 0; r < n; r++)
            sum += m->block[r * d + i];
        m->own[i] = sum / (double)n;
        for (int64_t r = 0; r < n; r++)
            m->columns[i * n + r] = m->block[r * d + i] - m->own[i];
    }
    eval_product(m->columns, d, m->columns, d, n, m->m2, d, true);
    join(m, m->own, n);
    m->open = 0;
}

void dr_moments_add(struct dr_moments *m, const real *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        for (int64_t k = 0; k < m->d; k++)
            m->block[m->open * m->d + k] = (double)x[i * m->d + k];
        if (++m->open == DR_MOMENTS_BLOCK)
            close_block(m);
    }
}

int dr_moments_merge(struct dr_moments *m, struct dr_moments *from, struct dr_err *err) {
    if (m->d != from->d)
        return dr_fail(err, DR_EINVAL, "features of width %lld cannot be added to those of %lld",
                       (long long)from->d, (long long)m->d);
    close_block(m);
    close_block(from);
    if (!from->n)
        return 0;
    for (int64_t i = 0; i < m->d; i++)
        for (int64_t j = i; j < m->d; j++)
            m->m2[i * m->d + j] += from->m2[i * m->d + j];
    join(m, from->mean, from->n);
    return 0;
}

int dr_moments_get(struct dr_moments *m, double *mean, double *cov, struct dr_err *err) {
    const int64_t d = m->d;
    close_block(m);
    if (m->n < 2)
        return dr_fail(err, DR_EINVAL, "a covariance needs at least 2 images, not %lld",
                       (long long)m->n);
    if (mean)
        memcpy(mean, m->mean, (size_t)d * sizeof *mean);
    for (int64_t i = 0; cov && i < d; i++)
        for (int64_t j = i; j < d; j++)
            cov[i * d + j] = cov[j * d + i] = m->m2[i * d + j] / (double)(m->n - 1);
    return 0;
}

// n, open, mean, m2, block (zero beyond the open rows).
int64_t dr_moments_state_count(const struct dr_moments *m) {
    return 2 + m->d + m->d * m->d + m->d * DR_MOMENTS_BLOCK;
}

void dr_moments_state_get(const struct dr_moments *m, double *out) {
    const size_t d = (size_t)m->d, used = d * (size_t)m->open;
    *out++ = (double)m->n;
    *out++ = (double)m->open;
    memcpy(out, m->mean, d * sizeof *out);
    memcpy(out + d, m->m2, d * d * sizeof *out);
    out += d + d * d;
    memcpy(out, m->block, used * sizeof *out);
    memset(out + used, 0, (d * DR_MOMENTS_BLOCK - used) * sizeof *out);
}

int dr_moments_state_set(struct dr_moments *m, const double *in, struct dr_err *err) {
    const size_t d = (size_t)m->d;
    if (!(in[0] >= 0 && in[0] < 0x1p53 && in[1] >= 0 && in[1] < DR_MOMENTS_BLOCK) ||
        in[0] != (double)(int64_t)in[0] || in[1] != (double)(int64_t)in[1])
        return dr_fail(err, DR_EFORMAT, "the saved counts of a covariance are out of range");
    m->n = (int64_t)in[0];
    m->open = (int64_t)in[1];
    in += 2;
    memcpy(m->mean, in, d * sizeof *in);
    memcpy(m->m2, in + d, d * d * sizeof *in);
    memcpy(m->block, in + d + d * d, d * DR_MOMENTS_BLOCK * sizeof *in);
    return 0;
}
