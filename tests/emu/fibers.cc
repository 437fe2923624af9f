// A block by fibers: one host thread runs them warp by warp, in an order that is the caller's
// choice.
#include "machine.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define ASAN(x) x
#else
#define ASAN(x)
#endif

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

// ---- switching stacks
// ------------------------------------------------------------------------------

#if defined(__x86_64__) // callee-saved registers and the stack pointer; ucontext would cost two
                        // system calls
typedef void *context;
extern "C" void emu_switch(context *from, context to);
asm(".text\n"
    ".type emu_switch,@function\n"
    "emu_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size emu_switch, .-emu_switch\n");
static void prepare(context *c, char *stack, size_t size, void (*entry)()) {
    uintptr_t top = ((uintptr_t)stack + size) & ~(uintptr_t)15;
    void **p = (void **)top - 2;
    *p = (void *)entry;
    for (int i = 0; i < 6; i++)
        *--p = NULL;
    *c = p;
}
static void change(context *from, context *to) {
    emu_switch(from, *to);
}
#else
typedef ucontext_t context;
static void prepare(context *c, char *stack, size_t size, void (*entry)()) {
    getcontext(c);
    c->uc_stack.ss_sp = stack;
    c->uc_stack.ss_size = size;
    c->uc_link = NULL;
    makecontext(c, entry, 0);
}
static void change(context *from, context *to) {
    swapcontext(from, to);
}
#endif

// ---- fibers
// ----------------------------------------------------------------------------------------

enum state { READY, AT_WARP, AT_BLOCK, DONE };

struct fiber {
    context c;
    state st;
    dim3 thread;
    unsigned shuffles; // so far; its parity picks the buffer
    void *fake;        // AddressSanitizer's
};

enum { STACK = 128 * 1024 };

namespace {
struct machine {
    fiber f[EMU_MAX_THREADS];
    char *stacks;
    context scheduler;
    void *scheduler_fake;
    const void *scheduler_stack;
    size_t scheduler_size;
    const std::function<void()> *kernel;
    unsigned current, threads;
    bool reverse;
    struct gift shown[2][EMU_MAX_THREADS];
    alignas(64) unsigned char shared[EMU_SHARED_LIMIT];
    ~machine() { free(stacks); }
};
thread_local machine m;
} // namespace

void emu_die(const char *what) {
    fprintf(stderr, "emulator: %s: block (%u,%u,%u), thread (%u,%u,%u)\n", what, blockIdx.x,
            blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    abort();
}

static void leave(state st) {
    fiber *f = &m.f[m.current];
    f->st = st;
    ASAN(__sanitizer_start_switch_fiber(st == DONE ? NULL : &f->fake, m.scheduler_stack,
                                        m.scheduler_size));
    change(&f->c, &m.scheduler);
    ASAN(__sanitizer_finish_switch_fiber(f->fake, &m.scheduler_stack, &m.scheduler_size));
}

static void entry() {
    ASAN(__sanitizer_finish_switch_fiber(NULL, &m.scheduler_stack, &m.scheduler_size));
    (*m.kernel)();
    leave(DONE);
}

static void resume(unsigned i) {
    m.current = i;
    threadIdx = m.f[i].thread;
    ASAN(__sanitizer_start_switch_fiber(&m.scheduler_fake, m.stacks + (size_t)i * STACK, STACK));
    change(&m.scheduler, &m.f[i].c);
    ASAN(__sanitizer_finish_switch_fiber(m.scheduler_fake, NULL, NULL));
}

void emu_block_barrier() {
    leave(AT_BLOCK);
}
void emu_warp_barrier() {
    leave(AT_WARP);
}
void *emu_shared() {
    return m.shared;
}
unsigned emu_lane() {
    return m.current % 32;
}
void emu_reverse(bool on) {
    m.reverse = on;
}

const struct gift *emu_give(const struct gift &mine, unsigned *lanes) {
    const unsigned first = m.current / 32 * 32, buffer = m.f[m.current].shuffles++ & 1;
    m.shown[buffer][m.current] = mine;
    leave(AT_WARP);
    *lanes = m.threads - first < 32 ? m.threads - first : 32;
    return m.shown[buffer] + first;
}

// Runs a warp until all its lanes wait at the block's barrier or have ended.
static void run_warp(unsigned first, unsigned count) {
    for (;;) {
        unsigned waiting = 0;
        for (unsigned k = 0; k < count; k++) {
            const unsigned i = first + (m.reverse ? count - 1 - k : k);
            if (m.f[i].st == READY)
                resume(i);
            waiting += m.f[i].st == AT_WARP;
        }
        if (!waiting)
            return;
        if (waiting != count)
            emu_die("lanes of a warp parted at a shuffle or __syncwarp");
        for (unsigned k = 0; k < count; k++)
            m.f[first + k].st = READY;
    }
}

void emu_run_block(size_t shared, const std::function<void()> &kernel) {
    if (!m.stacks)
        m.stacks = (char *)malloc((size_t)STACK * EMU_MAX_THREADS);
    if (!m.stacks)
        emu_die("no memory for stacks");
    m.kernel = &kernel;
    m.threads = blockDim.x * blockDim.y * blockDim.z;
    emu_poison();
    for (unsigned i = 0; i < m.threads; i++) {
        fiber *f = &m.f[i];
        f->st = READY;
        f->shuffles = 0;
        f->thread = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
        prepare(&f->c, m.stacks + (size_t)i * STACK, STACK, entry);
    }
    const unsigned warps = (m.threads + 31) / 32;
    for (unsigned left = m.threads; left;) {
        for (unsigned k = 0; k < warps; k++) {
            const unsigned first = 32 * (m.reverse ? warps - 1 - k : k);
            run_warp(first, m.threads - first < 32 ? m.threads - first : 32);
        }
        left = 0;
        for (unsigned i = 0; i < m.threads; i++)
            left += m.f[i].st == AT_BLOCK;
        if (left && left != m.threads)
            emu_die("some threads of a block have ended, others wait at __syncthreads");
        for (unsigned i = 0; left && i < m.threads; i++)
            m.f[i].st = READY;
    }
    emu_check_past(shared);
}
