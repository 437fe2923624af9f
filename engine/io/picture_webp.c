// WebP by libwebp, lossy and lossless, alpha over the background, reduced by its own scaler where
// the picture is large and that scaler is right.
#include "engine/io/picture_priv.h"

#include <stdlib.h>
#include <string.h>
#include <webp/decode.h>

enum { LOSSLESS = 2 }; // WebPBitstreamFeatures.format

// EXIF is a chunk of the RIFF container: name, size, bytes, padded to an even length.
static int orientation_of(const uint8_t *p, size_t n) {
    for (size_t at = 12; at + 8 <= n;) {
        const uint32_t size = (uint32_t)p[at + 4] | (uint32_t)p[at + 5] << 8 |
                              (uint32_t)p[at + 6] << 16 | (uint32_t)p[at + 7] << 24;
        const uint8_t *chunk = p + at + 8;
        if (size > n - at - 8)
            break;
        if (!memcmp(p + at, "EXIF", 4)) {
            const size_t skip = size > 6 && !memcmp(chunk, "Exif\0\0", 6) ? 6 : 0;
            return dr_exif_orientation(chunk + skip, size - skip);
        }
        at += 8 + (size_t)size + (size & 1);
    }
    return 1;
}

static const char *why(VP8StatusCode s) {
    switch (s) {
    case VP8_STATUS_NOT_ENOUGH_DATA:
    case VP8_STATUS_SUSPENDED:
        return "the file ends too early";
    case VP8_STATUS_OUT_OF_MEMORY:
        return "out of memory";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
        return "an unknown feature";
    default:
        return "the bit stream is wrong";
    }
}

// By how much the library reduces the picture. In lossy ones it scales colour and alpha apart, so
// that colours hidden under transparent pixels would show at their edges.
static int64_t reduction(const WebPBitstreamFeatures *f, const struct dr_picture_options *o) {
    const bool apart = f->has_alpha && f->format != LOSSLESS;
    return apart ? 1 : picture_reduction(o, f->width, f->height);
}

int picture_webp(const uint8_t *p, size_t n, const struct dr_picture_options *o, bool probe,
                 struct dr_picture *out, int *orientation, struct dr_err *err) {
    WebPDecoderConfig cfg;
    VP8StatusCode s =
        WebPInitDecoderConfig(&cfg) ? WebPGetFeatures(p, n, &cfg.input) : VP8_STATUS_INVALID_PARAM;
    if (s != VP8_STATUS_OK)
        return dr_fail(err, DR_EFORMAT, "damaged WebP: %s", why(s));
    if (cfg.input.has_animation)
        return dr_fail(err, DR_EUNSUPPORTED, "animated WebP is not read");
    const int64_t w = cfg.input.width, h = cfg.input.height, by = reduction(&cfg.input, o);
    *orientation = orientation_of(p, n);
    if (probe) {
        *out = (struct dr_picture){.w = w, .h = h, .c = 3, .full_w = w, .full_h = h};
        return 0;
    }
    // Its scaler stretches: all of the picture becomes all of the smaller one, without a remainder.
    // The library holds all of a lossless picture, and all of an alpha plane, whatever the scale.
    const bool whole = cfg.input.format == LOSSLESS || cfg.input.has_alpha;
    if (whole && w > o->max_decoded / h && w <= o->max_pixels / h)
        return dr_fail(err, DR_EINVAL,
                       "%lldx%lld pixels of this kind need more memory than the limit of %lld "
                       "pixels in memory",
                       (long long)w, (long long)h, (long long)o->max_decoded);
    int rc = picture_start(o, w, h, w / by, h / by, 3, out, err);
    if (rc)
        return rc;
    const int64_t c = cfg.input.has_alpha ? 4 : 3, pixels = out->w * out->h;
    uint8_t *rgba = c == 4 ? malloc((size_t)(pixels * 4)) : NULL;
    if (c == 4 && !rgba)
        return dr_fail(err, DR_ENOMEM, "no memory for a WebP");
    cfg.options.use_scaling = by > 1;
    cfg.options.scaled_width = (int)out->w;
    cfg.options.scaled_height = (int)out->h;
    cfg.output.colorspace = c == 4 ? MODE_RGBA : MODE_RGB;
    cfg.output.is_external_memory = 1;
    cfg.output.u.RGBA = (WebPRGBABuffer){.rgba = rgba ? rgba : out->pixels,
                                         .stride = (int)(out->w * c),
                                         .size = (size_t)(pixels * c)};
    s = WebPDecode(p, n, &cfg);
    if (s == VP8_STATUS_OK && rgba)
        picture_over(rgba, pixels, 4, o->background, out->pixels, 3);
    WebPFreeDecBuffer(&cfg.output);
    free(rgba);
    return s == VP8_STATUS_OK ? 0 : dr_fail(err, DR_EFORMAT, "damaged WebP: %s", why(s));
}
