// The table of all networks, from engine/nn/nets.def. A test that brings a network of its own
// compiles this file again with DR_NETS naming its own list.
#include "engine/nn/type.h"

#include <string.h>

#ifndef DR_NETS
#define DR_NETS "engine/nn/nets.def"
#endif

#define GENERATOR(ID, word, needs) extern const struct dr_net_type dr_net_##word;
#define NETWORK(word) extern const struct dr_net_type dr_net_##word;
#include DR_NETS
#undef GENERATOR
#undef NETWORK

#define GENERATOR(ID, word, needs) &dr_net_##word,
#define NETWORK(word) &dr_net_##word,
static const struct dr_net_type *const types[] = {
#include DR_NETS
};
#undef NETWORK
#define NETWORK(word)
static const struct dr_net_type *const generators[] = {
#include DR_NETS
};

const struct dr_net_type *dr_net_type_named(const char *word) {
    for (size_t i = 0; i < DR_COUNT(types); i++)
        if (!strcmp(types[i]->name, word))
            return types[i];
    return NULL;
}

const struct dr_net_type *dr_net_type_of_arch(int arch) {
    return arch >= 0 && arch < (int)DR_COUNT(generators) ? generators[arch] : NULL;
}

const char *dr_net_anchor_in(const struct dr_params *ps) {
    for (size_t i = 0; i < DR_COUNT(types); i++)
        if (dr_params_find(ps, types[i]->anchor) >= 0)
            return types[i]->anchor;
    return NULL;
}
