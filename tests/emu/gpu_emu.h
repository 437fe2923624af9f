// The part of CUDA that engine/cuda uses, for the host: test builds include it before every .cu
// file (g++ -x c++ -include tests/emu/gpu_emu.h), so the same kernels run where there is no GPU.
//
// Every thread of a block is a fiber; blocks run one after another. Shared memory is poisoned (all
// bits set: NaN, -1) before each block. A block that writes past its own, or a barrier that not all
// threads of a block (or lanes of a warp) reach, ends the program with a sentence, and emu_reverse
// runs the fibers backwards: a missing barrier shows as NaN or as bytes that depend on the order.
// State is per host thread.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <functional>
#include <tuple>

#define __global__ static
#define __device__
#define __host__
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

extern thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

enum { EMU_MAX_THREADS = 256, EMU_SHARED_LIMIT = 99 * 1024 };

// Runs a kernel now. Launches come through emu_enqueue: see gpu_runtime.cc.
void emu_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &kernel);
void emu_enqueue(struct emu_stream *s, dim3 grid, dim3 block, size_t shared,
                 std::function<void()> kernel);
// A call with its arguments, which are copied now, as a launch does.
template <typename... P, typename... A> auto emu_bind(void (*kernel)(P...), A &&...args) {
    return [kernel, kept = std::tuple<std::decay_t<P>...>(std::forward<A>(args)...)] {
        std::apply(kernel, kept);
    };
}
void *emu_shared(); // the block's dynamic shared memory
void emu_block_barrier();
void emu_warp_barrier();
// The 8 bytes that lane `lane` of this warp gave to the same call.
uint64_t emu_exchange(uint64_t mine, unsigned lane);
unsigned emu_lane();
// Tensor cores of a warp, see engine/cuda/mma.h: d += a b, and four 8 x 8 matrices from shared
// memory.
void emu_mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void emu_ldmatrix(uint32_t (&r)[4], const void *row, bool trans);
extern "C" void emu_reverse(bool on); // fibers of a block from last to first, for this host thread
extern "C" void emu_fail(const char *call, int error, int after); // see emu.h
extern "C" void emu_memory(size_t bytes);
extern "C" void emu_grid_rows(unsigned n);
extern "C" long emu_replays(void);
extern "C" size_t emu_in_use(void);

#define __syncthreads() emu_block_barrier()
#define __syncwarp() emu_warp_barrier()

template <typename T> inline T emu_shuffle(T v, unsigned lane) {
    static_assert(sizeof v <= 8, "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof v);
    bits = emu_exchange(bits, lane);
    memcpy(&v, &bits, sizeof v);
    return v;
}
#define __shfl_xor_sync(mask, v, m) emu_shuffle((v), emu_lane() ^ (unsigned)(m))
#define __shfl_down_sync(mask, v, d) emu_shuffle((v), emu_lane() + (unsigned)(d))
#define __shfl_sync(mask, v, lane) emu_shuffle((v), (unsigned)(lane))
#define __popc(v) __builtin_popcount(v)
inline unsigned emu_ballot(bool mine) {
    unsigned all = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        all |= (unsigned)emu_exchange(mine, lane) << lane;
    return all;
}
#define __ballot_sync(mask, v) emu_ballot(v)

// ---- the runtime's calls
// ---------------------------------------------------------------------------

typedef struct emu_stream *cudaStream_t;
typedef struct emu_event *cudaEvent_t;
typedef struct emu_graph *cudaGraph_t, *cudaGraphExec_t;
typedef enum {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorIllegalAddress = 700,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorUnknown = 999,
} cudaError_t;
enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3
};
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum { cudaStreamNonBlocking = 1, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
enum { cudaHostAllocDefault = 0, cudaStreamCaptureModeThreadLocal = 1 };
enum cudaMemoryType { cudaMemoryTypeUnregistered = 0, cudaMemoryTypeHost = 1 };
struct cudaPointerAttributes {
    cudaMemoryType type;
};
struct cudaDeviceProp {
    char name[256];
    int major, minor;
    size_t totalGlobalMem;
};

const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetLastError();
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device);
cudaError_t cudaMemGetInfo(size_t *left, size_t *total);
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p); // of host memory
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t s);
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, int mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g);
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s);
