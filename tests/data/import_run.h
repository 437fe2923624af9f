// Imports into out.pictures of the test's folder, for tests: of `report` the last one.
#pragma once

#include "engine/data/pictures.h"
#include "tests/data/picture_make.h"

static struct dr_import_report report;

// A name below the test's folder; good until the fourth call after.
static char *at(const char *name) {
    static char buf[4][600];
    static int k;
    k = (k + 1) % 4;
    snprintf(buf[k], sizeof buf[k], "%s/%s", test_dir, name);
    return buf[k];
}

// 8x8 in colour, no test share.
static inline struct dr_import_options options(void) {
    struct dr_import_options o;
    dr_import_defaults(&o);
    o.size = 8;
    o.channels = 3;
    o.test_share = 0;
    return o;
}

static inline int import(const char *source, const struct dr_import_options *o,
                         struct dr_err *err) {
    dr_import_report_free(&report);
    *err = (struct dr_err){0};
    return dr_pictures_import(at(source), at("out.pictures"), o, NULL, NULL, &report, err);
}

static inline void import_ok(const char *source, const struct dr_import_options *o) {
    struct dr_err err;
    if (import(source, o, &err))
        fail_msg("%s: %s", source, err.msg);
}

static inline void import_fails(const char *source, const struct dr_import_options *o, int code,
                                const char *says) {
    struct dr_err err;
    unlink(at("out.pictures"));
    assert_int_equal(import(source, o, &err), code);
    if (!strstr(err.msg, says))
        fail_msg("got '%s', expected '%s'", err.msg, says);
    assert_int_not_equal(access(at("out.pictures"), F_OK), 0); // nothing is left
}

static inline void expect_skip(const char *name, const char *reason) {
    for (int64_t i = 0; i < report.nskip; i++)
        if (!strcmp(report.skip[i].name, name)) {
            if (!strstr(report.skip[i].reason, reason))
                fail_msg("%s: '%s', expected '%s'", name, report.skip[i].reason, reason);
            return;
        }
    fail_msg("%s was not left out", name);
}
