// Energy distance between two samples (Szekely and Rizzo), in double on the host. See drift.h.
#include "engine/loss/drift.h"

#include <math.h>

static double mean_distance(const real *x, int64_t n, const real *y, int64_t m, int64_t s) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < m; j++) {
            double sq = 0;
            for (int64_t k = 0; k < s; k++) {
                double e = (double)x[i * s + k] - (double)y[j * s + k];
                sq += e * e;
            }
            sum += sqrt(sq);
        }
    return sum / ((double)n * (double)m);
}

double dr_energy_distance(const real *x, int64_t n, const real *y, int64_t m, int64_t s) {
    return 2 * mean_distance(x, n, y, m, s) - mean_distance(x, n, x, n, s) -
           mean_distance(y, m, y, m, s);
}
