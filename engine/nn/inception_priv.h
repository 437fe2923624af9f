// The parts of an inception, shared by inception.c and inception_config.c.
#pragma once

#include "engine/nn/inception.h"
#include "engine/nn/layers.h"

enum { DR_INCEPTION_LAYERS = 94, DR_INCEPTION_STEPS = 11, DR_INCEPTION_BLOCKS = 18 };

enum dr_inception_op { DR_INC_CONV, DR_INC_MAX, DR_INC_MEAN };

// One step of a block, on the block's input or on what another step gave.
struct dr_inception_step {
    enum dr_inception_op op;
    int from;  // number of a step, -1: the block's input
    int layer; // of a convolution
    int64_t c; // channels that come out
    int64_t kh, kw, stride, padh, padw;
    int64_t h;  // side that comes out
    int64_t at; // first channel in the block's output, -1: not a part of it
};
struct dr_inception_block {
    int64_t ci, co, in, out; // channels and sides
    int steps;
    struct dr_inception_step step[DR_INCEPTION_STEPS];
};

struct dr_inception {
    struct dr_net net;
    struct dr_inception_config cfg;
    struct dr_inception_layer layer[DR_INCEPTION_LAYERS];
    int layers, blocks;
    int stem; // blocks before the maps are small
    struct dr_inception_block block[DR_INCEPTION_BLOCKS];
    struct dr_linear fc; // w -1: no classes
};

extern const struct dr_net_type dr_net_inception;

// inception_config.c
int dr_inception_parse(struct dr_net *net, const char *json, size_t len, const char *where,
                       struct dr_err *err);
char *dr_inception_describe(const struct dr_net *net);
int dr_inception_check(const struct dr_inception_config *c, struct dr_err *err);
