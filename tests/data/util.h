// Small helpers of the data and file tests: a private folder, files in it, cmocka with its
// includes.
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char test_dir[200];

// Group set-up and tear-down: a fresh folder under $TMPDIR, gone afterwards.
static inline int dir_setup(void **state) {
    (void)state;
    const char *t = getenv("TMPDIR");
    snprintf(test_dir, sizeof test_dir, "%s/driftd-test-XXXXXX", t && *t ? t : "/tmp");
    return mkdtemp(test_dir) ? 0 : -1;
}

static inline void dir_clear(void) {
    DIR *d = opendir(test_dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') {
            char p[512];
            snprintf(p, sizeof p, "%s/%s", test_dir, e->d_name);
            unlink(p);
        }
    if (d)
        closedir(d);
}

static inline int dir_teardown(void **state) {
    (void)state;
    dir_clear();
    return rmdir(test_dir);
}

static inline int dir_entries(void) {
    int n = 0;
    DIR *d = opendir(test_dir);
    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

// Path of `name` in the folder; two buffers in turn.
static inline const char *in_dir(const char *name) {
    static char buf[2][512];
    static int k;
    k ^= 1;
    snprintf(buf[k], sizeof buf[k], "%s/%s", test_dir, name);
    return buf[k];
}

static inline void put_file(const char *path, const void *p, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline uint8_t *get_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    uint8_t *p = malloc(*n + 1);
    assert_non_null(p);
    assert_int_equal(fread(p, 1, *n, f), *n);
    fclose(f);
    return p;
}
