// E(x) = x + R(x), an image to an image of the same shape (method.md 7, `kde`): R is a 3x3
// convolution to `width` channels, four residual blocks and a 3x3 convolution back, zero at the
// start. A block is h + silu(conv2(silu(conv1 h))), both 3x3, dilated by 1, 2, 4 and 1 block by
// block.
#pragma once

#include "engine/nn/layers.h"

enum { DR_RESIDUAL_BLOCKS = 4 };

struct dr_residual {
    struct dr_conv in, conv[DR_RESIDUAL_BLOCKS][2], out;
    int64_t channels, side, width;
};
// Activations of cx->act, [b,side,side,channels]: the image, the input of each block and the output
// of the last one, and what the two convolutions of each block put out.
struct dr_residual_saved {
    void *x, *h[DR_RESIDUAL_BLOCKS + 1], *c[DR_RESIDUAL_BLOCKS][2];
};
// Adds the parameters (residual.in.weight, residual.block1.conv1.weight, ...) to a layout.
void dr_residual_add(struct dr_params *ps, int64_t channels, int64_t side, int64_t width,
                     struct dr_residual *out);
// x, y: [b,channels,side,side]. s NULL: nothing is kept in cx->keep.
void dr_residual_forward(struct dr_ctx *cx, const struct dr_weights *w, const struct dr_residual *k,
                         int64_t b, const real *x, real *y, struct dr_residual_saved *s);
// Gradients of the weights accumulate (w->g NULL: none); dx is overwritten, NULL: not wanted. What
// s names stays as it is: the pass may be repeated with another dy.
void dr_residual_backward(struct dr_ctx *cx, const struct dr_weights *w,
                          const struct dr_residual *k, int64_t b, const struct dr_residual_saved *s,
                          const real *dy, real *dx);
