// The CPU backend's instance: memory, copies, workspace, sticky errors, and the table of its ops.
// Called through dr_backend_open by whoever owns a thread that computes (trainer, batcher, tests).
#include "engine/cpu/backend.h"

#include "engine/cpu/cpu.h"

#include "driftd_config.h"
#include "engine/core/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB 1048576.0
enum { HUGE_PAGE = 2 << 20, LARGE_BYTES = 16 << 20 };
enum { CHECKED_BYTES = 1 << 20 }; // smaller pieces are not worth a look at the limit

// Large blocks lie on huge pages where the system has them: the weights and activations of a step
// are many more pages than a TLB holds.
static void *aligned_bytes(size_t bytes) {
    const size_t align = bytes >= LARGE_BYTES ? HUGE_PAGE : DR_ALIGN;
    size_t rounded = (bytes + align - 1) / align * align;
    if (rounded < bytes)
        return NULL;
    void *p = aligned_alloc(align, DR_MAX(rounded, align));
    if (p && align == HUGE_PAGE)
        madvise(p, rounded, MADV_HUGEPAGE); // without it the pages are small
    return p;
}

static void cpu_enter(struct dr_backend *be) {
    dr_workers_use(be->threads);
}

static size_t cpu_mem_left(struct dr_backend *be) {
    (void)be;
    return dr_machine_room();
}

static int cpu_alloc(struct dr_backend *be, size_t bytes, void **out, struct dr_err *err) {
    const size_t left = bytes > CHECKED_BYTES ? cpu_mem_left(be) : SIZE_MAX;
    *out = NULL;
    if (bytes > left && !dr_machine()->memory_limit)
        return dr_fail(err, DR_ENOMEM,
                       "cannot allocate %.1f MiB of memory: this machine has %.1f MiB",
                       (double)bytes / MIB, (double)left / MIB);
    if (bytes > left)
        return dr_fail(err, DR_ENOMEM,
                       "cannot allocate %.1f MiB of memory: the limit of %.1f MiB (of the control "
                       "group or `ulimit -v`) and this machine leave %.1f MiB",
                       (double)bytes / MIB, (double)dr_machine()->memory_limit / MIB,
                       (double)left / MIB);
    *out = aligned_bytes(bytes);
    if (!*out)
        return dr_fail(err, DR_ENOMEM, "cannot allocate %zu bytes of memory", bytes);
    memset(*out, 0, bytes);
    return 0;
}

static void cpu_mem_free(struct dr_backend *be, void *p) {
    (void)be;
    free(p);
}

static void cpu_copy(struct dr_backend *be, void *dst, const void *src, size_t bytes) {
    (void)be;
    if (bytes)
        memcpy(dst, src, bytes);
}

static void cpu_mark(struct dr_backend *be, int which) {
    (void)be;
    (void)which;
}

static void cpu_replay(struct dr_backend *be, struct dr_graph **g, void (*steps)(void *),
                       void *ctx) {
    (void)be;
    (void)g;
    steps(ctx);
}

static void cpu_graph_free(struct dr_backend *be, struct dr_graph *g) {
    (void)be;
    (void)g;
}

static int cpu_sync(struct dr_backend *be, struct dr_err *err) {
    struct dr_cpu *cpu = be->impl;
    int code = cpu->err.code;
    if (code && err)
        *err = cpu->err;
    cpu->err = (struct dr_err){0};
    return code;
}

static bool cpu_failed(const struct dr_backend *be) {
    const struct dr_cpu *cpu = be->impl;
    return cpu->err.code != 0;
}

static int cpu_wait(struct dr_backend *be, int which, struct dr_err *err) {
    (void)which;
    return cpu_sync(be, err);
}

static int cpu_hurry(struct dr_backend *be, struct dr_err *err) { // niceness is the daemon's
    (void)be;
    (void)err;
    return 0;
}

static void cpu_destroy(struct dr_backend *be) {
    struct dr_cpu *cpu = be->impl;
    dr_gemm_cache_free(cpu->gemm);
    dr_conv_cache_free(cpu->conv);
    for (int i = 0; i < DR_WS_COUNT; i++)
        free(cpu->ws[i].base);
    free(cpu);
    dr_workers_rest();
}

void *dr_cpu_scratch(struct dr_backend *be, enum dr_cpu_slot slot, size_t bytes) {
    struct dr_cpu *cpu = be->impl;
    if (bytes > cpu->ws[slot].size || !cpu->ws[slot].base) {
        size_t want = DR_MAX(bytes, (size_t)1 << 16);
        free(cpu->ws[slot].base);
        cpu->ws[slot].base = aligned_bytes(want);
        cpu->ws[slot].size = cpu->ws[slot].base ? want : 0;
        if (!cpu->ws[slot].base)
            dr_cpu_error(be, DR_ENOMEM, "workspace", "cannot allocate the memory an op needs");
    }
    return cpu->ws[slot].base;
}

void dr_cpu_error(struct dr_backend *be, int code, const char *op, const char *what) {
    struct dr_cpu *cpu = be->impl;
    if (!cpu->err.code)
        dr_fail(&cpu->err, code, "%s: %s", op, what);
}

// A fault goes to the log and into the description, which start-up, status and bench show.
static void check_products(struct dr_backend *be) {
    char why[48];
    if (dr_gemm_self_check(be, dr_cpu_gemm, why, sizeof why))
        return;
    size_t used = strlen(be->detail);
    snprintf(be->detail + used, sizeof be->detail - used, "; FAULT: %s", why);
    dr_log(DR_LOG_WARN, "device=cpu fault=\"%s\" detail=\"the same seed may give other bytes\"",
           why);
}

int dr_backend_cpu(int threads, struct dr_backend **out, struct dr_err *err) {
    *out = NULL;
    if (dr_machine_cramped())
        return dr_fail(err, DR_ENOMEM,
                       "the limit of this process's address space (`ulimit -v`) leaves no room to "
                       "compute; raise it, or limit memory by a control group");
    struct dr_cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu)
        return dr_fail(err, DR_ENOMEM, "cannot allocate a CPU backend");
    cpu->be = (struct dr_backend){
        .name = "cpu",
        .host_memory = true,
        .threads = threads > 0 ? threads : dr_machine()->threads,
        .impl = cpu,
        .enter = cpu_enter,
        .mem_alloc = cpu_alloc,
        .mem_free = cpu_mem_free,
        .mem_left = cpu_mem_left,
        .host_alloc = cpu_alloc,
        .host_free = cpu_mem_free,
        .upload = cpu_copy,
        .download = cpu_copy,
        .download_later = cpu_copy,
        .mark = cpu_mark,
        .wait = cpu_wait,
        .sync = cpu_sync,
        .failed = cpu_failed,
        .replay = cpu_replay,
        .graph_free = cpu_graph_free,
        .hurry = cpu_hurry,
        .destroy = cpu_destroy,
        .op =
            {
#define X(name, flags) .name = dr_cpu_##name,
#include "engine/ops.def"
#undef X
            },
    };
    char what[80];
    dr_gemm_describe(what, sizeof what);
    snprintf(cpu->be.detail, sizeof cpu->be.detail, "%d thread%s, %s", cpu->be.threads,
             cpu->be.threads == 1 ? "" : "s", what);
    int rc = dr_gemm_cache_new(cpu->be.threads, &cpu->gemm, err);
    if (!rc)
        rc = dr_conv_cache_new(cpu->be.threads, &cpu->conv, err);
    if (!rc)
        rc = dr_backend_check(&cpu->be, err);
    if (rc) {
        cpu_destroy(&cpu->be);
        return rc;
    }
    check_products(&cpu->be);
    *out = &cpu->be;
    return 0;
}
