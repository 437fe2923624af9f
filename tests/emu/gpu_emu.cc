// The emulator behind gpu_emu.h: the threads of a block as fibers, barriers and shuffles.
#include "gpu_emu.h"

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

struct gift { // what a lane shows to its warp
    uint32_t word[6];
};

struct fiber {
    context c;
    state st;
    dim3 thread;
    unsigned shuffles; // so far; its parity picks the buffer
    struct gift value[2];
    void *fake; // AddressSanitizer's
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
    alignas(64) unsigned char shared[EMU_SHARED_LIMIT];
    ~machine() { free(stacks); }
};
thread_local machine m;
} // namespace

static void die(const char *what) {
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

// Shows `mine` to the warp and returns what its lanes showed. Two buffers: a lane that is ahead by
// one call must not overwrite what the others still read.
static const struct gift *give(const struct gift &mine, unsigned lane, unsigned *buffer) {
    const unsigned me = m.current, other = me / 32 * 32 + lane;
    *buffer = m.f[me].shuffles++ & 1;
    m.f[me].value[*buffer] = mine;
    leave(AT_WARP);
    return lane < 32 && other < m.threads ? &m.f[other].value[*buffer] : NULL;
}

uint64_t emu_exchange(uint64_t mine, unsigned lane) {
    struct gift g = {};
    unsigned buffer;
    memcpy(&g, &mine, sizeof mine);
    const struct gift *got = give(g, lane, &buffer);
    if (got)
        memcpy(&mine, got, sizeof mine);
    return mine;
}

static float half_of(uint32_t pair, unsigned k) {
    const uint32_t u = k ? pair & 0xffff0000u : pair << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

void emu_mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    struct gift g = {{a[0], a[1], a[2], a[3], b[0], b[1]}};
    unsigned buffer;
    if (!give(g, 31, &buffer))
        die("a matrix product needs whole warps");
    const fiber *warp = &m.f[m.current / 32 * 32];
    const unsigned row = emu_lane() / 4, col = emu_lane() % 4 * 2;
    for (unsigned e = 0; e < 4; e++) // rows row, row + 8; columns col, col + 1
        for (unsigned k = 0; k < 16; k++) {
            const uint32_t *x = warp[row * 4 + k % 8 / 2].value[buffer].word;
            const uint32_t *y = warp[(col + e % 2) * 4 + k % 8 / 2].value[buffer].word + 4;
            d[e] += half_of(x[k / 8 * 2 + e / 2], k % 2) * half_of(y[k / 8], k % 2);
        }
}

void emu_ldmatrix(uint32_t (&r)[4], const void *row, bool trans) {
    struct gift g = {};
    unsigned buffer;
    memcpy(&g, &row, sizeof row);
    if ((uintptr_t)row % 16)
        die("a matrix row is not aligned to 16 bytes");
    if (!give(g, 31, &buffer))
        die("a matrix load needs whole warps");
    const fiber *warp = &m.f[m.current / 32 * 32];
    const unsigned i = emu_lane() / 4, j = emu_lane() % 4 * 2;
    for (unsigned k = 0; k < 4; k++) {
        uint32_t half[2];
        for (unsigned e = 0; e < 2; e++) {
            const uint16_t *p;
            memcpy(&p, &warp[8 * k + (trans ? j + e : i)].value[buffer], sizeof p);
            half[e] = p[trans ? i : j + e];
        }
        r[k] = half[0] | half[1] << 16;
    }
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
            die("lanes of a warp parted at a shuffle or __syncwarp");
        for (unsigned k = 0; k < count; k++)
            m.f[first + k].st = READY;
    }
}

static void run_block(size_t shared) {
    memset(m.shared, 0xff, shared);
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
            die("some threads of a block have ended, others wait at __syncthreads");
        for (unsigned i = 0; left && i < m.threads; i++)
            m.f[i].st = READY;
    }
}

void emu_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &kernel) {
    if (!m.stacks)
        m.stacks = (char *)malloc((size_t)STACK * EMU_MAX_THREADS);
    if (!m.stacks)
        die("no memory for stacks");
    gridDim = grid;
    blockDim = block;
    m.kernel = &kernel;
    m.threads = block.x * block.y * block.z;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = dim3(x, y, z);
                run_block(shared);
            }
}
