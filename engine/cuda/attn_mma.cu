// Self-attention forward in bf16 on tensor cores; fp32 and odd heads are attn.cu's. A warp has 16
// queries of one head and walks the keys 16 at a time with a running maximum and sum. A head's
// bytes depend on its own rows and the shape only.
#include "engine/cuda/attn_mma.h"

// tile: keys in shared memory at a time, a multiple of 16.
template <int HD>
__global__ void __launch_bounds__(256)
    k_attn_fwd_mma(struct dr_attn_fwd_args a, bf16 *out, const bf16 *qkv, int tile) {
    constexpr int LD = rows<HD>::LD;
    DR_SHARED(bf16, q); // [own][LD], then k and v: [tile][LD]
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, own = (int)blockDim.x / 32 * 16;
    bf16 *k = q + own * LD, *v = k + tile * LD;
    const int64_t width = a.h * a.hd, b = blockIdx.y / a.h, h = blockIdx.y % a.h;
    const int64_t first = (int64_t)blockIdx.x * own;
    const bf16 *base = qkv + b * a.t * 3 * width + h * a.hd;
    const rows<HD> qs(base, 3 * width,
                      {a.t, a.h, a.hd, a.q_norm, a.rope_cos, a.rope_sin, a.eps, a.scale});
    const rows<HD> ks(base + width, 3 * width,
                      {a.t, a.h, a.hd, a.k_norm, a.rope_cos, a.rope_sin, a.eps, 1});
    const rows<HD> vs(base + 2 * width, 3 * width, {a.t, a.h, a.hd, NULL, NULL, NULL, 0, 1});

    float o[HD / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    qs.load(q, first, own);
    for (int k0 = 0; k0 < a.t; k0 += tile) {
        const int left = (int)a.t - k0, count = left < tile ? (left + 15) / 16 * 16 : tile;
        __syncthreads();
        ks.load(k, k0, count);
        vs.load(v, k0, count);
        __syncthreads();
        for (int j = 0; j < count; j += 16) {
            float s[2][4], shrink[2];
            tile_product<HD, LD>(s, q, 16 * warp, k, j);
            new_tops(s, left - j, top, shrink);
            for (int r = 0; r < 2; r++)
                sum[r] *= shrink[r];
            for (int n = 0; n < 2; n++)
                for (int e = 0; e < 4; e++) {
                    s[n][e] = expf(s[n][e] - top[e / 2]);
                    sum[e / 2] += s[n][e];
                }
            for (int n = 0; n < HD / 8; n++)
                for (int e = 0; e < 4; e++)
                    o[n][e] *= shrink[e / 2];
            tile_add<HD, LD>(o, s, v, j);
        }
    }
    for (int r = 0; r < 2; r++) {
        const float by = 1 / quad_sum(sum[r]);
        const int64_t token = first + 16 * warp + lane / 4 + 8 * r;
        if (token >= a.t)
            continue;
        bf16 *to = out + (b * a.t + token) * width + h * a.hd;
        DR_UNROLL
        for (int n = 0; n < HD / 8; n++) {
            const int c = 8 * n + 2 * (lane % 4);
            if (c < a.hd)
                *reinterpret_cast<uint32_t *>(to + c) =
                    pack2(o[n][2 * r] * by, o[n][2 * r + 1] * by);
        }
    }
}

void dr_cuda_attn_fwd_mma(struct dr_backend *be, const struct dr_attn_fwd_args *a) {
    const int64_t tiles = round_up16(a->t) / 16, blocks = ceil_div(tiles, 8);
    const int warps = (int)ceil_div(tiles, blocks), tile = tiles <= 6 ? (int)tiles * 16 : 64;
    const dim3 grid((unsigned)blocks, (unsigned)(a->b * a->h));
    const bf16 *qkv = static_cast<const bf16 *>(a->qkv);
    bf16 *out = static_cast<bf16 *>(a->out);
    DR_MMA_WIDTH(a->hd, HD,
                 DR_LAUNCH(be, (k_attn_fwd_mma<HD>), grid, 32 * warps,
                           (size_t)(16 * warps + 2 * tile) * rows<HD>::LD * sizeof(bf16), *a, out,
                           qkv, tile));
}
