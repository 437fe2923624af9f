// A feature kind in one file, of the shape that encoders have: frozen weights, two maps per image,
// activations kept for the backward pass, several features per map. Runs on the CPU only, where the
// host may read the weights.
//
//   map 0   a x per pixel, [C,H,W]             as a whole vector, and its rms
//   map 1   silu(b x) of channel 0, [1,H,W]    its quadrants, patch means and patch stds
#pragma once

#include "engine/loss/features.h"

enum { TINY_FEATURES = 5 };
extern const struct dr_feature_kind tiny_encoder;
extern int tiny_encoder_alive; // objects of saved_new
