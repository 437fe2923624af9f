// Included by every .cu file: the instance, its workspace, and the one way to launch a kernel,
// which also compiles as host C++ against tests/emu/gpu_emu.h.
//
// Kernels take their arguments by value, allocate shared memory with DR_SHARED only (the emulator
// poisons it), use no static __shared__ arrays and no floating-point atomics: every sum has an
// order that depends on the shape alone.
#pragma once

extern "C" {
#include "engine/core/backend.h"
}

#include <mutex>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define DR_UNROLL _Pragma("unroll")
#define DR_SHARED(type, name)                                                                      \
    extern __shared__ __align__(16) unsigned char dr_shared_[];                                    \
    type *name = reinterpret_cast<type *>(dr_shared_)
// What a kernel may ask for belongs to the kernel, which two threads may launch at once with
// different sizes: always the device's limit, so that neither takes from the other.
#define DR_LAUNCH_RAW(kernel, grid, block, bytes, c, ...)                                          \
    do {                                                                                           \
        if ((bytes) > 48 * 1024)                                                                   \
            (void)cudaFuncSetAttribute((kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,      \
                                       (int)(c)->shared_limit);                                    \
        (kernel)<<<(grid), (block), (bytes), (c)->stream>>>(__VA_ARGS__);                          \
    } while (0)
#else
#define DR_UNROLL
#define DR_SHARED(type, name) type *name = reinterpret_cast<type *>(emu_shared())
#define DR_LAUNCH_RAW(kernel, grid, block, bytes, c, ...)                                          \
    emu_enqueue((c)->stream, (grid), (block), (bytes), emu_bind((kernel), __VA_ARGS__))
#endif

// DR_LAUNCH(be, (k_name<T>), grid, block, shared_bytes, args...): on the instance's stream; a
// refused launch becomes the sticky error, under the name of the calling function.
#define DR_LAUNCH(be, kernel, grid, block, bytes, ...)                                             \
    do {                                                                                           \
        DR_LAUNCH_RAW(kernel, grid, block, bytes, dr_cuda_of(be), __VA_ARGS__);                    \
        dr_cuda_launched(be, __func__);                                                            \
    } while (0)

// Scratch blocks; an op that calls another op must not share a slot with it.
enum dr_cuda_slot {
    DR_CUDA_OP,   // the op's own temporaries
    DR_CUDA_SUM,  // partial sums of dr_cuda_colsum
    DR_CUDA_CONV, // patches and rearranged weights
    DR_CUDA_BLAS, // the library's workspace
    DR_CUDA_DNN,  // cuDNN's
    DR_CUDA_SLOTS,
};

struct dr_cuda { // be->impl
    struct dr_backend be;
    struct dr_err err;   // sticky: the first error since the last sync
    const char *last_op; // launched last; named when an error shows up late
    struct {
        void *base;
        size_t size;
    } ws[DR_CUDA_SLOTS];
    unsigned moves; // how often a block of ws has been replaced: recordings know the addresses
    cudaStream_t stream;
    cudaEvent_t mark[DR_MARKS];
    bool recording, unfit; // the stream is being captured; a block was too small while it was
    bool graphs;           // DRIFTD_GRAPHS=0 turns them off
    void *blas;            // library handle; NULL under the emulator
    void *dnn;             // conv_dnn.cu's; NULL until the first convolution
    int device, sms;
    size_t shared_limit; // bytes of shared memory that a block may have
    bool tf32;
};

static inline struct dr_cuda *dr_cuda_of(struct dr_backend *be) {
    return static_cast<struct dr_cuda *>(be->impl);
}

// At least `bytes` of device memory until the same slot is asked for again. Blocks only grow, so a
// step that has run once allocates nothing. NULL: out of memory, already recorded; or the block is
// too small while a graph is recorded, and the recording will be dropped: return in both cases.
void *dr_cuda_scratch(struct dr_backend *be, enum dr_cuda_slot slot, size_t bytes);
// Records the sticky error "op: what"; the first one wins. op: __func__, whose prefix is dropped.
void dr_cuda_error(struct dr_backend *be, int code, const char *op, const char *what);
void dr_cuda_launched(struct dr_backend *be, const char *op);

// A failed call of the runtime that is not an op's launch; cudaSuccess is fine.
void dr_cuda_check(struct dr_backend *be, cudaError_t e, const char *call);

// Held while a graph is recorded, and around calls that may wait for the whole device (libraries,
// streams and memory that come or go): from another thread those make a recording void. CUDA's
// state is the process's, so this is too.
extern std::recursive_mutex dr_cuda_still;

// graph.cu: the vtable's replay and graph_free
void dr_cuda_replay(struct dr_backend *be, struct dr_graph **g, void (*steps)(void *), void *ctx);
void dr_cuda_graph_free(struct dr_backend *be, struct dr_graph *g);

// gemm_blas.cu or gemm_plain.cu; open binds c->stream
int dr_cuda_blas_open(struct dr_cuda *c, struct dr_err *err);
void dr_cuda_blas_close(struct dr_cuda *c);

#define X(name, flags) void dr_cuda_##name(struct dr_backend *, const struct dr_##name##_args *);
#include "engine/ops.def"
#undef X
