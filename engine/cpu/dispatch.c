// Picks the level of x86-64 at which the kernels of isa.h run. See isa.h.
#include "engine/cpu/isa.h"

#if DR_ISA_LEVELS
#define X(op)                                                                                      \
    void dr_cpu_##op(struct dr_backend *be, const struct dr_##op##_args *a) {                      \
        if (__builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16"))           \
            dr_cpu_##op##_v4h(be, a);                                                              \
        else if (__builtin_cpu_supports("x86-64-v4"))                                              \
            dr_cpu_##op##_v4(be, a);                                                               \
        else if (__builtin_cpu_supports("x86-64-v3"))                                              \
            dr_cpu_##op##_v3(be, a);                                                               \
        else                                                                                       \
            dr_cpu_##op##_base(be, a);                                                             \
    }
DR_ISA_OPS(X)
#undef X
#endif
