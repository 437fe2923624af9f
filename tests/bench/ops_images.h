// The second part of ops_bench.
#pragma once

#include "engine/cpu/backend.h"

void bench_images(struct dr_backend *be);
