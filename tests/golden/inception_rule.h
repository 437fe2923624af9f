// Weights and images that follow from names, as make_golden_inception.py makes them: value i of the
// tensor NAME is a hash of both, so that vectors of large networks need no weights in the tree.
#pragma once

#include "engine/core/types.h"

// Value i of a tensor [.., fan] of this name (fan: values per output of a weight, 1: a vector).
float rule_weight(const char *name, int ndim, int64_t fan, int64_t i);
uint8_t rule_pixel(const char *name, int64_t i);

struct dr_net;
// Writes an inception's weights as a file of pytorch-fid's: convolutions and BatchNorms under
// torchvision's names, or those of pytorch-fid's module (then without fc.*). description NULL:
// none. Fails the cmocka test on any error.
struct rule_file {
    const char *prefix;
    const char *description;
    bool blocks;
    const char *leave_out; // a tensor that is not written; NULL: none
    const char *flat;      // a tensor that is written with one dimension; NULL: none
    const char *more;      // a tensor that no network has; NULL: none
    const char *empty;     // a tensor without values that no network has; NULL: none
    const char *poison;    // a tensor whose first value is `value`
    float value;
};
void rule_write(const char *path, const struct dr_net *net, const struct rule_file *how);
