// Encoder files for tests: a residual network with random weights, written as a checkpoint.
#pragma once

#include "engine/core/err.h"

// head: "none", "classifier"; width of the first stage; the same seed gives the same weights.
void frozen_write(const char *path, int size, int channels, int width, const char *head, int seed);
