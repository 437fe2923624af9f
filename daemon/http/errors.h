// Errors of the daemon's modules as HTTP problems: one table from codes to statuses. Any thread.
#pragma once

#include "api/api.h"
#include "engine/core/err.h"

struct dr_problems; // engine/config/config.h

// Fills the problem from a code and its sentence, with err->field as the field error where it is
// set, and a time to retry where waiting helps. Returns -1.
int dd_http_fail(struct api_problem *p, int rc, const struct dr_err *err);
// The same with every problem of a list as a field error, where it has any.
int dd_http_fail_listed(struct api_problem *p, int rc, const struct dr_err *err,
                        const struct dr_problems *list);
// The same with a slug of the caller's in place of the table's.
int dd_http_fail_as(struct api_problem *p, int rc, const struct dr_err *err, const char *type);
