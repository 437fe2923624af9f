// Single-producer single-consumer ring of metric rows (ring.h). Indices only grow; release/acquire
// on head and tail order the row's bytes.
#include "daemon/base/ring.h"

#include <stdlib.h>
#include <string.h>

struct dd_ring *dd_ring_new(void) {
    struct dd_ring *r = aligned_alloc(64, (sizeof *r + 63) & ~(size_t)63);
    if (r)
        memset(r, 0, sizeof *r);
    return r;
}

void dd_ring_free(struct dd_ring *r) {
    free(r);
}

bool dd_ring_push(struct dd_ring *r, const struct dd_row *row) {
    uint64_t h = atomic_load_explicit(&r->head, memory_order_relaxed);
    if (h - r->tail_seen >= DD_RING_ROWS) {
        r->tail_seen = atomic_load_explicit(&r->tail, memory_order_acquire);
        if (h - r->tail_seen >= DD_RING_ROWS) {
            atomic_fetch_add_explicit(&r->dropped, 1, memory_order_relaxed);
            return false;
        }
    }
    r->row[h & (DD_RING_ROWS - 1)] = *row;
    atomic_store_explicit(&r->head, h + 1, memory_order_release);
    return true;
}

int dd_ring_pop(struct dd_ring *r, struct dd_row *out, int max) {
    uint64_t t = atomic_load_explicit(&r->tail, memory_order_relaxed);
    uint64_t h = atomic_load_explicit(&r->head, memory_order_acquire);
    int n = 0;
    for (; t < h && n < max; t++)
        out[n++] = r->row[t & (DD_RING_ROWS - 1)];
    atomic_store_explicit(&r->tail, t, memory_order_release);
    return n;
}

uint64_t dd_ring_dropped(struct dd_ring *r) {
    return atomic_load_explicit(&r->dropped, memory_order_relaxed);
}
