// Images of another size brought to data.size. Called by the sets that read files.
#include "engine/data/pictures_priv.h"

#include "engine/io/resize.h"

#include <string.h>

// Centred on black (0, which stands for -1); an odd remainder goes to the right and bottom.
static void pad(const uint8_t *in, int64_t h, int64_t w, uint8_t *out, int64_t size) {
    int64_t y0 = (size - h) / 2, x0 = (size - w) / 2;
    memset(out, 0, (size_t)(size * size));
    for (int64_t y = 0; y < h; y++)
        memcpy(out + (y0 + y) * size + x0, in + y * w, (size_t)w);
}

// Bilinear between pixel centres (source = (target + 0.5) * scale - 0.5, edges clamped). For what
// is not reduced: it would pass over pixels.
static void enlarge(const uint8_t *in, int64_t h, int64_t w, uint8_t *out, int64_t size) {
    float sy = (float)h / (float)size, sx = (float)w / (float)size;
    for (int64_t y = 0; y < size; y++) {
        float fy = DR_MIN(DR_MAX(((float)y + 0.5f) * sy - 0.5f, 0), (float)(h - 1));
        int64_t y0 = (int64_t)fy, y1 = DR_MIN(y0 + 1, h - 1);
        float ty = fy - (float)y0;
        for (int64_t x = 0; x < size; x++) {
            float fx = DR_MIN(DR_MAX(((float)x + 0.5f) * sx - 0.5f, 0), (float)(w - 1));
            int64_t x0 = (int64_t)fx, x1 = DR_MIN(x0 + 1, w - 1);
            float tx = fx - (float)x0;
            float a = in[y0 * w + x0] + tx * (float)(in[y0 * w + x1] - in[y0 * w + x0]);
            float b = in[y1 * w + x0] + tx * (float)(in[y1 * w + x1] - in[y1 * w + x0]);
            out[y * size + x] = (uint8_t)(a + ty * (b - a) + 0.5f);
        }
    }
}

int dr_fit_check(const struct dr_data_config *cfg, int64_t h, int64_t w, struct dr_err *err) {
    if (cfg->fit != DR_FIT_PAD || (h <= cfg->size && w <= cfg->size))
        return 0;
    return dr_fail_at(err, DR_ECONFIG, "data.size",
                      "data.size %lld cannot be reached by padding images of %lldx%lld: use "
                      "data.fit \"resize\" or a size of at least %lld",
                      (long long)cfg->size, (long long)h, (long long)w, (long long)DR_MAX(h, w));
}

int dr_fit_plane(const struct dr_data_config *cfg, const uint8_t *in, int64_t h, int64_t w,
                 uint8_t *out, struct dr_err *err) {
    if (cfg->fit == DR_FIT_CROP || cfg->fit == DR_FIT_FIT) { // as pictures are, on black
        const struct dr_import_options o = {.size = cfg->size, .channels = 1, .fit = cfg->fit};
        const struct dr_picture p = {.w = w,
                                     .h = h,
                                     .c = 1,
                                     .full_w = w,
                                     .full_h = h,
                                     .box = {0, 0, (double)w, (double)h},
                                     .pixels = (uint8_t *)(uintptr_t)in};
        return import_fit(&o, &p, out, err);
    }
    if (cfg->fit != DR_FIT_PAD && (h > cfg->size || w > cfg->size))
        return dr_resize_u8(in, h, w, 1, w, DR_FILTER_TRIANGLE, out, cfg->size, cfg->size, err);
    (cfg->fit == DR_FIT_PAD ? pad : enlarge)(in, h, w, out, cfg->size);
    return 0;
}
