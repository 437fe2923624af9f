// Device helpers of the kernels: bf16, vector loads, sums over warps and blocks, flat launches.
#pragma once

#include "engine/cuda/launch.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#endif
#include <type_traits>

#define DR_FULL 0xffffffffu

// ---- bf16
// ------------------------------------------------------------------------------------------

struct bf16 {
    uint16_t u;
};

__device__ inline float to_f(float x) {
    return x;
}
__device__ inline float to_f(bf16 x) {
#ifdef __CUDA_ARCH__
    return __uint_as_float((uint32_t)x.u << 16);
#else
    uint32_t u = (uint32_t)x.u << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
#endif
}

template <typename T> __device__ inline T from_f(float f);
template <> __device__ inline float from_f<float>(float f) {
    return f;
}
template <> __device__ inline bf16 from_f<bf16>(float f) {
#ifdef __CUDA_ARCH__
    return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(f))};
#else
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16, nan = (u >> 16) | 0x40;
    return bf16{(uint16_t)((u & 0x7fffffff) > 0x7f800000 ? nan : rounded)};
#endif
}

// `call` with T the type of a dr_dtype.
#define DR_FOR_DTYPE(t, T, call)                                                                   \
    do {                                                                                           \
        if ((t) == DR_BF16) {                                                                      \
            using T = bf16;                                                                        \
            call;                                                                                  \
        } else {                                                                                   \
            using T = float;                                                                       \
            call;                                                                                  \
        }                                                                                          \
    } while (0)

// ---- V neighbouring elements at once
// -----------------------------------------------------------------

template <typename T, int V> struct alignas(sizeof(T) * V) pack { T v[V]; };
template <int V, typename T> __device__ inline void load(float (&out)[V], const T *p) {
    const pack<T, V> k = *reinterpret_cast<const pack<T, V> *>(p);
    for (int i = 0; i < V; i++)
        out[i] = to_f(k.v[i]);
}
template <int V, typename T> __device__ inline void store(T *p, const float (&in)[V]) {
    pack<T, V> k;
    for (int i = 0; i < V; i++)
        k.v[i] = from_f<T>(in[i]);
    *reinterpret_cast<pack<T, V> *>(p) = k;
}
// Whether every pointer (NULL counts) allows loads of four elements of up to 4 bytes.
template <typename... P> static inline bool wide(const P *...p) {
    return ((((uintptr_t)p | 0) % 16 == 0) && ...);
}

// ---- sums
// ------------------------------------------------------------------------------------------

template <typename T> __device__ inline T warp_sum(T v) {
    for (int k = 16; k; k >>= 1)
        v += __shfl_xor_sync(DR_FULL, v, k);
    return v;
}
__device__ inline float warp_max(float v) {
    for (int k = 16; k; k >>= 1) {
        const float o = __shfl_xor_sync(DR_FULL, v, k);
        v = o > v ? o : v;
    }
    return v;
}
__device__ inline float warp_min(float v) {
    for (int k = 16; k; k >>= 1) {
        const float o = __shfl_xor_sync(DR_FULL, v, k);
        v = o < v ? o : v;
    }
    return v;
}
// Sum over a block of whole warps, in every thread. `slots`: 32 values of shared memory, free again
// on return.
template <typename T> __device__ inline T block_sum(T v, T *slots) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    v = warp_sum(v);
    if (lane == 0)
        slots[warp] = v;
    __syncthreads();
    v = warp_sum(lane < warps ? slots[lane] : (T)0);
    __syncthreads();
    return v;
}

// ---- flat launches
// -----------------------------------------------------------------------------------

static inline int64_t ceil_div(int64_t n, int64_t by) {
    return (n + by - 1) / by;
}
static inline unsigned blocks_for(int64_t n, int64_t by) {
    return (unsigned)ceil_div(n, by);
}

// Calls f.run<4>(i) or f.run<1>(i) so that every element of [0, n) is visited once.
template <typename F> __global__ void __launch_bounds__(256) k_flat(F f, int64_t n, bool four) {
    const int64_t first = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int64_t step = (int64_t)gridDim.x * blockDim.x, whole = four ? n / 4 : 0;
    for (int64_t i = first; i < whole; i += step)
        f.template run<4>(4 * i);
    for (int64_t i = 4 * whole + first; i < n; i += step)
        f.template run<1>(i);
}
// The number of blocks changes nothing but the speed: elements are independent.
static inline unsigned flat_blocks(struct dr_backend *be, int64_t threads) {
    const int64_t most = 16 * (int64_t)dr_cuda_of(be)->sms, want = ceil_div(threads, 256);
    return (unsigned)(want < most ? want : most);
}
#define DR_FLAT(be, f, n, four)                                                                    \
    do {                                                                                           \
        const int64_t n_ = (n);                                                                    \
        const bool four_ = (four);                                                                 \
        const auto f_ = (f);                                                                       \
        if (n_ > 0)                                                                                \
            DR_LAUNCH(be, k_flat<decltype(f_)>, flat_blocks(be, four_ ? ceil_div(n_, 4) : n_),     \
                      256, 0, f_, n_, four_);                                                      \
    } while (0)
