// Imports of folders: classes, splits, order, sizes, what is left out and why, changes while it
// runs, picture files that are damaged, and the sets of the configuration with their cache.
#include "tests/data/import_run.h"

#include <omp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "engine/io/picture.h"

static struct dr_dataset *open_out(bool test) {
    struct dr_dataset *d;
    struct dr_err err = {0};
    if (dr_pictures_open(at("out.pictures"), NULL, test, &d, &err))
        fail_msg("%s", err.msg);
    return d;
}

// Grey level i of class k, so that order and content can be checked.
static void put_level(const char *name, int level) {
    put_made(name, make_flat(10, 10, (uint8_t)level, (uint8_t)level, (uint8_t)level));
}

static void folders_are_classes(void **state) {
    (void)state;
    tree_clear();
    put_level("set/10/a.png", 50);
    put_level("set/2/b.png", 20);
    put_level("set/2/a10.png", 11);
    put_level("set/2/a9.png", 10);
    put_level("set/2/deep/er/c.png", 21);
    put_level("set/K\xc3\xa4tzchen/x.png", 90);
    put_level("set/.hidden/x.png", 91);
    put_made("set/notes.txt", made_of("hello", 5));
    mkdir(at("set/empty"), 0755);
    const struct dr_import_options o = options();
    import_ok("set", &o);
    assert_true(report.classes == 3 && report.train == 6 && report.test == 0);
    assert_string_equal(report.class[0].name, "2");
    assert_string_equal(report.class[1].name, "10");
    assert_string_equal(report.class[2].name, "K\xc3\xa4tzchen");
    assert_true(report.class[0].train == 4 && report.nskip == 1 && report.nnote == 1);
    expect_skip("notes.txt", "not a picture");
    assert_non_null(strstr(report.note[0], "folder empty holds no picture"));
    assert_true(report.min_w == 10 && report.max_h == 10 && report.median_side == 10);
    struct dr_dataset *d = open_out(false);
    // the first of each class, then the second, ...: 2/a9 10/a K/x 2/a10 2/b 2/deep
    static const int level[] = {10, 50, 90, 11, 20, 21}, label[] = {0, 1, 2, 0, 0, 0};
    for (int i = 0; i < 6; i++) {
        assert_int_equal(d->pixels[i * 192], level[i]);
        assert_int_equal(d->label[i], label[i]);
    }
    assert_string_equal(d->class_name[2], "K\xc3\xa4tzchen");
    assert_true(d->fingerprint == report.fingerprint && d->n == 6 && d->c == 3 && d->w == 8);
    dr_dataset_free(d);
    struct dr_import_options strict = o;
    strict.refuse_bad = true;
    unlink(at("out.pictures"));
    import_fails("set", &strict, DR_EFORMAT, "folder empty holds no picture");
}

static void flat_folders_are_one_class(void **state) {
    (void)state;
    tree_clear();
    put_level("set/a.png", 1);
    put_level("set/b.png", 2);
    const struct dr_import_options o = options();
    import_ok("set", &o);
    assert_true(report.classes == 1 && report.train == 2);
    assert_string_equal(report.class[0].name, "all");
}

static void own_splits(void **state) {
    (void)state;
    tree_clear();
    put_level("w/set/Train/cat/1.png", 1);
    put_level("w/set/Train/dog/1.png", 2);
    put_level("w/set/Train/dog/2.png", 3);
    put_level("w/set/val/dog/1.png", 4);
    put_level("w/set/val/cow/1.png", 5); // nothing to train on
    struct dr_import_options o = options();
    o.test_share = 0.5; // the folder has its own
    import_ok("w", &o);
    assert_true(report.own_test && report.classes == 2 && report.train == 3 && report.test == 1);
    assert_non_null(strstr(report.note[0], "class cow has no picture to train on"));
    assert_int_equal(report.skipped, 1);
    expect_skip("set/val/cow/1.png", "its class has no picture to train on");
    struct dr_dataset *d = open_out(true);
    assert_true(d->n == 1 && d->label[0] == 1 && d->pixels[0] == 4);
    dr_dataset_free(d);
    put_level("w/set/test/cat/1.png", 6);
    import_ok("w", &o);
    assert_true(report.test == 1 && report.class[0].test == 1);
    expect_skip("set/val/dog/1.png", "val is not used");
}

// A split around everything is a folder like any other.
static void one_split_alone(void **state) {
    (void)state;
    static const char *const splits[] = {"train", "test", "val"};
    struct dr_import_options o = options();
    o.test_share = 0.5;
    for (size_t k = 0; k < DR_COUNT(splits); k++)
        for (int wrapped = 0; wrapped < 2; wrapped++) {
            char name[80];
            tree_clear();
            for (int i = 0; i < 8; i++) {
                snprintf(name, sizeof name, "set/%s%s/%s/%d.png", wrapped ? "x/" : "", splits[k],
                         i < 4 ? "cat" : "dog", i);
                put_level(name, i);
            }
            import_ok("set", &o);
            assert_true(report.classes == 2 && report.train == 4 && report.test == 4);
            assert_string_equal(report.class[1].name, "dog");
            assert_true(!report.own_test && report.nnote == 0);
        }
    for (size_t k = 0; k < DR_COUNT(splits); k++) {
        char name[80];
        tree_clear();
        for (int i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "set/%s/%d.png", splits[k], i);
            put_level(name, i);
        }
        import_ok("set", &o);
        assert_true(report.classes == 1 && report.train == 2 && report.test == 2);
        assert_string_equal(report.class[0].name, "all");
    }
}

static void more_than_splits(void **state) {
    (void)state;
    tree_clear();
    struct dr_import_options o = options();
    for (int i = 0; i < 12; i++) {
        char name[80];
        snprintf(name, sizeof name, "set/unlabeled/%d.png", i);
        put_level(name, i);
    }
    for (int flat = 0; flat < 2; flat++) {
        put_level(flat ? "set/train/1.png" : "set/train/cat/1.png", 1);
        put_level(flat ? "set/train/2.png" : "set/train/dog/2.png", 2);
        put_level(flat ? "set/test/3.png" : "set/test/dog/3.png", 3);
        import_ok("set", &o);
        assert_true(report.own_test && report.train == 2 && report.test == 1);
        assert_true(report.skipped == 12 && report.classes == 2 - flat && report.nnote == 1);
        assert_string_equal(report.class[0].name, flat ? "all" : "cat");
        assert_non_null(strstr(report.note[0], "12 pictures lie beside the folders train and test "
                                               "and are left out; the first is unlabeled/0.png"));
        unlink(at("set/train/cat/1.png"));
        unlink(at("set/train/dog/2.png"));
        unlink(at("set/test/dog/3.png"));
    }
    tree_clear(); // no pair: classes that happen to have such names
    put_level("set/train/1.png", 1);
    put_level("set/truck/2.png", 2);
    import_ok("set", &o);
    assert_true(report.classes == 2 && report.nnote == 0);
}

static void folders_among_pictures(void **state) {
    (void)state;
    tree_clear();
    const struct dr_import_options o = options();
    for (int i = 0; i < 20; i++) {
        char name[80];
        snprintf(name, sizeof name, "set/%d.png", i);
        put_level(name, i);
    }
    put_level("set/cat/1.png", 1);
    put_level("set/cat/2.png", 2);
    import_ok("set", &o);
    assert_true(report.classes == 1 && report.train == 22 && report.nnote == 1);
    assert_non_null(strstr(report.note[0], "all are one class, also the 2 that lie in folders; "
                                           "the first of these is cat/1.png"));
}

static void share_for_testing(void **state) {
    (void)state;
    tree_clear();
    for (int i = 0; i < 40; i++) {
        char name[40];
        snprintf(name, sizeof name, "set/%s/%d.png", i < 30 ? "a" : "b", i);
        put_level(name, i);
    }
    struct dr_import_options o = options();
    o.test_share = 0.2;
    import_ok("set", &o);
    assert_true(!report.own_test && report.class[0].test == 6 && report.class[1].test == 2);
    struct dr_dataset *d = open_out(true);
    uint8_t first[8];
    bool seen[40] = {0};
    for (int i = 0; i < 8; i++) {
        first[i] = d->pixels[i * 192];
        assert_false(seen[first[i]]);
        seen[first[i]] = true;
    }
    dr_dataset_free(d);
    o.seed = 1;
    import_ok("set", &o);
    d = open_out(true);
    int differ = 0;
    for (int i = 0; i < 8; i++)
        differ += d->pixels[i * 192] != first[i];
    assert_true(differ > 0);
    dr_dataset_free(d);
    o.test_share = 0;
    import_ok("set", &o);
    struct dr_err err;
    assert_int_equal(dr_pictures_open(at("out.pictures"), NULL, true, &d, &err), DR_ENOENT);
    assert_non_null(strstr(err.msg, "no pictures to test with"));
}

static void bad_files(void **state) {
    (void)state;
    tree_clear();
    put_level("set/a/good.png", 1);
    put_made("set/a/empty.jpg", made_of("", 0));
    put_made("set/a/text.jpg", made_of("I am a text", 11));
    struct made cut = make_png(50, 50, PNG_COLOR_TYPE_RGB, 8, false);
    cut.n /= 2;
    put_made("set/a/cut.png", cut);
    put_made("set/a/wrong.jpg", make_png(50, 50, PNG_COLOR_TYPE_RGB, 8, false)); // still a picture
    put_made("set/a/one.png", make_flat(1, 1, 9, 9, 9));
    assert_int_equal(symlink("/etc/hostname", at("set/a/link.png")), 0);
    assert_int_equal(mkfifo(at("set/a/fifo.png"), 0600), 0);
    put_made("set/a/gif.gif", made_of("GIF89a.........", 15));
    struct dr_import_options o = options();
    import_ok("set", &o);
    assert_true(report.train == 3 && report.skipped == 6 && report.upscaled == 1);
    assert_true(report.min_w == 1 && report.max_w == 50);
    expect_skip("a/empty.jpg", "the file is empty");
    expect_skip("a/text.jpg", "not a picture");
    expect_skip("a/cut.png", "damaged PNG");
    expect_skip("a/link.png", "links are not followed");
    expect_skip("a/fifo.png", "neither a file nor a folder");
    expect_skip("a/gif.gif", "GIF is not read");
    unlink(at("out.pictures"));
    o.refuse_bad = true;
    import_fails("set", &o, DR_EFORMAT, "a/cut.png: damaged PNG");
    o.refuse_bad = false;
    o.max_pixels = 1000;
    import_ok("set", &o);
    expect_skip("a/wrong.jpg", "50x50 pixels are more than the limit of 1000");
    o = options();
    o.fit = DR_FIT_PAD;
    import_ok("set", &o);
    expect_skip("a/wrong.jpg", "50x50 pixels do not fit into 8x8 by padding");
}

// The bytes of a file for whose pixels there is no memory; 0: there is for all.
static size_t hungry;

int __real_dr_picture_decode(const uint8_t *p, size_t n, const struct dr_picture_options *o,
                             struct dr_picture *out, struct dr_err *err);
int __wrap_dr_picture_decode(const uint8_t *p, size_t n, const struct dr_picture_options *o,
                             struct dr_picture *out, struct dr_err *err);
int __wrap_dr_picture_decode(const uint8_t *p, size_t n, const struct dr_picture_options *o,
                             struct dr_picture *out, struct dr_err *err) {
    if (!hungry || n != hungry)
        return __real_dr_picture_decode(p, n, o, out, err);
    *out = (struct dr_picture){0};
    return dr_fail(err, DR_ENOMEM, "no memory for a picture");
}

// One picture that is too large for this machine does not cost the others.
static void one_without_memory(void **state) {
    (void)state;
    tree_clear();
    struct made m = make_png(50, 40, PNG_COLOR_TYPE_RGB, 8, false);
    hungry = m.n;
    put_level("set/a/1.png", 1);
    put_made("set/a/2.png", m);
    put_level("set/a/3.png", 3);
    struct dr_import_options o = options();
    import_ok("set", &o);
    assert_true(report.train == 2 && report.skipped == 1);
    expect_skip("a/2.png", "no memory for a picture");
    o.refuse_bad = true;
    unlink(at("out.pictures"));
    import_fails("set", &o, DR_EFORMAT, "a/2.png: no memory for a picture");
    hungry = 0;
}

static void nothing_to_read(void **state) {
    (void)state;
    struct dr_import_options o = options();
    tree_clear();
    import_fails("nowhere", &o, DR_ENOENT, "nowhere: No such file");
    mkdir(at("set"), 0755);
    import_fails("set", &o, DR_EFORMAT, "there is no picture in it");
    put_made("set/a.png", made_of("bad", 3));
    import_fails("set", &o, DR_EFORMAT,
                 "none of its 1 files could be read as a picture; a.png: not a");
    put_made("file", made_of("no archive at all", 17));
    import_fails("file", &o, DR_HAVE_ARCHIVE ? DR_EFORMAT : DR_EUNSUPPORTED,
                 DR_HAVE_ARCHIVE ? "neither a folder nor a zip or tar" : "reads no archives");
    o.channels = 2;
    import_fails("set", &o, DR_EINVAL, "channels is 2");
    put_level("set/b.png", 1);
    o = options();
    o.max_files = 1;
    import_fails("set", &o, DR_EINVAL, "more than 1 files");
}

static void twenty_thousand_squared(void **state) {
    (void)state;
    tree_clear();
    put_level("set/a.png", 1);
    // 400 megapixels of one bit, written row by row
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    struct made m = {0};
    uint8_t *row = calloc(2500, 1);
    memset(row, 0xff, 1250); // white on the left
    png_set_write_fn(png, &m, made_write, made_flush);
    png_set_compression_level(png, 1);
    png_set_IHDR(png, info, 20000, 20000, 1, PNG_COLOR_TYPE_GRAY, 0, 0, 0);
    png_write_info(png, info);
    for (int y = 0; y < 20000; y++)
        png_write_row(png, row);
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    free(row);
    put_made("set/large.png", m);
    struct dr_import_options o = options();
    import_ok("set", &o);
    assert_true(report.train == 2 && report.max_w == 20000);
    struct dr_dataset *d = open_out(false);
    assert_true(d->pixels[192] == 255 && d->pixels[192 + 7] == 0);
    dr_dataset_free(d);
}

// ---- fitting

static void expect_pixel(const struct dr_dataset *d, int64_t y, int64_t x, int r, int g, int b) {
    const uint8_t *p = d->pixels + y * d->w + x;
    const int64_t n = d->h * d->w;
    if (abs(p[0] - r) > 2 || abs(p[n] - g) > 2 || abs(p[2 * n] - b) > 2)
        fail_msg("pixel %d,%d is %d %d %d, expected %d %d %d", (int)x, (int)y, p[0], p[n], p[2 * n],
                 r, g, b);
}

static void fits(void **state) {
    (void)state;
    tree_clear();
    put_made("set/a.png", make_png(64, 32, PNG_COLOR_TYPE_RGB, 8, false));
    struct dr_import_options o = options();
    memcpy(o.background, (uint8_t[]){1, 2, 3}, 3);
    o.fit = DR_FIT_FIT;
    import_ok("set", &o);
    struct dr_dataset *d = open_out(false);
    expect_pixel(d, 0, 4, 1, 2, 3); // two rows of background, four of picture, two
    expect_pixel(d, 1, 4, 1, 2, 3);
    expect_pixel(d, 2, 0, 255, 0, 0);
    expect_pixel(d, 5, 7, 255, 255, 255);
    expect_pixel(d, 6, 0, 1, 2, 3);
    dr_dataset_free(d);
    o.fit = DR_FIT_RESIZE;
    import_ok("set", &o);
    d = open_out(false);
    expect_pixel(d, 0, 0, 255, 0, 0);
    expect_pixel(d, 7, 0, 0, 0, 255);
    expect_pixel(d, 7, 7, 255, 255, 255);
    dr_dataset_free(d);
    o.fit = DR_FIT_PAD;
    o.size = 66;
    import_ok("set", &o);
    d = open_out(false);
    expect_pixel(d, 33, 0, 1, 2, 3);
    expect_pixel(d, 17, 1, 255, 0, 0);
    expect_pixel(d, 16, 1, 1, 2, 3);
    dr_dataset_free(d);
    o.fit = DR_FIT_CROP;
    o.size = 32;
    o.channels = 1;
    import_ok("set", &o);
    d = open_out(false);
    assert_true(d->c == 1 && d->pixels[0] == 76 && d->pixels[31] == 150); // luma of red and green
    dr_dataset_free(d);
}

static void chosen_sizes(void **state) {
    (void)state;
    tree_clear();
    put_made("set/a.png", make_png(28, 28, PNG_COLOR_TYPE_GRAY, 8, false));
    put_made("set/b.png", make_png(28, 28, PNG_COLOR_TYPE_GRAY, 8, false));
    struct dr_import_options o = options();
    o.size = o.channels = 0;
    import_ok("set", &o);
    assert_true(report.size == 28 && report.channels == 1 && report.train == 2);
    put_made("set/c.png", make_png(400, 300, PNG_COLOR_TYPE_RGB, 8, false));
    put_made("set/d.png", make_png(300, 400, PNG_COLOR_TYPE_RGB, 8, false));
    put_made("set/e.png", make_png(200, 90, PNG_COLOR_TYPE_RGB, 8, false));
    import_ok("set", &o);
    assert_true(report.size == 64 && report.channels == 3 && report.train == 5);
    assert_true(report.median_side == 90 && report.upscaled == 2);
}

// ---- changes, threads, progress

struct watch {
    int calls, stages;
    const char *add; // file to add while pictures are decoded
    bool cancel;
};

static bool watch(void *ctx, const struct dr_import_progress *p) {
    struct watch *w = ctx;
    w->calls++;
    w->stages |= 1 << p->stage;
    assert_true(p->done >= 0 && (!p->total || p->done <= p->total));
    if (w->add && p->stage == DR_IMPORT_DECODING) {
        put_level(w->add, 3);
        w->add = NULL;
    }
    return !(w->cancel && p->stage == DR_IMPORT_DECODING);
}

static void changes_are_noticed(void **state) {
    (void)state;
    tree_clear();
    put_level("set/a/1.png", 1);
    put_level("set/a/2.png", 2);
    const struct dr_import_options o = options();
    struct dr_err err = {0};
    struct watch w = {.add = "set/a/3.png"};
    assert_int_equal(dr_pictures_import(at("set"), at("out.pictures"), &o, watch, &w, NULL, &err),
                     DR_ECONFLICT);
    assert_non_null(strstr(err.msg, "1 files new, 0 gone, 0 changed; the first is a/3.png"));
    w = (struct watch){0};
    assert_int_equal(dr_pictures_import(at("set"), at("out.pictures"), &o, watch, &w, NULL, &err),
                     0);
    assert_int_equal(w.stages, 7);
    w = (struct watch){.cancel = true};
    assert_int_equal(dr_pictures_import(at("set"), at("other.pictures"), &o, watch, &w, NULL, &err),
                     DR_ECANCELED);
    assert_int_equal(dir_entries(), 2); // set and out.pictures: no parts are left
}

static void threads_change_nothing(void **state) {
    (void)state;
    tree_clear();
    for (int i = 0; i < 300; i++) {
        char name[40];
        snprintf(name, sizeof name, "set/%d/%d.png", i % 7, i);
        put_made(name, make_png(9 + i % 11, 9 + i % 5, PNG_COLOR_TYPE_RGB, 8, i & 1));
    }
    struct dr_import_options o = options();
    o.test_share = 0.1;
    const int before = omp_get_max_threads();
    uint64_t first = 0;
    for (int threads = 1; threads <= 3; threads += 2) {
        omp_set_num_threads(threads);
        import_ok("set", &o);
        first = first ? first : report.fingerprint;
        assert_true(first == report.fingerprint && report.train + report.test == 300);
    }
    omp_set_num_threads(before);
}

// ---- the picture file

static void damaged_files_are_refused(void **state) {
    (void)state;
    tree_clear();
    put_level("set/a/1.png", 1);
    put_level("set/b/2.png", 2);
    const struct dr_import_options o = options();
    import_ok("set", &o);
    size_t n;
    uint8_t *whole = get_file(at("out.pictures"), &n);
    struct dr_dataset *d;
    struct dr_import_report r;
    struct dr_err err;
    for (size_t i = 0; i < n; i++) {
        if (i == 104)
            i = 4096 + 2 * 192; // the rest of the header's page, and pixels, may be anything
        whole[i] ^= 1;
        put_file(at("bad.pictures"), whole, n);
        whole[i] ^= 1;
        assert_int_equal(dr_pictures_open(at("bad.pictures"), NULL, false, &d, &err), DR_EFORMAT);
        assert_null(d);
        assert_non_null(strstr(err.msg, "bad.pictures: not a sound picture file"));
    }
    put_file(at("bad.pictures"), whole, n - 1);
    assert_int_equal(dr_pictures_info(at("bad.pictures"), &r, &err), DR_EFORMAT);
    assert_non_null(strstr(err.msg, "it is truncated"));
    put_file(at("bad.pictures"), whole, 100);
    assert_int_equal(dr_pictures_info(at("bad.pictures"), &r, &err), DR_EFORMAT);
    assert_true(dr_pictures_is_file(at("out.pictures")) && !dr_pictures_is_file(at("set")));
    free(whole);
    assert_int_equal(dr_pictures_info(at("out.pictures"), &r, &err), 0);
    assert_true(r.classes == 2 && r.train == 2 && r.fingerprint == report.fingerprint);
    assert_string_equal(r.source, "folder");
    char *a = dr_import_report_json(&r), *b = dr_import_report_json(&report);
    assert_non_null(strstr(a, "\"classes\":[{\"name\":\"a\",\"train\":1,\"test\":0}"));
    assert_non_null(b);
    free(a);
    free(b);
    dr_import_report_free(&r);
}

// Of 300 pictures of a map that somebody truncates, those that are gone read as zeros, and who
// reads them gets an error.
static void truncated_while_mapped(void **state) {
    (void)state;
    tree_clear();
    for (int i = 0; i < 300; i++) {
        char name[40];
        snprintf(name, sizeof name, "set/a/%d.png", i);
        put_level(name, 100 + i % 100);
    }
    const struct dr_import_options o = options();
    import_ok("set", &o);
    struct dr_dataset *d = open_out(false), *other = open_out(false), *again;
    const int64_t first = 0, last = d->n - 1, row = (int64_t)dr_dataset_row_bytes(d);
    uint8_t sample[3 * 64];
    struct dr_err err = {0};
    assert_int_equal(row, sizeof sample);
    assert_true(4096 + 300 * row > 4 * 4096);
    assert_int_equal(dr_dataset_rows(d, &last, 1, sample, &err), 0);
    assert_true(sample[0] >= 100);
    assert_int_equal(dr_dataset_intact(d, &err), 0);
    assert_int_equal(truncate(at("out.pictures"), 4096 + row), 0);
    assert_int_equal(dr_dataset_rows(d, &last, 1, sample, &err), DR_EIO);
    assert_non_null(strstr(err.msg, "out.pictures: the picture file was truncated"));
    assert_int_equal(sample[0], 0);
    assert_int_equal(d->pixels[last * row], 0); // no signal any more
    assert_int_equal(dr_dataset_intact(d, &err), DR_EIO);
    assert_int_equal(dr_dataset_rows(d, &first, 1, sample, &err), DR_EIO); // of a file that is gone
    assert_int_equal(other->pixels[last * row], 0);
    assert_int_equal(truncate(at("out.pictures"), 1 << 20),
                     0); // as long as it was, but not the same
    assert_int_equal(dr_dataset_intact(other, &err), DR_EIO);
    assert_int_equal(dr_pictures_open(at("out.pictures"), NULL, false, &again, &err), DR_EFORMAT);
    dr_dataset_free(d);
    dr_dataset_free(other);
    import_ok("set", &o); // the next file is watched anew
    d = open_out(false);
    assert_int_equal(dr_dataset_rows(d, &last, 1, sample, &err), 0);
    dr_dataset_free(d);
}

// A fault in anybody else's memory ends the process as ever.
static void other_faults_stay(void **state) {
    (void)state;
    const struct dr_import_options o = options();
    int status;
    tree_clear();
    put_level("set/a/1.png", 1);
    import_ok("set", &o);
    const pid_t child = fork();
    if (!child) {
        const struct rlimit none = {0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGBUS, SIG_DFL); // not the one of the test's frame
        open_out(false);
        FILE *f = tmpfile();
        ftruncate(fileno(f), 8192);
        volatile char *p = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fileno(f), 0);
        ftruncate(fileno(f), 0);
        _exit(p[4096]);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(!WIFEXITED(status) || WEXITSTATUS(status)); // a sanitizer ends it by itself
    if (WIFSIGNALED(status))
        assert_int_equal(WTERMSIG(status), SIGBUS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folders_are_classes),
        cmocka_unit_test(flat_folders_are_one_class),
        cmocka_unit_test(own_splits),
        cmocka_unit_test(one_split_alone),
        cmocka_unit_test(more_than_splits),
        cmocka_unit_test(folders_among_pictures),
        cmocka_unit_test(share_for_testing),
        cmocka_unit_test(bad_files),
        cmocka_unit_test(one_without_memory),
        cmocka_unit_test(nothing_to_read),
        cmocka_unit_test(twenty_thousand_squared),
        cmocka_unit_test(fits),
        cmocka_unit_test(chosen_sizes),
        cmocka_unit_test(changes_are_noticed),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(truncated_while_mapped),
        cmocka_unit_test(other_faults_stay),
    };
    const int rc = cmocka_run_group_tests(tests, dir_setup, tree_teardown);
    dr_import_report_free(&report);
    return rc;
}
