// Archives of pictures: what one may hold, what is left out, bombs and truncation.
#include "tests/data/archive_make.h"

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
    };
    const int rc = cmocka_run_group_tests(tests, dir_setup, tree_teardown);
    dr_import_report_free(&report);
    return rc;
}
