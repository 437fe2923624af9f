// The part of CUDA that engine/cuda uses, for the host: test builds include it before every .cu
// file (g++ -x c++ -include tests/emu/gpu_emu.h), so the same kernels run where there is no GPU.
//
// Every thread of a block is a fiber; blocks run one after another. Shared memory is poisoned (all
// bits set: NaN, -1) before each block, a barrier that not all threads of a block (or lanes of a
// warp) reach ends the program with a sentence, and emu_reverse runs the fibers backwards: a
// missing barrier shows as NaN or as bytes that depend on the order. State is per host thread.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <functional>

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

void emu_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &kernel);
void *emu_shared(); // the block's dynamic shared memory
void emu_block_barrier();
void emu_warp_barrier();
// The 8 bytes that lane `lane` of this warp gave to the same call.
uint64_t emu_exchange(uint64_t mine, unsigned lane);
unsigned emu_lane();
extern "C" void emu_reverse(bool on); // fibers of a block from last to first, for this host thread
// The nth next call of one kind fails: "malloc", "launch", "sync", "devices" or "driver".
extern "C" void emu_fail(const char *call, int error, int after);

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

// ---- the runtime's calls
// ---------------------------------------------------------------------------

typedef int cudaStream_t;
typedef enum {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorIllegalAddress = 700,
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
enum { cudaStreamNonBlocking = 1 };
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
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t s);
