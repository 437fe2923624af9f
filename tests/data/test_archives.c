// Archives of pictures, CIFAR's own files, and the sets of the configuration that find them: what
// an archive may hold, what is left out, bombs and truncation; pickles; the cache.
#include "tests/data/archive_make.h"

#include <fcntl.h>

#include "engine/data/pickle.h"

// ---- archives

static void the_same_as_a_folder(void **state) {
    (void)state;
    static const char *const kinds[] = {"set.zip", "set.tar", "set.tar.gz", "set.tar.xz",
                                        "set.tar.zst"};
    struct dr_import_options o = options();
    tree_clear();
    o.size = o.channels = 0; // two passes
    for (int i = 0; i < 6; i++) {
        char name[80];
        snprintf(name, sizeof name, "tree/Gr\xc3\xbcn/%s/%d.png", i < 4 ? "x" : "y", i);
        put_made(name, make_flat(10, 10, (uint8_t)i, 0, 0));
    }
    import_ok("tree", &o);
    assert_true(report.classes == 2 && report.size == 10);
    const uint64_t want = report.fingerprint;
    for (size_t k = 0; k < DR_COUNT(kinds); k++) {
        struct archive *a = new_archive(kinds[k]);
        for (int i = 5; i >= 0; i--) { // in another order
            char name[80];
            snprintf(name, sizeof name, "./Gr\xc3\xbcn//%s/%d.png", i < 4 ? "x" : "y", i);
            add_made(a, name, make_flat(10, 10, (uint8_t)i, 0, 0));
        }
        finish(a);
        import_ok(kinds[k], &o);
        assert_true(report.fingerprint == want && report.train == 6 && report.skipped == 0);
        assert_string_equal(report.source, k ? "tar" : "zip");
    }
}

static void hostile_entries(void **state) {
    (void)state;
    tree_clear();
    struct archive *a = new_archive("bad.tar");
    add_level(a, "a/1.png", 1);
    add_level(a, "../up.png", 2);
    add_level(a, "a/../../up2.png", 3);
    add_level(a, "/abs.png", 4);
    add(a, "a/link.png", AE_IFLNK, "/etc/passwd", NULL, 0);
    add(a, "a/hard.png", AE_IFREG, "a/1.png", NULL, 0);
    add(a, "a/dev.png", AE_IFCHR, NULL, NULL, 0);
    add(a, "a/fifo.png", AE_IFIFO, NULL, NULL, 0);
    add(a, "b", AE_IFDIR, NULL, NULL, 0);
    add_level(a, "a/1.png", 9); // again
    add_level(a, "__MACOSX/a/._1.png", 5);
    add_level(a, "a/2.png", 6);
    finish(a);
    const struct dr_import_options o = options();
    import_ok("bad.tar", &o);
    assert_true(report.train == 2 && report.classes == 1);
    expect_skip("../up.png", "leaves the archive");
    expect_skip("a/../../up2.png", "leaves the archive");
    expect_skip("/abs.png", "absolute path");
    expect_skip("a/link.png", "links are not followed");
    expect_skip("a/hard.png", "links are not followed");
    expect_skip("a/dev.png", "neither a file nor a folder");
    expect_skip("a/fifo.png", "neither a file nor a folder");
    expect_skip("a/1.png", "a second file of this name");
    assert_true(report.skipped == 8 && report.nnote == 1); // and the empty b
    assert_int_equal(access(at("../up.png"), F_OK), -1);
}

static void truncated_archives(void **state) {
    (void)state;
    static const char *const kinds[] = {"set.zip", "set.tar", "set.tar.gz", "set.tar.xz"};
    const struct dr_import_options o = options();
    for (size_t k = 0; k < DR_COUNT(kinds); k++) {
        tree_clear();
        struct archive *a = new_archive(kinds[k]);
        for (int i = 0; i < 20; i++) {
            char name[40];
            snprintf(name, sizeof name, "a/%d.png", i);
            add_made(a, name, make_png(60 + i, 60, PNG_COLOR_TYPE_RGB, 16, true));
        }
        finish(a);
        size_t n;
        uint8_t *p = get_file(at(kinds[k]), &n);
        put_file(at(kinds[k]), p, n * 2 / 3);
        free(p);
        import_fails(kinds[k], &o, DR_EFORMAT, kinds[k]);
        assert_int_equal(dir_entries(), 1); // the archive
    }
}

static void bombs(void **state) {
    (void)state;
    tree_clear();
    const size_t n = (size_t)96 << 20;
    uint8_t *zeros = calloc(n, 1);
    struct archive *a = new_archive("bomb.tar.gz");
    add_level(a, "a/1.png", 1);
    add(a, "a/2.png", AE_IFREG, NULL, zeros, n);
    finish(a);
    struct dr_import_options o = options();
    o.max_ratio = 500;
    import_fails("bomb.tar.gz", &o, DR_EFORMAT, "more than 500 times its size");
    o.max_ratio = 2000;
    o.max_file_bytes = 1 << 20;
    import_ok("bomb.tar.gz", &o);
    expect_skip("a/2.png", "larger than the limit for a file");
    o.max_bytes = 10 << 20;
    import_fails("bomb.tar.gz", &o, DR_EINVAL, "unpacks to more than 10485760 bytes");
    a = new_archive("many.zip");
    for (int i = 0; i < 11; i++) {
        char name[40];
        snprintf(name, sizeof name, "a/%d.png", i);
        add_level(a, name, i);
    }
    finish(a);
    o = options();
    o.max_files = 10;
    import_fails("many.zip", &o, DR_EINVAL, "more than 10 entries");
    put_file(at("empty.tar"), zeros, 10240);
    import_fails("empty.tar", &o, DR_EFORMAT, "the archive is empty");
    free(zeros);
}

// A name may be a MiB long, and an archive of a MiB may hold a thousand of them.
static void names_have_a_limit(void **state) {
    (void)state;
    static char name[6000] = "a/";
    tree_clear();
    memset(name + 2, 'n', sizeof name - 3);
    memcpy(name + 4095, "\xc3\xa4", 2); // a character across the place where it is cut
    struct archive *a = new_archive("names-utf8.tar");
    add_level(a, "a/1.png", 1);
    add_level(a, name, 2);
    add(a, name, AE_IFDIR, NULL, NULL, 0);
    add_level(a, "a/2.png", 3);
    finish(a);
    struct dr_import_options o = options();
    import_ok("names-utf8.tar", &o);
    assert_true(report.train == 2 && report.skipped == 2 && report.nnote == 0);
    for (int i = 0; i < 2; i++) {
        assert_true(strlen(report.skip[i].name) <= 4096);
        assert_non_null(strstr(report.skip[i].reason, "longer than a path may be"));
    }
    o.max_names = 15;
    import_fails("names-utf8.tar", &o, DR_EINVAL, "are longer than 15 bytes together");
    o.max_names = 16;
    import_ok("names-utf8.tar", &o);
    put_made("tree/a/1.png", make_flat(10, 10, 1, 1, 1));
    import_ok("tree", &o);
    o.max_names = 9; // those of folders as well
    import_fails("tree", &o, DR_EINVAL, "are longer than 9 bytes together");
}

// The library knows more wrappings than the documents name, among them programs that it starts.
static void other_wrappings(void **state) {
    (void)state;
    const struct dr_import_options o = options();
    tree_clear();
    struct archive *a = archive_write_new();
    archive_write_set_format_pax_restricted(a);
    archive_write_add_filter_uuencode(a);
    assert_int_equal(archive_write_open_filename(a, at("set.uu")), ARCHIVE_OK);
    add_level(a, "a/1.png", 1);
    finish(a);
    import_fails("set.uu", &o, DR_EFORMAT, "neither a folder nor a zip or tar archive");
}

// Classes are numbered in about the time that their pictures take.
static void many_classes(void **state) {
    (void)state;
    enum { N = 60000 };
    struct dr_import_options o = options();
    tree_clear();
    o.size = 1;
    struct archive *a = new_archive("many.tar");
    struct made m = make_flat(1, 1, 9, 9, 9);
    for (int i = 0; i < N; i++) {
        char name[80];
        snprintf(name, sizeof name, "%d/1.png", i);
        add(a, name, AE_IFREG, NULL, m.p, m.n);
        snprintf(name, sizeof name, "empty%d", i);
        add(a, name, AE_IFDIR, NULL, NULL, 0);
    }
    free(m.p);
    finish(a);
    import_ok("many.tar", &o);
    assert_true(report.classes == N && report.train == N && report.nnote == DR_IMPORT_SKIPS);
    for (int i = 0; i < N; i += 777)
        assert_int_equal(atoi(report.class[i].name), i);
}

static void classes_have_a_limit(void **state) {
    (void)state;
    struct dr_import_options o = options();
    tree_clear();
    put_made("tree/a/1.png", make_flat(10, 10, 1, 1, 1));
    put_made("tree/b/1.png", make_flat(10, 10, 2, 2, 2));
    put_made("tree/c/1.png", make_flat(10, 10, 3, 3, 3));
    o.max_classes = 2;
    import_fails("tree", &o, DR_EINVAL, "tree has more than 2 classes");
    o.max_classes = 3;
    import_ok("tree", &o);
}

// ---- canceling

static bool cancel_in_batch(void *ctx, const struct dr_import_progress *p) {
    int *calls = ctx;
    *calls += p->stage == DR_IMPORT_DECODING && p->done == 0;
    return *calls < 2; // the first comes before anything is decoded
}

static void canceled_within_a_batch(void **state) {
    (void)state;
    const struct dr_import_options o = options();
    tree_clear();
    struct made m = make_png(1500, 1500, PNG_COLOR_TYPE_RGB, 8, true);
    struct archive *a = new_archive("slow.tar");
    for (int i = 0; i < 100; i++) {
        char name[40];
        snprintf(name, sizeof name, "a/%d.png", i);
        add(a, name, AE_IFREG, NULL, m.p, m.n);
    }
    free(m.p);
    finish(a);
    int calls = 0;
    struct dr_err err = {0};
    dr_import_report_free(&report);
    assert_int_equal(dr_pictures_import(at("slow.tar"), at("out.pictures"), &o, cancel_in_batch,
                                        &calls, &report, &err),
                     DR_ECANCELED);
    assert_true(report.train == 0 && calls == 2);
    assert_int_equal(dir_entries(), 1); // the archive
}

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

static void expect_pickle(const char *bytes, size_t n, const char *says) {
    struct dr_pickle *k;
    struct dr_err err = {0};
    assert_int_equal(dr_pickle_read((const uint8_t *)bytes, n, &k, &err), DR_EFORMAT);
    assert_null(k);
    if (!strstr(err.msg, says))
        fail_msg("got '%s', expected '%s'", err.msg, says);
}
#define PICKLE(bytes, says) expect_pickle(bytes, sizeof bytes - 1, says)

static void pickles_build_arrays_and_nothing_else(void **state) {
    (void)state;
    PICKLE("cos\nsystem\n(S'echo hi'\ntR.", "asks for `os.system`");
    PICKLE("\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02hi\x85R.", "asks for `posix.system`");
    PICKLE("\x80\x02"
           "cnumpy\nload\n.",
           "asks for `numpy.load`");
    PICKLE("(i__builtin__\neval\n.", "opcode 0x69 (i)");
    PICKLE("\x80\x02}\x81.", "opcode 0x81");
    PICKLE("\x80\x02\x82\x01.", "opcode 0x82");
    PICKLE("P1\n.", "opcode 0x50 (P)");
    PICKLE("\x80\x02K\x01K\x02"
           "Q.",
           "opcode 0x51 (Q)");
    PICKLE("\x80\x02K\x01K\x02R.", "REDUCE calls something that is no function of an array");
    PICKLE("\x80\x02K\x01)b.", "BUILD sets the state of something that is no array");
    PICKLE("\x80\x02"
           "cnumpy\nndarray\nK\0\x85R.",
           "no plain array");
    PICKLE("\x80\x02"
           "cnumpy\ndtype\nU\x01O\x85R.",
           "an array of `O`");
    PICKLE("\x80\x02"
           "cnumpy\ndtype\nU\x02\0\0\x85R.",
           "only integers are read");
    PICKLE("e.", "values without the container");
    PICKLE("h\x05.", "a memo that is not there");
    PICKLE("t.", "a container without its values");
    PICKLE(".", "it holds no value");
    PICKLE("", "it ends too early");
    struct dr_pickle *k;
    struct dr_err err;
    static const char good[] = "\x80\x02}(U\x01"
                               "aK\x07U\x01"
                               "b](J\xfe\xff\xff\xffM\x01\x02\x88NG\x3f\xf0\0\0\0\0\0\0eu.";
    assert_int_equal(dr_pickle_read((const uint8_t *)good, sizeof good - 1, &k, &err), 0);
    const struct dr_pk *root = dr_pickle_root(k), *b = dr_pk_get(k, root, "b");
    assert_int_equal(dr_pk_get(k, root, "a")->i, 7);
    assert_true(b->type == DR_PK_LIST && b->items == 5 && !dr_pk_get(k, root, "c"));
    assert_int_equal(dr_pk_at(k, b, 0)->i, -2);
    assert_int_equal(dr_pk_at(k, b, 1)->i, 513);
    assert_true(dr_pk_at(k, b, 4)->x == 1.0 && !dr_pk_at(k, b, 5));
    dr_pickle_free(k);
}

// As Python 3 writes arrays: from protocol 5 on by a call of numpy's, in its older and its newer
// place, and up to protocol 2 with texts for bytes.
#define U1 "K\3\x8c\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
#define DTYPE "\x8c\5numpy\x8c\5dtype\x93"
#define BUFFER(module, type, order)                                                                \
    module "\x8c\13_frombuffer\x93(\x96\6\0\0\0\0\0\0\0\1\xc8\3\xff\0\x80" DTYPE type              \
           "\x89\x88\x87R(" U1 "K\2K\3\x86" order "tR"
#define CORE "\x8c\22numpy.core.numeric"
#define CORE2 "\x8c\23numpy._core.numeric"
#define BYTE "\x8c\2u1"
#define ENCODE(n, text, codec) "c_codecs\nencode\nX" n "\0\0\0" text "X" codec "\x86R"
#define LATIN1 "\6\0\0\0latin1"
#define BUILT(bytes)                                                                               \
    "cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" ENCODE(                       \
        "\1", "b", LATIN1) "\x87R(K\1K\2K\3\x86" DTYPE BYTE "\x89\x88\x87R(" U1 "\x89" bytes "tb"

static void expect_array(const char *bytes, size_t n) {
    static const uint8_t want[] = {1, 200, 3, 255, 0, 128};
    struct dr_pickle *k;
    struct dr_err err = {0};
    if (dr_pickle_read((const uint8_t *)bytes, n, &k, &err))
        fail_msg("%s", err.msg);
    const struct dr_pk *a = dr_pk_get(k, dr_pickle_root(k), "data");
    assert_true(a && a->type == DR_PK_ARRAY && a->ndim == 2 && a->kind == 'u' && a->width == 1);
    assert_true(a->dim[0] == 2 && a->dim[1] == 3 && a->n == sizeof want);
    assert_memory_equal(a->p, want, sizeof want);
    dr_pickle_free(k);
}
#define DATA(array) "\x80\2}U\4data" array "s."
#define ARRAY(array) expect_array(DATA(array), sizeof DATA(array) - 1)

static void pickles_of_python3(void **state) {
    (void)state;
    ARRAY(BUFFER(CORE, BYTE, "\x8c\1C"));
    ARRAY(BUFFER(CORE2, BYTE, "\x8c\1C"));
    ARRAY(BUILT(ENCODE("\11", "\1\xc3\x88\3\xc3\xbf\0\xc2\x80", LATIN1)));
    PICKLE(BUFFER(CORE, BYTE, "\x8c\1F") ".", "in another order than C's");
    PICKLE(BUFFER(CORE, BYTE, "\x8c\1K") ".", "in another order than C's");
    PICKLE(BUFFER(CORE, BYTE, "") ".", "in another order than C's");
    PICKLE(BUFFER(CORE, "\x8c\2u2", "\x8c\1C") ".", "an array of 12 bytes holds 6");
    PICKLE(BUFFER(CORE, "\x8c\1O", "\x8c\1C") ".", "an array of `O`");
    PICKLE(BUFFER(CORE, BYTE, "\x8c\1C") "(tb.", "state of something that is no array");
    PICKLE(BUFFER("\x8c\13numpy.other", BYTE, "\x8c\1C") ".", "asks for `numpy.other._frombuffer`");
    PICKLE(CORE "\x8c\13_frombuffer\x93(K\5K\6K\7\x8c\1CtR.", "not shape, type and bytes");
    PICKLE(CORE "\x8c\13_frombuffer\x93)R.", "in another order than C's");
    PICKLE(ENCODE("\1", "b", "\4\0\0\0utf8") ".", "no text in latin1");
    PICKLE(ENCODE("\1", "b", "\3\0\0\0zip") ".", "no text in latin1");
    PICKLE(ENCODE("\2", "\xc4\x80", LATIN1) ".", "characters that Latin-1 has not");
    PICKLE(ENCODE("\1", "\xc3", LATIN1) ".", "characters that Latin-1 has not");
    PICKLE(ENCODE("\1", "\x80", LATIN1) ".", "characters that Latin-1 has not");
    PICKLE("c_codecs\nencode\n)R.", "no text in latin1");
    PICKLE("c__builtin__\nbytes\nK\1\x85R.", "`bytes` of something");
    static const char empty[] =
        "\x80\2}U\5labelc__builtin__\nbytes\n)RsU\4data" BUFFER(CORE, BYTE, "\x8c\1C") "s.";
    expect_array(empty, sizeof empty - 1);
    PICKLE("c_codecs\nencode\nK\1K\2\x86R.", "no text in latin1");
    PICKLE("c_codecs\ndecode\n.", "asks for `_codecs.decode`");
    // A text that is there once, asked for again and again.
    PICKLE("c_codecs\nencode\nq\1U\x20....:....|....:....|....:....|.."
           "U\6latin1\x86q\2Rh\1h\2Rh\1h\2Rh\1h\2R.",
           "it makes more bytes than it has");
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
        cmocka_unit_test(the_same_as_a_folder),
        cmocka_unit_test(hostile_entries),
        cmocka_unit_test(truncated_archives),
        cmocka_unit_test(bombs),
        cmocka_unit_test(names_have_a_limit),
        cmocka_unit_test(other_wrappings),
        cmocka_unit_test(many_classes),
        cmocka_unit_test(classes_have_a_limit),
        cmocka_unit_test(canceled_within_a_batch),
        cmocka_unit_test(cifar_in_all_its_forms),
        cmocka_unit_test(classes_that_cifar_has),
        cmocka_unit_test(damaged_cifar),
        cmocka_unit_test(parts_make_a_set),
        cmocka_unit_test(names_of_parts_among_pictures),
        cmocka_unit_test(pickles_build_arrays_and_nothing_else),
        cmocka_unit_test(pickles_of_python3),
        cmocka_unit_test(sets_and_their_cache),
        cmocka_unit_test(a_folder_by_its_path),
    };
    const int rc = cmocka_run_group_tests(tests, dir_setup, tree_teardown);
    dr_import_report_free(&report);
    return rc;
}
