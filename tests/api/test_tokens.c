// Bearer tokens: what a wrong one gets, lists of scopes, rates, and reloading.
#include "api/tokens.h"
#include "expect.h"

#include <unistd.h>

static void with_token(struct api_config *c) {
    c->token = "s3cret-token";
}

static void test_token(void **state) {
    (void)state;
    struct fake t;
    char err[200];
    fake_start(&t, with_token);
    struct reply r = http_do(&t, "GET", "/v1/status", NULL, NULL);
    assert_non_null(strstr(reply_header(&r, "WWW-Authenticate"), "Bearer"));
    expect_problem(r, 401, "unauthorized");
    expect_problem(http_do(&t, "GET", "/v1/status", "Authorization: Bearer s3cret-tokem\r\n", NULL),
                   401, "unauthorized");
    expect_problem(http_do(&t, "GET", "/v1/status", "Authorization: Bearer \r\n", NULL), 401,
                   "unauthorized");
    expect_problem(http_do(&t, "GET", "/metrics", "Authorization: Basic s3cret-token\r\n", NULL),
                   401, "unauthorized");
    expect(http_do(&t, "GET", "/v1/status", "Authorization: Bearer s3cret-token\r\n", NULL), 200);
    expect(http_do(&t, "GET", "/v1/status", "Authorization: Bearer s3cret-token \t\r\n", NULL),
           200);
    expect(http_do(&t, "GET", "/livez", NULL, NULL), 200);
    expect(http_do(&t, "GET", "/readyz", NULL, NULL), 200);
    assert_int_equal(api_server_reload(t.srv, "other-token", NULL, NULL, err, sizeof err), 0);
    expect_problem(http_do(&t, "GET", "/v1/status", "Authorization: Bearer s3cret-token\r\n", NULL),
                   401, "unauthorized");
    expect(http_do(&t, "GET", "/v1/status", "Authorization: Bearer other-token\r\n", NULL), 200);
    assert_int_equal(api_server_reload(t.srv, "", NULL, NULL, err, sizeof err), -1);
    fake_stop(&t);
}

// A list without a scope would make a token that may do nothing; a long one counts whole.
static void test_scopes(void **state) {
    (void)state;
    char err[200];
    assert_int_equal(api_tokens_check("token-123 read\ntoken-456 ,", err, sizeof err), -1);
    assert_string_equal(err, "line 2: names no scope; expected generate, read or admin");
    assert_int_equal(api_tokens_check("token-123 ,, 5/min", err, sizeof err), -1);
    static const char many[] = "read,read,read,read,read,read,read,read,read,read,read,read,read,"
                               "read,read,read,read,read,read,";
    char line[200];
    snprintf(line, sizeof line, "token-123 %sadmni", many); // the last word, beyond 95 bytes
    assert_int_equal(api_tokens_check(line, err, sizeof err), -1);
    assert_non_null(strstr(err, "`admni`"));
    snprintf(line, sizeof line, "token-123 %sadmin", many);
    assert_int_equal(api_tokens_check(line, err, sizeof err), 0);
}

static void test_equal(void **state) {
    (void)state;
    assert_true(api_token_equal("a", "a"));
    assert_false(api_token_equal("", "a"));
    assert_false(api_token_equal("aa", "a"));
    assert_false(api_token_equal("a", "aa"));
}

static void slow_token(struct api_config *c) {
    c->token = "s3cret-token read 1/min";
}

// Whoever comes again after Retry-After is not refused again: whole seconds, never fewer than are
// left.
static void test_rate_of_token(void **state) {
    (void)state;
    struct fake t;
    double left = 59.9;
    fake_start(&t, slow_token);
    static const char auth[] = "Authorization: Bearer s3cret-token\r\n";
    expect(http_do(&t, "GET", "/v1/jobs", auth, NULL), 200);
    while (left - (int)left >= 0.5) { // until less than half of a second is left besides
        struct reply r = http_do(&t, "GET", "/v1/jobs", auth, NULL);
        const int after = atoi(reply_header(&r, "Retry-After"));
        json_t *o = expect_problem(r, 429, "rate-limited");
        left = json_number_value(json_object_get(o, "retry_after"));
        assert_true(left > 0 && left <= 60);
        assert_true(after >= left && after < left + 1);
        usleep(20000);
    }
    fake_stop(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_token), cmocka_unit_test(test_scopes),
                                       cmocka_unit_test(test_equal),
                                       cmocka_unit_test(test_rate_of_token)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
