// A decoded picture brought to the size and channels of its set: cropped, padded or stretched, with
// antialiased bicubic resampling. What is cut out is a matter of the stored picture, whether it was
// reduced while it was decoded or not. Called per picture, on any thread.
#include "engine/data/pictures_priv.h"

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

// The part [h,w] at (x, y) of the picture as it is stored, to out [oh,ow,c]: what was decoded may
// have fewer pixels, and the part's edges lie within them.
static int resize(const struct dr_picture *p, int64_t x, int64_t y, int64_t w, int64_t h,
                  uint8_t *out, int64_t oh, int64_t ow, struct dr_err *err) {
    const double sx = p->box.w / (double)p->full_w, sy = p->box.h / (double)p->full_h;
    const struct dr_box box = {p->box.x + (double)x * sx, p->box.y + (double)y * sy, (double)w * sx,
                               (double)h * sy};
    return dr_resize_box_u8(p->pixels, p->h, p->w, p->c, p->w * p->c, DR_FILTER_BICUBIC, &box, out,
                            oh, ow, err);
}

// The picture, resized to ow x oh, in the middle of the background; odd remainders go to the right
// and bottom.
static int place(const struct dr_import_options *o, const struct dr_picture *p, int64_t ow,
                 int64_t oh, uint8_t *square, struct dr_err *err) {
    const int64_t s = o->size, c = p->c;
    uint8_t *small = malloc((size_t)(ow * oh * c));
    if (!small)
        return dr_fail(err, DR_ENOMEM, "no memory to fit a picture");
    int rc = resize(p, 0, 0, p->full_w, p->full_h, small, oh, ow, err);
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
    const int64_t s = o->size, w = p->full_w, h = p->full_h;
    const int64_t side = DR_MIN(w, h), most = DR_MAX(w, h);
    switch (o->fit) {
    case DR_FIT_CROP:
        return resize(p, (w - side) / 2, (h - side) / 2, side, side, out, s, s, err);
    case DR_FIT_FIT:
        return place(o, p, scaled(w, s, most), scaled(h, s, most), out, err);
    case DR_FIT_PAD: // is not reduced
        if (most > s)
            return dr_fail(err, DR_EINVAL,
                           "%lldx%lld pixels do not fit into %lldx%lld by padding (use fit crop, "
                           "fit or resize)",
                           (long long)w, (long long)h, (long long)s, (long long)s);
        return place(o, p, w, h, out, err);
    default:
        return resize(p, 0, 0, w, h, out, s, s, err);
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
