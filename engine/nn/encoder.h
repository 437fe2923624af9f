// The network that a configuration of kind `encoder` trains: its encoder section as a resnet with
// the heads its objective needs.
#pragma once

#include "engine/nn/net.h"

// ECONFIG, with the key as its field, for what no network accepts. *out is NULL on failure; the
// caller frees it.
int dr_encoder_net(const struct dr_config *cfg, struct dr_net **out, struct dr_err *err);
