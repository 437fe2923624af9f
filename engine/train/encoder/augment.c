// Augmentation of one image. See augment.h.
#include "engine/train/encoder/augment.h"

#include <math.h>
#include <string.h>

enum { MOVE_Y, MOVE_X, AREA, RATIO, CROP_Y, CROP_X, FLIP, BRIGHT, CONTRAST, SATURATION, DRAWS };

// A rectangle of the area u[AREA] asks for, between 3:4 and 4:3, somewhere in the image.
static void crop(double least, int64_t h, int64_t w, const double *u, struct dr_augment *a) {
    const double area = least + (1 - least) * u[AREA];
    const double ratio = exp((2 * u[RATIO] - 1) * log(4.0 / 3));
    const double ch = fmin((double)h, sqrt(area / ratio) * (double)h);
    const double cw = fmin((double)w, sqrt(area * ratio) * (double)w);
    a->sy = ch / (double)h;
    a->sx = cw / (double)w;
    a->y0 = u[CROP_Y] * ((double)h - ch) + (a->sy - 1) / 2; // centres of pixels
    a->x0 = u[CROP_X] * ((double)w - cw) + (a->sx - 1) / 2;
}

void dr_augment_draw(const struct dr_config *cfg, int64_t h, int64_t w, struct dr_rng *g,
                     struct dr_augment *out) {
    const double pad = (double)cfg->data.crop, j = cfg->encoder.jitter;
    double u[DRAWS];
    for (int i = 0; i < DRAWS; i++)
        u[i] = dr_rng_uniform(g);
    *out = (struct dr_augment){.sy = 1, .sx = 1, .contrast = 1, .saturation = 1};
    if (cfg->encoder.crop_area < 1)
        crop(cfg->encoder.crop_area, h, w, u, out);
    out->y0 += floor(u[MOVE_Y] * (2 * pad + 1)) - pad;
    out->x0 += floor(u[MOVE_X] * (2 * pad + 1)) - pad;
    if (cfg->data.flip && u[FLIP] < 0.5) {
        out->x0 += out->sx * (double)(w - 1);
        out->sx = -out->sx;
    }
    if (j > 0) {
        out->brightness = j * (2 * u[BRIGHT] - 1);
        out->contrast = 1 + j * (2 * u[CONTRAST] - 1);
        out->saturation = 1 + j * (2 * u[SATURATION] - 1);
    }
}

static int64_t mirrored(int64_t i, int64_t n) {
    if (n == 1)
        return 0;
    while (i < 0 || i >= n)
        i = i < 0 ? -i : 2 * (n - 1) - i;
    return i;
}

static double between(const real *row, int64_t x0, int64_t x1, double f) {
    return (1 - f) * (double)row[x0] + f * (double)row[x1];
}

static void show_plane(const struct dr_augment *a, const real *in, int64_t h, int64_t w,
                       real *out) {
    for (int64_t y = 0; y < h; y++) {
        const double sy = a->y0 + (double)y * a->sy, fy = sy - floor(sy);
        const real *r0 = in + mirrored((int64_t)floor(sy), h) * w;
        const real *r1 = in + mirrored((int64_t)floor(sy) + 1, h) * w;
        for (int64_t x = 0; x < w; x++) {
            const double sx = a->x0 + (double)x * a->sx, fx = sx - floor(sx);
            const int64_t x0 = mirrored((int64_t)floor(sx), w);
            const int64_t x1 = mirrored((int64_t)floor(sx) + 1, w);
            const double top = between(r0, x0, x1, fx);
            out[y * w + x] = (real)(fy > 0 ? (1 - fy) * top + fy * between(r1, x0, x1, fx) : top);
        }
    }
}

static void colour(const struct dr_augment *a, int64_t c, int64_t plane, real *x) {
    for (int64_t i = 0; i < plane; i++) {
        double grey = 0;
        for (int64_t k = 0; k < c; k++)
            grey += (double)x[k * plane + i] / (double)c;
        for (int64_t k = 0; k < c; k++) {
            double v = grey + a->saturation * ((double)x[k * plane + i] - grey);
            v = v * a->contrast + a->brightness;
            x[k * plane + i] = (real)fmin(1, fmax(-1, v));
        }
    }
}

void dr_augment_apply(const struct dr_augment *a, const real *in, int64_t c, int64_t h, int64_t w,
                      real *out) {
    const bool same = a->y0 == 0 && a->x0 == 0 && a->sy == 1 && a->sx == 1;
    if (same)
        memcpy(out, in, (size_t)(c * h * w) * sizeof *out);
    for (int64_t k = 0; k < c && !same; k++)
        show_plane(a, in + k * h * w, h, w, out + k * h * w);
    if (a->brightness != 0 || a->contrast != 1 || a->saturation != 1)
        colour(a, c, h * w, out);
}
