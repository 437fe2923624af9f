// Options: precedence flag over environment over file, and errors that name the option.
#include "tests/daemon/helper.h"

#include "daemon/base/util.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static int parse(struct dd_options *o, struct dr_err *err, const char *a, const char *b) {
    char *argv[] = {(char *)a, (char *)b};
    *err = (struct dr_err){0};
    return dd_options_parse(a ? b ? 2 : 1 : 0, argv, NULL, NULL, NULL, o, err);
}

static void test_precedence(void **state) {
    (void)state;
    struct dd_options o;
    struct dr_err err;
    char dir[256], file[300], flag[320];
    test_mkdir(dir);
    snprintf(file, sizeof file, "%s/d.json", dir);
    static const char text[] = "\xef\xbb\xbf{\"max_batch\": 3, \"threads\": 4," // an editor's mark
                               " \"listen\": [\"a:1\", \"b:2\"], \"insecure\": true}";
    assert_int_equal(dd_write_file(file, text, strlen(text), &err), 0);
    snprintf(flag, sizeof flag, "--config=%s", file);
    assert_int_equal(parse(&o, &err, flag, NULL), 0);
    assert_int_equal(o.max_batch, 3);
    assert_int_equal(o.listen.n, 2);
    assert_true(o.insecure);
    dd_options_free(&o);
    setenv("DRIFTD_MAX_BATCH", "5", 1);
    setenv("DRIFTD_LISTEN", "c:3", 1);
    assert_int_equal(parse(&o, &err, flag, NULL), 0);
    assert_int_equal(o.max_batch, 5);
    assert_int_equal(o.threads, 4);
    assert_int_equal(o.listen.n, 1);
    assert_string_equal(o.listen.v[0], "c:3");
    dd_options_free(&o);
    assert_int_equal(parse(&o, &err, "--max-batch=7", flag), 0);
    assert_int_equal(o.max_batch, 7);
    dd_options_free(&o);
    unsetenv("DRIFTD_MAX_BATCH");
    unsetenv("DRIFTD_LISTEN");
    test_rmdir(dir);
}

static void refuse(const char *a, const char *b, const char *word1, const char *word2) {
    struct dd_options o;
    struct dr_err err;
    assert_int_equal(parse(&o, &err, a, b), DR_EINVAL);
    if (!strstr(err.msg, word1) || !strstr(err.msg, word2))
        fail_msg("\"%s\" names neither %s nor %s", err.msg, word1, word2);
}

static void test_errors(void **state) {
    (void)state;
    refuse("--max-bacth", "3", "max-bacth", "max-batch");
    refuse("--max-batch", "many", "max-batch", "many");
    refuse("--max-batch=0", NULL, "max-batch", "1 to 4096");
    refuse("--threads", NULL, "threads", "value");
    refuse("--log-level=loud", NULL, "log-level", "debug");
    refuse("--log-format=xml", NULL, "log-format", "text or json");
    refuse("--resume=maybe", NULL, "resume", "ask");
    refuse("--tls-cert=x.pem", NULL, "tls-key", "tls-cert");
    setenv("DRIFTD_THREADS", "-3", 1);
    refuse("--max-batch=1", NULL, "DRIFTD_THREADS", "threads");
    unsetenv("DRIFTD_THREADS");
}

// Every numeric option takes a whole number within its range and nothing else, from every source.
static void number(const char *name, int64_t min, int64_t max) {
    static const char *const wrong[] = {
        "5x",  "abc", "", " 5", "5 ", "+5", "0x10", "1e3", "1.5", "--5", "99999999999999999999",
        "5,5", "-"};
    char flag[100], variable[100], text[40];
    struct dd_options o;
    struct dr_err err;
    snprintf(variable, sizeof variable, "DRIFTD_%s", name);
    for (char *p = variable; *p; p++)
        *p = *p == '-' ? '_' : (char)toupper(*p);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        snprintf(flag, sizeof flag, "--%s=%s", name, wrong[i]);
        refuse(flag, NULL, name, "whole number");
        snprintf(flag, sizeof flag, "--%s", name);
        refuse(flag, wrong[i], name, "whole number");
        setenv(variable, wrong[i], 1);
        if (*wrong[i]) // an empty variable counts as unset
            refuse(NULL, NULL, variable, "whole number");
        unsetenv(variable);
    }
    for (int k = 0; k < 4; k++) {
        const bool out = k > 1;
        snprintf(text, sizeof text, "%lld", (long long)(k % 2 ? max + out : min - out));
        snprintf(flag, sizeof flag, "--%s=%s", name, text);
        if (out)
            refuse(flag, NULL, name, "whole number");
        else
            assert_int_equal(parse(&o, &err, flag, NULL), 0);
        if (!out)
            dd_options_free(&o);
    }
}

static void test_numbers(void **state) {
    (void)state;
#define OPT_STR(name, member, def, doc)
#define OPT_INT(name, member, def, min, max, doc) number(name, min, max);
#define OPT_BOOL(name, member, doc)
#define OPT_LIST(name, member, doc)
#include "daemon/base/options.def"
}

// One name for the folder of data, which everything that reads data knows.
static void test_data_folder(void **state) {
    (void)state;
    struct dd_options o;
    struct dr_err err;
    setenv("DRIFTD_DATA", "/one", 1);
    assert_int_equal(parse(&o, &err, "--max-batch=7", NULL), 0);
    assert_string_equal(o.data_dir, "/one");
    dd_options_free(&o);
    assert_int_equal(parse(&o, &err, "--data-dir=/two", NULL), 0);
    assert_string_equal(o.data_dir, "/two");
    dd_options_free(&o);
    setenv("DRIFTD_DATA_DIR", "/three", 1); // of earlier releases
    assert_int_equal(parse(&o, &err, "--max-batch=7", NULL), 0);
    assert_string_equal(o.data_dir, "/three");
    dd_options_free(&o);
    unsetenv("DRIFTD_DATA");
    unsetenv("DRIFTD_DATA_DIR");
}

static void test_help(void **state) {
    (void)state;
    static const char *const want[] = {
        "--state-dir DIR ",     "--token-file FILE ",      "--tls-cert FILE ",
        "--resume auto|ask ",   "--log-format text|json ", "--log-level LEVEL ",
        "--import-root DIR ",   "--listen ADDRESS ",       "--threads N ",
        "--precision fp32|bf16"};
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    dd_options_help(f);
    fclose(f);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        if (!strstr(text, want[i]))
            fail_msg("no %s", want[i]);
    assert_null(strstr(text, "WORD"));
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_data_folder),
                                       cmocka_unit_test(test_help), cmocka_unit_test(test_numbers),
                                       cmocka_unit_test(test_precedence),
                                       cmocka_unit_test(test_errors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
