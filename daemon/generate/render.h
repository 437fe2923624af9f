// Turns finished samples into PNG, npy, JSON or zip. Any thread.
#pragma once

#include "daemon/generate/request.h"
#include "engine/sample/sampler.h"

// x: [n, image_count] of the request's images in order.
struct dd_rendered {
    const struct dd_gen_request *req;
    const int32_t *label; // [n], random ones drawn
    struct dr_snapshot *snap;
    const real *x;
    const char *note; // for the client, "" if nothing; goes into the parameters
};
// Values that the answer to a request for images of this network encodes.
int64_t dd_render_values(const struct dd_gen_request *r, const struct dr_net *net);
// Fills bytes, size, content_type, checkpoint and step. 0 or DR_E*; ECANCELED: nobody waits.
int dd_render(const struct dd_rendered *in, struct dd_gen_result *out, struct dr_err *err);
