// Noise of images that is not what their seed gives alone: scaled, on the way to another seed's, or
// the client's own (request.h). Pure functions, any thread.
#pragma once

#include "daemon/generate/request.h"
#include "engine/core/types.h"

// False: the sampler draws the noise itself, from seed and index.
bool dd_noise_special(const struct dd_gen_request *r);
// The noise of image i, [count]. A walk goes along the great circle between the two (slerp), which
// keeps the length that the model knows; at 0 and 1 it is that of the seeds, bit for bit.
void dd_noise_draw(const struct dd_gen_request *r, int i, size_t count, real *out);
