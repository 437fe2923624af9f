// Bump arenas over one block of backend memory.
//
// A step is first run against the null backend with measuring arenas (base NULL); the peak is
// then allocated, once. After that allocation is an addition and reset is a store. Not
// thread-safe; an arena belongs to the thread that runs its backend.
#pragma once

#include "engine/core/types.h"

#define DR_ALIGN 64

struct dr_arena {
    char *base;   // NULL while measuring: dr_alloc then returns fake, never dereferenced addresses
    size_t size;  // bytes at base; ignored while measuring
    size_t used;  // bytes handed out
    size_t peak;  // high-water mark since init
    bool measure; // true: count only
};

void dr_arena_measure(struct dr_arena *a);                       // start measuring from empty
void dr_arena_init(struct dr_arena *a, void *base, size_t size); // real memory; not owned
// 64-byte aligned. Running out is a bug of ours (the dry run needed less): prints the sizes and
// aborts.
void *dr_alloc(struct dr_arena *a, size_t bytes);
static inline size_t dr_mark(const struct dr_arena *a) {
    return a->used;
}
static inline void dr_release(struct dr_arena *a, size_t mark) {
    a->used = mark;
}
