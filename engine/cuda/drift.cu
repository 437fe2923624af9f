// The drifting loss (method.md 2 and 3; paper Alg. 2, A.6) except the coefficients, which are in
// drift_coef.cu: distances, the feature scale, the field, its normalisation and the gradient.
// Called by engine/loss/drift.c through the op table.
//
// Comparisons are written so that a NaN survives them. Sums are cut at rows or tiles and their
// parts, in double, added in order by one block.
#include "engine/cuda/device.h"

enum { PAIR_COLS = 256 };                          // of a block in k_pair_dist
static const int64_t DEEP = 65535;                 // of a grid in its third dimension at most
enum { TILE = 32, WARPS = 8, PER = TILE / WARPS }; // a tile is 32 x 32; a warp owns 4 of its rows

__device__ inline float feature_divisor(const float *scale,
                                        int64_t s) // max(s / sqrt(S), 1e-3), or 1
{
    if (!scale)
        return 1;
    const float f = *scale / sqrtf((float)s);
    return f < 1e-3f ? 1e-3f : f;
}

// tile[r][c] = x[(r0 + r) * ld + c0 + c], 0 outside of rows and cols; rows are 33 apart.
__device__ inline void load_square(float *tile, const float *x, int64_t ld, int64_t r0,
                                   int64_t rows, int64_t c0, int64_t cols) {
    const int lane = threadIdx.x % 32;
    for (int r = threadIdx.x / 32; r < TILE; r += WARPS)
        tile[r * 33 + lane] = r0 + r < rows && c0 + lane < cols ? x[(r0 + r) * ld + c0 + lane] : 0;
}

static double *parts(struct dr_backend *be, int64_t n) {
    return static_cast<double *>(dr_cuda_scratch(be, DR_CUDA_OP, (size_t)n * sizeof(double)));
}

// ---- distances
// -----------------------------------------------------------------------------------------

__device__ inline float distance(double square) {
    return (float)sqrt(square < 1e-8 ? 1e-8 : square);
}

// part[chunk][b,n,m] of `cols` columns each, or with a single chunk d itself. A row has thousands
// of columns and a step few pairs: chunks fill the device.
//
// The difference x - y is squared, never |x|^2 + |y|^2 - 2xy: at tau = 0.02 the affinities need D
// to the last bit. Sums are flushed to double every 32 columns, so the error does not grow with s.
__global__ void __launch_bounds__(256)
    k_pair_dist(struct dr_pair_dist_args a, double *part, int64_t cols) {
    DR_SHARED(float, tx);
    float *ty = tx + TILE * 33;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t j0 = (int64_t)blockIdx.x * TILE, i0 = (int64_t)blockIdx.y * TILE;
    const int64_t b = blockIdx.z % a.b, chunk = blockIdx.z / a.b, first = chunk * cols;
    const int64_t end = first + cols < a.s ? first + cols : a.s;
    const float *x = a.x + b * a.n * a.s, *y = a.y + b * a.m * a.s;
    double sum[PER] = {};
    for (int64_t c0 = first; c0 < end; c0 += TILE) {
        __syncthreads();
        load_square(tx, x, a.s, i0, a.n, c0, end);
        load_square(ty, y, a.s, j0, a.m, c0, end);
        __syncthreads();
        float sq[PER] = {};
        for (int c = 0; c < TILE; c++) {
            const float v = ty[lane * 33 + c];
            for (int r = 0; r < PER; r++) {
                const float e = tx[(warp + r * WARPS) * 33 + c] - v;
                sq[r] += e * e;
            }
        }
        for (int r = 0; r < PER; r++)
            sum[r] += (double)sq[r];
    }
    for (int r = 0; r < PER; r++) {
        const int64_t i = i0 + warp + r * WARPS, j = j0 + lane;
        if (i >= a.n || j >= a.m)
            continue;
        if (part)
            part[((chunk * a.b + b) * a.n + i) * a.m + j] = sum[r];
        else
            a.d[(b * a.n + i) * a.m + j] = distance(sum[r]);
    }
}

struct pair_root_f { // d from the parts, in order
    float *d;
    const double *part;
    int64_t n, chunks;
    template <int V> __device__ void run(int64_t i) const {
        double sum = 0;
        for (int64_t c = 0; c < chunks; c++)
            sum += part[c * n + i];
        d[i] = distance(sum);
    }
};

static void pair_dist(struct dr_backend *be, const struct dr_pair_dist_args *a) {
    const int64_t pairs = a->b * a->n * a->m;
    if (pairs <= 0)
        return;
    const int64_t most = DEEP / a->b, want = ceil_div(a->s, PAIR_COLS);
    const int64_t upto = want < most ? want : most;
    const int64_t cols = ceil_div(ceil_div(a->s, upto), TILE) * TILE, chunks = ceil_div(a->s, cols);
    const dim3 grid(blocks_for(a->m, TILE), blocks_for(a->n, TILE), (unsigned)(a->b * chunks));
    double *part = chunks > 1 ? parts(be, chunks * pairs) : NULL;
    if (chunks > 1 && !part)
        return;
    DR_LAUNCH(be, k_pair_dist, grid, 256, 2 * TILE * 33 * sizeof(float), *a, part, cols);
    const pair_root_f f = {a->d, part, pairs, chunks};
    if (part)
        DR_FLAT(be, f, pairs, false);
}

void dr_cuda_pair_dist(struct dr_backend *be, const struct dr_pair_dist_args *args) {
    struct dr_pair_dist_args a = *args;
    for (int64_t from = 0; from < args->b; from += DEEP) {
        a.b = args->b - from < DEEP ? args->b - from : DEEP;
        pair_dist(be, &a);
        a.d += a.b * a.n * a.m;
        a.x += a.b * a.n * a.s;
        a.y += a.b * a.m * a.s;
    }
}

// ---- scale
// ---------------------------------------------------------------------------------------------

// part[row] = {sum D w, sum D, sum D^2, sum of w (the group's first row only)}
__global__ void __launch_bounds__(128) k_sums_rows(struct dr_drift_sums_args a, double *part) {
    DR_SHARED(double, s);
    const int64_t row = blockIdx.x, b = row / a.n;
    const float *d = a.d + row * a.m, *w = a.w ? a.w + b * a.m : NULL;
    double sum[4] = {};
    for (int64_t j = threadIdx.x; j < a.m; j += blockDim.x) {
        const double v = d[j], wj = w ? (double)w[j] : 1;
        sum[0] += v * wj;
        sum[1] += v;
        sum[2] += v * v;
        sum[3] += row % a.n ? 0 : wj;
    }
    for (int k = 0; k < 4; k++) {
        const double total = block_sum(sum[k], s);
        if (threadIdx.x == 0)
            part[row * 4 + k] = total;
    }
}

__global__ void __launch_bounds__(256)
    k_sums_total(struct dr_drift_sums_args a, const double *part) {
    DR_SHARED(double, s);
    double sum[4] = {};
    for (int64_t row = threadIdx.x; row < a.b * a.n; row += blockDim.x)
        for (int k = 0; k < 4; k++)
            sum[k] += part[row * 4 + k];
    for (int k = 0; k < 4; k++)
        sum[k] = block_sum(sum[k], s);
    for (int k = 0; k < 4 && threadIdx.x == 0; k++)
        a.sums[k] = sum[k];
}

void dr_cuda_drift_sums(struct dr_backend *be, const struct dr_drift_sums_args *a) {
    double *part = parts(be, 4 * a->b * a->n);
    if (!part || a->b * a->n <= 0)
        return;
    DR_LAUNCH(be, k_sums_rows, (unsigned)(a->b * a->n), 128, 256, *a, part);
    DR_LAUNCH(be, k_sums_total, 1, 256, 256, *a, part);
}

struct scale_f {
    struct dr_drift_scale_args a;
    template <int V> __device__ void run(int64_t) const {
        const double *sum = a.sums, columns = (double)a.b * (double)a.m;
        const double count = columns * (double)a.n, mean = sum[1] / count;
        a.out[0] = (float)((sum[0] / count) / (sum[3] / columns));
        a.out[1] = (float)mean;
        a.out[2] = (float)(sum[2] / count - mean * mean);
    }
};

void dr_cuda_drift_scale(struct dr_backend *be, const struct dr_drift_scale_args *a) {
    const scale_f f = {*a};
    DR_FLAT(be, f, 1, false);
}

// ---- the field
// -----------------------------------------------------------------------------------------

// sum_j coef_ij (y_j - x_i) / divisor, which is coef y - rowsum(coef) x without its cancellation.
// b: from `first`. part[b][tile]: sums of squares.
__global__ void __launch_bounds__(256)
    k_combine(struct dr_drift_combine_args a, double *part, int64_t first) {
    DR_SHARED(double, slots);
    float *tc = reinterpret_cast<float *>(slots + 32), *ty = tc + TILE * 33;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t k = (int64_t)blockIdx.x * TILE + lane, i0 = (int64_t)blockIdx.y * TILE,
                  b = first + blockIdx.z;
    const float *coef = a.coef + b * a.n * a.m, *y = a.y + b * a.m * a.s;
    float xi[PER], sum[PER] = {};
    for (int r = 0; r < PER; r++) {
        const int64_t i = i0 + warp + r * WARPS;
        xi[r] = i < a.n && k < a.s ? a.x[(b * a.n + i) * a.s + k] : 0;
    }
    for (int64_t j0 = 0; j0 < a.m; j0 += TILE) {
        __syncthreads();
        load_square(tc, coef, a.m, i0, a.n, j0, a.m);
        load_square(ty, y, a.s, j0, a.m, k - lane, a.s);
        __syncthreads();
        for (int j = 0; j < TILE; j++)
            for (int r = 0; r < PER; r++)
                sum[r] += tc[(warp + r * WARPS) * 33 + j] * (ty[j * 33 + lane] - xi[r]);
    }
    const float divisor = feature_divisor(a.scale, a.s);
    double square = 0;
    for (int r = 0; r < PER; r++) {
        const int64_t i = i0 + warp + r * WARPS;
        const float v = sum[r] / divisor;
        if (i < a.n && k < a.s) {
            a.v[(b * a.n + i) * a.s + k] = v;
            square += (double)v * (double)v;
        }
    }
    square = block_sum(square, slots);
    if (threadIdx.x == 0)
        part[(b * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] = square;
}

// out[block] = sum of n parts
__global__ void __launch_bounds__(256) k_add_parts(double *out, const double *part, int64_t n) {
    DR_SHARED(double, s);
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        sum += part[blockIdx.x * n + i];
    sum = block_sum(sum, s);
    if (threadIdx.x == 0)
        out[blockIdx.x] = sum;
}

void dr_cuda_drift_combine(struct dr_backend *be, const struct dr_drift_combine_args *a) {
    dim3 grid(blocks_for(a->s, TILE), blocks_for(a->n, TILE));
    const int64_t tiles = (int64_t)grid.x * grid.y;
    const size_t bytes = 32 * sizeof(double) + 2 * TILE * 33 * sizeof(float);
    double *part = parts(be, tiles * a->b);
    if (!part || a->b * a->n * a->s <= 0)
        return;
    for (int64_t from = 0; from < a->b; from += DEEP) {
        grid.z = (unsigned)(a->b - from < DEEP ? a->b - from : DEEP);
        DR_LAUNCH(be, k_combine, grid, 256, bytes, *a, part, from);
    }
    const int64_t groups = a->per_group ? a->b : 1, n = a->per_group ? tiles : tiles * a->b;
    DR_LAUNCH(be, k_add_parts, (unsigned)groups, 256, 256, a->sumsq, part, n);
}

struct mean_f {
    struct dr_drift_mean_args a;
    template <int V> __device__ void run(int64_t i) const {
        a.out[i] = (float)(a.sums[i] / a.count);
    }
};

void dr_cuda_drift_mean(struct dr_backend *be, const struct dr_drift_mean_args *a) {
    const mean_f f = {*a};
    DR_FLAT(be, f, a->n, false);
}

struct accumulate_f {
    struct dr_drift_accumulate_args a;
    template <int V> __device__ void run(int64_t i) const {
        const float v2 = a.v2[a.per_group ? i / (a.n * a.s) : 0];
        const float f = 1 / (a.l2 ? sqrtf(v2 + 1e-8f) + 1e-8f : sqrtf(v2 < 1e-8f ? 1e-8f : v2));
        float x[V], t[V];
        load(x, a.v + i);
        for (int k = 0; k < V; k++)
            x[k] *= f;
        if (a.acc) {
            load(t, a.total + i);
            for (int k = 0; k < V; k++)
                x[k] += t[k];
        }
        store(a.total + i, x);
    }
};

void dr_cuda_drift_accumulate(struct dr_backend *be, const struct dr_drift_accumulate_args *a) {
    const accumulate_f f = {*a};
    DR_FLAT(be, f, a->b * a->n * a->s, a->n * a->s % 4 == 0 && wide(a->total, a->v));
}

// ---- loss and gradient
// -----------------------------------------------------------------------------------

__global__ void __launch_bounds__(128) k_drift_grad(struct dr_drift_grad_args a, double *part) {
    DR_SHARED(double, s);
    const int64_t at = (int64_t)blockIdx.x * a.s;
    const double count = (double)a.groups * (double)a.n * (double)a.s;
    const float f = (float)(-2 * (double)a.weight / count / (double)feature_divisor(a.scale, a.s));
    double sum = 0;
    for (int64_t i = threadIdx.x; i < a.s; i += blockDim.x) {
        const float v = a.total[at + i];
        a.dx[at + i] = v * f;
        sum += (double)v * (double)v;
    }
    sum = block_sum(sum, s);
    const double most = (double)a.max_rms * (double)a.max_rms * (double)a.s;
    if (a.max_rms > 0 && sum > most) { // to that length; a NaN stays one
        const float k = (float)sqrt(most / sum);
        for (int64_t i = threadIdx.x; i < a.s; i += blockDim.x)
            a.dx[at + i] *= k; // its own lane's values
        sum *= most / sum;
    }
    if (threadIdx.x == 0)
        part[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(256)
    k_loss_total(float *loss, const double *part, int64_t n, double weight) {
    DR_SHARED(double, s);
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        sum += part[i];
    sum = block_sum(sum, s);
    if (threadIdx.x == 0)
        loss[0] += (float)(weight * sum);
}

void dr_cuda_drift_grad(struct dr_backend *be, const struct dr_drift_grad_args *a) {
    const int64_t rows = a->b * a->n;
    double *part = parts(be, rows);
    if (!part || rows * a->s <= 0)
        return;
    const double count = (double)a->groups * (double)a->n * (double)a->s;
    DR_LAUNCH(be, k_drift_grad, (unsigned)rows, 128, 256, *a, part);
    DR_LAUNCH(be, k_loss_total, 1, 256, 256, a->loss, part, rows, (double)a->weight / count);
}
