// Images out: pixel rounding, PNG grids, npy (see image.h). Called for replies and for the
// trainer's sample grids. libpng writes the chunks; the contents of IDAT are filtered here and
// compressed by libdeflate in one go, as zlib took a tenth of the time of a small network's images.
#include "engine/io/image.h"

#include <inttypes.h>
#include <libdeflate.h>
#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GREY 128
#define SIDE_MAX 1000000 // libpng's own limit
#define PLANES_MAX 64
#define BYTES_MAX ((int64_t)1 << 30)

void dr_bytes_free(struct dr_bytes *b) {
    if (!b)
        return;
    free(b->p);
    *b = (struct dr_bytes){0};
}

// Rounds by what the addition to a large number leaves: to even, as rint does, in vectors.
void dr_to_pixels(const real *x, int64_t n, uint8_t *out) {
#ifdef DR_DOUBLE
    const real big = 0x1.8p52;
#else
    const real big = 0x1.8p23f;
#endif
    for (int64_t i = 0; i < n; i++) {
        real v = x[i] > -1 ? x[i] : -1; // NaN becomes -1, black
        v = v < 1 ? v : 1;
        v = (v + 1) * (real)127.5 + big;
        out[i] = (uint8_t)(int)(v - big);
    }
}

struct grid {
    const real *x;
    int64_t n, c, h, w, cols, scale, gap; // planes: c 1, and w is that of all channels
    int64_t planes;                       // channels side by side; 1: none
    int64_t width, height;                // of the picture, pixels
};

// The pixels of image k as planes [c,h,w]; channels that are to lie side by side become one plane.
static void take_pixels(const struct grid *g, int64_t k, uint8_t *px, uint8_t *tmp) {
    const int64_t n = g->c * g->h * g->w, side = g->w / g->planes;
    dr_to_pixels(g->x + k * n, n, g->planes > 1 ? tmp : px);
    for (int64_t p = 0; p < g->planes && g->planes > 1; p++)
        for (int64_t y = 0; y < g->h; y++)
            memcpy(px + y * g->w + p * side, tmp + (p * g->h + y) * side, (size_t)side);
}

// Rows of the whole picture as PNG wants them, [height] of a filter's number and [width,c]; the
// number is set later.
static uint8_t *draw(const struct grid *g) {
    int64_t plane = g->h * g->w, row = g->width * g->c + 1;
    uint8_t *pic = malloc((size_t)(g->height * row)), *px = malloc((size_t)(2 * g->c * plane));
    if (!pic || !px) {
        free(pic);
        free(px);
        return NULL;
    }
    memset(pic, GREY, (size_t)(g->height * row));
    for (int64_t k = 0; k < g->n; k++) {
        take_pixels(g, k, px, px + g->c * plane);
        int64_t y0 = k / g->cols * (g->h * g->scale + g->gap);
        int64_t x0 = k % g->cols * (g->w * g->scale + g->gap);
        for (int64_t y = 0; y < g->h * g->scale; y++) {
            uint8_t *o = pic + (y0 + y) * row + 1 + x0 * g->c;
            const uint8_t *in = px + y / g->scale * g->w;
            if (y % g->scale) // as the row above
                memcpy(o, o - row, (size_t)(g->w * g->scale * g->c));
            else if (g->c == 1 && g->scale == 1)
                memcpy(o, in, (size_t)g->w);
            else
                for (int64_t x = 0; x < g->w; x++)
                    for (int64_t s = 0; s < g->scale; s++)
                        for (int64_t ch = 0; ch < g->c; ch++)
                            *o++ = in[ch * plane + x];
        }
    }
    free(px);
    return pic;
}

static uint8_t paeth(int left, int up, int corner) {
    int p = left + up - corner, a = abs(p - left), b = abs(p - up), c = abs(p - corner);
    return (uint8_t)(a <= b && a <= c ? left : b <= c ? up : corner);
}

// Filters the rows in place, from the last one on. Enlarged pictures repeat whole rows, which Up
// turns to zeros; the low bits of generated grey ones are better left alone.
static void filter(const struct grid *g, uint8_t *pic) {
    enum { NONE = 0, UP = 2, PAETH = 4 };
    const int64_t n = g->width * g->c, row = n + 1, c = g->c;
    const uint8_t kind = g->scale > 1 ? UP : c > 1 ? PAETH : NONE;
    for (int64_t y = g->height - 1; y >= 0; y--) {
        uint8_t *p = pic + y * row + 1;
        p[-1] = y || kind == NONE ? kind : NONE; // nothing is above the first row
        if (p[-1] == NONE)
            continue;
        const uint8_t *up = p - row;
        for (int64_t i = n - 1; i >= 0; i--) {
            uint8_t by = kind == UP ? up[i] : i < c ? up[i] : paeth(p[i - c], up[i], up[i - c]);
            p[i] = (uint8_t)(p[i] - by);
        }
    }
}

struct sink {
    struct dr_bytes b;
    size_t room;
    jmp_buf jmp;
    char msg[160];
};

static void on_error(png_structp png, png_const_charp msg) {
    struct sink *s = png_get_error_ptr(png);
    snprintf(s->msg, sizeof s->msg, "%s", msg);
    longjmp(s->jmp, 1);
}

static void on_warning(png_structp png, png_const_charp msg) {
    (void)png;
    dr_log(DR_LOG_DEBUG, "libpng: %s", msg);
}

static void on_write(png_structp png, png_bytep p, size_t n) {
    struct sink *s = png_get_io_ptr(png);
    if (s->b.n + n > s->room) {
        size_t room = 2 * (s->b.n + n) + 1024;
        uint8_t *q = realloc(s->b.p, room);
        if (!q)
            png_error(png, "out of memory");
        s->b.p = q;
        s->room = room;
    }
    memcpy(s->b.p + s->b.n, p, n);
    s->b.n += n;
}

static void on_flush(png_structp png) {
    (void)png;
}

// The filtered rows as a zlib stream; empty: out of memory. Level 1: more finds nothing in
// generated images, whose low bits repeat nowhere.
static struct dr_bytes compress_rows(const uint8_t *rows, size_t size) {
    struct dr_bytes z = {0};
    struct libdeflate_compressor *c = libdeflate_alloc_compressor(1);
    const size_t room = libdeflate_zlib_compress_bound(c, size);
    if (c && (z.p = malloc(room)))
        z.n = libdeflate_zlib_compress(c, rows, size, z.p, room);
    libdeflate_free_compressor(c);
    return z;
}

// Everything that can longjmp happens here; only *s changes between setjmp and longjmp.
static int encode(png_structp png, png_infop info, struct sink *s, const struct grid *g,
                  const struct dr_bytes *z, const char *key, const char *text) {
    if (setjmp(s->jmp))
        return -1;
    png_set_write_fn(png, s, on_write, on_flush);
    png_set_IHDR(png, info, (uint32_t)g->width, (uint32_t)g->height, 8,
                 g->c == 3 ? PNG_COLOR_TYPE_RGB : PNG_COLOR_TYPE_GRAY, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_BASE, PNG_FILTER_TYPE_BASE);
    if (key) {
        png_text t = {.compression = PNG_ITXT_COMPRESSION_NONE,
                      .key = (char *)(uintptr_t)key,
                      .text = (char *)(uintptr_t)text,
                      .itxt_length = strlen(text),
                      .lang = (char[]){""},
                      .lang_key = (char[]){""}};
        png_set_text(png, info, &t, 1);
    }
    png_write_info(png, info);
    png_write_chunk(png, (png_const_bytep) "IDAT", z->p, z->n);
    png_write_chunk(png, (png_const_bytep) "IEND", NULL, 0);
    return 0;
}

static int check_grid(struct grid *g, enum dr_show show, const char *key, const char *text,
                      struct dr_err *err) {
    static const int64_t most[] = {
        [DR_SHOW_GREY] = 1, [DR_SHOW_RGB] = 3, [DR_SHOW_PLANES] = PLANES_MAX, [DR_SHOW_POINTS] = 0};
    static const int64_t least[] = {
        [DR_SHOW_GREY] = 1, [DR_SHOW_RGB] = 3, [DR_SHOW_PLANES] = 1, [DR_SHOW_POINTS] = 1};
    if (g->n < 1 || g->h < 1 || g->w < 1 || g->c < least[show] || g->c > most[show])
        return dr_fail(err, DR_EINVAL,
                       "a picture of %" PRId64 " samples [%" PRId64 ",%" PRId64 ",%" PRId64
                       "] is not possible: expected one grey channel, three of rgb, or up to %d "
                       "planes",
                       g->n, g->c, g->h, g->w, PLANES_MAX);
    if (show == DR_SHOW_PLANES && g->w <= SIDE_MAX) { // one grey image of all channels
        g->planes = g->c;
        g->w *= g->c;
        g->c = 1;
    }
    if (g->cols < 1 || g->scale < 1 || g->scale > 1024 || g->gap < 0 || g->gap > 1024)
        return dr_fail(err, DR_EINVAL,
                       "cols %" PRId64 ", scale %" PRId64 " or gap %" PRId64
                       " out of range (1.., 1..1024, 0..1024)",
                       g->cols, g->scale, g->gap);
    g->cols = DR_MIN(g->cols, g->n);
    const int64_t rows = (g->n - 1) / g->cols + 1; // n may be anything: no sum that could overflow
    bool fits = g->n <= SIDE_MAX && g->h <= SIDE_MAX && g->w <= SIDE_MAX;
    g->width = fits ? g->cols * (g->w * g->scale + g->gap) - g->gap : 0;
    g->height = fits ? rows * (g->h * g->scale + g->gap) - g->gap : 0;
    if (!fits || g->width > SIDE_MAX || g->height > SIDE_MAX ||
        g->width * g->height * g->c > BYTES_MAX)
        return dr_fail(err, DR_EINVAL,
                       "a grid of %" PRId64 " images of %" PRId64 "x%" PRId64 " at scale %" PRId64
                       " is too large",
                       g->n, g->h, g->w, g->scale);
    size_t len = key ? strlen(key) : 1;
    if (len < 1 || len > 79 || (key && !text))
        return dr_fail(err, DR_EINVAL, "a PNG text key has 1 to 79 bytes and a text");
    return 0;
}

int dr_png_grid(const real *x, int64_t n, int64_t c, int64_t h, int64_t w, enum dr_show show,
                int64_t cols, int64_t scale, int64_t gap, const char *text_key, const char *text,
                struct dr_bytes *out, struct dr_err *err) {
    *out = (struct dr_bytes){0};
    struct grid g = {.x = x,
                     .n = n,
                     .c = c,
                     .h = h,
                     .w = w,
                     .planes = 1,
                     .cols = cols,
                     .scale = scale,
                     .gap = gap};
    int rc = check_grid(&g, show, text_key, text, err);
    if (rc)
        return rc;
    struct sink s = {.msg = "out of memory"};
    struct dr_bytes z = {0};
    uint8_t *rows = draw(&g);
    if (rows) {
        filter(&g, rows);
        z = compress_rows(rows, (size_t)(g.height * (g.width * g.c + 1)));
    }
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &s, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!z.n || !info || encode(png, info, &s, &g, &z, text_key, text)) {
        rc = dr_fail(err, DR_ENOMEM, "PNG of %" PRId64 "x%" PRId64 " pixels: %s", g.width, g.height,
                     s.msg);
        dr_bytes_free(&s.b);
    }
    png_destroy_write_struct(png ? &png : NULL, info ? &info : NULL);
    dr_bytes_free(&z);
    free(rows);
    *out = s.b;
    return rc;
}

int dr_npy(const real *x, int ndim, const int64_t *dim, struct dr_bytes *out, struct dr_err *err) {
    *out = (struct dr_bytes){0};
    char shape[256] = "";
    int64_t count = 1;
    size_t len = 0;
    bool ok = ndim >= 0 && ndim <= 8;
    for (int i = 0; i < ndim && ok; i++) {
        ok = dim[i] >= 0 && !__builtin_mul_overflow(count, dim[i], &count);
        len += (size_t)snprintf(shape + len, sizeof shape - len,
                                i ? " %" PRId64 "," : "%" PRId64 ",", dim[i]);
    }
    if (!ok || count > INT64_MAX / 8)
        return dr_fail(err, DR_EINVAL, "npy: the shape of %d dimensions is negative or too large",
                       ndim);
    if (ndim > 1)
        shape[len - 1] = 0; // "(2, 3)", but "(2,)"
    // Magic, version 1.0, header length; the dictionary is padded so that the data is 64-aligned.
    char head[512];
    int d = snprintf(head + 10, sizeof head - 10,
                     "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", shape);
    size_t hlen = ((size_t)d + 11 + 63) / 64 * 64;
    memset(head + 10 + d, ' ', hlen - 10 - (size_t)d);
    head[hlen - 1] = '\n';
    memcpy(head, "\x93NUMPY\x01\x00", 8);
    head[8] = (char)((hlen - 10) & 255);
    head[9] = (char)((hlen - 10) >> 8);
    out->n = hlen + (size_t)count * 4;
    out->p = malloc(out->n);
    if (!out->p) {
        out->n = 0;
        return dr_fail(err, DR_ENOMEM, "npy: no memory for %" PRId64 " values", count);
    }
    memcpy(out->p, head, hlen);
    for (int64_t i = 0; i < count; i++) {
        float v = (float)x[i];
        memcpy(out->p + hlen + 4 * i, &v, 4);
    }
    return 0;
}
