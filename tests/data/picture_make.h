// Makes pictures and archives for tests. A scene of four coloured quadrants shows orientation: red
// and green on top, blue and white below.
#pragma once

#include "tests/data/util.h"

#include "driftd_config.h"

#include "engine/core/types.h"

#include <ftw.h>
#include <png.h>
#include <sys/stat.h>
#include <zlib.h>
#if DR_HAVE_JPEG
#include <jpeglib.h>
#endif
#if DR_HAVE_WEBP
#include <webp/encode.h>
#endif

struct made {
    uint8_t *p;
    size_t n;
};

static inline void scene_pixel(int64_t x, int64_t y, int64_t w, int64_t h, uint8_t rgb[3]) {
    static const uint8_t of[4][3] = {{255, 0, 0}, {0, 255, 0}, {0, 0, 255}, {255, 255, 255}};
    memcpy(rgb, of[(2 * y >= h) * 2 + (2 * x >= w)], 3);
}

static inline void made_write(png_structp png, png_bytep p, size_t n) {
    struct made *m = png_get_io_ptr(png);
    m->p = realloc(m->p, m->n + n);
    assert_non_null(m->p);
    memcpy(m->p + m->n, p, n);
    m->n += n;
}
static inline void made_flush(png_structp png) {
    (void)png;
}

// type: PNG_COLOR_TYPE_*; 8 or 16 bits. Alpha is 255 on the left half and 0 on the right.
static inline struct made make_png(int64_t w, int64_t h, int type, int bits, bool interlaced) {
    struct made m = {0};
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    png_set_write_fn(png, &m, made_write, made_flush);
    png_set_compression_level(png, 1);
    png_set_IHDR(png, info, (uint32_t)w, (uint32_t)h, bits, type,
                 interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, 0, 0);
    png_color palette[4] = {{255, 0, 0}, {0, 255, 0}, {0, 0, 255}, {255, 255, 255}};
    if (type == PNG_COLOR_TYPE_PALETTE)
        png_set_PLTE(png, info, palette, 4);
    png_write_info(png, info);
    const int c = png_get_channels(png, info), bytes = bits == 16 ? 2 : 1;
    uint8_t *rows = calloc((size_t)(w * h), (size_t)(c * bytes)),
            **row = calloc((size_t)h, sizeof *row);
    for (int64_t y = 0; y < h; y++) {
        row[y] = rows + y * w * c * bytes;
        for (int64_t x = 0; x < w; x++)
            for (int k = 0; k < c; k++) {
                uint8_t rgb[3];
                scene_pixel(x, y, w, h, rgb);
                const bool alpha = (type & PNG_COLOR_MASK_ALPHA) && k == c - 1;
                const int v = type == PNG_COLOR_TYPE_PALETTE ? (2 * y >= h) * 2 + (2 * x >= w)
                              : alpha                        ? (2 * x < w ? 255 : 0)
                              : c < 3                        ? (2 * y < h ? 40 : 200)
                                                             : rgb[k];
                uint8_t *o = row[y] + (x * c + k) * bytes;
                o[0] = (uint8_t)v;
                if (bytes == 2)
                    o[1] = (uint8_t)v;
            }
    }
    png_write_image(png, row);
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    free(rows);
    free(row);
    return m;
}

// The same with a chunk more: after all others, or before the pixels (not of a palette).
static inline struct made with_chunk(struct made m, bool last, const char *name, const void *p,
                                     size_t n) {
    enum { HEAD = 33, END = 12 }; // signature and IHDR; IEND
    const size_t at = last ? m.n - END : HEAD;
    m.p = realloc(m.p, m.n + n + 12);
    assert_non_null(m.p);
    uint8_t *to = m.p + at;
    memmove(to + n + 12, to, m.n - at);
    png_save_uint_32(to, (uint32_t)n);
    memcpy(to + 4, name, 4);
    memcpy(to + 8, p, n);
    png_save_uint_32(to + 8 + n, (uint32_t)crc32(0, to + 4, (unsigned)n + 4));
    m.n += n + 12;
    return m;
}

// One colour, [h,w] rgb.
static inline struct made make_flat(int64_t w, int64_t h, uint8_t r, uint8_t g, uint8_t b) {
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (uint32_t)w,
                       .height = (uint32_t)h,
                       .format = PNG_FORMAT_RGB};
    uint8_t *rgb = malloc((size_t)(w * h * 3));
    const uint8_t of[3] = {r, g, b};
    for (int64_t i = 0; i < w * h * 3; i++)
        rgb[i] = of[i % 3];
    png_alloc_size_t n = PNG_IMAGE_PNG_SIZE_MAX(image);
    struct made m = {.p = malloc(n)};
    assert_true(png_image_write_to_memory(&image, m.p, &n, 0, rgb, 0, NULL));
    m.n = n;
    free(rgb);
    return m;
}

#if DR_HAVE_JPEG
// c: 1 grey, 3 YCbCr, 4 CMYK as Adobe stores it (inverted). orientation 0: no EXIF. pixels [h,w,c].
static inline struct made jpeg_made(int64_t w, int64_t h, int c, int orientation, bool progressive,
                                    const uint8_t *pixels) {
    struct jpeg_compress_struct j;
    struct jpeg_error_mgr e;
    unsigned char *p = NULL;
    unsigned long n = 0;
    j.err = jpeg_std_error(&e);
    jpeg_create_compress(&j);
    jpeg_mem_dest(&j, &p, &n);
    j.image_width = (JDIMENSION)w;
    j.image_height = (JDIMENSION)h;
    j.input_components = c;
    j.in_color_space = c == 1 ? JCS_GRAYSCALE : c == 3 ? JCS_RGB : JCS_CMYK;
    jpeg_set_defaults(&j);
    jpeg_set_quality(&j, 95, TRUE);
    if (progressive)
        jpeg_simple_progression(&j);
    if (c == 4)
        j.write_Adobe_marker = TRUE;
    jpeg_start_compress(&j, TRUE);
    uint8_t exif[] = {'E', 'x',  'i', 'f', 0, 0, 'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1,
                      1,   0x12, 0,   3,   0, 0, 0,   1,   0, 0,  0, 0, 0, 0, 0, 0};
    exif[25] = (uint8_t)orientation;
    if (orientation)
        jpeg_write_marker(&j, JPEG_APP0 + 1, exif, sizeof exif);
    while (j.next_scanline < j.image_height) {
        uint8_t *row = (uint8_t *)(uintptr_t)pixels + j.next_scanline * (size_t)(w * c);
        jpeg_write_scanlines(&j, &row, 1);
    }
    jpeg_finish_compress(&j);
    jpeg_destroy_compress(&j);
    return (struct made){p, n};
}

static inline struct made make_jpeg(int64_t w, int64_t h, int c, int orientation,
                                    bool progressive) {
    uint8_t *pixels = malloc((size_t)(w * h * c)), *o = pixels;
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            uint8_t rgb[3];
            scene_pixel(x, y, w, h, rgb);
            for (int k = 0; k < c; k++)
                *o++ = c == 1   ? (2 * y < h ? 40 : 200)
                       : k == 3 ? 255 // no black ink, inverted
                                : rgb[k];
        }
    struct made m = jpeg_made(w, h, c, orientation, progressive, pixels);
    free(pixels);
    return m;
}
#endif

#if DR_HAVE_WEBP
// Lossless; alpha as in make_png.
static inline struct made make_webp(int64_t w, int64_t h) {
    uint8_t *rgba = malloc((size_t)(w * h * 4)), *p = NULL;
    for (int64_t i = 0; i < w * h; i++) {
        scene_pixel(i % w, i / w, w, h, rgba + 4 * i);
        rgba[4 * i + 3] = 2 * (i % w) < w ? 255 : 0;
    }
    const size_t n = WebPEncodeLosslessRGBA(rgba, (int)w, (int)h, (int)(4 * w), &p);
    struct made m = {malloc(n), n};
    memcpy(m.p, p, n);
    WebPFree(p);
    free(rgba);
    return m;
}
#endif

// Writes m to NAME of the test's folder, with the folders above it, and frees it.
static inline void put_made(const char *name, struct made m) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", test_dir, name);
    for (char *s = strchr(path + strlen(test_dir) + 1, '/'); s; s = strchr(s + 1, '/')) {
        *s = 0;
        mkdir(path, 0755);
        *s = '/';
    }
    put_file(path, m.p, m.n);
    free(m.p);
}

static inline struct made made_of(const void *p, size_t n) {
    struct made m = {malloc(n + 1), n};
    memcpy(m.p, p, n);
    return m;
}

static inline int remove_one(const char *path, const struct stat *st, int flag, struct FTW *at) {
    (void)st, (void)flag;
    return at->level ? remove(path) : 0;
}
// Everything in the test's folder.
static inline void tree_clear(void) {
    nftw(test_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
static inline int tree_teardown(void **state) {
    (void)state;
    tree_clear();
    return rmdir(test_dir);
}
