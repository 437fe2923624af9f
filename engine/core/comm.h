// The processes that train one model together, each with its own device and its share of a step's
// classes. The seam to a library of collectives; nothing below the trainer knows more than this.
//
// A pointer to none (NULL) is a run of one process. Every process makes the same calls in the same
// order, on the thread of its backend; they are ordered with its ops and may be recorded.
#pragma once

#include "engine/core/backend.h"

enum dr_comm_type { DR_COMM_REAL, DR_COMM_DOUBLE };

struct dr_comm {
    int rank, size; // this process, 0 .. size - 1
    void *impl;
    // x[n] on the device becomes its sum over the processes, the same bytes on each of them.
    void (*allreduce_sum)(struct dr_comm *, struct dr_backend *, void *x, int64_t n,
                          enum dr_comm_type type);
    // x on the device becomes that of rank 0.
    void (*broadcast)(struct dr_comm *, struct dr_backend *, void *x, size_t bytes);
};

static inline int dr_rank(const struct dr_comm *c) {
    return c ? c->rank : 0;
}
static inline int dr_ranks(const struct dr_comm *c) {
    return c ? c->size : 1;
}
// Nothing where there is one process.
static inline void dr_sum_reals(struct dr_ctx *cx, real *x, int64_t n) {
    if (dr_ranks(cx->comm) > 1)
        cx->comm->allreduce_sum(cx->comm, cx->be, x, n, DR_COMM_REAL);
}
static inline void dr_sum_doubles(struct dr_ctx *cx, double *x, int64_t n) {
    if (dr_ranks(cx->comm) > 1)
        cx->comm->allreduce_sum(cx->comm, cx->be, x, n, DR_COMM_DOUBLE);
}
