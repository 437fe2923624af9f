// CIFAR's own files in all their forms, and the sets of the configuration that find them and other
// pictures, with their cache.
#include "tests/data/archive_make.h"

#include <fcntl.h>

// ---- CIFAR

enum { ROW = 3072 };

// Row i of a part: pixel values from its number.
static void cifar_row(int part, int i, uint8_t *p) {
    for (int k = 0; k < ROW; k++)
        p[k] = (uint8_t)(part * 31 + i * 7 + k * 3 + k / 1024);
}

static struct made binary_part(int part, int rows, int labels) {
    struct made m = {malloc((size_t)(rows * (labels + ROW))), (size_t)(rows * (labels + ROW))};
    for (int i = 0; i < rows; i++) {
        uint8_t *p = m.p + i * (labels + ROW);
        p[0] = 99; // coarse, of CIFAR-100
        p[labels - 1] = (uint8_t)((part + i) % 10);
        cifar_row(part, i, p + labels);
    }
    return m;
}

// As Python 2 wrote them: {'data': array, 'labels': [...]} in protocol 2.
static struct made pickle_part(int part, int rows) {
    uint8_t head[] = "\x80\x02}q\x01(U\x04"
                     "data"
                     "q\x02"
                     "cnumpy.core.multiarray\n_reconstruct\nq\x03"
                     "cnumpy\nndarray\nq\x04K\0\x85U\x01"
                     "b\x87Rq\x05(K\x01K\0M\0\x0c\x86"
                     "cnumpy\ndtype\nq\x06U\x02u1K\0K\x01\x87Rq\x07"
                     "(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89T";
    struct made m = {malloc(sizeof head + (size_t)rows * (ROW + 4) + 100), 0};
    for (size_t i = 0; i + 7 < sizeof head; i++) // the shape's first number
        if (!memcmp(head + i, "K\x01K\0M\0\x0c", 7))
            head[i + 3] = (uint8_t)rows;
    memcpy(m.p, head, sizeof head - 1);
    m.n = sizeof head - 1;
    const uint32_t bytes = (uint32_t)rows * ROW;
    memcpy(m.p + m.n, &bytes, 4);
    m.n += 4;
    for (int i = 0; i < rows; i++, m.n += ROW)
        cifar_row(part, i, m.p + m.n);
    memcpy(m.p + m.n, "tbU\x06labels]q\x09(", 14);
    m.n += 14;
    for (int i = 0; i < rows; i++) {
        m.p[m.n++] = 'K';
        m.p[m.n++] = (uint8_t)((part + i) % 10);
    }
    memcpy(m.p + m.n, "eu.", 3);
    m.n += 3;
    return m;
}

static const char *part_name(const char *folder, int part, const char *ext) {
    static char name[120];
    if (part < 6)
        snprintf(name, sizeof name, "%s/data_batch_%d%s", folder, part, ext);
    else
        snprintf(name, sizeof name, "%s/test_batch%s", folder, ext);
    return name;
}

static void check_cifar(int64_t classes, const struct dr_import_options *o) {
    assert_true(report.train == 20 && report.test == 4 && report.classes == classes);
    assert_true(report.own_test && report.min_w == 32);
    assert_string_equal(report.class[3].name, classes == 10 ? "cat" : "bear");
    struct dr_dataset *d;
    struct dr_err err;
    for (int test = 0; test < 2; test++) {
        assert_int_equal(dr_pictures_open(at("out.pictures"), NULL, test, &d, &err), 0);
        for (int i = 0; i < d->n && o->size == 32; i++) {
            uint8_t want[ROW];
            const int part = test ? 6 : i / 4 + 1;
            cifar_row(part, i % 4, want);
            assert_memory_equal(d->pixels + i * ROW, want, ROW);
            assert_int_equal(d->label[i], (part + i % 4) % 10);
        }
        dr_dataset_free(d);
    }
}

static void cifar_in_all_its_forms(void **state) {
    (void)state;
    struct dr_import_options o = options();
    o.size = 32;
    tree_clear();
    struct archive *tar = new_archive("cifar-10-python.tar.gz");
    for (int part = 6; part >= 1; part--) {
        put_made(part_name("bin", part, ".bin"), binary_part(part, 4, 1));
        put_made(part_name("py/cifar-10-batches-py", part, ""), pickle_part(part, 4));
        add_made(tar, part_name("cifar-10-batches-py", part, ""), pickle_part(part, 4));
    }
    finish(tar);
    put_made("bin/batches.meta.txt", made_of("airplane", 8));
    import_ok("bin", &o);
    check_cifar(10, &o);
    assert_string_equal(report.source, "CIFAR, folder");
    const uint64_t want = report.fingerprint;
    import_ok("py", &o);
    check_cifar(10, &o);
    assert_true(report.fingerprint == want);
    import_ok("cifar-10-python.tar.gz", &o);
    check_cifar(10, &o);
    assert_true(report.fingerprint == want);
    o.size = o.channels = 0;
    import_ok("cifar-10-python.tar.gz", &o);
    assert_true(report.fingerprint == want && report.size == 32 && report.channels == 3);
    o.size = 16; // resized
    import_ok("bin", &o);
    assert_true(report.size == 16 && report.train == 20);
    put_made("hundred/train.bin", binary_part(1, 20, 2));
    put_made("hundred/test.bin", binary_part(6, 4, 2));
    o.size = 32;
    import_ok("hundred", &o);
    assert_true(report.classes == 100 && report.train == 20 && report.test == 4);
    assert_string_equal(report.class[99].name, "worm");
}

// A part of CIFAR with some of its classes: the others have nothing to train on.
static void classes_that_cifar_has(void **state) {
    (void)state;
    struct dr_import_options o = options();
    struct dr_dataset *d;
    struct dr_err err;
    o.size = 32;
    tree_clear();
    struct made m = binary_part(1, 4, 1), test = binary_part(6, 3, 1);
    for (int i = 0; i < 4; i++)
        m.p[i * (1 + ROW)] = (uint8_t)(i % 2 ? 5 : 3);
    for (int i = 0; i < 3; i++)
        test.p[i * (1 + ROW)] = (uint8_t)(3 + i);
    put_made("bin/data_batch_1.bin", m);
    put_made("bin/test_batch.bin", test);
    import_ok("bin", &o);
    assert_true(report.classes == 10 && report.class[0].train == 0);
    o.present = true;
    import_ok("bin", &o);
    assert_true(report.classes == 2 && report.train == 4 && report.test == 2);
    assert_string_equal(report.class[0].name, "cat");
    assert_string_equal(report.class[1].name, "dog");
    assert_true(report.class[0].train == 2 && report.class[1].train == 2);
    assert_string_equal(report.note[report.nnote - 1],
                        "class truck has no picture to train on and is left out");
    assert_int_equal(dr_pictures_open(at("out.pictures"), NULL, true, &d, &err), 0);
    assert_true(d->n == 2 && d->label[0] == 0 && d->label[1] == 1);
    uint8_t want[ROW];
    cifar_row(6, 2, want); // of the dog; the deer before it is left out
    assert_memory_equal(d->pixels + ROW, want, ROW);
    dr_dataset_free(d);
}

static void damaged_cifar(void **state) {
    (void)state;
    const struct dr_import_options o = options();
    tree_clear();
    struct made m = binary_part(1, 4, 1);
    m.n -= 10;
    put_made("bin/data_batch_1.bin", m);
    import_fails("bin", &o, DR_EFORMAT,
                 "data_batch_1.bin has 12282 bytes; expected a multiple of 3073");
    m = binary_part(1, 4, 1);
    m.p[3073] = 10;
    put_made("bin/data_batch_1.bin", m);
    import_fails("bin", &o, DR_EFORMAT, "label 1 is 10, expected 0 to 9");
    put_made("bin/data_batch_1.bin", made_of("", 0));
    put_made("bin/test_batch.bin", binary_part(6, 4, 1));
    import_fails("bin", &o, DR_EFORMAT, "data_batch_1.bin has 0 bytes");
    unlink(at("bin/data_batch_1.bin"));
    import_fails("bin", &o, DR_EFORMAT, "no picture to train on");
    tree_clear();
    m = pickle_part(1, 4);
    m.n -= 1;
    put_made("py/data_batch_1", m);
    import_fails("py", &o, DR_EFORMAT, "data_batch_1: damaged pickle: it ends too early");
    put_made("py/data_batch_1", made_of("\x80\x02}.", 4));
    import_fails("py", &o, DR_EFORMAT, "expected a dict with `data`");
    put_made("py/data_batch_1", made_of("}q\0.", 4)); // protocol 1
    import_fails("py", &o, DR_EFORMAT, "data_batch_1 is no pickle of protocol 2 or later");
}

// Parts that are missing, there twice, or no parts at all.
static void parts_make_a_set(void **state) {
    (void)state;
    struct dr_import_options o = options();
    o.size = 32;
    tree_clear();
    for (int part = 1; part <= 6; part++)
        if (part != 2)
            put_made(part_name("bin", part, ".bin"), binary_part(part, 4, 1));
    put_made("bin/flower.png", make_flat(10, 10, 1, 2, 3));
    import_ok("bin", &o);
    assert_true(report.train == 16 && report.test == 4 && report.own_test);
    assert_true(report.nnote == 1 && report.skipped == 1);
    assert_string_equal(report.note[0], "data_batch_2 of CIFAR-10 is missing");
    expect_skip("flower.png", "it lies beside the files of CIFAR");
    put_made(part_name("bin/backup", 3, ".bin"), binary_part(3, 4, 1));
    import_fails("bin", &o, DR_EFORMAT,
                 "backup/data_batch_3.bin and data_batch_3.bin are the same part of CIFAR");
    tree_clear();
    put_made(part_name("both", 1, ".bin"), binary_part(1, 4, 1));
    put_made(part_name("both", 1, ""), pickle_part(1, 4));
    import_fails("both", &o, DR_EFORMAT,
                 "data_batch_1 and data_batch_1.bin are the same part of CIFAR");
    put_made("hundred/train.bin", binary_part(1, 20, 2));
    import_ok("hundred", &o);
    assert_true(report.nnote == 1 && !report.own_test && report.classes == 100);
    assert_string_equal(report.note[0], "test of CIFAR-100 is missing");
}

static void names_of_parts_among_pictures(void **state) {
    (void)state;
    static const char *const kinds[] = {"set", "set.zip"};
    struct dr_import_options o = options();
    tree_clear();
    struct archive *a = new_archive("set.zip");
    add_level(a, "cat/1.png", 1);
    add_level(a, "cat/train", 3);
    add(a, "cat/train.bin", AE_IFREG, NULL, "weights", 7);
    add(a, "dog/test", AE_IFREG, NULL, "\x80\x02}.", 4);
    add_level(a, "dog/2.png", 2);
    finish(a);
    put_made("set/cat/1.png", make_flat(10, 10, 1, 1, 1));
    put_made("set/cat/train", make_flat(10, 10, 3, 3, 3)); // a picture, whatever its name
    put_made("set/cat/train.bin", made_of("weights", 7));
    put_made("set/dog/test", made_of("\x80\x02}.", 4));
    put_made("set/dog/2.png", make_flat(10, 10, 2, 2, 2));
    for (size_t k = 0; k < DR_COUNT(kinds); k++) {
        o.size = 8;
        o.channels = 3;
        import_ok(kinds[k], &o);
        assert_true(report.classes == 2 && report.train == 3 && report.skipped == 2);
        expect_skip("cat/train.bin", "not a picture");
        expect_skip("dog/test", "not a picture");
        assert_string_equal(report.source, k ? "zip" : "folder");
        o.size = o.channels = 0; // two passes
        import_ok(kinds[k], &o);
        assert_true(report.classes == 2 && report.size == 10 && report.skipped == 2);
    }
}

// ---- the sets of the configuration

static int load(struct dr_data_config *cfg, bool test, struct dr_dataset **d, struct dr_err *err) {
    *err = (struct dr_err){0};
    cfg->count = 16;
    strcpy(cfg->background, "#ffffff");
    return dr_dataset_load(cfg, at("data"), test, d, err);
}

static int cached_files(void) {
    int n = 0;
    DIR *dir = opendir(at("cache"));
    for (struct dirent *e; dir && (e = readdir(dir));)
        n += strstr(e->d_name, ".pictures") != NULL;
    if (dir)
        closedir(dir);
    return n;
}

static void sets_and_their_cache(void **state) {
    (void)state;
    tree_clear();
    setenv("DRIFTD_CACHE", at("cache"), 1);
    unsetenv("DRIFTD_DATA");
    struct dr_data_config cfg = {
        .set = DR_DATA_CIFAR10, .size = 32, .channels = 3, .classes = 10, .fit = DR_FIT_CROP};
    struct dr_dataset *d;
    struct dr_err err;
    mkdir(at("data"), 0755);
    assert_int_equal(load(&cfg, false, &d, &err), DR_ENOENT);
    assert_non_null(
        strstr(err.msg, "cifar10: there is no folder cifar10, no cifar-10-batches-bin"));
    for (int part = 1; part <= 6; part++)
        put_made(part_name("data/cifar-10-batches-bin", part, ".bin"), binary_part(part, 4, 1));
    assert_int_equal(load(&cfg, false, &d, &err), 0);
    assert_true(d->n == 20 && d->classes == 10 && cached_files() == 1);
    assert_string_equal(d->name, "cifar10");
    const uint64_t f = d->fingerprint;
    dr_dataset_free(d);
    // What a process that was killed has left goes; what another may still write stays.
    static const char *const parts[] = {"cache/0f.pictures.part-AbCdEf",
                                        "cache/1f.pictures.part-Ab"};
    for (int i = 0; i < 2; i++)
        put_made(parts[i], made_of("x", 1));
    const struct timespec old[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    assert_int_equal(utimensat(AT_FDCWD, at(parts[0]), old, 0), 0);
    cfg.fit = DR_FIT_FIT; // another key
    assert_int_equal(load(&cfg, false, &d, &err), 0);
    dr_dataset_free(d);
    assert_true(access(at(parts[0]), F_OK) && !access(at(parts[1]), F_OK));
    assert_int_equal(cached_files(), 3);
    unlink(at(parts[1]));
    cfg.fit = DR_FIT_CROP;
    cfg.limit = 7;
    assert_int_equal(load(&cfg, true, &d, &err), 0);
    assert_true(d->n == 4 && cached_files() == 2);
    dr_dataset_free(d);
    assert_int_equal(load(&cfg, false, &d, &err), 0);
    assert_true(d->n == 7 && d->fingerprint != f && d->fingerprint);
    dr_dataset_free(d);
}

static void a_folder_by_its_path(void **state) {
    (void)state;
    tree_clear();
    setenv("DRIFTD_CACHE", at("cache"), 1);
    struct dr_dataset *d;
    struct dr_err err;
    put_made("data/mine/a/1.png", make_flat(40, 40, 1, 2, 3));
    put_made("data/mine/b/1.png", make_flat(40, 40, 4, 5, 6));
    struct dr_data_config cfg = {
        .set = DR_DATA_FOLDER, .size = 16, .channels = 3, .classes = 3, .fit = DR_FIT_CROP};
    strcpy(cfg.path, "mine");
    assert_int_equal(load(&cfg, false, &d, &err), DR_ECONFIG);
    assert_non_null(strstr(err.msg, "data.classes is 3, but"));
    assert_non_null(strstr(err.msg, "has 2 (a, b)"));
    assert_string_equal(err.field, "data.classes");
    cfg.classes = 2;
    assert_int_equal(load(&cfg, false, &d, &err), 0);
    assert_true(d->n == 2 && cached_files() == 1 && d->pixels[0] == 1);
    // the folder changes while the set is in use, and afterwards it is read again
    put_made("data/mine/b/2.png", make_flat(40, 40, 7, 8, 9));
    assert_true(d->n == 2 && d->pixels[768] == 4);
    dr_dataset_free(d);
    assert_int_equal(load(&cfg, false, &d, &err), 0);
    assert_true(d->n == 3 && cached_files() == 2);
    dr_dataset_free(d);
    // a picture file in the data directory, with and without its extension
    struct dr_import_options o = options();
    assert_int_equal(
        dr_pictures_import(at("data/mine"), at("data/kept.pictures"), &o, NULL, NULL, NULL, &err),
        0);
    strcpy(cfg.path, "kept");
    assert_int_equal(load(&cfg, false, &d, &err), DR_ECONFIG);
    assert_non_null(strstr(err.msg, "data.size is 16, but the pictures of"));
    cfg.size = 8;
    assert_int_equal(load(&cfg, false, &d, &err), 0);
    assert_true(d->n == 3 && cached_files() == 2);
    dr_dataset_free(d);
    strcpy(cfg.path, "../out");
    assert_int_equal(load(&cfg, false, &d, &err), DR_ECONFIG);
    strcpy(cfg.path, "none");
    assert_int_equal(load(&cfg, false, &d, &err), DR_ENOENT);
    assert_non_null(strstr(err.msg, "there is no `none` in"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cifar_in_all_its_forms),
        cmocka_unit_test(classes_that_cifar_has),
        cmocka_unit_test(damaged_cifar),
        cmocka_unit_test(parts_make_a_set),
        cmocka_unit_test(names_of_parts_among_pictures),
        cmocka_unit_test(sets_and_their_cache),
        cmocka_unit_test(a_folder_by_its_path),
    };
    const int rc = cmocka_run_group_tests(tests, dir_setup, tree_teardown);
    dr_import_report_free(&report);
    return rc;
}
