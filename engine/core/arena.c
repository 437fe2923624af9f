// Bump arenas. See arena.h.
#include "engine/core/arena.h"

#include <stdio.h>
#include <stdlib.h>

void dr_arena_measure(struct dr_arena *a) {
    *a = (struct dr_arena){.measure = true};
}

void dr_arena_init(struct dr_arena *a, void *base, size_t size) {
    *a = (struct dr_arena){.base = base, .size = size};
}

void *dr_alloc(struct dr_arena *a, size_t bytes) {
    size_t at = a->used;
    a->used += (bytes + DR_ALIGN - 1) / DR_ALIGN * DR_ALIGN;
    if (a->used > a->peak)
        a->peak = a->used;
    if (a->measure) // a distinct, non-NULL address that nothing dereferences
        return (void *)(uintptr_t)(DR_ALIGN + at);
    if (a->used > a->size) {
        fprintf(stderr, "arena: %zu bytes wanted at %zu of %zu\n", bytes, at, a->size);
        abort();
    }
    return a->base + at;
}
