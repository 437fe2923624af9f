// What the tensors of a file made elsewhere say about it: the prefix that a wrapper put before the
// reference's names, and the model's shape. Private to engine/sample.
#pragma once

#include "engine/config/config.h"
#include "engine/io/safetensors.h"

#define DR_PREFIX_MAX 64

// The prefix of the weights to serve, "" for plain names. A set of weights is known by a tensor
// that ends in `anchor` (dr_net_anchor; NULL: that of the reference's networks). A file may hold
// several sets of weights: the plain names come first, then the one set whose prefix says `ema` or
// `shadow`, then the only set. EFORMAT, naming them, when none of these rules decides. A file
// without any such set has the prefix "", so that the error about the first missing tensor names
// it.
int dr_foreign_prefix(const struct dr_st_file *f, const char *path, const char *anchor,
                      char prefix[DR_PREFIX_MAX], struct dr_err *err);
// The model section of a plain `driftdit` of the reference, read off the shapes. What shapes do not
// tell is the reference's: 32 style tokens, and the image's size from the buffers of its rotary
// embedding. EFORMAT says which tensor is missing and to name a config instead.
int dr_foreign_model(const struct dr_st_file *f, const char *path, const char *prefix,
                     struct dr_model_config *out, struct dr_err *err);
