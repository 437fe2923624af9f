// Configurations of kind `encoder` as networks. See encoder.h.
#include "engine/nn/encoder.h"

#include "engine/nn/resnet.h"

#include <stdio.h>
#include <string.h>

// Errors of the network name its own keys; here those are of the sections encoder and data.
static void name_key(struct dr_err *err) {
    static const char *const of_data[] = {"size", "channels", "classes"};
    char key[sizeof err->field];
    if (!err || !err->field[0])
        return;
    const char *section = "encoder";
    for (size_t i = 0; i < DR_COUNT(of_data); i++)
        if (!strcmp(err->field, of_data[i]))
            section = "data";
    snprintf(key, sizeof key, "%s.%.60s", section, err->field);
    memcpy(err->field, key, sizeof key);
}

int dr_encoder_net(const struct dr_config *cfg, struct dr_net **out, struct dr_err *err) {
    static const int head[] = {[DR_ENCODER_CLASSIFY] = DR_RESNET_CLASSIFIER,
                               [DR_ENCODER_AUTOENCODE] = DR_RESNET_DECODER,
                               [DR_ENCODER_BOTH] = DR_RESNET_BOTH};
    const struct dr_encoder_config *e = &cfg->encoder;
    struct dr_resnet_config c = dr_resnet_defaults();
    c.size = cfg->data.size;
    c.channels = cfg->data.channels;
    c.classes = e->objective == DR_ENCODER_AUTOENCODE ? 0 : cfg->data.classes;
    c.width = e->width;
    c.stages = e->stages;
    for (int i = 0; i < DR_RESNET_STAGES; i++)
        c.blocks[i] = i < e->stages ? (int64_t)e->blocks[i] : 0;
    c.groups = e->groups;
    c.stride = e->stride;
    c.head = head[e->objective];
    int rc = dr_resnet_create(&c, out, err);
    if (rc)
        name_key(err);
    return rc;
}
