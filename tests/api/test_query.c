// The parsers of query strings on their own.
#include "api/query.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int parse(const char *text, struct api_query *q) {
    char err[160] = "";
    int rc = api_query_parse(text, q, err, sizeof err);
    assert_true(rc == 0 || *err);
    return rc;
}

static void test_good(void **state) {
    (void)state;
    struct api_query q;
    assert_int_equal(parse("a=1&b=x%20y+z&c&d=&&%65=%3D%26", &q), 0);
    assert_int_equal(q.n, 5);
    assert_string_equal(api_query_get(&q, "a"), "1");
    assert_string_equal(api_query_get(&q, "b"), "x y z");
    assert_string_equal(api_query_get(&q, "c"), "");
    assert_string_equal(api_query_get(&q, "d"), "");
    assert_string_equal(api_query_get(&q, "e"), "=&");
    assert_null(api_query_get(&q, "f"));
    api_query_free(&q);
    assert_int_equal(parse(NULL, &q), 0);
    assert_int_equal(parse("", &q), 0);
    assert_int_equal(parse("n=gr%C3%BC%C3%9F", &q), 0);
    api_query_free(&q);
}

static void test_bad(void **state) {
    (void)state;
    static const char *const bad[] = {"a=%00",   "a=%", "a=%4",        "a=%zz",    "a=%c3",
                                      "a=1&a=2", "=1",  "a=%ed%a0%80", "a=%c0%80", "%00=1"};
    struct api_query q;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(parse(bad[i], &q), -1);
        api_query_free(&q);
    }
    char many[400] = "";
    for (int i = 0; i < 33; i++) {
        char pair[8] = {(char)('a' + i % 26), (char)('a' + i / 26), '=', '1', '&', 0};
        strcat(many, pair);
    }
    assert_int_equal(parse(many, &q), -1);
    api_query_free(&q);
}

static void test_distance(void **state) {
    (void)state;
    assert_int_equal(api_edit_distance("class", "class", 9), 0);
    assert_int_equal(api_edit_distance("clas", "class", 9), 1);
    assert_int_equal(api_edit_distance("kitten", "sitting", 9), 3);
    assert_int_equal(api_edit_distance("", "abc", 9), 3);
    assert_int_equal(api_edit_distance("aaaaaaaa", "b", 3), 3);
}

static void test_utf8(void **state) {
    (void)state;
    static const char *const good[] = {"",
                                       "a",
                                       "\x7f",
                                       "\xc2\x80",
                                       "\u07ff",
                                       "\u0800",
                                       "\xed\x9f\xbf",
                                       "\uffff",
                                       "\U00010000",
                                       "\U0010ffff",
                                       "gr\u00fc\u00dfe \u4e16"};
    static const char *const bad[] = {"\x80",
                                      "\xc1\xbf",
                                      "\xc3",
                                      "a\xe2\x82",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xed\xbf\xbf",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xff",
                                      "\xc3\xc3"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (!api_valid_utf8(good[i]))
            fail_msg("good %zu", i);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (api_valid_utf8(bad[i]))
            fail_msg("bad %zu", i);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_utf8), cmocka_unit_test(test_good),
                                       cmocka_unit_test(test_bad), cmocka_unit_test(test_distance)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
