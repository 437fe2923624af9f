// Packed copies of weights that several products share. Used by gemm_onednn.c.
//
// A copy belongs to an operand B (address, shape, how it is packed) and to a version of its values,
// which the owner of the weights draws anew each time it writes them (dr_next_version). A product
// of another version packs again into the same memory, and a copy has no version while it is being
// written, so an old copy is never taken for a new one. Copies that nobody asked for in a while
// make room when a new one comes; what does not fit is packed for each product, as if it had no
// version.
#include "engine/cpu/gemm.h"

#include <stdlib.h>

enum {
    COPIES = 512,
    MOST = 128 << 20, // bytes of all copies
    IDLE = 1 << 13,   // products without use after which a copy may go
};

struct dr_gemm_copy {
    struct dr_gemm_operand of;
    uint64_t version; // 0: not written yet
    uint64_t used;
    size_t bytes;
    void *data;
};

struct dr_gemm_kept {
    uint64_t clock; // products so far
    size_t bytes;
    int count;
    struct dr_gemm_copy copy[COPIES];
};

struct dr_gemm_kept *dr_gemm_kept_new(void) {
    return calloc(1, sizeof(struct dr_gemm_kept));
}

static void drop(struct dr_gemm_kept *k, int i) {
    k->bytes -= k->copy[i].bytes;
    free(k->copy[i].data);
    k->copy[i] = k->copy[--k->count];
}

void dr_gemm_kept_free(struct dr_gemm_kept *k) {
    while (k && k->count)
        drop(k, k->count - 1);
    free(k);
}

size_t dr_gemm_kept_bytes(const struct dr_gemm_kept *k) {
    return k->bytes;
}

static struct dr_gemm_copy *add(struct dr_gemm_kept *k, const struct dr_gemm_operand *of,
                                size_t bytes) {
    for (int i = k->count - 1; i >= 0; i--)
        if (k->clock - k->copy[i].used > IDLE)
            drop(k, i);
    if (k->count == COPIES || bytes > MOST - k->bytes)
        return NULL;
    void *data = aligned_alloc(DR_ALIGN, bytes);
    if (!data)
        return NULL;
    struct dr_gemm_copy *c = &k->copy[k->count++];
    *c = (struct dr_gemm_copy){.of = *of, .bytes = bytes, .data = data};
    k->bytes += bytes;
    return c;
}

void *dr_gemm_kept_find(struct dr_gemm_kept *k, const struct dr_gemm_operand *of, uint64_t version,
                        size_t bytes, struct dr_gemm_copy **out, bool *ready) {
    struct dr_gemm_copy *c = NULL;
    k->clock++;
    for (int i = 0; i < k->count && !c; i++)
        if (k->copy[i].of.b == of->b && !memcmp(&k->copy[i].of, of, sizeof *of))
            c = &k->copy[i];
    if (!c)
        c = add(k, of, bytes);
    *out = c;
    *ready = c && c->version == version;
    if (!c)
        return NULL;
    c->used = k->clock;
    if (!*ready)
        c->version = 0;
    return c->data;
}

void dr_gemm_kept_written(struct dr_gemm_copy *c, uint64_t version) {
    c->version = version;
}
