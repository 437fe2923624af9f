// A decoded picture brought to the size and channels of its set: cropped, padded or stretched, with
// antialiased bicubic resampling. Called per picture, on any thread.
#include "engine/data/pictures_priv.h"

#include "engine/io/resize.h"

#include <stdlib.h>
#include <string.h>

static uint8_t grey_of(const uint8_t rgb[3]) {
    return (uint8_t)((299 * rgb[0] + 587 * rgb[1] + 114 * rgb[2] + 500) / 1000);
}

// [size,size,c] to planes [channels,size,size].
static void planes(const uint8_t *in, int64_t c, int64_t n, uint8_t *out, int64_t channels) {
    for (int64_t i = 0; i < n; i++, in += c) {
        if (channels == 1)
            out[i] = c == 1 ? in[0] : grey_of(in);
        else
            for (int64_t k = 0; k < 3; k++)
                out[k * n + i] = in[c == 1 ? 0 : k];
    }
}

// The picture, resized to ow x oh, in the middle of the background; odd remainders go to the right
// and bottom.
static int place(const struct dr_import_options *o, const struct dr_picture *p, int64_t ow,
                 int64_t oh, uint8_t *square, struct dr_err *err) {
    const int64_t s = o->size, c = p->c;
    uint8_t *small = malloc((size_t)(ow * oh * c));
    if (!small)
        return dr_fail(err, DR_ENOMEM, "no memory to fit a picture");
    int rc =
        dr_resize_u8(p->pixels, p->h, p->w, c, p->w * c, DR_FILTER_BICUBIC, small, oh, ow, err);
    const uint8_t grey[3] = {grey_of(o->background)};
    for (int64_t i = 0; i < s * s * c; i++)
        square[i] = c == 1 ? grey[0] : o->background[i % 3];
    for (int64_t y = 0; y < oh && !rc; y++)
        memcpy(square + (((s - oh) / 2 + y) * s + (s - ow) / 2) * c, small + y * ow * c,
               (size_t)(ow * c));
    free(small);
    return rc;
}

static int64_t scaled(int64_t side, int64_t size, int64_t longest) {
    return DR_MAX((2 * side * size + longest) / (2 * longest), 1);
}

// To [size,size,c].
static int square(const struct dr_import_options *o, const struct dr_picture *p, uint8_t *out,
                  struct dr_err *err) {
    const int64_t s = o->size, c = p->c, side = DR_MIN(p->w, p->h), most = DR_MAX(p->w, p->h);
    switch (o->fit) {
    case DR_FIT_CROP:
        return dr_resize_u8(p->pixels + ((p->h - side) / 2 * p->w + (p->w - side) / 2) * c, side,
                            side, c, p->w * c, DR_FILTER_BICUBIC, out, s, s, err);
    case DR_FIT_FIT:
        return place(o, p, scaled(p->w, s, most), scaled(p->h, s, most), out, err);
    case DR_FIT_PAD:
        if (most > s)
            return dr_fail(err, DR_EINVAL,
                           "%lldx%lld pixels do not fit into %lldx%lld by padding (use fit crop, "
                           "fit or resize)",
                           (long long)p->full_w, (long long)p->full_h, (long long)s, (long long)s);
        return place(o, p, p->w, p->h, out, err);
    default:
        return dr_resize_u8(p->pixels, p->h, p->w, c, p->w * c, DR_FILTER_BICUBIC, out, s, s, err);
    }
}

int import_fit(const struct dr_import_options *o, const struct dr_picture *p, uint8_t *out,
               struct dr_err *err) {
    // A grey picture on a coloured background becomes a coloured one.
    const bool tint =
        p->c == 1 && o->channels == 3 &&
        (o->background[0] != o->background[1] || o->background[1] != o->background[2]);
    const int64_t n = o->size * o->size, c = tint ? 3 : p->c;
    struct dr_picture rgb = *p;
    uint8_t *buf = malloc((size_t)(n * c));
    if (tint && (rgb.pixels = malloc((size_t)(p->w * p->h * 3)))) {
        for (int64_t i = 0; i < p->w * p->h * 3; i++)
            rgb.pixels[i] = p->pixels[i / 3];
        rgb.c = 3;
    }
    int rc = buf && rgb.pixels ? square(o, &rgb, buf, err)
                               : dr_fail(err, DR_ENOMEM, "no memory to fit a picture");
    if (!rc)
        planes(buf, c, n, out, o->channels);
    if (tint)
        free(rgb.pixels);
    free(buf);
    return rc;
}
