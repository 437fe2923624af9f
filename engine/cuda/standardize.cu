// Standardisation of features (method.md 2, features.standardize): statistics by group and column,
// and their use. Called by engine/loss/features.c through the op table.
#include "engine/cuda/device.h"

// A thread has one column of one group; its rows come in order, x before y.
__global__ void __launch_bounds__(256) k_column_stats(struct dr_column_stats_args a) {
    const int64_t at = (int64_t)blockIdx.x * 256 + threadIdx.x, b = at / a.s, k = at % a.s;
    if (b >= a.b)
        return;
    const float *x = a.x + b * a.n * a.s + k, *y = a.y + b * a.m * a.s + k;
    const double count = (double)(a.n + a.m);
    double mean = 0, square = 0;
    for (int64_t i = 0; i < a.n; i++)
        mean += (double)x[i * a.s];
    for (int64_t i = 0; i < a.m; i++)
        mean += (double)y[i * a.s];
    mean /= count;
    for (int64_t i = 0; i < a.n; i++)
        square += ((double)x[i * a.s] - mean) * ((double)x[i * a.s] - mean);
    for (int64_t i = 0; i < a.m; i++)
        square += ((double)y[i * a.s] - mean) * ((double)y[i * a.s] - mean);
    a.mean[at] = (float)mean;
    a.rstd[at] = (float)(1 / sqrt(square / count + (double)a.eps));
}

void dr_cuda_column_stats(struct dr_backend *be, const struct dr_column_stats_args *a) {
    if (a->b * a->s > 0)
        DR_LAUNCH(be, k_column_stats, blocks_for(a->b * a->s, 256), 256, 0, *a);
}

struct standardize_f {
    struct dr_standardize_args a;
    template <int V> __device__ void run(int64_t i) const {
        const int64_t one = a.n * a.s, at = i / one * a.s + i % a.s;
        float x[V], mean[V], rstd[V];
        load(x, a.x + (a.shared ? i % one : i));
        load(rstd, a.rstd + at);
        if (a.mean) {
            load(mean, a.mean + at);
            for (int k = 0; k < V; k++)
                x[k] -= mean[k];
        }
        for (int k = 0; k < V; k++)
            x[k] *= rstd[k];
        store(a.y + i, x);
    }
};

void dr_cuda_standardize(struct dr_backend *be, const struct dr_standardize_args *a) {
    const standardize_f f = {*a};
    DR_FLAT(be, f, a->b * a->n * a->s, a->s % 4 == 0 && wide(a->y, a->x, a->mean, a->rstd));
}
