// Self-attention backward in bf16 on tensor cores; formulas in attn_bwd.cu. A block has one head.
// First a warp takes 16 queries at a time: maximum, sum and D = rowsum(P dP) in one walk over the
// keys, dq in a second; then 16 keys at a time, dk and dv in one walk over the queries. Every row
// is one warp's, so there are no atomics, and a head's bytes depend on its own rows only.
//
// With WHOLE all of q, k, v, dout of the head lie in shared memory, and nothing else is read once a
// gradient is written: dqkv may be qkv. Longer sequences pass through in tiles instead, and then
// qkv must be another buffer (the caller copies it).
#include "engine/cuda/attn_mma.h"

enum { STREAM_TILE = 64, STREAM_WARPS = 4 };

struct mma_bwd {
    struct dr_attn_bwd_args a;
    float *wq, *wk; // parts of dq_norm [b*h, hd], of dk_norm; NULL: not wanted
    int warps;
};

// ---- from accumulators to rows
// -----------------------------------------------------------------------------

// acc, 16 rows of gradients after norm and rotation, to the rows `first`... of dst. Eight rows at a
// time pass through stage[8][HD + 4], the warp's own. dw += this lane's part of the norm's
// gradient.
template <int HD>
__device__ inline void finish(bf16 *dst, const rows<HD> &x, const float (&acc)[HD / 8][4],
                              int64_t first, float *stage, float (&dw)[4]) {
    constexpr int LD = HD + 4, AT_ONCE = rows<HD>::AT_ONCE, STEPS = 8 / AT_ONCE;
    const int lane = threadIdx.x % 32, sub = lane / rows<HD>::LANES;
    for (int half = 0; half < 2; half++, first += 8) {
        uint32_t u[STEPS][2]; // all of them before the first store: dst may be their place
        DR_UNROLL
        for (int k = 0; k < STEPS; k++)
            x.raw(u[k], first + k * AT_ONCE + sub);
        __syncwarp();
        DR_UNROLL
        for (int n = 0; n < HD / 8; n++)
            for (int e = 0; e < 2; e++)
                stage[lane / 4 * LD + 8 * n + 2 * (lane % 4) + e] =
                    half ? acc[n][2 + e] : acc[n][e];
        __syncwarp();
        float rstd[STEPS] = {};
        if (x.h.norm)
            x.rstd(rstd, u);
        DR_UNROLL
        for (int k = 0; k < STEPS; k++) {
            const int64_t token = first + k * AT_ONCE + sub;
            const bool there = token < x.h.t;
            float d[4], raw[4];
            rows<HD>::unpack(raw, u[k]);
            for (int e = 0; e < 4; e++)
                d[e] = x.inside(e) ? stage[(k * AT_ONCE + sub) * LD + x.column(e)] : 0;
            if (there)
                x.rotate(d, token, -1);
            for (int e = 0; e < 4; e++)
                d[e] *= x.h.scale;
            if (x.h.norm) {
                float dot[1] = {};
                for (int e = 0; e < 4; e++) {
                    raw[e] *= rstd[k];
                    dw[e] += there ? d[e] * raw[e] : 0;
                    d[e] *= x.w[e];
                    dot[0] += d[e] * raw[e];
                }
                x.row_sums(dot);
                for (int e = 0; e < 4; e++)
                    d[e] = rstd[k] * (d[e] - raw[e] * (dot[0] / (float)x.h.hd));
            }
            bf16 *to = dst + token * x.step;
            if (there && x.h.hd % 4 == 0 && x.inside(0)) {
                *reinterpret_cast<uint32_t *>(to + x.column(0)) = pack2(d[0], d[1]);
                *reinterpret_cast<uint32_t *>(to + x.column(2)) = pack2(d[2], d[3]);
            } else if (there && x.h.hd % 4) {
                for (int e = 0; e < 4; e++)
                    if (x.inside(e))
                        to[x.column(e)] = from_f<bf16>(d[e]);
            }
        }
    }
}

// The accumulator as it is, for dv.
template <int HD>
__device__ inline void put_plain(bf16 *dst, int64_t step, const float (&acc)[HD / 8][4],
                                 int64_t first, int64_t t, int64_t hd) {
    const int lane = threadIdx.x % 32;
    for (int r = 0; r < 2; r++) {
        const int64_t token = first + lane / 4 + 8 * r;
        DR_UNROLL
        for (int n = 0; n < HD / 8; n++) {
            const int c = 8 * n + 2 * (lane % 4);
            if (token < t && c < hd)
                *reinterpret_cast<uint32_t *>(dst + token * step + c) =
                    pack2(acc[n][2 * r], acc[n][2 * r + 1]);
        }
    }
}

// part[hd] = sum of dw over the rows of a warp, then over the warps, in order. s: [8][4 * 32].
template <int HD>
__device__ inline void dw_part(float *part, const rows<HD> &x, const float (&dw)[4], float *s) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = (int)blockDim.x / 32;
    __syncthreads();
    for (int e = 0; e < 4; e++)
        s[(warp * 32 + lane) * 4 + e] = dw[e];
    __syncthreads();
    if (threadIdx.x >= rows<HD>::LANES)
        return;
    for (int e = 0; e < 4; e++) {
        float sum = 0;
        for (int k = 0; k < warps * rows<HD>::AT_ONCE; k++)
            sum += s[(k * rows<HD>::LANES + lane) * 4 + e];
        if (x.inside(e))
            part[x.column(e)] = sum;
    }
}

// ---- the walks
// -------------------------------------------------------------------------------------------

// One chunk of 16 keys for 16 queries: running maximum, sum of exp and sum of exp dP.
template <int HD, int LD>
__device__ inline void statistics(const bf16 *q, const bf16 *g, const bf16 *k, const bf16 *v, int j,
                                  int valid, float (&top)[2], float (&sum)[2], float (&dot)[2]) {
    float s[2][4], dp[2][4], shrink[2];
    tile_product<HD, LD>(s, q, 0, k, j);
    tile_product<HD, LD>(dp, g, 0, v, j);
    new_tops(s, valid, top, shrink);
    for (int r = 0; r < 2; r++)
        sum[r] *= shrink[r], dot[r] *= shrink[r];
    for (int n = 0; n < 2; n++)
        for (int e = 0; e < 4; e++) {
            const float p = expf(s[n][e] - top[e / 2]);
            sum[e / 2] += p;
            dot[e / 2] += p * dp[n][e];
        }
}

// dq += dS k of one chunk, `valid` keys of the 16 being there. For the others dS is set to 0: their
// score is 0, and exp(0 - lse) may be infinite, which their rows of zeros would make NaN.
template <int HD, int LD>
__device__ inline void add_dq(float (&dq)[HD / 8][4], const bf16 *q, const bf16 *g, const bf16 *k,
                              const bf16 *v, int j, int valid, const float (&lse)[2],
                              const float (&delta)[2]) {
    const int col = 2 * (int)(threadIdx.x % 4);
    float s[2][4], dp[2][4];
    tile_product<HD, LD>(s, q, 0, k, j);
    tile_product<HD, LD>(dp, g, 0, v, j);
    for (int n = 0; n < 2; n++)
        for (int e = 0; e < 4; e++)
            s[n][e] = 8 * n + col + e % 2 < valid
                          ? expf(s[n][e] - lse[e / 2]) * (dp[n][e] - delta[e / 2])
                          : 0;
    tile_add<HD, LD>(dq, s, k, j);
}

// dk += dS' q, dv += P' dout of one chunk of 16 queries. Queries past the end are rows of zeros in
// q and dout, and their lse is log(t). Keys past the end spoil their own rows, which go nowhere.
template <int HD, int LD>
__device__ inline void add_dkv(float (&dk)[HD / 8][4], float (&dv)[HD / 8][4], const bf16 *k,
                               const bf16 *v, const bf16 *q, const bf16 *g, int i, const float *lse,
                               const float *delta) {
    const int col = 2 * (int)(threadIdx.x % 4);
    float p[2][4], ds[2][4];
    tile_product<HD, LD>(p, k, 0, q, i);
    tile_product<HD, LD>(ds, v, 0, g, i);
    for (int n = 0; n < 2; n++)
        for (int e = 0; e < 4; e++) {
            const int c = 8 * n + col + e % 2;
            p[n][e] = expf(p[n][e] - lse[c]);
            ds[n][e] = p[n][e] * (ds[n][e] - delta[c]);
        }
    tile_add<HD, LD>(dv, p, g, i);
    tile_add<HD, LD>(dk, ds, q, i);
}

// Two tiles of 16 or more rows that are walked together.
template <int HD> struct walk {
    const rows<HD> *x, *y;
    bf16 *a, *b; // whole sequences, or room for STREAM_TILE rows
    // Rows [from, from + count) into place; with WHOLE they are there.
    template <bool WHOLE> __device__ void fetch(int from, int count) const {
        if (WHOLE)
            return;
        __syncthreads();
        x->load(a, from, count);
        y->load(b, from, count);
        __syncthreads();
    }
};

// One head on its way through the kernel.
template <int HD> struct task {
    rows<HD> q, k, v, g; // g: dout
    int t, t16, tile;    // tokens, rounded up to 16, rows that are walked at a time
    float *lse, *delta, *stage;
    bf16 *own_a, *own_b, *far_a, *far_b; // WHOLE: q, dout, k, v
};

// lse, D and dq of all queries; dw: this lane's part of dq_norm.
template <int HD, bool WHOLE>
__device__ inline void all_queries(const task<HD> &o, bf16 *dq_out, float (&dw)[4]) {
    constexpr int LD = rows<HD>::LD;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = (int)blockDim.x / 2;
    const walk<HD> keys = {&o.k, &o.v, o.far_a, o.far_b};
    for (int first = 0; first < o.t16; first += group) {
        const int row = first + 16 * warp;
        if (!WHOLE) {
            __syncthreads();
            o.q.load(o.own_a, first, group);
            o.g.load(o.own_b, first, group);
        }
        const bf16 *q = o.own_a + (WHOLE ? row : 16 * warp) * LD;
        const bf16 *g = o.own_b + (WHOLE ? row : 16 * warp) * LD;
        float top[2] = {-INFINITY, -INFINITY}, sum[2] = {}, dot[2] = {};
        for (int k0 = 0; k0 < o.t; k0 += o.tile) {
            const int count = o.t16 - k0 < o.tile ? o.t16 - k0 : o.tile;
            keys.template fetch<WHOLE>(k0, count);
            for (int j = 0; j < count && row < o.t16; j += 16)
                statistics<HD, LD>(q, g, keys.a, keys.b, j, o.t - k0 - j, top, sum, dot);
        }
        for (int r = 0; r < 2 && row < o.t16; r++) {
            sum[r] = quad_sum(sum[r]);
            dot[r] = quad_sum(dot[r]) / sum[r];
            sum[r] = top[r] + logf(sum[r]);
            if (lane % 4 == 0) {
                o.lse[row + lane / 4 + 8 * r] = sum[r];
                o.delta[row + lane / 4 + 8 * r] = dot[r];
            }
        }
        float dq[HD / 8][4] = {};
        for (int k0 = 0; k0 < o.t; k0 += o.tile) {
            const int count = o.t16 - k0 < o.tile ? o.t16 - k0 : o.tile;
            keys.template fetch<WHOLE>(k0, count);
            for (int j = 0; j < count && row < o.t16; j += 16)
                add_dq<HD, LD>(dq, q, g, keys.a, keys.b, j, o.t - k0 - j, sum, dot);
        }
        if (row < o.t16)
            finish<HD>(dq_out, o.q, dq, row, o.stage, dw);
    }
}

// dk and dv of all keys, from the queries' lse and D; dw: this lane's part of dk_norm.
template <int HD, bool WHOLE>
__device__ inline void all_keys(const task<HD> &o, bf16 *dk_out, bf16 *dv_out, float (&dw)[4]) {
    constexpr int LD = rows<HD>::LD;
    const int warp = threadIdx.x / 32, group = (int)blockDim.x / 2;
    const walk<HD> queries = {&o.q, &o.g, WHOLE ? o.own_a : o.far_a, WHOLE ? o.own_b : o.far_b};
    for (int first = 0; first < o.t16; first += group) {
        const int row = first + 16 * warp;
        if (!WHOLE) {
            __syncthreads();
            o.k.load(o.own_a, first, group);
            o.v.load(o.own_b, first, group);
        }
        const bf16 *k = WHOLE ? o.far_a + row * LD : o.own_a + 16 * warp * LD;
        const bf16 *v = WHOLE ? o.far_b + row * LD : o.own_b + 16 * warp * LD;
        float dk[HD / 8][4] = {}, dv[HD / 8][4] = {};
        for (int q0 = 0; q0 < o.t; q0 += o.tile) {
            const int count = o.t16 - q0 < o.tile ? o.t16 - q0 : o.tile;
            queries.template fetch<WHOLE>(q0, count);
            for (int i = 0; i < count && row < o.t16; i += 16)
                add_dkv<HD, LD>(dk, dv, k, v, queries.a, queries.b, i, o.lse + q0 + i,
                                o.delta + q0 + i);
        }
        if (row < o.t16) {
            put_plain<HD>(dv_out, o.v.step, dv, row, o.t, o.v.h.hd);
            finish<HD>(dk_out, o.k, dk, row, o.stage, dw);
        }
    }
}

template <int HD, bool WHOLE>
__global__ void __launch_bounds__(256, HD <= 64 ? 2 : 1)
    k_attn_bwd_mma(mma_bwd w, bf16 *dqkv, const bf16 *qkv, const bf16 *dout) {
    constexpr int LD = rows<HD>::LD;
    const struct dr_attn_bwd_args &a = w.a;
    DR_SHARED(float, lse); // lse, delta: [tokens]; stage: [warps][8][HD + 4]; tiles
    const int warp = threadIdx.x / 32, t16 = ((int)a.t + 15) / 16 * 16;
    const int own = (WHOLE ? t16 : 16 * w.warps) * LD, far = (WHOLE ? t16 : (int)STREAM_TILE) * LD;
    float *stage = lse + 2 * t16, dwq[4] = {}, dwk[4] = {};
    bf16 *tiles = reinterpret_cast<bf16 *>(stage + w.warps * 8 * (HD + 4));
    const int64_t width = a.h * a.hd, b = blockIdx.x / a.h, h = blockIdx.x % a.h;
    const int64_t at = b * a.t * 3 * width + h * a.hd;
    const head plain = {a.t, a.h, a.hd, NULL, NULL, NULL, 0, 1};
    const task<HD> o = {
        {qkv + at, 3 * width, {a.t, a.h, a.hd, a.q_norm, a.rope_cos, a.rope_sin, a.eps, a.scale}},
        {qkv + at + width, 3 * width, {a.t, a.h, a.hd, a.k_norm, a.rope_cos, a.rope_sin, a.eps, 1}},
        {qkv + at + 2 * width, 3 * width, plain},
        {dout + b * a.t * width + h * a.hd, width, plain},
        (int)a.t,
        t16,
        WHOLE ? t16 : (int)STREAM_TILE,
        lse,
        lse + t16,
        stage + warp * 8 * (HD + 4),
        tiles,
        tiles + own,
        tiles + 2 * own,
        tiles + 2 * own + far};
    if (WHOLE) {
        o.q.load(o.own_a, 0, t16);
        o.g.load(o.own_b, 0, t16);
        o.k.load(o.far_a, 0, t16);
        o.v.load(o.far_b, 0, t16);
        __syncthreads();
    }
    all_queries<HD, WHOLE>(o, dqkv + at, dwq);
    __syncthreads(); // lse and delta of all queries
    all_keys<HD, WHOLE>(o, dqkv + at + width, dqkv + at + 2 * width, dwk);
    if (w.wq) // the tiles have done their work
        dw_part<HD>(w.wq + blockIdx.x * a.hd, o.q, dwq, lse);
    if (w.wk)
        dw_part<HD>(w.wk + blockIdx.x * a.hd, o.k, dwk, lse);
}

// ---- host
// ----------------------------------------------------------------------------------------------

static size_t bwd_shared(int64_t t16, int HD, int warps, bool whole) {
    const size_t floats = (size_t)(2 * t16 + warps * 8 * (HD + 4));
    const size_t tiles = (size_t)(whole ? 4 * t16 : 2 * (16 * warps + STREAM_TILE));
    return floats * sizeof(float) + tiles * (size_t)(HD + 8) * sizeof(bf16);
}

template <int HD> static void bwd_mma(struct dr_backend *be, const struct dr_attn_bwd_args *a) {
    const int64_t t16 = round_up16(a->t), tiles = t16 / 16, heads = a->b * a->h;
    const int most = (int)ceil_div(tiles, ceil_div(tiles, 8));
    const bool whole = bwd_shared(t16, HD, most, true) <= dr_cuda_of(be)->shared_limit;
    const int warps = whole || most < STREAM_WARPS ? most : (int)STREAM_WARPS;
    const size_t bytes = bwd_shared(t16, HD, warps, whole);
    const size_t parts = (size_t)(heads * a->hd) * sizeof(float);
    const size_t copy =
        !whole && a->dqkv == a->qkv ? (size_t)(3 * a->b * a->t * a->h * a->hd) * sizeof(bf16) : 0;
    char *s = static_cast<char *>(dr_cuda_scratch(be, DR_CUDA_OP, 2 * parts + copy));
    if (!s || !attn_supported(be, a->hd, bytes, "attn_bwd"))
        return;
    const bf16 *qkv = static_cast<const bf16 *>(a->qkv), *dout = static_cast<const bf16 *>(a->dout);
    bf16 *dqkv = static_cast<bf16 *>(a->dqkv);
    if (copy) {
        cudaMemcpyAsync(s + 2 * parts, qkv, copy, cudaMemcpyDeviceToDevice, dr_cuda_of(be)->stream);
        qkv = reinterpret_cast<const bf16 *>(s + 2 * parts);
    }
    const mma_bwd k = {*a, a->dq_norm ? reinterpret_cast<float *>(s) : NULL,
                       a->dk_norm ? reinterpret_cast<float *>(s + parts) : NULL, warps};
    if (whole)
        DR_LAUNCH(be, (k_attn_bwd_mma<HD, true>), (unsigned)heads, 32 * warps, bytes, k, dqkv, qkv,
                  dout);
    else
        DR_LAUNCH(be, (k_attn_bwd_mma<HD, false>), (unsigned)heads, 32 * warps, bytes, k, dqkv, qkv,
                  dout);
    struct dr_colsum_args sum = {};
    sum.m = heads, sum.n = a->hd, sum.acc = true;
    sum.out = a->dq_norm, sum.x = k.wq;
    if (k.wq)
        dr_cuda_colsum(be, &sum);
    sum.out = a->dk_norm, sum.x = k.wk;
    if (k.wk)
        dr_cuda_colsum(be, &sum);
}

void dr_cuda_attn_bwd_mma(struct dr_backend *be, const struct dr_attn_bwd_args *a) {
    DR_MMA_WIDTH(a->hd, HD, bwd_mma<HD>(be, a));
}
