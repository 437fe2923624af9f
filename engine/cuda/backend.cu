// The CUDA backend's instance: device, stream, memory, copies, workspace, sticky errors, op table.
// Opened by engine/cuda/module.c through the shared module's one entry, dr_cuda_open; compiled for
// the host it is the backend `emu` of the tests. Formats its errors itself, so that the module
// needs nothing from the program that loads it.
#include "engine/cuda/launch.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <new>

#ifdef __CUDACC__
#define NAME "cuda"
#else
#define NAME "emu"
#endif

static int fail(struct dr_err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static int fail(struct dr_err *err, int code, const char *fmt, ...) {
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err->code = code;
        vsnprintf(err->msg, sizeof err->msg, fmt, ap);
        va_end(ap);
    }
    return code;
}

static int code_of(cudaError_t e) {
    return e == cudaErrorMemoryAllocation ? DR_ENOMEM : DR_EDEVICE;
}

// ---- errors
// ------------------------------------------------------------------------------------------

void dr_cuda_error(struct dr_backend *be, int code, const char *op, const char *what) {
    struct dr_cuda *c = dr_cuda_of(be);
    const size_t prefix = sizeof "dr_cuda_" - 1;
    if (!strncmp(op, "dr_cuda_", prefix))
        op += prefix;
    if (!c->err.code)
        fail(&c->err, code, "%s on %s: %s", op, be->detail, what);
}

void dr_cuda_launched(struct dr_backend *be, const char *op) {
    const cudaError_t e = cudaGetLastError();
    dr_cuda_of(be)->last_op = op;
    if (e)
        dr_cuda_error(be, code_of(e), op, cudaGetErrorString(e));
}

// A call that is not an op failed: the cause may be a kernel that ran before it.
void dr_cuda_check(struct dr_backend *be, cudaError_t e, const char *call) {
    const char *op = dr_cuda_of(be)->last_op;
    char what[256];
    if (!e)
        return;
    snprintf(what, sizeof what, "%s (last kernel started: %s)", cudaGetErrorString(e),
             op ? op : "none");
    dr_cuda_error(be, code_of(e), call, what);
}

// ---- memory and copies
// ---------------------------------------------------------------------------------

static void enter(struct dr_backend *be) {
    dr_cuda_check(be, cudaSetDevice(dr_cuda_of(be)->device), "binding the device to a thread");
}

static int no_memory(struct dr_backend *be, size_t bytes, cudaError_t e, struct dr_err *err) {
    size_t left = 0, total = 0;
    (void)cudaGetLastError();
    if (e != cudaErrorMemoryAllocation || cudaMemGetInfo(&left, &total))
        return fail(err, code_of(e), "%s: cannot allocate %zu bytes: %s", be->detail, bytes,
                    cudaGetErrorString(e));
    return fail(err, DR_ENOMEM,
                "%s: %zu MiB wanted, %zu of %zu MiB are free; a smaller train.generated or model "
                "needs less",
                be->detail, bytes >> 20, left >> 20, total >> 20);
}

static int mem_alloc(struct dr_backend *be, size_t bytes, void **out, struct dr_err *err) {
    struct dr_cuda *c = dr_cuda_of(be);
    *out = NULL;
    cudaError_t e = cudaMalloc(out, bytes ? bytes : 1);
    if (e)
        return no_memory(be, bytes, e, err);
    e = cudaMemsetAsync(*out, 0, bytes, c->stream);
    if (!e)
        e = cudaStreamSynchronize(c->stream);
    if (!e)
        return 0;
    cudaFree(*out);
    *out = NULL;
    return fail(err, DR_EDEVICE, "%s: clearing new memory: %s", be->detail, cudaGetErrorString(e));
}

static void mem_free(struct dr_backend *be, void *p) {
    std::lock_guard<std::recursive_mutex> hold(dr_cuda_still);
    if (p)
        dr_cuda_check(be, cudaFree(p), "freeing memory");
}

static size_t mem_left(struct dr_backend *be) {
    size_t left = 0, total = 0;
    enter(be);
    return cudaMemGetInfo(&left, &total) ? 0 : left;
}

static int host_alloc(struct dr_backend *be, size_t bytes, void **out, struct dr_err *err) {
    *out = NULL;
    const cudaError_t e = cudaHostAlloc(out, bytes ? bytes : 1, cudaHostAllocDefault);
    if (!e)
        memset(*out, 0, bytes);
    else
        (void)cudaGetLastError();
    return e ? fail(err, code_of(e), "%s: cannot allocate %zu bytes of page-locked memory: %s",
                    be->detail, bytes, cudaGetErrorString(e))
             : 0;
}

static void host_free(struct dr_backend *be, void *p) {
    if (p)
        dr_cuda_check(be, cudaFreeHost(p), "freeing page-locked memory");
}

// Pageable memory may be reused on return: not every machine copies it aside first.
static void upload(struct dr_backend *be, void *dst, const void *src, size_t bytes) {
    cudaStream_t stream = dr_cuda_of(be)->stream;
    cudaPointerAttributes from;
    if (!bytes)
        return;
    cudaError_t e = cudaPointerGetAttributes(&from, src);
    if (!e)
        e = cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, stream);
    if (!e && from.type == cudaMemoryTypeUnregistered)
        e = cudaStreamSynchronize(stream);
    dr_cuda_check(be, e, "upload");
}

// After a failure the host's bytes are all set, which is NaN: nobody mistakes old data for results.
static void download(struct dr_backend *be, void *dst, const void *src, size_t bytes) {
    struct dr_cuda *c = dr_cuda_of(be);
    if (!bytes)
        return;
    cudaError_t e = cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, c->stream);
    if (!e)
        e = cudaStreamSynchronize(c->stream);
    dr_cuda_check(be, e, "download");
    if (e)
        memset(dst, 0xff, bytes);
}

static void download_later(struct dr_backend *be, void *dst, const void *src, size_t bytes) {
    if (bytes)
        dr_cuda_check(
            be, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, dr_cuda_of(be)->stream),
            "download");
}

static void mark(struct dr_backend *be, int which) {
    struct dr_cuda *c = dr_cuda_of(be);
    dr_cuda_check(be, cudaEventRecord(c->mark[which], c->stream), "mark");
}

// Returns and clears the sticky error.
static int told(struct dr_cuda *c, struct dr_err *err) {
    const int code = c->err.code;
    if (code && err)
        *err = c->err;
    c->err.code = 0;
    return code;
}

static int wait(struct dr_backend *be, int which, struct dr_err *err) {
    struct dr_cuda *c = dr_cuda_of(be);
    dr_cuda_check(be, cudaEventSynchronize(c->mark[which]), "wait");
    return told(c, err);
}

static int sync(struct dr_backend *be, struct dr_err *err) {
    struct dr_cuda *c = dr_cuda_of(be);
    dr_cuda_check(be, cudaStreamSynchronize(c->stream), "sync");
    return told(c, err);
}

void *dr_cuda_scratch(struct dr_backend *be, enum dr_cuda_slot slot, size_t bytes) {
    struct dr_cuda *c = dr_cuda_of(be);
    if (bytes > c->ws[slot].size || !c->ws[slot].base) {
        const size_t want = bytes > (size_t)1 << 16 ? bytes : (size_t)1 << 16;
        if (c->recording) { // no allocating now; the recorder then runs the ops directly
            c->unfit = true;
            return NULL;
        }
        std::lock_guard<std::recursive_mutex> hold(dr_cuda_still);
        c->moves++;
        dr_cuda_check(be, cudaStreamSynchronize(c->stream),
                      "workspace"); // kernels may still use the old one
        cudaFree(c->ws[slot].base);
        c->ws[slot].base = NULL;
        c->ws[slot].size = 0;
        const cudaError_t e = cudaMalloc(&c->ws[slot].base, want);
        if (e) {
            struct dr_err why;
            no_memory(be, want, e, &why);
            dr_cuda_error(be, code_of(e), "workspace", why.msg);
            return NULL;
        }
        c->ws[slot].size = want;
    }
    return c->ws[slot].base;
}

// ---- opening
// -------------------------------------------------------------------------------------------

static void close_stream(struct dr_cuda *c) {
    std::lock_guard<std::recursive_mutex> hold(dr_cuda_still);
    dr_cuda_blas_close(c);
    if (c->stream)
        cudaStreamDestroy(c->stream);
    c->stream = NULL;
}

static void destroy(struct dr_backend *be) {
    std::lock_guard<std::recursive_mutex> hold(dr_cuda_still);
    struct dr_cuda *c = dr_cuda_of(be);
    cudaSetDevice(c->device);
    close_stream(c);
    for (int i = 0; i < DR_CUDA_SLOTS; i++)
        cudaFree(c->ws[i].base);
    for (int i = 0; i < DR_MARKS; i++)
        if (c->mark[i])
            cudaEventDestroy(c->mark[i]);
    delete c;
}

// The stream and what is bound to it. A device runs waiting blocks of an urgent stream first.
static int open_stream(struct dr_cuda *c, bool urgent, struct dr_err *err) {
    std::lock_guard<std::recursive_mutex> hold(dr_cuda_still);
    int least = 0, greatest = 0;
    cudaError_t e = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (!e)
        e = cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking,
                                         urgent ? greatest : least);
    if (e)
        return fail(err, code_of(e), "%s: cannot create a stream: %s", c->be.detail,
                    cudaGetErrorString(e));
    return dr_cuda_blas_open(c, err);
}

static bool failed(const struct dr_backend *be) {
    return static_cast<const struct dr_cuda *>(be->impl)->err.code != 0;
}

static int hurry(struct dr_backend *be, struct dr_err *err) {
    const int rc = sync(be, err);
    if (rc)
        return rc;
    close_stream(dr_cuda_of(be));
    return open_stream(dr_cuda_of(be), true, err);
}

// Marks are waited for by threads that have time: they sleep, and wake some tens of us later.
static int create_marks(struct dr_cuda *c, struct dr_err *err) {
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < DR_MARKS && !e; i++)
        e = cudaEventCreateWithFlags(&c->mark[i], cudaEventDisableTiming | cudaEventBlockingSync);
    return e ? fail(err, code_of(e), "%s: cannot create an event: %s", c->be.detail,
                    cudaGetErrorString(e))
             : 0;
}

// Driver, device and the properties that kernels depend on.
static int find_device(struct dr_cuda *c, int index, struct dr_err *err) {
    int driver = 0, runtime = 0, count = 0, shared = 0;
    cudaDeviceProp prop;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (!driver)
        return fail(err, DR_EDEVICE, "no NVIDIA driver is installed on this machine");
    if (driver / 1000 < runtime / 1000)
        return fail(err, DR_EDEVICE,
                    "the NVIDIA driver knows CUDA %d.%d, this build needs CUDA %d or newer; update "
                    "the driver",
                    driver / 1000, driver % 1000 / 10, runtime / 1000);
    cudaError_t e = cudaGetDeviceCount(&count);
    if (e == cudaErrorNoDevice || (!e && !count))
        return fail(err, DR_EDEVICE, "the NVIDIA driver finds no GPU on this machine");
    if (e)
        return fail(err, DR_EDEVICE, "looking for GPUs: %s", cudaGetErrorString(e));
    if (index >= count)
        return fail(err, DR_EDEVICE, "there is no GPU %d; the driver finds %d, counted from 0",
                    index, count);
    if ((e = cudaSetDevice(index)) || (e = cudaGetDeviceProperties(&prop, index)) ||
        (e = cudaDeviceGetAttribute(&c->sms, cudaDevAttrMultiProcessorCount, index)) ||
        (e = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index)))
        return fail(err, code_of(e), "GPU %d: %s", index, cudaGetErrorString(e));
    if (prop.major < 8)
        return fail(err, DR_EDEVICE,
                    "GPU %d (%s) has compute capability %d.%d; 8.0 or newer is needed", index,
                    prop.name, prop.major, prop.minor);
    c->device = index;
    c->shared_limit = (size_t)shared;
    char text[512];
    snprintf(text, sizeof text, "%s (%d.%d, %zu MiB), CUDA %d.%d%s", prop.name, prop.major,
             prop.minor, prop.totalGlobalMem >> 20, runtime / 1000, runtime % 1000 / 10,
             c->tf32 ? ", TF32" : "");
    snprintf(c->be.detail, sizeof c->be.detail, "%.111s", text);
    return 0;
}

static void fill_table(struct dr_cuda *c) {
    struct dr_backend *be = &c->be;
    memcpy(be->name, NAME, sizeof NAME);
    be->threads = 1;
    be->impl = c;
    be->enter = enter;
    be->mem_alloc = mem_alloc;
    be->mem_free = mem_free;
    be->mem_left = mem_left;
    be->host_alloc = host_alloc;
    be->host_free = host_free;
    be->upload = upload;
    be->download = download;
    be->download_later = download_later;
    be->mark = mark;
    be->wait = wait;
    be->sync = sync;
    be->failed = failed;
    be->replay = dr_cuda_replay;
    be->graph_free = dr_cuda_graph_free;
    be->hurry = hurry;
    be->destroy = destroy;
#define X(name, flags) be->op.name = dr_cuda_##name;
#include "engine/ops.def"
#undef X
}

// The entry. `size` is the caller's sizeof(struct dr_backend): a module of another build is
// refused.
extern "C" int dr_cuda_open(int index, size_t size, struct dr_backend **out, struct dr_err *err);
extern "C" int dr_cuda_open(int index, size_t size, struct dr_backend **out, struct dr_err *err) {
    *out = NULL;
    if (size != sizeof(struct dr_backend))
        return fail(err, DR_EUNSUPPORTED, "the CUDA module belongs to another build of driftd");
    struct dr_cuda *c = new (std::nothrow) dr_cuda();
    if (!c)
        return fail(err, DR_ENOMEM, "cannot allocate a CUDA backend");
    const char *tf32 = getenv("DRIFTD_TF32"), *graphs = getenv("DRIFTD_GRAPHS");
    c->tf32 = tf32 && *tf32 && strcmp(tf32, "0");
    c->graphs = !graphs || strcmp(graphs, "0");
    fill_table(c);
    int rc = find_device(c, index, err);
    if (rc) {
        delete c;
        return rc;
    }
    rc = create_marks(c, err);
    if (!rc)
        rc = open_stream(c, false, err);
    if (rc) {
        destroy(&c->be);
        return rc;
    }
    *out = &c->be;
    return 0;
}
