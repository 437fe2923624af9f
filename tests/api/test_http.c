// The HTTP surface against a fake daemon: status codes, problems, every route of the table. What
// comes before the routes is in test_gate.c.
#include "api/routes.h"
#include "expect.h"

FAKE_SERVER(NULL)

static const char *field(json_t *o, size_t i, const char *key) {
    return json_string_value(json_object_get(json_array_get(json_object_get(o, "errors"), i), key));
}

// The route's path, with something in the place of what is in braces.
static void target_of(const struct api_route *r, char *target, size_t size) {
    const char *at = strstr(r->path, "{id}");
    if (at)
        snprintf(target, size, "%.*sj1%s", (int)(at - r->path), r->path, at + 4);
    else
        snprintf(target, size, "%s", r->path);
    char *name = strstr(target, "{name}");
    if (name)
        snprintf(name, 2, "a");
}

static void test_every_route(void **state) {
    (void)state;
    for (size_t i = 0; i < api_nroutes; i++) {
        const struct api_route *r = &api_routes[i];
        char target[200];
        const char *at = strstr(r->path, "{id}");
        target_of(r, target, sizeof target);
        if (!strcmp(r->produces, "text/event-stream"))
            continue; // test_sse.c
        const char *body = NULL, *type = NULL;
        if (r->body != API_BODY_NONE) {
            type = r->body == API_BODY_BYTES ? "Content-Type: application/octet-stream\r\n"
                                             : "Content-Type: application/json\r\n";
            body = !strcmp(target, "/v1/jobs")          ? "{\"config\":\"digits\"}"
                   : !strcmp(target, "/v1/checkpoints") ? "{\"path\":\"a\"}"
                   : !strcmp(target, "/v1/datasets")    ? "{\"name\":\"a\"}"
                   : strstr(target, "/images/")         ? "{\"prompt\":\"3\"}"
                   : !strcmp(target, "/v1/served")      ? "{\"checkpoint\":\"auto\"}"
                   : strstr(target, "generations")      ? "{\"prompt\":\"random\"}"
                                                        : "{}";
        }
        struct reply got = http_do(&f, r->method, target, type, body);
        int want = r->status;
        if (!strcmp(r->method, "DELETE") && at)
            want = 409;
        if (strstr(r->path, "/evals") || strstr(r->path, "/backups") ||
            strstr(r->path, "/sweeps")) // which the fake has not
            want = 501;
        if (got.status != want)
            print_error("%s %s: %d %s\n", r->method, target, got.status, got.body);
        expect(got, want);
    }
}

// Behind the header of the answer to HEAD comes the next answer, or the end.
static void test_head(void **state) {
    (void)state;
    size_t asked = 0;
    for (size_t i = 0; i < api_nroutes; i++) {
        const struct api_route *route = &api_routes[i];
        char target[200], raw[600];
        target_of(route, target, sizeof target);
        if (strcmp(route->method, "GET"))
            continue;
        const int n = snprintf(raw, sizeof raw,
                               "HEAD %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"
                               "GET /livez HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                               "Connection: close\r\n\r\n",
                               target, f.port, f.port);
        char got[4000] = "";
        const int fd = http_connect(&f);
        assert_int_equal(write(fd, raw, (size_t)n), n);
        assert_false(read_until(fd, got, sizeof got, "the end", 60000));
        close(fd);
        const char *rest = strstr(got, "\r\n\r\n");
        assert_non_null(rest);
        if (rest[4] && strncmp(rest + 4, "HTTP/1.1 200", 12))
            print_error("HEAD %s: %s\n", target, got);
        assert_true(!rest[4] || !strncmp(rest + 4, "HTTP/1.1 200", 12));
        const int status = atoi(got + 9);
        assert_true(status == (route->flags & API_NO_HEAD ? 405 : 200) || status == 501);
        asked++;
    }
    assert_true(asked > 20);
    struct reply r = http_do(&f, "HEAD", "/v1/jobs/j1/metrics?format=csv", NULL, NULL);
    assert_string_equal(reply_header(&r, "Content-Type"), "text/csv; charset=utf-8");
    assert_null(reply_header(&r, "Content-Length"));
    assert_int_equal(r.body_len, 0);
    expect(r, 200);
}

static void test_openapi_matches_routes(void **state) {
    (void)state;
    struct reply r = http_do(&f, "GET", "/openapi.json", NULL, NULL);
    json_t *doc = json_loadb(r.body, r.body_len, 0, NULL), *item, *op;
    const char *path, *method;
    size_t listed = 0;
    assert_non_null(doc);
    for (size_t i = 0; i < api_nroutes; i++) {
        char lower[8] = "";
        for (size_t k = 0; api_routes[i].method[k]; k++)
            lower[k] = (char)(api_routes[i].method[k] | 0x20);
        item = json_object_get(json_object_get(doc, "paths"), api_routes[i].path);
        assert_non_null(json_object_get(item, lower));
    }
    json_object_foreach(json_object_get(doc, "paths"), path, item)
        json_object_foreach(item, method, op) listed++;
    assert_int_equal(listed, api_nroutes);
    assert_string_equal(json_string_value(json_object_get(doc, "openapi")), "3.1.0");
    json_decref(doc);
    reply_free(&r);
}

static void test_methods(void **state) {
    (void)state;
    struct reply r = http_do(&f, "DELETE", "/v1/jobs", NULL, NULL);
    assert_string_equal(reply_header(&r, "Allow"), "GET, HEAD, POST, OPTIONS");
    expect_problem(r, 405, "method-not-allowed");
    r = http_do(&f, "FROB", "/v1/jobs", NULL, NULL);
    expect_problem(r, 405, "method-not-allowed");
    r = http_do(&f, "OPTIONS", "/v1/jobs/j1", "Origin: http://evil.example\r\n", NULL);
    assert_string_equal(reply_header(&r, "Allow"), "GET, HEAD, PATCH, DELETE, OPTIONS");
    assert_null(reply_header(&r, "Access-Control-Allow-Origin"));
    expect(r, 204);
    r = http_do(&f, "OPTIONS", "*", NULL, NULL);
    expect(r, 204);
    r = http_do(&f, "HEAD", "/v1/jobs", NULL, NULL);
    assert_int_equal(r.body_len, 0);
    expect(r, 200);
    r = http_do(&f, "HEAD", "/v1/generate", NULL, NULL);
    assert_non_null(strstr(reply_header(&r, "Allow"), "GET, POST"));
    expect(r, 405);
    expect_problem(http_do(&f, "GET", "/v2/nothing", NULL, NULL), 404, "not-found");
    expect_problem(http_do(&f, "GET", "/v1/jobs/no", NULL, NULL), 404, "not-found");
    expect_problem(http_do(&f, "GET", "/v1/jobs/..", NULL, NULL), 404, "not-found");
    expect(http_do(&f, "DELETE", "/v1/jobs/j2", NULL, NULL), 204);
}

static void test_query(void **state) {
    (void)state;
    json_t *o = expect_problem(http_do(&f, "POST", "/generate?clas=3", NULL, NULL), 400,
                               "unknown-parameter");
    assert_string_equal(field(o, 0, "field"), "clas");
    assert_non_null(strstr(field(o, 0, "message"), "`class`"));
    // Quoted up to 40 bytes, here within a character: what is whole stays.
    o = expect_problem(
        http_do(&f, "GET", "/generate?format=%C3%BC2345678901234567890123456789012345678%C3%9Fe",
                NULL, NULL),
        422, "invalid-value");
    assert_non_null(strstr(field(o, 0, "message"), "`\u00fc2345678"));
    assert_non_null(strstr(field(o, 0, "message"), "\ufffd` is not one of"));
    o = expect_problem(http_do(&f, "GET", "/v1/status?x=1", NULL, NULL), 400, "unknown-parameter");
    assert_non_null(strstr(field(o, 0, "message"), "takes none"));
    expect_problem(http_do(&f, "GET", "/v1/jobs?limit=1&limit=2", NULL, NULL), 400, "bad-query");
    expect_problem(http_do(&f, "GET", "/v1/jobs?state=%00", NULL, NULL), 400, "bad-query");
    expect_problem(http_do(&f, "GET", "/v1/jobs?state=%zz", NULL, NULL), 400, "bad-query");
    expect_problem(http_do(&f, "GET", "/v1/jobs?state=%ff", NULL, NULL), 400, "bad-query");
    expect_problem(http_do(&f, "GET", "/v1/jobs/%00", NULL, NULL), 400, "bad-uri");
    expect_problem(http_do(&f, "GET", "/v1/../etc/passwd", NULL, NULL), 400, "bad-uri");
    expect_problem(http_do(&f, "GET", "/v1/%2e%2e/etc/passwd", NULL, NULL), 400, "bad-uri");
    // an encoded slash is none
    expect_problem(http_do(&f, "GET", "/v1%2Fjobs", NULL, NULL), 400, "bad-uri");
    expect_problem(http_do(&f, "GET", "/v1/jobs%2fj1", NULL, NULL), 400, "bad-uri");
    expect(http_do(&f, "GET", "/v1/jobs?cursor=a%2Fb", NULL, NULL), 200);
    expect_problem(http_do(&f, "GET", "http://evil.example/v1/jobs", NULL, NULL), 403,
                   "foreign-host");
    o = expect_problem(http_do(&f, "GET", "/v1/jobs?limit=0", NULL, NULL), 422, "invalid-value");
    assert_string_equal(field(o, 0, "field"), "limit");
    expect(http_do(&f, "GET", "/v1/jobs?limit=7&state=running", NULL, NULL), 200);
    assert_int_equal(f.last_limit, 7);
}

static void test_list_link(void **state) {
    (void)state;
    char target[400], state_of[301] = "";
    memset(state_of, 'x', 300); // a filter of any length stays in the link
    snprintf(target, sizeof target, "/v1/jobs?state=%s", state_of);
    struct reply long_one = http_do(&f, "GET", target, NULL, NULL);
    assert_non_null(strstr(reply_header(&long_one, "Link"), state_of));
    expect(long_one, 200);
    struct reply r = http_do(&f, "GET", "/v1/jobs?limit=7", NULL, NULL);
    assert_string_equal(reply_header(&r, "Link"), "</v1/jobs?cursor=a%20b&limit=7>; rel=\"next\"");
    assert_non_null(strstr(r.body, "\"next_cursor\":\"a b\""));
    expect(r, 200);
    r = http_do(&f, "GET", "/v1/jobs?cursor=a%20b", NULL, NULL);
    assert_null(reply_header(&r, "Link"));
    expect(r, 200);
}

static void test_job_create(void **state) {
    (void)state;
    struct reply r = http_do(&f, "POST", "/v1/jobs", JSON_TYPE "Idempotency-Key: k1\r\n",
                             "{\"config\":\"digits\",\"overrides\":{\"optim.lr\":0.1}}");
    assert_string_equal(reply_header(&r, "Location"), "/v1/jobs/j1");
    expect(r, 201);
    assert_string_equal(f.last_key, "k1");
    r = http_do(&f, "POST", "/v1/jobs", JSON_TYPE "Idempotency-Key: k1\r\n",
                "{ \"overrides\":{\"optim.lr\":0.1}, \"config\":\"digits\"}");
    assert_string_equal(reply_header(&r, "Idempotency-Replayed"), "true");
    expect(r, 201);
    expect_problem(http_do(&f, "POST", "/v1/jobs", JSON_TYPE "Idempotency-Key: k1\r\n",
                           "{\"config\":\"digits\"}"),
                   422, "idempotency");
    expect_problem(http_do(&f, "POST", "/v1/jobs", JSON_TYPE "Idempotency-Key: a b\r\n",
                           "{\"config\":\"digits\"}"),
                   400, "bad-idempotency-key");
    json_t *o = expect_problem(http_do(&f, "POST", "/v1/jobs", JSON_TYPE, "{\"confg\":1}"), 422,
                               "invalid-value");
    assert_non_null(strstr(field(o, 0, "message"), "`config`"));
    o = expect_problem(
        http_do(&f, "POST", "/v1/jobs", JSON_TYPE, "{\"priority\":1.5,\"overrides\":[]}"), 422,
        "invalid-value");
    assert_int_equal(json_array_size(json_object_get(o, "errors")), 3);
    expect_problem(http_do(&f, "POST", "/v1/jobs", JSON_TYPE, "{\"config\":"), 400,
                   "malformed-json");
    expect_problem(http_do(&f, "POST", "/v1/jobs", JSON_TYPE, "{\"config\":1,\"config\":2}"), 400,
                   "malformed-json");
    expect_problem(http_do(&f, "POST", "/v1/jobs", JSON_TYPE, "[]"), 422, "invalid-value");
    expect_problem(http_do(&f, "POST", "/v1/jobs", "Content-Type: text/plain\r\n", "{}"), 415,
                   "unsupported-media-type");
    expect_problem(http_do(&f, "POST", "/v1/jobs", JSON_TYPE, NULL), 411, "length-required");
    expect_problem(http_do(&f, "GET", "/v1/jobs", "Accept: text/html\r\n", NULL), 406,
                   "not-acceptable");
    expect(http_do(&f, "GET", "/v1/jobs", "Accept: text/html, application/*;q=0.5\r\n", NULL), 200);
}

static void test_job_actions(void **state) {
    (void)state;
    expect(http_do(&f, "POST", "/v1/jobs/j1/stop?mode=now", NULL, NULL), 202);
    assert_int_equal(f.last_action, API_JOB_STOP_NOW);
    expect(http_do(&f, "POST", "/v1/jobs/j1/stop", NULL, ""), 202);
    assert_int_equal(f.last_action, API_JOB_STOP);
    expect(http_do(&f, "POST", "/v1/jobs/j1/checkpoint", NULL, NULL), 202);
    assert_int_equal(f.last_action, API_JOB_CHECKPOINT);
    expect_problem(http_do(&f, "POST", "/v1/jobs/j1/stop?mode=fast", NULL, NULL), 422,
                   "invalid-value");
    expect_problem(http_do(&f, "POST", "/v1/jobs/j1/stop", NULL, "x"), 400, "unexpected-body");
    expect(http_do(&f, "PATCH", "/v1/jobs/j1", JSON_TYPE, "{\"name\":\"n\"}"), 200);
    expect_problem(http_do(&f, "DELETE", "/v1/jobs/j1", NULL, NULL), 409, "running");
}

static void test_files(void **state) {
    (void)state;
    struct reply r = http_do(&f, "GET", "/v1/checkpoints/c1/file", NULL, NULL);
    assert_int_equal(r.body_len, 1000);
    assert_string_equal(reply_header(&r, "ETag"), "\"abc\"");
    assert_string_equal(reply_header(&r, "Content-Disposition"),
                        "attachment; filename=\"c1.safetensors\"");
    expect(r, 200);
    r = http_do(&f, "GET", "/v1/checkpoints/c1/file", "Range: bytes=10-14\r\n", NULL);
    assert_string_equal(r.body, "01234");
    assert_string_equal(reply_header(&r, "Content-Range"), "bytes 10-14/1000");
    expect(r, 206);
    r = http_do(&f, "GET", "/v1/checkpoints/c1/file", "Range: bytes=-3\r\n", NULL);
    assert_string_equal(r.body, "789");
    expect(r, 206);
    r = http_do(&f, "GET", "/v1/checkpoints/c1/file", "Range: bytes=995-\r\nIf-Range: \"abc\"\r\n",
                NULL);
    assert_string_equal(r.body, "56789");
    expect(r, 206);
    expect(http_do(&f, "GET", "/v1/checkpoints/c1/file",
                   "Range: bytes=995-\r\nIf-Range: \"old\"\r\n", NULL),
           200);
    r = http_do(&f, "GET", "/v1/checkpoints/c1/file", "Range: bytes=1000-\r\n", NULL);
    assert_string_equal(reply_header(&r, "Content-Range"), "bytes */1000");
    expect(r, 416);
    r = http_do(&f, "HEAD", "/v1/checkpoints/c1/file", NULL, NULL);
    assert_string_equal(reply_header(&r, "Content-Length"), "1000");
    assert_int_equal(r.body_len, 0);
    expect(r, 200);
    expect_problem(http_do(&f, "GET", "/v1/checkpoints/gone/file", NULL, NULL), 410, "gone");

    r = http_do(&f, "GET", "/v1/checkpoints/c1/file?format=onnx", NULL, NULL);
    assert_string_equal(reply_header(&r, "Content-Disposition"),
                        "attachment; filename=\"c1.onnx\"");
    expect(r, 200);
    r = http_do(&f, "GET", "/v1/checkpoints/c1/file?weights=raw", NULL, NULL);
    assert_string_equal(reply_header(&r, "Content-Disposition"),
                        "attachment; filename=\"c1-raw.safetensors\"");
    expect(r, 200);
    expect(http_do(&f, "GET", "/v1/checkpoints/c1/file?format=pytorch", "Range: bytes=10-14\r\n",
                   NULL),
           206);
    expect_problem(http_do(&f, "GET", "/v1/checkpoints/c1/file?format=onyx", NULL, NULL), 422,
                   "invalid-value");
    expect_problem(http_do(&f, "GET", "/v1/checkpoints/c1/file?weights=both", NULL, NULL), 422,
                   "invalid-value");
    r = http_do(&f, "GET", "/v1/samples/s1.png", NULL, NULL);
    assert_non_null(strstr(reply_header(&r, "Cache-Control"), "immutable"));
    assert_string_equal(reply_header(&r, "Content-Type"), "image/png");
    expect(r, 200);
    expect(http_do(&f, "GET", "/v1/samples/s1.png", "If-None-Match: \"abc\"\r\n", NULL), 304);
}

// What is no range asks for the whole file.
static void test_malformed_ranges(void **state) {
    (void)state;
    static const char *const malformed[] = {"5-2", "7x", "7-8x", "99999999999-5", "1-2,4-5"};
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        char range[60];
        snprintf(range, sizeof range, "Range: bytes=%s\r\n", malformed[i]);
        struct reply r = http_do(&f, "GET", "/v1/checkpoints/c1/file", range, NULL);
        assert_int_equal(r.body_len, 1000);
        assert_memory_equal(r.body, "0123456789", 10);
        assert_null(reply_header(&r, "Content-Range"));
        expect(r, 200);
    }
}

static void test_datasets(void **state) {
    static const char octets[] = "Content-Type: application/octet-stream\r\n";
    (void)state;
    struct reply r = http_do(&f, "PUT", "/v1/datasets/cats/upload", octets, "0123456789");
    assert_non_null(strstr(r.body, "\"received\":10"));
    expect(r, 200);
    expect_problem(http_do(&f, "PUT", "/v1/datasets/cats/upload?offset=5", octets, "x"), 409,
                   "wrong-offset");
    expect_problem(http_do(&f, "PUT", "/v1/datasets/cats/upload?offset=-1", octets, "x"), 422,
                   "invalid-value");
    expect_problem(
        http_do(&f, "PUT", "/v1/datasets/cats/upload", "Content-Type: application/json\r\n", "{}"),
        415, "unsupported-media-type");
    expect_problem(http_do(&f, "PUT", "/v1/datasets/cats", octets, "x"), 405, "method-not-allowed");
    r = http_do(&f, "POST", "/v1/datasets/cats/import?bytes=10", NULL, NULL);
    assert_non_null(strstr(r.body, "\"bytes\":10"));
    expect(r, 202);
    r = http_do(&f, "GET", "/v1/datasets/cats/samples?class=a%20b&n=3", NULL, NULL);
    assert_string_equal(r.body, "cats a b 3");
    expect(r, 200);
    expect_problem(http_do(&f, "GET", "/v1/datasets/cats/samples?n=0", NULL, NULL), 422,
                   "invalid-value");
    expect_problem(http_do(&f, "GET", "/v1/datasets/cats/recipe?minutes=x", NULL, NULL), 422,
                   "invalid-value");
}

static void test_metrics(void **state) {
    (void)state;
    struct reply r = http_do(&f, "GET", "/v1/jobs/j1/metrics", NULL, NULL);
    json_t *o = json_loadb(r.body, r.body_len, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(o, "series")), 2);
    json_t *rows = json_object_get(json_array_get(json_object_get(o, "series"), 0), "rows");
    assert_int_equal(json_array_size(rows), 2);
    assert_true(json_is_null(json_array_get(json_array_get(rows, 1), 7))); // NaN
    json_decref(o);
    expect(r, 200);
    r = http_do(&f, "GET", "/v1/jobs/j1/metrics?format=csv&names=loss,grad_norm", NULL, NULL);
    size_t lines = 0;
    for (size_t i = 0; i < r.body_len; i++)
        lines += r.body[i] == '\n';
    assert_int_equal(lines, 20001);
    assert_memory_equal(r.body, "name,step,time,value\ngrad_norm,0,1000.000,0.25\n", 47);
    expect(r, 200);
    r = http_do(&f, "GET", "/v1/jobs/j1/metrics?format=ndjson&max_points=5", NULL, NULL);
    assert_non_null(strstr(r.body, "\"mean\":1.5"));
    expect(r, 200);
    r = http_do(&f, "GET", "/v1/jobs/j1/metrics?from=9&to=3", NULL, NULL);
    expect_problem(r, 422, "invalid-value");
    expect_problem(http_do(&f, "GET", "/v1/jobs/j9/metrics", NULL, NULL), 404, "not-found");
}

static void test_wide(void **state) {
    (void)state;
    struct reply r = http_do(&f, "GET", "/v1/metrics.csv?jobs=j1,j2", NULL, NULL);
    assert_string_equal(reply_header(&r, "Content-Type"), "text/csv; charset=utf-8");
    assert_string_equal(r.body, "job,run,step,time,loss,lr\n"
                                "j1,\"first\",1,1000.000,0,0.0001\n"
                                "j1,\"first\",2,1001.000,0.25,0.0001\n"
                                "j2,\"a, \"\"b\"\"\",1,1002.000,0.5,\n"
                                "j2,\"a, \"\"b\"\"\",2,1003.000,nan,\n");
    expect(r, 200);
    expect(http_do(&f, "GET", "/v1/metrics.csv", NULL, NULL), 200);
    expect_problem(http_do(&f, "GET", "/v1/metrics.csv?jobs=9", NULL, NULL), 404, "not-found");
    expect_problem(http_do(&f, "GET", "/v1/metrics.csv?from=9&to=3", NULL, NULL), 422,
                   "invalid-value");
    expect_problem(http_do(&f, "GET", "/v1/metrics.csv?job=1", NULL, NULL), 400,
                   "unknown-parameter");
    r = http_do(&f, "GET", "/v1/jobs/j1/alerts", NULL, NULL);
    assert_non_null(strstr(r.body, "collapse"));
    expect(r, 200);
    expect_problem(http_do(&f, "GET", "/v1/jobs/j9/alerts", NULL, NULL), 404, "not-found");
}

static void test_page_and_text(void **state) {
    (void)state;
    struct reply r = http_do(&f, "GET", "/", NULL, NULL);
    assert_non_null(strstr(reply_header(&r, "Content-Security-Policy"), "default-src 'self'"));
    assert_non_null(strstr(r.body, "driftd"));
    expect(r, 200);
    expect(http_do(&f, "GET", "/index.js", NULL, NULL), 200);
    expect_problem(http_do(&f, "POST", "/", NULL, NULL), 405, "method-not-allowed");
    r = http_do(&f, "GET", "/metrics", NULL, NULL);
    assert_non_null(strstr(r.body, "driftd_train_steps_total 5\n"));
    assert_non_null(strstr(r.body, "driftd_sse_clients 0\n"));
    expect(r, 200);
    r = http_do(&f, "GET", "/v1/status", "X-Request-Id: my-own-id\r\n", NULL);
    assert_string_equal(reply_header(&r, "X-Request-Id"), "my-own-id");
    assert_non_null(strstr(r.body, "\"sse_clients\""));
    expect(r, 200);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_route),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_openapi_matches_routes),
        cmocka_unit_test(test_methods),
        cmocka_unit_test(test_query),
        cmocka_unit_test(test_list_link),
        cmocka_unit_test(test_job_create),
        cmocka_unit_test(test_job_actions),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_malformed_ranges),
        cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_wide),
        cmocka_unit_test(test_datasets),
        cmocka_unit_test(test_page_and_text),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
