// Philox4x32-10 and what is drawn from it. See rng.h.
#include "engine/core/rng.h"

#include <math.h>

void dr_philox(uint64_t seed, uint32_t block, uint32_t stream, uint64_t index, uint32_t out[4]) {
    uint32_t c0 = block, c1 = stream, c2 = (uint32_t)index, c3 = (uint32_t)(index >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static double unit(uint32_t r) {
    return ((double)r + 0.5) * 0x1p-32;
}

void dr_normals(uint64_t seed, uint32_t stream, uint64_t index, real *out, int64_t n) {
    for (int64_t i = 0; i < n; i += 4) {
        uint32_t r[4];
        dr_philox(seed, (uint32_t)(i / 4), stream, index, r);
        real z[4];
        for (int j = 0; j < 4; j += 2) {
            double a = sqrt(-2 * log(unit(r[j]))), b = 2 * M_PI * unit(r[j + 1]);
            z[j] = (real)(a * cos(b));
            z[j + 1] = (real)(a * sin(b));
        }
        for (int64_t j = i; j < DR_MIN(i + 4, n); j++)
            out[j] = z[j - i];
    }
}

void dr_indices(uint64_t seed, uint32_t stream, uint64_t index, uint32_t range, int32_t *out,
                int64_t n) {
    for (int64_t i = 0; i < n; i += 4) {
        uint32_t r[4];
        dr_philox(seed, (uint32_t)(i / 4), stream, index, r);
        for (int64_t j = i; j < DR_MIN(i + 4, n); j++)
            out[j] = (int32_t)(((uint64_t)r[j - i] * range) >> 32);
    }
}

void dr_rng_init(struct dr_rng *g, uint64_t seed, uint32_t stream, uint64_t index) {
    *g = (struct dr_rng){.seed = seed, .stream = stream, .index = index};
}

uint32_t dr_rng_u32(struct dr_rng *g) {
    if (!g->left) {
        dr_philox(g->seed, g->block++, g->stream, g->index, g->r);
        g->left = 4;
    }
    return g->r[4 - g->left--];
}

double dr_rng_uniform(struct dr_rng *g) {
    return unit(dr_rng_u32(g));
}

uint32_t dr_rng_below(struct dr_rng *g, uint32_t range) {
    return (uint32_t)(((uint64_t)dr_rng_u32(g) * range) >> 32);
}

double dr_rng_normal(struct dr_rng *g) {
    double a = dr_rng_uniform(g), b = dr_rng_uniform(g);
    return sqrt(-2 * log(a)) * cos(2 * M_PI * b);
}
