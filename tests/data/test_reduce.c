// Pictures that are reduced while they are decoded look as those that are not: the same part of
// them, its borders included, in JPEG, PNG and WebP, turned or not.
#include "tests/data/picture_make.h"

#include <math.h>

#include "engine/data/pictures_priv.h"

static const struct dr_picture_options plain = {
    .max_pixels = 1 << 29, .max_decoded = 1 << 25, .background = {255, 255, 255}};

// Waves of all lengths, the shorter the weaker, as in photographs; stripes at the borders, which
// show whether something is cut off or moved. [h,w,3]
static uint8_t *scene(int64_t w, int64_t h) {
    enum { WAVES = 7 };
    uint8_t *rgb = malloc((size_t)(w * h * 3)), *p = rgb;
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            const int64_t edge = DR_MIN(DR_MIN(x, w - 1 - x), DR_MIN(y, h - 1 - y));
            const double stripe = edge >= 12 ? 0 : edge / 4 % 2 ? -60 : 60;
            double v = 128 + stripe;
            for (int k = 0; k < WAVES; k++) {
                const double along =
                    k % 2 ? 0.8 * (double)x + 0.6 * (double)y : 0.4 * (double)x - 0.9 * (double)y;
                v += 50.0 / (1 << k) * sin(along * (1 << k) / 95 + k);
            }
            for (int c = 0; c < 3; c++) // a tint that changes slowly
                *p++ = (uint8_t)DR_MIN(DR_MAX(v + 0.05 * (double)((c - 1) * (x - y)), 0), 255);
        }
    return rgb;
}

static struct made as_png(const uint8_t *rgb, int64_t w, int64_t h, uint32_t format) {
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (uint32_t)w,
                       .height = (uint32_t)h,
                       .format = format,
                       .flags = PNG_IMAGE_FLAG_FAST};
    png_alloc_size_t n = PNG_IMAGE_PNG_SIZE_MAX(image);
    struct made m = {.p = malloc(n)};
    assert_true(png_image_write_to_memory(&image, m.p, &n, 0, rgb, 0, NULL));
    m.n = n;
    return m;
}

// Signal to noise in dB, of bytes.
static double likeness(const uint8_t *a, const uint8_t *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum > 0 ? 10 * log10(255.0 * 255.0 * (double)n / sum) : 100;
}

// Against the same file decoded as it is.
static void expect_alike(const char *what, struct made m, int64_t size) {
    for (int fit = DR_FIT_RESIZE; fit <= DR_FIT_FIT; fit++) {
        const struct dr_import_options o = {
            .size = size, .channels = 3, .fit = fit, .background = {255, 255, 255}};
        struct dr_picture_options reduced = plain;
        struct dr_picture all, few;
        struct dr_err err = {0};
        const int64_t n = 3 * size * size;
        uint8_t *want = malloc((size_t)n), *got = malloc((size_t)n);
        reduced.side = size;
        assert_int_equal(dr_picture_decode(m.p, m.n, &plain, &all, &err), 0);
        assert_int_equal(dr_picture_decode(m.p, m.n, &reduced, &few, &err), 0);
        assert_true(few.w < all.w && few.full_w == all.w && few.full_h == all.h);
        assert_int_equal(import_fit(&o, &all, want, &err), 0);
        assert_int_equal(import_fit(&o, &few, got, &err), 0);
        const double db = likeness(want, got, n);
        if (db < 40)
            fail_msg("%s of %dx%d at size %d, fit %d: %.1f dB", what, (int)all.w, (int)all.h,
                     (int)size, fit, db);
        dr_picture_free(&all);
        dr_picture_free(&few);
        free(want);
        free(got);
    }
    free(m.p);
}

static const int sides[][3] = {{640, 480, 32}, {333, 250, 32}, {131, 1000, 16},
                               {517, 517, 64}, {700, 523, 24}, {47, 90, 4}};

static void png_is_alike(void **state) {
    (void)state;
    for (size_t k = 0; k < DR_COUNT(sides); k++) {
        uint8_t *rgb = scene(sides[k][0], sides[k][1]);
        expect_alike("PNG", as_png(rgb, sides[k][0], sides[k][1], PNG_FORMAT_RGB), sides[k][2]);
        free(rgb);
    }
}

#if DR_HAVE_JPEG
static void jpeg_is_alike(void **state) {
    (void)state;
    for (size_t k = 0; k < DR_COUNT(sides); k++) {
        uint8_t *rgb = scene(sides[k][0], sides[k][1]);
        for (int turn = 0; turn <= 6; turn += 3) // none, upside down, to the right
            expect_alike("JPEG", jpeg_made(sides[k][0], sides[k][1], 3, turn, false, rgb),
                         sides[k][2]);
        free(rgb);
    }
}
#endif

#if DR_HAVE_WEBP
static void webp_is_alike(void **state) {
    (void)state;
    for (size_t k = 0; k < DR_COUNT(sides); k++) {
        const int w = sides[k][0], h = sides[k][1];
        uint8_t *rgb = scene(w, h), *p = NULL;
        for (int lossy = 0; lossy < 2; lossy++) {
            const size_t n = lossy ? WebPEncodeRGB(rgb, w, h, 3 * w, 90, &p)
                                   : WebPEncodeLosslessRGB(rgb, w, h, 3 * w, &p);
            expect_alike(lossy ? "WebP" : "lossless WebP", made_of(p, n), sides[k][2]);
            WebPFree(p);
        }
        free(rgb);
    }
}

// A light disc on transparent black: [h,w,4].
static uint8_t *disc(int w, int h) {
    uint8_t *rgba = calloc((size_t)(w * h), 4);
    for (int i = 0; i < w * h; i++) {
        const int x = 2 * (i % w) - w, y = 2 * (i / w) - h, r = DR_MIN(w, h) * 4 / 5;
        if (x * x + y * y < r * r) {
            memset(rgba + 4 * i, 200, 3);
            rgba[4 * i + 3] = 255;
        }
    }
    return rgba;
}

// Lossy, with the colours under what is transparent.
static struct made lossy_webp(const uint8_t *rgba, int w, int h) {
    WebPConfig cfg;
    WebPPicture pic;
    WebPMemoryWriter to;
    assert_true(WebPConfigInit(&cfg) && WebPPictureInit(&pic));
    WebPMemoryWriterInit(&to);
    cfg.quality = 95;
    cfg.exact = 1;
    pic.width = w;
    pic.height = h;
    pic.writer = WebPMemoryWrite;
    pic.custom_ptr = &to;
    assert_true(WebPPictureImportRGBA(&pic, rgba, 4 * w) && WebPEncode(&cfg, &pic));
    struct made m = made_of(to.mem, to.size);
    WebPMemoryWriterClear(&to);
    WebPPictureFree(&pic);
    return m;
}

// Colours that are hidden do not show at the edges, however the picture is stored.
static void hidden_colours_stay_hidden(void **state) {
    (void)state;
    enum { W = 320, H = 240, SIZE = 16, N = 3 * SIZE * SIZE };
    const struct dr_import_options o = {
        .size = SIZE, .channels = 3, .fit = DR_FIT_CROP, .background = {255, 255, 255}};
    struct dr_picture_options reduced = plain;
    uint8_t *rgba = disc(W, H), out[2][N];
    reduced.side = SIZE;
    for (int webp = 0; webp < 2; webp++) {
        struct made m = webp ? lossy_webp(rgba, W, H) : as_png(rgba, W, H, PNG_FORMAT_RGBA);
        struct dr_picture p;
        struct dr_err err = {0};
        assert_int_equal(dr_picture_decode(m.p, m.n, &reduced, &p, &err), 0);
        assert_int_equal(import_fit(&o, &p, out[webp], &err), 0);
        dr_picture_free(&p);
        free(m.p);
    }
    const double db = likeness(out[0], out[1], N);
    if (db < 45)
        fail_msg("%.1f dB", db);
    free(rgba);
}
#endif

// A block of more than 4104 x 4104 white pixels does not fit into 32 bits.
static void large_blocks_stay_white(void **state) {
    (void)state;
    struct dr_picture_options o = plain;
    struct dr_picture p;
    struct dr_err err = {0};
    struct made m = {0};
    uint8_t row[2500];
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    memset(row, 0xff, sizeof row);
    png_set_write_fn(png, &m, made_write, made_flush);
    png_set_compression_level(png, 1);
    png_set_IHDR(png, info, 20000, 10000, 1, PNG_COLOR_TYPE_GRAY, 0, 0, 0);
    png_write_info(png, info);
    for (int y = 0; y < 10000; y++)
        png_write_row(png, row);
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    o.side = 1;
    assert_int_equal(dr_picture_decode(m.p, m.n, &o, &p, &err), 0);
    assert_true(p.w == 4 && p.h == 2);
    for (int i = 0; i < 8; i++)
        assert_int_equal(p.pixels[i], 255);
    dr_picture_free(&p);
    free(m.p);
}

// The box is that of the whole picture, on whichever side the remainder is after turning.
static void turned_boxes(void **state) {
    (void)state;
#if DR_HAVE_JPEG
    struct dr_picture_options o = plain;
    o.side = 8;
    for (int turn = 1; turn <= 8; turn++) {
        struct dr_picture p;
        struct made m = make_jpeg(67, 45, 3, turn, false); // by 2: 33.5 x 22.5
        assert_int_equal(dr_picture_decode(m.p, m.n, &o, &p, NULL), 0);
        const bool swap = turn >= 5;
        assert_true(p.w == (swap ? 23 : 34) && p.h == (swap ? 34 : 23));
        assert_true(p.box.w == (swap ? 22.5 : 33.5) && p.box.h == (swap ? 33.5 : 22.5));
        const bool right = turn == 2 || turn == 3 || turn == 6 || turn == 7;
        const bool below = turn == 3 || turn == 4 || turn == 7 || turn == 8;
        assert_true(p.box.x == (right ? 0.5 : 0) && p.box.y == (below ? 0.5 : 0));
        dr_picture_free(&p);
        free(m.p);
    }
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(png_is_alike),
#if DR_HAVE_JPEG
        cmocka_unit_test(jpeg_is_alike),
#endif
#if DR_HAVE_WEBP
        cmocka_unit_test(webp_is_alike),
        cmocka_unit_test(hidden_colours_stay_hidden),
#endif
        cmocka_unit_test(large_blocks_stay_white),
        cmocka_unit_test(turned_boxes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
