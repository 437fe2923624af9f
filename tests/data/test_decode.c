// Decoding of JPEG, PNG and WebP in all their kinds, EXIF's orientations, damage and limits; the
// antialiased resampling against its definition.
#include "tests/data/picture_make.h"

#include <math.h>
#include <sys/resource.h>
#include <zlib.h>

#include "engine/io/picture.h"
#include "engine/io/resize.h"

static const struct dr_picture_options plain = {
    .max_pixels = 1 << 29, .max_decoded = 1 << 25, .background = {10, 20, 30}};

static struct dr_picture decode(struct made m, const struct dr_picture_options *o) {
    struct dr_picture p, head;
    struct dr_err err = {0};
    if (dr_picture_decode(m.p, m.n, o, &p, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(dr_picture_probe(m.p, m.n, &head, &err), 0);
    assert_true(head.full_w == p.full_w && head.full_h == p.full_h && !head.pixels);
    free(m.p);
    return p;
}

static void expect_failure(struct made m, const struct dr_picture_options *o, int code,
                           const char *says) {
    struct dr_picture p;
    struct dr_err err = {0};
    assert_int_equal(dr_picture_decode(m.p, m.n, o, &p, &err), code);
    assert_null(p.pixels);
    if (!strstr(err.msg, says))
        fail_msg("got '%s', expected '%s'", err.msg, says);
    free(m.p);
}

// The colour in the middle of quadrant k: 0 and 1 on top.
static void expect_quadrant(const struct dr_picture *p, int k, int r, int g, int b, int off) {
    const int64_t x = (k % 2 ? 3 : 1) * p->w / 4, y = (k / 2 ? 3 : 1) * p->h / 4;
    const uint8_t *at = p->pixels + (y * p->w + x) * p->c;
    const int want[3] = {r, g, b};
    for (int i = 0; i < p->c; i++)
        if (abs(at[i] - want[i]) > off)
            fail_msg("quadrant %d has %d %d %d, expected %d %d %d", k, at[0], at[p->c > 1],
                     at[p->c / 2 + (p->c > 1)], r, g, b);
}

static void png_kinds(void **state) {
    (void)state;
    for (int interlaced = 0; interlaced < 2; interlaced++) {
        struct dr_picture p = decode(make_png(20, 12, PNG_COLOR_TYPE_RGB, 8, interlaced), &plain);
        assert_true(p.w == 20 && p.h == 12 && p.c == 3);
        expect_quadrant(&p, 0, 255, 0, 0, 0);
        expect_quadrant(&p, 1, 0, 255, 0, 0);
        expect_quadrant(&p, 2, 0, 0, 255, 0);
        dr_picture_free(&p);
        p = decode(make_png(20, 12, PNG_COLOR_TYPE_RGB, 16, interlaced), &plain);
        expect_quadrant(&p, 2, 0, 0, 255, 0);
        dr_picture_free(&p);
        p = decode(make_png(20, 12, PNG_COLOR_TYPE_PALETTE, 8, interlaced), &plain);
        assert_int_equal(p.c, 3);
        expect_quadrant(&p, 1, 0, 255, 0, 0);
        dr_picture_free(&p);
        p = decode(make_png(20, 12, PNG_COLOR_TYPE_GRAY, 16, interlaced), &plain);
        assert_int_equal(p.c, 1);
        expect_quadrant(&p, 0, 40, 40, 40, 0);
        expect_quadrant(&p, 3, 200, 200, 200, 0);
        dr_picture_free(&p);
        p = decode(make_png(20, 12, PNG_COLOR_TYPE_RGB_ALPHA, 8, interlaced), &plain);
        expect_quadrant(&p, 0, 255, 0, 0, 0);
        expect_quadrant(&p, 1, 10, 20, 30, 0); // transparent
        dr_picture_free(&p);
        p = decode(make_png(20, 12, PNG_COLOR_TYPE_GRAY_ALPHA, 8, interlaced), &plain);
        assert_int_equal(p.c, 3); // the background has colour
        expect_quadrant(&p, 2, 200, 200, 200, 0);
        expect_quadrant(&p, 3, 10, 20, 30, 0);
        dr_picture_free(&p);
    }
}

static void large_png_is_averaged_down(void **state) {
    (void)state;
    struct dr_picture_options o = plain;
    o.side = 8;
    for (int interlaced = 0; interlaced < 2; interlaced++) {
        struct dr_picture p = decode(make_png(203, 100, PNG_COLOR_TYPE_RGB, 8, interlaced), &o);
        assert_true(p.w == 34 && p.h == 17 && p.full_w == 203 && p.full_h == 100); // by 6
        expect_quadrant(&p, 0, 255, 0, 0, 0);
        expect_quadrant(&p, 3, 255, 255, 255, 0);
        dr_picture_free(&p);
    }
}

static void limits_hold(void **state) {
    (void)state;
    struct dr_picture_options o = plain;
    o.max_pixels = 199;
    expect_failure(make_png(20, 10, PNG_COLOR_TYPE_GRAY, 8, false), &o, DR_EINVAL,
                   "20x10 pixels are more than the limit of 199");
    o.max_pixels = 1 << 20;
    o.max_decoded = 199;
    expect_failure(make_png(20, 10, PNG_COLOR_TYPE_GRAY, 8, false), &o, DR_EINVAL, "more memory");
    o.side = 2;
    o.max_decoded = 60;
    struct dr_picture p = decode(make_png(20, 10, PNG_COLOR_TYPE_GRAY, 8, false), &o);
    dr_picture_free(&p);
    expect_failure(make_png(20, 10, PNG_COLOR_TYPE_GRAY, 8, true), &o, DR_EINVAL, "more memory");
}

static void put32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

// One row of half a thousand million pixels, in a few bytes: refused before libpng has taken
// gigabytes for it.
static void one_endless_row(void **state) {
    (void)state;
    struct rusage before, after;
    struct made m = make_png(20, 1, PNG_COLOR_TYPE_RGB_ALPHA, 16, false);
    put32(m.p + 16, 1u << 29); // the width in IHDR, and the chunk's sum
    put32(m.p + 29, (uint32_t)crc32(0, m.p + 12, 17));
    getrusage(RUSAGE_SELF, &before);
    expect_failure(m, &plain, DR_EINVAL, "536870912x1 pixels of this kind need more memory");
    getrusage(RUSAGE_SELF, &after);
    assert_true(after.ru_maxrss - before.ru_maxrss < 100 << 10); // KiB
}

static void what_is_no_picture(void **state) {
    (void)state;
    expect_failure(made_of("", 0), &plain, DR_EFORMAT, "the file is empty");
    expect_failure(made_of("hello, world", 12), &plain, DR_EFORMAT, "not a picture");
    expect_failure(made_of("GIF89a......", 12), &plain, DR_EUNSUPPORTED, "GIF is not read");
    expect_failure(made_of("\0\0\0 ftypheic", 12), &plain, DR_EUNSUPPORTED, "HEIF");
    struct made m = make_png(40, 40, PNG_COLOR_TYPE_RGB, 8, false);
    m.n -= 30;
    expect_failure(m, &plain, DR_EFORMAT, "damaged PNG");
    m = make_png(40, 40, PNG_COLOR_TYPE_RGB, 8, false);
    m.p[m.n / 2] ^= 0x55;
    expect_failure(m, &plain, DR_EFORMAT, "damaged PNG");
    expect_failure(made_of("\xff\xd8\xff\xe0", 4), &plain,
                   DR_HAVE_JPEG ? DR_EFORMAT : DR_EUNSUPPORTED,
                   DR_HAVE_JPEG ? "damaged JPEG" : "reads no JPEG");
    expect_failure(made_of("RIFF\4\0\0\0WEBP", 12), &plain,
                   DR_HAVE_WEBP ? DR_EFORMAT : DR_EUNSUPPORTED,
                   DR_HAVE_WEBP ? "damaged WebP" : "reads no WebP");
}

#if DR_HAVE_JPEG
static void jpeg_kinds(void **state) {
    (void)state;
    for (int progressive = 0; progressive < 2; progressive++) {
        struct dr_picture p = decode(make_jpeg(64, 48, 3, 0, progressive), &plain);
        assert_true(p.w == 64 && p.h == 48 && p.c == 3);
        expect_quadrant(&p, 0, 255, 0, 0, 8);
        expect_quadrant(&p, 3, 255, 255, 255, 8);
        dr_picture_free(&p);
        p = decode(make_jpeg(64, 48, 1, 0, progressive), &plain);
        assert_int_equal(p.c, 1);
        expect_quadrant(&p, 1, 40, 40, 40, 4);
        dr_picture_free(&p);
        p = decode(make_jpeg(64, 48, 4, 0, progressive), &plain);
        assert_int_equal(p.c, 3);
        expect_quadrant(&p, 1, 0, 255, 0, 8);
        expect_quadrant(&p, 2, 0, 0, 255, 8);
        dr_picture_free(&p);
    }
    struct dr_picture_options o = plain;
    o.side = 16;
    struct dr_picture p = decode(make_jpeg(640, 480, 3, 0, false), &o);
    assert_true(p.w == 80 && p.h == 60 && p.full_w == 640); // by 8, its most
    expect_quadrant(&p, 2, 0, 0, 255, 8);
    dr_picture_free(&p);
}

// Where the corner that is stored first appears, by the EXIF standard: 1 top left, 2 top right, 3
// bottom right, 4 bottom left, 5 to 8 the same with rows and columns exchanged.
static void exif_turns(void **state) {
    (void)state;
    // which stored quadrant is seen at 0, 1, 2, 3
    static const int seen[9][4] = {{0},          {0, 1, 2, 3}, {1, 0, 3, 2},
                                   {3, 2, 1, 0}, {2, 3, 0, 1}, {0, 2, 1, 3},
                                   {2, 0, 3, 1}, {3, 1, 2, 0}, {1, 3, 0, 2}};
    static const int of[4][3] = {{255, 0, 0}, {0, 255, 0}, {0, 0, 255}, {255, 255, 255}};
    for (int k = 1; k <= 8; k++) {
        struct dr_picture p = decode(make_jpeg(64, 32, 3, k, false), &plain);
        assert_true(p.w == (k < 5 ? 64 : 32) && p.h == (k < 5 ? 32 : 64) && p.full_w == p.w);
        for (int q = 0; q < 4; q++)
            expect_quadrant(&p, q, of[seen[k][q]][0], of[seen[k][q]][1], of[seen[k][q]][2], 8);
        dr_picture_free(&p);
    }
}

static void jpeg_damage(void **state) {
    (void)state;
    struct made m = make_jpeg(200, 200, 3, 0, false);
    m.n /= 2;
    expect_failure(m, &plain, DR_EFORMAT, "damaged JPEG: Premature end");
    m = make_jpeg(200, 200, 3, 0, false);
    memset(m.p + m.n / 2, 0xff, 100);
    expect_failure(m, &plain, DR_EFORMAT, "damaged JPEG");
}
#endif

#if DR_HAVE_WEBP
static void webp_alpha(void **state) {
    (void)state;
    struct dr_picture p = decode(make_webp(30, 20), &plain);
    assert_true(p.w == 30 && p.h == 20 && p.c == 3);
    expect_quadrant(&p, 0, 255, 0, 0, 0);
    expect_quadrant(&p, 3, 10, 20, 30, 0);
    dr_picture_free(&p);
    struct made m = make_webp(30, 20);
    m.n -= 20;
    expect_failure(m, &plain, DR_EFORMAT, "damaged WebP");
}

// Its scaler reduces what it gives back, not what it holds.
static void webp_memory(void **state) {
    (void)state;
    struct dr_picture_options o = plain;
    o.side = 8;
    o.max_decoded = 600 * 500 - 1;
    expect_failure(make_webp(600, 500), &o, DR_EINVAL, "need more memory than the limit");
    o.max_decoded++;
    struct dr_picture p = decode(make_webp(600, 500), &o);
    assert_true(p.w < 600 && p.full_w == 600);
    dr_picture_free(&p);
}
#endif

static void exif_is_not_trusted(void **state) {
    (void)state;
    const uint8_t intel[] = {'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 1, 3,
                             0,   1,   0,  0, 0, 6, 0, 0, 0, 0, 0,    0, 0};
    assert_int_equal(dr_exif_orientation(intel, sizeof intel), 6);
    assert_int_equal(dr_exif_orientation(intel, 20), 1); // the entry is cut
    uint8_t far[sizeof intel];
    memcpy(far, intel, sizeof far);
    far[4] = far[5] = far[6] = far[7] = 0xff;
    assert_int_equal(dr_exif_orientation(far, sizeof far), 1);
    memcpy(far, intel, sizeof far);
    far[18] = 9;
    assert_int_equal(dr_exif_orientation(far, sizeof far), 1);
    assert_int_equal(dr_exif_orientation(intel, 0), 1);
}

// ---- resampling

static double bicubic(double x) {
    x = fabs(x);
    if (x < 1)
        return 1.5 * x * x * x - 2.5 * x * x + 1;
    return x < 2 ? -0.5 * x * x * x + 2.5 * x * x - 4 * x + 2 : 0;
}

// The definition, one output pixel at a time, in both directions at once.
static double resampled(const uint8_t *in, int h, int w, double cy, double cx, double sy,
                        double sx) {
    double sum = 0, all = 0;
    const double wy = fmax(sy, 1), wx = fmax(sx, 1);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const double k = bicubic((y + 0.5 - cy) / wy) * bicubic((x + 0.5 - cx) / wx);
            sum += k * in[y * w + x];
            all += k;
        }
    return sum / all;
}

static void bicubic_is_antialiased(void **state) {
    (void)state;
    enum { H = 37, W = 23 };
    static const int to[][2] = {{8, 8}, {37, 5}, {80, 64}, {1, 1}};
    uint8_t in[H * W];
    for (int i = 0; i < H * W; i++)
        in[i] = (uint8_t)(i * 2654435761u >> 13);
    for (size_t t = 0; t < DR_COUNT(to); t++) {
        const int oh = to[t][0], ow = to[t][1];
        float out[80 * 64];
        assert_int_equal(dr_resize_real(in, H, W, 1, W, DR_FILTER_BICUBIC, out, oh, ow, NULL), 0);
        for (int y = 0; y < oh; y++)
            for (int x = 0; x < ow; x++) {
                const double sy = (double)H / oh, sx = (double)W / ow;
                const double want = resampled(in, H, W, (y + 0.5) * sy, (x + 0.5) * sx, sy, sx);
                if (fabs(out[y * ow + x] - want) > 1e-3)
                    fail_msg("%dx%d at %d,%d: %g, expected %g", ow, oh, x, y,
                             (double)out[y * ow + x], want);
            }
    }
}

static void resampling_of_bytes(void **state) {
    (void)state;
    uint8_t in[4 * 4 * 3], out[48];
    for (int i = 0; i < 48; i++)
        in[i] = (uint8_t)(i * 5);
    assert_int_equal(dr_resize_u8(in, 4, 4, 3, 12, DR_FILTER_BICUBIC, out, 4, 4, NULL), 0);
    assert_memory_equal(in, out, 48);
    assert_int_equal(dr_resize_u8(in, 4, 4, 3, 12, DR_FILTER_BOX, out, 2, 2, NULL), 0);
    for (int i = 0; i < 12; i++) { // means of 2x2
        const int y = i / 6 * 2, x = i / 3 % 2 * 2, k = i % 3;
        int sum = 0;
        for (int j = 0; j < 4; j++)
            sum += in[((y + j / 2) * 4 + x + j % 2) * 3 + k];
        assert_int_equal(out[i], (sum + 2) / 4);
    }
    memset(in, 77, sizeof in);
    assert_int_equal(dr_resize_u8(in, 2, 2, 3, 12, DR_FILTER_TRIANGLE, out, 4, 4, NULL), 0);
    for (int i = 0; i < 48; i++)
        assert_int_equal(out[i], 77);
    assert_int_equal(dr_resize_u8(in, 0, 2, 3, 12, DR_FILTER_BOX, out, 4, 4, NULL), DR_EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(png_kinds),
        cmocka_unit_test(large_png_is_averaged_down),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(one_endless_row),
        cmocka_unit_test(what_is_no_picture),
#if DR_HAVE_JPEG
        cmocka_unit_test(jpeg_kinds),
        cmocka_unit_test(exif_turns),
        cmocka_unit_test(jpeg_damage),
#endif
#if DR_HAVE_WEBP
        cmocka_unit_test(webp_alpha),
        cmocka_unit_test(webp_memory),
#endif
        cmocka_unit_test(exif_is_not_trusted),
        cmocka_unit_test(bicubic_is_antialiased),
        cmocka_unit_test(resampling_of_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
