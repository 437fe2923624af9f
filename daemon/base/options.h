// Options of the daemon: flag over environment over JSON file over default; options.def lists them.
// Parsed once on the main thread; read-only afterwards.
#pragma once

#include "engine/core/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define DD_LIST_MAX 16

struct dd_list {
    char *v[DD_LIST_MAX];
    int n;
};
struct dd_options {
#define OPT_STR(name, member, def, doc) char *member;
#define OPT_INT(name, member, def, min, max, doc) int64_t member;
#define OPT_BOOL(name, member, doc) bool member;
#define OPT_LIST(name, member, doc) struct dd_list member;
#include "daemon/base/options.def"
    char *config_file; // --config FILE
    char *args[8];     // what is not an option
    int nargs;
};

// argv without the program's name and verb. Every error names the option, where it came from and
// what was expected. extra: the verb's own flags, NULL-terminated, "name" with a value or
// "name!" without; they are passed to extra_fn and hide an option of the same name.
typedef int dd_extra_fn(void *ctx, const char *flag, const char *value, struct dr_err *err);
int dd_options_parse(int argc, char **argv, const char *const *extra, dd_extra_fn *extra_fn,
                     void *ctx, struct dd_options *out, struct dr_err *err);
void dd_options_free(struct dd_options *o);
void dd_options_help(FILE *f);
