// Fuzz target: reads the input as a pickle and touches all that it then holds, to a depth, as
// containers may hold each other.
#include "tests/fuzz/memfile.h"

#include "engine/data/pickle.h"

static void walk(const struct dr_pickle *k, const struct dr_pk *v, int depth) {
    if (v->type == DR_PK_BYTES || v->type == DR_PK_ARRAY)
        touch(v->p, v->n);
    if (v->type == DR_PK_ARRAY && v->p) {
        uint64_t n = (uint64_t)v->width;
        for (int i = 0; i < v->ndim; i++)
            n *= (uint64_t)v->dim[i];
        if (n != v->n)
            abort();
    }
    for (int32_t i = 0; i < v->items && i < 16 && depth < 4; i++)
        walk(k, dr_pk_at(k, v, i), depth + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct dr_pickle *k;
    struct dr_err err = {0};
    if (dr_pickle_read(data, size, &k, &err)) {
        if (!err.msg[0] || k)
            abort(); // every refusal has a sentence
        return 0;
    }
    walk(k, dr_pickle_root(k), 0);
    const struct dr_pk *d = dr_pk_get(k, dr_pickle_root(k), "data");
    if (d)
        walk(k, d, 0);
    dr_pickle_free(k);
    return 0;
}
