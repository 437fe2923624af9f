// Puts the kernels of one level of x86-64 into a backend's table, so that the parity suite also
// runs what older CPUs would run. See engine/cpu/isa.h and harness.h.
#include "engine/cpu/isa.h"

#include "tests/ops/harness.h"

#if DR_ISA_LEVELS
static void use_base(struct dr_backend *be) {
#define X(name) be->op.name = dr_cpu_##name##_base;
    DR_ISA_OPS(X)
#undef X
}
static void use_v3(struct dr_backend *be) {
#define X(name) be->op.name = dr_cpu_##name##_v3;
    DR_ISA_OPS(X)
#undef X
}
static void use_v4(struct dr_backend *be) {
#define X(name) be->op.name = dr_cpu_##name##_v4;
    DR_ISA_OPS(X)
#undef X
}

bool t_use_level(struct dr_backend *be, const char *level) {
    if (!strcmp(level, "v4") && __builtin_cpu_supports("x86-64-v4"))
        use_v4(be);
    else if (!strcmp(level, "v3") && __builtin_cpu_supports("x86-64-v3"))
        use_v3(be);
    else if (!strcmp(level, "base"))
        use_base(be);
    else
        return false;
    return true;
}
#else
bool t_use_level(struct dr_backend *be, const char *level) {
    (void)be;
    (void)level;
    return false;
}
#endif
