// Turning finished samples into PNG, npy, JSON or zip, and telling the client. Any thread.
#pragma once

#include "api/api.h"
#include "engine/sample/sampler.h"

// x: [n, image_count] of the request's images in order. On failure `problem` is filled and -1
// returned.
struct dd_rendered {
    const struct api_gen_request *req;
    const int32_t *label; // [n], random ones drawn
    struct dr_snapshot *snap;
    const real *x;
};
int dd_render(const struct dd_rendered *in, struct api_gen_result *out,
              struct api_problem *problem);
