// Scaled noise, walks and own noise (noise.h).
#include "daemon/generate/noise.h"

#include "daemon/base/util.h"
#include "engine/core/rng.h"

#include <math.h>
#include <stdlib.h>

bool dd_noise_special(const struct dd_gen_request *r) {
    return r->noise.own || r->noise.steps || r->noise.scaled;
}

// a becomes what lies at `at` on the way to b.
static void slerp(real *a, const real *b, size_t n, double at) {
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    const double cosine = fmin(1, fmax(-1, ab / sqrt(aa * bb))), angle = acos(cosine);
    double u = 1 - at, v = at; // nearly parallel: a straight line
    if (sin(angle) > 1e-6) {
        u = sin((1 - at) * angle) / sin(angle);
        v = sin(at * angle) / sin(angle);
    }
    for (size_t i = 0; i < n; i++)
        a[i] = (real)(u * (double)a[i] + v * (double)b[i]);
}

static void walk(const struct dd_gen_request *r, const struct dd_gen_image *im, size_t count,
                 real *out) {
    if (im->walk >= 1) {
        dr_normals(r->noise.seed2, DR_STREAM_NOISE, im->index, out, (int64_t)count);
        return;
    }
    dr_normals(r->seed, DR_STREAM_NOISE, im->index, out, (int64_t)count);
    if (im->walk <= 0)
        return;
    real *to = dd_xcalloc(count, sizeof *to);
    dr_normals(r->noise.seed2, DR_STREAM_NOISE, im->index, to, (int64_t)count);
    slerp(out, to, count, (double)im->walk);
    free(to);
}

void dd_noise_draw(const struct dd_gen_request *r, int i, size_t count, real *out) {
    if (r->noise.own)
        for (size_t j = 0; j < count; j++)
            out[j] = (real)r->noise.own[(size_t)i * count + j];
    else
        walk(r, &r->images[i], count, out);
    for (size_t j = 0; j < count && r->noise.scaled; j++)
        out[j] = (real)(r->noise.temperature * (double)out[j]);
}
