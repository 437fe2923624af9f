// Residual convolutional encoders (method.md 7): `mae`, `classifier` and torchvision's ResNets with
// basic blocks are one network with different settings. Its parameters carry torchvision's names,
// so one set of weights can be seen in several ways: the bare encoder, the classifier, the masked
// autoencoder, and both heads at once (paper A.3). docs/networks.md lists keys and parameters.
//
//   stem    [resize] [normalise] conv KxK - norm - ReLU [max pool 3x3 stride 2]
//   stages  width C, 2C, 4C, 8C; the first block of stages 2 to 4 has stride 2
//   block   relu(norm2(conv2(relu(norm1(conv1 x)))) + shortcut(x))
//
// Outputs by head (dr_net_output_name):
//   none        encoder: a map [b,h,w,c] after every second block ("stage2.block2") and at the end
//               of each stage ("stage2"), in the order of the network
//   classifier  judge: "logits" [b,classes], "pooled" [b,c], the globally averaged last map
//   decoder     encoder: "reconstruction" [b,h,w,c], of the image it was given
//   both        judge: "logits", "pooled", "reconstruction"
#pragma once

#include "engine/nn/net.h"

enum { DR_RESNET_STAGES = 4, DR_RESNET_BLOCKS = 64, DR_RESNET_CHANNELS = 64 };
enum dr_resnet_norm { DR_RESNET_GROUP, DR_RESNET_BATCH };
enum dr_resnet_head {
    DR_RESNET_NONE,
    DR_RESNET_CLASSIFIER,
    DR_RESNET_DECODER,
    DR_RESNET_BOTH // classifier and decoder
};

struct dr_resnet_config {
    int64_t size, channels; // images [channels,size,size] in [-1,1]
    int64_t classes;        // of the classifier; 0 without one
    int64_t width;          // channels of the first stage
    int64_t blocks[DR_RESNET_STAGES];
    int stages;
    int64_t groups; // of a GroupNorm, at most; fewer where a group would have under two channels
    int64_t every;  // a map after every so many blocks of a stage, and at its end
    int64_t kernel, stride; // of the stem
    bool pool;              // max pool 3x3, stride 2, after the stem
    int64_t resize;         // images are resized to this side first (bilinear); 0: not
    bool imagenet;          // then normalised by the mean and std of ImageNet's pixels
    // Or by these, of pixels in [0,1]; how many there are: `channels` of both, or none.
    double mean[DR_RESNET_CHANNELS], std[DR_RESNET_CHANNELS];
    int nmean, nstd;
    int norm; // enum dr_resnet_norm; `batch` applies stored statistics (inference)
    int head; // enum dr_resnet_head
};
// size 32, 3 channels, width 64, blocks [2,2,2,2], 32 groups, every 2, stem 3x3 stride 1, no head.
struct dr_resnet_config dr_resnet_defaults(void);
// ECONFIG, with the key as its field ("blocks"), for what no network accepts. *out is NULL on
// failure; the caller frees it.
int dr_resnet_create(const struct dr_resnet_config *cfg, struct dr_net **out, struct dr_err *err);
// NULL unless `net` is a resnet.
const struct dr_resnet_config *dr_resnet_config(const struct dr_net *net);
