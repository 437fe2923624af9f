// The coefficients of the drifting field (method.md 2; paper Alg. 2 and Table 11): from distances
// to doubly normalised affinities to [c- c+]. Called by engine/loss/drift.c per temperature.
//
// Softmaxes are taken relative to the smallest cost of their row or column, and the geometric mean
// is formed in the exponent, so nothing underflows that matters at small temperatures. Differences
// of costs come before the division by tau: they are nearly exact, quotients of 50 and more are
// not. A warp has a row, a block 32 columns; every sum has a fixed order.
#include "engine/cuda/device.h"

struct coef {
    struct dr_drift_coef_args a;
    int64_t m;
    float *cmin, *csum; // [b,m] smallest cost of a column, then sum or potential
    float *rmin, *rsum; // [b,n] the same by row; with sinkhorn-split [2,b,n], negatives first
    float *mass;        // [2,b] sums of the weights of either side; sinkhorn-split only
};
struct costs {     // derived on the device: the scale lives there
    float diag, k; // added to the diagonal's D; 1 / temperature of a cost
};

__device__ inline costs costs_of(const struct dr_drift_coef_args &a) {
    double s = a.scale ? (double)*a.scale : 1;
    s = a.scale && s < 1e-3 ? 1e-3 : s;
    const double tau = (double)a.tau;
    const double k = a.kernel == DR_KERNEL_GAUSSIAN ? 1 / (2 * tau * tau * s * s) : 1 / (tau * s);
    return {a.diag * (float)s, (float)k};
}

// Cost of (i, j): D, or D^2 with the Gaussian kernel, the self mask included.
__device__ inline float cost(const coef &c, const costs &q, int64_t b, int64_t i, int64_t j) {
    float u = c.a.d[(b * c.a.n + i) * c.m + j];
    if (i == j && j < c.a.n_neg)
        u += q.diag;
    return c.a.kernel == DR_KERNEL_GAUSSIAN ? u * u : u;
}

__device__ inline bool is_split(const coef &c) {
    return c.a.normalize == DR_NORM_SINKHORN_SPLIT;
}

// mass[side,b] = the sum of the weights, in order.
__global__ void __launch_bounds__(256) k_coef_mass(coef c) {
    const int64_t at = (int64_t)blockIdx.x * 256 + threadIdx.x, side = at / c.a.b, b = at % c.a.b;
    if (side > 1)
        return;
    double sum = 0;
    for (int64_t j = side ? c.a.n_neg : 0; j < (side ? c.m : c.a.n_neg); j++)
        sum += c.a.w ? (double)c.a.w[b * c.m + j] : 1;
    c.mass[at] = (float)sum;
}

// rmin and rsum = sum_j exp((rmin - u) k); with `potential`, over u k - g_j, and rsum becomes
// f = min - log(sum). With sinkhorn-split a row is taken over either side, and the sum is weighted;
// what has no weight must not set the minimum.
__global__ void __launch_bounds__(256) k_coef_rows(coef c, bool potential) {
    const int64_t all = c.a.b * c.a.n, at = (int64_t)blockIdx.x * 8 + threadIdx.x / 32;
    const int64_t row = at % all, b = row / c.a.n, i = row % c.a.n;
    const int lane = threadIdx.x % 32;
    const bool split = is_split(c), second = at >= all;
    if (at >= (split ? 2 : 1) * all)
        return;
    const int64_t first = second ? c.a.n_neg : 0, end = split && !second ? c.a.n_neg : c.m;
    const float *w = split && c.a.w ? c.a.w + b * c.m : NULL;
    const costs q = costs_of(c.a);
    const float f = potential ? 1 : q.k;
    float low = INFINITY, sum = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t j = first + lane; j < end; j += 32) {
            if (w && w[j] <= 0)
                continue;
            float u = cost(c, q, b, i, j);
            if (potential)
                u = u * q.k - c.csum[b * c.m + j];
            if (pass)
                sum += expf((low - u) * f) * (w ? w[j] : 1);
            else
                low = u < low || u != u ? u : low;
        }
        if (!pass)
            low = warp_min(low);
    }
    sum = warp_sum(sum);
    if (lane)
        return;
    c.rmin[at] = low;
    c.rsum[at] = potential ? low - logf(sum) : sum;
}

// The same by column; the potential of column j is log(n / m) + min - log(sum), with sinkhorn-split
// the mass of its side in place of m. Warps take rows in turn, then what they have is put together
// in the order of the warps. A NaN wins, as by row.
__global__ void __launch_bounds__(256) k_coef_columns(coef c, bool potential) {
    DR_SHARED(float, s); // [8][32]
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t at = (int64_t)blockIdx.x * 32 + lane, b = at / c.m, j = at % c.m;
    const int64_t end = at < c.a.b * c.m ? c.a.n : 0;
    const costs q = costs_of(c.a);
    const float f = potential ? 1 : q.k;
    const int64_t side = is_split(c) && j >= c.a.n_neg;
    const float *rsum = c.rsum + side * c.a.b * c.a.n;
    float low = INFINITY, sum = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = warp; i < end; i += 8) {
            float u = cost(c, q, b, i, j);
            if (potential)
                u = u * q.k - rsum[b * c.a.n + i];
            if (pass)
                sum += expf((low - u) * f);
            else
                low = u < low || u != u ? u : low;
        }
        s[warp * 32 + lane] = pass ? sum : low;
        __syncthreads();
        for (int k = 0; k < 8 && !pass; k++) {
            const float u = s[k * 32 + lane];
            low = u < low || u != u ? u : low;
        }
        if (!pass)
            __syncthreads(); // all minima are read
    }
    if (warp || !end)
        return;
    for (int k = 1; k < 8; k++)
        sum += s[k * 32 + lane];
    c.cmin[at] = low;
    const float mass = is_split(c) ? c.mass[side * c.a.b + b] : (float)c.m;
    c.csum[at] = potential ? logf((float)c.a.n / mass) + low - logf(sum) : sum;
}

__device__ inline float affinity(const coef &c, const costs &q, int64_t b, int64_t i, int64_t j) {
    const float u = cost(c, q, b, i, j);
    const int64_t row = b * c.a.n + i, col = b * c.m + j;
    float e = 0;
    switch (c.a.normalize) {
    case DR_NORM_BOTH:
        e = expf(((c.rmin[row] - u) + (c.cmin[col] - u)) * (q.k / 2)) /
            (sqrtf(c.rsum[row]) * sqrtf(c.csum[col]));
        break;
    case DR_NORM_Y:
        e = expf((c.rmin[row] - u) * q.k) / c.rsum[row];
        break;
    case DR_NORM_NONE:
        e = expf(-u * q.k);
        break;
    case DR_NORM_SINKHORN:
        e = expf(c.rsum[row] + c.csum[col] - u * q.k);
        break;
    case DR_NORM_SINKHORN_SPLIT:
        e = expf(c.rsum[(j < c.a.n_neg ? 0 : c.a.b * c.a.n) + row] + c.csum[col] - u * q.k);
        break;
    }
    const float floor = sqrtf(c.a.floor);
    e = e < floor ? floor : e;
    return c.a.w ? e * c.a.w[col] : e;
}

// A_ij times 1 - sum a^2 + a_j by side, a_j = A_ij / rowsum; squared as such: rowsum^2 underflows.
__device__ inline void correct_bias(const coef &c, float *out, int lane, float neg, float pos) {
    float sums[2] = {neg, pos}, square[2] = {};
    for (int64_t j = lane; j < c.m; j += 32) {
        const int side = j >= c.a.n_neg;
        const float a = sums[side] == 0 ? 0 : out[j] / sums[side];
        square[side] += a * a;
    }
    square[0] = warp_sum(square[0]);
    square[1] = warp_sum(square[1]);
    for (int64_t j = lane; j < c.m; j += 32) {
        const int side = j >= c.a.n_neg;
        const float a = sums[side] == 0 ? 0 : out[j] / sums[side];
        out[j] *= 1 - square[side] + a;
    }
}

// c- = -A- rowsum(A+), c+ = A+ rowsum(A-), with the floor under A and the weights on it.
__global__ void __launch_bounds__(256) k_coef_emit(coef c) {
    const int64_t row = (int64_t)blockIdx.x * 8 + threadIdx.x / 32, b = row / c.a.n,
                  i = row % c.a.n;
    const int lane = threadIdx.x % 32;
    if (row >= c.a.b * c.a.n)
        return;
    const costs q = costs_of(c.a);
    float neg = 0, pos = 0, *out = c.a.coef + row * c.m;
    for (int64_t j = lane; j < c.m; j += 32) {
        const float e = affinity(c, q, b, i, j);
        out[j] = e;
        (j < c.a.n_neg ? neg : pos) += e;
    }
    neg = warp_sum(neg);
    pos = warp_sum(pos);
    if (c.a.abc)
        correct_bias(c, out, lane, neg, pos);
    for (int64_t j = lane; j < c.m; j += 32) // its own lane's values
        out[j] *= j < c.a.n_neg ? -pos : neg;
}

void dr_cuda_drift_coef(struct dr_backend *be, const struct dr_drift_coef_args *a) {
    const int64_t m = a->n_neg + a->p, rows = a->b * a->n, cols = a->b * m;
    if (rows * m <= 0)
        return;
    const bool split = a->normalize == DR_NORM_SINKHORN_SPLIT;
    const int64_t sides = split ? 2 : 1, size = 2 * sides * rows + 2 * cols;
    float *s = static_cast<float *>(
        dr_cuda_scratch(be, DR_CUDA_OP, (size_t)(size + 2 * a->b) * sizeof(float)));
    if (!s)
        return;
    float *by_row = s + 2 * cols;
    const coef c = {*a, m, s, s + cols, by_row, by_row + sides * rows, s + size};
    const unsigned row_grid = blocks_for(rows, 8), side_grid = blocks_for(sides * rows, 8);
    const unsigned col_grid = blocks_for(cols, 32);
    if (a->normalize == DR_NORM_BOTH || a->normalize == DR_NORM_Y)
        DR_LAUNCH(be, k_coef_rows, row_grid, 256, 0, c, false);
    if (a->normalize == DR_NORM_BOTH)
        DR_LAUNCH(be, k_coef_columns, col_grid, 256, 1024, c, false);
    if (split)
        DR_LAUNCH(be, k_coef_mass, blocks_for(2 * a->b, 256), 256, 0, c);
    if (split || a->normalize == DR_NORM_SINKHORN) {
        struct dr_fill_args zero = {};
        zero.dst = s, zero.n = size;
        dr_cuda_fill(be, &zero);
        for (int round = 0; round < a->sinkhorn_iterations; round++) {
            DR_LAUNCH(be, k_coef_rows, side_grid, 256, 0, c, true);
            DR_LAUNCH(be, k_coef_columns, col_grid, 256, 1024, c, true);
        }
    }
    DR_LAUNCH(be, k_coef_emit, row_grid, 256, 0, c);
}
