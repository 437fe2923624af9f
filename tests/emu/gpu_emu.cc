// The emulator behind gpu_emu.h: fibers, barriers and the runtime's calls on host memory.
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

struct fiber {
    context c;
    state st;
    dim3 thread;
    unsigned shuffles; // so far; its parity picks the buffer
    uint64_t value[2];
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
    cudaError_t error; // of a launch, until cudaGetLastError
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

uint64_t emu_exchange(uint64_t mine, unsigned lane) {
    const unsigned me = m.current, buffer = m.f[me].shuffles++ & 1;
    m.f[me].value[buffer] = mine;
    leave(AT_WARP);
    const unsigned other = me / 32 * 32 + lane;
    return lane < 32 && other < m.threads ? m.f[other].value[buffer] : mine;
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

// ---- planned failures
// ------------------------------------------------------------------------------

static thread_local struct {
    const char *call;
    cudaError_t error;
    int after;
} plan;

void emu_fail(const char *call, int error, int after) {
    plan.call = call;
    plan.error = (cudaError_t)error;
    plan.after = after;
}

static cudaError_t planned(const char *call) {
    if (!plan.call || strcmp(plan.call, call) || plan.after-- > 0)
        return cudaSuccess;
    plan.call = NULL;
    return plan.error;
}

// ---- the runtime's calls
// ---------------------------------------------------------------------------

void emu_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &kernel) {
    const size_t threads = (size_t)block.x * block.y * block.z;
    const bool fits = threads && threads <= EMU_MAX_THREADS && shared <= EMU_SHARED_LIMIT &&
                      grid.x && grid.y && grid.z && grid.y < 65536 && grid.z < 65536;
    cudaError_t e = fits ? planned("launch") : cudaErrorInvalidValue;
    if (e) {
        m.error = e;
        return;
    }
    if (!m.stacks)
        m.stacks = (char *)malloc((size_t)STACK * EMU_MAX_THREADS);
    if (!m.stacks)
        die("no memory for stacks");
    gridDim = grid;
    blockDim = block;
    m.kernel = &kernel;
    m.threads = (unsigned)threads;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = dim3(x, y, z);
                run_block(shared);
            }
}

const char *cudaGetErrorString(cudaError_t e) {
    switch (e) {
    case cudaSuccess:
        return "no error";
    case cudaErrorInvalidValue:
        return "invalid argument";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInsufficientDriver:
        return "driver too old for the runtime";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorIllegalAddress:
        return "an illegal memory access was encountered";
    default:
        return "unknown error";
    }
}

cudaError_t cudaGetLastError() {
    cudaError_t e = m.error;
    m.error = cudaSuccess;
    return e;
}

cudaError_t cudaDriverGetVersion(int *version) {
    cudaError_t e = planned("driver");
    *version = e == cudaErrorInsufficientDriver ? 11040 : e ? 0 : 13000;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return planned("devices");
}
cudaError_t cudaSetDevice(int device) {
    return device ? cudaErrorInvalidDevice : cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated GPU");
    p->major = 8;
    p->totalGlobalMem = (size_t)1 << 30;
    return cudaSetDevice(device);
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device) {
    *value = attr == cudaDevAttrMultiProcessorCount ? 1 : EMU_SHARED_LIMIT;
    return cudaSetDevice(device);
}
cudaError_t cudaMemGetInfo(size_t *left, size_t *total) {
    *left = *total = (size_t)1 << 30;
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
    *s = 1;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) {
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
    return planned("sync");
}
cudaError_t cudaMalloc(void **p, size_t bytes) {
    cudaError_t e = planned("malloc");
    *p = NULL;
    if (e)
        return e;
    if (posix_memalign(p, 256, bytes ? bytes : 1))
        return cudaErrorMemoryAllocation;
    memset(*p, 0xff, bytes);
    return cudaSuccess;
}
cudaError_t cudaFree(void *p) {
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t) {
    memset(p, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
    memmove(dst, src, bytes);
    return cudaSuccess;
}
