// Table lookups and their gradients. Called through the op table by nn/ (class and style
// embeddings).
#include "engine/cpu/vec.h"

static void embed_row(const struct dr_embed_fwd_args *a, int64_t b) {
    real *out = a->out + b * a->d;
    if (!a->acc)
        memset(out, 0, (size_t)a->d * sizeof *out);
    for (int64_t k = 0; k < a->nk; k++) {
        const real *row = a->table + (k * a->table_rows + a->idx[b * a->nk + k]) * a->d;
        for (int64_t i = 0; i < a->d; i++)
            out[i] += row[i];
    }
}

void DR_ISA_FN(embed_fwd)(struct dr_backend *be, const struct dr_embed_fwd_args *a) {
    DR_PARALLEL_FOR(be, a->b * a->nk * a->d >= DR_PAYS)
    for (int64_t b = 0; b < a->b; b++)
        embed_row(a, b);
}

// Columns [lo, hi) of every row, samples in order: threads share out columns, so no two of them
// meet in one element.
static void embed_columns(const struct dr_embed_bwd_args *a, int64_t lo, int64_t hi) {
    for (int64_t b = 0; b < a->b; b++)
        for (int64_t k = 0; k < a->nk; k++) {
            real *row = a->dtable + (k * a->table_rows + a->idx[b * a->nk + k]) * a->d;
            const real *dout = a->dout + b * a->d;
            for (int64_t i = lo; i < hi; i++)
                row[i] += dout[i];
        }
}

#define COLUMNS 64

void DR_ISA_FN(embed_bwd)(struct dr_backend *be, const struct dr_embed_bwd_args *a) {
    DR_PARALLEL_FOR(be, a->b * a->nk * a->d >= DR_PAYS)
    for (int64_t lo = 0; lo < a->d; lo += COLUMNS)
        embed_columns(a, lo, DR_MIN(lo + COLUMNS, a->d));
}
