// Typed query parameters and JSON bodies. Each returns 0, or -1 with a field error added to p.
#pragma once

#include "api/req.h"

int api_q_int(struct api_req *r, const char *key, int64_t min, int64_t max, int64_t *out,
              struct api_problem *p);
// from, to and max_points of a curve; points: as many where it does not say. -1: p holds what is
// wrong.
int api_q_steps(struct api_req *r, int64_t *from, int64_t *to, int64_t points, int *max_points,
                struct api_problem *p);
int api_q_num(struct api_req *r, const char *key, double min, double max, double *out,
              struct api_problem *p);
// *out: index in the list "a|b|c"; unchanged when the key is absent.
int api_q_enum(struct api_req *r, const char *key, const char *list, int *out,
               struct api_problem *p);
int api_q_known(struct api_req *r, struct api_problem *p); // no unknown keys, by the route
int api_parse_num(const char *text, double *out);
int api_parse_int(const char *text, int64_t *out);
int api_parse_page(struct api_req *r, struct api_page *out, struct api_problem *p);
// The request's body as an object; a key that is not in `keys` (NULL-terminated) is a field error.
// NULL: it is no object. New reference.
json_t *api_body_object(struct api_req *r, const char *const *keys, struct api_problem *p);
// The same with any keys.
json_t *api_body_any_object(struct api_req *r, struct api_problem *p);
// The header Idempotency-Key, NULL without one.
const char *api_idempotency_key(struct api_req *r, struct api_problem *p);
// A string member of at most max bytes; NULL when absent or null.
int api_body_str(const json_t *o, const char *key, size_t max, const char **out,
                 struct api_problem *p);
