// PNG by libpng: palette, 1 to 16 bits, grey, alpha over the background. Large pictures are
// averaged down by a whole factor while their rows are read, unless they are interlaced.
#include "engine/io/picture_priv.h"

#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define CHUNK_MAX (16u << 20)
#define CHUNKS_MAX 4 // of those that libpng would keep

struct source {
    const uint8_t *p;
    size_t n;
    jmp_buf jmp;
    char msg[160];
};

static void on_error(png_structp png, png_const_charp msg) {
    struct source *s = png_get_error_ptr(png);
    snprintf(s->msg, sizeof s->msg, "%s", msg);
    longjmp(s->jmp, 1);
}

static void on_warning(png_structp png, png_const_charp msg) {
    (void)png, (void)msg;
}

static void on_read(png_structp png, png_bytep to, size_t n) {
    struct source *s = png_get_io_ptr(png);
    if (n > s->n)
        png_error(png, "the file ends too early");
    memcpy(to, s->p, n);
    s->p += n;
    s->n -= n;
}

// What the rows are turned into.
struct rows {
    const struct dr_picture_options *o;
    int64_t w, h, cin, by; // stored; channels of a row; divisor of both sides
    bool interlaced;
    uint8_t *row, *flat; // [w,cin]; [w,c] without alpha
    uint64_t *sum;       // [out->w,c] of `by` rows
    uint8_t *all;        // [h,w,cin], interlaced only
};

static void ask_for_bytes(png_structp png, png_infop info) {
    png_set_expand(png); // palettes to rgb, fewer bits to 8, tRNS to alpha
    png_set_scale_16(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
}

// The means of blocks of `rows` rows; the last may have fewer than `by` columns.
static void take_means(const struct rows *r, int64_t rows, int64_t w, int64_t c, uint8_t *to) {
    for (int64_t x = 0; x < w; x++) {
        const uint64_t area = (uint64_t)(rows * DR_MIN(r->by, r->w - x * r->by));
        for (int64_t k = x * c; k < (x + 1) * c; k++)
            to[k] = (uint8_t)((r->sum[k] + area / 2) / area);
    }
}

// One stored row to the picture: over the background, and into the sums of its block.
static void take_row(const struct rows *r, int64_t y, const uint8_t *row, struct dr_picture *out) {
    const bool alpha = r->cin == 2 || r->cin == 4;
    const int64_t c = out->c, n = out->w * c;
    uint8_t *to = out->pixels + y / r->by * n;
    if (alpha)
        picture_over(row, r->w, r->cin, r->o->background, r->by == 1 ? to : r->flat, c);
    else if (r->by == 1)
        memcpy(to, row, (size_t)n);
    if (r->by == 1)
        return;
    const uint8_t *in = alpha ? r->flat : row;
    if (y % r->by == 0)
        memset(r->sum, 0, (size_t)n * sizeof *r->sum);
    for (int64_t x = 0; x < r->w; x++)
        for (int64_t k = 0; k < c; k++)
            r->sum[x / r->by * c + k] += in[x * c + k];
    if (y % r->by == r->by - 1 || y == r->h - 1)
        take_means(r, y % r->by + 1, out->w, c, to);
}

static int allocate(struct rows *r, struct dr_picture *out, struct dr_err *err) {
    const bool alpha = r->cin == 2 || r->cin == 4;
    const int64_t c = r->cin > 2 || (alpha && !picture_grey(r->o->background)) ? 3 : 1;
    const int64_t dw = (r->w + r->by - 1) / r->by, dh = (r->h + r->by - 1) / r->by;
    const int64_t held = r->interlaced ? r->h * r->w : dh * dw; // pixels in memory
    int rc = picture_start(r->o, r->w, r->h, dw, held / DR_MAX(dw, 1), c, out, err);
    if (rc)
        return rc;
    out->h = dh;
    picture_reduced(out, (double)r->by);
    const size_t wide = (size_t)(r->w * r->cin);
    r->row = malloc(wide);
    r->flat = malloc((size_t)(r->w * c));
    r->sum = malloc((size_t)(dw * c) * sizeof *r->sum);
    r->all = r->interlaced ? malloc(wide * (size_t)r->h) : NULL;
    if (!r->row || !r->flat || !r->sum || (r->interlaced && !r->all))
        return dr_fail(err, DR_ENOMEM, "no memory for a PNG of %lldx%lld pixels", (long long)r->w,
                       (long long)r->h);
    return 0;
}

static void read_rows(png_structp png, const struct rows *r, struct dr_picture *out) {
    const size_t wide = (size_t)(r->w * r->cin);
    const int passes = r->interlaced ? 7 : 1;
    for (int pass = 0; pass < passes; pass++)
        for (int64_t y = 0; y < r->h; y++) {
            uint8_t *row = r->interlaced ? r->all + (size_t)y * wide : r->row;
            png_read_row(png, row, NULL);
            if (pass == passes - 1)
                take_row(r, y, row, out);
        }
    png_read_end(png, NULL);
}

// EXIF is a chunk, before the pixels or after them: size, name, bytes, checksum. libpng would have
// to read all pixels to find the latter, also to probe.
static int orientation_of(const uint8_t *p, size_t n) {
    enum { SIGNATURE = 8, AROUND = 12 }; // bytes; the latter beside those of the chunk itself
    for (size_t at = SIGNATURE; at + AROUND <= n;) {
        const uint32_t size = png_get_uint_32(p + at);
        const uint8_t *name = p + at + 4, *chunk = name + 4;
        if (size > n - at - AROUND)
            break;
        if (!memcmp(name, "eXIf", 4) && crc32(0, name, size + 4) == png_get_uint_32(chunk + size))
            return dr_exif_orientation(chunk, size);
        at += AROUND + (size_t)size;
    }
    return 1;
}

// libpng reads the picture and its transparency only. Text and profiles, a thousand of up to
// CHUNK_MAX each, would be unpacked and kept before the first row.
static void limit_chunks(png_structp png) {
    const int all = -1;
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, all);
    png_set_chunk_cache_max(png, CHUNKS_MAX);
    png_set_chunk_malloc_max(png, CHUNK_MAX);
}

// Everything that can longjmp happens here; the buffers are freed by the caller.
static int decode(png_structp png, png_infop info, struct source *s, struct rows *r, bool probe,
                  struct dr_picture *out, struct dr_err *err) {
    if (setjmp(s->jmp))
        return dr_fail(err, DR_EFORMAT, "damaged PNG: %s", s->msg);
    png_set_read_fn(png, s, on_read);
    png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    limit_chunks(png);
    png_read_info(png, info);
    r->w = png_get_image_width(png, info);
    r->h = png_get_image_height(png, info);
    r->interlaced = png_get_interlace_type(png, info) != PNG_INTERLACE_NONE;
    r->by = picture_reduction(r->o, r->w, r->h);
    // Before libpng takes memory for its rows.
    if (!probe && (r->w > r->o->max_pixels / r->h || r->w / r->by > r->o->max_decoded))
        return picture_start(r->o, r->w, r->h, r->w / r->by, 1, 1, out, err);
    if (probe) {
        const int type = png_get_color_type(png, info);
        *out = (struct dr_picture){.w = r->w,
                                   .h = r->h,
                                   .c = type & PNG_COLOR_MASK_COLOR ? 3 : 1,
                                   .full_w = r->w,
                                   .full_h = r->h};
        return 0;
    }
    ask_for_bytes(png, info);
    r->cin = png_get_channels(png, info);
    int rc = allocate(r, out, err);
    if (!rc)
        read_rows(png, r, out);
    return rc;
}

int picture_png(const uint8_t *p, size_t n, const struct dr_picture_options *o, bool probe,
                struct dr_picture *out, int *orientation, struct dr_err *err) {
    struct source s = {.p = p, .n = n};
    struct rows r = {.o = o};
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &s, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    *orientation = orientation_of(p, n);
    int rc = info ? decode(png, info, &s, &r, probe, out, err)
                  : dr_fail(err, DR_ENOMEM, "no memory for a PNG");
    png_destroy_read_struct(png ? &png : NULL, info ? &info : NULL, NULL);
    free(r.row);
    free(r.flat);
    free(r.sum);
    free(r.all);
    return rc;
}
