// idx reader and the file-based data sets: good files, every kind of broken one, look-up of
// folders, padding and resizing.
#include "tests/data/idx_file.h"

#include <sys/stat.h>

#include "engine/core/rng.h"
#include "engine/data/data.h"

enum { N = 40, H = 5, W = 4 };
static uint8_t pixels[N * H * W], labels[N];
static const uint32_t image_dim[3] = {N, H, W}, label_dim[1] = {N};

static void fill(void) {
    struct dr_rng g;
    dr_rng_init(&g, 3, DR_STREAM_DATA, 0);
    for (size_t i = 0; i < sizeof pixels; i++)
        pixels[i] = (uint8_t)dr_rng_below(&g, 256);
    for (int i = 0; i < N; i++)
        labels[i] = (uint8_t)((i * 7) % 10);
}

static void put_set(int gz) {
    put_idx(in_dir(gz ? "train-images-idx3-ubyte.gz" : "train-images-idx3-ubyte"), gz, IMAGES, 3,
            image_dim, pixels, sizeof pixels);
    put_idx(in_dir(gz ? "train-labels-idx1-ubyte.gz" : "train-labels-idx1-ubyte"), gz, LABELS, 1,
            label_dim, labels, sizeof labels);
}

static void test_good(void **state) {
    (void)state;
    for (int gz = 0; gz < 2; gz++) {
        uint8_t *p;
        int64_t n, h, w;
        struct dr_err err;
        put_idx(in_dir("a"), gz, IMAGES, 3, image_dim, pixels, sizeof pixels);
        assert_int_equal(dr_idx_read_images(in_dir("a"), &p, &n, &h, &w, &err), 0);
        assert_true(n == N && h == H && w == W);
        assert_memory_equal(p, pixels, sizeof pixels);
        free(p);
        put_idx(in_dir("b"), gz, LABELS, 1, label_dim, labels, sizeof labels);
        assert_int_equal(dr_idx_read_labels(in_dir("b"), &p, &n, &err), 0);
        assert_int_equal(n, N);
        assert_memory_equal(p, labels, sizeof labels);
        free(p);
    }
    dir_clear();
}

// Reads "bad" as images and expects EFORMAT with the path and `says` in the sentence.
static void refused(const char *says) {
    uint8_t *p;
    int64_t n, h, w;
    struct dr_err err = {0};
    assert_int_equal(dr_idx_read_images(in_dir("bad"), &p, &n, &h, &w, &err), DR_EFORMAT);
    assert_null(p);
    if (!strstr(err.msg, says) || !strstr(err.msg, in_dir("bad")))
        fail_msg("got '%s', expected '%s'", err.msg, says);
}

static void test_lying(void **state) {
    (void)state;
    for (int gz = 0; gz < 2; gz++) {
        put_idx(in_dir("bad"), gz, LABELS, 3, image_dim, pixels, sizeof pixels);
        refused("magic number is 0x00000801, expected 0x00000803");
        put_idx(in_dir("bad"), gz, 0x03080000, 3, image_dim, pixels, sizeof pixels);
        refused("magic");
        put_idx(in_dir("bad"), gz, IMAGES, 3, (uint32_t[]){N + 1, H, W}, pixels, sizeof pixels);
        refused("truncated: images has 800 bytes, expected 820");
        put_idx(in_dir("bad"), gz, IMAGES, 3, (uint32_t[]){N - 1, H, W}, pixels, sizeof pixels);
        refused("more data");
        put_idx(in_dir("bad"), gz, IMAGES, 3, (uint32_t[]){0, H, W}, pixels, sizeof pixels);
        refused("size 0");
        put_idx(in_dir("bad"), gz, IMAGES, 3, (uint32_t[]){N, 0, W}, pixels, sizeof pixels);
        refused("size 1");
        put_idx(in_dir("bad"), gz, IMAGES, 3, (uint32_t[]){N, H, 5000}, pixels, sizeof pixels);
        refused("size 2");
        put_idx(in_dir("bad"), gz, IMAGES, 3, (uint32_t[]){UINT32_MAX, 4096, 4096}, pixels,
                sizeof pixels);
        refused("cannot hold");
    }
    put_file(in_dir("bad"), "", 0);
    refused("the header has 0 bytes");
    uint8_t *p;
    int64_t n;
    struct dr_err err;
    assert_int_equal(dr_idx_read_labels(in_dir("none"), &p, &n, &err), DR_ENOENT);
    assert_int_equal(dr_idx_read_labels(test_dir, &p, &n, &err), DR_EFORMAT);
    dir_clear();
}

static void test_torn(void **state) {
    (void)state;
    for (int gz = 0; gz < 2; gz++) {
        size_t size;
        put_idx(in_dir("whole"), gz, IMAGES, 3, image_dim, pixels, sizeof pixels);
        uint8_t *b = get_file(in_dir("whole"), &size);
        for (size_t len = 0; len < size; len += len < 40 || len + 20 > size ? 1 : 7) {
            put_file(in_dir("bad"), b, len);
            refused("");
        }
        free(b);
    }
    // A flipped bit is found by gzip's checksum, if not before.
    size_t size;
    uint8_t *b = get_file(in_dir("whole"), &size);
    for (size_t i = 20; i < size; i += 7) {
        b[i] ^= 0x10;
        put_file(in_dir("bad"), b, size);
        refused("");
        b[i] ^= 0x10;
    }
    free(b);
    dir_clear();
}

static struct dr_data_config config(int set, int64_t size) {
    return (struct dr_data_config){
        .set = set, .size = size, .channels = 1, .classes = 10, .count = 16};
}

static int load(const struct dr_data_config *cfg, struct dr_dataset **d, struct dr_err *err) {
    return dr_dataset_load(cfg, test_dir, false, d, err);
}

static void test_dataset(void **state) {
    (void)state;
    struct dr_data_config cfg = config(DR_DATA_FASHION, 8);
    struct dr_dataset *d, *e;
    struct dr_err err;
    put_set(1);
    assert_int_equal(load(&cfg, &d, &err), 0);
    assert_true(d->n == N && d->c == 1 && d->h == 8 && d->w == 8 && d->classes == 10);
    assert_string_equal(d->class_name[9], "Ankle boot");
    for (int i = 0; i < N; i++) {
        assert_int_equal(d->label[i], labels[i]);
        for (int y = 0; y < 8; y++)
            for (int x = 0; x < 8; x++) { // 5x4 centred in 8x8: one row and two columns before
                bool in = y >= 1 && y < 6 && x >= 2 && x < 6;
                assert_int_equal(d->pixels[(i * 8 + y) * 8 + x],
                                 in ? pixels[(i * H + y - 1) * W + x - 2] : 0);
            }
    }
    for (int k = 0; k < 10; k++)
        for (int64_t j = d->class_start[k]; j < d->class_start[k + 1]; j++)
            assert_int_equal(d->label[d->by_class[j]], k);
    assert_int_equal(d->class_start[10], N);
    real x[2 * 64];
    assert_int_equal(dr_dataset_reals(d, (int64_t[]){3, 0}, 2, x, &err), 0);
    assert_true(x[10] == (real)pixels[3 * H * W] / (real)127.5 - 1);
    assert_true(x[64] == -1 && x[64 + 10] == (real)pixels[0] / (real)127.5 - 1);
    assert_int_equal(load(&cfg, &e, &err), 0);
    assert_true(e->fingerprint == d->fingerprint);
    dr_dataset_free(e);
    cfg.limit = 7;
    assert_int_equal(load(&cfg, &e, &err), 0);
    assert_true(e->n == 7 && e->fingerprint != d->fingerprint);
    dr_dataset_free(e);
    dr_dataset_free(d);
    cfg.size = 4;
    assert_int_equal(load(&cfg, &d, &err), DR_ECONFIG);
    assert_non_null(strstr(err.msg, "data.size 4"));
    cfg.size = 8, cfg.channels = 3;
    assert_int_equal(load(&cfg, &d, &err), DR_ECONFIG);
    dir_clear();
}

static void test_resize(void **state) {
    (void)state;
    // 2x2 to 4x4: centres at -0.25, 0.25, 0.75, 1.25 of the source, clamped to 0..1.
    static const uint8_t in[4] = {0, 100, 200, 40};
    static const uint8_t want[16] = {0,   25,  75, 100, 50,  59,  76, 85,
                                     150, 126, 79, 55,  200, 160, 80, 40};
    struct dr_data_config cfg = config(DR_DATA_IDX, 4);
    struct dr_dataset *d;
    struct dr_err err;
    cfg.fit = DR_FIT_RESIZE;
    put_idx(in_dir("train-images-idx3-ubyte"), 0, IMAGES, 3, (uint32_t[]){1, 2, 2}, in, 4);
    put_idx(in_dir("train-labels-idx1-ubyte"), 0, LABELS, 1, (uint32_t[]){1}, labels, 1);
    assert_int_equal(load(&cfg, &d, &err), 0);
    assert_memory_equal(d->pixels, want, sizeof want);
    dr_dataset_free(d);
    cfg.size = 2; // the same size: untouched
    assert_int_equal(load(&cfg, &d, &err), 0);
    assert_memory_equal(d->pixels, in, sizeof in);
    dr_dataset_free(d);
    dir_clear();
}

// Four columns become one: bilinear between the middle two would not see the others.
static void test_reduce(void **state) {
    (void)state;
    uint8_t in[8 * 8];
    for (int i = 0; i < 64; i++)
        in[i] = i % 4 == 0 || i % 4 == 3 ? 200 : 0;
    struct dr_data_config cfg = config(DR_DATA_IDX, 2);
    struct dr_dataset *d;
    struct dr_err err;
    cfg.fit = DR_FIT_RESIZE;
    put_idx(in_dir("train-images-idx3-ubyte"), 0, IMAGES, 3, (uint32_t[]){1, 8, 8}, in, 64);
    put_idx(in_dir("train-labels-idx1-ubyte"), 0, LABELS, 1, (uint32_t[]){1}, labels, 1);
    assert_int_equal(load(&cfg, &d, &err), 0);
    for (int i = 0; i < 4; i++)
        assert_true(d->pixels[i] > 80 && d->pixels[i] < 120);
    dr_dataset_free(d);
    dir_clear();
}

static void test_broken_sets(void **state) {
    (void)state;
    struct dr_data_config cfg = config(DR_DATA_MNIST, 8);
    struct dr_dataset *d;
    struct dr_err err;
    put_set(0);
    assert_int_equal(unlink(in_dir("train-labels-idx1-ubyte")), 0);
    assert_int_equal(load(&cfg, &d, &err), DR_ENOENT);
    assert_non_null(strstr(err.msg, "train-labels-idx1-ubyte"));
    put_idx(in_dir("train-labels-idx1-ubyte"), 0, LABELS, 1, (uint32_t[]){N - 1}, labels, N - 1);
    assert_int_equal(load(&cfg, &d, &err), DR_EFORMAT);
    assert_non_null(strstr(err.msg, "39 labels"));
    assert_non_null(strstr(err.msg, "40 images"));
    uint8_t wrong[N];
    memcpy(wrong, labels, N);
    wrong[5] = 10;
    put_idx(in_dir("train-labels-idx1-ubyte"), 0, LABELS, 1, label_dim, wrong, N);
    assert_int_equal(load(&cfg, &d, &err), DR_EFORMAT);
    assert_non_null(strstr(err.msg, "label 5 is 10, expected 0 to 9"));
    cfg.classes = 11;
    assert_int_equal(load(&cfg, &d, &err), DR_ECONFIG);
    assert_null(d);
    dir_clear();
}

static void test_lookup(void **state) {
    (void)state;
    struct dr_data_config cfg = config(DR_DATA_MNIST, 8);
    struct dr_dataset *d;
    struct dr_err err;
    assert_int_equal(load(&cfg, &d, &err), DR_ENOENT);
    assert_non_null(strstr(err.msg, test_dir));
    assert_non_null(strstr(err.msg, "driftctl fetch mnist"));
    struct dr_data_config own = config(DR_DATA_IDX, 8);
    snprintf(own.path, sizeof own.path, "mine");
    assert_int_equal(load(&own, &d, &err), DR_ENOENT);
    assert_null(strstr(err.msg, "fetch")); // it has no official place
    assert_non_null(strstr(err.msg, "--data-dir"));
    assert_int_equal(dr_dataset_load(&cfg, NULL, false, &d, &err), DR_ENOENT);
    assert_non_null(strstr(err.msg, "--data-dir"));
    put_set(1);
    assert_int_equal(dr_dataset_load(&cfg, NULL, false, &d, &err), DR_ENOENT);
    assert_int_equal(setenv("DRIFTD_DATA", test_dir, 1), 0);
    assert_int_equal(dr_dataset_load(&cfg, "/nonexistent", false, &d, &err), 0);
    dr_dataset_free(d);
    unsetenv("DRIFTD_DATA");
    assert_int_equal(dr_dataset_load(&cfg, test_dir, true, &d, &err), DR_ENOENT);
    assert_non_null(strstr(err.msg, "t10k-images"));
    snprintf(cfg.path, sizeof cfg.path, "../etc");
    assert_int_equal(load(&cfg, &d, &err), DR_ECONFIG);
    snprintf(cfg.path, sizeof cfg.path, "/etc");
    assert_int_equal(load(&cfg, &d, &err), DR_ECONFIG);
    snprintf(cfg.path, sizeof cfg.path, "a/..");
    assert_int_equal(load(&cfg, &d, &err), DR_ECONFIG);
    dir_clear();
    // A folder named after another set is not used for this one.
    char dir[300], file[400];
    snprintf(dir, sizeof dir, "%s/mnist", test_dir);
    assert_int_equal(mkdir(dir, 0777), 0);
    cfg.path[0] = 0;
    put_set(0);
    snprintf(file, sizeof file, "%s/train-images-idx3-ubyte", dir);
    assert_int_equal(rename(in_dir("train-images-idx3-ubyte"), file), 0);
    snprintf(file, sizeof file, "%s/train-labels-idx1-ubyte", dir);
    assert_int_equal(rename(in_dir("train-labels-idx1-ubyte"), file), 0);
    assert_int_equal(load(&cfg, &d, &err), 0); // test_dir/mnist
    dr_dataset_free(d);
    assert_int_equal(dr_dataset_load(&cfg, dir, false, &d, &err), 0); // the folder itself
    dr_dataset_free(d);
    cfg.set = DR_DATA_FASHION;
    assert_int_equal(dr_dataset_load(&cfg, dir, false, &d, &err), DR_ENOENT);
    assert_int_equal(unlink(file), 0);
    snprintf(file, sizeof file, "%s/train-images-idx3-ubyte", dir);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(rmdir(dir), 0);
    dir_clear();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),        cmocka_unit_test(test_lying),
        cmocka_unit_test(test_torn),        cmocka_unit_test(test_dataset),
        cmocka_unit_test(test_resize),      cmocka_unit_test(test_reduce),
        cmocka_unit_test(test_broken_sets), cmocka_unit_test(test_lookup),
    };
    fill();
    unsetenv("DRIFTD_DATA");
    return cmocka_run_group_tests(tests, dir_setup, dir_teardown);
}
