// Philox4x32-10, counter-based (Salmon et al. 2011; method.md 8). Public API: any program can
// reproduce the numbers. key = (seed_lo, seed_hi), counter = (block, stream, index_lo, index_hi).
// Pure functions, any thread.
#pragma once

#include "engine/core/types.h"

// Streams. 0 and 1 are public (what /generate uses); training uses the rest with the step in
// `index`.
enum dr_stream {
    DR_STREAM_NOISE = 0,    // generator noise of sample `index` of a request
    DR_STREAM_STYLE = 1,    // style indices of sample `index` of a request
    DR_STREAM_INIT = 16,    // parameter initialisation; index = parameter's number
    DR_STREAM_TRAIN_NOISE,  // index = step * batch + row
    DR_STREAM_TRAIN_STYLE,  // index = step * batch + row
    DR_STREAM_ALPHA,        // index = step
    DR_STREAM_LABEL,        // index = step
    DR_STREAM_DROPOUT,      // index = step
    DR_STREAM_SAMPLER,      // index = step
    DR_STREAM_AUGMENT,      // index = step
    DR_STREAM_DATA,         // synthetic data sets; index = image number
    DR_STREAM_TRAIN_NOISE2, // second generated batch (negatives: independent)
    DR_STREAM_TRAIN_STYLE2,
    DR_STREAM_MASK, // masked squares of an autoencoder; index = step * batch + row
    // The learned field's noise: + 4 per feature, for its reals and its generated samples normals
    // and one number for their scale; index = step * 2^32 + row
    DR_STREAM_FIELD = 1024,
};

// One block of four uint32.
void dr_philox(uint64_t seed, uint32_t block, uint32_t stream, uint64_t index, uint32_t out[4]);
// out[n] standard normals: u = (r + 0.5) 2^-32, Box-Muller, computed in double, rounded once.
void dr_normals(uint64_t seed, uint32_t stream, uint64_t index, real *out, int64_t n);
// out[n] = floor(r * range / 2^32).
void dr_indices(uint64_t seed, uint32_t stream, uint64_t index, uint32_t range, int32_t *out,
                int64_t n);

// A sequential reader of one (seed, stream, index) sequence, for host-side draws.
struct dr_rng {
    uint64_t seed, index;
    uint32_t stream, block, left;
    uint32_t r[4];
};
void dr_rng_init(struct dr_rng *g, uint64_t seed, uint32_t stream, uint64_t index);
uint32_t dr_rng_u32(struct dr_rng *g);
double dr_rng_uniform(struct dr_rng *g);                 // (r + 0.5) 2^-32, in (0,1)
uint32_t dr_rng_below(struct dr_rng *g, uint32_t range); // floor(r * range / 2^32)
double dr_rng_normal(struct dr_rng *g);                  // Box-Muller, one value (two draws)
