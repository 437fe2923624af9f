// Files made elsewhere: finds the prefix that a wrapper put before the names, and reads the model
// from the tensors' shapes. The engine's own.
#pragma once

#include "engine/config/config.h"
#include "engine/io/safetensors.h"
#include "engine/nn/inception.h"
#include "engine/nn/params.h"
#include "engine/nn/resnet.h"

#define DR_PREFIX_MAX 64

// The prefix of the weights to serve, "" for plain names. A set of weights is known by a tensor
// that ends in `anchor` (dr_net_anchor; NULL: that of the reference's networks). A file may hold
// several sets of weights: the one set whose prefix says `ema` or `shadow` comes first, then the
// plain names, then the only set; what driftd's trainer writes beside the plain names, which hold
// its average, does not count. EFORMAT, naming them, when none of these rules decides. A file
// without any such set has the prefix "", so that the error about the first missing tensor names
// it.
int dr_foreign_prefix(const struct dr_st_file *f, const char *path, const char *anchor,
                      char prefix[DR_PREFIX_MAX], struct dr_err *err);
// The model section of a plain `driftdit` of the reference, from the shapes. What they leave open
// is as in the reference: 32 style tokens, and the image's size from the buffers of its rotary
// embedding, which may lie under another prefix than the weights. EFORMAT, at the field "config",
// names the tensor that is missing and asks for a config.
int dr_foreign_model(const struct dr_st_file *f, const char *path, const char *prefix,
                     struct dr_model_config *out, struct dr_err *err);
// Whether the file has a ResNet under torchvision's names, behind any prefix.
bool dr_foreign_is_resnet(const struct dr_st_file *f);
// The prefix of that ResNet's weights and its network, from the shapes: with `fc.weight` the
// classifier, else the bare encoder, for images of 32x32 until it is resized (dr_net_resized). A
// 7x7 stem is torchvision's for ImageNet: stride 2, max pool, pixels resized to 64x64 and, of three
// channels, normalised. EFORMAT, at the field "config", for bottleneck blocks. *net is the
// caller's.
int dr_foreign_resnet(const struct dr_st_file *f, const char *path, char prefix[DR_PREFIX_MAX],
                      struct dr_net **net, struct dr_err *err);
// Whether the file has an Inception-v3 under torchvision's names, which are those of pytorch-fid's
// weights, or under the names of pytorch-fid's InceptionV3 module, behind any prefix.
bool dr_foreign_is_inception(const struct dr_st_file *f);
// Its network, from the shapes: classes of `fc.weight`, none without it; `narrow` from the first
// convolution; with an auxiliary
// classifier or 1000 classes torchvision's variant, else that of FID. *net is the caller's.
int dr_foreign_inception(const struct dr_st_file *f, const char *path, struct dr_net **net,
                         struct dr_err *err);
// Its weights for that network, BatchNorms folded: *w is malloc'd, NULL on failure. The auxiliary
// classifier is left out. EFORMAT, ENOENT and ENONFINITE name the tensor; everything is checked
// before anything is allocated.
int dr_foreign_inception_weights(const struct dr_st_file *f, const char *path,
                                 const struct dr_net *net, real **w, struct dr_err *err);
// Copies the values of a parameter, found under its name behind the prefix, to w + p->offset; w
// NULL: only checks that the tensor is there and fits. ENONFINITE for a value that is not finite.
int dr_param_read(const struct dr_st_file *f, const char *path, const char *prefix,
                  const struct dr_param *p, real *w, struct dr_err *err);
// Whether a usable file may hold this tensor besides the weights: buffers of PyTorch's, what
// trainers write beside the EMA, and parameters without a value, as those of no registers. name:
// t's, without the prefix.
bool dr_foreign_harmless(const struct dr_st_tensor *t, const char *name);
