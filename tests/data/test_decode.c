// Decoding of JPEG, PNG and WebP in all their kinds, EXIF's orientations, damage and limits; the
// antialiased resampling against its definition.
#include "tests/data/picture_make.h"

#include <math.h>
#include <sys/resource.h>

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

static long peak(void) { // memory of the process, in KiB
    struct rusage now;
    getrusage(RUSAGE_SELF, &now);
    return now.ru_maxrss;
}

// One row of half a thousand million pixels, in a few bytes: refused before libpng has taken
// gigabytes for it.
static void one_endless_row(void **state) {
    (void)state;
    struct made m = make_png(20, 1, PNG_COLOR_TYPE_RGB_ALPHA, 16, false);
    put32(m.p + 16, 1u << 29); // the width in IHDR, and the chunk's sum
    put32(m.p + 29, (uint32_t)crc32(0, m.p + 12, 17));
    const long before = peak();
    expect_failure(m, &plain, DR_EINVAL, "536870912x1 pixels of this kind need more memory");
    assert_true(peak() - before < 100 << 10);
}

// Texts of half a GiB in as many KiB, in front of one pixel.
static void texts_are_passed_over(void **state) {
    (void)state;
    enum { EACH = 8 << 20, TEXTS = 64, NAME = 3 }; // bytes; "k", the end of it, the method
    uLongf n = compressBound(EACH);
    uint8_t *all = malloc(EACH), *text = calloc(NAME + n, 1);
    memset(all, 'a', EACH);
    text[0] = 'k';
    assert_int_equal(compress2(text + NAME, &n, all, EACH, 9), Z_OK);
    struct made m = make_png(1, 1, PNG_COLOR_TYPE_GRAY, 8, false);
    for (int i = 0; i < TEXTS; i++)
        m = with_chunk(m, false, "zTXt", text, NAME + n);
    const long before = peak();
    struct dr_picture p = decode(m, &plain);
    assert_true(p.w == 1 && p.h == 1 && peak() - before < 64 << 10);
    dr_picture_free(&p);
    free(all);
    free(text);
    // What says which pixels are transparent is no text.
    p = decode(
        with_chunk(make_png(20, 12, PNG_COLOR_TYPE_GRAY, 8, false), false, "tRNS", "\0\50", 2),
        &plain);
    assert_int_equal(p.c, 3);
    expect_quadrant(&p, 0, 10, 20, 30, 0);
    expect_quadrant(&p, 2, 200, 200, 200, 0);
    dr_picture_free(&p);
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

// Turned to the right.
static const uint8_t intel[] = {'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 1, 3,
                                0,   1,   0,  0, 0, 6, 0, 0, 0, 0, 0,    0, 0};

// The chunk may stand before the pixels or after them; one that is damaged says nothing.
static void exif_of_png(void **state) {
    (void)state;
    for (int last = 0; last < 2; last++)
        for (int interlaced = 0; interlaced < 2; interlaced++) {
            struct made m = with_chunk(make_png(64, 32, PNG_COLOR_TYPE_RGB, 8, interlaced), last,
                                       "eXIf", intel, sizeof intel);
            struct made bad = made_of(m.p, m.n);
            struct dr_picture p = decode(m, &plain);
            assert_true(p.w == 32 && p.h == 64);
            expect_quadrant(&p, 0, 0, 0, 255, 0);
            expect_quadrant(&p, 1, 255, 0, 0, 0);
            dr_picture_free(&p);
            bad.p[(last ? bad.n - 12 : 33 + sizeof intel + 12) - 1] ^= 1; // its checksum
            p = decode(bad, &plain);
            assert_true(p.w == 64 && p.h == 32);
            dr_picture_free(&p);
        }
}

static void exif_is_not_trusted(void **state) {
    (void)state;
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

// Every byte of old imports comes from these operations in their order.
static void bytes_of_resampling(void **state) {
    (void)state;
    static const struct {
        enum dr_filter filter;
        int h, w, c, oh, ow;
        uint32_t sum;
    } t[] = {
        {DR_FILTER_BICUBIC, 37, 23, 3, 8, 8, 0x69d7b418},
        {DR_FILTER_BICUBIC, 9, 11, 1, 64, 40, 0x8a977f1b},
        {DR_FILTER_BICUBIC, 500, 3, 4, 16, 16, 0x2422b8e1},
        {DR_FILTER_TRIANGLE, 64, 48, 3, 31, 7, 0x68646997},
        {DR_FILTER_TRIANGLE, 5, 5, 2, 12, 3, 0x0e1b3d37},
        {DR_FILTER_BOX, 33, 20, 3, 10, 45, 0xb420cb53},
        {DR_FILTER_BOX, 1, 1, 1, 4, 4, 0x758d6336},
    };
    for (size_t k = 0; k < DR_COUNT(t); k++) {
        const size_t n = (size_t)(t[k].h * t[k].w * t[k].c),
                     m = (size_t)(t[k].oh * t[k].ow * t[k].c);
        uint8_t *in = malloc(n);
        float *out = malloc(m * sizeof *out);
        for (size_t i = 0; i < n; i++)
            in[i] = (uint8_t)(i * 2654435761u >> 13);
        assert_int_equal(dr_resize_real(in, t[k].h, t[k].w, t[k].c, t[k].w * t[k].c, t[k].filter,
                                        out, t[k].oh, t[k].ow, NULL),
                         0);
        const uint32_t sum = (uint32_t)crc32(0, (const uint8_t *)out, (unsigned)(m * sizeof *out));
        if (sum != t[k].sum)
            fail_msg("case %d has the sum 0x%08x", (int)k, sum);
        free(in);
        free(out);
    }
}

// What is held follows the result, not the longer side of the picture.
static void long_sides_take_little(void **state) {
    (void)state;
    static const int side[][4] = {{1 << 20, 4, 32, 32}, {4, 1 << 21, 32, 32}, {1 << 20, 2, 1, 1}};
    float out[32 * 32];
    for (size_t k = 0; k < DR_COUNT(side); k++) {
        const int h = side[k][0], w = side[k][1], oh = side[k][2], ow = side[k][3];
        uint8_t *in = malloc((size_t)h * (size_t)w);
        memset(in, 77, (size_t)h * (size_t)w);
        const long before = peak();
        assert_int_equal(dr_resize_real(in, h, w, 1, w, DR_FILTER_BICUBIC, out, oh, ow, NULL), 0);
        assert_true(peak() - before < 16 << 10);
        for (int i = 0; i < oh * ow; i++)
            assert_true(fabsf(out[i] - 77) < 1e-3f);
        free(in);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(png_kinds),
        cmocka_unit_test(large_png_is_averaged_down),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(one_endless_row),
        cmocka_unit_test(texts_are_passed_over),
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
        cmocka_unit_test(exif_of_png),
        cmocka_unit_test(exif_is_not_trusted),
        cmocka_unit_test(bicubic_is_antialiased),
        cmocka_unit_test(resampling_of_bytes),
        cmocka_unit_test(bytes_of_resampling),
        cmocka_unit_test(long_sides_take_little),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
