// A request's life, driven by MHD. cls: struct api_listener_ctx.
#pragma once

#include "api/req.h"

void *api_req_begin(void *cls, const char *uri, struct MHD_Connection *c);
enum MHD_Result api_req_handle(void *cls, struct MHD_Connection *c, const char *url,
                               const char *method, const char *version, const char *upload_data,
                               size_t *upload_size, void **req_cls);
void api_req_end(void *cls, struct MHD_Connection *c, void **req_cls,
                 enum MHD_RequestTerminationCode code);
