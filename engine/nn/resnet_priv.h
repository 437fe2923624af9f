// The parts of a resnet, shared by resnet.c, resnet_config.c, resnet_block.c and resnet_decoder.c.
#pragma once

#include "engine/nn/layers.h"
#include "engine/nn/resnet.h"

// Sides of square maps, channels as in the convolutions.
struct dr_basic {
    struct dr_conv conv1, conv2, down; // down.w -1: the shortcut is the input itself
    struct dr_cnorm norm1, norm2, norm_down;
    int64_t in, out; // sides
    int map;         // output number in a bare encoder, -1: none
    bool last;       // of its stage
};
struct dr_basic_saved {
    void *x, *h1, *a1, *h2, *hd, *s,
        *y; // act; a1 NULL unless cx->keep_all; hd, s NULL without down
    struct dr_cnorm_saved n1, n2, nd;
};

// One stage of the decoder: resize to the skip's side, concatenate, norm, twice conv-norm-ReLU.
struct dr_up {
    struct dr_cnorm norm, norm1, norm2;
    struct dr_conv conv1, conv2;
    int64_t from, to; // sides
    int64_t c, skip;  // channels below and of the skip
};
struct dr_up_saved {
    void *cat, *h1, *h2, *y; // act
    struct dr_cnorm_saved n, n1, n2;
};

struct dr_resnet {
    struct dr_net net;
    struct dr_resnet_config cfg;
    struct dr_conv stem, head; // head: of the decoder, 1x1, w -1: none
    struct dr_cnorm stem_norm;
    struct dr_bnorms bnorms;
    struct dr_linear fc;         // w -1: no classifier
    int64_t side, after, pooled; // sides: into the stem, out of it, after the pool
    int nblocks;
    struct dr_basic block[DR_RESNET_BLOCKS];
    struct dr_up up[DR_RESNET_STAGES]; // up[i] gives the side of stage i
};
struct dr_resnet_saved {
    void *image, *h, *a, *y; // act: into the stem, after its conv, norm and pool (y is a without)
    uint8_t *taken;
    const real *fold;
    void *mean; // act: pooled features
    void *last; // act: into the head of the decoder
    struct dr_cnorm_saved n;
    struct dr_basic_saved block[DR_RESNET_BLOCKS];
    struct dr_up_saved up[DR_RESNET_STAGES];
};

extern const struct dr_net_type dr_net_resnet;

// resnet_config.c
int dr_resnet_parse(struct dr_net *net, const char *json, size_t len, const char *where,
                    struct dr_err *err);
char *dr_resnet_describe(const struct dr_net *net);
int dr_resnet_check(const struct dr_resnet_config *c, struct dr_err *err);

// resnet_block.c. x: [b,in,in,ci], y: [b,out,out,co], act; y is kept by the caller.
void dr_basic_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                      const struct dr_basic *k, const real *fold, int64_t b, void *x, void *y,
                      struct dr_basic_saved *s);
// dy is overwritten; dx as x.
void dr_basic_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_basic *k,
                       const real *fold, int64_t b, const struct dr_basic_saved *s, void *dy,
                       void *dx);

// resnet_decoder.c
void dr_up_add(struct dr_params *ps, struct dr_up *k, int64_t groups, int stage);
// x: [b,from,from,c], skip: [b,to,to,skip]; y: [b,to,to,skip].
void dr_up_forward(struct dr_ctx *cx, struct dr_arena *ar, const struct dr_weights *w,
                   const struct dr_up *k, int64_t b, const void *x, const void *skip, void *y,
                   struct dr_up_saved *s);
// dx and dskip as x and skip, overwritten.
void dr_up_backward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_up *k, int64_t b,
                    const struct dr_up_saved *s, const void *dy, void *dx, void *dskip);
