// Problems inside api/ (RFC 9457); filling them is in api.h.
#pragma once

#include "api/api.h"

json_t *api_problem_json(const struct api_problem *p, const char *instance); // new reference
const char *api_status_title(int status);
// "; did you mean `x`?" for the nearest of names (NULL-terminated), or "" when none is near.
const char *api_nearest(const char *word, const char *const *names, char *buf, size_t n);
