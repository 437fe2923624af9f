// The runtime's calls on host memory: streams that are as late as a GPU may be, graphs, failures.
//
// Nothing queued on a stream happens before somebody waits for it: kernels, copies from and to
// page-locked memory. Host code that reads a result too early, or overwrites an input too early,
// gets wrong numbers here as it would on a GPU. A capture keeps the calls, with their arguments,
// for every later launch of the graph.
#include "gpu_emu.h"

#include <unistd.h>

#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

typedef std::function<void()> call;

struct emu_graph {
    std::vector<call> calls;
    size_t kernels;
};
struct emu_stream {
    std::deque<call> todo;
    long queued, done;
    emu_graph *recording;
    bool spoiled; // the capture met a call it cannot hold
};
struct emu_event {
    emu_stream *s;
    long at;
};

// ---- failures
// ---------------------------------------------------------------------------------------

static thread_local struct {
    const char *call;
    cudaError_t error;
    int after;
} plan;
static thread_local cudaError_t last_error;
static std::atomic<int> lost; // the error that has made the device unusable for this process
static std::atomic<size_t> memory{(size_t)1 << 30};
static std::atomic<unsigned> grid_rows{65535};
static std::atomic<long> replays;

void emu_fail(const char *call, int error, int after) {
    plan.call = call;
    plan.error = (cudaError_t)error;
    plan.after = after;
}
void emu_memory(size_t bytes) {
    memory = bytes;
}
void emu_grid_rows(unsigned n) {
    grid_rows = n;
}
long emu_replays(void) {
    return replays;
}

// DRIFTD_EMU_FAIL="CALL:ERROR:AFTER[:FILE]": as emu_fail, for a whole process; with FILE calls
// count from when that exists. From 700 on the error is the end of the device for the process.
// DRIFTD_EMU_MEMORY: MiB of device memory.
namespace {
struct process_plan {
    char call[16] = "", file[512] = "";
    int error = 0;
    std::atomic<long> after{0};
    process_plan() {
        const char *text = getenv("DRIFTD_EMU_FAIL"), *mib = getenv("DRIFTD_EMU_MEMORY");
        long n = 0;
        if (text && sscanf(text, "%15[^:]:%d:%ld:%511s", call, &error, &n, file) < 3) {
            fprintf(stderr, "emulator: DRIFTD_EMU_FAIL is not CALL:ERROR:AFTER[:FILE]\n");
            abort();
        }
        after = n;
        if (mib)
            memory = (size_t)atol(mib) << 20;
    }
    bool error_lasts() const { // what is missing stays missing
        return error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice ||
               error == cudaErrorUnknown;
    }
    bool due(const char *name) {
        if (!*call || strcmp(call, name) || (*file && access(file, F_OK)))
            return false;
        const long left = after--;
        return left == 0 || (left < 0 && error_lasts());
    }
};
} // namespace

static cudaError_t planned(const char *name) {
    static process_plan whole;
    if (whole.due(name)) {
        if (whole.error >= cudaErrorIllegalAddress && whole.error != cudaErrorUnknown)
            lost = whole.error;
        return (cudaError_t)whole.error;
    }
    if (lost)
        return (cudaError_t)lost.load();
    if (!plan.call || strcmp(plan.call, name) || plan.after-- > 0)
        return cudaSuccess;
    plan.call = NULL;
    return plan.error;
}

const char *cudaGetErrorString(cudaError_t e) {
    switch (e) {
    case cudaSuccess:
        return "no error";
    case cudaErrorInvalidValue:
        return "invalid argument";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInvalidConfiguration:
        return "invalid configuration argument";
    case cudaErrorInsufficientDriver:
        return "driver too old for the runtime";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorIllegalAddress:
        return "an illegal memory access was encountered";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
        return "operation failed due to a previous error during capture";
    default:
        return "unknown error";
    }
}
cudaError_t cudaGetLastError() {
    const cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}

// ---- the device
// -------------------------------------------------------------------------------------

cudaError_t cudaDriverGetVersion(int *version) {
    const cudaError_t e = planned("driver");
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
    p->totalGlobalMem = memory;
    return cudaSetDevice(device);
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device) {
    *value = attr == cudaDevAttrMultiProcessorCount ? 1 : EMU_SHARED_LIMIT;
    return cudaSetDevice(device);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

// ---- memory: sizes are kept, so that a wrong pointer to free ends the test
// ---------------------------

static std::mutex lock; // of the two maps
static std::map<const void *, size_t> on_device, page_locked;
static size_t in_use;

static cudaError_t allocate(std::map<const void *, size_t> &in, void **p, size_t bytes) {
    *p = NULL;
    if (posix_memalign(p, 256, bytes ? bytes : 1))
        return cudaErrorMemoryAllocation;
    memset(*p, 0xff, bytes);
    in[*p] = bytes;
    return cudaSuccess;
}
static void release(std::map<const void *, size_t> &in, void *p) {
    if (!in.erase(p)) {
        fprintf(stderr, "emulator: memory was freed that nobody allocated\n");
        abort();
    }
    free(p);
}
static bool locked_pages(const void *p) {
    std::lock_guard<std::mutex> hold(lock);
    auto it = page_locked.upper_bound(p);
    if (it == page_locked.begin())
        return false;
    --it;
    return (const char *)p < (const char *)it->first + it->second;
}

static thread_local emu_stream *capturing; // by this thread

size_t emu_in_use(void) {
    std::lock_guard<std::mutex> hold(lock);
    size_t host = 0;
    for (const auto &p : page_locked)
        host += p.second;
    return in_use + host;
}

cudaError_t cudaMemGetInfo(size_t *left, size_t *total) {
    std::lock_guard<std::mutex> hold(lock);
    *total = memory;
    *left = *total > in_use ? *total - in_use : 0;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **p, size_t bytes) {
    cudaError_t e = planned("malloc");
    *p = NULL;
    if (!e && capturing) {
        capturing->spoiled = true;
        e = cudaErrorStreamCaptureUnsupported;
    }
    std::lock_guard<std::mutex> hold(lock);
    if (!e && (bytes > memory || in_use > memory - bytes))
        e = cudaErrorMemoryAllocation;
    if (!e)
        e = allocate(on_device, p, bytes);
    if (!e)
        in_use += bytes;
    last_error = e;
    return e;
}
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) {
    std::lock_guard<std::mutex> hold(lock);
    return allocate(page_locked, p, bytes);
}

// ---- streams
// ----------------------------------------------------------------------------------------

static void run_until(emu_stream *s, long n) {
    while (s->done < n) {
        call c = std::move(s->todo.front());
        s->todo.pop_front();
        s->done++;
        c();
    }
}
static void put(emu_stream *s, call c) {
    if (s->recording) {
        s->recording->calls.push_back(std::move(c));
        return;
    }
    s->todo.push_back(std::move(c));
    s->queued++;
}
static cudaError_t not_captured(emu_stream *s) {
    if (!s->recording)
        return cudaSuccess;
    s->spoiled = true;
    return cudaErrorStreamCaptureUnsupported;
}

// Freeing memory waits for what may use it: this thread's streams, as an instance frees its own.
static thread_local std::vector<emu_stream *> mine;

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned, int) {
    *s = new emu_stream();
    mine.push_back(*s);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    if (!s)
        return cudaSuccess;
    run_until(s, s->queued);
    for (size_t i = 0; i < mine.size(); i++)
        if (mine[i] == s)
            mine.erase(mine.begin() + (long)i);
    delete s;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    cudaError_t e = planned("sync");
    if (!e)
        e = not_captured(s);
    if (!e)
        run_until(s, s->queued);
    return e;
}
static cudaError_t free_in(std::map<const void *, size_t> &in, void *p) {
    if (!p)
        return cudaSuccess;
    for (emu_stream *s : mine)
        run_until(s, s->queued);
    std::lock_guard<std::mutex> hold(lock);
    if (&in == &on_device && in.count(p))
        in_use -= in[p];
    release(in, p);
    return (cudaError_t)lost.load();
}
cudaError_t cudaFree(void *p) {
    return free_in(on_device, p);
}
cudaError_t cudaFreeHost(void *p) {
    return free_in(page_locked, p);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p) {
    a->type = locked_pages(p) ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s) {
    put(s, [=] { memset(p, value, bytes); });
    return (cudaError_t)lost.load();
}
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t s) {
    if (lost)
        return (cudaError_t)lost.load();
    const bool late = kind == cudaMemcpyDeviceToDevice ||
                      locked_pages(kind == cudaMemcpyHostToDevice ? src : dst);
    if (late) {
        put(s, [=] { memmove(dst, src, bytes); });
        return cudaSuccess;
    }
    const cudaError_t e = not_captured(s);
    if (e)
        return e;
    if (kind == cudaMemcpyHostToDevice) { // staged at once, carried out in its turn
        std::vector<char> staged((const char *)src, (const char *)src + bytes);
        put(s, [dst, staged] { memcpy(dst, staged.data(), staged.size()); });
    } else {
        run_until(s, s->queued);
        memmove(dst, src, bytes);
    }
    return cudaSuccess;
}

// CUDA's own limits of a launch, and of a block's threads what the emulator has.
static cudaError_t beyond_limits(dim3 grid, dim3 block, size_t shared) {
    const size_t threads = (size_t)block.x * block.y * block.z;
    const bool grid_fits = grid.x && grid.y && grid.z && grid.x < 1u << 31 && grid.y <= grid_rows &&
                           grid.z <= grid_rows;
    if (!grid_fits || !threads || threads > EMU_MAX_THREADS || block.z > 64)
        return cudaErrorInvalidConfiguration;
    return shared > EMU_SHARED_LIMIT ? cudaErrorInvalidValue : cudaSuccess;
}

void emu_enqueue(emu_stream *s, dim3 grid, dim3 block, size_t shared, call kernel) {
    cudaError_t e = beyond_limits(grid, block, shared);
    if (!e)
        e = planned("launch");
    if (!e && s->recording && s->spoiled)
        e = cudaErrorStreamCaptureInvalidated;
    if (e) {
        last_error = e;
        return;
    }
    if (s->recording)
        s->recording->kernels++;
    put(s, [=] { emu_launch(grid, block, shared, kernel); });
}

// ---- events and graphs
// ------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) {
    *e = new emu_event();
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    delete e;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    const cudaError_t bad = not_captured(s);
    if (bad)
        return bad;
    e->s = s;
    e->at = s->queued;
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    const cudaError_t bad = planned("sync");
    if (!bad && e->s)
        run_until(e->s, e->at);
    return bad;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, int) {
    if (s->recording)
        return cudaErrorInvalidValue;
    const cudaError_t e = planned("capture");
    if (lost)
        return e;
    s->recording = new emu_graph();
    s->spoiled = e;
    capturing = s;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out) {
    *out = s->recording;
    s->recording = NULL;
    capturing = NULL;
    if (!s->spoiled)
        return cudaSuccess;
    delete *out;
    *out = NULL;
    return cudaErrorStreamCaptureInvalidated;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long) {
    const cudaError_t e = planned("instantiate");
    *out = e ? NULL : new emu_graph(*g);
    return e;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    delete g;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) {
    delete g;
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s) {
    for (size_t i = 0; i < g->kernels; i++) {
        const cudaError_t e = planned("launch");
        if (e)
            return e;
    }
    for (const call &c : g->calls)
        put(s, c);
    replays++;
    return cudaSuccess;
}
