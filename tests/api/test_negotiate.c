// Readers of header fields on their own: Accept, Accept-Encoding, entity tags, ranges (RFC 9110).
#include "api/negotiate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
// cmocka wants those above first
#include <cmocka.h>

static void test_media(void **state) {
    (void)state;
    assert_true(api_media_accepted(NULL, "image/png"));
    assert_true(api_media_accepted("", "image/png"));
    assert_true(api_media_accepted("*/*", "image/png"));
    assert_true(api_media_accepted("text/html, IMAGE/*;q=0.1", "image/png"));
    assert_false(api_media_accepted("text/html", "image/png"));
    assert_false(api_media_accepted("image/*, image/png;q=0", "image/png"));
    assert_false(api_media_accepted("image/png ; level=1 ; q=0.000", "image/png"));
    assert_true(api_media_accepted("*/*;q=0, image/png", "image/png"));
    assert_false(api_media_accepted("image/pngx, image/pn", "image/png"));
    assert_false(api_media_accepted("image/png;q=", "image/png"));
    assert_true(api_media_quality(NULL, "image/png") == 1);
    assert_true(api_media_quality("*/*;q=0.25, image/png;q=0.5", "image/png") == 0.5);
    assert_true(api_media_quality("*/*;q=0.25, image/png", "text/csv") == 0.25);
    assert_true(api_media_quality("image/png;q=nan", "image/png") == 0);
}

static void test_codings(void **state) {
    (void)state;
    static const struct {
        const char *header;
        int gzip;
    } cases[] = {
        {NULL, 0},
        {"", 0},
        {"gzip", 1},
        {"GZip", 1},
        {"x-gzip", 1},
        {"br, gzip;q=0.2", 1},
        {"gzip;q=0", 0},
        {"gzip;q=0.000", 0},
        {"gzip ; q=0", 0},
        {"gzip;Q=0", 0},
        {"*", 1},
        {"*;q=0.5, gzip;q=0", 0},
        {"notgzip, gzipped", 0},
        {"gzip;q=0.4, identity;q=0.5", 0},
        {"gzip;q=0.5, identity;q=0.5", 1},
        {"identity;q=0", -1},
        {"*;q=0", -1},
        {"*;q=0, gzip", 1},
        {"*;q=0, identity", 0},
        {"gzip;q=0, identity;q=0", -1},
        {"gzip;q=x", 0},
        {", ,gzip,", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (api_pick_gzip(cases[i].header) != cases[i].gzip)
            fail_msg("%s: %d", cases[i].header, api_pick_gzip(cases[i].header));
}

static void test_tags(void **state) {
    (void)state;
    static const struct {
        const char *list;
        int weak, strong; // matches of "abc"
    } cases[] = {
        {NULL, 0, 0},
        {"", 0, 0},
        {"\"abc\"", 1, 1},
        {"W/\"abc\"", 1, 0},
        {"w/\"abc\"", 0, 0}, // the W is an upper-case one
        {"*", 1, 1},
        {" * ", 1, 1},
        {"*, \"x\"", 0, 0},
        {"\"x\", \"abc\"", 1, 1},
        {"\"x\",W/\"y\",\"abc\"", 1, 1},
        {"\"abc,\"", 0, 0},
        {"\"x\"abc\"", 0, 0},
        {"\"a\", \"b\", \"c\"", 0, 0},
        {"abc", 0, 0},
        {"\"abc", 0, 0},
        {"\"abcd\"", 0, 0},
        {"\"ABC\"", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (api_etag_listed(cases[i].list, "abc", false) != cases[i].weak ||
            api_etag_listed(cases[i].list, "abc", true) != cases[i].strong)
            fail_msg("%s", cases[i].list);
    }
    assert_false(api_etag_listed("\"\"", "", false)); // no tag at all
    assert_true(api_etag_listed("*", "", true));
    assert_true(api_if_range("\"abc\"", "abc"));
    assert_false(api_if_range("W/\"abc\"", "abc"));
    assert_false(api_if_range("*", "abc"));
    assert_false(api_if_range("\"abc\", \"abc\"", "abc"));
    assert_false(api_if_range("Sun, 06 Nov 1994 08:49:37 GMT", "abc"));
    assert_false(api_if_range("\"\"", ""));
}

static void test_ranges(void **state) {
    (void)state;
    static const struct {
        const char *header;
        int use;
        uint64_t from, to;
    } cases[] = {
        {NULL, 0, 0, 0},
        {"bytes=0-0", 1, 0, 0},
        {"bytes=10-", 1, 10, 99},
        {"BYTES=10-19", 1, 10, 19},
        {"bytes=90-200", 1, 90, 99},
        {"bytes=-5", 1, 95, 99},
        {"bytes=-500", 1, 0, 99},
        {"bytes=-99999999999999999999999", 1, 0, 99},
        {"bytes=5-99999999999999999999999", 1, 5, 99},
        {"bytes=100-", -1, 0, 0},
        {"bytes=99999999999999999999999-", -1, 0, 0},
        {"bytes=-0", -1, 0, 0},
        {"bytes=5-4", 0, 0, 0},
        {"bytes=7x", 0, 0, 0},
        {"bytes=7-x", 0, 0, 0},
        {"bytes=7-8x", 0, 0, 0},
        {"bytes=99999999999-5", 0, 0, 0},
        {"bytes=1-2,4-5", 0, 0, 0},
        {"bytes=a-", 0, 0, 0},
        {"bytes=1", 0, 0, 0},
        {"bytes=--1", 0, 0, 0},
        {"lines=1-2", 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t from = 77, to = 78; // they stay where there is no range
        const uint64_t want_from = cases[i].use == 1 ? cases[i].from : 77,
                       want_to = cases[i].use == 1 ? cases[i].to : 78;
        int use = api_parse_range(cases[i].header, 100, &from, &to);
        if (use != cases[i].use || from != want_from || to != want_to)
            fail_msg("%s: %d %d-%d", cases[i].header, use, (int)from, (int)to);
    }
    uint64_t from, to;
    assert_int_equal(api_parse_range("bytes=0-", 0, &from, &to), -1);
    assert_int_equal(api_parse_range("bytes=-1", 0, &from, &to), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_media), cmocka_unit_test(test_codings),
                                       cmocka_unit_test(test_tags), cmocka_unit_test(test_ranges)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
