// The seam between the engine and a device: memory, copies and the op table.
//
// A backend instance belongs to one thread (the one that called enter); the trainer and the batcher
// have one each. Ops are asynchronous in principle: they return nothing, errors are sticky and come
// out of sync() with the op's name. Ops never allocate, lock, log or do I/O; scratch comes from the
// instance's workspace. The instances: cpu (oneDNN or reference GEMM), cuda, emu (the CUDA kernels
// on the host), null (does nothing, counts FLOPs: dry runs and the bench).
#pragma once

#include "engine/core/device.h"
#include "engine/ops.h"

struct dr_comm;
struct dr_graph; // a recorded sequence of ops, the backend's own
enum { DR_MARKS = 4 };

struct dr_backend {
    char name[16];    // "cpu", "cuda", "emu", "null"
    char detail[112]; // what it found, e.g. "2 threads, avx512_core_bf16, oneDNN 2.6.3"
    bool host_memory; // device pointers may be dereferenced by the host
    int threads;      // CPU threads of this instance
    void *impl;       // the backend's own state
    uint64_t version; // of weights, the last one drawn
    double flops;     // null backend: multiply-adds * 2 of gemm, attention and convolution so far

    // Binds the instance to the calling thread (thread count, device). Call once, first.
    void (*enter)(struct dr_backend *);
    int (*mem_alloc)(struct dr_backend *, size_t bytes, void **out,
                     struct dr_err *); // 64-aligned, zeroed
    void (*mem_free)(struct dr_backend *, void *);
    size_t (*mem_left)(struct dr_backend *); // bytes that mem_alloc may still give, about
    // Host memory that the device reads and writes by itself (page-locked), zeroed.
    int (*host_alloc)(struct dr_backend *, size_t bytes, void **out, struct dr_err *);
    void (*host_free)(struct dr_backend *, void *); // NULL is fine
    // Ordered with ops. The source may be reused on return, except memory of host_alloc, which must
    // stay as it is until a later mark has been waited for.
    void (*upload)(struct dr_backend *, void *dst, const void *src_host, size_t bytes);
    void (*download)(struct dr_backend *, void *dst_host, const void *src, size_t bytes); // waits
    // Into memory of host_alloc; does not wait: the bytes are there once a later mark is reached.
    void (*download_later)(struct dr_backend *, void *dst, const void *src, size_t bytes);
    void (*mark)(struct dr_backend *,
                 int which); // notes this place in the order, 0 .. DR_MARKS - 1
    // Waits until everything before the last mark(which) is done; otherwise like sync.
    int (*wait)(struct dr_backend *, int which, struct dr_err *);
    int (*sync)(struct dr_backend *, struct dr_err *); // waits; returns and clears the sticky error
    // Whether an error waits for the next sync or wait, to which it is left: what was downloaded
    // since the one before may be worth nothing.
    bool (*failed)(const struct dr_backend *);
    // Runs steps(ctx), which calls ops of this backend and nothing else of it, always the same ones
    // with the same arguments: what changes from call to call lies in device memory. *g (NULL at
    // first) may keep a recording that later calls replay without calling `steps`. Backends with
    // host_memory just call it.
    void (*replay)(struct dr_backend *, struct dr_graph **g, void (*steps)(void *ctx), void *ctx);
    void (*graph_free)(struct dr_backend *, struct dr_graph *); // NULL is fine
    // From now on this instance's work goes before that of others on the same device. After enter.
    int (*hurry)(struct dr_backend *, struct dr_err *);
    void (*destroy)(struct dr_backend *);

    struct {
#define X(name, flags) void (*name)(struct dr_backend *, const struct dr_##name##_args *);
#include "engine/ops.def"
#undef X
    } op;
};

// A version for weights that this instance multiplies, never drawn before (dr_gemm_args).
static inline uint64_t dr_next_version(struct dr_backend *be) {
    return ++be->version;
}

// Calls an op with designated initialisers: DR_OP(be, fill, .dst = p, .n = n, .value = 0).
#define DR_OP(be, name, ...) ((be)->op.name((be), &(const struct dr_##name##_args){__VA_ARGS__}))

// Does nothing but count: for dry runs. The caller frees it.
int dr_backend_null(struct dr_backend **out, struct dr_err *err);
// Every slot must be filled; names the first NULL one of ops.def. Backends call it when they load.
int dr_backend_check(const struct dr_backend *be, struct dr_err *err);

// What a layer needs to run: where, with which memory, at which precision. One thread.
struct dr_ctx {
    struct dr_backend *be;
    struct dr_comm *comm;  // the other processes of the run (comm.h); NULL: none
    struct dr_arena *keep; // activations kept for the backward pass
    struct dr_arena *tmp;  // temporaries; every function returns it as it found it
    enum dr_dtype act;     // storage of activations that feed GEMMs: DR_F32 or DR_BF16
    bool keep_all;         // keep what the backward pass could compute again as well
};
