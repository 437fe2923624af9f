// The route table, and the OpenAPI document made from it.
#pragma once

#include "api/req.h"

extern const struct api_route api_routes[];
extern const size_t api_nroutes;

// Matches method and path. NULL: not found, with *allow (size allow_size) empty when no route has
// this path, or the list of its methods for 405. Fills seg.
const struct api_route *api_route_find(const char *method, const char *path,
                                       char seg[2][API_ID_MAX], char *allow, size_t allow_size);

extern const char api_schemas[];                           // JSON text, made by schemas.py
char *api_openapi_text(struct api_server *s, size_t *len); // malloc'ed
