// Pictures in: which format, limits, transparency, orientation (see picture.h). The formats are in
// the files beside this one.
#include "engine/io/picture_priv.h"

#include "driftd_config.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    enum dr_picture_format format;
    size_t at, n; // the bytes `magic` stand there
    const char *magic;
} formats[] = {
    {"JPEG", DR_PICTURE_JPEG, 0, 3, "\xff\xd8\xff"},
    {"PNG", DR_PICTURE_PNG, 0, 8, "\x89PNG\r\n\x1a\n"},
    {"WebP", DR_PICTURE_WEBP, 8, 4, "WEBP"},
    {"GIF", DR_PICTURE_OTHER, 0, 4, "GIF8"},
    {"TIFF", DR_PICTURE_OTHER, 0, 4, "II*\0"},
    {"TIFF", DR_PICTURE_OTHER, 0, 4, "MM\0*"},
    {"HEIF or AVIF", DR_PICTURE_OTHER, 4, 4, "ftyp"},
    {"JPEG XL", DR_PICTURE_OTHER, 0, 2, "\xff\x0a"},
    {"JPEG 2000", DR_PICTURE_OTHER, 4, 4, "jP  "},
    {"BMP", DR_PICTURE_OTHER, 0, 2, "BM"},
};

static int row_of(const uint8_t *p, size_t n) {
    for (int i = 0; i < (int)DR_COUNT(formats); i++)
        if (n >= formats[i].at + formats[i].n &&
            !memcmp(p + formats[i].at, formats[i].magic, formats[i].n))
            return i;
    return -1;
}

enum dr_picture_format dr_picture_format(const uint8_t *p, size_t n) {
    const int i = row_of(p, n);
    return i < 0 ? DR_PICTURE_NONE : formats[i].format;
}

const char *dr_picture_format_name(const uint8_t *p, size_t n) {
    const int i = row_of(p, n);
    return i < 0 ? "" : formats[i].name;
}

static uint32_t get(const uint8_t *p, int bytes, bool big) {
    uint32_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint32_t)p[i] << 8 * (big ? bytes - 1 - i : i);
    return v;
}

int dr_exif_orientation(const uint8_t *p, size_t n) {
    enum { ORIENTATION = 0x112, SHORT = 3 };
    if (n < 8 || (memcmp(p, "II*\0", 4) && memcmp(p, "MM\0*", 4)))
        return 1;
    const bool big = p[0] == 'M';
    const size_t at = get(p + 4, 4, big);
    if (at > n - 2)
        return 1;
    const size_t entries = DR_MIN((size_t)get(p + at, 2, big), (n - at - 2) / 12);
    for (size_t i = 0; i < entries; i++) {
        const uint8_t *e = p + at + 2 + 12 * i;
        const uint32_t v = get(e + 8, 2, big);
        if (get(e, 2, big) == ORIENTATION)
            return get(e + 2, 2, big) == SHORT && v >= 1 && v <= 8 ? (int)v : 1;
    }
    return 1;
}

int64_t picture_reduction(const struct dr_picture_options *o, int64_t w, int64_t h) {
    return o->side > 0 ? DR_MAX(DR_MIN(w, h) / (2 * o->side), 1) : 1;
}

int picture_start(const struct dr_picture_options *o, int64_t w, int64_t h, int64_t dw, int64_t dh,
                  int64_t c, struct dr_picture *out, struct dr_err *err) {
    *out = (struct dr_picture){
        .w = dw, .h = dh, .c = c, .full_w = w, .full_h = h, .box = {0, 0, (double)dw, (double)dh}};
    if (w < 1 || h < 1)
        return dr_fail(err, DR_EFORMAT, "the picture has no pixels (%lldx%lld)", (long long)w,
                       (long long)h);
    if (w > o->max_pixels / h)
        return dr_fail(err, DR_EINVAL, "%lldx%lld pixels are more than the limit of %lld",
                       (long long)w, (long long)h, (long long)o->max_pixels);
    if (dw > o->max_decoded / dh)
        return dr_fail(err, DR_EINVAL,
                       "%lldx%lld pixels of this kind need more memory than the limit of %lld "
                       "pixels in memory",
                       (long long)w, (long long)h, (long long)o->max_decoded);
    out->pixels = malloc((size_t)(dw * dh * c));
    return out->pixels ? 0
                       : dr_fail(err, DR_ENOMEM, "no memory for a picture of %lldx%lld pixels",
                                 (long long)dw, (long long)dh);
}

void picture_over(const uint8_t *in, int64_t n, int64_t cin, const uint8_t background[3],
                  uint8_t *out, int64_t c) {
    for (int64_t i = 0; i < n; i++, in += cin)
        for (int64_t k = 0; k < c; k++) {
            const int a = in[cin - 1], v = in[cin > 2 ? k : 0];
            *out++ = (uint8_t)((v * a + background[k] * (255 - a) + 127) / 255);
        }
}

// Upright: the pixel at (x, y) comes from column sx or row sy of the stored picture.
static int turn(struct dr_picture *p, int orientation, struct dr_err *err) {
    const bool swap = orientation >= 5;
    const int64_t w = swap ? p->h : p->w, h = swap ? p->w : p->h, c = p->c;
    // of the stored picture: whether its columns and its rows are read backwards
    static const bool back_x[9] = {[2] = 1, [3] = 1, [7] = 1, [8] = 1};
    static const bool back_y[9] = {[3] = 1, [4] = 1, [6] = 1, [7] = 1};
    uint8_t *out = p->pixels ? malloc((size_t)(w * h * c)) : NULL, *o = out;
    if (p->pixels && !out)
        return dr_fail(err, DR_ENOMEM, "no memory to turn a picture");
    for (int64_t y = 0; y < h && o; y++)
        for (int64_t x = 0; x < w; x++, o += c) {
            const int64_t u = swap ? y : x, v = swap ? x : y;
            const int64_t sx = back_x[orientation] ? p->w - 1 - u : u;
            const int64_t sy = back_y[orientation] ? p->h - 1 - v : v;
            memcpy(o, p->pixels + (sy * p->w + sx) * c, (size_t)c);
        }
    free(p->pixels);
    const struct dr_box b = p->box;
    const double left = back_x[orientation] ? (double)p->w - b.x - b.w : b.x;
    const double top = back_y[orientation] ? (double)p->h - b.y - b.h : b.y;
    p->box = swap ? (struct dr_box){top, left, b.h, b.w} : (struct dr_box){left, top, b.w, b.h};
    const int64_t full_w = p->full_w;
    p->pixels = out;
    p->w = w;
    p->h = h;
    p->full_w = swap ? p->full_h : full_w;
    p->full_h = swap ? full_w : p->full_h;
    return 0;
}

static int decode(const uint8_t *p, size_t n, const struct dr_picture_options *o, bool probe,
                  struct dr_picture *out, struct dr_err *err) {
    static picture_decoder *const decoders[] = {
#if DR_HAVE_JPEG
        [DR_PICTURE_JPEG] = picture_jpeg,
#endif
        [DR_PICTURE_PNG] = picture_png,
#if DR_HAVE_WEBP
        [DR_PICTURE_WEBP] = picture_webp,
#endif
        [DR_PICTURE_OTHER] = NULL,
    };
    const enum dr_picture_format f = dr_picture_format(p, n);
    int orientation = 1;
    *out = (struct dr_picture){0};
    if (!n)
        return dr_fail(err, DR_EFORMAT, "the file is empty");
    if (f == DR_PICTURE_NONE)
        return dr_fail(err, DR_EFORMAT, "not a picture: neither JPEG, PNG nor WebP");
    if (f == DR_PICTURE_OTHER)
        return dr_fail(err, DR_EUNSUPPORTED, "%s is not read; convert it to JPEG, PNG or WebP",
                       dr_picture_format_name(p, n));
    if (!decoders[f])
        return dr_fail(err, DR_EUNSUPPORTED,
                       "this build reads no %s: it was made without its library",
                       dr_picture_format_name(p, n));
    int rc = decoders[f](p, n, o, probe, out, &orientation, err);
    if (!rc && orientation > 1)
        rc = turn(out, orientation, err);
    if (rc)
        dr_picture_free(out);
    return rc;
}

int dr_picture_probe(const uint8_t *p, size_t n, struct dr_picture *out, struct dr_err *err) {
    const struct dr_picture_options o = {0};
    return decode(p, n, &o, true, out, err);
}

int dr_picture_decode(const uint8_t *p, size_t n, const struct dr_picture_options *o,
                      struct dr_picture *out, struct dr_err *err) {
    return decode(p, n, o, false, out, err);
}

void dr_picture_free(struct dr_picture *p) {
    if (!p)
        return;
    free(p->pixels);
    *p = (struct dr_picture){0};
}
