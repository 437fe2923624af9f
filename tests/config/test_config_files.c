// Configurations from files: what is read, and what is not a text that could be.
#include "engine/config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/driftd-config-XXXXXX";

// Writes `text` to a file of the folder and loads it.
static int load(const char *text, size_t n, struct dr_config *c, struct dr_err *err) {
    char path[64];
    snprintf(path, sizeof path, "%s/a b\xc3\xa4.json", folder);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    *err = (struct dr_err){0};
    int rc = dr_config_load(path, c, err);
    unlink(path);
    return rc;
}

static void files(void **state) {
    (void)state;
    struct dr_config c;
    struct dr_err err;
    assert_int_equal(dr_config_load("no-such-file.json", &c, &err), DR_ENOENT);
    assert_non_null(strstr(err.msg, "no-such-file.json"));
    assert_int_equal(dr_config_load("/", &c, &err), DR_EIO);
    assert_int_equal(dr_config_load("/dev/zero", &c, &err), DR_EIO);
    assert_non_null(strstr(err.msg, "not a regular file"));
    assert_non_null(mkdtemp(folder));
    char path[64];
    snprintf(path, sizeof path, "%s/fifo.json", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(20); // opening it must not wait for a writer
    assert_int_equal(dr_config_load(path, &c, &err), DR_EIO);
    alarm(0);
    assert_non_null(strstr(err.msg, "not a regular file"));
    unlink(path);
    const char bom[] = "\xef\xbb\xbf{\"model.dim\": 64}", wide[] = "\xff\xfe{\0}\0";
    assert_int_equal(load(bom, sizeof bom - 1, &c, &err), 0);
    assert_int_equal(c.model.dim, 64);
    assert_int_equal(load(bom, 3, &c, &err), DR_ECONFIG); // the mark alone
    assert_int_equal(load(wide, sizeof wide - 1, &c, &err), DR_ECONFIG);
    assert_non_null(strstr(err.msg, "UTF-16"));
    char *large = malloc((1 << 20) + 1);
    memset(large, ' ', (1 << 20) + 1);
    assert_int_equal(load(large, (1 << 20) + 1, &c, &err), DR_ECONFIG);
    assert_non_null(strstr(err.msg, "larger than"));
    memcpy(large + (1 << 20) - 2, "{}", 2);
    assert_int_equal(load(large, 1 << 20, &c, &err), 0);
    free(large);
    assert_int_equal(rmdir(folder), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
