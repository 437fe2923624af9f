// What a request passes before its handler: target, framing, Host, origin (and the token:
// tokens.h). Each returns 0, or -1 with the problem filled.
#pragma once

#include "api/req.h"

// target.c: fills path, query and host from the raw URI.
int api_parse_target(struct api_req *r, struct api_problem *p);

// security.c
int api_check_framing(struct api_req *r, const char *version, struct api_problem *p);
int api_check_host(struct api_req *r, const char *version, struct api_problem *p);
int api_check_origin(struct api_req *r, struct api_problem *p);
