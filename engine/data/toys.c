// Two-dimensional toys (paper, Fig. 3-4): checkerboard, swiss roll, two modes. Called by
// dr_dataset_load; a point is a function of (seed, index).
#include <math.h>

#include "engine/data/data_priv.h"

void dr_toy_point(int set, uint64_t seed, uint64_t index, real out[2]) {
    struct dr_rng g;
    dr_rng_init(&g, seed, DR_STREAM_DATA, index);
    double x, y;
    if (set == DR_DATA_CHECKERBOARD) { // the 8 dark cells of a 4x4 board on [-1,1]^2
        uint32_t cell = dr_rng_below(&g, 8), row = cell / 2, col = 2 * (cell % 2) + row % 2;
        x = -1 + 0.5 * (col + dr_rng_uniform(&g));
        y = -1 + 0.5 * (row + dr_rng_uniform(&g));
    } else if (set == DR_DATA_SWISS_ROLL) { // one and a half turns, outer radius 0.9
        double t = 1.5 * M_PI * (1 + 2 * dr_rng_uniform(&g)), r = 0.9 * t / (4.5 * M_PI);
        x = r * cos(t) + 0.02 * dr_rng_normal(&g);
        y = r * sin(t) + 0.02 * dr_rng_normal(&g);
    } else { // two Gaussians of std 0.1
        x = (dr_rng_below(&g, 2) ? 0.6 : -0.6) + 0.1 * dr_rng_normal(&g);
        y = 0.1 * dr_rng_normal(&g);
    }
    out[0] = (real)x;
    out[1] = (real)y;
}
