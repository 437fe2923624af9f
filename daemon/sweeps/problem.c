// What is wrong with a sweep's file, collected (sweeps.h).
#include "daemon/sweeps/sweeps.h"

#include <stdarg.h>
#include <stdio.h>

void dd_sweep_problem(json_t *problems, const char *field, const char *fmt, ...) {
    char text[400];
    struct dr_err e = {0}; // cuts texts between characters
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    dr_fail_at(&e, DR_ECONFIG, field, "%.240s", text);
    json_t *p = json_pack("{s:s, s:s}", "field", e.field, "message", e.msg), *have;
    size_t i;
    if (!p)
        p = json_pack("{s:s, s:s}", "field", "", "message", "a name that is no UTF-8 text");
    bool known = json_array_size(problems) == DD_SWEEP_MAX_PROBLEMS;
    json_array_foreach(problems, i, have) known |= json_equal(have, p);
    if (!known)
        json_array_append(problems, p);
    json_decref(p);
}
