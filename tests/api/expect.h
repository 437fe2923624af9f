// What tests of the HTTP layer ask of an answer.
#pragma once

#include "fake.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define JSON_TYPE "Content-Type: application/json\r\n"

// Asserts status and problem shape; returns the parsed problem (borrowed until the next call).
static inline json_t *expect_problem(struct reply r, int status, const char *type) {
    static json_t *o;
    char want[96];
    if (r.status != status)
        print_error("got %d: %s\n", r.status, r.body ? r.body : "(nothing)");
    assert_int_equal(r.status, status);
    assert_string_equal(reply_header(&r, "Content-Type"), "application/problem+json");
    assert_non_null(reply_header(&r, "X-Request-Id"));
    json_decref(o);
    o = json_loadb(r.body, r.body_len, 0, NULL);
    assert_non_null(o);
    snprintf(want, sizeof want, "urn:driftd:problem:%s", type);
    assert_string_equal(json_string_value(json_object_get(o, "type")), want);
    assert_int_equal(json_integer_value(json_object_get(o, "status")), status);
    assert_true(json_is_string(json_object_get(o, "title")));
    assert_true(json_is_string(json_object_get(o, "detail")));
    if (status == 429 || status == 503) {
        assert_non_null(reply_header(&r, "Retry-After"));
        assert_true(json_is_number(json_object_get(o, "retry_after")));
    }
    reply_free(&r);
    return o;
}

// A status, and nothing of the body. Takes r.
static inline void expect(struct reply r, int status) {
    if (r.status != status)
        print_error("got %d: %s\n", r.status, r.body ? r.body : "(nothing)");
    assert_int_equal(r.status, status);
    assert_non_null(reply_header(&r, "X-Request-Id"));
    reply_free(&r);
}
