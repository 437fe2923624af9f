// Inception-v3 (Szegedy et al. 2016) as the Frechet Inception distance uses it: the network of
// pytorch-fid's weights, whose average pools do not count padding and whose last block takes
// maxima. Variant `torchvision` is torchvision's own inception_v3 instead. Forward only: it judges,
// nothing is trained through it. docs/networks.md lists keys and parameters.
//
// Images are [3,size,size], already resized and scaled to about [-1,1] (eval/fid_input.h). Outputs:
//   logits           [b,classes]; not there without classes, and the network is an encoder then
//   pooled           [b,2048], the globally averaged last map ("pool3")
//   logits_unbiased  [b,classes], without the bias of the last layer: what the Inception score of
//                    the original code, and of torch-fidelity, rests on
//
// Parameters are convolutions with the BatchNorm behind them folded in, NAME.conv.weight and
// NAME.conv.bias, and fc.*. Files hold the BatchNorms (sample/foreign.h folds them).
#pragma once

#include "engine/nn/net.h"

enum { DR_INCEPTION_SIZE = 299, DR_INCEPTION_CLASSES = 1008 };
#define DR_INCEPTION_EPS 1e-3 // of its BatchNorms

enum dr_inception_variant { DR_INCEPTION_FID, DR_INCEPTION_TORCHVISION };

struct dr_inception_config {
    int64_t size;    // of the images, 75 to 1024
    int64_t classes; // 0: no logits
    int64_t narrow;  // layers have this many times fewer channels; 1, 2, 4, 8 or 16
    int variant;     // enum dr_inception_variant
};
// size 299, 1008 classes, narrow 1, variant fid.
struct dr_inception_config dr_inception_defaults(void);
// ECONFIG, with the key as its field, for what no network accepts. *out is NULL on failure; the
// caller frees it.
int dr_inception_create(const struct dr_inception_config *cfg, struct dr_net **out,
                        struct dr_err *err);
// NULL unless `net` is an inception.
const struct dr_inception_config *dr_inception_config(const struct dr_net *net);

// A convolution as files name it.
struct dr_inception_layer {
    char name[48];    // torchvision's: "Mixed_5b.branch1x1"
    char block[48];   // that of pytorch-fid's InceptionV3 module: "blocks.2.0.branch1x1"
    int weight, bias; // parameter numbers
};
int dr_inception_layers(const struct dr_net *net); // of an inception
const struct dr_inception_layer *dr_inception_layer(const struct dr_net *net, int i);
