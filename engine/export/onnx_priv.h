// The walks over the networks. Private to engine/export.
#pragma once

#include "engine/export/graph.h"

// What enters a graph. style: "" without style tokens.
struct dr_onnx_in {
    const struct dr_net *net;
    const struct dr_model_config *m;
    struct dr_val noise, cls, alpha, style;
};
// A network's graph from its inputs to its image ([B,C,H,W], or [B,2]).
typedef struct dr_val dr_onnx_walk(struct dr_graph *g, const struct dr_onnx_in *in);
dr_onnx_walk dr_onnx_dit, dr_onnx_mlp, dr_onnx_unet;

// The conditioning vector [B,dim] (nn/cond.c). light: as lightningdit has it.
struct dr_val dr_onnx_cond(struct dr_graph *g, const struct dr_onnx_in *in, bool light);
