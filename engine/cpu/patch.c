// Images to tokens and back, Fourier features of a scalar. Called through the op table by nn/ at
// the two ends of the generator.
#include "engine/cpu/cpu.h"

#include <math.h>

void dr_cpu_fourier(struct dr_backend *be, const struct dr_fourier_args *a) {
    const int64_t half = a->n / 2;
    (void)be;
    for (int64_t i = 0; i < half; i++) {
        const double f = pow((double)a->max_period, -(double)i / (double)half);
        for (int64_t b = 0; b < a->b; b++) {
            a->out[b * a->n + i] = (real)cos((double)a->val[b] * f);
            a->out[b * a->n + half + i] = (real)sin((double)a->val[b] * f);
        }
    }
    for (int64_t b = 0; a->n % 2 && b < a->b; b++)
        a->out[b * a->n + a->n - 1] = 0;
}

// One image against its tokens: calls COPY(token element, image element) for every element.
#define FOR_PATCHES(a, b, COPY)                                                                    \
    for (int64_t py = 0; py < (a)->h / p; py++)                                                    \
        for (int64_t px = 0; px < (a)->w / p; px++)                                                \
            for (int64_t c = 0; c < (a)->c; c++)                                                   \
                for (int64_t y = 0; y < p; y++)                                                    \
                    for (int64_t x = 0; x < p; x++) {                                              \
                        const int64_t token = ((b) * ((a)->h / p) + py) * ((a)->w / p) + px;       \
                        const int64_t in =                                                         \
                            (a)->hwc ? (y * p + x) * (a)->c + c : (c * p + y) * p + x;             \
                        const int64_t pixel =                                                      \
                            (((b) * (a)->c + c) * (a)->h + py * p + y) * (a)->w + px * p + x;      \
                        COPY(token *(a)->c *p *p + in, pixel);                                     \
                    }

void dr_cpu_patchify(struct dr_backend *be, const struct dr_patchify_args *a) {
    const int64_t p = a->p;
#define COPY(token, pixel) dr_put(a->tokens, a->t, token, a->image[pixel])
    DR_PARALLEL_FOR(be, a->b * a->c * a->h * a->w >= DR_PAYS)
    for (int64_t b = 0; b < a->b; b++)
        FOR_PATCHES(a, b, COPY)
#undef COPY
}

void dr_cpu_unpatchify(struct dr_backend *be, const struct dr_unpatchify_args *a) {
    const int64_t p = a->p;
#define COPY(token, pixel) a->image[pixel] = dr_get(a->tokens, a->t, token)
    DR_PARALLEL_FOR(be, a->b * a->c * a->h * a->w >= DR_PAYS)
    for (int64_t b = 0; b < a->b; b++)
        FOR_PATCHES(a, b, COPY)
#undef COPY
}
