// torchvision's ResNets (foreign.h): the state dict of `resnet18`, `resnet34` or any other ResNet
// of basic blocks, saved as safetensors. Its shapes tell everything but the size of the images.
#include "engine/sample/foreign.h"

#include <stdio.h>
#include <string.h>

static const char anchor[] = "layer1.0.bn1.running_mean";

bool dr_foreign_is_resnet(const struct dr_st_file *f) {
    const size_t tail = sizeof anchor - 1;
    for (int i = 0; i < dr_st_count(f); i++) {
        const char *name = dr_st_at(f, i)->name;
        const size_t len = strlen(name);
        if (len >= tail && !strcmp(name + len - tail, anchor))
            return true;
    }
    return false;
}

static const struct dr_st_tensor *find(const struct dr_st_file *f, const char *prefix,
                                       const char *name) {
    char full[DR_PREFIX_MAX + 64];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const struct dr_st_tensor *t = dr_st_find(f, full);
    for (int i = 0; t && i < t->ndim; i++)
        if (t->dim[i] < 1)
            return NULL;
    return t;
}

static int64_t count_blocks(const struct dr_st_file *f, const char *prefix, int stage) {
    char name[64];
    for (int64_t i = 0; i <= DR_RESNET_BLOCKS; i++) {
        snprintf(name, sizeof name, "layer%d.%lld.conv1.weight", stage + 1, (long long)i);
        if (!find(f, prefix, name))
            return i;
    }
    return DR_RESNET_BLOCKS + 1; // the network's own check has the message
}

int dr_foreign_resnet(const struct dr_st_file *f, const char *path, char prefix[DR_PREFIX_MAX],
                      struct dr_net **net, struct dr_err *err) {
    int rc = dr_foreign_prefix(f, path, anchor, prefix, err);
    if (rc)
        return rc;
    const struct dr_st_tensor *stem = find(f, prefix, "conv1.weight"),
                              *fc = find(f, prefix, "fc.weight");
    if (!stem || stem->ndim != 4)
        return dr_fail_at(err, DR_EFORMAT, "config",
                          "%s: a ResNet of torchvision without \"%sconv1.weight\" of 4 dimensions",
                          path, prefix);
    if (find(f, prefix, "layer1.0.conv3.weight"))
        return dr_fail_at(
            err, DR_EFORMAT, "config",
            "%s: a ResNet of bottleneck blocks (\"%slayer1.0.conv3.weight\"); expected "
            "basic blocks, as in resnet18 and resnet34",
            path, prefix);
    struct dr_resnet_config c = dr_resnet_defaults();
    c.norm = DR_RESNET_BATCH;
    c.width = stem->dim[0];
    c.channels = stem->dim[1];
    c.kernel = stem->dim[2];
    if (c.kernel == 7) { // the stem for ImageNet's pictures; small pictures are enlarged for it
        c.stride = 2;
        c.pool = true;
        c.resize = 64;
        c.imagenet = c.channels == 3;
    }
    for (c.stages = 0; c.stages < DR_RESNET_STAGES; c.stages++)
        if (!(c.blocks[c.stages] = count_blocks(f, prefix, c.stages)))
            break;
    if (fc && fc->ndim == 2) {
        c.classes = fc->dim[0];
        c.head = DR_RESNET_CLASSIFIER;
    }
    rc = dr_resnet_create(&c, net, err);
    return rc ? dr_fail_prefix(err, rc, path) : 0;
}
