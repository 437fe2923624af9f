// Archives that must be read whole or not at all: damage that only the checksum of the wrapping
// shows, tars that were cut off, and names beyond ASCII in the locale C.
#include "tests/data/archive_make.h"

#include <locale.h>
#include <zlib.h>

#include "engine/core/rng.h"

// ---- names

static void names_beyond_ascii(void **state) {
    (void)state;
    static const char *const kinds[] = {"utf8.zip", "utf8.tar", "utf8.tar.gz",
                                        "set.zip",  "set.tar",  "gnu.tar"};
    static const char *const names[] = {"a/1.png", "Gr\xc3\xbcn/1.png", "Gr\xc3\xbcn/2.png",
                                        "\xe6\x97\xa5\xe6\x9c\xac/1.png"};
    const struct dr_import_options o = options();
    assert_string_equal(setlocale(LC_CTYPE, NULL), "C");
    for (size_t k = 0; k < DR_COUNT(kinds); k++) {
        tree_clear();
        const locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
        const locale_t before = uselocale(utf8);
        struct archive *a = new_archive(kinds[k]);
        for (int i = 0; i < 4; i++)
            add_level(a, names[i], i);
        finish(a);
        uselocale(before);
        freelocale(utf8);
        import_ok(kinds[k], &o);
        assert_true(report.classes == 3 && report.train == 4 && report.skipped == 0);
        assert_string_equal(report.class[0].name, "Gr\xc3\xbcn");
        assert_string_equal(report.class[2].name, "\xe6\x97\xa5\xe6\x9c\xac");
        assert_true(uselocale((locale_t)0) == LC_GLOBAL_LOCALE);
    }
}

static void names_in_no_encoding(void **state) {
    (void)state;
    static const char *const kinds[] = {"set.zip", "ustar.tar"};
    const struct dr_import_options o = options();
    for (size_t k = 0; k < DR_COUNT(kinds); k++) {
        tree_clear();
        struct archive *a = new_archive(kinds[k]);
        add_level(a, "a/1.png", 1);
        add_level(a, "Gr\xfcn/1.png", 2); // Latin-1
        finish(a);
        import_ok(kinds[k], &o);
        assert_true(report.classes == 1 && report.skipped == 1);
        assert_string_equal(report.skip[0].reason, "its name is not UTF-8");
    }
}

// ---- damage

// A part of CIFAR-10 with 40 pictures of noise, which no wrapping makes smaller.
static struct made noise_part(void) {
    enum { ROWS = 40, ROW = 3073 };
    struct made m = {malloc((size_t)ROWS * ROW), (size_t)ROWS * ROW};
    struct dr_rng g;
    dr_rng_init(&g, 1, DR_STREAM_DATA, 0);
    for (size_t i = 0; i < m.n; i++)
        m.p[i] = (uint8_t)dr_rng_below(&g, i % ROW ? 256 : 10);
    return m;
}

// The padding is longer than what is read ahead of an archive's end.
static void damage_in_the_wrapping(void **state) {
    (void)state;
    static const char *const kinds[] = {"padded.tar.gz", "padded.tar.xz"};
    const struct dr_import_options o = options();
    for (size_t k = 0; k < DR_COUNT(kinds); k++) {
        tree_clear();
        struct archive *a = new_archive(kinds[k]);
        add_made(a, "data_batch_1.bin", noise_part());
        finish(a);
        import_ok(kinds[k], &o);
        size_t n;
        uint8_t *p = get_file(at(kinds[k]), &n);
        for (size_t i = 1; i < 20; i++) {
            const size_t where = n * i / 20;
            p[where] ^= 1;
            put_file(at(kinds[k]), p, n);
            p[where] ^= 1;
            import_fails(kinds[k], &o, DR_EFORMAT, "the archive is damaged");
        }
        free(p);
    }
}

static void gzip_at_its_end(void **state) {
    (void)state;
    static const char name[] = "set.tar.gz";
    const struct dr_import_options o = options();
    tree_clear();
    struct archive *a = new_archive(name);
    add_level(a, "a/1.png", 1);
    add_level(a, "b/2.png", 2);
    finish(a);
    size_t n;
    uint8_t *p = get_file(at(name), &n);
    for (size_t i = n - 8; i < n; i++) { // checksum and length
        p[i] ^= 0x10;
        put_file(at(name), p, n);
        p[i] ^= 0x10;
        import_fails(name, &o, DR_EFORMAT, "the archive is damaged");
        put_file(at(name), p, i);
        import_fails(name, &o, DR_EFORMAT, "the archive is damaged");
    }
    put_file(at(name), p, n);
    import_ok(name, &o);
    uint8_t *padded = calloc(n + 1000, 1); // as from a tape
    memcpy(padded, p, n);
    put_file(at(name), padded, n + 1000);
    import_ok(name, &o);
    free(padded);
    free(p);
}

// ---- tars that were cut off

static void put_gzip(const char *path, const uint8_t *p, size_t n) {
    gzFile f = gzopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(gzwrite(f, p, (unsigned)n), n);
    assert_int_equal(gzclose(f), Z_OK);
}

static uint8_t *three_entries(const char *name, size_t *blocks) {
    char longer[180];
    snprintf(longer, sizeof longer, "b/%0120d/2.png", 0);
    struct archive *a = new_archive(name);
    add_level(a, "a/1.png", 1);
    add_level(a, strstr(name, "ustar") ? "b/2.png" : longer, 2); // with a header before its header
    add_level(a, "c/3.png", 3);
    finish(a);
    size_t n;
    uint8_t *p = get_file(at(name), &n);
    while (n && !p[n - 1])
        n--;
    *blocks = (n + 511) / 512;
    return p;
}

static void tars_have_an_end(void **state) {
    (void)state;
    static const char *const kinds[] = {"ustar.tar", "gnu.tar", "pax.tar"};
    const struct dr_import_options o = options();
    for (size_t k = 0; k < DR_COUNT(kinds); k++) {
        size_t blocks;
        tree_clear();
        uint8_t *p = three_entries(kinds[k], &blocks);
        for (size_t i = 1; i <= blocks + 2; i++)
            for (int gz = 0; gz < 2; gz++) {
                (gz ? put_gzip : (void (*)(const char *, const uint8_t *, size_t))put_file)(
                    at(kinds[k]), p, 512 * i);
                if (i <= blocks) {
                    import_fails(kinds[k], &o, DR_EFORMAT, kinds[k]);
                    continue;
                }
                import_ok(kinds[k], &o); // one block of zeros is enough
                assert_true(report.classes == 3 && report.train == 3);
            }
        free(p);
    }
}

static void a_cut_tar_is_called_one(void **state) {
    (void)state;
    const struct dr_import_options o = options();
    size_t blocks;
    tree_clear();
    uint8_t *p = three_entries("set.tar", &blocks);
    put_file(at("set.tar"), p, 512 * blocks);
    import_fails("set.tar", &o, DR_EFORMAT,
                 "the archive is truncated: after 3 entries the file ends without the mark");
    free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_beyond_ascii),     cmocka_unit_test(names_in_no_encoding),
        cmocka_unit_test(damage_in_the_wrapping), cmocka_unit_test(gzip_at_its_end),
        cmocka_unit_test(tars_have_an_end),       cmocka_unit_test(a_cut_tar_is_called_one),
    };
    const int rc = cmocka_run_group_tests(tests, dir_setup, tree_teardown);
    dr_import_report_free(&report);
    return rc;
}
