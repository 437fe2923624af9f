// Configurations of kind `encoder` as networks. See encoder.h.
#include "engine/nn/encoder.h"

#include "engine/nn/resnet.h"

#include <stdio.h>
#include <stdlib.h>
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

// ---- outputs

static int fail_map(const struct dr_net *net, const char *word, struct dr_err *err) {
    char all[400] = "";
    for (int i = 0; i < dr_net_outputs(net); i++) {
        const size_t at = strlen(all);
        snprintf(all + at, sizeof all - at, "%s%s", i ? ", " : "", dr_net_output_name(net, i));
    }
    return dr_fail_at(err, DR_ECONFIG, "features.maps",
                      "features.maps: the encoder %s has no map \"%.40s\"; expected all, numbers "
                      "from 1 to %d, or some of %s",
                      dr_net_name(net), word, dr_net_outputs(net), all);
}

// The output that a word names: its name, its number from 1, or from the end below 0.
static int output_of(const struct dr_net *net, const char *word) {
    char *end;
    const long n = strtol(word, &end, 10), all = dr_net_outputs(net);
    if (*word && !*end)
        return n >= 1 && n <= all ? (int)n - 1 : n < 0 && -n <= all ? (int)(all + n) : -1;
    return dr_net_output_find(net, word);
}

int dr_net_choose(const struct dr_net *net, const char *list, bool chosen[DR_NET_OUTPUTS],
                  struct dr_err *err) {
    char words[128], *rest = words, *word;
    const bool all = !strcmp(list, "all") || !*list;
    int n = 0;
    snprintf(words, sizeof words, "%s", list);
    for (int i = 0; i < DR_NET_OUTPUTS; i++)
        chosen[i] = all && i < dr_net_outputs(net);
    while (!all && (word = strsep(&rest, ", ")))
        if (*word) {
            const int k = output_of(net, word);
            if (k < 0)
                return fail_map(net, word, err);
            chosen[k] = true;
            n++;
        }
    return all || n ? 0 : fail_map(net, list, err);
}
