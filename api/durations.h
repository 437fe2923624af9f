// How long requests take, by route: the histograms of /metrics. Lock-free; any thread.
#pragma once

#include "api/req.h"

struct api_durations;

// For the routes [n], which outlive it. NULL: out of memory.
struct api_durations *api_durations_new(const struct api_route *routes, size_t n);
void api_durations_free(struct api_durations *d); // NULL is fine
// Counts a request that ends now. Those of the page, of no route, and event streams, which end when
// their client leaves, are not counted.
void api_durations_add(const struct api_req *r);
// Prometheus text of the routes that have been asked.
void api_durations_print(const struct api_durations *d, struct api_text *out);
