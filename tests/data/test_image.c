// Pixel rounding, PNG grids decoded again with libpng (pixels and iTXt), npy headers and data.
#include "tests/data/util.h"

#include <math.h>
#include <png.h>

#include "engine/core/rng.h"
#include "engine/io/image.h"

static void test_rounding(void **state) {
    (void)state;
    const real x[] = {-1, 1, 0, -5, 7, (real)NAN, (real)INFINITY, -(real)INFINITY};
    const uint8_t want[] = {0, 255, 128, 0, 255, 0, 255, 0}; // 127.5 goes to the even 128
    uint8_t out[256];
    dr_to_pixels(x, DR_COUNT(x), out);
    assert_memory_equal(out, want, sizeof want);
    const real halves[] = {(real)(0.5 / 127.5) - 1, (real)(2.5 / 127.5) - 1};
    dr_to_pixels(halves, 2, out);
    assert_true(out[0] <= 1 && (out[1] == 2 || out[1] == 3));
    real all[256];
    for (int p = 0; p < 256; p++)
        all[p] = (real)p / (real)127.5 - 1; // every pixel survives the way to reals and back
    dr_to_pixels(all, 256, out);
    for (int p = 0; p < 256; p++)
        assert_int_equal(out[p], p);
}

struct source {
    const uint8_t *p;
    size_t n;
};

static void read_mem(png_structp png, png_bytep out, size_t n) {
    struct source *s = png_get_io_ptr(png);
    if (n > s->n)
        png_error(png, "short");
    memcpy(out, s->p, n);
    s->p += n;
    s->n -= n;
}

// Decodes into rows of `channels` bytes per pixel; text of `key` into `text` (NULL: no text
// expected).
static uint8_t *decode(const struct dr_bytes *b, int channels, uint32_t *w, uint32_t *h,
                       const char *key, char *text, size_t size) {
    struct source s = {b->p, b->n};
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    if (setjmp(png_jmpbuf(png)))
        fail_msg("libpng cannot read the picture");
    png_set_read_fn(png, &s, read_mem);
    png_read_png(png, info, PNG_TRANSFORM_IDENTITY, NULL);
    *w = png_get_image_width(png, info);
    *h = png_get_image_height(png, info);
    assert_int_equal(png_get_channels(png, info), channels);
    assert_int_equal(png_get_bit_depth(png, info), 8);
    size_t row = (size_t)*w * (size_t)channels;
    uint8_t *out = malloc(row * *h);
    png_bytepp rows = png_get_rows(png, info);
    for (uint32_t y = 0; y < *h; y++)
        memcpy(out + y * row, rows[y], row);
    png_textp t;
    int n = png_get_text(png, info, &t, NULL);
    assert_int_equal(n, key ? 1 : 0);
    if (key) {
        assert_string_equal(t[0].key, key);
        assert_int_equal(t[0].compression, PNG_ITXT_COMPRESSION_NONE);
        snprintf(text, size, "%s", t[0].text);
    }
    png_destroy_read_struct(&png, &info, NULL);
    assert_int_equal(s.n, 0);
    return out;
}

static real *noise(int64_t n) {
    real *x = malloc((size_t)n * sizeof *x);
    dr_normals(8, DR_STREAM_NOISE, 0, x, n);
    return x;
}

static void check_grid(int64_t n, int c, int64_t h, int64_t w, int64_t cols, int64_t scale,
                       int64_t gap) {
    real *x = noise(n * c * h * w);
    uint8_t *px = malloc((size_t)(n * c * h * w));
    dr_to_pixels(x, n * c * h * w, px);
    struct dr_bytes b, again;
    struct dr_err err;
    const char *json = "{\"seed\": 7, \"class\": \"drei \xc3\xa9\"}";
    const enum dr_show show = c == 3 ? DR_SHOW_RGB : DR_SHOW_GREY;
    for (int k = 0; k < 2; k++)
        assert_int_equal(dr_png_grid(x, n, c, h, w, show, cols, scale, gap, "driftd", json,
                                     k ? &again : &b, &err),
                         0);
    assert_int_equal(b.n, again.n);
    assert_memory_equal(b.p, again.p, b.n);
    uint32_t pw, ph;
    char text[200];
    uint8_t *pic = decode(&b, c, &pw, &ph, "driftd", text, sizeof text);
    assert_string_equal(text, json);
    int64_t used = DR_MIN(cols, n), rows = (n + used - 1) / used;
    assert_int_equal(pw, used * w * scale + (used - 1) * gap);
    assert_int_equal(ph, rows * h * scale + (rows - 1) * gap);
    for (int64_t Y = 0; Y < ph; Y++)
        for (int64_t X = 0; X < pw; X++) {
            int64_t gy = Y / (h * scale + gap), gx = X / (w * scale + gap);
            int64_t y = Y % (h * scale + gap) / scale, xx = X % (w * scale + gap) / scale;
            int64_t k = gy * used + gx;
            bool image = y < h && xx < w && k < n;
            for (int ch = 0; ch < c; ch++) {
                int want = image ? px[((k * c + ch) * h + y) * w + xx] : 128;
                assert_int_equal(pic[(Y * pw + X) * c + ch], want);
            }
        }
    free(pic);
    free(px);
    free(x);
    dr_bytes_free(&b);
    dr_bytes_free(&again);
}

static void test_grids(void **state) {
    (void)state;
    check_grid(1, 1, 28, 28, 10, 1, 2);
    check_grid(7, 1, 5, 3, 3, 2, 1);
    check_grid(4, 3, 6, 4, 2, 3, 0);
}

// Two images of `c` channels [3,5] at scale 2: grey, the channels left to right.
static void check_planes(int64_t c) {
    enum { N = 2, H = 3, W = 5, SCALE = 2, GAP = 1 };
    real *x = noise(N * c * H * W);
    uint8_t *px = malloc((size_t)(N * c * H * W));
    struct dr_bytes b;
    struct dr_err err;
    uint32_t pw, ph;
    dr_to_pixels(x, N * c * H * W, px);
    assert_int_equal(
        dr_png_grid(x, N, c, H, W, DR_SHOW_PLANES, N, SCALE, GAP, NULL, NULL, &b, &err), 0);
    uint8_t *pic = decode(&b, 1, &pw, &ph, NULL, NULL, 0);
    assert_int_equal(pw, N * c * W * SCALE + GAP);
    assert_int_equal(ph, H * SCALE);
    for (int64_t Y = 0; Y < ph; Y++)
        for (int64_t k = 0; k < N; k++)
            for (int64_t X = 0; X < c * W * SCALE; X++) {
                int64_t ch = X / SCALE / W, xx = X / SCALE % W, y = Y / SCALE;
                assert_int_equal(pic[Y * pw + k * (c * W * SCALE + GAP) + X],
                                 px[((k * c + ch) * H + y) * W + xx]);
            }
    free(pic);
    free(px);
    free(x);
    dr_bytes_free(&b);
}

// Four channels are latents, not RGBA; three may be latents as well.
static void test_planes(void **state) {
    (void)state;
    check_planes(1);
    check_planes(3);
    check_planes(4);
    real x[64] = {0};
    struct dr_bytes b;
    struct dr_err err;
    assert_int_equal(dr_png_grid(x, 1, 4, 2, 2, DR_SHOW_RGB, 1, 1, 0, NULL, NULL, &b, &err),
                     DR_EINVAL);
    assert_int_equal(dr_png_grid(x, 1, 2, 1, 1, DR_SHOW_POINTS, 1, 1, 0, NULL, NULL, &b, &err),
                     DR_EINVAL);
    assert_int_equal(dr_png_grid(x, 1, 65, 1, 1, DR_SHOW_PLANES, 1, 1, 0, NULL, NULL, &b, &err),
                     DR_EINVAL);
}

static void test_grid_refuses(void **state) {
    (void)state;
    real x[64] = {0};
    struct dr_bytes b;
    struct dr_err err;
    static const int64_t bad[][7] = {
        {0, 1, 2, 2, 1, 1, 0},           {1, 2, 2, 2, 1, 1, 0},         {1, 1, 0, 2, 1, 1, 0},
        {1, 1, 2, 2, 0, 1, 0},           {1, 1, 2, 2, 1, 0, 0},         {1, 1, 2, 2, 1, 1, -1},
        {1, 1, 900000, 900000, 1, 1, 0}, {1, 1, INT64_MAX, 2, 1, 9, 0}, {1, 1, 2, 2, 1, 99999, 0},
        {INT64_MAX, 1, 2, 2, 3, 1, 1},
    };
    for (size_t i = 0; i < DR_COUNT(bad); i++) {
        const int64_t *v = bad[i];
        assert_int_equal(dr_png_grid(x, v[0], v[1], v[2], v[3], DR_SHOW_GREY, v[4], v[5], v[6],
                                     NULL, NULL, &b, &err),
                         DR_EINVAL);
        assert_null(b.p);
    }
    assert_int_equal(dr_png_grid(x, 1, 1, 2, 2, DR_SHOW_GREY, 1, 1, 0, "", "t", &b, &err),
                     DR_EINVAL);
    assert_int_equal(dr_png_grid(x, 1, 1, 2, 2, DR_SHOW_GREY, 1, 1, 0, "k", NULL, &b, &err),
                     DR_EINVAL);
    uint32_t w, h;
    assert_int_equal(dr_png_grid(x, 1, 1, 2, 2, DR_SHOW_GREY, 1, 1, 0, NULL, NULL, &b, &err), 0);
    free(decode(&b, 1, &w, &h, NULL, NULL, 0));
    dr_bytes_free(&b);
    dr_bytes_free(&b); // twice is fine
}

static void test_npy(void **state) {
    (void)state;
    static const struct {
        int ndim;
        int64_t dim[4];
        const char *shape;
    } cases[] = {{4, {2, 1, 3, 5}, "(2, 1, 3, 5)"},
                 {1, {30}, "(30,)"},
                 {0, {0}, "()"},
                 {2, {0, 7}, "(0, 7)"}};
    real *x = noise(30);
    struct dr_err err;
    for (size_t i = 0; i < DR_COUNT(cases); i++) {
        struct dr_bytes b;
        assert_int_equal(dr_npy(x, cases[i].ndim, cases[i].dim, &b, &err), 0);
        int64_t count = 1;
        for (int k = 0; k < cases[i].ndim; k++)
            count *= cases[i].dim[k];
        assert_memory_equal(b.p, "\x93NUMPY\x01\x00", 8);
        size_t head = 10 + b.p[8] + 256u * b.p[9];
        assert_int_equal(head % 64, 0);
        assert_int_equal(b.n, head + 4 * (size_t)count);
        assert_int_equal(b.p[head - 1], '\n');
        char want[200], text[200] = "";
        snprintf(want, sizeof want, "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }",
                 cases[i].shape);
        memcpy(text, b.p + 10, strlen(want));
        assert_string_equal(text, want);
        for (int64_t k = 0; k < count; k++) {
            float v;
            memcpy(&v, b.p + head + 4 * k, 4);
            assert_true(v == (float)x[k]);
        }
        dr_bytes_free(&b);
    }
    struct dr_bytes b;
    assert_int_equal(dr_npy(x, 1, (int64_t[]){-1}, &b, &err), DR_EINVAL);
    assert_int_equal(dr_npy(x, 2, (int64_t[]){INT64_MAX, 4}, &b, &err), DR_EINVAL);
    assert_int_equal(dr_npy(x, 9, (int64_t[9]){1}, &b, &err), DR_EINVAL);
    free(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rounding), cmocka_unit_test(test_grids),
        cmocka_unit_test(test_planes),   cmocka_unit_test(test_grid_refuses),
        cmocka_unit_test(test_npy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
